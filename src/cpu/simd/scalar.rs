//! The lanes of [`super::F32x4`] as plain arrays, for targets without their own file.
#![cfg_attr(test, allow(dead_code))]

pub type F = [f32; 4];
pub type I = [i32; 4];

macro_rules! zip {
    ($($type:ident $name:ident = |$a:ident, $b:ident| $body:expr => $out:ident),* $(,)?) => {$(
        #[inline(always)]
        pub fn $name(a: $type, b: $type) -> $out {
            std::array::from_fn(|lane| {
                let ($a, $b) = (a[lane], b[lane]);
                $body
            })
        }
    )*};
}

zip!(
    F add = |a, b| a + b => F,
    F sub = |a, b| a - b => F,
    F mul = |a, b| a * b => F,
    F div = |a, b| a / b => F,
    F max = |a, b| super::max_f32(a, b) => F,
    F min = |a, b| super::min_f32(a, b) => F,
    F at_least = |a, b| if a < b { b } else { a } => F,
    F at_most = |a, b| if b < a { b } else { a } => F,
    F lt = |a, b| -i32::from(a < b) => I,
    F le = |a, b| -i32::from(a <= b) => I,
    F eq = |a, b| -i32::from(a == b) => I,
    I add_i32 = |a, b| a.wrapping_add(b) => I,
    I sub_i32 = |a, b| a.wrapping_sub(b) => I,
    I and = |a, b| a & b => I,
    I or = |a, b| a | b => I,
    I xor = |a, b| a ^ b => I,
);

#[inline(always)]
pub fn splat(value: f32) -> F {
    [value; 4]
}

#[inline(always)]
pub fn splat_i32(value: i32) -> I {
    [value; 4]
}

/// # Safety
/// `ptr` is readable for four f32.
#[inline(always)]
pub unsafe fn load(ptr: *const f32) -> F {
    // SAFETY: readability is the caller's promise, and the read is unaligned.
    unsafe { ptr.cast::<F>().read_unaligned() }
}

/// # Safety
/// `ptr` is readable for one f32.
#[inline(always)]
pub unsafe fn load_splat(ptr: *const f32) -> F {
    // SAFETY: readability is the caller's promise, and the read is unaligned.
    [unsafe { ptr.read_unaligned() }; 4]
}

/// # Safety
/// `ptr` is writable for four f32.
#[inline(always)]
pub unsafe fn store(ptr: *mut f32, value: F) {
    // SAFETY: writability is the caller's promise, and the write is unaligned.
    unsafe { ptr.cast::<F>().write_unaligned(value) }
}

#[inline(always)]
pub fn mul_add(a: F, b: F, c: F) -> F {
    // aarch64 fuses at full speed; elsewhere `f32::mul_add` may be a call into a slow library.
    #[cfg(target_arch = "aarch64")]
    return std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]));
    #[cfg(not(target_arch = "aarch64"))]
    return add(mul(a, b), c);
}

#[inline(always)]
pub fn neg_mul_add(a: F, b: F, c: F) -> F {
    mul_add(a.map(|lane| -lane), b, c)
}

#[inline(always)]
pub fn splat_lane<const LANE: usize>(a: F) -> F {
    [a[LANE]; 4]
}

#[inline(always)]
pub fn zip_low(a: F, b: F) -> F {
    [a[0], b[0], a[1], b[1]]
}

#[inline(always)]
pub fn zip_high(a: F, b: F) -> F {
    [a[2], b[2], a[3], b[3]]
}

#[inline(always)]
pub fn low_halves(a: F, b: F) -> F {
    [a[0], a[1], b[0], b[1]]
}

#[inline(always)]
pub fn high_halves(a: F, b: F) -> F {
    [a[2], a[3], b[2], b[3]]
}

#[inline(always)]
pub fn even_odd(a: F, b: F) -> F {
    [a[0], a[2], b[1], b[3]]
}

#[inline(always)]
pub fn after(a: F, b: F) -> F {
    [b[0], a[0], a[1], a[2]]
}

#[inline(always)]
pub fn before(a: F, b: F) -> F {
    [a[1], a[2], a[3], b[3]]
}

#[inline(always)]
pub fn evens(a: F, b: F) -> F {
    [a[0], a[2], b[0], b[2]]
}

#[inline(always)]
pub fn odds(a: F, b: F) -> F {
    [a[1], a[3], b[1], b[3]]
}

#[inline(always)]
pub fn sqrt(a: F) -> F {
    a.map(f32::sqrt)
}

#[inline(always)]
pub fn bits(a: F) -> I {
    a.map(|lane| lane.to_bits() as i32)
}

#[inline(always)]
pub fn from_bits(a: I) -> F {
    a.map(|lane| f32::from_bits(lane as u32))
}

#[inline(always)]
pub fn to_i32(a: F) -> I {
    a.map(|lane| lane as i32)
}

#[inline(always)]
pub fn from_i32(a: I) -> F {
    a.map(|lane| lane as f32)
}

#[inline(always)]
pub fn shl<const N: i32>(a: I) -> I {
    a.map(|lane| lane << N)
}

#[inline(always)]
pub fn shr<const N: i32>(a: I) -> I {
    a.map(|lane| lane >> N)
}

#[inline(always)]
pub fn select(mask: I, yes: F, no: F) -> F {
    std::array::from_fn(|lane| if mask[lane] != 0 { yes[lane] } else { no[lane] })
}

#[inline(always)]
pub fn any(mask: I) -> bool {
    mask.iter().any(|&lane| lane != 0)
}
