//! Max and average pooling over one or two spatial dimensions. Global pooling is a reduction.

use super::super::kernel::{Binding, GpuCaps, GpuKernel};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::conv::{Window, Window2d};
use super::{Grid, elements, single};

const POOL: &str = shader_text!("../../../shaders/pool.wgsl");

/// What a window of elements becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolKind {
    Max,
    /// The mean of the elements inside the input.
    Average,
    /// The mean of all elements, padding included as zeros (`count_include_pad`).
    AverageWithPadding,
}

/// MaxPool or AveragePool (opset 1 and later) of f32 input 0 of `shape` (images, channels, spatial…) into an output of
/// `output_shape`, which the caller computed from `ceil_mode`. `None` for other than one or two spatial dimensions.
pub fn pool(
    kind: PoolKind,
    shape: &[usize],
    window: &Window,
    output_shape: &[usize],
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let ([images, channels, input @ ..], [out_images, out_channels, output @ ..]) = (shape, output_shape) else {
        return None;
    };
    if images != out_images || channels != out_channels {
        return None;
    }
    elements(shape, caps)?;
    let count = elements(output_shape, caps)?;
    if count == 0 {
        return Some(GpuKernel::default());
    }
    let window = Window2d::new(window, input, output)?;
    let planes = images * channels;
    let per_thread = Grid::positions(caps);
    let grid = Grid::new((count / planes).div_ceil(per_thread), planes, caps);
    let dispatch = DispatchBuilder::new("pool", POOL)
        .define("POSITIONS", per_thread)
        .flag("MAX", kind == PoolKind::Max)
        .flag("COUNTPADDING", kind == PoolKind::AverageWithPadding)
        .storage("input", "f32", Binding::Input(0))
        .storage("output", "f32", Binding::Output(0))
        .param("planes", planes as u32);
    // WGSL has no constant for infinity.
    let dispatch = match kind {
        PoolKind::Max => dispatch.param_f32("lowest", f32::NEG_INFINITY),
        _ => dispatch,
    };
    let dispatch = window.bind(grid.bind(dispatch));
    single(dispatch, grid.workgroups_at_most(caps)?, caps)
}

#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod tests {
    use super::super::super::kernel::GpuType;
    use super::super::super::testing::{self, Data, Random};
    use super::*;

    #[test]
    fn pooling_matches_its_reference_with_padding_dilation_and_rounded_up_sizes() {
        let Some(device) = testing::device() else { return };
        let mut random = Random(30);
        // Size, kernel, stride, dilation, padding before and after, output size; for height and width alike.
        for [size, kernel, stride, dilation, before, after, output] in [
            [7, 3, 2, 1, 1, 1, 4],
            [8, 3, 2, 1, 0, 0, 4],
            [9, 2, 1, 3, 1, 2, 9],
            [5, 5, 1, 1, 0, 0, 1],
            [6, 3, 3, 1, 2, 0, 3],
        ] {
            let planes = 6;
            let values = random.floats(planes * size * size);
            for kind in [PoolKind::Max, PoolKind::Average, PoolKind::AverageWithPadding] {
                let mut expected = Vec::new();
                for at in 0..planes * output * output {
                    let (plane, y, x) = (at / (output * output), at / output % output, at % output);
                    let mut inside = Vec::new();
                    let mut padded = 0;
                    for tap in 0..kernel * kernel {
                        let place = |out: usize, k: usize| (out * stride + k * dilation) as isize - before as isize;
                        let (py, px) = (place(y, tap / kernel), place(x, tap % kernel));
                        let end = (size + after) as isize;
                        padded += usize::from(py < end && px < end);
                        if (0..size as isize).contains(&py) && (0..size as isize).contains(&px) {
                            inside.push(values[(plane * size + py as usize) * size + px as usize]);
                        }
                    }
                    let sum: f32 = inside.iter().sum();
                    expected.push(match kind {
                        PoolKind::Max => inside.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                        PoolKind::Average => sum / inside.len() as f32,
                        PoolKind::AverageWithPadding => sum / padded as f32,
                    });
                }
                let pads = [before, before, after, after];
                let window = Window {
                    kernel: &[kernel; 2],
                    strides: &[stride; 2],
                    dilations: &[dilation; 2],
                    pads: &pads,
                };
                let shape = [2, 3, size, size];
                let kernel = pool(
                    kind,
                    &shape,
                    &window,
                    &[2, 3, output, output],
                    &testing::both_kinds()[1],
                )
                .unwrap();
                kernel.dispatches.iter().for_each(testing::validate);
                let inputs = [Data::F32(values.clone())];
                let found = testing::run(&device, kernel, &inputs, &[(GpuType::F32, expected.len())]).unwrap();
                testing::assert_close(found[0].f32s(), &expected, 1e-5, &format!("{kind:?} of {size}"));
            }
        }
    }

    #[test]
    fn the_largest_of_padding_infinities_and_nan_is_as_on_the_cpu() {
        let Some(device) = testing::device() else { return };
        let (low, nan) = (f32::NEG_INFINITY, f32::NAN);
        let window = Window {
            kernel: &[2],
            strides: &[2],
            dilations: &[1],
            pads: &[2, 0],
        };
        let values = Data::F32(vec![low, low, nan, 3.0, 4.0, nan]);
        let kernel = pool(
            PoolKind::Max,
            &[1, 1, 6],
            &window,
            &[1, 1, 4],
            &testing::both_kinds()[0],
        )
        .unwrap();
        let found = testing::run(&device, kernel, &[values], &[(GpuType::F32, 4)]).unwrap();
        assert_eq!(found[0], Data::F32(vec![low, low, 3.0, 4.0]));
    }

    #[test]
    fn texts_match_their_snapshots() {
        let window = Window {
            kernel: &[3],
            strides: &[2],
            dilations: &[1],
            pads: &[1, 1],
        };
        let caps = &testing::both_kinds()[1];
        for (name, kind) in [
            ("pool_max", PoolKind::Max),
            ("pool_average", PoolKind::AverageWithPadding),
        ] {
            testing::assert_snapshot(name, &pool(kind, &[1, 2, 9], &window, &[1, 2, 5], caps).unwrap());
        }
    }
}
