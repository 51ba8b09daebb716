//! Linear models: LinearClassifier, LinearRegressor.

use std::sync::Arc;

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, mismatch},
    },
    scores::{
        Labels, Transform, dot, features_f32, first, infer_classifier, infer_regressor, largest, reserve, rows_of,
    },
};
use crate::{
    cpu::kernel::CpuKernel,
    error::Result,
    graph::Node,
    tensor::{DType, Tensor},
};

/// Rows of weights, one for each score, with their intercepts.
#[derive(Debug)]
struct Weights {
    coefficients: Vec<f32>,
    intercepts: Vec<f32>,
    scores: usize,
}

impl Weights {
    fn of(node: &Node, scores: Option<usize>) -> Result<Weights> {
        let list = |name: &str| Ok::<_, crate::Error>(node.attributes.floats(name)?.unwrap_or_default().to_vec());
        let (coefficients, intercepts) = (list("coefficients")?, list("intercepts")?);
        let scores = scores.unwrap_or(intercepts.len());
        if scores == 0 || !coefficients.len().is_multiple_of(scores) {
            return Err(invalid("attribute coefficients does not divide into the scores")
                .expected(format!("{scores} rows"))
                .actual(coefficients.len().to_string()));
        }
        if !intercepts.is_empty() && intercepts.len() != scores {
            return Err(invalid("attribute intercepts has the wrong length")
                .expected(scores.to_string())
                .actual(intercepts.len().to_string()));
        }
        Ok(Weights {
            coefficients,
            intercepts,
            scores,
        })
    }

    /// Checks the rows' width at plan time, when it is known.
    fn check(&self, shape: &[usize]) -> Result<()> {
        let (_, columns) = rows_of(shape)?;
        let expected = self.coefficients.len() / self.scores;
        if columns != expected {
            return Err(mismatch("the rows have another number of features than the model")
                .expected(expected.to_string())
                .actual(columns.to_string()));
        }
        Ok(())
    }

    /// Gives the scores of each row of `x` to `each`.
    fn score(&self, x: &Tensor, mut each: impl FnMut(&mut [f64])) -> Result<()> {
        self.check(x.shape())?;
        let (count, columns) = rows_of(x.shape())?;
        let values = features_f32(x)?;
        let mut scores = vec![0.0; self.scores];
        for row in 0..count {
            let row = &values[row * columns..(row + 1) * columns];
            for (index, score) in scores.iter_mut().enumerate() {
                let weights = &self.coefficients[index * columns..(index + 1) * columns];
                *score = f64::from(dot(row, weights) + self.intercepts.get(index).copied().unwrap_or(0.0));
            }
            each(&mut scores);
        }
        Ok(())
    }
}

/// ONNX-ML `LinearRegressor`: `X` `[n, features]` times the coefficients plus the intercepts, transformed, f32
/// `[n, targets]`.
#[derive(Debug)]
struct LinearRegressor {
    weights: Arc<Weights>,
    transform: Transform,
}

/// Makes [`LinearRegressor`].
pub fn make_regressor(node: &Node) -> Result<Box<dyn Operator>> {
    let targets = node.attributes.int("targets")?.unwrap_or(1);
    let targets = usize::try_from(targets).map_err(|_| invalid("attribute targets is negative"))?;
    Ok(Box::new(LinearRegressor {
        weights: Arc::new(Weights::of(node, Some(targets))?),
        transform: Transform::of(node)?,
    }))
}

impl Operator for LinearRegressor {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_regressor(ctx, DType::F32, self.weights.scores)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        self.weights.check(&ctx.input(0)?.shape)?;
        let (weights, transform) = (self.weights.clone(), self.transform);
        Ok(CpuKernel::dynamic("linear_model", move |inputs| {
            let x = first(inputs)?;
            let shape = [rows_of(x.shape())?.0, weights.scores];
            let mut values = reserve(&shape)?;
            weights.score(x, |scores| {
                transform.apply(scores);
                values.extend(scores.iter().map(|&score| score as f32));
            })?;
            Ok(vec![Tensor::new(&shape, values)?])
        }))
    }
}

/// ONNX-ML `LinearClassifier`: the label of the class with the largest score for each row of `X` `[n, features]`, and the
/// transformed scores, f32 `[n, scores]`. One score for two classes is that of the second, which is chosen when it is
/// positive; its complement is the first's.
#[derive(Debug)]
struct LinearClassifier {
    weights: Arc<Weights>,
    labels: Arc<Labels>,
    transform: Transform,
}

/// Makes [`LinearClassifier`].
pub fn make_classifier(node: &Node) -> Result<Box<dyn Operator>> {
    let labels = Labels::of(&node.attributes, "classlabels_ints", "classlabels_strings")?;
    let without = node.attributes.floats("intercepts")?.is_none_or(<[f32]>::is_empty);
    let weights = Weights::of(node, without.then_some(labels.len()))?;
    if weights.scores > labels.len() {
        return Err(invalid("there are fewer labels than scores")
            .expected(weights.scores.to_string())
            .actual(labels.len().to_string()));
    }
    Ok(Box::new(LinearClassifier {
        weights: Arc::new(weights),
        labels: Arc::new(labels),
        transform: Transform::of(node)?,
    }))
}

impl LinearClassifier {
    fn is_binary(&self) -> bool {
        self.weights.scores == 1 && self.labels.len() == 2
    }

    fn columns(&self) -> usize {
        if self.is_binary() { 2 } else { self.weights.scores }
    }
}

impl Operator for LinearClassifier {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_classifier(ctx, &self.labels, self.columns())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        self.weights.check(&ctx.input(0)?.shape)?;
        let (weights, labels, transform) = (self.weights.clone(), self.labels.clone(), self.transform);
        let (binary, columns) = (self.is_binary(), self.columns());
        Ok(CpuKernel::dynamic("linear_model", move |inputs| {
            let x = first(inputs)?;
            let shape = [rows_of(x.shape())?.0, columns];
            let (mut values, mut classes) = (reserve(&shape)?, reserve(&shape[..1])?);
            weights.score(x, |scores| {
                if binary {
                    classes.push(usize::from(scores[0] > 0.0));
                    values.extend(transform.of_two(scores[0], true).map(|score| score as f32));
                } else {
                    classes.push(largest(scores, |_| true));
                    transform.apply(scores);
                    values.extend(scores.iter().map(|&score| score as f32));
                }
            })?;
            Ok(vec![labels.pick(&classes)?, Tensor::new(&shape, values)?])
        }))
    }
}
