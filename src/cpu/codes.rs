//! Products with constant weights that stay in memory as the codes of their quantisation. They are re-laid once in panels of
//! eight columns and unpacked eight at a time: into what the matrix product packs, or, for few rows, into registers. The
//! weights never stand in memory as floats.

use std::ops::Range;

use super::{
    epilogue::Epilogue,
    gemm::{GemmShape, Lhs, MatrixRef, NR, PackColumns, Rhs, gemm, gemm_scratch_len},
    int8::quantize::RAISED,
    simd::{F32x4, I32x4, LANES},
    threads::{Disjoint, Threads},
};

/// Up to this many rows of the first factor, weights are used as they are unpacked.
const THIN_ROWS: usize = 4;

/// A matrix `[k, n]` in panels of eight columns.
pub trait Codes: Sync {
    /// Its rows and columns.
    fn sizes(&self) -> (usize, usize);

    /// Calls `take` for each one or two steps of a range of rows with the place in the range and the weights of a panel, but
    /// for a factor of each column.
    fn unpack(&self, panel: usize, depth: Range<usize>, take: impl FnMut(usize, &[[F32x4; 2]]));

    /// The factors of a panel's columns, if there are any.
    fn factors(&self, panel: usize) -> Option<[F32x4; 2]>;
}

/// How much scratch memory [`multiply`] needs on so many threads, in f32.
pub fn scratch_len(weights: &impl Codes, m: usize, threads: usize) -> usize {
    let (k, n) = weights.sizes();
    if m <= THIN_ROWS {
        0
    } else {
        threads * gemm_scratch_len(GemmShape { m, k, n }, false, false)
    }
}

/// `out[m, n] = epilogue(a[m, k] · weights)`.
///
/// # Panics
/// When a slice is too short for the sizes.
pub fn multiply<C: Codes>(
    weights: &C,
    m: usize,
    a: &[f32],
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: &Epilogue<'_>,
    threads: &Threads,
) {
    let (k, n) = weights.sizes();
    if m > THIN_ROWS {
        let shape = GemmShape { m, k, n };
        let a = Lhs::Matrix(MatrixRef::row_major(a, k));
        let weights = Unpacking(weights);
        return gemm(shape, a, Rhs::Virtual(&weights), out, scratch, epilogue, threads);
    }
    let out = &mut out[..m * n];
    let shared = Disjoint::new(out);
    let split = threads.split(n.div_ceil(NR), NR * k);
    threads.run(split.parts, &|part| {
        for panel in split.range(part.index) {
            for row in (0..m - m % 2).step_by(2) {
                thin::<C, 2>(weights, panel, row, a, &shared);
            }
            if m % 2 == 1 {
                thin::<C, 1>(weights, panel, m - 1, a, &shared);
            }
        }
    });
    for (row, out) in out.chunks_exact_mut(n.max(1)).enumerate() {
        epilogue.apply(row, 0, n, out);
    }
}

/// `M` rows from `first_row` on.
fn thin<C: Codes, const M: usize>(weights: &C, panel: usize, first_row: usize, a: &[f32], out: &Disjoint<'_, f32>) {
    let (k, n) = weights.sizes();
    let rows: [&[f32]; M] = std::array::from_fn(|row| &a[(first_row + row) * k..][..k]);
    // Sums over even and odd steps, so that one need not wait for the other.
    let mut sums = [[[F32x4::zero(); 2]; 2]; M];
    weights.unpack(panel, 0..k, |depth, steps| {
        for (sums, row) in sums.iter_mut().zip(rows) {
            for ((sums, values), &factor) in sums.iter_mut().zip(steps).zip(&row[depth..depth + steps.len()]) {
                let factor = F32x4::splat(factor);
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum = factor.mul_add(value, *sum);
                }
            }
        }
    });
    let first = panel * NR;
    let count = NR.min(n - first);
    let factors = weights.factors(panel);
    for (row, [even, odd]) in sums.into_iter().enumerate() {
        let mut sums = [even[0] + odd[0], even[1] + odd[1]];
        if let Some(factors) = factors {
            sums = [sums[0] * factors[0], sums[1] * factors[1]];
        }
        let [low, high] = sums;
        let start = (first_row + row) * n + first;
        // SAFETY: each panel's columns are written once.
        let out = unsafe { out.slice(start..start + count) };
        let (near, far) = out.split_at_mut(LANES.min(count));
        low.store_partial(near);
        high.store_partial(far);
    }
}

struct Unpacking<'a, C>(&'a C);

impl<C: Codes> PackColumns for Unpacking<'_, C> {
    fn pack(&self, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        for (panel, out) in out.chunks_exact_mut((depth.len() * NR).max(1)).enumerate() {
            let panel = cols.start / NR + panel;
            let factors = self.0.factors(panel);
            self.0.unpack(panel, depth.clone(), |step, steps| {
                for (place, &values) in out[step * NR..].chunks_exact_mut(NR).zip(steps) {
                    let [low, high] = match factors {
                        Some(factors) => [values[0] * factors[0], values[1] * factors[1]],
                        None => values,
                    };
                    low.store(place);
                    high.store(&mut place[LANES..]);
                }
            });
        }
    }
}

/// A matrix `[k, n]` of `(code - zero) * scale`, whose codes are bytes and whose columns may have a zero point and scale each.
#[derive(Clone, Debug)]
pub struct Bytes {
    k: usize,
    n: usize,
    /// Panel after panel, eight codes for each step of depth.
    codes: Box<[u8]>,
    /// For each column [`RAISED`] and its zero point.
    zeros: Box<[f32]>,
    scales: Box<[f32]>,
    /// The upper halves of [`RAISED`]. They are loaded: V8 makes constants anew at each use.
    raised: [f32; LANES],
}

impl Bytes {
    /// From the codes of an unsigned matrix, where an element is `row * strides[0] + column * strides[1]`. There is one zero
    /// point and scale, or one for each column.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn new(
        code: impl Fn(usize) -> u8,
        strides: [usize; 2],
        (k, n): (usize, usize),
        zeros: &[u8],
        scales: &[f32],
    ) -> Bytes {
        let panels = n.div_ceil(NR);
        let mut codes = vec![0u8; panels * k * NR].into_boxed_slice();
        for (panel, codes) in codes.chunks_exact_mut((k * NR).max(1)).enumerate() {
            let first = panel * NR;
            for (depth, codes) in codes.chunks_exact_mut(NR).enumerate() {
                for (column, place) in codes.iter_mut().enumerate().take(n - first) {
                    *place = code(depth * strides[0] + (first + column) * strides[1]);
                }
            }
        }
        let of_column = |column: usize, len: usize| if len == 1 { 0 } else { column.min(n - 1) };
        let zero = |column: usize| RAISED + f32::from(zeros[of_column(column, zeros.len())]);
        let scale = |column: usize| scales[of_column(column, scales.len())];
        Bytes {
            k,
            n,
            codes,
            zeros: (0..panels * NR).map(zero).collect(),
            scales: (0..panels * NR).map(scale).collect(),
            raised: [f32::from_bits(RAISED.to_bits() | RAISED.to_bits() >> 16); LANES],
        }
    }
}

impl Codes for Bytes {
    fn sizes(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    #[inline(always)]
    fn unpack(&self, panel: usize, depth: Range<usize>, mut take: impl FnMut(usize, &[[F32x4; 2]])) {
        let zeros = pair(&self.zeros, panel);
        let raised = F32x4::load(&self.raised).to_bits();
        let floats = |wide: I32x4| {
            let halves = [wide.zip_pairs_low(raised), wide.zip_pairs_high(raised)];
            [halves[0].bits_to_f32() - zeros[0], halves[1].bits_to_f32() - zeros[1]]
        };
        let codes = &self.codes[panel * self.k * NR..][..self.k * NR];
        let (pairs, last) = codes[depth.start * NR..depth.end * NR].as_chunks::<{ 2 * NR }>();
        for (pair, codes) in pairs.iter().enumerate() {
            // SAFETY: sixteen bytes are there.
            let codes = unsafe { I32x4::load_ptr(codes.as_ptr()) };
            take(2 * pair, &[floats(codes.widen_low()), floats(codes.widen_high())]);
        }
        if last.len() == NR {
            // SAFETY: eight bytes are there.
            let codes = unsafe { I32x4::load_low(last.as_ptr()) };
            take(2 * pairs.len(), &[floats(codes.widen_low())]);
        }
    }

    fn factors(&self, panel: usize) -> Option<[F32x4; 2]> {
        Some(pair(&self.scales, panel))
    }
}

/// A panel's columns of numbers that each column has one of.
fn pair(of: &[f32], panel: usize) -> [F32x4; 2] {
    [F32x4::load(&of[panel * NR..]), F32x4::load(&of[panel * NR + LANES..])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close};

    #[test]
    fn products_with_bytes_equal_those_of_the_dequantised_matrix() {
        let mut rng = Rng::new(62);
        for round in 0..80 {
            let (m, n, k) = (rng.size(0, 9), rng.size(1, 300), rng.size(0, 500));
            let codes: Vec<u8> = (0..n * k).map(|_| rng.next_u64() as u8).collect();
            let each = if round % 2 == 0 { 1 } else { n };
            let zeros: Vec<u8> = (0..each).map(|_| rng.next_u64() as u8).collect();
            let scales = rng.vec(each);
            let strides = if round % 3 == 0 { [n, 1] } else { [1, k] };
            let value = |depth: usize, column: usize| {
                let own = if each == 1 { 0 } else { column };
                let code = codes[depth * strides[0] + column * strides[1]];
                (f32::from(code) - f32::from(zeros[own])) * scales[own]
            };
            let a = rng.vec(m * k);
            let expected: Vec<f32> = (0..m * n)
                .map(|at| {
                    let products = (0..k).map(|d| f64::from(a[at / n * k + d]) * f64::from(value(d, at % n)));
                    products.sum::<f64>() as f32
                })
                .collect();
            let weights = Bytes::new(|at| codes[at], strides, (k, n), &zeros, &scales);
            let (mut out, mut scratch) = (vec![f32::NAN; m * n], vec![f32::NAN; scratch_len(&weights, m, 1)]);
            let (none, one) = (Epilogue::none(), Threads::SINGLE);
            multiply(&weights, m, &a, &mut out, &mut scratch, &none, &one);
            let what = format!("{m}x{k}x{n}");
            assert_close(&out, &expected, 1e-3 * (k as f32).sqrt().max(4.0), &what);
            let mut cut = vec![f32::NAN; m * n];
            let mut scratch = vec![f32::NAN; scratch_len(&weights, m, 3)];
            multiply(&weights, m, &a, &mut cut, &mut scratch, &none, &Threads::eager(3));
            assert_close(&cut, &expected, 1e-3 * (k as f32).sqrt().max(4.0), &what);
        }
    }
}
