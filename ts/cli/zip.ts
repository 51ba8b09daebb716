// The part of the ZIP format that .npz files use: stored and deflated entries, and ZIP64 sizes.

import * as zlib from "node:zlib";

/** Reads every entry of an archive, by name, in the order of its directory. */
export function readZip(archive: Uint8Array): Map<string, Uint8Array> {
  const view = viewOf(archive);
  const { count, offset } = findDirectory(archive, view);
  const entries = new Map<string, Uint8Array>();
  let at = offset;
  for (let i = 0; i < count; i++) {
    if (at + 46 > archive.length || view.getUint32(at, true) !== 0x02014b50)
      throw damaged("its directory is cut short");
    const flags = view.getUint16(at + 8, true);
    const method = view.getUint16(at + 10, true);
    const crc = view.getUint32(at + 16, true);
    const nameLength = view.getUint16(at + 28, true);
    const extraLength = view.getUint16(at + 30, true);
    const commentLength = view.getUint16(at + 32, true);
    const name = new TextDecoder().decode(archive.subarray(at + 46, at + 46 + nameLength));
    const place = entryPlace(view, at, at + 46 + nameLength, extraLength);
    if (flags & 1) throw damaged(`${name} is encrypted`);
    const data = readEntry(archive, view, name, method, place);
    if (checksum(data) !== crc) throw damaged(`the checksum of ${name} does not match`);
    entries.set(name, data);
    at += 46 + nameLength + extraLength + commentLength;
  }
  return entries;
}

/** Writes an archive of stored entries. */
export function writeZip(entries: Iterable<readonly [string, Uint8Array]>): Uint8Array {
  const pieces: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let offset = 0;
  for (const [name, data] of entries) {
    const path = new TextEncoder().encode(name);
    if (data.length >= MAX32 || offset >= MAX32) throw new Error("an .npz file of 4 GB and more cannot be written");
    const common = new Uint8Array(26);
    const fields = viewOf(common);
    fields.setUint16(0, 20, true);
    fields.setUint16(2, 0x0800, true);
    // 1980-01-01, so that equal contents make equal files.
    fields.setUint16(8, 0x21, true);
    fields.setUint32(10, checksum(data), true);
    fields.setUint32(14, data.length, true);
    fields.setUint32(18, data.length, true);
    fields.setUint16(22, path.length, true);
    pieces.push(new Uint8Array([0x50, 0x4b, 3, 4]), common, path, data);
    const tail = new Uint8Array(14);
    viewOf(tail).setUint32(10, offset, true);
    directory.push(new Uint8Array([0x50, 0x4b, 1, 2, 20, 0]), common, tail, path);
    offset += 30 + path.length + data.length;
  }
  const size = directory.reduce((sum, piece) => sum + piece.length, 0);
  const end = new Uint8Array(22);
  const fields = viewOf(end);
  const count = directory.length / 4;
  fields.setUint32(0, 0x06054b50, true);
  fields.setUint16(8, count, true);
  fields.setUint16(10, count, true);
  fields.setUint32(12, size, true);
  fields.setUint32(16, offset, true);
  return Buffer.concat([...pieces, ...directory, end]);
}

const MAX32 = 0xffffffff;

interface Place {
  readonly packed: number;
  readonly unpacked: number;
  readonly offset: number;
}

function findDirectory(archive: Uint8Array, view: DataView): { count: number; offset: number } {
  // The end record is the last 22 bytes, or further in front when the archive has a comment.
  const first = Math.max(0, archive.length - 22 - 0xffff);
  for (let at = archive.length - 22; at >= first; at--) {
    if (view.getUint32(at, true) !== 0x06054b50) continue;
    const count = view.getUint16(at + 10, true);
    const offset = view.getUint32(at + 16, true);
    if (count !== 0xffff && offset !== MAX32) return { count, offset };
    if (at < 20 || view.getUint32(at - 20, true) !== 0x07064b50) throw damaged("its ZIP64 record is missing");
    const record = safe(view.getBigUint64(at - 12, true));
    if (record + 56 > archive.length || view.getUint32(record, true) !== 0x06064b50) {
      throw damaged("its ZIP64 record is damaged");
    }
    return {
      count: safe(view.getBigUint64(record + 32, true)),
      offset: safe(view.getBigUint64(record + 48, true)),
    };
  }
  throw damaged("it has no directory");
}

function entryPlace(view: DataView, at: number, extraAt: number, extraLength: number): Place {
  let packed = view.getUint32(at + 20, true);
  let unpacked = view.getUint32(at + 24, true);
  let offset = view.getUint32(at + 42, true);
  const end = extraAt + extraLength;
  for (let extra = extraAt; extra + 4 <= end; ) {
    const size = view.getUint16(extra + 2, true);
    if (view.getUint16(extra, true) === 1) {
      let field = extra + 4;
      const next = () => {
        field += 8;
        if (field > end) throw damaged("a ZIP64 size is missing");
        return safe(view.getBigUint64(field - 8, true));
      };
      if (unpacked === MAX32) unpacked = next();
      if (packed === MAX32) packed = next();
      if (offset === MAX32) offset = next();
    }
    extra += 4 + size;
  }
  return { packed, unpacked, offset };
}

function readEntry(archive: Uint8Array, view: DataView, name: string, method: number, place: Place): Uint8Array {
  const { packed, unpacked, offset } = place;
  if (offset + 30 > archive.length || view.getUint32(offset, true) !== 0x04034b50) throw damaged(`${name} is missing`);
  const start = offset + 30 + view.getUint16(offset + 26, true) + view.getUint16(offset + 28, true);
  if (start + packed > archive.length) throw damaged(`${name} is cut short`);
  const data = archive.subarray(start, start + packed);
  if (method === 0) return data;
  if (method !== 8) throw damaged(`${name} uses compression method ${method}; only stored and deflated are read`);
  const inflated = zlib.inflateRawSync(data, { maxOutputLength: Math.max(1, unpacked) });
  if (inflated.length !== unpacked) throw damaged(`${name} has another size than it says`);
  return inflated;
}

/** zlib's crc32 came with Node.js 20.15; before that, a table. */
function checksum(data: Uint8Array): number {
  if (typeof (zlib as { crc32?: unknown }).crc32 === "function") return zlib.crc32(data);
  let crc = -1;
  for (const byte of data) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 255] as number);
  return ~crc >>> 0;
}

const table = Int32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function safe(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw damaged("a size in it is impossible");
  return Number(value);
}

function damaged(why: string): Error {
  return new Error(`not a readable .npz file: ${why}`);
}
