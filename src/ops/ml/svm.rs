//! Support vector machines: SVMClassifier, SVMRegressor.

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

/// Attribute `kernel_type`.
#[derive(Clone, Copy, Debug)]
enum KernelType {
    Linear,
    Poly,
    Rbf,
    Sigmoid,
}

/// Support vectors, and how rows are compared with them.
#[derive(Debug)]
struct Vectors {
    kernel: KernelType,
    gamma: f32,
    coef0: f32,
    degree: f32,
    vectors: Vec<f32>,
    count: usize,
    features: usize,
}

impl Vectors {
    /// The `count` support vectors of a node.
    fn of(node: &Node, count: usize) -> Result<Vectors> {
        let kernel = match node.attributes.string("kernel_type")?.unwrap_or("LINEAR") {
            "LINEAR" => KernelType::Linear,
            "POLY" => KernelType::Poly,
            "RBF" => KernelType::Rbf,
            "SIGMOID" => KernelType::Sigmoid,
            other => return Err(invalid("attribute kernel_type names no kernel").actual(other)),
        };
        let (gamma, coef0, degree) = match node.attributes.floats("kernel_params")?.unwrap_or_default() {
            [] => (0.0, 0.0, 0.0),
            &[gamma, coef0, degree] => (gamma, coef0, degree),
            other => {
                return Err(invalid("attribute kernel_params has the wrong length")
                    .expected("3")
                    .actual(other.len().to_string()));
            }
        };
        let vectors = floats(node, "support_vectors")?;
        if count == 0 || !vectors.len().is_multiple_of(count) {
            return Err(invalid("attribute support_vectors does not divide into the vectors")
                .expected(format!("{count} vectors"))
                .actual(vectors.len().to_string()));
        }
        Ok(Vectors {
            kernel,
            gamma,
            coef0,
            degree,
            features: vectors.len() / count,
            vectors,
            count,
        })
    }

    /// Compares a row with every vector.
    fn compare(&self, row: &[f32], found: &mut Vec<f32>) {
        found.clear();
        for index in 0..self.count {
            let vector = &self.vectors[index * self.features..(index + 1) * self.features];
            found.push(match self.kernel {
                KernelType::Linear => dot(row, vector),
                KernelType::Poly => (self.gamma * dot(row, vector) + self.coef0).powf(self.degree),
                KernelType::Sigmoid => (self.gamma * dot(row, vector) + self.coef0).tanh(),
                KernelType::Rbf => {
                    let squares = row.iter().zip(vector).map(|(a, b)| f64::from((a - b) * (a - b)));
                    (-self.gamma * squares.sum::<f64>() as f32).exp()
                }
            });
        }
    }
}

fn floats(node: &Node, name: &str) -> Result<Vec<f32>> {
    Ok(node.attributes.floats(name)?.unwrap_or_default().to_vec())
}

/// Sum of products as f64.
fn sum_of_products(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn check_columns(shape: &[usize], features: usize) -> Result<()> {
    let (_, columns) = rows_of(shape)?;
    if columns != features {
        return Err(mismatch("the rows have another number of features than the model")
            .expected(features.to_string())
            .actual(columns.to_string()));
    }
    Ok(())
}

/// Gives each row of `x` to `each`.
fn each_row(x: &Tensor, features: usize, mut each: impl FnMut(&[f32])) -> Result<()> {
    check_columns(x.shape(), features)?;
    let (values, count) = (features_f32(x)?, rows_of(x.shape())?.0);
    (0..count).for_each(|row| each(&values[row * features..(row + 1) * features]));
    Ok(())
}

/// ONNX-ML `SVMRegressor`: one score for each row of `X` `[n, features]`, f32 `[n, 1]`: the weighted sum of the row's kernel
/// with each support vector, or of its features when there are no vectors, plus `rho`. With `one_class`, 1 for positive
/// scores, else -1.
#[derive(Debug)]
struct SvmRegressor {
    model: Arc<Regression>,
}

#[derive(Debug)]
struct Regression {
    vectors: Option<Vectors>,
    coefficients: Vec<f32>,
    rho: f32,
    one_class: bool,
    transform: Transform,
}

/// Makes [`SvmRegressor`].
pub fn make_regressor(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let count = attributes.int("n_supports")?.unwrap_or(0);
    let count = usize::try_from(count).map_err(|_| invalid("attribute n_supports is negative"))?;
    let vectors = if count > 0 {
        Some(Vectors::of(node, count)?)
    } else {
        None
    };
    let coefficients = floats(node, "coefficients")?;
    if vectors.is_some() && coefficients.len() != count {
        return Err(invalid("attribute coefficients has the wrong length")
            .expected(count.to_string())
            .actual(coefficients.len().to_string()));
    }
    Ok(Box::new(SvmRegressor {
        model: Arc::new(Regression {
            vectors,
            coefficients,
            rho: floats(node, "rho")?.first().copied().unwrap_or(0.0),
            one_class: attributes.flag("one_class", false)?,
            transform: Transform::of(node)?,
        }),
    }))
}

impl Regression {
    fn features(&self) -> usize {
        self.vectors
            .as_ref()
            .map_or(self.coefficients.len(), |vectors| vectors.features)
    }

    fn score(&self, row: &[f32], kernels: &mut Vec<f32>) -> f32 {
        let sum = match &self.vectors {
            Some(vectors) => {
                vectors.compare(row, kernels);
                sum_of_products(kernels, &self.coefficients)
            }
            None => sum_of_products(row, &self.coefficients),
        };
        let score = sum + f64::from(self.rho);
        if self.one_class {
            return if score > 0.0 { 1.0 } else { -1.0 };
        }
        let mut scores = [score];
        self.transform.apply(&mut scores);
        scores[0] as f32
    }
}

impl Operator for SvmRegressor {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_regressor(ctx, DType::F32, 1)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        check_columns(&ctx.input(0)?.shape, self.model.features())?;
        let model = self.model.clone();
        Ok(CpuKernel::dynamic("svm", move |inputs| {
            let x = first(inputs)?;
            let shape = [rows_of(x.shape())?.0, 1];
            let (mut values, mut kernels) = (reserve(&shape)?, Vec::new());
            each_row(x, model.features(), |row| values.push(model.score(row, &mut kernels)))?;
            Ok(vec![Tensor::new(&shape, values)?])
        }))
    }
}

/// ONNX-ML `SVMClassifier`: a label for each row of `X` `[n, features]`, and f32 scores.
///
/// With support vectors, every pair of classes is decided by one machine, and the class that wins most pairs is the
/// label's. The scores are probabilities `[n, classes]` when the model has coefficients for them, else the decision of
/// each pair (for two classes, its negation and it). Without support vectors, the scores are linear in the features.
#[derive(Debug)]
struct SvmClassifier {
    model: Arc<Classification>,
}

#[derive(Debug)]
struct Classification {
    labels: Labels,
    transform: Transform,
    coefficients: Vec<f32>,
    rho: Vec<f32>,
    /// Support vectors, and for each class where its own begin; one more for the end.
    vectors: Option<(Vectors, Vec<usize>)>,
    /// The coefficients of each pair's probability.
    probabilities: Option<(Vec<f32>, Vec<f32>)>,
}

/// Makes [`SvmClassifier`].
pub fn make_classifier(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let labels = Labels::of(attributes, "classlabels_ints", "classlabels_strings")?;
    let classes = labels.len();
    let (coefficients, rho) = (floats(node, "coefficients")?, floats(node, "rho")?);
    let wrong = |name: &str, expected: usize, actual: usize| {
        let error = invalid(format!("attribute {name} has the wrong length"));
        Err(error.expected(expected.to_string()).actual(actual.to_string()))
    };
    let counts = attributes.ints("vectors_per_class")?.unwrap_or_default();
    let (mut vectors, mut probabilities) = (None, None);
    if counts.is_empty() {
        if !coefficients.len().is_multiple_of(classes) {
            return wrong("coefficients", classes, coefficients.len());
        }
    } else {
        let mut starts = vec![0usize];
        for &count in counts {
            let count =
                usize::try_from(count).map_err(|_| invalid("attribute vectors_per_class has a negative count"))?;
            let end = starts[starts.len() - 1].checked_add(count);
            starts.push(end.ok_or_else(|| invalid("attribute vectors_per_class counts too many"))?);
        }
        let total = starts[starts.len() - 1];
        if counts.len() != classes {
            return wrong("vectors_per_class", classes, counts.len());
        }
        let pairs = classes.saturating_mul(classes - 1) / 2;
        if rho.len() != pairs {
            return wrong("rho", pairs, rho.len());
        }
        if total.checked_mul(classes - 1) != Some(coefficients.len()) {
            return wrong("coefficients", total.saturating_mul(classes - 1), coefficients.len());
        }
        let (a, b) = (floats(node, "prob_a")?, floats(node, "prob_b")?);
        if !a.is_empty() {
            if a.len() != pairs || b.len() != pairs {
                return wrong(
                    "prob_a or prob_b",
                    pairs,
                    if a.len() == pairs { b.len() } else { a.len() },
                );
            }
            probabilities = Some((a, b));
        }
        vectors = Some((Vectors::of(node, total)?, starts));
    }
    Ok(Box::new(SvmClassifier {
        model: Arc::new(Classification {
            labels,
            transform: Transform::of(node)?,
            coefficients,
            rho,
            vectors,
            probabilities,
        }),
    }))
}

impl Classification {
    fn features(&self) -> usize {
        match &self.vectors {
            Some((vectors, _)) => vectors.features,
            None => self.coefficients.len() / self.labels.len(),
        }
    }

    fn columns(&self) -> usize {
        match (&self.vectors, self.labels.len()) {
            (Some(_), 3..) if self.probabilities.is_none() => self.rho.len(),
            (_, classes) => classes,
        }
    }

    /// A row's class; its scores are appended.
    fn classify(&self, row: &[f32], kernels: &mut Vec<f32>, scores: &mut Vec<f32>) -> usize {
        let Some((vectors, starts)) = &self.vectors else {
            let weights = (0..self.labels.len()).map(|class| &self.coefficients[class * row.len()..][..row.len()]);
            let rho = f64::from(self.rho.first().copied().unwrap_or(0.0));
            let mut sums: Vec<f64> = weights.map(|weights| sum_of_products(row, weights) + rho).collect();
            let class = largest(&sums, |_| true);
            self.transform.apply(&mut sums);
            scores.extend(sums.iter().map(|&score| score as f32));
            return class;
        };
        vectors.compare(row, kernels);
        let classes = self.labels.len();
        let (mut decisions, mut votes) = (Vec::with_capacity(self.rho.len()), vec![0.0; classes]);
        for first in 0..classes {
            for second in first + 1..classes {
                let part = |row: usize, class: usize| {
                    let range = starts[class]..starts[class + 1];
                    let weights = &self.coefficients[row * vectors.count..][range.clone()];
                    sum_of_products(weights, &kernels[range])
                };
                let rho = f64::from(self.rho[decisions.len()]);
                let decision = part(second - 1, first) + part(first, second) + rho;
                votes[if decision > 0.0 { first } else { second }] += 1.0;
                decisions.push(decision);
            }
        }
        let mut values = match &self.probabilities {
            Some((a, b)) => {
                let pairs = decisions.iter().zip(a.iter().zip(b));
                let pairs =
                    pairs.map(|(decision, (&a, &b))| 1.0 / (1.0 + (decision * f64::from(a) + f64::from(b)).exp()));
                couple(classes, &pairs.collect::<Vec<_>>())
            }
            None => decisions,
        };
        if self.probabilities.is_none() && classes == 2 {
            values = self
                .transform
                .of_two(values[0], self.transform != Transform::None)
                .to_vec();
        } else {
            self.transform.apply(&mut values);
        }
        scores.extend(values.iter().map(|&score| score as f32));
        largest(&votes, |_| true)
    }
}

/// Probabilities of classes from those of the first class of each pair, by the second method of Wu, Lin and Weng
/// ("Probability estimates for multi-class classification by pairwise coupling", JMLR 5, 2004), to its usual precision.
fn couple(classes: usize, pairs: &[f64]) -> Vec<f64> {
    let mut r = vec![0.0; classes * classes];
    let mut pairs = pairs.iter().map(|pair| pair.clamp(1e-7, 1.0 - 1e-7));
    for i in 0..classes {
        for j in i + 1..classes {
            let pair = pairs.next().unwrap_or(0.5);
            r[i * classes + j] = pair;
            r[j * classes + i] = 1.0 - pair;
        }
    }
    let mut q = vec![0.0; classes * classes];
    for t in 0..classes {
        for j in (0..classes).filter(|&j| j != t) {
            q[t * classes + t] += r[j * classes + t] * r[j * classes + t];
            q[t * classes + j] = -r[j * classes + t] * r[t * classes + j];
        }
    }
    let mut p = vec![1.0 / classes as f64; classes];
    for _ in 0..classes.max(100) {
        let mut qp: Vec<f64> = q
            .chunks(classes)
            .map(|row| row.iter().zip(&p).map(|(q, p)| q * p).sum())
            .collect();
        let mut pqp: f64 = qp.iter().zip(&p).map(|(qp, p)| qp * p).sum();
        let error = qp.iter().map(|qp| (qp - pqp).abs()).fold(0.0, f64::max);
        if error < 0.005 / classes as f64 {
            break;
        }
        for t in 0..classes {
            let own = q[t * classes + t];
            let step = (pqp - qp[t]) / own;
            p[t] += step;
            pqp = (pqp + step * (step * own + 2.0 * qp[t])) / ((1.0 + step) * (1.0 + step));
            for j in 0..classes {
                qp[j] = (qp[j] + step * q[t * classes + j]) / (1.0 + step);
                p[j] /= 1.0 + step;
            }
        }
    }
    p
}

impl Operator for SvmClassifier {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_classifier(ctx, &self.model.labels, self.model.columns())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        check_columns(&ctx.input(0)?.shape, self.model.features())?;
        let model = self.model.clone();
        Ok(CpuKernel::dynamic("svm", move |inputs| {
            let x = first(inputs)?;
            let shape = [rows_of(x.shape())?.0, model.columns()];
            let (mut scores, mut classes) = (reserve(&shape)?, reserve(&shape[..1])?);
            let mut kernels = Vec::new();
            each_row(x, model.features(), |row| {
                classes.push(model.classify(row, &mut kernels, &mut scores));
            })?;
            Ok(vec![model.labels.pick(&classes)?, Tensor::new(&shape, scores)?])
        }))
    }
}
