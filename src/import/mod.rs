//! Readers of model files. Each source format has a folder of its own that ends in a [`Graph`](crate::graph::Graph)
//! and nothing else.

pub mod onnx;
