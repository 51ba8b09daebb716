// A process of the conformance run: takes a case, answers with its outcome.

import * as fs from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as modelet from "modelet";
import { internal } from "../ts/lib/internals.mjs";

const [device, optimization] = process.argv.slice(2);
const { compareTensors } = await internal("cli/compare.ts");

/** What went wrong with a case, and which operators ran on the GPU. */
async function run({ folder, tolerance, random }) {
  const failures = [];
  const session = await modelet.Session.load(await readFile(join(folder, "model.onnx")), { device, optimization });
  try {
    const sets = fs.readdirSync(folder).filter((name) => name.startsWith("test_data_set_"));
    if (sets.length === 0) failures.push("the case has no test data");
    for (const set of sets) {
      const feeds = await readAll(join(folder, set), "input", session.inputs);
      const expected = await readAll(join(folder, set), "output", session.outputs);
      const outputs = await session.run(feeds);
      if (Object.keys(expected).length === 0) failures.push("the case has no expected outputs");
      for (const [name, value] of Object.entries(expected)) {
        const difference = compare(name, outputs[name], value, random ? undefined : tolerance);
        if (difference !== undefined) failures.push(difference);
      }
    }
    const nodes = session.report().nodes;
    const onGpu = nodes.filter(({ device }) => device === "gpu");
    // Small models stay on the CPU, which the report gives as the reason where a node has a GPU kernel.
    const small = nodes.filter(({ reason }) => reason?.startsWith("too little work"));
    return { failures, onGpu: operatorsOf(onGpu), gpuKernels: operatorsOf([...onGpu, ...small]) };
  } finally {
    session.release();
  }
}

const operatorsOf = (nodes) => [...new Set(nodes.map(({ operator }) => operator))].sort();

/** The values of the files `<kind>_<i>.pb`: by the name in the file where the model has it, else by position. */
async function readAll(set, kind, infos) {
  const count = fs.readdirSync(set).filter((name) => new RegExp(`^${kind}_\\d+\\.pb$`).test(name)).length;
  const required = infos.filter(({ optional }) => !optional);
  const candidates = count > required.length ? infos : required;
  const values = {};
  for (let i = 0; i < count; i++) {
    const bytes = await readFile(join(set, `${kind}_${i}.pb`));
    const { name, value } = await modelet.readValue(bytes, candidates[i]?.type ?? "?");
    const known = candidates.some((info) => info.name === name);
    values[known ? name : (candidates[i]?.name ?? `#${i}`)] = value;
  }
  return values;
}

/**
 * The first difference, in words: tensors by their elements (without a tolerance by type and shape alone),
 * sequences item by item, maps key by key.
 */
function compare(name, actual, expected, tolerance) {
  if (expected === null || expected === undefined) {
    return actual === null || actual === undefined ? undefined : `${name}: a value, expected none`;
  }
  if (actual === null || actual === undefined) return `${name}: no value, expected one`;
  if (Array.isArray(expected)) {
    if (!Array.isArray(actual)) return `${name}: not a sequence, expected one`;
    if (actual.length !== expected.length) return `${name}: ${actual.length} items, expected ${expected.length}`;
    const compared = expected.map((item, i) => compare(`${name}[${i}]`, actual[i], item, tolerance));
    return compared.find((difference) => difference !== undefined);
  }
  if (typeof expected === "object" && !(expected instanceof modelet.Tensor)) {
    if (typeof actual !== "object" || actual instanceof modelet.Tensor) return `${name}: not a map, expected one`;
    const [size, wanted] = [Object.keys(actual).length, Object.keys(expected).length];
    if (size !== wanted) return `${name}: ${size} entries, expected ${wanted}`;
    const compared = Object.entries(expected).map(([key, value]) =>
      compare(`${name}[${key}]`, actual[key], value, tolerance),
    );
    return compared.find((difference) => difference !== undefined);
  }
  if (expected instanceof modelet.Tensor) {
    if (!(actual instanceof modelet.Tensor)) return `${name}: not a tensor, expected one`;
    if (!tolerance) return String(actual) === String(expected) ? undefined : `${name}: ${actual}, expected ${expected}`;
    // At least two units in the last place, as the package's own runner has it.
    const rtol = expected.type === "bfloat16" ? Math.max(tolerance.rtol, 2 ** -6) : tolerance.rtol;
    return compareTensors(name, actual, expected, { ...tolerance, rtol }).message;
  }
  if (typeof expected === "number") {
    const near = Math.abs(actual - expected) <= tolerance.atol + tolerance.rtol * Math.abs(expected);
    return Object.is(actual, expected) || near ? undefined : `${name} is ${actual}, expected ${expected}`;
  }
  return actual === expected ? undefined : `${name} is ${String(actual)}, expected ${String(expected)}`;
}

process.on("message", async (one) => {
  const began = performance.now();
  const outcome = await run(one).catch((error) => {
    const message = error instanceof modelet.ModeletError ? `${error.code}: ${error.describe()}` : String(error.stack);
    return { failures: [message], onGpu: [], gpuKernels: [] };
  });
  process.send({ ...outcome, seconds: (performance.now() - began) / 1000 });
});
process.send("ready");
