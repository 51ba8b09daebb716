//! Checks feeds against the model's inputs and puts them in order.

use std::sync::Arc;

use super::ValueInfo;
use crate::{
    error::{Error, ErrorCode, Result},
    graph::{Graph, ValueType},
    plan::InputType,
    tensor::{Tensor, Value, display_shape, map::HashMap},
};

/// The feeds in the order of the model's inputs, and whether one with a default is among them.
///
/// Fails with `missing-input`, `unknown-name`, `wrong-type`, `wrong-rank`, `wrong-dimension` and
/// `inconsistent-dimension`.
pub(super) fn ordered<N: AsRef<str>>(
    inputs: &[ValueInfo],
    feeds: impl IntoIterator<Item = (N, impl Into<Value>)>,
) -> Result<(Vec<Option<Value>>, bool)> {
    let mut values: Vec<Option<Value>> = vec![None; inputs.len()];
    for (name, value) in feeds {
        put(inputs, &mut values, name.as_ref(), value.into())?;
    }
    let defaults_are_fed = check_all(inputs, &values)?;
    Ok((values, defaults_are_fed))
}

#[inline(never)]
fn put(inputs: &[ValueInfo], values: &mut [Option<Value>], name: &str, value: Value) -> Result<()> {
    if values[position_of(inputs, name)?].replace(value).is_some() {
        return Err(Error::new(ErrorCode::InvalidArgument, format!("input {name:?} is fed twice")).at_input(name));
    }
    Ok(())
}

/// Whether an input with a default is fed.
#[inline(never)]
fn check_all(inputs: &[ValueInfo], values: &[Option<Value>]) -> Result<bool> {
    let missing = inputs
        .iter()
        .zip(values)
        .filter(|(input, value)| value.is_none() && !input.optional);
    let missing: Vec<ValueInfo> = missing.map(|(input, _)| input.clone()).collect();
    if let Some(first) = missing.first() {
        let message = format!("{} of the model's {} inputs are not fed", missing.len(), inputs.len());
        return Err(Error::new(ErrorCode::MissingInput, message)
            .at_input(first.name.clone())
            .expected(names(&missing)));
    }
    let mut sizes: HashMap<Arc<str>, (usize, String)> = HashMap::new();
    let mut defaults_are_fed = false;
    for (input, value) in inputs.iter().zip(values) {
        if let Some(value) = value {
            check(input, value, &mut sizes)?;
            defaults_are_fed |= input.optional;
        }
    }
    Ok(defaults_are_fed)
}

#[inline(never)]
fn position_of(inputs: &[ValueInfo], name: &str) -> Result<usize> {
    let position = inputs.iter().position(|input| input.name == name);
    position.ok_or_else(|| {
        Error::new(
            ErrorCode::UnknownName,
            format!("the model has no input called {name:?}"),
        )
        .at_input(name)
        .expected(names(inputs))
    })
}

/// The positions of the inputs called `consumed`, which must be fed.
///
/// Fails with `unknown-name` and `missing-input`.
pub(super) fn consumed(inputs: &[ValueInfo], values: &[Option<Value>], consumed: &[String]) -> Result<Vec<usize>> {
    let mut positions = Vec::new();
    for name in consumed {
        let position = position_of(inputs, name)?;
        if values[position].is_none() {
            let message = format!("input {name:?} is to be consumed, but not fed");
            return Err(Error::new(ErrorCode::MissingInput, message).at_input(name));
        }
        positions.push(position);
    }
    positions.sort_unstable();
    positions.dedup();
    Ok(positions)
}

/// The tensors that a variant of the model takes: without those that have a default, or with the defaults themselves
/// where they are not fed.
pub(super) fn with_defaults(
    imported: &Graph,
    values: Vec<Option<Value>>,
    defaults_are_fed: bool,
) -> Result<Vec<Value>> {
    let mut result = Vec::with_capacity(values.len());
    for (value, &id) in values.into_iter().zip(&imported.inputs) {
        let default = imported.value(id).constant.as_ref();
        match (value, default) {
            (_, Some(_)) if !defaults_are_fed => {}
            (Some(value), _) => result.push(value),
            (None, Some(default)) => result.push(default.aligned()?.into()),
            (None, None) => return Err(Error::internal("an input without a default is not fed")),
        }
    }
    Ok(result)
}

fn check(input: &ValueInfo, value: &Value, sizes: &mut HashMap<Arc<str>, (usize, String)>) -> Result<()> {
    match (&input.ty, value) {
        (ValueType::Tensor(_), Value::Tensor(tensor)) => check_tensor(input, tensor, sizes),
        (ty, value) if fits(ty, value) => Ok(()),
        (ty, value) => Err(Error::new(
            ErrorCode::WrongType,
            format!("input {:?} is fed with a value of another type", input.name),
        )
        .at_input(input.name.clone())
        .expected(ty.to_string())
        .actual(match value {
            Value::Tensor(tensor) => format!("{}{}", tensor.dtype(), display_shape(tensor.shape())),
            other => other.kind().to_string(),
        })),
    }
}

/// Whether a value is of a type, shapes aside.
fn fits(ty: &ValueType, value: &Value) -> bool {
    let holds = |inner: &ValueType, dtype| inner.dtype().is_none_or(|wanted| wanted == dtype);
    match (ty, value) {
        (ValueType::Tensor(_), Value::Tensor(tensor)) => holds(ty, tensor.dtype()),
        (ValueType::Sequence(inner), Value::Sequence(values)) => values.iter().all(|value| fits(inner, value)),
        (ValueType::Map(key, inner), Value::Map(map)) => {
            *key == map.keys().dtype() && holds(inner, map.values().dtype())
        }
        (ValueType::Optional(_), Value::Absent) => true,
        (ValueType::Optional(inner), value) => fits(inner, value),
        _ => false,
    }
}

fn check_tensor(input: &ValueInfo, tensor: &Tensor, sizes: &mut HashMap<Arc<str>, (usize, String)>) -> Result<()> {
    let Some(ty) = input.ty.as_tensor() else { return Ok(()) };
    let error = |code, message: String| {
        Error::new(code, message)
            .at_input(input.name.clone())
            .expected(input.ty.to_string())
            .actual(format!("{}{}", tensor.dtype(), display_shape(tensor.shape())))
    };
    if ty.dtype.is_some_and(|dtype| dtype != tensor.dtype()) {
        return Err(error(
            ErrorCode::WrongType,
            format!("input {:?} is fed with the wrong element type", input.name),
        ));
    }
    let Some(shape) = &ty.shape else { return Ok(()) };
    if shape.len() != tensor.shape().len() {
        return Err(error(
            ErrorCode::WrongRank,
            format!("input {:?} is fed with the wrong rank", input.name),
        ));
    }
    for (axis, (dim, &size)) in shape.iter().zip(tensor.shape()).enumerate() {
        if dim.known().is_some_and(|known| usize::try_from(known) != Ok(size)) {
            let message = format!("dimension {axis} of input {:?} has the wrong size", input.name);
            return Err(error(ErrorCode::WrongDimension, message));
        }
        let Some(symbol) = dim.as_symbol() else { continue };
        match sizes.get(symbol) {
            Some((bound, by)) if *bound != size => {
                let message = format!(
                    "dimension {symbol:?} is {bound} in input {by:?} but {size} in input {:?}",
                    input.name
                );
                return Err(error(ErrorCode::InconsistentDimension, message));
            }
            Some(_) => {}
            None => {
                sizes.insert(symbol.clone(), (size, input.name.clone()));
            }
        }
    }
    Ok(())
}

/// The positions of the fetched outputs.
pub(super) fn fetch_positions(outputs: &[ValueInfo], fetches: Option<&[String]>) -> Result<Vec<usize>> {
    let Some(fetches) = fetches else {
        return Ok((0..outputs.len()).collect());
    };
    let position = |name: &String| {
        outputs.iter().position(|output| output.name == *name).ok_or_else(|| {
            Error::new(
                ErrorCode::UnknownName,
                format!("the model has no output called {name:?}"),
            )
            .at_input(name.clone())
            .expected(names(outputs))
        })
    };
    fetches.iter().map(position).collect()
}

/// Types and shapes of the inputs when no shape is open.
pub(super) fn fixed_input_types(graph: &Graph) -> Result<Vec<InputType>> {
    let fixed = |&id: &crate::graph::ValueId| {
        let value = graph.value(id);
        if let Some(tensor) = &value.constant {
            return Ok(InputType::Tensor(tensor.dtype(), tensor.shape().to_vec()));
        }
        if value.ty.as_tensor().is_none() {
            return Ok(InputType::Container(value.ty.clone()));
        }
        let shape = value.ty.shape();
        let shape = shape.and_then(|dims| dims.iter().map(|dim| dim.size()).collect::<Option<Vec<_>>>());
        let known = value.ty.dtype().zip(shape);
        known
            .map(|(dtype, shape)| InputType::Tensor(dtype, shape))
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidArgument,
                    "a program needs concrete input shapes: run the session first",
                )
                .at_input(value.name.clone())
                .actual(value.ty.to_string())
            })
    };
    graph.inputs.iter().map(fixed).collect()
}

fn names(values: &[ValueInfo]) -> String {
    let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
    names.join(", ")
}
