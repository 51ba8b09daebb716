//! ONNX activations with parameters, and the other composed operators, as expressions of the scalar operations.
//!
//! Attributes come as plain numbers: reading them, and their defaults per opset, is the operator's own work.

use super::{Builder, CompareOp, Expr, ExprError, Reg, Storage, UnaryOp};

impl Expr {
    /// An expression of one f32 input and one f32 output.
    pub fn of_one(f: impl FnOnce(&mut Builder, Reg) -> Reg) -> Result<Expr, ExprError> {
        let mut b = Builder::new();
        let x = b.input(Storage::F32);
        let y = f(&mut b, x);
        b.output(y, Storage::F32);
        b.finish()
    }

    /// An expression of two f32 inputs and one f32 output.
    pub fn of_two(f: impl FnOnce(&mut Builder, Reg, Reg) -> Reg) -> Result<Expr, ExprError> {
        let mut b = Builder::new();
        let (x, y) = (b.input(Storage::F32), b.input(Storage::F32));
        let z = f(&mut b, x, y);
        b.output(z, Storage::F32);
        b.finish()
    }
}

impl Builder {
    /// `a * x + c` with constants.
    pub fn affine(&mut self, x: Reg, a: f32, c: f32) -> Reg {
        let (a, c) = (self.constant(a), self.constant(c));
        let scaled = self.mul(x, a);
        self.add(scaled, c)
    }

    /// `x * c` with a constant.
    pub fn scale(&mut self, x: Reg, c: f32) -> Reg {
        let c = self.constant(c);
        self.mul(x, c)
    }

    /// `min(max(x, low), high)`: ONNX `Clip`. NaN stays NaN; where `low > high` everything becomes `high`.
    pub fn clamp(&mut self, x: Reg, low: Reg, high: Reg) -> Reg {
        let above = self.max(x, low);
        self.min(above, high)
    }

    /// `x` where positive, else `slope * x`: ONNX `LeakyRelu` (slope constant) and `PRelu` (slope an input).
    pub fn prelu(&mut self, x: Reg, slope: Reg) -> Reg {
        let zero = self.constant(0.0);
        let scaled = self.mul(x, slope);
        let negative = self.less(x, zero);
        self.select(negative, scaled, x)
    }

    /// ONNX `LeakyRelu`.
    pub fn leaky_relu(&mut self, x: Reg, alpha: f32) -> Reg {
        let alpha = self.constant(alpha);
        self.prelu(x, alpha)
    }

    /// `x` where positive, else `alpha * (exp(x) - 1)`: ONNX `Elu`.
    pub fn elu(&mut self, x: Reg, alpha: f32) -> Reg {
        let (zero, one) = (self.constant(0.0), self.constant(1.0));
        let exp = self.exp(x);
        let less_one = self.sub(exp, one);
        let scaled = self.scale(less_one, alpha);
        let negative = self.less(x, zero);
        self.select(negative, scaled, x)
    }

    /// `gamma * (x > 0 ? x : alpha * exp(x) - alpha)`: ONNX `Selu`.
    pub fn selu(&mut self, x: Reg, alpha: f32, gamma: f32) -> Reg {
        let unscaled = self.elu(x, alpha);
        self.scale(unscaled, gamma)
    }

    /// `max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`: ONNX `Celu`.
    pub fn celu(&mut self, x: Reg, alpha: f32) -> Reg {
        let (zero, one, a) = (self.constant(0.0), self.constant(1.0), self.constant(alpha));
        let inner = self.div(x, a);
        let exp = self.exp(inner);
        let less_one = self.sub(exp, one);
        let scaled = self.mul(less_one, a);
        let low = self.min(scaled, zero);
        let high = self.relu(x);
        self.add(high, low)
    }

    /// `max(0, min(1, alpha * x + beta))`: ONNX `HardSigmoid`.
    pub fn hard_sigmoid(&mut self, x: Reg, alpha: f32, beta: f32) -> Reg {
        let (zero, one) = (self.constant(0.0), self.constant(1.0));
        let line = self.affine(x, alpha, beta);
        self.clamp(line, zero, one)
    }

    /// `x * HardSigmoid(x, 1/6, 1/2)`: ONNX `HardSwish`.
    pub fn hard_swish(&mut self, x: Reg) -> Reg {
        let gate = self.hard_sigmoid(x, 1.0 / 6.0, 0.5);
        self.mul(x, gate)
    }

    /// `x * sigmoid(alpha * x)`: ONNX `Swish`, and SiLU with alpha 1.
    pub fn swish(&mut self, x: Reg, alpha: f32) -> Reg {
        let scaled = self.scale(x, alpha);
        let gate = self.sigmoid(scaled);
        self.mul(x, gate)
    }

    /// `0.5 * x * (1 + erf(x / √2))`: ONNX `Gelu` with `approximate = "none"`.
    pub fn gelu(&mut self, x: Reg) -> Reg {
        let scaled = self.scale(x, std::f32::consts::FRAC_1_SQRT_2);
        let erf = self.unary(UnaryOp::Erf, scaled);
        self.half_gate(x, erf)
    }

    /// `0.5 * x * (1 + tanh(√(2/π) * (x + 0.044715 * x³)))`: ONNX `Gelu` with `approximate = "tanh"`.
    pub fn gelu_tanh(&mut self, x: Reg) -> Reg {
        let square = self.mul(x, x);
        let factor = self.affine(square, 0.044715, 1.0);
        let cubic = self.mul(x, factor);
        let scaled = self.scale(cubic, (2.0 / std::f32::consts::PI).sqrt());
        let tanh = self.tanh(scaled);
        self.half_gate(x, tanh)
    }

    /// `0.5 * x * (1 + gate)`.
    fn half_gate(&mut self, x: Reg, gate: Reg) -> Reg {
        let one = self.constant(1.0);
        let half = self.scale(x, 0.5);
        let sum = self.add(gate, one);
        self.mul(half, sum)
    }

    /// `x * tanh(softplus(x))`: ONNX `Mish`.
    pub fn mish(&mut self, x: Reg) -> Reg {
        let softplus = self.unary(UnaryOp::Softplus, x);
        let gate = self.tanh(softplus);
        self.mul(x, gate)
    }

    /// `x / (1 + |x|)`: ONNX `Softsign`.
    pub fn softsign(&mut self, x: Reg) -> Reg {
        let one = self.constant(1.0);
        let magnitude = self.unary(UnaryOp::Abs, x);
        let sum = self.add(magnitude, one);
        self.div(x, sum)
    }

    /// `x` where `x > alpha`, else 0: ONNX `ThresholdedRelu`.
    pub fn thresholded_relu(&mut self, x: Reg, alpha: f32) -> Reg {
        let (zero, alpha) = (self.constant(0.0), self.constant(alpha));
        let above = self.compare(CompareOp::Greater, x, alpha);
        self.select(above, x, zero)
    }

    /// `x + bias` below `-lambda`, `x - bias` above `lambda`, else 0: ONNX `Shrink`.
    pub fn shrink(&mut self, x: Reg, bias: f32, lambda: f32) -> Reg {
        let (zero, low, high) = (self.constant(0.0), self.constant(-lambda), self.constant(lambda));
        let bias = self.constant(bias);
        let (raised, lowered) = (self.add(x, bias), self.sub(x, bias));
        let (below, above) = (self.less(x, low), self.compare(CompareOp::Greater, x, high));
        let rest = self.select(above, lowered, zero);
        self.select(below, raised, rest)
    }

    /// `x` to a constant power where one is known, see [`super::BinaryOp::Pow`]: ONNX `Pow`.
    pub fn pow(&mut self, x: Reg, exponent: Reg) -> Reg {
        self.binary(super::BinaryOp::Pow, x, exponent)
    }
}
