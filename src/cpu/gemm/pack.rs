//! Packing: panels of A [`MR`] rows wide and panels of B eight columns wide, both with k as the slow axis, so that a
//! tile reads both operands from front to back. k is cut into equal blocks of at most `KC`; within a block panel
//! follows panel. Missing rows of the last panel repeat the last one, missing columns are zero.

use std::ops::Range;

use super::{KC, MR, MatrixRef, NR, ROW_VECTORS};
use crate::cpu::simd::{F32x4, LANES};

/// Panels that are packed side by side.
const PANELS_TOGETHER: usize = 4;

/// A right operand that can write any block of itself as panels.
pub trait PackColumns: Sync {
    /// Writes rows `depth` and columns `cols` as panels: element (k, j) of the block at
    /// `(j / NR * depth.len() + k) * NR + j % NR`. Every place of `out` is written; columns past the end are zero.
    fn pack(&self, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]);
}

/// The length of the blocks that k is cut into.
fn k_block_len(k: usize) -> usize {
    k.div_ceil(k.div_ceil(KC).max(1))
}

/// The blocks of k; one empty block when k is 0, so that the epilogue still runs.
pub(super) fn k_blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    let len = k_block_len(k).max(1);
    (0..k.max(1)).step_by(len).map(move |start| start..k.min(start + len))
}

/// A constant left operand, packed at plan time.
#[derive(Clone, Debug)]
pub struct PackedA {
    rows: usize,
    k: usize,
    data: Box<[f32]>,
}

impl PackedA {
    /// Packs `matrix`, which has `rows` rows and `k` columns.
    pub fn new(matrix: MatrixRef, rows: usize, k: usize) -> Self {
        matrix.check(rows, k, "lhs");
        let mut data = vec![0.0; packed_rows_len(rows, k)].into_boxed_slice();
        pack_rows(matrix, rows, k, &mut data);
        flush_subnormals(&mut data);
        Self { rows, k, data }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn k(&self) -> usize {
        self.k
    }

    pub(super) fn data(&self) -> &[f32] {
        &self.data
    }
}

/// A constant right operand, packed at plan time.
#[derive(Clone, Debug)]
pub struct PackedB {
    k: usize,
    columns: usize,
    data: Box<[f32]>,
}

impl PackedB {
    /// Packs `matrix`, which has `k` rows and `columns` columns.
    pub fn new(matrix: MatrixRef, k: usize, columns: usize) -> Self {
        matrix.check(k, columns, "rhs");
        let mut data = vec![0.0; k * columns.next_multiple_of(NR)].into_boxed_slice();
        let mut start = 0;
        for depth in k_blocks(k) {
            let len = depth.len() * columns.next_multiple_of(NR);
            matrix.pack(depth, 0..columns, &mut data[start..start + len]);
            start += len;
        }
        flush_subnormals(&mut data);
        Self { k, columns, data }
    }

    /// The number of rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn data(&self) -> &[f32] {
        &self.data
    }
}

/// Makes numbers below the smallest normal one zero. Trained models hold many where weight decay switched a channel off,
/// and processors take a hundred times as long to multiply by one; what is lost is below 1.2e-38 of each factor.
pub fn flush_subnormals(constants: &mut [f32]) {
    for value in constants {
        *value = if value.abs() < f32::MIN_POSITIVE { 0.0 } else { *value };
    }
}

/// The length of A packed whole.
pub(super) fn packed_rows_len(rows: usize, k: usize) -> usize {
    rows.next_multiple_of(MR) * k
}

/// Packs all of A: per block of k one panel per [`MR`] rows, element (r, k) of a panel at `k * MR + r`.
fn pack_rows(matrix: MatrixRef, rows: usize, k: usize, out: &mut [f32]) {
    let mut out = &mut out[..packed_rows_len(rows, k)];
    for depth in k_blocks(k) {
        let (block, rest) = std::mem::take(&mut out).split_at_mut(packed_rows_len(rows, depth.len()));
        pack_rows_block(matrix, 0..rows, depth, block);
        out = rest;
    }
}

/// Packs a block of A, panel after panel.
pub(super) fn pack_rows_block(matrix: MatrixRef, rows: Range<usize>, depth: Range<usize>, out: &mut [f32]) {
    let (k, step) = (depth.len(), matrix.col_stride);
    if k == 0 {
        return;
    }
    for (panel, first) in out.chunks_exact_mut(k * MR).zip(rows.clone().step_by(MR)) {
        let count = MR.min(rows.end - first);
        let start = first * matrix.row_stride + depth.start * step;
        let data = &matrix.data[start..];
        let row = |r: usize| &data[r.min(count - 1) * matrix.row_stride..];
        if step == 1 {
            for &first in ROW_VECTORS {
                let rows: [&[f32]; LANES] = std::array::from_fn(|r| &row(first + r)[..k]);
                transpose_rows(rows, &mut panel[first..], MR);
            }
        } else if count == MR && matrix.row_stride == 1 {
            for (place, values) in panel.chunks_exact_mut(MR).zip(data.chunks(step)) {
                for &first in ROW_VECTORS {
                    F32x4::load(&values[first..]).store(&mut place[first..]);
                }
            }
        } else {
            for r in 0..MR {
                interleave(row(r), step, panel, r, MR);
            }
        }
    }
}

/// Every `stride`th value of `data` to every `width`th place of a panel, from `first` on.
fn interleave(data: &[f32], stride: usize, panel: &mut [f32], first: usize, width: usize) {
    for (place, value) in panel[first..]
        .iter_mut()
        .step_by(width)
        .zip(data.iter().step_by(stride))
    {
        *place = *value;
    }
}

/// Four rows of equal length become four columns of a panel that is `width` wide.
fn transpose_rows(rows: [&[f32]; LANES], panel: &mut [f32], width: usize) {
    let len = rows[0].len();
    let whole = len / LANES * LANES;
    for k in (0..whole).step_by(LANES) {
        let columns = F32x4::transpose(rows.map(|row| F32x4::load(&row[k..k + LANES])));
        for (i, column) in columns.into_iter().enumerate() {
            column.store(&mut panel[(k + i) * width..]);
        }
    }
    for k in whole..len {
        for (place, row) in panel[k * width..].iter_mut().zip(rows) {
            *place = row[k];
        }
    }
}

impl PackColumns for MatrixRef<'_> {
    fn pack(&self, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        if self.col_stride == 1 {
            pack_contiguous_rows(self.data, self.row_stride, depth, cols, out);
        } else {
            pack_strided(*self, depth, cols, out);
        }
    }
}

/// B's rows have neighbouring columns. Four panels are written side by side: more would begin at places that fall into
/// the same few sets of the cache, fewer would read the same cache lines again.
fn pack_contiguous_rows(data: &[f32], row_stride: usize, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
    let panel_len = depth.len() * NR;
    if panel_len == 0 {
        return;
    }
    let groups = cols
        .clone()
        .step_by(PANELS_TOGETHER * NR)
        .zip(out.chunks_mut(PANELS_TOGETHER * panel_len));
    for (first, out) in groups {
        let count = (PANELS_TOGETHER * NR).min(cols.end - first);
        for (i, k) in depth.clone().enumerate() {
            scatter_row(&data[k * row_stride + first..][..count], &mut out[i * NR..], panel_len);
        }
    }
}

/// Writes one row of a block into its panels, which are `panel_len` apart; missing columns are zero.
fn scatter_row(row: &[f32], out: &mut [f32], panel_len: usize) {
    let mut chunks = row.chunks_exact(NR);
    let mut start = 0;
    for chunk in &mut chunks {
        let place = &mut out[start..start + NR];
        F32x4::load(chunk).store(place);
        F32x4::load(&chunk[LANES..]).store(&mut place[LANES..]);
        start += panel_len;
    }
    let tail = chunks.remainder();
    if !tail.is_empty() {
        let place = &mut out[start..start + NR];
        place.fill(0.0);
        for (place, value) in place.iter_mut().zip(tail) {
            *place = *value;
        }
    }
}

/// Any strides; also the transposed B, whose columns are contiguous.
fn pack_strided(matrix: MatrixRef, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
    let (k, step) = (depth.len(), matrix.row_stride);
    if k == 0 {
        return;
    }
    for (panel, first) in out.chunks_exact_mut(k * NR).zip(cols.clone().step_by(NR)) {
        let count = NR.min(cols.end - first);
        let data = &matrix.data[first * matrix.col_stride + depth.start * step..];
        if count < NR {
            panel.fill(0.0);
        }
        let mut j = 0;
        while step == 1 && j + LANES <= count {
            let columns = std::array::from_fn(|c| &data[(j + c) * matrix.col_stride..][..k]);
            transpose_rows(columns, &mut panel[j..], NR);
            j += LANES;
        }
        for j in j..count {
            interleave(&data[j * matrix.col_stride..], step, panel, j, NR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnormal_weights_become_zero_and_others_stay() {
        let mut values = [1e-40, -1e-45, f32::MIN_POSITIVE, -2.0, 0.0, f32::NAN, f32::INFINITY];
        flush_subnormals(&mut values);
        assert_eq!(values[..5], [0.0, 0.0, f32::MIN_POSITIVE, -2.0, 0.0]);
        assert!(values[5].is_nan() && values[6] == f32::INFINITY);
    }
}
