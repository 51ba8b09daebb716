//! Products of a one-hot encoding with constant weights become a lookup: `Equal(x, [0, 1, …, k - 1])`, cast to floats and
//! multiplied by `[k, n]`, picks a row of the weights for each `x` that is an index and gives zeros for every other. JAX writes
//! embeddings that way.

use super::rewrite::{Analysis, Known};
use crate::{
    error::Result,
    graph::{Attribute, Graph, Node, NodeId, OperatorId, TensorType, Value, ValueId, ValueType},
    tensor::{DType, Tensor},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let has = |name: &str| graph.nodes.iter().any(|node| node.operator.is_onnx(name));
    if !has("Equal") || !has("MatMul") {
        return Ok(false);
    }
    let analysis = known.analysis(graph)?;
    let producers = graph.producers();
    let found: Vec<_> = graph
        .nodes
        .iter()
        .map(|node| lookup(graph, &analysis, &producers, node))
        .collect();
    if found.iter().all(Option::is_none) {
        return Ok(false);
    }
    let nodes = std::mem::take(&mut graph.nodes);
    for (node, found) in nodes.into_iter().zip(found) {
        match found {
            Some(lookup) => lookup.write(graph, node)?,
            None => graph.nodes.push(node),
        }
    }
    Ok(true)
}

/// What a product becomes.
struct Lookup {
    /// The indices, with a last dimension of one.
    indices: ValueId,
    dtype: DType,
    /// The weights' sizes, and the weights with a row of zeros below.
    sizes: [usize; 2],
    table: Vec<f32>,
}

fn lookup(graph: &Graph, analysis: &Analysis, producers: &[Option<NodeId>], node: &Node) -> Option<Lookup> {
    let facts = |value: ValueId| &analysis.facts[value.index()];
    let made_by = |value: ValueId, name: &str| {
        let maker = &graph.nodes[producers.get(value.index()).copied().flatten()?.index()];
        maker.operator.is_onnx(name).then_some(maker)
    };
    if !node.operator.is_onnx("MatMul") || node.epilogue.is_some() {
        return None;
    }
    let (floats, weights) = (node.input(0)?, node.input(1)?);
    let weights = facts(weights).constant.as_ref()?;
    let &[k, n] = weights.shape() else { return None };
    if weights.dtype() != DType::F32 || facts(floats).dtype != Some(DType::F32) {
        return None;
    }
    let equal = made_by(made_by(floats, "Cast")?.input(0)?, "Equal")?;
    let (a, b) = (equal.input(0)?, equal.input(1)?);
    let is_count = |value: ValueId| {
        let counted = facts(value).constant.as_ref()?;
        let fits = counted.shape().last() == Some(&k) && counted.len() == k;
        let numbers = fits.then(|| counted.to_i64s().ok())??;
        (0..k as i64).eq(numbers).then_some(counted.shape().len())
    };
    let (indices, rank) = match (is_count(a), is_count(b)) {
        (_, Some(rank)) => (a, rank),
        (Some(rank), _) => (b, rank),
        _ => return None,
    };
    let dtype = facts(indices).dtype?;
    let shape = facts(indices).shape.as_ref()?;
    if !matches!(dtype, DType::I32 | DType::I64) || shape.len() < rank || shape.last()?.known() != Some(1) {
        return None;
    }
    let mut table = weights.to_f32s().ok()?.into_owned();
    // Of the sum over all rows, one that is not a number would be part everywhere.
    if !table.iter().all(|value| value.is_finite()) {
        return None;
    }
    table.resize(table.len() + n, 0.0);
    Some(Lookup {
        indices,
        dtype,
        sizes: [k, n],
        table,
    })
}

impl Lookup {
    /// What is no index becomes that of the last row, from above or from below: Gather counts negative ones from the end.
    fn write(self, graph: &mut Graph, node: Node) -> Result<()> {
        let [k, n] = self.sizes;
        let bound = |value: i64| match self.dtype {
            DType::I32 => Tensor::new(&[], vec![value as i32]),
            _ => Tensor::new(&[], vec![value]),
        };
        let constants = [
            ("axes", Tensor::new(&[1], vec![-1i64])?),
            ("least", bound(-1)?),
            ("most", bound(k as i64)?),
            ("table", Tensor::new(&[k + 1, n], self.table)?),
        ];
        let [axes, least, most, table] = constants.map(|(name, tensor)| {
            graph.add_value(Value {
                name: format!("{}.{name}", node.name),
                ty: ValueType::Tensor(TensorType::default()),
                constant: Some(tensor),
            })
        });
        let mut add = |name: &str, inputs: &[ValueId]| {
            let output = graph.add_value(Value {
                name: format!("{}.{name}", node.name),
                ty: ValueType::Tensor(TensorType::default()),
                constant: None,
            });
            let inputs = inputs.iter().copied().map(Some).collect();
            let mut made = Node::new(OperatorId::new("", name, 13), inputs, vec![Some(output)]);
            made.name = format!("{}.{name}", node.name);
            graph.nodes.push(made);
            output
        };
        let squeezed = add("Squeeze", &[self.indices, axes]);
        let clipped = add("Clip", &[squeezed, least, most]);
        let mut gather = Node {
            operator: OperatorId::new("", "Gather", 13),
            inputs: vec![Some(table), Some(clipped)],
            attributes: Default::default(),
            ..node
        };
        gather.attributes.set("axis", Attribute::Int(0));
        graph.nodes.push(gather);
        Ok(())
    }
}
