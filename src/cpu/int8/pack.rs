//! Bytes into the words that tiles multiply, panel by panel: shifted to what the dot product of bytes takes, or widened to
//! 16-bit integers less their zero points. Depth that fills no whole word is zero.

use super::{
    Form,
    tile::{MR, NR},
};
use crate::cpu::simd::{F32x4, I32x4, LANES};

/// How the bytes of one side become words.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// Four bytes, each with this one added.
    Bytes(u8),
    /// Two 16-bit integers: the byte, with this one added, as an unsigned number, less its row's or column's zero point.
    Pairs(u8, Zeros<'a>),
}

/// Zero points of one side.
#[derive(Clone, Copy, Debug)]
pub enum Zeros<'a> {
    /// One for all.
    One(i32),
    /// One for each row or column.
    Each(&'a [i32]),
}

impl Zeros<'_> {
    /// That of row or column `index`.
    pub fn at(&self, index: usize) -> i32 {
        match *self {
            Zeros::One(zero) => zero,
            Zeros::Each(zeros) => zeros[index],
        }
    }
}

/// A matrix of which eight columns of a row are read together.
pub trait Columns {
    /// The bytes of columns `8 * panel..` of row `depth`, in the lower half.
    fn row(&self, depth: usize) -> I32x4;
}

/// The words of one panel of the right side: `depth` rows of `columns` into [`NR`] words each. `first` is the panel's first
/// column.
#[inline(always)]
pub fn pack_columns(side: Side<'_>, depth: usize, first: usize, columns: &impl Columns, out: &mut [i32]) {
    match side {
        Side::Bytes(shift) => {
            let shift = I32x4::splat_byte(shift);
            for (word, out) in out.chunks_exact_mut(NR).enumerate() {
                let start = 4 * word;
                let row = |i: usize| columns.row((start + i).min(depth - 1));
                let (a, b) = (row(0).zip_bytes(row(1)), row(2).zip_bytes(row(3)));
                let mask = tail_mask(depth - start, 8);
                store(a.zip_pairs_low(b).add_bytes(shift) & mask, &mut out[..LANES]);
                store(a.zip_pairs_high(b).add_bytes(shift) & mask, &mut out[LANES..]);
            }
        }
        Side::Pairs(shift, zeros) => {
            let shift = I32x4::splat_byte(shift);
            let zero = |lane: usize| match zeros {
                Zeros::One(zero) => I32x4::splat_pair(zero as i16),
                Zeros::Each(zeros) => vector(std::array::from_fn(|i| {
                    let zero = zeros.get(first + lane + i).map_or(0, |&zero| zero as u16);
                    i32::from_ne_bytes(bytemuck::cast([zero; 2]))
                })),
            };
            let zeros = [zero(0), zero(LANES)];
            for (word, out) in out.chunks_exact_mut(NR).enumerate() {
                let start = 2 * word;
                let row = |i: usize| columns.row((start + i).min(depth - 1));
                let both = row(0).zip_bytes(row(1)).add_bytes(shift);
                let mask = tail_mask(depth - start, 16);
                store(both.widen_low().sub_pairs(zeros[0]) & mask, &mut out[..LANES]);
                store(both.widen_high().sub_pairs(zeros[1]) & mask, &mut out[LANES..]);
            }
        }
    }
}

/// Keeps the first `steps` parts of `bits` bits of each word.
#[inline(always)]
fn tail_mask(steps: usize, bits: u32) -> I32x4 {
    let kept = (steps as u32).saturating_mul(bits);
    I32x4::splat(if kept >= 32 { -1 } else { (1 << kept) - 1 })
}

fn vector(words: [i32; LANES]) -> I32x4 {
    F32x4::from_array(words.map(|word| f32::from_bits(word as u32))).to_bits()
}

#[inline(always)]
fn store(words: I32x4, out: &mut [i32]) {
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);
    words.bits_to_f32().store(out);
}

/// Some rows of a row-major matrix, `stride` bytes apart, into panels of [`MR`] words: the left side. `first` is the number
/// of the first row among the side's zero points.
pub fn pack_rows(side: Side<'_>, data: &[u8], stride: usize, depth: usize, rows: usize, first: usize, out: &mut [i32]) {
    let per_word = match side {
        Side::Bytes(_) => 4,
        Side::Pairs(..) => 2,
    };
    let words = depth.div_ceil(per_word);
    for (panel, out) in out.chunks_exact_mut((words * MR).max(1)).enumerate() {
        let start = panel * MR;
        if start >= rows {
            break;
        }
        // Rows beyond the last repeat it: their sums are dropped.
        let row: [&[u8]; MR] = std::array::from_fn(|r| &data[(start + r).min(rows - 1) * stride..][..depth]);
        let zero = |r: usize| match side {
            Side::Bytes(_) => 0,
            Side::Pairs(_, zeros) => zeros.at(first + (start + r).min(rows - 1)),
        };
        let zeros: [I32x4; MR] = std::array::from_fn(|r| I32x4::splat_pair(zero(r) as i16));
        let mut word = 0;
        let (shift, step) = match side {
            Side::Bytes(shift) => (I32x4::splat_byte(shift), 16),
            Side::Pairs(shift, _) => (I32x4::splat_byte(shift), 8),
        };
        let mut at = 0;
        while at + step <= depth {
            // SAFETY: `step` bytes from `at` lie in every row.
            let vectors: [F32x4; MR] = std::array::from_fn(|r| unsafe {
                let from = row[r].as_ptr().add(at);
                match side {
                    Side::Bytes(_) => I32x4::load_ptr(from).add_bytes(shift),
                    Side::Pairs(..) => I32x4::load_low(from).add_bytes(shift).widen_low().sub_pairs(zeros[r]),
                }
                .bits_to_f32()
            });
            for (i, column) in F32x4::transpose(vectors).into_iter().enumerate() {
                store(column.to_bits(), &mut out[(word + i) * MR..][..MR]);
            }
            at += step;
            word += LANES;
        }
        for word in word..words {
            for (r, place) in out[word * MR..][..MR].iter_mut().enumerate() {
                *place = tail_word(side, &row[r][word * per_word..], zero(r));
            }
        }
    }
}

/// One word from up to four or two bytes.
fn tail_word(side: Side<'_>, bytes: &[u8], zero: i32) -> i32 {
    match side {
        Side::Bytes(shift) => {
            let byte = |i: usize| bytes.get(i).map_or(0, |byte| byte.wrapping_add(shift));
            i32::from_le_bytes(std::array::from_fn(byte))
        }
        Side::Pairs(shift, _) => {
            let pair = |i: usize| {
                bytes
                    .get(i)
                    .map_or(0, |byte| (i32::from(byte.wrapping_add(shift)) - zero) as u16)
            };
            i32::from(pair(0)) | i32::from(pair(1)) << 16
        }
    }
}

/// Eight neighbouring columns of a row-major matrix.
pub struct MatrixColumns<'a> {
    pub data: &'a [u8],
    pub stride: usize,
    pub first: usize,
    pub count: usize,
}

impl Columns for MatrixColumns<'_> {
    #[inline(always)]
    fn row(&self, depth: usize) -> I32x4 {
        load_up_to(&self.data[depth * self.stride + self.first..], self.count)
    }
}

/// The first `count` bytes of `data`, and whatever follows them.
#[inline(always)]
pub fn load_up_to(data: &[u8], count: usize) -> I32x4 {
    if data.len() >= 8 {
        // SAFETY: eight bytes lie there.
        return unsafe { I32x4::load_low(data.as_ptr()) };
    }
    short(data, count)
}

#[inline(never)]
fn short(data: &[u8], count: usize) -> I32x4 {
    let mut bytes = [0; 8];
    let count = count.min(data.len()).min(8);
    bytes[..count].copy_from_slice(&data[..count]);
    // SAFETY: the array holds eight bytes.
    unsafe { I32x4::load_low(bytes.as_ptr()) }
}

/// A whole row-major matrix into panels of [`NR`] columns.
#[inline(never)]
pub fn pack_matrix(side: Side<'_>, data: &[u8], depth: usize, columns: usize, form: Form, out: &mut [i32]) {
    if depth == 0 {
        return;
    }
    let panel_len = form.words(depth) * NR;
    for (panel, out) in out.chunks_exact_mut(panel_len).enumerate() {
        let first = panel * NR;
        if first >= columns {
            break;
        }
        let source = MatrixColumns {
            data,
            stride: columns,
            first,
            count: columns - first,
        };
        pack_columns(side, depth, first, &source, out);
    }
}
