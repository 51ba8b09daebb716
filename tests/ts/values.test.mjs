// Values that are more than a tensor, narrow element types, the build with all operators and limits: through the real
// core in Node.js.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { readTensor, readValue, Session, Tensor, writeTensor } from "modelet";
import { rejectsWith } from "./lib/errors.mjs";
import { graph, message, model, node, value, zipMapModel } from "./lib/onnx.mjs";

const load = (bytes, options) => Session.load(bytes, { device: "cpu", ...options });
const floats = (...values) => new Tensor("float32", values, [values.length]);
const index = (at) => new Tensor("int64", [at], []);

/** Takes the element `at` of a sequence, and gives it, the sequence with it at the end, and the length of that. */
const sequenceModel = model({
  nodes: [
    node("SequenceAt", ["items", "at"], ["item"]),
    node("SequenceInsert", ["items", "item"], ["longer"]),
    node("SequenceLength", ["longer"], ["length"]),
  ],
  inputs: [value("items", "sequence(float32)"), value("at", "int64", [])],
  outputs: [value("item", "float32"), value("longer", "sequence(float32)"), value("length", "int64", [])],
});

const optionalModel = model(
  {
    nodes: [node("OptionalHasElement", ["x"], ["has"]), node("Identity", ["x"], ["same"])],
    inputs: [value("x", "optional(float32)")],
    outputs: [value("has", "bool", []), value("same", "optional(float32)")],
  },
  { opset: 18 },
);

const dictionaryModel = model(
  {
    nodes: [
      node("DictVectorizer", ["words"], ["counts"], {
        domain: "ai.onnx.ml",
        attributes: [["string_vocabulary", ["a", "b", "c"]]],
      }),
    ],
    inputs: [value("words", "map(string, int64)")],
    outputs: [value("counts", "int64", [1, 3])],
  },
  { domains: ["ai.onnx.ml"] },
);

describe("values that are not tensors", () => {
  test("sequences are arrays, in and out", async () => {
    const session = await load(sequenceModel);
    assert.deepEqual(
      [...session.inputs, ...session.outputs].map(({ name, type, shape }) => [name, type, shape.length]),
      [
        ["items", "sequence(float32)", 0],
        ["at", "int64", 0],
        ["item", "float32", session.outputs[0].shape.length],
        ["longer", "sequence(float32)", 0],
        ["length", "int64", 0],
      ],
    );
    const items = [floats(1, 2), floats(3), floats()];
    for (const at of [0n, 1n, -1n]) {
      const { item, longer, length } = await session.run({ items, at: index(at) });
      const expected = items.at(Number(at));
      assert.deepEqual(item, expected);
      assert.deepEqual(longer, [...items, expected]);
      assert.deepEqual(length.data, new BigInt64Array([4n]));
    }
    await rejectsWith(session.run({ items: floats(1), at: index(0n) }), "wrong-type", /items/);
    const ints = [new Tensor("int64", [1n])];
    await rejectsWith(session.run({ items: ints, at: index(0n) }), "wrong-type", /items\[0\]/);
    await rejectsWith(session.run({ items: { a: 1 }, at: index(0n) }), "wrong-type", /items.*array/);
    await rejectsWith(session.run({ items, at: index(9n) }), ["run-failed", "shape-mismatch", "invalid-argument"]);
    assert.equal((await session.run({ items, at: index(0n) }, { fetches: ["longer"] })).longer.length, 4);
    session.release();
  });

  test("an optional is its value or null", async () => {
    const session = await load(optionalModel);
    assert.deepEqual(session.inputs, [{ name: "x", type: "optional(float32)", shape: [] }]);
    for (const x of [floats(1, 2), null]) {
      const { has, same } = await session.run({ x });
      assert.deepEqual([...has.data], [x ? 1 : 0]);
      assert.deepEqual(same, x);
    }
    await rejectsWith(session.run({ x: [floats(1)] }), "wrong-type", /x is not a Tensor/);
    await rejectsWith(session.run({ x: new Tensor("int32", [1]) }), "wrong-type", /x/);
    session.release();
  });

  test("maps are plain objects, in and out", async () => {
    const x = new Tensor("float32", [0.25, 0.75, 1, 0], [2, 2]);
    const byNumber = await load(zipMapModel([7, -3]));
    assert.equal(byNumber.outputs[0].type, "sequence(map(int64, float32))");
    assert.deepEqual((await byNumber.run({ x })).maps, [
      { 7: 0.25, "-3": 0.75 },
      { 7: 1, "-3": 0 },
    ]);
    const byText = await load(zipMapModel(["no", "yes"]));
    assert.deepEqual((await byText.run({ x })).maps[0], { no: 0.25, yes: 0.75 });
    const dictionary = await load(dictionaryModel);
    for (const words of [{ c: 5, a: 2n }, new Map(Object.entries({ c: 5n, a: 2, other: 1 }))]) {
      const { counts } = await dictionary.run({ words });
      assert.deepEqual([counts.shape, ...counts.data], [[1, 3], 2n, 0n, 5n]);
    }
    await rejectsWith(dictionary.run({ words: { a: 0.5 } }), "wrong-type", /words.*does not fit/);
    for (const session of [byNumber, byText, dictionary]) session.release();
  });

  test("files of every kind of value are read", async () => {
    const item = await writeTensor(floats(1, 2), "item");
    const sequence = message([1, "list"], [2, 1], [3, item], [3, item]);
    const pair = [floats(1, 2), floats(1, 2)];
    assert.deepEqual(await readValue(sequence, "sequence(float32)"), { name: "list", value: pair });
    assert.deepEqual((await readValue(item, "float32")).value, floats(1, 2));
    assert.deepEqual((await readTensor(item)).name, "item");
    const present = message([1, "maybe"], [2, 1], [3, item]);
    assert.deepEqual(await readValue(present, "optional(float32)"), { name: "maybe", value: floats(1, 2) });
    assert.equal((await readValue(message([1, "no"]), "optional(float32)")).value, null);
    const one = await writeTensor(new Tensor("float32", [0.5], []));
    const map = message([1, "map"], [2, 8], [4, "k"], [5, message([2, 1], [3, one])]);
    assert.deepEqual((await readValue(map, "map(string, float32)")).value, { k: 0.5 });
    await rejectsWith(readValue(item, "list(float32)"), "invalid-argument", /list\(float32\)/);
    await rejectsWith(readValue("text", "float32"), "invalid-argument", /Uint8Array/);
    await rejectsWith(readValue(Buffer.from([0xff]), "sequence(float32)"), "invalid-model");
  });
});

describe("narrow element types", () => {
  const bits = Uint8Array.from({ length: 256 }, (_, i) => i);
  const cases = [
    ["float8e4m3fn", bits],
    ["float8e4m3fnuz", bits],
    ["float8e5m2", bits],
    ["float8e5m2fnuz", bits],
    ["float8e8m0", bits],
    ["float4e2m1", bits.subarray(0, 15)],
    ["int4", new Int8Array([-8, -1, 0, 1, 7])],
    ["uint4", new Uint8Array([0, 9, 15])],
    ["int2", new Int8Array([-2, -1, 0, 1, 1, -2, 0])],
    ["uint2", new Uint8Array([0, 1, 2, 3, 3])],
  ];
  for (const [type, data] of cases) {
    test(`${type} crosses into models and files and back`, async () => {
      const tensor = new Tensor(type, data);
      assert.deepEqual((await readTensor(await writeTensor(tensor))).tensor, tensor);
      const shape = [data.length];
      const session = await load(
        model(
          {
            nodes: [node("Identity", ["x"], ["y"]), node("Cast", ["x"], ["wide"], { attributes: [["to", 1]] })],
            inputs: [value("x", type, shape)],
            outputs: [value("y", type, shape), value("wide", "float32", shape)],
          },
          { opset: 25 },
        ),
      );
      const { y, wide } = await session.run({ x: tensor });
      assert.deepEqual(y, tensor);
      assert.deepEqual(tensor.toFloat64(), wide.toFloat64());
      session.release();
    });
  }
});

describe("the build with all operators", () => {
  test("is taken by a model that needs it, and says so", async () => {
    const stages = new Set();
    const session = await load(zipMapModel([1, 2]), { onProgress: ({ stage }) => stages.add(stage) });
    assert.match(session.report().wasm, /^(simd128|relaxed-simd), all operators$/);
    session.release();
    const direct = await load(zipMapModel([1, 2]), { operators: "all" });
    assert.match(direct.report().wasm, /all operators/);
    direct.release();
  });

  test("names the operators that it lacks as well", async () => {
    const x = value("x", "float32", [1]);
    const mystery = node("Mystery", ["x"], ["y"], { domain: "com.example" });
    const bytes = model(
      { nodes: [mystery], inputs: [x], outputs: [value("y", "float32", [1])] },
      { domains: ["com.example"] },
    );
    const error = await rejectsWith(load(bytes), "unsupported-operator", /Mystery/);
    assert.equal(error.details.length, 1);
  });
});

describe("limits", () => {
  const x = value("x", "float32", ["n"]);
  const doubling = model({
    nodes: [node("Add", ["x", "x"], ["y"])],
    inputs: [x],
    outputs: [value("y", "float32", ["n"])],
  });
  const limited = (work) => rejectsWith(work, "limit-exceeded", /./);

  test("on memory", async () => {
    const session = await load(doubling, { limits: { memoryBytes: 10_000 } });
    await limited(session.run({ x: new Tensor("float32", new Float32Array(5000)) }));
    assert.equal((await session.run({ x: floats(1, 2) })).y.data[1], 4, "the session goes on");
    session.release();
  });

  test("on iterations of loops", async () => {
    const body = graph({
      nodes: [node("Identity", ["going"], ["still"]), node("Add", ["carried", "carried"], ["next"])],
      inputs: [value("i", "int64", []), value("going", "bool", []), value("carried", "float32", [1])],
      outputs: [value("still", "bool", []), value("next", "float32", [1])],
    });
    const bytes = model({
      nodes: [node("Loop", ["times", "", "x"], ["y"], { attributes: [["body", body]] })],
      inputs: [value("times", "int64", []), value("x", "float32", [1])],
      outputs: [value("y", "float32", [1])],
    });
    const session = await load(bytes, { limits: { loopIterations: 10, runMillis: 1e6 } });
    assert.equal((await session.run({ times: index(10n), x: floats(1) })).y.data[0], 1024);
    await limited(session.run({ times: index(11n), x: floats(1) }));
    session.release();
    const hurried = await load(bytes, { limits: { runMillis: 20 } });
    await limited(hurried.run({ times: index(2n ** 40n), x: floats(1) }));
    hurried.release();
  });
});
