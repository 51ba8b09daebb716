//! Pooling, convolution and transposed convolution over one to three spatial dimensions, by plain loops: what the tiled
//! and direct kernels for images do not cover.

use super::super::epilogue::Epilogue;
use super::super::kernel::{Binding, GpuCaps, GpuKernel};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::conv::Window;
use super::{elements, flat, flat_kernel};

pub(super) const VOLUME: &str = shader_text!("../../../shaders/volume.wgsl");

/// What a window of elements becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VolumePool {
    Max,
    /// The mean, padding included as zeros or not.
    Average {
        with_padding: bool,
    },
    /// The p-norm.
    Norm(u32),
}

/// Declares the sizes of a window; `None` when they do not fit or a shader could not count with them.
pub(super) fn bind(
    dispatch: DispatchBuilder,
    window: &Window,
    input: &[usize],
    output: &[usize],
) -> Option<DispatchBuilder> {
    let rank = input.len();
    let (before, after) = window.pads.split_at_checked(rank)?;
    let lists = [window.kernel, window.strides, window.dilations, output, before, after];
    if !(1..=3).contains(&rank) || lists.iter().any(|list| list.len() != rank) {
        return None;
    }
    for axis in 0..rank {
        let reach = window.kernel[axis].checked_mul(window.dilations[axis])?;
        let last = output[axis].checked_mul(window.strides[axis])?;
        let padded = before[axis].checked_add(input[axis])?.checked_add(after[axis])?;
        let largest = (i32::MAX / 4) as usize;
        if window.strides[axis] == 0 || [reach, last, padded].iter().any(|&value| value > largest) {
            return None;
        }
    }
    let axes = |values: &[usize], fill: usize| -> Vec<i32> {
        let values = values.iter().rev().map(|&value| value as i32);
        values.chain(std::iter::repeat(fill as i32)).take(3).collect()
    };
    let counts = |values: &[usize]| axes(values, 1).into_iter().map(|value| value as u32);
    Some(
        dispatch
            .param_list("out", counts(output))
            .param_list("kernel", counts(window.kernel))
            .param_list_i32("in", axes(input, 1))
            .param_list_i32("stride", axes(window.strides, 1))
            .param_list_i32("dilation", axes(window.dilations, 1))
            .param_list_i32("pad", axes(before, 0))
            .param_list_i32("end", axes(after, 0)),
    )
}

/// MaxPool, AveragePool or LpPool of f32 input 0 `[images, channels, spatial…]`.
pub fn pool(kind: VolumePool, shape: &[usize], window: &Window, output: &[usize], caps: &GpuCaps) -> Option<GpuKernel> {
    elements(shape, caps)?;
    let count = elements(output, caps)?;
    if output.get(..2)? != shape.get(..2)? {
        return None;
    }
    let mut dispatch = flat("pool_volume", VOLUME)
        .flag("POOL", true)
        .flag("MAX", kind == VolumePool::Max)
        .flag("COUNTPADDING", kind == VolumePool::Average { with_padding: true })
        .storage("input", "f32", Binding::Input(0))
        .storage("output", "f32", Binding::Output(0));
    match kind {
        VolumePool::Max => dispatch = dispatch.param_f32("lowest", f32::NEG_INFINITY),
        VolumePool::Norm(power) => {
            dispatch = dispatch
                .flag("POWER", true)
                .flag("ONE", power == 1)
                .flag("TWO", power == 2)
                .param_f32("power", power as f32);
        }
        VolumePool::Average { .. } => {}
    }
    flat_kernel(bind(dispatch, window, &shape[2..], &output[2..])?, count, caps)
}

/// Which way a convolution goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Transposed,
}

/// A convolution of f32 input 0 with the weights in input 1, and the bias in input 2 where there is one.
#[derive(Debug)]
pub struct Convolution<'a> {
    pub direction: Direction,
    pub input: &'a [usize],
    pub weights: &'a [usize],
    pub output: &'a [usize],
    pub has_bias: bool,
    pub groups: usize,
}

/// Conv or ConvTranspose; its bias is added before the epilogue.
pub fn conv(conv: &Convolution, window: &Window, epilogue: Option<&Epilogue>, caps: &GpuCaps) -> Option<GpuKernel> {
    elements(conv.input, caps)?;
    elements(conv.weights, caps)?;
    let count = elements(conv.output, caps)?;
    let ([_, channels_in, input @ ..], [_, channels, output @ ..]) = (conv.input, conv.output) else {
        return None;
    };
    let (groups, transposed) = (conv.groups.max(1), conv.direction == Direction::Transposed);
    let (group_in, group_out) = (channels_in / groups, channels / groups);
    let expected = if transposed {
        [*channels_in, group_out]
    } else {
        [*channels, group_in]
    };
    if conv.weights.get(..2)? != expected || group_out == 0 {
        return None;
    }
    let mut dispatch = flat("conv_volume", VOLUME)
        .flag("CONV", !transposed)
        .flag("TRANSPOSED", transposed)
        .flag("BIAS", conv.has_bias)
        .storage("input", "f32", Binding::Input(0))
        .storage("weights", "f32", Binding::Input(1))
        .storage("output", "f32", Binding::Output(0))
        .param("channels", *channels as u32)
        .param("channels_in", *channels_in as u32)
        .param("group_in", group_in as u32)
        .param("group_out", group_out as u32);
    if conv.has_bias {
        dispatch = dispatch.storage("bias", "f32", Binding::Input(2));
    }
    flat_kernel(bind(dispatch.epilogue(epilogue), window, input, output)?, count, caps)
}
