//! Kernels along one axis of input 0, seen as `[outer, length, inner]`: CumSum, ArgMax and ArgMin, Hardmax, TopK,
//! LpNormalization and LRN. A thread takes a line, and in TopK and LRN an element. Over several axes:
//! MeanVarianceNormalization.

use super::super::kernel::{Binding, GpuCaps, GpuKernel, GpuType};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::{MAX_RANK, dense_strides, elements, flat, flat_kernel, reversed};

const LINES: &str = shader_text!("../../../shaders/lines.wgsl");
const MOMENTS: &str = shader_text!("../../../shaders/moments.wgsl");

/// Comparisons that TopK may make; more are quicker by a sort on the CPU.
const MAX_COMPARISONS: usize = 1 << 30;

fn start(label: &'static str, ty: GpuType, [_, length, inner]: [usize; 3]) -> DispatchBuilder {
    flat(label, LINES)
        .define("T", ty.wgsl())
        .flag("FLOAT", ty == GpuType::F32)
        .flag("UNSIGNED", ty.wgsl() == "u32")
        .storage("input", ty.wgsl(), Binding::Input(0))
        .param("length", length as u32)
        .param("inner", inner as u32)
}

fn lines([outer, length, inner]: [usize; 3], caps: &GpuCaps) -> Option<usize> {
    match elements(&[outer, length, inner], caps)? {
        0 => Some(0),
        _ => Some(outer * inner),
    }
}

/// CumSum (opset 11).
pub fn cum_sum(ty: GpuType, sides: [usize; 3], exclusive: bool, reverse: bool, caps: &GpuCaps) -> Option<GpuKernel> {
    let dispatch = start("cum_sum", ty, sides)
        .flag("CUM_SUM", true)
        .flag("EXCLUSIVE", exclusive)
        .flag("REVERSE", reverse)
        .storage("output", ty.wgsl(), Binding::Output(0));
    flat_kernel(dispatch, lines(sides, caps)?, caps)
}

/// What [`extreme`] makes of the place of the extreme element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extreme {
    /// Its index, as i32: ArgMax and ArgMin.
    Index,
    /// 1 there and 0 elsewhere: Hardmax.
    OneHot,
}

/// The first element to which no other is `better` (`>`, `>=`, `<` or `<=`; with equality the last).
pub fn extreme(ty: GpuType, sides: [usize; 3], better: &str, what: Extreme, caps: &GpuCaps) -> Option<GpuKernel> {
    let count = lines(sides, caps)?;
    if count == 0 && sides[0] * sides[2] > 0 {
        return None;
    }
    let one_hot = what == Extreme::OneHot;
    let dispatch = start("extreme", ty, sides)
        .define("BETTER", better)
        .flag("EXTREME", true)
        .flag("HARDMAX", one_hot)
        .storage("output", if one_hot { "f32" } else { "i32" }, Binding::Output(0));
    flat_kernel(dispatch, count, caps)
}

/// TopK (opset 1 and later): the `picks` first elements of each line in sorted order, of equals the first; `wanted` are
/// the values and their indices, as i32.
pub fn top_k(
    ty: GpuType,
    sides: [usize; 3],
    picks: usize,
    largest: bool,
    wanted: [bool; 2],
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let count = elements(&sides, caps)?;
    if count.saturating_mul(sides[1]) > MAX_COMPARISONS || picks > sides[1] {
        return None;
    }
    let mut dispatch = start("top_k", ty, sides)
        .flag("TOP_K", true)
        .flag("KEYS", true)
        .flag("LARGEST", largest)
        .param("picks", picks as u32);
    if wanted[0] && picks > 0 {
        dispatch = dispatch
            .flag("VALUES", true)
            .storage("values", ty.wgsl(), Binding::Output(0));
    }
    if wanted[1] && picks > 0 {
        dispatch = dispatch
            .flag("INDICES", true)
            .storage("indices", "i32", Binding::Output(1));
    }
    flat_kernel(dispatch, if picks == 0 { 0 } else { count }, caps)
}

/// LpNormalization (opset 1): each line divided by its 1- or 2-norm; lines of zeros stay.
pub fn lp_normalize(sides: [usize; 3], square: bool, caps: &GpuCaps) -> Option<GpuKernel> {
    let dispatch = start("lp_normalization", GpuType::F32, sides)
        .flag("NORM", true)
        .flag("SQUARE", square)
        .storage("output", "f32", Binding::Output(0));
    flat_kernel(dispatch, lines(sides, caps)?, caps)
}

/// LRN (opset 1) over `size` neighbours along the middle axis; `[alpha, beta, bias]`, alpha for the whole of them.
pub fn local_response(
    sides: [usize; 3],
    size: usize,
    [alpha, beta, bias]: [f32; 3],
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let before = size.checked_sub(1)? / 2;
    let clamped = |count: usize| count.min(sides[1]) as u32;
    let dispatch = start("lrn", GpuType::F32, sides)
        .flag("LRN", true)
        .storage("output", "f32", Binding::Output(0))
        .param("before", clamped(before))
        .param("after", clamped(size - 1 - before))
        .param_f32("alpha", alpha / size as f32)
        .param_f32("beta", beta)
        .param_f32("bias", bias);
    flat_kernel(dispatch, elements(&sides, caps)?, caps)
}

/// MeanVarianceNormalization (opset 9) over `axes`.
pub fn mean_variance(shape: &[usize], axes: &[usize], epsilon: f32, caps: &GpuCaps) -> Option<GpuKernel> {
    let count = elements(shape, caps)?;
    if shape.len() > MAX_RANK {
        return None;
    }
    let strides = dense_strides(shape);
    let pick = |reduced: bool| -> (Vec<usize>, Vec<usize>) {
        let axes = (0..shape.len()).filter(|axis| axes.contains(axis) == reduced);
        axes.map(|axis| (shape[axis], strides[axis])).unzip()
    };
    let ((kept, kept_strides), (reduced, reduced_strides)) = (pick(false), pick(true));
    let dispatch = flat("mean_variance", MOMENTS)
        .define("KEPT", kept.len())
        .define("REDUCED", reduced.len())
        .storage("input", "f32", Binding::Input(0))
        .storage("output", "f32", Binding::Output(0))
        .param("length", reduced.iter().product::<usize>() as u32)
        .param_f32("epsilon", epsilon)
        .param_list("kept_dim", reversed(&kept))
        .param_list("kept_stride", reversed(&kept_strides))
        .param_list("reduced_dim", reversed(&reduced))
        .param_list("reduced_stride", reversed(&reduced_strides));
    flat_kernel(dispatch, if count == 0 { 0 } else { kept.iter().product() }, caps)
}
