//! The internal operator that fusion makes of element-wise chains.

use std::sync::Arc;

use super::{CpuLowering, InferContext, Operator, PointwiseForm, PointwiseInput, lower::invalid};
use crate::{
    cpu::{expression, kernel::CpuKernel},
    error::Result,
    graph::Node,
    pointwise::{Expr, Storage},
    tensor::DType,
};

/// `modelet.Pointwise`: the expression of attribute `expr` over its inputs, in their order, which broadcast. One output
/// for each of the expression's; f32 and bool, as the expression says.
#[derive(Debug)]
struct Pointwise {
    expr: Arc<Expr>,
}

/// Makes [`Pointwise`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let expr = node.attributes.expr("expr")?;
    let expr = expr.ok_or_else(|| invalid("attribute expr is missing"))?.clone();
    Ok(Box::new(Pointwise { expr }))
}

fn dtype_of(storage: Storage) -> DType {
    match storage {
        Storage::F32 => DType::F32,
        Storage::Bool => DType::Bool,
    }
}

impl Operator for Pointwise {
    fn operations(&self, _: &[Vec<usize>], outputs: u64) -> u64 {
        outputs * self.expr.nodes().len() as u64
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let count = ctx.input_count();
        if count != self.expr.inputs().len() {
            return Err(invalid("the node has another number of inputs than its expression"));
        }
        for (index, &storage) in self.expr.inputs().iter().enumerate() {
            if ctx.dtype(index)? != dtype_of(storage) {
                return Err(invalid(format!(
                    "input {index} has another element type than the expression takes"
                )));
            }
        }
        let shape = ctx.broadcast(&(0..count).collect::<Vec<_>>())?;
        for (index, output) in self.expr.outputs().iter().enumerate() {
            ctx.set_output(index, dtype_of(output.storage), shape.clone());
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let outputs = (0..self.expr.outputs().len())
            .map(|index| ctx.result(index))
            .collect::<Result<_>>()?;
        expression::kernel("pointwise", &self.expr, ctx.operands(), outputs)
    }

    fn pointwise(&self, _: &[PointwiseInput<'_>]) -> Option<PointwiseForm> {
        PointwiseForm::of_all((*self.expr).clone(), self.expr.inputs().len())
    }
}
