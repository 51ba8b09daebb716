//! Matrix products with weights of 2, 4 or 8 bits in blocks, unpacked where they are multiplied.

use super::super::kernel::{Binding, GpuCaps, GpuKernel};
use super::super::wgsl::shader_text;
use super::{elements, flat, flat_kernel};

const NBITS: &str = shader_text!("../../../shaders/matmul_nbits.wgsl");

/// Rows that a thread multiplies by one column.
const ROWS: usize = 4;

/// A product of f32 input 0 `[rows, depth]`.
#[derive(Debug, Clone)]
pub struct NBits {
    pub rows: usize,
    pub depth: usize,
    pub columns: usize,
    pub bits: usize,
    /// Elements of a block, a multiple of as many as a word holds.
    pub block: usize,
    /// Packed words `[columns, blocks, words]`.
    pub weights: Binding,
    /// f32s `[columns, blocks]`.
    pub scales: Binding,
    pub zeros: Option<Binding>,
    /// f32s `[columns]`.
    pub bias: Option<Binding>,
}

/// MatMulNBits.
pub fn matmul_nbits(product: &NBits, caps: &GpuCaps) -> Option<GpuKernel> {
    let lanes = 32 / product.bits;
    let blocks = product.depth.div_ceil(product.block);
    elements(&[product.rows, product.depth], caps)?;
    elements(&[product.columns, blocks, product.block / lanes], caps)?;
    let outputs = elements(&[product.rows, product.columns], caps)?;
    let rows = product.rows.clamp(1, ROWS);
    let mut dispatch = flat("matmul_nbits", NBITS)
        .define("BITS", product.bits)
        .define("LANES", lanes)
        .define("MASK", (1u32 << product.bits) - 1)
        .define("ROWS", rows)
        .storage("a", "f32", Binding::Input(0))
        .storage("weights", "u32", product.weights.clone())
        .storage("scales", "f32", product.scales.clone())
        .storage("output", "f32", Binding::Output(0))
        .param("rows", product.rows as u32)
        .param("columns", product.columns as u32)
        .param("depth", product.depth as u32)
        .param("blocks", blocks as u32)
        .param("block", product.block as u32)
        .param("block_words", (product.block / lanes) as u32)
        .param_f32("zero", (1u32 << (product.bits - 1)) as f32);
    if let Some(zeros) = &product.zeros {
        dispatch = dispatch.flag("ZEROS", true).storage("zeros", "f32", zeros.clone());
    }
    if let Some(bias) = &product.bias {
        dispatch = dispatch.flag("BIAS", true).storage("bias", "f32", bias.clone());
    }
    let threads = match outputs {
        0 => 0,
        _ => product.rows.div_ceil(rows) * product.columns,
    };
    flat_kernel(dispatch, threads, caps)
}
