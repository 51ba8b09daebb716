//! Any numeric tensor as wide numbers and back: the one path that operators take for the types that they have no kernel
//! of their own for.

use half::{bf16, f16};

use super::{Bool8, DType, Element, Tensor};
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
            _ => Ok(self.to_i64s()?.into_iter().map(|value| value as f64).collect()),
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
            _ => {
                let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
                Tensor::from_i64s(dtype, shape, &values)
            }
        }
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
            DType::I4 | DType::U4 => {
                let (low, high) = if dtype == DType::I4 { (-8, 7) } else { (0, 15) };
                let mut bytes = vec![0u8; values.len().div_ceil(2)];
                for (index, &value) in values.iter().enumerate() {
                    bytes[index / 2] |= (value.clamp(low, high) as u8 & 15) << (index % 2 * 4);
                }
                Tensor::from_bytes(dtype, shape, bytes)
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
            let values: &[f64] = if dtype == DType::Bool {
                &[0.0, 1.0, 1.0]
            } else {
                &[0.0, 1.0, 6.0]
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
