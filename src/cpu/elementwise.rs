//! Element-wise work on every element type. Elements are widened tile by tile to one of three types (`i64` for
//! integers and bool, `f32` for the short floats, `f64`), worked on there, and narrowed again, so that each operation
//! is written once per wide type. `f32` expressions have their own evaluator, [`super::pointwise`].

use super::kernel::{CpuKernel, KernelInputs};
use crate::{
    error::{Error, ErrorCode, Result},
    pointwise::{Access, Collapsed, collapse},
    tensor::{Bool8, DType, Rounding, SmallFloat, packed},
};
use half::{bf16, f16};

/// Elements worked on at a time. A multiple of 4, so that tiles of packed elements begin at whole bytes.
pub const TILE: usize = 256;

/// An operand or result: which of the kernel's inputs or outputs it is, its element type and its shape.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Position among the node's inputs or outputs.
    pub index: usize,
    /// The element type.
    pub dtype: DType,
    /// The shape.
    pub shape: Vec<usize>,
}

/// A number type that elements are widened to while they are worked on.
pub trait Wide: Copy + Default + Send + Sync + 'static {
    /// Widens the elements at `offset`, `offset + stride`, … of the tensor `bytes`.
    fn load(dtype: DType, bytes: &[u8], offset: usize, stride: usize, out: &mut [Self]) -> Result<()>;

    /// Narrows values to elements `start..` of the tensor `bytes`. Integers wrap around, floats round to nearest.
    fn store(dtype: DType, values: &[Self], bytes: &mut [u8], start: usize) -> Result<()>;

    /// The elements themselves, when the type needs no widening.
    fn direct(dtype: DType, bytes: &[u8]) -> Option<&[Self]>;
}

/// The result of `f` on tiles of widened elements of the broadcast inputs, as a kernel.
///
/// `f` is given one tile for each input and the output's tile, all of one length.
pub fn kernel<I: Wide, O: Wide>(
    name: &'static str,
    inputs: Vec<Operand>,
    output: Operand,
    f: impl Fn(&[&[I]], &mut [O]) -> Result<()> + Send + Sync + 'static,
) -> Result<CpuKernel> {
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape.as_slice()).collect();
    let space = collapse(&output.shape, &shapes).map_err(shape_error)?;
    Ok(CpuKernel::compute(name, move |io| {
        let target = io.outputs.take_bytes(output.index)?;
        run(&inputs, &space, &io.inputs, output.dtype, target, &f)
    }))
}

/// The error for operands that do not broadcast.
pub fn shape_error(error: crate::pointwise::ShapeError) -> Error {
    Error::new(ErrorCode::ShapeMismatch, error.to_string())
}

fn run<I: Wide, O: Wide>(
    inputs: &[Operand],
    space: &Collapsed,
    sources: &KernelInputs<'_>,
    output_dtype: DType,
    target: &mut [u8],
    f: &dyn Fn(&[&[I]], &mut [O]) -> Result<()>,
) -> Result<()> {
    let mut buffers = vec![I::default(); inputs.len() * TILE];
    let mut results = [O::default(); TILE];
    let bytes = inputs
        .iter()
        .map(|input| sources.bytes(input.index))
        .collect::<Result<Vec<_>>>()?;
    let mut start = 0;
    while start < space.count {
        let len = TILE.min(space.count - start);
        for (number, buffer) in buffers.chunks_exact_mut(TILE).enumerate() {
            let is_direct =
                space.inputs[number] == Access::Contiguous && I::direct(inputs[number].dtype, bytes[number]).is_some();
            let is_loaded = start > 0 && space.inputs[number] == Access::Scalar;
            if !is_direct && !is_loaded {
                load_operand(
                    space,
                    number,
                    inputs[number].dtype,
                    bytes[number],
                    start,
                    &mut buffer[..len],
                )?;
            }
        }
        let mut tiles = Vec::with_capacity(inputs.len());
        for (number, buffer) in buffers.chunks_exact(TILE).enumerate() {
            let direct = match space.inputs[number] {
                Access::Contiguous => I::direct(inputs[number].dtype, bytes[number]),
                _ => None,
            };
            tiles.push(match direct {
                Some(elements) => elements.get(start..start + len).ok_or_else(too_short)?,
                None => &buffer[..len],
            });
        }
        f(&tiles, &mut results[..len])?;
        O::store(output_dtype, &results[..len], target, start)?;
        start += len;
    }
    Ok(())
}

/// Widens the elements of input `number` at the positions `start..` of the iteration space.
pub fn load_operand<I: Wide>(
    space: &Collapsed,
    number: usize,
    dtype: DType,
    bytes: &[u8],
    start: usize,
    tile: &mut [I],
) -> Result<()> {
    match &space.inputs[number] {
        Access::Scalar => I::load(dtype, bytes, 0, 0, tile),
        Access::Contiguous => I::load(dtype, bytes, start, 1, tile),
        Access::Strided(strides) => {
            let inner = space.inner();
            let inner_stride = space.inner_stride(number);
            let mut done = 0;
            while done < tile.len() {
                let position = start + done;
                let column = position % inner;
                let len = (inner - column).min(tile.len() - done);
                let mut row = position / inner;
                let mut offset = column * inner_stride;
                for (&dim, &stride) in space.dims.iter().zip(strides).rev().skip(1) {
                    offset += row % dim * stride;
                    row /= dim;
                }
                I::load(dtype, bytes, offset, inner_stride, &mut tile[done..done + len])?;
                done += len;
            }
            Ok(())
        }
    }
}

fn too_short() -> Error {
    Error::internal("a tensor's bytes are too few for its shape")
}

/// The elements of a tensor's bytes, which must be aligned for them.
pub fn elements<T: bytemuck::Pod>(bytes: &[u8]) -> Result<&[T]> {
    bytemuck::try_cast_slice(bytes).map_err(|reason| Error::internal(reason.to_string()))
}

/// The elements of a tensor's bytes, to be written.
pub fn elements_mut<T: bytemuck::Pod>(bytes: &mut [u8]) -> Result<&mut [T]> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|reason| Error::internal(reason.to_string()))
}

fn gather<T: bytemuck::Pod, W>(
    bytes: &[u8],
    offset: usize,
    stride: usize,
    out: &mut [W],
    widen: impl Fn(T) -> W,
) -> Result<()> {
    let source = elements::<T>(bytes)?;
    if out.is_empty() {
        return Ok(());
    }
    if stride == 1 {
        let source = source.get(offset..offset + out.len()).ok_or_else(too_short)?;
        out.iter_mut().zip(source).for_each(|(to, &from)| *to = widen(from));
        return Ok(());
    }
    let last = offset + (out.len() - 1) * stride;
    let source = source.get(offset..=last).ok_or_else(too_short)?;
    for (number, to) in out.iter_mut().enumerate() {
        *to = widen(source[number * stride]);
    }
    Ok(())
}

fn scatter<T: bytemuck::Pod, W: Copy>(
    bytes: &mut [u8],
    start: usize,
    values: &[W],
    narrow: impl Fn(W) -> T,
) -> Result<()> {
    let target = elements_mut::<T>(bytes)?
        .get_mut(start..start + values.len())
        .ok_or_else(too_short)?;
    target.iter_mut().zip(values).for_each(|(to, &from)| *to = narrow(from));
    Ok(())
}

fn small_float(dtype: DType) -> Result<(SmallFloat, usize)> {
    let format = SmallFloat::of(dtype).zip(dtype.bits());
    format.ok_or_else(|| not_wide(dtype, "f64"))
}

/// The bytes of `len` elements of `bits` bits; tiles begin at whole bytes.
fn packed_part(bits: usize, bytes: &mut [u8], start: usize, len: usize) -> Result<&mut [u8]> {
    let end = (start + len).div_ceil(8 / bits);
    bytes.get_mut(start * bits / 8..end).ok_or_else(too_short)
}

fn not_wide(dtype: DType, wide: &str) -> Error {
    let message = format!("{dtype} elements are not worked on as {wide}");
    Error::new(ErrorCode::UnsupportedOperator, message)
}

impl Wide for f32 {
    fn load(dtype: DType, bytes: &[u8], offset: usize, stride: usize, out: &mut [f32]) -> Result<()> {
        match dtype {
            DType::F32 => gather(bytes, offset, stride, out, |v: f32| v),
            DType::F16 => gather(bytes, offset, stride, out, f16::to_f32),
            DType::BF16 => gather(bytes, offset, stride, out, bf16::to_f32),
            _ => Err(not_wide(dtype, "f32")),
        }
    }

    fn store(dtype: DType, values: &[f32], bytes: &mut [u8], start: usize) -> Result<()> {
        match dtype {
            DType::F32 => scatter(bytes, start, values, |v| v),
            DType::F16 => scatter(bytes, start, values, f16::from_f32),
            DType::BF16 => scatter(bytes, start, values, bf16::from_f32),
            _ => Err(not_wide(dtype, "f32")),
        }
    }

    fn direct(dtype: DType, bytes: &[u8]) -> Option<&[f32]> {
        (dtype == DType::F32).then(|| elements(bytes).ok()).flatten()
    }
}

impl Wide for f64 {
    fn load(dtype: DType, bytes: &[u8], offset: usize, stride: usize, out: &mut [f64]) -> Result<()> {
        match dtype {
            DType::F64 => gather(bytes, offset, stride, out, |v: f64| v),
            DType::F32 => gather(bytes, offset, stride, out, |v: f32| v.into()),
            DType::F16 => gather(bytes, offset, stride, out, f16::to_f64),
            DType::BF16 => gather(bytes, offset, stride, out, bf16::to_f64),
            // Integers of mixed operands, such as the exponent of Pow; those beyond 2^53 round.
            DType::U64 => gather(bytes, offset, stride, out, |v: u64| v as f64),
            _ if dtype.is_small_float() => {
                let (format, bits) = small_float(dtype)?;
                for (number, to) in out.iter_mut().enumerate() {
                    *to = format.decode(packed::packed_get(bits, bytes, offset + number * stride));
                }
                Ok(())
            }
            _ => {
                let mut wide = [0i64; TILE];
                for (number, part) in out.chunks_mut(TILE).enumerate() {
                    let wide = &mut wide[..part.len()];
                    i64::load(dtype, bytes, offset + number * TILE * stride, stride, wide)?;
                    part.iter_mut().zip(wide).for_each(|(to, from)| *to = *from as f64);
                }
                Ok(())
            }
        }
    }

    fn store(dtype: DType, values: &[f64], bytes: &mut [u8], start: usize) -> Result<()> {
        match dtype {
            DType::F64 => scatter(bytes, start, values, |v| v),
            DType::F32 => scatter(bytes, start, values, |v| v as f32),
            DType::F16 => scatter(bytes, start, values, f16::from_f64),
            DType::BF16 => scatter(bytes, start, values, bf16::from_f64),
            _ if dtype.is_small_float() => {
                let (format, bits) = small_float(dtype)?;
                let encode = |&value: &f64| format.encode(value, true, Rounding::Nearest);
                packed::pack_into(
                    bits,
                    values.iter().map(encode),
                    packed_part(bits, bytes, start, values.len())?,
                );
                Ok(())
            }
            _ => Err(not_wide(dtype, "f64")),
        }
    }

    fn direct(dtype: DType, bytes: &[u8]) -> Option<&[f64]> {
        (dtype == DType::F64).then(|| elements(bytes).ok()).flatten()
    }
}

/// `u64` values keep their bits.
impl Wide for i64 {
    fn load(dtype: DType, bytes: &[u8], offset: usize, stride: usize, out: &mut [i64]) -> Result<()> {
        match dtype {
            DType::I8 => gather(bytes, offset, stride, out, |v: i8| v.into()),
            DType::I16 => gather(bytes, offset, stride, out, |v: i16| v.into()),
            DType::I32 => gather(bytes, offset, stride, out, |v: i32| v.into()),
            DType::I64 | DType::U64 => gather(bytes, offset, stride, out, |v: i64| v),
            DType::U8 => gather(bytes, offset, stride, out, |v: u8| v.into()),
            DType::U16 => gather(bytes, offset, stride, out, |v: u16| v.into()),
            DType::U32 => gather(bytes, offset, stride, out, |v: u32| v.into()),
            DType::Bool => gather(bytes, offset, stride, out, |v: Bool8| bool::from(v).into()),
            DType::I2 | DType::I4 | DType::U2 | DType::U4 => {
                let bits = dtype.bits().unwrap_or(4);
                for (number, to) in out.iter_mut().enumerate() {
                    let value = packed::packed_get(bits, bytes, offset + number * stride);
                    *to = match dtype.is_unsigned() {
                        true => value.into(),
                        false => packed::sign_extend(bits, value).into(),
                    };
                }
                Ok(())
            }
            _ => Err(not_wide(dtype, "i64")),
        }
    }

    fn store(dtype: DType, values: &[i64], bytes: &mut [u8], start: usize) -> Result<()> {
        match dtype {
            DType::I8 | DType::U8 => scatter(bytes, start, values, |v| v as u8),
            DType::I16 | DType::U16 => scatter(bytes, start, values, |v| v as u16),
            DType::I32 | DType::U32 => scatter(bytes, start, values, |v| v as u32),
            DType::I64 | DType::U64 => scatter(bytes, start, values, |v| v),
            DType::Bool => scatter(bytes, start, values, |v| (v != 0) as u8),
            DType::I2 | DType::I4 | DType::U2 | DType::U4 => {
                let bits = dtype.bits().unwrap_or(4);
                let target = packed_part(bits, bytes, start, values.len())?;
                packed::pack_into(bits, values.iter().map(|&value| value as u8), target);
                Ok(())
            }
            _ => Err(not_wide(dtype, "i64")),
        }
    }

    fn direct(dtype: DType, bytes: &[u8]) -> Option<&[i64]> {
        matches!(dtype, DType::I64 | DType::U64)
            .then(|| elements(bytes).ok())
            .flatten()
    }
}
