//! What all programs of a session share: the planner, the arena, and the GPU with its constants.

use std::cell::{Cell, RefCell};

use std::rc::Rc;

use super::{
    Device, Event,
    limits::Meter,
    profile::{Began, Profiler, StepLabel},
};
#[cfg(feature = "gpu")]
use crate::gpu::{
    executor::{GpuConstants, GpuExecutor},
    kernel::AdapterKind,
};
use crate::{
    cpu::threads::Threads,
    error::{Error, ErrorCode, Result},
    gpu::{device::GpuDevice, program::GpuProgram, progress::Progress},
    ops::{ALL_OPERATORS, Prepared},
    plan::{Memory, Offload, PlanState, Planner, Target},
    tensor::{AlignedBytes, DType, Tensor, Value},
};

pub(super) struct Runtime {
    pub planner: Planner,
    /// The threads that CPU kernels use.
    pub threads: Threads,
    pub arena: RefCell<AlignedBytes>,
    pub clock: fn() -> f64,
    /// What the current run uses.
    pub meter: Meter,
    pub plan_ms: Cell<f64>,
    pub compile_ms: Cell<f64>,
    /// Milliseconds of the first run, planning included.
    pub first_run_ms: Cell<Option<f64>>,
    /// What times each step, while the session is profiled.
    pub profiler: RefCell<Option<Profiler>>,
    /// Who is told how far preparing has come.
    pub progress: Progress,
    pub warnings: Vec<String>,
    /// What the caller has not been told yet.
    pub events: RefCell<Vec<Event>>,
    /// Whether GPU steps are compared with the CPU.
    pub verifying: Cell<bool>,
    /// After how many downloads the device is lost.
    #[cfg(all(test, feature = "gpu"))]
    pub loses_device_after: Cell<Option<usize>>,
    /// Whether the GPU was chosen for the user, who then wants it only if it runs all heavy nodes.
    pub gpu_must_run_heavy_nodes: bool,
    #[cfg(feature = "gpu")]
    gpu: Option<Gpu>,
}

#[cfg(feature = "gpu")]
struct Gpu {
    device: Rc<GpuDevice>,
    constants: RefCell<GpuConstants>,
}

/// The GPU's side of a planned segment, when it has one.
pub(super) struct Recorded {
    #[cfg(feature = "gpu")]
    pub executor: GpuExecutor,
}

impl Runtime {
    pub async fn new(
        device: Device,
        memory: Memory,
        offload: Offload,
        clock: fn() -> f64,
        threads: Threads,
        meter: Meter,
    ) -> Result<Runtime> {
        let mut runtime = Runtime {
            planner: Planner {
                target: Target::Cpu,
                memory,
                offload,
                prepared: Prepared::timed(clock),
                threads: threads.count(),
                demoted: RefCell::default(),
            },
            threads,
            arena: RefCell::default(),
            clock,
            meter,
            plan_ms: Cell::new(0.0),
            compile_ms: Cell::new(0.0),
            first_run_ms: Cell::new(None),
            profiler: RefCell::default(),
            progress: Progress::default(),
            warnings: Vec::new(),
            events: RefCell::default(),
            verifying: Cell::new(false),
            #[cfg(all(test, feature = "gpu"))]
            loses_device_after: Cell::new(None),
            gpu_must_run_heavy_nodes: device == Device::Auto,
            #[cfg(feature = "gpu")]
            gpu: None,
        };
        if device != Device::Cpu {
            runtime.open_gpu(device).await?;
        }
        Ok(runtime)
    }

    #[cfg(feature = "gpu")]
    async fn open_gpu(&mut self, device: Device) -> Result<()> {
        let gpu = match GpuDevice::shared().await {
            Ok(gpu) => gpu,
            Err(error) if device == Device::Auto => {
                self.warnings.push(format!("running on the CPU: {}", error.message()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if device == Device::Auto && gpu.caps().kind == AdapterKind::Software {
            self.warnings.push(format!(
                "running on the CPU: the GPU adapter {:?} is a software adapter, which is slower",
                gpu.adapter().name
            ));
            return Ok(());
        }
        self.planner.target = Target::Gpu(gpu.caps().clone());
        self.gpu = Some(Gpu {
            device: gpu,
            constants: RefCell::default(),
        });
        Ok(())
    }

    #[cfg(not(feature = "gpu"))]
    async fn open_gpu(&mut self, device: Device) -> Result<()> {
        if device == Device::WebGpu {
            return Err(Error::new(ErrorCode::Device, "this build has no GPU support"));
        }
        Ok(())
    }

    /// The moment at which a step begins, while the session is profiled.
    pub fn begin_step(&self) -> Option<Began> {
        self.profiler.borrow().as_ref().map(Profiler::begin)
    }

    /// Books a step that ends.
    #[inline(never)]
    pub fn end_step(&self, began: Began, state: &PlanState, step: StepLabel<'_>) {
        if let Some(profiler) = &mut *self.profiler.borrow_mut() {
            profiler.end(began, state, step);
        }
    }

    pub fn uses_gpu(&self) -> bool {
        matches!(self.planner.target, Target::Gpu(_))
    }

    /// The adapter's name and whether it is hardware, when the GPU is used.
    pub fn adapter(&self) -> Option<String> {
        #[cfg(feature = "gpu")]
        {
            let adapter = self.gpu.as_ref()?.device.adapter();
            let kind = if adapter.kind == AdapterKind::Software {
                "software"
            } else {
                "hardware"
            };
            let name = if adapter.name.is_empty() {
                "unnamed"
            } else {
                &adapter.name
            };
            Some(format!("{name} ({}, {kind})", adapter.backend))
        }
        #[cfg(not(feature = "gpu"))]
        None
    }

    /// The GPU device, when one is in use.
    pub fn gpu_device(&self) -> Option<&Rc<GpuDevice>> {
        #[cfg(feature = "gpu")]
        return Some(&self.gpu.as_ref()?.device);
        #[cfg(not(feature = "gpu"))]
        None
    }

    /// Brings a tensor to the CPU.
    pub async fn fetch(&self, tensor: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "gpu")]
        if let Some(device) = self.gpu_device() {
            return device.fetch(tensor).await;
        }
        let message = format!("{tensor:?} is in the memory of a GPU that the session does not use");
        Err(Error::new(ErrorCode::InvalidArgument, message))
    }

    /// Brings a tensor to the GPU, where one is in use.
    pub fn store(&self, tensor: Tensor) -> Result<Tensor> {
        #[cfg(feature = "gpu")]
        if let Some(device) = self.gpu_device() {
            return device.store(&tensor);
        }
        Ok(tensor)
    }

    /// Copies the floats among the values at `consumed` that the CPU holds to the memory of the GPU, where one is in use, so
    /// that a cache which is fed from there comes like those that earlier runs left behind. Returns the copies.
    pub fn copy_consumed(&self, values: &mut [Value], consumed: &[usize]) -> Vec<Tensor> {
        let mut copies = Vec::new();
        if !ALL_OPERATORS || !self.uses_gpu() {
            return copies;
        }
        for &at in consumed {
            if let Value::Tensor(tensor) = &values[at]
                && tensor.dtype() == DType::F32
                && tensor.remote_id().is_none()
                && let Ok(copy) = self.store(tensor.clone())
            {
                copies.push(copy.clone());
                values[at] = copy.into();
            }
        }
        copies
    }

    /// Those of the positions `consumed` where a tensor lies in memory of the GPU that no other of the values has.
    pub fn free_to_change(&self, values: &[Value], consumed: &[usize]) -> Vec<usize> {
        #[cfg(feature = "gpu")]
        if let (true, Some(device)) = (ALL_OPERATORS, self.gpu_device()) {
            let shared = |tensor: &Tensor| {
                let tensors = values.iter().filter_map(Value::as_tensor);
                tensors.filter(|other| device.overlap(tensor, other)).count()
            };
            let is_free = |at: &usize| values[*at].as_tensor().is_some_and(|tensor| shared(tensor) == 1);
            return consumed.iter().copied().filter(is_free).collect();
        }
        let _ = (values, consumed);
        Vec::new()
    }

    /// Forgets a tensor in the memory of the GPU.
    pub fn free(&self, tensor: &Tensor) {
        #[cfg(feature = "gpu")]
        if let Some(device) = self.gpu_device() {
            device.free(tensor);
        }
        #[cfg(not(feature = "gpu"))]
        let _ = tensor;
    }

    /// Bytes of GPU memory that constants take.
    pub fn gpu_constant_bytes(&self) -> u64 {
        #[cfg(feature = "gpu")]
        return self.gpu.as_ref().map_or(0, |gpu| gpu.constants.borrow().bytes());
        #[cfg(not(feature = "gpu"))]
        0
    }

    /// Answers an error of the GPU so that the run may be tried again: a lost device by a new one, once, and then by the
    /// CPU; other errors by the CPU where the GPU was not asked for. Gives back what is not to be answered.
    pub async fn recover(&mut self, error: Error, device: Device, retried: &mut bool) -> Result<()> {
        let is_lost = error.code() == ErrorCode::DeviceLost;
        let of_the_gpu = matches!(error.code(), ErrorCode::Device | ErrorCode::OutOfMemory);
        if !self.uses_gpu() || !(is_lost || (of_the_gpu && device == Device::Auto)) {
            return Err(error);
        }
        self.planner.target = Target::Cpu;
        #[cfg(feature = "gpu")]
        {
            self.gpu = None;
        }
        let mut reason = error.message().to_string();
        if is_lost && !std::mem::replace(retried, true) {
            let warnings = self.warnings.len();
            match self.open_gpu(device).await {
                Ok(()) => self.warnings.truncate(warnings),
                Err(error) => reason = format!("{reason}; {}", error.message()),
            }
        }
        let on_new_device = self.uses_gpu();
        if !on_new_device {
            self.warnings.push(format!("running on the CPU: {reason}"));
        }
        if is_lost {
            self.events.borrow_mut().push(Event::DeviceLost {
                message: reason,
                on_new_device,
            });
        }
        Ok(())
    }

    /// Loses the device when a test wants it.
    #[cfg(all(test, feature = "gpu"))]
    pub fn may_lose_device(&self) {
        if self.loses_device_after.get() == Some(0) {
            self.gpu.as_ref().unwrap().device.destroy();
        }
        let left = self.loses_device_after.get();
        self.loses_device_after.set(left.and_then(|left| left.checked_sub(1)));
    }

    /// Frees packed weights and memory.
    pub fn release(&mut self) {
        self.planner.prepared = Prepared::default();
        self.arena = RefCell::default();
        #[cfg(feature = "gpu")]
        {
            self.gpu = None;
        }
    }

    /// Compiles the GPU's side of a segment; `None` when it has none.
    #[cfg(feature = "gpu")]
    pub async fn record(&self, program: &GpuProgram) -> Result<Option<Recorded>> {
        if program.steps.is_empty() {
            return Ok(None);
        }
        let gpu = self
            .gpu
            .as_ref()
            .ok_or_else(|| Error::internal("a segment wants a GPU that is not open"))?;
        let started = (self.clock)();
        // Taken out while waiting, so that no borrow is held across the wait.
        let mut constants = std::mem::take(&mut *gpu.constants.borrow_mut());
        let executor = GpuExecutor::prepare(Rc::clone(&gpu.device), program, &mut constants, &self.progress).await;
        *gpu.constants.borrow_mut() = constants;
        self.compile_ms.set(self.compile_ms.get() + (self.clock)() - started);
        Ok(Some(Recorded { executor: executor? }))
    }

    #[cfg(not(feature = "gpu"))]
    pub async fn record(&self, program: &GpuProgram) -> Result<Option<Recorded>> {
        if program.steps.is_empty() {
            return Ok(None);
        }
        Err(Error::internal("a segment wants a GPU that this build does not have"))
    }

    /// Bytes of GPU memory that a recorded program's values take.
    pub fn recorded_bytes(recorded: &Recorded) -> u64 {
        #[cfg(feature = "gpu")]
        return recorded.executor.planned_bytes();
        #[cfg(not(feature = "gpu"))]
        {
            let _ = recorded;
            0
        }
    }
}

/// Milliseconds by the system's clock; none in wasm, where the standard library has no clock.
pub(super) fn default_clock() -> f64 {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use std::{sync::OnceLock, time::Instant};
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_secs_f64() * 1e3
    }
    #[cfg(target_arch = "wasm32")]
    0.0
}

impl Recorded {
    /// Waits for everything that the GPU was given.
    pub async fn finish(&mut self) -> Result<()> {
        #[cfg(feature = "gpu")]
        self.executor.finish().await?;
        Ok(())
    }
}
