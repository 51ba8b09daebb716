//! Elements moved between channels and space, and within matrices and sequences: DepthToSpace, SpaceToDepth, Trilu,
//! ReverseSequence.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator,
    lower::{Concrete, Movement, infer_moved_elements, invalid, lower_movement, mismatch},
};
use crate::{
    cpu::{
        kernel::CpuKernel,
        movement::{Indices, MoveFn, StridedCopy, dense_steps},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{Check, GpuKernel},
        kernels::{indexed, movement as gpu},
    },
    graph::Node,
    tensor::{Dim, display_shape, resolve_axis},
};

/// ONNX `DepthToSpace` and `SpaceToDepth`: blocks of channels become blocks of pixels of an NCHW image, or the other way
/// round. Any element type.
#[derive(Debug)]
struct DepthSpace {
    block: usize,
    to_space: bool,
    /// Whether a channel's number has the block's position in front (mode `DCR`) or behind (`CRD`).
    block_first: bool,
}

/// Makes [`DepthSpace`].
pub fn make_depth_space(node: &Node) -> Result<Box<dyn Operator>> {
    let block = node
        .attributes
        .int("blocksize")?
        .ok_or_else(|| invalid("attribute blocksize is missing"))?;
    let block_size = usize::try_from(block)
        .ok()
        .filter(|&block| (1..=1 << 15).contains(&block));
    let block = block_size.ok_or_else(|| invalid("attribute blocksize is not a size").actual(block.to_string()))?;
    let to_space = &*node.operator.name == "DepthToSpace";
    let block_first = match node.attributes.string("mode")?.unwrap_or("DCR") {
        "DCR" => true,
        "CRD" => false,
        other => return Err(invalid("attribute mode is neither \"DCR\" nor \"CRD\"").actual(other)),
    };
    Ok(Box::new(DepthSpace {
        block,
        to_space,
        block_first,
    }))
}

impl Operator for DepthSpace {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match ctx.shape(0) {
            Some([n, c, h, w]) => {
                let block = Dim::from(self.block);
                let area = block.clone() * block.clone();
                let divides = |dim: &Dim, by: &Dim| dim.modulo(by).known().is_none_or(|rest| rest == 0);
                let fits = if self.to_space {
                    divides(c, &area)
                } else {
                    divides(h, &block) && divides(w, &block)
                };
                if !fits {
                    return Err(mismatch("the input does not divide into blocks")
                        .expected(format!("blocks of {}", self.block))
                        .actual(display_shape(&[n, c, h, w])));
                }
                let times = |dim: &Dim, by: &Dim| dim.clone() * by.clone();
                if self.to_space {
                    vec![n.clone(), c.floor_div(&area), times(h, &block), times(w, &block)]
                } else {
                    vec![n.clone(), times(c, &area), h.floor_div(&block), w.floor_div(&block)]
                }
            }
            Some(shape) => {
                return Err(mismatch("the input has not four dimensions").actual(display_shape(shape)));
            }
            None => ctx.fresh_shape(4),
        };
        ctx.set_output(0, dtype, Some(shape));
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ctx.moves_gpu_type() {
            return Ok(None);
        }
        let deep = if self.to_space { ctx.input(0)? } else { ctx.output(0)? };
        let &[n, channels, h, w] = deep.shape.as_slice() else {
            return Ok(None);
        };
        let block = self.block;
        let c = channels / (block * block);
        let (shape, permutation) = match (self.to_space, self.block_first) {
            (true, true) => ([n, block, block, c, h, w], [0, 3, 4, 1, 5, 2]),
            (true, false) => ([n, c, block, block, h, w], [0, 1, 4, 2, 5, 3]),
            (false, true) => ([n, c, h, block, w, block], [0, 3, 5, 1, 2, 4]),
            (false, false) => ([n, c, h, block, w, block], [0, 1, 3, 5, 2, 4]),
        };
        Ok(gpu::transpose(&shape, &permutation, ctx.caps))
    }
}

impl Movement for DepthSpace {
    fn kernel_name(&self) -> &'static str {
        if self.to_space {
            "depth_to_space"
        } else {
            "space_to_depth"
        }
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let block = self.block;
        // The image with the deeper channels: n, c * block², h, w.
        let (deep, wide) = if self.to_space {
            (node.input(0)?, node.output()?)
        } else {
            (node.output()?, node.input(0)?)
        };
        let &[n, channels, h, w] = deep else {
            return Err(mismatch("the input has not four dimensions"));
        };
        let c = channels / (block * block);
        let dims = [n, c, h, block, w, block];
        let pixel = h * w;
        let deep_steps = if self.block_first {
            [channels * pixel, pixel, w, block * c * pixel, 1, c * pixel]
        } else {
            [channels * pixel, block * block * pixel, w, block * pixel, 1, pixel]
        };
        let deep_steps = deep_steps.map(|step| step as isize);
        let wide_steps = dense_steps(&dims);
        if wide.iter().product::<usize>() != dims.iter().product::<usize>() {
            return Err(mismatch("the input does not divide into blocks"));
        }
        let copy = if self.to_space {
            StridedCopy::new(&dims, &deep_steps, &wide_steps, 0, 0)
        } else {
            StridedCopy::new(&dims, &wide_steps, &deep_steps, 0, 0)
        };
        Ok(Box::new(move |moved| {
            let (size, source) = (moved.size, moved.data[0]);
            copy.run(size, source, moved.output()?)
        }))
    }
}

/// ONNX `Trilu` (opset 14): the upper (or, with `upper = 0`, lower) triangle of matrices from diagonal `k` on, the second
/// input; zeros elsewhere. Any element type.
#[derive(Debug)]
struct Trilu {
    upper: bool,
}

/// Makes [`Trilu`].
pub fn make_trilu(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Trilu {
        upper: node.attributes.flag("upper", true)?,
    }))
}

impl Operator for Trilu {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if ctx.rank(0).is_some_and(|rank| rank < 2) {
            return Err(mismatch("the input has no matrices"));
        }
        ctx.copy_type(0, 0)?;
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        lower_movement(self, ctx)
    }
}

impl Movement for Trilu {
    fn kernel_name(&self) -> &'static str {
        "trilu"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let &[.., rows, columns] = node.input(0)? else {
            return Err(mismatch("the input has no matrices"));
        };
        let (upper, has_diagonal) = (self.upper, node.has_input(1));
        Ok(Box::new(move |moved| {
            let diagonal = match has_diagonal {
                true => Indices::of(moved.inputs, 1)?.iter().next().unwrap_or(0),
                false => 0,
            };
            let (size, source) = (moved.size, moved.data[0]);
            let target = moved.output()?;
            let row_bytes = columns * size;
            if rows == 0 || row_bytes == 0 {
                return Ok(());
            }
            let rows_of = source.chunks_exact(row_bytes).zip(target.chunks_exact_mut(row_bytes));
            for (number, (source, target)) in rows_of.enumerate() {
                let edge = diagonal.saturating_add((number % rows) as i64);
                // The upper triangle begins at the edge, the lower ends behind it.
                let edge = edge.saturating_add(i64::from(!upper)).clamp(0, columns as i64) as usize * size;
                let kept = if upper { edge..row_bytes } else { 0..edge };
                target.fill(0);
                target[kept.clone()].copy_from_slice(&source[kept]);
            }
            Ok(())
        }))
    }
}

/// ONNX `ReverseSequence` (opset 10): along `time_axis`, the first `sequence_lens[b]` slices of batch `b` in reverse. Any
/// element type.
#[derive(Debug)]
struct ReverseSequence {
    batch_axis: i64,
    time_axis: i64,
}

/// Makes [`ReverseSequence`].
pub fn make_reverse_sequence(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(ReverseSequence {
        batch_axis: node.attributes.int("batch_axis")?.unwrap_or(1),
        time_axis: node.attributes.int("time_axis")?.unwrap_or(0),
    }))
}

impl ReverseSequence {
    fn axes(&self, rank: usize) -> Result<(usize, usize)> {
        let axes = (
            resolve_axis(self.batch_axis, rank)?,
            resolve_axis(self.time_axis, rank)?,
        );
        if axes.0 == axes.1 {
            return Err(invalid("attributes batch_axis and time_axis are the same"));
        }
        Ok(axes)
    }
}

impl Operator for ReverseSequence {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(rank) = ctx.rank(0) {
            self.axes(rank)?;
        }
        ctx.copy_type(0, 0)?;
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let shape = &ctx.input(0)?.shape;
        let (batch, time) = self.axes(shape.len())?;
        let lengths = ctx.input(1)?;
        let fits = ctx.checked(1, Check::Between(0, shape[time] as i64)).is_some();
        if !ctx.moves_gpu_type() || !fits || lengths.shape != [shape[batch]] {
            return Ok(None);
        }
        Ok(indexed::reverse_sequence(shape, batch, time, ctx.caps))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

impl Movement for ReverseSequence {
    fn kernel_name(&self) -> &'static str {
        "reverse_sequence"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let shape = node.input(0)?;
        let (batch, time) = self.axes(shape.len())?;
        if node.input(1)? != [shape[batch]] {
            return Err(mismatch("the sequence lengths are not one for each batch")
                .expected(format!("[{}]", shape[batch]))
                .actual(display_shape(node.input(1)?)));
        }
        let second = batch.max(time);
        let row: usize = shape[second + 1..].iter().product();
        let dims: Vec<usize> = shape[..=second].to_vec();
        let steps = dense_steps(&dims);
        let (steps_len, time_len) = (steps[time] as usize, shape[time]);
        Ok(Box::new(move |moved| {
            let lengths = Indices::of(moved.inputs, 1)?;
            let (size, source) = (moved.size, moved.data[0]);
            let bytes = row * size;
            if bytes == 0 {
                return Ok(());
            }
            for length in lengths.iter() {
                if !(0..=time_len as i64).contains(&length) {
                    return Err(
                        Error::new(ErrorCode::RunFailed, "a sequence length is outside the time dimension")
                            .expected(format!("0 to {time_len}"))
                            .actual(length.to_string()),
                    );
                }
            }
            for (number, target) in moved.output()?.chunks_exact_mut(bytes).enumerate() {
                let index = |axis: usize| number / steps[axis] as usize % dims[axis];
                let (at, length) = (index(time), lengths.get(index(batch)) as usize);
                let from = if at < length {
                    number + (length - 1) * steps_len - 2 * at * steps_len
                } else {
                    number
                };
                target.copy_from_slice(&source[from * bytes..(from + 1) * bytes]);
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, i64s, tensor};
    use super::*;
    use crate::tensor::Tensor;

    fn counting(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        tensor(shape, &(0..count as i32).collect::<Vec<_>>())
    }

    #[test]
    fn channels_become_pixels_and_back() {
        let dcr = TestNode::new("DepthToSpace", 13)
            .attr("blocksize", 2)
            .input(counting(&[1, 8, 1, 2]))
            .run1()
            .unwrap();
        assert_eq!(
            dcr,
            tensor(&[1, 2, 2, 4], &[0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15])
        );
        let crd = TestNode::new("DepthToSpace", 13)
            .attr("blocksize", 2)
            .attr("mode", "CRD")
            .input(counting(&[1, 8, 1, 2]));
        assert_eq!(
            crd.run1().unwrap(),
            tensor(&[1, 2, 2, 4], &[0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15])
        );
        for mode in ["DCR", "CRD"] {
            let node = |name: &str, x: Tensor| TestNode::new(name, 13).attr("blocksize", 3).attr("mode", mode).input(x);
            let x = counting(&[2, 18, 2, 5]);
            let there = node("DepthToSpace", x.clone()).run1().unwrap();
            assert_eq!(node("SpaceToDepth", there).run1().unwrap(), x, "{mode}");
            assert!(node("SpaceToDepth", counting(&[1, 1, 2, 3])).run().is_err());
        }
    }

    #[test]
    fn triangles_are_kept() {
        let node = |upper: i64, k: Option<i64>| {
            let node = TestNode::new("Trilu", 14).attr("upper", upper).input(counting(&[2, 3]));
            match k {
                Some(k) => node.input(i64s(&[], &[k])),
                None => node,
            }
        };
        assert_eq!(node(1, None).run1().unwrap(), tensor(&[2, 3], &[0, 1, 2, 0, 4, 5]));
        assert_eq!(node(0, None).run1().unwrap(), tensor(&[2, 3], &[0, 0, 0, 3, 4, 0]));
        assert_eq!(node(1, Some(2)).run1().unwrap(), tensor(&[2, 3], &[0, 0, 2, 0, 0, 0]));
        assert_eq!(node(0, Some(-5)).run1().unwrap(), tensor(&[2, 3], &[0; 6]));
        assert_eq!(node(1, Some(i64::MIN)).run1().unwrap(), counting(&[2, 3]));
    }

    #[test]
    fn sequences_are_reversed_up_to_their_lengths() {
        let node = |lengths: &[i64]| {
            let node = TestNode::new("ReverseSequence", 10)
                .attr("batch_axis", 0)
                .attr("time_axis", 1);
            node.input(counting(&[2, 4]))
                .input(i64s(&[lengths.len()], lengths))
                .run1()
        };
        assert_eq!(node(&[3, 0]).unwrap(), tensor(&[2, 4], &[2, 1, 0, 3, 4, 5, 6, 7]));
        let default = TestNode::new("ReverseSequence", 10)
            .input(counting(&[3, 2]))
            .input(i64s(&[2], &[3, 2]))
            .run1();
        assert_eq!(default.unwrap(), tensor(&[3, 2], &[4, 3, 2, 1, 0, 5]));
        assert_eq!(node(&[5, 0]).unwrap_err().code(), ErrorCode::RunFailed);
    }
}
