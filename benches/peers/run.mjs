// Other Rust engines beside modelet: wonnx on the GPU, natively, and rten and tract on the CPU as wasm in one Chromium page.
//
//   npm run bench:peers -- [--only gpu|cpu] [--networks ID,...] [--seconds S] [--profile NAME] [--json] [--write]
//
// Builds the peers (minutes, the first time), makes the networks, runs the engines in turns, compares what they compute, and
// prints a table. --profile is Cargo's profile for modelet's own native build, bench when left out. --write puts the table
// into docs/performance.md. `VK_DRIVER_FILES` picks the Vulkan driver.
// Numbers of one network come from one run on one machine; all engines are given one thread, and wasm relaxed SIMD.

import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { command } from "../../scripts/lib/steps.mjs";
import { nativeEnv, root, toolchain } from "../../scripts/lib/toolchain.mjs";

const here = join(root, "benches/peers");
const { values: options } = parseArgs({
  options: {
    only: { type: "string" },
    networks: { type: "string" },
    seconds: { type: "string", default: "5" },
    profile: { type: "string", default: "bench" },
    json: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});
const millis = Number(options.seconds) * 1000;
const networks = [
  { id: "squeezenet", input: "data_0", shape: [1, 3, 224, 224] },
  { id: "mnist-cnn", input: "x", shape: [1, 1, 28, 28] },
  { id: "digits-mlp", input: "x", shape: [1, 784] },
].filter(({ id }) => !options.networks || options.networks.split(",").includes(id));
const target = join(here, "target");

/** The networks and inputs for them, in files. */
async function prepare() {
  const { MODELET_CACHE: cache, MODELET_PYTHON: python } = toolchain();
  const folder = join(cache, "peers");
  const squeezenet = join(cache, "cnns/squeezenet.onnx");
  if (!fs.existsSync(squeezenet)) {
    await command(python, [join(root, "tests/models/make_cnns.py"), join(cache, "cnns"), "squeezenet"], {
      quiet: true,
    });
  }
  await command(python, [join(here, "make_networks.py"), folder, squeezenet], { quiet: true });
  for (const network of networks) {
    const count = network.shape.reduce((product, size) => product * size, 1);
    network.values = Float32Array.from({ length: count }, (_, index) => Math.sin(index * 0.37));
    network.model = join(folder, `${network.id}.onnx`);
    network.file = join(folder, `${network.id}.f32`);
    fs.writeFileSync(network.file, network.values);
  }
}

function cargo(args, { cwd = here, flags, ...env } = {}) {
  const settings = { ...nativeEnv(), ...env };
  if (flags) settings.RUSTFLAGS = flags;
  const result = spawnSync("cargo", args, {
    cwd,
    env: settings,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (result.status !== 0) throw new Error(`cargo ${args.join(" ")} ended with ${result.status}`);
  return result.stdout;
}

/** The largest difference between two outputs, relative to the larger value and to a thousandth of the largest. */
function difference(a, b) {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  const floor = a.reduce((max, value) => Math.max(max, Math.abs(value)), 0) * 1e-3;
  return a.reduce((max, value, index) => {
    const apart = Math.abs(value - b[index]) / Math.max(Math.abs(value), Math.abs(b[index]), floor, 1e-30);
    return Number.isNaN(apart) ? Number.POSITIVE_INFINITY : Math.max(max, apart);
  }, 0);
}

function summary({ load, first, times }) {
  const sorted = [...times].sort((a, b) => a - b);
  return {
    load_ms: load,
    first_ms: first,
    min_ms: sorted[0],
    median_ms: sorted[sorted.length >> 1],
    runs: sorted.length,
  };
}

/** A process that runs a model whenever a line is written to it. */
class Server {
  #child;
  #lines;

  constructor(file, args) {
    this.#child = spawn(file, args, { stdio: ["pipe", "pipe", "ignore"] });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async next() {
    const { done, value } = await this.#lines.next();
    if (done) throw new Error("the engine ended");
    return JSON.parse(value);
  }

  run() {
    this.#child.stdin.write("\n");
    return this.next();
  }

  end() {
    this.#child.stdin.end();
  }
}

async function gpu() {
  cargo(["build", "--release", "--quiet", "--features", "wonnx", "--bin", "peer-gpu", "--target-dir", target]);
  const peer = join(target, "release/peer-gpu");
  const messages = cargo(
    ["bench", "--profile", options.profile, "--bench", "gpu_table", "--no-run", "--message-format=json"],
    {
      cwd: root,
    },
  );
  const artifacts = messages
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const own = artifacts.find((artifact) => artifact.target?.name === "gpu_table" && artifact.executable)?.executable;
  const rows = [];
  for (const { id, model, file, input } of networks) {
    const servers = [new Server(own, ["--serve", model, file, input]), new Server(peer, [model, file, input])];
    try {
      const [ours, theirs] = [await servers[0].next(), await servers[1].next()];
      const times = [[], []];
      const begun = performance.now();
      while (times[0].length < 3 || performance.now() - begun < millis) {
        for (const [index, server] of servers.entries()) times[index].push(await server.run());
      }
      rows.push({
        network: id,
        adapter: ours.adapter,
        difference: difference(ours.output, theirs.output),
        modelet: summary({ load: ours.load_ms, first: ours.first_ms, times: times[0] }),
        wonnx: summary({ load: theirs.load_ms, first: theirs.first_ms, times: times[1] }),
      });
    } finally {
      for (const server of servers) server.end();
    }
  }
  return rows;
}

/** What the page asks for: itself, the package, the peers, the networks. */
function serve(page, peers) {
  const types = { js: "text/javascript", mjs: "text/javascript", wasm: "application/wasm" };
  return page.route("http://localhost/**", (route) => {
    const path = decodeURIComponent(new URL(route.request().url()).pathname);
    const [, kind, name] = /^\/(?:(peer|network|pkg)\/)?(.*)$/.exec(path);
    // Only cross-origin isolated pages have a timer finer than 0.1 ms.
    const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
    if (path === "/") return route.fulfill({ contentType: "text/html", headers, body: "<!doctype html>" });
    const network = networks.find(({ id }) => id === name);
    const file = { peer: peers[name], network: network?.model, pkg: join(root, "pkg", name) }[kind] ?? join(here, name);
    if (!fs.existsSync(file)) return route.fulfill({ status: 404, headers });
    const contentType = types[file.split(".").at(-1)] ?? "application/octet-stream";
    return route.fulfill({ contentType, headers, body: fs.readFileSync(file) });
  });
}

async function cpu() {
  const peers = {};
  for (const engine of ["rten", "tract"]) {
    const args = ["build", "--release", "--quiet", "--lib", "--target", "wasm32-unknown-unknown", "--features", engine];
    cargo([...args, "--target-dir", join(target, engine)], { flags: "-Ctarget-feature=+simd128,+relaxed-simd" });
    peers[engine] = join(target, engine, "wasm32-unknown-unknown/release/modelet_peers.wasm");
  }
  const { chromium } = await import("playwright-core");
  const candidates = [process.env.CHROME_PATH, toolchain().CHROMIUM, "/usr/bin/chromium", "/usr/bin/google-chrome"];
  const executablePath = candidates.find((path) => path && fs.existsSync(path));
  const rows = [];
  for (const { id, input, shape, values } of networks) {
    const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
    try {
      const page = await browser.newPage();
      await serve(page, peers);
      await page.goto("http://localhost/");
      const work = { id, input, shape, values: [...values], engines: Object.keys(peers), millis };
      const engines = await page.evaluate(async (work) => (await import("/page.mjs")).measure(work), work);
      const row = { network: id, browser: `Chromium ${browser.version()}`, modelet: summary(engines.modelet) };
      for (const name of Object.keys(peers)) {
        const { error, output } = engines[name];
        row[name] = error
          ? { error }
          : { ...summary(engines[name]), difference: difference(engines.modelet.output, output) };
      }
      rows.push(row);
    } finally {
      await browser.close();
    }
  }
  return rows;
}

const ms = (value) =>
  value < 0.1 ? value.toFixed(4) : value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0);
const ratio = (value) => value.toFixed(value < 10 ? 2 : 0);

function gpuTable(rows) {
  const lines = [
    "| network | modelet ms | wonnx ms | ratio | load + first run, modelet ms | wonnx ms | ratio | outputs differ by |",
    "|---|---|---|---|---|---|---|---|",
  ];
  for (const { network, modelet, wonnx, difference } of rows) {
    const [own, other] = [modelet.load_ms + modelet.first_ms, wonnx.load_ms + wonnx.first_ms];
    const figures = [ms(modelet.min_ms), ms(wonnx.min_ms), ratio(wonnx.min_ms / modelet.min_ms)];
    const loading = [ms(own), ms(other), ratio(other / own)];
    lines.push(`| ${network} | ${[...figures, ...loading, difference.toExponential(0)].join(" | ")} |`);
  }
  return `${lines.join("\n")}\n\nAdapter: ${rows[0]?.adapter}.`;
}

function cpuTable(rows) {
  const lines = [
    "| network | modelet ms | rten ms | ratio | tract ms | ratio | load + first run, modelet ms | rten ms | tract ms |",
    "|---|---|---|---|---|---|---|---|---|",
  ];
  for (const row of rows) {
    const peers = [row.rten, row.tract];
    const figures = peers.flatMap(({ error, min_ms }) =>
      error ? ["failed", ""] : [ms(min_ms), ratio(min_ms / row.modelet.min_ms)],
    );
    const loading = [row.modelet, ...peers].map(({ error, load_ms, first_ms }) =>
      error ? "" : ms(load_ms + first_ms),
    );
    lines.push(`| ${row.network} | ${[ms(row.modelet.min_ms), ...figures, ...loading].join(" | ")} |`);
  }
  const apart = ["rten", "tract"].map((name) => {
    const differences = rows.map((row) => row[name].difference).filter(Number.isFinite);
    return `${name}'s by at most ${Math.max(...differences).toExponential(0)}`;
  });
  return `${lines.join("\n")}\n\n${rows[0]?.browser}. Outputs differ: ${apart.join(", ")}.`;
}

await prepare();
const parts = [];
for (const [name, measure, table] of [
  ["gpu", gpu, gpuTable],
  ["cpu", cpu, cpuTable],
]) {
  if (options.only && options.only !== name) continue;
  const rows = await measure();
  if (options.json) for (const row of rows) console.log(JSON.stringify({ part: name, ...row }));
  parts.push([name, table(rows)]);
}
const machine = `${new Date().toISOString().slice(0, 10)}, ${cpus()[0]?.model.trim()}, ${cpus().length} logical cores`;
for (const [name, text] of parts) {
  const output = `\n${text}\n\nMinima of runs in turns over ${options.seconds} s, measured on ${machine}.\n`;
  if (!options.json) console.log(output);
  if (!options.write) continue;
  const file = join(root, "docs/performance.md");
  const [begin, end] = [`<!-- peers ${name}: written by npm run bench:peers -->`, `<!-- end of peers ${name} -->`];
  const page = fs.readFileSync(file, "utf8");
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/performance.md lacks the markers of peers ${name}`);
  fs.writeFileSync(file, `${page.slice(0, from + begin.length)}\n${output}${page.slice(to)}`);
}
