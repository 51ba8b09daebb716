//! A peer as a wasm module without imports: `benches/peers/page.mjs` writes a model and its input into the module's memory
//! and times `run`. One engine is compiled in, by feature; everything is on one thread.

#[cfg(feature = "rten")]
mod rten_engine;
#[cfg(all(feature = "tract", not(feature = "rten")))]
mod tract_engine;

#[cfg(feature = "rten")]
use rten_engine::Engine;
#[cfg(all(feature = "tract", not(feature = "rten")))]
use tract_engine::Engine;

#[cfg(any(feature = "rten", feature = "tract"))]
mod exports {
    use std::cell::RefCell;

    use super::Engine;

    #[derive(Default)]
    struct State {
        engine: Option<Engine>,
        output: Vec<f32>,
        error: String,
    }

    thread_local!(static STATE: RefCell<State> = RefCell::default());

    /// Room for `len` bytes, aligned for any number; it is never given back.
    #[unsafe(no_mangle)]
    pub extern "C" fn allocate(len: usize) -> *mut u8 {
        Vec::leak(vec![0u64; len.div_ceil(8)]).as_mut_ptr().cast()
    }

    /// Loads the model in `len` bytes at `bytes` for an f32 input of the shape at `shape`; 0 when it fails.
    ///
    /// # Safety
    /// Both ranges were made by [`allocate`] and filled.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn load(bytes: *const u8, len: usize, shape: *const u32, rank: usize) -> u32 {
        // SAFETY: the caller's promise.
        let (bytes, shape) = unsafe {
            (
                std::slice::from_raw_parts(bytes, len),
                std::slice::from_raw_parts(shape, rank),
            )
        };
        let shape: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        keep(Engine::load(bytes, &shape), |state, engine| state.engine = Some(engine))
    }

    /// Runs the model on the floats at `input`; 0 when it fails.
    ///
    /// # Safety
    /// The range was made by [`allocate`] and filled.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn run(input: *const f32, len: usize) -> u32 {
        // SAFETY: the caller's promise.
        let input = unsafe { std::slice::from_raw_parts(input, len) };
        let result = STATE.with_borrow_mut(|state| match &mut state.engine {
            Some(engine) => engine.run(input),
            None => Err("no model is loaded".into()),
        });
        keep(result, |state, output| state.output = output)
    }

    fn keep<T>(result: Result<T, String>, store: impl FnOnce(&mut State, T)) -> u32 {
        STATE.with_borrow_mut(|state| match result {
            Ok(value) => {
                store(state, value);
                1
            }
            Err(error) => {
                state.error = error;
                0
            }
        })
    }

    /// Where the output of the last run is.
    #[unsafe(no_mangle)]
    pub extern "C" fn output() -> *const f32 {
        STATE.with_borrow(|state| state.output.as_ptr())
    }

    /// How many floats it has.
    #[unsafe(no_mangle)]
    pub extern "C" fn output_len() -> usize {
        STATE.with_borrow(|state| state.output.len())
    }

    /// Where the text of the last error is.
    #[unsafe(no_mangle)]
    pub extern "C" fn error() -> *const u8 {
        STATE.with_borrow(|state| state.error.as_ptr())
    }

    /// How many bytes it has.
    #[unsafe(no_mangle)]
    pub extern "C" fn error_len() -> usize {
        STATE.with_borrow(|state| state.error.len())
    }
}
