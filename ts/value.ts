// Values that are more than a tensor: sequences are arrays, maps are plain objects, and an empty optional is null. What a
// feed is made into follows from the type that the model declares, such as `sequence(map(int64, float32))`.

import type { CoreFeed, CoreOutput, CoreTensor, CoreValue } from "./core.js";
import { type DataType, isDataType, kindOf } from "./dtype.js";
import { ModeletError, messageOf } from "./errors.js";
import { type Buffer, type Device, type GpuDataType, GpuTensor } from "./gpu.js";
import { Tensor, type TensorInput } from "./tensor.js";

/** A key or value of a map: a bigint for 64-bit integers, a text for strings, a number for everything else. */
export type MapItem = number | bigint | string;

/**
 * What comes out of a run: a tensor (in GPU memory where that was asked for), an array for a sequence, a plain object for a map, or `null` for an optional that
 * holds nothing. Integer keys of a map become their decimal text.
 */
export type RunValue = Tensor | GpuTensor | readonly RunValue[] | { readonly [key: string]: MapItem } | null;

/** What a run takes: the same forms, and also a `Map` for a map. */
export type FeedValue =
  | Tensor
  | GpuTensor
  | readonly FeedValue[]
  | { readonly [key: string]: MapItem }
  | ReadonlyMap<MapItem, MapItem>
  | null;

/** Feeds by the name of the model's input. */
export type Feeds = Readonly<Record<string, FeedValue>>;

/** Values by the name of the model's input or output. */
export type Values = Record<string, RunValue>;

/** An input as the model declares it. */
export interface Declared {
  readonly type: string;
  readonly position: number;
}

/** Tensors by the name of the model's input or output. */
export type Tensors = Record<string, Tensor>;

/**
 * A value as the core takes it.
 * @param input the model's input
 * @param declared what the model declares for it, or undefined when it has no such input
 * @throws ModeletError `wrong-type` for a value of another form than the type's, `invalid-argument` for what is no value
 */
export function toCoreValue(input: string, value: unknown, declared: Declared | undefined): CoreFeed | CoreValue {
  // The core tells a name that it does not know from those that it does.
  if (!declared) return { name: input };
  const { type, position } = declared;
  if (value instanceof Tensor && value.type === type) return { input: position, shape: value.shape, data: value.data };
  return convert(input, value, type, "");
}

/** A tensor as the core takes it. */
export function toCoreTensor(name: string, tensor: Pick<Tensor, "type" | "shape" | "data">): CoreTensor {
  const own = tensor instanceof Tensor;
  const { type, shape, data } = own ? tensor : new Tensor(tensor.type, tensor.data, tensor.shape);
  return { name, type, shape: [...shape], data };
}

/** A value that the core gave; the type that is declared for an output. */
export function fromCoreValue(value: CoreOutput | CoreValue, device?: Device, declared?: string): RunValue {
  if ("data" in value) return fromCoreTensor(value, declared);
  if ("buffer" in value && device) {
    return new GpuTensor(value.type as GpuDataType, value.buffer as Buffer, value.shape, device);
  }
  if ("items" in value) return value.items.map((item) => fromCoreValue(item));
  if (!("keys" in value)) return null;
  const items = itemsOf(fromCoreTensor(value.values));
  return Object.fromEntries(
    Array.from(value.keys.data as ArrayLike<unknown>, (key, i) => [String(key), items[i] as MapItem]),
  );
}

/** A tensor that the core gave, of the declared type unless it says otherwise. */
export function fromCoreTensor({ type, data, shape }: CoreOutput, declared?: string): Tensor {
  return new Tensor(type ?? (declared as DataType), data as TensorInput<DataType>, shape);
}

/** Whether this is a tensor, of this or of another copy of the package. */
export function isTensor(value: unknown): value is Tensor {
  if (value instanceof Tensor) return true;
  const { type, shape, data } = (value ?? {}) as Partial<Tensor>;
  return isDataType(type) && Array.isArray(shape) && typeof data === "object";
}

/** The parts of a container's type: what it is, the type of its keys, and the type of what it holds. */
function partsOf(type: string): { kind?: string; key?: string; inner?: string } {
  return /^(?<kind>\w+)\((?:(?<key>\w+), )?(?<inner>.*)\)$/.exec(type)?.groups ?? {};
}

/** `path` says where in the feed the value stands, like `[2]`. */
function convert(input: string, value: unknown, type: string, path: string): CoreValue {
  const name = path ? "" : input;
  if (value instanceof GpuTensor && !path) {
    return { name, type: value.type, shape: [...value.shape], buffer: value.buffer };
  }
  if (isTensor(value)) {
    // The core refuses a feed that is of the wrong type as a whole; the place inside of one is known here only.
    if (path && type !== "?" && type !== value.type) throw mismatch(input, path, type, value);
    return toCoreTensor(name, value);
  }
  const { kind, key = "", inner = "" } = partsOf(type);
  if (kind === "optional") return value === null ? { name } : convert(input, value, inner, path);
  if (kind === "sequence" && Array.isArray(value)) {
    return { name, items: value.map((item, i) => convert(input, item, inner, `${path}[${i}]`)) };
  }
  const entries = kind === "map" ? entriesOf(value) : undefined;
  if (!entries) throw mismatch(input, path, type, value);
  try {
    const keys = entries.map(([item]) => keyOf(key, item));
    const values = entries.map(([, item]) => item);
    return { name, keys: list(key, keys), values: list(inner, values) };
  } catch (error) {
    const message = `the feed ${input}${path} is not a ${type}: ${messageOf(error)}`;
    const { actual } = error as ModeletError;
    throw new ModeletError("wrong-type", message, { input, expected: type, actual }, { cause: error });
  }
}

function entriesOf(value: unknown): readonly (readonly [unknown, unknown])[] | undefined {
  const kind = kindOf(value);
  if (kind === "Map") return [...(value as ReadonlyMap<unknown, unknown>)];
  return kind === "Object" ? Object.entries(value as object) : undefined;
}

/** A key of a map; the properties of an object are texts, also those that stand for integers. */
function keyOf(type: string, key: unknown): unknown {
  if (type === "string" || typeof key !== "string" || !/^-?\d+$/.test(key)) return key;
  return type.endsWith("64") ? BigInt(key) : Number(key);
}

function list(type: string, items: readonly unknown[]): CoreTensor {
  return toCoreTensor("", new Tensor(type as DataType, items as TensorInput<DataType>));
}

/** The elements of a tensor as a map has them. */
function itemsOf(tensor: Tensor): ArrayLike<MapItem> {
  const { data } = tensor;
  const asTheyAre = Array.isArray(data) || data instanceof BigInt64Array || data instanceof BigUint64Array;
  return asTheyAre ? data : tensor.toFloat64();
}

function mismatch(input: string, path: string, type: string, value: unknown): ModeletError {
  const { kind } = partsOf(type);
  const form = kind === "sequence" ? "an array" : kind === "map" ? "a plain object or Map" : "a Tensor";
  const expected = kind || type === "?" ? type : `a Tensor of ${type}`;
  const actual = isTensor(value) ? `a Tensor of ${value.type}` : kindOf(value);
  const place = { input, expected, actual };
  const right = isTensor(value) && form === "a Tensor";
  const message = `the feed ${input}${path} is ${right ? actual : `not ${form}`}, expected ${expected}`;
  return new ModeletError(kind || isValue(value) ? "wrong-type" : "invalid-argument", message, place);
}

/** Whether another model might take this in the place of a tensor; if not, feeding it is a mistake in the call. */
function isValue(value: unknown): boolean {
  if (Array.isArray(value)) return value.every(isValue);
  return value === null || isTensor(value) || value instanceof GpuTensor || ["Map", "Object"].includes(kindOf(value));
}
