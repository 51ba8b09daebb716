//! Operators that are no more than a few of ONNX's own: their bodies. The optimizer puts a body in its node's place, so
//! that it is fused, planned and run on the GPU like any other nodes; a node that stays runs its body node by node.

use std::sync::Arc;

use super::super::{
    CpuLowering, InferContext, Operator, ValueFacts,
    evaluate::evaluate,
    infer::{bind, infer_node},
    lower::invalid,
    registry,
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, Result},
    graph::{Attribute, Graph, Node, NodeId, OperatorId, Subgraph, Value, ValueId},
    tensor::{Element, Tensor},
};

/// The version of ONNX's operators in bodies.
const OPSET: i64 = 24;

/// An operator with a body.
#[derive(Debug)]
struct Composite(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    /// Captures what is given of the node's inputs, in their order.
    body: Graph,
    operators: Vec<Arc<dyn Operator>>,
    /// For each capture of the body, which of the node's inputs it is.
    inputs: Vec<usize>,
    /// For each output of the body, which of the node's outputs it is.
    outputs: Vec<usize>,
}

/// Makes the body of one node.
pub struct Body<'a> {
    node: &'a Node,
    graph: Graph,
    inputs: Vec<Option<ValueId>>,
}

impl<'a> Body<'a> {
    /// An empty body for a node.
    pub fn new(node: &'a Node) -> Body<'a> {
        let mut graph = Graph::default();
        let mut inputs = Vec::new();
        for (index, input) in node.operator_inputs().iter().enumerate() {
            inputs.push(input.map(|_| {
                let id = graph.add_value(Value {
                    name: format!("{}/input_{index}", node.name),
                    ..Value::default()
                });
                graph.captures.push(id);
                id
            }));
        }
        Body { node, graph, inputs }
    }

    /// The node's input `index`, when it is given.
    pub fn optional(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// The node's input `index`, which must be given.
    pub fn input(&self, index: usize) -> Result<ValueId> {
        self.optional(index)
            .ok_or_else(|| invalid(format!("required input {index} is missing")))
    }

    /// A constant scalar.
    pub fn scalar<T: Element>(&mut self, value: T) -> ValueId {
        self.graph.add_constant("", Tensor::scalar(value))
    }

    /// A constant list of integers.
    pub fn ints(&mut self, values: &[i64]) -> Result<ValueId> {
        let tensor = Tensor::new(&[values.len()], values.to_vec())?;
        Ok(self.graph.add_constant("", tensor))
    }

    /// A node of ONNX's own domain with one output.
    pub fn op(&mut self, name: &str, inputs: &[ValueId]) -> ValueId {
        self.op_with(name, inputs, &[])
    }

    /// The same with attributes.
    pub fn op_with(&mut self, name: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let attributes = attributes
            .iter()
            .map(|(name, attribute)| (name.to_string(), attribute.clone()));
        self.node(OperatorId::new("", name, OPSET), inputs, attributes, 1)[0]
    }

    /// A node with optional inputs and several outputs. There is at least one output.
    pub fn node(
        &mut self,
        operator: OperatorId,
        inputs: Vec<Option<ValueId>>,
        attributes: impl IntoIterator<Item = (String, Attribute)>,
        outputs: usize,
    ) -> Vec<ValueId> {
        let name = format!("{}/{}_{}", self.node.name, operator.name, self.graph.nodes.len());
        let outputs: Vec<ValueId> = (0..outputs.max(1))
            .map(|index| {
                self.graph.add_value(Value {
                    name: format!("{name}:{index}"),
                    ..Value::default()
                })
            })
            .collect();
        let mut node = Node::new(operator, inputs, outputs.iter().copied().map(Some).collect());
        node.name = name;
        node.attributes = attributes.into_iter().collect();
        self.graph.nodes.push(node);
        outputs
    }

    /// ONNX's operator `name` on given and left-out inputs, with those of the outer node's attributes that `keeps`
    /// accepts.
    pub fn op_keeping(
        &mut self,
        name: &str,
        inputs: Vec<Option<ValueId>>,
        keeps: impl Fn(&str) -> bool,
        outputs: usize,
    ) -> Vec<ValueId> {
        let attributes = self.node.attributes.iter();
        let kept: Vec<(String, Attribute)> = attributes
            .filter(|(name, _)| keeps(name))
            .map(|(name, attribute)| (name.to_string(), attribute.clone()))
            .collect();
        self.node(OperatorId::new("", name, OPSET), inputs, kept, outputs)
    }

    /// A value of another type as the type of a second one.
    pub fn cast_like(&mut self, value: ValueId, like: ValueId) -> ValueId {
        self.op("CastLike", &[value, like])
    }

    /// The value as float32.
    pub fn as_f32(&mut self, value: ValueId) -> ValueId {
        self.op_with("Cast", &[value], &[("to", Attribute::Int(1))])
    }

    /// Transposed by `permutation`.
    pub fn transpose(&mut self, value: ValueId, permutation: &[i64]) -> ValueId {
        self.op_with(
            "Transpose",
            &[value],
            &[("perm", Attribute::Ints(permutation.to_vec()))],
        )
    }

    /// The operator whose outputs are these values; `None` for one that this node has but that nobody asked for.
    pub fn finish(self, outputs: &[Option<ValueId>]) -> Result<Box<dyn Operator>> {
        let Body {
            node,
            mut graph,
            inputs,
        } = self;
        let mut places = Vec::new();
        for (index, wanted) in node.outputs.iter().enumerate() {
            if wanted.is_none() {
                continue;
            }
            let value = outputs.get(index).copied().flatten();
            let value = value.ok_or_else(|| {
                super::super::lower::unsupported(format!("output {index} of {} is not supported", node.operator))
            })?;
            graph.outputs.push(value);
            places.push(index);
        }
        let operators = bind(&graph)?;
        Ok(Box::new(Composite(Arc::new(Parts {
            body: graph,
            operators,
            inputs: (0..inputs.len()).filter(|&index| inputs[index].is_some()).collect(),
            outputs: places,
        }))))
    }
}

/// ONNX's operator of the same meaning, in the version that `com.microsoft` took it from.
pub fn twin(node: &Node, name: &str, version: i64) -> Result<Box<dyn Operator>> {
    let mut twin = node.clone();
    twin.operator = OperatorId::new("", name, version);
    registry::operator(&twin)
}

impl Parts {
    /// What is known of every value of the body at its start.
    fn facts(&self, inputs: impl Iterator<Item = ValueFacts>) -> Vec<ValueFacts> {
        let of = |value: &Value| {
            value
                .constant
                .as_ref()
                .map_or_else(ValueFacts::default, ValueFacts::of_constant)
        };
        let mut facts: Vec<ValueFacts> = self.body.values.iter().map(of).collect();
        for (id, known) in self.body.captures.iter().zip(inputs) {
            facts[id.index()] = known;
        }
        facts
    }

    fn run(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        let missing = || Error::internal("an operator's body lacks a value");
        let given = |&index: &usize| inputs.get(index).and_then(Option::as_ref);
        let given = self.inputs.iter().map(given).collect::<Option<Vec<_>>>();
        let given = given.ok_or_else(missing)?.into_iter().map(ValueFacts::of_constant);
        let mut facts = self.facts(given);
        for (index, operator) in self.operators.iter().enumerate() {
            let results = evaluate(&self.body, NodeId(index as u32), operator, &mut facts)?;
            let outputs = self.body.nodes[index].outputs.iter().flatten();
            for (id, tensor) in outputs.zip(results.ok_or_else(missing)?) {
                facts[id.index()] = ValueFacts::of_constant(&tensor.ok_or_else(missing)?);
            }
        }
        let count = self.outputs.last().map_or(0, |last| last + 1);
        let mut outputs = vec![Tensor::zeros(crate::tensor::DType::F32, &[0])?; count];
        for (&place, id) in self.outputs.iter().zip(&self.body.outputs) {
            outputs[place] = facts[id.index()].constant.clone().ok_or_else(missing)?;
        }
        Ok(outputs)
    }
}

impl Operator for Composite {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let parts = &*self.0;
        let given = parts.inputs.iter();
        let mut facts = parts.facts(given.map(|&index| ctx.input(index).cloned().unwrap_or_default()));
        for (index, operator) in parts.operators.iter().enumerate() {
            let (id, node) = (NodeId(index as u32), &parts.body.nodes[index]);
            let wanted = infer_node(&parts.body, id, node, &**operator, &mut facts, ctx.fresh)?;
            let captures = parts.body.captures.iter().zip(&parts.inputs);
            for (_, &input) in captures.filter(|(id, _)| wanted.contains(id)) {
                ctx.wanted.push(input);
            }
        }
        for (&place, id) in parts.outputs.iter().zip(&parts.body.outputs) {
            if let Some(output) = ctx.outputs.get_mut(place) {
                *output = std::mem::take(&mut facts[id.index()]);
                output.constant = None;
            }
        }
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let parts = self.0.clone();
        Ok(CpuKernel::dynamic("composite", move |inputs| parts.run(inputs)))
    }

    fn body(&self, node: &Node) -> Option<(Subgraph, Vec<Option<ValueId>>)> {
        let captured = self.0.inputs.iter().map(|&index| node.input(index));
        let subgraph = Subgraph {
            graph: self.0.body.clone(),
            captures: captured.collect::<Option<_>>()?,
        };
        let outputs = self.0.outputs.iter().map(|&index| node.output(index)).collect();
        Some((subgraph, outputs))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use crate::{error::ErrorCode, graph::OperatorId};

    fn node(name: &str) -> TestNode {
        TestNode::of(OperatorId::new("com.microsoft", name, 1))
    }

    #[test]
    fn a_body_infers_and_runs_as_its_nodes_do() {
        let x = f32s(&[1, 2, 2], &[1.0, 3.0, -1.0, 1.0]);
        let skip = f32s(&[2, 2], &[1.0, -1.0, 0.0, 4.0]);
        let node = node("SkipLayerNormalization")
            .attr("epsilon", 0.0f32)
            .input(x)
            .input(skip)
            .input(f32s(&[2], &[1.0, 2.0]));
        let sum = f32s(&[1, 2, 2], &[2.0, 2.0, -1.0, 5.0]);
        let results = node
            .clone()
            .no_input()
            .input(f32s(&[2], &[0.0, -2.0]))
            .wanted(&[true, false, false, true])
            .run()
            .unwrap();
        // The first row's bias makes it (2, 0) beside its sum.
        assert_eq!(results[1], f32s(&[1, 2, 2], &[2.0, 0.0, -1.0, 3.0]));
        assert_tensor_close(&results[0], &f32s(&[1, 2, 2], &[1.0, -2.0, -1.0, 2.0]), 1e-6);
        let results = node.wanted(&[false, false, false, true]).run().unwrap();
        assert_eq!(results[0], sum);
    }

    #[test]
    fn what_does_not_fit_is_an_error_of_the_body() {
        let error = node("BiasGelu")
            .input(f32s(&[2, 3], &[0.0; 6]))
            .input(f32s(&[2], &[0.0; 2]))
            .run()
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::ShapeMismatch);
        let error = node("BiasGelu").run().unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidGraph);
        let error = node("FusedConv").attr("activation", "Sinc");
        let error = error.input(f32s(&[1, 1, 1], &[0.0])).input(f32s(&[1, 1, 1], &[0.0]));
        assert_eq!(error.run().unwrap_err().code(), ErrorCode::UnsupportedOperator);
    }

    #[test]
    fn empty_inputs_give_empty_outputs() {
        let gelu = node("FastGelu").input(f32s(&[0, 3], &[])).run1().unwrap();
        assert_eq!(gelu.shape(), [0, 3]);
        let unique = node("Unique").input(f32s(&[0], &[])).outputs(3).run().unwrap();
        assert!(unique.iter().all(|tensor| tensor.shape() == [0]));
        let range = node("Range").input(tensor(&[1], &[2i32])).input(tensor(&[], &[2i32]));
        assert_eq!(range.run1().unwrap(), tensor::<i32>(&[0], &[]));
    }
}
