//! Folds what scales and shifts each channel (BatchNormalization, and Mul, Div, Add, Sub by a constant) into the weights
//! of the convolution before it; a BatchNormalization that stands alone becomes one Mul and one Add.

use super::rewrite::{Analysis, Known, Uses, replace_uses, retain_nodes};
use crate::{
    error::Result,
    graph::{Graph, Node, NodeId, OperatorId, Value, ValueId},
    tensor::{DType, Tensor, map::HashMap},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let mut changed = false;
    while fold_some(graph, known)? {
        known.forget();
        changed = true;
    }
    Ok(split_batch_normalization(graph, known)? || changed)
}

/// `x * scale[channel] + shift[channel]`.
struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

fn fold_some(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let uses = Uses::of(graph);
    let producers = graph.producers();
    let mut removed = vec![false; graph.nodes.len()];
    let mut touched = vec![false; graph.nodes.len()];
    let mut replaced: HashMap<ValueId, ValueId> = HashMap::new();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if node.epilogue.is_some() || node.outputs.iter().skip(1).any(Option::is_some) {
            continue;
        }
        let Some(output) = node.output(0) else { continue };
        let conv_input = node.inputs.iter().flatten().find_map(|&value| {
            let producer = producers[value.index()]?;
            let is_only_user = uses.only_by(value, NodeId(index as u32));
            let is_conv = is_convolution(&graph.nodes[producer.index()]) && !touched[producer.index()];
            (is_only_user && is_conv).then_some((value, producer))
        });
        let Some((value, conv)) = conv_input else { continue };
        let Some(weights) = weights_of(graph, &producers, &analysis, conv) else {
            continue;
        };
        let Some(channels) = output_channels(&graph.nodes[conv.index()], weights)? else {
            continue;
        };
        let rank = weights.shape().len();
        let Some(affine) = affine_of(node, value, channels, rank, &analysis)? else {
            continue;
        };
        let bias = match graph.nodes[conv.index()].input(2) {
            Some(id) => match constant_f32(&analysis, Some(id)) {
                Some(bias) => bias.to_f32s()?.into_owned(),
                None => continue,
            },
            None => vec![0.0; channels],
        };
        if bias.len() != channels {
            continue;
        }
        let (weights, mut bias) = scaled(&graph.nodes[conv.index()], weights, &bias, &affine)?;
        // Channels that training switched off end in subnormal biases, and each operation on one takes a hundred times as long.
        bias.iter_mut()
            .filter(|bias| bias.is_subnormal())
            .for_each(|bias| *bias = 0.0);
        let name = graph.node_label(conv);
        let weights = graph.add_constant(format!("{name}.weight"), weights);
        let bias = graph.add_constant(format!("{name}.bias"), Tensor::new(&[channels], bias)?);
        let folded = graph.node_label(NodeId(index as u32));
        let conv = &mut graph.nodes[conv.index()];
        conv.inputs.resize(3, None);
        (conv.inputs[1], conv.inputs[2]) = (Some(weights), Some(bias));
        conv.fused.push(folded);
        replaced.insert(output, value);
        removed[index] = true;
        for &user in &uses.nodes[output.index()] {
            touched[user.index()] = true;
        }
        if let Some(producer) = producers[value.index()] {
            touched[producer.index()] = true;
        }
    }
    replace_uses(graph, &replaced);
    retain_nodes(graph, |index| !removed[index]);
    Ok(!replaced.is_empty())
}

/// The constant weights of a convolution, which may be half precision that a Cast widens.
fn weights_of<'a>(
    graph: &Graph,
    producers: &[Option<NodeId>],
    analysis: &'a Analysis,
    conv: NodeId,
) -> Option<&'a Tensor> {
    let id = graph.nodes[conv.index()].input(1)?;
    constant_f32(analysis, Some(id)).or_else(|| {
        let cast = &graph.nodes[producers[id.index()]?.index()];
        let stored = analysis.facts[cast.input(0)?.index()].constant.as_ref()?;
        let widens = analysis.facts[id.index()].dtype == Some(DType::F32) && stored.dtype().is_half();
        (cast.operator.is_onnx("Cast") && widens).then_some(stored)
    })
}

fn is_convolution(node: &Node) -> bool {
    node.epilogue.is_none() && (node.operator.is_onnx("Conv") || node.operator.is_onnx("ConvTranspose"))
}

/// Number of output channels, from the weights: `[M, C/group, …]` of Conv, `[C, M/group, …]` of ConvTranspose.
fn output_channels(conv: &Node, weights: &Tensor) -> Result<Option<usize>> {
    let shape = weights.shape();
    if shape.len() < 3 {
        return Ok(None);
    }
    if conv.operator.is_onnx("Conv") {
        return Ok(Some(shape[0]));
    }
    let group = conv.attributes.int("group")?.unwrap_or(1);
    Ok(usize::try_from(group)
        .ok()
        .and_then(|group| shape[1].checked_mul(group)))
}

/// The weights and bias of a convolution whose result is scaled and shifted.
fn scaled(conv: &Node, weights: &Tensor, bias: &[f32], affine: &Affine) -> Result<(Tensor, Vec<f32>)> {
    let (is_conv, scale) = (conv.operator.is_onnx("Conv"), affine.scale.clone());
    let scaled = move |weights: &Tensor| scaled_weights(is_conv, weights, &scale);
    let terms = bias.iter().zip(&affine.scale).zip(&affine.shift);
    let bias = terms.map(|((bias, scale), shift)| bias * scale + shift).collect();
    Ok((Tensor::computed(weights.shape(), weights, Box::new(scaled))?, bias))
}

/// The weights of a convolution, of Conv or of ConvTranspose, times a factor for each output channel.
fn scaled_weights(is_conv: bool, weights: &Tensor, scale: &[f32]) -> Result<Vec<f32>> {
    let shape = weights.shape();
    let mut values = weights.to_f32s()?.into_owned();
    let window: usize = shape[2..].iter().product();
    if is_conv {
        let per_channel = shape[1] * window;
        if per_channel > 0 {
            for (row, scale) in values.chunks_mut(per_channel).zip(scale) {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
    } else if window > 0 && shape[0] > 0 && shape[1] > 0 {
        let group = scale.len() / shape[1];
        let inputs_per_group = (shape[0] / group.max(1)).max(1);
        for (index, tile) in values.chunks_mut(window).enumerate() {
            let (input, output) = (index / shape[1], index % shape[1]);
            let channel = input / inputs_per_group * shape[1] + output;
            let scale = scale.get(channel).copied().unwrap_or(1.0);
            tile.iter_mut().for_each(|value| *value *= scale);
        }
    }
    Ok(values)
}

/// What `node` does to each channel of `value`, which has `rank` axes and its channels on axis 1.
fn affine_of(node: &Node, value: ValueId, channels: usize, rank: usize, analysis: &Analysis) -> Result<Option<Affine>> {
    if node.operator.is_onnx("BatchNormalization") {
        return if node.input(0) == Some(value) {
            batch_normalization(node, channels, analysis)
        } else {
            Ok(None)
        };
    }
    let (Some(a), Some(b)) = (node.input(0), node.input(1)) else {
        return Ok(None);
    };
    if !node.operator.domain.is_empty() || a == b || node.operator.version < 7 {
        return Ok(None);
    }
    let is_first = a == value;
    let Some(constant) = constant_f32(analysis, Some(if is_first { b } else { a })) else {
        return Ok(None);
    };
    let Some(values) = per_channel(constant, channels, rank)? else {
        return Ok(None);
    };
    let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
    Ok(match (&*node.operator.name, is_first) {
        ("Add", _) => Some(Affine {
            scale: ones,
            shift: values,
        }),
        ("Sub", true) => Some(Affine {
            scale: ones,
            shift: values.iter().map(|v| -v).collect(),
        }),
        ("Sub", false) => Some(Affine {
            scale: vec![-1.0; channels],
            shift: values,
        }),
        ("Mul", _) => Some(Affine {
            scale: values,
            shift: zeros,
        }),
        ("Div", true) => Some(Affine {
            scale: values.iter().map(|v| 1.0 / v).collect(),
            shift: zeros,
        }),
        _ => None,
    })
}

/// A constant that has one value, or one for each channel, of a tensor of `rank` axes with its channels on axis 1.
fn per_channel(constant: &Tensor, channels: usize, rank: usize) -> Result<Option<Vec<f32>>> {
    let shape = constant.shape();
    if shape.len() > rank {
        return Ok(None);
    }
    if constant.len() == 1 {
        return Ok(Some(vec![constant.to_f32s()?[0]; channels]));
    }
    let offset = rank - shape.len();
    let mut axes = shape.iter().enumerate();
    let on_channels = axes.all(|(axis, &dim)| dim == 1 || (axis + offset == 1 && dim == channels));
    // What is larger is not looked at: it may not be in memory.
    match on_channels && constant.len() == channels {
        true => Ok(Some(constant.to_f32s()?.into_owned())),
        false => Ok(None),
    }
}

fn batch_normalization(node: &Node, channels: usize, analysis: &Analysis) -> Result<Option<Affine>> {
    // Opset 9 and later normalise over the batch when told so; opset 6 and earlier unless told otherwise.
    let trains = match node.operator.version {
        14.. => node.attributes.flag("training_mode", false)?,
        7..14 => node.outputs.iter().skip(1).any(Option::is_some),
        _ => !node.attributes.flag("is_test", false)?,
    };
    if trains || !node.attributes.flag("spatial", true)? {
        return Ok(None);
    }
    let mut parameters = Vec::with_capacity(4);
    for index in 1..5 {
        match constant_f32(analysis, node.input(index)) {
            Some(tensor) if tensor.shape() == [channels] => parameters.push(tensor.to_f32s()?),
            _ => return Ok(None),
        }
    }
    let epsilon = node.attributes.float("epsilon")?.unwrap_or(1e-5);
    let [gamma, beta, mean, variance] = parameters.as_slice() else {
        return Ok(None);
    };
    let mut affine = Affine {
        scale: Vec::with_capacity(channels),
        shift: Vec::with_capacity(channels),
    };
    for channel in 0..channels {
        let scale = f64::from(gamma[channel]) / (f64::from(variance[channel]) + f64::from(epsilon)).sqrt();
        affine.scale.push(scale as f32);
        affine
            .shift
            .push((f64::from(beta[channel]) - f64::from(mean[channel]) * scale) as f32);
    }
    Ok(Some(affine))
}

/// A BatchNormalization that no convolution took in becomes Mul and Add, which fuse with what stands around them.
fn split_batch_normalization(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let mut split = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let is_plain = node.operator.is_onnx("BatchNormalization")
            && node.epilogue.is_none()
            && node.outputs.iter().skip(1).all(Option::is_none);
        let (Some(input), Some(_)) = (node.input(0).filter(|_| is_plain), node.output(0)) else {
            continue;
        };
        let facts = &analysis.facts[input.index()];
        let (Some(shape), Some(DType::F32)) = (&facts.shape, facts.dtype) else {
            continue;
        };
        let Some(channels) = constant_f32(&analysis, node.input(1)).map(Tensor::len) else {
            continue;
        };
        if shape.len() >= 2
            && let Some(affine) = batch_normalization(node, channels, &analysis)?
        {
            split.push((index, shape.len(), affine));
        }
    }
    for (index, rank, affine) in split.iter() {
        let mut shape = vec![1; rank - 1];
        shape[0] = affine.scale.len();
        let label = graph.node_label(NodeId(*index as u32));
        let scale = graph.add_constant(format!("{label}.scale"), Tensor::new(&shape, affine.scale.clone())?);
        let shift = graph.add_constant(format!("{label}.shift"), Tensor::new(&shape, affine.shift.clone())?);
        let product = graph.add_value(Value {
            name: format!("{label}.scaled"),
            ..Value::default()
        });
        let (input, output) = (graph.nodes[*index].inputs[0], graph.nodes[*index].outputs[0]);
        let mut mul = Node::new(
            OperatorId::new("", "Mul", 14),
            vec![input, Some(scale)],
            vec![Some(product)],
        );
        mul.name = format!("{label}.scale");
        let mut add = Node::new(
            OperatorId::new("", "Add", 14),
            vec![Some(product), Some(shift)],
            vec![output],
        );
        add.name = label;
        graph.nodes[*index] = mul;
        graph.nodes.push(add);
    }
    if !split.is_empty() {
        graph.sort()?;
    }
    Ok(!split.is_empty())
}

fn constant_f32(analysis: &Analysis, id: Option<ValueId>) -> Option<&Tensor> {
    analysis.facts[id?.index()]
        .constant
        .as_ref()
        .filter(|tensor| tensor.dtype() == DType::F32)
}
