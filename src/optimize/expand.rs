//! Puts what a node stands for in its place: operators that are no more than a few simpler ones.

use crate::{
    error::Result,
    graph::{Graph, Node, inline_subgraph},
    ops::{ValueFacts, infer::bind},
};

pub(super) fn run(graph: &mut Graph, _: &[ValueFacts]) -> Result<bool> {
    let operators = bind(graph)?;
    let nodes = std::mem::take(&mut graph.nodes);
    let mut result: Vec<Node> = Vec::with_capacity(nodes.len());
    let mut changed = false;
    for (node, operator) in nodes.into_iter().zip(operators) {
        match operator.body(&node) {
            Some((body, outputs)) => {
                result.extend(inline_subgraph(graph, &body, &outputs)?);
                changed = true;
            }
            None => result.push(node),
        }
    }
    graph.nodes = result;
    Ok(changed)
}
