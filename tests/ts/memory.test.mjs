// That sessions leave memory as they found it, on the package itself. The GPU is not touched: what it may still call back
// into keeps an instance alive.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Session, Tensor } from "modelet";

const fixtures = new URL("../fixtures/", import.meta.url);

describe("memory", () => {
  const model = new URL("keras/headline_mlp_784_64_10/model.onnx", fixtures);
  const image = { keras_tensor: new Tensor("float32", new Float32Array(784).fill(0.5), [1, 784]) };
  const load = () => Session.load(model, { device: "cpu" });
  const size = (session) => session.report().memory.wasmBytes;

  test("a thousand runs leave it as large as ten", async () => {
    const session = await load();
    for (let run = 0; run < 10; run++) await session.run(image);
    const before = size(session);
    for (let run = 0; run < 1000; run++) await session.run(image);
    assert.equal(size(session), before);
    session.release();
  });

  test("fifty sessions one after the other leave it as large as five", async () => {
    // One session stays, so that the instance does.
    const resident = await load();
    const sizes = [];
    for (let cycle = 0; cycle < 50; cycle++) {
      const session = await load();
      await session.run(image);
      session.release();
      sizes.push(size(resident));
    }
    assert.equal(sizes.at(-1), sizes[4], sizes.join(" "));
    resident.release();
  });

  test("the last release gives it back", async () => {
    const large = await load();
    await large.run({ keras_tensor: new Tensor("float32", new Float32Array(784 * 8192), [8192, 784]) });
    const before = size(large);
    large.release();
    await new Promise(setImmediate);
    const next = await load();
    assert.ok(size(next) < before / 2, `${size(next)} of ${before} bytes`);
    next.release();
  });
});
