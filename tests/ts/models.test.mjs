// Real models through the package in Node.js: the fixtures against their frameworks' predictions, on both devices; the
// demo's digits; and what a session says about itself.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, describe, test } from "node:test";
import { Session, Tensor } from "modelet";
import { toPixels } from "../../www/digit.js";
import { samples } from "../../www/samples.js";
import { internal } from "./lib/internals.mjs";

const { readNpz } = await internal("cli/npz.ts");
const fixtures = new URL("../fixtures/", import.meta.url);

const models = [
  ["keras/headline_mlp_784_64_10", "in/x", "native/predict"],
  ["mxnet/headline_mlp_784_64_10_gluon", "in/data", "native/output"],
  ["mxnet/headline_mlp_784_64_10_symbol", "in/data", "native/output"],
];

for (const device of ["cpu", "webgpu"]) {
  describe(`on ${device}`, () => {
    for (const [folder, input, output] of models) {
      test(`${folder} gives its framework's predictions`, async () => {
        const path = new URL(`${folder}/`, fixtures);
        const arrays = readNpz(readFileSync(new URL("io.npz", path)));
        const session = await Session.load(new URL("model.onnx", path), { device });
        const results = await session.run({ [session.inputs[0].name]: arrays.get(input) });
        const actual = results[session.outputs[0].name];
        const expected = arrays.get(output);
        assert.deepEqual(actual.shape, expected.shape);
        actual.data.forEach((value, i) => {
          const wanted = expected.data[i];
          assert.ok(Math.abs(value - wanted) <= 1e-5, `element ${i} is ${value}, expected ${wanted}`);
        });
        const report = session.report();
        assert.equal(report.device, device);
        const heavy = report.nodes.filter((node) => node.heavy);
        assert.equal(heavy.length, 2, JSON.stringify(report.nodes));
        for (const node of heavy) assert.equal(node.device, device === "webgpu" ? "gpu" : "cpu", JSON.stringify(node));
        session.release();
      });
    }
  });
}

describe("the demo's network", () => {
  let session;
  before(async () => {
    session = await Session.load(new URL("keras/headline_mlp_784_64_10/model.onnx", fixtures), { device: "cpu" });
  });

  async function classify(strokes) {
    const { output_0 } = await session.run({ keras_tensor: new Tensor("float32", toPixels(strokes), [1, 784]) });
    return output_0.data.indexOf(Math.max(...output_0.data));
  }

  test("reads a handwriting of every digit", async () => {
    for (const [digit, strokes] of samples.entries()) assert.equal(await classify(strokes), digit);
  });

  test("reads plain sevens of many shapes, sizes and places", async () => {
    for (const corner of [72, 76, 80]) {
      for (const foot of [38, 42, 46]) {
        for (const scale of [0.3, 1, 2]) {
          const points = [
            [22, 12],
            [corner, 12],
            [foot, 92],
          ].map(([x, y]) => ({ x: 10 + x * scale, y: y * scale - 5 }));
          assert.equal(await classify([points]), 7, `corner ${corner}, foot ${foot}, scale ${scale}`);
        }
      }
    }
  });

  test("its session tells its interface, its report and its stages", async () => {
    assert.deepEqual(
      session.inputs.map(({ name, type }) => [name, type]),
      [["keras_tensor", "float32"]],
    );
    assert.equal(session.inputs[0].shape[1], 784);
    assert.equal(typeof session.inputs[0].shape[0], "string");
    assert.deepEqual(
      session.outputs.map(({ name }) => name),
      ["output_0"],
    );
    const { wasm, timings, memory, warnings } = session.report();
    assert.match(wasm, /^(simd128|relaxed-simd)$/);
    for (const ms of Object.values(timings)) assert.ok(ms >= 0);
    assert.ok(memory.weightsBytes >= 203_560, `${memory.weightsBytes} bytes of weights`);
    assert.ok(memory.wasmBytes > memory.weightsBytes);
    assert.ok(Array.isArray(warnings));
    for (const stage of ["graph", "optimized", "program"]) {
      assert.match(session.inspect(stage), /./);
      assert.equal(typeof JSON.parse(session.inspect(stage, { json: true })), "object");
    }
  });

  test("every optimisation level gives the same answer", async () => {
    const bytes = readFileSync(new URL("keras/headline_mlp_784_64_10/model.onnx", fixtures));
    const feeds = { keras_tensor: new Tensor("float32", toPixels(samples[7]), [1, 784]) };
    const { output_0: wanted } = await session.run(feeds);
    for (const optimization of ["none", "basic", "all"]) {
      const other = await Session.load(bytes, { device: "cpu", optimization });
      const { output_0 } = await other.run(feeds);
      output_0.data.forEach((value, i) => {
        assert.ok(Math.abs(value - wanted.data[i]) < 1e-6, optimization);
      });
      other.release();
    }
  });

  test("batches of many sizes run on one session, at once", async () => {
    const sizes = [1, 5, 16, 0, 1, 33];
    const results = await Promise.all(
      sizes.map((size) =>
        session.run({ keras_tensor: new Tensor("float32", new Float32Array(784 * size), [size, 784]) }),
      ),
    );
    assert.deepEqual(
      results.map(({ output_0 }) => output_0.shape),
      sizes.map((size) => [size, 10]),
    );
  });
});

test("importing the package needs neither a DOM nor WebGPU", async () => {
  assert.equal(typeof globalThis.document, "undefined");
  assert.equal(typeof (await import("modelet")).Session.load, "function");
});

test("a profile has a row for each node and kernel, and report() the time of each stage", async () => {
  const session = await Session.load(new URL("keras/headline_mlp_784_64_10/model.onnx", fixtures), { device: "cpu" });
  const feeds = { keras_tensor: new Tensor("float32", new Float32Array(784), [1, 784]) };
  const { runs, runMs, nodes, kernels } = await session.profile(feeds, { runs: 5 });
  assert.equal(runs, 5);
  assert.ok(runMs > 0);
  const products = nodes.filter(({ operations }) => operations >= 2 * 64 * 10);
  assert.deepEqual(
    products.map(({ operations }) => operations).sort((a, b) => b - a),
    [2 * 784 * 64, 2 * 64 * 10],
  );
  assert.equal(
    kernels.reduce((sum, { calls }) => sum + calls, 0),
    nodes.length,
  );
  for (const row of nodes) assert.ok(row.ms >= 0 && row.meanMs >= row.ms && row.bytes > 0, JSON.stringify(row));
  const { timings } = session.report();
  for (const stage of ["wasmMs", "parseMs", "optimizeMs", "planMs", "prepackMs", "firstRunMs"]) {
    assert.ok(timings[stage] >= 0, stage);
  }
  assert.ok(timings.wasmMs > 0 && timings.firstRunMs > 0, JSON.stringify(timings));
  await assert.rejects(session.profile(feeds, { runs: 0 }), { code: "invalid-argument" });
  session.release();
});
