//! Weights of four bits, quantised by blocks along the depth: the codes of eight columns stand in one word.

use std::ops::Range;

use super::{
    codes::Codes,
    gemm::NR,
    simd::{F32x4, I32x4, LANES},
};

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
    /// The bits of four codes in half a word. They are loaded: V8 makes constants anew at each use.
    mask: [f32; LANES],
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
            mask: [15, 15 << 4, 15 << 8, 15 << 12].map(f32::from_bits),
        }
    }
}

impl Codes for Nibbles {
    fn sizes(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    #[inline(always)]
    fn unpack(&self, panel: usize, depth: Range<usize>, mut take: impl FnMut(usize, &[[F32x4; 2]])) {
        let blocks = self.k.div_ceil(self.block);
        let mask = F32x4::load(&self.mask).to_bits();
        let words = &self.words[panel * self.k..(panel + 1) * self.k];
        let mut start = depth.start;
        while start < depth.end {
            let block = start / self.block;
            let end = depth.end.min((block + 1) * self.block);
            let place = (panel * blocks + block) * NR;
            let pair = |of: &[f32]| [F32x4::load(&of[place..]), F32x4::load(&of[place + LANES..])];
            let (scales, zeros) = (pair(&self.scales), pair(&self.zeros));
            let values = |word: u32| -> [F32x4; 2] {
                std::array::from_fn(|half| {
                    let codes = I32x4::splat((word >> (16 * half)) as i32) & mask;
                    (codes.to_f32() - zeros[half]) * scales[half]
                })
            };
            let (pairs, last) = words[start..end].as_chunks::<2>();
            for (pair, &[even, odd]) in pairs.iter().enumerate() {
                take(start - depth.start + 2 * pair, &[values(even), values(odd)]);
            }
            for &word in last {
                take(end - 1 - depth.start, &[values(word)]);
            }
            start = end;
        }
    }
    fn factors(&self, _: usize) -> Option<[F32x4; 2]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{
        codes::{multiply, scratch_len},
        epilogue::Epilogue,
        testing::{Rng, assert_close},
        threads::Threads,
    };

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
            let (mut out, mut scratch) = (vec![f32::NAN; m * n], vec![f32::NAN; scratch_len(&weights, m, 1)]);
            let (none, one) = (Epilogue::none(), Threads::SINGLE);
            multiply(&weights, m, &a, &mut out, &mut scratch, &none, &one);
            let what = format!("{m}x{k}x{n}, blocks of {block}");
            assert_close(&out, &expected, 1e-5 * (k as f32).sqrt().max(4.0), &what);
        }
    }
}
