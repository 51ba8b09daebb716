//! The one table of operators.

use super::{
    ALL_OPERATORS, Operator,
    arity::{ARITIES, Arity},
    attention, binary, cast, channel_norm, control, conv, conv_transpose, dropout, fill, gather, gemm, integer, join,
    lanes, layout, matmul, normalization, of_larger_build, pad, pointwise, pool, quantize, recurrent, reduce, resize,
    scatter, search, select, shape, slice, softmax, transpose, unary,
};
use crate::{
    error::{Error, ErrorCode, Result},
    gpu::kernel::AdapterKind,
    graph::{Graph, INTERNAL_DOMAIN, Node, NodeId, OperatorId, Value, ValueId, ValueType},
    tensor::{DType, Tensor, sorted_positions},
};
use std::sync::OnceLock;

/// Makes an operator from a node's attributes and version.
pub type Make = fn(&Node) -> Result<Box<dyn Operator>>;

/// One line of the table.
pub struct Entry {
    /// The domain; empty for ONNX's own.
    pub domain: &'static str,
    /// The operator's type.
    pub name: &'static str,
    /// The first opset version that this entry is right for.
    pub since: i64,
    /// Makes the operator.
    pub make: Make,
}

impl Entry {
    fn key(&self) -> (&str, &str) {
        (self.name, self.domain)
    }
}

pub(super) const fn onnx(name: &'static str, make: Make) -> Entry {
    Entry {
        domain: "",
        name,
        since: 1,
        make,
    }
}

pub(super) const fn contrib(name: &'static str, make: Make) -> Entry {
    Entry {
        domain: "com.microsoft",
        name,
        since: 1,
        make,
    }
}

#[cfg_attr(not(feature = "all-operators"), allow(dead_code))]
pub(super) const fn ml(name: &'static str, make: Make) -> Entry {
    Entry {
        domain: "ai.onnx.ml",
        name,
        since: 1,
        make,
    }
}

pub(super) const fn internal(name: &'static str, make: Make) -> Entry {
    Entry {
        domain: INTERNAL_DOMAIN,
        name,
        since: 1,
        make,
    }
}

/// Every operator: those that most models are made of, and with the feature `all-operators` the tables of the rooms of
/// rarer ones.
pub static TABLES: &[&[Entry]] = &[
    OPERATORS,
    #[cfg(any(test, feature = "all-operators"))]
    RARE,
    #[cfg(any(test, feature = "all-operators"))]
    super::sequence::OPERATORS,
    #[cfg(any(test, feature = "all-operators"))]
    super::neural::OPERATORS,
    #[cfg(any(test, feature = "all-operators"))]
    super::signal::OPERATORS,
    #[cfg(any(test, feature = "all-operators"))]
    super::text::OPERATORS,
    #[cfg(any(test, feature = "all-operators"))]
    super::ml::OPERATORS,
    #[cfg(any(test, feature = "all-operators"))]
    super::contrib::OPERATORS,
];

/// Operators of wide use, family by family.
static OPERATORS: &[Entry] = &[
    // Matrix products.
    onnx("MatMul", matmul::MatMul::plain),
    internal("FusedMatMul", matmul::MatMul::fused),
    onnx("Gemm", gemm::Gemm::make),
    internal("FusedAttention", attention::make),
    internal("Lanes", lanes::make),
    // Convolution.
    onnx("Conv", conv::Conv::make),
    onnx("ConvTranspose", conv_transpose::ConvTranspose::make),
    // Normalisation.
    onnx("BatchNormalization", channel_norm::BatchNorm::make),
    onnx("GroupNormalization", normalization::GroupNorm::group),
    onnx("InstanceNormalization", normalization::GroupNorm::instance),
    onnx("LayerNormalization", normalization::RowNorm::layer),
    onnx("RMSNormalization", normalization::RowNorm::rms),
    // Pooling.
    onnx("AveragePool", pool::Pool::average),
    onnx("GlobalAveragePool", pool::GlobalPool::average),
    onnx("GlobalMaxPool", pool::GlobalPool::max),
    onnx("MaxPool", pool::Pool::max),
    // Recurrent layers.
    onnx("GRU", recurrent::Recurrent::gru),
    onnx("LSTM", recurrent::Recurrent::lstm),
    onnx("RNN", recurrent::Recurrent::rnn),
    // Element-wise.
    onnx("Abs", unary::make),
    onnx("Acos", unary::make),
    onnx("Acosh", unary::make),
    onnx("Asin", unary::make),
    onnx("Asinh", unary::make),
    onnx("Atan", unary::make),
    onnx("Atanh", unary::make),
    onnx("BitwiseNot", unary::make),
    onnx("Ceil", unary::make),
    onnx("Celu", unary::make),
    onnx("Cos", unary::make),
    onnx("Cosh", unary::make),
    onnx("Elu", unary::make),
    onnx("Erf", unary::make),
    onnx("Exp", unary::make),
    onnx("Floor", unary::make),
    onnx("Gelu", unary::make),
    onnx("HardSigmoid", unary::make),
    onnx("HardSwish", unary::make),
    onnx("IsInf", unary::make),
    onnx("IsNaN", unary::make),
    onnx("LeakyRelu", unary::make),
    onnx("Log", unary::make),
    onnx("Mish", unary::make),
    onnx("Neg", unary::make),
    onnx("Not", unary::make),
    onnx("Reciprocal", unary::make),
    onnx("Relu", unary::make),
    onnx("Round", unary::make),
    onnx("Selu", unary::make),
    onnx("Shrink", unary::make),
    onnx("Sigmoid", unary::make),
    onnx("Sign", unary::make),
    onnx("Sin", unary::make),
    onnx("Sinh", unary::make),
    onnx("Softplus", unary::make),
    onnx("Softsign", unary::make),
    onnx("Sqrt", unary::make),
    onnx("Swish", unary::make),
    onnx("Tan", unary::make),
    onnx("Tanh", unary::make),
    onnx("ThresholdedRelu", unary::make),
    onnx("Add", binary::make),
    onnx("And", binary::make),
    onnx("BitShift", binary::make),
    onnx("BitwiseAnd", binary::make),
    onnx("BitwiseOr", binary::make),
    onnx("BitwiseXor", binary::make),
    onnx("Div", binary::make),
    onnx("Equal", binary::make),
    onnx("Greater", binary::make),
    onnx("GreaterOrEqual", binary::make),
    onnx("Less", binary::make),
    onnx("LessOrEqual", binary::make),
    onnx("Max", binary::make),
    onnx("Mean", binary::make),
    onnx("Min", binary::make),
    onnx("Mod", binary::make),
    onnx("Mul", binary::make),
    onnx("Or", binary::make),
    onnx("PRelu", binary::make),
    onnx("Pow", binary::make),
    onnx("Sub", binary::make),
    onnx("Sum", binary::make),
    onnx("SwiGLU", binary::make),
    onnx("Xor", binary::make),
    onnx("Where", select::make_where),
    onnx("Clip", select::make_clip),
    onnx("Cast", cast::make),
    onnx("CastLike", cast::make),
    internal("Pointwise", pointwise::make),
    // Shapes and views.
    onnx("Shape", shape::make_shape),
    onnx("Size", shape::make_size),
    onnx("Reshape", shape::make_reshape),
    onnx("Squeeze", shape::make_squeeze),
    onnx("Unsqueeze", shape::make_squeeze),
    onnx("Flatten", shape::make_flatten),
    onnx("Identity", shape::make_identity),
    onnx("Dropout", dropout::make),
    // Data movement.
    onnx("Transpose", transpose::make),
    onnx("Concat", join::make_concat),
    onnx("Split", join::make_split),
    onnx("Slice", slice::make_slice),
    onnx("Expand", slice::make_expand),
    onnx("Tile", slice::make_tile),
    onnx("Pad", pad::make),
    onnx("Gather", gather::make_gather),
    onnx("GatherElements", gather::make_gather_elements),
    onnx("GatherND", gather::make_gather_nd),
    onnx("Scatter", scatter::make_scatter_elements),
    onnx("ScatterElements", scatter::make_scatter_elements),
    onnx("ScatterND", scatter::make_scatter_nd),
    onnx("DepthToSpace", layout::make_depth_space),
    onnx("SpaceToDepth", layout::make_depth_space),
    onnx("Trilu", layout::make_trilu),
    onnx("Resize", resize::make),
    onnx("Upsample", resize::make),
    // Search.
    onnx("OneHot", search::make_one_hot),
    onnx("NonZero", search::make_non_zero),
    onnx("TopK", search::make_top_k),
    // Quantisation.
    onnx("QuantizeLinear", quantize::make_linear),
    onnx("DequantizeLinear", quantize::make_linear),
    onnx("DynamicQuantizeLinear", quantize::make_dynamic),
    onnx("ConvInteger", integer::make),
    onnx("MatMulInteger", integer::make),
    #[cfg(any(test, feature = "all-operators"))]
    internal("DequantizedMatMul", matmul::DequantizedMatMul::make),
    internal("IntegerConv", integer::make),
    internal("IntegerMatMul", integer::make),
    // Made from attributes and sizes.
    onnx("Constant", fill::make_constant),
    onnx("ConstantOfShape", fill::make_constant_of_shape),
    onnx("Range", fill::make_range),
    // Control flow.
    onnx("If", control::make_if),
    onnx("Loop", control::make_loop),
    // Reductions.
    onnx("ReduceL1", reduce::Reduce::l1),
    onnx("ReduceL2", reduce::Reduce::l2),
    onnx("ReduceLogSum", reduce::Reduce::log_sum),
    onnx("ReduceLogSumExp", reduce::Reduce::log_sum_exp),
    onnx("ReduceMax", reduce::Reduce::max),
    onnx("ReduceMean", reduce::Reduce::mean),
    onnx("ReduceMin", reduce::Reduce::min),
    onnx("ReduceProd", reduce::Reduce::prod),
    onnx("ReduceSum", reduce::Reduce::sum),
    onnx("ReduceSumSquare", reduce::Reduce::sum_square),
    onnx("ArgMax", reduce::ArgReduce::max),
    onnx("ArgMin", reduce::ArgReduce::min),
    onnx("CumSum", reduce::CumSum::make),
    // Softmax.
    onnx("Hardmax", softmax::Softmax::hardmax),
    onnx("LogSoftmax", softmax::Softmax::log_softmax),
    onnx("Softmax", softmax::Softmax::softmax),
];

/// Operators of these files that few models have.
#[cfg(any(test, feature = "all-operators"))]
static RARE: &[Entry] = &[
    onnx("Scan", control::make_scan),
    onnx("GlobalLpPool", pool::GlobalPool::lp),
    onnx("LpPool", pool::Pool::lp),
    onnx("LRN", channel_norm::Lrn::make),
    onnx("LpNormalization", channel_norm::AxesNorm::lp),
    onnx("MeanVarianceNormalization", channel_norm::AxesNorm::mean_variance),
    onnx("ReverseSequence", layout::make_reverse_sequence),
    onnx("Compress", search::make_compress),
    onnx("Unique", search::make_unique),
    onnx("EyeLike", fill::make_eye_like),
    onnx("SequenceMap", control::make_sequence_map),
];

/// The newest opset of ONNX's own domain that the table was written for.
pub const MAX_OPSET: i64 = 27;

/// An entry, and how many inputs and outputs its operator may have.
type Row = (&'static Entry, Option<&'static Arity>);

/// The entry for an operator, when it is supported in its version.
pub fn find(operator: &OperatorId) -> Option<&'static Entry> {
    find_row(operator).map(|row| row.0)
}

fn find_row(operator: &OperatorId) -> Option<Row> {
    static BY_NAME: OnceLock<Vec<Row>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| {
        let all: Vec<&Entry> = TABLES.iter().copied().flatten().collect();
        let order = sorted_positions(all.len(), &|a, b| all[a].key().cmp(&all[b].key()));
        order
            .into_iter()
            .map(|position| (all[position], arity_of(all[position])))
            .collect()
    });
    let key = (&*operator.name, &*operator.domain);
    let first = by_name.partition_point(|row| row.0.key() < key);
    let same = by_name[first..].iter().take_while(|row| row.0.key() == key);
    let right = same.filter(|row| row.0.since <= operator.version);
    right.max_by_key(|row| row.0.since).copied()
}

fn arity_of(entry: &Entry) -> Option<&'static Arity> {
    let (name, domain) = entry.key();
    let found = ARITIES.binary_search_by(|arity| (arity.domain, arity.name).cmp(&(domain, name)));
    found.ok().map(|index| &ARITIES[index])
}

/// Makes the operator of a node.
pub fn operator(node: &Node) -> Result<Box<dyn Operator>> {
    let (entry, arity) = find_row(&node.operator).ok_or_else(|| {
        Error::new(ErrorCode::UnsupportedOperator, "the operator is not supported")
            .at_operator(node.operator.to_string())
    })?;
    check_arity(node, arity)
        .and_then(|()| (entry.make)(node))
        .map_err(|error| error.at_node(&node.name).at_operator(node.operator.to_string()))
}

/// Checks that a node has no fewer and no more inputs and outputs than its operator's schema allows.
fn check_arity(node: &Node, arity: Option<&Arity>) -> Result<()> {
    let Some(arity) = arity else { return Ok(()) };
    let [least, most, most_outputs] = arity.bounds.map(usize::from);
    let any = usize::from(u8::MAX);
    let inputs = node.operator_inputs();
    // What is left out at the end is not there.
    let given = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let outputs = node
        .outputs
        .iter()
        .rposition(Option::is_some)
        .map_or(0, |last| last + 1);
    let wrong = |what: &str, expected: String, actual: usize| {
        let message = format!("the node has the wrong number of {what}");
        Error::new(ErrorCode::InvalidGraph, message)
            .expected(expected)
            .actual(actual.to_string())
    };
    if inputs.len() < least || (given > most && most != any) {
        let expected = match (least == most, most == any) {
            (true, _) => least.to_string(),
            (_, true) => format!("at least {least}"),
            _ => format!("{least} to {most}"),
        };
        return Err(wrong("inputs", expected, given));
    }
    if outputs > most_outputs && most_outputs != any {
        return Err(wrong("outputs", format!("at most {most_outputs}"), outputs));
    }
    Ok(())
}

/// Checks that every operator of a graph and its subgraphs is supported, and names all that are not in one error.
pub fn check(graph: &Graph) -> Result<()> {
    let mut missing = std::collections::BTreeMap::new();
    collect_missing(graph, &mut missing);
    let Some((first, (label, _))) = missing.first_key_value() else {
        if !ALL_OPERATORS && has_texts(graph) {
            let message = "the model works on tensors of strings, which takes the build with all operators";
            return Err(Error::new(ErrorCode::UnsupportedOperator, message).detail("tensors of strings"));
        }
        return Ok(());
    };
    let mut error = Error::new(
        ErrorCode::UnsupportedOperator,
        format!("the model uses {} operator(s) that are not supported", missing.len()),
    )
    .at_operator(first.to_string())
    .at_node(label.clone());
    for (operator, (label, count)) in &missing {
        let version = operator.version;
        error = error.detail(format!(
            "{operator} (opset {version}), {count} node(s), first at {label}"
        ));
    }
    Err(error)
}

/// Operators that compute in double precision in the build with all operators only, beside the reductions.
const WITHOUT_DOUBLES: &[&str] = &[
    "Conv",
    "ConvTranspose",
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "MaxPool",
    "GRU",
    "LSTM",
    "RNN",
    "ArgMax",
    "ArgMin",
    "CumSum",
    "Hardmax",
    "LogSoftmax",
    "Softmax",
];

/// Checks that this build computes with the element types of an optimized graph, as far as they are known.
pub fn check_types(graph: &Graph) -> Result<()> {
    if ALL_OPERATORS {
        return Ok(());
    }
    let is_double = |id: &ValueId| match &graph.value(*id).ty {
        ValueType::Tensor(ty) => ty.dtype == Some(DType::F64),
        _ => false,
    };
    for node in &graph.nodes {
        let name = &*node.operator.name;
        let lacks = WITHOUT_DOUBLES.contains(&name) || name.starts_with("Reduce");
        if lacks && node.inputs.iter().flatten().any(is_double) {
            return Err(of_larger_build(name).at_operator(node.operator.to_string()));
        }
        for (_, subgraph) in node.attributes.subgraphs() {
            check_types(&subgraph.graph)?;
        }
    }
    Ok(())
}

/// Operators whose GPU kernels are in the build with all operators only.
const WITHOUT_GPU_KERNELS: &[&str] = &[
    "ArgMax",
    "ArgMin",
    "BatchNormalization",
    "CumSum",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "GRU",
    "GatherElements",
    "GatherND",
    "Hardmax",
    "LSTM",
    "OneHot",
    "QuantizeLinear",
    "RNN",
    "ScatterElements",
    "ScatterND",
    "TopK",
];

/// Operators whose GPU kernels for three dimensions and more are in the build with all operators only.
const WITHOUT_GPU_VOLUMES: &[&str] = &["AveragePool", "Conv", "ConvTranspose", "MaxPool"];

/// Operators whose GPU kernels for integers of 32 bits are in the build with all operators only.
const WITHOUT_GPU_INTEGERS: &[&str] = &["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"];

/// Checks that this build has those GPU kernels for an optimized graph that the build with all operators has and that are
/// worth its download: on software adapters, fused attention is not.
pub fn check_gpu_kernels(graph: &Graph, kind: AdapterKind) -> Result<()> {
    if ALL_OPERATORS {
        return Ok(());
    }
    for node in &graph.nodes {
        let name = &*node.operator.name;
        let data = node.input(0).and_then(|id| match &graph.value(id).ty {
            ValueType::Tensor(ty) => Some(ty),
            _ => None,
        });
        // Positions and shapes are moved and sorted on the CPU.
        let is_index = data.is_some_and(|ty| ty.dtype == Some(DType::I64));
        let rank = data.and_then(|ty| ty.shape.as_ref()).map_or(0, |shape| shape.len());
        let lacks = (WITHOUT_GPU_KERNELS.contains(&name) && !is_index)
            || (WITHOUT_GPU_INTEGERS.contains(&name)
                && rank > 0
                && data.is_some_and(|ty| ty.dtype == Some(DType::I32)))
            || name.contains("Integer")
            || (WITHOUT_GPU_VOLUMES.contains(&name) && rank > 4)
            || (name == "Softmax" && kind == AdapterKind::Hardware && is_attention(graph, node));
        if lacks {
            return Err(of_larger_build(name).at_operator(node.operator.to_string()));
        }
        for (_, subgraph) in node.attributes.subgraphs() {
            check_gpu_kernels(&subgraph.graph, kind)?;
        }
    }
    Ok(())
}

/// Whether a softmax gives the weights of a matrix product.
fn is_attention(graph: &Graph, softmax: &Node) -> bool {
    let takes = |node: &Node| node.operator.name.ends_with("MatMul") && node.input(0) == softmax.output(0);
    graph.nodes.iter().any(takes)
}

/// Whether a graph or a subgraph of it has strings to begin with.
fn has_texts(graph: &Graph) -> bool {
    let is_text = |value: &Value| {
        let constant = value.constant.as_ref().map(Tensor::dtype);
        let declared = match &value.ty {
            ValueType::Tensor(ty) => ty.dtype,
            _ => None,
        };
        constant.or(declared) == Some(DType::String)
    };
    let subgraphs = || graph.nodes.iter().flat_map(|node| node.attributes.subgraphs());
    graph.values.iter().any(is_text) || subgraphs().any(|(_, subgraph)| has_texts(&subgraph.graph))
}

fn collect_missing(graph: &Graph, missing: &mut std::collections::BTreeMap<OperatorId, (String, usize)>) {
    for (index, node) in graph.nodes.iter().enumerate() {
        if find(&node.operator).is_none() {
            let label = graph.node_label(NodeId(index as u32));
            missing.entry(node.operator.clone()).or_insert((label, 0)).1 += 1;
        }
        for (_, subgraph) in node.attributes.subgraphs() {
            collect_missing(&subgraph.graph, missing);
        }
    }
}
