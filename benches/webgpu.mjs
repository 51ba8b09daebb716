// WebGPU tables: modelet beside onnxruntime-web's WebGPU provider in headless Chromium, both in one page and on the same
// adapter, run in turns; and how many dispatches a run takes, against the nodes of the model's file.
//
//   node benches/webgpu.mjs [--models ID,...] [--cases FOLDER] [--runs N] [--dispatches] [--write]
//
// An engine that does not answer within 60 seconds is said not to. Without --models: the networks of the table in
// docs/performance.md. --cases takes them from a folder of case folders (model.onnx with test_data_set_*) instead of
// fetching and making them. --dispatches counts dispatches instead. --write puts the table into docs/performance.md.

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
    runs: { type: "string", default: "5" },
    dispatches: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});

const timed = ["blazeface-front", "silero-vad-v6", "ppocr-cls", "minilm-l3-fp32", "basic-pitch", "squeezenet"];
const counted = ["minilm-l3-fp32", "resnet50", "vit-s-focus", "squeezenet", "blazeface-front"];

/** Runs the command line, and gives the lines it prints; what it printed so far, once `limit` milliseconds are over. */
function modelet(args, limit) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...process.execArgv, "pkg/cli.js", ...args], {
      cwd: root,
      env: { ...process.env, CHROME_PATH: process.env.CHROME_PATH ?? toolchain().CHROMIUM },
      stdio: ["ignore", "pipe", "inherit"],
    });
    const lines = [];
    // The browser is the child's own and ends with it when asked to.
    const timer = limit === undefined ? undefined : setTimeout(() => child.kill("SIGTERM"), limit);
    createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
    child.on("error", reject);
    child.on("close", () => {
      clearTimeout(timer);
      resolve(lines);
    });
  });
}

/** Measures a model by engine. */
async function measure({ path }) {
  const args = ["bench", path, "--browser", "--device", "webgpu", "--json", "--runs", options.runs];
  const rows = async (more, limit) =>
    (await modelet([...args, ...more], limit)).map((line) => JSON.parse(line)).filter(({ engine }) => engine);
  const both = await rows(["--vs", "onnxruntime-web", "--answer-seconds", "60", "--max-seconds", "60"], 300_000);
  // A page that is blocked cannot even say so.
  return both.length > 0 ? both : rows([]);
}

/** Nodes of the model's file that an interpreter would execute. */
async function nodesOf({ path }) {
  const file = fs.statSync(path).isDirectory() ? join(path, "model.onnx") : path;
  const [text] = await modelet(["inspect", file, "--stage", "graph", "--json"]);
  return JSON.parse(text).nodes.length;
}

function timesTable(measured) {
  const lines = [
    "| model | modelet min ms | median ms | first run ms | onnxruntime-web min ms | median ms | first run ms | ratio of minima | of first runs | of load + first run |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ];
  const ratios = [[], [], []];
  for (const { id, rows } of measured) {
    const [own, other] = ["modelet", "onnxruntime-web"].map((name) => rows.find(({ engine }) => engine === name));
    const figures = own ? [own.min_ms, own.median_ms, own.first_ms].map(ms) : ["failed", "", ""];
    if (!own || !other) {
      lines.push(`| ${[id, ...figures, "no answer in 60 s", "", "", "", "", ""].join(" | ")} |`);
      continue;
    }
    const of = [
      other.min_ms / own.min_ms,
      other.first_ms / own.first_ms,
      (other.load_ms + other.first_ms) / (own.load_ms + own.first_ms),
    ];
    for (const [index, ratio] of of.entries()) ratios[index].push(ratio);
    const others = [other.min_ms, other.median_ms, other.first_ms].map(ms);
    lines.push(`| ${[id, ...figures, ...others, ...of.map((ratio) => ratio.toFixed(2))].join(" | ")} |`);
  }
  const means = ratios.map((list) => (list.length > 0 ? geometricMean(list).toFixed(2) : ""));
  lines.push(`| geometric mean of ${ratios[0].length} | | | | | | | ${means.join(" | ")} |`);
  return lines.join("\n");
}

/** One run of modelet alone. */
async function measureAlone({ path }) {
  const lines = await modelet(["bench", path, "--browser", "--device", "webgpu", "--json", "--runs", "1"]);
  return lines.map((line) => JSON.parse(line)).filter(({ engine }) => engine);
}

function dispatchTable(counts) {
  const lines = ["| model | executed ONNX nodes | dispatches per run | |", "|---|---|---|---|"];
  for (const { id, rows, nodes } of counts) {
    const [own] = rows;
    const cells = own ? [own.dispatches, (own.dispatches / nodes).toFixed(2)] : ["failed", ""];
    lines.push(`| ${[id, nodes, ...cells].join(" | ")} |`);
  }
  return lines.join("\n");
}

const models = await findModels(options.models?.split(",") ?? (options.dispatches ? counted : timed), options.cases);
const found = [];
for (const model of models) {
  if (options.dispatches) {
    const [own] = await measureAlone(model);
    const nodes = await nodesOf(model);
    found.push({ id: model.id, rows: own ? [own] : [], nodes });
    console.error(`${model.id}: ${nodes} nodes, ${own?.dispatches} dispatches`);
    continue;
  }
  const rows = await measure(model);
  found.push({ id: model.id, rows });
  for (const { engine, min_ms, first_ms } of rows) {
    console.error(`${model.id}: ${engine}: minimum ${ms(min_ms)} ms, first run ${ms(first_ms)} ms`);
  }
}

const text = options.dispatches ? dispatchTable(found) : timesTable(found);
const adapter = found.flatMap(({ rows }) => rows).find((row) => row.adapter)?.adapter ?? "unknown";
const how = options.dispatches ? "" : `, at most ${options.runs} runs of each`;
const output = `\n${text}\n\nMeasured on ${machine()}, adapter: ${adapter}${how}.`;
console.log(output);
if (options.write) write(options.dispatches ? "dispatches" : "webgpu", "benches/webgpu.mjs", output);
