//! FlatBuffers tables over a byte slice. Nothing is copied, every position is checked against the file, and what a
//! reader makes of the tables is charged, because many fields may point to the same table.

use std::cell::Cell;

use crate::error::{Error, ErrorCode, Result};

/// Tables inside each other; as many as messages in an ONNX file.
const MAX_DEPTH: u32 = 100;

/// Memory that tables may turn into, as for an ONNX file.
const BUDGET_BASE: usize = 16 << 20;
const BUDGET_PER_BYTE: usize = 32;

/// The file, and what reading it may still take.
pub struct File<'a> {
    bytes: &'a [u8],
    budget: Cell<usize>,
}

/// A table: its fields stand where its vtable says.
#[derive(Clone, Copy)]
pub struct Table<'f, 'a> {
    file: &'f File<'a>,
    at: usize,
    vtable: usize,
    /// Bytes of the vtable.
    vtable_size: usize,
    depth: u32,
}

/// The elements of a vector: where the first stands, and how many there are.
#[derive(Clone, Copy)]
struct Vector {
    at: usize,
    len: usize,
}

impl<'a> File<'a> {
    pub fn new(bytes: &'a [u8]) -> File<'a> {
        let budget = bytes.len().saturating_mul(BUDGET_PER_BYTE).saturating_add(BUDGET_BASE);
        File {
            bytes,
            budget: Cell::new(budget),
        }
    }

    /// The table that the file is.
    pub fn root(&self) -> Result<Table<'_, 'a>> {
        Table::new(self, self.follow(0)?, MAX_DEPTH)
    }

    /// Takes `size` bytes out of what the file may turn into.
    fn charge(&self, size: usize) -> Result<()> {
        let left = self.budget.get().checked_sub(size);
        self.budget.set(left.ok_or_else(|| {
            let message = "the model's tables take far more memory than its file justifies";
            Error::new(ErrorCode::LimitExceeded, message)
        })?);
        Ok(())
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
        bytes.copied().ok_or_else(|| damaged(at))
    }

    fn size(&self, at: usize) -> Result<usize> {
        usize::try_from(u32::from_le_bytes(self.array(at)?)).map_err(|_| damaged(at))
    }

    fn short(&self, at: usize) -> Result<usize> {
        Ok(u16::from_le_bytes(self.array(at)?).into())
    }

    /// Where the offset at `at` points.
    fn follow(&self, at: usize) -> Result<usize> {
        at.checked_add(self.size(at)?).ok_or_else(|| damaged(at))
    }

    /// The vector that the offset at `at` points to, of elements of `width` bytes.
    fn vector(&self, at: usize, width: usize) -> Result<Vector> {
        let start = self.follow(at)?;
        let len = self.size(start)?;
        let first = start + 4;
        let end = len.checked_mul(width).and_then(|size| first.checked_add(size));
        if end.is_none_or(|end| end > self.bytes.len()) {
            return Err(damaged(start));
        }
        Ok(Vector { at: first, len })
    }

    /// The bytes that the offset at `at` points to, and where they start.
    fn blob(&self, at: usize) -> Result<(&'a [u8], usize)> {
        let vector = self.vector(at, 1)?;
        let bytes = self.bytes.get(vector.at..vector.at + vector.len);
        Ok((bytes.ok_or_else(|| damaged(at))?, vector.at))
    }

    fn text(&self, at: usize) -> Result<&'a str> {
        let (bytes, start) = self.blob(at)?;
        std::str::from_utf8(bytes).map_err(|_| damaged(start))
    }
}

impl<'f, 'a> Table<'f, 'a> {
    fn new(file: &'f File<'a>, at: usize, depth: u32) -> Result<Table<'f, 'a>> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Error::new(
                ErrorCode::LimitExceeded,
                "the model's tables are nested too deeply",
            ));
        };
        let back = i64::from(i32::from_le_bytes(file.array(at)?));
        let vtable = i64::try_from(at).ok().and_then(|at| usize::try_from(at - back).ok());
        let vtable = vtable.ok_or_else(|| damaged(at))?;
        let vtable_size = file.short(vtable)?;
        Ok(Table {
            file,
            at,
            vtable,
            vtable_size,
            depth,
        })
    }

    /// Takes `size` bytes out of what the file may turn into.
    pub fn charge(&self, size: usize) -> Result<()> {
        self.file.charge(size)
    }

    /// Where the field with this number stands, unless it is left out.
    fn field(&self, number: usize) -> Result<Option<usize>> {
        let entry = 4 + 2 * number;
        if entry + 2 > self.vtable_size {
            return Ok(None);
        }
        match self.file.short(self.vtable + entry)? {
            0 => Ok(None),
            offset => self.at.checked_add(offset).map(Some).ok_or_else(|| damaged(self.at)),
        }
    }

    fn number<const N: usize, T>(&self, number: usize, read: impl Fn([u8; N]) -> T) -> Result<Option<T>> {
        self.field(number)?.map(|at| self.file.array(at).map(read)).transpose()
    }

    /// A field of one byte; 0 when it is left out.
    pub fn byte(&self, number: usize) -> Result<u8> {
        Ok(self.number(number, |[byte]| byte)?.unwrap_or(0))
    }

    /// A field of 32 bits; 0 when it is left out.
    pub fn i32(&self, number: usize) -> Result<i32> {
        Ok(self.number(number, i32::from_le_bytes)?.unwrap_or(0))
    }

    /// A field of 64 bits.
    pub fn i64(&self, number: usize) -> Result<Option<i64>> {
        self.number(number, i64::from_le_bytes)
    }

    /// A floating-point field; 0 when it is left out.
    pub fn f32(&self, number: usize) -> Result<f32> {
        Ok(self.number(number, f32::from_le_bytes)?.unwrap_or(0.0))
    }

    /// A text; empty when it is left out.
    pub fn text(&self, number: usize) -> Result<&'a str> {
        self.field(number)?.map_or(Ok(""), |at| self.file.text(at))
    }

    /// A text or a vector of scalars of `width` bytes as bytes, and where they start in the file.
    pub fn bytes(&self, number: usize, width: usize) -> Result<Option<(&'a [u8], usize)>> {
        let Some(at) = self.field(number)? else {
            return Ok(None);
        };
        let vector = self.file.vector(at, width)?;
        let bytes = self.file.bytes.get(vector.at..vector.at + vector.len * width);
        Ok(Some((bytes.ok_or_else(|| damaged(at))?, vector.at)))
    }

    /// A table.
    pub fn table(&self, number: usize) -> Result<Option<Table<'f, 'a>>> {
        let at = self.field(number)?;
        at.map(|at| Table::new(self.file, self.file.follow(at)?, self.depth))
            .transpose()
    }

    /// What `read` makes of each table of a vector.
    pub fn tables<T>(&self, number: usize, mut read: impl FnMut(Table<'f, 'a>) -> Result<T>) -> Result<Vec<T>> {
        self.each(number, |at| {
            read(Table::new(self.file, self.file.follow(at)?, self.depth)?)
        })
    }

    /// A vector of texts.
    pub fn texts(&self, number: usize) -> Result<Vec<&'a str>> {
        self.each(number, |at| self.file.text(at))
    }

    /// A vector of texts that need not be UTF-8, each with where it starts in the file.
    pub fn blobs(&self, number: usize) -> Result<Vec<(&'a [u8], usize)>> {
        self.each(number, |at| self.file.blob(at))
    }

    /// A vector of integers of 64 bits.
    pub fn i64s(&self, number: usize) -> Result<Vec<i64>> {
        let (bytes, _) = self.bytes(number, 8)?.unwrap_or_default();
        self.charge(bytes.len())?;
        Ok(bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes))
            .collect())
    }

    fn each<T>(&self, number: usize, mut read: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
        let Some(at) = self.field(number)? else {
            return Ok(Vec::new());
        };
        let vector = self.file.vector(at, 4)?;
        self.charge(vector.len.saturating_mul(size_of::<T>()))?;
        (0..vector.len).map(|index| read(vector.at + 4 * index)).collect()
    }
}

fn damaged(at: usize) -> Error {
    let message = format!("the file is damaged: something in it points outside of it or is no text (at byte {at})");
    Error::new(ErrorCode::InvalidModel, message)
}
