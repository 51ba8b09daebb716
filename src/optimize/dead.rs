//! Removes nodes whose results nobody uses, outputs nobody asks for, and constants nobody reads.

use super::rewrite::{Known, retain_nodes};
use crate::{error::Result, graph::Graph};

pub(super) fn run(graph: &mut Graph, _known: &Known<'_>) -> Result<bool> {
    let mut live = vec![false; graph.values.len()];
    for id in &graph.outputs {
        live[id.index()] = true;
    }
    let mut used = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if node.outputs.iter().flatten().any(|id| live[id.index()]) {
            used[index] = true;
            for id in node.dependencies() {
                live[id.index()] = true;
            }
        }
    }
    let mut changed = used.iter().any(|used| !used);
    retain_nodes(graph, |index| used[index]);
    for node in &mut graph.nodes {
        // A loop's outputs are counted to tell its states from its lists.
        if node.attributes.subgraphs().next().is_some() {
            continue;
        }
        for output in node.outputs.iter_mut().skip(1) {
            if output.is_some_and(|id| !live[id.index()]) {
                *output = None;
                changed = true;
            }
        }
        while node.outputs.len() > 1 && node.outputs.last() == Some(&None) {
            node.outputs.pop();
        }
    }
    let inputs: Vec<_> = graph.inputs.clone();
    for (index, value) in graph.values.iter_mut().enumerate() {
        if !live[index] && value.constant.is_some() && !inputs.iter().any(|id| id.index() == index) {
            value.constant = None;
        }
    }
    Ok(changed)
}
