//! Merges element-wise nodes into the matrix product, convolution or other kernel that makes their input, as its
//! epilogue.

use super::{
    pointwise::{MAX_INPUTS, defect, is_f32, without_scalars},
    rewrite::{Analysis, Known, Uses, retain_nodes},
};
use crate::{
    error::Result,
    graph::{Epilogue, Graph, NodeId, ValueId},
    pointwise::{Expr, Storage},
    tensor::DType,
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let uses = Uses::of(graph);
    let producers = graph.producers();
    let mut absorbed = vec![false; graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        let Some(merge) = find(graph, &analysis, &uses, &producers, &absorbed, index)? else {
            continue;
        };
        // The kernel moves to where the element-wise node stands: there the further inputs are made.
        let mut node = graph.nodes[merge.kernel.index()].clone();
        absorbed[merge.kernel.index()] = true;
        let first_input = node.inputs.len();
        node.inputs.extend(merge.inputs.into_iter().map(Some));
        node.epilogue = Some(Epilogue {
            expr: merge.expr.into(),
            first_input,
        });
        let own_label = graph.node_label(NodeId(index as u32));
        let merged = &graph.nodes[index];
        if merged.fused.is_empty() {
            node.fused.push(own_label);
        } else {
            node.fused.extend(merged.fused.iter().cloned());
        }
        node.outputs[0] = merged.outputs[0];
        graph.nodes[index] = node;
    }
    retain_nodes(graph, |index| !absorbed[index]);
    Ok(absorbed.iter().any(|absorbed| *absorbed))
}

struct Merge {
    kernel: NodeId,
    /// Input 0 is the kernel's result.
    expr: Expr,
    inputs: Vec<ValueId>,
}

/// The kernel that node `index` can be the epilogue of.
fn find(
    graph: &Graph,
    analysis: &Analysis,
    uses: &Uses,
    producers: &[Option<NodeId>],
    absorbed: &[bool],
    index: usize,
) -> Result<Option<Merge>> {
    let id = NodeId(index as u32);
    let Some(form) = analysis.pointwise(graph, id).filter(|form| is_f32(&form.expr)) else {
        return Ok(None);
    };
    let node = &graph.nodes[index];
    let Some(output) = node.output(0) else { return Ok(None) };
    let inputs: Vec<ValueId> = form.inputs.iter().filter_map(|&input| node.inputs[input]).collect();
    let (expr, inputs) = without_scalars(analysis, &form.expr, &inputs)?.unwrap_or((form.expr, inputs));
    // Of several candidates the last made is taken: the others' results are ready when it runs.
    let kernel = inputs
        .iter()
        .filter_map(|&value| {
            let producer = producers[value.index()]?;
            let kernel = &graph.nodes[producer.index()];
            let fits = !absorbed[producer.index()]
                && kernel.epilogue.is_none()
                && kernel.output(0) == Some(value)
                && kernel.outputs.iter().skip(1).all(Option::is_none)
                && analysis.operators[producer.index()].takes_epilogue()
                && uses.only_by(value, id)
                && analysis.facts[value.index()].dtype == Some(DType::F32)
                && analysis.facts[value.index()].shape.is_some()
                && analysis.facts[value.index()].shape == analysis.facts[output.index()].shape;
            fits.then_some((producer, value))
        })
        .max_by_key(|(producer, _)| *producer);
    let Some((kernel, value)) = kernel else { return Ok(None) };
    // Renumber: the kernel's result first, every other value once.
    let mut others: Vec<ValueId> = Vec::new();
    let map: Vec<usize> = inputs
        .iter()
        .map(|id| {
            if *id == value {
                return 0;
            }
            others.iter().position(|other| other == id).unwrap_or_else(|| {
                others.push(*id);
                others.len() - 1
            }) + 1
        })
        .collect();
    if others.len() > MAX_INPUTS - 1 {
        return Ok(None);
    }
    let expr = expr.merge_inputs(&map).map_err(defect)?;
    if expr.inputs().first() != Some(&Storage::F32) {
        return Ok(None);
    }
    Ok(Some(Merge {
        kernel,
        expr,
        inputs: others,
    }))
}
