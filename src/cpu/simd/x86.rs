//! The lanes of [`super::F32x4`] on x86-64: SSE2, which every such processor has, and FMA when compiled with it.

use core::arch::x86_64::*;

pub type F = __m128;
pub type I = __m128i;

macro_rules! forward {
    ($($type:ident $name:ident = $op:ident),*) => {$(
        #[inline(always)]
        pub fn $name(a: $type, b: $type) -> $type {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { $op(a, b) }
        }
    )*};
}

forward!(
    F add = _mm_add_ps,
    F sub = _mm_sub_ps,
    F mul = _mm_mul_ps,
    F div = _mm_div_ps,
    I add_i32 = _mm_add_epi32,
    I sub_i32 = _mm_sub_epi32,
    I and = _mm_and_si128,
    I or = _mm_or_si128,
    I xor = _mm_xor_si128,
    F zip_low = _mm_unpacklo_ps,
    F zip_high = _mm_unpackhi_ps,
    F low_halves = _mm_movelh_ps
);

macro_rules! compare {
    ($($name:ident = $op:ident),*) => {$(
        #[inline(always)]
        pub fn $name(a: F, b: F) -> I {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { _mm_castps_si128($op(a, b)) }
        }
    )*};
}

compare!(lt = _mm_cmplt_ps, le = _mm_cmple_ps, eq = _mm_cmpeq_ps);

#[inline(always)]
pub fn splat(value: f32) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_set1_ps(value) }
}

#[inline(always)]
pub fn splat_i32(value: i32) -> I {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_set1_epi32(value) }
}

/// # Safety
/// `ptr` is readable for four f32.
#[inline(always)]
pub unsafe fn load(ptr: *const f32) -> F {
    // SAFETY: an unaligned load; readability is the caller's promise.
    unsafe { _mm_loadu_ps(ptr) }
}

/// # Safety
/// `ptr` is readable for one f32.
#[inline(always)]
pub unsafe fn load_splat(ptr: *const f32) -> F {
    // SAFETY: readability is the caller's promise.
    unsafe { _mm_set1_ps(ptr.read_unaligned()) }
}

/// # Safety
/// `ptr` is writable for four f32.
#[inline(always)]
pub unsafe fn store(ptr: *mut f32, value: F) {
    // SAFETY: an unaligned store; writability is the caller's promise.
    unsafe { _mm_storeu_ps(ptr, value) }
}

#[inline(always)]
pub fn mul_add(a: F, b: F, c: F) -> F {
    // SAFETY: FMA is used only when compiled in.
    #[cfg(target_feature = "fma")]
    return unsafe { _mm_fmadd_ps(a, b, c) };
    #[cfg(not(target_feature = "fma"))]
    return add(mul(a, b), c);
}

#[inline(always)]
pub fn neg_mul_add(a: F, b: F, c: F) -> F {
    // SAFETY: FMA is used only when compiled in.
    #[cfg(target_feature = "fma")]
    return unsafe { _mm_fnmadd_ps(a, b, c) };
    #[cfg(not(target_feature = "fma"))]
    return sub(c, mul(a, b));
}

#[inline(always)]
pub fn at_least(a: F, floor: F) -> F {
    // SAFETY: SSE2 is part of x86-64. maxps gives its second operand when either is NaN, hence the order.
    unsafe { _mm_max_ps(floor, a) }
}

#[inline(always)]
pub fn at_most(a: F, ceiling: F) -> F {
    // SAFETY: SSE2 is part of x86-64. minps gives its second operand when either is NaN, hence the order.
    unsafe { _mm_min_ps(ceiling, a) }
}

#[inline(always)]
pub fn max(a: F, b: F) -> F {
    // SAFETY: SSE2 is part of x86-64. maxps(b, a) keeps a NaN in `a`; a NaN in `b` is put back.
    unsafe {
        let b_nan = _mm_cmpunord_ps(b, b);
        _mm_or_ps(b_nan, _mm_max_ps(b, a))
    }
}

#[inline(always)]
pub fn min(a: F, b: F) -> F {
    // SAFETY: SSE2 is part of x86-64. minps(b, a) keeps a NaN in `a`; a NaN in `b` is put back.
    unsafe {
        let b_nan = _mm_cmpunord_ps(b, b);
        _mm_or_ps(b_nan, _mm_min_ps(b, a))
    }
}

#[inline(always)]
pub fn splat_lane<const LANE: usize>(a: F) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        match LANE {
            0 => _mm_shuffle_ps::<0x00>(a, a),
            1 => _mm_shuffle_ps::<0x55>(a, a),
            2 => _mm_shuffle_ps::<0xaa>(a, a),
            _ => _mm_shuffle_ps::<0xff>(a, a),
        }
    }
}

#[inline(always)]
pub fn high_halves(a: F, b: F) -> F {
    // SAFETY: SSE2 is part of x86-64. movhlps puts its second operand's half first.
    unsafe { _mm_movehl_ps(b, a) }
}

#[inline(always)]
pub fn even_odd(a: F, b: F) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_shuffle_ps::<0b11_01_10_00>(a, b) }
}

#[inline(always)]
pub fn after(a: F, b: F) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_move_ss(_mm_shuffle_ps::<0b10_01_00_00>(a, a), b) }
}

#[inline(always)]
pub fn before(a: F, b: F) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let behind = _mm_unpackhi_ps(a, b);
        _mm_shuffle_ps::<0b11_10_10_01>(a, behind)
    }
}

#[inline(always)]
pub fn evens(a: F, b: F) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_shuffle_ps::<0b10_00_10_00>(a, b) }
}

#[inline(always)]
pub fn odds(a: F, b: F) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_shuffle_ps::<0b11_01_11_01>(a, b) }
}

#[inline(always)]
pub fn sqrt(a: F) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_sqrt_ps(a) }
}

#[inline(always)]
pub fn bits(a: F) -> I {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_castps_si128(a) }
}

#[inline(always)]
pub fn from_bits(a: I) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_castsi128_ps(a) }
}

#[inline(always)]
pub fn to_i32(a: F) -> I {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvttps_epi32(a) }
}

#[inline(always)]
pub fn from_i32(a: I) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtepi32_ps(a) }
}

#[inline(always)]
pub fn shl<const N: i32>(a: I) -> I {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_slli_epi32::<N>(a) }
}

#[inline(always)]
pub fn shr<const N: i32>(a: I) -> I {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_srai_epi32::<N>(a) }
}

#[inline(always)]
pub fn select(mask: I, yes: F, no: F) -> F {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let mask = _mm_castsi128_ps(mask);
        _mm_or_ps(_mm_and_ps(mask, yes), _mm_andnot_ps(mask, no))
    }
}

#[inline(always)]
pub fn any(mask: I) -> bool {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_movemask_epi8(mask) != 0 }
}
