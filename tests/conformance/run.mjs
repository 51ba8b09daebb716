// Runs the test cases of the `onnx` package through the built npm package, in Node.js. Every case passes or stands in
// expected_failures.tsv; a case that stands there and passes fails the run as well, as in the native run (main.rs).
//
//   node tests/conformance/run.mjs [FOLDER] [--device cpu|webgpu] [--only WORD,...] [--report FILE]
//
// FOLDER is what prepare.mjs makes, and made when it is not given.

import { fork } from "node:child_process";
import * as fs from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { prepareConformance } from "./prepare.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));

/**
 * Runs the cases below `folder`, each for no longer than `limit` seconds.
 * @returns what became of each: `{ case, status, seconds, operators, onGpu, gpuKernels, message }`
 */
export async function runConformance(
  folder,
  { device = "cpu", optimization = "all", only = [], limit = 60, report } = {},
) {
  const all = readTable(join(folder, "cases.tsv")).map(([id, rtol, atol]) => ({
    id,
    folder: join(folder, id),
    tolerance: { rtol: Number(rtol), atol: Number(atol) },
  }));
  const own = join(folder, "expected_failures.tsv");
  const exceptions = readTable(fs.existsSync(own) ? own : join(here, "expected_failures.tsv"), 0);
  // Of what is random, only types and shapes can be compared.
  const random = new Set(exceptions.filter(([, reason]) => reason?.startsWith("random")).map(([id]) => id));
  for (const one of all.filter(({ id }) => random.has(id))) one.random = true;
  const expected = new Set(exceptions.map(([id]) => id).filter((id) => !random.has(id)));
  const operators = operatorsOf(join(folder, "operators.tsv"));
  const chosen = all.filter(({ id }) => only.length === 0 || only.some((word) => id.includes(word)));
  // A software GPU takes all cores by itself.
  const outcomes = await runAll(chosen, [device, optimization], device === "cpu" ? availableParallelism() : 1, limit);
  const known = new Set(all.map(({ id }) => id));
  const unknown = exceptions.map(([id]) => id).filter((id) => !known.has(id));
  const rows = chosen.map(({ id }) => {
    const { failures, onGpu, gpuKernels, seconds } = outcomes.get(id);
    const status =
      failures.length === 0
        ? expected.has(id)
          ? "passed unexpectedly"
          : "passed"
        : expected.has(id)
          ? "failed as expected"
          : "failed";
    const message = failures.join(" | ").replaceAll(/\s*[\n\t]\s*/g, "; ");
    return { case: id, status, seconds, operators: operators.get(id) ?? [], onGpu, gpuKernels, message };
  });
  if (report) writeReport(report, rows);
  return { rows, unknown };
}

/** Lines of tab-separated columns; comments and the first `skipped` lines are left out. */
export function readTable(path, skipped = 1) {
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

/** Runs cases in other processes. One that does not answer in time is ended; its case fails, the others go on. */
function runAll(cases, settings, workers, limit) {
  const outcomes = new Map();
  let next = 0;
  const serve = () =>
    new Promise((resolve, reject) => {
      const worker = fork(join(here, "worker.mjs"), settings);
      let current;
      let timer;
      let reason;
      worker.on("message", (outcome) => {
        clearTimeout(timer);
        if (current) outcomes.set(current.id, outcome);
        current = cases[next++];
        if (!current) {
          worker.kill("SIGKILL");
          return;
        }
        timer = setTimeout(() => {
          reason = `it has not ended after ${limit} s`;
          worker.kill("SIGKILL");
        }, limit * 1000);
        worker.send(current);
      });
      worker.on("error", reject);
      worker.on("exit", (code, signal) => {
        clearTimeout(timer);
        if (current) {
          const failure = reason ?? `its process ended with ${signal ?? `exit code ${code}`}`;
          outcomes.set(current.id, { failures: [failure], onGpu: [], gpuKernels: [], seconds: limit });
          serve().then(resolve, reject);
        } else if (next === 0) {
          reject(new Error("the processes that run cases do not start"));
        } else {
          resolve();
        }
      });
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
