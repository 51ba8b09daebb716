//! Values that are more than one tensor: ONNX's sequences, maps and optionals.

use super::{DType, Tensor};
use crate::error::{Error, ErrorCode, Result};

/// What flows along an edge of a graph.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A dense tensor.
    Tensor(Tensor),
    /// A sequence of values of one type.
    Sequence(Vec<Value>),
    /// A map from integers or strings to numbers or strings.
    Map(Map),
    /// An optional that holds nothing. One that holds something is that value.
    Absent,
}

/// A map: `keys` (int64, another integer type, or string) and `values`, both of shape `[n]`, in the order they came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    keys: Tensor,
    values: Tensor,
}

impl Map {
    /// A map of keys and values, which must be two lists of one length; keys are integers or strings.
    pub fn new(keys: Tensor, values: Tensor) -> Result<Map> {
        let fits = keys.shape().len() == 1 && keys.shape() == values.shape();
        if !fits || !(keys.dtype().is_integer() || keys.dtype() == DType::String) {
            return Err(Error::new(
                ErrorCode::InvalidTensor,
                "a map is not made of a list of keys and one of values",
            )
            .expected("keys of an integer type or string, and as many values")
            .actual(format!("{keys:?} and {values:?}")));
        }
        Ok(Map { keys, values })
    }

    /// The keys.
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// The values, in the order of the keys.
    pub fn values(&self) -> &Tensor {
        &self.values
    }
}

impl Value {
    /// What kind of value this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Tensor(_) => "a tensor",
            Value::Sequence(_) => "a sequence",
            Value::Map(_) => "a map",
            Value::Absent => "an empty optional",
        }
    }

    /// The tensor, when this is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The tensor; an error when this is something else.
    pub fn tensor(&self) -> Result<&Tensor> {
        self.as_tensor().ok_or_else(|| self.kind_error("a tensor"))
    }

    /// The elements of a sequence; an error when this is something else.
    pub fn sequence(&self) -> Result<&[Value]> {
        match self {
            Value::Sequence(values) => Ok(values),
            _ => Err(self.kind_error("a sequence")),
        }
    }

    /// The map; an error when this is something else.
    pub fn map(&self) -> Result<&Map> {
        match self {
            Value::Map(map) => Ok(map),
            _ => Err(self.kind_error("a map")),
        }
    }

    fn kind_error(&self, expected: &str) -> Error {
        Error::new(ErrorCode::WrongType, "a value is of another kind")
            .expected(expected)
            .actual(self.kind())
    }
}

impl TryFrom<Value> for Tensor {
    type Error = Error;

    /// The tensor; an error when the value is something else.
    fn try_from(value: Value) -> Result<Tensor> {
        match value {
            Value::Tensor(tensor) => Ok(tensor),
            other => Err(other.kind_error("a tensor")),
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value::Tensor(tensor)
    }
}
