//! Reductions over any set of axes, for the element types that ONNX allows, and ArgMax / ArgMin. Neighbouring axes of
//! one kind are merged at plan time; the input is then read once, in memory order.

use crate::cpu::math::{exp, scalar};
use crate::cpu::simd::{max_f32, min_f32};

/// What is computed of the values that are reduced together (ONNX Reduce*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    /// Σ |x|
    L1,
    /// √ Σ x²
    L2,
    /// ln Σ x
    LogSum,
    /// ln Σ e^x, without overflow
    LogSumExp,
    SumSquare,
}

/// An element type of reductions. Integers wrap around; means and roots of integers round towards zero.
pub trait ReduceElement: Copy + Send + Sync + 'static {
    /// Whether each kind of reduction has a loop of its own for this type. The other types have one loop each, which
    /// calls a function per element: they are rare, and nine types in eight kinds were a tenth of the whole program.
    const SPECIALISED: bool = false;
    const ZERO: Self;
    const ONE: Self;
    /// What the maximum of nothing is.
    const LOWEST: Self;
    /// What the minimum of nothing is.
    const HIGHEST: Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// The larger; NaN when either is.
    fn larger(self, other: Self) -> Self;
    /// The smaller; NaN when either is.
    fn smaller(self, other: Self) -> Self;
    fn magnitude(self) -> Self;
    fn divided_by(self, count: usize) -> Self;
    fn root(self) -> Self;
    fn ln(self) -> Self;
    /// e^(self - shift), of infinities minus themselves e^0.
    fn exp_minus(self, shift: Self) -> Self;
}

macro_rules! float_element {
    ($($type:ident $max:path, $min:path, $exp:expr;)*) => {$(
        impl ReduceElement for $type {
            const SPECIALISED: bool = size_of::<$type>() == 4;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $type::NEG_INFINITY;
            const HIGHEST: Self = $type::INFINITY;
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                $max(self, other)
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                $min(self, other)
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                self.abs()
            }
            fn divided_by(self, count: usize) -> Self {
                self / count as $type
            }
            fn root(self) -> Self {
                self.sqrt()
            }
            fn ln(self) -> Self {
                $type::ln(self)
            }
            #[inline(always)]
            fn exp_minus(self, shift: Self) -> Self {
                if self == shift { 1.0 } else { $exp(self - shift) }
            }
        }
    )*};
}

fn max_f64(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

fn min_f64(a: f64, b: f64) -> f64 {
    if a < b || a.is_nan() { a } else { b }
}

float_element! {
    f32 max_f32, min_f32, |x| scalar(exp, x);
    f64 max_f64, min_f64, f64::exp;
}

macro_rules! integer_element {
    ($($type:ident |$x:ident| $magnitude:expr;)*) => {$(
        impl ReduceElement for $type {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = $type::MIN;
            const HIGHEST: Self = $type::MAX;
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                let $x = self;
                $magnitude
            }
            fn divided_by(self, count: usize) -> Self {
                // Through i128, where the count of any slice and every value fit; an empty mean is 0.
                if count == 0 { 0 } else { (self as i128 / count as i128) as $type }
            }
            fn root(self) -> Self {
                (self as f64).sqrt() as $type
            }
            fn ln(self) -> Self {
                (self as f64).ln() as $type
            }
            fn exp_minus(self, shift: Self) -> Self {
                (self as f64 - shift as f64).exp() as $type
            }
        }
    )*};
}

integer_element! {
    i64 |x| x.wrapping_abs();
}

/// A reduction's axes, planned for one input shape.
#[derive(Clone, Debug)]
pub struct ReducePlan {
    /// Merged leading axes: size and the output's stride, 0 for reduced axes.
    axes: Box<[(usize, usize)]>,
    /// The last merged axis.
    last: (usize, Last),
    len_in: usize,
    len_out: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Reduced,
    Kept,
}

/// Independent partial results of a row: enough to keep vector units busy.
const PARTIALS: usize = 16;

impl ReducePlan {
    /// `reduced[i]`: whether axis i disappears (or becomes 1). `None` when the lengths differ or sizes overflow.
    pub fn new(shape: &[usize], reduced: &[bool]) -> Option<Self> {
        if shape.len() != reduced.len() {
            return None;
        }
        let product = |wanted: Option<bool>| {
            let sizes = shape
                .iter()
                .zip(reduced)
                .filter(|(_, r)| wanted.is_none_or(|wanted| **r == wanted));
            sizes.map(|(size, _)| *size).try_fold(1usize, usize::checked_mul)
        };
        let (len_in, count, len_out) = (product(None)?, product(Some(true))?, product(Some(false))?);
        let mut merged: Vec<(usize, bool)> = Vec::new();
        for (&size, &reduced) in shape.iter().zip(reduced).filter(|(size, _)| **size != 1) {
            match merged.last_mut() {
                Some((total, kind)) if *kind == reduced => *total *= size,
                _ => merged.push((size, reduced)),
            }
        }
        let (last, last_reduced) = merged.pop().unwrap_or((1, true));
        let mut stride = if last_reduced { 1 } else { last };
        let mut axes = vec![(0, 0); merged.len()];
        if len_in > 0 {
            for (axis, &(size, reduced)) in axes.iter_mut().zip(&merged).rev() {
                *axis = (size, if reduced { 0 } else { stride });
                stride *= if reduced { 1 } else { size };
            }
        }
        let last = (last, if last_reduced { Last::Reduced } else { Last::Kept });
        Some(Self {
            axes: axes.into(),
            last,
            len_in,
            len_out,
            count,
        })
    }

    /// The number of values of the output.
    pub fn len(&self) -> usize {
        self.len_out
    }

    /// Whether the output is empty.
    pub fn is_empty(&self) -> bool {
        self.len_out == 0
    }

    /// How many elements of scratch [`ReducePlan::run`] needs.
    pub fn scratch_len(&self, kind: ReduceKind) -> usize {
        if kind == ReduceKind::LogSumExp { self.len_out } else { 0 }
    }

    /// Reduces.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn run<T: ReduceElement>(&self, kind: ReduceKind, input: &[T], out: &mut [T], scratch: &mut [T]) {
        let (input, out) = (&input[..self.len_in], &mut out[..self.len_out]);
        let max = &mut scratch[..self.scratch_len(kind)];
        let folded = if kind == ReduceKind::LogSumExp {
            &mut *max
        } else {
            &mut *out
        };
        if T::SPECIALISED {
            self.fold_kind(kind, input, folded);
        } else {
            let (start, combine, map) = recipe(kind);
            self.fold(input, folded, start, combine, map);
        }
        match kind {
            ReduceKind::LogSumExp => self.sum_of_powers(input, out, max),
            ReduceKind::Mean => out.iter_mut().for_each(|value| *value = value.divided_by(self.count)),
            ReduceKind::L2 => out.iter_mut().for_each(|value| *value = value.root()),
            ReduceKind::LogSum => out.iter_mut().for_each(|value| *value = value.ln()),
            _ => {}
        }
    }

    /// The fold of one kind, with a loop of its own for each.
    fn fold_kind<T: ReduceElement>(&self, kind: ReduceKind, input: &[T], out: &mut [T]) {
        match kind {
            ReduceKind::Sum | ReduceKind::Mean | ReduceKind::LogSum => self.fold(input, out, T::ZERO, T::plus, |x| x),
            ReduceKind::Max | ReduceKind::LogSumExp => self.fold(input, out, T::LOWEST, T::larger, |x| x),
            ReduceKind::Min => self.fold(input, out, T::HIGHEST, T::smaller, |x| x),
            ReduceKind::Prod => self.fold(input, out, T::ONE, T::times, |x| x),
            ReduceKind::L1 => self.fold(input, out, T::ZERO, T::plus, T::magnitude),
            ReduceKind::L2 | ReduceKind::SumSquare => self.fold(input, out, T::ZERO, T::plus, |x| x.times(x)),
        }
    }

    /// ln Σ e^x of each place, given the largest x of each.
    fn sum_of_powers<T: ReduceElement>(&self, input: &[T], out: &mut [T], max: &[T]) {
        out.fill(T::ZERO);
        self.for_rows(|input_start, out_start| {
            let row = &input[input_start..input_start + self.last.0];
            match self.last.1 {
                Last::Reduced => {
                    let shift = max[out_start];
                    let row = row.iter().map(|x| x.exp_minus(shift));
                    out[out_start] = row.fold(out[out_start], T::plus);
                }
                Last::Kept => {
                    let places = out[out_start..].iter_mut().zip(&max[out_start..]);
                    for ((sum, &shift), x) in places.zip(row) {
                        *sum = sum.plus(x.exp_minus(shift));
                    }
                }
            }
        });
        for (value, &max) in out.iter_mut().zip(max) {
            *value = if self.count == 0 {
                value.ln()
            } else {
                value.ln().plus(max)
            };
        }
    }

    /// Calls `step(place in the input, place in the output)` for each run of the last axis, in memory order.
    fn for_rows(&self, mut step: impl FnMut(usize, usize)) {
        let row = self.last.0;
        if self.len_in == 0 {
            return;
        }
        for index in 0..self.len_in / row {
            let (mut rest, mut place) = (index, 0);
            for &(size, stride) in self.axes.iter().rev() {
                place += rest % size * stride;
                rest /= size;
            }
            step(index * row, place);
        }
    }

    #[inline(always)]
    fn fold<T: Copy>(
        &self,
        input: &[T],
        out: &mut [T],
        start: T,
        combine: impl Fn(T, T) -> T + Copy,
        map: impl Fn(T) -> T + Copy,
    ) {
        out.fill(start);
        self.for_rows(|input_start, out_start| {
            let row = &input[input_start..input_start + self.last.0];
            match self.last.1 {
                Last::Reduced => out[out_start] = combine(out[out_start], fold_row(row, start, combine, map)),
                Last::Kept => {
                    for (sum, &x) in out[out_start..].iter_mut().zip(row) {
                        *sum = combine(*sum, map(x));
                    }
                }
            }
        });
    }
}

/// Where a kind's fold starts, how it combines, and what it does to each element before.
type Recipe<T> = (T, fn(T, T) -> T, fn(T) -> T);

fn recipe<T: ReduceElement>(kind: ReduceKind) -> Recipe<T> {
    match kind {
        ReduceKind::Sum | ReduceKind::Mean | ReduceKind::LogSum => (T::ZERO, T::plus, |x| x),
        ReduceKind::Max | ReduceKind::LogSumExp => (T::LOWEST, T::larger, |x| x),
        ReduceKind::Min => (T::HIGHEST, T::smaller, |x| x),
        ReduceKind::Prod => (T::ONE, T::times, |x| x),
        ReduceKind::L1 => (T::ZERO, T::plus, T::magnitude),
        ReduceKind::L2 | ReduceKind::SumSquare => (T::ZERO, T::plus, |x| x.times(x)),
    }
}

/// Combines a row through independent partial results, which vectorise and lose less precision than one running sum.
#[inline(always)]
fn fold_row<T: Copy>(row: &[T], start: T, combine: impl Fn(T, T) -> T, map: impl Fn(T) -> T) -> T {
    let mut partials = [start; PARTIALS];
    let (chunks, tail) = row.as_chunks::<PARTIALS>();
    for chunk in chunks {
        for (partial, &x) in partials.iter_mut().zip(chunk) {
            *partial = combine(*partial, map(x));
        }
    }
    let mut width = PARTIALS / 2;
    while width > 0 {
        for i in 0..width {
            partials[i] = combine(partials[i], partials[i + width]);
        }
        width /= 2;
    }
    tail.iter().fold(partials[0], |sum, &x| combine(sum, map(x)))
}

/// Which place [`arg_reduce`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    Max,
    Min,
}

/// Which of several equal values counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    First,
    Last,
}

/// The place along the middle of `[outer, axis, inner]` of the largest or smallest value (ONNX ArgMax, ArgMin).
/// Writes `outer * inner` places; an empty axis gives zeros.
///
/// # Panics
/// When a slice is too short.
pub fn arg_reduce<T: Copy + PartialOrd>(
    arg: Arg,
    tie: Tie,
    input: &[T],
    out: &mut [i64],
    [outer, axis, inner]: [usize; 3],
) {
    let input = &input[..outer * axis * inner];
    for block in 0..outer {
        for column in 0..inner {
            let mut best = 0;
            let start = block * axis * inner + column;
            for i in 1..axis {
                let (value, so_far) = (input[start + i * inner], input[start + best * inner]);
                let better = match (arg, tie) {
                    (Arg::Max, Tie::First) => value > so_far,
                    (Arg::Max, Tie::Last) => value >= so_far,
                    (Arg::Min, Tie::First) => value < so_far,
                    (Arg::Min, Tie::Last) => value <= so_far,
                };
                if better {
                    best = i;
                }
            }
            out[block * inner + column] = best as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close};

    const KINDS: [ReduceKind; 10] = [
        ReduceKind::Sum,
        ReduceKind::Mean,
        ReduceKind::Max,
        ReduceKind::Min,
        ReduceKind::Prod,
        ReduceKind::L1,
        ReduceKind::L2,
        ReduceKind::LogSum,
        ReduceKind::LogSumExp,
        ReduceKind::SumSquare,
    ];

    fn reference(kind: ReduceKind, values: &[f64]) -> f64 {
        let sum = |f: fn(f64) -> f64| values.iter().map(|&x| f(x)).sum::<f64>();
        match kind {
            ReduceKind::Sum => sum(|x| x),
            ReduceKind::Mean => sum(|x| x) / values.len() as f64,
            ReduceKind::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ReduceKind::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
            ReduceKind::Prod => values.iter().product(),
            ReduceKind::L1 => sum(f64::abs),
            ReduceKind::L2 => sum(|x| x * x).sqrt(),
            ReduceKind::LogSum => sum(|x| x).ln(),
            ReduceKind::LogSumExp => sum(f64::exp).ln(),
            ReduceKind::SumSquare => sum(|x| x * x),
        }
    }

    /// The values that meet in each output, by the definition.
    fn groups(shape: &[usize], reduced: &[bool], input: &[f64]) -> Vec<Vec<f64>> {
        let kept: usize = shape
            .iter()
            .zip(reduced)
            .filter(|(_, r)| !**r)
            .map(|(s, _)| *s)
            .product();
        let mut groups = vec![Vec::new(); kept];
        for (index, &value) in input.iter().enumerate() {
            let (mut rest, mut place, mut stride) = (index, 0, 1);
            for axis in (0..shape.len()).rev() {
                if !reduced[axis] {
                    place += rest % shape[axis] * stride;
                    stride *= shape[axis];
                }
                rest /= shape[axis];
            }
            groups[place].push(value);
        }
        groups
    }

    #[test]
    fn random_axes_match_the_definition_in_f32_and_f64() {
        let mut rng = Rng::new(11);
        for _ in 0..200 {
            let rank = rng.size(0, 5);
            let shape: Vec<usize> = (0..rank)
                .map(|_| if rng.size(0, 25) == 0 { 0 } else { rng.size(1, 6) })
                .collect();
            let reduced: Vec<bool> = (0..rank).map(|_| rng.bool()).collect();
            let input: Vec<f32> = rng.vec(shape.iter().product()).iter().map(|x| x.abs() + 0.3).collect();
            let wide: Vec<f64> = input.iter().map(|&x| f64::from(x)).collect();
            let groups = groups(&shape, &reduced, &wide);
            let plan = ReducePlan::new(&shape, &reduced).unwrap();
            assert_eq!(plan.len(), groups.len());
            for kind in KINDS {
                let expected: Vec<f32> = groups.iter().map(|group| reference(kind, group) as f32).collect();
                let mut out = vec![9.0; plan.len()];
                plan.run(kind, &input, &mut out, &mut vec![9.0; plan.scratch_len(kind)]);
                assert_close(&out, &expected, 1e-4, &format!("{kind:?} {shape:?} {reduced:?}"));
                let mut out = vec![9.0; plan.len()];
                plan.run(kind, &wide, &mut out, &mut vec![9.0; plan.scratch_len(kind)]);
                let out: Vec<f32> = out.iter().map(|&x| x as f32).collect();
                assert_close(&out, &expected, 1e-6, &format!("f64 {kind:?} {shape:?} {reduced:?}"));
            }
        }
    }

    #[test]
    fn integers_keep_every_bit_and_wrap() {
        let big = (1i64 << 60) + 1;
        let plan = ReducePlan::new(&[2, 2], &[false, true]).unwrap();
        let mut out = [0; 2];
        plan.run(ReduceKind::Sum, &[big, 1, i64::MAX, 1], &mut out, &mut []);
        assert_eq!(out, [big + 1, i64::MIN]);
        plan.run(ReduceKind::Mean, &[7, 2, -7, 2], &mut out, &mut []);
        assert_eq!(out, [4, -2]);
        let mut out = [0; 2];
        plan.run(ReduceKind::Max, &[3i64, 200, 1, 0], &mut out, &mut []);
        assert_eq!(out, [200, 1]);
    }

    #[test]
    fn large_rows_and_infinities_are_handled() {
        let row = vec![1.0f32; 100_003];
        let plan = ReducePlan::new(&[row.len()], &[true]).unwrap();
        let mut out = [0.0];
        plan.run(ReduceKind::Sum, &row, &mut out, &mut []);
        assert_eq!(out, [100_003.0]);
        let plan = ReducePlan::new(&[3], &[true]).unwrap();
        for (values, expected) in [
            ([f32::NEG_INFINITY; 3], f32::NEG_INFINITY),
            ([f32::INFINITY, 1.0, 2.0], f32::INFINITY),
            ([1000.0; 3], 1000.0 + 3.0f32.ln()),
        ] {
            plan.run(ReduceKind::LogSumExp, &values, &mut out, &mut [0.0]);
            assert_eq!(out, [expected]);
        }
        plan.run(ReduceKind::Max, &[1.0, f32::NAN, 2.0], &mut out, &mut []);
        assert!(out[0].is_nan());
    }

    #[test]
    fn arg_reduce_breaks_ties_as_asked() {
        let input = [1, 3, 3, 2, 0, 3, 5, 0];
        let mut out = [9; 2];
        arg_reduce(Arg::Max, Tie::First, &input, &mut out, [2, 4, 1]);
        assert_eq!(out, [1, 2]);
        arg_reduce(Arg::Max, Tie::Last, &input, &mut out, [2, 4, 1]);
        assert_eq!(out, [2, 2]);
        arg_reduce(Arg::Min, Tie::Last, &input, &mut out, [2, 4, 1]);
        assert_eq!(out, [0, 3]);
        let mut out = [9; 4];
        arg_reduce(Arg::Min, Tie::First, &input, &mut out, [2, 2, 2]);
        assert_eq!(out, [0, 1, 0, 1]);
    }
}
