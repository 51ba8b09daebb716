//! Linear models, support vector machines, rotary embeddings and the operators of quantised tensors over random sizes, against
//! their definitions.

use super::*;
use crate::{
    graph::OperatorId,
    ops::testing::{f32s, tensor},
};

fn model(operator: &str) -> TestNode {
    TestNode::of(OperatorId::new("ai.onnx.ml", operator, 1))
}

fn quarters(rng: &mut Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.size(0, 32) as f32 / 4.0 - 4.0).collect()
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn assert_near(result: &Tensor, shape: &[usize], expected: &[f64], what: &str) {
    assert_eq!(result.shape(), shape, "{what}");
    for (index, (a, e)) in result.to_f64s().unwrap().iter().zip(expected).enumerate() {
        assert!(
            (a - e).abs() <= 2e-3 * e.abs().max(1.0),
            "{what}: element {index} is {a}, expected {e}"
        );
    }
}

/// The first of the largest.
fn largest(scores: &[f64]) -> usize {
    (0..scores.len()).fold(0, |best, index| if scores[index] > scores[best] { index } else { best })
}

fn transformed(name: &str, scores: &[f64]) -> Vec<f64> {
    let logistic = |score: &f64| 1.0 / (1.0 + (-score).exp());
    match name {
        "LOGISTIC" => scores.iter().map(logistic).collect(),
        "SOFTMAX" => {
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
            scores.iter().map(|score| (score - most).exp() / sum).collect()
        }
        _ => scores.to_vec(),
    }
}

#[test]
fn linear_models_weigh_the_features() {
    cases(|rng| {
        let (rows, features, scores) = (rng.size(0, 9), rng.size(1, 7), rng.size(3, 5));
        let transform = pick(rng, &["NONE", "SOFTMAX", "LOGISTIC"]);
        let (x, weights, intercepts) = (
            quarters(rng, rows * features),
            quarters(rng, scores * features),
            quarters(rng, scores),
        );
        let given = rng.bool();
        let raw: Vec<Vec<f64>> = x
            .chunks(features)
            .map(|row| {
                let each = weights.chunks(features).zip(&intercepts);
                each.map(|(weights, own)| product(row, weights) + if given { f64::from(*own) } else { 0.0 })
                    .collect()
            })
            .collect();
        let expected: Vec<f64> = raw.iter().flat_map(|scores| transformed(transform, scores)).collect();
        let node = |operator: &str| {
            let node = model(operator)
                .attr("coefficients", weights.clone())
                .attr("post_transform", transform)
                .input(f32s(&[rows, features], &x));
            if given {
                node.attr("intercepts", intercepts.clone())
            } else {
                node
            }
        };
        let what = format!("{rows} rows of {features}, {scores} scores, {transform}");
        let result = node("LinearRegressor").attr("targets", scores as i64).run1().unwrap();
        assert_near(&result, &[rows, scores], &expected, &what);
        let labels: Vec<i64> = (0..scores as i64).map(|label| 10 * label - 7).collect();
        let results = node("LinearClassifier")
            .attr("classlabels_ints", &labels[..])
            .outputs(2)
            .run()
            .unwrap();
        let chosen: Vec<i64> = raw.iter().map(|scores| labels[largest(scores)]).collect();
        assert_eq!(results[0].to_i64s().unwrap(), chosen, "{what}");
        assert_near(&results[1], &[rows, scores], &expected, &what);
    });
}

/// What a kernel of a support vector machine says of two rows.
fn kernel(name: &str, [gamma, coef0, degree]: [f64; 3], a: &[f32], b: &[f32]) -> f64 {
    match name {
        "LINEAR" => product(a, b),
        "POLY" => (gamma * product(a, b) + coef0).powf(degree),
        "SIGMOID" => (gamma * product(a, b) + coef0).tanh(),
        _ => {
            let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
            (-gamma * squares.sum::<f64>()).exp()
        }
    }
}

fn machine(rng: &mut Rng) -> (&'static str, [f64; 3]) {
    let name = pick(rng, &["LINEAR", "POLY", "SIGMOID", "RBF"]);
    (name, [rng.size(1, 2) as f64 / 16.0, 0.5, rng.size(1, 2) as f64])
}

#[test]
fn support_vectors_are_weighed_by_their_kernel() {
    cases(|rng| {
        let (rows, features, count) = (rng.size(0, 9), rng.size(1, 5), rng.size(1, 9));
        let (name, params) = machine(rng);
        let (x, vectors, weights) = (
            quarters(rng, rows * features),
            quarters(rng, count * features),
            quarters(rng, count),
        );
        let rho = quarters(rng, 1);
        let one_class = rng.bool();
        let expected: Vec<f64> = x
            .chunks(features)
            .map(|row| {
                let parts = vectors.chunks(features).zip(&weights);
                let sum: f64 = parts
                    .map(|(vector, weight)| f64::from(*weight) * kernel(name, params, row, vector))
                    .sum();
                let score = sum + f64::from(rho[0]);
                match one_class {
                    true if score > 0.0 => 1.0,
                    true => -1.0,
                    false => score,
                }
            })
            .collect();
        let result = model("SVMRegressor")
            .attr("kernel_type", name)
            .attr("kernel_params", params.map(|param| param as f32).to_vec())
            .attr("support_vectors", vectors)
            .attr("coefficients", weights)
            .attr("rho", rho)
            .attr("n_supports", count as i64)
            .attr("one_class", i64::from(one_class))
            .input(f32s(&[rows, features], &x))
            .run1()
            .unwrap();
        let what = format!("{name} of {rows} rows, {features} features, {count} vectors, one class: {one_class}");
        // A score next to zero may fall to either side; quarters leave sums of kernels apart from it but for exact zeros.
        assert_near(&result, &[rows, 1], &expected, &what);
    });
}

#[test]
fn machines_of_pairs_of_classes_vote() {
    cases(|rng| {
        let (rows, features, classes) = (rng.size(0, 6), rng.size(1, 4), rng.size(3, 4));
        let (name, params) = machine(rng);
        let per_class: Vec<usize> = (0..classes).map(|_| rng.size(1, 3)).collect();
        let count: usize = per_class.iter().sum();
        let pairs = classes * (classes - 1) / 2;
        let (x, vectors) = (quarters(rng, rows * features), quarters(rng, count * features));
        let (weights, rho) = (quarters(rng, (classes - 1) * count), quarters(rng, pairs));
        let start = |class: usize| per_class[..class].iter().sum::<usize>();
        let (mut decisions, mut chosen) = (Vec::new(), Vec::new());
        for row in x.chunks(features) {
            let kernels: Vec<f64> = vectors
                .chunks(features)
                .map(|vector| kernel(name, params, row, vector))
                .collect();
            let part = |line: usize, class: usize| -> f64 {
                let own = start(class)..start(class + 1);
                own.map(|at| f64::from(weights[line * count + at]) * kernels[at]).sum()
            };
            let mut votes = vec![0.0; classes];
            let mut pair = 0;
            for first in 0..classes {
                for second in first + 1..classes {
                    let decision = part(second - 1, first) + part(first, second) + f64::from(rho[pair]);
                    votes[if decision > 0.0 { first } else { second }] += 1.0;
                    decisions.push(decision);
                    pair += 1;
                }
            }
            chosen.push(largest(&votes) as i64);
        }
        let results = model("SVMClassifier")
            .attr("kernel_type", name)
            .attr("kernel_params", params.map(|param| param as f32).to_vec())
            .attr("support_vectors", vectors)
            .attr(
                "vectors_per_class",
                &per_class.iter().map(|&count| count as i64).collect::<Vec<_>>()[..],
            )
            .attr("coefficients", weights)
            .attr("rho", rho)
            .attr("classlabels_ints", &(0..classes as i64).collect::<Vec<_>>()[..])
            .input(f32s(&[rows, features], &x))
            .outputs(2)
            .run()
            .unwrap();
        let what = format!("{name} of {rows} rows, {features} features, {classes} classes");
        assert_eq!(results[0].to_i64s().unwrap(), chosen, "{what}");
        assert_near(&results[1], &[rows, pairs], &decisions, &what);
    });
}

#[test]
fn pairs_are_turned_by_the_angle_of_their_position() {
    cases(|rng| {
        let (batch, length, heads) = (rng.size(1, 2), rng.size(1, 4), rng.size(1, 3));
        let pairs = rng.size(1, 4);
        let size = 2 * pairs + if rng.bool() { 0 } else { rng.size(1, 3) };
        let (interleaved, three, table) = (rng.bool(), rng.bool(), 6);
        let count = batch * length * heads * size;
        let (x, cos, sin) = (
            quarters(rng, count),
            quarters(rng, table * pairs),
            quarters(rng, table * pairs),
        );
        let positions: Vec<i64> = (0..batch * length).map(|_| rng.size(0, table - 1) as i64).collect();
        let shape = if three {
            vec![batch, length, heads * size]
        } else {
            vec![batch, heads, length, size]
        };
        let mut expected = vec![0.0; count];
        for b in 0..batch {
            for s in 0..length {
                for h in 0..heads {
                    let start = if three {
                        ((b * length + s) * heads + h) * size
                    } else {
                        ((b * heads + h) * length + s) * size
                    };
                    for at in 0..size {
                        let value = |at: usize| f64::from(x[start + at]);
                        expected[start + at] = if at >= 2 * pairs {
                            value(at)
                        } else {
                            let (pair, is_first) = if interleaved {
                                (at / 2, at % 2 == 0)
                            } else {
                                (at % pairs, at < pairs)
                            };
                            let other = match (interleaved, is_first) {
                                (true, true) => at + 1,
                                (true, false) => at - 1,
                                (false, true) => at + pairs,
                                (false, false) => at - pairs,
                            };
                            let place = positions[b * length + s] as usize * pairs + pair;
                            let (cos, sin) = (f64::from(cos[place]), f64::from(sin[place]));
                            if is_first {
                                value(at) * cos - value(other) * sin
                            } else {
                                value(other) * sin + value(at) * cos
                            }
                        };
                    }
                }
            }
        }
        let result = TestNode::new("RotaryEmbedding", 23)
            .attr("interleaved", i64::from(interleaved))
            .attr(
                "rotary_embedding_dim",
                if size == 2 * pairs { 0 } else { 2 * pairs as i64 },
            )
            .attr("num_heads", if three { heads as i64 } else { 0 })
            .input(f32s(&shape, &x))
            .input(f32s(&[table, pairs], &cos))
            .input(f32s(&[table, pairs], &sin))
            .input(i64s(&[batch, length], &positions))
            .run1()
            .unwrap();
        assert_near(
            &result,
            &shape,
            &expected,
            &format!("{shape:?}, {pairs} pairs, interleaved: {interleaved}"),
        );
    });
}

#[test]
fn positions_are_made_of_numbers() {
    cases(|rng| {
        let from = shape(rng, 0, 3);
        let depth = rng.size(1, 5);
        let axis = rng.size(0, from.len());
        let count: usize = from.iter().product();
        let indices_in: Vec<i64> = (0..count)
            .map(|_| rng.size(0, 4 * depth) as i64 - 2 * depth as i64)
            .collect();
        let to = [&from[..axis], &[depth], &from[axis..]].concat();
        let expected: Vec<f64> = indices(&to)
            .map(|mut index| {
                let at = index.remove(axis) as i64;
                let own = indices_in[flat(&from, &index)];
                if own == at || own + depth as i64 == at {
                    5.0
                } else {
                    -2.0
                }
            })
            .collect();
        let dtype = pick(rng, &[DType::F32, DType::I8, DType::I64, DType::F64]);
        let values = Tensor::from_f64s(DType::F64, &[2], &[-2.0, 5.0]).unwrap();
        let values = match dtype {
            DType::F32 => f32s(&[2], &[-2.0, 5.0]),
            DType::F64 => values,
            dtype => Tensor::from_i64s(dtype, &[2], &[-2, 5]).unwrap(),
        };
        let node = TestNode::new("OneHot", 11)
            .attr("axis", any_axis(rng, axis, from.len() + 1))
            .input(i64s(&from, &indices_in));
        // The depth makes the shape.
        let result = node.constant(i64s(&[], &[depth as i64])).input(values).run1().unwrap();
        assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]));
        assert_eq!(result.to_f64s().unwrap(), expected, "{from:?} along {axis} of {depth}");
    });
}

/// A tensor of 8-bit integers with its scale and zero point. Scales are powers of two, so that ties are ties.
struct Quantized {
    values: Tensor,
    scale: f32,
    zero: i64,
}

impl Quantized {
    fn of(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Quantized {
        let count: usize = shape.iter().product();
        let low = if dtype == DType::I8 { -128 } else { 0 };
        let values: Vec<i64> = (0..count).map(|_| low + rng.size(0, 255) as i64).collect();
        Quantized {
            values: Tensor::from_i64s(dtype, shape, &values).unwrap(),
            scale: f32::powi(2.0, rng.size(0, 3) as i32 - 5),
            zero: low + rng.size(0, 255) as i64,
        }
    }

    fn number(&self, at: usize) -> f64 {
        (self.values.to_f64s().unwrap()[at] - self.zero as f64) * f64::from(self.scale)
    }

    fn input(&self, node: TestNode) -> TestNode {
        self.parameters(node.input(self.values.clone()))
    }

    fn parameters(&self, node: TestNode) -> TestNode {
        let zero = Tensor::from_i64s(self.values.dtype(), &[], &[self.zero]).unwrap();
        node.input(f32s(&[], &[self.scale])).input(zero)
    }

    /// What a number becomes in this quantisation.
    fn code(&self, number: f64) -> f64 {
        let low = if self.values.dtype() == DType::I8 { -128.0 } else { 0.0 };
        ((number / f64::from(self.scale)).round_ties_even() + self.zero as f64).clamp(low, low + 255.0)
    }
}

#[test]
fn quantised_tensors_are_added_and_multiplied() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::U8, DType::I8]);
        let to = full_shape(rng, 0, 3);
        let (a, b) = (Quantized::of(rng, dtype, &to), broadcastable(rng, &to));
        let (b, y) = (Quantized::of(rng, dtype, &b), Quantized::of(rng, dtype, &[]));
        let operator = pick(rng, &["QLinearAdd", "QLinearMul"]);
        let expected: Vec<f64> = indices(&to)
            .enumerate()
            .map(|(at, index)| {
                let (a, b) = (a.number(at), b.number(flat(b.values.shape(), &index)));
                y.code(if operator == "QLinearAdd" { a + b } else { a * b })
            })
            .collect();
        let node = TestNode::of(OperatorId::new("com.microsoft", operator, 1));
        let result = y.parameters(b.input(a.input(node))).run1().unwrap();
        assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]), "{operator}");
        assert_eq!(result.to_f64s().unwrap(), expected, "{operator} of {to:?}");
    });
}

#[test]
fn quantised_matrices_are_multiplied() {
    cases(|rng| {
        let (dtype, weights) = (pick(rng, &[DType::U8, DType::I8]), pick(rng, &[DType::U8, DType::I8]));
        let (m, k, n) = (rng.size(1, 7), rng.size(1, 40), rng.size(1, 20));
        let (a, b, y) = (
            Quantized::of(rng, dtype, &[m, k]),
            Quantized::of(rng, weights, &[k, n]),
            Quantized::of(rng, dtype, &[]),
        );
        let sums: Vec<f64> = (0..m * n)
            .map(|at| {
                (0..k)
                    .map(|d| a.number(at / n * k + d) * b.number(d * n + at % n))
                    .sum()
            })
            .collect();
        let codes: Vec<f64> = sums.iter().map(|&sum| y.code(sum)).collect();
        let node = TestNode::new("QLinearMatMul", 21);
        let result = y.parameters(b.input(a.input(node))).run1().unwrap();
        assert_eq!(result.to_f64s().unwrap(), codes, "{m}x{k}x{n}");
        // The scales apart from the codes, and a bias behind the product.
        let bias = quarters(rng, n);
        let zero = |q: &Quantized| Tensor::from_i64s(q.values.dtype(), &[], &[q.zero]).unwrap();
        let result = TestNode::of(OperatorId::new("com.microsoft", "MatMulIntegerToFloat", 1))
            .input(a.values.clone())
            .input(b.values.clone())
            .input(f32s(&[], &[a.scale]))
            .input(f32s(&[], &[b.scale]))
            .input(zero(&a))
            .input(zero(&b))
            .input(tensor(&[n], &bias))
            .run1()
            .unwrap();
        let expected: Vec<f64> = sums
            .iter()
            .enumerate()
            .map(|(at, sum)| sum + f64::from(bias[at % n]))
            .collect();
        assert_near(&result, &[m, n], &expected, &format!("{m}x{k}x{n} as floats"));
    });
}
