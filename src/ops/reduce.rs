//! ONNX's reductions: `ReduceSum` and its nine relatives, `ArgMax` and `ArgMin`, and `CumSum`.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, of_larger_build,
    widen::{narrow_ints, wide_ints, widened},
};
use crate::{
    cpu::{
        kernel::{CpuKernel, KernelIo},
        reduce::{Arg, ReduceElement, ReduceKind, ReducePlan, Tie, arg_reduce},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::{
            elementwise,
            lines::{self, Extreme},
            reduce::{self, ReduceOp},
        },
    },
    graph::Node,
    tensor::{AlignedBytes, DType, Dim, Element, Tensor, resolve_axes, resolve_axis},
};

/// Reduces over some axes; without axes over all, or over none with `noop_with_empty_axes`.
///
/// The axes are an attribute up to opset 17 (`ReduceSum`: 12), an input afterwards. f16, bf16, f32, f64 and
/// integers; `ReduceMax` and `ReduceMin` also bool.
#[derive(Debug)]
pub struct Reduce {
    kind: ReduceKind,
    axes: Axes,
    keep: bool,
    noop: bool,
}

#[derive(Debug)]
enum Axes {
    All,
    Given(Vec<i64>),
    /// Input 1, when it is given and not empty.
    Input,
}

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident = $kind:ident, input since $since:literal;)*) => {
        impl Reduce {
            $($(#[$doc])*
            pub fn $name(node: &Node) -> Result<Box<dyn Operator>> {
                Reduce::make(node, ReduceKind::$kind, $since)
            })*
        }
    };
}

reductions! {
    /// ONNX `ReduceSum`.
    sum = Sum, input since 13;
    /// ONNX `ReduceMean`.
    mean = Mean, input since 18;
    /// ONNX `ReduceMax`.
    max = Max, input since 18;
    /// ONNX `ReduceMin`.
    min = Min, input since 18;
    /// ONNX `ReduceProd`.
    prod = Prod, input since 18;
    /// ONNX `ReduceL1`.
    l1 = L1, input since 18;
    /// ONNX `ReduceL2`.
    l2 = L2, input since 18;
    /// ONNX `ReduceLogSum`.
    log_sum = LogSum, input since 18;
    /// ONNX `ReduceLogSumExp`.
    log_sum_exp = LogSumExp, input since 18;
    /// ONNX `ReduceSumSquare`.
    sum_square = SumSquare, input since 18;
}

impl Reduce {
    fn make(node: &Node, kind: ReduceKind, input_since: i64) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        let (axes, noop) = if node.operator.version >= input_since {
            (Axes::Input, attributes.flag("noop_with_empty_axes", false)?)
        } else {
            match attributes.ints("axes")? {
                None | Some([]) => (Axes::All, false),
                Some(axes) => (Axes::Given(axes.to_vec()), false),
            }
        };
        Ok(Box::new(Reduce {
            kind,
            axes,
            keep: attributes.flag("keepdims", true)?,
            noop,
        }))
    }

    /// Which axes are reduced, given those asked for.
    fn reduced(&self, axes: &[i64], rank: usize) -> Result<Vec<bool>> {
        if axes.is_empty() {
            return Ok(vec![!self.noop; rank]);
        }
        let mut reduced = vec![false; rank];
        for axis in resolve_axes(axes, rank)? {
            reduced[axis] = true;
        }
        Ok(reduced)
    }

    /// The output's shape.
    fn output<D: Clone + From<usize>>(&self, shape: &[D], reduced: &[bool]) -> Vec<D> {
        let kept = shape
            .iter()
            .zip(reduced)
            .filter_map(|(dim, &reduced)| match (reduced, self.keep) {
                (false, _) => Some(dim.clone()),
                (true, true) => Some(D::from(1)),
                (true, false) => None,
            });
        kept.collect()
    }

    /// The axes that are known before a run.
    fn known_axes(&self, constant: Option<&Tensor>, given: bool) -> Result<Option<Vec<i64>>> {
        Ok(match (&self.axes, constant) {
            (Axes::All, _) => Some(Vec::new()),
            (Axes::Given(axes), _) => Some(axes.clone()),
            (Axes::Input, Some(constant)) => Some(constant.to_i64s()?),
            (Axes::Input, None) => (!given).then(Vec::new),
        })
    }

    fn cpu_of<T: Element + ReduceElement>(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let shape = ctx.input(0)?.shape.clone();
        let kind = self.kind;
        let Some(axes) = self.known_axes(
            ctx.constant(1),
            ctx.input_count() > 1 && ctx.optional_input(1).is_some(),
        )?
        else {
            return Ok(self.dynamic::<T>());
        };
        let plan = plan(&shape, &self.reduced(&axes, shape.len())?)?;
        let scratch_bytes = plan.scratch_len(kind) * size_of::<T>();
        Ok(CpuKernel::compute_with_scratch("reduce", scratch_bytes, move |io| {
            let KernelIo {
                inputs,
                outputs,
                scratch,
                ..
            } = io;
            run::<T>(&plan, kind, inputs.get(0)?, outputs.take(0)?, scratch)
        }))
    }

    /// The kernel for integers and bools, in 64 bits.
    fn integers(&self, dtype: DType, axes: Option<Vec<i64>>) -> CpuKernel {
        let (kind, keep, noop) = (self.kind, self.keep, self.noop);
        // Sums and products of u64 have the bits of those of i64; the order and the rest have not.
        let is_u64 = dtype == DType::U64;
        let sign = if is_u64 && matches!(kind, ReduceKind::Max | ReduceKind::Min) {
            i64::MIN
        } else {
            0
        };
        let wrapping = [ReduceKind::Sum, ReduceKind::Prod, ReduceKind::SumSquare, ReduceKind::L1];
        let as_float = is_u64 && sign == 0 && !wrapping.contains(&kind);
        CpuKernel::dynamic("reduce", move |inputs| {
            let input = inputs.first().and_then(Option::as_ref);
            let input = input.ok_or_else(|| Error::internal("a reduction's input is missing"))?;
            let axes = match (&axes, inputs.get(1).and_then(Option::as_ref)) {
                (Some(axes), _) => axes.clone(),
                (None, Some(axes)) => axes.to_i64s()?,
                (None, None) => Vec::new(),
            };
            let rule = Reduce {
                kind,
                axes: Axes::Input,
                keep,
                noop,
            };
            let reduced = rule.reduced(&axes, input.shape().len())?;
            let plan = plan(input.shape(), &reduced)?;
            let shape = rule.output(input.shape(), &reduced);
            if as_float {
                let mut out = vec![0f64; plan.len()];
                plan.run(
                    kind,
                    &input.to_f64s()?,
                    &mut out,
                    &mut vec![0.0; plan.scratch_len(kind)],
                );
                return Ok(vec![Tensor::from_f64s(dtype, &shape, &out)?]);
            }
            let mut values = wide_ints(input)?;
            let (mut out, mut scratch) = (vec![0i64; plan.len()], vec![0i64; plan.scratch_len(kind)]);
            values.iter_mut().for_each(|value| *value ^= sign);
            plan.run(kind, &values, &mut out, &mut scratch);
            out.iter_mut().for_each(|value| *value ^= sign);
            let extremum = matches!(kind, ReduceKind::Max | ReduceKind::Min);
            if extremum && !is_u64 {
                // Of nothing the largest is the least that the type has.
                let (low, high) = if dtype == DType::Bool {
                    (0, 1)
                } else {
                    (i64::MIN, i64::MAX)
                };
                out.iter_mut().for_each(|value| *value = (*value).clamp(low, high));
                return Ok(vec![Tensor::from_i64s(dtype, &shape, &out)?]);
            }
            Ok(vec![narrow_ints(dtype, &shape, &out)?])
        })
    }

    /// The kernel for axes that are computed in the run.
    fn dynamic<T: Element + ReduceElement>(&self) -> CpuKernel {
        let rule = Reduce {
            kind: self.kind,
            axes: Axes::Input,
            keep: self.keep,
            noop: self.noop,
        };
        CpuKernel::dynamic("reduce", move |inputs| {
            let (Some(input), Some(axes)) = (&inputs[0], inputs.get(1).and_then(Option::as_ref)) else {
                return Err(Error::internal("a reduction's inputs are missing"));
            };
            let reduced = rule.reduced(&axes.to_i64s()?, input.shape().len())?;
            let plan = plan(input.shape(), &reduced)?;
            let shape = rule.output(input.shape(), &reduced);
            let mut out = AlignedBytes::zeroed(plan.len() * size_of::<T>())?;
            let mut scratch = AlignedBytes::zeroed(plan.scratch_len(rule.kind) * size_of::<T>())?;
            let values = cast_mut::<T>(out.as_mut())?;
            run(&plan, rule.kind, &input.view::<T>()?, values, scratch.as_mut())?;
            Ok(vec![Tensor::from_bytes(T::DTYPE, &shape, out)?])
        })
    }
}

fn plan(shape: &[usize], reduced: &[bool]) -> Result<ReducePlan> {
    ReducePlan::new(shape, reduced).ok_or_else(|| Error::internal("a reduction has no plan"))
}

fn cast_mut<T: Element>(bytes: &mut [u8]) -> Result<&mut [T]> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|reason| Error::internal(format!("memory of a reduction: {reason}")))
}

fn run<T: Element + ReduceElement>(
    plan: &ReducePlan,
    kind: ReduceKind,
    input: &[T],
    out: &mut [T],
    scratch: &mut [u8],
) -> Result<()> {
    let scratch = cast_mut(&mut scratch[..plan.scratch_len(kind) * size_of::<T>()])?;
    plan.run(kind, input, out, scratch);
    Ok(())
}

impl Operator for Reduce {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let axes = match (&self.axes, ctx.has_input(1)) {
            (Axes::All, _) | (Axes::Input, false) => Some(Vec::new()),
            (Axes::Given(axes), _) => Some(axes.clone()),
            (Axes::Input, true) => ctx.ints(1),
        };
        let shape = match (ctx.shape(0), axes) {
            (Some(shape), Some(axes)) => Some(self.output(shape, &self.reduced(&axes, shape.len())?)),
            (Some(shape), None) if self.keep => Some(ctx.fresh_shape(shape.len())),
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        let extremum = matches!(self.kind, ReduceKind::Max | ReduceKind::Min);
        match dtype {
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_of::<f32>(ctx)),
            DType::F32 => self.cpu_of::<f32>(ctx),
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_of::<f64>(ctx),
            DType::I64 => self.cpu_of::<i64>(ctx),
            _ if !dtype.is_integer() && (dtype != DType::Bool || !extremum) => Err(ctx.unsupported_type(0)),
            _ => {
                let given = ctx.input_count() > 1 && ctx.optional_input(1).is_some();
                Ok(self.integers(dtype, self.known_axes(ctx.constant(1), given)?))
            }
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let input = ctx.input(0)?;
        let given = ctx.input_count() > 1 && ctx.optional_input(1).is_some();
        let (Some(ty), Some(axes)) = (
            GpuType::from_dtype(input.dtype),
            self.known_axes(ctx.constant(1), given)?,
        ) else {
            return Ok(None);
        };
        let op = match self.kind {
            ReduceKind::Sum => ReduceOp::Sum,
            ReduceKind::Mean => ReduceOp::Mean,
            ReduceKind::Max => ReduceOp::Max,
            ReduceKind::Min => ReduceOp::Min,
            ReduceKind::Prod => ReduceOp::Prod,
            ReduceKind::L1 => ReduceOp::L1,
            ReduceKind::L2 => ReduceOp::L2,
            ReduceKind::LogSum => ReduceOp::LogSum,
            ReduceKind::LogSumExp => ReduceOp::LogSumExp,
            ReduceKind::SumSquare => ReduceOp::SumSquare,
        };
        let reduced = self.reduced(&axes, input.shape.len())?;
        let axes: Vec<usize> = (0..reduced.len()).filter(|&axis| reduced[axis]).collect();
        // Truth values are 0 and 1 in words.
        let extremum = matches!(self.kind, ReduceKind::Max | ReduceKind::Min);
        let ty = match ty {
            GpuType::Bool if extremum => GpuType::U32,
            ty => ty,
        };
        let shape = &ctx.output(0)?.shape;
        if ALL_OPERATORS && input.shape.contains(&0) && !shape.contains(&0) {
            let of_nothing = match (self.kind, ty) {
                (ReduceKind::Max, GpuType::F32) | (ReduceKind::LogSum | ReduceKind::LogSumExp, _) => {
                    f32::NEG_INFINITY.to_bits()
                }
                (ReduceKind::Min, GpuType::F32) => f32::INFINITY.to_bits(),
                (ReduceKind::Max, _) if input.dtype == DType::Bool => 0,
                (ReduceKind::Min, _) if input.dtype == DType::Bool => 1,
                (ReduceKind::Prod, GpuType::F32) => 1f32.to_bits(),
                (ReduceKind::Sum | ReduceKind::L1 | ReduceKind::L2 | ReduceKind::SumSquare, _) => 0,
                _ => return Ok(None),
            };
            let fill = |dispatch: crate::gpu::wgsl::DispatchBuilder| dispatch.param("fill", of_nothing);
            return Ok(elementwise::kernel("params.fill", &[], "u32", shape, fill, ctx.caps));
        }
        Ok(reduce::reduce(op, ty, &input.shape, &axes, ctx.caps))
    }
}

/// ONNX `ArgMax` and `ArgMin` (since opset 1): the place of the largest or smallest value along `axis`, as i64.
/// `select_last_index` (opset 12) takes the last of equals instead of the first. Every numeric type.
#[derive(Debug)]
pub struct ArgReduce {
    arg: Arg,
    axis: i64,
    keep: bool,
    tie: Tie,
}

impl ArgReduce {
    /// ONNX `ArgMax`.
    pub fn max(node: &Node) -> Result<Box<dyn Operator>> {
        ArgReduce::make(node, Arg::Max)
    }

    /// ONNX `ArgMin`.
    pub fn min(node: &Node) -> Result<Box<dyn Operator>> {
        ArgReduce::make(node, Arg::Min)
    }

    fn make(node: &Node, arg: Arg) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        let tie = match attributes.flag("select_last_index", false)? {
            true => Tie::Last,
            false => Tie::First,
        };
        Ok(Box::new(ArgReduce {
            arg,
            axis: attributes.int("axis")?.unwrap_or(0),
            keep: attributes.flag("keepdims", true)?,
            tie,
        }))
    }

    fn cpu_of<T: Element + PartialOrd>(&self, sides: [usize; 3]) -> CpuKernel {
        let (arg, tie) = (self.arg, self.tie);
        CpuKernel::compute("arg_reduce", move |io| {
            arg_reduce::<T>(arg, tie, io.inputs.get(0)?, io.outputs.take(0)?, sides);
            Ok(())
        })
    }
}

/// A shape as `[outer, axis, inner]`.
fn sides(shape: &[usize], axis: usize) -> [usize; 3] {
    [
        shape[..axis].iter().product(),
        shape[axis],
        shape[axis + 1..].iter().product(),
    ]
}

impl Operator for ArgReduce {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let shape = match ctx.shape(0) {
            None => None,
            Some(shape) => {
                let axis = resolve_axis(self.axis, shape.len())?;
                let mut shape = shape.to_vec();
                match self.keep {
                    true => shape[axis] = Dim::from(1),
                    false => drop(shape.remove(axis)),
                }
                Some(shape)
            }
        };
        ctx.set_output(0, DType::I64, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let input = ctx.input(0)?;
        let sides = sides(&input.shape, resolve_axis(self.axis, input.shape.len())?);
        if sides[1] == 0 && sides[0] * sides[2] > 0 {
            return Err(Error::new(
                ErrorCode::ShapeMismatch,
                "an empty axis has no largest or smallest value",
            ));
        }
        Ok(match input.dtype {
            DType::F32 => self.cpu_of::<f32>(sides),
            DType::F64 if !ALL_OPERATORS => return Err(of_larger_build("float64")),
            DType::F64 => self.cpu_of::<f64>(sides),
            DType::F16 | DType::BF16 => return widened(ctx, |_| Ok(self.cpu_of::<f32>(sides))),
            DType::I64 => self.cpu_of::<i64>(sides),
            dtype if dtype.is_integer() => {
                let (arg, tie) = (self.arg, self.tie);
                let shape = ctx.output(0)?.shape.clone();
                let sign = if dtype == DType::U64 { i64::MIN } else { 0 };
                CpuKernel::dynamic("arg_reduce", move |inputs| {
                    let input = inputs.first().and_then(Option::as_ref);
                    let mut values = wide_ints(input.ok_or_else(|| Error::internal("an input is missing"))?)?;
                    values.iter_mut().for_each(|value| *value ^= sign);
                    let mut out = vec![0i64; sides[0] * sides[2]];
                    arg_reduce(arg, tie, &values, &mut out, sides);
                    Ok(vec![Tensor::new(&shape, out)?])
                })
            }
            _ => return Err(ctx.unsupported_type(0)),
        })
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let input = ctx.input(0)?;
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let sides = sides(&input.shape, resolve_axis(self.axis, input.shape.len())?);
        let ty = GpuType::from_dtype(input.dtype).filter(|&ty| ty != GpuType::Bool);
        let better = match (self.arg, self.tie) {
            (Arg::Max, Tie::First) => ">",
            (Arg::Max, Tie::Last) => ">=",
            (Arg::Min, Tie::First) => "<",
            (Arg::Min, Tie::Last) => "<=",
        };
        Ok(ty.and_then(|ty| lines::extreme(ty, sides, better, Extreme::Index, ctx.caps)))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

/// ONNX `CumSum` (since opset 11): running sums along the axis that input 1 names; `exclusive` leaves the own element
/// out, `reverse` runs from the end. f16 and bf16 (opset 14), f32, f64, i32, i64, u32, u64.
#[derive(Clone, Copy, Debug)]
pub struct CumSum {
    exclusive: bool,
    reverse: bool,
}

impl CumSum {
    /// Reads the attributes.
    pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
        Ok(Box::new(CumSum {
            exclusive: node.attributes.flag("exclusive", false)?,
            reverse: node.attributes.flag("reverse", false)?,
        }))
    }

    fn cpu_of<T: Element + ReduceElement>(self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let shape = ctx.input(0)?.shape.clone();
        let known = match ctx.constant(1) {
            Some(axis) => Some(cum_sum_axis(&axis.to_i64s()?, shape.len())?),
            None => None,
        };
        let axis_dtype = ctx.input(1)?.dtype;
        Ok(CpuKernel::compute("cum_sum", move |io| {
            let axis = match (known, axis_dtype) {
                (Some(axis), _) => axis,
                (None, DType::I32) => {
                    let values: Vec<i64> = io.inputs.get::<i32>(1)?.iter().map(|&v| v.into()).collect();
                    cum_sum_axis(&values, shape.len())?
                }
                (None, _) => cum_sum_axis(io.inputs.get::<i64>(1)?, shape.len())?,
            };
            self.run::<T>(io.inputs.get(0)?, io.outputs.take(0)?, sides(&shape, axis));
            Ok(())
        }))
    }

    fn run<T: ReduceElement>(self, input: &[T], out: &mut [T], [outer, axis, inner]: [usize; 3]) {
        for block in 0..outer {
            for column in 0..inner {
                let mut sum = T::ZERO;
                for step in 0..axis {
                    let index = if self.reverse { axis - 1 - step } else { step };
                    let place = (block * axis + index) * inner + column;
                    let before = sum;
                    sum = sum.plus(input[place]);
                    out[place] = if self.exclusive { before } else { sum };
                }
            }
        }
    }
}

fn cum_sum_axis(values: &[i64], rank: usize) -> Result<usize> {
    match values {
        [axis] => resolve_axis(*axis, rank),
        other => Err(Error::new(ErrorCode::ShapeMismatch, "input 1 is not one axis")
            .expected("1 value")
            .actual(format!("{} values", other.len()))),
    }
}

impl Operator for CumSum {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let (Some(rank), Some(axis)) = (ctx.rank(0), ctx.ints(1)) {
            cum_sum_axis(&axis, rank)?;
        }
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !matches!(ctx.input(1)?.dtype, DType::I32 | DType::I64) {
            return Err(ctx.unsupported_type(1));
        }
        match ctx.input(0)?.dtype {
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_of::<f32>(ctx)),
            DType::F32 => self.cpu_of::<f32>(ctx),
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_of::<f64>(ctx),
            DType::I64 => self.cpu_of::<i64>(ctx),
            // In the lowest bits sums of all integer types are the same.
            dtype if dtype.is_integer() => {
                let sum = *self;
                Ok(CpuKernel::dynamic("cum_sum", move |inputs| {
                    let [Some(input), Some(axis), ..] = inputs else {
                        return Err(Error::internal("an input is missing"));
                    };
                    let sides = sides(input.shape(), cum_sum_axis(&axis.to_i64s()?, input.shape().len())?);
                    let values = wide_ints(input)?;
                    let mut out = vec![0i64; values.len()];
                    sum.run(&values, &mut out, sides);
                    Ok(vec![narrow_ints(input.dtype(), input.shape(), &out)?])
                }))
            }
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let input = ctx.input(0)?;
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let ty = GpuType::from_dtype(input.dtype).filter(|&ty| ty != GpuType::Bool);
        let (Some(ty), Some(axis)) = (ty, ctx.ints(1)) else {
            return Ok(None);
        };
        let sides = sides(&input.shape, cum_sum_axis(&axis, input.shape.len())?);
        Ok(lines::cum_sum(ty, sides, self.exclusive, self.reverse, ctx.caps))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};
    use super::*;
    use crate::cpu::testing::Rng;
    use crate::tensor::Bool8;

    const KINDS: [(&str, fn(&[f64]) -> f64); 10] = [
        ("ReduceSum", |v| v.iter().sum()),
        ("ReduceMean", |v| v.iter().sum::<f64>() / v.len() as f64),
        ("ReduceMax", |v| v.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        ("ReduceMin", |v| v.iter().copied().fold(f64::INFINITY, f64::min)),
        ("ReduceProd", |v| v.iter().product()),
        ("ReduceL1", |v| v.iter().map(|x| x.abs()).sum()),
        ("ReduceL2", |v| v.iter().map(|x| x * x).sum::<f64>().sqrt()),
        ("ReduceLogSum", |v| v.iter().sum::<f64>().ln()),
        ("ReduceLogSumExp", |v| v.iter().map(|x| x.exp()).sum::<f64>().ln()),
        ("ReduceSumSquare", |v| v.iter().map(|x| x * x).sum()),
    ];

    /// The definition: every input element goes to the output element that its kept coordinates name.
    fn reference(f: fn(&[f64]) -> f64, shape: &[usize], values: &[f32], reduced: &[bool], keep: bool) -> Tensor {
        let kept: Vec<usize> = shape
            .iter()
            .zip(reduced)
            .map(|(&d, &r)| if r { 1 } else { d })
            .collect();
        let mut groups = vec![Vec::new(); kept.iter().product()];
        for (index, &value) in values.iter().enumerate() {
            let (mut rest, mut place, mut step) = (index, 0, 1);
            for axis in (0..shape.len()).rev() {
                let coordinate = rest % shape[axis];
                rest /= shape[axis];
                if !reduced[axis] {
                    place += coordinate * step;
                    step *= shape[axis];
                }
            }
            groups[place].push(f64::from(value));
        }
        let values: Vec<f32> = groups.iter().map(|group| f(group) as f32).collect();
        let dropped: Vec<usize> = shape
            .iter()
            .zip(reduced)
            .filter(|(_, r)| !**r)
            .map(|(&d, _)| d)
            .collect();
        f32s(if keep { &kept } else { &dropped }, &values)
    }

    #[test]
    fn every_reduction_over_every_set_of_axes_in_every_form() {
        let mut rng = Rng::new(51);
        let shape = [3, 2, 5, 4];
        for (operator, f) in KINDS {
            for set in 0..16u32 {
                let reduced: Vec<bool> = (0..4).map(|axis| set >> axis & 1 == 1).collect();
                let axes: Vec<i64> = (0..4i64)
                    .filter(|&axis| reduced[axis as usize])
                    .map(|axis| if set % 3 == 0 { axis - 4 } else { axis })
                    .collect();
                let keep = rng.bool();
                // Logarithms want positive values.
                let values: Vec<f32> = rng.vec(120).iter().map(|v| v.abs() + 0.1).collect();
                let all = vec![true; 4];
                let expected = reference(f, &shape, &values, if set == 0 { &all } else { &reduced }, keep);
                let x = f32s(&shape, &values);
                let axes_tensor = i64s(&[axes.len()], &axes);
                let node = |version| {
                    TestNode::new(operator, version)
                        .attr("keepdims", i64::from(keep))
                        .input(x.clone())
                };
                let nodes = [
                    node(11).attr("axes", &axes[..]),
                    node(18).constant(axes_tensor.clone()),
                    node(18).input(axes_tensor),
                ];
                if [0, 1, 6, 8, 13].contains(&set) {
                    nodes[1].assert_gpu_agrees(1e-5);
                }
                for node in nodes {
                    assert_tensor_close(&node.run1().unwrap(), &expected, 1e-5);
                }
            }
        }
    }

    #[test]
    fn no_axes_means_all_or_none() {
        let x = f32s(&[2, 2], &[1.0, -2.0, 3.0, 4.0]);
        let all = f32s(&[1, 1], &[6.0]);
        for (node, expected) in [
            (TestNode::new("ReduceSum", 13).input(x.clone()), &all),
            (
                TestNode::new("ReduceSum", 13)
                    .input(x.clone())
                    .constant(i64s(&[0], &[])),
                &all,
            ),
            (
                TestNode::new("ReduceSum", 13)
                    .input(x.clone())
                    .attr("noop_with_empty_axes", 1i64),
                &x,
            ),
            (
                TestNode::new("ReduceSum", 13)
                    .input(x.clone())
                    .constant(i64s(&[0], &[]))
                    .attr("noop_with_empty_axes", 1i64),
                &x,
            ),
        ] {
            assert_eq!(node.run1().unwrap(), *expected);
        }
    }

    #[test]
    fn types_of_the_schema_and_no_other() {
        let node = |operator, x| {
            TestNode::new(operator, 20)
                .input(x)
                .constant(i64s(&[1], &[0]))
                .attr("keepdims", 0i64)
        };
        let bools = tensor(&[2, 2], &[Bool8(0), Bool8(1), Bool8(0), Bool8(0)]);
        assert_eq!(
            node("ReduceMax", bools.clone()).run1().unwrap(),
            tensor(&[2], &[Bool8(0), Bool8(1)])
        );
        assert_eq!(
            node("ReduceMin", bools.clone()).run1().unwrap(),
            tensor(&[2], &[Bool8(0), Bool8(0)])
        );
        assert_eq!(
            node("ReduceSum", bools).run1().unwrap_err().code(),
            ErrorCode::UnsupportedOperator
        );
        let bytes = tensor(&[2, 1], &[-3i8, 5]);
        assert_eq!(node("ReduceMin", bytes).run1().unwrap(), tensor(&[1], &[-3i8]));
        let longs = i64s(&[2, 1], &[1 << 60, 5]);
        assert_eq!(
            node("ReduceSum", longs.clone()).run1().unwrap(),
            i64s(&[1], &[(1 << 60) + 5])
        );
        assert_eq!(
            node("ReduceMean", i64s(&[2, 1], &[4, 7])).run1().unwrap(),
            i64s(&[1], &[5])
        );
        let halves = tensor(&[2, 1], &[half::f16::from_f32(0.5), half::f16::from_f32(2.0)]);
        assert_eq!(
            node("ReduceProd", halves).run1().unwrap(),
            tensor(&[1], &[half::f16::ONE])
        );
    }

    #[test]
    fn axes_outside_the_rank_or_given_twice_are_errors() {
        for axes in [[2i64, 0], [0, -2]] {
            let node = TestNode::new("ReduceMean", 13)
                .input(f32s(&[1, 1], &[1.0]))
                .attr("axes", axes);
            assert_eq!(node.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
        }
    }

    #[test]
    fn empty_reductions_give_the_neutral_element() {
        let empty = Tensor::zeros(DType::F32, &[2, 0]).unwrap();
        for (operator, neutral) in [
            ("ReduceSum", 0.0),
            ("ReduceProd", 1.0),
            ("ReduceMax", f32::NEG_INFINITY),
            ("ReduceMin", f32::INFINITY),
        ] {
            let node = TestNode::new(operator, 20)
                .input(empty.clone())
                .constant(i64s(&[1], &[1]));
            assert_eq!(node.run1().unwrap(), f32s(&[2, 1], &[neutral; 2]), "{operator}");
        }
    }

    #[test]
    fn arg_max_and_arg_min_break_ties_as_told() {
        let x = f32s(&[2, 3], &[2.0, 1.0, 2.0, -1.0, 5.0, -1.0]);
        for (operator, axis, last, keep, expected) in [
            ("ArgMax", 1i64, 0i64, 1i64, i64s(&[2, 1], &[0, 1])),
            ("ArgMax", 1, 1, 0, i64s(&[2], &[2, 1])),
            ("ArgMin", -1, 0, 0, i64s(&[2], &[1, 0])),
            ("ArgMin", 1, 1, 1, i64s(&[2, 1], &[1, 2])),
            ("ArgMax", 0, 0, 0, i64s(&[3], &[0, 1, 0])),
        ] {
            let node = TestNode::new(operator, 13)
                .attr("axis", axis)
                .attr("select_last_index", last)
                .attr("keepdims", keep)
                .input(x.clone());
            assert_eq!(node.run1().unwrap(), expected, "{operator} {axis}");
        }
        let empty = TestNode::new("ArgMax", 13).input(Tensor::zeros(DType::F32, &[0, 2]).unwrap());
        assert_eq!(empty.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
    }

    #[test]
    fn running_sums_in_both_directions() {
        let x = tensor(&[2, 3], &[1i32, 2, 3, 4, 5, 6]);
        for (axis, exclusive, reverse, expected) in [
            (0i64, 0i64, 0i64, [1, 2, 3, 5, 7, 9]),
            (-1, 0, 0, [1, 3, 6, 4, 9, 15]),
            (1, 1, 0, [0, 1, 3, 0, 4, 9]),
            (1, 0, 1, [6, 5, 3, 15, 11, 6]),
            (1, 1, 1, [5, 3, 0, 11, 6, 0]),
        ] {
            let node = TestNode::new("CumSum", 14)
                .attr("exclusive", exclusive)
                .attr("reverse", reverse)
                .input(x.clone());
            let constant = node.clone().constant(i64s(&[], &[axis])).run1().unwrap();
            let fed = node.input(tensor(&[1], &[axis as i32])).run1().unwrap();
            assert_eq!(constant, tensor(&[2, 3], &expected));
            assert_eq!(fed, constant);
        }
    }
}
