//! ONNX's other normalisations: `BatchNormalization`, `LRN`, `LpNormalization` and `MeanVarianceNormalization`.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator,
    context::rank_error,
    of_larger_build,
    widen::{converted, widened},
};
use crate::{
    cpu::{
        kernel::{CpuKernel, KernelIo, scratch_as_f32},
        norm::{LocalResponse, batch_norm_affine, channel_affine, local_response_norm},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::GpuKernel,
        kernels::{
            elementwise::{self, Input},
            lines,
        },
        wgsl::DispatchBuilder,
    },
    graph::Node,
    tensor::{DType, display_shape, resolve_axes, resolve_axis},
};

/// ONNX `BatchNormalization` of X `[n, c, ..]` (or `[n]`, with one channel) with scale, bias, mean and variance per
/// channel; with `spatial` 0 (opsets 1 to 8) per element of `[c, ..]`. Floats.
///
/// With `training_mode` (since opset 14) by the batch's own mean and variance, giving the running ones as further
/// outputs. Before opset 14 it is such outputs that mean training, and the batch's own statistics follow them; opsets 1
/// to 6 say `is_test`, whose default of 0 counts as inference when only Y is asked for.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    epsilon: f32,
    momentum: f32,
    per_element: bool,
    trains: bool,
}

impl BatchNorm {
    /// Reads the attributes.
    pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        let version = node.operator.version;
        let further = (1..node.outputs.len()).any(|index| node.output(index).is_some());
        if version < 7 && further && attributes.flag("is_test", false)? {
            return Err(Error::new(
                ErrorCode::InvalidGraph,
                "BatchNormalization that does not train has one output",
            ));
        }
        let trains = match version {
            ..14 => further,
            _ => attributes.flag("training_mode", false)?,
        };
        if trains && !ALL_OPERATORS {
            return Err(of_larger_build("BatchNormalization that trains"));
        }
        Ok(Box::new(BatchNorm {
            epsilon: attributes.float("epsilon")?.unwrap_or(1e-5),
            momentum: attributes.float("momentum")?.unwrap_or(0.9),
            per_element: version < 9 && !attributes.flag("spatial", true)?,
            trains,
        }))
    }

    /// X as `[n, channels, volume]`, where every channel has its own scale.
    fn sizes(&self, ctx: &CpuLowering<'_>) -> Result<[usize; 3]> {
        let x = &ctx.input(0)?.shape;
        let (sizes, expected) = match &x[..] {
            [] => return Err(rank_error(0, "at least 1", 0)),
            [n] => ([*n, 1, 1], vec![1]),
            [n, rest @ ..] if self.per_element => ([*n, rest.iter().product(), 1], rest.to_vec()),
            [n, channels, rest @ ..] => ([*n, *channels, rest.iter().product()], vec![*channels]),
        };
        for index in 1..5 {
            let shape = &ctx.input(index)?.shape;
            if *shape != expected {
                return Err(
                    Error::new(ErrorCode::ShapeMismatch, format!("input {index} has the wrong shape"))
                        .expected(display_shape(&expected))
                        .actual(display_shape(shape)),
                );
            }
        }
        Ok(sizes)
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let sizes = self.sizes(ctx)?;
        let (epsilon, channels) = (self.epsilon, sizes[1]);
        Ok(CpuKernel::compute_with_scratch(
            "batch_norm_f32",
            channels * 2 * 4,
            move |io| {
                let KernelIo {
                    inputs,
                    outputs,
                    scratch,
                    threads,
                } = io;
                let (factor, shift) = scratch_as_f32(scratch).split_at_mut(channels);
                let [scale, bias, mean, variance] = [inputs.get(1)?, inputs.get(2)?, inputs.get(3)?, inputs.get(4)?];
                batch_norm_affine(scale, bias, mean, variance, epsilon, factor, shift);
                let (input, [_, channels, volume]) = (inputs.get::<f32>(0)?, sizes);
                threads.rows_mut(outputs.take(0)?, volume, 2 * volume, |first, out| {
                    for (index, out) in out.chunks_exact_mut(volume).enumerate() {
                        let (plane, channel) = (first + index, (first + index) % channels);
                        let input = &input[plane * volume..];
                        channel_affine(input, out, [1, 1, volume], &factor[channel..], &shift[channel..]);
                    }
                });
                Ok(())
            },
        ))
    }

    /// Normalises by the batch's own statistics, kept in f64; `T` is X's type, and that of everything else.
    fn cpu_training<T: Real>(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let [batch, channels, volume] = self.sizes(ctx)?;
        let rule = *self;
        Ok(CpuKernel::compute("batch_norm_training", move |io| {
            let KernelIo { inputs, outputs, .. } = io;
            let input = inputs.get::<T>(0)?;
            let [scale, bias] = [inputs.get::<T>(1)?, inputs.get::<T>(2)?];
            let running = [inputs.get::<T>(3)?, inputs.get::<T>(4)?];
            let mut taken = |index: usize| -> Result<Option<&mut [T]>> {
                if outputs.has(index) {
                    outputs.take(index).map(Some)
                } else {
                    Ok(None)
                }
            };
            let mut results = [taken(0)?, taken(1)?, taken(2)?, taken(3)?, taken(4)?];
            let count = (batch * volume) as f64;
            for channel in 0..channels {
                let planes = || (0..batch).map(|image| (image * channels + channel) * volume);
                let sum = |f: &dyn Fn(f64) -> f64| -> f64 {
                    planes()
                        .map(|at| input[at..at + volume].iter().map(|x| f(x.wide())).sum::<f64>())
                        .sum()
                };
                let mean = sum(&|x| x) / count;
                let variance = sum(&|x| (x - mean).powi(2)) / count;
                let factor = scale[channel].wide() / (variance + f64::from(rule.epsilon)).sqrt();
                if let Some(out) = &mut results[0] {
                    for at in planes() {
                        for (value, x) in out[at..at + volume].iter_mut().zip(&input[at..at + volume]) {
                            *value = T::narrow((x.wide() - mean) * factor + bias[channel].wide());
                        }
                    }
                }
                let momentum = f64::from(rule.momentum);
                for (index, current) in [(1, mean), (2, variance)] {
                    if let Some(out) = &mut results[index] {
                        let before = running[index - 1][channel].wide();
                        out[channel] = T::narrow(before * momentum + current * (1.0 - momentum));
                    }
                    if let Some(out) = &mut results[index + 2] {
                        out[channel] = T::narrow(current);
                    }
                }
            }
            Ok(())
        }))
    }

    fn cpu_f64(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let [_, channels, volume] = self.sizes(ctx)?;
        let epsilon = f64::from(self.epsilon);
        Ok(CpuKernel::compute("batch_norm_f64", move |io| {
            let (input, out) = (io.inputs.get::<f64>(0)?, io.outputs.take::<f64>(0)?);
            let parameters = [1, 2, 3, 4].map(|index| io.inputs.get::<f64>(index));
            let [scale, bias, mean, variance] = parameters;
            let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
            for (index, (value, out)) in input.iter().zip(out).enumerate() {
                let channel = index / volume % channels;
                let centred = (value - mean[channel]) / (variance[channel] + epsilon).sqrt();
                *out = centred * scale[channel] + bias[channel];
            }
            Ok(())
        }))
    }
}

impl Operator for BatchNorm {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if self.trains {
            for (statistic, output) in [(3, 1), (4, 2), (3, 3), (4, 4)] {
                ctx.copy_type(statistic, output)?;
            }
        }
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        // Scale and statistics may have other types (opset 15); those of half-precision inputs are mostly wider.
        for index in 1..5 {
            let other = ctx.input(index)?.dtype;
            let wider = matches!(dtype, DType::F16 | DType::BF16) && other.is_float() && other != DType::F64;
            if !other.is_float() {
                return Err(ctx.unsupported_type(index));
            }
            if other != dtype && !wider {
                return converted(
                    ctx,
                    |dtype| if dtype.is_float() { DType::F64 } else { dtype },
                    |ctx| self.cpu(ctx),
                );
            }
        }
        match (dtype, self.trains) {
            (DType::F32, false) => self.cpu_f32(ctx),
            (_, true) if !ALL_OPERATORS => Err(of_larger_build("training")),
            (DType::F32, true) => self.cpu_training::<f32>(ctx),
            (DType::F16 | DType::BF16, false) => widened(ctx, |ctx| self.cpu_f32(ctx)),
            (DType::F16 | DType::BF16, true) => widened(ctx, |ctx| self.cpu_training::<f32>(ctx)),
            (DType::F64, _) if !ALL_OPERATORS => Err(of_larger_build("float64")),
            (DType::F64, false) => self.cpu_f64(ctx),
            (DType::F64, true) => self.cpu_training::<f64>(ctx),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let shape = &ctx.input(0)?.shape;
        let f32_only = (0..5).all(|index| ctx.optional_input(index).is_some_and(|desc| desc.dtype == DType::F32));
        if self.trains || self.per_element || !f32_only || shape.is_empty() {
            return Ok(None);
        }
        let channels = shape.get(1).copied().unwrap_or(1);
        let mut of_channel = vec![1; shape.len().saturating_sub(1).max(1)];
        of_channel[0] = channels;
        if (1..5).any(|index| ctx.inputs[index].as_ref().is_none_or(|desc| desc.shape != [channels])) {
            return Ok(None);
        }
        let input = |index: usize| Input {
            index,
            ty: "f32",
            shape: if index == 0 { shape } else { &of_channel },
        };
        let inputs = [input(0), input(1), input(2), input(3), input(4)];
        let value = "(x0 - x3) * (x1 / sqrt(x4 + params.epsilon)) + x2";
        let prepare = |dispatch: DispatchBuilder| dispatch.param_f32("epsilon", self.epsilon);
        Ok(elementwise::kernel(value, &inputs, "f32", shape, prepare, ctx.caps))
    }
}

/// ONNX `LRN` (since opset 1): local response normalisation over `size` neighbouring channels of X `[n, c, ..]`. Floats.
#[derive(Debug)]
pub struct Lrn(LocalResponse);

impl Lrn {
    /// Reads the attributes.
    pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        let size = attributes.int("size")?.unwrap_or(0);
        let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or_else(|| {
            Error::new(ErrorCode::InvalidGraph, "attribute size is missing or out of range")
                .expected("at least 1")
                .actual(size.to_string())
        })?;
        Ok(Box::new(Lrn(LocalResponse {
            size,
            alpha: attributes.float("alpha")?.unwrap_or(1e-4),
            beta: attributes.float("beta")?.unwrap_or(0.75),
            bias: attributes.float("bias")?.unwrap_or(1.0),
        })))
    }

    fn sizes(ctx: &CpuLowering<'_>) -> Result<[usize; 3]> {
        match &ctx.input(0)?.shape[..] {
            [n, channels, rest @ ..] => Ok([*n, *channels, rest.iter().product()]),
            other => Err(rank_error(0, "at least 2", other.len())),
        }
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (sizes, parameters) = (Lrn::sizes(ctx)?, self.0);
        Ok(CpuKernel::compute("lrn_f32", move |io| {
            let (input, out) = (io.inputs.get(0)?, io.outputs.take(0)?);
            local_response_norm(input, out, sizes, parameters, io.threads);
            Ok(())
        }))
    }

    fn cpu_f64(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let ([_, channels, volume], parameters) = (Lrn::sizes(ctx)?, self.0);
        let before = (parameters.size - 1) / 2;
        let after = parameters.size - 1 - before;
        Ok(CpuKernel::compute("lrn_f64", move |io| {
            let (input, out) = (io.inputs.get::<f64>(0)?, io.outputs.take::<f64>(0)?);
            for (index, value) in out.iter_mut().enumerate() {
                let (channel, place) = (index / volume % channels, index % volume);
                let image = index / volume / channels * channels * volume;
                let near =
                    channel.saturating_sub(before)..channels.min(channel.saturating_add(after).saturating_add(1));
                let sum: f64 = near.map(|c| input[image + c * volume + place].powi(2)).sum();
                let base = f64::from(parameters.bias) + f64::from(parameters.alpha) / parameters.size as f64 * sum;
                *value = input[index] * base.powf(-f64::from(parameters.beta));
            }
            Ok(())
        }))
    }
}

impl Operator for Lrn {
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
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let x = ctx.input(0)?;
        let LocalResponse {
            size,
            alpha,
            beta,
            bias,
        } = self.0;
        Ok(match &x.shape[..] {
            [n, channels, rest @ ..] if x.dtype == DType::F32 => lines::local_response(
                [*n, *channels, rest.iter().product()],
                size,
                [alpha, beta, bias],
                ctx.caps,
            ),
            _ => None,
        })
    }
}

/// Elements that are normalised together, over any set of axes: `LpNormalization` and `MeanVarianceNormalization`
/// (since opsets 1 and 9), of floats.
#[derive(Debug)]
pub struct AxesNorm {
    rule: Rule,
    axes: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// `x / Σ |x|`, 0 where the norm is 0.
    L1,
    /// `x / √ Σ x²`, 0 where the norm is 0.
    L2,
    /// `(x - mean) / (√variance + 1e-9)`.
    MeanVariance,
}

impl AxesNorm {
    /// ONNX `LpNormalization`.
    pub fn lp(node: &Node) -> Result<Box<dyn Operator>> {
        let rule = match node.attributes.int("p")? {
            Some(1) => Rule::L1,
            None | Some(2) => Rule::L2,
            Some(other) => {
                return Err(Error::new(ErrorCode::InvalidGraph, "attribute p is out of range")
                    .expected("1 or 2")
                    .actual(other.to_string()));
            }
        };
        let axes = vec![node.attributes.int("axis")?.unwrap_or(-1)];
        Ok(Box::new(AxesNorm { rule, axes }))
    }

    /// ONNX `MeanVarianceNormalization`.
    pub fn mean_variance(node: &Node) -> Result<Box<dyn Operator>> {
        let axes = node.attributes.ints("axes")?.unwrap_or(&[0, 2, 3]).to_vec();
        Ok(Box::new(AxesNorm {
            rule: Rule::MeanVariance,
            axes,
        }))
    }

    fn cpu_of<T: Real>(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let shape = ctx.input(0)?.shape.clone();
        let mut groups = vec![0; shape.len()];
        let mut count = 1;
        let together = match self.rule {
            Rule::L1 | Rule::L2 => vec![resolve_axis(self.axes[0], shape.len())?],
            Rule::MeanVariance => resolve_axes(&self.axes, shape.len())?,
        };
        for axis in (0..shape.len()).rev().filter(|axis| !together.contains(axis)) {
            groups[axis] = count;
            count *= shape[axis];
        }
        let size: usize = together.iter().map(|&axis| shape[axis]).product();
        let rule = self.rule;
        // Sums are kept in f64: two for each group.
        Ok(CpuKernel::compute_with_scratch("axes_norm", count * 2 * 8, move |io| {
            let (input, out) = (io.inputs.get::<T>(0)?, io.outputs.take::<T>(0)?);
            let sums: &mut [f64] = bytemuck::try_cast_slice_mut(&mut io.scratch[..count * 2 * 8])
                .map_err(|reason| Error::internal(format!("scratch memory: {reason}")))?;
            sums.fill(0.0);
            let (means, spreads) = sums.split_at_mut(count);
            if rule == Rule::MeanVariance {
                for_groups(&shape, &groups, |index, group| means[group] += input[index].wide());
                means.iter_mut().for_each(|mean| *mean /= size as f64);
            }
            for_groups(&shape, &groups, |index, group| {
                let value = input[index].wide() - means[group];
                spreads[group] += if rule == Rule::L1 { value.abs() } else { value * value };
            });
            for spread in spreads.iter_mut() {
                *spread = match rule {
                    Rule::L1 => *spread,
                    Rule::L2 => spread.sqrt(),
                    Rule::MeanVariance => (*spread / size as f64).sqrt() + 1e-9,
                };
            }
            for_groups(&shape, &groups, |index, group| {
                let spread = spreads[group];
                let value = input[index].wide() - means[group];
                out[index] = T::narrow(if spread == 0.0 { 0.0 } else { value / spread });
            });
            Ok(())
        }))
    }
}

/// Calls `step(index, group)` for every element; `strides` gives each axis's step between groups.
fn for_groups(shape: &[usize], strides: &[usize], mut step: impl FnMut(usize, usize)) {
    let count: usize = shape.iter().product();
    let mut position = vec![0; shape.len()];
    let mut group = 0;
    for index in 0..count {
        step(index, group);
        for axis in (0..shape.len()).rev() {
            position[axis] += 1;
            group += strides[axis];
            if position[axis] < shape[axis] {
                break;
            }
            group -= strides[axis] * shape[axis];
            position[axis] = 0;
        }
    }
}

/// f32 and f64.
trait Real: crate::tensor::Element {
    fn wide(self) -> f64;
    fn narrow(value: f64) -> Self;
}

impl Real for f32 {
    fn wide(self) -> f64 {
        self.into()
    }

    fn narrow(value: f64) -> f32 {
        value as f32
    }
}

impl Real for f64 {
    fn wide(self) -> f64 {
        self
    }

    fn narrow(value: f64) -> f64 {
        value
    }
}

impl Operator for AxesNorm {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(rank) = ctx.rank(0) {
            resolve_axes(&self.axes, rank)?;
        }
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match ctx.input(0)?.dtype {
            DType::F32 => self.cpu_of::<f32>(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_of::<f32>(ctx)),
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_of::<f64>(ctx),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let x = ctx.input(0)?;
        if x.dtype != DType::F32 {
            return Ok(None);
        }
        let axes = resolve_axes(&self.axes, x.shape.len())?;
        if self.rule == Rule::MeanVariance {
            return Ok(lines::mean_variance(&x.shape, &axes, 1e-9, ctx.caps));
        }
        let (before, after) = (&x.shape[..axes[0]], &x.shape[axes[0] + 1..]);
        let sides = [before.iter().product(), x.shape[axes[0]], after.iter().product()];
        Ok(lines::lp_normalize(sides, self.rule == Rule::L2, ctx.caps))
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

    fn batch_norm(version: i64, x: Tensor, parameters: [&[f32]; 4], shape: &[usize]) -> TestNode {
        let node = TestNode::new("BatchNormalization", version)
            .attr("epsilon", 0.0f32)
            .input(x);
        parameters
            .into_iter()
            .fold(node, |node, values| node.constant(f32s(shape, values)))
    }

    #[test]
    fn batch_normalization_per_channel_per_element_and_of_one_axis() {
        let x = f32s(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let node = batch_norm(
            15,
            x.clone(),
            [&[2.0, 3.0], &[0.5, 0.0], &[1.0, 3.0], &[4.0, 1.0]],
            &[2],
        );
        assert_tensor_close(&node.run1().unwrap(), &f32s(&[1, 2, 2], &[0.5, 1.5, 0.0, 3.0]), 1e-6);
        let all = [1.0, 2.0, 3.0, 4.0];
        let node = batch_norm(7, x, [&all, &[0.0; 4], &[1.0; 4], &[1.0; 4]], &[2, 2]).attr("spatial", 0i64);
        assert_tensor_close(&node.run1().unwrap(), &f32s(&[1, 2, 2], &[0.0, 2.0, 6.0, 12.0]), 1e-6);
        let node = batch_norm(9, f32s(&[2], &[3.0, 5.0]), [&[1.0], &[0.0], &[3.0], &[4.0]], &[1]);
        assert_tensor_close(&node.run1().unwrap(), &f32s(&[2], &[0.0, 1.0]), 1e-6);
    }

    #[test]
    fn training_takes_the_batch_s_statistics_and_moves_the_running_ones() {
        let x = f32s(&[2, 1, 2], &[0.0, 2.0, 4.0, 6.0]);
        let node = batch_norm(15, x, [&[2.0], &[1.0], &[10.0], &[1.0]], &[1])
            .attr("training_mode", 1i64)
            .attr("momentum", 0.5f32)
            .outputs(3);
        let outputs = node.run().unwrap();
        let root = 5f32.sqrt();
        let expected = [-3.0, -1.0, 1.0, 3.0].map(|x| 2.0 * x / root + 1.0);
        assert_tensor_close(&outputs[0], &f32s(&[2, 1, 2], &expected), 1e-6);
        assert_tensor_close(&outputs[1], &f32s(&[1], &[6.5]), 1e-6);
        assert_tensor_close(&outputs[2], &f32s(&[1], &[3.0]), 1e-6);
    }

    #[test]
    fn statistics_may_have_another_type() {
        let x = tensor(&[1, 1, 2], &[1.0f64, 3.0]);
        let node = batch_norm(15, x, [&[2.0], &[1.0], &[1.0], &[4.0]], &[1]);
        assert_eq!(node.run1().unwrap(), tensor(&[1, 1, 2], &[1.0f64, 3.0]));
    }

    #[test]
    fn old_training_forms_and_wrong_shapes_are_errors() {
        let x = f32s(&[1, 1, 2], &[1.0, 2.0]);
        let one: [&[f32]; 4] = [&[1.0]; 4];
        let node = |version| {
            batch_norm(version, x.clone(), one, &[1])
                .attr("momentum", 0.5f32)
                .outputs(5)
        };
        let statistics: Vec<f32> = node(9).run().unwrap()[1..]
            .iter()
            .map(|tensor| tensor.to_f32s().unwrap()[0])
            .collect();
        assert_eq!(statistics, [1.25, 0.625, 1.5, 0.25]);
        let not_training = node(6).attr("is_test", 1i64);
        assert_eq!(not_training.run1().unwrap_err().code(), ErrorCode::InvalidGraph);
        let wrong = batch_norm(15, x, [&[1.0, 2.0]; 4], &[2]);
        assert_eq!(wrong.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
    }

    #[test]
    fn f32_agrees_with_f64() {
        let mut rng = Rng::new(91);
        let x = f32s(&[2, 5, 3, 4], &rng.vec(120));
        let parameters: Vec<Tensor> = (0..4)
            .map(|_| f32s(&[5], &rng.vec(5).iter().map(|v| v.abs()).collect::<Vec<_>>()))
            .collect();
        let mut nodes = vec![
            (TestNode::new("BatchNormalization", 15), parameters),
            (TestNode::new("MeanVarianceNormalization", 13), vec![]),
            (
                TestNode::new("MeanVarianceNormalization", 13).attr("axes", [1i64, -1]),
                vec![],
            ),
        ];
        for size in 1..8i64 {
            nodes.push((
                TestNode::new("LRN", 13)
                    .attr("size", size)
                    .attr("alpha", 0.5f32)
                    .attr("beta", 0.6f32),
                vec![],
            ));
        }
        for axis in -4i64..4 {
            nodes.push((
                TestNode::new("LpNormalization", 1)
                    .attr("axis", axis)
                    .attr("p", 1 + axis.rem_euclid(2)),
                vec![],
            ));
        }
        for (node, further) in nodes {
            let feed = |form: fn(&Tensor) -> Tensor| {
                further
                    .iter()
                    .fold(node.clone().input(form(&x)), |node, t| node.input(form(t)))
                    .run1()
                    .unwrap()
            };
            assert_tensor_close(&feed(Tensor::clone), &narrow(&feed(wide)), 1e-5);
        }
    }

    #[test]
    fn small_examples_by_hand() {
        let x = f32s(&[2, 2], &[3.0, 4.0, 0.0, 0.0]);
        let node = TestNode::new("LpNormalization", 1).input(x.clone());
        assert_tensor_close(
            &node.clone().run1().unwrap(),
            &f32s(&[2, 2], &[0.6, 0.8, 0.0, 0.0]),
            1e-6,
        );
        let l1 = node.attr("p", 1i64).attr("axis", 0i64).run1().unwrap();
        assert_tensor_close(&l1, &f32s(&[2, 2], &[1.0, 1.0, 0.0, 0.0]), 1e-6);
        let node = TestNode::new("MeanVarianceNormalization", 13)
            .attr("axes", [1i64])
            .input(x.clone());
        assert_tensor_close(&node.run1().unwrap(), &f32s(&[2, 2], &[-1.0, 1.0, 0.0, 0.0]), 1e-5);
        // Both channels see each other: 1 + 3 / 3 * (9 + 16) is 26.
        let node = TestNode::new("LRN", 13)
            .attr("size", 3i64)
            .attr("alpha", 3.0f32)
            .attr("beta", 1.0f32)
            .input(f32s(&[1, 2, 1], &[3.0, 4.0]));
        assert_tensor_close(
            &node.run1().unwrap(),
            &f32s(&[1, 2, 1], &[3.0 / 26.0, 4.0 / 26.0]),
            1e-6,
        );
        assert!(TestNode::new("LRN", 13).input(x).run1().is_err());
    }
}
