//! Convolution of stride 1 along one axis by Winograd's minimal filtering F(m, r): eight inputs and a filter of `r` taps, each
//! transformed to eight points, give `m = 9 - r` outputs for 8 multiplications instead of `m * r`. Filters are transformed
//! at plan time; tiles go through in blocks that stay in cache: input transform, eight products over the channels on
//! the tile of the matrix product (tiles are its rows, output channels its columns), output transform. The epilogue
//! follows over whole planes.
//!
//! The points are 0, ±½, ±1, ±2 and ∞. With values of -1..1, a sum over 512 channels differs from the exact one by at
//! most 8e-7 of the sum of the products' magnitudes (a test holds it to that).

use std::ops::Range;

use super::winograd::split;
use super::{ConvParams, positioned, volume};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::gemm::{MR, NR, ROW_VECTORS, flush_subnormals, multiply_panels};
use crate::cpu::simd::{F32x4, LANES};
use crate::cpu::threads::{Disjoint, PerThread, Threads};

/// Values of a transformed patch or filter, and inputs of a tile.
const POINTS: usize = 8;
/// The most outputs of a tile.
const MOST_OUTPUTS: usize = 6;
/// Output channels that go through the products and the output transform together.
const CHANNELS: usize = 64;
/// The transformed patches of a block, in f32.
const BLOCK_LEN: usize = 160 * 1024;
/// The positive points, and of the other two the sum and the product of their squares.
const PAIRS: [(f32, f32, f32); 3] = [(1.0, 4.25, 1.0), (0.5, 5.0, 4.0), (2.0, 1.25, 0.25)];

#[derive(Clone, Debug)]
pub(super) struct AxisWinograd {
    /// Of one group.
    in_channels: usize,
    /// Of one group.
    out_channels: usize,
    taps: usize,
    /// How often the axis stands in a plane: before and behind it.
    outer: usize,
    inner: usize,
    /// Sizes along the axis.
    input: usize,
    output: usize,
    pad: usize,
    dilation: usize,
    /// Tiles of one line. A line holds every `dilation`-th position of the axis.
    line_tiles: usize,
    /// Tiles of a plane, and at most of a block.
    tiles: usize,
    block: usize,
}

/// Where a tile stands.
#[derive(Clone, Copy, Default)]
struct Tile {
    /// Its first input in the plane, if that is inside, and those of its inputs that are.
    input: isize,
    inside: (usize, usize),
    /// Its first output in the plane, and how many there are.
    output: usize,
    outputs: usize,
}

/// The parts of the scratch memory of one thread.
struct Parts<'a> {
    /// The transformed patches of one channel, point after point.
    stage: &'a mut [f32],
    /// The transformed patches as panels of tiles: `[points, panels, channels, MR]`.
    patches: &'a mut [f32],
    /// The products, `[tiles, points, CHANNELS]`.
    products: &'a mut [f32],
}

impl AxisWinograd {
    /// The plan of a convolution that this way is expected to be fastest for.
    pub fn new(params: &ConvParams) -> Option<Self> {
        let plan = Self::with_block(params, BLOCK_LEN)?;
        plan.pays().then_some(plan)
    }

    /// The plan, if this way can compute the convolution, with at most so many transformed values in a block (and at
    /// least as many tiles as a panel has).
    fn with_block(params: &ConvParams, block_len: usize) -> Option<Self> {
        let axis = params.kernel.iter().position(|&size| size > 1)?;
        let taps = params.kernel[axis];
        let alone = |other: usize| {
            other == axis || params.kernel[other] == 1 && params.pads_begin[other] == 0 && params.pads_end[other] == 0
        };
        if !(3..=7).contains(&taps) || params.strides != [1; 3] || !(0..3).all(alone) {
            return None;
        }
        let in_channels = params.in_channels / params.groups;
        let [outer, inner]: [usize; 2] =
            [&params.input[..axis], &params.input[axis + 1..]].map(|sizes| sizes.iter().product());
        let (output, dilation) = (params.output()[axis], params.dilations[axis]);
        let line_tiles = output.div_ceil(dilation).div_ceil(POINTS + 1 - taps);
        let tiles = outer * dilation.min(output) * line_tiles * inner;
        let most = (block_len / (POINTS * in_channels.max(1))).max(1).next_multiple_of(MR);
        // Blocks of one size, so that the last is not a small one that reads all filters again.
        let rounds = tiles.div_ceil(most).max(1);
        Some(Self {
            in_channels,
            out_channels: params.out_channels / params.groups,
            taps,
            outer,
            inner,
            input: params.input[axis],
            output,
            pad: params.pads_begin[axis],
            dilation,
            line_tiles,
            tiles,
            block: tiles.div_ceil(rounds).next_multiple_of(MR).min(most),
        })
    }

    /// Outputs of a tile.
    fn outputs(&self) -> usize {
        POINTS + 1 - self.taps
    }

    /// Positions of an output plane.
    fn positions(&self) -> usize {
        self.outer * self.output * self.inner
    }

    /// Whether fewer multiplications outweigh the transforms and the longer filters, counted in vector multiply-adds.
    fn pays(&self) -> bool {
        let [c, m] = [self.in_channels, self.out_channels].map(|channels| channels as f64);
        let positions = self.positions() as f64;
        let tiles = self.tiles.max(MR) as f64;
        let filters = 4.0 * c * m;
        let direct = self.taps as f64 * (positions * c * m / 4.0 + filters + positions * c / 2.0);
        let transformed =
            POINTS as f64 * (tiles * c * m / 4.0 + filters) + tiles * (20.0 * c + 16.0 * m) + positions * m / 2.0;
        // Filters of more memory than this are no layer of a real network.
        c >= 4.0 && m >= 4.0 && c * m < 4e6 && transformed < 0.9 * direct
    }

    /// Transforms filters `[out_channels, in_channels / groups, taps]` into panels of eight output channels, which a
    /// block of [`CHANNELS`] reads front to back.
    pub fn pack(&self, weights: &[f32], groups: usize) -> Box<[f32]> {
        let (channels, outputs, taps) = (self.in_channels, self.out_channels, self.taps);
        let mut packed = vec![0.0; groups * self.filter_len()].into_boxed_slice();
        let filters = weights.chunks_exact(outputs * channels * taps);
        for (packed, filters) in packed.chunks_exact_mut(self.filter_len()).zip(filters) {
            for (index, filter) in filters.chunks_exact(taps).enumerate() {
                let (output, channel) = (index / channels, index % channels);
                let block = output / CHANNELS * CHANNELS;
                let width = CHANNELS.min(outputs - block).next_multiple_of(NR);
                let panel = (output - block) / NR;
                let place = block * POINTS * channels + (panel * channels + channel) * NR + (output - block) % NR;
                for (point, value) in transform_filter(filter).into_iter().enumerate() {
                    packed[place + point * width * channels] = value;
                }
            }
        }
        flush_subnormals(&mut packed);
        packed
    }

    /// The length of the transformed filters of one group.
    fn filter_len(&self) -> usize {
        POINTS * self.in_channels * self.out_channels.next_multiple_of(NR)
    }

    /// The length of the packed filters of all groups.
    pub fn packed_len(&self, groups: usize) -> usize {
        groups * self.filter_len()
    }

    fn part_lens(&self) -> [usize; 3] {
        let width = CHANNELS.min(self.out_channels.next_multiple_of(NR));
        [
            POINTS * stage_len(self.block),
            POINTS * self.in_channels * self.block,
            POINTS * self.block * width,
        ]
    }

    /// How much scratch memory each thread needs, in f32.
    pub fn scratch_len(&self) -> usize {
        self.part_lens().into_iter().sum()
    }

    /// Sizes of input and output were checked by the caller.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        params: &ConvParams,
        input: &[f32],
        filters: &[f32],
        output: &mut [f32],
        scratch: &mut [f32],
        epilogue: &Epilogue,
        threads: &Threads,
    ) {
        let filters = &filters[..self.packed_len(params.groups)];
        let planes = params.batch * params.groups;
        let positions = self.positions();
        let input_len = self.in_channels * volume(params.input);
        let output_len = self.out_channels * positions;
        // In the unit of costs, eight multiply-adds.
        let cost = (planes * self.tiles).saturating_mul(self.filter_len() / 8);
        let workers = threads.worth(cost).min(threads.count());
        let blocks = self.tiles.div_ceil(self.block).max(workers.div_ceil(planes.max(1)));
        let block = self.tiles.div_ceil(blocks).next_multiple_of(MR);
        let blocks = self.tiles.div_ceil(block);
        let threads = if workers == 1 { &Threads::SINGLE } else { threads };
        let pieces = PerThread::new(scratch, self.scratch_len());
        let out = Disjoint::new(output);
        threads.run(planes * blocks, &|part| {
            let (plane, index) = (part.index / blocks, part.index % blocks);
            let tiles = self.tiles_at(index * block..self.tiles.min((index + 1) * block));
            // SAFETY: the piece of the thread that runs this part.
            let [stage, patches, products] = split(unsafe { pieces.of(part) }, self.part_lens());
            let mut parts = Parts {
                stage,
                patches,
                products,
            };
            let filters = &filters[plane % params.groups * self.filter_len()..][..self.filter_len()];
            self.transform_input(&tiles, &input[plane * input_len..][..input_len], &mut parts);
            // SAFETY: the group's planes lie in the output, and no other part has these tiles of them.
            unsafe {
                let out = out.as_mut_ptr().add(plane * output_len);
                self.multiply(&tiles, filters, out, &mut parts);
            }
        });
        for (plane, output) in output.chunks_exact_mut(output_len.max(1)).take(planes).enumerate() {
            let (row, channel) = (plane * self.out_channels, plane % params.groups * self.out_channels);
            let epilogue = positioned(epilogue, row, channel, positions);
            threads.rows_mut(output, positions, positions, |first, rows| {
                for (channel, values) in rows.chunks_exact_mut(positions).enumerate() {
                    epilogue.apply(first + channel, 0, positions, values);
                }
            });
        }
    }

    /// The places of tiles, which are numbered along the inner positions first.
    fn tiles_at(&self, range: Range<usize>) -> Vec<Tile> {
        let (inner, step) = (self.inner, self.dilation);
        let phases = step.min(self.output);
        let place = |index: usize| {
            let (column, index) = (index % inner, index / inner);
            let (tile, index) = (index % self.line_tiles, index / self.line_tiles);
            let (phase, outer) = (index % phases, index / phases);
            let first = phase + tile * self.outputs() * step;
            // Inputs at `first + k * step - pad`.
            let begin = self.pad.saturating_sub(first).div_ceil(step).min(POINTS);
            let end = (self.input + self.pad).saturating_sub(first).div_ceil(step).min(POINTS);
            Tile {
                input: ((outer * self.input + first) * inner + column) as isize - (self.pad * inner) as isize,
                inside: (begin, end.max(begin)),
                output: (outer * self.output + first) * inner + column,
                outputs: self.output.saturating_sub(first).div_ceil(step).min(self.outputs()),
            }
        };
        range.map(place).collect()
    }

    /// Fills `parts.patches` from the planes of `input`.
    fn transform_input(&self, tiles: &[Tile], input: &[f32], parts: &mut Parts) {
        let channels = self.in_channels;
        let panels = tiles.len().div_ceil(MR);
        let stage_len = stage_len(tiles.len());
        let step = self.inner * self.dilation;
        let plane_len = self.outer * self.input * self.inner;
        let stage = &mut parts.stage[..POINTS * stage_len];
        stage.fill(0.0);
        assert!(parts.patches.len() >= POINTS * panels * channels * MR);
        for channel in 0..channels {
            let plane = &input[channel * plane_len..][..plane_len];
            for (group, places) in tiles.chunks(LANES).enumerate() {
                let points = forward(if let Some(runs) = inner_runs(places, plane, (POINTS - 1) * step + 1) {
                    // SAFETY: a run reaches to the last of the tile's inputs.
                    std::array::from_fn(|k| F32x4::from_array(runs.map(|run| unsafe { *run.get_unchecked(k * step) })))
                } else {
                    let mut values = [[0.0; LANES]; POINTS];
                    for (lane, tile) in places.iter().enumerate() {
                        for k in tile.inside.0..tile.inside.1 {
                            values[k][lane] = plane[(tile.input + (k * step) as isize) as usize];
                        }
                    }
                    values.map(F32x4::from_array)
                });
                for (line, point) in stage.chunks_exact_mut(stage_len).zip(points) {
                    point.store(&mut line[group * LANES..]);
                }
            }
            for point in 0..POINTS {
                for panel in 0..panels {
                    // SAFETY: a stage's point has room for whole panels, and the panels of all channels lie in the
                    // patches, as was asserted.
                    unsafe {
                        let from = stage.as_ptr().add(point * stage_len + panel * MR);
                        let panel = point * panels + panel;
                        let to = parts.patches.as_mut_ptr().add((panel * channels + channel) * MR);
                        for &row in ROW_VECTORS {
                            F32x4::load_ptr(from.add(row)).store_ptr(to.add(row));
                        }
                    }
                }
            }
        }
    }

    /// Multiplies the patches by the filters and writes the tiles' outputs.
    ///
    /// # Safety
    /// `out` is writable for the planes of the group's output channels, of which no one else touches the tiles' outputs.
    unsafe fn multiply(&self, tiles: &[Tile], filters: &[f32], out: *mut f32, parts: &mut Parts) {
        let depth = self.in_channels;
        let panels = tiles.len().div_ceil(MR);
        for first in (0..self.out_channels).step_by(CHANNELS) {
            let width = CHANNELS.min(self.out_channels - first).next_multiple_of(NR);
            let products = &mut parts.products[..panels * MR * POINTS * width];
            for point in 0..POINTS {
                let a = &parts.patches[point * panels * MR * depth..][..panels * MR * depth];
                let b = &filters[(first * POINTS + point * width) * depth..][..width * depth];
                let place = &mut products[point * width..];
                multiply_panels(a, b, depth, tiles.len(), width, place, POINTS * width);
            }
            let channels = first..self.out_channels.min(first + CHANNELS);
            // SAFETY: the caller's promise.
            unsafe { self.transform_output(tiles, channels, width, products, out) };
        }
    }

    /// Transforms products `[tiles, POINTS, width]` and writes the tiles' outputs of `channels`.
    ///
    /// # Safety
    /// As [`AxisWinograd::multiply`].
    unsafe fn transform_output(
        &self,
        tiles: &[Tile],
        channels: Range<usize>,
        width: usize,
        products: &[f32],
        out: *mut f32,
    ) {
        let positions = self.positions();
        let step = self.inner * self.dilation;
        let coefficients = coefficients(self.outputs());
        for (tile, products) in tiles.iter().zip(products.chunks_exact(POINTS * width)) {
            for channel in channels.clone().step_by(LANES) {
                let from = &products[channel - channels.start..];
                assert!(from.len() >= (POINTS - 1) * width + LANES);
                // SAFETY: as was just asserted.
                let point = |i: usize| unsafe { F32x4::load_ptr(from.as_ptr().add(i * width)) };
                let values = backward(std::array::from_fn(point), &coefficients);
                let count = LANES.min(channels.end - channel);
                // SAFETY: these outputs of these channels exist, and are ours by the caller's promise.
                unsafe {
                    let out = out.add(channel * positions + tile.output);
                    if step == 1 && count == LANES && tile.outputs >= LANES {
                        let [first, second, third, fourth, ..] = values;
                        for (lane, line) in F32x4::transpose([first, second, third, fourth]).into_iter().enumerate() {
                            line.store_ptr(out.add(lane * positions));
                        }
                        store_lanes(&values[LANES..tile.outputs], out.add(LANES), 1, positions, LANES);
                        continue;
                    }
                    store_lanes(&values[..tile.outputs], out, step, positions, count);
                }
            }
        }
    }
}

/// Stores values of `count` channels, whose planes are `positions` apart, `step` apart in each.
///
/// # Safety
/// All of these places are writable.
#[inline(always)]
unsafe fn store_lanes(values: &[F32x4], mut out: *mut f32, step: usize, positions: usize, count: usize) {
    for value in values {
        let lanes = value.to_array();
        for (lane, &value) in lanes.iter().enumerate().take(count) {
            // SAFETY: the caller's promise.
            unsafe { *out.add(lane * positions) = value };
        }
        out = out.wrapping_add(step);
    }
}

/// The runs of a plane that four tiles read, where all of their inputs are inside.
#[inline(always)]
fn inner_runs<'a>(tiles: &[Tile], plane: &'a [f32], len: usize) -> Option<[&'a [f32]; LANES]> {
    let tiles: &[Tile; LANES] = tiles.try_into().ok()?;
    if tiles.iter().any(|tile| tile.inside != (0, POINTS)) {
        return None;
    }
    Some(tiles.map(|tile| &plane[tile.input as usize..][..len]))
}

/// The length of a point's run in the stage: whole panels, and what the last group of four tiles writes beyond.
fn stage_len(tiles: usize) -> usize {
    tiles.next_multiple_of(MR) + LANES
}

/// Bᵀ of eight values: the coefficients of the products of `x - q` over the other points.
#[inline(always)]
fn forward(x: [F32x4; POINTS]) -> [F32x4; POINTS] {
    let mut points = [F32x4::zero(); POINTS];
    let quarter = F32x4::splat(5.25);
    points[0] = quarter.mul_add(x[2] - x[4], x[6] - x[0]);
    points[7] = quarter.mul_add(x[3] - x[5], x[7] - x[1]);
    for (i, (point, sum, product)) in PAIRS.into_iter().enumerate() {
        let (sum, product) = (F32x4::splat(-sum), F32x4::splat(product));
        let even = product.mul_add(x[2], sum.mul_add(x[4], x[6]));
        let odd = product.mul_add(x[1], sum.mul_add(x[3], x[5])) * F32x4::splat(point);
        points[1 + 2 * i] = even + odd;
        points[2 + 2 * i] = even - odd;
    }
    points
}

/// What the differences or sums of the pairs behind ±1 and the last point are multiplied by for each output.
type Coefficients = [[f32; 3]; MOST_OUTPUTS];

fn coefficients(outputs: usize) -> Coefficients {
    std::array::from_fn(|power| {
        let power_of_two = (1 << power) as f32;
        [
            1.0 / power_of_two,
            power_of_two,
            f32::from(u8::from(power + 1 == outputs)),
        ]
    })
}

/// Aᵀ of eight values: powers of the points.
#[inline(always)]
fn backward(x: [F32x4; POINTS], coefficients: &Coefficients) -> [F32x4; MOST_OUTPUTS] {
    let pair = |i: usize| [x[i] + x[i + 1], x[i] - x[i + 1]];
    let pairs = [pair(1), pair(3), pair(5)];
    std::array::from_fn(|power| {
        let [half, two, last] = coefficients[power].map(F32x4::splat);
        // A power of a negative point has its sign when it is odd.
        let [one, by_half, by_two] = pairs.map(|pair| pair[power % 2]);
        let value = if power == 0 { x[0] + one } else { one };
        last.mul_add(x[7], two.mul_add(by_two, half.mul_add(by_half, value)))
    })
}

/// G of a filter: its polynomial at the points, each divided by the product of the differences to the other points.
fn transform_filter(taps: &[f32]) -> [f32; POINTS] {
    let at = |point: f64| taps.iter().rev().fold(0.0, |sum, &tap| sum * point + f64::from(tap));
    let mut points = [0.0; POINTS];
    points[0] = -taps[0];
    points[7] = taps[taps.len() - 1];
    for (i, (point, sum, product)) in PAIRS.into_iter().enumerate() {
        let [p, sum, product] = [point, sum, product].map(f64::from);
        let square = p * p;
        let divisor = 2.0 * square * (square * square - sum * square + product);
        points[1 + 2 * i] = (at(p) / divisor) as f32;
        points[2 + 2 * i] = (at(-p) / divisor) as f32;
    }
    points
}

#[cfg(test)]
mod tests {
    use super::super::tests::reference;
    use super::*;
    use crate::cpu::epilogue::{Bias, Clamp, RowProgram};
    use crate::cpu::testing::{Rng, assert_close, assert_same_bits};

    struct AddPosition;
    impl RowProgram for AddPosition {
        fn apply(&self, row: usize, col: usize, values: &mut [f32]) {
            for (index, value) in values.iter_mut().enumerate() {
                *value += (row * 3 + col + index) as f32 * 0.01;
            }
        }
    }

    /// A convolution of `taps` along `axis` of a volume.
    fn along(axis: usize, taps: usize, input: [usize; 3], channels: [usize; 2]) -> ConvParams {
        let mut kernel = [1; 3];
        kernel[axis] = taps;
        ConvParams {
            batch: 1,
            in_channels: channels[0],
            out_channels: channels[1],
            groups: 1,
            input,
            kernel,
            strides: [1; 3],
            dilations: [1; 3],
            pads_begin: [0; 3],
            pads_end: [0; 3],
        }
    }

    fn run(
        plan: &AxisWinograd,
        params: &ConvParams,
        input: &[f32],
        weights: &[f32],
        epilogue: &Epilogue,
        threads: &Threads,
    ) -> Vec<f32> {
        let filters = plan.pack(weights, params.groups);
        assert_eq!(filters.len(), plan.packed_len(params.groups));
        let mut scratch = vec![f32::NAN; threads.count() * plan.scratch_len()];
        let mut output = vec![f32::NAN; params.output_len()];
        plan.run(params, input, &filters, &mut output, &mut scratch, epilogue, threads);
        output
    }

    #[test]
    fn random_convolutions_match_the_definition_with_any_size_of_block() {
        let (mut rng, threads) = (Rng::new(41), Threads::eager(3));
        for round in 0..300 {
            let channels = if round % 10 == 0 {
                [rng.size(1, 6), rng.size(60, 140)]
            } else {
                [rng.size(1, 13), rng.size(1, 13)]
            };
            let (axis, groups) = (rng.size(0, 2), rng.size(1, 2));
            let mut sizes = [rng.size(1, 4), rng.size(1, 4), rng.size(1, 4)];
            sizes[axis] = rng.size(0, 40);
            let mut params = along(axis, rng.size(3, 7), sizes, channels.map(|count| count * groups));
            params.groups = groups;
            params.batch = rng.size(1, 2);
            params.dilations[axis] = rng.size(1, 3);
            (params.pads_begin[axis], params.pads_end[axis]) = (rng.size(0, 9), rng.size(0, 9));
            if params.output_len() == 0 {
                continue;
            }
            let (input, weights) = (rng.vec(params.input_len()), rng.vec(params.weights_len()));
            let (bias, residual) = (rng.vec(params.out_channels), rng.vec(params.output_len()));
            let epilogue = Epilogue {
                alpha: if rng.size(0, 5) == 0 { 0.5 } else { 1.0 },
                bias: if rng.bool() { Bias::PerRow(&bias) } else { Bias::None },
                residual: rng.bool().then_some(&residual[..]),
                clamp: rng.bool().then_some(Clamp::RELU6),
                program: if rng.bool() { Some(&AddPosition) } else { None },
                ..Epilogue::none()
            };
            let mut expected = reference(&params, &input, &weights);
            let positions = volume(params.output());
            for (row, values) in expected.chunks_exact_mut(positions).enumerate() {
                positioned(&epilogue, row, row % params.out_channels, positions).apply(0, 0, positions, values);
            }
            for block_len in [1, 20 * POINTS * channels[0], BLOCK_LEN] {
                let plan = AxisWinograd::with_block(&params, block_len).unwrap();
                let actual = run(&plan, &params, &input, &weights, &epilogue, &Threads::SINGLE);
                let what = format!("{params:?} in blocks of {}", plan.block);
                assert_close(&actual, &expected, 2e-5, &what);
                let shared = run(&plan, &params, &input, &weights, &epilogue, &threads);
                assert_same_bits(&shared, &actual, &what);
            }
        }
    }

    #[test]
    fn the_error_of_deep_sums_is_as_stated() {
        let mut rng = Rng::new(42);
        for taps in 3..=7 {
            let params = along(2, taps, [1, 1, 300], [512, 8]);
            let (input, weights) = (rng.vec(params.input_len()), rng.vec(params.weights_len()));
            let magnitude = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<f32>>();
            let plan = AxisWinograd::with_block(&params, BLOCK_LEN).unwrap();
            let actual = run(&plan, &params, &input, &weights, &Epilogue::none(), &Threads::SINGLE);
            let expected = reference(&params, &input, &weights);
            let magnitudes = reference(&params, &magnitude(&input), &magnitude(&weights));
            let errors = actual.iter().zip(&expected).zip(&magnitudes);
            let worst = errors.map(|((a, e), m)| (a - e).abs() / m).fold(0.0, f32::max);
            assert!(worst < 8e-7, "{taps} taps: {worst:e}");
        }
    }

    #[test]
    fn convolutions_are_chosen_by_what_pays() {
        let chosen = |taps, len, channels| AxisWinograd::new(&along(1, taps, [1, len, 1], channels)).is_some();
        assert!(chosen(5, 512, [256, 512]) && chosen(3, 100, [64, 64]));
        assert!(!chosen(2, 512, [64, 64]) && !chosen(5, 512, [2, 64]) && !chosen(5, 8, [64, 64]));
        let mut strided = along(1, 5, [1, 512, 1], [256, 512]);
        strided.strides[1] = 2;
        assert!(AxisWinograd::new(&strided).is_none());
    }
}
