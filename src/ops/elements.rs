//! Picking elements of a tensor of any type by their places, for operators that move elements one by one.

use crate::{
    error::{Error, Result},
    tensor::{AlignedBytes, Tensor, element_count},
};

/// A tensor of the elements of `tensor` at these places.
pub fn take(tensor: &Tensor, shape: &[usize], places: &[usize]) -> Result<Tensor> {
    pick(tensor, shape, &mut places.iter().map(|&place| Some(place)))
}

/// A tensor of the elements of `tensor` at these places, in order; nowhere is 0 (or an empty string). Elements behind
/// the last place are 0 as well.
pub fn pick(tensor: &Tensor, shape: &[usize], places: &mut dyn Iterator<Item = Option<usize>>) -> Result<Tensor> {
    let outside = || Error::internal("an element is taken from outside its tensor");
    let Some(bits) = tensor.dtype().bits() else {
        let strings = tensor.strings()?;
        let taken = places.map(|place| match place {
            Some(place) => strings.get(place).cloned().ok_or_else(outside),
            None => Ok(String::new()),
        });
        return Tensor::from_strings(shape, taken.collect::<Result<_>>()?);
    };
    let len = tensor.dtype().byte_len(element_count(shape)?).ok_or_else(outside)?;
    let mut memory = AlignedBytes::zeroed(len)?;
    let (source, target) = (tensor.bytes(), memory.as_mut());
    if bits < 8 {
        let (each, mask) = (8 / bits, (1u8 << bits) - 1);
        for (number, place) in places.enumerate() {
            let Some(place) = place else { continue };
            let byte = *source.get(place / each).ok_or_else(outside)?;
            let element = byte >> (place % each * bits) & mask;
            *target.get_mut(number / each).ok_or_else(outside)? |= element << (number % each * bits);
        }
    } else {
        let size = bits / 8;
        for (to, place) in target.chunks_exact_mut(size).zip(places) {
            let Some(place) = place else { continue };
            let from = source.get(place * size..(place + 1) * size);
            to.copy_from_slice(from.ok_or_else(outside)?);
        }
    }
    Tensor::from_bytes(tensor.dtype(), shape, memory)
}
