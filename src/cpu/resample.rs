//! Separable resampling: along one axis after another, each position becomes a weighted sum of a few elements.

use std::ops::{Add, Mul};

use super::elementwise::{TILE, Wide};
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

    /// Resamples elements of `dtype`, with sums in `R`.
    pub fn run<R: Real>(&self, dtype: DType, source: &[u8], target: &mut [u8]) -> Result<()> {
        let mut current = vec![R::default(); self.input_len];
        R::load(dtype, source, 0, 1, &mut current)?;
        for pass in &self.passes {
            let mut next = vec![R::default(); pass.outer * pass.taps.len() * pass.inner];
            pass.run(&current, &mut next, R::of(self.extrapolation));
            current = next;
        }
        R::store_sums(dtype, &current, target)
    }
}

impl Pass {
    fn run<R: Real>(&self, source: &[R], target: &mut [R], extrapolation: R) {
        let (inner, count) = (self.inner, self.taps.count);
        if inner == 0 || self.len == 0 || self.taps.is_empty() {
            return;
        }
        let blocks = source.chunks_exact(self.len * inner);
        for (source, target) in blocks.zip(target.chunks_exact_mut(self.taps.len() * inner)) {
            let taps = self
                .taps
                .places
                .chunks_exact(count)
                .zip(self.taps.weights.chunks_exact(count));
            let rows = taps.zip(&self.taps.outside).zip(target.chunks_exact_mut(inner));
            for (((places, weights), &is_outside), target) in rows {
                if is_outside {
                    target.fill(extrapolation);
                    continue;
                }
                if let [to] = target {
                    let terms = places.iter().zip(weights);
                    *to = terms.fold(R::default(), |sum, (&place, &weight)| {
                        sum + source[place] * R::of(weight)
                    });
                    continue;
                }
                target.fill(R::default());
                for (&place, &weight) in places.iter().zip(weights) {
                    let (weight, row) = (R::of(weight), &source[place * inner..(place + 1) * inner]);
                    target
                        .iter_mut()
                        .zip(row)
                        .for_each(|(to, &from)| *to = *to + from * weight);
                }
            }
        }
    }
}
