//! A builder for graphs, used by passes' tests and by users who make graphs by hand, and the topological order.

use super::{Attribute, Graph, Node, NodeId, OperatorId, Value, ValueId, ValueType};
use crate::{
    error::{Error, ErrorCode, Result},
    tensor::{DType, Dim, Tensor},
};

/// Makes a [`Graph`] node by node.
///
/// ```
/// use modelet::{DType, Tensor, graph::GraphBuilder, tensor::Dim};
/// let mut builder = GraphBuilder::new(17);
/// let x = builder.input("x", DType::F32, vec![Dim::symbol("batch"), Dim::from(2)]);
/// let two = builder.constant("two", Tensor::scalar(2.0f32));
/// let y = builder.node("Mul", &[x, two]);
/// let graph = builder.output("y", y).finish().unwrap();
/// assert_eq!(graph.nodes.len(), 1);
/// ```
pub struct GraphBuilder {
    graph: Graph,
    opset: i64,
}

impl GraphBuilder {
    /// A builder of nodes of ONNX's own domain in version `opset`.
    pub fn new(opset: i64) -> GraphBuilder {
        GraphBuilder {
            graph: Graph::default(),
            opset,
        }
    }

    /// Adds a graph input.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Vec<Dim>) -> ValueId {
        let value = Value {
            name: name.into(),
            ty: ValueType::tensor(dtype, shape),
            constant: None,
        };
        let id = self.graph.add_value(value);
        self.graph.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.graph.add_constant(name, tensor)
    }

    /// Adds a node with one output.
    pub fn node(&mut self, operator: &str, inputs: &[ValueId]) -> ValueId {
        self.node_with(operator, inputs, &[])
    }

    /// Adds a node with attributes and one output.
    pub fn node_with(&mut self, operator: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.node_of(OperatorId::new("", operator, self.opset), &inputs, attributes, 1)[0]
    }

    /// Adds a node of any operator, with optional inputs and several outputs.
    pub fn node_of(
        &mut self,
        operator: OperatorId,
        inputs: &[Option<ValueId>],
        attributes: &[(&str, Attribute)],
        outputs: usize,
    ) -> Vec<ValueId> {
        let index = self.graph.nodes.len();
        let outputs: Vec<ValueId> = (0..outputs)
            .map(|output| {
                let name = format!("{}_{index}_{output}", operator.name);
                self.graph.add_value(Value {
                    name,
                    ..Value::default()
                })
            })
            .collect();
        let mut node = Node::new(operator, inputs.to_vec(), outputs.iter().copied().map(Some).collect());
        for (name, attribute) in attributes {
            node.attributes.set(*name, attribute.clone());
        }
        self.graph.nodes.push(node);
        outputs
    }

    /// Marks a value as a graph output and names it.
    pub fn output(&mut self, name: &str, value: ValueId) -> &mut GraphBuilder {
        self.graph.value_mut(value).name = name.into();
        self.graph.outputs.push(value);
        self
    }

    /// The graph, verified.
    pub fn finish(&mut self) -> Result<Graph> {
        let graph = std::mem::take(&mut self.graph);
        graph.verify()?;
        Ok(graph)
    }
}

/// The order in which nodes can run, stable for nodes that are in order already; an error that names a node on a cycle
/// when there is none.
pub fn topological_order(graph: &Graph) -> Result<Vec<NodeId>> {
    let producers = graph.producers();
    let mut users: Vec<Vec<u32>> = vec![Vec::new(); graph.nodes.len()];
    let mut waiting = vec![0usize; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        for value in node.dependencies() {
            if let Some(producer) = producers.get(value.index()).copied().flatten() {
                users[producer.index()].push(index as u32);
                waiting[index] += 1;
            }
        }
    }
    let mut ready: std::collections::BTreeSet<u32> = (0..graph.nodes.len() as u32)
        .filter(|&index| waiting[index as usize] == 0)
        .collect();
    let mut order = Vec::with_capacity(graph.nodes.len());
    while let Some(index) = ready.pop_first() {
        order.push(NodeId(index));
        for &user in &users[index as usize] {
            waiting[user as usize] -= 1;
            if waiting[user as usize] == 0 {
                ready.insert(user);
            }
        }
    }
    if order.len() < graph.nodes.len() {
        let stuck = NodeId(waiting.iter().position(|&count| count > 0).unwrap_or(0) as u32);
        return Err(Error::new(ErrorCode::InvalidGraph, "the graph has a cycle")
            .at_node(graph.node_label(stuck))
            .at_operator(graph.nodes[stuck.index()].operator.to_string()));
    }
    Ok(order)
}

impl Graph {
    /// Puts the nodes into topological order.
    pub fn sort(&mut self) -> Result<()> {
        let order = topological_order(self)?;
        if order.iter().enumerate().all(|(index, id)| id.index() == index) {
            return Ok(());
        }
        let mut nodes: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.into_iter().filter_map(|id| nodes[id.index()].take()).collect();
        Ok(())
    }
}
