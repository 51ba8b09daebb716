//! Models and sessions: load, run, report. The one public way from bytes to outputs.

#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod consume_tests;
mod control;
mod event;
mod feeds;
mod limits;
mod model;
mod profile;
mod report;
mod runner;
mod runtime;
#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod trust_tests;
mod variant;
mod verify;

pub use crate::gpu::progress::{Progress, Stage};
pub use crate::plan::{Memory as MemoryUse, Offload};
pub use event::Event;
pub use limits::Limits;
pub use model::{Model, ValueInfo};
pub use profile::{Profile, ProfileRow};
pub use report::{Memory, Report, Timings};

use std::ops::Index;

use crate::{
    cpu::threads::Threads,
    error::{Error, ErrorCode, Result},
    graph::Graph,
    ops::registry,
    optimize::{Kernels, Level},
    plan::Target,
    tensor::{Tensor, Value},
};
use limits::Meter;
use profile::Profiler;
use runner::Runner;
use runtime::Runtime;
use variant::{VariantKey, Variants};

/// Which device a session runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The GPU when there is a hardware adapter that runs all of the model's heavy nodes, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU, a software adapter too; an error when there is none. Nodes without a GPU kernel run on the CPU.
    WebGpu,
}

/// How a session is made.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The device.
    pub device: Device,
    /// How much the graph is rewritten.
    pub optimization: Level,
    /// How many programs, one for each set of input shapes, are kept.
    pub program_cache: usize,
    /// How freely memory is used for speed.
    pub memory: MemoryUse,
    /// Which nodes of a session on the GPU run there.
    pub offload: Offload,
    /// Whether making a session on the GPU fails with `unsupported-operator` when this build lacks a GPU kernel for the
    /// model that the build with all operators has; the nodes concerned run on the CPU otherwise.
    pub needs_gpu_kernels: bool,
    /// What the model may use.
    pub limits: Limits,
    /// Compares each GPU kernel once with the CPU's on the same inputs; nodes that disagree by more than rounding, or give
    /// NaN where the CPU does not, run on the CPU, which an [`Event`] and the report say. It happens while loading, with
    /// made-up numbers, when the shapes of all inputs are fixed, and with the feeds of the first run otherwise.
    pub verify_on_load: bool,
    /// The threads that CPU kernels share; sessions may share a pool.
    pub threads: Threads,
    /// Milliseconds since some fixed moment, for the report's timings.
    pub clock: fn() -> f64,
    /// Who is told how far preparing a program has come, in the first run of each set of input shapes.
    pub progress: Progress,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            device: Device::Auto,
            optimization: Level::All,
            program_cache: 8,
            memory: MemoryUse::default(),
            offload: Offload::default(),
            needs_gpu_kernels: false,
            limits: Limits::default(),
            verify_on_load: false,
            threads: Threads::default(),
            clock: runtime::default_clock,
            progress: Progress::default(),
        }
    }
}

/// A model made ready to run on a device.
///
/// ```
/// # use modelet::{Model, Session, SessionOptions, Tensor};
/// # fn main() -> modelet::Result<()> {
/// # let bytes: &[u8] = include_bytes!("../../tests/fixtures/keras/headline_mlp_784_64_10/model.onnx");
/// let model = Model::load(bytes)?;
/// let input = model.inputs()[0].name.clone();
/// let mut session = pollster::block_on(Session::new(model, SessionOptions::default()))?;
/// let image = Tensor::new(&[1, 784], vec![0.5f32; 784])?;
/// let outputs = pollster::block_on(session.run([(input.as_str(), image)]))?;
/// assert_eq!(outputs[0].shape(), [1, 10]);
/// # Ok(())
/// # }
/// ```
pub struct Session {
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    imported: Graph,
    runtime: Runtime,
    variants: Variants,
    options: SessionOptions,
    timings: Timings,
    released: bool,
    /// Whether the imported graph has lost its weights.
    stripped: bool,
    /// Whether the next run is to be verified.
    unverified: bool,
}

/// The outputs of a run, in the model's order; indexed by position or name.
#[derive(Clone, Debug)]
pub struct Outputs(Vec<(String, Value)>);

impl Session {
    /// Optimizes the model and opens the device. Programs are planned at the first run of each set of input shapes.
    ///
    /// Fails with `device` when the GPU is asked for and there is none.
    pub async fn new(model: Model, options: SessionOptions) -> Result<Session> {
        let started = (options.clock)();
        let (mut imported, parse_ms) = model.into_parts();
        let inputs = model::inputs_of(&imported);
        let outputs = model::outputs_of(&imported)?;
        let weights = imported.values.iter().filter_map(|value| value.constant.as_ref());
        let weights = weights.map(|tensor| tensor.byte_len() as u64).sum();
        let meter = Meter::new(options.limits, options.clock, weights)?;
        let opening = (options.clock)();
        let mut runtime = Runtime::new(
            options.device,
            options.memory,
            options.offload,
            options.clock,
            options.threads.clone(),
            meter,
        )
        .await?;
        runtime.progress = options.progress.clone();
        let opened = (options.clock)();
        let kernels = if runtime.uses_gpu() { Kernels::Gpu } else { Kernels::Cpu };
        let variants = Variants::new(&imported, options.optimization, kernels, options.program_cache)?;
        if options.needs_gpu_kernels
            && let Target::Gpu(caps) = &runtime.planner.target
        {
            registry::check_gpu_kernels(&variants.last().bound().graph, caps.kind)?;
        }
        // A file that was folded into new weights is given back, unless inputs that have defaults may still be fed.
        let stripped = variants.detached && imported.inputs.iter().all(|&id| imported.value(id).constant.is_none());
        if stripped {
            variant::strip(&mut imported)?;
        }
        let timings = Timings {
            parse_ms,
            optimize_ms: opening - started + (options.clock)() - opened,
            device_ms: opened - opening,
            ..Timings::default()
        };
        let mut session = Session {
            inputs,
            outputs,
            imported,
            runtime,
            variants,
            timings,
            released: false,
            stripped,
            unverified: options.verify_on_load,
            options,
        };
        if session.unverified
            && session.runtime.uses_gpu()
            && let Some(feeds) = verify::made_up(&session.inputs)
            // A model may well refuse numbers that are made up: then the first run has better ones.
            && session.run(feeds).await.is_err()
        {
            session.unverified = true;
        }
        Ok(session)
    }

    /// The GPU device, when one is in use.
    pub fn gpu_device(&self) -> Option<&std::rc::Rc<crate::gpu::device::GpuDevice>> {
        self.runtime.gpu_device()
    }

    /// What happened since this was last asked, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.runtime.events.take()
    }

    /// What has to be fed.
    pub fn inputs(&self) -> &[ValueInfo] {
        &self.inputs
    }

    /// What a run yields.
    pub fn outputs(&self) -> &[ValueInfo] {
        &self.outputs
    }

    /// Runs the model on named feeds and returns every output.
    pub async fn run<N: AsRef<str>>(
        &mut self,
        feeds: impl IntoIterator<Item = (N, impl Into<Value>)>,
    ) -> Result<Outputs> {
        self.run_fetching(feeds, None).await
    }

    /// Runs the model and returns the outputs named by `fetches`, in their order; all when `None`.
    pub async fn run_fetching<N: AsRef<str>>(
        &mut self,
        feeds: impl IntoIterator<Item = (N, impl Into<Value>)>,
        fetches: Option<&[String]>,
    ) -> Result<Outputs> {
        self.run_keeping(feeds, fetches, &[]).await
    }

    /// Like [`Session::run_fetching`], and where a GPU is in use leaves the outputs named by `kept` in its memory, as
    /// tensors with a [`Tensor::remote_id`], which further runs take as feeds. They are held until
    /// [`GpuDevice::free`](crate::gpu::device::GpuDevice::free); a loss of the device ends them.
    pub async fn run_keeping<N: AsRef<str>>(
        &mut self,
        feeds: impl IntoIterator<Item = (N, impl Into<Value>)>,
        fetches: Option<&[String]>,
        kept: &[String],
    ) -> Result<Outputs> {
        self.run_consuming(feeds, fetches, kept, &[]).await
    }

    /// Like [`Session::run_keeping`], and takes the feeds named by `consumed` from the caller. Where they are tensors in
    /// the memory of the GPU, a node that changes a part of one (a cache of keys and values that gets new rows) writes to
    /// that memory and the output has it, without a copy; what is not made use of is freed. Tensors in the memory of the
    /// CPU stay as they are. A run that fails frees nothing, but the contents of what it was to take may have changed.
    ///
    /// Fails with `unknown-name` for what is no input and `missing-input` for one that is not fed.
    pub async fn run_consuming<N: AsRef<str>>(
        &mut self,
        feeds: impl IntoIterator<Item = (N, impl Into<Value>)>,
        fetches: Option<&[String]>,
        kept: &[String],
        consumed: &[String],
    ) -> Result<Outputs> {
        self.check_released()?;
        let feeds = feeds::ordered(&self.inputs, feeds)?;
        self.run_ordered(feeds, fetches, kept, consumed).await
    }

    async fn run_ordered(
        &mut self,
        (values, defaults_are_fed): (Vec<Option<Value>>, bool),
        fetches: Option<&[String]>,
        kept: &[String],
        consumed: &[String],
    ) -> Result<Outputs> {
        let kept = feeds::fetch_positions(&self.outputs, Some(kept))?;
        let positions = feeds::fetch_positions(&self.outputs, fetches)?;
        let consumed = feeds::consumed(&self.inputs, &values, consumed)?;
        let mut outputs = positions.clone();
        if self.stripped {
            // The weights that a variant for these outputs would be made of are gone: the main one gives all outputs.
            outputs = (0..self.outputs.len()).collect();
        }
        outputs.sort_unstable();
        outputs.dedup();
        let kept: Vec<usize> = (0..outputs.len())
            .filter(|&index| kept.contains(&outputs[index]))
            .collect();
        let values = feeds::with_defaults(&self.imported, values, defaults_are_fed)?;
        let is_left_out = |at: &usize| {
            let default = &self.imported.value(self.imported.inputs[*at]).constant;
            !defaults_are_fed && default.is_some()
        };
        let consumed = consumed.into_iter().map(|at| at - (0..at).filter(is_left_out).count());
        let consumed: Vec<usize> = consumed.collect();
        let key = VariantKey {
            defaults_are_fed,
            outputs: outputs.clone(),
        };
        let (level, cache) = (self.options.optimization, self.options.program_cache);
        let runner = self.variants.get(&self.imported, key, level, cache)?;
        let started = self.runtime.first_run_ms.get().is_none().then(self.options.clock);
        if std::mem::take(&mut self.unverified) && self.runtime.uses_gpu() {
            self.runtime.verifying.set(true);
            let verified = self.run_recovering(&runner, &values, &[], &[]).await;
            self.runtime.verifying.set(false);
            if !self.runtime.planner.demoted.borrow().is_empty() {
                self.variants.forget_programs();
            }
            verified?;
        }
        let results = self.run_recovering(&runner, &values, &kept, &consumed).await?;
        for tensor in consumed.iter().filter_map(|&at| values[at].as_tensor()) {
            self.runtime.free(tensor);
        }
        if let Some(started) = started {
            self.runtime.first_run_ms.set(Some((self.options.clock)() - started));
        }
        let pick = |position: usize| {
            let index = outputs.partition_point(|&other| other < position);
            (self.outputs[position].name.clone(), results[index].clone())
        };
        Ok(Outputs(positions.into_iter().map(pick).collect()))
    }

    /// Runs a graph, once more after a loss of the device and on the CPU after another, or after any failure of a GPU that
    /// was not asked for.
    async fn run_recovering(
        &mut self,
        runner: &Runner,
        values: &[Value],
        kept: &[usize],
        consumed: &[usize],
    ) -> Result<Vec<Value>> {
        let mut retried = false;
        loop {
            self.runtime.meter.begin();
            let mut fed = values.to_vec();
            let copies = self.runtime.copy_consumed(&mut fed, consumed);
            let given_up = self.runtime.free_to_change(&fed, consumed);
            let result = runner.run(&self.runtime, fed, kept, &given_up).await;
            copies.iter().for_each(|copy| self.runtime.free(copy));
            let error = match result {
                Ok(results) => return Ok(results),
                Err(error) => error,
            };
            self.runtime
                .recover(error.clone(), self.options.device, &mut retried)
                .await?;
            self.variants.forget_programs();
            if values.iter().any(runner::is_remote) {
                // What was fed is gone with the device.
                return Err(error);
            }
        }
    }

    /// Runs the model `runs` times, after one run that is not counted, and times every step by itself. Nothing is
    /// measured in any other run, which costs nothing.
    pub async fn profile(&mut self, feeds: Vec<(String, Value)>, runs: usize) -> Result<Profile> {
        self.run(feeds.clone()).await?;
        *self.runtime.profiler.borrow_mut() = Some(Profiler::new(self.options.clock));
        let mut result = Ok(());
        for _ in 0..runs.max(1) {
            let started = (self.options.clock)();
            result = self.run(feeds.clone()).await.map(drop);
            let elapsed = (self.options.clock)() - started;
            if let Some(profiler) = &mut *self.runtime.profiler.borrow_mut() {
                profiler.end_run(elapsed);
            }
            if result.is_err() {
                break;
            }
        }
        let profiler = self.runtime.profiler.take();
        result?;
        Ok(profiler.unwrap_or_default().finish())
    }

    /// What ran where, how long loading took, how much memory is held.
    pub fn report(&self) -> Report {
        report::make(&self.runtime, self.variants.last(), &self.timings)
    }

    /// The graph as it was imported.
    pub fn imported_graph(&self) -> &Graph {
        &self.imported
    }

    /// The graph as it is planned from.
    pub fn optimized_graph(&self) -> &Graph {
        &self.variants.last().bound().graph
    }

    /// The program of the last run as text; the one for fixed input shapes when nothing ran yet.
    pub fn program_text(&self) -> Result<String> {
        self.check_released()?;
        let runner = self.variants.last();
        if runner.last_chain().is_empty() {
            let types = feeds::fixed_input_types(&runner.bound().graph)?;
            runner.plan_first(&self.runtime, types, &[])?;
        }
        Ok(runner.program_text())
    }

    /// Frees programs, packed weights and device memory. The session cannot run afterwards.
    pub fn release(&mut self) {
        self.released = true;
        self.variants = Variants::none();
        self.imported = Graph::default();
        self.runtime.release();
    }

    fn check_released(&self) -> Result<()> {
        if self.released {
            return Err(Error::new(
                ErrorCode::Released,
                "the session was released and cannot be used again",
            ));
        }
        Ok(())
    }
}

impl Outputs {
    /// The output called `name`, when it is a tensor.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.value(name)?.as_tensor()
    }

    /// The output called `name`, of whatever kind.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Number of outputs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Index<usize> for Outputs {
    type Output = Tensor;

    /// The tensor at `position`.
    ///
    /// # Panics
    /// When there is no such output, or it is a sequence, a map or an empty optional; [`Outputs::value`] has those.
    fn index(&self, position: usize) -> &Tensor {
        let (name, value) = &self.0[position];
        match value {
            Value::Tensor(tensor) => tensor,
            other => panic!("output {name:?} is {}, not a tensor", other.kind()),
        }
    }
}

impl IntoIterator for Outputs {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
