//! How a protobuf message becomes a Rust struct that borrows from the file: the `Merge` rule for each kind of field
//! and the `message!` macro that ties field numbers to struct fields. The structs themselves stand in `proto.rs`.

use std::cell::Cell;
use std::fmt;

use super::wire::{ParseError, ParseErrorKind, Reader, Slice, Value};

/// Messages inside each other; protobuf's own readers stop at the same number.
const MAX_DEPTH: u32 = 100;

/// Memory that repeated fields may take: far above what real models need (their bytes are mostly weights, and a node
/// takes about as much memory as file), low enough that a file of empty messages cannot grow a hundredfold.
const BUDGET_BASE: usize = 16 << 20;
const BUDGET_PER_BYTE: usize = 32;

/// What a message may still use of nesting and memory.
#[derive(Clone, Copy)]
pub struct Allowance<'c> {
    depth: u32,
    memory: &'c Cell<usize>,
}

impl Allowance<'_> {
    fn deeper(self, offset: usize) -> Result<Self, ParseError> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Allowance { depth, ..self }),
            None => Err(ParseError::new(ParseErrorKind::TooDeep, offset)),
        }
    }

    fn charge(self, size: usize, offset: usize) -> Result<(), ParseError> {
        match self.memory.get().checked_sub(size) {
            Some(left) => {
                self.memory.set(left);
                Ok(())
            }
            None => Err(ParseError::new(ParseErrorKind::TooManyMessages, offset)),
        }
    }
}

/// A value of a field: where it stands and how it takes in what the wire says. A field that occurs again replaces a
/// scalar, extends a list and is merged into a message, as protobuf has it.
pub trait Merge<'a>: Default {
    fn merge(&mut self, field: FieldValue<'a>, allowance: Allowance<'_>) -> Result<(), ParseError>;
}

/// A wire value with the number and place of its field, for error texts.
#[derive(Clone, Copy)]
pub struct FieldValue<'a> {
    pub number: u32,
    pub offset: usize,
    pub value: Value<'a>,
}

impl<'a> FieldValue<'a> {
    fn wrong_type(&self) -> ParseError {
        let found = self.value.encoding();
        ParseError::new(
            ParseErrorKind::WrongWireType {
                field: self.number,
                found,
            },
            self.offset,
        )
    }

    fn varint(&self) -> Result<u64, ParseError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    fn bytes(&self) -> Result<Slice<'a>, ParseError> {
        match self.value {
            Value::Bytes(slice) => Ok(slice),
            _ => Err(self.wrong_type()),
        }
    }

    fn text(&self) -> Result<&'a str, ParseError> {
        let slice = self.bytes()?;
        std::str::from_utf8(slice.data)
            .map_err(|error| ParseError::new(ParseErrorKind::NotUtf8, slice.offset + error.valid_up_to()))
    }
}

/// A message type: one arm per field number.
pub trait Message<'a>: Default {
    fn merge_field(&mut self, field: FieldValue<'a>, allowance: Allowance<'_>) -> Result<(), ParseError>;

    /// Reads a whole message, as a file holds it.
    fn parse(slice: Slice<'a>) -> Result<Self, ParseError> {
        let memory = Cell::new(
            slice
                .data
                .len()
                .saturating_mul(BUDGET_PER_BYTE)
                .saturating_add(BUDGET_BASE),
        );
        let mut message = Self::default();
        message.merge_message(
            slice,
            Allowance {
                depth: MAX_DEPTH,
                memory: &memory,
            },
        )?;
        Ok(message)
    }

    fn merge_message(&mut self, slice: Slice<'a>, allowance: Allowance<'_>) -> Result<(), ParseError> {
        let inner = allowance.deeper(slice.offset)?;
        let mut reader = Reader::new(slice);
        while let Some(field) = reader.next_field()? {
            self.merge_field(
                FieldValue {
                    number: field.number,
                    offset: field.offset,
                    value: field.value,
                },
                inner,
            )?;
        }
        Ok(())
    }
}

macro_rules! merge_scalar {
    ($($type:ty: $read:expr;)*) => {$(
        impl<'a> Merge<'a> for $type {
            fn merge(&mut self, field: FieldValue<'a>, _: Allowance<'_>) -> Result<(), ParseError> {
                let read: fn(&FieldValue<'a>) -> Result<$type, ParseError> = $read;
                *self = read(&field)?;
                Ok(())
            }
        }

        impl<'a> Merge<'a> for Option<$type> {
            fn merge(&mut self, field: FieldValue<'a>, allowance: Allowance<'_>) -> Result<(), ParseError> {
                self.insert(<$type>::default()).merge(field, allowance)
            }
        }
    )*};
}

merge_scalar! {
    // Negative 32-bit integers travel as 64-bit ones; the low half is the value.
    i32: |field| Ok(field.varint()? as i32);
    i64: |field| Ok(field.varint()? as i64);
    f32: |field| match field.value {
        Value::Fixed32(bits) => Ok(f32::from_bits(bits)),
        _ => Err(field.wrong_type()),
    };
    &'a str: |field| field.text();
    Slice<'a>: |field| field.bytes();
}

impl<'a, M: Message<'a>> Merge<'a> for Option<Box<M>> {
    fn merge(&mut self, field: FieldValue<'a>, allowance: Allowance<'_>) -> Result<(), ParseError> {
        if self.is_none() {
            allowance.charge(size_of::<M>(), field.offset)?;
        }
        self.get_or_insert_default().merge_message(field.bytes()?, allowance)
    }
}

impl<'a, M: Message<'a>> Merge<'a> for Vec<M> {
    fn merge(&mut self, field: FieldValue<'a>, allowance: Allowance<'_>) -> Result<(), ParseError> {
        allowance.charge(size_of::<M>(), field.offset)?;
        let mut message = M::default();
        message
            .merge_message(field.bytes()?, allowance)
            .map_err(|error| error.at_index(self.len()))?;
        self.push(message);
        Ok(())
    }
}

macro_rules! merge_list {
    ($($type:ty),*) => {$(
        impl<'a> Merge<'a> for Vec<$type> {
            fn merge(&mut self, field: FieldValue<'a>, allowance: Allowance<'_>) -> Result<(), ParseError> {
                allowance.charge(size_of::<$type>(), field.offset)?;
                let mut item = <$type>::default();
                item.merge(field, allowance).map_err(|error| error.at_index(self.len()))?;
                self.push(item);
                Ok(())
            }
        }
    )*};
}

merge_list!(&'a str, Slice<'a>);

/// Numbers that may be repeated, one by one or packed into one run of bytes.
pub trait Scalar: Copy {
    /// The width of the packed form; `None` for varints.
    const WIDTH: Option<usize>;
    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError>;
    fn from_value(value: &Value<'_>) -> Option<Self>;
}

macro_rules! scalar_varint {
    ($($type:ty),*) => {$(
        impl Scalar for $type {
            const WIDTH: Option<usize> = None;
            fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
                reader.varint().map(|value| value as $type)
            }
            fn from_value(value: &Value<'_>) -> Option<Self> {
                match value {
                    Value::Varint(value) => Some(*value as $type),
                    _ => None,
                }
            }
        }
    )*};
}

scalar_varint!(i32, i64, u64);

macro_rules! scalar_fixed {
    ($($type:ty, $variant:ident;)*) => {$(
        impl Scalar for $type {
            const WIDTH: Option<usize> = Some(size_of::<$type>());
            fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
                reader.array().map(<$type>::from_le_bytes)
            }
            fn from_value(value: &Value<'_>) -> Option<Self> {
                match value {
                    Value::$variant(bits) => Some(<$type>::from_bits(*bits)),
                    _ => None,
                }
            }
        }
    )*};
}

scalar_fixed! {
    f32, Fixed32;
    f64, Fixed64;
}

/// A list of numbers. One packed run, which is how writers store them, stays in the file's bytes.
#[derive(Clone, PartialEq)]
pub enum Numbers<'a, T> {
    Packed(Slice<'a>),
    Decoded(Vec<T>),
}

impl<T> Default for Numbers<'_, T> {
    fn default() -> Self {
        Numbers::Packed(Slice::default())
    }
}

impl<T: Scalar> Numbers<'_, T> {
    pub fn is_empty(&self) -> bool {
        match self {
            Numbers::Packed(slice) => slice.data.is_empty(),
            Numbers::Decoded(values) => values.is_empty(),
        }
    }

    pub fn len(&self) -> usize {
        match (self, T::WIDTH) {
            (Numbers::Packed(slice), Some(width)) => slice.data.len() / width,
            // The last byte of every varint, and no other, has its high bit clear.
            (Numbers::Packed(slice), None) => slice.data.iter().filter(|&&byte| byte < 0x80).count(),
            (Numbers::Decoded(values), _) => values.len(),
        }
    }

    /// All values, in memory of their own.
    pub fn to_vec(&self) -> Result<Vec<T>, ParseError> {
        match self {
            Numbers::Packed(slice) => {
                let mut values = Vec::with_capacity(self.len());
                let mut reader = Reader::new(*slice);
                while !reader.at_end() {
                    values.push(T::read(&mut reader)?);
                }
                Ok(values)
            }
            Numbers::Decoded(values) => Ok(values.clone()),
        }
    }
}

impl<T: Scalar + fmt::Debug> fmt::Debug for Numbers<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Numbers::Packed(slice) => write!(f, "{} packed bytes", slice.data.len()),
            Numbers::Decoded(values) => write!(f, "{values:?}"),
        }
    }
}

impl<'a, T: Scalar> Merge<'a> for Numbers<'a, T> {
    fn merge(&mut self, field: FieldValue<'a>, _: Allowance<'_>) -> Result<(), ParseError> {
        if let Value::Bytes(slice) = field.value {
            if let Some(width) = T::WIDTH
                && !slice.data.len().is_multiple_of(width)
            {
                let kind = ParseErrorKind::RaggedPacked {
                    length: slice.data.len(),
                    width,
                };
                return Err(ParseError::new(kind, slice.offset));
            }
            if self.is_empty() {
                *self = Numbers::Packed(slice);
                return Ok(());
            }
        }
        if let Numbers::Packed(_) = self {
            *self = Numbers::Decoded(self.to_vec()?);
        }
        if let Numbers::Decoded(values) = self {
            match field.value {
                Value::Bytes(slice) => values.extend(Numbers::<T>::Packed(slice).to_vec()?),
                value => values.push(T::from_value(&value).ok_or_else(|| field.wrong_type())?),
            }
        }
        Ok(())
    }
}

/// Declares a message struct: `name: Type = field number`. Fields that are not named are skipped; one without a number
/// is never in a file of this format.
macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty $(= $number:literal)?,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: $type,)*
            marker: ::std::marker::PhantomData<&'a [u8]>,
        }

        impl<'a> Message<'a> for $name<'a> {
            fn merge_field(&mut self, field: FieldValue<'a>, allowance: Allowance<'_>) -> Result<(), ParseError> {
                match field.number {
                    $($($number => Merge::merge(&mut self.$field, field, allowance)
                        .map_err(|error| error.in_field(stringify!($field))),)?)*
                    _ => Ok(()),
                }
            }
        }
    };
}

pub(super) use message;
