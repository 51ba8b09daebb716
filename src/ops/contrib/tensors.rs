//! What the kernels of this room share: whole tensors as f32 and back, and checks of their shapes.

use std::borrow::Cow;

use super::super::lower::{invalid, mismatch};
use crate::{
    error::{Error, Result},
    tensor::{DType, Tensor, display_shape, element_count},
};

/// Input `index`, which must be given.
pub fn given(inputs: &[Option<Tensor>], index: usize) -> Result<&Tensor> {
    optional(inputs, index).ok_or_else(|| invalid(format!("required input {index} is missing")))
}

/// Input `index`, when it is given.
pub fn optional(inputs: &[Option<Tensor>], index: usize) -> Option<&Tensor> {
    inputs.get(index)?.as_ref()
}

/// The elements of optional input `index` as f32.
pub fn optional_f32s(inputs: &[Option<Tensor>], index: usize) -> Result<Option<Cow<'_, [f32]>>> {
    optional(inputs, index).map(Tensor::to_f32s).transpose()
}

/// A floating-point tensor of f32s, rounded to the type.
pub fn floats(dtype: DType, shape: &[usize], values: Vec<f32>) -> Result<Tensor> {
    match dtype {
        DType::F32 => Tensor::new(shape, values),
        DType::F16 => Tensor::new(shape, values.into_iter().map(half::f16::from_f32).collect()),
        DType::BF16 => Tensor::new(shape, values.into_iter().map(half::bf16::from_f32).collect()),
        _ => {
            let wide: Vec<f64> = values.into_iter().map(f64::from).collect();
            Tensor::from_f64s(dtype, shape, &wide)
        }
    }
}

/// Zeros to be written, as many as a shape has elements.
pub fn zeros(shape: &[usize]) -> Result<Vec<f32>> {
    let count = element_count(shape)?;
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| {
        Error::new(
            crate::error::ErrorCode::OutOfMemory,
            "memory for a result could not be had",
        )
    })?;
    values.resize(count, 0.0);
    Ok(values)
}

/// The error of an input whose shape does not fit.
pub fn shape_error(index: usize, expected: impl Into<String>, actual: &[usize]) -> Error {
    mismatch(format!("the shape of input {index} does not fit"))
        .expected(expected)
        .actual(display_shape(actual))
}

/// Checks the shape of an input.
pub fn expect_shape(index: usize, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.shape() == expected {
        return Ok(());
    }
    Err(shape_error(index, display_shape(expected), tensor.shape()))
}

/// The dimensions of an input of rank `N`.
pub fn dims<const N: usize>(index: usize, tensor: &Tensor) -> Result<[usize; N]> {
    <[usize; N]>::try_from(tensor.shape()).map_err(|_| shape_error(index, format!("{N} dimensions"), tensor.shape()))
}

/// Larger sizes than this are refused, so that products of a few of them fit everywhere.
const MAX_COUNT: usize = 1 << 24;

/// A positive integer attribute, which must be given.
pub fn count_attribute(node: &crate::graph::Node, name: &str) -> Result<usize> {
    let value = node.attributes.int(name)?.unwrap_or(0);
    let valid = |&count: &usize| count > 0 && count <= MAX_COUNT;
    usize::try_from(value).ok().filter(valid).ok_or_else(|| {
        invalid(format!("attribute {name} is missing or out of range"))
            .expected("a positive number")
            .actual(value.to_string())
    })
}
