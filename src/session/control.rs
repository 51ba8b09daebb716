//! Runs ONNX `Loop` (opset 1 to 25) and `Scan` (opset 9 to 25) over the program of their body.

use std::pin::Pin;

use super::{runner::Runner, runtime::Runtime};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::{Node, Subgraph},
    ops::Control,
    tensor::{AlignedBytes, DType, Tensor, display_shape, element_count, resolve_axis},
};

/// The body of a loop or scan.
pub(super) fn body_of(node: &Node) -> Result<&Subgraph> {
    let body = node.attributes.graph("body")?;
    body.ok_or_else(|| Error::new(ErrorCode::InvalidGraph, "attribute body is missing"))
}

/// One execution of a control-flow node.
pub(super) struct Call<'a> {
    pub runtime: &'a Runtime,
    pub body: &'a Runner,
    pub node: &'a Node,
    pub inputs: Vec<Option<Tensor>>,
    pub captures: Vec<Tensor>,
}

impl Call<'_> {
    pub async fn run(self, control: Control) -> Result<Vec<Tensor>> {
        match control {
            Control::If => Err(Error::internal("an If is planned, not run")),
            Control::Loop => self.run_loop().await,
            Control::Scan => self.run_scan().await,
        }
    }

    async fn iterate(&self, feeds: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let expected = self.body.bound().graph.inputs.len();
        if feeds.len() != expected {
            return Err(
                Error::new(ErrorCode::InvalidGraph, "the body has another number of inputs")
                    .expected(feeds.len().to_string())
                    .actual(expected.to_string()),
            );
        }
        let feeds = feeds.into_iter().chain(self.captures.iter().cloned()).collect();
        // Boxed: a body may hold another loop.
        let run: Pin<Box<dyn Future<Output = Result<Vec<Tensor>>> + '_>> = Box::pin(self.body.run(self.runtime, feeds));
        run.await
    }

    async fn run_loop(self) -> Result<Vec<Tensor>> {
        let trip_count = match self.inputs.first().and_then(Option::as_ref) {
            Some(tensor) => Some(one_integer(tensor, "the trip count")?),
            None => None,
        };
        let mut keep_going = match self.inputs.get(1).and_then(Option::as_ref) {
            Some(tensor) => truth_of(tensor)?,
            None => true,
        };
        let mut state: Vec<Tensor> = self.inputs.iter().skip(2).flatten().cloned().collect();
        let state_count = state.len();
        let mut collected: Vec<Vec<Tensor>> = Vec::new();
        let mut iteration = 0i64;
        while keep_going && trip_count.is_none_or(|count| iteration < count) {
            let mut feeds = vec![
                Tensor::scalar(iteration),
                Tensor::scalar(crate::tensor::Bool8::from(keep_going)),
            ];
            feeds.append(&mut state);
            let mut results = self.iterate(feeds).await?.into_iter();
            keep_going = truth_of(&results.next().ok_or_else(too_few_outputs)?)?;
            state = results.by_ref().take(state_count).collect();
            if state.len() != state_count {
                return Err(too_few_outputs());
            }
            collected.resize_with(results.len(), Vec::new);
            collected
                .iter_mut()
                .zip(results)
                .for_each(|(list, tensor)| list.push(tensor));
            iteration += 1;
        }
        let outputs = self.node.outputs.len();
        let scans = outputs.saturating_sub(state_count);
        if collected.is_empty() {
            // Without an iteration only the body's declared types say what an empty list is made of.
            for id in self.body.bound().graph.outputs.iter().skip(1 + state_count).take(scans) {
                state.push(empty_stack(self.body, *id)?);
            }
        } else {
            for list in collected.iter().take(scans) {
                state.push(stack(list, 0)?);
            }
        }
        Ok(state)
    }

    async fn run_scan(self) -> Result<Vec<Tensor>> {
        let attributes = &self.node.attributes;
        let scan_inputs = attributes.int("num_scan_inputs")?;
        let scan_inputs = scan_inputs.and_then(|count| usize::try_from(count).ok());
        let scan_inputs = scan_inputs
            .filter(|&count| count > 0 && count <= self.inputs.len())
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidGraph,
                    "attribute num_scan_inputs is missing or too large",
                )
            })?;
        let inputs: Vec<Tensor> = self.inputs.iter().flatten().cloned().collect();
        let (initial, scanned) = inputs.split_at(inputs.len().saturating_sub(scan_inputs));
        let mut state = initial.to_vec();
        let scan_outputs = self.node.outputs.len().saturating_sub(state.len());
        let axes = |name: &str, count: usize| -> Result<Vec<i64>> {
            let list = attributes.ints(name)?.unwrap_or(&[]);
            Ok((0..count).map(|index| list.get(index).copied().unwrap_or(0)).collect())
        };
        let input_axes = axes("scan_input_axes", scan_inputs)?;
        let output_axes = axes("scan_output_axes", scan_outputs)?;
        let input_reversed = axes("scan_input_directions", scan_inputs)?;
        let output_reversed = axes("scan_output_directions", scan_outputs)?;
        let mut length = None;
        for (tensor, &axis) in scanned.iter().zip(&input_axes) {
            let axis = resolve_axis(axis, tensor.shape().len())?;
            let size = tensor.shape()[axis];
            if *length.get_or_insert(size) != size {
                return Err(
                    Error::new(ErrorCode::ShapeMismatch, "the scanned inputs have different lengths")
                        .expected(length.unwrap_or(0).to_string())
                        .actual(size.to_string()),
                );
            }
        }
        let length = length.unwrap_or(0);
        let mut collected: Vec<Vec<Tensor>> = vec![Vec::with_capacity(length); scan_outputs];
        for step in 0..length {
            let mut feeds = std::mem::take(&mut state);
            for (index, tensor) in scanned.iter().enumerate() {
                let position = if input_reversed[index] != 0 {
                    length - 1 - step
                } else {
                    step
                };
                feeds.push(slice_at(
                    tensor,
                    resolve_axis(input_axes[index], tensor.shape().len())?,
                    position,
                )?);
            }
            let mut results = self.iterate(feeds).await?.into_iter();
            state = results.by_ref().take(initial.len()).collect();
            if state.len() != initial.len() || results.len() < scan_outputs {
                return Err(too_few_outputs());
            }
            collected
                .iter_mut()
                .zip(results)
                .for_each(|(list, tensor)| list.push(tensor));
        }
        for (index, mut list) in collected.into_iter().enumerate() {
            if output_reversed[index] != 0 {
                list.reverse();
            }
            state.push(match list.first() {
                Some(first) => {
                    let axis = resolve_axis(output_axes[index], first.shape().len() + 1)?;
                    stack(&list, axis)?
                }
                None => {
                    let outputs = &self.body.bound().graph.outputs;
                    let id = outputs.get(initial.len() + index).ok_or_else(too_few_outputs)?;
                    empty_stack(self.body, *id)?
                }
            });
        }
        Ok(state)
    }
}

fn too_few_outputs() -> Error {
    Error::new(ErrorCode::InvalidGraph, "the body has too few outputs")
}

fn truth_of(tensor: &Tensor) -> Result<bool> {
    match (tensor.dtype(), tensor.bytes()) {
        (DType::Bool, [byte]) => Ok(*byte != 0),
        _ => Err(
            Error::new(ErrorCode::ShapeMismatch, "a loop's condition is not one truth value")
                .expected("bool with one element")
                .actual(format!("{tensor:?}")),
        ),
    }
}

fn one_integer(tensor: &Tensor, what: &str) -> Result<i64> {
    match tensor.to_i64s()?.as_slice() {
        [value] => Ok(*value),
        _ => Err(
            Error::new(ErrorCode::ShapeMismatch, format!("{what} is not one number"))
                .actual(display_shape(tensor.shape())),
        ),
    }
}

/// No elements along a new first axis, of what the body's output is declared to be.
fn empty_stack(body: &Runner, id: crate::graph::ValueId) -> Result<Tensor> {
    let ty = &body.bound().graph.value(id).ty;
    let dtype = ty.dtype().ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidGraph,
            "a loop without an iteration has an output of no declared type",
        )
    })?;
    let inner = ty.shape().unwrap_or(&[]).iter().map(|dim| dim.size().unwrap_or(0));
    let shape: Vec<usize> = [0].into_iter().chain(inner).collect();
    Tensor::zeros(dtype, &shape)
}

/// Tensors of one type and shape joined along a new axis.
fn stack(tensors: &[Tensor], axis: usize) -> Result<Tensor> {
    let first = tensors.first().ok_or_else(|| Error::internal("nothing to stack"))?;
    if let Some(other) = tensors
        .iter()
        .find(|t| t.shape() != first.shape() || t.dtype() != first.dtype())
    {
        return Err(Error::new(
            ErrorCode::ShapeMismatch,
            "a loop's iterations made outputs of different shapes",
        )
        .expected(format!("{}{}", first.dtype(), display_shape(first.shape())))
        .actual(format!("{}{}", other.dtype(), display_shape(other.shape()))));
    }
    let mut shape = first.shape().to_vec();
    shape.insert(axis, tensors.len());
    if first.dtype() == DType::String {
        let outer: usize = first.shape()[..axis].iter().product();
        let inner: usize = first.shape()[axis..].iter().product();
        let mut strings = Vec::with_capacity(element_count(&shape)?);
        for row in 0..outer {
            for tensor in tensors {
                strings.extend_from_slice(&tensor.strings()?[row * inner..(row + 1) * inner]);
            }
        }
        return Tensor::from_strings(&shape, strings);
    }
    let width = element_width(first.dtype())?;
    let outer: usize = first.shape()[..axis].iter().product();
    let inner: usize = first.shape()[axis..].iter().product::<usize>() * width;
    let mut bytes = AlignedBytes::zeroed(element_count(&shape)? * width)?;
    let target = bytes.as_mut();
    for row in 0..outer {
        for (index, tensor) in tensors.iter().enumerate() {
            let to = (row * tensors.len() + index) * inner;
            target[to..to + inner].copy_from_slice(&tensor.bytes()[row * inner..(row + 1) * inner]);
        }
    }
    Tensor::from_bytes(first.dtype(), &shape, bytes)
}

/// The tensor at `position` of `axis`, which disappears.
fn slice_at(tensor: &Tensor, axis: usize, position: usize) -> Result<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let size = shape.remove(axis);
    let outer: usize = tensor.shape()[..axis].iter().product();
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    if tensor.dtype() == DType::String {
        let strings = tensor.strings()?;
        let rows = (0..outer).map(|row| &strings[(row * size + position) * inner..][..inner]);
        return Tensor::from_strings(&shape, rows.flatten().cloned().collect());
    }
    let inner = inner * element_width(tensor.dtype())?;
    let mut bytes = AlignedBytes::zeroed(outer * inner)?;
    for row in 0..outer {
        let from = (row * size + position) * inner;
        bytes.as_mut()[row * inner..(row + 1) * inner].copy_from_slice(&tensor.bytes()[from..from + inner]);
    }
    Tensor::from_bytes(tensor.dtype(), &shape, bytes)
}

fn element_width(dtype: DType) -> Result<usize> {
    dtype
        .bits()
        .filter(|bits| bits % 8 == 0)
        .map(|bits| bits / 8)
        .ok_or_else(|| {
            Error::new(
                ErrorCode::UnsupportedOperator,
                format!("loops over {dtype} tensors are not supported"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacking_and_slicing_are_inverse_along_every_axis() {
        let parts: Vec<Tensor> = (0..3)
            .map(|k| Tensor::new(&[2, 4], (0..8).map(|i| 10 * k + i).collect()).unwrap())
            .collect();
        for axis in 0..3 {
            let stacked = stack(&parts, axis).unwrap();
            assert_eq!(stacked.shape()[axis], 3);
            for (index, part) in parts.iter().enumerate() {
                assert_eq!(&slice_at(&stacked, axis, index).unwrap(), part, "axis {axis}");
            }
        }
        let other = Tensor::new(&[8], vec![0i32; 8]).unwrap();
        assert!(stack(&[parts[0].clone(), other], 0).is_err());
    }
}
