// Writes small ONNX models, well-formed and otherwise: just enough of protobuf for the tests.

/** The bytes of a message, from fields as [number, value]: numbers become varints, texts and bytes length-delimited. */
export function message(...fields) {
  return Buffer.concat(
    fields.map(([number, value]) => {
      if (typeof value === "number" || typeof value === "bigint") return Buffer.concat([key(number, 0), varint(value)]);
      const bytes = typeof value === "string" ? Buffer.from(value) : value;
      return Buffer.concat([key(number, 2), varint(bytes.length), bytes]);
    }),
  );
}

export const key = (number, wire) => varint((number << 3) | wire);

export function varint(value) {
  const bytes = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    bytes.push(Number(rest & 127n) | (rest > 127n ? 128 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
}

const types = {
  ...{ float32: 1, uint8: 2, int8: 3, uint16: 4, int16: 5, int32: 6, int64: 7, string: 8, bool: 9, float16: 10 },
  ...{ float64: 11, uint32: 12, uint64: 13, bfloat16: 16, float8e4m3fn: 17, float8e4m3fnuz: 18, float8e5m2: 19 },
  ...{ float8e5m2fnuz: 20, uint4: 21, int4: 22, float4e2m1: 23, float8e8m0: 24, uint2: 25, int2: 26 },
};

/**
 * An input or output; a dimension is a number or a name. The type is that of a tensor's elements, or a container such as
 * `sequence(map(int64, float32))`, and then there is no shape.
 */
export function value(name, type, shape) {
  return message([1, name], [2, typeMessage(type, shape)]);
}

function typeMessage(type, shape) {
  const [, kind, key, inner] = /^(\w+)\((?:(\w+), )?(.*)\)$/.exec(type) ?? [];
  if (kind === "sequence") return message([4, message([1, typeMessage(inner)])]);
  if (kind === "optional") return message([9, message([1, typeMessage(inner)])]);
  if (kind === "map") return message([5, message([1, types[key]], [2, typeMessage(inner)])]);
  const dimensions = shape?.map((size) => [1, message(typeof size === "string" ? [2, size] : [1, size])]);
  return message([1, message([1, types[type]], ...(dimensions ? [[2, message(...dimensions)]] : []))]);
}

/** A node; attributes are [name, value] with an integer, a list of integers or texts, or a graph's bytes. */
export function node(operator, inputs, outputs, { name = "", domain = "", attributes = [] } = {}) {
  return message(
    ...inputs.map((input) => [1, input]),
    ...outputs.map((output) => [2, output]),
    [3, name],
    [4, operator],
    ...attributes.map(([label, content]) => [5, message([1, label], ...attribute(content))]),
    [7, domain],
  );
}

function attribute(content) {
  if (Buffer.isBuffer(content))
    return [
      [6, content],
      [20, 5],
    ];
  if (!Array.isArray(content))
    return [
      [3, content],
      [20, 2],
    ];
  const texts = typeof content[0] === "string";
  return [...content.map((one) => [texts ? 9 : 8, one]), [20, texts ? 8 : 7]];
}

/** A float32 initializer. */
export function weights(name, shape, data) {
  return message(...shape.map((size) => [1, size]), [2, 1], [8, name], [9, Buffer.from(new Float32Array(data).buffer)]);
}

export function graph({ nodes = [], inputs = [], outputs = [], initializers = [] }) {
  return message(
    ...nodes.map((one) => [1, one]),
    [2, "graph"],
    ...initializers.map((one) => [5, one]),
    ...inputs.map((one) => [11, one]),
    ...outputs.map((one) => [12, one]),
  );
}

/** A model of a graph; operators of the domains named in `domains` are imported in version 1. */
export function model(parts, { opset = 17, domains = [] } = {}) {
  const opsets = [["", opset], ...domains.map((domain) => [domain, 1])];
  return message(
    [1, 8],
    [7, Buffer.isBuffer(parts) ? parts : graph(parts)],
    ...opsets.map(([domain, version]) => [8, message([1, domain], [2, version])]),
  );
}

/** y = a + b, with the batch shared by both inputs. */
export const addModel = model({
  nodes: [node("Add", ["a", "b"], ["y"], { name: "sum" })],
  inputs: [value("a", "float32", ["batch", 3]), value("b", "float32", ["batch", 3])],
  outputs: [value("y", "float32", ["batch", 3])],
});

/** Rows of numbers as maps, from labels that are integers or texts: an operator that only the build with all has. */
export function zipMapModel(labels) {
  const type = typeof labels[0] === "string" ? "string" : "int64";
  const attributes = [[`classlabels_${type}s`, labels]];
  return model(
    {
      nodes: [node("ZipMap", ["x"], ["maps"], { domain: "ai.onnx.ml", attributes })],
      inputs: [value("x", "float32", ["rows", labels.length])],
      outputs: [value("maps", `sequence(map(${type}, float32))`)],
    },
    { domains: ["ai.onnx.ml"] },
  );
}

/**
 * A step of a decoder: the new keys and values go to caches `[1, heads, room, width]`, whose first `length` rows the query
 * then attends to.
 */
export const cacheModel = (heads, room, width) => {
  const [cache, one] = [
    [1, heads, room, width],
    [1, heads, 1, width],
  ];
  return model(
    {
      nodes: [
        node("TensorScatter", ["past_keys", "k", "place"], ["keys"]),
        node("TensorScatter", ["past_values", "v", "place"], ["values"]),
        node("Attention", ["q", "keys", "values", "", "", "", "length"], ["y"]),
      ],
      inputs: [
        ...["q", "k", "v"].map((name) => value(name, "float32", one)),
        ...["past_keys", "past_values"].map((name) => value(name, "float32", cache)),
        ...["place", "length"].map((name) => value(name, "int64", [1])),
      ],
      outputs: [value("y", "float32", one), ...["keys", "values"].map((name) => value(name, "float32", cache))],
    },
    { opset: 24 },
  );
};
