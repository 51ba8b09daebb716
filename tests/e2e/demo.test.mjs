// The demo in a real browser: drawing with mouse, finger and keyboard, on the CPU and on WebGPU, and what the page says
// when something is missing.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { samples } from "../../www/samples.js";
import { zipMapModel } from "../ts/lib/onnx.mjs";
import { answer, chooseDevice, drawWithMouse, keepPicture, startDemo, waitForDigit } from "./lib/browser.mjs";

const seven = samples[7];
/** A seven without the bar through its stem. */
const plainSeven = [
  [
    { x: 22, y: 12 },
    { x: 78, y: 12 },
    { x: 42, y: 92 },
  ],
];

describe("the demo without WebGPU", () => {
  let demo;
  before(async () => {
    demo = await startDemo();
  });
  after(() => demo?.close());

  test("says that the CPU is used, and reads a drawn 7", async () => {
    const downloads = [];
    const page = await demo.open("", { prepare: (one) => one.on("request", (r) => downloads.push(r.url())) });
    await page.waitForFunction(() => document.documentElement.dataset.device === "cpu");
    assert.match(await page.locator("#status").textContent(), /no WebGPU|No hardware WebGPU/);
    const builds = downloads.filter((url) => url.endsWith(".wasm"));
    const threads = await page.evaluate(() => navigator.hardwareConcurrency >= 4);
    assert.deepEqual(
      builds.map((url) => url.split("/").pop()),
      [threads ? "modelet_relaxed_threads_bg.wasm" : "modelet_relaxed_bg.wasm"],
      "one build is downloaded, the one this browser runs best",
    );
    for (const strokes of [seven, plainSeven]) {
      await drawWithMouse(page, strokes);
      await waitForDigit(page, 7);
      const { percent } = await answer(page);
      assert.equal(percent.indexOf(Math.max(...percent)), 7);
      assert.ok(Math.abs(percent.reduce((sum, p) => sum + p) - 100) < 1, `the percentages ${percent} add up to 100`);
      await page.keyboard.press("Escape");
      await waitForDigit(page, "–");
    }
    assert.match(await page.locator("#runs").textContent(), /\d+ runs, fastest/);
    assert.deepEqual(page.problems, []);
  });

  test("choosing WebGPU says that it is missing, and goes on with the CPU", async () => {
    const page = await demo.open();
    await chooseDevice(page, "webgpu");
    assert.match(await page.locator("#status").textContent(), /WebGPU is not available/);
    assert.equal(await page.locator("#device [value=cpu]").isChecked(), true);
    await drawWithMouse(page, seven);
    await waitForDigit(page, 7);
    await keepPicture(page, "demo-without-webgpu");
  });

  test("works with the keyboard alone, for every digit", async () => {
    const page = await demo.open();
    await chooseDevice(page, "cpu");
    for (let digit = 0; digit < 10; digit++) {
      await page.keyboard.press(String(digit));
      await waitForDigit(page, digit);
    }
    await page.locator("#clear").focus();
    await page.keyboard.press("Enter");
    await waitForDigit(page, "–");
  });

  test("works with a finger", async () => {
    const page = await demo.open("", { hasTouch: true, isMobile: true, viewport: { width: 390, height: 844 } });
    await chooseDevice(page, "cpu");
    const box = await page.locator("#pad").boundingBox();
    const session = await page.context().newCDPSession(page);
    const touch = (type, point) => {
      const touchPoints = point
        ? [{ x: box.x + (point.x / 100) * box.width, y: box.y + (point.y / 100) * box.height }]
        : [];
      return session.send("Input.dispatchTouchEvent", { type, touchPoints });
    };
    for (const stroke of seven) {
      await touch("touchStart", stroke[0]);
      for (const point of stroke.slice(1)) await touch("touchMove", point);
      await touch("touchEnd");
    }
    await waitForDigit(page, 7);
    await keepPicture(page, "demo-phone");
  });

  test("an engine without relaxed SIMD gets the other build", async () => {
    const page = await demo.open("", {
      prepare: (one) =>
        one.addInitScript(() => {
          const { validate } = WebAssembly;
          // The bytes of f32x4.relaxed_madd.
          const relaxed = (bytes) => bytes.join().includes("253,133,2");
          WebAssembly.validate = (bytes) => !relaxed(bytes) && validate(bytes);
        }),
    });
    await chooseDevice(page, "cpu");
    await drawWithMouse(page, seven);
    await waitForDigit(page, 7);
    assert.match(await page.locator("#facts").textContent(), /simd128/);
  });

  test("needs neither eval nor blob: URLs", async () => {
    const policy =
      "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' data:; style-src 'self' 'unsafe-inline'";
    const page = await demo.open("", {
      prepare: (one) =>
        one.route(demo.url, async (route) => {
          const response = await route.fetch();
          await route.fulfill({ response, headers: { ...response.headers(), "content-security-policy": policy } });
        }),
    });
    await page.waitForFunction(() => document.documentElement.dataset.device === "cpu");
    await page.keyboard.press("7");
    await waitForDigit(page, 7);
    assert.deepEqual(page.problems, []);
  });

  test("says what is wrong when the model or the core cannot be had", async () => {
    const broken = (pattern, answer) =>
      demo.open("", { prepare: (page) => page.route(pattern, (route) => answer(route)) });
    const status = async (page) => {
      await page.waitForFunction(() => document.querySelector("#status.warn"));
      return page.locator("#status").textContent();
    };
    const missing = await broken("**/*.onnx", (route) => route.fulfill({ status: 404, body: "no" }));
    assert.match(await status(missing), /model\.onnx answered 404/);
    const html = await broken("**/*.onnx", (route) =>
      route.fulfill({ status: 200, contentType: "text/html", body: "<!doctype html>" }),
    );
    assert.match(await status(html), /model\.onnx answered with a web page/);
    const blocked = await broken("**/*.wasm", (route) => route.abort());
    assert.match(await status(blocked), /WebAssembly file .* could not be loaded/);
    const cut = await broken("**/*.onnx", async (route) => {
      const response = await route.fetch();
      await route.fulfill({ body: (await response.body()).subarray(0, 1000), contentType: "application/octet-stream" });
    });
    assert.match(await status(cut), /./);
  });

  test("works from a script tag", async () => {
    const page = await demo.open("script-tag.html");
    await page.waitForSelector("#result[data-best]");
    assert.match(await page.locator("#result").textContent(), /^7, with \d/);
    assert.match(await page.locator("#detail").textContent(), /cpu/);
    assert.deepEqual(page.problems, []);
    await keepPicture(page, "script-tag");
  });

  test("a model with rare operators gets the build that has all, and is downloaded once", async () => {
    for (const source of ["globalThis.modelet", 'await import("/pkg/index.js")']) {
      const downloads = [];
      const page = await demo.open("script-tag.html");
      await page.waitForSelector("#result[data-best]");
      await page.route("**/zip.onnx", (route) => route.fulfill({ body: zipMapModel(["no", "yes"]) }));
      page.on("request", (request) => downloads.push(request.url().split("/").pop()));
      const result = await page.evaluate(`(async () => {
        const { Session, Tensor } = ${source};
        const session = await Session.load("/zip.onnx", { device: "cpu", threads: 1 });
        const { maps } = await session.run({ x: new Tensor("float32", [0.25, 0.75], [1, 2]) });
        return { maps, wasm: session.report().wasm };
      })()`);
      assert.deepEqual(result, { maps: [{ no: 0.25, yes: 0.75 }], wasm: "relaxed-simd, all operators" });
      assert.equal(downloads.filter((name) => name === "zip.onnx").length, 1);
      assert.equal(downloads.filter((name) => name === "modelet_full_relaxed_bg.wasm").length, 1);
      assert.deepEqual(page.problems, []);
    }
  });
});

/** Classifies a sample 7 in a worker, with the module or the global build, and gives what it says. */
function classifyInWorker(page, type, device) {
  const get = type === "module" ? 'const modelet = await import("/pkg/index.js");' : "";
  const body = `${type === "module" ? "" : 'importScripts("/pkg/modelet.global.js");'}
    (async () => {
      ${get}
      const { toPixels } = await import("/digit.js");
      const { samples } = await import("/samples.js");
      const url = "/fixtures/keras/headline_mlp_784_64_10/model.onnx";
      const session = await modelet.Session.load(url, { device: "${device}" });
      const image = new modelet.Tensor("float32", toPixels(samples[7]), [1, 784]);
      const { output_0 } = await session.run({ keras_tensor: image });
      return { digit: output_0.data.indexOf(Math.max(...output_0.data)), device: session.report().device };
    })().then(postMessage, (error) => postMessage({ error: String(error) }));`;
  return page
    .route("**/classify.js", (route) => route.fulfill({ contentType: "text/javascript", body, headers: isolation }))
    .then(() =>
      page.evaluate(
        (kind) =>
          new Promise((resolve, reject) => {
            const worker = new Worker("/classify.js", { type: kind });
            worker.onmessage = ({ data }) => resolve(data);
            worker.onerror = (event) => reject(new Error(event.message));
          }),
        type,
      ),
    );
}

const isolation = { "cross-origin-embedder-policy": "require-corp", "cross-origin-resource-policy": "same-origin" };

describe("the demo on WebGPU", () => {
  let demo;
  before(async () => {
    demo = await startDemo({ webgpu: true });
  });
  after(() => demo?.close());

  test("auto does not take a software adapter", async () => {
    const page = await demo.open();
    await page.waitForFunction(() => document.documentElement.dataset.device === "cpu");
    assert.match(await page.locator("#status").textContent(), /No hardware WebGPU adapter/);
    await page.locator("#nodes tr").first().waitFor({ state: "attached" });
    assert.match(await page.locator("#facts").textContent(), /CPU: the GPU adapter ".*swiftshader.*" is a software/i);
  });

  test("reads a drawn 7, with every matrix product on the GPU", async () => {
    const page = await demo.open();
    await chooseDevice(page, "webgpu");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.device), "webgpu");
    assert.match(await page.locator("#status").textContent(), /^Running on WebGPU: .*swiftshader.*software/i);
    await drawWithMouse(page, seven);
    await waitForDigit(page, 7);
    const { percent } = await answer(page);
    assert.equal(percent.indexOf(Math.max(...percent)), 7);
    const rows = await page.locator("#nodes tr").allTextContents();
    const products = rows.filter((row) => /MatMul|Gemm/.test(row));
    assert.ok(products.length >= 2, rows.join("\n"));
    assert.ok(
      products.every((row) => row.includes("GPU")),
      products.join("\n"),
    );
    assert.deepEqual(page.problems, []);
    await keepPicture(page, "demo-webgpu");
  });

  test("the package works in workers, as a module and as a script, on both devices", async () => {
    for (const type of ["module", "classic"]) {
      for (const device of ["cpu", "webgpu"]) {
        const page = await demo.open("script-tag.html");
        assert.deepEqual(await classifyInWorker(page, type, device), { digit: 7, device }, `${type} on ${device}`);
      }
    }
  });

  test("devices can be switched while drawing", async () => {
    const page = await demo.open();
    await chooseDevice(page, "webgpu");
    await drawWithMouse(page, seven);
    await waitForDigit(page, 7);
    await chooseDevice(page, "cpu");
    await waitForDigit(page, 7);
    await chooseDevice(page, "webgpu");
    await waitForDigit(page, 7);
    assert.deepEqual(page.problems, []);
  });
});
