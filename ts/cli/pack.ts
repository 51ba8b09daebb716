// Values as one block of bytes, for the way between the command line and a browser page: a length, a JSON head, and the
// arrays behind it.

import { arrayClass, type DataType } from "../dtype.js";
import { Tensor, type TensorInput } from "../tensor.js";
import { isTensor, type MapItem, type RunValue, type Values } from "../value.js";

type Entry =
  | {
      readonly type: DataType;
      readonly shape: readonly number[];
      /** Where the array lies behind the head. */
      readonly at: number;
      /** The elements themselves, for texts. */
      readonly texts?: readonly string[];
    }
  | { readonly items: readonly Entry[] }
  /** Pairs of a key and a value: the value's JavaScript type, and its text. */
  | { readonly map: readonly (readonly [key: string, type: string, text: string])[] }
  | null;

/** Packs values into one block. */
export function packValues(values: Values): Uint8Array<ArrayBuffer> {
  let at = 0;
  const arrays: { at: number; bytes: Uint8Array }[] = [];
  const pack = (value: RunValue): Entry => {
    if (value === null) return null;
    if (Array.isArray(value)) return { items: value.map(pack) };
    if (!isTensor(value)) {
      return { map: Object.entries(value).map(([key, item]) => [key, typeof item, String(item)]) };
    }
    const { type, shape, data } = value;
    if (Array.isArray(data)) return { type, shape, at, texts: data };
    const entry = { type, shape, at };
    arrays.push({ at, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) });
    at += align(data.byteLength);
    return entry;
  };
  const entries = Object.entries(values).map(([name, value]) => [name, pack(value)]);
  const head = new TextEncoder().encode(JSON.stringify(entries));
  const start = align(4 + head.length);
  const block = new Uint8Array(start + at);
  new DataView(block.buffer).setUint32(0, head.length, true);
  block.set(head, 4);
  for (const array of arrays) block.set(array.bytes, start + array.at);
  return block;
}

/** Unpacks what {@link packValues} made; the tensors share the block's memory. */
export function unpackValues(block: ArrayBuffer): Values {
  const length = new DataView(block).getUint32(0, true);
  const entries: [string, Entry][] = JSON.parse(new TextDecoder().decode(new Uint8Array(block, 4, length)));
  const start = align(4 + length);
  const unpack = (entry: Entry): RunValue => {
    if (entry === null) return null;
    if ("items" in entry) return entry.items.map(unpack);
    if ("map" in entry) return Object.fromEntries(entry.map.map(([key, type, text]) => [key, item(type, text)]));
    const { type, shape, at, texts } = entry;
    if (texts || type === "string") return new Tensor("string", texts ?? [], shape) as Tensor;
    const size = shape.reduce((product, dimension) => product * dimension, 1);
    const data = new (arrayClass(type))(block, start + at, size);
    return new Tensor(type, data as TensorInput<DataType>, shape);
  };
  return Object.fromEntries(entries.map(([name, entry]) => [name, unpack(entry)]));
}

function item(type: string, text: string): MapItem {
  return type === "bigint" ? BigInt(text) : type === "number" ? Number(text) : text;
}

/** Every array starts at a multiple of eight bytes, as 64-bit arrays need. */
function align(offset: number): number {
  return Math.ceil(offset / 8) * 8;
}
