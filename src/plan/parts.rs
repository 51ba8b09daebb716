//! Finds values that can lie within others, so that nothing is copied to join or to split them: the inputs of a
//! concatenation along the outermost dimension are made in their places in the output, and the parts of such a split are
//! places in the input.

use std::collections::BTreeSet;

use super::{
    memory::ALIGNMENT,
    place::{Lowered, Placed},
};
use crate::{
    cpu::kernel::Layout,
    error::Result,
    graph::{Graph, NodeId, ValueId},
    tensor::map::{HashMap, HashSet},
};

/// A value's place in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The other value.
    pub whole: ValueId,
    /// Bytes from its start.
    pub offset: usize,
}

/// What a segment's values have to do with each other in memory.
pub(super) struct Values<'a> {
    pub graph: &'a Graph,
    /// For a view, the value whose memory it shows.
    pub root: &'a HashMap<ValueId, ValueId>,
    /// Values whose memory must outlive the segment.
    pub owned: &'a BTreeSet<ValueId>,
    /// The bytes that a value takes.
    pub len: &'a dyn Fn(ValueId) -> Result<usize>,
}

/// Values that lie within others, and the nodes that have nothing to do then.
#[derive(Default)]
pub(super) struct Parts {
    pub part: HashMap<ValueId, Part>,
    pub idle: HashSet<NodeId>,
}

impl Parts {
    pub fn find(values: &Values<'_>, placed: &[Placed]) -> Result<Parts> {
        let mut made = HashSet::new();
        for entry in placed {
            if let Lowered::Cpu(_) = entry.lowered {
                made.extend(values.graph.nodes[entry.node.index()].outputs.iter().flatten().copied());
            }
        }
        let mut parts = Parts::default();
        // From the back: what is joined again and again lies in the last whole.
        for entry in placed.iter().rev() {
            let Lowered::Cpu(kernel) = &entry.lowered else { continue };
            let node = &values.graph.nodes[entry.node.index()];
            // Only what this segment makes in its own memory can be laid elsewhere.
            let movable = |id: ValueId| made.contains(&id) && !values.owned.contains(&id);
            let root = |id: ValueId| values.root.get(&id).copied().unwrap_or(id);
            let found = match &kernel.layout {
                Layout::Own => None,
                Layout::Joined => {
                    let inputs = node.inputs.iter().flatten().map(|&id| root(id));
                    let inputs: Vec<ValueId> = inputs.collect();
                    let whole = node.output(0).filter(|&id| movable(id));
                    match whole.filter(|_| inputs.iter().all(|&id| movable(id))) {
                        Some(whole) => parts.join(values, &inputs, whole)?,
                        None => None,
                    }
                }
                Layout::Parts(offsets) => {
                    let whole = node.input(0).map(root).filter(|&id| movable(id));
                    let outputs = node.outputs.iter().flatten().copied();
                    let places: Vec<(ValueId, usize)> = outputs.zip(offsets.iter().copied()).collect();
                    let free = |&(id, offset): &(ValueId, usize)| {
                        movable(id) && !parts.part.contains_key(&id) && offset % ALIGNMENT == 0
                    };
                    let fits = places.len() == node.outputs.len() && places.iter().all(free);
                    whole.filter(|_| fits).map(|whole| {
                        let part = |(id, offset)| (id, Part { whole, offset });
                        places.into_iter().map(part).collect::<Vec<_>>()
                    })
                }
            };
            if let Some(found) = found {
                parts.part.extend(found);
                parts.idle.insert(entry.node);
            }
        }
        Ok(parts)
    }

    /// Where `inputs` lie when they make up `whole` one after another: in it, or it where they lie already.
    fn join(&self, values: &Values<'_>, inputs: &[ValueId], whole: ValueId) -> Result<Option<Vec<(ValueId, Part)>>> {
        let mut end = 0;
        let mut places = Vec::with_capacity(inputs.len());
        for &id in inputs {
            let len = (values.len)(id)?;
            if end % ALIGNMENT != 0 || len == 0 || places.iter().any(|&(other, _)| other == id) {
                return Ok(None);
            }
            places.push((id, end));
            end += len;
        }
        if end != (values.len)(whole)? {
            return Ok(None);
        }
        if places.iter().all(|(id, _)| !self.part.contains_key(id)) {
            let part = |(id, offset)| (id, Part { whole, offset });
            return Ok(Some(places.into_iter().map(part).collect()));
        }
        let Some(first) = inputs.first().and_then(|id| self.part.get(id)) else {
            return Ok(None);
        };
        let lies = |&(id, offset): &(ValueId, usize)| {
            let expected = Part {
                whole: first.whole,
                offset: first.offset + offset,
            };
            self.part.get(&id) == Some(&expected)
        };
        let together = places.iter().all(lies) && !self.part.contains_key(&whole) && first.whole != whole;
        Ok(together.then(|| vec![(whole, *first)]))
    }

    /// The value that a value lies in at last, and where.
    pub fn resolve(&self, id: ValueId) -> Part {
        let mut place = Part { whole: id, offset: 0 };
        while let Some(part) = self.part.get(&place.whole) {
            place = Part {
                whole: part.whole,
                offset: place.offset + part.offset,
            };
        }
        place
    }
}
