//! What a matrix kernel still does to its result while that is in registers or in cache: scale, bias, residual, clamp,
//! and any pointwise program. Every output is seen as rows: of a MatMul the rows of the matrix (of all batches), of a
//! convolution one row per image and channel. Element (row, column) stands at `row * row_len + column` of the output.

use crate::cpu::simd::{F32x4, LANES};

/// A pointwise program that runs over freshly computed values.
///
/// `values` are the elements of row `row` from column `col` on. Segments come in no promised order, each element
/// exactly once, and are usually some hundred elements long, still in cache.
pub trait RowProgram: Send + Sync {
    /// Replaces `values` by the program's result.
    fn apply(&self, row: usize, col: usize, values: &mut [f32]);
}

/// Values added to each row or each column of the result.
#[derive(Clone, Copy, Debug, Default)]
pub enum Bias<'a> {
    /// Nothing is added.
    #[default]
    None,
    /// `bias[row]` is added to the whole row: the bias of a convolution's output channels.
    PerRow(&'a [f32]),
    /// `bias[col]` is added to the whole column: the bias of a MatMul or Gemm.
    PerColumn(&'a [f32]),
}

/// Lower and upper bounds of the result; a NaN stays a NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    pub min: f32,
    pub max: f32,
}

impl Clamp {
    /// `max(x, 0)`.
    pub const RELU: Self = Self {
        min: 0.0,
        max: f32::INFINITY,
    };
    /// `min(max(x, 0), 6)`.
    pub const RELU6: Self = Self { min: 0.0, max: 6.0 };

    #[inline(always)]
    fn scalar(self, value: f32) -> f32 {
        let value = if value < self.min { self.min } else { value };
        if self.max < value { self.max } else { value }
    }
}

/// The steps in the order they happen: `program(clamp(alpha * x + bias + residual))`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// A factor on the matrix product.
    pub alpha: f32,
    pub bias: Bias<'a>,
    /// A tensor of the output's own shape that is added.
    pub residual: Option<&'a [f32]>,
    pub clamp: Option<Clamp>,
    pub program: Option<&'a dyn RowProgram>,
    /// The row that `program` is told for row 0 of the kernel's output: not 0 where one call computes one batch of
    /// many. `bias` and `residual` begin at row 0 of the kernel's output.
    pub first_row: usize,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            bias: Bias::None,
            residual: None,
            clamp: None,
            program: None,
            first_row: 0,
        }
    }
}

impl<'a> Epilogue<'a> {
    /// No step at all.
    pub const fn none() -> Self {
        Self {
            alpha: 1.0,
            bias: Bias::None,
            residual: None,
            clamp: None,
            program: None,
            first_row: 0,
        }
    }

    /// The epilogue of the output that begins `rows` rows further down; `row_len` is the length of a row.
    pub fn from_row(&self, rows: usize, row_len: usize) -> Self {
        let bias = match self.bias {
            Bias::PerRow(bias) => Bias::PerRow(bias.get(rows..).unwrap_or(&[])),
            other => other,
        };
        let residual = self
            .residual
            .map(|residual| residual.get(rows * row_len..).unwrap_or(&[]));
        Self {
            bias,
            residual,
            first_row: self.first_row + rows,
            ..*self
        }
    }

    /// Checks that bias and residual cover `rows` rows of `row_len`, so that kernels may read them without bounds.
    ///
    /// # Panics
    /// When one of them is too short: a mistake of the caller.
    pub(crate) fn check(&self, rows: usize, row_len: usize) {
        match self.bias {
            Bias::None => {}
            Bias::PerRow(bias) => assert!(bias.len() >= rows, "bias holds {} rows of {rows}", bias.len()),
            Bias::PerColumn(bias) => assert!(bias.len() >= row_len, "bias holds {} columns of {row_len}", bias.len()),
        }
        if let Some(residual) = self.residual {
            assert!(
                residual.len() >= rows * row_len,
                "residual holds {} of {rows}x{row_len}",
                residual.len()
            );
        }
    }

    /// Runs every step on a row segment of a kernel that does not do them in registers.
    /// `row` counts from the kernel's output, `row_len` is the length of a whole row.
    pub fn apply(&self, row: usize, col: usize, row_len: usize, values: &mut [f32]) {
        self.apply_registers(row, col, row_len, values);
        if let Some(program) = self.program {
            program.apply(self.first_row + row, col, values);
        }
    }

    /// All steps but the program.
    pub(crate) fn apply_registers(&self, row: usize, col: usize, row_len: usize, values: &mut [f32]) {
        let len = values.len();
        if self.alpha != 1.0 {
            map(values, |x| x * F32x4::splat(self.alpha), |x| x * self.alpha);
        }
        match self.bias {
            Bias::None => {}
            Bias::PerRow(bias) => {
                let bias = bias[row];
                map(values, |x| x + F32x4::splat(bias), |x| x + bias);
            }
            Bias::PerColumn(bias) => add(values, &bias[col..col + len]),
        }
        if let Some(residual) = self.residual {
            add(values, &residual[row * row_len + col..][..len]);
        }
        if let Some(clamp) = self.clamp {
            let (min, max) = (F32x4::splat(clamp.min), F32x4::splat(clamp.max));
            map(values, |x| x.at_least(min).at_most(max), |x| clamp.scalar(x));
        }
    }
}

#[inline(always)]
fn map(values: &mut [f32], vector: impl Fn(F32x4) -> F32x4, scalar: impl Fn(f32) -> f32) {
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        vector(F32x4::load(chunk)).store(chunk);
    }
    for value in chunks.into_remainder() {
        *value = scalar(*value);
    }
}

fn add(values: &mut [f32], others: &[f32]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value += other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Square;
    impl RowProgram for Square {
        fn apply(&self, row: usize, col: usize, values: &mut [f32]) {
            for (index, value) in values.iter_mut().enumerate() {
                *value = *value * *value + (row * 100 + col + index) as f32;
            }
        }
    }

    #[test]
    fn steps_run_in_order_and_rows_shift() {
        let bias = [10.0, 20.0, 30.0];
        let residual: Vec<f32> = (0..21).map(|i| i as f32).collect();
        let epilogue = Epilogue {
            alpha: 2.0,
            bias: Bias::PerRow(&bias),
            residual: Some(&residual),
            clamp: Some(Clamp { min: 0.0, max: 45.0 }),
            program: Some(&Square),
            first_row: 5,
        };
        let mut values = [1.0; 5];
        epilogue.apply(2, 2, 7, &mut values);
        let expected: [f32; 5] = std::array::from_fn(|i| {
            let x = (2.0 + 30.0 + (16 + i) as f32).min(45.0);
            x * x + (700 + 2 + i) as f32
        });
        assert_eq!(values, expected);

        let mut shifted = [1.0; 5];
        epilogue.from_row(2, 7).apply(0, 2, 7, &mut shifted);
        assert_eq!(shifted, expected);
    }

    #[test]
    fn relu_keeps_nan() {
        let epilogue = Epilogue {
            clamp: Some(Clamp::RELU),
            ..Epilogue::none()
        };
        let mut values = [f32::NAN, -1.0, 2.0, -0.5, f32::NAN];
        epilogue.apply(0, 0, 5, &mut values);
        assert!(values[0].is_nan() && values[4].is_nan());
        assert_eq!(&values[1..4], &[0.0, 2.0, 0.0]);
    }
}
