//! Runs pointwise expressions on the CPU, over tiles of a few hundred elements that stay in L1.
//!
//! A [`PointwisePlan`] is made once for an expression and concrete shapes. Bound to its inputs ([`PointwisePlan::bind`])
//! it fills any range of the outputs, on any number of threads, and serves as the epilogue of the matrix kernels
//! ([`Bound::rows`]).

mod compile;
mod exec;
#[cfg(test)]
mod tests;
mod walk;

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use compile::{Compiled, Dest, Op, Operand, STACK_SCRATCH};
use exec::Source;
use walk::Frame;

use crate::cpu::epilogue::RowProgram;
use crate::cpu::threads::Threads;
use crate::pointwise::{Access, Collapsed, Expr, ShapeError, Storage, collapse};

/// An input's elements, dense and in its own shape.
#[derive(Clone, Copy, Debug)]
pub enum InputSlice<'a> {
    F32(&'a [f32]),
    /// Every byte but zero is true.
    Bool(&'a [u8]),
    /// The memory of this output: each element is read before it is written. Only for an input of the output's own
    /// shape and storage.
    Output(usize),
}

/// Where an output goes: a mutable slice, held as a pointer because inputs may be read from the same memory.
#[derive(Debug)]
pub struct OutputSlice<'a> {
    data: *mut u8,
    len: usize,
    storage: Storage,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for the mutable slice that it was made from, which is `Send`.
unsafe impl Send for OutputSlice<'_> {}
// SAFETY: through a shared reference nothing can be done but `part`, whose callers keep the parts apart.
unsafe impl Sync for OutputSlice<'_> {}

impl<'a> OutputSlice<'a> {
    /// For an output stored as `Storage::F32`.
    pub fn f32(slice: &'a mut [f32]) -> OutputSlice<'a> {
        OutputSlice {
            data: slice.as_mut_ptr().cast(),
            len: slice.len(),
            storage: Storage::F32,
            borrow: PhantomData,
        }
    }

    /// For an output stored as `Storage::Bool`; it will hold the bytes 0 and 1.
    pub fn bool(slice: &'a mut [u8]) -> OutputSlice<'a> {
        OutputSlice {
            data: slice.as_mut_ptr(),
            len: slice.len(),
            storage: Storage::Bool,
            borrow: PhantomData,
        }
    }
}

impl OutputSlice<'_> {
    /// A range of the elements as an output of its own.
    ///
    /// # Safety
    /// The range lies within the output, and parts that are in use at the same time do not overlap.
    unsafe fn part(&self, range: Range<usize>) -> Self {
        let size = match self.storage {
            Storage::F32 => size_of::<f32>(),
            Storage::Bool => 1,
        };
        OutputSlice {
            // SAFETY: the caller's.
            data: unsafe { self.data.add(range.start * size) },
            len: range.len(),
            ..*self
        }
    }
}

/// An expression made ready for inputs and outputs of known shapes.
#[derive(Clone, Debug)]
pub struct PointwisePlan {
    space: Collapsed,
    compiled: Compiled,
    inputs: Vec<Storage>,
    outputs: Vec<Storage>,
    /// How many elements of each input are read at most; 0 for one that no node reads.
    extents: Vec<usize>,
}

impl PointwisePlan {
    /// Plans `expr` for outputs of `output_shape`, each input being broadcast to it from its own shape.
    ///
    /// # Errors
    /// When an input does not broadcast to the output, or the output is too large to be addressed.
    ///
    /// # Panics
    /// When there is not one shape for each input.
    pub fn new<S: AsRef<[usize]>>(expr: &Expr, output_shape: &[usize], inputs: &[S]) -> Result<Self, ShapeError> {
        assert_eq!(inputs.len(), expr.inputs().len(), "one shape for each input");
        let space = collapse(output_shape, inputs)?;
        let extents = (0..inputs.len())
            .map(|i| if expr.reads_input(i) { extent(&space, i) } else { 0 })
            .collect();
        Ok(PointwisePlan {
            compiled: compile::compile(expr, &space),
            inputs: expr.inputs().to_vec(),
            outputs: expr.outputs().iter().map(|o| o.storage).collect(),
            space,
            extents,
        })
    }

    /// The elements of each output.
    pub fn count(&self) -> usize {
        self.space.count
    }

    /// How many f32 of scratch memory [`PointwisePlan::bind`] and [`PointwisePlan::run`] need.
    pub fn scratch_len(&self) -> usize {
        self.compiled.run_scratch
    }

    /// Computes all of the outputs, on several threads when they are large.
    ///
    /// # Panics
    /// As [`PointwisePlan::bind`] and [`Bound::run_range`] do.
    pub fn run(&self, inputs: &[InputSlice], outputs: &mut [OutputSlice], scratch: &mut [f32], threads: &Threads) {
        assert!(
            outputs.iter().all(|o| o.len == self.count()),
            "an output is not of the planned size"
        );
        let bound = self.bind(inputs, scratch);
        // Parts end where tiles do. Each step costs one unit per element, and so does going through memory.
        let tile = self.compiled.tile.max(1);
        let cost = tile.saturating_mul(2 + self.compiled.tile_steps.len());
        let split = threads.split(self.count().div_ceil(tile), cost);
        let [output] = outputs else {
            return bound.run_range(0, outputs);
        };
        if split.parts <= 1 {
            return bound.run_range(0, outputs);
        }
        let output = &*output;
        threads.run(split.parts, &|part| {
            let tiles = split.range(part.index);
            let range = tiles.start * tile..self.count().min(tiles.end * tile);
            // SAFETY: the parts are disjoint and within the output.
            bound.run_range(range.start, &mut [unsafe { output.part(range) }]);
        });
    }

    /// Does what is done once per run, such as the operations on scalars, and keeps the result in `scratch`.
    ///
    /// # Panics
    /// When the inputs are not those planned for, or `scratch` is too short: mistakes of the caller.
    pub fn bind<'a>(&'a self, inputs: &'a [InputSlice<'a>], scratch: &'a mut [f32]) -> Bound<'a> {
        assert_eq!(inputs.len(), self.inputs.len(), "one slice for each input");
        for (i, input) in inputs.iter().enumerate() {
            let (storage, len) = match *input {
                InputSlice::F32(s) => (Storage::F32, s.len()),
                InputSlice::Bool(s) => (Storage::Bool, s.len()),
                InputSlice::Output(k) => {
                    assert!(
                        matches!(self.space.inputs[i], Access::Contiguous),
                        "input {i} is broadcast and cannot lie in an output"
                    );
                    (self.outputs[k], self.extents[i])
                }
            };
            assert_eq!(storage, self.inputs[i], "the storage of input {i}");
            assert!(
                len >= self.extents[i],
                "input {i} holds {len} elements of {}",
                self.extents[i]
            );
        }
        let scratch = &mut scratch[..self.compiled.run_scratch];
        if self.space.count > 0 {
            self.prepare(inputs, scratch);
        }
        Bound {
            plan: self,
            inputs,
            scratch,
        }
    }

    /// Fills the run's scratch memory: constants, scalars, and the inputs that repeat with every row.
    fn prepare(&self, inputs: &[InputSlice], scratch: &mut [f32]) {
        for &(place, bits) in &self.compiled.constants {
            scratch[place] = f32::from_bits(bits);
        }
        let scratch_ptr = scratch.as_mut_ptr();
        for step in &self.compiled.run_steps {
            let Dest::RunScalar(place) = step.dest else { continue };
            // SAFETY: run steps read inputs at element 0, which `bind` checked to exist, and scalars below
            // `run_scalars`, which `scratch` holds; the destination is one of those.
            unsafe {
                let dst = scratch_ptr.add(place);
                match step.op {
                    Op::Load(input) => load(&inputs[input], 0, 0, dst, 1),
                    op => {
                        let sources = step.args.map(|arg| match arg {
                            Operand::RunScalar(place) => Source::Splat(scratch_ptr.add(place)),
                            _ => Source::Splat(scratch_ptr),
                        });
                        exec::run(op, &sources[..step.arg_count], dst, 1);
                    }
                }
            }
        }
        let row = self.space.inner();
        for &(input, place) in &self.compiled.repeated {
            let stride = self.space.inner_stride(input);
            for start in (place..place + self.compiled.tile).step_by(row.max(1)) {
                // SAFETY: the tile is a multiple of the row, `scratch` holds it from `place` on, and the row of the
                // input was checked by `bind`.
                unsafe { load(&inputs[input], 0, stride, scratch_ptr.add(start), row) }
            }
        }
    }
}

/// A plan with its inputs at hand: fills ranges of the outputs.
#[derive(Clone, Debug)]
pub struct Bound<'a> {
    plan: &'a PointwisePlan,
    inputs: &'a [InputSlice<'a>],
    scratch: &'a [f32],
}

impl<'a> Bound<'a> {
    /// Computes the outputs' elements from `start` on, as many as `outputs` hold; all hold the same number.
    ///
    /// # Panics
    /// When the range leaves the planned shape, or an output's storage is not the planned one: mistakes of the caller.
    pub fn run_range(&self, start: usize, outputs: &mut [OutputSlice]) {
        let plan = self.plan;
        assert_eq!(outputs.len(), plan.outputs.len(), "one slice for each output");
        let len = outputs.first().map_or(0, |o| o.len);
        for (output, &storage) in outputs.iter().zip(&plan.outputs) {
            assert_eq!(output.len, len, "outputs of one length");
            assert_eq!(output.storage, storage, "the storage of an output");
        }
        assert!(
            len <= plan.count() && start <= plan.count() - len,
            "a range within the planned shape"
        );
        if len == 0 {
            return;
        }
        let needed = plan.compiled.row_scalars.next_multiple_of(4) + plan.compiled.slots * plan.compiled.tile;
        if needed <= STACK_SCRATCH {
            let mut local = [MaybeUninit::<f32>::uninit(); STACK_SCRATCH];
            let memory = local.as_mut_ptr().cast();
            // SAFETY: the range was checked above, and the memory holds `needed` f32.
            unsafe { Frame::new(self, start, outputs, memory).run(len) }
        } else {
            // Hundreds of live registers: nothing that a model's own graph would fuse to.
            let mut local = vec![0.0f32; needed];
            let memory = local.as_mut_ptr();
            // SAFETY: as above.
            unsafe { Frame::new(self, start, outputs, memory).run(len) }
        }
    }

    /// This plan as an epilogue over rows of `row_len` elements. Its input 0 must be bound as `InputSlice::Output(0)`:
    /// the value freshly computed.
    pub fn rows(self, row_len: usize) -> BoundRows<'a> {
        BoundRows { bound: self, row_len }
    }
}

/// A plan as a matrix kernel's epilogue; see [`Bound::rows`].
#[derive(Clone, Debug)]
pub struct BoundRows<'a> {
    bound: Bound<'a>,
    row_len: usize,
}

impl RowProgram for BoundRows<'_> {
    fn apply(&self, row: usize, col: usize, values: &mut [f32]) {
        self.bound
            .run_range(row * self.row_len + col, &mut [OutputSlice::f32(values)]);
    }
}

/// Copies `n` elements of an input, `stride` apart from element `from` on, to f32 lanes.
///
/// # Safety
/// The input holds those elements, and `dst` is writable for `n` f32.
unsafe fn load(input: &InputSlice, from: usize, stride: usize, dst: *mut f32, n: usize) {
    // SAFETY: the caller's.
    unsafe {
        match input {
            InputSlice::F32(s) => exec::load_f32(s.as_ptr().add(from), stride, dst, n),
            InputSlice::Bool(s) => exec::load_bool(s.as_ptr().add(from), stride, dst, n),
            InputSlice::Output(_) => debug_assert!(false, "`bind` lets only contiguous inputs lie in an output"),
        }
    }
}

/// The number of elements that an input must hold.
fn extent(space: &Collapsed, input: usize) -> usize {
    match &space.inputs[input] {
        _ if space.count == 0 => 0,
        Access::Contiguous => space.count,
        Access::Scalar => 1,
        Access::Strided(strides) => {
            space
                .dims
                .iter()
                .zip(strides)
                .map(|(&dim, &stride)| (dim - 1) * stride)
                .sum::<usize>()
                + 1
        }
    }
}
