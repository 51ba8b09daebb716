// Everything that `import … from "modelet"` gives.

export type {
  ContainerType,
  Device,
  InspectStage,
  Limits,
  MemoryUse,
  NodeReport,
  Optimization,
  Profile,
  ProfileRow,
  Report,
  SessionEvent,
  ThreadsReason,
  Timings,
  ValueInfo,
  WasmBuild,
} from "./core.js";
export type { DataType, DataTypeMap, TensorData, TypedArray } from "./dtype.js";
export { type ErrorCode, type ErrorPlace, ModeletError } from "./errors.js";
export type { ExternalSource } from "./external.js";
export {
  type Buffer as GPUBufferOf,
  type Device as GPUDeviceOf,
  type GpuDataType,
  GpuTensor,
  type ImageInput,
  type ImageOptions,
} from "./gpu.js";
export {
  type LoadOptions,
  type Progress,
  type RunOptions,
  readTensor,
  readValue,
  Session,
  writeTensor,
} from "./session.js";
export type { ModelSource } from "./source.js";
export { type Nested, Tensor, type TensorInput } from "./tensor.js";
export type { Feeds, FeedValue, MapItem, RunValue, Tensors } from "./value.js";
