// Builds the kernel micro-benchmarks as wasm (simd128 and relaxed-simd), runs them in Node.js and in Chromium, and
// prints every figure as a ratio to the multiply-add roof measured in the same run.
//   node benches/kernels/run.mjs [--node] [--browser] [--build simd|relaxed] [--only TEXT] [--vs onnxruntime-web] [--json]
// With --vs, only the convolutions run, and a second column says how many times as fast as the other engine they are
// (one thread each; the other engine's time includes its calls).
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { root, wasmEnv } from "../../scripts/lib/toolchain.mjs";
import { measure } from "./measure.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const args = process.argv.slice(2);
const has = (flag) => args.includes(flag);
const value = (flag) => (has(flag) ? args[args.indexOf(flag) + 1] : undefined);
const features = { simd: "+simd128", relaxed: "+simd128,+relaxed-simd" };
const builds = value("--build") ? [value("--build")] : Object.keys(features);
const only = value("--only") ?? "";
const versus = has("--vs");
const everywhere = !has("--node") && !has("--browser");

function build(name) {
  const ready = existsSync(join(root, ".cache/toolchain.env"));
  const env = ready
    ? wasmEnv(name === "relaxed" ? ["relaxed-simd"] : [])
    : { ...process.env, RUSTFLAGS: `-Ctarget-feature=${features[name]}` };
  const target = join(env.CARGO_TARGET_DIR ?? join(root, "target"), `kernel-bench-${name}`);
  execFileSync("cargo", ["build", "--release", "--quiet", "--lib", "--target", "wasm32-unknown-unknown"], {
    cwd: here,
    stdio: "inherit",
    env: { ...env, CARGO_TARGET_DIR: target },
  });
  return join(target, "wasm32-unknown-unknown/release/modelet_kernel_bench.wasm");
}

async function inBrowser(module) {
  const { chromium } = await import("playwright-core");
  const candidates = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/google-chrome"];
  const executablePath = candidates.find((path) => path && existsSync(path));
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const ort = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
  const types = { mjs: "text/javascript", wasm: "application/wasm" };
  try {
    const page = await browser.newPage();
    await page.route("http://localhost/**", (route) => {
      const path = new URL(route.request().url()).pathname;
      // Only cross-origin isolated pages have a timer finer than 0.1 ms.
      const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
      if (path === "/") return route.fulfill({ contentType: "text/html", headers, body: "<!doctype html>" });
      const file =
        path === "/bench.wasm" ? module : path.startsWith("/ort/") ? join(ort, path.slice(5)) : join(here, path);
      return route.fulfill({ contentType: types[path.split(".").at(-1)], headers, body: readFileSync(file) });
    });
    await page.goto("http://localhost/");
    const result = await page.evaluate(
      async ([only, versus]) => {
        const { measure } = await import("/measure.mjs");
        const ort = versus ? await import("/ort/ort.wasm.bundle.min.mjs") : undefined;
        if (ort) ort.env.wasm.wasmPaths = "/ort/";
        const bytes = new Uint8Array(await (await fetch("/bench.wasm")).arrayBuffer());
        return measure(bytes, only, ort);
      },
      [only, versus],
    );
    return { ...result, place: `Chromium ${browser.version()}` };
  } finally {
    await browser.close();
  }
}

function inNode(name, module) {
  // Node.js 20 has relaxed SIMD behind a flag.
  const flags =
    name === "relaxed" && process.versions.node.startsWith("20.") ? ["--experimental-wasm-relaxed-simd"] : [];
  const child = [
    ...flags,
    fileURLToPath(import.meta.url),
    "--child",
    module,
    "--only",
    only,
    ...(versus ? ["--vs"] : []),
  ];
  const run = spawnSync(process.execPath, child, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 1 << 24,
  });
  if (run.status !== 0) throw new Error(`the benchmark ended with status ${run.status}`);
  return { ...JSON.parse(run.stdout.split("\n").at(-2)), place: `Node.js ${process.versions.node}` };
}

function print(name, { roof, rows, place }) {
  // Products of bytes have a roof of their own, which is one of the cases.
  const bytesRoof = rows.find(({ text }) => text === "int8 roof")?.rate ?? roof;
  const share = ({ text, rate }) => rate / (text.startsWith("int8 ") && text !== "int8 roof" ? bytesRoof : roof);
  if (has("--json")) {
    const cases = rows.map((row) => ({
      text: row.text,
      roof: share(row),
      ...(versus && { ratio: row.rate / row.otherRate }),
    }));
    console.log(JSON.stringify({ build: name, place, roof_gflops: roof, cases }));
    return;
  }
  console.log(
    `${place}, ${name}: roof ${roof.toFixed(1)} GFLOP/s${versus ? "; of the roof, times onnxruntime-web" : ""}`,
  );
  for (const row of rows) {
    const second = versus ? `  ${(row.rate / row.otherRate).toFixed(2)}` : "";
    console.log(`  ${row.text.padEnd(46)} ${share(row).toFixed(2)}${second}`);
  }
}

if (has("--child")) {
  const ort = versus ? await import("onnxruntime-web") : undefined;
  console.log(JSON.stringify(await measure(readFileSync(value("--child")), only, ort)));
} else {
  for (const name of builds) {
    const module = build(name);
    if (everywhere || has("--node")) print(name, inNode(name, module));
    if (everywhere || has("--browser")) print(name, await inBrowser(module));
  }
}
