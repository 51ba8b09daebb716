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

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let shape = node.input(0)?;
        let steps = dense_steps(shape);
        let axes = self.permutation(shape.len())?;
        let permuted: Vec<isize> = axes.iter().map(|&axis| steps[axis]).collect();
        let copy = StridedCopy::gather(node.output()?, &permuted, 0);
        Ok(Box::new(move |moved| {
            let (size, source, threads) = (moved.size, moved.data[0], moved.threads);
            copy.run_on(threads, size, source, moved.output()?)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, tensor};
    use crate::tensor::{DType, Tensor};

    #[test]
    fn dimensions_are_permuted_or_reversed() {
        let x = || f32s(&[2, 3, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let reversed = TestNode::new("Transpose", 13).input(x()).run1().unwrap();
        assert_eq!(reversed, f32s(&[1, 3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
        let kept = TestNode::new("Transpose", 13)
            .attr("perm", [2, 0, 1])
            .input(x())
            .run1()
            .unwrap();
        assert_eq!(kept, f32s(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        for perm in [vec![0, 1], vec![0, 1, 1], vec![0, 1, 3]] {
            assert!(
                TestNode::new("Transpose", 13)
                    .attr("perm", &perm[..])
                    .input(x())
                    .run()
                    .is_err()
            );
        }
    }

    #[test]
    fn packed_elements_and_strings_move_too() {
        let packed = Tensor::from_bytes(DType::U4, &[2, 3], vec![0x21, 0x43, 0x65]).unwrap();
        let result = TestNode::new("Transpose", 21).input(packed).run1().unwrap();
        assert_eq!(result.to_i64s().unwrap(), [1, 4, 2, 5, 3, 6]);
        let strings = Tensor::from_strings(&[2, 2], ["a", "b", "c", "d"].map(String::from).to_vec()).unwrap();
        let result = TestNode::new("Transpose", 13).input(strings).run1().unwrap();
        assert_eq!(result.strings().unwrap(), ["a", "c", "b", "d"]);
        let bytes = TestNode::new("Transpose", 13)
            .input(tensor(&[2, 2], &[1u8, 2, 3, 4]))
            .run1()
            .unwrap();
        assert_eq!(bytes, tensor(&[2, 2], &[1u8, 3, 2, 4]));
    }
}
