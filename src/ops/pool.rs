//! ONNX's pooling: `MaxPool`, `AveragePool` and `LpPool` over one to three spatial axes, and their global forms over
//! any number.

use super::{
    ALL_OPERATORS, CpuLowering, InferContext, Operator, TensorDesc,
    context::rank_error,
    of_larger_build,
    widen::{converted, widened},
    window::Window,
};
use crate::{
    cpu::{
        conv::spatial,
        kernel::{CpuKernel, scratch_as_f32},
        pool::{
            AverageCount, AveragePool, PoolElement, PoolParams, StorageOrder, lp_pool, max_pool, max_pool_indices,
            pool_scratch_len,
        },
        reduce::{ReduceElement, ReduceKind, ReducePlan},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::{
            conv,
            pool::{self, PoolKind},
            reduce::{self, ReduceOp},
            volume::{self, VolumePool},
        },
    },
    graph::Node,
    ops::GpuLowering,
    tensor::{DType, Dim, Element},
};

/// Pooling by a sliding window over X `[n, c, ..]`.
///
/// `MaxPool` (since opset 1; indices from 8, `ceil_mode` and `dilations` from 10) takes the floats, i8 and u8;
/// `AveragePool` (`count_include_pad` from 7, `dilations` from 19) and `LpPool` take the floats.
#[derive(Debug)]
pub struct Pool {
    kind: Kind,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Max(StorageOrder),
    Average(AverageCount),
    Lp(u32),
}

/// The exponent of an Lp norm: an integer, or in opset 1 a float that must be whole.
fn exponent(node: &Node) -> Result<u32> {
    let p = if node.operator.version == 1 {
        f64::from(node.attributes.float("p")?.unwrap_or(2.0))
    } else {
        node.attributes.int("p")?.unwrap_or(2) as f64
    };
    if p.fract() == 0.0 && (1.0..=64.0).contains(&p) {
        return Ok(p as u32);
    }
    Err(Error::new(
        ErrorCode::UnsupportedOperator,
        "this exponent of an Lp norm is not supported",
    )
    .expected("a whole number in 1..=64")
    .actual(p.to_string()))
}

impl Pool {
    /// ONNX `MaxPool`.
    pub fn max(node: &Node) -> Result<Box<dyn Operator>> {
        let order = match node.attributes.flag("storage_order", false)? {
            true => StorageOrder::ColumnMajor,
            false => StorageOrder::RowMajor,
        };
        Pool::make(node, Kind::Max(order))
    }

    /// ONNX `AveragePool`.
    pub fn average(node: &Node) -> Result<Box<dyn Operator>> {
        let count = match node.attributes.flag("count_include_pad", false)? {
            true => AverageCount::WithPadding,
            false => AverageCount::Inside,
        };
        Pool::make(node, Kind::Average(count))
    }

    /// ONNX `LpPool`.
    pub fn lp(node: &Node) -> Result<Box<dyn Operator>> {
        Pool::make(node, Kind::Lp(exponent(node)?))
    }

    fn make(node: &Node, kind: Kind) -> Result<Box<dyn Operator>> {
        let window = Window::of_pool(node)?;
        Ok(Box::new(Pool { kind, window }))
    }

    fn kernel(&self) -> &[usize] {
        self.window.kernel.as_deref().unwrap_or(&[])
    }

    fn params(&self, x: &TensorDesc) -> Result<PoolParams> {
        let kernel = self.kernel();
        let [images, channels, input @ ..] = &x.shape[..] else {
            return Err(rank_error(0, kernel.len() + 2, x.shape.len()));
        };
        if input.len() != kernel.len() {
            return Err(rank_error(0, kernel.len() + 2, x.shape.len()));
        }
        let geometry = self.window.geometry(input, kernel)?;
        let axes = |values: &[usize], fill| {
            spatial(values, fill).ok_or_else(|| {
                Error::new(
                    ErrorCode::UnsupportedOperator,
                    "pooling over this number of spatial axes is not supported",
                )
                .expected("1 to 3")
                .actual(values.len().to_string())
            })
        };
        Ok(PoolParams {
            planes: images * channels,
            input: axes(input, 1)?,
            output: axes(&geometry.output, 1)?,
            kernel: axes(kernel, 1)?,
            strides: axes(&geometry.strides, 1)?,
            dilations: axes(&geometry.dilations, 1)?,
            pads_begin: axes(&geometry.pads_begin, 0)?,
            pads_end: axes(&geometry.pads_end, 0)?,
        })
    }

    /// Maxima with their places, one of which may not be wanted.
    fn cpu_max<T: Element + PoolElement>(&self, ctx: &CpuLowering<'_>, order: StorageOrder) -> Result<CpuKernel> {
        let params = self.params(ctx.input(0)?)?;
        if ctx.optional_output(0).is_some() {
            return Ok(CpuKernel::compute("max_pool_indices", move |io| {
                let (out, indices) = (io.outputs.take(0)?, io.outputs.take(1)?);
                max_pool_indices::<T>(&params, io.inputs.get(0)?, out, indices, order);
                Ok(())
            }));
        }
        let bytes = params.planes * params.output.iter().product::<usize>() * size_of::<T>();
        Ok(CpuKernel::compute_with_scratch("max_pool_indices", bytes, move |io| {
            let out = bytemuck::try_cast_slice_mut(&mut io.scratch[..bytes])
                .map_err(|reason| Error::internal(format!("scratch memory: {reason}")))?;
            max_pool_indices::<T>(&params, io.inputs.get(0)?, out, io.outputs.take(1)?, order);
            Ok(())
        }))
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match self.kind {
            Kind::Max(_) if ctx.optional_output(1).is_none() => {
                let params = self.params(ctx.input(0)?)?;
                Ok(CpuKernel::compute_with_scratch(
                    "max_pool_f32",
                    line_bytes(&params, ctx.threads)?,
                    move |io| {
                        let scratch = scratch_as_f32(io.scratch);
                        max_pool(&params, io.inputs.get(0)?, io.outputs.take(0)?, scratch, io.threads);
                        Ok(())
                    },
                ))
            }
            Kind::Max(order) => self.cpu_max::<f32>(ctx, order),
            Kind::Average(count) => {
                let plan = AveragePool::new(self.params(ctx.input(0)?)?, count);
                Ok(CpuKernel::compute("average_pool_f32", move |io| {
                    plan.run(io.inputs.get(0)?, io.outputs.take(0)?, io.threads);
                    Ok(())
                }))
            }
            Kind::Lp(_) if !ALL_OPERATORS => Err(of_larger_build("LpPool")),
            Kind::Lp(p) => {
                let params = self.params(ctx.input(0)?)?;
                Ok(CpuKernel::compute("lp_pool_f32", move |io| {
                    lp_pool(&params, p, io.inputs.get(0)?, io.outputs.take(0)?);
                    Ok(())
                }))
            }
        }
    }

    fn cpu_f64(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let kind = self.kind;
        if let Kind::Max(order) = kind
            && ctx.optional_output(1).is_some()
        {
            return self.cpu_max::<f64>(ctx, order);
        }
        let params = self.params(ctx.input(0)?)?;
        Ok(CpuKernel::compute("pool_f64", move |io| {
            pool_f64(kind, &params, io.inputs.get(0)?, io.outputs.take(0)?);
            Ok(())
        }))
    }
}

/// The scratch memory of a pooling of f32, in bytes.
fn line_bytes(params: &PoolParams, threads: usize) -> Result<usize> {
    let bytes = pool_scratch_len(params).checked_mul(4 * threads);
    bytes.filter(|&bytes| bytes <= isize::MAX as usize / 2).ok_or_else(|| {
        Error::new(
            ErrorCode::LimitExceeded,
            "the pooling's padded lines exceed the address range",
        )
    })
}

/// Pooling as its definition reads: what f64 takes, and what the fast kernels are tested against.
fn pool_f64(kind: Kind, params: &PoolParams, input: &[f64], out: &mut [f64]) {
    let [_, out_h, out_w] = params.output;
    let [in_d, in_h, in_w] = params.input;
    let volume: usize = params.output.iter().product();
    for (index, value) in out.iter_mut().enumerate() {
        let (plane, place) = (index / volume, index % volume);
        let output = [place / out_w / out_h, place / out_w % out_h, place % out_w];
        let (mut inside, mut padded) = (Vec::new(), 0usize);
        for a in 0..params.kernel[0] {
            for b in 0..params.kernel[1] {
                for c in 0..params.kernel[2] {
                    let tap = [a, b, c];
                    let at: [usize; 3] = std::array::from_fn(|axis| {
                        output[axis] * params.strides[axis] + tap[axis] * params.dilations[axis]
                    });
                    let behind = |axis: usize| params.pads_begin[axis] + params.input[axis] + params.pads_end[axis];
                    padded += usize::from((0..3).all(|axis| at[axis] < behind(axis)));
                    let begins = params.pads_begin;
                    if (0..3).all(|axis| (begins[axis]..begins[axis] + params.input[axis]).contains(&at[axis])) {
                        let [z, y, x] = std::array::from_fn(|axis| at[axis] - begins[axis]);
                        inside.push(input[((plane * in_d + z) * in_h + y) * in_w + x]);
                    }
                }
            }
        }
        let sum = |f: &dyn Fn(f64) -> f64| inside.iter().map(|&x| f(x)).sum::<f64>();
        *value = match kind {
            Kind::Max(_) => inside.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Kind::Average(AverageCount::Inside) => sum(&|x| x) / inside.len().max(1) as f64,
            Kind::Average(AverageCount::WithPadding) => sum(&|x| x) / padded.max(1) as f64,
            Kind::Lp(p) => sum(&|x| x.abs().powi(p as i32)).powf(1.0 / f64::from(p)),
        };
    }
}

impl Operator for Pool {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let kernel: Vec<Dim> = self.kernel().iter().map(|&size| Dim::from(size)).collect();
        let shape = match ctx.shape(0) {
            Some([images, channels, input @ ..]) if input.len() == kernel.len() => {
                let output = self.window.output_dims(input, &kernel)?;
                [&[images.clone(), channels.clone()], &output[..]].concat()
            }
            Some(other) => return Err(rank_error(0, kernel.len() + 2, other.len())),
            None => ctx.fresh_shape(kernel.len() + 2),
        };
        if matches!(self.kind, Kind::Max(_)) {
            ctx.set_output(1, DType::I64, Some(shape.clone()));
        }
        ctx.set_output(0, dtype, Some(shape));
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match (ctx.input(0)?.dtype, self.kind) {
            (DType::F32, _) => self.cpu_f32(ctx),
            (DType::F16 | DType::BF16, _) => widened(ctx, |ctx| self.cpu_f32(ctx)),
            (DType::F64, _) if !ALL_OPERATORS => Err(of_larger_build("float64")),
            (DType::F64, _) => self.cpu_f64(ctx),
            (DType::I8 | DType::U8, Kind::Max(_)) => converted(
                ctx,
                |dtype| match dtype {
                    DType::I8 | DType::U8 => DType::F32,
                    other => other,
                },
                |ctx| self.cpu_f32(ctx),
            ),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let x = ctx.input(0)?;
        let kind = match self.kind {
            Kind::Max(_) => PoolKind::Max,
            Kind::Average(AverageCount::Inside) => PoolKind::Average,
            Kind::Average(AverageCount::WithPadding) => PoolKind::AverageWithPadding,
            Kind::Lp(_) => PoolKind::Average,
        };
        let (Some(input), false) = (x.shape.get(2..), ctx.optional_output(1).is_some()) else {
            return Ok(None);
        };
        let kernel = self.kernel();
        if x.dtype != DType::F32 || input.len() != kernel.len() {
            return Ok(None);
        }
        let geometry = self.window.geometry(input, kernel)?;
        let window = conv::Window {
            kernel,
            strides: &geometry.strides,
            dilations: &geometry.dilations,
            pads: &[&geometry.pads_begin[..], &geometry.pads_end].concat(),
        };
        let output = &ctx.output(0)?.shape;
        if ALL_OPERATORS && (kernel.len() > 2 || matches!(self.kind, Kind::Lp(_))) {
            let kind = match self.kind {
                Kind::Max(_) => VolumePool::Max,
                Kind::Average(count) => VolumePool::Average {
                    with_padding: count == AverageCount::WithPadding,
                },
                Kind::Lp(power) => VolumePool::Norm(power),
            };
            return Ok(volume::pool(kind, &x.shape, &window, output, ctx.caps));
        }
        if matches!(self.kind, Kind::Lp(_)) {
            return Ok(None);
        }
        Ok(pool::pool(kind, &x.shape, &window, output, ctx.caps))
    }
}

/// Pooling over all spatial axes, which become 1: `GlobalMaxPool`, `GlobalAveragePool`, `GlobalLpPool` (since opset 1),
/// of floats.
#[derive(Debug)]
pub struct GlobalPool {
    kind: GlobalKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GlobalKind {
    Reduce(ReduceKind),
    /// An Lp norm that is not among the reductions.
    Lp(u32),
}

impl GlobalPool {
    /// ONNX `GlobalMaxPool`.
    pub fn max(_: &Node) -> Result<Box<dyn Operator>> {
        let kind = GlobalKind::Reduce(ReduceKind::Max);
        Ok(Box::new(GlobalPool { kind }))
    }

    /// ONNX `GlobalAveragePool`.
    pub fn average(_: &Node) -> Result<Box<dyn Operator>> {
        let kind = GlobalKind::Reduce(ReduceKind::Mean);
        Ok(Box::new(GlobalPool { kind }))
    }

    /// ONNX `GlobalLpPool`.
    pub fn lp(node: &Node) -> Result<Box<dyn Operator>> {
        let kind = match exponent(node)? {
            1 => GlobalKind::Reduce(ReduceKind::L1),
            2 => GlobalKind::Reduce(ReduceKind::L2),
            p => GlobalKind::Lp(p),
        };
        Ok(Box::new(GlobalPool { kind }))
    }

    fn cpu_of<T: Element + ReduceElement>(&self, x: &TensorDesc) -> Result<CpuKernel> {
        let reduced: Vec<bool> = (0..x.shape.len()).map(|axis| axis >= 2).collect();
        let plan = ReducePlan::new(&x.shape, &reduced).ok_or_else(|| Error::internal("a pooling has no plan"))?;
        match self.kind {
            GlobalKind::Reduce(kind) => Ok(CpuKernel::compute("global_pool", move |io| {
                plan.run::<T>(kind, io.inputs.get(0)?, io.outputs.take(0)?, &mut []);
                Ok(())
            })),
            GlobalKind::Lp(_) if !ALL_OPERATORS => Err(of_larger_build("GlobalLpPool")),
            GlobalKind::Lp(p) => {
                let volume = x.shape[2..].iter().product::<usize>();
                let params = PoolParams {
                    planes: x.shape[..2].iter().product(),
                    input: [1, 1, volume],
                    output: [1; 3],
                    kernel: [1, 1, volume],
                    strides: [1; 3],
                    dilations: [1; 3],
                    pads_begin: [0; 3],
                    pads_end: [0; 3],
                };
                Ok(if T::DTYPE == DType::F64 {
                    CpuKernel::compute("global_pool", move |io| {
                        pool_f64(Kind::Lp(p), &params, io.inputs.get(0)?, io.outputs.take(0)?);
                        Ok(())
                    })
                } else {
                    CpuKernel::compute("global_pool", move |io| {
                        lp_pool(&params, p, io.inputs.get(0)?, io.outputs.take(0)?);
                        Ok(())
                    })
                })
            }
        }
    }
}

impl Operator for GlobalPool {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match ctx.shape(0) {
            None => None,
            Some(shape) if shape.len() < 3 => return Err(rank_error(0, "at least 3", shape.len())),
            Some(shape) => {
                let ones = shape[2..].iter().map(|_| Dim::from(1));
                Some(shape[..2].iter().cloned().chain(ones).collect())
            }
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let x = ctx.input(0)?;
        match x.dtype {
            DType::F32 => self.cpu_of::<f32>(x),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_of::<f32>(ctx.input(0)?)),
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_of::<f64>(x),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let x = ctx.input(0)?;
        let op = match self.kind {
            GlobalKind::Reduce(ReduceKind::Max) => ReduceOp::Max,
            GlobalKind::Reduce(ReduceKind::Mean) => ReduceOp::Mean,
            GlobalKind::Reduce(ReduceKind::L1) => ReduceOp::L1,
            GlobalKind::Reduce(ReduceKind::L2) => ReduceOp::L2,
            _ => return Ok(None),
        };
        if x.dtype != DType::F32 {
            return Ok(None);
        }
        let axes: Vec<usize> = (2..x.shape.len()).collect();
        Ok(reduce::reduce(op, GpuType::F32, &x.shape, &axes, ctx.caps))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};
    use super::*;
    use crate::{cpu::testing::Rng, tensor::Tensor};

    #[test]
    fn f32_agrees_with_f64_over_attributes() {
        let mut rng = Rng::new(61);
        for round in 0..150 {
            let axes = 1 + round % 3;
            let mut sizes =
                |low: usize, high: usize| -> Vec<i64> { (0..axes).map(|_| rng.size(low, high) as i64).collect() };
            let (input, kernel, strides) = (sizes(5, 9), sizes(2, 3), sizes(1, 3));
            let (begin, end, dilations) = (sizes(0, 1), sizes(0, 1), sizes(1, 2));
            let shape: Vec<usize> = [2, 3].into_iter().chain(input.iter().map(|&d| d as usize)).collect();
            let values = rng.vec(shape.iter().product());
            let wide: Vec<f64> = values.iter().map(|&v| v.into()).collect();
            for (operator, attribute) in [
                ("MaxPool", ("storage_order", 0i64)),
                ("AveragePool", ("count_include_pad", 1)),
                ("AveragePool", ("count_include_pad", 0)),
                ("LpPool", ("p", 2)),
                ("LpPool", ("p", 3)),
            ] {
                let mut node = TestNode::new(operator, 22)
                    .attr("kernel_shape", &kernel[..])
                    .attr("strides", &strides[..])
                    .attr("dilations", &dilations[..])
                    .attr("ceil_mode", i64::from(rng.bool()))
                    .attr(attribute.0, attribute.1);
                node = match round % 5 {
                    0 => node.attr("auto_pad", "SAME_UPPER"),
                    1 => node.attr("auto_pad", "VALID"),
                    _ => node.attr("pads", &[&begin[..], &end[..]].concat()[..]),
                };
                let expected = node.clone().input(tensor(&shape, &wide)).run1().unwrap();
                let expected = f32s(expected.shape(), &expected.to_f32s().unwrap());
                let node = node.input(f32s(&shape, &values));
                assert_tensor_close(&node.run1().unwrap(), &expected, 1e-5);
                if round < 9 && axes < 3 && operator != "LpPool" {
                    node.assert_gpu_agrees(1e-5);
                }
            }
        }
    }

    #[test]
    fn max_pool_gives_indices_in_either_order() {
        let x = f32s(
            &[1, 2, 2, 3],
            &[1.0, 5.0, 3.0, 4.0, 2.0, 0.0, 0.0, 1.0, 2.0, 9.0, 8.0, 7.0],
        );
        for (order, indices) in [(0i64, [1, 1, 9, 10]), (1, [2, 2, 7, 9])] {
            let node = TestNode::new("MaxPool", 12)
                .attr("kernel_shape", [2i64, 2])
                .attr("storage_order", order)
                .input(x.clone());
            let expected_indices = i64s(&[1, 2, 1, 2], &indices);
            let outputs = node.clone().outputs(2).run().unwrap();
            assert_eq!(outputs[0], f32s(&[1, 2, 1, 2], &[5.0, 5.0, 9.0, 8.0]));
            assert_eq!(outputs[1], expected_indices);
            assert_eq!(node.clone().wanted(&[false, true]).run().unwrap(), [expected_indices]);
            assert_eq!(node.run1().unwrap(), outputs[0]);
        }
    }

    #[test]
    fn max_pool_takes_bytes_and_halves() {
        let node = |x| TestNode::new("MaxPool", 12).attr("kernel_shape", [2i64]).input(x);
        assert_eq!(
            node(tensor(&[1, 1, 3], &[1u8, 200, 3])).run1().unwrap(),
            tensor(&[1, 1, 2], &[200u8, 200])
        );
        assert_eq!(
            node(tensor(&[1, 1, 3], &[-5i8, -7, -9])).run1().unwrap(),
            tensor(&[1, 1, 2], &[-5i8, -7])
        );
        let halves = [0.5f32, -1.0, 2.0].map(half::f16::from_f32);
        assert_eq!(
            node(tensor(&[1, 1, 3], &halves)).run1().unwrap(),
            tensor(&[1, 1, 2], &[halves[0], halves[2]])
        );
        let ints = node(tensor(&[1, 1, 3], &[1i32, 2, 3])).run1();
        assert_eq!(ints.unwrap_err().code(), ErrorCode::UnsupportedOperator);
    }

    #[test]
    fn global_forms_reduce_every_spatial_axis() {
        let x = f32s(&[1, 2, 1, 3], &[1.0, -2.0, 4.0, 0.0, 3.0, -4.0]);
        let wide = tensor(&[1, 2, 1, 3], &[1.0f64, -2.0, 4.0, 0.0, 3.0, -4.0]);
        for (operator, p, expected) in [
            ("GlobalMaxPool", None, [4.0, 3.0]),
            ("GlobalAveragePool", None, [1.0, -1.0 / 3.0]),
            ("GlobalLpPool", Some(1i64), [7.0, 7.0]),
            ("GlobalLpPool", Some(2), [21f32.sqrt(), 5.0]),
            ("GlobalLpPool", Some(3), [73f32.cbrt(), 91f32.cbrt()]),
        ] {
            let mut node = TestNode::new(operator, 13);
            if let Some(p) = p {
                node = node.attr("p", p);
            }
            let result = node.clone().input(x.clone()).run1().unwrap();
            assert_tensor_close(&result, &f32s(&[1, 2, 1, 1], &expected), 1e-6);
            if p != Some(3) {
                node.clone().input(x.clone()).assert_gpu_agrees(1e-6);
            }
            let doubles = node.input(wide.clone()).run1().unwrap().to_f32s().unwrap().into_owned();
            assert_tensor_close(&f32s(&[1, 2, 1, 1], &doubles), &f32s(&[1, 2, 1, 1], &expected), 1e-6);
        }
    }

    #[test]
    fn ranks_that_do_not_fit_and_missing_kernels_are_errors() {
        let x = Tensor::zeros(DType::F32, &[1, 1, 4]).unwrap();
        let node = TestNode::new("MaxPool", 12)
            .attr("kernel_shape", [2i64, 2])
            .input(x.clone());
        assert_eq!(node.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
        let node = TestNode::new("AveragePool", 12).input(x.clone());
        assert_eq!(node.run1().unwrap_err().code(), ErrorCode::InvalidGraph);
        let node = TestNode::new("LpPool", 12)
            .attr("kernel_shape", [2i64])
            .attr("p", 0i64)
            .input(x);
        assert_eq!(node.run1().unwrap_err().code(), ErrorCode::UnsupportedOperator);
        let flat = TestNode::new("GlobalMaxPool", 1).input(Tensor::zeros(DType::F32, &[1, 2]).unwrap());
        assert_eq!(flat.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
    }
}
