// What appending a row to a cache of keys and values costs on WebGPU: milliseconds per step of an attention over caches
// that stay on the GPU, copied in each step, and consumed by it and so changed in place.
//
//   node benches/kv_cache.mjs [--heads N] [--room N] [--width N] [--steps N]
//
// In headless Chromium, on its software adapter; both ways in one page, in turns.

import { parseArgs } from "node:util";
import { startDemo } from "../tests/e2e/lib/browser.mjs";
import { cacheModel } from "../tests/ts/lib/onnx.mjs";

const text = (value) => ({ type: "string", default: value });
const options = { heads: text("8"), room: text("4096"), width: text("64"), steps: text("30") };
const { values } = parseArgs({ options });
const [heads, room, width, steps] = [values.heads, values.room, values.width, values.steps].map(Number);

const demo = await startDemo({ webgpu: true });
const page = await demo.open("script-tag.html");
const bytes = [...cacheModel(heads, room, width)];
const medians = await page.evaluate(
  async ({ bytes, heads, room, width, steps }) => {
    const { Session, Tensor } = await import("/pkg/index.js");
    const session = await Session.load(Uint8Array.from(bytes), { device: "webgpu", offload: "everything" });
    const tensor = (size) =>
      new Tensor("float32", new Float32Array(heads * size * width).fill(0.5), [1, heads, size, width]);
    const ints = (value) => new Tensor("int64", [BigInt(value)], [1]);
    const places = { keys: "gpu", values: "gpu" };
    const times = { copied: [], consumed: [] };
    const caches = { copied: [tensor(room), tensor(room)], consumed: [tensor(room), tensor(room)] };
    for (let step = 0; step < steps + 3; step++) {
      for (const way of ["copied", "consumed"]) {
        const [past_keys, past_values] = caches[way];
        const one = tensor(1);
        const feeds = { q: one, k: one, v: one, past_keys, past_values, place: ints(step), length: ints(step + 1) };
        const consume = way === "consumed" ? ["past_keys", "past_values"] : [];
        const started = performance.now();
        const { keys, values } = await session.run(feeds, { outputs: places, consume });
        // The first runs plan and compile.
        if (step >= 3) times[way].push(performance.now() - started);
        for (const cache of consume.length ? [] : caches[way]) cache.release?.();
        caches[way] = [keys, values];
      }
    }
    const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];
    return { copied: median(times.copied), consumed: median(times.consumed) };
  },
  { bytes, heads, room, width, steps },
);
await demo.close();
for (const [way, ms] of Object.entries(medians)) console.log(`${way}: ${ms.toFixed(2)} ms per step`);
