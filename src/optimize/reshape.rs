//! Gives Reshape a constant target where inference knows the result up to one dimension: sizes that are known, 0 for
//! those taken over from the input, -1 for one more. The nodes that computed the target die.

use super::rewrite::Known;
use crate::{
    error::Result,
    graph::{Graph, NodeId, ValueId},
    tensor::{Dim, Tensor},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let facts = &analysis.facts;
    let mut targets: Vec<(NodeId, Tensor)> = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if !node.operator.is_onnx("Reshape") || node.attributes.flag("allowzero", false)? {
            continue;
        }
        let (Some(data), Some(shape), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            continue;
        };
        if facts[shape.index()].constant.is_some() {
            continue;
        }
        let (Some(from), Some(to)) = (&facts[data.index()].shape, &facts[output.index()].shape) else {
            continue;
        };
        if let Some(target) = target_of(from, to) {
            let len = target.len();
            targets.push((NodeId(index as u32), Tensor::new(&[len], target)?));
        }
    }
    let changed = !targets.is_empty();
    for (id, tensor) in targets {
        let name = format!("{}.shape", graph.node_label(id));
        let constant: ValueId = graph.add_constant(name, tensor);
        graph.nodes[id.index()].inputs[1] = Some(constant);
    }
    Ok(changed)
}

fn target_of(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    // Beside a size that may be 0 in a run, -1 would have no answer.
    let (mut inferred, mut taken_over) = (false, false);
    let mut target = Vec::with_capacity(to.len());
    for (axis, dim) in to.iter().enumerate() {
        target.push(match dim.known() {
            // A known 0 would be read as "take over".
            Some(0) => return None,
            Some(size) => size,
            None if from.get(axis) == Some(dim) => {
                taken_over = true;
                0
            }
            None if !inferred => {
                inferred = true;
                -1
            }
            None => return None,
        });
    }
    if inferred && taken_over { None } else { Some(target) }
}
