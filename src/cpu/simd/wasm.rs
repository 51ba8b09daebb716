//! The lanes of [`super::F32x4`] on wasm `simd128`.

use core::arch::wasm32::*;

pub type F = v128;
pub type I = v128;

macro_rules! forward {
    ($($name:ident = $op:ident),*) => {$(
        #[inline(always)]
        pub fn $name(a: v128, b: v128) -> v128 {
            $op(a, b)
        }
    )*};
}

forward!(
    add = f32x4_add,
    sub = f32x4_sub,
    mul = f32x4_mul,
    div = f32x4_div,
    max = f32x4_max,
    min = f32x4_min,
    lt = f32x4_lt,
    le = f32x4_le,
    eq = f32x4_eq,
    add_i32 = i32x4_add,
    sub_i32 = i32x4_sub,
    and = v128_and,
    or = v128_or,
    xor = v128_xor
);

/// `a < b ? b : a`: keeps a NaN in `a`.
#[inline(always)]
pub fn at_least(a: F, b: F) -> F {
    // One instruction, where a comparison and a select are four or more. LLVM 22 makes a relaxed_max of pmax, too, but
    // leaves the operands as they are, and of the two x86 returns the second when one is NaN (Arm returns the NaN). The
    // loader takes the other build where that does not hold.
    #[cfg(target_feature = "relaxed-simd")]
    return f32x4_relaxed_max(b, a);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return f32x4_pmax(a, b);
}

/// `b < a ? b : a`: keeps a NaN in `a`.
#[inline(always)]
pub fn at_most(a: F, b: F) -> F {
    #[cfg(target_feature = "relaxed-simd")]
    return f32x4_relaxed_min(b, a);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return f32x4_pmin(a, b);
}

#[inline(always)]
pub fn splat(value: f32) -> F {
    f32x4_splat(value)
}

#[inline(always)]
pub fn splat_i32(value: i32) -> I {
    i32x4_splat(value)
}

/// # Safety
/// `ptr` is readable for four f32.
#[inline(always)]
pub unsafe fn load(ptr: *const f32) -> F {
    // SAFETY: v128.load has no alignment requirement; readability is the caller's promise.
    unsafe { v128_load(ptr.cast()) }
}

/// # Safety
/// `ptr` is readable for one f32.
#[inline(always)]
pub unsafe fn load_splat(ptr: *const f32) -> F {
    // SAFETY: readability is the caller's promise.
    unsafe { v128_load32_splat(ptr.cast()) }
}

/// # Safety
/// `ptr` is writable for four f32.
#[inline(always)]
pub unsafe fn store(ptr: *mut f32, value: F) {
    // SAFETY: v128.store has no alignment requirement; writability is the caller's promise.
    unsafe { v128_store(ptr.cast(), value) }
}

#[inline(always)]
pub fn mul_add(a: F, b: F, c: F) -> F {
    #[cfg(target_feature = "relaxed-simd")]
    return f32x4_relaxed_madd(a, b, c);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return f32x4_add(f32x4_mul(a, b), c);
}

#[inline(always)]
pub fn neg_mul_add(a: F, b: F, c: F) -> F {
    #[cfg(target_feature = "relaxed-simd")]
    return f32x4_relaxed_nmadd(a, b, c);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return f32x4_sub(c, f32x4_mul(a, b));
}

#[inline(always)]
pub fn splat_lane<const LANE: usize>(a: F) -> F {
    match LANE {
        0 => i32x4_shuffle::<0, 0, 0, 0>(a, a),
        1 => i32x4_shuffle::<1, 1, 1, 1>(a, a),
        2 => i32x4_shuffle::<2, 2, 2, 2>(a, a),
        _ => i32x4_shuffle::<3, 3, 3, 3>(a, a),
    }
}

#[inline(always)]
pub fn zip_low(a: F, b: F) -> F {
    i32x4_shuffle::<0, 4, 1, 5>(a, b)
}

#[inline(always)]
pub fn zip_high(a: F, b: F) -> F {
    i32x4_shuffle::<2, 6, 3, 7>(a, b)
}

#[inline(always)]
pub fn low_halves(a: F, b: F) -> F {
    i64x2_shuffle::<0, 2>(a, b)
}

#[inline(always)]
pub fn high_halves(a: F, b: F) -> F {
    i64x2_shuffle::<1, 3>(a, b)
}

#[inline(always)]
pub fn even_odd(a: F, b: F) -> F {
    i32x4_shuffle::<0, 2, 5, 7>(a, b)
}

#[inline(always)]
pub fn evens(a: F, b: F) -> F {
    i32x4_shuffle::<0, 2, 4, 6>(a, b)
}

#[inline(always)]
pub fn odds(a: F, b: F) -> F {
    i32x4_shuffle::<1, 3, 5, 7>(a, b)
}

#[inline(always)]
pub fn after(a: F, b: F) -> F {
    i32x4_shuffle::<4, 0, 1, 2>(a, b)
}

#[inline(always)]
pub fn before(a: F, b: F) -> F {
    i32x4_shuffle::<1, 2, 3, 7>(a, b)
}

#[inline(always)]
pub fn sqrt(a: F) -> F {
    f32x4_sqrt(a)
}

#[inline(always)]
pub fn bits(a: F) -> I {
    a
}

#[inline(always)]
pub fn from_bits(a: I) -> F {
    a
}

#[inline(always)]
pub fn to_i32(a: F) -> I {
    #[cfg(target_feature = "relaxed-simd")]
    return i32x4_relaxed_trunc_f32x4(a);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return i32x4_trunc_sat_f32x4(a);
}

#[inline(always)]
pub fn from_i32(a: I) -> F {
    f32x4_convert_i32x4(a)
}

#[inline(always)]
pub fn shl<const N: i32>(a: I) -> I {
    i32x4_shl(a, N as u32)
}

#[inline(always)]
pub fn shr<const N: i32>(a: I) -> I {
    i32x4_shr(a, N as u32)
}

#[inline(always)]
pub fn select(mask: I, yes: F, no: F) -> F {
    // Masks are all ones or all zeros per lane, where the relaxed form gives the same answer in one instruction.
    #[cfg(target_feature = "relaxed-simd")]
    return i32x4_relaxed_laneselect(yes, no, mask);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return v128_bitselect(yes, no, mask);
}

#[inline(always)]
pub fn any(mask: I) -> bool {
    v128_any_true(mask)
}
