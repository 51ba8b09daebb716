// A model's way into the core: its bytes stream into the core's memory and are compiled there. A model with operators
// that the core lacks moves on to the build that has all, without another download.

import type { CoreBytes, CoreBytesPlace, CoreSession, Device, Optimization } from "./core.js";
import { ModeletError, messageOf } from "./errors.js";
import { type ExternalFile, openExternal } from "./external.js";
import { type Core, type CoreRequest, loadCore } from "./loader.js";
import { expectsGpu, hasWebGPU } from "./platform.js";
import type { LoadOptions } from "./session.js";
import { type ByteStream, checkStart, type ModelSource, openSource } from "./source.js";
import { chooseThreads, type ThreadsChoice } from "./threads.js";

/** A compiled model, and the instance of the core that it lives in. */
export interface OpenModel {
  readonly core: Core;
  readonly session: CoreSession;
  /** Why it has no more than one thread, when it has not. */
  readonly threads: ThreadsChoice;
  /** What the caller should know. */
  readonly warnings: readonly string[];
}

interface OpenOptions extends LoadOptions {
  readonly fewerGpuKernels?: boolean | undefined;
  readonly device: Device;
  readonly optimization: Optimization;
}

/** Loads and compiles a model. */
export async function openModel(source: ModelSource, options: OpenOptions): Promise<OpenModel> {
  const choice = await chooseThreads(options.threads);
  const urls = { wasmUrl: options.wasmUrl, workerUrl: options.workerUrl };
  // The model's request goes out while the core is still loading, behind the core's own.
  const loading = coreWithThreads({ ...(options.operators === "all" && { operators: "all" }), ...urls }, choice);
  const [stream, home, hasGpu] = await Promise.all([
    openSource(source, options.signal),
    loading,
    expectsGpu(options.device),
  ]);
  const model = new ModelInCore(home.core, stream.total, hasGpu);
  const compile = async (
    model: ModelInCore,
    { core, threads, warnings }: Home,
    fewerGpuKernels?: boolean,
  ): Promise<OpenModel> => {
    const session = await model.compile(stream.name, { ...options, threads: threads.count, fewerGpuKernels });
    try {
      // They may have ended with another session while this one was on its way.
      await core.workers?.start(threads.count);
      await core.workers?.working();
      return { core, session, threads, warnings };
    } catch (error) {
      return { core, session, threads: { count: 1, reason: "failed" }, warnings: [...warnings, noThreads(error)] };
    }
  };
  try {
    await model.fill(stream, options);
    await model.fillExternal(source, options);
    return await compile(model, home);
  } catch (error) {
    if (home.core.operators === "all" || !lacksOperators(error)) throw error;
    const there = await move(model, error, home.threads, options).catch((reason) => reason as ModeletError);
    if (!Array.isArray(there)) {
      if (options.device === "cpu") throw there;
      // Maybe all that it lacks is GPU kernels, and then it runs here as well.
      const warnings = [...home.warnings, there.message];
      return await compile(model, { ...home, warnings }, true).catch(() => Promise.reject(there));
    }
    const [moved, newHome] = there;
    try {
      return await compile(moved, newHome);
    } finally {
      moved.free();
    }
  } finally {
    model.free();
  }
}

/** An instance of the core for a session, and how many threads the session gets there. */
interface Home {
  readonly core: Core;
  readonly threads: ThreadsChoice;
  readonly warnings: readonly string[];
}

/** An instance with threads; where they cannot be started, one without. */
async function coreWithThreads(request: CoreRequest, threads: ThreadsChoice): Promise<Home> {
  if (threads.count === 1) return { core: await loadCore(request), threads, warnings: [] };
  try {
    return { core: await loadCore({ ...request, threads: threads.count }), threads, warnings: [] };
  } catch (error) {
    const core = await loadCore(request);
    return { core, threads: { count: 1, reason: "failed" }, warnings: [noThreads(error)] };
  }
}

function noThreads(error: unknown): string {
  return `running on one thread: ${messageOf(error)}`;
}

/** Fails with an `aborted` error when the signal fired. */
export function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new ModeletError("aborted", "aborted by the caller", {}, { cause: signal.reason });
}

/** A part of an external file in the core's memory. */
interface Part {
  readonly location: string;
  readonly offset: number;
  readonly bytes: CoreBytes;
}

function room(core: Core, length: number, place: CoreBytesPlace): CoreBytes {
  return core.callSync((module) => new module.ModelBytes(length, place));
}

/**
 * A model's bytes with an instance of the core, and those of its external data. For the GPU, weights stay in JavaScript's
 * memory, from where they are written to the GPU's, and the core copies only what it reads itself.
 */
class ModelInCore {
  readonly core: Core;
  #bytes: CoreBytes | undefined;
  readonly #outside: boolean;
  /** The sizes of the external files. */
  readonly #files = new Map<string, number>();
  #parts: Part[] = [];

  constructor(
    core: Core,
    expectedLength: number,
    outside: boolean,
    place: CoreBytesPlace = outside ? "model" : "inside",
  ) {
    this.core = core;
    this.#outside = outside;
    this.#bytes = room(core, expectedLength, place);
    core.users++;
  }

  async fill(stream: ByteStream, { signal, onProgress }: LoadOptions): Promise<void> {
    let loaded = 0;
    for await (const chunk of stream.chunks()) {
      checkAborted(signal);
      if (loaded === 0) checkStart(chunk, stream.name);
      this.core.callSync(() => this.bytes.append(chunk));
      loaded += chunk.length;
      onProgress?.({ phase: "download", stage: "download", loaded, total: stream.total });
    }
    checkAborted(signal);
  }

  /** Reads what the model needs of other files. The core says so when one cannot be found. */
  async fillExternal(model: ModelSource, options: LoadOptions): Promise<void> {
    const files = this.core.callSync(() => this.bytes.externalFiles());
    const ends = files.flatMap(({ ranges }) => ranges);
    const sum = ends.reduce((total, [start, end]) => total + end - start, 0);
    const progress = { loaded: 0, total: Number.isSafeInteger(sum) ? sum : 0 };
    for (const needed of files) {
      const file = await openExternal(needed, options.externalData, model, options.signal);
      if (!file) continue;
      try {
        for (const [start, end] of needed.ranges)
          await this.#fillPart(needed.location, file, start, end, progress, options);
        this.#attach(needed.location, file.size());
      } finally {
        await file.close();
      }
    }
  }

  async #fillPart(
    location: string,
    file: ExternalFile,
    offset: number,
    end: number,
    progress: { loaded: number; total: number },
    { signal, onProgress }: LoadOptions,
  ): Promise<void> {
    const length = Number.isSafeInteger(end) ? end - offset : Math.max(file.size() - offset, 0);
    const bytes = this.#roomForData(this.core, length);
    this.#parts.push({ location, offset, bytes });
    for await (const chunk of file.read(offset, end)) {
      checkAborted(signal);
      this.core.callSync(() => bytes.append(chunk));
      progress.loaded += chunk.length;
      onProgress?.({ phase: "download", stage: "external-data", ...progress });
    }
    checkAborted(signal);
  }

  /** Hands the parts of a file that are there to the model. */
  #attach(location: string, size: number): void {
    this.#files.set(location, size);
    this.core.callSync(() => {
      this.bytes.attachFile(location, size);
      for (const part of this.#parts) {
        if (part.location === location) this.bytes.attachPart(location, part.offset, part.bytes);
      }
    });
  }

  #roomForData(core: Core, length: number): CoreBytes {
    return room(core, length, this.#outside ? "outside" : "inside");
  }

  /** Moves to another instance, part by part, so that little is there twice. This one is freed, except on failure. */
  moveTo(core: Core): ModelInCore {
    const moved = new ModelInCore(core, this.bytes.length, this.#outside, "inside");
    try {
      copy(this.core, this.bytes, core, moved.bytes);
      for (const [offset, bytes] of this.core.callSync(() => this.bytes.pieces())) {
        core.callSync(() => moved.bytes.addPiece(offset, bytes));
      }
      // The model shares the bytes of its parts.
      this.core.callSync(() => this.bytes.free());
      this.#bytes = undefined;
      this.core.users--;
      for (let part = this.#parts.shift(); part; part = this.#parts.shift()) {
        const { location, offset, bytes } = part;
        const target = this.#roomForData(core, bytes.length);
        moved.#parts.push({ location, offset, bytes: target });
        try {
          copy(this.core, bytes, core, target);
        } finally {
          this.core.callSync(() => bytes.free());
        }
      }
      for (const [location, size] of this.#files) moved.#attach(location, size);
      return moved;
    } catch (error) {
      moved.free();
      throw error;
    }
  }

  /** Makes a session, which counts as a user of the instance. */
  async compile(sourceName: string | undefined, options: OpenOptions): Promise<CoreSession> {
    const {
      device,
      optimization,
      memory,
      offload,
      fewerGpuKernels,
      limits,
      threads = 1,
      verifyOnLoad,
      signal,
      onProgress,
      onEvent,
    } = options;
    const name = options.name ?? sourceName;
    this.core.usesGpu ||= device !== "cpu" && hasWebGPU();
    const session = await this.core.call((module) =>
      module.CoreSession.load(
        this.bytes,
        {
          device,
          optimization,
          threads,
          ...(memory && { memory }),
          ...(offload && { offload }),
          ...(fewerGpuKernels && { fewerGpuKernels }),
          ...(limits && { limits }),
          ...(verifyOnLoad && { verifyOnLoad }),
          ...(name !== undefined && { name }),
        },
        (stage, done, total) => {
          const phase = stage === "upload" || stage === "compile" ? stage : "prepare";
          onProgress?.({ phase, stage, loaded: done, total });
        },
        onEvent,
      ),
    );
    if (signal?.aborted) session.free();
    checkAborted(signal);
    this.core.users++;
    return session;
  }

  /** Lets go of the bytes, which a session may still share. Freeing twice is harmless. */
  free(): void {
    const parts = this.#parts.splice(0);
    if (!this.core.failure) for (const { bytes } of parts) bytes.free();
    if (!this.#bytes) return;
    if (!this.core.failure) this.#bytes.free();
    this.#bytes = undefined;
    this.core.users--;
  }

  private get bytes(): CoreBytes {
    if (!this.#bytes) throw new ModeletError("internal", "the bytes of a model were freed too early");
    return this.#bytes;
  }
}

/** Copies bytes from one instance to another. */
function copy(from: Core, source: CoreBytes, to: Core, target: CoreBytes): void {
  const { length } = source;
  for (let at = 0; at < length; at += pieceLength) {
    const piece = from.callSync(() => source.chunk(at, pieceLength));
    to.callSync(() => target.append(piece));
  }
}

/** How much is copied at once. */
const pieceLength = 4 << 20;

/** Whether an error is the list of the operators that a model needs and the core does not have. */
function lacksOperators(error: unknown): error is ModeletError {
  return error instanceof ModeletError && error.code === "unsupported-operator" && error.details.length > 0;
}

/** Moves a model to the build that has all operators. */
async function move(
  model: ModelInCore,
  lack: ModeletError,
  threads: ThreadsChoice,
  { signal, onProgress, workerUrl }: LoadOptions,
): Promise<[ModelInCore, Home]> {
  const tell = (loaded: number) => onProgress?.({ phase: "download", stage: "operators", loaded, total: 1 });
  tell(0);
  const home = await coreWithThreads({ operators: "all", workerUrl }, threads).catch((reason) => {
    const message = `${lack.message}; the build with all operators could not be loaded: ${messageOf(reason)}`;
    throw new ModeletError(lack.code, message, lack, { cause: reason });
  });
  checkAborted(signal);
  const moved = model.moveTo(home.core);
  model.free();
  model.core.recycle();
  tell(1);
  return [moved, home];
}
