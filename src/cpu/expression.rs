//! Pointwise expressions as kernels over planned memory. Tensors of f32 and bool are evaluated as they are; f16 and bf16
//! are widened tile by tile around the evaluation.

use super::{
    elementwise::{Operand, TILE, Wide, load_operand, shape_error},
    kernel::CpuKernel,
};
use crate::{
    error::{Error, Result},
    pointwise::{
        Collapsed, Expr, Storage, collapse,
        reference::{self, Scalar},
    },
};

/// A kernel that evaluates `expr`. Where the expression says `F32`, tensors may be f32, f16 or bf16.
pub fn kernel(name: &'static str, expr: &Expr, inputs: Vec<Operand>, outputs: Vec<Operand>) -> Result<CpuKernel> {
    if inputs.len() != expr.inputs().len() || outputs.len() != expr.outputs().len() {
        return Err(Error::internal("an expression's inputs and outputs are not the node's"));
    }
    let Some(first) = outputs.first() else {
        return Err(Error::internal("an expression without an output"));
    };
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape.as_slice()).collect();
    let space = collapse(&first.shape, &shapes).map_err(shape_error)?;
    let expr = expr.clone();
    Ok(CpuKernel::compute(name, move |io| {
        let sources = inputs
            .iter()
            .map(|input| io.inputs.bytes(input.index))
            .collect::<Result<Vec<_>>>()?;
        let mut targets = outputs
            .iter()
            .map(|output| io.outputs.take_bytes(output.index))
            .collect::<Result<Vec<_>>>()?;
        let mut start = 0;
        let mut tiles = vec![0f32; TILE * inputs.len()];
        let mut results = vec![0f32; TILE * outputs.len()];
        while start < space.count {
            let len = TILE.min(space.count - start);
            for (number, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
                load(
                    &expr,
                    &space,
                    number,
                    &inputs[number],
                    sources[number],
                    start,
                    &mut tile[..len],
                )?;
            }
            for at in 0..len {
                let scalars: Vec<Scalar> = tiles.chunks_exact(TILE).map(|tile| Scalar::F32(tile[at])).collect();
                for (result, value) in results.chunks_exact_mut(TILE).zip(reference::eval(&expr, &scalars)) {
                    result[at] = value.f32();
                }
            }
            for ((result, output), target) in results.chunks_exact(TILE).zip(&outputs).zip(&mut targets) {
                store(output, &result[..len], target, start)?;
            }
            start += len;
        }
        Ok(())
    }))
}

fn load(
    expr: &Expr,
    space: &Collapsed,
    number: usize,
    input: &Operand,
    source: &[u8],
    start: usize,
    tile: &mut [f32],
) -> Result<()> {
    match expr.inputs()[number] {
        Storage::F32 => load_operand(space, number, input.dtype, source, start, tile),
        Storage::Bool => {
            let mut wide = [0i64; TILE];
            load_operand(space, number, input.dtype, source, start, &mut wide[..tile.len()])?;
            tile.iter_mut().zip(wide).for_each(|(to, from)| *to = from as f32);
            Ok(())
        }
    }
}

fn store(output: &Operand, values: &[f32], target: &mut [u8], start: usize) -> Result<()> {
    if output.dtype != crate::tensor::DType::Bool {
        return f32::store(output.dtype, values, target, start);
    }
    let mut wide = [0i64; TILE];
    wide.iter_mut()
        .zip(values)
        .for_each(|(to, &from)| *to = (from != 0.0) as i64);
    i64::store(output.dtype, &wide[..values.len()], target, start)
}
