/// <reference lib="esnext.disposable" preserve="true" />

// Sessions: load a model once, run it many times. Runs of one session queue up; a session that was released, or whose
// core died, answers every further call with a typed error.

import type {
  CoreFeed,
  CoreOutput,
  CoreSession,
  CoreTensor,
  CoreValue,
  Device,
  InspectStage,
  Limits,
  MemoryUse,
  Offload,
  Optimization,
  Profile,
  Report,
  SessionEvent,
  ValueInfo,
} from "./core.js";
import { arrayClass, type DataType, isDataType } from "./dtype.js";
import { ModeletError } from "./errors.js";
import { checkExternalData, type ExternalSource } from "./external.js";
import {
  type Device as GpuDevice,
  GpuTensor,
  type ImageInput,
  type ImageOptions,
  imageOnCpu,
  imageOnGpu,
} from "./gpu.js";
import { anyCore, type Core } from "./loader.js";
import { checkAborted, type OpenModel, openModel } from "./model.js";
import { hasWebGPU, isNode, provideWebGPU } from "./platform.js";
import { type ModelSource, viewBytes } from "./source.js";
import { Tensor, type TensorInput } from "./tensor.js";
import {
  type Declared,
  type Feeds,
  fromCoreTensor,
  fromCoreValue,
  isTensor,
  type RunValue,
  type Tensors,
  toCoreTensor,
  toCoreValue,
} from "./value.js";

/** How far loading has come, or a run that has something to prepare. */
export interface Progress {
  /**
   * What is waited for: `download` of the model, its other files, or a larger build of the core; `prepare`, reading and
   * compiling the model and choosing kernels; `upload` of weights to GPU memory; `compile`, that of GPU pipelines, which
   * goes on beside the upload. The last three are part of the first run of each set of input shapes, and of loading with
   * {@link LoadOptions.warmup}.
   */
  readonly phase: "download" | "prepare" | "upload" | "compile";
  /**
   * The step of the phase. `download` while bytes of the model arrive, `external-data` while those of its other files do,
   * `operators` while the build with all operators is loaded; then the stages of compilation as the core names them, which
   * begin anew after `operators`.
   */
  readonly stage: string;
  /** What is done of `total`: bytes in `download` and `upload`, pipelines in `compile`, steps otherwise. */
  readonly loaded: number;
  /** 0 when it is not known. */
  readonly total: number;
}

export interface LoadOptions {
  /** Where to run; `auto` when left out. */
  readonly device?: Device;
  /** How far to rewrite the graph; `all` when left out. */
  readonly optimization?: Optimization;
  /**
   * `fast`, which is taken when left out, also keeps weights in the forms that kernels read fastest. `low` keeps large
   * weights once; runs on the CPU are slower then.
   */
  readonly memory?: MemoryUse;
  /**
   * With `auto`, which is taken when left out, a second build of modelet's core with all operators is loaded when the
   * model needs one that the first lacks, or, in a session on the GPU, one for which the first has no GPU kernel. `all` loads that build at once, for models that are known to need it.
   */
  readonly operators?: "auto" | "all";
  /**
   * The files that the model refers to, by the names it uses. Only the parts that the model needs are read. One that is
   * not given is looked for next to a model that is loaded from a URL or file.
   */
  readonly externalData?: Readonly<Record<string, ExternalSource>>;
  /** What the session may use; exceeding it is a `limit-exceeded` error, after which the session can still be used. */
  readonly limits?: Limits;
  readonly onProgress?: (progress: Progress) => void;
  /**
   * Loads until runs can begin at once: {@link Session.warmup} is part of loading. Sizes for symbolic dimensions may be
   * given. A first run without this waits for what is left to prepare.
   */
  readonly warmup?: boolean | Readonly<Record<string, number>>;
  /**
   * Told of what happens to the session without making a run fail, during loading and later: a lost device, a GPU kernel
   * that was found to be wrong. The runs concerned end after it.
   */
  readonly onEvent?: (event: SessionEvent) => void;
  /**
   * Compares every GPU kernel once with the CPU's on the same inputs. Nodes that disagree by more than rounding, or give
   * NaN where the CPU does not, run on the CPU from then on; {@link onEvent} and {@link Session.report} say so. With
   * fixed input shapes it happens while loading, with made-up numbers; otherwise in the first run, with its feeds.
   */
  readonly verifyOnLoad?: boolean;
  /** Ends loading with an `aborted` error. */
  readonly signal?: AbortSignal;
  /**
   * How many threads the CPU's kernels run on, from 1 to 64; half the logical cores, at most 8, when left out. Where
   * threads cannot be had it is one, and {@link Session.report} says why. Sessions share the threads.
   */
  readonly threads?: number;
  /** The folder that holds modelet's `.wasm` files, when it is not the package's own `wasm/`. Counts once per page. */
  readonly wasmUrl?: string | URL;
  /** Where modelet's `worker.js` is, when it is not next to the package's JavaScript. Counts once per page. */
  readonly workerUrl?: string | URL;
  /** What to call the model in messages and reports. */
  readonly name?: string;
  /**
   * `everything` puts on the GPU whatever has a kernel there, small work too, which is slower: for tests of kernels.
   * @internal
   */
  readonly offload?: Offload;
}

export interface RunOptions {
  /** The outputs to compute; all when left out. */
  readonly fetches?: readonly string[];
  /**
   * Outputs marked `gpu` stay in GPU memory where the session uses a GPU: they come as a {@link GpuTensor}, which further
   * runs take as a feed. On the CPU they come as any other.
   */
  readonly outputs?: Readonly<Record<string, "cpu" | "gpu">>;
  /**
   * Names of feeds that the caller gives up. A {@link GpuTensor} among them counts as released once the run has ended, and
   * an output may have its memory: a cache of keys and values that has room for more then only gets its new rows, where
   * the whole of it is copied otherwise. Tensors in CPU memory stay as they are. A run that fails leaves all of them to the
   * caller, though what they hold may have changed.
   */
  readonly consume?: readonly string[];
  /** Ends the run with an `aborted` error if it has not begun. */
  readonly signal?: AbortSignal;
}

const devices: readonly Device[] = ["auto", "webgpu", "cpu"];
const levels: readonly Optimization[] = ["none", "basic", "all"];
const memoryUses: readonly MemoryUse[] = ["fast", "low"];
const offloads: readonly Offload[] = ["worthwhile", "everything"];
const operatorSets = ["auto", "all"];
const stages: readonly InspectStage[] = ["graph", "optimized", "program"];

/** A model that is ready to run. */
export class Session {
  readonly #core: Core;
  readonly #open: OpenModel;
  #session: CoreSession | undefined;
  #last: Promise<unknown> = Promise.resolve();
  readonly #inputs: readonly ValueInfo[];
  readonly #declared: ReadonlyMap<string, Declared>;
  readonly #outputs: readonly ValueInfo[];

  private constructor(open: OpenModel) {
    const { core, session } = open;
    this.#open = open;
    this.#core = core;
    this.#session = session;
    this.#inputs = core.callSync(() => session.inputs());
    this.#declared = new Map(this.#inputs.map(({ name, type }, position) => [name, { type, position }]));
    this.#outputs = core.callSync(() => session.outputs());
  }

  /**
   * Loads and compiles a model.
   *
   * @param source a URL (in Node.js also a file path), `Response`, `Blob`, or the bytes; the body of a response is
   *   streamed into the core's memory, without a second copy
   * @throws ModeletError such as `fetch-failed`, `html-response`, `invalid-model`, `unsupported-operator`, `device`
   */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<Session> {
    const { device = "auto", optimization = "all", signal, warmup } = options;
    checkChoice("device", device, devices);
    checkChoice("optimization", optimization, levels);
    checkChoice("memory", options.memory ?? "fast", memoryUses);
    checkChoice("operators", options.operators ?? "auto", operatorSets);
    checkChoice("offload", options.offload ?? "worthwhile", offloads);
    checkLimits(options.limits);
    checkExternalData(options.externalData);
    checkAborted(signal);
    if (device !== "cpu") await prepareWebGPU(device);
    const session = new Session(await openModel(source, { ...options, device, optimization }));
    try {
      if (warmup) await session.warmup(warmup === true ? {} : warmup);
      checkAborted(signal);
      return session;
    } catch (error) {
      session.release();
      throw error;
    }
  }

  /** The inputs that {@link run} takes. A symbolic dimension is its name. */
  get inputs(): readonly ValueInfo[] {
    this.#live();
    return this.#inputs;
  }

  /** The outputs that {@link run} gives. */
  get outputs(): readonly ValueInfo[] {
    this.#live();
    return this.#outputs;
  }

  /**
   * Runs the model once. Concurrent runs queue up in the order of the calls.
   *
   * Most models take and give tensors. One that gives something else says so in {@link outputs}, and its caller in the
   * type argument:
   *
   * ```ts
   * const { probabilities } = await session.run<{ probabilities: Record<string, number>[] }>(feeds);
   * ```
   *
   * @param feeds a value for each input, by name: a tensor, an array for a sequence, a plain object or Map for a map,
   *   `null` for an optional that holds nothing
   * @returns a value for each output (or each of `fetches`), by name
   * @throws ModeletError such as `missing-input`, `unknown-name`, `wrong-type`, `wrong-rank`, `wrong-dimension`
   */
  run<Outputs extends Record<string, RunValue> = Tensors>(feeds: Feeds, options: RunOptions = {}): Promise<Outputs> {
    const turn = this.#last.then(async () => {
      const session = this.#live();
      checkAborted(options.signal);
      const values = this.#toCore(feeds);
      const kept = options.outputs && keptOnGpu(options.outputs);
      const consumed = options.consume && [...options.consume];
      const outputs = await this.#core.call(() =>
        session.run(values, options.fetches && [...options.fetches], kept, consumed),
      );
      for (const name of consumed ?? []) {
        const fed = feeds[name];
        if (fed instanceof GpuTensor) fed.consume(outputs.map((output) => "buffer" in output && output.buffer));
      }
      const device = kept && this.device;
      const infos = options.fetches?.map((name) => this.#outputs.find((info) => info.name === name)) ?? this.#outputs;
      const value = (output: CoreOutput | CoreValue, i: number): [string, RunValue] => {
        const { name, type } = infos[i] as ValueInfo;
        return [name, fromCoreValue(output, device, type)];
      };
      return Object.fromEntries(outputs.map(value)) as Outputs;
    });
    this.#last = turn.catch(() => {});
    return turn;
  }

  /**
   * Runs the model once on zeros, so that the first real run finds everything planned, compiled and uploaded.
   * @param dimensions sizes for the symbolic dimensions of {@link inputs}; 1 where none is given
   */
  async warmup(dimensions: Readonly<Record<string, number>> = {}): Promise<void> {
    const zeros = ({ name, type, shape }: ValueInfo): [string, Tensor] => {
      if (!isDataType(type))
        throw new ModeletError("invalid-argument", `the input ${name} is no tensor: run the model`);
      const sizes = shape.map((size) => (typeof size === "number" ? size : (dimensions[size] ?? 1)));
      const count = sizes.reduce((product, size) => product * size, 1);
      const data = type === "string" ? Array<string>(count).fill("") : new (arrayClass(type))(count);
      return [name, new Tensor(type, data as TensorInput<DataType>, sizes)];
    };
    await this.run(Object.fromEntries(this.inputs.filter(({ optional }) => !optional).map(zeros)));
  }

  /** The `GPUDevice` that the session uses, for the caller's own work on its tensors; none on the CPU. */
  get device(): GpuDevice | undefined {
    const session = this.#live();
    return this.#core.callSync(() => session.gpuDevice()) as GpuDevice | undefined;
  }

  /**
   * An image, video frame or canvas as a `float32` tensor. Where the session uses a GPU its pixels go there through a
   * texture and never to the CPU; otherwise a canvas reads them.
   */
  tensorFromImage(image: ImageInput, options: ImageOptions = {}): GpuTensor<"float32"> | Tensor<"float32"> {
    const { device } = this;
    return device ? imageOnGpu(device, image, options) : imageOnCpu(image, options);
  }

  /**
   * Runs the model once and then `runs` times with every step timed by itself, and tells where the time goes. Other runs
   * are not measured and cost nothing more. Outside cross-origin isolated pages, browsers round times to 0.1 ms: small
   * nodes then need many runs.
   */
  async profile(feeds: Feeds, options: { readonly runs?: number } = {}): Promise<Profile> {
    const { runs = 10 } = options;
    if (!Number.isInteger(runs) || runs < 1 || runs > 1e6) {
      throw new ModeletError("invalid-argument", `runs is a whole number from 1, not ${runs}`, {
        actual: String(runs),
      });
    }
    const turn = this.#last.then(async () => {
      const session = this.#live();
      const values = this.#toCore(feeds);
      return this.#core.call(() => session.profile(values, runs));
    });
    this.#last = turn.catch(() => {});
    return turn;
  }

  /** Where each node runs and why, what was fused, how long compilation took, and how much memory is in use. */
  report(): Report {
    const session = this.#live();
    const report = this.#core.callSync(() => session.report());
    const { threads, warnings } = this.#open;
    return {
      ...report,
      wasm: this.#core.build,
      threads: { count: report.threads, ...(threads.reason && { reason: threads.reason }) },
      timings: { ...report.timings, wasmMs: this.#core.startMs },
      warnings: [...warnings, ...report.warnings],
    };
  }

  /** The model at a stage of compilation, as text or JSON. The program is that of the last run's shapes. */
  inspect(stage: InspectStage, options: { readonly json?: boolean } = {}): string {
    const session = this.#live();
    checkChoice("stage", stage, stages);
    return this.#core.callSync(() => session.inspect(stage, options.json ?? false));
  }

  /** Gives the model's memory back, to the system when it was the last session, once the current run has ended; queued runs fail. Releasing twice is harmless. */
  release(): void {
    const session = this.#session;
    this.#session = undefined;
    if (session) {
      this.#last = this.#last.then(() => {
        if (!this.#core.failure) session.free();
        this.#core.users--;
        this.#core.recycle();
      });
    }
  }

  [Symbol.dispose](): void {
    this.release();
  }

  #toCore(feeds: Feeds): (CoreFeed | CoreValue)[] {
    if (typeof feeds !== "object" || feeds === null) {
      throw new ModeletError("invalid-argument", "run takes an object of values by input name");
    }
    return Object.entries(feeds).map(([name, value]) => toCoreValue(name, value, this.#declared.get(name)));
  }

  #live(): CoreSession {
    if (!this.#session) throw new ModeletError("released", "the session was released and can no longer be used");
    return this.#session;
  }
}

/** Reads a tensor file of ONNX test data (`TensorProto`, usually `.pb`). */
export async function readTensor(bytes: ArrayBuffer | ArrayBufferView): Promise<{ name: string; tensor: Tensor }> {
  const read = await readStored("readTensor", bytes, "?");
  return { name: read.name, tensor: fromCoreTensor(read as CoreTensor) };
}

/**
 * Reads a file of ONNX test data of any kind (`TensorProto`, `SequenceProto`, `OptionalProto`, `MapProto`).
 *
 * @param type the type as in {@link Session.inputs} and {@link Session.outputs}, such as `float32` or
 *   `sequence(map(int64, float32))`: the file itself does not say which kind it is
 */
export async function readValue(
  bytes: ArrayBuffer | ArrayBufferView,
  type: ValueInfo["type"],
): Promise<{ name: string; value: RunValue }> {
  const read = await readStored("readValue", bytes, type);
  return { name: read.name, value: fromCoreValue(read) };
}

async function readStored(what: string, bytes: ArrayBuffer | ArrayBufferView, type: string): Promise<CoreValue> {
  const view = viewBytes(bytes);
  if (!view) throw new ModeletError("invalid-argument", `${what} takes an ArrayBuffer or Uint8Array`);
  const core = await anyCore();
  return core.callSync((module) => module.readValue(view, type));
}

/** Writes a tensor as ONNX test data (`TensorProto`). */
export async function writeTensor(tensor: Tensor, name = ""): Promise<Uint8Array> {
  if (!isTensor(tensor)) throw new ModeletError("invalid-argument", "writeTensor takes a Tensor");
  const core = await anyCore();
  return core.callSync((module) => module.writeTensor(toCoreTensor(name, tensor)));
}

/** Sees to it that WebGPU can be found; says plainly when it cannot although it is asked for. */
async function prepareWebGPU(device: Device): Promise<void> {
  const found = isNode ? await provideWebGPU() : hasWebGPU();
  if (found || device !== "webgpu") return;
  const message = isNode
    ? "WebGPU in Node.js comes from the webgpu package: npm install webgpu"
    : "there is no WebGPU here: it needs a browser that has it, and a page served over HTTPS or from localhost";
  throw new ModeletError("device", message, { expected: isNode ? "the webgpu package" : "navigator.gpu" });
}

function keptOnGpu(outputs: Readonly<Record<string, "cpu" | "gpu">>): string[] {
  for (const [name, place] of Object.entries(outputs)) checkChoice(`outputs.${name}`, place, ["cpu", "gpu"]);
  return Object.keys(outputs).filter((name) => outputs[name] === "gpu");
}

function checkLimits(limits: Limits | undefined): void {
  for (const name of ["memoryBytes", "runMillis", "loopIterations"] as const) {
    const value = limits?.[name];
    if (value === undefined || (typeof value === "number" && value >= 0)) continue;
    const place = { expected: "a number from 0", actual: String(value) };
    throw new ModeletError("invalid-argument", `limits.${name} is a number from 0, not ${value}`, place);
  }
}

function checkChoice(name: string, value: string, choices: readonly string[]): void {
  if (!choices.includes(value)) {
    const expected = choices.join(", ");
    throw new ModeletError("invalid-argument", `${name} is one of ${expected}, not ${value}`, {
      expected,
      actual: String(value),
    });
  }
}
