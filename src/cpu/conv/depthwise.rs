//! Depthwise convolution, one input channel per group, and others with so few outputs per group that a product would
//! leave most of its tile unused. Bands of rows are copied into zero-padded rows that stay in the
//! first-level cache, each split by the column stride's phase, so that any stride reads contiguous vectors and no tap
//! checks a border. Of small planes several are copied at a time: what was just written is slow to read. A tile of eight
//! vectors of outputs stays in registers over all taps, whatever the kernel, stride and dilation.

mod three;

use std::ops::Range;

use super::{ConvParams, positioned, volume};
use crate::cpu::epilogue::{Bias, Clamp, Epilogue};
use crate::cpu::simd::{F32x4, LANES, copy_short};
use crate::cpu::threads::{Disjoint, PerThread, Threads};
use three::Three;

/// How many padded values are filled at a time: half of a small first-level cache.
const BAND: usize = 4096;
/// The most padded values of a group of several channels.
const MOST: usize = 1 << 16;

#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    /// The way of planes whose filters have one of their own; the rest of the plan then goes unused.
    three: Option<Three>,
    tile: Tile,
    /// The length of one phase of a padded row.
    phase_len: usize,
    /// The length of a padded row: all its phases.
    row_len: usize,
    /// How many rows of outputs are computed from one filling.
    band: usize,
    /// The padded rows of a band.
    rows: usize,
    /// How many groups are filled at a time; 1 unless a band is a whole plane.
    together: usize,
    /// The channels of a group.
    channels: usize,
    /// Where each tap of the kernel reads, relative to the output column in the first padded row of the first channel.
    taps: Box<[usize]>,
    /// For each tile's rows of outputs the taps that are inside the image for one of them; of several channels all are taken.
    taken: Box<[Range<usize>]>,
}

/// The outputs that are computed together: rows × vectors, always eight vectors.
#[derive(Clone, Copy, Debug)]
enum Tile {
    Square,
    /// For planes of two rows.
    Flat,
    /// For planes of one row.
    Line,
}

impl Tile {
    /// Rows, and columns.
    fn size(self) -> (usize, usize) {
        match self {
            Self::Square => (4, 2 * LANES),
            Self::Flat => (2, 4 * LANES),
            Self::Line => (1, 8 * LANES),
        }
    }
}

impl Depthwise {
    /// Whether the convolution is computed this way: at most two-dimensional, with few outputs per group.
    pub fn pays(params: &ConvParams) -> bool {
        let flat =
            params.kernel[0] == 1 && params.input[0] == 1 && params.pads_begin[0] == 0 && params.pads_end[0] == 0;
        let (channels, outputs) = (params.in_channels / params.groups, params.out_channels / params.groups);
        if channels <= 1 {
            // Many filters on one channel are a product: each column that is gathered serves them all.
            return flat && channels == 1 && outputs < 8;
        }
        let extent = |axis: usize, outputs: usize| {
            let reach = params.kernel[axis].saturating_mul(params.dilations[axis]);
            outputs.saturating_mul(params.strides[axis]).saturating_add(reach)
        };
        let row = extent(2, params.output()[2].saturating_add(8 * LANES));
        let padded = channels.saturating_mul(row).saturating_mul(extent(1, 4));
        flat && outputs <= 4 && volume(params.kernel) > 1 && padded <= MOST
    }

    pub fn new(params: &ConvParams) -> Self {
        let [_, kernel_h, kernel_w] = params.kernel;
        let [_, dilation_h, dilation_w] = params.dilations;
        let [_, stride_h, stride] = params.strides;
        let [_, out_h, out_w] = params.output();
        let channels = params.in_channels / params.groups;
        // The lines of a kernel that some of `rows` lines of outputs has inside the image.
        let levels = |top: usize, rows: usize| {
            let (low, high) = (top * stride_h, (top + rows).min(out_h).saturating_sub(1) * stride_h);
            let (height, pad) = (params.input[1], params.pads_begin[1]);
            let end = (height + pad).saturating_sub(low).div_ceil(dilation_h).min(kernel_h);
            let first = pad.saturating_sub(high).div_ceil(dilation_h).min(end);
            // The taps of several channels do not follow one another.
            if channels == 1 { first..end } else { 0..kernel_h }
        };
        let work = |tile: Tile| {
            let (rows, width) = tile.size();
            let levels = (0..out_h).step_by(rows).map(|top| levels(top, rows).len());
            // Lines of the same rows next to one another are faster by this much.
            let factor = if matches!(tile, Tile::Square) { 3 } else { 4 };
            levels.sum::<usize>() * out_w.div_ceil(width) * factor
        };
        let tile = [Tile::Square, Tile::Flat, Tile::Line]
            .into_iter()
            .min_by_key(|&tile| work(tile));
        let tile = tile.unwrap_or(Tile::Square);
        let (tile_rows, width) = tile.size();
        let levels = (0..out_h).step_by(tile_rows).map(|top| {
            let levels = levels(top, tile_rows);
            levels.start * kernel_w..levels.end * kernel_w
        });
        let reach = kernel_w.saturating_sub(1) * dilation_w / stride;
        // One place more when there are phases: a last column that no window takes in is copied like the others.
        let phase_len = out_w.next_multiple_of(width) + reach + usize::from(stride > 1);
        let row_len = phase_len * stride;
        let below = kernel_h.saturating_sub(1) * dilation_h + 1;
        let all = out_h.next_multiple_of(tile_rows).max(tile_rows);
        let fitting = (BAND / (row_len * channels).max(1)).saturating_sub(below) / stride_h + 1;
        let band = (fitting / tile_rows * tile_rows).clamp(tile_rows, all);
        let rows = (band - 1) * stride_h + below;
        let taps = (0..channels * kernel_h * kernel_w)
            .map(|tap| {
                let (line, x) = (tap / kernel_w, tap % kernel_w * dilation_w);
                let y = line / kernel_h * rows + line % kernel_h * dilation_h;
                y * row_len + x % stride * phase_len + x / stride
            })
            .collect();
        let len = channels * rows * row_len;
        let together = if band == all { BAND / len.max(1) } else { 1 };
        Self {
            three: Three::new(params),
            tile,
            phase_len,
            row_len,
            band,
            rows,
            together: together.clamp(1, params.groups),
            channels,
            taps,
            taken: if channels == 1 {
                levels.collect()
            } else {
                Box::default()
            },
        }
    }

    pub fn scratch_len(&self) -> usize {
        match &self.three {
            Some(three) => three.zeros_len(),
            None => self.together * self.group_len(),
        }
    }

    /// The padded values of a group.
    fn group_len(&self) -> usize {
        self.channels * self.rows * self.row_len
    }

    /// Sizes were checked by the caller, except for weights and scratch.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        params: &ConvParams,
        input: &[f32],
        weights: &[f32],
        output: &mut [f32],
        scratch: &mut [f32],
        epilogue: &Epilogue,
        threads: &Threads,
    ) {
        let weights = &weights[..params.out_channels * self.taps.len()];
        let [_, out_h, out_w] = params.output();
        let positions = out_h * out_w;
        let multiplier = params.out_channels / params.groups;
        // In registers: the bias, and the bounds unless a residual comes first.
        let early = epilogue.alpha == 1.0 && !matches!(epilogue.bias, Bias::PerColumn(_));
        let clamp = epilogue.clamp.filter(|_| early && epilogue.residual.is_none());
        let late = Epilogue {
            bias: if early { Bias::None } else { epilogue.bias },
            clamp: epilogue.clamp.filter(|_| clamp.is_none()),
            ..*epilogue
        };
        let nothing_late = early && late.clamp.is_none() && late.residual.is_none() && late.program.is_none();
        let lines_of = match self.tile {
            Tile::Square => Self::lines::<4, 2>,
            Tile::Flat => Self::lines::<2, 4>,
            Tile::Line => Self::lines::<1, 8>,
        };
        let filter_of = |row: usize| {
            let channel = row % params.out_channels;
            Filter {
                weights: &weights[channel * self.taps.len()..][..self.taps.len()],
                bias: match epilogue.bias {
                    Bias::PerRow(bias) if early => bias[channel],
                    _ => 0.0,
                },
                clamp,
            }
        };
        let output = Disjoint::new(output);
        if let Some(three) = &self.three {
            let zeros = &mut scratch[..three.zeros_len()];
            zeros.fill(0.0);
            let zeros = &*zeros;
            let split = threads.split(params.batch * params.out_channels, positions * 2 + volume(params.input));
            return threads.run(split.parts, &|part| {
                for row in split.range(part.index) {
                    let image = &input[row / multiplier * volume(params.input)..];
                    // SAFETY: each row belongs to one part.
                    let plane = unsafe { output.slice(row * positions..(row + 1) * positions) };
                    three.run(image, zeros, &filter_of(row), plane);
                    if !nothing_late {
                        positioned(&late, row, row % params.out_channels, positions).apply(0, 0, positions, plane);
                    }
                }
            });
        }
        let padded = PerThread::new(scratch, self.scratch_len());
        // What is cut are bands of the groups of all images, one after another.
        let bands = out_h.div_ceil(self.band);
        let cost = multiplier * positions * self.taps.len() / 8 + self.channels * volume(params.input);
        let split = threads.split(params.batch * params.groups * bands, cost / bands);
        threads.run(split.parts, &|part| {
            // SAFETY: the piece of the thread that runs this part.
            let padded = unsafe { padded.of(part) };
            padded.fill(0.0);
            let items = split.range(part.index);
            for first in items.clone().step_by(self.together) {
                // Several groups of one band each, or one band of one group.
                let groups = first / bands..(items.end.min(first + self.together) - 1) / bands + 1;
                let top = first % bands * self.band;
                let channels = groups.start * self.channels..groups.end * self.channels;
                for (channel, padded) in channels.zip(padded.chunks_exact_mut(self.rows * self.row_len)) {
                    self.fill(params, &input[channel * volume(params.input)..], top, padded);
                }
                for row in groups.start * multiplier..groups.end * multiplier {
                    let out_channel = row % params.out_channels;
                    let filter = filter_of(row);
                    let lines = row * positions + top * out_w..row * positions + out_h.min(top + self.band) * out_w;
                    // SAFETY: each band of a row belongs to one band of one group, and each of those to one part.
                    let lines = unsafe { output.slice(lines) };
                    let padded = &padded[(row / multiplier - groups.start) * self.group_len()..];
                    lines_of(
                        self,
                        padded,
                        params.strides[1] * self.row_len,
                        &filter,
                        lines,
                        out_w,
                        top,
                    );
                    if !nothing_late {
                        positioned(&late, row, out_channel, positions).apply(0, top * out_w, positions, lines);
                    }
                }
            }
        });
    }

    /// Copies the rows of a plane of the input that the band from output row `top` on reads. Borders at the sides keep
    /// the zeros that they had.
    #[inline(never)]
    fn fill(&self, params: &ConvParams, input: &[f32], top: usize, padded: &mut [f32]) {
        let [_, in_h, in_w] = params.input;
        let [_, pad_h, pad_w] = params.pads_begin;
        let [_, stride_h, stride] = params.strides;
        let first = top * stride_h;
        let start = pad_h.saturating_sub(first).min(self.rows);
        let end = (in_h + pad_h).saturating_sub(first).clamp(start, self.rows);
        // Rows outside are never written to when a band is a whole plane.
        if self.band < params.output()[1] {
            padded[..start * self.row_len].fill(0.0);
            padded[end * self.row_len..].fill(0.0);
        }
        let place = |x: usize| (pad_w + x) % stride * self.phase_len + (pad_w + x) / stride;
        if in_w == 0 || start == end {
            return;
        }
        let lines = &input[(first + start - pad_h) * in_w..][..(end - start) * in_w];
        let target = &mut padded[start * self.row_len..end * self.row_len];
        let (even, odd) = (place(0), place(1));
        assert!(stride != 2 || even.max(odd) + in_w.div_ceil(2) <= self.row_len);
        for (line, target) in lines.chunks_exact(in_w).zip(target.chunks_exact_mut(self.row_len)) {
            match stride {
                1 => copy_short(line, &mut target[pad_w..pad_w + in_w]),
                2 if in_w >= 2 * LANES => {
                    // The last vectors begin early enough to end with the line, or one before.
                    let last = (in_w - 2 * LANES) & !1;
                    let mut x = 0;
                    loop {
                        // SAFETY: `x` is at most `last`, behind which eight values lie in the line, and half as many places
                        // in each phase of the row, as was asserted.
                        unsafe {
                            let from = line.as_ptr().add(x);
                            let (a, b) = (F32x4::load_ptr(from), F32x4::load_ptr(from.add(LANES)));
                            let [a, b] = F32x4::unzip(a, b);
                            a.store_ptr(target.as_mut_ptr().add(even + x / 2));
                            b.store_ptr(target.as_mut_ptr().add(odd + x / 2));
                        }
                        if x == last {
                            break;
                        }
                        x = (x + 2 * LANES).min(last);
                    }
                    if in_w % 2 == 1 {
                        target[place(in_w - 1)] = line[in_w - 1];
                    }
                }
                _ => {
                    for (x, &value) in line.iter().enumerate() {
                        target[place(x)] = value;
                    }
                }
            }
        }
    }

    /// Lines of the output, `out_w` long; `padded` begins at the first one's first padded row, and those of further lines
    /// are `step` apart. `R` lines of `V` vectors are computed together; the first is line `top` of the plane.
    #[inline(never)]
    fn lines<const R: usize, const V: usize>(
        &self,
        padded: &[f32],
        step: usize,
        filter: &Filter,
        lines: &mut [f32],
        out_w: usize,
        top: usize,
    ) {
        let width = V * LANES;
        let rows = lines.len() / out_w;
        let last_tap = self.taps.last().copied().unwrap_or(0);
        assert!(
            last_tap + (rows.next_multiple_of(R) - 1) * step + out_w.next_multiple_of(width) <= padded.len(),
            "the padded rows are too short"
        );
        for row in (0..rows).step_by(R) {
            let taken = self.taken.get((top + row) / R).cloned().unwrap_or(0..self.taps.len());
            let (taps, weights) = (&self.taps[taken.clone()], &filter.weights[taken]);
            let mut x = 0;
            while x < out_w {
                // The last whole step begins early enough to end with the line.
                let place = if out_w >= width { x.min(out_w - width) } else { 0 };
                // SAFETY: the last tap is the largest, and with it the last step of the last row lies in the padded rows,
                // as was asserted.
                let sums = unsafe {
                    let at = padded.as_ptr().add(row * step + place);
                    tile::<R, V>(at, step, taps, weights, filter)
                };
                // A line shorter than the vectors is written beyond its end, which the next line then mends.
                let start = row * out_w + place;
                let whole = row + R <= rows && start + (R - 1) * out_w + width <= lines.len();
                for (r, sums) in sums.iter().enumerate() {
                    let at = start + r * out_w;
                    if !whole {
                        if row + r >= rows {
                            break;
                        }
                        if at + width > lines.len() {
                            store_last(sums, &mut lines[at..]);
                            continue;
                        }
                    }
                    for (v, sum) in sums.iter().enumerate() {
                        // SAFETY: there are places for all vectors, as was just seen.
                        unsafe { sum.store_ptr(lines.as_mut_ptr().add(at + v * LANES)) };
                    }
                }
                x += width;
            }
        }
    }
}

/// Stores as many values as there are places.
#[inline(never)]
fn store_last(sums: &[F32x4], out: &mut [f32]) {
    for (out, sum) in out.chunks_mut(LANES).zip(sums) {
        match out.as_chunks_mut::<LANES>().0 {
            [out] => sum.store(out),
            _ => sum.store_partial(out),
        }
    }
}

/// The filter of one channel, and what is done to its sums in registers.
struct Filter<'a> {
    weights: &'a [f32],
    bias: f32,
    clamp: Option<Clamp>,
}

/// `R` rows of `V` vectors. Each value is loaded for each tap that it serves: loading it once for all rows of the tile
/// takes V8 more instructions for moving registers about than it saves.
///
/// # Safety
/// At every tap, `V` vectors of the rows, which are `step` apart, are readable.
#[inline(always)]
unsafe fn tile<const R: usize, const V: usize>(
    padded: *const f32,
    step: usize,
    taps: &[usize],
    weights: &[f32],
    filter: &Filter,
) -> [[F32x4; V]; R] {
    let mut sums = [[F32x4::splat(filter.bias); V]; R];
    for (&tap, &weight) in taps.iter().zip(weights) {
        let weight = F32x4::splat(weight);
        for (row, sums) in sums.iter_mut().enumerate() {
            let row = padded.wrapping_add(row * step + tap);
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *sum = unsafe { F32x4::load_ptr(row.add(v * LANES)) }.mul_add(weight, *sum);
            }
        }
    }
    if let Some(clamp) = filter.clamp {
        let (min, max) = (F32x4::splat(clamp.min), F32x4::splat(clamp.max));
        sums = sums.map(|row| row.map(|sum| sum.at_least(min).at_most(max)));
    }
    sums
}
