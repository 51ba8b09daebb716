//! Candidate tile shapes side by side, each on panels that lie in L1, and the multiply-add roof. The matrix product
//! uses the shape that wins here.

use crate::Bench;
use crate::cpu::simd::F32x4;

const ROOF_STEPS: usize = 20_000;
const ROOF_ACCUMULATORS: usize = 13;
pub const ROOF_FLOPS: f64 = (ROOF_STEPS * ROOF_ACCUMULATORS * 8) as f64;

#[inline(never)]
fn roof_loop(factor: f32, term: f32) -> f32 {
    let (factor, term) = (F32x4::splat(factor), F32x4::splat(term));
    let mut sums = [F32x4::zero(); ROOF_ACCUMULATORS];
    for _ in 0..ROOF_STEPS {
        for sum in &mut sums {
            *sum = sum.mul_add(factor, term);
        }
    }
    sums.into_iter().fold(F32x4::zero(), |a, b| a + b).sum()
}

pub fn roof() {
    std::hint::black_box(roof_loop(std::hint::black_box(0.999), std::hint::black_box(0.001)));
}

/// The depth of the panels.
const DEPTH: usize = 256;

type Tile = unsafe fn(*const f32, *const f32, *mut f32);

/// `M` rows by `V` vectors; A is broadcast with one load per value.
///
/// # Safety
/// `a`, `b`, `c` hold `M * DEPTH`, `4 * V * DEPTH` and `4 * M * V` values.
#[inline(never)]
unsafe fn splat_loads<const M: usize, const V: usize, const UNROLL: usize>(mut a: *const f32, mut b: *const f32, c: *mut f32) {
    let mut acc = [[F32x4::zero(); V]; M];
    for _ in 0..DEPTH / UNROLL {
        for u in 0..UNROLL {
            // SAFETY: the caller's promise.
            unsafe {
                let columns: [F32x4; V] = std::array::from_fn(|v| F32x4::load_ptr(b.add(u * V * 4 + v * 4)));
                for (r, row) in acc.iter_mut().enumerate() {
                    let value = F32x4::load_splat_ptr(a.add(u * M + r));
                    for (sum, column) in row.iter_mut().zip(columns) {
                        *sum = value.mul_add(column, *sum);
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            a = a.add(M * UNROLL);
            b = b.add(V * 4 * UNROLL);
        }
    }
    for (r, row) in acc.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { sum.store_ptr(c.add((r * V + v) * 4)) };
        }
    }
}

/// Four rows by two vectors; four values of A are loaded as one vector and broadcast lane by lane.
///
/// # Safety
/// As [`splat_loads`].
#[inline(never)]
unsafe fn shuffles(mut a: *const f32, mut b: *const f32, c: *mut f32) {
    let mut acc = [[F32x4::zero(); 2]; 4];
    for _ in 0..DEPTH {
        // SAFETY: the caller's promise.
        unsafe {
            let columns: [F32x4; 2] = std::array::from_fn(|v| F32x4::load_ptr(b.add(v * 4)));
            let values = F32x4::load_ptr(a);
            let values = [values.splat_lane::<0>(), values.splat_lane::<1>(), values.splat_lane::<2>(), values.splat_lane::<3>()];
            for (row, value) in acc.iter_mut().zip(values) {
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = value.mul_add(column, *sum);
                }
            }
            a = a.add(4);
            b = b.add(8);
        }
    }
    for (r, row) in acc.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { sum.store_ptr(c.add((r * 2 + v) * 4)) };
        }
    }
}

/// Moves on by `bytes`. The mask changes nothing (f32 lie at multiples of 4) but hides the step from LLVM's loop
/// strength reduction, which would otherwise compute every address anew instead of using the offset that a wasm load has.
#[inline(always)]
fn step(at: *const f32, bytes: usize) -> *const f32 {
    ((at as usize + bytes) & !3) as *const f32
}

/// # Safety
/// As [`splat_loads`].
#[inline(never)]
unsafe fn folded<const M: usize, const V: usize>(mut a: *const f32, mut b: *const f32, c: *mut f32) {
    let mut acc = [[F32x4::zero(); V]; M];
    let end = b as usize + DEPTH * V * 16;
    loop {
        // SAFETY: the caller's promise.
        unsafe {
            let columns: [F32x4; V] = std::array::from_fn(|v| F32x4::load_ptr(b.add(v * 4)));
            for (r, row) in acc.iter_mut().enumerate() {
                let value = F32x4::load_splat_ptr(a.add(r));
                for (sum, column) in row.iter_mut().zip(columns) {
                    *sum = value.mul_add(column, *sum);
                }
            }
        }
        a = step(a, M * 4);
        b = step(b, V * 16);
        if b as usize == end {
            break;
        }
    }
    for (r, row) in acc.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { sum.store_ptr(c.add((r * V + v) * 4)) };
        }
    }
}

/// # Safety
/// As [`splat_loads`].
#[inline(never)]
unsafe fn exits<const M: usize, const V: usize, const UNROLL: usize>(mut a: *const f32, mut b: *const f32, c: *mut f32) {
    let mut acc = [[F32x4::zero(); V]; M];
    let mut left = std::hint::black_box(DEPTH);
    'all: loop {
        for u in 0..UNROLL {
            // SAFETY: the caller's promise.
            unsafe {
                let columns: [F32x4; V] = std::array::from_fn(|v| F32x4::load_ptr(b.add(u * V * 4 + v * 4)));
                for (r, row) in acc.iter_mut().enumerate() {
                    let value = F32x4::load_splat_ptr(a.add(u * M + r));
                    for (sum, column) in row.iter_mut().zip(columns) {
                        *sum = value.mul_add(column, *sum);
                    }
                }
            }
            left -= 1;
            if left == 0 {
                break 'all;
            }
        }
        a = step(a, M * 4 * UNROLL);
        b = step(b, V * 16 * UNROLL);
    }
    for (r, row) in acc.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { sum.store_ptr(c.add((r * V + v) * 4)) };
        }
    }
}

const TILES: &[(&str, usize, usize, Tile)] = &[
    ("4x8 splat loads", 4, 8, splat_loads::<4, 2, 1>),
    ("4x8 splat loads, 2 steps", 4, 8, splat_loads::<4, 2, 2>),
    ("4x8 splat loads, 4 steps", 4, 8, splat_loads::<4, 2, 4>),
    ("4x8 shuffles", 4, 8, shuffles),
    ("8x4 splat loads", 8, 4, splat_loads::<8, 1, 1>),
    ("3x12 splat loads", 3, 12, splat_loads::<3, 3, 1>),
    ("5x8 splat loads", 5, 8, splat_loads::<5, 2, 1>),
    ("6x8 splat loads", 6, 8, splat_loads::<6, 2, 1>),
    ("2x16 splat loads", 2, 16, splat_loads::<2, 4, 1>),
    ("4x8 folded", 4, 8, folded::<4, 2>),
    ("4x8 exits 2", 4, 8, exits::<4, 2, 2>),
    ("4x8 exits 4", 4, 8, exits::<4, 2, 4>),
    ("4x12 folded", 4, 12, folded::<4, 3>),
    ("4x12 exits 2", 4, 12, exits::<4, 3, 2>),
    ("3x12 folded", 3, 12, folded::<3, 3>),
    ("3x12 exits 2", 3, 12, exits::<3, 3, 2>),
    ("5x8 folded", 5, 8, folded::<5, 2>),
    ("6x8 folded", 6, 8, folded::<6, 2>),
    ("2x16 folded", 2, 16, folded::<2, 4>),
    ("2x16 exits 4", 2, 16, exits::<2, 4, 4>),
    ("4x12 splat loads", 4, 12, splat_loads::<4, 3, 1>),
];

pub fn name(index: usize) -> &'static str {
    TILES.get(index).map_or("", |tile| tile.0)
}

pub fn tile(index: usize) -> Option<(&'static str, Bench)> {
    const TIMES: usize = 64;
    let &(name, rows, columns, tile) = TILES.get(index)?;
    let (a, b) = (crate::values(rows * DEPTH), crate::values(columns * DEPTH));
    let mut c = vec![0.0; rows * columns];
    let run = move || {
        for _ in 0..TIMES {
            // SAFETY: the panels were made for this tile.
            unsafe { tile(a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) };
        }
    };
    Some((name, Bench { flops: (TIMES * DEPTH * rows * columns * 2) as f64, run: Box::new(run) }))
}
