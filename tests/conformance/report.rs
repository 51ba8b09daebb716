//! What became of the cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::cases::{Case, Exceptions};

/// What a case's run came to.
pub struct Outcome {
    pub case: String,
    /// What went wrong; empty when nothing did.
    pub failures: Vec<String>,
    /// The operators of the model, each once; none when it could not be read.
    pub operators: Vec<String>,
    /// Those of them that ran on the GPU.
    pub on_gpu: Vec<String>,
    /// The nodes that ran on the CPU, each with its operator and why.
    pub on_cpu: Vec<(String, String)>,
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Passed,
    Failed,
    FailedAsExpected,
    PassedUnexpectedly,
}

impl Status {
    pub fn text(self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Failed => "failed",
            Status::FailedAsExpected => "failed as expected",
            Status::PassedUnexpectedly => "passed unexpectedly",
        }
    }
}

impl Outcome {
    pub fn status(&self, expected: &Exceptions) -> Status {
        match (self.failures.is_empty(), expected.expect_failure(&self.case)) {
            (true, false) => Status::Passed,
            (false, false) => Status::Failed,
            (false, true) => Status::FailedAsExpected,
            (true, true) => Status::PassedUnexpectedly,
        }
    }

    /// The failures in one line.
    pub fn message(&self) -> String {
        let text = self.failures.join(" | ");
        text.split(['\n', '\t']).map(str::trim).collect::<Vec<_>>().join("; ")
    }
}

/// Writes a table: case, status, seconds, operators, those on the GPU, message.
pub fn write(path: &Path, outcomes: &[Outcome], expected: &Exceptions) {
    let mut text = String::from("case\tstatus\tseconds\toperators\ton_gpu\tmessage\n");
    for outcome in outcomes {
        let (operators, on_gpu) = (outcome.operators.join(" "), outcome.on_gpu.join(" "));
        let (status, seconds) = (outcome.status(expected).text(), outcome.seconds);
        let (case, message) = (&outcome.case, outcome.message());
        // Writing to a string does not fail.
        let _ = writeln!(text, "{case}\t{status}\t{seconds:.3}\t{operators}\t{on_gpu}\t{message}");
    }
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
}

/// The operators that the GPU has to execute.
const FOR_THE_GPU: &str = "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool \
    BatchNormalization BiasAdd BiasGelu BiasSplitGelu Cast Ceil Celu Clip Compress Concat Conv ConvInteger ConvTranspose \
    Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand FastGelu \
    Flatten Floor FusedConv GRU Gather GatherBlockQuantized GatherElements GatherND Gelu Gemm GlobalAveragePool \
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization GroupQueryAttention HardSigmoid HardSwish Hardmax \
    Identity If InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization \
    LpPool MatMul MatMulInteger MatMulNBits Max MaxPool MeanVarianceNormalization Min Mish Mod Mul MultiHeadAttention Neg \
    NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear QuickGelu RMSNormalization Range \
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum \
    ReduceSumSquare Relu Reshape Resize ReverseSequence RotaryEmbedding Round ScatterElements ScatterND Selu Shape Shrink \
    Sigmoid Sign SimplifiedLayerNormalization Sin Sinh SkipLayerNormalization SkipSimplifiedLayerNormalization Slice \
    Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Tan Tanh ThresholdedRelu Tile TopK Transpose \
    TreeEnsembleClassifier TreeEnsembleRegressor Trilu Unique Unsqueeze Where Xor";

/// Those of them that make or take indices, beside data of another type.
const BY_INDEX: [&str; 10] = [
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
];

/// Those of them that run on the CPU whatever their types.
const OF_UNKNOWN_SIZE: [&str; 3] = ["Compress", "NonZero", "Unique"];

/// Prints how many cases of the operators for the GPU executed there: per operator those whose first value is float32,
/// int32, uint32 or bool, and for the others why not. Integers of 64 bits stay on the CPU by design, so nodes that are
/// there for these alone do not count, unless their operator takes them as no more than indices.
pub fn print_gpu_coverage(outcomes: &[Outcome], cases: &[Case]) {
    let kinds: BTreeMap<&str, &str> = cases
        .iter()
        .map(|case| (case.id.as_str(), case.first_type.as_str()))
        .collect();
    let mut table: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut missed = Vec::new();
    let (mut all, mut executed) = (0, 0);
    for outcome in outcomes {
        let kind = kinds.get(outcome.case.as_str()).copied().unwrap_or_default();
        let operators: Vec<&str> = (outcome.operators.iter())
            .map(|name| name.rsplit(['.', ':']).next().unwrap_or(name))
            .filter(|name| FOR_THE_GPU.split_whitespace().any(|own| own == *name))
            .collect();
        if !["float32", "int32", "uint32", "bool"].contains(&kind) || operators.is_empty() {
            continue;
        }
        let mut reasons: BTreeSet<String> = (outcome.on_cpu.iter())
            .filter(|(operator, reason)| !reason.starts_with("int64 ") || BY_INDEX.contains(&operator.as_str()))
            .map(|(operator, reason)| format!("{operator} ({reason})"))
            .collect();
        // What makes its own outputs is no node of a program.
        let unsized_operators = operators.iter().filter(|name| OF_UNKNOWN_SIZE.contains(name));
        reasons.extend(unsized_operators.map(|name| format!("{name} (the size of its output depends on data)")));
        all += 1;
        executed += usize::from(reasons.is_empty());
        for operator in operators {
            let row = table.entry(operator).or_default();
            *row = (row.0 + 1, row.1 + usize::from(reasons.is_empty()));
        }
        if !reasons.is_empty() {
            let reasons: Vec<String> = reasons.into_iter().collect();
            missed.push(format!("{}: {}", outcome.case, reasons.join(", ")));
        }
    }
    for (operator, (all, executed)) in &table {
        println!("{operator}\t{executed} of {all} cases on the GPU");
    }
    missed.iter().for_each(|line| println!("not on the GPU: {line}"));
    println!("on the GPU: {executed} of {all} cases of float32, int32, uint32 and bool");
}
