//! Compute pipelines, compiled once per device and WGSL text, and the bind group layouts that follow from a dispatch's
//! bindings.

use crate::tensor::map::HashMap;
use std::rc::Rc;

use super::device::{GpuDevice, PendingErrors};
use super::kernel::{Access, Dispatch, Shader};
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

impl NewPipelines {
    /// Compiles what the device lacks for these dispatches, all at once where the platform does so.
    pub(super) async fn compile<'a>(
        device: &GpuDevice,
        dispatches: impl Iterator<Item = &'a Dispatch>,
        pending: &mut PendingErrors,
    ) -> Result<NewPipelines> {
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
        let pipelines = all_at_once(device, &parts, pending).await?;
        let made = missing
            .iter()
            .zip(parts)
            .zip(pipelines)
            .map(|((dispatch, parts), pipeline)| {
                let layout = parts.layout;
                (
                    PipelineKey(dispatch.shader.clone()),
                    Rc::new(Pipeline { pipeline, layout }),
                )
            });
        Ok(NewPipelines(made.collect()))
    }

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

#[cfg(not(target_arch = "wasm32"))]
async fn all_at_once(
    device: &GpuDevice,
    parts: &[Parts],
    pending: &mut PendingErrors,
) -> Result<Vec<wgpu::ComputePipeline>> {
    Ok(device.scoped(pending, || {
        parts.iter().map(|parts| finish(&device.device, parts)).collect()
    }))
}

/// Browsers compile pipelines side by side, on other threads, when they are asked for asynchronously, which wgpu does not
/// do (gfx-rs/wgpu#3794). So the browser's device is made to answer wgpu twice: first it only begins to compile what it is
/// asked for, and once all is there it hands that out.
#[cfg(target_arch = "wasm32")]
async fn all_at_once(
    device: &GpuDevice,
    parts: &[Parts],
    pending: &mut PendingErrors,
) -> Result<Vec<wgpu::ComputePipeline>> {
    use js_sys::{Array, Function, Object, Promise, Reflect};
    use wasm_bindgen::{JsCast, JsValue, closure::Closure};

    let raw = device.to_js();
    let answered_by = |answer: &JsValue| {
        // Both can only fail on what is no object.
        let name = JsValue::from("createComputePipeline");
        let _ = Reflect::set(&raw, &name, answer);
        let made = parts.iter().map(|parts| finish(&device.device, parts)).collect();
        let _ = Reflect::delete_property(raw.unchecked_ref::<Object>(), &name);
        made
    };
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let begun = Array::new();
    let (promises, own) = (begun.clone(), raw.clone());
    let begin = Closure::<dyn Fn(JsValue) -> JsValue>::new(move |descriptor: JsValue| {
        let function = Reflect::get(&own, &"createComputePipelineAsync".into()).unwrap_or_default();
        let promise = function.unchecked_ref::<Function>().call1(&own, &descriptor);
        promises.push(&promise.unwrap_or_default());
        Object::new().into()
    });
    let _: Vec<wgpu::ComputePipeline> = answered_by(begin.as_ref());
    match wasm_bindgen_futures::JsFuture::from(Promise::all(&begun)).await {
        Ok(pipelines) => {
            let pipelines: Array = pipelines.unchecked_into();
            let hand_out = Closure::<dyn Fn() -> JsValue>::new(move || pipelines.shift());
            Ok(answered_by(hand_out.as_ref()))
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
