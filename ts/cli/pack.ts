// Tensors as one block of bytes, for the way between the command line and a browser page: a length, a JSON head, and
// the arrays behind it.

import { arrayClass, type DataType } from "../dtype.js";
import type { Tensors } from "../session.js";
import { Tensor, type TensorInput } from "../tensor.js";

interface Entry {
  readonly name: string;
  readonly type: DataType;
  readonly shape: readonly number[];
  /** Where the array lies behind the head. */
  readonly at: number;
  /** The elements themselves, for texts. */
  readonly texts?: readonly string[];
}

/** Packs tensors into one block. */
export function packTensors(tensors: Tensors): Uint8Array<ArrayBuffer> {
  let at = 0;
  const arrays: { at: number; bytes: Uint8Array }[] = [];
  const entries = Object.entries(tensors).map(([name, { type, shape, data }]): Entry => {
    if (Array.isArray(data)) return { name, type, shape, at, texts: data };
    const entry = { name, type, shape, at };
    arrays.push({ at, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) });
    at += align(data.byteLength);
    return entry;
  });
  const head = new TextEncoder().encode(JSON.stringify(entries));
  const start = align(4 + head.length);
  const block = new Uint8Array(start + at);
  new DataView(block.buffer).setUint32(0, head.length, true);
  block.set(head, 4);
  for (const array of arrays) block.set(array.bytes, start + array.at);
  return block;
}

/** Unpacks what {@link packTensors} made; the tensors share the block's memory. */
export function unpackTensors(block: ArrayBuffer): Tensors {
  const length = new DataView(block).getUint32(0, true);
  const entries: Entry[] = JSON.parse(new TextDecoder().decode(new Uint8Array(block, 4, length)));
  const start = align(4 + length);
  return Object.fromEntries(
    entries.map(({ name, type, shape, at, texts }) => {
      if (texts || type === "string") return [name, new Tensor("string", texts ?? [], shape) as Tensor];
      const size = shape.reduce((product, dimension) => product * dimension, 1);
      const data = new (arrayClass(type))(block, start + at, size);
      return [name, new Tensor(type, data as TensorInput<DataType>, shape)];
    }),
  );
}

/** Every array starts at a multiple of eight bytes, as 64-bit arrays need. */
function align(offset: number): number {
  return Math.ceil(offset / 8) * 8;
}
