//! Tree ensembles against a walk down each tree, and counts of n-grams against a count of every start.

use super::*;
use crate::{graph::OperatorId, ops::testing::f32s};

/// A tree as nested nodes.
enum Tree {
    Leaf(Vec<(usize, f32)>),
    Branch {
        feature: usize,
        mode: &'static str,
        value: f32,
        nan_passes: bool,
        yes: Box<Tree>,
        no: Box<Tree>,
    },
}

const MODES: [&str; 6] = [
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
    "BRANCH_NEQ",
];

fn grow(rng: &mut Rng, depth: usize, features: usize, targets: usize, modes: &[&'static str]) -> Tree {
    if depth == 0 || rng.size(0, 4) == 0 {
        let votes = (0..rng.size(1, 2)).map(|_| (rng.size(0, targets - 1), rng.size(0, 32) as f32 / 4.0 - 4.0));
        return Tree::Leaf(votes.collect());
    }
    Tree::Branch {
        feature: rng.size(0, features - 1),
        mode: pick(rng, modes),
        value: rng.size(0, 8) as f32 / 2.0 - 2.0,
        nan_passes: rng.bool(),
        yes: Box::new(grow(rng, depth - 1, features, targets, modes)),
        no: Box::new(grow(rng, depth - 1, features, targets, modes)),
    }
}

impl Tree {
    fn votes<'a>(&'a self, row: &[f32]) -> &'a [(usize, f32)] {
        match self {
            Tree::Leaf(votes) => votes,
            Tree::Branch {
                feature,
                mode,
                value,
                nan_passes,
                yes,
                no,
            } => {
                let x = row[*feature];
                let passes = match *mode {
                    "BRANCH_LEQ" => x <= *value,
                    "BRANCH_LT" => x < *value,
                    "BRANCH_GTE" => x >= *value,
                    "BRANCH_GT" => x > *value,
                    "BRANCH_EQ" => x == *value,
                    // So does NaN, which equals nothing.
                    _ => x != *value,
                };
                if passes || (x.is_nan() && *nan_passes) { yes } else { no }.votes(row)
            }
        }
    }

    /// Appends the tree's nodes and gives the number of its root.
    fn write(&self, tree: i64, lists: &mut Lists) -> i64 {
        let own = lists.next;
        lists.next += 1;
        let row = lists.modes.len();
        lists.ints.iter_mut().for_each(|list| list.push(0));
        lists.ints[0][row] = tree;
        lists.ints[1][row] = own;
        lists.values.push(0.0);
        lists.modes.push("LEAF");
        match self {
            Tree::Leaf(votes) => {
                for &(target, weight) in votes {
                    let vote = [tree, own, target as i64];
                    lists
                        .votes
                        .iter_mut()
                        .zip(vote)
                        .for_each(|(list, value)| list.push(value));
                    lists.weights.push(weight);
                }
            }
            Tree::Branch {
                feature,
                mode,
                value,
                nan_passes,
                yes,
                no,
            } => {
                lists.modes[row] = mode;
                lists.values[row] = *value;
                lists.ints[2][row] = *feature as i64;
                lists.ints[3][row] = i64::from(*nan_passes);
                lists.ints[4][row] = yes.write(tree, lists);
                lists.ints[5][row] = no.write(tree, lists);
            }
        }
        own
    }
}

#[derive(Default)]
struct Lists {
    next: i64,
    modes: Vec<&'static str>,
    values: Vec<f32>,
    ints: [Vec<i64>; 6],
    votes: [Vec<i64>; 3],
    weights: Vec<f32>,
}

#[test]
fn ensembles_add_the_votes_of_the_leaves_that_rows_reach() {
    cases(|rng| {
        let (features, targets) = (rng.size(1, 4), rng.size(1, 3));
        let (deepest, modes) = (rng.size(0, 5), if rng.bool() { &MODES[..1] } else { &MODES });
        let trees: Vec<Tree> = (0..rng.size(1, 9))
            .map(|_| grow(rng, deepest, features, targets, modes))
            .collect();
        let rows = rng.size(0, 150);
        let x: Vec<f32> = (0..rows * features)
            .map(|_| match rng.size(0, 9) {
                0 => f32::NAN,
                _ => rng.size(0, 10) as f32 / 2.0 - 2.5,
            })
            .collect();
        let mut lists = Lists::default();
        for (number, tree) in trees.iter().enumerate() {
            lists.next = 0;
            tree.write(number as i64, &mut lists);
        }
        let how = pick(rng, &["SUM", "AVERAGE", "MIN", "MAX"]);
        let mut expected = Vec::new();
        for row in x.chunks(features) {
            for target in 0..targets {
                let votes = trees.iter().flat_map(|tree| tree.votes(row));
                let votes: Vec<f64> = votes
                    .filter(|(voted, _)| *voted == target)
                    .map(|(_, weight)| (*weight).into())
                    .collect();
                let sum: f64 = votes.iter().sum();
                expected.push(match how {
                    _ if votes.is_empty() => 0.0,
                    "SUM" => sum,
                    "AVERAGE" => sum / trees.len() as f64,
                    "MIN" => votes.iter().copied().fold(f64::INFINITY, f64::min),
                    _ => votes.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                } as f32);
            }
        }
        const NAMES: [&str; 6] = [
            "nodes_treeids",
            "nodes_nodeids",
            "nodes_featureids",
            "nodes_missing_value_tracks_true",
            "nodes_truenodeids",
            "nodes_falsenodeids",
        ];
        let mut node = TestNode::of(OperatorId::new("ai.onnx.ml", "TreeEnsembleRegressor", 3))
            .attr("n_targets", targets as i64)
            .attr("aggregate_function", how)
            .attr("nodes_modes", &lists.modes[..])
            .attr("nodes_values", &lists.values[..])
            .attr("target_weights", &lists.weights[..]);
        for (name, list) in NAMES.iter().zip(&lists.ints) {
            node = node.attr(name, &list[..]);
        }
        for (name, list) in ["target_treeids", "target_nodeids", "target_ids"]
            .iter()
            .zip(&lists.votes)
        {
            node = node.attr(name, &list[..]);
        }
        let result = node.input(f32s(&[rows, features], &x)).run1().unwrap();
        crate::ops::testing::assert_tensor_close(&result, &f32s(&[rows, targets], &expected), 1e-5);
    });
}

#[test]
fn n_grams_are_counted_at_every_start_and_distance() {
    cases(|rng| {
        let longest = rng.size(1, 3);
        let shortest = rng.size(1, longest);
        let skips = rng.size(0, 3);
        // Every n-gram of two tokens, in the order of their lengths.
        let mut pool: Vec<Vec<i64>> = Vec::new();
        let mut starts = Vec::new();
        let mut flat_pool: Vec<i64> = Vec::new();
        for length in 1..=longest {
            starts.push(flat_pool.len() as i64);
            for number in 0..1usize << length {
                let gram: Vec<i64> = (0..length).map(|bit| (number >> bit & 1) as i64).collect();
                flat_pool.extend(&gram);
                pool.push(gram);
            }
        }
        let (rows, columns) = (rng.size(0, 3), rng.size(0, 7));
        let x: Vec<i64> = (0..rows * columns).map(|_| rng.size(0, 2) as i64).collect();
        let mut expected = vec![0f32; rows * pool.len()];
        for row in 0..rows {
            let tokens = &x[row * columns..(row + 1) * columns];
            for (column, gram) in pool.iter().enumerate().filter(|(_, gram)| gram.len() >= shortest) {
                // One token has no distance to count by.
                let distances = if gram.len() == 1 { 1..=1 } else { 1..=skips + 1 };
                for distance in distances {
                    for start in 0..columns {
                        let found = gram
                            .iter()
                            .enumerate()
                            .all(|(at, token)| tokens.get(start + at * distance) == Some(token));
                        expected[row * pool.len() + column] += f32::from(u8::from(found));
                    }
                }
            }
        }
        let indexes: Vec<i64> = (0..pool.len() as i64).collect();
        let node = TestNode::new("TfIdfVectorizer", 9)
            .attr("mode", "TF")
            .attr("min_gram_length", shortest as i64)
            .attr("max_gram_length", longest as i64)
            .attr("max_skip_count", skips as i64)
            .attr("ngram_counts", &starts[..])
            .attr("ngram_indexes", &indexes[..])
            .attr("pool_int64s", &flat_pool[..])
            .input(i64s(&[rows, columns], &x));
        assert_eq!(node.run1().unwrap(), f32s(&[rows, pool.len()], &expected));
    });
}
