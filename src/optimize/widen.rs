//! Computes half precision in f32: nodes on f16 and bf16 become nodes on f32, with conversions where the region they form
//! begins and ends, so that only what is stored as half precision (feeds, results, what is moved with such) is rounded.
//! Fusion and the fast kernels then apply to such models as well.
//!
//! What is rounded is what ONNX Runtime's CPU provider rounds, as far as it costs nothing but a conversion. It converts
//! around each node that it has no f16 kernel for, and does away with conversions to f16 and back: so a Cast of the model
//! from f32 to f16 rounds for those alone that take f16. What it joins (Concat, ScatterND, …) it joins in f16, unless all
//! parts come from such nodes.
//!
//! The GPU holds no half precision. For it, what is joined with a result that is computed in f32 is joined in f32, and not
//! rounded in between.
//!
//! Weights stay as they are. The matrix that a convolution or a product packs for itself is read in half precision
//! ([`store_weights`]), and others are widened when constants are folded.

use super::{
    Kernels,
    rewrite::{Analysis, Known, Uses},
};
use crate::{
    error::Result,
    graph::{Attribute, Graph, Node, NodeId, OperatorId, Value, ValueId, ValueType},
    ops::{InferContext, ValueFacts},
    tensor::{DType, Tensor, map::HashMap},
};

/// Constants up to this many elements are widened for shape inference.
const MAX_INFERRED: usize = 1024;

/// Smaller weights are widened when constants are folded.
const MIN_STORED_BYTES: usize = 1 << 16;

/// Operators that hand on elements of their inputs: they run in whatever precision their inputs have.
const MOVEMENT: &[&str] = &[
    "Compress",
    "Concat",
    "DepthToSpace",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GatherBlockQuantized",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "Reshape",
    "ReverseSequence",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
];

/// Those of them that ONNX Runtime has no f16 kernel for.
const WIDE_MOVEMENT: &[&str] = &["Pad", "Where"];

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    run_for(graph, known, Kernels::Cpu)
}

pub(super) fn run_for_gpu(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    run_for(graph, known, Kernels::Gpu)
}

fn run_for(graph: &mut Graph, known: &Known<'_>, kernels: Kernels) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let uses = Uses::of(graph);
    let mut regions = Regions {
        wide: vec![false; graph.values.len()],
        kernels,
        graph,
        analysis: &analysis,
    };
    if kernels == Kernels::Gpu {
        for (half, _) in graph.nodes.iter().filter_map(|node| unrounded(node, &analysis)) {
            regions.wide[half.index()] = true;
        }
    }
    let widened: Vec<bool> = (0..graph.nodes.len())
        .map(|index| regions.widens(index))
        .collect::<Result<_>>()?;
    if !widened.contains(&true) {
        return Ok(false);
    }
    rewrite(graph, &analysis, &uses, &widened);
    Ok(true)
}

fn is_half(dtype: Option<DType>) -> bool {
    dtype.is_some_and(DType::is_half)
}

/// Which values are computed in f32, for the nodes looked at so far.
struct Regions<'a> {
    wide: Vec<bool>,
    kernels: Kernels,
    graph: &'a Graph,
    analysis: &'a Analysis,
}

impl Regions<'_> {
    fn facts(&self, id: ValueId) -> &ValueFacts {
        &self.analysis.facts[id.index()]
    }

    /// Whether node `index` is to run in f32, and so its outputs.
    fn widens(&mut self, index: usize) -> Result<bool> {
        let node = &self.graph.nodes[index];
        let widens = self.may(index)? && self.is_worth(node);
        if widens {
            for id in node.outputs.iter().flatten() {
                self.wide[id.index()] = is_half(self.facts(*id).dtype);
            }
        }
        Ok(widens)
    }

    /// Whether the node computes the same in f32, for all that its types tell.
    fn may(&self, index: usize) -> Result<bool> {
        let node = &self.graph.nodes[index];
        let operator = &self.analysis.operators[index];
        let values = node.inputs.iter().chain(&node.outputs).flatten();
        let is_plain = node.epilogue.is_none()
            && operator.control().is_none()
            && operator.is_deterministic()
            && !operator.works_on_values()
            && node.attributes.subgraphs().next().is_none()
            && values.clone().all(|id| self.facts(*id).container.is_none());
        if !is_plain || !node.inputs.iter().flatten().any(|id| is_half(self.facts(*id).dtype)) {
            return Ok(false);
        }
        // What its second input is like is what a model asks a value to be rounded to.
        if node.operator.is_onnx("CastLike") && node.input(1).is_some_and(|id| is_half(self.facts(id).dtype)) {
            return Ok(false);
        }
        let inputs: Vec<Option<ValueFacts>> = node
            .inputs
            .iter()
            .map(|id| id.map(|id| widened_facts(self.facts(id))).transpose())
            .collect::<Result<_>>()?;
        let inputs = inputs.iter().map(Option::as_ref).collect();
        let mut fresh = 0;
        let mut ctx = InferContext::new(node, inputs, &[], &mut fresh);
        // An operator to which half precision means something other refuses, or makes half precision all the same.
        if operator.infer(&mut ctx).is_err() {
            return Ok(false);
        }
        let as_hoped = |(id, wide): (&Option<ValueId>, &ValueFacts)| {
            id.is_none_or(|id| {
                let dtype = self.facts(id).dtype;
                wide.dtype == if is_half(dtype) { Some(DType::F32) } else { dtype }
            })
        };
        Ok(node.outputs.iter().zip(&ctx.outputs).all(as_hoped))
    }

    fn is_worth(&self, node: &Node) -> bool {
        let name = &*node.operator.name;
        let is_cast = matches!(name, "Cast" | "CastLike");
        if !is_cast && !MOVEMENT.contains(&name) {
            return true;
        }
        let mut halves = node
            .inputs
            .iter()
            .flatten()
            .filter(|id| is_half(self.facts(**id).dtype));
        let is_wide = |id: &ValueId| self.wide[id.index()];
        let hands_on = if self.kernels == Kernels::Gpu || WIDE_MOVEMENT.contains(&name) {
            halves.any(is_wide)
        } else {
            halves.all(is_wide)
        };
        // A result is rounded anyway, and moved in fewer bytes.
        hands_on && (is_cast || !node.outputs.iter().flatten().any(|id| self.graph.outputs.contains(id)))
    }
}

/// The facts about a value once it is f32.
fn widened_facts(facts: &ValueFacts) -> Result<ValueFacts> {
    if !is_half(facts.dtype) {
        return Ok(facts.clone());
    }
    let small = facts.constant.as_ref().filter(|tensor| tensor.len() <= MAX_INFERRED);
    let constant = small.map(|tensor| Tensor::new(tensor.shape(), tensor.to_f32s()?.into_owned()));
    Ok(ValueFacts {
        dtype: Some(DType::F32),
        constant: constant.transpose()?,
        ..facts.clone()
    })
}

/// Makes the chosen nodes work on f32 copies of their half-precision values.
fn rewrite(graph: &mut Graph, analysis: &Analysis, uses: &Uses, widened: &[bool]) {
    let mut copies: HashMap<ValueId, ValueId> = graph
        .nodes
        .iter()
        .filter_map(|node| unrounded(node, analysis))
        .collect();
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    let is_half = |id: &ValueId| is_half(analysis.facts[id.index()].dtype);
    for (index, mut node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        if !widened[index] {
            nodes.push(node);
            continue;
        }
        for id in node.inputs.iter_mut().flatten().filter(|id| is_half(id)) {
            let half = *id;
            *id = match copies.get(&half) {
                Some(&copy) => copy,
                None => {
                    let copy = wide_copy(graph, half);
                    nodes.push(cast(half, copy, DType::F32));
                    copies.insert(half, copy);
                    copy
                }
            };
        }
        let mut narrowed = Vec::new();
        for id in node.outputs.iter_mut().flatten().filter(|id| is_half(id)) {
            let (half, copy) = (*id, wide_copy(graph, *id));
            copies.insert(half, copy);
            *id = copy;
            let narrow = |user: &NodeId| !widened[user.index()];
            if uses.is_output[half.index()] || uses.nodes[half.index()].iter().any(narrow) {
                let dtype = analysis.facts[half.index()].dtype.unwrap_or(DType::F16);
                narrowed.push(cast(copy, half, dtype));
            }
        }
        nodes.push(node);
        nodes.append(&mut narrowed);
    }
    graph.nodes = nodes;
}

/// What a Cast from f32 to f16 makes, and what it makes it from.
fn unrounded(node: &Node, analysis: &Analysis) -> Option<(ValueId, ValueId)> {
    let (from, to) = (node.input(0)?, node.output(0)?);
    let dtype = |id: ValueId| analysis.facts[id.index()].dtype;
    let rounds = node.operator.is_onnx("Cast") && dtype(from) == Some(DType::F32) && dtype(to) == Some(DType::F16);
    rounds.then_some((to, from))
}

fn wide_copy(graph: &mut Graph, id: ValueId) -> ValueId {
    let name = format!("{}.wide", graph.value(id).name);
    graph.add_value(Value {
        name,
        ..Value::default()
    })
}

fn cast(from: ValueId, to: ValueId, dtype: DType) -> Node {
    let mut node = Node::new(OperatorId::new("", "Cast", 13), vec![Some(from)], vec![Some(to)]);
    node.attributes.set("to", Attribute::Int(dtype.to_onnx().into()));
    node
}

/// Whether operators pack what stands in this input for themselves, reading it in whatever precision it is stored.
fn packs(node: &Node, input: usize) -> bool {
    let name = &*node.operator.name;
    match input {
        1 => matches!(name, "Conv" | "ConvTranspose" | "MatMul" | "FusedMatMul" | "Gemm"),
        _ => false,
    }
}

/// The nodes that widen a large constant only for operators that pack it: folding leaves them alone, and
/// [`store_weights`] does away with them.
pub(super) fn kept_weights(graph: &Graph, facts: &[ValueFacts]) -> Vec<bool> {
    let is_candidate = |node: &Node| {
        let (from, to) = (node.input(0)?, node.output(0)?);
        let stored = facts[from.index()].constant.as_ref()?;
        let wanted = node.operator.is_onnx("Cast")
            && is_half(Some(stored.dtype()))
            && facts[to.index()].dtype == Some(DType::F32)
            && stored.byte_len() >= MIN_STORED_BYTES;
        wanted.then_some(to)
    };
    let mut kept: Vec<Option<ValueId>> = graph.nodes.iter().map(is_candidate).collect();
    if kept.iter().any(Option::is_some) {
        let uses = Uses::of(graph);
        for slot in &mut kept {
            *slot = slot.filter(|id| {
                let is_packed = |user: &NodeId| {
                    let node = &graph.nodes[user.index()];
                    let mut inputs = node.inputs.iter().enumerate();
                    node.attributes.subgraphs().next().is_none()
                        && inputs.all(|(input, used)| *used != Some(*id) || packs(node, input))
                };
                !uses.is_output[id.index()] && uses.nodes[id.index()].iter().all(is_packed)
            });
        }
    }
    kept.iter().map(Option::is_some).collect()
}

/// Makes the values that [`kept_weights`] found constants of type f32 that are stored in half precision.
pub(super) fn store_weights(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let analysis = known.analysis(graph)?;
    let facts = &analysis.facts;
    let kept = kept_weights(graph, facts);
    for (node, _) in graph.nodes.iter().zip(&kept).filter(|(_, kept)| **kept) {
        if let (Some(from), Some(to)) = (node.input(0), node.output(0)) {
            let shape = facts[to.index()].shape.clone().unwrap_or_default();
            let value = &mut graph.values[to.index()];
            value.ty = ValueType::tensor(DType::F32, shape);
            value.constant.clone_from(&facts[from.index()].constant);
        }
    }
    super::rewrite::retain_nodes(graph, |index| !kept[index]);
    Ok(kept.contains(&true))
}
