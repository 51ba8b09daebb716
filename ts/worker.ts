// A thread of a pool. It takes the core's compiled module and the page's memory, and works for that memory until it is
// terminated: it never answers another message. It loads nothing, so that one small file serves every build of the core,
// as a module or a classic script, from any bundler.

/** What the page sends once. */
export interface ThreadStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  /** Which thread of the pool this is, from 1 on. */
  readonly number: number;
  readonly stackBytes: number;
}

/** What comes back: `up` once the script runs, `works` just before the thread begins to, or what went wrong. */
export type ThreadNews = "up" | "works" | { readonly failed: string };

interface ThreadExports {
  __wbindgen_start(stackBytes: number): void;
  serveThread(number: number): void;
  loseThread(): void;
}

interface Port {
  postMessage(message: ThreadNews): void;
  on?(event: "message", listener: (data: ThreadStart) => void): void;
  onmessage?: ((event: { data: ThreadStart }) => void) | null;
}

type NodeProcess = { getBuiltinModule?(name: string): { parentPort: Port | null } | undefined };

const { process: node } = globalThis as { process?: NodeProcess };
// In Node.js a worker speaks through a port; on the web, the worker itself is the port.
const port = node?.getBuiltinModule?.("node:worker_threads")?.parentPort ?? (globalThis as unknown as Port);

function serve({ module, memory, number, stackBytes }: ThreadStart): void {
  let exports: ThreadExports | undefined;
  try {
    const imports: Record<string, Record<string, WebAssembly.ImportValue>> = {};
    for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
      imports[from] ??= {};
      // The core calls JavaScript only on the page's own thread; here there are just the places for it.
      imports[from][name] = kind === "memory" ? memory : () => outOfPlace(name);
    }
    exports = new WebAssembly.Instance(module, imports).exports as unknown as ThreadExports;
    exports.__wbindgen_start(stackBytes);
    port.postMessage("works");
    exports.serveThread(number);
  } catch (error) {
    try {
      exports?.loseThread();
    } finally {
      port.postMessage({ failed: String(error) });
    }
  }
}

function outOfPlace(name: string): void {
  if (!name.includes("init_externref_table")) throw new Error(`a thread of the pool called ${name}`);
}

if (port.on) port.on("message", serve);
else port.onmessage = ({ data }) => serve(data);
port.postMessage("up");
