// Made-up inputs for models that come without test data: the same pseudo-random values on every machine.

import type { ValueInfo } from "../core.js";
import { arrayClass, type DataType, isDataType, toBfloat16, toFloat16 } from "../dtype.js";
import { Tensor, type TensorInput } from "../tensor.js";
import type { Tensors } from "../value.js";
import { UsageError } from "./terminal.js";

/**
 * A tensor for each input: floating-point numbers in [0, 1), integers 0 or 1 (which are valid as token numbers, masks
 * and indices alike), booleans true. Symbolic dimensions are taken from `dimensions`, and are 1 otherwise. Sequences,
 * maps and optionals cannot be made up.
 */
export function randomInputs(inputs: readonly ValueInfo[], dimensions: ReadonlyMap<string, number>): Tensors {
  const random = generator(0x2545f491);
  return Object.fromEntries(
    inputs.map(({ name, type, shape }) => {
      if (!isDataType(type)) {
        throw new UsageError(`the input ${name} is of type ${type}: take a case folder, whose test data has it`);
      }
      const sizes = shape.map((size) => (typeof size === "number" ? size : (dimensions.get(size) ?? 1)));
      const length = sizes.reduce((product, size) => product * size, 1);
      return [name, new Tensor(type, randomData(type, length, random), sizes)];
    }),
  );
}

/** Reads `NAME=SIZE` texts, as `--dim` takes them. */
export function parseDimensions(texts: readonly string[]): Map<string, number> {
  return new Map(
    texts.map((text) => {
      const [, name, size] = /^(.+)=(\d+)$/.exec(text) ?? [];
      if (name === undefined) throw new UsageError(`--dim takes NAME=SIZE, not ${text}`);
      return [name, Number(size)];
    }),
  );
}

function randomData(type: DataType, length: number, random: () => number): TensorInput<DataType> {
  if (type === "string") return Array.from({ length }, () => "text");
  const data = new (arrayClass(type))(length);
  for (let i = 0; i < length; i++) {
    if (data instanceof BigInt64Array || data instanceof BigUint64Array) data[i] = BigInt(Math.round(random()));
    else data[i] = value(type, random);
  }
  return data as TensorInput<DataType>;
}

function value(type: DataType, random: () => number): number {
  switch (type) {
    case "float32":
    case "float64":
      return random();
    case "float16":
      return toFloat16(random());
    case "bfloat16":
      return toBfloat16(random());
    case "bool":
      return 1;
    default:
      return Math.round(random());
  }
}

/** Marsaglia's xorshift with 32 bits of state. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };
}
