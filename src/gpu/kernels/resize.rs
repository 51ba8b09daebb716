//! Resize and Upsample as weighted sums of a few input elements per axis, which covers nearest, linear and cubic with
//! every way of mapping coordinates: the caller computes the taps.

use std::sync::Arc;

use super::super::kernel::{Binding, ConstantData, ConstantKey, GpuCaps, GpuKernel};
use super::super::wgsl::{DispatchBuilder, LINEAR_THREADS, linear_workgroups, shader_text};
use super::{elements, single};

const RESIZE: &str = shader_text!("../../../shaders/resize.wgsl");

/// Taps per output position at most: cubic interpolation has four.
const MAX_TAPS: usize = 4;

/// An input element that takes part in an output position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tap {
    /// Position along the axis, below its length.
    pub index: u32,
    pub weight: f32,
}

/// A resized axis: the taps of its output positions, equally many for each.
#[derive(Debug, Clone, Copy)]
pub struct ResizedAxis<'a> {
    pub axis: usize,
    pub taps_per_position: usize,
    /// `output length * taps_per_position` taps.
    pub taps: &'a [Tap],
}

/// Resizes one or two axes (in ascending order) of f32 input 0. `None` when taps leave the input, or are too many.
///
/// `key` names the taps for the session: equal keys must come with equal taps.
pub fn resize(shape: &[usize], axes: &[ResizedAxis], key: &str, caps: &GpuCaps) -> Option<GpuKernel> {
    let identity = [Tap { index: 0, weight: 1.0 }];
    let (first, second) = match axes {
        [only] => (None, *only),
        [first, second] if first.axis < second.axis => (Some(*first), *second),
        _ => return None,
    };
    elements(shape, caps)?;
    for axis in axes {
        let length = *shape.get(axis.axis)?;
        let whole = (1..=MAX_TAPS).contains(&axis.taps_per_position)
            && axis.taps.len().is_multiple_of(axis.taps_per_position)
            && axis.taps.iter().all(|tap| (tap.index as usize) < length);
        if !whole {
            return None;
        }
    }
    // A single axis is the second one, beside a first of length one.
    let (split, in_a) = first.map_or((second.axis, 1), |first| (first.axis, shape[first.axis]));
    let middle = if first.is_some() {
        shape[split + 1..second.axis].iter().product()
    } else {
        1
    };
    let (taps_a, per_a) = first.map_or((&identity[..], 1), |first| (first.taps, first.taps_per_position));
    let outer: usize = shape[..split].iter().product();
    let inner: usize = shape[second.axis + 1..].iter().product();
    let (out_a, out_b) = (taps_a.len() / per_a, second.taps.len() / second.taps_per_position);
    let count = elements(&[outer, out_a, middle, out_b, inner], caps)?;
    if count == 0 {
        return Some(GpuKernel::default());
    }
    let words: Vec<u32> = taps_a
        .iter()
        .chain(second.taps)
        .flat_map(|tap| [tap.index, tap.weight.to_bits()])
        .collect();
    elements(&[words.len()], caps)?;
    let key = ConstantKey {
        source: u64::MAX,
        layout: format!("resize:{key}"),
    };
    let size = words.len() as u64 * 4;
    let make = move || Ok(bytemuck::cast_slice(&words).into());
    let table = ConstantData::new(key, size, Box::new(make));
    let dispatch = DispatchBuilder::new("resize", RESIZE)
        .define("THREADS", LINEAR_THREADS)
        .define("TAPSA", per_a)
        .define("TAPSB", second.taps_per_position)
        .storage("input", "f32", Binding::Input(0))
        .storage("table", "vec2<u32>", Binding::Constant(Arc::new(table)))
        .storage("output", "f32", Binding::Output(0))
        .param("count", count as u32)
        .param("inner", inner as u32)
        .param("middle", middle as u32)
        .param("in_a", in_a as u32)
        .param("in_b", shape[second.axis] as u32)
        .param("out_a", out_a as u32)
        .param("out_b", out_b as u32);
    single(dispatch, linear_workgroups(count as u64, caps), caps)
}

#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod tests {
    use super::super::super::kernel::GpuType;
    use super::super::super::testing::{self, Data, Random};
    use super::*;

    fn taps(random: &mut Random, length: usize, output: usize, per: usize) -> Vec<Tap> {
        let weights = random.floats(output * per);
        weights
            .into_iter()
            .map(|weight| Tap {
                index: random.below(length) as u32,
                weight,
            })
            .collect()
    }

    #[test]
    fn resize_sums_its_taps_over_one_or_two_axes() {
        let Some(device) = testing::device() else { return };
        let caps = &testing::both_kinds()[1];
        let mut random = Random(40);
        let shape = [2, 5, 3, 4, 3];
        for (a, b) in [
            (Some((1, 7, 2)), (3, 9, 2)),
            (Some((1, 3, 4)), (2, 5, 1)),
            (None, (4, 6, 2)),
            (None, (0, 1, 1)),
        ] {
            let mut all = Vec::new();
            for (axis, output, per) in a.into_iter().chain([b]) {
                all.push((axis, per, taps(&mut random, shape[axis], output, per)));
            }
            let mut data = random.floats(shape.iter().product());
            let values = Data::F32(data.clone());
            let mut dims = shape.to_vec();
            for (axis, per, taps) in &all {
                let (outer, length) = (dims[..*axis].iter().product::<usize>(), dims[*axis]);
                let inner: usize = dims[axis + 1..].iter().product();
                let mut next = Vec::new();
                for (o, position, i) in (0..outer)
                    .flat_map(|o| (0..taps.len() / per).map(move |p| (o, p)))
                    .flat_map(|(o, p)| (0..inner).map(move |i| (o, p, i)))
                {
                    let taps = &taps[position * per..][..*per];
                    next.push(
                        taps.iter()
                            .map(|tap| tap.weight * data[(o * length + tap.index as usize) * inner + i])
                            .sum(),
                    );
                }
                dims[*axis] = taps.len() / per;
                data = next;
            }
            let axes: Vec<ResizedAxis> = all
                .iter()
                .map(|(axis, per, taps)| ResizedAxis {
                    axis: *axis,
                    taps_per_position: *per,
                    taps,
                })
                .collect();
            let kernel = resize(&shape, &axes, "test", caps).unwrap();
            kernel.dispatches.iter().for_each(testing::validate);
            let found = testing::run(&device, kernel, &[values], &[(GpuType::F32, data.len())]).unwrap();
            testing::assert_close(found[0].f32s(), &data, 1e-5, &format!("{a:?} {b:?}"));
        }
        let outside = [Tap { index: 5, weight: 1.0 }];
        assert!(
            resize(
                &shape,
                &[ResizedAxis {
                    axis: 1,
                    taps_per_position: 1,
                    taps: &outside
                }],
                "",
                caps
            )
            .is_none()
        );
    }

    #[test]
    fn texts_match_their_snapshots() {
        let taps = [Tap { index: 0, weight: 0.5 }, Tap { index: 1, weight: 0.5 }];
        let axes = [1, 2].map(|axis| ResizedAxis {
            axis,
            taps_per_position: 2,
            taps: &taps,
        });
        let kernel = resize(&[3, 2, 2], &axes, "half", &testing::both_kinds()[1]).unwrap();
        testing::assert_snapshot("resize", &kernel);
    }
}
