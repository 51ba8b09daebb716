//! Removes nodes that hand on their first input unchanged.

use super::rewrite::{Known, replace_uses, retain_nodes};
use crate::{
    error::Result,
    graph::{Graph, Node, ValueId},
    ops::ValueFacts,
    tensor::{Tensor, map::HashMap},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let facts = &analysis.facts;
    let mut replaced: HashMap<ValueId, ValueId> = HashMap::new();
    let mut removed = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        let (Some(input), Some(output)) = (node.input(0), node.output(0)) else {
            continue;
        };
        let only_output = node.outputs.iter().skip(1).all(Option::is_none);
        if only_output && node.epilogue.is_none() && is_identity(node, facts)? {
            replaced.insert(output, input);
            removed[index] = true;
        }
    }
    replace_uses(graph, &replaced);
    retain_nodes(graph, |index| !removed[index]);
    Ok(!replaced.is_empty())
}

fn is_identity(node: &Node, facts: &[ValueFacts]) -> Result<bool> {
    if !node.operator.domain.is_empty() {
        return Ok(false);
    }
    let fact = |id: Option<ValueId>| id.map(|id| &facts[id.index()]);
    let (Some(input), Some(output)) = (fact(node.input(0)), fact(node.output(0))) else {
        return Ok(false);
    };
    let same_shape = input.shape.is_some() && input.shape == output.shape;
    let same_type = input.dtype.is_some() && input.dtype == output.dtype;
    let ints = |index: usize| fact(node.input(index)).and_then(|facts| facts.constant.as_ref()?.to_i64s().ok());
    Ok(match &*node.operator.name {
        "Identity" => input.dtype.is_some(),
        "Cast" | "CastLike" => same_type,
        "Dropout" => match fact(node.input(2)) {
            // Opset 12 and later train when told so by an input; before, by an attribute of opset 6 and earlier.
            Some(training) => training.constant.as_ref().is_some_and(|tensor| tensor.bytes() == [0]),
            None => node.operator.version >= 7 || node.attributes.flag("is_test", false)?,
        },
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" => same_shape && same_type,
        "Slice" if same_shape => match node.input(4) {
            None => true,
            Some(_) => ints(4).is_some_and(|steps| steps.iter().all(|&step| step > 0)),
        },
        "Tile" => ints(1).is_some_and(|repeats| repeats.iter().all(|&count| count == 1)),
        "Transpose" => {
            let perm = node.attributes.ints("perm")?;
            perm.is_some_and(|perm| perm.iter().enumerate().all(|(axis, &from)| axis as i64 == from))
        }
        "Pad" => {
            let pads = match node.attributes.ints("pads")? {
                Some(pads) => Some(pads.to_vec()),
                None => ints(1),
            };
            pads.is_some_and(|pads| pads.iter().all(|&pad| pad == 0))
        }
        "Concat" | "Sum" | "Max" | "Min" | "Mean" => node.inputs.len() == 1,
        // x * 1, x / 1 and x ^ 1 are exact for every x; x + 0 is not, for -0.
        "Mul" => same_shape && same_type && is_all_ones(fact(node.input(1))),
        "Div" | "Pow" => same_shape && same_type && is_all_ones(fact(node.input(1))),
        "Clip" => {
            let attributes = node.attributes.get("min").is_some() || node.attributes.get("max").is_some();
            let unbounded_version = node.operator.version >= 11 || !attributes;
            unbounded_version && node.input(1).is_none() && node.input(2).is_none() && !attributes
        }
        _ => false,
    })
}

fn is_all_ones(facts: Option<&ValueFacts>) -> bool {
    const MAX_COMPARED: usize = 4096;
    let Some(tensor) = facts.and_then(|facts| facts.constant.as_ref()) else {
        return false;
    };
    if tensor.len() > MAX_COMPARED {
        return false;
    }
    let all_ints = |tensor: &Tensor| tensor.to_i64s().is_ok_and(|values| values.iter().all(|&v| v == 1));
    tensor
        .to_f32s()
        .map_or_else(|_| all_ints(tensor), |values| values.iter().all(|&v| v == 1.0))
}
