//! Products of few rows with a B that is not packed: B is streamed once, in memory order, and never copied.

use super::{GemmShape, MatrixRef};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::simd::{F32x4, LANES};
use crate::cpu::threads::{Disjoint, Threads};

/// Columns of C that stay in L1 while the rows of B are added to them.
const COLUMNS: usize = 1024;

/// Columns that threads get as one: vectors end where they would end anyway.
const SHARED_COLUMNS: usize = 64;

/// `out = epilogue(a · b)` for up to four rows. A has neighbouring columns; B neighbouring columns or rows. A single row
/// is shared among threads when B is large.
pub(super) fn gemm_thin(
    shape: GemmShape,
    a: MatrixRef,
    b: MatrixRef,
    out: &mut [f32],
    epilogue: &Epilogue,
    threads: &Threads,
) {
    let GemmShape { m, k, n } = shape;
    // Each value of B comes from memory for one multiply-add.
    let split = threads.split(n.div_ceil(SHARED_COLUMNS), SHARED_COLUMNS.saturating_mul(k));
    if m > 1 || split.parts <= 1 {
        return columns(shape, a, b, 0, out, epilogue);
    }
    let out = Disjoint::new(out);
    threads.run(split.parts, &|part| {
        let blocks = split.range(part.index);
        let range = blocks.start * SHARED_COLUMNS..n.min(blocks.end * SHARED_COLUMNS);
        let shape = GemmShape {
            n: range.len(),
            ..shape
        };
        let b = MatrixRef {
            data: b.data.get(range.start * b.col_stride..).unwrap_or(&[]),
            ..b
        };
        // SAFETY: the parts' columns are disjoint.
        let out = unsafe { out.slice(range.clone()) };
        columns(shape, a, b, range.start, out, epilogue);
    });
}

/// The columns from `first_column` on, with a B that begins there. Where that is not 0 there is one row.
fn columns(shape: GemmShape, a: MatrixRef, b: MatrixRef, first_column: usize, out: &mut [f32], epilogue: &Epilogue) {
    let GemmShape { m, k, n } = shape;
    // Two rows at a time: bodies for three and four as well would be some 15 kB of code for what is rare.
    for first in (0..m).step_by(2) {
        let a = MatrixRef {
            data: a.data.get(first * a.row_stride..).unwrap_or(&[]),
            ..a
        };
        let out = &mut out[first * n..];
        match (b.col_stride == 1, m - first) {
            (true, 1) => sum_of_rows::<1>(k, n, a, b, out),
            (true, _) => sum_of_rows::<2>(k, n, a, b, out),
            (false, 1) => dot_products::<1, 8>(k, n, a, b, out),
            (false, _) => dot_products::<2, 4>(k, n, a, b, out),
        }
    }
    for row in 0..m {
        epilogue.apply(row, first_column, n, &mut out[row * n..(row + 1) * n]);
    }
}

/// B's rows are contiguous: C's rows are sums of B's rows, four at a time.
fn sum_of_rows<const M: usize>(k: usize, n: usize, a: MatrixRef, b: MatrixRef, out: &mut [f32]) {
    out[..M * n].fill(0.0);
    for first in (0..n).step_by(COLUMNS) {
        let len = COLUMNS.min(n - first);
        let mut depth = 0;
        while depth < k {
            let taken = if k - depth >= 4 { 4 } else { 1 };
            let mut targets = out.chunks_exact_mut(n).map(|row| &mut row[first..first + len]);
            let targets: [&mut [f32]; M] = std::array::from_fn(|_| targets.next().unwrap_or_default());
            let factor = |r: usize, i: usize| a.data[r * a.row_stride + depth + i];
            let source = |i: usize| &b.data[(depth + i) * b.row_stride + first..][..len];
            if taken == 4 {
                let factors = std::array::from_fn(|r| std::array::from_fn(|i| factor(r, i)));
                add_scaled::<M, 4>(targets, factors, std::array::from_fn(source));
            } else {
                let factors = std::array::from_fn(|r| [factor(r, 0)]);
                add_scaled::<M, 1>(targets, factors, [source(0)]);
            }
            depth += taken;
        }
    }
}

/// `targets[r] += Σ factors[r][i] * sources[i]`; all slices have one length.
#[inline(always)]
fn add_scaled<const M: usize, const K: usize>(
    mut targets: [&mut [f32]; M],
    factors: [[f32; K]; M],
    sources: [&[f32]; K],
) {
    let len = sources[0].len();
    let splats = factors.map(|row| row.map(F32x4::splat));
    let vectors = len / LANES * LANES;
    for col in (0..vectors).step_by(LANES) {
        let columns = sources.map(|source| F32x4::load(&source[col..col + LANES]));
        for (target, factors) in targets.iter_mut().zip(&splats) {
            let place = &mut target[col..col + LANES];
            let mut sum = F32x4::load(place);
            for (column, &factor) in columns.iter().zip(factors) {
                sum = factor.mul_add(*column, sum);
            }
            sum.store(place);
        }
    }
    for col in vectors..len {
        for (target, factors) in targets.iter_mut().zip(&factors) {
            for (source, factor) in sources.iter().zip(factors) {
                target[col] += factor * source[col];
            }
        }
    }
}

/// B's columns are contiguous (B is stored transposed): every value of C is a dot product of two runs.
fn dot_products<const M: usize, const C: usize>(k: usize, n: usize, a: MatrixRef, b: MatrixRef, out: &mut [f32]) {
    let rows: [&[f32]; M] = std::array::from_fn(|r| {
        if k == 0 {
            &[][..]
        } else {
            &a.data[r * a.row_stride..][..k]
        }
    });
    let column = |j: usize| {
        if k == 0 {
            &[][..]
        } else {
            &b.data[j * b.col_stride..][..k]
        }
    };
    let mut j = 0;
    while j + C <= n {
        let sums = dots(rows, std::array::from_fn::<_, C, _>(|c| column(j + c)));
        for (r, sums) in sums.iter().enumerate() {
            out[r * n + j..][..C].copy_from_slice(sums);
        }
        j += C;
    }
    while j < n {
        let sums = dots(rows, [column(j)]);
        for (r, sums) in sums.iter().enumerate() {
            out[r * n + j] = sums[0];
        }
        j += 1;
    }
}

#[inline(always)]
fn dots<const M: usize, const C: usize>(rows: [&[f32]; M], columns: [&[f32]; C]) -> [[f32; C]; M] {
    let k = columns[0].len();
    let mut acc = [[F32x4::zero(); C]; M];
    let vectors = k / LANES * LANES;
    for i in (0..vectors).step_by(LANES) {
        let values = columns.map(|column| F32x4::load(&column[i..i + LANES]));
        for (row, sums) in rows.iter().zip(&mut acc) {
            let factor = F32x4::load(&row[i..i + LANES]);
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = factor.mul_add(value, *sum);
            }
        }
    }
    std::array::from_fn(|r| {
        std::array::from_fn(|c| {
            let tail = (vectors..k).map(|i| rows[r][i] * columns[c][i]).sum::<f32>();
            acc[r][c].sum() + tail
        })
    })
}
