//! Files of ONNX Runtime's own format (`.ort`): FlatBuffers of the schema `onnxruntime/core/flatbuffers/schema/ort.fbs`.
//! The tables become the messages of an ONNX file, which borrow from the same bytes, and those a graph: both formats
//! mean the same. Runtime optimizations, which are hints, are not read.

mod flatbuffer;

use self::flatbuffer::{File, Table};
use super::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, MapTypeProto, ModelProto, NodeProto, OperatorSetIdProto,
    SequenceTypeProto, SparseTensorProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto, attribute_type,
};
use super::onnx::wire::Slice;
use super::onnx::{NoExternalData, Numbers, graph_of};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::Graph;
use crate::tensor::{Bytes, map::HashMap};

/// Whether the bytes are those of an `.ort` file.
pub fn is_ort(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"ORTM")
}

/// Reads a model of ONNX Runtime's format. Initialisers borrow from `bytes`.
///
/// Errors are those of [`onnx::import`](super::onnx::import); a model with nodes that were compiled for one device, or
/// with weights outside of the file, which the format does not name, is [`ErrorCode::UnsupportedModel`].
pub fn import(bytes: impl Into<Bytes>) -> Result<Graph> {
    let bytes = bytes.into();
    let file = File::new(&bytes);
    let root = file.root()?;
    let Some(model) = root.table(1)? else {
        let message = format!("the .ort file, of format version {:?}, holds no model", root.text(0)?);
        return Err(Error::new(ErrorCode::InvalidModel, message));
    };
    graph_of(&model_of(model)?, bytes.clone(), &NoExternalData)
}

fn model_of<'a>(table: Table<'_, 'a>) -> Result<ModelProto<'a>> {
    let mut model = ModelProto::default();
    model.ir_version = table.i64(0)?;
    model.opset_import = table.tables(1, |entry| {
        let mut import = OperatorSetIdProto::default();
        import.domain = entry.text(0)?;
        import.version = entry.i64(1)?;
        Ok(import)
    })?;
    model.graph = table
        .table(7)?
        .map(|graph| graph_of_table(graph).map(Box::new))
        .transpose()?;
    model.metadata_props = table.tables(9, |entry| {
        let mut property = StringStringEntryProto::default();
        (property.key, property.value) = (entry.text(0)?, entry.text(1)?);
        Ok(property)
    })?;
    Ok(model)
}

fn graph_of_table<'a>(table: Table<'_, 'a>) -> Result<GraphProto<'a>> {
    table.charge(size_of::<GraphProto<'_>>())?;
    let mut graph = GraphProto::default();
    graph.initializer = table.tables(0, tensor)?;
    graph.value_info = table.tables(1, |entry| {
        let mut info = ValueInfoProto::default();
        info.name = entry.text(0)?;
        info.r#type = entry.table(2)?.map(value_type).transpose()?;
        Ok(info)
    })?;
    graph.node = table.tables(2, node)?;
    graph.sparse_initializer = table.tables(7, sparse)?;
    // The types of inputs and outputs stand with those of all values.
    let (inputs, outputs) = (table.texts(5)?, table.texts(6)?);
    let mut infos: HashMap<&str, ValueInfoProto<'a>> = inputs.iter().map(|name| (*name, named(name))).collect();
    for info in &mut graph.value_info {
        if let Some(input) = infos.get_mut(info.name) {
            input.r#type = info.r#type.take();
        }
    }
    // An input that is listed twice is an error in the graph, whatever its type.
    graph.input = inputs
        .iter()
        .map(|name| infos.remove(name).unwrap_or_else(|| named(name)))
        .collect();
    graph.output = outputs.iter().map(|name| named(name)).collect();
    Ok(graph)
}

fn named(name: &str) -> ValueInfoProto<'_> {
    let mut info = ValueInfoProto::default();
    info.name = name;
    info
}

fn node<'a>(table: Table<'_, 'a>) -> Result<NodeProto<'a>> {
    let mut node = NodeProto::default();
    node.name = table.text(0)?;
    node.domain = table.text(2)?;
    node.since_version = Some(i64::from(table.i32(3)?)).filter(|&version| version > 0);
    node.op_type = table.text(5)?;
    node.input = table.texts(8)?;
    node.output = table.texts(9)?;
    node.attribute = table.tables(10, attribute)?;
    if table.i32(6)? != 0 {
        let message = "the .ort model has nodes that were compiled for one device; convert it again without";
        return Err(Error::new(ErrorCode::UnsupportedModel, message)
            .at_node(node.name)
            .actual(table.text(7)?));
    }
    Ok(node)
}

fn attribute<'a>(table: Table<'_, 'a>) -> Result<AttributeProto<'a>> {
    let slice = |(data, offset)| Slice { data, offset };
    let mut attribute = AttributeProto::default();
    attribute.name = table.text(0)?;
    let kind = table.i32(2)?;
    attribute.r#type = Some(kind);
    match kind {
        attribute_type::FLOAT => attribute.f = Some(table.f32(3)?),
        attribute_type::INT => attribute.i = Some(table.i64(4)?.unwrap_or(0)),
        attribute_type::STRING => attribute.s = Some(table.bytes(5, 1)?.map(slice).unwrap_or_default()),
        attribute_type::TENSOR => attribute.t = table.table(6)?.map(boxed(tensor)).transpose()?,
        attribute_type::GRAPH => attribute.g = table.table(7)?.map(boxed(graph_of_table)).transpose()?,
        attribute_type::FLOATS => {
            attribute.floats = Numbers::Packed(table.bytes(8, 4)?.map(slice).unwrap_or_default());
        }
        attribute_type::INTS => attribute.ints = Numbers::Decoded(table.i64s(9)?),
        attribute_type::STRINGS => attribute.strings = table.blobs(10)?.into_iter().map(slice).collect(),
        attribute_type::TENSORS => attribute.tensors = table.tables(11, tensor)?,
        attribute_type::GRAPHS => attribute.graphs = table.tables(12, graph_of_table)?,
        // The importer says what is wrong with others.
        _ => {}
    }
    Ok(attribute)
}

fn boxed<'f, 'a: 'f, T>(read: fn(Table<'f, 'a>) -> Result<T>) -> impl Fn(Table<'f, 'a>) -> Result<Box<T>> {
    move |table| {
        table.charge(size_of::<T>())?;
        read(table).map(Box::new)
    }
}

fn tensor<'a>(table: Table<'_, 'a>) -> Result<TensorProto<'a>> {
    let slice = |(data, offset)| Slice { data, offset };
    let mut tensor = TensorProto::default();
    tensor.name = table.text(0)?;
    tensor.dims = Numbers::Decoded(table.i64s(2)?);
    tensor.data_type = Some(table.i32(3)?);
    tensor.raw_data = table.bytes(4, 1)?.map(slice);
    tensor.string_data = table.blobs(5)?.into_iter().map(slice).collect();
    if table.i64(6)?.is_some_and(|offset| offset >= 0) {
        let message = "the .ort file keeps weights in another file, which the format does not name";
        return Err(Error::new(ErrorCode::UnsupportedModel, message).at_input(tensor.name));
    }
    Ok(tensor)
}

fn sparse<'a>(table: Table<'_, 'a>) -> Result<SparseTensorProto<'a>> {
    let mut sparse = SparseTensorProto::default();
    sparse.values = table.table(0)?.map(boxed(tensor)).transpose()?;
    sparse.indices = table.table(1)?.map(boxed(tensor)).transpose()?;
    sparse.dims = Numbers::Decoded(table.i64s(2)?);
    Ok(sparse)
}

/// Values of the type of `TypeInfo.value`.
mod type_info {
    pub const TENSOR: u8 = 1;
    pub const SEQUENCE: u8 = 2;
    pub const MAP: u8 = 3;
}

fn value_type<'a>(table: Table<'_, 'a>) -> Result<Box<TypeProto<'a>>> {
    table.charge(size_of::<TypeProto<'_>>() + size_of::<TensorTypeProto<'_>>())?;
    let mut ty = Box::<TypeProto<'a>>::default();
    let Some(value) = table.table(2)? else {
        return Ok(ty);
    };
    match table.byte(1)? {
        type_info::TENSOR => {
            let mut tensor = TensorTypeProto::default();
            tensor.elem_type = value.i32(0)?;
            tensor.shape = value.table(1)?.map(shape).transpose()?;
            ty.tensor_type = Some(tensor.into());
        }
        type_info::SEQUENCE => {
            let mut sequence = SequenceTypeProto::default();
            sequence.elem_type = value.table(0)?.map(value_type).transpose()?;
            ty.sequence_type = Some(sequence.into());
        }
        type_info::MAP => {
            let mut map = MapTypeProto::default();
            map.key_type = value.i32(0)?;
            map.value_type = value.table(1)?.map(value_type).transpose()?;
            ty.map_type = Some(map.into());
        }
        _ => {}
    }
    Ok(ty)
}

/// Values of `DimensionValue.dim_type`.
mod dimension_kind {
    pub const VALUE: u8 = 1;
    pub const PARAM: u8 = 2;
}

fn shape<'a>(table: Table<'_, 'a>) -> Result<Box<TensorShapeProto<'a>>> {
    let mut shape = Box::<TensorShapeProto<'a>>::default();
    shape.dim = table.tables(0, |entry| {
        let mut dim = DimensionProto::default();
        if let Some(value) = entry.table(0)? {
            match value.byte(0)? {
                dimension_kind::VALUE => dim.dim_value = Some(value.i64(1)?.unwrap_or(0)),
                dimension_kind::PARAM => dim.dim_param = Some(value.text(2)?),
                _ => {}
            }
        }
        Ok(dim)
    })?;
    Ok(shape)
}

#[cfg(test)]
mod tests;
