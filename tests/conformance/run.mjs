// Runs the test cases of the `onnx` package through the built npm package, in Node.js or in headless Chromium. Every case
// passes or stands in expected_failures.tsv; a case that stands there and passes fails the run as well, as in the native
// run (main.rs).
//
//   node tests/conformance/run.mjs [FOLDER] [--device cpu|webgpu] [--browser] [--operators all]
//     [--optimization LEVEL] [--only WORD,...] [--part I/N] [--report FILE] [--coverage FILE]
//
// FOLDER is what prepare.mjs makes, and made when it is not given. On WebGPU, whatever has a kernel there runs there, and
// the operators that do not are told (coverage.mjs). `--part 1/10` takes a tenth of the cases.

import { fork } from "node:child_process";
import * as fs from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { startCases } from "./browser.mjs";
import { coverageRemark, coverageText, gpuCoverage } from "./coverage.mjs";
import { prepareConformance } from "./prepare.mjs";
import { readTable } from "./table.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));

/**
 * Runs the cases below `folder`, each for no longer than `limit` seconds: whole networks take minutes on a software GPU.
 * @param part `[i, n]`: the i-th of n parts, each of which has cases of all kinds
 * @param options how sessions are loaded; those on WebGPU put there whatever has a kernel
 * @returns what became of each: `{ case, status, seconds, operators, onGpu, onCpu, message }`
 */
export async function runConformance(
  folder,
  { browser = false, only = [], part: [part, parts] = [1, 1], report, ...options } = {},
) {
  const all = readTable(join(folder, "cases.tsv")).map(([id, rtol, atol]) => readCase(folder, id, rtol, atol));
  const own = join(folder, "expected_failures.tsv");
  const exceptions = readTable(fs.existsSync(own) ? own : join(here, "expected_failures.tsv"), 0);
  // Of what is random, only types and shapes can be compared.
  const random = new Set(exceptions.filter(([, reason]) => reason?.startsWith("random")).map(([id]) => id));
  for (const one of all.filter(({ id }) => random.has(id))) one.random = true;
  const expected = new Set(exceptions.map(([id]) => id).filter((id) => !random.has(id)));
  const operators = operatorsOf(join(folder, "operators.tsv"));
  const chosen = all
    .filter(({ id }) => only.length === 0 || only.some((word) => id.includes(word)))
    .filter((_, index) => index % parts === part - 1);
  const { limit = options.device === "webgpu" ? 300 : 60 } = options;
  const loading = { device: "cpu", ...(options.device === "webgpu" && { offload: "everything" }), ...options };
  const outcomes = browser
    ? await runInPages(folder, chosen, loading, limit)
    : await runInProcesses(chosen, loading, limit);
  const known = new Set(all.map(({ id }) => id));
  const unknown = exceptions.map(([id]) => id).filter((id) => !known.has(id));
  const rows = chosen.map(({ id }) => {
    const { failures, ...rest } = outcomes.get(id);
    const status =
      failures.length === 0
        ? expected.has(id)
          ? "passed unexpectedly"
          : "passed"
        : expected.has(id)
          ? "failed as expected"
          : "failed";
    const message = failures.join(" | ").replaceAll(/\s*[\n\t]\s*/g, "; ");
    return { case: id, status, operators: operators.get(id) ?? [], ...rest, message };
  });
  if (report) writeReport(report, rows);
  return { rows, unknown };
}

/** A case with the files of its test data. */
export function readCase(folder, id, rtol, atol) {
  const own = join(folder, id);
  const sets = fs.readdirSync(own).filter((name) => name.startsWith("test_data_set_"));
  const files = (set, kind) => {
    const count = fs.readdirSync(set).filter((name) => new RegExp(`^${kind}_\\d+\\.pb$`).test(name)).length;
    return Array.from({ length: count }, (_, i) => join(set, `${kind}_${i}.pb`));
  };
  return {
    id,
    model: join(own, "model.onnx"),
    sets: sets
      .map((name) => join(own, name))
      .map((set) => ({ inputs: files(set, "input"), outputs: files(set, "output") })),
    tolerance: { rtol: Number(rtol), atol: Number(atol) },
  };
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
  const line = ({ case: id, status, seconds, operators, onGpu, onCpu, message }) => {
    const reasons = onCpu.map(([operator, reason]) => `${operator} (${reason})`).join("; ");
    return [id, status, seconds.toFixed(3), operators.join(" "), onGpu.join(" "), reasons, message].join("\t");
  };
  const head = "case\tstatus\tseconds\toperators\ton_gpu\ton_cpu\tmessage";
  fs.writeFileSync(path, [head, ...rows.map(line), ""].join("\n"));
}

/** Runs cases one after the other in a browser. */
async function runInPages(folder, cases, options, limit) {
  const outcomes = new Map();
  const pages = await startCases(folder, { webgpu: options.device === "webgpu" });
  try {
    for (const [at, one] of cases.entries()) {
      if (at % 100 === 0 && at > 0) console.log(`${at} of ${cases.length} cases`);
      outcomes.set(one.id, await pages.run(one, options, limit));
    }
  } finally {
    await pages.close();
  }
  return outcomes;
}

/** Runs cases in other processes. One that does not answer in time is ended; its case fails, the others go on. */
function runInProcesses(cases, options, limit) {
  // A software GPU takes all cores by itself.
  const workers = options.device === "cpu" ? availableParallelism() : 1;
  const outcomes = new Map();
  let next = 0;
  const serve = () =>
    new Promise((resolve, reject) => {
      const worker = fork(join(here, "worker.mjs"), [JSON.stringify(options)]);
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
          outcomes.set(current.id, { failures: [failure], onGpu: [], onCpu: [], seconds: limit });
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
export async function checkConformance(folder, { coverage, ...options } = {}) {
  const { rows, unknown } = await runConformance(folder, options);
  const wrong = rows.filter(({ status }) => status === "failed" || status === "passed unexpectedly");
  for (const { case: id, status, message } of wrong) console.log(`${status}: ${id}: ${message}`);
  for (const id of unknown) console.log(`not a case: ${id}`);
  const count = (wanted) => rows.filter(({ status }) => status === wanted).length;
  let remark = `${count("passed")} passed, ${count("failed as expected")} expected failures`;
  if (options.device === "webgpu") {
    const covered = gpuCoverage(folder, rows);
    if (coverage) fs.writeFileSync(coverage, coverageText(covered));
    remark = `${remark}, ${coverageRemark(covered)}`;
  }
  if (wrong.length + unknown.length > 0) {
    throw new Error(`${wrong.length} of ${rows.length} cases are not as expected, ${unknown.length} do not exist`);
  }
  console.log(`conformance: ${remark}`);
  return remark;
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  const text = { type: "string" };
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      device: text,
      browser: { type: "boolean" },
      operators: text,
      optimization: text,
      only: text,
      part: text,
      report: text,
      coverage: text,
    },
  });
  const { only, part, ...rest } = values;
  const folder = positionals[0] ?? (await prepareConformance());
  const chosen = { ...(only && { only: only.split(",") }), ...(part && { part: part.split("/").map(Number) }) };
  await checkConformance(folder, { ...rest, ...chosen }).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
