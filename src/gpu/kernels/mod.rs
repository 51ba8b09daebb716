//! Kernel builders that operator files call: each takes shapes, attributes and capabilities and returns the
//! [`GpuKernel`], or `None` where the GPU cannot do it and the node runs on the CPU.
//!
//! All tensors are dense and row-major. Inputs and outputs are bound by their position in the node.

pub mod movement;
pub mod reduce;

use super::kernel::{Dispatch, GpuCaps, GpuKernel};

/// Dimensions that a strided kernel walks at most, after neighbours that can be one were made one.
pub const MAX_RANK: usize = 8;

impl GpuKernel {
    /// A kernel of these dispatches without scratch memory.
    pub fn of(dispatches: Vec<Dispatch>) -> GpuKernel {
        GpuKernel {
            dispatches,
            scratch: Vec::new(),
        }
    }
}

/// Number of elements of a shape that fits in a GPU buffer; `None` when it does not.
pub(crate) fn elements(shape: &[usize], caps: &GpuCaps) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))?;
    // Indices in shaders are 32-bit and some are signed.
    (caps.fits(count) && count <= i32::MAX as usize).then_some(count)
}

/// The step in elements of each dimension of a dense tensor.
pub(crate) fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        strides[axis] = strides[axis + 1] * shape[axis + 1];
    }
    strides
}
