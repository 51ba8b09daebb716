//! Shared, immutable byte ranges, and growable memory aligned for SIMD.

use std::{
    any::Any,
    fmt,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::error::{Error, ErrorCode, Result};

/// A range of shared, immutable bytes. Cloning and slicing copy nothing.
///
/// Bytes may be deferred: they lie elsewhere, or have still to be computed, and come to memory when somebody looks at them.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Memory>,
    owner_id: u64,
    start: usize,
    len: usize,
}

/// What bytes are ranges of.
trait Memory: Send + Sync {
    fn all(&self) -> &[u8];

    fn deferred(&self) -> Option<&Deferred> {
        None
    }
}

impl<T: AsRef<[u8]> + Send + Sync> Memory for T {
    fn all(&self) -> &[u8] {
        self.as_ref()
    }
}

impl Memory for Deferred {
    fn all(&self) -> &[u8] {
        self.load().unwrap_or(&[])
    }

    fn deferred(&self) -> Option<&Deferred> {
        Some(self)
    }
}

/// Where deferred bytes come from.
pub trait Source: Any + Send + Sync {
    /// Writes the bytes from `start` on to `target`, the same whenever it is asked.
    fn read(&self, start: usize, target: &mut [u8]) -> Result<()>;
}

struct Deferred {
    source: Arc<dyn Source>,
    start: usize,
    len: usize,
    loaded: OnceLock<AlignedBytes>,
}

impl Deferred {
    fn read(&self, start: usize, len: usize) -> Result<AlignedBytes> {
        let mut bytes = AlignedBytes::zeroed(len)?;
        self.source.read(self.start + start, bytes.as_mut())?;
        Ok(bytes)
    }

    fn load(&self) -> Result<&[u8]> {
        if self.loaded.get().is_none() {
            // Another thread may have been faster; both read the same.
            let _ = self.loaded.set(self.read(0, self.len)?);
        }
        Ok(self.loaded.get().map_or(&[], AsRef::as_ref))
    }
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
        let len = owner.as_ref().len();
        Bytes::owned(Arc::new(owner), len)
    }

    /// The `len` bytes of `source` from `start` on, which come to memory when somebody looks at them.
    pub fn deferred(source: Arc<dyn Source>, start: usize, len: usize) -> Bytes {
        let deferred = Deferred {
            source,
            start,
            len,
            loaded: OnceLock::new(),
        };
        Bytes::owned(Arc::new(deferred), len)
    }

    fn owned(owner: Arc<dyn Memory>, len: usize) -> Bytes {
        static NEXT_OWNER: AtomicU64 = AtomicU64::new(0);
        let owner_id = NEXT_OWNER.fetch_add(1, Ordering::Relaxed);
        Bytes {
            owner,
            owner_id,
            start: 0,
            len,
        }
    }

    /// How many they are, without looking at them.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn unloaded(&self) -> Option<&Deferred> {
        let deferred = self.owner.deferred()?;
        deferred.loaded.get().is_none().then_some(deferred)
    }

    /// Where the bytes are and where they begin there, when they are not in memory.
    pub fn source(&self) -> Option<(&dyn Source, usize)> {
        let deferred = self.unloaded()?;
        Some((&*deferred.source, deferred.start + self.start))
    }

    /// Brings the bytes to memory, where they stay. Without this they come when they are first looked at, and where that
    /// fails they are empty.
    pub fn load(&self) -> Result<()> {
        match self.unloaded() {
            Some(deferred) => deferred.load().map(drop),
            None => Ok(()),
        }
    }

    /// The same bytes in memory: themselves, or where they are deferred, a copy that goes when it is dropped.
    pub fn at_hand(&self) -> Result<Bytes> {
        match self.unloaded() {
            Some(deferred) => Ok(deferred.read(self.start, self.len)?.into()),
            None => Ok(self.clone()),
        }
    }

    /// The bytes `start..end` of this range, or `None` when they are not all inside.
    pub fn slice(&self, start: usize, end: usize) -> Option<Bytes> {
        if start > end || end > self.len {
            return None;
        }
        if let Some(deferred) = self.unloaded()
            && end - start < deferred.len
        {
            // A part of its own, so that no more comes to memory than is looked at.
            let from = deferred.start + self.start + start;
            return Some(Bytes::deferred(Arc::clone(&deferred.source), from, end - start));
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
        let len = match self.owner.deferred() {
            Some(deferred) => deferred.len,
            None => self.owner.all().len(),
        };
        (self.owner_id, len)
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
        let all = self.owner.all();
        all.get(self.start..self.start + self.len).unwrap_or(&[])
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

    struct Counted(Vec<u8>, Arc<AtomicU64>);

    impl Source for Counted {
        fn read(&self, start: usize, target: &mut [u8]) -> Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let part = self.0.get(start..start + target.len());
            target.copy_from_slice(part.ok_or_else(|| Error::internal("not so many"))?);
            Ok(())
        }
    }

    #[test]
    fn deferred_bytes_are_read_when_they_are_looked_at_and_no_more_of_them_than_that() {
        let reads = Arc::new(AtomicU64::new(0));
        let source: Arc<dyn Source> = Arc::new(Counted((0..100).collect(), Arc::clone(&reads)));
        let count = || reads.load(Ordering::Relaxed);
        let bytes = Bytes::deferred(source, 10, 80);
        let part = bytes.slice(5, 8).unwrap();
        assert_eq!((bytes.len(), part.len(), bytes.is_empty(), count()), (80, 3, false, 0));
        assert_eq!(part.source().unwrap().1, 15);
        assert_eq!((&*part.at_hand().unwrap(), count()), (&[15, 16, 17][..], 1));
        assert!(part.source().is_some());
        assert_eq!((&*part, &*part, count()), (&[15, 16, 17][..], &[15, 16, 17][..], 2));
        assert!(part.source().is_none() && bytes.source().is_some());
        // The whole is the same bytes; a part of what is there shares them.
        let whole = bytes.slice(0, 80).unwrap();
        assert_eq!(whole.identity(), bytes.identity());
        bytes.load().unwrap();
        assert_eq!(bytes[5..8].as_ptr(), whole.slice(5, 8).unwrap().as_ptr());
        assert_eq!(count(), 3);
        assert!(bytes.slice(79, 81).is_none());
        let wrong = Bytes::deferred(Arc::new(Counted(vec![], reads)), 0, 4);
        assert!(wrong.load().is_err() && wrong.at_hand().is_err() && (*wrong).is_empty());
    }

    #[test]
    fn aligned_bytes_are_zero_and_aligned() {
        let bytes = AlignedBytes::zeroed(33).unwrap();
        assert_eq!(bytes.as_ref(), &[0; 33]);
        assert_eq!(bytes.as_ref().as_ptr() as usize % 16, 0);
        assert!(AlignedBytes::zeroed(usize::MAX / 2).is_err());
    }
}
