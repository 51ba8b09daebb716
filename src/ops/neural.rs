//! Rarer operators of neural networks: attention, sampling, detection, losses.

use super::registry::Entry;

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[];
