//! What operators share when they are lowered to the GPU.

use super::{GpuLowering, Operator, PointwiseInput};
use crate::{
    gpu::{
        kernel::{Binding, Check, GpuKernel, GpuType},
        kernels::Constant,
        pointwise::{self, Operand},
    },
    tensor::DType,
};

/// The kernel of an element-wise operator; `None` when it is not one for these types, or needs too many buffers.
pub(super) fn pointwise_kernel<O: Operator + ?Sized>(operator: &O, ctx: &GpuLowering<'_>) -> Option<GpuKernel> {
    let inputs: Vec<PointwiseInput<'_>> = ctx
        .inputs
        .iter()
        .map(|desc| PointwiseInput {
            dtype: desc.as_ref().map_or(DType::F32, |desc| desc.dtype),
            constant: desc.as_ref().and_then(|desc| desc.constant.as_ref()),
            given: desc.is_some(),
        })
        .collect();
    let form = operator.pointwise(&inputs)?;
    let operand = |&index: &usize| {
        let desc = ctx.inputs.get(index)?.as_ref()?;
        Some(Operand {
            binding: Binding::Input(index),
            shape: &desc.shape,
        })
    };
    let operands = form.inputs.iter().map(operand).collect::<Option<Vec<_>>>()?;
    let outputs: Vec<Binding> = (0..form.expr.outputs().len()).map(Binding::Output).collect();
    let shape = &ctx.outputs.first()?.as_ref()?.shape;
    pointwise::kernel(&form.expr, shape, &operands, &outputs, ctx.caps)
}

impl GpuLowering<'_> {
    /// Input `index` as a constant that a kernel may lay out anew.
    pub(super) fn known_constant(&self, index: usize) -> Option<Constant<'_>> {
        let desc = self.optional_input(index)?;
        Some(Constant {
            source: desc.constant_id,
            tensor: desc.constant.as_ref()?,
        })
    }

    /// The integers behind input `index`, when it is constant.
    pub(super) fn ints(&self, index: usize) -> Option<Vec<i64>> {
        self.constant(index)?.to_i64s().ok()
    }

    /// Whether output `output` may be made in the memory of input `input`, by
    /// [`GpuKernel::in_place`](crate::gpu::kernel::GpuKernel::in_place).
    pub(super) fn takes_over(&self, input: usize, output: usize) -> bool {
        let fits = |from: &super::TensorDesc, to: &super::TensorDesc| {
            (from.dtype, &from.shape) == (to.dtype, &to.shape) && !to.shape.contains(&0)
        };
        let both = self.optional_input(input).zip(self.optional_output(output));
        self.given_up.contains(&input) && both.is_some_and(|(from, to)| fits(from, to))
    }

    /// Whether the tensors of input and output 0 are of a type that the GPU holds exactly.
    pub(super) fn moves_gpu_type(&self) -> bool {
        let exact = |dtype| GpuType::held(dtype).is_some_and(|ty| ty != GpuType::I64);
        let on_gpu = |desc: Option<&super::TensorDesc>| desc.is_some_and(|desc| exact(desc.dtype));
        on_gpu(self.optional_input(0)) && on_gpu(self.optional_output(0))
    }

    /// Indices into dimensions of these sizes in turn: constant ones as i32, others as they are bound, with what to
    /// check of them. `None` for constants that do not fit and for what are no indices.
    pub(super) fn indices(&self, index: usize, sizes: &[usize]) -> Option<(Binding, Vec<(usize, Check)>)> {
        let checks = self.checked(index, Check::Index(sizes.to_vec()))?;
        Some((Binding::Input(index), checks))
    }

    /// What is left to check of integer input `index` when it is uploaded: nothing of a constant. `None` for a constant
    /// that fails, and for what is not of i32 or i64.
    pub(super) fn checked(&self, index: usize, check: Check) -> Option<Vec<(usize, Check)>> {
        let desc = self.optional_input(index)?;
        if !matches!(desc.dtype, DType::I32 | DType::I64) {
            return None;
        }
        match &desc.constant {
            Some(constant) => check.run(desc.dtype, constant.bytes()).ok().map(|()| Vec::new()),
            None => Some(vec![(index, check)]),
        }
    }

    /// The GPU type of an input, when it is given and the GPU can hold it in some form.
    pub(super) fn held(&self, index: usize) -> Option<GpuType> {
        GpuType::held(self.optional_input(index)?.dtype)
    }
}
