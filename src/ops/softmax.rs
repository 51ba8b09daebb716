//! ONNX `Softmax`, `LogSoftmax` and `Hardmax`.

use super::{ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, of_larger_build, widen::widened};
use crate::{
    cpu::{
        kernel::CpuKernel,
        softmax::{SoftmaxKind, hardmax, softmax},
    },
    error::Result,
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::{
            lines::{self, Extreme},
            reduce::{self, SoftmaxKind as GpuSoftmaxKind},
        },
    },
    graph::Node,
    tensor::{DType, resolve_axis},
};

/// `exp(x) / Σ exp(x)`, its logarithm, or 1 at the first largest value, along attribute `axis`; floats.
///
/// Up to opset 12 the input is seen as a matrix whose rows begin at `axis` (default 1); from 13 on `axis` (default -1)
/// is the one axis meant.
#[derive(Debug)]
pub struct Softmax {
    kind: Kind,
    axis: i64,
    extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Softmax,
    LogSoftmax,
    Hardmax,
}

/// What `axis` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// This axis alone.
    One,
    /// This axis and all behind it.
    AllBehind,
}

impl Softmax {
    /// ONNX `Softmax`.
    pub fn softmax(node: &Node) -> Result<Box<dyn Operator>> {
        Softmax::make(node, Kind::Softmax)
    }

    /// ONNX `LogSoftmax`.
    pub fn log_softmax(node: &Node) -> Result<Box<dyn Operator>> {
        Softmax::make(node, Kind::LogSoftmax)
    }

    /// ONNX `Hardmax`.
    pub fn hardmax(node: &Node) -> Result<Box<dyn Operator>> {
        Softmax::make(node, Kind::Hardmax)
    }

    fn make(node: &Node, kind: Kind) -> Result<Box<dyn Operator>> {
        let (extent, default) = match node.operator.version {
            ..13 => (Extent::AllBehind, 1),
            _ => (Extent::One, -1),
        };
        let axis = node.attributes.int("axis")?.unwrap_or(default);
        Ok(Box::new(Softmax { kind, axis, extent }))
    }

    /// The shape as `[outer, axis, inner]`.
    fn sides(&self, shape: &[usize]) -> Result<[usize; 3]> {
        let axis = resolve_axis(self.axis, shape.len())?;
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        Ok(match self.extent {
            Extent::One => [product(&shape[..axis]), shape[axis], product(&shape[axis + 1..])],
            Extent::AllBehind => [product(&shape[..axis]), product(&shape[axis..]), 1],
        })
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let sides = self.sides(&ctx.input(0)?.shape)?;
        let kind = self.kind;
        Ok(CpuKernel::compute("softmax_f32", move |io| {
            let (input, out) = (io.inputs.get::<f32>(0)?, io.outputs.take::<f32>(0)?);
            let [_, axis, inner] = sides;
            let block = axis * inner;
            io.threads.rows_mut(out, block, 8 * block, |first, out| {
                let (input, sides) = (&input[first * block..], [out.len() / block, axis, inner]);
                match kind {
                    Kind::Softmax => softmax(SoftmaxKind::Softmax, input, out, sides),
                    Kind::LogSoftmax => softmax(SoftmaxKind::LogSoftmax, input, out, sides),
                    Kind::Hardmax => hardmax(input, out, sides),
                }
            });
            Ok(())
        }))
    }

    fn cpu_f64(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let sides = self.sides(&ctx.input(0)?.shape)?;
        let kind = self.kind;
        Ok(CpuKernel::compute("softmax_f64", move |io| {
            softmax_f64(kind, io.inputs.get(0)?, io.outputs.take(0)?, sides);
            Ok(())
        }))
    }
}

/// The definition, which f64 takes and the f32 kernels are tested against.
fn softmax_f64(kind: Kind, input: &[f64], out: &mut [f64], [outer, axis, inner]: [usize; 3]) {
    for block in 0..outer {
        for column in 0..inner {
            let places = || (0..axis).map(|index| (block * axis + index) * inner + column);
            let max = places()
                .map(|place| input[place])
                .fold(f64::NEG_INFINITY, |max, value| {
                    if value.is_nan() || value > max { value } else { max }
                });
            let sum: f64 = places().map(|place| (input[place] - max).exp()).sum();
            let first = places().find(|&place| input[place] == max);
            for place in places() {
                out[place] = match kind {
                    Kind::Softmax => (input[place] - max).exp() / sum,
                    Kind::LogSoftmax => (input[place] - max) - sum.ln(),
                    Kind::Hardmax => f64::from(u8::from(Some(place) == first)),
                };
            }
        }
    }
}

impl Operator for Softmax {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(rank) = ctx.rank(0) {
            resolve_axis(self.axis, rank)?;
        }
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        match ctx.input(0)?.dtype {
            DType::F32 => self.cpu_f32(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_f64(ctx),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let input = ctx.input(0)?;
        let kind = match self.kind {
            Kind::Softmax => GpuSoftmaxKind::Softmax,
            Kind::LogSoftmax => GpuSoftmaxKind::LogSoftmax,
            Kind::Hardmax if ALL_OPERATORS && input.dtype == DType::F32 => {
                let sides = self.sides(&input.shape)?;
                return Ok(lines::extreme(GpuType::F32, sides, ">", Extreme::OneHot, ctx.caps));
            }
            Kind::Hardmax => return Ok(None),
        };
        if input.dtype != DType::F32 {
            return Ok(None);
        }
        let [outer, axis, inner] = self.sides(&input.shape)?;
        Ok(reduce::softmax(kind, outer, axis, inner, ctx.caps))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use super::*;
    use crate::{cpu::testing::Rng, error::ErrorCode, tensor::Tensor};

    #[test]
    fn the_axis_means_one_axis_or_all_behind_by_version() {
        let x = f32s(&[1, 2, 2], &[0.0, 0.0, 3f32.ln(), 3f32.ln()]);
        for (version, axis, expected) in [
            (13, None, [0.5, 0.5, 0.5, 0.5]),
            (13, Some(1i64), [0.25, 0.25, 0.75, 0.75]),
            (11, None, [0.125, 0.125, 0.375, 0.375]),
            (11, Some(-1), [0.5, 0.5, 0.5, 0.5]),
        ] {
            let mut node = TestNode::new("Softmax", version).input(x.clone());
            if let Some(axis) = axis {
                node = node.attr("axis", axis);
            }
            assert_tensor_close(&node.run1().unwrap(), &f32s(&[1, 2, 2], &expected), 1e-6);
        }
    }

    #[test]
    fn f32_agrees_with_f64_for_every_kind_and_axis() {
        let mut rng = Rng::new(41);
        for operator in ["Softmax", "LogSoftmax", "Hardmax"] {
            for version in [11, 13] {
                for axis in -3i64..3 {
                    let shape = [2, 5, 7];
                    let values: Vec<f32> = rng.vec(70).iter().map(|v| v * 20.0).collect();
                    let wide: Vec<f64> = values.iter().map(|&v| v.into()).collect();
                    let run = |x: Tensor| {
                        TestNode::new(operator, version)
                            .attr("axis", axis)
                            .input(x)
                            .run1()
                            .unwrap()
                    };
                    let expected = run(tensor(&shape, &wide)).to_f32s().unwrap().into_owned();
                    if operator != "Hardmax" {
                        let node = TestNode::new(operator, version).attr("axis", axis);
                        node.input(f32s(&shape, &values)).assert_gpu_agrees(1e-5);
                    }
                    let result = run(f32s(&shape, &values));
                    assert_tensor_close(&result, &f32s(&shape, &expected), 1e-5);
                    let halves: Vec<half::bf16> = values.iter().map(|&v| half::bf16::from_f32(v)).collect();
                    let result = run(tensor(&shape, &halves)).to_f32s().unwrap().into_owned();
                    if operator == "Softmax" {
                        assert_tensor_close(&f32s(&shape, &result), &f32s(&shape, &expected), 0.2);
                    }
                }
            }
        }
    }

    #[test]
    fn hardmax_marks_the_first_of_equals() {
        let node = TestNode::new("Hardmax", 13).input(f32s(&[2, 3], &[3.0, 3.0, 1.0, 0.0, 1.0, 1.0]));
        assert_eq!(node.run1().unwrap(), f32s(&[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
    }

    #[test]
    fn an_axis_outside_the_rank_and_integers_are_errors_and_nothing_stays_nothing() {
        let node = TestNode::new("Softmax", 13).input(f32s(&[2], &[0.0, 1.0]));
        assert_eq!(
            node.attr("axis", 1i64).run1().unwrap_err().code(),
            ErrorCode::ShapeMismatch
        );
        let node = TestNode::new("Softmax", 13).input(tensor(&[2], &[0i32, 1]));
        assert_eq!(node.run1().unwrap_err().code(), ErrorCode::UnsupportedOperator);
        let empty = Tensor::zeros(DType::F32, &[0, 3]).unwrap();
        assert_eq!(TestNode::new("Softmax", 13).input(empty.clone()).run1().unwrap(), empty);
    }
}
