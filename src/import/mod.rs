//! Readers of model files. Each source format has a folder of its own that ends in a [`crate::graph::Graph`] and nothing
//! else.

pub mod onnx;
pub mod ort;

use crate::error::{Error, ErrorCode, Result};
use crate::graph::Graph;
use crate::tensor::Bytes;

/// Reads a model of any format that its first bytes tell.
pub fn import(bytes: impl Into<Bytes>, external: &dyn onnx::ExternalData) -> Result<Graph> {
    let bytes = bytes.into();
    if ort::is_ort(&bytes) {
        // Few models come as .ort: the build with all operators reads them.
        if !cfg!(any(test, feature = "all-operators")) {
            let message = "the model is in ONNX Runtime's own format, which this build does not read";
            return Err(Error::new(ErrorCode::UnsupportedOperator, message).detail("models in the .ort format"));
        }
        return ort::import(bytes);
    }
    onnx::import(bytes, external)
}
