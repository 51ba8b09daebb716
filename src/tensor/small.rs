//! Floating-point formats of 8 and 4 bits, by their bits: the four float8 formats of "FP8 Formats for Deep Learning"
//! (arXiv 2209.05433) and "8-bit Numerical Formats for Deep Neural Networks" (arXiv 2206.02915), and E8M0 and E2M1 of
//! the OCP Microscaling Formats (MX) specification 1.0.

use super::DType;

/// How a number that lies between two powers of two becomes an exponent of [`DType::F8E8M0`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest number that the format has; halves to the even one.
    #[default]
    Nearest,
    /// Away from zero.
    Up,
    /// Towards zero.
    Down,
}

/// One of the formats.
#[derive(Clone, Copy, Debug)]
pub struct SmallFloat {
    mantissa: u32,
    bias: i32,
    /// The bits of the largest finite number.
    max: u8,
    signed: bool,
    /// The bits of NaN.
    nan: Option<u8>,
    /// The bits of infinity.
    infinity: Option<u8>,
}

impl SmallFloat {
    /// The format of a type, when it is one of these.
    pub fn of(dtype: DType) -> Option<SmallFloat> {
        let format = |mantissa, bias, max, nan, infinity| SmallFloat {
            mantissa,
            bias,
            max,
            signed: true,
            nan,
            infinity,
        };
        Some(match dtype {
            DType::F8E4M3FN => format(3, 7, 0x7e, Some(0x7f), None),
            DType::F8E4M3FNUZ => format(3, 8, 0x7f, Some(0x80), None),
            DType::F8E5M2 => format(2, 15, 0x7b, Some(0x7e), Some(0x7c)),
            DType::F8E5M2FNUZ => format(2, 16, 0x7f, Some(0x80), None),
            DType::F8E8M0 => SmallFloat {
                signed: false,
                ..format(0, 127, 0xfe, Some(0xff), None)
            },
            DType::F4E2M1 => format(1, 1, 7, None, None),
            _ => return None,
        })
    }

    fn sign_bit(&self) -> u8 {
        match (self.signed, self.max) {
            (false, _) => 0,
            (true, 7) => 8,
            _ => 0x80,
        }
    }

    /// The value of bits without a sign, as if none stood for NaN or infinity.
    fn magnitude(&self, bits: u16) -> f64 {
        let (exponent, mantissa) = (i32::from(bits >> self.mantissa), bits & ((1 << self.mantissa) - 1));
        let fraction = f64::from(mantissa) / f64::from(1u16 << self.mantissa);
        match exponent {
            _ if !self.signed => 2f64.powi(exponent - self.bias),
            0 => fraction * 2f64.powi(1 - self.bias),
            _ => (1.0 + fraction) * 2f64.powi(exponent - self.bias),
        }
    }

    /// The number that bits stand for.
    pub fn decode(&self, bits: u8) -> f64 {
        let sign = bits & self.sign_bit();
        let rest = bits & !self.sign_bit();
        if Some(bits) == self.nan || (rest > self.max && Some(rest) != self.infinity) {
            return f64::NAN;
        }
        let magnitude = if Some(rest) == self.infinity {
            f64::INFINITY
        } else {
            self.magnitude(rest.into())
        };
        if sign != 0 { -magnitude } else { magnitude }
    }

    /// The bits of a number. What lies beyond the largest number becomes that when `saturate` is set, else infinity or
    /// NaN, as the format has it; a format without NaN (E2M1) always saturates, and takes NaN for -0, as
    /// ONNX's reference does.
    pub fn encode(&self, value: f64, saturate: bool, rounding: Rounding) -> u8 {
        let no_zero_sign = self.nan == Some(0x80);
        let sign = if value.is_sign_negative() { self.sign_bit() } else { 0 };
        if value.is_nan() {
            return match self.nan {
                Some(nan) if no_zero_sign => nan,
                Some(nan) => nan | sign,
                None => self.sign_bit(),
            };
        }
        if !self.signed && !saturate && value < self.magnitude(0) {
            return self.nan.unwrap_or(self.max);
        }
        let beyond = match (saturate || self.nan.is_none(), self.infinity.or(self.nan)) {
            (false, Some(bits)) if no_zero_sign => return self.finite_or(value, rounding, bits, sign),
            (false, Some(bits)) => bits | sign,
            _ => self.max | sign,
        };
        self.finite_or(value, rounding, beyond, sign)
    }

    /// The bits of a number, or `beyond` when its nearest one is too large for the format.
    fn finite_or(&self, value: f64, rounding: Rounding, beyond: u8, sign: u8) -> u8 {
        let x = value.abs();
        // The bits of magnitudes are in the order of the magnitudes: search for the last that is not above x.
        let end = u16::from(self.max) + 1;
        let (mut low, mut high) = (0u16, end);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if self.magnitude(middle) <= x {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        let below = self.magnitude(low);
        let rounds_up = x > below && {
            let above = self.magnitude(low + 1);
            match rounding {
                Rounding::Up => true,
                Rounding::Down => false,
                // Between powers of two (E8M0) the middle goes up, as the even mantissa of the larger one.
                Rounding::Nearest if !self.signed => x - below >= above - x,
                Rounding::Nearest => x - below > above - x || (x - below == above - x && low % 2 == 1),
            }
        };
        let bits = if low < end && rounds_up { low + 1 } else { low };
        if bits >= end {
            return beyond;
        }
        // Formats without a negative zero have NaN in its place.
        let is_zero = bits == 0 && self.signed;
        bits as u8 | if is_zero && self.nan == Some(0x80) { 0 } else { sign }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: [DType; 5] = [
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F4E2M1,
    ];

    #[test]
    fn every_number_of_a_format_comes_back() {
        for dtype in SIGNED.into_iter().chain([DType::F8E8M0]) {
            let format = SmallFloat::of(dtype).unwrap();
            let count = if dtype == DType::F4E2M1 { 16u16 } else { 256 };
            for bits in 0..count {
                let value = format.decode(bits as u8);
                let again = format.encode(value, false, Rounding::Nearest);
                assert!(
                    value.is_nan() || again == bits as u8,
                    "{dtype} {bits:#x} = {value} gives {again:#x}"
                );
                assert!(!value.is_nan() || format.decode(again).is_nan(), "{dtype} {bits:#x}");
            }
        }
    }

    #[test]
    fn the_largest_numbers_are_those_of_the_papers() {
        let largest = SIGNED.map(|dtype| {
            SmallFloat::of(dtype)
                .unwrap()
                .decode(SmallFloat::of(dtype).unwrap().max)
        });
        assert_eq!(largest, [448.0, 240.0, 57344.0, 57344.0, 6.0]);
        let smallest = SIGNED.map(|dtype| SmallFloat::of(dtype).unwrap().decode(1));
        assert_eq!(
            smallest,
            [2f64.powi(-9), 2f64.powi(-10), 2f64.powi(-16), 2f64.powi(-17), 0.5]
        );
    }

    #[test]
    fn what_is_too_large_saturates_or_not() {
        for dtype in SIGNED {
            let format = SmallFloat::of(dtype).unwrap();
            let max = format.decode(format.max);
            for value in [max * 1.5, 1e9, f64::INFINITY] {
                assert_eq!(format.decode(format.encode(value, true, Rounding::Nearest)), max);
                assert_eq!(format.decode(format.encode(-value, true, Rounding::Nearest)), -max);
                let loose = format.decode(format.encode(value, false, Rounding::Nearest));
                match dtype {
                    DType::F4E2M1 => assert_eq!(loose, max),
                    DType::F8E5M2 => assert_eq!(loose, f64::INFINITY),
                    _ => assert!(loose.is_nan(), "{dtype} {value}"),
                }
            }
        }
    }

    #[test]
    fn halves_go_to_even_and_powers_of_two_round_as_told() {
        let format = SmallFloat::of(DType::F8E4M3FN).unwrap();
        let round = |value| format.decode(format.encode(value, true, Rounding::Nearest));
        assert_eq!(
            [round(17.0), round(19.0), round(-17.5), round(0.0)],
            [16.0, 20.0, -18.0, 0.0]
        );
        assert!(
            format
                .decode(format.encode(-0.0, true, Rounding::Nearest))
                .is_sign_negative()
        );
        let power = SmallFloat::of(DType::F8E8M0).unwrap();
        let round = |value, rounding| power.decode(power.encode(value, true, rounding));
        assert_eq!([round(5.0, Rounding::Up), round(5.0, Rounding::Down)], [8.0, 4.0]);
        assert_eq!(
            [round(5.0, Rounding::Nearest), round(6.0, Rounding::Nearest)],
            [4.0, 8.0]
        );
    }
}
