//! What moves elements: every element type, compared by position.

use super::*;

fn any_type(rng: &mut Rng) -> DType {
    match rng.size(0, 8) {
        0 => DType::Bool,
        1 => DType::String,
        _ => pick(rng, &NUMBERS),
    }
}

fn permutation(rng: &mut Rng, rank: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rank).collect();
    for axis in (1..rank).rev() {
        order.swap(axis, rng.size(0, axis));
    }
    order
}

#[test]
fn transpose() {
    cases(|rng| {
        let x = any_type(rng);
        let x = {
            let dims = shape(rng, 1, 5);
            numbers(rng, x, &dims)
        };
        let order = permutation(rng, x.shape().len());
        let to: Vec<usize> = order.iter().map(|&axis| x.shape()[axis]).collect();
        let source = |index: Vec<usize>| {
            let mut from = vec![0; index.len()];
            order.iter().zip(index).for_each(|(&axis, at)| from[axis] = at);
            Some(flat(x.shape(), &from))
        };
        let sources: Vec<_> = indices(&to).map(source).collect();
        let perm: Vec<i64> = order.iter().map(|&axis| axis as i64).collect();
        let node = TestNode::new("Transpose", 21).attr("perm", &perm[..]).input(x.clone());
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, 0.0));
    });
}

#[test]
fn gather_takes_slices_along_an_axis() {
    cases(|rng| {
        let dtype = any_type(rng);
        let mut from = shape(rng, 1, 4);
        let axis = rng.size(0, from.len() - 1);
        from[axis] = from[axis].max(1);
        let (x, at) = (numbers(rng, dtype, &from), shape(rng, 0, 3));
        let size = from[axis] as i64;
        let count = at.iter().product::<usize>();
        let picked: Vec<i64> = (0..count)
            .map(|_| rng.size(0, 2 * from[axis] - 1) as i64 - size)
            .collect();
        let to = [&from[..axis], &at, &from[axis + 1..]].concat();
        let source = |index: Vec<usize>| {
            let chosen = picked[flat(&at, &index[axis..axis + at.len()])];
            let chosen = if chosen < 0 { chosen + size } else { chosen } as usize;
            let from_index = [&index[..axis], &[chosen], &index[axis + at.len()..]].concat();
            Some(flat(&from, &from_index))
        };
        // `flat` broadcasts axes of size 1, which here have index 0 anyway.
        let sources: Vec<_> = indices(&to).map(source).collect();
        let node = TestNode::new("Gather", 13).attr("axis", any_axis(rng, axis, from.len()));
        let node = node.input(x.clone());
        let node = any_input(rng, node, i64s(&at, &picked));
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, 0.0));
    });
}

#[test]
fn gather_elements_takes_one_element_each() {
    cases(|rng| {
        let dtype = any_type(rng);
        let mut from = shape(rng, 1, 4);
        let axis = rng.size(0, from.len() - 1);
        from[axis] = from[axis].max(1);
        let x = numbers(rng, dtype, &from);
        let mut to: Vec<usize> = from.iter().map(|&size| rng.size(0, size)).collect();
        to[axis] = rng.size(0, 6);
        let size = from[axis] as i64;
        let count = to.iter().product::<usize>();
        let picked: Vec<i64> = (0..count)
            .map(|_| rng.size(0, 2 * from[axis] - 1) as i64 - size)
            .collect();
        let source = |(mut index, &chosen): (Vec<usize>, &i64)| {
            index[axis] = if chosen < 0 { chosen + size } else { chosen } as usize;
            let strides = strides_of(&from);
            Some(index.iter().zip(strides).map(|(at, stride)| at * stride).sum())
        };
        let sources: Vec<_> = indices(&to).zip(&picked).map(source).collect();
        let node = TestNode::new("GatherElements", 13)
            .attr("axis", any_axis(rng, axis, from.len()))
            .input(x.clone())
            .input(i64s(&to, &picked));
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, 0.0));
    });
}

#[test]
fn gather_nd_takes_what_tuples_name() {
    cases(|rng| {
        let dtype = any_type(rng);
        let from = full_shape(rng, 1, 4);
        let batch = rng.size(0, from.len() - 1);
        let depth = rng.size(1, from.len() - batch);
        let between = shape(rng, 0, 2);
        let tuples = [&from[..batch], &between].concat();
        let x = numbers(rng, dtype, &from);
        let mut picked = Vec::new();
        for _ in 0..tuples.iter().product::<usize>() {
            for axis in 0..depth {
                let size = from[batch + axis];
                picked.push(rng.size(0, 2 * size - 1) as i64 - size as i64);
            }
        }
        let rest = &from[batch + depth..];
        let to = [&tuples, rest].concat();
        let source = |index: Vec<usize>| {
            let tuple = index[..tuples.len()]
                .iter()
                .zip(strides_of(&tuples))
                .map(|(at, stride)| at * stride)
                .sum::<usize>();
            let named = (0..depth).map(|axis| {
                let chosen = picked[tuple * depth + axis];
                (if chosen < 0 {
                    chosen + from[batch + axis] as i64
                } else {
                    chosen
                }) as usize
            });
            let index: Vec<usize> = index[..batch]
                .iter()
                .copied()
                .chain(named)
                .chain(index[tuples.len()..].iter().copied())
                .collect();
            Some(flat(&from, &index))
        };
        let sources: Vec<_> = indices(&to).map(source).collect();
        let node = TestNode::new("GatherND", 13)
            .attr("batch_dims", batch as i64)
            .input(x.clone())
            .input(i64s(&[&tuples[..], &[depth]].concat(), &picked));
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, 0.0));
    });
}

#[test]
fn scatter_elements_writes_and_reduces() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let mut into = shape(rng, 1, 4);
        let axis = rng.size(0, into.len() - 1);
        into[axis] = into[axis].max(1);
        let reduction = pick(rng, &["none", "add", "mul", "min", "max"]);
        let mut from: Vec<usize> = into.iter().map(|&size| rng.size(0, size)).collect();
        from[axis] = match reduction {
            // Which of several writers of one element wins is not defined.
            "none" => rng.size(0, into[axis]),
            _ => rng.size(0, 4),
        };
        let (x, updates) = (numbers(rng, dtype, &into), numbers(rng, dtype, &from));
        let order = permutation(rng, into[axis]);
        let (mut expected, news) = (x.to_f64s().unwrap(), updates.to_f64s().unwrap());
        let mut picked = Vec::new();
        for (mut index, &new) in indices(&from).zip(&news) {
            let to = match reduction {
                "none" => order[index[axis]],
                _ => rng.size(0, into[axis] - 1),
            };
            let negative = rng.bool();
            picked.push(if negative {
                to as i64 - into[axis] as i64
            } else {
                to as i64
            });
            index[axis] = to;
            let strides = strides_of(&into);
            let place = &mut expected[index.iter().zip(strides).map(|(at, stride)| at * stride).sum::<usize>()];
            *place = match reduction {
                "none" => new,
                "add" => *place + new,
                "mul" => *place * new,
                "min" => place.min(new),
                _ => place.max(new),
            };
        }
        // Products leave the range of narrow integers, which wrap, and of half precision, which rounds.
        let narrow = dtype.bits().unwrap_or(0) < 32;
        if reduction == "mul" && (narrow || dtype.is_unsigned()) {
            return;
        }
        let node = TestNode::new("ScatterElements", 18)
            .attr("axis", any_axis(rng, axis, into.len()))
            .attr("reduction", reduction)
            .input(x)
            .input(i64s(&from, &picked))
            .input(updates);
        let result = node.run1().unwrap();
        assert_eq!(result.shape(), into);
        assert_eq!(result.to_f64s().unwrap(), expected, "{dtype} {reduction}");
    });
}

#[test]
fn scatter_nd_writes_slices() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let into = full_shape(rng, 1, 4);
        let depth = rng.size(1, into.len());
        let count: usize = into[..depth].iter().product();
        let order = permutation(rng, count);
        let tuples = rng.size(0, count);
        let rest = &into[depth..];
        let x = numbers(rng, dtype, &into);
        let updates = numbers(rng, dtype, &[&[tuples], rest].concat());
        let (mut expected, news) = (x.to_f64s().unwrap(), updates.to_f64s().unwrap());
        let size: usize = rest.iter().product();
        let mut picked = Vec::new();
        for (row, &to) in order[..tuples].iter().enumerate() {
            let strides = strides_of(&into[..depth]);
            picked.extend(
                strides
                    .iter()
                    .zip(&into)
                    .map(|(&stride, &size)| (to / stride % size) as i64),
            );
            expected[to * size..(to + 1) * size].copy_from_slice(&news[row * size..(row + 1) * size]);
        }
        let node = TestNode::new("ScatterND", 18)
            .input(x)
            .input(i64s(&[tuples, depth], &picked))
            .input(updates);
        assert_eq!(node.run1().unwrap().to_f64s().unwrap(), expected, "{dtype}");
    });
}

#[test]
fn concat_and_split_are_inverse_and_place_by_place() {
    cases(|rng| {
        let dtype = any_type(rng);
        let mut like = shape(rng, 1, 4);
        let axis = rng.size(0, like.len() - 1);
        let sizes: Vec<usize> = (0..rng.size(1, 4)).map(|_| rng.size(0, 4)).collect();
        let mut parts = Vec::new();
        for &size in &sizes {
            like[axis] = size;
            parts.push(numbers(rng, dtype, &like));
        }
        like[axis] = sizes.iter().sum();
        let written = any_axis(rng, axis, like.len());
        let concat = parts
            .iter()
            .fold(TestNode::new("Concat", 13).attr("axis", written), |node, part| {
                node.input(part.clone())
            });
        let whole = concat.run1().unwrap();
        let mut start = 0;
        for (part, &size) in parts.iter().zip(&sizes) {
            let source = |mut index: Vec<usize>| {
                index[axis] += start;
                let strides = strides_of(&like);
                Some(index.iter().zip(strides).map(|(at, stride)| at * stride).sum())
            };
            let sources: Vec<_> = indices(part.shape()).map(source).collect();
            assert_eq!(&gathered(&whole, part.shape(), &sources, 0.0), part);
            start += size;
        }
        let split = TestNode::new("Split", 18)
            .attr("axis", written)
            .outputs(sizes.len())
            .input(whole)
            .constant(list(&sizes));
        assert_eq!(split.run().unwrap(), parts);
    });
}

#[test]
fn slice_steps_either_way() {
    cases(|rng| {
        let dtype = any_type(rng);
        let from = shape(rng, 1, 4);
        let x = numbers(rng, dtype, &from);
        let axes = permutation(rng, from.len());
        let axes = &axes[..rng.size(1, from.len())];
        let mut bounds = [const { Vec::new() }; 4];
        let mut taken: Vec<Vec<usize>> = from.iter().map(|&size| (0..size).collect()).collect();
        for &axis in axes {
            let size = from[axis] as i64;
            let step = pick(rng, &[-3i64, -2, -1, 1, 2, 3]);
            let bound = |rng: &mut Rng| rng.size(0, 14) as i64 - 7;
            let (start, end) = (bound(rng), bound(rng));
            // The last place of an empty axis is none.
            let last = (size - 1).max(0);
            let place = |at: i64| if at < 0 { at + size } else { at };
            taken[axis] = if step > 0 {
                let (start, end) = (place(start).clamp(0, size), place(end).clamp(0, size));
                (start..end.max(start))
                    .step_by(step as usize)
                    .map(|at| at as usize)
                    .collect()
            } else {
                let (mut at, end) = (place(start).clamp(0, last), place(end).clamp(-1, last));
                let mut list = Vec::new();
                while at > end && size > 0 {
                    list.push(at as usize);
                    at += step;
                }
                list
            };
            for (to, value) in bounds
                .iter_mut()
                .zip([start, end, any_axis(rng, axis, from.len()), step])
            {
                to.push(value);
            }
        }
        let to: Vec<usize> = taken.iter().map(Vec::len).collect();
        let source = |index: Vec<usize>| {
            let strides = strides_of(&from);
            let places = index.iter().zip(&taken).zip(strides);
            Some(places.map(|((&at, taken), stride)| taken[at] * stride).sum())
        };
        let sources: Vec<_> = indices(&to).map(source).collect();
        let mut node = TestNode::new("Slice", 13).input(x.clone());
        for bound in bounds {
            let bound = i64s(&[bound.len()], &bound);
            node = node.constant(bound);
        }
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, 0.0));
    });
}

#[test]
fn pad_fills_repeats_and_crops() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let from = full_shape(rng, 1, 4);
        let mode = pick(rng, &["constant", "edge", "reflect", "wrap"]);
        let x = numbers(rng, dtype, &from);
        let pads: Vec<i64> = (0..2 * from.len())
            .map(|at| {
                let size = from[at % from.len()] as i64;
                match mode {
                    "constant" => rng.size(0, 4) as i64 - i64::from(size > 2),
                    "reflect" => rng.size(0, size as usize - 1) as i64,
                    _ => rng.size(0, size as usize) as i64,
                }
            })
            .collect();
        let to: Vec<usize> = (0..from.len())
            .map(|axis| (from[axis] as i64 + pads[axis] + pads[axis + from.len()]) as usize)
            .collect();
        let source = |index: Vec<usize>| {
            let mut flat = 0;
            for (axis, stride) in strides_of(&from).into_iter().enumerate() {
                let size = from[axis] as i64;
                let at = index[axis] as i64 - pads[axis];
                let at = match mode {
                    "constant" if at < 0 || at >= size => return None,
                    "constant" => at,
                    "edge" => at.clamp(0, size - 1),
                    "wrap" => at.rem_euclid(size),
                    _ if at < 0 => -at,
                    _ if at >= size => 2 * (size - 1) - at,
                    _ => at,
                };
                flat += at as usize * stride;
            }
            Some(flat)
        };
        let sources: Vec<_> = indices(&to).map(source).collect();
        let fill = numbers(rng, dtype, &[]);
        let node = TestNode::new("Pad", 21)
            .attr("mode", mode)
            .input(x.clone())
            .constant(i64s(&[pads.len()], &pads))
            .input(fill.clone());
        let fill = fill.to_f64s().unwrap()[0];
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, fill), "{mode}");
    });
}

#[test]
fn tile_and_expand_repeat() {
    cases(|rng| {
        let dtype = any_type(rng);
        let from = shape(rng, 1, 4);
        let x = numbers(rng, dtype, &from);
        let repeats: Vec<usize> = from.iter().map(|_| rng.size(0, 3)).collect();
        let to: Vec<usize> = from.iter().zip(&repeats).map(|(size, count)| size * count).collect();
        let source = |index: Vec<usize>| {
            let index: Vec<usize> = index.iter().zip(&from).map(|(at, size)| at % size).collect();
            Some(flat(&from, &index))
        };
        let sources: Vec<_> = indices(&to).map(source).collect();
        let node = TestNode::new("Tile", 13).input(x.clone());
        let node = node.constant(list(&repeats));
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, 0.0));

        let to = shape(rng, 1, 4);
        let x = {
            let dims = broadcastable(rng, &to);
            numbers(rng, dtype, &dims)
        };
        let sources: Vec<_> = indices(&to).map(|index| Some(flat(x.shape(), &index))).collect();
        let node = TestNode::new("Expand", 13).input(x.clone());
        let node = node.constant(list(&to));
        assert_eq!(node.run1().unwrap(), gathered(&x, &to, &sources, 0.0));
    });
}

#[test]
fn where_chooses_by_broadcast_conditions() {
    cases(|rng| {
        let dtype = any_type(rng);
        let to = shape(rng, 1, 4);
        let condition = numbers(rng, DType::Bool, &to);
        let (x, y) = (
            {
                let dims = broadcastable(rng, &to);
                numbers(rng, dtype, &dims)
            },
            {
                let dims = broadcastable(rng, &to);
                numbers(rng, dtype, &dims)
            },
        );
        let conditions = condition.to_i64s().unwrap();
        let both = |tensor: &Tensor| -> Vec<String> {
            match dtype {
                DType::String => tensor.strings().unwrap().to_vec(),
                _ => tensor.to_f64s().unwrap().iter().map(f64::to_string).collect(),
            }
        };
        let (xs, ys) = (both(&x), both(&y));
        let expected: Vec<String> = indices(&to)
            .zip(conditions)
            .map(|(index, taken)| match taken {
                0 => ys[flat(y.shape(), &index)].clone(),
                _ => xs[flat(x.shape(), &index)].clone(),
            })
            .collect();
        let node = TestNode::new("Where", 16).input(condition).input(x).input(y);
        let result = node.run1().unwrap();
        assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]));
        assert_eq!(both(&result), expected);
    });
}

#[test]
fn blocks_of_depth_and_space_change_places() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let size = rng.size(1, 3);
        let (n, c, h, w) = (rng.size(0, 2), rng.size(1, 3), rng.size(0, 3), rng.size(1, 3));
        let deep = [n, c * size * size, h, w];
        let wide = [n, c, h * size, w * size];
        let is_dcr = rng.bool();
        let source = |index: Vec<usize>| {
            let (y, x) = (index[2] % size, index[3] % size);
            let channel = match is_dcr {
                true => (y * size + x) * c + index[1],
                false => (index[1] * size + y) * size + x,
            };
            let at = [index[0], channel, index[2] / size, index[3] / size];
            Some(at.iter().zip(strides_of(&deep)).map(|(at, stride)| at * stride).sum())
        };
        let sources: Vec<_> = indices(&wide).map(source).collect();
        let x = numbers(rng, dtype, &deep);
        let node = TestNode::new("DepthToSpace", 13)
            .attr("blocksize", size as i64)
            .attr("mode", if is_dcr { "DCR" } else { "CRD" });
        let moved = node.input(x.clone()).run1().unwrap();
        assert_eq!(moved, gathered(&x, &wide, &sources, 0.0));
        if is_dcr {
            let back = TestNode::new("SpaceToDepth", 13).attr("blocksize", size as i64);
            assert_eq!(back.input(moved).run1().unwrap(), x);
        }
    });
}

#[test]
fn triangles_and_reversed_sequences() {
    cases(|rng| {
        let dtype = pick(rng, &NUMBERS);
        let from = shape(rng, 2, 4);
        let x = numbers(rng, dtype, &from);
        let (k, upper) = (rng.size(0, 8) as i64 - 4, rng.bool());
        let keep = |index: Vec<usize>| {
            let [.., row, column] = index[..] else { unreachable!() };
            let offset = column as i64 - row as i64;
            let kept = if upper { offset >= k } else { offset <= k };
            kept.then(|| flat(&from, &index))
        };
        let sources: Vec<_> = indices(&from).map(keep).collect();
        let node = TestNode::new("Trilu", 14)
            .attr("upper", i64::from(upper))
            .input(x.clone())
            .constant(i64s(&[], &[k]));
        assert_eq!(node.run1().unwrap(), gathered(&x, &from, &sources, 0.0));

        let time = rng.size(0, 1);
        let batch = 1 - time;
        let lengths: Vec<usize> = (0..from[batch]).map(|_| rng.size(0, from[time])).collect();
        let source = |mut index: Vec<usize>| {
            let length = lengths[index[batch]];
            if index[time] < length {
                index[time] = length - 1 - index[time];
            }
            Some(flat(&from, &index))
        };
        let sources: Vec<_> = indices(&from).map(source).collect();
        let node = TestNode::new("ReverseSequence", 10)
            .attr("time_axis", time as i64)
            .attr("batch_axis", batch as i64)
            .input(x.clone())
            .input(list(&lengths));
        assert_eq!(node.run1().unwrap(), gathered(&x, &from, &sources, 0.0));
    });
}
