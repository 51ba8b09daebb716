// Writes docs/operators.md: every operator with its versions, the cases of the `onnx` package that it passes, and the
// element types that it met in them on the CPU and on the GPU. What the page says about types was run, not claimed.
//
//   node scripts/operators.mjs [--cpu FILE] [--gpu FILE | --keep-gpu]
//
// Needs the built package (npm run build) and Chromium. With --cpu, what became of the cases on the CPU is taken from a
// report of an earlier run, native or not; with --gpu the same on the GPU, of a run with `--device webgpu --operators all
// --optimization none`; with --keep-gpu, the column of the GPU stays as the page has it.

import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { readReport } from "../tests/conformance/coverage.mjs";
import { prepareConformance } from "../tests/conformance/prepare.mjs";
import { runConformance } from "../tests/conformance/run.mjs";
import { readTable } from "../tests/conformance/table.mjs";
import { command } from "./lib/steps.mjs";
import { nativeEnv, root } from "./lib/toolchain.mjs";

const page = join(root, "docs/operators.md");

/** Short names of element types, in the order in which they are listed. */
const short = new Map(
  Object.entries({
    float32: "f32",
    float16: "f16",
    bfloat16: "bf16",
    float64: "f64",
    int8: "i8",
    int16: "i16",
    int32: "i32",
    int64: "i64",
    uint8: "u8",
    uint16: "u16",
    uint32: "u32",
    uint64: "u64",
    bool: "bool",
    string: "str",
    int4: "i4",
    uint4: "u4",
    int2: "i2",
    uint2: "u2",
    float8e4m3fn: "f8e4m3fn",
    float8e4m3fnuz: "f8e4m3fnuz",
    float8e5m2: "f8e5m2",
    float8e5m2fnuz: "f8e5m2fnuz",
    float8e8m0: "f8e8m0",
    float4e2m1: "f4e2m1",
  }),
);

const domains = {
  "ai.onnx": "ONNX's own operators.",
  "ai.onnx.ml": "Classical machine learning: tree ensembles, linear models, support vector machines, feature encoders.",
  "ai.onnx.preview": "Operators that ONNX tries out.",
  "ai.onnx.preview.training": "Optimizers of training graphs.",
  "com.microsoft":
    "Operators that ONNX Runtime's optimizer and quantizer put into models. Their cases are this project's own, with ONNX Runtime's outputs; what ONNX Runtime does not run on the CPU has none.",
};

const publicName = (domain) => domain || "ai.onnx";
const key = (domain, name) => `${publicName(domain)} ${name}`;

/** The operators of the core's table: [domain, name, first opset]. */
async function supportedOperators() {
  const file = join(tmpdir(), `modelet-operators-${process.pid}.tsv`);
  try {
    const env = { ...nativeEnv(), MODELET_OPERATOR_TABLE: file };
    const features = ["--no-default-features", "--features", "all-operators"];
    await command("cargo", ["test", ...features, "--test", "operators"], { env, quiet: true });
    return readTable(file, 0);
  } finally {
    fs.rmSync(file, { force: true });
  }
}

/** What ONNX defines (`schemas`) and what each case runs (`uses`), by operator. */
function readOperators(folder) {
  const schemas = new Map();
  const uses = new Map();
  const operatorsOfCase = new Map();
  for (const [id, domain, name, version, rest] of readTable(join(folder, "operators.tsv"), 0)) {
    const operator = key(domain, name);
    if (id === "schema") {
      schemas.set(operator, {
        domain: publicName(domain),
        name,
        versions: version.split(",").map(Number),
        state: rest,
      });
      continue;
    }
    if (!uses.has(operator)) uses.set(operator, []);
    uses.get(operator).push({ id, types: rest ? rest.split(" ") : [] });
    if (!operatorsOfCase.has(id)) operatorsOfCase.set(id, new Set());
    operatorsOfCase.get(id).add(operator);
  }
  return { schemas, uses, operatorsOfCase };
}

function typeList(types) {
  const known = Array.from(short.keys()).filter((type) => types.has(type));
  return known.map((type) => short.get(type)).join(" ");
}

function row({ domain, name, since, schema, uses = [] }) {
  const versions = schema
    ? schema.versions.filter((version, i) => version >= since || schema.versions[i + 1] > since)
    : [];
  const passed = uses.filter(({ id }) => cpu.get(id)?.status.startsWith("passed"));
  const ids = (list) => new Set(list.map(({ id }) => id));
  // Cases of this operator alone say most; an operator that never stands alone has those that it takes part in.
  const alone = uses.filter(({ id }) => operatorsOfCase.get(id).size === 1);
  const [of, how] = alone.length > 0 ? [ids(alone), ""] : [ids(uses), " (with others)"];
  const good = Array.from(of).filter((id) => cpu.get(id)?.status.startsWith("passed")).length;
  const cells = [
    `\`${name}\``,
    versions.join(", ") || "1",
    of.size > 0 ? `${good}/${of.size}${how}` : "–",
    typeList(new Set(passed.flatMap(({ types }) => types))) || "yes",
    gpuTypes.get(key(domain, name)) ?? "–",
  ];
  return `| ${cells.join(" | ")} |`;
}

/** The element types on which operators had GPU kernels in passing cases, by operator. */
async function foundGpuTypes() {
  // Rewritten graphs would hide single operators.
  const only = ["node/", "simple/", "contrib/"];
  const settings = { device: "webgpu", browser: true, operators: "all", optimization: "none" };
  const gpu = given.gpu ? reported(given.gpu) : await results({ ...settings, only, limit: 20 });
  const types = new Map();
  for (const [operator, all] of uses) {
    const onGpu = all.filter(({ id }) => {
      const result = gpu.get(id);
      return result?.status.startsWith("passed") && result.onGpu.some((own) => key(...split(own)) === operator);
    });
    // A case that has the operator on several types does not tell which of them the kernel took.
    const once = onGpu.filter(({ id }) => all.filter((use) => use.id === id).length === 1);
    if (onGpu.length > 0) types.set(operator, typeList(new Set(once.flatMap(({ types }) => types))) || "yes");
  }
  if (types.size > 0) return types;
  console.error("no case ran on the GPU: is there a WebGPU adapter?");
  process.exit(1);
}

/** What the page says about the GPU now. */
function writtenGpuTypes() {
  const types = new Map();
  let domain = "";
  for (const line of fs.readFileSync(page, "utf8").split("\n")) {
    const name = /`(.+?)`/.exec(line)?.[1];
    if (line.startsWith("## ")) domain = name;
    if (line.startsWith("| `")) types.set(key(domain, name), line.split(" | ").at(-1).replace(/ \|$/, ""));
  }
  return types;
}

/** Domain and name of an operator as reports name it. */
function split(operator) {
  const dot = operator.lastIndexOf(".");
  return dot < 0 ? ["", operator] : [operator.slice(0, dot), operator.slice(dot + 1)];
}

const folder = await prepareConformance();
const supported = await supportedOperators();
const { schemas, uses, operatorsOfCase } = readOperators(folder);
const results = async (options) =>
  new Map((await runConformance(folder, options)).rows.map((result) => [result.case, result]));
const reported = (file) => new Map(readReport(file).map((row) => [row.case, row]));
const file = { type: "string" };
const { values: given } = parseArgs({ options: { cpu: file, gpu: file, "keep-gpu": { type: "boolean" } } });
const cpu = given.cpu ? reported(given.cpu) : await results({ device: "cpu" });
const gpuTypes = given["keep-gpu"] ? writtenGpuTypes() : await foundGpuTypes();

const other = Array.from(cpu.values()).filter(({ status }) => !status.startsWith("passed")).length;
const version = folder.split("/").at(-1).split("-")[0];
const text = [
  "# Operators",
  "",
  "<!-- Written by scripts/operators.mjs. -->",
  "",
  `modelet runs ${supported.length} operators. The page is made from the table of operators in \`src/ops/registry.rs\` and from`,
  `running ${cpu.size} test cases: those of the \`onnx\` package ${version}, and those of ONNX Runtime's own operators in`,
  `\`tests/conformance/contrib_cases.py\`. ${cpu.size - other} pass; ${other} do not, for the reasons in`,
  "`tests/conformance/expected_failures.tsv`.",
  "",
  "- **Opsets**: the versions in which ONNX changed the operator. A model may import any opset from the first on.",
  "- **Cases**: how many of the operator's test cases pass. Cases of several operators are counted for those that have",
  "  none of their own.",
  "- **CPU**, **GPU**: the element types that the operator met in passing cases, and those for which it had a GPU kernel.",
  "  Others may work too. What has no GPU kernel for a type runs on the CPU within the same model.",
  "",
  `Types are shortened: ${["f32", "bf16", "i8", "u8", "str"].map((name) => `\`${name}\` is ${[...short].find(([, own]) => own === name)[0]}`).join(", ")}.`,
];
const current = [...schemas.values()].filter(({ state }) => !state);
const names = new Set([
  ...Object.keys(domains),
  ...supported.map(([domain]) => domain),
  ...current.map((one) => one.domain),
]);
for (const domain of names) {
  const own = supported.filter(([of]) => of === domain).sort(([, a], [, b]) => a.localeCompare(b, "en"));
  const have = new Set(own.map(([, name]) => name));
  const lacking = current.filter((one) => one.domain === domain && !have.has(one.name));
  if (own.length + lacking.length === 0) continue;
  text.push("", `## \`${domain}\``);
  if (domains[domain]) text.push("", domains[domain]);
  if (own.length > 0) text.push("", "| Operator | Opsets | Cases | CPU | GPU |", "|---|---|---|---|---|");
  for (const [, name, since] of own) {
    const operator = key(domain, name);
    const schema = schemas.get(operator);
    text.push(row({ domain, name, since: Number(since), schema, uses: uses.get(operator) }));
  }
  if (lacking.length > 0) {
    text.push("", `Not supported: ${lacking.map(({ name }) => `\`${name}\``).join(", ")}.`);
  }
}
fs.writeFileSync(page, `${text.join("\n")}\n`);
console.log(`wrote ${page}`);
