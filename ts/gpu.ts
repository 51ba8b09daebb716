// Tensors in the memory of a session's GPU device, and images on their way there. Nothing here passes through the core:
// both sides use the browser's own WebGPU objects.

import type { DataType, DataTypeMap } from "./dtype.js";
import { ModeletError } from "./errors.js";
import { Tensor, type TensorInput } from "./tensor.js";

/** The element types that a GPU holds, four bytes each; a `bool` is 0 or 1 in 32 bits. */
export type GpuDataType = "float32" | "int32" | "uint32" | "bool";

/** A class of the platform by its name, or `Otherwise` where its types are not known. */
type Platform<Name extends string, Otherwise = never> =
  typeof globalThis extends Record<Name, { prototype: infer P }> ? P : Otherwise;

/** The platform's `GPUDevice`, where its types are known. */
export type Device = Platform<"GPUDevice", object>;

/** The platform's `GPUBuffer`, where its types are known. */
export type Buffer = Platform<"GPUBuffer", object>;

const usage = { mapRead: 1, copySrc: 4, copyDst: 8, uniform: 64, storage: 128 } as const;
const gpuTypes: readonly string[] = ["float32", "int32", "uint32", "bool"];

/** Bytes of a buffer for so many elements, as the core's kernels want them. */
const bytesOf = (elements: number) => Math.max(16, Math.ceil(elements / 4) * 16);

/**
 * A tensor in GPU memory: an output that a run left there, an image, or a buffer of the caller's. Runs of sessions on the
 * same device take it as a feed. It is held until {@link release}.
 */
export class GpuTensor<T extends GpuDataType = GpuDataType> {
  readonly location = "gpu";
  readonly type: T;
  readonly shape: readonly number[];
  readonly #device: GPUDevice;
  #buffer: GPUBuffer | undefined;

  /** @internal Use `Tensor.fromGPUBuffer`, or the outputs of a run. */
  constructor(type: T, buffer: Buffer, shape: readonly number[], device: Device) {
    if (!gpuTypes.includes(type)) {
      const place = { expected: gpuTypes.join(", "), actual: String(type) };
      throw new ModeletError("invalid-tensor", `the GPU does not hold ${String(type)} tensors`, place);
    }
    this.type = type;
    this.shape = Object.freeze([...shape]);
    this.#device = device as GPUDevice;
    this.#buffer = buffer as GPUBuffer;
    if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
      throw new ModeletError("invalid-tensor", `[${shape.join(", ")}] is not a shape`, { actual: shape.join(", ") });
    }
    const { size } = this.#buffer;
    if (size < bytesOf(this.size)) {
      const place = { expected: `${bytesOf(this.size)} bytes`, actual: `${size} bytes` };
      throw new ModeletError("invalid-tensor", `the buffer is too small for ${this}`, place);
    }
  }

  /** The number of elements. */
  get size(): number {
    return this.shape.reduce((size, dimension) => size * dimension, 1);
  }

  /** The buffer, for the caller's own shaders: row-major, four bytes per element. */
  get buffer(): Buffer {
    if (!this.#buffer) throw new ModeletError("released", `${this} was released and can no longer be used`);
    return this.#buffer as Buffer;
  }

  /** The elements, read back. */
  async data(): Promise<DataTypeMap[T]> {
    const buffer = this.buffer as GPUBuffer;
    const bytes = this.size * 4;
    if (bytes === 0) return toArray(this.type, new ArrayBuffer(0));
    const staging = this.#device.createBuffer({ size: bytes, usage: usage.mapRead | usage.copyDst });
    const encoder = this.#device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, bytes);
    this.#device.queue.submit([encoder.finish()]);
    try {
      await staging.mapAsync(1);
    } catch (cause) {
      throw new ModeletError("device-lost", `${this} could not be read: its GPU device was lost`, {}, { cause });
    }
    const copy = staging.getMappedRange().slice(0);
    staging.destroy();
    return toArray(this.type, copy);
  }

  /** The tensor with its elements read back. */
  async tensor(): Promise<Tensor<T>> {
    return new Tensor<T>(this.type, (await this.data()) as TensorInput<T>, this.shape);
  }

  /** Frees the buffer. Releasing twice is harmless. */
  release(): void {
    this.#buffer?.destroy();
    this.#buffer = undefined;
  }

  /** Ends the tensor; its buffer is freed when it is none of these. @internal */
  consume(buffers: readonly unknown[]): void {
    if (buffers.includes(this.#buffer)) this.#buffer = undefined;
    this.release();
  }

  [Symbol.dispose](): void {
    this.release();
  }

  /** Like `float32[1, 784]`. */
  toString(): string {
    return `${this.type}[${this.shape.join(", ")}]`;
  }
}

function toArray<T extends DataType>(type: T, buffer: ArrayBuffer): DataTypeMap[T] {
  const words = { float32: Float32Array, int32: Int32Array, uint32: Uint32Array }[type as string];
  const array = words ? new words(buffer) : Uint8Array.from(new Uint32Array(buffer), (word) => Number(word !== 0));
  return array as DataTypeMap[T];
}

/** What an image becomes. */
export interface ImageOptions {
  /** The tensor's size; the image is scaled to it, linearly. The image's own when left out. */
  readonly width?: number;
  readonly height?: number;
  /** `nchw`, which is taken when left out: `[1, channels, height, width]`. `nhwc`: `[1, height, width, channels]`. */
  readonly layout?: "nchw" | "nhwc";
  /** 1 (grey), 3, which is taken when left out, or 4 (with alpha). */
  readonly channels?: 1 | 3 | 4;
  /** `bgr` where the model wants blue first. */
  readonly order?: "rgb" | "bgr";
  /** What is taken from each channel, and by what the rest is divided. Channels go from 0 to 1. */
  readonly mean?: readonly number[];
  readonly std?: readonly number[];
}

/** An image, video frame or canvas. */
export type ImageInput =
  | Platform<"ImageBitmap">
  | Platform<"ImageData">
  | Platform<"HTMLImageElement">
  | Platform<"HTMLVideoElement">
  | Platform<"HTMLCanvasElement">
  | Platform<"OffscreenCanvas">
  | Platform<"VideoFrame">;

/** One thread per pixel of the tensor. The texture is filtered by hand: the same on every adapter. */
const shader = `
struct Params {
  size: vec2<u32>,
  channels: u32,
  planar: u32,
  scale: vec4<f32>,
  bias: vec4<f32>,
  order: vec4<u32>,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var image: texture_2d<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

fn texel(at: vec2<i32>) -> vec4<f32> {
  return textureLoad(image, clamp(at, vec2<i32>(0), vec2<i32>(textureDimensions(image)) - 1), 0);
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (any(id.xy >= params.size)) { return; }
  let place = (vec2<f32>(id.xy) + 0.5) * vec2<f32>(textureDimensions(image)) / vec2<f32>(params.size) - 0.5;
  let corner = vec2<i32>(floor(place));
  let part = fract(place);
  let top = mix(texel(corner), texel(corner + vec2<i32>(1, 0)), part.x);
  let bottom = mix(texel(corner + vec2<i32>(0, 1)), texel(corner + vec2<i32>(1, 1)), part.x);
  var colour = mix(top, bottom, part.y);
  if (params.channels == 1u) { colour.x = dot(colour.rgb, vec3<f32>(0.299, 0.587, 0.114)); }
  let pixel = id.y * params.size.x + id.x;
  for (var c = 0u; c < params.channels; c++) {
    let at = select(pixel * params.channels + c, c * params.size.x * params.size.y + pixel, params.planar == 1u);
    output[at] = colour[params.order[c]] * params.scale[c] + params.bias[c];
  }
}`;

const pipelines = new WeakMap<GPUDevice, GPUComputePipeline>();

/** The size of an image in pixels. */
export function imageSize(image: ImageInput): { width: number; height: number } {
  const { naturalWidth, naturalHeight, videoWidth, videoHeight, displayWidth, displayHeight, width, height } =
    image as unknown as Partial<Record<string, number>>;
  return {
    width: naturalWidth || videoWidth || displayWidth || width || 0,
    height: naturalHeight || videoHeight || displayHeight || height || 0,
  };
}

/** Options with what was left out. */
export function imageOptions(image: ImageInput, options: ImageOptions) {
  const own = imageSize(image);
  const { width = own.width, height = own.height, layout = "nchw", channels = 3, order = "rgb" } = options;
  const { mean = [0, 0, 0, 0], std = [1, 1, 1, 1] } = options;
  const sizes = [own.width, own.height, width, height];
  if (!sizes.every((size) => Number.isSafeInteger(size) && size > 0 && size <= 65535)) {
    throw new ModeletError(
      "invalid-argument",
      `an image of ${own.width}×${own.height} cannot become ${width}×${height}`,
    );
  }
  const scale = [0, 1, 2, 3].map((c) => 1 / (std[c] ?? 1));
  const bias = scale.map((factor, c) => -(mean[c] ?? 0) * factor);
  const source = order === "bgr" && channels > 1 ? [2, 1, 0, 3] : [0, 1, 2, 3];
  const shape = layout === "nchw" ? [1, channels, height, width] : [1, height, width, channels];
  return { own, width, height, planar: layout === "nchw", channels, scale, bias, source, shape };
}

/** An image as a tensor in GPU memory; its pixels go from the image to a texture, and from there through a shader. */
export function imageOnGpu(device: Device, image: ImageInput, options: ImageOptions): GpuTensor<"float32"> {
  const gpu = device as GPUDevice;
  const { own, width, height, planar, channels, scale, bias, source, shape } = imageOptions(image, options);
  let pipeline = pipelines.get(gpu);
  if (!pipeline) {
    const module = gpu.createShaderModule({ code: shader });
    pipeline = gpu.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
    pipelines.set(gpu, pipeline);
  }
  // Texture binding, render attachment (which copies of images want), and the target of copies.
  const texture = gpu.createTexture({ size: [own.width, own.height], format: "rgba8unorm", usage: 4 | 16 | 2 });
  const size = bytesOf(width * height * channels);
  const buffer = gpu.createBuffer({ size, usage: usage.storage | usage.copySrc | usage.copyDst });
  const tensor = new GpuTensor("float32", buffer as Buffer, shape, device);
  try {
    const extent = [own.width, own.height];
    gpu.queue.copyExternalImageToTexture({ source: image as GPUCopyExternalImageSource }, { texture }, extent);
  } catch {
    // Some adapters take no video frames, some browsers no elements: a canvas reads those.
    texture.destroy();
    gpu.queue.writeBuffer(buffer, 0, imageOnCpu(image, options).data as Float32Array<ArrayBuffer>);
    return tensor;
  }
  const params = new ArrayBuffer(64);
  new Uint32Array(params, 0, 4).set([width, height, channels, Number(planar)]);
  new Float32Array(params, 16, 8).set([...scale, ...bias]);
  new Uint32Array(params, 48, 4).set(source);
  const uniform = gpu.createBuffer({ size: 64, usage: usage.uniform | usage.copyDst });
  gpu.queue.writeBuffer(uniform, 0, params);
  const bindGroup = gpu.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [
      { binding: 0, resource: { buffer: uniform } },
      { binding: 1, resource: texture.createView() },
      { binding: 2, resource: { buffer } },
    ],
  });
  const encoder = gpu.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindGroup);
  pass.dispatchWorkgroups(Math.ceil(width / 8), Math.ceil(height / 8));
  pass.end();
  gpu.queue.submit([encoder.finish()]);
  uniform.destroy();
  texture.destroy();
  return tensor;
}

/** The same on the CPU, for sessions that run there. */
export function imageOnCpu(image: ImageInput, options: ImageOptions): Tensor<"float32"> {
  const { own, width, height, planar, channels, scale, bias, source, shape } = imageOptions(image, options);
  let pixels: ImageData | undefined;
  if (typeof ImageData !== "undefined" && image instanceof ImageData) pixels = image;
  else {
    const context = new OffscreenCanvas(own.width, own.height).getContext("2d", { willReadFrequently: true });
    context?.drawImage(image as CanvasImageSource, 0, 0);
    pixels = context?.getImageData(0, 0, own.width, own.height);
  }
  if (!pixels) throw new ModeletError("unsupported-environment", "there is no canvas to read an image with");
  const { data } = pixels;
  const values = new Float32Array(width * height * channels);
  const clamp = (at: number, size: number) => Math.min(Math.max(at, 0), size - 1);
  const colour = [0, 0, 0, 0];
  for (let y = 0; y < height; y++) {
    const v = ((y + 0.5) * own.height) / height - 0.5;
    for (let x = 0; x < width; x++) {
      const u = ((x + 0.5) * own.width) / width - 0.5;
      const [left, top] = [Math.floor(u), Math.floor(v)];
      const at = (dx: number, dy: number, c: number) =>
        (data[4 * (clamp(top + dy, own.height) * own.width + clamp(left + dx, own.width)) + c] ?? 0) / 255;
      for (let c = 0; c < 4; c++) {
        const upper = at(0, 0, c) * (1 - u + left) + at(1, 0, c) * (u - left);
        const lower = at(0, 1, c) * (1 - u + left) + at(1, 1, c) * (u - left);
        colour[c] = upper * (1 - v + top) + lower * (v - top);
      }
      const [r = 0, g = 0, b = 0] = colour;
      if (channels === 1) colour[0] = 0.299 * r + 0.587 * g + 0.114 * b;
      for (let c = 0; c < channels; c++) {
        const place = planar ? (c * height + y) * width + x : (y * width + x) * channels + c;
        values[place] = (colour[source[c] ?? 0] ?? 0) * (scale[c] ?? 1) + (bias[c] ?? 0);
      }
    }
  }
  return new Tensor("float32", values, shape);
}
