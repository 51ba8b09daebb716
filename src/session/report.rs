//! What a session tells about itself.

use std::rc::Rc;

use super::{
    runner::{Link, Runner},
    runtime::Runtime,
};
use crate::plan::NodePlacement;

/// What ran where, how long loading took, how much memory is held.
#[derive(Clone, Debug)]
pub struct Report {
    /// `cpu` or `webgpu`.
    pub device: &'static str,
    /// The GPU adapter, when the GPU is used.
    pub adapter: Option<String>,
    /// On how many threads CPU kernels run.
    pub threads: usize,
    /// Every node of the last run's program.
    pub nodes: Vec<NodePlacement>,
    /// How many nodes do the work of several of the model's.
    pub fused_groups: usize,
    /// Dispatches of one run.
    pub dispatches: usize,
    /// Times.
    pub timings: Timings,
    /// Memory.
    pub memory: Memory,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// How long each stage took so far, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Reading the file.
    pub parse_ms: f64,
    /// Rewriting the graph.
    pub optimize_ms: f64,
    /// Opening the device.
    pub device_ms: f64,
    /// Planning programs, without the packing of weights.
    pub plan_ms: f64,
    /// Bringing weights into the forms that kernels read.
    pub prepack_ms: f64,
    /// Compiling pipelines and uploading constants.
    pub compile_ms: f64,
    /// The first run, planning and everything else that it waited for included; 0 before it.
    pub first_run_ms: f64,
}

/// Memory that a session holds, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Constants of the optimized graph.
    pub weights_bytes: u64,
    /// The CPU arena.
    pub cpu_arena_bytes: u64,
    /// Buffers on the GPU.
    pub gpu_bytes: u64,
}

pub(super) fn make(runtime: &Runtime, runner: &Runner, timings: &Timings) -> Report {
    let mut links = Vec::new();
    collect(runner, &mut links);
    let nodes: Vec<NodePlacement> = links
        .iter()
        .flat_map(|link| link.segment().nodes.iter().cloned())
        .collect();
    let gpu_steps = links.iter().flat_map(|link| &link.segment().gpu.steps);
    let constants = runner
        .bound()
        .graph
        .values
        .iter()
        .filter_map(|value| value.constant.as_ref());
    Report {
        device: if runtime.uses_gpu() { "webgpu" } else { "cpu" },
        adapter: runtime.adapter(),
        threads: runtime.threads.count().min(runtime.threads.present()),
        fused_groups: nodes.iter().filter(|node| !node.fused.is_empty()).count(),
        dispatches: gpu_steps.map(|step| step.kernel.dispatches.len()).sum(),
        nodes,
        timings: Timings {
            plan_ms: runtime.plan_ms.get() - runtime.planner.prepared.millis(),
            prepack_ms: runtime.planner.prepared.millis(),
            compile_ms: runtime.compile_ms.get(),
            first_run_ms: runtime.first_run_ms.get().unwrap_or(0.0),
            ..*timings
        },
        memory: Memory {
            weights_bytes: constants.map(|tensor| tensor.byte_len() as u64).sum(),
            cpu_arena_bytes: runtime.arena.borrow().as_ref().len() as u64,
            gpu_bytes: runtime.gpu_constant_bytes() + links.iter().map(|link| link.gpu_bytes()).sum::<u64>(),
        },
        warnings: runtime.warnings.clone(),
    }
}

/// The last run's segments, those of loop bodies included.
fn collect(runner: &Runner, links: &mut Vec<Rc<Link>>) {
    for link in runner.last_chain() {
        for body in link.bodies() {
            collect(&body, links);
        }
        links.push(link);
    }
}
