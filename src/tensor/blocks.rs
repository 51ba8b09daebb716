//! Joining whole tensors and cutting them apart along an axis, for any element type.

use super::{AlignedBytes, DType, Tensor, display_shape, element_count, packed};
use crate::error::{Error, ErrorCode, Result};

impl Tensor {
    /// Tensors of one type and shape joined along a new axis at `axis` (0 to the rank).
    pub fn stack(tensors: &[Tensor], axis: usize) -> Result<Tensor> {
        let first = tensors.first().ok_or_else(nothing_to_join)?;
        if axis > first.shape().len() {
            return Err(Error::internal("an axis to stack along is outside the rank"));
        }
        if let Some(other) = tensors.iter().find(|tensor| tensor.shape() != first.shape()) {
            return Err(differing(first, other));
        }
        let mut shape = first.shape().to_vec();
        shape.insert(axis, tensors.len());
        join(tensors, axis, &shape)
    }

    /// Tensors of one type, and of one shape but for `axis`, joined along that axis.
    pub fn concat(tensors: &[Tensor], axis: usize) -> Result<Tensor> {
        let first = tensors.first().ok_or_else(nothing_to_join)?;
        let mut shape = first.shape().to_vec();
        if axis >= shape.len() {
            return Err(Error::internal("an axis to join along is outside the rank"));
        }
        shape[axis] = 0;
        for tensor in tensors {
            let (own, others) = (tensor.shape(), first.shape());
            let fits = own.len() == others.len() && (0..own.len()).all(|i| i == axis || own[i] == others[i]);
            if !fits {
                return Err(differing(first, tensor));
            }
            shape[axis] = shape[axis].saturating_add(own[axis]);
        }
        join(tensors, axis, &shape)
    }

    /// The part of the tensor from `start`, `len` long, along `axis`.
    pub fn slice_along(&self, axis: usize, start: usize, len: usize) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        let size = shape.get(axis).copied().unwrap_or(0);
        if start.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::internal("a slice is outside its tensor"));
        }
        shape[axis] = len;
        let outer: usize = self.shape()[..axis].iter().product();
        let inner: usize = self.shape()[axis + 1..].iter().product();
        if self.dtype() == DType::String {
            let strings = self.strings()?;
            let rows = (0..outer).map(|row| &strings[(row * size + start) * inner..][..len * inner]);
            return Tensor::from_strings(&shape, rows.flatten().cloned().collect());
        }
        let Some(width) = byte_width(self.dtype()) else {
            let wide = self.unpacked()?.slice_along(axis, start, len)?;
            return wide.packed(self.dtype());
        };
        let (inner, mut bytes) = (inner * width, AlignedBytes::zeroed(element_count(&shape)? * width)?);
        if inner * len > 0 {
            for (row, target) in bytes.as_mut().chunks_exact_mut(len * inner).enumerate() {
                target.copy_from_slice(&self.bytes()[(row * size + start) * inner..][..len * inner]);
            }
        }
        Tensor::from_bytes(self.dtype(), &shape, bytes)
    }

    /// A tensor of elements smaller than a byte with a byte for each.
    fn unpacked(&self) -> Result<Tensor> {
        let bits = self.dtype().bits().unwrap_or(8);
        Tensor::new(self.shape(), packed::unpack(bits, self.bytes(), self.len()))
    }

    /// The opposite of [`Tensor::unpacked`].
    fn packed(&self, dtype: DType) -> Result<Tensor> {
        let bits = dtype.bits().unwrap_or(8);
        Tensor::from_bytes(dtype, self.shape(), packed::pack(bits, self.bytes()))
    }
}

/// Bytes of an element, where it is made of whole bytes.
fn byte_width(dtype: DType) -> Option<usize> {
    dtype.bits().filter(|bits| bits % 8 == 0).map(|bits| bits / 8)
}

/// Interleaves the blocks of `tensors` that begin at `axis`; their shapes have been checked.
fn join(tensors: &[Tensor], axis: usize, shape: &[usize]) -> Result<Tensor> {
    let dtype = tensors[0].dtype();
    if let Some(other) = tensors.iter().find(|tensor| tensor.dtype() != dtype) {
        return Err(differing(&tensors[0], other));
    }
    let count = element_count(shape)?;
    let outer: usize = shape[..axis].iter().product();
    let block = |tensor: &Tensor| if outer == 0 { 0 } else { tensor.len() / outer };
    if dtype == DType::String {
        let mut strings = Vec::with_capacity(count);
        for row in 0..outer {
            for tensor in tensors {
                let len = block(tensor);
                strings.extend_from_slice(&tensor.strings()?[row * len..(row + 1) * len]);
            }
        }
        return Tensor::from_strings(shape, strings);
    }
    let Some(width) = byte_width(dtype) else {
        let wide = tensors.iter().map(Tensor::unpacked).collect::<Result<Vec<_>>>()?;
        return join(&wide, axis, shape)?.packed(dtype);
    };
    let mut bytes = AlignedBytes::zeroed(count * width)?;
    let mut rest = bytes.as_mut();
    for row in 0..outer {
        for tensor in tensors {
            let len = block(tensor) * width;
            let (target, after) = std::mem::take(&mut rest).split_at_mut(len);
            target.copy_from_slice(&tensor.bytes()[row * len..(row + 1) * len]);
            rest = after;
        }
    }
    Tensor::from_bytes(dtype, shape, bytes)
}

fn nothing_to_join() -> Error {
    Error::new(ErrorCode::ShapeMismatch, "there are no tensors to join")
}

fn differing(first: &Tensor, other: &Tensor) -> Error {
    let text = |tensor: &Tensor| format!("{}{}", tensor.dtype(), display_shape(tensor.shape()));
    Error::new(
        ErrorCode::ShapeMismatch,
        "tensors that are joined have different types or shapes",
    )
    .expected(text(first))
    .actual(text(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(dtype: DType) -> Vec<Tensor> {
        let numbers = |k: i64| (0..8).map(|i| (10 * k + i) % 8).collect::<Vec<_>>();
        let strings = |k: i64| numbers(k).iter().map(i64::to_string).collect();
        let part = |k| match dtype {
            DType::String => Tensor::from_strings(&[2, 4], strings(k)),
            _ => Tensor::from_i64s(dtype, &[2, 4], &numbers(k)),
        };
        (0..3).map(|k| part(k).unwrap()).collect()
    }

    #[test]
    fn joining_and_slicing_are_inverse_along_every_axis() {
        for dtype in [DType::I32, DType::U8, DType::U4, DType::Bool, DType::String] {
            let parts = parts(dtype);
            for axis in 0..2 {
                let joined = Tensor::concat(&parts, axis).unwrap();
                let size = parts[0].shape()[axis];
                for (index, part) in parts.iter().enumerate() {
                    assert_eq!(
                        &joined.slice_along(axis, index * size, size).unwrap(),
                        part,
                        "{dtype} {axis}"
                    );
                }
            }
            for axis in 0..3 {
                let stacked = Tensor::stack(&parts, axis).unwrap();
                assert_eq!(stacked.shape()[axis], 3);
                for (index, part) in parts.iter().enumerate() {
                    let slice = stacked.slice_along(axis, index, 1).unwrap();
                    assert_eq!(&slice.reshaped(part.shape()).unwrap(), part, "{dtype} {axis}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let parts = parts(DType::I32);
        let other = Tensor::new(&[8], vec![0i32; 8]).unwrap();
        assert!(Tensor::stack(&[parts[0].clone(), other.clone()], 0).is_err());
        assert!(Tensor::concat(&[parts[0].clone(), other], 0).is_err());
        assert!(Tensor::concat(&[], 0).is_err());
        let bytes = Tensor::new(&[2, 4], vec![0u8; 8]).unwrap();
        assert!(Tensor::concat(&[parts[0].clone(), bytes], 1).is_err());
        let empty = Tensor::zeros(DType::F32, &[0, 4]).unwrap();
        assert_eq!(Tensor::concat(&[empty.clone(), empty], 1).unwrap().shape(), [0, 8]);
    }
}
