//! Chains that exporters write for one operation become that operation, in each of the forms they write it in; they stay
//! what they are where they mean something else or where a step between is asked for. Every graph is run at each level.

#[path = "support/levels.rs"]
mod levels;

use levels::{Random, check, ints, operators, run};
use modelet::{
    DType, Tensor,
    graph::{Attribute, Graph, GraphBuilder, ValueId},
    optimize::Level,
    tensor::Dim,
};

const ROW: i64 = 12;

fn scalar(b: &mut GraphBuilder, value: f32) -> ValueId {
    b.constant("scalar", Tensor::scalar(value))
}

fn row(b: &mut GraphBuilder, seed: u64) -> ValueId {
    b.constant("row", Random(seed).tensor(&[ROW as usize]))
}

fn batch_input(b: &mut GraphBuilder) -> ValueId {
    b.input(
        "x",
        DType::F32,
        vec![Dim::symbol("batch"), Dim::from(5), Dim::from(ROW)],
    )
}

/// ReduceMean over the last axis; its axes stand in an input from opset 18 on.
fn mean(b: &mut GraphBuilder, opset: i64, x: ValueId) -> ValueId {
    if opset >= 18 {
        let axes = b.constant("axes", ints(&[-1]));
        return b.node("ReduceMean", &[x, axes]);
    }
    b.node_with("ReduceMean", &[x], &[("axes", Attribute::Ints(vec![2]))])
}

fn names(graph: &Graph, sizes: &[usize]) -> Vec<String> {
    operators(&check(graph, sizes))
}

#[derive(Clone, Copy, PartialEq)]
enum Root {
    Quotient,
    Reciprocal,
    One,
    Power,
}

const ROOTS: [Root; 4] = [Root::Quotient, Root::Reciprocal, Root::One, Root::Power];

/// `of / √(square + 1e-5)`.
fn over_root(b: &mut GraphBuilder, form: Root, of: ValueId, square: ValueId, swapped: bool) -> ValueId {
    let epsilon = scalar(b, 1e-5);
    let pair = |x, y| if swapped { [y, x] } else { [x, y] };
    let sum = b.node("Add", &pair(square, epsilon));
    let inverse = match form {
        Root::Power => {
            let half = scalar(b, -0.5);
            b.node("Pow", &[sum, half])
        }
        Root::Quotient => {
            let root = b.node("Sqrt", &[sum]);
            return b.node("Div", &[of, root]);
        }
        Root::Reciprocal => {
            let root = b.node("Sqrt", &[sum]);
            b.node("Reciprocal", &[root])
        }
        Root::One => {
            let (root, one) = (b.node("Sqrt", &[sum]), scalar(b, 1.0));
            b.node("Div", &[one, root])
        }
    };
    b.node("Mul", &pair(of, inverse))
}

fn layer_norm(b: &mut GraphBuilder, opset: i64, x: ValueId, form: Root, swapped: bool) -> ValueId {
    let average = mean(b, opset, x);
    let centred = b.node("Sub", &[x, average]);
    let square = if swapped {
        b.node("Mul", &[centred, centred])
    } else {
        let two = scalar(b, 2.0);
        b.node("Pow", &[centred, two])
    };
    let variance = mean(b, opset, square);
    over_root(b, form, centred, variance, swapped)
}

#[test]
fn layer_normalization_in_every_form() {
    for opset in [13, 18] {
        for form in ROOTS {
            for swapped in [false, true] {
                let mut b = GraphBuilder::new(opset);
                let x = batch_input(&mut b);
                let normal = layer_norm(&mut b, opset, x, form, swapped);
                let (scale, bias) = (row(&mut b, 2), row(&mut b, 3));
                let pair = |x, y| if swapped { [y, x] } else { [x, y] };
                let scaled = b.node("Mul", &pair(normal, scale));
                let y = b.node("Add", &pair(scaled, bias));
                let graph = b.output("y", y).finish().unwrap();
                assert_eq!(names(&graph, &[1, 3]), ["LayerNormalization"]);
            }
        }
    }
}

#[test]
fn layer_normalization_without_scale_or_bias() {
    let mut b = GraphBuilder::new(17);
    let x = batch_input(&mut b);
    let y = layer_norm(&mut b, 17, x, Root::Quotient, false);
    assert_eq!(names(&b.output("y", y).finish().unwrap(), &[2]), ["LayerNormalization"]);
    let mut b = GraphBuilder::new(17);
    let x = batch_input(&mut b);
    let y = layer_norm(&mut b, 17, x, Root::Quotient, false);
    let scale = row(&mut b, 2);
    let y = b.node("Mul", &[scale, y]);
    assert_eq!(names(&b.output("y", y).finish().unwrap(), &[2]), ["LayerNormalization"]);
}

#[test]
fn layer_normalization_as_factor_and_shift() {
    let mut b = GraphBuilder::new(15);
    let x = batch_input(&mut b);
    let average = mean(&mut b, 15, x);
    let centred = b.node("Sub", &[x, average]);
    let square = b.node("Mul", &[centred, centred]);
    let variance = mean(&mut b, 15, square);
    let epsilon = scalar(&mut b, 1e-3);
    let sum = b.node("Add", &[variance, epsilon]);
    let root = b.node("Sqrt", &[sum]);
    let inverse = b.node("Reciprocal", &[root]);
    let (scale, bias) = (row(&mut b, 2), row(&mut b, 3));
    let factor = b.node("Mul", &[inverse, scale]);
    let scaled = b.node("Mul", &[x, factor]);
    let shifted = b.node("Mul", &[average, factor]);
    let shift = b.node("Sub", &[bias, shifted]);
    let y = b.node("Add", &[scaled, shift]);
    let graph = b.output("y", y).finish().unwrap();
    assert_eq!(names(&graph, &[1, 3]), ["LayerNormalization"]);
}

#[test]
fn root_mean_square_normalization_in_every_form() {
    for form in ROOTS {
        for swapped in [false, true] {
            let mut b = GraphBuilder::new(18);
            let x = batch_input(&mut b);
            let square = if swapped {
                b.node("Mul", &[x, x])
            } else {
                let two = scalar(&mut b, 2.0);
                b.node("Pow", &[x, two])
            };
            let power = mean(&mut b, 18, square);
            let normal = over_root(&mut b, form, x, power, swapped);
            let scale = row(&mut b, 2);
            let y = b.node("Mul", &if swapped { [scale, normal] } else { [normal, scale] });
            let graph = b.output("y", y).finish().unwrap();
            assert_eq!(names(&graph, &[1, 3]), ["RMSNormalization"]);
        }
    }
}

#[test]
fn what_only_looks_like_a_normalization_stays() {
    // The variance is asked for.
    let mut b = GraphBuilder::new(17);
    let x = batch_input(&mut b);
    let average = mean(&mut b, 17, x);
    let centred = b.node("Sub", &[x, average]);
    let square = b.node("Mul", &[centred, centred]);
    let variance = mean(&mut b, 17, square);
    let y = over_root(&mut b, Root::Quotient, centred, variance, false);
    b.output("variance", variance);
    let graph = b.output("y", y).finish().unwrap();
    assert!(!names(&graph, &[2]).contains(&"LayerNormalization".to_string()));
    // The two means are over different axes.
    let mut b = GraphBuilder::new(17);
    let x = batch_input(&mut b);
    let average = b.node_with("ReduceMean", &[x], &[("axes", Attribute::Ints(vec![1, 2]))]);
    let centred = b.node("Sub", &[x, average]);
    let square = b.node("Mul", &[centred, centred]);
    let variance = mean(&mut b, 17, square);
    let y = over_root(&mut b, Root::Quotient, centred, variance, false);
    let graph = b.output("y", y).finish().unwrap();
    assert!(!names(&graph, &[2]).contains(&"LayerNormalization".to_string()));
    // The scale belongs to the other axis: the normalisation is one, the scale is not part of it.
    let mut b = GraphBuilder::new(17);
    let x = batch_input(&mut b);
    let y = layer_norm(&mut b, 17, x, Root::Quotient, false);
    let scale = b.constant("scale", Random(7).tensor(&[5, 1]));
    let y = b.node("Mul", &[y, scale]);
    let graph = b.output("y", y).finish().unwrap();
    assert_eq!(names(&graph, &[2]), ["LayerNormalization", "Mul"]);
}

const HEADS: i64 = 3;
const SIZE: i64 = 4;

/// A projection `[batch, length, heads * size]`, split into heads.
fn heads(b: &mut GraphBuilder, x: ValueId, seed: u64, perm: [i64; 4]) -> ValueId {
    let weights = b.constant("weights", Random(seed).tensor(&[ROW as usize, ROW as usize]));
    let bias = row(b, seed + 1);
    let projected = b.node("MatMul", &[x, weights]);
    let projected = b.node("Add", &[bias, projected]);
    let shape = b.constant("shape", ints(&[0, 0, HEADS, SIZE]));
    let split = b.node("Reshape", &[projected, shape]);
    b.node_with("Transpose", &[split], &[("perm", Attribute::Ints(perm.to_vec()))])
}

fn merge(b: &mut GraphBuilder, y: ValueId) -> ValueId {
    let perm = [("perm", Attribute::Ints(vec![0, 2, 1, 3]))];
    let y = b.node_with("Transpose", &[y], &perm);
    let shape = b.constant("shape", ints(&[0, 0, ROW]));
    b.node("Reshape", &[y, shape])
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Quotient,
    Product,
    OnQueries,
    OnBoth,
    None,
}

fn tokens(b: &mut GraphBuilder, name: &str) -> ValueId {
    b.input(
        name,
        DType::F32,
        vec![Dim::symbol("batch"), Dim::symbol("length"), Dim::from(ROW)],
    )
}

/// Attention as exporters write it, with `mask` applied to the scores.
fn attention(
    opset: i64,
    scale: Scale,
    one_transpose: bool,
    mask: impl Fn(&mut GraphBuilder, ValueId) -> ValueId,
) -> Graph {
    let mut b = GraphBuilder::new(opset);
    let x = tokens(&mut b, "x");
    let mut q = heads(&mut b, x, 11, [0, 2, 1, 3]);
    let mut k = if one_transpose {
        heads(&mut b, x, 21, [0, 2, 3, 1])
    } else {
        let k = heads(&mut b, x, 21, [0, 2, 1, 3]);
        b.node_with("Transpose", &[k], &[("perm", Attribute::Ints(vec![0, 1, 3, 2]))])
    };
    let v = heads(&mut b, x, 31, [0, 2, 1, 3]);
    if scale == Scale::OnQueries {
        let factor = scalar(&mut b, 0.5);
        q = b.node("Mul", &[q, factor]);
    }
    if scale == Scale::OnBoth {
        let factor = scalar(&mut b, 0.7);
        q = b.node("Mul", &[q, factor]);
        k = b.node("Mul", &[factor, k]);
    }
    let mut scores = b.node("MatMul", &[q, k]);
    if scale == Scale::Quotient {
        let divisor = scalar(&mut b, 2.0);
        scores = b.node("Div", &[scores, divisor]);
    }
    if scale == Scale::Product {
        let factor = scalar(&mut b, 0.5);
        scores = b.node("Mul", &[factor, scores]);
    }
    let scores = mask(&mut b, scores);
    let axis = if opset < 13 { 3 } else { -1 };
    let weights = b.node_with("Softmax", &[scores], &[("axis", Attribute::Int(axis))]);
    let y = b.node("MatMul", &[weights, v]);
    let y = merge(&mut b, y);
    b.output("y", y).finish().unwrap()
}

fn of_attention(graph: &Graph) -> Vec<String> {
    let mut names = names(graph, &[1, 2, 7]);
    names.retain(|name| !["MatMul", "Reshape"].contains(&name.as_str()));
    names
}

#[test]
fn attention_in_every_form() {
    for opset in [11, 17] {
        for scale in [
            Scale::Quotient,
            Scale::Product,
            Scale::OnQueries,
            Scale::OnBoth,
            Scale::None,
        ] {
            for one_transpose in [false, true] {
                let graph = attention(opset, scale, one_transpose, |_, scores| scores);
                assert_eq!(of_attention(&graph), ["FusedAttention"]);
            }
        }
    }
}

#[test]
fn attention_with_masks_and_biases() {
    // A mask of keys that is computed from what is fed.
    let graph = attention(17, Scale::Quotient, true, |b, scores| {
        let mask = b.input(
            "mask",
            DType::F32,
            vec![Dim::symbol("batch"), Dim::from(1), Dim::from(1), Dim::symbol("length")],
        );
        let low = scalar(b, -10000.0);
        let mask = b.node("Mul", &[mask, low]);
        b.node("Add", &[scores, mask])
    });
    assert_eq!(of_attention(&graph), ["Mul", "FusedAttention"]);
    // A position bias for each head, on the left.
    let graph = attention(17, Scale::None, true, |b, scores| {
        let bias = b.input(
            "bias",
            DType::F32,
            vec![
                Dim::from(1),
                Dim::from(HEADS),
                Dim::symbol("length"),
                Dim::symbol("length"),
            ],
        );
        b.node("Add", &[bias, scores])
    });
    assert_eq!(of_attention(&graph), ["FusedAttention"]);
    // Scores replaced where they are masked.
    let graph = attention(17, Scale::Product, false, |b, scores| {
        let mask = b.input(
            "mask",
            DType::F32,
            vec![
                Dim::symbol("batch"),
                Dim::from(1),
                Dim::symbol("length"),
                Dim::symbol("length"),
            ],
        );
        let (zero, low) = (scalar(b, 0.5), scalar(b, f32::NEG_INFINITY));
        let masked = b.node("Greater", &[mask, zero]);
        b.node("Where", &[masked, low, scores])
    });
    assert!(of_attention(&graph).contains(&"FusedAttention".to_string()));
}

#[test]
fn masked_rows_are_nan_at_every_level() {
    let graph = attention(17, Scale::Quotient, true, |b, scores| {
        let mask = b.input(
            "mask",
            DType::F32,
            vec![
                Dim::symbol("batch"),
                Dim::from(1),
                Dim::symbol("length"),
                Dim::symbol("length"),
            ],
        );
        b.node("Add", &[scores, mask])
    });
    let mut mask = vec![0.0; 9];
    mask[..4].fill(f32::NEG_INFINITY);
    mask[7] = f32::NAN;
    let feeds = [
        ("x".to_string(), Random(5).tensor(&[1, 3, ROW as usize])),
        ("mask".to_string(), Tensor::new(&[1, 1, 3, 3], mask).unwrap()),
    ];
    let results = [Level::None, Level::All].map(|level| run(&graph, level, &feeds)[0].to_f32s().unwrap().into_owned());
    for (index, (a, b)) in results[0].iter().zip(&results[1]).enumerate() {
        assert_eq!(index / ROW as usize == 1, !b.is_nan(), "element {index}");
        assert!(
            a.is_nan() && b.is_nan() || (a - b).abs() < 1e-5,
            "element {index}: {a} and {b}"
        );
    }
}

#[test]
fn attention_whose_steps_are_asked_for_stays() {
    for asked in ["scores", "weights"] {
        let mut b = GraphBuilder::new(17);
        let x = tokens(&mut b, "x");
        let q = heads(&mut b, x, 11, [0, 2, 1, 3]);
        let k = heads(&mut b, x, 21, [0, 2, 3, 1]);
        let v = heads(&mut b, x, 31, [0, 2, 1, 3]);
        let scores = b.node("MatMul", &[q, k]);
        let weights = b.node_with("Softmax", &[scores], &[("axis", Attribute::Int(-1))]);
        let y = b.node("MatMul", &[weights, v]);
        b.output(asked, if asked == "scores" { scores } else { weights });
        let graph = b.output("y", y).finish().unwrap();
        assert!(of_attention(&graph).contains(&"Softmax".to_string()), "{asked}");
    }
    // A softmax over the queries.
    let mut b = GraphBuilder::new(17);
    let x = tokens(&mut b, "x");
    let [q, k, v] =
        [11, 21, 31].map(|seed| heads(&mut b, x, seed, if seed == 21 { [0, 2, 3, 1] } else { [0, 2, 1, 3] }));
    let scores = b.node("MatMul", &[q, k]);
    let weights = b.node_with("Softmax", &[scores], &[("axis", Attribute::Int(2))]);
    let y = b.node("MatMul", &[weights, v]);
    let graph = b.output("y", y).finish().unwrap();
    assert!(of_attention(&graph).contains(&"Softmax".to_string()));
}

#[test]
fn steps_behind_a_view_become_the_epilogue_of_the_kernel_before_it() {
    // A factor between the split into heads and whatever follows.
    let mut b = GraphBuilder::new(17);
    let x = tokens(&mut b, "x");
    let weights = b.constant("weights", Random(2).tensor(&[ROW as usize, ROW as usize]));
    let y = b.node("MatMul", &[x, weights]);
    let shape = b.constant("shape", ints(&[0, 0, HEADS, SIZE]));
    let y = b.node("Reshape", &[y, shape]);
    let factor = scalar(&mut b, 0.25);
    let y = b.node("Mul", &[factor, y]);
    let gate = b.node("Sigmoid", &[y]);
    let y = b.node("Mul", &[y, gate]);
    let graph = b.output("y", y).finish().unwrap();
    assert_eq!(names(&graph, &[1, 3]), ["MatMul", "Reshape"]);
    // A bias of channels behind a Squeeze, as convolutions over time are written.
    for operator in ["Squeeze", "Unsqueeze"] {
        let mut b = GraphBuilder::new(17);
        let last = if operator == "Squeeze" { 1 } else { 4 };
        let x = b.input(
            "x",
            DType::F32,
            vec![Dim::symbol("batch"), Dim::from(6), Dim::from(last)],
        );
        let weights = b.constant("weights", Random(2).tensor(&[5, 6, 1]));
        let y = b.node("Conv", &[x, weights]);
        let axes = b.constant("axes", ints(&[if operator == "Squeeze" { 2 } else { 3 }]));
        let y = b.node(operator, &[y, axes]);
        let bias = Random(3).tensor(&[5]);
        let bias = match operator {
            "Squeeze" => bias,
            _ => bias.reshaped(&[5, 1, 1]).unwrap(),
        };
        let bias = b.constant("bias", bias);
        let y = b.node("Sub", &[bias, y]);
        let graph = b.output("y", y).finish().unwrap();
        assert_eq!(names(&graph, &[1, 3]), ["Conv", operator]);
    }
    // A bias that runs over the axis that the view cuts up stays behind it.
    let mut b = GraphBuilder::new(17);
    let x = tokens(&mut b, "x");
    let weights = b.constant("weights", Random(2).tensor(&[ROW as usize, ROW as usize]));
    let y = b.node("MatMul", &[x, weights]);
    let shape = b.constant("shape", ints(&[0, 0, HEADS, SIZE]));
    let y = b.node("Reshape", &[y, shape]);
    let bias = b.constant("bias", Random(3).tensor(&[SIZE as usize]));
    let y = b.node("Sub", &[bias, y]);
    let graph = b.output("y", y).finish().unwrap();
    assert_eq!(names(&graph, &[1, 3]), ["MatMul", "Reshape", "Sub"]);
}

/// Pad, then `operator`; pads as opset 10 and as opset 13 write them.
fn padded(opset: i64, pads: &[i64], value: f32, operator: &str, attributes: &[(&str, Attribute)]) -> Vec<String> {
    let mut b = GraphBuilder::new(opset);
    let x = b.input(
        "x",
        DType::F32,
        vec![Dim::symbol("batch"), Dim::from(3), Dim::from(7), Dim::from(6)],
    );
    let y = if opset < 11 {
        let attributes = [
            ("pads", Attribute::Ints(pads.to_vec())),
            ("value", Attribute::Float(value)),
        ];
        b.node_with("Pad", &[x], &attributes)
    } else {
        let (pads, value) = (b.constant("pads", ints(pads)), scalar(&mut b, value));
        b.node("Pad", &[x, pads, value])
    };
    let mut inputs = vec![y];
    if operator == "Conv" {
        inputs.push(b.constant("weights", Random(4).tensor(&[2, 3, 3, 3])));
    }
    let y = b.node_with(operator, &inputs, attributes);
    let graph = b.output("y", y).finish().unwrap();
    names(&graph, &[1, 2])
}

#[test]
fn pads_become_those_of_the_window_behind_them() {
    let spatial = [0, 0, 1, 2, 0, 0, 0, 1];
    let window = ("kernel_shape", Attribute::Ints(vec![3, 3]));
    for opset in [10, 13] {
        assert_eq!(padded(opset, &spatial, 0.0, "Conv", &[]), ["Conv"]);
        let own = ("pads", Attribute::Ints(vec![1, 0, 0, 2]));
        assert_eq!(
            padded(opset, &spatial, 0.0, "Conv", std::slice::from_ref(&own)),
            ["Conv"]
        );
        let valid = ("auto_pad", Attribute::String(b"VALID".to_vec()));
        assert_eq!(padded(opset, &spatial, 0.0, "Conv", &[valid]), ["Conv"]);
        assert_eq!(
            padded(opset, &spatial, 0.0, "AveragePool", std::slice::from_ref(&window)),
            ["AveragePool"]
        );
        assert_eq!(
            padded(
                opset,
                &spatial,
                f32::NEG_INFINITY,
                "MaxPool",
                std::slice::from_ref(&window)
            ),
            ["MaxPool"]
        );
        // Another value, other axes, sizes that follow from the padded input, zeros that would not count.
        let same = ("auto_pad", Attribute::String(b"SAME_UPPER".to_vec()));
        assert_eq!(padded(opset, &spatial, 1.0, "Conv", &[])[0], "Pad");
        assert_eq!(padded(opset, &spatial, 0.0, "Conv", &[same])[0], "Pad");
        assert_eq!(padded(opset, &[1, 0, 0, 0, 0, 0, 0, 0], 0.0, "Conv", &[])[0], "Pad");
        assert_eq!(padded(opset, &[0, 0, -1, 0, 0, 0, 0, 0], 0.0, "Conv", &[])[0], "Pad");
        assert_eq!(
            padded(opset, &spatial, 0.0, "MaxPool", std::slice::from_ref(&window))[0],
            "Pad"
        );
        assert_eq!(
            padded(opset, &spatial, 0.0, "AveragePool", &[window.clone(), own])[0],
            "Pad"
        );
        assert_eq!(
            padded(
                opset,
                &[0, 0, 3, 0, 0, 0, 0, 0],
                0.0,
                "AveragePool",
                std::slice::from_ref(&window)
            )[0],
            "Pad"
        );
    }
}

#[test]
fn heads_that_several_groups_of_queries_share_are_not_repeated() {
    for merged_twice in [false, true] {
        let mut b = GraphBuilder::new(17);
        let batch = Dim::symbol("batch");
        let of = |b: &mut GraphBuilder, name: &str, heads: i64, last: i64| {
            let sizes = [Dim::from(heads), Dim::symbol("length"), Dim::from(last)];
            b.input(name, DType::F32, [vec![batch.clone()], sizes.to_vec()].concat())
        };
        let q = of(&mut b, "q", 6, 4);
        let mut shared = [("k", 4), ("v", 5)].map(|(name, last)| {
            let x = of(&mut b, name, 2, last);
            let axes = b.constant("axes", ints(&[2]));
            let apart = b.node("Unsqueeze", &[x, axes]);
            let target = b.constant("target", ints(&[1, 2, 3, 1, last]));
            let expanded = b.node("Expand", &[apart, target]);
            let shape = if merged_twice {
                [0, 6, -1, last]
            } else {
                [-1, 6, 0, last]
            };
            let shape = if merged_twice {
                b.constant("shape", ints(&shape))
            } else {
                // The sizes come from the shape of what is repeated.
                let sizes = b.node("Shape", &[x]);
                let at = |b: &mut GraphBuilder, index: i64| {
                    let index = b.constant("index", ints(&[index]));
                    b.node("Gather", &[sizes, index])
                };
                let (first, length) = (at(&mut b, 0), at(&mut b, 2));
                let (six, last) = (b.constant("six", ints(&[6])), b.constant("last", ints(&[last])));
                b.node_with("Concat", &[first, six, length, last], &[("axis", Attribute::Int(0))])
            };
            b.node("Reshape", &[expanded, shape])
        });
        shared[0] = b.node_with(
            "Transpose",
            &[shared[0]],
            &[("perm", Attribute::Ints(vec![0, 1, 3, 2]))],
        );
        let scores = b.node("MatMul", &[q, shared[0]]);
        let weights = b.node_with("Softmax", &[scores], &[("axis", Attribute::Int(-1))]);
        let y = b.node("MatMul", &[weights, shared[1]]);
        let graph = b.output("y", y).finish().unwrap();
        assert_eq!(names(&graph, &[1, 3]), ["FusedAttention"], "{merged_twice}");
    }
}

#[test]
fn weights_that_are_no_numbers_are_zeros_where_the_model_says_so() {
    let mut b = GraphBuilder::new(20);
    let x = tokens(&mut b, "x");
    let [q, k, v] = [11, 21, 31].map(|seed| {
        let perm = if seed == 21 { [0, 2, 3, 1] } else { [0, 2, 1, 3] };
        heads(&mut b, x, seed, perm)
    });
    let scores = b.node("MatMul", &[q, k]);
    let sizes = [
        Dim::symbol("batch"),
        Dim::from(1),
        Dim::symbol("length"),
        Dim::symbol("length"),
    ];
    let mask = b.input("mask", DType::F32, sizes.to_vec());
    let scores = b.node("Add", &[scores, mask]);
    let weights = b.node_with("Softmax", &[scores], &[("axis", Attribute::Int(-1))]);
    let (nan, zero) = (b.node("IsNaN", &[weights]), scalar(&mut b, 0.0));
    let weights = b.node("Where", &[nan, zero, weights]);
    let y = b.node("MatMul", &[weights, v]);
    let y = merge(&mut b, y);
    let graph = b.output("y", y).finish().unwrap();
    assert_eq!(of_attention(&graph), ["FusedAttention"]);
    let feeds = [
        ("x".to_string(), Random(5).tensor(&[1, 2, ROW as usize])),
        (
            "mask".to_string(),
            Tensor::new(&[1, 1, 2, 2], vec![f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 1.0]).unwrap(),
        ),
    ];
    let results = [Level::None, Level::All].map(|level| run(&graph, level, &feeds)[0].to_f32s().unwrap().into_owned());
    for (index, (a, b)) in results[0].iter().zip(&results[1]).enumerate() {
        assert!((a - b).abs() < 1e-5, "element {index}: {a} and {b}");
    }
    assert!(results[1][..ROW as usize].iter().all(|&value| value == 0.0));
}

#[test]
fn attention_on_the_transposed_result_of_another() {
    let mut b = GraphBuilder::new(17);
    let sizes = [Dim::symbol("batch"), Dim::from(4), Dim::from(4)];
    let x = b.input("x", DType::F32, sizes.to_vec());
    let perm = [("perm", Attribute::Ints(vec![0, 2, 1]))];
    let mut y = x;
    for _ in 0..3 {
        let keys = b.node_with("Transpose", &[y], &perm);
        let scores = b.node("MatMul", &[y, keys]);
        let weights = b.node_with("Softmax", &[scores], &[("axis", Attribute::Int(-1))]);
        let mixed = b.node("MatMul", &[weights, y]);
        y = b.node_with("Transpose", &[mixed], &perm);
    }
    let graph = b.output("y", y).finish().unwrap();
    assert_eq!(names(&graph, &[1, 2]), ["FusedAttention"; 3]);
}

#[test]
fn rotary_embeddings_in_every_form_are_one_rearrangement() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Form {
        Halves,
        HalvesBySplit,
        Neighbours,
    }
    for (form, partial) in [
        (Form::Halves, false),
        (Form::HalvesBySplit, false),
        (Form::Neighbours, false),
        (Form::Neighbours, true),
        (Form::Halves, true),
    ] {
        let mut b = GraphBuilder::new(13);
        let width = if partial { 12 } else { 8 };
        let x = b.input(
            "x",
            DType::F32,
            vec![
                Dim::symbol("batch"),
                Dim::from(3),
                Dim::symbol("length"),
                Dim::from(width),
            ],
        );
        let slice = |b: &mut GraphBuilder, x: ValueId, start: i64, end: i64, step: i64| {
            let [start, end, axis, step] = [start, end, 3, step].map(|value| b.constant("bound", ints(&[value])));
            b.node("Slice", &[x, start, end, axis, step])
        };
        let end = i64::MAX;
        let turned = if partial { slice(&mut b, x, 0, 8, 1) } else { x };
        let concat =
            |b: &mut GraphBuilder, parts: &[ValueId]| b.node_with("Concat", parts, &[("axis", Attribute::Int(-1))]);
        let rotated = match form {
            Form::Halves => {
                let (low, high) = (slice(&mut b, turned, 0, 4, 1), slice(&mut b, turned, 4, end, 1));
                let high = b.node("Neg", &[high]);
                concat(&mut b, &[high, low])
            }
            Form::HalvesBySplit => {
                let split = modelet::graph::OperatorId::new("", "Split", 13);
                let parts = b.node_of(split, &[Some(turned)], &[("axis", Attribute::Int(-1))], 2);
                let high = b.node("Neg", &[parts[1]]);
                concat(&mut b, &[high, parts[0]])
            }
            Form::Neighbours => {
                let (even, odd) = (slice(&mut b, turned, 0, end, 2), slice(&mut b, turned, 1, end, 2));
                let odd = b.node("Neg", &[odd]);
                let axes = b.constant("axes", ints(&[-1]));
                let (odd, even) = (b.node("Unsqueeze", &[odd, axes]), b.node("Unsqueeze", &[even, axes]));
                let pairs = concat(&mut b, &[odd, even]);
                // As exporters flatten: to the leading sizes, and whatever is left.
                let sizes = b.node("Shape", &[pairs]);
                let (zero, three, rest) = (
                    b.constant("zero", ints(&[0])),
                    b.constant("three", ints(&[3])),
                    b.constant("rest", ints(&[-1])),
                );
                let sizes = b.node("Slice", &[sizes, zero, three]);
                let shape = b.node_with("Concat", &[sizes, rest], &[("axis", Attribute::Int(0))]);
                b.node("Reshape", &[pairs, shape])
            }
        };
        let [cosine, sine] =
            ["cos", "sin"].map(|name| b.input(name, DType::F32, vec![Dim::symbol("length"), Dim::from(8)]));
        let (a, c) = (b.node("Mul", &[turned, cosine]), b.node("Mul", &[rotated, sine]));
        let mut y = b.node("Add", &[a, c]);
        if partial {
            let rest = slice(&mut b, x, 8, end, 1);
            y = concat(&mut b, &[y, rest]);
        }
        let graph = b.output("y", y).finish().unwrap();
        let expected: &[&str] = if partial {
            &["Slice", "Lanes", "Pointwise", "Slice", "Concat"]
        } else {
            &["Lanes", "Pointwise"]
        };
        let mut names = names(&graph, &[1, 3]);
        let mut expected = expected.to_vec();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "{form:?}, partial: {partial}");
    }
    // Pieces of two tensors.
    let mut b = GraphBuilder::new(13);
    let [x, z] = ["x", "z"].map(|name| b.input(name, DType::F32, vec![Dim::symbol("batch"), Dim::from(4)]));
    let y = b.node("Neg", &[x]);
    let y = b.node_with("Concat", &[y, z], &[("axis", Attribute::Int(-1))]);
    assert_eq!(names(&b.output("y", y).finish().unwrap(), &[2]), ["Neg", "Concat"]);
}
