//! Joining and splitting along the outermost dimension copies nothing, and gives what it gives where it has to copy: every
//! graph here is run a second time with all its values fetched, which must then have memory of their own.

#[path = "support/levels.rs"]
mod levels;

use levels::{Random, run};
use modelet::{
    DType, Device, Model, Session, SessionOptions,
    graph::{Attribute, Graph, GraphBuilder, OperatorId, ValueId},
    optimize::Level,
    tensor::Dim,
};

const CHANNELS: usize = 4;

fn input(b: &mut GraphBuilder) -> ValueId {
    let sizes = [1, CHANNELS as i64, 6, 4];
    b.input("x", DType::F32, sizes.map(Dim::from).to_vec())
}

fn conv(b: &mut GraphBuilder, x: ValueId, from: usize, seed: u64) -> ValueId {
    let weights = b.constant("weights", Random(seed).tensor(&[CHANNELS, from, 1, 1]));
    b.node("Conv", &[x, weights])
}

fn concat(b: &mut GraphBuilder, inputs: &[ValueId], axis: i64) -> ValueId {
    b.node_with("Concat", inputs, &[("axis", Attribute::Int(axis))])
}

/// Compares the graph's output with that of the same graph when every value is an output; returns how many nodes copied.
fn check(graph: &Graph) -> usize {
    let shape: Vec<usize> = graph
        .value(graph.inputs[0])
        .ty
        .shape()
        .unwrap()
        .iter()
        .filter_map(|dim| dim.size())
        .collect();
    let feeds = [("x".to_string(), Random(9).tensor(&shape))];
    let actual = run(graph, Level::None, &feeds);
    let mut all = graph.clone();
    let made = graph
        .nodes
        .iter()
        .flat_map(|node| node.outputs.iter().flatten().copied());
    all.outputs
        .extend(made.filter(|id| !graph.outputs.contains(id)).collect::<Vec<_>>());
    let expected = run(&all, Level::None, &feeds);
    for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        assert_eq!(actual, expected, "output {index}");
    }
    let options = SessionOptions {
        device: Device::Cpu,
        optimization: Level::None,
        ..SessionOptions::default()
    };
    let mut session = pollster::block_on(Session::new(Model::from_graph(graph.clone()).unwrap(), options)).unwrap();
    pollster::block_on(session.run(feeds)).unwrap();
    let nodes = session.report().nodes;
    let copies = nodes
        .iter()
        .filter(|node| ["concat", "split", "slice"].contains(&node.kernel.as_str()));
    copies.count()
}

#[test]
fn branches_that_are_joined_are_made_in_place() {
    let mut b = GraphBuilder::new(17);
    let x = input(&mut b);
    let branches: Vec<ValueId> = (1..4).map(|seed| conv(&mut b, x, CHANNELS, seed)).collect();
    let joined = concat(&mut b, &branches, 1);
    let y = b.node("Neg", &[joined]);
    assert_eq!(check(&b.output("y", y).finish().unwrap()), 0);
}

#[test]
fn what_is_joined_again_and_again_lies_in_the_last_whole() {
    for pairwise in [false, true] {
        let mut b = GraphBuilder::new(17);
        let x = input(&mut b);
        let mut parts = vec![conv(&mut b, x, CHANNELS, 1)];
        let mut joined = parts[0];
        for step in 1..5 {
            let next = conv(&mut b, joined, CHANNELS * step, 10 + step as u64);
            parts.push(next);
            joined = if pairwise {
                concat(&mut b, &[joined, next], 1)
            } else {
                concat(&mut b, &parts, 1)
            };
        }
        let y = b.node("Neg", &[joined]);
        assert_eq!(check(&b.output("y", y).finish().unwrap()), 0, "pairwise: {pairwise}");
    }
}

#[test]
fn parts_of_a_split_stay_where_they_are() {
    let mut b = GraphBuilder::new(17);
    let x = input(&mut b);
    let y = conv(&mut b, x, CHANNELS, 1);
    let parts = b.node_of(
        OperatorId::new("", "Split", 17),
        &[Some(y)],
        &[("axis", Attribute::Int(1))],
        2,
    );
    let (left, right) = (b.node("Exp", &[parts[0]]), b.node("Neg", &[parts[1]]));
    let crossed = concat(&mut b, &[right, left], 1);
    let y = b.node("Neg", &[crossed]);
    assert_eq!(check(&b.output("y", y).finish().unwrap()), 0);
    // Joined the other way round they do not lie one after another.
    let mut b = GraphBuilder::new(17);
    let x = input(&mut b);
    let y = conv(&mut b, x, CHANNELS, 1);
    let parts = b.node_of(
        OperatorId::new("", "Split", 17),
        &[Some(y)],
        &[("axis", Attribute::Int(1))],
        2,
    );
    let crossed = concat(&mut b, &[parts[1], parts[0]], 1);
    let again = concat(&mut b, &[parts[0], parts[1], crossed], 1);
    let y = b.node("Neg", &[again]);
    check(&b.output("y", y).finish().unwrap());
}

#[test]
fn what_cannot_lie_in_place_is_copied() {
    // An input that is fed, one that is joined twice, one that is fetched, and an inner axis.
    for case in 0..4 {
        let mut b = GraphBuilder::new(17);
        let x = input(&mut b);
        let (p, q) = (conv(&mut b, x, CHANNELS, 1), conv(&mut b, x, CHANNELS, 2));
        let joined = match case {
            0 => concat(&mut b, &[p, x], 1),
            1 => concat(&mut b, &[p, q, p], 1),
            2 => concat(&mut b, &[p, q], 1),
            _ => concat(&mut b, &[p, q], 3),
        };
        let y = b.node("Neg", &[joined]);
        if case == 2 {
            b.output("p", p);
        }
        assert_eq!(check(&b.output("y", y).finish().unwrap()), 1, "case {case}");
    }
}

#[test]
fn sizes_that_break_the_alignment_are_copied() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, [1, 1, 3, 3].map(Dim::from).to_vec());
    let (p, q) = (b.node("Neg", &[x]), b.node("Exp", &[x]));
    let joined = concat(&mut b, &[p, q], 1);
    let y = b.node("Neg", &[joined]);
    assert_eq!(check(&b.output("y", y).finish().unwrap()), 1);
}

#[test]
fn joined_parts_keep_their_values_while_others_read_them() {
    // The first part is read long after the whole was, and beside it.
    let mut b = GraphBuilder::new(17);
    let x = input(&mut b);
    let (p, q) = (conv(&mut b, x, CHANNELS, 1), conv(&mut b, x, CHANNELS, 2));
    let joined = concat(&mut b, &[p, q], 1);
    let mut y = conv(&mut b, joined, 2 * CHANNELS, 3);
    for seed in 4..8 {
        y = conv(&mut b, y, CHANNELS, seed);
    }
    let sum = b.node("Add", &[y, p]);
    let graph = b.output("y", sum).finish().unwrap();
    assert_eq!(check(&graph), 0);
}

#[test]
fn slices_of_the_outermost_dimension_stay_where_they_are() {
    for (axis, bounds, copies) in [
        (1, (1, 3), 0),
        (1, (-4, 2), 0),
        (1, (0, 99), 0),
        (2, (1, 3), 1),
        (3, (0, 2), 1),
    ] {
        let mut b = GraphBuilder::new(17);
        let x = input(&mut b);
        let y = conv(&mut b, x, CHANNELS, 1);
        let [start, end, axis] = [bounds.0, bounds.1, axis].map(|value| b.constant("bound", levels::ints(&[value])));
        let part = b.node("Slice", &[y, start, end, axis]);
        let (left, right) = (b.node("Exp", &[part]), b.node("Neg", &[y]));
        b.output("right", right);
        assert_eq!(check(&b.output("left", left).finish().unwrap()), copies, "{bounds:?}");
    }
    // Backwards, and every other one.
    for step in [-1, 2] {
        let mut b = GraphBuilder::new(17);
        let x = input(&mut b);
        let y = conv(&mut b, x, CHANNELS, 1);
        let (start, end) = if step < 0 { (3, -9) } else { (0, 4) };
        let [start, end, axis, step] = [start, end, 1, step].map(|value| b.constant("bound", levels::ints(&[value])));
        let part = b.node("Slice", &[y, start, end, axis, step]);
        let left = b.node("Exp", &[part]);
        assert_eq!(check(&b.output("left", left).finish().unwrap()), 1);
    }
}
