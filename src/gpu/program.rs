//! What the planner hands to the GPU: values with their lifetimes and steps with their kernels. It holds no device, so
//! it can be printed, and planned into buffers, anywhere.

use std::fmt;
use std::sync::Arc;

use super::kernel::{ConstantData, GpuKernel, GpuType};

/// A value of a [`GpuProgram`], by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GpuValueId(pub usize);

/// GPU values and the kernels over them, in execution order. Steps of the CPU may run between any two of its steps.
#[derive(Debug, Clone, Default)]
pub struct GpuProgram {
    pub values: Vec<GpuValue>,
    pub steps: Vec<GpuStep>,
}

/// A tensor that lives in GPU memory. Values that only reshape another one share its id; shapes are the kernels' own.
#[derive(Debug, Clone)]
pub struct GpuValue {
    pub ty: GpuType,
    pub elements: usize,
    pub storage: ValueStorage,
}

/// Where a value's bytes come from.
#[derive(Debug, Clone)]
pub enum ValueStorage {
    /// Written by an upload or a step. Both ends count positions of the whole program (CPU steps too): `first` is where
    /// the value is written, `last` where it is last read or downloaded. Buffers are shared between values whose
    /// ranges do not touch.
    Planned { first: usize, last: usize },
    /// The memory of a tensor that each run gives up (`GpuExecutor::take`), and that
    /// steps write.
    Given,
    /// Uploaded once per session.
    Constant(Arc<ConstantData>),
}

/// One kernel on its values.
#[derive(Debug, Clone)]
pub struct GpuStep {
    /// The node's name, for reports and errors.
    pub label: String,
    /// The node's index in the graph that the program was planned from.
    pub node: usize,
    /// Position in the whole program, on the same scale as [`ValueStorage::Planned`].
    pub position: usize,
    pub kernel: GpuKernel,
    /// The node's inputs by position; `None` where an optional input is absent.
    pub inputs: Vec<Option<GpuValueId>>,
    /// The node's outputs by position; `None` where an output is not wanted.
    pub outputs: Vec<Option<GpuValueId>>,
}

impl fmt::Display for GpuProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, value) in self.values.iter().enumerate() {
            write!(f, "%{id}: {}[{}]", value.ty.wgsl(), value.elements)?;
            match &value.storage {
                ValueStorage::Planned { first, last } => writeln!(f, " live {first}..={last}")?,
                ValueStorage::Given => writeln!(f, " given")?,
                ValueStorage::Constant(data) => writeln!(f, " constant {}:{}", data.key.source, data.key.layout)?,
            }
        }
        let list = |ids: &[Option<GpuValueId>]| {
            let names: Vec<String> = ids
                .iter()
                .map(|id| id.map_or("-".to_owned(), |id| format!("%{}", id.0)))
                .collect();
            names.join(", ")
        };
        for (index, step) in self.steps.iter().enumerate() {
            write!(
                f,
                "{index}: {} = {}({})",
                list(&step.outputs),
                step.label,
                list(&step.inputs)
            )?;
            for dispatch in &step.kernel.dispatches {
                write!(f, " {}{:?}", dispatch.shader.label, dispatch.workgroups)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
