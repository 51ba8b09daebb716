//! Puts the nodes of a subgraph into the graph around it.

use super::{Graph, Node, OperatorId, Subgraph, ValueId, topological_order};
use crate::error::{Error, ErrorCode, Result};

/// More nodes than this in one graph can only come from nested branches that multiply.
const MAX_NODES: usize = 1 << 20;

/// Copies `subgraph`'s values into `graph` and returns its nodes, renamed to the graph's values and in an order they can
/// run in. Its outputs become `outputs`, by `Identity` nodes. The nodes are not added: the caller knows where they go.
/// The subgraph must have no inputs of its own, as the branches of an `If` do.
pub fn inline_subgraph(graph: &mut Graph, subgraph: &Subgraph, outputs: &[Option<ValueId>]) -> Result<Vec<Node>> {
    let inner = &subgraph.graph;
    if inner.outputs.len() < outputs.len() || !inner.inputs.is_empty() {
        return Err(Error::new(
            ErrorCode::InvalidGraph,
            "a branch has the wrong number of inputs or outputs",
        )
        .expected(format!("no input and {} outputs", outputs.len()))
        .actual(format!(
            "{} inputs and {} outputs",
            inner.inputs.len(),
            inner.outputs.len()
        )));
    }
    if graph.nodes.len() + inner.nodes.len() > MAX_NODES {
        return Err(Error::new(
            ErrorCode::LimitExceeded,
            "the branches of the graph grow beyond all bounds",
        ));
    }
    let mut outer_of: Vec<Option<ValueId>> = vec![None; inner.values.len()];
    for (&inner_id, &outer) in inner.captures.iter().zip(&subgraph.captures) {
        outer_of[inner_id.index()] = Some(outer);
    }
    for (slot, value) in outer_of.iter_mut().zip(&inner.values) {
        if slot.is_none() {
            *slot = Some(graph.add_value(value.clone()));
        }
    }
    let outer = |id: ValueId| outer_of.get(id.index()).copied().flatten();
    let mut nodes = Vec::with_capacity(inner.nodes.len() + outputs.len());
    for inner_id in topological_order(inner)? {
        let mut copy = inner.nodes[inner_id.index()].clone();
        copy.inputs.iter_mut().for_each(|value| *value = value.and_then(outer));
        copy.outputs.iter_mut().for_each(|value| *value = value.and_then(outer));
        for subgraph in copy.attributes.subgraphs_mut() {
            for capture in &mut subgraph.captures {
                *capture = outer(*capture).ok_or_else(|| Error::internal("a branch captures an unknown value"))?;
            }
        }
        nodes.push(copy);
    }
    for (&output, &inner_output) in outputs.iter().zip(&inner.outputs) {
        if let Some(output) = output {
            let operator = OperatorId::new("", "Identity", 13);
            let mut identity = Node::new(operator, vec![outer(inner_output)], vec![Some(output)]);
            identity.name = inner.value(inner_output).name.clone();
            nodes.push(identity);
        }
    }
    Ok(nodes)
}
