//! Products and convolutions of 8-bit integers by WGSL's packed dot product, where the device has it and the weights are
//! constant: those are packed once, the other factor at the beginning of each run. [`super::integer`] has the forms for
//! everything else, with the same results.

use std::sync::Arc;

use super::super::kernel::{Access, Binding, ConstantData, ConstantKey, GpuCaps, GpuKernel, GpuType};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::conv::Window;
use super::integer::Sums;
use super::{Constant, elements, finish_flat, flat, volume};

const DOT: &str = shader_text!("../../../shaders/integer_dot.wgsl");
const PACK: &str = shader_text!("../../../shaders/integer_pack.wgsl");

/// Shorter products do not fill the words that they are padded to.
const SHORTEST: usize = 12;

/// Constant weights, and whether their zero point is known to be that of their packed form.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    pub constant: Constant<'a>,
    pub is_centred: bool,
}

/// How much less a packed byte is than the integer it stands for.
pub fn shift(ty: GpuType) -> i32 {
    if ty == GpuType::U8 { 128 } else { 0 }
}

/// The sizes of a product: `parts` times `[rows, depth]` with `[depth, columns]`.
struct Sizes {
    parts: usize,
    rows: usize,
    depth: usize,
    columns: usize,
}

impl Sizes {
    fn depth16(&self) -> usize {
        self.depth.div_ceil(16)
    }

    /// Words along the depth.
    fn words(&self) -> usize {
        4 * self.depth16()
    }

    fn columns4(&self) -> usize {
        self.columns.div_ceil(4)
    }
}

/// The product of `[rows, depth]` with one constant matrix `[depth, columns]`; `None` where the plain form is to be taken.
pub fn matmul(sums: &Sums, [rows, depth, columns]: [usize; 3], weights: Weights, caps: &GpuCaps) -> Option<GpuKernel> {
    let sizes = Sizes {
        parts: 1,
        rows,
        depth,
        columns,
    };
    elements(&[rows, depth], caps)?;
    let packed = elements(&[rows, sizes.words()], caps)?;
    let pack = pack(sums.types[0])
        .storage("packed", "u32", Binding::Scratch(0, Access::ReadWrite))
        .param("words", sizes.words() as u32)
        .param("depth", depth as u32);
    let (words, columns4) = (sizes.words(), sizes.columns4());
    let size = elements(&[words + 1, columns4, 4], caps)?;
    let flip = shift(sums.types[1]) as u8;
    let second = laid_out(weights.constant, "dot_columns", size, move |bytes, out| {
        let (body, sums) = out.split_at_mut(words * columns4 * 16);
        for (k, row) in bytes.chunks_exact(columns.max(1)).enumerate() {
            for (column, &byte) in row.iter().enumerate() {
                let byte = byte ^ flip;
                body[(k / 4 * columns4 * 4 + column) * 4 + k % 4] = byte;
                add(&mut sums[column * 4..], byte);
            }
        }
    });
    let first = Binding::Scratch(0, Access::Read);
    let dot = bind(sums, &sizes, weights, [first, second]);
    finish(pack, packed, dot, &sizes, caps)
}

/// The convolution of `[images, channels, spatial…]` with constant weights; `None` where the plain form is to be taken.
pub fn conv(
    sums: &Sums,
    [x, w, y]: [&[usize]; 3],
    groups: usize,
    window: &Window,
    weights: Weights,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let ([images, channels_in, input @ ..], [_, channels, output @ ..]) = (x, y) else {
        return None;
    };
    let groups = groups.max(1);
    let sizes = Sizes {
        parts: images * groups,
        rows: channels / groups,
        depth: w.get(1..)?.iter().product(),
        columns: output.iter().product(),
    };
    let group_in = channels_in / groups;
    if w.get(..2)? != [*channels, group_in] {
        return None;
    }
    elements(x, caps)?;
    elements(y, caps)?;
    let (words, columns4) = (sizes.words(), sizes.columns4());
    let packed = elements(&[sizes.parts, words, columns4, 4], caps)?;
    let mut pack = volume::bind(pack(sums.types[0]), window, input, output)?
        .flag("PATCHES", true)
        .storage("packed", "u32", Binding::Scratch(0, Access::ReadWrite))
        .param("words", words as u32)
        .param("columns", 4 * columns4 as u32)
        .param("group_in", group_in as u32);
    let mut step = 1;
    for (axis, &size) in output.iter().rev().chain(&[1, 1]).take(3).enumerate() {
        pack = pack.param(format!("step{axis}"), step as u32);
        step *= size;
    }
    if let Some(zeros) = &sums.x_zeros {
        let ty = sums.types[0].wgsl();
        pack = pack.flag("XZERO", true).storage("x_zeros", ty, zeros.binding.clone());
    }
    let (depth, row) = (sizes.depth, 4 * words);
    let sums_at = channels * sizes.depth16();
    let size = elements(&[sums_at + channels.div_ceil(4), 4], caps)?;
    let flip = shift(sums.types[1]) as u8;
    let first = laid_out(weights.constant, "dot_rows", size, move |bytes, out| {
        let (body, sums) = out.split_at_mut(sums_at * 16);
        for (channel, from) in bytes.chunks_exact(depth.max(1)).enumerate() {
            for (k, &byte) in from.iter().enumerate() {
                body[channel * row + k] = byte ^ flip;
                add(&mut sums[channel * 4..], byte ^ flip);
            }
        }
    });
    let second = Binding::Scratch(0, Access::Read);
    let dot = bind(sums, &sizes, weights, [first, second])
        .flag("FIRST", true)
        .param("groups", groups as u32)
        .param("sums_at", sums_at as u32);
    finish(pack, packed, dot, &sizes, caps)
}

/// Adds a signed byte to the little-endian sum at the start of a slice.
fn add(sum: &mut [u8], byte: u8) {
    if let Some(sum) = sum.first_chunk_mut() {
        *sum = i32::from_le_bytes(*sum)
            .wrapping_add(i32::from(byte as i8))
            .to_le_bytes();
    }
}

/// A constant of `count` words that `lay_out` writes from the constant's own bytes.
fn laid_out(
    constant: Constant,
    layout: &str,
    count: usize,
    lay_out: impl Fn(&[u8], &mut [u8]) + Send + Sync + 'static,
) -> Binding {
    let tensor = constant.tensor.clone();
    let key = ConstantKey {
        source: constant.source,
        layout: layout.into(),
    };
    let size = count as u64 * GpuType::SIZE;
    let make = move || {
        let mut words = vec![0; size as usize];
        lay_out(tensor.at_hand()?.bytes(), &mut words);
        Ok(words.into())
    };
    Binding::Constant(Arc::new(ConstantData::new(key, size, Box::new(make))))
}

fn pack(ty: GpuType) -> DispatchBuilder {
    flat("integer_pack", PACK)
        .define("FLIP", shift(ty))
        .storage("input", ty.wgsl(), Binding::Input(0))
}

fn bind(sums: &Sums, sizes: &Sizes, weights: Weights, factors: [Binding; 2]) -> DispatchBuilder {
    let rows = if sizes.rows < 4 { 1 } else { 4 };
    let [first, second] = factors;
    let mut sums = sums.clone();
    sums.w_zeros = sums.w_zeros.filter(|_| !weights.is_centred);
    let ty = "vec4<u32>";
    sums.bind("integer_dot", DOT, [("first", ty, first), ("second", ty, second)])
        .define("ROWS", rows)
        .define("XSHIFT", shift(sums.types[0]))
        .define("WSHIFT", shift(sums.types[1]))
        .flag("WEIGHTSHIFT", !weights.is_centred)
        .param("rows", sizes.rows as u32)
        .param("tiles", sizes.rows.div_ceil(rows) as u32)
        .param("depth", sizes.depth as u32)
        .param("depth16", sizes.depth16() as u32)
        .param("columns", sizes.columns as u32)
        .param("columns4", sizes.columns4() as u32)
}

fn finish(
    pack: DispatchBuilder,
    packed: usize,
    dot: DispatchBuilder,
    sizes: &Sizes,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let rows = if sizes.rows < 4 { 1 } else { 4 };
    let threads = sizes.parts * sizes.rows.div_ceil(rows) * sizes.columns4();
    if !caps.packed_dot || sizes.depth < SHORTEST || threads == 0 {
        return None;
    }
    Some(GpuKernel {
        dispatches: vec![finish_flat(pack, packed, caps)?, finish_flat(dot, threads, caps)?],
        scratch: vec![packed as u64 * GpuType::SIZE],
        ..GpuKernel::default()
    })
}
