//! The wgpu device: adapter choice, capabilities, device loss, and error scopes that turn wgpu's errors into typed
//! ones. A device belongs to the thread that made it and is shared by that thread's sessions.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};

use super::kernel::{AdapterKind, GpuCaps};
use super::pipeline::PipelineCache;
use crate::error::{Error, ErrorCode, Result};
use crate::tensor::map::HashMap;

thread_local! {
    static SHARED: RefCell<Weak<GpuDevice>> = const { RefCell::new(Weak::new()) };
}

/// A device with its queue, capabilities and compiled pipelines.
pub struct GpuDevice {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) pipelines: RefCell<PipelineCache>,
    /// Tensors in the device's memory, by their numbers.
    pub(super) remote: RefCell<HashMap<u64, wgpu::Buffer>>,
    caps: GpuCaps,
    adapter: AdapterDescription,
    failure: Arc<Mutex<Option<Failure>>>,
}

/// What is known about the adapter behind a device, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterDescription {
    /// The adapter's name; browsers may leave it empty.
    pub name: String,
    pub kind: AdapterKind,
    /// `vulkan`, `webgpu`, …
    pub backend: &'static str,
}

/// The first failure that reached the device outside an error scope. Once set, every call answers with it.
#[derive(Debug, Clone)]
struct Failure {
    code: ErrorCode,
    message: String,
}

/// Errors that open error scopes will report later, in order.
pub(super) type PendingErrors = Vec<Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>>;

impl GpuDevice {
    /// The device that this thread's sessions share, made on first use and again after a loss.
    ///
    /// Fails with `device` when there is no WebGPU (or Vulkan) adapter.
    pub async fn shared() -> Result<Rc<GpuDevice>> {
        let existing = SHARED.with(|shared| shared.borrow().upgrade());
        if let Some(device) = existing
            && device.check().is_ok()
        {
            return Ok(device);
        }
        let device = Rc::new(GpuDevice::request().await?);
        SHARED.with(|shared| *shared.borrow_mut() = Rc::downgrade(&device));
        Ok(device)
    }

    async fn request() -> Result<GpuDevice> {
        if !gpu_is_reachable() {
            return Err(Error::new(ErrorCode::Device, "this environment has no WebGPU"));
        }
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..wgpu::RequestAdapterOptions::default()
        };
        let adapter = instance
            .request_adapter(&options)
            .await
            .map_err(|error| Error::new(ErrorCode::Device, format!("no GPU adapter is available: {error}")))?;
        let info = adapter.get_info();
        // Asking for exactly what the adapter has cannot be refused, and large weights need its largest bindings.
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("modelet"),
            required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
            required_limits: adapter.limits(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|error| {
            Error::new(
                ErrorCode::Device,
                format!("the GPU device could not be opened: {error}"),
            )
        })?;

        let failure = Arc::new(Mutex::new(None));
        let on_lost = Arc::clone(&failure);
        device.set_device_lost_callback(move |reason, message| {
            let message = format!("the GPU device was lost ({reason:?}): {message}");
            record(
                &on_lost,
                Failure {
                    code: ErrorCode::DeviceLost,
                    message,
                },
            );
        });
        let on_error = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            record(
                &on_error,
                Failure {
                    code: code_of(&error),
                    message: format!("the GPU reported: {error}"),
                },
            );
        }));

        #[cfg_attr(not(target_arch = "wasm32"), allow(unused_mut))]
        let mut adapter = AdapterDescription {
            name: info.name.clone(),
            kind: kind_of(&info.name, info.device_type),
            backend: info.backend.to_str(),
        };
        #[cfg(target_arch = "wasm32")]
        describe_by_browser(&device, &mut adapter);
        let caps = caps_of(&device, adapter.kind);
        Ok(GpuDevice {
            device,
            queue,
            pipelines: RefCell::default(),
            remote: RefCell::default(),
            caps,
            adapter,
            failure,
        })
    }

    /// Limits and traits by which kernel builders choose variants.
    pub fn caps(&self) -> &GpuCaps {
        &self.caps
    }

    /// The adapter behind the device.
    pub fn adapter(&self) -> &AdapterDescription {
        &self.adapter
    }

    /// How many pipelines are compiled.
    pub fn pipeline_count(&self) -> usize {
        self.pipelines.borrow().len()
    }

    /// Fails with `device-lost` once the device was lost, and with `device` after an error that no scope caught.
    pub fn check(&self) -> Result<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(failure) => Err(Error::new(failure.code, failure.message.clone())),
        }
    }

    /// Destroys the device, after which [`GpuDevice::check`] fails with `device-lost`.
    pub fn destroy(&self) {
        self.device.destroy();
        // Natively the callback waits for a poll that a destroyed device may never get.
        let message = "the GPU device was destroyed".to_owned();
        record(
            &self.failure,
            Failure {
                code: ErrorCode::DeviceLost,
                message,
            },
        );
    }

    /// Runs `work` inside error scopes. The errors they catch are appended to `pending`, to be awaited with
    /// [`GpuDevice::settle`] when the caller waits anyway.
    pub(super) fn scoped<T>(&self, pending: &mut PendingErrors, work: impl FnOnce() -> T) -> T {
        let scopes = self.open_scopes();
        let result = work();
        close_scopes(scopes, pending);
        result
    }

    #[inline(never)]
    fn open_scopes(&self) -> [wgpu::ErrorScopeGuard; 3] {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        [Internal, Validation, OutOfMemory].map(|filter| self.device.push_error_scope(filter))
    }

    /// Waits for the outcome of error scopes; the first error wins.
    pub(super) async fn settle(&self, pending: &mut PendingErrors, doing: &str) -> Result<()> {
        let mut first = None;
        for scope in pending.drain(..) {
            first = first.or(scope.await);
        }
        self.check()?;
        match first {
            None => Ok(()),
            Some(error) => Err(Error::new(
                code_of(&error),
                format!("{doing} failed on the GPU: {error}"),
            )),
        }
    }
}

impl std::fmt::Debug for GpuDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuDevice")
            .field("adapter", &self.adapter)
            .finish_non_exhaustive()
    }
}

/// The innermost comes last.
#[inline(never)]
fn close_scopes(scopes: [wgpu::ErrorScopeGuard; 3], pending: &mut PendingErrors) {
    for scope in scopes.into_iter().rev() {
        pending.push(Box::pin(scope.pop()));
    }
}

/// Keeps the first failure; a loss replaces what came before it, since nothing works after one.
fn record(slot: &Mutex<Option<Failure>>, failure: Failure) {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() || failure.code == ErrorCode::DeviceLost {
        *slot = Some(failure);
    }
}

fn code_of(error: &wgpu::Error) -> ErrorCode {
    match error {
        wgpu::Error::OutOfMemory { .. } => ErrorCode::OutOfMemory,
        wgpu::Error::Validation { .. } | wgpu::Error::Internal { .. } => ErrorCode::Device,
    }
}

/// Software adapters call themselves a CPU, or are known by name where the platform does not say.
fn kind_of(name: &str, ty: wgpu::DeviceType) -> AdapterKind {
    let name = name.to_ascii_lowercase();
    let known = [
        "swiftshader",
        "llvmpipe",
        "lavapipe",
        "softpipe",
        "software",
        "basic render",
        "warp",
    ];
    if ty == wgpu::DeviceType::Cpu || known.iter().any(|known| name.contains(known)) {
        AdapterKind::Software
    } else {
        AdapterKind::Hardware
    }
}

/// What the browser says of the adapter beyond its description, which few browsers give. wgpu leaves it out
/// (gfx-rs/wgpu#8819).
#[cfg(target_arch = "wasm32")]
fn describe_by_browser(device: &wgpu::Device, adapter: &mut AdapterDescription) {
    let get = |object: &wasm_bindgen::JsValue, key: &str| js_sys::Reflect::get(object, &key.into()).unwrap_or_default();
    let Some(info) = device
        .as_webgpu()
        .map(|device| get(device, "adapterInfo"))
        .filter(|info| info.is_object())
    else {
        return;
    };
    if adapter.name.is_empty() {
        let parts = ["vendor", "architecture", "device"].map(|key| get(&info, key).as_string().unwrap_or_default());
        adapter.name = parts.join(" ").trim().to_owned();
    }
    if kind_of(&adapter.name, wgpu::DeviceType::Other) == AdapterKind::Software {
        adapter.kind = AdapterKind::Software;
    }
}

fn caps_of(device: &wgpu::Device, kind: AdapterKind) -> GpuCaps {
    let limits = device.limits();
    let features = device.features();
    GpuCaps {
        kind,
        max_workgroup_size: [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ],
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_shared_bytes: limits.max_compute_workgroup_storage_size,
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
        max_buffer_size: limits.max_buffer_size,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        min_uniform_offset_alignment: limits.min_uniform_buffer_offset_alignment.max(16),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        f16: features.contains(wgpu::Features::SHADER_F16),
        packed_dot: has_packed_dot(),
    }
}

/// Whether shaders may use packed dot products: what the browser says. wgpu asks without expecting that a browser may have
/// no such list.
#[cfg(target_arch = "wasm32")]
fn has_packed_dot() -> bool {
    use js_sys::{Function, Reflect};
    let get = |object: &wasm_bindgen::JsValue, key: &str| Reflect::get(object, &key.into()).unwrap_or_default();
    let gpu = get(&get(&js_sys::global(), "navigator"), "gpu");
    let features = get(&gpu, "wgslLanguageFeatures");
    Function::from(get(&features, "has"))
        .call1(&features, &"packed_4x8_integer_dot_product".into())
        .is_ok_and(|answer| answer.is_truthy())
}

/// Whether shaders may use packed dot products: naga writes them for every device.
#[cfg(not(target_arch = "wasm32"))]
fn has_packed_dot() -> bool {
    true
}

/// Whether asking for an adapter can work at all. wgpu panics where the global object is neither a window nor a
/// worker, so that is found out first.
#[cfg(target_arch = "wasm32")]
fn gpu_is_reachable() -> bool {
    use wasm_bindgen::JsValue;
    let global = js_sys::global();
    let get = |object: &JsValue, name: &str| js_sys::Reflect::get(object, &JsValue::from_str(name)).ok();
    let has_scope = ["Window", "WorkerGlobalScope"]
        .iter()
        .any(|name| get(&global, name).is_some_and(|value| !value.is_undefined()));
    let gpu = get(&global, "navigator")
        .filter(|navigator| navigator.is_object())
        .and_then(|n| get(&n, "gpu"));
    has_scope && gpu.is_some_and(|gpu| gpu.is_object())
}

#[cfg(not(target_arch = "wasm32"))]
fn gpu_is_reachable() -> bool {
    true
}
