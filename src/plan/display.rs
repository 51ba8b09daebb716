//! Segments as text: what runs where, in which memory.

use std::fmt;

use super::{Segment, SlotSource, Step, TailStep};
use crate::cpu::executor::{Operand, Place};

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "segment, arena of {} bytes", self.arena_bytes)?;
        for (index, slot) in self.slots.iter().enumerate() {
            match slot {
                SlotSource::Value(id) => writeln!(f, "  slot {index} = value {}", id.0)?,
                SlotSource::Constant(tensor) => writeln!(f, "  slot {index} = constant {tensor:?}")?,
                SlotSource::Buffer(len) => writeln!(f, "  slot {index} = {len} bytes")?,
            }
        }
        for (index, step) in self.steps.iter().enumerate() {
            write!(f, "  {index:4} ")?;
            match step {
                Step::Cpu(step) => {
                    let (inputs, outputs, scratch) = step.operands();
                    write!(f, "cpu {} {} -> {}", step.kernel_name(), list(inputs), list(outputs))?;
                    if scratch.len > 0 {
                        write!(f, ", scratch {}", text(&scratch))?;
                    }
                    writeln!(f, "  // {} {}", step.operator, step.label)?;
                }
                Step::Upload { from, to, .. } => writeln!(f, "upload {} -> %{}", text(from), to.0)?,
                Step::Gpu(range) => {
                    writeln!(f, "gpu")?;
                    for step in &self.gpu.steps[range.clone()] {
                        for dispatch in &step.kernel.dispatches {
                            let [x, y, z] = dispatch.workgroups;
                            writeln!(f, "         {} {x}x{y}x{z}  // {}", dispatch.shader.label, step.label)?;
                        }
                    }
                }
                Step::Download(pairs) => {
                    let pairs: Vec<String> = pairs
                        .iter()
                        .map(|(from, to)| format!("%{} -> {}", from.0, text(to)))
                        .collect();
                    writeln!(f, "download {}", pairs.join(", "))?;
                }
            }
        }
        for step in &self.tail {
            match step {
                TailStep::Values { node } => writeln!(f, "  then values of node {}", node.0)?,
                TailStep::Dynamic { node, kernel, .. } => writeln!(f, "  then {} of node {}", kernel.name, node.0)?,
                TailStep::Control { node, control } => writeln!(f, "  then {control:?} of node {}", node.0)?,
            }
        }
        for output in &self.outputs {
            let shape = crate::tensor::display_shape(&output.shape);
            writeln!(
                f,
                "  leaves value {} = slot {}: {}{shape}",
                output.value.0, output.slot, output.dtype
            )?;
        }
        Ok(())
    }
}

fn list(operands: &[Option<Operand>]) -> String {
    let texts: Vec<String> = operands
        .iter()
        .map(|operand| operand.as_ref().map_or_else(|| "_".into(), text))
        .collect();
    format!("({})", texts.join(", "))
}

fn text(operand: &Operand) -> String {
    match operand.place {
        Place::Arena(offset) => format!("{}@{offset}+{}", operand.dtype, operand.len),
        Place::Slot(slot) => format!("{}@slot{slot}", operand.dtype),
    }
}
