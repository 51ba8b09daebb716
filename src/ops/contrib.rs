//! The `com.microsoft` operators that ONNX Runtime's optimisers and quantisers emit.

use super::registry::Entry;

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[];
