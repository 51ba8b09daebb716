// Builds the kernel micro-benchmarks as wasm (simd128 and relaxed-simd), runs them in Node.js and in Chromium, and
// prints every figure as a ratio to the multiply-add roof measured in the same run.
//   node benches/kernels/run.mjs [--node] [--browser] [--build simd|relaxed] [--only TEXT] [--json]
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const args = process.argv.slice(2);
const has = (flag) => args.includes(flag);
const value = (flag) => (has(flag) ? args[args.indexOf(flag) + 1] : undefined);
const features = { simd: "+simd128", relaxed: "+simd128,+relaxed-simd" };
const builds = value("--build") ? [value("--build")] : ["simd", "relaxed"];
const only = value("--only") ?? "";
const everywhere = !has("--node") && !has("--browser");

function build(name) {
  const target = join(process.env.CARGO_TARGET_DIR ?? join(here, "../../target"), `kernel-bench-${name}`);
  execFileSync("cargo", ["build", "--release", "--quiet", "--lib", "--target", "wasm32-unknown-unknown"], {
    cwd: here,
    stdio: "inherit",
    env: { ...process.env, CARGO_TARGET_DIR: target, RUSTFLAGS: `-Ctarget-feature=${features[name]}` },
  });
  return readFileSync(join(target, "wasm32-unknown-unknown/release/modelet_kernel_bench.wasm"));
}

// Runs in either place: must not refer to anything outside.
async function measure(bytes, only) {
  const { instance } = await WebAssembly.instantiate(bytes, {});
  const wasm = instance.exports;
  const cases = [];
  const name = (index) => {
    const at = wasm.tile_name(index, 1024);
    const address = new DataView(wasm.memory.buffer).getUint32(1024, true);
    return new TextDecoder().decode(new Uint8Array(wasm.memory.buffer, address, at));
  };
  for (let index = 0; name(index) !== ""; index++) {
    const tile = index;
    cases.push([`tile ${name(tile)}`, () => wasm.bench_tile(tile)]);
  }
  for (const [m, k, n] of [[1024, 1024, 1024], [512, 512, 512], [128, 384, 384], [128, 384, 1536], [128, 32, 128], [196, 256, 1024]]) {
    cases.push([`gemm ${m}x${k}x${n}`, () => wasm.bench_gemm(m, k, n, 0)]);
    cases.push([`gemm ${m}x${k}x${n}, B packed`, () => wasm.bench_gemm(m, k, n, 1)]);
  }
  for (const m of [1, 2, 3, 4, 8]) {
    cases.push([`gemm ${m}x512x512`, () => wasm.bench_gemm(m, 512, 512, 0)]);
    cases.push([`gemm ${m}x512x512, B packed`, () => wasm.bench_gemm(m, 512, 512, 1)]);
  }
  const conv = (net, from, to, groups, size, kernel, stride) => {
    const kind = groups > 1 ? "depthwise " : "";
    const text = `${net} ${kind}${kernel}x${kernel}/${stride} ${from}-${to} @${size}`;
    cases.push([text, () => wasm.bench_conv(from, to, groups, size, kernel, stride)]);
  };
  conv("resnet50", 3, 64, 1, 224, 7, 2);
  for (const [width, size] of [[64, 56], [128, 28], [256, 14], [512, 7]]) {
    conv("resnet50", width * 4, width, 1, size, 1, 1);
    conv("resnet50", width, width, 1, size, 3, 1);
    conv("resnet50", width, width * 4, 1, size, 1, 1);
  }
  conv("resnet50", 256, 512, 1, 56, 1, 2);
  conv("resnet50", 128, 128, 1, 56, 3, 2);
  conv("mobilenet", 3, 32, 1, 224, 3, 2);
  conv("mobilenet", 32, 16, 1, 112, 1, 1);
  for (const [channels, size, stride] of [[32, 112, 1], [96, 112, 2], [144, 56, 1], [144, 56, 2], [192, 28, 1], [384, 14, 1], [960, 7, 1]]) {
    conv("mobilenet", channels, channels, channels, size, 3, stride);
  }
  conv("mobilenet", 240, 240, 240, 28, 5, 1);

  // Where the processor time of the process can be read, other programs on the machine disturb less.
  const clock = globalThis.process?.cpuUsage
    ? () => {
        const { user, system } = process.cpuUsage();
        return (user + system) / 1000;
      }
    : () => performance.now();
  const prepare = (make) => {
    const bench = make();
    const flops = wasm.bench_flops(bench);
    let times = 1;
    const once = () => {
      const start = clock();
      wasm.bench_run(bench, times);
      return clock() - start;
    };
    // V8 compiles hot functions anew while they run: warm up first, and measure stretches of about 2 ms, which are
    // short enough that some of them are not interrupted on a busy machine.
    const warm = clock();
    while (clock() - warm < 50) once();
    while (once() < 1) times *= 2;
    return { free: () => wasm.bench_free(bench), rate: () => (flops * times) / once() / 1e6 };
  };
  const roof = prepare(wasm.bench_roof);
  let top = 0;
  const rows = cases
    .filter(([text]) => text.includes(only))
    .map(([text, make]) => {
      const bench = prepare(make);
      let best = 0;
      for (let round = 0; round < 40; round++) {
        top = Math.max(top, roof.rate());
        best = Math.max(best, bench.rate());
      }
      bench.free();
      return [text, best];
    });
  return { roof: top, rows };
}

async function inBrowser(bytes) {
  const { chromium } = await import("playwright-core");
  const candidates = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/google-chrome"];
  const executablePath = candidates.find((path) => path && existsSync(path));
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage();
    // Only cross-origin isolated pages have a timer finer than 0.1 ms.
    await page.route("http://localhost/", (route) =>
      route.fulfill({
        contentType: "text/html",
        headers: { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" },
        body: "<!doctype html>",
      }),
    );
    await page.goto("http://localhost/");
    const text = Buffer.from(bytes).toString("base64");
    const source = `(${measure})(Uint8Array.from(atob(${JSON.stringify(text)}), (c) => c.charCodeAt(0)), ${JSON.stringify(only)})`;
    return { ...(await page.evaluate(source)), place: `Chromium ${browser.version()}` };
  } finally {
    await browser.close();
  }
}

function inNode(name) {
  // Node.js 20 has relaxed SIMD behind a flag, which newer ones accept or ignore.
  const flags = name === "relaxed" && process.versions.node.startsWith("20.") ? ["--experimental-wasm-relaxed-simd"] : [];
  const child = [...flags, fileURLToPath(import.meta.url), "--child", "--build", name, "--only", only];
  const run = spawnSync(process.execPath, child, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"], maxBuffer: 1 << 24 });
  return { ...JSON.parse(run.stdout), place: `Node.js ${process.versions.node}` };
}

function print(name, { roof, rows, place }) {
  if (has("--json")) {
    console.log(JSON.stringify({ build: name, place, roof_gflops: roof, ratios: Object.fromEntries(rows.map(([text, rate]) => [text, rate / roof])) }));
    return;
  }
  console.log(`${place}, ${name}: roof ${roof.toFixed(1)} GFLOP/s`);
  for (const [text, rate] of rows) console.log(`  ${text.padEnd(46)} ${(rate / roof).toFixed(2)}`);
}

if (has("--child")) {
  console.log(JSON.stringify(await measure(build(builds[0]), only)));
} else {
  for (const name of builds) {
    const bytes = build(name);
    if (everywhere || has("--node")) print(name, inNode(name));
    if (everywhere || has("--browser")) print(name, await inBrowser(bytes));
  }
}
