//! Element types, shapes (concrete and symbolic) and tensors whose storage is owned or borrowed from the model's bytes.

mod blocks;
mod bytes;
mod dense;
mod dim;
mod dtype;
pub mod map;
pub mod packed;
mod shape;
mod small;
mod value;
mod widen;

pub use bytes::{AlignedBytes, Bytes, BytesIdentity, Source};
pub use dense::Tensor;
pub use dim::{Dim, Symbols};
pub use dtype::{Bool8, DType, Element};
pub use shape::{
    broadcast_shapes, display_shape, element_count, resolve_axes, resolve_axis, sorted_positions, strides_of,
};
pub use small::{Rounding, SmallFloat};
pub use value::{Map, Value};

/// Calls `$body` with `$T` bound to the Rust type of a numeric or bool [`DType`]; evaluates `$otherwise` for packed
/// 4-bit types and strings.
///
/// ```
/// use modelet::tensor::{DType, Element};
/// let size = modelet::with_element!(DType::I16, T => std::mem::size_of::<T>(), _ => 0);
/// assert_eq!(size, 2);
/// ```
#[macro_export]
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr, _ => $otherwise:expr) => {{
        use $crate::tensor::DType as D;
        match $dtype {
            D::F16 => {
                type $T = half::f16;
                $body
            }
            D::BF16 => {
                type $T = half::bf16;
                $body
            }
            D::F32 => {
                type $T = f32;
                $body
            }
            D::F64 => {
                type $T = f64;
                $body
            }
            D::I8 => {
                type $T = i8;
                $body
            }
            D::I16 => {
                type $T = i16;
                $body
            }
            D::I32 => {
                type $T = i32;
                $body
            }
            D::I64 => {
                type $T = i64;
                $body
            }
            D::U8 => {
                type $T = u8;
                $body
            }
            D::U16 => {
                type $T = u16;
                $body
            }
            D::U32 => {
                type $T = u32;
                $body
            }
            D::U64 => {
                type $T = u64;
                $body
            }
            D::Bool => {
                type $T = $crate::tensor::Bool8;
                $body
            }
            _ => $otherwise,
        }
    }};
}
