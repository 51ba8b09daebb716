// NumPy's files: .npy (one array) and .npz (a ZIP of them), read in every version, byte order and layout, and written
// the way NumPy writes them.

import { arrayClass, type DataType, isBitsType } from "../dtype.js";
import { Tensor, type TensorInput } from "../tensor.js";
import { readZip, writeZip } from "./zip.js";

/** Reads an .npz file: its arrays by name, in the file's order. */
export function readNpz(bytes: Uint8Array): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const [name, entry] of readZip(bytes)) {
    if (name.endsWith(".npy")) tensors.set(name.slice(0, -4), readNpy(entry, name));
  }
  return tensors;
}

/**
 * Writes an .npz file. NumPy has no bfloat16, no narrower floats and no integers of 4 and 2 bits: these become float32
 * and 8-bit integers, which hold their values exactly.
 */
export function writeNpz(tensors: Iterable<readonly [string, Tensor]>): Uint8Array {
  return writeZip(Array.from(tensors, ([name, tensor]) => [`${name}.npy`, writeNpy(tensor)] as const));
}

/** Reads an .npy file; `name` is for messages. */
export function readNpy(bytes: Uint8Array, name = "the .npy file"): Tensor {
  const { descr, fortran, shape, start } = readHeader(bytes, name);
  const match = /^([<>|=])([a-zA-Z])(\d+)?$/.exec(descr);
  const kind = match?.[2] ?? "";
  const width = Number(match?.[3] ?? 0) * (kind === "U" ? 4 : 1);
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  // A copy, because arrays need an aligned start.
  const body = new Uint8Array(bytes.subarray(start, start + size * width));
  if (body.length !== size * width) throw new Error(`${name} is cut short: its shape needs ${size * width} bytes`);

  const swap = match?.[1] === ">";
  if (kind === "U" || kind === "S") {
    if (swap && kind === "U") reverseBytes(body, 4);
    const texts = Array.from({ length: size }, (_, i) => decodeText(body, kind, i * width, width));
    return new Tensor("string", fortran ? toRowMajor(texts, shape) : texts, shape);
  }
  const type = types[`${kind}${width}`];
  if (!type) throw new Error(`${name} has the type ${descr}, which no tensor has`);
  if (swap) reverseBytes(body, width);
  const data = new (arrayClass(type))(body.buffer, 0, size);
  if (type === "bool") for (let i = 0; i < size; i++) data[i] = data[i] ? 1 : 0;
  return new Tensor(type, (fortran ? toRowMajor(data, shape) : data) as TensorInput<DataType>, shape);
}

/** Writes an .npy file of version 1 or 2, little-endian and row-major. */
export function writeNpy(tensor: Tensor): Uint8Array {
  const { descr, body } = encode(tensor);
  const tuple = `(${tensor.shape.join(", ")}${tensor.shape.length === 1 ? "," : ""})`;
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const version = text.length + 64 > 0xffff ? 2 : 1;
  const lead = version === 1 ? 10 : 12;
  const length = Math.ceil((lead + text.length + 1) / 64) * 64 - lead;
  const head = Buffer.alloc(lead + length, " ");
  head.write("\x93NUMPY", 0, "latin1");
  head[6] = version;
  head[7] = 0;
  if (version === 1) head.writeUInt16LE(length, 8);
  else head.writeUInt32LE(length, 8);
  head.write(text, lead, "latin1");
  head[head.length - 1] = 0x0a;
  return Buffer.concat([head, body]);
}

const types: Readonly<Record<string, Exclude<DataType, "string">>> = {
  f2: "float16",
  f4: "float32",
  f8: "float64",
  i1: "int8",
  i2: "int16",
  i4: "int32",
  i8: "int64",
  u1: "uint8",
  u2: "uint16",
  u4: "uint32",
  u8: "uint64",
  b1: "bool",
};

interface Header {
  readonly descr: string;
  readonly fortran: boolean;
  readonly shape: number[];
  readonly start: number;
}

function readHeader(bytes: Uint8Array, name: string): Header {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (file.length < 12 || file.toString("latin1", 0, 6) !== "\x93NUMPY") throw new Error(`${name} is not an .npy file`);
  const version = file[6] as number;
  if (version < 1 || version > 3) throw new Error(`${name} has the unknown .npy version ${version}`);
  const lead = version === 1 ? 10 : 12;
  const start = lead + (version === 1 ? file.readUInt16LE(8) : file.readUInt32LE(8));
  if (start > file.length) throw new Error(`${name} is cut short in its header`);
  const text = file.toString(version === 3 ? "utf8" : "latin1", lead, start);
  const descr = /'descr':\s*'([^']*)'/.exec(text)?.[1];
  const order = /'fortran_order':\s*(True|False)/.exec(text)?.[1];
  const dimensions = /'shape':\s*\(([^)]*)\)/.exec(text)?.[1];
  if (descr === undefined || order === undefined || dimensions === undefined) {
    throw new Error(`${name} holds a structured array or has a damaged header`);
  }
  const shape = dimensions
    .split(",")
    .map((part) => part.trim().replace(/L$/, ""))
    .filter((part) => part !== "")
    .map(Number);
  if (shape.some((dimension) => !Number.isSafeInteger(dimension) || dimension < 0)) {
    throw new Error(`${name} has the impossible shape (${dimensions})`);
  }
  return { descr, fortran: order === "True", shape, start };
}

/** NumPy pads texts with zeros: UTF-32 for `U`, bytes for `S`. */
function decodeText(body: Uint8Array, kind: string, at: number, width: number): string {
  if (kind === "S") {
    return Buffer.from(body.buffer, at, width).toString("utf8").replace(/\0+$/, "");
  }
  const points = Array.from(new Uint32Array(body.buffer, at, width / 4));
  while (points.at(-1) === 0) points.pop();
  return points.map((point) => String.fromCodePoint(point)).join("");
}

function encode(tensor: Tensor): { descr: string; body: Uint8Array } {
  const { type, data } = tensor;
  if (Array.isArray(data)) return encodeTexts(data);
  if (type === "bfloat16" || isBitsType(type)) {
    const wide = Float32Array.from(tensor.toFloat64());
    return { descr: "<f4", body: new Uint8Array(wide.buffer) };
  }
  const body = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (type === "int4" || type === "int2") return { descr: "|i1", body };
  if (type === "uint4" || type === "uint2") return { descr: "|u1", body };
  const code = Object.keys(types).find((key) => types[key] === type) as string;
  return { descr: `${code.endsWith("1") ? "|" : "<"}${code}`, body };
}

function encodeTexts(texts: readonly string[]): { descr: string; body: Uint8Array } {
  const points = texts.map((text) => Array.from(text, (letter) => letter.codePointAt(0) as number));
  const width = points.reduce((longest, text) => Math.max(longest, text.length), 1);
  const body = new Uint32Array(width * texts.length);
  points.forEach((text, i) => {
    body.set(text, i * width);
  });
  return { descr: `<U${width}`, body: new Uint8Array(body.buffer) };
}

function toRowMajor<A extends { length: number; [index: number]: unknown }>(columns: A, shape: readonly number[]): A {
  const rows = (columns as unknown as { slice(): A }).slice();
  const index = new Array<number>(shape.length).fill(0);
  const strides = shape.map((_, axis) => shape.slice(0, axis).reduce((product, dimension) => product * dimension, 1));
  for (let i = 0; i < rows.length; i++) {
    rows[i] = columns[index.reduce((sum, position, axis) => sum + position * (strides[axis] as number), 0)];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis] = (index[axis] as number) + 1;
      if ((index[axis] as number) < (shape[axis] as number)) break;
      index[axis] = 0;
    }
  }
  return rows;
}

function reverseBytes(bytes: Uint8Array, width: number): void {
  for (let at = 0; width > 1 && at < bytes.length; at += width) bytes.subarray(at, at + width).reverse();
}
