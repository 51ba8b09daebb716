//! Element-wise operators of one input: maths, rounding, activations, tests and bit inversion.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, PointwiseForm, PointwiseInput,
    lower::{invalid, tracks},
    on_gpu,
    widen::converted,
};
use crate::{
    cpu::{elementwise, expression, kernel::CpuKernel},
    error::{Error, Result},
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::elementwise::{self as gpu_elementwise, Input},
    },
    graph::{Attributes, Node},
    pointwise::{Builder, Expr, Reg, Storage, TestOp, UnaryOp, reference},
    tensor::{DType, Dim},
};

/// What is computed of each element.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Scalar(UnaryOp),
    LeakyRelu { alpha: f32 },
    Elu { alpha: f32 },
    Selu { alpha: f32, gamma: f32 },
    Celu { alpha: f32 },
    ThresholdedRelu { alpha: f32 },
    HardSigmoid { alpha: f32, beta: f32 },
    HardSwish,
    Swish { alpha: f32 },
    Softsign,
    Gelu,
    GeluTanh,
    Mish,
    Shrink { bias: f32, lambda: f32 },
    Not,
    BitwiseNot,
    IsNan,
    IsInf { positive: bool, negative: bool },
}

/// An element-wise operator of one input.
#[derive(Debug)]
struct Unary {
    function: Function,
}

/// ONNX's element-wise operators of one input, by the node's operator name.
///
/// The output has the input's shape; its type is the input's, and bool for `IsNaN` and `IsInf`. Floating-point types
/// are all supported; integers where the operator has a meaning for them (`Abs`, `Neg`, `Sign`, `Relu`, `BitwiseNot`,
/// wrapping around at the ends of the type); bool for `Not`.
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Unary {
        function: Function::of_node(&node.operator.name, &node.attributes)?,
    }))
}

impl Function {
    fn of_node(name: &str, attributes: &Attributes) -> Result<Function> {
        let float = |name: &str, default: f32| attributes.float(name).map(|value| value.unwrap_or(default));
        let scalar = |op: UnaryOp| Ok(Function::Scalar(op));
        match name {
            "Abs" => scalar(UnaryOp::Abs),
            "Acos" => scalar(UnaryOp::Acos),
            "Acosh" => scalar(UnaryOp::Acosh),
            "Asin" => scalar(UnaryOp::Asin),
            "Asinh" => scalar(UnaryOp::Asinh),
            "Atan" => scalar(UnaryOp::Atan),
            "Atanh" => scalar(UnaryOp::Atanh),
            "Ceil" => scalar(UnaryOp::Ceil),
            "Cos" => scalar(UnaryOp::Cos),
            "Cosh" => scalar(UnaryOp::Cosh),
            "Erf" => scalar(UnaryOp::Erf),
            "Exp" => scalar(UnaryOp::Exp),
            "Floor" => scalar(UnaryOp::Floor),
            "Log" => scalar(UnaryOp::Log),
            "Neg" => scalar(UnaryOp::Neg),
            "Reciprocal" => scalar(UnaryOp::Reciprocal),
            "Relu" => scalar(UnaryOp::Relu),
            "Round" => scalar(UnaryOp::Round),
            "Sigmoid" => scalar(UnaryOp::Sigmoid),
            "Sign" => scalar(UnaryOp::Sign),
            "Sin" => scalar(UnaryOp::Sin),
            "Sinh" => scalar(UnaryOp::Sinh),
            "Softplus" => scalar(UnaryOp::Softplus),
            "Sqrt" => scalar(UnaryOp::Sqrt),
            "Tan" => scalar(UnaryOp::Tan),
            "Tanh" => scalar(UnaryOp::Tanh),
            "LeakyRelu" => Ok(Function::LeakyRelu {
                alpha: float("alpha", 0.01)?,
            }),
            "Elu" => Ok(Function::Elu {
                alpha: float("alpha", 1.0)?,
            }),
            "Selu" => Ok(Function::Selu {
                alpha: float("alpha", 1.673_263_2)?,
                gamma: float("gamma", 1.050_701)?,
            }),
            "Celu" => Ok(Function::Celu {
                alpha: float("alpha", 1.0)?,
            }),
            "ThresholdedRelu" => Ok(Function::ThresholdedRelu {
                alpha: float("alpha", 1.0)?,
            }),
            "HardSigmoid" => Ok(Function::HardSigmoid {
                alpha: float("alpha", 0.2)?,
                beta: float("beta", 0.5)?,
            }),
            "HardSwish" => Ok(Function::HardSwish),
            "Swish" => Ok(Function::Swish {
                alpha: float("alpha", 1.0)?,
            }),
            "Softsign" => Ok(Function::Softsign),
            "Gelu" => match attributes.string("approximate")?.unwrap_or("none") {
                "none" => Ok(Function::Gelu),
                "tanh" => Ok(Function::GeluTanh),
                other => Err(invalid("attribute approximate is neither \"none\" nor \"tanh\"").actual(other)),
            },
            "Mish" => Ok(Function::Mish),
            "Shrink" => Ok(Function::Shrink {
                bias: float("bias", 0.0)?,
                lambda: float("lambd", 0.5)?,
            }),
            "Not" => Ok(Function::Not),
            "BitwiseNot" => Ok(Function::BitwiseNot),
            "IsNaN" => Ok(Function::IsNan),
            "IsInf" => Ok(Function::IsInf {
                positive: attributes.flag("detect_positive", true)?,
                negative: attributes.flag("detect_negative", true)?,
            }),
            _ => Err(Error::internal(format!(
                "{name} is not an element-wise operator of one input"
            ))),
        }
    }

    fn output_type(self, input: DType) -> DType {
        match self {
            Function::IsNan | Function::IsInf { .. } => DType::Bool,
            _ => input,
        }
    }

    /// The expression over an element held as f32, or as Bool for `Not`.
    fn expr(self) -> Result<Option<Expr>> {
        let mut b = Builder::new();
        let (input, output) = match self {
            Function::BitwiseNot => return Ok(None),
            Function::Not => (Storage::Bool, Storage::Bool),
            Function::IsNan | Function::IsInf { .. } => (Storage::F32, Storage::Bool),
            _ => (Storage::F32, Storage::F32),
        };
        let x = b.input(input);
        let y = self.build(&mut b, x);
        b.output(y, output);
        b.finish().map(Some).map_err(|error| Error::internal(error.to_string()))
    }

    fn build(self, b: &mut Builder, x: Reg) -> Reg {
        match self {
            Function::Scalar(op) => b.unary(op, x),
            Function::LeakyRelu { alpha } => b.leaky_relu(x, alpha),
            Function::Elu { alpha } => b.elu(x, alpha),
            Function::Selu { alpha, gamma } => b.selu(x, alpha, gamma),
            Function::Celu { alpha } => b.celu(x, alpha),
            Function::ThresholdedRelu { alpha } => b.thresholded_relu(x, alpha),
            Function::HardSigmoid { alpha, beta } => b.hard_sigmoid(x, alpha, beta),
            Function::HardSwish => b.hard_swish(x),
            Function::Swish { alpha } => b.swish(x, alpha),
            Function::Softsign => b.softsign(x),
            Function::Gelu => b.gelu(x),
            Function::GeluTanh => b.gelu_tanh(x),
            Function::Mish => b.mish(x),
            Function::Shrink { bias, lambda } => b.shrink(x, bias, lambda),
            Function::Not => b.not(x),
            Function::IsNan => b.test(TestOp::IsNan, x),
            Function::IsInf { positive, negative } => b.test(TestOp::IsInf { positive, negative }, x),
            Function::BitwiseNot => x,
        }
    }

    /// The same function of an f64; truth values are 1 and 0.
    fn of_f64(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let relu = |x: f64| if x < 0.0 { 0.0 } else { x };
        let softplus = |x: f64| relu(x) + (-x.abs()).exp().ln_1p();
        let clamp_to_one = |x: f64| {
            if x < 0.0 {
                0.0
            } else if x > 1.0 {
                1.0
            } else {
                x
            }
        };
        let elu = |x: f64, alpha: f64| if x < 0.0 { alpha * x.exp_m1() } else { x };
        match self {
            Function::Scalar(op) => match op {
                UnaryOp::Neg => -x,
                UnaryOp::Abs => x.abs(),
                UnaryOp::Sign if x == 0.0 || x.is_nan() => x + 0.0,
                UnaryOp::Sign => x.signum(),
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
                UnaryOp::Erf => reference::erf_f64(x),
                UnaryOp::Sigmoid => sigmoid(x),
                UnaryOp::Softplus => softplus(x),
                UnaryOp::Relu => relu(x),
                UnaryOp::Floor => x.floor(),
                UnaryOp::Ceil => x.ceil(),
                UnaryOp::Round => x.round_ties_even(),
            },
            Function::LeakyRelu { alpha } if x < 0.0 => f64::from(alpha) * x,
            Function::LeakyRelu { .. } => x,
            Function::Elu { alpha } => elu(x, alpha.into()),
            Function::Selu { alpha, gamma } => f64::from(gamma) * elu(x, alpha.into()),
            Function::Celu { alpha } => {
                let alpha = f64::from(alpha);
                relu(x) + (alpha * (x / alpha).exp_m1()).min(0.0)
            }
            Function::ThresholdedRelu { alpha } if x > f64::from(alpha) => x,
            Function::ThresholdedRelu { .. } => 0.0,
            Function::HardSigmoid { alpha, beta } => clamp_to_one(f64::from(alpha) * x + f64::from(beta)),
            Function::HardSwish => x * clamp_to_one(x / 6.0 + 0.5),
            Function::Swish { alpha } => x * sigmoid(f64::from(alpha) * x),
            Function::Softsign => x / (1.0 + x.abs()),
            Function::Gelu => 0.5 * x * (1.0 + reference::erf_f64(x * std::f64::consts::FRAC_1_SQRT_2)),
            Function::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Function::Mish => x * softplus(x).tanh(),
            Function::Shrink { bias, lambda } => {
                if x < -f64::from(lambda) {
                    x + f64::from(bias)
                } else if x > lambda.into() {
                    x - f64::from(bias)
                } else {
                    0.0
                }
            }
            Function::Not => f64::from(x == 0.0),
            Function::IsNan => f64::from(x.is_nan()),
            Function::IsInf { positive, negative } => {
                f64::from((positive && x == f64::INFINITY) || (negative && x == f64::NEG_INFINITY))
            }
            Function::BitwiseNot => x,
        }
    }

    /// The same function of an integer, where it has one.
    fn of_int(self, dtype: DType) -> Option<fn(i64) -> i64> {
        let unsigned = dtype.is_unsigned();
        Some(match self {
            Function::Scalar(UnaryOp::Abs | UnaryOp::Relu) if unsigned => |x| x,
            Function::Scalar(UnaryOp::Sign) if unsigned => |x| (x != 0).into(),
            Function::Scalar(UnaryOp::Abs) => i64::wrapping_abs,
            Function::Scalar(UnaryOp::Neg) => i64::wrapping_neg,
            Function::Scalar(UnaryOp::Sign) => i64::signum,
            Function::Scalar(UnaryOp::Relu) => |x| x.max(0),
            Function::BitwiseNot => |x| !x,
            _ => return None,
        })
    }
}

impl Operator for Unary {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, self.function.output_type(dtype), shape);
        if !tracks(dtype) {
            return Ok(());
        }
        let Some(elements) = ctx.input(0).and_then(|facts| facts.elements.clone()) else {
            return Ok(());
        };
        let results = elements.iter().map(|element| match (self.function, element.known()) {
            (Function::Not, Some(value)) => Some(Dim::from(i64::from(value == 0))),
            (Function::Scalar(UnaryOp::Neg), _) => Some(-element.clone()),
            (Function::Scalar(UnaryOp::Abs | UnaryOp::Relu), _) if element.is_at_least(&Dim::from(0)) => {
                Some(element.clone())
            }
            (_, Some(value)) => self.function.of_int(dtype).map(|f| Dim::from(f(value))),
            _ => None,
        });
        if let Some(results) = results.collect::<Option<Vec<_>>>() {
            ctx.set_elements(0, results);
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let function = self.function;
        let dtype = ctx.input(0)?.dtype;
        let (inputs, output) = (ctx.operands(), ctx.result(0)?);
        match dtype {
            DType::F64 if output.dtype == DType::Bool => elementwise::kernel(
                "unary_f64",
                inputs,
                output,
                move |tiles: &[&[f64]], results: &mut [i64]| {
                    results
                        .iter_mut()
                        .zip(tiles[0])
                        .for_each(|(to, &x)| *to = function.of_f64(x) as i64);
                    Ok(())
                },
            ),
            DType::F64 if !matches!(function, Function::Not | Function::BitwiseNot) => elementwise::kernel(
                "unary_f64",
                inputs,
                output,
                move |tiles: &[&[f64]], results: &mut [f64]| {
                    results
                        .iter_mut()
                        .zip(tiles[0])
                        .for_each(|(to, &x)| *to = function.of_f64(x));
                    Ok(())
                },
            ),
            DType::Bool | DType::F32 | DType::F16 | DType::BF16 => {
                let takes = if dtype == DType::Bool {
                    Storage::Bool
                } else {
                    Storage::F32
                };
                match function.expr()? {
                    Some(expr) if expr.inputs() == [takes] => {
                        expression::kernel("pointwise", &expr, inputs, vec![output])
                    }
                    _ => Err(ctx.unsupported_type(0)),
                }
            }
            _ => {
                let of_int = match function.of_int(dtype) {
                    Some(of_int) => of_int,
                    None if matches!(function, Function::Shrink { .. }) && dtype.is_integer() => {
                        return converted(ctx, |_| DType::F64, |ctx| self.cpu(ctx));
                    }
                    None => return Err(ctx.unsupported_type(0)),
                };
                elementwise::kernel(
                    "unary_int",
                    inputs,
                    output,
                    move |tiles: &[&[i64]], results: &mut [i64]| {
                        results.iter_mut().zip(tiles[0]).for_each(|(to, &x)| *to = of_int(x));
                        Ok(())
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
        let input = ctx.input(0)?;
        let (ty, value) = match (GpuType::from_dtype(input.dtype), self.function) {
            (Some(GpuType::I32), Function::Scalar(UnaryOp::Abs)) => ("i32", "abs(x0)"),
            (Some(GpuType::I32), Function::Scalar(UnaryOp::Neg)) => ("i32", "-x0"),
            (Some(GpuType::I32), Function::Scalar(UnaryOp::Sign)) => ("i32", "sign(x0)"),
            (Some(GpuType::I32), Function::Scalar(UnaryOp::Relu)) => ("i32", "max(x0, 0)"),
            (Some(ty @ (GpuType::I32 | GpuType::U32)), Function::BitwiseNot) => (ty.wgsl(), "~x0"),
            _ => return Ok(None),
        };
        let shape = &input.shape;
        let inputs = [Input { index: 0, ty, shape }];
        Ok(gpu_elementwise::kernel(
            value,
            &inputs,
            ty,
            shape,
            |dispatch| dispatch,
            ctx.caps,
        ))
    }

    fn pointwise(&self, inputs: &[PointwiseInput<'_>]) -> Option<PointwiseForm> {
        let expr = self.function.expr().ok()??;
        let matches = match inputs.first()?.dtype {
            DType::F32 => expr.inputs() == [Storage::F32],
            DType::Bool => expr.inputs() == [Storage::Bool],
            _ => false,
        };
        matches.then(|| PointwiseForm { expr, inputs: vec![0] })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use crate::tensor::{Bool8, Tensor};
    use half::{bf16, f16};

    const NAMES: [&str; 38] = [
        "Abs",
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Ceil",
        "Celu",
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
    ];

    const VALUES: [f32; 17] = [
        -7.5, -3.0, -2.5, -1.0, -0.75, -0.5, -0.1, -0.0, 0.0, 0.1, 0.5, 0.75, 1.0, 1.5, 2.5, 3.0, 7.5,
    ];

    #[test]
    fn every_function_is_the_same_in_f32_and_f64() {
        for name in NAMES {
            let single = TestNode::new(name, 22).input(f32s(&[17], &VALUES)).run1().unwrap();
            let wide: Vec<f64> = VALUES.iter().map(|&v| v.into()).collect();
            let double = TestNode::new(name, 22).input(tensor(&[17], &wide)).run1().unwrap();
            let (single, double) = (single.to_f32s().unwrap(), double.view::<f64>().unwrap());
            for ((a, b), x) in single.iter().zip(double.iter()).zip(VALUES) {
                let same = (a.is_nan() && b.is_nan())
                    || f64::from(*a) == *b
                    || (f64::from(*a) - b).abs() <= 2e-6 * b.abs().max(1.0);
                assert!(same, "{name}({x}) is {a} in f32 and {b} in f64");
            }
        }
    }

    #[test]
    fn half_floats_are_widened_and_rounded_once() {
        for name in ["Exp", "Gelu", "Sigmoid", "Neg"] {
            // More than one tile, with a short last one.
            let values: Vec<f32> = (0..700).map(|i| (i as f32 - 350.0) / 100.0).collect();
            let short: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
            let brain: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            let of = |tensor: Tensor| TestNode::new(name, 22).input(tensor).run1().unwrap();
            let widened = |list: Vec<f32>| of(f32s(&[7, 100], &list)).to_f32s().unwrap().into_owned();
            let expected = widened(short.iter().map(|v| v.to_f32()).collect());
            let expected: Vec<f16> = expected.into_iter().map(f16::from_f32).collect();
            assert_tensor_close(&of(tensor(&[7, 100], &short)), &tensor(&[7, 100], &expected), 2e-3);
            let expected = widened(brain.iter().map(|v| v.to_f32()).collect());
            let expected: Vec<bf16> = expected.into_iter().map(bf16::from_f32).collect();
            assert_tensor_close(&of(tensor(&[7, 100], &brain)), &tensor(&[7, 100], &expected), 2e-2);
        }
    }

    #[test]
    fn attributes_change_what_is_computed() {
        let cases: [(TestNode, f32, f32); 9] = [
            (TestNode::new("LeakyRelu", 16).attr("alpha", 0.5f32), -2.0, -1.0),
            (
                TestNode::new("Elu", 6).attr("alpha", 2.0f32),
                -1.0,
                2.0 * (-1.0f32).exp_m1(),
            ),
            (
                TestNode::new("Celu", 12).attr("alpha", 2.0f32),
                -1.0,
                2.0 * (-0.5f32).exp_m1(),
            ),
            (TestNode::new("ThresholdedRelu", 10).attr("alpha", 3.0f32), 2.0, 0.0),
            (
                TestNode::new("HardSigmoid", 6)
                    .attr("alpha", 0.1f32)
                    .attr("beta", 0.3f32),
                1.0,
                0.4,
            ),
            (
                TestNode::new("Shrink", 9).attr("bias", 1.0f32).attr("lambd", 1.5f32),
                -2.0,
                -1.0,
            ),
            (TestNode::new("Gelu", 20).attr("approximate", "tanh"), 1.0, 0.841192),
            (
                TestNode::new("Selu", 6).attr("alpha", 2.0f32).attr("gamma", 3.0f32),
                -1.0,
                6.0 * (-1.0f32).exp_m1(),
            ),
            (TestNode::new("Swish", 24).attr("alpha", 2.0f32), 1.0, 0.880797),
        ];
        for (node, x, y) in cases {
            let result = node.input(f32s(&[1], &[x])).run1().unwrap();
            assert_tensor_close(&result, &f32s(&[1], &[y]), 1e-5);
        }
        let unknown = TestNode::new("Gelu", 20)
            .attr("approximate", "fast")
            .input(f32s(&[1], &[0.0]));
        assert!(unknown.run().unwrap_err().message().contains("approximate"));
    }

    #[test]
    fn integers_wrap_and_tests_give_bool() {
        let shrink = TestNode::new("Shrink", 9)
            .attr("bias", 1.5f32)
            .input(tensor(&[3], &[-3i8, 0, 3]));
        assert_eq!(shrink.run1().unwrap(), tensor(&[3], &[-1i8, 0, 1]));
        let of = |name: &str, tensor: Tensor| TestNode::new(name, 18).input(tensor).run1().unwrap();
        assert_eq!(of("Abs", tensor(&[2], &[i8::MIN, -3])), tensor(&[2], &[i8::MIN, 3]));
        assert_eq!(of("Neg", tensor(&[2], &[i32::MIN, 7])), tensor(&[2], &[i32::MIN, -7]));
        assert_eq!(of("Sign", tensor(&[2], &[u64::MAX, 0])), tensor(&[2], &[1u64, 0]));
        assert_eq!(of("BitwiseNot", tensor(&[2], &[0u8, 0xf0])), tensor(&[2], &[255u8, 15]));
        assert_eq!(of("Relu", tensor(&[2], &[-5i16, 5])), tensor(&[2], &[0i16, 5]));
        let values = f32s(&[4], &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0]);
        let bools = |list: [u8; 4]| tensor(&[4], &list.map(Bool8));
        assert_eq!(of("IsNaN", values.clone()), bools([1, 0, 0, 0]));
        let node = TestNode::new("IsInf", 10).attr("detect_positive", 0);
        assert_eq!(node.input(values).run1().unwrap(), bools([0, 0, 1, 0]));
        assert_eq!(of("Not", bools([1, 0, 7, 0])), bools([0, 1, 0, 1]));
        assert!(TestNode::new("Exp", 13).input(tensor(&[1], &[1i32])).run().is_err());
    }
}
