// The package as others take it: its files, its size, and how bundlers see it.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { gzippedLength } from "../../scripts/lib/size.mjs";

const pkg = fileURLToPath(new URL("../../pkg/", import.meta.url));
const read = (file) => readFileSync(join(pkg, file), "utf8");

test("the JavaScript of the API stays small", () => {
  const size = gzippedLength(read("index.js"));
  assert.ok(size < 21_500, `index.js is ${size} bytes gzipped`);
});

test("every file that the manifest names is there", () => {
  const manifest = JSON.parse(read("package.json"));
  const named = [manifest.main, manifest.types, manifest.unpkg, ...Object.values(manifest.bin)];
  const targets = Object.values(manifest.exports).flatMap((entry) =>
    typeof entry === "string" ? entry : Object.values(entry),
  );
  for (const file of [...named, ...targets].filter((path) => !path.includes("*"))) {
    assert.ok(existsSync(join(pkg, file)), `${file} is missing`);
  }
});

test("nothing evaluates text as code, or makes blob: URLs", () => {
  const builds = ["simd", "relaxed", "full_simd", "full_relaxed"].map((name) => `wasm/modelet_${name}.js`);
  for (const file of ["index.js", "modelet.global.js", "worker.js", ...builds]) {
    assert.doesNotMatch(read(file), /\beval\(|new Function|createObjectURL/, file);
  }
});

test("bundlers for the web take it without Node's modules, and leave out what is not used", async () => {
  const folder = mkdtempSync(join(tmpdir(), "modelet-bundle-"));
  try {
    const bundle = async (contents) => {
      const result = await build({
        stdin: { contents, resolveDir: fileURLToPath(new URL(".", import.meta.url)) },
        outdir: folder,
        bundle: true,
        splitting: true,
        minify: true,
        format: "esm",
        platform: "browser",
        target: "es2022",
        write: false,
        logLevel: "silent",
      });
      assert.deepEqual(result.warnings, []);
      return result.outputFiles;
    };
    const all = await bundle('import { Session } from "modelet"; console.log(Session);');
    for (const build of ["modelet_simd", "modelet_full_simd"]) {
      assert.ok(
        all.some(({ path }) => path.includes(build)),
        "the glue of each build is a chunk of its own",
      );
    }
    // Chunks that nothing asks for are written all the same, in no promised order.
    const files = await bundle('import { Tensor } from "modelet"; console.log(Tensor);');
    const tensor = files.find(({ path }) => path.endsWith("stdin.js"));
    assert.doesNotMatch(tensor.text, /WebAssembly/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("the declarations serve strict programs, with and without the DOM's types", () => {
  const folder = mkdtempSync(join(tmpdir(), "modelet-types-"));
  const modules = fileURLToPath(new URL("../../node_modules/", import.meta.url));
  try {
    mkdirSync(join(folder, "node_modules"));
    symlinkSync(pkg, join(folder, "node_modules/modelet"));
    symlinkSync(join(modules, "@types"), join(folder, "node_modules/@types"));
    writeFileSync(join(folder, "package.json"), '{"type":"module"}');
    writeFileSync(
      join(folder, "program.ts"),
      `import { Session, Tensor } from "modelet";
      using session = await Session.load("x.onnx", { device: "cpu" });
      const { y } = await session.run({ x: Tensor.from([1]) });
      console.log(y?.toFloat64());`,
    );
    for (const lib of ["es2022,esnext.disposable", "es2022,dom"]) {
      const options = [
        "--noEmit",
        "--strict",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        lib,
        "--types",
        "node",
      ];
      const tsc = join(modules, ".bin/tsc");
      const { status, stdout } = spawnSync(tsc, [...options, "program.ts"], { cwd: folder, encoding: "utf8" });
      assert.equal(status, 0, `with ${lib}:\n${stdout}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
