// Runs every check of the project, one after another, and prints a table of them.
//
//   node scripts/test.mjs [PART ...]
//
// runs all, or only the parts whose names contain one of the given words. Needs what scripts/setup.sh installs;
// `npm test` calls both.

import * as fs from "node:fs";
import { join } from "node:path";
import { prepareConformance } from "../tests/conformance/prepare.mjs";
import { checkConformance } from "../tests/conformance/run.mjs";
import { prepareFixtures } from "../tests/fixtures/make_cases.mjs";
import { further, large, prepareModels, required, unstable } from "../tests/models/prepare.mjs";
import { checkModels } from "../tests/models/webgpu.mjs";
import { gzippedLength } from "./lib/size.mjs";
import { command, runAll, Skip } from "./lib/steps.mjs";
import { nativeEnv, possibleVariants, root, toolchain, wasmEnv } from "./lib/toolchain.mjs";
import { lintSteps } from "./lint.mjs";

const settings = toolchain();
const artifacts = join(root, "artifacts");

/** The most that a build of the core may weigh, gzipped; one with all operators is loaded by few pages and may weigh more. */
const budget = 800_000;

/** The environment of everything that runs in Node.js or drives a browser. */
const scriptEnv = {
  ...process.env,
  CHROMIUM: settings.CHROMIUM,
  CHROME_PATH: settings.CHROMIUM,
  MODELET_ARTIFACTS: artifacts,
};

/** Chromium brings a Vulkan driver that needs no GPU; tests that use the `webgpu` package in Node.js run on it. */
const softwareVulkan = ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"]
  .map((folder) => join(folder, "vk_swiftshader_icd.json"))
  .find((file) => fs.existsSync(file));
const webgpuEnv = softwareVulkan ? { ...scriptEnv, VK_DRIVER_FILES: softwareVulkan } : scriptEnv;

function sizes() {
  const remarks = [];
  for (const { name, file, operators } of possibleVariants()) {
    const bytes = gzippedLength(fs.readFileSync(join(root, "pkg/wasm", `${file}_bg.wasm`)));
    remarks.push(`${name} ${(bytes / 1000).toFixed(0)} kB`);
    if (operators === "core" && bytes > budget)
      throw new Error(`${file}_bg.wasm is ${bytes} bytes gzipped: the budget is ${budget}`);
  }
  return `${remarks.join(", ")} gzipped`;
}

/** What the native tests printed about tests that did not run, as a remark. */
function skippedTests(output) {
  const reasons = new Set([...output.matchAll(/^skipped: (.*)$/gm)].map((match) => match[1]));
  return reasons.size > 0 ? `GPU tests skipped: ${[...reasons].join("; ")}` : "";
}

async function nativeTests() {
  const skipped = (what, instead) => (error) => {
    if (!(error instanceof Skip)) throw error;
    console.log(`skipped: ${what}: ${error.message}`);
    return instead;
  };
  const models = await prepareModels().catch(skipped("the real models", []));
  const conformance = await prepareConformance().catch(skipped("the cases of the onnx package"));
  const env = {
    ...nativeEnv(),
    ...(conformance && { MODELET_CONFORMANCE: conformance }),
    MODELET_CASES: [...prepareFixtures(), ...models].join(":"),
    MODELET_MODELS: join(settings.MODELET_CACHE, "models"),
  };
  const output = await command("cargo", ["test", "--no-fail-fast", "--", "--show-output"], { env, quiet: true });
  const summaries = [...output.matchAll(/^test result: ok\. (\d+) passed; \d+ failed; (\d+) ignored/gm)];
  const passed = summaries.reduce((sum, match) => sum + Number(match[1]), 0);
  if (passed === 0) throw new Error("no test ran");
  const vulkan = skippedTests(output) || "with Vulkan";
  console.log(`${passed} tests in ${summaries.length} suites, ${vulkan}`);
  return `${passed} tests, ${vulkan}`;
}

/** The unit tests and the suite of sessions: what runs in a browser. */
const browserSuites = ["--lib", "--test", "browser"];

/** The environment of wasm-bindgen-test; webdriver.json, written by the set-up, says how the browser is started. */
function browserTestEnv(extraFeatures = []) {
  const runner = { WASM_BINDGEN_USE_BROWSER: "1", WASM_BINDGEN_TEST_TIMEOUT: "600" };
  // Debug information would multiply the size of what wasm-bindgen and the browser have to read.
  return { ...wasmEnv(extraFeatures), ...runner, CARGO_PROFILE_DEV_DEBUG: "false" };
}

function countBrowserTests(output) {
  const summaries = [...output.matchAll(/^test result: ok\. (\d+) passed; 0 failed/gm)];
  const passed = summaries.reduce((sum, match) => sum + Number(match[1]), 0);
  if (passed === 0) throw new Error("no test ran");
  return `${passed} tests`;
}

/** Sessions in the browser, on the CPU and on WebGPU. The unit tests run below; the cases of `conformance` run on this
 * same build, without relaxed SIMD, in Node.js. */
async function wasmTests() {
  const args = ["test", "--target", "wasm32-unknown-unknown", "--no-fail-fast", "--test", "browser"];
  return countBrowserTests(await command("cargo", args, { env: browserTestEnv(), keep: true }));
}

/** The unit tests and the sessions, the way wasm-pack runs them, and compiled with relaxed SIMD. */
async function wasmPackTests() {
  const browser = ["--headless", "--chrome", "--chromedriver", settings.CHROMEDRIVER];
  // What follows the folder goes to `cargo test` as it stands; a `--` would go along.
  const features = ["--no-default-features", "--features", "all-operators"];
  const args = ["test", ...browser, "--mode", "no-install", root, ...features, ...browserSuites];
  const env = browserTestEnv(["relaxed-simd"]);
  return countBrowserTests(await command("wasm-pack", args, { env, keep: true }));
}

/** Runs the tests of a folder, which import the built package, with Node's test runner. */
async function nodeTests(folder, ...flags) {
  const source = join(root, folder);
  const names = fs.readdirSync(source).filter((name) => name.endsWith(".test.mjs"));
  if (names.length === 0) throw new Error(`${folder} has no tests`);
  const files = names.map((name) => join(source, name)).sort();
  await command(process.execPath, ["--test", ...flags, ...files], { env: webgpuEnv });
}

/** The frameworks' own predictions are met to 1e-5; ONNX Runtime's outputs to the defaults of `verify`. */
async function verify(...options) {
  const cli = join(root, "pkg/cli.js");
  const run = (args) => command(process.execPath, [cli, "verify", ...args, ...options], { env: scriptEnv });
  await run([...prepareFixtures(), "--rtol", "0", "--atol", "1e-5"]);
  await run(await prepareModels());
}

/** The same with threads, where there are builds that have them. */
async function verifyThreads() {
  if (!possibleVariants().some(({ threads }) => threads)) throw new Skip("the builds with threads were left out");
  await verify("--device", "cpu", "--threads", "2");
}

/** Verifies the models with these ids on the CPU. */
async function verifyModels(models, ...options) {
  const folders = await prepareModels(models);
  const cli = join(root, "pkg/cli.js");
  await command(process.execPath, [cli, "verify", ...folders, "--device", "cpu", ...options], { env: scriptEnv });
}

/** The cases of the suite on Chromium's software GPU, where whatever has a kernel there runs there; whole networks apart. */
async function casesOnGpu(options = {}) {
  const settings = { device: "webgpu", browser: true, operators: "all" };
  return checkConformance(await prepareConformance(), { ...settings, ...options });
}

/** Words of the names of all cases but those of whole networks. */
const apartFromNetworks = ["node/", "simple/", "pytorch-", "contrib/"];

/** The real models on it, of which nothing that touches activations may stay on the CPU. */
async function modelsOnGpu(ids) {
  const wrong = await checkModels(await prepareModels(ids));
  if (wrong.length > 0) throw new Error(wrong.join("\n"));
}

/** Steps that run only when they are asked for by name. */
const optional = [
  { name: "all cases, WebGPU in Chromium", run: () => casesOnGpu() },
  {
    name: "all models, WebGPU in Chromium",
    run: () => modelsOnGpu([...required, ...further, ...large, "moonshine-tiny-enc"]),
  },
  { name: "large models, CPU", run: () => verifyModels(large) },
  { name: "unstable models, CPU", run: () => verifyModels(unstable) },
  { name: "all models, CPU in Chromium", run: () => verifyModels([...further, ...large], "--browser") },
];

const steps = [
  ...lintSteps(),
  { name: "build", run: () => command(process.execPath, [join(root, "scripts/build.mjs")]) },
  { name: "size", run: sizes },
  { name: "Rust tests", run: nativeTests },
  { name: "wasm tests in Chromium", run: wasmTests },
  { name: "wasm-pack test, relaxed SIMD", run: wasmPackTests },
  { name: "conformance, wasm", run: async () => checkConformance(await prepareConformance()) },
  // The whole suite takes too long on a software GPU.
  { name: "conformance, WebGPU in Chromium", run: () => casesOnGpu({ only: apartFromNetworks, part: [1, 4] }) },
  { name: "TypeScript tests", run: () => nodeTests("tests/ts") },
  { name: "verify, CPU", run: () => verify("--device", "cpu") },
  { name: "verify, CPU, two threads", run: () => verifyThreads() },
  { name: "verify further models, CPU", run: () => verifyModels(further) },
  { name: "verify, WebGPU", run: () => verify("--device", "webgpu") },
  { name: "verify, CPU in Chromium", run: () => verify("--device", "cpu", "--browser") },
  { name: "verify, WebGPU in Chromium", run: () => verify("--device", "webgpu", "--browser") },
  { name: "end to end", run: () => nodeTests("tests/e2e", "--test-concurrency=1") },
];

fs.mkdirSync(artifacts, { recursive: true });
const wanted = process.argv.slice(2);
const named = ({ name }) => wanted.some((word) => name.includes(word));
const chosen = wanted.length === 0 ? steps : [...steps, ...optional].filter(named);
if (chosen.length === 0) {
  console.error(`there is no such part; the parts are: ${steps.map(({ name }) => name).join("; ")}`);
  process.exit(2);
}
process.exitCode = (await runAll("tests", chosen)) ? 0 : 1;
