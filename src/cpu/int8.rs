//! Products and convolutions of 8-bit integers less their zero points, summed in 32 bits: `Σ (x - zx) (w - zw)`, exact on
//! every processor. Both sides are packed into panels of 32-bit words. A word holds four bytes where the engine's dot product
//! of bytes takes them as they are, and the zero points are then accounted for by the sums of rows and columns; elsewhere it
//! holds two 16-bit integers, from which the zero points have been taken. What becomes of the sums is the [`Finish`]'s.

pub mod conv;
mod depthwise;
mod pack;
pub mod quantize;
pub mod store;
mod tile;

use std::ops::Range;

pub use pack::Zeros;
use pack::{Side, pack_matrix, pack_rows};
use tile::{MR, Multiply, NR, Sums, byte_sums};

use crate::cpu::{
    gemm::GemmShape,
    simd::bytes::{ByteDot, byte_dot},
    threads::{PerThread, Threads},
};

/// Columns per block.
const NC: usize = 256;
/// Rows per block at most: the block's sums lie in the second-level cache.
const MC: usize = 64;
/// Words of a packed block of either side, which lies in the second-level cache.
const BLOCK_WORDS: usize = 1 << 16;

/// What the words of a product hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Pairs,
    Bytes(ByteDot),
}

impl Form {
    /// Words of a column or row so deep.
    fn words(self, depth: usize) -> usize {
        match self {
            Form::Pairs => depth.div_ceil(2),
            Form::Bytes(_) => depth.div_ceil(4),
        }
    }

    /// What is added to each byte of the side that is not constant, and what that does to its value.
    fn shift(self, is_signed: bool) -> (u8, i32) {
        match (self, is_signed) {
            (Form::Pairs | Form::Bytes(ByteDot::Unsigned), true) => (128, 128),
            (Form::Bytes(ByteDot::Signed | ByteDot::Seven), false) => (128, -128),
            _ => (0, 0),
        }
    }

    /// A side whose bytes are shifted, and whose zero points then are these.
    fn side(self, shift: u8, zeros: Zeros<'_>) -> Side<'_> {
        match self {
            Form::Pairs => Side::Pairs(shift, zeros),
            Form::Bytes(_) => Side::Bytes(shift),
        }
    }

    /// How tiles multiply when the weights are on the left.
    fn weights_left(self) -> Multiply {
        match self {
            Form::Pairs => Multiply::Pairs,
            Form::Bytes(ByteDot::Seven) => Multiply::RightFirst,
            Form::Bytes(_) => Multiply::LeftFirst,
        }
    }

    /// How tiles multiply when the weights are on the right.
    fn weights_right(self) -> Multiply {
        match self {
            Form::Pairs => Multiply::Pairs,
            Form::Bytes(ByteDot::Seven) => Multiply::LeftFirst,
            Form::Bytes(_) => Multiply::RightFirst,
        }
    }
}

/// A matrix of 8-bit integers as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct ByteMatrix<'a> {
    pub data: &'a [u8],
    pub is_signed: bool,
    /// One zero point for all, or for each output: a row of a left factor, a column of a right one.
    pub zeros: Zeros<'a>,
}

/// A factor of a product in the tiles' own layout, once for many runs.
#[derive(Clone, Debug)]
pub struct Weights {
    form: Form,
    words: Box<[i32]>,
    /// In form of bytes: the zero point of each output after the shift, or nothing when all are 0, …
    zeros: Box<[i32]>,
    /// … and the sum of its weights less the zero point.
    sums: Box<[i32]>,
    outputs: usize,
    depth: usize,
}

impl Weights {
    /// A right factor `[depth, outputs]`.
    pub fn right(matrix: ByteMatrix<'_>, depth: usize, outputs: usize) -> Weights {
        Weights::right_for(byte_dot(), matrix, depth, outputs)
    }

    /// A left factor `[outputs, depth]` for this dot product of bytes.
    fn left_for(dot: Option<ByteDot>, matrix: ByteMatrix<'_>, outputs: usize, depth: usize) -> Weights {
        let mut weights = Weights::empty(dot, matrix, outputs, depth, MR);
        let (shift, shifted) = weights.shifted(matrix);
        let side = weights.form.side(shift, Zeros::Each(&shifted));
        pack_rows(side, matrix.data, depth, depth, outputs, 0, &mut weights.words);
        weights.count(matrix, shifted, |output, step| output * depth + step);
        weights
    }

    fn right_for(dot: Option<ByteDot>, matrix: ByteMatrix<'_>, depth: usize, outputs: usize) -> Weights {
        let mut weights = Weights::empty(dot, matrix, outputs, depth, NR);
        let (shift, shifted) = weights.shifted(matrix);
        let side = weights.form.side(shift, Zeros::Each(&shifted));
        pack_matrix(side, matrix.data, depth, outputs, weights.form, &mut weights.words);
        weights.count(matrix, shifted, |output, step| step * outputs + output);
        weights
    }

    fn empty(dot: Option<ByteDot>, matrix: ByteMatrix<'_>, outputs: usize, depth: usize, panel: usize) -> Weights {
        let form = match dot {
            None => Form::Pairs,
            Some(ByteDot::Seven) if spread(matrix).is_none() => Form::Pairs,
            Some(dot) => Form::Bytes(dot),
        };
        let len = form.words(depth) * outputs.next_multiple_of(panel);
        Weights {
            form,
            words: vec![0; len].into(),
            zeros: Box::default(),
            sums: Box::default(),
            outputs,
            depth,
        }
    }

    /// What is added to each byte, and the zero points after that.
    fn shifted(&self, matrix: ByteMatrix<'_>) -> (u8, Vec<i32>) {
        let (shift, delta) = match self.form {
            Form::Pairs if matrix.is_signed => (128, 128),
            Form::Pairs => (0, 0),
            // The least weight becomes 0.
            Form::Bytes(ByteDot::Seven) => {
                let least = spread(matrix).unwrap_or(0);
                (least.wrapping_neg() as u8, -least)
            }
            Form::Bytes(_) if matrix.is_signed => (0, 0),
            Form::Bytes(_) => (128, -128),
        };
        let zeros = (0..self.outputs).map(|output| matrix.zeros.at(output) + delta);
        (shift, zeros.collect())
    }

    /// Notes what the zero points of the other factor will need.
    fn count(&mut self, matrix: ByteMatrix<'_>, zeros: Vec<i32>, place: impl Fn(usize, usize) -> usize) {
        if self.form == Form::Pairs {
            return;
        }
        let value = |at: usize| number(matrix.data[at], matrix.is_signed);
        let sums = (0..self.outputs).map(|output| {
            // Shift and zero point cancel out.
            let zero = matrix.zeros.at(output);
            (0..self.depth).fold(0i32, |sum, step| sum.wrapping_add(value(place(output, step)) - zero))
        });
        self.sums = sums.collect();
        if zeros.iter().any(|&zero| zero != 0) {
            self.zeros = zeros.into();
        }
    }

    /// Bytes of memory held.
    pub fn byte_len(&self) -> usize {
        (self.words.len() + self.zeros.len() + self.sums.len()) * 4
    }
}

/// The value of a byte.
fn number(byte: u8, is_signed: bool) -> i32 {
    if is_signed {
        i32::from(byte as i8)
    } else {
        i32::from(byte)
    }
}

/// The least weight, when all lie within 127 of it.
fn spread(matrix: ByteMatrix<'_>) -> Option<i32> {
    let values = || matrix.data.iter().map(|&byte| number(byte, matrix.is_signed));
    let least = values().min()?;
    (values().max()? - least <= 127).then_some(least)
}

/// What is done with sums: they are handed over once each, a row's segment at a time.
pub trait Finish: Sync {
    /// Takes the sums of row `row` from column `column` on, and may overwrite them.
    fn finish(&self, row: usize, column: usize, sums: &mut [i32]);
}

/// The rows of a block of a product whose left factor is packed run by run.
fn block_rows(words: usize, rows: usize) -> usize {
    let fitting = (BLOCK_WORDS / words.max(1)).clamp(MR, MC) / MR * MR;
    fitting.min(rows.next_multiple_of(MR))
}

/// How much scratch memory [`matmul`] needs for each thread, in i32.
pub fn matmul_scratch_len(shape: GemmShape) -> usize {
    let words = Form::Pairs.words(shape.k);
    let rows = block_rows(words, shape.m);
    // Bytes take fewer words, and so may take more rows.
    rows.max(block_rows(words / 2, shape.m)) * (words + NC + 1)
}

/// Sums of `x [m, k] · weights [k, n]`, on as many threads as `scratch` holds a piece for.
///
/// # Panics
/// When a slice is too short or the weights have other sizes.
pub fn matmul(
    shape: GemmShape,
    x: ByteMatrix<'_>,
    weights: &Weights,
    scratch: &mut [i32],
    finish: &dyn Finish,
    threads: &Threads,
) {
    let GemmShape { m, k, n } = shape;
    let each = matmul_scratch_len(shape);
    let threads = threads.at_most(scratch.len() / each.max(1));
    // Few rows are cut by columns.
    let by_rows = m >= 8 * threads.count() * MR;
    let (items, step, other) = if by_rows {
        (m.div_ceil(MR), MR, n)
    } else {
        (n.div_ceil(NR), NR, m)
    };
    let split = threads.split(items, (step * other).saturating_mul(k) / 32);
    let scratch = PerThread::new(scratch, each);
    threads.run(split.parts, &|part| {
        let items = split.range(part.index);
        let range = |end: usize| items.start * step..end.min(items.end * step);
        let part_of = if by_rows { (range(m), 0..n) } else { (0..m, range(n)) };
        // SAFETY: the piece is this thread's own.
        let scratch = unsafe { scratch.of(part) };
        matmul_part(shape, part_of, x, weights, scratch, finish);
    });
}

/// Some rows and columns of a product; columns begin at a multiple of [`NR`].
fn matmul_part(
    shape: GemmShape,
    (rows, columns): (Range<usize>, Range<usize>),
    x: ByteMatrix<'_>,
    weights: &Weights,
    scratch: &mut [i32],
    finish: &dyn Finish,
) {
    let GemmShape { k, n, .. } = shape;
    assert_eq!((weights.depth, weights.outputs), (k, n), "weights of other sizes");
    let (form, words) = (weights.form, weights.form.words(k));
    let (shift, delta) = form.shift(x.is_signed);
    let block = block_rows(words, rows.len());
    let (left, rest) = scratch.split_at_mut(block * words);
    let (sums, left_sums) = rest.split_at_mut(block * NC);
    for first in rows.clone().step_by(block.max(1)) {
        let count = block.min(rows.end - first);
        let mut shifted = [0; MC];
        for (row, zero) in shifted[..count].iter_mut().enumerate() {
            *zero = x.zeros.at(first + row) + delta;
        }
        let side = form.side(shift, Zeros::Each(&shifted));
        let left = &mut left[..count.next_multiple_of(MR) * words];
        pack_rows(side, &x.data[first * k..], k, k, count, 0, left);
        if form != Form::Pairs && !weights.zeros.is_empty() {
            let is_first = form == Form::Bytes(ByteDot::Seven);
            left_sums.fill(0);
            for (panel, sums) in left
                .chunks_exact((words * MR).max(1))
                .zip(left_sums.chunks_exact_mut(MR))
            {
                byte_sums(panel, MR, is_first, sums);
            }
        }
        for column in columns.clone().step_by(NC) {
            let width = NC.min(columns.end - column);
            let right = &weights.words[column / NR * NR * words..];
            let mut block = Sums {
                values: &mut *sums,
                row_len: NC,
            };
            tile::multiply(form.weights_right(), words, left, right, count, width, &mut block);
            for (row, sums) in sums.chunks_exact_mut(NC).take(count).enumerate() {
                let sums = &mut sums[..width];
                if form != Form::Pairs {
                    take(sums, shifted[row], &weights.sums[column..column + width]);
                    if !weights.zeros.is_empty() {
                        take(sums, left_sums[row], &weights.zeros[column..column + width]);
                    }
                }
                finish.finish(first + row, column, sums);
            }
        }
    }
}

/// `sums -= factor * values`.
fn take(sums: &mut [i32], factor: i32, values: &[i32]) {
    if factor != 0 {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum = sum.wrapping_sub(factor.wrapping_mul(value));
        }
    }
}

/// The right factor of a convolution, which exists only as the blocks that its packing makes.
trait PackRight: Sync {
    /// Packs some columns over the whole depth.
    fn pack(&self, side: Side<'_>, columns: Range<usize>, out: &mut [i32]);
}

/// The columns of a block of a product whose right factor is packed run by run.
fn block_columns(words: usize, columns: usize) -> usize {
    let fitting = (BLOCK_WORDS / words.max(1)).clamp(NR, NC) / NR * NR;
    fitting.min(columns.next_multiple_of(NR))
}

/// How much scratch memory [`product`] needs for each thread, in i32.
fn product_scratch_len(outputs: usize, depth: usize, columns: usize) -> usize {
    let words = Form::Pairs.words(depth);
    let width = block_columns(words, columns).max(block_columns(words / 2, columns));
    width * (words + MC.min(outputs.next_multiple_of(MR)) + 1)
}

/// Sums of `weights [m, k] · x [k, n]`, on as many threads as `scratch` holds a piece for.
fn product(
    weights: &Weights,
    columns: usize,
    number: (bool, i32),
    x: &dyn PackRight,
    scratch: &mut [i32],
    finish: &dyn Finish,
    threads: &Threads,
) {
    let each = product_scratch_len(weights.outputs, weights.depth, columns);
    let threads = threads.at_most(scratch.len() / each.max(1));
    let cost = (NR * weights.outputs).saturating_mul(weights.depth) / 32;
    let split = threads.split(columns.div_ceil(NR), cost);
    let scratch = PerThread::new(scratch, each);
    threads.run(split.parts, &|part| {
        let panels = split.range(part.index);
        let columns = panels.start * NR..columns.min(panels.end * NR);
        // SAFETY: the piece is this thread's own.
        let scratch = unsafe { scratch.of(part) };
        product_part(weights, columns, number, x, scratch, finish);
    });
}

/// Some columns of a product, which begin at a multiple of [`NR`].
fn product_part(
    weights: &Weights,
    columns: Range<usize>,
    (is_signed, zero): (bool, i32),
    x: &dyn PackRight,
    scratch: &mut [i32],
    finish: &dyn Finish,
) {
    let (form, words, outputs) = (weights.form, weights.form.words(weights.depth), weights.outputs);
    let (shift, delta) = form.shift(is_signed);
    let zero = zero + delta;
    let side = form.side(shift, Zeros::One(zero));
    let width = block_columns(words, columns.len());
    let (right, rest) = scratch.split_at_mut(width * words);
    let (right_sums, sums) = rest.split_at_mut(width);
    for first in columns.clone().step_by(width.max(1)) {
        let count = width.min(columns.end - first);
        let right = &mut right[..count.next_multiple_of(NR) * words];
        x.pack(side, first..first + count, right);
        let has_sums = form != Form::Pairs && !weights.zeros.is_empty();
        if has_sums {
            let is_first = form == Form::Bytes(ByteDot::Seven);
            right_sums.fill(0);
            for (panel, sums) in right
                .chunks_exact((words * NR).max(1))
                .zip(right_sums.chunks_exact_mut(NR))
            {
                byte_sums(panel, NR, is_first, sums);
            }
        }
        for row in (0..outputs).step_by(MC) {
            let rows = MC.min(outputs - row);
            let left = &weights.words[row * words..];
            let mut block = Sums {
                values: &mut *sums,
                row_len: width,
            };
            tile::multiply(form.weights_left(), words, left, right, rows, count, &mut block);
            for (r, sums) in sums.chunks_exact_mut(width).take(rows).enumerate() {
                let sums = &mut sums[..count];
                if form != Form::Pairs {
                    let constant = zero.wrapping_mul(weights.sums[row + r]);
                    if constant != 0 {
                        sums.iter_mut().for_each(|sum| *sum = sum.wrapping_sub(constant));
                    }
                    if has_sums {
                        take(sums, weights.zeros[row + r], right_sums);
                    }
                }
                finish.finish(row + r, first, sums);
            }
        }
    }
}

#[cfg(test)]
mod tests;
