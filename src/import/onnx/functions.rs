//! Model-local functions: each call is replaced by a copy of the function's body in the caller's graph.

use crate::tensor::map::HashMap;
use std::rc::Rc;

use super::attributes::invalid;
use super::convert::{Importer, domain_of, opset_versions};
use super::proto::{FunctionProto, ModelProto, NodeProto};
use super::scope::{Binding, Call, Frame};
use crate::error::Result;
use crate::graph::{Node, OperatorId, Value, ValueId};

/// Domain, name and overload: what a call names a function by.
pub type FunctionKey<'p> = (&'p str, &'p str, &'p str);

/// The functions of a model, by the key that calls use.
pub fn functions_of<'p>(model: &'p ModelProto<'p>) -> Result<HashMap<FunctionKey<'p>, &'p FunctionProto<'p>>> {
    let mut functions = HashMap::new();
    for function in &model.functions {
        let key = (domain_of(function.domain), function.name, function.overload);
        if functions.insert(key, function).is_some() {
            return Err(invalid(format!("the function {} is defined twice", display(key))));
        }
    }
    Ok(functions)
}

impl<'p> Importer<'p> {
    /// The function that a node calls, when it is a call. A model's functions come before operators of the same name.
    pub fn called(&self, node: &NodeProto<'p>) -> Option<(FunctionKey<'p>, &'p FunctionProto<'p>)> {
        let key = (domain_of(node.domain), node.op_type, node.overload);
        self.functions.get(&key).map(|&function| (key, function))
    }

    /// Writes a copy of the function that `node` calls in place of it.
    pub fn inline(
        &mut self,
        node: &'p NodeProto<'p>,
        label: &str,
        (key, function): (FunctionKey<'p>, &'p FunctionProto<'p>),
        (inputs, outputs): (&[Option<ValueId>], &[Option<ValueId>]),
        frame: usize,
    ) -> Result<()> {
        if self.calls.contains(&key) {
            return Err(invalid(format!("the function {} calls itself", display(key))));
        }
        if inputs.len() > function.input.len() || outputs.len() > function.output.len() {
            let shape = |inputs: usize, outputs: usize| format!("{inputs} inputs, {outputs} outputs");
            return Err(
                invalid(format!("a call of {} has too many inputs or outputs", display(key)))
                    .expected(format!(
                        "at most {}",
                        shape(function.input.len(), function.output.len())
                    ))
                    .actual(shape(inputs.len(), outputs.len())),
            );
        }
        let body = self.open_body(node, label, function, frame)?;
        self.calls.push(key);
        let result = self.body(function, inputs, outputs, body);
        self.calls.pop();
        self.scopes.frames.truncate(body);
        result
    }

    fn open_body(
        &mut self,
        node: &'p NodeProto<'p>,
        label: &str,
        function: &'p FunctionProto<'p>,
        frame: usize,
    ) -> Result<usize> {
        let body = self.scopes.frames.len();
        let mut attributes = HashMap::new();
        for default in &function.attribute_proto {
            if !default.ref_attr_name.is_empty() {
                return Err(invalid(format!(
                    "the default of attribute {} is a reference",
                    default.name
                )));
            }
            attributes.insert(
                default.name,
                Binding {
                    attribute: default,
                    frame: body,
                },
            );
        }
        for attribute in &node.attribute {
            // A reference to an attribute that the caller was not given leaves the default in place.
            if let Some(binding) = self.resolve(attribute, frame)? {
                attributes.insert(attribute.name, binding);
            }
        }
        let mut opsets = opset_versions(&function.opset_import);
        for (&domain, &version) in self.opsets.iter() {
            opsets.entry(domain).or_insert(version);
        }
        let prefix: Rc<str> = format!("{label}/").into();
        self.tensors
            .charge(prefix.len() + size_of::<Call<'_>>() + 64 * (attributes.len() + opsets.len()))?;
        let level = self.scopes.frames[frame].level;
        let call = Some(Rc::new(Call { opsets, attributes }));
        self.scopes.open(Frame {
            names: HashMap::new(),
            level,
            parent: None,
            prefix,
            call,
        })
    }

    fn body(
        &mut self,
        function: &'p FunctionProto<'p>,
        inputs: &[Option<ValueId>],
        outputs: &[Option<ValueId>],
        body: usize,
    ) -> Result<()> {
        for (index, &formal) in function.input.iter().enumerate() {
            self.tensors.charge(formal.len() + size_of::<&str>())?;
            let actual = inputs.get(index).copied().flatten();
            if formal.is_empty() || self.scopes.frames[body].names.insert(formal, actual).is_some() {
                return Err(invalid(format!(
                    "the function {} has an input without a name of its own",
                    function.name
                )));
            }
        }
        // A result that the body makes is written straight into the caller's value; one that is an input of the
        // function, or a second name for a result, is copied there.
        let mut direct: HashMap<&'p str, ValueId> = HashMap::new();
        let mut copied = Vec::new();
        for (&formal, &actual) in function.output.iter().zip(outputs) {
            let Some(actual) = actual else { continue };
            self.tensors.charge(formal.len() + size_of::<&str>())?;
            if self.scopes.frames[body].names.contains_key(formal) || direct.contains_key(formal) {
                copied.push((formal, actual));
            } else {
                direct.insert(formal, actual);
            }
        }
        self.declare_outputs(&function.node, body, &mut direct)?;
        if let Some(formal) = direct.keys().next() {
            let message = format!("the function {} does not make its output {formal}", function.name);
            return Err(invalid(message).at_input(*formal));
        }
        self.nodes(&function.node, body)?;
        for (formal, actual) in copied {
            self.copy(formal, actual, body)?;
        }
        Ok(())
    }

    /// An `Identity` from what `name` means in `frame` to the value `target`.
    fn copy(&mut self, name: &'p str, target: ValueId, frame: usize) -> Result<()> {
        let Some(source) = self.lookup(frame, name)? else {
            return Err(invalid("a function returns an input that its caller left out").at_input(name));
        };
        let version = self.version("", frame);
        let mut node = Node::new(
            OperatorId::new("", "Identity", version),
            vec![Some(source)],
            vec![Some(target)],
        );
        node.name = format!("{}{name}", self.scopes.frames[frame].prefix);
        self.tensors.charge(size_of::<Node>() + node.name.len())?;
        self.scopes.level(frame).graph.nodes.push(node);
        Ok(())
    }

    /// Gives names to the outputs of `nodes`. Those in `direct` are values that exist already; what is left there
    /// afterwards no node makes.
    pub fn declare_outputs(
        &mut self,
        nodes: &'p [NodeProto<'p>],
        frame: usize,
        direct: &mut HashMap<&'p str, ValueId>,
    ) -> Result<()> {
        for (index, node) in nodes.iter().enumerate() {
            for &name in node.output.iter().filter(|name| !name.is_empty()) {
                let declared = match direct.remove(name) {
                    Some(value) => {
                        self.scopes.frames[frame].names.insert(name, Some(value));
                        Ok(())
                    }
                    None => self.declare(frame, name, Value::default()).map(|_| ()),
                };
                declared.map_err(|error| error.at_node(self.label(node, index, frame)).at_operator(node.op_type))?;
            }
        }
        Ok(())
    }
}

fn display((domain, name, overload): FunctionKey<'_>) -> String {
    let dot = if domain.is_empty() { "" } else { "." };
    let colon = if overload.is_empty() { "" } else { ":" };
    format!("{domain}{dot}{name}{colon}{overload}")
}
