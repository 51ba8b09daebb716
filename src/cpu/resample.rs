//! Separable resampling: along one axis after another, each position becomes a weighted sum of a few elements.

use std::ops::{Add, Mul};

use super::{
    elementwise::{TILE, Wide},
    threads::Threads,
};
use crate::{error::Result, tensor::DType};

/// The elements and weights that each position along an axis is the sum of: equally many for each.
#[derive(Clone, Debug)]
pub struct Taps {
    count: usize,
    places: Vec<usize>,
    weights: Vec<f32>,
    /// Positions outside the input, which get a fixed value.
    outside: Vec<bool>,
}

impl Taps {
    /// No positions yet, of `count` elements each.
    pub fn new(count: usize) -> Taps {
        Taps {
            count,
            places: Vec::new(),
            weights: Vec::new(),
            outside: Vec::new(),
        }
    }

    /// Adds a position. Its taps must be as many as announced.
    pub fn push(&mut self, taps: impl Iterator<Item = (usize, f32)>, is_outside: bool) {
        let (places, weights): (Vec<usize>, Vec<f32>) = taps.take(self.count).unzip();
        self.places.extend(places);
        self.weights.extend(weights);
        self.outside.push(is_outside);
    }

    /// The elements and weights of all positions, in order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.places.iter().copied().zip(self.weights.iter().copied())
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.outside.len()
    }

    /// Whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.outside.is_empty()
    }
}

/// The passes of one resampling.
#[derive(Clone, Debug)]
pub struct Plan {
    passes: Vec<Pass>,
    input_len: usize,
    extrapolation: f32,
}

#[derive(Clone, Debug)]
struct Pass {
    taps: Taps,
    outer: usize,
    len: usize,
    inner: usize,
}

/// A number type in which sums are formed.
pub trait Real: Wide + Add<Output = Self> + Mul<Output = Self> {
    /// The number.
    fn of(value: f32) -> Self;

    /// Stores sums as elements of `dtype`; integers are cut off and saturated.
    fn store_sums(dtype: DType, sums: &[Self], target: &mut [u8]) -> Result<()>;
}

impl Real for f32 {
    fn of(value: f32) -> f32 {
        value
    }

    fn store_sums(dtype: DType, sums: &[f32], target: &mut [u8]) -> Result<()> {
        f32::store(dtype, sums, target, 0)
    }
}

impl Real for f64 {
    fn of(value: f32) -> f64 {
        value.into()
    }

    fn store_sums(dtype: DType, sums: &[f64], target: &mut [u8]) -> Result<()> {
        if dtype.is_float() {
            return f64::store(dtype, sums, target, 0);
        }
        let bits = dtype.bits().unwrap_or(64).min(63) as i32;
        let (low, high) = match dtype.is_unsigned() {
            true => (0.0, 2f64.powi(bits) - 1.0),
            false => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0),
        };
        for (number, sums) in sums.chunks(TILE).enumerate() {
            let mut whole = [0i64; TILE];
            whole
                .iter_mut()
                .zip(sums)
                .for_each(|(to, sum)| *to = sum.clamp(low, high) as i64);
            i64::store(dtype, &whole[..sums.len()], target, number * TILE)?;
        }
        Ok(())
    }
}

impl Plan {
    /// Passes along these axes of an input of `shape`, in their order. `None` when a tensor between them is too large.
    pub fn new(shape: &[usize], passes: Vec<(usize, Taps)>, extrapolation: f32) -> Option<Plan> {
        let mut shape = shape.to_vec();
        let count = |dims: &[usize]| dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
        let input_len = count(&shape)?;
        let mut result = Vec::with_capacity(passes.len());
        for (axis, taps) in passes {
            let len = std::mem::replace(shape.get_mut(axis)?, taps.len());
            result.push(Pass {
                outer: count(&shape[..axis])?,
                len,
                inner: count(&shape[axis + 1..])?,
                taps,
            });
            count(&shape)?;
        }
        Some(Plan {
            passes: result,
            input_len,
            extrapolation,
        })
    }

    /// How much scratch memory [`Plan::run_f32`] needs, in f32.
    pub fn scratch_len(&self) -> usize {
        2 * self.largest_between()
    }

    fn largest_between(&self) -> usize {
        let between = self.passes.split_last().map_or(&[][..], |(_, between)| between);
        between.iter().map(Pass::output_len).max().unwrap_or(0)
    }

    /// Resamples f32s, with `scratch` for what lies between two passes.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn run_f32(&self, source: &[f32], target: &mut [f32], scratch: &mut [f32], threads: &Threads) {
        let half = self.largest_between();
        let (from, to) = scratch[..2 * half].split_at_mut(half);
        let (mut from, mut to) = (from, to);
        let Some((last, between)) = self.passes.split_last() else {
            let len = source.len().min(target.len());
            return target[..len].copy_from_slice(&source[..len]);
        };
        for (number, pass) in between.iter().enumerate() {
            let source = if number == 0 { source } else { &*from };
            pass.run(source, &mut to[..pass.output_len()], self.extrapolation, threads);
            std::mem::swap(&mut from, &mut to);
        }
        let source = if between.is_empty() { source } else { &*from };
        last.run(source, target, self.extrapolation, threads);
    }

    /// Resamples elements of `dtype`, with sums in `R`.
    pub fn run<R: Real + Send + Sync>(&self, dtype: DType, source: &[u8], target: &mut [u8]) -> Result<()> {
        let mut current = vec![R::default(); self.input_len];
        R::load(dtype, source, 0, 1, &mut current)?;
        for pass in &self.passes {
            let mut next = vec![R::default(); pass.output_len()];
            pass.run(&current, &mut next, R::of(self.extrapolation), &Threads::SINGLE);
            current = next;
        }
        R::store_sums(dtype, &current, target)
    }
}

impl Pass {
    fn output_len(&self) -> usize {
        self.outer * self.taps.len() * self.inner
    }

    fn run<R: Real + Send + Sync>(&self, source: &[R], target: &mut [R], extrapolation: R, threads: &Threads) {
        let (inner, len) = (self.inner, self.len * self.inner);
        if len == 0 || self.taps.is_empty() {
            return;
        }
        let block = self.taps.len() * inner;
        let source = &source[..self.outer * len];
        threads.rows_mut(target, block, block * self.taps.count, |first, target| {
            self.run_blocks(&source[first * len..], target, extrapolation);
        });
    }

    /// As many of the outer blocks as `target` holds.
    fn run_blocks<R: Real>(&self, source: &[R], target: &mut [R], extrapolation: R) {
        let (inner, count) = (self.inner, self.taps.count);
        let (places, weights) = (&self.taps.places[..], &self.taps.weights[..]);
        let blocks = source.chunks_exact(self.len * inner);
        for (source, target) in blocks.zip(target.chunks_exact_mut(self.taps.len() * inner)) {
            if inner == 1 {
                // Neighbours along the axis that is summed over: two taps, as of linear resizing, in one step.
                match count {
                    2 => {
                        let taps = places.as_chunks::<2>().0.iter().zip(weights.as_chunks::<2>().0);
                        for (to, (&[a, b], &[u, v])) in target.iter_mut().zip(taps) {
                            *to = source[a] * R::of(u) + source[b] * R::of(v);
                        }
                    }
                    _ => {
                        let taps = places.chunks_exact(count).zip(weights.chunks_exact(count));
                        for (to, (places, weights)) in target.iter_mut().zip(taps) {
                            let terms = places.iter().zip(weights);
                            *to = terms.fold(R::default(), |sum, (&place, &weight)| {
                                sum + source[place] * R::of(weight)
                            });
                        }
                    }
                }
            } else {
                let taps = places.chunks_exact(count).zip(weights.chunks_exact(count));
                for ((places, weights), target) in taps.zip(target.chunks_exact_mut(inner)) {
                    let row = |tap: usize| &source[places[tap] * inner..][..inner];
                    let (first, rest) = if count >= 2 {
                        let (u, v) = (R::of(weights[0]), R::of(weights[1]));
                        let pairs = row(0).iter().zip(row(1));
                        let pairs = target.iter_mut().zip(pairs);
                        pairs.for_each(|(to, (&a, &b))| *to = a * u + b * v);
                        (2, count)
                    } else {
                        target.fill(R::default());
                        (0, count)
                    };
                    for tap in first..rest {
                        let weight = R::of(weights[tap]);
                        let pairs = target.iter_mut().zip(row(tap));
                        pairs.for_each(|(to, &from)| *to = *to + from * weight);
                    }
                }
            }
            let outside = self.taps.outside.iter().zip(target.chunks_exact_mut(inner));
            for (_, target) in outside.filter(|(is_outside, _)| **is_outside) {
                target.fill(extrapolation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close, assert_same_bits};

    /// Axis after axis by the definition.
    fn reference(shape: &[usize], source: &[f32], passes: &[(usize, Taps)], extrapolation: f32) -> Vec<f32> {
        let (mut shape, mut current) = (shape.to_vec(), source.to_vec());
        for (axis, taps) in passes {
            let inner: usize = shape[axis + 1..].iter().product();
            let (outer, len): (usize, usize) = (shape[..*axis].iter().product(), shape[*axis]);
            let mut next = Vec::new();
            for block in 0..outer {
                for position in 0..taps.len() {
                    for column in 0..inner {
                        let tap = |tap: usize| position * taps.count + tap;
                        let sum = (0..taps.count)
                            .map(|at| {
                                let place = (block * len + taps.places[tap(at)]) * inner + column;
                                current[place] * taps.weights[tap(at)]
                            })
                            .sum();
                        next.push(if taps.outside[position] { extrapolation } else { sum });
                    }
                }
            }
            current = next;
            shape[*axis] = taps.len();
        }
        current
    }

    #[test]
    fn random_taps_along_any_axes_match_the_definition() {
        let (mut rng, threads) = (Rng::new(12), Threads::eager(3));
        for round in 0..200 {
            let shape: Vec<usize> = (0..4).map(|_| rng.size(1, 6)).collect();
            let mut passes = Vec::new();
            for axis in 0..4 {
                if rng.bool() {
                    let count = rng.size(1, 4);
                    let mut taps = Taps::new(count);
                    for _ in 0..rng.size(1, 9) {
                        let places: Vec<(usize, f32)> =
                            (0..count).map(|_| (rng.size(0, shape[axis] - 1), rng.f32())).collect();
                        taps.push(places.into_iter(), rng.size(0, 5) == 0);
                    }
                    passes.push((axis, taps));
                }
            }
            let source = rng.vec(shape.iter().product());
            let expected = reference(&shape, &source, &passes, 7.5);
            let plan = Plan::new(&shape, passes, 7.5).unwrap();
            let mut out = vec![f32::NAN; expected.len()];
            let mut scratch = vec![f32::NAN; plan.scratch_len()];
            plan.run_f32(&source, &mut out, &mut scratch, &Threads::SINGLE);
            let mut cut = vec![f32::NAN; out.len()];
            plan.run_f32(&source, &mut cut, &mut scratch, &threads);
            assert_same_bits(&cut, &out, "resampled");
            assert_close(&out, &expected, 1e-5, &format!("round {round}: {shape:?}"));
            let mut bytes = vec![0u8; out.len() * 4];
            plan.run::<f32>(DType::F32, bytemuck::cast_slice(&source), &mut bytes)
                .unwrap();
            let again: Vec<f32> = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|chunk| f32::from_le_bytes(*chunk))
                .collect();
            assert_close(&again, &out, 0.0, "the path of other types");
        }
    }
}
