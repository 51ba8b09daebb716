// Tensors: what they take, what they refuse, and the conversions of half floats.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Tensor } from "modelet";
import { rejectsWith } from "./lib/errors.mjs";
import { internal } from "./lib/internals.mjs";

const classes = {
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
};

describe("tensors", () => {
  test("each type takes its own array without a copy, and plain arrays of values that fit", () => {
    for (const [type, ArrayClass] of Object.entries(classes)) {
      const data = new ArrayClass(6);
      const tensor = new Tensor(type, data, [2, 3]);
      assert.equal(tensor.data, data, type);
      assert.equal(tensor.size, 6);
      assert.deepEqual(tensor.shape, [2, 3]);
      const plain = new Tensor(type, [0, 1, 1], [3]);
      assert.equal(plain.data.constructor, ArrayClass, type);
      assert.deepEqual([...plain.toFloat64()], [0, 1, 1], type);
    }
    assert.deepEqual(new Tensor("string", ["a", "b"], [2, 1]).data, ["a", "b"]);
    assert.deepEqual([...new Tensor("bool", [true, false]).data], [1, 0]);
    assert.deepEqual([...new Tensor("int64", [1, -2n]).data], [1n, -2n]);
    assert.equal(new Tensor("uint8", new Uint8ClampedArray([255, 0]), [2]).data[0], 255);
    assert.equal(String(new Tensor("float32", [0], [1, 1])), "float32[1, 1]");
    assert.equal(new Tensor("float32", [7], []).shape.length, 0);
    assert.equal(new Tensor("float32", [], [0, 4]).size, 0);
  });

  test("Float16Array is taken as bits where the engine has it", {
    skip: !globalThis.Float16Array && "no Float16Array",
  }, () => {
    const half = new globalThis.Float16Array([1, -2]);
    const tensor = new Tensor("float16", half, [2]);
    assert.deepEqual([...tensor.data], [0x3c00, 0xc000]);
    assert.equal(tensor.data.buffer, half.buffer);
  });

  test("what does not fit is refused with its place", async () => {
    const refuse = (make, pattern) => rejectsWith(make, "invalid-tensor", pattern);
    await refuse(() => new Tensor("float32", new Float32Array(5), [2, 3]), /shape \[2, 3\] holds 6 .* has 5/);
    await refuse(
      () => new Tensor("float32", new Float64Array(6), [6]),
      /Float32Array or a plain array, not Float64Array/,
    );
    await refuse(() => new Tensor("float", [1], [1]), /float is not an element type/);
    await refuse(() => new Tensor("toString", [1], [1]), /not an element type/);
    await refuse(() => new Tensor("float32", "12", [2]), /String/);
    await refuse(() => new Tensor("float32", null, [2]), /null/);
    await refuse(() => new Tensor("float32", ["1"], [1]), /element 0 \("1"\)/);
    await refuse(() => new Tensor("float32", [1], [-1]), /not a shape/);
    await refuse(() => new Tensor("float32", [1], [1.5]), /not a shape/);
    await refuse(() => new Tensor("float32", [1], [1n]), /not a shape/);
    // biome-ignore lint/suspicious/noSparseArray: a hole is what is tested
    await refuse(() => new Tensor("float32", [1], [1, , 1]), /not a shape/);
    await refuse(() => new Tensor("int8", [1, 128], [2]), /element 1 \(128\) does not fit type int8/);
    await refuse(() => new Tensor("uint8", [-1], [1]), /uint8/);
    await refuse(() => new Tensor("int32", [0.5], [1]), /0.5/);
    await refuse(() => new Tensor("uint64", [-1n], [1]), /uint64/);
    await refuse(() => new Tensor("int64", [2n ** 63n], [1]), /int64/);
    await refuse(() => new Tensor("int64", [2 ** 60], [1]), /int64/);
    await refuse(() => new Tensor("bool", new Uint8Array([2]), [1]), /bool/);
    await refuse(() => new Tensor("int4", new Int8Array([8]), [1]), /int4/);
    await refuse(() => new Tensor("uint4", new Uint8Array([16]), [1]), /uint4/);
    await refuse(() => new Tensor("int2", [2], [1]), /int2/);
    await refuse(() => new Tensor("uint2", new Uint8Array([4]), [1]), /uint2/);
    await refuse(() => new Tensor("float4e2m1", new Uint8Array([16]), [1]), /float4e2m1/);
    await refuse(() => new Tensor("float8e5m2", [1], [1]), /Uint8Array of bits, not Array/);
    await refuse(() => new Tensor("string", [1], [1]), /array of strings/);
    await refuse(() => new Tensor("float32", [1], [1]).reshape([2]), /holds 2/);
    await refuse(() => new Tensor("string", ["1"], [1]).toFloat64(), /no numbers/);
  });

  test("from takes nested arrays, views and single values", async () => {
    const matrix = Tensor.from([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    assert.equal(String(matrix), "float32[2, 3]");
    assert.deepEqual([...matrix.data], [1, 2, 3, 4, 5, 6]);
    assert.equal(String(Tensor.from(7)), "float32[]");
    assert.equal(String(Tensor.from([1n])), "int64[1]");
    assert.equal(String(Tensor.from([[true]])), "bool[1, 1]");
    assert.equal(String(Tensor.from("word")), "string[]");
    assert.equal(String(Tensor.from([1, 2], "uint8")), "uint8[2]");
    assert.equal(String(Tensor.from(new BigUint64Array(2))), "uint64[2]");
    assert.equal(String(Tensor.from(new Uint8ClampedArray(2))), "uint8[2]");
    assert.equal(String(Tensor.from(new Uint16Array(2), "float16")), "float16[2]");
    assert.equal(String(Tensor.from([])), "float32[0]");
    await rejectsWith(() => Tensor.from([[1, 2], [3]]), "invalid-tensor", /unequal/);
    await rejectsWith(() => Tensor.from([[1], 2]), "invalid-tensor", /unequal/);
    await rejectsWith(() => Tensor.from(new DataView(new ArrayBuffer(1))), "invalid-tensor", /element type/);
  });

  test("bits of 8-bit and 4-bit floats are decoded", () => {
    const decoded = (type, ...bits) => [...new Tensor(type, new Uint8Array(bits)).toFloat64()];
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    assert.deepEqual(decoded("float8e4m3fn", 0x38, 0xb8, 0x7e, 0x7f, 0x01, 0x80), [1, -1, 448, nan, 2 ** -9, -0]);
    assert.deepEqual(decoded("float8e4m3fnuz", 0x40, 0x7f, 0x80, 0x01), [1, 240, nan, 2 ** -10]);
    assert.deepEqual(decoded("float8e5m2", 0x3c, 0x7b, 0x7c, 0xfc, 0x7d, 0x01), [1, 57344, inf, -inf, nan, 2 ** -16]);
    assert.deepEqual(decoded("float8e5m2fnuz", 0x40, 0x7f, 0x80, 0x01), [1, 57344, nan, 2 ** -17]);
    assert.deepEqual(decoded("float8e8m0", 0, 127, 254, 255), [2 ** -127, 1, 2 ** 127, nan]);
    assert.deepEqual(decoded("float4e2m1", 0, 1, 2, 3, 7, 9, 15), [0, 0.5, 1, 1.5, 6, -0.5, -6]);
  });

  test("half floats: every bit pattern survives, and numbers round to the nearest", async () => {
    const { fromFloat16, toFloat16, fromBfloat16, toBfloat16 } = await internal("dtype.ts");
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = fromFloat16(bits);
      if (Number.isNaN(value)) assert.ok(Number.isNaN(fromFloat16(toFloat16(value))));
      else assert.equal(toFloat16(value), bits, `float16 ${bits.toString(16)}`);
      const brain = fromBfloat16(bits);
      if (Number.isNaN(brain)) assert.ok(Number.isNaN(fromBfloat16(toBfloat16(brain))));
      else assert.equal(toBfloat16(brain), bits, `bfloat16 ${bits.toString(16)}`);
    }
    // The reference: of the two neighbours, the nearer one, and of two equally near ones the even one.
    for (let bits = 0; bits < 0x7bff; bits++) {
      const [low, high] = [fromFloat16(bits), fromFloat16(bits + 1)];
      const middle = (low + high) / 2;
      assert.equal(toFloat16(middle), bits % 2 === 0 ? bits : bits + 1, `between ${low} and ${high}`);
      assert.equal(toFloat16(middle - (high - low) / 16), bits);
      assert.equal(toFloat16(middle + (high - low) / 16), bits + 1);
    }
    assert.equal(toFloat16(65519), 0x7bff);
    assert.equal(toFloat16(65520), 0x7c00);
    assert.equal(toFloat16(-1e9), 0xfc00);
    assert.equal(toBfloat16(1 + 2 ** -8), 0x3f80);
    assert.equal(toBfloat16(1 + 3 * 2 ** -8), 0x3f82);
  });
});
