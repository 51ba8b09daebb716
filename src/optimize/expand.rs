//! Puts what a node stands for in its place: operators that are no more than a few simpler ones.

use super::rewrite::Known;
use crate::{
    error::Result,
    graph::{Graph, Node, inline_subgraph},
};

pub(super) fn run(graph: &mut Graph, known: &Known<'_>) -> Result<bool> {
    let operators = known.operators(graph)?;
    let nodes = std::mem::take(&mut graph.nodes);
    let mut result: Vec<Node> = Vec::with_capacity(nodes.len());
    let mut changed = false;
    for (node, operator) in nodes.into_iter().zip(operators.iter()) {
        match operator.body(&node) {
            Some((body, outputs)) => {
                result.extend(inline_subgraph(graph, &body, &outputs)?);
                changed = true;
            }
            None => result.push(node),
        }
    }
    graph.nodes = result;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::super::{Level, optimize};
    use crate::{
        graph::{Graph, GraphBuilder, OperatorId},
        tensor::{DType, Dim, Tensor},
    };

    fn skip_norm() -> Graph {
        let mut builder = GraphBuilder::new(17);
        let shape = vec![Dim::symbol("n"), Dim::from(2)];
        let x = builder.input("x", DType::F32, shape.clone());
        let skip = builder.input("skip", DType::F32, shape);
        let gamma = builder.constant("gamma", Tensor::new(&[2], vec![1.0f32, 2.0]).unwrap());
        let operator = OperatorId::new("com.microsoft", "SkipSimplifiedLayerNormalization", 1);
        let inputs = [Some(x), Some(skip), Some(gamma)];
        let outputs = builder.node_of(operator, &inputs, &[], 1);
        builder.output("y", outputs[0]).finish().unwrap()
    }

    #[test]
    fn a_fused_node_becomes_what_it_was_fused_from() {
        let names = |graph: &Graph| -> Vec<String> {
            let operators = graph.nodes.iter().map(|node| node.operator.to_string());
            operators.collect()
        };
        let optimized = optimize(skip_norm(), Level::Basic).unwrap();
        assert_eq!(names(&optimized), ["Add", "RMSNormalization"]);
        let plain = optimize(skip_norm(), Level::None).unwrap();
        assert_eq!(names(&plain), ["com.microsoft.SkipSimplifiedLayerNormalization"]);
    }
}
