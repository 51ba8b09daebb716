//! Signal processing, random numbers, images and training steps.

mod fourier;
mod image;
mod random;
mod training;
mod windows;

use super::{
    InferContext,
    lower::invalid,
    registry::{Entry, Make, onnx},
};
use crate::{
    error::{Error, ErrorCode, Result},
    tensor::{DType, Tensor, display_shape, element_count},
};

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[
    // Signals.
    onnx("BlackmanWindow", windows::make_window),
    onnx("DFT", fourier::make_dft),
    onnx("HammingWindow", windows::make_window),
    onnx("HannWindow", windows::make_window),
    onnx("MelWeightMatrix", windows::make_mel),
    onnx("STFT", fourier::make_stft),
    // Images.
    onnx("ImageDecoder", image::make),
    // Random numbers.
    onnx("Bernoulli", random::make_bernoulli),
    onnx("Multinomial", random::make_multinomial),
    onnx("RandomNormal", random::make_random),
    onnx("RandomNormalLike", random::make_random),
    onnx("RandomUniform", random::make_random),
    onnx("RandomUniformLike", random::make_random),
    // Training.
    preview_training("Adagrad", training::make),
    preview_training("Adam", training::make),
    preview_training("Momentum", training::make),
];

const fn preview_training(name: &'static str, make: Make) -> Entry {
    Entry {
        domain: "ai.onnx.preview.training",
        name,
        since: 1,
        make,
    }
}

/// The type of an input, which must be a floating-point type.
fn float_type(ctx: &InferContext<'_>, index: usize) -> Result<DType> {
    let dtype = ctx.dtype(index)?;
    if !dtype.is_float() {
        let error = Error::new(ErrorCode::WrongType, format!("input {index} is not of floats"));
        return Err(error.actual(dtype.name()));
    }
    Ok(dtype)
}

/// The one integer of an input, when it is given.
fn scalar_int(inputs: &[Option<Tensor>], index: usize) -> Result<Option<i64>> {
    let Some(tensor) = inputs.get(index).and_then(Option::as_ref) else {
        return Ok(None);
    };
    match tensor.to_i64s()?.as_slice() {
        [value] => Ok(Some(*value)),
        _ => Err(invalid(format!("input {index} is not one number")).actual(format!("{tensor:?}"))),
    }
}

/// Zeros in this shape, or an error when there is no memory.
fn zeros(shape: &[usize]) -> Result<Vec<f64>> {
    let count = element_count(shape)?;
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| {
        Error::new(ErrorCode::OutOfMemory, "there is no memory for a tensor").actual(display_shape(shape))
    })?;
    values.resize(count, 0.0);
    Ok(values)
}
