//! What classifiers and regressors of the `ai.onnx.ml` domain share: class labels, transforms of scores, rows of features.

use super::super::{
    InferContext,
    context::rank_error,
    lower::{invalid, mismatch},
};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::{Attributes, Node},
    tensor::{DType, Dim, Tensor, display_shape, element_count},
};

/// Attribute `post_transform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Scores stay as they are.
    None,
    /// Softmax over a row.
    Softmax,
    /// The logistic function of each.
    Logistic,
    /// Softmax over a row's scores other than 0, which stay 0.
    SoftmaxZero,
    /// The normal distribution's quantile function.
    Probit,
}

impl Transform {
    /// The transform that a node's attribute names; none by default.
    pub fn of(node: &Node) -> Result<Transform> {
        Ok(match node.attributes.string("post_transform")?.unwrap_or("NONE") {
            "NONE" => Transform::None,
            "SOFTMAX" => Transform::Softmax,
            "LOGISTIC" => Transform::Logistic,
            "SOFTMAX_ZERO" => Transform::SoftmaxZero,
            "PROBIT" => Transform::Probit,
            other => return Err(invalid("attribute post_transform names no transform").actual(other)),
        })
    }

    /// The transform that has this number in `TreeEnsemble`.
    pub fn numbered(number: i64) -> Result<Transform> {
        Ok(match number {
            0 => Transform::None,
            1 => Transform::Softmax,
            2 => Transform::Logistic,
            3 => Transform::SoftmaxZero,
            4 => Transform::Probit,
            other => return Err(invalid("attribute post_transform is not 0 to 4").actual(other.to_string())),
        })
    }

    /// Transforms the scores of one row.
    pub fn apply(self, row: &mut [f64]) {
        match self {
            Transform::None => {}
            Transform::Logistic => row.iter_mut().for_each(|score| *score = logistic(*score)),
            Transform::Probit => row.iter_mut().for_each(|score| *score = probit(*score)),
            Transform::Softmax => softmax(row, |_| true),
            Transform::SoftmaxZero => softmax(row, |score| score.abs() > 1e-7),
        }
    }

    /// The scores of two classes when a model has one score, for the second class. `complement` says that scores are
    /// probabilities.
    pub fn of_two(self, score: f64, complement: bool) -> [f64; 2] {
        let mut both = [if complement { 1.0 - score } else { -score }, score];
        match self {
            Transform::Logistic => [logistic(-score), logistic(score)],
            Transform::Probit => {
                self.apply(&mut both);
                both
            }
            _ => both,
        }
    }
}

fn logistic(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}

/// Softmax over the scores that `takes_part` picks; the others are scaled alike, which leaves zeros.
fn softmax(row: &mut [f64], takes_part: impl Fn(f64) -> bool) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for score in &mut *row {
        if takes_part(*score) {
            *score = (*score - max).exp();
            sum += *score;
        } else {
            *score *= (-max).exp();
        }
    }
    if sum != 0.0 {
        row.iter_mut().for_each(|score| *score /= sum);
    }
}

/// The normal quantile function by Winitzki's approximation of the inverse error function ("A handy approximation for the
/// error function and its inverse", 2008), which other runtimes use too.
fn probit(score: f64) -> f64 {
    const A: f64 = 0.147;
    let x = 2.0 * score - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (std::f64::consts::PI * A) + 0.5 * log;
    let inverse = ((half * half - log / A).sqrt() - half).sqrt();
    std::f64::consts::SQRT_2 * inverse.copysign(x)
}

/// The labels of a classifier's classes.
#[derive(Clone, Debug)]
pub enum Labels {
    /// Integers.
    Ints(Vec<i64>),
    /// Strings.
    Strings(Vec<String>),
}

impl Labels {
    /// The labels in whichever of two attributes is given.
    pub fn of(attributes: &Attributes, ints: &str, strings: &str) -> Result<Labels> {
        let texts = attributes.strings(strings)?.filter(|list| !list.is_empty());
        let numbers = attributes.ints(ints)?.filter(|list| !list.is_empty());
        match (numbers, texts) {
            (Some(list), None) => Ok(Labels::Ints(list.to_vec())),
            (None, Some(list)) => Ok(Labels::Strings(list.into_iter().map(str::to_string).collect())),
            (given, _) => Err(invalid(format!("not one of attributes {ints} and {strings} is given"))
                .expected("one of both")
                .actual(if given.is_some() { "both" } else { "none" })),
        }
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        match self {
            Labels::Ints(list) => list.len(),
            Labels::Strings(list) => list.len(),
        }
    }

    /// The element type of a tensor of labels.
    pub fn dtype(&self) -> DType {
        match self {
            Labels::Ints(_) => DType::I64,
            Labels::Strings(_) => DType::String,
        }
    }

    /// A list of all labels.
    pub fn all(&self) -> Result<Tensor> {
        self.pick(&(0..self.len()).collect::<Vec<_>>())
    }

    /// A list of the labels of these classes.
    pub fn pick(&self, classes: &[usize]) -> Result<Tensor> {
        fn each<T: Clone>(list: &[T], classes: &[usize]) -> Result<Vec<T>> {
            let label = |&class: &usize| list.get(class).cloned();
            let labels = classes.iter().map(label).collect::<Option<Vec<T>>>();
            labels.ok_or_else(|| Error::new(ErrorCode::RunFailed, "there are fewer labels than classes"))
        }
        match self {
            Labels::Ints(list) => Tensor::new(&[classes.len()], each(list, classes)?),
            Labels::Strings(list) => Tensor::from_strings(&[classes.len()], each(list, classes)?),
        }
    }
}

/// The number of rows and features of an input `[n, features]`, or `[features]` for one row.
pub fn rows_of(shape: &[usize]) -> Result<(usize, usize)> {
    match *shape {
        [features] => Ok((1, features)),
        [rows, features] => Ok((rows, features)),
        _ => Err(mismatch("the input is not rows of features")
            .expected("[n, features] or [features]")
            .actual(display_shape(shape))),
    }
}

/// The number of rows of the first input, as far as it is known.
pub fn infer_rows(ctx: &mut InferContext<'_>) -> Result<Dim> {
    Ok(match ctx.shape(0) {
        Some([_]) => Dim::from(1),
        Some([rows, _]) => rows.clone(),
        Some(other) => return Err(rank_error(0, "1 or 2", other.len())),
        None => ctx.fresh_dim(),
    })
}

/// Sets what is known of a classifier's outputs: labels `[n]` and f32 scores `[n, columns]`.
pub fn infer_classifier(ctx: &mut InferContext<'_>, labels: &Labels, columns: usize) -> Result<()> {
    features_type(ctx)?;
    let rows = infer_rows(ctx)?;
    ctx.set_output(0, labels.dtype(), Some(vec![rows.clone()]));
    ctx.set_output(1, DType::F32, Some(vec![rows, Dim::from(columns)]));
    Ok(())
}

/// Sets what is known of a regressor's output: `[n, targets]`.
pub fn infer_regressor(ctx: &mut InferContext<'_>, dtype: DType, targets: usize) -> Result<()> {
    features_type(ctx)?;
    let rows = infer_rows(ctx)?;
    ctx.set_output(0, dtype, Some(vec![rows, Dim::from(targets)]));
    Ok(())
}

/// Checks that the first input is of numbers.
pub fn features_type(ctx: &InferContext<'_>) -> Result<DType> {
    let dtype = ctx.dtype(0)?;
    if !(dtype.is_float() || dtype.is_integer()) {
        return Err(Error::new(ErrorCode::WrongType, "features are not numbers").actual(dtype.name()));
    }
    Ok(dtype)
}

/// Memory for scores of this shape.
pub fn reserve<T>(shape: &[usize]) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(element_count(shape)?).map_err(|_| {
        Error::new(ErrorCode::OutOfMemory, "there is no memory for the scores").actual(display_shape(shape))
    })?;
    Ok(list)
}

/// The position of the first of the largest scores among those that `counts` picks; 0 when there is none.
pub fn largest(scores: &[f64], counts: impl Fn(usize) -> bool) -> usize {
    let mut best: Option<usize> = None;
    for index in (0..scores.len()).filter(|&index| counts(index)) {
        if best.is_none_or(|best| scores[index] > scores[best]) {
            best = Some(index);
        }
    }
    best.unwrap_or(0)
}

/// Any numeric tensor as `f32`s, or an error.
pub fn features_f32(tensor: &Tensor) -> Result<std::borrow::Cow<'_, [f32]>> {
    if tensor.dtype().is_float() {
        return tensor.to_f32s();
    }
    Ok(tensor.to_i64s()?.into_iter().map(|value| value as f32).collect())
}

/// The dot product of two lists of one length, in lanes that a compiler makes vectors of.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The first input of a run.
pub fn first(inputs: &[Option<Tensor>]) -> Result<&Tensor> {
    inputs
        .first()
        .and_then(Option::as_ref)
        .ok_or_else(|| invalid("required input 0 is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_do_what_their_names_say() {
        let of = |transform: Transform, row: &[f64]| {
            let mut row = row.to_vec();
            transform.apply(&mut row);
            row.iter().map(|value| (value * 1e4).round() / 1e4).collect::<Vec<_>>()
        };
        assert_eq!(of(Transform::None, &[-3.0, 2.0]), [-3.0, 2.0]);
        assert_eq!(of(Transform::Logistic, &[0.0, 1.0]), [0.5, 0.7311]);
        assert_eq!(of(Transform::Softmax, &[0.0, 1.0]), [0.2689, 0.7311]);
        assert_eq!(of(Transform::SoftmaxZero, &[0.0, 1.0, 1.0]), [0.0, 0.5, 0.5]);
        assert_eq!(of(Transform::SoftmaxZero, &[0.0, 0.0]), [0.0, 0.0]);
        let quantiles = of(Transform::Probit, &[0.5, 0.975, 0.025]);
        for (quantile, expected) in quantiles.iter().zip([0.0, 1.96, -1.96]) {
            assert!((quantile - expected).abs() < 5e-3, "{quantiles:?}");
        }
        assert_eq!(Transform::Softmax.of_two(0.25, true), [0.75, 0.25]);
        assert_eq!(Transform::None.of_two(0.25, false), [-0.25, 0.25]);
        assert!(Transform::numbered(5).is_err());
    }
}
