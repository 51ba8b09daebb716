// Measures one model on one or several engines, alternating between them run by run, so that whatever else the machine
// does falls on all alike. The same code runs in Node.js and in a page.

import type { Device } from "../core.js";
import type { DataType } from "../dtype.js";
import { Session } from "../session.js";
import { Tensor } from "../tensor.js";
import type { Values } from "../value.js";

export type EngineName = "modelet" | "onnxruntime-web" | "litert";

export interface BenchPlan {
  readonly engines: readonly EngineName[];
  readonly device: Device;
  readonly threads: number;
  readonly runs: number;
  /** No further round is begun when a model's rounds have taken this long and there were at least three. */
  readonly seconds: number;
  /** An engine that loading and the first run take longer is left out. */
  readonly answerSeconds: number;
  /** Where onnxruntime-web's modules come from: a specifier for `import`. */
  readonly ort?: string;
  /** Where LiteRT.js's files are, and the same network for it. */
  readonly litert?: { readonly folder: string; readonly model: string };
}

/** Milliseconds; `first_ms` is the first run after loading, the others are of the runs after it. */
export interface Measurement {
  readonly engine: EngineName;
  readonly device: string;
  readonly threads: number;
  /** How many runs were timed after the first. */
  readonly runs: number;
  readonly load_ms: number;
  readonly first_ms: number;
  readonly min_ms: number;
  readonly median_ms: number;
  /** WebAssembly memory plus live GPU buffers at their highest, counted the same way for every engine. */
  readonly peak_bytes: number;
  /** Of modelet on a GPU: the adapter, and how often a run dispatches work to it. */
  readonly adapter?: string;
  readonly dispatches?: number;
}

interface Loaded {
  readonly device: string;
  readonly threads: number;
  run(): Promise<unknown>;
  /** What is known after a run. */
  about?(): Pick<Measurement, "adapter" | "dispatches">;
  release(): void | Promise<void>;
}

/** Loads the model in each engine, runs each once, and then `runs` times in turns. */
export async function measure(plan: BenchPlan, model: Uint8Array, feeds: Values): Promise<Measurement[]> {
  const meters = watchMemory();
  const results = [];
  for (const engine of plan.engines) {
    meters.begin(engine);
    const answer = async () => {
      const start = performance.now();
      const loaded = await load[engine](plan, model, feeds);
      const load_ms = performance.now() - start;
      return { engine, loaded, load_ms, first_ms: await timed(loaded), times: [] as number[] };
    };
    const answered = await within(plan.answerSeconds, answer());
    if (answered) results.push(answered);
  }
  const began = performance.now();
  for (let round = 0; round < plan.runs; round++) {
    if (round >= 3 && performance.now() - began > plan.seconds * 1000) break;
    // The order turns around every round, so that no engine always runs in the other's wake.
    const order = round % 2 === 0 ? results : [...results].reverse();
    for (const result of order) {
      meters.begin(result.engine);
      result.times.push(await timed(result.loaded));
    }
  }
  const measurements = results.map(({ engine, loaded, load_ms, first_ms, times }): Measurement => {
    const sorted = times.toSorted((a, b) => a - b);
    return {
      engine,
      device: loaded.device,
      threads: loaded.threads,
      runs: times.length,
      load_ms: round(load_ms),
      first_ms: round(first_ms),
      min_ms: round(sorted[0] ?? first_ms),
      median_ms: round(median(sorted) ?? first_ms),
      peak_bytes: meters.peak(engine),
      ...loaded.about?.(),
    };
  });
  for (const { loaded } of results) await loaded.release();
  meters.end();
  return measurements;
}

const load: Record<EngineName, (plan: BenchPlan, model: Uint8Array, feeds: Values) => Promise<Loaded>> = {
  modelet: loadModelet,
  "onnxruntime-web": loadOrt,
  litert: loadLiteRt,
};

async function timed(loaded: Loaded): Promise<number> {
  const start = performance.now();
  await loaded.run();
  return performance.now() - start;
}

/** What is promised, or nothing once the time is over. */
async function within<T>(seconds: number, promise: Promise<T>): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const over = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), seconds * 1000);
  });
  try {
    return await Promise.race([promise, over]);
  } finally {
    clearTimeout(timer);
  }
}

function median(sorted: readonly number[]): number | undefined {
  const middle = sorted.length >> 1;
  const upper = sorted[middle];
  return sorted.length % 2 === 1 || upper === undefined ? upper : ((sorted[middle - 1] as number) + upper) / 2;
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

async function loadModelet(plan: BenchPlan, model: Uint8Array, feeds: Values): Promise<Loaded> {
  const session = await Session.load(model, { device: plan.device, threads: plan.threads });
  const { device, threads } = session.report();
  return {
    device,
    threads: threads.count,
    run: () => session.run(feeds),
    about() {
      const { adapter, dispatches } = session.report();
      return device === "webgpu" ? { dispatches, ...(adapter !== undefined && { adapter }) } : {};
    },
    release: () => session.release(),
  };
}

/** The part of onnxruntime-web's API that is used here. */
interface Ort {
  readonly env: { logLevel?: string; readonly wasm: { numThreads?: number; wasmPaths?: string } };
  readonly Tensor: new (type: string, data: unknown, shape: readonly number[]) => unknown;
  readonly InferenceSession: {
    create(
      model: Uint8Array,
      options: object,
    ): Promise<{ run(feeds: object): Promise<Record<string, { data: unknown }>>; release(): Promise<void> }>;
  };
}

async function loadOrt(plan: BenchPlan, model: Uint8Array, feeds: Values): Promise<Loaded> {
  if (plan.ort === undefined) throw new Error("onnxruntime-web is not installed");
  const ort = (await import(/* @vite-ignore */ plan.ort)) as Ort;
  ort.env.wasm.numThreads = plan.threads;
  ort.env.logLevel = "error";
  const device = plan.device === "webgpu" ? "webgpu" : "cpu";
  const session = await ort.InferenceSession.create(model, {
    executionProviders: [device === "webgpu" ? "webgpu" : "wasm"],
    graphOptimizationLevel: "all",
  });
  const tensors = Object.fromEntries(
    Object.entries(feeds).map(([name, value]) => {
      if (!(value instanceof Tensor)) throw new Error(`onnxruntime-web takes tensors only, and ${name} is none`);
      const { type, data, shape } = value;
      return [name, new ort.Tensor(type, ortData(type, data), shape)];
    }),
  );
  return {
    device,
    threads: plan.threads,
    run: () => session.run(tensors),
    release: () => session.release(),
  };
}

/** The part of LiteRT.js's API that is used here. */
interface LiteRtTensor {
  toTypedArray(): unknown;
  delete(): void;
}
interface LiteRt {
  readonly Tensor: new (data: unknown, shape: readonly number[]) => LiteRtTensor;
  loadLiteRt(folder: string, options: { threads: boolean }): Promise<unknown>;
  unloadLiteRt(): void;
  loadAndCompile(
    model: string,
    options: object,
  ): Promise<{ run(inputs: readonly LiteRtTensor[]): Promise<LiteRtTensor[]>; delete(): void }>;
}

/** The network in its .tflite form, fed by position. Results are copied out, as the other engines give them. */
async function loadLiteRt(plan: BenchPlan, _: Uint8Array, feeds: Values): Promise<Loaded> {
  if (!plan.litert) throw new Error("there is no .tflite file next to the model");
  const litert = (await import(/* @vite-ignore */ `${plan.litert.folder}/core/dist/index.js`)) as LiteRt;
  await litert.loadLiteRt(`${plan.litert.folder}/core/wasm/`, { threads: plan.threads > 1 });
  const cpuOptions = { numThreads: plan.threads };
  const model = await litert.loadAndCompile(plan.litert.model, { accelerator: "wasm", cpuOptions });
  return {
    device: "cpu",
    threads: plan.threads,
    async run() {
      const inputs = Object.entries(feeds).map(([name, value]) => {
        if (!(value instanceof Tensor)) throw new Error(`LiteRT.js takes tensors only, and ${name} is none`);
        return new litert.Tensor(value.data, value.shape);
      });
      const outputs = await model.run(inputs);
      const arrays = outputs.map((output) => output.toTypedArray());
      for (const tensor of [...inputs, ...outputs]) tensor.delete();
      return arrays;
    },
    release() {
      model.delete();
      litert.unloadLiteRt();
    },
  };
}

/** onnxruntime-web takes half floats as Float16Array where the engine has it. */
function ortData(type: DataType, data: Tensor["data"]): unknown {
  const half = (globalThis as { Float16Array?: new (buffer: ArrayBufferLike, at: number, n: number) => unknown })
    .Float16Array;
  if (type !== "float16" || !half || Array.isArray(data)) return data;
  return new half(data.buffer, data.byteOffset, data.length);
}

interface Meters {
  /** From now on, new memory belongs to this engine. */
  begin(engine: EngineName): void;
  peak(engine: EngineName): number;
  end(): void;
}

/**
 * Counts memory from outside the engines: every WebAssembly memory that is made or exported (it never shrinks, so its
 * size at the end is its peak), and every live buffer of the GPU.
 */
function watchMemory(): Meters {
  let owner: EngineName = "modelet";
  const memories = new Map<WebAssembly.Memory, EngineName>();
  const gpu = new Map<EngineName, { now: number; peak: number }>();
  const restore: (() => void)[] = [];

  function replace<K extends string>(target: Record<K, unknown>, key: K, make: (original: never) => unknown): void {
    const original = target[key];
    target[key] = make(original as never);
    restore.push(() => {
      target[key] = original;
    });
  }
  function adopt(exports: WebAssembly.Exports): void {
    for (const value of Object.values(exports)) {
      if (value instanceof WebAssembly.Memory && !memories.has(value)) memories.set(value, owner);
    }
  }
  const wasm = WebAssembly as unknown as Record<string, unknown>;
  replace(
    wasm,
    "Memory",
    (Original: typeof WebAssembly.Memory) =>
      new Proxy(Original, {
        construct(target, args) {
          const memory = new target(...(args as [WebAssembly.MemoryDescriptor]));
          memories.set(memory, owner);
          return memory;
        },
      }),
  );
  for (const name of ["instantiate", "instantiateStreaming"]) {
    replace(wasm, name, (original: (...args: unknown[]) => Promise<unknown>) => async (...args: unknown[]) => {
      const result = (await original.apply(WebAssembly, args)) as WebAssembly.WebAssemblyInstantiatedSource;
      adopt((result.instance ?? result).exports);
      return result;
    });
  }
  const devices = (globalThis as unknown as { GPUDevice?: { prototype: Record<string, unknown> } }).GPUDevice;
  if (devices) {
    replace(devices.prototype, "createBuffer", (original: (...args: unknown[]) => Destroyable) => {
      return function createBuffer(this: unknown, descriptor: { size: number }) {
        const buffer = original.call(this, descriptor);
        const account = gpu.get(owner) ?? { now: 0, peak: 0 };
        gpu.set(owner, account);
        account.now += descriptor.size;
        account.peak = Math.max(account.peak, account.now);
        let live = true;
        const destroy = buffer.destroy;
        buffer.destroy = () => {
          if (live) account.now -= descriptor.size;
          live = false;
          destroy.call(buffer);
        };
        return buffer;
      };
    });
  }
  return {
    begin(engine) {
      owner = engine;
    },
    peak(engine) {
      let bytes = gpu.get(engine)?.peak ?? 0;
      for (const [memory, of] of memories) if (of === engine) bytes += memory.buffer.byteLength;
      return bytes;
    },
    end() {
      for (const undo of restore) undo();
    },
  };
}

interface Destroyable {
  destroy(): void;
}
