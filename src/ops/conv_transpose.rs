//! ONNX `ConvTranspose` over one to three spatial axes.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, TensorDesc,
    context::{equal_dims, rank_error},
    epilogue::{CpuEpilogue, GpuEpilogue, OwnSteps, OwnValues, Rows, gpu_epilogue, gpu_operand},
    of_larger_build,
    widen::widened,
    window::{AutoPad, Window},
};
use crate::{
    cpu::{
        conv::{
            spatial,
            transpose::{ConvTransposeParams, ConvTransposePlan, TransposeFilter},
        },
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
    tensor::{DType, Dim, display_shape},
};

/// The transpose of convolution: X `[n, c, ..]`, W `[c, m / group, ..]` and an optional bias B `[m]`.
///
/// Since opset 1, with attributes `auto_pad`, `dilations`, `group`, `kernel_shape`, `output_padding`, `output_shape`,
/// `pads` and `strides`, for f32, f64, f16 and bf16. The epilogue needs f32.
#[derive(Debug)]
pub struct ConvTranspose {
    window: Window,
    groups: usize,
    output_padding: Option<Vec<usize>>,
    output_shape: Option<Vec<usize>>,
}

/// What is added to or cut from an axis.
struct Axis {
    output: usize,
    pads: (usize, usize),
}

impl ConvTranspose {
    /// Reads the attributes.
    pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        let groups = attributes.int("group")?.unwrap_or(1);
        let groups = usize::try_from(groups)
            .ok()
            .filter(|&groups| groups > 0)
            .ok_or_else(|| {
                Error::new(ErrorCode::InvalidGraph, "attribute group is out of range")
                    .expected("at least 1")
                    .actual(groups.to_string())
            })?;
        let sizes = |name: &str| -> Result<Option<Vec<usize>>> {
            let Some(values) = attributes.ints(name)?.filter(|values| !values.is_empty()) else {
                return Ok(None);
            };
            let size = |&value: &i64| u32::try_from(value).ok().map(|value| value as usize);
            let sizes: Option<Vec<usize>> = values.iter().map(size).collect();
            sizes.map(Some).ok_or_else(|| {
                Error::new(ErrorCode::InvalidGraph, format!("attribute {name} is out of range"))
                    .actual(format!("{values:?}"))
            })
        };
        Ok(Box::new(ConvTranspose {
            window: Window::of_conv(node)?,
            groups,
            output_padding: sizes("output_padding")?,
            output_shape: sizes("output_shape")?,
        }))
    }

    fn check_axes(&self, axes: usize) -> Result<()> {
        self.window.check_axes(axes)?;
        for (name, list) in [
            ("output_padding", &self.output_padding),
            ("output_shape", &self.output_shape),
        ] {
            if let Some(list) = list
                && list.len() != axes
            {
                return Err(Error::new(
                    ErrorCode::ShapeMismatch,
                    format!("attribute {name} does not fit the number of spatial axes"),
                )
                .expected(format!("{axes} values"))
                .actual(format!("{} values", list.len())));
            }
        }
        Ok(())
    }

    fn output_padding(&self, axis: usize) -> usize {
        self.output_padding.as_ref().map_or(0, |padding| padding[axis])
    }

    /// The size along an axis before anything is cut off.
    fn full_dim(&self, axis: usize, input: &Dim, kernel: &Dim) -> Dim {
        let one = Dim::from(1);
        let extent = Dim::from(self.window.dilation(axis)) * (kernel.clone() - one.clone()) + one.clone();
        Dim::from(self.window.stride(axis)) * (input.clone() - one) + extent + Dim::from(self.output_padding(axis))
    }

    fn output_dim(&self, axis: usize, input: &Dim, kernel: &Dim) -> Result<Dim> {
        if let Some(shape) = &self.output_shape {
            return Ok(Dim::from(shape[axis]));
        }
        let output = match self.window.auto_pad {
            AutoPad::SameUpper | AutoPad::SameLower => input.clone() * Dim::from(self.window.stride(axis)),
            AutoPad::Valid => self.full_dim(axis, input, kernel),
            AutoPad::Explicit => {
                let (begin, end) = self.window.explicit_pads(axis);
                self.full_dim(axis, input, kernel) - Dim::from(begin + end)
            }
        };
        match output.known() {
            Some(known) if known < 0 => Err(Error::new(
                ErrorCode::ShapeMismatch,
                format!("the pads are larger than the output along spatial axis {axis}"),
            )
            .actual(known.to_string())),
            _ => Ok(output),
        }
    }

    /// The concrete output size of an axis, and what is cut off before and behind it. Where the output was asked for,
    /// or is asked to match the input, the cut follows from it, and may be less than nothing behind: zeros.
    fn axis(&self, axis: usize, input: usize, kernel: usize) -> Result<Axis> {
        let (input_dim, kernel_dim) = (Dim::from(input), Dim::from(kernel));
        let known = |dim: Dim| {
            dim.size().filter(|&size| size <= u32::MAX as usize / 4).ok_or_else(|| {
                Error::new(
                    ErrorCode::LimitExceeded,
                    "an output of a transposed convolution is too large",
                )
            })
        };
        let output = known(self.output_dim(axis, &input_dim, &kernel_dim)?)?;
        let full = if input == 0 {
            0
        } else {
            known(self.full_dim(axis, &input_dim, &kernel_dim))?
        };
        let follows =
            self.output_shape.is_some() || matches!(self.window.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
        let pads = match self.window.auto_pad {
            auto_pad if follows => {
                let total = full.saturating_sub(output);
                let less = total / 2;
                match auto_pad {
                    AutoPad::SameUpper => (less, total - less),
                    _ => (total - less, less),
                }
            }
            AutoPad::Explicit => self.window.explicit_pads(axis),
            _ => (0, 0),
        };
        Ok(Axis { output, pads })
    }

    /// The concrete sizes, checked, and the pads before and behind each axis.
    fn params(
        &self,
        x: &TensorDesc,
        w: &TensorDesc,
        bias: Option<&TensorDesc>,
    ) -> Result<(ConvTransposeParams, Vec<usize>)> {
        let ([batch, in_channels, input @ ..], [w_channels, per_group, kernel @ ..]) = (&x.shape[..], &w.shape[..])
        else {
            return Err(rank_error(0, "at least 3", x.shape.len()));
        };
        if input.len() != kernel.len() {
            return Err(rank_error(1, x.shape.len(), w.shape.len()));
        }
        self.check_axes(input.len())?;
        check_channels(self.groups, &Dim::from(*in_channels), &Dim::from(*w_channels))?;
        let out_channels = per_group * self.groups;
        if let Some(bias) = bias
            && bias.shape != [out_channels]
        {
            return Err(
                Error::new(ErrorCode::ShapeMismatch, "input 2 is not one value per output channel")
                    .expected(format!("[{out_channels}]"))
                    .actual(display_shape(&bias.shape)),
            );
        }
        let axes = input
            .iter()
            .zip(kernel)
            .enumerate()
            .map(|(axis, (&input, &kernel))| self.axis(axis, input, kernel))
            .collect::<Result<Vec<Axis>>>()?;
        let widen = |values: Vec<usize>, fill| {
            spatial(&values, fill).ok_or_else(|| {
                Error::new(
                    ErrorCode::UnsupportedOperator,
                    "a transposed convolution over this number of spatial axes is not supported",
                )
                .expected("1 to 3")
                .actual(values.len().to_string())
            })
        };
        let count = axes.len();
        let params = ConvTransposeParams {
            batch: *batch,
            in_channels: *in_channels,
            out_channels,
            groups: self.groups,
            input: widen(input.to_vec(), 1)?,
            output: widen(axes.iter().map(|axis| axis.output).collect(), 1)?,
            kernel: widen(kernel.to_vec(), 1)?,
            strides: widen((0..count).map(|axis| self.window.stride(axis)).collect(), 1)?,
            dilations: widen((0..count).map(|axis| self.window.dilation(axis)).collect(), 1)?,
            pads_begin: widen(axes.iter().map(|axis| axis.pads.0).collect(), 0)?,
        };
        let begins = axes.iter().map(|axis| axis.pads.0);
        let pads = begins.chain(axes.iter().map(|axis| axis.pads.1)).collect();
        Ok((params, pads))
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (x, w) = (ctx.input(0)?, ctx.input(1)?);
        let bias = ctx.optional_input(2).filter(|_| ctx.input_count() > 2);
        let (params, _) = self.params(x, w, bias)?;
        let plan = ConvTransposePlan::new(params.clone()).ok_or_else(|| {
            Error::new(
                ErrorCode::LimitExceeded,
                "the transposed convolution's sizes exceed the address range",
            )
        })?;
        let rows = Rows {
            shape: &ctx.output(0)?.shape,
            split: 2,
            bias_by_channel: true,
        };
        let has_bias = bias.is_some();
        let own = OwnSteps {
            bias: has_bias,
            ..OwnSteps::NONE
        };
        let epilogue = CpuEpilogue::new(ctx, &rows, own)?;
        let packed = match &w.constant {
            Some(constant) => {
                // How the weights are cut into blocks follows from the image's size.
                let layout = format!("conv_transpose {params:?}");
                let make = || Ok(plan.pack(&constant.to_f32s()?));
                Some(ctx.prepared.get(w.constant_id, &layout, make)?)
            }
            None => None,
        };
        let is_packed = packed.is_some();
        let epilogue_len = epilogue.scratch_len().next_multiple_of(4);
        let scratch_bytes = (epilogue_len + plan.scratch_len(ctx.threads)) * 4;
        let kernel = CpuKernel::compute_with_scratch("conv_transpose_f32", scratch_bytes, move |io| {
            let filter = match &packed {
                Some(packed) => TransposeFilter::Packed(packed),
                None => TransposeFilter::Raw(io.inputs.get(1)?),
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
            return Err(Error::internal(
                "an epilogue on a transposed convolution that is not f32",
            ));
        }
        let bias = ctx.optional_input(2).filter(|_| ctx.input_count() > 2);
        let (params, _) = self.params(ctx.input(0)?, ctx.input(1)?, bias)?;
        let has_bias = bias.is_some();
        Ok(CpuKernel::compute("conv_transpose_f64", move |io| {
            let bias = if has_bias { Some(io.inputs.get::<f64>(2)?) } else { None };
            let (input, weights) = (io.inputs.get::<f64>(0)?, io.inputs.get::<f64>(1)?);
            transpose_f64(&params, input, weights, bias, io.outputs.take::<f64>(0)?);
            Ok(())
        }))
    }
}

fn check_channels(groups: usize, input: &Dim, weights: &Dim) -> Result<()> {
    let channels = equal_dims(weights, input, "number of input channels")?;
    match channels.size() {
        Some(channels) if !channels.is_multiple_of(groups) || groups > channels.max(1) => Err(Error::new(
            ErrorCode::ShapeMismatch,
            "the groups do not divide the input channels",
        )
        .expected(format!("a multiple of {groups}"))
        .actual(channels.to_string())),
        _ => Ok(()),
    }
}

/// The definition: every input element adds the kernel, scaled by it, to the output. What f64 takes, and what the fast
/// kernel is tested against.
fn transpose_f64(params: &ConvTransposeParams, input: &[f64], weights: &[f64], bias: Option<&[f64]>, out: &mut [f64]) {
    let [out_d, out_h, out_w] = params.output;
    let [_, in_h, in_w] = params.input;
    let [kernel_d, kernel_h, kernel_w] = params.kernel;
    let (volume_in, volume_out) = (params.input.iter().product::<usize>(), out_d * out_h * out_w);
    let (per_group, in_per_group) = (params.out_channels / params.groups, params.in_channels / params.groups);
    for (plane, out) in out.chunks_exact_mut(volume_out.max(1)).enumerate() {
        out.fill(bias.map_or(0.0, |bias| bias[plane % params.out_channels]));
    }
    let place = |axis: usize, input: usize, tap: usize| {
        let place = input * params.strides[axis] + tap * params.dilations[axis];
        place
            .checked_sub(params.pads_begin[axis])
            .filter(|&place| place < params.output[axis])
    };
    for (index, &value) in input.iter().enumerate() {
        let (plane, position) = (index / volume_in, index % volume_in);
        let (image, channel) = (plane / params.in_channels, plane % params.in_channels);
        let group = channel / in_per_group;
        let (z, y, x) = (position / in_w / in_h, position / in_w % in_h, position % in_w);
        for m in 0..per_group {
            let target = (image * params.out_channels + group * per_group + m) * volume_out;
            for a in 0..kernel_d {
                let Some(pz) = place(0, z, a) else { continue };
                for b in 0..kernel_h {
                    let Some(py) = place(1, y, b) else { continue };
                    for c in 0..kernel_w {
                        let Some(px) = place(2, x, c) else { continue };
                        let tap = (((channel * per_group + m) * kernel_d + a) * kernel_h + b) * kernel_w + c;
                        out[target + (pz * out_h + py) * out_w + px] += value * weights[tap];
                    }
                }
            }
        }
    }
}

impl Operator for ConvTranspose {
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
        if let (Some(x), Some(w)) = (x, w) {
            if x.len() != w.len() {
                return Err(rank_error(1, x.len(), w.len()));
            }
            check_channels(self.groups, &x[1], &w[0])?;
        }
        let given = x.or(w).map(|shape| shape.len() - 2);
        let stated = self.window.axes().filter(|&axes| axes > 0);
        let Some(axes) = given.or(stated) else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        self.check_axes(axes)?;
        let attribute: Option<Vec<Dim>> =
            (self.window.kernel.as_ref()).map(|kernel| kernel.iter().map(|&size| Dim::from(size)).collect());
        if let (Some(attribute), Some(w)) = (&attribute, w) {
            for (attribute, size) in attribute.iter().zip(&w[2..]) {
                equal_dims(attribute, size, "kernel's size")?;
            }
        }
        let kernel = attribute.or_else(|| Some(w?[2..].to_vec()));
        let mut shape = vec![
            x.map_or_else(|| ctx.fresh_dim(), |x| x[0].clone()),
            w.map_or_else(|| ctx.fresh_dim(), |w| w[1].clone() * Dim::from(self.groups)),
        ];
        match (x, kernel) {
            (Some(x), Some(kernel)) => {
                for (axis, (input, kernel)) in x[2..].iter().zip(&kernel).enumerate() {
                    shape.push(self.output_dim(axis, input, kernel)?);
                }
            }
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
        if !f32_only {
            return Ok(None);
        }
        let GpuEpilogue::Takes(epilogue) = gpu_epilogue(ctx)? else {
            return Ok(None);
        };
        let (_, pads) = self.params(x, w, bias)?;
        let kernel = &w.shape[2..];
        let window = conv::Window {
            kernel,
            strides: &(0..kernel.len())
                .map(|axis| self.window.stride(axis))
                .collect::<Vec<_>>(),
            dilations: &(0..kernel.len())
                .map(|axis| self.window.dilation(axis))
                .collect::<Vec<_>>(),
            pads: &pads,
        };
        let output = &ctx.output(0)?.shape;
        let epilogue = epilogue.as_ref();
        if ALL_OPERATORS && kernel.len() > 2 {
            let conv = Convolution {
                direction: Direction::Transposed,
                input: &x.shape,
                weights: &w.shape,
                output,
                has_bias: bias.is_some(),
                groups: self.groups,
            };
            return Ok(volume::conv(&conv, &window, epilogue, ctx.caps));
        }
        let (x, w, bias) = (
            gpu_operand(x, 0),
            gpu_operand(w, 1),
            bias.map(|bias| gpu_operand(bias, 2)),
        );
        Ok(conv::conv_transpose(
            &x,
            &w,
            bias.as_ref(),
            self.groups,
            &window,
            output,
            epilogue,
            ctx.caps,
        ))
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn operations(&self, inputs: &[Vec<usize>], _: u64) -> u64 {
        2 * (inputs[0].iter().product::<usize>() * inputs[1].iter().skip(1).product::<usize>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
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

    #[test]
    fn the_specification_s_first_example() {
        let x = f32s(&[1, 1, 3, 3], &(0..9).map(|v| v as f32).collect::<Vec<_>>());
        let node = TestNode::new("ConvTranspose", 11)
            .input(x)
            .constant(f32s(&[1, 1, 3, 3], &[1.0; 9]));
        let expected = [
            0.0, 1.0, 3.0, 3.0, 2.0, 3.0, 8.0, 15.0, 12.0, 7.0, 9.0, 21.0, 36.0, 27.0, 15.0, 9.0, 20.0, 33.0, 24.0,
            13.0, 6.0, 13.0, 21.0, 15.0, 8.0,
        ];
        assert_eq!(node.run1().unwrap(), f32s(&[1, 1, 5, 5], &expected));
    }

    #[test]
    fn attributes_biases_and_epilogues_match_the_definition() {
        let mut rng = Rng::new(101);
        for round in 0..120 {
            let axes = 1 + round % 3;
            let groups = rng.size(1, 3);
            let (in_per_group, out_per_group) = (rng.size(1, 3), rng.size(1, 3));
            let mut sizes =
                |low: usize, high: usize| -> Vec<i64> { (0..axes).map(|_| rng.size(low, high) as i64).collect() };
            let (input, kernel, strides) = (sizes(2, 5), sizes(2, 3), sizes(1, 3));
            let (dilations, pads, padding) = (sizes(1, 2), [sizes(0, 1), sizes(0, 1)].concat(), sizes(0, 0));
            let shape = |head: [usize; 2], tail: &[i64]| -> Vec<usize> {
                head.into_iter().chain(tail.iter().map(|&size| size as usize)).collect()
            };
            let batch = rng.size(1, 2);
            let mut random = |shape: &[usize]| f32s(shape, &rng.vec(shape.iter().product()));
            let x = random(&shape([batch, groups * in_per_group], &input));
            let w = random(&shape([groups * in_per_group, out_per_group], &kernel));
            let b = random(&[groups * out_per_group]);
            let mut node = TestNode::new("ConvTranspose", 11)
                .attr("group", groups as i64)
                .attr("strides", &strides[..])
                .attr("dilations", &dilations[..]);
            let larger: Vec<i64> = input
                .iter()
                .zip(&strides)
                .map(|(input, stride)| input * stride + 1)
                .collect();
            node = match round % 5 {
                0 => node.attr("auto_pad", "SAME_UPPER"),
                1 => node.attr("auto_pad", "SAME_LOWER").attr("kernel_shape", &kernel[..]),
                2 => node.attr("output_shape", &larger[..]),
                3 => node.attr("output_padding", &padding[..]).attr("pads", &pads[..]),
                _ => node.attr("pads", &pads[..]),
            };
            let reference = node
                .clone()
                .input(wide(&x))
                .input(wide(&w))
                .input(wide(&b))
                .run1()
                .unwrap();
            let expected = f32s(reference.shape(), &reference.to_f32s().unwrap());
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
                let [value, residual] = [0; 2].map(|_| builder.input(Storage::F32));
                let sum = builder.add(value, residual);
                let relu = builder.relu(sum);
                builder.output(relu, Storage::F32);
                let residual = random(expected.shape());
                let sums = expected.to_f32s().unwrap().into_owned();
                let sums: Vec<f32> = sums
                    .iter()
                    .zip(residual.to_f32s().unwrap().iter())
                    .map(|(x, r)| (x + r).max(0.0))
                    .collect();
                let node = node.epilogue(builder.finish().unwrap(), &[residual]);
                assert_tensor_close(&node.run1().unwrap(), &f32s(expected.shape(), &sums), 1e-4);
                if round < 12 && axes < 3 {
                    node.assert_gpu_agrees(1e-4);
                }
            }
        }
    }

    #[test]
    fn output_padding_and_output_shape_give_the_size_asked_for() {
        let x = f32s(&[1, 1, 2], &[1.0, 2.0]);
        let node = TestNode::new("ConvTranspose", 11)
            .attr("strides", [3i64])
            .input(x)
            .constant(f32s(&[1, 1, 2], &[1.0, 10.0]));
        let plain = node.clone().run1().unwrap();
        assert_eq!(plain, f32s(&[1, 1, 5], &[1.0, 10.0, 0.0, 2.0, 20.0]));
        let padded = node.clone().attr("output_padding", [1i64]).run1().unwrap();
        assert_eq!(padded, f32s(&[1, 1, 6], &[1.0, 10.0, 0.0, 2.0, 20.0, 0.0]));
        let shaped = node.clone().attr("output_shape", [4i64]).run1().unwrap();
        assert_eq!(shaped, f32s(&[1, 1, 4], &[10.0, 0.0, 2.0, 20.0]));
        let cut = node.attr("pads", [1i64, 1]).run1().unwrap();
        assert_eq!(cut, f32s(&[1, 1, 3], &[10.0, 0.0, 2.0]));
    }

    #[test]
    fn wrong_channels_ranks_and_attributes_are_errors() {
        let zeros = |shape: &[usize]| Tensor::zeros(DType::F32, shape).unwrap();
        let node = |x: &[usize], w: &[usize]| TestNode::new("ConvTranspose", 11).input(zeros(x)).input(zeros(w));
        for node in [
            node(&[1, 3, 8], &[4, 2, 3]),
            node(&[1, 3, 8], &[3, 2, 3, 3]),
            node(&[1, 3, 8], &[3, 2, 3]).attr("group", 2i64),
            node(&[1, 3, 8], &[3, 2, 3]).attr("output_shape", [8i64, 8]),
            node(&[1, 3, 1], &[3, 2, 1]).attr("pads", [1i64, 1]),
            node(&[1, 3, 8], &[3, 2, 3]).input(zeros(&[3])),
        ] {
            assert_eq!(node.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
        }
        let negative = node(&[1, 3, 8], &[3, 2, 3]).attr("output_padding", [-1i64]);
        assert_eq!(negative.run1().unwrap_err().code(), ErrorCode::InvalidGraph);
    }
}
