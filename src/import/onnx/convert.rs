//! `ModelProto` to [`Graph`]: names become value ids, initialisers and `Constant` nodes become constants, subgraphs
//! say what they take from the graph around them.

use std::rc::Rc;

use super::attributes::invalid;
use super::functions::{FunctionKey, functions_of};
use super::proto::{FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use super::scope::{Found, Frame, Level, Scopes, defined_twice};
use super::tensor::TensorReader;
use super::types::value_type;
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{Attribute, Attributes, Graph, Node, OperatorId, Subgraph, Value, ValueId, ValueType};
use crate::tensor::{
    Dim, Tensor,
    map::{HashMap, HashSet},
};

/// From this version of the format on, an initialiser that is also a graph input is that input's default.
const FIRST_IR_WITH_DEFAULTS: i64 = 4;

/// What nodes are written in when a file imports some operator sets but forgot theirs, as converters do: the latest
/// version, by which ONNX Runtime reads them too.
const LATEST_VERSIONS: [(&str, i64); 2] = [("", 28), ("ai.onnx.ml", 5)];

/// What a value or node takes in memory beside its texts and lists.
const NODE_SIZE: usize = size_of::<Node>() + size_of::<NodeProto<'_>>();

/// The conversion of one model.
pub struct Importer<'p> {
    pub tensors: TensorReader<'p>,
    pub functions: HashMap<FunctionKey<'p>, &'p FunctionProto<'p>>,
    /// The functions whose bodies are being copied, innermost last.
    pub calls: Vec<FunctionKey<'p>>,
    pub opsets: HashMap<&'p str, i64>,
    pub scopes: Scopes<'p>,
    inputs_have_defaults: bool,
}

/// The graph of a model.
pub fn convert<'p>(model: &'p ModelProto<'p>, tensors: TensorReader<'p>) -> Result<Graph> {
    let Some(graph) = &model.graph else {
        return Err(Error::new(ErrorCode::InvalidModel, "the file holds no ONNX graph"));
    };
    let mut importer = Importer {
        tensors,
        functions: functions_of(model)?,
        calls: Vec::new(),
        opsets: opset_versions(&model.opset_import),
        scopes: Scopes::default(),
        inputs_have_defaults: model.ir_version.unwrap_or(0) >= FIRST_IR_WITH_DEFAULTS,
    };
    let level = importer.graph(graph, None)?;
    let mut graph = level.graph;
    if graph.outputs.is_empty() {
        return Err(invalid("the graph has no outputs"));
    }
    let properties = model
        .metadata_props
        .iter()
        .map(|entry| (entry.key.to_string(), entry.value.to_string()));
    graph.metadata = properties.collect();
    Ok(graph)
}

/// ONNX's own domain has two spellings.
pub fn domain_of(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The imported version of each domain. Of several versions of one domain the highest counts, as the format has it for
/// functions.
pub fn opset_versions<'p>(imports: &[OperatorSetIdProto<'p>]) -> HashMap<&'p str, i64> {
    let mut versions = HashMap::new();
    for import in imports {
        let version = versions.entry(domain_of(import.domain)).or_insert(1);
        *version = import.version.unwrap_or(1).max(*version);
    }
    if !versions.is_empty() {
        for (domain, latest) in LATEST_VERSIONS {
            versions.entry(domain).or_insert(latest);
        }
    }
    versions
}

impl<'p> Importer<'p> {
    /// A graph inside a node of `frame`.
    pub fn subgraph(&mut self, proto: &'p GraphProto<'p>, frame: usize) -> Result<Subgraph> {
        let level = self.graph(proto, Some(frame))?;
        Ok(Subgraph {
            graph: level.graph,
            captures: level.captures,
        })
    }

    /// Converts a graph whose names are looked up in `parent` when it does not define them itself.
    fn graph(&mut self, proto: &'p GraphProto<'p>, parent: Option<usize>) -> Result<Level> {
        let outer = parent.map(|frame| &self.scopes.frames[frame]);
        let new = Frame {
            names: HashMap::new(),
            level: self.scopes.levels.len(),
            parent,
            prefix: outer.map_or_else(|| Rc::from(""), |frame| frame.prefix.clone()),
            call: outer.and_then(|frame| frame.call.clone()),
        };
        let frame = self.scopes.open(new)?;
        self.scopes.levels.push(Level::default());
        let result = self.fill(proto, frame);
        self.scopes.frames.truncate(frame);
        let level = self.scopes.levels.pop();
        result?;
        level.ok_or_else(|| Error::internal("a graph was closed twice"))
    }

    fn fill(&mut self, proto: &'p GraphProto<'p>, frame: usize) -> Result<()> {
        self.scopes.level(frame).graph.name = proto.name.to_string();
        self.initializers(proto, frame)?;
        self.inputs(proto, frame)?;
        self.declare_outputs(&proto.node, frame, &mut HashMap::new())?;
        self.declare_types(proto, frame);
        self.nodes(&proto.node, frame)?;
        for output in &proto.output {
            let Some(value) = self.lookup(frame, output.name)? else {
                return Err(invalid("nothing makes an output of the graph").at_input(output.name));
            };
            self.scopes.level(frame).graph.outputs.push(value);
        }
        // Models should list nodes in the order in which they can run, but not all do.
        self.scopes.level(frame).graph.sort()
    }

    fn initializers(&mut self, proto: &'p GraphProto<'p>, frame: usize) -> Result<()> {
        for initializer in &proto.initializer {
            let tensor = self.tensors.tensor(initializer)?;
            self.declare_constant(frame, initializer.name, tensor)?;
        }
        for initializer in &proto.sparse_initializer {
            let name = initializer.values.as_ref().map_or("", |values| values.name);
            let tensor = self.tensors.sparse(initializer)?;
            self.declare_constant(frame, name, tensor)?;
        }
        Ok(())
    }

    fn declare_constant(&mut self, frame: usize, name: &'p str, tensor: Tensor) -> Result<()> {
        if name.is_empty() {
            return Err(invalid("an initialiser has no name"));
        }
        let value = Value {
            name: String::new(),
            ty: type_of(&tensor),
            constant: Some(tensor),
        };
        self.declare(frame, name, value).map(|_| ())
    }

    fn inputs(&mut self, proto: &'p GraphProto<'p>, frame: usize) -> Result<()> {
        let mut seen = HashSet::new();
        for input in &proto.input {
            if input.name.is_empty() {
                return Err(invalid("an input of the graph has no name"));
            }
            if !seen.insert(input.name) {
                return Err(defined_twice(input.name));
            }
            let default = self.scopes.frames[frame].names.get(input.name).copied().flatten();
            if default.is_some() && !self.inputs_have_defaults {
                // In old files every initialiser is listed as an input too; it is not one to be fed.
                continue;
            }
            let ty = declared_type(input)
                .map_err(|error| error.at_input(input.name))?
                .unwrap_or_default();
            let id = match default {
                Some(id) => self.declare_default(id, ty, frame)?,
                None => self.declare(frame, input.name, Value { ty, ..Value::default() })?,
            };
            let level = self.scopes.level(frame);
            level.inputs.insert(id);
            level.graph.inputs.push(id);
        }
        Ok(())
    }

    /// An initialiser turns out to be the default of an input, which may be fed with other shapes.
    fn declare_default(&mut self, id: ValueId, ty: ValueType, frame: usize) -> Result<ValueId> {
        let value = self.scopes.level(frame).graph.value_mut(id);
        let default = value.constant.as_ref().map(Tensor::dtype);
        match (default, ty.dtype()) {
            (Some(found), Some(expected)) if found != expected => {
                return Err(invalid("an input and its default differ in type")
                    .at_input(value.name.clone())
                    .expected(expected.name())
                    .actual(found.name()));
            }
            (_, Some(_)) if ty.shape().is_some() => value.ty = ty,
            _ => {}
        }
        Ok(id)
    }

    /// What the file says of the types of values that nodes make. It is a hint; a type that cannot be expressed is
    /// left for inference to find out.
    fn declare_types(&mut self, proto: &'p GraphProto<'p>, frame: usize) {
        for info in proto.value_info.iter().chain(&proto.output) {
            let id = self.scopes.frames[frame].names.get(info.name).copied().flatten();
            let Some(id) = id else { continue };
            let level = self.scopes.level(frame);
            let value = level.graph.value_mut(id);
            if value.constant.is_none()
                && !level.inputs.contains(&id)
                && let Ok(Some(ty)) = declared_type(info)
            {
                value.ty = ty;
            }
        }
    }

    /// Writes nodes into the frame's graph.
    pub fn nodes(&mut self, nodes: &'p [NodeProto<'p>], frame: usize) -> Result<()> {
        for (index, node) in nodes.iter().enumerate() {
            self.node(node, index, frame).map_err(|error| {
                let operator = OperatorId::new(node.domain, node.op_type, 0);
                error
                    .at_node(self.label(node, index, frame))
                    .at_operator(operator.to_string())
            })?;
        }
        Ok(())
    }

    fn node(&mut self, proto: &'p NodeProto<'p>, index: usize, frame: usize) -> Result<()> {
        let names = proto
            .input
            .iter()
            .chain(&proto.output)
            .chain([&proto.name, &proto.op_type, &proto.domain]);
        // What a node costs in time is in proportion to this too, so that copies of functions are bounded by it.
        let texts: usize = names.map(|name| name.len() + size_of::<ValueId>()).sum();
        self.tensors.charge(NODE_SIZE + texts + proto.overload.len())?;
        if proto.op_type.is_empty() {
            return Err(invalid("a node has no operator type"));
        }
        let inputs = self.values(&proto.input, frame)?;
        let outputs = self.values(&proto.output, frame)?;
        if let Some(function) = self.called(proto) {
            let label = self.label(proto, index, frame);
            return self.inline(proto, &label, function, (&inputs, &outputs), frame);
        }
        if !proto.overload.is_empty() {
            return Err(invalid(format!(
                "the model does not define the overload {} of the function",
                proto.overload
            )));
        }
        let attributes = self.attributes(proto, frame)?;
        let domain = domain_of(proto.domain);
        if domain.is_empty() && proto.op_type == "Constant" {
            return self.constant(&attributes, &inputs, &outputs, frame);
        }
        let version = proto.since_version.unwrap_or_else(|| self.version(domain, frame));
        let operator = OperatorId::new(domain, proto.op_type, version);
        let name = match proto.name {
            "" => String::new(),
            name => {
                self.tensors.charge(self.scopes.frames[frame].prefix.len())?;
                format!("{}{name}", self.scopes.frames[frame].prefix)
            }
        };
        let node = Node {
            name,
            attributes,
            ..Node::new(operator, inputs, outputs)
        };
        self.scopes.level(frame).graph.nodes.push(node);
        Ok(())
    }

    /// A `Constant` node: its output becomes a constant of the graph.
    fn constant(
        &mut self,
        attributes: &Attributes,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
        frame: usize,
    ) -> Result<()> {
        let mut given = attributes.iter();
        let (Some((name, attribute)), None, [], [output]) = (given.next(), given.next(), inputs, outputs) else {
            return Err(invalid("a Constant needs exactly one attribute and one output"));
        };
        let tensor = constant_tensor(name, attribute)?;
        if let Some(id) = *output {
            let value = self.scopes.level(frame).graph.value_mut(id);
            value.ty = type_of(&tensor);
            value.constant = Some(tensor);
        }
        Ok(())
    }

    /// What a list of names means, with `None` for those left out, and without trailing ones.
    fn values(&mut self, names: &[&'p str], frame: usize) -> Result<Vec<Option<ValueId>>> {
        let mut values = names
            .iter()
            .map(|name| self.lookup(frame, name))
            .collect::<Result<Vec<_>>>()?;
        let used = values.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        values.truncate(used);
        Ok(values)
    }

    /// What a name means; `None` when it is empty or stands for something left out.
    pub fn lookup(&mut self, frame: usize, name: &str) -> Result<Option<ValueId>> {
        if name.is_empty() {
            return Ok(None);
        }
        match self.scopes.find(frame, name, |size| self.tensors.charge(size))? {
            Found::Value(id) => Ok(Some(id)),
            Found::LeftOut => Ok(None),
            Found::Unknown => {
                Err(invalid(format!("nothing in the graph makes the value {name}")).at_input(name.to_string()))
            }
        }
    }

    /// Declares a value, within what the file may take.
    pub fn declare(&mut self, frame: usize, name: &'p str, value: Value) -> Result<ValueId> {
        self.tensors
            .charge(size_of::<Value>() + name.len() + self.scopes.frames[frame].prefix.len())?;
        self.scopes.declare(frame, name, value)
    }

    /// The version of `domain` that nodes of `frame` are written in; 1 where the file does not say.
    pub fn version(&self, domain: &str, frame: usize) -> i64 {
        let call = self.scopes.frames[frame].call.as_deref();
        let opsets = call.map_or(&self.opsets, |call| &call.opsets);
        opsets.get(domain).copied().unwrap_or(1)
    }

    /// What to call a node in messages and in the names of what is copied for it.
    pub fn label(&self, node: &NodeProto<'_>, index: usize, frame: usize) -> String {
        let prefix = &self.scopes.frames[frame].prefix;
        match node.name {
            "" => format!("{prefix}{}#{index}", node.op_type),
            name => format!("{prefix}{name}"),
        }
    }
}

fn declared_type(info: &ValueInfoProto<'_>) -> Result<Option<ValueType>> {
    info.r#type.as_ref().map(|ty| value_type(ty, info.name)).transpose()
}

fn type_of(tensor: &Tensor) -> ValueType {
    ValueType::tensor(
        tensor.dtype(),
        tensor.shape().iter().map(|&size| Dim::from(size)).collect(),
    )
}

/// The tensor of a `Constant` node's one attribute.
fn constant_tensor(name: &str, attribute: &Attribute) -> Result<Tensor> {
    let text = |bytes: &Vec<u8>| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_string()),
        Err(_) => Err(invalid(format!("attribute {name} is not UTF-8 text"))),
    };
    match (name, attribute) {
        ("value" | "sparse_value", Attribute::Tensor(tensor)) => Ok(tensor.clone()),
        ("value_float", Attribute::Float(value)) => Ok(Tensor::scalar(*value)),
        ("value_int", Attribute::Int(value)) => Ok(Tensor::scalar(*value)),
        ("value_string", Attribute::String(value)) => Tensor::from_strings(&[], vec![text(value)?]),
        ("value_floats", Attribute::Floats(values)) => Tensor::new(&[values.len()], values.clone()),
        ("value_ints", Attribute::Ints(values)) => Tensor::new(&[values.len()], values.clone()),
        ("value_strings", Attribute::Strings(values)) => {
            Tensor::from_strings(&[values.len()], values.iter().map(text).collect::<Result<_>>()?)
        }
        (_, other) => Err(invalid(format!(
            "a Constant cannot have the {} attribute {name}",
            other.type_name()
        ))),
    }
}
