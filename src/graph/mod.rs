//! The intermediate representation: a graph of nodes over single-assignment values, as every importer writes it and
//! every pass rewrites it. What operators mean is not known here.

mod attributes;
mod build;
mod display;
mod inline;
mod types;
mod verify;

pub use attributes::{Attribute, Attributes, Subgraph};
pub use build::{GraphBuilder, topological_order};
pub use inline::inline_subgraph;
pub use types::{TensorType, ValueType};

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    pointwise::Expr,
    tensor::{Dim, Tensor},
};

/// Index of a [`Value`] in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of a [`Node`] in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl ValueId {
    /// The index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    /// The index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A model's computation. Nodes stand in topological order.
#[derive(Clone, Default)]
pub struct Graph {
    /// The graph's name in the model.
    pub name: String,
    /// Every value: inputs, captured values, constants and node outputs.
    pub values: Vec<Value>,
    /// The nodes, each after the nodes whose outputs it uses.
    pub nodes: Vec<Node>,
    /// What is fed, in the model's order.
    pub inputs: Vec<ValueId>,
    /// What is fetched, in the model's order.
    pub outputs: Vec<ValueId>,
    /// In a subgraph: the values that come from the enclosing graph, in the order of [`Subgraph::captures`].
    pub captures: Vec<ValueId>,
    /// Free-form properties of the model.
    pub metadata: BTreeMap<String, String>,
}

/// A value: produced by one node, fed, captured or constant.
#[derive(Clone, Debug, Default)]
pub struct Value {
    /// The value's name in the model, or one made up by a pass.
    pub name: String,
    /// What is known of its type.
    pub ty: ValueType,
    /// The tensor, when the value is a constant. A graph input with a constant has it as its default.
    pub constant: Option<Tensor>,
}

/// One application of an operator.
#[derive(Clone, Debug)]
pub struct Node {
    /// The node's name in the model; may be empty.
    pub name: String,
    /// Which operator, in which version.
    pub operator: OperatorId,
    /// Inputs in the operator's order; `None` for one that is left out. The epilogue's further inputs come last.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs in the operator's order; `None` for one that nobody asked for.
    pub outputs: Vec<Option<ValueId>>,
    /// The attributes that are given.
    pub attributes: Attributes,
    /// An expression that is applied to every element of the first output before it is stored.
    pub epilogue: Option<Epilogue>,
    /// Names of the model's nodes that were merged into this one.
    pub fused: Vec<String>,
}

/// An operator's name and the version of its domain that the model was written for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperatorId {
    /// The domain; empty for ONNX's own.
    pub domain: Arc<str>,
    /// The operator's type, such as `MatMul`.
    pub name: Arc<str>,
    /// The opset version that the model imports for the domain.
    pub version: i64,
}

/// Domain of the operators that only passes make.
pub const INTERNAL_DOMAIN: &str = "modelet";

/// A pointwise expression merged into a node. Input 0 of the expression is the node's own result, input `i` is the
/// node's input `first_input + i - 1`, broadcast to the result's shape.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// The expression.
    pub expr: Arc<Expr>,
    /// Index in [`Node::inputs`] of the first further input.
    pub first_input: usize,
}

impl OperatorId {
    /// The operator `domain.name` of opset `version`; ONNX's own domain has two spellings.
    pub fn new(domain: &str, name: &str, version: i64) -> OperatorId {
        let domain = if domain == "ai.onnx" { "" } else { domain };
        OperatorId {
            domain: domain.into(),
            name: name.into(),
            version,
        }
    }

    /// An operator that only passes make.
    pub fn internal(name: &str) -> OperatorId {
        OperatorId::new(INTERNAL_DOMAIN, name, 1)
    }

    /// Whether this is ONNX's operator `name`.
    pub fn is_onnx(&self, name: &str) -> bool {
        self.domain.is_empty() && &*self.name == name
    }

    /// Whether this is the internal operator `name`.
    pub fn is_internal(&self, name: &str) -> bool {
        &*self.domain == INTERNAL_DOMAIN && &*self.name == name
    }
}

impl fmt::Display for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.domain.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}.{}", self.domain, self.name)
        }
    }
}

impl fmt::Debug for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}@{}", self.version)
    }
}

impl Node {
    /// A node without attributes, epilogue or name.
    pub fn new(operator: OperatorId, inputs: Vec<Option<ValueId>>, outputs: Vec<Option<ValueId>>) -> Node {
        Node {
            name: String::new(),
            operator,
            inputs,
            outputs,
            attributes: Attributes::default(),
            epilogue: None,
            fused: Vec::new(),
        }
    }

    /// The values this node reads: its inputs and what its subgraphs capture.
    pub fn dependencies(&self) -> impl Iterator<Item = ValueId> + '_ {
        let captured = self
            .attributes
            .subgraphs()
            .flat_map(|(_, subgraph)| subgraph.captures.iter().copied());
        self.inputs.iter().flatten().copied().chain(captured)
    }

    /// The operator's own inputs, without those of the epilogue.
    pub fn operator_inputs(&self) -> &[Option<ValueId>] {
        let end = self
            .epilogue
            .as_ref()
            .map_or(self.inputs.len(), |epilogue| epilogue.first_input);
        &self.inputs[..end.min(self.inputs.len())]
    }

    /// The input at `index`, when it is given.
    pub fn input(&self, index: usize) -> Option<ValueId> {
        self.operator_inputs().get(index).copied().flatten()
    }

    /// The output at `index`, when it is asked for.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index).copied().flatten()
    }
}

impl Graph {
    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The value with this id, to be changed.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.index()]
    }

    /// Adds a value.
    pub fn add_value(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        ValueId(self.values.len() as u32 - 1)
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let ty = ValueType::tensor(
            tensor.dtype(),
            tensor.shape().iter().map(|&dim| Dim::from(dim)).collect(),
        );
        self.add_value(Value {
            name: name.into(),
            ty,
            constant: Some(tensor),
        })
    }

    /// The tensor behind a value that is a constant and cannot be fed.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        let constant = self.value(id).constant.as_ref()?;
        if self.inputs.contains(&id) {
            None
        } else {
            Some(constant)
        }
    }

    /// For every value, the node that makes it.
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut producers = vec![None; self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().flatten() {
                producers[output.index()] = Some(NodeId(index as u32));
            }
        }
        producers
    }

    /// For every value, how often nodes and graph outputs use it.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.values.len()];
        let node_uses = self.nodes.iter().flat_map(Node::dependencies);
        for value in node_uses.chain(self.outputs.iter().copied()) {
            counts[value.index()] += 1;
        }
        counts
    }

    /// What to call a node in messages: its name, or its operator and position.
    pub fn node_label(&self, id: NodeId) -> String {
        let node = &self.nodes[id.index()];
        if node.name.is_empty() {
            format!("{}#{}", node.operator, id.0)
        } else {
            node.name.clone()
        }
    }

    /// The value with this name.
    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        self.values
            .iter()
            .position(|value| value.name == name)
            .map(|index| ValueId(index as u32))
    }
}
