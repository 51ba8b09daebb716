//! What GPU work shares: kernel descriptions and their builders, which need no device, and (with the `gpu` feature)
//! the wgpu device, pipeline cache, planned buffers and the executor that replays a recorded program.

pub mod buffers;
#[cfg(feature = "gpu")]
pub mod device;
#[cfg(not(feature = "gpu"))]
#[path = "absent.rs"]
pub mod device;
pub mod epilogue;
#[cfg(feature = "gpu")]
pub mod executor;
pub mod kernel;
pub mod kernels;
#[cfg(all(feature = "gpu", target_arch = "wasm32"))]
mod outside;
#[cfg(feature = "gpu")]
mod pipeline;
pub mod pointwise;
pub mod program;
pub mod progress;
#[cfg(feature = "gpu")]
mod readback;
#[cfg(feature = "gpu")]
mod remote;
#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
pub(crate) mod testing;
pub mod wgsl;

#[cfg(all(feature = "gpu", target_arch = "wasm32"))]
pub(crate) use outside::outside;
