//! Products and convolutions of dequantised tensors become those of the integers, scaled: models that are quantised ahead of
//! time stand in pairs of QuantizeLinear and DequantizeLinear around float operators.

use super::rewrite::{Analysis, Known};
use crate::{
    error::Result,
    graph::{Attribute, Graph, Node, NodeId, OperatorId, TensorType, Value, ValueId, ValueType},
    tensor::{DType, resolve_axis},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let is_dequantize = |node: &Node| node.operator.is_onnx("DequantizeLinear");
    if !graph.nodes.iter().any(is_dequantize) {
        return Ok(false);
    }
    let analysis = known.analysis(graph)?;
    let producers = graph.producers();
    let mut changed = false;
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for index in 0..graph.nodes.len() {
        let plan = Matcher {
            graph,
            analysis: &analysis,
            producers: &producers,
        }
        .find(NodeId(index as u32))?;
        let node = graph.nodes[index].clone();
        match plan {
            Some(plan) => {
                plan.write(graph, node, &mut nodes);
                changed = true;
            }
            None => nodes.push(node),
        }
    }
    graph.nodes = nodes;
    Ok(changed)
}

/// A tensor of 8-bit integers with its scale and zero point.
#[derive(Clone, Copy)]
struct Quantized {
    value: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
}

/// What a node becomes.
struct Plan {
    name: &'static str,
    x: Quantized,
    w: Quantized,
    transposes_w: bool,
    bias: Option<ValueId>,
}

struct Matcher<'a> {
    graph: &'a Graph,
    analysis: &'a Analysis,
    producers: &'a [Option<NodeId>],
}

impl Matcher<'_> {
    fn shape(&self, value: ValueId) -> Option<Vec<usize>> {
        self.analysis.facts[value.index()].concrete_shape()
    }

    fn dtype(&self, value: ValueId) -> Option<DType> {
        self.analysis.facts[value.index()].dtype
    }

    /// What `value` was dequantised from, with one scale or, where `axis` is given, one for each index of that axis.
    fn dequantized(&self, value: ValueId, axis: Option<i64>) -> Option<Quantized> {
        let mut value = value;
        let mut node = &self.graph.nodes[self.producers.get(value.index()).copied().flatten()?.index()];
        // The bodies of quantised operators cast what may be of another float type.
        if node.operator.is_onnx("Cast") && self.dtype(value) == Some(DType::F32) {
            value = node.input(0)?;
            node = &self.graph.nodes[self.producers.get(value.index()).copied().flatten()?.index()];
        }
        if !node.operator.is_onnx("DequantizeLinear") || self.dtype(value) != Some(DType::F32) {
            return None;
        }
        if node.attributes.int("block_size").ok()?.unwrap_or(0) != 0 {
            return None;
        }
        let (source, scale, zero) = (node.input(0)?, node.input(1)?, node.input(2));
        if !matches!(self.dtype(source), Some(DType::I8 | DType::U8)) || self.dtype(scale) != Some(DType::F32) {
            return None;
        }
        let scale_shape = self.shape(scale)?;
        let count: usize = scale_shape.iter().product();
        let zero_fits = match zero {
            Some(zero) => self.shape(zero)?.iter().product::<usize>() == count,
            None => true,
        };
        let fits = count == 1 || {
            let own = node.attributes.int("axis").ok()?.unwrap_or(1);
            let shape = self.shape(source)?;
            let own = resolve_axis(own, shape.len()).ok()?;
            resolve_axis(axis?, shape.len()).ok() == Some(own) && scale_shape == [shape[own]]
        };
        (fits && zero_fits).then_some(Quantized {
            value: source,
            scale,
            zero,
        })
    }

    fn find(&self, id: NodeId) -> Result<Option<Plan>> {
        let node = &self.graph.nodes[id.index()];
        if node.epilogue.is_some() {
            return Ok(None);
        }
        let found = if node.operator.is_onnx("Conv") {
            self.of(node, 0, "IntegerConv", false)
        } else if node.operator.is_onnx("MatMul") {
            self.of(node, -1, "IntegerMatMul", false)
        } else if node.operator.is_onnx("Gemm") {
            let attributes = &node.attributes;
            let is_plain = attributes.float("alpha")?.unwrap_or(1.0) == 1.0
                && attributes.float("beta")?.unwrap_or(1.0) == 1.0
                && !attributes.flag("transA", false)?;
            let transposes = attributes.flag("transB", false)?;
            let axis = if transposes { 0 } else { 1 };
            if is_plain {
                self.of(node, axis, "IntegerMatMul", transposes)
            } else {
                None
            }
        } else {
            None
        };
        Ok(found)
    }

    fn of(&self, node: &Node, axis: i64, name: &'static str, transposes_w: bool) -> Option<Plan> {
        let (x, w) = (self.dequantized(node.input(0)?, None)?, node.input(1)?);
        let w = self.dequantized(w, Some(axis))?;
        // One scale for each column needs the columns' axis, which a vector does not have.
        let w_rank = self.shape(w.value).map(|shape| shape.len());
        let is_single = self.shape(w.scale)?.iter().product::<usize>() == 1;
        if !is_single && w_rank.is_none_or(|rank| rank < 2) {
            return None;
        }
        let bias = node.input(2);
        if let Some(bias) = bias {
            // One number for each channel or column.
            let shape = self.shape(bias)?;
            let w_shape = self.shape(w.value)?;
            let channels = w_shape.get(resolve_axis(axis, w_shape.len()).ok()?)?;
            if shape != [*channels] || self.dtype(bias) != Some(DType::F32) {
                return None;
            }
        }
        Some(Plan {
            name,
            x,
            w,
            transposes_w,
            bias,
        })
    }
}

impl Plan {
    fn write(self, graph: &mut Graph, node: Node, nodes: &mut Vec<Node>) {
        let mut add = |name: &str, inputs: &[ValueId], attribute: Option<(&str, Attribute)>| {
            let output = graph.add_value(Value {
                name: format!("{}.{name}", node.name),
                ty: ValueType::Tensor(TensorType::default()),
                constant: None,
            });
            let inputs = inputs.iter().copied().map(Some).collect();
            let mut made = Node::new(OperatorId::new("", name, 13), inputs, vec![Some(output)]);
            made.name = format!("{}.{name}", node.name);
            if let Some((name, value)) = attribute {
                made.attributes.set(name, value);
            }
            nodes.push(made);
            output
        };
        let scale = add("Mul", &[self.w.scale, self.x.scale], None);
        let w = match self.transposes_w {
            true => add(
                "Transpose",
                &[self.w.value],
                Some(("perm", Attribute::Ints(vec![1, 0]))),
            ),
            false => self.w.value,
        };
        let mut merged = Node {
            operator: OperatorId::internal(self.name),
            inputs: vec![
                Some(self.x.value),
                Some(w),
                self.x.zero,
                self.w.zero,
                self.bias,
                Some(scale),
            ],
            ..node
        };
        if &*merged.operator.name == "IntegerMatMul" {
            merged.attributes = Default::default();
        }
        nodes.push(merged);
    }
}

/// Weights below this many elements are dequantised for good.
const FEWEST_CODES: usize = 1 << 12;

/// Products of floats with constant weights that are dequantised keep the codes: a quarter of the memory, which is what a
/// product of few rows waits for.
pub(super) fn weights(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let is_dequantize = |node: &Node| node.operator.is_onnx("DequantizeLinear");
    if !graph.nodes.iter().any(is_dequantize) {
        return Ok(false);
    }
    let analysis = known.analysis(graph)?;
    let producers = graph.producers();
    let matcher = Matcher {
        graph,
        analysis: &analysis,
        producers: &producers,
    };
    let found: Vec<_> = (0..graph.nodes.len())
        .filter_map(|index| Some((index, matcher.constant_weights(&graph.nodes[index])?)))
        .collect();
    for (index, (w, transposed)) in &found {
        let node = &mut graph.nodes[*index];
        node.operator = OperatorId::internal("DequantizedMatMul");
        node.inputs.truncate(1);
        node.inputs.extend([Some(w.value), Some(w.scale), w.zero]);
        node.attributes.set("transB", Attribute::Int((*transposed).into()));
    }
    Ok(!found.is_empty())
}

impl Matcher<'_> {
    fn is_constant(&self, value: ValueId) -> bool {
        self.analysis.facts[value.index()].constant.is_some()
    }

    /// The codes of a product's right operand, and whether they are stored transposed.
    fn constant_weights(&self, node: &Node) -> Option<(Quantized, bool)> {
        if !node.operator.is_onnx("MatMul") || node.epilogue.is_some() || self.dtype(node.input(0)?) != Some(DType::F32)
        {
            return None;
        }
        let mut w = self.dequantized(node.input(1)?, Some(-1))?;
        let mut transposed = false;
        if let Some(producer) = self.producers[w.value.index()] {
            let transpose = &self.graph.nodes[producer.index()];
            let perm = transpose.attributes.ints("perm").ok()?;
            if transpose.operator.is_onnx("Transpose") && perm.is_none_or(|perm| perm == [1, 0]) {
                (w.value, transposed) = (transpose.input(0)?, true);
            }
        }
        if w.zero.is_some_and(|zero| self.dtype(zero) != self.dtype(w.value)) {
            return None;
        }
        let shape = self.shape(w.value)?;
        let large = shape.len() == 2 && shape.iter().product::<usize>() >= FEWEST_CODES;
        let constant = [Some(w.value), Some(w.scale), w.zero]
            .into_iter()
            .flatten()
            .all(|value| self.is_constant(value));
        (large && constant).then_some((w, transposed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Level, optimize};
    use crate::{
        graph::{Attribute, Graph, GraphBuilder},
        tensor::{DType, Dim, Tensor},
    };

    fn names(graph: &Graph) -> Vec<&str> {
        graph.nodes.iter().map(|node| &*node.operator.name).collect()
    }

    #[test]
    fn convolutions_between_quantised_tensors_are_integer_ones() {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::U8, [1, 2, 5, 5].map(|size: i64| Dim::from(size)).to_vec());
        let (scale, zero) = (
            b.constant("xs", Tensor::scalar(0.5f32)),
            b.constant("xz", Tensor::scalar(9u8)),
        );
        let w = b.constant("w", Tensor::new(&[3, 2, 3, 3], vec![1i8; 54]).unwrap());
        let w_scale = b.constant("ws", Tensor::new(&[3], vec![0.1f32, 0.2, 0.3]).unwrap());
        let w_zero = b.constant("wz", Tensor::new(&[3], vec![0i8; 3]).unwrap());
        let bias = b.constant("b", Tensor::new(&[3], vec![1.0f32; 3]).unwrap());
        let x = b.node("DequantizeLinear", &[x, scale, zero]);
        let w = b.node_with(
            "DequantizeLinear",
            &[w, w_scale, w_zero],
            &[("axis", Attribute::Int(0))],
        );
        let y = b.node("Conv", &[x, w, bias]);
        let y = b.node("Relu", &[y]);
        let y = b.node("QuantizeLinear", &[y, scale, zero]);
        let graph = b.output("y", y).finish().unwrap();
        assert_eq!(names(&optimize(graph, Level::All).unwrap()), ["IntegerConv"]);
    }

    #[test]
    fn constant_weights_of_float_products_stay_codes() {
        for (transposes, rows, expected) in [
            (true, 64, "DequantizedMatMul"),
            (false, 64, "DequantizedMatMul"),
            (false, 8, "MatMul"),
        ] {
            let mut b = GraphBuilder::new(17);
            let columns = 64;
            let x = b.input("x", DType::F32, [2, rows].map(|size: i64| Dim::from(size)).to_vec());
            let shape = if transposes {
                [columns, rows as usize]
            } else {
                [rows as usize, columns]
            };
            let codes = (0..columns * rows as usize).map(|at| at as u8).collect::<Vec<_>>();
            let w = b.constant("w", Tensor::new(&shape, codes).unwrap());
            let w = if transposes { b.node("Transpose", &[w]) } else { w };
            let scale = b.constant("scale", Tensor::scalar(0.5f32));
            let zero = b.constant("zero", Tensor::scalar(9u8));
            let w = b.node("DequantizeLinear", &[w, scale, zero]);
            let y = b.node("MatMul", &[x, w]);
            let y = b.node("Relu", &[y]);
            let graph = b.output("y", y).finish().unwrap();
            let optimized = optimize(graph, Level::All).unwrap();
            assert_eq!(names(&optimized), [expected]);
        }
    }

    #[test]
    fn a_scale_along_the_depth_stays_float() {
        for (axis, expected) in [(0, "MatMul"), (1, "IntegerMatMul")] {
            let mut b = GraphBuilder::new(17);
            let x = b.input("x", DType::U8, [2, 4].map(|size: i64| Dim::from(size)).to_vec());
            let scale = b.constant("xs", Tensor::scalar(0.5f32));
            let w = b.constant("w", Tensor::new(&[4, 4], vec![1i8; 16]).unwrap());
            let w_scale = b.constant("ws", Tensor::new(&[4], vec![0.1f32; 4]).unwrap());
            let x = b.node("DequantizeLinear", &[x, scale]);
            let w = b.node_with("DequantizeLinear", &[w, w_scale], &[("axis", Attribute::Int(axis))]);
            let y = b.node("MatMul", &[x, w]);
            let graph = b.output("y", y).finish().unwrap();
            let optimized = optimize(graph, Level::All).unwrap();
            assert_eq!(names(&optimized).last(), Some(&expected));
        }
    }
}
