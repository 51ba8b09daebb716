//! The internal `Lanes`, which `optimize/lanes.rs` makes of pieces of the last axis that are joined in another order.

use super::{CpuLowering, InferContext, Operator, lower::mismatch};
use crate::{
    cpu::kernel::CpuKernel,
    error::Result,
    graph::Node,
    tensor::{DType, Dim},
};

/// `output[.., j] = input[.., i]` of f32, where attribute `lanes` has `i` at `j`, or `-input[.., i]`, where it has `-1 - i`.
#[derive(Debug)]
struct Lanes(Vec<i64>);

/// Makes [`Lanes`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Lanes(node.attributes.ints("lanes")?.unwrap_or(&[]).to_vec())))
}

impl Operator for Lanes {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = ctx.shape(0).map(|shape| {
            let mut shape = shape.to_vec();
            shape
                .last_mut()
                .into_iter()
                .for_each(|last| *last = Dim::from(self.0.len()));
            shape
        });
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let input = ctx.input(0)?;
        if input.dtype != DType::F32 {
            return Err(ctx.unsupported_type(0));
        }
        let from = input.shape.last().copied().unwrap_or(0);
        let lanes = self.0.iter().map(|&lane| match lane {
            0.. => (lane as usize, 1.0f32),
            _ => ((-1 - lane) as usize, -1.0),
        });
        let lanes: Vec<(usize, f32)> = lanes.collect();
        if lanes.iter().any(|&(lane, _)| lane >= from) {
            return Err(mismatch("a lane is beyond the last axis"));
        }
        Ok(CpuKernel::compute("lanes_f32", move |io| {
            let (input, out) = (io.inputs.get::<f32>(0)?, io.outputs.take::<f32>(0)?);
            if lanes.is_empty() {
                return Ok(());
            }
            io.threads.rows_mut(out, lanes.len(), lanes.len(), |first, out| {
                let rows = input[first * from..].chunks_exact(from);
                for (row, out) in rows.zip(out.chunks_exact_mut(lanes.len())) {
                    for (to, &(lane, sign)) in out.iter_mut().zip(&lanes) {
                        *to = row[lane] * sign;
                    }
                }
            });
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s};
    use crate::graph::OperatorId;

    #[test]
    fn lanes_are_taken_repeated_left_out_and_negated() {
        let node = TestNode::of(OperatorId::internal("Lanes"))
            .attr("lanes", &[-2i64, 0, 2, 2][..])
            .input(f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let expected = f32s(&[2, 4], &[-2.0, 1.0, 3.0, 3.0, -5.0, 4.0, 6.0, 6.0]);
        assert_eq!(node.run1().unwrap(), expected);
        let beyond = TestNode::of(OperatorId::internal("Lanes")).attr("lanes", &[3i64][..]);
        assert!(beyond.input(f32s(&[1, 3], &[1.0; 3])).run1().is_err());
    }
}
