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

    /// The type that a text like [`ValueType::name`]'s stands for, or `None` when it stands for none. Tensors have no
    /// shape.
    ///
    /// ```
    /// # use modelet::graph::ValueType;
    /// let ty = ValueType::parse("sequence(map(int64, float32))").unwrap();
    /// assert_eq!(ty.name(), "sequence(map(int64, float32))");
    /// assert_eq!(ValueType::parse("sequence(float33)"), None);
    /// ```
    pub fn parse(text: &str) -> Option<ValueType> {
        parse(text, MAX_DEPTH)
    }

    /// The type without shapes, as the TypeScript API has it: `float32`, `optional(string)`,
    /// `sequence(map(int64, float32))`; an element type that is not known is `?`.
    pub fn name(&self) -> String {
        match self {
            ValueType::Tensor(tensor) => tensor.dtype.map_or("?", DType::name).to_string(),
            ValueType::Sequence(inner) => format!("sequence({})", inner.name()),
            ValueType::Optional(inner) => format!("optional({})", inner.name()),
            ValueType::Map(key, value) => format!("map({key}, {})", value.name()),
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

/// Containers inside each other that a text may name.
const MAX_DEPTH: u32 = 16;

fn parse(text: &str, depth: u32) -> Option<ValueType> {
    let text = text.trim();
    let Some((kind, rest)) = text.split_once('(') else {
        let dtype = match text {
            "?" => None,
            name => Some(DType::from_name(name)?),
        };
        return Some(ValueType::Tensor(TensorType { dtype, shape: None }));
    };
    let (depth, inner) = (depth.checked_sub(1)?, rest.strip_suffix(')')?);
    match kind {
        "sequence" => Some(ValueType::Sequence(Box::new(parse(inner, depth)?))),
        "optional" => Some(ValueType::Optional(Box::new(parse(inner, depth)?))),
        "map" => {
            let (key, value) = inner.split_once(',')?;
            let key = DType::from_name(key.trim())?;
            Some(ValueType::Map(key, Box::new(parse(value, depth)?)))
        }
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in [
            "float32",
            "?",
            "sequence(string)",
            "optional(sequence(float16))",
            "sequence(map(string, int64))",
            "map(int64, float32)",
        ] {
            assert_eq!(ValueType::parse(name).map(|ty| ty.name()).as_deref(), Some(name));
        }
        assert_eq!(
            ValueType::parse(" map( int64 ,float32 )")
                .map(|ty| ty.to_string())
                .as_deref(),
            Some("map(int64, float32[…])")
        );
    }

    #[test]
    fn other_texts_are_no_types() {
        let deep = format!("{}float32{}", "sequence(".repeat(100), ")".repeat(100));
        for text in [
            "",
            "float",
            "sequence",
            "sequence(",
            "sequence()",
            "map(int64)",
            "set(int64)",
            "map(?, int64)",
            &deep,
        ] {
            assert_eq!(ValueType::parse(text), None, "{text}");
        }
    }
}
