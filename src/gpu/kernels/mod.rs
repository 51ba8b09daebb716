//! Kernel builders that operator files call: each takes shapes, attributes and capabilities and returns the
//! [`GpuKernel`], or `None` where the GPU cannot do it and the node runs on the CPU.
//!
//! All tensors are dense and row-major. Inputs and outputs are bound by their position in the node.

pub mod attention;
pub mod conv;
pub mod elementwise;
pub mod fourier;
pub mod indexed;
pub mod integer;
pub mod integer_dot;
pub mod lines;
pub mod matmul;
pub mod movement;
pub mod nbits;
pub mod pool;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod sample;
#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod snapshots;
pub mod volume;

use std::sync::Arc;

use super::kernel::{Binding, Check, ConstantData, ConstantKey, Dispatch, GpuCaps, GpuKernel, GpuType};
use super::wgsl::{DispatchBuilder, LINEAR_THREADS, linear_workgroups, shader_text};
use crate::error::Result;
use crate::tensor::Tensor;

/// Dimensions that a strided kernel walks at most, after neighbours that can be one were made one.
pub const MAX_RANK: usize = 8;

/// An f32 operand of a heavy kernel.
#[derive(Debug, Clone)]
pub struct Operand<'a> {
    pub shape: &'a [usize],
    /// Where it is bound when it is used as it stands.
    pub binding: Binding,
    /// The value where it is known at plan time, so that it can be laid out anew.
    pub constant: Option<Constant<'a>>,
}

/// A constant of the model and its identity within the session.
#[derive(Debug, Clone, Copy)]
pub struct Constant<'a> {
    pub source: u64,
    pub tensor: &'a Tensor,
}

impl<'a> Operand<'a> {
    /// The node's input `index`, known at run time only.
    pub fn input(shape: &'a [usize], index: usize) -> Operand<'a> {
        Operand {
            shape,
            binding: Binding::Input(index),
            constant: None,
        }
    }

    /// The node's input `index`, which is `constant`.
    pub fn constant(shape: &'a [usize], index: usize, constant: Constant<'a>) -> Operand<'a> {
        Operand {
            shape,
            binding: Binding::Input(index),
            constant: Some(constant),
        }
    }
}

/// A constant in another layout: `count` f32 values that `lay_out` writes from the constant's own. `layout` names the
/// layout with everything `lay_out` depends on but the constant.
fn laid_out(
    constant: Constant,
    layout: String,
    count: usize,
    lay_out: impl Fn(&[f32], &mut [f32]) + Send + Sync + 'static,
) -> Binding {
    let tensor = constant.tensor.clone();
    let key = ConstantKey {
        source: constant.source,
        layout,
    };
    let make = move || -> Result<Vec<u8>> {
        let tensor = tensor.at_hand()?;
        let from = tensor.to_f32s()?;
        let mut bytes = vec![0; count * size_of::<f32>()];
        // Memory is aligned for floats wherever it comes from the system's allocator: a copy is the exception.
        match bytemuck::try_cast_slice_mut(&mut bytes) {
            Ok(values) => lay_out(&from, values),
            Err(_) => {
                let mut values = vec![0.0f32; count];
                lay_out(&from, &mut values);
                bytes.copy_from_slice(bytemuck::cast_slice(&values));
            }
        }
        Ok(bytes)
    };
    Binding::Constant(Arc::new(ConstantData::new(key, count as u64 * GpuType::SIZE, make)))
}

const FLAT: &str = shader_text!("../../../shaders/flat.wgsl");

/// A dispatch that calls `element(index)` of `template` for each index below a count.
fn flat(label: &'static str, template: &str) -> DispatchBuilder {
    DispatchBuilder::new(label, FLAT)
        .define("THREADS", LINEAR_THREADS)
        .functions(template)
}

/// The finished dispatch of [`flat`]; `None` when it binds more buffers than the device allows.
fn finish_flat(dispatch: DispatchBuilder, count: usize, caps: &GpuCaps) -> Option<Dispatch> {
    (dispatch.storage_count() <= caps.max_storage_buffers as usize).then(|| {
        dispatch
            .param("count", count as u32)
            .finish(linear_workgroups(count as u64, caps))
    })
}

/// A kernel of one such dispatch; none for no elements.
fn flat_kernel(dispatch: DispatchBuilder, count: usize, caps: &GpuCaps) -> Option<GpuKernel> {
    if count == 0 {
        return Some(GpuKernel::default());
    }
    Some(GpuKernel::of(vec![finish_flat(dispatch, count, caps)?]))
}

/// Sizes as parameters, the innermost first.
fn reversed(values: &[usize]) -> impl Iterator<Item = u32> + '_ {
    values.iter().rev().map(|&value| value as u32)
}

/// A kernel of one dispatch, unless it binds more buffers or wants more workgroups than the device allows.
fn single(dispatch: DispatchBuilder, workgroups: [u32; 3], caps: &GpuCaps) -> Option<GpuKernel> {
    let fits = dispatch.storage_count() <= caps.max_storage_buffers as usize
        && workgroups.iter().all(|&count| count <= caps.max_workgroups);
    fits.then(|| GpuKernel::of(vec![dispatch.finish(workgroups)]))
}

impl GpuKernel {
    /// Whether any dispatch binds the node's input `index`. Inputs that none binds (constants that were laid out anew)
    /// need no GPU value.
    pub fn binds_input(&self, index: usize) -> bool {
        let binds = |binding: &Binding| matches!(binding, Binding::Input(i) if *i == index);
        self.dispatches
            .iter()
            .any(|dispatch| dispatch.bindings.iter().any(binds))
    }

    /// The same with something required of the elements of input `index`.
    pub fn checked(mut self, index: usize, check: Check) -> GpuKernel {
        self.checks.push((index, check));
        self
    }

    /// A kernel of these dispatches without scratch memory.
    pub fn of(dispatches: Vec<Dispatch>) -> GpuKernel {
        GpuKernel {
            dispatches,
            ..GpuKernel::default()
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
