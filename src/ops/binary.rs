//! Element-wise operators of two and more broadcast inputs: arithmetic, comparison, logic, bits, PRelu.

use std::cmp::Ordering;

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, PointwiseForm, PointwiseInput,
    context::broadcast_dims,
    lower::{invalid, tracks},
    on_gpu,
};
use crate::{
    cpu::{
        elementwise::{self, Operand},
        expression,
        kernel::CpuKernel,
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{Check, GpuKernel, GpuType},
        kernels::elementwise::{self as gpu_elementwise, Input},
    },
    graph::Node,
    pointwise::{BinaryOp, Builder, CompareOp, Expr, LogicOp, Reg, Storage, access::broadcast_strides},
    tensor::{DType, Dim, Tensor, element_count, resolve_axis},
};

/// What is computed of the elements; the inputs are folded from the left where there are more than two.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Mod { like_c: bool },
    Min,
    Max,
    Mean,
    PRelu,
    SwiGlu { alpha: f32 },
    Compare(CompareOp),
    Logic(LogicOp),
    Bitwise(LogicOp),
    BitShift { left: bool },
}

/// An element-wise operator of several inputs.
#[derive(Debug)]
struct Binary {
    function: Function,
    /// Where the second input's dimensions stand in the first's, by the rule of opsets before 7.
    axis: Option<i64>,
}

/// ONNX's element-wise operators of two or more inputs, by the node's operator name.
///
/// The inputs broadcast by numpy's rule; before opset 7 by the attributes `broadcast` and `axis`. The output has the
/// first input's type, or bool for comparisons and logic. Integers wrap around; `Div` and `Mod` of integers by zero are
/// [`ErrorCode::RunFailed`] errors, `Div` rounds towards zero. Shifts by
/// the type's width or more, or by negative numbers, leave the sign alone.
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let function = match &*node.operator.name {
        "Add" | "Sum" => Function::Add,
        "Sub" => Function::Sub,
        "Mul" => Function::Mul,
        "Div" => Function::Div,
        "Pow" => Function::Pow,
        "Mod" => Function::Mod {
            like_c: attributes.flag("fmod", false)?,
        },
        "Min" => Function::Min,
        "Max" => Function::Max,
        "Mean" => Function::Mean,
        "PRelu" => Function::PRelu,
        "SwiGLU" => Function::SwiGlu {
            alpha: attributes.float("alpha")?.unwrap_or(1.0),
        },
        "Equal" => Function::Compare(CompareOp::Equal),
        "Less" => Function::Compare(CompareOp::Less),
        "LessOrEqual" => Function::Compare(CompareOp::LessOrEqual),
        "Greater" => Function::Compare(CompareOp::Greater),
        "GreaterOrEqual" => Function::Compare(CompareOp::GreaterOrEqual),
        "And" => Function::Logic(LogicOp::And),
        "Or" => Function::Logic(LogicOp::Or),
        "Xor" => Function::Logic(LogicOp::Xor),
        "BitwiseAnd" => Function::Bitwise(LogicOp::And),
        "BitwiseOr" => Function::Bitwise(LogicOp::Or),
        "BitwiseXor" => Function::Bitwise(LogicOp::Xor),
        "BitShift" => match attributes.string("direction")? {
            Some("LEFT") => Function::BitShift { left: true },
            Some("RIGHT") => Function::BitShift { left: false },
            other => {
                let error = invalid("attribute direction is neither \"LEFT\" nor \"RIGHT\"");
                return Err(error.actual(other.unwrap_or("none")));
            }
        },
        name => {
            return Err(Error::internal(format!(
                "{name} is not an element-wise operator of several inputs"
            )));
        }
    };
    let legacy = node.operator.version < 7 && attributes.flag("broadcast", false)?;
    let axis = if legacy { attributes.int("axis")? } else { None };
    // Slopes of opsets before 7 belong to the channels.
    let axis = axis.or((function == Function::PRelu && node.operator.version < 7).then_some(1));
    Ok(Box::new(Binary { function, axis }))
}

impl Function {
    fn is_test(self) -> bool {
        matches!(self, Function::Compare(_) | Function::Logic(_))
    }

    fn is_variadic(self) -> bool {
        matches!(self, Function::Add | Function::Min | Function::Max | Function::Mean)
    }

    /// The expression of `count` inputs held as `storage`; `exponent` is the constant exponent of `Pow`, which is then
    /// no input.
    fn expr(self, count: usize, storage: Storage, exponent: Option<f32>) -> Result<Option<Expr>> {
        let is_bool = storage == Storage::Bool;
        match self {
            Function::Bitwise(_) | Function::BitShift { .. } => return Ok(None),
            Function::Logic(_) | Function::Compare(CompareOp::Equal) => {}
            _ if is_bool => return Ok(None),
            _ => {}
        }
        if matches!(self, Function::Logic(_)) && !is_bool {
            return Ok(None);
        }
        let mut b = Builder::new();
        let inputs: Vec<Reg> = (0..count).map(|_| b.input(storage)).collect();
        let Some((&first, rest)) = inputs.split_first() else {
            return Ok(None);
        };
        let mut result = match exponent {
            Some(exponent) => {
                let exponent = b.constant(exponent);
                b.pow(first, exponent)
            }
            None => rest.iter().fold(first, |sum, &next| self.build(&mut b, sum, next)),
        };
        if self == Function::Mean {
            let divisor = b.constant(count as f32);
            result = b.div(result, divisor);
        }
        b.output(result, if self.is_test() { Storage::Bool } else { storage });
        b.finish().map(Some).map_err(|error| Error::internal(error.to_string()))
    }

    fn build(self, b: &mut Builder, x: Reg, y: Reg) -> Reg {
        match self {
            Function::Add | Function::Mean => b.add(x, y),
            Function::Sub => b.sub(x, y),
            Function::Mul => b.mul(x, y),
            Function::Div => b.div(x, y),
            Function::Pow => b.pow(x, y),
            Function::Mod { like_c: true } => b.binary(BinaryOp::Fmod, x, y),
            Function::Mod { like_c: false } => {
                // The remainder with the divisor's sign, as Python has it.
                let rest = b.binary(BinaryOp::Fmod, x, y);
                let zero = b.constant(0.0);
                let (below, some) = (b.less(rest, zero), b.compare(CompareOp::NotEqual, rest, zero));
                let negative = b.less(y, zero);
                let differs = b.logic(LogicOp::Xor, below, negative);
                let moves = b.logic(LogicOp::And, differs, some);
                let moved = b.add(rest, y);
                b.select(moves, moved, rest)
            }
            Function::Min => b.min(x, y),
            Function::Max => b.max(x, y),
            Function::PRelu => b.prelu(x, y),
            Function::SwiGlu { alpha } => {
                let gate = b.swish(x, alpha);
                b.mul(gate, y)
            }
            Function::Compare(op) => b.compare(op, x, y),
            Function::Logic(op) => b.logic(op, x, y),
            Function::Bitwise(_) | Function::BitShift { .. } => x,
        }
    }

    fn apply_f64(self, x: &mut [f64], y: &[f64]) {
        let mut zip = |f: fn(f64, f64) -> f64| x.iter_mut().zip(y).for_each(|(x, &y)| *x = f(*x, y));
        match self {
            Function::Add | Function::Mean => zip(|x, y| x + y),
            Function::Sub => zip(|x, y| x - y),
            Function::Mul => zip(|x, y| x * y),
            Function::Div => zip(|x, y| x / y),
            Function::Pow => zip(f64::powf),
            Function::Mod { like_c: true } => zip(|x, y| x % y),
            Function::Mod { like_c: false } => zip(|x, y| {
                let rest = x % y;
                if rest != 0.0 && (rest < 0.0) != (y < 0.0) {
                    rest + y
                } else {
                    rest
                }
            }),
            Function::Min => zip(|x, y| if x.is_nan() || y.is_nan() { f64::NAN } else { x.min(y) }),
            Function::Max => zip(|x, y| if x.is_nan() || y.is_nan() { f64::NAN } else { x.max(y) }),
            Function::PRelu => zip(|x, y| if x < 0.0 { x * y } else { x }),
            Function::SwiGlu { alpha } => {
                let swish = |x: f64| x / (1.0 + (-f64::from(alpha) * x).exp());
                x.iter_mut().zip(y).for_each(|(x, y)| *x = swish(*x) * y);
            }
            Function::Compare(op) => {
                x.iter_mut()
                    .zip(y)
                    .for_each(|(x, &y)| *x = compare(op, (*x).partial_cmp(&y)).into());
            }
            Function::Logic(_) | Function::Bitwise(_) | Function::BitShift { .. } => {}
        }
    }

    /// Integers of any type as `i64`; those of `u64` as its bits.
    fn apply_int(self, is_u64: bool, x: &mut [i64], y: &[i64]) -> Result<()> {
        let mut zip = |f: fn(i64, i64) -> i64| x.iter_mut().zip(y).for_each(|(x, &y)| *x = f(*x, y));
        match self {
            Function::Add => zip(i64::wrapping_add),
            Function::Sub => zip(i64::wrapping_sub),
            Function::Mul => zip(i64::wrapping_mul),
            Function::Div | Function::Mod { .. } if y.contains(&0) => {
                return Err(Error::new(ErrorCode::RunFailed, "an integer is divided by zero"));
            }
            Function::Div if is_u64 => zip(|x, y| (x as u64).checked_div(y as u64).unwrap_or(0) as i64),
            Function::Div => zip(|x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
            Function::Mod { .. } if is_u64 => zip(|x, y| (x as u64).checked_rem(y as u64).unwrap_or(0) as i64),
            Function::Mod { like_c: true } => zip(|x, y| if y == 0 { 0 } else { x.wrapping_rem(y) }),
            Function::Mod { like_c: false } => zip(|x, y| {
                let rest = if y == 0 { 0 } else { x.wrapping_rem(y) };
                if rest != 0 && (rest < 0) != (y < 0) {
                    rest + y
                } else {
                    rest
                }
            }),
            Function::Min if is_u64 => zip(|x, y| (x as u64).min(y as u64) as i64),
            Function::Max if is_u64 => zip(|x, y| (x as u64).max(y as u64) as i64),
            Function::Min => zip(i64::min),
            Function::Max => zip(i64::max),
            Function::Pow if is_u64 => zip(|x, y| wrapping_power(x, y as u64)),
            Function::Pow => zip(power),
            Function::PRelu if is_u64 => {}
            Function::PRelu => zip(|x, y| if x < 0 { x.wrapping_mul(y) } else { x }),
            Function::Compare(op) => {
                // Selects among three results, which take vectors.
                let of = |order| i64::from(compare(op, Some(order)));
                let [less, equal, greater] = [Ordering::Less, Ordering::Equal, Ordering::Greater].map(of);
                let flip = if is_u64 { i64::MIN } else { 0 };
                for (x, &y) in x.iter_mut().zip(y) {
                    let (a, b) = (*x ^ flip, y ^ flip);
                    let unequal = if a < b { less } else { greater };
                    *x = if a == b { equal } else { unequal };
                }
            }
            Function::Logic(op) | Function::Bitwise(op) => match op {
                LogicOp::And => zip(|x, y| x & y),
                LogicOp::Or => zip(|x, y| x | y),
                LogicOp::Xor => zip(|x, y| x ^ y),
            },
            Function::BitShift { left: true } => zip(|x, y| if (0..64).contains(&y) { x << y } else { 0 }),
            Function::BitShift { left: false } if !is_u64 => zip(|x, y| x >> if (0..64).contains(&y) { y } else { 63 }),
            Function::BitShift { left: false } => zip(|x, y| {
                if (0..64).contains(&y) {
                    (x as u64 >> y) as i64
                } else {
                    0
                }
            }),
            Function::Mean | Function::SwiGlu { .. } => return Err(Error::internal("an average or gate of integers")),
        }
        Ok(())
    }

    /// The result for symbolic elements, where it is known.
    fn of_dims(self, x: &Dim, y: &Dim) -> Option<Dim> {
        let known = x.known().zip(y.known());
        let in_order = || x.lower_bound() >= Some(0) && y.lower_bound() > Some(0);
        Some(match self {
            Function::Add => x.clone() + y.clone(),
            Function::Sub => x.clone() - y.clone(),
            Function::Mul => x.clone() * y.clone(),
            Function::Min => x.minimum(y),
            Function::Max => x.maximum(y),
            Function::Div if in_order() => x.floor_div(y),
            Function::Div => Dim::from(known.and_then(|(x, y)| x.checked_div(y))?),
            Function::Mod { .. } if in_order() => x.modulo(y),
            Function::Mod { like_c: true } => Dim::from(known.and_then(|(x, y)| x.checked_rem(y))?),
            Function::Mod { like_c: false } => Some(x.modulo(y)).filter(|rest| rest.known().is_some())?,
            Function::Pow => Dim::from(known.and_then(|(x, y)| x.checked_pow(u32::try_from(y).ok()?))?),
            Function::Compare(op) => Dim::from(i64::from(compare_dims(op, x, y)?)),
            Function::Logic(op) => {
                let (x, y) = known?;
                Dim::from(match op {
                    LogicOp::And => x & y,
                    LogicOp::Or => x | y,
                    LogicOp::Xor => x ^ y,
                })
            }
            Function::Mean
            | Function::PRelu
            | Function::SwiGlu { .. }
            | Function::Bitwise(_)
            | Function::BitShift { .. } => return None,
        })
    }
}

fn compare(op: CompareOp, ordering: Option<Ordering>) -> bool {
    match op {
        CompareOp::Equal => ordering.is_some_and(|ordering| ordering.is_eq()),
        CompareOp::NotEqual => !ordering.is_some_and(|ordering| ordering.is_eq()),
        CompareOp::Less => ordering.is_some_and(|ordering| ordering.is_lt()),
        CompareOp::LessOrEqual => ordering.is_some_and(|ordering| ordering.is_le()),
        CompareOp::Greater => ordering.is_some_and(|ordering| ordering.is_gt()),
        CompareOp::GreaterOrEqual => ordering.is_some_and(|ordering| ordering.is_ge()),
    }
}

fn compare_dims(op: CompareOp, x: &Dim, y: &Dim) -> Option<bool> {
    let zero = Dim::from(0);
    let difference = x.clone() - y.clone();
    let ordering = match difference.known() {
        Some(difference) => difference.cmp(&0),
        // Surely above or surely below settles all comparisons; "not below" does not settle equality.
        None if difference.lower_bound() > Some(0) => Ordering::Greater,
        None if (-difference.clone()).lower_bound() > Some(0) => Ordering::Less,
        None => {
            return match op {
                CompareOp::GreaterOrEqual if difference.is_at_least(&zero) => Some(true),
                CompareOp::Less if difference.is_at_least(&zero) => Some(false),
                CompareOp::LessOrEqual if (-difference.clone()).is_at_least(&zero) => Some(true),
                CompareOp::Greater if (-difference).is_at_least(&zero) => Some(false),
                _ => None,
            };
        }
    };
    Some(compare(op, Some(ordering)))
}

/// `x` to an integer power; to a negative one, what is left of the fraction.
fn power(x: i64, y: i64) -> i64 {
    match u64::try_from(y) {
        Ok(y) => wrapping_power(x, y),
        Err(_) if x == 1 => 1,
        Err(_) if x == -1 => 1 - 2 * (y & 1),
        Err(_) => 0,
    }
}

fn wrapping_power(mut x: i64, mut y: u64) -> i64 {
    let mut result = 1i64;
    while y > 0 {
        if y & 1 == 1 {
            result = result.wrapping_mul(x);
        }
        x = x.wrapping_mul(x);
        y >>= 1;
    }
    result
}

impl Binary {
    /// The second input's shape, with the trailing ones that align it with the first's.
    fn aligned<D: Clone>(&self, first_rank: usize, second: &[D], one: D) -> Result<Vec<D>> {
        let mut shape = second.to_vec();
        if let Some(axis) = self.axis
            && !second.is_empty()
            && first_rank > 0
        {
            let is_shared = self.function == Function::PRelu && second.len() != 1;
            let axis = if self.function == Function::PRelu && first_rank == 1 {
                0
            } else {
                axis
            };
            let end = resolve_axis(axis, first_rank)? + second.len();
            if end < first_rank && !is_shared {
                shape.resize(second.len() + first_rank - end, one);
            }
        }
        Ok(shape)
    }

    /// The GPU kernel of what is no expression: integers, and inputs aligned by an attribute.
    fn on_words(&self, ctx: &GpuLowering<'_>) -> Option<GpuKernel> {
        let count = ctx.input_count();
        let types = (0..count).map(|index| GpuType::from_dtype(ctx.optional_input(index)?.dtype));
        let types: Vec<GpuType> = types.collect::<Option<_>>()?;
        let (ty, other) = (types[0], *types.get(1)?);
        let is_float = ty == GpuType::F32;
        let is_power = self.function == Function::Pow && matches!(other, GpuType::I32 | GpuType::U32);
        if ty == GpuType::Bool || !(is_power || types.iter().all(|&each| each == ty)) {
            return None;
        }
        let divides = matches!(self.function, Function::Div | Function::Mod { .. }) && !is_float;
        let value = |x: &str, y: &str| {
            let infix = |sign: &str| format!("({x} {sign} {y})");
            Some(match self.function {
                Function::Add => infix("+"),
                Function::Sub => infix("-"),
                Function::Mul => infix("*"),
                Function::Div => infix("/"),
                Function::PRelu if ty != GpuType::U32 => format!("select({x}, {x} * {y}, {x} < {}(0))", ty.wgsl()),
                Function::Pow if is_float => format!("float_power({x}, {y})"),
                Function::Pow => format!("int_power({x}, {y})"),
                _ if is_float => return None,
                Function::Mod { like_c: false } if ty == GpuType::I32 => format!("modulo({x}, {y})"),
                Function::Mod { .. } => infix("%"),
                Function::Min => format!("min({x}, {y})"),
                Function::Max => format!("max({x}, {y})"),
                Function::Compare(op) => {
                    let sign = match op {
                        CompareOp::Equal => "==",
                        CompareOp::NotEqual => "!=",
                        CompareOp::Less => "<",
                        CompareOp::LessOrEqual => "<=",
                        CompareOp::Greater => ">",
                        CompareOp::GreaterOrEqual => ">=",
                    };
                    format!("select(0u, 1u, {x} {sign} {y})")
                }
                Function::Bitwise(LogicOp::And) => infix("&"),
                Function::Bitwise(LogicOp::Or) => infix("|"),
                Function::Bitwise(LogicOp::Xor) => infix("^"),
                Function::BitShift { left: true } => {
                    format!("select({x} << (u32({y}) & 31u), {}(0), u32({y}) > 31u)", ty.wgsl())
                }
                Function::BitShift { left: false } if ty == GpuType::I32 => format!("({x} >> min(u32({y}), 31u))"),
                Function::BitShift { left: false } => format!("select({x} >> ({y} & 31u), 0u, {y} > 31u)"),
                _ => return None,
            })
        };
        let names = (1..count).map(|index| format!("x{index}"));
        let value = { names }.try_fold("x0".to_string(), |so_far, next| value(&so_far, &next))?;
        let aligned = self
            .aligned(ctx.input(0).ok()?.shape.len(), &ctx.input(1).ok()?.shape, 1)
            .ok()?;
        let mut checks = Vec::new();
        for index in 1..count {
            let desc = ctx.optional_input(index).filter(|_| divides);
            match desc.map(|desc| (desc, &desc.constant)) {
                Some((desc, Some(constant))) => Check::NotZero.run(desc.dtype, constant.bytes()).ok()?,
                Some((_, None)) => checks.push((index, Check::NotZero)),
                None => {}
            }
        }
        let inputs = (0..count).map(|index| Input {
            index,
            ty: types[index].wgsl(),
            shape: match index {
                1 => &aligned,
                _ => ctx.inputs[index].as_ref().map_or(&aligned, |desc| &desc.shape),
            },
        });
        let output = if self.function.is_test() { "u32" } else { ty.wgsl() };
        let kernel = gpu_elementwise::kernel(
            &value,
            &inputs.collect::<Vec<_>>(),
            output,
            &ctx.optional_output(0)?.shape,
            |dispatch| {
                dispatch
                    .define("T", ty.wgsl())
                    .define("E", other.wgsl())
                    .flag("POWER", is_power)
                    .flag("FLOAT", is_float)
                    .flag("SIGNED", ty == GpuType::I32)
                    .flag("SIGNEDEXPONENT", other == GpuType::I32)
                    .flag("MODULO", value.contains("modulo"))
            },
            ctx.caps,
        )?;
        Some(GpuKernel { checks, ..kernel })
    }

    /// The inputs as operands, aligned by the rule of the opset.
    fn operands(&self, ctx: &CpuLowering<'_>) -> Result<Vec<Operand>> {
        let mut operands = ctx.operands();
        if let [first, second] = operands.as_mut_slice() {
            second.shape = self.aligned(first.shape.len(), &second.shape, 1)?;
        }
        Ok(operands)
    }
}

/// The constant exponent of `Pow`, when it is one number.
fn constant_exponent(tensor: Option<&Tensor>) -> Option<f32> {
    let tensor = tensor.filter(|tensor| tensor.len() == 1)?;
    match tensor.to_f32s() {
        Ok(values) => values.first().copied(),
        Err(_) => tensor.to_i64s().ok()?.first().map(|&value| value as f32),
    }
}

fn is_short_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

impl Operator for Binary {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let count = ctx.input_count();
        if count == 0 || (!self.function.is_variadic() && count != 2) {
            return Err(invalid("the operator has the wrong number of inputs").actual(count.to_string()));
        }
        let dtype = ctx.dtype(0)?;
        for index in 1..count {
            let other = ctx.dtype(index)?;
            if other != dtype && self.function != Function::Pow {
                return Err(invalid(format!("inputs 0 and {index} have different element types"))
                    .expected(dtype.name())
                    .actual(other.name()));
            }
        }
        let shape = match (self.axis, ctx.shape(0), ctx.shape(1)) {
            (Some(_), Some(first), Some(second)) => {
                broadcast_dims(first, &self.aligned(first.len(), second, Dim::from(1))?)?
            }
            (Some(_), _, _) => None,
            (None, _, _) => ctx.broadcast(&(0..count).collect::<Vec<_>>())?,
        };
        let dtype = if self.function.is_test() { DType::Bool } else { dtype };
        ctx.set_output(0, dtype, shape.clone());
        if tracks(dtype) && self.axis.is_none() {
            infer_elements(self.function, ctx);
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let function = self.function;
        let dtype = ctx.input(0)?.dtype;
        let inputs = self.operands(ctx)?;
        let output = ctx.result(0)?;
        let second = inputs.get(1).map_or(dtype, |input| input.dtype);
        if matches!(function, Function::Mean | Function::SwiGlu { .. }) && !dtype.is_float() {
            return Err(ctx.unsupported_type(0));
        }
        match dtype {
            DType::String if function == Function::Compare(CompareOp::Equal) => equal_strings(inputs, output),
            DType::String => Err(ctx.unsupported_type(0)),
            _ if is_short_float(dtype) && (function == Function::Pow || is_short_float(second)) => {
                let exponent = match function {
                    Function::Pow => constant_exponent(ctx.constant(1)),
                    _ => None,
                };
                if exponent.is_none() && !is_short_float(second) {
                    return wide_floats(function, inputs, output);
                }
                let inputs = if exponent.is_some() {
                    inputs[..1].to_vec()
                } else {
                    inputs
                };
                match function.expr(inputs.len(), Storage::F32, exponent)? {
                    Some(expr) => expression::kernel("pointwise", &expr, inputs, vec![output]),
                    None => Err(ctx.unsupported_type(0)),
                }
            }
            DType::Bool => match function.expr(inputs.len(), Storage::Bool, None)? {
                Some(expr) => expression::kernel("pointwise", &expr, inputs, vec![output]),
                None => Err(ctx.unsupported_type(0)),
            },
            DType::F64
                if matches!(
                    function,
                    Function::Logic(_) | Function::Bitwise(_) | Function::BitShift { .. }
                ) =>
            {
                Err(ctx.unsupported_type(0))
            }
            DType::F64 => wide_floats(function, inputs, output),
            _ if matches!(function, Function::Logic(_)) => Err(ctx.unsupported_type(0)),
            _ if second.is_float() => float_powers(inputs, output),
            _ => {
                let is_u64 = dtype == DType::U64;
                elementwise::kernel(
                    "binary_int",
                    inputs,
                    output,
                    move |tiles: &[&[i64]], results: &mut [i64]| {
                        results.copy_from_slice(tiles[0]);
                        tiles[1..]
                            .iter()
                            .try_for_each(|tile| function.apply_int(is_u64, results, tile))
                    },
                )
            }
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let kernel = on_gpu::pointwise_kernel(self, ctx);
        if kernel.is_some() || !ALL_OPERATORS {
            return Ok(kernel);
        }
        Ok(self.on_words(ctx))
    }

    fn pointwise(&self, inputs: &[PointwiseInput<'_>]) -> Option<PointwiseForm> {
        let first = inputs.first()?;
        let storage = match first.dtype {
            DType::F32 => Storage::F32,
            DType::Bool => Storage::Bool,
            _ => return None,
        };
        if self.axis.is_some() {
            return None;
        }
        if self.function == Function::Pow
            && storage == Storage::F32
            && let Some(exponent) = constant_exponent(inputs.get(1)?.constant)
        {
            let expr = self.function.expr(1, storage, Some(exponent)).ok()??;
            return Some(PointwiseForm { expr, inputs: vec![0] });
        }
        if inputs.iter().any(|input| !input.given || input.dtype != first.dtype) {
            return None;
        }
        let expr = self.function.expr(inputs.len(), storage, None).ok()??;
        Some(PointwiseForm {
            expr,
            inputs: (0..inputs.len()).collect(),
        })
    }
}

/// Work on f64s, widened from whatever the inputs are.
fn wide_floats(function: Function, inputs: Vec<Operand>, output: Operand) -> Result<CpuKernel> {
    let count = inputs.len() as f64;
    if output.dtype == DType::Bool {
        return elementwise::kernel(
            "binary_f64",
            inputs,
            output,
            move |tiles: &[&[f64]], results: &mut [i64]| {
                let mut wide = tiles[0].to_vec();
                tiles[1..].iter().for_each(|tile| function.apply_f64(&mut wide, tile));
                results.iter_mut().zip(wide).for_each(|(to, from)| *to = from as i64);
                Ok(())
            },
        );
    }
    elementwise::kernel(
        "binary_f64",
        inputs,
        output,
        move |tiles: &[&[f64]], results: &mut [f64]| {
            results.copy_from_slice(tiles[0]);
            tiles[1..].iter().for_each(|tile| function.apply_f64(results, tile));
            if function == Function::Mean {
                results.iter_mut().for_each(|sum| *sum /= count);
            }
            Ok(())
        },
    )
}

/// Integers to floating-point powers: computed as f64 and cut off, at the ends of `i64` at most.
fn float_powers(inputs: Vec<Operand>, output: Operand) -> Result<CpuKernel> {
    let is_u64 = output.dtype == DType::U64;
    elementwise::kernel(
        "pow_int_f64",
        inputs,
        output,
        move |tiles: &[&[f64]], results: &mut [i64]| {
            for ((to, &x), &y) in results.iter_mut().zip(tiles[0]).zip(tiles[1]) {
                let power = x.powf(y);
                *to = if is_u64 { power as u64 as i64 } else { power as i64 };
            }
            Ok(())
        },
    )
}

fn equal_strings(inputs: Vec<Operand>, output: Operand) -> Result<CpuKernel> {
    let strides = inputs
        .iter()
        .map(|input| broadcast_strides(&output.shape, &input.shape))
        .collect::<Option<Vec<_>>>()
        .filter(|strides| strides.len() == 2)
        .ok_or_else(|| Error::internal("strings do not broadcast"))?;
    let count = element_count(&output.shape)?;
    Ok(CpuKernel::dynamic("equal_strings", move |tensors| {
        let strings = |index: usize| match tensors.get(index) {
            Some(Some(tensor)) => tensor.strings(),
            _ => Err(Error::internal("an input of strings is missing")),
        };
        let (first, second) = (strings(0)?, strings(1)?);
        let equal = (0..count).map(|flat| {
            let place = |strides: &[usize]| {
                let mut rest = flat;
                let mut offset = 0;
                for (&dim, &stride) in output.shape.iter().zip(strides).rev() {
                    offset += rest % dim * stride;
                    rest /= dim;
                }
                offset
            };
            let pair = first.get(place(&strides[0])).zip(second.get(place(&strides[1])));
            crate::tensor::Bool8::from(pair.is_some_and(|(a, b)| a == b))
        });
        Ok(vec![Tensor::new(&output.shape, equal.collect())?])
    }))
}

fn infer_elements(function: Function, ctx: &mut InferContext<'_>) {
    let Some(shape) = ctx.outputs.first().and_then(|output| output.concrete_shape()) else {
        return;
    };
    if !element_count(&shape).is_ok_and(|count| count <= super::context::MAX_TRACKED_ELEMENTS) {
        return;
    }
    let dtype = ctx.outputs[0].dtype;
    let mut operands = Vec::new();
    for index in 0..ctx.input_count() {
        let Some(facts) = ctx.input(index) else { return };
        let (Some(elements), Some(own)) = (&facts.elements, facts.concrete_shape()) else {
            return;
        };
        let Some(strides) = broadcast_strides(&shape, &own) else {
            return;
        };
        operands.push((elements, strides));
    }
    let count = shape.iter().product::<usize>();
    let elements = (0..count).map(|flat| {
        let mut values = operands.iter().map(|(elements, strides)| {
            let mut rest = flat;
            let mut offset = 0;
            for (&dim, &stride) in shape.iter().zip(strides).rev() {
                offset += rest % dim * stride;
                rest /= dim;
            }
            &elements[offset]
        });
        let first = values.next()?.clone();
        let result = values.try_fold(first, |result, next| function.of_dims(&result, next))?;
        // Types narrower than i64 wrap around, which dimensions do not.
        let fits = match (dtype, result.known()) {
            (Some(DType::I64), _) | (_, None) => true,
            (Some(DType::I32), Some(value)) => i32::try_from(value).is_ok(),
            (_, Some(value)) => (0..=127).contains(&value),
        };
        fits.then_some(result)
    });
    if let Some(elements) = elements.collect::<Option<Vec<_>>>() {
        ctx.set_elements(0, elements);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};
    use super::*;
    use crate::tensor::{Bool8, Element};
    use half::f16;

    fn run<T: Element>(name: &str, x: &[T], y: &[T]) -> Result<Tensor> {
        let node = TestNode::new(name, 18)
            .input(tensor(&[x.len()], x))
            .input(tensor(&[y.len()], y));
        node.run1()
    }

    #[test]
    fn integers_follow_numpy_and_c() {
        let (x, y) = ([7i32, -7, 7, -7, i32::MIN], [3i32, 3, -3, -3, -1]);
        let cases: [(&str, [i32; 5]); 5] = [
            ("Add", [10, -4, 4, -10, i32::MAX]),
            ("Mul", [21, -21, -21, 21, i32::MIN]),
            ("Div", [2, -2, -2, 2, i32::MIN]),
            ("Mod", [1, 2, -2, -1, 0]),
            ("Max", [7, 3, 7, -3, -1]),
        ];
        for (name, expected) in cases {
            assert_eq!(run(name, &x, &y).unwrap(), tensor(&[5], &expected), "{name}");
        }
        let fmod = TestNode::new("Mod", 13)
            .attr("fmod", 1)
            .input(tensor(&[5], &x))
            .input(tensor(&[5], &y));
        assert_eq!(fmod.run1().unwrap(), tensor(&[5], &[1, -1, 1, -1, 0]));
        let floats = run("Mod", &[7f32, -7.0, 7.0, -7.0], &[3.0, 3.0, -3.0, -3.0]).unwrap();
        assert_eq!(floats, f32s(&[4], &[1.0, 2.0, -2.0, -1.0]));
        assert_eq!(
            run("Pow", &[2i64, -1, 3], &[10, -3, -1]).unwrap(),
            i64s(&[3], &[1024, -1, 0])
        );
        assert_eq!(run("Add", &[200u8], &[100]).unwrap(), tensor(&[1], &[44u8]));
        assert_eq!(run("Div", &[u64::MAX], &[2]).unwrap(), tensor(&[1], &[u64::MAX / 2]));
        assert_eq!(run("Min", &[u64::MAX], &[2]).unwrap(), tensor(&[1], &[2u64]));
    }

    #[test]
    fn integer_division_by_zero_is_an_error() {
        for name in ["Div", "Mod"] {
            let error = run(name, &[1i64, 2], &[1, 0]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::RunFailed, "{name}");
        }
    }

    #[test]
    fn comparisons_are_exact_at_the_ends_of_types() {
        let less = |a: u64, b: u64| run("Less", &[a], &[b]).unwrap();
        assert_eq!(less(1, u64::MAX), tensor(&[1], &[Bool8(1)]));
        let big = i64::MAX;
        assert_eq!(run("Equal", &[big], &[big - 1]).unwrap(), tensor(&[1], &[Bool8(0)]));
        assert_eq!(
            run("GreaterOrEqual", &[f64::NAN, 1.0], &[1.0, 1.0]).unwrap(),
            tensor(&[2], &[Bool8(0), Bool8(1)])
        );
        assert_eq!(
            run("Equal", &[Bool8(1), Bool8(0)], &[Bool8(1), Bool8(1)]).unwrap(),
            tensor(&[2], &[Bool8(1), Bool8(0)])
        );
        let strings = |list: [&str; 2]| Tensor::from_strings(&[2], list.map(String::from).to_vec()).unwrap();
        let node = TestNode::new("Equal", 19)
            .input(strings(["a", "b"]))
            .input(strings(["a", "c"]));
        assert_eq!(node.run1().unwrap(), tensor(&[2], &[Bool8(1), Bool8(0)]));
    }

    #[test]
    fn shifts_beyond_the_width_leave_the_sign() {
        let shift = |direction: &str, x: u8, y: u8| {
            let node = TestNode::new("BitShift", 11).attr("direction", direction);
            node.input(tensor(&[1], &[x])).input(tensor(&[1], &[y])).run1().unwrap()
        };
        assert_eq!(shift("LEFT", 0x81, 1), tensor(&[1], &[2u8]));
        assert_eq!(shift("LEFT", 1, 200), tensor(&[1], &[0u8]));
        assert_eq!(shift("RIGHT", 0x81, 1), tensor(&[1], &[0x40u8]));
        let signed = TestNode::new("BitShift", 27)
            .attr("direction", "RIGHT")
            .input(tensor(&[2], &[-8i8, -8]));
        assert_eq!(
            signed.input(tensor(&[2], &[1i8, 100])).run1().unwrap(),
            tensor(&[2], &[-4i8, -1])
        );
    }

    #[test]
    fn every_type_broadcasts_as_the_reference_does() {
        let mut seed = 5u64;
        let mut random = move |bound: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % bound
        };
        for _ in 0..200 {
            let rank = random(4);
            let shape: Vec<usize> = (0..rank).map(|_| [1, 2, 3, 5, 17][random(5)]).collect();
            let mut part = |shape: &[usize]| -> Vec<usize> {
                let kept = &shape[random(shape.len() + 1)..];
                kept.iter().map(|&dim| if random(3) == 0 { 1 } else { dim }).collect()
            };
            let (a, b) = (part(&shape), part(&shape));
            let count = |shape: &[usize]| shape.iter().product::<usize>();
            let x: Vec<i32> = (0..count(&a)).map(|_| random(100) as i32 - 50).collect();
            let y: Vec<i32> = (0..count(&b)).map(|_| random(100) as i32 + 1).collect();
            let out = crate::tensor::broadcast_shapes(&[&a, &b]).unwrap();
            let at = |shape: &[usize], flat: usize| {
                let strides = broadcast_strides(&out, shape).unwrap();
                let (mut rest, mut offset) = (flat, 0);
                for (&dim, &stride) in out.iter().zip(&strides).rev() {
                    offset += rest % dim * stride;
                    rest /= dim;
                }
                offset
            };
            let expected: Vec<i32> = (0..count(&out)).map(|i| x[at(&a, i)] - y[at(&b, i)]).collect();
            let to = |list: &[i32]| list.iter().map(|&v| v as f32).collect::<Vec<_>>();
            let node = |x: Tensor, y: Tensor| TestNode::new("Sub", 14).input(x).input(y).run1().unwrap();
            assert_eq!(
                node(tensor(&a, &x), tensor(&b, &y)),
                tensor(&out, &expected),
                "{a:?} {b:?}"
            );
            assert_eq!(node(f32s(&a, &to(&x)), f32s(&b, &to(&y))), f32s(&out, &to(&expected)));
            let half = |list: &[i32]| list.iter().map(|&v| f16::from_f32(v as f32)).collect::<Vec<_>>();
            assert_eq!(
                node(tensor(&a, &half(&x)), tensor(&b, &half(&y))),
                tensor(&out, &half(&expected))
            );
        }
    }

    #[test]
    fn variadic_operators_fold_all_inputs() {
        let node = |name: &str| {
            let node = TestNode::new(name, 13).input(f32s(&[3], &[1.0, 2.0, 9.0]));
            node.input(f32s(&[1], &[4.0]))
                .input(f32s(&[3], &[7.0, 0.0, 2.0]))
                .run1()
                .unwrap()
        };
        assert_tensor_close(&node("Sum"), &f32s(&[3], &[12.0, 6.0, 15.0]), 0.0);
        assert_tensor_close(&node("Mean"), &f32s(&[3], &[4.0, 2.0, 5.0]), 1e-6);
        assert_tensor_close(&node("Max"), &f32s(&[3], &[7.0, 4.0, 9.0]), 0.0);
        assert_eq!(
            TestNode::new("Max", 13).input(f32s(&[1], &[3.0])).run1().unwrap(),
            f32s(&[1], &[3.0])
        );
    }

    #[test]
    fn powers_mix_types() {
        let base = || TestNode::new("Pow", 15).input(f32s(&[3], &[1.0, -2.0, 3.0]));
        let expected = f32s(&[3], &[1.0, 4.0, 9.0]);
        assert_eq!(base().constant(i64s(&[], &[2])).run1().unwrap(), expected);
        assert_eq!(base().input(i64s(&[], &[2])).run1().unwrap(), expected);
        assert_eq!(base().input(f32s(&[], &[2.0])).run1().unwrap(), expected);
        let ints = TestNode::new("Pow", 15)
            .input(i64s(&[2], &[4, 9]))
            .input(f32s(&[1], &[0.5]));
        assert_eq!(ints.run1().unwrap(), i64s(&[2], &[2, 3]));
    }

    #[test]
    fn attribute_axis_aligns_before_opset_7() {
        let x = f32s(&[1, 2, 2], &[0.0, 0.0, 0.0, 0.0]);
        let node = TestNode::new("Add", 6).attr("broadcast", 1).attr("axis", 1);
        let result = node.input(x).input(f32s(&[2], &[1.0, 2.0])).run1().unwrap();
        assert_eq!(result, f32s(&[1, 2, 2], &[1.0, 1.0, 2.0, 2.0]));
    }

    #[test]
    fn symbolic_elements_are_computed_where_signs_are_sure() {
        let n = Dim::symbol("n");
        let of = |f: Function, x: Dim, y: Dim| f.of_dims(&x, &y);
        assert_eq!(
            of(Function::Div, n.clone() * Dim::from(4), Dim::from(2)),
            Some(n.clone() * Dim::from(2))
        );
        assert_eq!(of(Function::Div, n.clone() - Dim::from(4), Dim::from(2)), None);
        assert_eq!(of(Function::Div, Dim::from(-7), Dim::from(2)), Some(Dim::from(-3)));
        let equal = Function::Compare(CompareOp::Equal);
        assert_eq!(of(equal, n.clone(), Dim::from(-1)), Some(Dim::from(0)));
        assert_eq!(of(equal, n.clone(), Dim::from(1)), None);
        assert_eq!(of(equal, n.clone(), n), Some(Dim::from(1)));
    }
}
