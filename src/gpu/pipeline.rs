//! Compute pipelines, compiled once per device and WGSL text, and the bind group layouts that follow from a dispatch's
//! bindings.

use crate::tensor::map::HashMap;
use std::rc::Rc;

use super::device::{GpuDevice, PendingErrors};
use super::kernel::{Access, Dispatch, Shader};

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
    /// The pipeline of `dispatch`: cached, made before for this program, or compiled now.
    pub(super) fn get(&mut self, device: &GpuDevice, dispatch: &Dispatch, pending: &mut PendingErrors) -> Rc<Pipeline> {
        let key = PipelineKey(dispatch.shader.clone());
        if let Some(pipeline) = device
            .pipelines
            .borrow()
            .pipelines
            .get(&key)
            .or_else(|| self.0.get(&key))
        {
            return Rc::clone(pipeline);
        }
        let pipeline = Rc::new(device.scoped(pending, || compile(&device.device, dispatch)));
        self.0.insert(key, Rc::clone(&pipeline));
        pipeline
    }

    /// Keeps the pipelines for later programs of the device.
    pub(super) fn commit(self, device: &GpuDevice) {
        device.pipelines.borrow_mut().pipelines.extend(self.0);
    }
}

fn compile(device: &wgpu::Device, dispatch: &Dispatch) -> Pipeline {
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
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(dispatch.shader.entry_point),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    Pipeline { pipeline, layout }
}
