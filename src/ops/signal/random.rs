//! Random numbers: RandomUniform, RandomNormal and their Like forms, Bernoulli, Multinomial.
//!
//! With a `seed` (its whole part counts), every run makes the same numbers, those of ONNX's reference for uniform and
//! normal ones; without, every run makes others.

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        context::rank_error,
        lower::{invalid, unsupported},
    },
    float_type, zeros,
};
use crate::{
    cpu::{kernel::CpuKernel, random::Twister},
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::{DType, Dim, Tensor, display_shape, element_count},
};

/// The numbers that a seed begins, or others from run to run.
fn twister(seed: Option<f32>) -> Twister {
    seed.map_or_else(Twister::unseeded, |seed| Twister::seeded(seed as u32))
}

/// The type that attribute `dtype` numbers.
fn type_attribute(node: &Node) -> Result<Option<DType>> {
    let Some(number) = node.attributes.int("dtype")? else {
        return Ok(None);
    };
    let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
    let dtype = dtype.filter(|&dtype| dtype != DType::String);
    dtype
        .map(Some)
        .ok_or_else(|| unsupported("attribute dtype is no supported type").actual(number.to_string()))
}

fn sample(dtype: DType, shape: &[usize], mut draw: impl FnMut() -> f64) -> Result<Vec<Tensor>> {
    let mut values = zeros(shape)?;
    values.iter_mut().for_each(|value| *value = draw());
    Ok(vec![Tensor::from_f64s(dtype, shape, &values)?])
}

/// ONNX `RandomUniform`, `RandomNormal`, `RandomUniformLike` and `RandomNormalLike`: numbers between `low` and `high`, or about
/// `mean` with deviation `scale`, in the shape of an attribute or of the input.
#[derive(Debug)]
struct Random {
    normal: bool,
    /// What is added to the numbers, and what they are multiplied with before.
    offset: f64,
    scale: f64,
    dtype: Option<DType>,
    shape: Option<Vec<usize>>,
    seed: Option<f32>,
}

/// Makes [`Random`].
pub fn make_random(node: &Node) -> Result<Box<dyn Operator>> {
    let name = &*node.operator.name;
    let (normal, like) = (name.contains("Normal"), name.ends_with("Like"));
    let float = |name: &str, default: f32| Ok::<_, Error>(f64::from(node.attributes.float(name)?.unwrap_or(default)));
    let (offset, scale) = if normal {
        (float("mean", 0.0)?, float("scale", 1.0)?)
    } else {
        let low = float("low", 0.0)?;
        (low, float("high", 1.0)? - low)
    };
    let mut dtype = type_attribute(node)?;
    let mut shape = None;
    if !like {
        dtype = dtype.or(Some(DType::F32));
        let list = node.attributes.ints("shape")?;
        let list = list.ok_or_else(|| invalid("attribute shape is missing"))?;
        let sizes: Option<Vec<usize>> = list.iter().map(|&size| usize::try_from(size).ok()).collect();
        let sizes = sizes.ok_or_else(|| invalid("attribute shape has a negative size"))?;
        element_count(&sizes)?;
        shape = Some(sizes);
    }
    if let Some(dtype) = dtype.filter(|dtype| !dtype.is_float()) {
        return Err(unsupported("random numbers of this type are not supported").actual(dtype.name()));
    }
    Ok(Box::new(Random {
        normal,
        offset,
        scale,
        dtype,
        shape,
        seed: node.attributes.float("seed")?,
    }))
}

impl Operator for Random {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = match self.dtype {
            Some(dtype) => dtype,
            None => float_type(ctx, 0)?,
        };
        let shape = match &self.shape {
            Some(shape) => Some(shape.iter().map(|&size| Dim::from(size)).collect()),
            None => ctx.shape(0).map(<[Dim]>::to_vec),
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (normal, offset, scale, seed) = (self.normal, self.offset, self.scale, self.seed);
        let (dtype, shape) = (ctx.output(0)?.dtype, self.shape.clone());
        Ok(CpuKernel::dynamic("random", move |inputs| {
            let like = inputs.first().and_then(Option::as_ref).map(Tensor::shape);
            let shape = shape.as_deref().or(like);
            let shape = shape.ok_or_else(|| invalid("required input 0 is missing"))?;
            let mut random = twister(seed);
            sample(dtype, shape, || {
                let number = if normal { random.normal() } else { random.unit() };
                number * scale + offset
            })
        }))
    }

    fn is_deterministic(&self) -> bool {
        false
    }
}

/// ONNX `Bernoulli` (opset 15): 1 with the probability that the input's element is, else 0.
#[derive(Debug)]
struct Bernoulli {
    dtype: Option<DType>,
    seed: Option<f32>,
}

/// Makes [`Bernoulli`].
pub fn make_bernoulli(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Bernoulli {
        dtype: type_attribute(node)?,
        seed: node.attributes.float("seed")?,
    }))
}

impl Operator for Bernoulli {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = float_type(ctx, 0)?;
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, self.dtype.unwrap_or(dtype), shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (dtype, seed) = (ctx.output(0)?.dtype, self.seed);
        Ok(CpuKernel::dynamic("bernoulli", move |inputs| {
            let x = inputs.first().and_then(Option::as_ref);
            let x = x.ok_or_else(|| invalid("required input 0 is missing"))?;
            let (mut random, mut probabilities) = (twister(seed), x.to_f64s()?.into_iter());
            sample(dtype, x.shape(), || {
                let probability = probabilities.next().unwrap_or(0.0);
                f64::from(u8::from(random.unit() < probability))
            })
        }))
    }

    fn is_deterministic(&self) -> bool {
        false
    }
}

/// ONNX `Multinomial`: `[batch, sample_size]` classes, drawn by the unnormalised log-probabilities of `[batch, classes]`.
#[derive(Debug)]
struct Multinomial {
    dtype: DType,
    samples: usize,
    seed: Option<f32>,
}

/// Makes [`Multinomial`].
pub fn make_multinomial(node: &Node) -> Result<Box<dyn Operator>> {
    let samples = node.attributes.int("sample_size")?.unwrap_or(1);
    let dtype = type_attribute(node)?.unwrap_or(DType::I32);
    if !matches!(dtype, DType::I32 | DType::I64) {
        return Err(unsupported("Multinomial does not make this type")
            .expected("int32 or int64")
            .actual(dtype.name()));
    }
    Ok(Box::new(Multinomial {
        dtype,
        samples: usize::try_from(samples).map_err(|_| invalid("attribute sample_size is negative"))?,
        seed: node.attributes.float("seed")?,
    }))
}

impl Operator for Multinomial {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        float_type(ctx, 0)?;
        let batch = match ctx.shape(0) {
            Some([batch, _]) => batch.clone(),
            Some(other) => return Err(rank_error(0, "2", other.len())),
            None => ctx.fresh_dim(),
        };
        ctx.set_output(0, self.dtype, Some(vec![batch, Dim::from(self.samples)]));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (dtype, samples, seed) = (self.dtype, self.samples, self.seed);
        Ok(CpuKernel::dynamic("multinomial", move |inputs| {
            let x = inputs.first().and_then(Option::as_ref);
            let x = x.ok_or_else(|| invalid("required input 0 is missing"))?;
            let &[batch, classes] = x.shape() else {
                return Err(rank_error(0, "2", x.shape().len()));
            };
            if classes == 0 && batch > 0 && samples > 0 {
                return Err(
                    Error::new(ErrorCode::RunFailed, "there are no classes to draw").actual(display_shape(x.shape()))
                );
            }
            let (mut random, logits) = (twister(seed), x.to_f64s()?);
            let shape = [batch, samples];
            let mut values = zeros(&shape)?;
            let mut sums = Vec::with_capacity(classes);
            for row in 0..if samples == 0 { 0 } else { batch } {
                let logits = &logits[row * classes..(row + 1) * classes];
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let mut total = 0.0;
                sums.clear();
                sums.extend(logits.iter().map(|logit| {
                    total += (logit - max).exp();
                    total
                }));
                for value in &mut values[row * samples..(row + 1) * samples] {
                    let drawn = random.unit() * total;
                    *value = sums.partition_point(|&sum| sum <= drawn).min(classes - 1) as f64;
                }
            }
            Ok(vec![Tensor::from_f64s(dtype, &shape, &values)?])
        }))
    }

    fn is_deterministic(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::testing::{TestNode, f32s, i64s},
        *,
    };

    fn moments(tensor: &Tensor) -> (f64, f64) {
        let values = tensor.to_f64s().unwrap();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn distributions_have_their_moments_and_seeds_repeat() {
        let uniform = TestNode::new("RandomUniform", 1)
            .attr("shape", [100i64, 200])
            .attr("low", -1.0f32)
            .attr("high", 3.0f32);
        let (mean, deviation) = moments(&uniform.run1().unwrap());
        assert!((mean - 1.0).abs() < 0.05 && (deviation - 4.0 / 12f64.sqrt()).abs() < 0.05);
        assert_ne!(uniform.run1().unwrap(), uniform.run1().unwrap());
        let seeded = uniform.attr("seed", 7.0f32);
        assert_eq!(seeded.run1().unwrap(), seeded.run1().unwrap());
        let normal = TestNode::new("RandomNormalLike", 1)
            .attr("dtype", 11)
            .attr("mean", 2.0f32)
            .attr("scale", 0.5f32);
        let normal = normal.input(i64s(&[20000], &[0; 20000])).run1().unwrap();
        let (mean, deviation) = moments(&normal);
        assert_eq!(normal.dtype(), DType::F64);
        assert!((mean - 2.0).abs() < 0.02 && (deviation - 0.5).abs() < 0.02);
        assert!(
            TestNode::new("RandomNormalLike", 1)
                .input(i64s(&[1], &[0]))
                .run()
                .is_err()
        );
        assert!(TestNode::new("RandomNormal", 1).attr("shape", [-1i64]).run().is_err());
    }

    #[test]
    fn outcomes_come_as_often_as_they_are_likely() {
        let probabilities = f32s(
            &[3, 4000],
            &[vec![0.0; 4000], vec![0.25; 4000], vec![1.0; 4000]].concat(),
        );
        let drawn = TestNode::new("Bernoulli", 15)
            .attr("dtype", 9)
            .input(probabilities)
            .run1()
            .unwrap();
        let drawn = drawn.to_i64s().unwrap();
        let ones = |row: usize| drawn[row * 4000..(row + 1) * 4000].iter().sum::<i64>();
        assert_eq!((ones(0), ones(2)), (0, 4000));
        assert!((900..1100).contains(&ones(1)));
        let logits = f32s(
            &[2, 3],
            &[
                0.0,
                f32::NEG_INFINITY,
                3f32.ln(),
                f32::NEG_INFINITY,
                5.0,
                f32::NEG_INFINITY,
            ],
        );
        let drawn = TestNode::new("Multinomial", 7)
            .attr("sample_size", 4000)
            .attr("dtype", 7)
            .input(logits)
            .run1()
            .unwrap();
        let drawn = drawn.to_i64s().unwrap();
        let count = |class: i64| drawn[..4000].iter().filter(|&&found| found == class).count();
        assert!((900..1100).contains(&count(0)) && count(1) == 0);
        assert!(drawn[4000..].iter().all(|&class| class == 1));
    }
}
