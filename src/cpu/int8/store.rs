//! What becomes of integer sums on the way to the output: a bias, the scale to f32, the epilogue, and bytes again.

use super::{
    Finish,
    quantize::{Quantization, quantize},
};
use crate::cpu::epilogue::{Bias, Epilogue};

/// Values for all outputs, or for each row or column.
#[derive(Clone, Copy, Debug)]
pub enum Per<'a, T> {
    One(T),
    Row(&'a [T]),
    Column(&'a [T]),
}

/// Where the results go. Rows of the output follow each other.
#[derive(Debug)]
pub enum Target<'a> {
    /// The sums themselves.
    Sums(&'a mut [i32]),
    /// Scaled, after the epilogue.
    Floats(&'a mut [f32]),
    /// The same, quantised.
    Bytes(&'a mut [u8], Quantization),
}

/// A target that several threads write parts of.
#[derive(Clone, Copy)]
enum Place {
    Sums(*mut i32),
    Floats(*mut f32),
    Bytes(*mut u8, Quantization),
}

/// The steps in the order they happen: bias, scale, epilogue, quantisation.
pub struct Store<'a> {
    target: Place,
    len: usize,
    row_len: usize,
    bias: Per<'a, i32>,
    scale: Per<'a, f32>,
    epilogue: &'a Epilogue<'a>,
    /// The row of the whole that this part's row 0 is.
    first_row: usize,
    /// The row that `bias` and `scale` by row begin with.
    first_channel: usize,
}

// SAFETY: the target is borrowed for as long as the value lives, and kernels hand over each of its elements once.
unsafe impl Sync for Store<'_> {}

impl<'a> Store<'a> {
    /// The steps for an output whose rows are `row_len` long.
    pub fn new(
        target: Target<'a>,
        row_len: usize,
        bias: Per<'a, i32>,
        scale: Per<'a, f32>,
        epilogue: &'a Epilogue<'a>,
    ) -> Store<'a> {
        let (target, len) = match target {
            Target::Sums(out) => (Place::Sums(out.as_mut_ptr()), out.len()),
            Target::Floats(out) => (Place::Floats(out.as_mut_ptr()), out.len()),
            Target::Bytes(out, quantization) => (Place::Bytes(out.as_mut_ptr(), quantization), out.len()),
        };
        Store {
            target,
            len,
            row_len,
            bias,
            scale,
            epilogue,
            first_row: 0,
            first_channel: 0,
        }
    }

    /// The same for a part whose row 0 is row `first_row`, the row `first_channel` of what is given by row.
    pub fn part(&self, first_row: usize, first_channel: usize) -> Store<'a> {
        Store {
            first_row,
            first_channel,
            ..*self
        }
    }
}

impl Finish for Store<'_> {
    fn finish(&self, row: usize, column: usize, sums: &mut [i32]) {
        let channel = self.first_channel + row;
        let row = self.first_row + row;
        let end = column + sums.len();
        assert!(
            end <= self.row_len && (row + 1) * self.row_len <= self.len,
            "sums beyond the output"
        );
        match self.bias {
            Per::One(0) => {}
            Per::One(bias) => sums.iter_mut().for_each(|sum| *sum = sum.wrapping_add(bias)),
            Per::Row(bias) => {
                let bias = bias[channel];
                sums.iter_mut().for_each(|sum| *sum = sum.wrapping_add(bias));
            }
            Per::Column(bias) => {
                let pairs = sums.iter_mut().zip(&bias[column..end]);
                pairs.for_each(|(sum, &bias)| *sum = sum.wrapping_add(bias));
            }
        }
        let start = row * self.row_len + column;
        match self.target {
            Place::Sums(out) => {
                // SAFETY: the row and its columns lie in the output, as asserted, and are handed over once.
                let out = unsafe { std::slice::from_raw_parts_mut(out.add(start), sums.len()) };
                out.copy_from_slice(sums);
            }
            Place::Floats(out) => {
                // SAFETY: as above.
                let out = unsafe { std::slice::from_raw_parts_mut(out.add(start), sums.len()) };
                self.scale(channel, column, sums, out);
                self.epilogue(channel, row, column, out);
            }
            Place::Bytes(out, quantization) => {
                let floats: &mut [f32] = bytemuck::cast_slice_mut(sums);
                for (index, float) in floats.iter_mut().enumerate() {
                    *float = float.to_bits() as i32 as f32 * self.factor(channel, column + index);
                }
                self.epilogue(channel, row, column, floats);
                // SAFETY: as above.
                let out = unsafe { std::slice::from_raw_parts_mut(out.add(start), floats.len()) };
                quantize(floats, quantization, out);
            }
        }
    }
}

impl Store<'_> {
    #[inline(always)]
    fn factor(&self, channel: usize, column: usize) -> f32 {
        match self.scale {
            Per::One(scale) => scale,
            Per::Row(scales) => scales[channel],
            Per::Column(scales) => scales[column],
        }
    }

    #[inline(always)]
    fn scale(&self, channel: usize, column: usize, sums: &[i32], out: &mut [f32]) {
        match self.scale {
            Per::Column(scales) => {
                let factors = &scales[column..column + sums.len()];
                let sums = sums.iter().zip(factors);
                out.iter_mut()
                    .zip(sums)
                    .for_each(|(out, (&sum, factor))| *out = sum as f32 * factor);
            }
            _ => {
                let factor = self.factor(channel, column);
                out.iter_mut()
                    .zip(sums)
                    .for_each(|(out, &sum)| *out = sum as f32 * factor);
            }
        }
    }

    fn epilogue(&self, channel: usize, row: usize, column: usize, values: &mut [f32]) {
        let bias = match self.epilogue.bias {
            Bias::PerRow(bias) => Bias::PerRow(&bias[channel..]),
            other => other,
        };
        let epilogue = Epilogue {
            bias,
            ..self.epilogue.from_row(row, self.row_len)
        };
        epilogue.apply(0, column, self.row_len, values);
    }
}
