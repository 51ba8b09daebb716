//! Runs ONNX `Loop` (opset 1 to 25) and `Scan` (opset 8 to 25) over the program of their body.

use std::pin::Pin;

use super::{limits::bytes_of, runner::Runner, runtime::Runtime};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::{Node, Subgraph},
    ops::{ALL_OPERATORS, Control},
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
            _ if !ALL_OPERATORS => Err(Error::internal("an operator of the larger build")),
            Control::Scan if self.node.operator.version < 9 => self.run_batched_scan().await,
            Control::Scan => {
                let inputs: Vec<Value> = self.inputs.iter().flatten().cloned().collect();
                self.run_scan(&inputs, None).await
            }
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
        let run: Pin<Box<dyn Future<Output = Result<Vec<Value>>> + '_>> =
            Box::pin(self.body.run(self.runtime, feeds, &[], &[]));
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

    /// The form of opset 8: a scan of its own for each item of a batch, of as many steps as `sequence_lens` says. What
    /// shorter sequences leave of the scanned outputs is 0.
    async fn run_batched_scan(self) -> Result<Vec<Value>> {
        let lengths = match self.tensor(0)? {
            Some(lengths) => Some(lengths.to_i64s()?),
            None => None,
        };
        let inputs = self.inputs.iter().skip(1).flatten().map(Value::tensor);
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let batch = inputs.last().and_then(|tensor| tensor.shape().first()).copied();
        let batch = batch.ok_or_else(too_few_dimensions)?;
        if lengths.as_ref().is_some_and(|lengths| lengths.len() != batch)
            || inputs.iter().any(|tensor| tensor.shape().first() != Some(&batch))
        {
            return Err(Error::new(
                ErrorCode::ShapeMismatch,
                "a scan's inputs have different batch sizes",
            ));
        }
        let longest = inputs.last().and_then(|tensor| tensor.shape().get(1)).copied();
        let longest = longest.ok_or_else(too_few_dimensions)?;
        let states = inputs.len().saturating_sub(self.scan_inputs()?);
        let mut outputs: Vec<Vec<Tensor>> = vec![Vec::with_capacity(batch); self.node.outputs.len()];
        for item in 0..batch {
            let slice = |tensor: &&Tensor| -> Result<Value> {
                Ok(tensor.slice_along(0, item, 1)?.reshaped(&tensor.shape()[1..])?.into())
            };
            let feeds = inputs.iter().map(slice).collect::<Result<Vec<_>>>()?;
            let limit = match &lengths {
                Some(lengths) => {
                    let length = usize::try_from(lengths[item]).ok().filter(|&length| length <= longest);
                    Some(length.ok_or_else(|| {
                        Error::new(ErrorCode::RunFailed, "a sequence is longer than the scanned inputs")
                            .expected(format!("0 to {longest}"))
                            .actual(lengths[item].to_string())
                    })?)
                }
                None => None,
            };
            let results = self.run_scan(&feeds, limit).await?;
            for (list, value) in outputs.iter_mut().zip(results) {
                list.push(value.tensor()?.clone());
            }
        }
        let mut joined = Vec::with_capacity(outputs.len());
        for (index, list) in outputs.into_iter().enumerate() {
            let list = if index < states {
                list
            } else {
                list.iter()
                    .map(|tensor| filled_up(tensor, longest))
                    .collect::<Result<_>>()?
            };
            joined.push(Tensor::stack(&list, 0)?.into());
        }
        Ok(joined)
    }

    /// The number of inputs that are scanned.
    fn scan_inputs(&self) -> Result<usize> {
        let count = self.node.attributes.int("num_scan_inputs")?;
        let count = count.and_then(|count| usize::try_from(count).ok());
        count
            .filter(|&count| count > 0 && count <= self.inputs.len())
            .ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidGraph,
                    "attribute num_scan_inputs is missing or too large",
                )
            })
    }

    /// Runs the body over the slices of the last inputs, or over the first `limit` of them.
    async fn run_scan(&self, inputs: &[Value], limit: Option<usize>) -> Result<Vec<Value>> {
        let attributes = &self.node.attributes;
        let scan_inputs = self.scan_inputs()?;
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
        let directions = if self.node.operator.version < 9 {
            "directions"
        } else {
            "scan_input_directions"
        };
        let input_reversed = axes(directions, scan_inputs)?;
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
        let length = length.unwrap_or(0).min(limit.unwrap_or(usize::MAX));
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

/// A tensor with zeros (or empty strings) behind it along its first axis, up to `len`.
fn filled_up(tensor: &Tensor, len: usize) -> Result<Tensor> {
    let mut rest = tensor.shape().to_vec();
    let missing = match rest.first_mut() {
        Some(first) => {
            *first = len.saturating_sub(*first);
            *first
        }
        None => return Err(too_few_dimensions()),
    };
    if missing == 0 {
        return Ok(tensor.clone());
    }
    Tensor::concat(&[tensor.clone(), Tensor::zeros(tensor.dtype(), &rest)?], 0)
}

fn too_few_dimensions() -> Error {
    Error::new(ErrorCode::ShapeMismatch, "a scanned tensor has too few dimensions")
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
