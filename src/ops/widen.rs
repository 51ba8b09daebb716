//! Element types that kernels are not written for. Half-precision floats are frequent: [`widened`] puts the conversion
//! of f16 and bf16 around a kernel for f32, in its scratch memory, and sums are then kept in f32, which is what ONNX's
//! reference does at least as well. The rest is rare: [`converted`] converts whole tensors.

use half::{bf16, f16};

use super::{CpuLowering, TensorDesc};
use crate::{
    cpu::{
        elementwise::Wide,
        executor::run_alone,
        kernel::{ComputeKernel, CpuKernel, InputBytes, KernelInputs, KernelIo, KernelOutputs, Layout, OutputBytes},
    },
    error::{Error, Result},
    tensor::{AlignedBytes, DType, Tensor},
};

/// The elements of an integer or bool tensor as `i64`; those of u64 keep their bits.
pub fn wide_ints(tensor: &Tensor) -> Result<Vec<i64>> {
    let mut wide = vec![0; tensor.len()];
    i64::load(tensor.dtype(), tensor.aligned()?.bytes(), 0, 1, &mut wide)?;
    Ok(wide)
}

/// A tensor of an integer type or bool from the lowest bits of `i64`s.
pub fn narrow_ints(dtype: DType, shape: &[usize], values: &[i64]) -> Result<Tensor> {
    let len = dtype.byte_len(values.len());
    let len = len.ok_or_else(|| Error::internal("integers without a size"))?;
    let mut bytes = AlignedBytes::zeroed(len)?;
    i64::store(dtype, values, bytes.as_mut(), 0)?;
    Tensor::from_bytes(dtype, shape, bytes)
}

/// Lowers a node as if its f16 and bf16 inputs and outputs were f32. Constants keep their own type: `lower` takes their
/// elements with [`Tensor::to_f32s`].
pub fn widened(ctx: &CpuLowering<'_>, lower: impl FnOnce(&CpuLowering<'_>) -> Result<CpuKernel>) -> Result<CpuKernel> {
    let widen = |descs: &[Option<TensorDesc>]| -> Vec<Option<TensorDesc>> {
        let widen = |desc: &TensorDesc| TensorDesc {
            dtype: if desc.dtype.is_half() { DType::F32 } else { desc.dtype },
            ..desc.clone()
        };
        descs.iter().map(|desc| desc.as_ref().map(widen)).collect()
    };
    let (inputs, outputs) = (widen(ctx.inputs), widen(ctx.outputs));
    let kernel = lower(&CpuLowering {
        inputs: &inputs,
        outputs: &outputs,
        ..*ctx
    })?;
    match kernel {
        CpuKernel::View { input } => Ok(CpuKernel::View { input }),
        CpuKernel::Compute(kernel) => around_compute(ctx, kernel),
        CpuKernel::Dynamic(kernel) => {
            let dtypes: Vec<Option<DType>> = ctx.outputs.iter().map(|output| Some(output.as_ref()?.dtype)).collect();
            let name = kernel.name;
            Ok(CpuKernel::dynamic(name, move |inputs| {
                let widened = inputs
                    .iter()
                    .map(|input| input.as_ref().map(widen_tensor).transpose())
                    .collect::<Result<Vec<_>>>()?;
                let outputs = (kernel.run)(&widened)?;
                let narrow = |(tensor, dtype): (Tensor, &Option<DType>)| match dtype {
                    Some(dtype) if dtype.is_half() => narrow_tensor(&tensor, *dtype),
                    _ => Ok(tensor),
                };
                outputs
                    .into_iter()
                    .zip(dtypes.iter().chain(std::iter::repeat(&None)))
                    .map(narrow)
                    .collect()
            }))
        }
    }
}

/// Lowers a node as if its inputs and outputs had the types that `to` gives for their own, with conversions around the
/// kernel: for types and mixtures that are too rare for kernels of their own. Integers are converted exactly to integers
/// and through f64 to floats; floats are truncated and saturated to integers. Constants that are
/// converted are not seen as such.
pub fn converted(
    ctx: &CpuLowering<'_>,
    to: impl Fn(DType) -> DType,
    lower: impl FnOnce(&CpuLowering<'_>) -> Result<CpuKernel>,
) -> Result<CpuKernel> {
    let convert = |descs: &[Option<TensorDesc>]| -> Vec<Option<TensorDesc>> {
        let convert = |desc: &TensorDesc| TensorDesc {
            dtype: to(desc.dtype),
            shape: desc.shape.clone(),
            constant: desc.constant.clone().filter(|_| to(desc.dtype) == desc.dtype),
            constant_id: desc.constant_id,
        };
        descs.iter().map(|desc| desc.as_ref().map(convert)).collect()
    };
    let (inputs, outputs) = (convert(ctx.inputs), convert(ctx.outputs));
    // What has the converted types already has no kernel: it would be converted without end.
    let descs = ctx.inputs.iter().chain(ctx.outputs).flatten();
    if descs.clone().all(|desc| to(desc.dtype) == desc.dtype) {
        return Err(ctx.unsupported_type(0));
    }
    let kernel = lower(&CpuLowering {
        inputs: &inputs,
        outputs: &outputs,
        ..*ctx
    })?;
    let dtypes = |descs: &[Option<TensorDesc>]| -> Vec<Option<DType>> {
        descs.iter().map(|desc| Some(desc.as_ref()?.dtype)).collect()
    };
    let (wanted, narrow) = (dtypes(&inputs), dtypes(ctx.outputs));
    let made: Vec<Option<(DType, Vec<usize>)>> = outputs
        .into_iter()
        .map(|desc| desc.map(|desc| (desc.dtype, desc.shape)))
        .collect();
    let name = match &kernel {
        CpuKernel::View { .. } => "view",
        CpuKernel::Compute(kernel) => kernel.name,
        CpuKernel::Dynamic(kernel) => kernel.name,
    };
    Ok(CpuKernel::dynamic(name, move |inputs| {
        let convert = |(tensor, dtype): (&Option<Tensor>, &Option<DType>)| match (tensor, dtype) {
            (Some(tensor), Some(dtype)) => cast(tensor, *dtype).map(Some),
            _ => Ok(tensor.clone()),
        };
        let inputs = inputs.iter().zip(&wanted).map(convert).collect::<Result<Vec<_>>>()?;
        let results = run_alone(&kernel, &inputs, &made)?;
        let dtypes = narrow.iter().chain(std::iter::repeat(&None));
        results
            .into_iter()
            .zip(dtypes)
            .map(|(tensor, dtype)| match (tensor, dtype) {
                (Some(tensor), Some(dtype)) => cast(&tensor, *dtype),
                (Some(tensor), None) => Ok(tensor),
                // Nobody reads it.
                (None, _) => Tensor::zeros(DType::F32, &[0]),
            })
            .collect()
    }))
}

fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        Ok(tensor.clone())
    } else if tensor.dtype().is_float() || dtype.is_float() {
        Tensor::from_f64s(dtype, tensor.shape(), &tensor.to_f64s()?)
    } else {
        Tensor::from_i64s(dtype, tensor.shape(), &tensor.to_i64s()?)
    }
}

/// A tensor of which an f32 copy lies in the scratch memory.
struct Copy {
    index: usize,
    dtype: DType,
    len: usize,
}

fn around_compute(ctx: &CpuLowering<'_>, kernel: ComputeKernel) -> Result<CpuKernel> {
    let mut end = 0usize;
    let mut copy = |index: usize, desc: &Option<TensorDesc>| -> Result<Option<Copy>> {
        let Some(desc) = desc.as_ref().filter(|desc| desc.dtype.is_half()) else {
            return Ok(None);
        };
        let len = crate::tensor::element_count(&desc.shape)?;
        // Each copy keeps the alignment of the whole.
        end += (len * 4).next_multiple_of(16);
        Ok(Some(Copy {
            index,
            dtype: desc.dtype,
            len,
        }))
    };
    let mut inputs = Vec::new();
    for (index, desc) in ctx.inputs.iter().enumerate() {
        if !kernel.prepared_inputs.contains(&index) {
            inputs.extend(copy(index, desc)?);
        }
    }
    let mut outputs = Vec::new();
    for (index, desc) in ctx.outputs.iter().enumerate() {
        outputs.extend(copy(index, desc)?);
    }
    let own_scratch = end;
    let ComputeKernel {
        name,
        scratch_bytes,
        prepared_inputs,
        layout: _,
        run,
    } = kernel;
    Ok(CpuKernel::Compute(ComputeKernel {
        name,
        scratch_bytes: own_scratch + scratch_bytes,
        prepared_inputs,
        layout: Layout::Own,
        run: Box::new(move |io| {
            let (mut memory, scratch) = io.scratch.split_at_mut(own_scratch);
            let mut take = |copy: &Copy| {
                let (bytes, rest) = std::mem::take(&mut memory).split_at_mut((copy.len * 4).next_multiple_of(16));
                memory = rest;
                &mut bytes[..copy.len * 4]
            };
            let mut wide_inputs = std::mem::take(&mut io.inputs.0);
            for copy in &inputs {
                let bytes = take(copy);
                let Some(input) = wide_inputs.get_mut(copy.index).and_then(Option::as_mut) else {
                    return Err(Error::internal(format!("kernel input {} is missing", copy.index)));
                };
                widen(copy.dtype, input.bytes, cast_mut(bytes)?)?;
                *input = InputBytes {
                    dtype: DType::F32,
                    bytes,
                };
            }
            let mut regions: Vec<&mut [u8]> = outputs.iter().map(take).collect();
            let mut free = outputs.iter().zip(&mut regions).peekable();
            let mut wide_outputs = Vec::with_capacity(io.outputs.0.len());
            let mut narrow_outputs = Vec::with_capacity(outputs.len());
            for (index, output) in std::mem::take(&mut io.outputs.0).into_iter().enumerate() {
                match free.next_if(|(copy, _)| copy.index == index) {
                    Some((_, bytes)) => {
                        let dtype = DType::F32;
                        wide_outputs.push(Some(OutputBytes { dtype, bytes }));
                        narrow_outputs.push(output.ok_or_else(|| Error::internal("a kernel output is missing"))?);
                    }
                    None => wide_outputs.push(output),
                }
            }
            run(&mut KernelIo {
                inputs: KernelInputs(wide_inputs),
                outputs: KernelOutputs(wide_outputs),
                scratch,
                threads: io.threads,
            })?;
            for ((copy, output), bytes) in outputs.iter().zip(narrow_outputs).zip(regions) {
                narrow(cast_mut(bytes)?, copy.dtype, output.bytes)?;
            }
            Ok(())
        }),
    }))
}

fn cast_mut(bytes: &mut [u8]) -> Result<&mut [f32]> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|reason| Error::internal(format!("scratch memory: {reason}")))
}

/// Fills `wide` with the elements of `bytes`.
fn widen(dtype: DType, bytes: &[u8], wide: &mut [f32]) -> Result<()> {
    let error = |reason| Error::internal(format!("half-precision input: {reason}"));
    match dtype {
        DType::BF16 => {
            let narrow: &[bf16] = bytemuck::try_cast_slice(bytes).map_err(error)?;
            for (wide, narrow) in wide.iter_mut().zip(narrow) {
                *wide = narrow.to_f32();
            }
        }
        _ => {
            let narrow: &[f16] = bytemuck::try_cast_slice(bytes).map_err(error)?;
            for (wide, narrow) in wide.iter_mut().zip(narrow) {
                *wide = narrow.to_f32();
            }
        }
    }
    Ok(())
}

/// Fills `bytes` with `wide`, rounded to nearest.
fn narrow(wide: &[f32], dtype: DType, bytes: &mut [u8]) -> Result<()> {
    let error = |reason| Error::internal(format!("half-precision output: {reason}"));
    match dtype {
        DType::BF16 => {
            let narrow: &mut [bf16] = bytemuck::try_cast_slice_mut(bytes).map_err(error)?;
            for (narrow, wide) in narrow.iter_mut().zip(wide) {
                *narrow = bf16::from_f32(*wide);
            }
        }
        _ => {
            let narrow: &mut [f16] = bytemuck::try_cast_slice_mut(bytes).map_err(error)?;
            for (narrow, wide) in narrow.iter_mut().zip(wide) {
                *narrow = f16::from_f32(*wide);
            }
        }
    }
    Ok(())
}

fn widen_tensor(tensor: &Tensor) -> Result<Tensor> {
    if !tensor.dtype().is_half() {
        return Ok(tensor.clone());
    }
    Tensor::new(tensor.shape(), tensor.to_f32s()?.into_owned())
}

fn narrow_tensor(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let mut bytes = AlignedBytes::zeroed(tensor.len() * 2)?;
    narrow(&tensor.to_f32s()?, dtype, bytes.as_mut())?;
    Tensor::from_bytes(dtype, tensor.shape(), bytes)
}
