// How much of the conformance run executed on the GPU: per operator, and for each case that did not, why.
//
//   node tests/conformance/coverage.mjs REPORT [FOLDER] [--write FILE]
//
// REPORT is what the run of `main.rs` (MODELET_CONFORMANCE_REPORT) or of `run.mjs` (--report) wrote; FOLDER holds the cases.
//
// Counted are the cases of the operators for the GPU whose first value is float32, int32, uint32 or bool. Integers of 64
// bits stay on the CPU by design, so nodes that are there for these alone do not count, unless their operator takes them
// as no more than indices.

import * as fs from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { prepareConformance } from "./prepare.mjs";
import { readTable } from "./table.mjs";

/** The operators that the GPU has to execute. */
const forTheGpu = new Set(
  `Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
BiasAdd BiasGelu BiasSplitGelu Cast Ceil Celu Clip Compress Concat Conv ConvInteger ConvTranspose
Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp
Expand FastGelu Flatten Floor FusedConv GRU Gather GatherBlockQuantized GatherElements GatherND Gelu
Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
GroupQueryAttention HardSigmoid HardSwish Hardmax Identity If InstanceNormalization LRN LSTM
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul
MatMulInteger MatMulNBits Max MaxPool MeanVarianceNormalization Min Mish Mod Mul MultiHeadAttention
Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear QuickGelu
RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence
RotaryEmbedding Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign
SimplifiedLayerNormalization Sin Sinh SkipLayerNormalization SkipSimplifiedLayerNormalization Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Tan Tanh ThresholdedRelu Tile TopK
Transpose TreeEnsembleClassifier TreeEnsembleRegressor Trilu Unique Unsqueeze Where Xor`.split(/\s+/),
);

/** Those of them that make or take indices, beside data of another type. */
const byIndex = new Set([
  "ArgMax",
  "ArgMin",
  "CumSum",
  "GatherElements",
  "GatherND",
  "OneHot",
  "ReverseSequence",
  "ScatterElements",
  "ScatterND",
  "TopK",
]);

/** Those of them that run on the CPU whatever their types: what makes its own outputs is no node of a program. */
const ofUnknownSize = new Set(["Compress", "NonZero", "Unique"]);

const types = new Set(["float32", "int32", "uint32", "bool"]);

/**
 * The coverage of a run.
 * @param folder of the cases
 * @param rows what became of them: `{ case, status, operators, onCpu: [[operator, reason]] }`
 * @returns `{ all, executed, table: [[operator, all, executed]], missed: [[case, reasons]] }`
 */
export function gpuCoverage(folder, rows) {
  const firstType = new Map(
    readTable(join(folder, "cases.tsv")).map(([id, , , , inputs, outputs]) => [id, (inputs || outputs).split("[")[0]]),
  );
  const table = new Map();
  const missed = [];
  let all = 0;
  let executed = 0;
  for (const { case: id, operators, onCpu } of rows) {
    const own = operators.map((name) => name.split(/[.:]/).at(-1)).filter((name) => forTheGpu.has(name));
    if (!types.has(firstType.get(id)) || own.length === 0) continue;
    const reasons = new Set(
      onCpu
        .filter(([operator, reason]) => !reason.startsWith("int64 ") || byIndex.has(operator))
        .map(([operator, reason]) => `${operator} (${reason})`),
    );
    for (const name of own.filter((name) => ofUnknownSize.has(name))) {
      reasons.add(`${name} (the size of its output depends on data)`);
    }
    const there = reasons.size === 0 ? 1 : 0;
    all++;
    executed += there;
    for (const name of own) {
      const [had, done] = table.get(name) ?? [0, 0];
      table.set(name, [had + 1, done + there]);
    }
    if (!there) missed.push([id, [...reasons].sort()]);
  }
  const sorted = Array.from(table, ([name, counts]) => [name, ...counts]).sort(([a], [b]) => a.localeCompare(b, "en"));
  return { all, executed, table: sorted, missed };
}

/** The coverage in one sentence. */
export function coverageRemark({ all, executed }) {
  const percent = ((100 * executed) / Math.max(all, 1)).toFixed(1);
  return `${executed} of ${all} cases of float32, int32, uint32 and bool (${percent} %) on the GPU`;
}

/** The coverage as a page. */
export function coverageText(coverage) {
  const reasons = new Map();
  for (const [id, list] of coverage.missed) {
    for (const reason of list) reasons.set(reason, [...(reasons.get(reason) ?? []), id]);
  }
  const often = [...reasons].sort(([, a], [, b]) => b.length - a.length);
  return [
    "# Cases on the GPU",
    "",
    `${coverageRemark(coverage)}.`,
    "",
    "| Operator | Cases | On the GPU |",
    "|---|---|---|",
    ...coverage.table.map((row) => `| ${row.join(" | ")} |`),
    "",
    "## Why others are not",
    "",
    ...often.map(
      ([reason, ids]) => `- ${reason}: ${ids.length} (${ids.slice(0, 3).join(", ")}${ids.length > 3 ? ", …" : ""})`,
    ),
    "",
  ].join("\n");
}

/** The rows of a report. */
export function readReport(path) {
  return readTable(path).map(([id, status, , operators, onGpu, onCpu]) => ({
    case: id,
    status,
    operators: operators.split(" ").filter(Boolean),
    onGpu: onGpu.split(" ").filter(Boolean),
    onCpu: onCpu
      .split("; ")
      .filter(Boolean)
      .map((node) => /^(\S+) \((.*)\)$/.exec(node).slice(1)),
  }));
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { write: { type: "string" } } });
  const [report, folder = await prepareConformance()] = positionals;
  const coverage = gpuCoverage(folder, readReport(report));
  if (values.write) fs.writeFileSync(values.write, coverageText(coverage));
  else console.log(coverageText(coverage));
  console.log(coverageRemark(coverage));
}
