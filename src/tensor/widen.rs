//! Any numeric tensor as wide numbers and back: the one path that operators take for the types that they have no kernel
//! of their own for.

use half::{bf16, f16};

use super::{Bool8, DType, Element, Rounding, SmallFloat, Tensor, packed};
use crate::error::{Error, ErrorCode, Result};

impl Tensor {
    /// The elements of any numeric or bool tensor as `f64`. 64-bit integers beyond 2^53 are rounded.
    pub fn to_f64s(&self) -> Result<Vec<f64>> {
        fn each<T: Element>(tensor: &Tensor, widen: impl Fn(T) -> f64) -> Result<Vec<f64>> {
            Ok(tensor.view::<T>()?.iter().map(|&value| widen(value)).collect())
        }
        match self.dtype() {
            DType::F64 => each(self, |value: f64| value),
            DType::F32 => each(self, |value: f32| value.into()),
            DType::F16 => each(self, |value: f16| value.to_f64()),
            DType::BF16 => each(self, |value: bf16| value.to_f64()),
            DType::U64 => each(self, |value: u64| value as f64),
            dtype => match SmallFloat::of(dtype) {
                Some(format) => {
                    let bits = dtype.bits().unwrap_or(8);
                    let decode = |index| format.decode(packed::packed_get(bits, self.bytes(), index));
                    Ok((0..self.len()).map(decode).collect())
                }
                None => Ok(self.to_i64s()?.into_iter().map(|value| value as f64).collect()),
            },
        }
    }

    /// A tensor of any numeric or bool type from `f64`s, each rounded to the nearest value of a float type, or
    /// truncated and saturated to an integer type (NaN gives 0); bool is whether it is not 0.
    pub fn from_f64s(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor> {
        fn each<T: Element>(shape: &[usize], values: &[f64], narrow: impl Fn(f64) -> T) -> Result<Tensor> {
            Tensor::new(shape, values.iter().map(|&value| narrow(value)).collect())
        }
        match dtype {
            DType::F64 => each(shape, values, |value| value),
            DType::F32 => each(shape, values, |value| value as f32),
            DType::F16 => each(shape, values, f16::from_f64),
            DType::BF16 => each(shape, values, bf16::from_f64),
            DType::Bool => each(shape, values, |value| Bool8::from(value != 0.0)),
            DType::U64 => each(shape, values, |value| value as u64),
            _ if dtype.is_small_float() => Tensor::from_f64s_as(dtype, shape, values, true, Rounding::Nearest),
            _ => {
                let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
                Tensor::from_i64s(dtype, shape, &values)
            }
        }
    }

    /// A tensor of a small float type from `f64`s, with what happens to numbers beyond its range and between powers of
    /// two; see [`SmallFloat::encode`].
    pub fn from_f64s_as(
        dtype: DType,
        shape: &[usize],
        values: &[f64],
        saturate: bool,
        rounding: Rounding,
    ) -> Result<Tensor> {
        let format = SmallFloat::of(dtype)
            .ok_or_else(|| Error::new(ErrorCode::WrongType, "the type is not a small float").actual(dtype.name()))?;
        let encoded: Vec<u8> = values
            .iter()
            .map(|&value| format.encode(value, saturate, rounding))
            .collect();
        Tensor::from_bytes(dtype, shape, packed::pack(dtype.bits().unwrap_or(8), &encoded))
    }

    /// A tensor of an integer type from `i64`s, each saturated to the type's range; of bool from whether it is not 0.
    /// An error for floating-point types and strings.
    pub fn from_i64s(dtype: DType, shape: &[usize], values: &[i64]) -> Result<Tensor> {
        macro_rules! saturated {
            ($T:ty) => {
                Tensor::new(
                    shape,
                    values
                        .iter()
                        .map(|&value| value.clamp(<$T>::MIN as i64, <$T>::MAX as i64) as $T)
                        .collect(),
                )
            };
        }
        match dtype {
            DType::I64 => Tensor::new(shape, values.to_vec()),
            DType::I32 => saturated!(i32),
            DType::I16 => saturated!(i16),
            DType::I8 => saturated!(i8),
            DType::U64 => Tensor::new(shape, values.iter().map(|&value| value.max(0) as u64).collect()),
            DType::U32 => saturated!(u32),
            DType::U16 => saturated!(u16),
            DType::U8 => saturated!(u8),
            DType::Bool => Tensor::new(shape, values.iter().map(|&value| Bool8::from(value != 0)).collect()),
            DType::I2 | DType::I4 | DType::U2 | DType::U4 => {
                let bits = dtype.bits().unwrap_or(4);
                let (low, high) = match dtype.is_unsigned() {
                    true => (0, (1 << bits) - 1),
                    false => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
                };
                let narrow: Vec<u8> = values.iter().map(|&value| value.clamp(low, high) as u8).collect();
                Tensor::from_bytes(dtype, shape, packed::pack(bits, &narrow))
            }
            _ => Err(
                Error::new(ErrorCode::WrongType, "integers do not make a tensor of this type")
                    .expected("an integer type or bool")
                    .actual(dtype.name()),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_numeric_type_goes_there_and_back() {
        for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::String) {
            let values: &[f64] = match dtype {
                // Powers of two only.
                DType::F8E8M0 => &[1.0, 2.0, 0.25],
                DType::Bool | DType::I2 => &[0.0, 1.0, 1.0],
                DType::U2 => &[0.0, 1.0, 3.0],
                _ => &[0.0, 1.0, 6.0],
            };
            let tensor = Tensor::from_f64s(dtype, &[3], values).unwrap();
            assert_eq!((tensor.dtype(), tensor.to_f64s().unwrap().as_slice()), (dtype, values));
        }
    }

    #[test]
    fn integers_saturate_and_floats_round() {
        let wide = [-1e30, -200.7, 3.9, 300.0, f64::NAN];
        let narrow = |dtype| Tensor::from_f64s(dtype, &[5], &wide).unwrap().to_i64s().unwrap();
        assert_eq!(narrow(DType::I8), [-128, -128, 3, 127, 0]);
        assert_eq!(narrow(DType::U8), [0, 0, 3, 255, 0]);
        assert_eq!(narrow(DType::I4), [-8, -8, 3, 7, 0]);
        let half = Tensor::from_f64s(DType::F16, &[1], &[1.0 + 1.0 / 4096.0]).unwrap();
        assert_eq!(half.to_f64s().unwrap(), [1.0]);
    }
}
