//! f32 transposed convolution (ONNX ConvTranspose) over one to three spatial axes: a matrix product of the transposed
//! weights and the image gives every contribution, which are then added at their places in the output.

use std::ops::Range;

use super::{Spatial, fits, inside, volume};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::gemm::{GemmShape, Lhs, MatrixRef, PackedA, Rhs, gemm, gemm_scratch_len};
use crate::cpu::simd::{F32x4, LANES};
use crate::cpu::threads::Threads;

/// The concrete sizes of a transposed convolution. `output` already takes output_padding and output_shape into
/// account; `pads_begin` is what is cut off in front. Groups divide both channel counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvTransposeParams {
    pub batch: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub groups: usize,
    pub input: Spatial,
    pub output: Spatial,
    pub kernel: Spatial,
    pub strides: Spatial,
    pub dilations: Spatial,
    pub pads_begin: Spatial,
}

/// How many values of contributions are made before they are added up: they stay in L2.
const CONTRIBUTIONS: usize = 1 << 17;
/// Input positions that are worked on together, in whole lines along the last axis.
const POSITIONS: usize = 256;

/// A transposed convolution planned for concrete sizes.
#[derive(Clone, Debug)]
pub struct ConvTransposePlan {
    params: ConvTransposeParams,
    /// Output channels whose contributions are made at once.
    channels_block: usize,
    /// Lines of the input, along its last axis, whose contributions are made at once.
    lines_block: usize,
}

/// Constant weights, one left operand per group and block of output channels.
#[derive(Clone, Debug)]
pub struct PackedTransposeFilter(Box<[PackedA]>);

/// The weights of one run.
#[derive(Clone, Copy)]
pub enum TransposeFilter<'a> {
    /// Packed at plan time by a plan of the same sizes.
    Packed(&'a PackedTransposeFilter),
    /// As in the model, `[in_channels, out_channels / groups, ..kernel]`.
    Raw(&'a [f32]),
}

impl ConvTransposePlan {
    /// `None` when the sizes are beyond what can be addressed.
    pub fn new(params: ConvTransposeParams) -> Option<Self> {
        let channels = params.batch.max(1) as u128 * params.in_channels.max(params.out_channels).max(1) as u128;
        let sizes = |spatial: Spatial| spatial.map(|size| size.max(1) as u128);
        let columns = sizes(params.kernel)
            .into_iter()
            .chain(sizes(params.input))
            .chain([channels]);
        if !fits(columns) || !fits(sizes(params.output).into_iter().chain([channels])) {
            return None;
        }
        let [_, _, line] = params.input.map(|size| size.max(1));
        let lines_block = (POSITIONS / line).max(1);
        let per_channel = volume(params.kernel).max(1) * lines_block * line;
        let channels_block = (CONTRIBUTIONS / per_channel).max(1);
        Some(Self {
            params,
            channels_block,
            lines_block,
        })
    }

    /// The sizes that this plan was made for.
    pub fn params(&self) -> &ConvTransposeParams {
        &self.params
    }

    /// The first channel (within its group) and the length of each block of output channels.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (total, step) = (self.params.out_channels / self.params.groups, self.channels_block);
        (0..total)
            .step_by(step)
            .map(move |first| (first, step.min(total - first)))
    }

    /// Rows (kernel positions of the block's channels) of the transposed weights of one group.
    fn weights<'a>(&self, weights: &'a [f32], group: usize, first: usize) -> MatrixRef<'a> {
        let params = &self.params;
        let taps = volume(params.kernel);
        let per_input = params.out_channels / params.groups * taps;
        let start = group * (params.in_channels / params.groups) * per_input + first * taps;
        MatrixRef {
            data: weights.get(start..).unwrap_or(&[]),
            row_stride: 1,
            col_stride: per_input,
        }
    }

    fn lines(&self) -> usize {
        self.params.input[0] * self.params.input[1]
    }

    fn shape(&self, channels: usize, lines: usize) -> GemmShape {
        GemmShape {
            m: channels * volume(self.params.kernel),
            k: self.params.in_channels / self.params.groups,
            n: lines * self.params.input[2],
        }
    }

    /// Packs constant weights `[in_channels, out_channels / groups, ..kernel]`.
    ///
    /// # Panics
    /// When `weights` is too short.
    pub fn pack(&self, weights: &[f32]) -> PackedTransposeFilter {
        let groups = 0..self.params.groups;
        let blocks = groups.flat_map(|group| self.blocks().map(move |(first, len)| (group, first, len)));
        let pack = |(group, first, len)| {
            let GemmShape { m, k, .. } = self.shape(len, 0);
            PackedA::new(self.weights(weights, group, first), m, k)
        };
        PackedTransposeFilter(blocks.map(pack).collect())
    }

    /// How much scratch memory [`ConvTransposePlan::run`] needs on so many threads, in f32.
    pub fn scratch_len(&self, threads: usize) -> usize {
        let channels = self.channels_block.min(self.params.out_channels / self.params.groups);
        let shape = self.shape(channels, self.lines_block.min(self.lines()));
        shape.m * shape.n + threads * gemm_scratch_len(shape, false, false)
    }

    /// Computes `output` `[batch, out_channels, ..output]` from `input` `[batch, in_channels, ..input]`.
    ///
    /// The epilogue's rows are images × channels, but a per-row bias is indexed by the channel alone.
    ///
    /// # Panics
    /// When a slice is too short or `filter` was packed for other sizes.
    pub fn run(
        &self,
        input: &[f32],
        filter: TransposeFilter,
        output: &mut [f32],
        scratch: &mut [f32],
        epilogue: &Epilogue,
        threads: &Threads,
    ) {
        let params = &self.params;
        let (positions, volume_in) = (volume(params.output), volume(params.input));
        let in_group = params.in_channels / params.groups;
        let out_group = params.out_channels / params.groups;
        let taps = volume(params.kernel);
        let output = &mut output[..params.batch * params.out_channels * positions];
        if output.is_empty() {
            return;
        }
        for image in 0..params.batch {
            let mut block = 0;
            for group in 0..params.groups {
                let first_in = (image * params.in_channels + group * in_group) * volume_in;
                let input = &input[first_in..first_in + in_group * volume_in];
                for (first, len) in self.blocks() {
                    let lhs = match filter {
                        TransposeFilter::Packed(packed) => Lhs::Packed(&packed.0[block]),
                        TransposeFilter::Raw(weights) => Lhs::Matrix(self.weights(weights, group, first)),
                    };
                    block += 1;
                    let channel = group * out_group + first;
                    let row = image * params.out_channels + channel;
                    let planes = &mut output[row * positions..(row + len) * positions];
                    planes.fill(0.0);
                    for line in (0..self.lines()).step_by(self.lines_block) {
                        let lines = line..self.lines().min(line + self.lines_block);
                        let shape = self.shape(len, lines.len());
                        let (columns, rest) = scratch.split_at_mut(shape.m * shape.n);
                        let rhs = Rhs::Matrix(MatrixRef::row_major(&input[line * params.input[2]..], volume_in));
                        gemm(shape, lhs, rhs, columns, rest, &Epilogue::none(), threads);
                        let (columns, each) = (&*columns, taps * shape.n);
                        threads.rows_mut(planes, positions, each, |first, planes| {
                            for (plane, channel) in planes.chunks_exact_mut(positions).zip(first..) {
                                self.add_up(&columns[channel * each..][..each], lines.clone(), plane);
                            }
                        });
                    }
                    threads.rows_mut(planes, positions, positions, |first, planes| {
                        for (plane, i) in planes.chunks_exact_mut(positions).zip(first..) {
                            let epilogue = super::positioned(epilogue, row + i, channel + i, positions);
                            epilogue.apply(0, 0, positions, plane);
                        }
                    });
                }
            }
        }
    }

    /// Adds the contributions of some input lines to one output channel, `[kernel position][input position]`, at their
    /// places.
    fn add_up(&self, columns: &[f32], lines: Range<usize>, plane: &mut [f32]) {
        let params = &self.params;
        let ([_, in_h, in_w], [_, out_h, out_w]) = (params.input, params.output);
        let [_, kernel_h, kernel_w] = params.kernel;
        let per_tap = lines.len() * in_w;
        // Where on an axis the contribution of position `i` goes, if it falls inside the output.
        let target = |axis: usize, i: usize, tap: usize| {
            let at = (i * params.strides[axis] + tap * params.dilations[axis]).checked_sub(params.pads_begin[axis])?;
            (at < params.output[axis]).then_some(at)
        };
        let row_taps = columns.chunks_exact((per_tap * kernel_w).max(1)).enumerate();
        for (row_tap, columns) in row_taps {
            let (tap_z, tap_y) = (row_tap / kernel_h, row_tap % kernel_h);
            for (index, line) in lines.clone().enumerate() {
                let (Some(z), Some(y)) = (target(0, line / in_h, tap_z), target(1, line % in_h, tap_y)) else {
                    continue;
                };
                let out = &mut plane[(z * out_h + y) * out_w..][..out_w];
                let from = |tap: usize| &columns[tap * per_tap + index * in_w..][..in_w];
                let mut tap = 0;
                while tap < kernel_w {
                    let pairs = params.strides[2] == 2 && params.dilations[2] == 1 && tap + 1 < kernel_w;
                    if pairs {
                        self.add_pairs(tap, from(tap), from(tap + 1), out);
                    } else {
                        self.add_line(tap, from(tap), 0..in_w, out);
                    }
                    tap += if pairs { 2 } else { 1 };
                }
            }
        }
    }

    /// Adds what the positions of `within` of one line contribute by one tap along the last axis.
    fn add_line(&self, tap: usize, from: &[f32], within: Range<usize>, out: &mut [f32]) {
        let params = &self.params;
        let (stride, pad) = (params.strides[2], params.pads_begin[2]);
        let offset = tap * params.dilations[2];
        let xs = inside(out.len(), stride, offset, pad, from.len());
        let xs = xs.start.max(within.start)..xs.end.min(within.end);
        if xs.is_empty() {
            return;
        }
        let out = &mut out[xs.start * stride + offset - pad..];
        let from = &from[xs];
        if stride == 1 {
            out.iter_mut().zip(from).for_each(|(sum, value)| *sum += value);
        } else {
            let sums = out.iter_mut().step_by(stride);
            sums.zip(from).for_each(|(sum, value)| *sum += value);
        }
    }

    /// [`ConvTransposePlan::add_line`] of two neighbouring taps at stride 2, whose contributions take turns.
    fn add_pairs(&self, tap: usize, even: &[f32], odd: &[f32], out: &mut [f32]) {
        let pad = self.params.pads_begin[2];
        let both = |tap| inside(out.len(), 2, tap, pad, even.len());
        let (a, b) = (both(tap), both(tap + 1));
        let start = a.start.max(b.start);
        let end = start + a.end.min(b.end).saturating_sub(start) / LANES * LANES;
        if start < end {
            let (even, odd) = (&even[start..end], &odd[start..end]);
            let out = &mut out[2 * start + tap - pad..];
            let vectors = even.chunks_exact(LANES).zip(odd.chunks_exact(LANES));
            for (out, (even, odd)) in out.chunks_exact_mut(2 * LANES).zip(vectors) {
                let [low, high] = F32x4::interleave(F32x4::load(even), F32x4::load(odd));
                (F32x4::load(out) + low).store(out);
                (F32x4::load(&out[LANES..]) + high).store(&mut out[LANES..]);
            }
        }
        for within in [0..start.min(end), end..even.len()] {
            self.add_line(tap, even, within.clone(), out);
            self.add_line(tap + 1, odd, within, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::epilogue::{Bias, Clamp};
    use crate::cpu::testing::{Rng, assert_close};

    fn reference(params: &ConvTransposeParams, input: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f32> {
        let positions = volume(params.output);
        let (in_group, out_group) = (params.in_channels / params.groups, params.out_channels / params.groups);
        let mut out = vec![0.0; params.batch * params.out_channels * positions];
        let unravel = |i: usize, size: Spatial| [i / size[2] / size[1], i / size[2] % size[1], i % size[2]];
        for n in 0..params.batch {
            for c in 0..params.in_channels {
                for m in 0..out_group {
                    let channel = c / in_group * out_group + m;
                    for i in 0..volume(params.input) {
                        for tap in 0..volume(params.kernel) {
                            let (from, k) = (unravel(i, params.input), unravel(tap, params.kernel));
                            let to: [isize; 3] = std::array::from_fn(|axis| {
                                (from[axis] * params.strides[axis] + k[axis] * params.dilations[axis]) as isize
                                    - params.pads_begin[axis] as isize
                            });
                            if (0..3).all(|axis| (0..params.output[axis] as isize).contains(&to[axis])) {
                                let [z, y, x] = to.map(|o| o as usize);
                                let at = (z * params.output[1] + y) * params.output[2] + x;
                                let weight = weights[(c * out_group + m) * volume(params.kernel) + tap];
                                let value = input[(n * params.in_channels + c) * volume(params.input) + i];
                                out[(n * params.out_channels + channel) * positions + at] += value * weight;
                            }
                        }
                    }
                }
            }
        }
        for (row, plane) in out.chunks_exact_mut(positions.max(1)).enumerate() {
            plane
                .iter_mut()
                .for_each(|value| *value = (*value + bias[row % params.out_channels]).max(0.0));
        }
        out
    }

    #[test]
    fn random_transposed_convolutions_match_the_definition() {
        let mut rng = Rng::new(6);
        for round in 0..200 {
            let axes = round % 3;
            let groups = rng.size(1, 2);
            let mut pick = |low, high, missing| -> Spatial {
                std::array::from_fn(|axis| if axis < 2 - axes { missing } else { rng.size(low, high) })
            };
            let (input, kernel, strides, dilations) = (pick(1, 11, 1), pick(1, 4, 1), pick(1, 3, 1), pick(1, 2, 1));
            let (pads_begin, cut) = (pick(0, 2, 0), pick(0, 2, 0));
            let output = std::array::from_fn(|axis| {
                let full = (input[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1;
                (full + 1).saturating_sub(pads_begin[axis] + cut[axis]).max(1)
            });
            let params = ConvTransposeParams {
                batch: rng.size(1, 2),
                in_channels: groups * rng.size(1, 5),
                out_channels: groups * rng.size(1, 5),
                groups,
                input,
                output,
                kernel,
                strides,
                dilations,
                pads_begin,
            };
            let data = rng.vec(params.batch * params.in_channels * volume(input));
            let weights = rng.vec(params.in_channels * params.out_channels / groups * volume(kernel));
            let bias = rng.vec(params.out_channels);
            let expected = reference(&params, &data, &weights, &bias);
            let mut plan = ConvTransposePlan::new(params.clone()).unwrap();
            plan.channels_block = rng.size(1, 3);
            plan.lines_block = rng.size(1, 4);
            let epilogue = Epilogue {
                bias: Bias::PerRow(&bias),
                clamp: Some(Clamp::RELU),
                ..Epilogue::none()
            };
            let packed = plan.pack(&weights);
            for filter in [TransposeFilter::Packed(&packed), TransposeFilter::Raw(&weights)] {
                let mut scratch = vec![f32::NAN; plan.scratch_len(1)];
                let mut out = vec![f32::NAN; expected.len()];
                plan.run(&data, filter, &mut out, &mut scratch, &epilogue, &Threads::SINGLE);
                assert_close(&out, &expected, 1e-4, &format!("{params:?}"));
            }
        }
    }
}
