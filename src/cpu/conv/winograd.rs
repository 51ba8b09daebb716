//! 3×3 convolution of stride 1 by Winograd's minimal filtering F(4×4, 3×3): a patch of 6×6 inputs and a filter, each
//! transformed to 36 points, give 4×4 outputs for 36 multiplications instead of 144. Filters are transformed at plan
//! time; tiles go through in blocks that stay in cache: input transform, 36 products over the channels on the tile of
//! the matrix product (tiles are its rows, output channels its columns), output transform with the epilogue. For small
//! images F(2×2, 3×3), a patch of 4×4 and 16 points: its filters, of which each is used for few tiles, take less than
//! half as long to read, and fewer outputs lie beyond the border.
//!
//! The points of F(4×4) are 0, ±√½, ±√2 and ∞, whose matrices hold no number above 2.83, those of F(2×2) 0, ±1 and ∞. With
//! values of -1..1, a sum over 512 channels differs from the exact one by at most 3e-7 of the sum of the products'
//! magnitudes (a test holds it to that).

use std::ops::Range;

use super::{ConvParams, positioned};
use crate::cpu::epilogue::{Bias, Epilogue};
use crate::cpu::gemm::{MR, NR, ROW_VECTORS, flush_subnormals, multiply_panels};
use crate::cpu::simd::{F32x4, LANES};
use crate::cpu::threads::{Disjoint, PerThread, Threads};

/// The most inputs of a tile along each axis.
const MOST: usize = 6;
/// Output channels that go through the products and the output transform together.
const CHANNELS: usize = 64;
/// The vector multiply-adds that pass while a value of the filters comes from memory.
const FILTER_COST: f64 = 4.0;
/// The transformed patches of a block, in f32.
const BLOCK_LEN: usize = 160 * 1024;

/// √½ and √2.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

#[derive(Clone, Debug)]
pub(super) struct Winograd {
    /// Outputs of a tile along each axis: 2 or 4.
    tile: usize,
    /// Of one group.
    in_channels: usize,
    /// Of one group.
    out_channels: usize,
    input: [usize; 2],
    output: [usize; 2],
    pads: [usize; 2],
    /// Tiles down and across.
    tiles: [usize; 2],
    /// Tiles of a block, down and across.
    block: [usize; 2],
}

/// A rectangle of tiles.
#[derive(Clone, Debug)]
struct Block {
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Block {
    fn tiles(&self) -> usize {
        self.rows.len() * self.cols.len()
    }

    fn panels(&self) -> usize {
        self.tiles().div_ceil(MR)
    }
}

/// The work of one run, in pieces that write different outputs.
#[derive(Clone, Copy, Debug)]
struct Jobs {
    /// Images × groups.
    planes: usize,
    /// Tiles down in a block.
    down: usize,
    /// Blocks down.
    rows: usize,
    /// Blocks across.
    across: usize,
    /// Jobs that share a block and have some of the output channels each.
    shares: usize,
}

impl Jobs {
    fn count(&self) -> usize {
        self.planes * self.rows * self.across * self.shares
    }
}

/// The parts of the scratch memory of one block.
struct Parts<'a> {
    /// A row of zeros, in place of the rows outside the image.
    zeros: &'a [f32],
    /// The rows of patches, transformed downwards.
    lines: &'a mut [f32],
    /// The transformed patches of four channels, point after point.
    stage: &'a mut [f32],
    /// The transformed patches as panels of tiles: `[points, panels, channels, MR]`.
    patches: &'a mut [f32],
    /// The products, `[tiles, points, CHANNELS]`.
    products: &'a mut [f32],
}

impl Winograd {
    /// The plan of a convolution that this way is expected to be fastest for.
    pub fn new(params: &ConvParams) -> Option<Self> {
        let [small, large] = [2, 4].map(|tile| Self::with_block(params, tile, BLOCK_LEN));
        let (small, large) = (small?, large?);
        let best = if small.cost() < large.cost() { small } else { large };
        best.pays().then_some(best)
    }

    /// The plan with tiles of this size, if this way can compute the convolution, with at most so many transformed
    /// values in a block (and at least as many tiles as a panel has).
    fn with_block(params: &ConvParams, tile: usize, block_len: usize) -> Option<Self> {
        let flat = params.input[0] == 1 && params.pads_begin[0] == 0 && params.pads_end[0] == 0;
        if params.kernel != [1, 3, 3] || params.strides != [1; 3] || params.dilations != [1; 3] || !flat {
            return None;
        }
        let in_channels = params.in_channels / params.groups;
        let out_channels = params.out_channels / params.groups;
        let [_, out_h, out_w] = params.output();
        let tiles = [out_h.div_ceil(tile), out_w.div_ceil(tile)];
        let points = (tile + 2) * (tile + 2);
        let most = (block_len / (points * in_channels.max(1))).max(1).next_multiple_of(MR);
        let across = tiles[1].clamp(1, most);
        Some(Self {
            tile,
            in_channels,
            out_channels,
            input: [params.input[1], params.input[2]],
            output: [out_h, out_w],
            pads: [params.pads_begin[1], params.pads_begin[2]],
            tiles,
            block: [(most / across).min(tiles[0]).max(1), across],
        })
    }

    /// Inputs of a tile along each axis.
    fn patch(&self) -> usize {
        self.tile + 2
    }

    /// Values of a transformed patch or filter.
    fn points(&self) -> usize {
        self.patch() * self.patch()
    }

    /// Whether fewer multiplications outweigh the transforms and the longer filters, which take more memory too: at 7×7
    /// positions, 512 channels would be done in 0.9 of the time with 1.8 times the memory.
    fn pays(&self) -> bool {
        let [c, m] = [self.in_channels, self.out_channels].map(|channels| channels as f64);
        let positions = (self.output[0] * self.output[1]) as f64;
        let direct = 9.0 * (positions * c * m / 4.0 + FILTER_COST * c * m + positions * c / 2.0);
        // Filters of more memory than this are no layer of a real network.
        c >= 4.0 && m >= 4.0 && c * m < 4e6 && self.cost() < 0.85 * direct
    }

    /// The expected time, counted in vector multiply-adds.
    fn cost(&self) -> f64 {
        let [c, m] = [self.in_channels, self.out_channels].map(|channels| channels as f64);
        let tiles = (self.tiles[0] * self.tiles[1]).max(MR) as f64;
        let [input, output] = if self.tile == 2 { [32.0, 24.0] } else { [80.0, 60.0] };
        self.points() as f64 * (tiles * c * m / 4.0 + FILTER_COST * c * m) + tiles * (input * c + output * m)
    }

    /// Transforms filters `[out_channels, in_channels / groups, 3, 3]` into panels of eight output channels, which a
    /// block of [`CHANNELS`] reads front to back.
    pub fn pack(&self, weights: &[f32], groups: usize) -> Box<[f32]> {
        let (channels, outputs, points) = (self.in_channels, self.out_channels, self.points());
        let transform = if self.tile == 2 {
            transform_filter::<4>
        } else {
            transform_filter::<6>
        };
        let mut packed = vec![0.0; groups * self.filter_len()].into_boxed_slice();
        let filters = weights.chunks_exact(outputs * channels * 9);
        for (packed, filters) in packed.chunks_exact_mut(self.filter_len()).zip(filters) {
            for first in (0..outputs).step_by(LANES) {
                let block = first / CHANNELS * CHANNELS;
                let width = CHANNELS.min(outputs - block).next_multiple_of(NR);
                let packed = &mut packed[block * points * channels..][..width * points * channels];
                let count = LANES.min(outputs - first);
                for channel in 0..channels {
                    let mut taps = [[0.0; LANES]; 9];
                    for lane in 0..count {
                        let filter = &filters[((first + lane) * channels + channel) * 9..][..9];
                        for (tap, value) in taps.iter_mut().zip(filter) {
                            tap[lane] = *value;
                        }
                    }
                    let panel = (first - block) / NR;
                    let place = (panel * channels + channel) * NR + (first - block) % NR;
                    transform(taps.map(F32x4::from_array), &mut packed[place..], width * channels);
                }
            }
        }
        flush_subnormals(&mut packed);
        packed
    }

    /// The length of the transformed filters of one group.
    fn filter_len(&self) -> usize {
        self.points() * self.in_channels * self.out_channels.next_multiple_of(NR)
    }

    /// The length of the packed filters of all groups.
    pub fn packed_len(&self, groups: usize) -> usize {
        groups * self.filter_len()
    }

    fn part_lens(&self) -> [usize; 5] {
        let [down, across] = self.block;
        let tiles = (down * across).next_multiple_of(MR);
        let points = self.points();
        [
            self.input[1],
            self.patch() * self.line_len(across),
            LANES * points * stage_len(tiles),
            points * self.in_channels * tiles,
            points * tiles * CHANNELS.min(self.out_channels.next_multiple_of(NR)),
        ]
    }

    /// The length of a line that is transformed across: whole groups of four tiles, and what the last one reads beyond.
    fn line_len(&self, tiles_across: usize) -> usize {
        tiles_across.next_multiple_of(LANES) * self.tile + LANES
    }

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
        // In the unit of costs, eight multiply-adds.
        let cost = (params.batch * params.groups * self.tiles[0] * self.tiles[1]).saturating_mul(self.filter_len() / 8);
        let workers = threads.worth(cost).min(threads.count());
        let jobs = self.jobs(params, workers);
        let threads = if workers == 1 { &Threads::SINGLE } else { threads };
        let pieces = PerThread::new(scratch, self.scratch_len());
        let output = Disjoint::new(output);
        threads.run(jobs.count(), &|part| {
            // SAFETY: the piece of the thread that runs this part; `output` holds the planes of all images, of which each
            // job writes its own outputs.
            unsafe {
                let scratch = pieces.of(part);
                self.job(
                    &jobs,
                    part.index,
                    params,
                    input,
                    filters,
                    output.as_mut_ptr(),
                    scratch,
                    epilogue,
                );
            }
        });
    }

    /// How the work is cut for so many threads.
    fn jobs(&self, params: &ConvParams, threads: usize) -> Jobs {
        let planes = params.batch * params.groups;
        // As many blocks for each thread as it takes, of equal height.
        let rounds = self.tiles[0].div_ceil(self.block[0] * threads);
        let down = self.tiles[0].div_ceil(rounds * threads).min(self.block[0]);
        let across = self.tiles[1].div_ceil(self.block[1]);
        let blocks = planes * self.tiles[0].div_ceil(down) * across;
        // Where there are too few, each thread transforms the whole input for its share of the output channels.
        let shares = if blocks < threads {
            self.out_channels.div_ceil(CHANNELS).min(threads)
        } else {
            1
        };
        Jobs {
            planes,
            down,
            across,
            shares,
            rows: self.tiles[0].div_ceil(down),
        }
    }

    /// One job, with the scratch memory of one thread.
    ///
    /// # Safety
    /// `output` is writable for all images; jobs that run at the same time have different indices.
    #[allow(clippy::too_many_arguments)]
    unsafe fn job(
        &self,
        jobs: &Jobs,
        index: usize,
        params: &ConvParams,
        input: &[f32],
        filters: &[f32],
        output: *mut f32,
        scratch: &mut [f32],
        epilogue: &Epilogue,
    ) {
        let (share, index) = (index % jobs.shares, index / jobs.shares);
        let (left, index) = (index % jobs.across * self.block[1], index / jobs.across);
        let (top, plane) = (index % jobs.rows * jobs.down, index / jobs.rows);
        let block = Block {
            rows: top..self.tiles[0].min(top + jobs.down),
            cols: left..self.tiles[1].min(left + self.block[1]),
        };
        let bundles = self.out_channels.div_ceil(CHANNELS);
        let first_channel = |share: usize| (share * bundles / jobs.shares * CHANNELS).min(self.out_channels);
        let channels = first_channel(share)..first_channel(share + 1);

        let [zeros, lines, stage, patches, products] = split(scratch, self.part_lens());
        zeros.fill(0.0);
        let mut parts = Parts {
            zeros,
            lines,
            stage,
            patches,
            products,
        };
        let positions = self.output[0] * self.output[1];
        let input_len = self.in_channels * self.input[0] * self.input[1];
        let group = plane % params.groups;
        let row = plane * self.out_channels;
        let epilogue = positioned(epilogue, row, group * self.out_channels, positions);
        epilogue.check(self.out_channels, positions);
        self.transform_input(&block, &input[plane * input_len..][..input_len], &mut parts);
        let filters = &filters[group * self.filter_len()..][..self.filter_len()];
        // SAFETY: the caller's promise; no other job has these outputs of these channels.
        unsafe {
            self.multiply(
                &block,
                channels,
                filters,
                output.add(row * positions),
                &mut parts,
                &epilogue,
            )
        };
    }

    /// Fills `parts.patches` from the planes of `input`.
    fn transform_input(&self, block: &Block, input: &[f32], parts: &mut Parts) {
        let [in_h, in_w] = self.input;
        let (tile, points, channels) = (self.tile, self.points(), self.in_channels);
        let (down, across_lines) = if tile == 2 {
            (
                transform_down::<4> as fn(&[&[f32]; MOST], &mut [f32], usize),
                transform_across::<4> as AcrossFn,
            )
        } else {
            (transform_down::<6> as _, transform_across::<6> as _)
        };
        let across = block.cols.len();
        let (tiles, panels) = (block.tiles(), block.panels());
        let stage_len = stage_len(tiles);
        let line_len = self.line_len(across);
        // The block's columns of the padded image that lie in the image.
        let first = (block.cols.start * tile).max(self.pads[1]);
        let end = (block.cols.end * tile + 2).min(self.pads[1] + in_w).max(first);
        let (place, from) = (first - block.cols.start * tile, first - self.pads[1]);
        parts.lines[..self.patch() * line_len].fill(0.0);
        parts.stage.fill(0.0);
        for first_channel in (0..channels).step_by(LANES) {
            let count = LANES.min(channels - first_channel);
            for (stage, channel) in parts
                .stage
                .chunks_exact_mut(points * stage_len)
                .zip(first_channel..)
                .take(count)
            {
                let plane = &input[channel * in_h * in_w..][..in_h * in_w];
                for (index, row) in block.rows.clone().enumerate() {
                    let rows = std::array::from_fn(|i| {
                        let y = (row * tile + i).wrapping_sub(self.pads[0]);
                        let line = if y < in_h {
                            &plane[y * in_w..][..in_w]
                        } else {
                            parts.zeros
                        };
                        &line[from..from + (end - first)]
                    });
                    down(&rows, &mut parts.lines[place..], line_len);
                    across_lines(parts.lines, line_len, across, &mut stage[index * across..], stage_len);
                }
                // What the last groups of four wrote beyond the last tile.
                for point in stage.chunks_exact_mut(stage_len) {
                    point[tiles..].fill(0.0);
                }
            }
            let staged = points * stage_len;
            assert!(parts.stage.len() >= LANES * staged && parts.patches.len() >= points * panels * channels * MR);
            for point in 0..points {
                for panel in 0..panels {
                    // SAFETY: a stage's point has room for whole panels, and the panels of all channels lie in the
                    // patches, as was asserted.
                    unsafe {
                        let mut from = parts.stage.as_ptr().add(point * stage_len + panel * MR);
                        let panel = point * panels + panel;
                        let mut to = parts.patches.as_mut_ptr().add((panel * channels + first_channel) * MR);
                        for _ in 0..count {
                            for &row in ROW_VECTORS {
                                F32x4::load_ptr(from.add(row)).store_ptr(to.add(row));
                            }
                            (from, to) = (from.wrapping_add(staged), to.wrapping_add(MR));
                        }
                    }
                }
            }
        }
    }

    /// Multiplies the patches by the filters of `channels`, which begin at a multiple of [`CHANNELS`], and writes the
    /// block's outputs of these channels.
    ///
    /// # Safety
    /// `out` is writable for the planes of the group's output channels, of which no one else touches the block's
    /// outputs of `channels`; the epilogue was checked for all channels.
    unsafe fn multiply(
        &self,
        block: &Block,
        channels: Range<usize>,
        filters: &[f32],
        out: *mut f32,
        parts: &mut Parts,
        epilogue: &Epilogue,
    ) {
        let (depth, points) = (self.in_channels, self.points());
        let (tiles, panels) = (block.tiles(), block.panels());
        for first in channels.clone().step_by(CHANNELS) {
            let count = CHANNELS.min(channels.end - first);
            let width = CHANNELS.min(self.out_channels - first).next_multiple_of(NR);
            let products = &mut parts.products[..panels * MR * points * width];
            for point in 0..points {
                let a = &parts.patches[point * panels * MR * depth..][..panels * MR * depth];
                let b = &filters[(first * points + point * width) * depth..][..width * depth];
                multiply_panels(
                    a,
                    b,
                    depth,
                    tiles,
                    width,
                    &mut products[point * width..],
                    points * width,
                );
            }
            // SAFETY: the caller's promise.
            unsafe { self.transform_output(block, first..first + count, width, products, out, epilogue) };
        }
    }

    /// Transforms products `[tiles, points, width]` and writes the block's outputs of `channels`.
    ///
    /// # Safety
    /// As [`Winograd::multiply`].
    unsafe fn transform_output(
        &self,
        block: &Block,
        channels: Range<usize>,
        width: usize,
        products: &[f32],
        out: *mut f32,
        epilogue: &Epilogue,
    ) {
        let [out_h, out_w] = self.output;
        let positions = out_h * out_w;
        // A residual is added in the tiles only where whole vectors of it exist.
        let in_registers = epilogue.alpha == 1.0 && !matches!(epilogue.bias, Bias::PerColumn(_));
        let tiles = Tiles {
            products,
            width,
            channels: channels.clone(),
            output: self.output,
            out,
            epilogue,
            in_registers,
        };
        // SAFETY: passed on from the caller.
        unsafe {
            if self.tile == 2 {
                tiles.store::<2, 4>(block);
            } else {
                tiles.store::<4, 6>(block);
            }
        }
        if in_registers && epilogue.program.is_none() {
            return;
        }
        let (top, bottom) = (block.rows.start * self.tile, out_h.min(block.rows.end * self.tile));
        let (left, right) = (block.cols.start * self.tile, out_w.min(block.cols.end * self.tile));
        // Whole rows of the image are one run.
        let (runs, len) = if right - left == out_w {
            (top..top + 1, (bottom - top) * out_w)
        } else {
            (top..bottom, right - left)
        };
        for channel in channels {
            for y in runs.clone() {
                let col = y * out_w + left;
                // SAFETY: these outputs are ours alone, by the caller's promise.
                let values = unsafe { std::slice::from_raw_parts_mut(out.add(channel * positions + col), len) };
                if !in_registers {
                    epilogue.apply(channel, col, positions, values);
                } else if let Some(program) = epilogue.program {
                    program.apply(epilogue.first_row + channel, col, values);
                }
            }
        }
    }
}

/// What becomes of the products of a block.
struct Tiles<'a> {
    /// `[tiles, points, width]`.
    products: &'a [f32],
    width: usize,
    channels: Range<usize>,
    output: [usize; 2],
    out: *mut f32,
    epilogue: &'a Epilogue<'a>,
    /// Whether bias, residual and clamp are applied here.
    in_registers: bool,
}

impl Tiles<'_> {
    /// Transforms tiles of `T` by `T` outputs, of `P` by `P` points, and stores what lies in the image.
    ///
    /// # Safety
    /// As [`Winograd::multiply`].
    #[inline(never)]
    unsafe fn store<const T: usize, const P: usize>(&self, block: &Block) {
        let Tiles {
            products,
            width,
            epilogue,
            in_registers,
            out,
            ..
        } = *self;
        let [out_h, out_w] = self.output;
        let positions = out_h * out_w;
        let across = block.cols.len();
        // Tiles side by side that make a vector.
        let side = LANES / T;
        let tiles = block.tiles();
        // Sixteen columns at a time, so that the lines of the output are complete before the next channels begin.
        let mut first_tile = 0;
        while first_tile < tiles {
            // Where tiles make a vector together, they are of one row.
            let row_end = if side == 1 {
                tiles
            } else {
                (first_tile / across + 1) * across
            };
            let end = row_end.min(first_tile + LANES * side);
            for channel in self.channels.clone().step_by(LANES) {
                let count = LANES.min(self.channels.end - channel);
                let bias = match epilogue.bias {
                    Bias::PerRow(bias) if in_registers => F32x4::load_partial(&bias[channel..channel + count], 0.0),
                    _ => F32x4::zero(),
                };
                for tile in (first_tile..end).step_by(side) {
                    let mut rows = [[F32x4::zero(); LANES]; T];
                    for beside in 0..side.min(end - tile) {
                        let from = &products[(tile + beside) * P * P * width + channel - self.channels.start..];
                        assert!(from.len() >= (P * P - 1) * width + LANES);
                        // SAFETY: as was just asserted.
                        let of_tile = unsafe { inverse::<T, P>(from.as_ptr(), width, bias) };
                        for (row, columns) in rows.iter_mut().zip(of_tile) {
                            row[beside * T..][..T].copy_from_slice(&columns);
                        }
                    }
                    let (y, x) = (
                        (block.rows.start + tile / across) * T,
                        (block.cols.start + tile % across) * T,
                    );
                    let place = channel * positions + y * out_w + x;
                    if count == LANES && x + LANES <= out_w && tile + side <= end {
                        for (row, columns) in rows.iter_mut().enumerate().take(out_h - y) {
                            for (lane, mut value) in F32x4::transpose(*columns).into_iter().enumerate() {
                                let place = place + lane * positions + row * out_w;
                                // SAFETY: four columns of this row exist in the output and in the residual.
                                unsafe {
                                    if in_registers {
                                        if let Some(residual) = epilogue.residual {
                                            value += F32x4::load_ptr(residual.as_ptr().add(place));
                                        }
                                        if let Some(clamp) = epilogue.clamp {
                                            value = value
                                                .at_least(F32x4::splat(clamp.min))
                                                .at_most(F32x4::splat(clamp.max));
                                        }
                                    }
                                    value.store_ptr(out.add(place));
                                }
                            }
                        }
                    } else {
                        // SAFETY: passed on from the caller.
                        unsafe {
                            let at = Edge {
                                place,
                                columns: (T * side.min(end - tile)).min(out_w - x),
                                channels: count,
                                row_len: out_w,
                                positions,
                            };
                            let rows = &rows[..T.min(out_h - y)];
                            store_edge(rows, &at, out, epilogue, in_registers);
                        }
                    }
                }
            }
            first_tile = end;
        }
    }
}

/// The length of a point's run in the stage: whole panels, and what the last group of four tiles writes beyond.
fn stage_len(tiles: usize) -> usize {
    tiles.next_multiple_of(MR) + LANES
}

/// Parts of scratch memory of these lengths.
pub(super) fn split<const N: usize>(mut scratch: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    lens.map(|len| {
        let (part, rest) = std::mem::take(&mut scratch).split_at_mut(len);
        scratch = rest;
        part
    })
}

/// Transforms lines of patches across: `lines`, the length of one, the tiles, the output and the step between points.
type AcrossFn = fn(&[f32], usize, usize, &mut [f32], usize);

/// Bᵀ of the values of a patch, four or six.
#[inline(always)]
fn forward<const P: usize>(x: [F32x4; P]) -> [F32x4; P] {
    let mut y = x;
    if P == 4 {
        y[0] = x[0] - x[2];
        y[1] = x[1] + x[2];
        y[2] = x[2] - x[1];
        y[3] = x[3] - x[1];
        return y;
    }
    let (minus_2_5, minus_2, minus_half) = (F32x4::splat(-2.5), F32x4::splat(-2.0), F32x4::splat(-0.5));
    let even_a = minus_2.mul_add(x[2], x[4]);
    let odd_a = minus_2.mul_add(x[1], x[3]) * F32x4::splat(A);
    let even_b = minus_half.mul_add(x[2], x[4]);
    let odd_b = minus_half.mul_add(x[1], x[3]) * F32x4::splat(B);
    y[0] = minus_2_5.mul_add(x[2], x[0] + x[4]);
    y[1] = even_a + odd_a;
    y[2] = even_a - odd_a;
    y[3] = even_b + odd_b;
    y[4] = even_b - odd_b;
    y[5] = minus_2_5.mul_add(x[3], x[1] + x[5]);
    y
}

/// Aᵀ of the points along an axis.
#[inline(always)]
fn backward<const T: usize, const P: usize>(x: [F32x4; P]) -> [F32x4; T] {
    let mut y = [F32x4::zero(); T];
    if P == 4 {
        y[0] = x[0] + x[1] + x[2];
        y[1] = x[1] - x[2] + x[3];
        return y;
    }
    let (sum_a, sum_b) = (x[1] + x[2], x[3] + x[4]);
    let (odd_a, odd_b) = ((x[1] - x[2]) * F32x4::splat(A), (x[3] - x[4]) * F32x4::splat(B));
    let (half, two) = (F32x4::splat(0.5), F32x4::splat(2.0));
    y[0] = x[0] + sum_a + sum_b;
    y[1] = odd_a + odd_b;
    y[2] = two.mul_add(sum_b, sum_a * half);
    y[3] = two.mul_add(odd_b, half.mul_add(odd_a, x[5]));
    y
}

/// G of three values.
#[inline(always)]
fn forward_filter<const P: usize>([x0, x1, x2]: [F32x4; 3]) -> [F32x4; P] {
    let mut y = [x2; P];
    y[0] = x0;
    if P == 4 {
        let (even, odd) = (F32x4::splat(0.5) * (x0 + x2), F32x4::splat(0.5) * x1);
        y[1] = even + odd;
        y[2] = even - odd;
        return y;
    }
    let even_a = F32x4::splat(-2.0 / 3.0) * x0 - F32x4::splat(1.0 / 3.0) * x2;
    let odd_a = F32x4::splat(-2.0 / 3.0 * A) * x1;
    let even_b = F32x4::splat(1.0 / 6.0) * x0 + F32x4::splat(1.0 / 3.0) * x2;
    let odd_b = F32x4::splat(1.0 / 6.0 * B) * x1;
    y[1] = even_a + odd_a;
    y[2] = even_a - odd_a;
    y[3] = even_b + odd_b;
    y[4] = even_b - odd_b;
    y
}

/// The filters of four output channels; point after point `step` apart.
#[inline(never)]
fn transform_filter<const P: usize>(taps: [F32x4; 9], out: &mut [f32], step: usize) {
    let down: [[F32x4; P]; 3] = std::array::from_fn(|x| forward_filter([taps[x], taps[3 + x], taps[6 + x]]));
    for i in 0..P {
        for (j, value) in forward_filter::<P>(down.map(|column| column[i]))
            .into_iter()
            .enumerate()
        {
            value.store(&mut out[(i * P + j) * step..]);
        }
    }
}

/// Transforms the first `P` lines, of one length, downwards into as many lines `line_len` apart.
#[inline(never)]
fn transform_down<const P: usize>(rows: &[&[f32]; MOST], lines: &mut [f32], line_len: usize) {
    let rows: [&[f32]; P] = std::array::from_fn(|i| rows[i]);
    let len = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == len) && lines.len() >= (P - 1) * line_len + len);
    if len < LANES {
        for (i, line) in forward(rows.map(|row| F32x4::load_partial(row, 0.0)))
            .into_iter()
            .enumerate()
        {
            line.store_partial(&mut lines[i * line_len..][..len]);
        }
        return;
    }
    let lines = lines.as_mut_ptr();
    let mut x = 0;
    loop {
        // SAFETY: four columns from `x` on lie in all rows and lines, as was asserted.
        unsafe {
            let columns = rows.map(|row| F32x4::load_ptr(row.as_ptr().add(x)));
            for (i, line) in forward(columns).into_iter().enumerate() {
                line.store_ptr(lines.add(i * line_len + x));
            }
        }
        if x + LANES >= len {
            return;
        }
        // The last columns may be computed twice.
        x = (x + LANES).min(len - LANES);
    }
}

/// Transforms `P` lines across, four tiles together; point after point goes to `out`, `step` apart.
#[inline(never)]
fn transform_across<const P: usize>(lines: &[f32], line_len: usize, tiles: usize, out: &mut [f32], step: usize) {
    let tile_len = P - 2;
    let last = tiles.next_multiple_of(LANES) - LANES;
    assert!(lines.len() >= P * line_len && line_len >= last * tile_len + (tile_len + 1) * LANES);
    assert!(out.len() >= (P * P - 1) * step + last + LANES);
    let (lines, out) = (lines.as_ptr(), out.as_mut_ptr());
    for tile in (0..tiles).step_by(LANES) {
        for i in 0..P {
            // SAFETY: three or five vectors of each line and the four places of each point exist, as was asserted.
            unsafe {
                let line = lines.add(i * line_len + tile * tile_len);
                let load = |column: usize| F32x4::load_ptr(line.add(column));
                let mut x = [F32x4::zero(); P];
                if P == 4 {
                    let [a, b, c, d] = [0, 4, 2, 6].map(load);
                    x[..2].copy_from_slice(&F32x4::unzip(a, b));
                    x[2..].copy_from_slice(&F32x4::unzip(c, d));
                } else {
                    let [a, b, c, d, e] = [0, 4, 8, 12, 16].map(load);
                    x[..4].copy_from_slice(&F32x4::transpose([a, b, c, d]));
                    x[4..].copy_from_slice(&F32x4::transpose([b, c, d, e])[..2]);
                }
                for (j, value) in forward(x).into_iter().enumerate() {
                    value.store_ptr(out.add((i * P + j) * step + tile));
                }
            }
        }
    }
}

/// The outputs of a tile in four channels, from points that are `step` apart.
///
/// # Safety
/// Four values are readable at each point.
#[inline(always)]
unsafe fn inverse<const T: usize, const P: usize>(points: *const f32, step: usize, bias: F32x4) -> [[F32x4; T]; T] {
    let mut down = [[F32x4::zero(); P]; T];
    for j in 0..P {
        // SAFETY: the caller's promise.
        let column: [F32x4; P] = std::array::from_fn(|i| unsafe { F32x4::load_ptr(points.add((i * P + j) * step)) });
        for (row, value) in down.iter_mut().zip(backward::<T, P>(column)) {
            row[j] = value;
        }
    }
    down.map(|row| backward::<T, P>(row).map(|value| value + bias))
}

/// Tiles at a border.
struct Edge {
    place: usize,
    columns: usize,
    channels: usize,
    row_len: usize,
    positions: usize,
}

/// Stores what exists of tiles at a border: rows of four columns.
///
/// # Safety
/// As [`Winograd::multiply`].
#[inline(never)]
unsafe fn store_edge(rows: &[[F32x4; LANES]], at: &Edge, out: *mut f32, epilogue: &Epilogue, in_registers: bool) {
    for (y, columns) in rows.iter().enumerate() {
        let lanes = F32x4::transpose(*columns);
        for (channel, values) in lanes.into_iter().enumerate().take(at.channels) {
            let place = at.place + channel * at.positions + y * at.row_len;
            let mut values = values.to_array();
            if in_registers {
                let steps = Epilogue {
                    bias: Bias::None,
                    residual: epilogue.residual.map(|residual| &residual[place..]),
                    ..*epilogue
                };
                steps.apply_registers(0, 0, 0, &mut values[..at.columns]);
            }
            // SAFETY: so many columns of this row exist.
            unsafe { std::slice::from_raw_parts_mut(out.add(place), at.columns) }
                .copy_from_slice(&values[..at.columns]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{tests::reference, volume};
    use super::*;
    use crate::cpu::epilogue::{Clamp, RowProgram};
    use crate::cpu::testing::{Rng, assert_close, assert_same_bits};

    struct AddPosition;
    impl RowProgram for AddPosition {
        fn apply(&self, row: usize, col: usize, values: &mut [f32]) {
            for (index, value) in values.iter_mut().enumerate() {
                *value += (row * 3 + col + index) as f32 * 0.01;
            }
        }
    }

    fn image(batch: usize, groups: usize, channels: [usize; 2], size: [usize; 2], pads: [usize; 4]) -> ConvParams {
        ConvParams {
            batch,
            in_channels: channels[0] * groups,
            out_channels: channels[1] * groups,
            groups,
            input: [1, size[0], size[1]],
            kernel: [1, 3, 3],
            strides: [1; 3],
            dilations: [1; 3],
            pads_begin: [0, pads[0], pads[1]],
            pads_end: [0, pads[2], pads[3]],
        }
    }

    fn run(
        plan: &Winograd,
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
        let (mut rng, threads) = (Rng::new(31), Threads::eager(3));
        for round in 0..150 {
            let channels = if round % 10 == 0 {
                [rng.size(1, 6), rng.size(60, 140)]
            } else {
                [rng.size(1, 13), rng.size(1, 13)]
            };
            let size = [rng.size(1, 27), rng.size(1, 27)];
            let pads = std::array::from_fn(|_| rng.size(0, 2));
            let params = image(rng.size(1, 2), rng.size(1, 2), channels, size, pads);
            if volume(params.output()) == 0 {
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
            let blocks = [1, 40 * 36 * channels[0], BLOCK_LEN];
            for (tile, block_len) in [2, 4].into_iter().flat_map(|tile| blocks.map(|len| (tile, len))) {
                let plan = Winograd::with_block(&params, tile, block_len).unwrap();
                let actual = run(&plan, &params, &input, &weights, &epilogue, &Threads::SINGLE);
                let what = format!("{params:?} in blocks of {:?} tiles of {tile}", plan.block);
                assert_close(&actual, &expected, 2e-5, &what);
                let shared = run(&plan, &params, &input, &weights, &epilogue, &threads);
                assert_same_bits(&shared, &actual, &what);
            }
        }
    }

    #[test]
    fn the_error_of_deep_sums_is_as_stated() {
        let mut rng = Rng::new(32);
        let params = image(1, 1, [512, 8], [14, 14], [1; 4]);
        let (input, weights) = (rng.vec(params.input_len()), rng.vec(params.weights_len()));
        let magnitude = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<f32>>();
        let expected = reference(&params, &input, &weights);
        let magnitudes = reference(&params, &magnitude(&input), &magnitude(&weights));
        for tile in [2, 4] {
            let plan = Winograd::with_block(&params, tile, BLOCK_LEN).unwrap();
            let actual = run(&plan, &params, &input, &weights, &Epilogue::none(), &Threads::SINGLE);
            let error = actual
                .iter()
                .zip(&expected)
                .zip(&magnitudes)
                .map(|((a, e), m)| (a - e).abs() / m);
            let worst = error.fold(0.0, f32::max);
            assert!(worst < 3e-7, "{worst:e}");
        }
    }

    #[test]
    fn shapes_are_chosen_by_what_pays() {
        let chosen =
            |channels, size| Winograd::new(&image(1, 1, channels, [size; 2], [1; 4])).map_or(0, |plan| plan.tile);
        assert_eq!(
            [chosen([64, 64], 56), chosen([256, 256], 14), chosen([512, 512], 8)],
            [4, 2, 2]
        );
        assert_eq!(
            [chosen([3, 64], 56), chosen([256, 2], 56), chosen([512, 512], 7)],
            [0; 3]
        );
    }
}
