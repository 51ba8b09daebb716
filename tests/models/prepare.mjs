// Puts real models and their reference outputs in place: fetches the models, and has ONNX Runtime compute the outputs.
//
//   node tests/models/prepare.mjs [id ...]
//
// prints the folders of the cases, one a line. They lie in the cache that scripts/setup.sh chose, so that other clones
// find them. Models that are already there are not touched.

import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { command, Skip } from "../../scripts/lib/steps.mjs";
import { root, toolchain } from "../../scripts/lib/toolchain.mjs";

/** The models that every run of the tests verifies on every device. */
export const required = ["silero-vad-v6", "minilm-l3-fp32", "ppocr-cls", "resnet50-open-nsfw"];

/** Further models, which are verified on the CPU: each takes a second or two. */
export const further = [
  "aecmos-gru",
  "basic-pitch",
  "blazeface-front",
  "charboundary-rf",
  "magika",
  "moonshine-tiny-dec",
  "picodet-layout",
  "ppocrv6-det",
  "ppocrv6-rec",
  "surfaces-mlp",
];

/** A larger one, verified by option. */
export const large = ["vit-s-focus"];

/**
 * Models that round inside (8-bit activations, half precision), which no two engines agree on within the tolerance: the
 * reference changes as far when its input changes by one unit in the last place, or with ONNX Runtime's level of
 * optimization. Verified by option. isnet-fp16 lies in a package under a licence of its own.
 */
export const unstable = ["moonshine-tiny-enc", "isnet-fp16"];

const here = join(root, "tests/models");
const read = (file) => fs.readFileSync(join(here, file), "utf8");

/**
 * The case folders of the models with the given ids, made where they are missing.
 * @throws {Skip} when this machine has no Python to make them with
 */
export async function prepareModels(ids = required) {
  const { MODELET_CACHE: cache, MODELET_PYTHON: python } = toolchain();
  const catalog = JSON.parse(read("catalog.json"));
  const cases = JSON.parse(read("cases.json"));
  const wanted = ids.map((id) => {
    const model = catalog.models.find((entry) => entry.id === id);
    if (!model || !cases[id]) throw new Error(`there is no real model ${id}`);
    const key = [JSON.stringify([model.sha256, cases[id]]), read("make_cases.py")].join("\n");
    const folder = join(cache, "cases", id);
    return { id, folder, stamp: join(folder, ".stamp"), key: createHash("sha256").update(key).digest("hex") };
  });
  const missing = wanted.filter(({ stamp, key }) => !fs.existsSync(stamp) || fs.readFileSync(stamp, "utf8") !== key);
  if (missing.length > 0) {
    if (!python) throw new Skip("no Python with onnx and onnxruntime to make the reference outputs with");
    const only = missing.map(({ id }) => id).join(",");
    const models = join(cache, "models");
    const options = { quiet: true };
    await command(python, [join(here, "fetch_models.py"), models, "--only", only], options);
    await command(python, [join(here, "make_cases.py"), models, join(cache, "cases"), "--only", only], options);
    for (const { stamp, key } of missing) fs.writeFileSync(stamp, key);
  }
  return wanted.map(({ folder }) => folder);
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  const ids = process.argv.slice(2);
  for (const folder of await prepareModels(ids.length > 0 ? ids : undefined)) console.log(folder);
}
