//! `TensorProto` to [`Tensor`] and back: raw and typed data, data in other files, sparse tensors. Raw data and packed
//! floats stay in the bytes they came in.

use std::cell::{Cell, RefCell};

use super::external::{ExternalData, ExternalFile, check_location};
use super::message::Numbers;
use super::proto::{DATA_LOCATION_EXTERNAL, SparseTensorProto, TensorProto, data_type};
use super::sha1::Sha1;
use super::skim::LOCATION;
use super::wire::{ParseError, Slice, Writer};
use crate::error::{Error, ErrorCode, Result};
use crate::tensor::{Bool8, Bytes, DType, Element, Tensor, display_shape, element_count, map::HashMap};

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Error {
        Error::new(
            ErrorCode::InvalidModel,
            format!("the file is damaged or is no ONNX file: {error}"),
        )
    }
}

/// Memory that tensors may take beyond the file itself. Sparse tensors, integers of one byte that decode to eight and
/// functions that are called many times all grow; a file may grow so far and no further.
const EXPANSION_BASE: usize = 64 << 20;
const EXPANSION_PER_BYTE: usize = 256;

/// Reads the tensors of one file.
pub struct TensorReader<'x> {
    file: Bytes,
    external: &'x dyn ExternalData,
    /// External files that were opened, so that each is asked for (and its checksum taken) once.
    opened: RefCell<HashMap<String, External>>,
    expansion: Cell<usize>,
}

struct External {
    file: Box<dyn ExternalFile>,
    /// The ranges that were read, so that tensors that share their data share memory.
    read: HashMap<(u64, usize), Bytes>,
    /// Bytes that may still be read: a model may not take far more of a file than there is.
    allowance: u64,
    digest: Option<String>,
}

impl<'x> TensorReader<'x> {
    /// A reader of tensors whose messages borrow from `file`.
    pub fn new(file: Bytes, external: &'x dyn ExternalData) -> TensorReader<'x> {
        let expansion = Cell::new(
            file.len()
                .saturating_mul(EXPANSION_PER_BYTE)
                .saturating_add(EXPANSION_BASE),
        );
        TensorReader {
            file,
            external,
            opened: RefCell::default(),
            expansion,
        }
    }

    /// The tensor of a message. Errors name the tensor.
    pub fn tensor(&self, proto: &TensorProto<'_>) -> Result<Tensor> {
        self.dense(proto).map_err(|error| at_tensor(error, proto.name))
    }

    /// The dense form of a sparse tensor.
    pub fn sparse(&self, proto: &SparseTensorProto<'_>) -> Result<Tensor> {
        let name = proto.values.as_ref().map_or("", |values| values.name);
        self.densify(proto).map_err(|error| at_tensor(error, name))
    }

    /// Takes `size` bytes out of what this file may grow by.
    pub fn charge(&self, size: usize) -> Result<()> {
        match self.expansion.get().checked_sub(size) {
            Some(left) => {
                self.expansion.set(left);
                Ok(())
            }
            None => Err(Error::new(
                ErrorCode::LimitExceeded,
                "the model's tensors take far more memory than its file justifies",
            )),
        }
    }

    fn dense(&self, proto: &TensorProto<'_>) -> Result<Tensor> {
        if proto.segment.is_some() {
            return Err(Error::new(
                ErrorCode::UnsupportedModel,
                "tensors stored in segments are not supported",
            ));
        }
        let dtype = element_type(proto.data_type.unwrap_or(data_type::UNDEFINED))?;
        let shape = dimensions(&proto.dims)?;
        self.charge(size_of::<Tensor>() + size_of_val(shape.as_slice()))?;
        let count = element_count(&shape)?;
        if proto.data_location == Some(DATA_LOCATION_EXTERNAL) {
            let bytes = self.external_bytes(proto, dtype, count)?;
            return Tensor::from_bytes(dtype, &shape, bytes);
        }
        if dtype == DType::String {
            let texts = proto
                .string_data
                .iter()
                .map(|text| text.data.len() + size_of::<String>());
            self.charge(texts.sum())?;
            return strings(proto, &shape);
        }
        let bytes = match proto.raw_data {
            Some(raw) => self.shared(raw)?,
            None => self.typed(proto, dtype, count)?,
        };
        Tensor::from_bytes(dtype, &shape, bytes)
    }

    /// Bytes of the file, shared.
    fn shared(&self, slice: Slice<'_>) -> Result<Bytes> {
        self.file
            .slice(slice.offset, slice.offset + slice.data.len())
            .ok_or_else(|| Error::internal("a tensor's data was taken for a part of another file"))
    }

    /// The elements of one of the `*_data` fields as little-endian bytes.
    fn typed(&self, proto: &TensorProto<'_>, dtype: DType, count: usize) -> Result<Bytes> {
        match dtype {
            DType::F32 => self.floats(&proto.float_data, count, |value| value.to_le_bytes()),
            DType::F64 => self.floats(&proto.double_data, count, |value| value.to_le_bytes()),
            DType::I64 => self.integers(&proto.int64_data, count, Ok),
            DType::U64 => self.integers(&proto.uint64_data, count, Ok),
            DType::U32 => self.integers(&proto.uint64_data, count, narrow::<u64, u32>),
            DType::I32 => self.integers(&proto.int32_data, count, Ok),
            DType::I16 => self.integers(&proto.int32_data, count, narrow::<i32, i16>),
            DType::U16 => self.integers(&proto.int32_data, count, narrow::<i32, u16>),
            DType::I8 => self.integers(&proto.int32_data, count, narrow::<i32, i8>),
            DType::U8 => self.integers(&proto.int32_data, count, narrow::<i32, u8>),
            DType::Bool => self.integers(&proto.int32_data, count, |value| Ok(Bool8::from(value != 0))),
            // Bit patterns; writers that hold them in a signed type write negative numbers.
            DType::F16 | DType::BF16 => self.integers(&proto.int32_data, count, |value| {
                i16::try_from(value)
                    .map(|bits| bits as u16)
                    .or_else(|_| narrow::<i32, u16>(value))
            }),
            DType::I2
            | DType::I4
            | DType::U2
            | DType::U4
            | DType::F4E2M1
            | DType::F8E4M3FN
            | DType::F8E4M3FNUZ
            | DType::F8E5M2
            | DType::F8E5M2FNUZ
            | DType::F8E8M0 => self.integers(&proto.int32_data, dtype.byte_len(count).unwrap_or(count), |value| {
                i8::try_from(value)
                    .map(|bits| bits as u8)
                    .or_else(|_| narrow::<i32, u8>(value))
            }),
            DType::String => Err(Error::internal("strings are not made of bytes")),
        }
    }

    fn floats<T: super::message::Scalar, const N: usize>(
        &self,
        numbers: &Numbers<'_, T>,
        count: usize,
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Bytes> {
        check_count(numbers.len(), count)?;
        match numbers {
            // Packed floats are laid out as raw data is.
            Numbers::Packed(slice) => self.shared(*slice),
            Numbers::Decoded(values) => {
                self.charge(count.saturating_mul(N))?;
                Ok(values
                    .iter()
                    .flat_map(|&value| to_bytes(value))
                    .collect::<Vec<u8>>()
                    .into())
            }
        }
    }

    fn integers<T: super::message::Scalar, E: Element>(
        &self,
        numbers: &Numbers<'_, T>,
        count: usize,
        convert: impl Fn(T) -> Result<E>,
    ) -> Result<Bytes> {
        check_count(numbers.len(), count)?;
        self.charge(count.saturating_mul(size_of::<T>() + size_of::<E>()))?;
        let values = numbers.to_vec()?.into_iter().map(convert).collect::<Result<Vec<E>>>()?;
        Ok(Bytes::from(bytemuck::cast_slice::<E, u8>(&values)))
    }

    fn external_bytes(&self, proto: &TensorProto<'_>, dtype: DType, count: usize) -> Result<Bytes> {
        let wrong = |message: String| Error::new(ErrorCode::ExternalData, message);
        let Some(size) = dtype.byte_len(count) else {
            return Err(wrong("strings cannot be stored in another file".into()));
        };
        let reference = ExternalReference::read(proto)?;
        let size = match reference.length {
            // As long as it was: whether that is right is found as it would have been.
            Some(length) if reference.location == LOCATION => usize::try_from(length).unwrap_or(size),
            _ => size,
        };
        if let Some(length) = reference.length
            && length != size as u64
        {
            let message = format!("the model gives {length} bytes of external data to a tensor that needs {size}");
            return Err(wrong(message));
        }
        let mut opened = self.opened.borrow_mut();
        if !opened.contains_key(&reference.location) {
            let external = External::open(self.external, &reference.location)?;
            opened.insert(reference.location.clone(), external);
        }
        let external = opened.get_mut(&reference.location);
        let external = external.ok_or_else(|| Error::internal("an external file was forgotten"))?;
        external.check(&reference)?;
        external.range(&reference, size)
    }

    fn densify(&self, proto: &SparseTensorProto<'_>) -> Result<Tensor> {
        let (Some(values), Some(indices)) = (&proto.values, &proto.indices) else {
            return Err(invalid("a sparse tensor lacks its values or its indices"));
        };
        let values = self.dense(values)?;
        let indices = self.dense(indices)?;
        let shape = dimensions(&proto.dims)?;
        let count = element_count(&shape)?;
        // ONNX has them as int64; ONNX Runtime stores the narrowest type that holds them.
        if !matches!(indices.dtype(), DType::I64 | DType::I32 | DType::I16 | DType::I8) {
            return Err(invalid("the indices of a sparse tensor are not int64").actual(indices.dtype().name()));
        }
        let linear = linear_indices(&indices, values.len(), &shape)?;
        let distinct: crate::tensor::map::HashSet<usize> = linear.iter().copied().collect();
        if values.shape().len() != 1 || distinct.len() != linear.len() {
            return Err(invalid(
                "a sparse tensor's values are not a vector, or one of its indices is given twice",
            ));
        }
        match values.dtype().bits() {
            None => {
                self.charge(count.saturating_mul(size_of::<String>()))?;
                let mut dense = vec![String::new(); count];
                for (&at, value) in linear.iter().zip(values.strings()?) {
                    dense[at].clone_from(value);
                }
                Tensor::from_strings(&shape, dense)
            }
            Some(bits) if bits % 8 == 0 => {
                let width = bits / 8;
                self.charge(count.saturating_mul(width))?;
                let mut dense = vec![0u8; count * width];
                for (&at, value) in linear.iter().zip(values.bytes().chunks_exact(width)) {
                    dense[at * width..(at + 1) * width].copy_from_slice(value);
                }
                Tensor::from_bytes(values.dtype(), &shape, dense)
            }
            Some(_) => Err(Error::new(
                ErrorCode::UnsupportedOperator,
                format!("sparse tensors of {} are not supported", values.dtype()),
            )),
        }
    }
}

impl External {
    fn open(external: &dyn ExternalData, location: &str) -> Result<External> {
        let file = external.open(location)?;
        let allowance = file.size().saturating_mul(2).saturating_add(EXPANSION_BASE as u64);
        Ok(External {
            file,
            read: HashMap::new(),
            allowance,
            digest: None,
        })
    }

    fn range(&mut self, reference: &ExternalReference, size: usize) -> Result<Bytes> {
        let end = reference.offset.checked_add(size as u64);
        if end.is_none_or(|end| end > self.file.size()) {
            let message = format!("the external file {} is too short", reference.location);
            return Err(Error::new(ErrorCode::ExternalData, message)
                .expected(format!("{size} bytes from byte {}", reference.offset))
                .actual(format!("a file of {} bytes", self.file.size())));
        }
        if let Some(bytes) = self.read.get(&(reference.offset, size)) {
            return Ok(bytes.clone());
        }
        self.allowance = self.allowance.checked_sub(size as u64).ok_or_else(|| {
            let message = "the model's tensors take the same external data too often";
            Error::new(ErrorCode::LimitExceeded, message)
        })?;
        let bytes = self.file.read(reference.offset, size)?;
        self.read.insert((reference.offset, size), bytes.clone());
        Ok(bytes)
    }

    /// Compares the checksum of the whole file, when the reference has one.
    fn check(&mut self, reference: &ExternalReference) -> Result<()> {
        let Some(checksum) = &reference.checksum else {
            return Ok(());
        };
        let digest = match &mut self.digest {
            Some(digest) => digest,
            none => none.insert(digest(&*self.file)?),
        };
        if digest.eq_ignore_ascii_case(checksum) {
            return Ok(());
        }
        let message = format!(
            "the checksum of the external file {} does not match",
            reference.location
        );
        Err(Error::new(ErrorCode::ExternalData, message)
            .expected(checksum)
            .actual(digest.as_str()))
    }
}

/// The SHA-1 of a whole file, read piece by piece.
fn digest(file: &dyn ExternalFile) -> Result<String> {
    const PIECE: u64 = 1 << 20;
    let mut digest = Sha1::default();
    let mut at = 0;
    while at < file.size() {
        let length = PIECE.min(file.size() - at);
        digest.update(&file.read(at, length as usize)?);
        at += length;
    }
    Ok(digest.hex_digest())
}

/// The bytes that a tensor's elements take.
pub fn byte_size(proto: &TensorProto<'_>) -> Result<usize> {
    let dtype = element_type(proto.data_type.unwrap_or(data_type::UNDEFINED))?;
    let count = element_count(&dimensions(&proto.dims)?)?;
    let strings = || Error::new(ErrorCode::ExternalData, "strings cannot be stored in another file");
    dtype.byte_len(count).ok_or_else(strings)
}

/// Positions in the dense tensor, from linear indices `[n]` or coordinates `[n, rank]`.
fn linear_indices(indices: &Tensor, count: usize, shape: &[usize]) -> Result<Vec<usize>> {
    let outside = || {
        invalid(format!(
            "an index of a sparse tensor lies outside its shape {}",
            display_shape(shape)
        ))
    };
    let at = |index: i64, size: usize| usize::try_from(index).ok().filter(|&i| i < size).ok_or_else(outside);
    let flat = indices.to_i64s()?;
    if indices.shape() == [count] {
        let size = element_count(shape)?;
        flat.into_iter().map(|index| at(index, size)).collect()
    } else if indices.shape() == [count, shape.len()] {
        if shape.is_empty() {
            return Ok(vec![0; count]);
        }
        let position = |coordinates: &[i64]| {
            coordinates
                .iter()
                .zip(shape)
                .try_fold(0, |sum, (&index, &size)| Ok(sum * size + at(index, size)?))
        };
        flat.chunks_exact(shape.len()).map(position).collect()
    } else {
        Err(invalid("the indices of a sparse tensor have the wrong shape")
            .expected(format!("[{count}] or [{count}, {}]", shape.len()))
            .actual(display_shape(indices.shape())))
    }
}

/// Where a tensor's data stands outside the model file.
pub struct ExternalReference {
    pub location: String,
    pub offset: u64,
    pub length: Option<u64>,
    pub checksum: Option<String>,
}

impl ExternalReference {
    /// What the tensor says of it. A model must not name files outside its own folder.
    pub fn read(proto: &TensorProto<'_>) -> Result<ExternalReference> {
        let wrong = |message: String| Error::new(ErrorCode::ExternalData, message);
        let number = |key: &str, text: &str| {
            text.trim()
                .parse::<u64>()
                .map_err(|_| wrong(format!("the {key} of external data is not a number")).actual(text))
        };
        let mut reference = ExternalReference {
            location: String::new(),
            offset: 0,
            length: None,
            checksum: None,
        };
        for entry in &proto.external_data {
            match entry.key {
                "location" => reference.location = entry.value.to_string(),
                "offset" => reference.offset = number("offset", entry.value)?,
                "length" => reference.length = Some(number("length", entry.value)?),
                "checksum" => reference.checksum = Some(entry.value.trim().to_string()),
                // Writers may add keys of their own; they do not change the data.
                _ => {}
            }
        }
        check_location(&reference.location)?;
        Ok(reference)
    }
}

/// The element type with this number, or why there is none.
pub fn element_type(number: i32) -> Result<DType> {
    if let Some(dtype) = DType::from_onnx(number) {
        return Ok(dtype);
    }
    let name = match number {
        data_type::UNDEFINED => return Err(invalid("a tensor has no element type")),
        data_type::COMPLEX64 => "complex64",
        data_type::COMPLEX128 => "complex128",
        data_type::FLOAT8E4M3FN => "float8e4m3fn",
        data_type::FLOAT8E4M3FNUZ => "float8e4m3fnuz",
        data_type::FLOAT8E5M2 => "float8e5m2",
        data_type::FLOAT8E5M2FNUZ => "float8e5m2fnuz",
        data_type::FLOAT8E8M0 => "float8e8m0",
        data_type::FLOAT4E2M1 => "float4e2m1",
        data_type::FLOAT6E2M3 => "float6e2m3",
        data_type::FLOAT6E3M2 => "float6e3m2",
        data_type::UINT2 => "uint2",
        data_type::INT2 => "int2",
        _ => return Err(invalid(format!("{number} is not the number of an ONNX element type"))),
    };
    Err(Error::new(
        ErrorCode::UnsupportedOperator,
        format!("the element type {name} is not supported"),
    ))
}

/// A `TensorProto` with this name, as ONNX's test data files hold it.
pub fn write_tensor(name: &str, tensor: &Tensor) -> Vec<u8> {
    let mut writer = Writer::default();
    for &dim in tensor.shape() {
        writer.varint_field(1, dim as u64);
    }
    // The type's number is positive, so widening it is exact.
    writer.varint_field(2, tensor.dtype().to_onnx() as u64);
    if let Ok(strings) = tensor.strings() {
        for string in strings {
            writer.bytes_field(6, string.as_bytes());
        }
    }
    if !name.is_empty() {
        writer.bytes_field(8, name.as_bytes());
    }
    if tensor.dtype() != DType::String {
        writer.bytes_field(9, tensor.bytes());
    }
    writer.into_bytes()
}

fn strings(proto: &TensorProto<'_>, shape: &[usize]) -> Result<Tensor> {
    if proto.raw_data.is_some_and(|raw| !raw.data.is_empty()) {
        return Err(invalid("strings cannot be stored as raw data"));
    }
    let text = |slice: &Slice<'_>| match std::str::from_utf8(slice.data) {
        Ok(text) => Ok(text.to_string()),
        Err(_) => Err(invalid(format!(
            "a string is not valid UTF-8 (at byte {})",
            slice.offset
        ))),
    };
    Tensor::from_strings(shape, proto.string_data.iter().map(text).collect::<Result<_>>()?)
}

fn dimensions(dims: &Numbers<'_, i64>) -> Result<Vec<usize>> {
    check_rank(dims.len())?;
    let size = |dim: i64| usize::try_from(dim).map_err(|_| invalid(format!("{dim} is not the size of a dimension")));
    dims.to_vec()?.into_iter().map(size).collect()
}

/// More dimensions than any array library has; work on shapes may be quadratic in their number.
const MAX_RANK: usize = 64;

/// An error for shapes of absurdly many dimensions.
pub fn check_rank(rank: usize) -> Result<()> {
    if rank <= MAX_RANK {
        return Ok(());
    }
    Err(Error::new(ErrorCode::LimitExceeded, "a tensor has too many dimensions")
        .expected(format!("at most {MAX_RANK}"))
        .actual(rank.to_string()))
}

fn narrow<T: Copy + std::fmt::Display, E: TryFrom<T>>(value: T) -> Result<E> {
    E::try_from(value).map_err(|_| invalid(format!("the value {value} does not fit the tensor's element type")))
}

fn check_count(found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(invalid("a tensor's data does not fit its shape")
        .expected(format!("{expected} values"))
        .actual(format!("{found} values")))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}

fn at_tensor(error: Error, name: &str) -> Error {
    if name.is_empty() { error } else { error.at_input(name) }
}

#[cfg(test)]
mod tests {
    use super::super::external::NoExternalData;
    use super::super::message::Message;
    use super::super::value::read_tensor;
    use super::*;

    fn bytes(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        fill(&mut writer);
        writer.into_bytes()
    }

    /// A vector of `dims` and a type, with data by `fill`.
    fn tensor(dims: &[i64], dtype: i32, fill: impl FnOnce(&mut Writer)) -> Result<Tensor> {
        let message = bytes(|t| {
            for &dim in dims {
                t.varint_field(1, dim as u64);
            }
            t.varint_field(2, dtype as u64);
            t.bytes_field(8, b"w");
            fill(t);
        });
        read_tensor(message).map(|(_, tensor)| tensor)
    }

    #[test]
    fn tensors_of_every_type_are_written_and_read_back() {
        for dtype in DType::ALL {
            let tensor = Tensor::zeros(dtype, &[3, 1]).unwrap();
            assert_eq!(
                read_tensor(write_tensor("x", &tensor)).unwrap(),
                ("x".to_string(), tensor)
            );
        }
        let texts = Tensor::from_strings(&[2], vec!["".into(), "käse".into()]).unwrap();
        assert_eq!(read_tensor(write_tensor("", &texts)).unwrap().1, texts);
    }

    #[test]
    fn raw_data_and_packed_floats_stay_in_the_file() {
        let data: Vec<u8> = [1.0f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        for field in [9, 4] {
            let file = Bytes::from(bytes(|t| {
                t.varint_field(1, 2);
                t.varint_field(2, 1);
                t.bytes_field(field, &data);
            }));
            let (_, tensor) = read_tensor(file.clone()).unwrap();
            assert!(file.slice_of(tensor.bytes()).is_some(), "field {field} was copied");
            assert_eq!(&*tensor.view::<f32>().unwrap(), &[1.0, -2.0]);
        }
    }

    #[test]
    fn typed_data_of_every_field_is_read() {
        let int32 = |dtype| {
            tensor(&[2], dtype, |t| t.bytes_field(5, &[1, 2]))
                .unwrap()
                .to_i64s()
                .unwrap()
        };
        for dtype in [
            data_type::INT32,
            data_type::INT16,
            data_type::INT8,
            data_type::UINT16,
            data_type::UINT8,
        ] {
            assert_eq!(int32(dtype), [1, 2]);
        }
        assert_eq!(int32(data_type::BOOL), [1, 1]);
        let halves = tensor(&[1], data_type::FLOAT16, |t| t.varint_field(5, 0x3c00)).unwrap();
        assert_eq!(&*halves.to_f32s().unwrap(), &[1.0]);
        let nibbles = tensor(&[3], data_type::INT4, |t| t.bytes_field(5, &[0x2f, 0x03])).unwrap();
        assert_eq!(nibbles.to_i64s().unwrap(), [-1, 2, 3]);
        let negative = tensor(&[1], data_type::INT64, |t| t.varint_field(7, -5i64 as u64)).unwrap();
        assert_eq!(negative.to_i64s().unwrap(), [-5]);
        let unsigned = tensor(&[1], data_type::UINT32, |t| t.varint_field(11, 7)).unwrap();
        assert_eq!(unsigned.to_i64s().unwrap(), [7]);
        let doubles = tensor(&[1], data_type::DOUBLE, |t| t.bytes_field(10, &2.5f64.to_le_bytes())).unwrap();
        assert_eq!(&*doubles.view::<f64>().unwrap(), &[2.5]);
    }

    #[test]
    fn data_that_does_not_fit_is_an_error_that_names_the_tensor() {
        let cases = [
            tensor(&[2], data_type::FLOAT, |t| t.bytes_field(9, &[0; 7])),
            tensor(&[2], data_type::FLOAT, |_| {}),
            tensor(&[2], data_type::UINT8, |t| t.bytes_field(5, &[1, 0x80, 0x02])),
            tensor(&[1], data_type::STRING, |t| t.bytes_field(9, b"raw")),
            tensor(&[1], data_type::STRING, |t| t.bytes_field(6, &[0xff])),
            tensor(&[-1], data_type::FLOAT, |_| {}),
            tensor(&[1], data_type::UNDEFINED, |t| t.bytes_field(9, &[0; 4])),
            tensor(&[1], 99, |t| t.bytes_field(9, &[0; 4])),
        ];
        for case in cases {
            let error = case.unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidTensor, "{error}");
            assert_eq!(error.place().input.as_deref(), Some("w"));
        }
    }

    #[test]
    fn huge_shapes_are_errors_before_memory_is_asked_for() {
        for dims in [&[1i64 << 40][..], &[1 << 40, 1 << 40], &[i64::MAX, 2]] {
            for dtype in [data_type::FLOAT, data_type::INT64, data_type::STRING] {
                assert!(tensor(dims, dtype, |_| {}).is_err());
            }
        }
    }

    #[test]
    fn shapes_of_many_dimensions_are_errors() {
        assert!(tensor(&[1; 64], data_type::UINT8, |t| t.bytes_field(9, &[0])).is_ok());
        let error = tensor(&[1; 65], data_type::UINT8, |t| t.bytes_field(9, &[0])).unwrap_err();
        assert_eq!(error.code(), ErrorCode::LimitExceeded);
    }

    #[test]
    fn unsupported_forms_say_so() {
        let complex = tensor(&[1], data_type::COMPLEX64, |t| t.bytes_field(9, &[0; 8])).unwrap_err();
        assert_eq!(complex.code(), ErrorCode::UnsupportedOperator);
        assert!(complex.message().contains("complex64"));
        let segment = tensor(&[1], data_type::FLOAT, |t| t.bytes_field(3, &[])).unwrap_err();
        assert_eq!(segment.code(), ErrorCode::UnsupportedModel);
    }

    fn external(entries: &[(&str, &str)], data: &'static [u8]) -> Result<Tensor> {
        let file = Bytes::from(bytes(|t| {
            t.varint_field(1, 2);
            t.varint_field(2, 2);
            t.varint_field(14, 1);
            for (key, value) in entries {
                t.message_field(13, |entry| {
                    entry.bytes_field(1, key.as_bytes());
                    entry.bytes_field(2, value.as_bytes());
                });
            }
        }));
        let proto = TensorProto::parse(Slice::whole(&file)).unwrap();
        let load = |location: &str| {
            assert_eq!(location, "weights/a.bin");
            Ok(Bytes::from(data))
        };
        TensorReader::new(file.clone(), &load).tensor(&proto)
    }

    #[test]
    fn external_data_is_sliced_and_checked() {
        let location = ("location", "weights/a.bin");
        let offset = ("offset", "1");
        let found = external(&[location, offset, ("length", "2")], b"abcd").unwrap();
        assert_eq!(found.bytes(), b"bc");
        let sha1 = ("checksum", "81FE8BFE87576C3ECB22426F8E57847382917ACF");
        assert!(external(&[location, sha1], b"abcd").is_ok());

        let wrong = |entries: &[(&str, &str)]| external(entries, b"abcd").unwrap_err().code();
        assert_eq!(wrong(&[location, ("checksum", "00")]), ErrorCode::ExternalData);
        assert_eq!(wrong(&[location, ("offset", "3")]), ErrorCode::ExternalData);
        assert_eq!(wrong(&[location, ("offset", "-1")]), ErrorCode::ExternalData);
        assert_eq!(
            wrong(&[location, ("offset", "18446744073709551615")]),
            ErrorCode::ExternalData
        );
        assert_eq!(wrong(&[location, ("length", "3")]), ErrorCode::ExternalData);
        for outside in [
            "",
            "/etc/passwd",
            "../a.bin",
            "b/../../a.bin",
            "C:\\a.bin",
            "\\a.bin",
            "a\0b",
        ] {
            assert_eq!(wrong(&[("location", outside)]), ErrorCode::ExternalData);
        }
        let alone = bytes(|t| {
            t.varint_field(1, 1);
            t.varint_field(2, 2);
            t.varint_field(14, 1);
            t.message_field(13, |entry| {
                entry.bytes_field(1, b"location");
                entry.bytes_field(2, b"a.bin");
            });
        });
        assert_eq!(read_tensor(alone).unwrap_err().code(), ErrorCode::ExternalData);
    }

    /// A sparse tensor of bytes.
    fn sparse(values: &[u8], index_dims: &[u64], indices: &[u8], dims: &[u64]) -> Result<Tensor> {
        let file = Bytes::from(bytes(|s| {
            s.message_field(1, |t| {
                t.varint_field(1, values.len() as u64);
                t.varint_field(2, 2);
                t.bytes_field(9, values);
            });
            s.message_field(2, |t| {
                for &dim in index_dims {
                    t.varint_field(1, dim);
                }
                t.varint_field(2, 7);
                t.bytes_field(7, indices);
            });
            for &dim in dims {
                s.varint_field(3, dim);
            }
        }));
        let proto = SparseTensorProto::parse(Slice::whole(&file)).unwrap();
        TensorReader::new(file.clone(), &NoExternalData).sparse(&proto)
    }

    #[test]
    fn sparse_tensors_become_dense() {
        let expected = [0, 0, 0, 5, 7, 0];
        assert_eq!(sparse(&[5, 7], &[2], &[3, 4], &[2, 3]).unwrap().bytes(), expected);
        assert_eq!(
            sparse(&[5, 7], &[2, 2], &[1, 0, 1, 1], &[2, 3]).unwrap().bytes(),
            expected
        );
        assert_eq!(sparse(&[], &[0], &[], &[2]).unwrap().bytes(), [0, 0]);
    }

    #[test]
    fn hostile_sparse_tensors_are_errors() {
        let code = |result: Result<Tensor>| result.unwrap_err().code();
        assert_eq!(code(sparse(&[5], &[1], &[6], &[2, 3])), ErrorCode::InvalidTensor);
        assert_eq!(code(sparse(&[5], &[1, 2], &[0, 3], &[2, 3])), ErrorCode::InvalidTensor);
        assert_eq!(
            code(sparse(&[5], &[1, 3], &[0, 0, 0], &[2, 3])),
            ErrorCode::InvalidTensor
        );
        assert_eq!(code(sparse(&[5, 6], &[2], &[1, 1], &[2, 3])), ErrorCode::InvalidTensor);
        assert_eq!(code(sparse(&[5], &[1], &[0], &[1 << 30, 8])), ErrorCode::LimitExceeded);
        // A dimension beyond the address space is no valid one where that has 32 bits.
        let beyond = if usize::BITS == 32 {
            ErrorCode::InvalidTensor
        } else {
            ErrorCode::LimitExceeded
        };
        assert_eq!(code(sparse(&[5], &[1], &[0], &[1 << 40, 1 << 40])), beyond);
    }
}
