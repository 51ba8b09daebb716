//! Turns captured constants into constants of the subgraph itself.

use super::rewrite::Known;
use crate::{
    error::Result,
    graph::{Graph, Subgraph},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let mut changed = false;
    // The capture stays in the list for now, so that it pairs up with what the node around the graph gives; a value
    // with a constant is not asked for.
    for (&id, facts) in graph.captures.iter().zip(known.captures) {
        if let Some(constant) = &facts.constant
            && graph.values[id.index()].constant.is_none()
        {
            graph.values[id.index()].constant = Some(constant.clone());
            changed = true;
        }
    }
    Ok(changed)
}

/// Drops the captures that are constants by now, or that nothing inside uses.
pub(super) fn drop_unused(subgraph: &mut Subgraph) {
    let counts = subgraph.graph.use_counts();
    let inner = std::mem::take(&mut subgraph.graph.captures);
    let outer = std::mem::take(&mut subgraph.captures);
    for (inner, outer) in inner.into_iter().zip(outer) {
        if counts[inner.index()] > 0 && subgraph.graph.values[inner.index()].constant.is_none() {
            subgraph.graph.captures.push(inner);
            subgraph.captures.push(outer);
        }
    }
}
