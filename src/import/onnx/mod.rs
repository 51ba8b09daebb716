//! ONNX files.

pub mod message;
pub mod proto;
pub mod wire;
