// Sessions on several threads in Node.js: the same results, and workers that come and go with the sessions.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire, syncBuiltinESMExports } from "node:module";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import binaryen from "binaryen";
import { ModeletError, Session, Tensor } from "modelet";
import { rejectsWith } from "./lib/errors.mjs";

const pkg = new URL("../../pkg/", import.meta.url);
const model = new URL("../fixtures/keras/headline_mlp_784_64_10/model.onnx", import.meta.url);
const hasBuild = existsSync(new URL("wasm/modelet_simd_threads_bg.wasm", pkg));
const missing = hasBuild ? false : "the builds with threads were left out";

/** Enough images that every layer is worth sharing. */
const images = () => {
  const data = Float32Array.from({ length: 784 * 2048 }, (_, i) => Math.sin(i * 0.37));
  return { keras_tensor: new Tensor("float32", data, [2048, 784]) };
};
const load = (threads) => Session.load(model, { device: "cpu", threads });

describe("threads", { skip: missing }, () => {
  // Every worker that the package starts.
  const workers = [];
  const threads = createRequire(import.meta.url)("node:worker_threads");
  const Original = threads.Worker;
  before(() => {
    threads.Worker = class extends Original {
      constructor(...args) {
        super(...args);
        workers.push(this);
        this.ended = new Promise((resolve) => this.once("exit", resolve));
      }
    };
    syncBuiltinESMExports();
  });
  after(() => {
    threads.Worker = Original;
    syncBuiltinESMExports();
  });

  test("give the same bits as one, in a build of their own", async () => {
    const one = await load(1);
    const { output_0: alone } = await one.run(images());
    assert.deepEqual(one.report().threads, { count: 1, reason: "asked-for" });
    assert.doesNotMatch(one.report().wasm, /threads/);
    one.release();
    for (const count of [2, 3]) {
      const session = await load(count);
      assert.deepEqual(session.report().threads, { count });
      assert.match(session.report().wasm, /, threads$/);
      for (let run = 0; run < 3; run++) {
        const { output_0: shared } = await session.run(images());
        assert.deepEqual(shared.shape, [2048, 10]);
        assert.ok(Buffer.from(shared.data.buffer).equals(Buffer.from(alone.data.buffer)), `${count} threads`);
      }
      session.release();
    }
  });

  test("are shared by sessions, and end with the last one", async () => {
    const known = workers.length;
    const first = await load(2);
    const second = await load(3);
    assert.equal(workers.length - known, 2, "the second session needs one more");
    const runs = await Promise.all([first.run(images()), second.run(images())]);
    assert.deepEqual(runs[0].output_0.data, runs[1].output_0.data);
    first.release();
    await second.run(images());
    second.release();
    await Promise.all(workers.slice(known).map((worker) => worker.ended));
    // Others come when they are needed.
    const third = await load(2);
    assert.deepEqual(third.report().threads, { count: 2 });
    await third.run(images());
    third.release();
  });

  test("that are ended from outside end the session with an error, not with a hang", async () => {
    const session = await load(2);
    await session.run(images());
    await workers.at(-1).terminate();
    await rejectsWith(() => session.run(images()), "internal", /worker ended/, ModeletError);
    session.release();
    const next = await load(2);
    await next.run(images());
    next.release();
  });

  test("are no reason for a process to stay", () => {
    const script = `
      import { Session, Tensor } from "modelet";
      const session = await Session.load(new URL(${JSON.stringify(model.href)}), { device: "cpu", threads: 2 });
      await session.run({ keras_tensor: new Tensor("float32", new Float32Array(784 * 2048), [2048, 784]) });
      console.log(JSON.stringify(session.report().threads));`;
    const cwd = fileURLToPath(new URL("../../", import.meta.url));
    const args = ["--input-type=module", "-e", script];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd, encoding: "utf8", timeout: 60_000 });
    assert.equal(status, 0, stderr);
    assert.deepEqual(JSON.parse(stdout), { count: 2 });
  });

  test("a number that makes no sense is refused", async () => {
    for (const count of [0, -1, 1.5, 65, "2", Number.NaN]) {
      await rejectsWith(() => load(count), "invalid-argument", /threads is an integer from 1 to 64/, ModeletError);
    }
  });
});

describe("the worker's script", () => {
  /** A stand-in for the core, whose thread does what `body` says. */
  const core = (body) => {
    const text = `(module
      (import "wbg" "memory" (memory 1 1 shared))
      (import "wbg" "alert" (func $alert))
      (import "wbg" "__wbindgen_init_externref_table" (func $init))
      (func (export "__wbindgen_start") (param i32) (call $init) (i32.atomic.store (i32.const 0) (local.get 0)))
      (func (export "serveThread") (param i32) ${body})
      (func (export "loseThread") (i32.atomic.store (i32.const 8) (i32.const 1))))`;
    const module = binaryen.parseText(text);
    module.setFeatures(binaryen.Features.Atomics | binaryen.Features.MutableGlobals);
    return new WebAssembly.Module(module.emitBinary());
  };
  const serve = async (body) => {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    const worker = new Worker(new URL("worker.js", pkg));
    const news = [];
    const ended = new Promise((resolve) => {
      worker.on("message", (one) => {
        news.push(one);
        if (one === "up") worker.postMessage({ module: core(body), memory, number: 5, stackBytes: 4096 });
        if (typeof one === "object" || (one === "works" && body.includes("store"))) setTimeout(resolve, 50);
      });
    });
    await ended;
    await worker.terminate();
    return { news, cells: new Int32Array(memory.buffer) };
  };

  test("gives the thread its stack and its number", async () => {
    const { news, cells } = await serve("(i32.atomic.store (i32.const 4) (local.get 0))");
    assert.deepEqual(news, ["up", "works"]);
    assert.deepEqual([...cells.subarray(0, 3)], [4096, 5, 0]);
  });

  test("tells the core and the page when the thread is trapped or calls what is not there", async () => {
    for (const [body, pattern] of [
      ["unreachable", /unreachable/],
      ["(call $alert)", /a thread of the pool called alert/],
    ]) {
      const { news, cells } = await serve(body);
      assert.match(news.at(-1).failed, pattern);
      assert.equal(cells[2], 1);
    }
  });
});
