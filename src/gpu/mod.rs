//! What GPU work shares: kernel descriptions and their builders, which need no device, and (with the `gpu` feature)
//! the wgpu device, pipeline cache, planned buffers and the executor that replays a recorded program.

pub mod kernel;
