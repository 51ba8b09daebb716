// A copy of the built package whose WebAssembly core is a stand-in written here, for what only the TypeScript side
// decides: queues, progress, errors on the way in, and what happens when the core dies.

import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const pkg = fileURLToPath(new URL("../../../pkg/", import.meta.url));

// The model of the stand-in is a text: what its first word says, happens.
const glue = `
import { setTimeout as sleep } from "node:timers/promises";
export const log = { instances: 0, loads: [], runs: [], freed: 0, bytesFreed: 0, options: [] };
const full = import.meta.url.endsWith("full");
let instance = 0;
let panicked = () => {};
export default async function init({ module_or_path }) {
  log.wasm = (await module_or_path).length;
  log.instances++;
}
export function __wbg_reset_state() { instance++; log.instances++; }
export function setPanicHandler(handler) { panicked = handler; }
export class ModelBytes {
  constructor(expected) { this.expected = expected; this.text = ""; this.chunks = 0; }
  append(chunk) { this.text += new TextDecoder().decode(chunk); this.chunks++; }
  get length() { return this.text.length; }
  chunk(start, length) { return new TextEncoder().encode(this.text.slice(start, start + length)); }
  pieces() { return []; }
  addPiece() {}
  // A text may name the ranges of files that it needs: "external weights.bin 0-4 100-104".
  externalFiles() {
    return [...this.text.matchAll(/external (\\S+)((?: \\d+-(?:\\d+|end))+)/g)].map(([, location, ranges]) => ({
      location,
      ranges: ranges.trim().split(" ").map((range) => range.split("-").map((at) => (at === "end" ? 2 ** 64 : Number(at)))),
    }));
  }
  attachFile(location, size) { (this.files ??= {})[location] = { size }; }
  attachPart(location, offset, part) {
    if (part.freed) throw new Error("a part was freed before its model took it");
    this.files[location][offset] = part.text;
  }
  free() { log.bytesFreed++; this.freed = true; }
}
export class CoreSession {
  static async load(bytes, options, onProgress) {
    log.loads.push({ text: bytes.text, expected: bytes.expected, pieces: bytes.chunks });
    log.options.push(options);
    log.files = bytes.files;
    onProgress?.("parse", 0, 1);
    onProgress?.("parse", 1, 1);
    if (bytes.text === "unsupported") {
      throw { code: "unsupported-operator", message: "two operators are not supported", details: ["Foo", "Bar"] };
    }
    if (bytes.text.startsWith("rare") && !full) {
      throw { code: "unsupported-operator", message: "one operator is not supported", operator: "Rare", details: ["Rare"] };
    }
    if (bytes.text === "trap at load") throw new WebAssembly.RuntimeError("unreachable");
    const session = new CoreSession();
    session.text = bytes.text;
    session.instance = instance;
    return session;
  }
  inputs() {
    // A text that is a type makes a model that gives back what it is fed.
    return [{ name: "x", type: this.text.includes("(") ? this.text : "float32", shape: this.text.includes("(") ? [] : ["n", 2] }];
  }
  outputs() { return [{ name: "y", type: "float32", shape: ["n", 2] }]; }
  async run(feeds, fetches) {
    if (this.instance !== instance) throw new Error("a session of a dead instance was called");
    if (this.text.includes("(")) {
      log.values = feeds;
      return [{ ...feeds[0], name: "y" }];
    }
    log.runs.push({ begun: feeds[0].data[0], fetches });
    if (this.text === "trap") throw new WebAssembly.RuntimeError("memory access out of bounds");
    if (this.text === "panic") {
      // Like a panic in a task: the promise never settles.
      queueMicrotask(() => panicked("index out of bounds"));
      return new Promise(() => {});
    }
    if (this.text === "fail") throw { code: "run-failed", message: "division by zero", node: "n1", operator: "Div" };
    await sleep(5);
    log.runs.push({ ended: feeds[0].data[0] });
    return [{ name: "y", type: "float32", shape: feeds[0].shape, data: feeds[0].data.map((v) => v * 2) }];
  }
  report() { return { device: "cpu", threads: 1, timings: {}, warnings: [] }; }
  inspect(stage, json) { return stage + json; }
  free() { log.freed++; }
}
export function readValue(bytes, type) {
  log.readAs = type;
  return { name: "t", type: "float32", shape: [1], data: new Float32Array([bytes.length]) };
}
export function writeTensor(tensor) { return new Uint8Array(tensor.data.length); }
export function version() { return "0"; }
`;

/**
 * Makes the copy and imports it.
 * @param {{ wasm?: boolean, full?: boolean, glue?: string }} options `wasm: false` leaves the .wasm files out, and
 *   `full: false` those of the builds with all operators
 */
export async function fakePackage({ wasm = true, full = wasm, glue: source = glue } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "modelet-fake-"));
  mkdirSync(join(folder, "wasm"));
  writeFileSync(join(folder, "package.json"), '{"type":"module"}');
  copyFileSync(join(pkg, "index.js"), join(folder, "index.js"));
  for (const name of ["simd", "relaxed", "full_simd", "full_relaxed"].map((build) => `modelet_${build}`)) {
    const isFull = name.includes("full");
    const module = JSON.stringify(isFull ? "./glue.js?full" : "./glue.js");
    writeFileSync(join(folder, "wasm", `${name}.js`), `export * from ${module};\nexport { default } from ${module};\n`);
    if (isFull ? full : wasm) writeFileSync(join(folder, "wasm", `${name}_bg.wasm`), "wasm");
  }
  writeFileSync(join(folder, "wasm/glue.js"), source);
  const at = (file) => pathToFileURL(join(folder, file)).href;
  return {
    folder,
    modelet: await import(at("index.js")),
    log: (await import(at("wasm/glue.js"))).log,
    /** The log of the stand-in that has all operators. */
    fullLog: (await import(`${at("wasm/glue.js")}?full`)).log,
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
