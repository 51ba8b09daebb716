// `modelet verify`: runs models on test data and compares the outputs with the references.

import { ModeletError, messageOf } from "../errors.js";
import type { Values } from "../value.js";
import type { Command } from "./arguments.js";
import { browserRunner } from "./browser.js";
import { type Case, findCases, type TestSet } from "./cases.js";
import { compareValues, type Tolerance } from "./compare.js";
import { nodeRunner, type OpenModel, type OpenOptions, type Runner } from "./runner.js";
import { instability, nearbyOutputs, roundsInside } from "./stability.js";
import { clearProgress, note, paint, print, progress, UsageError } from "./terminal.js";

/** The outcome of one set, as `--json` prints it. */
export interface Outcome {
  readonly id: string;
  readonly set: string;
  /** `unstable`: beyond the tolerance, but no further than the outputs of a model that rounds inside move by themselves. */
  readonly status: "pass" | "unstable" | "fail" | "error";
  /** The largest differences between finite numbers; null when nothing could be compared. */
  readonly max_abs: number | null;
  readonly max_rel: number | null;
  readonly message: string;
}

export const verify: Command = {
  name: "verify",
  usage: "verify DIR... [--device cpu|webgpu|auto] [--threads N] [--browser] [--rtol N] [--atol N] [--strict] [--json]",
  summary: `Run the models of case folders on their test data and compare with the reference outputs.
Outputs of a model that rounds inside (to 8-bit integers, to half precision) may lie as far from them as they move by
themselves when the last bits of the inputs change: they are listed as unstable, and are no failure.`,
  options: {
    device: { value: "DEVICE", help: "cpu, webgpu or auto (default: cpu)" },
    threads: { value: "N", help: "threads of the CPU (default: half the logical cores)" },
    browser: { help: "run inside headless Chromium" },
    rtol: { value: "N", help: "relative tolerance (default: 1e-3)" },
    atol: { value: "N", help: "absolute tolerance (default: 1e-4)" },
    strict: { help: "what moves by itself is a failure too" },
    json: { help: "print one JSON line per set" },
  },
  async run(folders, options) {
    if (folders.length === 0) throw new UsageError("verify takes one folder or more");
    const open = { device: options.device("cpu"), ...options.threads() };
    const tolerance = { rtol: options.number("rtol", 1e-3), atol: options.number("atol", 1e-4) };
    const cases = findCases(folders);
    const report = options.on("json") ? (outcome: Outcome) => print(JSON.stringify(outcome)) : printOutcome;
    const runner = options.on("browser") ? await browserRunner(open.device) : nodeRunner();
    const counts = { pass: 0, unstable: 0, fail: 0, error: 0 };
    try {
      for (const [i, one] of cases.entries()) {
        progress(`${i + 1} of ${cases.length}: ${one.id}`);
        for await (const outcome of verifyCase(runner, one, open, tolerance, options.on("strict"))) {
          counts[outcome.status]++;
          clearProgress();
          report(outcome);
        }
      }
    } finally {
      clearProgress();
      await runner.close();
    }
    const bad = counts.fail + counts.error;
    if (!options.on("json")) {
      const unstable = counts.unstable > 0 ? `${counts.unstable} unstable, ` : "";
      const text = `${counts.pass} passed, ${unstable}${counts.fail} failed, ${counts.error} ended in an error`;
      print(paint(bad > 0 ? "red" : "green", text));
    }
    return bad > 0 ? 1 : 0;
  },
};

async function* verifyCase(
  runner: Runner,
  one: Case,
  open: OpenOptions,
  tolerance: Tolerance,
  strict: boolean,
): AsyncGenerator<Outcome> {
  let model: OpenModel;
  try {
    model = await runner.open(one.model, open);
  } catch (error) {
    for (const set of one.sets) yield failure(one, set, error);
    return;
  }
  // How far outputs move is the model's own, and the CPU takes seconds to say so where a software adapter takes minutes.
  let steady: Promise<OpenModel> | undefined;
  const onCpu = () => {
    steady ??= open.device === "cpu" ? Promise.resolve(model) : runner.open(one.model, { ...open, device: "cpu" });
    return steady;
  };
  for (const set of one.sets) {
    try {
      yield { id: one.id, set: set.name, ...(await verifySet(model, onCpu, set, tolerance, strict)) };
    } catch (error) {
      yield failure(one, set, error);
    }
  }
  const heavy = (await model.report().catch(() => undefined))?.nodes.filter((node) => node.heavy) ?? [];
  const left = heavy.filter((node) => node.device === "cpu");
  if (open.device === "webgpu" && left.length > 0) {
    const first = left.slice(0, 3).map(({ node, reason }) => `${node} (${reason ?? "no reason given"})`);
    note(`${one.id}: ${left.length} of ${heavy.length} heavy nodes ran on the CPU, such as ${first.join(", ")}`);
  }
  await model.release().catch(() => {});
  if (steady !== undefined) await steady.then((model) => model.release()).catch(() => {});
}

async function verifySet(
  model: OpenModel,
  onCpu: () => Promise<OpenModel>,
  set: TestSet,
  tolerance: Tolerance,
  strict: boolean,
): Promise<Omit<Outcome, "id" | "set">> {
  const { feeds, expected } = await set.read(model.inputs, model.outputs);
  const actual = await model.run(feeds);
  const messages: string[] = [];
  const differing: string[] = [];
  let maxAbs = 0;
  let maxRel = 0;
  if (Object.keys(expected).length === 0) messages.push("the set has no reference outputs");
  for (const [name, value] of Object.entries(expected)) {
    if (!Object.hasOwn(actual, name)) {
      messages.push(`the model has no output ${name}`);
      continue;
    }
    const comparison = compareValues(name, actual[name], value, tolerance);
    // Written so that NaN, from what could not be compared, is kept.
    maxAbs = comparison.maxAbs <= maxAbs ? maxAbs : comparison.maxAbs;
    maxRel = comparison.maxRel <= maxRel ? maxRel : comparison.maxRel;
    if (comparison.message !== undefined) {
      messages.push(comparison.message);
      differing.push(name);
    }
  }
  const numbers = {
    max_abs: Number.isFinite(maxAbs) ? maxAbs : null,
    max_rel: Number.isFinite(maxRel) ? maxRel : null,
  };
  if (messages.length === 0) return { status: "pass", ...numbers, message: "" };
  if (!strict && messages.length === differing.length && roundsInside(await model.inspect("graph", false))) {
    const cpu = await onCpu();
    const base = cpu === model ? actual : await cpu.run(feeds);
    const nearby: Values[] = [];
    for await (const outputs of nearbyOutputs((near) => cpu.run(near), feeds)) {
      nearby.push(outputs);
      const moved = (name: string) => nearby.map((values) => values[name]);
      const reasons = differing.map((name) =>
        instability(name, actual[name], expected[name] ?? null, base[name], moved(name)),
      );
      if (reasons.every((reason) => reason !== undefined)) {
        return { status: "unstable", ...numbers, message: reasons.join("; ") };
      }
    }
  }
  return { status: "fail", ...numbers, message: messages.join("; ") };
}

function failure(one: Case, set: TestSet, error: unknown): Outcome {
  const message = error instanceof ModeletError ? `${error.code}: ${error.describe()}` : messageOf(error);
  return { id: one.id, set: set.name, status: "error", max_abs: null, max_rel: null, message };
}

function printOutcome({ id, set, status, max_abs, max_rel, message }: Outcome): void {
  const colour = status === "pass" ? "green" : status === "unstable" ? "yellow" : "red";
  const numbers = max_abs === null ? "" : `  max abs ${shown(max_abs)}, max rel ${shown(max_rel)}`;
  print(
    `${paint(colour, status.padEnd(8))}  ${id}  ${paint("dim", set)}${numbers}${message ? `\n          ${message.replaceAll("\n", "\n          ")}` : ""}`,
  );
}

function shown(value: number | null): string {
  return value === null ? "–" : value.toExponential(2);
}
