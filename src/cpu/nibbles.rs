//! Products with weights of four bits, quantised by blocks along the depth. They are re-laid once so that the codes of eight
//! columns stand in one word, and unpacked eight at a time: into what the matrix product packs, or, for few rows, into
//! registers. The weights never stand in memory as floats.

use std::ops::Range;

use super::{
    epilogue::Epilogue,
    gemm::{GemmShape, Lhs, MatrixRef, NR, PackColumns, Rhs, gemm, gemm_scratch_len},
    simd::{F32x4, I32x4, LANES},
    threads::{Disjoint, Threads},
};

/// Up to this many rows of the first factor, weights are used as they are unpacked.
const THIN_ROWS: usize = 4;

/// A matrix `[k, n]` of `(code - zero) * scale`.
#[derive(Clone, Debug)]
pub struct Nibbles {
    k: usize,
    n: usize,
    block: usize,
    /// For each panel of eight columns and each step of depth a word, the first column in the lowest bits.
    words: Box<[u32]>,
    /// For each panel and block eight scales, each divided by the weight of its column's bits in half a word.
    scales: Box<[f32]>,
    /// For each panel and block eight zero points, multiplied by those weights.
    zeros: Box<[f32]>,
}

impl Nibbles {
    /// From rows of codes as `MatMulNBits` has them, `[n, blocks, block / 2]`, low ones first, with scales and zero points
    /// `[n, blocks]`; the zero point is 8 when there are none.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn new(codes: &[u8], scales: &[f32], zeros: Option<&[f32]>, (k, n): (usize, usize), block: usize) -> Nibbles {
        let blocks = k.div_ceil(block);
        let (panels, row_bytes) = (n.div_ceil(NR), blocks * block / 2);
        let mut words = vec![0u32; panels * k];
        let mut packed_scales = vec![0.0; panels * blocks * NR];
        let mut packed_zeros = packed_scales.clone();
        for column in 0..n {
            let (panel, lane) = (column / NR, column % NR);
            let row = &codes[column * row_bytes..][..row_bytes];
            for (depth, word) in words[panel * k..(panel + 1) * k].iter_mut().enumerate() {
                let code = row[depth / 2] >> (depth % 2 * 4) & 15;
                *word |= u32::from(code) << (4 * lane);
            }
            let weight = (1u32 << (4 * (lane % LANES))) as f32;
            for index in 0..blocks {
                let place = (panel * blocks + index) * NR + lane;
                packed_scales[place] = scales[column * blocks + index] / weight;
                packed_zeros[place] = zeros.map_or(8.0, |zeros| zeros[column * blocks + index]) * weight;
            }
        }
        Nibbles {
            k,
            n,
            block,
            words: words.into(),
            scales: packed_scales.into(),
            zeros: packed_zeros.into(),
        }
    }

    /// Bytes of memory held.
    pub fn byte_len(&self) -> usize {
        (self.words.len() + self.scales.len() + self.zeros.len()) * 4
    }

    /// Calls `take` for each step of a range of depth with the place in the range and the weights of a panel.
    #[inline(always)]
    fn unpack(&self, panel: usize, depth: Range<usize>, mut take: impl FnMut(usize, [F32x4; 2])) {
        let blocks = self.k.div_ceil(self.block);
        let mask = F32x4::from_array([15, 15 << 4, 15 << 8, 15 << 12].map(f32::from_bits)).to_bits();
        let words = &self.words[panel * self.k..(panel + 1) * self.k];
        let mut start = depth.start;
        while start < depth.end {
            let block = start / self.block;
            let end = depth.end.min((block + 1) * self.block);
            let place = (panel * blocks + block) * NR;
            let pair = |of: &[f32]| [F32x4::load(&of[place..]), F32x4::load(&of[place + LANES..])];
            let (scales, zeros) = (pair(&self.scales), pair(&self.zeros));
            for (index, &word) in words[start..end].iter().enumerate() {
                let values = std::array::from_fn(|half| {
                    let codes = I32x4::splat((word >> (16 * half)) as i32) & mask;
                    (codes.to_f32() - zeros[half]) * scales[half]
                });
                take(start - depth.start + index, values);
            }
            start = end;
        }
    }

    /// How much scratch memory [`Nibbles::multiply`] needs on so many threads, in f32.
    pub fn scratch_len(&self, m: usize, threads: usize) -> usize {
        let shape = GemmShape {
            m,
            k: self.k,
            n: self.n,
        };
        if m <= THIN_ROWS {
            0
        } else {
            threads * gemm_scratch_len(shape, false, false)
        }
    }

    /// `out[m, n] = epilogue(a[m, k] · weights)`.
    ///
    /// # Panics
    /// When a slice is too short for the sizes.
    pub fn multiply(
        &self,
        m: usize,
        a: &[f32],
        out: &mut [f32],
        scratch: &mut [f32],
        epilogue: &Epilogue<'_>,
        threads: &Threads,
    ) {
        let &Nibbles { k, n, .. } = self;
        if m > THIN_ROWS {
            let shape = GemmShape { m, k, n };
            let a = Lhs::Matrix(MatrixRef::row_major(a, k));
            return gemm(shape, a, Rhs::Virtual(self), out, scratch, epilogue, threads);
        }
        let out = &mut out[..m * n];
        let shared = Disjoint::new(out);
        let split = threads.split(n.div_ceil(NR), NR * k);
        threads.run(split.parts, &|part| {
            for panel in split.range(part.index) {
                match m {
                    1 => self.thin::<1>(panel, a, &shared),
                    2 => self.thin::<2>(panel, a, &shared),
                    3 => self.thin::<3>(panel, a, &shared),
                    4 => self.thin::<4>(panel, a, &shared),
                    _ => {}
                }
            }
        });
        for (row, out) in out.chunks_exact_mut(n.max(1)).enumerate() {
            epilogue.apply(row, 0, n, out);
        }
    }

    fn thin<const M: usize>(&self, panel: usize, a: &[f32], out: &Disjoint<'_, f32>) {
        let rows: [&[f32]; M] = std::array::from_fn(|row| &a[row * self.k..(row + 1) * self.k]);
        let mut sums = [[F32x4::zero(); 2]; M];
        self.unpack(panel, 0..self.k, |depth, values| {
            for (sums, row) in sums.iter_mut().zip(rows) {
                let factor = F32x4::splat(row[depth]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = factor.mul_add(value, *sum);
                }
            }
        });
        let first = panel * NR;
        let count = NR.min(self.n - first);
        for (row, [low, high]) in sums.into_iter().enumerate() {
            let start = row * self.n + first;
            // SAFETY: each panel's columns are written once.
            let out = unsafe { out.slice(start..start + count) };
            let (near, far) = out.split_at_mut(LANES.min(count));
            low.store_partial(near);
            high.store_partial(far);
        }
    }
}

impl PackColumns for Nibbles {
    fn pack(&self, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        for (panel, out) in out.chunks_exact_mut((depth.len() * NR).max(1)).enumerate() {
            self.unpack(cols.start / NR + panel, depth.clone(), |step, [low, high]| {
                let place = &mut out[step * NR..][..NR];
                low.store(place);
                high.store(&mut place[LANES..]);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close};

    #[test]
    fn products_equal_those_of_the_dequantised_matrix() {
        let mut rng = Rng::new(61);
        for round in 0..80 {
            let block = [16, 32, 128][rng.size(0, 2)];
            let (m, n, k) = (rng.size(0, 9), rng.size(0, 300), rng.size(0, 700));
            let blocks = k.div_ceil(block);
            let codes: Vec<u8> = (0..n * blocks * block / 2).map(|_| rng.next_u64() as u8).collect();
            let scales = rng.vec(n * blocks);
            let zeros: Vec<f32> = (0..n * blocks).map(|_| rng.size(0, 15) as f32).collect();
            let zeros = (round % 2 == 0).then_some(&zeros[..]);
            let value = |depth: usize, column: usize| {
                let place = column * blocks * block + depth;
                let code = codes[place / 2] >> (place % 2 * 4) & 15;
                let group = column * blocks + depth / block;
                (f32::from(code) - zeros.map_or(8.0, |zeros| zeros[group])) * scales[group]
            };
            let a = rng.vec(m * k);
            let expected: Vec<f32> = (0..m * n)
                .map(|at| {
                    let products = (0..k).map(|d| f64::from(a[at / n * k + d]) * f64::from(value(d, at % n)));
                    products.sum::<f64>() as f32
                })
                .collect();
            let weights = Nibbles::new(&codes, &scales, zeros, (k, n), block);
            let (mut out, mut scratch) = (vec![f32::NAN; m * n], vec![f32::NAN; weights.scratch_len(m, 1)]);
            weights.multiply(m, &a, &mut out, &mut scratch, &Epilogue::none(), &Threads::SINGLE);
            let what = format!("{m}x{k}x{n}, blocks of {block}");
            assert_close(&out, &expected, 1e-5 * (k as f32).sqrt().max(4.0), &what);
        }
    }
}
