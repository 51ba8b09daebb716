//! ONNX's normalisations over rows: `LayerNormalization`, `RMSNormalization`, `InstanceNormalization` and
//! `GroupNormalization`. Each sees its input as rows that are normalised by their own mean and variance, then scaled
//! and shifted. (Batch normalisation and the others are in [`super::channel_norm`].)

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, TensorDesc,
    context::rank_error,
    of_larger_build,
    widen::{converted, widened},
};
use crate::{
    cpu::{
        kernel::{CpuKernel, KernelIo, scratch_as_f32},
        norm::{RowMoments, group_norm, layer_norm, rms_norm},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{Binding, GpuKernel},
        kernels::reduce::{self, Centre, ScaleLayout},
    },
    graph::Node,
    pointwise::access::broadcast_strides,
    tensor::{DType, Dim, display_shape, resolve_axis},
};

/// `LayerNormalization` (since opset 17; outputs Y, Mean, InvStdDev) and `RMSNormalization` (since 23; output Y): rows
/// are everything from `axis` on, scale and bias broadcast to X. Floats; the statistics are f32 (`stash_type` 1) or bf16
/// (16).
#[derive(Debug)]
pub struct RowNorm {
    axis: i64,
    epsilon: f32,
    centre: Centre,
    stash: DType,
}

impl RowNorm {
    /// ONNX `LayerNormalization`.
    pub fn layer(node: &Node) -> Result<Box<dyn Operator>> {
        RowNorm::make(node, Centre::Mean)
    }

    /// ONNX `RMSNormalization`.
    pub fn rms(node: &Node) -> Result<Box<dyn Operator>> {
        RowNorm::make(node, Centre::Zero)
    }

    fn make(node: &Node, centre: Centre) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        Ok(Box::new(RowNorm {
            axis: attributes.int("axis")?.unwrap_or(-1),
            epsilon: attributes.float("epsilon")?.unwrap_or(1e-5),
            centre,
            stash: stash_type(node)?,
        }))
    }

    /// The number of rows and their length.
    fn rows(&self, shape: &[usize]) -> Result<(usize, usize)> {
        let axis = resolve_axis(self.axis, shape.len())?;
        Ok((shape[..axis].iter().product(), shape[axis..].iter().product()))
    }

    /// Whether scale or bias has one value for each column.
    fn is_per_column(&self, x: &[usize], shape: &[usize]) -> Result<bool> {
        let axis = resolve_axis(self.axis, x.len())?;
        let strides = broadcast_strides(x, shape).ok_or_else(|| {
            Error::new(
                ErrorCode::ShapeMismatch,
                "scale or bias does not broadcast to the input",
            )
            .expected(display_shape(&x[axis..]))
            .actual(display_shape(shape))
        })?;
        let count: usize = shape.iter().product();
        Ok(strides[..axis].iter().all(|&stride| stride == 0) && count == x[axis..].iter().product::<usize>())
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let x = &ctx.input(0)?.shape;
        let (_, len) = self.rows(x)?;
        let (scale, bias) = (ctx.optional_input(1), optional(ctx, 2));
        let affine = [scale, bias].into_iter().flatten();
        let plain = affine
            .map(|desc| self.is_per_column(x, &desc.shape))
            .collect::<Result<Vec<_>>>()?;
        if plain.contains(&false) {
            return self.cpu_broadcast(ctx);
        }
        let (epsilon, centre) = (self.epsilon, self.centre);
        let (has_scale, has_bias) = (scale.is_some(), bias.is_some());
        Ok(CpuKernel::compute("row_norm_f32", move |io| {
            let KernelIo {
                inputs,
                outputs,
                threads,
                ..
            } = io;
            let input = inputs.get::<f32>(0)?;
            let scale = if has_scale { Some(inputs.get(1)?) } else { None };
            let bias = if has_bias { Some(inputs.get(2)?) } else { None };
            let mut wanted = |index: usize| -> Result<Option<&mut [f32]>> {
                if outputs.has(index) {
                    outputs.take(index).map(Some)
                } else {
                    Ok(None)
                }
            };
            let moments = RowMoments {
                mean: wanted(1)?,
                inverse_deviation: wanted(2)?,
            };
            let Some(out) = wanted(0)? else {
                return Err(Error::internal("a normalisation without its first output"));
            };
            if moments.mean.is_some() || moments.inverse_deviation.is_some() {
                layer_norm(input, out, len, scale, bias, epsilon, moments);
                return Ok(());
            }
            threads.rows_mut(out, len, 4 * len, |first, out| {
                let input = &input[first * len..][..out.len()];
                match centre {
                    Centre::Mean => layer_norm(input, out, len, scale, bias, epsilon, RowMoments::default()),
                    Centre::Zero => rms_norm(input, out, len, scale, epsilon),
                }
            });
            Ok(())
        }))
    }

    /// For a scale or bias that is not one value per column: normalises first, then scales element by element.
    fn cpu_broadcast(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let x = ctx.input(0)?.shape.clone();
        let (_, len) = self.rows(&x)?;
        let walk = |desc: Option<&TensorDesc>| desc.and_then(|desc| broadcast_strides(&x, &desc.shape));
        let (scale, bias) = (walk(ctx.optional_input(1)), walk(optional(ctx, 2)));
        let (epsilon, centre) = (self.epsilon, self.centre);
        let place = move |strides: &[usize], index: usize, x: &[usize]| {
            let mut rest = index;
            let mut place = 0;
            for axis in (0..x.len()).rev() {
                place += rest % x[axis] * strides[axis];
                rest /= x[axis];
            }
            place
        };
        Ok(CpuKernel::compute("row_norm_broadcast_f32", move |io| {
            let KernelIo { inputs, outputs, .. } = io;
            let input = inputs.get::<f32>(0)?;
            let mut wanted = |index: usize| -> Result<Option<&mut [f32]>> {
                if outputs.has(index) {
                    outputs.take(index).map(Some)
                } else {
                    Ok(None)
                }
            };
            let moments = RowMoments {
                mean: wanted(1)?,
                inverse_deviation: wanted(2)?,
            };
            let Some(out) = wanted(0)? else {
                return Err(Error::internal("a normalisation without its first output"));
            };
            match centre {
                Centre::Mean => layer_norm(input, out, len, None, None, epsilon, moments),
                Centre::Zero => rms_norm(input, out, len, None, epsilon),
            }
            if let Some(strides) = &scale {
                let scale = inputs.get::<f32>(1)?;
                for (index, value) in out.iter_mut().enumerate() {
                    *value *= scale[place(strides, index, &x)];
                }
            }
            if let Some(strides) = &bias {
                let bias = inputs.get::<f32>(2)?;
                for (index, value) in out.iter_mut().enumerate() {
                    *value += bias[place(strides, index, &x)];
                }
            }
            Ok(())
        }))
    }

    fn cpu_f64(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let x = ctx.input(0)?.shape.clone();
        let (rows, len) = self.rows(&x)?;
        let walk = |desc: Option<&TensorDesc>| desc.and_then(|desc| broadcast_strides(&x, &desc.shape));
        for desc in [ctx.optional_input(1), optional(ctx, 2)].into_iter().flatten() {
            self.is_per_column(&x, &desc.shape)?;
        }
        let (scale, bias) = (walk(ctx.optional_input(1)), walk(optional(ctx, 2)));
        let (epsilon, centre, stash) = (f64::from(self.epsilon), self.centre, self.stash);
        Ok(CpuKernel::compute("row_norm_f64", move |io| {
            let KernelIo { inputs, outputs, .. } = io;
            let input = inputs.get::<f64>(0)?;
            let affine = |strides: &Option<Vec<usize>>, index: usize| -> Result<Option<(Vec<usize>, &[f64])>> {
                match strides {
                    Some(strides) => Ok(Some((strides.clone(), inputs.get::<f64>(index)?))),
                    None => Ok(None),
                }
            };
            let (scale, bias) = (affine(&scale, 1)?, affine(&bias, 2)?);
            let at = |operand: &Option<(Vec<usize>, &[f64])>, index: usize, neutral: f64| {
                let Some((strides, values)) = operand else {
                    return neutral;
                };
                let (mut rest, mut place) = (index, 0);
                for axis in (0..x.len()).rev() {
                    place += rest % x[axis] * strides[axis];
                    rest /= x[axis];
                }
                values[place]
            };
            let out = outputs.take::<f64>(0)?;
            let mut means = vec![0.0; rows];
            let mut factors = vec![0.0; rows];
            for row in 0..rows {
                let values = &input[row * len..(row + 1) * len];
                let (mean, factor) = moments_f64(values, centre, epsilon);
                (means[row], factors[row]) = (mean, factor);
                for (column, value) in values.iter().enumerate() {
                    let index = row * len + column;
                    out[index] = (value - mean) * factor * at(&scale, index, 1.0) + at(&bias, index, 0.0);
                }
            }
            for (index, values) in [(1, means), (2, factors)] {
                if outputs.has(index) {
                    write_statistics(outputs, index, stash, &values)?;
                }
            }
            Ok(())
        }))
    }
}

/// Writes f64 statistics in the type that they are stashed in.
fn write_statistics(
    outputs: &mut crate::cpu::kernel::KernelOutputs<'_>,
    index: usize,
    stash: DType,
    values: &[f64],
) -> Result<()> {
    match stash {
        DType::BF16 => {
            let out = outputs.take::<half::bf16>(index)?;
            out.iter_mut()
                .zip(values)
                .for_each(|(out, &value)| *out = half::bf16::from_f64(value));
        }
        _ => {
            let out = outputs.take::<f32>(index)?;
            out.iter_mut().zip(values).for_each(|(out, &value)| *out = value as f32);
        }
    }
    Ok(())
}

/// The mean that is taken off (0 for a root mean square), and the factor that gives unit variance.
fn moments_f64(values: &[f64], centre: Centre, epsilon: f64) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = match centre {
        Centre::Mean => values.iter().sum::<f64>() / count,
        Centre::Zero => 0.0,
    };
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// An optional input of the operator itself.
fn optional<'a>(ctx: &CpuLowering<'a>, index: usize) -> Option<&'a TensorDesc> {
    ctx.optional_input(index).filter(|_| index < ctx.input_count())
}

/// The type that statistics are kept in; they are computed in f32 at least.
fn stash_type(node: &Node) -> Result<DType> {
    match node.attributes.int("stash_type")? {
        None | Some(1) => Ok(DType::F32),
        Some(16) => Ok(DType::BF16),
        Some(other) => Err(
            Error::new(ErrorCode::UnsupportedOperator, "this stash_type is not supported")
                .expected("1 (float32) or 16 (bfloat16)")
                .actual(other.to_string()),
        ),
    }
}

impl Operator for RowNorm {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.copy_type(0, 0)?;
        if self.centre == Centre::Zero {
            if let Some(rank) = ctx.rank(0) {
                resolve_axis(self.axis, rank)?;
            }
            // The result has the scale's type.
            let (dtype, shape) = (ctx.dtype(1)?, ctx.shape(0).map(<[Dim]>::to_vec));
            ctx.set_output(0, dtype, shape);
            return Ok(());
        }
        let statistics = match ctx.shape(0) {
            None => None,
            Some(shape) => {
                let axis = resolve_axis(self.axis, shape.len())?;
                let ones = shape[axis..].iter().map(|_| Dim::from(1));
                Some(shape[..axis].iter().cloned().chain(ones).collect::<Vec<Dim>>())
            }
        };
        ctx.set_output(1, self.stash, statistics.clone());
        ctx.set_output(2, self.stash, statistics);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (dtype, scale) = (ctx.input(0)?.dtype, ctx.input(1)?.dtype);
        if dtype != scale && dtype.is_float() && scale.is_float() {
            let wide = match (dtype, scale) {
                (DType::F64, _) | (_, DType::F64) => DType::F64,
                _ => DType::F32,
            };
            return converted(
                ctx,
                |dtype| if dtype.is_float() { wide } else { dtype },
                |ctx| self.cpu(ctx),
            );
        }
        match dtype {
            DType::F32 if self.stash == DType::F32 => self.cpu_f32(ctx),
            DType::F32 | DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_f64(ctx),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let x = ctx.input(0)?;
        let (scale, bias) = (
            ctx.optional_input(1),
            ctx.optional_input(2).filter(|_| ctx.input_count() > 2),
        );
        let descs = [Some(x), scale, bias];
        let statistics = [1, 2].map(|index| ctx.optional_output(index).is_some());
        if (statistics != [false; 2] && self.stash != DType::F32)
            || descs.into_iter().flatten().any(|desc| desc.dtype != DType::F32)
        {
            return Ok(None);
        }
        for desc in [scale, bias].into_iter().flatten() {
            if !self.is_per_column(&x.shape, &desc.shape)? {
                return Ok(None);
            }
        }
        let (rows, len) = self.rows(&x.shape)?;
        let layout = ScaleLayout::per_column();
        let binding = |desc: Option<&TensorDesc>, index| desc.map(|_| Binding::Input(index));
        let (scale, bias) = (binding(scale, 1), binding(bias, 2));
        Ok(reduce::normalize(
            self.centre,
            rows,
            len,
            self.epsilon,
            layout,
            scale,
            bias,
            statistics,
            None,
            ctx.caps,
        ))
    }
}

/// `InstanceNormalization` (since opset 1) and `GroupNormalization` (since 18: scale and bias per group; since 21: per
/// channel) of X `[n, c, ..]`. Floats.
#[derive(Debug)]
pub struct GroupNorm {
    epsilon: f32,
    /// `None`: one for each channel.
    groups: Option<usize>,
    /// Whether scale and bias have one value for each group instead of each channel.
    scale_per_group: bool,
}

impl GroupNorm {
    /// ONNX `InstanceNormalization`.
    pub fn instance(node: &Node) -> Result<Box<dyn Operator>> {
        Ok(Box::new(GroupNorm {
            epsilon: node.attributes.float("epsilon")?.unwrap_or(1e-5),
            groups: None,
            scale_per_group: false,
        }))
    }

    /// ONNX `GroupNormalization`.
    pub fn group(node: &Node) -> Result<Box<dyn Operator>> {
        let groups = node.attributes.int("num_groups")?.unwrap_or(0);
        let groups = usize::try_from(groups)
            .ok()
            .filter(|&groups| groups > 0)
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidGraph,
                    "attribute num_groups is missing or out of range",
                )
                .expected("at least 1")
                .actual(groups.to_string())
            })?;
        // Computing in f32 at least is what both stash types allow.
        stash_type(node)?;
        Ok(Box::new(GroupNorm {
            epsilon: node.attributes.float("epsilon")?.unwrap_or(1e-5),
            groups: Some(groups),
            scale_per_group: node.operator.version < 21,
        }))
    }

    /// `[n, c, volume]` and the number of groups, with scale and bias checked.
    fn sizes(&self, x: &TensorDesc, affine: [&TensorDesc; 2]) -> Result<([usize; 3], usize)> {
        let [batch, channels, spatial @ ..] = &x.shape[..] else {
            return Err(rank_error(0, "at least 2", x.shape.len()));
        };
        let groups = self.groups.unwrap_or(*channels);
        if groups > 0 && !channels.is_multiple_of(groups) {
            return Err(
                Error::new(ErrorCode::ShapeMismatch, "num_groups does not divide the channels")
                    .expected(format!("a multiple of {groups}"))
                    .actual(channels.to_string()),
            );
        }
        let count = if self.scale_per_group { groups } else { *channels };
        for (index, desc) in affine.into_iter().enumerate() {
            if desc.shape != [count] {
                return Err(Error::new(
                    ErrorCode::ShapeMismatch,
                    format!("input {} has the wrong shape", index + 1),
                )
                .expected(format!("[{count}]"))
                .actual(display_shape(&desc.shape)));
            }
        }
        Ok(([*batch, *channels, spatial.iter().product()], groups))
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (sizes, groups) = self.sizes(ctx.input(0)?, [ctx.input(1)?, ctx.input(2)?])?;
        let epsilon = self.epsilon;
        let [_, channels, volume] = sizes;
        // One value per group becomes one per channel in scratch memory.
        let repeated = if self.scale_per_group { channels } else { 0 };
        Ok(CpuKernel::compute_with_scratch(
            "group_norm_f32",
            repeated * 2 * 4,
            move |io| {
                let KernelIo {
                    inputs,
                    outputs,
                    scratch,
                    threads,
                } = io;
                let (input, out) = (inputs.get::<f32>(0)?, outputs.take::<f32>(0)?);
                let (mut scale, mut bias) = (inputs.get::<f32>(1)?, inputs.get::<f32>(2)?);
                let (wide_scale, wide_bias) = scratch_as_f32(scratch).split_at_mut(repeated);
                if repeated > 0 {
                    for channel in 0..channels {
                        let group = channel / (channels / groups);
                        (wide_scale[channel], wide_bias[channel]) = (scale[group], bias[group]);
                    }
                    (scale, bias) = (wide_scale, wide_bias);
                }
                let per_group = channels / groups.max(1);
                let block = per_group * volume;
                threads.rows_mut(out, block, 4 * block, |first, out| {
                    for (index, out) in out.chunks_exact_mut(block).enumerate() {
                        let (group, channel) = (first + index, (first + index) % groups * per_group);
                        let (input, scale, bias) = (&input[group * block..], &scale[channel..], &bias[channel..]);
                        group_norm(input, out, [1, per_group, volume], 1, scale, bias, epsilon);
                    }
                });
                Ok(())
            },
        ))
    }

    fn cpu_f64(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let ([batch, channels, volume], groups) = self.sizes(ctx.input(0)?, [ctx.input(1)?, ctx.input(2)?])?;
        let (epsilon, per_group) = (f64::from(self.epsilon), self.scale_per_group);
        Ok(CpuKernel::compute("group_norm_f64", move |io| {
            let (input, out) = (io.inputs.get::<f64>(0)?, io.outputs.take::<f64>(0)?);
            let (scale, bias) = (io.inputs.get::<f64>(1)?, io.inputs.get::<f64>(2)?);
            if batch * channels * volume == 0 {
                return Ok(());
            }
            let group_len = channels / groups * volume;
            for (row, (values, out)) in input
                .chunks_exact(group_len)
                .zip(out.chunks_exact_mut(group_len))
                .enumerate()
            {
                let (mean, factor) = moments_f64(values, Centre::Mean, epsilon);
                for (index, (value, out)) in values.iter().zip(out).enumerate() {
                    let group = row % groups;
                    let place = if per_group {
                        group
                    } else {
                        group * (channels / groups) + index / volume
                    };
                    *out = (value - mean) * factor * scale[place] + bias[place];
                }
            }
            Ok(())
        }))
    }
}

impl Operator for GroupNorm {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(rank) = ctx.rank(0)
            && rank < 2
        {
            return Err(rank_error(0, "at least 2", rank));
        }
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match ctx.input(0)?.dtype {
            DType::F32 => self.cpu_f32(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_f64(ctx),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (x, scale, bias) = (ctx.input(0)?, ctx.input(1)?, ctx.input(2)?);
        if self.scale_per_group || [x, scale, bias].into_iter().any(|desc| desc.dtype != DType::F32) {
            return Ok(None);
        }
        let ([batch, channels, volume], groups) = self.sizes(x, [scale, bias])?;
        if groups == 0 {
            return Ok(None);
        }
        Ok(reduce::normalize(
            Centre::Mean,
            batch * groups,
            channels / groups * volume,
            self.epsilon,
            ScaleLayout::per_group(channels, groups, volume),
            Some(Binding::Input(1)),
            Some(Binding::Input(2)),
            [false; 2],
            None,
            ctx.caps,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use super::*;
    use crate::{cpu::testing::Rng, tensor::Tensor};

    fn wide(t: &Tensor) -> Tensor {
        let values: Vec<f64> = t.to_f32s().unwrap().iter().map(|&v| v.into()).collect();
        tensor(t.shape(), &values)
    }

    fn narrow(t: &Tensor) -> Tensor {
        f32s(t.shape(), &t.to_f32s().unwrap())
    }

    #[test]
    fn layer_normalization_of_two_rows_by_hand() {
        let x = f32s(&[2, 2], &[1.0, 3.0, -2.0, 2.0]);
        let node = TestNode::new("LayerNormalization", 17)
            .attr("epsilon", 0.0f32)
            .outputs(3)
            .input(x)
            .constant(f32s(&[2], &[2.0, 3.0]))
            .constant(f32s(&[2], &[0.5, -0.5]));
        let outputs = node.run().unwrap();
        assert_tensor_close(&outputs[0], &f32s(&[2, 2], &[-1.5, 2.5, -1.5, 2.5]), 1e-6);
        assert_tensor_close(&outputs[1], &f32s(&[2, 1], &[2.0, 0.0]), 1e-6);
        assert_tensor_close(&outputs[2], &f32s(&[2, 1], &[1.0, 0.5]), 1e-6);
        assert_eq!(node.wanted(&[true, false, false]).run().unwrap()[0], outputs[0]);
    }

    #[test]
    fn rms_normalization_gives_the_scale_s_type() {
        let node = TestNode::new("RMSNormalization", 23)
            .attr("epsilon", 0.0f32)
            .input(f32s(&[2], &[3.0, -3.0]))
            .input(tensor(&[2], &[1.0f64, 2.0]));
        assert_eq!(node.run1().unwrap(), tensor(&[2], &[1.0f64, -2.0]));
    }

    #[test]
    fn f32_agrees_with_f64_for_every_axis_and_broadcast() {
        let mut rng = Rng::new(81);
        let shape = [2, 3, 5];
        for operator in ["LayerNormalization", "RMSNormalization"] {
            for axis in -3i64..3 {
                let start = if axis < 0 { axis + 3 } else { axis } as usize;
                for affine in [&shape[start..], &[1][..], &[2, 1, 5], &shape] {
                    let mut random = |shape: &[usize]| f32s(shape, &rng.vec(shape.iter().product()));
                    let (x, scale, bias) = (random(&shape), random(affine), random(affine));
                    let node = TestNode::new(operator, 23).attr("axis", axis);
                    let feed = |node: TestNode, form: fn(&Tensor) -> Tensor| {
                        let node = node.input(form(&x)).input(form(&scale));
                        if operator == "LayerNormalization" {
                            node.input(form(&bias)).outputs(3)
                        } else {
                            node
                        }
                    };
                    let expected = feed(node.clone(), wide).run().unwrap();
                    let node = feed(node, Tensor::clone);
                    if affine == &shape[start..] {
                        node.clone().outputs(1).assert_gpu_agrees(1e-5);
                    }
                    let results = node.run().unwrap();
                    for (result, expected) in results.iter().zip(&expected) {
                        assert_tensor_close(result, &narrow(expected), 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn stashed_statistics_have_the_type_asked_for() {
        let x = tensor(&[1, 2], &[1.0f32, 3.0].map(half::f16::from_f32));
        let scale = tensor(&[2], &[1.0f32, 1.0].map(half::f16::from_f32));
        for (stash, dtype) in [(1i64, DType::F32), (16, DType::BF16)] {
            let node = TestNode::new("LayerNormalization", 17)
                .attr("stash_type", stash)
                .outputs(2)
                .input(x.clone())
                .input(scale.clone());
            let outputs = node.run().unwrap();
            assert_eq!(outputs[0].dtype(), DType::F16);
            assert_eq!(outputs[1].dtype(), dtype);
            assert_eq!(*outputs[1].to_f32s().unwrap(), [2.0]);
        }
        let x = f32s(&[1, 2], &[1.0, 3.0]);
        let node = TestNode::new("LayerNormalization", 17)
            .input(x.clone())
            .input(f32s(&[2], &[1.0, 1.0]));
        assert_eq!(
            node.clone().attr("stash_type", 7i64).run().unwrap_err().code(),
            ErrorCode::UnsupportedOperator
        );
        let stashed = node.attr("stash_type", 16i64).outputs(2).run().unwrap();
        assert_eq!(*stashed[1].to_f32s().unwrap(), [2.0]);
    }

    #[test]
    fn instances_and_groups_agree_with_f64_and_with_each_other() {
        let mut rng = Rng::new(82);
        for shape in [&[2, 4, 3][..], &[1, 4, 2, 3], &[2, 4], &[0, 4, 3]] {
            let mut random = |shape: &[usize]| f32s(shape, &rng.vec(shape.iter().product()));
            let (x, scale, bias) = (random(shape), random(&[4]), random(&[4]));
            for (operator, version, groups) in [
                ("InstanceNormalization", 6, 4),
                ("GroupNormalization", 21, 2),
                ("GroupNormalization", 18, 4),
            ] {
                let node = TestNode::new(operator, version).attr("num_groups", groups as i64);
                let expected = node
                    .clone()
                    .input(wide(&x))
                    .input(wide(&scale))
                    .input(wide(&bias))
                    .run1()
                    .unwrap();
                let node = node.input(x.clone()).input(scale.clone()).input(bias.clone());
                assert_tensor_close(&node.run1().unwrap(), &narrow(&expected), 1e-5);
                if version != 18 {
                    node.assert_gpu_agrees(1e-5);
                }
            }
        }
    }

    #[test]
    fn opset_18_scales_groups_and_opset_21_channels() {
        let x = f32s(&[1, 4, 1], &[0.0, 2.0, 4.0, 8.0]);
        let node = |version, scale: &[f32], bias: &[f32]| {
            TestNode::new("GroupNormalization", version)
                .attr("num_groups", 2i64)
                .attr("epsilon", 0.0f32)
                .input(x.clone())
                .input(f32s(&[scale.len()], scale))
                .input(f32s(&[bias.len()], bias))
        };
        let result = node(18, &[1.0, 2.0], &[0.0, 1.0]).run1().unwrap();
        assert_tensor_close(&result, &f32s(&[1, 4, 1], &[-1.0, 1.0, -1.0, 3.0]), 1e-6);
        let result = node(21, &[1.0, 2.0, 3.0, 4.0], &[0.0; 4]).run1().unwrap();
        assert_tensor_close(&result, &f32s(&[1, 4, 1], &[-1.0, 2.0, -3.0, 4.0]), 1e-6);
        assert_eq!(
            node(21, &[1.0, 2.0], &[0.0; 2]).run1().unwrap_err().code(),
            ErrorCode::ShapeMismatch
        );
        let uneven = node(21, &[1.0; 4], &[0.0; 4]).attr("num_groups", 3i64);
        assert_eq!(uneven.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
        assert!(node(21, &[1.0; 4], &[0.0; 4]).attr("num_groups", 0i64).run1().is_err());
    }
}
