//! Lets an element-wise node change places with the view (Reshape, Squeeze, …) before it, where that brings it next to an
//! element-wise node that it can merge with or a kernel whose epilogue it can become.

use super::rewrite::{Analysis, Known, Uses};
use crate::{
    error::Result,
    graph::{Graph, Node, NodeId, Value, ValueId},
    tensor::{DType, Tensor, resolve_axis},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let uses = Uses::of(graph);
    let producers = graph.producers();
    let mut swaps = Vec::new();
    for index in 0..graph.nodes.len() {
        let id = NodeId(index as u32);
        if analysis.pointwise(graph, id).is_some()
            && let Some(swap) = find(graph, &analysis, &uses, &producers, id)?
        {
            swaps.push((index, swap));
        }
    }
    let changed = !swaps.is_empty();
    for (index, swap) in swaps {
        let mut moved = graph.nodes[index].clone();
        let mut view = graph.nodes[swap.view.index()].clone();
        for (position, constant) in swap.constants {
            let name = format!("{}.constant{position}", graph.node_label(NodeId(index as u32)));
            moved.inputs[position] = Some(graph.add_constant(name, constant));
        }
        let between = graph.add_value(Value {
            name: format!("{}.moved", graph.value(swap.viewed).name),
            ..Value::default()
        });
        for input in &mut moved.inputs {
            if *input == Some(swap.viewed) {
                *input = view.inputs[0];
            }
        }
        view.outputs = std::mem::replace(&mut moved.outputs, vec![Some(between)]);
        view.inputs[0] = Some(between);
        graph.nodes[swap.view.index()] = moved;
        graph.nodes[index] = view;
    }
    Ok(changed)
}

struct Swap {
    view: NodeId,
    /// What the view makes.
    viewed: ValueId,
    /// Constants in the shape that they need before the view, by input.
    constants: Vec<(usize, Tensor)>,
}

fn find(
    graph: &Graph,
    analysis: &Analysis,
    uses: &Uses,
    producers: &[Option<NodeId>],
    id: NodeId,
) -> Result<Option<Swap>> {
    let node = &graph.nodes[id.index()];
    let is_constant = |value: &&ValueId| analysis.facts[value.index()].constant.is_some();
    let mut data = node.inputs.iter().flatten().filter(|value| !is_constant(value));
    let Some(&viewed) = data.next() else { return Ok(None) };
    let shape = |value: ValueId| analysis.facts[value.index()].shape.as_ref();
    let (Some(view), Some(output)) = (producers[viewed.index()], node.output(0)) else {
        return Ok(None);
    };
    let view_node = &graph.nodes[view.index()];
    let is_f32 = |value: ValueId| analysis.facts[value.index()].dtype == Some(DType::F32);
    let fits = data.all(|value| *value == viewed)
        && uses.only_by(viewed, id)
        && shape(viewed) == shape(output)
        && is_f32(viewed)
        && is_f32(output)
        && is_view(view_node);
    let Some(source) = view_node.input(0).filter(|_| fits) else {
        return Ok(None);
    };
    let Some(kernel) = producers[source.index()].filter(|_| uses.only_by(source, view)) else {
        return Ok(None);
    };
    let takes = graph.nodes[kernel.index()].epilogue.is_none()
        && (analysis.operators[kernel.index()].takes_epilogue() || analysis.pointwise(graph, kernel).is_some());
    let (Some(from), Some(to)) = (shape(source).filter(|_| takes), shape(viewed)) else {
        return Ok(None);
    };
    let mut constants = Vec::new();
    for (position, value) in node.inputs.iter().enumerate() {
        let Some(constant) = value.and_then(|value| analysis.facts[value.index()].constant.as_ref()) else {
            continue;
        };
        match before_view(view_node, constant, from.len(), to.len(), analysis)? {
            Some(constant) => constants.push((position, constant)),
            None => return Ok(None),
        }
    }
    Ok(Some(Swap {
        view,
        viewed,
        constants,
    }))
}

fn is_view(node: &Node) -> bool {
    let names = ["Reshape", "Squeeze", "Unsqueeze", "Flatten"];
    names.iter().any(|name| node.operator.is_onnx(name)) && node.epilogue.is_none()
}

/// A constant that broadcasts to a view's result, as one that broadcasts to what is viewed.
fn before_view(view: &Node, constant: &Tensor, from: usize, to: usize, analysis: &Analysis) -> Result<Option<Tensor>> {
    if constant.len() == 1 {
        return constant.reshaped(&[]).map(Some);
    }
    let (inserts, shape) = match &*view.operator.name {
        "Squeeze" => (true, constant.shape()),
        "Unsqueeze" => (false, constant.shape()),
        _ => return Ok(None),
    };
    let axes = match (view.attributes.ints("axes")?, view.input(1)) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(id)) => match &analysis.facts[id.index()].constant {
            Some(axes) => axes.to_i64s()?,
            None => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    let axes = axes.iter().map(|&axis| resolve_axis(axis, from.max(to)));
    let axes = axes.collect::<Result<Vec<usize>>>()?;
    // With all axes of the view's result.
    let mut sizes = vec![1; to.saturating_sub(shape.len())];
    sizes.extend_from_slice(shape);
    if sizes.len() != to {
        return Ok(None);
    }
    let sizes: Vec<usize> = if inserts {
        let mut sizes = sizes.into_iter();
        (0..from)
            .map(|axis| {
                if axes.contains(&axis) {
                    1
                } else {
                    sizes.next().unwrap_or(1)
                }
            })
            .collect()
    } else {
        if axes.iter().any(|&axis| sizes[axis] != 1) {
            return Ok(None);
        }
        let kept = sizes.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
        kept.map(|(_, &size)| size).collect()
    };
    constant.reshaped(&sizes).map(Some)
}
