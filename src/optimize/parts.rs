//! Replaces `FlexAttention`, which has graphs of the model's own between its steps, by these steps and graphs.

use crate::{
    error::{Error, ErrorCode, Result},
    graph::{Attribute, Graph, Node, OperatorId, Subgraph, TensorType, Value, ValueId, ValueType, inline_subgraph},
};

/// Runs at every level: nothing else knows how to run such a node.
pub(super) fn run(graph: &mut Graph) -> Result<()> {
    for node in &mut graph.nodes {
        for subgraph in node.attributes.subgraphs_mut() {
            run(&mut subgraph.graph)?;
        }
    }
    let is_flex = |node: &Node| &*node.operator.name == "FlexAttention" && &*node.operator.domain == "ai.onnx.preview";
    if !graph.nodes.iter().any(is_flex) {
        return Ok(());
    }
    for node in std::mem::take(&mut graph.nodes) {
        if is_flex(&node) {
            let parts = parts_of(graph, node)?;
            graph.nodes.extend(parts);
        } else {
            graph.nodes.push(node);
        }
    }
    Ok(())
}

fn parts_of(graph: &mut Graph, mut flex: Node) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    let named = |mut node: Node| {
        node.name = flex.name.clone();
        node
    };
    let modifiers = ["score_mod", "prob_mod"].map(|name| flex.attributes.remove(name));
    let [score_mod, prob_mod] = modifiers;
    let mut scores = named(Node::new(
        OperatorId::internal("AttentionScores"),
        vec![flex.input(0), flex.input(1)],
        Vec::new(),
    ));
    scores.attributes = flex.attributes.clone();
    let raw = new_value(graph, &flex.name, "scores");
    scores.outputs = vec![Some(raw)];
    nodes.push(scores);
    let modified = modify(graph, score_mod, raw, &mut nodes)?;
    let weights = new_value(graph, &flex.name, "weights");
    let mut softmax = named(Node::new(
        OperatorId::new("", "Softmax", 13),
        vec![Some(modified)],
        vec![Some(weights)],
    ));
    softmax.attributes.set("axis", Attribute::Int(-1));
    nodes.push(softmax);
    let modified = modify(graph, prob_mod, weights, &mut nodes)?;
    let operator = OperatorId::internal("AttentionValues");
    let outputs = std::mem::take(&mut flex.outputs);
    nodes.push(named(Node::new(operator, vec![Some(modified), flex.input(2)], outputs)));
    Ok(nodes)
}

fn new_value(graph: &mut Graph, node: &str, what: &str) -> ValueId {
    graph.add_value(Value {
        name: format!("{node}.{what}"),
        ty: ValueType::Tensor(TensorType::default()),
        constant: None,
    })
}

/// What a graph of one input and one output makes of a value.
fn modify(graph: &mut Graph, by: Option<Attribute>, value: ValueId, nodes: &mut Vec<Node>) -> Result<ValueId> {
    let mut subgraph: Subgraph = match by {
        None => return Ok(value),
        Some(Attribute::Graph(subgraph)) => *subgraph,
        Some(_) => {
            return Err(Error::new(
                ErrorCode::InvalidGraph,
                "attribute score_mod or prob_mod is not a graph",
            ));
        }
    };
    let inner = &mut subgraph.graph;
    if (inner.inputs.len(), inner.outputs.len()) != (1, 1) {
        return Err(
            Error::new(ErrorCode::InvalidGraph, "score_mod or prob_mod has the wrong form")
                .expected("one input and one output")
                .actual(format!("{} and {}", inner.inputs.len(), inner.outputs.len())),
        );
    }
    // Its input is as good as a value that it takes from around it.
    inner.captures.append(&mut inner.inputs);
    subgraph.captures.push(value);
    let result = graph.add_value(Value {
        name: format!("{}.modified", graph.value(value).name),
        ..graph.value(value).clone()
    });
    nodes.extend(inline_subgraph(graph, &subgraph, &[Some(result)])?);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::GraphBuilder,
        tensor::{DType, Dim},
    };

    fn flex(modifier: impl FnOnce(&mut GraphBuilder, ValueId) -> ValueId, inputs: usize) -> Result<Graph> {
        let mut inner = GraphBuilder::new(17);
        let ids: Vec<ValueId> = (0..inputs)
            .map(|index| inner.input(&format!("x{index}"), DType::F32, vec![]))
            .collect();
        let out = modifier(&mut inner, ids[0]);
        let graph = inner.output("out", out).finish()?;
        let subgraph = Subgraph {
            graph,
            captures: Vec::new(),
        };
        let mut b = GraphBuilder::new(17);
        let shape = |size: i64| [1, 1, 2, size].map(Dim::from).to_vec();
        let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, DType::F32, shape(3)));
        let y = b.node("Identity", &[v]);
        let mut graph = b.output("y", y).finish()?;
        let node = &mut graph.nodes[0];
        node.operator = OperatorId::new("ai.onnx.preview", "FlexAttention", 1);
        node.inputs = [q, k, v].map(Some).to_vec();
        node.attributes.set("score_mod", Attribute::Graph(Box::new(subgraph)));
        run(&mut graph)?;
        graph.verify()?;
        Ok(graph)
    }

    #[test]
    fn modifiers_stand_between_the_steps() {
        let graph = flex(|b, x| b.node("Relu", &[x]), 1).unwrap();
        let names: Vec<&str> = graph.nodes.iter().map(|node| &*node.operator.name).collect();
        assert_eq!(
            names,
            ["AttentionScores", "Relu", "Identity", "Softmax", "AttentionValues"]
        );
        assert!(flex(|b, x| b.node("Relu", &[x]), 2).is_err());
    }
}
