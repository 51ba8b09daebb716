//! Planning: a graph and concrete input shapes become a program, segment by segment. A segment is everything that can be
//! planned before something is run whose result decides a shape; most models have one. Within a segment nodes are
//! placed on the CPU or the GPU, lowered to kernels, and given memory.

mod build;
mod display;
mod memory;
mod parts;
mod place;
mod select;

pub use select::{InputType, PlanState};

use std::{cell::RefCell, ops::Range};

use crate::{
    cpu::{
        executor::{CpuStep, Operand},
        kernel::DynamicKernel,
    },
    error::Result,
    gpu::{
        kernel::{Check, GpuCaps},
        program::{GpuProgram, GpuValueId},
    },
    graph::{NodeId, ValueId},
    ops::{Control, Prepared},
    tensor::{DType, Tensor, map::HashMap},
};

/// What programs are planned for.
#[derive(Clone, Debug)]
pub enum Target {
    /// The CPU alone.
    Cpu,
    /// A GPU with these traits, and the CPU for what the GPU does not do.
    Gpu(GpuCaps),
}

/// How freely programs use memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// Weights are also kept in the forms that kernels read fastest.
    #[default]
    Fast,
    /// Large weights are kept once, and brought into those forms piece by piece in every run.
    Low,
}

/// Which nodes with a GPU kernel run on the GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Those for which moving their data pays.
    #[default]
    Worthwhile,
    /// All, however small: what tests ask for.
    Everything,
}

/// What every plan of a session shares.
pub struct Planner {
    /// Where programs run.
    pub target: Target,
    /// How freely they use memory.
    pub memory: Memory,
    /// What goes to the GPU.
    pub offload: Offload,
    /// Constants in kernels' own layouts.
    pub prepared: Prepared,
    /// On how many threads CPU kernels run at most.
    pub threads: usize,
    /// Nodes that stay off the GPU, by name, each with the reason.
    pub demoted: RefCell<HashMap<String, String>>,
}

/// One planned part of a program.
pub struct Segment {
    /// What each slot holds when the segment starts.
    pub slots: Vec<SlotSource>,
    /// Bytes of arena the steps need.
    pub arena_bytes: usize,
    /// The work, in order.
    pub steps: Vec<Step>,
    /// The GPU's share of it.
    pub gpu: GpuProgram,
    /// What the segment leaves behind.
    pub outputs: Vec<SegmentOutput>,
    /// What runs after the steps and makes tensors of its own.
    pub tail: Vec<TailStep>,
    /// Where each node ran, and why.
    pub nodes: Vec<NodePlacement>,
}

/// The first content of a slot.
#[derive(Clone, Debug)]
pub enum SlotSource {
    /// A value that was fed or that an earlier segment left behind.
    Value(ValueId),
    /// A constant, aligned.
    Constant(Tensor),
    /// A zeroed buffer of this many bytes.
    Buffer(usize),
}

/// One step of a segment.
pub enum Step {
    /// A CPU kernel.
    Cpu(CpuStep),
    /// Host memory to the GPU.
    Upload {
        /// Where the bytes are.
        from: Operand,
        /// Where they go.
        to: GpuValueId,
        /// What is required of its elements.
        checks: Vec<Check>,
    },
    /// Steps of the GPU program.
    Gpu(Range<usize>),
    /// GPU values to host memory, waiting for them.
    Download(Vec<(GpuValueId, Operand)>),
}

/// A value that outlives its segment.
#[derive(Clone, Debug)]
pub struct SegmentOutput {
    /// The value.
    pub value: ValueId,
    /// The slot with its bytes.
    pub slot: usize,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Work on whole tensors, whose results decide shapes.
pub enum TailStep {
    /// A kernel that makes its own outputs.
    Dynamic {
        /// The node, in the state's graph.
        node: NodeId,
        /// The kernel.
        kernel: DynamicKernel,
        /// The node's inputs.
        inputs: Vec<Option<ValueId>>,
        /// The node's outputs.
        outputs: Vec<Option<ValueId>>,
    },
    /// An operator on values that are not tensors.
    Values {
        /// The node, in the state's graph.
        node: NodeId,
    },
    /// A loop or scan over a subgraph.
    Control {
        /// The node, in the state's graph.
        node: NodeId,
        /// Which.
        control: Control,
    },
}

/// Where a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlacement {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Where.
    pub place: Placement,
    /// The kernel's name.
    pub kernel: String,
    /// Why it is not on the GPU, when it could have been asked for.
    pub reason: Option<String>,
    /// Names of the model's nodes that it also does the work of.
    pub fused: Vec<String>,
    /// Whether it is worth moving data to the GPU for (matrix products, convolutions).
    pub heavy: bool,
}

/// The kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A CPU kernel.
    Cpu,
    /// A GPU kernel.
    Gpu,
    /// Nothing runs: a view, or a value known at plan time.
    Folded,
}

/// A planned segment with what is left to plan after it.
pub struct Planned {
    /// The segment.
    pub segment: Segment,
    /// What is known and left to do after it.
    pub state: PlanState,
}

impl Planner {
    /// Plans the next segment of `state`.
    pub fn plan(&self, mut state: PlanState) -> Result<Planned> {
        let selection = state.select()?;
        let segment = build::build(self, &state, selection)?;
        Ok(Planned { segment, state })
    }
}
