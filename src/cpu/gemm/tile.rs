//! The inner loops: tiles of up to four rows and eight columns that stay in registers over a block of k, and the step
//! that stores them. Products of one or two rows take four or two panels of B at once to keep eight accumulators busy.

use std::ops::Range;

use super::{MR, NR};
use crate::cpu::epilogue::{Bias, Epilogue};
use crate::cpu::simd::{F32x4, LANES};

/// The rows of A of one block.
#[derive(Clone, Copy)]
pub(super) enum TileA<'a> {
    /// Panels of four rows, each `depth * MR` long.
    Packed(&'a [f32]),
    /// Rows of A as they are.
    Rows { data: &'a [f32], row_stride: usize },
}

/// Where tiles go and what happens to them on the way.
pub(super) struct Output<'a> {
    pub out: *mut f32,
    pub row_len: usize,
    /// Whether earlier blocks of k stand in `out` already.
    pub accumulate: bool,
    /// The epilogue, in the last block of k.
    pub steps: Option<&'a Epilogue<'a>>,
}

/// Computes a block of C from a block of A and the packed panels `b` of `depth` rows.
///
/// # Safety
/// `a` holds `rows.len()` rows and `b` `cols.len()` columns (whole panels) of `depth` values; `output.out` is writable
/// at `rows` × `cols`, and the epilogue's bias and residual are readable there.
pub(super) unsafe fn run_block(
    a: TileA,
    b: &[f32],
    depth: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    output: &Output,
) {
    let panel_len = depth * NR;
    let whole = rows.len() / MR * MR;
    for first in (0..cols.len()).step_by(NR) {
        let count = NR.min(cols.len() - first);
        // SAFETY: `b` holds whole panels.
        let b = unsafe { b.as_ptr().add(first / NR * panel_len) };
        for row in (0..whole).step_by(MR) {
            let at = Place {
                row: rows.start + row,
                col: cols.start + first,
                count,
            };
            // SAFETY: four rows of A and one panel of B lie there.
            unsafe {
                match a {
                    TileA::Packed(data) => {
                        tile::<4, 2, true>(depth, data.as_ptr().add(row * depth), 0, b, 0, at, output)
                    }
                    TileA::Rows { data, row_stride } => {
                        tile::<4, 2, false>(depth, data.as_ptr().add(row * row_stride), row_stride, b, 0, at, output);
                    }
                }
            }
        }
    }
    if whole < rows.len() {
        // SAFETY: the caller's promise.
        unsafe { remaining_rows(a, b, depth, whole, rows, cols, output) };
    }
}

/// The one to three rows below the last whole tile.
///
/// # Safety
/// As [`run_block`].
unsafe fn remaining_rows(
    a: TileA,
    b: &[f32],
    depth: usize,
    whole: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    output: &Output,
) {
    let left = rows.len() - whole;
    let panel_len = depth * NR;
    let mut first = 0;
    while first < cols.len() {
        let panels = (cols.len() - first).div_ceil(NR);
        let together = match left {
            1 if panels >= 4 => 4,
            1 | 2 if panels >= 2 => 2,
            _ => 1,
        };
        let at = Place {
            row: rows.start + whole,
            col: cols.start + first,
            count: (together * NR).min(cols.len() - first),
        };
        // SAFETY: `left` rows of A and `together` panels of B lie there.
        unsafe {
            let b = b.as_ptr().add(first / NR * panel_len);
            let (packed, a, stride) = match a {
                TileA::Packed(data) => (true, data.as_ptr().add(whole * depth), 0),
                TileA::Rows { data, row_stride } => (false, data.as_ptr().add(whole * row_stride), row_stride),
            };
            match (left, together, packed) {
                (1, 4, true) => tile::<1, 8, true>(depth, a, stride, b, panel_len, at, output),
                (1, 4, false) => tile::<1, 8, false>(depth, a, stride, b, panel_len, at, output),
                (1, 2, true) => tile::<1, 4, true>(depth, a, stride, b, panel_len, at, output),
                (1, 2, false) => tile::<1, 4, false>(depth, a, stride, b, panel_len, at, output),
                (1, _, true) => tile::<1, 2, true>(depth, a, stride, b, panel_len, at, output),
                (1, _, false) => tile::<1, 2, false>(depth, a, stride, b, panel_len, at, output),
                (2, 2, true) => tile::<2, 4, true>(depth, a, stride, b, panel_len, at, output),
                (2, 2, false) => tile::<2, 4, false>(depth, a, stride, b, panel_len, at, output),
                (2, _, true) => tile::<2, 2, true>(depth, a, stride, b, panel_len, at, output),
                (2, _, false) => tile::<2, 2, false>(depth, a, stride, b, panel_len, at, output),
                (_, _, true) => tile::<3, 2, true>(depth, a, stride, b, panel_len, at, output),
                (_, _, false) => tile::<3, 2, false>(depth, a, stride, b, panel_len, at, output),
            }
        }
        first += together * NR;
    }
}

/// The first row and column of a tile in C and how many of its columns exist.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    col: usize,
    count: usize,
}

/// One tile of `M` rows and `V` vectors of columns. `PACKED`: A is a panel of four rows, else rows `row_stride` apart.
/// Panels of B are `panel_len` apart.
///
/// # Safety
/// A and B are readable for `depth` steps, and [`Output`] is valid at `at`.
#[inline(never)]
unsafe fn tile<const M: usize, const V: usize, const PACKED: bool>(
    depth: usize,
    mut a: *const f32,
    row_stride: usize,
    mut b: *const f32,
    panel_len: usize,
    at: Place,
    output: &Output,
) {
    let mut acc = [[F32x4::zero(); V]; M];
    for _ in 0..depth {
        // SAFETY: the caller's promise: `depth` steps are readable.
        unsafe {
            let mut columns = [F32x4::zero(); V];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = F32x4::load_ptr(b.add(v / 2 * panel_len + v % 2 * LANES));
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let value = F32x4::load_splat_ptr(if PACKED { a.add(r) } else { a.add(r * row_stride) });
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = value.mul_add(column, *sum);
                }
            }
            a = a.add(if PACKED { MR } else { 1 });
            b = b.add(NR);
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store(&acc, at, output) }
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn store<const M: usize, const V: usize>(acc: &[[F32x4; V]; M], at: Place, output: &Output) {
    for (r, row) in acc.iter().enumerate() {
        let offset = (at.row + r) * output.row_len + at.col;
        for (v, &sum) in row.iter().enumerate() {
            let col = v * LANES;
            if col + LANES <= at.count {
                // SAFETY: four columns exist from here on in C, the residual and the bias.
                unsafe {
                    let target = output.out.add(offset + col);
                    let mut value = sum;
                    if output.accumulate {
                        value += F32x4::load_ptr(target);
                    }
                    if let Some(steps) = output.steps {
                        value = finish(value, steps, at.row + r, at.col + col, offset + col);
                    }
                    value.store_ptr(target);
                }
            } else if col < at.count {
                let count = at.count - col;
                // SAFETY: `count` columns exist, and only those are touched.
                unsafe {
                    let target = std::slice::from_raw_parts_mut(output.out.add(offset + col), count);
                    let mut value = sum;
                    if output.accumulate {
                        value += F32x4::load_partial(target, 0.0);
                    }
                    value.store_partial(target);
                    if let Some(steps) = output.steps {
                        steps.apply_registers(at.row + r, at.col + col, output.row_len, target);
                    }
                }
            }
        }
    }
}

/// The epilogue's steps on one vector of row `row`, columns from `col`, `offset` in C.
///
/// # Safety
/// Bias and residual are readable there.
#[inline(always)]
unsafe fn finish(mut value: F32x4, steps: &Epilogue, row: usize, col: usize, offset: usize) -> F32x4 {
    // SAFETY: the caller's promise.
    unsafe {
        if steps.alpha != 1.0 {
            value = value * F32x4::splat(steps.alpha);
        }
        match steps.bias {
            Bias::None => {}
            Bias::PerRow(bias) => value += F32x4::load_splat_ptr(bias.as_ptr().add(row)),
            Bias::PerColumn(bias) => value += F32x4::load_ptr(bias.as_ptr().add(col)),
        }
        if let Some(residual) = steps.residual {
            value += F32x4::load_ptr(residual.as_ptr().add(offset));
        }
        if let Some(clamp) = steps.clamp {
            value = value.at_least(F32x4::splat(clamp.min)).at_most(F32x4::splat(clamp.max));
        }
    }
    value
}
