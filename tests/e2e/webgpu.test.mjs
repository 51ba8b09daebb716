// Sessions on WebGPU in Chromium, on its software adapter. When things go wrong: a device that is lost, kernels that are
// broken on purpose, memory that cannot be had; faults are made in the page, by wrapping WebGPU's own methods. And tensors
// and images in GPU memory.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { cacheModel } from "../ts/lib/onnx.mjs";
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

describe("WebGPU", () => {
  let demo;
  before(async () => {
    demo = await startDemo({ webgpu: true });
  });
  after(() => demo?.close());

  const inPage = async (work, argument) => {
    const page = await demo.open("script-tag.html");
    await page.waitForSelector("#result[data-best]");
    await page.evaluate(prepare);
    return page.evaluate(work, argument);
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

  test("outputs stay on the GPU, feed the next run, and are read and released", async () => {
    const result = await inPage(async () => {
      const { Tensor, GpuTensor } = await import("/pkg/index.js");
      const { session, run } = await load({ device: "webgpu" });
      const expected = await run();
      const pixels = Float32Array.from({ length: 784 * 4 }, (_, i) => Math.abs(Math.sin(i)));
      let maps = 0;
      const { mapAsync } = GPUBuffer.prototype;
      GPUBuffer.prototype.mapAsync = function (...args) {
        maps++;
        return mapAsync.apply(this, args);
      };
      // A buffer of the page's own on the session's device, as the page's shaders would fill it.
      const { device } = session;
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
      const buffer = device.createBuffer({ size: pixels.byteLength, usage });
      device.queue.writeBuffer(buffer, 0, pixels);
      const image = Tensor.fromGPUBuffer("float32", buffer, [4, 784], device);
      const { output_0 } = await session.run({ keras_tensor: image }, { outputs: { output_0: "gpu" } });
      const mapsOfRun = maps;
      const kept = output_0 instanceof GpuTensor && output_0.location === "gpu" && output_0.buffer instanceof GPUBuffer;
      const values = await output_0.data();
      const again = await session.run({ keras_tensor: image });
      output_0.release();
      const codes = [];
      const note = ({ code }) => codes.push(code);
      await output_0.data().catch(note);
      image.release();
      await session.run({ keras_tensor: image }).catch(note);
      const cpu = await load({ device: "cpu" });
      const onCpu = await cpu.session.run(
        { keras_tensor: new Tensor("float32", pixels, [4, 784]) },
        { outputs: { output_0: "gpu" } },
      );
      const small = device.createBuffer({ size: 16, usage });
      try {
        Tensor.fromGPUBuffer("float32", small, [5], device);
      } catch (error) {
        note(error);
      }
      const close = (other) => Math.max(...other.map((value, index) => Math.abs(value - expected[index])));
      return {
        kept,
        mapsOfRun,
        shape: [...output_0.shape],
        far: [close(values), close(again.output_0.data), close(onCpu.output_0.data)],
        codes,
        cpuDevice: String(cpu.session.device),
      };
    });
    assert.deepEqual([result.kept, result.mapsOfRun, result.shape, result.cpuDevice], [true, 0, [4, 10], "undefined"]);
    assert.ok(Math.max(...result.far) < 1e-4, String(result.far));
    assert.deepEqual(result.codes, ["released", "released", "invalid-tensor"]);
  });

  test("a cache that is consumed gets its new rows where it is, without a buffer more, and counts as released", async () => {
    const bytes = [...cacheModel(2, 300, 32)];
    const result = await inPage(async (bytes) => {
      const { Session, Tensor } = await import("/pkg/index.js");
      const session = await Session.load(Uint8Array.from(bytes), {
        device: "webgpu",
        threads: 1,
        offload: "everything",
      });
      const consume = ["past_keys", "past_values"];
      const places = { keys: "gpu", values: "gpu" };
      const random = (seed, count) => Float32Array.from({ length: count }, (_, i) => Math.sin(seed * 99 + i * 1.7));
      const feeds = (step, [past_keys, past_values]) => {
        const one = (n) => new Tensor("float32", random(step * 3 + n, 64), [1, 2, 1, 32]);
        const [place, length] = [step, step + 1].map((at) => new Tensor("int64", [BigInt(at)], [1]));
        return { q: one(0), k: one(1), v: one(2), past_keys, past_values, place, length };
      };
      const zeros = () => new Tensor("float32", new Float32Array(2 * 300 * 32), [1, 2, 300, 32]);
      const calls = {};
      for (const name of ["createBuffer", "createBindGroup"]) {
        const original = GPUDevice.prototype[name];
        GPUDevice.prototype[name] = function (...args) {
          calls[name]++;
          return original.apply(this, args);
        };
      }
      const decode = async (options) => {
        const seen = [];
        let caches = [zeros(), zeros()];
        for (let step = 0; step < 6; step++) {
          Object.assign(calls, { createBuffer: 0, createBindGroup: 0 });
          const { y, keys, values } = await session.run(feeds(step, caches), { outputs: places, ...options });
          seen.push(...y.data);
          if (!options) for (const cache of caches) cache.release?.();
          caches = [keys, values];
        }
        const counted = { ...calls };
        return { seen: [...seen, ...(await caches[0].data()), ...(await caches[1].data())], counted, caches };
      };
      const copied = await decode();
      const changed = await decode({ consume });
      const codes = [];
      const note = ({ code }) => codes.push(code);
      const { caches } = changed;
      await session.run(feeds(6, caches), { consume: ["past_key"] }).catch(note);
      await session.run(feeds(6, [...caches.slice(0, 1), zeros().reshape([1, 2, 30, 320])]), { consume }).catch(note);
      const { keys } = await session.run(feeds(6, caches), { consume });
      await session.run(feeds(7, caches)).catch(note);
      await caches[1].data().catch(note);
      return {
        same: String(copied.seen) === String(changed.seen),
        counted: changed.counted,
        codes,
        key: keys.data[7 * 32 - 1],
      };
    }, bytes);
    assert.ok(result.same);
    assert.deepEqual(result.counted, { createBuffer: 0, createBindGroup: 0 });
    assert.deepEqual(result.codes, ["unknown-name", "wrong-dimension", "released", "released"]);
    assert.equal(result.key, Math.fround(Math.sin(19 * 99 + 31 * 1.7)));
  });

  test("images, canvases and video frames become tensors on the GPU, as a canvas gives them on the CPU", async () => {
    const results = await inPage(async () => {
      const gpu = await load({ device: "webgpu" });
      const cpu = await load({ device: "cpu" });
      const canvas = new OffscreenCanvas(40, 24);
      const context = canvas.getContext("2d");
      const gradient = context.createLinearGradient(0, 0, 40, 24);
      for (const [at, colour] of ["red", "lime", "blue", "white"].entries()) gradient.addColorStop(at / 3, colour);
      context.fillStyle = gradient;
      context.fillRect(0, 0, 40, 24);
      const images = {
        canvas,
        bitmap: await createImageBitmap(canvas),
        data: context.getImageData(0, 0, 40, 24),
        frame: new VideoFrame(context.getImageData(0, 0, 40, 24).data, {
          ...{ format: "RGBA", codedWidth: 40, codedHeight: 24, timestamp: 0 },
        }),
      };
      const all = [
        {},
        { width: 20, height: 12, layout: "nhwc", channels: 4 },
        { width: 56, height: 30, order: "bgr", mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
        { width: 28, height: 28, channels: 1 },
      ];
      const results = [];
      for (const [name, image] of Object.entries(images)) {
        for (const options of all) {
          const onGpu = gpu.session.tensorFromImage(image, options);
          const onCpu = cpu.session.tensorFromImage(image, options);
          const values = await onGpu.data();
          const far = Math.max(...values.map((value, index) => Math.abs(value - onCpu.data[index])));
          results.push({ name, far, location: onGpu.location, shapes: [String(onGpu), String(onCpu)] });
        }
      }
      return results;
    });
    assert.equal(results.length, 16);
    for (const result of results) {
      assert.ok(result.far < 0.03, JSON.stringify(result));
      assert.equal(result.location, "gpu");
      assert.equal(result.shapes[0], result.shapes[1]);
    }
    assert.deepEqual(results[1].shapes[0], "float32[1, 12, 20, 4]");
  });

  test("warmup leaves nothing to compile for the first run", async () => {
    const result = await inPage(async () => {
      const { session, run } = await load({ device: "webgpu" });
      await session.warmup({ [session.inputs[0].shape[0]]: 4 });
      let pipelines = 0;
      const { createComputePipeline } = GPUDevice.prototype;
      GPUDevice.prototype.createComputePipeline = function (...args) {
        pipelines++;
        return createComputePipeline.apply(this, args);
      };
      return { far: await furthest(await run()), pipelines };
    });
    assert.equal(result.pipelines, 0);
    assert.ok(result.far < 1e-4, String(result.far));
  });

  test("large weights go from JavaScript to the GPU, and not through wasm memory", async () => {
    const writes = await inPage(async () => {
      const writes = [];
      const { writeBuffer } = GPUQueue.prototype;
      GPUQueue.prototype.writeBuffer = function (buffer, offset, data, ...rest) {
        const memory = data.buffer ?? data;
        // The core's memory is larger than any weight here.
        writes.push({ size: data.byteLength, inWasm: memory.byteLength > 500_000 });
        return writeBuffer.call(this, buffer, offset, data, ...rest);
      };
      const { run } = await load({ device: "webgpu" });
      if ((await furthest(await run())) > 1e-4) throw new Error("the numbers are wrong");
      return writes;
    });
    const large = writes.filter(({ size }) => size === 784 * 64 * 4);
    assert.ok(large.length > 0 || writes.some(({ size }) => size > 784 * 64 * 4), JSON.stringify(writes));
    for (const { inWasm } of large) assert.ok(!inWasm);
  });

  test("loading with warmup tells of downloading, preparing, uploading and compiling", async () => {
    const seen = await inPage(async () => {
      const seen = [];
      const { session } = await load({ device: "webgpu", warmup: true, onProgress: (progress) => seen.push(progress) });
      const before = seen.length;
      await session.warmup();
      if (seen.length > before) throw new Error("a second run prepares nothing");
      return seen;
    });
    const phases = [...new Set(seen.map(({ phase }) => phase))];
    assert.deepEqual(phases.sort(), ["compile", "download", "prepare", "upload"]);
    for (const phase of phases) {
      const last = seen.findLast((progress) => progress.phase === phase);
      assert.ok(last.loaded === last.total && last.total > 0, JSON.stringify(last));
    }
    const compiled = seen.filter(({ stage }) => stage === "compile").map(({ loaded }) => loaded);
    assert.deepEqual(
      compiled,
      compiled.map((_, index) => index),
    );
    const uploaded = seen.filter(({ stage }) => stage === "upload").map(({ loaded }) => loaded);
    assert.deepEqual(
      uploaded,
      uploaded.toSorted((a, b) => a - b),
    );
  });
});
