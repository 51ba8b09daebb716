//! Sequences and optionals: ONNX's operators on values that hold or may hold other values.

use super::{
    CpuLowering, InferContext, Operator,
    lower::{invalid, mismatch, unsupported},
    registry::{Entry, onnx},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, Result},
    graph::{Node, TensorType, ValueType},
    tensor::{DType, Tensor, Value, resolve_axis},
};

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[
    onnx("SequenceEmpty", make_empty),
    onnx("SequenceConstruct", |_| made(Kind::Construct)),
    onnx("SequenceAt", |_| made(Kind::At)),
    onnx("SequenceInsert", |_| made(Kind::Insert)),
    onnx("SequenceErase", |_| made(Kind::Erase)),
    onnx("SequenceLength", |_| made(Kind::Length)),
    onnx("SplitToSequence", make_split),
    onnx("ConcatFromSequence", make_concat),
    onnx("Optional", make_optional),
    onnx("OptionalHasElement", |_| made(Kind::HasElement)),
    onnx("OptionalGetElement", |_| made(Kind::GetElement)),
];

/// An operator of this room with its attributes.
#[derive(Clone, Debug)]
enum Kind {
    /// `SequenceEmpty` (opset 11) with the element type it declares.
    Empty(DType),
    /// `SequenceConstruct` (opset 11).
    Construct,
    /// `SequenceAt` (opset 11).
    At,
    /// `SequenceInsert` (opset 11).
    Insert,
    /// `SequenceErase` (opset 11).
    Erase,
    /// `SequenceLength` (opset 11).
    Length,
    /// `SplitToSequence` (opset 11, 24).
    Split { axis: i64, keep_dims: bool },
    /// `ConcatFromSequence` (opset 11).
    Concat { axis: i64, new_axis: bool },
    /// `Optional` (opset 15), with the type it declares when it is made without an input.
    Optional(Option<ValueType>),
    /// `OptionalHasElement` (opset 15, 18).
    HasElement,
    /// `OptionalGetElement` (opset 15, 18).
    GetElement,
}

fn made(kind: Kind) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Container(kind)))
}

fn make_empty(node: &Node) -> Result<Box<dyn Operator>> {
    let number = node.attributes.int("dtype")?.unwrap_or(1);
    let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
    made(Kind::Empty(dtype.ok_or_else(|| {
        unsupported("attribute dtype is no supported element type").actual(number.to_string())
    })?))
}

fn make_split(node: &Node) -> Result<Box<dyn Operator>> {
    made(Kind::Split {
        axis: node.attributes.int("axis")?.unwrap_or(0),
        keep_dims: node.attributes.int("keepdims")?.unwrap_or(1) != 0,
    })
}

fn make_concat(node: &Node) -> Result<Box<dyn Operator>> {
    let axis = node.attributes.int("axis")?;
    made(Kind::Concat {
        axis: axis.ok_or_else(|| invalid("attribute axis is missing"))?,
        new_axis: node.attributes.int("new_axis")?.unwrap_or(0) != 0,
    })
}

fn make_optional(node: &Node) -> Result<Box<dyn Operator>> {
    made(Kind::Optional(node.attributes.value_type("type")?.cloned()))
}

/// Any operator of this room.
#[derive(Debug)]
struct Container(Kind);

/// The type of input `index`, shapes aside.
fn type_of(ctx: &InferContext<'_>, index: usize) -> Option<ValueType> {
    let facts = ctx.input(index)?;
    Some(facts.container.clone().unwrap_or(ValueType::Tensor(TensorType {
        dtype: facts.dtype,
        shape: None,
    })))
}

fn sequence_of(inner: ValueType) -> ValueType {
    ValueType::Sequence(Box::new(inner))
}

impl Operator for Container {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let element_of = |ty: Option<ValueType>| match ty {
            Some(ValueType::Sequence(inner)) => Ok(*inner),
            Some(other) => Err(invalid("the input is not a sequence").actual(other.to_string())),
            None => Ok(ValueType::default()),
        };
        let scalar = Some(Vec::new());
        match &self.0 {
            Kind::Empty(dtype) => {
                let element = TensorType {
                    dtype: Some(*dtype),
                    shape: None,
                };
                ctx.set_container(0, sequence_of(ValueType::Tensor(element)));
            }
            Kind::Construct => {
                let first = type_of(ctx, 0).unwrap_or_default();
                for index in 1..ctx.input_count() {
                    let other = type_of(ctx, index).unwrap_or_default();
                    if other != first && first != ValueType::default() && other != ValueType::default() {
                        return Err(invalid("a sequence's elements have different types")
                            .expected(first.to_string())
                            .actual(other.to_string()));
                    }
                }
                ctx.set_container(0, sequence_of(first));
            }
            Kind::At => match element_of(type_of(ctx, 0))? {
                ValueType::Tensor(tensor) => {
                    if let Some(output) = ctx.outputs.first_mut() {
                        output.dtype = tensor.dtype;
                    }
                }
                other => ctx.set_container(0, other),
            },
            Kind::Insert | Kind::Erase => {
                let element = element_of(type_of(ctx, 0))?;
                let element = match (&self.0, element) {
                    (Kind::Insert, element) if element == ValueType::default() => type_of(ctx, 1).unwrap_or_default(),
                    (_, element) => element,
                };
                ctx.set_container(0, sequence_of(element));
            }
            Kind::Length => ctx.set_output(0, DType::I64, scalar),
            Kind::Split { .. } => ctx.set_container(0, sequence_of(type_of(ctx, 0).unwrap_or_default())),
            Kind::Concat { .. } => {
                if let (Some(dtype), Some(output)) = (element_of(type_of(ctx, 0))?.dtype(), ctx.outputs.first_mut()) {
                    output.dtype = Some(dtype);
                }
            }
            Kind::Optional(declared) => {
                let inner = type_of(ctx, 0).or_else(|| declared.clone()).unwrap_or_default();
                ctx.set_container(0, ValueType::Optional(Box::new(inner)));
            }
            Kind::HasElement => ctx.set_output(0, DType::Bool, scalar),
            Kind::GetElement => match type_of(ctx, 0).unwrap_or_default() {
                ValueType::Optional(inner) => match *inner {
                    ValueType::Tensor(tensor) => {
                        if let Some(output) = ctx.outputs.first_mut() {
                            output.dtype = tensor.dtype;
                        }
                    }
                    other => ctx.set_container(0, other),
                },
                ValueType::Tensor(_) => ctx.copy_type(0, 0)?,
                other => ctx.set_container(0, other),
            },
        }
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Err(Error::internal("operators on sequences and optionals have no kernel"))
    }

    fn works_on_values(&self) -> bool {
        true
    }

    fn on_values(&self, inputs: &[Option<Value>]) -> Result<Vec<Value>> {
        let given = |index: usize| {
            let input = inputs.get(index).and_then(Option::as_ref);
            input.ok_or_else(|| invalid(format!("required input {index} is missing")))
        };
        let position = |index: usize, len: usize| -> Result<Option<usize>> {
            let Some(input) = inputs.get(index).and_then(Option::as_ref) else {
                return Ok(None);
            };
            let [position] = input.tensor()?.to_i64s()?[..] else {
                return Err(mismatch("a position in a sequence is not one number"));
            };
            let resolved = if position < 0 {
                position.checked_add(len as i64)
            } else {
                Some(position)
            };
            let resolved = resolved.and_then(|position| usize::try_from(position).ok());
            let resolved = resolved.filter(|&position| position < len);
            resolved.map(Some).ok_or_else(|| {
                mismatch("a position is outside the sequence")
                    .expected(format!("-{len} to {}", len as i64 - 1))
                    .actual(position.to_string())
            })
        };
        let output = match &self.0 {
            Kind::Empty(_) => Value::Sequence(Vec::new()),
            Kind::Construct => Value::Sequence(inputs.iter().flatten().cloned().collect()),
            Kind::At => {
                let values = given(0)?.sequence()?;
                let position = position(1, values.len())?.ok_or_else(|| invalid("required input 1 is missing"))?;
                values[position].clone()
            }
            Kind::Insert => {
                let mut values = given(0)?.sequence()?.to_vec();
                // A new element may stand behind the last one.
                let place = position(2, values.len() + 1)?.unwrap_or(values.len());
                let value = given(1)?.clone();
                if let (Some(first), Value::Tensor(tensor)) = (values.first().and_then(Value::as_tensor), &value)
                    && first.dtype() != tensor.dtype()
                {
                    return Err(mismatch("the sequence holds tensors of another element type")
                        .expected(first.dtype().name())
                        .actual(tensor.dtype().name()));
                }
                let negative = inputs.get(2).and_then(Option::as_ref).is_some_and(|input| {
                    input
                        .as_tensor()
                        .and_then(|tensor| tensor.to_i64s().ok())
                        .is_some_and(|list| list[0] < 0)
                });
                // A negative position counts from the end of the sequence as it is.
                values.insert(place - usize::from(negative && place > 0), value);
                Value::Sequence(values)
            }
            Kind::Erase => {
                let mut values = given(0)?.sequence()?.to_vec();
                match position(1, values.len())? {
                    Some(position) => drop(values.remove(position)),
                    None if values.is_empty() => {
                        return Err(mismatch("there is nothing to erase in an empty sequence"));
                    }
                    None => drop(values.pop()),
                }
                Value::Sequence(values)
            }
            Kind::Length => Tensor::scalar(given(0)?.sequence()?.len() as i64).into(),
            Kind::Split { axis, keep_dims } => {
                let lengths = inputs.get(1).and_then(Option::as_ref).map(Value::tensor).transpose()?;
                split(given(0)?.tensor()?, lengths, *axis, *keep_dims)?
            }
            Kind::Concat { axis, new_axis } => {
                let values = given(0)?.sequence()?;
                let tensors = values
                    .iter()
                    .map(|value| value.tensor().cloned())
                    .collect::<Result<Vec<_>>>()?;
                let rank = tensors.first().map_or(0, |tensor| tensor.shape().len());
                let joined = if *new_axis {
                    Tensor::stack(&tensors, resolve_axis(*axis, rank + 1)?)?
                } else {
                    Tensor::concat(&tensors, resolve_axis(*axis, rank)?)?
                };
                joined.into()
            }
            Kind::Optional(_) => inputs.first().cloned().flatten().unwrap_or(Value::Absent),
            Kind::HasElement => {
                let input = inputs.first().and_then(Option::as_ref);
                let has = input.is_some_and(|value| *value != Value::Absent);
                Tensor::scalar(crate::tensor::Bool8::from(has)).into()
            }
            Kind::GetElement => match given(0)? {
                Value::Absent => return Err(mismatch("the optional holds nothing")),
                value => value.clone(),
            },
        };
        Ok(vec![output])
    }
}

/// The pieces of a tensor along an axis: of the given lengths, of one given length (the last may be shorter), or of
/// length 1 each, then without the axis when it is not kept.
fn split(tensor: &Tensor, lengths: Option<&Tensor>, axis: i64, keep_dims: bool) -> Result<Value> {
    let axis = resolve_axis(axis, tensor.shape().len())?;
    let size = tensor.shape()[axis];
    let wrong = |text: String| {
        mismatch("the lengths to split into do not fit the tensor")
            .expected(format!("lengths above 0 that add up to {size}"))
            .actual(text)
    };
    let pieces: Vec<usize> = match lengths {
        None => vec![1; size],
        Some(lengths) => {
            let list = lengths.to_i64s()?;
            let positive: Option<Vec<usize>> = list.iter().map(|&length| usize::try_from(length).ok()).collect();
            let positive = positive.ok_or_else(|| wrong(format!("{list:?}")))?;
            match (lengths.shape().is_empty(), positive.as_slice()) {
                (true, [0]) => return Err(wrong("0".into())),
                (true, &[length]) => {
                    let whole = std::iter::repeat_n(length, size / length);
                    whole.chain(Some(size % length).filter(|rest| *rest > 0)).collect()
                }
                _ => positive,
            }
        }
    };
    let total = pieces.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    if total != Some(size) {
        return Err(wrong(format!("{pieces:?}")));
    }
    let mut start = 0;
    let mut values = Vec::with_capacity(pieces.len());
    for length in pieces {
        let piece = tensor.slice_along(axis, start, length)?;
        start += length;
        let piece = if lengths.is_none() && !keep_dims {
            let mut shape = piece.shape().to_vec();
            shape.remove(axis);
            piece.reshaped(&shape)?
        } else {
            piece
        };
        values.push(piece.into());
    }
    Ok(Value::Sequence(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kind: Kind, inputs: &[Option<Value>]) -> Result<Value> {
        Ok(Container(kind).on_values(inputs)?.remove(0))
    }

    fn list(values: &[i64]) -> Value {
        Value::Sequence(values.iter().map(|&value| Tensor::scalar(value).into()).collect())
    }

    fn number(value: i64) -> Option<Value> {
        Some(Tensor::scalar(value).into())
    }

    #[test]
    fn elements_are_taken_inserted_and_erased_from_both_ends() {
        let values = Some(list(&[10, 20, 30]));
        assert_eq!(
            run(Kind::At, &[values.clone(), number(-1)]).unwrap(),
            Tensor::scalar(30i64).into()
        );
        assert!(run(Kind::At, &[values.clone(), number(3)]).is_err());
        assert_eq!(
            run(Kind::Insert, &[values.clone(), number(5)]).unwrap(),
            list(&[10, 20, 30, 5])
        );
        assert_eq!(
            run(Kind::Insert, &[values.clone(), number(5), number(0)]).unwrap(),
            list(&[5, 10, 20, 30])
        );
        assert_eq!(
            run(Kind::Insert, &[values.clone(), number(5), number(-1)]).unwrap(),
            list(&[10, 20, 5, 30])
        );
        assert_eq!(
            run(Kind::Insert, &[values.clone(), number(5), number(3)]).unwrap(),
            list(&[10, 20, 30, 5])
        );
        assert_eq!(
            run(Kind::Erase, std::slice::from_ref(&values)).unwrap(),
            list(&[10, 20])
        );
        assert_eq!(
            run(Kind::Erase, &[values.clone(), number(-3)]).unwrap(),
            list(&[20, 30])
        );
        assert_eq!(run(Kind::Length, &[values]).unwrap(), Tensor::scalar(3i64).into());
        assert!(run(Kind::Erase, &[Some(list(&[]))]).is_err());
    }

    #[test]
    fn what_is_split_joins_again() {
        let tensor = Tensor::new(&[5, 2], (0..10i32).collect()).unwrap();
        let kind = Kind::Split {
            axis: 0,
            keep_dims: true,
        };
        let pieces = run(kind.clone(), &[Some(tensor.clone().into()), number(2)]).unwrap();
        let shapes: Vec<_> = pieces
            .sequence()
            .unwrap()
            .iter()
            .map(|v| v.tensor().unwrap().shape()[0])
            .collect();
        assert_eq!(shapes, [2, 2, 1]);
        let joined = run(
            Kind::Concat {
                axis: 0,
                new_axis: false,
            },
            &[Some(pieces)],
        )
        .unwrap();
        assert_eq!(joined.tensor().unwrap(), &tensor);
        let rows = run(
            Kind::Split {
                axis: 0,
                keep_dims: false,
            },
            &[Some(tensor.clone().into())],
        )
        .unwrap();
        let joined = run(
            Kind::Concat {
                axis: 0,
                new_axis: true,
            },
            &[Some(rows)],
        )
        .unwrap();
        assert_eq!(joined.tensor().unwrap(), &tensor);
        assert!(run(kind, &[Some(tensor.into()), number(0)]).is_err());
    }

    #[test]
    fn optionals_hold_something_or_nothing() {
        let empty = run(Kind::Optional(None), &[]).unwrap();
        assert_eq!(empty, Value::Absent);
        let has = |value: Value| run(Kind::HasElement, &[Some(value)]).unwrap().tensor().unwrap().bytes()[0];
        assert_eq!((has(empty.clone()), has(list(&[]))), (0, 1));
        assert!(run(Kind::GetElement, &[Some(empty)]).is_err());
        assert_eq!(run(Kind::GetElement, &[Some(list(&[1]))]).unwrap(), list(&[1]));
    }
}
