// A model of one convolution with bias and ReLU as ONNX bytes, for runs beside another engine.

const varint = (value) => {
  const bytes = [];
  let left = value;
  while (left > 127) {
    bytes.push((left % 128) | 128);
    left = Math.floor(left / 128);
  }
  bytes.push(left);
  return Uint8Array.from(bytes);
};
const join = (parts) => {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
};
const number = (field, value) => join([varint(field * 8), varint(value)]);
const bytes = (field, value) => join([varint(field * 8 + 2), varint(value.length), value]);
const text = (field, value) => bytes(field, new TextEncoder().encode(value));
const message = (field, ...parts) => bytes(field, join(parts));

const INTS = 7;
const INT = 2;
const FLOAT = 1;

const ints = (name, values) => message(5, text(1, name), ...values.map((value) => number(8, value)), number(20, INTS));
const int = (name, value) => message(5, text(1, name), number(3, value), number(20, INT));
const tensor = (name, dims, values) =>
  message(
    5,
    ...dims.map((dim) => number(1, dim)),
    number(2, FLOAT),
    text(8, name),
    bytes(9, new Uint8Array(values.buffer)),
  );
const value = (field, name, dims) =>
  message(
    field,
    text(1, name),
    message(2, message(1, number(1, FLOAT), message(2, ...dims.map((dim) => message(1, number(1, dim)))))),
  );

/** Conv and Relu from input "x" `[1, from, lines, size]` to output "y", padded by half the kernel. */
export function convModel({ from, to, groups, lines: height, size, kernel, stride }) {
  const pad = Math.floor(kernel / 2);
  const lines = height ?? size;
  const [outLines, out] = [lines, size].map((extent) => Math.floor((extent + 2 * pad - kernel) / stride) + 1);
  const weights = new Float32Array((to * from * kernel * kernel) / groups).map((_, index) => Math.sin(index) * 0.1);
  const bias = new Float32Array(to).map((_, index) => Math.cos(index));
  const conv = message(
    1,
    text(1, "x"),
    text(1, "w"),
    text(1, "b"),
    text(2, "c"),
    text(4, "Conv"),
    ints("kernel_shape", [kernel, kernel]),
    ints("strides", [stride, stride]),
    ints("pads", [pad, pad, pad, pad]),
    int("group", groups),
  );
  const relu = message(1, text(1, "c"), text(2, "y"), text(4, "Relu"));
  const graph = message(
    7,
    conv,
    relu,
    text(2, "conv"),
    tensor("w", [to, from / groups, kernel, kernel], weights),
    tensor("b", [to], bias),
    value(11, "x", [1, from, lines, size]),
    value(12, "y", [1, to, outLines, out]),
  );
  return join([number(1, 8), graph, message(8, number(2, 17))]);
}
