//! Matrix products of the other element types that MatMul and Gemm allow (f64, i32, u32, i64, u64 and narrower
//! integers). Integers wrap around, as in two's complement.

use std::fmt::Debug;

/// An element type that can be multiplied and summed.
pub trait Element: Copy + Debug + PartialEq + Send + Sync + 'static {
    const ZERO: Self;
    const ONE: Self;
    /// `self * by`.
    fn times(self, by: Self) -> Self;
    /// `self + other`.
    fn plus(self, other: Self) -> Self;
}

macro_rules! float {
    ($($type:ty),*) => {$(
        impl Element for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn times(self, by: Self) -> Self {
                self * by
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self + other
            }
        }
    )*};
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Element for $type {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            #[inline(always)]
            fn times(self, by: Self) -> Self {
                self.wrapping_mul(by)
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
        }
    )*};
}

float!(f32, f64);
integer!(i8, u8, i16, u16, i32, u32, i64, u64);

/// A matrix of any element type: element (i, j) stands at `i * row_stride + j * col_stride` of `data`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    pub data: &'a [T],
    pub row_stride: usize,
    pub col_stride: usize,
}

/// Rows of B that stay in cache while every row of A passes by.
const DEPTH: usize = 64;

/// `out[m, n] = a[m, k] · b[k, n]`, row-major.
///
/// # Panics
/// When an operand or `out` is too small.
pub fn gemm<T: Element>(m: usize, k: usize, n: usize, a: Matrix<T>, b: Matrix<T>, out: &mut [T]) {
    let out = &mut out[..m * n];
    out.fill(T::ZERO);
    if n == 0 {
        return;
    }
    for first in (0..k).step_by(DEPTH) {
        for (i, row) in out.chunks_exact_mut(n).enumerate() {
            for depth in first..k.min(first + DEPTH) {
                let factor = a.data[i * a.row_stride + depth * a.col_stride];
                let start = depth * b.row_stride;
                if b.col_stride == 1 {
                    for (sum, &value) in row.iter_mut().zip(&b.data[start..start + n]) {
                        *sum = sum.plus(factor.times(value));
                    }
                } else {
                    for (j, sum) in row.iter_mut().enumerate() {
                        *sum = sum.plus(factor.times(b.data[start + j * b.col_stride]));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_and_strides_transpose() {
        let a = [i32::MAX, 2, 3, 4, 5, 6];
        let b = [2, 0, 1, 7, -3, 4];
        // b is stored transposed: 3x2 from a 2x3 buffer.
        let rhs = Matrix {
            data: &b,
            row_stride: 1,
            col_stride: 3,
        };
        let mut out = [0; 4];
        gemm(
            2,
            3,
            2,
            Matrix {
                data: &a,
                row_stride: 3,
                col_stride: 1,
            },
            rhs,
            &mut out,
        );
        let dot = |row: &[i32], col: &[i32]| {
            row.iter()
                .zip(col)
                .fold(0i32, |s, (x, y)| s.wrapping_add(x.wrapping_mul(*y)))
        };
        assert_eq!(
            out,
            [
                dot(&a[..3], &b[..3]),
                dot(&a[..3], &b[3..]),
                dot(&a[3..], &b[..3]),
                dot(&a[3..], &b[3..])
            ]
        );
    }

    #[test]
    fn deep_f64_product_matches_naive_and_empty_sizes_are_zero() {
        let (m, k, n) = (3, 200, 5);
        let a: Vec<f64> = (0..m * k).map(|i| (i as f64 * 0.37).sin()).collect();
        let b: Vec<f64> = (0..k * n).map(|i| (i as f64 * 0.71).cos()).collect();
        let mut out = vec![0.0; m * n];
        let lhs = Matrix {
            data: &a,
            row_stride: k,
            col_stride: 1,
        };
        gemm(
            m,
            k,
            n,
            lhs,
            Matrix {
                data: &b,
                row_stride: n,
                col_stride: 1,
            },
            &mut out,
        );
        for i in 0..m {
            for j in 0..n {
                let expected: f64 = (0..k).map(|d| a[i * k + d] * b[d * n + j]).sum();
                assert!((out[i * n + j] - expected).abs() < 1e-10, "({i}, {j})");
            }
        }
        let empty = Matrix {
            data: &[] as &[f64],
            row_stride: 0,
            col_stride: 1,
        };
        let mut out = vec![1.0; 6];
        gemm(2, 0, 3, empty, empty, &mut out);
        assert_eq!(out, [0.0; 6]);
        gemm(2, 4, 0, lhs, empty, &mut []);
    }
}
