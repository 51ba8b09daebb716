//! Where the weights of a model come from that keeps them outside its file. Files are read by range, with offsets of 64
//! bits, so that one may be longer than a model could address or hold.

use crate::error::{Error, ErrorCode, Result};
use crate::tensor::{AlignedBytes, Bytes, map::HashMap};

/// Finds a model's external data files.
pub trait ExternalData {
    /// Opens the file at `location`, a relative path inside the model's folder with `/` or `\` between its parts.
    /// Each location is asked for once.
    fn open(&self, location: &str) -> Result<Box<dyn ExternalFile>>;
}

/// A file of external data.
pub trait ExternalFile {
    /// The number of bytes in it.
    fn size(&self) -> u64;

    /// The bytes from `offset` on. The range is one inside [`size`](ExternalFile::size).
    fn read(&self, offset: u64, length: usize) -> Result<Bytes>;
}

/// Files by a function that gives the whole of one.
impl<F: Fn(&str) -> Result<Bytes>> ExternalData for F {
    fn open(&self, location: &str) -> Result<Box<dyn ExternalFile>> {
        Ok(Box::new(self(location)?))
    }
}

/// A file in memory; what is read shares that.
impl ExternalFile for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        let start = usize::try_from(offset).ok();
        start
            .and_then(|start| self.slice(start, start.checked_add(length)?))
            .ok_or_else(|| absent(offset, length))
    }
}

/// For models that stand in one file: asking for another is an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn open(&self, location: &str) -> Result<Box<dyn ExternalFile>> {
        Err(missing(location))
    }
}

/// The error for a file that was not given.
pub fn missing(location: &str) -> Error {
    let message = format!("the model keeps weights in another file, {location}, which was not given");
    Error::new(ErrorCode::ExternalData, message).expected(location)
}

fn absent(offset: u64, length: usize) -> Error {
    let message = "a part of an external file was not given";
    Error::new(ErrorCode::ExternalData, message).expected(format!("{length} bytes from byte {offset}"))
}

/// A file of which parts are held in memory, each in an allocation of its own. A range inside one part shares its
/// memory; one across adjoining parts is copied.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    size: u64,
    /// Where each part starts, in ascending order.
    parts: Vec<(u64, Bytes)>,
}

impl Segments {
    /// A file of `size` bytes, of which no part is held.
    pub fn new(size: u64) -> Segments {
        Segments {
            size,
            parts: Vec::new(),
        }
    }

    /// Adds the part that starts at `offset`.
    pub fn insert(&mut self, offset: u64, part: Bytes) {
        let place = self.parts.partition_point(|&(start, _)| start < offset);
        self.parts.insert(place, (offset, part));
    }

    /// The longest held range from `offset` on that one part has.
    fn rest_from(&self, offset: u64) -> Option<Bytes> {
        let next = self.parts.partition_point(|&(start, _)| start <= offset);
        let (start, part) = self.parts[..next].last()?;
        let skipped = usize::try_from(offset - start).ok()?;
        part.slice(skipped, part.len()).filter(|rest| !rest.is_empty())
    }
}

impl ExternalFile for Segments {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::from(Vec::new()));
        }
        let first = self.rest_from(offset).ok_or_else(|| absent(offset, length))?;
        if let Some(range) = first.slice(0, length) {
            return Ok(range);
        }
        // Nothing is allocated before it is certain that all of it is there.
        let mut pieces = vec![first];
        let mut found = pieces[0].len();
        while found < length {
            let next = offset.checked_add(found as u64).and_then(|at| self.rest_from(at));
            let next = next.ok_or_else(|| absent(offset, length))?;
            found = found.saturating_add(next.len());
            pieces.push(next);
        }
        let mut joined = AlignedBytes::zeroed(length)?;
        let mut rest = joined.as_mut();
        for piece in pieces {
            let (head, tail) = rest.split_at_mut(piece.len().min(rest.len()));
            head.copy_from_slice(&piece[..head.len()]);
            rest = tail;
        }
        Ok(joined.into())
    }
}

/// Files of which the needed parts were read before.
impl ExternalData for HashMap<String, Segments> {
    fn open(&self, location: &str) -> Result<Box<dyn ExternalFile>> {
        let file = self.get(location).ok_or_else(|| missing(location))?;
        Ok(Box::new(file.clone()))
    }
}

/// The same for callers who have the standard library's map.
impl ExternalData for std::collections::HashMap<String, Segments> {
    fn open(&self, location: &str) -> Result<Box<dyn ExternalFile>> {
        let file = self.get(location).ok_or_else(|| missing(location))?;
        Ok(Box::new(file.clone()))
    }
}

/// Fails unless `location` is a relative path that stays inside its folder.
pub fn check_location(location: &str) -> Result<()> {
    let drive = location.as_bytes().get(1) == Some(&b':');
    let escapes = location.split(['/', '\\']).any(|part| part == "..");
    if location.is_empty() || location.starts_with(['/', '\\']) || drive || escapes || location.contains('\0') {
        let message = "external data must be named by a path inside the model's folder";
        return Err(Error::new(ErrorCode::ExternalData, message).actual(format!("{location:?}")));
    }
    Ok(())
}

#[cfg(not(target_family = "wasm"))]
pub use folder::Folder;

#[cfg(not(target_family = "wasm"))]
mod folder {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom};
    use std::path::PathBuf;

    use super::{ExternalData, ExternalFile, check_location, missing};
    use crate::error::{Error, ErrorCode, Result};
    use crate::tensor::{AlignedBytes, Bytes};

    /// The files of a folder on disk. Only what a tensor needs is read, into memory of its own.
    #[derive(Clone, Debug)]
    pub struct Folder {
        path: PathBuf,
    }

    impl Folder {
        /// The folder at `path`, which is usually that of the model.
        pub fn new(path: impl Into<PathBuf>) -> Folder {
            Folder { path: path.into() }
        }
    }

    struct OpenFile {
        file: File,
        size: u64,
        location: String,
    }

    impl ExternalData for Folder {
        fn open(&self, location: &str) -> Result<Box<dyn ExternalFile>> {
            check_location(location)?;
            let path = self.path.join(location.replace('\\', "/"));
            let found = std::fs::metadata(&path).map_err(|_| missing(location))?;
            if !found.is_file() {
                return Err(missing(location));
            }
            let file = File::open(&path).map_err(|error| unreadable(location, &error))?;
            Ok(Box::new(OpenFile {
                file,
                size: found.len(),
                location: location.into(),
            }))
        }
    }

    impl ExternalFile for OpenFile {
        fn size(&self) -> u64 {
            self.size
        }

        fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
            let mut bytes = AlignedBytes::zeroed(length)?;
            let mut file = &self.file;
            file.seek(SeekFrom::Start(offset))
                .and_then(|_| file.read_exact(bytes.as_mut()))
                .map_err(|error| unreadable(&self.location, &error))?;
            Ok(bytes.into())
        }
    }

    fn unreadable(location: &str, error: &std::io::Error) -> Error {
        let message = format!("the external file {location} could not be read: {error}");
        Error::new(ErrorCode::ExternalData, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_one_segment_is_shared_and_one_across_two_is_copied() {
        let far = 1u64 << 33;
        let (first, second) = (Bytes::from(vec![1, 2, 3]), Bytes::from(vec![4, 5]));
        let mut file = Segments::new(far + 9);
        file.insert(far, first.clone());
        file.insert(far + 3, second);
        file.insert(4, Bytes::from(vec![9]));
        let shared = file.read(far + 1, 2).unwrap();
        assert_eq!((&*shared, shared.as_ptr()), (&[2, 3][..], first[1..].as_ptr()));
        assert_eq!(&*file.read(far + 1, 4).unwrap(), &[2, 3, 4, 5]);
        assert_eq!(&*file.read(4, 1).unwrap(), &[9]);
        assert!(file.read(far + 5, 0).unwrap().is_empty());
        for (offset, length) in [
            (far + 1, 5),
            (3, 1),
            (4, 2),
            (far + 5, 1),
            (u64::MAX, 1),
            (far, usize::MAX),
        ] {
            assert_eq!(file.read(offset, length).unwrap_err().code(), ErrorCode::ExternalData);
        }
    }

    #[test]
    fn bytes_give_the_ranges_that_they_have() {
        let file = Bytes::from(vec![1, 2, 3]);
        assert_eq!(&*ExternalFile::read(&file, 1, 2).unwrap(), &[2, 3]);
        assert!(ExternalFile::read(&file, 2, 2).is_err());
        assert!(ExternalFile::read(&file, u64::MAX, 2).is_err());
    }
}
