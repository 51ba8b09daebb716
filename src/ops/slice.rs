//! Parts and repetitions of one tensor: Slice, Expand, Tile.

use super::{
    CpuLowering, GpuLowering, InferContext, Operator,
    context::broadcast_dims,
    lower::{Concrete, Movement, infer_moved_elements, invalid, lower_movement, mismatch},
};
use crate::{
    cpu::{
        kernel::{CpuKernel, KernelInputs, Layout},
        movement::{Indices, MoveFn, StridedCopy, dense_steps},
    },
    error::{Error, ErrorCode, Result},
    gpu::{kernel::GpuKernel, kernels::movement},
    graph::Node,
    pointwise::access::broadcast_strides,
    tensor::{Dim, resolve_axis},
};

/// ONNX `Slice`: from `starts` to `ends` by `steps` in the dimensions `axes`; attributes before opset 10 (without
/// steps), inputs from then on. Bounds count from the end when negative and are cut off. Any element type.
#[derive(Debug)]
struct Slice {
    /// The attributes `starts`, `ends` and `axes`.
    fixed: Option<[Option<Vec<i64>>; 3]>,
}

/// Makes [`Slice`].
pub fn make_slice(node: &Node) -> Result<Box<dyn Operator>> {
    if node.operator.version >= 10 {
        return Ok(Box::new(Slice { fixed: None }));
    }
    let list = |name: &str| Ok::<_, Error>(node.attributes.ints(name)?.map(<[i64]>::to_vec));
    let fixed = [list("starts")?, list("ends")?, list("axes")?];
    if fixed[0].is_none() || fixed[1].is_none() {
        return Err(invalid("attributes starts and ends are required"));
    }
    Ok(Box::new(Slice { fixed: Some(fixed) }))
}

/// Bounds at or beyond this mean "to the end", as exporters write it.
const TO_THE_END: i64 = i32::MAX as i64;

/// The first element and the number of elements of a slice of `dim` elements.
fn clamp(dim: usize, start: i64, end: i64, step: i64) -> Result<(usize, usize)> {
    if step == 0 {
        return Err(invalid("a step of a slice is zero"));
    }
    let size = dim as i64;
    let from_end = |bound: i64| if bound < 0 { bound.saturating_add(size) } else { bound };
    let (start, end) = (from_end(start), from_end(end));
    let (start, span) = if step > 0 {
        let (start, end) = (start.clamp(0, size), end.clamp(0, size));
        (start, end - start)
    } else {
        // Unlike numpy, the document begins at the first element when `start` lies before it.
        let (start, end) = (start.clamp(0, (size - 1).max(0)), end.clamp(-1, size - 1));
        (start, if size == 0 { 0 } else { start - end })
    };
    let count = if span > 0 {
        1 + (span - 1) as u64 / step.unsigned_abs()
    } else {
        0
    };
    Ok((if count == 0 { 0 } else { start as usize }, count as usize))
}

/// The number of elements of a slice of symbolic bounds, when it follows.
fn slice_dim(dim: &Dim, start: &Dim, end: &Dim, step: i64) -> Result<Option<Dim>> {
    if let (Some(size), Some(start), Some(end)) = (dim.size(), start.known(), end.known()) {
        return Ok(Some(Dim::from(clamp(size, start, end, step)?.1)));
    }
    let zero = Dim::from(0);
    if step < 0 {
        // Reversed as a whole.
        let is_whole = start.known().is_some_and(|start| start == -1 || start >= TO_THE_END)
            && end.known().is_some_and(|end| end <= -TO_THE_END);
        return Ok(is_whole.then(|| dim.ceil_div(&Dim::from(step.saturating_neg()))));
    }
    let bound = |bound: &Dim| {
        if bound.known().is_some_and(|bound| bound >= TO_THE_END) {
            Some(dim.clone())
        } else if bound.is_at_least(&zero) {
            Some(bound.minimum(dim))
        } else if bound.known().is_some_and(|bound| bound <= -TO_THE_END) {
            Some(zero.clone())
        } else if (-bound.clone()).is_at_least(&zero) {
            Some((dim.clone() + bound.clone()).maximum(&zero))
        } else {
            None
        }
    };
    let (Some(start), Some(end)) = (bound(start), bound(end)) else {
        return Ok(None);
    };
    Ok(Some((end - start).maximum(&zero).ceil_div(&Dim::from(step))))
}

/// One slice per dimension that is sliced.
struct Bounds<T> {
    axes: Vec<usize>,
    starts: Vec<T>,
    ends: Vec<T>,
    steps: Vec<i64>,
}

impl<T> Bounds<T> {
    fn new(rank: usize, starts: Vec<T>, ends: Vec<T>, axes: Option<Vec<i64>>, steps: Option<Vec<i64>>) -> Result<Self> {
        let count = starts.len();
        let axes = axes.unwrap_or_else(|| (0..count as i64).collect());
        let steps = steps.unwrap_or_else(|| vec![1; count]);
        if ends.len() != count || axes.len() != count || steps.len() != count {
            return Err(mismatch(
                "starts, ends, axes and steps of a slice have different lengths",
            ));
        }
        let axes: Vec<usize> = axes
            .iter()
            .map(|&axis| resolve_axis(axis, rank))
            .collect::<Result<_>>()?;
        if (1..count).any(|index| axes[..index].contains(&axes[index])) {
            return Err(invalid("a dimension is sliced twice"));
        }
        if steps.contains(&0) {
            return Err(invalid("a step of a slice is zero"));
        }
        Ok(Bounds {
            axes,
            starts,
            ends,
            steps,
        })
    }
}

impl Operator for Slice {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let to_dims =
            |list: &Option<Vec<i64>>| Some(list.as_ref()?.iter().map(|&value| Dim::from(value)).collect::<Vec<_>>());
        let (starts, ends, axes, steps) = match &self.fixed {
            Some([starts, ends, axes]) => (to_dims(starts), to_dims(ends), axes.clone(), None),
            None => (ctx.elements(1), ctx.elements(2), ctx.ints(3), ctx.ints(4)),
        };
        let Some(shape) = ctx.shape(0) else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        let is_hidden = |index: usize, given: bool| self.fixed.is_none() && ctx.has_input(index) && !given;
        let (hidden_axes, hidden_steps) = (is_hidden(3, axes.is_some()), is_hidden(4, steps.is_some()));
        let mut result = shape.to_vec();
        let (Some(starts), Some(ends), false) = (starts, ends, hidden_axes) else {
            // Which dimensions shrink may be known even so.
            let axes = match (axes, hidden_axes) {
                (Some(axes), _) => axes
                    .iter()
                    .map(|&axis| resolve_axis(axis, shape.len()))
                    .collect::<Result<_>>()?,
                (None, _) => (0..shape.len()).collect::<Vec<_>>(),
            };
            axes.into_iter().for_each(|axis| result[axis] = ctx.fresh_dim());
            ctx.set_output(0, dtype, Some(result));
            return Ok(());
        };
        let count = starts.len();
        let steps = if hidden_steps {
            vec![1; count]
        } else {
            steps.unwrap_or_else(|| vec![1; count])
        };
        let bounds = Bounds::new(shape.len(), starts, ends, axes, Some(steps))?;
        for (index, &axis) in bounds.axes.iter().enumerate() {
            let dim = slice_dim(
                &shape[axis],
                &bounds.starts[index],
                &bounds.ends[index],
                bounds.steps[index],
            )?;
            result[axis] = dim.filter(|_| !hidden_steps).unwrap_or_else(|| ctx.fresh_dim());
        }
        ctx.set_output(0, dtype, Some(result));
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if ctx.outputs_known && ctx.input(0)?.shape == ctx.output(0)?.shape && self.is_whole(ctx) {
            return Ok(CpuKernel::View { input: 0 });
        }
        let kernel = lower_movement(self, ctx)?;
        Ok(match self.place(ctx)? {
            Some(offset) => kernel.with_layout(Layout::Parts(vec![offset])),
            None => kernel,
        })
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let shape = &ctx.input(0)?.shape;
        let lists = match &self.fixed {
            Some(lists) => [lists[0].clone(), lists[1].clone(), lists[2].clone(), None],
            None => [ctx.ints(1), ctx.ints(2), ctx.ints(3), ctx.ints(4)],
        };
        let is_known = (1..=4).all(|index| ctx.optional_input(index).is_none() || ctx.constant(index).is_some());
        if !is_known || !ctx.moves_gpu_type() {
            return Ok(None);
        }
        let [starts, ends, axes, steps] = lists;
        let bounds = Bounds::new(
            shape.len(),
            starts.unwrap_or_default(),
            ends.unwrap_or_default(),
            axes,
            steps,
        )?;
        let (mut first, mut step) = (vec![0; shape.len()], vec![1; shape.len()]);
        for (index, &axis) in bounds.axes.iter().enumerate() {
            let (start, count) = clamp(
                shape[axis],
                bounds.starts[index],
                bounds.ends[index],
                bounds.steps[index],
            )?;
            first[axis] = start;
            step[axis] = if count > 1 { bounds.steps[index] as isize } else { 1 };
        }
        Ok(movement::slice(shape, &first, &step, &ctx.output(0)?.shape, ctx.caps))
    }
}

impl Slice {
    /// Whether the slice, known to keep its input's shape, keeps the elements' order too.
    fn is_whole(&self, ctx: &CpuLowering<'_>) -> bool {
        let has_steps = self.fixed.is_none() && ctx.optional_input(4).is_some();
        !has_steps || ctx.ints(4).is_some_and(|steps| steps.iter().all(|&step| step > 0))
    }

    /// The byte at which the slice begins in the input, when it is one piece of it.
    fn place(&self, ctx: &CpuLowering<'_>) -> Result<Option<usize>> {
        let (input, output) = (ctx.input(0)?, ctx.output(0)?);
        let is_known = |index: usize| ctx.optional_input(index).is_none() || ctx.constant(index).is_some();
        let (shape, cut) = (&input.shape, input.shape.iter().position(|&dim| dim != 1));
        let (Some(cut), true) = (cut, self.fixed.is_some() || (1..=4).all(is_known)) else {
            return Ok(None);
        };
        let [starts, ends, axes, steps] = match &self.fixed {
            Some([starts, ends, axes]) => [starts.clone(), ends.clone(), axes.clone(), None],
            None => [1, 2, 3, 4].map(|index| ctx.ints(index)),
        };
        let (starts, ends) = (starts.unwrap_or_default(), ends.unwrap_or_default());
        let bounds = Bounds::new(shape.len(), starts, ends, axes, steps)?;
        let mut first = 0;
        for (index, &axis) in bounds.axes.iter().enumerate() {
            if axis == cut && bounds.steps[index] == 1 {
                first = clamp(shape[axis], bounds.starts[index], bounds.ends[index], 1)?.0;
            } else if shape[axis] != output.shape[axis] || bounds.steps[index] < 1 {
                return Ok(None);
            }
        }
        let row: usize = shape[cut + 1..].iter().product();
        let bytes = input.dtype.byte_len(1).filter(|_| input.dtype.bits() >= Some(8));
        Ok(bytes.map(|bytes| first * row * bytes))
    }

    fn copy(shape: &[usize], output: &[usize], bounds: &Bounds<i64>) -> Result<StridedCopy> {
        let mut steps = dense_steps(shape);
        let mut dims = shape.to_vec();
        let mut first = 0;
        for (index, &axis) in bounds.axes.iter().enumerate() {
            let step = bounds.steps[index];
            let (start, count) = clamp(shape[axis], bounds.starts[index], bounds.ends[index], step)?;
            first += start * steps[axis] as usize;
            dims[axis] = count;
            // A step beyond the dimension takes one element, from which nothing is stepped.
            steps[axis] = if count > 1 { steps[axis] * step as isize } else { 0 };
        }
        if dims != output {
            return Err(Error::new(
                ErrorCode::RunFailed,
                "a slice has another shape than was planned",
            ));
        }
        Ok(StridedCopy::gather(&dims, &steps, first))
    }
}

fn run_time_ints(inputs: &KernelInputs<'_>, index: usize) -> Result<Option<Vec<i64>>> {
    if !inputs.has(index) {
        return Ok(None);
    }
    Ok(Some(Indices::of(inputs, index)?.iter().collect()))
}

impl Movement for Slice {
    fn kernel_name(&self) -> &'static str {
        "slice"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let (shape, output) = (node.input(0)?.to_vec(), node.output()?.to_vec());
        let rank = shape.len();
        let ints = |index: usize| node.ints(index).map(<[i64]>::to_vec);
        let lists = match &self.fixed {
            Some(lists) => [lists[0].clone(), lists[1].clone(), lists[2].clone(), None],
            None => [ints(1), ints(2), ints(3), ints(4)],
        };
        let is_known =
            self.fixed.is_some() || (1..=4).all(|index| !node.has_input(index) || node.ints(index).is_some());
        if is_known {
            let [starts, ends, axes, steps] = lists;
            let bounds = Bounds::new(rank, starts.unwrap_or_default(), ends.unwrap_or_default(), axes, steps)?;
            let copy = Slice::copy(&shape, &output, &bounds)?;
            return Ok(Box::new(move |moved| {
                let (size, source) = (moved.size, moved.data[0]);
                copy.run(size, source, moved.output()?)
            }));
        }
        Ok(Box::new(move |moved| {
            let list = |index: usize| run_time_ints(moved.inputs, index);
            let (starts, ends) = (list(1)?.unwrap_or_default(), list(2)?.unwrap_or_default());
            let bounds = Bounds::new(rank, starts, ends, list(3)?, list(4)?)?;
            let copy = Slice::copy(&shape, &output, &bounds)?;
            let (size, source) = (moved.size, moved.data[0]);
            copy.run(size, source, moved.output()?)
        }))
    }
}

/// ONNX `Expand` (opset 8): the input broadcast with the shape that the second input names. Any element type.
#[derive(Debug)]
struct Expand;

/// Makes [`Expand`].
pub fn make_expand(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Expand))
}

impl Operator for Expand {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let target = ctx.elements(1);
        let shape = match (ctx.shape(0), target) {
            (Some(input), Some(target)) => {
                if let Some(dim) = target.iter().find(|dim| dim.known().is_some_and(|dim| dim < 0)) {
                    return Err(mismatch("a dimension to expand to is negative").actual(dim.to_string()));
                }
                broadcast_dims(input, &target)?
            }
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if ctx.outputs_known
            && ctx.input(0)?.shape.iter().product::<usize>() == ctx.output(0)?.shape.iter().product::<usize>()
        {
            return Ok(CpuKernel::View { input: 0 });
        }
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (from, to) = (&ctx.input(0)?.shape, &ctx.output(0)?.shape);
        let is_view = from.iter().product::<usize>() == to.iter().product::<usize>();
        if is_view || !ctx.moves_gpu_type() {
            return Ok(None);
        }
        Ok(movement::expand(from, to, ctx.caps))
    }
}

impl Movement for Expand {
    fn kernel_name(&self) -> &'static str {
        "expand"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let (input, output) = (node.input(0)?, node.output()?);
        let strides =
            broadcast_strides(output, input).ok_or_else(|| mismatch("the input does not expand to the shape"))?;
        let steps: Vec<isize> = strides.into_iter().map(|stride| stride as isize).collect();
        let copy = StridedCopy::gather(output, &steps, 0);
        Ok(Box::new(move |moved| {
            let (size, source) = (moved.size, moved.data[0]);
            copy.run(size, source, moved.output()?)
        }))
    }
}

/// ONNX `Tile`: the input repeated along each dimension as often as the second input says; before opset 6, `tiles`
/// times along `axis`, both inputs. Any element type.
#[derive(Debug)]
struct Tile {
    one_axis: bool,
}

/// Makes [`Tile`].
pub fn make_tile(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Tile {
        one_axis: node.operator.version < 6,
    }))
}

impl Operator for Tile {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let repeats = ctx.elements(1);
        let axis = if self.one_axis { ctx.ints(2) } else { None };
        let Some(shape) = ctx.shape(0) else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        let mut result = shape.to_vec();
        match (repeats, axis.as_deref()) {
            (Some(repeats), Some([axis])) if self.one_axis && repeats.len() == 1 => {
                let axis = resolve_axis(*axis, shape.len())?;
                result[axis] = result[axis].clone() * repeats[0].clone();
            }
            (Some(repeats), _) if !self.one_axis => {
                if repeats.len() != shape.len() {
                    return Err(mismatch("the repetitions are not one for each dimension")
                        .expected(shape.len().to_string())
                        .actual(repeats.len().to_string()));
                }
                if let Some(count) = repeats
                    .iter()
                    .find(|count| count.known().is_some_and(|count| count < 0))
                {
                    return Err(mismatch("a number of repetitions is negative").actual(count.to_string()));
                }
                result = shape
                    .iter()
                    .zip(repeats)
                    .map(|(dim, count)| dim.clone() * count)
                    .collect();
            }
            _ => result = ctx.fresh_shape(shape.len()),
        }
        ctx.set_output(0, dtype, Some(result));
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if ctx.outputs_known && ctx.input(0)?.shape == ctx.output(0)?.shape {
            return Ok(CpuKernel::View { input: 0 });
        }
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ctx.moves_gpu_type() {
            return Ok(None);
        }
        // Each dimension gets one in front of it that is expanded.
        let (mut once, mut repeated) = (Vec::new(), Vec::new());
        for (&dim, &whole) in ctx.input(0)?.shape.iter().zip(&ctx.output(0)?.shape) {
            once.extend([1, dim]);
            repeated.extend([if dim == 0 { 0 } else { whole / dim }, dim]);
        }
        Ok(movement::expand(&once, &repeated, ctx.caps))
    }
}

impl Movement for Tile {
    fn kernel_name(&self) -> &'static str {
        "tile"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let (input, output) = (node.input(0)?, node.output()?);
        let steps = dense_steps(input);
        let mut dims = Vec::new();
        let mut sources = Vec::new();
        for ((&dim, &whole), &step) in input.iter().zip(output).zip(&steps) {
            dims.extend([if dim == 0 { 0 } else { whole / dim }, dim]);
            sources.extend([0, step]);
        }
        let copy = StridedCopy::gather(&dims, &sources, 0);
        Ok(Box::new(move |moved| {
            let (size, source) = (moved.size, moved.data[0]);
            copy.run(size, source, moved.output()?)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s, tensor};
    use super::*;
    use crate::tensor::Tensor;

    fn slice(x: Tensor, starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]) -> Result<Tensor> {
        let list = |list: &[i64]| i64s(&[list.len()], list);
        let node = TestNode::new("Slice", 13)
            .input(x)
            .constant(list(starts))
            .constant(list(ends));
        node.constant(list(axes)).constant(list(steps)).run1()
    }

    #[test]
    fn slices_follow_python() {
        let x = || tensor(&[5], &[0i32, 1, 2, 3, 4]);
        let cases: [(i64, i64, i64, &[i32]); 9] = [
            (1, 3, 1, &[1, 2]),
            (-2, i64::MAX, 1, &[3, 4]),
            (0, 100, 2, &[0, 2, 4]),
            (4, i64::MIN, -1, &[4, 3, 2, 1, 0]),
            (100, 0, -2, &[4, 2]),
            (-1, -4, -1, &[4, 3, 2]),
            (3, 3, 1, &[]),
            (4, 1, 1, &[]),
            (1, 4, i64::MAX, &[1]),
        ];
        for (start, end, step, expected) in cases {
            let result = slice(x(), &[start], &[end], &[0], &[step]).unwrap();
            assert_eq!(result, tensor(&[expected.len()], expected), "{start}:{end}:{step}");
        }
        assert!(slice(x(), &[0], &[1], &[0], &[0]).is_err());
        assert!(slice(x(), &[0, 0], &[1, 1], &[0, -1], &[1, 1]).is_err());
        let attributes = TestNode::new("Slice", 9)
            .attr("starts", [1])
            .attr("ends", [-1])
            .attr("axes", [0])
            .input(x());
        assert_eq!(attributes.run1().unwrap(), tensor(&[3], &[1i32, 2, 3]));
    }

    #[test]
    fn symbolic_bounds_clamp_to_the_dimension() {
        let n = Dim::symbol("n");
        let of = |start: Dim, end: Dim, step: i64| slice_dim(&n, &start, &end, step).unwrap();
        let known = |value: i64| Dim::from(value);
        assert_eq!(of(known(0), known(i64::MAX), 1), Some(n.clone()));
        assert_eq!(of(known(0), n.clone(), 1), Some(n.clone()));
        assert_eq!(of(known(1), known(i64::MAX), 1), Some(n.clone() - known(1)));
        assert_eq!(of(known(0), known(-1), 1), Some(n.clone() - known(1)));
        assert_eq!(of(known(-1), known(i64::MIN), -1), Some(n.clone()));
        assert_eq!(of(Dim::symbol("a") - Dim::symbol("b"), n.clone(), 1), None);
    }

    #[test]
    fn expand_and_tile_repeat() {
        let expand = |x: Tensor, shape: &[i64]| {
            TestNode::new("Expand", 13)
                .input(x)
                .constant(i64s(&[shape.len()], shape))
        };
        let x = || f32s(&[2, 1], &[1.0, 2.0]);
        assert_eq!(
            expand(x(), &[3]).run1().unwrap(),
            f32s(&[2, 3], &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
        );
        assert_eq!(expand(x(), &[1, 1, 1]).run1().unwrap().shape(), [1, 2, 1]);
        assert!(expand(x(), &[3, 3]).run().is_err());
        let tile = |x: Tensor, repeats: &[i64]| {
            TestNode::new("Tile", 13)
                .input(x)
                .constant(i64s(&[repeats.len()], repeats))
        };
        let twice = tile(f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), &[2, 2]).run1().unwrap();
        let rows = [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0];
        assert_eq!(twice, f32s(&[4, 4], &[rows, rows].concat()));
        assert_eq!(tile(x(), &[0, 1]).run1().unwrap().shape(), [0, 1]);
        assert!(tile(x(), &[2]).run().is_err());
        let early = TestNode::new("Tile", 1)
            .input(x())
            .constant(f32s(&[1], &[3.0]))
            .constant(f32s(&[1], &[1.0]));
        assert_eq!(early.run1().unwrap(), f32s(&[2, 3], &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]));
    }
}
