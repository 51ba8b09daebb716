// Tensors as JavaScript holds them: an element type, a shape, and the data in row-major order.

import { type BitsType, type DataType, type DataTypeMap, decoder, isDataType, toData } from "./dtype.js";
import { ModeletError } from "./errors.js";
import { type Buffer, type Device, type GpuDataType, GpuTensor } from "./gpu.js";

/** What a tensor of each type can be made from, besides its own array class. */
export type TensorInput<T extends DataType> =
  | DataTypeMap[T]
  | (T extends "string"
      ? readonly string[]
      : T extends "int64" | "uint64"
        ? readonly (bigint | number)[]
        : T extends "bool"
          ? readonly (boolean | number)[]
          : T extends BitsType
            ? never
            : readonly number[])
  | (T extends "uint8" ? Uint8ClampedArray : never)
  | (T extends "float16" ? HalfArray : never);

/** `Float16Array`, named by shape so that the types also work where the platform does not have it. */
export interface HalfArray extends ArrayBufferView {
  readonly [Symbol.toStringTag]: "Float16Array";
  readonly length: number;
}

/** Nested arrays of one kind of value, as {@link Tensor.from} takes them. */
export type Nested<V> = V | readonly Nested<V>[];

/**
 * A dense tensor. `data` is row-major and is not copied: a tensor made from a typed array shares it.
 *
 * ```ts
 * new Tensor("float32", pixels, [1, 784]);
 * new Tensor("int64", [101n, 2054n, 102n], [1, 3]);
 * Tensor.from([[1, 2], [3, 4]]); // float32, shape [2, 2]
 * ```
 */
export class Tensor<T extends DataType = DataType> {
  readonly type: T;
  readonly data: DataTypeMap[T];
  readonly shape: readonly number[];

  /**
   * @param type the element type
   * @param data the type's own array (shared, not copied), or a plain array of values that fit the type
   * @param shape the size of each dimension; without it the tensor has one dimension. `[]` is a scalar.
   * @throws ModeletError `invalid-tensor` when type, data and shape do not fit together
   */
  constructor(type: T, data: TensorInput<T>, shape?: readonly number[]) {
    if (!isDataType(type)) {
      throw new ModeletError("invalid-tensor", `${String(type)} is not an element type`, { actual: String(type) });
    }
    this.type = type;
    this.data = toData(type, data);
    this.shape = Object.freeze(shape === undefined ? [this.data.length] : [...checkShape(shape)]);
    const size = sizeOf(this.shape);
    if (size !== this.data.length) {
      throw new ModeletError(
        "invalid-tensor",
        `shape [${this.shape.join(", ")}] holds ${size} elements, but the data has ${this.data.length}`,
        { expected: String(size), actual: String(this.data.length) },
      );
    }
  }

  /** The number of elements. */
  get size(): number {
    return this.data.length;
  }

  /**
   * A tensor from nested arrays, a typed array, or a single value. Numbers become `float32`, bigints `int64`, booleans
   * `bool`, texts `string`, and a typed array the type of its name, unless `type` says otherwise.
   */
  static from<T extends DataType>(values: unknown, type: T): Tensor<T>;
  static from(values: Nested<number>): Tensor<"float32">;
  static from(values: Nested<bigint>): Tensor<"int64">;
  static from(values: Nested<boolean>): Tensor<"bool">;
  static from(values: Nested<string>): Tensor<"string">;
  static from(values: unknown): Tensor;
  static from(values: unknown, type?: DataType): Tensor {
    if (ArrayBuffer.isView(values)) {
      return new Tensor(type ?? typeOfArray(values), values as TensorInput<DataType>);
    }
    const shape: number[] = [];
    for (let level = values; Array.isArray(level); level = level[0]) shape.push(level.length);
    const flat: unknown[] = [];
    flatten(values, shape, 0, flat);
    return new Tensor(type ?? typeOfValue(flat[0]), flat as TensorInput<DataType>, shape);
  }

  /**
   * A tensor over a buffer of a session's {@link Session.device}, shared and not copied: row-major, four bytes per element
   * (a `bool` is 0 or 1 in 32 bits), a multiple of 16 bytes long, with the usages `STORAGE`, `COPY_SRC` and `COPY_DST`.
   * @throws ModeletError `invalid-tensor` when type, shape and buffer do not fit together
   */
  static fromGPUBuffer<T extends GpuDataType>(
    type: T,
    buffer: Buffer,
    shape: readonly number[],
    device: Device,
  ): GpuTensor<T> {
    return new GpuTensor(type, buffer, shape, device);
  }

  /** The same data under another shape of as many elements. */
  reshape(shape: readonly number[]): Tensor<T> {
    return new Tensor<T>(this.type, this.data as TensorInput<T>, shape);
  }

  /** The elements as numbers; bits of floats are decoded, and int64 beyond 2^53 is rounded. Not for strings. */
  toFloat64(): Float64Array {
    const { type, data } = this as Tensor;
    if (type === "string") throw new ModeletError("invalid-tensor", "a string tensor has no numbers");
    const decode = decoder(type);
    const out = new Float64Array(data.length);
    for (let i = 0; i < out.length; i++) out[i] = decode(data[i] as number | bigint);
    return out;
  }

  /** Like `float32[1, 784]`. */
  toString(): string {
    return `${this.type}[${this.shape.join(", ")}]`;
  }
}

function checkShape(shape: readonly number[]): readonly number[] {
  const sizes = Array.from(shape);
  if (sizes.some((dimension) => !Number.isSafeInteger(dimension) || dimension < 0)) {
    const text = `[${sizes.join(", ")}]`;
    throw new ModeletError("invalid-tensor", `${text} is not a shape: each dimension is an integer from 0`, {
      actual: text,
    });
  }
  return shape;
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((size, dimension) => size * dimension, 1);
}

function flatten(value: unknown, shape: readonly number[], depth: number, out: unknown[]): void {
  if (depth === shape.length && !Array.isArray(value)) {
    out.push(value);
    return;
  }
  if (!Array.isArray(value) || value.length !== shape[depth]) {
    throw new ModeletError("invalid-tensor", "nested arrays of unequal lengths are not a tensor");
  }
  for (const item of value) flatten(item, shape, depth + 1, out);
}

function typeOfValue(value: unknown): DataType {
  switch (typeof value) {
    case "bigint":
      return "int64";
    case "boolean":
      return "bool";
    case "string":
      return "string";
    default:
      return "float32";
  }
}

function typeOfArray(view: ArrayBufferView): DataType {
  const name = Object.prototype.toString.call(view).slice(8, -1).toLowerCase();
  const type = name.replace("array", "").replace("clamped", "").replace("big", "");
  if (isDataType(type)) return type;
  throw new ModeletError("invalid-tensor", `a ${name} needs an element type`, { actual: name });
}
