// Modules of ts/ that the package does not export, bundled for a test. The bundle is rebuilt on every call, so that a
// test never runs on yesterday's code.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

/** Imports a module by its path below ts/. */
export async function internal(path) {
  const folder = mkdtempSync(join(tmpdir(), "modelet-internal-"));
  const outfile = join(folder, "module.mjs");
  try {
    await build({
      entryPoints: [fileURLToPath(new URL(`../../../ts/${path}`, import.meta.url))],
      outfile,
      bundle: true,
      format: "esm",
      platform: "node",
      target: "node20",
      external: ["./wasm/*"],
      logLevel: "warning",
    });
    return await import(pathToFileURL(outfile).href);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
