// Model tables: modelet beside onnxruntime-web and LiteRT.js in headless Chromium, all engines of a model in one page,
// run in turns.
//
//   npm run bench -- [--models ID,...] [--cases FOLDER] [--runs N] [--threads N] [--max-seconds S] [--pairs FOLDER]
//                    [--cold] [--write]
//
// Without --models: the real models of tests/models, five CNNs with random weights, and the pairs. --cases takes the
// models from a folder of case folders (model.onnx with test_data_set_*) instead of fetching and making them. --pairs
// names a folder of networks that lie there as .onnx and .tflite; without it LiteRT.js is left out. --cold measures from the
// navigation to the first result instead. --write puts the table into docs/performance.md.

import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { root, toolchain } from "../scripts/lib/toolchain.mjs";
import { findModels, geometricMean, machine, ms, write } from "./tables.mjs";

const { values: options } = parseArgs({
  options: {
    models: { type: "string" },
    cases: { type: "string" },
    runs: { type: "string", default: "20" },
    threads: { type: "string", default: "1" },
    "max-seconds": { type: "string", default: "60" },
    pairs: { type: "string" },
    cold: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});

const coldModels = ["ppocr-cls", "minilm-l3-fp32"];

/** `{ id, path }` of every model that is asked for. */
async function targets() {
  const chosen = options.models?.split(",") ?? (options.cold ? coldModels : undefined);
  return [...(await findModels(chosen, options.cases)), ...pairs()];
}

/** The networks of --pairs. */
function pairs() {
  const files = options.pairs ? fs.readdirSync(options.pairs).filter((file) => file.endsWith(".onnx")) : [];
  return files.map((file) => ({ id: file.slice(0, -5), path: join(options.pairs, file), pair: true }));
}

/** Measures one model, and gives its rows. */
function measure({ path, pair }) {
  const args = [...process.execArgv, "pkg/cli.js", "bench", path, "--browser", "--device", "cpu", "--json"];
  args.push("--vs", pair ? "onnxruntime-web,litert" : "onnxruntime-web", "--runs", options.runs);
  args.push("--threads", options.threads, "--max-seconds", options["max-seconds"], ...(options.cold ? ["--cold"] : []));
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, {
      cwd: root,
      env: { ...process.env, CHROME_PATH: process.env.CHROME_PATH ?? toolchain().CHROMIUM },
      stdio: ["ignore", "pipe", "inherit"],
    });
    const rows = [];
    createInterface({ input: child.stdout }).on("line", (line) => rows.push(JSON.parse(line)));
    child.on("error", reject);
    child.on("close", () => resolve(rows.filter(({ engine }) => engine)));
  });
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(0);

function table(measured) {
  const lines = [
    "| model | modelet min ms | median ms | onnxruntime-web min ms | median ms | ratio of minima | of medians | load + first run | peak memory | MB |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ];
  const ratios = { min: [], median: [], first: [] };
  for (const { id, rows } of measured) {
    const own = rows.find(({ engine }) => engine === "modelet");
    const other = rows.find(({ engine }) => engine === "onnxruntime-web");
    if (!own || !other) {
      lines.push(`| ${id} | ${own ? "" : "failed"} | | ${other ? "" : "failed"} | | | | | | |`);
      continue;
    }
    const ratio = {
      min: other.min_ms / own.min_ms,
      median: other.median_ms / own.median_ms,
      first: (other.load_ms + other.first_ms) / (own.load_ms + own.first_ms),
    };
    for (const [name, value] of Object.entries(ratio)) ratios[name].push(value);
    lines.push(
      `| ${id} | ${ms(own.min_ms)} | ${ms(own.median_ms)} | ${ms(other.min_ms)} | ${ms(other.median_ms)} | ` +
        `${ratio.min.toFixed(2)} | ${ratio.median.toFixed(2)} | ${ratio.first.toFixed(2)} | ` +
        `${(own.peak_bytes / other.peak_bytes).toFixed(2)} | ${megabytes(own.peak_bytes)} |`,
    );
  }
  const means = ["min", "median", "first"].map((name) => geometricMean(ratios[name]).toFixed(2));
  lines.push(`| geometric mean of ${ratios.min.length} | | | | | ${means.join(" | ")} | | |`);
  const pairs = measured.filter(({ rows }) => rows.some(({ engine }) => engine === "litert"));
  if (pairs.length > 0) {
    lines.push(
      "",
      "| network | modelet min ms | LiteRT.js min ms | ratio of minima | of medians |",
      "|---|---|---|---|---|",
    );
    for (const { id, rows } of pairs) {
      const [own, peer] = ["modelet", "litert"].map((name) => rows.find(({ engine }) => engine === name));
      const figures = [own.min_ms, peer.min_ms].map(ms);
      const both = [peer.min_ms / own.min_ms, peer.median_ms / own.median_ms].map((value) => value.toFixed(2));
      lines.push(`| ${id} | ${[...figures, ...both].join(" | ")} |`);
    }
  }
  return lines.join("\n");
}

function coldTable(measured) {
  const lines = [
    "| model | gzip | modelet min ms | median ms | onnxruntime-web min ms | median ms | ratio of minima | of medians |",
    "|---|---|---|---|---|---|---|---|",
  ];
  for (const { id, rows } of measured) {
    for (const gzip of [true, false]) {
      const [own, peer] = ["modelet", "onnxruntime-web"].map((name) =>
        rows.find((row) => row.engine === name && row.gzip === gzip),
      );
      if (!own || !peer) continue;
      const figures = [own.min_ms, own.median_ms, peer.min_ms, peer.median_ms].map(ms);
      const ratios = [peer.min_ms / own.min_ms, peer.median_ms / own.median_ms].map((value) => value.toFixed(2));
      lines.push(`| ${id} | ${gzip ? "yes" : "no"} | ${[...figures, ...ratios].join(" | ")} |`);
    }
  }
  return lines.join("\n");
}

const measured = [];
for (const target of await targets()) {
  const rows = await measure(target);
  measured.push({ id: target.id, rows });
  for (const { id, engine, gzip, min_ms, median_ms } of rows) {
    const mode = gzip === undefined ? "" : gzip ? ", gzip" : ", no gzip";
    console.error(`${id}: ${engine}${mode}: minimum ${ms(min_ms)} ms, median ${ms(median_ms)} ms`);
  }
}
const text = options.cold ? coldTable(measured) : table(measured);
const how = options.cold ? "" : `, ${options.threads} thread${options.threads === "1" ? "" : "s"} per engine`;
const output = `\n${text}\n\nMeasured on ${machine()}${how}, at most ${options.runs} runs of each.`;
console.log(output);
if (options.write) write(options.cold ? "cold start" : "models", "npm run bench", output);
