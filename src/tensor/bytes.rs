//! Shared, immutable byte ranges, and growable memory aligned for SIMD.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::error::{Error, ErrorCode, Result};

/// A range of shared, immutable bytes. Cloning and slicing copy nothing.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    owner_id: u64,
    start: usize,
    len: usize,
}

/// Tells a range of bytes from every other one of this process, also after its memory was freed and used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BytesIdentity {
    owner_id: u64,
    start: usize,
    len: usize,
}

impl Bytes {
    /// Shares the whole of `owner`, whose bytes must stay where they are for as long as it lives.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Bytes {
        static NEXT_OWNER: AtomicU64 = AtomicU64::new(0);
        let len = owner.as_ref().len();
        let owner_id = NEXT_OWNER.fetch_add(1, Ordering::Relaxed);
        Bytes {
            owner: Arc::new(owner),
            owner_id,
            start: 0,
            len,
        }
    }

    /// The bytes `start..end` of this range, or `None` when they are not all inside.
    pub fn slice(&self, start: usize, end: usize) -> Option<Bytes> {
        if start > end || end > self.len {
            return None;
        }
        Some(Bytes {
            owner: self.owner.clone(),
            owner_id: self.owner_id,
            start: self.start + start,
            len: end - start,
        })
    }

    /// The shared range that `part` is, when it lies inside this one.
    pub fn slice_of(&self, part: &[u8]) -> Option<Bytes> {
        let start = (part.as_ptr() as usize).checked_sub(self.as_ptr() as usize)?;
        self.slice(start, start.checked_add(part.len())?)
    }

    /// What tells these bytes from all others.
    pub fn identity(&self) -> BytesIdentity {
        BytesIdentity {
            owner_id: self.owner_id,
            start: self.start,
            len: self.len,
        }
    }

    /// A number for the memory behind these bytes, which other ranges share, and its length.
    pub fn owner(&self) -> (u64, usize) {
        (self.owner_id, (*self.owner).as_ref().len())
    }

    /// Whether this is the only holder of the memory behind it.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.owner) == 1
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // An owner may in theory answer with fewer bytes on a later call; an empty range is then the safe answer.
        (*self.owner)
            .as_ref()
            .get(self.start..self.start + self.len)
            .unwrap_or(&[])
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::new(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        Bytes::new(bytes.to_vec())
    }
}

impl From<AlignedBytes> for Bytes {
    fn from(bytes: AlignedBytes) -> Bytes {
        Bytes::new(bytes)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(16))]
struct Block([u8; 16]);

/// Owned, zero-initialised memory aligned to 16 bytes.
#[derive(Default)]
pub struct AlignedBytes {
    blocks: Vec<Block>,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes; an [`ErrorCode::OutOfMemory`] error when the memory cannot be had.
    pub fn zeroed(len: usize) -> Result<AlignedBytes> {
        // All at once: a vector that grows by blocks is filled by blocks, which in wasm is a call for each.
        let blocks = bytemuck::allocation::try_zeroed_vec(len.div_ceil(16)).map_err(|()| {
            Error::new(
                ErrorCode::OutOfMemory,
                format!("{len} bytes of memory could not be had"),
            )
        })?;
        Ok(AlignedBytes { blocks, len })
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<AlignedBytes> {
        let mut copy = AlignedBytes::zeroed(bytes.len())?;
        copy.as_mut().copy_from_slice(bytes);
        Ok(copy)
    }

    /// Pointer to the first byte.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.blocks.as_mut_ptr().cast()
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.len]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.blocks)[..self.len]
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_the_bytes_is_found_again_and_shares_them() {
        let bytes = Bytes::from(vec![1, 2, 3, 4, 5]);
        let part = bytes.slice_of(&bytes[1..4]).unwrap();
        assert_eq!(&*part, &[2, 3, 4]);
        assert_eq!(part.as_ptr(), bytes[1..].as_ptr());
        assert!(bytes.slice(3, 6).is_none());
        assert!(bytes.slice_of(&[9, 9]).is_none());
    }

    #[test]
    fn aligned_bytes_are_zero_and_aligned() {
        let bytes = AlignedBytes::zeroed(33).unwrap();
        assert_eq!(bytes.as_ref(), &[0; 33]);
        assert_eq!(bytes.as_ref().as_ptr() as usize % 16, 0);
        assert!(AlignedBytes::zeroed(usize::MAX / 2).is_err());
    }
}
