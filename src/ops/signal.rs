//! Signal processing, random numbers, images and training steps.

use super::registry::Entry;

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[];
