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

/// Pipelines that are being compiled, where the platform does so while other work goes on.
pub(super) struct Compiling {
    keys: Vec<PipelineKey>,
    parts: Vec<Parts>,
    /// A promise for each, which tells how it went and may be left alone when other work fails.
    #[cfg(target_arch = "wasm32")]
    begun: js_sys::Array,
}

impl Compiling {
    /// Begins to compile what the device lacks for these dispatches.
    pub(super) fn begin<'a>(
        device: &GpuDevice,
        dispatches: impl Iterator<Item = &'a Dispatch>,
        pending: &mut PendingErrors,
        progress: &Progress,
    ) -> Compiling {
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
        progress.tell(Stage::Compile, 0, parts.len());
        let keys = missing.iter().map(|dispatch| PipelineKey(dispatch.shader.clone()));
        Compiling {
            keys: keys.collect(),
            #[cfg(target_arch = "wasm32")]
            begun: begin(device, &parts),
            parts,
        }
    }

    /// Waits until they are there.
    pub(super) async fn finish(
        self,
        device: &GpuDevice,
        pending: &mut PendingErrors,
        progress: &Progress,
    ) -> Result<NewPipelines> {
        #[cfg(target_arch = "wasm32")]
        let pipelines = all_at_once(device, &self.parts, self.begun, pending, progress).await?;
        #[cfg(not(target_arch = "wasm32"))]
        let pipelines = device.scoped(pending, || all(device, &self.parts, progress));
        let made = self.keys.into_iter().zip(self.parts).zip(pipelines);
        let made = made.map(|((key, Parts { layout, .. }), pipeline)| (key, Rc::new(Pipeline { pipeline, layout })));
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

fn all(device: &GpuDevice, parts: &[Parts], progress: &Progress) -> Vec<wgpu::ComputePipeline> {
    let made = parts.iter().zip(1..).map(|(own, done)| {
        let pipeline = finish(&device.device, own);
        progress.tell(Stage::Compile, done, parts.len());
        pipeline
    });
    made.collect()
}

/// What wgpu gets for the pipelines of `parts` while the browser's device answers it by another function.
///
/// Browsers compile pipelines side by side, on other threads, when they are asked for asynchronously, which wgpu does not
/// do (gfx-rs/wgpu#3794). So the browser's device is made to answer wgpu twice: first it only begins to compile what it is
/// asked for, and once all is there it hands that out.
#[cfg(target_arch = "wasm32")]
fn answered_by(answer: &wasm_bindgen::JsValue, device: &GpuDevice, parts: &[Parts]) -> Vec<wgpu::ComputePipeline> {
    let raw = device.to_js();
    // Both can only fail on what is no object.
    let name = wasm_bindgen::JsValue::from("createComputePipeline");
    let _ = js_sys::Reflect::set(&raw, &name, answer);
    let made = all(device, parts, &Progress::default());
    let _ = js_sys::Reflect::delete_property(wasm_bindgen::JsCast::unchecked_ref::<js_sys::Object>(&raw), &name);
    made
}

/// Begins to compile.
#[cfg(target_arch = "wasm32")]
fn begin(device: &GpuDevice, parts: &[Parts]) -> js_sys::Array {
    use js_sys::{Array, Function, Object, Promise, Reflect};
    use wasm_bindgen::{JsCast, JsValue, closure::Closure};

    let begun = Array::new();
    let (promises, own) = (begun.clone(), device.to_js());
    let begin = Closure::<dyn Fn(JsValue) -> JsValue>::new(move |descriptor: JsValue| {
        let function = Reflect::get(&own, &"createComputePipelineAsync".into()).unwrap_or_default();
        let promise = function.unchecked_ref::<Function>().call1(&own, &descriptor);
        promises.push(&Promise::all_settled(&Array::of1(&promise.unwrap_or_default())));
        Object::new().into()
    });
    answered_by(begin.as_ref(), device, parts);
    begun
}

#[cfg(target_arch = "wasm32")]
async fn all_at_once(
    device: &GpuDevice,
    parts: &[Parts],
    begun: js_sys::Array,
    pending: &mut PendingErrors,
    progress: &Progress,
) -> Result<Vec<wgpu::ComputePipeline>> {
    use js_sys::{Array, Promise, Reflect};
    use wasm_bindgen::{JsCast, JsValue, closure::Closure};

    let of = |object: &JsValue, key: &str| Reflect::get(object, &key.into()).unwrap_or_default();
    let pipelines = Array::new();
    for done in 0..begun.length() {
        let settled = begun.get(done).unchecked_into::<Promise>();
        let settled = wasm_bindgen_futures::JsFuture::from(settled).await.unwrap_or_default();
        let outcome = settled.unchecked_into::<Array>().get(0);
        let reason = of(&outcome, "reason");
        if !reason.is_undefined() {
            // What is wrong with a text is told by the scope around it.
            device.settle(pending, "preparing the model").await?;
            let message = of(&reason, "message").as_string().unwrap_or_default();
            return Err(Error::new(
                ErrorCode::Device,
                format!("preparing the model failed on the GPU: {message}"),
            ));
        }
        pipelines.push(&of(&outcome, "value"));
        progress.tell(Stage::Compile, done as usize + 1, parts.len());
    }
    let hand_out = Closure::<dyn Fn() -> JsValue>::new(move || pipelines.shift());
    Ok(answered_by(hand_out.as_ref(), device, parts))
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
