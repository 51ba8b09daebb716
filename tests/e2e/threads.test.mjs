// Threads in a real browser: on a page that is cross-origin isolated, in a worker of it, and on one that is not.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { startDemo } from "./lib/browser.mjs";

const hasBuild = existsSync(new URL("../../pkg/wasm/modelet_simd_threads_bg.wasm", import.meta.url));

/** Runs many images on one thread and on two, and says what the second session reports. */
const compare = `async (modelet) => {
  const { Session, Tensor } = modelet;
  const feeds = { keras_tensor: new Tensor("float32", Float32Array.from({ length: 784 * 2048 }, (_, i) => Math.sin(i)), [2048, 784]) };
  const results = [];
  let report;
  for (const threads of [1, 2]) {
    const session = await Session.load("/fixtures/keras/headline_mlp_784_64_10/model.onnx", { device: "cpu", threads });
    results.push((await session.run(feeds)).output_0.data);
    report = session.report();
    session.release();
  }
  const equal = results[0].every((value, index) => Object.is(value, results[1][index]));
  return { equal, threads: report.threads, wasm: report.wasm, warnings: report.warnings, isolated: crossOriginIsolated };
}`;
const inModule = `import("/pkg/index.js").then(${compare})`;
const inScript = `(${compare})(globalThis.modelet)`;

/** Serves every file without the headers that isolate a page. */
const withoutIsolation = (page) =>
  page.route("**/*", async (route) => {
    const response = await route.fetch();
    const headers = response.headers();
    delete headers["cross-origin-opener-policy"];
    delete headers["cross-origin-embedder-policy"];
    await route.fulfill({ response, headers });
  });

describe("threads in a browser", { skip: hasBuild ? false : "the builds with threads were left out" }, () => {
  let demo;
  before(async () => {
    demo = await startDemo();
  });
  after(() => demo?.close());

  const onTwo = { equal: true, threads: { count: 2 }, wasm: "relaxed-simd, threads", warnings: [], isolated: true };

  test("an isolated page gets them, with the module and with the script", async () => {
    for (const work of [inModule, inScript]) {
      const page = await demo.open("script-tag.html");
      await page.waitForSelector("#result[data-best]");
      assert.deepEqual(await page.evaluate(work), onTwo);
      assert.deepEqual(page.problems, []);
      await page.context().close();
    }
  });

  test("so does a worker of the page", async () => {
    const page = await demo.open("script-tag.html");
    const isolation = { "cross-origin-embedder-policy": "require-corp", "cross-origin-resource-policy": "same-origin" };
    const body = `${inModule}.then(postMessage, (error) => postMessage(String(error)));`;
    await page.route("**/compare.js", (route) =>
      route.fulfill({ contentType: "text/javascript", body, headers: isolation }),
    );
    const result = await page.evaluate(
      () =>
        new Promise((resolve) => {
          const worker = new Worker("/compare.js", { type: "module" });
          worker.onmessage = ({ data }) => resolve(data);
          worker.onerror = (event) => resolve(event.message);
        }),
    );
    assert.deepEqual(result, onTwo);
  });

  test("WebGPU and threads serve one session", async () => {
    const gpu = await startDemo({ webgpu: true });
    try {
      const page = await gpu.open("script-tag.html");
      await page.waitForSelector("#result[data-best]");
      const result = await page.evaluate(async () => {
        const { Session, Tensor } = await import("/pkg/index.js");
        const url = "/fixtures/keras/headline_mlp_784_64_10/model.onnx";
        const pixels = Float32Array.from({ length: 784 * 64 }, (_, i) => Math.abs(Math.sin(i)));
        const run = async (options) => {
          const session = await Session.load(url, options);
          const { output_0 } = await session.run({ keras_tensor: new Tensor("float32", pixels, [64, 784]) });
          const { device, threads } = session.report();
          session.release();
          return { values: output_0.data, device, threads };
        };
        const cpu = await run({ device: "cpu", threads: 1 });
        const both = await run({ device: "webgpu", threads: 2 });
        const furthest = Math.max(...both.values.map((value, index) => Math.abs(value - cpu.values[index])));
        return { device: both.device, threads: both.threads, furthest };
      });
      assert.ok(result.furthest < 1e-4, `outputs differ by ${result.furthest}`);
      assert.deepEqual([result.device, result.threads], ["webgpu", { count: 2 }]);
    } finally {
      await gpu.close();
    }
  });

  test("a page that is not isolated runs on one thread and says why", async () => {
    const page = await demo.open("script-tag.html", { prepare: withoutIsolation });
    const { equal, threads, wasm, isolated } = await page.evaluate(inModule);
    assert.deepEqual(
      { equal, threads, wasm, isolated },
      { equal: true, threads: { count: 1, reason: "not-isolated" }, wasm: "relaxed-simd", isolated: false },
    );
  });

  test("a worker script that cannot be loaded leaves one thread, with a warning", async () => {
    const page = await demo.open("script-tag.html");
    await page.route("**/pkg/worker.js", (route) => route.abort());
    const { equal, threads, wasm, warnings } = await page.evaluate(inModule);
    assert.deepEqual(
      { equal, threads, wasm },
      { equal: true, threads: { count: 1, reason: "failed" }, wasm: "relaxed-simd" },
    );
    assert.match(warnings[0], /^running on one thread: /);
  });
});
