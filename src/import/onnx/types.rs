//! Declared types: `TypeProto` to [`ValueType`], with a symbol for every dimension whose size the file leaves open.

use super::proto::{TensorShapeProto, TypeProto};
use super::tensor::{check_rank, element_type};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{TensorType, ValueType};
use crate::tensor::Dim;

/// The type that the file declares for the value `name`.
///
/// A dimension without a size becomes the symbol of its parameter's name, or `name.axis` when it has none. Writers also
/// use 0, negative sizes and `?` for "not known", and so are these read.
pub fn value_type(proto: &TypeProto<'_>, name: &str) -> Result<ValueType> {
    if let Some(tensor) = &proto.tensor_type {
        let dtype = match tensor.elem_type {
            // Subgraph inputs often leave their element type to inference.
            0 => None,
            number => Some(element_type(number)?),
        };
        let shape = tensor.shape.as_ref().map(|shape| dimensions(shape, name)).transpose()?;
        Ok(ValueType::Tensor(TensorType { dtype, shape }))
    } else if let Some(sequence) = &proto.sequence_type {
        Ok(ValueType::Sequence(Box::new(element(
            sequence.elem_type.as_deref(),
            name,
        )?)))
    } else if let Some(optional) = &proto.optional_type {
        Ok(ValueType::Optional(Box::new(element(
            optional.elem_type.as_deref(),
            name,
        )?)))
    } else if let Some(map) = &proto.map_type {
        Ok(ValueType::Map(
            element_type(map.key_type)?,
            Box::new(element(map.value_type.as_deref(), name)?),
        ))
    } else if proto.sparse_tensor_type.is_some() {
        Err(unsupported("sparse tensors as values of a graph are not supported"))
    } else if let Some(opaque) = &proto.opaque_type {
        Err(unsupported(format!(
            "the opaque type {}.{} is not supported",
            opaque.domain, opaque.name
        )))
    } else {
        Ok(ValueType::default())
    }
}

fn element(proto: Option<&TypeProto<'_>>, name: &str) -> Result<ValueType> {
    proto.map_or_else(|| Ok(ValueType::default()), |proto| value_type(proto, name))
}

fn dimensions(shape: &TensorShapeProto<'_>, name: &str) -> Result<Vec<Dim>> {
    // Every open dimension repeats the value's name.
    check_rank(shape.dim.len())?;
    let dim = |(axis, dim): (usize, &super::proto::DimensionProto<'_>)| match (dim.dim_value, dim.dim_param) {
        (Some(size), _) if size > 0 => Dim::from(size),
        (_, Some(parameter)) if !matches!(parameter.trim(), "" | "?") => Dim::symbol(parameter),
        _ => Dim::symbol(format!("{name}.{axis}")),
    };
    Ok(shape.dim.iter().enumerate().map(dim).collect())
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::UnsupportedModel, message)
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::super::wire::{Slice, Writer};
    use super::*;

    fn read(fill: impl FnOnce(&mut Writer)) -> Result<ValueType> {
        let mut writer = Writer::default();
        fill(&mut writer);
        let bytes = writer.into_bytes();
        value_type(&TypeProto::parse(Slice::whole(&bytes)).unwrap(), "x")
    }

    #[test]
    fn open_dimensions_become_symbols() {
        let ty = read(|t| {
            t.message_field(1, |tensor| {
                tensor.varint_field(1, 1);
                tensor.message_field(2, |shape| {
                    shape.message_field(1, |dim| dim.bytes_field(2, b"batch"));
                    shape.message_field(1, |dim| dim.varint_field(1, 3));
                    shape.message_field(1, |dim| dim.varint_field(1, 0));
                    shape.message_field(1, |dim| dim.varint_field(1, -1i64 as u64));
                    shape.message_field(1, |dim| dim.bytes_field(2, b""));
                    shape.message_field(1, |_| {});
                });
            });
        });
        assert_eq!(ty.unwrap().to_string(), "float32[batch, 3, x.2, x.3, x.4, x.5]");
    }

    #[test]
    fn containers_are_read_and_other_types_are_errors() {
        let text = |t: &mut Writer| t.message_field(1, |tensor| tensor.varint_field(1, 8));
        let sequence = read(|t| t.message_field(4, |sequence| sequence.message_field(1, text)));
        assert_eq!(sequence.unwrap().to_string(), "sequence(string[…])");
        let map = read(|t| {
            t.message_field(5, |map| {
                map.varint_field(1, 7);
                map.message_field(2, text);
            })
        });
        assert_eq!(map.unwrap().to_string(), "map(int64, string[…])");
        let optional = read(|t| t.message_field(9, |optional| optional.message_field(1, text)));
        assert_eq!(optional.unwrap().to_string(), "optional(string[…])");
        assert_eq!(
            read(|t| t.message_field(8, |_| {})).unwrap_err().code(),
            ErrorCode::UnsupportedModel
        );
        assert_eq!(
            read(|t| t.message_field(7, |_| {})).unwrap_err().code(),
            ErrorCode::UnsupportedModel
        );
        assert_eq!(
            read(|t| t.message_field(1, |tensor| tensor.varint_field(1, 77)))
                .unwrap_err()
                .code(),
            ErrorCode::InvalidTensor
        );
    }
}
