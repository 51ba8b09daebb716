//! Products with weights that are quantised by blocks: `com.microsoft.MatMulNBits` and `MatMulBnb4`, the gathering of such
//! weights' rows, and `FusedMatMul` with batches in the middle.

use std::{borrow::Cow, sync::Arc};

use super::{
    super::{
        CpuLowering, GpuLowering, InferContext, Operator, TensorDesc,
        context::equal_dims,
        lower::{invalid, mismatch, unsupported},
        widen::widened,
    },
    blocks::{FP4, FloatBlocks, NF4, PackedBlocks, WeightRows, multiply, scratch_len},
    composite::Body,
    tensors::{count_attribute, floats, given, optional, shape_error},
};
use crate::{
    cpu::{
        codes,
        epilogue::{Bias, Epilogue},
        gemm::GemmShape,
        kernel::{CpuKernel, KernelInputs, scratch_as_f32},
        nibbles::Nibbles,
    },
    error::{Error, Result},
    gpu::{
        kernel::{Binding, ConstantData, ConstantKey, GpuKernel, MakeBytes},
        kernels::nbits::{NBits, matmul_nbits},
    },
    graph::{Attribute, Node, OperatorId, ValueId},
    tensor::{Bytes, DType, Dim, Tensor, element_count, resolve_axis},
};

/// `MatMulNBits`: A `[.., k]` times the transpose of weights `[n, k]` of 2, 4 or 8 bits, `[n, blocks, bytes]`, with scales
/// `[n, blocks]`, zero points as packed integers or as floats, the block of each element of a row (`g_idx`), and a bias
/// `[n]`. Floats; sums are kept in f32.
#[derive(Debug)]
struct MatMulNBits {
    n: usize,
    k: usize,
    bits: usize,
    block: usize,
}

/// Makes [`MatMulNBits`].
pub fn make_nbits(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let bits = attributes.int("bits")?.unwrap_or(4);
    if !matches!(bits, 2 | 4 | 8) {
        return Err(unsupported("weights of this many bits are not supported")
            .expected("2, 4 or 8")
            .actual(bits.to_string()));
    }
    if attributes.int("weight_prepacked")?.unwrap_or(0) != 0 {
        return Err(unsupported(
            "weights in the layout of another machine are not supported",
        ));
    }
    Ok(Box::new(MatMulNBits {
        n: count_attribute(node, "N")?,
        k: count_attribute(node, "K")?,
        bits: bits as usize,
        block: block_size(node)?,
    }))
}

/// Attribute `block_size`, a power of two of 16 at least.
fn block_size(node: &Node) -> Result<usize> {
    let size = count_attribute(node, "block_size")?;
    if size < 16 || !size.is_power_of_two() {
        return Err(invalid("attribute block_size has an unknown value")
            .expected("a power of two, at least 16")
            .actual(size.to_string()));
    }
    Ok(size)
}

/// The zero points of packed integers: `count` for each of the rows, which begin at whole bytes.
pub(super) fn unpack(bytes: &[u8], bits: usize, count: usize) -> Vec<f32> {
    let row_bytes = (count * bits).div_ceil(8).max(1);
    let mask = (1u32 << bits) - 1;
    let rows = bytes.chunks_exact(row_bytes);
    rows.flat_map(|row| {
        (0..count).map(move |index| (u32::from(row[index * bits / 8]) >> (index * bits % 8) & mask) as f32)
    })
    .collect()
}

/// The product's shape: the last axis of A, `depth` long, becomes `columns` long.
fn infer_product(ctx: &mut InferContext<'_>, depth: usize, columns: usize) -> Result<()> {
    let dtype = ctx.dtype(0)?;
    let shape = match ctx.shape(0) {
        Some([lead @ .., last]) => {
            equal_dims(&Dim::from(depth), last, "depth of the product")?;
            Some(lead.iter().cloned().chain([Dim::from(columns)]).collect())
        }
        Some([]) => return Err(mismatch("a factor of a matrix product is a scalar")),
        None => None,
    };
    ctx.set_output(0, dtype, shape);
    Ok(())
}

const SCALES: usize = 2;
const ZEROS: usize = 3;
const GROUPS: usize = 4;
const BIAS: usize = 5;

impl MatMulNBits {
    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// The constants of a zero point input as floats.
    fn zeros_of(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        match tensor.dtype() {
            DType::U8 => Ok(unpack(tensor.bytes(), self.bits, self.blocks())),
            _ => Ok(tensor.to_f32s()?.into_owned()),
        }
    }

    fn check(&self, ctx: &CpuLowering<'_>) -> Result<()> {
        let (n, blocks) = (self.n, self.blocks());
        let row_bytes = blocks * self.block * self.bits / 8;
        let count = |index: usize| {
            ctx.optional_input(index)
                .map(|desc| element_count(&desc.shape))
                .transpose()
        };
        let expect = |index: usize, expected: usize| -> Result<()> {
            match count(index)? {
                Some(found) if found != expected => Err(shape_error(
                    index,
                    format!("{expected} elements"),
                    &ctx.input(index)?.shape,
                )),
                _ => Ok(()),
            }
        };
        let overflow = || mismatch("the sizes of the weights exceed the address range");
        expect(1, n.checked_mul(row_bytes).ok_or_else(overflow)?)?;
        expect(SCALES, n.checked_mul(blocks).ok_or_else(overflow)?)?;
        match ctx.optional_input(ZEROS) {
            Some(zeros) if zeros.dtype == DType::U8 => expect(ZEROS, n * (blocks * self.bits).div_ceil(8))?,
            _ => expect(ZEROS, n * blocks)?,
        }
        expect(GROUPS, self.k).or_else(|_| expect(GROUPS, blocks * self.block))?;
        expect(BIAS, n)?;
        let types = [
            (1, &[DType::U8][..]),
            (SCALES, &[DType::F32]),
            (ZEROS, &[DType::F32, DType::U8]),
        ];
        for (index, types) in types
            .into_iter()
            .chain([(GROUPS, &[DType::I32][..]), (BIAS, &[DType::F32])])
        {
            if ctx
                .optional_input(index)
                .is_some_and(|desc| !types.contains(&desc.dtype))
            {
                return Err(ctx.unsupported_type(index));
            }
        }
        Ok(())
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        self.check(ctx)?;
        let &MatMulNBits { n, k, bits, block } = self;
        let blocks = self.blocks();
        let Some((&depth, lead)) = ctx.input(0)?.shape.split_last() else {
            return Err(mismatch("a factor of a matrix product is a scalar"));
        };
        equal_dims(&Dim::from(k), &Dim::from(depth), "depth of the product")?;
        let shape = GemmShape {
            m: element_count(lead)?,
            k,
            n,
        };
        // Constants are widened once.
        let prepared = |index: usize, what: &str| -> Result<Option<Arc<Vec<f32>>>> {
            let Some(desc) = ctx.optional_input(index) else {
                return Ok(None);
            };
            let Some(constant) = &desc.constant else {
                return Ok(None);
            };
            let layout = format!("{what} {bits} {blocks}");
            let made = ctx
                .prepared
                .get(desc.constant_id, &layout, || self.zeros_of(constant))?;
            Ok(Some(made))
        };
        let (scales, zeros) = (prepared(SCALES, "scales")?, prepared(ZEROS, "zero points")?);
        if let Some(kernel) = self.nibbles(ctx, shape, scales.as_deref(), zeros.as_deref())? {
            return Ok(kernel);
        }
        let zero_dtype = ctx.optional_input(ZEROS).map(|desc| desc.dtype);
        let has_groups = ctx.optional_input(GROUPS).is_some();
        let has_bias = ctx.optional_input(BIAS).is_some();
        let is_prepared = [(SCALES, scales.is_some()), (ZEROS, zeros.is_some())];
        let scratch_bytes = scratch_len(shape) * 4;
        let kernel = CpuKernel::compute_with_scratch("matmul_nbits", scratch_bytes, move |io| {
            let scales = match &scales {
                Some(scales) => &scales[..],
                None => io.inputs.get::<f32>(SCALES)?,
            };
            let zeros = match (&zeros, zero_dtype) {
                (Some(zeros), _) => Some(Cow::Borrowed(&zeros[..])),
                (None, Some(DType::U8)) => Some(Cow::Owned(unpack(io.inputs.bytes(ZEROS)?, bits, blocks))),
                (None, Some(_)) => Some(Cow::Borrowed(io.inputs.get::<f32>(ZEROS)?)),
                (None, None) => None,
            };
            let groups: Option<Vec<i64>> = match has_groups {
                true => Some(
                    io.inputs
                        .get::<i32>(GROUPS)?
                        .iter()
                        .map(|&group| group.into())
                        .collect(),
                ),
                false => None,
            };
            let weights = PackedBlocks {
                bits,
                block,
                blocks,
                data: io.inputs.bytes(1)?,
                scales,
                zeros: zeros.as_deref(),
                groups: groups.as_deref(),
            };
            let bias = bias_of(&io.inputs, has_bias)?;
            let epilogue = Epilogue {
                bias,
                ..Epilogue::none()
            };
            let (a, out) = (io.inputs.get::<f32>(0)?, io.outputs.take::<f32>(0)?);
            multiply(shape, a, &weights, out, scratch_as_f32(io.scratch), &epilogue);
            Ok(())
        });
        Ok(is_prepared
            .into_iter()
            .filter(|(_, is_prepared)| *is_prepared)
            .fold(kernel, |kernel, (index, _)| kernel.with_prepared_input(index)))
    }

    /// The GPU kernel, for constant weights and zero points whose blocks lie in order.
    fn on_gpu(&self, ctx: &GpuLowering<'_>) -> Option<GpuKernel> {
        let (a, weights, scales) = (
            ctx.optional_input(0)?,
            ctx.optional_input(1)?,
            ctx.optional_input(SCALES)?,
        );
        let (n, blocks) = (self.n, self.blocks());
        let count = |desc: &TensorDesc| desc.shape.iter().product::<usize>();
        let bytes = n * blocks * self.block * self.bits / 8;
        let is_f32 = |desc: &TensorDesc, elements: usize| desc.dtype == DType::F32 && count(desc) == elements;
        let (&depth, lead) = a.shape.split_last()?;
        if a.dtype != DType::F32
            || depth != self.k
            || weights.dtype != DType::U8
            || count(weights) != bytes
            || !is_f32(scales, n * blocks)
            || ctx.optional_input(GROUPS).is_some()
        {
            return None;
        }
        let constant = |desc: &TensorDesc, layout: String, size: usize, make: Box<MakeBytes>| {
            let key = ConstantKey {
                source: desc.constant_id,
                layout,
            };
            Binding::Constant(Arc::new(ConstantData::new(key, size as u64, make)))
        };
        let packed = weights.constant.clone()?;
        let zeros = match ctx.optional_input(ZEROS) {
            None => None,
            Some(zeros) if is_f32(zeros, n * blocks) => Some(Binding::Input(ZEROS)),
            Some(zeros) if zeros.dtype == DType::U8 && count(zeros) == n * (blocks * self.bits).div_ceil(8) => {
                let (tensor, bits) = (zeros.constant.clone()?, self.bits);
                let make = move || Ok(Bytes::from_f32s(unpack(tensor.at_hand()?.bytes(), bits, blocks)));
                let layout = format!("zero points {bits} {blocks}");
                Some(constant(zeros, layout, n * blocks * 4, Box::new(make)))
            }
            Some(_) => return None,
        };
        let bias = match ctx.optional_input(BIAS) {
            Some(bias) => Some(is_f32(bias, n).then_some(Binding::Input(BIAS))?),
            None => None,
        };
        let make = move || {
            packed
                .shared_bytes()
                .cloned()
                .ok_or_else(|| Error::internal("packed weights have no bytes"))
        };
        let product = NBits {
            rows: lead.iter().product(),
            depth,
            columns: n,
            bits: self.bits,
            block: self.block,
            weights: constant(weights, "packed".into(), bytes, Box::new(make)),
            scales: Binding::Input(SCALES),
            zeros,
            bias,
        };
        matmul_nbits(&product, ctx.caps)
    }

    /// The kernel for constant weights of four bits whose blocks lie in order.
    fn nibbles(
        &self,
        ctx: &CpuLowering<'_>,
        shape: GemmShape,
        scales: Option<&Vec<f32>>,
        zeros: Option<&Vec<f32>>,
    ) -> Result<Option<CpuKernel>> {
        let is_constant = zeros.is_some() || ctx.optional_input(ZEROS).is_none();
        let (Some(scales), Some(constant), 4, true, None) = (
            scales,
            ctx.constant(1),
            self.bits,
            is_constant,
            ctx.optional_input(GROUPS),
        ) else {
            return Ok(None);
        };
        let id = |index: usize| ctx.optional_input(index).map_or(0, |desc| desc.constant_id);
        let layout = format!("nibbles {} {} {} {}", self.k, self.block, id(SCALES), id(ZEROS));
        let made = ctx.prepared.get(id(1), &layout, || {
            let zeros = zeros.map(|zeros| &zeros[..]);
            Ok(Nibbles::new(
                constant.bytes(),
                scales,
                zeros,
                (self.k, self.n),
                self.block,
            ))
        })?;
        let has_bias = ctx.optional_input(BIAS).is_some();
        let scratch_bytes = codes::scratch_len(&*made, shape.m, ctx.threads) * 4;
        let kernel = CpuKernel::compute_with_scratch("matmul_4bits", scratch_bytes, move |io| {
            let epilogue = Epilogue {
                bias: bias_of(&io.inputs, has_bias)?,
                ..Epilogue::none()
            };
            let (a, out) = (io.inputs.get::<f32>(0)?, io.outputs.take::<f32>(0)?);
            let scratch = scratch_as_f32(io.scratch);
            codes::multiply(&*made, shape.m, a, out, scratch, &epilogue, io.threads);
            Ok(())
        });
        let inputs = [1, SCALES, ZEROS]
            .into_iter()
            .filter(|&index| ctx.optional_input(index).is_some());
        Ok(Some(inputs.fold(kernel, CpuKernel::with_prepared_input)))
    }
}

fn bias_of<'a>(inputs: &KernelInputs<'a>, has_bias: bool) -> Result<Bias<'a>> {
    Ok(match has_bias {
        true => Bias::PerColumn(inputs.get(BIAS)?),
        false => Bias::None,
    })
}

impl Operator for MatMulNBits {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_product(ctx, self.k, self.n)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match ctx.input(0)?.dtype {
            DType::F32 => self.cpu_f32(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        Ok(self.on_gpu(ctx))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn operations(&self, inputs: &[Vec<usize>], outputs: u64) -> u64 {
        2 * outputs * inputs[0].last().map_or(1, |&depth| depth as u64)
    }
}

/// `MatMulBnb4`: A `[.., k]` times the transpose of weights `[n, k]` in the 4-bit floats `fp4` (`quant_type` 0) or `nf4` (1) of
/// bitsandbytes. Floats.
#[derive(Debug)]
struct MatMulBnb4 {
    n: usize,
    k: usize,
    block: usize,
    table: &'static [f32; 16],
}

/// Makes [`MatMulBnb4`].
pub fn make_bnb4(node: &Node) -> Result<Box<dyn Operator>> {
    if !node.attributes.flag("transB", true)? {
        return Err(unsupported("MatMulBnb4 is only supported with transB 1"));
    }
    let table = match node.attributes.int("quant_type")? {
        Some(0) => &FP4,
        Some(1) => &NF4,
        other => {
            return Err(invalid("attribute quant_type is missing or has an unknown value")
                .expected("0 or 1")
                .actual(format!("{other:?}")));
        }
    };
    Ok(Box::new(MatMulBnb4 {
        n: count_attribute(node, "N")?,
        k: count_attribute(node, "K")?,
        block: block_size(node)?,
        table,
    }))
}

impl MatMulBnb4 {
    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let &MatMulBnb4 { n, k, block, table } = self;
        let Some((&depth, lead)) = ctx.input(0)?.shape.split_last() else {
            return Err(mismatch("a factor of a matrix product is a scalar"));
        };
        equal_dims(&Dim::from(k), &Dim::from(depth), "depth of the product")?;
        let count = element_count(&[n, k])?;
        for (index, expected) in [(1, count.div_ceil(2)), (2, count.div_ceil(block))] {
            let shape = &ctx.input(index)?.shape;
            if element_count(shape)? != expected {
                return Err(shape_error(index, format!("[{expected}]"), shape));
            }
        }
        if ctx.input(1)?.dtype != DType::U8 {
            return Err(ctx.unsupported_type(1));
        }
        let shape = GemmShape {
            m: element_count(lead)?,
            k,
            n,
        };
        Ok(CpuKernel::compute_with_scratch(
            "matmul_bnb4",
            scratch_len(shape) * 4,
            move |io| {
                let weights = FloatBlocks {
                    depth: k,
                    block,
                    data: io.inputs.bytes(1)?,
                    scales: io.inputs.get::<f32>(2)?,
                    table,
                };
                let (a, out) = (io.inputs.get::<f32>(0)?, io.outputs.take::<f32>(0)?);
                multiply(shape, a, &weights, out, scratch_as_f32(io.scratch), &Epilogue::none());
                Ok(())
            },
        ))
    }
}

impl Operator for MatMulBnb4 {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_product(ctx, self.k, self.n)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match ctx.input(0)?.dtype {
            DType::F32 => self.cpu_f32(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn is_heavy(&self) -> bool {
        true
    }
}

/// `GatherBlockQuantized`: the slices along `gather_axis` of a tensor that is quantised by blocks along `quantize_axis`,
/// dequantised. int4 and uint4, or uint8 that hold 8, or packed 4 or 2 bits along the last axis. An index out of range gives
/// zeros.
#[derive(Debug)]
struct GatherBlocks {
    gather_axis: i64,
    quantize_axis: i64,
    block: usize,
    bits: usize,
}

/// Makes [`GatherBlocks`].
pub fn make_gather(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let bits = attributes.int("bits")?.unwrap_or(4);
    if !matches!(bits, 2 | 4 | 8) {
        return Err(unsupported("weights of this many bits are not supported")
            .expected("2, 4 or 8")
            .actual(bits.to_string()));
    }
    let block = match attributes.int("block_size")? {
        Some(_) => block_size(node)?,
        None => 128,
    };
    Ok(Box::new(GatherBlocks {
        gather_axis: attributes.int("gather_axis")?.unwrap_or(0),
        quantize_axis: attributes.int("quantize_axis")?.unwrap_or(1),
        block,
        bits: bits as usize,
    }))
}

impl GatherBlocks {
    /// Elements that a stored element holds along the last axis.
    fn per_byte(&self, dtype: DType) -> usize {
        if dtype == DType::U8 { 8 / self.bits } else { 1 }
    }
}

impl Operator for GatherBlocks {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(2)?;
        let packed = Dim::from(self.per_byte(ctx.dtype(0)?));
        let shape = match (ctx.shape(0), ctx.shape(1)) {
            (Some(data), Some(indices)) => {
                let axis = resolve_axis(self.gather_axis, data.len())?;
                let mut shape = data.to_vec();
                if let Some(last) = shape.last_mut() {
                    *last = last.clone() * packed;
                }
                shape.splice(axis..=axis, indices.iter().cloned());
                Some(shape)
            }
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        if !matches!(dtype, DType::U8 | DType::I4 | DType::U4) {
            return Err(ctx.unsupported_type(0));
        }
        let &GatherBlocks {
            gather_axis,
            quantize_axis,
            block,
            ref bits,
        } = self;
        let (bits, per_byte) = (*bits, self.per_byte(dtype));
        Ok(CpuKernel::dynamic("gather_blocks", move |inputs| {
            gather(inputs, [gather_axis, quantize_axis], block, bits, per_byte).map(|result| vec![result])
        }))
    }
}

fn gather(
    inputs: &[Option<Tensor>],
    [gather_axis, quantize_axis]: [i64; 2],
    block: usize,
    bits: usize,
    per_byte: usize,
) -> Result<Tensor> {
    let (data, indices, scales) = (given(inputs, 0)?, given(inputs, 1)?, given(inputs, 2)?);
    let mut shape = data.shape().to_vec();
    let (gather_axis, quantize_axis) = (
        resolve_axis(gather_axis, shape.len())?,
        resolve_axis(quantize_axis, shape.len())?,
    );
    let last = shape.len() - 1;
    if per_byte > 1 && gather_axis == last {
        return Err(unsupported(
            "gathering along the axis that elements are packed along is not supported",
        ));
    }
    shape[last] = shape[last]
        .checked_mul(per_byte)
        .ok_or_else(|| mismatch("an axis is too long"))?;
    let mut scales_shape = shape.clone();
    scales_shape[quantize_axis] = shape[quantize_axis].div_ceil(block);
    super::tensors::expect_shape(2, scales, &scales_shape)?;
    let scale_values = scales.to_f32s()?;
    let codes = data.to_i64s()?;
    // Zero points are packed along the last axis as the data is, each row beginning at a whole byte.
    let row = scales_shape[last].div_ceil(per_byte).max(1);
    let zeros = match optional(inputs, 3) {
        Some(zeros) if zeros.len() == element_count(&scales_shape[..last])? * row => Some(zeros.to_i64s()?),
        Some(zeros) => return Err(shape_error(3, "a zero point for each scale", zeros.shape())),
        None => None,
    };
    let mask = if per_byte > 1 { (1i64 << bits) - 1 } else { -1 };
    let unpacked = |values: &[i64], index: usize, length: usize, row: usize| {
        if per_byte == 1 {
            return values[index];
        }
        let (outer, column) = (index / length, index % length);
        values[outer * row + column / per_byte] >> (column % per_byte * bits) & mask
    };
    let middle = if data.dtype() == DType::U8 {
        1i64 << (bits - 1)
    } else {
        0
    };
    let inner: usize = shape[gather_axis + 1..].iter().product();
    let outer: usize = shape[..gather_axis].iter().product();
    let bound = shape[gather_axis];
    let block_inner: usize = shape[quantize_axis + 1..].iter().product();
    let (axis_len, axis_blocks) = (shape[quantize_axis], scales_shape[quantize_axis]);
    let data_row = data.shape()[last];
    let picks = indices.to_i64s()?;
    let mut out_shape = shape.clone();
    out_shape.splice(gather_axis..=gather_axis, indices.shape().iter().copied());
    let mut out = super::tensors::zeros(&out_shape)?;
    let targets = out.chunks_exact_mut(inner.max(1));
    for (place, target) in targets.enumerate().take(outer * picks.len()) {
        let pick = picks[place % picks.len()];
        let pick = if pick < 0 {
            pick.saturating_add(bound as i64)
        } else {
            pick
        };
        let Some(pick) = usize::try_from(pick).ok().filter(|&pick| pick < bound) else {
            continue;
        };
        let start = (place / picks.len() * bound + pick) * inner;
        for (index, to) in (start..).zip(target) {
            let (rest, within) = (index / block_inner, index % block_inner);
            let scale = (rest / axis_len * axis_blocks + rest % axis_len / block) * block_inner + within;
            let code = unpacked(&codes, index, shape[last], data_row);
            let zero = match &zeros {
                Some(zeros) => unpacked(zeros, scale, scales_shape[last], row),
                None => middle,
            };
            *to = (code - zero) as f32 * scale_values[scale];
        }
    }
    floats(scales.dtype(), &out_shape, out)
}

/// `com.microsoft.FusedMatMul`: ONNX's `MatMul` with a factor `alpha`, whose matrices may be transposed (`transA`, `transB`) or
/// have their batch axes between their rows and columns (`transBatchA`, `transBatchB`).
pub fn make_fused(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let operator = OperatorId::internal("FusedMatMul");
    let between = [
        attributes.flag("transBatchA", false)?,
        attributes.flag("transBatchB", false)?,
    ];
    if between == [false, false] {
        let mut twin = node.clone();
        twin.operator = operator;
        return super::super::registry::operator(&twin);
    }
    let mut body = Body::new(node);
    let mut factors = Vec::new();
    for (index, between) in between.into_iter().enumerate() {
        let x = body.input(index)?;
        factors.push(Some(if between { batches_first(&mut body, x)? } else { x }));
    }
    let kept: Vec<(String, Attribute)> = attributes
        .iter()
        .filter(|(name, _)| matches!(*name, "alpha" | "transA" | "transB"))
        .map(|(name, attribute)| (name.to_string(), attribute.clone()))
        .collect();
    let y = body.node(operator, factors, kept, 1)[0];
    body.finish(&[Some(y)])
}

/// `[m, batches.., k]` as `[batches.., m, k]`.
fn batches_first(body: &mut Body<'_>, x: ValueId) -> Result<ValueId> {
    let part = |body: &mut Body<'_>, start: i64, end: Option<i64>| {
        let mut attributes = vec![("start", Attribute::Int(start))];
        attributes.extend(end.map(|end| ("end", Attribute::Int(end))));
        body.op_with("Shape", &[x], &attributes)
    };
    let (rows, batches, columns) = (part(body, 0, Some(1)), part(body, 1, Some(-1)), part(body, -1, None));
    let axis = [("axis", Attribute::Int(0))];
    let any = body.ints(&[-1])?;
    let flat = body.op_with("Concat", &[rows, any, columns], &axis);
    let flat = body.op("Reshape", &[x, flat]);
    let moved = body.transpose(flat, &[1, 0, 2]);
    let shape = body.op_with("Concat", &[batches, rows, columns], &axis);
    Ok(body.op("Reshape", &[moved, shape]))
}

/// A product in memory of its own.
pub(super) fn product(shape: GemmShape, a: &[f32], weights: &dyn WeightRows, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let mut out = super::tensors::zeros(&[shape.m, shape.n])?;
    let mut scratch = super::tensors::zeros(&[scratch_len(shape)])?;
    let epilogue = Epilogue {
        bias: bias.map_or(Bias::None, Bias::PerColumn),
        ..Epilogue::none()
    };
    multiply(shape, a, weights, &mut out, &mut scratch, &epilogue);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};
    use crate::{error::ErrorCode, graph::OperatorId, tensor::Tensor};

    fn node(name: &str) -> TestNode {
        TestNode::of(OperatorId::new("com.microsoft", name, 1))
    }

    fn nbits(a: Tensor, bits: i64) -> TestNode {
        node("MatMulNBits")
            .attr("N", 1i64)
            .attr("K", 16i64)
            .attr("bits", bits)
            .attr("block_size", 16i64)
            .input(a)
    }

    #[test]
    fn constant_and_fed_weights_give_the_same_product() {
        let ones = |rows: usize| f32s(&[rows, 16], &vec![1.0; rows * 16]);
        // Codes 9 and 6, less zero points of 8 or 7.
        let (data, scale) = (tensor(&[1, 1, 8], &[0x69u8; 8]), f32s(&[1, 1], &[0.5]));
        for rows in [1, 6] {
            let plain = nbits(ones(rows), 4).constant(data.clone()).constant(scale.clone());
            let fed = nbits(ones(rows), 4).input(data.clone()).input(scale.clone());
            for (node, expected) in [(&plain, -4.0), (&fed, -4.0)] {
                assert_eq!(node.run1().unwrap(), f32s(&[rows, 1], &vec![expected; rows]));
            }
            let zeros = tensor(&[1, 1], &[7u8]);
            for node in [plain.clone().constant(zeros.clone()), fed.clone().input(zeros)] {
                assert_eq!(node.run1().unwrap(), f32s(&[rows, 1], &vec![4.0; rows]));
            }
        }
        assert_eq!(
            nbits(ones(0), 4).constant(data).constant(scale).run1().unwrap().shape(),
            [0, 1]
        );
    }

    #[test]
    fn weights_of_the_wrong_size_or_kind_are_errors() {
        let ones = || f32s(&[1, 16], &[1.0; 16]);
        let scale = || f32s(&[1, 1], &[0.5]);
        let code = |node: TestNode| node.run().unwrap_err().code();
        assert_eq!(
            code(nbits(ones(), 4).input(tensor(&[1, 1, 7], &[0u8; 7])).input(scale())),
            ErrorCode::ShapeMismatch
        );
        assert_eq!(
            code(nbits(ones(), 3).input(tensor(&[1, 1, 8], &[0u8; 8])).input(scale())),
            ErrorCode::UnsupportedOperator
        );
        assert_eq!(
            code(
                nbits(f32s(&[1, 8], &[1.0; 8]), 4)
                    .input(tensor(&[1, 1, 8], &[0u8; 8]))
                    .input(scale())
            ),
            ErrorCode::ShapeMismatch
        );
        let huge = nbits(ones(), 4).attr("N", 1i64 << 29).attr("block_size", 1i64 << 29);
        assert!(huge.input(tensor(&[1, 1, 8], &[0u8; 8])).input(scale()).run().is_err());
    }

    #[test]
    fn gathered_rows_out_of_range_are_zeros() {
        let data: Vec<u8> = (0..32).collect();
        let gathered = node("GatherBlockQuantized")
            .attr("bits", 8i64)
            .attr("block_size", 16i64)
            .constant(tensor(&[2, 16], &data))
            .input(i64s(&[3], &[-1, 2, 0]))
            .constant(f32s(&[2, 1], &[1.0, 0.5]))
            .run1()
            .unwrap();
        let row = |start: i32, scale: f32| (start..start + 16).map(move |code| (code - 128) as f32 * scale);
        let expected: Vec<f32> = row(16, 0.5).chain([0.0; 16]).chain(row(0, 1.0)).collect();
        assert_eq!(gathered, f32s(&[3, 16], &expected));
    }

    #[test]
    fn batches_between_rows_and_columns_move_to_the_front() {
        let a = f32s(&[2, 2, 1], &[1.0, 10.0, 2.0, 20.0]);
        let b = f32s(&[2, 1, 1], &[3.0, 5.0]);
        let product = node("FusedMatMul")
            .attr("transBatchA", 1i64)
            .input(a)
            .input(b)
            .run1()
            .unwrap();
        assert_tensor_close(&product, &f32s(&[2, 2, 1], &[3.0, 6.0, 50.0, 100.0]), 1e-6);
    }
}
