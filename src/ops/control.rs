//! Operators that run graphs: If, Loop, Scan and SequenceMap. Here stand their types and shapes; the executor runs them.

use std::sync::Arc;

use super::{
    Control, CpuLowering, InferContext, Operator, ValueFacts,
    infer::{BoundGraph, infer_node, initial_facts},
    lower::{invalid, mismatch},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, Result},
    graph::{Graph, Node, NodeId, TensorType, ValueType},
    tensor::{DType, Dim},
};

/// The body of a node, with where its captures begin among the node's.
#[derive(Debug)]
struct Body {
    bound: BoundGraph,
    first_capture: usize,
}

impl Body {
    fn of(node: &Node, name: &str) -> Result<Body> {
        let mut first_capture = 0;
        for (attribute, subgraph) in node.attributes.subgraphs() {
            if attribute == name {
                return Ok(Body {
                    bound: BoundGraph::new(subgraph.graph.clone())?,
                    first_capture,
                });
            }
            first_capture += subgraph.captures.len();
        }
        Err(invalid(format!("attribute {name} is missing")))
    }

    fn graph(&self) -> &Graph {
        &self.bound.graph
    }

    /// What is known of the graph's outputs. `inputs` replace what the graph declares of its inputs.
    fn infer(&self, inputs: &[ValueFacts], captured: &[ValueFacts], fresh: &mut u32) -> Result<Vec<ValueFacts>> {
        let graph = self.graph();
        let mut facts = initial_facts(graph);
        for (&id, known) in graph.inputs.iter().zip(inputs) {
            facts[id.index()] = known.clone();
        }
        for (index, &id) in graph.captures.iter().enumerate() {
            if let Some(known) = captured.get(self.first_capture + index) {
                facts[id.index()] = known.clone();
            }
        }
        for (index, (node, operator)) in graph.nodes.iter().zip(&self.bound.operators).enumerate() {
            infer_node(graph, NodeId(index as u32), node, &**operator, &mut facts, fresh)?;
        }
        Ok(graph.outputs.iter().map(|id| facts[id.index()].clone()).collect())
    }

    fn is_deterministic(&self) -> bool {
        self.bound.operators.iter().all(|operator| operator.is_deterministic())
    }
}

/// What is true of either of two values.
fn merge(a: &ValueFacts, b: &ValueFacts, fresh: &mut u32) -> ValueFacts {
    let mut new_dim = || {
        *fresh += 1;
        Dim::symbol(format!("?{fresh}"))
    };
    let shape = match (&a.shape, &b.shape) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            let dims = a.iter().zip(b);
            Some(dims.map(|(a, b)| if a == b { a.clone() } else { new_dim() }).collect())
        }
        _ => None,
    };
    ValueFacts {
        dtype: a.dtype.or(b.dtype),
        shape,
        elements: a
            .elements
            .clone()
            .filter(|elements| b.elements.as_ref() == Some(elements)),
        constant: a
            .constant
            .clone()
            .filter(|constant| b.constant.as_ref() == Some(constant)),
        container: a.container.clone().or_else(|| b.container.clone()),
    }
}

fn check_types(a: &ValueFacts, b: &ValueFacts, what: &str) -> Result<()> {
    match (a.dtype, b.dtype) {
        (Some(a), Some(b)) if a != b => Err(invalid(format!("{what} have different element types"))
            .expected(a.name())
            .actual(b.name())),
        _ => Ok(()),
    }
}

fn no_kernel() -> Error {
    Error::internal("operators that run graphs have no kernel of their own")
}

/// ONNX `If`: the outputs of one of two graphs, by a bool scalar. Where the condition is known, so is the graph.
#[derive(Debug)]
struct If {
    then_branch: Body,
    else_branch: Body,
}

/// Makes [`If`].
pub fn make_if(node: &Node) -> Result<Box<dyn Operator>> {
    let operator = If {
        then_branch: Body::of(node, "then_branch")?,
        else_branch: Body::of(node, "else_branch")?,
    };
    for branch in [&operator.then_branch, &operator.else_branch] {
        if branch.graph().outputs.len() != node.outputs.len() {
            return Err(invalid("a branch has another number of outputs than the node"));
        }
    }
    Ok(Box::new(operator))
}

impl Operator for If {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if ctx.dtype(0)? != DType::Bool {
            return Err(invalid("the condition is not bool"));
        }
        let condition = ctx.ints(0).and_then(|values| values.first().copied());
        let mut infer = |body: &Body| body.infer(&[], ctx.captured, ctx.fresh);
        let outputs = match condition {
            Some(0) => infer(&self.else_branch)?,
            Some(_) => infer(&self.then_branch)?,
            None => {
                let (a, b) = (infer(&self.then_branch)?, infer(&self.else_branch)?);
                for (a, b) in a.iter().zip(&b) {
                    check_types(a, b, "the branches' outputs")?;
                }
                a.iter().zip(&b).map(|(a, b)| merge(a, b, ctx.fresh)).collect()
            }
        };
        ctx.outputs = outputs;
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Err(no_kernel())
    }

    fn is_deterministic(&self) -> bool {
        self.then_branch.is_deterministic() && self.else_branch.is_deterministic()
    }

    fn control(&self) -> Option<Control> {
        Some(Control::If)
    }
}

/// How often the types of carried values are inferred before what still changes is given up.
const MAX_ROUNDS: usize = 4;

/// What holds of carried values in every iteration, and of the body's outputs then. `iteration` are the body's other
/// inputs, which come first (Loop) or last (Scan); carried outputs begin at `first_carried`.
fn infer_carried(
    body: &Body,
    initial: &[ValueFacts],
    inputs_of: impl Fn(&[ValueFacts]) -> Vec<ValueFacts>,
    first_carried: usize,
    ctx: &mut InferContext<'_>,
) -> Result<(Vec<ValueFacts>, Vec<ValueFacts>)> {
    // Values differ from iteration to iteration even where the first is known.
    let unvalued = |facts: &ValueFacts| ValueFacts {
        elements: None,
        constant: None,
        ..facts.clone()
    };
    let mut carried: Vec<ValueFacts> = initial.iter().map(unvalued).collect();
    for round in 0.. {
        let outputs = body.infer(&inputs_of(&carried), ctx.captured, ctx.fresh)?;
        let next = outputs.iter().skip(first_carried).take(carried.len());
        let mut is_stable = true;
        let mut merged = Vec::with_capacity(carried.len());
        for (before, after) in carried.iter().zip(next) {
            check_types(before, after, "a carried value's iterations")?;
            let mut joint = unvalued(&merge(before, after, ctx.fresh));
            let keeps = |joint: &ValueFacts| joint.shape == before.shape && joint.dtype == before.dtype;
            if !keeps(&joint) && round + 1 >= MAX_ROUNDS {
                // A dimension that was made up for this value stays made up; the rank is given up last.
                joint.shape = None;
            } else if !keeps(&joint) && is_weaker(before, &joint) {
                joint.shape = before.shape.clone();
            }
            is_stable &= keeps(&joint);
            merged.push(joint);
        }
        carried = merged;
        if is_stable || round > MAX_ROUNDS {
            return Ok((carried, outputs));
        }
    }
    Err(Error::internal("the types of carried values do not settle"))
}

/// Whether every dimension in which `before` differs from `joint` is a made-up symbol already.
fn is_weaker(before: &ValueFacts, joint: &ValueFacts) -> bool {
    let (Some(before), Some(joint)) = (&before.shape, &joint.shape) else {
        return false;
    };
    let is_made_up = |dim: &Dim| dim.as_symbol().is_some_and(|name| name.starts_with('?'));
    before.len() == joint.len() && before.iter().zip(joint).all(|(a, b)| a == b || is_made_up(a))
}

/// ONNX `Loop`: a graph run up to a number of times, or while a condition holds, with values carried from one
/// iteration to the next and outputs stacked over the iterations.
#[derive(Debug)]
struct Loop {
    body: Body,
}

/// Makes [`Loop`].
pub fn make_loop(node: &Node) -> Result<Box<dyn Operator>> {
    let body = Body::of(node, "body")?;
    let carried = node.operator_inputs().len().saturating_sub(2);
    let graph = body.graph();
    if graph.inputs.len() != carried + 2
        || graph.outputs.len() < carried + 1
        || graph.outputs.len() - 1 != node.outputs.len()
    {
        return Err(invalid("the body's inputs and outputs do not fit the node's")
            .expected(format!("{} inputs and {} outputs", carried + 2, node.outputs.len() + 1))
            .actual(format!(
                "{} inputs and {} outputs",
                graph.inputs.len(),
                graph.outputs.len()
            )));
    }
    Ok(Box::new(Loop { body }))
}

fn scalar(dtype: DType) -> ValueFacts {
    ValueFacts {
        dtype: Some(dtype),
        shape: Some(Vec::new()),
        ..ValueFacts::default()
    }
}

impl Operator for Loop {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let initial: Vec<ValueFacts> = (2..ctx.input_count())
            .map(|index| ctx.input(index).cloned().unwrap_or_default())
            .collect();
        let inputs_of = |carried: &[ValueFacts]| {
            let iteration = [scalar(DType::I64), scalar(DType::Bool)];
            iteration.into_iter().chain(carried.iter().cloned()).collect()
        };
        let (carried, outputs) = infer_carried(&self.body, &initial, inputs_of, 1, ctx)?;
        let count = carried.len();
        let stacked = outputs.into_iter().skip(1 + count);
        let mut results = carried;
        for facts in stacked {
            let iterations = ctx.fresh_dim();
            let shape = facts.shape.map(|shape| [vec![iterations], shape].concat());
            results.push(ValueFacts {
                dtype: facts.dtype,
                shape,
                ..ValueFacts::default()
            });
        }
        ctx.outputs = results;
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Err(no_kernel())
    }

    fn is_deterministic(&self) -> bool {
        self.body.is_deterministic()
    }

    fn control(&self) -> Option<Control> {
        Some(Control::Loop)
    }
}

/// ONNX `SequenceMap` (opset 17): a graph run on each element of a sequence; its outputs are sequences.
#[derive(Debug)]
struct SequenceMap {
    body: Body,
}

/// Makes [`SequenceMap`].
pub fn make_sequence_map(node: &Node) -> Result<Box<dyn Operator>> {
    let body = Body::of(node, "body")?;
    let (inputs, outputs) = (node.operator_inputs().len(), node.outputs.len());
    if body.graph().inputs.len() != inputs || body.graph().outputs.len() != outputs || inputs == 0 {
        return Err(invalid("the body's inputs and outputs do not fit the node's")
            .expected(format!("{inputs} inputs and {outputs} outputs"))
            .actual(format!(
                "{} inputs and {} outputs",
                body.graph().inputs.len(),
                body.graph().outputs.len()
            )));
    }
    Ok(Box::new(SequenceMap { body }))
}

impl Operator for SequenceMap {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let mut inputs = Vec::with_capacity(ctx.input_count());
        for index in 0..ctx.input_count() {
            inputs.push(match (index, ctx.container(index)) {
                (_, Some(ValueType::Sequence(inner))) => ValueFacts::of_type(inner),
                (0, Some(other)) => {
                    return Err(invalid("the input is not a sequence").actual(other.to_string()));
                }
                (0, None) if ctx.input(0).is_some_and(|facts| facts.dtype.is_some()) => {
                    return Err(invalid("the input is not a sequence").actual("a tensor"));
                }
                _ => ValueFacts {
                    elements: None,
                    constant: None,
                    ..ctx.input(index).cloned().unwrap_or_default()
                },
            });
        }
        let outputs = self.body.infer(&inputs, ctx.captured, ctx.fresh)?;
        for (index, facts) in outputs.into_iter().enumerate() {
            let element = facts.container.unwrap_or(ValueType::Tensor(TensorType {
                dtype: facts.dtype,
                shape: None,
            }));
            ctx.set_container(index, ValueType::Sequence(Box::new(element)));
        }
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Err(no_kernel())
    }

    fn is_deterministic(&self) -> bool {
        self.body.is_deterministic()
    }

    fn control(&self) -> Option<Control> {
        Some(Control::SequenceMap)
    }
}

/// ONNX `Scan` (opset 8): a graph run over the slices of its scan inputs, with states carried from one to the next and
/// scan outputs stacked. In opset 8 sequence lengths come first, every other tensor begins with a batch dimension, for
/// each item of which there is a scan of its own, and the scanned dimension is the next.
#[derive(Debug)]
struct Scan {
    body: Arc<Body>,
    batched: bool,
    scan_inputs: usize,
    input_axes: Vec<i64>,
    output_axes: Vec<i64>,
}

/// Makes [`Scan`].
pub fn make_scan(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let body = Body::of(node, "body")?;
    let batched = node.operator.version < 9;
    let inputs = node.operator_inputs().len().saturating_sub(usize::from(batched));
    let count = attributes
        .int("num_scan_inputs")?
        .ok_or_else(|| invalid("attribute num_scan_inputs is missing"))?;
    let scan_inputs = usize::try_from(count)
        .ok()
        .filter(|&count| count >= 1 && count <= inputs);
    let scan_inputs = scan_inputs.ok_or_else(|| {
        invalid("attribute num_scan_inputs does not fit the number of inputs").actual(count.to_string())
    })?;
    let states = inputs - scan_inputs;
    let graph = body.graph();
    let scan_outputs = node.outputs.len().checked_sub(states);
    let Some(scan_outputs) =
        scan_outputs.filter(|_| graph.inputs.len() == inputs && graph.outputs.len() == node.outputs.len())
    else {
        return Err(invalid("the body's inputs and outputs do not fit the node's"));
    };
    let list = |name: &str, count: usize| -> Result<Vec<i64>> {
        match attributes.ints(name)? {
            None => Ok(vec![0; count]),
            Some(list) if list.len() == count => Ok(list.to_vec()),
            Some(list) => Err(invalid(format!("attribute {name} has the wrong length"))
                .expected(count.to_string())
                .actual(list.len().to_string())),
        }
    };
    let directions = match batched {
        true => [("directions", scan_inputs), ("", 0)],
        false => [
            ("scan_input_directions", scan_inputs),
            ("scan_output_directions", scan_outputs),
        ],
    };
    for (name, count) in directions {
        if list(name, count)?.iter().any(|direction| !(0..=1).contains(direction)) {
            return Err(invalid(format!("attribute {name} holds something else than 0 and 1")));
        }
    }
    Ok(Box::new(Scan {
        batched,
        scan_inputs,
        input_axes: list("scan_input_axes", scan_inputs)?,
        output_axes: list("scan_output_axes", scan_outputs)?,
        body: Arc::new(body),
    }))
}

impl Operator for Scan {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let first = usize::from(self.batched);
        let states = ctx.input_count() - first - self.scan_inputs;
        let mut batch: Option<Dim> = None;
        let mut fact = |ctx: &InferContext<'_>, index: usize| -> Result<ValueFacts> {
            let mut facts = ctx.input(first + index).cloned().unwrap_or_default();
            if let (true, Some(shape)) = (self.batched, &mut facts.shape) {
                if shape.is_empty() {
                    return Err(mismatch("an input has no batch dimension"));
                }
                let dim = shape.remove(0);
                batch = batch.take().filter(|known| known.known().is_some()).or(Some(dim));
            }
            Ok(facts)
        };
        let initial: Vec<ValueFacts> = (0..states).map(|index| fact(ctx, index)).collect::<Result<_>>()?;
        let mut length: Option<Dim> = None;
        let mut slices = Vec::with_capacity(self.scan_inputs);
        for (number, &axis) in self.input_axes.iter().enumerate() {
            let mut slice = fact(ctx, states + number)?;
            (slice.elements, slice.constant) = (None, None);
            if let Some(shape) = &mut slice.shape {
                let axis = crate::tensor::resolve_axis(axis, shape.len())?;
                let dim = shape.remove(axis);
                match &length {
                    Some(known) if known.known().zip(dim.known()).is_some_and(|(a, b)| a != b) => {
                        return Err(mismatch("the scanned dimensions differ")
                            .expected(known.to_string())
                            .actual(dim.to_string()));
                    }
                    Some(known) if known.known().is_some() => {}
                    _ => length = Some(dim),
                }
            }
            slices.push(slice);
        }
        let inputs_of = |carried: &[ValueFacts]| carried.iter().chain(&slices).cloned().collect();
        let (carried, outputs) = infer_carried(&self.body, &initial, inputs_of, 0, ctx)?;
        let mut results = carried;
        for (facts, &axis) in outputs.into_iter().skip(states).zip(&self.output_axes) {
            let length = length.clone().unwrap_or_else(|| ctx.fresh_dim());
            let shape = match facts.shape {
                Some(mut shape) => {
                    let axis = crate::tensor::resolve_axis(axis, shape.len() + 1)?;
                    shape.insert(axis, length);
                    Some(shape)
                }
                None => None,
            };
            results.push(ValueFacts {
                dtype: facts.dtype,
                shape,
                ..ValueFacts::default()
            });
        }
        if self.batched {
            for facts in &mut results {
                let batch = batch.clone().unwrap_or_else(|| ctx.fresh_dim());
                if let Some(shape) = &mut facts.shape {
                    shape.insert(0, batch);
                }
            }
        }
        ctx.outputs = results;
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Err(no_kernel())
    }

    fn is_deterministic(&self) -> bool {
        self.body.is_deterministic()
    }

    fn control(&self) -> Option<Control> {
        Some(Control::Scan)
    }
}

#[cfg(test)]
mod tests {
    use super::super::infer::infer_graph;
    use super::*;
    use crate::{
        graph::{Attribute, GraphBuilder, OperatorId, Subgraph, ValueId},
        tensor::Tensor,
    };

    fn symbols(names: &[&str]) -> Vec<Dim> {
        names.iter().map(|name| Dim::symbol(*name)).collect()
    }

    /// A graph that captures one f32 value of unknown shape and gives what `build` makes of it.
    fn branch(captured: ValueId, build: impl FnOnce(&mut GraphBuilder, ValueId) -> ValueId) -> Attribute {
        let mut b = GraphBuilder::new(17);
        let x = b.input("captured", DType::F32, vec![]);
        let y = build(&mut b, x);
        let mut graph = b.output("out", y).finish().unwrap();
        graph.captures = std::mem::take(&mut graph.inputs);
        Attribute::Graph(Box::new(Subgraph {
            graph,
            captures: vec![captured],
        }))
    }

    fn infer_if(condition: Option<bool>) -> Vec<Dim> {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::F32, symbols(&["n", "m"]));
        let condition = match condition {
            Some(value) => b.constant("c", Tensor::scalar(crate::tensor::Bool8::from(value))),
            None => b.input("c", DType::Bool, vec![]),
        };
        let same = branch(x, |b, x| b.node("Relu", &[x]));
        let turned = branch(x, |b, x| b.node("Transpose", &[x]));
        let y = b.node_with("If", &[condition], &[("then_branch", same), ("else_branch", turned)]);
        let graph = b.output("y", y).finish().unwrap();
        let facts = infer_graph(&BoundGraph::new(graph).unwrap(), &[], &mut 0).unwrap();
        facts[y.index()].shape.clone().unwrap()
    }

    #[test]
    fn a_known_condition_chooses_the_branch_and_an_unknown_one_leaves_dimensions_open() {
        assert_eq!(infer_if(Some(true)), symbols(&["n", "m"]));
        assert_eq!(infer_if(Some(false)), symbols(&["m", "n"]));
        let open = infer_if(None);
        assert_eq!(open.len(), 2);
        assert!(
            open.iter()
                .all(|dim| dim.as_symbol().is_some_and(|name| name.starts_with('?')))
        );
    }

    #[test]
    fn a_loop_that_grows_a_value_leaves_that_dimension_open() {
        let mut body = GraphBuilder::new(17);
        body.input("i", DType::I64, vec![]);
        let condition = body.input("cond", DType::Bool, vec![]);
        let state = body.input("state", DType::F32, symbols(&["declared", "other"]));
        let grown = body.node_with("Concat", &[state, state], &[("axis", Attribute::Int(0))]);
        let row = body.node("Relu", &[state]);
        body.output("cond_out", condition);
        body.output("state_out", grown);
        let body = body.output("rows", row).finish().unwrap();
        let mut b = GraphBuilder::new(17);
        let trips = b.input("trips", DType::I64, vec![]);
        let start = b.input("start", DType::F32, symbols(&["n", "m"]));
        let body = Attribute::Graph(Box::new(Subgraph {
            graph: body,
            captures: Vec::new(),
        }));
        let inputs = [Some(trips), None, Some(start)];
        let outputs = b.node_of(OperatorId::new("", "Loop", 17), &inputs, &[("body", body)], 2);
        b.output("final", outputs[0]);
        let graph = b.output("stack", outputs[1]).finish().unwrap();
        let facts = infer_graph(&BoundGraph::new(graph).unwrap(), &[], &mut 0).unwrap();
        let last = facts[outputs[0].index()].shape.clone().unwrap();
        assert_eq!(last.len(), 2);
        assert_ne!(last[0], Dim::symbol("n"));
        assert_eq!(last[1], Dim::symbol("m"));
        let stacked = facts[outputs[1].index()].shape.clone().unwrap();
        assert_eq!((stacked.len(), &stacked[2]), (3, &Dim::symbol("m")));
    }

    #[test]
    fn a_body_that_does_not_fit_is_refused() {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::F32, vec![]);
        let body = branch(x, |b, x| b.node("Relu", &[x]));
        let y = b.node_with("Loop", &[x, x, x], &[("body", body)]);
        let graph = b.output("y", y).finish().unwrap();
        assert!(BoundGraph::new(graph).is_err());
    }
}
