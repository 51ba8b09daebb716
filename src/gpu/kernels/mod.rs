//! Kernel builders that operator files call: each takes shapes, attributes and capabilities and returns the
//! [`GpuKernel`], or `None` where the GPU cannot do it and the node runs on the CPU.
//!
//! All tensors are dense and row-major. Inputs and outputs are bound by their position in the node.

pub mod attention;
pub mod conv;
pub mod dot_attention;
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

use super::kernel::{AdapterKind, Binding, Check, ConstantData, ConstantKey, Dispatch, GpuCaps, GpuKernel};
use super::wgsl::{DispatchBuilder, LINEAR_THREADS, linear_workgroups, shader_text};
use crate::tensor::{Bytes, DType, Tensor};

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
fn laid_out(constant: Constant, layout: String, count: usize, precision: Precision, lay_out: Box<LayOut>) -> Binding {
    let tensor = constant.tensor.clone();
    let key = ConstantKey {
        source: constant.source,
        layout: match precision {
            Precision::Single => layout,
            Precision::Half => layout + ":half",
        },
    };
    let make = move || {
        let mut values = vec![0.0f32; count];
        lay_out(&tensor.at_hand()?.to_f32s()?, &mut values);
        Ok(match precision {
            Precision::Single => Bytes::from_f32s(values),
            Precision::Half => half_words(&values).into(),
        })
    };
    let size = count as u64 * precision.bytes();
    Binding::Constant(Arc::new(ConstantData::new(key, size, Box::new(make))))
}

/// How the elements of a constant that is laid out are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Precision {
    Single,
    /// Two in each word; shaders take four at a time, by [`HALVES`].
    Half,
}

impl Precision {
    fn bytes(self) -> u64 {
        match self {
            Precision::Single => 4,
            Precision::Half => 2,
        }
    }

    /// The type of four elements.
    fn wgsl4(self) -> &'static str {
        match self {
            Precision::Single => "vec4<f32>",
            Precision::Half => "vec2<u32>",
        }
    }
}

impl Constant<'_> {
    /// How a kernel for hardware that takes it in vectors has it: weights in half precision stay so. Software adapters
    /// would take longer to compile and to run what unpacks them.
    fn precision(&self, caps: &GpuCaps) -> Precision {
        match (caps.kind, self.tensor.dtype()) {
            (AdapterKind::Hardware, DType::F16) => Precision::Half,
            _ => Precision::Single,
        }
    }
}

/// Values that are no more exact than half precision, so stored.
#[inline(never)]
fn half_words(values: &[f32]) -> Vec<u8> {
    let halves = values.iter().map(|&value| half::f16::from_f32(value));
    halves.flat_map(half::f16::to_le_bytes).collect()
}

const HALVES: &str = "
fn halves(pairs: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(pairs.x), unpack2x16float(pairs.y));
}";

/// Writes a layout of a constant's elements.
type LayOut = dyn Fn(&[f32], &mut [f32]) + Send + Sync;

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

/// How a grid of columns and rows is dealt out to threads: those side by side take columns side by side. The width of a
/// workgroup is a parameter, so that grids of all sizes share a text.
#[derive(Debug, Clone, Copy)]
struct Grid {
    columns: usize,
    rows: usize,
    threads: usize,
    width: usize,
}

impl Grid {
    /// `columns` and `rows` count threads, and are not zero.
    fn new(columns: usize, rows: usize, caps: &GpuCaps) -> Grid {
        // Software adapters run four threads at a time, and need many workgroups to keep all cores at work.
        let (threads, side) = match caps.kind {
            AdapterKind::Hardware => (64, 32),
            AdapterKind::Software => (16, 4),
        };
        let for_rows = rows.next_power_of_two().min(threads);
        let width = (threads / for_rows).max(side).min(columns.next_power_of_two());
        Grid {
            columns,
            rows,
            threads,
            width,
        }
    }

    /// Positions that a thread of a windowed kernel computes: what is read for one, weights and the loops themselves,
    /// costs software adapters as much as arithmetic.
    fn positions(caps: &GpuCaps) -> usize {
        match caps.kind {
            AdapterKind::Hardware => 1,
            AdapterKind::Software => 4,
        }
    }

    /// Defines `THREADS` and declares `width`.
    fn bind(&self, dispatch: DispatchBuilder) -> DispatchBuilder {
        dispatch
            .define("THREADS", self.threads)
            .param("width", self.width as u32)
    }

    /// Workgroups for a kernel that goes over `batches` in steps.
    fn workgroups(&self, batches: usize, caps: &GpuCaps) -> Option<[u32; 3]> {
        Some([
            u32::try_from(self.columns.div_ceil(self.width)).ok()?,
            u32::try_from(self.rows.div_ceil(self.threads / self.width)).ok()?,
            batches.min(caps.max_workgroups as usize) as u32,
        ])
    }

    /// Workgroups for a kernel that goes over the rows in steps.
    fn workgroups_at_most(&self, caps: &GpuCaps) -> Option<[u32; 3]> {
        let [x, y, _] = self.workgroups(1, caps)?;
        Some([x, y.min(caps.max_workgroups), 1])
    }
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
