//! ONNX files: a zero-copy protobuf reader ([`wire`], [`proto`]) and the conversion to a [`Graph`]. Weights stay in the
//! file's bytes; everything a hostile file may hold ends in an [`Error`].

mod attributes;
mod convert;
mod external;
mod functions;
mod message;
pub mod proto;
mod references;
mod scope;
mod sha1;
pub mod skim;
mod sniff;
mod tensor;
mod types;
mod value;
pub mod wire;

#[cfg(test)]
mod tests;

#[cfg(not(target_family = "wasm"))]
pub use external::Folder;
pub use external::{ExternalData, ExternalFile, NoExternalData, Segments};
pub use message::{Message, Numbers};
pub use references::{FileRanges, external_ranges};
pub use tensor::write_tensor;
pub use value::{read_tensor, read_value, write_value};

use crate::error::{Error, ErrorCode, Result};
use crate::graph::Graph;
use crate::tensor::Bytes;

/// Reads an ONNX model.
///
/// Initialisers and `Constant` nodes become constants that borrow from `bytes` where the file holds them as raw data or
/// packed floats. Model-local functions are copied into the graphs that call them. A graph input that has an
/// initialiser is a constant in files before IR version 4, and an input with a default since. Dimensions without a size
/// become symbols. Operators are not looked at: the graph may use ones that nothing here knows.
///
/// A domain that the model imports in several versions has the highest, and both spellings of ONNX's own are one. ONNX's
/// domains have their latest version in a file that imports others only; what else is not imported has version 1.
///
/// Errors:
/// - [`ErrorCode::InvalidModel`]: the bytes are empty, cut off, damaged or of another kind of file.
/// - [`ErrorCode::InvalidGraph`]: a value is undefined, defined twice or on a cycle; a node or attribute is incomplete; a
///   function calls itself.
/// - [`ErrorCode::InvalidTensor`]: a tensor's data does not fit its type and shape.
/// - [`ErrorCode::ExternalData`]: `external` does not have the data, or not enough of it, or its checksum differs.
/// - [`ErrorCode::UnsupportedModel`], [`ErrorCode::UnsupportedOperator`]: a storage form or an element type that is not
///   supported.
/// - [`ErrorCode::LimitExceeded`]: subgraphs or functions nested too deeply, or tensors and functions that grow beyond
///   what the file's length justifies.
pub fn import(bytes: impl Into<Bytes>, external: &dyn ExternalData) -> Result<Graph> {
    let bytes = bytes.into();
    if bytes.is_empty() {
        return Err(Error::new(ErrorCode::InvalidModel, "the file is empty"));
    }
    let other = |error: Error| match sniff::looks_like(&bytes) {
        Some(kind) => Error::new(
            ErrorCode::InvalidModel,
            format!("the file is no ONNX model; it looks like {kind}"),
        ),
        None => error,
    };
    let model = proto::ModelProto::parse(wire::Slice::whole(&bytes)).map_err(|error| other(error.into()))?;
    if model.graph.is_none() {
        return Err(other(Error::new(
            ErrorCode::InvalidModel,
            "the file holds no ONNX graph",
        )));
    }
    graph_of(&model, bytes.clone(), external)
}

/// The graph of a model whose texts and data borrow from `file`.
pub fn graph_of(model: &proto::ModelProto<'_>, file: Bytes, external: &dyn ExternalData) -> Result<Graph> {
    let graph = convert::convert(model, tensor::TensorReader::new(file, external))?;
    graph.verify()?;
    Ok(graph)
}
