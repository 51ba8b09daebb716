// `modelet run`: runs a model on inputs from a file or folder and shows or saves what comes out.

import { writeFile } from "node:fs/promises";
import type { ValueInfo } from "../core.js";
import { Tensor } from "../tensor.js";
import type { RunValue, Values } from "../value.js";
import type { Command } from "./arguments.js";
import { readFeeds } from "./cases.js";
import { writeNpz } from "./npz.js";
import { nodeRunner } from "./runner.js";
import { formatMs, note, print, printTable, progress, UsageError } from "./terminal.js";

export const run: Command = {
  name: "run",
  usage: "run MODEL --inputs FILE.npz|DIR [--outputs FILE.npz] [--device cpu|webgpu|auto] [--threads N]",
  summary: "Run a model once.",
  options: {
    inputs: { value: "PATH", help: "an .npz file with an array per input, or a folder of .pb or .npy files" },
    outputs: { value: "FILE.npz", help: "write the outputs to this file" },
    device: { value: "DEVICE", help: "cpu, webgpu or auto (default: auto)" },
    threads: { value: "N", help: "threads of the CPU (default: half the logical cores)" },
    json: { help: "print one JSON line per output, with its data" },
  },
  async run([model, ...rest], options) {
    const path = options.text("inputs");
    if (model === undefined || rest.length > 0) throw new UsageError("run takes one model");
    if (path === undefined) throw new UsageError("run needs --inputs FILE.npz or --inputs DIR");
    progress(`loading ${model}`);
    const opened = await nodeRunner().open(model, { device: options.device("auto"), ...options.threads() });
    const feeds = await readFeeds(path, opened.inputs);
    progress("running");
    const start = performance.now();
    const outputs = await opened.run(feeds);
    const ms = performance.now() - start;
    const { device, adapter, threads, wasm, warnings } = await opened.report();
    const place = device === "webgpu" ? `webgpu (${adapter ?? "unnamed adapter"})` : "the CPU";
    const why = threads.reason ? ` (${threads.reason})` : "";
    note(`ran in ${formatMs(ms)} ms on ${place}, ${wasm}, threads: ${threads.count}${why}`);
    for (const warning of warnings) note(warning);

    const file = options.text("outputs");
    if (file !== undefined) await writeFile(file, writeNpz(tensorsOf(outputs, opened.outputs)));
    if (options.on("json")) {
      for (const [name, value] of Object.entries(outputs)) {
        const type = opened.outputs.find((output) => output.name === name)?.type;
        print(
          JSON.stringify(
            value instanceof Tensor ? { name, ...plainTensor(value) } : { name, type, value: plain(value) },
          ),
        );
      }
    } else if (file === undefined || process.stdout.isTTY) {
      printTable(["output", "type", "shape", "values"], Object.entries(outputs).flatMap(rows));
    }
    await opened.release();
    return 0;
  },
};

/** The outputs as tensors, which are all that an .npz file holds. */
function tensorsOf(outputs: Values, infos: readonly ValueInfo[]): [string, Tensor][] {
  return Object.entries(outputs).map(([name, value]) => {
    if (value instanceof Tensor) return [name, value];
    const type = infos.find((info) => info.name === name)?.type ?? "no tensor";
    throw new UsageError(`an .npz file holds tensors only, and the output ${name} is of type ${type}: take --json`);
  });
}

/** A value as JSON has it. */
function plain(value: RunValue): unknown {
  if (value instanceof Tensor) return plainTensor(value);
  if (Array.isArray(value)) return value.map(plain);
  return value && Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plainItem(item)]));
}

function plainTensor(tensor: Tensor): object {
  const { type, shape, data } = tensor;
  const wide = data instanceof BigInt64Array || data instanceof BigUint64Array;
  const values = Array.isArray(data) ? data : Array.from(wide ? data : tensor.toFloat64(), plainItem);
  return { type, shape, data: values };
}

/** JSON has no words for NaN and infinities, and no exact 64-bit integers: these become texts. */
function plainItem(item: number | bigint | string): number | string {
  return typeof item === "number" && Number.isFinite(item) ? item : String(item);
}

/** The rows of a table for a value: one for each tensor or map in it. */
function rows([name, value]: readonly [string, RunValue]): string[][] {
  if (value instanceof Tensor) return [[name, value.type, `[${value.shape.join(", ")}]`, summary(value)]];
  if (value === null) return [[name, "optional", "", "(nothing)"]];
  if (Array.isArray(value)) {
    const head = [name, "sequence", "", `${value.length} element${value.length === 1 ? "" : "s"}`];
    const shown = value.slice(0, 16).flatMap((item, i) => rows([`${name}[${i}]`, item]));
    return [head, ...shown, ...(value.length > 16 ? [[`${name}[…]`, "", "", ""]] : [])];
  }
  const entries = Object.entries(value);
  const texts = entries.slice(0, 6).map(([key, item]) => `${key}: ${shortItem(item)}`);
  return [[name, "map", "", texts.join(", ") + (entries.length > 6 ? ", …" : "")]];
}

function shortItem(item: number | bigint | string): string {
  return typeof item === "string" ? JSON.stringify(item) : String(typeof item === "number" ? short(item) : item);
}

function short(value: number): number {
  return Number(value.toPrecision(5));
}

function summary(tensor: Tensor): string {
  if (tensor.size === 0) return "(empty)";
  const { data } = tensor;
  if (Array.isArray(data)) {
    const texts = data.slice(0, 4).map((text) => JSON.stringify(text));
    return texts.join(" ") + (data.length > 4 ? " …" : "");
  }
  const values = tensor.toFloat64();
  const shown = Array.from(values.subarray(0, 6), short).join(" ");
  if (values.length <= 6) return shown;
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return `${shown} … (from ${low.toPrecision(4)} to ${high.toPrecision(4)})`;
}
