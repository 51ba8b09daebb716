// What differs between a browser and Node.js: reading files, and where WebGPU comes from. Node's modules are imported
// by name at run time, so that bundlers for the web neither see nor ship them.

import { ModeletError, messageOf } from "./errors.js";

/** Whether this is Node.js or something that behaves like it (Bun, Deno). */
export const isNode: boolean =
  typeof process === "object" && typeof process.versions?.node === "string" && !("type" in process);

/** Whether there is WebGPU, be it without an adapter. */
export function hasWebGPU(): boolean {
  return Boolean((globalThis.navigator as { gpu?: unknown } | undefined)?.gpu);
}

type AdapterInfo = Partial<Record<"isFallbackAdapter" | "architecture" | "description", unknown>>;

/** Whether a session for this device can be expected to use a GPU: `auto` takes none that a program imitates. */
export async function expectsGpu(device: "auto" | "webgpu" | "cpu"): Promise<boolean> {
  if (device !== "auto" || !hasWebGPU()) return device === "webgpu";
  const { gpu } = globalThis.navigator as unknown as {
    gpu: { requestAdapter(): Promise<{ info: AdapterInfo } | null> };
  };
  const adapter = await gpu.requestAdapter().catch(() => null);
  const info = adapter?.info;
  return (
    info !== undefined &&
    !/true|swiftshader|llvmpipe|lavapipe|basic render/i.test(
      `${info.isFallbackAdapter} ${info.architecture} ${info.description}`,
    )
  );
}

/** Imports a module that exists only at run time. */
export function importAtRunTime<M>(name: string): Promise<M> {
  return import(/* webpackIgnore: true */ /* @vite-ignore */ name);
}

/** A file being read piece by piece. */
export interface FileSource {
  readonly total: number;
  chunks(): AsyncGenerator<Uint8Array>;
}

/** Finds a file of the local disk; it is opened when its pieces are asked for (Node.js only). */
export async function openFile(path: string | URL): Promise<FileSource> {
  const fs = await importAtRunTime<typeof import("node:fs/promises")>("node:fs/promises");
  const { size } = await fs.stat(path).catch((error) => {
    throw unreadable(path, error);
  });
  return {
    total: size,
    async *chunks() {
      const file = await fs.open(path).catch((error) => {
        throw unreadable(path, error);
      });
      try {
        const buffer = new Uint8Array(Math.min(Math.max(size, 1), 4 << 20));
        for (;;) {
          const { bytesRead } = await file.read(buffer, 0, buffer.length);
          if (bytesRead === 0) return;
          yield buffer.subarray(0, bytesRead);
        }
      } catch (error) {
        throw unreadable(path, error);
      } finally {
        await file.close();
      }
    },
  };
}

/** A file of which ranges are read. */
export interface RangeFile {
  readonly size: number;
  read(start: number, end: number): AsyncGenerator<Uint8Array>;
  close(): Promise<void>;
}

/** Opens a file of the local disk for reading by range (Node.js only). */
export async function openRangeFile(path: string | URL): Promise<RangeFile> {
  const fs = await importAtRunTime<typeof import("node:fs/promises")>("node:fs/promises");
  const fail = (error: unknown) => {
    throw unreadable(path, error);
  };
  const file = await fs.open(path).catch(fail);
  const { size } = await file.stat();
  return {
    size,
    async *read(start, end) {
      const buffer = new Uint8Array(Math.min(Math.max(end - start, 1), 4 << 20));
      for (let at = start; at < end; ) {
        const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, end - at), at).catch(fail);
        if (bytesRead === 0) return;
        yield buffer.subarray(0, bytesRead);
        at += bytesRead;
      }
    },
    close: () => file.close(),
  };
}

/** A file next to another one, by a path with `/` or `\\` between its parts (Node.js only). */
export async function besideFile(path: string | URL, location: string): Promise<string> {
  const { dirname, join } = await importAtRunTime<typeof import("node:path")>("node:path");
  const { fileURLToPath } = await importAtRunTime<typeof import("node:url")>("node:url");
  const file = path instanceof URL ? fileURLToPath(path) : path;
  return join(dirname(file), ...location.split(/[\\/]/));
}

/** The whole of a file (Node.js only). */
export async function readFile(path: string | URL): Promise<Uint8Array> {
  const fs = await importAtRunTime<typeof import("node:fs/promises")>("node:fs/promises");
  return fs.readFile(path);
}

/**
 * Makes WebGPU available in Node.js from the optional `webgpu` package, in the place where the core looks for it.
 * Returns false when the package is not installed.
 */
export async function provideWebGPU(): Promise<boolean> {
  const scope = globalThis as { navigator?: { gpu?: unknown }; WorkerGlobalScope?: unknown };
  if (!scope.navigator?.gpu) {
    let webgpu: { create(options: string[]): unknown; globals: object };
    try {
      webgpu = await importAtRunTime("webgpu");
    } catch (error) {
      if ((error as { code?: string }).code === "ERR_MODULE_NOT_FOUND") return false;
      throw new ModeletError("device", `the webgpu package failed to start: ${messageOf(error)}`, {}, { cause: error });
    }
    Object.assign(globalThis, webgpu.globals);
    if (!scope.navigator) Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
    Object.defineProperty(scope.navigator, "gpu", { value: webgpu.create([]), configurable: true });
  }
  // The core finds `navigator` through the scope of a window or a worker; Node.js has neither name.
  scope.WorkerGlobalScope ??= class WorkerGlobalScope {};
  return true;
}

function unreadable(path: string | URL, error: unknown): ModeletError {
  const missing = (error as { code?: string }).code === "ENOENT";
  const message = missing ? `there is no file ${path}` : `cannot read ${path}: ${messageOf(error)}`;
  return new ModeletError("fetch-failed", message, { actual: String(path) }, { cause: error });
}
