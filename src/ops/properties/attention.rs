//! Attention on the GPU, in both variants of each kernel, over random sizes and options, against the CPU's, which has tests of
//! its own against the definition.

use super::*;
use crate::{
    graph::OperatorId,
    ops::testing::{f32s, tensor},
    pointwise::{Builder, Expr, Storage},
    tensor::Bool8,
};

fn random(rng: &mut Rng, shape: &[usize]) -> Tensor {
    f32s(shape, &rng.vec(shape.iter().product()))
}

/// Sizes as they stand in memory, and for each of `seen` the axis there.
fn permuted(rng: &mut Rng, seen: &[usize]) -> (Vec<usize>, Vec<i64>) {
    let mut order: Vec<usize> = (0..seen.len()).collect();
    for axis in (1..seen.len()).rev() {
        order.swap(axis, rng.size(0, axis));
    }
    let mut shape = vec![0; seen.len()];
    for (axis, &place) in order.iter().enumerate() {
        shape[place] = seen[axis];
    }
    (shape, order.into_iter().map(|axis| axis as i64).collect())
}

/// `select(second > 0, first + score * 2, score)`, so that two inputs are read and broadcast.
fn scores() -> Expr {
    let mut builder = Builder::new();
    let [score, first, second] = [(); 3].map(|()| builder.input(Storage::F32));
    let zero = builder.constant(0.0);
    let is_more = builder.compare(crate::pointwise::CompareOp::Greater, second, zero);
    let double = builder.add(score, score);
    let sum = builder.add(double, first);
    let result = builder.select(is_more, sum, score);
    builder.output(result, Storage::F32);
    builder.finish().unwrap()
}

#[test]
fn fused_attention_over_any_order_of_axes() {
    let mut rng = Rng::new(7);
    for round in 0..40 {
        let repeats = pick(&mut rng, &[1, 1, 2, 3]);
        let (batch, heads) = (rng.size(1, 2), rng.size(1, 2) * repeats);
        let (queries, keys) = (rng.size(0, 70), rng.size(0, 70));
        let (head_size, value_size) = match round % 3 {
            0 => (4 * rng.size(0, 12), 4 * rng.size(0, 40)),
            _ => (rng.size(0, 40), rng.size(0, 150)),
        };
        let shared = rng.bool();
        let few = |size: usize| if shared { 1 } else { size };
        let seen = [
            vec![batch, heads, queries, head_size],
            vec![few(batch), heads / repeats, head_size, keys],
            vec![batch, few(heads / repeats), keys, value_size],
        ];
        let mut node = TestNode::of(OperatorId::internal("FusedAttention")).attr("scale", 0.3f32);
        for (name, seen) in ["perm_q", "perm_k", "perm_v"].into_iter().zip(&seen) {
            let (mut shape, mut order) = permuted(&mut rng, seen);
            if round % 3 == 0 {
                // As models have it: whole rows of elements.
                order = if name == "perm_k" {
                    vec![0, 2, 3, 1]
                } else {
                    vec![0, 2, 1, 3]
                };
                shape = vec![0; 4];
                order
                    .iter()
                    .zip(seen)
                    .for_each(|(&axis, &size)| shape[axis as usize] = size);
            }
            node = node.attr(name, &order[..]).input(random(&mut rng, &shape));
        }
        node = node.attr(
            "perm_out",
            &if round % 3 == 0 {
                vec![0, 2, 1, 3]
            } else {
                permuted(&mut rng, &[1; 4]).1
            }[..],
        );
        if repeats > 1 {
            node = node.attr("repeats_k", repeats as i64);
            if seen[2][1] == heads / repeats {
                node = node.attr("repeats_v", repeats as i64);
            }
        }
        if round % 2 == 0 {
            let first = random(&mut rng, &[batch, 1, queries, keys]);
            let second = random(&mut rng, &[heads, 1, keys]);
            node = node.epilogue(scores(), &[first, second]);
        }
        node.assert_gpu_agrees(1e-4);
    }
}

#[test]
fn queries_that_see_no_key() {
    let mut builder = Builder::new();
    let [score, mask] = [(); 2].map(|()| builder.input(Storage::F32));
    let sum = builder.add(score, mask);
    builder.output(sum, Storage::F32);
    let expr = builder.finish().unwrap();
    let mut rng = Rng::new(8);
    for (queries, zero_nan) in [(3, 0i64), (3, 1), (40, 0), (40, 1)] {
        let keys = 35;
        let mask: Vec<f32> = (0..queries * keys)
            .map(|at| match at / keys % 3 {
                0 => f32::NEG_INFINITY,
                1 if at % 2 == 0 => f32::NEG_INFINITY,
                2 => f32::MIN,
                _ => 0.0,
            })
            .collect();
        let node = TestNode::of(OperatorId::internal("FusedAttention"))
            .attr("zero_nan", zero_nan)
            .input(random(&mut rng, &[2, queries, 8]))
            .input(random(&mut rng, &[2, 8, keys]))
            .input(random(&mut rng, &[2, keys, 8]))
            .epilogue(expr.clone(), &[f32s(&[queries, keys], &mask)]);
        let result = node.run1().unwrap().to_f32s().unwrap().into_owned();
        assert!(if zero_nan == 1 {
            result[0] == 0.0
        } else {
            result[0].is_nan()
        });
        node.assert_gpu_agrees(1e-4);
    }
}

#[test]
fn attention_with_every_option() {
    let mut rng = Rng::new(9);
    for round in 0..48 {
        let (batch, kv_heads, group) = (rng.size(1, 2), rng.size(1, 2), rng.size(1, 3));
        let (queries, keys) = (rng.size(1, 70), rng.size(1, 70));
        let (size, value_size) = match rng.bool() {
            true => (4 * rng.size(1, 12), 4 * rng.size(1, 40)),
            false => (rng.size(1, 40), rng.size(1, 140)),
        };
        let heads = kv_heads * group;
        let packed = rng.bool();
        let rows = |rng: &mut Rng, heads: usize, rows: usize, size: usize| match packed {
            true => random(rng, &[batch, rows, heads * size]),
            false => random(rng, &[batch, heads, rows, size]),
        };
        let mut node = TestNode::new("Attention", 25)
            .attr("q_num_heads", heads as i64)
            .attr("kv_num_heads", kv_heads as i64)
            .attr("is_causal", i64::from(rng.bool()))
            .input(rows(&mut rng, heads, queries, size))
            .input(rows(&mut rng, kv_heads, keys, size))
            .input(rows(&mut rng, kv_heads, keys, value_size));
        if rng.bool() {
            node = node.attr("softcap", 2.0f32);
        }
        if rng.bool() {
            node = node.attr("left_window_size", rng.size(0, 40) as i64);
        }
        if rng.bool() {
            node = node.attr("right_window_size", rng.size(0, 10) as i64);
        }
        let given = rng.size(1, keys);
        let masks = [
            vec![queries, given],
            vec![batch, 1, 1, keys],
            vec![heads, queries, keys],
        ];
        let mask = masks[rng.size(0, 2)].clone();
        let count = mask.iter().product();
        node = match round % 3 {
            0 => node.no_input(),
            1 => node.input(random(&mut rng, &mask)),
            _ => node.input(tensor(
                &mask,
                &(0..count).map(|_| Bool8::from(rng.size(0, 3) > 0)).collect::<Vec<_>>(),
            )),
        };
        if rng.bool() {
            let lengths: Vec<i64> = (0..batch).map(|_| rng.size(0, keys) as i64).collect();
            node = node.no_input().no_input().input(i64s(&[batch], &lengths));
        } else if rng.bool() {
            let past = rng.size(1, 20);
            let past_rows = |rng: &mut Rng, size: usize| random(rng, &[batch, kv_heads, past, size]);
            // The mask is for the new keys alone, and hides others: as many as there are.
            node = node
                .input(past_rows(&mut rng, size))
                .input(past_rows(&mut rng, value_size));
        }
        // Some masks do not fit together with a past.
        if node.run().is_ok() {
            node.assert_gpu_agrees(1e-4);
        }
    }
}

#[cfg(feature = "all-operators")]
#[test]
fn masks_of_sequences_filter_keys() {
    let mut rng = Rng::new(10);
    for round in 0..24 {
        let (batch, heads, size) = (rng.size(1, 3), rng.size(1, 3), rng.size(1, 20));
        let (queries, keys) = (rng.size(2, 70), rng.size(1, 70));
        let mut node = TestNode::of(OperatorId::new("com.microsoft", "MultiHeadAttention", 1))
            .attr("num_heads", heads as i64)
            .attr("unidirectional", i64::from(rng.bool()))
            .attr("mask_filter_value", pick(&mut rng, &[-100.0f32, f32::MIN, -3.0]))
            .input(random(&mut rng, &[batch, queries, heads * size]))
            .input(random(&mut rng, &[batch, keys, heads * size]))
            .input(random(&mut rng, &[batch, keys, heads * size]))
            .no_input();
        let list = |rng: &mut Rng, shape: &[usize], most: usize| {
            let values: Vec<i32> = (0..shape.iter().product()).map(|_| rng.size(0, most) as i32).collect();
            tensor(shape, &values)
        };
        node = match round % 4 {
            0 => node.input(list(&mut rng, &[batch], keys)),
            1 => node.input(list(&mut rng, &[2 * batch], keys)),
            2 => node.input(list(&mut rng, &[batch, keys], 1)),
            _ => node.input(list(&mut rng, &[batch, queries, keys], 1)),
        };
        if rng.bool() {
            node = node.input(random(&mut rng, &[1, heads, queries, keys]));
        }
        node.assert_gpu_agrees(1e-4);
    }
}

#[cfg(feature = "all-operators")]
#[test]
fn grouped_queries_with_sinks_and_windows() {
    let mut rng = Rng::new(11);
    for round in 0..24 {
        let (batch, kv_heads, group, size) = (rng.size(1, 2), rng.size(1, 2), rng.size(1, 3), 4 * rng.size(1, 8));
        let heads = kv_heads * group;
        let rows = rng.size(2, 50);
        let lengths: Vec<i32> = (0..batch).map(|_| rng.size(0, rows - 1) as i32).collect();
        let mut node = TestNode::of(OperatorId::new("com.microsoft", "GroupQueryAttention", 1))
            .attr("num_heads", heads as i64)
            .attr("kv_num_heads", kv_heads as i64)
            .input(random(&mut rng, &[batch, rows, heads * size]))
            .input(random(&mut rng, &[batch, rows, kv_heads * size]))
            .input(random(&mut rng, &[batch, rows, kv_heads * size]))
            .no_input()
            .no_input()
            .input(tensor(&[batch], &lengths))
            .constant(tensor(&[], &[rows as i32]))
            .outputs(3);
        if rng.bool() {
            node = node.attr("local_window_size", rng.size(1, 20) as i64);
        }
        if rng.bool() {
            node = node.attr("softcap", 3.0f32);
        }
        node = match round % 3 {
            0 => node,
            1 => node.attr("smooth_softmax", 1i64),
            _ => {
                let open = node.no_input().no_input().no_input().no_input();
                open.input(random(&mut rng, &[heads]))
            }
        };
        node.assert_gpu_agrees(1e-4);
    }
}
