//! The threads behind [`Threads`](super::Threads): they wait for work, take parts of it one by one, and sleep when there
//! has been none for a while. One piece of work at a time; whoever comes while one is under way (a part that runs
//! parallel work itself, another session) does its work alone.

use std::{
    any::Any,
    hint,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
        },
    },
    thread::{self, Thread},
};

use super::Part;

/// How often a thread without work looks for some before it sleeps. Waking it takes tens of microseconds, so it stays
/// awake for about as long as a kernel that is not cut runs.
const SPINS: u32 = if cfg!(target_arch = "wasm32") { 100_000 } else { 5_000 };
/// How often the calling thread looks whether the last parts have ended before it sleeps too, where it may.
const OWNER_SPINS: u32 = SPINS;
/// The position in a ticket that says that no work is open.
const CLOSED: u64 = u32::MAX as u64;

type Work<'a> = &'a (dyn Fn(Part) + Sync);

/// A pool as its owners hold it: its threads end when it is dropped.
pub struct Pool {
    shared: Arc<Shared>,
}

/// What the threads of a pool share.
pub struct Shared {
    /// Which work is open (upper half, counted up), and the first part of it that nobody took (lower half).
    ticket: AtomicU64,
    /// The open work, as a pointer to a [`Work`]: valid for whoever took a part of it until that part is counted off.
    work: AtomicPtr<()>,
    parts: AtomicUsize,
    /// How many threads may take parts.
    threads: AtomicUsize,
    /// Parts that have not ended.
    pending: AtomicUsize,
    /// Whether work is under way.
    busy: AtomicBool,
    /// The calling thread, while it sleeps until the last part has ended.
    owner: Mutex<Option<Thread>>,
    owner_sleeps: AtomicBool,
    /// Whether the calling thread may sleep: that of a web page may not.
    owner_may_sleep: AtomicBool,
    workers: Box<[Worker]>,
    stop: AtomicBool,
    /// Whether a thread ended in the middle of a part, which will never be done.
    lost: AtomicBool,
    last_words: Mutex<String>,
    failure: Mutex<Option<Box<dyn Any + Send>>>,
}

/// One of the pool's own threads.
#[derive(Default)]
struct Worker {
    /// Null until the thread comes. Never freed: who wakes a thread may still look at it when it is replaced.
    thread: AtomicPtr<Thread>,
    sleeps: AtomicBool,
}

impl Pool {
    /// A pool of `count` threads, the calling one included.
    pub fn new(count: usize) -> Pool {
        let pool = Pool {
            shared: Arc::new(Shared {
                ticket: AtomicU64::new(CLOSED),
                work: AtomicPtr::default(),
                parts: AtomicUsize::new(0),
                threads: AtomicUsize::new(0),
                pending: AtomicUsize::new(0),
                busy: AtomicBool::new(false),
                owner: Mutex::new(None),
                owner_sleeps: AtomicBool::new(false),
                owner_may_sleep: AtomicBool::new(cfg!(not(target_arch = "wasm32"))),
                workers: (1..count).map(|_| Worker::default()).collect(),
                stop: AtomicBool::new(false),
                lost: AtomicBool::new(false),
                last_words: Mutex::default(),
                failure: Mutex::new(None),
            }),
        };
        #[cfg(not(target_arch = "wasm32"))]
        for number in 1..count {
            let shared = Arc::clone(&pool.shared);
            // Without this thread the others do the work.
            let _ = thread::Builder::new()
                .name(format!("modelet {number}"))
                .spawn(move || shared.serve(number));
        }
        pool
    }

    /// What the pool's threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes the pool for one piece of work, unless one is under way.
    pub fn acquire(&self) -> bool {
        !self.shared.busy.swap(true, Acquire)
    }

    /// Runs `work` for every part on up to `threads` threads; the pool was acquired and is free again afterwards.
    pub fn run(&self, threads: usize, parts: usize, work: Work<'_>) {
        let shared = &*self.shared;
        assert!(parts < CLOSED as usize);
        shared.work.store((&raw const work).cast_mut().cast(), Relaxed);
        shared.parts.store(parts, Relaxed);
        shared.threads.store(threads, Relaxed);
        shared.pending.store(parts, Relaxed);
        let epoch = (shared.ticket.load(Relaxed) >> 32) + 1;
        shared.ticket.store(epoch << 32, SeqCst);
        for worker in &shared.workers[..threads - 1] {
            worker.wake();
        }
        shared.take_parts(0);
        shared.wait_for_the_last_part();
        // From here on no one can take a part of this work, nor reads what the next one writes.
        shared.ticket.swap(epoch << 32 | CLOSED, AcqRel);
        let failure = shared.failure().take();
        shared.busy.store(false, Release);
        if let Some(payload) = failure {
            std::panic::resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.workers.iter().for_each(Worker::wake);
    }
}

impl Worker {
    /// Wakes the thread if it sleeps.
    fn wake(&self) {
        if self.sleeps.load(SeqCst) && self.sleeps.swap(false, SeqCst) {
            // SAFETY: the pointer is null or to a thread that is never freed.
            if let Some(thread) = unsafe { self.thread.load(SeqCst).as_ref() } {
                thread.unpark();
            }
        }
    }

    fn is_present(&self) -> bool {
        !self.thread.load(SeqCst).is_null()
    }
}

impl Shared {
    /// Works as thread `number` of the pool, from 1 on, until the pool is dropped.
    pub fn serve(&self, number: usize) {
        let Some(worker) = self.workers.get(number - 1) else {
            return;
        };
        worker.thread.store(Box::into_raw(Box::new(thread::current())), SeqCst);
        loop {
            let seen = self.take_parts(number);
            let is_idle = || self.ticket.load(SeqCst) >> 32 == seen && !self.stop.load(SeqCst);
            let mut spins = SPINS;
            while spins > 0 && is_idle() {
                hint::spin_loop();
                spins -= 1;
            }
            while is_idle() {
                worker.sleeps.store(true, SeqCst);
                if is_idle() {
                    thread::park();
                }
                worker.sleeps.store(false, SeqCst);
            }
            if self.stop.load(SeqCst) {
                return;
            }
        }
    }

    /// How many of the pool's own threads are there.
    pub fn present(&self) -> usize {
        self.workers.iter().filter(|worker| worker.is_present()).count()
    }

    /// Says that all of the pool's own threads were ended from outside while there was no work.
    pub fn forget_threads(&self) {
        for worker in &self.workers {
            worker.thread.store(std::ptr::null_mut(), SeqCst);
            worker.sleeps.store(false, SeqCst);
        }
    }

    /// Says that the calling thread may sleep.
    pub fn let_owner_sleep(&self) {
        self.owner_may_sleep.store(true, Relaxed);
    }

    /// Says that a thread ended for good, perhaps in the middle of a part, and what it said.
    pub fn lose_thread(&self, last_words: String) {
        *lock(&self.last_words) = last_words;
        self.lost.store(true, SeqCst);
        self.wake_owner();
    }

    /// Runs parts of the open work as long as there are any. The number of the work that it saw last.
    fn take_parts(&self, thread: usize) -> u64 {
        let mut ticket = self.ticket.load(Acquire);
        loop {
            let (epoch, index) = (ticket >> 32, (ticket & CLOSED) as usize);
            if index >= self.parts.load(Relaxed) || thread >= self.threads.load(Relaxed) {
                return epoch;
            }
            let work = self.work.load(Relaxed).cast::<Work<'_>>();
            // These three belong to this ticket's work if the exchange succeeds: they are written only while no ticket
            // is open, and this part keeps the work from ending.
            match self.ticket.compare_exchange_weak(ticket, ticket + 1, AcqRel, Acquire) {
                Ok(_) => {}
                Err(changed) => {
                    ticket = changed;
                    continue;
                }
            }
            // SAFETY: `run` keeps the work until every part of it is counted off, and this one is not yet.
            let work = unsafe { *work };
            self.run_part(work, Part { index, thread });
            if self.pending.fetch_sub(1, SeqCst) == 1 {
                self.wake_owner();
            }
            ticket = self.ticket.load(Acquire);
        }
    }

    #[cfg(panic = "unwind")]
    fn run_part(&self, work: Work<'_>, part: Part) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(part)));
        if let Err(payload) = result {
            self.failure().get_or_insert(payload);
        }
    }

    #[cfg(not(panic = "unwind"))]
    fn run_part(&self, work: Work<'_>, part: Part) {
        work(part);
    }

    fn wait_for_the_last_part(&self) {
        let is_over = || {
            if self.lost.load(SeqCst) {
                panic!("a thread failed in the middle of its work: {}", lock(&self.last_words));
            }
            self.pending.load(SeqCst) == 0
        };
        let mut spins = 0;
        while !is_over() {
            if spins < OWNER_SPINS || !self.owner_may_sleep.load(Relaxed) {
                spins = spins.saturating_add(1);
                hint::spin_loop();
                continue;
            }
            *lock(&self.owner) = Some(thread::current());
            self.owner_sleeps.store(true, SeqCst);
            if !is_over() {
                thread::park();
            }
            self.owner_sleeps.store(false, SeqCst);
        }
        // The last part's writes are seen from here on.
        self.pending.load(Acquire);
    }

    fn wake_owner(&self) {
        if self.owner_sleeps.load(SeqCst)
            && let Some(owner) = &*lock(&self.owner)
        {
            owner.unpark();
        }
    }

    fn failure(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        lock(&self.failure)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, panic = "unwind"))]
mod tests {
    use super::super::Threads;
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicUsize, Ordering},
        time::{Duration, Instant},
    };

    #[test]
    fn a_panic_in_a_part_reaches_the_caller_after_the_others_have_run() {
        let threads = Threads::new(3);
        for failing in [0, 1, 40] {
            let ran = AtomicUsize::new(0);
            let run = || {
                threads.run(41, &|part| {
                    assert!(part.index != failing, "part {failing}");
                    ran.fetch_add(1, Ordering::Relaxed);
                });
            };
            let payload = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("part {failing}"));
            assert_eq!(ran.into_inner(), 40);
        }
        // The pool is still good.
        let ran = AtomicUsize::new(0);
        threads.run(10, &|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 10);
    }

    #[test]
    fn work_on_a_pool_that_lost_a_thread_fails_and_does_not_wait() {
        let threads = Threads::new(2);
        let pool = threads.serving_pool().unwrap();
        let run = || threads.run(8, &|_| pool.lose_thread("out of bounds".into()));
        let payload = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert!(payload.downcast_ref::<String>().unwrap().ends_with("out of bounds"));
    }

    #[test]
    fn work_from_several_threads_at_a_time_is_all_done() {
        let threads = Threads::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..500 {
                        threads.run(1 + round % 9, &|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        let expected: usize = (0..500).map(|round| 1 + round % 9).sum();
        assert_eq!(total.into_inner(), 4 * expected);
    }

    #[test]
    fn sleeping_threads_wake_up_and_end_with_the_pool() {
        let threads = Threads::new(4);
        let shared = std::sync::Arc::clone(threads.pool.as_ref().unwrap().shared());
        for pause in [0, 1, 30] {
            std::thread::sleep(Duration::from_millis(pause));
            let began = Instant::now();
            let seen = std::sync::Mutex::new(std::collections::HashSet::new());
            // Each part waits until another thread has come, which shows that one was woken.
            threads.run(4, &|part| {
                seen.lock().unwrap().insert(part.thread);
                while seen.lock().unwrap().len() < 2 && began.elapsed() < Duration::from_secs(20) {
                    std::thread::yield_now();
                }
            });
            assert!(seen.into_inner().unwrap().len() >= 2);
        }
        let part_of_the_pool = threads.at_most(2);
        drop(threads);
        part_of_the_pool.run(2, &|_| {});
        drop(part_of_the_pool);
        let began = Instant::now();
        while std::sync::Arc::strong_count(&shared) > 1 {
            assert!(began.elapsed() < Duration::from_secs(20), "the threads are still there");
            std::thread::yield_now();
        }
    }
}
