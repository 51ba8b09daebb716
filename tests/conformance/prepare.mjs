// Puts the test cases of the `onnx` package in place: has `make_cases.py` write them, once for each version of the
// package and of the scripts.
//
//   node tests/conformance/prepare.mjs
//
// prints the folder. It lies in the cache that scripts/setup.sh chose, so that other clones find it.

import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { command, Skip } from "../../scripts/lib/steps.mjs";
import { root, toolchain } from "../../scripts/lib/toolchain.mjs";

/**
 * The folder of the cases, made when it is missing.
 * @throws {Skip} when this machine has no Python to make them with
 */
export async function prepareConformance() {
  const { MODELET_CACHE: cache, MODELET_PYTHON: python } = toolchain();
  if (!python) throw new Skip("no Python with onnx to make the cases with");
  const [script, contrib] = ["make_cases.py", "contrib_cases.py"].map((name) => join(root, "tests/conformance", name));
  // What setup.sh installed: "onnx==1.23.2 ...".
  const requirements = fs.readFileSync(join(cache, "venv/.modelet-stamp"), "utf8");
  const version = /\bonnx==(\S+)/.exec(requirements)?.[1] ?? "unknown";
  const parts = [requirements, fs.readFileSync(script), fs.readFileSync(contrib)];
  const hash = parts
    .reduce((hash, part) => hash.update(part), createHash("sha256"))
    .digest("hex")
    .slice(0, 12);
  const folder = join(cache, "conformance", `${version}-${hash}`);
  if (!fs.existsSync(folder)) {
    const unfinished = `${folder}.${process.pid}.tmp`;
    try {
      await command(python, [script, unfinished], { quiet: true });
      // Another run may have been faster.
      if (!fs.existsSync(folder)) fs.renameSync(unfinished, folder);
    } finally {
      fs.rmSync(unfinished, { recursive: true, force: true });
    }
  }
  return folder;
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  console.log(await prepareConformance());
}
