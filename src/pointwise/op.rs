//! The scalar operations of the IR, each with the ONNX operator it stands for.
//!
//! What an operation returns at the edges (NaN, infinities, signed zero) is defined by [`super::reference`]; the
//! docstrings name only what might surprise. Activations with parameters (`LeakyRelu`, `Gelu`, `HardSwish`, …) are
//! not here: [`super::Builder`] composes them.

/// F32 → F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// ONNX `Neg`.
    Neg,
    /// ONNX `Abs`.
    Abs,
    /// ONNX `Sign`: -1, 0 or 1; NaN for NaN.
    Sign,
    /// ONNX `Sqrt`: NaN below zero.
    Sqrt,
    /// ONNX `Reciprocal`.
    Reciprocal,
    /// ONNX `Exp`.
    Exp,
    /// ONNX `Log`: -inf at zero, NaN below.
    Log,
    /// ONNX `Sin`.
    Sin,
    /// ONNX `Cos`.
    Cos,
    /// ONNX `Tan`.
    Tan,
    /// ONNX `Asin`.
    Asin,
    /// ONNX `Acos`.
    Acos,
    /// ONNX `Atan`.
    Atan,
    /// ONNX `Sinh`.
    Sinh,
    /// ONNX `Cosh`.
    Cosh,
    /// ONNX `Tanh`.
    Tanh,
    /// ONNX `Asinh`.
    Asinh,
    /// ONNX `Acosh`.
    Acosh,
    /// ONNX `Atanh`.
    Atanh,
    /// ONNX `Erf`.
    Erf,
    /// ONNX `Sigmoid`: 1 / (1 + exp(-x)).
    Sigmoid,
    /// ONNX `Softplus`: log(1 + exp(x)), without overflow.
    Softplus,
    /// ONNX `Relu`: max(x, 0), NaN for NaN.
    Relu,
    /// ONNX `Floor`.
    Floor,
    /// ONNX `Ceil`.
    Ceil,
    /// ONNX `Round`: halves go to the even neighbour.
    Round,
}

impl UnaryOp {
    pub const ALL: [UnaryOp; 26] = [
        UnaryOp::Neg,
        UnaryOp::Abs,
        UnaryOp::Sign,
        UnaryOp::Sqrt,
        UnaryOp::Reciprocal,
        UnaryOp::Exp,
        UnaryOp::Log,
        UnaryOp::Sin,
        UnaryOp::Cos,
        UnaryOp::Tan,
        UnaryOp::Asin,
        UnaryOp::Acos,
        UnaryOp::Atan,
        UnaryOp::Sinh,
        UnaryOp::Cosh,
        UnaryOp::Tanh,
        UnaryOp::Asinh,
        UnaryOp::Acosh,
        UnaryOp::Atanh,
        UnaryOp::Erf,
        UnaryOp::Sigmoid,
        UnaryOp::Softplus,
        UnaryOp::Relu,
        UnaryOp::Floor,
        UnaryOp::Ceil,
        UnaryOp::Round,
    ];

    /// The name it is printed under.
    pub fn name(self) -> &'static str {
        match self {
            UnaryOp::Neg => "neg",
            UnaryOp::Abs => "abs",
            UnaryOp::Sign => "sign",
            UnaryOp::Sqrt => "sqrt",
            UnaryOp::Reciprocal => "reciprocal",
            UnaryOp::Exp => "exp",
            UnaryOp::Log => "log",
            UnaryOp::Sin => "sin",
            UnaryOp::Cos => "cos",
            UnaryOp::Tan => "tan",
            UnaryOp::Asin => "asin",
            UnaryOp::Acos => "acos",
            UnaryOp::Atan => "atan",
            UnaryOp::Sinh => "sinh",
            UnaryOp::Cosh => "cosh",
            UnaryOp::Tanh => "tanh",
            UnaryOp::Asinh => "asinh",
            UnaryOp::Acosh => "acosh",
            UnaryOp::Atanh => "atanh",
            UnaryOp::Erf => "erf",
            UnaryOp::Sigmoid => "sigmoid",
            UnaryOp::Softplus => "softplus",
            UnaryOp::Relu => "relu",
            UnaryOp::Floor => "floor",
            UnaryOp::Ceil => "ceil",
            UnaryOp::Round => "round",
        }
    }
}

/// F32 → Bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TestOp {
    /// ONNX `IsNaN`.
    IsNan,
    /// ONNX `IsInf`, with its attributes `detect_positive` and `detect_negative`.
    IsInf { positive: bool, negative: bool },
}

/// F32, F32 → F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// ONNX `Add`.
    Add,
    /// ONNX `Sub`.
    Sub,
    /// ONNX `Mul`.
    Mul,
    /// ONNX `Div`.
    Div,
    /// ONNX `Pow`, as IEEE 754 `pow`: a negative base takes integer exponents only, and `pow(x, 0)` is 1 for every x.
    Pow,
    /// ONNX `Min`: NaN if either is NaN.
    Min,
    /// ONNX `Max`: NaN if either is NaN.
    Max,
    /// ONNX `Mod` with `fmod = 1` (the only form it has for floats): the result takes the sign of the dividend.
    Fmod,
}

impl BinaryOp {
    pub const ALL: [BinaryOp; 8] = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Pow,
        BinaryOp::Min,
        BinaryOp::Max,
        BinaryOp::Fmod,
    ];

    /// Whether exchanging the operands leaves the result as it is.
    pub fn is_commutative(self) -> bool {
        matches!(self, BinaryOp::Add | BinaryOp::Mul | BinaryOp::Min | BinaryOp::Max)
    }
}

/// F32, F32 → Bool. All but `NotEqual` are false when either side is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompareOp {
    /// ONNX `Equal`.
    Equal,
    /// The negation of `Equal`; true when either side is NaN.
    NotEqual,
    /// ONNX `Less`.
    Less,
    /// ONNX `LessOrEqual`.
    LessOrEqual,
    /// ONNX `Greater`.
    Greater,
    /// ONNX `GreaterOrEqual`.
    GreaterOrEqual,
}

impl CompareOp {
    pub const ALL: [CompareOp; 6] = [
        CompareOp::Equal,
        CompareOp::NotEqual,
        CompareOp::Less,
        CompareOp::LessOrEqual,
        CompareOp::Greater,
        CompareOp::GreaterOrEqual,
    ];
}

/// Bool, Bool → Bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogicOp {
    /// ONNX `And`.
    And,
    /// ONNX `Or`.
    Or,
    /// ONNX `Xor`.
    Xor,
}

impl LogicOp {
    pub const ALL: [LogicOp; 3] = [LogicOp::And, LogicOp::Or, LogicOp::Xor];
}
