// The comparison behind `modelet verify`, and the matching of test data to a model's values.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Tensor } from "modelet";
import { internal } from "./lib/internals.mjs";

const { compareTensors, compareValues } = await internal("cli/compare.ts");
const { byName } = await internal("cli/cases.ts");
const { packValues, unpackValues } = await internal("cli/pack.ts");
const { randomInputs } = await internal("cli/inputs.ts");

const tolerance = { rtol: 1e-3, atol: 1e-4 };
const compare = (type, actual, expected, shape) =>
  compareTensors("y", new Tensor(type, actual, shape), new Tensor(type, expected, shape), tolerance);

test("numbers agree within the tolerances and not beyond", () => {
  const near = compare("float32", [1, 100.05], [1, 100]);
  assert.equal(near.message, undefined);
  assert.ok(Math.abs(near.maxAbs - 0.05) < 1e-5);
  assert.ok(Math.abs(near.maxRel - 5e-4) < 1e-6);
  const far = compare("float32", [1, 1, 1, 2, 3, 1], [1, 1, 1, 1, 1, 1], [2, 3]);
  assert.match(far.message, /^y\[1, 0\] is 2, expected 1 \(2 of 6 differ\)$/);
  assert.equal(far.maxAbs, 2);
  assert.equal(compare("float32", [0.00009], [0]).message, undefined);
  assert.match(compare("float32", [0.00011], [0]).message, /expected 0/);
});

test("NaN agrees with NaN, infinities with themselves, and nothing else with either", () => {
  const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
  assert.equal(compare("float32", [nan, inf, -inf], [nan, inf, -inf]).message, undefined);
  for (const [a, b] of [
    [nan, 1],
    [1, nan],
    [inf, 1],
    [1, inf],
    [inf, -inf],
    [nan, inf],
    [inf, nan],
  ]) {
    assert.match(compare("float32", [a], [b]).message, /expected/, `${a} against ${b}`);
  }
});

test("types and shapes are compared exactly, and so are integers, booleans and texts", () => {
  const difference = (a, b) => compareTensors("y", a, b, tolerance).message;
  assert.match(difference(Tensor.from([1]), new Tensor("float64", [1])), /type is float32, expected float64/);
  assert.match(difference(Tensor.from([1]), Tensor.from([[1]])), /shape is \[1\], expected \[1, 1\]/);
  assert.match(compare("int64", [30001n], [30000n]).message, /30001, expected 30000/);
  assert.match(compare("bool", [true], [false]).message, /is 1, expected 0/);
  assert.match(compare("string", ["a", "b"], ["a", "c"]).message, /^y\[1\] is "b", expected "c"/);
  assert.equal(compare("uint64", [2n ** 64n - 1n], [2n ** 64n - 1n]).message, undefined);
});

test("test data is matched by name, and by position where the name is not the model's", () => {
  const values = ["a", "b", "c"].map((name) => ({ name, type: "float32", shape: [1] }));
  const named = (...names) => names.map((name, i) => ({ name, value: Tensor.from([i]) }));
  const matched = (...names) =>
    Object.fromEntries(Object.entries(byName(named(...names), values)).map(([name, { data }]) => [name, data[0]]));
  assert.deepEqual(matched("c", "a", "b"), { c: 0, a: 1, b: 2 });
  assert.deepEqual(matched("x", "y", "z"), { a: 0, b: 1, c: 2 });
  assert.deepEqual(matched("x", "a", "z"), { b: 0, a: 1, c: 2 });
  assert.deepEqual(matched("a", "b", "c", "d"), { a: 0, b: 1, c: 2, d: 3 });
});

test("sequences agree element by element, maps key by key, and kinds are told apart", () => {
  const one = (value) => new Tensor("float32", [value]);
  const message = (actual, expected) => compareValues("y", actual, expected, tolerance).message;
  assert.equal(message([one(1), one(2)], [one(1), one(2.0001)]), undefined);
  assert.match(message([one(1), one(2)], [one(1), one(3)]), /^y\[1\]\[0\] is 2, expected 3/);
  assert.equal(message([one(1)], []), "y has 1 elements, expected 0");
  assert.equal(message(null, null), undefined);
  assert.equal(message([{ a: 1, b: 2n, c: "d" }], [{ a: 1.0001, b: 2n, c: "d" }]), undefined);
  assert.match(message([{ a: 1 }], [{ a: 2 }]), /^y\[0\]\["a"\] is 1, expected 2/);
  assert.equal(message({ a: 1n }, { a: 2n }), 'y["a"] is 1, expected 2');
  assert.equal(message({ a: "x" }, { a: "y" }), 'y["a"] is "x", expected "y"');
  assert.equal(message({ a: 1 }, { a: 1, b: 2 }), 'y has no key "b"');
  assert.equal(message({ a: 1, b: 2 }, { a: 1 }), 'y has the key "b", which is not expected');
  assert.equal(message({ a: Number.NaN }, { a: Number.NaN }), undefined);
  const kinds = [null, one(1), [], {}];
  for (const actual of kinds) {
    for (const expected of kinds) {
      if (actual !== expected) assert.match(message(actual, expected), /^y is (an?|the) .*, expected an? /);
    }
  }
  assert.match(message(undefined, null), /missing/);
  const { maxAbs } = compareValues("y", [{ a: 1 }, { a: 5 }], [{ a: 1.5 }, { a: 5 }], tolerance);
  assert.equal(maxAbs, 0.5);
});

test("packed values are unpacked as they were", () => {
  const tensors = {
    bytes: new Tensor("uint8", [1, 2, 3], [3]),
    wide: new Tensor("int64", [1n, -1n], [2, 1]),
    words: new Tensor("string", ["a", "ü"], [2]),
    half: new Tensor("float16", [0.5], []),
    none: new Tensor("float64", [], [0]),
  };
  const others = {
    list: [tensors.half, tensors.words, []],
    maps: [{ a: 0.1, b: Number.NaN, c: -Infinity }, { 1: 2n ** 63n }, { x: "y" }],
    nothing: null,
  };
  const back = unpackValues(packValues({ ...tensors, ...others }).buffer);
  assert.deepEqual(Object.keys(back), [...Object.keys(tensors), ...Object.keys(others)]);
  for (const [name, value] of Object.entries(others)) {
    assert.equal(compareValues(name, back[name], value, { rtol: 0, atol: 0 }).message, undefined);
  }
  for (const [name, tensor] of Object.entries(tensors)) {
    assert.equal(String(back[name]), String(tensor));
    assert.deepEqual([...back[name].data], [...tensor.data]);
  }
});

test("values that are no tensors are not made up", () => {
  const inputs = [{ name: "x", type: "sequence(float32)", shape: [] }];
  assert.throws(() => randomInputs(inputs, new Map()), /x is of type sequence\(float32\)/);
});

test("made-up inputs are the same every time and follow the model's shapes", () => {
  const inputs = [
    { name: "x", type: "float32", shape: ["batch", 3] },
    { name: "ids", type: "int64", shape: ["batch", "length"] },
  ];
  const made = randomInputs(inputs, new Map([["batch", 2]]));
  assert.equal(String(made.x), "float32[2, 3]");
  assert.equal(String(made.ids), "int64[2, 1]");
  assert.ok(made.x.data.every((value) => value >= 0 && value < 1));
  assert.ok(new Set(made.x.data).size > 1);
  assert.deepEqual(randomInputs(inputs, new Map([["batch", 2]])).x.data, made.x.data);
});
