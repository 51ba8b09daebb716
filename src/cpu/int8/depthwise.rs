//! Direct depthwise convolution of 8-bit integers. Each plane is copied once, less its zero point, into a plane of 16-bit
//! integers with its padding, rows split by the column stride's phase; taps are multiplied two at a time.

use std::ops::Range;

use super::{ByteMatrix, Finish, number, store::Store};
use crate::cpu::{
    conv::{ConvParams, volume},
    simd::I32x4,
    threads::{PerThread, Threads},
};

/// Columns computed together.
const STEP: usize = 8;
/// How many sums are handed over at once, at least.
const SEGMENT: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    phase_len: usize,
    row_len: usize,
    rows: usize,
    /// Where pairs of taps read, relative to the output column in the plane's first row.
    taps: Box<[[usize; 2]]>,
    /// Lines of the output that are handed over together, and their length.
    lines: usize,
    out_w: usize,
}

impl Depthwise {
    pub fn supports(params: &ConvParams) -> bool {
        params.kernel[0] == 1 && params.input[0] == 1 && params.pads_begin[0] == 0 && params.pads_end[0] == 0
    }

    pub fn new(params: &ConvParams) -> Depthwise {
        let [_, kernel_h, kernel_w] = params.kernel;
        let [_, dilation_h, dilation_w] = params.dilations;
        let stride = params.strides[2];
        let [_, out_h, out_w] = params.output();
        let reach = kernel_w.saturating_sub(1) * dilation_w / stride;
        let phase_len = out_w.next_multiple_of(STEP) + reach;
        let row_len = phase_len * stride;
        let rows = out_h.saturating_sub(1) * params.strides[1] + kernel_h.saturating_sub(1) * dilation_h + 1;
        let count = kernel_h * kernel_w;
        let place = |tap: usize| {
            let (y, x) = (tap / kernel_w * dilation_h, tap % kernel_w * dilation_w);
            y * row_len + x % stride * phase_len + x / stride
        };
        // An odd last tap stands beside itself, with a weight of 0.
        let taps = (0..count)
            .step_by(2)
            .map(|tap| [place(tap), place((tap + 1).min(count - 1))]);
        Depthwise {
            phase_len,
            row_len,
            rows,
            taps: taps.collect(),
            lines: SEGMENT.div_ceil(out_w.max(1)).min(out_h.max(1)),
            out_w,
        }
    }

    /// The weights of each output channel less their zero points, two to a word.
    pub fn pack(weights: ByteMatrix<'_>, channels: usize, taps: usize) -> Box<[i32]> {
        let mut words = Vec::with_capacity(channels * taps.div_ceil(2));
        for (channel, taps) in weights.data.chunks_exact(taps.max(1)).take(channels).enumerate() {
            let zero = weights.zeros.at(channel);
            let value = |tap: Option<&u8>| tap.map_or(0, |&tap| (number(tap, weights.is_signed) - zero) as u16);
            for pair in taps.chunks(2) {
                words.push(i32::from(value(pair.first())) | i32::from(value(pair.get(1))) << 16);
            }
        }
        words.into()
    }

    fn plane_words(&self) -> usize {
        (self.rows * self.row_len).div_ceil(2)
    }

    pub fn scratch_len(&self) -> usize {
        self.plane_words() + self.lines * self.out_w + STEP
    }

    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        params: &ConvParams,
        input: &[u8],
        (is_signed, zero): (bool, i32),
        weights: &[i32],
        scratch: &mut [i32],
        store: &Store<'_>,
        threads: &Threads,
    ) {
        let [_, out_h, out_w] = params.output();
        let multiplier = params.out_channels / params.groups;
        let threads = threads.at_most(scratch.len() / self.scratch_len());
        let cost = (out_h * out_w * multiplier).saturating_mul(self.taps.len()) / 4;
        let split = threads.split(params.batch * params.in_channels, cost);
        let scratch = PerThread::new(scratch, self.scratch_len());
        threads.run(split.parts, &|part| {
            // SAFETY: the piece is this thread's own.
            let scratch = unsafe { scratch.of(part) };
            self.channels(
                params,
                split.range(part.index),
                input,
                (is_signed, zero),
                weights,
                scratch,
                store,
            );
        });
    }

    /// Some planes of the input.
    #[allow(clippy::too_many_arguments)]
    fn channels(
        &self,
        params: &ConvParams,
        channels: Range<usize>,
        input: &[u8],
        (is_signed, zero): (bool, i32),
        weights: &[i32],
        scratch: &mut [i32],
        store: &Store<'_>,
    ) {
        let (plane, sums) = scratch.split_at_mut(self.plane_words());
        let plane: &mut [i16] = bytemuck::cast_slice_mut(plane);
        let [_, out_h, out_w] = params.output();
        let multiplier = params.out_channels / params.groups;
        plane.fill(0);
        for channel in channels {
            let input = &input[channel * volume(params.input)..][..volume(params.input)];
            self.fill_plane(params, input, (is_signed, zero), plane);
            for copy in 0..multiplier {
                let row = channel * multiplier + copy;
                let out_channel = row % params.out_channels;
                let weights = &weights[out_channel * self.taps.len()..][..self.taps.len()];
                let store = store.part(row, out_channel);
                for first in (0..out_h).step_by(self.lines) {
                    let count = self.lines.min(out_h - first);
                    for line in 0..count {
                        let start = (first + line) * params.strides[1] * self.row_len;
                        self.line(&plane[start..], weights, &mut sums[line * out_w..]);
                    }
                    store.finish(0, first * out_w, &mut sums[..count * out_w]);
                }
            }
        }
    }

    /// Copies a plane of the input to its places. Borders keep the zeros that they had.
    fn fill_plane(&self, params: &ConvParams, input: &[u8], (is_signed, zero): (bool, i32), plane: &mut [i16]) {
        let [_, in_h, in_w] = params.input;
        let [_, pad_h, pad_w] = params.pads_begin;
        let stride = params.strides[2];
        if in_w == 0 {
            return;
        }
        // Signed bytes become unsigned ones that are 128 larger, and so does their zero point.
        let (flip, zero) = if is_signed { (128, zero + 128) } else { (0, zero) };
        let value = |byte: u8| i16::from(byte ^ flip) - zero as i16;
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
                    target.iter_mut().zip(line).for_each(|(to, &from)| *to = value(from));
                } else {
                    let from = line[first..].iter().step_by(stride);
                    target.iter_mut().zip(from).for_each(|(to, &from)| *to = value(from));
                }
            }
        }
    }

    /// The sums of one line, and up to seven more behind it; `plane` begins at the line's first row.
    fn line(&self, plane: &[i16], weights: &[i32], sums: &mut [i32]) {
        let furthest = self.taps.iter().flatten().copied().max().unwrap_or(0);
        let columns = self.out_w.next_multiple_of(STEP);
        assert!(
            furthest + columns <= plane.len() && columns <= sums.len(),
            "the padded plane is too short"
        );
        for step in (0..self.out_w).step_by(STEP) {
            let mut acc = [I32x4::splat(0); 2];
            for (&[a, b], &weight) in self.taps.iter().zip(weights) {
                let weight = I32x4::splat(weight);
                // SAFETY: the furthest tap's last whole step lies in the plane, as was asserted.
                let (a, b) = unsafe {
                    let at = |tap: usize| I32x4::load_ptr(plane.as_ptr().add(step + tap).cast());
                    (at(a), at(b))
                };
                acc[0] = acc[0] + a.zip_pairs_low(b).dot_pairs(weight);
                acc[1] = acc[1] + a.zip_pairs_high(b).dot_pairs(weight);
            }
            for (v, acc) in acc.into_iter().enumerate() {
                // SAFETY: the step's eight sums lie in `sums`, as was asserted.
                unsafe { acc.store_ptr(sums.as_mut_ptr().add(step + 4 * v).cast()) };
            }
        }
    }
}
