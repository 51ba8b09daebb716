//! ONNX files.

pub mod message;
pub mod proto;
pub mod sha1;
pub mod sniff;
pub mod wire;
