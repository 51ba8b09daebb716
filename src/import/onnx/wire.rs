//! The protobuf wire format over a byte slice: tags, varints, fixed-width and length-delimited values. Nothing is
//! copied and every read is bounds-checked; each value knows its offset in the file. What the numbers mean is
//! `proto.rs`'s business.

use std::fmt;

/// Bytes of the file together with where they start in it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slice<'a> {
    pub data: &'a [u8],
    pub offset: usize,
}

impl<'a> Slice<'a> {
    /// The whole file.
    pub fn whole(data: &'a [u8]) -> Slice<'a> {
        Slice { data, offset: 0 }
    }
}

/// Why bytes could not be read, where in the file, and inside which field.
#[derive(Clone, Debug, PartialEq)]
pub struct ParseError {
    pub kind: ParseErrorKind,
    /// Byte offset in the file.
    pub offset: usize,
    /// The fields passed through on the way, such as `graph.node[3].attribute[0].t`; empty at the top.
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParseErrorKind {
    /// The data ends inside a value.
    Truncated,
    /// A length that points beyond the enclosing message.
    LengthBeyondEnd { length: u64, available: usize },
    /// A varint of more than ten bytes, or one whose tenth byte overflows 64 bits.
    VarintTooLong,
    /// A field number of zero or a wire type that does not exist.
    InvalidTag(u64),
    /// A known field encoded in a way its type does not allow.
    WrongWireType { field: u32, found: &'static str },
    /// The end of a group that was never started, or a start without an end.
    UnbalancedGroup,
    /// More messages inside each other than the reader allows.
    TooDeep,
    /// A text field that is not UTF-8.
    NotUtf8,
    /// Packed fixed-width values whose length is no multiple of their width.
    RaggedPacked { length: usize, width: usize },
    /// More small messages than a file of this length may hold.
    TooManyMessages,
}

impl ParseError {
    pub fn new(kind: ParseErrorKind, offset: usize) -> ParseError {
        ParseError {
            kind,
            offset,
            path: String::new(),
        }
    }

    /// The same error seen from one message further out.
    pub fn in_field(mut self, name: &str) -> ParseError {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }

    /// The same error seen from the list that holds the message.
    pub fn at_index(mut self, index: usize) -> ParseError {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.path = format!("[{index}]{dot}{}", self.path);
        self
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ParseErrorKind::Truncated => write!(f, "the data ends inside a value")?,
            ParseErrorKind::LengthBeyondEnd { length, available } => write!(
                f,
                "a field says it is {length} bytes long, but only {available} bytes are left"
            )?,
            ParseErrorKind::VarintTooLong => write!(f, "an integer does not fit in 64 bits")?,
            ParseErrorKind::InvalidTag(tag) => write!(f, "{tag:#x} is not a valid field tag")?,
            ParseErrorKind::WrongWireType { field, found } => write!(f, "field {field} cannot be encoded as {found}")?,
            ParseErrorKind::UnbalancedGroup => write!(f, "a group has no matching start or end")?,
            ParseErrorKind::TooDeep => write!(f, "messages are nested too deeply")?,
            ParseErrorKind::NotUtf8 => write!(f, "a text is not valid UTF-8")?,
            ParseErrorKind::RaggedPacked { length, width } => {
                write!(f, "{length} bytes cannot hold whole values of {width} bytes")?
            }
            ParseErrorKind::TooManyMessages => write!(f, "the file holds too many tiny messages for its length")?,
        }
        write!(f, " (at byte {}", self.offset)?;
        if !self.path.is_empty() {
            write!(f, ", in {}", self.path)?;
        }
        write!(f, ")")
    }
}

/// One decoded value. Groups never appear: the reader skips them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(Slice<'a>),
    Fixed32(u32),
}

impl Value<'_> {
    /// How the wire calls this encoding, for error texts.
    pub fn encoding(&self) -> &'static str {
        match self {
            Value::Varint(_) => "a varint",
            Value::Fixed64(_) => "a 64-bit value",
            Value::Bytes(_) => "length-delimited bytes",
            Value::Fixed32(_) => "a 32-bit value",
        }
    }
}

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
    /// Where the field's tag stands in the file.
    pub offset: usize,
}

/// Groups were removed from protobuf long ago; ones met in unknown fields are skipped up to this nesting.
const MAX_GROUP_DEPTH: usize = 32;

/// Walks the fields of one message.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    slice: Slice<'a>,
    pos: usize,
}

impl<'a> Reader<'a> {
    pub fn new(slice: Slice<'a>) -> Reader<'a> {
        Reader { slice, pos: 0 }
    }

    /// Where the next read starts, counted in the file.
    pub fn offset(&self) -> usize {
        self.slice.offset + self.pos
    }

    pub fn at_end(&self) -> bool {
        self.pos >= self.slice.data.len()
    }

    /// The next field, or `None` at the message's end.
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, ParseError> {
        loop {
            if self.at_end() {
                return Ok(None);
            }
            let offset = self.offset();
            let (number, wire_type) = self.tag()?;
            match wire_type {
                WireType::GroupStart => self.skip_group(number, offset)?,
                WireType::GroupEnd => return Err(ParseError::new(ParseErrorKind::UnbalancedGroup, offset)),
                _ => {
                    return Ok(Some(Field {
                        number,
                        value: self.value(wire_type)?,
                        offset,
                    }));
                }
            }
        }
    }

    /// A base-128 integer of at most ten bytes.
    pub fn varint(&mut self) -> Result<u64, ParseError> {
        let start = self.offset();
        let rest = &self.slice.data[self.pos..];
        let mut result = 0u64;
        for (i, &byte) in rest.iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                break;
            }
            result |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.pos += i + 1;
                return Ok(result);
            }
        }
        let kind = if rest.len() < 10 {
            ParseErrorKind::Truncated
        } else {
            ParseErrorKind::VarintTooLong
        };
        Err(ParseError::new(kind, start))
    }

    fn tag(&mut self) -> Result<(u32, WireType), ParseError> {
        let offset = self.offset();
        let tag = self.varint()?;
        let invalid = ParseError::new(ParseErrorKind::InvalidTag(tag), offset);
        let number = match u32::try_from(tag >> 3) {
            // Field numbers have 29 bits.
            Ok(number) if number != 0 && number < 1 << 29 => number,
            _ => return Err(invalid),
        };
        let wire_type = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Bytes,
            3 => WireType::GroupStart,
            4 => WireType::GroupEnd,
            5 => WireType::Fixed32,
            _ => return Err(invalid),
        };
        Ok((number, wire_type))
    }

    fn value(&mut self, wire_type: WireType) -> Result<Value<'a>, ParseError> {
        Ok(match wire_type {
            WireType::Varint => Value::Varint(self.varint()?),
            WireType::Fixed64 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            WireType::Fixed32 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            WireType::Bytes => {
                let offset = self.offset();
                let length = self.varint()?;
                let available = self.slice.data.len() - self.pos;
                match usize::try_from(length) {
                    Ok(length) if length <= available => {
                        let start = self.pos;
                        self.pos += length;
                        let data = &self.slice.data[start..self.pos];
                        Value::Bytes(Slice {
                            data,
                            offset: self.slice.offset + start,
                        })
                    }
                    _ => {
                        return Err(ParseError::new(
                            ParseErrorKind::LengthBeyondEnd { length, available },
                            offset,
                        ));
                    }
                }
            }
            WireType::GroupStart | WireType::GroupEnd => {
                return Err(ParseError::new(ParseErrorKind::UnbalancedGroup, self.offset()));
            }
        })
    }

    /// The next `N` bytes, as they stand.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        match self.slice.data[self.pos..].first_chunk::<N>() {
            Some(bytes) => {
                self.pos += N;
                Ok(*bytes)
            }
            None => Err(ParseError::new(ParseErrorKind::Truncated, self.offset())),
        }
    }

    /// Reads up to the end of the group that was just opened.
    fn skip_group(&mut self, number: u32, start: usize) -> Result<(), ParseError> {
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            if self.at_end() {
                return Err(ParseError::new(ParseErrorKind::UnbalancedGroup, start));
            }
            let offset = self.offset();
            let (number, wire_type) = self.tag()?;
            match wire_type {
                WireType::GroupStart if open.len() >= MAX_GROUP_DEPTH => {
                    return Err(ParseError::new(ParseErrorKind::TooDeep, offset));
                }
                WireType::GroupStart => open.push(number),
                WireType::GroupEnd if number == innermost => {
                    open.pop();
                }
                WireType::GroupEnd => return Err(ParseError::new(ParseErrorKind::UnbalancedGroup, offset)),
                _ => {
                    self.value(wire_type)?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum WireType {
    Varint,
    Fixed64,
    Bytes,
    GroupStart,
    GroupEnd,
    Fixed32,
}

/// Writes the wire format; the mirror of [`Reader`] for the few messages that are ever written.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub fn varint_field(&mut self, number: u32, value: u64) {
        self.varint(u64::from(number) << 3);
        self.varint(value);
    }

    pub fn fixed32_field(&mut self, number: u32, value: u32) {
        self.varint(u64::from(number) << 3 | 5);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes_field(&mut self, number: u32, value: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// A nested message, written by `fill`.
    pub fn message_field(&mut self, number: u32, fill: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        fill(&mut inner);
        self.bytes_field(number, &inner.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<Field<'_>>, ParseError> {
        let mut reader = Reader::new(Slice::whole(bytes));
        let mut out = Vec::new();
        while let Some(field) = reader.next_field()? {
            out.push(field);
        }
        Ok(out)
    }

    fn kind(bytes: &[u8]) -> ParseErrorKind {
        fields(bytes).unwrap_err().kind
    }

    #[test]
    fn every_wire_type_is_read_with_its_offset() {
        let bytes = [
            0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0,
        ];
        let read = fields(&bytes).unwrap();
        let hi = Slice { data: b"hi", offset: 5 };
        assert_eq!(
            read[0],
            Field {
                number: 1,
                value: Value::Varint(150),
                offset: 0
            }
        );
        assert_eq!(
            read[1],
            Field {
                number: 2,
                value: Value::Bytes(hi),
                offset: 3
            }
        );
        assert_eq!(
            read[2],
            Field {
                number: 3,
                value: Value::Fixed32(1),
                offset: 7
            }
        );
        assert_eq!(
            read[3],
            Field {
                number: 4,
                value: Value::Fixed64(2),
                offset: 12
            }
        );
    }

    #[test]
    fn varints_round_trip_up_to_64_bits() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut writer = Writer::default();
            writer.varint_field(5, value);
            let bytes = writer.into_bytes();
            assert_eq!(fields(&bytes).unwrap()[0].value, Value::Varint(value));
        }
    }

    #[test]
    fn groups_in_unknown_fields_are_skipped() {
        // group 1 { field 2 varint, group 3 {} } then field 4.
        let bytes = [0x0b, 0x10, 5, 0x1b, 0x1c, 0x0c, 0x20, 7];
        assert_eq!(
            fields(&bytes).unwrap(),
            [Field {
                number: 4,
                value: Value::Varint(7),
                offset: 6
            }]
        );
    }

    #[test]
    fn malformed_bytes_are_errors() {
        assert_eq!(kind(&[0x08]), ParseErrorKind::Truncated);
        assert_eq!(kind(&[0x08, 0x80]), ParseErrorKind::Truncated);
        assert_eq!(kind(&[0x0d, 1, 2]), ParseErrorKind::Truncated);
        assert_eq!(
            kind(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]),
            ParseErrorKind::VarintTooLong
        );
        assert_eq!(
            kind(&[0x12, 5, 1]),
            ParseErrorKind::LengthBeyondEnd {
                length: 5,
                available: 1
            }
        );
        assert_eq!(kind(&[0x00, 1]), ParseErrorKind::InvalidTag(0));
        assert_eq!(kind(&[0x0e, 1]), ParseErrorKind::InvalidTag(0x0e));
        assert_eq!(kind(&[0x0c]), ParseErrorKind::UnbalancedGroup);
        assert_eq!(kind(&[0x0b, 0x10, 1]), ParseErrorKind::UnbalancedGroup);
        assert_eq!(kind(&[0x0b, 0x14]), ParseErrorKind::UnbalancedGroup);
        assert_eq!(kind(&[0x0b; 100]), ParseErrorKind::TooDeep);
        let huge = [0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(
            kind(&huge),
            ParseErrorKind::LengthBeyondEnd {
                length: u64::MAX,
                available: 0
            }
        );
    }

    #[test]
    fn errors_name_byte_and_path() {
        let error = ParseError::new(ParseErrorKind::Truncated, 17)
            .in_field("t")
            .at_index(2)
            .in_field("node");
        assert_eq!(
            error.to_string(),
            "the data ends inside a value (at byte 17, in node[2].t)"
        );
    }
}
