//! Runs trained models in browsers, Node.js and Rust.
//!
//! A model is compiled, not interpreted: `import` turns bytes into a [`graph`], `optimize` rewrites it, `plan`
//! makes a program for concrete input shapes, and `run` replays that program on the CPU or the GPU.

// In a browser, `#[test]` is this crate's.
#[cfg(all(test, target_arch = "wasm32"))]
#[macro_use]
extern crate modelet_test_attribute;

pub mod cpu;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod import;
pub mod ops;
pub mod optimize;
pub mod plan;
pub mod pointwise;
pub mod session;
pub mod tensor;
#[cfg(target_arch = "wasm32")]
pub mod wasm;

pub use cpu::threads::Threads;
pub use error::{Error, ErrorCode, Result};
pub use session::{
    Device, Event, Limits, MemoryUse, Model, Outputs, Profile, ProfileRow, Report, Session, SessionOptions, ValueInfo,
};
pub use tensor::{DType, Tensor, Value};
