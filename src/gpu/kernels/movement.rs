//! Kernels that move elements without computing: Transpose, Slice, Expand, Concat, Split, Pad and Gather. Elements are
//! opaque 32-bit words, so one text serves every type.

use super::super::kernel::{Binding, Dispatch, GpuCaps, GpuKernel};
use super::super::wgsl::{DispatchBuilder, LINEAR_THREADS, linear_workgroups, shader_text};
use super::{MAX_RANK, dense_strides, elements};

const COPY: &str = shader_text!("../../../shaders/copy.wgsl");
const PAD: &str = shader_text!("../../../shaders/pad.wgsl");
const GATHER: &str = shader_text!("../../../shaders/gather.wgsl");

/// A box of elements and where each of its dimensions leads in the source and in the destination.
#[derive(Debug, Clone, Default)]
struct Copy {
    dims: Vec<usize>,
    from_base: usize,
    from: Vec<isize>,
    to_base: usize,
    to: Vec<usize>,
}

impl Copy {
    /// Drops dimensions of size one and joins neighbours that both sides step through as one.
    fn collapsed(&self) -> Copy {
        let mut result = Copy {
            from_base: self.from_base,
            to_base: self.to_base,
            ..Copy::default()
        };
        for axis in 0..self.dims.len() {
            let (dim, from, to) = (self.dims[axis], self.from[axis], self.to[axis]);
            if dim == 1 {
                continue;
            }
            if let (Some(last_dim), Some(last_from), Some(last_to)) =
                (result.dims.last_mut(), result.from.last_mut(), result.to.last_mut())
                && *last_from == from * dim as isize
                && *last_to == to * dim
            {
                *last_dim *= dim;
                *last_from = from;
                *last_to = to;
            } else {
                result.dims.push(dim);
                result.from.push(from);
                result.to.push(to);
            }
        }
        if result.dims.is_empty() {
            result.dims.push(1);
            result.from.push(1);
            result.to.push(1);
        }
        result
    }

    /// The same in units of four elements, where every run of the innermost dimension is whole aligned vectors.
    fn vectors(&self) -> Option<Copy> {
        let inner = self.dims.len().checked_sub(1)?;
        let fits = self.from[inner] == 1
            && self.to[inner] == 1
            && self.dims[inner].is_multiple_of(4)
            && self.from_base.is_multiple_of(4)
            && self.to_base.is_multiple_of(4)
            && self.from[..inner].iter().all(|stride| stride % 4 == 0)
            && self.to[..inner].iter().all(|stride| stride % 4 == 0);
        if !fits {
            return None;
        }
        let mut result = self.clone();
        result.dims[inner] /= 4;
        result.from_base /= 4;
        result.to_base /= 4;
        result.from[..inner].iter_mut().for_each(|stride| *stride /= 4);
        result.to[..inner].iter_mut().for_each(|stride| *stride /= 4);
        Some(result)
    }

    /// The dispatch from `input` to `output`; `None` beyond [`MAX_RANK`] dimensions. The caller has checked sizes.
    fn dispatch(&self, input: Binding, output: Binding, caps: &GpuCaps) -> Option<Dispatch> {
        let collapsed = self.collapsed();
        let (copy, element) = match collapsed.vectors() {
            Some(vectors) => (vectors, "vec4<u32>"),
            None => (collapsed, "u32"),
        };
        if copy.dims.len() > MAX_RANK {
            return None;
        }
        let count: usize = copy.dims.iter().product();
        let dense = copy.to == dense_strides(&copy.dims);
        let dispatch = DispatchBuilder::new("copy", COPY)
            .define("THREADS", LINEAR_THREADS)
            .define("RANK", copy.dims.len())
            .flag("DENSE", dense)
            .storage("input", element, input)
            .storage("output", element, output)
            .param("count", count as u32)
            .param_i32("from_base", copy.from_base as i32)
            .param("to_base", copy.to_base as u32)
            .param_list("dim", copy.dims.iter().rev().map(|&dim| dim as u32))
            .param_list_i32("from_stride", copy.from.iter().rev().map(|&stride| stride as i32))
            .param_list("to_stride", copy.to.iter().rev().map(|&stride| stride as u32));
        Some(dispatch.finish(linear_workgroups(count as u64, caps)))
    }
}

fn signed(strides: &[usize]) -> Vec<isize> {
    strides.iter().map(|&stride| stride as isize).collect()
}

/// A plain copy of `count` elements from input 0 to output 0.
pub fn copy(count: usize, caps: &GpuCaps) -> Option<GpuKernel> {
    strided(&[count], &[count], 0, &[1], caps)
}

/// Transpose (opset 1 and later) of input 0: output dimension `i` is input dimension `perm[i]`. `None` when `perm` is
/// not a permutation.
pub fn transpose(shape: &[usize], perm: &[usize], caps: &GpuCaps) -> Option<GpuKernel> {
    let mut seen = vec![false; shape.len()];
    for &axis in perm {
        *seen.get_mut(axis)? = true;
    }
    if perm.len() != shape.len() || seen.contains(&false) {
        return None;
    }
    let strides = dense_strides(shape);
    let dims: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
    let from: Vec<isize> = perm.iter().map(|&axis| strides[axis] as isize).collect();
    strided(shape, &dims, 0, &from, caps)
}

/// Slice of input 0: output element `i` of an axis is input element `starts + i * steps`; steps may be negative. The
/// caller has clamped `starts` and computed `output_shape`; `None` when they leave the input.
pub fn slice(
    shape: &[usize],
    starts: &[usize],
    steps: &[isize],
    output_shape: &[usize],
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    if starts.len() != shape.len() || steps.len() != shape.len() || output_shape.len() != shape.len() {
        return None;
    }
    if output_shape.contains(&0) {
        return Some(GpuKernel::default());
    }
    let strides = dense_strides(shape);
    let mut base = 0;
    let mut from = Vec::with_capacity(shape.len());
    for axis in 0..shape.len() {
        let run = steps[axis].checked_mul(output_shape[axis] as isize - 1)?;
        let last = (starts[axis] as isize).checked_add(run)?;
        if starts[axis] >= shape[axis] || last < 0 || last >= shape[axis] as isize {
            return None;
        }
        base += starts[axis] * strides[axis];
        from.push(steps[axis].checked_mul(strides[axis] as isize)?);
    }
    strided(shape, output_shape, base, &from, caps)
}

/// Expand of input 0 to `output_shape`, to which it broadcasts; `None` when it does not.
pub fn expand(shape: &[usize], output_shape: &[usize], caps: &GpuCaps) -> Option<GpuKernel> {
    let strides = crate::pointwise::access::broadcast_strides(output_shape, shape)?;
    strided(shape, output_shape, 0, &signed(&strides), caps)
}

/// A dense output of `dims`, read from input 0 of `shape` at `base` with strides `from`.
fn strided(shape: &[usize], dims: &[usize], base: usize, from: &[isize], caps: &GpuCaps) -> Option<GpuKernel> {
    elements(shape, caps)?;
    if elements(dims, caps)? == 0 {
        return Some(GpuKernel::default());
    }
    let copy = Copy {
        dims: dims.to_vec(),
        from_base: base,
        from: from.to_vec(),
        to_base: 0,
        to: dense_strides(dims),
    };
    Some(GpuKernel::of(vec![copy.dispatch(
        Binding::Input(0),
        Binding::Output(0),
        caps,
    )?]))
}

/// Concat of all inputs along `axis`. `None` when the shapes do not fit each other.
pub fn concat(shapes: &[&[usize]], axis: usize, caps: &GpuCaps) -> Option<GpuKernel> {
    let first = shapes.first()?;
    let mut output_shape = first.to_vec();
    *output_shape.get_mut(axis)? = 0;
    for shape in shapes {
        let fits = shape.len() == first.len() && (0..first.len()).all(|i| i == axis || shape[i] == first[i]);
        if !fits {
            return None;
        }
        output_shape[axis] = output_shape[axis].checked_add(shape[axis])?;
    }
    elements(&output_shape, caps)?;
    let to = dense_strides(&output_shape);
    let mut dispatches = Vec::with_capacity(shapes.len());
    let mut start = 0;
    for (index, shape) in shapes.iter().enumerate() {
        if elements(shape, caps)? > 0 {
            let piece = Copy {
                dims: shape.to_vec(),
                from_base: 0,
                from: signed(&dense_strides(shape)),
                to_base: start * to[axis],
                to: to.clone(),
            };
            dispatches.push(piece.dispatch(Binding::Input(index), Binding::Output(0), caps)?);
        }
        start += shape[axis];
    }
    Some(GpuKernel::of(dispatches))
}

/// Split of input 0 along `axis` into outputs of these lengths. `None` when the lengths do not add up.
pub fn split(shape: &[usize], axis: usize, lengths: &[usize], caps: &GpuCaps) -> Option<GpuKernel> {
    elements(shape, caps)?;
    let total = lengths
        .iter()
        .try_fold(0usize, |sum, &length| sum.checked_add(length))?;
    if *shape.get(axis)? != total {
        return None;
    }
    let from = dense_strides(shape);
    let mut dispatches = Vec::with_capacity(lengths.len());
    let mut start = 0;
    for (index, &length) in lengths.iter().enumerate() {
        let mut dims = shape.to_vec();
        dims[axis] = length;
        if !dims.contains(&0) {
            let piece = Copy {
                from_base: start * from[axis],
                from: signed(&from),
                to_base: 0,
                to: dense_strides(&dims),
                dims,
            };
            dispatches.push(piece.dispatch(Binding::Input(0), Binding::Output(index), caps)?);
        }
        start += length;
    }
    Some(GpuKernel::of(dispatches))
}

/// What stands outside the input of [`pad`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PadMode {
    /// The bits of one element.
    Constant(u32),
    /// The element of an input.
    Input(usize),
    Edge,
    Reflect,
    Wrap,
}

/// Pad (opset 1 and later) of input 0 by `before` and `after` elements per axis; negative numbers crop. `None` when an
/// axis ends up negative, or has nothing to repeat.
pub fn pad(shape: &[usize], before: &[isize], after: &[isize], mode: PadMode, caps: &GpuCaps) -> Option<GpuKernel> {
    let count_in = elements(shape, caps)?;
    if before.len() != shape.len() || after.len() != shape.len() || shape.len() > MAX_RANK {
        return None;
    }
    let mut dims = Vec::with_capacity(shape.len());
    for axis in 0..shape.len() {
        let size = (shape[axis] as isize)
            .checked_add(before[axis])?
            .checked_add(after[axis])?;
        // Shaders add these as 32-bit numbers.
        i32::try_from(before[axis]).ok()?;
        dims.push(usize::try_from(size).ok()?);
    }
    let count = elements(&dims, caps)?;
    if count == 0 {
        return Some(GpuKernel::default());
    }
    let is_constant = matches!(mode, PadMode::Constant(_) | PadMode::Input(_));
    if count_in == 0 && !is_constant {
        return None;
    }
    let strides = dense_strides(shape);
    let reversed = |values: &[usize]| values.iter().rev().map(|&value| value as i32).collect::<Vec<_>>();
    let fill = match mode {
        PadMode::Constant(bits) => bits,
        _ => 0,
    };
    let dispatch = DispatchBuilder::new("pad", PAD)
        .define("THREADS", LINEAR_THREADS)
        .define("RANK", shape.len())
        .define("T", "u32")
        .flag("CONSTANT", is_constant)
        .flag("FILLED", matches!(mode, PadMode::Input(_)))
        .flag("EDGE", mode == PadMode::Edge)
        .flag("REFLECT", mode == PadMode::Reflect)
        .flag("WRAP", mode == PadMode::Wrap)
        .storage("input", "u32", Binding::Input(0))
        .storage("output", "u32", Binding::Output(0))
        .param("count", count as u32)
        .param("fill", fill)
        .param_list("dim", dims.iter().rev().map(|&dim| dim as u32))
        .param_list_i32("size", reversed(shape))
        .param_list_i32("stride", reversed(&strides))
        .param_list_i32("before", before.iter().rev().map(|&pad| pad as i32));
    let dispatch = match mode {
        PadMode::Input(index) => dispatch.storage("fill", "u32", Binding::Input(index)),
        _ => dispatch,
    };
    Some(GpuKernel::of(vec![
        dispatch.finish(linear_workgroups(count as u64, caps)),
    ]))
}

/// Gather of input 0 along `axis` at the i32 indices of `indices`, usually input 1 or a constant made from int64
/// indices. Negative indices count from the end. Indices outside the axis are clamped to it: where the indices are
/// constant the caller must have checked them; where they are not, it must accept this or stay on the CPU.
pub fn gather(shape: &[usize], axis: usize, picks: usize, indices: Binding, caps: &GpuCaps) -> Option<GpuKernel> {
    let length = *shape.get(axis)?;
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis + 1..].iter().product();
    elements(shape, caps)?;
    elements(&[picks], caps)?;
    let count = elements(&[outer, picks, inner], caps)?;
    if count == 0 {
        return Some(GpuKernel::default());
    }
    if length == 0 {
        return None;
    }
    let (element, inner) = if inner.is_multiple_of(4) {
        ("vec4<u32>", inner / 4)
    } else {
        ("u32", inner)
    };
    let count = outer * picks * inner;
    let dispatch = DispatchBuilder::new("gather", GATHER)
        .define("THREADS", LINEAR_THREADS)
        .storage("input", element, Binding::Input(0))
        .storage("indices", "i32", indices)
        .storage("output", element, Binding::Output(0))
        .param("count", count as u32)
        .param("axis", length as u32)
        .param("picks", picks as u32)
        .param("inner", inner as u32);
    Some(GpuKernel::of(vec![
        dispatch.finish(linear_workgroups(count as u64, caps)),
    ]))
}

#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod tests {
    use super::super::super::kernel::GpuType;
    use super::super::super::testing::{self, Data, Random};
    use super::*;

    fn i32s(count: usize) -> Vec<i32> {
        (0..count as i32).collect()
    }

    fn offset(strides: &[usize], at: &[usize]) -> usize {
        strides.iter().zip(at).map(|(stride, at)| stride * at).sum()
    }

    /// Every index of a box, in row-major order.
    fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new()];
        for &dim in dims {
            all = all
                .into_iter()
                .flat_map(|at| (0..dim).map(move |i| [at.clone(), vec![i]].concat()))
                .collect();
        }
        all
    }

    /// Runs a kernel of one output on one input that counts up.
    fn moved(kernel: Option<GpuKernel>, count_in: usize, count_out: usize) -> Option<Vec<i32>> {
        let device = testing::device()?;
        let kernel = kernel.expect("the kernel is supported");
        kernel.dispatches.iter().for_each(testing::validate);
        let inputs = [Data::I32(i32s(count_in))];
        let mut outputs = testing::run(&device, kernel, &inputs, &[(GpuType::I32, count_out)]).expect("it runs");
        match outputs.remove(0) {
            Data::I32(values) => Some(values),
            other => panic!("{other:?}"),
        }
    }

    fn caps() -> GpuCaps {
        testing::both_kinds()[1].clone()
    }

    #[test]
    fn transpose_moves_every_element_for_random_permutations() {
        let mut random = Random(1);
        for round in 0..12 {
            let rank = 1 + round % 5;
            let shape: Vec<usize> = (0..rank).map(|_| random.between(1, 8)).collect();
            let mut perm: Vec<usize> = (0..rank).collect();
            (0..rank).for_each(|i| perm.swap(i, random.below(rank)));
            let dims: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
            let strides = dense_strides(&shape);
            let from: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
            let expected: Vec<i32> = indices(&dims).iter().map(|at| offset(&from, at) as i32).collect();
            let count = expected.len();
            let Some(found) = moved(transpose(&shape, &perm, &caps()), count, count) else {
                return;
            };
            assert_eq!(found, expected, "shape {shape:?}, perm {perm:?}");
        }
    }

    #[test]
    fn slice_takes_steps_in_both_directions() {
        let shape = [5, 6, 8];
        for (starts, steps, out) in [
            ([1, 5, 0], [2isize, -2, 1], [2, 3, 8]),
            ([4, 0, 7], [-1, 1, -3], [5, 6, 3]),
            ([0, 2, 4], [1, 1, 1], [5, 2, 4]),
        ] {
            let strides = dense_strides(&shape);
            let expected: Vec<i32> = indices(&out)
                .iter()
                .map(|at| {
                    (0..3)
                        .map(|i| (starts[i] as isize + at[i] as isize * steps[i]) * strides[i] as isize)
                        .sum::<isize>() as i32
                })
                .collect();
            let Some(found) = moved(slice(&shape, &starts, &steps, &out, &caps()), 240, expected.len()) else {
                return;
            };
            assert_eq!(found, expected);
        }
        assert!(slice(&shape, &[0, 0, 0], &[3, 1, 1], &[3, 6, 8], &caps()).is_none());
        assert!(
            slice(&shape, &[0, 0, 0], &[1, 1, 1], &[0, 6, 8], &caps())
                .unwrap()
                .dispatches
                .is_empty()
        );
    }

    #[test]
    fn expand_repeats_broadcast_dimensions() {
        let Some(found) = moved(expand(&[3, 1, 4], &[2, 3, 5, 4], &caps()), 12, 120) else {
            return;
        };
        let expected: Vec<i32> = indices(&[2, 3, 5, 4])
            .iter()
            .map(|at| (at[1] * 4 + at[3]) as i32)
            .collect();
        assert_eq!(found, expected);
        assert!(expand(&[3], &[4], &caps()).is_none());
    }

    #[test]
    fn concat_and_split_are_inverse_with_empty_pieces() {
        let Some(device) = testing::device() else { return };
        for (outer, inner, lengths) in [(3, 5, vec![2, 0, 7, 1]), (2, 8, vec![4, 4]), (1, 1, vec![3, 5])] {
            let total: usize = lengths.iter().sum();
            let whole = i32s(outer * total * inner);
            let kernel = split(&[outer, total, inner], 1, &lengths, &caps()).unwrap();
            let sizes: Vec<(GpuType, usize)> = lengths.iter().map(|n| (GpuType::I32, outer * n * inner)).collect();
            let pieces = testing::run(&device, kernel, &[Data::I32(whole.clone())], &sizes).unwrap();
            let mut start = 0;
            for (piece, &length) in pieces.iter().zip(&lengths) {
                let expected: Vec<i32> = indices(&[outer, length, inner])
                    .iter()
                    .map(|at| ((at[0] * total + start + at[1]) * inner + at[2]) as i32)
                    .collect();
                assert_eq!(piece, &Data::I32(expected));
                start += length;
            }
            let shapes: Vec<Vec<usize>> = lengths.iter().map(|&length| vec![outer, length, inner]).collect();
            let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
            let kernel = concat(&shapes, 1, &caps()).unwrap();
            let joined = testing::run(&device, kernel, &pieces, &[(GpuType::I32, whole.len())]).unwrap();
            assert_eq!(joined[0], Data::I32(whole));
        }
    }

    #[test]
    fn pad_fills_repeats_reflects_wraps_and_crops() {
        let shape = [3usize, 4];
        let (before, after) = ([2isize, -1], [1isize, 6]);
        let dims = [6usize, 9];
        type Place = fn(isize, isize) -> Option<isize>;
        let modes: [(PadMode, Place); 4] = [
            (PadMode::Constant(77), |at, size| (0..size).contains(&at).then_some(at)),
            (PadMode::Edge, |at, size| Some(at.clamp(0, size - 1))),
            (PadMode::Reflect, |at, size| {
                let at = at.rem_euclid(2 * (size - 1));
                Some(at.min(2 * (size - 1) - at))
            }),
            (PadMode::Wrap, |at, size| Some(at.rem_euclid(size))),
        ];
        for (mode, place) in modes {
            let expected: Vec<i32> = indices(&dims)
                .iter()
                .map(|at| {
                    let y = place(at[0] as isize - before[0], 3);
                    let x = place(at[1] as isize - before[1], 4);
                    y.zip(x).map_or(77, |(y, x)| (y * 4 + x) as i32)
                })
                .collect();
            let Some(found) = moved(pad(&shape, &before, &after, mode, &caps()), 12, 54) else {
                return;
            };
            assert_eq!(found, expected, "{mode:?}");
        }
        let Some(found) = moved(pad(&[0], &[1], &[1], PadMode::Constant(5), &caps()), 0, 2) else {
            return;
        };
        assert_eq!(found, [5, 5]);
        assert!(pad(&[0], &[1], &[1], PadMode::Edge, &caps()).is_none());
    }

    #[test]
    fn gather_picks_rows_with_negative_indices() {
        let Some(device) = testing::device() else { return };
        for inner in [3, 8] {
            let kernel = gather(&[2, 5, inner], 1, 4, Binding::Input(1), &caps()).unwrap();
            kernel.dispatches.iter().for_each(testing::validate);
            let inputs = [Data::I32(i32s(10 * inner)), Data::I32(vec![4, -1, 0, -5])];
            let found = testing::run(&device, kernel, &inputs, &[(GpuType::I32, 8 * inner)]).unwrap();
            let expected = indices(&[2, 4, inner])
                .iter()
                .map(|at| ((at[0] * 5 + [4, 4, 0, 0][at[1]]) * inner + at[2]) as i32)
                .collect();
            assert_eq!(found[0], Data::I32(expected));
        }
    }

    #[test]
    fn texts_match_their_snapshots() {
        let caps = caps();
        testing::assert_snapshot("transpose", &transpose(&[2, 3, 5, 7], &[0, 2, 1, 3], &caps).unwrap());
        testing::assert_snapshot("concat", &concat(&[&[2, 3, 4], &[2, 1, 4]], 1, &caps).unwrap());
        testing::assert_snapshot(
            "pad_reflect",
            &pad(&[3, 4], &[1, 1], &[1, 1], PadMode::Reflect, &caps).unwrap(),
        );
        testing::assert_snapshot("gather", &gather(&[5, 3], 0, 4, Binding::Input(1), &caps).unwrap());
    }
}
