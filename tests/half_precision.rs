//! Models in half precision: between feeds and results they compute in f32, whatever the optimizer makes of them, and what a
//! Cast of the model rounds stays rounded.

use modelet::{
    DType, Device, Model, Session, SessionOptions, Tensor,
    graph::{Attribute, Graph, GraphBuilder, OperatorId, Subgraph, ValueId},
    optimize::{Kernels, Level, optimize, optimize_for},
    tensor::{Bool8, Dim},
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.next()).collect();
        Tensor::from_f64s(dtype, shape, &values).unwrap()
    }
}

fn run(graph: &Graph, optimization: Level, feeds: &[Tensor]) -> Vec<Tensor> {
    let options = SessionOptions {
        device: Device::Cpu,
        optimization,
        ..SessionOptions::default()
    };
    let names = graph.inputs.iter().map(|&id| graph.value(id).name.clone());
    let feeds: Vec<(String, Tensor)> = names.zip(feeds.iter().cloned()).collect();
    let mut session = pollster::block_on(Session::new(Model::from_graph(graph.clone()).unwrap(), options)).unwrap();
    let outputs = pollster::block_on(session.run(feeds)).unwrap_or_else(|error| panic!("{optimization:?}: {error}"));
    outputs
        .into_iter()
        .map(|(_, value)| value.tensor().expect("an output is a tensor").clone())
        .collect()
}

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&size| Dim::from(size)).collect()
}

fn cast(b: &mut GraphBuilder, x: ValueId, dtype: DType) -> ValueId {
    b.node_with("Cast", &[x], &[("to", Attribute::Int(dtype.to_onnx().into()))])
}

fn operators(graph: &Graph) -> Vec<String> {
    graph.nodes.iter().map(|node| node.operator.name.to_string()).collect()
}

/// A network with one of each kind of weight; `dtype` is that of all its floats.
fn network(dtype: DType, random: &mut Random) -> Graph {
    // The same numbers in every type.
    let mut weights = |b: &mut GraphBuilder, name: &str, shape: &[usize]| {
        let half = random.tensor(DType::F16, shape).to_f64s().unwrap();
        let small: Vec<f64> = half.iter().map(|value| value / 8.0).collect();
        b.constant(name, Tensor::from_f64s(dtype, shape, &small).unwrap())
    };
    let mut b = GraphBuilder::new(17);
    let x = b.input(
        "x",
        dtype,
        vec![Dim::symbol("n"), Dim::from(32), Dim::from(6), Dim::from(5)],
    );
    let w = weights(&mut b, "w", &[128, 32, 3, 3]);
    let bias = weights(&mut b, "bias", &[128]);
    let pads = ("pads", Attribute::Ints(vec![1, 1, 1, 1]));
    let y = b.node_with("Conv", &[x, w, bias], &[pads]);
    let y = b.node("Relu", &[y]);
    let scale = weights(&mut b, "scale", &[1, 128, 1, 1]);
    let y = b.node("Mul", &[y, scale]);
    let y = b.node("GlobalAveragePool", &[y]);
    let y = b.node_with("Flatten", &[y], &[("axis", Attribute::Int(1))]);
    let m = weights(&mut b, "m", &[128, 300]);
    let y = b.node("MatMul", &[y, m]);
    let y = b.node("Softmax", &[y]);
    let g = weights(&mut b, "g", &[7, 300]);
    let y = b.node_with("Gemm", &[y, g], &[("transB", Attribute::Int(1))]);
    b.output("y", y).finish().unwrap()
}

#[test]
fn a_network_computes_in_f32_and_rounds_its_result() {
    let half = network(DType::F16, &mut Random(1));
    let wide = network(DType::F32, &mut Random(1));
    let mut random = Random(7);
    for rows in [1, 9] {
        let feed = random.tensor(DType::F16, &[rows, 32, 6, 5]);
        let wide_feed = Tensor::new(feed.shape(), feed.to_f32s().unwrap().into_owned()).unwrap();
        let expected = run(&wide, Level::None, &[wide_feed]).swap_remove(0);
        let expected = Tensor::from_f64s(DType::F16, expected.shape(), &expected.to_f64s().unwrap()).unwrap();
        for level in [Level::Basic, Level::All] {
            let actual = run(&half, level, std::slice::from_ref(&feed)).swap_remove(0);
            assert_eq!((actual.dtype(), actual.shape()), (DType::F16, expected.shape()));
            let pairs = actual.to_f64s().unwrap().into_iter().zip(expected.to_f64s().unwrap());
            for (a, e) in pairs {
                // Sums in another order may fall to the other side of a tie.
                assert!((a - e).abs() <= 1e-3 * e.abs(), "{level:?}: {a}, expected {e}");
            }
        }
    }
}

#[test]
fn weights_are_not_widened_before_they_are_packed() {
    let graph = optimize(network(DType::F16, &mut Random(1)), Level::All).unwrap();
    let kinds = operators(&graph);
    assert_eq!(kinds.iter().filter(|kind| *kind == "Cast").count(), 2, "{kinds:?}");
    let bytes: usize = graph
        .values
        .iter()
        .filter_map(|value| value.constant.as_ref())
        .map(|tensor| tensor.bytes().len())
        .sum();
    let large = 128 * 32 * 9 * 2 + 128 * 300 * 2;
    assert!(bytes < large + 20_000, "{bytes} bytes of constants");
}

#[test]
fn a_cast_rounds_what_is_moved_and_not_what_is_computed_with() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, dims(&[1, 3]));
    let half = cast(&mut b, x, DType::F16);
    let two = Tensor::from_f64s(DType::F16, &[], &[2.0]).unwrap();
    let two = b.constant("two", two);
    let computed = b.node("Mul", &[half, two]);
    let computed = cast(&mut b, computed, DType::F32);
    let moved = b.node_with("Transpose", &[half], &[("perm", Attribute::Ints(vec![1, 0]))]);
    let moved = b.node("Mul", &[moved, two]);
    let moved = cast(&mut b, moved, DType::F32);
    let back = cast(&mut b, half, DType::F32);
    b.output("computed", computed).output("moved", moved);
    let graph = b.output("back", back).finish().unwrap();
    let x = Tensor::new(&[1, 3], vec![1.000_1f32, 0.1, 70000.0]).unwrap();
    let rounded = f64::from(Tensor::from_f64s(DType::F16, &[], &[0.1]).unwrap().to_f32s().unwrap()[0]);
    let doubled = vec![2.0, 2.0 * rounded, f64::INFINITY];
    for level in [Level::None, Level::Basic, Level::All] {
        let all: Vec<Vec<f64>> = run(&graph, level, std::slice::from_ref(&x))
            .iter()
            .map(|y| y.to_f64s().unwrap())
            .collect();
        let exact: Vec<f64> = x.to_f64s().unwrap().iter().map(|x| 2.0 * x).collect();
        assert_eq!(
            all[0],
            if level == Level::None { doubled.clone() } else { exact },
            "{level:?}"
        );
        assert_eq!(all[1], doubled, "{level:?}");
        assert_eq!(all[2], [1.0, rounded, f64::INFINITY], "{level:?}");
    }
}

#[test]
fn what_is_joined_with_half_precision_is_rounded() {
    // 1 + 2^-12 is between two numbers of f16.
    let between = 1.0 + 1.0 / 4096.0;
    for (second, expected) in [("x", 1.0), ("computed", 2.0 * between - 1.0)] {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::F16, dims(&[2]));
        let tiny = Tensor::from_f64s(DType::F16, &[], &[between - 1.0]).unwrap();
        let tiny = b.constant("tiny", tiny);
        let sum = b.node("Add", &[x, tiny]);
        let second = if second == "x" { x } else { b.node("Add", &[sum, tiny]) };
        let joined = b.node_with("Concat", &[sum, second], &[("axis", Attribute::Int(0))]);
        let ones = b.constant("ones", Tensor::from_f64s(DType::F16, &[], &[1.0]).unwrap());
        let rest = b.node("Sub", &[joined, ones]);
        let rest = cast(&mut b, rest, DType::F32);
        let graph = b.output("y", rest).finish().unwrap();
        let x = Tensor::from_f64s(DType::F16, &[2], &[1.0, 1.0]).unwrap();
        for level in [Level::Basic, Level::All] {
            let y = run(&graph, level, std::slice::from_ref(&x))
                .swap_remove(0)
                .to_f64s()
                .unwrap();
            let first = if expected == 1.0 { 0.0 } else { between - 1.0 };
            assert_eq!(y, [first, first, expected - 1.0, expected - 1.0], "{level:?}");
        }
    }
}

#[test]
fn the_gpu_joins_what_was_computed_without_rounding_it() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F16, dims(&[1, 2, 4, 4]));
    let relu = b.node("Relu", &[x]);
    let wide = cast(&mut b, relu, DType::F32);
    let root = b.node("Sqrt", &[wide]);
    let root = cast(&mut b, root, DType::F16);
    let joined = b.node_with("Concat", &[root, x, relu], &[("axis", Attribute::Int(1))]);
    let negated = b.node("Neg", &[joined]);
    let graph = b.output("y", negated).finish().unwrap();
    let halves = |kernels| {
        let optimized = optimize_for(graph.clone(), Level::All, kernels).unwrap();
        let concat = optimized
            .nodes
            .iter()
            .find(|node| node.operator.is_onnx("Concat"))
            .unwrap();
        let inputs = concat.inputs.iter().flatten();
        inputs
            .filter(|id| optimized.value(**id).ty.as_tensor().unwrap().dtype == Some(DType::F16))
            .count()
    };
    assert_eq!((halves(Kernels::Cpu), halves(Kernels::Gpu)), (3, 0));
}

#[test]
fn sums_do_not_overflow_on_the_way() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F16, dims(&[1, 4]));
    let y = b.node("Mul", &[x, x]);
    let y = b.node("ReduceSum", &[y]);
    let y = b.node("Sqrt", &[y]);
    let graph = b.output("y", y).finish().unwrap();
    let x = Tensor::from_f64s(DType::F16, &[1, 4], &[1000.0; 4]).unwrap();
    for level in [Level::Basic, Level::All] {
        let y = run(&graph, level, std::slice::from_ref(&x)).swap_remove(0);
        assert_eq!((y.dtype(), y.to_f64s().unwrap()), (DType::F16, vec![2000.0]));
    }
}

#[test]
fn tables_and_caches_stay_in_half_precision() {
    let mut b = GraphBuilder::new(17);
    let ids = b.input("ids", DType::I64, dims(&[2]));
    let past = b.input("past", DType::F16, vec![Dim::symbol("length"), Dim::from(64)]);
    let table = b.constant("table", Random(3).tensor(DType::F16, &[1000, 64]));
    let rows = b.node("Gather", &[table, ids]);
    let new = b.node("Tanh", &[rows]);
    let present = b.node_with("Concat", &[past, new], &[("axis", Attribute::Int(0))]);
    let y = b.node("Abs", &[present]);
    let graph = b.output("present", present).output("y", y).finish().unwrap();
    let optimized = optimize(graph.clone(), Level::All).unwrap();
    for kind in ["Gather", "Concat"] {
        let node = optimized
            .nodes
            .iter()
            .find(|node| &*node.operator.name == kind)
            .unwrap();
        let ty = &optimized.value(node.output(0).unwrap()).ty;
        assert_eq!(ty.dtype(), Some(DType::F16), "{kind}");
    }
    let ids = Tensor::new(&[2], vec![3i64, 999]).unwrap();
    for length in [0, 5] {
        let past = Random(9).tensor(DType::F16, &[length, 64]);
        let feeds = [ids.clone(), past];
        let expected = run(&graph, Level::None, &feeds);
        for level in [Level::Basic, Level::All] {
            assert_eq!(run(&graph, level, &feeds), expected, "{level:?}");
        }
    }
}

#[test]
fn subgraphs_take_and_give_half_precision() {
    let branch = |operator: &str| {
        let mut inner = GraphBuilder::new(17);
        let captured = inner.input("captured", DType::BF16, dims(&[2, 3]));
        let y = inner.node(operator, &[captured]);
        let y = inner.node("Exp", &[y]);
        let mut graph = inner.output("y", y).finish().unwrap();
        graph.captures = std::mem::take(&mut graph.inputs);
        graph
    };
    let mut b = GraphBuilder::new(17);
    let condition = b.input("condition", DType::Bool, vec![]);
    let x = b.input("x", DType::BF16, dims(&[2, 3]));
    let y = b.node("Sigmoid", &[x]);
    let chosen = ["then_branch", "else_branch"].into_iter().zip(["Neg", "Abs"]);
    let branches: Vec<(&str, Attribute)> = chosen
        .map(|(name, operator)| {
            let subgraph = Subgraph {
                graph: branch(operator),
                captures: vec![y],
            };
            (name, Attribute::Graph(Box::new(subgraph)))
        })
        .collect();
    let z = b.node_of(OperatorId::new("", "If", 17), &[Some(condition)], &branches, 1)[0];
    let z = b.node("Neg", &[z]);
    let graph = b.output("z", z).output("y", y).finish().unwrap();
    let x = Random(5).tensor(DType::BF16, &[2, 3]);
    for taken in [true, false] {
        let feeds = [Tensor::new(&[], vec![Bool8::from(taken)]).unwrap(), x.clone()];
        let expected = run(&graph, Level::None, &feeds);
        for level in [Level::Basic, Level::All] {
            for (actual, expected) in run(&graph, level, &feeds).iter().zip(&expected) {
                assert_eq!((actual.dtype(), actual.shape()), (DType::BF16, expected.shape()));
                let pairs = actual.to_f64s().unwrap().into_iter().zip(expected.to_f64s().unwrap());
                for (a, e) in pairs {
                    assert!((a - e).abs() <= 2e-2 * e.abs(), "{level:?}: {a}, expected {e}");
                }
            }
        }
    }
}
