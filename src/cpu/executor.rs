//! Runs CPU steps: kernels bound to places in an arena and in slots. All memory of a step is planned beforehand and
//! checked for overlap when the step is made, so that a run only resolves offsets to pointers.

use super::{
    kernel::{ComputeKernel, CpuKernel, InputBytes, KernelInputs, KernelIo, KernelOutputs, OutputBytes},
    threads::Threads,
};
use crate::{
    error::{Error, ErrorCode, Result},
    tensor::{AlignedBytes, DType, Tensor, element_count},
};

/// Where a value's bytes are while a segment runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the arena, from this offset on (a multiple of 16).
    Arena(usize),
    /// In a slot of its own: a feed, a constant, or a buffer that outlives the segment.
    Slot(usize),
}

/// One value as a step sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The element type.
    pub dtype: DType,
    /// Number of bytes.
    pub len: usize,
    /// Where the bytes are.
    pub place: Place,
}

/// What a slot holds while a segment runs.
#[derive(Debug, Default)]
pub enum Slot {
    /// Nothing yet.
    #[default]
    Empty,
    /// Bytes to read, aligned for their element type.
    Tensor(Tensor),
    /// Bytes being written.
    Buffer(AlignedBytes),
}

/// A kernel with its operands.
pub struct CpuStep {
    /// The node's name, for errors and profiles.
    pub label: String,
    /// The operator, for errors.
    pub operator: String,
    /// The node's position in its graph, for profiles.
    pub node: usize,
    /// Bytes read at plan time in place of inputs (packed weights), for profiles.
    pub prepared_bytes: u64,
    kernel: ComputeKernel,
    inputs: Vec<Option<Operand>>,
    outputs: Vec<Option<Operand>>,
    scratch: Operand,
}

/// The memory that steps run in.
pub struct Frame<'a> {
    /// Memory of values that live within a segment.
    pub arena: &'a mut AlignedBytes,
    /// Memory of values that come from outside or go there.
    pub slots: &'a mut [Slot],
    /// The threads that kernels may use.
    pub threads: &'a Threads,
}

impl CpuStep {
    /// Binds a kernel to its operands. An error when an output shares memory with another operand.
    pub fn new(
        label: String,
        operator: String,
        kernel: ComputeKernel,
        inputs: Vec<Option<Operand>>,
        outputs: Vec<Option<Operand>>,
        scratch_offset: usize,
    ) -> Result<CpuStep> {
        let scratch = Operand {
            dtype: DType::U8,
            len: kernel.scratch_bytes,
            place: Place::Arena(scratch_offset),
        };
        let written: Vec<Operand> = outputs.iter().flatten().copied().chain([scratch]).collect();
        for (index, output) in written.iter().enumerate() {
            let others = inputs.iter().flatten().chain(&written[..index]);
            if others.into_iter().any(|other| overlap(output, other)) {
                return Err(Error::internal("a step's operands share memory").at_node(label));
            }
        }
        Ok(CpuStep {
            label,
            operator,
            node: 0,
            prepared_bytes: 0,
            kernel,
            inputs,
            outputs,
            scratch,
        })
    }

    /// The kernel's name.
    pub fn kernel_name(&self) -> &'static str {
        self.kernel.name
    }

    /// Bytes of arena that this step reaches up to.
    pub fn arena_end(&self) -> usize {
        let operands = self.inputs.iter().chain(&self.outputs).flatten().chain([&self.scratch]);
        let ends = operands.map(|operand| match operand.place {
            Place::Arena(offset) => offset + operand.len,
            Place::Slot(_) => 0,
        });
        ends.max().unwrap_or(0)
    }

    /// Bytes that the kernel reads and writes, each operand once.
    pub fn bytes(&self) -> u64 {
        let operands = self.inputs.iter().chain(&self.outputs).flatten();
        operands.map(|operand| operand.len as u64).sum::<u64>() + self.prepared_bytes
    }

    /// The operands the step reads, writes, and its scratch memory, for display.
    pub fn operands(&self) -> (&[Option<Operand>], &[Option<Operand>], Operand) {
        (&self.inputs, &self.outputs, self.scratch)
    }

    /// Runs the kernel.
    pub fn run(&self, frame: &mut Frame<'_>) -> Result<()> {
        let place_error = |error: Error| error.at_node(self.label.clone()).at_operator(self.operator.clone());
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for operand in &self.inputs {
            inputs.push(match operand {
                Some(operand) => {
                    let pointer = frame.pointer(operand, Access::Read).map_err(place_error)?;
                    // SAFETY: `pointer` is good for `len` bytes; nothing writes them during this call, for `new`
                    // checked that no output and no scratch overlaps an input.
                    let bytes = unsafe { std::slice::from_raw_parts(pointer, operand.len) };
                    Some(InputBytes {
                        dtype: operand.dtype,
                        bytes,
                    })
                }
                None => None,
            });
        }
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for operand in &self.outputs {
            outputs.push(match operand {
                Some(operand) => {
                    let pointer = frame.pointer(operand, Access::Write).map_err(place_error)?;
                    // SAFETY: as above, and `new` checked that outputs do not overlap each other.
                    let bytes = unsafe { std::slice::from_raw_parts_mut(pointer, operand.len) };
                    Some(OutputBytes {
                        dtype: operand.dtype,
                        bytes,
                    })
                }
                None => None,
            });
        }
        let scratch = frame.pointer(&self.scratch, Access::Write).map_err(place_error)?;
        // SAFETY: as above.
        let scratch = unsafe { std::slice::from_raw_parts_mut(scratch, self.scratch.len) };
        let mut io = KernelIo {
            inputs: KernelInputs(inputs),
            outputs: KernelOutputs(outputs),
            scratch,
            threads: frame.threads,
        };
        (self.kernel.run)(&mut io).map_err(place_error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Frame<'_> {
    /// Copies `bytes` into an operand's memory.
    pub fn write(&mut self, operand: &Operand, bytes: &[u8]) -> Result<()> {
        if bytes.len() != operand.len {
            return Err(Error::internal(format!(
                "{} bytes written where {} are planned",
                bytes.len(),
                operand.len
            )));
        }
        let pointer = self.pointer(operand, Access::Write)?;
        // SAFETY: `pointer` is good for `len` bytes of this frame's own memory, which `bytes` cannot be part of: the
        // frame is borrowed mutably.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
        Ok(())
    }

    /// The bytes of an operand.
    pub fn read(&mut self, operand: &Operand) -> Result<&[u8]> {
        let pointer = self.pointer(operand, Access::Read)?;
        // SAFETY: `pointer` is good for `len` bytes, and the frame stays borrowed while they are looked at.
        Ok(unsafe { std::slice::from_raw_parts(pointer, operand.len) })
    }

    /// A pointer that is good for the operand's length.
    fn pointer(&mut self, operand: &Operand, access: Access) -> Result<*mut u8> {
        match operand.place {
            Place::Arena(offset) => {
                let end = offset.checked_add(operand.len);
                if end.is_none_or(|end| end > self.arena.as_ref().len()) {
                    return Err(Error::internal("an operand is outside the arena"));
                }
                Ok(self.arena.as_mut_ptr().wrapping_add(offset))
            }
            Place::Slot(index) => {
                let slot = self
                    .slots
                    .get_mut(index)
                    .ok_or_else(|| Error::internal("an operand's slot is missing"))?;
                let (pointer, len) = match slot {
                    Slot::Tensor(tensor) if access == Access::Read => {
                        (tensor.bytes().as_ptr().cast_mut(), tensor.bytes().len())
                    }
                    Slot::Buffer(buffer) => (buffer.as_mut_ptr(), buffer.as_ref().len()),
                    _ => return Err(Error::internal("an operand's slot holds nothing to use")),
                };
                if len != operand.len {
                    return Err(Error::internal(format!(
                        "a slot holds {len} bytes where {} are planned",
                        operand.len
                    )));
                }
                Ok(pointer)
            }
        }
    }
}

/// Runs a kernel by itself on whole tensors, in memory of its own. `outputs` are the element types and shapes of the
/// wanted outputs, needed unless the kernel is dynamic.
pub fn run_alone(
    kernel: &CpuKernel,
    inputs: &[Option<Tensor>],
    outputs: &[Option<(DType, Vec<usize>)>],
) -> Result<Vec<Option<Tensor>>> {
    let compute = match kernel {
        CpuKernel::View { input } => {
            let source = inputs.get(*input).cloned().flatten();
            let source = source.ok_or_else(|| Error::internal("a view's input is missing"))?;
            let view = |output: &Option<(DType, Vec<usize>)>| {
                output.as_ref().map(|(_, shape)| source.reshaped(shape)).transpose()
            };
            return outputs.iter().map(view).collect();
        }
        CpuKernel::Dynamic(kernel) => {
            let results = (kernel.run)(inputs)?.into_iter();
            return Ok(results.map(Some).collect());
        }
        CpuKernel::Compute(kernel) => kernel,
    };
    let aligned: Vec<Option<Tensor>> = inputs
        .iter()
        .map(|input| input.as_ref().map(Tensor::aligned).transpose())
        .collect::<Result<_>>()?;
    let mut buffers = Vec::with_capacity(outputs.len());
    for output in outputs {
        buffers.push(match output {
            Some((dtype, shape)) => {
                let len = dtype.byte_len(element_count(shape)?);
                Some(AlignedBytes::zeroed(len.ok_or_else(|| {
                    Error::new(ErrorCode::UnsupportedOperator, "the operator does not work on strings")
                })?)?)
            }
            None => None,
        });
    }
    let mut scratch = AlignedBytes::zeroed(compute.scratch_bytes)?;
    let inputs = aligned.iter().map(|tensor| {
        let tensor = tensor.as_ref()?;
        Some(InputBytes {
            dtype: tensor.dtype(),
            bytes: tensor.bytes(),
        })
    });
    let inputs = KernelInputs(inputs.collect());
    let wanted = buffers.iter_mut().zip(outputs).map(|(buffer, output)| {
        let (dtype, _) = output.as_ref()?;
        Some(OutputBytes {
            dtype: *dtype,
            bytes: buffer.as_mut()?.as_mut(),
        })
    });
    let wanted = KernelOutputs(wanted.collect());
    (compute.run)(&mut KernelIo {
        inputs,
        outputs: wanted,
        scratch: scratch.as_mut(),
        threads: &Threads::SINGLE,
    })?;
    let tensors = buffers
        .into_iter()
        .zip(outputs)
        .map(|(buffer, output)| match (buffer, output) {
            (Some(buffer), Some((dtype, shape))) => Tensor::from_bytes(*dtype, shape, buffer).map(Some),
            _ => Ok(None),
        });
    tensors.collect()
}

fn overlap(a: &Operand, b: &Operand) -> bool {
    match (a.place, b.place) {
        (Place::Arena(x), Place::Arena(y)) => x < y + b.len && y < x + a.len,
        (Place::Slot(x), Place::Slot(y)) => x == y && a.len > 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double() -> CpuKernel {
        CpuKernel::compute("double", |io| {
            let input = io.inputs.get::<f32>(0)?;
            for (out, x) in io.outputs.take::<f32>(0)?.iter_mut().zip(input) {
                *out = 2.0 * x;
            }
            Ok(())
        })
    }

    fn operand(len: usize, place: Place) -> Option<Operand> {
        Some(Operand {
            dtype: DType::F32,
            len,
            place,
        })
    }

    fn step(input: Option<Operand>, output: Option<Operand>) -> Result<CpuStep> {
        let CpuKernel::Compute(kernel) = double() else {
            unreachable!()
        };
        CpuStep::new("n".into(), "Double".into(), kernel, vec![input], vec![output], 0)
    }

    #[test]
    fn a_step_reads_a_slot_and_writes_the_arena() {
        let step = step(operand(8, Place::Slot(0)), operand(8, Place::Arena(16))).unwrap();
        let mut arena = AlignedBytes::zeroed(step.arena_end()).unwrap();
        let mut slots = [Slot::Tensor(Tensor::new(&[2], vec![1.5f32, -3.0]).unwrap())];
        step.run(&mut Frame {
            arena: &mut arena,
            slots: &mut slots,
            threads: &Threads::SINGLE,
        })
        .unwrap();
        assert_eq!(bytemuck::cast_slice::<u8, f32>(&arena.as_ref()[16..]), &[3.0, -6.0]);
    }

    #[test]
    fn overlapping_operands_and_unplanned_places_are_errors() {
        assert!(step(operand(8, Place::Arena(0)), operand(8, Place::Arena(4))).is_err());
        assert!(step(operand(8, Place::Slot(1)), operand(8, Place::Slot(1))).is_err());
        let step = step(operand(8, Place::Slot(0)), operand(8, Place::Arena(16))).unwrap();
        let mut arena = AlignedBytes::zeroed(16).unwrap();
        let mut slots = [Slot::Tensor(Tensor::new(&[2], vec![1.5f32, -3.0]).unwrap())];
        let error = step
            .run(&mut Frame {
                arena: &mut arena,
                slots: &mut slots,
                threads: &Threads::SINGLE,
            })
            .unwrap_err();
        assert_eq!(error.place().node.as_deref(), Some("n"));
    }

    #[test]
    fn a_kernel_alone_aligns_its_inputs() {
        let bytes: Vec<u8> = [0].into_iter().chain(2.5f32.to_le_bytes()).collect();
        let bytes = crate::tensor::Bytes::from(bytes).slice(1, 5).unwrap();
        let input = Tensor::from_bytes(DType::F32, &[1], bytes).unwrap();
        let outputs = run_alone(&double(), &[Some(input)], &[Some((DType::F32, vec![1]))]).unwrap();
        assert_eq!(outputs[0].as_ref().unwrap(), &Tensor::new(&[1], vec![5.0f32]).unwrap());
    }
}
