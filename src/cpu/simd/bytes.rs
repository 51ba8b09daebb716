//! Vectors of bytes and 16-bit integers, as kernels of quantised numbers see an [`I32x4`]: 16 or 8 lanes of it.

use super::{I32x4, imp::I};

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod lanes {
    use super::I;
    use core::arch::wasm32::*;

    macro_rules! forward {
        ($($name:ident = $op:expr),*) => {$(
            #[inline(always)]
            pub fn $name(a: I, b: I) -> I {
                $op(a, b)
            }
        )*};
    }

    forward!(
        add_bytes = i8x16_add,
        sub_pairs = i16x8_sub,
        dot_pairs = i32x4_dot_i16x8,
        zip_bytes = i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>,
        zip_pairs_low = i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>,
        zip_pairs_high = i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>
    );

    #[inline(always)]
    pub unsafe fn load_low(from: *const u8) -> I {
        // SAFETY: passed on from the caller.
        unsafe { v128_load64_zero(from.cast()) }
    }

    #[inline(always)]
    pub fn splat_byte(value: u8) -> I {
        u8x16_splat(value)
    }

    #[inline(always)]
    pub fn splat_pair(value: i16) -> I {
        i16x8_splat(value)
    }

    #[inline(always)]
    pub fn widen_low(a: I) -> I {
        u16x8_extend_low_u8x16(a)
    }

    #[inline(always)]
    pub fn widen_high(a: I) -> I {
        u16x8_extend_high_u8x16(a)
    }

    #[inline(always)]
    pub fn even_bytes(a: I) -> I {
        i8x16_shuffle::<0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14>(a, a)
    }

    #[inline(always)]
    pub fn narrow(a: I, b: I, c: I, d: I) -> I {
        u8x16_narrow_i16x8(i16x8_narrow_i32x4(a, b), i16x8_narrow_i32x4(c, d))
    }

    #[cfg(target_feature = "relaxed-simd")]
    #[inline(always)]
    pub fn dot_bytes(a: I, b: I, sum: I) -> I {
        i32x4_relaxed_dot_i8x16_i7x16_add(a, b, sum)
    }
}

#[cfg(target_arch = "x86_64")]
mod lanes {
    use super::I;
    use core::arch::x86_64::*;

    macro_rules! forward {
        ($($name:ident = $op:ident),*) => {$(
            #[inline(always)]
            pub fn $name(a: I, b: I) -> I {
                // SAFETY: SSE2 is part of x86-64.
                unsafe { $op(a, b) }
            }
        )*};
    }

    forward!(
        add_bytes = _mm_add_epi8,
        sub_pairs = _mm_sub_epi16,
        dot_pairs = _mm_madd_epi16,
        zip_bytes = _mm_unpacklo_epi8,
        zip_pairs_low = _mm_unpacklo_epi16,
        zip_pairs_high = _mm_unpackhi_epi16
    );

    #[inline(always)]
    pub unsafe fn load_low(from: *const u8) -> I {
        // SAFETY: passed on from the caller.
        unsafe { _mm_loadl_epi64(from.cast()) }
    }

    #[inline(always)]
    pub fn splat_byte(value: u8) -> I {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_set1_epi8(value as i8) }
    }

    #[inline(always)]
    pub fn splat_pair(value: i16) -> I {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_set1_epi16(value) }
    }

    #[inline(always)]
    pub fn widen_low(a: I) -> I {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_unpacklo_epi8(a, _mm_setzero_si128()) }
    }

    #[inline(always)]
    pub fn widen_high(a: I) -> I {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_unpackhi_epi8(a, _mm_setzero_si128()) }
    }

    #[inline(always)]
    pub fn even_bytes(a: I) -> I {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let a = _mm_and_si128(a, _mm_set1_epi16(255));
            _mm_packus_epi16(a, a)
        }
    }

    #[inline(always)]
    pub fn narrow(a: I, b: I, c: I, d: I) -> I {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_packus_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d)) }
    }
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
mod lanes {
    use super::I;

    fn bytes(a: I) -> [u8; 16] {
        bytemuck::cast(a)
    }

    fn pairs(a: I) -> [i16; 8] {
        bytemuck::cast(a)
    }

    pub fn add_bytes(a: I, b: I) -> I {
        let (a, b) = (bytes(a), bytes(b));
        bytemuck::cast::<[u8; 16], I>(std::array::from_fn(|i| a[i].wrapping_add(b[i])))
    }

    pub fn sub_pairs(a: I, b: I) -> I {
        let (a, b) = (pairs(a), pairs(b));
        bytemuck::cast::<[i16; 8], I>(std::array::from_fn(|i| a[i].wrapping_sub(b[i])))
    }

    pub fn dot_pairs(a: I, b: I) -> I {
        let (a, b) = (pairs(a).map(i32::from), pairs(b).map(i32::from));
        std::array::from_fn(|i| (a[2 * i] * b[2 * i]).wrapping_add(a[2 * i + 1] * b[2 * i + 1]))
    }

    pub fn zip_bytes(a: I, b: I) -> I {
        let (a, b) = (bytes(a), bytes(b));
        bytemuck::cast::<[u8; 16], I>(std::array::from_fn(|i| if i % 2 == 0 { a[i / 2] } else { b[i / 2] }))
    }

    fn zip_pairs(a: I, b: I, first: usize) -> I {
        let (a, b) = (pairs(a), pairs(b));
        let lane = |i: usize| if i % 2 == 0 { a[first + i / 2] } else { b[first + i / 2] };
        bytemuck::cast::<[i16; 8], I>(std::array::from_fn(lane))
    }

    pub fn zip_pairs_low(a: I, b: I) -> I {
        zip_pairs(a, b, 0)
    }

    pub fn zip_pairs_high(a: I, b: I) -> I {
        zip_pairs(a, b, 4)
    }

    pub unsafe fn load_low(from: *const u8) -> I {
        let mut all = [0; 16];
        // SAFETY: eight bytes are readable by the caller's promise.
        all[..8].copy_from_slice(unsafe { std::slice::from_raw_parts(from, 8) });
        bytemuck::cast(all)
    }

    pub fn splat_byte(value: u8) -> I {
        bytemuck::cast([value; 16])
    }

    pub fn splat_pair(value: i16) -> I {
        bytemuck::cast([value; 8])
    }

    pub fn widen_low(a: I) -> I {
        zip_bytes(a, [0; 4])
    }

    pub fn widen_high(a: I) -> I {
        zip_bytes([a[2], a[3], 0, 0], [0; 4])
    }

    pub fn even_bytes(a: I) -> I {
        let a = bytes(a);
        bytemuck::cast::<[u8; 16], I>(std::array::from_fn(|i| a[i % 8 * 2]))
    }

    pub fn narrow(a: I, b: I, c: I, d: I) -> I {
        let all = [a, b, c, d];
        bytemuck::cast::<[u8; 16], I>(std::array::from_fn(|i| all[i / 4][i % 4].clamp(0, 255) as u8))
    }
}

/// What the relaxed dot product of bytes makes of its second factor's top bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteDot {
    /// The second factor is unsigned, and nothing saturates: x86 with VNNI.
    Unsigned,
    /// Both factors are signed: Arm's `sdot`.
    Signed,
    /// The second factor must lie in `0..128`: beyond, pairs of products saturate or wrap.
    Seven,
}

#[cfg(test)]
std::thread_local! {
    /// What [`I32x4::dot_bytes`] imitates in native tests.
    pub static IMITATED: std::cell::Cell<ByteDot> = const { std::cell::Cell::new(ByteDot::Unsigned) };
}

impl I32x4 {
    /// The first eight bytes at an address; the upper half is zero.
    ///
    /// # Safety
    /// Eight bytes are readable there.
    #[inline(always)]
    pub unsafe fn load_low(from: *const u8) -> Self {
        // SAFETY: passed on from the caller.
        Self(unsafe { lanes::load_low(from) })
    }

    /// 16 bytes from any address.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    pub unsafe fn load_ptr(from: *const u8) -> Self {
        // SAFETY: passed on from the caller; loads have no alignment requirement.
        unsafe { super::F32x4::load_ptr(from.cast()) }.to_bits()
    }

    /// Writes 16 bytes to any address.
    ///
    /// # Safety
    /// They are writable.
    #[inline(always)]
    pub unsafe fn store_ptr(self, to: *mut u8) {
        // SAFETY: passed on from the caller; stores have no alignment requirement.
        unsafe { self.bits_to_f32().store_ptr(to.cast()) }
    }

    /// 16 equal bytes.
    #[inline(always)]
    pub fn splat_byte(value: u8) -> Self {
        Self(lanes::splat_byte(value))
    }

    /// Eight equal 16-bit integers.
    #[inline(always)]
    pub fn splat_pair(value: i16) -> Self {
        Self(lanes::splat_pair(value))
    }

    /// The sums of the bytes, wrapping.
    #[inline(always)]
    pub fn add_bytes(self, other: Self) -> Self {
        Self(lanes::add_bytes(self.0, other.0))
    }

    /// The differences of the 16-bit integers, wrapping.
    #[inline(always)]
    pub fn sub_pairs(self, other: Self) -> Self {
        Self(lanes::sub_pairs(self.0, other.0))
    }

    /// The products of the 16-bit integers, summed by twos.
    #[inline(always)]
    pub fn dot_pairs(self, other: Self) -> Self {
        Self(lanes::dot_pairs(self.0, other.0))
    }

    /// The lower eight bytes of both, alternating.
    #[inline(always)]
    pub fn zip_bytes(self, other: Self) -> Self {
        Self(lanes::zip_bytes(self.0, other.0))
    }

    /// The lower four 16-bit integers of both, alternating.
    #[inline(always)]
    pub fn zip_pairs_low(self, other: Self) -> Self {
        Self(lanes::zip_pairs_low(self.0, other.0))
    }

    /// The upper four 16-bit integers of both, alternating.
    #[inline(always)]
    pub fn zip_pairs_high(self, other: Self) -> Self {
        Self(lanes::zip_pairs_high(self.0, other.0))
    }

    /// The lower eight bytes as 16-bit integers.
    #[inline(always)]
    pub fn widen_low(self) -> Self {
        Self(lanes::widen_low(self.0))
    }

    /// The upper eight bytes as 16-bit integers.
    #[inline(always)]
    pub fn widen_high(self) -> Self {
        Self(lanes::widen_high(self.0))
    }

    /// Every second byte from the first, in the lower half.
    #[inline(always)]
    pub fn even_bytes(self) -> Self {
        Self(lanes::even_bytes(self.0))
    }

    /// The lanes of four vectors as unsigned bytes, saturating.
    #[inline(always)]
    pub fn narrow(of: [Self; 4]) -> Self {
        let [a, b, c, d] = of;
        Self(lanes::narrow(a.0, b.0, c.0, d.0))
    }

    /// `sum` plus the products of signed bytes and `second`'s bytes, summed by fours. Exact when `second` is what
    /// [`byte_dot`] says it may be.
    #[inline(always)]
    pub fn dot_bytes(self, second: Self, sum: Self) -> Self {
        #[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
        return Self(lanes::dot_bytes(self.0, second.0, sum.0));
        #[cfg(not(all(target_arch = "wasm32", target_feature = "relaxed-simd")))]
        return imitate(self, second, sum);
    }
}

/// The relaxed dot product in plain code: its kinds are told apart in tests, and nothing else calls it.
#[cfg(not(all(target_arch = "wasm32", target_feature = "relaxed-simd")))]
fn imitate(first: I32x4, second: I32x4, sum: I32x4) -> I32x4 {
    let (a, b): ([i8; 16], [u8; 16]) = (bytemuck::cast(first.to_array()), bytemuck::cast(second.to_array()));
    #[cfg(test)]
    let kind = IMITATED.get();
    #[cfg(not(test))]
    let kind = ByteDot::Unsigned;
    let product = |i: usize| match kind {
        ByteDot::Signed => i32::from(a[i]) * i32::from(b[i] as i8),
        _ => i32::from(a[i]) * i32::from(b[i]),
    };
    let limit = |pair: i32| match kind {
        ByteDot::Seven => pair.clamp(i16::MIN.into(), i16::MAX.into()),
        _ => pair,
    };
    let sums = sum.to_array();
    let lanes: [i32; 4] = std::array::from_fn(|lane| {
        let pair = |i: usize| limit(product(4 * lane + i) + product(4 * lane + i + 1));
        sums[lane].wrapping_add(pair(0)).wrapping_add(pair(2))
    });
    super::F32x4::from_array(lanes.map(|lane| f32::from_bits(lane as u32))).to_bits()
}

/// What the relaxed dot product of this build and this engine does with its second factor, or `None` in builds without
/// it. The choice is the engine's, by its processor, and one for all: asking once with telling factors is enough, and
/// keeps results exact on every one.
#[inline(never)]
pub fn byte_dot() -> Option<ByteDot> {
    if !cfg!(all(target_arch = "wasm32", target_feature = "relaxed-simd")) {
        return None;
    }
    Some(ask())
}

fn ask() -> ByteDot {
    // Opaque to the compiler, which may not work the answer out itself.
    let sum = |first: i8, second: u8| {
        let factors = std::hint::black_box((first, second));
        let zero = I32x4::splat(0);
        let sums = I32x4::splat_byte(factors.0 as u8).dot_bytes(I32x4::splat_byte(factors.1), zero);
        sums.to_array()[0]
    };
    let telling = [(127, 255u8), (-128, 255), (127, 128), (-128, 128), (1, 200)];
    let holds = |second: fn(u8) -> i32| telling.iter().all(|&(a, b)| sum(a, b) == 4 * i32::from(a) * second(b));
    if holds(|b| b.into()) {
        ByteDot::Unsigned
    } else if holds(|b| (b as i8).into()) {
        ByteDot::Signed
    } else {
        ByteDot::Seven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(bytes: [u8; 16]) -> I32x4 {
        // SAFETY: the array holds 16 bytes.
        unsafe { I32x4::load_ptr(bytes.as_ptr()) }
    }

    fn bytes(of: I32x4) -> [u8; 16] {
        bytemuck::cast(of.to_array())
    }

    #[test]
    fn lanes_are_moved_and_multiplied_as_said() {
        let (a, b): ([u8; 16], [u8; 16]) = (
            std::array::from_fn(|i| (i * 37 + 5) as u8),
            std::array::from_fn(|i| (200 - 11 * i) as u8),
        );
        let (x, y) = (vector(a), vector(b));
        assert_eq!(bytes(x.add_bytes(y))[3], a[3].wrapping_add(b[3]));
        assert_eq!(bytes(x.zip_bytes(y))[..4], [a[0], b[0], a[1], b[1]]);
        assert_eq!(bytes(x.zip_pairs_low(y))[..4], [a[0], a[1], b[0], b[1]]);
        assert_eq!(bytes(x.zip_pairs_high(y))[12..], [a[14], a[15], b[14], b[15]]);
        assert_eq!(bytes(x.widen_low())[..4], [a[0], 0, a[1], 0]);
        assert_eq!(bytes(x.widen_high())[12..], [a[14], 0, a[15], 0]);
        assert_eq!(
            bytes(x.even_bytes())[..8],
            std::array::from_fn::<u8, 8, _>(|i| a[2 * i])
        );
        let pair = |bytes: &[u8; 16], i: usize| i32::from(i16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]));
        let dot = |i: usize| (pair(&a, i) * pair(&b, i)).wrapping_add(pair(&a, i + 1) * pair(&b, i + 1));
        assert_eq!(x.dot_pairs(y).to_array(), [dot(0), dot(2), dot(4), dot(6)]);
        let quarters = [-1, 0, 255, 256].map(I32x4::splat);
        let expected = std::array::from_fn(|i| if i < 8 { 0 } else { 255 });
        assert_eq!(bytes(I32x4::narrow(quarters)), expected);
    }

    #[cfg(not(target_arch = "wasm32"))]
    #[test]
    fn every_kind_of_dot_product_is_told_from_the_others() {
        for kind in [ByteDot::Unsigned, ByteDot::Signed, ByteDot::Seven] {
            IMITATED.set(kind);
            assert_eq!(ask(), kind);
        }
    }
}
