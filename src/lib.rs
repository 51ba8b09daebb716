//! Runs trained models in browsers, Node.js and Rust.
//!
//! A model is compiled, not interpreted: `import` turns bytes into a [`graph`], `optimize` rewrites it, `plan`
//! makes a program for concrete input shapes, and `run` replays that program on the CPU or the GPU.

pub mod cpu;
pub mod gpu;
pub mod pointwise;
