//! Expands late: what is cast is expanded after the cast, and an element-wise node that broadcasts takes what it would have
//! been given expanded as it is. Attention masks and the masks of pooled sentences come that way.

use super::rewrite::{Known, Uses};
use crate::{
    error::Result,
    graph::{Graph, NodeId, ValueId, ValueType},
    tensor::Dim,
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    if !graph.nodes.iter().any(|node| node.operator.is_onnx("Expand")) {
        return Ok(false);
    }
    let analysis = known.analysis(graph)?;
    let uses = Uses::of(graph);
    let producers = graph.producers();
    let mut swaps = Vec::new();
    let mut shortcuts = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let id = NodeId(index as u32);
        let expanded = |value: ValueId| {
            let maker = producers[value.index()]?;
            let expand = &graph.nodes[maker.index()];
            expand.operator.is_onnx("Expand").then_some((maker, expand.input(0)?))
        };
        if node.operator.is_onnx("Cast")
            && let Some(value) = node.input(0)
            && let Some((expand, _)) = expanded(value)
            && uses.only_by(value, id)
        {
            swaps.push((expand, id));
            continue;
        }
        if analysis.pointwise(graph, id).is_none() {
            continue;
        }
        let shape = |value: ValueId| analysis.facts[value.index()].shape.as_deref();
        let Some(output) = node.output(0).and_then(shape) else {
            continue;
        };
        for (place, value) in node.inputs.iter().enumerate() {
            let Some((_, source)) = value.and_then(expanded) else {
                continue;
            };
            // Another input alone has to give the output its shape.
            let others = node.inputs.iter().enumerate().filter(|&(other, _)| other != place);
            let mut others = others.filter_map(|(_, value)| shape((*value)?));
            if shape(source).is_some_and(|own| broadcasts(own, output)) && others.any(|other| other == output) {
                shortcuts.push((id, place, source));
                // One at a time: the others may be what gave the shape.
                break;
            }
        }
    }
    let changed = !swaps.is_empty() || !shortcuts.is_empty();
    for (id, place, source) in shortcuts {
        graph.nodes[id.index()].inputs[place] = Some(source);
    }
    for (expand, cast) in swaps {
        let [expanded, result] = [expand, cast].map(|id| graph.nodes[id.index()].output(0));
        let source = graph.nodes[expand.index()].input(0);
        // The nodes change places, and with them what they make.
        graph.nodes.swap(expand.index(), cast.index());
        graph.nodes[expand.index()].inputs[0] = source;
        graph.nodes[expand.index()].outputs[0] = expanded;
        graph.nodes[cast.index()].inputs[0] = expanded;
        graph.nodes[cast.index()].outputs[0] = result;
        if let Some(value) = expanded {
            // It is of another type and shape now.
            graph.values[value.index()].ty = ValueType::default();
        }
    }
    if changed {
        super::dead::run(graph, known)?;
    }
    Ok(changed)
}

/// Whether a tensor of this shape broadcasts to one of the other.
fn broadcasts(own: &[Dim], to: &[Dim]) -> bool {
    own.len() <= to.len()
        && own
            .iter()
            .rev()
            .zip(to.iter().rev())
            .all(|(own, to)| own == to || own.known() == Some(1))
}

#[cfg(test)]
mod tests {
    use super::super::{Level, optimize};
    use crate::{
        graph::{Attribute, Graph, GraphBuilder},
        tensor::{DType, Dim, Tensor},
    };

    fn operators(graph: Graph) -> Vec<String> {
        let graph = optimize(graph, Level::All).unwrap();
        graph.nodes.iter().map(|node| node.operator.to_string()).collect()
    }

    /// `x * cast(expand(mask, shape(x)))`, of which the mask's last dimension is one.
    #[test]
    fn a_mask_is_cast_small_and_broadcast_by_the_product() {
        let mut b = GraphBuilder::new(17);
        let [batch, length] = ["n", "s"].map(Dim::symbol);
        let x = b.input("x", DType::F32, vec![batch.clone(), length.clone(), Dim::from(8)]);
        let mask = b.input("mask", DType::I64, vec![batch, length, Dim::from(1)]);
        let shape = b.node("Shape", &[x]);
        let expanded = b.node("Expand", &[mask, shape]);
        let floats = b.node_with("Cast", &[expanded], &[("to", Attribute::Int(1))]);
        let masked = b.node("Mul", &[x, floats]);
        let names = operators(b.output("y", masked).finish().unwrap());
        assert!(!names.iter().any(|name| name.contains("Expand")), "{names:?}");
    }

    /// What alone has the result's shape stays expanded.
    #[test]
    fn an_expansion_that_makes_the_shape_stays() {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::F32, vec![Dim::symbol("n"), Dim::from(1)]);
        let shape = b.constant("shape", Tensor::new(&[2], vec![1i64, 8]).unwrap());
        let expanded = b.node("Expand", &[x, shape]);
        let y = b.node("Neg", &[expanded]);
        let names = operators(b.output("y", y).finish().unwrap());
        assert!(names.iter().any(|name| name == "Expand"), "{names:?}");
    }
}
