//! Operators: what each means for types and shapes, on the CPU and on the GPU. One file per operator family; the table
//! of all is [`registry`]. What several operators share stands in `cpu/` and `gpu/`, never in another operator's file.

// Without the rare operators, what only they use lies idle.
#![cfg_attr(not(feature = "all-operators"), allow(dead_code))]

mod arity;
mod attention;
mod binary;
mod cast;
mod channel_norm;
mod context;
mod contrib;
mod control;
mod conv;
mod conv_transpose;
mod dropout;
mod elements;
mod epilogue;
pub mod evaluate;
mod fill;
mod gather;
mod gemm;
pub mod infer;
mod integer;
mod join;
mod lanes;
mod layout;
mod lower;
mod matmul;
mod ml;
mod neural;
mod normalization;
mod on_gpu;
mod pad;
mod pointwise;
mod pool;
#[cfg(test)]
mod properties;
mod quantize;
mod recurrent;
mod reduce;
pub mod registry;
mod resize;
mod scatter;
mod search;
mod select;
mod sequence;
mod shape;
mod signal;
mod slice;
mod softmax;
#[cfg(test)]
pub mod testing;
mod text;
mod transpose;
mod unary;
mod widen;
mod window;

pub use attention::{PERMUTATIONS, REPEATS};
pub use context::{CpuLowering, GpuLowering, InferContext, Prepared, TensorDesc, ValueFacts};

/// Whether this build has the operators that few models need.
pub const ALL_OPERATORS: bool = cfg!(any(test, feature = "all-operators"));

/// The error of what only the build with all operators computes; at load it makes the loader take that build.
#[inline(never)]
fn of_larger_build(what: &str) -> Error {
    let message = "the model needs the build with all operators";
    Error::new(ErrorCode::UnsupportedOperator, message).detail(what)
}

use std::fmt::Debug;

use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    gpu::kernel::GpuKernel,
    graph::{Node, Subgraph, ValueId},
    pointwise::Expr,
    tensor::{DType, Tensor, Value},
};

/// An operator with its attributes, made for one node by [`registry::operator`].
pub trait Operator: Debug + Send + Sync {
    /// Sets the type of each output, and its shape and (for small integer tensors) its elements as far as they follow
    /// from the inputs. Not knowing is no error; inputs that can never fit are.
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()>;

    /// The CPU kernel for concrete shapes. An error means that the element types or attributes are not supported.
    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel>;

    /// The GPU kernel for concrete shapes, or `None` when this operator runs on the CPU for these types and shapes.
    /// Element-wise operators have one by their expression.
    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        Ok(on_gpu::pointwise_kernel(self, ctx))
    }

    /// Whether the GPU kernel knows what to do with tensors that are held in another form than the CPU's
    /// ([`crate::gpu::kernel::GpuType::held`]): it then looks at every element type itself.
    fn takes_narrowed(&self) -> bool {
        false
    }

    /// The expression that this operator applies to each element of its broadcast inputs, when it does just that and
    /// all element types are f32 or bool. What fusion works on.
    fn pointwise(&self, _inputs: &[PointwiseInput<'_>]) -> Option<PointwiseForm> {
        None
    }

    /// Whether the kernels accept an [`crate::graph::Epilogue`] on the first output.
    fn takes_epilogue(&self) -> bool {
        false
    }

    /// Whether this is worth moving data to the GPU for (matrix products, convolutions).
    fn is_heavy(&self) -> bool {
        false
    }

    /// Multiplications and additions of one run, for profiles; 0 where memory counts rather than those. Takes the shapes
    /// of the inputs, empty ones for those not given, and the number of elements of the first output.
    fn operations(&self, _inputs: &[Vec<usize>], _outputs: u64) -> u64 {
        0
    }

    /// Whether two nodes with equal inputs give equal outputs; random operators say no.
    fn is_deterministic(&self) -> bool {
        true
    }

    /// Whether this operator takes or makes values that are not tensors, and so runs by [`Operator::on_values`] and has
    /// no kernel.
    fn works_on_values(&self) -> bool {
        false
    }

    /// Runs the operator on whole values, one for each of the node's inputs; makes one for each output.
    fn on_values(&self, _inputs: &[Option<Value>]) -> Result<Vec<Value>> {
        Err(crate::error::Error::internal(
            "the operator does not work on whole values",
        ))
    }

    /// The nodes that `node` of this operator stands for, with the values that the subgraph's outputs are to become, when
    /// it is no more than those. The optimizer puts them in its place.
    fn body(&self, _node: &Node) -> Option<(Subgraph, Vec<Option<ValueId>>)> {
        None
    }

    /// How the executor runs this operator's subgraphs, when it has some. Such an operator has no kernel.
    fn control(&self) -> Option<Control> {
        None
    }
}

/// Operators that run graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// One of two subgraphs, by a condition.
    If,
    /// A subgraph again and again.
    Loop,
    /// A subgraph over slices of tensors.
    Scan,
    /// A subgraph over the elements of sequences.
    SequenceMap,
}

/// What [`Operator::pointwise`] may look at of an input.
#[derive(Clone, Copy, Debug)]
pub struct PointwiseInput<'a> {
    /// The element type.
    pub dtype: DType,
    /// The tensor, when it is constant.
    pub constant: Option<&'a Tensor>,
    /// Whether the input is given.
    pub given: bool,
}

/// The element-wise meaning of a node.
#[derive(Clone, Debug)]
pub struct PointwiseForm {
    /// The expression, with one output per node output.
    pub expr: Expr,
    /// For each input of the expression, the index of the node's input.
    pub inputs: Vec<usize>,
}

impl PointwiseForm {
    /// The form of a node whose expression takes all of its `count` inputs in order.
    pub fn of_all(expr: Expr, count: usize) -> Option<PointwiseForm> {
        (expr.inputs().len() == count).then(|| PointwiseForm {
            expr,
            inputs: (0..count).collect(),
        })
    }
}
