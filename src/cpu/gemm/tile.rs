//! The inner loops: tiles of up to [`MR`] rows and eight columns that stay in registers over a block of k, and the step
//! that stores them. Products of one or two rows take four or two panels of B at once to keep eight accumulators busy.

use std::ops::Range;

use super::{MR, NR, ROW_VECTORS};
use crate::cpu::epilogue::{Bias, Epilogue};
use crate::cpu::simd::{F32x4, LANES, advance};

/// Where tiles go and what happens to them on the way.
pub(super) struct Output<'a> {
    pub out: *mut f32,
    pub row_len: usize,
    /// Whether earlier blocks of k stand in `out` already.
    pub accumulate: bool,
    /// The epilogue, in the last block of k.
    pub steps: Option<&'a Epilogue<'a>>,
}

/// Computes a block of C from the packed panels of A and B, each `depth` deep.
///
/// # Safety
/// `a` holds `rows.len()` rows and `b` `cols.len()` columns in whole panels; `output.out` is writable at `rows` ×
/// `cols`, and the epilogue's bias and residual are readable there.
pub(super) unsafe fn run_block(
    a: &[f32],
    b: &[f32],
    depth: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    output: &Output,
) {
    debug_assert!(
        a.len() >= rows.len().next_multiple_of(MR) * depth && b.len() >= cols.len().next_multiple_of(NR) * depth
    );
    let panel_len = depth * NR;
    let whole = rows.len() / MR * MR;
    for first in (0..cols.len()).step_by(NR) {
        let count = NR.min(cols.len() - first);
        for row in (0..whole).step_by(MR) {
            let at = Place {
                row: rows.start + row,
                col: cols.start + first,
                count,
            };
            // SAFETY: a panel of A and one panel of B lie there.
            unsafe {
                let (a, b) = (a.as_ptr().add(row * depth), b.as_ptr().add(first / NR * panel_len));
                // The last panel is often half empty or holds one column: images are 14 or 7 wide.
                match count {
                    1 => column(depth, a, b, at, output),
                    ..=LANES => tile::<MR, 1>(depth, a, b, 0, at, output),
                    _ => tile::<MR, 2>(depth, a, b, 0, at, output),
                }
            }
        }
    }
    if whole < rows.len() {
        // SAFETY: the caller's promise.
        unsafe {
            remaining_rows(
                &a[whole * depth..],
                b,
                depth,
                rows.start + whole..rows.end,
                cols,
                output,
            )
        };
    }
}

/// The rows below the last whole tile.
///
/// # Safety
/// As [`run_block`].
unsafe fn remaining_rows(a: &[f32], b: &[f32], depth: usize, rows: Range<usize>, cols: Range<usize>, output: &Output) {
    let panel_len = depth * NR;
    let mut first = 0;
    while first < cols.len() {
        let panels = (cols.len() - first).div_ceil(NR);
        let together = match rows.len() {
            1 if panels >= 4 => 4,
            1 | 2 if panels >= 2 => 2,
            _ => 1,
        };
        let count = (together * NR).min(cols.len() - first);
        let at = Place {
            row: rows.start,
            col: cols.start + first,
            count,
        };
        // SAFETY: that many rows of A and `together` panels of B lie there.
        unsafe {
            let (a, b) = (a.as_ptr(), b.as_ptr().add(first / NR * panel_len));
            match (rows.len(), together) {
                (1, 4) => tile::<1, 8>(depth, a, b, panel_len, at, output),
                (1, 2) => tile::<1, 4>(depth, a, b, panel_len, at, output),
                (1, _) => tile::<1, 2>(depth, a, b, panel_len, at, output),
                (2, 2) => tile::<2, 4>(depth, a, b, panel_len, at, output),
                (2, _) => tile::<2, 2>(depth, a, b, panel_len, at, output),
                (3, _) => tile::<3, 2>(depth, a, b, panel_len, at, output),
                (4, _) if MR > 4 => tile::<4, 2>(depth, a, b, panel_len, at, output),
                _ if MR > 5 => tile::<5, 2>(depth, a, b, panel_len, at, output),
                _ => {}
            }
        }
        first += together * NR;
    }
}

/// The first row and column of a tile in C and how many of its columns exist.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub row: usize,
    pub col: usize,
    pub count: usize,
}

/// One tile of `M` rows of a panel of A and `V` vectors of columns, whose panels of B are `panel_len` apart.
///
/// # Safety
/// A and B are readable for `depth` steps, and [`Output`] is valid at `at`.
#[inline(never)]
unsafe fn tile<const M: usize, const V: usize>(
    depth: usize,
    mut a: *const f32,
    b: *const f32,
    panel_len: usize,
    at: Place,
    output: &Output,
) {
    let mut acc = [[F32x4::zero(); V]; M];
    // Only the first V / 2 of them are used; the others cost nothing.
    let mut panels: [*const f32; 4] = std::array::from_fn(|p| b.wrapping_add(p * panel_len));
    let end = a.wrapping_add(depth * MR);
    while a != end {
        // SAFETY: the caller's promise: `depth` steps are readable.
        unsafe {
            let mut columns = [F32x4::zero(); V];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = F32x4::load_ptr(panels[v / 2].add(v % 2 * LANES));
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let value = F32x4::load_splat_ptr(a.add(r));
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = value.mul_add(column, *sum);
                }
            }
        }
        a = advance(a, MR);
        for panel in &mut panels[..V.div_ceil(2)] {
            *panel = advance(*panel, NR);
        }
    }
    // SAFETY: passed on from the caller.
    unsafe { store(acc, at, output) }
}

/// Steps of k that [`column`] sums apart: enough that none waits for another.
const STEPS: usize = 4;

/// One column of a whole panel of A: rows stand in the lanes, so that none is idle. On 7×7 planes (49 columns) the last
/// column then takes a third of the time that [`tile`] takes.
///
/// # Safety
/// As [`tile`].
#[inline(never)]
unsafe fn column(depth: usize, mut a: *const f32, mut b: *const f32, at: Place, output: &Output) {
    let mut acc = [[F32x4::zero(); ROW_VECTORS.len()]; STEPS];
    let whole = a.wrapping_add(depth / STEPS * STEPS * MR);
    // SAFETY: the caller's promise: `depth` steps are readable.
    let step = |sums: &mut [F32x4; ROW_VECTORS.len()], a: *const f32, b: *const f32| unsafe {
        let value = F32x4::load_splat_ptr(b);
        for (sum, &row) in sums.iter_mut().zip(ROW_VECTORS) {
            *sum = value.mul_add(F32x4::load_ptr(a.add(row)), *sum);
        }
    };
    while a != whole {
        for (k, sums) in acc.iter_mut().enumerate() {
            step(sums, a.wrapping_add(k * MR), b.wrapping_add(k * NR));
        }
        a = advance(a, STEPS * MR);
        b = advance(b, STEPS * NR);
    }
    for k in 0..depth % STEPS {
        step(&mut acc[0], a.wrapping_add(k * MR), b.wrapping_add(k * NR));
    }
    let mut values = [0.0; MR];
    let [first, rest @ ..] = acc;
    for (v, &row) in ROW_VECTORS.iter().enumerate() {
        let sum = rest.iter().fold(first[v], |sum, sums| sum + sums[v]);
        sum.store(&mut values[row..]);
    }
    // SAFETY: passed on from the caller.
    unsafe { store_partial(&values, 1, at, output) }
}

/// Stores a tile. Every step runs over the whole tile before the next begins, in loops of constant length: only so do
/// the sums stay in registers.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
pub(super) unsafe fn store<const M: usize, const V: usize>(mut acc: [[F32x4; V]; M], at: Place, output: &Output) {
    let row_len = output.row_len;
    let offset = at.row * row_len + at.col;
    if at.count < V * LANES {
        let mut values = [[[0.0; LANES]; V]; M];
        for (row, sums) in values.iter_mut().zip(acc) {
            for (place, sum) in row.iter_mut().zip(sums) {
                sum.store(place);
            }
        }
        // SAFETY: passed on from the caller.
        return unsafe { store_partial(values.as_flattened().as_flattened(), V * LANES, at, output) };
    }
    // SAFETY: the tile's rows and columns exist in C, the residual and the bias.
    unsafe {
        let out = output.out.add(offset);
        if output.accumulate {
            add_tile(&mut acc, out, row_len);
        }
        if let Some(steps) = output.steps {
            if steps.alpha != 1.0 {
                let alpha = F32x4::splat(steps.alpha);
                acc = acc.map(|row| row.map(|sum| sum * alpha));
            }
            match steps.bias {
                Bias::None => {}
                Bias::PerRow(bias) => {
                    let bias = bias.as_ptr().add(at.row);
                    for (r, row) in acc.iter_mut().enumerate() {
                        let bias = F32x4::load_splat_ptr(bias.add(r));
                        *row = row.map(|sum| sum + bias);
                    }
                }
                Bias::PerColumn(bias) => add_tile(&mut acc, bias.as_ptr().add(at.col), 0),
            }
            if let Some(residual) = steps.residual {
                add_tile(&mut acc, residual.as_ptr().add(offset), row_len);
            }
            if let Some(clamp) = steps.clamp {
                let (min, max) = (F32x4::splat(clamp.min), F32x4::splat(clamp.max));
                acc = acc.map(|row| row.map(|sum| sum.at_least(min).at_most(max)));
            }
        }
        for (r, row) in acc.into_iter().enumerate() {
            for (v, sum) in row.into_iter().enumerate() {
                sum.store_ptr(out.add(r * row_len + v * LANES));
            }
        }
    }
}

/// Adds the values at `from`, whose rows are `row_len` apart, to a tile.
///
/// # Safety
/// `M` rows of `V` vectors are readable there.
#[inline(always)]
unsafe fn add_tile<const M: usize, const V: usize>(acc: &mut [[F32x4; V]; M], from: *const f32, row_len: usize) {
    for (r, row) in acc.iter_mut().enumerate() {
        for (v, sum) in row.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *sum += unsafe { F32x4::load_ptr(from.add(r * row_len + v * LANES)) };
        }
    }
}

/// Stores a tile at the right edge, whose last columns do not exist. `values` has rows of `width`.
///
/// # Safety
/// `at.count` columns of each row are writable in C.
#[inline(never)]
unsafe fn store_partial(values: &[f32], width: usize, at: Place, output: &Output) {
    for (r, row) in values.chunks_exact(width).enumerate() {
        let offset = (at.row + r) * output.row_len + at.col;
        // SAFETY: `count` columns exist, and only those are touched.
        let target = unsafe { std::slice::from_raw_parts_mut(output.out.add(offset), at.count) };
        if output.accumulate {
            target.iter_mut().zip(row).for_each(|(target, value)| *target += value);
        } else {
            target.copy_from_slice(&row[..at.count]);
        }
        if let Some(steps) = output.steps {
            steps.apply_registers(at.row + r, at.col, output.row_len, target);
        }
    }
}
