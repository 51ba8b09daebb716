//! Chooses the nodes of the next segment: every node whose shapes follow from what is known. Nodes that follow from
//! constants are evaluated here; an `If` whose condition is known is replaced by the branch it takes.

use std::{
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

use super::{NodePlacement, Placement};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::{self, Graph, NodeId, ValueId, ValueType, inline_subgraph},
    ops::{
        Control, Operator, ValueFacts,
        evaluate::evaluate,
        infer::{BoundGraph, infer_node, initial_facts},
        registry,
    },
    tensor::{DType, Dim, Tensor, Value, display_shape, element_count, map::HashSet},
};

/// Larger results of constant nodes than this are computed in each run rather than kept with the plan.
const MAX_FOLDED_BYTES: usize = 1 << 20;

/// The type of a value that is fed, as far as programs differ by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputType {
    /// A tensor's element type and shape.
    Tensor(DType, Vec<usize>),
    /// The type of another value.
    Container(ValueType),
}

impl InputType {
    /// The type of a value.
    pub fn of(value: &Value) -> InputType {
        match value {
            Value::Tensor(tensor) => InputType::Tensor(tensor.dtype(), tensor.shape().to_vec()),
            other => InputType::Container(ValueType::of(other)),
        }
    }

    fn facts(&self) -> ValueFacts {
        match self {
            InputType::Tensor(dtype, shape) => ValueFacts {
                dtype: Some(*dtype),
                shape: Some(shape.iter().map(|&dim| Dim::from(dim)).collect()),
                ..ValueFacts::default()
            },
            InputType::Container(ty) => ValueFacts::of_type(ty),
        }
    }
}

/// What is known of a run between two segments, and which nodes are left.
#[derive(Clone)]
pub struct PlanState {
    /// The graph, with the branches taken so far in place of their `If` nodes.
    pub bound: Rc<BoundGraph>,
    /// What is known of each value. Shapes are concrete for everything made so far.
    pub facts: Vec<ValueFacts>,
    /// Nodes that no segment so far has run.
    pub remaining: Vec<NodeId>,
    /// Values whose contents the next segment's shapes follow from.
    pub needed: Vec<ValueId>,
    /// Values made in the last segment's tail, whose shapes were not known when it was planned.
    pub awaited: Vec<ValueId>,
    /// Inputs in the memory of the GPU that the caller gives up.
    pub given_up: Vec<ValueId>,
}

/// The nodes of one segment.
pub(super) struct Selection {
    /// Nodes with known shapes, in an order they can run in.
    pub body: Vec<NodeId>,
    /// Nodes that make their own outputs.
    pub tail: Vec<NodeId>,
    /// Values that must outlive the segment.
    pub live_out: BTreeSet<ValueId>,
    /// Nodes that were evaluated.
    pub folded: Vec<NodePlacement>,
}

impl PlanState {
    /// The state before the first segment. `inputs` are the graph's inputs, then its captures; those at the positions
    /// `given_up` are tensors in the memory of the GPU that the caller gives up.
    pub fn start(bound: Rc<BoundGraph>, inputs: &[InputType], given_up: &[usize]) -> Result<PlanState> {
        let graph = &bound.graph;
        let mut facts = initial_facts(graph);
        let fed = graph.inputs.iter().chain(&graph.captures);
        for (&id, ty) in fed.zip(inputs) {
            // An optional that holds a tensor stays an optional to the nodes that take it.
            if facts[id.index()].container.is_none() {
                facts[id.index()] = ty.facts();
            }
        }
        let remaining = (0..graph.nodes.len() as u32).map(NodeId).collect();
        let given_up = given_up
            .iter()
            .filter_map(|&position| graph.inputs.get(position).copied());
        let given_up = given_up.collect();
        Ok(PlanState {
            bound,
            facts,
            remaining,
            needed: Vec::new(),
            awaited: Vec::new(),
            given_up,
        })
    }

    /// Whether nothing is left to plan.
    pub fn is_finished(&self) -> bool {
        self.remaining.is_empty()
    }

    /// The state once the last segment has run and left `values` behind (by value).
    pub fn advance(&self, values: &[Option<Value>]) -> Result<PlanState> {
        let mut next = self.clone();
        let value = |id: &ValueId| {
            let value = values.get(id.index()).and_then(Option::as_ref);
            value.ok_or_else(|| Error::internal("a value that the plan waits for was not made"))
        };
        for id in std::mem::take(&mut next.awaited) {
            if next.facts[id.index()].container.is_none() {
                next.facts[id.index()] = InputType::of(value(&id)?).facts();
            }
        }
        for id in std::mem::take(&mut next.needed) {
            next.facts[id.index()] = ValueFacts::of_constant(value(&id)?.tensor()?);
        }
        Ok(next)
    }

    /// Whether a node whose outputs have been inferred works on values other than tensors.
    pub(super) fn works_on_values(&self, id: NodeId) -> bool {
        let node = &self.bound.graph.nodes[id.index()];
        let mut values = node.inputs.iter().chain(&node.outputs).flatten();
        self.bound.operators[id.index()].works_on_values()
            || values.any(|value| self.facts[value.index()].container.is_some())
    }

    /// Takes the nodes of the next segment out of the state.
    pub(super) fn select(&mut self) -> Result<Selection> {
        let mut queue: VecDeque<NodeId> = std::mem::take(&mut self.remaining).into();
        let (mut body, mut tail, mut folded) = (Vec::new(), Vec::new(), Vec::new());
        let mut pending: HashSet<ValueId> = HashSet::new();
        let mut needed = BTreeSet::new();
        let mut fresh = 0;
        while let Some(id) = queue.pop_front() {
            let bound = Rc::clone(&self.bound);
            let node = &bound.graph.nodes[id.index()];
            let operator = &bound.operators[id.index()];
            let postpone = |pending: &mut HashSet<ValueId>, remaining: &mut Vec<NodeId>| {
                pending.extend(node.outputs.iter().flatten());
                remaining.push(id);
            };
            if node.dependencies().any(|value| pending.contains(&value)) {
                postpone(&mut pending, &mut self.remaining);
                continue;
            }
            match operator.control() {
                Some(Control::If) => {
                    let condition = node
                        .input(0)
                        .ok_or_else(|| Error::internal("an If without a condition"))?;
                    match &self.facts[condition.index()].constant {
                        Some(tensor) => {
                            let taken =
                                condition_of(tensor).map_err(|error| error.at_node(bound.graph.node_label(id)))?;
                            for inner in self.take_branch(id, taken)?.into_iter().rev() {
                                queue.push_front(inner);
                            }
                        }
                        None => {
                            needed.insert(condition);
                            postpone(&mut pending, &mut self.remaining);
                        }
                    }
                    continue;
                }
                Some(_) => {
                    pending.extend(node.outputs.iter().flatten());
                    tail.push(id);
                    continue;
                }
                None => {}
            }
            let wanted = infer_node(&bound.graph, id, node, &**operator, &mut self.facts, &mut fresh)?;
            if self.works_on_values(id) {
                pending.extend(node.outputs.iter().flatten());
                tail.push(id);
                continue;
            }
            if self.fold(&bound.graph, id, operator)? {
                folded.push(NodePlacement {
                    node: bound.graph.node_label(id),
                    operator: node.operator.to_string(),
                    place: Placement::Folded,
                    kernel: "constant".into(),
                    reason: Some("its result is known when the program is planned".into()),
                    fused: node.fused.clone(),
                    heavy: operator.is_heavy(),
                });
                continue;
            }
            let outputs = || node.outputs.iter().flatten().map(|value| &self.facts[value.index()]);
            if outputs().all(|facts| facts.dtype.is_some() && facts.concrete_shape().is_some()) {
                for facts in outputs() {
                    element_count(&facts.concrete_shape().unwrap_or_default())?;
                }
                let strings = node.inputs.iter().chain(&node.outputs).flatten();
                let mut strings = strings.map(|value| self.facts[value.index()].dtype);
                if strings.any(|dtype| dtype == Some(DType::String)) {
                    pending.extend(node.outputs.iter().flatten());
                    tail.push(id);
                } else {
                    body.push(id);
                }
                continue;
            }
            let unknown: Vec<ValueId> = wanted
                .into_iter()
                .filter(|value| self.facts[value.index()].constant.is_none())
                .collect();
            if unknown.is_empty() {
                pending.extend(node.outputs.iter().flatten());
                tail.push(id);
            } else {
                needed.extend(unknown);
                postpone(&mut pending, &mut self.remaining);
            }
        }
        self.finish_selection(body, tail, folded, needed)
    }

    fn finish_selection(
        &mut self,
        body: Vec<NodeId>,
        tail: Vec<NodeId>,
        folded: Vec<NodePlacement>,
        needed: BTreeSet<ValueId>,
    ) -> Result<Selection> {
        if body.is_empty() && tail.is_empty() && needed.is_empty() && !self.remaining.is_empty() {
            return Err(Error::internal("no node of the graph can be planned next"));
        }
        let graph = &self.bound.graph;
        let users = self
            .remaining
            .iter()
            .chain(&tail)
            .flat_map(|id| graph.nodes[id.index()].dependencies());
        let live_out = users.chain(graph.outputs.iter().copied()).chain(needed.iter().copied());
        let live_out: BTreeSet<ValueId> = live_out.collect();
        // What nobody asks for (the shape arithmetic whose results were folded) is not run.
        let mut live: HashSet<ValueId> = live_out.iter().copied().collect();
        let mut body: Vec<NodeId> = body
            .into_iter()
            .rev()
            .filter(|id| {
                let node = &graph.nodes[id.index()];
                let wanted = node.outputs.iter().flatten().any(|value| live.contains(value));
                if wanted {
                    live.extend(
                        node.dependencies()
                            .filter(|id| self.facts[id.index()].constant.is_none()),
                    );
                }
                wanted
            })
            .collect();
        body.reverse();
        self.needed = needed.into_iter().collect();
        self.awaited = tail
            .iter()
            .flat_map(|id| graph.nodes[id.index()].outputs.iter().flatten().copied())
            .collect();
        Ok(Selection {
            body,
            tail,
            live_out,
            folded,
        })
    }

    /// Evaluates a node whose inputs are all constant, unless the result is large.
    fn fold(&mut self, graph: &Graph, id: NodeId, operator: &Arc<dyn Operator>) -> Result<bool> {
        let node = &graph.nodes[id.index()];
        // Shape arithmetic whose elements follow from sizes that are known now.
        let outputs = node.outputs.iter().flatten();
        let known = outputs.map(|value| Some((*value, self.facts[value.index()].known_tensor()?)));
        if let Some(known) = known.collect::<Option<Vec<_>>>()
            && operator.is_deterministic()
        {
            for (value, tensor) in known {
                self.facts[value.index()] = ValueFacts::of_constant(&tensor);
            }
            return Ok(true);
        }
        let mut inputs = node.inputs.iter().flatten();
        if !inputs.all(|value| self.facts[value.index()].constant.is_some()) || !operator.is_deterministic() {
            return Ok(false);
        }
        for value in node.outputs.iter().flatten() {
            let facts = &self.facts[value.index()];
            let len = facts.concrete_shape().zip(facts.dtype).and_then(|(shape, dtype)| {
                let count = element_count(&shape).ok()?;
                dtype.byte_len(count).or(Some(count * 16))
            });
            if len.is_none_or(|len| len > MAX_FOLDED_BYTES) {
                return Ok(false);
            }
        }
        let Some(results) = evaluate(graph, id, operator, &mut self.facts)? else {
            return Ok(false);
        };
        for (value, result) in node.outputs.iter().zip(results) {
            if let (Some(value), Some(tensor)) = (value, result) {
                self.facts[value.index()] = ValueFacts::of_constant(&tensor);
            }
        }
        Ok(true)
    }

    /// Puts the nodes of an `If`'s branch into the graph; its outputs take the place of the node's. Returns the new
    /// nodes in the order they can run in.
    fn take_branch(&mut self, id: NodeId, taken: bool) -> Result<Vec<NodeId>> {
        let bound = Rc::make_mut(&mut self.bound);
        let node = bound.graph.nodes[id.index()].clone();
        let label = bound.graph.node_label(id);
        let at_node = |error: Error| error.at_node(label.clone()).at_operator("If");
        let branch = if taken { "then_branch" } else { "else_branch" };
        let subgraph = node.attributes.graph(branch).map_err(at_node)?;
        let subgraph = subgraph.ok_or_else(|| at_node(missing_branch(branch)))?;
        let subgraph = subgraph.clone();
        let nodes = inline_subgraph(&mut bound.graph, &subgraph, &node.outputs).map_err(at_node)?;
        let constants = bound.graph.values[self.facts.len()..].iter();
        self.facts.extend(constants.map(ValueFacts::of_value));
        let mut added = Vec::with_capacity(nodes.len());
        for node in nodes {
            added.push(NodeId(bound.graph.nodes.len() as u32));
            bound.operators.push(registry::operator(&node).map_err(at_node)?.into());
            bound.graph.nodes.push(node);
        }
        Ok(added)
    }

    /// The concrete element type and shape of a value that has been planned.
    pub fn concrete(&self, id: ValueId) -> Result<(DType, Vec<usize>)> {
        let facts = &self.facts[id.index()];
        facts.dtype.zip(facts.concrete_shape()).ok_or_else(|| {
            let value: &graph::Value = self.bound.graph.value(id);
            let shape = facts
                .shape
                .as_ref()
                .map_or_else(|| "unknown".into(), |shape| display_shape(shape));
            Error::internal("a value's type or shape is not known when it is planned")
                .at_input(value.name.clone())
                .actual(shape)
        })
    }
}

fn condition_of(tensor: &Tensor) -> Result<bool> {
    match (tensor.dtype(), tensor.bytes()) {
        (DType::Bool, [byte]) => Ok(*byte != 0),
        _ => Err(
            Error::new(ErrorCode::ShapeMismatch, "the condition is not one truth value")
                .expected("bool with one element")
                .actual(format!("{tensor:?}")),
        ),
    }
}

fn missing_branch(name: &str) -> Error {
    Error::new(ErrorCode::InvalidGraph, format!("attribute {name} is missing"))
}
