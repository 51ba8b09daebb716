//! Permuted dimensions.

use super::{
    CpuLowering, GpuLowering, InferContext, Operator,
    lower::{Concrete, Movement, infer_moved_elements, lower_movement, mismatch},
};
use crate::{
    cpu::{
        kernel::CpuKernel,
        movement::{MoveFn, StridedCopy, dense_steps},
    },
    error::Result,
    gpu::{kernel::GpuKernel, kernels::movement},
    graph::Node,
    tensor::resolve_axis,
};

/// ONNX `Transpose`: output dimension `i` is input dimension `perm[i]`; without `perm` they are reversed. Any element
/// type.
#[derive(Debug)]
struct Transpose {
    permutation: Option<Vec<i64>>,
}

/// Makes [`Transpose`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Transpose {
        permutation: node.attributes.ints("perm")?.map(<[i64]>::to_vec),
    }))
}

impl Transpose {
    fn permutation(&self, rank: usize) -> Result<Vec<usize>> {
        let Some(list) = &self.permutation else {
            return Ok((0..rank).rev().collect());
        };
        let axes = list
            .iter()
            .map(|&axis| resolve_axis(axis, rank))
            .collect::<Result<Vec<_>>>()?;
        let mut sorted = axes.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..rank) {
            return Err(
                mismatch("attribute perm is not a permutation of the input's dimensions")
                    .expected(format!("each of 0..{rank} once"))
                    .actual(format!("{list:?}")),
            );
        }
        Ok(axes)
    }
}

impl Operator for Transpose {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match ctx.shape(0) {
            Some(input) => {
                let axes = self.permutation(input.len())?;
                Some(axes.into_iter().map(|axis| input[axis].clone()).collect())
            }
            None => None,
        };
        ctx.set_output(0, dtype, shape);
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let shape = &ctx.input(0)?.shape;
        let moved = self
            .permutation(shape.len())?
            .into_iter()
            .filter(|&axis| shape[axis] != 1);
        if moved.is_sorted() {
            // Only dimensions of one change places.
            return Ok(CpuKernel::View { input: 0 });
        }
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let shape = &ctx.input(0)?.shape;
        let axes = self.permutation(shape.len())?;
        let is_view = axes.iter().filter(|&&axis| shape[axis] != 1).is_sorted();
        if is_view || !ctx.moves_gpu_type() {
            return Ok(None);
        }
        Ok(movement::transpose(shape, &axes, ctx.caps))
    }
}

impl Movement for Transpose {
    fn kernel_name(&self) -> &'static str {
        "transpose"
    }

    fn data(&self, _: usize) -> Vec<usize> {
        vec![0]
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let shape = node.input(0)?;
        let steps = dense_steps(shape);
        let axes = self.permutation(shape.len())?;
        let permuted: Vec<isize> = axes.iter().map(|&axis| steps[axis]).collect();
        let copy = StridedCopy::gather(node.output()?, &permuted, 0);
        Ok(Box::new(move |moved| {
            let (size, source) = (moved.size, moved.data[0]);
            copy.run(size, source, moved.output()?)
        }))
    }
}
