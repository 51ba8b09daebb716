//! Merges element-wise nodes into single nodes over one expression.

use super::rewrite::{Analysis, Known, Uses, retain_nodes};
use crate::{
    error::{Error, Result},
    graph::{Attribute, Attributes, Graph, Node, NodeId, OperatorId, ValueId},
    pointwise::{Builder, Expr, ExprError, Storage},
    tensor::{DType, broadcast_shapes},
};

/// A GPU binds at least eight storage buffers to one shader; one is the output, one may be a kernel's own result.
pub(super) const MAX_INPUTS: usize = 6;
/// Longer expressions gain nothing more and take long to compile.
pub(super) const MAX_OPERATIONS: usize = 64;

/// A group under construction: an expression over values.
struct Group {
    expr: Expr,
    inputs: Vec<ValueId>,
    /// Names of the nodes merged so far.
    names: Vec<String>,
}

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let mut groups: Vec<Option<Group>> = Vec::with_capacity(graph.nodes.len());
    for index in 0..graph.nodes.len() {
        let id = NodeId(index as u32);
        let form = analysis
            .pointwise(graph, id)
            .filter(|form| form.expr.outputs().len() == 1);
        groups.push(match form {
            Some(form) => {
                let node = &graph.nodes[index];
                let inputs = form.inputs.iter().filter_map(|&input| node.inputs[input]).collect();
                let mut group = Group {
                    expr: form.expr,
                    inputs,
                    names: vec![graph.node_label(id)],
                };
                tidy(&mut group)?;
                Some(group)
            }
            None => None,
        });
    }
    let producers = graph.producers();
    let uses = Uses::of(graph);
    let mut absorbed = vec![false; graph.nodes.len()];
    // Uses by nodes that were merged count as uses by the node they were merged into.
    let mut owner: Vec<usize> = (0..graph.nodes.len()).collect();
    for index in (0..graph.nodes.len()).rev() {
        if absorbed[index] || groups[index].is_none() {
            continue;
        }
        while let Some(producer) = mergeable(graph, &analysis, &uses, &producers, &groups, &owner, index) {
            let Some(inner) = groups[producer].take() else { break };
            let Some(outer) = groups[index].take() else { break };
            let output =
                graph.nodes[producer].outputs[0].ok_or_else(|| Error::internal("a merged node has no output"))?;
            match merge(&outer, &inner, output)? {
                Some(group) => {
                    groups[index] = Some(group);
                    absorbed[producer] = true;
                    for slot in owner.iter_mut().filter(|slot| **slot == producer) {
                        *slot = index;
                    }
                }
                None => {
                    groups[index] = Some(outer);
                    groups[producer] = Some(inner);
                    break;
                }
            }
        }
    }
    let mut changed = false;
    for (index, group) in groups.into_iter().enumerate() {
        let Some(mut group) = group.filter(|_| !absorbed[index]) else {
            continue;
        };
        if group.names.len() < 2 {
            continue;
        }
        let output = graph.nodes[index].outputs[0];
        embed_scalars(&analysis, output, &mut group)?;
        let mut node = Node::new(
            OperatorId::internal("Pointwise"),
            group.inputs.iter().copied().map(Some).collect(),
            vec![output],
        );
        node.attributes = Attributes::default();
        node.attributes.set("expr", Attribute::Expr(group.expr.into()));
        node.name = graph.nodes[index].name.clone();
        group.names.reverse();
        node.fused = group.names;
        graph.nodes[index] = node;
        changed = true;
    }
    retain_nodes(graph, |index| !absorbed[index]);
    Ok(changed)
}

/// A node whose result only group `index` uses, element by element, and whose expression fits into the group's.
fn mergeable(
    graph: &Graph,
    analysis: &Analysis,
    uses: &Uses,
    producers: &[Option<NodeId>],
    groups: &[Option<Group>],
    owner: &[usize],
    index: usize,
) -> Option<usize> {
    let group = groups[index].as_ref()?;
    let shape = analysis.facts[graph.nodes[index].output(0)?.index()].shape.as_ref()?;
    group.inputs.iter().find_map(|value| {
        let producer = producers[value.index()]?.index();
        let inner = groups[producer].as_ref()?;
        let users = &uses.nodes[value.index()];
        let only_here = !uses.is_output[value.index()] && users.iter().all(|user| owner[user.index()] == index);
        let same_shape = analysis.facts[value.index()].shape.as_ref() == Some(shape);
        let mut inputs: Vec<ValueId> = group.inputs.iter().chain(&inner.inputs).copied().collect();
        inputs.sort_unstable();
        inputs.dedup();
        let scalars = inputs.iter().filter(|id| scalar_of(analysis, **id).is_some()).count();
        let fits = inputs.len() - scalars <= MAX_INPUTS + 1
            && group.expr.operation_count() + inner.expr.operation_count() <= MAX_OPERATIONS;
        (only_here && same_shape && fits).then_some(producer)
    })
}

/// The expression of `outer` with `inner`'s in place of value `output`; `None` when the two do not fit.
fn merge(outer: &Group, inner: &Group, output: ValueId) -> Result<Option<Group>> {
    let Some(position) = outer.inputs.iter().position(|id| *id == output) else {
        return Ok(None);
    };
    let expr = match outer.expr.compose(position, &inner.expr, 0) {
        Ok(expr) => expr,
        Err(ExprError::Storage { .. }) => return Ok(None),
        Err(error) => return Err(defect(error)),
    };
    let mut inputs = outer.inputs.clone();
    inputs.remove(position);
    inputs.extend(&inner.inputs);
    let names = outer.names.iter().chain(&inner.names).cloned().collect();
    let mut group = Group { expr, inputs, names };
    tidy(&mut group)?;
    Ok(Some(group))
}

/// Makes inputs that are one value one input, and drops those that nothing reads.
fn tidy(group: &mut Group) -> Result<()> {
    let mut unique: Vec<ValueId> = Vec::new();
    let map: Vec<usize> = group
        .inputs
        .iter()
        .map(|id| {
            unique.iter().position(|other| other == id).unwrap_or_else(|| {
                unique.push(*id);
                unique.len() - 1
            })
        })
        .collect();
    if unique.len() < group.inputs.len() {
        group.expr = group.expr.merge_inputs(&map).map_err(defect)?;
        group.inputs = unique;
    }
    Ok(())
}

/// The value of a constant with one f32 element.
fn scalar_of(analysis: &Analysis, id: ValueId) -> Option<f32> {
    let constant = analysis.facts[id.index()].constant.as_ref()?;
    let is_scalar = constant.dtype() == DType::F32 && constant.len() == 1;
    is_scalar.then(|| constant.to_f32s().ok().map(|values| values[0]))?
}

/// Writes constants of one element into the expression, as long as the other inputs still broadcast to the output's
/// shape.
fn embed_scalars(analysis: &Analysis, output: Option<ValueId>, group: &mut Group) -> Result<()> {
    let Some((expr, kept)) = without_scalars(analysis, &group.expr, &group.inputs)? else {
        return Ok(());
    };
    let rank_of = |id: &ValueId| analysis.facts[id.index()].shape.as_ref().map(Vec::len);
    if kept.iter().map(rank_of).max().flatten() != output.and_then(|id| rank_of(&id)) {
        return Ok(());
    }
    let (expr, still_read) = expr.without_unused_inputs();
    // An input that is not read may still be what gives the output its shape.
    let shapes: Option<Vec<Vec<usize>>> = still_read
        .iter()
        .map(|&index| analysis.facts[kept[index].index()].concrete_shape())
        .collect();
    let output_shape = output.and_then(|id| analysis.facts[id.index()].concrete_shape());
    let shape_is_kept = still_read.len() == kept.len()
        || shapes
            .zip(output_shape)
            .is_some_and(|(shapes, output)| broadcast_shapes(&shapes).ok() == Some(output));
    if shape_is_kept {
        group.inputs = still_read.into_iter().map(|index| kept[index]).collect();
        group.expr = expr;
    }
    Ok(())
}

/// An expression with its inputs of one constant f32 written into it, and the inputs that are left; `None` when there are
/// no such inputs.
pub(super) fn without_scalars(
    analysis: &Analysis,
    expr: &Expr,
    inputs: &[ValueId],
) -> Result<Option<(Expr, Vec<ValueId>)>> {
    let scalars: Vec<Option<f32>> = inputs.iter().map(|&id| scalar_of(analysis, id)).collect();
    if scalars.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut builder = Builder::new();
    let mut arguments = vec![None; inputs.len()];
    let mut kept = Vec::new();
    // Inputs come before everything else.
    for (index, storage) in expr.inputs().iter().enumerate() {
        if scalars[index].is_none() {
            arguments[index] = Some(builder.input(*storage));
            kept.push(inputs[index]);
        }
    }
    let arguments: Vec<_> = arguments
        .into_iter()
        .zip(scalars)
        .map(|(argument, scalar)| argument.unwrap_or_else(|| builder.constant(scalar.unwrap_or(0.0))))
        .collect();
    builder.inline_outputs(expr, &arguments);
    Ok(Some((builder.finish().map_err(defect)?, kept)))
}

/// Only f32 and bool values take part, so an expression that does not fit is a defect of the pass.
pub(super) fn defect(error: ExprError) -> Error {
    Error::internal(format!("expressions do not fit together: {error:?}"))
}

/// Whether an expression takes and gives f32 alone, as an epilogue must.
pub(super) fn is_f32(expr: &Expr) -> bool {
    expr.outputs().len() == 1 && expr.outputs()[0].storage == Storage::F32
}
