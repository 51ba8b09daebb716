//! Direct depthwise convolution: one input channel per group. Each plane is copied once into a zero-padded plane whose
//! rows are split by the column stride's phase, so that any stride reads contiguous vectors and no tap checks a border.

use super::{ConvParams, positioned, volume};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::simd::{F32x4, LANES};

/// Columns computed together: two vectors.
const STEP: usize = 2 * LANES;
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
        let rows = out_h.saturating_sub(1) * params.strides[1] + kernel_h.saturating_sub(1) * dilation_h + 1;
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
        }
    }

    pub fn scratch_len(&self) -> usize {
        self.rows * self.row_len
    }

    /// Sizes were checked by the caller, except for weights and scratch.
    pub fn run(
        &self,
        params: &ConvParams,
        input: &[f32],
        weights: &[f32],
        output: &mut [f32],
        scratch: &mut [f32],
        epilogue: &Epilogue,
    ) {
        let plane = &mut scratch[..self.scratch_len()];
        let weights = &weights[..params.out_channels * self.taps.len()];
        let [_, out_h, out_w] = params.output();
        let positions = out_h * out_w;
        let multiplier = params.out_channels / params.groups;
        plane.fill(0.0);
        for channel in 0..params.batch * params.in_channels {
            self.fill_plane(params, &input[channel * volume(params.input)..], plane);
            for copy in 0..multiplier {
                let row = channel * multiplier + copy;
                let out_channel = row % params.out_channels;
                let epilogue = positioned(epilogue, row, out_channel, positions);
                let weights = &weights[out_channel * self.taps.len()..][..self.taps.len()];
                let output = &mut output[row * positions..(row + 1) * positions];
                let rows_together = SEGMENT.div_ceil(out_w);
                for (block, lines) in output.chunks_mut(rows_together * out_w).enumerate() {
                    let first = block * rows_together;
                    for (y, line) in lines.chunks_exact_mut(out_w).enumerate() {
                        let start = (first + y) * params.strides[1] * self.row_len;
                        self.line(&plane[start..], weights, line);
                    }
                    epilogue.apply(0, first * out_w, positions, lines);
                }
            }
        }
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
                    target[..len].copy_from_slice(&line[..len]);
                } else {
                    for (value, &from) in target.iter_mut().zip(line[first..].iter().step_by(stride)) {
                        *value = from;
                    }
                }
            }
        }
    }

    /// One line of the output; `plane` begins at the line's first padded row.
    fn line(&self, plane: &[f32], weights: &[f32], line: &mut [f32]) {
        let last_tap = self.taps.last().copied().unwrap_or(0);
        assert!(
            last_tap + line.len().next_multiple_of(STEP) <= plane.len(),
            "the padded plane is too short"
        );
        for (step, out) in line.chunks_mut(STEP).enumerate() {
            let mut sums = [F32x4::zero(); 2];
            for (&tap, &weight) in self.taps.iter().zip(weights) {
                let weight = F32x4::splat(weight);
                for (v, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the last tap is the largest, and with it the last whole step of the line lies in the
                    // plane, as was asserted.
                    let values = unsafe { F32x4::load_ptr(plane.as_ptr().add(step * STEP + v * LANES + tap)) };
                    *sum = values.mul_add(weight, *sum);
                }
            }
            if let [a, b] = out.as_chunks_mut::<LANES>().0 {
                sums[0].store(a);
                sums[1].store(b);
            } else {
                let cut = out.len().min(LANES);
                let (low, high) = out.split_at_mut(cut);
                sums[0].store_partial(low);
                sums[1].store_partial(high);
            }
        }
    }
}
