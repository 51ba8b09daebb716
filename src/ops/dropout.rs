//! ONNX `Dropout`.

use super::{CpuLowering, InferContext, Operator, lower::mismatch};
use crate::{
    cpu::{
        kernel::{CpuKernel, KernelIo},
        random::Twister,
    },
    error::{Error, Result},
    graph::Node,
    tensor::{DType, Dim, Tensor},
};

/// ONNX `Dropout` (since opset 1): in inference the input as it is, and a mask that is all true. In training (the third
/// input since opset 12; before opset 7 attribute `is_test` 0) each element is 0 with the probability `ratio` and scaled
/// up else; an equal `seed` gives an equal mask. Opsets 7 to 11 never train. Floats; the mask is bool, or of the input's
/// type before opset 10.
#[derive(Clone, Debug)]
struct Dropout {
    /// What is dropped in training, where an attribute says it.
    ratio: Option<f64>,
    seed: Option<u32>,
    /// When it trains.
    mode: Mode,
    mask_type_follows: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Never,
    Always,
    /// As the third input says.
    Asked,
}

/// Makes [`Dropout`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let (attributes, version) = (&node.attributes, node.operator.version);
    let mode = match version {
        ..7 if !attributes.flag("is_test", false)? => Mode::Always,
        12.. if node.input(2).is_some() => Mode::Asked,
        _ => Mode::Never,
    };
    let ratio = attributes.float("ratio")?.map(f64::from);
    Ok(Box::new(Dropout {
        ratio: if version < 12 { ratio } else { None },
        seed: attributes.int("seed")?.map(|seed| seed as u32),
        mode: if ratio == Some(0.0) && version < 12 {
            Mode::Never
        } else {
            mode
        },
        mask_type_follows: version < 10,
    }))
}

impl Dropout {
    /// When it trains, as far as constants say.
    fn mode(&self, ctx: &CpuLowering<'_>) -> Mode {
        let number = |index: usize| ctx.constant(index)?.to_f64s().ok()?.first().copied();
        match (self.mode, number(2)) {
            (Mode::Asked, Some(mode)) if mode == 0.0 || number(1) == Some(0.0) => Mode::Never,
            (mode, _) => mode,
        }
    }

    /// The result and the mask.
    fn run(&self, inputs: &[Option<Tensor>], mask_type: DType) -> Result<Vec<Tensor>> {
        let input = |index: usize| inputs.get(index).and_then(Option::as_ref);
        let number = |index: usize| -> Result<Option<f64>> {
            input(index).map_or(Ok(None), |tensor| Ok(tensor.to_f64s()?.first().copied()))
        };
        let data = input(0).ok_or_else(|| Error::internal("input 0 is missing"))?;
        let trains = match self.mode {
            Mode::Always => true,
            Mode::Never => false,
            Mode::Asked => number(2)?.unwrap_or(0.0) != 0.0,
        };
        let ratio = match self.ratio {
            Some(ratio) => ratio,
            None => number(1)?.unwrap_or(0.5),
        };
        if !(0.0..1.0).contains(&ratio) {
            return Err(mismatch("the ratio is not one of elements to drop")
                .expected("a number of [0, 1)")
                .actual(ratio.to_string()));
        }
        let mut values = data.to_f64s()?;
        let mut mask = vec![1.0; values.len()];
        if trains && ratio > 0.0 {
            let mut random = self.seed.map_or_else(Twister::unseeded, Twister::seeded);
            let scale = 1.0 / (1.0 - ratio);
            for (value, mask) in values.iter_mut().zip(&mut mask) {
                *mask = f64::from(u8::from(random.unit() >= ratio));
                *value *= *mask * scale;
            }
        }
        Ok(vec![
            Tensor::from_f64s(data.dtype(), data.shape(), &values)?,
            Tensor::from_f64s(mask_type, data.shape(), &mask)?,
        ])
    }
}

impl Operator for Dropout {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.copy_type(0, 0)?;
        let (dtype, shape) = (ctx.dtype(0)?, ctx.shape(0).map(<[Dim]>::to_vec));
        let mask = if self.mask_type_follows { dtype } else { DType::Bool };
        ctx.set_output(1, mask, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let mask = ctx.optional_output(1).map(|mask| mask.dtype);
        if self.mode(ctx) != Mode::Never {
            let rule = self.clone();
            return Ok(CpuKernel::dynamic("dropout", move |inputs| {
                rule.run(inputs, mask.unwrap_or(DType::Bool))
            }));
        }
        let Some(mask) = mask else {
            return Ok(CpuKernel::View { input: 0 });
        };
        let has_data = ctx.optional_output(0).is_some();
        // One element of the mask over and over.
        let one = Tensor::from_f64s(mask, &[1], &[1.0])?;
        Ok(CpuKernel::compute("dropout", move |io| {
            let KernelIo { inputs, outputs, .. } = io;
            if has_data {
                outputs.take_bytes(0)?.copy_from_slice(inputs.bytes(0)?);
            }
            let one = one.bytes();
            for target in outputs.take_bytes(1)?.chunks_exact_mut(one.len().max(1)) {
                target.copy_from_slice(one);
            }
            Ok(())
        }))
    }

    fn is_deterministic(&self) -> bool {
        self.mode == Mode::Never || self.seed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ops::testing::{TestNode, f32s, tensor},
        tensor::{Bool8, DType, Tensor},
    };

    fn x() -> Tensor {
        f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0])
    }

    #[test]
    fn inference_passes_on() {
        let outputs = TestNode::new("Dropout", 13).input(x()).outputs(2).run().unwrap();
        assert_eq!(outputs, [x(), tensor(&[2, 2], &[Bool8(1); 4])]);
        let half = Tensor::zeros(DType::F16, &[3]).unwrap();
        let old = TestNode::new("Dropout", 7)
            .attr("ratio", 0.3f32)
            .input(half)
            .outputs(2)
            .run()
            .unwrap();
        assert_eq!(old[1], tensor(&[3], &[half::f16::ONE; 3]));
        assert_eq!(
            TestNode::new("Dropout", 6)
                .attr("is_test", 1)
                .input(x())
                .run1()
                .unwrap(),
            x()
        );
    }

    #[test]
    fn training_drops_by_the_seed() {
        let node = |trains: bool, ratio: f32| {
            TestNode::new("Dropout", 13)
                .attr("seed", 0)
                .input(x())
                .input(f32s(&[], &[ratio]))
                .input(tensor(&[], &[Bool8::from(trains)]))
        };
        // The generator begins with 0.549, 0.715, 0.603, 0.545.
        let outputs = node(true, 0.6).outputs(2).run().unwrap();
        assert_eq!(
            outputs[1],
            tensor(&[2, 2], &[false, true, true, false].map(Bool8::from))
        );
        crate::ops::testing::assert_tensor_close(&outputs[0], &f32s(&[2, 2], &[0.0, 5.0, 7.5, 0.0]), 1e-6);
        assert_eq!(node(false, 0.6).run1().unwrap(), x());
        assert_eq!(node(true, 0.0).run1().unwrap(), x());
        assert!(node(true, 1.0).run().is_err());
        let old = TestNode::new("Dropout", 1)
            .attr("ratio", 0.5f32)
            .input(x())
            .outputs(2)
            .run()
            .unwrap();
        for ((mask, value), x) in old[1]
            .to_f32s()
            .unwrap()
            .iter()
            .zip(&*old[0].to_f32s().unwrap())
            .zip(&*x().to_f32s().unwrap())
        {
            assert_eq!(*value, 2.0 * mask * x);
        }
    }
}
