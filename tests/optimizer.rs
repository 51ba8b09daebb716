//! What the optimizer leaves of typical graphs, and that they still compute the same: every graph here is run as it is
//! and at each level, on random data of several shapes.

use modelet::{
    DType, Tensor,
    graph::{Attribute, Graph, GraphBuilder, OperatorId, Subgraph, ValueId, ValueType},
    optimize::{Level, optimize},
    tensor::{Bool8, Dim},
};

#[path = "support/levels.rs"]
mod levels;

use levels::{Random, batch_by, check, ints, operators, run};

#[test]
fn a_reshape_to_a_computed_shape_needs_no_shape_nodes() {
    let mut b = GraphBuilder::new(17);
    let x = b.input(
        "x",
        DType::F32,
        vec![Dim::symbol("batch"), Dim::symbol("length"), Dim::from(12)],
    );
    let shape = b.node("Shape", &[x]);
    let (zero, one) = (b.constant("zero", ints(&[0])), b.constant("one", ints(&[1])));
    let batch = b.node("Gather", &[shape, zero]);
    let length = b.node("Gather", &[shape, one]);
    let heads = b.constant("heads", ints(&[3, 4]));
    let target = b.node_with("Concat", &[batch, length, heads], &[("axis", Attribute::Int(0))]);
    let y = b.node("Reshape", &[x, target]);
    let graph = b.output("y", y).finish().unwrap();
    assert_eq!(operators(&check(&graph, &[1, 2, 5])), ["Reshape"]);
}

#[test]
fn sizes_cancel_before_they_are_known() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, batch_by(&[6, 4]));
    let flat = b.constant("flat", ints(&[-1, 24]));
    let y = b.node("Reshape", &[x, flat]);
    let shape = b.node("Shape", &[y]);
    let (one, last) = (b.constant("one", ints(&[1])), b.constant("index", Tensor::scalar(1i64)));
    let columns = b.node("Gather", &[shape, last]);
    let axis = b.constant("axis", ints(&[0]));
    let columns = b.node("Unsqueeze", &[columns, axis]);
    let again = b.node_with("Concat", &[one, columns], &[("axis", Attribute::Int(0))]);
    let row = b.input("row", DType::F32, vec![Dim::from(24)]);
    let row = b.node("Reshape", &[row, again]);
    let sum = b.node("Add", &[y, row]);
    let graph = b.output("sum", sum).finish().unwrap();
    assert_eq!(operators(&check(&graph, &[1, 3])), ["Reshape", "Reshape", "Add"]);
}

#[test]
fn channels_last_convolutions_lose_their_transposes() {
    let mut random = Random(3);
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, batch_by(&[6, 5, 4]));
    let to_first = [("perm", Attribute::Ints(vec![0, 3, 1, 2]))];
    let to_last = [("perm", Attribute::Ints(vec![0, 2, 3, 1]))];
    let first = b.node_with("Transpose", &[x], &to_first);
    let w1 = b.constant("w1", random.tensor(&[4, 4, 3, 3]));
    let pads = [("pads", Attribute::Ints(vec![1, 1, 1, 1]))];
    let conv = b.node_with("Conv", &[first, w1], &pads);
    let last = b.node_with("Transpose", &[conv], &to_last);
    let (mean, scale) = (
        b.constant("mean", random.tensor(&[4])),
        b.constant("scale", random.tensor(&[4])),
    );
    let centred = b.node("Sub", &[last, mean]);
    let scaled = b.node("Mul", &[centred, scale]);
    let relu = b.node("Relu", &[scaled]);
    let w3 = b.constant("w3", random.tensor(&[4, 4, 1, 1]));
    let shortcut = b.node("Conv", &[first, w3]);
    let shortcut = b.node_with("Transpose", &[shortcut], &to_last);
    let sum = b.node("Add", &[relu, shortcut]);
    let first = b.node_with("Transpose", &[sum], &to_first);
    let w2 = b.constant("w2", random.tensor(&[2, 4, 1, 1]));
    let conv = b.node("Conv", &[first, w2]);
    let last = b.node_with("Transpose", &[conv], &to_last);
    let axes = [("axes", Attribute::Ints(vec![1, 2])), ("keepdims", Attribute::Int(0))];
    let pooled = b.node_with("ReduceMean", &[last], &axes);
    let graph = b.output("pooled", pooled).finish().unwrap();
    let optimized = check(&graph, &[1, 2]);
    assert_eq!(
        operators(&optimized),
        ["Transpose", "Conv", "Conv", "Conv", "ReduceMean"],
        "{optimized}"
    );
}

#[test]
fn batch_normalization_folds_into_the_convolution_and_the_rest_into_its_epilogue() {
    let mut random = Random(5);
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, batch_by(&[4, 7, 6]));
    for (transposed, groups) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::F32, batch_by(&[4, 7, 6]));
        let w = b.constant("w", random.tensor(&[4, 4 / groups, 3, 3]));
        let bias = b.constant("bias", random.tensor(&[4]));
        let attributes = [
            ("group", Attribute::Int(groups as i64)),
            ("pads", Attribute::Ints(vec![1, 1, 1, 1])),
        ];
        let conv = b.node_with(
            if transposed { "ConvTranspose" } else { "Conv" },
            &[x, w, bias],
            &attributes,
        );
        let parameters: Vec<ValueId> = (0..3)
            .map(|i| b.constant(&format!("p{i}"), random.tensor(&[4])))
            .collect();
        let variance = Tensor::new(&[4], vec![0.5f32, 1.0, 2.0, 0.1]).unwrap();
        let variance = b.constant("variance", variance);
        let normal = b.node(
            "BatchNormalization",
            &[conv, parameters[0], parameters[1], parameters[2], variance],
        );
        let sum = b.node("Add", &[normal, x]);
        let y = b.node("Relu", &[sum]);
        let graph = b.output("y", y).finish().unwrap();
        let optimized = check(&graph, &[1, 3]);
        assert!(
            !operators(&optimized).contains(&"BatchNormalization".to_string()),
            "{optimized}"
        );
        if !transposed {
            assert_eq!(operators(&optimized), ["Conv"], "{optimized}");
            assert!(optimized.nodes[0].epilogue.is_some());
        }
    }
    let parameters: Vec<ValueId> = (0..3)
        .map(|i| b.constant(&format!("p{i}"), random.tensor(&[4])))
        .collect();
    let variance = b.constant("variance", Tensor::new(&[4], vec![0.5f32, 1.0, 2.0, 0.1]).unwrap());
    let normal = b.node(
        "BatchNormalization",
        &[x, parameters[0], parameters[1], parameters[2], variance],
    );
    let y = b.node("Relu", &[normal]);
    let graph = b.output("y", y).finish().unwrap();
    assert_eq!(operators(&check(&graph, &[2])), ["Pointwise"]);
}

#[test]
fn a_decomposed_gelu_is_one_expression_after_its_matrix_product() {
    let mut random = Random(7);
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, batch_by(&[5, 8]));
    let w = b.constant("w", random.tensor(&[8, 16]));
    let bias = b.constant("bias", random.tensor(&[16]));
    let product = b.node("MatMul", &[x, w]);
    let sum = b.node("Add", &[product, bias]);
    let root = b.constant("root", Tensor::scalar(std::f32::consts::SQRT_2));
    let (one, half) = (
        b.constant("one", Tensor::scalar(1f32)),
        b.constant("half", Tensor::scalar(0.5f32)),
    );
    let scaled = b.node("Div", &[sum, root]);
    let erf = b.node("Erf", &[scaled]);
    let shifted = b.node("Add", &[erf, one]);
    let gated = b.node("Mul", &[sum, shifted]);
    let y = b.node("Mul", &[gated, half]);
    let graph = b.output("y", y).finish().unwrap();
    let optimized = check(&graph, &[1, 3]);
    assert_eq!(operators(&optimized), ["MatMul"], "{optimized}");
    assert_eq!(
        optimized.nodes[0].inputs.len(),
        3,
        "the scalars stand in the expression"
    );
}

#[test]
fn values_that_are_used_elsewhere_are_not_fused_away() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, batch_by(&[3]));
    let a = b.node("Exp", &[x]);
    let y = b.node("Neg", &[a]);
    let z = b.node("Abs", &[y]);
    b.output("a", a);
    let graph = b.output("z", z).finish().unwrap();
    assert_eq!(operators(&check(&graph, &[1, 4])), ["Exp", "Pointwise"]);
}

#[test]
fn smaller_operands_are_broadcast_inside_the_fused_node() {
    let mut random = Random(11);
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, batch_by(&[3, 4]));
    let row = b.input("row", DType::F32, vec![Dim::from(4)]);
    let column = b.constant("column", random.tensor(&[3, 1]));
    let doubled = b.node("Add", &[row, row]);
    let sum = b.node("Add", &[x, doubled]);
    let y = b.node("Mul", &[sum, column]);
    let z = b.node("Tanh", &[y]);
    let graph = b.output("z", z).finish().unwrap();
    assert_eq!(operators(&check(&graph, &[1, 2])), ["Add", "Pointwise"]);
}

#[test]
fn equal_work_is_done_once_and_unused_work_not_at_all() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, batch_by(&[4]));
    let first = b.node_with("Softmax", &[x], &[("axis", Attribute::Int(-1))]);
    let second = b.node_with("Softmax", &[x], &[("axis", Attribute::Int(-1))]);
    let other = b.node_with("Softmax", &[x], &[("axis", Attribute::Int(0))]);
    b.node("Exp", &[x]);
    let transposed = b.node_with("Transpose", &[second], &[("perm", Attribute::Ints(vec![1, 0]))]);
    let sum = b.node("MatMul", &[first, transposed]);
    b.output("sum", sum);
    let graph = b.output("other", other).finish().unwrap();
    let optimized = check(&graph, &[2, 3]);
    let softmaxes = operators(&optimized).iter().filter(|name| *name == "Softmax").count();
    assert_eq!(softmaxes, 2, "{optimized}");
    assert!(!operators(&optimized).contains(&"Exp".to_string()));
    assert!(
        operators(&optimized).contains(&"FusedMatMul".to_string()),
        "{optimized}"
    );
}

#[test]
fn a_branch_that_is_always_taken_is_part_of_the_graph() {
    let branch = |operator: &str| {
        let mut b = GraphBuilder::new(17);
        let graph_input = b.input("outer", DType::F32, batch_by(&[2]));
        let y = b.node(operator, &[graph_input]);
        let mut graph = b.output("inner", y).finish().unwrap();
        graph.captures = std::mem::take(&mut graph.inputs);
        graph
    };
    for (condition, expected) in [(true, "Exp"), (false, "Abs")] {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::F32, batch_by(&[2]));
        let condition = b.constant("condition", Tensor::scalar(Bool8::from(condition)));
        let subgraph = |graph: Graph| {
            Attribute::Graph(Box::new(Subgraph {
                graph,
                captures: vec![x],
            }))
        };
        let attributes = [
            ("then_branch", subgraph(branch("Exp"))),
            ("else_branch", subgraph(branch("Abs"))),
        ];
        let y = b.node_of(OperatorId::new("", "If", 17), &[Some(condition)], &attributes, 1)[0];
        let graph = b.output("y", y).finish().unwrap();
        assert_eq!(operators(&check(&graph, &[1, 3])), [expected]);
    }
}

#[test]
fn a_branch_chosen_by_the_data_is_planned_when_it_is_known() {
    let branch = |operator: &str| {
        let mut b = GraphBuilder::new(17);
        let graph_input = b.input("outer", DType::F32, batch_by(&[2]));
        let y = b.node(operator, &[graph_input]);
        let mut graph = b.output("inner", y).finish().unwrap();
        graph.captures = std::mem::take(&mut graph.inputs);
        graph
    };
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, batch_by(&[2]));
    let sum = b.node_with("ReduceSum", &[x], &[("keepdims", Attribute::Int(0))]);
    let zero = b.constant("zero", Tensor::scalar(0f32));
    let condition = b.node("Greater", &[sum, zero]);
    let subgraph = |graph: Graph| {
        Attribute::Graph(Box::new(Subgraph {
            graph,
            captures: vec![x],
        }))
    };
    let attributes = [
        ("then_branch", subgraph(branch("Exp"))),
        ("else_branch", subgraph(branch("Abs"))),
    ];
    let y = b.node_of(OperatorId::new("", "If", 17), &[Some(condition)], &attributes, 1)[0];
    let graph = b.output("y", y).finish().unwrap();
    let feeds = |value: f32| vec![("x".to_string(), Tensor::new(&[1, 2], vec![value, value]).unwrap())];
    for level in [Level::None, Level::All] {
        assert_eq!(
            run(&graph, level, &feeds(-2.0))[0].to_f32s().unwrap().as_ref(),
            [2.0, 2.0]
        );
        assert_eq!(
            run(&graph, level, &feeds(1.0))[0].to_f32s().unwrap().as_ref(),
            [1f32.exp(); 2]
        );
    }
    assert!(matches!(graph.value(x).ty, ValueType::Tensor(_)));
}

/// `one_hot(x) · weights` for `x` of `[2, 3, 1]`, with an encoding that counts from `first`.
fn one_hot_product(dtype: DType, first: i64, weights: Vec<f32>) -> Graph {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", dtype, [2, 3, 1].map(Dim::from).to_vec());
    let counted = b.constant("counted", whole(dtype, &[1, 4], (first..first + 4).collect()));
    let weights = b.constant("weights", Tensor::new(&[4, 2], weights).unwrap());
    let equal = b.node("Equal", &[x, counted]);
    let floats = b.node_with("Cast", &[equal], &[("to", Attribute::Int(1))]);
    let product = b.node("MatMul", &[floats, weights]);
    b.output("y", product).finish().unwrap()
}

fn whole(dtype: DType, shape: &[usize], numbers: Vec<i64>) -> Tensor {
    match dtype {
        DType::I32 => Tensor::new(shape, numbers.into_iter().map(|number| number as i32).collect()).unwrap(),
        _ => Tensor::new(shape, numbers).unwrap(),
    }
}

#[test]
fn a_product_of_a_one_hot_encoding_looks_rows_up_and_gives_zeros_for_what_is_no_index() {
    let weights: Vec<f32> = (1..=8).map(|value| value as f32).collect();
    for dtype in [DType::I32, DType::I64] {
        let graph = one_hot_product(dtype, 0, weights.clone());
        let names = operators(&optimize(graph.clone(), Level::All).unwrap());
        assert!(names.contains(&"Gather".to_string()), "{names:?}");
        let x = whole(dtype, &[2, 3, 1], vec![0, 3, 4, -1, i32::MIN.into(), 2]);
        let [expected, actual] = [Level::None, Level::All].map(|level| run(&graph, level, &[("x".into(), x.clone())]));
        assert_eq!(expected[0].shape(), [2, 3, 2]);
        assert_eq!(actual, expected);
    }
}

#[test]
fn other_comparisons_and_weights_that_are_no_numbers_stay_products() {
    let mut weights = vec![1.0; 8];
    let counted_from_one = one_hot_product(DType::I32, 1, weights.clone());
    weights[5] = f32::INFINITY;
    let infinite = one_hot_product(DType::I32, 0, weights);
    for graph in [counted_from_one, infinite] {
        let names = operators(&optimize(graph, Level::All).unwrap());
        assert!(names.contains(&"MatMul".to_string()), "{names:?}");
    }
}
