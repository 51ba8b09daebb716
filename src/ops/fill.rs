//! Tensors made from attributes and sizes alone: Constant, ConstantOfShape, Range, EyeLike.

use super::{
    CpuLowering, InferContext, Operator, ValueFacts,
    context::MAX_TRACKED_ELEMENTS,
    lower::{invalid, mismatch, tracks, unsupported},
};
use crate::{
    cpu::{
        elementwise::Wide,
        kernel::{CpuKernel, KernelInputs},
        movement::fill,
    },
    error::{Error, ErrorCode, Result},
    graph::{Attribute, Node},
    tensor::{AlignedBytes, DType, Dim, Tensor, element_count, packed},
};

/// ONNX `Constant`: the tensor of one of its attributes.
#[derive(Debug)]
struct Constant {
    value: Tensor,
}

/// Makes [`Constant`].
pub fn make_constant(node: &Node) -> Result<Box<dyn Operator>> {
    let mut given = node.attributes.iter();
    let (Some((name, attribute)), None) = (given.next(), given.next()) else {
        return Err(invalid("Constant needs exactly one attribute"));
    };
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|_| invalid(format!("attribute {name} is not UTF-8 text")))
    };
    let value = match (name, attribute) {
        ("value", Attribute::Tensor(tensor)) => tensor.clone(),
        ("value_float", Attribute::Float(value)) => Tensor::scalar(*value),
        ("value_int", Attribute::Int(value)) => Tensor::scalar(*value),
        ("value_floats", Attribute::Floats(list)) => Tensor::new(&[list.len()], list.clone())?,
        ("value_ints", Attribute::Ints(list)) => Tensor::new(&[list.len()], list.clone())?,
        ("value_string", Attribute::String(bytes)) => Tensor::from_strings(&[], vec![text(bytes)?])?,
        ("value_strings", Attribute::Strings(list)) => {
            let strings = list.iter().map(|bytes| text(bytes)).collect::<Result<Vec<_>>>()?;
            Tensor::from_strings(&[strings.len()], strings)?
        }
        (name, attribute) => {
            let error = unsupported("Constant does not support this attribute");
            return Err(error.actual(format!("{name} of type {}", attribute.type_name())));
        }
    };
    Ok(Box::new(Constant { value }))
}

impl Operator for Constant {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(output) = ctx.outputs.first_mut() {
            *output = ValueFacts::of_constant(&self.value);
        }
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let value = self.value.clone();
        if value.dtype() == DType::String {
            return Ok(CpuKernel::dynamic("constant", move |_| Ok(vec![value.clone()])));
        }
        Ok(CpuKernel::compute("constant", move |io| {
            let target = io.outputs.take_bytes(0)?;
            copy(value.bytes(), target)
        }))
    }
}

fn copy(source: &[u8], target: &mut [u8]) -> Result<()> {
    if source.len() != target.len() {
        return Err(Error::internal("an output has the wrong length"));
    }
    target.copy_from_slice(source);
    Ok(())
}

/// ONNX `ConstantOfShape` (opset 9): the one element of attribute `value` (an f32 zero by default) all over the shape
/// that the input names.
#[derive(Debug)]
struct ConstantOfShape {
    value: Tensor,
}

/// Makes [`ConstantOfShape`].
pub fn make_constant_of_shape(node: &Node) -> Result<Box<dyn Operator>> {
    let value = match node.attributes.tensor("value")? {
        Some(tensor) if tensor.len() == 1 => tensor.clone(),
        Some(tensor) => return Err(invalid("attribute value is not one element").actual(format!("{tensor:?}"))),
        None => Tensor::scalar(0f32),
    };
    Ok(Box::new(ConstantOfShape { value }))
}

impl Operator for ConstantOfShape {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let shape = match ctx.elements(0) {
            Some(dims) => Some(dims),
            None => {
                let rank = ctx.shape(0).and_then(|shape| shape.first()?.size());
                rank.filter(|&rank| rank <= MAX_TRACKED_ELEMENTS)
                    .map(|rank| ctx.fresh_shape(rank))
            }
        };
        if let Some(dim) = shape
            .iter()
            .flatten()
            .find(|dim| dim.known().is_some_and(|dim| dim < 0))
        {
            return Err(mismatch("a dimension is negative").actual(dim.to_string()));
        }
        ctx.set_output(0, self.value.dtype(), shape);
        if tracks(self.value.dtype())
            && let Some(shape) = ctx.outputs.first().and_then(|output| output.concrete_shape())
            && let Ok(count) = element_count(&shape)
            && count <= MAX_TRACKED_ELEMENTS
            && let Ok(value) = self.value.to_i64s()
        {
            ctx.set_elements(0, vec![Dim::from(value[0]); count]);
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let value = self.value.clone();
        if value.dtype() == DType::String {
            let (shape, text) = (ctx.output(0)?.shape.clone(), value.strings()?[0].clone());
            return Ok(CpuKernel::dynamic("fill", move |_| {
                let count = element_count(&shape)?;
                let mut texts = Vec::new();
                let full = |_| Error::new(ErrorCode::OutOfMemory, "there is no memory for the strings");
                texts.try_reserve_exact(count).map_err(full)?;
                texts.resize(count, text.clone());
                Ok(vec![Tensor::from_strings(&shape, texts)?])
            }));
        }
        let bits = value.dtype().bits().unwrap_or(8);
        Ok(CpuKernel::compute("fill", move |io| {
            let target = io.outputs.take_bytes(0)?;
            match bits {
                2 | 4 => {
                    let count = target.len() * (8 / bits);
                    packed::pack_into(bits, std::iter::repeat_n(value.bytes()[0], count), target);
                    Ok(())
                }
                _ => fill(bits / 8, target, value.bytes()),
            }
        }))
    }
}

/// ONNX `Range` (opset 11): `start`, `start + delta`, … up to but without `limit`. Integers and floats.
#[derive(Debug)]
struct Range;

/// Makes [`Range`].
pub fn make_range(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Range))
}

/// Number of elements of a range of integers.
fn int_count(start: i64, limit: i64, delta: i64) -> Result<i64> {
    if delta == 0 {
        return Err(invalid("the delta of a range is zero"));
    }
    let span = i128::from(limit) - i128::from(start);
    let count = if delta > 0 {
        span + i128::from(delta) - 1
    } else {
        span + i128::from(delta) + 1
    } / i128::from(delta);
    i64::try_from(count.max(0)).map_err(|_| invalid("a range is too long"))
}

/// Number of elements of a range of floats.
fn float_count(start: f64, limit: f64, delta: f64) -> Result<i64> {
    let count = ((limit - start) / delta).ceil();
    if delta == 0.0 || !count.is_finite() {
        return Err(invalid("a range of floats has no end").actual(format!("{start} to {limit} by {delta}")));
    }
    Ok(count.max(0.0) as i64)
}

fn float_scalar(tensor: &Tensor) -> Option<f64> {
    match tensor.dtype() {
        DType::F64 => tensor.view::<f64>().ok()?.first().copied(),
        _ => tensor.to_f32s().ok()?.first().map(|&value| value.into()),
    }
}

impl Operator for Range {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        for index in [1, 2] {
            if ctx.dtype(index)? != dtype {
                return Err(invalid("the inputs of Range have different element types"));
            }
        }
        let mut elements = None;
        let count = if dtype.is_float() {
            let mut scalar = |index: usize| ctx.constant(index).and_then(float_scalar);
            match (scalar(0), scalar(1), scalar(2)) {
                (Some(start), Some(limit), Some(delta)) => Some(Dim::from(float_count(start, limit, delta)?)),
                _ => None,
            }
        } else {
            let mut scalar = |index: usize| ctx.elements(index)?.into_iter().next();
            match (scalar(0), scalar(1), scalar(2)) {
                (Some(start), Some(limit), Some(delta)) => {
                    let count = match (start.known(), limit.known(), delta.known()) {
                        (Some(start), Some(limit), Some(delta)) => Some(Dim::from(int_count(start, limit, delta)?)),
                        (_, _, Some(0)) => return Err(invalid("the delta of a range is zero")),
                        (_, _, Some(step)) if step > 0 => {
                            let span = (limit - start.clone()).maximum(&Dim::from(0));
                            Some(span.ceil_div(&delta))
                        }
                        _ => None,
                    };
                    let len = count
                        .as_ref()
                        .and_then(Dim::size)
                        .filter(|&len| len <= MAX_TRACKED_ELEMENTS);
                    elements = len.map(|len| {
                        let element = |index: usize| start.clone() + delta.clone() * Dim::from(index);
                        (0..len).map(element).collect::<Vec<_>>()
                    });
                    count
                }
                _ => None,
            }
        };
        let count = count.unwrap_or_else(|| ctx.fresh_dim());
        ctx.set_output(0, dtype, Some(vec![count]));
        if let Some(elements) = elements {
            ctx.set_elements(0, elements);
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        if !ctx.outputs_known {
            return Ok(CpuKernel::dynamic("range", move |inputs| {
                let missing = || invalid("an input of Range is missing");
                let scalar = |index: usize| inputs.get(index).and_then(Option::as_ref).ok_or_else(missing);
                let count = if dtype.is_float() {
                    let value = |index: usize| float_scalar(scalar(index)?).ok_or_else(missing);
                    float_count(value(0)?, value(1)?, value(2)?)?
                } else {
                    let value = |index: usize| scalar(index)?.to_i64s()?.first().copied().ok_or_else(missing);
                    int_count(value(0)?, value(1)?, value(2)?)?
                };
                let too_long = || Error::new(ErrorCode::LimitExceeded, "a range is too long");
                let count = usize::try_from(count).map_err(|_| too_long())?;
                let len = dtype.byte_len(element_count(&[count])?).ok_or_else(too_long)?;
                let mut bytes = AlignedBytes::zeroed(len)?;
                let aligned = (0..3)
                    .map(|index| scalar(index)?.aligned())
                    .collect::<Result<Vec<_>>>()?;
                let views = aligned.iter().map(|tensor| {
                    Some(crate::cpu::kernel::InputBytes {
                        dtype,
                        bytes: tensor.bytes(),
                    })
                });
                write_range(dtype, &KernelInputs(views.collect()), bytes.as_mut(), count)?;
                Ok(vec![Tensor::from_bytes(dtype, &[count], bytes)?])
            }));
        }
        let count = element_count(&ctx.output(0)?.shape)?;
        Ok(CpuKernel::compute("range", move |io| {
            let target = io.outputs.take_bytes(0)?;
            write_range(dtype, &io.inputs, target, count)
        }))
    }
}

fn write_range(dtype: DType, inputs: &KernelInputs<'_>, target: &mut [u8], count: usize) -> Result<()> {
    fn read<W: Wide>(dtype: DType, inputs: &KernelInputs<'_>, index: usize) -> Result<W> {
        let mut value = [W::default()];
        W::load(dtype, inputs.bytes(index)?, 0, 0, &mut value)?;
        Ok(value[0])
    }
    const STEP: usize = crate::cpu::elementwise::TILE;
    if dtype.is_float() {
        let (start, delta): (f64, f64) = (read(dtype, inputs, 0)?, read(dtype, inputs, 2)?);
        for first in (0..count).step_by(STEP) {
            let values: Vec<f64> = (first..count.min(first + STEP))
                .map(|index| start + delta * index as f64)
                .collect();
            f64::store(dtype, &values, target, first)?;
        }
        return Ok(());
    }
    let (start, delta): (i64, i64) = (read(dtype, inputs, 0)?, read(dtype, inputs, 2)?);
    for first in (0..count).step_by(STEP) {
        let element = |index: usize| start.wrapping_add(delta.wrapping_mul(index as i64));
        let values: Vec<i64> = (first..count.min(first + STEP)).map(element).collect();
        i64::store(dtype, &values, target, first)?;
    }
    Ok(())
}

/// ONNX `EyeLike` (opset 9): ones on diagonal `k` of a matrix of the input's shape, zeros elsewhere; of the type that
/// attribute `dtype` names, else the input's.
#[derive(Debug)]
struct EyeLike {
    dtype: Option<DType>,
    diagonal: i64,
}

/// Makes [`EyeLike`].
pub fn make_eye_like(node: &Node) -> Result<Box<dyn Operator>> {
    let dtype = match node.attributes.int("dtype")? {
        Some(number) => {
            let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
            Some(dtype.ok_or_else(|| unsupported("this element type is not supported").actual(number.to_string()))?)
        }
        None => None,
    };
    Ok(Box::new(EyeLike {
        dtype,
        diagonal: node.attributes.int("k")?.unwrap_or(0),
    }))
}

impl Operator for EyeLike {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = match self.dtype {
            Some(dtype) => dtype,
            None => ctx.dtype(0)?,
        };
        if ctx.rank(0).is_some_and(|rank| rank != 2) {
            return Err(mismatch("the input is not a matrix"));
        }
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let output = ctx.output(0)?;
        let (dtype, diagonal) = (output.dtype, self.diagonal);
        let [rows, columns] = output.shape[..] else {
            return Err(mismatch("the input is not a matrix"));
        };
        let Some(size) = dtype.bits().filter(|&bits| bits >= 8).map(|bits| bits / 8) else {
            return Err(unsupported("EyeLike does not support this element type").actual(dtype.name()));
        };
        let one: Vec<u8> = match dtype {
            DType::F16 => half::f16::ONE.to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::ONE.to_le_bytes().to_vec(),
            DType::F32 => 1f32.to_le_bytes().to_vec(),
            DType::F64 => 1f64.to_le_bytes().to_vec(),
            _ => 1u64.to_le_bytes()[..size].to_vec(),
        };
        Ok(CpuKernel::compute("eye", move |io| {
            let target = io.outputs.take_bytes(0)?;
            target.fill(0);
            for row in 0..rows {
                let column = usize::try_from((row as i64).saturating_add(diagonal));
                if let Ok(column) = column
                    && column < columns
                {
                    let start = (row * columns + column) * size;
                    target[start..start + size].copy_from_slice(&one);
                }
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s, tensor};
    use super::*;

    #[test]
    fn constants_come_from_any_attribute() {
        assert_eq!(
            TestNode::new("Constant", 13).attr("value_ints", [1, 2]).run1().unwrap(),
            i64s(&[2], &[1, 2])
        );
        assert_eq!(
            TestNode::new("Constant", 13)
                .attr("value_float", 1.5f32)
                .run1()
                .unwrap(),
            f32s(&[], &[1.5])
        );
        let strings = TestNode::new("Constant", 13)
            .attr("value_strings", ["a", "b"])
            .run1()
            .unwrap();
        assert_eq!(strings.strings().unwrap(), ["a", "b"]);
        assert!(TestNode::new("Constant", 13).run().is_err());
        assert!(
            TestNode::new("Constant", 13)
                .attr("value_int", 1)
                .attr("value_float", 1.0f32)
                .run()
                .is_err()
        );
    }

    #[test]
    fn shapes_are_filled() {
        let node = || TestNode::new("ConstantOfShape", 9).constant(i64s(&[2], &[2, 1]));
        assert_eq!(node().run1().unwrap(), f32s(&[2, 1], &[0.0, 0.0]));
        assert_eq!(
            node().attr("value", i64s(&[1], &[7])).run1().unwrap(),
            i64s(&[2, 1], &[7, 7])
        );
        assert!(node().attr("value", i64s(&[2], &[7, 8])).run().is_err());
        let negative = TestNode::new("ConstantOfShape", 9).constant(i64s(&[1], &[-1]));
        assert!(negative.run().is_err());
        let scalar = TestNode::new("ConstantOfShape", 9).constant(i64s(&[0], &[]));
        assert_eq!(scalar.run1().unwrap(), f32s(&[], &[0.0]));
    }

    #[test]
    fn ranges_go_up_and_down() {
        let ints = |start: i64, limit: i64, delta: i64| {
            let node = TestNode::new("Range", 11)
                .constant(i64s(&[], &[start]))
                .constant(i64s(&[], &[limit]));
            node.constant(i64s(&[], &[delta])).run1()
        };
        assert_eq!(ints(1, 8, 3).unwrap(), i64s(&[3], &[1, 4, 7]));
        assert_eq!(ints(5, -1, -2).unwrap(), i64s(&[3], &[5, 3, 1]));
        assert_eq!(ints(5, 1, 1).unwrap(), i64s(&[0], &[]));
        assert!(ints(1, 2, 0).is_err());
        let floats = TestNode::new("Range", 11)
            .input(f32s(&[], &[1.0]))
            .input(f32s(&[], &[2.0]))
            .input(f32s(&[], &[0.25]));
        assert_eq!(floats.run1().unwrap(), f32s(&[4], &[1.0, 1.25, 1.5, 1.75]));
        assert_eq!(int_count(i64::MIN, i64::MAX, i64::MAX).unwrap(), 3);
        assert!(int_count(i64::MIN, i64::MAX, 1).is_err());
        assert!(float_count(0.0, 1.0, 0.0).is_err() && float_count(0.0, f64::INFINITY, 1.0).is_err());
    }

    #[test]
    fn a_diagonal_is_filled_with_ones() {
        let x = || tensor(&[2, 3], &[0i32; 6]);
        let below = TestNode::new("EyeLike", 9)
            .attr("k", -1)
            .attr("dtype", 1)
            .input(x())
            .run1()
            .unwrap();
        assert_eq!(below, f32s(&[2, 3], &[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]));
        let own = TestNode::new("EyeLike", 9).attr("k", 1).input(x()).run1().unwrap();
        assert_eq!(own, tensor(&[2, 3], &[0i32, 1, 0, 0, 0, 1]));
    }
}
