// Runs real models on WebGPU in headless Chromium, compares their outputs, and lists the nodes that stayed on the CPU: of
// these, none may touch activations. Integers of 64 bits (shapes, positions, tokens) are no activations, and neither are
// texts or a handful of numbers.
//
//   node tests/models/webgpu.mjs [--cases FOLDER] [--limit SECONDS] [ID ...]
//
// FOLDER holds a folder of `model.onnx` and `test_data_set_*` for each ID; without it they are the models of prepare.mjs.
// A model may take 300 seconds, or SECONDS.

import * as fs from "node:fs";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { startCases } from "../conformance/browser.mjs";
import { readCase } from "../conformance/run.mjs";
import { prepareModels, required, unstable } from "./prepare.mjs";

/** As many numbers as a node may have on the CPU whatever they are: axes, scales, a size. */
const aHandful = 16;

/** Whether a node on the CPU keeps activations from the GPU. */
function touchesActivations([operator, reason, , shapes = ""]) {
  // Trees and the preparation of features are no network.
  if (/^(int64|string|float64) /.test(reason) || operator.startsWith("ai.onnx.ml.")) return false;
  const counts = [...shapes.matchAll(/\[([^\]]*)\]/g)].map(([, sizes]) =>
    sizes.split(",").reduce((product, size) => product * (size.trim() === "" ? 1 : Number(size)), 1),
  );
  return operator !== "Constant" && counts.some((count) => count > aHandful);
}

/** Runs the models in these folders; what is wrong, as lines. */
export async function checkModels(folders, { limit = 300 } = {}) {
  const wrong = [];
  for (const folder of folders) {
    const id = basename(folder);
    const one = readCase(dirname(folder), id, 1e-3, 1e-4);
    const pages = await startCases(dirname(folder));
    try {
      // Whose reference is unstable gives what the CPU gives.
      const asOnCpu = unstable.includes(id);
      const outcome = await pages.run({ ...one, asOnCpu, shapes: true }, { device: "webgpu" }, limit);
      const left = outcome.onCpu.filter(touchesActivations);
      const text = ([operator, reason, node, shapes]) =>
        `${operator} ${node} ${shapes ?? ""}: ${reason || "no reason"}`;
      wrong.push(
        ...outcome.failures.map((failure) => `${id}: ${failure}`),
        ...left.map((node) => `${id}: ${text(node)}`),
      );
      const yardstick = asOnCpu ? "as on the CPU" : "as the reference";
      const summary = outcome.failures.length === 0 ? yardstick : "WRONG";
      console.log(
        `${id}: ${summary}, ${outcome.onCpu.length} nodes on the CPU, ${left.length} of them touch activations, ${outcome.seconds.toFixed(1)} s`,
      );
      for (const node of outcome.onCpu) console.log(`  ${left.includes(node) ? "!" : " "} ${text(node)}`);
    } finally {
      await pages.close();
    }
  }
  return wrong;
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  const text = { type: "string" };
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { cases: text, limit: text } });
  const ids = positionals.length > 0 ? positionals : required;
  const folders = values.cases ? ids.map((id) => join(values.cases, id)) : await prepareModels(ids);
  const wrong = await checkModels(folders, values.limit && { limit: Number(values.limit) });
  for (const line of wrong) console.log(`wrong: ${line}`);
  process.exitCode = wrong.length > 0 ? 1 : 0;
}
