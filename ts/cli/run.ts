// `modelet run`: runs a model on inputs from a file or folder and shows or saves what comes out.

import { writeFile } from "node:fs/promises";
import type { Tensor } from "../tensor.js";
import type { Command } from "./arguments.js";
import { readFeeds } from "./cases.js";
import { writeNpz } from "./npz.js";
import { nodeRunner } from "./runner.js";
import { formatMs, note, print, printTable, progress, UsageError } from "./terminal.js";

export const run: Command = {
  name: "run",
  usage: "run MODEL --inputs FILE.npz|DIR [--outputs FILE.npz] [--device cpu|webgpu|auto]",
  summary: "Run a model once.",
  options: {
    inputs: { value: "PATH", help: "an .npz file with an array per input, or a folder of .pb or .npy files" },
    outputs: { value: "FILE.npz", help: "write the outputs to this file" },
    device: { value: "DEVICE", help: "cpu, webgpu or auto (default: auto)" },
    json: { help: "print one JSON line per output, with its data" },
  },
  async run([model, ...rest], options) {
    const path = options.text("inputs");
    if (model === undefined || rest.length > 0) throw new UsageError("run takes one model");
    if (path === undefined) throw new UsageError("run needs --inputs FILE.npz or --inputs DIR");
    progress(`loading ${model}`);
    const opened = await nodeRunner().open(model, { device: options.device("auto") });
    const feeds = await readFeeds(path, opened.inputs);
    progress("running");
    const start = performance.now();
    const outputs = await opened.run(feeds);
    const ms = performance.now() - start;
    const { device, adapter } = await opened.report();
    note(
      `ran in ${formatMs(ms)} ms on ${device === "webgpu" ? `webgpu (${adapter ?? "unnamed adapter"})` : "the CPU"}`,
    );

    const file = options.text("outputs");
    if (file !== undefined) await writeFile(file, writeNpz(Object.entries(outputs)));
    if (options.on("json")) {
      for (const [name, tensor] of Object.entries(outputs)) print(outputJson(name, tensor));
    } else if (file === undefined || process.stdout.isTTY) {
      printTable(
        ["output", "type", "shape", "values"],
        Object.entries(outputs).map(([name, tensor]) => [
          name,
          tensor.type,
          `[${tensor.shape.join(", ")}]`,
          summary(tensor),
        ]),
      );
    }
    await opened.release();
    return 0;
  },
};

function outputJson(name: string, tensor: Tensor): string {
  const { type, shape, data } = tensor;
  const wide = data instanceof BigInt64Array || data instanceof BigUint64Array;
  const values = Array.isArray(data) ? data : wide ? Array.from(data, String) : Array.from(tensor.toFloat64(), finite);
  return JSON.stringify({ name, type, shape, data: values });
}

/** JSON has no words for NaN and infinities; these become texts. */
function finite(value: number): number | string {
  return Number.isFinite(value) ? value : String(value);
}

function summary(tensor: Tensor): string {
  if (tensor.size === 0) return "(empty)";
  const { data } = tensor;
  if (Array.isArray(data)) {
    const texts = data.slice(0, 4).map((text) => JSON.stringify(text));
    return texts.join(" ") + (data.length > 4 ? " …" : "");
  }
  const values = tensor.toFloat64();
  const shown = Array.from(values.subarray(0, 6), (value) => Number(value.toPrecision(5))).join(" ");
  if (values.length <= 6) return shown;
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return `${shown} … (from ${low.toPrecision(4)} to ${high.toPrecision(4)})`;
}
