// What the TypeScript side of a session decides, on a stand-in for the core.

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { rejectsWith } from "./lib/errors.mjs";
import { fakePackage } from "./lib/fake-package.mjs";

const text = (words) => new TextEncoder().encode(words);

describe("sessions", () => {
  let fake;
  let Session;
  let Tensor;
  let rejects;
  before(async () => {
    fake = await fakePackage();
    ({ Session, Tensor } = fake.modelet);
    rejects = (work, code, pattern) => rejectsWith(work, code, pattern, fake.modelet.ModeletError);
  });
  after(() => fake.remove());

  const feed = (value) => ({ x: new Tensor("float32", [value, 0], [1, 2]) });

  test("every kind of source gives the same bytes", async () => {
    const file = join(fake.folder, "model.onnx");
    writeFileSync(file, "hello");
    const bytes = text("hello");
    const sources = {
      Uint8Array: bytes,
      ArrayBuffer: bytes.buffer,
      "view into a larger buffer": text("..hello..").subarray(2, 7),
      SharedArrayBuffer: (() => {
        const shared = new SharedArrayBuffer(5);
        new Uint8Array(shared).set(bytes);
        return shared;
      })(),
      Blob: new Blob([bytes]),
      Response: new Response(bytes),
      path: file,
      "file URL": pathToFileURL(file),
      "file URL as text": pathToFileURL(file).href,
      "data URL": "data:application/octet-stream,hello",
    };
    const sessions = [];
    for (const [kind, source] of Object.entries(sources)) {
      sessions.push(await Session.load(source, { device: "cpu" }));
      assert.equal(fake.log.loads.at(-1).text, "hello", kind);
    }
    const released = () => new Promise(setImmediate);
    const last = sessions.pop();
    for (const session of sessions) session.release();
    await released();
    assert.equal(fake.log.instances, 1, "all loads share one instance");
    last.release();
    await released();
    assert.equal(fake.log.instances, 2, "the last release gives the instance's memory back");
  });

  test("a response's body streams in piece by piece, with progress", async () => {
    const pieces = ["one ", "two ", "three"];
    const body = new ReadableStream({
      pull(controller) {
        const piece = pieces.shift();
        if (piece === undefined) controller.close();
        else controller.enqueue(text(piece));
      },
    });
    const seen = [];
    await Session.load(new Response(body, { headers: { "content-length": "13" } }), {
      device: "cpu",
      onProgress: (progress) => seen.push(progress),
    });
    assert.deepEqual(fake.log.loads.at(-1), { text: "one two three", expected: 13, pieces: 3 });
    assert.deepEqual(
      seen.map(({ stage, loaded, total }) => [stage, loaded, total]),
      [
        ["download", 4, 13],
        ["download", 8, 13],
        ["download", 13, 13],
        ["parse", 0, 1],
        ["parse", 1, 1],
      ],
    );
  });

  test("a content encoding makes the total unknown", async () => {
    const headers = { "content-length": "3", "content-encoding": "gzip" };
    await Session.load(new Response("hello", { headers }), { device: "cpu" });
    assert.equal(fake.log.loads.at(-1).expected, 0);
  });

  test("options reach the core", async () => {
    const limits = { memoryBytes: 1e9, runMillis: 50 };
    await Session.load(text("ok"), { device: "cpu", optimization: "basic", limits, name: "mine" });
    const options = fake.log.options.at(-1);
    assert.deepEqual(options.limits, limits);
    assert.equal(options.device, "cpu");
    assert.equal(options.optimization, "basic");
    assert.equal(options.name, "mine");
  });

  test("of external data, whatever it comes from, the core gets the ranges that it needs", async () => {
    const content = "abcdefghijklmnopqrstuvwxyz";
    const bytes = text(content);
    const stream = () =>
      new ReadableStream({
        start(controller) {
          for (let at = 0; at < 26; at += 5) controller.enqueue(bytes.subarray(at, at + 5));
          controller.close();
        },
      });
    const path = join(fake.folder, "weights.bin");
    writeFileSync(path, content);
    const sources = {
      bytes,
      buffer: bytes.buffer,
      blob: new Blob([content]),
      response: new Response(stream(), { headers: { "content-length": "26" } }),
      path,
      "file URL": pathToFileURL(path),
      "data URL": `data:text/plain,${content}`,
    };
    for (const [name, source] of Object.entries(sources)) {
      const seen = [];
      await Session.load(text("external w.bin 1-4 4-7 20-end"), {
        device: "cpu",
        externalData: { "w.bin": source },
        onProgress: ({ stage, loaded, total }) => stage === "external-data" && seen.push([loaded, total]),
      });
      assert.deepEqual(fake.log.files, { "w.bin": { size: 26, 1: "bcd", 4: "efg", 20: "uvwxyz" } }, name);
      assert.deepEqual(seen.at(-1), [12, 0]);
    }
    // What is not needed is not waited for.
    const endless = new ReadableStream({ pull: (controller) => controller.enqueue(bytes) });
    await Session.load(text("external w.bin 3-29"), {
      device: "cpu",
      externalData: { "w.bin": new Response(endless) },
    });
    assert.equal(fake.log.files["w.bin"][3], "defghijklmnopqrstuvwxyzabc");
    // A file that is too short, or not given, is for the core to refuse.
    await Session.load(text("external w.bin 20-40 external v.bin 0-1"), {
      device: "cpu",
      externalData: { "w.bin": bytes },
    });
    assert.deepEqual(fake.log.files, { "w.bin": { size: 26, 20: "uvwxyz" } });
  });

  test("external data that is not given is looked for next to the model, by range where much can be left out", async () => {
    const far = 6 << 20;
    const content = Buffer.concat([Buffer.from("near"), Buffer.alloc(far - 4), Buffer.from("far away")]);
    const asked = [];
    const server = createServer((request, response) => {
      asked.push(`${request.url} ${request.headers.range ?? ""}`.trim());
      const { pathname } = new URL(request.url, "http://localhost");
      if (/model/.test(pathname)) return response.end(`external sub\\we%20ights.bin 0-4 ${far}-${far + 3}`);
      if (!/we%2520ights/.test(pathname)) return response.writeHead(404).end();
      const [, start, end] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "") ?? [];
      if (start === undefined || pathname.startsWith("/plain")) return response.end(content);
      const total = content.length;
      response.writeHead(206, { "content-range": `bytes ${start}-${end}/${total}` });
      response.end(content.subarray(Number(start), Number(end) + 1));
    });
    await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
    const origin = `http://127.0.0.1:${server.address().port}`;
    const location = "sub\\we%20ights.bin";
    const expected = { [location]: { size: content.length, 0: "near", [far]: "far" } };
    try {
      await Session.load(`${origin}/ranges/model?download=1`, { device: "cpu" });
      assert.deepEqual(fake.log.files, expected);
      assert.deepEqual(asked.splice(0), [
        "/ranges/model?download=1",
        "/ranges/sub/we%2520ights.bin bytes=0-3",
        `/ranges/sub/we%2520ights.bin bytes=${far}-${far + 2}`,
      ]);
      await Session.load(new URL(`${origin}/plain/model`), { device: "cpu" });
      assert.deepEqual(fake.log.files, expected);
      assert.equal(asked.splice(0).length, 2);
      await Session.load(await fetch(`${origin}/ranges/model`), { device: "cpu" });
      assert.deepEqual(fake.log.files, expected);
      // In a model that comes from elsewhere, nothing is fetched.
      await Session.load(text(`external ${location} 0-4`), { device: "cpu" });
      assert.equal(fake.log.files, undefined);
      asked.length = 0;
      const given = { [location]: `${origin}/none.bin` };
      await rejects(
        Session.load(text(`external ${location} 0-4`), { externalData: given }),
        "fetch-failed",
        /none.bin.*404/,
      );
    } finally {
      server.closeAllConnections();
      server.close();
    }
    mkdirSync(join(fake.folder, "sub"));
    writeFileSync(join(fake.folder, "model.txt"), "external sub/w.bin 0-4 external none.bin 0-1");
    writeFileSync(join(fake.folder, "sub/w.bin"), content);
    await rejects(
      Session.load(join(fake.folder, "model.txt"), { device: "cpu" }),
      "external-data",
      /none.bin.*not given/,
    );
    writeFileSync(join(fake.folder, "none.bin"), "?");
    await Session.load(pathToFileURL(join(fake.folder, "model.txt")), { device: "cpu" });
    assert.deepEqual(fake.log.files, {
      "sub/w.bin": { size: content.length, 0: "near" },
      "none.bin": { size: 1, 0: "?" },
    });
  });

  test("wrong options and sources are refused by name", async () => {
    await rejects(Session.load(text("ok"), { device: "gpu" }), "invalid-argument", /auto, webgpu, cpu.*gpu/);
    await rejects(Session.load(text("ok"), { optimization: "most" }), "invalid-argument", /optimization/);
    await rejects(Session.load(text("ok"), { operators: "some" }), "invalid-argument", /operators is one of auto, all/);
    for (const memoryBytes of [-1, Number.NaN, "1e9"]) {
      await rejects(Session.load(text("ok"), { limits: { memoryBytes } }), "invalid-argument", /limits\.memoryBytes/);
    }
    await rejects(Session.load(text("ok"), { externalData: { a: 42 }, device: "cpu" }), "invalid-argument", /a is not/);
    await rejects(Session.load(42), "invalid-argument", /Number/);
    await rejects(Session.load(undefined), "invalid-argument", /Undefined/);
  });

  test("concurrent runs queue up in order, and a failing one does not stop the next", async () => {
    const session = await Session.load(text("ok"), { device: "cpu" });
    fake.log.runs.length = 0;
    const runs = [1, 2, 3].map((value) => session.run(feed(value)));
    const bad = rejects(session.run({ x: 5 }), "invalid-argument", /x.*not a Tensor/);
    runs.push(session.run(feed(4), { fetches: ["y"] }));
    const results = await Promise.all(runs);
    await bad;
    assert.deepEqual(
      results.map(({ y }) => y.data[0]),
      [2, 4, 6, 8],
    );
    assert.ok(results[0].y instanceof Tensor);
    assert.deepEqual(
      fake.log.runs.map(({ begun, ended }) => begun ?? -ended),
      [1, -1, 2, -2, 3, -3, 4, -4],
    );
    assert.deepEqual(fake.log.runs.at(-2).fetches, ["y"]);
  });

  test("feeds of every form cross as the model's type says, and come back", async () => {
    const pair = new Tensor("float32", [1, 2]);
    const cases = [
      ["sequence(float32)", [pair, pair]],
      ["sequence(float32)", []],
      ["optional(float32)", null],
      ["optional(sequence(float32))", [pair]],
      ["optional(float32)", pair],
      ["map(string, float32)", { a: 1.5, b: -2, __proto__: null }, { a: 1.5, b: -2 }],
      ["map(int64, int64)", { "-7": 8n, 9: 10 }, { "-7": 8n, 9: 10n }],
      [
        "map(int64, string)",
        new Map([
          [2n ** 60n, "big"],
          [3, "small"],
        ]),
        { [2n ** 60n]: "big", 3: "small" },
      ],
      ["map(int32, float64)", new Map([[5, 0.1]]), { 5: 0.1 }],
      ["map(int32, float64)", { 5: 0.1 }],
      ["sequence(map(string, bool))", [{ yes: 1 }, {}]],
    ];
    for (const [type, fed, expected = fed] of cases) {
      const session = await Session.load(text(type), { device: "cpu" });
      assert.deepEqual((await session.run({ x: fed })).y, expected, type);
    }
    const session = await Session.load(text("map(string, int64)"), { device: "cpu" });
    const tricky = JSON.parse('{ "__proto__": 1, "type": 2, "shape": 3, "data": 4 }');
    const { y } = await session.run({ x: tricky });
    assert.deepEqual(Object.entries(y), [
      ["__proto__", 1n],
      ["type", 2n],
      ["shape", 3n],
      ["data", 4n],
    ]);
    const { keys, values } = fake.log.values[0];
    assert.deepEqual([keys.type, keys.shape, values.type, values.shape], ["string", [4], "int64", [4]]);
  });

  test("feeds of another form than the model's are typed errors with their place", async () => {
    const pair = new Tensor("float32", [1, 2]);
    const wrong = [
      ["ok", [pair], "wrong-type", /the feed x is not a Tensor/, "a Tensor of float32", "Array"],
      ["ok", null, "wrong-type", /not a Tensor/, "a Tensor of float32", "null"],
      ["ok", { a: 1 }, "wrong-type", /not a Tensor/, "a Tensor of float32", "Object"],
      ["ok", new Float32Array(2), "invalid-argument", /not a Tensor/, "a Tensor of float32", "Float32Array"],
      ["ok", undefined, "invalid-argument", /not a Tensor/, "a Tensor of float32", "undefined"],
      ["sequence(float32)", { a: 1 }, "wrong-type", /x is not an array/, "sequence(float32)", "Object"],
      [
        "sequence(int64)",
        [pair],
        "wrong-type",
        /x\[0\] is a Tensor of float32/,
        "a Tensor of int64",
        "a Tensor of float32",
      ],
      ["sequence(float32)", [pair, [pair]], "wrong-type", /x\[1\] is not a Tensor/, "a Tensor of float32", "Array"],
      [
        "sequence(map(int64, float32))",
        [{}, pair],
        "wrong-type",
        /x\[1\] is not a plain object or Map/,
        "map(int64, float32)",
      ],
      ["map(int64, float32)", { a: 1 }, "wrong-type", /"a".*does not fit type int64/, "map(int64, float32)", '"a"'],
      ["map(int64, float32)", { 1: "a" }, "wrong-type", /"a".*does not fit type float32/, "map(int64, float32)", '"a"'],
      ["map(int64, float32)", { 1: 1n }, "wrong-type", /does not fit type float32/, "map(int64, float32)", "1"],
      ["map(string, int64)", { a: 0.5 }, "wrong-type", /does not fit type int64/, "map(string, int64)", "0.5"],
      ["map(string, float32)", new Map([[1, 1]]), "wrong-type", /strings/, "map(string, float32)"],
      [
        "map(string, float32)",
        [["a", 1]],
        "wrong-type",
        /x is not a plain object or Map/,
        "map(string, float32)",
        "Array",
      ],
      ["optional(float32)", [], "wrong-type", /x is not a Tensor/, "a Tensor of float32", "Array"],
    ];
    for (const [type, fed, code, pattern, expected, actual] of wrong) {
      const session = await Session.load(text(type), { device: "cpu" });
      const error = await rejects(session.run({ x: fed }), code, pattern);
      assert.equal(error.input, "x", type);
      assert.equal(error.expected, expected);
      if (actual) assert.equal(error.actual, actual);
    }
  });

  test("a session ends the current run, then frees; queued and later calls are typed errors", async () => {
    const session = await Session.load(text("ok"), { device: "cpu" });
    const freed = fake.log.freed;
    const first = session.run(feed(1));
    await new Promise((resolve) => setTimeout(resolve, 1));
    const second = session.run(feed(2));
    session.release();
    session.release();
    assert.equal(fake.log.freed, freed, "not while a run is under way");
    assert.equal((await first).y.data[0], 2);
    await rejects(second, "released", /released/);
    await new Promise((resolve) => setTimeout(resolve, 1));
    assert.equal(fake.log.freed, freed + 1, "freed once");
    await rejects(session.run(feed(1)), "released");
    await rejects(() => session.inputs, "released");
    await rejects(() => session.outputs, "released");
    await rejects(() => session.report(), "released");
    await rejects(() => session.inspect("graph"), "released");
    if (Symbol.dispose) {
      const other = await Session.load(text("ok"), { device: "cpu" });
      other[Symbol.dispose]();
      await rejects(other.run(feed(1)), "released");
    }
  });

  test("an error of the core keeps its code and place", async () => {
    const other = await fakePackage();
    const { ModeletError } = other.modelet;
    const load = other.modelet.Session.load(text("unsupported"), { device: "cpu" });
    const unsupported = await rejectsWith(load, "unsupported-operator", /two operators/, ModeletError);
    assert.deepEqual(unsupported.details, ["Foo", "Bar"]);
    assert.equal(other.fullLog.loads.length, 1, "the build with all operators was asked too");
    other.remove();
    const session = await Session.load(text("fail"), { device: "cpu" });
    const failed = await rejects(session.run(feed(1)), "run-failed", /division by zero/);
    assert.equal(failed.node, "n1");
    assert.equal(failed.operator, "Div");
    assert.equal(failed.name, "ModeletError");
  });

  test("an aborted load ends, lets go of its bytes, and says so", async () => {
    await rejects(Session.load(text("ok"), { signal: AbortSignal.abort() }), "aborted");
    const controller = new AbortController();
    let cancelled = false;
    const body = new ReadableStream({
      pull: (stream) => stream.enqueue(text("more")),
      cancel: () => {
        cancelled = true;
      },
    });
    const freed = fake.log.bytesFreed;
    const loading = Session.load(new Response(body), {
      device: "cpu",
      signal: controller.signal,
      onProgress: ({ loaded }) => loaded > 20 && controller.abort(),
    });
    await rejects(loading, "aborted");
    assert.equal(cancelled, true);
    assert.equal(fake.log.bytesFreed, freed + 1);
    const session = await Session.load(text("ok"), { device: "cpu" });
    await rejects(session.run(feed(1), { signal: AbortSignal.abort() }), "aborted");
  });

  test("a body that breaks off is a typed error", async () => {
    const body = new ReadableStream({
      pull(controller) {
        controller.error(new TypeError("terminated"));
      },
    });
    await rejects(Session.load(new Response(body), { device: "cpu" }), "fetch-failed", /terminated/);
    const used = new Response("x");
    await used.text();
    await rejects(Session.load(used, { device: "cpu" }), "invalid-argument", /already read/);
  });

  test("web pages, missing files and error answers are told apart, with the URL", async () => {
    const server = createServer((request, response) => {
      if (request.url === "/page") response.writeHead(200, { "content-type": "text/html; charset=utf-8" });
      else if (request.url === "/disguised") response.writeHead(200, { "content-type": "application/octet-stream" });
      else if (request.url === "/lfs") response.writeHead(200);
      else response.writeHead(404);
      response.end(request.url === "/lfs" ? "version https://git-lfs.github.com/spec/v1\n" : "\n<!DOCTYPE html><p>no");
    });
    await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
    const origin = `http://127.0.0.1:${server.address().port}`;
    const load = (path) => Session.load(origin + path, { device: "cpu" });
    try {
      await rejects(load("/missing.onnx"), "fetch-failed", /127\.0\.0\.1.*\/missing\.onnx answered 404/);
      await rejects(load("/page"), "html-response", /\/page answered with a web page/);
      await rejects(load("/disguised"), "html-response", /\/disguised answered with a web page/);
      await rejects(load("/lfs"), "invalid-model", /Git LFS pointer/);
      await rejects(Session.load(new URL("/missing", origin), { device: "cpu" }), "fetch-failed", /404/);
      await rejects(Session.load(new Request(`${origin}/missing`), { device: "cpu" }), "fetch-failed", /404/);
      await rejects(Session.load(await fetch(`${origin}/page`), { device: "cpu" }), "html-response", /page/);
    } finally {
      server.close();
      server.closeAllConnections();
    }
    await rejects(load("/"), "fetch-failed", /cannot fetch/);
    await rejects(Session.load("/no/such/model.onnx"), "fetch-failed", /there is no file \/no\/such\/model\.onnx/);
    await rejects(Session.load("file:///no/such/model.onnx"), "fetch-failed", /no file/);
    await rejects(Session.load(fake.folder), "fetch-failed", /cannot read/);
  });

  test("tensor files pass through the core", async () => {
    const { name, tensor } = await fake.modelet.readTensor(new Uint8Array(3));
    assert.equal(name, "t");
    assert.equal(tensor.data[0], 3);
    assert.equal((await fake.modelet.writeTensor(tensor)).length, 1);
    assert.equal((await fake.modelet.readValue(new Uint8Array(4), "sequence(float32)")).value.data[0], 4);
    assert.equal(fake.log.readAs, "sequence(float32)");
    await rejects(fake.modelet.writeTensor([1]), "invalid-argument", /takes a Tensor/);
    await rejects(fake.modelet.readTensor("text"), "invalid-argument");
  });

  // Last, since these replace the instance.
  test("a core that traps ends in a typed error and is replaced on the next load", async () => {
    for (const kind of ["trap", "panic"]) {
      const bystander = await Session.load(text("ok"), { device: "cpu" });
      const session = await Session.load(text(kind), { device: "cpu" });
      const { instances } = fake.log;
      const calls = [session.run(feed(1)), session.run(feed(2)), bystander.run(feed(3))];
      const results = await Promise.allSettled(calls);
      await rejects(calls[0], "internal", kind === "trap" ? /out of bounds/ : /index out of bounds/);
      await rejects(calls[1], "internal");
      assert.ok(results.slice(0, 2).every(({ status }) => status === "rejected"));
      await rejects(bystander.run(feed(4)), "internal");
      session.release();
      bystander.release();
      const next = await Session.load(text("ok"), { device: "cpu" });
      assert.equal(fake.log.instances, instances + 1);
      assert.equal((await next.run(feed(4))).y.data[0], 8);
    }
    await rejects(Session.load(text("trap at load"), { device: "cpu" }), "internal", /unreachable/);
    await Session.load(text("ok"), { device: "cpu" });
  });
});

describe("loading the core", () => {
  test("a missing .wasm file is a typed error that names it, and a later try may succeed", async () => {
    const fake = await fakePackage({ wasm: false });
    const { Session, ModeletError } = fake.modelet;
    const load = () => Session.load(text("ok"), { device: "cpu" });
    const error = await rejectsWith(load, "wasm-unavailable", /modelet_\w+_bg\.wasm/, ModeletError);
    assert.equal(error.cause.code, "ENOENT");
    for (const name of ["simd", "relaxed"]) writeFileSync(join(fake.folder, `wasm/modelet_${name}_bg.wasm`), "x");
    assert.ok(await load());
    fake.remove();
  });

  test("wasmUrl names another folder", async () => {
    const fake = await fakePackage({ wasm: false });
    const { Session, ModeletError } = fake.modelet;
    const load = (wasmUrl) => Session.load(text("ok"), { device: "cpu", wasmUrl });
    const missing = pathToFileURL(join(fake.folder, "elsewhere"));
    await rejectsWith(load(missing), "wasm-unavailable", /elsewhere\/modelet_/, ModeletError);
    const { mkdirSync } = await import("node:fs");
    mkdirSync(join(fake.folder, "elsewhere"));
    for (const name of ["simd", "relaxed"])
      writeFileSync(join(fake.folder, `elsewhere/modelet_${name}_bg.wasm`), "four");
    assert.ok(await load(missing));
    assert.equal(fake.log.wasm, 4);
    fake.remove();
  });

  test("a model with rare operators moves to the build that has all, with its bytes and options", async () => {
    const fake = await fakePackage();
    const { Session } = fake.modelet;
    const stages = [];
    const options = {
      device: "cpu",
      externalData: { w: text("weights") },
      onProgress: ({ stage, loaded }) => stages.push(`${stage} ${loaded}`),
    };
    const session = await Session.load(text("rare external w 0-2 3-7"), options);
    assert.match(session.report().wasm, /, all operators$/);
    assert.deepEqual(fake.fullLog.loads, [{ text: "rare external w 0-2 3-7", expected: 23, pieces: 1 }]);
    assert.deepEqual(fake.fullLog.files, { w: { size: 7, 0: "we", 3: "ghts" } });
    assert.deepEqual([fake.log.bytesFreed, fake.fullLog.bytesFreed], [3, 3]);
    const download = ["download 23", "external-data 2", "external-data 6"];
    assert.deepEqual(stages, [...download, "parse 0", "parse 1", "operators 0", "operators 1", "parse 0", "parse 1"]);
    // From now on it serves all, so that no model is read twice.
    await Session.load(text("ok"), { device: "cpu" });
    assert.deepEqual([fake.log.loads.length, fake.fullLog.loads.length], [1, 2]);
    assert.equal(fake.log.instances, 2, "the memory of the first build is given back");
    fake.remove();
    const shared = await fakePackage();
    const before = await shared.modelet.Session.load(text("ok"), { device: "cpu" });
    await shared.modelet.Session.load(text("rare"), { device: "cpu" });
    assert.equal(shared.log.instances, 1, "but not while a session lives there");
    const x = new shared.modelet.Tensor("float32", [3, 0], [1, 2]);
    assert.equal((await before.run({ x })).y.data[0], 6);
    shared.remove();
  });

  test("the build with all operators is loaded at once on demand, and only then", async () => {
    const common = await fakePackage({ full: false });
    assert.ok(await common.modelet.Session.load(text("ok"), { device: "cpu" }));
    assert.equal(common.fullLog.instances, 0);
    common.remove();
    const all = await fakePackage();
    const load = (words) => all.modelet.Session.load(text(words), { device: "cpu", operators: "all" });
    assert.ok(await load("rare"));
    await rejectsWith(load("unsupported"), "unsupported-operator", /Bar/, all.modelet.ModeletError);
    assert.deepEqual([all.log.instances, all.fullLog.instances], [0, 1]);
    all.remove();
  });

  test("without the build that has all operators, the error still lists what is missing", async () => {
    const fake = await fakePackage({ full: false });
    const { Session, ModeletError } = fake.modelet;
    const load = () => Session.load(text("rare"), { device: "cpu" });
    const pattern = /one operator is not supported; .*all operators.*modelet_full_\w+_bg\.wasm/s;
    const error = await rejectsWith(load, "unsupported-operator", pattern, ModeletError);
    assert.deepEqual([error.details, error.operator, error.cause.code], [["Rare"], "Rare", "wasm-unavailable"]);
    assert.equal(fake.log.bytesFreed, 1);
    for (const name of ["simd", "relaxed"]) writeFileSync(join(fake.folder, `wasm/modelet_full_${name}_bg.wasm`), "x");
    assert.ok(await load());
    fake.remove();
  });

  test("wasmUrl serves both builds, given once", async () => {
    const fake = await fakePackage({ wasm: false });
    const { Session } = fake.modelet;
    const { mkdirSync } = await import("node:fs");
    const elsewhere = join(fake.folder, "elsewhere");
    mkdirSync(elsewhere);
    for (const name of ["simd", "relaxed", "full_simd", "full_relaxed"])
      writeFileSync(join(elsewhere, `modelet_${name}_bg.wasm`), name.startsWith("full") ? "longer" : "four");
    await Session.load(text("ok"), { device: "cpu", wasmUrl: pathToFileURL(elsewhere) });
    await Session.load(text("rare"), { device: "cpu" });
    assert.deepEqual([fake.log.wasm, fake.fullLog.wasm], [4, 6]);
    fake.remove();
  });

  test("a module that fails to instantiate is a typed error", async () => {
    const fake = await fakePackage({
      glue: `export const log = {}; export default () => { throw new WebAssembly.CompileError("bad magic"); }`,
    });
    const { Session, ModeletError } = fake.modelet;
    await rejectsWith(Session.load(text("ok"), { device: "cpu" }), "wasm-unavailable", /bad magic/, ModeletError);
    fake.remove();
  });

  test("WebAssembly without SIMD is a typed error", async () => {
    const fake = await fakePackage();
    const { Session, ModeletError } = fake.modelet;
    const { validate } = WebAssembly;
    WebAssembly.validate = () => false;
    try {
      await rejectsWith(Session.load(text("ok"), { device: "cpu" }), "unsupported-environment", /SIMD/, ModeletError);
    } finally {
      WebAssembly.validate = validate;
      fake.remove();
    }
  });

  test("the webgpu package is asked for by name when it is missing", async () => {
    // The copy lies outside of every node_modules, so the package cannot be found from there.
    const fake = await fakePackage();
    const { Session, ModeletError } = fake.modelet;
    const load = Session.load(text("ok"), { device: "webgpu" });
    await rejectsWith(load, "device", /npm install webgpu/, ModeletError);
    fake.remove();
  });
});
