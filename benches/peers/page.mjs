// The part of the peers' benchmark that runs in a page: loads every engine, then runs them in turns.
import { Session, Tensor } from "/pkg/index.js";

async function own(id, input, shape, values) {
  const bytes = new Uint8Array(await (await fetch(`/network/${id}`)).arrayBuffer());
  // The engine itself is there before, as the peers' modules are.
  await Session.load(bytes, { device: "cpu", threads: 1 }).then((session) => session.release());
  let start = performance.now();
  const session = await Session.load(bytes, { device: "cpu", threads: 1 });
  const load = performance.now() - start;
  const feeds = { [input]: new Tensor("float32", values, shape) };
  start = performance.now();
  const outputs = await session.run(feeds);
  const first = performance.now() - start;
  return { load, first, output: [...Object.values(outputs)[0].data], run: () => session.run(feeds) };
}

async function peer(engine, id, shape, values) {
  const bytes = new Uint8Array(await (await fetch(`/network/${id}`)).arrayBuffer());
  const module = await WebAssembly.compileStreaming(fetch(`/peer/${engine}`));
  // A module made for a page imports nothing that matters here; what it names would be told by a failing call.
  const imports = {};
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    if (kind !== "function") continue;
    imports[from] ??= {};
    imports[from][name] = () => {
      throw new Error(`${engine} calls ${from}.${name}`);
    };
  }
  const { exports: wasm } = await WebAssembly.instantiate(module, imports);
  const place = (array) => {
    const address = wasm.allocate(array.byteLength);
    new Uint8Array(wasm.memory.buffer).set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), address);
    return address;
  };
  const check = (done) => {
    if (done) return;
    const text = new Uint8Array(wasm.memory.buffer, wasm.error(), wasm.error_len());
    throw new Error(new TextDecoder().decode(text));
  };
  const [model, sizes, input] = [place(bytes), place(Uint32Array.from(shape)), place(values)];
  let start = performance.now();
  check(wasm.load(model, bytes.length, sizes, shape.length));
  const load = performance.now() - start;
  const run = () => check(wasm.run(input, values.length));
  start = performance.now();
  run();
  const first = performance.now() - start;
  const output = [...new Float32Array(wasm.memory.buffer, wasm.output(), wasm.output_len())];
  return { load, first, output, run };
}

/** `{ load, first, output, times }` of each engine by name, or its `error`. */
export async function measure({ id, input, shape, values: list, engines, millis }) {
  const values = Float32Array.from(list);
  const all = { modelet: await own(id, input, shape, values) };
  for (const name of engines) {
    all[name] = await peer(name, id, shape, values).catch((error) => ({ error: String(error) }));
  }
  const running = Object.values(all).filter(({ run }) => run);
  for (const engine of running) {
    engine.times = [];
    // Short runs are timed several at once, as the clock counts in 5 µs.
    const start = performance.now();
    for (let runs = 0; runs < 3; runs++) await engine.run();
    engine.repeat = Math.ceil(Math.min(3 / Math.max(performance.now() - start, 0.01), 200));
  }
  const begun = performance.now();
  while (running[0].times.length < 3 || performance.now() - begun < millis) {
    for (const engine of running) {
      const start = performance.now();
      for (let runs = 0; runs < engine.repeat; runs++) await engine.run();
      engine.times.push((performance.now() - start) / engine.repeat);
    }
  }
  return Object.fromEntries(Object.entries(all).map(([name, { run, repeat, ...rest }]) => [name, rest]));
}
