//! Checks feeds against the model's inputs and puts them in order.

use std::{collections::HashMap, sync::Arc};

use super::ValueInfo;
use crate::{
    error::{Error, ErrorCode, Result},
    graph::Graph,
    tensor::{DType, Tensor, display_shape},
};

/// The feeds in the order of the graph's inputs, with defaults where an optional one is left out.
///
/// Fails with `missing-input`, `unknown-name`, `wrong-type`, `wrong-rank`, `wrong-dimension` and
/// `inconsistent-dimension`.
pub(super) fn ordered<N: AsRef<str>>(
    graph: &Graph,
    inputs: &[ValueInfo],
    feeds: impl IntoIterator<Item = (N, Tensor)>,
) -> Result<Vec<Tensor>> {
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
    let mut result = Vec::with_capacity(inputs.len());
    for ((input, tensor), &id) in inputs.iter().zip(tensors).zip(&graph.inputs) {
        let tensor = match tensor {
            Some(tensor) => tensor,
            None => {
                let default = graph.value(id).constant.clone();
                default.ok_or_else(|| Error::internal("an optional input has no default"))?
            }
        };
        check(input, &tensor, &mut sizes)?;
        result.push(tensor.aligned()?);
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
pub(super) fn fixed_input_types(graph: &Graph, inputs: &[ValueInfo]) -> Result<Vec<(DType, Vec<usize>)>> {
    let fixed = |(input, &id): (&ValueInfo, &crate::graph::ValueId)| {
        if let Some(tensor) = &graph.value(id).constant {
            return Ok((tensor.dtype(), tensor.shape().to_vec()));
        }
        let shape = input
            .ty
            .shape()
            .and_then(|dims| dims.iter().map(|dim| dim.size()).collect::<Option<Vec<_>>>());
        input.ty.dtype().zip(shape).ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidArgument,
                "a program needs concrete input shapes: run the session first",
            )
            .at_input(input.name.clone())
            .actual(input.ty.to_string())
        })
    };
    inputs.iter().zip(&graph.inputs).map(fixed).collect()
}

fn names(values: &[ValueInfo]) -> String {
    let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
    names.join(", ")
}
