//! Pointwise expressions as kernels over planned memory. Tensors of f32 and bool are evaluated where they are; f16 and
//! bf16 are widened tile by tile around the evaluation.

use super::{
    elementwise::{Operand, TILE, Wide, elements_mut, load_operand, shape_error},
    kernel::{CpuKernel, KernelIo, scratch_as_f32},
    pointwise::{InputSlice, OutputSlice, PointwisePlan},
};
use crate::{
    error::{Error, ErrorCode, Result},
    pointwise::{Access, Collapsed, Expr, Storage, collapse},
    tensor::DType,
};

/// A kernel that evaluates `expr`. Where the expression says `F32`, tensors may be f32, f16 or bf16.
pub fn kernel(name: &'static str, expr: &Expr, inputs: Vec<Operand>, outputs: Vec<Operand>) -> Result<CpuKernel> {
    if inputs.len() != expr.inputs().len() || outputs.len() != expr.outputs().len() {
        return Err(Error::new(
            ErrorCode::InvalidGraph,
            "the node has other inputs and outputs than its operator",
        ));
    }
    let Some(first) = outputs.first() else {
        return Err(Error::internal("an expression without an output"));
    };
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.shape.as_slice()).collect();
    let is_whole = |operand: &Operand| matches!(operand.dtype, DType::F32 | DType::Bool);
    if inputs.iter().chain(&outputs).all(is_whole) {
        let plan = PointwisePlan::new(expr, &first.shape, &shapes).map_err(shape_error)?;
        let scratch = plan.scratch_len() * size_of::<f32>();
        return Ok(CpuKernel::compute_with_scratch(name, scratch, move |io| {
            run(&plan, &inputs, &outputs, io)
        }));
    }
    let space = collapse(&first.shape, &shapes).map_err(shape_error)?;
    let plan = PointwisePlan::new(expr, &[TILE], &vec![[TILE]; inputs.len()]).map_err(shape_error)?;
    let tiles = Tiles {
        storages: expr.inputs().iter().map(|&storage| storage == Storage::Bool).collect(),
        plan,
        space,
        inputs,
        outputs,
    };
    let scratch = tiles.plan.scratch_len() * size_of::<f32>();
    Ok(CpuKernel::compute_with_scratch(name, scratch, move |io| tiles.run(io)))
}

fn run(plan: &PointwisePlan, inputs: &[Operand], outputs: &[Operand], io: &mut KernelIo<'_>) -> Result<()> {
    let slice = |input: &Operand| {
        Ok(match input.dtype {
            DType::Bool => InputSlice::Bool(io.inputs.bytes(input.index)?),
            _ => InputSlice::F32(io.inputs.get(input.index)?),
        })
    };
    let inputs = inputs.iter().map(slice).collect::<Result<Vec<_>>>()?;
    let slice = |output: &Operand| {
        Ok(match output.dtype {
            DType::Bool => OutputSlice::bool(io.outputs.take_bytes(output.index)?),
            _ => OutputSlice::f32(io.outputs.take(output.index)?),
        })
    };
    let mut outputs = outputs.iter().map(slice).collect::<Result<Vec<_>>>()?;
    plan.run(&inputs, &mut outputs, scratch_as_f32(io.scratch), io.threads);
    Ok(())
}

/// The evaluation of an expression tile by tile, from and to other types than f32.
struct Tiles {
    plan: PointwisePlan,
    space: Collapsed,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    /// Which inputs of the expression are bool.
    storages: Vec<bool>,
}

impl Tiles {
    fn run(&self, io: &mut KernelIo<'_>) -> Result<()> {
        let sources = self
            .inputs
            .iter()
            .map(|input| io.inputs.bytes(input.index))
            .collect::<Result<Vec<_>>>()?;
        let mut targets = self
            .outputs
            .iter()
            .map(|output| io.outputs.take_bytes(output.index))
            .collect::<Result<Vec<_>>>()?;
        // One f32 for each element of each operand; bools use the first bytes.
        let mut loaded = vec![0f32; TILE * self.inputs.len()];
        let mut results = vec![0f32; TILE * self.outputs.len()];
        for start in (0..self.space.count).step_by(TILE) {
            let len = TILE.min(self.space.count - start);
            for (number, tile) in loaded.chunks_exact_mut(TILE).enumerate() {
                if start == 0 || self.space.inputs[number] != Access::Scalar {
                    self.load(number, sources[number], start, &mut tile[..len])?;
                }
            }
            let inputs: Vec<InputSlice<'_>> = loaded
                .chunks_exact(TILE)
                .zip(&self.storages)
                .map(|(tile, &is_bool)| match is_bool {
                    true => InputSlice::Bool(&bytemuck::cast_slice(tile)[..TILE]),
                    false => InputSlice::F32(tile),
                })
                .collect();
            let bound = self.plan.bind(&inputs, scratch_as_f32(io.scratch));
            let mut slices: Vec<OutputSlice<'_>> = results
                .chunks_exact_mut(TILE)
                .zip(&self.outputs)
                .map(|(tile, output)| match output.dtype {
                    DType::Bool => OutputSlice::bool(&mut bytemuck::cast_slice_mut(tile)[..len]),
                    _ => OutputSlice::f32(&mut tile[..len]),
                })
                .collect();
            bound.run_range(0, &mut slices);
            for ((tile, output), target) in results.chunks_exact(TILE).zip(&self.outputs).zip(&mut targets) {
                match output.dtype {
                    DType::Bool => {
                        let target = elements_mut::<u8>(target)?.get_mut(start..start + len);
                        let target = target.ok_or_else(|| Error::internal("an output is too short"))?;
                        target.copy_from_slice(&bytemuck::cast_slice(tile)[..len]);
                    }
                    dtype => f32::store(dtype, &tile[..len], target, start)?,
                }
            }
        }
        Ok(())
    }

    fn load(&self, number: usize, source: &[u8], start: usize, tile: &mut [f32]) -> Result<()> {
        let dtype = self.inputs[number].dtype;
        if !self.storages[number] {
            return load_operand(&self.space, number, dtype, source, start, tile);
        }
        let mut wide = [0i64; TILE];
        let len = tile.len();
        load_operand(&self.space, number, dtype, source, start, &mut wide[..len])?;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(tile);
        bytes
            .iter_mut()
            .zip(&wide[..len])
            .for_each(|(to, &from)| *to = from as u8);
        Ok(())
    }
}
