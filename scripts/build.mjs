// Builds what is published, into pkg/: eight builds of the core as WebAssembly, the TypeScript API as an ES module and as
// a global for script tags, the command line, type declarations, and the package's manifest.
//
//   node scripts/build.mjs [--only wasm|ts] [--variants simd,relaxed,full_simd,relaxed_threads,…]
//
// A part whose inputs did not change is left as it is. `--variants` makes some builds of the core only: Node.js 20 needs
// `simd`, Chromium and later versions of Node.js `relaxed`, models with rare operators the `full_` build of the same, and
// sessions on several threads the `_threads` build of any. Finished builds are kept in the cache by what they were made
// of, so that another clone finds them.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { join, relative } from "node:path";
import { gzippedLength } from "./lib/size.mjs";
import { command } from "./lib/steps.mjs";
import { possibleVariants, root, toolchain, wasmEnv, wasmTargetDir } from "./lib/toolchain.mjs";

const pkg = join(root, "pkg");
const stamps = join(root, ".cache/build");
const option = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined);
const only = option("--only");
const wanted = option("--variants")?.split(",");
const possible = possibleVariants();
const chosen = possible.filter(({ file }) => !wanted || wanted.includes(file.replace("modelet_", "")));

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(0)} kB`;

/** Does one part of the build and prints its name and duration. */
async function part(name, work) {
  const began = performance.now();
  const remark = await work();
  const time = `${((performance.now() - began) / 1000).toFixed(1)} s`;
  console.log(`build: ${name}: ${time}${remark ? `, ${remark}` : ""}`);
}

/** A hash over the contents of files, their places in the clone and settings: the same in every clone. */
function fingerprint(files, ...settings) {
  const hash = createHash("sha256").update(JSON.stringify(settings));
  for (const file of files) hash.update(relative(root, file)).update(fs.readFileSync(file));
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

// The threads of a page share one memory, which it makes; wasm-bindgen needs the rest to give each a stack and variables
// of its own.
const threadArgs = [
  ...["--shared-memory", "--import-memory", "--max-memory=4294967296"],
  ...["__wasm_init_tls", "__tls_size", "__tls_align", "__tls_base"].map((name) => `--export=${name}`),
].map((arg) => `-Clink-arg=${arg}`);

const bindgenArgs = [
  ...["--target", "web", "--no-typescript", "--experimental-reset-state-function"],
  "--remove-producers-section",
];

// The glue keeps to itself what the workers need.
const shareParts = "\nexport function wasmParts() { return { module: wasmModule, memory: wasm.memory }; }\n";

/** How one build of the core is made, and a key over all that it is made of. */
function recipe({ file, threads, cargoFeatures, extraFeatures, optFeatures: own }) {
  const env = wasmEnv([], { threads });
  const rustc = spawnSync("rustc", ["-vV"], { env, encoding: "utf8" }).stdout;
  const bindgen = spawnSync("wasm-bindgen", ["--version"], { env, encoding: "utf8" }).stdout;
  const binaryen = JSON.parse(fs.readFileSync(join(root, "node_modules/binaryen/package.json"), "utf8")).version;
  const sources = ["src", "shaders"].map((folder) => join(root, folder)).filter((folder) => fs.existsSync(folder));
  const inputs = [...sources.flatMap(filesUnder), ...["Cargo.toml", "Cargo.lock"].map((entry) => join(root, entry))];
  // Dependencies are compiled once for all builds: only the core itself is told of the extra features.
  // Most of the code runs once per model, and inlining it everywhere is a tenth of the download; what a kernel needs
  // inlined says so itself.
  const inlining = ["-inline-threshold=30", "-inlinehint-threshold=45"].map((flag) => `-Cllvm-args=${flag}`);
  // A panic tells what is wrong and not where: the places in the source are a sixtieth of the download.
  const extra = [
    ...inlining,
    "-Zlocation-detail=none",
    ...extraFeatures.map((feature) => `-Ctarget-feature=+${feature}`),
    ...(threads ? threadArgs : []),
  ];
  // Functions in the order of their names stand next to their like, and the same generic code for other types is what
  // gzip finds again: a fortieth of the download. The names themselves go.
  const optArgs = ["-O3", "--reorder-functions-by-name", "--strip-debug"];
  optArgs.push(...[...optFeatures, ...own].map((feature) => `--enable-${feature}`));
  const made = [env.CARGO_ENCODED_RUSTFLAGS, cargoFeatures, extra, optArgs, bindgenArgs, shareParts];
  const key = fingerprint(inputs, file, made, rustc, bindgen, binaryen);
  return { env, cargoFeatures, extra, optArgs, key };
}

/** The files that one build of the core consists of. */
const outputsOf = ({ file }) => [`${file}_bg.wasm`, `${file}.js`];

/** Compiles one build of the core, and returns the compiled module's path. */
async function compile({ name, file, threads }, { env, cargoFeatures, extra }) {
  const compiled = join(stamps, `${file}.wasm`);
  await part(`wasm ${name}, cargo`, async () => {
    const lib = ["--release", "--lib", "--target", "wasm32-unknown-unknown", "--crate-type", "cdylib"];
    const features = ["--no-default-features", "--features", cargoFeatures.join(",")];
    // The core alone may use unstable options of the compiler.
    const core = { ...env, RUSTC_BOOTSTRAP: "modelet" };
    // Of the unstable feature `atomics` the compiler warns for each crate.
    await command("cargo", ["rustc", "--quiet", ...lib, ...features, "--", ...extra], { env: core, quiet: threads });
    fs.mkdirSync(stamps, { recursive: true });
    fs.copyFileSync(join(wasmTargetDir(threads), "wasm32-unknown-unknown/release/modelet.wasm"), compiled);
  });
  return compiled;
}

/** Writes a compiled module's JavaScript glue, and optimises it. */
async function finish(variant, { env, optArgs, key }, compiled) {
  const { name, file, threads } = variant;
  await part(`wasm ${name}, wasm-bindgen and wasm-opt`, async () => {
    const work = join(stamps, `${file}-work`);
    fs.rmSync(work, { recursive: true, force: true });
    fs.mkdirSync(work, { recursive: true });
    await command("wasm-bindgen", [...bindgenArgs, "--out-dir", work, "--out-name", file, compiled], { env });
    const plain = join(work, `${file}_bg.wasm`);
    const wasmOpt = join(root, "node_modules/binaryen/bin/wasm-opt");
    await command(process.execPath, [wasmOpt, ...optArgs, plain, "-o", `${plain}.optimised`]);
    fs.renameSync(`${plain}.optimised`, plain);
    if (threads) fs.appendFileSync(join(work, `${file}.js`), shareParts);
    keep(variant, work, key);
    fs.rmSync(work, { recursive: true });
    return sizeOf(variant);
  });
}

function sizeOf({ file }) {
  const bytes = fs.readFileSync(join(pkg, "wasm", `${file}_bg.wasm`));
  return `${kilobytes(bytes.length)}, ${kilobytes(gzippedLength(bytes))} gzipped`;
}

/** Where finished builds are kept by their keys, and how many. */
const kept = join(toolchain().MODELET_CACHE, "wasm");
const mostKept = 40;

/** Puts a finished build into the package and into the cache. */
function keep(variant, from, key) {
  const folder = join(kept, key);
  const half = `${folder}.${process.pid}`;
  for (const target of [join(pkg, "wasm"), half]) {
    fs.mkdirSync(target, { recursive: true });
    for (const output of outputsOf(variant)) fs.copyFileSync(join(from, output), join(target, output));
  }
  fs.writeFileSync(join(stamps, variant.file), key);
  fs.rmSync(folder, { recursive: true, force: true });
  fs.renameSync(half, folder);
  const age = (name) => fs.statSync(join(kept, name)).mtimeMs;
  const old = fs.readdirSync(kept).sort((a, b) => age(b) - age(a));
  for (const name of old.slice(mostKept)) fs.rmSync(join(kept, name), { recursive: true, force: true });
}

/** Takes a finished build from the package or from the cache; says where from, or nothing when it has to be made. */
function restore(variant, key) {
  const there = (folder) => outputsOf(variant).every((output) => fs.existsSync(join(folder, output)));
  const stamp = join(stamps, variant.file);
  if (there(join(pkg, "wasm")) && fs.existsSync(stamp) && fs.readFileSync(stamp, "utf8") === key) return "unchanged";
  const folder = join(kept, key);
  if (!there(folder)) return undefined;
  const now = new Date();
  fs.utimesSync(folder, now, now);
  fs.mkdirSync(join(pkg, "wasm"), { recursive: true });
  for (const output of outputsOf(variant)) fs.copyFileSync(join(folder, output), join(pkg, "wasm", output));
  fs.mkdirSync(stamps, { recursive: true });
  fs.writeFileSync(stamp, key);
  return "from the cache";
}

/** Whether the package will have builds with threads: sessions need not look for what is not there. */
function packageHasThreads() {
  const made = (variant) =>
    (only !== "ts" && chosen.includes(variant)) || fs.existsSync(join(pkg, "wasm", `${variant.file}_bg.wasm`));
  return possible.some((variant) => variant.threads && made(variant));
}

/** Bundles the TypeScript sources: the ES module, the global build for script tags, and the command line. */
async function bundles() {
  const { build } = await import("esbuild");
  const hasThreads = String(packageHasThreads());
  const entry = (...names) => names.map((name) => join(root, "ts", name)).find((file) => fs.existsSync(file));
  const shared = {
    absWorkingDir: root,
    bundle: true,
    target: "es2022",
    external: ["./wasm/*"],
    legalComments: "none",
    // An error's stack shows the line: it should be one that a person can look at.
    lineLimit: 160,
    define: { packageHasThreads: hasThreads },
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
    define: { packageHasThreads: hasThreads, "import.meta.url": "modeletScriptUrl" },
    banner: {
      js: 'var modeletScriptUrl=typeof document==="object"&&document.currentScript?document.currentScript.src:self.location.href;',
    },
  });
  // A thread's script: no import and no export, so that it is a module and a classic script alike.
  await build({
    ...shared,
    entryPoints: [entry("worker.ts")],
    outfile: join(pkg, "worker.js"),
    format: "iife",
    minify: true,
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
      "./worker.js": "./worker.js",
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
  const outputs = ["index.js", "modelet.global.js", "worker.js", "cli.js", "cli-page.js", "types/index.d.ts"].map(
    (file) => join(pkg, file),
  );
  await part("TypeScript", async () => {
    const ran = await unlessDone(
      "typescript",
      fingerprint([...sources, ...settings], packageHasThreads()),
      outputs,
      async () => {
        fs.rmSync(join(pkg, "types"), { recursive: true, force: true });
        await bundles();
        await command(join(root, "node_modules/.bin/tsc"), ["-p", "tsconfig.build.json"]);
      },
    );
    const size = kilobytes(gzippedLength(fs.readFileSync(outputs[0])));
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
if (chosen.length !== (wanted?.length ?? possible.length)) {
  console.error(
    `build: --variants takes some of ${possible.map(({ file }) => file.replace("modelet_", "")).join(",")}`,
  );
  process.exit(2);
}
try {
  packaging();
  // One build is optimised while the next one compiles: each uses one core.
  const finishing = [];
  if (only !== "ts") {
    for (const variant of chosen) {
      const how = recipe(variant);
      const found = restore(variant, how.key);
      if (found) {
        await part(`wasm ${variant.name}`, () => `${found}, ${sizeOf(variant)}`);
        continue;
      }
      const done = finish(variant, how, await compile(variant, how));
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
