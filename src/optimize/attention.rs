//! Makes one FusedAttention of two matrix products with a softmax along the last axis between them. Whatever was merged into
//! the first product (scale, mask, position bias) stays with the scores; transposes of the operands and of the result,
//! which split and merge heads, become strides.

use super::{
    pointwise::without_scalars,
    rewrite::{Analysis, Known, Uses, permutation, retain_nodes},
};
use crate::{
    error::Result,
    graph::{Attribute, Graph, Node, NodeId, OperatorId, ValueId},
    ops::{PERMUTATIONS, REPEATS},
    pointwise::{BinaryOp, Expr, Node as Expression, Reg, TestOp},
    tensor::{DType, resolve_axis},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let uses = Uses::of(graph);
    let producers = graph.producers();
    let search = Search {
        analysis: &analysis,
        uses: &uses,
        producers: &producers,
    };
    let mut absorbed = vec![false; graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        if !is_product(&graph.nodes[index]) || absorbed[index] {
            continue;
        }
        if let Some(found) = search.attention(graph, NodeId(index as u32))? {
            for id in found.absorbed {
                absorbed[id.index()] = true;
                // Nothing looks through it to a value that is no longer made.
                graph.nodes[id.index()].inputs.clear();
            }
            graph.nodes[index] = found.node;
        }
    }
    retain_nodes(graph, |index| !absorbed[index]);
    Ok(absorbed.iter().any(|absorbed| *absorbed))
}

struct Found {
    node: Node,
    absorbed: Vec<NodeId>,
}

fn is_product(node: &Node) -> bool {
    node.operator.is_onnx("MatMul") || node.operator.is_internal("FusedMatMul")
}

struct Search<'a> {
    analysis: &'a Analysis,
    uses: &'a Uses,
    producers: &'a [Option<NodeId>],
}

impl Search<'_> {
    /// The attention whose second product is `id`. It stands where that one does: there all its inputs are made.
    fn attention(&self, graph: &Graph, id: NodeId) -> Result<Option<Found>> {
        let second = &graph.nodes[id.index()];
        let (Some(weights), Some(values), None) = (second.input(0), second.input(1), &second.epilogue) else {
            return Ok(None);
        };
        let plain =
            second.attributes.float("alpha")?.unwrap_or(1.0) == 1.0 && !second.attributes.flag("transA", false)?;
        // Weights that are not numbers, of a query that sees no key, may be replaced by zeros.
        let guard = self.only_source(weights, id);
        let guarded = match guard {
            Some(guard) => self.guarded(graph, guard)?,
            None => None,
        };
        let (weights, user) = guarded.zip(guard).unwrap_or((weights, id));
        let Some(softmax) = self.only_source(weights, user).filter(|_| plain) else {
            return Ok(None);
        };
        let normalized = &graph.nodes[softmax.index()];
        let (Some(scores), Some(rank)) = (normalized.input(0), self.rank(weights)) else {
            return Ok(None);
        };
        let default = if normalized.operator.version < 13 { 1 } else { -1 };
        let is_softmax = normalized.operator.is_onnx("Softmax")
            && normalized.epilogue.is_none()
            && resolve_axis(normalized.attributes.int("axis")?.unwrap_or(default), rank)? + 1 == rank;
        let Some(first) = self.only_source(scores, softmax).filter(|_| is_softmax) else {
            return Ok(None);
        };
        let product = &graph.nodes[first.index()];
        let (true, Some(queries), Some(keys)) = (is_product(product), product.input(0), product.input(1)) else {
            return Ok(None);
        };
        let output = second.outputs[0].filter(|_| self.heads_agree(scores, second.outputs[0]));
        let Some(output) = output else { return Ok(None) };
        let operands = [
            self.operand(graph, queries, product.attributes.flag("transA", false)?),
            self.operand(graph, keys, product.attributes.flag("transB", false)?),
            self.operand(graph, values, second.attributes.flag("transB", false)?),
        ];
        let [Some(mut q), Some(mut k), Some(mut v)] = operands else {
            return Ok(None);
        };
        // Factors on queries and keys are factors on the scores.
        let mut scale = product.attributes.float("alpha")?.unwrap_or(1.0);
        for (operand, value) in [(&mut q, queries), (&mut k, keys)] {
            let user = if operand.0 == value {
                first
            } else {
                self.producers[value.index()].unwrap_or(first)
            };
            if let Some((source, factor)) = self.factor(graph, operand.0, user)? {
                operand.0 = source;
                scale *= factor;
                self.look_through(graph, operand);
            }
        }
        let repeats = [&mut k, &mut v].map(|operand| self.repeats(graph, operand).unwrap_or(1));
        if repeats[0] != repeats[1] && !repeats.contains(&1) {
            return Ok(None);
        }
        let mut absorbed = vec![first, softmax];
        if user != id {
            absorbed.push(user);
        }
        let mut fused = product.fused.clone();
        fused.push(graph.node_label(softmax));
        fused.push(graph.node_label(id));
        let mut node = product.clone();
        node.operator = OperatorId::internal("FusedAttention");
        node.attributes = Default::default();
        node.attributes.set("scale", Attribute::Float(scale));
        if guarded.is_some() {
            node.attributes.set("zero_nan", Attribute::Int(1));
        }
        node.outputs = vec![Some(output)];
        node.inputs.splice(..2, [q.0, k.0, v.0].map(Some));
        if let Some(epilogue) = &mut node.epilogue {
            epilogue.first_input += 1;
        }
        let mut permutations = vec![q.1, k.1, v.1];
        // A transpose of the result, when nobody asks for the result itself.
        if let [user] = self.uses.nodes[output.index()][..]
            && !self.uses.is_output[output.index()]
            && let transpose = &graph.nodes[user.index()]
            && transpose.operator.is_onnx("Transpose")
            && transpose.epilogue.is_none()
            && let Some(order) = permutation(transpose, rank)
        {
            node.outputs = transpose.outputs.clone();
            fused.push(graph.node_label(user));
            permutations.push(order);
            absorbed.push(user);
        }
        for (name, order) in PERMUTATIONS.iter().zip(permutations) {
            if !order.is_sorted() {
                let axes = order.into_iter().map(|axis| axis as i64).collect();
                node.attributes.set(*name, Attribute::Ints(axes));
            }
        }
        for (name, repeats) in REPEATS.iter().zip(repeats) {
            if repeats > 1 {
                node.attributes.set(*name, Attribute::Int(repeats));
            }
        }
        node.fused = fused;
        Ok(Some(Found { node, absorbed }))
    }

    /// The node that makes a value, when `user` alone uses it.
    fn only_source(&self, value: ValueId, user: NodeId) -> Option<NodeId> {
        let source = self.producers[value.index()]?;
        (self.uses.only_by(value, user) && self.uses.nodes[value.index()].len() == 1).then_some(source)
    }

    fn rank(&self, value: ValueId) -> Option<usize> {
        let facts = &self.analysis.facts[value.index()];
        let is_f32 = facts.dtype == Some(DType::F32);
        facts.shape.as_ref().filter(|_| is_f32).map(Vec::len)
    }

    /// Whether scores and output have the same leading axes.
    fn heads_agree(&self, scores: ValueId, output: Option<ValueId>) -> bool {
        let shape = |id: ValueId| self.analysis.facts[id.index()].shape.as_deref();
        match (shape(scores), output.and_then(shape)) {
            (Some([scores @ .., _, _]), Some([output @ .., _, _])) => scores == output,
            _ => false,
        }
    }

    /// The value that an operand is a transpose of, and the order in which its axes are seen.
    fn operand(&self, graph: &Graph, value: ValueId, is_transposed: bool) -> Option<(ValueId, Vec<usize>)> {
        let rank = self.rank(value).filter(|&rank| rank >= 2)?;
        let mut order: Vec<usize> = (0..rank).collect();
        if is_transposed {
            order.swap(rank - 2, rank - 1);
        }
        let mut operand = (value, order);
        self.look_through(graph, &mut operand);
        Some(operand)
    }

    /// Goes on from an operand to what it is a transpose of.
    fn look_through(&self, graph: &Graph, operand: &mut (ValueId, Vec<usize>)) {
        if let Some(source) = self.producers[operand.0.index()]
            && let node = &graph.nodes[source.index()]
            && node.operator.is_onnx("Transpose")
            && node.epilogue.is_none()
            && let Some(inner) = permutation(node, operand.1.len())
            && let Some(input) = node.input(0)
        {
            operand.0 = input;
            operand.1.iter_mut().for_each(|axis| *axis = inner[*axis]);
        }
    }

    /// How often each head of an operand is repeated, as grouped queries want it: an axis behind the heads is expanded and
    /// merged with them. The operand becomes what is repeated.
    fn repeats(&self, graph: &Graph, operand: &mut (ValueId, Vec<usize>)) -> Option<i64> {
        let rank = operand.1.len();
        let source = |value: ValueId, name: &[&str]| {
            let node = &graph.nodes[self.producers[value.index()]?.index()];
            let fits = name.iter().any(|name| node.operator.is_onnx(name)) && node.epilogue.is_none();
            node.input(0).filter(|_| fits)
        };
        let shape = |value: ValueId| self.analysis.facts[value.index()].shape.as_deref();
        let expanded = source(operand.0, &["Reshape"])?;
        let apart = source(expanded, &["Expand"])?;
        let heads = source(apart, &["Unsqueeze", "Reshape"])?;
        // The axis of the heads in memory, behind which the repeats stand; it must be seen as the last but two.
        let axis = *operand.1.get(rank.checked_sub(3)?)?;
        let (whole, merged) = (shape(operand.0)?, shape(expanded)?);
        let (before, after) = (shape(heads)?, shape(apart)?);
        let fits = before.len() == rank && merged.len() == rank + 1 && after.len() == rank + 1;
        let repeats = merged.get(axis + 1)?.known().filter(|&repeats| fits && repeats > 0)?;
        let count = before[axis].known()?;
        let others = |at: usize| {
            let shifted = at + usize::from(at > axis);
            at == axis || (whole[at] == before[at] && whole[at] == merged[shifted] && whole[at] == after[shifted])
        };
        let same = whole[axis].known() == count.checked_mul(repeats)
            && merged[axis].known() == Some(count)
            && after[axis].known() == Some(count)
            && after[axis + 1].known() == Some(1)
            && (0..rank).all(others);
        if !same {
            return None;
        }
        operand.0 = heads;
        self.look_through(graph, operand);
        Some(repeats)
    }

    /// The value that a value is a constant multiple of, and the factor, when `user` alone uses the product.
    fn factor(&self, graph: &Graph, value: ValueId, user: NodeId) -> Result<Option<(ValueId, f32)>> {
        let Some(id) = self.only_source(value, user) else {
            return Ok(None);
        };
        let Some((expr, input)) = self.of_one(graph, id)? else {
            return Ok(None);
        };
        let output = &expr.outputs()[0];
        let constant = |reg: Reg| match expr.nodes()[reg.index()] {
            Expression::Const(bits) => Some(f32::from_bits(bits)),
            _ => None,
        };
        let is_input = |reg: Reg| expr.nodes()[reg.index()] == Expression::Input(0);
        let factor = match expr.nodes()[output.reg.index()] {
            Expression::Binary(BinaryOp::Mul, a, b) if is_input(a) => constant(b),
            Expression::Binary(BinaryOp::Mul, a, b) if is_input(b) => constant(a),
            Expression::Binary(BinaryOp::Div, a, b) if is_input(a) => {
                constant(b).map(f32::recip).filter(|factor| factor.is_normal())
            }
            _ => None,
        };
        let same = self.analysis.facts[input.index()].shape == self.analysis.facts[value.index()].shape;
        Ok(factor
            .filter(|_| same && self.rank(input).is_some())
            .map(|factor| (input, factor)))
    }

    /// The value that a node hands on with zeros where it is no number.
    fn guarded(&self, graph: &Graph, id: NodeId) -> Result<Option<ValueId>> {
        let Some((expr, input)) = self.of_one(graph, id)? else {
            return Ok(None);
        };
        let at = |reg: Reg| &expr.nodes()[reg.index()];
        let Expression::Select(condition, if_true, if_false) = *at(expr.outputs()[0].reg) else {
            return Ok(None);
        };
        let is_guard = *at(condition) == Expression::Test(TestOp::IsNan, if_false)
            && *at(if_true) == Expression::constant(0.0)
            && *at(if_false) == Expression::Input(0);
        Ok(is_guard.then_some(input))
    }

    /// The expression of an element-wise node that, constants aside, takes one value.
    fn of_one(&self, graph: &Graph, id: NodeId) -> Result<Option<(Expr, ValueId)>> {
        let Some(form) = self.analysis.pointwise(graph, id) else {
            return Ok(None);
        };
        let node = &graph.nodes[id.index()];
        let inputs: Vec<ValueId> = form.inputs.iter().filter_map(|&input| node.inputs[input]).collect();
        let (expr, inputs) = without_scalars(self.analysis, &form.expr, &inputs)?.unwrap_or((form.expr, inputs));
        Ok(match (&inputs[..], expr.outputs()) {
            (&[input], [_]) => Some((expr, input)),
            _ => None,
        })
    }
}
