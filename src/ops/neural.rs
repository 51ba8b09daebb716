//! Rarer operators of neural networks: attention, sampling, detection, losses. They run on whole tensors and compute in
//! wide numbers, so that one small kernel serves every element type.

mod attention;
mod deform;
mod detect;
mod einsum;
mod flex;
mod fold;
mod loss;
mod matrix;
mod region;
mod rotary;
mod sample;
mod store;

use std::{borrow::Cow, fmt::Debug, sync::Arc};

use super::{
    CpuLowering, GpuLowering, InferContext, Operator,
    registry::{Entry, internal, onnx},
};
use crate::{
    cpu::{elementwise::Wide, kernel::CpuKernel},
    error::{Error, ErrorCode, Result},
    gpu::kernel::GpuKernel,
    tensor::{AlignedBytes, DType, Dim, Tensor, element_count},
};

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[
    onnx("AffineGrid", sample::make_affine_grid),
    onnx("Attention", attention::make),
    onnx("BitCast", store::make_bit_cast),
    onnx("CenterCropPad", fold::make_center_crop_pad),
    onnx("Col2Im", fold::make_col2im),
    onnx("CumProd", matrix::make_cum_prod),
    onnx("DeformConv", deform::make),
    onnx("Det", matrix::make_det),
    onnx("Einsum", einsum::make),
    onnx("GridSample", sample::make_grid_sample),
    onnx("MaxRoiPool", region::make_max_roi_pool),
    onnx("MaxUnpool", fold::make_max_unpool),
    onnx("NegativeLogLikelihoodLoss", loss::make),
    onnx("NonMaxSuppression", detect::make_non_max_suppression),
    onnx("RoiAlign", region::make_roi_align),
    onnx("RotaryEmbedding", rotary::make),
    onnx("SoftmaxCrossEntropyLoss", loss::make),
    onnx("TensorScatter", store::make_tensor_scatter),
    Entry {
        domain: "ai.onnx.preview",
        name: "FlexAttention",
        since: 1,
        make: flex::make,
    },
    internal("AttentionScores", flex::make_scores),
    internal("AttentionValues", flex::make_values),
];

/// An operator that runs on whole tensors.
trait Whole: Debug + Send + Sync {
    /// What the kernel is called in reports.
    fn kernel_name(&self) -> &'static str;

    /// As [`Operator::infer`].
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()>;

    /// As [`Operator::gpu`].
    fn gpu(&self, _ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        Ok(None)
    }

    /// As [`Operator::takes_narrowed`].
    fn takes_narrowed(&self) -> bool {
        false
    }

    /// Makes one tensor for each of the node's outputs; of one that is not wanted only its place matters.
    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>>;
}

/// The tensors of one run.
struct Call<'a> {
    inputs: &'a [Option<Tensor>],
    wanted: &'a [bool],
}

impl<'a> Call<'a> {
    /// Input `index`, which must be given.
    fn input(&self, index: usize) -> Result<&'a Tensor> {
        let missing = || Error::new(ErrorCode::InvalidGraph, format!("required input {index} is missing"));
        self.optional(index).ok_or_else(missing)
    }

    /// Input `index`, when it is given.
    fn optional(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index)?.as_ref()
    }

    /// Whether anybody reads output `index`.
    fn wants(&self, index: usize) -> bool {
        self.wanted.get(index).copied().unwrap_or(false)
    }
}

#[derive(Debug)]
struct Node(Arc<dyn Whole>);

/// Makes the operator of a node from one that runs on whole tensors.
fn whole(operator: impl Whole + 'static) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Node(Arc::new(operator))))
}

impl Operator for Node {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        self.0.infer(ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let operator = self.0.clone();
        let wanted: Vec<bool> = ctx.outputs.iter().map(Option::is_some).collect();
        Ok(CpuKernel::dynamic(operator.kernel_name(), move |inputs| {
            operator.run(&Call {
                inputs,
                wanted: &wanted,
            })
        }))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        self.0.gpu(ctx)
    }

    fn takes_narrowed(&self) -> bool {
        self.0.takes_narrowed()
    }
}

/// The elements of a numeric tensor: f32s as they lie there, narrower floats widened to f32, everything else to f64.
enum Numbers<'a> {
    Single(Cow<'a, [f32]>),
    Double(Vec<f64>),
}

impl Numbers<'_> {
    fn of(tensor: &Tensor) -> Result<Numbers<'_>> {
        Ok(match tensor.dtype() {
            DType::F32 | DType::F16 | DType::BF16 => Numbers::Single(tensor.to_f32s()?),
            _ => Numbers::Double(tensor.to_f64s()?),
        })
    }

    fn at(&self, index: usize) -> f64 {
        match self {
            Numbers::Single(values) => values[index].into(),
            Numbers::Double(values) => values[index],
        }
    }
}

/// The elements of a tensor of integers or bools; those of u64 keep their bits.
fn wrapping_ints(tensor: &Tensor) -> Result<Vec<i64>> {
    let mut values: Vec<i64> = zeros(tensor.shape())?;
    i64::load(tensor.dtype(), tensor.aligned()?.bytes(), 0, 1, &mut values)?;
    Ok(values)
}

/// A tensor of integers of the lower bits of these.
fn from_wrapping_ints(dtype: DType, shape: &[usize], values: &[i64]) -> Result<Tensor> {
    let mut memory = AlignedBytes::zeroed(dtype.byte_len(values.len()).unwrap_or(0))?;
    i64::store(dtype, values, memory.as_mut(), 0)?;
    Tensor::from_bytes(dtype, shape, memory)
}

/// What Einsum makes of tensors by an equation.
fn sum_of_products(equation: &str, inputs: &[Option<Tensor>]) -> Result<Tensor> {
    let operator = einsum::parse(equation)?;
    let results = operator.run(&Call {
        inputs,
        wanted: &[true],
    });
    Ok(results?.swap_remove(0))
}

/// A tensor of any numeric type from sums: integers wrap around instead of saturating.
fn from_sums(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor> {
    if !dtype.is_integer() {
        return Tensor::from_f64s(dtype, shape, values);
    }
    let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
    from_wrapping_ints(dtype, shape, &values)
}

/// A tensor of any floating-point type from `f32`s.
fn singles(dtype: DType, shape: &[usize], values: Vec<f32>) -> Result<Tensor> {
    if dtype == DType::F32 {
        return Tensor::new(shape, values);
    }
    let wide: Vec<f64> = values.into_iter().map(f64::from).collect();
    Tensor::from_f64s(dtype, shape, &wide)
}

/// The error of an index that is outside its table.
fn outside(index: i64, len: usize) -> Error {
    Error::new(ErrorCode::RunFailed, "an index is out of range")
        .expected(format!("0 to {len}"))
        .actual(index.to_string())
}

/// As many zeros as a shape has elements.
fn zeros<T: Default + Clone>(shape: &[usize]) -> Result<Vec<T>> {
    let count = element_count(shape)?;
    let mut values = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|_| Error::new(ErrorCode::OutOfMemory, format!("no memory for {count} elements")))?;
    values.resize(count, T::default());
    Ok(values)
}

/// The sizes behind an integer tensor.
fn sizes(tensor: &Tensor) -> Result<Vec<usize>> {
    let size = |value: i64| {
        usize::try_from(value).map_err(|_| {
            Error::new(ErrorCode::ShapeMismatch, "a size is negative or too large").actual(value.to_string())
        })
    };
    tensor.to_i64s()?.into_iter().map(size).collect()
}

/// The next index tuple of a block of these dimensions, in row-major order; all zeros after the last.
fn advance(index: &mut [usize], dims: &[usize]) {
    for (at, &dim) in index.iter_mut().zip(dims).rev() {
        *at += 1;
        if *at < dim {
            return;
        }
        *at = 0;
    }
}

/// Integers of a constant shape-like input as dimensions, or fresh ones when only their number is known.
fn dims_of_input(ctx: &mut InferContext<'_>, index: usize) -> Option<Vec<Dim>> {
    if let Some(elements) = ctx.elements(index) {
        return Some(elements);
    }
    let count = usize::try_from(ctx.shape(index)?.first()?.known()?).ok()?;
    // A tensor's rank is small; a long list is an error that the run reports.
    (count <= 64).then(|| ctx.fresh_shape(count))
}
