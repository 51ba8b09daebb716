// Measures the kernels in an instantiated module, beside the multiply-add roof and, if asked for, beside
// onnxruntime-web, in alternating rounds of one run. Works in Node.js and in a page.
import { convolutions, lines, poolings, products, responses } from "./cases.mjs";
import { convModel } from "./onnx_conv.mjs";

const ROUNDS = 40;

// Where the processor time of the process can be read, other programs on the machine disturb less.
const clock = globalThis.process?.cpuUsage
  ? () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1000;
    }
  : () => performance.now();

/**
 * @param {Uint8Array} bytes the micro-benchmarks' module
 * @param {string} only a part of the names of the cases to run
 * @param {object} [ort] onnxruntime-web, to run the convolutions with as well
 * @returns the roof in GFLOP/s, and per case its rate in GFLOP/s and onnxruntime-web's
 */
export async function measure(bytes, only, ort) {
  const { instance } = await WebAssembly.instantiate(bytes, {});
  const wasm = instance.exports;
  const roof = prepare(wasm, wasm.bench_roof());
  let top = 0;
  const rows = [];
  for (const { text, make, shape } of list(wasm)) {
    if (!text.includes(only) || (ort && !shape)) continue;
    const bench = prepare(wasm, make());
    const other = ort && (await prepareOrt(ort, shape, bench.flops));
    let [rate, otherRate] = [0, 0];
    for (let round = 0; round < ROUNDS; round++) {
      top = Math.max(top, roof.rate());
      rate = Math.max(rate, bench.rate());
      if (other) otherRate = Math.max(otherRate, await other.rate());
    }
    bench.free();
    await other?.free();
    rows.push({ text, rate, otherRate });
  }
  return { roof: top, rows };
}

function list(wasm) {
  const name = (index, of = wasm.tile_name) => {
    // Any place that nothing else lies at while no benchmark runs: the end of the stack.
    const place = 1024;
    const length = of(index, place);
    const address = new DataView(wasm.memory.buffer).getUint32(place, true);
    return new TextDecoder().decode(new Uint8Array(wasm.memory.buffer, address, length));
  };
  const cases = [];
  for (let index = 0; name(index) !== ""; index++) {
    cases.push({ text: `tile ${name(index)}`, make: () => wasm.bench_tile(index) });
  }
  for (let index = 0; name(index, wasm.elementary_name) !== ""; index++) {
    cases.push({ text: `elementary ${name(index, wasm.elementary_name)}`, make: () => wasm.bench_elementary(index) });
  }
  // Rates of integers stand beside their own roof, which is a case here.
  cases.push({ text: "int8 roof", make: () => wasm.bench_int8_roof() });
  for (const [m, k, n] of products) {
    cases.push({ text: `int8 gemm ${m}x${k}x${n}`, make: () => wasm.bench_int8_gemm(m, k, n) });
  }
  for (const { text, from, to, groups, size, kernel, stride } of convolutions.filter(({ lines }) => !lines)) {
    cases.push({ text: `int8 ${text}`, make: () => wasm.bench_int8_conv(from, to, groups, size, kernel, stride) });
  }
  for (const [m, k, n] of products) {
    cases.push({ text: `gemm ${m}x${k}x${n}`, make: () => wasm.bench_gemm(m, k, n, 0) });
    cases.push({ text: `gemm ${m}x${k}x${n}, B packed`, make: () => wasm.bench_gemm(m, k, n, 1) });
    if (m > 1) cases.push({ text: `gemm ${m}x${k}x${n}, B not in L2`, make: () => wasm.bench_cold_gemm(m, k, n) });
  }
  for (const shape of convolutions) {
    const { text, from, to, groups, lines = 0, size, kernel, stride } = shape;
    cases.push({ text, shape, make: () => wasm.bench_conv(from, to, groups, lines, size, kernel, stride) });
  }
  for (const [from, to, size, taps, dilation] of lines) {
    const text = `line ${taps}/1${dilation > 1 ? ` dilated ${dilation}` : ""} ${from}-${to} @${size}`;
    cases.push({ text, make: () => wasm.bench_line_conv(from, to, size, taps, dilation) });
  }
  for (const [kind, channels, size, kernel, stride, pad] of poolings) {
    const make = () => wasm.bench_pool(channels, size, kernel, stride, pad, kind === "average" ? 1 : 0);
    cases.push({ text: `${kind} pool ${kernel}x${kernel}/${stride} ${channels} @${size}`, make });
  }
  for (const [channels, size] of responses) {
    cases.push({ text: `lrn ${channels} @${size}`, make: () => wasm.bench_lrn(channels, size) });
  }
  return cases;
}

function prepare(wasm, bench) {
  const flops = wasm.bench_flops(bench);
  let times = 1;
  const once = () => {
    const start = clock();
    wasm.bench_run(bench, times);
    return clock() - start;
  };
  // V8 compiles hot functions anew while they run: warm up first, and measure stretches of 1 to 2 ms, which are short
  // enough that some of them are not interrupted on a busy machine.
  const begin = clock();
  while (clock() - begin < 50) once();
  while (once() < 1) times *= 2;
  return { flops, rate: () => (flops * times) / once() / 1e6, free: () => wasm.bench_free(bench) };
}

async function prepareOrt(ort, shape, flops) {
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(convModel(shape), { executionProviders: ["wasm"] });
  const lines = shape.lines ?? shape.size;
  const values = new Float32Array(shape.from * lines * shape.size).map((_, index) => Math.sin(index));
  const x = new ort.Tensor("float32", values, [1, shape.from, lines, shape.size]);
  let times = 1;
  const once = async () => {
    const start = clock();
    for (let i = 0; i < times; i++) await session.run({ x });
    return clock() - start;
  };
  const begin = clock();
  while (clock() - begin < 50) await once();
  while ((await once()) < 1) times *= 2;
  return { rate: async () => (flops * times) / (await once()) / 1e6, free: () => session.release() };
}
