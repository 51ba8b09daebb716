// Runs the test cases of the `onnx` package through the built npm package, in Node.js. Every case passes or stands in
// expected_failures.tsv; a case that stands there and passes fails the run as well, as in the native run (main.rs).
//
//   node tests/conformance/run.mjs [FOLDER] [--device cpu|webgpu] [--only WORD,...] [--report FILE]
//
// FOLDER is what prepare.mjs makes, and made when it is not given.

import * as fs from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { prepareConformance } from "./prepare.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));

/** How long one case may take, in milliseconds. */
const limit = 60_000;

/**
 * Runs the cases below `folder`.
 * @returns what became of each: `{ case, status, seconds, operators, onGpu, message }`
 */
export async function runConformance(folder, { device = "cpu", only = [], report } = {}) {
  const all = readTable(join(folder, "cases.tsv")).map(([id, rtol, atol]) => ({
    id,
    folder: join(folder, id),
    tolerance: { rtol: Number(rtol), atol: Number(atol) },
  }));
  const own = join(folder, "expected_failures.tsv");
  const expected = new Map(readTable(fs.existsSync(own) ? own : join(here, "expected_failures.tsv"), 0));
  const operators = operatorsOf(join(folder, "operators.tsv"));
  const chosen = all.filter(({ id }) => only.length === 0 || only.some((word) => id.includes(word)));
  // A software GPU takes all cores by itself.
  const outcomes = await runAll(chosen, device, device === "cpu" ? availableParallelism() : 1);
  const known = new Set(all.map(({ id }) => id));
  const unknown = [...expected.keys()].filter((id) => !known.has(id));
  const rows = chosen.map(({ id }) => {
    const { failures, onGpu, seconds } = outcomes.get(id);
    const status =
      failures.length === 0
        ? expected.has(id)
          ? "passed unexpectedly"
          : "passed"
        : expected.has(id)
          ? "failed as expected"
          : "failed";
    const message = failures.join(" | ").replaceAll(/\s*[\n\t]\s*/g, "; ");
    return { case: id, status, seconds, operators: operators.get(id) ?? [], onGpu, message };
  });
  if (report) writeReport(report, rows);
  return { rows, unknown };
}

/** Lines of tab-separated columns; comments and the first `skipped` lines are left out. */
function readTable(path, skipped = 1) {
  const lines = fs.readFileSync(path, "utf8").split("\n").slice(skipped);
  return lines.filter((line) => line && !line.startsWith("#")).map((line) => line.split("\t"));
}

/** The operators of each case, from the table beside the cases. */
function operatorsOf(path) {
  const operators = new Map();
  for (const [id, domain, name] of readTable(path, 0)) {
    if (!operators.has(id)) operators.set(id, new Set());
    operators.get(id).add(domain ? `${domain}.${name}` : name);
  }
  return new Map(Array.from(operators, ([id, names]) => [id, [...names].sort()]));
}

function writeReport(path, rows) {
  const line = (row) =>
    [row.case, row.status, row.seconds.toFixed(3), row.operators.join(" "), row.onGpu.join(" "), row.message].join(
      "\t",
    );
  fs.writeFileSync(path, ["case\tstatus\tseconds\toperators\ton_gpu\tmessage", ...rows.map(line), ""].join("\n"));
}

/** Runs cases in worker threads. A worker that does not answer in time is ended; its case fails, the others go on. */
function runAll(cases, device, workers) {
  const outcomes = new Map();
  let next = 0;
  const serve = () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(join(here, "worker.mjs"), { workerData: { device } });
      let current;
      let timer;
      const give = () => {
        clearTimeout(timer);
        current = cases[next++];
        if (!current) {
          worker.terminate().then(resolve, reject);
          return;
        }
        timer = setTimeout(() => replace(`it has not ended after ${limit / 1000} s`), limit);
        worker.postMessage(current);
      };
      const fail = (message) => outcomes.set(current.id, { failures: [message], onGpu: [], seconds: limit / 1000 });
      const replace = (message) => {
        clearTimeout(timer);
        worker.removeAllListeners();
        fail(message);
        worker.terminate().then(() => serve().then(resolve, reject), reject);
      };
      worker.on("message", (outcome) => {
        if (outcome !== "ready") outcomes.set(current.id, outcome);
        give();
      });
      worker.on("error", (error) => (current ? replace(`the worker died: ${error.message}`) : reject(error)));
    });
  return Promise.all(Array.from({ length: Math.min(workers, cases.length) }, serve)).then(() => outcomes);
}

/** Runs the cases and prints what is not as expected; the remark for a table of steps. */
export async function checkConformance(folder, options) {
  const { rows, unknown } = await runConformance(folder, options);
  const wrong = rows.filter(({ status }) => status === "failed" || status === "passed unexpectedly");
  for (const { case: id, status, message } of wrong) console.log(`${status}: ${id}: ${message}`);
  for (const id of unknown) console.log(`not a case: ${id}`);
  const count = (wanted) => rows.filter(({ status }) => status === wanted).length;
  const remark = `${count("passed")} passed, ${count("failed as expected")} expected failures`;
  if (wrong.length + unknown.length > 0) {
    throw new Error(`${wrong.length} of ${rows.length} cases are not as expected, ${unknown.length} do not exist`);
  }
  console.log(`conformance: ${remark}`);
  return remark;
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { device: { type: "string" }, only: { type: "string" }, report: { type: "string" } },
  });
  const { device = "cpu", only, report } = values;
  const folder = positionals[0] ?? (await prepareConformance());
  await checkConformance(folder, { device, report, only: only?.split(",") }).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
