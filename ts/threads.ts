// The threads of a core's instance: how many a session gets, why it gets only one, and the workers themselves.

import type { ThreadsReason } from "./core.js";
import { ModeletError } from "./errors.js";
import { importAtRunTime, isNode } from "./platform.js";
import type { ThreadNews, ThreadStart } from "./worker.js";

/** How many threads a session is to use; with one, why not more. */
export interface ThreadsChoice {
  readonly count: number;
  readonly reason?: ThreadsReason;
}

/** The most that can be asked for. */
const most = 64;
/** A thread runs kernels, which need little stack. */
const stackBytes = 512 << 10;
/** How long a worker may take to start. */
const patienceMillis = 10_000;

/** The number of threads for a session, from what was asked for and what can be had here. */
export async function chooseThreads(wanted: number | undefined): Promise<ThreadsChoice> {
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted >= 1 && wanted <= most)) {
    const place = { expected: `an integer from 1 to ${most}`, actual: String(wanted) };
    throw new ModeletError("invalid-argument", `threads is an integer from 1 to ${most}, not ${wanted}`, place);
  }
  if (wanted === 1) return { count: 1, reason: "asked-for" };
  const count = wanted ?? Math.min(Math.max(Math.floor((await logicalCores()) / 2), 1), 8);
  if (count === 1) return { count: 1, reason: "few-cores" };
  const reason = obstacle();
  return reason ? { count: 1, reason } : { count };
}

async function logicalCores(): Promise<number> {
  const { navigator } = globalThis as { navigator?: { hardwareConcurrency?: number } };
  if (navigator?.hardwareConcurrency) return navigator.hardwareConcurrency;
  if (!isNode) return 1;
  const os = await importAtRunTime<typeof import("node:os")>("node:os");
  return os.availableParallelism?.() ?? os.cpus().length;
}

/** Set by the build: whether the package has builds of the core with threads. */
declare const packageHasThreads: boolean;

/** What keeps this place from having threads. */
function obstacle(): ThreadsReason | undefined {
  if (!packageHasThreads) return "not-built";
  const { crossOriginIsolated, process } = globalThis as {
    crossOriginIsolated?: boolean;
    process?: { getBuiltinModule?: unknown };
  };
  if (!isNode && crossOriginIsolated !== true) return "not-isolated";
  if (typeof SharedArrayBuffer !== "function") return "no-shared-memory";
  const hasWorkers = isNode ? typeof process?.getBuiltinModule === "function" : typeof Worker === "function";
  return hasWorkers ? undefined : "no-workers";
}

/** Whether this thread may wait blocked; that of a page may not. */
export function maySleep(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 0);
    return true;
  } catch {
    return false;
  }
}

/** What workers of the web and of Node.js have in common here. */
interface AnyWorker {
  listen(news: (news: ThreadNews) => void, failed: (error: unknown) => void): void;
  start(message: ThreadStart): void;
  /** Whether the process waits for this worker (Node.js only). */
  hold(holds: boolean): void;
  terminate(): void;
}

/** A promise with its ends, whose failure may go unheard. */
function later(): { promise: Promise<void>; done(): void; fail(error: unknown): void } {
  let done = (): void => {};
  let fail = (_: unknown): void => {};
  const promise = new Promise<void>((resolve, reject) => {
    done = resolve;
    fail = reject;
  });
  promise.catch(() => {});
  return { promise, done, fail };
}

/** One worker, from its start on. */
class Thread {
  readonly #worker: Promise<AnyWorker>;
  readonly #up = later();
  readonly #works = later();
  readonly #lost: (error: unknown) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stage: "starting" | "working" | "ended" = "starting";
  #begun = false;

  constructor(lost: (error: unknown) => void, script: string | URL | undefined) {
    this.#lost = lost;
    this.#worker = isNode ? nodeWorker(script) : Promise.resolve().then(() => webWorker(script));
    this.#worker.then(
      (worker) => {
        worker.listen((news) => this.#hear(news), this.#fail);
        // Until it works, a process waits for it; afterwards it is no reason to stay.
        worker.hold(true);
        this.#wait();
      },
      (error) => this.#fail(error),
    );
  }

  /** Settled when the worker's script runs. */
  get up(): Promise<void> {
    return this.#up.promise;
  }

  /** Settled when the thread works. */
  get works(): Promise<void> {
    return this.#works.promise;
  }

  /** Lets it work; a second time is no more than the first. */
  begin(start: ThreadStart): void {
    if (this.#begun || this.#stage !== "starting") return;
    this.#begun = true;
    this.#wait();
    this.#worker.then((worker) => worker.start(start)).catch(this.#fail);
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#stage = "ended";
    this.#worker.then((worker) => worker.terminate()).catch(() => {});
  }

  #wait(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fail(new Error("the worker did not start in time")), patienceMillis);
  }

  #hear(news: ThreadNews): void {
    clearTimeout(this.#timer);
    if (typeof news === "object") {
      this.#fail(new Error(news.failed));
    } else if (news === "up") {
      this.#up.done();
      if (this.#begun) this.#wait();
    } else {
      this.#stage = "working";
      this.#worker.then((worker) => worker.hold(false)).catch(() => {});
      this.#works.done();
    }
  }

  readonly #fail = (error: unknown): void => {
    if (this.#stage === "ended") return;
    const wasWorking = this.#stage === "working";
    this.end();
    this.#up.fail(error);
    this.#works.fail(error);
    if (wasWorking) this.#lost(error);
  };
}

/** The workers of one instance. They start while the core is still being loaded. */
export class Workers {
  readonly #threads: Thread[] = [];
  readonly #script: string | URL | undefined;
  #lost = (_: unknown): void => {};
  #home: { module: WebAssembly.Module; memory: WebAssembly.Memory } | undefined;
  #present = (): number => 1;

  /** @param script where `worker.js` is, when it is not next to this module */
  constructor(script?: string | URL) {
    this.#script = script;
  }

  /** The workers of an instance in the place of this one. */
  successors(): Workers {
    return new Workers(this.#script);
  }

  /** Sets what is called when a worker ends that had begun to work. */
  onLost(lost: (error: unknown) => void): void {
    this.#lost = lost;
  }

  /** Starts workers until there are `count` threads, the page's own included; settled when their scripts run. */
  async start(count: number): Promise<void> {
    while (this.#threads.length < count - 1) this.#threads.push(new Thread((error) => this.#lost(error), this.#script));
    this.#begin();
    await Promise.all(this.#threads.map(({ up }) => up));
  }

  /** Lets the threads, those to come too, work for an instance. */
  attach(module: WebAssembly.Module, memory: WebAssembly.Memory, present: () => number): void {
    this.#home = { module, memory };
    this.#present = present;
    this.#begin();
  }

  /** Settled when all threads work. */
  async working(): Promise<void> {
    await Promise.all(this.#threads.map(({ works }) => works));
    // A thread says that it works just before it does.
    for (let tries = 0; tries < 100 && this.#present() <= this.#threads.length; tries++) {
      await new Promise((resolve) => setTimeout(resolve));
    }
  }

  terminate(): void {
    for (const thread of this.#threads.splice(0)) thread.end();
  }

  #begin(): void {
    const home = this.#home;
    if (!home) return;
    for (const [index, thread] of this.#threads.entries()) thread.begin({ ...home, number: index + 1, stackBytes });
  }
}

function webWorker(script: string | URL | undefined): AnyWorker {
  // Bundlers find the file by this very expression.
  const worker = script
    ? new Worker(script, { name: "modelet" })
    : new Worker(new URL("./worker.js", import.meta.url), { name: "modelet" });
  return {
    listen(news, failed) {
      worker.onmessage = ({ data }) => news(data);
      worker.onerror = (event) => failed(new Error(event.message || "the worker's script could not be loaded"));
      worker.onmessageerror = () => failed(new Error("the worker cannot share this memory"));
    },
    start: (message) => worker.postMessage(message),
    hold() {},
    terminate: () => worker.terminate(),
  };
}

async function nodeWorker(script: string | URL | undefined): Promise<AnyWorker> {
  const threads = await importAtRunTime<typeof import("node:worker_threads")>("node:worker_threads");
  const worker = new threads.Worker(script ?? new URL("./worker.js", import.meta.url), {
    name: "modelet",
    execArgv: [],
  });
  return {
    listen(news, failed) {
      worker.on("message", news);
      worker.on("error", failed);
      worker.on("exit", (code) => failed(new Error(`the worker ended with exit code ${code}`)));
    },
    start: (message) => worker.postMessage(message),
    hold: (holds) => (holds ? worker.ref() : worker.unref()),
    terminate: () => void worker.terminate(),
  };
}
