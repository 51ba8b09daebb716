// The command line: its exit codes, its JSON, and what it says about mistakes.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Tensor, writeTensor } from "modelet";
import { internal } from "./lib/internals.mjs";
import { addModel, message, model, node, value, weights, zipMapModel } from "./lib/onnx.mjs";

const cli = fileURLToPath(new URL("../../pkg/cli.js", import.meta.url));
const { readNpz, writeNpz } = await internal("cli/npz.ts");

/** Runs the command line and gives its exit code and what it wrote. */
function modelet(...args) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [cli, ...args], { env: { ...process.env, NO_COLOR: "1" } });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (text) => {
      stdout += text;
    });
    child.stderr.on("data", (text) => {
      stderr += text;
    });
    child.on("close", (code) => resolve({ code, stdout, stderr, lines: stdout.split("\n").filter(Boolean) }));
  });
}

const json = ({ lines }) => lines.map((line) => JSON.parse(line));
const tensor = (values) => new Tensor("float32", values, [1, 3]);

describe("the command line", () => {
  let folder;
  const at = (...parts) => join(folder, ...parts);

  /** A case folder of the sum of two tensors; each set is [a, b, expected y, name of y]. */
  async function addCase(id, sets, bytes = addModel) {
    mkdirSync(at("cases", id), { recursive: true });
    writeFileSync(at("cases", id, "model.onnx"), bytes);
    for (const [i, [a, b, y, name = "y"]] of sets.entries()) {
      const set = at("cases", id, `test_data_set_${i}`);
      mkdirSync(set, { recursive: true });
      writeFileSync(join(set, "input_0.pb"), await writeTensor(tensor(a), "a"));
      writeFileSync(join(set, "input_1.pb"), await writeTensor(tensor(b), ""));
      writeFileSync(join(set, "output_0.pb"), await writeTensor(tensor(y), name));
    }
  }

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "modelet-cli-"));
    writeFileSync(at("add.onnx"), addModel);
    const nan = Number.NaN;
    await addCase("good", [
      [
        [1, 2, 3],
        [1, 1, 1],
        [2, 3, 4],
      ],
      [[nan, 2, 3], [1, 1, 1], [nan, 3, 4], "another name"],
    ]);
    await addCase("wrong", [
      [
        [1, 2, 3],
        [1, 1, 1],
        [2, 3.5, 4],
      ],
      [
        [1, 2, 3],
        [1, 1, 1],
        [2, 3.0005, 4],
      ],
    ]);
    await addCase(
      "broken",
      [
        [
          [1, 2, 3],
          [1, 1, 1],
          [2, 3, 4],
        ],
      ],
      model({
        nodes: [node("Mystery", ["a", "b"], ["y"])],
        inputs: [value("a", "float32", [1, 3]), value("b", "float32", [1, 3])],
        outputs: [value("y", "float32", [1, 3])],
      }),
    );
    mkdirSync(at("cases", "deeper", "framework"), { recursive: true });
    writeFileSync(at("cases", "deeper", "framework", "model.onnx"), addModel);
    const arrays = {
      "in/a": tensor([1, 2, 3]),
      "in/x": tensor([4, 5, 6]),
      "native/predict": tensor([5, 7, 9]),
      "native/other": tensor([0, 0, 0]),
    };
    writeFileSync(at("cases", "deeper", "framework", "io.npz"), writeNpz(Object.entries(arrays)));
    writeFileSync(
      at("feeds.npz"),
      writeNpz([
        ["a", tensor([1, 2, 3])],
        ["b", tensor([10, 20, 30])],
      ]),
    );
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test("help and version", async () => {
    for (const args of [["--help"], ["-h"], ["help"], ["verify", "--help"], ["run", "-h"]]) {
      const { code, stdout } = await modelet(...args);
      assert.equal(code, 0);
      assert.match(stdout, /usage: modelet/);
    }
    const { version } = JSON.parse(readFileSync(new URL("../../pkg/package.json", import.meta.url)));
    assert.equal((await modelet("--version")).stdout, `${version}\n`);
  });

  test("mistakes end with 2 and a sentence on stderr", async () => {
    const mistakes = [
      [[], /usage/],
      [["frobnicate"], /no command frobnicate/],
      [["verify"], /one folder or more/],
      [["verify", at("nowhere")], /not a folder/],
      [["verify", at("cases"), "--rtol", "much"], /--rtol takes a number/],
      [["verify", at("cases"), "--device", "gpu"], /--device is one of/],
      [["verify", at("cases"), "--colour"], /--colour/],
      [["run", at("add.onnx")], /--inputs/],
      [["run", at("nowhere.onnx"), "--inputs", at("feeds.npz")], /no file .*nowhere/],
      [["run", at("add.onnx"), "--inputs", at("nowhere.npz")], /there is no .*nowhere/],
      [["run", at("add.onnx"), "--inputs", at("add.onnx")], /not a readable \.npz/],
      [["run", at("feeds.npz"), "--inputs", at("feeds.npz")], /error \[invalid-model\]/],
      [["inspect"], /one model/],
      [["inspect", at("add.onnx"), "--stage", "soul"], /--stage is one of/],
      [["bench", at("add.onnx"), "--runs", "0"], /--runs takes a number from 1/],
      [["bench", at("add.onnx"), "--vs", "abacus"], /--vs is one of onnxruntime-web/],
      [["bench", at("add.onnx"), "--dim", "batch"], /--dim takes NAME=SIZE/],
    ];
    for (const [args, pattern] of mistakes) {
      const { code, stdout, stderr } = await modelet(...args);
      assert.equal(code, 2, `${args}: ${stderr}`);
      assert.match(stderr, pattern);
      assert.equal(stdout, "");
    }
  });

  test("inspect shows the interface and every stage, as text and JSON", async () => {
    const { code, stdout } = await modelet("inspect", at("add.onnx"));
    assert.equal(code, 0);
    assert.match(stdout, /a +float32 +\[batch, 3\]/);
    assert.match(stdout, /Add/);
    const [summary] = json(await modelet("inspect", at("add.onnx"), "--json"));
    assert.deepEqual(summary.inputs[0], { name: "a", type: "float32", shape: ["batch", 3] });
    for (const stage of ["graph", "optimized", "program"]) {
      const text = await modelet("inspect", at("add.onnx"), "--stage", stage);
      assert.equal(text.code, 0, text.stderr);
      assert.ok(text.stdout.length > 10, stage);
      const data = await modelet("inspect", at("add.onnx"), "--stage", stage, "--json");
      assert.equal(data.code, 0, data.stderr);
      assert.equal(typeof JSON.parse(data.stdout), "object");
    }
  });

  test("run reads npz files and folders, and writes npz files", async () => {
    const plain = await modelet("run", at("add.onnx"), "--inputs", at("feeds.npz"), "--device", "cpu");
    assert.equal(plain.code, 0, plain.stderr);
    assert.match(plain.stdout, /y +float32 +\[1, 3\] +11 22 33/);
    const saved = await modelet("run", at("add.onnx"), "--inputs", at("feeds.npz"), "--outputs", at("out.npz"));
    assert.equal(saved.code, 0, saved.stderr);
    assert.deepEqual([...readNpz(readFileSync(at("out.npz"))).get("y").data], [11, 22, 33]);
    const set = at("cases", "good", "test_data_set_1");
    const [output] = json(await modelet("run", at("add.onnx"), "--inputs", set, "--json"));
    assert.deepEqual(output, { name: "y", type: "float32", shape: [1, 3], data: ["NaN", 3, 4] });
    writeFileSync(
      at("misnamed.npz"),
      writeNpz([
        ["a", tensor([1, 2, 3])],
        ["bee", tensor([1, 2, 3])],
      ]),
    );
    const misnamed = await modelet("run", at("add.onnx"), "--inputs", at("misnamed.npz"));
    assert.equal(misnamed.code, 2);
    assert.match(misnamed.stderr, /error \[(unknown-name|missing-input)\]/);
  });

  const expected = [
    ["broken", "test_data_set_0", "error", /unsupported-operator.*Mystery/s],
    ["deeper/framework", "io.npz", "pass", /^$/],
    ["good", "test_data_set_0", "pass", /^$/],
    ["good", "test_data_set_1", "pass", /^$/],
    ["wrong", "test_data_set_0", "fail", /^y\[0, 1\] is 3, expected 3.5 \(1 of 3 differ\)$/],
    ["wrong", "test_data_set_1", "pass", /^$/],
  ];

  for (const where of [[], ["--browser"]]) {
    test(`verify finds cases, and says what passes, fails and breaks ${where}`, async () => {
      const { code, lines, stderr } = await modelet("verify", at("cases"), "--json", ...where);
      assert.equal(code, 1, stderr);
      const outcomes = lines.map((line) => JSON.parse(line));
      assert.deepEqual(
        outcomes.map(({ id, set, status }) => [id, set, status]),
        expected.map((row) => row.slice(0, 3)),
      );
      for (const [i, outcome] of outcomes.entries()) {
        assert.deepEqual(Object.keys(outcome), ["id", "set", "status", "max_abs", "max_rel", "message"]);
        assert.match(outcome.message, expected[i][3]);
      }
      assert.ok(Math.abs(outcomes[4].max_abs - 0.5) < 1e-6);
      assert.ok(Math.abs(outcomes[4].max_rel - 0.5 / 3.5) < 1e-6);
      assert.equal(outcomes[0].max_abs, null);
    });
  }

  test("verify ends with 0 when everything passes, and with 1 under tighter tolerances", async () => {
    const good = await modelet("verify", at("cases", "good"));
    assert.equal(good.code, 0, good.stderr);
    assert.match(good.stdout, /2 passed, 0 failed, 0 ended in an error/);
    const [first] = json(await modelet("verify", at("cases", "good"), "--json"));
    assert.equal(first.id, "good");
    const loose = await modelet("verify", at("cases", "wrong"), "--atol", "1");
    assert.equal(loose.code, 0, loose.stdout);
    const tight = await modelet("verify", at("cases", "wrong"), "--rtol", "0", "--atol", "1e-5", "--json");
    assert.deepEqual(
      json(tight).map(({ status }) => status),
      ["fail", "fail"],
    );
    assert.equal(tight.code, 1);
  });

  for (const where of [[], ["--browser"]]) {
    test(`what a rounding model moves by itself is no failure, and what lies further away is one ${where}`, async () => {
      // y = x + dequantize(quantize(x - 1/2)) / 10, at whole numbers: a step of 0.1 hangs on the last bit (ties go to even).
      const rounding = [
        node("QuantizeLinear", ["lower", "one"], ["q"]),
        node("DequantizeLinear", ["q", "one"], ["whole"]),
      ];
      // The same with floor(x), which is meant to step.
      const stepping = [node("Floor", ["x"], ["whole"])];
      const steps = (nodes) =>
        model({
          nodes: [
            node("Sub", ["x", "half"], ["lower"]),
            ...nodes,
            node("Mul", ["whole", "tenth"], ["t"]),
            node("Add", ["x", "t"], ["y"]),
          ],
          inputs: [value("x", "float32", [1, 3])],
          outputs: [value("y", "float32", [1, 3])],
          initializers: [weights("tenth", [], [0.1]), weights("half", [], [0.5]), weights("one", [], [1])],
        });
      mkdirSync(at("steps"), { recursive: true });
      writeFileSync(at("steps", "model.onnx"), steps(rounding));
      const references = [
        [1.0, 2.2, 3.2],
        [1.0, 2.1, 3.2],
        [1.0, 1.3, 3.2],
      ];
      for (const [i, reference] of references.entries()) {
        const set = at("steps", `test_data_set_${i}`);
        mkdirSync(set, { recursive: true });
        writeFileSync(join(set, "input_0.pb"), await writeTensor(tensor([1, 2, 3]), "x"));
        writeFileSync(join(set, "output_0.pb"), await writeTensor(tensor(reference), "y"));
      }
      const result = await modelet("verify", at("steps"), "--json", ...where);
      assert.deepEqual(
        json(result).map(({ status }) => status),
        ["pass", "unstable", "fail"],
      );
      assert.match(json(result)[1].message, /^y differs by up to 1\.00e-1, and moves by up to 1\.00e-1 when/);
      rmSync(at("steps", "test_data_set_2"), { recursive: true });
      const plain = await modelet("verify", at("steps"), ...where);
      assert.equal(plain.code, 0, plain.stdout);
      assert.match(plain.stdout, /1 passed, 1 unstable, 0 failed, 0 ended in an error/);
      const strict = await modelet("verify", at("steps"), "--strict", "--json", ...where);
      writeFileSync(at("steps", "model.onnx"), steps(stepping));
      const floors = await modelet("verify", at("steps"), "--json", ...where);
      for (const refused of [strict, floors]) {
        assert.equal(refused.code, 1);
        assert.ok(json(refused).some(({ status }) => status === "fail"));
      }
    });
  }

  test("a model finds its external data next to it, and nowhere else", async () => {
    const external = (location) =>
      model({
        nodes: [node("Add", ["a", "w"], ["y"])],
        inputs: [value("a", "float32", [1, 3])],
        outputs: [value("y", "float32", [1, 3])],
        initializers: [message([1, 3], [2, 1], [8, "w"], [13, message([1, "location"], [2, location])], [14, 1])],
      });
    writeFileSync(at("weights.bin"), Buffer.from(new Float32Array([5, 6, 7]).buffer));
    mkdirSync(at("sub"));
    writeFileSync(at("external.onnx"), external("weights.bin"));
    writeFileSync(at("sub", "escape.onnx"), external("../weights.bin"));
    writeFileSync(at("a.npz"), writeNpz([["a", tensor([1, 1, 1])]]));
    const found = await modelet("run", at("external.onnx"), "--inputs", at("a.npz"));
    assert.equal(found.code, 0, found.stderr);
    assert.match(found.stdout, /6 7 8/);
    const outside = await modelet("run", at("sub", "escape.onnx"), "--inputs", at("a.npz"));
    assert.equal(outside.code, 2);
    assert.match(outside.stderr, /error \[external-data\]/);
  });

  describe("values that are no tensors", () => {
    const list = (...tensors) => message([1, "list"], [2, 1], ...tensors.map((bytes) => [3, bytes]));
    const pb = (values, name) => writeTensor(tensor(values), name);

    before(async () => {
      // The sequence with its first element once more, and what the optional holds.
      const listModel = model(
        {
          nodes: [
            node("SequenceAt", ["items", "zero"], ["first"]),
            node("SequenceInsert", ["items", "first"], ["longer"]),
            node("Identity", ["maybe"], ["same"]),
          ],
          inputs: [
            value("items", "sequence(float32)"),
            value("zero", "int64", []),
            value("maybe", "optional(float32)"),
          ],
          outputs: [value("longer", "sequence(float32)"), value("same", "optional(float32)")],
        },
        { opset: 18 },
      );
      const [a, b, zero] = [
        await pb([1, 2, 3]),
        await pb([4, 5, 6]),
        await writeTensor(new Tensor("int64", [0n], []), "zero"),
      ];
      const write = (set, files) => {
        mkdirSync(set, { recursive: true });
        for (const [name, bytes] of Object.entries(files)) writeFileSync(join(set, name), bytes);
      };
      const folder = at("values", "list");
      write(join(folder, "test_data_set_0"), {
        "input_0.pb": list(a, b),
        "input_1.pb": zero,
        "input_2.pb": message([1, "maybe"]),
        "output_0.pb": list(a, b, a),
        "output_1.pb": message([1, "same"]),
      });
      write(join(folder, "test_data_set_1"), {
        "input_0.pb": list(b),
        "input_1.pb": zero,
        "input_2.pb": message([1, "maybe"], [2, 1], [3, a]),
        "output_0.pb": list(b, a),
        "output_1.pb": message([1, "same"], [2, 1], [3, a]),
      });
      writeFileSync(join(folder, "model.onnx"), listModel);
      const scalar = (number) => writeTensor(new Tensor("float32", [number], []));
      const numbers = await Promise.all([0.5, 0.25, 0.125].map(scalar));
      const values = message([2, 1], ...numbers.map((bytes) => [3, bytes]));
      const map = message([2, 8], ...["no", "maybe", "yes"].map((key) => [4, key]), [5, values]);
      write(at("values", "maps", "test_data_set_0"), {
        "input_0.pb": await pb([0.5, 0.25, 0.125], "x"),
        "output_0.pb": message([1, "maps"], [2, 4], [6, map]),
      });
      writeFileSync(at("values", "maps", "model.onnx"), zipMapModel(["no", "maybe", "yes"]));
    });

    for (const where of [[], ["--browser"]]) {
      test(`are verified element by element ${where}`, async () => {
        const result = await modelet("verify", at("values"), "--json", ...where);
        assert.deepEqual(
          json(result).map(({ id, set, status, message }) => [id, set, status, message]),
          [
            ["list", "test_data_set_0", "pass", ""],
            ["list", "test_data_set_1", "fail", "longer[1][0, 0] is 4, expected 1 (3 of 3 differ)"],
            ["maps", "test_data_set_0", "pass", ""],
          ],
          result.stderr,
        );
        assert.equal(result.code, 1);
      });
    }

    test("are printed, and refused where a file holds tensors only", async () => {
      const set = at("values", "list", "test_data_set_0");
      const args = ["run", at("values", "list", "model.onnx"), "--inputs", set];
      const plain = await modelet(...args);
      assert.match(plain.stdout, /longer +sequence +3 elements\nlonger\[0\] +float32 +\[1, 3\] +1 2 3\n/);
      assert.match(plain.stdout, /same +optional +\(nothing\)/);
      const [longer, same] = json(await modelet(...args, "--json"));
      assert.equal(longer.type, "sequence(float32)");
      assert.deepEqual(longer.value[1], { type: "float32", shape: [1, 3], data: [4, 5, 6] });
      assert.deepEqual(same, { name: "same", type: "optional(float32)", value: null });
      const saved = await modelet(...args, "--outputs", at("values.npz"));
      assert.equal(saved.code, 2);
      assert.match(saved.stderr, /holds tensors only, and the output longer is of type sequence\(float32\)/);

      const feeds = at("values", "maps", "test_data_set_0");
      const maps = ["run", at("values", "maps", "model.onnx"), "--inputs", feeds];
      assert.match((await modelet(...maps)).stdout, /maps\[0\] +map +no: 0.5, maybe: 0.25, yes: 0.125/);
      assert.deepEqual(json(await modelet(...maps, "--json"))[0].value, [{ no: 0.5, maybe: 0.25, yes: 0.125 }]);
      const made = await modelet("bench", at("values", "list", "model.onnx"), "--runs", "1");
      assert.equal(made.code, 1);
      assert.match(made.stderr, /items is of type sequence\(float32\): take a case folder/);
    });
  });

  test("a reader that closes the pipe early is no failure", async () => {
    const child = spawn("bash", [
      "-c",
      `"${process.execPath}" "${cli}" verify "${at("cases")}" --json | head -n 1; exit \${PIPESTATUS[0]}`,
    ]);
    let stderr = "";
    child.stderr.on("data", (text) => {
      stderr += text;
    });
    const code = await new Promise((resolve) => child.on("close", resolve));
    assert.ok(code === 0 || code === 1, `exit code ${code}: ${stderr}`);
    assert.doesNotMatch(stderr, /EPIPE/);
  });

  for (const where of [[], ["--browser"]]) {
    test(`bench measures both engines in turns and prints their ratio ${where}`, async () => {
      const args = ["bench", at("add.onnx"), at("cases", "good"), "--runs", "3", "--dim", "batch=4", "--json"];
      const result = await modelet(...args, "--vs", "onnxruntime-web", ...where);
      assert.equal(result.code, 0, result.stderr);
      const rows = json(result);
      assert.deepEqual(
        rows.map(({ id, engine }) => [id, engine]),
        [
          ["add", "modelet"],
          ["add", "onnxruntime-web"],
          ["add", undefined],
          ["good", "modelet"],
          ["good", "onnxruntime-web"],
          ["good", undefined],
        ],
      );
      const fields = [
        "id",
        "engine",
        "device",
        "threads",
        "runs",
        "load_ms",
        "first_ms",
        "min_ms",
        "median_ms",
        "peak_bytes",
      ];
      for (const row of rows.filter(({ engine }) => engine)) {
        assert.deepEqual(Object.keys(row), fields);
        assert.ok(row.load_ms > 0 && row.first_ms > 0 && row.min_ms <= row.median_ms, JSON.stringify(row));
        assert.ok(row.peak_bytes > 65536, JSON.stringify(row));
        assert.equal(row.device, "cpu");
      }
      for (const { ratio } of rows.filter(({ engine }) => !engine)) {
        assert.equal(ratio.of, "onnxruntime-web/modelet");
        assert.ok(ratio.median_ms > 0 && ratio.peak_bytes > 0);
      }
    });
  }
});
