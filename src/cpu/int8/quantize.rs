//! f32 to bytes and back, and the range of values, vector by vector.

use crate::cpu::simd::{F32x4, I32x4, LANES};

/// A byte's scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    pub scale: f32,
    /// As a value: -128 to 127 of signed bytes, 0 to 255 of others.
    pub zero: f32,
    pub is_signed: bool,
}

impl Quantization {
    /// One value: `round(x / scale) + zero`, halves to even, within the type's range; NaN is 0.
    pub fn byte(self, x: f32) -> u8 {
        let (low, high) = self.range();
        let rounded = ((x / self.scale).round_ties_even() + self.zero).clamp(low, high);
        if self.is_signed {
            rounded as i8 as u8
        } else {
            rounded as u8
        }
    }

    /// The value of a byte.
    pub fn value(self, code: u8) -> f32 {
        let code = if self.is_signed {
            f32::from(code as i8)
        } else {
            f32::from(code)
        };
        (code - self.zero) * self.scale
    }

    /// What makes an unsigned byte of a signed one, by exclusive or.
    fn flip(self) -> u8 {
        if self.is_signed { 128 } else { 0 }
    }

    fn range(self) -> (f32, f32) {
        if self.is_signed { (-128.0, 127.0) } else { (0.0, 255.0) }
    }
}

/// 1.5 · 2^23: a float above this by less than 2^22 has no fraction, so that the addition rounds (halves to even), and its bits
/// are more than those of this by the rounded number.
const ROUNDING: f32 = 12_582_912.0;

/// 2^23: a float whose lowest bits are an integer is more than this by that integer.
pub(in crate::cpu) const RAISED: f32 = 8_388_608.0;

/// Quantises values as [`Quantization::byte`] does.
///
/// # Panics
/// When the slices have different lengths.
pub fn quantize(values: &[f32], to: Quantization, out: &mut [u8]) {
    assert_eq!(values.len(), out.len());
    let (low, high) = to.range();
    // Signed bytes are made as unsigned ones that are 128 larger.
    let flip = to.flip();
    // The zero point is added behind the bounds, which are whole numbers as it is: then what is rounded is small.
    let [scale, least, low, high] = [to.scale, -to.zero, low - to.zero, high - to.zero].map(F32x4::splat);
    let magic = F32x4::splat(ROUNDING);
    let shift = I32x4::splat(to.zero as i32 + i32::from(flip) - ROUNDING.to_bits() as i32);
    let flipped = I32x4::splat_byte(flip);
    let (whole, rest) = values.as_chunks::<{ 4 * LANES }>();
    let (places, rest_out) = out.as_chunks_mut::<{ 4 * LANES }>();
    for (values, place) in whole.iter().zip(places) {
        let lanes = std::array::from_fn(|i| {
            let x = F32x4::load(&values[i * LANES..]) / scale;
            let value = x.at_least(low).at_most(high);
            let value = x.is_nan().select(least, value);
            (value + magic).to_bits() + shift
        });
        let bytes = I32x4::narrow(lanes) ^ flipped;
        // SAFETY: the place holds 16 bytes.
        unsafe { bytes.store_ptr(place.as_mut_ptr()) };
    }
    for (&value, out) in rest.iter().zip(rest_out) {
        *out = to.byte(value);
    }
}

/// The values `(code - zero) * scale` of bytes.
///
/// # Panics
/// When the slices have different lengths.
pub fn dequantize(codes: &[u8], from: Quantization, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len());
    let flip = from.flip();
    let flipped = I32x4::splat_byte(flip);
    let zero = F32x4::splat(RAISED + from.zero + f32::from(flip));
    let scale = F32x4::splat(from.scale);
    let raised = I32x4::splat_pair((RAISED.to_bits() >> 16) as i16);
    let (whole, rest) = codes.as_chunks::<{ 4 * LANES }>();
    let (places, rest_out) = out.as_chunks_mut::<{ 4 * LANES }>();
    for (codes, place) in whole.iter().zip(places) {
        // SAFETY: 16 bytes are there.
        let codes = unsafe { I32x4::load_ptr(codes.as_ptr()) } ^ flipped;
        let [low, high] = [codes.widen_low(), codes.widen_high()];
        let lanes = [
            low.zip_pairs_low(raised),
            low.zip_pairs_high(raised),
            high.zip_pairs_low(raised),
            high.zip_pairs_high(raised),
        ];
        for (lane, place) in lanes.into_iter().zip(place.chunks_exact_mut(LANES)) {
            ((lane.bits_to_f32() - zero) * scale).store(place);
        }
    }
    for (&code, out) in rest.iter().zip(rest_out) {
        *out = from.value(code);
    }
}

/// The least and the largest of zero and the values; NaN is passed over.
pub fn range(values: &[f32]) -> (f32, f32) {
    let (whole, rest) = values.as_chunks::<{ 2 * LANES }>();
    let mut low = [F32x4::zero(); 2];
    let mut high = low;
    for values in whole {
        for i in 0..2 {
            let x = F32x4::load(&values[i * LANES..]);
            low[i] = low[i].at_most(x);
            high[i] = high[i].at_least(x);
        }
    }
    let rest = || rest.iter().copied();
    let lanes = |of: [F32x4; 2]| of.into_iter().flat_map(F32x4::to_array);
    (
        lanes(low).chain(rest()).fold(0.0, f32::min),
        lanes(high).chain(rest()).fold(0.0, f32::max),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::Rng;

    #[test]
    fn vectors_give_what_single_values_give() {
        let mut rng = Rng::new(51);
        for len in [0, 1, 7, 16, 17, 64, 133] {
            let mut values: Vec<f32> = rng.vec(len).iter().map(|x| x * 300.0).collect();
            let special = [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                0.5,
                1.5,
                -0.5,
                1e30,
                -1e30,
                2.5,
            ];
            for (place, value) in values.iter_mut().zip(special) {
                *place = value;
            }
            for (scale, zero, is_signed) in [
                (1.0, 3.0, false),
                (0.3, -7.0, true),
                (2.0, 0.0, true),
                (0.0, 128.0, false),
            ] {
                let to = Quantization { scale, zero, is_signed };
                let mut out = vec![1; len];
                quantize(&values, to, &mut out);
                let expected: Vec<u8> = values.iter().map(|&x| to.byte(x)).collect();
                assert_eq!(out, expected, "{to:?}");
                let codes: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
                let mut out = vec![f32::NAN; len];
                dequantize(&codes, to, &mut out);
                let expected: Vec<f32> = codes.iter().map(|&code| to.value(code)).collect();
                assert_eq!(out, expected, "{to:?}");
            }
            let (low, high) = range(&values);
            assert_eq!(low, values.iter().fold(0f32, |low, &x| low.min(x)));
            assert_eq!(high, values.iter().fold(0f32, |high, &x| high.max(x)));
        }
    }
}
