//! What is scaled by sums over a part of a tensor (softmax and the normalisations) in every float type and over random
//! shapes, axes and empty dimensions, against the definitions: each element asks for the others of its part.

use super::*;

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

fn assert_near(result: &Tensor, dtype: DType, shape: &[usize], expected: &[f64], what: &str) {
    assert_eq!((result.dtype(), result.shape()), (dtype, shape), "{what}");
    let tolerance = match dtype {
        DType::F64 => 1e-9,
        DType::F32 => 2e-4,
        DType::F16 => 1e-2,
        _ => 5e-2,
    };
    for (index, (a, e)) in result.to_f64s().unwrap().iter().zip(expected).enumerate() {
        let near = a == e || (a - e).abs() <= tolerance * e.abs().max(1.0);
        assert!(near, "{what}: element {index} is {a}, expected {e}");
    }
}

/// For each element of a tensor, `of` its value and those of the elements that agree with it in all axes but `axes`.
fn each(x: &Tensor, axes: &[usize], of: impl Fn(&[usize], f64, &[f64]) -> f64) -> Vec<f64> {
    let (shape, values) = (x.shape(), x.to_f64s().unwrap());
    let kept = |index: &[usize]| -> Vec<usize> {
        let all = index.iter().enumerate();
        all.map(|(axis, &at)| if axes.contains(&axis) { 0 } else { at })
            .collect()
    };
    let all: Vec<Vec<usize>> = indices(shape).collect();
    let one = |(number, index): (usize, &Vec<usize>)| {
        let group = all.iter().zip(&values).filter(|(other, _)| kept(other) == kept(index));
        let group: Vec<f64> = group.map(|(_, &value)| value).collect();
        of(index, values[number], &group)
    };
    all.iter().enumerate().map(one).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let middle = mean(values);
    mean(&values.iter().map(|value| (value - middle).powi(2)).collect::<Vec<_>>())
}

/// What a version before 13 takes for one axis, and the others for the axis and all behind.
fn axes_of(axis: usize, rank: usize, all_behind: bool) -> Vec<usize> {
    (axis..if all_behind { rank } else { axis + 1 }).collect()
}

#[test]
fn shares_and_largest_of_rows() {
    cases(|rng| {
        let dtype = pick(rng, &FLOATS);
        let from = shape(rng, 1, 4);
        let axis = rng.size(0, from.len() - 1);
        let version = pick(rng, &[11, 13]);
        let x = numbers(rng, dtype, &from);
        let axes = axes_of(axis, from.len(), version < 13);
        let operator = pick(rng, &["Softmax", "LogSoftmax"]);
        let expected = each(&x, &axes, |_, value, row| {
            let sum: f64 = row.iter().map(|other| (other - value).exp()).sum();
            if operator == "Softmax" { 1.0 / sum } else { -sum.ln() }
        });
        let node = TestNode::new(operator, version)
            .attr("axis", any_axis(rng, axis, from.len()))
            .input(x);
        let what = format!("{operator}-{version} of {from:?} along {axis}");
        assert_near(&node.run1().unwrap(), dtype, &from, &expected, &what);
    });
}

#[test]
fn rows_of_unit_variance() {
    cases(|rng| {
        let dtype = pick(rng, &FLOATS);
        let from = shape(rng, 1, 4);
        let axis = rng.size(0, from.len() - 1);
        let operator = pick(rng, &["LayerNormalization", "RMSNormalization"]);
        let x = numbers(rng, dtype, &from);
        let affine = match rng.bool() {
            true => from[axis..].to_vec(),
            false => broadcastable(rng, &from[axis..]),
        };
        let scale = numbers(rng, dtype, &affine);
        let bias = (operator == "LayerNormalization" && rng.bool()).then(|| numbers(rng, dtype, &affine));
        let weights = scale.to_f64s().unwrap();
        let offsets = bias.as_ref().map(|bias| bias.to_f64s().unwrap());
        let expected = each(&x, &axes_of(axis, from.len(), true), |index, value, row| {
            let at = flat(&affine, index);
            let squares: Vec<f64> = row.iter().map(|value| value * value).collect();
            let normal = match operator {
                "RMSNormalization" => value / (mean(&squares) + 1e-3).sqrt(),
                _ => (value - mean(row)) / (variance(row) + 1e-3).sqrt(),
            };
            normal * weights[at] + offsets.as_ref().map_or(0.0, |offsets| offsets[at])
        });
        let node = TestNode::new(operator, if operator == "LayerNormalization" { 17 } else { 23 })
            .attr("axis", any_axis(rng, axis, from.len()))
            .attr("epsilon", 1e-3f32)
            .input(x);
        let node = any_input(rng, node, scale);
        let node = match bias {
            Some(bias) => any_input(rng, node, bias),
            None => node,
        };
        let what = format!("{operator} of {from:?} from {axis}, scale {affine:?}");
        assert_near(&node.run1().unwrap(), dtype, &from, &expected, &what);
    });
}

#[test]
fn channels_of_unit_variance() {
    cases(|rng| {
        let dtype = pick(rng, &FLOATS);
        let (groups, width) = (rng.size(1, 3), rng.size(1, 3));
        let channels = groups * width;
        let mut from = vec![rng.size(0, 3), channels];
        from.extend(full_shape(rng, 1, 3));
        let x = numbers(rng, dtype, &from);
        let (scale, bias) = (numbers(rng, dtype, &[channels]), numbers(rng, dtype, &[channels]));
        let (weights, offsets) = (scale.to_f64s().unwrap(), bias.to_f64s().unwrap());
        let instance = rng.bool();
        let width = if instance { 1 } else { width };
        // Groups of channels become an axis of their own.
        let mut apart = vec![from[0], channels / width, width];
        apart.extend(&from[2..]);
        let axes: Vec<usize> = (2..apart.len()).collect();
        let normal = each(&x.reshaped(&apart).unwrap(), &axes, |_, value, group| {
            (value - mean(group)) / (variance(group) + 1e-3).sqrt()
        });
        let channel = indices(&from).map(|index| index[1]);
        let expected: Vec<f64> = channel
            .zip(normal)
            .map(|(c, value)| value * weights[c] + offsets[c])
            .collect();
        let node = match instance {
            true => TestNode::new("InstanceNormalization", 6),
            false => TestNode::new("GroupNormalization", 21).attr("num_groups", groups as i64),
        };
        let node = any_input(rng, node.attr("epsilon", 1e-3f32).input(x), scale);
        let node = any_input(rng, node, bias);
        let what = format!("{from:?} in groups of {width}");
        assert_near(&node.run1().unwrap(), dtype, &from, &expected, &what);
    });
}

#[test]
fn channels_by_given_statistics() {
    cases(|rng| {
        let dtype = pick(rng, &FLOATS);
        let from = [vec![rng.size(0, 3), rng.size(0, 5)], full_shape(rng, 0, 3)].concat();
        let x = numbers(rng, dtype, &from);
        let mut list = || numbers(rng, dtype, &from[1..2]);
        let given = [list(), list(), list(), list()];
        // Variances are positive.
        let variances: Vec<f64> = given[3].to_f64s().unwrap().iter().map(|value| value.abs()).collect();
        let spread = Tensor::from_f64s(dtype, &from[1..2], &variances).unwrap();
        let [weights, offsets, means] = [0, 1, 2].map(|at| given[at].to_f64s().unwrap());
        let expected = each(&x, &[], |index, value, _| {
            let c = index[1];
            (value - means[c]) / (variances[c] + 0.5).sqrt() * weights[c] + offsets[c]
        });
        let node = TestNode::new("BatchNormalization", 15).attr("epsilon", 0.5f32).input(x);
        let [scale, bias, middle, _] = given;
        let node = [scale, bias, middle, spread]
            .into_iter()
            .fold(node, |node, tensor| any_input(rng, node, tensor));
        assert_near(&node.run1().unwrap(), dtype, &from, &expected, &format!("{from:?}"));
    });
}

#[test]
fn lengths_and_neighbouring_channels() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::F32, DType::F64, DType::F16]);
        let from = shape(rng, 3, 4);
        let x = numbers(rng, dtype, &from);
        let (axis, p) = (rng.size(0, from.len() - 1), rng.size(1, 2));
        let expected = each(&x, &[axis], |_, value, row| {
            let norm = match p {
                1 => row.iter().map(|value| value.abs()).sum::<f64>(),
                _ => row.iter().map(|value| value * value).sum::<f64>().sqrt(),
            };
            if norm == 0.0 { 0.0 } else { value / norm }
        });
        let node = TestNode::new("LpNormalization", 22)
            .attr("axis", any_axis(rng, axis, from.len()))
            .attr("p", p as i64)
            .input(x.clone());
        assert_near(
            &node.run1().unwrap(),
            dtype,
            &from,
            &expected,
            &format!("{from:?} along {axis}, p {p}"),
        );

        let size = rng.size(1, 4);
        let values = x.to_f64s().unwrap();
        let expected = each(&x, &[], |index, value, _| {
            let first = index[1].saturating_sub((size - 1) / 2);
            let last = (index[1] + size / 2).min(from[1] - 1);
            let square = |channel: usize| {
                let mut other = index.to_vec();
                other[1] = channel;
                values[flat(&from, &other)].powi(2)
            };
            let sum: f64 = (first..=last).map(square).sum();
            value / (1.0 + 0.5 * sum / size as f64).powf(0.75)
        });
        let node = TestNode::new("LRN", 13)
            .attr("size", size as i64)
            .attr("alpha", 0.5f32)
            .attr("beta", 0.75f32);
        let result = node.attr("bias", 1.0f32).input(x).run1().unwrap();
        assert_near(&result, dtype, &from, &expected, &format!("{from:?}, {size} channels"));
    });
}
