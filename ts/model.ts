// A model's way into the core: its bytes stream into the core's memory and are compiled there. A model with operators
// that the core lacks moves on to the build that has all, without another download.

import type { CoreBytes, CoreSession, Device, Optimization } from "./core.js";
import { ModeletError, messageOf } from "./errors.js";
import { type Core, loadCore } from "./loader.js";
import type { LoadOptions } from "./session.js";
import { type ByteStream, checkStart, type ModelSource, openSource, viewBytes } from "./source.js";

/** A compiled model, and the instance of the core that it lives in. */
export interface OpenModel {
  readonly core: Core;
  readonly session: CoreSession;
}

interface OpenOptions extends LoadOptions {
  readonly device: Device;
  readonly optimization: Optimization;
}

/** Loads and compiles a model. */
export async function openModel(source: ModelSource, options: OpenOptions): Promise<OpenModel> {
  // The model's request goes out while the core is still loading.
  const [stream, first] = await Promise.all([
    openSource(source, options.signal),
    loadCore(options.operators === "all" ? "all" : undefined, options.wasmUrl),
  ]);
  const model = new ModelInCore(first, stream.total);
  try {
    await model.fill(stream, options);
    return { core: first, session: await model.compile(stream.name, options) };
  } catch (error) {
    if (first.operators === "all" || !lacksOperators(error)) throw error;
    const moved = await move(model, error, options);
    try {
      return { core: moved.core, session: await moved.compile(stream.name, options) };
    } finally {
      moved.free();
    }
  } finally {
    model.free();
  }
}

/** Fails with an `aborted` error when the signal fired. */
export function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new ModeletError("aborted", "aborted by the caller", {}, { cause: signal.reason });
}

/** A model's bytes in the memory of an instance. */
class ModelInCore {
  readonly core: Core;
  #bytes: CoreBytes | undefined;

  constructor(core: Core, expectedLength: number) {
    this.core = core;
    this.#bytes = core.callSync((module) => new module.ModelBytes(expectedLength));
    core.users++;
  }

  async fill(stream: ByteStream, { signal, onProgress }: LoadOptions): Promise<void> {
    let loaded = 0;
    for await (const chunk of stream.chunks()) {
      checkAborted(signal);
      if (loaded === 0) checkStart(chunk, stream.name);
      this.core.callSync(() => this.bytes.append(chunk));
      loaded += chunk.length;
      onProgress?.({ stage: "download", loaded, total: stream.total });
    }
    checkAborted(signal);
  }

  /** The same bytes in another instance. */
  copyTo(core: Core): ModelInCore {
    const { length } = this.bytes;
    const copy = new ModelInCore(core, length);
    try {
      for (let at = 0; at < length; at += pieceLength) {
        const piece = this.core.callSync(() => this.bytes.chunk(at, pieceLength));
        core.callSync(() => copy.bytes.append(piece));
      }
      return copy;
    } catch (error) {
      copy.free();
      throw error;
    }
  }

  /** Makes a session, which counts as a user of the instance. */
  async compile(sourceName: string | undefined, options: OpenOptions): Promise<CoreSession> {
    const { device, optimization, externalData, limits, signal, onProgress } = options;
    const name = options.name ?? sourceName;
    const session = await this.core.call((module) =>
      module.CoreSession.load(
        this.bytes,
        {
          device,
          optimization,
          ...(limits && { limits }),
          ...(externalData && { externalData: bytesOf(externalData) }),
          ...(name !== undefined && { name }),
        },
        (stage, done, total) => onProgress?.({ stage, loaded: done, total }),
      ),
    );
    if (signal?.aborted) session.free();
    checkAborted(signal);
    this.core.users++;
    return session;
  }

  /** Lets go of the bytes, which a session may still share. Freeing twice is harmless. */
  free(): void {
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

/** How much is copied at once from one instance to the other. */
const pieceLength = 4 << 20;

/** Whether an error is the list of the operators that a model needs and the core does not have. */
function lacksOperators(error: unknown): error is ModeletError {
  return error instanceof ModeletError && error.code === "unsupported-operator" && error.details.length > 0;
}

/** Moves a model to the build that has all operators. */
async function move(model: ModelInCore, lack: ModeletError, { signal, onProgress }: LoadOptions): Promise<ModelInCore> {
  const tell = (loaded: number) => onProgress?.({ stage: "operators", loaded, total: 1 });
  tell(0);
  const core = await loadCore("all").catch((reason) => {
    const message = `${lack.message}; the build with all operators could not be loaded: ${messageOf(reason)}`;
    throw new ModeletError(lack.code, message, lack, { cause: reason });
  });
  checkAborted(signal);
  const moved = model.copyTo(core);
  model.free();
  model.core.recycle();
  tell(1);
  return moved;
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
