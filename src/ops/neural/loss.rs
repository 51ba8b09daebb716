//! Losses: NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss.

use super::{Call, Whole, outside, whole, zeros};
use crate::{
    error::Result,
    graph::Node,
    ops::{
        InferContext, Operator,
        context::{equal_dims, rank_error},
        lower::{invalid, mismatch},
    },
    tensor::{Tensor, display_shape},
};

/// What becomes of the losses of the single samples.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reduction {
    None,
    Sum,
    Mean,
}

/// ONNX `NegativeLogLikelihoodLoss` (opsets 12, 13, 22) and `SoftmaxCrossEntropyLoss` (12, 13): minus the logarithm of
/// the probability that `[N, C, ..]` gives each target class of `[N, ..]`, weighted by class; the input holds logarithms
/// of probabilities for the first, any scores for the second. Any floating-point type.
#[derive(Debug)]
struct Loss {
    softmax: bool,
    reduction: Reduction,
    ignored: Option<i64>,
}

/// Makes [`Loss`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let reduction = match node.attributes.string("reduction")?.unwrap_or("mean") {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        other => return Err(invalid("attribute reduction is neither none, sum nor mean").actual(other)),
    };
    whole(Loss {
        softmax: &*node.operator.name == "SoftmaxCrossEntropyLoss",
        reduction,
        ignored: node.attributes.int("ignore_index")?,
    })
}

impl Whole for Loss {
    fn kernel_name(&self) -> &'static str {
        if self.softmax {
            "softmax_cross_entropy"
        } else {
            "negative_log_likelihood"
        }
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match (ctx.shape(0), ctx.shape(1)) {
            (Some(scores), _) if scores.len() < 2 => return Err(rank_error(0, "at least 2", scores.len())),
            (Some(scores), Some(target)) if target.len() + 1 != scores.len() => {
                return Err(rank_error(1, scores.len() - 1, target.len()));
            }
            (Some(scores), Some(target)) => {
                let sizes = [&scores[..1], &scores[2..]].concat();
                let both = sizes.iter().zip(target);
                Some(
                    both.map(|(a, b)| equal_dims(a, b, "number of samples"))
                        .collect::<Result<_>>()?,
                )
            }
            (_, target) => target.map(<[_]>::to_vec),
        };
        let shape = if self.reduction == Reduction::None {
            shape
        } else {
            Some(Vec::new())
        };
        ctx.set_output(0, dtype, shape);
        let scores = ctx.shape(0).map(<[_]>::to_vec);
        ctx.set_output(1, dtype, scores);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (scores, target) = (call.input(0)?, call.input(1)?);
        let &[batch, classes, ref rest @ ..] = scores.shape() else {
            return Err(rank_error(0, "at least 2", scores.shape().len()));
        };
        let expected = [&[batch][..], rest].concat();
        if target.shape() != expected {
            return Err(mismatch("the targets are not one for each sample")
                .expected(display_shape(&expected))
                .actual(display_shape(target.shape())));
        }
        let weights = match call.optional(2) {
            Some(weights) if weights.shape() != [classes] => {
                return Err(mismatch("the weights are not one for each class")
                    .expected(display_shape(&[classes]))
                    .actual(display_shape(weights.shape())));
            }
            Some(weights) => Some(weights.to_f64s()?),
            None => None,
        };
        let inner: usize = rest.iter().product();
        let mut values = scores.to_f64s()?;
        if self.softmax {
            log_softmax(&mut values, classes, inner);
        }
        let mut losses: Vec<f64> = zeros(&expected)?;
        let mut total = 0.0;
        for (number, (class, loss)) in target.to_i64s()?.into_iter().zip(&mut losses).enumerate() {
            if self.ignored == Some(class) {
                continue;
            }
            let index = usize::try_from(class).ok().filter(|&index| index < classes);
            let index = index.ok_or_else(|| outside(class, classes))?;
            let weight = weights.as_ref().map_or(1.0, |weights| weights[index]);
            *loss = -values[(number / inner * classes + index) * inner + number % inner] * weight;
            total += weight;
        }
        let dtype = scores.dtype();
        let loss = match self.reduction {
            Reduction::None => Tensor::from_f64s(dtype, &expected, &losses)?,
            Reduction::Sum => Tensor::from_f64s(dtype, &[], &[losses.iter().sum()])?,
            Reduction::Mean => Tensor::from_f64s(dtype, &[], &[losses.iter().sum::<f64>() / total])?,
        };
        let log_prob = match call.wants(1) {
            true => Tensor::from_f64s(dtype, scores.shape(), &values)?,
            false => scores.clone(),
        };
        Ok(vec![loss, log_prob])
    }
}

/// The logarithm of the softmax over the middle of `[.., classes, inner]`, in place.
fn log_softmax(values: &mut [f64], classes: usize, inner: usize) {
    for block in values.chunks_exact_mut((classes * inner).max(1)) {
        for column in 0..inner {
            let places = || (0..classes).map(|class| class * inner + column);
            let max = places().fold(f64::NEG_INFINITY, |max, place| max.max(block[place]));
            let sum: f64 = places().map(|place| (block[place] - max).exp()).sum();
            let rest = sum.ln();
            places().for_each(|place| block[place] = block[place] - max - rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};

    #[test]
    fn losses_of_the_specification() {
        let node = |reduction: &str| {
            TestNode::new("NegativeLogLikelihoodLoss", 13)
                .attr("reduction", reduction)
                .input(f32s(
                    &[2, 3, 2],
                    &[1.0, 2.0, 2.0, 2.0, 3.0, 2.0, 0.0, 1.0, 2.0, 2.0, 1.0, 2.0],
                ))
                .input(i64s(&[2, 2], &[2, 1, 0, 2]))
        };
        assert_eq!(node("none").run1().unwrap(), f32s(&[2, 2], &[-3.0, -2.0, -0.0, -2.0]));
        let weighted = |reduction: &str| node(reduction).input(f32s(&[3], &[0.2, 0.3, 0.1])).run1().unwrap();
        assert_tensor_close(&weighted("sum"), &f32s(&[], &[-1.1]), 1e-6);
        assert_tensor_close(&weighted("mean"), &f32s(&[], &[-1.1 / 0.7]), 1e-6);
        let ignoring = node("mean").attr("ignore_index", 2).run1().unwrap();
        assert_tensor_close(&ignoring, &f32s(&[], &[-1.0]), 1e-6);
    }

    #[test]
    fn scores_become_probabilities() {
        let node = |class: i32| {
            TestNode::new("SoftmaxCrossEntropyLoss", 13)
                .input(tensor(&[1, 2], &[1000.0f64, 1000.0]))
                .input(tensor(&[1], &[class]))
                .outputs(2)
                .run()
        };
        let outputs = node(1).unwrap();
        let half = 0.5f64.ln();
        assert_eq!(outputs, [tensor(&[], &[-half]), tensor(&[1, 2], &[half, half])]);
        assert!(node(2).is_err());
        assert!(node(-1).is_err());
    }
}
