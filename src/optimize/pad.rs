//! Merges a Pad into the convolution or pooling behind it, which pads as it goes.

use super::rewrite::{Analysis, Known};
use crate::{
    error::Result,
    graph::{Attribute, Graph, Node, NodeId},
    tensor::{DType, resolve_axis},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    if !graph.nodes.iter().any(|node| node.operator.is_onnx("Pad")) {
        return Ok(false);
    }
    let analysis = known.analysis(graph)?;
    let producers = graph.producers();
    let mut merges = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let Some(input) = node.input(0) else { continue };
        let Some(pad) = producers[input.index()].map(|id| &graph.nodes[id.index()]) else {
            continue;
        };
        let (true, Some(source)) = (pad.operator.is_onnx("Pad") && pad.epilogue.is_none(), pad.input(0)) else {
            continue;
        };
        let Some((pads, value)) = padding(pad, &analysis)? else {
            continue;
        };
        if let Some(merged) = merged(node, &pads, value)? {
            merges.push((NodeId(index as u32), source, merged));
        }
    }
    let changed = !merges.is_empty();
    for (id, source, pads) in merges {
        let node = &mut graph.nodes[id.index()];
        node.inputs[0] = Some(source);
        node.attributes.remove("auto_pad");
        node.attributes.set("pads", Attribute::Ints(pads));
        if node.operator.is_onnx("AveragePool") {
            node.attributes.set("count_include_pad", Attribute::Int(1));
        }
    }
    if changed {
        super::dead::run(graph, known)?;
    }
    Ok(changed)
}

/// How much of which value a Pad of f32 adds to the spatial axes, `[begins.., ends..]`; `None` when it does something else.
fn padding(pad: &Node, analysis: &Analysis) -> Result<Option<(Vec<i64>, f32)>> {
    let facts = |index: usize| pad.input(index).map(|id| &analysis.facts[id.index()]);
    let Some(rank) = facts(0).and_then(|facts| facts.shape.as_ref()).map(Vec::len) else {
        return Ok(None);
    };
    let is_f32 = facts(0).is_some_and(|facts| facts.dtype == Some(DType::F32));
    let mode = pad.attributes.string("mode")?.unwrap_or("constant");
    if rank < 3 || !is_f32 || mode != "constant" {
        return Ok(None);
    }
    // Up to opset 10 everything is an attribute.
    let (given, value) = if pad.operator.version < 11 {
        let pads = pad.attributes.ints("pads")?.map(<[i64]>::to_vec);
        (pads, pad.attributes.float("value")?.unwrap_or(0.0))
    } else {
        let constant = |index: usize| facts(index).and_then(|facts| facts.constant.as_ref());
        let value = match (pad.input(2), constant(2)) {
            (None, _) => 0.0,
            (Some(_), Some(value)) if value.len() == 1 => value.to_f32s()?[0],
            _ => return Ok(None),
        };
        (constant(1).and_then(|pads| pads.to_i64s().ok()), value)
    };
    let Some(given) = given else { return Ok(None) };
    let axes = match facts(3) {
        None => (0..rank).collect(),
        Some(facts) => match &facts.constant {
            Some(axes) => axes
                .to_i64s()?
                .iter()
                .map(|&axis| resolve_axis(axis, rank))
                .collect::<Result<Vec<usize>>>()?,
            None => return Ok(None),
        },
    };
    if given.len() != 2 * axes.len() || given.iter().any(|&amount| amount < 0) {
        return Ok(None);
    }
    let mut pads = vec![0; 2 * rank];
    for (position, &axis) in axes.iter().enumerate() {
        pads[axis] = given[position];
        pads[rank + axis] = given[axes.len() + position];
    }
    if [0, 1, rank, rank + 1].iter().any(|&at| pads[at] != 0) {
        return Ok(None);
    }
    let spatial = pads[2..rank].iter().chain(&pads[rank + 2..]).copied();
    Ok(Some((spatial.collect(), value)))
}

/// The pads of a node behind a Pad when it pads for both; `None` when the result would be another.
fn merged(node: &Node, pads: &[i64], value: f32) -> Result<Option<Vec<i64>>> {
    let auto = node.attributes.string("auto_pad")?.unwrap_or("NOTSET");
    let own = match auto {
        "VALID" => None,
        "NOTSET" | "" => node.attributes.ints("pads")?,
        _ => return Ok(None),
    };
    let is_padded = own.is_some_and(|own| own.iter().any(|&amount| amount != 0));
    let ceils = node.attributes.flag("ceil_mode", false)?;
    let fits = match &*node.operator.name {
        _ if !node.operator.domain.is_empty() => false,
        "Conv" => value == 0.0,
        // The zeros count in the average, as they did. With its own pads some would count and some not.
        "AveragePool" => {
            let counts = node.attributes.flag("count_include_pad", false)?;
            value == 0.0 && !ceils && (counts || !is_padded)
        }
        "MaxPool" => value == f32::NEG_INFINITY && !ceils && node.outputs.len() == 1,
        _ => false,
    };
    // A window must not lie in the padding alone.
    let window = node.attributes.ints("kernel_shape")?;
    let count = pads.len() / 2;
    let total: Vec<i64> = match own {
        Some(own) if own.len() == pads.len() => own.iter().zip(pads).map(|(a, b)| a.saturating_add(*b)).collect(),
        Some(_) => return Ok(None),
        None => pads.to_vec(),
    };
    let inside = &*node.operator.name == "Conv"
        || window.is_some_and(|window| {
            let mut sides = total.iter().enumerate();
            window.len() == count && sides.all(|(at, &amount)| amount < window[at % count])
        });
    Ok((fits && inside).then_some(total))
}
