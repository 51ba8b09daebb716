//! Attributes of nodes: `AttributeProto` to [`Attribute`], with references to a function's attributes resolved.

use super::convert::Importer;
use super::message::{Numbers, Scalar};
use super::proto::{AttributeProto, NodeProto, attribute_type as kind};
use super::scope::Binding;
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{Attribute, Attributes, Subgraph};

/// What an entry of a map of attributes takes beyond its value.
const ENTRY_SIZE: usize = 64;

impl<'p> Importer<'p> {
    /// The attributes of a node of `frame`. One that refers to a function's attribute that the call does not give is
    /// left out, as if the node did not have it.
    pub fn attributes(&mut self, node: &'p NodeProto<'p>, frame: usize) -> Result<Attributes> {
        let mut attributes = Attributes::default();
        for proto in &node.attribute {
            if proto.name.is_empty() {
                return Err(invalid("an attribute has no name"));
            }
            if attributes.get(proto.name).is_some() {
                return Err(invalid(format!("attribute {} is given twice", proto.name)));
            }
            self.tensors.charge(ENTRY_SIZE + proto.name.len())?;
            let Some(binding) = self.resolve(proto, frame)? else {
                continue;
            };
            attributes.set(proto.name, self.attribute(binding)?);
        }
        Ok(attributes)
    }

    /// Follows references from a function's body to the attributes of its call, to where the value stands.
    pub fn resolve(&self, proto: &'p AttributeProto<'p>, frame: usize) -> Result<Option<Binding<'p>>> {
        let mut binding = Binding {
            attribute: proto,
            frame,
        };
        // Each step leads to the caller's frame or to a default, which is a value; so this ends.
        while !binding.attribute.ref_attr_name.is_empty() {
            let Some(call) = &self.scopes.frames[binding.frame].call else {
                return Err(invalid(format!(
                    "attribute {} refers to a function's attribute outside of a function",
                    proto.name
                )));
            };
            match call.attributes.get(binding.attribute.ref_attr_name) {
                Some(found) => binding = *found,
                None => return Ok(None),
            }
        }
        let (declared, found) = (proto.r#type.unwrap_or(kind::UNDEFINED), type_of(binding.attribute));
        if declared != kind::UNDEFINED && found != Some(declared) {
            return Err(invalid(format!(
                "attribute {} has another type than the function's",
                proto.name
            )));
        }
        Ok(Some(binding))
    }

    fn attribute(
        &mut self,
        Binding {
            attribute: proto,
            frame,
        }: Binding<'p>,
    ) -> Result<Attribute> {
        let Some(kind) = type_of(proto) else {
            return Err(invalid(format!(
                "attribute {} has neither a type nor a value",
                proto.name
            )));
        };
        let missing = || invalid(format!("attribute {} has no value", proto.name));
        // Some writers leave out a zero and an empty string; the type then says which is meant.
        Ok(match kind {
            kind::FLOAT => Attribute::Float(proto.f.unwrap_or_default()),
            kind::INT => Attribute::Int(proto.i.unwrap_or_default()),
            kind::STRING => Attribute::String(self.text(proto.s.unwrap_or_default().data)?),
            kind::TENSOR => Attribute::Tensor(self.tensors.tensor(proto.t.as_ref().ok_or_else(missing)?)?),
            kind::GRAPH => Attribute::Graph(Box::new(self.subgraph(proto.g.as_ref().ok_or_else(missing)?, frame)?)),
            kind::TYPE_PROTO => Attribute::Type(super::types::value_type(
                proto.tp.as_ref().ok_or_else(missing)?,
                proto.name,
            )?),
            kind::SPARSE_TENSOR => {
                Attribute::Tensor(self.tensors.sparse(proto.sparse_tensor.as_ref().ok_or_else(missing)?)?)
            }
            kind::FLOATS => Attribute::Floats(self.numbers(&proto.floats)?),
            kind::INTS => Attribute::Ints(self.numbers(&proto.ints)?),
            kind::STRINGS => Attribute::Strings(
                proto
                    .strings
                    .iter()
                    .map(|text| self.text(text.data))
                    .collect::<Result<_>>()?,
            ),
            kind::TENSORS => Attribute::Tensors(
                proto
                    .tensors
                    .iter()
                    .map(|tensor| self.tensors.tensor(tensor))
                    .collect::<Result<_>>()?,
            ),
            kind::GRAPHS => Attribute::Graphs(
                proto
                    .graphs
                    .iter()
                    .map(|graph| self.subgraph(graph, frame))
                    .collect::<Result<Vec<Subgraph>>>()?,
            ),
            kind::TYPE_PROTOS => Attribute::Types(
                proto
                    .type_protos
                    .iter()
                    .map(|ty| super::types::value_type(ty, proto.name))
                    .collect::<Result<_>>()?,
            ),
            kind::SPARSE_TENSORS => {
                let tensors = proto.sparse_tensors.iter().map(|tensor| self.tensors.sparse(tensor));
                Attribute::Tensors(tensors.collect::<Result<_>>()?)
            }
            other => {
                return Err(invalid(format!(
                    "attribute {} has the unknown type {other}",
                    proto.name
                )));
            }
        })
    }

    fn text(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.tensors.charge(bytes.len() + size_of::<Vec<u8>>())?;
        Ok(bytes.to_vec())
    }

    fn numbers<T: Scalar>(&self, numbers: &Numbers<'_, T>) -> Result<Vec<T>> {
        self.tensors.charge(numbers.len() * size_of::<T>())?;
        Ok(numbers.to_vec()?)
    }
}

/// The type that the attribute says it has or, in files older than that field, the one whose value is there.
fn type_of(proto: &AttributeProto<'_>) -> Option<i32> {
    let present = [
        (proto.f.is_some(), kind::FLOAT),
        (proto.i.is_some(), kind::INT),
        (proto.s.is_some(), kind::STRING),
        (proto.t.is_some(), kind::TENSOR),
        (proto.g.is_some(), kind::GRAPH),
        (proto.tp.is_some(), kind::TYPE_PROTO),
        (proto.sparse_tensor.is_some(), kind::SPARSE_TENSOR),
        (!proto.floats.is_empty(), kind::FLOATS),
        (!proto.ints.is_empty(), kind::INTS),
        (!proto.strings.is_empty(), kind::STRINGS),
        (!proto.tensors.is_empty(), kind::TENSORS),
        (!proto.graphs.is_empty(), kind::GRAPHS),
        (!proto.type_protos.is_empty(), kind::TYPE_PROTOS),
        (!proto.sparse_tensors.is_empty(), kind::SPARSE_TENSORS),
    ];
    match proto.r#type {
        Some(kind::UNDEFINED) | None => present
            .iter()
            .find(|(is_present, _)| *is_present)
            .map(|(_, kind)| *kind),
        given => given,
    }
}

pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidGraph, message)
}
