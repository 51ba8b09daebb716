//! Runs one node by itself on constant inputs: what constant folding is made of.

use std::sync::Arc;

use super::{CpuLowering, Operator, Prepared, TensorDesc, ValueFacts, infer::infer_node};
use crate::{
    cpu::executor::run_alone,
    error::{Error, Result},
    graph::{Graph, NodeId},
    tensor::Tensor,
};

/// The outputs of node `id` of `graph` for constant inputs, or `None` when it cannot be run by itself (it runs
/// subgraphs, or a shape does not follow from the inputs and no kernel makes it). `facts` hold a constant for every
/// input; those of the outputs are inferred.
pub fn evaluate(
    graph: &Graph,
    id: NodeId,
    operator: &Arc<dyn Operator>,
    facts: &mut [ValueFacts],
) -> Result<Option<Vec<Option<Tensor>>>> {
    let node = &graph.nodes[id.index()];
    if operator.control().is_some() || operator.works_on_values() {
        return Ok(None);
    }
    infer_node(graph, id, node, &**operator, facts, &mut 0)?;
    let describe = |value: &Option<crate::graph::ValueId>| {
        let Some(value) = value else { return Some(None) };
        let facts = &facts[value.index()];
        // What is deferred is not kept in memory for this one use.
        let constant = facts.tensor().ok()?.map(|tensor| tensor.at_hand());
        let constant = constant.transpose().ok()?;
        let shape = facts.concrete_shape();
        Some(Some((facts.dtype?, shape, constant)))
    };
    let Some(inputs) = node.inputs.iter().map(describe).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let Some(outputs) = node.outputs.iter().map(describe).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let outputs_known = outputs.iter().flatten().all(|(_, shape, _)| shape.is_some());
    let to_desc = |(dtype, shape, constant): (_, Option<Vec<usize>>, _)| TensorDesc {
        dtype,
        shape: shape.unwrap_or_default(),
        constant,
        constant_id: 0,
    };
    let tensors: Vec<Option<Tensor>> = inputs
        .iter()
        .map(|input| match input {
            Some((_, _, Some(constant))) => constant.aligned().map(Some),
            Some(_) => Err(Error::internal("an input of a folded node is not constant")),
            None => Ok(None),
        })
        .collect::<Result<_>>()?;
    let mut inputs: Vec<Option<TensorDesc>> = inputs.into_iter().map(|input| input.map(to_desc)).collect();
    for (index, input) in inputs.iter_mut().enumerate() {
        if let Some(input) = input {
            input.constant_id = index as u64;
        }
    }
    let outputs: Vec<Option<TensorDesc>> = outputs.into_iter().map(|output| output.map(to_desc)).collect();
    let prepared = Prepared::default();
    let lowering = CpuLowering {
        node,
        inputs: &inputs,
        outputs: &outputs,
        outputs_known,
        prepared: &prepared,
        threads: 1,
    };
    let kernel = operator.cpu(&lowering)?;
    if !outputs_known && !matches!(kernel, crate::cpu::kernel::CpuKernel::Dynamic(_)) {
        return Ok(None);
    }
    let wanted: Vec<_> = outputs
        .into_iter()
        .map(|output| output.map(|output| (output.dtype, output.shape)))
        .collect();
    let mut results = run_alone(&kernel, &tensors, &wanted)?;
    results.resize(node.outputs.len(), None);
    Ok(Some(results))
}
