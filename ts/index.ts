// Everything that `import … from "modelet"` gives.

export type {
  Device,
  InspectStage,
  NodeReport,
  Optimization,
  Report,
  ValueInfo,
} from "./core.js";
export type { DataType, DataTypeMap, TensorData, TypedArray } from "./dtype.js";
export { type ErrorCode, type ErrorPlace, ModeletError } from "./errors.js";
export {
  type LoadOptions,
  type Progress,
  type RunOptions,
  readTensor,
  Session,
  type Tensors,
  writeTensor,
} from "./session.js";
export type { ModelSource } from "./source.js";
export { type Nested, Tensor, type TensorInput } from "./tensor.js";
