//! Compares each GPU step with the node's CPU kernel on the very same inputs, and keeps off the GPU what disagrees.

#[cfg(feature = "gpu")]
use super::{event::Event, runtime::Runtime};
use crate::{
    error::Result,
    graph::ValueType,
    session::ValueInfo,
    tensor::{DType, Tensor, Value, element_count},
};
#[cfg(feature = "gpu")]
use crate::{
    gpu::{
        executor::GpuExecutor,
        program::{GpuStep, GpuValueId},
    },
    graph::NodeId,
    ops::{ValueFacts, evaluate::evaluate},
    plan::PlanState,
};

/// How far a float may lie from the CPU's, relative to itself. WGSL's own functions are no more exact than this.
const RELATIVE: f64 = 2e-3;

/// How far it may lie off relative to the largest of its tensor.
const OF_LARGEST: f64 = 1e-3;

/// Of so many integers or truth values one may differ, since what they were rounded from may.
const ONE_IN: usize = 1000;

/// Runs step `index` of a recorded program, and the same node on the CPU with the inputs that the step had.
#[cfg(feature = "gpu")]
pub(super) async fn run_step(
    runtime: &Runtime,
    state: &PlanState,
    (index, step): (usize, &GpuStep),
    executor: &mut GpuExecutor,
) -> Result<()> {
    let inputs = executor.download(&fed(state, step)).await?;
    executor.encode(index..index + 1)?;
    let outputs: Vec<GpuValueId> = step.outputs.iter().flatten().copied().collect();
    let outputs = executor.download(&outputs).await?;
    compare(runtime, state, step, inputs, outputs)
}

/// The inputs of a step that are not constant.
#[cfg(feature = "gpu")]
fn fed(state: &PlanState, step: &GpuStep) -> Vec<GpuValueId> {
    let inputs = state.bound.graph.nodes[step.node].inputs.iter().zip(&step.inputs);
    let fed = inputs.filter(|(value, _)| value.is_some_and(|value| state.facts[value.index()].constant.is_none()));
    fed.filter_map(|(_, on_gpu)| *on_gpu).collect()
}

/// Runs a step's node on the CPU and demotes it when the GPU's outputs differ.
#[cfg(feature = "gpu")]
fn compare(
    runtime: &Runtime,
    state: &PlanState,
    step: &GpuStep,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
) -> Result<()> {
    let graph = &state.bound.graph;
    let node = &graph.nodes[step.node];
    let mut facts = state.facts.clone();
    let mut inputs = inputs.into_iter();
    for (value, on_gpu) in node.inputs.iter().zip(&step.inputs) {
        let Some(value) = value.filter(|value| state.facts[value.index()].constant.is_none()) else {
            continue;
        };
        let (dtype, shape) = state.concrete(value)?;
        // A kernel does not read the elements of an input that it does not bind.
        let tensor = match on_gpu.and_then(|_| inputs.next()) {
            Some(bytes) => Tensor::from_bytes(dtype, &shape, bytes)?,
            None => Tensor::zeros(dtype, &shape)?,
        };
        facts[value.index()] = ValueFacts::of_constant(&tensor);
    }
    let operator = &state.bound.operators[step.node];
    let expected = evaluate(graph, NodeId(step.node as u32), operator, &mut facts)?;
    let made = node.outputs.iter().zip(&step.outputs).zip(expected.unwrap_or_default());
    let made = made.filter_map(|((value, on_gpu), expected)| Some(((*value)?, (*on_gpu)?, expected)));
    for ((value, _, expected), bytes) in made.zip(outputs) {
        let (dtype, shape) = state.concrete(value)?;
        let found = Tensor::from_bytes(dtype, &shape, bytes)?;
        let Some(message) = expected.map_or(Ok(None), |expected| disagreement(&expected, &found))? else {
            continue;
        };
        let reason = format!("its GPU kernel was found to be wrong: {message}");
        runtime.planner.demoted.borrow_mut().insert(step.label.clone(), reason);
        let (node, operator) = (step.label.clone(), node.operator.to_string());
        runtime.events.borrow_mut().push(Event::NodeDemoted {
            node,
            operator,
            message,
        });
        break;
    }
    Ok(())
}

/// Where and how what the GPU found differs by more than rounding.
#[cfg_attr(not(feature = "gpu"), allow(dead_code))]
fn disagreement(expected: &Tensor, found: &Tensor) -> Result<Option<String>> {
    let is_float = expected.dtype().is_float();
    let (expected, found) = (expected.to_f64s()?, found.to_f64s()?);
    if expected.len() != found.len() {
        return Ok(Some("the sizes differ".into()));
    }
    let finite = expected
        .iter()
        .map(|value| value.abs())
        .filter(|value| value.is_finite());
    // The last term stands for what is too small for the GPU, which may take it for 0.
    let slack = finite.fold(0.0, f64::max) * OF_LARGEST + 1e-30;
    let differs = |index: &usize| {
        let (a, b) = (found[*index], expected[*index]);
        let same = a == b || (a.is_nan() && b.is_nan());
        let near = is_float && (a - b).abs() <= RELATIVE * b.abs() + slack;
        !(same || (near && b.is_finite()))
    };
    let mut different = (0..expected.len()).filter(differs);
    let Some(first) = different.next() else { return Ok(None) };
    let count = 1 + different.count();
    if !is_float && count * ONE_IN <= expected.len() {
        return Ok(None);
    }
    let (a, b) = (found[first], expected[first]);
    let len = expected.len();
    Ok(Some(format!(
        "{count} of {len} elements differ, the first at {first}, {a} on the GPU and {b} on the CPU"
    )))
}

/// Feeds for inputs of fixed shapes: numbers between -1 and 1 for floats, 0 and 1 for everything else. `None` when a
/// shape is open or an input is no tensor of numbers.
pub(super) fn made_up(inputs: &[ValueInfo]) -> Option<Vec<(String, Value)>> {
    let mut seed = 1u32;
    let mut feeds = Vec::new();
    for input in inputs.iter().filter(|input| !input.optional) {
        let ValueType::Tensor(ty) = &input.ty else { return None };
        let dtype = ty.dtype.filter(|&dtype| dtype != DType::String)?;
        let sizes = ty.shape.as_ref()?.iter();
        let sizes = sizes.map(|dim| usize::try_from(dim.known()?).ok());
        let shape: Vec<usize> = sizes.collect::<Option<_>>()?;
        let mut number = || {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            let unit = f64::from(seed >> 8) / f64::from(1 << 24);
            if dtype.is_float() {
                2.0 * unit - 1.0
            } else {
                (2.0 * unit).floor()
            }
        };
        let values: Vec<f64> = (0..element_count(&shape).ok()?).map(|_| number()).collect();
        feeds.push((
            input.name.clone(),
            Tensor::from_f64s(dtype, &shape, &values).ok()?.into(),
        ));
    }
    Some(feeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(expected: &[f32], found: &[f32]) -> Option<String> {
        let tensor = |values: &[f32]| Tensor::new(&[values.len()], values.to_vec()).unwrap();
        disagreement(&tensor(expected), &tensor(found)).unwrap()
    }

    #[test]
    fn rounding_agrees_and_nothing_else_does() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for (expected, found) in [
            (vec![1.0, 2.0, -3.0], vec![1.001, 1.999, -3.0]),
            (vec![1.0, 0.0], vec![1.0, 0.0009]),
            (vec![nan, inf, -inf], vec![nan, inf, -inf]),
            (vec![1e-39], vec![0.0]),
            (vec![], vec![]),
        ] {
            assert_eq!(of(&expected, &found), None, "{expected:?} {found:?}");
        }
        for (expected, found) in [
            (vec![1.0, 2.0], vec![1.0, 2.1]),
            (vec![1.0, 2.0], vec![1.0, nan]),
            (vec![1.0, 2.0], vec![inf, 2.0]),
            (vec![inf, 2.0], vec![3e38, 2.0]),
            (vec![nan], vec![0.0]),
            (vec![0.5], vec![0.0]),
        ] {
            assert!(of(&expected, &found).is_some(), "{expected:?} {found:?}");
        }
    }

    #[test]
    fn of_many_integers_one_may_differ() {
        let tensor = |count: usize, wrong: usize| {
            let values = (0..count).map(|index| i32::from(index < wrong)).collect::<Vec<_>>();
            Tensor::new(&[count], values).unwrap()
        };
        let of = |count, wrong| disagreement(&tensor(count, 0), &tensor(count, wrong)).unwrap();
        assert!(of(3000, 3).is_none() && of(999, 1).is_some());
        assert_eq!(
            of(3000, 4).unwrap(),
            "4 of 3000 elements differ, the first at 0, 1 on the GPU and 0 on the CPU"
        );
    }
}
