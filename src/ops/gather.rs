//! Elements and slices picked by index: Gather, GatherElements, GatherND.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator,
    lower::{Concrete, Movement, infer_moved_elements, lower_movement, mismatch},
};
use crate::{
    cpu::{
        kernel::CpuKernel,
        movement::{Indices, MoveFn, resolve_index},
    },
    error::Result,
    gpu::{
        kernel::GpuKernel,
        kernels::{indexed, movement},
    },
    graph::Node,
    tensor::{Dim, display_shape, resolve_axis, strides_of},
};

/// ONNX `Gather`: the slices of the first input along `axis` that the second input (of any shape) numbers. Any element
/// type; an index out of range is a run-time error.
#[derive(Debug)]
struct Gather {
    axis: i64,
}

/// Makes [`Gather`].
pub fn make_gather(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Gather {
        axis: node.attributes.int("axis")?.unwrap_or(0),
    }))
}

impl Operator for Gather {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match (ctx.shape(0), ctx.shape(1)) {
            (Some(data), Some(indices)) => {
                let axis = resolve_axis(self.axis, data.len())?;
                let mut shape = data[..axis].to_vec();
                shape.extend_from_slice(indices);
                shape.extend_from_slice(&data[axis + 1..]);
                Some(shape)
            }
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let data = ctx.input(0)?;
        if !ctx.moves_gpu_type() {
            return Ok(None);
        }
        let axis = resolve_axis(self.axis, data.shape.len())?;
        let picks = ctx.input(1)?.shape.iter().product();
        let indices = ctx.indices(1, &[data.shape[axis]]);
        Ok(indices.and_then(|(indices, checks)| {
            let kernel = movement::gather(&data.shape, axis, picks, indices, ctx.caps)?;
            Some(GpuKernel { checks, ..kernel })
        }))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

impl Movement for Gather {
    fn kernel_name(&self) -> &'static str {
        "gather"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let data = node.input(0)?;
        let axis = resolve_axis(self.axis, data.len())?;
        let bound = data[axis];
        let inner: usize = data[axis + 1..].iter().product();
        Ok(Box::new(move |moved| {
            let indices = Indices::of(moved.inputs, 1)?;
            let (source, row) = (moved.data[0], inner * moved.size);
            let target = moved.output()?;
            if indices.is_empty() || row == 0 || target.is_empty() {
                return Ok(());
            }
            let starts = indices
                .iter()
                .map(|index| Ok(resolve_index(index, bound)? * row))
                .collect::<Result<Vec<_>>>()?;
            let blocks = source.chunks_exact(bound * row);
            for (block, target) in blocks.zip(target.chunks_exact_mut(starts.len() * row)) {
                for (&start, target) in starts.iter().zip(target.chunks_exact_mut(row)) {
                    target.copy_from_slice(&block[start..start + row]);
                }
            }
            Ok(())
        }))
    }
}

/// ONNX `GatherElements` (opset 11): each output element comes from the place of its own index, with the one along
/// `axis` replaced by the second input's element there. Any element type.
#[derive(Debug)]
struct GatherElements {
    axis: i64,
}

/// Makes [`GatherElements`].
pub fn make_gather_elements(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(GatherElements {
        axis: node.attributes.int("axis")?.unwrap_or(0),
    }))
}

impl Operator for GatherElements {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        if let (Some(data), Some(indices)) = (ctx.shape(0), ctx.shape(1)) {
            let axis = resolve_axis(self.axis, data.len())?;
            let reaches_out = |(at, (dim, index)): (usize, (&Dim, &Dim))| {
                at != axis && dim.known().zip(index.known()).is_some_and(|(dim, index)| index > dim)
            };
            if data.len() != indices.len() || data.iter().zip(indices).enumerate().any(reaches_out) {
                return Err(mismatch("the shape of the indices does not fit the data's")
                    .expected(display_shape(data))
                    .actual(display_shape(indices)));
            }
        }
        let shape = ctx.shape(1).map(<[Dim]>::to_vec);
        ctx.set_output(0, dtype, shape);
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let (data, shape) = (&ctx.input(0)?.shape, &ctx.input(1)?.shape);
        let axis = resolve_axis(self.axis, data.len())?;
        let indices = ctx.indices(1, &[data[axis]]).filter(|_| ctx.moves_gpu_type());
        Ok(indices.and_then(|(indices, checks)| {
            let kernel = indexed::gather_elements(data, axis, shape, indices, ctx.caps)?;
            Some(GpuKernel { checks, ..kernel })
        }))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

impl Movement for GatherElements {
    fn kernel_name(&self) -> &'static str {
        "gather_elements"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let (data, shape) = (node.input(0)?.to_vec(), node.input(1)?.to_vec());
        let axis = resolve_axis(self.axis, data.len())?;
        let strides = strides_of(&data);
        if data.len() != shape.len() || (0..data.len()).any(|at| at != axis && shape[at] > data[at]) {
            return Err(mismatch("the shape of the indices does not fit the data's"));
        }
        Ok(Box::new(move |moved| {
            let indices = Indices::of(moved.inputs, 1)?;
            let (size, source) = (moved.size, moved.data[0]);
            for (flat, target) in moved.output()?.chunks_exact_mut(size).enumerate() {
                let (mut rest, mut offset) = (flat, 0);
                for at in (0..shape.len()).rev() {
                    let index = rest % shape[at];
                    rest /= shape[at];
                    if at != axis {
                        offset += index * strides[at];
                    }
                }
                offset += resolve_index(indices.get(flat), data[axis])? * strides[axis];
                target.copy_from_slice(&source[offset * size..(offset + 1) * size]);
            }
            Ok(())
        }))
    }
}

/// ONNX `GatherND` (opset 11): the last dimension of the second input holds indices into the first's leading
/// dimensions, after `batch_dims` that both share (opset 12). Any element type.
#[derive(Debug)]
struct GatherNd {
    batch_dims: usize,
}

/// Makes [`GatherNd`].
pub fn make_gather_nd(node: &Node) -> Result<Box<dyn Operator>> {
    let batch_dims = node.attributes.int("batch_dims")?.unwrap_or(0);
    let batch_dims = usize::try_from(batch_dims).map_err(|_| mismatch("attribute batch_dims is negative"))?;
    Ok(Box::new(GatherNd { batch_dims }))
}

impl GatherNd {
    /// How many dimensions an index has; checks ranks.
    fn depth<D: std::fmt::Display>(&self, data: &[D], indices: &[D], last: Option<usize>) -> Result<Option<usize>> {
        let room = data
            .len()
            .min(indices.len().saturating_sub(1))
            .checked_sub(self.batch_dims);
        let fits = room.is_some()
            && !indices.is_empty()
            && last.is_none_or(|last| last.saturating_add(self.batch_dims) <= data.len());
        if !fits {
            return Err(mismatch("the indices do not fit the data's rank")
                .expected(display_shape(data))
                .actual(display_shape(indices)));
        }
        Ok(last)
    }
}

impl Operator for GatherNd {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let mut shape = None;
        if let (Some(data), Some(indices)) = (ctx.shape(0), ctx.shape(1)) {
            let last = indices.last().and_then(Dim::size);
            if let Some(depth) = self.depth(data, indices, last)? {
                let mut dims = indices[..indices.len() - 1].to_vec();
                dims.extend_from_slice(&data[self.batch_dims + depth..]);
                shape = Some(dims);
            }
        }
        ctx.set_output(0, dtype, shape);
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let (data, shape) = (&ctx.input(0)?.shape, &ctx.input(1)?.shape);
        let depth = self.depth(data, shape, shape.last().copied())?.unwrap_or(0);
        let sizes = &data[self.batch_dims..self.batch_dims + depth];
        let indices = ctx.indices(1, sizes).filter(|_| ctx.moves_gpu_type());
        Ok(indices.and_then(|(indices, checks)| {
            let kernel = indexed::gather_nd(data, self.batch_dims, shape, indices, ctx.caps)?;
            Some(GpuKernel { checks, ..kernel })
        }))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

impl Movement for GatherNd {
    fn kernel_name(&self) -> &'static str {
        "gather_nd"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let (data, shape) = (node.input(0)?.to_vec(), node.input(1)?.to_vec());
        let depth = self.depth(&data, &shape, shape.last().copied())?.unwrap_or(0);
        let batch_dims = self.batch_dims;
        if data[..batch_dims] != shape[..batch_dims] {
            return Err(mismatch("the batch dimensions of data and indices differ"));
        }
        let strides = strides_of(&data);
        let batches: usize = data[..batch_dims].iter().product();
        let batch: usize = data[batch_dims..].iter().product();
        let inner: usize = data[batch_dims + depth..].iter().product();
        let per_batch: usize = shape[batch_dims..shape.len() - 1].iter().product();
        Ok(Box::new(move |moved| {
            let indices = Indices::of(moved.inputs, 1)?;
            let (size, source) = (moved.size, moved.data[0]);
            let row = inner * size;
            let target = moved.output()?;
            if row == 0 || target.is_empty() {
                return Ok(());
            }
            for (number, target) in target.chunks_exact_mut(row).enumerate().take(batches * per_batch) {
                let mut offset = number / per_batch * batch;
                for at in 0..depth {
                    let axis = batch_dims + at;
                    offset += resolve_index(indices.get(number * depth + at), data[axis])? * strides[axis];
                }
                target.copy_from_slice(&source[offset * size..offset * size + row]);
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s, tensor};
    use crate::error::ErrorCode;

    #[test]
    fn slices_are_gathered_along_any_axis() {
        let x = || f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let rows = TestNode::new("Gather", 13).input(x()).input(i64s(&[1, 2], &[1, -2]));
        assert_eq!(rows.run1().unwrap(), f32s(&[1, 2, 3], &[4.0, 5.0, 6.0, 1.0, 2.0, 3.0]));
        let columns = TestNode::new("Gather", 13)
            .attr("axis", -1)
            .input(x())
            .input(tensor(&[], &[2i32]));
        assert_eq!(columns.run1().unwrap(), f32s(&[2], &[3.0, 6.0]));
        let none = TestNode::new("Gather", 13).input(x()).input(i64s(&[0], &[]));
        assert_eq!(none.run1().unwrap(), f32s(&[0, 3], &[]));
    }

    #[test]
    fn an_index_out_of_range_is_an_error_of_the_run() {
        let x = || f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        for (name, indices) in [
            ("Gather", i64s(&[1], &[2])),
            ("GatherElements", i64s(&[1, 1], &[-3])),
            ("GatherND", i64s(&[1, 1], &[2])),
        ] {
            let error = TestNode::new(name, 13).input(x()).input(indices).run().unwrap_err();
            assert_eq!(error.code(), ErrorCode::RunFailed, "{name}");
        }
    }

    #[test]
    fn elements_and_tuples_are_gathered() {
        let x = || f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let elements = TestNode::new("GatherElements", 13)
            .attr("axis", 1)
            .input(x())
            .input(i64s(&[2, 1], &[1, -2]));
        assert_eq!(elements.run1().unwrap(), f32s(&[2, 1], &[2.0, 3.0]));
        let tuples = TestNode::new("GatherND", 12)
            .input(x())
            .input(i64s(&[2, 2], &[0, 0, 1, -1]));
        assert_eq!(tuples.run1().unwrap(), f32s(&[2], &[1.0, 4.0]));
        let batched = TestNode::new("GatherND", 12)
            .attr("batch_dims", 1)
            .input(x())
            .input(i64s(&[2, 1], &[1, 0]));
        assert_eq!(batched.run1().unwrap(), f32s(&[2], &[2.0, 3.0]));
        assert!(
            TestNode::new("GatherND", 12)
                .input(x())
                .input(i64s(&[1, 3], &[0, 0, 0]))
                .run()
                .is_err()
        );
    }
}
