// Builds what is published, into pkg/: four builds of the core as WebAssembly, the TypeScript API as an ES module and as
// a global for script tags, the command line, type declarations, and the package's manifest.
//
//   node scripts/build.mjs [--only wasm|ts] [--variants simd,relaxed,full_simd,full_relaxed]
//
// A part whose inputs did not change is left as it is. `--variants` makes some builds of the core only: Node.js 20 needs
// `simd`, Chromium and later versions of Node.js `relaxed`, and models with rare operators the `full_` build of the same.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { command } from "./lib/steps.mjs";
import { root, variants, wasmEnv, wasmTargetDir } from "./lib/toolchain.mjs";

const pkg = join(root, "pkg");
const stamps = join(root, ".cache/build");
const option = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined);
const only = option("--only");
const wanted = option("--variants")?.split(",");
const chosen = variants.filter(({ file }) => !wanted || wanted.includes(file.replace("modelet_", "")));

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(0)} kB`;

/** Does one part of the build and prints its name and duration. */
async function part(name, work) {
  const began = performance.now();
  const remark = await work();
  const time = `${((performance.now() - began) / 1000).toFixed(1)} s`;
  console.log(`build: ${name}: ${time}${remark ? `, ${remark}` : ""}`);
}

/** A hash over the contents of files and over settings. */
function fingerprint(files, ...settings) {
  const hash = createHash("sha256").update(JSON.stringify(settings));
  for (const file of files) hash.update(file).update(fs.readFileSync(file));
  return hash.digest("hex");
}

/** Runs `work` unless the stamp says that it already ran on these inputs and its outputs are there. */
async function unlessDone(name, key, outputs, work) {
  const stamp = join(stamps, name);
  const done =
    outputs.every((file) => fs.existsSync(file)) && fs.existsSync(stamp) && fs.readFileSync(stamp, "utf8") === key;
  if (done) return false;
  await work();
  fs.mkdirSync(stamps, { recursive: true });
  fs.writeFileSync(stamp, key);
  return true;
}

function filesUnder(folder) {
  return fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

// What rustc assumes of wasm32, named one by one: `--all-features` would write what Node.js 20 rejects.
const optFeatures = [
  "bulk-memory",
  "bulk-memory-opt",
  "multivalue",
  "mutable-globals",
  "nontrapping-float-to-int",
  "reference-types",
  "sign-ext",
];

/** Compiles one build of the core, and returns the compiled module's path. */
async function compile({ name, file, cargoFeatures, extraFeatures }) {
  const env = wasmEnv();
  const rustc = spawnSync("rustc", ["-vV"], { env, encoding: "utf8" }).stdout;
  const sources = ["src", "shaders"].map((folder) => join(root, folder)).filter((folder) => fs.existsSync(folder));
  const inputs = [...sources.flatMap(filesUnder), ...["Cargo.toml", "Cargo.lock"].map((entry) => join(root, entry))];
  // Dependencies are compiled once for all builds: only the core itself is told of the extra features.
  // Most of the code runs once per model, and inlining it everywhere is a tenth of the download; what a kernel needs
  // inlined says so itself.
  const inlining = ["-inline-threshold=30", "-inlinehint-threshold=45"].map((flag) => `-Cllvm-args=${flag}`);
  const extra = [...inlining, ...extraFeatures.map((feature) => `-Ctarget-feature=+${feature}`)];
  const compiled = join(stamps, `${file}.wasm`);
  await part(`wasm ${name}, cargo`, async () => {
    const key = fingerprint(inputs, env.CARGO_ENCODED_RUSTFLAGS, cargoFeatures, extra, rustc);
    const ran = await unlessDone(`${file}-cargo`, key, [compiled], async () => {
      const lib = ["--release", "--lib", "--target", "wasm32-unknown-unknown", "--crate-type", "cdylib"];
      const features = ["--no-default-features", "--features", cargoFeatures.join(",")];
      await command("cargo", ["rustc", "--quiet", ...lib, ...features, "--", ...extra], { env });
      fs.mkdirSync(stamps, { recursive: true });
      fs.copyFileSync(join(wasmTargetDir(), "wasm32-unknown-unknown/release/modelet.wasm"), compiled);
    });
    return ran ? "" : "unchanged";
  });
  return compiled;
}

/** Writes a compiled module's JavaScript glue, and optimises it. */
async function finish({ name, file, optFeatures: own }, compiled) {
  const env = wasmEnv();
  // Functions in the order of their names stand next to their like, and the same generic code for other types is what
  // gzip finds again: a fortieth of the download. The names themselves go.
  const optArgs = ["-O3", "--reorder-functions-by-name", "--strip-debug"];
  optArgs.push(...[...optFeatures, ...own].map((feature) => `--enable-${feature}`));
  const bindgenArgs = [
    ...["--target", "web", "--no-typescript", "--experimental-reset-state-function"],
    "--remove-producers-section",
  ];
  const version = JSON.parse(fs.readFileSync(join(root, "node_modules/binaryen/package.json"), "utf8")).version;
  const output = join(pkg, "wasm", `${file}_bg.wasm`);
  const glue = join(pkg, "wasm", `${file}.js`);
  await part(`wasm ${name}, wasm-bindgen and wasm-opt`, async () => {
    const key = fingerprint([compiled], optArgs, bindgenArgs, env.PATH, version);
    const ran = await unlessDone(file, key, [output, glue], async () => {
      const work = join(stamps, `${file}-work`);
      fs.rmSync(work, { recursive: true, force: true });
      fs.mkdirSync(work, { recursive: true });
      await command("wasm-bindgen", [...bindgenArgs, "--out-dir", work, "--out-name", file, compiled], { env });
      const optimised = join(work, "optimised.wasm");
      const wasmOpt = join(root, "node_modules/binaryen/bin/wasm-opt");
      await command(process.execPath, [wasmOpt, ...optArgs, join(work, `${file}_bg.wasm`), "-o", optimised]);
      fs.mkdirSync(join(pkg, "wasm"), { recursive: true });
      fs.copyFileSync(optimised, output);
      fs.copyFileSync(join(work, `${file}.js`), glue);
      fs.rmSync(work, { recursive: true });
    });
    const bytes = fs.readFileSync(output);
    const size = `${kilobytes(bytes.length)}, ${kilobytes(gzipSync(bytes, { level: 9 }).length)} gzipped`;
    return ran ? size : `unchanged, ${size}`;
  });
}

/** Bundles the TypeScript sources: the ES module, the global build for script tags, and the command line. */
async function bundles() {
  const { build } = await import("esbuild");
  const entry = (...names) => names.map((name) => join(root, "ts", name)).find((file) => fs.existsSync(file));
  const shared = {
    absWorkingDir: root,
    bundle: true,
    target: "es2022",
    external: ["./wasm/*"],
    legalComments: "none",
    // An error's stack shows the line: it should be one that a person can look at.
    lineLimit: 160,
    logLevel: "warning",
  };
  await build({
    ...shared,
    entryPoints: [entry("index.ts")],
    outfile: join(pkg, "index.js"),
    format: "esm",
    // Names and lines stay, for stack traces and uncaught errors in Node.js; bundlers for the web minify anyway.
    minifySyntax: true,
  });
  await build({
    ...shared,
    entryPoints: [entry("global.ts", "index.ts")],
    outfile: join(pkg, "modelet.global.js"),
    format: "iife",
    globalName: "modelet",
    minify: true,
    // A classic script has no import.meta: its own address stands in.
    define: { "import.meta.url": "modeletScriptUrl" },
    banner: {
      js: 'var modeletScriptUrl=typeof document==="object"&&document.currentScript?document.currentScript.src:self.location.href;',
    },
  });
  // What `--browser` runs inside a page.
  await build({
    ...shared,
    entryPoints: [entry("cli/page.ts")],
    outfile: join(pkg, "cli-page.js"),
    format: "esm",
    minify: true,
  });
  const outfile = join(pkg, "cli.js");
  await build({
    ...shared,
    entryPoints: [entry("cli/main.ts")],
    outfile,
    format: "esm",
    platform: "node",
    target: "node20",
    packages: "external",
    banner: { js: "#!/usr/bin/env node" },
  });
  fs.chmodSync(outfile, 0o755);
}

/** The manifest that is published; the version is the crate's. */
function manifest() {
  const version = /^version = "(.*)"/m.exec(fs.readFileSync(join(root, "Cargo.toml"), "utf8"))[1];
  return {
    name: "modelet",
    version,
    description:
      "Runs trained models in browsers and Node.js: WebGPU compute shaders and a SIMD CPU path from one compiler.",
    license: "MIT OR Apache-2.0",
    keywords: ["onnx", "inference", "webgpu", "wasm", "machine-learning"],
    type: "module",
    sideEffects: false,
    engines: { node: ">=20" },
    main: "./index.js",
    types: "./types/index.d.ts",
    bin: { modelet: "./cli.js" },
    exports: {
      ".": { types: "./types/index.d.ts", default: "./index.js" },
      "./global": "./modelet.global.js",
      "./wasm/*": "./wasm/*",
      "./package.json": "./package.json",
    },
    unpkg: "./modelet.global.js",
    jsdelivr: "./modelet.global.js",
    peerDependencies: {
      "@litertjs/core": "^2.5.3",
      "onnxruntime-web": "^1.30.0",
      "playwright-core": "^1.50.0",
      webgpu: ">=0.3.0",
    },
    peerDependenciesMeta: {
      "@litertjs/core": { optional: true },
      "onnxruntime-web": { optional: true },
      "playwright-core": { optional: true },
      webgpu: { optional: true },
    },
  };
}

async function typescript() {
  const sources = filesUnder(join(root, "ts"));
  const settings = ["tsconfig.json", "tsconfig.build.json", "package-lock.json", "scripts/build.mjs"].map((file) =>
    join(root, file),
  );
  const outputs = ["index.js", "modelet.global.js", "cli.js", "cli-page.js", "types/index.d.ts"].map((file) =>
    join(pkg, file),
  );
  await part("TypeScript", async () => {
    const ran = await unlessDone("typescript", fingerprint([...sources, ...settings]), outputs, async () => {
      fs.rmSync(join(pkg, "types"), { recursive: true, force: true });
      await bundles();
      await command(join(root, "node_modules/.bin/tsc"), ["-p", "tsconfig.build.json"]);
    });
    const size = kilobytes(gzipSync(fs.readFileSync(outputs[0]), { level: 9 }).length);
    return `${ran ? "" : "unchanged, "}index.js ${size} gzipped`;
  });
}

/** The manifest and texts of the package, and links that make `import "modelet"` and `npx modelet` work in this clone. */
function packaging() {
  fs.mkdirSync(pkg, { recursive: true });
  fs.writeFileSync(join(pkg, "package.json"), `${JSON.stringify(manifest(), null, 2)}\n`);
  for (const file of ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"]) {
    if (fs.existsSync(join(root, file))) fs.copyFileSync(join(root, file), join(pkg, file));
  }
  link("../pkg", join(root, "node_modules/modelet"));
  link("../modelet/cli.js", join(root, "node_modules/.bin/modelet"));
}

function link(target, path) {
  fs.rmSync(path, { force: true });
  fs.symlinkSync(target, path);
}

// The environment of a first build lacks the tools' settings: find out now, not after the first compilation.
if (spawnSync("cargo", ["--version"], { env: wasmEnv() }).status !== 0) {
  console.error("build: cargo is missing. Run: bash scripts/setup.sh build");
  process.exit(1);
}
if (chosen.length !== (wanted?.length ?? variants.length)) {
  console.error(
    `build: --variants takes some of ${variants.map(({ file }) => file.replace("modelet_", "")).join(",")}`,
  );
  process.exit(2);
}
try {
  packaging();
  // One build is optimised while the next one compiles: each uses one core.
  const finishing = [];
  if (only !== "ts") {
    for (const variant of chosen) {
      const compiled = await compile(variant);
      const done = finish(variant, compiled);
      done.catch(() => {});
      finishing.push(done);
    }
  }
  if (only !== "wasm") await typescript();
  await Promise.all(finishing);
} catch (error) {
  console.error(`build: failed: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}
