//! Computes equal things once: equal small constants become one, equal nodes on equal inputs too.

use super::rewrite::{Known, replace_uses};
use crate::{
    error::Result,
    graph::{Graph, NodeId, OperatorId, ValueId},
    tensor::{DType, map::HashMap},
};

/// Larger constants are not compared.
const MAX_COMPARED_BYTES: usize = 1024;

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let mut replaced: HashMap<ValueId, ValueId> = HashMap::new();
    let mut constants: HashMap<(DType, Vec<usize>, Vec<u8>), ValueId> = HashMap::new();
    let counts = graph.use_counts();
    for index in 0..graph.values.len() {
        let id = ValueId(index as u32);
        if counts[index] == 0 {
            continue;
        }
        let Some(tensor) = graph.constant(id) else { continue };
        if tensor.byte_len() > MAX_COMPARED_BYTES || tensor.dtype() == DType::String {
            continue;
        }
        let key = (tensor.dtype(), tensor.shape().to_vec(), tensor.bytes().to_vec());
        let first = *constants.entry(key).or_insert(id);
        if first != id {
            replaced.insert(id, first);
        }
    }
    replace_uses(graph, &replaced);
    let mut changed = !replaced.is_empty();
    if changed {
        known.forget();
    }

    let operators = known.operators(graph)?;
    type Key = (OperatorId, Vec<Option<ValueId>>, usize);
    let mut seen: HashMap<Key, Vec<NodeId>> = HashMap::new();
    let mut replaced: HashMap<ValueId, ValueId> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if !operators[index].is_deterministic() || node.epilogue.is_some() {
            continue;
        }
        let resolve = |id: &Option<ValueId>| id.map(|id| replaced.get(&id).copied().unwrap_or(id));
        let key = (
            node.operator.clone(),
            node.inputs.iter().map(resolve).collect::<Vec<_>>(),
            node.outputs.len(),
        );
        let candidates = seen.entry(key).or_default();
        let twin = candidates.iter().map(|id| &graph.nodes[id.index()]).find(|twin| {
            let covers = |(own, other): (&Option<ValueId>, &Option<ValueId>)| own.is_none() || other.is_some();
            twin.attributes.same_as(&node.attributes) && node.outputs.iter().zip(&twin.outputs).all(covers)
        });
        match twin {
            Some(twin) => {
                let pairs = node.outputs.iter().zip(&twin.outputs);
                replaced.extend(pairs.filter_map(|(own, other)| Some(((*own)?, (*other)?))));
            }
            None => candidates.push(NodeId(index as u32)),
        }
    }
    changed |= !replaced.is_empty();
    replace_uses(graph, &replaced);
    Ok(changed)
}
