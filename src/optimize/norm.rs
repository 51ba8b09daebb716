//! Makes one LayerNormalization or RMSNormalization of the means, squares and roots that exporters write for it.

use super::{
    pattern::{Match, Matcher, Pattern, Pattern::*},
    rewrite::{Known, Uses},
};
use crate::{
    error::Result,
    graph::{Attribute, Graph, Node, OperatorId, ValueId},
    tensor::{DType, Tensor},
};

// Slots: the input, epsilon, scale, bias.
const X: Pattern = Any(0);
const EPSILON: Pattern = Scalar(1);
const SCALE: Pattern = Any(2);
const BIAS: Pattern = Any(3);

const CENTRED: Pattern = Op("Sub", &[X, Mean(&X)]);
const VARIANCE: Pattern = Mean(&Either(&[
    Op("Pow", &[CENTRED, Number(2.0)]),
    Op("Mul", &[CENTRED, CENTRED]),
]));
const POWER: Pattern = Mean(&Either(&[Op("Pow", &[X, Number(2.0)]), Op("Mul", &[X, X])]));

/// `of / √(square + epsilon)`, as a quotient or a product.
macro_rules! over_root {
    ($of:expr, $square:expr) => {
        Either(&[
            Op("Div", &[$of, Op("Sqrt", &[Op("Add", &[$square, EPSILON])])]),
            Op("Mul", &[inverse_root!($square), $of]),
        ])
    };
}

/// `1 / √(square + epsilon)`.
macro_rules! inverse_root {
    ($square:expr) => {
        Either(&[
            Op("Reciprocal", &[Op("Sqrt", &[Op("Add", &[$square, EPSILON])])]),
            Op("Div", &[Number(1.0), Op("Sqrt", &[Op("Add", &[$square, EPSILON])])]),
            Op("Pow", &[Op("Add", &[$square, EPSILON]), Number(-0.5)]),
        ])
    };
}

const LAYER: Pattern = over_root!(CENTRED, VARIANCE);
const RMS: Pattern = over_root!(X, POWER);
const FACTOR: Pattern = Op("Mul", &[inverse_root!(VARIANCE), SCALE]);

/// What becomes which operator, the fullest first.
static PATTERNS: &[(Pattern, &str)] = &[
    (Op("Add", &[Op("Mul", &[LAYER, SCALE]), BIAS]), "LayerNormalization"),
    // As Keras writes it: x * factor + (bias - mean * factor).
    (
        Op(
            "Add",
            &[
                Op("Sub", &[BIAS, Op("Mul", &[FACTOR, Mean(&X)])]),
                Op("Mul", &[FACTOR, X]),
            ],
        ),
        "LayerNormalization",
    ),
    (Op("Mul", &[LAYER, SCALE]), "LayerNormalization"),
    (Op("Mul", &[RMS, SCALE]), "RMSNormalization"),
    (LAYER, "LayerNormalization"),
    (RMS, "RMSNormalization"),
];

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    // Nothing to look for costs nothing.
    if !graph.nodes.iter().any(|node| node.operator.is_onnx("ReduceMean")) {
        return Ok(false);
    }
    let analysis = known.analysis(graph)?;
    let (uses, producers) = (Uses::of(graph), graph.producers());
    let matcher = Matcher {
        graph,
        analysis: &analysis,
        uses: &uses,
        producers: &producers,
    };
    let mut taken = vec![false; graph.nodes.len()];
    let mut replacements = Vec::new();
    // From the back, so that the fullest pattern is met first.
    for index in (0..graph.nodes.len()).rev() {
        let Some(output) = graph.nodes[index].output(0) else {
            continue;
        };
        let fits = |(pattern, name): &(Pattern, &'static str)| {
            let found = matcher.find(pattern, output)?;
            let free = found.nodes.iter().all(|id| !taken[id.index()]);
            normalization(&matcher, &found, name)
                .filter(|_| free)
                .map(|made| (found, made))
        };
        if let Some((found, made)) = PATTERNS.iter().find_map(fits) {
            found.nodes.iter().for_each(|id| taken[id.index()] = true);
            replacements.push((index, made));
        }
    }
    let changed = !replacements.is_empty();
    for (index, mut made) in replacements {
        if let Some(sizes) = made.ones {
            let ones = Tensor::new(&sizes, vec![1.0f32; sizes.iter().product()])?;
            made.node.inputs[1] = Some(graph.add_constant("ones", ones));
        }
        made.node.outputs = graph.nodes[index].outputs.clone();
        graph.nodes[index] = made.node;
    }
    if changed {
        super::dead::run(graph, known)?;
    }
    Ok(changed)
}

struct Made {
    node: Node,
    /// The sizes of a scale that the model does without.
    ones: Option<Vec<usize>>,
}

/// A scale of ones larger than this is not made up.
const MAX_ONES: usize = 1 << 16;

/// The normalisation that a match is, when scale and bias have a value for each element of a row.
fn normalization(matcher: &Matcher<'_>, found: &Match, name: &str) -> Option<Made> {
    let [x, epsilon, scale, bias] = found.slots;
    let facts = |id: ValueId| &matcher.analysis.facts[id.index()];
    let x = x?;
    let is_f32 = |id: ValueId| facts(id).dtype == Some(DType::F32);
    let shape = facts(x).shape.as_ref().filter(|_| is_f32(x))?;
    let row = &shape[found.axis?..];
    let sizes = row.iter().map(|dim| dim.size()).collect::<Option<Vec<usize>>>()?;
    let fits = |id: ValueId| {
        let own = facts(id).concrete_shape()?;
        let (lead, tail) = own.split_at(own.len().checked_sub(sizes.len())?);
        let is_row = lead.len() + sizes.len() <= shape.len() && lead.iter().all(|&dim| dim == 1) && tail == sizes;
        (is_row && is_f32(id)).then_some(())
    };
    for id in [scale, bias].into_iter().flatten() {
        fits(id)?;
    }
    let ones = scale.is_none().then_some(sizes);
    if ones
        .as_ref()
        .is_some_and(|sizes| sizes.iter().product::<usize>() > MAX_ONES)
    {
        return None;
    }
    let mut inputs = vec![Some(x), scale];
    inputs.extend(bias.map(Some));
    let mut node = Node::new(OperatorId::new("", name, 23), inputs, Vec::new());
    let root = *found.nodes.first()?;
    node.name = matcher.graph.node_label(root);
    node.fused = found.nodes.iter().map(|&id| matcher.graph.node_label(id)).collect();
    node.fused.dedup();
    let attributes = &mut node.attributes;
    attributes.set("axis", Attribute::Int(found.axis? as i64));
    attributes.set("epsilon", Attribute::Float(matcher.scalar(epsilon?)?));
    Some(Made { node, ones })
}
