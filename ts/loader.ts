// Loads the WebAssembly core: picks the build this engine runs best, downloads that one file, and keeps one instance
// for all sessions. When the instance dies (a Rust panic, memory running out inside it), every call under way ends in
// an error and the next load gets a fresh instance.

import type { CoreModule } from "./core.js";
import { fromCore, isCoreFailure, ModeletError, messageOf } from "./errors.js";
import { isNode, readFile } from "./platform.js";

/** Which build of the core runs. */
export type WasmVariant = "simd128" | "relaxed-simd";

const files: Record<WasmVariant, string> = {
  simd128: "modelet_simd_bg.wasm",
  "relaxed-simd": "modelet_relaxed_bg.wasm",
};

/** How the generated modules are imported; literal names, so that bundlers find them. */
const glue: Record<WasmVariant, () => Promise<unknown>> = {
  // @ts-expect-error made by the build, next to the bundle
  simd128: () => import("./wasm/modelet_simd.js"),
  // @ts-expect-error made by the build, next to the bundle
  "relaxed-simd": () => import("./wasm/modelet_relaxed.js"),
};

/** One live instance of the core. */
export class Core {
  readonly module: CoreModule;
  readonly variant: WasmVariant;
  /** Why the instance can no longer be used. */
  failure: ModeletError | undefined;
  readonly #waiting = new Set<(error: ModeletError) => void>();

  constructor(module: CoreModule, variant: WasmVariant) {
    this.module = module;
    this.variant = variant;
    module.setPanicHandler?.((message) => this.#die(message));
  }

  /**
   * Calls into the instance. An error that the core reports becomes its ModeletError; anything else that is thrown is
   * a trap, which ends this instance. A call that can no longer settle, because the instance died, is rejected.
   */
  async call<T>(work: (module: CoreModule) => T | PromiseLike<T>): Promise<T> {
    if (this.failure) throw this.failure;
    let abandon: (error: ModeletError) => void = () => {};
    const death = new Promise<never>((_, reject) => {
      abandon = reject;
    });
    this.#waiting.add(abandon);
    try {
      return await Promise.race([work(this.module), death]);
    } catch (error) {
      throw this.#translate(error);
    } finally {
      this.#waiting.delete(abandon);
    }
  }

  /** Like {@link call}, for what the core answers at once. */
  callSync<T>(work: (module: CoreModule) => T): T {
    if (this.failure) throw this.failure;
    try {
      return work(this.module);
    } catch (error) {
      throw this.#translate(error);
    }
  }

  #translate(thrown: unknown): ModeletError {
    if (thrown instanceof ModeletError) return thrown;
    if (isCoreFailure(thrown)) return fromCore(thrown);
    return this.#die(messageOf(thrown), thrown);
  }

  #die(message: string, cause?: unknown): ModeletError {
    this.failure ??= new ModeletError(
      "internal",
      `modelet failed inside its WebAssembly core and was stopped: ${message}`,
      {},
      { cause },
    );
    for (const abandon of this.#waiting) abandon(this.failure);
    this.#waiting.clear();
    return this.failure;
  }
}

let current: Promise<Core> | undefined;

/**
 * The live instance, loading it on the first call. Calls share one instance and one download.
 * @param wasmUrl the folder that holds the `.wasm` files, when it is not the one next to this module; counts on the
 *   first call only
 */
export async function loadCore(wasmUrl?: string | URL): Promise<Core> {
  current ??= start(wasmUrl);
  const loading = current;
  try {
    const core = await loading;
    if (!core.failure) return core;
    if (current === loading) current = restart(core);
  } catch (error) {
    // A failed download may succeed the next time.
    if (current === loading) current = undefined;
    throw error;
  }
  return loadCore(wasmUrl);
}

/** The build that this engine runs best. */
export function pickVariant(): WasmVariant {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(probe([0xfd, 0xe4, 0x01]))) {
    throw new ModeletError("unsupported-environment", "modelet needs WebAssembly with SIMD, which this engine lacks");
  }
  return WebAssembly.validate(probe([0xfd, 0x85, 0x02])) ? "relaxed-simd" : "simd128";
}

/** A module whose one function applies an instruction to three vectors of zeros and returns a vector. */
function probe(instruction: readonly number[]): Uint8Array<ArrayBuffer> {
  const zeros = [0x41, 0, 0xfd, 0x0f];
  // f32x4.add takes two operands, f32x4.relaxed_madd three.
  const operands = instruction[1] === 0x85 ? [...zeros, ...zeros, ...zeros] : [...zeros, ...zeros];
  const body = [0, ...operands, ...instruction, 0x0b];
  const code = [0x0a, body.length + 2, 1, body.length, ...body];
  return new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0, ...code]);
}

async function start(wasmUrl?: string | URL): Promise<Core> {
  const variant = pickVariant();
  try {
    const module = (await glue[variant]()) as CoreModule;
    const location = wasmLocation(variant, wasmUrl);
    await (location === undefined ? module.default() : module.default({ module_or_path: await location }));
    return new Core(module, variant);
  } catch (error) {
    if (error instanceof ModeletError) throw error;
    const file = wasmUrl === undefined ? files[variant] : String(inFolder(wasmUrl, files[variant]));
    throw new ModeletError(
      "wasm-unavailable",
      `modelet's WebAssembly file (${file}) could not be loaded: ${messageOf(error)}`,
      { actual: file },
      { cause: error },
    );
  }
}

/** What to instantiate: bytes in Node.js, a URL for another folder, or undefined for the module's own default. */
function wasmLocation(variant: WasmVariant, wasmUrl?: string | URL): unknown {
  if (isNode) {
    const url = inFolder(wasmUrl ?? new URL("./wasm/", import.meta.url), files[variant]);
    return url.protocol === "file:" ? readFile(url) : checked(url);
  }
  return wasmUrl === undefined ? undefined : checked(inFolder(wasmUrl, files[variant]));
}

async function checked(url: URL): Promise<Response> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response;
}

function inFolder(folder: string | URL, file: string): URL {
  const text = String(folder);
  const { document, location } = globalThis as { document?: Document; location?: Location };
  const base = isNode ? `file://${process.cwd()}/` : (document?.baseURI ?? location?.href);
  return new URL(file, new URL(text.endsWith("/") ? text : `${text}/`, base));
}

async function restart(dead: Core): Promise<Core> {
  try {
    if (!dead.module.__wbg_reset_state) throw dead.failure;
    dead.module.__wbg_reset_state();
  } catch {
    throw dead.failure;
  }
  return new Core(dead.module, dead.variant);
}
