//! [`Tensor`]: an element type, a concrete shape and shared data.

use std::{borrow::Cow, fmt, sync::Arc};

use super::{AlignedBytes, Bool8, Bytes, DType, Element, Source, display_shape, element_count, packed};
use crate::error::{Error, ErrorCode, Result};
use crate::with_element;

/// A dense tensor in row-major order. Its data is shared: cloning and reshaping copy nothing. The bytes of a tensor
/// that was read from a model are the model's own and may be unaligned.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone)]
enum Data {
    Bytes(Bytes),
    Strings(Arc<[String]>),
    /// In the memory of a device, which knows it by this number.
    Remote(u64),
}

impl Tensor {
    /// A tensor over little-endian `bytes`, which must be exactly as long as the type and shape say. 4-bit elements are
    /// packed two to a byte, low nibble first.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: impl Into<Bytes>) -> Result<Tensor> {
        let bytes = bytes.into();
        let expected = dtype.byte_len(element_count(shape)?).ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidTensor,
                format!("a {dtype} tensor is not made of bytes"),
            )
        })?;
        if bytes.len() != expected {
            return Err(Error::new(
                ErrorCode::InvalidTensor,
                format!(
                    "the data of a {dtype} tensor of shape {} has the wrong length",
                    display_shape(shape)
                ),
            )
            .expected(format!("{expected} bytes"))
            .actual(format!("{} bytes", bytes.len())));
        }
        Ok(Tensor {
            dtype,
            shape: shape.to_vec(),
            data: Data::Bytes(bytes),
        })
    }

    /// A tensor of `values`, one for each element of `shape`.
    pub fn new<T: Element>(shape: &[usize], values: Vec<T>) -> Result<Tensor> {
        check_count(T::DTYPE, shape, values.len())?;
        Ok(Tensor {
            dtype: T::DTYPE,
            shape: shape.to_vec(),
            data: Data::Bytes(Bytes::new(Elements(values))),
        })
    }

    /// A tensor of strings, one for each element of `shape`.
    pub fn from_strings(shape: &[usize], values: Vec<String>) -> Result<Tensor> {
        check_count(DType::String, shape, values.len())?;
        Ok(Tensor {
            dtype: DType::String,
            shape: shape.to_vec(),
            data: Data::Strings(values.into()),
        })
    }

    /// A tensor whose elements are in the memory of a device, which knows them by `id`. Only runs on that device read them:
    /// [`Tensor::bytes`] is empty, and [`Tensor::view`] fails.
    pub fn remote(dtype: DType, shape: &[usize], id: u64) -> Tensor {
        Tensor {
            dtype,
            shape: shape.to_vec(),
            data: Data::Remote(id),
        }
    }

    /// The device's number of a tensor whose elements are in its memory.
    pub fn remote_id(&self) -> Option<u64> {
        match self.data {
            Data::Remote(id) => Some(id),
            _ => None,
        }
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor {
            dtype: T::DTYPE,
            shape: Vec::new(),
            data: Data::Bytes(Bytes::new(Elements(vec![value]))),
        }
    }

    /// A tensor of zeros (empty strings for strings).
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let count = element_count(shape)?;
        let data = match dtype.byte_len(count) {
            Some(len) => Data::Bytes(AlignedBytes::zeroed(len)?.into()),
            None => Data::Strings(vec![String::new(); count].into()),
        };
        Ok(Tensor {
            dtype,
            shape: shape.to_vec(),
            data,
        })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // A tensor with a zero dimension may have others whose product does not fit.
        if self.is_empty() {
            0
        } else {
            self.shape.iter().product()
        }
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The data as little-endian bytes; empty for strings and for what is in the memory of a device.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    /// How many bytes the data has, without looking at it; 0 where [`Tensor::bytes`] is empty.
    pub fn byte_len(&self) -> usize {
        self.shared_bytes().map_or(0, Bytes::len)
    }

    /// Whether the data is not in memory yet.
    pub fn is_deferred(&self) -> bool {
        self.shared_bytes().is_some_and(|bytes| bytes.source().is_some())
    }

    /// The same tensor with its data in memory: itself, or where that is deferred, a copy that goes when it is dropped.
    pub fn at_hand(&self) -> Result<Tensor> {
        let mut tensor = self.clone();
        if let Data::Bytes(bytes) = &mut tensor.data {
            *bytes = bytes.at_hand()?;
        }
        Ok(tensor)
    }

    /// The f32 tensor that `make` computes from the data of `source`: now, or when somebody looks at it where that is
    /// deferred. It has as many elements as `shape` says.
    pub fn computed(
        shape: &[usize],
        source: &Tensor,
        make: Box<dyn Fn(&Tensor) -> Result<Vec<f32>> + Send + Sync>,
    ) -> Result<Tensor> {
        if !source.is_deferred() {
            return Tensor::new(shape, make(source)?);
        }
        let len = element_count(shape)?.saturating_mul(size_of::<f32>());
        let source: Arc<dyn Source> = Arc::new(Computed(source.clone(), make));
        Tensor::from_bytes(DType::F32, shape, Bytes::deferred(source, 0, len))
    }

    /// The shared bytes behind the tensor, if that is what it is made of.
    pub fn shared_bytes(&self) -> Option<&Bytes> {
        match &self.data {
            Data::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The elements as a slice, copied only when the bytes are not aligned for `T`.
    pub fn view<T: Element>(&self) -> Result<Cow<'_, [T]>> {
        if T::DTYPE != self.dtype {
            return Err(self.type_error(T::DTYPE.name()));
        }
        if let Data::Remote(_) = self.data {
            return Err(Error::new(
                ErrorCode::InvalidTensor,
                "the tensor is in the memory of a device and has to be read back first",
            ));
        }
        let bytes = self.bytes();
        match bytemuck::try_cast_slice(bytes) {
            Ok(slice) => Ok(Cow::Borrowed(slice)),
            Err(_) => Ok(Cow::Owned(bytemuck::pod_collect_to_vec(bytes))),
        }
    }

    /// The elements of a string tensor.
    pub fn strings(&self) -> Result<&[String]> {
        match &self.data {
            Data::Strings(strings) => Ok(strings),
            _ => Err(self.type_error("string")),
        }
    }

    /// The elements of an integer or bool tensor as `i64`. An error for other types and for `u64` values above
    /// `i64::MAX`.
    pub fn to_i64s(&self) -> Result<Vec<i64>> {
        let bytes = self.bytes();
        Ok(match self.dtype {
            DType::I64 => self.view::<i64>()?.into_owned(),
            DType::I32 => self.view::<i32>()?.iter().map(|&v| v.into()).collect(),
            DType::I16 => self.view::<i16>()?.iter().map(|&v| v.into()).collect(),
            DType::I8 => self.view::<i8>()?.iter().map(|&v| v.into()).collect(),
            DType::U32 => self.view::<u32>()?.iter().map(|&v| v.into()).collect(),
            DType::U16 => self.view::<u16>()?.iter().map(|&v| v.into()).collect(),
            DType::U8 => self.view::<u8>()?.iter().map(|&v| v.into()).collect(),
            DType::Bool => self.view::<Bool8>()?.iter().map(|&v| bool::from(v).into()).collect(),
            DType::U64 => {
                let narrow = |&v: &u64| {
                    i64::try_from(v).map_err(|_| Error::new(ErrorCode::InvalidTensor, format!("{v} is above 2^63 - 1")))
                };
                self.view::<u64>()?.iter().map(narrow).collect::<Result<_>>()?
            }
            DType::I2 | DType::I4 | DType::U2 | DType::U4 => {
                let bits = self.dtype.bits().unwrap_or(4);
                let wide = |value: u8| match self.dtype.is_unsigned() {
                    true => value.into(),
                    false => packed::sign_extend(bits, value).into(),
                };
                packed::unpack(bits, bytes, self.len()).into_iter().map(wide).collect()
            }
            _ => return Err(self.type_error("an integer type")),
        })
    }

    /// The elements of a floating-point tensor widened or narrowed to `f32`.
    pub fn to_f32s(&self) -> Result<Cow<'_, [f32]>> {
        Ok(match self.dtype {
            DType::F32 => return self.view::<f32>(),
            DType::F64 => Cow::Owned(self.view::<f64>()?.iter().map(|&v| v as f32).collect()),
            DType::F16 => Cow::Owned(self.view::<half::f16>()?.iter().map(|v| v.to_f32()).collect()),
            DType::BF16 => Cow::Owned(self.view::<half::bf16>()?.iter().map(|v| v.to_f32()).collect()),
            _ => return Err(self.type_error("a floating-point type")),
        })
    }

    /// The same elements under another shape with as many elements.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Tensor> {
        check_count(self.dtype, shape, self.len())?;
        Ok(Tensor {
            dtype: self.dtype,
            shape: shape.to_vec(),
            data: self.data.clone(),
        })
    }

    /// The same tensor with data aligned for its element type: shared when it is already, else copied.
    pub fn aligned(&self) -> Result<Tensor> {
        if self.is_aligned() || self.remote_id().is_some() {
            return Ok(self.clone());
        }
        Tensor::from_bytes(self.dtype, &self.shape, AlignedBytes::copy_of(self.bytes())?)
    }

    /// Whether the bytes can be read as the element type where they are.
    pub fn is_aligned(&self) -> bool {
        let size = (self.dtype.bits().unwrap_or(8) / 8).max(1);
        // What is deferred comes to memory of its own.
        self.is_deferred() || (self.bytes().as_ptr() as usize).is_multiple_of(size)
    }

    fn type_error(&self, expected: &str) -> Error {
        Error::new(ErrorCode::WrongType, "the tensor has another element type")
            .expected(expected)
            .actual(self.dtype.name())
    }
}

impl PartialEq for Tensor {
    /// Equal type, shape and bytes (so NaN equals the same NaN, and 0 differs from -0).
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && match (&self.data, &other.data) {
                (Data::Bytes(a), Data::Bytes(b)) => **a == **b,
                (Data::Strings(a), Data::Strings(b)) => a == b,
                (Data::Remote(a), Data::Remote(b)) => a == b,
                _ => false,
            }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, display_shape(&self.shape))?;
        const SHOWN: usize = 8;
        let shown = self.len().min(SHOWN);
        if shown == 0 {
            return Ok(());
        }
        f.write_str(" ")?;
        let mut list = f.debug_list();
        match &self.data {
            Data::Strings(strings) => list.entries(&strings[..shown]),
            Data::Remote(id) => list.entry(&format_args!("remote {id}")),
            Data::Bytes(bytes) if bytes.source().is_some() => list.entry(&format_args!("deferred")),
            Data::Bytes(bytes) => with_element!(self.dtype, T => {
                let values: Vec<T> = bytemuck::pod_collect_to_vec(&bytes[..shown * std::mem::size_of::<T>()]);
                list.entries(values)
            }, _ => list.entries(self.to_f64s().unwrap_or_default().into_iter().take(shown))),
        };
        if self.len() > SHOWN {
            list.entry(&format_args!("…"));
        }
        list.finish()
    }
}

/// The data of [`Tensor::computed`].
struct Computed(Tensor, Box<dyn Fn(&Tensor) -> Result<Vec<f32>> + Send + Sync>);

impl Source for Computed {
    fn read(&self, start: usize, target: &mut [u8]) -> Result<()> {
        let values = (self.1)(&self.0.at_hand()?)?;
        let bytes: &[u8] = bytemuck::cast_slice(&values);
        let part = bytes.get(start..).and_then(|rest| rest.get(..target.len()));
        target.copy_from_slice(part.ok_or_else(|| Error::internal("a computed constant has too few elements"))?);
        Ok(())
    }
}

/// Keeps a `Vec` of elements as bytes, at the elements' alignment.
struct Elements<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Bytes {
    /// The bytes of floats, which are not copied.
    pub fn from_f32s(values: Vec<f32>) -> Bytes {
        Bytes::new(Elements(values))
    }
}

fn check_count(dtype: DType, shape: &[usize], count: usize) -> Result<()> {
    let expected = element_count(shape)?;
    if expected == count {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidTensor,
        format!(
            "a {dtype} tensor of shape {} has another number of elements",
            display_shape(shape)
        ),
    )
    .expected(expected.to_string())
    .actual(count.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_the_wrong_length_is_an_error_that_names_both_lengths() {
        const HUGE: usize = usize::MAX / 2;
        let error = Tensor::from_bytes(DType::F32, &[2, 2], vec![0; 15]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidTensor);
        assert_eq!(error.place().expected.as_deref(), Some("16 bytes"));
        assert!(Tensor::new(&[3], vec![1i64]).is_err());
        assert!(Tensor::from_bytes(DType::F32, &[HUGE, HUGE], vec![]).is_err());
        assert_eq!(
            Tensor::from_bytes(DType::F32, &[HUGE, HUGE, 0], vec![]).unwrap().len(),
            0
        );
    }

    #[test]
    fn unaligned_bytes_read_the_same_as_aligned_ones() {
        let mut bytes = vec![0u8];
        bytes.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
        let tensor = Tensor::from_bytes(DType::F32, &[2], Bytes::from(bytes).slice(1, 9).unwrap()).unwrap();
        assert_eq!(&*tensor.view::<f32>().unwrap(), &[1.5, -2.0]);
        assert_eq!(tensor.aligned().unwrap(), tensor);
        assert_eq!(format!("{tensor:?}"), "float32[2] [1.5, -2.0]");
    }

    #[test]
    fn four_bit_elements_unpack_low_nibble_first_with_sign() {
        let tensor = Tensor::from_bytes(DType::I4, &[3], vec![0x8f, 0x07]).unwrap();
        assert_eq!(tensor.to_i64s().unwrap(), [-1, -8, 7]);
        let tensor = Tensor::from_bytes(DType::U4, &[3], vec![0x8f, 0x07]).unwrap();
        assert_eq!(tensor.to_i64s().unwrap(), [15, 8, 7]);
    }

    #[test]
    fn what_is_computed_from_deferred_data_is_deferred_too() {
        struct Ramp;
        impl Source for Ramp {
            fn read(&self, start: usize, target: &mut [u8]) -> Result<()> {
                let bytes = (0..4u8).flat_map(|value| f32::from(value).to_le_bytes()).skip(start);
                target.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
                Ok(())
            }
        }
        let bytes = Bytes::deferred(Arc::new(Ramp), 0, 16);
        let tensor = Tensor::from_bytes(DType::F32, &[4], bytes).unwrap();
        let doubled = |from: &Tensor| Ok(from.to_f32s()?.iter().map(|value| value * 2.0).collect());
        let made = Tensor::computed(&[2, 2], &tensor, Box::new(doubled)).unwrap();
        assert!(made.is_deferred() && made.is_aligned() && made.byte_len() == 16);
        assert_eq!(format!("{made:?}"), "float32[2, 2] [deferred]");
        let copy = made.at_hand().unwrap();
        assert_eq!(*copy.to_f32s().unwrap(), [0.0, 2.0, 4.0, 6.0]);
        assert!(made.is_deferred() && tensor.is_deferred());
        let eager = Tensor::computed(&[4], &copy, Box::new(doubled)).unwrap();
        assert!(!eager.is_deferred());
        assert_eq!(*eager.to_f32s().unwrap(), [0.0, 4.0, 8.0, 12.0]);
        assert_eq!(made.bytes(), copy.bytes());
        assert!(!made.is_deferred());
        let wrong = Tensor::computed(&[5], &tensor, Box::new(doubled)).unwrap();
        assert!(wrong.at_hand().is_err());
    }

    #[test]
    fn reading_as_another_type_is_an_error() {
        let tensor = Tensor::scalar(1.0f32);
        assert_eq!(tensor.view::<i32>().unwrap_err().code(), ErrorCode::WrongType);
        assert!(tensor.strings().is_err());
        assert!(tensor.to_i64s().is_err());
    }
}
