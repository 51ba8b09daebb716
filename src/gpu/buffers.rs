//! Which planned values share a GPU buffer. A dispatch may not read and write one buffer, so memory is a set of buffers
//! and a value holds its buffer from the position that writes it to the last one that reads it, both included.

use super::kernel::GpuType;
use super::program::{GpuProgram, ValueStorage};
use crate::tensor::sorted_positions;

/// Buffers that hold all planned values and scratch memory of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferPlan {
    /// Sizes in bytes, multiples of 16, none zero.
    pub buffers: Vec<u64>,
    /// The buffer of each value; `None` for constants.
    pub values: Vec<Option<usize>>,
    /// The buffers of each step's scratch memory.
    pub scratch: Vec<Vec<usize>>,
}

/// A value's size in its buffer: four bytes per element, rounded up so that a shader may read whole vectors, and never
/// zero, since WebGPU has no empty bindings.
pub fn value_bytes(elements: usize) -> u64 {
    padded((elements as u64).saturating_mul(GpuType::SIZE))
}

fn padded(bytes: u64) -> u64 {
    bytes.max(16).div_ceil(16).saturating_mul(16)
}

impl BufferPlan {
    /// Plans greedily from the largest value down: each takes the smallest buffer that is free for its whole life.
    pub fn new(program: &GpuProgram) -> BufferPlan {
        #[derive(Clone, Copy)]
        enum Owner {
            Value(usize),
            Scratch(usize, usize),
        }
        let mut wanted = Vec::new();
        for (id, value) in program.values.iter().enumerate() {
            if let ValueStorage::Planned { first, last } = value.storage {
                wanted.push((value_bytes(value.elements), first, last.max(first), Owner::Value(id)));
            }
        }
        for (index, step) in program.steps.iter().enumerate() {
            for (slot, &bytes) in step.kernel.scratch.iter().enumerate() {
                wanted.push((padded(bytes), step.position, step.position, Owner::Scratch(index, slot)));
            }
        }
        // Equal programs get equal plans: what is equal stays in its order.
        let order = sorted_positions(wanted.len(), &|a, b| {
            wanted[b].0.cmp(&wanted[a].0).then(wanted[a].1.cmp(&wanted[b].1))
        });

        let mut plan = BufferPlan {
            buffers: Vec::new(),
            values: vec![None; program.values.len()],
            scratch: program
                .steps
                .iter()
                .map(|step| vec![0; step.kernel.scratch.len()])
                .collect(),
        };
        let mut lives: Vec<Vec<(usize, usize)>> = Vec::new();
        for (bytes, first, last, owner) in order.into_iter().map(|position| wanted[position]) {
            let is_free = |life: &[(usize, usize)]| life.iter().all(|&(from, to)| last < from || to < first);
            // Sizes only fall, so every buffer is large enough and the latest free one wastes least.
            let index = match lives.iter().rposition(|life| is_free(life)) {
                Some(index) => index,
                None => {
                    plan.buffers.push(bytes);
                    lives.push(Vec::new());
                    lives.len() - 1
                }
            };
            lives[index].push((first, last));
            match owner {
                Owner::Value(id) => plan.values[id] = Some(index),
                Owner::Scratch(step, slot) => plan.scratch[step][slot] = index,
            }
        }
        plan
    }

    /// Bytes of all buffers together.
    pub fn total_bytes(&self) -> u64 {
        self.buffers.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::GpuKernel;
    use super::super::program::{GpuStep, GpuValue, GpuValueId};
    use super::*;

    fn value(elements: usize, first: usize, last: usize) -> GpuValue {
        GpuValue {
            ty: GpuType::F32,
            elements,
            storage: ValueStorage::Planned { first, last },
        }
    }

    #[test]
    fn a_chain_needs_two_buffers_and_never_reads_and_writes_one() {
        let values = (0..10).map(|i| value(100, i, i + 1)).collect();
        let plan = BufferPlan::new(&GpuProgram {
            values,
            steps: Vec::new(),
        });
        assert_eq!(plan.buffers.len(), 2);
        for pair in plan.values.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
    }

    #[test]
    fn scratch_is_apart_from_everything_live_at_its_step() {
        let kernel = GpuKernel {
            dispatches: Vec::new(),
            scratch: vec![64, 0],
            ..GpuKernel::default()
        };
        let step = GpuStep {
            label: "n".into(),
            node: 0,
            position: 1,
            kernel,
            inputs: vec![Some(GpuValueId(0))],
            outputs: vec![Some(GpuValueId(1))],
        };
        let values = vec![value(4, 0, 1), value(4, 1, 2), value(4, 2, 3), value(0, 3, 3)];
        let plan = BufferPlan::new(&GpuProgram {
            values,
            steps: vec![step],
        });
        let mut at_step: Vec<usize> = plan.values[..2]
            .iter()
            .flatten()
            .copied()
            .chain(plan.scratch[0].clone())
            .collect();
        at_step.sort_unstable();
        at_step.dedup();
        assert_eq!(at_step.len(), 4);
        assert!(plan.buffers.iter().all(|&bytes| bytes >= 16 && bytes % 16 == 0));
    }

    #[test]
    fn random_lives_never_overlap_in_one_buffer() {
        let mut state = 7u64;
        let mut next = |bound: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % bound
        };
        for _ in 0..50 {
            let values: Vec<GpuValue> = (0..40)
                .map(|_| {
                    let first = next(30) as usize;
                    value(next(1000) as usize, first, first + next(6) as usize)
                })
                .collect();
            let program = GpuProgram {
                values,
                steps: Vec::new(),
            };
            let plan = BufferPlan::new(&program);
            for (i, a) in program.values.iter().enumerate() {
                assert!(plan.buffers[plan.values[i].unwrap()] >= value_bytes(a.elements));
                for (j, b) in program.values.iter().enumerate().skip(i + 1) {
                    let (ValueStorage::Planned { first: f0, last: l0 }, ValueStorage::Planned { first: f1, last: l1 }) =
                        (&a.storage, &b.storage)
                    else {
                        continue;
                    };
                    if f0 <= l1 && f1 <= l0 {
                        assert_ne!(plan.values[i], plan.values[j], "values {i} and {j} are live together");
                    }
                }
            }
        }
    }
}
