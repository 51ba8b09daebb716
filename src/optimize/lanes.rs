//! Makes one step of what cuts the last axis into pieces, negates some and joins them in another order, as rotary position
//! embeddings do in whatever form they are written.

use super::rewrite::{Analysis, Known};
use crate::{
    error::Result,
    graph::{Attribute, Graph, Node, NodeId, OperatorId, ValueId},
    tensor::{DType, Dim, resolve_axis},
};

/// Longer axes are left alone.
const MAX_LANES: usize = 4096;
/// A value is followed back over so many nodes.
const MAX_DEPTH: usize = 12;

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    if !graph.nodes.iter().any(|node| node.operator.is_onnx("Concat")) {
        return Ok(false);
    }
    let analysis = known.analysis(graph)?;
    let producers = graph.producers();
    let search = Search {
        graph,
        analysis: &analysis,
        producers: &producers,
    };
    let mut found = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let is_end = node.operator.is_onnx("Concat") || node.operator.is_onnx("Reshape");
        let (true, Some(output)) = (is_end, node.output(0)) else {
            continue;
        };
        let Some(lanes) = search.lanes(output, MAX_DEPTH)? else {
            continue;
        };
        let (from, to) = (search.shape(lanes.source), search.shape(output));
        let same_rows = match (from, to) {
            (Some([from @ .., _]), Some([to @ .., _])) => from == to,
            _ => false,
        };
        if lanes.is_joined && lanes.inner == 1 && same_rows {
            found.push((NodeId(index as u32), lanes));
        }
    }
    let changed = !found.is_empty();
    for (id, lanes) in found {
        let name = graph.node_label(id);
        let node = &mut graph.nodes[id.index()];
        let mut lane = Node::new(
            OperatorId::internal("Lanes"),
            vec![Some(lanes.source)],
            node.outputs.clone(),
        );
        lane.name = name;
        lane.attributes.set("lanes", Attribute::Ints(lanes.list));
        *node = lane;
    }
    Ok(changed)
}

/// What a value's last axis, or its last two, are made of: lane `i` of the source's last axis, or where it is negated
/// `-1 - i`.
struct Lanes {
    source: ValueId,
    list: Vec<i64>,
    /// The size of a further axis behind.
    inner: usize,
    is_joined: bool,
}

struct Search<'a> {
    graph: &'a Graph,
    analysis: &'a Analysis,
    producers: &'a [Option<NodeId>],
}

impl Search<'_> {
    fn shape(&self, value: ValueId) -> Option<&[Dim]> {
        self.analysis.facts[value.index()].shape.as_deref()
    }

    fn ints(&self, value: Option<ValueId>) -> Option<Vec<i64>> {
        self.analysis.facts[value?.index()].constant.as_ref()?.to_i64s().ok()
    }

    /// The lanes of a value; of one that is made in another way, its own.
    fn lanes_or_own(&self, value: ValueId, depth: usize) -> Result<Option<Lanes>> {
        if let Some(lanes) = self.lanes(value, depth)? {
            return Ok(Some(lanes));
        }
        let is_f32 = self.analysis.facts[value.index()].dtype == Some(DType::F32);
        let last = self.shape(value).and_then(<[Dim]>::last).and_then(Dim::size);
        let last = last.filter(|&last| is_f32 && last <= MAX_LANES);
        Ok(last.map(|last| Lanes {
            source: value,
            list: (0..last as i64).collect(),
            inner: 1,
            is_joined: false,
        }))
    }

    fn lanes(&self, value: ValueId, depth: usize) -> Result<Option<Lanes>> {
        let Some(id) = self.producers[value.index()].filter(|_| depth > 0) else {
            return Ok(None);
        };
        let node = &self.graph.nodes[id.index()];
        let (Some(input), true) = (
            node.input(0),
            node.operator.domain.is_empty() && node.epilogue.is_none(),
        ) else {
            return Ok(None);
        };
        let (Some(from), Some(to)) = (self.shape(input), self.shape(value)) else {
            return Ok(None);
        };
        match &*node.operator.name {
            "Slice" => {
                let Some(piece) = self.piece(node, from)? else {
                    return Ok(None);
                };
                let lanes = self.lanes_or_own(input, depth - 1)?.filter(|lanes| lanes.inner == 1);
                Ok(lanes.map(|lanes| Lanes {
                    list: piece.iter().filter_map(|&at| lanes.list.get(at).copied()).collect(),
                    ..lanes
                }))
            }
            "Split" => {
                let axis = resolve_axis(node.attributes.int("axis")?.unwrap_or(0), from.len())?;
                let sizes = node.outputs.iter().map(|id| self.shape((*id)?)?.get(axis)?.size());
                let (true, Some(sizes)) = (axis + 1 == from.len(), sizes.collect::<Option<Vec<usize>>>()) else {
                    return Ok(None);
                };
                let own = node.outputs.iter().position(|id| *id == Some(value)).unwrap_or(0);
                let start: usize = sizes[..own].iter().sum();
                let lanes = self.lanes_or_own(input, depth - 1)?.filter(|lanes| lanes.inner == 1);
                Ok(lanes.and_then(|lanes| {
                    Some(Lanes {
                        list: lanes.list.get(start..start + sizes[own])?.to_vec(),
                        ..lanes
                    })
                }))
            }
            "Neg" => Ok(self.lanes_or_own(input, depth - 1)?.map(|mut lanes| {
                lanes.list.iter_mut().for_each(|lane| *lane = -1 - *lane);
                lanes
            })),
            "Unsqueeze" => {
                let axes = match node.attributes.ints("axes")? {
                    Some(axes) => Some(axes.to_vec()),
                    None => self.ints(node.input(1)),
                };
                let is_last = match axes.as_deref() {
                    Some(&[axis]) => resolve_axis(axis, to.len())? + 1 == to.len(),
                    _ => false,
                };
                let lanes = self.lanes_or_own(input, depth - 1)?;
                Ok(lanes
                    .filter(|lanes| is_last && lanes.inner == 1)
                    .map(|lanes| Lanes { inner: 0, ..lanes }))
            }
            "Concat" => self.joined(node, to.len(), depth),
            "Reshape" => {
                let lanes = self.lanes(input, depth - 1)?.filter(|lanes| lanes.inner == 0);
                let flat = matches!((from, to), ([a @ .., _, _], [b @ .., _]) if a == b);
                let Some(lanes) = lanes.filter(|_| flat) else {
                    return Ok(None);
                };
                let fits = to.last().and_then(Dim::size) == Some(lanes.list.len());
                Ok(fits.then_some(Lanes { inner: 1, ..lanes }))
            }
            _ => Ok(None),
        }
    }

    /// The places on the last axis that a Slice takes, when it cuts nothing else.
    fn piece(&self, node: &Node, from: &[Dim]) -> Result<Option<Vec<usize>>> {
        let list = |name: &str, index: usize| -> Result<Option<Vec<i64>>> {
            Ok(match node.attributes.ints(name)? {
                Some(list) => Some(list.to_vec()),
                None => self.ints(node.input(index)),
            })
        };
        let (Some(&[start]), Some(&[end])) = (list("starts", 1)?.as_deref(), list("ends", 2)?.as_deref()) else {
            return Ok(None);
        };
        let axis = match list("axes", 3)?.as_deref() {
            Some(&[axis]) => resolve_axis(axis, from.len())?,
            _ => return Ok(None),
        };
        let step = match (node.input(4), list("steps", 4)?.as_deref()) {
            (None, _) => 1,
            (Some(_), Some(&[step])) if step > 0 => step,
            _ => return Ok(None),
        };
        let Some(size) = from.last().and_then(Dim::size).filter(|_| axis + 1 == from.len()) else {
            return Ok(None);
        };
        let size = size as i64;
        let bound = |at: i64| (if at < 0 { at.saturating_add(size) } else { at }).clamp(0, size) as usize;
        Ok(Some((bound(start)..bound(end)).step_by(step as usize).collect()))
    }

    /// The lanes of a Concat of lanes of one source along the last axis.
    fn joined(&self, node: &Node, rank: usize, depth: usize) -> Result<Option<Lanes>> {
        if resolve_axis(node.attributes.int("axis")?.unwrap_or(0), rank)? + 1 != rank {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(node.inputs.len());
        for input in node.inputs.iter().flatten() {
            match self.lanes_or_own(*input, depth - 1)? {
                Some(lanes) => parts.push(lanes),
                None => return Ok(None),
            }
        }
        let Some(first) = parts.first() else { return Ok(None) };
        let (source, inner, count) = (first.source, first.inner, first.list.len());
        let total: usize = parts.iter().map(|part| part.list.len()).sum();
        if parts.iter().any(|part| part.source != source || part.inner != inner) || total > MAX_LANES {
            return Ok(None);
        }
        let list = if inner == 1 {
            parts.iter().flat_map(|part| part.list.iter().copied()).collect()
        } else {
            // Each has one element on the axis behind: they take turns.
            if parts.iter().any(|part| part.list.len() != count) {
                return Ok(None);
            }
            (0..count)
                .flat_map(|at| parts.iter().map(move |part| part.list[at]))
                .collect()
        };
        Ok(Some(Lanes {
            source,
            list,
            inner,
            is_joined: true,
        }))
    }
}
