//! Replaces what is known by constants: nodes whose inputs are all constant, and integer values whose elements shape
//! inference found, which is where chains of Shape, Gather, Concat and Reshape end.

use super::{
    rewrite::{Known, retain_nodes},
    widen,
};
use crate::{
    error::Result,
    graph::{Graph, NodeId},
    ops::{ValueFacts, evaluate::evaluate, infer::infer_node},
    tensor::Tensor,
};

/// A folded result may be this large whatever its inputs are.
const ALWAYS_BYTES: usize = 1 << 16;
/// Beyond that it may be larger than its inputs by this factor (f16 and int8 weights widen).
const GROWTH: usize = 4;
/// Unknown sizes that come up while folding are none of those that the analysis has numbered.
const FIRST_FRESH: u32 = u32::MAX / 2;

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let (operators, mut facts) = (&analysis.operators, analysis.facts.clone());
    // What is folded tells more about the nodes behind it.
    let mut told = vec![false; graph.values.len()];
    let mut fresh = FIRST_FRESH;
    let mut folded = vec![false; graph.nodes.len()];
    let kept = widen::kept_weights(graph, &facts);
    let mut constants = Vec::new();
    for index in 0..graph.nodes.len() {
        let id = NodeId(index as u32);
        let node = &graph.nodes[index];
        if node.dependencies().any(|id| told[id.index()]) {
            infer_node(graph, id, node, &*operators[index], &mut facts, &mut fresh)?;
            node.outputs.iter().flatten().for_each(|id| told[id.index()] = true);
        }
        if kept[index] || !operators[index].is_deterministic() || node.outputs.iter().all(Option::is_none) {
            continue;
        }
        let by_inference: Option<Vec<Option<Tensor>>> = node
            .outputs
            .iter()
            .map(|id| id.map(|id| facts[id.index()].known_tensor()).transpose_known())
            .collect();
        let results = match by_inference {
            Some(tensors) => Some(tensors),
            None if inputs_are_constant(graph, index, &facts) && is_small(graph, index, &facts) => {
                evaluate(graph, id, &operators[index], &mut facts)?
            }
            None => None,
        };
        let Some(results) = results else { continue };
        for (output, tensor) in node.outputs.iter().zip(results) {
            if let (Some(output), Some(tensor)) = (output, tensor) {
                facts[output.index()] = ValueFacts::of_constant(&tensor);
                told[output.index()] = true;
                constants.push((*output, tensor));
            }
        }
        folded[index] = true;
    }
    if constants.is_empty() {
        return Ok(false);
    }
    for (id, tensor) in constants {
        graph.values[id.index()].constant = Some(tensor);
    }
    retain_nodes(graph, |index| !folded[index]);
    Ok(true)
}

trait TransposeKnown {
    /// `None` (not wanted) stays wanted by nobody; a wanted output must be known.
    fn transpose_known(self) -> Option<Option<Tensor>>;
}

impl TransposeKnown for Option<Option<Tensor>> {
    fn transpose_known(self) -> Option<Option<Tensor>> {
        match self {
            None => Some(None),
            Some(None) => None,
            Some(known) => Some(known),
        }
    }
}

fn inputs_are_constant(graph: &Graph, index: usize, facts: &[ValueFacts]) -> bool {
    let mut inputs = graph.nodes[index].inputs.iter().flatten();
    inputs.all(|id| facts[id.index()].constant.is_some())
}

fn is_small(graph: &Graph, index: usize, facts: &[ValueFacts]) -> bool {
    let node = &graph.nodes[index];
    let inputs = node
        .inputs
        .iter()
        .flatten()
        .filter_map(|id| facts[id.index()].constant.as_ref());
    let input_bytes: usize = inputs.map(|tensor| tensor.byte_len()).sum();
    let output_bytes = node.outputs.iter().flatten().try_fold(0usize, |sum, id| {
        let facts = &facts[id.index()];
        let count = facts
            .concrete_shape()?
            .iter()
            .try_fold(1usize, |count, &dim| count.checked_mul(dim))?;
        sum.checked_add(facts.dtype?.byte_len(count).unwrap_or(count.checked_mul(16)?))
    });
    output_bytes.is_some_and(|bytes| bytes <= ALWAYS_BYTES || bytes <= input_bytes.saturating_mul(GROWTH))
}

#[cfg(test)]
mod tests {
    use super::super::{Level, optimize};
    use crate::{graph::GraphBuilder, tensor::DType, tensor::Dim};

    #[test]
    fn numbers_of_elements_that_only_a_run_tells_are_told_apart() {
        let mut builder = GraphBuilder::new(17);
        let counts: Vec<_> = ["a", "b"]
            .iter()
            .map(|name| {
                let input = builder.input(name, DType::F32, vec![Dim::from(8)]);
                let found = builder.node("NonZero", &[input]);
                builder.node("Shape", &[found])
            })
            .collect();
        let equal = builder.node("Equal", &counts);
        let graph = builder.output("equal", equal).finish().unwrap();
        let optimized = optimize(graph, Level::Basic).unwrap();
        assert!(
            optimized.nodes.iter().any(|node| node.operator.is_onnx("Equal")),
            "the sizes may differ"
        );
    }
}
