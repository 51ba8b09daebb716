//! Walks a range of positions tile by tile and runs a plan's steps on each.

use super::compile::{Dest, Op, Operand, Step, Walk};
use super::exec::{self, Source};
use super::{Bound, InputSlice, OutputSlice, load};
use crate::pointwise::{Access, Collapsed, Storage};

/// One call's state: where it stands, and its memory.
pub(super) struct Frame<'a> {
    bound: &'a Bound<'a>,
    outputs: &'a [OutputSlice<'a>],
    /// The position of the outputs' first element.
    start: usize,
    /// The position of the current tile, and its elements.
    position: usize,
    n: usize,
    /// Where the plan walks rows: the current row, and the tile's place in it.
    row: Odometer,
    column: usize,
    row_scalars: *mut f32,
    slots: *mut f32,
}

impl<'a> Frame<'a> {
    /// `memory` is for the plan's row scalars, then its slots.
    pub fn new(bound: &'a Bound<'a>, start: usize, outputs: &'a [OutputSlice<'a>], memory: *mut f32) -> Frame<'a> {
        let plan = bound.plan;
        let (row, column) = match plan.compiled.walk {
            Walk::Rows(len) => (start / len, start % len),
            Walk::Flat | Walk::Gather(_) => (0, 0),
        };
        Frame {
            bound,
            outputs,
            start,
            position: start,
            n: 0,
            row: Odometer::at(&plan.space, row),
            column,
            row_scalars: memory,
            slots: memory.wrapping_add(plan.compiled.row_scalars.next_multiple_of(4)),
        }
    }

    /// Computes `len` elements.
    ///
    /// # Safety
    /// The range lies in the planned shape and the outputs hold it; `memory` has room for what it is for.
    pub unsafe fn run(mut self, len: usize) {
        let end = self.start + len;
        let tile = self.bound.plan.compiled.tile;
        // SAFETY: tiles stay below `end` and, where rows matter, within their row.
        unsafe {
            match self.bound.plan.compiled.walk {
                Walk::Flat => {
                    while self.position < end {
                        self.tile(tile.min(end - self.position));
                    }
                }
                Walk::Gather(_) => {
                    // Repeated inputs were laid out for tiles that begin at multiples of the tile length.
                    while self.position < end {
                        let rest = tile - self.position % tile;
                        self.tile(rest.min(end - self.position));
                    }
                }
                Walk::Rows(row) => {
                    while self.position < end {
                        let row_end = end.min(self.position - self.column + row);
                        self.compute_row_scalars();
                        while self.position < row_end {
                            let n = tile.min(row_end - self.position);
                            self.tile(n);
                            self.column += n;
                        }
                        self.column = 0;
                        self.row.advance(&self.bound.plan.space);
                    }
                }
            }
        }
    }

    /// # Safety
    /// The current row is one of the planned shape.
    unsafe fn compute_row_scalars(&mut self) {
        let plan = self.bound.plan;
        for step in &plan.compiled.row_steps {
            let dst = self.dest(step.dest);
            // SAFETY: row steps read scalars, and inputs at the row's first element, which `bind` checked to exist.
            unsafe {
                match step.op {
                    Op::Load(input) => {
                        let from = self.row.offset(&plan.space, input);
                        load(&self.bound.inputs[input], from, 0, dst, 1);
                    }
                    op => {
                        let sources = step.args.map(|arg| self.source(arg));
                        exec::run(op, &sources[..step.arg_count], dst, 1);
                    }
                }
            }
        }
    }

    /// Computes the next `n` elements and moves on.
    ///
    /// # Safety
    /// They lie within the range and, where the plan walks rows, in the current one from `column` on.
    unsafe fn tile(&mut self, n: usize) {
        self.n = n;
        for step in &self.bound.plan.compiled.tile_steps {
            // SAFETY: the caller's, and the plan's own: the slots, scalars and outputs that steps name exist, and
            // `bind` checked that inputs reach as far as the planned shape does.
            unsafe {
                match step.op {
                    Op::Load(input) => self.load(input, self.dest(step.dest)),
                    Op::Store(output, storage) => self.store(output, storage, self.source(step.args[0])),
                    op => self.compute(op, step),
                }
            }
        }
        self.position += n;
    }

    /// # Safety
    /// As for [`Frame::tile`].
    #[inline(always)]
    unsafe fn compute(&self, op: Op, step: &Step) {
        let dst = self.dest(step.dest);
        // SAFETY: the caller's.
        unsafe {
            match *step.args() {
                [a] => exec::run(op, &[self.source(a)], dst, self.n),
                [a, b] => exec::run(op, &[self.source(a), self.source(b)], dst, self.n),
                _ => exec::run(op, &step.args.map(|arg| self.source(arg)), dst, self.n),
            }
        }
    }

    /// # Safety
    /// As for [`Frame::tile`].
    unsafe fn store(&self, output: usize, storage: Storage, source: Source) {
        let at = self.position - self.start;
        let data = self.outputs[output].data;
        // SAFETY: the caller's; `run_range` checked the storage.
        unsafe {
            match storage {
                Storage::Bool => exec::store_bool(source, data.add(at), self.n),
                Storage::F32 => {
                    let dst = data.cast::<f32>().add(at);
                    match source {
                        Source::Elements(src) => exec::load_f32(src, 1, dst, self.n),
                        Source::Splat(src) => exec::splat(*src, dst, self.n),
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`Frame::tile`].
    unsafe fn load(&self, input: usize, dst: *mut f32) {
        let plan = self.bound.plan;
        let slice = &self.bound.inputs[input];
        let stride = plan.space.inner_stride(input);
        // SAFETY: the caller's.
        unsafe {
            match (&plan.space.inputs[input], plan.compiled.walk) {
                (Access::Strided(_), Walk::Gather(row)) => self.gather(input, row, dst),
                (Access::Strided(_), _) => {
                    let from = self.row.offset(&plan.space, input) + self.column * stride;
                    load(slice, from, stride, dst, self.n);
                }
                _ => match *slice {
                    InputSlice::Output(k) => {
                        let (at, output) = (self.position - self.start, &self.outputs[k]);
                        match output.storage {
                            Storage::F32 => exec::load_f32(output.data.cast::<f32>().add(at), 1, dst, self.n),
                            Storage::Bool => exec::load_bool(output.data.add(at), 1, dst, self.n),
                        }
                    }
                    _ => load(slice, self.position, 1, dst, self.n),
                },
            }
        }
    }

    /// Copies the pieces of short rows that a tile consists of.
    ///
    /// # Safety
    /// As for [`Frame::tile`].
    unsafe fn gather(&self, input: usize, row: usize, dst: *mut f32) {
        let space = &self.bound.plan.space;
        let stride = space.inner_stride(input);
        let mut odometer = Odometer::at(space, self.position / row);
        let mut column = self.position % row;
        let mut done = 0;
        while done < self.n {
            let n = (row - column).min(self.n - done);
            let from = odometer.offset(space, input) + column * stride;
            // SAFETY: the piece lies in a row of the planned shape and within the tile.
            unsafe { load(&self.bound.inputs[input], from, stride, dst.add(done), n) }
            done += n;
            column = 0;
            odometer.advance(space);
        }
    }

    fn dest(&self, dest: Dest) -> *mut f32 {
        match dest {
            Dest::Slot(slot) => self.slots.wrapping_add(slot * self.bound.plan.compiled.tile),
            Dest::Output(output) => self.outputs[output]
                .data
                .cast::<f32>()
                .wrapping_add(self.position - self.start),
            Dest::RowScalar(place) => self.row_scalars.wrapping_add(place),
            // Only `bind` computes these.
            Dest::RunScalar(_) => std::ptr::null_mut(),
        }
    }

    #[inline(always)]
    fn source(&self, operand: Operand) -> Source {
        let plan = self.bound.plan;
        match operand {
            Operand::Slot(slot) => Source::Elements(self.slots.wrapping_add(slot * plan.compiled.tile)),
            Operand::RunScalar(place) => Source::Splat(self.bound.scratch.as_ptr().wrapping_add(place)),
            Operand::RowScalar(place) => Source::Splat(self.row_scalars.wrapping_add(place)),
            Operand::Repeated(place) => {
                let at = self.position % plan.compiled.tile;
                Source::Elements(self.bound.scratch.as_ptr().wrapping_add(place + at))
            }
            Operand::Direct(input) => Source::Elements(match self.bound.inputs[input] {
                InputSlice::F32(elements) => {
                    let at = match plan.space.inputs[input] {
                        Access::Strided(_) => self.row.offset(&plan.space, input) + self.column,
                        _ => self.position,
                    };
                    elements.as_ptr().wrapping_add(at)
                }
                InputSlice::Output(k) => self.outputs[k]
                    .data
                    .cast::<f32>()
                    .cast_const()
                    .wrapping_add(self.position - self.start),
                InputSlice::Bool(_) => std::ptr::null(),
            }),
        }
    }
}

/// The row that a walk is in, as an index into each of the outer dimensions.
struct Odometer {
    inline: [usize; Odometer::INLINE],
    /// For more dimensions than that.
    heap: Vec<usize>,
    rank: usize,
}

impl Odometer {
    const INLINE: usize = 6;

    fn at(space: &Collapsed, row: usize) -> Odometer {
        let rank = space.dims.len().saturating_sub(1);
        let heap = if rank > Odometer::INLINE {
            vec![0; rank]
        } else {
            Vec::new()
        };
        let mut odometer = Odometer {
            inline: [0; Odometer::INLINE],
            heap,
            rank,
        };
        let mut rest = row;
        for (index, &dim) in odometer.index_mut().iter_mut().zip(&space.dims).rev() {
            *index = rest % dim;
            rest /= dim;
        }
        odometer
    }

    fn index(&self) -> &[usize] {
        if self.rank > Odometer::INLINE {
            &self.heap
        } else {
            &self.inline[..self.rank]
        }
    }

    fn index_mut(&mut self) -> &mut [usize] {
        if self.rank > Odometer::INLINE {
            &mut self.heap
        } else {
            &mut self.inline[..self.rank]
        }
    }

    /// Steps to the next row; after the last one, back to the first.
    fn advance(&mut self, space: &Collapsed) {
        for (index, &dim) in self.index_mut().iter_mut().zip(&space.dims).rev() {
            *index += 1;
            if *index < dim {
                return;
            }
            *index = 0;
        }
    }

    /// Where the row begins in an input.
    fn offset(&self, space: &Collapsed, input: usize) -> usize {
        match &space.inputs[input] {
            Access::Strided(strides) => self.index().iter().zip(strides).map(|(i, s)| i * s).sum(),
            _ => 0,
        }
    }
}
