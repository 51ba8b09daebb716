//! Readers of model files. Each source format has a folder of its own that ends in a [`crate::graph::Graph`] and nothing
//! else.

pub mod onnx;
pub mod ort;

use crate::error::Result;
use crate::graph::Graph;
use crate::tensor::Bytes;

/// Reads a model of any format that its first bytes tell.
pub fn import(bytes: impl Into<Bytes>, external: &dyn onnx::ExternalData) -> Result<Graph> {
    let bytes = bytes.into();
    if ort::is_ort(&bytes) {
        return ort::import(bytes);
    }
    onnx::import(bytes, external)
}
