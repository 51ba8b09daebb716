//! Replaces an `If` whose condition is constant by the branch it takes.

use super::rewrite::Known;
use crate::{
    error::Result,
    graph::{Graph, Node, inline_subgraph},
    ops::Control,
    tensor::DType,
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    if graph
        .nodes
        .iter()
        .all(|node| node.attributes.subgraphs().next().is_none())
    {
        return Ok(false);
    }
    let analysis = known.analysis(graph)?;
    let nodes = std::mem::take(&mut graph.nodes);
    let mut result: Vec<Node> = Vec::with_capacity(nodes.len());
    let mut changed = false;
    for (node, operator) in nodes.into_iter().zip(analysis.operators.iter()) {
        let taken = match (operator.control(), node.input(0)) {
            (Some(Control::If), Some(condition)) => {
                analysis.facts[condition.index()].constant.as_ref().and_then(|tensor| {
                    let is_truth = tensor.dtype() == DType::Bool && tensor.len() == 1;
                    is_truth.then(|| tensor.bytes()[0] != 0)
                })
            }
            _ => None,
        };
        let branch = taken.map(|taken| if taken { "then_branch" } else { "else_branch" });
        match branch.map(|name| node.attributes.graph(name)).transpose()?.flatten() {
            Some(subgraph) => {
                let subgraph = subgraph.clone();
                result.extend(inline_subgraph(graph, &subgraph, &node.outputs)?);
                changed = true;
            }
            None => result.push(node),
        }
    }
    graph.nodes = result;
    Ok(changed)
}
