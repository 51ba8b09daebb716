//! The verifier: what must hold of every graph between any two passes.

use super::{Graph, NodeId, ValueId};
use crate::error::{Error, ErrorCode, Result};

/// Deeper nesting of subgraphs than this is refused.
const MAX_DEPTH: usize = 64;

impl Graph {
    /// Checks that every id is in range, every value has at most one source, every use comes after its source, and
    /// the same of every subgraph.
    pub fn verify(&self) -> Result<()> {
        self.verify_at(0)
    }

    fn verify_at(&self, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorCode::LimitExceeded, "subgraphs are nested too deeply")
                .expected(format!("at most {MAX_DEPTH} levels")));
        }
        let mut defined = vec![false; self.values.len()];
        for (index, value) in self.values.iter().enumerate() {
            defined[index] = value.constant.is_some();
        }
        for &id in self.inputs.iter().chain(&self.captures) {
            *defined.get_mut(id.index()).ok_or_else(|| self.out_of_range(id))? = true;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let at_node = |error: Error| {
                error
                    .at_node(self.node_label(NodeId(index as u32)))
                    .at_operator(node.operator.to_string())
            };
            if node
                .epilogue
                .as_ref()
                .is_some_and(|epilogue| epilogue.first_input > node.inputs.len())
            {
                return Err(at_node(Error::internal(
                    "an epilogue's inputs are not among the node's",
                )));
            }
            for id in node.dependencies() {
                match defined.get(id.index()) {
                    Some(true) => {}
                    Some(false) => {
                        let message = "a node uses a value that nothing before it makes";
                        let error = Error::new(ErrorCode::InvalidGraph, message);
                        return Err(at_node(error.at_input(self.value(id).name.clone())));
                    }
                    None => return Err(at_node(self.out_of_range(id))),
                }
            }
            for &id in node.outputs.iter().flatten() {
                let slot = defined
                    .get_mut(id.index())
                    .ok_or_else(|| at_node(self.out_of_range(id)))?;
                if std::mem::replace(slot, true) {
                    let error = Error::new(ErrorCode::InvalidGraph, "a value is made twice");
                    return Err(at_node(error.at_input(self.value(id).name.clone())));
                }
            }
            for (name, subgraph) in node.attributes.subgraphs() {
                if subgraph.captures.len() != subgraph.graph.captures.len() {
                    return Err(at_node(Error::internal(format!(
                        "the captures of subgraph {name} do not pair up"
                    ))));
                }
                subgraph.graph.verify_at(depth + 1).map_err(at_node)?;
            }
        }
        for &id in &self.outputs {
            if !*defined.get(id.index()).ok_or_else(|| self.out_of_range(id))? {
                return Err(
                    Error::new(ErrorCode::InvalidGraph, "nothing makes an output of the graph")
                        .at_input(self.value(id).name.clone()),
                );
            }
        }
        Ok(())
    }

    fn out_of_range(&self, id: ValueId) -> Error {
        Error::internal(format!("value {} of {} does not exist", id.0, self.values.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GraphBuilder, Node, OperatorId, Value};
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn a_use_before_its_source_and_a_double_source_are_errors() {
        let mut builder = GraphBuilder::new(17);
        let x = builder.input("x", DType::F32, vec![]);
        let y = builder.node("Relu", &[x]);
        let z = builder.node("Neg", &[y]);
        let mut graph = builder.output("z", z).finish().unwrap();
        graph.nodes.swap(0, 1);
        let error = graph.verify().unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidGraph);
        assert_eq!(error.place().operator.as_deref(), Some("Neg"));
        graph.sort().unwrap();
        graph.verify().unwrap();
        let again = Node::new(OperatorId::new("", "Abs", 17), vec![Some(x)], vec![Some(y)]);
        graph.nodes.push(again);
        assert!(graph.verify().unwrap_err().message().contains("twice"));
    }

    #[test]
    fn a_cycle_is_an_error_that_names_a_node_on_it() {
        let mut graph = Graph::default();
        let a = graph.add_value(Value {
            name: "a".into(),
            ..Value::default()
        });
        let b = graph.add_value(Value {
            name: "b".into(),
            ..Value::default()
        });
        for (input, output) in [(a, b), (b, a)] {
            graph.nodes.push(Node::new(
                OperatorId::new("", "Relu", 17),
                vec![Some(input)],
                vec![Some(output)],
            ));
        }
        let error = graph.sort().unwrap_err();
        assert!(error.message().contains("cycle"));
        assert!(error.place().node.is_some());
    }
}
