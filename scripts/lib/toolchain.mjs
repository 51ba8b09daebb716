// Where the tools are: reads what scripts/setup.sh found, and makes the environments that builds and tests run in.

import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/**
 * The builds of the core: for each instruction set one with the operators that most models are made of, and one with all,
 * each without and with threads. Their names, their files, the crate's features, what the compiler is told beyond SIMD,
 * and what wasm-opt is told.
 */
export const variants = [false, true].flatMap((threads) =>
  ["core", "full"].flatMap((operators) =>
    ["simd", "relaxed"].map((set) => {
      const full = operators === "full";
      const name = [`${set === "simd" ? "simd128" : "relaxed-simd"}`, full && "all operators", threads && "threads"];
      return {
        name: name.filter(Boolean).join(", "),
        file: ["modelet", full && "full", set, threads && "threads"].filter(Boolean).join("_"),
        operators,
        threads,
        cargoFeatures: full ? ["gpu", "all-operators"] : ["gpu"],
        extraFeatures: set === "relaxed" ? ["relaxed-simd"] : [],
        optFeatures: ["simd", ...(set === "relaxed" ? ["relaxed-simd"] : []), ...(threads ? ["threads"] : [])],
      };
    }),
  ),
);

/** The settings in .cache/toolchain.env; ends the process with a hint when setup has not run. */
export function toolchain() {
  const file = join(root, ".cache/toolchain.env");
  if (!existsSync(file)) {
    console.error("The tools are not set up. Run: bash scripts/setup.sh");
    process.exit(1);
  }
  const settings = {};
  for (const line of readFileSync(file, "utf8").split("\n")) {
    const match = /^(\w+)='(.*)'$/.exec(line);
    if (match) settings[match[1]] = match[2];
  }
  return settings;
}

const cargoBin = join(process.env.CARGO_HOME ?? join(homedir(), ".cargo"), "bin");

/** The environment for native cargo commands. */
export function nativeEnv() {
  return { ...process.env, PATH: [process.env.PATH, cargoBin].join(delimiter) };
}

/** What the compiler is told for builds with threads, dependencies included, and where it finds a std made alike. */
const atomics = ["atomics", "bulk-memory", "mutable-globals"];

/** The builds that can be made here: those with threads need a std of their own, which the set-up may not have got. */
export function possibleVariants() {
  const hasThreads = Boolean(toolchain().MODELET_THREADS_SYSROOT);
  return variants.filter(({ threads }) => hasThreads || !threads);
}

/** The environment for cargo commands that compile to wasm32, dependencies included, with SIMD and extra features. */
export function wasmEnv(extraFeatures = [], { threads = false } = {}) {
  const settings = toolchain();
  const rustBin = threads ? settings.MODELET_THREADS_RUST_BIN : settings.MODELET_WASM_RUST_BIN;
  const linker = threads ? settings.MODELET_THREADS_LINKER : settings.MODELET_WASM_LINKER;
  const env = nativeEnv();
  const cargoHome = process.env.CARGO_HOME ?? join(homedir(), ".cargo");
  env.PATH = [rustBin, settings.MODELET_BINDGEN_BIN, settings.MODELET_WASM_PACK_BIN, env.PATH]
    .filter(Boolean)
    .join(delimiter);
  // Panic messages carry source paths: those of the builder's home are no one's business.
  const features = ["simd128", ...(threads ? atomics : []), ...extraFeatures].map((feature) => `+${feature}`).join(",");
  const flags = [`-Ctarget-feature=${features}`, `--remap-path-prefix=${cargoHome}=cargo`];
  if (threads) flags.push("--cfg=modelet_threads", `--sysroot=${settings.MODELET_THREADS_SYSROOT}`);
  env.CARGO_ENCODED_RUSTFLAGS = flags.join("\x1f");
  delete env.RUSTFLAGS;
  env.CARGO_TARGET_DIR = wasmTargetDir(threads);
  env.CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER = "wasm-bindgen-test-runner";
  if (linker) env.CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER = linker;
  if (settings.CHROMEDRIVER) env.CHROMEDRIVER = settings.CHROMEDRIVER;
  return env;
}

/** Where wasm builds go: apart from native ones, because the compiler and its flags may differ. */
export function wasmTargetDir(threads = false) {
  return join(process.env.CARGO_TARGET_DIR ?? join(root, "target"), threads ? "wasm-threads" : "wasm");
}
