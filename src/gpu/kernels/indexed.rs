//! Kernels that read or write elements and slices by index: GatherElements, GatherND, ScatterElements, ScatterND, OneHot
//! and ReverseSequence. The data are input 0 and the indices, i32, input 1 unless said otherwise. What is outside a
//! dimension is moved into it: callers demand a [`Check`] of what comes from the CPU.

use super::super::kernel::{Access, Binding, Check, GpuCaps, GpuKernel, GpuType};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::{MAX_RANK, dense_strides, elements, finish_flat, flat, flat_kernel, movement, reversed};

const INDEXED: &str = shader_text!("../../../shaders/indexed.wgsl");

/// What becomes of an element that an update meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScatterOp {
    Replace,
    Add,
    Mul,
    Min,
    Max,
}

impl ScatterOp {
    fn flags(self, dispatch: DispatchBuilder, ty: GpuType) -> DispatchBuilder {
        dispatch
            .define("T", ty.wgsl())
            .flag("REDUCED", self != ScatterOp::Replace)
            .flag("FLOAT", ty == GpuType::F32)
            .flag("ADD", self == ScatterOp::Add)
            .flag("MUL", self == ScatterOp::Mul)
            .flag("MIN", self == ScatterOp::Min)
            .flag("MAX", self == ScatterOp::Max)
    }
}

/// What becomes of the data that updates are written into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    Copied,
    /// They are given up: the output is in their memory.
    TakenOver,
}

impl Data {
    fn in_place(self) -> Vec<(usize, usize)> {
        if self == Data::TakenOver {
            vec![(0, 0)]
        } else {
            Vec::new()
        }
    }

    /// The kernel after which the output has the data.
    fn begin(self, total: usize, caps: &GpuCaps) -> Option<GpuKernel> {
        if self == Data::Copied {
            return movement::copy(total, caps);
        }
        Some(GpuKernel {
            in_place: self.in_place(),
            ..GpuKernel::default()
        })
    }
}

/// The element type of words that are only moved, or of the numbers that are combined.
fn word(ty: GpuType, op: ScatterOp) -> &'static str {
    if op == ScatterOp::Replace { "u32" } else { ty.wgsl() }
}

/// GatherElements (opset 11) along `axis`; `indices` is bound as input 1 or made from a constant.
pub fn gather_elements(
    shape: &[usize],
    axis: usize,
    indices_shape: &[usize],
    indices: Binding,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    elements(shape, caps)?;
    let count = elements(indices_shape, caps)?;
    let rank = shape.len();
    if rank > MAX_RANK || indices_shape.len() != rank || (count > 0 && shape.contains(&0)) {
        return None;
    }
    let mut strides = dense_strides(shape);
    let axis_stride = std::mem::take(strides.get_mut(axis)?);
    let dispatch = flat("gather_elements", INDEXED)
        .define("RANK", rank)
        .flag("GATHER_ELEMENTS", true)
        .storage("input", "u32", Binding::Input(0))
        .storage("indices", "i32", indices)
        .storage("output", "u32", Binding::Output(0))
        .param_list("dim", reversed(indices_shape))
        .param_list("from_stride", reversed(&strides))
        .param("axis", shape[axis] as u32)
        .param("axis_stride", axis_stride as u32);
    flat_kernel(dispatch, count, caps)
}

/// The sizes that the components of tuples index and their strides as parameters.
fn tuples(dispatch: DispatchBuilder, sizes: &[usize], strides: &[usize]) -> DispatchBuilder {
    let words = |values: &[usize]| values.iter().map(|&value| value as u32).collect::<Vec<_>>();
    dispatch
        .define("DEPTH", sizes.len())
        .flag("TUPLES", true)
        .param_list("size", words(sizes))
        .param_list("stride", words(strides))
}

/// GatherND (opset 11): the last axis of the indices, of length `depth`, indexes `shape[batch_dims..]`.
pub fn gather_nd(
    shape: &[usize],
    batch_dims: usize,
    indices_shape: &[usize],
    indices: Binding,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    elements(shape, caps)?;
    elements(indices_shape, caps)?;
    let (&depth, lead) = indices_shape.split_last()?;
    let sizes = shape.get(batch_dims..batch_dims.checked_add(depth)?)?;
    let inner: usize = shape[batch_dims + depth..].iter().product();
    let rows: usize = lead.iter().product();
    let count = elements(&[rows, inner], caps)?;
    if depth > MAX_RANK || depth == 0 || lead.get(..batch_dims)? != &shape[..batch_dims] {
        return None;
    }
    if count > 0 && sizes.contains(&0) {
        return None;
    }
    let strides = &dense_strides(shape)[batch_dims..batch_dims + depth];
    let dispatch = tuples(flat("gather_nd", INDEXED), sizes, strides)
        .flag("GATHER_ND", true)
        .storage("input", "u32", Binding::Input(0))
        .storage("indices", "i32", indices)
        .storage("output", "u32", Binding::Output(0))
        .param("inner", inner as u32)
        .param("rows", lead[batch_dims..].iter().product::<usize>() as u32)
        .param("batch", shape[batch_dims..].iter().product::<usize>() as u32);
    flat_kernel(dispatch, count, caps)
}

/// ScatterElements (opset 11) along `axis`: updates, of the indices' shape, are input 2. Updates of one element are taken
/// in their order.
pub fn scatter_elements(
    ty: GpuType,
    op: ScatterOp,
    [shape, indices_shape]: [&[usize]; 2],
    axis: usize,
    indices: Binding,
    data: Data,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let total = elements(shape, caps)?;
    let updates = elements(indices_shape, caps)?;
    let rank = shape.len();
    if rank > MAX_RANK || indices_shape.len() != rank || (updates > 0 && total == 0) {
        return None;
    }
    let mut kernel = data.begin(total, caps)?;
    if updates == 0 {
        return Some(kernel);
    }
    let (mut to, mut from) = (dense_strides(shape), dense_strides(indices_shape));
    let mut dims = indices_shape.to_vec();
    let length = std::mem::replace(dims.get_mut(axis)?, 1);
    let (axis_stride, step) = (std::mem::take(&mut to[axis]), std::mem::take(&mut from[axis]));
    let word = word(ty, op);
    let dispatch = op
        .flags(flat("scatter_elements", INDEXED), ty)
        .define("RANK", rank)
        .flag("SCATTER_ELEMENTS", true)
        .storage("indices", "i32", indices)
        .storage("updates", word, Binding::Input(2))
        .storage("output", word, Binding::Output(0))
        .param_list("dim", reversed(&dims))
        .param_list("to_stride", reversed(&to))
        .param_list("from_stride", reversed(&from))
        .param("length", length as u32)
        .param("step", step as u32)
        .param("axis", shape[axis] as u32)
        .param("axis_stride", axis_stride as u32);
    kernel
        .dispatches
        .push(finish_flat(dispatch, dims.iter().product(), caps)?);
    Some(kernel)
}

/// ScatterND (opset 11): updates are input 2. Updates of one slice are taken in their order.
pub fn scatter_nd(
    ty: GpuType,
    op: ScatterOp,
    shape: &[usize],
    indices_shape: &[usize],
    indices: Binding,
    data: Data,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let total = elements(shape, caps)?;
    elements(indices_shape, caps)?;
    let (&depth, lead) = indices_shape.split_last()?;
    let sizes = shape.get(..depth)?;
    let rows = elements(lead, caps)?;
    let inner: usize = shape[depth..].iter().product();
    if depth > MAX_RANK || depth == 0 {
        return None;
    }
    if rows == 0 || total == 0 {
        return data.begin(total, caps);
    }
    let strides = &dense_strides(shape)[..depth];
    let start = || tuples(op.flags(flat("scatter_nd", INDEXED), ty), sizes, strides).param("inner", inner as u32);
    if op != ScatterOp::Replace {
        let mut kernel = data.begin(total, caps)?;
        let dispatch = start()
            .flag("SCATTER_ND", true)
            .storage("indices", "i32", indices)
            .storage("updates", ty.wgsl(), Binding::Input(2))
            .storage("output", ty.wgsl(), Binding::Output(0))
            .param("rows", rows as u32);
        kernel.dispatches.push(finish_flat(dispatch, inner, caps)?);
        return Some(kernel);
    }
    let slots = total / inner;
    let winners = |dispatch: DispatchBuilder| {
        let winners = Binding::Scratch(0, Access::ReadWrite);
        dispatch.storage("winners", "atomic<u32>", winners)
    };
    let plain = || flat("scatter_nd", INDEXED);
    let clear = winners(plain().flag("CLEAR", true));
    let vote = winners(start().flag("VOTE", true)).storage("indices", "i32", indices.clone());
    let (choose, count) = match data {
        Data::Copied => (
            winners(plain().flag("CHOOSE", true).param("inner", inner as u32)).storage(
                "input",
                "u32",
                Binding::Input(0),
            ),
            total,
        ),
        Data::TakenOver => (
            winners(start().flag("CHOOSE_IN_PLACE", true)).storage("indices", "i32", indices),
            elements(&[rows, inner], caps)?,
        ),
    };
    let choose = choose
        .storage("updates", "u32", Binding::Input(2))
        .storage("output", "u32", Binding::Output(0));
    Some(GpuKernel {
        dispatches: vec![
            finish_flat(clear, slots, caps)?,
            finish_flat(vote, rows, caps)?,
            finish_flat(choose, count, caps)?,
        ],
        scratch: vec![slots as u64 * GpuType::SIZE],
        in_place: data.in_place(),
        ..GpuKernel::default()
    })
}

/// OneHot (opset 9) of the indices in input 0, bound as elements of type `ty`: `[outer, depth, inner]` of the off- and
/// on-value in input 2.
pub fn one_hot(ty: GpuType, [outer, depth, inner]: [usize; 3], caps: &GpuCaps) -> Option<GpuKernel> {
    let count = elements(&[outer, depth, inner], caps)?;
    let dispatch = flat("one_hot", INDEXED)
        .flag("ONE_HOT", true)
        .storage("indices", ty.wgsl(), Binding::Input(0))
        .storage("values", "u32", Binding::Input(2))
        .storage("output", "u32", Binding::Output(0))
        .param("depth", depth as u32)
        .param("inner", inner as u32)
        .param("step", (depth * inner) as u32);
    flat_kernel(dispatch, count, caps)
}

/// ReverseSequence (opset 10): along `time` as many elements are reversed as input 1 says for the place along `batch`.
pub fn reverse_sequence(shape: &[usize], batch: usize, time: usize, caps: &GpuCaps) -> Option<GpuKernel> {
    let count = elements(shape, caps)?;
    let strides = dense_strides(shape);
    let dispatch = flat("reverse_sequence", INDEXED)
        .flag("REVERSE", true)
        .storage("input", "u32", Binding::Input(0))
        .storage("lengths", "i32", Binding::Input(1))
        .storage("output", "u32", Binding::Output(0))
        .param("times", *shape.get(time)? as u32)
        .param("batches", *shape.get(batch)? as u32)
        .param("time_step", strides[time] as u32)
        .param("batch_step", strides[batch] as u32);
    Some(flat_kernel(dispatch, count, caps)?.checked(1, Check::Between(0, shape[time] as i64)))
}
