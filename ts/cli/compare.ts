// Compares outputs with their references: type and shape exactly, numbers within tolerances, everything else exactly.
// Sequences are compared element by element, maps key by key.

import { isBitsType } from "../dtype.js";
import { Tensor } from "../tensor.js";
import { isTensor, type RunValue } from "../value.js";

export interface Tolerance {
  readonly rtol: number;
  readonly atol: number;
}

export interface Comparison {
  /** The largest absolute and relative difference between finite numbers. */
  readonly maxAbs: number;
  readonly maxRel: number;
  /** What is wrong first, or undefined when the tensors agree. */
  readonly message: string | undefined;
}

const floats: readonly string[] = ["float32", "float64", "float16", "bfloat16"];

/** Compares values of any kind, tensors as {@link compareTensors} does. */
export function compareValues(
  name: string,
  actual: RunValue | undefined,
  expected: RunValue,
  tolerance: Tolerance,
): Comparison {
  if (actual === undefined || kindOf(actual) !== kindOf(expected)) {
    return failed(`${name} is ${actual === undefined ? "missing" : kindOf(actual)}, expected ${kindOf(expected)}`);
  }
  if (isTensor(expected)) return compareTensors(name, actual as Tensor, expected, tolerance);
  if (Array.isArray(expected)) {
    const items = actual as readonly RunValue[];
    if (items.length !== expected.length) {
      return failed(`${name} has ${items.length} elements, expected ${expected.length}`);
    }
    return worst(expected.map((item, i) => compareValues(`${name}[${i}]`, items[i], item, tolerance)));
  }
  return compareMaps(name, (actual ?? {}) as AnyMap, (expected ?? {}) as AnyMap, tolerance);
}

/**
 * Floating-point numbers agree when |actual - expected| ≤ atol + rtol · |expected|; NaN agrees with NaN, and an infinity
 * with the same infinity. Integers, booleans and texts agree when they are equal.
 */
export function compareTensors(name: string, actual: Tensor, expected: Tensor, { rtol, atol }: Tolerance): Comparison {
  if (actual.type !== expected.type) {
    return failed(`${name}: the type is ${actual.type}, expected ${expected.type}`);
  }
  if (
    actual.shape.length !== expected.shape.length ||
    actual.shape.some((size, axis) => size !== expected.shape[axis])
  ) {
    return failed(`${name}: the shape is [${actual.shape.join(", ")}], expected [${expected.shape.join(", ")}]`);
  }
  if (!floats.includes(expected.type) && !isBitsType(expected.type)) return compareExactly(name, actual, expected);

  const got = actual.toFloat64();
  const want = expected.toFloat64();
  let maxAbs = 0;
  let maxRel = 0;
  let wrong = -1;
  let wrongs = 0;
  for (let i = 0; i < want.length; i++) {
    const a = got[i] as number;
    const b = want[i] as number;
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    const difference = Math.abs(a - b);
    if (Number.isFinite(difference)) {
      if (difference > maxAbs) maxAbs = difference;
      const relative = difference / Math.abs(b);
      if (b !== 0 && relative > maxRel) maxRel = relative;
    }
    // Written so that a NaN difference counts as wrong.
    if (!(difference <= atol + rtol * Math.abs(b)) || !Number.isFinite(difference)) {
      if (wrongs === 0) wrong = i;
      wrongs++;
    }
  }
  const message =
    wrongs === 0
      ? undefined
      : `${name}${place(wrong, expected.shape)} is ${got[wrong]}, expected ${want[wrong]} (${wrongs} of ${want.length} differ)`;
  return { maxAbs, maxRel, message };
}

function compareExactly(name: string, actual: Tensor, expected: Tensor): Comparison {
  let maxAbs = 0;
  let maxRel = 0;
  let wrong = -1;
  let wrongs = 0;
  for (let i = 0; i < expected.size; i++) {
    const a = actual.data[i];
    const b = expected.data[i];
    if (a === b) continue;
    if (wrongs === 0) wrong = i;
    wrongs++;
    if (typeof a !== "string" && typeof b !== "string") {
      const difference = Math.abs(Number(a) - Number(b));
      maxAbs = Math.max(maxAbs, difference);
      if (Number(b) !== 0) maxRel = Math.max(maxRel, difference / Math.abs(Number(b)));
    }
  }
  const message =
    wrongs === 0
      ? undefined
      : `${name}${place(wrong, expected.shape)} is ${show(actual.data[wrong])}, expected ${show(expected.data[wrong])} (${wrongs} of ${expected.size} differ)`;
  return { maxAbs, maxRel, message };
}

type AnyMap = Readonly<Record<string, number | bigint | string>>;

function compareMaps(name: string, actual: AnyMap, expected: AnyMap, tolerance: Tolerance): Comparison {
  const keys = Object.keys(expected);
  const missing = keys.find((key) => !Object.hasOwn(actual, key));
  const extra = Object.keys(actual).find((key) => !Object.hasOwn(expected, key));
  if (missing !== undefined) return failed(`${name} has no key ${show(missing)}`);
  if (extra !== undefined) return failed(`${name} has the key ${show(extra)}, which is not expected`);
  return worst(
    keys.map((key) => {
      const [a, b] = [actual[key], expected[key]];
      const place = `${name}[${show(key)}]`;
      if (typeof a !== "number" || typeof b !== "number") {
        return a === b ? equal : failed(`${place} is ${show(a)}, expected ${show(b)}`);
      }
      return compareTensors(place, new Tensor("float64", [a], []), new Tensor("float64", [b], []), tolerance);
    }),
  );
}

const equal: Comparison = { maxAbs: 0, maxRel: 0, message: undefined };

/** The largest differences of all, and the first message. */
function worst(comparisons: readonly Comparison[]): Comparison {
  return comparisons.reduce(
    (all, one) => ({
      // Math.max keeps NaN, from what could not be compared.
      maxAbs: Math.max(all.maxAbs, one.maxAbs),
      maxRel: Math.max(all.maxRel, one.maxRel),
      message: all.message ?? one.message,
    }),
    equal,
  );
}

function kindOf(value: RunValue): string {
  if (value === null) return "an empty optional";
  return isTensor(value) ? "a tensor" : Array.isArray(value) ? "a sequence" : "a map";
}

function failed(message: string): Comparison {
  return { maxAbs: Number.NaN, maxRel: Number.NaN, message };
}

function show(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** The position of an element, like `[0, 3]`; nothing for a scalar. */
function place(flat: number, shape: readonly number[]): string {
  if (shape.length === 0) return "";
  const index: number[] = [];
  let rest = flat;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] as number;
    index.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return `[${index.join(", ")}]`;
}
