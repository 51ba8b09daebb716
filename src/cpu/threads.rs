//! Threads for kernels. A kernel gets a [`Threads`] in [`KernelIo::threads`](super::kernel::KernelIo) and cuts its work
//! into parts that write disjoint elements; the calling thread works along, and nothing is allocated.
//!
//! How a kernel is made parallel:
//! 1. [`Threads::split`] says into how many parts so many items of such a cost are worth cutting: into one when the work
//!    is small, so that a kernel needs no rule of its own.
//! 2. [`Threads::run`] calls a closure for each part. Where each part writes whole rows (planes, heads, …) of the output,
//!    [`Threads::rows_mut`] does both and hands each part its rows; else [`Disjoint`] shares the output.
//! 3. Scratch memory is one piece per thread: the lowering asks for `CpuLowering::threads` times as much, and
//!    [`PerThread`] gives each thread its piece by [`Part::thread`].
//!
//! Each element must be computed by the same operations in the same order however the work is cut, so that results do not
//! depend on the number of threads: sums are never cut, and the cuts respect the blocks that a kernel works in.
//!
//! A part that runs parallel work itself does it alone, on its own thread. Without threads (in wasm builds without
//! atomics) all of this is a loop.

#[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
mod pool;

use std::{marker::PhantomData, ops::Range};

#[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
use {pool::Pool, std::sync::Arc};

/// The least that is worth a part of its own, in the units of [`Threads::split`]: some ten times what handing it to
/// another thread costs.
const GRAIN: usize = 1 << 16;
/// Parts for each thread, so that one that is held up does not hold up all.
const PARTS_PER_THREAD: usize = 4;

/// A pool of threads and how many of them to use. Cloning shares the pool, whose threads end with its last owner.
#[derive(Clone)]
pub struct Threads {
    #[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
    pool: Option<Arc<Pool>>,
    #[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
    count: usize,
    #[cfg(test)]
    grain: usize,
}

/// A pool as its threads hold it. It does not keep them from ending.
#[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
#[derive(Clone)]
pub struct ServingPool(Arc<pool::Shared>);

#[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
impl ServingPool {
    /// Says that the thread which calls [`Threads::run`] may sleep; that of a web page may not.
    pub fn let_owner_sleep(&self) {
        self.0.let_owner_sleep();
    }

    /// Says that all of the pool's own threads were ended from outside while there was no work.
    pub fn forget_threads(&self) {
        self.0.forget_threads();
    }

    /// Says that a thread ended against its will, perhaps in the middle of a part, and what it said: work on the pool
    /// panics from now on.
    pub fn lose_thread(&self, last_words: String) {
        self.0.lose_thread(last_words);
    }
}

/// One part of parallel work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which part: from 0 to their number.
    pub index: usize,
    /// The thread that runs it, from 0 to the number of threads. No two parts run at the same time with the same number.
    pub thread: usize,
}

/// Items cut into parts of nearly equal size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// How many items there are.
    pub items: usize,
    /// Into how many parts they are cut; 0 when there are none.
    pub parts: usize,
}

impl Split {
    /// The items of a part.
    pub fn range(&self, part: usize) -> Range<usize> {
        let (each, more) = (self.items / self.parts, self.items % self.parts);
        let start = part * each + part.min(more);
        start..start + each + usize::from(part < more)
    }
}

impl Threads {
    /// The calling thread alone.
    pub const SINGLE: Threads = Threads {
        #[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
        pool: None,
        #[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
        count: 1,
        #[cfg(test)]
        grain: GRAIN,
    };

    /// A pool for which every piece of work is worth cutting.
    #[cfg(test)]
    pub fn eager(count: usize) -> Threads {
        let mut threads = Threads::new(count);
        threads.grain = 1;
        threads
    }

    /// Into how many parts `items` are worth cutting that cost about `cost` each. The unit is one element-wise step on
    /// one f32 (about 0.3 ns), or eight multiply-adds of a matrix product.
    #[inline]
    pub fn split(&self, items: usize, cost: usize) -> Split {
        Split {
            items,
            parts: self.worth(items.saturating_mul(cost.max(1))).min(items),
        }
    }

    /// Into how many parts work of this cost is worth cutting, in the units of [`Threads::split`]; at least 1.
    #[inline]
    pub fn worth(&self, cost: usize) -> usize {
        if self.count() == 1 {
            return 1;
        }
        #[cfg(test)]
        let grain = self.grain;
        #[cfg(not(test))]
        let grain = GRAIN;
        (cost / grain).clamp(1, self.count() * PARTS_PER_THREAD)
    }

    /// Cuts `data` into rows of `row_len` that cost about `cost` each, and calls `work(first row, rows)` for every part.
    /// What is left behind the last whole row belongs to no part.
    pub fn rows_mut<T: Send>(
        &self,
        data: &mut [T],
        row_len: usize,
        cost: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        if row_len == 0 {
            return;
        }
        let split = self.split(data.len() / row_len, cost);
        if split.parts <= 1 {
            let whole = split.items * row_len;
            return work(0, &mut data[..whole]);
        }
        let shared = Disjoint::new(data);
        self.run(split.parts, &|part| {
            let rows = split.range(part.index);
            // SAFETY: the parts' rows are disjoint and each part runs once.
            let own = unsafe { shared.slice(rows.start * row_len..rows.end * row_len) };
            work(rows.start, own);
        });
    }
}

#[cfg(any(not(target_arch = "wasm32"), modelet_threads))]
impl Threads {
    /// A pool of `count` threads, the calling one included; with 1 there is nothing to start. Natively the threads are
    /// started; in wasm they are started by the page and come in through `wasm::thread_main`.
    pub fn new(count: usize) -> Threads {
        let count = count.clamp(1, Threads::MOST);
        let mut threads = Threads::SINGLE;
        threads.pool = (count > 1).then(|| Arc::new(Pool::new(count)));
        threads.count = count;
        threads
    }

    /// How many threads work, the calling one included.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The same pool, of which at most `count` threads are used.
    pub fn at_most(&self, count: usize) -> Threads {
        Threads {
            count: self.count.min(count).max(1),
            ..self.clone()
        }
    }

    /// Works as the pool's thread `number`, from 1 on, for as long as the pool has owners: what a web worker does.
    pub fn serve(pool: ServingPool, number: usize) {
        pool.0.serve(number);
    }

    /// The pool for a thread that comes from outside; `None` when there are no threads.
    pub fn serving_pool(&self) -> Option<ServingPool> {
        self.pool.as_ref().map(|pool| ServingPool(Arc::clone(pool.shared())))
    }

    /// How many threads are there, the calling one included: those of a page come one by one.
    pub fn present(&self) -> usize {
        1 + self.pool.as_ref().map_or(0, |pool| pool.shared().present())
    }

    /// Calls `work` once for each of `parts` parts, on as many threads as are free, and returns when all have run.
    ///
    /// # Panics
    /// When a part panicked, after the others have run.
    #[inline]
    pub fn run(&self, parts: usize, work: &(dyn Fn(Part) + Sync)) {
        let threads = self.count.min(parts);
        match &self.pool {
            Some(pool) if threads > 1 && pool.acquire() => pool.run(threads, parts, work),
            _ => run_here(parts, work),
        }
    }
}

#[cfg(not(any(not(target_arch = "wasm32"), modelet_threads)))]
impl Threads {
    /// This build has no threads.
    #[cfg(test)]
    pub fn new(_: usize) -> Threads {
        Threads::SINGLE
    }

    /// How many threads work, the calling one included.
    #[inline(always)]
    pub fn count(&self) -> usize {
        1
    }

    /// How many threads are there.
    pub fn present(&self) -> usize {
        1
    }

    /// The same threads.
    #[inline(always)]
    pub fn at_most(&self, _: usize) -> Threads {
        Threads::SINGLE
    }

    /// Calls `work` once for each of `parts` parts.
    #[inline(always)]
    pub fn run(&self, parts: usize, work: &(dyn Fn(Part) + Sync)) {
        run_here(parts, work);
    }
}

impl Threads {
    /// More threads than this are not used.
    pub const MOST: usize = 64;
}

#[inline(always)]
fn run_here(parts: usize, work: &(dyn Fn(Part) + Sync)) {
    for index in 0..parts {
        work(Part { index, thread: 0 });
    }
}

impl Default for Threads {
    fn default() -> Threads {
        Threads::SINGLE
    }
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Threads({})", self.count())
    }
}

/// A slice whose disjoint ranges are written by several threads at a time.
pub struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    lives: PhantomData<&'a mut [T]>,
}

// SAFETY: what is handed out is a unique borrow of elements that may be sent; see `slice`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Shares `data`.
    pub fn new(data: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint {
            data: data.as_mut_ptr(),
            len: data.len(),
            lives: PhantomData,
        }
    }

    /// The elements of a range.
    ///
    /// # Safety
    /// Ranges that are in use at the same time do not overlap.
    ///
    /// # Panics
    /// When the range is not inside the slice.
    #[allow(clippy::mut_from_ref)]
    #[inline]
    pub unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range is inside, and the caller vouches for no other borrow of it.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }

    /// Pointer to the first element, for kernels that write scattered elements; the same duty as [`Disjoint::slice`].
    pub fn as_mut_ptr(&self) -> *mut T {
        self.data
    }
}

/// Scratch memory with a piece for each thread.
pub struct PerThread<'a, T> {
    whole: Disjoint<'a, T>,
    each: usize,
}

impl<'a, T> PerThread<'a, T> {
    /// Cuts `scratch` into as many pieces of `each` elements as it holds.
    pub fn new(scratch: &'a mut [T], each: usize) -> PerThread<'a, T> {
        PerThread {
            whole: Disjoint::new(scratch),
            each,
        }
    }

    /// The piece of the thread that runs `part`.
    ///
    /// # Safety
    /// `part` is that of the running work, and its piece is not in use.
    ///
    /// # Panics
    /// When there are fewer pieces than threads.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn of(&self, part: Part) -> &'a mut [T] {
        // SAFETY: no two parts run on one thread at a time.
        unsafe { self.whole.slice(part.thread * self.each..(part.thread + 1) * self.each) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn parts_cover_all_items_once_and_small_work_is_one_part() {
        for items in [0, 1, 2, 7, 64, 1000] {
            for count in [1, 2, 3, 8] {
                let split = Threads::eager(count).split(items, 1);
                let mut next = 0;
                for part in 0..split.parts {
                    let range = split.range(part);
                    assert!(range.start == next && !range.is_empty());
                    next = range.end;
                }
                assert_eq!(next, items);
            }
        }
        assert_eq!(Threads::new(4).split(100, 3).parts, 1);
        assert_eq!(Threads::SINGLE.split(1 << 30, 9).parts, 1);
    }

    #[test]
    fn every_part_runs_once() {
        let threads = Threads::new(3);
        for parts in [0, 1, 2, 3, 4, 17, 1000] {
            let runs: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            threads.run(parts, &|part| {
                assert!(part.thread < threads.count());
                runs[part.index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1),
                "{parts} parts"
            );
        }
    }

    #[test]
    fn rows_reach_their_parts() {
        for threads in [Threads::SINGLE, Threads::eager(3)] {
            for (rows, row_len) in [(0, 3), (1, 5), (7, 1), (50, 4)] {
                let mut data = vec![0usize; rows * row_len + row_len / 2];
                threads.rows_mut(&mut data, row_len, 1, |first, own| {
                    assert_eq!(own.len() % row_len, 0);
                    for (index, value) in own.iter_mut().enumerate() {
                        *value += first * row_len + index + 1;
                    }
                });
                let whole = rows * row_len;
                assert!(
                    data[..whole]
                        .iter()
                        .enumerate()
                        .all(|(index, &value)| value == index + 1)
                );
                assert!(data[whole..].iter().all(|&value| value == 0));
            }
            threads.rows_mut(&mut [1, 2], 0, 1, |_, _| panic!("there are no rows"));
        }
    }

    #[test]
    fn each_thread_has_its_own_scratch() {
        let threads = Threads::eager(4);
        let mut scratch = vec![0usize; 4 * 10];
        let pieces = PerThread::new(&mut scratch, 10);
        threads.run(200, &|part| {
            // SAFETY: once per part.
            let own = unsafe { pieces.of(part) };
            own.fill(part.index);
            std::hint::black_box(&own);
            assert!(own.iter().all(|&value| value == part.index));
        });
    }

    #[test]
    fn a_part_may_run_parallel_work() {
        let threads = Threads::eager(3);
        let total = AtomicUsize::new(0);
        threads.run(5, &|_| {
            threads.run(7, &|part| {
                assert_eq!(part.thread, 0);
                total.fetch_add(part.index, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 5 * 21);
    }
}
