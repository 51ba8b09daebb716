// External data and .ort files through the built package: files that are longer than 32 bits can count, of which only
// what the model needs is read.

import assert from "node:assert/strict";
import {
  closeSync,
  createReadStream,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { readTensor, Session, Tensor } from "modelet";
import { rejectsWith } from "./lib/errors.mjs";
import { message, model, node, value } from "./lib/onnx.mjs";

const length = 5_000_000_000;

/** y = x + first + last, where the two stand at both ends of a file of 5 GB. */
const external = (entries = {}, more = []) => {
  const weight = (name, offset) => {
    const data = Object.entries({ location: "weights.bin", offset: String(offset), length: "12", ...entries });
    return message(
      [1, 3],
      [2, 1],
      [8, name],
      ...data.map(([key, text]) => [13, message([1, key], [2, text])]),
      [14, 1],
    );
  };
  return model(
    {
      nodes: [node("Sum", ["x", "first", "last"], ["y"]), ...more],
      inputs: [value("x", "float32", [3])],
      outputs: [value("y", "float32", [3])],
      initializers: [weight("first", 0), weight("last", length - 12)],
    },
    { domains: ["com.microsoft"] },
  );
};

describe("external data", () => {
  let folder;
  let weights;
  let server;
  const asked = [];
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "modelet-external-"));
    weights = join(folder, "weights.bin");
    const file = openSync(weights, "w");
    ftruncateSync(file, length);
    writeSync(file, new Float32Array([1, 2, 3]), 0, 12, 0);
    writeSync(file, new Float32Array([10, 20, 30]), 0, 12, length - 12);
    closeSync(file);
    writeFileSync(join(folder, "model.onnx"), external());
    server = createServer((request, response) => {
      const path = join(folder, basename(request.url));
      const { size } = statSync(path);
      const [range, first, last] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "") ?? [];
      asked.push(range);
      if (!range) return createReadStream(path).pipe(response);
      response.writeHead(206, { "content-range": `bytes ${first}-${last}/${size}` });
      createReadStream(path, { start: Number(first), end: Number(last) }).pipe(response);
    });
    await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  });
  after(() => {
    server.closeAllConnections();
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  async function check(source, options) {
    const session = await Session.load(source, { device: "cpu", ...options });
    const { y } = await session.run({ x: new Tensor("float32", [0.5, 0.25, 0.125], [3]) });
    assert.deepEqual([...y.data], [11.5, 22.25, 33.125]);
    assert.ok(session.report().memory.wasmBytes < 100e6, "only what is needed is held");
    session.release();
  }

  test("both ends of a file of 5 GB next to a model on disk are read", async () => {
    await check(join(folder, "model.onnx"));
    await check(pathToFileURL(join(folder, "model.onnx")));
    await check(external(), { externalData: { "weights.bin": weights } });
  });

  test("both ends of a blob of 5 GB are read", async () => {
    // What a page gets from a file input; the blobs of Node.js 20 count bytes in 32 bits.
    const file = openSync(weights, "r");
    const blob = {
      [Symbol.toStringTag]: "File",
      size: length,
      slice(start, end) {
        const bytes = new Uint8Array(end - start);
        readSync(file, bytes, 0, bytes.length, start);
        return new Blob([bytes]);
      },
    };
    await check(external(), { externalData: { "weights.bin": blob } });
    closeSync(file);
  });

  test("both ends of a file of 5 GB on a server are asked for", async () => {
    await check(`http://127.0.0.1:${server.address().port}/model.onnx`);
    assert.deepEqual(asked, [undefined, "bytes=0-11", `bytes=${length - 12}-${length - 1}`]);
  });

  test("a model that needs the build with all operators takes its external data there", async () => {
    const rare = node("QuickGelu", ["y"], ["z"], { domain: "com.microsoft" });
    await check(external({}, [rare]), { externalData: { "weights.bin": weights } });
  });

  test("what is missing or wrong is an error of the external data", async () => {
    const refused = (bytes, options, pattern) =>
      rejectsWith(Session.load(bytes, { device: "cpu", ...options }), "external-data", pattern);
    await refused(external(), {}, /weights.bin, which was not given/);
    const given = (file) => ({ externalData: { "weights.bin": file } });
    await refused(external(), given(new Uint8Array(100)), /too short/);
    for (const offset of ["18446744073709551615", "18446744073709551616", "-1", String(length - 11)]) {
      await refused(external({ offset }), given(weights), /external/);
    }
    await refused(external({ location: "../weights.bin" }), given(weights), /inside the model's folder/);
    const small = new Uint8Array(12);
    const checksum = "2c513f149e737ec4063fc1d37aee9beabc4b4bbf";
    await refused(external({ offset: "0", checksum: "00" }), given(small), /checksum/);
    const session = await Session.load(external({ offset: "0", checksum }), { device: "cpu", ...given(small) });
    session.release();
  });
});

describe("models of ONNX Runtime's format", () => {
  // The second has operators that only the build with all has.
  for (const name of ["mlp_unoptimized", "mlp"]) {
    test(`${name} runs`, async () => {
      const folder = fileURLToPath(new URL(`../data/ort/${name}/`, import.meta.url));
      const read = async (file) => (await readTensor(readFileSync(join(folder, "test_data_set_0", file)))).tensor;
      const session = await Session.load(join(folder, "model.ort"), { device: "cpu" });
      const { y } = await session.run({ x: await read("input_0.pb") });
      const expected = await read("output_0.pb");
      for (const [at, number] of expected.data.entries()) assert.ok(Math.abs(y.data[at] - number) < 1e-5);
      session.release();
    });
  }
});
