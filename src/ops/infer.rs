//! Operators bound to the nodes of a graph, and inference over whole graphs.

use std::sync::Arc;

use super::{InferContext, Operator, ValueFacts, registry};
use crate::{
    error::{Error, Result},
    graph::{Graph, Node, NodeId, ValueId, ValueType},
};

/// A graph whose nodes have their operators made. `operators[i]` belongs to `graph.nodes[i]`.
#[derive(Clone, Debug)]
pub struct BoundGraph {
    /// The graph.
    pub graph: Graph,
    /// One operator for each node.
    pub operators: Vec<Arc<dyn Operator>>,
}

impl BoundGraph {
    /// Makes the operator of every node (not of those in subgraphs).
    pub fn new(graph: Graph) -> Result<BoundGraph> {
        let operators = bind(&graph)?;
        Ok(BoundGraph { graph, operators })
    }
}

/// Makes the operator of every node of a graph.
pub fn bind(graph: &Graph) -> Result<Vec<Arc<dyn Operator>>> {
    let nodes = graph.nodes.iter().enumerate();
    nodes
        .map(|(index, node)| {
            let label = || graph.node_label(NodeId(index as u32));
            registry::operator(node)
                .map(Arc::from)
                .map_err(|error| error.at_node(label()))
        })
        .collect()
}

/// What is known of every value of `graph`, given what is known of its captures (in their order; inputs are known by
/// their declared types). Nodes must be in topological order.
pub fn infer_graph(bound: &BoundGraph, captures: &[ValueFacts], fresh: &mut u32) -> Result<Vec<ValueFacts>> {
    infer_bound(&bound.graph, &bound.operators, captures, fresh)
}

/// [`infer_graph`] for operators that stand beside their graph.
pub fn infer_bound(
    graph: &Graph,
    operators: &[Arc<dyn Operator>],
    captures: &[ValueFacts],
    fresh: &mut u32,
) -> Result<Vec<ValueFacts>> {
    let mut facts = initial_facts(graph);
    for (&id, known) in graph.captures.iter().zip(captures) {
        facts[id.index()] = known.clone();
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        infer_node(graph, NodeId(index as u32), node, &*operators[index], &mut facts, fresh)?;
    }
    Ok(facts)
}

/// What is known of every value before any node is looked at: declared types of inputs and captures, constants.
pub fn initial_facts(graph: &Graph) -> Vec<ValueFacts> {
    let mut facts: Vec<ValueFacts> = graph.values.iter().map(ValueFacts::of_value).collect();
    for &id in graph.inputs.iter().chain(&graph.captures) {
        facts[id.index()] = ValueFacts::of_type(&graph.value(id).ty);
    }
    facts
}

/// Writes what is known of each value into the graph, for readers of its text.
pub fn annotate(graph: &mut Graph, facts: &[ValueFacts]) {
    let given: Vec<ValueId> = graph.inputs.iter().chain(&graph.captures).copied().collect();
    for (index, (value, facts)) in graph.values.iter_mut().zip(facts).enumerate() {
        if given.iter().all(|id| id.index() != index) {
            if let Some(container) = &facts.container {
                value.ty = container.clone();
            } else if let ValueType::Tensor(ty) = &mut value.ty {
                ty.dtype = facts.dtype.or(ty.dtype);
                ty.shape = facts.shape.clone().or(ty.shape.take());
            }
        }
    }
}

/// Infers one node's outputs into `facts`. Returns the inputs whose elements would have told more.
pub fn infer_node(
    graph: &Graph,
    id: NodeId,
    node: &Node,
    operator: &dyn Operator,
    facts: &mut [ValueFacts],
    fresh: &mut u32,
) -> Result<Vec<ValueId>> {
    let at_node = |error: Error| {
        let mut error = error
            .at_node(graph.node_label(id))
            .at_operator(node.operator.to_string());
        if error.place().input.is_none() {
            let inputs = node.inputs.iter().flatten().map(|&id| {
                let shape = facts[id.index()].shape.as_ref();
                let shape = shape.map_or_else(|| "[…]".into(), |shape| crate::tensor::display_shape(shape));
                format!("{}: {shape}", graph.value(id).name)
            });
            error = error.detail(format!("inputs: {}", inputs.collect::<Vec<_>>().join(", ")));
        }
        error
    };
    let inputs = node
        .operator_inputs()
        .iter()
        .map(|input| input.map(|id| &facts[id.index()]))
        .collect();
    let captured: Vec<ValueFacts> = node
        .attributes
        .subgraphs()
        .flat_map(|(_, subgraph)| &subgraph.captures)
        .map(|id| facts[id.index()].clone())
        .collect();
    let mut context = InferContext::new(node, inputs, &captured, fresh);
    operator.infer(&mut context).map_err(at_node)?;
    let outputs = std::mem::take(&mut context.outputs);
    let wanted = context.wanted.iter().filter_map(|&index| node.input(index)).collect();
    for (output, mut inferred) in node.outputs.iter().zip(outputs) {
        let Some(output) = output else { continue };
        if inferred.dtype.is_none() && inferred.container.is_none() {
            match &graph.value(*output).ty {
                ValueType::Tensor(declared) => inferred.dtype = declared.dtype,
                declared => inferred.container = Some(declared.clone()),
            }
        }
        facts[output.index()] = inferred;
    }
    Ok(wanted)
}
