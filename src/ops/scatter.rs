//! Elements and slices written by index: ScatterElements (and its forerunner Scatter) and ScatterND.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator,
    lower::{Concrete, Movement, infer_moved_elements, invalid, lower_movement, mismatch},
};
use crate::{
    cpu::{
        elementwise::Wide,
        kernel::{CpuKernel, KernelInputs},
        movement::{Indices, MoveFn, resolve_index},
    },
    error::Result,
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::indexed::{self, Data, ScatterOp},
    },
    graph::{Attributes, Node},
    tensor::{DType, Dim, display_shape, resolve_axis, strides_of},
};

/// What happens where an update meets an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduction {
    None,
    Add,
    Mul,
    Min,
    Max,
}

impl Reduction {
    fn of(attributes: &Attributes) -> Result<Reduction> {
        Ok(match attributes.string("reduction")?.unwrap_or("none") {
            "none" => Reduction::None,
            "add" => Reduction::Add,
            "mul" => Reduction::Mul,
            "min" => Reduction::Min,
            "max" => Reduction::Max,
            other => return Err(invalid("attribute reduction is not a reduction").actual(other)),
        })
    }

    /// What the GPU does for it with numbers of the node's type, when it can.
    fn on_gpu(self, ctx: &GpuLowering<'_>) -> Option<(GpuType, ScatterOp)> {
        let op = match self {
            Reduction::None => ScatterOp::Replace,
            Reduction::Add => ScatterOp::Add,
            Reduction::Mul => ScatterOp::Mul,
            Reduction::Min => ScatterOp::Min,
            Reduction::Max => ScatterOp::Max,
        };
        let ty = ctx.held(0)?;
        let fits = match self {
            Reduction::None => ty != GpuType::I64,
            _ => matches!(ty, GpuType::F32 | GpuType::I32 | GpuType::U32),
        };
        fits.then_some((ty, op))
    }

    fn of_float(self, x: f64, y: f64) -> f64 {
        match self {
            Reduction::None => y,
            Reduction::Add => x + y,
            Reduction::Mul => x * y,
            Reduction::Min | Reduction::Max if x.is_nan() || y.is_nan() => f64::NAN,
            Reduction::Min => x.min(y),
            Reduction::Max => x.max(y),
        }
    }

    fn of_int(self, x: i64, y: i64, is_u64: bool) -> i64 {
        // Adding the sign bit orders the bits of u64 as i64 orders itself.
        let flip = if is_u64 { i64::MIN } else { 0 };
        match self {
            Reduction::None => y,
            Reduction::Add => x.wrapping_add(y),
            Reduction::Mul => x.wrapping_mul(y),
            Reduction::Min => (x ^ flip).min(y ^ flip) ^ flip,
            Reduction::Max => (x ^ flip).max(y ^ flip) ^ flip,
        }
    }

    /// Combines `len` elements of `target` from `at` on with those of `updates` from `from` on.
    fn apply(self, dtype: DType, target: &mut [u8], at: usize, updates: &[u8], from: usize, len: usize) -> Result<()> {
        for index in 0..len {
            if dtype.is_float() {
                // Sums and products of two short floats are exact in f64, so that they round once.
                let (mut x, mut y) = ([0f64], [0f64]);
                f64::load(dtype, target, at + index, 1, &mut x)?;
                f64::load(dtype, updates, from + index, 1, &mut y)?;
                f64::store(dtype, &[self.of_float(x[0], y[0])], target, at + index)?;
            } else {
                let (mut x, mut y) = ([0i64], [0i64]);
                i64::load(dtype, target, at + index, 1, &mut x)?;
                i64::load(dtype, updates, from + index, 1, &mut y)?;
                let result = self.of_int(x[0], y[0], dtype == DType::U64);
                i64::store(dtype, &[result], target, at + index)?;
            }
        }
        Ok(())
    }
}

/// Where the rows of updates go.
struct Places {
    /// Elements of a row.
    row: usize,
    find: Box<FindPlaces>,
}

/// The first element of the target for each row of updates, from the indices.
type FindPlaces = dyn Fn(&KernelInputs<'_>) -> Result<Vec<usize>> + Send + Sync;

fn scatter_movement(places: Places) -> Box<MoveFn> {
    Box::new(move |moved| {
        let size = moved.size;
        let (data, updates) = (moved.data[0], moved.data[1]);
        let starts = (places.find)(moved.inputs)?;
        let target = moved.output()?;
        target.copy_from_slice(data);
        let row = places.row * size;
        if row == 0 {
            return Ok(());
        }
        for (start, update) in starts.into_iter().zip(updates.chunks_exact(row)) {
            target[start * size..start * size + row].copy_from_slice(update);
        }
        Ok(())
    })
}

fn scatter_reduced(places: Places, reduction: Reduction, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
    let dtype = ctx.input(0)?.dtype;
    let is_number = dtype.bits().is_some_and(|bits| bits >= 8);
    if !is_number {
        return Err(ctx.unsupported_type(0));
    }
    Ok(CpuKernel::compute("scatter_reduce", move |io| {
        let (data, updates) = (io.inputs.bytes(0)?, io.inputs.bytes(2)?);
        let starts = (places.find)(&io.inputs)?;
        let target = io.outputs.take_bytes(0)?;
        target.copy_from_slice(data);
        for (number, start) in starts.into_iter().enumerate() {
            reduction.apply(dtype, target, start, updates, number * places.row, places.row)?;
        }
        Ok(())
    }))
}

/// The node's shapes, when it is lowered.
fn concrete(ctx: &CpuLowering<'_>) -> Concrete {
    let shapes =
        |list: &[Option<super::TensorDesc>]| list.iter().map(|desc| Some(desc.as_ref()?.shape.clone())).collect();
    Concrete {
        inputs: shapes(ctx.inputs),
        outputs: shapes(ctx.outputs),
        ints: Vec::new(),
    }
}

/// ONNX `ScatterElements` (opset 11) and `Scatter` (opset 9): a copy of the data, in which the element at the place of
/// each update, with the index along `axis` replaced by the second input's, is replaced by the update, or combined with
/// it by `reduction` (`add` and `mul` from opset 16, `min` and `max` from 18). Any element type without reduction.
#[derive(Debug)]
struct ScatterElements {
    axis: i64,
    reduction: Reduction,
}

/// Makes [`ScatterElements`].
pub fn make_scatter_elements(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(ScatterElements {
        axis: node.attributes.int("axis")?.unwrap_or(0),
        reduction: Reduction::of(&node.attributes)?,
    }))
}

impl ScatterElements {
    fn places(&self, node: &Concrete) -> Result<Places> {
        let (data, shape) = (node.input(0)?.to_vec(), node.input(1)?.to_vec());
        let axis = resolve_axis(self.axis, data.len())?;
        let fits = data.len() == shape.len() && (0..data.len()).all(|at| at == axis || shape[at] <= data[at]);
        if !fits || node.input(2)? != shape {
            return Err(mismatch("the shapes of indices and updates do not fit the data's")
                .expected(display_shape(&data))
                .actual(format!(
                    "{} and {}",
                    display_shape(&shape),
                    display_shape(node.input(2)?)
                )));
        }
        let strides = strides_of(&data);
        let find = move |inputs: &KernelInputs<'_>| {
            let indices = Indices::of(inputs, 1)?;
            let place = |flat: usize| {
                let (mut rest, mut offset) = (flat, 0);
                for at in (0..shape.len()).rev() {
                    let index = rest % shape[at];
                    rest /= shape[at];
                    if at != axis {
                        offset += index * strides[at];
                    }
                }
                Ok(offset + resolve_index(indices.get(flat), data[axis])? * strides[axis])
            };
            (0..indices.len()).map(place).collect()
        };
        Ok(Places {
            row: 1,
            find: Box::new(find),
        })
    }
}

impl Operator for ScatterElements {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(rank) = ctx.rank(0) {
            resolve_axis(self.axis, rank)?;
        }
        check_updates(ctx)?;
        ctx.copy_type(0, 0)?;
        if self.reduction == Reduction::None {
            infer_moved_elements(self, ctx)?;
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match self.reduction {
            Reduction::None => lower_movement(self, ctx),
            reduction => scatter_reduced(self.places(&concrete(ctx))?, reduction, ctx),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let (data, shape) = (&ctx.input(0)?.shape, &ctx.input(1)?.shape);
        let axis = resolve_axis(self.axis, data.len())?;
        let fits = data.len() == shape.len() && (0..data.len()).all(|at| at == axis || shape[at] <= data[at]);
        let (Some((ty, op)), Some((indices, checks))) = (self.reduction.on_gpu(ctx), ctx.indices(1, &[data[axis]]))
        else {
            return Ok(None);
        };
        if !fits || ctx.input(2)?.shape != *shape {
            return Ok(None);
        }
        let kernel = indexed::scatter_elements(ty, op, [data, shape], axis, indices, data_of(ctx), ctx.caps);
        Ok(kernel.map(|kernel| GpuKernel { checks, ..kernel }))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

fn data_of(ctx: &GpuLowering<'_>) -> Data {
    if ctx.takes_over(0, 0) {
        Data::TakenOver
    } else {
        Data::Copied
    }
}

fn check_updates(ctx: &InferContext<'_>) -> Result<()> {
    let (data, updates) = (ctx.dtype(0)?, ctx.dtype(2)?);
    if data != updates {
        return Err(invalid("data and updates have different element types")
            .expected(data.name())
            .actual(updates.name()));
    }
    Ok(())
}

impl Movement for ScatterElements {
    fn kernel_name(&self) -> &'static str {
        "scatter_elements"
    }

    fn data(&self, _: &[bool]) -> Vec<usize> {
        vec![0, 2]
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        Ok(scatter_movement(self.places(node)?))
    }
}

/// ONNX `ScatterND` (opset 11): a copy of the data, in which the slices that the last dimension of the indices names are
/// replaced by the updates, or combined with them by `reduction`. Any element type without reduction.
#[derive(Debug)]
struct ScatterNd {
    reduction: Reduction,
}

/// Makes [`ScatterNd`].
pub fn make_scatter_nd(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(ScatterNd {
        reduction: Reduction::of(&node.attributes)?,
    }))
}

impl ScatterNd {
    fn places(&self, node: &Concrete) -> Result<Places> {
        let (data, shape) = (node.input(0)?.to_vec(), node.input(1)?.to_vec());
        let depth = shape.last().copied().filter(|&depth| depth <= data.len());
        let depth = depth.ok_or_else(|| {
            mismatch("the indices do not fit the data's rank")
                .expected(display_shape(&data))
                .actual(display_shape(&shape))
        })?;
        let updates = [&shape[..shape.len() - 1], &data[depth..]].concat();
        if node.input(2)? != updates {
            return Err(mismatch("the updates have the wrong shape")
                .expected(display_shape(&updates))
                .actual(display_shape(node.input(2)?)));
        }
        let strides = strides_of(&data);
        let count: usize = shape[..shape.len() - 1].iter().product();
        let row = data[depth..].iter().product();
        let find = move |inputs: &KernelInputs<'_>| {
            let indices = Indices::of(inputs, 1)?;
            let place = |number: usize| {
                (0..depth).try_fold(0, |offset, axis| {
                    let index = indices.get(number * depth + axis);
                    Ok(offset + resolve_index(index, data[axis])? * strides[axis])
                })
            };
            (0..count).map(place).collect()
        };
        Ok(Places {
            row,
            find: Box::new(find),
        })
    }
}

impl Operator for ScatterNd {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        check_updates(ctx)?;
        let depth = ctx.shape(1).and_then(|shape| shape.last().and_then(Dim::size));
        if depth.zip(ctx.rank(0)).is_some_and(|(depth, rank)| depth > rank) {
            return Err(mismatch("the indices have more dimensions than the data"));
        }
        ctx.copy_type(0, 0)?;
        if self.reduction == Reduction::None {
            infer_moved_elements(self, ctx)?;
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match self.reduction {
            Reduction::None => lower_movement(self, ctx),
            reduction => scatter_reduced(self.places(&concrete(ctx))?, reduction, ctx),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let (data, shape) = (&ctx.input(0)?.shape, &ctx.input(1)?.shape);
        let Some(sizes) = shape.last().and_then(|&depth| data.get(..depth)) else {
            return Ok(None);
        };
        let updates = [&shape[..shape.len() - 1], &data[sizes.len()..]].concat();
        let (Some((ty, op)), Some((indices, checks))) = (self.reduction.on_gpu(ctx), ctx.indices(1, sizes)) else {
            return Ok(None);
        };
        if ctx.input(2)?.shape != updates {
            return Ok(None);
        }
        let kernel = indexed::scatter_nd(ty, op, data, shape, indices, data_of(ctx), ctx.caps);
        Ok(kernel.map(|kernel| GpuKernel { checks, ..kernel }))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

impl Movement for ScatterNd {
    fn kernel_name(&self) -> &'static str {
        "scatter_nd"
    }

    fn data(&self, _: &[bool]) -> Vec<usize> {
        vec![0, 2]
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        Ok(scatter_movement(self.places(node)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s, tensor};
    use crate::error::ErrorCode;

    #[test]
    fn elements_are_replaced_or_combined() {
        let x = || f32s(&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
        let node = |reduction: &str| {
            let node = TestNode::new("ScatterElements", 18)
                .attr("axis", 1)
                .attr("reduction", reduction);
            let node = node
                .input(x())
                .input(i64s(&[1, 3], &[1, -1, 1]))
                .input(f32s(&[1, 3], &[10.0, 0.5, 20.0]));
            node.run1().unwrap().to_f32s().unwrap().into_owned()
        };
        assert_eq!(node("none"), [1.0, 20.0, 3.0, 0.5]);
        assert_eq!(node("add"), [1.0, 32.0, 3.0, 4.5]);
        assert_eq!(node("mul"), [1.0, 400.0, 3.0, 2.0]);
        assert_eq!(node("min"), [1.0, 2.0, 3.0, 0.5]);
        assert_eq!(node("max"), [1.0, 20.0, 3.0, 4.0]);
        let wrong = TestNode::new("ScatterElements", 18)
            .input(x())
            .input(i64s(&[1, 1], &[1]))
            .input(f32s(&[1, 1], &[0.0]));
        assert_eq!(wrong.run().unwrap_err().code(), ErrorCode::RunFailed);
    }

    #[test]
    fn slices_are_replaced_or_combined() {
        let node = |reduction: &str| {
            let node = TestNode::new("ScatterND", 18)
                .attr("reduction", reduction)
                .input(tensor(&[3, 2], &[1u8, 2, 3, 4, 5, 6]));
            let node = node
                .input(i64s(&[2, 1], &[2, 0]))
                .input(tensor(&[2, 2], &[250u8, 1, 2, 3]));
            node.run1().unwrap()
        };
        assert_eq!(node("none"), tensor(&[3, 2], &[2u8, 3, 3, 4, 250, 1]));
        assert_eq!(node("add"), tensor(&[3, 2], &[3u8, 5, 3, 4, 255, 7]));
    }
}
