/// <reference lib="esnext.disposable" preserve="true" />

// Sessions: load a model once, run it many times. Runs of one session queue up; a session that was released, or whose
// core died, answers every further call with a typed error.

import type {
  CoreBytes,
  CoreSession,
  CoreTensor,
  Device,
  InspectStage,
  Optimization,
  Report,
  ValueInfo,
} from "./core.js";
import type { DataType } from "./dtype.js";
import { ModeletError } from "./errors.js";
import { type Core, loadCore } from "./loader.js";
import { isNode, provideWebGPU } from "./platform.js";
import { checkStart, type ModelSource, openSource, viewBytes } from "./source.js";
import { Tensor, type TensorInput } from "./tensor.js";

/** How far loading has come. */
export interface Progress {
  /** `download` while bytes arrive, then the stages of compilation as the core names them. */
  readonly stage: string;
  /** What is done of `total`: bytes while downloading, steps afterwards. */
  readonly loaded: number;
  /** 0 when it is not known. */
  readonly total: number;
}

export interface LoadOptions {
  /** Where to run; `auto` when left out. */
  readonly device?: Device;
  /** How far to rewrite the graph; `all` when left out. */
  readonly optimization?: Optimization;
  /** The files that the model refers to, by the names it uses. */
  readonly externalData?: Readonly<Record<string, ArrayBuffer | ArrayBufferView>>;
  readonly onProgress?: (progress: Progress) => void;
  /** Ends loading with an `aborted` error. */
  readonly signal?: AbortSignal;
  /** The folder that holds modelet's `.wasm` files, when it is not the package's own `wasm/`. Counts once per page. */
  readonly wasmUrl?: string | URL;
  /** What to call the model in messages and reports. */
  readonly name?: string;
}

export interface RunOptions {
  /** The outputs to compute; all when left out. */
  readonly fetches?: readonly string[];
  /** Ends the run with an `aborted` error if it has not begun. */
  readonly signal?: AbortSignal;
}

/** Tensors by the name of the model's input or output. */
export type Tensors = Record<string, Tensor>;

const devices: readonly Device[] = ["auto", "webgpu", "cpu"];
const levels: readonly Optimization[] = ["none", "basic", "all"];
const stages: readonly InspectStage[] = ["graph", "optimized", "program"];

/** A model that is ready to run. */
export class Session {
  readonly #core: Core;
  #session: CoreSession | undefined;
  #last: Promise<unknown> = Promise.resolve();
  readonly #inputs: readonly ValueInfo[];
  readonly #outputs: readonly ValueInfo[];

  private constructor(core: Core, session: CoreSession) {
    this.#core = core;
    this.#session = session;
    this.#inputs = core.callSync(() => session.inputs());
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
    const { device = "auto", optimization = "all", signal, onProgress } = options;
    checkChoice("device", device, devices);
    checkChoice("optimization", optimization, levels);
    checkAborted(signal);
    if (device !== "cpu") await prepareWebGPU(device);
    // The model's request goes out while the core is still loading.
    const [stream, core] = await Promise.all([openSource(source, signal), loadCore(options.wasmUrl)]);

    let bytes: CoreBytes | undefined = core.callSync((module) => new module.ModelBytes(stream.total));
    try {
      let loaded = 0;
      for await (const chunk of stream.chunks()) {
        checkAborted(signal);
        if (loaded === 0) checkStart(chunk, stream.name);
        core.callSync(() => bytes?.append(chunk));
        loaded += chunk.length;
        onProgress?.({ stage: "download", loaded, total: stream.total });
      }
      checkAborted(signal);
      const filled = bytes;
      bytes = undefined;
      const name = options.name ?? stream.name;
      const session = await core.call((module) =>
        module.CoreSession.load(
          filled,
          {
            device,
            optimization,
            ...(options.externalData && { externalData: bytesOf(options.externalData) }),
            ...(name !== undefined && { name }),
          },
          (stage, done, total) => onProgress?.({ stage, loaded: done, total }),
        ),
      );
      if (signal?.aborted) {
        session.free();
        checkAborted(signal);
      }
      return new Session(core, session);
    } finally {
      if (!core.failure) bytes?.free();
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
   * @param feeds a tensor for each input, by name
   * @returns a tensor for each output (or each of `fetches`), by name
   * @throws ModeletError such as `missing-input`, `unknown-name`, `wrong-type`, `wrong-rank`, `wrong-dimension`
   */
  run(feeds: Readonly<Tensors>, options: RunOptions = {}): Promise<Tensors> {
    const turn = this.#last.then(async () => {
      const session = this.#live();
      checkAborted(options.signal);
      const outputs = await this.#core.call(() => session.run(toCore(feeds), options.fetches && [...options.fetches]));
      return Object.fromEntries(outputs.map((output) => [output.name, fromCoreTensor(output)]));
    });
    this.#last = turn.catch(() => {});
    return turn;
  }

  /** Where each node runs and why, what was fused, how long compilation took, and how much memory is in use. */
  report(): Report {
    const session = this.#live();
    return this.#core.callSync(() => session.report());
  }

  /** The model at a stage of compilation, as text or JSON. The program is that of the last run's shapes. */
  inspect(stage: InspectStage, options: { readonly json?: boolean } = {}): string {
    const session = this.#live();
    checkChoice("stage", stage, stages);
    return this.#core.callSync(() => session.inspect(stage, options.json ?? false));
  }

  /** Gives the model's memory back once the current run has ended; queued runs fail. Releasing twice is harmless. */
  release(): void {
    const session = this.#session;
    this.#session = undefined;
    if (session) {
      this.#last = this.#last.then(() => {
        if (!this.#core.failure) session.free();
      });
    }
  }

  [Symbol.dispose](): void {
    this.release();
  }

  #live(): CoreSession {
    if (!this.#session) throw new ModeletError("released", "the session was released and can no longer be used");
    return this.#session;
  }
}

/** Reads a tensor file of ONNX test data (`TensorProto`, usually `.pb`). */
export async function readTensor(bytes: ArrayBuffer | ArrayBufferView): Promise<{ name: string; tensor: Tensor }> {
  const core = await loadCore();
  const view = viewBytes(bytes);
  if (!view) throw new ModeletError("invalid-argument", "readTensor takes an ArrayBuffer or Uint8Array");
  const read = core.callSync((module) => module.readTensor(view));
  return { name: read.name, tensor: fromCoreTensor(read) };
}

/** Writes a tensor as ONNX test data (`TensorProto`). */
export async function writeTensor(tensor: Tensor, name = ""): Promise<Uint8Array> {
  const core = await loadCore();
  return core.callSync((module) => module.writeTensor(toCoreTensor(name, tensor)));
}

/** Sees to it that WebGPU can be found; says plainly when it cannot although it is asked for. */
async function prepareWebGPU(device: Device): Promise<void> {
  const found = isNode ? await provideWebGPU() : (globalThis.navigator as { gpu?: unknown } | undefined)?.gpu;
  if (found || device !== "webgpu") return;
  const message = isNode
    ? "WebGPU in Node.js comes from the webgpu package: npm install webgpu"
    : "there is no WebGPU here: it needs a browser that has it, and a page served over HTTPS or from localhost";
  throw new ModeletError("device", message, { expected: isNode ? "the webgpu package" : "navigator.gpu" });
}

function toCore(feeds: Readonly<Tensors>): CoreTensor[] {
  if (typeof feeds !== "object" || feeds === null) {
    throw new ModeletError("invalid-argument", "run takes an object of tensors by input name");
  }
  return Object.entries(feeds).map(([name, tensor]) => toCoreTensor(name, tensor));
}

function toCoreTensor(name: string, tensor: Pick<Tensor, "type" | "shape" | "data">): CoreTensor {
  // A tensor of another copy of the package is welcome: it is checked by what it has.
  if (!tensor?.type || !tensor.shape || !tensor.data) {
    throw new ModeletError("invalid-argument", `the feed ${name} is not a Tensor`, {
      input: name,
      expected: "a Tensor",
      actual: Object.prototype.toString.call(tensor).slice(8, -1),
    });
  }
  const own = tensor instanceof Tensor;
  const { type, shape, data } = own ? tensor : new Tensor(tensor.type, tensor.data, tensor.shape);
  return { name, type, shape: [...shape], data };
}

function fromCoreTensor({ type, data, shape }: CoreTensor): Tensor {
  return new Tensor(type, data as TensorInput<DataType>, shape);
}

function bytesOf(files: Readonly<Record<string, unknown>>): Record<string, Uint8Array> {
  return Object.fromEntries(
    Object.entries(files).map(([name, file]) => {
      const bytes = viewBytes(file);
      if (bytes) return [name, bytes];
      throw new ModeletError("invalid-argument", `externalData.${name} is not an ArrayBuffer or Uint8Array`);
    }),
  );
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

function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new ModeletError("aborted", "aborted by the caller", {}, { cause: signal.reason });
}
