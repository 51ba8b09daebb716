//! The wasm-bindgen surface: sessions, model bytes and tensors as JavaScript sees them. The only Rust that knows
//! JavaScript; what could be tested natively stands elsewhere.

mod convert;
#[cfg(modelet_threads)]
mod threads;

use std::{
    cell::RefCell,
    future::Future,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use js_sys::{Array, Function, JsString, Object, Uint8Array};
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;

use crate::{
    Device, Error, ErrorCode, Limits, Model, Session, SessionOptions, Threads, ValueInfo,
    graph::ValueType,
    import::onnx::{
        FileRanges, Segments, external_ranges, read_value,
        skim::{LOCATION, Skim},
        write_tensor,
    },
    optimize::Level,
    plan::Placement,
    session::{MemoryUse, Offload, Progress, Report},
    tensor::{Bytes, Value, map::HashMap},
};
use convert::{error_to_js, info_to_js, tensor_from_js, value_from_js, value_to_js};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;
}

/// Bytes of a model, or of a part of its external data, filled chunk by chunk until a session is made of them. They are in
/// wasm memory, but for large tensors and external data where those are to stay in JavaScript.
#[wasm_bindgen]
pub struct ModelBytes {
    filling: Filling,
    shared: Option<Bytes>,
    external: HashMap<String, Segments>,
    /// Large tensors of the model's own file, and where in it they were.
    pieces: Vec<(f64, Uint8Array)>,
    expected: u64,
    position: u64,
}

/// How bytes are taken in.
enum Filling {
    /// Into wasm memory.
    Inside(Vec<u8>),
    /// Into an array of JavaScript, of which so many bytes are filled.
    Outside(Uint8Array, u32),
    /// Large tensors into arrays, the rest into wasm memory.
    Skimmed(Box<Skim>),
}

/// Room of these lengths is made before the bytes for it are there: where nobody knows how many will come, and where the
/// model names a part of another file.
const UNSEEN: u64 = 1 << 20;
const MOST_AT_ONCE: u64 = 256 << 20;

#[wasm_bindgen]
impl ModelBytes {
    /// Room for `expectedLength` bytes; more may come. `place` is `model` for a model whose large tensors stay in
    /// JavaScript, `outside` for bytes that all stay there, and `inside` for bytes that all come to wasm memory.
    #[wasm_bindgen(constructor)]
    pub fn new(expected_length: f64, place: &str) -> ModelBytes {
        let expected = expected_length.max(0.0) as u64;
        let filling = match place {
            "model" => Filling::Skimmed(Box::default()),
            "outside" => Filling::Outside(Uint8Array::new_with_length(expected.min(MOST_AT_ONCE) as u32), 0),
            _ => {
                let mut filling = Vec::new();
                // A wrong announcement of the length is no reason to fail: the bytes themselves count.
                let _ = filling.try_reserve_exact(expected.min(4_000_000_000) as usize);
                Filling::Inside(filling)
            }
        };
        ModelBytes {
            filling,
            shared: None,
            external: HashMap::new(),
            pieces: Vec::new(),
            expected,
            position: 0,
        }
    }

    /// Appends a chunk.
    pub fn append(&mut self, chunk: &Uint8Array) -> Result<(), JsValue> {
        if self.shared.is_some() {
            return Err(invalid_argument("the bytes are those of a session already".into()));
        }
        let len = chunk.length();
        match &mut self.filling {
            Filling::Inside(filling) => {
                let start = filling.len();
                filling.try_reserve(len as usize).map_err(|_| {
                    let message = format!(
                        "{} bytes of memory for the model could not be had",
                        start + len as usize
                    );
                    error_to_js(&Error::new(ErrorCode::OutOfMemory, message))
                })?;
                filling.resize(start + len as usize, 0);
                chunk.copy_to(&mut filling[start..]);
            }
            Filling::Outside(array, filled) => add(array, filled, chunk, u32::MAX),
            Filling::Skimmed(skim) => {
                let mut at = 0;
                while at < len {
                    let taken = match skim.cut() {
                        Some((cut, left)) => {
                            if left == cut.length {
                                // What the file promises is not believed unless so many bytes are on their way.
                                let known = self.position + left <= self.expected;
                                let room = if known { left } else { left.min(UNSEEN) };
                                let array = Uint8Array::new_with_length(room.min(u32::MAX.into()) as u32);
                                self.pieces.push((cut.offset as f64, array));
                            }
                            let taken = u64::from(len - at).min(left);
                            let (length, mut filled) = (cut.length as u32, (cut.length - left) as u32);
                            if let Some((_, array)) = self.pieces.last_mut() {
                                add(array, &mut filled, &chunk.subarray(at, at + taken as u32), length);
                            }
                            skim.skip(taken);
                            taken as u32
                        }
                        None => {
                            let window = chunk.subarray(at, len.min(at.saturating_add(skim.wanted() as u32)));
                            skim.feed(&window.to_vec()) as u32
                        }
                    };
                    (at, self.position) = (at + taken, self.position + u64::from(taken));
                }
            }
        }
        Ok(())
    }

    /// Number of bytes so far.
    #[wasm_bindgen(getter)]
    pub fn length(&self) -> f64 {
        match &self.filling {
            Filling::Outside(_, filled) => (*filled).into(),
            _ => self.bytes().len() as f64,
        }
    }

    /// A copy of at most `length` bytes from `start`, for the memory of another instance.
    pub fn chunk(&self, start: f64, length: f64) -> Uint8Array {
        let end = (start + length).min(self.length());
        if let Filling::Outside(array, _) = &self.filling {
            return array.slice(start as u32, end as u32);
        }
        let start = start.min(end) as usize;
        Uint8Array::from(&self.bytes()[start..end as usize])
    }

    /// `[[offset, array], …]` of the large tensors that stay in JavaScript.
    pub fn pieces(&self) -> Array {
        let pieces = self.pieces.iter();
        pieces
            .map(|(offset, array)| JsValue::from(Array::of2(&(*offset).into(), array)))
            .collect()
    }

    /// Takes in one of another instance's pieces.
    #[wasm_bindgen(js_name = addPiece)]
    pub fn add_piece(&mut self, offset: f64, array: Uint8Array) {
        self.pieces.push((offset, array));
    }

    /// `[{ location, ranges: [[start, end], …] }]` of what the model needs of other files; an end beyond all safe
    /// integers is that of the file.
    #[wasm_bindgen(js_name = externalFiles)]
    pub fn external_files(&self) -> Array {
        let number = |value: u64| JsValue::from(value as f64);
        let file = |file: FileRanges| {
            let ranges = file.ranges.iter();
            let ranges: Array = ranges
                .map(|range| Array::of2(&number(range.start), &number(range.end)))
                .collect();
            let object = Object::new();
            let _ = js_sys::Reflect::set(&object, &"location".into(), &file.location.into());
            let _ = js_sys::Reflect::set(&object, &"ranges".into(), &ranges);
            JsValue::from(object)
        };
        external_ranges(self.bytes()).into_iter().map(file).collect()
    }

    /// Says that there is an external file of `size` bytes.
    #[wasm_bindgen(js_name = attachFile)]
    pub fn attach_file(&mut self, location: String, size: f64) {
        self.external.insert(location, Segments::new(size as u64));
    }

    /// Gives the part of an attached file that starts at `offset`. The model shares the part's bytes.
    #[wasm_bindgen(js_name = attachPart)]
    pub fn attach_part(&mut self, location: &str, offset: f64, part: &mut ModelBytes) {
        if let Some(file) = self.external.get_mut(location) {
            file.insert(offset as u64, part.share());
        }
    }

    fn bytes(&self) -> &[u8] {
        match (&self.shared, &self.filling) {
            (Some(shared), _) => shared,
            (None, Filling::Inside(filling)) => filling,
            (None, Filling::Skimmed(skim)) => skim.kept(),
            (None, Filling::Outside(..)) => &[],
        }
    }

    fn share(&mut self) -> Bytes {
        if let Some(shared) = &self.shared {
            return shared.clone();
        }
        let shared = match &mut self.filling {
            Filling::Inside(filling) => Bytes::new(std::mem::take(filling)),
            // A file that ends inside a tensor is no model.
            Filling::Skimmed(skim) => {
                Bytes::new(std::mem::take(&mut **skim).finish().unwrap_or_else(|| vec![0xff; 16]))
            }
            Filling::Outside(array, filled) => outside(array.subarray(0, *filled)),
        };
        self.shared.insert(shared).clone()
    }

    /// The files that hold tensors, the model's own pieces among them.
    fn files(&self) -> HashMap<String, Segments> {
        let mut files = self.external.clone();
        if !self.pieces.is_empty() {
            let mut own = Segments::new(u64::MAX);
            for (offset, array) in &self.pieces {
                own.insert(*offset as u64, outside(array.clone()));
            }
            files.insert(LOCATION.into(), own);
        }
        files
    }
}

/// Copies a chunk behind the `filled` bytes of an array, which grows where it must, up to `most` bytes.
fn add(array: &mut Uint8Array, filled: &mut u32, chunk: &Uint8Array, most: u32) {
    let needed = filled.saturating_add(chunk.length());
    if needed > array.length() {
        let grown = Uint8Array::new_with_length(needed.max(array.length().saturating_mul(2)).min(most.max(needed)));
        grown.set(&array.subarray(0, *filled), 0);
        *array = grown;
    }
    array.set(chunk, *filled);
    *filled = needed;
}

/// Bytes of an array that stay there, for builds that can do so.
#[cfg(feature = "gpu")]
use crate::gpu::outside;

#[cfg(not(feature = "gpu"))]
fn outside(array: Uint8Array) -> Bytes {
    Bytes::new(array.to_vec())
}

/// A session. One run at a time: the TypeScript side queues.
#[wasm_bindgen]
pub struct CoreSession {
    session: Rc<RefCell<Option<Session>>>,
    inputs: JsValue,
    outputs: JsValue,
    fed: Rc<[ValueInfo]>,
    on_event: Option<Function>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    device: Option<String>,
    optimization: Option<String>,
    memory: Option<String>,
    offload: Option<String>,
    fewer_gpu_kernels: bool,
    limits: LimitsJs,
    threads: Option<u32>,
    verify_on_load: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct LimitsJs {
    memory_bytes: Option<f64>,
    run_millis: Option<f64>,
    loop_iterations: Option<f64>,
}

impl From<LimitsJs> for Limits {
    fn from(limits: LimitsJs) -> Limits {
        Limits {
            memory_bytes: limits.memory_bytes.map(|bytes| bytes as u64),
            run_millis: limits.run_millis,
            loop_iterations: limits.loop_iterations.map(|count| count as u64),
        }
    }
}

#[wasm_bindgen]
impl CoreSession {
    /// Reads the model, optimizes it and opens the device. `onProgress(stage, done, total)` is told of each stage, and
    /// `onEvent` of what happens to the session then and later. The session shares the bytes, which may be freed or used
    /// once more.
    pub fn load(
        bytes: &mut ModelBytes,
        options: JsValue,
        on_progress: Option<Function>,
        on_event: Option<Function>,
    ) -> js_sys::Promise {
        let (model, external) = (bytes.share(), bytes.files());
        start(async move {
            Ok(load_session(model, external, options, on_progress, on_event)
                .await?
                .into())
        })
    }

    /// `[{ name, type, shape }]` of what has to be fed.
    pub fn inputs(&self) -> JsValue {
        self.inputs.clone()
    }

    /// `[{ name, type, shape }]` of what a run yields.
    pub fn outputs(&self) -> JsValue {
        self.outputs.clone()
    }

    /// Runs the model on a list of values, whose form stands in `convert.rs`, and resolves with the outputs in the same.
    /// Outputs named by `kept` stay in GPU memory, where one is used; memory there of the feeds named by `consumed` may
    /// become that of outputs.
    pub fn run(
        &self,
        feeds: Array,
        fetches: Option<Array>,
        kept: Option<Array>,
        consumed: Option<Array>,
    ) -> Result<JsValue, JsValue> {
        let (fetches, kept, consumed) = (texts(fetches), texts(kept), texts(consumed));
        let (kept, consumed) = (kept.unwrap_or_default(), consumed.unwrap_or_default());
        let holder = Rc::clone(&self.session);
        let (on_event, fed) = (self.on_event.clone(), Rc::clone(&self.fed));
        start_now(async move {
            let mut session = take(&holder)?;
            let gpu = session.gpu_device().cloned();
            let result = match read_feeds(&feeds, &fed, gpu.as_deref()) {
                Ok(feeds) => {
                    let result = session
                        .run_consuming(feeds.iter().cloned(), fetches.as_deref(), &kept, &consumed)
                        .await;
                    // JavaScript holds what it fed.
                    for (_, value) in &feeds {
                        if let (Some(gpu), Value::Tensor(tensor)) = (&gpu, value) {
                            gpu.free(tensor);
                        }
                    }
                    result
                }
                Err(error) => Err(error),
            };
            tell_events(&mut session, &on_event);
            let gpu = session.gpu_device().cloned();
            let values = result.and_then(|outputs| {
                let declared = |name: &str| session.outputs().iter().find(|info| info.name == name);
                let outputs = outputs.into_iter();
                let outputs = outputs.map(|(name, value)| match (&value, declared(&name)) {
                    (Value::Tensor(tensor), Some(info)) if tensor.remote_id().is_none() => {
                        convert::output_to_js(tensor, info)
                    }
                    _ => value_to_js(&name, &value, gpu.as_deref()),
                });
                outputs.collect::<Result<Array, Error>>()
            });
            *holder.borrow_mut() = Some(session);
            values.map(JsValue::from).map_err(|error| error_to_js(&error))
        })
    }

    /// The browser's `GPUDevice`, when one is in use.
    #[wasm_bindgen(js_name = gpuDevice)]
    pub fn gpu_device(&self) -> Result<JsValue, JsValue> {
        self.with(|session| Ok(session.gpu_device().map(|device| device.to_js()).unwrap_or_default()))
    }

    /// Runs the model once and then `runs` times with every step timed, and resolves with
    /// `{ runs, runMs, nodes: [row], kernels: [row] }`.
    pub fn profile(&self, feeds: &Array, runs: u32) -> js_sys::Promise {
        let feeds = read_feeds(feeds, &self.fed, None);
        let holder = Rc::clone(&self.session);
        let on_event = self.on_event.clone();
        start(async move {
            let feeds = feeds.map_err(|error| error_to_js(&error))?;
            let mut session = take(&holder)?;
            let result = session.profile(feeds, runs as usize).await;
            tell_events(&mut session, &on_event);
            *holder.borrow_mut() = Some(session);
            result
                .map(|profile| convert::profile_to_js(&profile))
                .map_err(|error| error_to_js(&error))
        })
    }

    /// What ran where, how long loading took, how much memory is held.
    pub fn report(&self) -> Result<JsValue, JsValue> {
        self.with(|session| {
            let report = ReportJs::from(session.report());
            let serializer = serde_wasm_bindgen::Serializer::json_compatible();
            report
                .serialize(&serializer)
                .map_err(|error| invalid_argument(error.to_string()))
        })
    }

    /// A stage of compilation (`graph`, `optimized`, `program`) as text, or as JSON.
    pub fn inspect(&self, stage: &str, json: bool) -> Result<JsValue, JsValue> {
        self.with(|session| {
            let graph = match stage {
                "graph" => Some(session.imported_graph()),
                "optimized" => Some(session.optimized_graph()),
                "program" => None,
                other => return Err(invalid_argument(format!("there is no stage called {other:?}"))),
            };
            let text = match graph {
                Some(graph) if json => return stringify(&convert::graph_to_js(graph)),
                Some(graph) => graph.to_string(),
                None => session.program_text().map_err(|error| error_to_js(&error))?,
            };
            if json {
                let lines: Array = text.lines().map(JsValue::from).collect();
                let object = Object::new();
                let _ = js_sys::Reflect::set(&object, &"program".into(), &lines);
                return stringify(&object.into());
            }
            Ok(text.into())
        })
    }

    fn with<R>(&self, read: impl FnOnce(&Session) -> Result<R, JsValue>) -> Result<R, JsValue> {
        match &*self.session.borrow() {
            Some(session) => read(session),
            None => Err(error_to_js(&Error::new(
                ErrorCode::InvalidArgument,
                "the session is busy with a run",
            ))),
        }
    }
}

#[inline(never)]
fn texts(names: Option<Array>) -> Option<Vec<String>> {
    Some(names?.iter().filter_map(|name| name.as_string()).collect())
}

fn read_feeds(feeds: &Array, inputs: &[ValueInfo], gpu: convert::Gpu<'_>) -> Result<Vec<(String, Value)>, Error> {
    let read = |feed: JsValue| match convert::feed_from_js(&feed, inputs) {
        Some(read) => read,
        None => value_from_js(&feed, gpu),
    };
    feeds.iter().map(read).collect()
}

/// The session, while nothing else runs it.
fn take(holder: &RefCell<Option<Session>>) -> Result<Session, JsValue> {
    holder.borrow_mut().take().ok_or_else(|| {
        let message = "the session is busy with another run, or a run of it never ended";
        error_to_js(&Error::new(ErrorCode::InvalidArgument, message))
    })
}

/// Tells of what happened to a session. What the listener throws is its own affair.
fn tell_events(session: &mut Session, on_event: &Option<Function>) {
    for event in session.take_events() {
        if let Some(listener) = on_event {
            let _ = listener.call1(&JsValue::NULL, &convert::event_to_js(&event));
        }
    }
}

async fn load_session(
    bytes: Bytes,
    external: HashMap<String, Segments>,
    options: JsValue,
    on_progress: Option<Function>,
    on_event: Option<Function>,
) -> Result<CoreSession, JsValue> {
    let parsed: Options = serde_wasm_bindgen::from_value(options)
        .map_err(|error| invalid_argument(format!("the options are not understood: {error}")))?;
    let device = match parsed.device.as_deref() {
        None | Some("auto") => Device::Auto,
        Some("cpu") => Device::Cpu,
        Some("webgpu") => Device::WebGpu,
        Some(other) => return Err(invalid_argument(format!("there is no device called {other:?}"))),
    };
    let optimization = match parsed.optimization.as_deref() {
        None => Level::default(),
        Some(name) => Level::from_name(name)
            .ok_or_else(|| invalid_argument(format!("there is no optimization level called {name:?}")))?,
    };
    let memory = match parsed.memory.as_deref() {
        None | Some("fast") => MemoryUse::Fast,
        Some("low") => MemoryUse::Low,
        Some(other) => return Err(invalid_argument(format!("there is no use of memory called {other:?}"))),
    };
    let offload = match parsed.offload.as_deref() {
        Some("everything") => Offload::Everything,
        _ => Offload::Worthwhile,
    };
    let progress = |stage: &str, done: u32| {
        if let Some(callback) = &on_progress {
            // What a callback throws is its own affair.
            let _ = callback.call3(&JsValue::NULL, &stage.into(), &done.into(), &3.into());
        }
    };
    progress("parse", 0);
    let started = performance_now();
    let model = Model::load_with(bytes, &external).map_err(|error| error_to_js(&error))?;
    drop(external);
    let model = model.with_parse_ms(performance_now() - started);
    progress("optimize", 1);
    let listener = on_progress.clone();
    let preparing = Progress::to(move |stage, done, total| {
        if let Some(callback) = &listener {
            let (done, total) = (JsValue::from(done as f64), JsValue::from(total as f64));
            let _ = callback.call3(&JsValue::NULL, &stage.name().into(), &done, &total);
        }
    });
    let options = SessionOptions {
        device,
        optimization,
        memory,
        offload,
        needs_gpu_kernels: !parsed.fewer_gpu_kernels,
        limits: parsed.limits.into(),
        verify_on_load: parsed.verify_on_load,
        threads: threads(parsed.threads),
        clock: performance_now,
        progress: preparing,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model, options)
        .await
        .map_err(|error| error_to_js(&error))?;
    tell_events(&mut session, &on_event);
    progress("ready", 3);
    let inputs = info_to_js(session.inputs());
    let outputs = info_to_js(session.outputs());
    let fed = session.inputs().into();
    Ok(CoreSession {
        session: Rc::new(RefCell::new(Some(session))),
        inputs,
        outputs,
        fed,
        on_event,
    })
}

/// The threads that a session asks for.
#[cfg(modelet_threads)]
fn threads(count: Option<u32>) -> Threads {
    threads::pool(count.unwrap_or(1) as usize)
}

/// The threads that a session asks for, where there are none.
#[cfg(not(modelet_threads))]
fn threads(_: Option<u32>) -> Threads {
    Threads::SINGLE
}

/// A promise of what a future gives. The future is polled once right here, and handed to the event loop only if it has
/// to wait: work on the CPU ends within the call, so that a trap in it is thrown to the caller and not lost in a task.
fn start(future: impl Future<Output = Result<JsValue, JsValue>> + 'static) -> js_sys::Promise {
    match start_now(future) {
        Ok(value) => js_sys::Promise::resolve(&value),
        Err(error) => js_sys::Promise::reject(&error),
    }
}

/// What a future gives, when it need not wait; a promise of it otherwise.
fn start_now(future: impl Future<Output = Result<JsValue, JsValue>> + 'static) -> Result<JsValue, JsValue> {
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(wasm_bindgen_futures::future_to_promise(future).into()),
    }
}

/// Reads an ONNX file of one value of a type, such as `float32` (or `?`) and `sequence(map(int64, float32))`.
#[wasm_bindgen(js_name = readValue)]
pub fn read_value_js(bytes: &[u8], type_name: &str) -> Result<JsValue, JsValue> {
    let ty = ValueType::parse(type_name)
        .ok_or_else(|| invalid_argument(format!("{type_name:?} is not the name of a type")))?;
    let read = || {
        let (name, value) = read_value(Bytes::from(bytes), &ty)?;
        value_to_js(&name, &value, None)
    };
    read().map_err(|error| error_to_js(&error))
}

/// Writes `{ name, type, shape, data }` as an ONNX `TensorProto` file.
#[wasm_bindgen(js_name = writeTensor)]
pub fn write_tensor_js(tensor: &JsValue) -> Result<Uint8Array, JsValue> {
    let (name, tensor) = tensor_from_js(tensor).map_err(|error| error_to_js(&error))?;
    Ok(Uint8Array::from(write_tensor(&name, &tensor).as_slice()))
}

/// Has the engine compile the matrix product for speed, in the background, before a model needs it.
#[wasm_bindgen(js_name = warmUp)]
pub fn warm_up() {
    crate::cpu::gemm::warm_up();
}

/// The version of the package.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

thread_local! {
    static PANIC_HANDLER: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Calls `handler` with the message of a panic, just before the instance aborts.
#[wasm_bindgen(js_name = setPanicHandler)]
pub fn set_panic_handler(handler: Function) {
    PANIC_HANDLER.with(|slot| *slot.borrow_mut() = Some(handler));
    std::panic::set_hook(Box::new(|info| {
        let message = info.to_string();
        PANIC_HANDLER.with(|slot| match slot.try_borrow().as_deref() {
            Ok(Some(handler)) => {
                let _ = handler.call1(&JsValue::NULL, &message.into());
            }
            #[cfg(modelet_threads)]
            Ok(None) => threads::note_panic(message),
            _ => {}
        });
    }));
}

fn invalid_argument(message: String) -> JsValue {
    error_to_js(&Error::new(ErrorCode::InvalidArgument, message))
}

fn stringify(value: &JsValue) -> Result<JsValue, JsValue> {
    js_sys::JSON::stringify(value).map(JsString::into)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportJs {
    device: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<String>,
    wasm: &'static str,
    threads: usize,
    nodes: Vec<NodeJs>,
    fused_groups: usize,
    dispatches: usize,
    timings: TimingsJs,
    memory: MemoryJs,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct NodeJs {
    node: String,
    operator: String,
    device: &'static str,
    kernel: String,
    heavy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fused: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TimingsJs {
    parse_ms: f64,
    optimize_ms: f64,
    device_ms: f64,
    plan_ms: f64,
    prepack_ms: f64,
    compile_ms: f64,
    first_run_ms: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemoryJs {
    weights_bytes: u64,
    cpu_arena_bytes: u64,
    gpu_bytes: u64,
    wasm_bytes: u64,
}

impl From<Report> for ReportJs {
    fn from(report: Report) -> ReportJs {
        let nodes = report.nodes.into_iter().map(|node| NodeJs {
            node: node.node,
            operator: node.operator,
            device: match node.place {
                Placement::Cpu => "cpu",
                Placement::Gpu => "gpu",
                Placement::Folded => "folded",
            },
            kernel: node.kernel,
            heavy: node.heavy,
            reason: node.reason,
            fused: node.fused,
        });
        let wasm_pages = core::arch::wasm32::memory_size(0) as u64;
        ReportJs {
            device: report.device,
            adapter: report.adapter,
            wasm: match (cfg!(target_feature = "relaxed-simd"), cfg!(feature = "all-operators")) {
                (true, true) => "relaxed-simd, all operators",
                (true, false) => "relaxed-simd",
                (false, true) => "simd128, all operators",
                (false, false) => "simd128",
            },
            threads: report.threads,
            nodes: nodes.collect(),
            fused_groups: report.fused_groups,
            dispatches: report.dispatches,
            timings: TimingsJs {
                parse_ms: report.timings.parse_ms,
                optimize_ms: report.timings.optimize_ms,
                device_ms: report.timings.device_ms,
                plan_ms: report.timings.plan_ms,
                prepack_ms: report.timings.prepack_ms,
                compile_ms: report.timings.compile_ms,
                first_run_ms: report.timings.first_run_ms,
            },
            memory: MemoryJs {
                weights_bytes: report.memory.weights_bytes,
                cpu_arena_bytes: report.memory.cpu_arena_bytes,
                gpu_bytes: report.memory.gpu_bytes,
                wasm_bytes: wasm_pages * 65536,
            },
            warnings: report.warnings,
        }
    }
}
