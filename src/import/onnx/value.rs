//! Values in files of their own: ONNX's test data holds one `TensorProto`, `SequenceProto`, `OptionalProto` or
//! `MapProto` per `.pb` file. Nothing in such a file says which it is; the type of the model's input or output does.

use super::external::NoExternalData;
use super::message::Message;
use super::proto::{MapProto, OptionalProto, SequenceProto, TensorProto, element_kind};
use super::tensor::TensorReader;
use super::wire::Slice;
use crate::error::{Error, ErrorCode, Result};
use crate::tensor::{Bytes, Tensor};

/// A value as ONNX's test data stores it.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredValue {
    Tensor(Tensor),
    Sequence(Vec<StoredValue>),
    /// A value that may be absent.
    Optional(Option<Box<StoredValue>>),
    /// Keys with their values, in the file's order.
    Map(Vec<(StoredKey, StoredValue)>),
}

/// A key of a stored map.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredKey {
    Integer(i64),
    Text(String),
}

/// A tensor with its name (empty when it has none).
///
/// Errors: [`ErrorCode::InvalidModel`] for damaged bytes, [`ErrorCode::InvalidTensor`] for data that does not fit its
/// type and shape.
pub fn read_tensor(bytes: impl Into<Bytes>) -> Result<(String, Tensor)> {
    let bytes = bytes.into();
    let proto = TensorProto::parse(Slice::whole(&bytes))?;
    let tensor = TensorReader::new(bytes.clone(), &NoExternalData).tensor(&proto)?;
    Ok((proto.name.to_string(), tensor))
}

/// A sequence with its name; errors as [`read_tensor`].
pub fn read_sequence(bytes: impl Into<Bytes>) -> Result<(String, StoredValue)> {
    let bytes = bytes.into();
    let proto = SequenceProto::parse(Slice::whole(&bytes))?;
    let value = sequence(&TensorReader::new(bytes.clone(), &NoExternalData), &proto)?;
    Ok((proto.name.to_string(), value))
}

/// An optional value with its name; errors as [`read_tensor`].
pub fn read_optional(bytes: impl Into<Bytes>) -> Result<(String, StoredValue)> {
    let bytes = bytes.into();
    let proto = OptionalProto::parse(Slice::whole(&bytes))?;
    let value = optional(&TensorReader::new(bytes.clone(), &NoExternalData), &proto)?;
    Ok((proto.name.to_string(), value))
}

/// A map with its name; errors as [`read_tensor`].
pub fn read_map(bytes: impl Into<Bytes>) -> Result<(String, StoredValue)> {
    let bytes = bytes.into();
    let proto = MapProto::parse(Slice::whole(&bytes))?;
    let value = map(&TensorReader::new(bytes.clone(), &NoExternalData), &proto)?;
    Ok((proto.name.to_string(), value))
}

fn sequence(reader: &TensorReader<'_>, proto: &SequenceProto<'_>) -> Result<StoredValue> {
    let dense = |tensor| reader.tensor(tensor).map(StoredValue::Tensor);
    let sparse = |tensor| reader.sparse(tensor).map(StoredValue::Tensor);
    let values: Result<Vec<StoredValue>> = match proto.elem_type {
        element_kind::TENSOR => proto.tensor_values.iter().map(dense).collect(),
        element_kind::SPARSE_TENSOR => proto.sparse_tensor_values.iter().map(sparse).collect(),
        element_kind::SEQUENCE => proto
            .sequence_values
            .iter()
            .map(|value| sequence(reader, value))
            .collect(),
        element_kind::MAP => proto.map_values.iter().map(|value| map(reader, value)).collect(),
        element_kind::OPTIONAL => proto
            .optional_values
            .iter()
            .map(|value| optional(reader, value))
            .collect(),
        // An empty sequence may leave its type open.
        element_kind::UNDEFINED => Ok(Vec::new()),
        other => Err(unknown_kind(other)),
    };
    values.map(StoredValue::Sequence)
}

fn optional(reader: &TensorReader<'_>, proto: &OptionalProto<'_>) -> Result<StoredValue> {
    let value = match proto.elem_type {
        element_kind::TENSOR => proto
            .tensor_value
            .as_ref()
            .map(|tensor| reader.tensor(tensor).map(StoredValue::Tensor))
            .transpose(),
        element_kind::SPARSE_TENSOR => proto
            .sparse_tensor_value
            .as_ref()
            .map(|tensor| reader.sparse(tensor).map(StoredValue::Tensor))
            .transpose(),
        element_kind::SEQUENCE => proto
            .sequence_value
            .as_ref()
            .map(|value| sequence(reader, value))
            .transpose(),
        element_kind::MAP => proto.map_value.as_ref().map(|value| map(reader, value)).transpose(),
        element_kind::OPTIONAL => proto
            .optional_value
            .as_ref()
            .map(|value| optional(reader, value))
            .transpose(),
        element_kind::UNDEFINED => Ok(None),
        other => Err(unknown_kind(other)),
    };
    Ok(StoredValue::Optional(value?.map(Box::new)))
}

fn map(reader: &TensorReader<'_>, proto: &MapProto<'_>) -> Result<StoredValue> {
    let text = |slice: &Slice<'_>| match std::str::from_utf8(slice.data) {
        Ok(text) => Ok(StoredKey::Text(text.to_string())),
        Err(_) => Err(damaged(format!(
            "a key of a map is not valid UTF-8 (at byte {})",
            slice.offset
        ))),
    };
    let keys: Vec<StoredKey> = if proto.string_keys.is_empty() {
        proto.keys.to_vec()?.into_iter().map(StoredKey::Integer).collect()
    } else {
        proto.string_keys.iter().map(text).collect::<Result<_>>()?
    };
    let values = match &proto.values {
        Some(values) => sequence(reader, values)?,
        None => StoredValue::Sequence(Vec::new()),
    };
    match values {
        StoredValue::Sequence(values) if values.len() == keys.len() => {
            Ok(StoredValue::Map(keys.into_iter().zip(values).collect()))
        }
        _ => Err(damaged("a map has another number of values than keys")),
    }
}

fn unknown_kind(kind: i32) -> Error {
    damaged(format!("{kind} is not the number of a kind of value"))
}

fn damaged(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidModel, message)
}

#[cfg(test)]
mod tests {
    use super::super::tensor::write_tensor;
    use super::super::wire::Writer;
    use super::*;

    fn bytes(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        fill(&mut writer);
        writer.into_bytes()
    }

    fn pair() -> Tensor {
        Tensor::new(&[2], vec![1.0f32, 2.0]).unwrap()
    }

    #[test]
    fn sequences_optionals_and_maps_are_read() {
        let tensor = write_tensor("", &pair());
        let items = bytes(|sequence| {
            sequence.bytes_field(1, b"s");
            sequence.varint_field(2, 1);
            sequence.bytes_field(3, &tensor);
            sequence.bytes_field(3, &tensor);
        });
        let two = StoredValue::Sequence(vec![StoredValue::Tensor(pair()), StoredValue::Tensor(pair())]);
        assert_eq!(read_sequence(items.clone()).unwrap(), ("s".into(), two.clone()));

        let present = bytes(|optional| {
            optional.varint_field(2, 3);
            optional.bytes_field(5, &items);
        });
        assert_eq!(
            read_optional(present).unwrap().1,
            StoredValue::Optional(Some(Box::new(two)))
        );
        assert_eq!(read_optional(Vec::new()).unwrap().1, StoredValue::Optional(None));

        let entries = bytes(|map| {
            map.bytes_field(4, b"a");
            map.bytes_field(4, b"b");
            map.bytes_field(5, &items);
        });
        let expected = vec![
            (StoredKey::Text("a".into()), StoredValue::Tensor(pair())),
            (StoredKey::Text("b".into()), StoredValue::Tensor(pair())),
        ];
        assert_eq!(read_map(entries).unwrap().1, StoredValue::Map(expected));
    }

    #[test]
    fn maps_with_unequal_keys_and_unknown_kinds_are_errors() {
        let lonely = bytes(|map| map.varint_field(3, 7));
        assert_eq!(read_map(lonely).unwrap_err().code(), ErrorCode::InvalidModel);
        let unknown = bytes(|sequence| sequence.varint_field(2, 9));
        assert_eq!(read_sequence(unknown).unwrap_err().code(), ErrorCode::InvalidModel);
    }
}
