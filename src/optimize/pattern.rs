//! Patterns of nodes, written as constants: what several passes look for, matched from a value back to what makes it.

use super::rewrite::{Analysis, Uses};
use crate::{
    graph::{Graph, Node, NodeId, ValueId},
    tensor::{DType, resolve_axis},
};

/// How many values a pattern binds at most.
const SLOTS: usize = 4;

/// What a value is made by.
pub(super) enum Pattern {
    /// Anything: the same value wherever the slot appears.
    Any(usize),
    /// A constant f32 of one element: the same value wherever the slot appears.
    Scalar(usize),
    /// The constant of one element that is this number.
    Number(f32),
    /// The only output of ONNX's operator, whose inputs are these; those of Add and Mul in either order.
    Op(&'static str, &'static [Pattern]),
    /// ReduceMean over the last axes, which stay as axes of 1. All means of a pattern are over the same axes.
    Mean(&'static Pattern),
    /// The first of these that matches.
    Either(&'static [Pattern]),
}

/// A match: what the slots stand for, and the nodes that are part of it, the value's own first.
#[derive(Clone, Default)]
pub(super) struct Match {
    pub slots: [Option<ValueId>; SLOTS],
    pub nodes: Vec<NodeId>,
    /// The first axis of the means.
    pub axis: Option<usize>,
}

/// Looks for patterns in a graph that does not change meanwhile.
pub(super) struct Matcher<'a> {
    pub graph: &'a Graph,
    pub analysis: &'a Analysis,
    pub uses: &'a Uses,
    pub producers: &'a [Option<NodeId>],
}

impl Matcher<'_> {
    /// The match of a value. `None` also when something else uses what would become superfluous: every node but the
    /// value's own serves the match alone.
    pub fn find(&self, pattern: &Pattern, value: ValueId) -> Option<Match> {
        let mut found = Match::default();
        if !self.matches(pattern, value, &mut found) {
            return None;
        }
        let inner = found.nodes.iter().skip(1);
        let serves = |id: &NodeId| {
            let output = self.graph.nodes[id.index()].output(0);
            output.is_some_and(|output| {
                let users = &self.uses.nodes[output.index()];
                !self.uses.is_output[output.index()] && users.iter().all(|user| found.nodes.contains(user))
            })
        };
        inner.clone().all(serves).then_some(found)
    }

    /// The constant of one f32 that a value is.
    pub fn scalar(&self, value: ValueId) -> Option<f32> {
        let constant = self.analysis.facts[value.index()].constant.as_ref()?;
        (constant.len() == 1 && constant.dtype() == DType::F32).then(|| constant.to_f32s().ok()?.first().copied())?
    }

    fn matches(&self, pattern: &Pattern, value: ValueId, found: &mut Match) -> bool {
        let mut bind = |slot: usize| *found.slots[slot].get_or_insert(value) == value;
        match pattern {
            Pattern::Any(slot) => bind(*slot),
            Pattern::Scalar(slot) => self.scalar(value).is_some() && bind(*slot),
            Pattern::Number(number) => self.scalar(value) == Some(*number),
            Pattern::Either(patterns) => patterns.iter().any(|pattern| self.attempt(pattern, value, found)),
            Pattern::Op(name, inputs) => {
                let Some((id, node)) = self.source(value, name) else {
                    return false;
                };
                if node.inputs.len() != inputs.len() {
                    return false;
                }
                let before = found.clone();
                found.nodes.push(id);
                let all = |order: &mut dyn Iterator<Item = &Option<ValueId>>, found: &mut Match| {
                    let mut pairs = inputs.iter().zip(order);
                    pairs.all(|(pattern, input)| input.is_some_and(|input| self.matches(pattern, input, found)))
                };
                if all(&mut node.inputs.iter(), found) {
                    return true;
                }
                let commutes = matches!(*name, "Add" | "Mul");
                *found = before;
                found.nodes.push(id);
                commutes && all(&mut node.inputs.iter().rev(), found)
            }
            Pattern::Mean(of) => {
                let Some((id, node)) = self.source(value, "ReduceMean") else {
                    return false;
                };
                let Some(axis) = self.last_axes(node) else {
                    return false;
                };
                found.nodes.push(id);
                *found.axis.get_or_insert(axis) == axis
                    && node.input(0).is_some_and(|input| self.matches(of, input, found))
            }
        }
    }

    /// Matches, or leaves what was found before.
    fn attempt(&self, pattern: &Pattern, value: ValueId, found: &mut Match) -> bool {
        let before = found.clone();
        let is_match = self.matches(pattern, value, found);
        if !is_match {
            *found = before;
        }
        is_match
    }

    /// The node of ONNX's operator `name` that makes a value as its only output.
    fn source(&self, value: ValueId, name: &str) -> Option<(NodeId, &Node)> {
        let id = self.producers.get(value.index()).copied().flatten()?;
        let node = &self.graph.nodes[id.index()];
        let fits = node.operator.is_onnx(name) && node.epilogue.is_none() && node.outputs.len() == 1;
        fits.then_some((id, node))
    }

    /// The first of the last axes that a reduction goes over, when it is those and they stay.
    fn last_axes(&self, node: &Node) -> Option<usize> {
        let rank = self.analysis.facts[node.input(0)?.index()].shape.as_ref()?.len();
        let axes = match (node.attributes.ints("axes").ok()?, node.input(1)) {
            (Some(axes), _) => axes.to_vec(),
            (None, Some(id)) => self.analysis.facts[id.index()].constant.as_ref()?.to_i64s().ok()?,
            (None, None) => return None,
        };
        let axes = axes.iter().map(|&axis| resolve_axis(axis, rank).ok());
        let mut axes = axes.collect::<Option<Vec<usize>>>()?;
        axes.sort_unstable();
        let first = *axes.first()?;
        let keeps = node.attributes.flag("keepdims", true).ok()?;
        (keeps && axes.into_iter().eq(first..rank)).then_some(first)
    }
}
