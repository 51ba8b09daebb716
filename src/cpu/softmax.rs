//! Softmax and LogSoftmax of f32 along one axis, and Hardmax. The tensor is seen as `[outer, axis, inner]`.

use crate::cpu::math::{exp, log, scalar};
use crate::cpu::simd::{F32x4, LANES, max_f32};

/// Which of the two is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftmaxKind {
    Softmax,
    LogSoftmax,
}

/// Columns that are worked on together where the axis is not the last.
const COLUMNS: usize = 64;

/// `out = softmax(input)` (or its logarithm) along the middle of `[outer, axis, inner]`.
///
/// # Panics
/// When the slices are shorter than `outer * axis * inner`.
pub fn softmax(kind: SoftmaxKind, input: &[f32], out: &mut [f32], [outer, axis, inner]: [usize; 3]) {
    let len = outer * axis * inner;
    out[..len].copy_from_slice(&input[..len]);
    softmax_in_place(kind, &mut out[..len], [outer, axis, inner]);
}

/// As [`softmax`], in place.
///
/// # Panics
/// When `values` is shorter than `outer * axis * inner`.
pub fn softmax_in_place(kind: SoftmaxKind, values: &mut [f32], [outer, axis, inner]: [usize; 3]) {
    let block = axis * inner;
    if outer * block == 0 {
        return;
    }
    for values in values[..outer * block].chunks_exact_mut(block) {
        if inner == 1 {
            softmax_row(kind, values);
        } else {
            softmax_columns(kind, values, inner);
        }
    }
}

/// The largest value, NaN when one is NaN.
pub(super) fn largest(row: &[f32]) -> f32 {
    // Several chains, since each step waits for the one before; NaNs are looked for apart from them.
    const CHAINS: usize = 4;
    let (vectors, tail) = row.as_chunks::<LANES>();
    let (blocks, rest) = vectors.as_chunks::<CHAINS>();
    let mut max = [F32x4::splat(f32::NEG_INFINITY); CHAINS];
    let mut nans = F32x4::zero().lt(F32x4::zero());
    for block in blocks {
        let block = block.map(|vector| F32x4::load(&vector));
        for (max, vector) in max.iter_mut().zip(block) {
            *max = max.at_least(vector);
            nans = nans | vector.is_nan();
        }
    }
    for vector in rest {
        let vector = F32x4::load(vector);
        max[0] = max[0].at_least(vector);
        nans = nans | vector.is_nan();
    }
    if nans.any() {
        return f32::NAN;
    }
    let [a, b, c, d] = max;
    let folded = a.at_least(b).at_least(c.at_least(d));
    tail.iter().fold(folded.max_lane(), |max, &v| max_f32(max, v))
}

/// Replaces each value x by e^(x - max) and gives their sum.
pub(super) fn exp_and_sum(row: &mut [f32], max: f32) -> f32 {
    let max = F32x4::splat(max);
    let (vectors, tail) = row.as_chunks_mut::<LANES>();
    let mut sum = F32x4::zero();
    for vector in vectors {
        let e = exp(F32x4::load(vector) - max);
        e.store(vector);
        sum += e;
    }
    let mut total = sum.sum();
    if !tail.is_empty() {
        exp(F32x4::load_partial(tail, 0.0) - max).store_partial(tail);
        total += tail.iter().sum::<f32>();
    }
    total
}

fn softmax_row(kind: SoftmaxKind, row: &mut [f32]) {
    let max = largest(row);
    match kind {
        SoftmaxKind::Softmax => {
            let factor = 1.0 / exp_and_sum(row, max);
            row.iter_mut().for_each(|value| *value *= factor);
        }
        SoftmaxKind::LogSoftmax => {
            let shift = F32x4::splat(max);
            let (vectors, tail) = row.as_chunks::<LANES>();
            let sum = vectors
                .iter()
                .fold(F32x4::zero(), |sum, v| sum + exp(F32x4::load(v) - shift))
                .sum();
            let sum = tail.iter().fold(sum, |sum, &v| sum + scalar(exp, v - max));
            // The two parts are taken off one after the other: their sum would lose the logarithm beside a large max.
            let log_sum = scalar(log, sum);
            row.iter_mut().for_each(|value| *value = (*value - max) - log_sum);
        }
    }
}

/// The axis runs over rows `inner` apart: some columns at a time, row by row, so that memory is read in order.
fn softmax_columns(kind: SoftmaxKind, values: &mut [f32], inner: usize) {
    for first in (0..inner).step_by(COLUMNS) {
        let len = COLUMNS.min(inner - first);
        let mut max = [f32::NEG_INFINITY; COLUMNS];
        let mut sum = [0.0; COLUMNS];
        for row in values.chunks_exact(inner) {
            for (max, &value) in max.iter_mut().zip(&row[first..first + len]) {
                *max = max_f32(*max, value);
            }
        }
        for row in values.chunks_exact_mut(inner) {
            for ((value, max), sum) in row[first..first + len]
                .chunks_mut(LANES)
                .zip(max.chunks(LANES))
                .zip(sum.chunks_mut(LANES))
            {
                let shifted = F32x4::load_partial(value, 0.0) - F32x4::load(max);
                let e = exp(shifted);
                (F32x4::load(sum) + e).store(sum);
                match kind {
                    SoftmaxKind::Softmax => e.store_partial(value),
                    SoftmaxKind::LogSoftmax => shifted.store_partial(value),
                }
            }
        }
        for sum in sum[..len].chunks_mut(LANES) {
            let value = F32x4::load_partial(sum, 1.0);
            match kind {
                SoftmaxKind::Softmax => F32x4::splat(1.0) / value,
                SoftmaxKind::LogSoftmax => log(value),
            }
            .store_partial(sum);
        }
        for row in values.chunks_exact_mut(inner) {
            let row = row[first..first + len].iter_mut().zip(&sum);
            match kind {
                SoftmaxKind::Softmax => row.for_each(|(value, factor)| *value *= factor),
                SoftmaxKind::LogSoftmax => row.for_each(|(value, log_sum)| *value -= log_sum),
            }
        }
    }
}

/// 1 at the first largest value along the middle of `[outer, axis, inner]`, else 0 (ONNX Hardmax).
///
/// # Panics
/// When the slices are shorter than `outer * axis * inner`.
pub fn hardmax(input: &[f32], out: &mut [f32], [outer, axis, inner]: [usize; 3]) {
    out[..outer * axis * inner].fill(0.0);
    if axis == 0 {
        return;
    }
    for block in 0..outer {
        for column in 0..inner {
            let at = |i: usize| (block * axis + i) * inner + column;
            let best = (1..axis).fold(0, |best, i| if input[at(i)] > input[at(best)] { i } else { best });
            out[at(best)] = 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close};

    fn reference(kind: SoftmaxKind, input: &[f32], [outer, axis, inner]: [usize; 3]) -> Vec<f32> {
        let mut out = vec![0.0; input.len()];
        for block in 0..outer {
            for column in 0..inner {
                let at = |i: usize| (block * axis + i) * inner + column;
                let max = (0..axis).fold(f64::NEG_INFINITY, |max, i| max.max(f64::from(input[at(i)])));
                let sum: f64 = (0..axis).map(|i| (f64::from(input[at(i)]) - max).exp()).sum();
                for i in 0..axis {
                    let shifted = f64::from(input[at(i)]) - max;
                    out[at(i)] = match kind {
                        SoftmaxKind::Softmax => shifted.exp() / sum,
                        SoftmaxKind::LogSoftmax => shifted - sum.ln(),
                    } as f32;
                }
            }
        }
        out
    }

    #[test]
    fn odd_shapes_match_the_definition() {
        let mut rng = Rng::new(8);
        for round in 0..200 {
            let shape = [
                rng.size(0, 3),
                rng.size(0, 40),
                if round % 2 == 0 { 1 } else { rng.size(0, 150) },
            ];
            let input: Vec<f32> = rng.vec(shape.iter().product()).iter().map(|x| x * 30.0).collect();
            for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
                let mut out = vec![f32::NAN; input.len()];
                softmax(kind, &input, &mut out, shape);
                assert_close(
                    &out,
                    &reference(kind, &input, shape),
                    2e-6,
                    &format!("{kind:?} {shape:?}"),
                );
            }
        }
    }

    #[test]
    fn large_values_do_not_overflow_and_masked_values_are_zero() {
        let mut row = [1e30, 1e30, f32::NEG_INFINITY, 0.0, 1e30];
        softmax_in_place(SoftmaxKind::Softmax, &mut row, [1, 5, 1]);
        assert_close(&row, &[1.0 / 3.0, 1.0 / 3.0, 0.0, 0.0, 1.0 / 3.0], 1e-6, "row");
    }

    #[test]
    fn hardmax_takes_the_first_largest() {
        let mut out = [9.0; 8];
        hardmax(&[3.0, 1.0, 3.0, 2.0, 0.0, 5.0, 5.0, 1.0], &mut out, [2, 4, 1]);
        assert_eq!(out, [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    }
}
