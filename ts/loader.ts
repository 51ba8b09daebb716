// Loads the WebAssembly core: picks the build this engine runs best, downloads that one file, and keeps one instance
// for all sessions. Further builds, with the operators that few models need or with threads, are loaded when a session
// needs one. When an instance dies (a Rust panic, memory running out inside it), every call under way ends in an error
// and the next load gets a fresh instance.

import type { CoreModule, WasmBuild } from "./core.js";
import { fromCore, isCoreFailure, ModeletError, messageOf } from "./errors.js";
import { isNode, readFile } from "./platform.js";
import { maySleep, Workers } from "./threads.js";

const files: Record<WasmBuild, string> = {
  simd128: "modelet_simd_bg.wasm",
  "relaxed-simd": "modelet_relaxed_bg.wasm",
  "simd128, all operators": "modelet_full_simd_bg.wasm",
  "relaxed-simd, all operators": "modelet_full_relaxed_bg.wasm",
  "simd128, threads": "modelet_simd_threads_bg.wasm",
  "relaxed-simd, threads": "modelet_relaxed_threads_bg.wasm",
  "simd128, all operators, threads": "modelet_full_simd_threads_bg.wasm",
  "relaxed-simd, all operators, threads": "modelet_full_relaxed_threads_bg.wasm",
};

/** How the generated modules are imported; literal names, so that bundlers find them. */
const glue: Record<WasmBuild, () => Promise<unknown>> = {
  // @ts-expect-error made by the build, next to the bundle
  simd128: () => import("./wasm/modelet_simd.js"),
  // @ts-expect-error made by the build, next to the bundle
  "relaxed-simd": () => import("./wasm/modelet_relaxed.js"),
  // @ts-expect-error made by the build, next to the bundle
  "simd128, all operators": () => import("./wasm/modelet_full_simd.js"),
  // @ts-expect-error made by the build, next to the bundle
  "relaxed-simd, all operators": () => import("./wasm/modelet_full_relaxed.js"),
  // @ts-expect-error made by the build, next to the bundle
  "simd128, threads": () => import("./wasm/modelet_simd_threads.js"),
  // @ts-expect-error made by the build, next to the bundle
  "relaxed-simd, threads": () => import("./wasm/modelet_relaxed_threads.js"),
  // @ts-expect-error made by the build, next to the bundle
  "simd128, all operators, threads": () => import("./wasm/modelet_full_simd_threads.js"),
  // @ts-expect-error made by the build, next to the bundle
  "relaxed-simd, all operators, threads": () => import("./wasm/modelet_full_relaxed_threads.js"),
};

/** Where their WebAssembly files are; literal names, so that bundlers find them. */
const compiled: Record<WasmBuild, () => URL> = {
  simd128: () => new URL("./wasm/modelet_simd_bg.wasm", import.meta.url),
  "relaxed-simd": () => new URL("./wasm/modelet_relaxed_bg.wasm", import.meta.url),
  "simd128, all operators": () => new URL("./wasm/modelet_full_simd_bg.wasm", import.meta.url),
  "relaxed-simd, all operators": () => new URL("./wasm/modelet_full_relaxed_bg.wasm", import.meta.url),
  "simd128, threads": () => new URL("./wasm/modelet_simd_threads_bg.wasm", import.meta.url),
  "relaxed-simd, threads": () => new URL("./wasm/modelet_relaxed_threads_bg.wasm", import.meta.url),
  "simd128, all operators, threads": () => new URL("./wasm/modelet_full_simd_threads_bg.wasm", import.meta.url),
  "relaxed-simd, all operators, threads": () => new URL("./wasm/modelet_full_relaxed_threads_bg.wasm", import.meta.url),
};

/** Which operators an instance has: those that most models are made of, or all. */
export type Operators = "common" | "all";

/** One live instance of the core. */
export class Core {
  readonly module: CoreModule;
  readonly build: WasmBuild;
  readonly operators: Operators;
  /** Milliseconds from the request for the file to the live instance. */
  readonly startMs: number;
  /** Why the instance can no longer be used. */
  failure: ModeletError | undefined;
  /** How many models and sessions live in the instance. */
  users = 0;
  /** Whether the GPU may have been opened: its callbacks then hold on to the instance. */
  usesGpu = false;
  /** The threads, in a build that has them. */
  readonly workers: Workers | undefined;
  readonly #waiting = new Set<(error: ModeletError) => void>();

  constructor(module: CoreModule, build: WasmBuild, operators: Operators, startMs: number, workers?: Workers) {
    this.module = module;
    this.build = build;
    this.operators = operators;
    this.startMs = startMs;
    this.workers = workers;
    workers?.onLost((error) => this.#die(messageOf(error), error));
    this.#listen();
    module.warmUp?.();
  }

  /** Gives the memory of an instance that nothing lives in back to the system: WebAssembly's memory never shrinks. */
  recycle(): void {
    const reset = this.module.__wbg_reset_state;
    if (this.failure || this.users > 0 || this.#waiting.size > 0) return;
    this.workers?.terminate();
    this.module.forgetThreads?.();
    if (this.usesGpu || !reset) return;
    try {
      reset();
      this.#listen();
    } catch (error) {
      this.#die(messageOf(error), error);
    }
  }

  /**
   * Calls into the instance. An error that the core reports becomes its ModeletError; anything else that is thrown is
   * a trap, which ends this instance. A call that can no longer settle, because the instance died, is rejected.
   */
  call<T>(work: (module: CoreModule) => T | PromiseLike<T>): T | Promise<T> {
    const result = this.callSync(work);
    return isPromise(result) ? this.#settled(result) : result;
  }

  async #settled<T>(result: PromiseLike<T>): Promise<T> {
    let abandon: (error: ModeletError) => void = () => {};
    const death = new Promise<never>((_, reject) => {
      abandon = reject;
    });
    this.#waiting.add(abandon);
    try {
      return await Promise.race([result, death]);
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

  #listen(): void {
    this.module.setPanicHandler?.((message) => this.#die(message));
    const parts = this.module.wasmParts?.();
    if (!parts) return;
    this.module.openThreads?.(maySleep());
    const present = () => this.module.threadsPresent?.() ?? 1;
    this.workers?.attach(parts.module as WebAssembly.Module, parts.memory as WebAssembly.Memory, present);
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
    this.workers?.terminate();
    for (const abandon of this.#waiting) abandon(this.failure);
    this.#waiting.clear();
    return this.failure;
  }
}

function isPromise<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof (value as PromiseLike<T> | null | undefined)?.then === "function";
}

type Kind = `${Operators}${"" | ", threads"}`;
const current: Partial<Record<Kind, Promise<Core>>> = {};
/** The kinds that are there, those with all operators first: they serve every model. */
const there: Kind[] = [];
let folder: string | URL | undefined;

/** What an instance is wanted for. */
export interface CoreRequest {
  /** When left out, an instance with all operators where there is one already. */
  readonly operators?: Operators;
  /** With more than one, the instance has threads, and so many of them are started. */
  readonly threads?: number;
  /**
   * The folder that holds the `.wasm` files, when it is not the one next to this module; counts until the first instance
   * is there.
   */
  readonly wasmUrl?: string | URL | undefined;
  /** Where `worker.js` is, when it is not next to this module. */
  readonly workerUrl?: string | URL | undefined;
}

/** A live instance, loading it on the first call. Calls share one instance and one download. */
export async function loadCore(request: CoreRequest = {}): Promise<Core> {
  const { threads = 1, wasmUrl, workerUrl } = request;
  const kindOf = (operators: Operators): Kind => `${operators}${threads > 1 ? ", threads" : ""}`;
  const kind = kindOf(request.operators ?? (there.includes(kindOf("all")) ? "all" : "common"));
  current[kind] ??= start(kind, threads > 1 ? new Workers(workerUrl) : undefined, threads, folder ?? wasmUrl);
  const loading = current[kind];
  try {
    const core = await loading;
    folder ??= wasmUrl;
    if (!there.includes(kind)) there.push(kind);
    if (!core.failure) {
      await core.workers?.start(threads);
      return core;
    }
    if (current[kind] === loading) current[kind] = restart(core);
  } catch (error) {
    // A failed download may succeed the next time.
    if (current[kind] === loading && !(await isAlive(loading))) delete current[kind];
    throw error;
  }
  return loadCore(request);
}

async function isAlive(loading: Promise<Core>): Promise<boolean> {
  return loading.then(
    () => true,
    () => false,
  );
}

/** An instance for what any has: the first that is there, or the smallest. */
export async function anyCore(): Promise<Core> {
  for (const kind of there) {
    const core = await current[kind]?.catch(() => undefined);
    if (core && !core.failure) return core;
  }
  return loadCore();
}

/** The build that this engine runs best. */
export function pickBuild(operators: Operators, threads: boolean): WasmBuild {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(simdProbe())) {
    throw new ModeletError("unsupported-environment", "modelet needs WebAssembly with SIMD, which this engine lacks");
  }
  const set = hasRelaxedSimd() ? "relaxed-simd" : "simd128";
  const build = operators === "all" ? (`${set}, all operators` as const) : set;
  return threads ? `${build}, threads` : build;
}

/** Whether the engine has relaxed SIMD, with extrema that keep a NaN in their second operand. */
function hasRelaxedSimd(): boolean {
  const module = extremaProbe();
  if (!WebAssembly.validate(module)) return false;
  const { keepsNan } = new WebAssembly.Instance(new WebAssembly.Module(module)).exports;
  return (keepsNan as () => number)() === 1;
}

/** A module that says whether f32x4.relaxed_min(1, relaxed_max(1, relaxed_madd(1, 1, NaN))) is NaN. */
function extremaProbe(): Uint8Array<ArrayBuffer> {
  const splat = (bytes: readonly number[]) => [0x43, ...bytes, 0xfd, 0x13];
  const [one, nan] = [splat([0, 0, 0x80, 0x3f]), splat([0, 0, 0xc0, 0x7f])];
  const operands = [...one, ...one, ...one, ...one, ...nan];
  const lane = [...operands, 0xfd, 0x85, 0x02, 0xfd, 0x8e, 0x02, 0xfd, 0x8d, 0x02, 0xfd, 0x1f, 0];
  const body = [0, ...lane, ...lane, 0x5c, 0x0b];
  const name = [...new TextEncoder().encode("keepsNan")];
  const exported = [7, name.length + 4, 1, name.length, ...name, 0, 0];
  const code = [0x0a, body.length + 2, 1, body.length, ...body];
  return new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7f, 3, 2, 1, 0],
    ...exported,
    ...code,
  ]);
}

/** A module whose one function applies f32x4.add to two vectors of zeros and returns a vector. */
function simdProbe(): Uint8Array<ArrayBuffer> {
  const zeros = [0x41, 0, 0xfd, 0x0f];
  const body = [0, ...zeros, ...zeros, 0xfd, 0xe4, 0x01, 0x0b];
  const code = [0x0a, body.length + 2, 1, body.length, ...body];
  return new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0, ...code]);
}

async function start(kind: Kind, workers: Workers | undefined, threads: number, wasmUrl?: string | URL): Promise<Core> {
  const operators = kind.startsWith("all") ? "all" : "common";
  const build = pickBuild(operators, kind.endsWith("threads"));
  const file = files[build];
  // The workers' script is on its way together with the core.
  const started = workers?.start(threads);
  started?.catch(() => {});
  const began = performance.now();
  try {
    // The file is on its way while the glue is, which would ask for it only then.
    const location = wasmLocation(build, wasmUrl);
    location.catch(() => {});
    const module = (await glue[build]()) as CoreModule;
    const found = await location;
    await (found === undefined ? module.default() : module.default({ module_or_path: found }));
    await started;
    return new Core(module, build, operators, performance.now() - began, workers);
  } catch (error) {
    workers?.terminate();
    if (error instanceof ModeletError) throw error;
    const where = wasmUrl === undefined ? file : String(inFolder(wasmUrl, file));
    throw new ModeletError(
      "wasm-unavailable",
      `modelet's WebAssembly file (${where}) could not be loaded: ${messageOf(error)}`,
      { actual: where },
      { cause: error },
    );
  }
}

/** What to instantiate: bytes in Node.js, a response, or undefined for the place that the glue itself knows. */
async function wasmLocation(build: WasmBuild, wasmUrl?: string | URL): Promise<unknown> {
  const file = files[build];
  if (isNode) {
    const url = inFolder(wasmUrl ?? new URL("./wasm/", import.meta.url), file);
    return url.protocol === "file:" ? readFile(url) : checked(url);
  }
  if (wasmUrl !== undefined) return checked(inFolder(wasmUrl, file));
  // A bundler may have moved this code away from the file, and not the glue.
  return checked(compiled[build]()).catch(() => undefined);
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
  return new Core(dead.module, dead.build, dead.operators, dead.startMs, dead.workers?.successors());
}
