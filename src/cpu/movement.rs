//! Moving elements without looking at them: strided copies, and kernels that work alike on elements of any size, on
//! packed 4-bit elements and on strings.

use super::{
    kernel::{CpuKernel, InputBytes, KernelInputs},
    threads::Threads,
};
use crate::{
    error::{Error, Result},
    tensor::{AlignedBytes, DType, Tensor, element_count, packed},
};

/// A block of elements that is copied from one tensor into another, at steps of its own in each.
#[derive(Clone, Debug)]
pub struct StridedCopy {
    /// Dimensions of the block with the step of each in the source and in the target, all in elements. None is 1.
    dims: Vec<(usize, isize, isize)>,
    source_start: usize,
    target_start: usize,
    is_empty: bool,
}

impl StridedCopy {
    /// The copy of a block of `dims`, whose first element is at `source_start` and `target_start`.
    pub fn new(
        dims: &[usize],
        source_steps: &[isize],
        target_steps: &[isize],
        source_start: usize,
        target_start: usize,
    ) -> StridedCopy {
        let mut merged: Vec<(usize, isize, isize)> = Vec::with_capacity(dims.len());
        // Beside a dimension of 0 others may be so large that their product overflows.
        let is_empty = dims.contains(&0);
        let dims = if is_empty { &[] } else { dims };
        for ((&dim, &source), &target) in dims.iter().zip(source_steps).zip(target_steps) {
            if dim == 1 {
                continue;
            }
            match merged.last_mut() {
                // The dimension before is one with this one where its step is this one's whole length in both.
                Some(last) if last.1 == source * dim as isize && last.2 == target * dim as isize => {
                    *last = (last.0 * dim, source, target);
                }
                _ => merged.push((dim, source, target)),
            }
        }
        StridedCopy {
            dims: merged,
            source_start,
            target_start,
            is_empty,
        }
    }

    /// A copy of a dense block of `dims` from the source at `source_steps` into a dense target.
    pub fn gather(dims: &[usize], source_steps: &[isize], source_start: usize) -> StridedCopy {
        let target_steps = if dims.contains(&0) {
            Vec::new()
        } else {
            dense_steps(dims)
        };
        StridedCopy::new(dims, source_steps, &target_steps, source_start, 0)
    }

    /// Copies elements of `size` bytes. An error when the block is not inside both tensors.
    pub fn run(&self, size: usize, source: &[u8], target: &mut [u8]) -> Result<()> {
        self.run_on(&Threads::SINGLE, size, source, target)
    }

    /// As [`StridedCopy::run`], on several threads where much is copied into the whole of a dense target.
    pub fn run_on(&self, threads: &Threads, size: usize, source: &[u8], target: &mut [u8]) -> Result<()> {
        if self.is_empty {
            return Ok(());
        }
        let inside = |start: usize, step: fn(&(usize, isize, isize)) -> isize, bytes: usize| {
            let (mut low, mut high) = (start as isize, start as isize);
            for dim in &self.dims {
                let reach = (dim.0 as isize - 1) * step(dim);
                low += reach.min(0);
                high += reach.max(0);
            }
            low >= 0 && (high as usize) < bytes / size
        };
        if !inside(self.source_start, |dim| dim.1, source.len())
            || !inside(self.target_start, |dim| dim.2, target.len())
        {
            return Err(Error::internal("a copied block leaves its tensor"));
        }
        match size {
            1 => self.run_sized::<1>(threads, source, target),
            2 => self.run_sized::<2>(threads, source, target),
            4 => self.run_sized::<4>(threads, source, target),
            8 => self.run_sized::<8>(threads, source, target),
            _ => return Err(Error::internal(format!("elements of {size} bytes"))),
        }
        Ok(())
    }

    fn run_sized<const N: usize>(&self, threads: &Threads, source: &[u8], target: &mut [u8]) {
        let source: &[[u8; N]] = source.as_chunks().0;
        let target: &mut [[u8; N]] = target.as_chunks_mut().0;
        let (from, to) = (self.source_start as isize, self.target_start as isize);
        let Some(&(len, source_step, target_step)) = self.dims.first().filter(|_| threads.count() > 1) else {
            return walk(&self.dims, from, to, source, target);
        };
        let row = target_step.max(0) as usize;
        if to != 0 || len.checked_mul(row) != Some(target.len()) {
            return walk(&self.dims, from, to, source, target);
        }
        threads.rows_mut(target, row, 3 * row, |first, target| {
            let from = from + first as isize * source_step;
            let mut dims = self.dims.clone();
            dims[0].0 = target.len() / row;
            walk(&dims, from, 0, source, target);
        });
    }
}

fn walk<const N: usize>(
    dims: &[(usize, isize, isize)],
    from: isize,
    to: isize,
    source: &[[u8; N]],
    target: &mut [[u8; N]],
) {
    match *dims {
        [] => target[to as usize] = source[from as usize],
        [(len, source_step, target_step)] => copy_row(len, (from, source_step), (to, target_step), source, target),
        // The last two dimensions lie the other way round in the source: square blocks keep both sides in cache.
        [(rows, 1, row_step), (columns, column_step, 1)] if column_step != 1 => {
            const BLOCK: usize = 16;
            for row in (0..rows).step_by(BLOCK) {
                for column in (0..columns).step_by(BLOCK) {
                    for row in row..(row + BLOCK).min(rows) {
                        let to = to as usize + row * row_step as usize + column;
                        let from = from + row as isize + column as isize * column_step;
                        let columns = BLOCK.min(columns - column);
                        for (number, to) in target[to..to + columns].iter_mut().enumerate() {
                            *to = source[(from + number as isize * column_step) as usize];
                        }
                    }
                }
            }
        }
        [(len, source_step, target_step), ref rest @ ..] => {
            for index in 0..len as isize {
                let (from, to) = (from + index * source_step, to + index * target_step);
                walk(rest, from, to, source, target);
            }
        }
    }
}

fn copy_row<const N: usize>(
    len: usize,
    (from, source_step): (isize, isize),
    (to, target_step): (isize, isize),
    source: &[[u8; N]],
    target: &mut [[u8; N]],
) {
    let (first, start) = (from as usize, to as usize);
    match (source_step, target_step) {
        (1, 1) => target[start..start + len].copy_from_slice(&source[first..first + len]),
        (0, 1) => target[start..start + len].fill(source[first]),
        (_, 1) => {
            for (index, to) in target[start..start + len].iter_mut().enumerate() {
                *to = source[(from + index as isize * source_step) as usize];
            }
        }
        _ => {
            for index in 0..len as isize {
                target[(to + index * target_step) as usize] = source[(from + index * source_step) as usize];
            }
        }
    }
}

/// Row-major steps of a shape, in elements.
pub fn dense_steps(shape: &[usize]) -> Vec<isize> {
    crate::tensor::strides_of(shape)
        .into_iter()
        .map(|step| step as isize)
        .collect()
}

/// What a [`MoveFn`] works on: elements of `size` bytes, whatever they are.
pub struct Moved<'a> {
    /// Bytes of one element.
    pub size: usize,
    /// The inputs whose elements are moved, in the order given to [`kernel`].
    pub data: Vec<&'a [u8]>,
    /// All inputs of the node, for indices and the like.
    pub inputs: &'a KernelInputs<'a>,
    /// The wanted outputs. They hold zeros, or garbage where the kernel writes every element.
    pub outputs: Vec<Option<&'a mut [u8]>>,
    /// The threads that may share the work.
    pub threads: &'a Threads,
}

impl Moved<'_> {
    /// The first output.
    pub fn output(&mut self) -> Result<&mut [u8]> {
        let output = self.outputs.first_mut().and_then(Option::as_deref_mut);
        output.ok_or_else(|| Error::internal("the first output is not wanted"))
    }
}

/// Moves elements from the data inputs to the outputs.
pub type MoveFn = dyn Fn(&mut Moved<'_>) -> Result<()> + Send + Sync;

/// A kernel that moves elements of `dtype` from the inputs at `data` to outputs of these shapes (`None` for those that
/// are not wanted). Strings are moved by way of their positions.
pub fn kernel(
    name: &'static str,
    dtype: DType,
    data: Vec<usize>,
    outputs: Vec<Option<Vec<usize>>>,
    run: Box<MoveFn>,
) -> Result<CpuKernel> {
    let Some(bits) = dtype.bits() else {
        return Ok(strings(name, data, outputs, run));
    };
    if bits < 8 {
        return packed_elements(name, bits, data, outputs, run);
    }
    Ok(CpuKernel::compute(name, move |io| {
        let outputs = (0..outputs.len())
            .map(|index| io.outputs.has(index).then(|| io.outputs.take_bytes(index)).transpose())
            .collect::<Result<_>>()?;
        run(&mut Moved {
            size: bits / 8,
            data: data
                .iter()
                .map(|&index| io.inputs.bytes(index))
                .collect::<Result<_>>()?,
            inputs: &io.inputs,
            outputs,
            threads: io.threads,
        })
    }))
}

/// Elements smaller than a byte are moved as one byte each.
fn packed_elements(
    name: &'static str,
    bits: usize,
    data: Vec<usize>,
    outputs: Vec<Option<Vec<usize>>>,
    run: Box<MoveFn>,
) -> Result<CpuKernel> {
    let counts = outputs
        .iter()
        .map(|shape| shape.as_ref().map_or(Ok(0), |shape| element_count(shape)))
        .collect::<Result<Vec<_>>>()?;
    Ok(CpuKernel::compute(name, move |io| {
        let unpack = |bytes: &[u8]| packed::unpack(bits, bytes, bytes.len() * (8 / bits));
        let unpacked = data
            .iter()
            .map(|&index| io.inputs.bytes(index).map(unpack))
            .collect::<Result<Vec<_>>>()?;
        let mut results: Vec<Option<Vec<u8>>> = counts
            .iter()
            .enumerate()
            .map(|(index, &count)| io.outputs.has(index).then(|| vec![0; count]))
            .collect();
        run(&mut Moved {
            size: 1,
            data: unpacked.iter().map(Vec::as_slice).collect(),
            inputs: &io.inputs,
            outputs: results.iter_mut().map(Option::as_deref_mut).collect(),
            threads: io.threads,
        })?;
        for (index, result) in results.iter().enumerate() {
            let Some(result) = result else { continue };
            packed::pack_into(bits, result.iter().copied(), io.outputs.take_bytes(index)?);
        }
        Ok(())
    }))
}

fn strings(name: &'static str, data: Vec<usize>, outputs: Vec<Option<Vec<usize>>>, run: Box<MoveFn>) -> CpuKernel {
    CpuKernel::dynamic(name, move |inputs| {
        let missing = || Error::internal("an input of strings is missing");
        let mut pool: Vec<&String> = Vec::new();
        let mut counts = Vec::with_capacity(data.len());
        for &index in &data {
            let tensor = inputs.get(index).and_then(Option::as_ref).ok_or_else(missing)?;
            pool.extend(tensor.strings()?);
            counts.push(tensor.len());
        }
        let positions = move_positions(&run, &counts, inputs, &outputs)?;
        let results = positions.into_iter().zip(&outputs).map(|(positions, shape)| {
            let strings = positions.into_iter().map(|position| match position {
                Some(position) => pool[position].clone(),
                None => String::new(),
            });
            // An output that nobody wants is an empty tensor.
            Tensor::from_strings(shape.as_deref().unwrap_or(&[0]), strings.collect())
        });
        results.collect()
    })
}

/// For each element of each output, which element of the data inputs, counted through all of them, is moved there;
/// `None` for one that stays zero. `counts` are the numbers of elements of the data inputs, `inputs` the node's others.
pub fn move_positions(
    run: &MoveFn,
    counts: &[usize],
    inputs: &[Option<Tensor>],
    outputs: &[Option<Vec<usize>>],
) -> Result<Vec<Vec<Option<usize>>>> {
    let mut next = 0u32;
    let data: Vec<Vec<u32>> = counts
        .iter()
        .map(|&count| {
            let start = next;
            next = next.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
            // Position 0 is the zero that an output holds where nothing is moved.
            (start..next).map(|position| position.saturating_add(1)).collect()
        })
        .collect();
    let aligned = inputs
        .iter()
        .map(|input| input.as_ref().map(Tensor::aligned).transpose())
        .collect::<Result<Vec<_>>>()?;
    let inputs = KernelInputs(
        aligned
            .iter()
            .map(|input| {
                let tensor = input.as_ref()?;
                Some(InputBytes {
                    dtype: tensor.dtype(),
                    bytes: tensor.bytes(),
                })
            })
            .collect(),
    );
    let mut memory = outputs
        .iter()
        .map(|shape| match shape {
            Some(shape) => AlignedBytes::zeroed(element_count(shape)?.saturating_mul(4)).map(Some),
            None => Ok(None),
        })
        .collect::<Result<Vec<_>>>()?;
    run(&mut Moved {
        size: 4,
        data: data.iter().map(|positions| bytemuck::cast_slice(positions)).collect(),
        inputs: &inputs,
        outputs: memory
            .iter_mut()
            .map(|bytes| bytes.as_mut().map(AsMut::as_mut))
            .collect(),
        threads: &Threads::SINGLE,
    })?;
    let positions = memory.iter().map(|bytes| {
        let bytes = bytes.as_ref().map_or(&[][..], AsRef::as_ref);
        let positions: &[u32] = bytemuck::try_cast_slice(bytes).unwrap_or(&[]);
        positions
            .iter()
            .map(|&position| (position as usize).checked_sub(1))
            .collect()
    });
    Ok(positions.collect())
}

/// The elements of an index input (i32 or i64), read as `i64`.
#[derive(Clone, Copy, Debug)]
pub enum Indices<'a> {
    /// 32-bit elements.
    I32(&'a [i32]),
    /// 64-bit elements.
    I64(&'a [i64]),
}

impl<'a> Indices<'a> {
    /// The elements of input `index`.
    pub fn of(inputs: &KernelInputs<'a>, index: usize) -> Result<Indices<'a>> {
        match inputs.0.get(index).copied().flatten().map(|input| input.dtype) {
            Some(DType::I32) => inputs.get(index).map(Indices::I32),
            _ => inputs.get(index).map(Indices::I64),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Indices::I32(list) => list.len(),
            Indices::I64(list) => list.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every element.
    pub fn iter(self) -> impl Iterator<Item = i64> + 'a {
        (0..self.len()).map(move |index| self.get(index))
    }

    /// Element `index`.
    pub fn get(&self, index: usize) -> i64 {
        match self {
            Indices::I32(list) => list[index].into(),
            Indices::I64(list) => list[index],
        }
    }
}

/// An index into a dimension of `bound` elements, counted from the end when negative.
pub fn resolve_index(index: i64, bound: usize) -> Result<usize> {
    let resolved = if index < 0 {
        index.saturating_add(bound as i64)
    } else {
        index
    };
    usize::try_from(resolved)
        .ok()
        .filter(|&resolved| resolved < bound)
        .ok_or_else(|| {
            Error::new(
                crate::error::ErrorCode::RunFailed,
                format!("index {index} is outside a dimension of {bound}"),
            )
            .expected(format!("an index in -{bound}..{bound}"))
            .actual(index.to_string())
        })
}

/// A copy into a dense block in which each element's place in the source is the sum of one offset per dimension.
#[derive(Clone, Debug)]
pub struct TableCopy {
    tables: Vec<Vec<usize>>,
}

impl TableCopy {
    /// The copy with these offsets, in elements, for each index of each dimension.
    pub fn new(tables: Vec<Vec<usize>>) -> TableCopy {
        TableCopy { tables }
    }

    /// Copies elements of `size` bytes. An error when an offset is outside the source.
    pub fn run(&self, size: usize, source: &[u8], target: &mut [u8]) -> Result<()> {
        if self.tables.iter().any(Vec::is_empty) {
            return Ok(());
        }
        let highest: usize = self.tables.iter().filter_map(|table| table.iter().max()).sum();
        let count: usize = self.tables.iter().map(Vec::len).product();
        if highest >= source.len() / size || count > target.len() / size {
            return Err(Error::internal("a copied element is outside its tensor"));
        }
        match size {
            1 => self.run_sized::<1>(source, target),
            2 => self.run_sized::<2>(source, target),
            4 => self.run_sized::<4>(source, target),
            8 => self.run_sized::<8>(source, target),
            _ => return Err(Error::internal(format!("elements of {size} bytes"))),
        }
        Ok(())
    }

    fn run_sized<const N: usize>(&self, source: &[u8], target: &mut [u8]) {
        let source: &[[u8; N]] = source.as_chunks().0;
        let target: &mut [[u8; N]] = target.as_chunks_mut().0;
        let Some((inner, outer)) = self.tables.split_last() else {
            target[0] = source[0];
            return;
        };
        for (row, target) in target.chunks_exact_mut(inner.len()).enumerate() {
            let (mut rest, mut start) = (row, 0);
            for table in outer.iter().rev() {
                start += table[rest % table.len()];
                rest /= table.len();
            }
            for (to, offset) in target.iter_mut().zip(inner) {
                *to = source[start + offset];
            }
        }
    }
}

/// Fills a tensor with one element of `size` bytes.
pub fn fill(size: usize, target: &mut [u8], element: &[u8]) -> Result<()> {
    let element = element.get(..size).ok_or_else(|| {
        Error::new(
            crate::error::ErrorCode::InvalidGraph,
            "the element to fill with is missing or of another type",
        )
    })?;
    if element.iter().all(|&byte| byte == element[0]) {
        target.fill(element[0]);
    } else {
        target.chunks_exact_mut(size).for_each(|to| to.copy_from_slice(element));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_copies_equal_the_naive_loop() {
        let mut seed = 11u64;
        let mut random = move |bound: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % bound
        };
        for _ in 0..300 {
            let rank = random(5);
            let dims: Vec<usize> = (0..rank).map(|_| [1, 2, 3, 7, 20][random(5)]).collect();
            // A permuted, partly reversed and broadcast source, and a dense target.
            let mut order: Vec<usize> = (0..rank).collect();
            order.sort_by_key(|_| random(100));
            let (mut steps, mut step, mut start) = (vec![0isize; rank], 1, 0);
            for &axis in &order {
                match random(4) {
                    0 => steps[axis] = 0,
                    1 => {
                        steps[axis] = -step;
                        start += (dims[axis] - 1) * step as usize;
                        step *= dims[axis] as isize;
                    }
                    _ => {
                        steps[axis] = step;
                        step *= dims[axis] as isize;
                    }
                }
            }
            let source: Vec<u32> = (0..step as u32).collect();
            let count: usize = dims.iter().product();
            let mut target = vec![0u32; count];
            let copy = StridedCopy::gather(&dims, &steps, start);
            copy.run(4, bytemuck::cast_slice(&source), bytemuck::cast_slice_mut(&mut target))
                .unwrap();
            for (flat, &value) in target.iter().enumerate() {
                let (mut rest, mut from) = (flat, start as isize);
                for (&dim, &step) in dims.iter().zip(&steps).rev() {
                    from += (rest % dim) as isize * step;
                    rest /= dim;
                }
                assert_eq!(value, source[from as usize], "{dims:?} {steps:?} at {flat}");
            }
            let bytes: Vec<u8> = source.iter().map(|&value| value as u8).collect();
            let mut narrow = vec![0u8; count];
            copy.run(1, &bytes, &mut narrow).unwrap();
            assert!(narrow.iter().zip(&target).all(|(&a, &b)| a == b as u8));
        }
    }

    #[test]
    fn a_block_outside_its_tensor_is_an_error() {
        let copy = StridedCopy::gather(&[3], &[2], 0);
        assert!(copy.run(1, &[0; 4], &mut [0; 3]).is_err());
        assert!(copy.run(1, &[0; 5], &mut [0; 2]).is_err());
        assert!(
            StridedCopy::gather(&[2], &[-1], 0)
                .run(1, &[0; 4], &mut [0; 2])
                .is_err()
        );
        assert!(StridedCopy::gather(&[2, 0], &[1, 1], 9).run(1, &[], &mut []).is_ok());
    }

    #[test]
    fn indices_count_from_the_end_and_name_their_bound() {
        assert_eq!(resolve_index(-2, 5).unwrap(), 3);
        for index in [5, -6, i64::MIN, i64::MAX] {
            let error = resolve_index(index, 5).unwrap_err();
            assert_eq!(error.code(), crate::error::ErrorCode::RunFailed);
            assert!(error.message().contains(&index.to_string()) && error.message().contains('5'));
        }
    }
}
