//! Graphs as text: one line a node, types behind the values, subgraphs indented.

use std::fmt;

use super::{Attribute, Graph, Node, ValueId};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_graph(self, f, 0)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({:?}, {} nodes)", self.name, self.nodes.len())
    }
}

fn write_graph(graph: &Graph, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
    let pad = "  ".repeat(depth);
    let list = |ids: &[ValueId]| {
        let texts: Vec<String> = ids.iter().map(|&id| typed(graph, id)).collect();
        texts.join(", ")
    };
    let name = if graph.name.is_empty() { "graph" } else { &graph.name };
    write!(f, "{pad}{name}({})", list(&graph.inputs))?;
    if !graph.captures.is_empty() {
        write!(f, " captures ({})", list(&graph.captures))?;
    }
    writeln!(f, " {{")?;
    let constants = graph.values.iter().filter_map(|value| value.constant.as_ref());
    let (count, bytes) = constants.fold((0, 0), |(count, bytes), tensor| (count + 1, bytes + tensor.byte_len()));
    if count > 0 {
        writeln!(f, "{pad}  // {count} constants, {bytes} bytes")?;
    }
    for node in &graph.nodes {
        write_node(graph, node, f, depth + 1)?;
    }
    writeln!(f, "{pad}  return {}", list(&graph.outputs))?;
    writeln!(f, "{pad}}}")
}

fn write_node(graph: &Graph, node: &Node, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
    let pad = "  ".repeat(depth);
    let outputs: Vec<String> = node
        .outputs
        .iter()
        .map(|id| id.map_or_else(|| "_".into(), |id| typed(graph, id)))
        .collect();
    let inputs: Vec<String> = node
        .inputs
        .iter()
        .map(|id| {
            id.map_or_else(
                || "_".into(),
                |id| match graph.constant(id) {
                    Some(tensor) if tensor.len() <= 8 => format!("{tensor:?}"),
                    Some(_) => typed(graph, id),
                    None => named(graph, id),
                },
            )
        })
        .collect();
    write!(
        f,
        "{pad}{} = {}({})",
        outputs.join(", "),
        node.operator,
        inputs.join(", ")
    )?;
    let plain: Vec<String> = node
        .attributes
        .iter()
        .filter_map(|(name, attribute)| {
            Some(match attribute {
                Attribute::Float(value) => format!("{name}={value}"),
                Attribute::Int(value) => format!("{name}={value}"),
                Attribute::String(value) => format!("{name}={:?}", String::from_utf8_lossy(value)),
                Attribute::Tensor(value) => format!("{name}={value:?}"),
                Attribute::Floats(value) => format!("{name}={value:?}"),
                Attribute::Ints(value) => format!("{name}={value:?}"),
                Attribute::Strings(value) => format!("{name}=[{} strings]", value.len()),
                Attribute::Expr(value) => format!("{name}={value}"),
                Attribute::Type(value) => format!("{name}={value}"),
                Attribute::Tensors(value) => format!("{name}=[{} tensors]", value.len()),
                Attribute::Types(value) => format!("{name}=[{} types]", value.len()),
                Attribute::Graph(_) | Attribute::Graphs(_) => return None,
            })
        })
        .collect();
    if !plain.is_empty() {
        write!(f, " {{{}}}", plain.join(", "))?;
    }
    if let Some(epilogue) = &node.epilogue {
        write!(f, " then {}", epilogue.expr)?;
    }
    if !node.name.is_empty() {
        write!(f, "  // {}", node.name)?;
    }
    writeln!(f)?;
    for (name, subgraph) in node.attributes.subgraphs() {
        let captures: Vec<String> = subgraph.captures.iter().map(|&id| named(graph, id)).collect();
        writeln!(f, "{pad}  {name} with ({}):", captures.join(", "))?;
        write_graph(&subgraph.graph, f, depth + 2)?;
    }
    Ok(())
}

fn named(graph: &Graph, id: ValueId) -> String {
    match graph.values.get(id.index()) {
        Some(value) if !value.name.is_empty() => format!("%{}", value.name),
        _ => format!("%{}", id.0),
    }
}

fn typed(graph: &Graph, id: ValueId) -> String {
    match graph.values.get(id.index()) {
        Some(value) => format!("{}: {}", named(graph, id), value.ty),
        None => named(graph, id),
    }
}
