//! ONNX's `ai.onnx.ml` domain: classical machine learning.

use super::registry::Entry;

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[];
