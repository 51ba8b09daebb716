//! Products whose right operand is read where it lies, without a packing step: the im2col matrix of an image, whose
//! columns along one output line are neighbours in the image. Packing costs as much as some ten rows of the product, so
//! this is for few rows.

use super::pack::k_blocks;
use super::tile::{Output, Place, store};
use super::{MR, PackedA};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::simd::{F32x4, LANES, advance};
use crate::cpu::threads::{Disjoint, Threads};

/// The fewest columns that a line may have: those of the narrowest tile.
pub const LEAST_LINE: usize = 2 * LANES;
/// Columns of a line that are worked on together, so that they are in cache when the epilogue's program comes.
const CHUNK: usize = 256;

/// A matrix whose columns stand in lines: row `k` of column `x` of line `[i, j]` is the image's element
/// `rows[k] + i * line_steps[0] + j * line_steps[1] + x * stride`.
pub struct Lines<'a> {
    pub image: &'a [f32],
    /// Where each row begins.
    pub rows: &'a [usize],
    /// Lines along two axes, and the steps between them.
    pub lines: [usize; 2],
    pub line_steps: [usize; 2],
    /// Columns of a line, at least [`LEAST_LINE`].
    pub line_len: usize,
    /// 1 or 2.
    pub stride: usize,
}

impl Lines<'_> {
    /// Whether every element that a product reads exists, and the kernels can do it.
    fn is_valid(&self) -> bool {
        let ends = (0..2).map(|axis| self.lines[axis].saturating_sub(1) * self.line_steps[axis]);
        let last = self.rows.iter().copied().max().unwrap_or(0)
            + ends.sum::<usize>()
            + self.line_len.saturating_sub(1) * self.stride;
        matches!(self.stride, 1 | 2) && self.line_len >= LEAST_LINE && last < self.image.len()
    }
}

/// `out[m, n] = epilogue(lhs[m, k] · rhs[k, n])` for a matrix of lines; see [`gemm`](super::gemm).
///
/// # Panics
/// When an operand or `out` is too small, or a line is shorter than [`LEAST_LINE`]: mistakes of the caller.
pub fn gemm_lines(lhs: &PackedA, rhs: &Lines, out: &mut [f32], epilogue: &Epilogue, threads: &Threads) {
    let (m, k) = (lhs.rows(), lhs.k());
    let lines = rhs.lines[0] * rhs.lines[1];
    let n = lines * rhs.line_len;
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.len() >= m * n, "out holds {} values, {m}x{n} asked", out.len());
    assert!(
        rhs.rows.len() == k && rhs.is_valid(),
        "the matrix does not lie in its image"
    );
    epilogue.check(m, n);
    let driver = Driver { lhs, rhs, n, epilogue };
    let chunks = rhs.line_len.div_ceil(CHUNK);
    let split = threads.split(lines * chunks, m * k * CHUNK.min(rhs.line_len) / 8);
    let out = Disjoint::new(out);
    threads.run(split.parts, &|part| {
        for chunk in split.range(part.index) {
            // Of about the same length, so that none is shorter than a tile.
            let at = |chunk: usize| rhs.line_len * chunk / chunks;
            let (line, chunk) = (chunk / chunks, chunk % chunks);
            // SAFETY: sizes were checked above, and the chunks are disjoint.
            unsafe { driver.run(line, at(chunk), at(chunk + 1), out.as_mut_ptr()) };
        }
    });
}

struct Driver<'a> {
    lhs: &'a PackedA,
    rhs: &'a Lines<'a>,
    n: usize,
    epilogue: &'a Epilogue<'a>,
}

impl Driver<'_> {
    /// Computes the columns from `start` to `end` of a line.
    ///
    /// # Safety
    /// The operands hold the whole product's sizes; `out` is writable for `m * n` values, of which no one else touches
    /// these columns.
    unsafe fn run(&self, line: usize, start: usize, end: usize, out: *mut f32) {
        let m = self.lhs.rows();
        let [first, second] = self.rhs.line_steps;
        let place = line / self.rhs.lines[1] * first + line % self.rhs.lines[1] * second;
        let image = self.rhs.image[place + start * self.rhs.stride..].as_ptr();
        let columns = Columns {
            image,
            first: line * self.rhs.line_len + start,
            count: end - start,
        };
        // SAFETY: passed on from the caller.
        unsafe {
            match self.rhs.stride {
                1 => self.rows::<1>(&columns, out),
                _ => self.rows::<2>(&columns, out),
            }
        }
        if let Some(program) = self.epilogue.program {
            for row in 0..m {
                // SAFETY: the segment lies within the columns that are ours alone.
                let values =
                    unsafe { std::slice::from_raw_parts_mut(out.add(row * self.n + columns.first), columns.count) };
                program.apply(self.epilogue.first_row + row, columns.first, values);
            }
        }
    }

    /// # Safety
    /// As [`Driver::run`].
    unsafe fn rows<const STRIDE: usize>(&self, columns: &Columns, out: *mut f32) {
        let m = self.lhs.rows();
        for panel in (0..m).step_by(MR) {
            let mut row = panel;
            while row < m.min(panel + MR) {
                let left = m.min(panel + MR) - row;
                // SAFETY: passed on from the caller; so many rows are left.
                row += unsafe {
                    match left {
                        1 if columns.count >= 8 * LANES => self.line::<1, 8, STRIDE>(row, columns, out),
                        1 => self.line::<1, 2, STRIDE>(row, columns, out),
                        2 | 3 if columns.count >= 4 * LANES => self.line::<2, 4, STRIDE>(row, columns, out),
                        2 | 3 => self.line::<2, 2, STRIDE>(row, columns, out),
                        MR.. => self.line::<MR, 2, STRIDE>(row, columns, out),
                        _ => self.line::<4, 2, STRIDE>(row, columns, out),
                    }
                };
            }
        }
    }

    /// `M` rows of all columns, `V` vectors at a time; gives `M`. The last tile begins early enough to be whole, so that
    /// some columns are computed twice.
    ///
    /// # Safety
    /// As [`Driver::run`], and there are that many rows and columns.
    unsafe fn line<const M: usize, const V: usize, const STRIDE: usize>(
        &self,
        row: usize,
        columns: &Columns,
        out: *mut f32,
    ) -> usize {
        let (k, width) = (self.lhs.k(), V * LANES);
        let panels = self.lhs.rows().div_ceil(MR);
        for tile_start in (0..columns.count).step_by(width) {
            let start = tile_start.min(columns.count - width);
            let at = Place {
                row,
                col: columns.first + start,
                count: width,
            };
            for depth in k_blocks(k) {
                let output = Output {
                    out,
                    row_len: self.n,
                    accumulate: depth.start > 0,
                    steps: (depth.end == k).then_some(self.epilogue),
                };
                // SAFETY: the panels of A are laid out so, and the image holds the columns.
                unsafe {
                    let a = (depth.start * panels + row / MR * depth.len()) * MR + row % MR;
                    let a = self.lhs.data().as_ptr().add(a);
                    let image = columns.image.add(start * STRIDE);
                    tile::<M, V, STRIDE>(&self.rhs.rows[depth], a, image, at, &output);
                }
            }
        }
        M
    }
}

/// Neighbouring columns of one line.
struct Columns {
    /// The first column of a row that begins at 0.
    image: *const f32,
    /// The first column's number in the matrix.
    first: usize,
    count: usize,
}

/// One tile of `M` rows and `V` vectors.
///
/// # Safety
/// A is readable for as many steps as there are rows of B, the image at each of those, and [`Output`] is valid at `at`.
#[inline(never)]
unsafe fn tile<const M: usize, const V: usize, const STRIDE: usize>(
    rows: &[usize],
    mut a: *const f32,
    image: *const f32,
    at: Place,
    output: &Output,
) {
    let mut acc = [[F32x4::zero(); V]; M];
    for &row in rows {
        // SAFETY: the caller's promise.
        unsafe {
            let b = image.add(row);
            let mut columns = [F32x4::zero(); V];
            for (v, column) in columns.iter_mut().enumerate() {
                let b = b.add(v * LANES * STRIDE);
                *column = match STRIDE {
                    1 => F32x4::load_ptr(b),
                    // The second vector begins one early, so that it ends with the last value that is wanted.
                    _ => F32x4::even_odd(F32x4::load_ptr(b), F32x4::load_ptr(b.add(LANES - 1))),
                };
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let value = F32x4::load_splat_ptr(a.add(r));
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = value.mul_add(column, *sum);
                }
            }
        }
        a = advance(a, MR);
    }
    // SAFETY: passed on from the caller.
    unsafe { store(acc, at, output) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::epilogue::{Bias, Clamp, RowProgram};
    use crate::cpu::gemm::MatrixRef;
    use crate::cpu::testing::{Rng, assert_close, assert_same_bits};

    struct AddPosition;
    impl RowProgram for AddPosition {
        fn apply(&self, row: usize, col: usize, values: &mut [f32]) {
            for (index, value) in values.iter_mut().enumerate() {
                *value += (row * 7 + col + index) as f32 * 0.01;
            }
        }
    }

    #[test]
    fn lines_match_the_definition_on_any_number_of_threads() {
        let (mut rng, threads) = (Rng::new(11), Threads::eager(3));
        for round in 0..200 {
            let (m, k) = (
                rng.size(1, 14),
                if round % 20 == 0 {
                    rng.size(250, 600)
                } else {
                    rng.size(0, 40)
                },
            );
            let line_len = if round % 10 == 0 {
                rng.size(256, 600)
            } else {
                rng.size(LEAST_LINE, 50)
            };
            let (lines, stride) = ([rng.size(1, 2), rng.size(1, 4)], rng.size(1, 2));
            let line_steps = [rng.size(0, 500), rng.size(0, 90)];
            let rows: Vec<usize> = (0..k).map(|_| rng.size(0, 300)).collect();
            let len = 301 + line_steps[0] + 4 * line_steps[1] + line_len * stride;
            let (image, a) = (rng.vec(len), rng.vec(m * k));
            let rhs = Lines {
                image: &image,
                rows: &rows,
                lines,
                line_steps,
                line_len,
                stride,
            };
            let n = lines[0] * lines[1] * line_len;
            let (bias, residual) = (rng.vec(m), rng.vec(m * n));
            let epilogue = Epilogue {
                bias: Bias::PerRow(&bias),
                residual: rng.bool().then_some(&residual[..]),
                clamp: rng.bool().then_some(Clamp { min: -0.5, max: 4.0 }),
                program: if rng.bool() { Some(&AddPosition) } else { None },
                first_row: rng.size(0, 3),
                ..Epilogue::none()
            };
            let mut expected = vec![0.0; m * n];
            for (row, line) in expected.chunks_exact_mut(n).enumerate() {
                for (column, value) in line.iter_mut().enumerate() {
                    let (index, x) = (column / line_len, column % line_len);
                    let place = index / lines[1] * line_steps[0] + index % lines[1] * line_steps[1] + x * stride;
                    let product = |i: usize| f64::from(a[row * k + i]) * f64::from(image[rows[i] + place]);
                    *value = (0..k).map(product).sum::<f64>() as f32;
                }
                epilogue.apply(row, 0, n, line);
            }
            let lhs = PackedA::new(MatrixRef::row_major(&a, k), m, k);
            let mut out = vec![f32::NAN; m * n];
            gemm_lines(&lhs, &rhs, &mut out, &epilogue, &Threads::SINGLE);
            let what = format!("{m}x{k}, {lines:?} lines of {line_len}, stride {stride}");
            assert_close(&out, &expected, 1e-4, &what);
            let mut cut = vec![f32::NAN; m * n];
            gemm_lines(&lhs, &rhs, &mut cut, &epilogue, &threads);
            assert_same_bits(&cut, &out, &what);
        }
    }
}
