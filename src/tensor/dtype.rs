//! Element types: ONNX's, and the Rust types that hold them.

use std::fmt;

use half::{bf16, f16};

/// The element type of a tensor. Types of 4 and 2 bits are stored packed, two and four to a byte, the first in the lowest
/// bits, as ONNX does. Floats of 8 and 4 bits are known by their bits: [`super::SmallFloat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum DType {
    F16,
    BF16,
    F32,
    F64,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    F4E2M1,
    I2,
    I4,
    I8,
    I16,
    I32,
    I64,
    U2,
    U4,
    U8,
    U16,
    U32,
    U64,
    Bool,
    String,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 24] = [
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F8E8M0,
        DType::F4E2M1,
        DType::I2,
        DType::I4,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U2,
        DType::U4,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::Bool,
        DType::String,
    ];

    /// The type with this number in ONNX's `TensorProto.DataType`.
    pub fn from_onnx(number: i32) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.to_onnx() == number)
    }

    /// The type's number in ONNX's `TensorProto.DataType`.
    pub fn to_onnx(self) -> i32 {
        match self {
            DType::F32 => 1,
            DType::U8 => 2,
            DType::I8 => 3,
            DType::U16 => 4,
            DType::I16 => 5,
            DType::I32 => 6,
            DType::I64 => 7,
            DType::String => 8,
            DType::Bool => 9,
            DType::F16 => 10,
            DType::F64 => 11,
            DType::U32 => 12,
            DType::U64 => 13,
            DType::BF16 => 16,
            DType::U4 => 21,
            DType::I4 => 22,
            DType::F8E4M3FN => 17,
            DType::F8E4M3FNUZ => 18,
            DType::F8E5M2 => 19,
            DType::F8E5M2FNUZ => 20,
            DType::F4E2M1 => 23,
            DType::F8E8M0 => 24,
            DType::U2 => 25,
            DType::I2 => 26,
        }
    }

    /// The type's name, as in the TypeScript API: `float32`, `int64`, `bool`, …
    pub fn name(self) -> &'static str {
        match self {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::F8E4M3FN => "float8e4m3fn",
            DType::F8E4M3FNUZ => "float8e4m3fnuz",
            DType::F8E5M2 => "float8e5m2",
            DType::F8E5M2FNUZ => "float8e5m2fnuz",
            DType::F8E8M0 => "float8e8m0",
            DType::F4E2M1 => "float4e2m1",
            DType::I2 => "int2",
            DType::U2 => "uint2",
            DType::I4 => "int4",
            DType::I8 => "int8",
            DType::I16 => "int16",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::U4 => "uint4",
            DType::U8 => "uint8",
            DType::U16 => "uint16",
            DType::U32 => "uint32",
            DType::U64 => "uint64",
            DType::Bool => "bool",
            DType::String => "string",
        }
    }

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Size of one element in bits; `None` for strings.
    pub fn bits(self) -> Option<usize> {
        Some(match self {
            DType::I2 | DType::U2 => 2,
            DType::I4 | DType::U4 | DType::F4E2M1 => 4,
            DType::I8 | DType::U8 | DType::Bool => 8,
            DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 => 8,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 16,
            DType::F32 | DType::I32 | DType::U32 => 32,
            DType::F64 | DType::I64 | DType::U64 => 64,
            DType::String => return None,
        })
    }

    /// Bytes that `count` elements take; `None` for strings and on overflow.
    pub fn byte_len(self, count: usize) -> Option<usize> {
        // Whole bytes first: with bits, tensors of an eighth of the address space would overflow.
        match self.bits()? {
            bits @ ..8 => Some(count.checked_mul(bits)?.div_ceil(8)),
            bits => count.checked_mul(bits / 8),
        }
    }

    /// Whether this is a float of 16 bits.
    pub fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }

    /// Whether this is a floating-point type of 8 or 4 bits, which is stored and converted but not computed in.
    pub fn is_small_float(self) -> bool {
        super::SmallFloat::of(self).is_some()
    }

    /// Whether this is one of the floating-point types that are computed in.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// Whether this is a signed or unsigned integer type.
    pub fn is_integer(self) -> bool {
        !self.is_float() && !self.is_small_float() && !matches!(self, DType::Bool | DType::String)
    }

    /// Whether this is an unsigned integer type.
    pub fn is_unsigned(self) -> bool {
        matches!(
            self,
            DType::U2 | DType::U4 | DType::U8 | DType::U16 | DType::U32 | DType::U64
        )
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that holds one element of a tensor of [`Element::DTYPE`]. A `bool` tensor's elements are bytes 0 and 1
/// held as [`Bool8`].
pub trait Element: bytemuck::Pod + Default + PartialEq + fmt::Debug + Send + Sync {
    /// The element type that this Rust type holds.
    const DTYPE: DType;
}

/// One element of a bool tensor: 0 is false, everything else is true; written as 0 or 1.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, PartialOrd, Ord, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Bool8(pub u8);

impl From<bool> for Bool8 {
    fn from(value: bool) -> Bool8 {
        Bool8(value as u8)
    }
}

impl From<Bool8> for bool {
    fn from(value: Bool8) -> bool {
        value.0 != 0
    }
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}

elements! {
    f16 => F16, bf16 => BF16, f32 => F32, f64 => F64,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    Bool8 => Bool,
}
