// What the benchmarks of models share: which models there are, how figures are written, and where tables go.

import * as fs from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { command } from "../scripts/lib/steps.mjs";
import { root, toolchain } from "../scripts/lib/toolchain.mjs";
import { prepareModels } from "../tests/models/prepare.mjs";

const cnns = ["resnet50", "squeezenet", "shufflenet", "densenet121", "inception_v1"];

/**
 * `{ id, path }` of the models `wanted`, or of all, fetched and made where they are missing.
 * @param {string[] | undefined} wanted their ids
 * @param {string | undefined} cases a folder of case folders to take them from instead
 */
export async function findModels(wanted, cases) {
  if (cases) {
    const folders = fs.readdirSync(cases).filter((id) => fs.existsSync(join(cases, id, "model.onnx")));
    const chosen = wanted ? folders.filter((id) => wanted.includes(id)) : folders;
    return chosen.sort().map((id) => ({ id, path: join(cases, id) }));
  }
  const { MODELET_CACHE: cache, MODELET_PYTHON: python } = toolchain();
  const catalog = JSON.parse(fs.readFileSync(join(root, "tests/models/catalog.json"), "utf8"));
  const known = catalog.models.map(({ id }) => id);
  const ids = wanted ?? [...known, ...cnns];
  const unknown = ids.filter((id) => !known.includes(id) && !cnns.includes(id));
  if (unknown.length > 0) throw new Error(`unknown models: ${unknown.join(", ")}`);
  const found = [];
  const real = ids.filter((id) => known.includes(id));
  const folders = await prepareModels(real);
  for (const [index, id] of real.entries()) found.push({ id, path: folders[index] });
  const made = ids.filter((id) => cnns.includes(id));
  const missing = made.filter((id) => !fs.existsSync(join(cache, "cnns", `${id}.onnx`)));
  if (missing.length > 0) {
    const script = join(root, "tests/models/make_cnns.py");
    await command(python, [script, join(cache, "cnns"), ...missing], { quiet: true });
  }
  for (const id of made) found.push({ id, path: join(cache, "cnns", `${id}.onnx`) });
  return found;
}

export const ms = (value) => (value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0));

export const geometricMean = (numbers) => Math.exp(numbers.reduce((sum, n) => sum + Math.log(n), 0) / numbers.length);

/** The date and what was measured on. */
export const machine = () =>
  `${new Date().toISOString().slice(0, 10)}, ${cpus()[0]?.model.trim()}, ${cpus().length} logical cores`;

/** Puts a text between the markers of `name` in docs/performance.md. */
export function write(name, by, text) {
  const file = join(root, "docs/performance.md");
  const [begin, end] = [`<!-- ${name}: written by ${by} -->`, `<!-- end of ${name} -->`];
  const page = fs.readFileSync(file, "utf8");
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/performance.md lacks the markers of ${name}`);
  fs.writeFileSync(file, `${page.slice(0, from + begin.length)}\n${text}\n${page.slice(to)}`);
}
