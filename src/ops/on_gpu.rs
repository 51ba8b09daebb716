//! What operators share when they are lowered to the GPU.

use std::sync::Arc;

use super::{GpuLowering, Operator, PointwiseInput};
use crate::{
    gpu::{
        kernel::{Binding, ConstantData, ConstantKey, GpuKernel, GpuType},
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
    /// The integers behind input `index`, when it is constant.
    pub(super) fn ints(&self, index: usize) -> Option<Vec<i64>> {
        self.constant(index)?.to_i64s().ok()
    }

    /// Whether the tensors of input and output 0 are of a type that the GPU holds.
    pub(super) fn moves_gpu_type(&self) -> bool {
        let on_gpu =
            |desc: Option<&super::TensorDesc>| desc.is_some_and(|desc| GpuType::from_dtype(desc.dtype).is_some());
        on_gpu(self.optional_input(0)) && on_gpu(self.optional_output(0))
    }

    /// Constant integers of input `index` as i32 in a buffer, each checked to be in `-bound..bound`.
    pub(super) fn index_buffer(&self, index: usize, bound: usize) -> Option<Binding> {
        let values = self.ints(index)?;
        let bound = i64::try_from(bound).ok()?;
        let in_bounds = |&value: &i64| (-bound..bound).contains(&value) && i32::try_from(value).is_ok();
        if !values.iter().all(in_bounds) {
            return None;
        }
        let key = ConstantKey {
            source: self.optional_input(index)?.constant_id,
            layout: "i32".into(),
        };
        let make = move || Ok(values.iter().flat_map(|&value| (value as i32).to_le_bytes()).collect());
        let size = self.optional_input(index)?.shape.iter().product::<usize>() as u64 * GpuType::SIZE;
        Some(Binding::Constant(Arc::new(ConstantData::new(key, size, make))))
    }
}
