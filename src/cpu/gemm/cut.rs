//! How a product is cut into a grid of parts for several threads. Cuts along columns are free as long as a part keeps a
//! whole block; cuts along rows make every part pack the right operand anew, unless that was packed before.

use std::ops::Range;

use super::{GemmShape, Lhs, MC, MR, NC, NR, Rhs};
use crate::cpu::threads::{Split, Threads};

/// Multiply-adds that take as long as one element-wise step, the unit of costs.
const MULTIPLY_ADDS: usize = 8;
/// What packing one element costs, in multiply-adds.
const PACK: usize = 12;
/// What handing out a part costs, in multiply-adds.
const HAND_OUT: usize = 20_000;

/// A product cut into parts.
pub(super) struct Grid {
    shape: GemmShape,
    /// Panels of [`MR`] rows.
    rows: Split,
    /// Panels of [`NR`] columns.
    columns: Split,
}

impl Grid {
    /// The grid that should end soonest; `None` when the product is too small to be cut.
    #[inline(never)]
    pub fn new(shape: GemmShape, lhs: &Lhs, rhs: &Rhs, threads: &Threads) -> Option<Grid> {
        let GemmShape { m, k, n } = shape;
        let worth = threads.worth(m.saturating_mul(n).saturating_mul(k) / MULTIPLY_ADDS);
        let (rows, columns) = (m.div_ceil(MR), n.div_ceil(NR));
        let (lhs_packed, rhs_packed) = (matches!(lhs, Lhs::Packed(_)), matches!(rhs, Rhs::Packed(_)));
        let time = |row_parts: usize, column_parts: usize| {
            let (part_m, part_n) = (rows.div_ceil(row_parts) * MR, columns.div_ceil(column_parts) * NR);
            let pack_a = if lhs_packed { 0 } else { part_m * part_n.div_ceil(NC) };
            let pack_b = if rhs_packed { 0 } else { part_n };
            // A block of the left operand is read from memory for each block of columns.
            let load_a = part_m * part_n.div_ceil(NC);
            let part = k * (part_m * part_n + PACK * (pack_a + pack_b) + load_a) + HAND_OUT;
            // One that comes late holds up the end by a fraction of a part.
            (row_parts * column_parts).div_ceil(threads.count()) * part + part / 8
        };
        let mut best = (usize::MAX, 1, 1);
        for column_parts in 1..=worth.min(columns) {
            for row_parts in 1..=(worth / column_parts).min(rows) {
                best = best.min((time(row_parts, column_parts), row_parts, column_parts));
            }
        }
        let (_, row_parts, column_parts) = best;
        let split = |items, parts| Split { items, parts };
        (row_parts * column_parts > 1).then(|| Grid {
            shape,
            rows: split(rows, row_parts),
            columns: split(columns, column_parts),
        })
    }

    /// Number of parts.
    pub fn parts(&self) -> usize {
        self.rows.parts * self.columns.parts
    }

    /// The rows and columns of a part. Parts that follow one another share columns.
    pub fn part(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let rows = self.rows.range(index % self.rows.parts);
        let columns = self.columns.range(index / self.rows.parts);
        (
            rows.start * MR..self.shape.m.min(rows.end * MR),
            columns.start * NR..self.shape.n.min(columns.end * NR),
        )
    }
}

// Parts need not begin at a block's border: blocks are counted from the part's own start.
const _: () = assert!(MC.is_multiple_of(MR) && NC.is_multiple_of(NR));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gemm::MatrixRef;

    #[test]
    fn parts_cover_the_product_once() {
        let empty = MatrixRef::row_major(&[], 1);
        for count in [2, 3, 8] {
            let threads = Threads::eager(count);
            for (m, n) in [(1, 9), (5, 8), (49, 512), (2048, 49), (64, 12544), (130, 131)] {
                let shape = GemmShape { m, k: 64, n };
                let Some(grid) = Grid::new(shape, &Lhs::Matrix(empty), &Rhs::Matrix(empty), &threads) else {
                    continue;
                };
                let mut seen = vec![0; m * n];
                for part in 0..grid.parts() {
                    let (rows, columns) = grid.part(part);
                    assert!(!rows.is_empty() && !columns.is_empty());
                    assert!(rows.start.is_multiple_of(MR) && columns.start.is_multiple_of(NR));
                    for row in rows {
                        seen[row * n..][columns.clone()].iter_mut().for_each(|seen| *seen += 1);
                    }
                }
                assert!(seen.iter().all(|&seen| seen == 1), "{m}x{n} on {count}");
            }
        }
    }

    // A build without threads cuts nothing.
    #[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
    #[test]
    fn small_products_are_not_cut_and_large_ones_evenly() {
        let empty = MatrixRef::row_major(&[], 1);
        let threads = Threads::new(2);
        let grid = |m, k, n| {
            Grid::new(
                GemmShape { m, k, n },
                &Lhs::Matrix(empty),
                &Rhs::Matrix(empty),
                &threads,
            )
        };
        assert!(grid(16, 64, 64).is_none());
        let grid = grid(256, 2304, 196).unwrap();
        assert!(grid.parts() >= 2 && grid.parts().is_multiple_of(2));
    }
}
