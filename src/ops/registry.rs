//! The one table of operators.

use super::{Operator, conv, gemm, matmul, reduce, softmax};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::{Graph, INTERNAL_DOMAIN, Node, NodeId, OperatorId},
};

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

const fn onnx(name: &'static str, make: Make) -> Entry {
    Entry {
        domain: "",
        name,
        since: 1,
        make,
    }
}

const fn contrib(name: &'static str, make: Make) -> Entry {
    Entry {
        domain: "com.microsoft",
        name,
        since: 1,
        make,
    }
}

const fn internal(name: &'static str, make: Make) -> Entry {
    Entry {
        domain: INTERNAL_DOMAIN,
        name,
        since: 1,
        make,
    }
}

/// Every operator, family by family.
pub static OPERATORS: &[Entry] = &[
    // Matrix products.
    onnx("MatMul", matmul::MatMul::plain),
    contrib("FusedMatMul", matmul::MatMul::fused),
    internal("FusedMatMul", matmul::MatMul::fused),
    onnx("Gemm", gemm::Gemm::make),
    // Convolution.
    onnx("Conv", conv::Conv::make),
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

/// The newest opset of ONNX's own domain that the table was written for.
pub const MAX_OPSET: i64 = 27;

/// The entry for an operator, when it is supported in its version.
pub fn find(operator: &OperatorId) -> Option<&'static Entry> {
    let same = |entry: &&Entry| {
        entry.name == &*operator.name && entry.domain == &*operator.domain && entry.since <= operator.version
    };
    OPERATORS.iter().filter(same).max_by_key(|entry| entry.since)
}

/// Makes the operator of a node.
pub fn operator(node: &Node) -> Result<Box<dyn Operator>> {
    let entry = find(&node.operator).ok_or_else(|| {
        Error::new(ErrorCode::UnsupportedOperator, "the operator is not supported")
            .at_operator(node.operator.to_string())
    })?;
    (entry.make)(node).map_err(|error| error.at_node(&node.name).at_operator(node.operator.to_string()))
}

/// Checks that every operator of a graph and its subgraphs is supported, and names all that are not in one error.
pub fn check(graph: &Graph) -> Result<()> {
    let mut missing = std::collections::BTreeMap::new();
    collect_missing(graph, &mut missing);
    let Some((first, (label, _))) = missing.first_key_value() else {
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
