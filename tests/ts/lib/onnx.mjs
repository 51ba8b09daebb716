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

const types = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, string: 8, bool: 9, float16: 10, float64: 11 };

/** An input or output; a dimension is a number or a name. */
export function value(name, type, shape) {
  const dimensions = shape.map((size) => [1, message(typeof size === "string" ? [2, size] : [1, size])]);
  const tensor = message([1, types[type]], [2, message(...dimensions)]);
  return message([1, name], [2, message([1, tensor])]);
}

/** A node; attributes are [name, value] with an integer, or a graph's bytes. */
export function node(operator, inputs, outputs, { name = "", domain = "", attributes = [] } = {}) {
  return message(
    ...inputs.map((input) => [1, input]),
    ...outputs.map((output) => [2, output]),
    [3, name],
    [4, operator],
    ...attributes.map(([label, content]) => {
      const kind = Buffer.isBuffer(content)
        ? [
            [6, content],
            [20, 5],
          ]
        : [
            [3, content],
            [20, 2],
          ];
      return [5, message([1, label], ...kind)];
    }),
    [7, domain],
  );
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
