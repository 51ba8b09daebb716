//! Checks feeds against the model's inputs and puts them in order.

use std::{collections::HashMap, sync::Arc};

use super::ValueInfo;
use crate::{
    error::{Error, ErrorCode, Result},
    graph::Graph,
    tensor::{DType, Tensor, display_shape},
};

/// The feeds in the order of the model's inputs, and whether one with a default is among them.
///
/// Fails with `missing-input`, `unknown-name`, `wrong-type`, `wrong-rank`, `wrong-dimension` and
/// `inconsistent-dimension`.
pub(super) fn ordered<N: AsRef<str>>(
    inputs: &[ValueInfo],
    feeds: impl IntoIterator<Item = (N, Tensor)>,
) -> Result<(Vec<Option<Tensor>>, bool)> {
    let mut tensors: Vec<Option<Tensor>> = vec![None; inputs.len()];
    for (name, tensor) in feeds {
        let name = name.as_ref();
        let Some(position) = inputs.iter().position(|input| input.name == name) else {
            return Err(Error::new(
                ErrorCode::UnknownName,
                format!("the model has no input called {name:?}"),
            )
            .at_input(name)
            .expected(names(inputs)));
        };
        if tensors[position].replace(tensor).is_some() {
            return Err(Error::new(ErrorCode::InvalidArgument, format!("input {name:?} is fed twice")).at_input(name));
        }
    }
    let missing = inputs
        .iter()
        .zip(&tensors)
        .filter(|(input, tensor)| tensor.is_none() && !input.optional);
    let missing: Vec<ValueInfo> = missing.map(|(input, _)| input.clone()).collect();
    if let Some(first) = missing.first() {
        let message = format!("{} of the model's {} inputs are not fed", missing.len(), inputs.len());
        return Err(Error::new(ErrorCode::MissingInput, message)
            .at_input(first.name.clone())
            .expected(names(&missing)));
    }
    let mut sizes: HashMap<Arc<str>, (usize, String)> = HashMap::new();
    let mut defaults_are_fed = false;
    for (input, tensor) in inputs.iter().zip(&tensors) {
        if let Some(tensor) = tensor {
            check(input, tensor, &mut sizes)?;
            defaults_are_fed |= input.optional;
        }
    }
    Ok((tensors, defaults_are_fed))
}

/// The tensors that a variant of the model takes: without those that have a default, or with the defaults themselves
/// where they are not fed.
pub(super) fn with_defaults(
    imported: &Graph,
    tensors: Vec<Option<Tensor>>,
    defaults_are_fed: bool,
) -> Result<Vec<Tensor>> {
    let mut result = Vec::with_capacity(tensors.len());
    for (tensor, &id) in tensors.into_iter().zip(&imported.inputs) {
        let default = imported.value(id).constant.as_ref();
        match (tensor, default) {
            (_, Some(_)) if !defaults_are_fed => {}
            (Some(tensor), _) => result.push(tensor.aligned()?),
            (None, Some(default)) => result.push(default.aligned()?),
            (None, None) => return Err(Error::internal("an input without a default is not fed")),
        }
    }
    Ok(result)
}

fn check(input: &ValueInfo, tensor: &Tensor, sizes: &mut HashMap<Arc<str>, (usize, String)>) -> Result<()> {
    let Some(ty) = input.ty.as_tensor() else {
        return Err(
            Error::new(ErrorCode::UnsupportedModel, "inputs other than tensors cannot be fed")
                .at_input(input.name.clone())
                .actual(input.ty.to_string()),
        );
    };
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
pub(super) fn fixed_input_types(graph: &Graph) -> Result<Vec<(DType, Vec<usize>)>> {
    let fixed = |&id: &crate::graph::ValueId| {
        let value = graph.value(id);
        if let Some(tensor) = &value.constant {
            return Ok((tensor.dtype(), tensor.shape().to_vec()));
        }
        let shape = value.ty.shape();
        let shape = shape.and_then(|dims| dims.iter().map(|dim| dim.size()).collect::<Option<Vec<_>>>());
        value.ty.dtype().zip(shape).ok_or_else(|| {
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
