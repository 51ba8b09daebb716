//! Choosing among elements: Where and Clip.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, PointwiseForm, PointwiseInput,
    lower::{Concrete, Movement, infer_moved_elements, invalid, lower_movement, operand},
    on_gpu,
};
use crate::{
    cpu::{
        elementwise::{self, shape_error},
        expression,
        kernel::CpuKernel,
        movement::MoveFn,
    },
    error::{Error, Result},
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::elementwise::{self as gpu_elementwise, Input},
    },
    graph::Node,
    pointwise::{Access, Builder, Collapsed, Expr, Storage, collapse},
    tensor::{DType, Dim, Tensor},
};

/// ONNX `Where` (opset 9): elements of the second input where the first (bool) is true, else of the third. All three
/// broadcast; any element type, strings included.
#[derive(Debug)]
struct Where;

/// Makes [`Where`].
pub fn make_where(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Where))
}

fn where_expr() -> Result<Expr> {
    let mut b = Builder::new();
    let (condition, x, y) = (b.input(Storage::Bool), b.input(Storage::F32), b.input(Storage::F32));
    let z = b.select(condition, x, y);
    b.output(z, Storage::F32);
    b.finish().map_err(|error| Error::internal(error.to_string()))
}

impl Operator for Where {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let (condition, dtype, other) = (ctx.dtype(0)?, ctx.dtype(1)?, ctx.dtype(2)?);
        if condition != DType::Bool || dtype != other {
            return Err(invalid("the inputs' element types do not fit")
                .expected("bool and twice the same type")
                .actual(format!("{condition}, {dtype} and {other}")));
        }
        let shape = ctx.broadcast(&[0, 1, 2])?;
        ctx.set_output(0, dtype, shape);
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if ctx.input(1)?.dtype == DType::F32 {
            return expression::kernel("pointwise", &where_expr()?, ctx.operands(), vec![ctx.result(0)?]);
        }
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let kernel = on_gpu::pointwise_kernel(self, ctx);
        if kernel.is_some() || !ALL_OPERATORS {
            return Ok(kernel);
        }
        let output = ctx.output(0)?;
        let is_exact = GpuType::held(output.dtype).is_some_and(|ty| ty != GpuType::I64);
        if !is_exact {
            return Ok(kernel);
        }
        let input = |index: usize| -> Result<Input<'_>> {
            let shape = &ctx.input(index)?.shape;
            Ok(Input {
                index,
                ty: "u32",
                shape,
            })
        };
        let inputs = [input(0)?, input(1)?, input(2)?];
        let value = "select(x2, x1, x0 != 0u)";
        Ok(gpu_elementwise::kernel(
            value,
            &inputs,
            "u32",
            &output.shape,
            |dispatch| dispatch,
            ctx.caps,
        ))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }

    fn pointwise(&self, inputs: &[PointwiseInput<'_>]) -> Option<PointwiseForm> {
        let is_f32 = inputs.len() == 3 && inputs[1..].iter().all(|input| input.dtype == DType::F32);
        is_f32.then(|| PointwiseForm::of_all(where_expr().ok()?, 3)).flatten()
    }
}

impl Movement for Where {
    fn kernel_name(&self) -> &'static str {
        "where"
    }

    fn data(&self, _: &[bool]) -> Vec<usize> {
        vec![1, 2]
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let shapes = [node.input(0)?, node.input(1)?, node.input(2)?];
        let space = collapse(node.output()?, &shapes).map_err(shape_error)?;
        Ok(Box::new(move |moved| {
            let condition = moved.inputs.bytes(0)?;
            let (x, y) = (moved.data[0], moved.data[1]);
            let size = moved.size;
            let target = moved.output()?;
            match size {
                1 => choose::<1>(&space, condition, x, y, target),
                2 => choose::<2>(&space, condition, x, y, target),
                4 => choose::<4>(&space, condition, x, y, target),
                _ => choose::<8>(&space, condition, x, y, target),
            }
            Ok(())
        }))
    }
}

fn choose<const N: usize>(space: &Collapsed, condition: &[u8], x: &[u8], y: &[u8], target: &mut [u8]) {
    let (x, y): (&[[u8; N]], &[[u8; N]]) = (x.as_chunks().0, y.as_chunks().0);
    let target: &mut [[u8; N]] = target.as_chunks_mut().0;
    let inner = space.inner();
    let steps: Vec<usize> = (0..3).map(|input| space.inner_stride(input)).collect();
    for (row, target) in target.chunks_mut(inner.max(1)).enumerate() {
        let starts: Vec<usize> = (0..3).map(|input| row_start(space, input, row)).collect();
        for (column, to) in target.iter_mut().enumerate() {
            let at = |input: usize| starts[input] + column * steps[input];
            *to = if condition[at(0)] != 0 { x[at(1)] } else { y[at(2)] };
        }
    }
}

fn row_start(space: &Collapsed, input: usize, row: usize) -> usize {
    match &space.inputs[input] {
        Access::Contiguous => row * space.inner(),
        Access::Scalar => 0,
        Access::Strided(strides) => {
            let (mut rest, mut offset) = (row, 0);
            for (&dim, &stride) in space.dims.iter().zip(strides).rev().skip(1) {
                offset += rest % dim * stride;
                rest /= dim;
            }
            offset
        }
    }
}

/// ONNX `Clip`: elements cut off at a lower and an upper bound, which are attributes before opset 11 and scalar inputs
/// from then on. Where the lower bound is above the upper, everything becomes the upper. All numeric types.
#[derive(Debug)]
struct Clip {
    low: Option<f32>,
    high: Option<f32>,
}

/// Makes [`Clip`].
pub fn make_clip(node: &Node) -> Result<Box<dyn Operator>> {
    let legacy = node.operator.version < 11;
    let bound = |name: &str| if legacy { node.attributes.float(name) } else { Ok(None) };
    Ok(Box::new(Clip {
        low: bound("min")?,
        high: bound("max")?,
    }))
}

/// One bound of a Clip.
#[derive(Clone, Copy, Debug)]
enum Bound {
    None,
    Constant(f32),
    Input(usize),
}

impl Clip {
    fn bound(attribute: Option<f32>, input: usize, given: bool, constant: Option<&Tensor>) -> Bound {
        let known = constant.and_then(|tensor| tensor.to_f32s().ok()?.first().copied());
        match (attribute.or(known), given) {
            (Some(value), _) => Bound::Constant(value),
            (None, true) => Bound::Input(input),
            (None, false) => Bound::None,
        }
    }

    /// The expression, and which inputs it takes.
    fn expr(low: Bound, high: Bound) -> Result<(Expr, Vec<usize>)> {
        let mut b = Builder::new();
        let mut inputs = vec![0];
        let x = b.input(Storage::F32);
        let mut load = |b: &mut Builder, bound: Bound| match bound {
            Bound::None => None,
            Bound::Constant(value) => Some(b.constant(value)),
            Bound::Input(index) => {
                inputs.push(index);
                Some(b.input(Storage::F32))
            }
        };
        let (low, high) = (load(&mut b, low), load(&mut b, high));
        let above = low.map_or(x, |low| b.max(x, low));
        let result = high.map_or(above, |high| b.min(above, high));
        b.output(result, Storage::F32);
        let expr = b.finish().map_err(|error| Error::internal(error.to_string()))?;
        Ok((expr, inputs))
    }
}

impl Operator for Clip {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        for index in [1, 2] {
            if ctx.has_input(index) && ctx.dtype(index)? != ctx.dtype(0)? {
                return Err(invalid("a bound has another element type than the clipped input"));
            }
            if ctx
                .shape(index)
                .is_some_and(|shape| Dim::product(shape).known().is_some_and(|count| count != 1))
            {
                return Err(invalid("a bound is not one number"));
            }
        }
        ctx.copy_type(0, 0)?;
        let (x, low, high) = (ctx.input(0), ctx.input(1), ctx.input(2));
        let Some(elements) = x.and_then(|facts| facts.elements.as_ref()) else {
            return Ok(());
        };
        let mut results = elements.to_vec();
        for (bound, is_low) in [(low, true), (high, false)] {
            let Some(bound) = bound else { continue };
            let Some(bound) = bound.elements.as_ref().and_then(|list| list.first()) else {
                return Ok(());
            };
            for element in &mut results {
                *element = if is_low {
                    element.maximum(bound)
                } else {
                    element.minimum(bound)
                };
            }
        }
        ctx.set_elements(0, results);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let output = ctx.result(0)?;
        let dtype = output.dtype;
        let given = |index: usize| ctx.optional_input(index).is_some();
        if matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            let (expr, inputs) = Clip::expr(
                Clip::bound(self.low, 1, given(1), ctx.constant(1)),
                Clip::bound(self.high, 2, given(2), ctx.constant(2)),
            )?;
            let mut operands = Vec::new();
            for index in inputs {
                let mut operand = operand(index, ctx.input(index)?);
                if index > 0 {
                    operand.shape.clear();
                }
                operands.push(operand);
            }
            return expression::kernel("pointwise", &expr, operands, vec![output]);
        }
        let mut operands = ctx.operands();
        operands[1..].iter_mut().for_each(|bound| bound.shape.clear());
        let (has_low, has_high) = (given(1), given(2));
        if dtype == DType::F64 {
            let (low, high) = (self.low.map(f64::from), self.high.map(f64::from));
            return elementwise::kernel(
                "clip_f64",
                operands,
                output,
                move |tiles: &[&[f64]], results: &mut [f64]| {
                    let bound = |given: bool, tile: usize| given.then(|| tiles[tile][0]);
                    let low = bound(has_low, 1).or(low);
                    let high = bound(has_high, 1 + usize::from(has_low)).or(high);
                    for (to, &x) in results.iter_mut().zip(tiles[0]) {
                        let above = low.map_or(x, |low| if x < low { low } else { x });
                        *to = high.map_or(above, |high| if above > high { high } else { above });
                    }
                    Ok(())
                },
            );
        }
        if !dtype.is_integer() {
            return Err(ctx.unsupported_type(0));
        }
        // Adding the sign bit orders the bits of u64 as i64 orders itself.
        let flip = if dtype == DType::U64 { i64::MIN } else { 0 };
        elementwise::kernel(
            "clip_int",
            operands,
            output,
            move |tiles: &[&[i64]], results: &mut [i64]| {
                let bound = |given: bool, tile: usize| given.then(|| tiles[tile][0] ^ flip);
                let low = bound(has_low, 1);
                let high = bound(has_high, 1 + usize::from(has_low));
                for (to, &x) in results.iter_mut().zip(tiles[0]) {
                    let above = low.map_or(x ^ flip, |low| low.max(x ^ flip));
                    *to = high.map_or(above, |high| high.min(above)) ^ flip;
                }
                Ok(())
            },
        )
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let kernel = on_gpu::pointwise_kernel(self, ctx);
        if kernel.is_some() || !ALL_OPERATORS {
            return Ok(kernel);
        }
        let input = ctx.input(0)?;
        let ty = match GpuType::from_dtype(input.dtype) {
            Some(ty @ (GpuType::I32 | GpuType::U32)) => ty.wgsl(),
            _ => return Ok(kernel),
        };
        let shape = &input.shape;
        let (mut inputs, mut value) = (vec![Input { index: 0, ty, shape }], "x0".to_string());
        for (index, function) in [(1, "max"), (2, "min")] {
            if ctx.optional_input(index).is_some() {
                value = format!("{function}({value}, x{})", inputs.len());
                inputs.push(Input { index, ty, shape: &[] });
            }
        }
        Ok(gpu_elementwise::kernel(
            &value,
            &inputs,
            ty,
            shape,
            |dispatch| dispatch,
            ctx.caps,
        ))
    }

    fn pointwise(&self, inputs: &[PointwiseInput<'_>]) -> Option<PointwiseForm> {
        if inputs.first()?.dtype != DType::F32 {
            return None;
        }
        let bound = |attribute: Option<f32>, index: usize| match inputs.get(index) {
            Some(input) => Clip::bound(attribute, index, input.given, input.constant),
            None => Clip::bound(attribute, index, false, None),
        };
        let (expr, inputs) = Clip::expr(bound(self.low, 1), bound(self.high, 2)).ok()?;
        Some(PointwiseForm { expr, inputs })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s, tensor};
    use super::*;
    use crate::tensor::Bool8;

    #[test]
    fn where_broadcasts_all_three_inputs_in_every_type() {
        let condition = || tensor(&[2, 1], &[Bool8(1), Bool8(0)]);
        let node = |x: Tensor, y: Tensor| {
            let node = TestNode::new("Where", 16).input(condition());
            node.input(x).input(y).run1().unwrap()
        };
        let floats = node(f32s(&[3], &[1.0, 2.0, 3.0]), f32s(&[], &[9.0]));
        assert_eq!(floats, f32s(&[2, 3], &[1.0, 2.0, 3.0, 9.0, 9.0, 9.0]));
        let shorts = node(tensor(&[3], &[1i16, 2, 3]), tensor(&[1, 1], &[9i16]));
        assert_eq!(shorts, tensor(&[2, 3], &[1i16, 2, 3, 9, 9, 9]));
        let strings = |list: &[&str]| {
            Tensor::from_strings(&[list.len()], list.iter().map(|text| text.to_string()).collect()).unwrap()
        };
        let result = node(strings(&["a", "b"]), strings(&["z"]));
        assert_eq!(result.strings().unwrap(), ["a", "b", "z", "z"]);
        let mixed = TestNode::new("Where", 16)
            .input(condition())
            .input(f32s(&[], &[1.0]))
            .input(i64s(&[], &[1]));
        assert!(mixed.run().is_err());
    }

    #[test]
    fn clip_takes_bounds_as_attributes_inputs_or_not_at_all() {
        let x = || f32s(&[4], &[-5.0, 0.5, 5.0, f32::NAN]);
        let show = |node: TestNode| format!("{:?}", node.run1().unwrap());
        let attributes = TestNode::new("Clip", 6)
            .attr("min", -1.0f32)
            .attr("max", 2.0f32)
            .input(x());
        assert_eq!(show(attributes), "float32[4] [-1.0, 0.5, 2.0, NaN]");
        let high_only = TestNode::new("Clip", 13).input(x()).no_input().input(f32s(&[], &[2.0]));
        assert_eq!(show(high_only), "float32[4] [-5.0, 0.5, 2.0, NaN]");
        let constants = TestNode::new("Clip", 13)
            .input(x())
            .constant(f32s(&[], &[3.0]))
            .constant(f32s(&[1], &[1.0]));
        assert_eq!(show(constants), "float32[4] [1.0, 1.0, 1.0, NaN]");
        assert_eq!(
            show(TestNode::new("Clip", 13).input(x())),
            "float32[4] [-5.0, 0.5, 5.0, NaN]"
        );
        let unsigned = TestNode::new("Clip", 13)
            .input(tensor(&[3], &[1u64, 50, u64::MAX]))
            .input(tensor(&[], &[10u64]))
            .input(tensor(&[], &[u64::MAX - 1]));
        assert_eq!(unsigned.run1().unwrap(), tensor(&[3], &[10u64, 50, u64::MAX - 1]));
        let double = TestNode::new("Clip", 13)
            .input(tensor(&[2], &[1f64, 9.0]))
            .no_input()
            .input(tensor(&[], &[4f64]));
        assert_eq!(double.run1().unwrap(), tensor(&[2], &[1f64, 4.0]));
    }
}
