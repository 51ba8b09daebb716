//! Which parts of which external files a model needs, so that they can be fetched before it is imported.

use std::collections::BTreeMap;
use std::ops::Range;

use super::message::Message;
use super::proto::{
    AttributeProto, DATA_LOCATION_EXTERNAL, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use super::skim::LOCATION;
use super::tensor::{ExternalReference, byte_size};
use super::wire::Slice;

/// Unused bytes between two tensors that are read with them, rather than apart.
const GAP: u64 = 64 << 10;

/// Tensors are put together up to this length, so that no allocation is much larger than the largest tensor.
const MAX_JOINED: u64 = 64 << 20;

/// The parts of one external file that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRanges {
    /// The file's name in the model.
    pub location: String,
    /// The parts in ascending order; none overlaps another, and each tensor lies inside one. The end `u64::MAX` stands
    /// for that of the file.
    pub ranges: Vec<Range<u64>>,
}

/// What the ONNX model in `bytes` needs of other files. References that importing the model will refuse are left out,
/// and a file that is no model needs nothing.
pub fn external_ranges(bytes: &[u8]) -> Vec<FileRanges> {
    let Ok(model) = ModelProto::parse(Slice::whole(bytes)) else {
        return Vec::new();
    };
    let mut needs = Needs::default();
    if let Some(graph) = &model.graph {
        needs.graph(graph);
    }
    for function in &model.functions {
        needs.nodes(&function.node);
        needs.attributes(&function.attribute_proto);
    }
    needs
        .files
        .into_iter()
        .map(|(location, file)| file.joined(location))
        .collect()
}

#[derive(Default)]
struct Needs {
    files: BTreeMap<String, File>,
}

#[derive(Default)]
struct File {
    ranges: Vec<Range<u64>>,
    /// Whether a checksum needs all of it.
    whole: bool,
}

impl Needs {
    fn graph(&mut self, graph: &GraphProto<'_>) {
        graph.initializer.iter().for_each(|tensor| self.tensor(tensor));
        graph.sparse_initializer.iter().for_each(|tensor| self.sparse(tensor));
        self.nodes(&graph.node);
    }

    fn nodes(&mut self, nodes: &[NodeProto<'_>]) {
        nodes.iter().for_each(|node| self.attributes(&node.attribute));
    }

    fn attributes(&mut self, attributes: &[AttributeProto<'_>]) {
        for attribute in attributes {
            attribute.t.iter().for_each(|tensor| self.tensor(tensor));
            attribute.tensors.iter().for_each(|tensor| self.tensor(tensor));
            attribute.sparse_tensor.iter().for_each(|tensor| self.sparse(tensor));
            attribute.sparse_tensors.iter().for_each(|tensor| self.sparse(tensor));
            attribute.g.iter().for_each(|graph| self.graph(graph));
            attribute.graphs.iter().for_each(|graph| self.graph(graph));
        }
    }

    fn sparse(&mut self, sparse: &SparseTensorProto<'_>) {
        sparse.values.iter().for_each(|tensor| self.tensor(tensor));
        sparse.indices.iter().for_each(|tensor| self.tensor(tensor));
    }

    fn tensor(&mut self, tensor: &TensorProto<'_>) {
        if tensor.data_location != Some(DATA_LOCATION_EXTERNAL) {
            return;
        }
        let (Ok(reference), Ok(size)) = (ExternalReference::read(tensor), byte_size(tensor)) else {
            return;
        };
        if reference.location == LOCATION {
            return;
        }
        let file = self.files.entry(reference.location).or_default();
        file.whole |= reference.checksum.is_some();
        // A range that no file has is for the importer to refuse.
        if let Some(end) = reference.offset.checked_add(size as u64)
            && size > 0
        {
            file.ranges.push(reference.offset..end);
        }
    }
}

impl File {
    fn joined(mut self, location: String) -> FileRanges {
        self.ranges.sort_by_key(|range| (range.start, range.end));
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for range in self.ranges {
            match ranges.last_mut() {
                Some(last) if range.start < last.end => last.end = last.end.max(range.end),
                Some(last) if range.start - last.end <= GAP && range.end - last.start <= MAX_JOINED => {
                    last.end = range.end;
                }
                _ => ranges.push(range),
            }
        }
        if self.whole {
            // What lies between two parts goes with the first.
            for at in 0..ranges.len() {
                ranges[at].end = ranges.get(at + 1).map_or(u64::MAX, |next| next.start);
            }
            match ranges.first_mut() {
                Some(first) => first.start = 0,
                None => ranges.push(0..u64::MAX),
            }
        }
        FileRanges { location, ranges }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Writer;
    use super::*;

    fn tensor(writer: &mut Writer, field: u32, length: u64, entries: &[(&str, &str)]) {
        writer.message_field(field, |t| {
            t.varint_field(1, length);
            t.varint_field(2, 2);
            t.varint_field(14, 1);
            for (key, value) in entries {
                t.message_field(13, |entry| {
                    entry.bytes_field(1, key.as_bytes());
                    entry.bytes_field(2, value.as_bytes());
                });
            }
        });
    }

    #[test]
    fn tensors_near_each_other_are_read_together_and_others_apart() {
        let mut model = Writer::default();
        model.message_field(7, |graph| {
            for (location, offset, length) in [
                ("a", "8589934592", 10),
                ("a", "0", 4),
                ("a", "4", 4),
                ("a", "5", 2),
                ("b", "67108000", 67108864),
                ("b", "0", 67108000),
                ("b", "100", 0),
                ("../c", "0", 1),
                ("d", "18446744073709551615", 1),
            ] {
                tensor(graph, 5, length, &[("location", location), ("offset", offset)]);
            }
            // In an attribute of a node of a subgraph.
            graph.message_field(1, |node| {
                node.message_field(5, |attribute| {
                    attribute.message_field(6, |graph| {
                        graph.message_field(1, |node| {
                            node.message_field(5, |attribute| tensor(attribute, 5, 3, &[("location", "e")]));
                        });
                    });
                });
            });
            for offset in ["7", "100000"] {
                tensor(
                    graph,
                    5,
                    3,
                    &[("location", "f"), ("offset", offset), ("checksum", "00")],
                );
            }
        });
        let found = external_ranges(&model.into_bytes());
        let found: Vec<_> = found
            .iter()
            .map(|file| (file.location.as_str(), file.ranges.as_slice()))
            .collect();
        assert_eq!(
            found,
            [
                ("a", &[0..8, 8589934592..8589934602][..]),
                ("b", &[0..67108000, 67108000..134216864]),
                ("d", &[]),
                ("e", std::slice::from_ref(&(0..3))),
                ("f", &[0..100000, 100000..u64::MAX]),
            ]
        );
        assert_eq!(external_ranges(b"no model"), []);
    }
}
