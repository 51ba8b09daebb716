// `modelet bench --cold`: from the navigation to a page to the first result in it. Each measurement has a browser context
// of its own, so nothing is cached; engines take turns, with the code sent gzipped and as it is.

import { isTensor, type Values } from "../value.js";
import type { BrowserHost } from "./browser.js";
import type { EngineName } from "./measure.js";
import { UsageError } from "./terminal.js";

/** Milliseconds from the navigation to the first result. */
export interface ColdMeasurement {
  readonly engine: EngineName;
  /** Whether scripts and WebAssembly were sent gzipped. The model never is. */
  readonly gzip: boolean;
  readonly runs: number;
  readonly min_ms: number;
  readonly median_ms: number;
}

/** Measures each engine `runs` times, with and without gzip. */
export async function measureCold(
  host: BrowserHost,
  engines: readonly EngineName[],
  model: string,
  feeds: Values,
  runs: number,
): Promise<ColdMeasurement[]> {
  const plain = plainFeeds(feeds);
  const rows = [true, false].flatMap((gzip) => engines.map((engine) => ({ engine, gzip, times: [] as number[] })));
  for (let round = 0; round < runs; round++) {
    for (const row of round % 2 === 0 ? rows : rows.toReversed()) {
      const page = (model: string) => pageOf(row.engine, model, plain);
      row.times.push(await host.cold(page, model, row.gzip));
    }
  }
  return rows.map(({ engine, gzip, times }) => {
    const sorted = times.toSorted((a, b) => a - b);
    const middle = ((sorted[(runs - 1) >> 1] as number) + (sorted[runs >> 1] as number)) / 2;
    return { engine, gzip, runs, min_ms: round(sorted[0] as number), median_ms: round(middle) };
  });
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}

/** Feeds as a script can hold them. */
function plainFeeds(feeds: Values): string {
  const entries = Object.entries(feeds).map(([name, value]) => {
    if (!isTensor(value) || Array.isArray(value.data)) {
      throw new UsageError(`--cold feeds tensors of numbers only, and ${name} is none`);
    }
    const { type, shape, data } = value;
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
    return { name, type, shape, array: data.constructor.name, bytes };
  });
  return JSON.stringify(entries);
}

/** A page as one would write it for the engine. */
function pageOf(engine: EngineName, model: string, feeds: string): string {
  const make = `(make) => Object.fromEntries(${feeds}.map(({ name, type, shape, array, bytes }) => {
    const { buffer } = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    return [name, make(type, new globalThis[array](buffer), shape)];
  }))`;
  const scripts: Record<string, string> = {
    modelet: `import { Session, Tensor } from "/pkg/index.js";
      const session = await Session.load(${JSON.stringify(model)}, { device: "cpu" });
      await session.run((${make})((type, data, shape) => new Tensor(type, data, shape)));`,
    "onnxruntime-web": `import * as ort from "/ort/ort.wasm.bundle.min.mjs";
      ort.env.wasm.numThreads = 1;
      const session = await ort.InferenceSession.create(${JSON.stringify(model)}, { executionProviders: ["wasm"] });
      await session.run((${make})((type, data, shape) => new ort.Tensor(type, data, shape)));`,
  };
  return `<!doctype html><meta charset="utf-8"><title>cold</title><link rel="icon" href="data:,"><script type="module">
    addEventListener("unhandledrejection", (event) => { globalThis.coldFailed = String(event.reason); });
    try { ${(scripts[engine] ?? "throw 0").replace(/^import (.*?) from ("[^"]+");/, (_, names, from) => dynamic(names, from))}
      globalThis.coldMs = performance.now();
    } catch (error) { globalThis.coldFailed = String(error); }
  </script>`;
}

/** An import whose failure can be caught. The browser sees it as early as a static one: the page has no other code. */
function dynamic(names: string, from: string): string {
  return `const ${names.replace(/^\* as /, "")} = await import(${from});`;
}
