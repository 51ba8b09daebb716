// NumPy files: what is written is read back, and files by NumPy's own rules (versions, byte orders, layouts) are read.

import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { deflateRawSync } from "node:zlib";
import { Tensor } from "modelet";
import { internal } from "./lib/internals.mjs";

/** An .npy file by hand. */
function npy(descr, order, shape, body, version = 1) {
  const text = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': ${shape}, }\n`;
  const lead = Buffer.from([0x93, ...Buffer.from("NUMPY"), version, 0]);
  const length = Buffer.alloc(version === 1 ? 2 : 4);
  if (version === 1) length.writeUInt16LE(text.length);
  else length.writeUInt32LE(text.length);
  return Buffer.concat([lead, length, Buffer.from(text), body]);
}

/** An archive of one entry, deflated and with ZIP64 sizes, as NumPy writes large arrays. */
function deflated(name, data, { crc, method = 8 }) {
  const path = Buffer.from(name);
  const packed = method === 8 ? deflateRawSync(data) : data;
  const extra = Buffer.alloc(28);
  extra.writeUInt16LE(1, 0);
  extra.writeUInt16LE(24, 2);
  extra.writeBigUInt64LE(BigInt(data.length), 4);
  extra.writeBigUInt64LE(BigInt(packed.length), 12);
  extra.writeBigUInt64LE(0n, 20);
  const local = Buffer.alloc(30);
  local.writeUInt32LE(0x04034b50, 0);
  local.writeUInt16LE(path.length, 26);
  const central = Buffer.alloc(46);
  central.writeUInt32LE(0x02014b50, 0);
  central.writeUInt16LE(method, 10);
  central.writeUInt32LE(crc, 16);
  central.writeUInt32LE(0xffffffff, 20);
  central.writeUInt32LE(0xffffffff, 24);
  central.writeUInt16LE(path.length, 28);
  central.writeUInt16LE(extra.length, 30);
  central.writeUInt32LE(0xffffffff, 42);
  const at = local.length + path.length + packed.length;
  const record = Buffer.alloc(56);
  record.writeUInt32LE(0x06064b50, 0);
  record.writeBigUInt64LE(1n, 32);
  record.writeBigUInt64LE(BigInt(at), 48);
  const locator = Buffer.alloc(20);
  locator.writeUInt32LE(0x07064b50, 0);
  locator.writeBigUInt64LE(BigInt(at + central.length + path.length + extra.length), 8);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(0xffff, 10);
  end.writeUInt32LE(0xffffffff, 16);
  return Buffer.concat([local, path, packed, central, path, extra, record, locator, end]);
}

describe("npz files", () => {
  let npz;
  let zip;
  before(async () => {
    npz = await internal("cli/npz.ts");
    zip = await internal("cli/zip.ts");
  });

  test("every type is read back as it was written", () => {
    const values = {
      float32: [1.5, -0, Number.NaN, Number.POSITIVE_INFINITY],
      float64: [1.1, 2 ** 300],
      float16: [1, -2.5],
      int8: [-128, 127],
      int16: [-32768],
      int32: [-(2 ** 31)],
      int64: [-(2n ** 63n), 2n ** 63n - 1n],
      uint8: [255],
      uint16: [65535],
      uint32: [2 ** 32 - 1],
      uint64: [2n ** 64n - 1n],
      bool: [true, false, true],
      string: ["", "a", "日本 𝄞"],
    };
    const tensors = Object.entries(values).map(([type, list]) => [
      `in/${type}`,
      new Tensor(type, list, [1, list.length]),
    ]);
    tensors.push(["scalar", new Tensor("float32", [3], [])], ["empty", new Tensor("int64", [], [0, 3])]);
    const read = npz.readNpz(npz.writeNpz(tensors));
    assert.deepEqual(
      [...read.keys()],
      tensors.map(([name]) => name),
    );
    for (const [name, tensor] of tensors) {
      const back = read.get(name);
      assert.equal(String(back), String(tensor));
      assert.deepEqual(back.data, tensor.data, name);
    }
  });

  test("types that NumPy lacks are written as wider ones", () => {
    const read = npz.readNpz(
      npz.writeNpz([
        ["b", new Tensor("bfloat16", [1.5, -3], [2])],
        ["i", new Tensor("int4", [-8, 7], [2])],
        ["u", new Tensor("uint4", [15], [1])],
      ]),
    );
    assert.deepEqual(read.get("b").data, new Float32Array([1.5, -3]));
    assert.deepEqual(read.get("i").data, new Int8Array([-8, 7]));
    assert.deepEqual(read.get("u").data, new Uint8Array([15]));
  });

  test("headers of every version, byte order and layout are read", () => {
    const big = Buffer.alloc(8);
    big.writeFloatBE(1.5, 0);
    big.writeFloatBE(-2, 4);
    for (const version of [1, 2, 3]) {
      assert.deepEqual([...npz.readNpy(npy(">f4", "False", "(2,)", big, version)).data], [1.5, -2]);
    }
    const columns = npz.readNpy(npy("<i2", "True", "(2, 3)", Buffer.from(new Int16Array([1, 4, 2, 5, 3, 6]).buffer)));
    assert.deepEqual([...columns.data], [1, 2, 3, 4, 5, 6]);
    // 2×3×2, column-major: element (i, j, k) lies at i + 2j + 6k and holds 100i + 10j + k.
    const cube = new Int16Array(12);
    for (let k = 0; k < 2; k++)
      for (let j = 0; j < 3; j++) for (let i = 0; i < 2; i++) cube[i + 2 * j + 6 * k] = 100 * i + 10 * j + k;
    const rows = npz.readNpy(npy("<i2", "True", "(2, 3, 2)", Buffer.from(cube.buffer)));
    assert.deepEqual([...rows.data], [0, 1, 10, 11, 20, 21, 100, 101, 110, 111, 120, 121]);
    assert.deepEqual(npz.readNpy(npy("|S3", "False", "(2,)", Buffer.from("ab\0xyz"))).data, ["ab", "xyz"]);
    assert.deepEqual(npz.readNpy(npy(">U1", "False", "(1,)", Buffer.from([0, 0, 0, 0x41]))).data, ["A"]);
    assert.deepEqual([...npz.readNpy(npy("|b1", "False", "(2,)", Buffer.from([0, 7]))).data], [0, 1]);
    assert.deepEqual(npz.readNpy(npy("<f8", "False", "()", Buffer.alloc(8))).shape, []);
  });

  test("deflated entries and ZIP64 records are read", () => {
    const data = npy("<f4", "False", "(4,)", Buffer.alloc(16));
    const stored = zip.writeZip([["x.npy", data]]);
    const crc = Buffer.from(stored).readUInt32LE(14);
    assert.equal(npz.readNpz(deflated("x.npy", data, { crc })).get("x").size, 4);
    assert.throws(() => npz.readNpz(deflated("x.npy", data, { crc: (crc ^ 1) >>> 0 })), /checksum of x\.npy/);
    assert.throws(() => npz.readNpz(deflated("x.npy", data, { crc, method: 12 })), /method 12/);
  });

  test("damaged files end in a sentence", () => {
    const good = npz.writeNpz([["x", new Tensor("float32", [1, 2, 3], [3])]]);
    for (let length = 0; length < good.length; length++) {
      assert.throws(() => npz.readNpz(good.subarray(0, length)), /not a readable \.npz file/, `cut to ${length} bytes`);
    }
    assert.throws(() => npz.readNpy(Buffer.from("hello, this is no array")), /not an \.npy file/);
    assert.throws(() => npz.readNpy(npy("<f4", "False", "(3,)", Buffer.alloc(8))), /cut short/);
    assert.throws(() => npz.readNpy(npy("<c8", "False", "(1,)", Buffer.alloc(8))), /type <c8/);
    assert.throws(() => npz.readNpy(npy("<f4", "False", "(-1,)", Buffer.alloc(8))), /impossible shape/);
    assert.throws(() => npz.readNpy(npy("<f4", "False", "(1,)", Buffer.alloc(4), 9)), /version 9/);
    assert.throws(() => npz.readNpy(npy("<f4", "Maybe", "(1,)", Buffer.alloc(4))), /damaged header/);
  });
});
