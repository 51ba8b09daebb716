//! Runs ONNX `Loop` (opset 1 to 25) and `Scan` (opset 9 to 25) over the program of their body.

use std::pin::Pin;

use super::{limits::bytes_of, runner::Runner, runtime::Runtime};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::{Node, Subgraph},
    ops::Control,
    tensor::{DType, Tensor, Value, display_shape, resolve_axis},
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
    pub inputs: Vec<Option<Value>>,
    pub captures: Vec<Value>,
}

impl Call<'_> {
    pub async fn run(self, control: Control) -> Result<Vec<Value>> {
        match control {
            Control::If => Err(Error::internal("an If is planned, not run")),
            Control::Loop => self.run_loop().await,
            Control::Scan => self.run_scan().await,
            Control::SequenceMap => self.run_sequence_map().await,
        }
    }

    async fn iterate(&self, feeds: Vec<Value>) -> Result<Vec<Value>> {
        self.runtime.meter.iterate()?;
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
        let run: Pin<Box<dyn Future<Output = Result<Vec<Value>>> + '_>> = Box::pin(self.body.run(self.runtime, feeds));
        run.await
    }

    /// Input `index`, when it is given; it must be a tensor.
    fn tensor(&self, index: usize) -> Result<Option<&Tensor>> {
        let input = self.inputs.get(index).and_then(Option::as_ref);
        input.map(Value::tensor).transpose()
    }

    async fn run_loop(self) -> Result<Vec<Value>> {
        let trip_count = match self.tensor(0)? {
            Some(tensor) => Some(one_integer(tensor, "the trip count")?),
            None => None,
        };
        let mut keep_going = match self.tensor(1)? {
            Some(tensor) => truth_of(tensor)?,
            None => true,
        };
        let mut state: Vec<Value> = self.inputs.iter().skip(2).flatten().cloned().collect();
        let state_count = state.len();
        let mut collected: Vec<Vec<Tensor>> = Vec::new();
        let mut iteration = 0i64;
        while keep_going && trip_count.is_none_or(|count| iteration < count) {
            let mut feeds = vec![
                Tensor::scalar(iteration).into(),
                Tensor::scalar(crate::tensor::Bool8::from(keep_going)).into(),
            ];
            feeds.append(&mut state);
            let mut results = self.iterate(feeds).await?.into_iter();
            keep_going = truth_of(results.next().ok_or_else(too_few_outputs)?.tensor()?)?;
            state = results.by_ref().take(state_count).collect();
            if state.len() != state_count {
                return Err(too_few_outputs());
            }
            collected.resize_with(results.len(), Vec::new);
            self.collect(&mut collected, results)?;
            iteration += 1;
        }
        let outputs = self.node.outputs.len();
        let scans = outputs.saturating_sub(state_count);
        if collected.is_empty() {
            // Without an iteration only the body's declared types say what an empty list is made of.
            for id in self.body.bound().graph.outputs.iter().skip(1 + state_count).take(scans) {
                state.push(empty_stack(self.body, *id)?.into());
            }
        } else {
            for list in collected.iter().take(scans) {
                state.push(Tensor::stack(list, 0)?.into());
            }
        }
        Ok(state)
    }

    async fn run_scan(self) -> Result<Vec<Value>> {
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
        let inputs: Vec<Value> = self.inputs.iter().flatten().cloned().collect();
        let (initial, scanned) = inputs.split_at(inputs.len().saturating_sub(scan_inputs));
        let scanned = scanned.iter().map(Value::tensor).collect::<Result<Vec<_>>>()?;
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
                let axis = resolve_axis(input_axes[index], tensor.shape().len())?;
                let mut shape = tensor.shape().to_vec();
                shape.remove(axis);
                feeds.push(tensor.slice_along(axis, position, 1)?.reshaped(&shape)?.into());
            }
            let mut results = self.iterate(feeds).await?.into_iter();
            state = results.by_ref().take(initial.len()).collect();
            if state.len() != initial.len() || results.len() < scan_outputs {
                return Err(too_few_outputs());
            }
            self.collect(&mut collected, results)?;
        }
        for (index, mut list) in collected.into_iter().enumerate() {
            if output_reversed[index] != 0 {
                list.reverse();
            }
            let stacked = match list.first() {
                Some(first) => {
                    let axis = resolve_axis(output_axes[index], first.shape().len() + 1)?;
                    Tensor::stack(&list, axis)?
                }
                None => {
                    let outputs = &self.body.bound().graph.outputs;
                    let id = outputs.get(initial.len() + index).ok_or_else(too_few_outputs)?;
                    empty_stack(self.body, *id)?
                }
            };
            state.push(stacked.into());
        }
        Ok(state)
    }

    /// Puts the tensors of one iteration behind those of the ones before.
    fn collect(&self, collected: &mut [Vec<Tensor>], results: impl Iterator<Item = Value>) -> Result<()> {
        for (list, value) in collected.iter_mut().zip(results) {
            self.runtime
                .meter
                .hold(bytes_of(&value), "the outputs of a loop take")?;
            list.push(value.tensor()?.clone());
        }
        Ok(())
    }

    /// Runs the body on each element of the first sequence, with the elements of the other sequences beside it.
    async fn run_sequence_map(self) -> Result<Vec<Value>> {
        let inputs: Vec<&Value> = self.inputs.iter().flatten().collect();
        let first = inputs
            .first()
            .ok_or_else(|| Error::internal("a SequenceMap without a sequence"))?;
        let length = first.sequence()?.len();
        let mut outputs = vec![Vec::with_capacity(length); self.node.outputs.len()];
        for position in 0..length {
            let mut feeds = Vec::with_capacity(inputs.len());
            for input in &inputs {
                feeds.push(match input {
                    Value::Sequence(values) => values.get(position).cloned().ok_or_else(|| {
                        Error::new(ErrorCode::ShapeMismatch, "the sequences have different lengths")
                            .expected(length.to_string())
                            .actual(values.len().to_string())
                    })?,
                    other => (*other).clone(),
                });
            }
            let results = self.iterate(feeds).await?;
            if results.len() < outputs.len() {
                return Err(too_few_outputs());
            }
            for (list, value) in outputs.iter_mut().zip(results) {
                self.runtime
                    .meter
                    .hold(bytes_of(&value), "the outputs of a loop take")?;
                list.push(value);
            }
        }
        Ok(outputs.into_iter().map(Value::Sequence).collect())
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
