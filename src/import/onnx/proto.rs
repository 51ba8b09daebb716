//! The messages of an ONNX file, with the field names and numbers of the ONNX schema as of IR version 14. They borrow
//! texts and raw data from the file; fields that nothing here needs (documentation, training, device placement) are
//! skipped by not being named.

use super::message::{Allowance, FieldValue, Merge, Message, Numbers, message};
use super::wire::{ParseError, Slice};

message! {
    /// A file: one graph, the functions it calls and the operator sets it is written in.
    ModelProto {
        ir_version: Option<i64> = 1,
        producer_name: &'a str = 2,
        producer_version: &'a str = 3,
        domain: &'a str = 4,
        model_version: Option<i64> = 5,
        graph: Option<Box<GraphProto<'a>>> = 7,
        opset_import: Vec<OperatorSetIdProto<'a>> = 8,
        metadata_props: Vec<StringStringEntryProto<'a>> = 14,
        functions: Vec<FunctionProto<'a>> = 25,
    }
}

message! {
    OperatorSetIdProto {
        domain: &'a str = 1,
        version: Option<i64> = 2,
    }
}

message! {
    StringStringEntryProto {
        key: &'a str = 1,
        value: &'a str = 2,
    }
}

message! {
    GraphProto {
        node: Vec<NodeProto<'a>> = 1,
        name: &'a str = 2,
        initializer: Vec<TensorProto<'a>> = 5,
        input: Vec<ValueInfoProto<'a>> = 11,
        output: Vec<ValueInfoProto<'a>> = 12,
        value_info: Vec<ValueInfoProto<'a>> = 13,
        quantization_annotation: Vec<TensorAnnotation<'a>> = 14,
        sparse_initializer: Vec<SparseTensorProto<'a>> = 15,
        metadata_props: Vec<StringStringEntryProto<'a>> = 16,
    }
}

message! {
    NodeProto {
        input: Vec<&'a str> = 1,
        output: Vec<&'a str> = 2,
        name: &'a str = 3,
        op_type: &'a str = 4,
        attribute: Vec<AttributeProto<'a>> = 5,
        domain: &'a str = 7,
        overload: &'a str = 8,
        metadata_props: Vec<StringStringEntryProto<'a>> = 9,
        /// The version of the operator, in formats that note it; otherwise that of the imported operator set counts.
        since_version: Option<i64>,
    }
}

message! {
    /// A named value of a node; `r#type` says which of the other fields holds it.
    AttributeProto {
        name: &'a str = 1,
        f: Option<f32> = 2,
        i: Option<i64> = 3,
        s: Option<Slice<'a>> = 4,
        t: Option<Box<TensorProto<'a>>> = 5,
        g: Option<Box<GraphProto<'a>>> = 6,
        floats: Numbers<'a, f32> = 7,
        ints: Numbers<'a, i64> = 8,
        strings: Vec<Slice<'a>> = 9,
        tensors: Vec<TensorProto<'a>> = 10,
        graphs: Vec<GraphProto<'a>> = 11,
        tp: Option<Box<TypeProto<'a>>> = 14,
        type_protos: Vec<TypeProto<'a>> = 15,
        r#type: Option<i32> = 20,
        ref_attr_name: &'a str = 21,
        sparse_tensor: Option<Box<SparseTensorProto<'a>>> = 22,
        sparse_tensors: Vec<SparseTensorProto<'a>> = 23,
    }
}

/// Values of `AttributeProto::r#type`.
pub mod attribute_type {
    pub const UNDEFINED: i32 = 0;
    pub const FLOAT: i32 = 1;
    pub const INT: i32 = 2;
    pub const STRING: i32 = 3;
    pub const TENSOR: i32 = 4;
    pub const GRAPH: i32 = 5;
    pub const FLOATS: i32 = 6;
    pub const INTS: i32 = 7;
    pub const STRINGS: i32 = 8;
    pub const TENSORS: i32 = 9;
    pub const GRAPHS: i32 = 10;
    pub const SPARSE_TENSOR: i32 = 11;
    pub const SPARSE_TENSORS: i32 = 12;
    pub const TYPE_PROTO: i32 = 13;
    pub const TYPE_PROTOS: i32 = 14;
}

message! {
    /// A tensor. Its elements stand in `raw_data`, in one of the typed fields, or in another file.
    TensorProto {
        dims: Numbers<'a, i64> = 1,
        data_type: Option<i32> = 2,
        segment: Option<Slice<'a>> = 3,
        float_data: Numbers<'a, f32> = 4,
        int32_data: Numbers<'a, i32> = 5,
        string_data: Vec<Slice<'a>> = 6,
        int64_data: Numbers<'a, i64> = 7,
        name: &'a str = 8,
        raw_data: Option<Slice<'a>> = 9,
        double_data: Numbers<'a, f64> = 10,
        uint64_data: Numbers<'a, u64> = 11,
        external_data: Vec<StringStringEntryProto<'a>> = 13,
        data_location: Option<i32> = 14,
        metadata_props: Vec<StringStringEntryProto<'a>> = 16,
    }
}

/// `TensorProto::data_location` of a tensor whose elements stand in another file.
pub const DATA_LOCATION_EXTERNAL: i32 = 1;

/// Values of `TensorProto::data_type` and of every `elem_type` of a tensor.
pub mod data_type {
    pub const UNDEFINED: i32 = 0;
    pub const FLOAT: i32 = 1;
    pub const UINT8: i32 = 2;
    pub const INT8: i32 = 3;
    pub const UINT16: i32 = 4;
    pub const INT16: i32 = 5;
    pub const INT32: i32 = 6;
    pub const INT64: i32 = 7;
    pub const STRING: i32 = 8;
    pub const BOOL: i32 = 9;
    pub const FLOAT16: i32 = 10;
    pub const DOUBLE: i32 = 11;
    pub const UINT32: i32 = 12;
    pub const UINT64: i32 = 13;
    pub const COMPLEX64: i32 = 14;
    pub const COMPLEX128: i32 = 15;
    pub const BFLOAT16: i32 = 16;
    pub const FLOAT8E4M3FN: i32 = 17;
    pub const FLOAT8E4M3FNUZ: i32 = 18;
    pub const FLOAT8E5M2: i32 = 19;
    pub const FLOAT8E5M2FNUZ: i32 = 20;
    pub const UINT4: i32 = 21;
    pub const INT4: i32 = 22;
    pub const FLOAT4E2M1: i32 = 23;
    pub const FLOAT8E8M0: i32 = 24;
    pub const UINT2: i32 = 25;
    pub const INT2: i32 = 26;
    pub const FLOAT6E2M3: i32 = 27;
    pub const FLOAT6E3M2: i32 = 28;
}

message! {
    /// A tensor given by its non-zero elements.
    SparseTensorProto {
        values: Option<Box<TensorProto<'a>>> = 1,
        indices: Option<Box<TensorProto<'a>>> = 2,
        dims: Numbers<'a, i64> = 3,
    }
}

message! {
    ValueInfoProto {
        name: &'a str = 1,
        r#type: Option<Box<TypeProto<'a>>> = 2,
        metadata_props: Vec<StringStringEntryProto<'a>> = 4,
    }
}

message! {
    /// The type of a value; exactly one of the fields ending in `_type` is present in a well-formed file.
    TypeProto {
        tensor_type: Option<Box<TensorTypeProto<'a>>> = 1,
        sequence_type: Option<Box<SequenceTypeProto<'a>>> = 4,
        map_type: Option<Box<MapTypeProto<'a>>> = 5,
        denotation: &'a str = 6,
        opaque_type: Option<Box<OpaqueTypeProto<'a>>> = 7,
        sparse_tensor_type: Option<Box<TensorTypeProto<'a>>> = 8,
        optional_type: Option<Box<SequenceTypeProto<'a>>> = 9,
    }
}

message! {
    /// `TypeProto.Tensor` and `TypeProto.SparseTensor`.
    TensorTypeProto {
        elem_type: i32 = 1,
        shape: Option<Box<TensorShapeProto<'a>>> = 2,
    }
}

message! {
    /// `TypeProto.Sequence` and `TypeProto.Optional`.
    SequenceTypeProto {
        elem_type: Option<Box<TypeProto<'a>>> = 1,
    }
}

message! {
    MapTypeProto {
        key_type: i32 = 1,
        value_type: Option<Box<TypeProto<'a>>> = 2,
    }
}

message! {
    OpaqueTypeProto {
        domain: &'a str = 1,
        name: &'a str = 2,
    }
}

message! {
    TensorShapeProto {
        dim: Vec<DimensionProto<'a>> = 1,
    }
}

message! {
    DimensionProto {
        dim_value: Option<i64> = 1,
        dim_param: Option<&'a str> = 2,
        denotation: &'a str = 3,
    }
}

message! {
    /// A model-local function: a node list that stands for an operator.
    FunctionProto {
        name: &'a str = 1,
        input: Vec<&'a str> = 4,
        output: Vec<&'a str> = 5,
        attribute: Vec<&'a str> = 6,
        node: Vec<NodeProto<'a>> = 7,
        opset_import: Vec<OperatorSetIdProto<'a>> = 9,
        domain: &'a str = 10,
        attribute_proto: Vec<AttributeProto<'a>> = 11,
        value_info: Vec<ValueInfoProto<'a>> = 12,
        overload: &'a str = 13,
        metadata_props: Vec<StringStringEntryProto<'a>> = 14,
    }
}

message! {
    /// Which tensors hold a tensor's quantisation parameters.
    TensorAnnotation {
        tensor_name: &'a str = 1,
        quant_parameter_tensor_names: Vec<StringStringEntryProto<'a>> = 2,
    }
}

message! {
    /// A list of values, as test data files hold it.
    SequenceProto {
        name: &'a str = 1,
        elem_type: i32 = 2,
        tensor_values: Vec<TensorProto<'a>> = 3,
        sparse_tensor_values: Vec<SparseTensorProto<'a>> = 4,
        sequence_values: Vec<SequenceProto<'a>> = 5,
        map_values: Vec<MapProto<'a>> = 6,
        optional_values: Vec<OptionalProto<'a>> = 7,
    }
}

message! {
    MapProto {
        name: &'a str = 1,
        key_type: i32 = 2,
        keys: Numbers<'a, i64> = 3,
        string_keys: Vec<Slice<'a>> = 4,
        values: Option<Box<SequenceProto<'a>>> = 5,
    }
}

message! {
    /// A value or none; `elem_type` says which field may hold it.
    OptionalProto {
        name: &'a str = 1,
        elem_type: i32 = 2,
        tensor_value: Option<Box<TensorProto<'a>>> = 3,
        sparse_tensor_value: Option<Box<SparseTensorProto<'a>>> = 4,
        sequence_value: Option<Box<SequenceProto<'a>>> = 5,
        map_value: Option<Box<MapProto<'a>>> = 6,
        optional_value: Option<Box<OptionalProto<'a>>> = 7,
    }
}

/// Values of `elem_type` in [`SequenceProto`] and [`OptionalProto`].
pub mod element_kind {
    pub const UNDEFINED: i32 = 0;
    pub const TENSOR: i32 = 1;
    pub const SPARSE_TENSOR: i32 = 2;
    pub const SEQUENCE: i32 = 3;
    pub const MAP: i32 = 4;
    pub const OPTIONAL: i32 = 5;
}

#[cfg(test)]
mod tests {
    use super::super::wire::{ParseErrorKind, Writer};
    use super::*;

    fn bytes(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        fill(&mut writer);
        writer.into_bytes()
    }

    #[test]
    fn a_model_is_read_without_copying_texts_or_raw_data() {
        let file = bytes(|model| {
            model.varint_field(1, 8);
            model.message_field(8, |opset| opset.varint_field(2, 17));
            model.message_field(7, |graph| {
                graph.message_field(1, |node| {
                    node.bytes_field(1, b"x");
                    node.bytes_field(2, b"y");
                    node.bytes_field(4, b"Relu");
                });
                graph.message_field(5, |tensor| {
                    tensor.varint_field(1, 2);
                    tensor.varint_field(2, 1);
                    tensor.bytes_field(9, &[1, 2, 3, 4, 5, 6, 7, 8]);
                });
            });
            // Training information is not read.
            model.bytes_field(20, &[0xff; 4]);
        });
        let model = ModelProto::parse(Slice::whole(&file)).unwrap();
        let graph = model.graph.as_deref().unwrap();
        assert_eq!((model.ir_version, model.opset_import[0].version), (Some(8), Some(17)));
        assert_eq!((graph.node[0].op_type, &graph.node[0].input[..]), ("Relu", &["x"][..]));
        let raw = graph.initializer[0].raw_data.unwrap();
        assert_eq!(raw.data.as_ptr(), file[raw.offset..].as_ptr());
        assert_eq!(graph.initializer[0].dims.to_vec(), Ok(vec![2]));
    }

    #[test]
    fn numbers_may_be_packed_unpacked_or_both() {
        let attribute = bytes(|a| {
            a.varint_field(8, 1);
            a.bytes_field(8, &[0x96, 0x01, 3]);
            a.varint_field(8, -1i64 as u64);
            a.bytes_field(7, &1f32.to_le_bytes());
            a.fixed32_field(7, 2f32.to_bits());
        });
        let attribute = AttributeProto::parse(Slice::whole(&attribute)).unwrap();
        assert_eq!(attribute.ints.to_vec(), Ok(vec![1, 150, 3, -1]));
        assert_eq!(attribute.floats.to_vec(), Ok(vec![1.0, 2.0]));
        assert_eq!((attribute.ints.len(), attribute.floats.len()), (4, 2));
    }

    #[test]
    fn repeated_singular_messages_are_merged_and_scalars_replaced() {
        let file = bytes(|model| {
            model.message_field(7, |graph| graph.bytes_field(2, b"first"));
            model.message_field(7, |graph| graph.message_field(1, |node| node.bytes_field(4, b"Relu")));
            model.message_field(7, |graph| graph.bytes_field(2, b"last"));
        });
        let graph = ModelProto::parse(Slice::whole(&file)).unwrap().graph.unwrap();
        assert_eq!((graph.name, graph.node.len()), ("last", 1));
    }

    #[test]
    fn errors_say_where_in_the_message_they_happened() {
        let file = bytes(|model| {
            model.message_field(7, |graph| {
                graph.message_field(1, |node| node.bytes_field(4, b"Relu"));
                graph.message_field(1, |node| node.bytes_field(4, &[b'a', 0xff]));
            });
        });
        let error = ModelProto::parse(Slice::whole(&file)).unwrap_err();
        assert_eq!(
            (error.kind, error.path.as_str()),
            (ParseErrorKind::NotUtf8, "graph.node[1].op_type")
        );
        assert_eq!(file[error.offset], 0xff);

        let error = ModelProto::parse(Slice::whole(&[0x0a, 0])).unwrap_err();
        assert_eq!(
            error.kind,
            ParseErrorKind::WrongWireType {
                field: 1,
                found: "length-delimited bytes"
            }
        );
        let error = TensorProto::parse(Slice::whole(&[0x22, 3, 0, 0, 0])).unwrap_err();
        assert_eq!(error.kind, ParseErrorKind::RaggedPacked { length: 3, width: 4 });
        let error = TensorProto::parse(Slice::whole(&[0x0a, 1, 0x80]))
            .unwrap()
            .dims
            .to_vec()
            .unwrap_err();
        assert_eq!(error.kind, ParseErrorKind::Truncated);
    }

    #[test]
    fn every_truncation_of_a_model_is_an_error_or_a_shorter_model() {
        let file = bytes(|model| {
            model.varint_field(1, 300);
            model.message_field(7, |graph| {
                graph.message_field(1, |node| {
                    node.bytes_field(4, b"Relu");
                    node.message_field(5, |a| a.fixed32_field(2, 7));
                })
            });
        });
        // A cut between top-level fields cannot be told from a complete message.
        let whole = (0..file.len())
            .filter(|&end| ModelProto::parse(Slice::whole(&file[..end])).is_ok())
            .count();
        assert_eq!(whole, 2);
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let mut message = Vec::new();
        for _ in 0..200 {
            message = bytes(|sequence| sequence.bytes_field(5, &message));
        }
        let error = SequenceProto::parse(Slice::whole(&message)).unwrap_err();
        assert_eq!(error.kind, ParseErrorKind::TooDeep);
    }

    // Where pointers are half as long, the messages stay within what the file's length allows.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_flood_of_empty_messages_is_an_error() {
        let nodes = [0x0a, 0].repeat(400_000);
        let error = GraphProto::parse(Slice::whole(&nodes)).unwrap_err();
        assert_eq!(error.kind, ParseErrorKind::TooManyMessages);
    }
}
