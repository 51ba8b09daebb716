//! Transposition and strided copies of elements of any fixed size. Neighbouring axes that stay together are merged
//! first; what is left runs as copies of contiguous runs, or as blocked two-dimensional transposes.

/// A permutation of axes planned for one shape.
#[derive(Clone, Debug)]
pub struct TransposePlan {
    copy: StridedCopy,
}

impl TransposePlan {
    /// Output axis `i` is input axis `perm[i]`. `None` when `perm` is no permutation of the axes.
    pub fn new(shape: &[usize], perm: &[usize]) -> Option<Self> {
        let mut seen = vec![false; shape.len()];
        for &axis in perm {
            let place = seen.get_mut(axis)?;
            if std::mem::replace(place, true) {
                return None;
            }
        }
        if perm.len() != shape.len() {
            return None;
        }
        let mut strides = vec![1usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        let sizes: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
        let strides: Vec<isize> = perm.iter().map(|&axis| strides[axis] as isize).collect();
        StridedCopy::new(&sizes, 0, &strides).map(|copy| Self { copy })
    }

    /// Whether the permutation moves nothing, so that the output's bytes are the input's.
    pub fn is_copy(&self) -> bool {
        self.copy.is_contiguous()
    }

    /// Writes the transposed tensor.
    ///
    /// # Panics
    /// When a slice is shorter than the shape.
    pub fn run<T: Copy>(&self, input: &[T], out: &mut [T]) {
        self.copy.run(input, out);
    }
}

/// Gathers a contiguous output from an input with any strides: slices (also backwards), expanded axes (stride 0),
/// transposes. Planned once per shape.
#[derive(Clone, Debug)]
pub struct StridedCopy {
    /// Output sizes with the input's strides, outermost first; merged, without axes of length 1.
    axes: Box<[(usize, isize)]>,
    offset: usize,
    len: usize,
    /// The smallest input length that the copy stays within.
    needs: usize,
}

/// The edge of a block that is transposed at once: its rows and columns lie in L1 together.
const BLOCK: usize = 16;

impl StridedCopy {
    /// Output `[sizes]`, row-major, where element (i, j, ..) is `input[offset + i * strides[0] + j * strides[1] + ..]`.
    /// `None` when a reachable place lies before the input's begin, or when sizes overflow.
    pub fn new(sizes: &[usize], offset: usize, strides: &[isize]) -> Option<Self> {
        if sizes.len() != strides.len() {
            return None;
        }
        let len = sizes.iter().try_fold(1usize, |len, &size| len.checked_mul(size))?;
        let (mut lowest, mut highest) = (offset as i128, offset as i128);
        let mut axes: Vec<(usize, isize)> = Vec::new();
        for (&size, &stride) in sizes.iter().zip(strides) {
            let reach = (size.max(1) - 1) as i128 * stride as i128;
            if reach < 0 {
                lowest += reach
            } else {
                highest += reach
            }
            if size == 1 {
                continue;
            }
            match axes.last_mut() {
                Some((outer, outer_stride))
                    if stride.checked_mul(size as isize) == Some(*outer_stride) && size <= isize::MAX as usize =>
                {
                    *outer *= size;
                    *outer_stride = stride;
                }
                _ => axes.push((size, stride)),
            }
        }
        if len > 0 && lowest < 0 {
            return None;
        }
        let needs = if len == 0 {
            0
        } else {
            usize::try_from(highest + 1).ok()?
        };
        Some(Self {
            axes: axes.into(),
            offset,
            len,
            needs,
        })
    }

    /// Whether the output is a contiguous run of the input.
    pub fn is_contiguous(&self) -> bool {
        self.len == 0 || matches!(*self.axes, [] | [(_, 1)])
    }

    /// The number of elements of the output.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the output is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies.
    ///
    /// # Panics
    /// When `input` is shorter than the reachable places or `out` shorter than [`StridedCopy::len`].
    pub fn run<T: Copy>(&self, input: &[T], out: &mut [T]) {
        let out = &mut out[..self.len];
        assert!(
            input.len() >= self.needs,
            "input holds {} elements, {} are reached",
            input.len(),
            self.needs
        );
        if !out.is_empty() {
            copy_axes(&self.axes, input, self.offset, out);
        }
    }
}

fn copy_axes<T: Copy>(axes: &[(usize, isize)], input: &[T], offset: usize, out: &mut [T]) {
    match *axes {
        [] => out[0] = input[offset],
        [(_, stride)] => copy_run(input, offset, stride, out),
        [(rows, row_stride), (columns, column_stride)] if row_stride == 1 && column_stride > 1 => {
            transpose_block(input, offset, rows, columns, column_stride as usize, out);
        }
        [(size, stride), ref rest @ ..] => {
            let step = out.len() / size;
            for (index, out) in out.chunks_exact_mut(step).enumerate() {
                copy_axes(rest, input, offset.wrapping_add_signed(stride * index as isize), out);
            }
        }
    }
}

fn copy_run<T: Copy>(input: &[T], offset: usize, stride: isize, out: &mut [T]) {
    match stride {
        1 => out.copy_from_slice(&input[offset..offset + out.len()]),
        0 => out.fill(input[offset]),
        2.. => {
            for (place, value) in out.iter_mut().zip(input[offset..].iter().step_by(stride as usize)) {
                *place = *value;
            }
        }
        _ => {
            let values = input[..=offset].iter().rev().step_by(stride.unsigned_abs());
            for (place, value) in out.iter_mut().zip(values) {
                *place = *value;
            }
        }
    }
}

/// `out[r, c] = input[offset + r + c * column_stride]`, block by block.
fn transpose_block<T: Copy>(
    input: &[T],
    offset: usize,
    rows: usize,
    columns: usize,
    column_stride: usize,
    out: &mut [T],
) {
    for first_column in (0..columns).step_by(BLOCK) {
        let width = BLOCK.min(columns - first_column);
        for first_row in (0..rows).step_by(BLOCK) {
            let height = BLOCK.min(rows - first_row);
            for column in first_column..first_column + width {
                let start = offset + column * column_stride + first_row;
                let source = &input[start..start + height];
                let targets = out[first_row * columns + column..].iter_mut().step_by(columns);
                for (target, value) in targets.zip(source) {
                    *target = *value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::Rng;

    fn reference<T: Copy>(shape: &[usize], perm: &[usize], input: &[T]) -> Vec<T> {
        let out_shape: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
        (0..input.len())
            .map(|index| {
                let mut coordinates = vec![0; shape.len()];
                let mut rest = index;
                for i in (0..perm.len()).rev() {
                    coordinates[perm[i]] = rest % out_shape[i];
                    rest /= out_shape[i];
                }
                input[coordinates.iter().zip(shape).fold(0, |sum, (c, size)| sum * size + c)]
            })
            .collect()
    }

    #[test]
    fn random_permutations_match_the_definition_for_any_element_size() {
        let mut rng = Rng::new(9);
        for _ in 0..400 {
            let rank = rng.size(0, 5);
            let shape: Vec<usize> = (0..rank)
                .map(|_| if rng.size(0, 20) == 0 { 0 } else { rng.size(1, 7) })
                .collect();
            let mut perm: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                perm.swap(i, rng.size(0, i));
            }
            let len: usize = shape.iter().product();
            let plan = TransposePlan::new(&shape, &perm).unwrap();
            let wide: Vec<u64> = (0..len as u64).collect();
            let mut out = vec![u64::MAX; len];
            plan.run(&wide, &mut out);
            assert_eq!(out, reference(&shape, &perm, &wide), "{shape:?} {perm:?}");
            let narrow: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut out = vec![255u8; len];
            plan.run(&narrow, &mut out);
            assert_eq!(out, reference(&shape, &perm, &narrow), "{shape:?} {perm:?}");
        }
    }

    #[test]
    fn larger_matrices_and_image_layouts_match_the_definition() {
        for (shape, perm) in [
            (&[67, 131][..], &[1, 0][..]),
            (&[2, 19, 33, 21], &[0, 2, 3, 1]),
            (&[2, 33, 21, 19], &[0, 3, 1, 2]),
            (&[2, 40, 3, 17], &[0, 2, 1, 3]),
            (&[2, 40, 3, 17], &[0, 2, 3, 1]),
            (&[20, 30, 40], &[2, 1, 0]),
        ] {
            let input: Vec<u32> = (0..shape.iter().product::<usize>() as u32).collect();
            let mut out = vec![0; input.len()];
            TransposePlan::new(shape, perm).unwrap().run(&input, &mut out);
            assert_eq!(out, reference(shape, perm, &input), "{shape:?} {perm:?}");
        }
    }

    #[test]
    fn strided_copies_step_backwards_and_repeat() {
        let input: Vec<i16> = (0..24).collect();
        let mut out = vec![0; 6];
        // input seen as [4, 6]: rows 3 and 1, columns 5, 3, 1.
        StridedCopy::new(&[2, 3], 23, &[-12, -2]).unwrap().run(&input, &mut out);
        assert_eq!(out, [23, 21, 19, 11, 9, 7]);
        StridedCopy::new(&[3, 2], 4, &[0, 1]).unwrap().run(&input, &mut out);
        assert_eq!(out, [4, 5, 4, 5, 4, 5]);
        assert!(StridedCopy::new(&[4], 2, &[-1]).is_none());
        assert!(StridedCopy::new(&[0, 4], 2, &[-1, -1]).unwrap().is_empty());
        assert!(TransposePlan::new(&[2, 3], &[0, 0]).is_none() && TransposePlan::new(&[2, 3], &[1]).is_none());
        assert!(TransposePlan::new(&[1, 3, 1, 5], &[2, 1, 3, 0]).unwrap().is_copy());
    }

    #[test]
    #[should_panic(expected = "are reached")]
    fn short_inputs_are_refused() {
        let mut out = [0u8; 4];
        StridedCopy::new(&[2, 2], 0, &[4, 1]).unwrap().run(&[0u8; 5], &mut out);
    }
}
