//! GridSample: pixels at fractional positions.

use super::super::kernel::{Binding, GpuCaps, GpuKernel};
use super::super::wgsl::shader_text;
use super::{elements, flat, flat_kernel};

const GRID_SAMPLE: &str = shader_text!("../../../shaders/grid_sample.wgsl");

/// GridSample (opset 16 and later) of f32 input 0 `[batch, channels, spatial…]` at the positions of input 1
/// `[batch, spots…, axes]`, with up to three axes. `mode` is `NEAREST`, `LINEAR` or `CUBIC`, `padding` `ZEROS`, `BORDER`
/// or `REFLECTION`.
pub fn grid_sample(
    mode: &'static str,
    padding: &'static str,
    align_corners: bool,
    [image, grid, output]: [&[usize]; 3],
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    elements(image, caps)?;
    elements(grid, caps)?;
    let count = elements(output, caps)?;
    let (&[batch, channels, ref dims @ ..], &[grid_batch, ref spots @ .., axes]) = (image, grid) else {
        return None;
    };
    let rank = dims.len();
    if !(1..=3).contains(&rank) || axes != rank || batch != grid_batch || (count > 0 && dims.contains(&0)) {
        return None;
    }
    if output.get(..2)? != [batch, channels] || output.get(2..)? != spots {
        return None;
    }
    let (taps, before) = match mode {
        "NEAREST" => (1usize, 0),
        "LINEAR" => (2, 0),
        _ => (4, 1),
    };
    let dispatch = flat("grid_sample", GRID_SAMPLE)
        .define("RANK", rank)
        .define("T", taps)
        .define("TAPS", taps.pow(rank as u32))
        .define("BEFORE", before)
        .flag(mode, true)
        .flag(padding, true)
        .flag("ALIGN", align_corners)
        .storage("input", "f32", Binding::Input(0))
        .storage("grid", "f32", Binding::Input(1))
        .storage("output", "f32", Binding::Output(0))
        .param("spots", spots.iter().product::<usize>() as u32)
        .param("channels", channels as u32)
        .param_list_i32("size", dims.iter().map(|&dim| dim as i32));
    flat_kernel(dispatch, count, caps)
}
