//! Epilogues of matrix kernels: how a node's pointwise expression becomes what the kernels take. The steps that most
//! models use (scale, bias, residual, clamp) go into the kernels' own fields; what remains runs as a pointwise program
//! over the freshly computed values. On the GPU the whole expression is printed into the kernel.

use super::{CpuLowering, GpuLowering, TensorDesc};
use crate::{
    cpu::{
        epilogue::{Bias, Clamp, Epilogue, RowProgram},
        kernel::KernelInputs,
        pointwise::{InputSlice, PointwisePlan},
    },
    error::{Error, Result},
    gpu::{
        self,
        kernel::Binding,
        kernels::{Constant, Operand},
    },
    pointwise::{BinaryOp, Expr, Node, Reg, Storage, UnaryOp, access::broadcast_strides},
    tensor::DType,
};

/// How an operator's output is seen as rows.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// The output's shape.
    pub shape: &'a [usize],
    /// The axes before this one make the rows, this one and those behind it the columns.
    pub split: usize,
    /// Whether a bias per row is indexed by the axis before `split` alone (the channels of a convolution), or by the
    /// whole row number.
    pub bias_by_channel: bool,
}

impl Rows<'_> {
    fn row_len(&self) -> usize {
        self.shape[self.split..].iter().product()
    }

    /// How an input of this shape meets the rows.
    pub fn fit(&self, shape: &[usize]) -> Fit {
        let Some(strides) = broadcast_strides(self.shape, shape) else {
            return Fit::Other;
        };
        let count: usize = shape.iter().product();
        let total: usize = self.shape.iter().product();
        let constant_over = |axes: std::ops::Range<usize>| axes.into_iter().all(|axis| strides[axis] == 0);
        let bias_axes = if self.bias_by_channel {
            self.split.saturating_sub(1)..self.split
        } else {
            0..self.split
        };
        let rows: usize = self.shape[bias_axes.clone()].iter().product();
        if count == total {
            Fit::Whole
        } else if count == self.row_len() && constant_over(0..self.split) {
            Fit::PerColumn
        } else if count == rows && constant_over(self.split..strides.len()) && constant_over(0..bias_axes.start) {
            Fit::PerRow
        } else {
            Fit::Other
        }
    }
}

/// How a tensor that broadcasts to the output meets its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// One element for each of the output's.
    Whole,
    /// One element for each row.
    PerRow,
    /// One element for each column.
    PerColumn,
    /// Anything else.
    Other,
}

/// Which steps the operator itself takes, before the expression.
#[derive(Clone, Copy, Debug)]
pub struct OwnSteps {
    /// A factor on the product.
    pub alpha: f32,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether a tensor of the output's shape is added.
    pub residual: bool,
}

impl OwnSteps {
    /// No step.
    pub const NONE: OwnSteps = OwnSteps {
        alpha: 1.0,
        bias: false,
        residual: false,
    };
}

/// The operator's own bias and residual in one run, as far as [`OwnSteps`] announced them.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnValues<'a> {
    /// The bias.
    pub bias: Bias<'a>,
    /// A tensor of the output's shape.
    pub residual: Option<&'a [f32]>,
}

/// A node's epilogue, planned for the CPU's matrix kernels. The node's result must be f32.
#[derive(Clone, Debug)]
pub struct CpuEpilogue {
    alpha: f32,
    bias: Option<(Fit, usize)>,
    residual: Option<usize>,
    clamp: Option<Clamp>,
    program: Option<Program>,
    /// The node's input that is the expression's input 1.
    first_input: usize,
}

/// What is left of the expression.
#[derive(Clone, Debug)]
struct Program {
    plan: PointwisePlan,
    inputs: Vec<Storage>,
    row_len: usize,
}

impl CpuEpilogue {
    /// Plans the epilogue of `ctx`'s node, if it has one, after the operator's own steps.
    pub fn new(ctx: &CpuLowering<'_>, rows: &Rows<'_>, own: OwnSteps) -> Result<CpuEpilogue> {
        let mut planned = CpuEpilogue {
            alpha: own.alpha,
            bias: None,
            residual: None,
            clamp: None,
            program: None,
            first_input: 0,
        };
        let Some(epilogue) = ctx.epilogue() else {
            return Ok(planned);
        };
        planned.first_input = epilogue.first_input;
        let expr = &*epilogue.expr;
        let inputs = (1..expr.inputs().len())
            .map(|input| ctx.input(epilogue.first_input + input - 1))
            .collect::<Result<Vec<_>>>()?;
        check_expression(expr, &inputs)?;
        let reached = planned.absorb(expr, &inputs, rows, own);
        if reached != Some(expr.outputs()[0].reg) {
            let rest = match reached {
                Some(reached) => expr.continued_from(reached, 0),
                None => Ok(expr.clone()),
            };
            let rest = rest.map_err(|error| Error::internal(error.to_string()))?;
            let mut shapes = vec![rows.shape];
            shapes.extend(inputs.iter().map(|input| &input.shape[..]));
            let plan = PointwisePlan::new(&rest, rows.shape, &shapes);
            planned.program = Some(Program {
                plan: plan.map_err(crate::cpu::elementwise::shape_error)?,
                inputs: rest.inputs()[1..].to_vec(),
                row_len: rows.row_len(),
            });
        }
        Ok(planned)
    }

    /// Takes the steps that the kernels' fields can express, from the expression's start; returns the register that
    /// they compute, if there is one: a constant expression does not read the product.
    fn absorb(&mut self, expr: &Expr, inputs: &[&TensorDesc], rows: &Rows<'_>, own: OwnSteps) -> Option<Reg> {
        let nodes = expr.nodes();
        let constant = |reg: Reg| match nodes[reg.index()] {
            Node::Const(bits) => Some(f32::from_bits(bits)),
            _ => None,
        };
        let mut current = expr.registers().find(|(_, node)| **node == Node::Input(0))?.0;
        let mut summed = own.bias || own.residual;
        loop {
            let is_output = expr.outputs()[0].reg == current;
            let mut users = expr
                .registers()
                .filter(|(_, node)| node.operands().any(|operand| operand == current));
            let (Some((user, node)), None, false) = (users.next(), users.next(), is_output) else {
                return Some(current);
            };
            let absorbed = match *node {
                Node::Binary(op, a, b) if a != b => {
                    let other = if a == current { b } else { a };
                    match op {
                        BinaryOp::Mul if !summed && self.clamp.is_none() => {
                            constant(other).map(|factor| self.alpha *= factor).is_some()
                        }
                        BinaryOp::Div if a == current && !summed && self.clamp.is_none() => constant(other)
                            .filter(|divisor| divisor.recip().is_normal())
                            .map(|divisor| self.alpha /= divisor)
                            .is_some(),
                        BinaryOp::Add if self.clamp.is_none() => match nodes[other.index()] {
                            Node::Input(input) if expr.inputs()[input as usize] == Storage::F32 => {
                                summed = true;
                                self.add(input as usize, rows.fit(&inputs[input as usize - 1].shape), own)
                            }
                            _ => false,
                        },
                        BinaryOp::Max => constant(other).is_some_and(|min| self.raise(min)),
                        BinaryOp::Min => constant(other).is_some_and(|max| self.lower(max)),
                        _ => false,
                    }
                }
                Node::Unary(UnaryOp::Relu, _) => self.raise(0.0),
                _ => false,
            };
            if !absorbed {
                return Some(current);
            }
            current = user;
        }
    }

    fn add(&mut self, input: usize, fit: Fit, own: OwnSteps) -> bool {
        match fit {
            Fit::PerRow | Fit::PerColumn if self.bias.is_none() && !own.bias => self.bias = Some((fit, input)),
            Fit::Whole if self.residual.is_none() && !own.residual => self.residual = Some(input),
            _ => return false,
        }
        true
    }

    /// `max(x, min)` after what there is.
    fn raise(&mut self, min: f32) -> bool {
        let clamp = self.clamp.unwrap_or(NO_CLAMP);
        let possible = min <= clamp.max;
        if possible {
            let min = clamp.min.max(min);
            self.clamp = Some(Clamp { min, ..clamp });
        }
        possible
    }

    /// `min(x, max)` after what there is.
    fn lower(&mut self, max: f32) -> bool {
        let clamp = self.clamp.unwrap_or(NO_CLAMP);
        let possible = clamp.min <= max;
        if possible {
            let max = clamp.max.min(max);
            self.clamp = Some(Clamp { max, ..clamp });
        }
        possible
    }

    /// How much scratch memory [`CpuEpilogue::with`] needs, in f32.
    pub fn scratch_len(&self) -> usize {
        self.program.as_ref().map_or(0, |program| program.plan.scratch_len())
    }

    /// Calls `kernel` with the epilogue over the inputs of one run and the operator's own values. `scratch` is of
    /// [`CpuEpilogue::scratch_len`].
    pub fn with(
        &self,
        inputs: &KernelInputs<'_>,
        own: OwnValues<'_>,
        scratch: &mut [f32],
        kernel: &mut dyn FnMut(&Epilogue<'_>),
    ) -> Result<()> {
        let values = |input: usize| inputs.get::<f32>(self.first_input + input - 1);
        let bias = match self.bias {
            None => own.bias,
            Some((Fit::PerRow, input)) => Bias::PerRow(values(input)?),
            Some((_, input)) => Bias::PerColumn(values(input)?),
        };
        let residual = match self.residual {
            None => own.residual,
            Some(input) => Some(values(input)?),
        };
        let epilogue = Epilogue {
            alpha: self.alpha,
            bias,
            residual,
            clamp: self.clamp,
            program: None,
            first_row: 0,
        };
        let Some(program) = &self.program else {
            kernel(&epilogue);
            return Ok(());
        };
        let mut slices = vec![InputSlice::Output(0)];
        for (index, storage) in program.inputs.iter().enumerate() {
            slices.push(match storage {
                Storage::F32 => InputSlice::F32(inputs.get(self.first_input + index)?),
                Storage::Bool => InputSlice::Bool(inputs.bytes(self.first_input + index)?),
            });
        }
        let bound = program.plan.bind(&slices, scratch);
        let rows = bound.rows(program.row_len);
        kernel(&Epilogue {
            program: Some(&rows as &dyn RowProgram),
            ..epilogue
        });
        Ok(())
    }
}

const NO_CLAMP: Clamp = Clamp {
    min: f32::NEG_INFINITY,
    max: f32::INFINITY,
};

/// A node's epilogue as WGSL.
pub fn gpu_epilogue(ctx: &GpuLowering<'_>) -> Result<GpuEpilogue> {
    gpu_epilogue_of(ctx, &ctx.output(0)?.shape)
}

/// The same where it applies to a value of this shape, which is not the output.
pub fn gpu_epilogue_of(ctx: &GpuLowering<'_>, shape: &[usize]) -> Result<GpuEpilogue> {
    let Some(epilogue) = ctx.epilogue() else {
        return Ok(GpuEpilogue::Takes(None));
    };
    let expr = &*epilogue.expr;
    let inputs = (1..expr.inputs().len())
        .map(|input| ctx.input(epilogue.first_input + input - 1))
        .collect::<Result<Vec<_>>>()?;
    check_expression(expr, &inputs)?;
    let operands: Vec<gpu::pointwise::Operand<'_>> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| gpu::pointwise::Operand {
            binding: Binding::Input(epilogue.first_input + index),
            shape: &input.shape,
        })
        .collect();
    let printed = gpu::pointwise::epilogue(expr, shape, &operands);
    Ok(printed.map_or(GpuEpilogue::Refuses, |printed| GpuEpilogue::Takes(Some(printed))))
}

/// What the GPU makes of a node's epilogue.
pub enum GpuEpilogue {
    /// The WGSL, or nothing when the node has no epilogue.
    Takes(Option<gpu::epilogue::Epilogue>),
    /// The node must run on the CPU.
    Refuses,
}

/// An f32 operand of a GPU kernel: the node's input `index`, which may be constant.
pub fn gpu_operand(desc: &TensorDesc, index: usize) -> Operand<'_> {
    match &desc.constant {
        Some(tensor) => {
            let constant = Constant {
                source: desc.constant_id,
                tensor,
            };
            Operand::constant(&desc.shape, index, constant)
        }
        None => Operand::input(&desc.shape, index),
    }
}

/// What holds of every epilogue: one f32 output, input 0 the f32 result of the node, further inputs f32 or bool.
fn check_expression(expr: &Expr, inputs: &[&TensorDesc]) -> Result<()> {
    let output = matches!(expr.outputs(), [output] if output.storage == Storage::F32);
    if !output || expr.inputs().first() != Some(&Storage::F32) {
        return Err(Error::internal("an epilogue is not a function of one f32 to f32"));
    }
    for (storage, input) in expr.inputs()[1..].iter().zip(inputs) {
        let expected = match storage {
            Storage::F32 => DType::F32,
            Storage::Bool => DType::Bool,
        };
        if input.dtype != expected {
            return Err(
                Error::internal("an epilogue's input has another type than the expression")
                    .expected(expected.name())
                    .actual(input.dtype.name()),
            );
        }
    }
    Ok(())
}
