// Element types: their names, the JavaScript data that holds them, and the conversions from plain numbers.

import { ModeletError } from "./errors.js";

/** The JavaScript data of each element type. */
export interface DataTypeMap {
  float32: Float32Array;
  float64: Float64Array;
  /** Bits of IEEE half floats. */
  float16: Uint16Array;
  /** Bits of bfloat16 numbers: the upper half of a float32. */
  bfloat16: Uint16Array;
  int8: Int8Array;
  int16: Int16Array;
  int32: Int32Array;
  int64: BigInt64Array;
  uint8: Uint8Array;
  uint16: Uint16Array;
  uint32: Uint32Array;
  uint64: BigUint64Array;
  /** One byte per element, 0 or 1. */
  bool: Uint8Array;
  string: string[];
  /** One element per entry, -8 to 7. */
  int4: Int8Array;
  /** One element per entry, 0 to 15. */
  uint4: Uint8Array;
  /** One element per entry, -2 to 1. */
  int2: Int8Array;
  /** One element per entry, 0 to 3. */
  uint2: Uint8Array;
  /** Bits of 8-bit floats, as ONNX's element types of these names have them. */
  float8e4m3fn: Uint8Array;
  float8e4m3fnuz: Uint8Array;
  float8e5m2: Uint8Array;
  float8e5m2fnuz: Uint8Array;
  float8e8m0: Uint8Array;
  /** Bits of 4-bit floats, one element per entry, 0 to 15. */
  float4e2m1: Uint8Array;
}

/** Types whose data is always given as bits: there are no conversions from plain numbers. */
export type BitsType = Extract<DataType, `float8${string}` | "float4e2m1">;

/** The name of an element type. */
export type DataType = keyof DataTypeMap;

/** The data of any tensor. */
export type TensorData = DataTypeMap[DataType];

/** The numeric part of {@link TensorData}. */
export type TypedArray = Exclude<TensorData, string[]>;

type ArrayClass = {
  new (length: number): TypedArray;
  new (buffer: ArrayBufferLike, at: number, n: number): TypedArray;
};

const arrays: Record<Exclude<DataType, "string">, ArrayClass> = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
  int4: Int8Array,
  uint4: Uint8Array,
  int2: Int8Array,
  uint2: Uint8Array,
  float8e4m3fn: Uint8Array,
  float8e4m3fnuz: Uint8Array,
  float8e5m2: Uint8Array,
  float8e5m2fnuz: Uint8Array,
  float8e8m0: Uint8Array,
  float4e2m1: Uint8Array,
};

const ranges: Partial<Record<DataType, readonly [number, number]>> = {
  int8: [-128, 127],
  int16: [-32768, 32767],
  int32: [-2147483648, 2147483647],
  uint8: [0, 255],
  uint16: [0, 65535],
  uint32: [0, 4294967295],
  bool: [0, 1],
  int4: [-8, 7],
  uint4: [0, 15],
  int2: [-2, 1],
  uint2: [0, 3],
  float4e2m1: [0, 15],
};

/** Bits of the fraction, and bias of the exponent. */
const smallFloats: Record<Exclude<BitsType, "float8e8m0">, readonly [fraction: number, bias: number]> = {
  float8e4m3fn: [3, 7],
  float8e4m3fnuz: [3, 8],
  float8e5m2: [2, 15],
  float8e5m2fnuz: [2, 16],
  float4e2m1: [1, 1],
};

/** Whether a text names an element type. */
export function isDataType(name: unknown): name is DataType {
  return name === "string" || (typeof name === "string" && Object.hasOwn(arrays, name));
}

/** The typed array class that holds a type. */
export function arrayClass(type: Exclude<DataType, "string">): ArrayClass {
  return arrays[type];
}

/**
 * The data of a type from what a caller gives: the type's own array is taken as it is (no copy); `Float16Array` and
 * `Uint8ClampedArray` are taken as views; plain arrays are converted, and an element that does not fit is an error.
 */
export function toData<T extends DataType>(type: T, data: unknown): DataTypeMap[T];
export function toData(type: DataType, data: unknown): TensorData {
  if (type === "string") {
    if (Array.isArray(data) && data.every((item) => typeof item === "string")) return data;
    throw mismatch(type, "an array of strings", data);
  }
  const wanted = arrays[type];
  if (data instanceof wanted) return checkValues(type, data);
  const kind = kindOf(data);
  if ((kind === "Float16Array" && type === "float16") || (kind === "Uint8ClampedArray" && type === "uint8")) {
    const view = data as Uint8ClampedArray;
    return new wanted(view.buffer, view.byteOffset, view.length);
  }
  if (isBitsType(type)) throw mismatch(type, `${wanted.name} of bits`, data);
  if (Array.isArray(data)) return convert(type, data);
  throw mismatch(type, `${wanted.name} or a plain array`, data);
}

/** Whether a type's data is always given as bits. */
export function isBitsType(type: DataType): type is BitsType {
  return type in smallFloats || type === "float8e8m0";
}

/** What makes numbers of a type's elements. */
export function decoder(type: Exclude<DataType, "string">): (element: number | bigint) => number {
  if (type === "float16") return (bits) => fromFloat16(bits as number);
  if (type === "bfloat16") return (bits) => fromBfloat16(bits as number);
  return isBitsType(type) ? (bits) => fromBits(type, bits as number) : Number;
}

/** The number as bits of an IEEE half float, rounded to nearest even. */
export function toFloat16(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0] as number;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  // Adding 0.5 to a small number leaves its half-float subnormal, correctly rounded, in the low mantissa bits.
  if (magnitude < 0x38800000) {
    scratch[0] = Math.abs(Math.fround(value)) + 0.5;
    return sign | ((scratchBits[0] as number) - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

/** The number that bits of an IEEE half float stand for. */
export function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The number as bits of a bfloat16, rounded to nearest even. */
export function toBfloat16(value: number): number {
  scratch[0] = value;
  const bits = scratchBits[0] as number;
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that bits of a bfloat16 stand for. */
export function fromBfloat16(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratch[0] as number;
}

/** The number that bits of an 8-bit or 4-bit float stand for. */
function fromBits(type: BitsType, bits: number): number {
  if (type === "float8e8m0") return bits === 255 ? Number.NaN : 2 ** (bits - 127);
  const signBit = type === "float4e2m1" ? 8 : 128;
  const magnitude = bits & (signBit - 1);
  const sign = bits & signBit ? -1 : 1;
  if (type.endsWith("uz") && bits === 128) return Number.NaN;
  if (type === "float8e4m3fn" && magnitude === 127) return Number.NaN;
  if (type === "float8e5m2" && magnitude >= 124) return magnitude > 124 ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  const [fractionBits, bias] = smallFloats[type];
  const exponent = magnitude >> fractionBits;
  const fraction = (magnitude & ((1 << fractionBits) - 1)) / (1 << fractionBits);
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
}

const scratch = /* @__PURE__ */ new Float32Array(1);
const scratchBits = /* @__PURE__ */ new Uint32Array(scratch.buffer);

function convert(type: Exclude<DataType, "string">, items: readonly unknown[]): TypedArray {
  const out = new arrays[type](items.length);
  const wide = out instanceof BigInt64Array || out instanceof BigUint64Array;
  const encode = type === "float16" ? toFloat16 : type === "bfloat16" ? toBfloat16 : (value: number) => value;
  for (let i = 0; i < items.length; i++) {
    let item = items[i];
    if (type === "bool" && typeof item === "boolean") item = Number(item);
    if (wide) {
      if (typeof item === "number" && Number.isSafeInteger(item)) item = BigInt(item);
      if (typeof item !== "bigint") throw outside(type, i, item);
      out[i] = item;
      if (out[i] !== item) throw outside(type, i, item);
    } else {
      if (typeof item !== "number" || !fits(type, item)) throw outside(type, i, item);
      out[i] = encode(item);
    }
  }
  return out;
}

function fits(type: DataType, value: number): boolean {
  const range = ranges[type];
  return range === undefined || (Number.isInteger(value) && value >= range[0] && value <= range[1]);
}

/** Types that use only part of their array's range are checked even when no conversion is needed. */
function checkValues(type: DataType, data: TypedArray): TypedArray {
  if (["bool", "int4", "uint4", "int2", "uint2", "float4e2m1"].includes(type)) {
    const at = (data as Uint8Array).findIndex((value) => !fits(type, value));
    if (at >= 0) throw outside(type, at, data[at]);
  }
  return data;
}

function outside(type: DataType, index: number, value: unknown): ModeletError {
  return new ModeletError("invalid-tensor", `element ${index} (${describe(value)}) does not fit type ${type}`, {
    expected: type,
    actual: describe(value),
  });
}

function mismatch(type: DataType, expected: string, data: unknown): ModeletError {
  const actual = kindOf(data);
  return new ModeletError("invalid-tensor", `a ${type} tensor takes ${expected}, not ${actual}`, { expected, actual });
}

function describe(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** What kind of thing a value is, for messages: `Array`, `Map`, `null`. */
export function kindOf(data: unknown): string {
  if (data === null || data === undefined) return String(data);
  return Object.prototype.toString.call(data).slice(8, -1);
}
