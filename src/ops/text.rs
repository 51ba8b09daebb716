//! Strings and text.

use super::registry::Entry;

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[];
