//! Types of values, as far as they are known before a run.

use std::fmt;

use crate::tensor::{DType, Dim, Value, display_shape};

/// The type of a value: a tensor, or one of ONNX's container types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// A dense tensor.
    Tensor(TensorType),
    /// A sequence of values of one type.
    Sequence(Box<ValueType>),
    /// A value that may be absent.
    Optional(Box<ValueType>),
    /// A map from keys of an integer or string type to values.
    Map(DType, Box<ValueType>),
}

/// Element type and shape of a tensor, each as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorType {
    /// The element type.
    pub dtype: Option<DType>,
    /// The shape; `None` when not even the rank is known.
    pub shape: Option<Vec<Dim>>,
}

impl ValueType {
    /// The type of a value, without the shapes of what a container holds.
    pub fn of(value: &Value) -> ValueType {
        let element = |dtype| {
            ValueType::Tensor(TensorType {
                dtype: Some(dtype),
                shape: None,
            })
        };
        match value {
            Value::Tensor(tensor) => element(tensor.dtype()),
            Value::Sequence(values) => {
                ValueType::Sequence(Box::new(values.first().map_or_else(ValueType::default, ValueType::of)))
            }
            Value::Map(map) => ValueType::Map(map.keys().dtype(), Box::new(element(map.values().dtype()))),
            Value::Absent => ValueType::Optional(Box::default()),
        }
    }

    /// A tensor of known element type and (symbolic) shape.
    pub fn tensor(dtype: DType, shape: Vec<Dim>) -> ValueType {
        ValueType::Tensor(TensorType {
            dtype: Some(dtype),
            shape: Some(shape),
        })
    }

    /// The tensor type, when this is a tensor.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            ValueType::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The element type, when this is a tensor and it is known.
    pub fn dtype(&self) -> Option<DType> {
        self.as_tensor()?.dtype
    }

    /// The shape, when this is a tensor of known rank.
    pub fn shape(&self) -> Option<&[Dim]> {
        self.as_tensor()?.shape.as_deref()
    }
}

impl Default for ValueType {
    fn default() -> ValueType {
        ValueType::Tensor(TensorType::default())
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueType::Tensor(tensor) => {
                f.write_str(tensor.dtype.map_or("?", DType::name))?;
                match &tensor.shape {
                    Some(shape) => f.write_str(&display_shape(shape)),
                    None => f.write_str("[…]"),
                }
            }
            ValueType::Sequence(inner) => write!(f, "sequence({inner})"),
            ValueType::Optional(inner) => write!(f, "optional({inner})"),
            ValueType::Map(key, value) => write!(f, "map({key}, {value})"),
        }
    }
}
