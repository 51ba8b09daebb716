//! Takes large tensors out of an ONNX file while it arrives, so that they need not pass through the memory of whoever
//! reads it. What is left is the same model with those tensors as external data, in a file that does not exist:
//! [`LOCATION`], whose offsets are those of the file that came.
//!
//! Only the fields on the way to a tensor's raw data are looked at. Whatever is not understood is kept as it is, for the
//! importer to judge.

use super::proto::DATA_LOCATION_EXTERNAL;
use super::wire::Writer;

/// The name of the external file that stands for the file that came.
pub const LOCATION: &str = "\u{1}the model itself";

/// Raw data of these lengths is taken out; no message can be longer.
const LARGE: std::ops::RangeInclusive<u64> = 64 << 10..=i32::MAX as u64;

/// Messages inside each other on the way to a tensor.
const MAX_DEPTH: usize = 100;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Tensor,
}

impl Kind {
    /// The message in this field, when tensors may be inside.
    fn inner(self, field: u64) -> Option<Kind> {
        Some(match (self, field) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Graph, 5) => Kind::Tensor,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
            (Kind::Attribute, 5 | 10) => Kind::Tensor,
            (Kind::Attribute, 6 | 11) => Kind::Graph,
            _ => return None,
        })
    }
}

/// A message under way.
struct Frame {
    kind: Kind,
    /// Where it ends in the file that came.
    end: u64,
    /// Where in what is kept its length stands, and how many bytes that takes.
    length: (usize, usize),
    /// How many bytes of it are not kept.
    lost: u64,
}

/// Raw data that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where it began in the file that came.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// A model on its way.
#[derive(Default)]
pub struct Skim {
    kept: Vec<u8>,
    /// How much of what is kept was looked at, and where in the file that came the rest stands.
    parsed: usize,
    position: u64,
    /// Bytes to keep without a look.
    passing: u64,
    /// What is being taken out, and how much of it is to come.
    cut: Option<(Cut, u64)>,
    frames: Vec<Frame>,
    /// Whether everything that follows is kept.
    opaque: bool,
}

impl Skim {
    /// The raw data that the next bytes belong to, when they are to be taken out and told to [`Skim::skip`], and how many
    /// they are. All others are for [`Skim::feed`].
    pub fn cut(&self) -> Option<(Cut, u64)> {
        self.cut
    }

    /// How many bytes [`Skim::feed`] would best be given at a time.
    pub fn wanted(&self) -> usize {
        match self.opaque {
            true => usize::MAX,
            false => usize::try_from(self.passing).unwrap_or(usize::MAX).max(1 << 12),
        }
    }

    /// What is kept so far.
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Takes the next bytes and keeps them, up to where raw data begins that is to be taken out; how many it took.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let before = self.kept.len();
        self.kept.extend_from_slice(bytes);
        loop {
            self.close();
            let rest = &self.kept[self.parsed..];
            let passed = match self.opaque {
                true => rest.len(),
                false => rest.len().min(usize::try_from(self.passing).unwrap_or(usize::MAX)),
            };
            if passed > 0 {
                self.passing = self.passing.saturating_sub(passed as u64);
                self.parsed += passed;
                self.position += passed as u64;
                continue;
            }
            match self.field() {
                Some(Next::Raw { header, length }) => {
                    let taken = self.parsed + header - before;
                    self.take_out(header, length);
                    return taken;
                }
                Some(Next::Other) => {}
                None => return bytes.len(),
            }
        }
    }

    /// Says that the next `count` bytes were taken out.
    pub fn skip(&mut self, count: u64) {
        if let Some((_, left)) = &mut self.cut {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.cut = None;
            }
        }
    }

    /// The model with what was taken out as external data; `None` when the file ended inside that.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.close();
        self.cut.is_none().then_some(self.kept)
    }

    /// Looks at the next field; `None` until more of it is there.
    fn field(&mut self) -> Option<Next> {
        let rest = &self.kept[self.parsed..];
        if rest.is_empty() || self.opaque {
            return None;
        }
        if self.position == 0 && self.frames.is_empty() {
            // Files in ONNX Runtime's own format are no protobuf messages.
            if rest.get(4..8)? == b"ORTM" {
                self.opaque = true;
                return Some(Next::Other);
            }
            let (end, length) = (u64::MAX, (0, 0));
            let kind = Kind::Model;
            self.frames.push(Frame {
                kind,
                end,
                length,
                lost: 0,
            });
        }
        let (kind, end) = self.frames.last().map(|frame| (frame.kind, frame.end))?;
        let mut header = 0;
        let next = match varint(rest, &mut header)? {
            Ok(tag) => match tag & 7 {
                0 => varint(rest, &mut header)?.map(|_| (tag, 0)),
                1 => Ok((tag, 8)),
                5 => Ok((tag, 4)),
                2 => {
                    let at = header;
                    varint(rest, &mut header)?.map(|length| {
                        let field = tag >> 3;
                        if let Some(kind) = kind.inner(field).filter(|_| self.frames.len() < MAX_DEPTH) {
                            self.frames.push(Frame {
                                kind,
                                end: self.position.saturating_add(header as u64).saturating_add(length),
                                length: (self.parsed + at, header - at),
                                lost: 0,
                            });
                            return (tag, 0);
                        }
                        (tag, length)
                    })
                }
                _ => Err(()),
            },
            Err(()) => Err(()),
        };
        let fits = |length: u64| self.position.checked_add(header as u64)?.checked_add(length);
        match next {
            Ok((tag, length)) if fits(length).is_some_and(|own| own <= end) => {
                if kind == Kind::Tensor && tag == 9 << 3 | 2 && LARGE.contains(&length) {
                    return Some(Next::Raw { header, length });
                }
                self.passing = header as u64 + length;
            }
            _ => self.opaque = true,
        }
        Some(Next::Other)
    }

    /// Puts a reference in the place of the raw data whose field has `header` bytes before it.
    fn take_out(&mut self, header: usize, length: u64) {
        let offset = self.position + header as u64;
        let mut reference = Writer::default();
        let place = [("location", LOCATION.to_string()), ("offset", offset.to_string())];
        for (key, value) in place.iter().chain(&[("length", length.to_string())]) {
            reference.message_field(13, |entry| {
                entry.bytes_field(1, key.as_bytes());
                entry.bytes_field(2, value.as_bytes());
            });
        }
        reference.varint_field(14, DATA_LOCATION_EXTERNAL as u64);
        let reference = reference.into_bytes();
        if let Some(frame) = self.frames.last_mut() {
            frame.lost += header as u64 + length - reference.len() as u64;
        }
        self.kept.truncate(self.parsed);
        self.kept.extend_from_slice(&reference);
        self.parsed = self.kept.len();
        self.position = offset + length;
        self.cut = Some((Cut { offset, length }, length));
    }

    /// Ends the messages that end here. Their lengths are written anew, in as many bytes as before.
    fn close(&mut self) {
        while let Some(frame) = self
            .frames
            .pop_if(|frame| frame.end == self.position && self.passing == 0)
        {
            if frame.lost == 0 {
                continue;
            }
            let (at, width) = frame.length;
            let mut old = 0;
            if let Some(Ok(length)) = varint(&self.kept[at..], &mut old) {
                let length = length.saturating_sub(frame.lost);
                for index in 0..width {
                    let more = if index + 1 < width { 0x80 } else { 0 };
                    self.kept[at + index] = (length >> (7 * index)) as u8 & 0x7f | more;
                }
            }
            if let Some(outer) = self.frames.last_mut() {
                outer.lost += frame.lost;
            }
        }
    }
}

enum Next {
    /// Raw data to take out, after so many bytes of its field.
    Raw {
        header: usize,
        length: u64,
    },
    Other,
}

/// The varint at `at`, which moves behind it; `None` while it goes on, an error when that is too long.
fn varint(bytes: &[u8], at: &mut usize) -> Option<Result<u64, ()>> {
    let mut value = 0u64;
    for index in 0..10 {
        let byte = *bytes.get(*at + index)?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *at += index + 1;
            return Some(Ok(value));
        }
    }
    Some(Err(()))
}

#[cfg(test)]
mod tests {
    use super::super::{Segments, external_ranges, import};
    use super::*;
    use crate::import::onnx::NoExternalData;
    use crate::tensor::{Bytes, map::HashMap};

    /// A file that arrives in pieces of these lengths in turn: what is kept, and what was taken out.
    fn arrive(file: &[u8], lengths: &[usize]) -> Option<(Vec<u8>, Segments)> {
        let mut skim = Skim::default();
        let mut out = Segments::new(file.len() as u64);
        let mut at = 0;
        for &length in lengths.iter().cycle() {
            let mut piece = &file[at..file.len().min(at + length)];
            at += piece.len();
            while !piece.is_empty() {
                let taken = match skim.cut() {
                    Some((cut, left)) => {
                        let taken = piece.len().min(left as usize);
                        if left == cut.length {
                            let bytes = file.get(cut.offset as usize..(cut.offset + cut.length) as usize);
                            out.insert(cut.offset, bytes.unwrap_or_default().into());
                        }
                        skim.skip(taken as u64);
                        taken
                    }
                    None => skim.feed(&piece[..piece.len().min(skim.wanted())]),
                };
                piece = &piece[taken..];
            }
            if at == file.len() {
                break;
            }
        }
        skim.finish().map(|kept| (kept, out))
    }

    fn tensor(writer: &mut Writer, field: u32, name: &str, count: usize) {
        writer.message_field(field, |tensor| {
            tensor.varint_field(1, count as u64);
            tensor.varint_field(2, 1);
            let raw: Vec<u8> = (0..count * 4).map(|index| (index * 7 + name.len()) as u8).collect();
            tensor.bytes_field(9, &raw);
            tensor.bytes_field(8, name.as_bytes());
        });
    }

    /// Initialisers of several sizes, and a tensor in an attribute of a node.
    fn model() -> Vec<u8> {
        let mut model = Writer::default();
        model.varint_field(1, 8);
        model.message_field(7, |graph| {
            tensor(graph, 5, "large", 40_000);
            graph.message_field(1, |node| {
                node.bytes_field(2, b"y");
                node.bytes_field(4, b"Constant");
                node.message_field(5, |attribute| {
                    attribute.bytes_field(1, b"value");
                    tensor(attribute, 5, "inside", 17_000);
                    attribute.varint_field(20, 4);
                });
            });
            tensor(graph, 5, "small", 3);
            tensor(graph, 5, "last", 20_000);
            graph.bytes_field(2, b"graph");
            graph.message_field(12, |output| output.bytes_field(1, b"y"));
        });
        model.message_field(8, |opset| opset.varint_field(2, 13));
        model.into_bytes()
    }

    #[test]
    fn a_model_that_arrives_in_pieces_is_the_same_without_its_large_tensors_in_it() {
        let file = model();
        let whole = import(file.clone(), &NoExternalData).unwrap();
        for lengths in [
            &[usize::MAX][..],
            &[1],
            &[7, 1000, 3],
            &[4096],
            &[65_536, 1],
            &[100_000],
        ] {
            let (kept, out) = arrive(&file, lengths).unwrap();
            assert!(kept.len() < 1000, "{} bytes are kept", kept.len());
            assert_eq!(external_ranges(&kept), []);
            let files: HashMap<String, Segments> = [(LOCATION.to_string(), out)].into_iter().collect();
            let graph = import(kept, &files).unwrap();
            let constants = |graph: &crate::graph::Graph| -> Vec<_> {
                let values = graph.values.iter();
                values
                    .filter_map(|value| Some((value.name.clone(), value.constant.clone()?)))
                    .collect()
            };
            assert_eq!(constants(&whole).len(), 4);
            assert_eq!(constants(&graph), constants(&whole), "{lengths:?}");
        }
    }

    #[test]
    fn a_file_that_ends_early_or_is_no_model_is_what_it_was() {
        let file = model();
        for length in [0, 1, 7, 8, 9, 30, 200_000, file.len() - 1] {
            let cut = &file[..length];
            let Some((kept, out)) = arrive(cut, &[1000]) else {
                assert!(length >= 30, "{length}");
                continue;
            };
            let files: HashMap<String, Segments> = [(LOCATION.to_string(), out)].into_iter().collect();
            let (error, expected) = (import(kept, &files), import(cut.to_vec(), &NoExternalData));
            assert_eq!(error.unwrap_err().code(), expected.unwrap_err().code(), "{length}");
        }
        let mut other = file.clone();
        other[4..8].copy_from_slice(b"ORTM");
        assert_eq!(arrive(&other, &[5]).unwrap().0, other);
        // A tensor that claims to be longer than its graph.
        let mut wrong = vec![0x08, 0x08, 0x3a, 0x10, 0x2a, 0x08, 0x4a, 0xff, 0xff, 0xff, 0x0f, 1, 2];
        wrong.resize(200_000, 0x11);
        assert_eq!(arrive(&wrong, &[11]).unwrap().0, wrong);
    }

    #[test]
    fn what_was_taken_out_is_refused_as_it_would_have_been() {
        let mut file = Writer::default();
        file.message_field(7, |graph| {
            graph.message_field(5, |tensor| {
                tensor.varint_field(1, 5);
                tensor.varint_field(2, 1);
                tensor.bytes_field(9, &vec![0; 100_000]);
                tensor.bytes_field(8, b"t");
            });
        });
        let file = file.into_bytes();
        let (kept, out) = arrive(&file, &[1000]).unwrap();
        let files: HashMap<String, Segments> = [(LOCATION.to_string(), out)].into_iter().collect();
        let (found, expected) = (import(kept.clone(), &files), import(file, &NoExternalData));
        assert_eq!(found.unwrap_err().code(), expected.unwrap_err().code());
        assert!(import(Bytes::from(kept), &NoExternalData).is_err());
    }
}
