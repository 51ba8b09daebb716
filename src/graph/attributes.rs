//! Attributes of nodes, with typed access that tells a wrong type from an absent attribute.

use std::{collections::BTreeMap, sync::Arc};

use super::{Graph, ValueId, ValueType};
use crate::{
    error::{Error, ErrorCode, Result},
    pointwise::Expr,
    tensor::Tensor,
};

/// The value of an attribute.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Attribute {
    Float(f32),
    Int(i64),
    String(Vec<u8>),
    Tensor(Tensor),
    Graph(Box<Subgraph>),
    Type(ValueType),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Vec<u8>>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<Subgraph>),
    Types(Vec<ValueType>),
    /// The expression of an internal pointwise node.
    Expr(Arc<Expr>),
}

/// A graph inside a node, with what it takes from the graph around it.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// The inner graph.
    pub graph: Graph,
    /// Values of the enclosing graph, in the order of the inner graph's [`Graph::captures`].
    pub captures: Vec<ValueId>,
}

/// The attributes of a node, by name.
#[derive(Clone, Debug, Default)]
pub struct Attributes(BTreeMap<String, Attribute>);

impl Attribute {
    /// The name of the attribute's type, as ONNX writes it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Attribute::Float(_) => "FLOAT",
            Attribute::Int(_) => "INT",
            Attribute::String(_) => "STRING",
            Attribute::Tensor(_) => "TENSOR",
            Attribute::Graph(_) => "GRAPH",
            Attribute::Type(_) => "TYPE_PROTO",
            Attribute::Floats(_) => "FLOATS",
            Attribute::Ints(_) => "INTS",
            Attribute::Strings(_) => "STRINGS",
            Attribute::Tensors(_) => "TENSORS",
            Attribute::Graphs(_) => "GRAPHS",
            Attribute::Types(_) => "TYPE_PROTOS",
            Attribute::Expr(_) => "EXPR",
        }
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident -> $type:ty = $variant:ident, $value:ident => $result:expr;)*) => {
        $($(#[$doc])*
        pub fn $name(&self, name: &str) -> Result<Option<$type>> {
            match self.0.get(name) {
                None => Ok(None),
                Some(Attribute::$variant($value)) => Ok(Some($result)),
                // Writers of empty lists may not know their type.
                Some(other) => Err(wrong_type(name, stringify!($variant), other)),
            }
        })*
    };
}

impl Attribute {
    /// Whether two attributes are certainly equal; subgraphs never are.
    fn same_as(&self, other: &Attribute) -> bool {
        let bits = |list: &[f32]| list.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        match (self, other) {
            (Attribute::Float(a), Attribute::Float(b)) => a.to_bits() == b.to_bits(),
            (Attribute::Int(a), Attribute::Int(b)) => a == b,
            (Attribute::String(a), Attribute::String(b)) => a == b,
            (Attribute::Tensor(a), Attribute::Tensor(b)) => a == b,
            (Attribute::Type(a), Attribute::Type(b)) => a == b,
            (Attribute::Floats(a), Attribute::Floats(b)) => bits(a) == bits(b),
            (Attribute::Ints(a), Attribute::Ints(b)) => a == b,
            (Attribute::Strings(a), Attribute::Strings(b)) => a == b,
            (Attribute::Tensors(a), Attribute::Tensors(b)) => a == b,
            (Attribute::Types(a), Attribute::Types(b)) => a == b,
            (Attribute::Expr(a), Attribute::Expr(b)) => a == b,
            _ => false,
        }
    }
}

impl Attributes {
    /// Whether both hold certainly equal attributes under the same names; subgraphs are never equal.
    pub fn same_as(&self, other: &Attributes) -> bool {
        let pairs = || self.0.iter().zip(&other.0);
        self.0.len() == other.0.len() && pairs().all(|(a, b)| a.0 == b.0 && a.1.same_as(b.1))
    }

    /// Whether no attribute is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every attribute, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attribute)> {
        self.0.iter().map(|(name, attribute)| (name.as_str(), attribute))
    }

    /// The attribute called `name`, of whatever type.
    pub fn get(&self, name: &str) -> Option<&Attribute> {
        self.0.get(name)
    }

    /// Sets an attribute, replacing one of that name.
    pub fn set(&mut self, name: impl Into<String>, attribute: Attribute) {
        self.0.insert(name.into(), attribute);
    }

    /// Takes an attribute out.
    pub fn remove(&mut self, name: &str) -> Option<Attribute> {
        self.0.remove(name)
    }

    /// Every subgraph, with the name of its attribute.
    pub fn subgraphs(&self) -> impl Iterator<Item = (&str, &Subgraph)> {
        self.0.iter().flat_map(|(name, attribute)| {
            let subgraphs: &[Subgraph] = match attribute {
                Attribute::Graph(subgraph) => std::slice::from_ref(&**subgraph),
                Attribute::Graphs(subgraphs) => subgraphs,
                _ => &[],
            };
            subgraphs.iter().map(move |subgraph| (name.as_str(), subgraph))
        })
    }

    /// Every subgraph, to be changed.
    pub fn subgraphs_mut(&mut self) -> impl Iterator<Item = &mut Subgraph> {
        self.0.values_mut().flat_map(|attribute| {
            let subgraphs: &mut [Subgraph] = match attribute {
                Attribute::Graph(subgraph) => std::slice::from_mut(&mut **subgraph),
                Attribute::Graphs(subgraphs) => subgraphs,
                _ => &mut [],
            };
            subgraphs.iter_mut()
        })
    }

    getters! {
        /// A float attribute.
        float -> f32 = Float, value => *value;
        /// An integer attribute.
        int -> i64 = Int, value => *value;
        /// A tensor attribute.
        tensor -> &Tensor = Tensor, value => value;
        /// A subgraph attribute.
        graph -> &Subgraph = Graph, value => value;
        /// A list of floats.
        floats -> &[f32] = Floats, value => value;
        /// A list of integers.
        ints -> &[i64] = Ints, value => value;
        /// A pointwise expression.
        expr -> &Arc<Expr> = Expr, value => value;
        /// A type.
        value_type -> &ValueType = Type, value => value;
    }

    /// A string attribute, which must be UTF-8.
    pub fn string(&self, name: &str) -> Result<Option<&str>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Attribute::String(bytes)) => utf8(name, bytes).map(Some),
            Some(other) => Err(wrong_type(name, "String", other)),
        }
    }

    /// A list of strings, which must be UTF-8.
    pub fn strings(&self, name: &str) -> Result<Option<Vec<&str>>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Attribute::Strings(list)) => list
                .iter()
                .map(|bytes| utf8(name, bytes))
                .collect::<Result<_>>()
                .map(Some),
            Some(other) => Err(wrong_type(name, "Strings", other)),
        }
    }

    /// An integer attribute used as a truth value.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int(name)?.map_or(default, |value| value != 0))
    }
}

impl FromIterator<(String, Attribute)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (String, Attribute)>>(attributes: I) -> Attributes {
        Attributes(attributes.into_iter().collect())
    }
}

fn utf8<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorCode::InvalidGraph, format!("attribute {name} is not UTF-8 text")))
}

fn wrong_type(name: &str, expected: &str, actual: &Attribute) -> Error {
    Error::new(ErrorCode::InvalidGraph, format!("attribute {name} has the wrong type"))
        .expected(expected.to_uppercase())
        .actual(actual.type_name())
}
