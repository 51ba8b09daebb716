// What the public types allow and refuse; checked by tsc, never run.

import {
  type ErrorCode,
  ModeletError,
  type ModelSource,
  type Report,
  type RunValue,
  readValue,
  Session,
  Tensor,
  type Tensors,
  type ValueInfo,
} from "../../ts/index.js";

export async function usage(pixels: Float32Array, file: File, response: Response): Promise<void> {
  const session: Session = await Session.load("model.onnx", {
    device: "auto",
    optimization: "all",
    onProgress: ({ phase, stage, loaded, total }) =>
      console.log(phase === "compile", stage.toUpperCase(), loaded / total),
    warmup: { batch: 4 },
    signal: AbortSignal.timeout(1000),
    externalData: { "weights.bin": new Uint8Array(1) },
    wasmUrl: new URL("https://example.com/wasm/"),
    operators: "all",
    limits: { memoryBytes: 2 ** 30, runMillis: 5000, loopIterations: 10_000 },
  });
  const sources: ModelSource[] = [new URL("https://example.com"), file, response, pixels, pixels.buffer as ArrayBuffer];
  await Promise.all(sources.map((source) => Session.load(source)));
  // @ts-expect-error a device that does not exist
  await Session.load("model.onnx", { device: "gpu" });
  // @ts-expect-error not a source
  await Session.load(42);
  // @ts-expect-error sessions come from load
  new Session();

  const image = new Tensor("float32", pixels, [1, 784]);
  const data: Float32Array = image.data;
  const type: "float32" = image.type;
  const words: string[] = new Tensor("string", ["a"]).data;
  const wide: BigInt64Array = Tensor.from([1n, 2n]).data;
  const flags: Uint8Array = new Tensor("bool", [true, false]).data;
  const matrix: Tensor<"float32"> = Tensor.from([
    [1, 2],
    [3, 4],
  ]);
  new Tensor("int64", [1, 2n], [2]);
  new Tensor("uint8", new Uint8ClampedArray(4), [4]);
  // @ts-expect-error another array than the type's
  new Tensor("float32", new Float64Array(1), [1]);
  // @ts-expect-error numbers are no strings
  new Tensor("string", [1], [1]);
  // @ts-expect-error bigints are no floats
  new Tensor("float32", [1n], [1]);
  // @ts-expect-error no such type
  new Tensor("float", [1], [1]);
  // @ts-expect-error tensors do not change
  image.shape = [784];

  const feeds: Tensors = { image, matrix, words: new Tensor("string", words) };
  const { probabilities } = await session.run(feeds, { fetches: ["probabilities"] });
  const result: Tensor | undefined = probabilities;
  // @ts-expect-error arrays are no tensors
  await session.run({ image: pixels });

  // Values that are no tensors, in and out.
  const counted = new Map([["word", 2n]]);
  await session.run({
    items: [image, matrix],
    counts: { word: 2 },
    counted,
    missing: null,
    maps: [{ 1: 0.5 }, counted],
  });
  const { scores } = await session.run<{ scores: Record<string, number>[] }>({ image });
  const score: number | undefined = scores[0]?.cat;
  const { value } = await readValue(new Uint8Array(1), "sequence(map(int64, float32))");
  const anything: RunValue = value;
  // @ts-expect-error maps hold numbers, bigints and texts
  await session.run({ counts: { word: true } });
  // @ts-expect-error texts are no types
  await readValue(new Uint8Array(1), "list(float32)");
  // @ts-expect-error 8-bit floats are given as bits
  new Tensor("float8e4m3fn", [1, 2]);
  const bits: Uint8Array = new Tensor("float8e4m3fn", new Uint8Array(1)).data;
  console.log(score, anything, bits);

  const inputs: readonly ValueInfo[] = session.inputs;
  const report: Report = session.report();
  const text: string = session.inspect("program", { json: true });
  console.log(data, type, wide, flags, result, inputs[0]?.shape, report.nodes[0]?.device === "gpu", text);
  using other = await Session.load(response);
  console.log(other.outputs);
  session.release();
}

export function handle(error: unknown): ErrorCode | undefined {
  if (!(error instanceof ModeletError)) return undefined;
  const place: (string | undefined)[] = [error.node, error.operator, error.input, error.expected, error.actual];
  console.log(place, error.details.join(), error.describe());
  // @ts-expect-error a code that does not exist
  if (error.code === "oops") return undefined;
  return error.code;
}
