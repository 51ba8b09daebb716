//! Compute pipelines, compiled once per device and WGSL text, and the bind group layouts that follow from a dispatch's
//! bindings.

use crate::tensor::map::HashMap;
use std::rc::Rc;

use super::device::{GpuDevice, PendingErrors};
use super::kernel::{Access, Dispatch, Shader};
use super::progress::{Progress, Stage};
#[cfg(target_arch = "wasm32")]
use crate::error::ErrorCode;
use crate::error::{Error, Result};

/// The pipelines of one device.
#[derive(Default)]
pub(super) struct PipelineCache {
    pipelines: HashMap<PipelineKey, Rc<Pipeline>>,
}

impl PipelineCache {
    pub(super) fn len(&self) -> usize {
        self.pipelines.len()
    }
}

/// A compiled shader and the layout of its bindings.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// Equal texts have equal declarations, so text and entry point name a pipeline.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PipelineKey(Shader);

/// Pipelines made for one program. They enter the device's cache only once the program's error scopes stayed empty, so
/// that a text that failed to compile fails again next time.
#[derive(Default)]
pub(super) struct NewPipelines(HashMap<PipelineKey, Rc<Pipeline>>);

/// Pipelines on their way.
pub(super) struct Compiling<'a> {
    missing: Vec<&'a Dispatch>,
    parts: Vec<Parts>,
    begun: Begun,
}

impl<'a> Compiling<'a> {
    /// Begins to compile what the device lacks for these dispatches, all at once where the platform does so.
    pub(super) fn begin(
        device: &GpuDevice,
        dispatches: impl Iterator<Item = &'a Dispatch>,
        pending: &mut PendingErrors,
        progress: &Progress,
    ) -> Compiling<'a> {
        let mut missing: Vec<&Dispatch> = Vec::new();
        for dispatch in dispatches {
            let key = PipelineKey(dispatch.shader.clone());
            let is_there = device.pipelines.borrow().pipelines.get(&key).is_some();
            if !is_there && missing.iter().all(|other| other.shader != dispatch.shader) {
                missing.push(dispatch);
            }
        }
        let parts: Vec<Parts> = device.scoped(pending, || {
            missing.iter().map(|dispatch| parts(&device.device, dispatch)).collect()
        });
        progress.tell(Stage::Compile, 0, parts.len() as u64);
        let begun = Begun::begin(device, &parts, progress);
        Compiling { missing, parts, begun }
    }

    /// Waits for them.
    pub(super) async fn finish(
        self,
        device: &GpuDevice,
        pending: &mut PendingErrors,
        progress: &Progress,
    ) -> Result<NewPipelines> {
        let pipelines = self.begun.finish(device, &self.parts, pending, progress).await?;
        let made = self.missing.iter().zip(self.parts).zip(pipelines);
        let made = made.map(|((dispatch, parts), pipeline)| {
            let layout = parts.layout;
            (
                PipelineKey(dispatch.shader.clone()),
                Rc::new(Pipeline { pipeline, layout }),
            )
        });
        Ok(NewPipelines(made.collect()))
    }
}

impl NewPipelines {
    /// The pipeline of a dispatch that was among those to compile.
    pub(super) fn get(&self, device: &GpuDevice, dispatch: &Dispatch) -> Result<Rc<Pipeline>> {
        let key = PipelineKey(dispatch.shader.clone());
        let cached = device.pipelines.borrow().pipelines.get(&key).cloned();
        let found = cached.or_else(|| self.0.get(&key).cloned());
        found.ok_or_else(|| Error::internal("a pipeline was not compiled"))
    }

    /// Keeps the pipelines for later programs of the device.
    pub(super) fn commit(self, device: &GpuDevice) {
        device.pipelines.borrow_mut().pipelines.extend(self.0);
    }
}

/// Natively pipelines are compiled when they are waited for.
#[cfg(not(target_arch = "wasm32"))]
struct Begun;

#[cfg(not(target_arch = "wasm32"))]
impl Begun {
    fn begin(_: &GpuDevice, _: &[Parts], _: &Progress) -> Begun {
        Begun
    }

    async fn finish(
        self,
        device: &GpuDevice,
        parts: &[Parts],
        pending: &mut PendingErrors,
        progress: &Progress,
    ) -> Result<Vec<wgpu::ComputePipeline>> {
        let total = parts.len() as u64;
        let made = parts.iter().zip(1..).map(|(parts, done)| {
            let pipeline = finish(&device.device, parts);
            progress.tell(Stage::Compile, done, total);
            pipeline
        });
        Ok(device.scoped(pending, || made.collect()))
    }
}

/// Browsers compile pipelines side by side, on other threads, when they are asked for asynchronously, which wgpu does not
/// do (gfx-rs/wgpu#3794). So the browser's device is made to answer wgpu twice: first it only begins to compile what it is
/// asked for, and once all is there it hands that out.
#[cfg(target_arch = "wasm32")]
struct Begun(js_sys::Promise);

#[cfg(target_arch = "wasm32")]
impl Begun {
    fn begin(device: &GpuDevice, parts: &[Parts], progress: &Progress) -> Begun {
        use js_sys::{Array, Function, Object, Promise, Reflect};
        use std::cell::Cell;
        use wasm_bindgen::{JsCast, JsValue, closure::Closure};

        let raw = device.to_js();
        let begun = Array::new();
        let (promises, own) = (begun.clone(), raw.clone());
        let (progress, done, total) = (progress.clone(), Cell::new(0), parts.len() as u64);
        let count = Closure::<dyn FnMut(JsValue)>::new(move |_| {
            done.set(done.get() + 1);
            progress.tell(Stage::Compile, done.get(), total);
        });
        let count = count.into_js_value();
        let begin = Closure::<dyn Fn(JsValue) -> JsValue>::new(move |descriptor: JsValue| {
            let function = Reflect::get(&own, &"createComputePipelineAsync".into()).unwrap_or_default();
            let promise = function.unchecked_ref::<Function>().call1(&own, &descriptor);
            let promise = promise.unwrap_or_default();
            // A refusal is told by the promise itself.
            let then = Reflect::get(&promise, &"then".into()).unwrap_or_default();
            if let Some(then) = then.dyn_ref::<Function>() {
                let _ = then.call2(&promise, &count, &count);
            }
            promises.push(&promise);
            Object::new().into()
        });
        let _: Vec<wgpu::ComputePipeline> = answered_by(device, parts, begin.as_ref());
        Begun(Promise::all(&begun))
    }

    async fn finish(
        self,
        device: &GpuDevice,
        parts: &[Parts],
        pending: &mut PendingErrors,
        _: &Progress,
    ) -> Result<Vec<wgpu::ComputePipeline>> {
        use js_sys::{Array, Reflect};
        use wasm_bindgen::{JsCast, JsValue, closure::Closure};

        if parts.is_empty() {
            return Ok(Vec::new());
        }
        match wasm_bindgen_futures::JsFuture::from(self.0).await {
            Ok(pipelines) => {
                let pipelines: Array = pipelines.unchecked_into();
                let hand_out = Closure::<dyn Fn() -> JsValue>::new(move || pipelines.shift());
                Ok(answered_by(device, parts, hand_out.as_ref()))
            }
            Err(refusal) => {
                // What is wrong with a text is told by the scope around it.
                device.settle(pending, "preparing the model").await?;
                let message = Reflect::get(&refusal, &"message".into()).unwrap_or_default();
                let message = message.as_string().unwrap_or_default();
                Err(Error::new(
                    ErrorCode::Device,
                    format!("preparing the model failed on the GPU: {message}"),
                ))
            }
        }
    }
}

/// Pipelines as wgpu has them when the browser's device answers with `answer` to each wish for one.
#[cfg(target_arch = "wasm32")]
fn answered_by(device: &GpuDevice, parts: &[Parts], answer: &wasm_bindgen::JsValue) -> Vec<wgpu::ComputePipeline> {
    use js_sys::{Object, Reflect};
    use wasm_bindgen::JsCast;

    let raw = device.to_js();
    // Both can only fail on what is no object.
    let name = wasm_bindgen::JsValue::from("createComputePipeline");
    let _ = Reflect::set(&raw, &name, answer);
    let made = parts.iter().map(|parts| finish(&device.device, parts)).collect();
    let _ = Reflect::delete_property(raw.unchecked_ref::<Object>(), &name);
    made
}

/// What a pipeline is made of.
struct Parts {
    label: &'static str,
    entry_point: &'static str,
    module: wgpu::ShaderModule,
    layout: wgpu::BindGroupLayout,
    pipeline_layout: wgpu::PipelineLayout,
}

fn finish(device: &wgpu::Device, parts: &Parts) -> wgpu::ComputePipeline {
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(parts.label),
        layout: Some(&parts.pipeline_layout),
        module: &parts.module,
        entry_point: Some(parts.entry_point),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    })
}

fn parts(device: &wgpu::Device, dispatch: &Dispatch) -> Parts {
    let label = Some(dispatch.shader.label);
    let text: &str = &dispatch.shader.wgsl;
    #[cfg(all(test, not(target_arch = "wasm32")))]
    let text: &str = &super::testing::tampered(text);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label,
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let uniform = (!dispatch.params.is_empty()).then_some(wgpu::BindingType::Buffer {
        ty: wgpu::BufferBindingType::Uniform,
        has_dynamic_offset: true,
        min_binding_size: None,
    });
    let storage = dispatch.bindings.iter().map(|binding| wgpu::BindingType::Buffer {
        ty: wgpu::BufferBindingType::Storage {
            read_only: binding.access() == Access::Read,
        },
        has_dynamic_offset: false,
        min_binding_size: None,
    });
    let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty,
        count: None,
    };
    let entries: Vec<_> = uniform
        .map(|ty| entry(0, ty))
        .into_iter()
        .chain((1..).zip(storage).map(|(binding, ty)| entry(binding, ty)))
        .collect();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label,
        entries: &entries,
    });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    Parts {
        label: dispatch.shader.label,
        entry_point: dispatch.shader.entry_point,
        module,
        layout,
        pipeline_layout,
    }
}
