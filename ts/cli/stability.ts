// How far a model's outputs move by themselves. What a model rounds inside (to 8-bit integers, to half precision) turns a
// difference in the last bits of a sum into one of a whole step, which the layers behind it pass on and magnify. Outputs
// of such a model cannot be compared closely: two correct engines differ in them, and so does one from itself when its
// inputs change in their last bits, which is how such models are told from wrong results.

import { Tensor } from "../tensor.js";
import { isTensor, type RunValue, type Values } from "../value.js";

/**
 * The relative change of the inputs, up or down. Sums over some hundred of them then change by about 2⁻²¹ of their terms, as
 * the changes cancel, which is what the order of adding leaves uncertain.
 */
const nudge = 2 ** -18;

/** How often the inputs are changed at most: a step that hangs on one number is not taken every time. */
const runs = 16;

/** How much further than it was seen to move an output may lie from its reference. */
const reach = 4;

/** Beyond this share of an output's own size nothing is taken for rounding. */
const limit = 0.1;

/** Half precision and narrower among the types of a graph's text, and operators that round to integers. */
const rounding =
  /\b(b?float16|float8\w*)\[|= [\w.]*(QuantizeLinear|Integer|QLinear\w+|DynamicQuantize\w+|QGemm|QAttention)\(/;

/** Whether a model rounds inside, by the text of its graph. */
export function roundsInside(graph: string): boolean {
  return rounding.test(graph);
}

/** The outputs for inputs near `feeds`, one run after another; none when there are no 32-bit numbers among the inputs. */
export async function* nearbyOutputs(run: (feeds: Values) => Promise<Values>, feeds: Values): AsyncGenerator<Values> {
  if (!Object.values(feeds).some(canChange)) return;
  for (let seed = 1; seed <= runs; seed++) yield await run(nudged(feeds, seed));
}

/**
 * What an output's difference from its reference comes from, when it is what `nearby` outputs show to be unstable: those of
 * inputs near the ones that gave `base`.
 */
export function instability(
  name: string,
  actual: RunValue | undefined,
  expected: RunValue,
  base: RunValue | undefined,
  nearby: readonly (RunValue | undefined)[],
): string | undefined {
  const difference = distance(actual, expected);
  if (difference === undefined) return undefined;
  let moved = { rms: 0, max: 0 };
  for (const output of nearby) {
    const one = distance(output, base);
    if (one !== undefined) moved = { rms: Math.max(moved.rms, one.rms), max: Math.max(moved.max, one.max) };
  }
  const bound = Math.min(reach * moved.rms, limit * rootMeanSquare((expected as Tensor).toFloat64()));
  if (!(difference.rms <= bound && difference.max <= reach * moved.max)) return undefined;
  const [far, own] = [difference.max, moved.max].map((value) => value.toExponential(2));
  return `${name} differs by up to ${far}, and moves by up to ${own} when the last bits of the inputs change`;
}

/** Root mean square and largest of the differences; undefined where values are not comparable tensors of finite numbers. */
function distance(a: RunValue | undefined, b: RunValue | undefined): { rms: number; max: number } | undefined {
  if (a === undefined || b === undefined || !isTensor(a) || !isTensor(b)) return undefined;
  const isFloat = a.type.startsWith("float") || a.type === "bfloat16";
  if (!isFloat || a.type !== b.type || a.shape.join() !== b.shape.join()) return undefined;
  const differences = a.toFloat64();
  const others = b.toFloat64();
  let max = 0;
  for (let i = 0; i < differences.length; i++) {
    const difference = Math.abs((differences[i] as number) - (others[i] as number));
    if (!Number.isFinite(difference)) return undefined;
    differences[i] = difference;
    if (difference > max) max = difference;
  }
  return { rms: rootMeanSquare(differences), max };
}

function rootMeanSquare(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
}

function canChange(value: RunValue): value is Tensor<"float32" | "float64"> {
  return value !== null && isTensor(value) && (value.type === "float32" || value.type === "float64");
}

/** The same feeds with floating-point numbers a little larger or smaller, by the same pseudo-random choice each time. */
function nudged(feeds: Values, seed: number): Values {
  let state = seed;
  const sign = () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state < 0 ? -nudge : nudge;
  };
  const one = (value: RunValue): RunValue => {
    if (!canChange(value)) return value;
    const data = value.data.slice();
    for (let i = 0; i < data.length; i++) data[i] = (data[i] as number) * (1 + sign());
    return new Tensor(value.type, data, value.shape);
  };
  return Object.fromEntries(Object.entries(feeds).map(([name, value]) => [name, one(value)]));
}
