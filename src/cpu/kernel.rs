//! What a CPU kernel is to the planner and the executor: a closure over plan-time data that reads input slices and
//! writes output slices in memory that somebody else planned.

use super::threads::Threads;
use crate::{
    error::{Error, ErrorCode, Result},
    tensor::{DType, Element, Tensor},
};

/// The lowered form of a node for concrete shapes.
pub enum CpuKernel {
    /// The first output is this input under another shape: nothing runs.
    View {
        /// Index of the input.
        input: usize,
    },
    /// Writes outputs whose shapes and types are known.
    Compute(ComputeKernel),
    /// Makes outputs whose shapes depend on data, or which are not made of bytes (strings).
    Dynamic(DynamicKernel),
}

/// The body of a [`ComputeKernel`].
pub type ComputeFn = dyn Fn(&mut KernelIo<'_>) -> Result<()> + Send + Sync;

/// A kernel over planned memory.
pub struct ComputeKernel {
    /// What the kernel is called in reports and profiles, such as `gemm_f32`.
    pub name: &'static str,
    /// Bytes of scratch memory it wants, aligned to 16.
    pub scratch_bytes: usize,
    /// Inputs that were prepared at plan time (packed weights) and are not read in a run.
    pub prepared_inputs: Vec<usize>,
    /// What the outputs have to do with the inputs in memory.
    pub layout: Layout,
    /// The work.
    pub run: Box<ComputeFn>,
}

/// How the elements of a kernel's outputs follow from the places of its inputs, when it does no more than copy them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// It does more.
    #[default]
    Own,
    /// The output is the inputs one after another.
    Joined,
    /// Each output stands in the first input, from this byte on.
    Parts(Vec<usize>),
}

/// The body of a [`DynamicKernel`]: tensors in, one tensor for each of the node's outputs out.
pub type DynamicFn = dyn Fn(&[Option<Tensor>]) -> Result<Vec<Tensor>> + Send + Sync;

/// A kernel that makes its own output tensors.
pub struct DynamicKernel {
    /// What the kernel is called in reports and profiles.
    pub name: &'static str,
    /// The work.
    pub run: Box<DynamicFn>,
}

impl CpuKernel {
    /// A kernel over planned memory, without scratch.
    pub fn compute(
        name: &'static str,
        run: impl Fn(&mut KernelIo<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> CpuKernel {
        CpuKernel::compute_with_scratch(name, 0, run)
    }

    /// A kernel over planned memory, with `scratch_bytes` of scratch.
    pub fn compute_with_scratch(
        name: &'static str,
        scratch_bytes: usize,
        run: impl Fn(&mut KernelIo<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> CpuKernel {
        CpuKernel::Compute(ComputeKernel {
            name,
            scratch_bytes,
            prepared_inputs: Vec::new(),
            layout: Layout::Own,
            run: Box::new(run),
        })
    }

    /// A kernel that makes its own outputs.
    pub fn dynamic(
        name: &'static str,
        run: impl Fn(&[Option<Tensor>]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    ) -> CpuKernel {
        CpuKernel::Dynamic(DynamicKernel {
            name,
            run: Box::new(run),
        })
    }

    /// Says that the kernel copies only.
    pub fn with_layout(mut self, layout: Layout) -> CpuKernel {
        if let CpuKernel::Compute(kernel) = &mut self {
            kernel.layout = layout;
        }
        self
    }

    /// Says that an input was packed at plan time and is not read in a run, so that its memory need not stay.
    pub fn with_prepared_input(mut self, input: usize) -> CpuKernel {
        if let CpuKernel::Compute(kernel) = &mut self {
            kernel.prepared_inputs.push(input);
        }
        self
    }
}

/// The memory and the threads of one call of a kernel. The fields are apart so that they can be borrowed at the same time.
pub struct KernelIo<'a> {
    /// The node's inputs, its epilogue's included.
    pub inputs: KernelInputs<'a>,
    /// The node's outputs. Their content before the call is not defined.
    pub outputs: KernelOutputs<'a>,
    /// As many bytes as the kernel asked for, aligned to 16, of no defined content.
    pub scratch: &'a mut [u8],
    /// The threads that may share the work; `cpu/threads.rs` says how.
    pub threads: &'a Threads,
}

/// Inputs of one call.
pub struct KernelInputs<'a>(pub Vec<Option<InputBytes<'a>>>);

/// Outputs of one call.
pub struct KernelOutputs<'a>(pub Vec<Option<OutputBytes<'a>>>);

/// The aligned bytes of one input.
#[derive(Clone, Copy)]
pub struct InputBytes<'a> {
    /// Element type of the bytes.
    pub dtype: DType,
    /// The bytes, aligned for the element type.
    pub bytes: &'a [u8],
}

/// The aligned bytes of one output.
pub struct OutputBytes<'a> {
    /// Element type of the bytes.
    pub dtype: DType,
    /// The bytes, aligned to 16.
    pub bytes: &'a mut [u8],
}

fn missing(index: usize) -> Error {
    Error::new(ErrorCode::InvalidGraph, format!("required input {index} is missing"))
}

impl<'a> KernelInputs<'a> {
    /// The elements of input `index`.
    pub fn get<T: Element>(&self, index: usize) -> Result<&'a [T]> {
        let input = self.0.get(index).copied().flatten();
        let input = input.ok_or_else(|| missing(index))?;
        if input.dtype != T::DTYPE {
            let message = format!("the element type of input {index} is not supported beside the others");
            return Err(Error::new(ErrorCode::UnsupportedOperator, message)
                .expected(T::DTYPE.name())
                .actual(input.dtype.name()));
        }
        bytemuck::try_cast_slice(input.bytes)
            .map_err(|reason| Error::internal(format!("kernel input {index}: {reason}")))
    }

    /// The bytes of input `index`.
    pub fn bytes(&self, index: usize) -> Result<&'a [u8]> {
        let input = self.0.get(index).copied().flatten();
        Ok(input.ok_or_else(|| missing(index))?.bytes)
    }

    /// Whether input `index` is given.
    pub fn has(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Option::is_some)
    }
}

impl<'a> KernelOutputs<'a> {
    /// Takes the elements of output `index`; each output can be taken once.
    pub fn take<T: Element>(&mut self, index: usize) -> Result<&'a mut [T]> {
        let dtype = self
            .0
            .get(index)
            .and_then(|output| output.as_ref())
            .map(|output| output.dtype);
        match dtype {
            Some(dtype) if dtype != T::DTYPE => Err(Error::new(
                ErrorCode::UnsupportedOperator,
                format!("the element type of output {index} is not supported"),
            )
            .expected(T::DTYPE.name())
            .actual(dtype.name())),
            _ => bytemuck::try_cast_slice_mut(self.take_bytes(index)?)
                .map_err(|reason| Error::internal(format!("kernel output {index}: {reason}"))),
        }
    }

    /// Takes the bytes of output `index`; each output can be taken once.
    pub fn take_bytes(&mut self, index: usize) -> Result<&'a mut [u8]> {
        let output = self.0.get_mut(index).and_then(Option::take);
        Ok(output
            .ok_or_else(|| Error::internal(format!("kernel output {index} is missing or taken")))?
            .bytes)
    }

    /// Whether output `index` is wanted (and not yet taken).
    pub fn has(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Option::is_some)
    }
}

impl KernelIo<'_> {
    /// The scratch memory as `f32`s.
    pub fn scratch_f32(&mut self) -> &mut [f32] {
        let len = self.scratch.len() / 4 * 4;
        // The scratch is aligned to 16 by contract; were it not, an empty slice fails in the kernel, not in memory.
        bytemuck::try_cast_slice_mut(&mut self.scratch[..len]).unwrap_or_default()
    }
}

/// The scratch bytes as `f32`s, for kernels that borrow inputs and outputs at the same time.
pub fn scratch_as_f32(scratch: &mut [u8]) -> &mut [f32] {
    let len = scratch.len() / 4 * 4;
    bytemuck::try_cast_slice_mut(&mut scratch[..len]).unwrap_or_default()
}

/// The scratch bytes as `i32`s.
pub fn scratch_as_i32(scratch: &mut [u8]) -> &mut [i32] {
    let len = scratch.len() / 4 * 4;
    bytemuck::try_cast_slice_mut(&mut scratch[..len]).unwrap_or_default()
}
