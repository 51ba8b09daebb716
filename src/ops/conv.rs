//! ONNX `Conv` over one to three spatial axes.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, TensorDesc,
    context::{equal_dims, rank_error},
    epilogue::{CpuEpilogue, GpuEpilogue, OwnSteps, OwnValues, Rows, gpu_epilogue, gpu_operand},
    of_larger_build,
    widen::widened,
    window::{Window, check_channels, conv_groups, conv_params},
};
use crate::{
    cpu::{
        conv::{ConvParams, ConvPlan, Filter, PackedFilter, Weights},
        epilogue::Bias,
        kernel::{CpuKernel, scratch_as_f32},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::GpuKernel,
        kernels::{
            conv,
            volume::{self, Convolution, Direction},
        },
    },
    graph::Node,
    tensor::{DType, Dim},
};

/// Convolution of X `[n, c, ..]` with W `[m, c / group, ..]` and an optional bias B `[m]`.
///
/// Since opset 1, with attributes `auto_pad`, `dilations`, `group`, `kernel_shape`, `pads` and `strides`, for f32, f64,
/// f16 and bf16. The epilogue needs f32.
#[derive(Debug)]
pub struct Conv {
    window: Window,
    groups: usize,
}

impl Conv {
    /// Reads the attributes.
    pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Conv {
            window: Window::of_conv(node)?,
            groups: conv_groups(node)?,
        }))
    }

    fn params(&self, ctx: &CpuLowering<'_>) -> Result<ConvParams> {
        conv_params(
            &self.window,
            self.groups,
            ctx.input(0)?,
            ctx.input(1)?,
            ctx.optional_bias(),
        )
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let params = self.params(ctx)?;
        let weights = match ctx.input(1)?.constant {
            Some(_) => Weights::Constant,
            None => Weights::AtRunTime,
        };
        let plan = ConvPlan::new(params.clone(), weights).ok_or_else(|| {
            Error::new(
                ErrorCode::LimitExceeded,
                "the convolution's sizes exceed the address range",
            )
        })?;
        let output = ctx.output(0)?;
        let rows = Rows {
            shape: &output.shape,
            split: 2,
            bias_by_channel: true,
        };
        let has_bias = ctx.optional_bias().is_some();
        let own = OwnSteps {
            bias: has_bias,
            ..OwnSteps::NONE
        };
        let epilogue = CpuEpilogue::new(ctx, &rows, own)?;
        let packed = pack(ctx, ctx.input(1)?, &plan)?;
        let is_packed = packed.is_some();
        let epilogue_len = epilogue.scratch_len().next_multiple_of(4);
        let scratch_bytes = (epilogue_len + plan.scratch_len(ctx.threads)) * 4;
        let kernel = CpuKernel::compute_with_scratch(plan.name(), scratch_bytes, move |io| {
            let filter = match &packed {
                Some(packed) => Filter::Packed(packed),
                None => Filter::Raw(io.inputs.get(1)?),
            };
            let bias = if has_bias {
                Bias::PerRow(io.inputs.get(2)?)
            } else {
                Bias::None
            };
            let input = io.inputs.get::<f32>(0)?;
            let out = io.outputs.take::<f32>(0)?;
            let (epilogue_scratch, scratch) = scratch_as_f32(io.scratch).split_at_mut(epilogue_len);
            let own = OwnValues { bias, residual: None };
            epilogue.with(&io.inputs, own, epilogue_scratch, &mut |epilogue| {
                plan.run(input, filter, out, scratch, epilogue, io.threads);
            })
        });
        Ok(if is_packed {
            kernel.with_prepared_input(1)
        } else {
            kernel
        })
    }

    fn cpu_f64(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if ctx.epilogue().is_some() {
            return Err(Error::internal("an epilogue on a convolution that is not f32"));
        }
        let params = self.params(ctx)?;
        let has_bias = ctx.optional_bias().is_some();
        Ok(CpuKernel::compute("conv_f64", move |io| {
            let bias = if has_bias { Some(io.inputs.get::<f64>(2)?) } else { None };
            let (input, weights) = (io.inputs.get::<f64>(0)?, io.inputs.get::<f64>(1)?);
            convolve_f64(&params, input, weights, bias, io.outputs.take::<f64>(0)?);
            Ok(())
        }))
    }
}

impl<'a> CpuLowering<'a> {
    /// Input 2 of a convolution, when it is given.
    fn optional_bias(&self) -> Option<&'a TensorDesc> {
        self.optional_input(2).filter(|_| self.input_count() > 2)
    }
}

/// Constant weights in the plan's layout, shared with other plans where these accept it.
fn pack(ctx: &CpuLowering<'_>, w: &TensorDesc, plan: &ConvPlan) -> Result<Option<std::sync::Arc<PackedFilter>>> {
    let Some(constant) = &w.constant else {
        return Ok(None);
    };
    let layout = format!("conv {} {}", plan.layout(), plan.params().groups);
    let make = || Ok(plan.pack(&constant.to_f32s()?));
    ctx.prepared.get(w.constant_id, &layout, make).map(Some)
}

/// Convolution as its definition reads: what f64 takes, and what the fast kernels are tested against.
fn convolve_f64(params: &ConvParams, input: &[f64], weights: &[f64], bias: Option<&[f64]>, out: &mut [f64]) {
    let [out_d, out_h, out_w] = params.output();
    let [in_d, in_h, in_w] = params.input;
    let [kernel_d, kernel_h, kernel_w] = params.kernel;
    let per_group = params.in_channels / params.groups;
    let out_per_group = (params.out_channels / params.groups).max(1);
    let place = |axis: usize, output: usize, tap: usize| {
        let place = output * params.strides[axis] + tap * params.dilations[axis];
        place
            .checked_sub(params.pads_begin[axis])
            .filter(|&place| place < params.input[axis])
    };
    let volume = out_d * out_h * out_w;
    for (plane, out) in out.chunks_exact_mut(volume.max(1)).enumerate() {
        let (image, channel) = (plane / params.out_channels, plane % params.out_channels);
        let first = image * params.in_channels + channel / out_per_group * per_group;
        for (position, value) in out.iter_mut().enumerate() {
            let (z, y, x) = (position / out_w / out_h, position / out_w % out_h, position % out_w);
            *value = bias.map_or(0.0, |bias| bias[channel]);
            for c in 0..per_group {
                for a in 0..kernel_d {
                    let Some(pz) = place(0, z, a) else { continue };
                    for b in 0..kernel_h {
                        let Some(py) = place(1, y, b) else { continue };
                        for d in 0..kernel_w {
                            let Some(px) = place(2, x, d) else { continue };
                            let from = (((first + c) * in_d + pz) * in_h + py) * in_w + px;
                            let tap = (((channel * per_group + c) * kernel_d + a) * kernel_h + b) * kernel_w + d;
                            *value += input[from] * weights[tap];
                        }
                    }
                }
            }
        }
    }
}

impl Operator for Conv {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let (x, w) = (ctx.shape(0), ctx.shape(1));
        for (index, shape) in [(0, x), (1, w)] {
            if let Some(shape) = shape
                && shape.len() < 3
            {
                return Err(rank_error(index, "at least 3", shape.len()));
            }
        }
        let (x_axes, w_axes) = (x.map(|x| x.len() - 2), w.map(|w| w.len() - 2));
        if let (Some(x_axes), Some(w_axes)) = (x_axes, w_axes)
            && x_axes != w_axes
        {
            return Err(rank_error(1, x_axes + 2, w_axes + 2));
        }
        let Some(axes) = x_axes.or(w_axes).or(self.window.axes()) else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        self.window.check_axes(axes)?;
        if let (Some(x), Some(w)) = (x, w) {
            check_channels(self.groups, &x[1], &w[0], &w[1])?;
        }
        let mut shape = vec![
            x.map_or_else(|| ctx.fresh_dim(), |x| x[0].clone()),
            w.map_or_else(|| ctx.fresh_dim(), |w| w[0].clone()),
        ];
        let attribute: Option<Vec<Dim>> =
            (self.window.kernel.as_ref()).map(|kernel| kernel.iter().map(|&size| Dim::from(size)).collect());
        let kernel = match (attribute, w) {
            (Some(attribute), Some(w)) => {
                for (attribute, size) in attribute.iter().zip(&w[2..]) {
                    equal_dims(attribute, size, "kernel's size")?;
                }
                Some(attribute)
            }
            (attribute, w) => attribute.or_else(|| Some(w?[2..].to_vec())),
        };
        match (x, kernel) {
            (Some(x), Some(kernel)) => shape.extend(self.window.output_dims(&x[2..], &kernel)?),
            _ => shape.extend(ctx.fresh_shape(axes)),
        }
        ctx.set_output(0, dtype, Some(shape));
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        for index in 1..ctx.input_count().min(3) {
            if ctx.optional_input(index).is_some_and(|input| input.dtype != dtype) {
                return Err(ctx.unsupported_type(index));
            }
        }
        match dtype {
            DType::F32 => self.cpu_f32(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_f64(ctx),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (x, w) = (ctx.input(0)?, ctx.input(1)?);
        let bias = ctx.optional_input(2).filter(|_| ctx.input_count() > 2);
        let f32_only = [Some(x), Some(w), bias]
            .into_iter()
            .flatten()
            .all(|desc| desc.dtype == DType::F32);
        let (Some(input), Some(kernel)) = (x.shape.get(2..), w.shape.get(2..)) else {
            return Ok(None);
        };
        if !f32_only || input.len() != kernel.len() {
            return Ok(None);
        }
        let GpuEpilogue::Takes(epilogue) = gpu_epilogue(ctx)? else {
            return Ok(None);
        };
        let geometry = self.window.geometry(input, kernel)?;
        let window = conv::Window {
            kernel,
            strides: &geometry.strides,
            dilations: &geometry.dilations,
            pads: &[&geometry.pads_begin[..], &geometry.pads_end].concat(),
        };
        let output = &ctx.output(0)?.shape;
        if ALL_OPERATORS && kernel.len() > 2 {
            let conv = Convolution {
                direction: Direction::Forward,
                input: &x.shape,
                weights: &w.shape,
                output,
                has_bias: bias.is_some(),
                groups: self.groups,
            };
            return Ok(volume::conv(&conv, &window, epilogue.as_ref(), ctx.caps));
        }
        let (x, w, bias) = (
            gpu_operand(x, 0),
            gpu_operand(w, 1),
            bias.map(|bias| gpu_operand(bias, 2)),
        );
        Ok(conv::conv(
            &x,
            &w,
            bias.as_ref(),
            self.groups,
            &window,
            output,
            epilogue.as_ref(),
            ctx.caps,
        ))
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn operations(&self, inputs: &[Vec<usize>], outputs: u64) -> u64 {
        2 * outputs * inputs[1].iter().skip(1).product::<usize>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Prepared,
        testing::{TestNode, assert_tensor_close, f32s, tensor},
    };
    use super::*;
    use crate::{
        cpu::testing::Rng,
        pointwise::{Builder, Storage},
        tensor::Tensor,
    };

    fn wide(t: &Tensor) -> Tensor {
        let values: Vec<f64> = t.to_f32s().unwrap().iter().map(|&value| value.into()).collect();
        tensor(t.shape(), &values)
    }

    fn narrow(t: &Tensor) -> Tensor {
        f32s(t.shape(), &t.to_f32s().unwrap())
    }

    #[test]
    fn the_specification_s_first_example() {
        let x = f32s(&[1, 1, 5, 5], &(0..25).map(|v| v as f32).collect::<Vec<_>>());
        let w = f32s(&[1, 1, 3, 3], &[1.0; 9]);
        let node = TestNode::new("Conv", 11).input(x).constant(w);
        let valid = node.clone().attr("pads", [0i64, 0, 0, 0]).run1().unwrap();
        let expected = f32s(
            &[1, 1, 3, 3],
            &[54.0, 63.0, 72.0, 99.0, 108.0, 117.0, 144.0, 153.0, 162.0],
        );
        assert_eq!(valid, expected);
        let strided = node
            .attr("auto_pad", "SAME_LOWER")
            .attr("strides", [2i64, 2])
            .attr("kernel_shape", [3i64, 3])
            .run1()
            .unwrap();
        assert_eq!(
            strided,
            f32s(&[1, 1, 3, 3], &[12.0, 27.0, 24.0, 63.0, 108.0, 81.0, 72.0, 117.0, 84.0])
        );
    }

    #[test]
    fn attributes_biases_and_epilogues_match_the_definition() {
        let mut rng = Rng::new(31);
        for round in 0..120 {
            let axes = 1 + round % 3;
            let groups = rng.size(1, 3);
            let (in_per_group, out_per_group) = (rng.size(1, 3), rng.size(1, 4));
            let mut sizes =
                |low: usize, high: usize| -> Vec<i64> { (0..axes).map(|_| rng.size(low, high) as i64).collect() };
            let (input, kernel) = (sizes(4, 8), sizes(1, 3));
            let (strides, dilations) = (sizes(1, 2), sizes(1, 2));
            let pads = [sizes(0, 2), sizes(0, 2)].concat();
            let shape = |head: [usize; 2], tail: &[i64]| -> Vec<usize> {
                head.into_iter().chain(tail.iter().map(|&size| size as usize)).collect()
            };
            let batch = rng.size(1, 2);
            let mut random = |shape: &[usize]| f32s(shape, &rng.vec(shape.iter().product()));
            let x = random(&shape([batch, groups * in_per_group], &input));
            let w = random(&shape([groups * out_per_group, in_per_group], &kernel));
            let b = random(&[groups * out_per_group]);
            let mut node = TestNode::new("Conv", 11)
                .attr("group", groups as i64)
                .attr("strides", &strides[..])
                .attr("dilations", &dilations[..]);
            node = match round % 4 {
                0 => node.attr("auto_pad", "SAME_UPPER"),
                1 => node.attr("auto_pad", "SAME_LOWER").attr("kernel_shape", &kernel[..]),
                _ => node.attr("pads", &pads[..]),
            };
            let reference = node
                .clone()
                .input(wide(&x))
                .input(wide(&w))
                .input(wide(&b))
                .run1()
                .unwrap();
            let expected = narrow(&reference);
            for constant in [false, true] {
                let node = node.clone().input(x.clone());
                let node = if constant {
                    node.constant(w.clone())
                } else {
                    node.input(w.clone())
                };
                let node = node.constant(b.clone());
                assert_tensor_close(&node.run1().unwrap(), &expected, 1e-4);

                let mut builder = Builder::new();
                let regs = [0; 3].map(|_| builder.input(Storage::F32));
                let sum = builder.add(regs[0], regs[1]);
                let relu = builder.relu(sum);
                let scaled = builder.mul(relu, regs[2]);
                builder.output(scaled, Storage::F32);
                let residual = random(expected.shape());
                let mut channels = vec![1; axes + 1];
                channels[0] = groups * out_per_group;
                let scale = random(&channels);
                let volume: usize = expected.shape()[2..].iter().product();
                let finished: Vec<f32> = expected
                    .to_f32s()
                    .unwrap()
                    .iter()
                    .zip(residual.to_f32s().unwrap().iter())
                    .enumerate()
                    .map(|(index, (x, r))| (x + r).max(0.0) * scale.to_f32s().unwrap()[index / volume % channels[0]])
                    .collect();
                let node = node.epilogue(builder.finish().unwrap(), &[residual, scale]);
                if round < 9 && axes < 3 {
                    node.assert_gpu_agrees(1e-4);
                }
                assert_tensor_close(&node.run1().unwrap(), &f32s(expected.shape(), &finished), 1e-4);
            }
        }
    }

    #[test]
    fn programs_of_several_shapes_share_the_packed_weights() {
        let mut rng = Rng::new(32);
        let w = f32s(&[6, 3, 3, 3], &rng.vec(6 * 27));
        let prepared = Prepared::default();
        for size in [5, 9, 40] {
            let x = f32s(&[1, 3, size, size], &rng.vec(3 * size * size));
            let node = TestNode::new("Conv", 11).attr("pads", [1i64, 1, 1, 1]).input(x.clone());
            let fed = node.clone().input(w.clone()).run1().unwrap();
            let shared = node.constant(w.clone()).run_sharing(&prepared).unwrap().swap_remove(0);
            assert_tensor_close(&shared, &fed, 1e-5);
        }
    }

    #[test]
    fn half_precision_is_computed_wide_and_rounded_once() {
        let halves = |values: &[f32]| values.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>();
        let x = tensor(&[1, 1, 4], &halves(&[1000.0, 0.25, -1000.0, 3.0]));
        let w = tensor(&[1, 1, 3], &halves(&[1.0, 1.0, 1.0]));
        let b = tensor(&[1], &halves(&[0.5]));
        let node = TestNode::new("Conv", 11).input(x).constant(w).input(b);
        assert_eq!(node.run1().unwrap(), tensor(&[1, 1, 2], &halves(&[0.75, -996.25])));
    }

    #[test]
    fn wrong_channels_groups_ranks_and_kernels_are_named() {
        let zeros = |shape: &[usize]| Tensor::zeros(DType::F32, shape).unwrap();
        let node = |x: &[usize], w: &[usize]| TestNode::new("Conv", 11).input(zeros(x)).input(zeros(w));
        for node in [
            node(&[1, 3, 8], &[4, 2, 3]),
            node(&[1, 3, 8, 8], &[4, 3, 3]),
            node(&[1, 3], &[4, 3]),
            node(&[1, 4, 8], &[3, 2, 3]).attr("group", 2i64),
            node(&[1, 0, 8], &[0, 0, 3]).attr("group", 1i64 << 30),
            node(&[1, 3, 8], &[4, 3, 3]).attr("kernel_shape", [5i64]),
            node(&[1, 3, 8], &[4, 3, 3]).attr("strides", [1i64, 1]),
            node(&[1, 3, 2], &[4, 3, 9]),
            node(&[1, 3, 8], &[4, 3, 3]).input(zeros(&[3])),
        ] {
            assert_eq!(node.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
        }
        let axes = node(&[1, 1, 2, 2, 2, 2], &[1, 1, 1, 1, 1, 1]);
        assert_eq!(axes.run1().unwrap_err().code(), ErrorCode::UnsupportedOperator);
        assert_eq!(node(&[0, 3, 8], &[4, 3, 3]).run1().unwrap(), zeros(&[0, 4, 6]));
    }
}
