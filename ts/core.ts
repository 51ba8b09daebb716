// What the WebAssembly core looks like from TypeScript: the contract with `src/wasm`. Nothing here runs; the loader
// casts the generated module to CoreModule once, and the rest of the package speaks to it through these types.

import type { DataType, TensorData } from "./dtype.js";

/** Where a session may run. `auto` takes WebGPU only on a hardware adapter that supports the model's heavy nodes. */
export type Device = "auto" | "webgpu" | "cpu";

/** How freely memory is used for speed. */
export type MemoryUse = "fast" | "low";

/** Which nodes of a session on the GPU run there: those that are worth it, or all that have a kernel. */
export type Offload = "worthwhile" | "everything";

/** How far a graph is rewritten before it is planned. */
export type Optimization = "none" | "basic" | "all";

/** The stages of compilation that can be printed. */
export type InspectStage = "graph" | "optimized" | "program";

/** The type of a value that is no tensor: `sequence(map(int64, float32))`, `map(string, float32)`, `optional(int64)`. */
export type ContainerType = `${"sequence" | "map" | "optional"}(${string})`;

/** An input or output of a model. */
export interface ValueInfo {
  readonly name: string;
  /** The element type of a tensor, or what a sequence, map or optional holds. What is not known is `"?"`. */
  readonly type: DataType | ContainerType | "?";
  /** A symbolic dimension is its name; one without a name is `"?"`. `[]` for what is no tensor. */
  readonly shape: readonly (number | string)[];
  /** Whether a run may go without this input. */
  readonly optional?: true;
}

/** Where one node runs, and why. */
export interface NodeReport {
  node: string;
  operator: string;
  device: "cpu" | "gpu" | "folded";
  /** The kernel that runs it. */
  kernel: string;
  /** Whether it is of the kind that most of a model's time goes into: a matrix product, a convolution. */
  heavy: boolean;
  /** Why the node is not on the GPU, when a GPU was wanted. */
  reason?: string;
  /** The nodes that were fused into this one. */
  fused?: string[];
}

/** A build of the core: the instructions it uses, whether it has the operators that few models need, and threads. */
export type WasmBuild = `${"simd128" | "relaxed-simd"}${"" | ", all operators"}${"" | ", threads"}`;

/** Why a session runs on one thread. */
export type ThreadsReason =
  /** The caller asked for one thread. */
  | "asked-for"
  /** Nothing was asked for, and half of the logical cores is one. */
  | "few-cores"
  /** This package was made without the builds that have threads. */
  | "not-built"
  /** The page is not cross-origin isolated: it was served without the headers COOP and COEP. */
  | "not-isolated"
  /** The engine has no shared memory, or none could be had. */
  | "no-shared-memory"
  /** The engine cannot start workers here. */
  | "no-workers"
  /** A worker could not be started, or the build with threads could not be loaded; `warnings` says more. */
  | "failed";

/** Milliseconds that each stage took so far. */
export interface Timings {
  /** Fetching, compiling and starting the core's WebAssembly; once for all sessions. */
  wasmMs: number;
  /** Reading the model file. */
  parseMs: number;
  /** Rewriting the graph. */
  optimizeMs: number;
  /** Opening the GPU. */
  deviceMs: number;
  /** Planning programs, which happens at the first run of each set of input shapes. */
  planMs: number;
  /** Bringing weights into the forms that kernels read, once, while planning. */
  prepackMs: number;
  /** Compiling GPU pipelines and uploading constants. */
  compileMs: number;
  /** The first run with everything it waited for; 0 before it. */
  firstRunMs: number;
}

/** What a session did with its model. */
export interface Report {
  /** The device in use. */
  device: "webgpu" | "cpu";
  /** The GPU adapter, when one is in use. */
  adapter?: string;
  /** Which build of the core runs. */
  wasm: WasmBuild;
  /** On how many threads the CPU's kernels run, and if on one, why. */
  threads: { count: number; reason?: ThreadsReason };
  nodes: NodeReport[];
  /** How many fused groups the optimiser made. */
  fusedGroups: number;
  /** How many dispatches a run makes on the GPU. */
  dispatches: number;
  /** Milliseconds spent in each stage of compilation. */
  timings: Timings;
  memory: { weightsBytes: number; cpuArenaBytes: number; gpuBytes: number; wasmBytes: number };
  warnings: string[];
}

/** What a node, or all nodes with the same kernel, took in one run. */
export interface ProfileRow {
  /** The node's name, and its operator; empty for a kernel. */
  node: string;
  operator: string;
  /** Steps of the GPU are measured on the device; where it cannot, they are waited for one by one, and the wait counts. */
  device: "cpu" | "gpu";
  kernel: string;
  /** The shapes of the node's inputs and outputs; empty for a kernel. */
  shapes: string;
  /** How often it ran in one run. */
  calls: number;
  /** Milliseconds in the run in which they were fewest. */
  ms: number;
  /** Milliseconds on the average of all runs. */
  meanMs: number;
  /** Multiplications and additions; 0 where memory counts rather than those. */
  operations: number;
  /** Bytes read and written, each operand once. */
  bytes: number;
}

/** Where the time of a run goes. */
export interface Profile {
  /** How many runs were timed. */
  runs: number;
  /** Milliseconds of the fastest run as a whole. */
  runMs: number;
  /** One row for each node that ran, the slowest first. */
  nodes: ProfileRow[];
  /** The same, summed over the nodes with the same kernel. */
  kernels: ProfileRow[];
}

/** Something that happened to a session and did not make a run fail. */
export type SessionEvent =
  /** The GPU device was lost; the run was made again on a new device, or on the CPU. */
  | { readonly type: "device-lost"; readonly continues: "webgpu" | "cpu"; readonly message: string }
  /** `verifyOnLoad` found a GPU kernel that disagrees with the CPU: the node runs on the CPU from now on. */
  | { readonly type: "node-demoted"; readonly node: string; readonly operator: string; readonly message: string };

/** A tensor as it crosses into and out of the core. */
export interface CoreTensor {
  name: string;
  type: DataType;
  shape: number[];
  data: TensorData;
}

/** A feed of the type that its input declares; the input by its position. */
export interface CoreFeed {
  input: number;
  shape: readonly number[];
  data: TensorData;
}

/** An output of a run that is a tensor, with its type where that is not the declared one. */
export interface CoreOutput {
  type?: DataType;
  shape: number[];
  data: TensorData;
}

/** A tensor in GPU memory as it crosses. */
export interface CoreGpuTensor {
  name: string;
  type: DataType;
  shape: number[];
  buffer: object;
}

/** A value as it crosses into and out of the core; one with a name only is an empty optional. */
export type CoreValue =
  | CoreTensor
  | CoreGpuTensor
  | { name: string; items: CoreValue[] }
  | { name: string; keys: CoreTensor; values: CoreTensor }
  | { name: string };

/** The most that a session may use; what is left out is not limited. */
export interface Limits {
  /** Bytes of the model's weights and of the values that a run holds at one time. */
  readonly memoryBytes?: number;
  /** Milliseconds of one run; looked at between the kernels of its nodes. */
  readonly runMillis?: number;
  /** Iterations of all loops of one run together. */
  readonly loopIterations?: number;
}

export interface CoreOptions {
  device: Device;
  optimization?: Optimization;
  memory?: MemoryUse;
  offload?: Offload;
  /** Runs on the CPU what lacks a GPU kernel in this build only; otherwise that is an `unsupported-operator` error. */
  fewerGpuKernels?: boolean;
  limits?: Limits;
  threads?: number;
  verifyOnLoad?: boolean;
  name?: string;
}

/** The parts of an external file that a model needs: `[start, end]` in ascending order. */
export interface CoreFileRanges {
  location: string;
  /** An end beyond all safe integers is that of the file. */
  ranges: [number, number][];
}

/**
 * Where the bytes of a model go: to the core's memory; all but large tensors of the model; or none. What does not go
 * there stays in JavaScript's.
 */
export type CoreBytesPlace = "inside" | "model" | "outside";

/** Bytes of a model, or of a part of its external data, as they stream in. */
export interface CoreBytes {
  append(chunk: Uint8Array): void;
  /** How many they are, without the pieces. */
  readonly length: number;
  /** A copy of at most `length` bytes from `start`. */
  chunk(start: number, length: number): Uint8Array;
  /** Large tensors that stayed in JavaScript, and where in the file they were. */
  pieces(): [offset: number, bytes: Uint8Array][];
  /** Takes in one of another instance's pieces. */
  addPiece(offset: number, bytes: Uint8Array): void;
  /** What the model needs of other files. */
  externalFiles(): CoreFileRanges[];
  /** Says that there is an external file of `size` bytes. */
  attachFile(location: string, size: number): void;
  /** Gives the part of an attached file that starts at `offset`; the model shares the part's bytes. */
  attachPart(location: string, offset: number, part: CoreBytes): void;
  free(): void;
}

export interface CoreSession {
  inputs(): ValueInfo[];
  outputs(): ValueInfo[];
  /** The outputs at once when nothing has to be waited for, as on the CPU. */
  run(
    feeds: (CoreFeed | CoreValue)[],
    fetches?: string[],
    kept?: string[],
    consumed?: string[],
  ): (CoreOutput | CoreValue)[] | Promise<(CoreOutput | CoreValue)[]>;
  /** The `GPUDevice` in use. */
  gpuDevice(): object | undefined;
  profile(feeds: (CoreFeed | CoreValue)[], runs: number): Promise<Profile>;
  /** The build is named by the loader, which knows why there are so many threads. */
  report(): Omit<Report, "threads" | "wasm"> & { threads: number };
  inspect(stage: InspectStage, json: boolean): string;
  free(): void;
}

/** The generated module: `wasm-bindgen --target web`. */
export interface CoreModule {
  /** Instantiates the WebAssembly file; doing so again is a no-op. */
  default(options?: { module_or_path: unknown }): Promise<unknown>;
  /** Replaces the instance by a fresh one, after a trap. */
  __wbg_reset_state?(): void;
  /** What the threads of the instance share (builds with threads only). */
  wasmParts?(): { module: unknown; memory: unknown };
  /** Makes the pool, before workers come (builds with threads only). */
  openThreads?(maySleep: boolean): void;
  /** How many threads there are, the page's own included (builds with threads only). */
  threadsPresent?(): number;
  /** Says that all workers were terminated (builds with threads only). */
  forgetThreads?(): void;
  /** Calls `handler` with the message of a Rust panic, just before the instance aborts. */
  setPanicHandler?(handler: (message: string) => void): void;
  /** Has the engine compile the matrix product for speed, in the background: half a millisecond. */
  warmUp?(): void;
  readonly ModelBytes: new (expectedLength: number, place: CoreBytesPlace) => CoreBytes;
  readonly CoreSession: {
    /** The session shares `bytes`, which may be freed. */
    load(
      bytes: CoreBytes,
      options: CoreOptions,
      onProgress?: (stage: string, done: number, total: number) => void,
      onEvent?: (event: SessionEvent) => void,
    ): Promise<CoreSession>;
  };
  /** Reads an ONNX file of one value of a type; `"?"` stands for any tensor. */
  readValue(bytes: Uint8Array, type: string): CoreValue;
  writeTensor(tensor: CoreTensor): Uint8Array;
  version(): string;
}
