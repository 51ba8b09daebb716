//! The inner loops: tiles of one, two or four rows by eight vectors of sums, over panels of 32-bit words. A word holds the
//! factors of two steps of depth as 16-bit integers, or of four steps as bytes.

use crate::cpu::simd::{F32x4, I32x4, LANES, advance};

/// Rows of a left panel, in words.
pub const MR: usize = 4;
/// Columns of a right panel, in words.
pub const NR: usize = 8;
/// Words of depth per pass: a panel of each side lies in L1.
const DEPTH: usize = 512;

/// How words are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiply {
    /// Two 16-bit integers of each side.
    Pairs,
    /// Four bytes; the left ones are the dot product's first factor.
    LeftFirst,
    /// Four bytes; the right ones are the dot product's first factor.
    RightFirst,
}

trait Dot {
    fn dot(left: I32x4, right: I32x4, sum: I32x4) -> I32x4;
}

struct Pairs;
#[cfg(any(test, target_feature = "relaxed-simd"))]
struct LeftFirst;
#[cfg(any(test, target_feature = "relaxed-simd"))]
struct RightFirst;

impl Dot for Pairs {
    #[inline(always)]
    fn dot(left: I32x4, right: I32x4, sum: I32x4) -> I32x4 {
        sum + left.dot_pairs(right)
    }
}

#[cfg(any(test, target_feature = "relaxed-simd"))]
impl Dot for LeftFirst {
    #[inline(always)]
    fn dot(left: I32x4, right: I32x4, sum: I32x4) -> I32x4 {
        left.dot_bytes(right, sum)
    }
}

#[cfg(any(test, target_feature = "relaxed-simd"))]
impl Dot for RightFirst {
    #[inline(always)]
    fn dot(left: I32x4, right: I32x4, sum: I32x4) -> I32x4 {
        right.dot_bytes(left, sum)
    }
}

/// A block of sums, rows of `row_len`, written in whole tiles.
pub struct Sums<'a> {
    pub values: &'a mut [i32],
    pub row_len: usize,
}

/// `sums = left · right` for panels of `words` words of depth: `left` holds whole panels of [`MR`] rows, `right` of [`NR`]
/// columns. Only `rows` and `columns` of the sums are wanted; what lies beyond in their panels may be written too.
///
/// # Panics
/// When a slice is too short for whole panels.
pub fn multiply(
    how: Multiply,
    words: usize,
    left: &[i32],
    right: &[i32],
    rows: usize,
    columns: usize,
    sums: &mut Sums<'_>,
) {
    match how {
        Multiply::Pairs => block::<Pairs>(words, left, right, rows, columns, sums),
        // Only builds with a dot product of bytes ask for it; in the others the code would lie idle.
        #[cfg(any(test, target_feature = "relaxed-simd"))]
        Multiply::LeftFirst => block::<LeftFirst>(words, left, right, rows, columns, sums),
        #[cfg(any(test, target_feature = "relaxed-simd"))]
        Multiply::RightFirst => block::<RightFirst>(words, left, right, rows, columns, sums),
        #[cfg(not(any(test, target_feature = "relaxed-simd")))]
        _ => unreachable!("this build has no dot product of bytes"),
    }
}

fn block<D: Dot>(words: usize, left: &[i32], right: &[i32], rows: usize, columns: usize, sums: &mut Sums<'_>) {
    let (row_panels, column_panels) = (rows.div_ceil(MR), columns.div_ceil(NR));
    assert!(left.len() >= row_panels * MR * words && right.len() >= column_panels * NR * words);
    assert!(sums.row_len >= column_panels * NR && sums.values.len() >= row_panels * MR * sums.row_len);
    if words == 0 {
        return sums.values[..row_panels * MR * sums.row_len].fill(0);
    }
    let (left, right): (*const f32, *const f32) = (left.as_ptr().cast(), right.as_ptr().cast());
    let (out, row_len) = (sums.values.as_mut_ptr(), sums.row_len);
    let panel_len = words * NR;
    for start in (0..words).step_by(DEPTH) {
        let depth = DEPTH.min(words - start);
        let together = match rows {
            1 => 4,
            2 => 2,
            _ => 1,
        };
        let mut panel = 0;
        while panel < column_panels {
            let together = if panel + together <= column_panels { together } else { 1 };
            let right = right.wrapping_add(panel * panel_len + start * NR);
            for row_panel in 0..row_panels {
                let left = left.wrapping_add((row_panel * words + start) * MR);
                let out = out.wrapping_add(row_panel * MR * row_len + panel * NR);
                let add = start > 0;
                // SAFETY: the panels hold `depth` words from there, and the tile's rows and columns lie in the block of sums,
                // both as asserted.
                unsafe {
                    match together {
                        4 => tile::<D, 1, 8>(depth, left, right, panel_len, out, row_len, add),
                        2 => tile::<D, 2, 4>(depth, left, right, panel_len, out, row_len, add),
                        _ => tile::<D, 4, 2>(depth, left, right, panel_len, out, row_len, add),
                    }
                }
            }
            panel += together;
        }
    }
}

/// `M` rows by `V` vectors of columns, whose panels lie `panel_len` words apart.
///
/// # Safety
/// Both sides are readable for `depth` words of each row and column, `out` is writable for `M` rows of `V` vectors.
#[inline(never)]
unsafe fn tile<D: Dot, const M: usize, const V: usize>(
    depth: usize,
    mut left: *const f32,
    right: *const f32,
    panel_len: usize,
    out: *mut i32,
    row_len: usize,
    add: bool,
) {
    let mut acc = [[I32x4::splat(0); V]; M];
    // Only the first V / 2 of them are used; the others cost nothing.
    let mut panels: [*const f32; 4] = std::array::from_fn(|p| right.wrapping_add(p * panel_len));
    let end = left.wrapping_add(depth * MR);
    while left != end {
        // SAFETY: the caller's promise.
        unsafe {
            let mut columns = [I32x4::splat(0); V];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = F32x4::load_ptr(panels[v / 2].add(v % 2 * LANES)).to_bits();
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let value = F32x4::load_splat_ptr(left.add(r)).to_bits();
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = D::dot(value, column, *sum);
                }
            }
        }
        left = advance(left, MR);
        for panel in &mut panels[..V / 2] {
            *panel = advance(*panel, NR);
        }
    }
    for (r, row) in acc.into_iter().enumerate() {
        for (v, sum) in row.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let place: *mut u8 = out.add(r * row_len + v * LANES).cast();
                let sum = if add { sum + I32x4::load_ptr(place) } else { sum };
                sum.store_ptr(place);
            }
        }
    }
}

/// The sums of each row's (or column's) bytes in a panel `width` words wide: the product with ones, which `is_first` puts on
/// the other side.
pub fn byte_sums(panel: &[i32], width: usize, is_first: bool, sums: &mut [i32]) {
    let ones = I32x4::splat_byte(1);
    for (lane, sums) in sums[..width].chunks_exact_mut(LANES).enumerate() {
        let mut total = I32x4::splat(0);
        for words in panel.chunks_exact(width) {
            let words: &[f32] = bytemuck::cast_slice(&words[lane * LANES..][..LANES]);
            let words = F32x4::load(words).to_bits();
            total = if is_first {
                words.dot_bytes(ones, total)
            } else {
                ones.dot_bytes(words, total)
            };
        }
        sums.copy_from_slice(&total.to_array());
    }
}
