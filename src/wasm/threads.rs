//! The pool of a page: JavaScript makes the workers and gives each the module and the memory; they come in through
//! [`serve_thread`] and stay until they are terminated. Builds without atomics have none of this.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use wasm_bindgen::prelude::*;

use crate::Threads;

/// The pool of this memory, with room for as many threads as are ever used.
static POOL: OnceLock<Threads> = OnceLock::new();
/// What a thread of the pool said when it panicked.
static LAST_WORDS: Mutex<String> = Mutex::new(String::new());

/// `count` threads of the page's pool.
pub(super) fn pool(count: usize) -> Threads {
    POOL.get_or_init(|| Threads::new(Threads::MOST)).at_most(count)
}

/// How many threads are there, the calling one included.
#[wasm_bindgen(js_name = threadsPresent)]
pub fn threads_present() -> u32 {
    POOL.get().map_or(1, |pool| pool.present() as u32)
}

/// Makes the pool, before workers come. `may_sleep`: whether this thread, which runs the sessions, may wait blocked.
#[wasm_bindgen(js_name = openThreads)]
pub fn open_threads(may_sleep: bool) {
    if let Some(pool) = pool(Threads::MOST).serving_pool()
        && may_sleep
    {
        pool.let_owner_sleep();
    }
}

/// Says that all workers were terminated, while no session ran; others may come.
#[wasm_bindgen(js_name = forgetThreads)]
pub fn forget_threads() {
    if let Some(pool) = POOL.get().and_then(Threads::serving_pool) {
        pool.forget_threads();
    }
}

/// Works as thread `number` of the pool, from 1 on. Does not return.
#[wasm_bindgen(js_name = serveThread)]
pub fn serve_thread(number: u32) {
    if let Some(pool) = POOL.get().and_then(Threads::serving_pool) {
        Threads::serve(pool, number as usize);
    }
}

/// Says that the thread which calls this was trapped: whoever waits for its work fails.
#[wasm_bindgen(js_name = loseThread)]
pub fn lose_thread() {
    if let Some(pool) = POOL.get().and_then(Threads::serving_pool) {
        pool.lose_thread(std::mem::take(&mut *last_words()));
    }
}

/// Keeps the message of a panic of this thread, which no one listens to.
pub(super) fn note_panic(message: String) {
    *last_words() = message;
}

fn last_words() -> MutexGuard<'static, String> {
    LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner)
}
