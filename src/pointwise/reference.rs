//! What every operation means, one element at a time.
//!
//! [`eval`] is the definition that both back ends are tested against, and what [`super::Builder`] folds constants
//! with. It favours plainness over speed; the CPU tiles may differ from it by a few units in the last place in the
//! transcendental functions, and nowhere else.

use super::{BinaryOp, CompareOp, Expr, LogicOp, Node, TestOp, UnaryOp};

/// A register's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    F32(f32),
    Bool(bool),
}

impl Scalar {
    /// The value as f32; a Bool counts as 1 or 0.
    pub fn f32(self) -> f32 {
        match self {
            Scalar::F32(x) => x,
            Scalar::Bool(b) => b as u8 as f32,
        }
    }

    /// The value as a truth value; a number is true unless it is zero.
    pub fn bool(self) -> bool {
        match self {
            Scalar::F32(x) => x != 0.0,
            Scalar::Bool(b) => b,
        }
    }
}

/// The outputs of `expr` for one element of each input.
///
/// Fewer inputs than the expression has count as zero.
pub fn eval(expr: &Expr, inputs: &[Scalar]) -> Vec<Scalar> {
    let mut regs: Vec<Scalar> = Vec::with_capacity(expr.nodes().len());
    for node in expr.nodes() {
        let value = match *node {
            Node::Input(i) => inputs.get(i as usize).copied().unwrap_or(Scalar::F32(0.0)),
            _ => eval_node(node, |reg| regs[reg.index()]),
        };
        regs.push(value);
    }
    expr.outputs().iter().map(|o| regs[o.reg.index()]).collect()
}

/// One node, given the values of its operands. An `Input` has none and yields zero.
pub(super) fn eval_node(node: &Node, value: impl Fn(super::Reg) -> Scalar) -> Scalar {
    match *node {
        Node::Input(_) => Scalar::F32(0.0),
        Node::Const(bits) => Scalar::F32(f32::from_bits(bits)),
        Node::ConstBool(b) => Scalar::Bool(b),
        Node::Unary(op, a) => Scalar::F32(unary(op, value(a).f32())),
        Node::Test(op, a) => Scalar::Bool(test(op, value(a).f32())),
        Node::Not(a) => Scalar::Bool(!value(a).bool()),
        Node::Binary(op, a, b) => Scalar::F32(binary(op, value(a).f32(), value(b).f32())),
        Node::Compare(op, a, b) => Scalar::Bool(compare(op, value(a).f32(), value(b).f32())),
        Node::Logic(op, a, b) => Scalar::Bool(logic(op, value(a).bool(), value(b).bool())),
        Node::Select(c, a, b) => value(if value(c).bool() { a } else { b }),
        Node::ToBool(a) => Scalar::Bool(value(a).bool()),
        Node::ToF32(a) => Scalar::F32(value(a).f32()),
    }
}

pub fn unary(op: UnaryOp, x: f32) -> f32 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Sign => {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else if x == 0.0 {
                0.0
            } else {
                x
            }
        }
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Tan => x.tan(),
        UnaryOp::Asin => x.asin(),
        UnaryOp::Acos => x.acos(),
        UnaryOp::Atan => x.atan(),
        UnaryOp::Sinh => x.sinh(),
        UnaryOp::Cosh => x.cosh(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Asinh => x.asinh(),
        UnaryOp::Acosh => x.acosh(),
        UnaryOp::Atanh => x.atanh(),
        UnaryOp::Erf => erf(x),
        UnaryOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Softplus => binary(BinaryOp::Max, x, 0.0) + (-x.abs()).exp().ln_1p(),
        UnaryOp::Relu => binary(BinaryOp::Max, x, 0.0),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::Round => x.round_ties_even(),
    }
}

pub fn test(op: TestOp, x: f32) -> bool {
    match op {
        TestOp::IsNan => x.is_nan(),
        TestOp::IsInf { positive, negative } => {
            (positive && x == f32::INFINITY) || (negative && x == f32::NEG_INFINITY)
        }
    }
}

pub fn binary(op: BinaryOp, a: f32, b: f32) -> f32 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Min if a.is_nan() || b.is_nan() => f32::NAN,
        BinaryOp::Max if a.is_nan() || b.is_nan() => f32::NAN,
        BinaryOp::Min => a.min(b),
        BinaryOp::Max => a.max(b),
        BinaryOp::Fmod => a % b,
    }
}

pub fn compare(op: CompareOp, a: f32, b: f32) -> bool {
    match op {
        CompareOp::Equal => a == b,
        CompareOp::NotEqual => a != b,
        CompareOp::Less => a < b,
        CompareOp::LessOrEqual => a <= b,
        CompareOp::Greater => a > b,
        CompareOp::GreaterOrEqual => a >= b,
    }
}

pub fn logic(op: LogicOp, a: bool, b: bool) -> bool {
    match op {
        LogicOp::And => a & b,
        LogicOp::Or => a | b,
        LogicOp::Xor => a ^ b,
    }
}

/// The error function, correctly rounded but for rare ties.
pub fn erf(x: f32) -> f32 {
    erf_f64(x.into()) as f32
}

/// The error function of an f64.
///
/// `erf(x) = 2/√π · e^(-x²) · Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1))`: every term has the sign of x, so nothing cancels.
pub fn erf_f64(x: f64) -> f64 {
    // From 6 on, the result rounds to one.
    if x.is_nan() || x.abs() >= 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-17 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// The elements of one tensor, for [`eval_tensors`].
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    F32(Vec<f32>),
    Bool(Vec<u8>),
}

impl Elements {
    fn get(&self, index: usize) -> Scalar {
        match self {
            Elements::F32(v) => Scalar::F32(v[index]),
            Elements::Bool(v) => Scalar::Bool(v[index] != 0),
        }
    }
}

/// `expr` at every position of `output_shape`, each input `(shape, elements)` broadcast to it as ONNX does.
///
/// # Panics
/// When an input does not broadcast to the shape or holds too few elements: this is for tests.
pub fn eval_tensors(expr: &Expr, output_shape: &[usize], inputs: &[(Vec<usize>, Elements)]) -> Vec<Elements> {
    let mut outputs: Vec<Elements> = expr
        .outputs()
        .iter()
        .map(|o| match o.storage {
            super::Storage::F32 => Elements::F32(Vec::new()),
            super::Storage::Bool => Elements::Bool(Vec::new()),
        })
        .collect();
    for flat in 0..output_shape.iter().product() {
        let mut index = vec![0; output_shape.len()];
        let mut rest: usize = flat;
        for (i, &dim) in output_shape.iter().enumerate().rev() {
            index[i] = rest % dim;
            rest /= dim;
        }
        let values: Vec<Scalar> = inputs
            .iter()
            .map(|(shape, elements)| {
                let lead = output_shape.len() - shape.len();
                let offset = shape.iter().enumerate().fold(0, |offset, (i, &dim)| {
                    offset * dim + if dim == 1 { 0 } else { index[lead + i] }
                });
                elements.get(offset)
            })
            .collect();
        for (out, value) in outputs.iter_mut().zip(eval(expr, &values)) {
            match out {
                Elements::F32(v) => v.push(value.f32()),
                Elements::Bool(v) => v.push(value.bool() as u8),
            }
        }
    }
    outputs
}
