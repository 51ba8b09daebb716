//! Folds what stands behind sums of 8-bit integers into the product or convolution that makes them: the cast to float32
//! and the scale that dynamic quantisation writes, and the QuantizeLinear of what was scaled.

use std::rc::Rc;

use super::rewrite::{Analysis, Known, Uses, retain_nodes};
use crate::{
    error::Result,
    graph::{Graph, INTERNAL_DOMAIN, Node, NodeId, OperatorId, ValueId},
    ops::ValueFacts,
    tensor::DType,
};

/// Places among the inputs of the internal operators.
const BIAS: usize = 4;
const SCALE: usize = 5;
const Y_SCALE: usize = 6;
const INPUTS: usize = 8;

/// What both passes look at.
struct Context {
    analysis: Rc<Analysis>,
    uses: Uses,
    producers: Vec<Option<NodeId>>,
}

impl Context {
    fn of(graph: &Graph, known: &Known<'_>) -> Result<Context> {
        Ok(Context {
            analysis: known.analysis(graph)?,
            uses: Uses::of(graph),
            producers: graph.producers(),
        })
    }

    fn facts(&self, value: ValueId) -> &ValueFacts {
        &self.analysis.facts[value.index()]
    }

    fn is_one(&self, value: ValueId) -> bool {
        let shape = self.facts(value).concrete_shape();
        shape.is_some_and(|shape| shape.iter().product::<usize>() == 1)
    }

    fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        let (a, b) = (&self.facts(a).shape, &self.facts(b).shape);
        a.is_some() && a == b
    }

    /// The node that makes `value`, when nobody but `user` uses it.
    fn only_producer(&self, value: ValueId, user: NodeId) -> Option<NodeId> {
        let producer = self.producers.get(value.index()).copied().flatten()?;
        self.uses.only_by(value, user).then_some(producer)
    }
}

fn is_integer_node(node: &Node) -> bool {
    let has_name = matches!(
        &*node.operator.name,
        "MatMulInteger" | "ConvInteger" | "IntegerMatMul" | "IntegerConv"
    );
    has_name && matches!(&*node.operator.domain, "" | INTERNAL_DOMAIN) && node.epilogue.is_none()
}

/// Casts and scales into the nodes that make the sums. Runs before pointwise fusion, which would take them.
pub(super) fn scale(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    if !graph.nodes.iter().any(is_integer_node) {
        return Ok(false);
    }
    let context = Context::of(graph, known)?;
    let mut absorbed = vec![false; graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        let Some((chain, node)) = scaled(graph, &context, index) else {
            continue;
        };
        for id in chain {
            absorbed[id.index()] = true;
        }
        graph.nodes[index] = node;
    }
    retain_nodes(graph, |index| !absorbed[index]);
    Ok(absorbed.contains(&true))
}

/// For a product with a scale: the nodes before it that become part of the new one.
fn scaled(graph: &Graph, context: &Context, index: usize) -> Option<(Vec<NodeId>, Node)> {
    let id = NodeId(index as u32);
    let mul = &graph.nodes[index];
    if !mul.operator.is_onnx("Mul") || mul.epilogue.is_some() {
        return None;
    }
    let (a, b) = (mul.input(0)?, mul.input(1)?);
    [(a, b), (b, a)].into_iter().find_map(|(value, scale)| {
        let cast = context.only_producer(value, id)?;
        let cast_node = &graph.nodes[cast.index()];
        let is_cast = cast_node.operator.is_onnx("Cast") || cast_node.operator.is_onnx("CastLike");
        if !is_cast || context.facts(value).dtype != Some(DType::F32) || context.facts(scale).dtype != Some(DType::F32)
        {
            return None;
        }
        let mut chain = vec![cast];
        let mut sums = cast_node.input(0)?;
        let mut producer = context.only_producer(sums, cast)?;
        let mut bias = None;
        if graph.nodes[producer.index()].operator.is_onnx("Add") {
            let add = &graph.nodes[producer.index()];
            let (inner, other) = [(add.input(0)?, add.input(1)?), (add.input(1)?, add.input(0)?)]
                .into_iter()
                .find(|&(inner, _)| {
                    let inner = context.only_producer(inner, producer);
                    inner.is_some_and(|inner| is_integer_node(&graph.nodes[inner.index()]))
                })?;
            let is_list = context
                .facts(other)
                .concrete_shape()
                .is_some_and(|shape| shape.len() <= 1);
            if !is_list || !context.same_shape(inner, sums) {
                return None;
            }
            bias = Some(other);
            chain.push(producer);
            producer = context.only_producer(inner, producer)?;
            sums = inner;
        }
        let node = &graph.nodes[producer.index()];
        let own = node.inputs.len() <= BIAS || node.inputs[BIAS..].iter().all(Option::is_none);
        let is_conv = node.operator.name.contains("Conv");
        // A list broadcasts along the last axis, which in a convolution is not the channels'.
        if !is_integer_node(node) || !own || (bias.is_some() && is_conv) || !context.same_shape(sums, mul.output(0)?) {
            return None;
        }
        chain.push(producer);
        // One number, or one for each column of a product or channel of a convolution.
        let rank = context.facts(sums).shape.as_ref()?.len();
        let shape = context.facts(scale).concrete_shape()?;
        let channels = rank - shape.len().min(rank);
        let fits = |axis: usize, size: usize| size == 1 || axis == if is_conv { 1 } else { rank - 1 };
        // A vector on the right leaves no axis for columns.
        let w_shape = context.facts(node.input(1)?).shape.as_ref()?;
        if w_shape.len() < 2 && (bias.is_some() || !context.is_one(scale)) {
            return None;
        }
        if !context.is_one(scale)
            && !shape
                .iter()
                .enumerate()
                .all(|(axis, &size)| fits(channels + axis, size))
        {
            return None;
        }
        let mut inputs = node.inputs.clone();
        inputs.resize(BIAS, None);
        inputs.extend([bias, Some(scale)]);
        let name = if is_conv { "IntegerConv" } else { "IntegerMatMul" };
        let mut merged = Node {
            operator: OperatorId::internal(name),
            inputs,
            outputs: mul.outputs.clone(),
            ..node.clone()
        };
        merged
            .fused
            .extend(chain[..chain.len() - 1].iter().rev().map(|&id| graph.node_label(id)));
        merged.fused.push(graph.node_label(id));
        Some((chain, merged))
    })
}

/// QuantizeLinear into the integer product or convolution before it. Runs after epilogues were merged.
pub(super) fn quantize(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let is_scaled = |node: &Node| {
        let own = node.operator_inputs();
        let is_internal = &*node.operator.domain == INTERNAL_DOMAIN;
        let given = |index: usize| own.get(index).is_some_and(Option::is_some);
        is_internal
            && matches!(&*node.operator.name, "IntegerMatMul" | "IntegerConv")
            && given(SCALE)
            && !given(Y_SCALE)
    };
    if !graph.nodes.iter().any(is_scaled) {
        return Ok(false);
    }
    let context = Context::of(graph, known)?;
    let mut absorbed = vec![false; graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        let id = NodeId(index as u32);
        let node = &graph.nodes[index];
        if !node.operator.is_onnx("QuantizeLinear") || node.attributes.int("block_size")?.unwrap_or(0) != 0 {
            continue;
        }
        let (Some(value), Some(y_scale), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
            continue;
        };
        let Some(producer) = context.only_producer(value, id) else {
            continue;
        };
        let y_zero = node.input(2);
        let dtype = context.facts(output).dtype;
        let is_byte = match y_zero {
            Some(zero) => {
                matches!(dtype, Some(DType::U8 | DType::I8))
                    && context.facts(zero).dtype == dtype
                    && context.is_one(zero)
            }
            None => dtype == Some(DType::U8),
        };
        let is_f32 = context.facts(y_scale).dtype == Some(DType::F32)
            && matches!(node.attributes.int("precision")?, None | Some(0 | 1));
        if absorbed[producer.index()]
            || !is_scaled(&graph.nodes[producer.index()])
            || !is_byte
            || !is_f32
            || !context.is_one(y_scale)
        {
            continue;
        }
        let mut merged = graph.nodes[producer.index()].clone();
        let own = merged.operator_inputs().len();
        let further = merged.inputs.split_off(own);
        merged.inputs.resize(Y_SCALE, None);
        merged.inputs.extend([Some(y_scale), y_zero]);
        merged.inputs.extend(further);
        if let Some(epilogue) = &mut merged.epilogue {
            epilogue.first_input = INPUTS;
        }
        merged.outputs = vec![Some(output)];
        merged.fused.push(graph.node_label(id));
        absorbed[producer.index()] = true;
        graph.nodes[index] = merged;
    }
    retain_nodes(graph, |index| !absorbed[index]);
    Ok(absorbed.contains(&true))
}

#[cfg(test)]
mod tests {
    use super::super::{Level, optimize};
    use crate::{
        graph::{Graph, GraphBuilder, OperatorId, ValueId},
        tensor::{DType, Dim, Tensor},
    };

    fn names(graph: &Graph) -> Vec<&str> {
        graph.nodes.iter().map(|node| &*node.operator.name).collect()
    }

    /// What dynamic quantisation writes for one product; the scale's shape is given.
    fn dynamic(build: impl FnOnce(&mut GraphBuilder, ValueId) -> ValueId, scale: &[usize]) -> Graph {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::F32, vec![Dim::symbol("n"), Dim::from(4)]);
        let w = b.constant("w", Tensor::new(&[4, 3], (0..12u8).collect()).unwrap());
        let zero = b.constant("zero", Tensor::scalar(7u8));
        let count = scale.iter().product();
        let scale = b.constant("scale", Tensor::new(scale, vec![0.5f32; count]).unwrap());
        let quantized = b.node_of(OperatorId::new("", "DynamicQuantizeLinear", 11), &[Some(x)], &[], 3);
        let sums = b.node("MatMulInteger", &[quantized[0], w, quantized[2], zero]);
        let floats = b.node_with("Cast", &[sums], &[("to", crate::graph::Attribute::Int(1))]);
        let scale = b.node("Mul", &[quantized[1], scale]);
        let y = b.node("Mul", &[floats, scale]);
        let y = build(&mut b, y);
        b.output("y", y).finish().unwrap()
    }

    #[test]
    fn casts_scales_biases_and_activations_become_part_of_the_product() {
        for scale in [&[][..], &[1], &[3], &[1, 3]] {
            let graph = dynamic(
                |b, y| {
                    let bias = b.constant("bias", Tensor::new(&[3], vec![1.0f32; 3]).unwrap());
                    let y = b.node("Add", &[y, bias]);
                    b.node("Relu", &[y])
                },
                scale,
            );
            let optimized = optimize(graph, Level::All).unwrap();
            assert_eq!(names(&optimized), ["DynamicQuantizeLinear", "Mul", "IntegerMatMul"]);
            assert!(optimized.nodes[2].epilogue.is_some());
        }
    }

    #[test]
    fn sums_that_others_need_stay() {
        let graph = dynamic(|_, y| y, &[4, 3]);
        let optimized = optimize(graph, Level::All).unwrap();
        assert!(names(&optimized).contains(&"MatMulInteger"));
    }

    #[test]
    fn quantising_becomes_part_of_the_product() {
        let graph = dynamic(
            |b, y| {
                let y = b.node("Relu", &[y]);
                let scale = b.constant("y_scale", Tensor::scalar(0.1f32));
                let zero = b.constant("y_zero", Tensor::scalar(3i8));
                b.node("QuantizeLinear", &[y, scale, zero])
            },
            &[3],
        );
        let optimized = optimize(graph, Level::All).unwrap();
        assert_eq!(names(&optimized), ["DynamicQuantizeLinear", "Mul", "IntegerMatMul"]);
    }
}
