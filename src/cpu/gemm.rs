//! f32 matrix products `C[m, n] = epilogue(A[m, k] · B[k, n])`: cache blocking around a tile of [`MR`] × [`NR`], constant operands
//! packed at plan time, and thin products (a few rows) that stream B without packing it. Convolution and recurrent
//! layers run on the same driver; other element types are in [`generic`].

mod cut;
mod direct;
pub mod generic;
mod pack;
mod thin;
mod tile;

pub use direct::{LEAST_LINE, Lines, gemm_lines};
pub use pack::{PackColumns, PackedA, PackedB, flush_subnormals};

use std::ops::Range;

use crate::cpu::epilogue::Epilogue;
use crate::cpu::threads::{Disjoint, PerThread, Threads};
use cut::Grid;
use pack::{k_blocks, pack_rows_block};
use tile::Output;

/// Rows of a tile. With [`NR`] columns, six rows take fifteen of sixteen registers: twelve accumulators, two vectors of B
/// and one of A. A product that is not fused needs one more for itself. Shares of the multiply-add roof, panels in L1:
///
/// | tile | fused: Chromium 156 | fused: Node.js 20 | not fused: Chromium 156 | not fused: Node.js 20 |
/// |---|---|---|---|---|
/// | 4×8 | 0.84 | 0.79 | 0.99 | 0.98 |
/// | 6×8 | 0.94 | 0.60 | 0.99 | 0.76 |
/// | 5×8 | 0.92 | 0.53 | 0.99 | 0.79 |
/// | 3×12 | 0.88 | 0.87 | 1.02 | 0.78 |
/// | 2×16 | 0.86 | 0.79 | 1.01 | 0.91 |
///
/// All of them with [`advance`](crate::cpu::simd::advance); without, 6×8 spills in Chromium too (0.66). One vector of A
/// and lane shuffles instead of broadcast loads: 4×8 0.83, 0.83, 0.78, 0.77. Unrolling by two or four gains nothing.
/// (Node.js 20 has relaxed SIMD only behind a flag, so it is the unfused build that runs there.)
pub const MR: usize = if cfg!(all(target_arch = "wasm32", not(target_feature = "relaxed-simd"))) {
    4
} else {
    6
};
/// Columns of a tile: two vectors.
pub const NR: usize = 8;
/// The first of each four rows of a panel that are moved as one vector. They overlap when four does not divide [`MR`].
pub(in crate::cpu) const ROW_VECTORS: &[usize] = if MR == 4 { &[0] } else { &[0, MR - 4] };
/// The longest run of k per pass: a packed panel of B (KC × NR) and one of A (MR × KC) lie in L1 together.
const KC: usize = 256;
/// The most columns of a block.
const NC: usize = 256;
/// The fewest columns of a block, unless there are fewer.
const LEAST_COLUMNS: usize = 8 * NR;
/// A block of B has all of k, and as many columns as this many values give it: it lies in L2, beside a block of C that
/// is finished before the next begins.
const B_BLOCK: usize = 256 * 1024;
/// Rows per block.
const MC: usize = 16 * MR;
/// Up to this many rows, packing B costs more than it saves.
const THIN_ROWS: usize = 4;

/// The sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmShape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// A matrix in memory: element (i, j) stands at `i * row_stride + j * col_stride` of `data`.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> MatrixRef<'a> {
    /// A matrix stored row after row, each `columns` long.
    pub fn row_major(data: &'a [f32], columns: usize) -> Self {
        Self {
            data,
            row_stride: columns,
            col_stride: 1,
        }
    }

    /// The transpose of a matrix that is stored row after row, each `stored_columns` long.
    pub fn transposed(data: &'a [f32], stored_columns: usize) -> Self {
        Self {
            data,
            row_stride: 1,
            col_stride: stored_columns,
        }
    }

    fn check(&self, rows: usize, columns: usize, name: &str) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_stride + (columns - 1) * self.col_stride;
            assert!(
                last < self.data.len(),
                "{name} holds {} values, {rows}x{columns} asked",
                self.data.len()
            );
        }
    }
}

/// The left operand.
#[derive(Clone, Copy)]
pub enum Lhs<'a> {
    Matrix(MatrixRef<'a>),
    Packed(&'a PackedA),
}

/// The right operand.
#[derive(Clone, Copy)]
pub enum Rhs<'a> {
    Matrix(MatrixRef<'a>),
    Packed(&'a PackedB),
    /// A matrix that exists only as the blocks that its packing step makes, such as the im2col matrix of an image.
    Virtual(&'a dyn PackColumns),
}

/// How much scratch memory [`gemm`] needs, in f32, for each thread that is to work.
///
/// `lhs_packed`, `rhs_packed`: whether the operands are packed already. Asking with `false` is always enough.
pub fn gemm_scratch_len(shape: GemmShape, lhs_packed: bool, rhs_packed: bool) -> usize {
    let lhs = if lhs_packed { 0 } else { lhs_block_len(shape) };
    let rhs = if rhs_packed {
        0
    } else {
        // An upper bound that grows with the sizes: callers ask for the largest of the products that they compute.
        let block = |columns: usize| shape.k * columns.min(shape.n.next_multiple_of(NR));
        block(NC).min(B_BLOCK).max(block(LEAST_COLUMNS))
    };
    lhs + rhs
}

/// The columns of a block.
fn block_columns(k: usize) -> usize {
    (B_BLOCK / k.max(1) / NR * NR).clamp(LEAST_COLUMNS, NC)
}

/// Room for the packed block of A that one pass works on; grows with the sizes.
fn lhs_block_len(shape: GemmShape) -> usize {
    KC.min(shape.k) * MC.min(shape.m.next_multiple_of(MR))
}

/// `out[m, n] = epilogue(lhs[m, k] · rhs[k, n])`, row-major, rows `n` apart. Large products are shared among as many
/// threads as `scratch` holds a piece ([`gemm_scratch_len`]) for.
///
/// # Panics
/// When an operand, `out` or `scratch` is too small, or a packed operand was packed for other sizes: mistakes of the
/// caller that plan-time shape checks exclude.
pub fn gemm(
    shape: GemmShape,
    lhs: Lhs,
    rhs: Rhs,
    out: &mut [f32],
    scratch: &mut [f32],
    epilogue: &Epilogue,
    threads: &Threads,
) {
    let GemmShape { m, k, n } = shape;
    assert!(out.len() >= m * n, "out holds {} values, {m}x{n} asked", out.len());
    epilogue.check(m, n);
    match lhs {
        Lhs::Matrix(matrix) => matrix.check(m, k, "lhs"),
        Lhs::Packed(packed) => assert!((packed.rows(), packed.k()) == (m, k), "lhs was packed for other sizes"),
    }
    match rhs {
        Rhs::Matrix(matrix) => matrix.check(k, n, "rhs"),
        Rhs::Packed(packed) => assert!(
            (packed.k(), packed.columns()) == (k, n),
            "rhs was packed for other sizes"
        ),
        Rhs::Virtual(_) => {}
    }
    if m == 0 || n == 0 {
        return;
    }
    if let (Lhs::Matrix(a), Rhs::Matrix(b)) = (lhs, rhs)
        && m <= THIN_ROWS
        && a.col_stride == 1
        && (b.col_stride == 1 || b.row_stride == 1)
    {
        return thin::gemm_thin(shape, a, b, &mut out[..m * n], epilogue, threads);
    }

    let driver = Driver {
        shape,
        lhs,
        rhs,
        epilogue,
    };
    if threads.count() > 1 {
        let each = gemm_scratch_len(shape, matches!(lhs, Lhs::Packed(_)), matches!(rhs, Rhs::Packed(_)));
        let threads = &match scratch.len().checked_div(each) {
            Some(pieces) => threads.at_most(pieces),
            None => threads.clone(),
        };
        if let Some(grid) = Grid::new(shape, &lhs, &rhs, threads) {
            let out = Disjoint::new(out);
            let scratch = PerThread::new(scratch, each);
            return threads.run(grid.parts(), &|part| {
                let (rows, columns) = grid.part(part.index);
                // SAFETY: sizes were checked above, and the parts of the grid are disjoint.
                unsafe { driver.run(rows, columns, out.as_mut_ptr(), scratch.of(part)) };
            });
        }
    }
    // SAFETY: sizes were checked above; `out` is borrowed mutably and holds every row and column asked for.
    unsafe { driver.run(0..m, 0..n, out.as_mut_ptr(), scratch) }
}

/// `out[i, j] = a · b` for packed panels `depth` deep: of A `rows.div_ceil(MR)` with element (i, k) at
/// `i / MR * MR * depth + k * MR + i % MR`, of B `columns / NR`. Rows of `out` are `row_len` apart.
///
/// # Panics
/// When a slice is too short, or `columns` is no multiple of [`NR`].
pub(in crate::cpu) fn multiply_panels(
    a: &[f32],
    b: &[f32],
    depth: usize,
    rows: usize,
    columns: usize,
    out: &mut [f32],
    row_len: usize,
) {
    assert!(
        a.len() >= rows.next_multiple_of(MR) * depth
            && b.len() >= columns * depth
            && columns.is_multiple_of(NR)
            && out.len() >= rows.saturating_sub(1) * row_len + columns
    );
    let output = Output {
        out: out.as_mut_ptr(),
        row_len,
        accumulate: false,
        steps: None,
    };
    // SAFETY: as was just asserted.
    unsafe { tile::run_block(a, b, depth, 0..rows, 0..columns, &output) }
}

/// Multiplies zeros for about half a millisecond. Engines of WebAssembly compile a function for speed once it has run a
/// while, in the background: what nearly all of a model's time goes to is ready then when the model is.
pub fn warm_up() {
    const TIMES: usize = 200;
    let zeros = vec![0.0; KC * MR.max(NR)];
    let mut out = [0.0; MR * NR];
    for _ in 0..TIMES {
        multiply_panels(&zeros, &zeros, KC, MR, NR, &mut out, NR);
    }
}

struct Driver<'a> {
    shape: GemmShape,
    lhs: Lhs<'a>,
    rhs: Rhs<'a>,
    epilogue: &'a Epilogue<'a>,
}

impl Driver<'_> {
    /// Computes the given rows and columns of the product. Disjoint ranges may run at the same time on several
    /// threads; `rows` and `columns` start at multiples of [`MR`] and [`NR`].
    ///
    /// # Safety
    /// The operands, bias and residual hold the whole product's sizes; `out` is writable for `m * n` values, of which
    /// no one else touches the given rows and columns.
    unsafe fn run(&self, rows: Range<usize>, columns: Range<usize>, out: *mut f32, scratch: &mut [f32]) {
        let GemmShape { m, k, n } = self.shape;
        let panels_total = n.div_ceil(NR);
        let (a_scratch, b_scratch) = match self.lhs {
            Lhs::Packed(_) => scratch.split_at_mut(0),
            Lhs::Matrix(_) => scratch.split_at_mut(lhs_block_len(self.shape)),
        };
        let block_columns = block_columns(k);
        for first_col in columns.clone().step_by(block_columns) {
            let cols = first_col..columns.end.min(first_col + block_columns);
            let panels = cols.len().div_ceil(NR);
            if !matches!(self.rhs, Rhs::Packed(_)) {
                for depth in k_blocks(k) {
                    let block = &mut b_scratch[depth.start * panels * NR..depth.end * panels * NR];
                    match self.rhs {
                        Rhs::Matrix(matrix) => matrix.pack(depth, cols.clone(), block),
                        Rhs::Virtual(columns) => columns.pack(depth, cols.clone(), block),
                        Rhs::Packed(_) => {}
                    }
                }
            }
            for first_row in rows.clone().step_by(MC) {
                let block_rows = first_row..rows.end.min(first_row + MC);
                let padded_rows = block_rows.len().next_multiple_of(MR);
                for depth in k_blocks(k) {
                    let depth_len = depth.len();
                    let a: &[f32] = match self.lhs {
                        Lhs::Packed(packed) => {
                            let start = (depth.start * m.div_ceil(MR) + (first_row / MR) * depth_len) * MR;
                            &packed.data()[start..]
                        }
                        Lhs::Matrix(matrix) => {
                            let block = &mut a_scratch[..padded_rows * depth_len];
                            pack_rows_block(matrix, block_rows.clone(), depth.clone(), block);
                            block
                        }
                    };
                    let b: &[f32] = match self.rhs {
                        Rhs::Packed(packed) => {
                            let start = (depth.start * panels_total + (first_col / NR) * depth_len) * NR;
                            &packed.data()[start..start + panels * depth_len * NR]
                        }
                        _ => &b_scratch[depth.start * panels * NR..depth.end * panels * NR],
                    };
                    let output = Output {
                        out,
                        row_len: n,
                        accumulate: depth.start > 0,
                        steps: if depth.end == k { Some(self.epilogue) } else { None },
                    };
                    // SAFETY: `a` and `b` hold the block by the layouts above, and the caller vouches for `out`.
                    unsafe { tile::run_block(a, b, depth_len, block_rows.clone(), cols.clone(), &output) };
                }
                if let Some(program) = self.epilogue.program {
                    for row in block_rows {
                        // SAFETY: the segment lies within the rows and columns that are ours alone.
                        let values =
                            unsafe { std::slice::from_raw_parts_mut(out.add(row * n + cols.start), cols.len()) };
                        program.apply(self.epilogue.first_row + row, cols.start, values);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::epilogue::{Bias, Clamp, RowProgram};
    use crate::cpu::testing::{Rng, assert_close, assert_same_bits};

    struct AddPosition;
    impl RowProgram for AddPosition {
        fn apply(&self, row: usize, col: usize, values: &mut [f32]) {
            for (index, value) in values.iter_mut().enumerate() {
                *value += (row * 7 + col + index) as f32 * 0.01;
            }
        }
    }

    fn reference(shape: GemmShape, a: MatrixRef, b: MatrixRef, epilogue: &Epilogue) -> Vec<f32> {
        let GemmShape { m, k, n } = shape;
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                let at = |x: MatrixRef, i: usize, j: usize| f64::from(x.data[i * x.row_stride + j * x.col_stride]);
                let sum: f64 = (0..k).map(|d| at(a, i, d) * at(b, d, j)).sum();
                out[i * n + j] = sum as f32;
            }
            for j in 0..n {
                epilogue.apply(i, j, n, &mut out[i * n + j..i * n + j + 1]);
            }
        }
        out
    }

    fn check(rng: &mut Rng, shape: GemmShape, threads: &Threads) {
        let GemmShape { m, k, n } = shape;
        let (a, b) = (rng.vec(m * k), rng.vec(k * n));
        let a = if rng.bool() {
            MatrixRef::row_major(&a, k)
        } else {
            MatrixRef::transposed(&a, m)
        };
        let b = if rng.bool() {
            MatrixRef::row_major(&b, n)
        } else {
            MatrixRef::transposed(&b, k)
        };
        let (row_bias, col_bias, residual) = (rng.vec(m), rng.vec(n), rng.vec(m * n));
        let epilogue = Epilogue {
            alpha: if rng.bool() { 1.0 } else { 0.5 },
            bias: match rng.size(0, 2) {
                0 => Bias::None,
                1 => Bias::PerRow(&row_bias),
                _ => Bias::PerColumn(&col_bias),
            },
            residual: rng.bool().then_some(&residual[..]),
            clamp: rng.bool().then_some(Clamp { min: -0.5, max: 4.0 }),
            program: if rng.bool() { Some(&AddPosition) } else { None },
            first_row: rng.size(0, 3),
        };
        let expected = reference(shape, a, b, &epilogue);
        let (packed_a, packed_b) = (PackedA::new(a, m, k), PackedB::new(b, k, n));
        for (lhs, lhs_packed) in [(Lhs::Matrix(a), false), (Lhs::Packed(&packed_a), true)] {
            for (rhs, rhs_packed) in [
                (Rhs::Matrix(b), false),
                (Rhs::Packed(&packed_b), true),
                (Rhs::Virtual(&b), false),
            ] {
                let mut scratch = vec![f32::NAN; gemm_scratch_len(shape, lhs_packed, rhs_packed)];
                let mut out = vec![f32::NAN; m * n];
                gemm(shape, lhs, rhs, &mut out, &mut scratch, &epilogue, &Threads::SINGLE);
                let what = format!("{shape:?} lhs packed {lhs_packed} rhs packed {rhs_packed}");
                assert_close(&out, &expected, 2e-6 * (k as f32).sqrt().max(4.0), &what);
                let mut scratch = vec![f32::NAN; 3 * scratch.len()];
                let mut cut = vec![f32::NAN; m * n];
                gemm(shape, lhs, rhs, &mut cut, &mut scratch, &epilogue, threads);
                assert_same_bits(&cut, &out, &what);
            }
        }
    }

    #[test]
    fn small_and_odd_sizes_match_the_reference() {
        let (mut rng, threads) = (Rng::new(1), Threads::eager(3));
        for _ in 0..300 {
            let shape = GemmShape {
                m: rng.size(0, 13),
                k: rng.size(0, 20),
                n: rng.size(0, 70),
            };
            check(&mut rng, shape, &threads);
        }
    }

    #[test]
    fn sizes_across_block_borders_match_the_reference() {
        let (mut rng, threads) = (Rng::new(2), Threads::eager(3));
        for shape in [
            (1, 700, 1100),
            (5, 257, 300),
            (67, 513, 9),
            (131, 100, 261),
            (64, 256, 256),
            (3, 600, 530),
        ] {
            check(
                &mut rng,
                GemmShape {
                    m: shape.0,
                    k: shape.1,
                    n: shape.2,
                },
                &threads,
            );
        }
    }

    #[test]
    fn depth_zero_gives_the_epilogue_of_zero() {
        let bias = [1.0, 2.0];
        let epilogue = Epilogue {
            bias: Bias::PerRow(&bias),
            ..Epilogue::none()
        };
        let shape = GemmShape { m: 2, k: 0, n: 3 };
        let mut out = [9.0; 6];
        let empty = MatrixRef::row_major(&[], 3);
        gemm(
            shape,
            Lhs::Matrix(empty),
            Rhs::Virtual(&empty),
            &mut out,
            &mut [],
            &epilogue,
            &Threads::SINGLE,
        );
        assert_eq!(out, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
    }
}
