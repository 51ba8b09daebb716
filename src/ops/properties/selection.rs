//! Sums along an axis, order and choice: CumSum, TopK, ArgMax, reductions of every type, NonZero, OneHot, Compress.

use super::*;

/// The rows of a tensor along an axis, as positions of their elements.
fn rows(shape: &[usize], axis: usize) -> Vec<Vec<usize>> {
    let mut starts = shape.to_vec();
    starts[axis] = 1;
    let strides = strides_of(shape);
    indices(&starts)
        .map(|index| {
            let start: usize = index.iter().zip(&strides).map(|(at, stride)| at * stride).sum();
            (0..shape[axis]).map(|at| start + at * strides[axis]).collect()
        })
        .collect()
}

#[test]
fn sums_run_along_an_axis() {
    cases(|rng| {
        let dtype = pick(
            rng,
            &[DType::F32, DType::F64, DType::I32, DType::I64, DType::U32, DType::U64],
        );
        let from = shape(rng, 1, 4);
        let axis = rng.size(0, from.len() - 1);
        let (exclusive, reverse) = (rng.bool(), rng.bool());
        let x = numbers(rng, dtype, &from);
        let values = x.to_f64s().unwrap();
        let mut expected = vec![0.0; values.len()];
        for mut row in rows(&from, axis) {
            if reverse {
                row.reverse();
            }
            let mut sum = 0.0;
            for at in row {
                expected[at] = if exclusive { sum } else { sum + values[at] };
                sum += values[at];
            }
        }
        let node = TestNode::new("CumSum", 14)
            .attr("exclusive", i64::from(exclusive))
            .attr("reverse", i64::from(reverse))
            .input(x);
        let axis = any_axis(rng, axis, from.len());
        let node = any_input(rng, node, i64s(&[], &[axis]));
        assert_eq!(node.run1().unwrap().to_f64s().unwrap(), expected, "{dtype}");
    });
}

#[test]
fn the_largest_and_smallest_come_first() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let from = shape(rng, 1, 4);
        let axis = rng.size(0, from.len() - 1);
        let k = rng.size(0, from[axis]);
        let largest = rng.bool();
        let x = numbers(rng, dtype, &from);
        let values = x.to_f64s().unwrap();
        let mut to = from.clone();
        to[axis] = k;
        let mut expected = [vec![0.0; to.iter().product()], vec![0.0; to.iter().product()]];
        for (row, out) in rows(&from, axis).into_iter().zip(rows(&to, axis)) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            // Equal ones in the order they stand in.
            order.sort_by(|&a, &b| {
                let (a, b) = (values[row[a]], values[row[b]]);
                if largest { b.total_cmp(&a) } else { a.total_cmp(&b) }
            });
            for (&at, to) in order.iter().zip(out) {
                expected[0][to] = values[row[at]];
                expected[1][to] = at as f64;
            }
        }
        let node = TestNode::new("TopK", 11)
            .attr("axis", any_axis(rng, axis, from.len()))
            .attr("largest", i64::from(largest))
            .outputs(2)
            .input(x);
        let node = node.constant(i64s(&[1], &[k as i64]));
        for (actual, expected) in node.run().unwrap().iter().zip(expected) {
            assert_eq!(actual.shape(), to);
            assert_eq!(actual.to_f64s().unwrap(), expected, "{dtype}");
        }
    });
}

#[test]
fn places_of_extremes() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let from = full_shape(rng, 1, 4);
        let axis = rng.size(0, from.len() - 1);
        let (is_max, last, keep) = (rng.bool(), rng.bool(), rng.bool());
        let x = numbers(rng, dtype, &from);
        let values = x.to_f64s().unwrap();
        let expected: Vec<i64> = rows(&from, axis)
            .into_iter()
            .map(|row| {
                let better = |a: f64, b: f64| if is_max { a > b } else { a < b };
                let mut best = 0;
                for at in 1..row.len() {
                    let (new, old) = (values[row[at]], values[row[best]]);
                    if better(new, old) || (last && new == old) {
                        best = at;
                    }
                }
                best as i64
            })
            .collect();
        let mut to = from.clone();
        to[axis] = 1;
        if !keep {
            to.remove(axis);
        }
        let node = TestNode::new(if is_max { "ArgMax" } else { "ArgMin" }, 13)
            .attr("axis", any_axis(rng, axis, from.len()))
            .attr("keepdims", i64::from(keep))
            .attr("select_last_index", i64::from(last))
            .input(x);
        assert_eq!(node.run1().unwrap(), i64s(&to, &expected), "{dtype}");
    });
}

#[test]
fn reductions_of_every_type() {
    type Reduce = fn(&[f64]) -> f64;
    const REDUCTIONS: [(&str, Reduce); 6] = [
        ("ReduceSum", |row| row.iter().sum()),
        ("ReduceMax", |row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        ("ReduceMin", |row| row.iter().copied().fold(f64::INFINITY, f64::min)),
        ("ReduceSumSquare", |row| row.iter().map(|x| x * x).sum()),
        ("ReduceL1", |row| row.iter().map(|x| x.abs()).sum()),
        ("ReduceMean", |row| row.iter().sum::<f64>() / row.len() as f64),
    ];
    const TYPES: [DType; 8] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::I64,
        DType::U32,
        DType::U64,
    ];
    cases(|rng| {
        for (name, reduce) in REDUCTIONS {
            let dtype = pick(rng, &TYPES);
            let from = full_shape(rng, 1, 4);
            let axes: Vec<usize> = (0..from.len()).filter(|_| rng.bool()).collect();
            let keep = rng.bool();
            let x = numbers(rng, dtype, &from);
            let values = x.to_f64s().unwrap();
            let reduced = |axis: usize| axes.is_empty() || axes.contains(&axis);
            let kept: Vec<usize> = (0..from.len())
                .map(|axis| if reduced(axis) { 1 } else { from[axis] })
                .collect();
            let mut groups = vec![Vec::new(); kept.iter().product()];
            for (index, &value) in indices(&from).zip(&values) {
                groups[flat(&kept, &index)].push(value);
            }
            let to: Vec<usize> = match keep {
                true => kept.clone(),
                false => (0..from.len())
                    .filter(|&axis| !reduced(axis))
                    .map(|axis| from[axis])
                    .collect(),
            };
            let node = TestNode::new(name, 18).attr("keepdims", i64::from(keep)).input(x);
            let node = any_input(rng, node, list(&axes));
            let result = node.run1().unwrap();
            assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]), "{name}");
            for (actual, group) in result.to_f64s().unwrap().into_iter().zip(&groups) {
                let expected = reduce(group);
                let tolerance = match dtype {
                    DType::F16 => 1e-3,
                    DType::BF16 => 8e-3,
                    dtype if dtype.is_float() => 1e-6,
                    // A mean of integers is cut off.
                    _ if name == "ReduceMean" => 1.0,
                    _ => 0.0,
                };
                let near = (actual - expected).abs() <= tolerance * expected.abs().max(1.0);
                assert!(near, "{name} of {dtype}: {actual}, expected {expected}");
            }
        }
    });
}

#[test]
fn choices_by_condition_and_by_number() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let from = shape(rng, 1, 4);
        let x = numbers(rng, dtype, &from);
        let places: Vec<Vec<usize>> = indices(&from)
            .zip(x.to_f64s().unwrap())
            .filter(|(_, value)| *value != 0.0)
            .map(|(index, _)| index)
            .collect();
        let by_axis: Vec<i64> = (0..from.len())
            .flat_map(|axis| places.iter().map(move |index| index[axis] as i64))
            .collect();
        let node = TestNode::new("NonZero", 13).input(x.clone());
        assert_eq!(node.run1().unwrap(), i64s(&[from.len(), places.len()], &by_axis));

        let axis = rng.size(0, from.len() - 1);
        let taken = {
            let dims = [rng.size(0, from[axis])];
            numbers(rng, DType::Bool, &dims)
        };
        let chosen: Vec<usize> = taken
            .to_i64s()
            .unwrap()
            .iter()
            .enumerate()
            .filter(|(_, taken)| **taken != 0)
            .map(|(at, _)| at)
            .collect();
        let mut to = from.clone();
        to[axis] = chosen.len();
        let source = |mut index: Vec<usize>| {
            index[axis] = chosen[index[axis]];
            Some(
                index
                    .iter()
                    .zip(strides_of(&from))
                    .map(|(at, stride)| at * stride)
                    .sum(),
            )
        };
        let sources: Vec<_> = indices(&to).map(source).collect();
        let node = TestNode::new("Compress", 11)
            .attr("axis", any_axis(rng, axis, from.len()))
            .input(x.clone())
            .input(taken);
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, 0.0));

        let at = shape(rng, 0, 3);
        let depth = rng.size(1, 5);
        let count: usize = at.iter().product();
        let picked: Vec<i64> = (0..count)
            .map(|_| rng.size(0, 2 * depth + 1) as i64 - depth as i64 - 1)
            .collect();
        let axis = rng.size(0, at.len());
        let to = [&at[..axis], &[depth], &at[axis..]].concat();
        let pair = numbers(rng, dtype, &[2]);
        let source = |index: Vec<usize>| {
            let own = [&index[..axis], &index[axis + 1..]].concat();
            let own = own
                .iter()
                .zip(strides_of(&at))
                .map(|(at, stride)| at * stride)
                .sum::<usize>();
            let number = picked[own];
            let number = if number < 0 { number + depth as i64 } else { number };
            Some(usize::from(number == index[axis] as i64))
        };
        let sources: Vec<_> = indices(&to).map(source).collect();
        let node = TestNode::new("OneHot", 11)
            .attr("axis", any_axis(rng, axis, at.len() + 1))
            .input(i64s(&at, &picked));
        let node = node.constant(i64s(&[], &[depth as i64])).input(pair.clone());
        assert_eq!(node.run1().unwrap(), gathered(&pair, &to, &sources, 0.0));
    });
}

#[test]
fn places_that_are_not_zero_and_slices_where_a_condition_holds() {
    cases(|rng| {
        let mut dtypes = NUMBERS.to_vec();
        dtypes.push(DType::Bool);
        let dtype = pick(rng, &dtypes);
        let from = shape(rng, 1, 4);
        let sparse: Vec<i64> = (0..from.iter().product()).map(|_| rng.size(0, 2) as i64 % 2).collect();
        let x = Tensor::from_i64s(dtype, &from, &sparse).unwrap_or_else(|_| {
            let values: Vec<f64> = sparse.iter().map(|&value| value as f64).collect();
            Tensor::from_f64s(dtype, &from, &values).unwrap()
        });
        let found: Vec<Vec<usize>> = indices(&from)
            .zip(&sparse)
            .filter(|(_, value)| **value != 0)
            .map(|(index, _)| index)
            .collect();
        let places = TestNode::new("NonZero", 13).input(x).run1().unwrap();
        assert_eq!(places.shape(), [from.len(), found.len()]);
        let expected = (0..from.len()).flat_map(|axis| found.iter().map(move |index| index[axis] as i64));
        assert_eq!(places.to_i64s().unwrap(), expected.collect::<Vec<_>>(), "{from:?}");

        let dtype = pick(rng, &NUMBERS);
        let data = numbers(rng, dtype, &from);
        let axis = rng.bool().then(|| rng.size(0, from.len() - 1));
        let size = axis.map_or(from.iter().product(), |axis| from[axis]);
        let chosen: Vec<bool> = (0..rng.size(0, size)).map(|_| rng.bool()).collect();
        let kept = |index: &[usize]| {
            let place = axis.map_or_else(|| flat(&from, index), |axis| index[axis]);
            chosen.get(place) == Some(&true)
        };
        let sources: Vec<Option<usize>> = indices(&from)
            .filter(|index| kept(index))
            .map(|index| Some(flat(&from, &index)))
            .collect();
        let count = chosen.iter().filter(|chosen| **chosen).count();
        let to = match axis {
            Some(axis) => {
                let mut to = from.clone();
                to[axis] = count;
                to
            }
            None => vec![count],
        };
        let condition: Vec<i64> = chosen.iter().map(|&chosen| i64::from(chosen)).collect();
        let condition = Tensor::from_i64s(DType::Bool, &[chosen.len()], &condition).unwrap();
        let node = TestNode::new("Compress", 11).input(data.clone());
        let node = match axis {
            Some(axis) => node.attr("axis", any_axis(rng, axis, from.len())),
            None => node,
        };
        let result = any_input(rng, node, condition).run1().unwrap();
        assert_eq!(result, gathered(&data, &to, &sources, 0.0), "{from:?} along {axis:?}");
    });
}

#[test]
fn different_elements_and_where_they_are() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let from = shape(rng, 1, 3);
        let x = numbers(rng, dtype, &from);
        let values = x.to_f64s().unwrap();
        let sorted = rng.bool();
        let mut different: Vec<f64> = Vec::new();
        for value in &values {
            if !different.contains(value) {
                different.push(*value);
            }
        }
        if sorted {
            different.sort_by(f64::total_cmp);
        }
        let places = |value: &f64| -> Vec<i64> {
            let all = values.iter().enumerate().filter(|(_, other)| *other == value);
            all.map(|(at, _)| at as i64).collect()
        };
        let firsts: Vec<i64> = different.iter().map(|value| places(value)[0]).collect();
        let which = |value: &f64| different.iter().position(|other| other == value).unwrap() as i64;
        let counts: Vec<i64> = different.iter().map(|value| places(value).len() as i64).collect();
        let node = TestNode::new("Unique", 11)
            .attr("sorted", i64::from(sorted))
            .input(x)
            .outputs(4);
        let results = node.run().unwrap();
        assert_eq!(results[0].to_f64s().unwrap(), different, "{values:?}");
        assert_eq!(results[1].to_i64s().unwrap(), firsts);
        assert_eq!(
            results[2].to_i64s().unwrap(),
            values.iter().map(which).collect::<Vec<_>>()
        );
        assert_eq!(results[3].to_i64s().unwrap(), counts);
    });
}
