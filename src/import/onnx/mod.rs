//! ONNX files.

pub mod external;
pub mod message;
pub mod proto;
pub mod sha1;
pub mod sniff;
pub mod tensor;
pub mod value;
pub mod wire;
