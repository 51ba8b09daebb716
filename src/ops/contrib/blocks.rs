//! Weights quantised by blocks along their rows, each block with a scale and perhaps a zero point: packed integers of 2, 4
//! or 8 bits, and the 4-bit floats of bitsandbytes. They are dequantised run by run, into what a matrix product packs, so
//! that the matrix never stands in memory as floats.

use std::ops::Range;

use crate::cpu::{
    epilogue::Epilogue,
    gemm::{GemmShape, Lhs, MatrixRef, NR, PackColumns, Rhs, gemm, gemm_scratch_len},
    simd::{F32x4, LANES},
    threads::Threads,
};

/// A matrix `[rows, depth]` that makes its elements when they are asked for.
pub trait WeightRows: Sync {
    /// Writes elements `depth` of row `row`, which begin at a multiple of [`ALIGN`].
    fn dequantize(&self, row: usize, depth: Range<usize>, out: &mut [f32]);
}

/// Elements that are dequantised at a time, at most: the longest run of depth that a matrix product packs.
const RUN: usize = 256;
/// Where runs begin: elements of 2 bits or more begin a byte there.
pub const ALIGN: usize = 4;
/// Up to this many rows of the first factor, the weights are used as they are made instead of being packed.
const THIN_ROWS: usize = 4;

/// The transpose of a matrix of weights, as a matrix product packs it.
struct Columns<'a>(&'a dyn WeightRows);

impl PackColumns for Columns<'_> {
    fn pack(&self, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        let mut run = [0.0; RUN + ALIGN];
        let len = depth.len();
        for (panel, out) in out.chunks_exact_mut((len * NR).max(1)).enumerate() {
            for lane in 0..NR {
                let column = cols.start + panel * NR + lane;
                if column < cols.end {
                    for (part, start) in depth.clone().step_by(RUN).enumerate() {
                        let end = depth.end.min(start + RUN);
                        let aligned = start / ALIGN * ALIGN;
                        let run = &mut run[..end - aligned];
                        self.0.dequantize(column, aligned..end, run);
                        let places = out[part * RUN * NR + lane..].iter_mut().step_by(NR);
                        places.zip(&run[start - aligned..]).for_each(|(to, &from)| *to = from);
                    }
                } else {
                    out[lane..].iter_mut().step_by(NR).for_each(|to| *to = 0.0);
                }
            }
        }
    }
}

/// How much scratch memory [`multiply`] needs, in f32.
pub fn scratch_len(shape: GemmShape) -> usize {
    if shape.m <= THIN_ROWS {
        0
    } else {
        gemm_scratch_len(shape, false, false)
    }
}

/// `out[m, n] = epilogue(a[m, k] · weights[n, k]ᵀ)`.
///
/// # Panics
/// When a slice is too short for the sizes.
pub fn multiply(
    shape: GemmShape,
    a: &[f32],
    weights: &dyn WeightRows,
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: &Epilogue<'_>,
) {
    let GemmShape { m, k, n } = shape;
    if m > THIN_ROWS {
        let a = Lhs::Matrix(MatrixRef::row_major(a, k));
        return gemm(
            shape,
            a,
            Rhs::Virtual(&Columns(weights)),
            out,
            scratch,
            epilogue,
            &Threads::SINGLE,
        );
    }
    let out = &mut out[..m * n];
    let mut run = [0.0; RUN];
    for column in 0..n {
        let mut sums = [0.0; THIN_ROWS];
        for start in (0..k).step_by(RUN) {
            let end = k.min(start + RUN);
            let run = &mut run[..end - start];
            weights.dequantize(column, start..end, run);
            for (row, sum) in sums[..m].iter_mut().enumerate() {
                *sum += dot(&a[row * k + start..row * k + end], run);
            }
        }
        for (row, sum) in sums[..m].iter().enumerate() {
            out[row * n + column] = *sum;
        }
    }
    for (row, out) in out.chunks_exact_mut(n.max(1)).enumerate() {
        epilogue.apply(row, 0, n, out);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a_vectors, a_rest), (b_vectors, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [F32x4::zero(); 2];
    for (index, (a, b)) in a_vectors.iter().zip(b_vectors).enumerate() {
        let sum = &mut sums[index % 2];
        *sum = F32x4::load(a).mul_add(F32x4::load(b), *sum);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    (sums[0] + sums[1]).sum() + rest
}

/// Integers of `bits` 2, 4 or 8, low ones first in a byte; each row has `blocks` blocks, which take whole bytes.
pub struct PackedBlocks<'a> {
    /// Bits of an element.
    pub bits: usize,
    /// Elements of a block, a multiple of 16.
    pub block: usize,
    /// Blocks of a row.
    pub blocks: usize,
    /// The elements, `blocks * block * bits / 8` bytes for each row.
    pub data: &'a [u8],
    /// A scale for each block.
    pub scales: &'a [f32],
    /// A zero point for each block; the middle of the range when there are none.
    pub zeros: Option<&'a [f32]>,
    /// For each element of a row, the block whose scale it has, when that is not the one it stands in.
    pub groups: Option<&'a [i64]>,
}

impl WeightRows for PackedBlocks<'_> {
    fn dequantize(&self, row: usize, depth: Range<usize>, out: &mut [f32]) {
        let row_bytes = self.blocks * self.block * self.bits / 8;
        let data = &self.data[row * row_bytes..(row + 1) * row_bytes];
        let first = row * self.blocks;
        let middle = (1u32 << (self.bits - 1)) as f32;
        let zero_of = |block: usize| self.zeros.map_or(middle, |zeros| zeros[first + block]);
        let mut start = depth.start;
        while start < depth.end {
            let end = depth.end.min((start / self.block + 1) * self.block);
            let part = &mut out[start - depth.start..end - depth.start];
            let bytes = &data[start * self.bits / 8..];
            let block = start / self.block;
            match self.groups {
                None => unpack(self.bits, bytes, part, zero_of(block), self.scales[first + block]),
                Some(groups) => {
                    unpack(self.bits, bytes, part, 0.0, 1.0);
                    for (value, &group) in part.iter_mut().zip(&groups[start..end]) {
                        let block = usize::try_from(group).unwrap_or(0).min(self.blocks - 1);
                        *value = (*value - zero_of(block)) * self.scales[first + block];
                    }
                }
            }
            start = end;
        }
    }
}

/// `(code - zero) * scale` of the codes that begin with the first byte.
fn unpack(bits: usize, bytes: &[u8], out: &mut [f32], zero: f32, scale: f32) {
    match bits {
        8 => unpack_words::<8, 4>(bytes, out, zero, scale),
        4 => unpack_words::<4, 8>(bytes, out, zero, scale),
        _ => unpack_words::<2, 16>(bytes, out, zero, scale),
    }
}

/// The codes of four bytes at a time: twice as fast as byte by byte, for it is one shift for each lane of a vector.
fn unpack_words<const BITS: usize, const COUNT: usize>(bytes: &[u8], out: &mut [f32], zero: f32, scale: f32) {
    let mask = (1u32 << BITS) - 1;
    let value = |code: u32| ((code & mask) as i32 as f32 - zero) * scale;
    let (runs, rest) = out.as_chunks_mut::<COUNT>();
    let (words, _) = bytes.as_chunks::<4>();
    for (run, word) in runs.iter_mut().zip(words) {
        let word = u32::from_le_bytes(*word);
        for (index, to) in run.iter_mut().enumerate() {
            *to = value(word >> (index * BITS));
        }
    }
    let tail = bytes.get(runs.len() * 4..).unwrap_or(&[]);
    for (index, to) in rest.iter_mut().enumerate() {
        *to = value(u32::from(tail[index * BITS / 8]) >> (index * BITS % 8));
    }
}

/// The 4-bit floats of bitsandbytes, high ones first in a byte; the blocks run through the whole matrix, row after row.
pub struct FloatBlocks<'a> {
    /// Elements of a row.
    pub depth: usize,
    /// Elements of a block.
    pub block: usize,
    /// The elements, two to a byte.
    pub data: &'a [u8],
    /// The factor of each block.
    pub scales: &'a [f32],
    /// What the 16 codes stand for.
    pub table: &'a [f32; 16],
}

/// The codes of `fp4`: a sign, and fractions of 12.
pub const FP4: [f32; 16] = [
    0.0,
    0.062_5 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    6.0 / 12.0,
    2.0 / 12.0,
    3.0 / 12.0,
    -0.0,
    -0.062_5 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -6.0 / 12.0,
    -2.0 / 12.0,
    -3.0 / 12.0,
];

/// The codes of `nf4`: quantiles of the normal distribution.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

impl WeightRows for FloatBlocks<'_> {
    fn dequantize(&self, row: usize, depth: Range<usize>, out: &mut [f32]) {
        let first = row * self.depth + depth.start;
        for (index, to) in (first..).zip(out.iter_mut()) {
            let byte = self.data[index / 2];
            let code = if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            *to = self.table[usize::from(code)] * self.scales[index / self.block];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close};

    #[test]
    fn products_of_packed_weights_equal_those_of_the_dequantised_matrix() {
        let mut rng = Rng::new(31);
        for round in 0..60 {
            let (bits, block) = ([2, 4, 8][round % 3], [16, 32, 128][rng.size(0, 2)]);
            let (m, n, k) = (rng.size(1, 9), rng.size(1, 19), rng.size(1, 700));
            let blocks = k.div_ceil(block);
            let data: Vec<u8> = (0..n * blocks * block * bits / 8)
                .map(|_| rng.next_u64() as u8)
                .collect();
            let (scales, zeros) = (rng.vec(n * blocks), rng.vec(n * blocks));
            let groups: Vec<i64> = (0..k).map(|_| rng.size(0, blocks - 1) as i64).collect();
            let weights = PackedBlocks {
                bits,
                block,
                blocks,
                data: &data,
                scales: &scales,
                zeros: rng.bool().then_some(&zeros[..]),
                groups: rng.bool().then_some(&groups[..]),
            };
            let element = |row: usize, depth: usize| {
                let place = (row * blocks * block + depth) * bits;
                let code = u32::from(data[place / 8]) >> (place % 8) & ((1 << bits) - 1);
                let group = weights.groups.map_or(depth / block, |groups| groups[depth] as usize);
                let zero = weights
                    .zeros
                    .map_or((1 << (bits - 1)) as f32, |zeros| zeros[row * blocks + group]);
                (code as f32 - zero) * scales[row * blocks + group]
            };
            let a = rng.vec(m * k);
            let expected: Vec<f32> = (0..m * n)
                .map(|i| {
                    (0..k)
                        .map(|d| f64::from(a[i / n * k + d]) * f64::from(element(i % n, d)))
                        .sum::<f64>() as f32
                })
                .collect();
            let shape = GemmShape { m, k, n };
            let (mut out, mut scratch) = (vec![f32::NAN; m * n], vec![f32::NAN; scratch_len(shape)]);
            multiply(shape, &a, &weights, &mut out, &mut scratch, &Epilogue::none());
            let tolerance = 1e-6 * (1 << bits) as f32 * k as f32;
            assert_close(&out, &expected, tolerance, &format!("{bits} bits, {shape:?}"));
        }
    }
}
