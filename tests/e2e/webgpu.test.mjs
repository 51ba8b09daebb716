// Sessions on WebGPU when things go wrong, in Chromium on its software adapter: a device that is lost, kernels that are
// broken on purpose, memory that cannot be had. Faults are made in the page, by wrapping WebGPU's own methods.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { startDemo } from "./lib/browser.mjs";

/** Defines what the tests share in the page. */
function prepare() {
  const { requestDevice } = GPUAdapter.prototype;
  globalThis.devices = [];
  GPUAdapter.prototype.requestDevice = async function (...args) {
    const device = await requestDevice.apply(this, args);
    globalThis.devices.push(device);
    return device;
  };
  const pixels = Float32Array.from({ length: 784 * 4 }, (_, i) => Math.abs(Math.sin(i)));
  globalThis.load = async (options) => {
    const { Session, Tensor } = await import("/pkg/index.js");
    const events = [];
    const onEvent = (event) => events.push(event);
    const url = "/fixtures/keras/headline_mlp_784_64_10/model.onnx";
    const session = await Session.load(url, { threads: 1, onEvent, ...options });
    const run = async () =>
      (await session.run({ keras_tensor: new Tensor("float32", pixels, [4, 784]) })).output_0.data;
    return { session, run, events };
  };
  /** How far the session's numbers are from the CPU's. */
  globalThis.furthest = async (values) => {
    const expected = await (await globalThis.load({ device: "cpu" })).run();
    return Math.max(...values.map((value, index) => Math.abs(value - expected[index])));
  };
}

describe("trust in WebGPU", () => {
  let demo;
  before(async () => {
    demo = await startDemo({ webgpu: true });
  });
  after(() => demo?.close());

  const inPage = async (work) => {
    const page = await demo.open("script-tag.html");
    await page.waitForSelector("#result[data-best]");
    await page.evaluate(prepare);
    return page.evaluate(work);
  };

  test("a device that is lost in mid-run is replaced, the numbers are right, and the caller is told", async () => {
    const result = await inPage(async () => {
      const { session, run, events } = await load({ device: "webgpu" });
      await run();
      const { mapAsync } = GPUBuffer.prototype;
      // The work is on its way, and the page waits for its result.
      GPUBuffer.prototype.mapAsync = function (...args) {
        GPUBuffer.prototype.mapAsync = mapAsync;
        const promise = mapAsync.apply(this, args);
        devices.at(-1).destroy();
        return promise;
      };
      const values = await run();
      const told = events.splice(0);
      const again = await run();
      const { device, warnings } = session.report();
      return {
        far: [await furthest(values), await furthest(again)],
        told,
        later: events,
        device,
        warnings,
        devices: devices.length,
      };
    });
    assert.ok(Math.max(...result.far) < 1e-4, String(result.far));
    assert.deepEqual(
      result.told.map(({ type, continues }) => [type, continues]),
      [["device-lost", "webgpu"]],
    );
    assert.deepEqual([result.device, result.devices, result.later, result.warnings], ["webgpu", 2, [], []]);
  });

  test("without another device the CPU finishes the run", async () => {
    const result = await inPage(async () => {
      const { session, run, events } = await load({ device: "webgpu" });
      await run();
      GPU.prototype.requestAdapter = async () => null;
      devices[0].destroy();
      const far = await furthest(await run());
      const { device, warnings } = session.report();
      return { far, events, device, warnings };
    });
    assert.ok(result.far < 1e-4, String(result.far));
    assert.equal(result.device, "cpu");
    assert.deepEqual(
      result.events.map(({ type, continues }) => [type, continues]),
      [["device-lost", "cpu"]],
    );
    assert.match(result.warnings.join(), /running on the CPU: .*lost.*no GPU adapter/);
  });

  test("verifyOnLoad demotes a kernel that is broken, and says so", async () => {
    const result = await inPage(async () => {
      const { createShaderModule } = GPUDevice.prototype;
      GPUDevice.prototype.createShaderModule = function (descriptor) {
        return createShaderModule.call(this, { ...descriptor, code: descriptor.code.replaceAll("exp(", "1.0 + abs(") });
      };
      const trusting = await load({ device: "webgpu" });
      const wrong = await furthest(await trusting.run());
      const { session, run, events } = await load({ device: "webgpu", verifyOnLoad: true });
      const far = await furthest(await run());
      return { wrong, far, events, nodes: session.report().nodes };
    });
    assert.ok(result.wrong > 0.01, String(result.wrong));
    assert.ok(result.far < 1e-4, String(result.far));
    assert.deepEqual(
      result.events.map(({ type, operator }) => [type, operator]),
      [["node-demoted", "Softmax"]],
    );
    const softmax = result.nodes.find(({ operator }) => operator === "Softmax");
    assert.equal(softmax.device, "cpu");
    assert.match(softmax.reason, /found to be wrong: \d+ of 40 elements differ/);
    assert.ok(result.nodes.some(({ device, heavy }) => heavy && device === "gpu"));
  });

  test("memory that the GPU does not have is a typed error, and the session stays usable", async () => {
    const result = await inPage(async () => {
      const { run } = await load({ device: "webgpu" });
      const { popErrorScope } = GPUDevice.prototype;
      GPUDevice.prototype.popErrorScope = async function () {
        GPUDevice.prototype.popErrorScope = popErrorScope;
        await popErrorScope.call(this);
        return new GPUOutOfMemoryError("no memory left");
      };
      const { code, message } = await run().then(
        () => ({}),
        (error) => error,
      );
      return { code, message, far: await furthest(await run()) };
    });
    assert.equal(result.code, "out-of-memory");
    assert.match(result.message, /out of memory/i);
    assert.ok(result.far < 1e-4, String(result.far));
  });

  test("a run in the steady state makes no buffer, binding or pipeline, and reads back only its outputs", async () => {
    const calls = await inPage(async () => {
      const { run } = await load({ device: "webgpu" });
      await run();
      await run();
      const calls = {};
      const count = (prototype, name) => {
        const original = prototype[name];
        prototype[name] = function (...args) {
          calls[name] = (calls[name] ?? 0) + 1;
          return original.apply(this, args);
        };
      };
      for (const name of Object.getOwnPropertyNames(GPUDevice.prototype)) {
        if (name.startsWith("create")) count(GPUDevice.prototype, name);
      }
      count(GPUBuffer.prototype, "mapAsync");
      count(GPUQueue.prototype, "submit");
      await run();
      return calls;
    });
    assert.deepEqual(calls, { createCommandEncoder: 1, submit: 1, mapAsync: 1 });
  });
});
