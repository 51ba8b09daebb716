//! Moves Transpose nodes towards the outputs until they meet their inverse: models converted from channels-last
//! frameworks wrap every convolution in a pair of them. Also folds a transpose of a matrix into MatMul.

use super::rewrite::{Analysis, Known, Uses, permutation};
use crate::{
    error::Result,
    graph::{Attribute, Graph, INTERNAL_DOMAIN, Node, NodeId, OperatorId, Value, ValueId},
    ops::{ValueFacts, evaluate::evaluate, infer::initial_facts},
    tensor::{Tensor, resolve_axis},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let mut changed = false;
    // Each rewrite makes the analysis stale, and a model has few enough of these chains to do it again.
    let bound = 4 * graph.nodes.len() + 16;
    for _ in 0..bound {
        let analysis = known.analysis(graph)?;
        if !rewrite_some(graph, &analysis)? {
            break;
        }
        graph.sort()?;
        super::dead::run(graph, known)?;
        known.forget();
        changed = true;
    }
    Ok(changed)
}

/// Rewrites every node that can be rewritten without disturbing what this round has already touched.
fn rewrite_some(graph: &mut Graph, analysis: &Analysis) -> Result<bool> {
    let uses = Uses::of(graph);
    let producers = graph.producers();
    let mut touched = vec![false; graph.values.len()];
    let mut changed = false;
    for index in 0..graph.nodes.len() {
        let id = NodeId(index as u32);
        let values = || {
            graph.nodes[index]
                .inputs
                .iter()
                .chain(&graph.nodes[index].outputs)
                .flatten()
        };
        if values().any(|value| touched.get(value.index()).copied().unwrap_or(true)) {
            continue;
        }
        let around: Vec<ValueId> = values().copied().collect();
        let context = Context {
            uses: &uses,
            producers: &producers,
            analysis,
        };
        if context.merge(graph, id)? || context.fold_into_matmul(graph, id)? || context.push_through(graph, id)? {
            changed = true;
            for value in around {
                touched[value.index()] = true;
            }
        }
    }
    Ok(changed)
}

struct Context<'a> {
    uses: &'a Uses,
    producers: &'a [Option<NodeId>],
    analysis: &'a Analysis,
}

impl Context<'_> {
    /// The input and permutation of the Transpose that makes a value.
    fn transposed(&self, graph: &Graph, value: ValueId) -> Option<(ValueId, Vec<usize>)> {
        let node = &graph.nodes[self.producers.get(value.index()).copied().flatten()?.index()];
        if !node.operator.is_onnx("Transpose") || node.epilogue.is_some() {
            return None;
        }
        let input = node.input(0)?;
        let rank = self.analysis.facts[input.index()].shape.as_ref()?.len();
        Some((input, permutation(node, rank)?))
    }

    /// Two transposes in a row become one.
    fn merge(&self, graph: &mut Graph, id: NodeId) -> Result<bool> {
        let node = &graph.nodes[id.index()];
        if !node.operator.is_onnx("Transpose") || node.epilogue.is_some() {
            return Ok(false);
        }
        let Some(inner) = node.input(0) else { return Ok(false) };
        let Some((source, first)) = self.transposed(graph, inner) else {
            return Ok(false);
        };
        let Some(second) = permutation(node, first.len()) else {
            return Ok(false);
        };
        let perm = second.iter().map(|&axis| first[axis] as i64).collect();
        let node = &mut graph.nodes[id.index()];
        node.inputs = vec![Some(source)];
        node.attributes.set("perm", Attribute::Ints(perm));
        Ok(true)
    }

    /// MatMul of a matrix whose last two axes were swapped becomes FusedMatMul.
    fn fold_into_matmul(&self, graph: &mut Graph, id: NodeId) -> Result<bool> {
        let node = &graph.nodes[id.index()];
        if !node.operator.is_onnx("MatMul") || node.epilogue.is_some() {
            return Ok(false);
        }
        let mut replacement = None;
        for (position, flag) in [(0, "transA"), (1, "transB")] {
            let Some(input) = node.input(position) else { continue };
            let Some((source, perm)) = self.transposed(graph, input) else {
                continue;
            };
            let rank = perm.len();
            let swaps = rank >= 2 && perm[rank - 2..] == [rank - 1, rank - 2];
            if swaps && perm[..rank - 2].iter().enumerate().all(|(axis, &from)| axis == from) {
                replacement = Some((position, flag, source));
                break;
            }
        }
        let Some((position, flag, source)) = replacement else {
            return Ok(false);
        };
        let node = &mut graph.nodes[id.index()];
        node.operator = OperatorId::new(INTERNAL_DOMAIN, "FusedMatMul", 1);
        node.inputs[position] = Some(source);
        node.attributes.set(flag, Attribute::Int(1));
        Ok(true)
    }

    /// An operator on transposed inputs becomes the transpose of the operator on the inputs themselves.
    fn push_through(&self, graph: &mut Graph, id: NodeId) -> Result<bool> {
        let node = graph.nodes[id.index()].clone();
        let Some(output) = node.output(0) else { return Ok(false) };
        if node.epilogue.is_some() || node.outputs.len() != 1 {
            return Ok(false);
        }
        let data_inputs = match self.role_of(graph, id, &node) {
            Some(count) => count,
            None => return Ok(false),
        };
        let mut perm: Option<Vec<usize>> = None;
        let mut dies = false;
        for input in node.inputs[..data_inputs].iter().flatten() {
            if self.analysis.facts[input.index()].constant.is_some() {
                continue;
            }
            let Some((_, own)) = self.transposed(graph, *input) else {
                return Ok(false);
            };
            if perm.as_ref().is_some_and(|perm| *perm != own) {
                return Ok(false);
            }
            perm = Some(own);
            dies |= self.uses.only_by(*input, id);
        }
        // Without one that dies here there would be more transposes than before.
        let Some(perm) = perm.filter(|_| dies) else {
            return Ok(false);
        };
        let rank = perm.len();
        let facts = &self.analysis.facts;
        let mut pushed = node.clone();
        for input in pushed.inputs[..data_inputs].iter_mut().flatten() {
            match self.analysis.facts[input.index()].constant.clone() {
                Some(constant) => {
                    if constant.shape().len() > rank {
                        return Ok(false);
                    }
                    if constant.len() > 1 {
                        let name = format!("{}.transposed", graph.value(*input).name);
                        let Some(moved) = transpose_constant(&constant, &inverse(&perm))? else {
                            return Ok(false);
                        };
                        *input = graph.add_constant(name, moved);
                    }
                }
                None => match self.transposed(graph, *input) {
                    Some((source, _)) => *input = source,
                    None => return Ok(false),
                },
            }
        }
        let Some(output_perm) = move_attributes(graph, &mut pushed, &perm, facts)? else {
            return Ok(false);
        };
        let name = format!("{}.untransposed", graph.value(output).name);
        let moved = graph.add_value(Value {
            name,
            ..Value::default()
        });
        pushed.outputs = vec![Some(moved)];
        let mut transpose = Node::new(
            OperatorId::new("", "Transpose", 13),
            vec![Some(moved)],
            vec![Some(output)],
        );
        transpose.attributes.set(
            "perm",
            Attribute::Ints(output_perm.iter().map(|&axis| axis as i64).collect()),
        );
        graph.nodes[id.index()] = pushed;
        graph.nodes.push(transpose);
        Ok(true)
    }

    /// How many leading inputs carry data in the layout of the output, when the operator is one that can be moved.
    fn role_of(&self, graph: &Graph, id: NodeId, node: &Node) -> Option<usize> {
        let given = |inputs: &[Option<ValueId>]| inputs.iter().all(Option::is_some);
        if self.analysis.pointwise(graph, id).is_some() {
            // A constant of higher rank than the data would make the output's axes others than the data's.
            let output_rank = self.analysis.facts[node.output(0)?.index()].shape.as_ref()?.len();
            let same_rank = |input: &ValueId| {
                let facts = &self.analysis.facts[input.index()];
                let rank = facts.shape.as_ref().map(Vec::len);
                rank == Some(output_rank) || (facts.constant.is_some() && rank.is_some_and(|rank| rank <= output_rank))
            };
            return node.inputs.iter().flatten().all(same_rank).then_some(node.inputs.len());
        }
        if !node.operator.domain.is_empty() {
            return None;
        }
        match &*node.operator.name {
            "Concat" if given(&node.inputs) => {
                let is_data = |input: &ValueId| self.analysis.facts[input.index()].constant.is_none();
                node.inputs.iter().flatten().all(is_data).then_some(node.inputs.len())
            }
            "Pad" | "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL2" => Some(1),
            "Softmax" | "LogSoftmax" if node.operator.version >= 13 => Some(1),
            _ => None,
        }
    }
}

/// Rewrites the axes in a node's attributes and inputs for data that is not transposed by `perm`. Returns the
/// permutation of the output, or `None` when this node cannot be moved after all.
fn move_attributes(
    graph: &mut Graph,
    node: &mut Node,
    perm: &[usize],
    facts: &[ValueFacts],
) -> Result<Option<Vec<usize>>> {
    let rank = perm.len();
    let unchanged = Some(perm.to_vec());
    if !node.operator.domain.is_empty() {
        return Ok(unchanged);
    }
    let ints = |id: Option<ValueId>| id.and_then(|id| facts.get(id.index())?.constant.as_ref()?.to_i64s().ok());
    match &*node.operator.name {
        "Concat" | "Softmax" | "LogSoftmax" => {
            let default = if &*node.operator.name == "Concat" { 0 } else { -1 };
            let axis = resolve_axis(node.attributes.int("axis")?.unwrap_or(default), rank)?;
            node.attributes.set("axis", Attribute::Int(perm[axis] as i64));
            Ok(unchanged)
        }
        "Pad" => {
            if node.input(3).is_some() {
                return Ok(None);
            }
            let from_attribute = node.attributes.ints("pads")?.map(<[i64]>::to_vec);
            let is_attribute = from_attribute.is_some();
            let pads = from_attribute.or_else(|| ints(node.input(1)));
            let Some(pads) = pads.filter(|pads| pads.len() == 2 * rank) else {
                return Ok(None);
            };
            let mut moved = vec![0; 2 * rank];
            for (axis, &from) in perm.iter().enumerate() {
                moved[from] = pads[axis];
                moved[rank + from] = pads[rank + axis];
            }
            if is_attribute {
                node.attributes.set("pads", Attribute::Ints(moved));
            } else {
                let name = format!("{}.pads", node.name);
                node.inputs[1] = Some(graph.add_constant(name, Tensor::new(&[2 * rank], moved)?));
            }
            Ok(unchanged)
        }
        name if name.starts_with("Reduce") => {
            let from_attribute = node.attributes.ints("axes")?.map(<[i64]>::to_vec);
            let is_attribute = from_attribute.is_some();
            let axes = match (from_attribute, node.input(1)) {
                (Some(axes), _) => axes,
                (None, Some(_)) => match ints(node.input(1)) {
                    Some(axes) if !axes.is_empty() => axes,
                    _ => return Ok(None),
                },
                (None, None) => return Ok(None),
            };
            let axes = axes
                .iter()
                .map(|&axis| resolve_axis(axis, rank))
                .collect::<Result<Vec<usize>>>()?;
            let moved: Vec<i64> = axes.iter().map(|&axis| perm[axis] as i64).collect();
            if is_attribute {
                node.attributes.set("axes", Attribute::Ints(moved));
            } else {
                let name = format!("{}.axes", node.name);
                node.inputs[1] = Some(graph.add_constant(name, Tensor::new(&[moved.len()], moved)?));
            }
            if node.attributes.flag("keepdims", true)? {
                return Ok(unchanged);
            }
            // Axes of the output are counted among those that stay.
            let kept: Vec<usize> = (0..rank)
                .filter(|axis| !axes.contains(axis))
                .map(|axis| perm[axis])
                .collect();
            let mut sorted = kept.clone();
            sorted.sort_unstable();
            Ok(Some(
                kept.iter()
                    .map(|axis| sorted.partition_point(|other| other < axis))
                    .collect(),
            ))
        }
        _ => Ok(unchanged),
    }
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    for (axis, &from) in perm.iter().enumerate() {
        inverse[from] = axis;
    }
    inverse
}

/// A constant, seen with leading axes of size 1 up to the permutation's rank, transposed.
fn transpose_constant(tensor: &Tensor, perm: &[usize]) -> Result<Option<Tensor>> {
    let mut shape = vec![1; perm.len() - tensor.shape().len()];
    shape.extend_from_slice(tensor.shape());
    let mut graph = Graph::default();
    let input = graph.add_constant("constant", tensor.reshaped(&shape)?);
    let output = graph.add_value(Value::default());
    let mut node = Node::new(
        OperatorId::new("", "Transpose", 13),
        vec![Some(input)],
        vec![Some(output)],
    );
    node.attributes
        .set("perm", Attribute::Ints(perm.iter().map(|&axis| axis as i64).collect()));
    let operator = crate::ops::registry::operator(&node)?.into();
    graph.nodes.push(node);
    let mut facts = initial_facts(&graph);
    Ok(evaluate(&graph, NodeId(0), &operator, &mut facts)?.and_then(|outputs| outputs.into_iter().next().flatten()))
}
