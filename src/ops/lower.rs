//! What operators of one kind share when they infer and lower: reading attributes and integers, and moving elements
//! alike in kernels and in the symbolic elements of shapes.

use super::{CpuLowering, InferContext, TensorDesc};
use crate::{
    cpu::{
        elementwise::Operand,
        kernel::CpuKernel,
        movement::{self, MoveFn},
    },
    error::{Error, ErrorCode, Result},
    tensor::{Bool8, DType, Dim, Tensor},
};

/// An error about a node that breaks its operator's rules.
pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidGraph, message)
}

/// An error about shapes or values that do not fit an operator's rules.
pub fn mismatch(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::ShapeMismatch, message)
}

/// An error about a form of an operator that is not supported.
pub fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::UnsupportedOperator, message)
}

/// A tensor as an operand of element-wise work.
pub fn operand(index: usize, desc: &TensorDesc) -> Operand {
    Operand {
        index,
        dtype: desc.dtype,
        shape: desc.shape.clone(),
    }
}

impl CpuLowering<'_> {
    /// The operator's given inputs as operands of element-wise work.
    pub fn operands(&self) -> Vec<Operand> {
        let given = self.inputs[..self.input_count().min(self.inputs.len())]
            .iter()
            .enumerate();
        given
            .filter_map(|(index, desc)| Some(operand(index, desc.as_ref()?)))
            .collect()
    }

    /// An output as the result of element-wise work.
    pub fn result(&self, index: usize) -> Result<Operand> {
        Ok(operand(index, self.output(index)?))
    }

    /// The integers behind input `index`, when it is constant.
    pub fn ints(&self, index: usize) -> Option<Vec<i64>> {
        self.constant(index)?.to_i64s().ok()
    }
}

/// Concrete shapes and known integers of a node, alike in inference and lowering.
pub struct Concrete {
    /// The inputs' shapes; `None` for inputs that are left out.
    pub inputs: Vec<Option<Vec<usize>>>,
    /// The outputs' shapes; `None` for outputs that are not wanted.
    pub outputs: Vec<Option<Vec<usize>>>,
    /// The elements of integer inputs, where they are known and few.
    pub ints: Vec<Option<Vec<i64>>>,
}

impl Concrete {
    /// Shape of input `index`.
    pub fn input(&self, index: usize) -> Result<&[usize]> {
        let shape = self.inputs.get(index).and_then(Option::as_deref);
        shape.ok_or_else(|| invalid(format!("required input {index} is missing")))
    }

    /// Shape of the first output.
    pub fn output(&self) -> Result<&[usize]> {
        let shape = self.outputs.first().and_then(Option::as_deref);
        shape.ok_or_else(|| Error::internal("the first output is not wanted"))
    }

    /// The integers of input `index`, where they are known.
    pub fn ints(&self, index: usize) -> Option<&[i64]> {
        self.ints.get(index)?.as_deref()
    }

    /// Whether input `index` is given.
    pub fn has_input(&self, index: usize) -> bool {
        self.inputs.get(index).is_some_and(Option::is_some)
    }
}

/// An operator that moves elements without looking at them.
pub trait Movement {
    /// What the kernel is called in reports.
    fn kernel_name(&self) -> &'static str;

    /// The inputs whose elements are moved, all of which must be among the `given`.
    fn data(&self, _given: &[bool]) -> Vec<usize> {
        vec![0]
    }

    /// What is done, for concrete shapes.
    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>>;
}

/// The kernel of an operator that moves elements.
pub fn lower_movement(operator: &dyn Movement, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
    if !ctx.outputs_known {
        return Err(mismatch("the inputs do not tell the output's shape"));
    }
    let shapes = |list: &[Option<TensorDesc>]| -> Vec<Option<Vec<usize>>> {
        list.iter()
            .map(|desc| desc.as_ref().map(|desc| desc.shape.clone()))
            .collect()
    };
    let node = Concrete {
        inputs: shapes(ctx.inputs),
        outputs: shapes(ctx.outputs),
        ints: (0..ctx.input_count())
            .map(|index| {
                let tensor = ctx.constant(index)?;
                let known = tensor.len() <= super::context::MAX_TRACKED_ELEMENTS && tensor.dtype().is_integer();
                known.then(|| tensor.to_i64s().ok()).flatten()
            })
            .collect(),
    };
    let given: Vec<bool> = (0..ctx.input_count())
        .map(|index| ctx.optional_input(index).is_some())
        .collect();
    let data = operator.data(&given);
    let dtype = ctx.input(data.first().copied().unwrap_or(0))?.dtype;
    let run = operator.movement(&node)?;
    movement::kernel(operator.kernel_name(), dtype, data, node.outputs, run)
}

/// Moves the tracked elements of small integer tensors as the kernel would move the tensors themselves. Does nothing
/// where elements or shapes are not known.
pub fn infer_moved_elements(operator: &dyn Movement, ctx: &mut InferContext<'_>) -> Result<()> {
    let outputs: Vec<Option<Vec<usize>>> = ctx
        .outputs
        .iter()
        .map(|output| output.concrete_shape().filter(|shape| is_tracked(shape)))
        .collect();
    if outputs.iter().all(Option::is_none) {
        return Ok(());
    }
    let given: Vec<bool> = (0..ctx.input_count()).map(|index| ctx.has_input(index)).collect();
    let data = operator.data(&given);
    let facts: Vec<_> = (0..ctx.input_count()).map(|index| ctx.input(index)).collect();
    let known_elements = |index: usize| facts.get(index).copied().flatten()?.elements.as_deref();
    let Some(elements) = data
        .iter()
        .map(|&index| known_elements(index))
        .collect::<Option<Vec<_>>>()
    else {
        return Ok(());
    };
    let mut node = Concrete {
        inputs: Vec::new(),
        outputs,
        ints: Vec::new(),
    };
    let mut tensors = Vec::new();
    for (index, facts) in facts.iter().enumerate() {
        let Some(facts) = facts else {
            node.inputs.push(None);
            node.ints.push(None);
            tensors.push(None);
            continue;
        };
        let Some(shape) = facts.concrete_shape() else {
            return Ok(());
        };
        let ints: Option<Vec<i64>> = match &facts.elements {
            Some(elements) => elements.iter().map(Dim::known).collect(),
            None => facts.constant.as_ref().and_then(|tensor| tensor.to_i64s().ok()),
        };
        if !data.contains(&index) {
            // Indices and the like must be known by value.
            let Some(ints) = &ints else { return Ok(()) };
            tensors.push(Some(if facts.dtype == Some(DType::Bool) {
                Tensor::new(&shape, ints.iter().map(|&value| Bool8::from(value != 0)).collect())?
            } else {
                Tensor::new(&shape, ints.clone())?
            }));
        } else {
            tensors.push(None);
        }
        node.inputs.push(Some(shape));
        node.ints.push(ints);
    }
    let run = operator.movement(&node)?;
    let counts: Vec<usize> = elements.iter().map(|list| list.len()).collect();
    let moved = movement::move_positions(&run, &counts, &tensors, &node.outputs)?;
    let pool: Vec<&Dim> = elements.iter().flat_map(|list| list.iter()).collect();
    for (index, positions) in moved.into_iter().enumerate() {
        if node.outputs[index].is_none() {
            continue;
        }
        let elements = positions.into_iter().map(|position| match position {
            Some(position) => pool[position].clone(),
            None => Dim::from(0),
        });
        ctx.set_elements(index, elements.collect());
    }
    Ok(())
}

fn is_tracked(shape: &[usize]) -> bool {
    let count = crate::tensor::element_count(shape);
    count.is_ok_and(|count| count <= super::context::MAX_TRACKED_ELEMENTS)
}

/// Whether tensors of this type have their elements tracked.
pub fn tracks(dtype: DType) -> bool {
    dtype.is_integer() || dtype == DType::Bool
}
