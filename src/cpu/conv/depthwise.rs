//! Depthwise convolution: one input channel per group. Each plane is copied once into a zero-padded plane whose
//! rows are split by the column stride's phase, so that any stride reads contiguous vectors and no tap checks a border.
//! Four rows by two vectors of outputs stay in registers over all taps, whatever the kernel, stride and dilation: nine
//! loads for eight multiply-adds. (One row at a time took three loads for two, and ran at a third of the speed.)

use super::{ConvParams, positioned, volume};
use crate::cpu::epilogue::{Bias, Clamp, Epilogue};
use crate::cpu::simd::{F32x4, LANES, copy_short};
use crate::cpu::threads::{Disjoint, PerThread, Threads};

/// Columns computed together: two vectors.
const STEP: usize = 2 * LANES;
/// Rows computed together.
const ROWS: usize = 4;
/// How many fresh values are handed to the epilogue at once, at least.
const SEGMENT: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    /// The length of one phase of a padded row.
    phase_len: usize,
    /// The length of a padded row: all its phases.
    row_len: usize,
    /// The rows of the padded plane.
    rows: usize,
    /// Where each tap of the kernel reads, relative to the output column in the padded plane's first row.
    taps: Box<[usize]>,
    /// Whether the taps of a row of the kernel are neighbours in the padded plane.
    neighbours: bool,
}

impl Depthwise {
    /// Whether the convolution is at most two-dimensional.
    pub fn supports(params: &ConvParams) -> bool {
        params.kernel[0] == 1 && params.input[0] == 1 && params.pads_begin[0] == 0 && params.pads_end[0] == 0
    }

    pub fn new(params: &ConvParams) -> Self {
        let [_, kernel_h, kernel_w] = params.kernel;
        let [_, dilation_h, dilation_w] = params.dilations;
        let stride = params.strides[2];
        let [_, out_h, out_w] = params.output();
        let reach = kernel_w.saturating_sub(1) * dilation_w / stride;
        let phase_len = out_w.next_multiple_of(STEP) + reach;
        let row_len = phase_len * stride;
        let last_row = out_h.next_multiple_of(ROWS).saturating_sub(1);
        let rows = last_row * params.strides[1] + kernel_h.saturating_sub(1) * dilation_h + 1;
        let taps = (0..kernel_h * kernel_w)
            .map(|tap| {
                let (y, x) = (tap / kernel_w * dilation_h, tap % kernel_w * dilation_w);
                y * row_len + x % stride * phase_len + x / stride
            })
            .collect();
        Self {
            phase_len,
            row_len,
            rows,
            taps,
            neighbours: stride == 1 && dilation_w == 1,
        }
    }

    pub fn scratch_len(&self) -> usize {
        self.rows * self.row_len
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
        let lines_of = match params.kernel[2] {
            3 if self.neighbours => Self::lines::<3>,
            5 if self.neighbours => Self::lines::<5>,
            _ => Self::lines::<0>,
        };
        let planes = PerThread::new(scratch, self.scratch_len());
        let output = Disjoint::new(output);
        let cost = multiplier * positions * self.taps.len() / 8 + volume(params.input);
        let split = threads.split(params.batch * params.in_channels, cost);
        threads.run(split.parts, &|part| {
            // SAFETY: the piece of the thread that runs this part.
            let plane = unsafe { planes.of(part) };
            plane.fill(0.0);
            for channel in split.range(part.index) {
                self.fill_plane(params, &input[channel * volume(params.input)..], plane);
                for copy in 0..multiplier {
                    let row = channel * multiplier + copy;
                    let out_channel = row % params.out_channels;
                    let late = positioned(&late, row, out_channel, positions);
                    let filter = Filter {
                        weights: &weights[out_channel * self.taps.len()..][..self.taps.len()],
                        bias: match epilogue.bias {
                            Bias::PerRow(bias) if early => bias[out_channel],
                            _ => 0.0,
                        },
                        clamp,
                    };
                    // SAFETY: each row belongs to one channel, and each channel to one part.
                    let output = unsafe { output.slice(row * positions..(row + 1) * positions) };
                    let rows_together = SEGMENT.div_ceil(out_w).next_multiple_of(ROWS);
                    for (block, lines) in output.chunks_mut(rows_together * out_w).enumerate() {
                        let first = block * rows_together;
                        for (group, lines) in lines.chunks_mut(ROWS * out_w).enumerate() {
                            let start = (first + group * ROWS) * params.strides[1] * self.row_len;
                            lines_of(
                                self,
                                &plane[start..],
                                params.strides[1] * self.row_len,
                                &filter,
                                lines,
                                out_w,
                            );
                        }
                        if !nothing_late {
                            late.apply(0, first * out_w, positions, lines);
                        }
                    }
                }
            }
        });
    }

    /// Copies a plane of the input to its places. Borders keep the zeros that they had.
    fn fill_plane(&self, params: &ConvParams, input: &[f32], plane: &mut [f32]) {
        let [_, in_h, in_w] = params.input;
        let [_, pad_h, pad_w] = params.pads_begin;
        let stride = params.strides[2];
        if in_w == 0 {
            return;
        }
        let lines = input.chunks_exact(in_w).take(in_h);
        for (line, target) in lines.zip(plane.chunks_exact_mut(self.row_len).skip(pad_h)) {
            for (phase, target) in target.chunks_exact_mut(self.phase_len).enumerate() {
                // The first column of the input that falls into this phase, and its place there.
                let first = (phase + stride - pad_w % stride) % stride;
                let place = (first + pad_w) / stride;
                if first >= in_w || place >= target.len() {
                    continue;
                }
                let target = &mut target[place..];
                if stride == 1 {
                    let len = target.len().min(in_w);
                    copy_short(&line[..len], &mut target[..len]);
                    continue;
                }
                let line = &line[first..];
                let mut done = 0;
                if stride == 2 {
                    // Two vectors, the second three further on, hold four values of one phase.
                    while done + LANES <= target.len() && 2 * done + STEP - 1 <= line.len() {
                        let (a, b) = (
                            F32x4::load(&line[2 * done..]),
                            F32x4::load(&line[2 * done + LANES - 1..]),
                        );
                        F32x4::even_odd(a, b).store(&mut target[done..]);
                        done += LANES;
                    }
                }
                let line = line.get(stride * done..).unwrap_or(&[]);
                for (value, &from) in target[done..].iter_mut().zip(line.iter().step_by(stride)) {
                    *value = from;
                }
            }
        }
    }

    /// Up to [`ROWS`] lines of the output, `out_w` long; `plane` begins at the first one's first padded row, and the rows
    /// of further lines are `step` apart. Where `K` is not 0, the kernel's rows are `K` neighbouring columns.
    #[inline(never)]
    fn lines<const K: usize>(&self, plane: &[f32], step: usize, filter: &Filter, lines: &mut [f32], out_w: usize) {
        let last_tap = self.taps.last().copied().unwrap_or(0);
        assert!(
            last_tap + (ROWS - 1) * step + out_w.next_multiple_of(STEP) <= plane.len(),
            "the padded plane is too short"
        );
        let rows = lines.len() / out_w;
        let mut x = 0;
        while x < out_w {
            // The last whole step begins early enough to end with the line.
            let place = if out_w >= STEP { x.min(out_w - STEP) } else { x };
            // SAFETY: the last tap is the largest, and with it the last step of the last row lies in the plane, as was
            // asserted.
            let sums = unsafe { tile::<K>(plane.as_ptr().add(place), step, &self.taps, filter) };
            for (row, sums) in sums.iter().enumerate() {
                if row >= rows {
                    break;
                }
                let out = &mut lines[row * out_w + place..(row + 1) * out_w];
                if out.len() >= STEP {
                    sums[0].store(out);
                    sums[1].store(&mut out[LANES..]);
                } else {
                    let (low, high) = out.split_at_mut(out.len().min(LANES));
                    sums[0].store_partial(low);
                    sums[1].store_partial(high);
                }
            }
            x += STEP;
        }
    }
}

/// The filter of one channel, and what is done to its sums in registers.
struct Filter<'a> {
    weights: &'a [f32],
    bias: f32,
    clamp: Option<Clamp>,
}

/// [`ROWS`] rows of two vectors. Columns that are known at compile time are offsets in the loads themselves.
///
/// # Safety
/// At every tap, two vectors of the rows, which are `step` apart, are readable; where `K` is not 0, the taps come in runs
/// of `K` neighbouring places.
#[inline(always)]
unsafe fn tile<const K: usize>(plane: *const f32, step: usize, taps: &[usize], filter: &Filter) -> [[F32x4; 2]; ROWS] {
    let mut sums = [[F32x4::splat(filter.bias); 2]; ROWS];
    let together = K.max(1);
    for (taps, weights) in taps.chunks_exact(together).zip(filter.weights.chunks_exact(together)) {
        let rows: [*const f32; ROWS] = std::array::from_fn(|row| plane.wrapping_add(row * step + taps[0]));
        for column in 0..together {
            let weight = F32x4::splat(weights[column]);
            for (row, sums) in rows.iter().zip(&mut sums) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's promise.
                    let values = unsafe { F32x4::load_ptr(row.add(column + v * LANES)) };
                    *sum = values.mul_add(weight, *sum);
                }
            }
        }
    }
    if let Some(clamp) = filter.clamp {
        let (min, max) = (F32x4::splat(clamp.min), F32x4::splat(clamp.max));
        sums = sums.map(|row| row.map(|sum| sum.at_least(min).at_most(max)));
    }
    sums
}
