// Checks the style of everything, or with --write puts right what tools can.
//
//   node scripts/lint.mjs [--write]

import { realpathSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { command, runAll, Skip } from "./lib/steps.mjs";
import { nativeEnv, root, toolchain, wasmEnv } from "./lib/toolchain.mjs";

const bin = (name) => join(root, "node_modules/.bin", name);
const cargo = (args, env = nativeEnv()) => command("cargo", args, { env });

/** The checks, as steps of a larger run. */
export function lintSteps() {
  return [
    { name: "rustfmt", run: () => cargo(["fmt", "--all", "--check"]) },
    { name: "clippy", run: () => cargo(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]) },
    {
      name: "clippy for wasm32",
      async run() {
        const env = wasmEnv();
        const clippy = command("cargo", ["clippy", "--version"], { env, quiet: true });
        if (toolchain().MODELET_WASM_RUST_BIN) {
          await clippy.catch(() => {
            throw new Skip("the distribution's wasm compiler has no clippy");
          });
        }
        await cargo(
          ["clippy", "--quiet", "--target", "wasm32-unknown-unknown", "--lib", "--tests", "--", "-D", "warnings"],
          env,
        );
      },
    },
    {
      name: "cargo doc",
      run: () => cargo(["doc", "--quiet", "--no-deps"], { ...nativeEnv(), RUSTDOCFLAGS: "-D warnings" }),
    },
    { name: "Biome", run: () => command(bin("biome"), ["check", "--error-on-warnings", "."]) },
    { name: "tsc", run: () => command(bin("tsc"), ["--noEmit"]) },
  ];
}

if (process.argv[1] && import.meta.url === pathToFileURL(realpathSync(process.argv[1])).href) {
  const write = process.argv.includes("--write");
  const steps = write
    ? [
        { name: "rustfmt", run: () => cargo(["fmt", "--all"]) },
        { name: "Biome", run: () => command(bin("biome"), ["check", "--write", "."]) },
      ]
    : lintSteps();
  process.exitCode = (await runAll(write ? "format" : "lint", steps)) ? 0 : 1;
}
