// Every kind of bad input ends in a ModeletError with its code, a sentence and its place, and the package goes on
// working afterwards.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, afterEach, before, describe, test } from "node:test";
import { Session, Tensor } from "modelet";
import { rejectsWith } from "./lib/errors.mjs";
import { addModel, graph, key, message, model, node, value, varint, weights } from "./lib/onnx.mjs";

const fixture = new URL("../fixtures/keras/headline_mlp_784_64_10/model.onnx", import.meta.url);
const load = (bytes) => Session.load(bytes, { device: "cpu" });
const ones = (...shape) => new Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1), shape);

async function stillWorks() {
  const session = await load(addModel);
  const { y } = await session.run({ a: ones(2, 3), b: ones(2, 3) });
  assert.deepEqual([...y.data], [2, 2, 2, 2, 2, 2]);
  session.release();
}

describe("files that are no model", () => {
  afterEach(stillWorks);

  test("an empty file", () => rejectsWith(load(new Uint8Array(0)), "invalid-model", /empty|no/));

  test("a file of something else", async () => {
    await rejectsWith(load(Buffer.from("GIF89a, and a picture behind it")), "invalid-model");
    await rejectsWith(load(Buffer.from("PK\x03\x04 a zip archive")), "invalid-model");
    await rejectsWith(load(Buffer.from('{"a": "json file"}')), "invalid-model");
    await rejectsWith(load(Buffer.alloc(1000)), "invalid-model");
    await rejectsWith(load(Buffer.alloc(1000, 0xff)), "invalid-model");
  });

  test("a model that was cut short, anywhere", async () => {
    const whole = readFileSync(fixture);
    for (let length = 1; length < whole.length; length += 1 + Math.floor(length * 0.7)) {
      // Cut between two fields, what is left is well-formed, and what is missing is part of the graph.
      await rejectsWith(load(whole.subarray(0, length)), ["invalid-model", "invalid-graph", "unsupported-model"]);
    }
  });

  test("lengths beyond the file", async () => {
    const beyond = (field) => Buffer.concat([message([1, 8]), key(field, 2), varint(2n ** 40n), Buffer.from("short")]);
    await rejectsWith(load(beyond(7)), "invalid-model");
    await rejectsWith(load(beyond(8)), "invalid-model");
    const inside = Buffer.concat([key(1, 2), varint(1000), Buffer.from("short")]);
    await rejectsWith(load(message([1, 8], [7, inside])), "invalid-model");
    await rejectsWith(
      load(Buffer.from([0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
      "invalid-model",
    );
  });
});

describe("hostile models", () => {
  afterEach(stillWorks);
  const x = value("x", "float32", [1]);
  const y = value("y", "float32", [1]);

  test("a cyclic graph", async () => {
    const nodes = [node("Relu", ["b"], ["a"], { name: "first" }), node("Relu", ["a"], ["b"], { name: "second" })];
    await rejectsWith(load(model({ nodes, inputs: [x], outputs: [value("b", "float32", [1])] })), "invalid-graph");
    const self = [node("Relu", ["y"], ["y"], { name: "self" })];
    await rejectsWith(load(model({ nodes: self, inputs: [x], outputs: [y] })), "invalid-graph");
  });

  test("values that nothing defines, or two nodes do", async () => {
    const undefinedValue = model({ nodes: [node("Relu", ["ghost"], ["y"])], inputs: [x], outputs: [y] });
    await rejectsWith(load(undefinedValue), "invalid-graph", /ghost/);
    const twice = model({ nodes: [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], inputs: [x], outputs: [y] });
    await rejectsWith(load(twice), "invalid-graph", /y/);
    const noOutput = model({ nodes: [node("Relu", ["x"], ["z"])], inputs: [x], outputs: [y] });
    await rejectsWith(load(noOutput), "invalid-graph", /y/);
  });

  test("a weight of 2^40 elements in a file of a hundred bytes", async () => {
    const huge = message([1, 2 ** 20], [1, 2 ** 20], [2, 1], [8, "w"], [9, Buffer.alloc(4)]);
    const nodes = [node("Add", ["x", "w"], ["y"])];
    await rejectsWith(load(model({ nodes, inputs: [x], outputs: [y], initializers: [huge] })), [
      "invalid-model",
      "limit-exceeded",
    ]);
  });

  test("an operator that would make 2^40 elements", async () => {
    const shape = message(
      [1, 2],
      [2, 7],
      [8, "shape"],
      [9, Buffer.from(new BigInt64Array([2n ** 20n, 2n ** 20n]).buffer)],
    );
    const nodes = [node("Expand", ["x", "shape"], ["y"], { name: "grow" })];
    const big = model({ nodes, inputs: [x], outputs: [value("y", "float32", ["n", "m"])], initializers: [shape] });
    const run = async () => (await load(big)).run({ x: ones(1) });
    await rejectsWith(run, ["limit-exceeded", "out-of-memory"]);
  });

  test("a feed of a model with a dimension of 2^40", async () => {
    const wide = model({
      nodes: [node("Relu", ["x"], ["y"])],
      inputs: [value("x", "float32", [2 ** 40])],
      outputs: [value("y", "float32", [2 ** 40])],
    });
    const run = async () => (await load(wide)).run({ x: ones(1) });
    await rejectsWith(run, ["wrong-dimension", "limit-exceeded", "out-of-memory"]);
  });

  test("deeply nested graphs", async () => {
    let inner = graph({ nodes: [node("Identity", ["x"], ["y"])], outputs: [y] });
    for (let depth = 0; depth < 3000; depth++) {
      const attributes = [
        ["then_branch", inner],
        ["else_branch", graph({ nodes: [node("Identity", ["x"], ["y"])], outputs: [y] })],
      ];
      inner = graph({ nodes: [node("If", ["c"], ["y"], { attributes })], outputs: [y] });
    }
    const outer = Buffer.concat([inner, message([11, x], [11, value("c", "bool", [1])])]);
    await rejectsWith(load(model(outer)), ["limit-exceeded", "invalid-model", "unsupported-model"], /nest|deep/);
  });

  test("unknown operators, all at once", async () => {
    const nodes = [
      node("Frobnicate", ["x"], ["a"], { name: "one" }),
      node("Relu", ["a"], ["b"]),
      node("Transmogrify", ["b"], ["c"], { name: "two", domain: "com.example" }),
      node("Frobnicate", ["c"], ["y"], { name: "three" }),
    ];
    const strange = model({ nodes, inputs: [x], outputs: [y] }, { domains: ["com.example"] });
    const error = await rejectsWith(load(strange), "unsupported-operator");
    const all = [error.message, ...error.details].join("\n");
    assert.match(all, /Frobnicate/);
    assert.match(all, /Transmogrify/);
    assert.match(all, /com\.example/);
  });
});

describe("feeds that do not fit", () => {
  let session;
  let mixed;
  before(async () => {
    session = await load(addModel);
    mixed = await load(
      model({
        nodes: [node("Add", ["x", "w"], ["y"])],
        inputs: [value("x", "float32", [2, 3])],
        outputs: [value("y", "float32", [2, 3])],
        initializers: [weights("w", [3], [1, 2, 3])],
      }),
    );
  });
  afterEach(async () => {
    const { y } = await session.run({ a: ones(1, 3), b: ones(1, 3) });
    assert.deepEqual([...y.data], [2, 2, 2]);
  });

  test("a missing one", async () => {
    const error = await rejectsWith(session.run({ a: ones(1, 3) }), "missing-input", /b/);
    assert.equal(error.input, "b");
    await rejectsWith(session.run({}), "missing-input", /a/);
  });

  test("a misnamed one and an extra one", async () => {
    const error = await rejectsWith(
      session.run({ a: ones(1, 3), bee: ones(1, 3), b: ones(1, 3) }),
      "unknown-name",
      /bee/,
    );
    assert.equal(error.input, "bee");
    await rejectsWith(session.run({ a: ones(1, 3), bee: ones(1, 3) }), ["unknown-name", "missing-input"], /b/);
    await rejectsWith(session.run({ a: ones(1, 3), b: ones(1, 3) }, { fetches: ["z"] }), "unknown-name", /z/);
  });

  test("another element type", async () => {
    const error = await rejectsWith(session.run({ a: ones(1, 3), b: Tensor.from([[1, 1, 1]], "int32") }), "wrong-type");
    assert.equal(error.input, "b");
    assert.match(error.expected, /^float32/);
    assert.match(error.actual, /^int32/);
  });

  test("another rank", async () => {
    const error = await rejectsWith(session.run({ a: ones(1, 3), b: ones(3) }), "wrong-rank");
    assert.equal(error.input, "b");
    await rejectsWith(session.run({ a: ones(1, 3), b: ones(1, 1, 3) }), "wrong-rank");
    await rejectsWith(session.run({ a: ones(1, 3), b: new Tensor("float32", [1], []) }), "wrong-rank");
  });

  test("another size in a fixed dimension", async () => {
    const error = await rejectsWith(session.run({ a: ones(1, 4), b: ones(1, 3) }), "wrong-dimension", /3/);
    assert.equal(error.input, "a");
    await rejectsWith(mixed.run({ x: ones(1, 3) }), "wrong-dimension", /2/);
  });

  test("sizes of one symbolic dimension that disagree", async () => {
    await rejectsWith(session.run({ a: ones(2, 3), b: ones(4, 3) }), "inconsistent-dimension", /batch/);
  });

  test("what is no tensor, and data that no longer fits its shape", async () => {
    await rejectsWith(session.run({ a: [1, 2, 3], b: ones(1, 3) }), "invalid-argument", /a.*not a Tensor/);
    await rejectsWith(session.run(null), "invalid-argument");
    const bent = { type: "float32", shape: [1, 3], data: new Float32Array(2) };
    await rejectsWith(session.run({ a: bent, b: ones(1, 3) }), "invalid-tensor");
    const disguised = { type: "float32", shape: [1, 3], data: new Int32Array(3) };
    await rejectsWith(session.run({ a: disguised, b: ones(1, 3) }), "invalid-tensor");
  });

  test("an empty batch is no error", async () => {
    const { y } = await session.run({ a: ones(0, 3), b: ones(0, 3) });
    assert.deepEqual(y.shape, [0, 3]);
  });

  test("a released session", async () => {
    const other = await load(addModel);
    other.release();
    await rejectsWith(other.run({ a: ones(1, 3), b: ones(1, 3) }), "released", /released/);
  });
});

describe("URLs that give no model", () => {
  let server;
  let origin;
  before(async () => {
    server = createServer((request, response) => {
      const html = request.url === "/html";
      response.writeHead(html ? 200 : 404, { "content-type": html ? "text/html" : "text/plain" });
      response.end("<!doctype html>");
    });
    await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
    origin = `http://127.0.0.1:${server.address().port}`;
  });
  after(() => {
    server.close();
    server.closeAllConnections();
  });

  test("a 404", () => rejectsWith(load(`${origin}/gone.onnx`), "fetch-failed", /gone\.onnx answered 404/));
  test("a web page", () => rejectsWith(load(`${origin}/html`), "html-response", /\/html answered with a web page/));
});
