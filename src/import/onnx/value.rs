//! Values in files of their own: ONNX's test data holds one `TensorProto`, `SequenceProto`, `OptionalProto` or
//! `MapProto` per `.pb` file. Nothing in such a file says which it is; the type of the model's input or output does.

use super::external::NoExternalData;
use super::message::Message;
use super::proto::{MapProto, OptionalProto, SequenceProto, TensorProto, element_kind};
use super::tensor::{TensorReader, element_type, write_tensor};
use super::wire::{Slice, Writer};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::ValueType;
use crate::tensor::{Bytes, DType, Map, Tensor, Value};

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

/// A value of type `ty` with its name (empty when it has none). What is inside a sequence, optional or map is what the
/// file says, also where `ty` says otherwise.
///
/// Errors: as [`read_tensor`], and [`ErrorCode::UnsupportedModel`] for maps to other things than numbers and strings.
pub fn read_value(bytes: impl Into<Bytes>, ty: &ValueType) -> Result<(String, Value)> {
    let bytes = bytes.into();
    let file = Slice::whole(&bytes);
    let reader = TensorReader::new(bytes.clone(), &NoExternalData);
    // Messages nest to a fixed depth, and so does what is made of them.
    let (name, value) = match ty {
        ValueType::Tensor(_) => {
            let proto = TensorProto::parse(file)?;
            (proto.name, Value::Tensor(reader.tensor(&proto)?))
        }
        ValueType::Sequence(_) => {
            let proto = SequenceProto::parse(file)?;
            (proto.name, Value::Sequence(sequence(&reader, &proto)?))
        }
        ValueType::Optional(_) => {
            let proto = OptionalProto::parse(file)?;
            (proto.name, optional(&reader, &proto)?)
        }
        ValueType::Map(..) => {
            let proto = MapProto::parse(file)?;
            (proto.name, map(&reader, &proto)?)
        }
    };
    Ok((name.to_string(), value))
}

/// The file of a value of type `ty`: what [`read_value`] reads.
///
/// Errors: [`ErrorCode::WrongType`] for a value of another kind than `ty` and for sequences of mixed kinds,
/// [`ErrorCode::LimitExceeded`] for values nested too deeply.
pub fn write_value(name: &str, value: &Value, ty: &ValueType) -> Result<Vec<u8>> {
    written(name, value, Some(ty), MAX_DEPTH)
}

/// Values inside each other that are written; far more than any model has, and less than is read.
const MAX_DEPTH: u32 = 32;

fn sequence(reader: &TensorReader<'_>, proto: &SequenceProto<'_>) -> Result<Vec<Value>> {
    let tensors = &proto.tensor_values;
    let sparse = &proto.sparse_tensor_values;
    match proto.elem_type {
        element_kind::TENSOR => tensors
            .iter()
            .map(|one| reader.tensor(one).map(Value::Tensor))
            .collect(),
        element_kind::SPARSE_TENSOR => sparse.iter().map(|one| reader.sparse(one).map(Value::Tensor)).collect(),
        element_kind::SEQUENCE => (proto.sequence_values.iter())
            .map(|one| sequence(reader, one).map(Value::Sequence))
            .collect(),
        element_kind::MAP => proto.map_values.iter().map(|one| map(reader, one)).collect(),
        element_kind::OPTIONAL => proto.optional_values.iter().map(|one| optional(reader, one)).collect(),
        // An empty sequence may leave its type open.
        element_kind::UNDEFINED => {
            let nested = proto.sequence_values.len() + proto.map_values.len() + proto.optional_values.len();
            match tensors.len() + sparse.len() + nested {
                0 => Ok(Vec::new()),
                _ => Err(damaged("a sequence does not say what kind of values it holds")),
            }
        }
        other => Err(unknown_kind(other)),
    }
}

fn optional(reader: &TensorReader<'_>, proto: &OptionalProto<'_>) -> Result<Value> {
    let value = match proto.elem_type {
        element_kind::TENSOR => (proto.tensor_value.as_ref()).map(|one| reader.tensor(one).map(Value::Tensor)),
        element_kind::SPARSE_TENSOR => {
            (proto.sparse_tensor_value.as_ref()).map(|one| reader.sparse(one).map(Value::Tensor))
        }
        element_kind::SEQUENCE => (proto.sequence_value.as_ref()).map(|one| sequence(reader, one).map(Value::Sequence)),
        element_kind::MAP => proto.map_value.as_ref().map(|one| map(reader, one)),
        element_kind::OPTIONAL => proto.optional_value.as_ref().map(|one| optional(reader, one)),
        element_kind::UNDEFINED => None,
        other => return Err(unknown_kind(other)),
    };
    value.unwrap_or(Ok(Value::Absent))
}

fn map(reader: &TensorReader<'_>, proto: &MapProto<'_>) -> Result<Value> {
    let values = match &proto.values {
        Some(values) => list_of(sequence(reader, values)?)?,
        None => Tensor::zeros(DType::F32, &[0])?,
    };
    let keys = keys(proto)?;
    if keys.shape() != values.shape() {
        return Err(damaged("a map has another number of values than keys"));
    }
    Map::new(keys, values).map(Value::Map)
}

fn keys(proto: &MapProto<'_>) -> Result<Tensor> {
    let text = |slice: &Slice<'_>| match std::str::from_utf8(slice.data) {
        Ok(text) => Ok(text.to_string()),
        Err(_) => Err(damaged(format!(
            "a key of a map is not valid UTF-8 (at byte {})",
            slice.offset
        ))),
    };
    if !proto.string_keys.is_empty() {
        let keys: Vec<String> = proto.string_keys.iter().map(text).collect::<Result<_>>()?;
        return Tensor::from_strings(&[keys.len()], keys);
    }
    let dtype = match proto.key_type {
        0 => DType::I64,
        number => element_type(number)?,
    };
    let keys = proto.keys.to_vec()?;
    if dtype == DType::String && keys.is_empty() {
        return Tensor::from_strings(&[0], Vec::new());
    }
    if !dtype.is_integer() {
        return Err(damaged("the keys of a map are neither integers nor strings").actual(dtype.name()));
    }
    let tensor = Tensor::from_i64s(dtype, &[keys.len()], &keys)?;
    if tensor.to_i64s()? != keys {
        return Err(damaged(format!("a key of a map does not fit {dtype}")));
    }
    Ok(tensor)
}

/// Tensors of one element and one type each, as one list.
fn list_of(values: Vec<Value>) -> Result<Tensor> {
    let Some(dtype) = values.first().and_then(Value::as_tensor).map(Tensor::dtype) else {
        return match values.is_empty() {
            true => Tensor::zeros(DType::F32, &[0]),
            false => Err(unsupported_map("values that are not tensors")),
        };
    };
    let (mut bytes, mut strings) = (Vec::new(), Vec::new());
    for value in &values {
        let tensor = value.tensor()?;
        if tensor.dtype() != dtype || tensor.len() != 1 {
            return Err(unsupported_map(&format!("a value {tensor:?} among values of {dtype}")));
        }
        match dtype {
            DType::String => strings.extend_from_slice(tensor.strings()?),
            _ if dtype.bits().is_some_and(|bits| bits % 8 == 0) => bytes.extend_from_slice(tensor.bytes()),
            _ => return Err(unsupported_map(&format!("values of {dtype}"))),
        }
    }
    match dtype {
        DType::String => Tensor::from_strings(&[values.len()], strings),
        _ => Tensor::from_bytes(dtype, &[values.len()], bytes),
    }
}

/// The message of a value. Inside a sequence or a map no type is given: the value is what it is.
fn written(name: &str, value: &Value, ty: Option<&ValueType>, depth: u32) -> Result<Vec<u8>> {
    let Some(depth) = depth.checked_sub(1) else {
        let message = "a value is nested too deeply to be written";
        return Err(Error::new(ErrorCode::LimitExceeded, message));
    };
    if let Some(ValueType::Optional(inner)) = ty {
        let mut writer = named(name);
        if *value != Value::Absent {
            let kind = kind(value);
            writer.varint_field(2, kind as u64);
            writer.bytes_field(kind as u32 + 2, &written("", value, Some(inner), depth)?);
        }
        return Ok(writer.into_bytes());
    }
    let fits = match (ty, value) {
        (None, _)
        | (Some(ValueType::Tensor(_)), Value::Tensor(_))
        | (Some(ValueType::Sequence(_)), Value::Sequence(_))
        | (Some(ValueType::Map(..)), Value::Map(_)) => true,
        (Some(_), _) => false,
    };
    if !fits {
        return Err(
            Error::new(ErrorCode::WrongType, "a value is of another kind than its type")
                .at_input(name)
                .expected(ty.map(ValueType::to_string).unwrap_or_default())
                .actual(value.kind()),
        );
    }
    match value {
        Value::Tensor(tensor) => Ok(write_tensor(name, tensor)),
        Value::Sequence(values) => {
            let inner = match ty {
                Some(ValueType::Sequence(inner)) => Some(&**inner),
                _ => None,
            };
            let mut writer = named(name);
            let of_values = values.first().map(kind);
            let declared = inner.map_or(element_kind::UNDEFINED, kind_of_type);
            let kind = if declared == element_kind::UNDEFINED {
                of_values.unwrap_or(declared)
            } else {
                declared
            };
            writer.varint_field(2, kind as u64);
            for value in values {
                if inner.is_none() && Some(self::kind(value)) != of_values {
                    return Err(Error::new(
                        ErrorCode::WrongType,
                        "a sequence holds values of several kinds",
                    ));
                }
                writer.bytes_field(kind as u32 + 2, &written("", value, inner, depth)?);
            }
            Ok(writer.into_bytes())
        }
        Value::Map(map) => written_map(name, map),
        // Only inside an untyped sequence.
        Value::Absent => Ok(named(name).into_bytes()),
    }
}

fn written_map(name: &str, map: &Map) -> Result<Vec<u8>> {
    let mut writer = named(name);
    // The type's number is positive, so widening it is exact.
    writer.varint_field(2, map.keys().dtype().to_onnx() as u64);
    match map.keys().strings() {
        Ok(keys) => keys.iter().for_each(|key| writer.bytes_field(4, key.as_bytes())),
        Err(_) => (map.keys().to_i64s()?.iter()).for_each(|&key| writer.varint_field(3, key as u64)),
    }
    let values = map.values();
    let width = values.dtype().bits().unwrap_or(8) / 8;
    let mut list = Writer::default();
    list.varint_field(2, element_kind::TENSOR as u64);
    for index in 0..values.len() {
        let one = match values.strings() {
            Ok(strings) => Tensor::from_strings(&[], vec![strings[index].clone()])?,
            Err(_) => {
                let bytes = values
                    .bytes()
                    .get(index * width..(index + 1) * width)
                    .unwrap_or_default();
                Tensor::from_bytes(values.dtype(), &[], bytes)?
            }
        };
        list.bytes_field(3, &write_tensor("", &one));
    }
    writer.bytes_field(5, &list.into_bytes());
    Ok(writer.into_bytes())
}

fn named(name: &str) -> Writer {
    let mut writer = Writer::default();
    if !name.is_empty() {
        writer.bytes_field(1, name.as_bytes());
    }
    writer
}

/// The number of a value's kind; its field stands two further on, in sequences and optionals alike.
fn kind(value: &Value) -> i32 {
    match value {
        Value::Tensor(_) => element_kind::TENSOR,
        Value::Sequence(_) => element_kind::SEQUENCE,
        Value::Map(_) => element_kind::MAP,
        Value::Absent => element_kind::OPTIONAL,
    }
}

fn kind_of_type(ty: &ValueType) -> i32 {
    match ty {
        ValueType::Tensor(_) => element_kind::TENSOR,
        ValueType::Sequence(_) => element_kind::SEQUENCE,
        ValueType::Optional(_) => element_kind::OPTIONAL,
        ValueType::Map(..) => element_kind::MAP,
    }
}

fn unknown_kind(kind: i32) -> Error {
    damaged(format!("{kind} is not the number of a kind of value"))
}

fn unsupported_map(actual: &str) -> Error {
    Error::new(
        ErrorCode::UnsupportedModel,
        "a map holds something else than single numbers or strings",
    )
    .expected("tensors of one element, of one type")
    .actual(actual)
}

fn damaged(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidModel, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::TensorType;

    fn bytes(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        fill(&mut writer);
        writer.into_bytes()
    }

    fn pair() -> Value {
        Value::Tensor(Tensor::new(&[2], vec![1.0f32, 2.0]).unwrap())
    }

    fn tensor_type() -> ValueType {
        ValueType::Tensor(TensorType::default())
    }

    fn sequence_of(ty: ValueType) -> ValueType {
        ValueType::Sequence(Box::new(ty))
    }

    fn optional_of(ty: ValueType) -> ValueType {
        ValueType::Optional(Box::new(ty))
    }

    fn map_type() -> ValueType {
        ValueType::Map(DType::I64, Box::new(tensor_type()))
    }

    fn map(keys: Tensor, values: Tensor) -> Value {
        Value::Map(Map::new(keys, values).unwrap())
    }

    #[test]
    fn every_kind_of_value_goes_to_a_file_and_back() {
        let texts = |texts: &[&str]| {
            Tensor::from_strings(&[texts.len()], texts.iter().map(ToString::to_string).collect()).unwrap()
        };
        let numbers = Tensor::new(&[2], vec![0.5f64, -1.0]).unwrap();
        let of_integers = map(Tensor::new(&[2], vec![-7i64, 1 << 60]).unwrap(), texts(&["a", ""]));
        let of_texts = map(texts(&["x", "y"]), numbers);
        let list = Value::Sequence(vec![pair(), pair()]);
        let tensors = sequence_of(tensor_type());
        let cases = [
            (pair(), tensor_type()),
            (list.clone(), tensors.clone()),
            (Value::Sequence(vec![]), tensors.clone()),
            (Value::Sequence(vec![list.clone()]), sequence_of(tensors.clone())),
            (
                Value::Sequence(vec![pair(), Value::Absent]),
                sequence_of(optional_of(tensor_type())),
            ),
            (Value::Absent, optional_of(tensor_type())),
            (pair(), optional_of(tensor_type())),
            (list, optional_of(tensors)),
            (of_integers, map_type()),
            (Value::Sequence(vec![of_texts]), sequence_of(map_type())),
        ];
        for (value, ty) in cases {
            let file = write_value("v", &value, &ty).unwrap();
            assert_eq!(read_value(file, &ty).unwrap(), ("v".to_string(), value), "{ty}");
        }
    }

    #[test]
    fn files_of_other_writers_are_read() {
        let tensor = write_tensor("", pair().tensor().unwrap());
        // Fields in any order, and an element kind that an empty value leaves open.
        let items = bytes(|sequence| {
            sequence.bytes_field(3, &tensor);
            sequence.varint_field(2, 1);
            sequence.bytes_field(1, b"s");
        });
        let read = read_value(items, &sequence_of(tensor_type())).unwrap();
        assert_eq!(read, ("s".into(), Value::Sequence(vec![pair()])));
        for ty in [sequence_of(tensor_type()), optional_of(tensor_type()), map_type()] {
            let (name, value) = read_value(Vec::new(), &ty).unwrap();
            assert_eq!(
                (name.as_str(), value == Value::Absent),
                ("", matches!(ty, ValueType::Optional(_)))
            );
        }
    }

    #[test]
    fn damaged_values_are_errors() {
        let one = write_tensor("", &Tensor::scalar(1.0f32));
        let two = write_tensor("", pair().tensor().unwrap());
        let map_of = |key_type: u64, key: u64, values: &[&[u8]]| {
            bytes(|map| {
                map.varint_field(2, key_type);
                map.varint_field(3, key);
                map.message_field(5, |list| {
                    list.varint_field(2, 1);
                    values.iter().for_each(|value| list.bytes_field(3, value));
                });
            })
        };
        let code = |file: Vec<u8>, ty: &ValueType| read_value(file, ty).unwrap_err().code();
        assert!(read_value(map_of(7, 9, &[&one]), &map_type()).is_ok());
        // No value, a key that does not fit, a key of floats, a value of two elements, values of two types.
        assert_eq!(code(map_of(7, 9, &[]), &map_type()), ErrorCode::InvalidModel);
        assert_eq!(code(map_of(3, 300, &[&one]), &map_type()), ErrorCode::InvalidModel);
        assert_eq!(code(map_of(1, 1, &[&one]), &map_type()), ErrorCode::InvalidModel);
        assert_eq!(code(map_of(7, 1, &[&two]), &map_type()), ErrorCode::UnsupportedModel);
        let other = write_tensor("", &Tensor::scalar(1i64));
        assert_eq!(
            code(map_of(7, 1, &[&one, &other]), &map_type()),
            ErrorCode::UnsupportedModel
        );
        // An unknown kind of element, and elements of no kind.
        let list = sequence_of(tensor_type());
        assert_eq!(
            code(bytes(|sequence| sequence.varint_field(2, 9)), &list),
            ErrorCode::InvalidModel
        );
        assert_eq!(
            code(bytes(|sequence| sequence.bytes_field(3, &one)), &list),
            ErrorCode::InvalidModel
        );
    }

    #[test]
    fn deep_nesting_is_an_error_both_ways() {
        let (mut file, mut value, mut ty) = (Vec::new(), Value::Sequence(vec![]), sequence_of(tensor_type()));
        for _ in 0..200 {
            file = bytes(|sequence| {
                sequence.varint_field(2, 3);
                sequence.bytes_field(5, &file);
            });
            value = Value::Sequence(vec![value]);
            ty = sequence_of(ty);
        }
        assert_eq!(read_value(file, &ty).unwrap_err().code(), ErrorCode::InvalidModel);
        let error = write_value("", &value, &ty).unwrap_err();
        assert_eq!(error.code(), ErrorCode::LimitExceeded);
    }

    #[test]
    fn a_value_of_another_kind_is_not_written() {
        let error = write_value("x", &pair(), &map_type()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::WrongType);
        let mixed = Value::Sequence(vec![pair(), Value::Sequence(vec![])]);
        let error = write_value("x", &mixed, &sequence_of(tensor_type())).unwrap_err();
        assert_eq!(error.code(), ErrorCode::WrongType);
    }
}
