// `modelet bench`: measures models, alone or in turns with onnxruntime-web. Each model is measured in a fresh page or a
// fresh process, so that loading counts everything a first visit pays for.

import { fork } from "node:child_process";
import { existsSync, readdirSync, realpathSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { messageOf } from "../errors.js";
import type { Values } from "../value.js";
import type { Command, Options } from "./arguments.js";
import { type BrowserHost, browserRunner, liteRtFolder, ortFolder, startBrowser } from "./browser.js";
import { findCases, type TestSet } from "./cases.js";
import { type ColdMeasurement, measureCold } from "./cold.js";
import { parseDimensions, randomInputs } from "./inputs.js";
import { type BenchPlan, type EngineName, type Measurement, measure } from "./measure.js";
import { packValues, unpackValues } from "./pack.js";
import { printProfile } from "./profile.js";
import { nodeRunner, prepareVulkan } from "./runner.js";
import { clearProgress, formatBytes, formatMs, note, print, printTable, progress, UsageError } from "./terminal.js";

/** The name of the hidden command that measures one model in a process of its own. */
export const childCommand = "measure-one";

const numbers = ["load_ms", "first_ms", "min_ms", "median_ms", "peak_bytes"] as const;

export const bench: Command = {
  name: "bench",
  usage: "bench DIR|MODEL... [--device D] [--browser] [--runs N] [--vs onnxruntime-web] [--profile] [--json]",
  summary: `Measure loading and running, alone or in turns with another engine.
With --vs a ratio follows, of the other engine to modelet: above 1, modelet is faster or smaller.
With --profile every step is timed by itself: a table of kernels and one of nodes, the slowest first.`,
  options: {
    device: { value: "DEVICE", help: "cpu, webgpu or auto (default: cpu)" },
    threads: { value: "N", help: "threads of every engine (default: 1)" },
    browser: { help: "measure inside headless Chromium" },
    runs: { value: "N", help: "timed runs after the first (default: 10)" },
    "max-seconds": { value: "S", help: "begin no further run of a model after this time (default: 120)" },
    "answer-seconds": { value: "S", help: "leave out an engine that does not load and run once in this time" },
    vs: { value: "ENGINE,...", help: "also measure onnxruntime-web, or litert where a .tflite file lies by the model" },
    dim: { value: "NAME=N", help: "size of a symbolic dimension of made-up inputs (default: 1)", multiple: true },
    cold: {
      help: "measure from the navigation to a page to the first result, with and without gzip (needs --browser)",
    },
    profile: { help: "show where the time of a run goes, by kernel and node" },
    json: { help: "print one JSON line per engine and model" },
  },
  async run(paths, options) {
    if (paths.length === 0) throw new UsageError("bench takes one model, case folder or more");
    const targets = paths.flatMap(findTargets);
    const dimensions = parseDimensions(options.texts("dim"));
    if (options.on("profile")) return profileAll(targets, dimensions, options);
    const plan = makePlan(options);
    if (plan.engines.includes("litert") && !options.on("browser")) throw new UsageError("litert needs --browser");
    const host = options.on("browser") ? await startBrowser(plan.device) : undefined;
    if (!host && plan.device === "webgpu") prepareVulkan();
    if (options.on("cold") && !host) throw new UsageError("--cold needs --browser");
    const rows: string[][] = [];
    let failures = 0;
    try {
      for (const target of targets) {
        progress(`measuring ${target.id}`);
        try {
          const feeds = await targetFeeds(target, dimensions);
          if (options.on("cold") && host) {
            const engines = plan.engines.filter((engine) => engine !== "litert");
            const cold = await measureCold(host, engines, target.model, feeds, plan.runs);
            clearProgress();
            rows.push(...reportCold(target.id, cold, options.on("json")));
            continue;
          }
          const measured = host
            ? await measureInPage(host, plan, target.model, feeds)
            : await measureInChild(plan, target.model, feeds);
          clearProgress();
          rows.push(...report(target.id, measured, options.on("json")));
        } catch (error) {
          failures++;
          note(`${target.id}: ${messageOf(error)}`);
        }
      }
    } finally {
      clearProgress();
      await host?.close();
    }
    if (options.on("cold") && !options.on("json")) {
      printTable(["model", "engine", "gzip", "min ms", "median ms"], rows);
    } else if (!options.on("json")) {
      printTable(["model", "engine", "device", "threads", "load ms", "first ms", "min ms", "median ms", "peak"], rows);
    }
    return failures > 0 ? 1 : 0;
  },
};

/** Times every step of each model. */
async function profileAll(
  targets: readonly Target[],
  dimensions: ReadonlyMap<string, number>,
  options: Options,
): Promise<number> {
  if (options.text("vs") !== undefined) throw new UsageError("--profile looks at modelet alone: leave --vs out");
  const device = options.device("cpu");
  const runner = options.on("browser") ? await browserRunner(device) : nodeRunner();
  let failures = 0;
  try {
    for (const target of targets) {
      progress(`profiling ${target.id}`);
      try {
        const feeds = await targetFeeds(target, dimensions);
        const model = await runner.open(target.model, { device });
        try {
          const profile = await model.profile(feeds, options.integer("runs", 10, 1));
          clearProgress();
          if (options.on("json")) print(JSON.stringify({ id: target.id, ...profile, report: await model.report() }));
          else printProfile(target.id, profile);
        } finally {
          await model.release();
        }
      } catch (error) {
        failures++;
        note(`${target.id}: ${messageOf(error)}`);
      }
    }
  } finally {
    clearProgress();
    await runner.close();
  }
  return failures > 0 ? 1 : 0;
}

/** Measures the one model that the parent process sends, and answers. */
export async function measureForParent(): Promise<void> {
  const { plan, model, feeds } = await new Promise<{ plan: BenchPlan; model: Uint8Array; feeds: Uint8Array }>(
    (take) => {
      process.once("message", (message) => take(message as never));
    },
  );
  const answer = await measure(plan, new Uint8Array(model), unpackValues(new Uint8Array(feeds).buffer)).then(
    (measured) => ({ measured }),
    (error) => ({ error: messageOf(error) }),
  );
  await new Promise<void>((sent) => process.send?.(answer, undefined, undefined, () => sent()));
}

interface Target {
  readonly id: string;
  readonly model: string;
  readonly set: TestSet | undefined;
}

function findTargets(path: string): Target[] {
  if (!existsSync(path)) throw new UsageError(`there is no ${path}`);
  if (statSync(path).isDirectory())
    return findCases([path]).map(({ id, model, sets }) => ({ id, model, set: sets[0] }));
  return [{ id: basename(path).replace(/\.[^.]+$/, ""), model: path, set: undefined }];
}

function makePlan(options: Options): BenchPlan {
  const engines: EngineName[] = ["modelet"];
  const device = options.device("cpu");
  let ort: string | undefined;
  const others = options.text("vs")?.split(",") ?? [];
  for (const other of others) {
    if (other !== "onnxruntime-web" && other !== "litert") {
      throw new UsageError(`--vs is one of onnxruntime-web, litert, or both with a comma, not ${other}`);
    }
    engines.push(other);
  }
  if (others.includes("litert") && !liteRtFolder()) {
    throw new UsageError("--vs litert needs LiteRT.js: npm install @litertjs/core");
  }
  if (others.includes("onnxruntime-web")) {
    const folder = ortFolder();
    if (!folder) throw new UsageError("--vs onnxruntime-web needs that package: npm install onnxruntime-web");
    if (device !== "cpu" && !options.on("browser")) {
      throw new UsageError(`onnxruntime-web has no WebGPU in Node.js: add --browser, or take --device cpu`);
    }
    const file = device === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
    ort = options.on("browser") ? `/ort/${file}` : pathToFileURL(join(folder, "ort.node.min.mjs")).href;
  }
  const threads = options.integer("threads", 1, 1);
  const [runs, seconds] = [options.integer("runs", 10, 1), options.number("max-seconds", 120)];
  // Every number passes through JSON on the way to a page.
  const answerSeconds = options.number("answer-seconds", 86_400);
  return { engines, device, threads, runs, seconds, answerSeconds, ...(ort !== undefined && { ort }) };
}

async function targetFeeds(target: Target, dimensions: ReadonlyMap<string, number>): Promise<Values> {
  const model = await nodeRunner().open(target.model, { device: "cpu" });
  try {
    if (target.set) return (await target.set.read(model.inputs, model.outputs)).feeds;
    return randomInputs(model.inputs, dimensions);
  } finally {
    await model.release();
  }
}

async function measureInPage(host: BrowserHost, plan: BenchPlan, model: string, feeds: Values): Promise<Measurement[]> {
  const page = await host.newPage();
  try {
    const twin = plan.engines.includes("litert") ? twinOf(model) : undefined;
    const own: BenchPlan = {
      ...plan,
      engines: plan.engines.filter((engine) => engine !== "litert" || twin !== undefined),
      ...(twin !== undefined && { litert: { folder: "/litert", model: page.file(twin) } }),
    };
    return await page.call("bench", own, page.file(model), page.put(feeds));
  } finally {
    await page.close();
  }
}

/** The same network as a .tflite file: by the model's own name, or as the only one in its folder. */
function twinOf(model: string): string | undefined {
  const path = realpathSync(model);
  const folder = dirname(path);
  const files = readdirSync(folder).filter((file) => file.endsWith(".tflite"));
  const own = basename(path).replace(/\.[^.]+$/, ".tflite");
  const name = files.includes(own) ? own : files.length === 1 ? files[0] : undefined;
  return name && join(folder, name);
}

async function measureInChild(plan: BenchPlan, model: string, feeds: Values): Promise<Measurement[]> {
  const child = fork(fileURLToPath(import.meta.url), [childCommand], { serialization: "advanced" });
  try {
    return await new Promise<Measurement[]>((resolve, reject) => {
      child.once("message", (answer: { measured: Measurement[] } | { error: string }) => {
        if ("measured" in answer) resolve(answer.measured);
        else reject(new Error(answer.error));
      });
      child.once("exit", (code) => reject(new Error(`the measuring process ended with ${code}`)));
      readFile(model).then((bytes) => child.send({ plan, model: bytes, feeds: packValues(feeds) }), reject);
    });
  } finally {
    child.kill();
  }
}

function report(id: string, measured: readonly Measurement[], json: boolean): string[][] {
  const [modelet, ...others] = measured;
  if (modelet?.engine !== "modelet") throw new Error("modelet did not answer in time");
  const ratios = others.map((other) => ({ of: `${other.engine}/modelet`, ...ratioOf(modelet, other) }));
  if (json) {
    for (const one of measured) print(JSON.stringify({ id, ...one }));
    for (const ratio of ratios) print(JSON.stringify({ id, ratio }));
    return [];
  }
  const rows = measured.map((one) => [
    id,
    one.engine,
    one.device,
    String(one.threads),
    formatMs(one.load_ms),
    formatMs(one.first_ms),
    formatMs(one.min_ms),
    formatMs(one.median_ms),
    formatBytes(one.peak_bytes),
  ]);
  for (const ratio of ratios) rows.push([id, ratio.of, "", "", ...numbers.map((name) => `${ratio[name]}×`)]);
  return rows;
}

function reportCold(id: string, measured: readonly ColdMeasurement[], json: boolean): string[][] {
  if (json) {
    for (const one of measured) print(JSON.stringify({ id, ...one }));
    return [];
  }
  return measured.map(({ engine, gzip, min_ms, median_ms }) => [
    id,
    engine,
    gzip ? "yes" : "no",
    formatMs(min_ms),
    formatMs(median_ms),
  ]);
}

function ratioOf(modelet: Measurement, other: Measurement): Record<(typeof numbers)[number], number> {
  const entries = numbers.map((name) => [name, Number((other[name] / modelet[name]).toPrecision(3))]);
  return Object.fromEntries(entries);
}
