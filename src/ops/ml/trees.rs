//! Tree ensembles: TreeEnsemble (version 5) and TreeEnsembleClassifier, TreeEnsembleRegressor (versions 1, 3 and 5). Features
//! are compared as `f32`, or as `f64` where the features or the thresholds are.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, mismatch},
    },
    scores::{Labels, Transform, features_f32, first, infer_classifier, infer_regressor, largest, reserve, rows_of},
};
use crate::{
    cpu::{
        forest::{Aggregate, Branch, Child, Forest, Score, Test, Vote},
        kernel::CpuKernel,
    },
    error::{Error, ErrorCode, Result},
    graph::{Attributes, Node},
    tensor::{DType, Tensor},
};

/// Targets that an ensemble has at most.
const MAX_TARGETS: usize = 1 << 24;

/// Trees over features of either type.
#[derive(Debug)]
enum Trees {
    F32(Forest<f32>),
    F64(Forest<f64>),
}

/// A description of trees, as the attributes hold it.
#[derive(Default)]
struct Parts {
    branches: Vec<Branch>,
    leaves: Vec<Vec<Vote>>,
    roots: Vec<Child>,
    /// Whether thresholds or weights are f64.
    double: bool,
}

impl Parts {
    fn lay_out(&self, features: DType, targets: usize) -> Result<Trees> {
        let (branches, leaves, roots) = (&self.branches, &self.leaves, &self.roots);
        Ok(if self.double || features == DType::F64 {
            Trees::F64(Forest::new(branches, leaves, roots, targets)?)
        } else {
            Trees::F32(Forest::new(branches, leaves, roots, targets)?)
        })
    }
}

impl Trees {
    fn is_f64(&self) -> bool {
        matches!(self, Trees::F64(_))
    }

    fn features(&self) -> usize {
        match self {
            Trees::F32(forest) => forest.features(),
            Trees::F64(forest) => forest.features(),
        }
    }

    fn score(&self, x: &Tensor, how: Aggregate, mut each: impl FnMut(&Score)) -> Result<()> {
        let (_, columns) = rows_of(x.shape())?;
        match self {
            Trees::F32(forest) => forest.score(&features_f32(x)?, columns, how, |_, score| each(score)),
            Trees::F64(forest) => forest.score(&x.to_f64s()?, columns, how, |_, score| each(score)),
        }
    }
}

/// Trees that are laid out when the first kernel is made, and then shared by all.
#[derive(Debug, Default)]
struct Cell(OnceLock<Arc<Trees>>);

impl Cell {
    fn get(&self, ctx: &CpuLowering<'_>, make: impl FnOnce() -> Result<Trees>) -> Result<Arc<Trees>> {
        let wide = ctx.input(0)?.dtype == DType::F64;
        let trees = match self.0.get() {
            Some(trees) if trees.is_f64() || !wide => trees.clone(),
            _ => {
                let trees = Arc::new(make()?);
                // Whoever comes first is kept; both are alike.
                let _ = self.0.set(trees.clone());
                trees
            }
        };
        let (rows, columns) = rows_of(&ctx.input(0)?.shape)?;
        if columns < trees.features() && rows > 0 {
            return Err(mismatch("the rows have fewer features than the trees test")
                .expected(format!("at least {}", trees.features()))
                .actual(columns.to_string()));
        }
        Ok(trees)
    }
}

/// A list of floats, or the tensor that may be given in its place, and whether that is of f64.
fn numbers(attributes: &Attributes, name: &str) -> Result<(Vec<f64>, bool)> {
    if let Some(tensor) = attributes.tensor(&format!("{name}_as_tensor"))? {
        return Ok((tensor.to_f64s()?, tensor.dtype() == DType::F64));
    }
    let list = attributes.floats(name)?.unwrap_or_default();
    Ok((list.iter().map(|&value| value.into()).collect(), false))
}

/// A list of integers that must be as long as the ensemble has nodes; missing ones are as `default`.
fn per_node<'a>(attributes: &'a Attributes, name: &str, count: usize) -> Result<&'a [i64]> {
    let list = attributes.ints(name)?.unwrap_or_default();
    check_length(name, list.len(), count)?;
    Ok(list)
}

fn check_length(name: &str, length: usize, count: usize) -> Result<()> {
    if length == count {
        return Ok(());
    }
    Err(invalid(format!("attribute {name} has the wrong length"))
        .expected(count.to_string())
        .actual(length.to_string()))
}

fn position(name: &str, value: i64) -> Result<usize> {
    usize::try_from(value).map_err(|_| invalid(format!("attribute {name} holds no position")).actual(value.to_string()))
}

/// Reads the trees of a classifier or regressor. Votes are in the attributes that begin with `votes`.
fn classic_parts(attributes: &Attributes, votes: &str) -> Result<Parts> {
    let modes = attributes.strings("nodes_modes")?.unwrap_or_default();
    let count = modes.len();
    let ints = |name: &str| per_node(attributes, name, count);
    let (tree_ids, node_ids) = (ints("nodes_treeids")?, ints("nodes_nodeids")?);
    let (features, yes, no) = (
        ints("nodes_featureids")?,
        ints("nodes_truenodeids")?,
        ints("nodes_falsenodeids")?,
    );
    let (values, double_values) = numbers(attributes, "nodes_values")?;
    check_length("nodes_values", values.len(), count)?;
    let nan_passes = match attributes.ints("nodes_missing_value_tracks_true")? {
        Some(list) if !list.is_empty() => Some(ints("nodes_missing_value_tracks_true")?),
        _ => None,
    };
    let mut parts = Parts::default();
    let mut nodes: HashMap<(i64, i64), Child> = HashMap::with_capacity(count);
    let (mut branch_count, mut known_trees) = (0, HashSet::new());
    for index in 0..count {
        let child = if modes[index] == "LEAF" {
            parts.leaves.push(Vec::new());
            Child::Leaf(parts.leaves.len() - 1)
        } else {
            branch_count += 1;
            Child::Branch(branch_count - 1)
        };
        if nodes.insert((tree_ids[index], node_ids[index]), child).is_some() {
            return Err(invalid("a tree has two nodes of one number")
                .actual(format!("node {} of tree {}", node_ids[index], tree_ids[index])));
        }
        // A tree's first node is its root.
        if known_trees.insert(tree_ids[index]) {
            parts.roots.push(child);
        }
    }
    let find = |tree: i64, node: i64| {
        let missing = || invalid("a tree lacks a node that is named").actual(format!("node {node} of tree {tree}"));
        nodes.get(&(tree, node)).copied().ok_or_else(missing)
    };
    for index in (0..count).filter(|&index| modes[index] != "LEAF") {
        let value = values[index];
        let test = match modes[index] {
            "BRANCH_LEQ" => Test::AtMost(value),
            "BRANCH_LT" => Test::Below(value),
            "BRANCH_GTE" => Test::AtLeast(value),
            "BRANCH_GT" => Test::Above(value),
            "BRANCH_EQ" => Test::Equal(value),
            "BRANCH_NEQ" => Test::NotEqual(value),
            other => return Err(invalid("attribute nodes_modes names no mode").actual(other)),
        };
        parts.branches.push(Branch {
            feature: position("nodes_featureids", features[index])?,
            test,
            nan_passes: nan_passes.is_some_and(|list| list[index] != 0),
            yes: find(tree_ids[index], yes[index])?,
            no: find(tree_ids[index], no[index])?,
        });
    }
    let vote_name = |what: &str| format!("{votes}_{what}");
    let (weights, double_weights) = numbers(attributes, &vote_name("weights"))?;
    let of_vote = |what: &str| per_node(attributes, &vote_name(what), weights.len());
    let (trees, leaves, targets) = (of_vote("treeids")?, of_vote("nodeids")?, of_vote("ids")?);
    for (index, &weight) in weights.iter().enumerate() {
        let target = position(&vote_name("ids"), targets[index])?;
        if let Child::Leaf(leaf) = find(trees[index], leaves[index])? {
            parts.leaves[leaf].push(Vote { target, weight });
        }
    }
    parts.double = double_values || double_weights;
    Ok(parts)
}

/// Reads the trees of a `TreeEnsemble`.
fn ensemble_parts(attributes: &Attributes) -> Result<Parts> {
    let tensor = |name: &str| {
        let found = attributes.tensor(name)?;
        found.ok_or_else(|| invalid(format!("attribute {name} is missing")))
    };
    let (modes, splits, weights) = (tensor("nodes_modes")?, tensor("nodes_splits")?, tensor("leaf_weights")?);
    let double = splits.dtype() == DType::F64 || weights.dtype() == DType::F64;
    let (modes, splits, weights) = (modes.to_i64s()?, splits.to_f64s()?, weights.to_f64s()?);
    let count = modes.len();
    check_length("nodes_splits", splits.len(), count)?;
    let ints = |name: &str| per_node(attributes, name, count);
    let features = ints("nodes_featureids")?;
    let (yes, yes_leaf) = (ints("nodes_truenodeids")?, ints("nodes_trueleafs")?);
    let (no, no_leaf) = (ints("nodes_falsenodeids")?, ints("nodes_falseleafs")?);
    let nan_passes = match attributes.ints("nodes_missing_value_tracks_true")? {
        Some(list) if !list.is_empty() => Some(ints("nodes_missing_value_tracks_true")?),
        _ => None,
    };
    let members = match attributes.tensor("membership_values")? {
        Some(tensor) => tensor.to_f64s()?,
        None => Vec::new(),
    };
    let mut sets = members.split(|value| value.is_nan());
    let child = |name: &str, position_of: i64, is_leaf: i64| -> Result<Child> {
        let position = position(name, position_of)?;
        Ok(match is_leaf {
            0 => Child::Branch(position),
            _ => Child::Leaf(position),
        })
    };
    let mut parts = Parts {
        double,
        ..Parts::default()
    };
    for index in 0..count {
        let value = splits[index];
        let test = match modes[index] {
            0 => Test::AtMost(value),
            1 => Test::Below(value),
            2 => Test::AtLeast(value),
            3 => Test::Above(value),
            4 => Test::Equal(value),
            5 => Test::NotEqual(value),
            6 => {
                let set = sets.next().filter(|_| !members.is_empty());
                Test::Member(
                    set.ok_or_else(|| invalid("attribute membership_values has too few sets"))?
                        .to_vec(),
                )
            }
            other => {
                return Err(invalid("attribute nodes_modes holds no mode")
                    .expected("0 to 6")
                    .actual(other.to_string()));
            }
        };
        parts.branches.push(Branch {
            feature: position("nodes_featureids", features[index])?,
            test,
            nan_passes: nan_passes.is_some_and(|list| list[index] != 0),
            yes: child("nodes_truenodeids", yes[index], yes_leaf[index])?,
            no: child("nodes_falsenodeids", no[index], no_leaf[index])?,
        });
    }
    let targets = per_node(attributes, "leaf_targetids", weights.len())?;
    for (&target, &weight) in targets.iter().zip(&weights) {
        let target = position("leaf_targetids", target)?;
        parts.leaves.push(vec![Vote { target, weight }]);
    }
    let roots = attributes.ints("tree_roots")?.unwrap_or_default();
    for &root in roots {
        parts.roots.push(Child::Branch(position("tree_roots", root)?));
    }
    Ok(parts)
}

fn target_count(node: &Node) -> Result<usize> {
    let count = node.attributes.int("n_targets")?.unwrap_or(1);
    let found = usize::try_from(count)
        .ok()
        .filter(|&count| (1..=MAX_TARGETS).contains(&count));
    found.ok_or_else(|| {
        Error::new(
            ErrorCode::LimitExceeded,
            "attribute n_targets is outside what is supported",
        )
        .expected(format!("1 to {MAX_TARGETS}"))
        .actual(count.to_string())
    })
}

/// ONNX-ML `TreeEnsembleRegressor` and `TreeEnsemble`: for each row of `X` `[n, features]`, the aggregate of the leaves' votes
/// for each target, `[n, targets]`. The first makes f32, the second the type of its input.
///
/// Of several targets, one that no leaf of a row votes for is 0 there, whatever its base value, as ONNX Runtime has it.
#[derive(Debug)]
struct TreeRegressor {
    targets: usize,
    aggregate: Aggregate,
    transform: Transform,
    base: Vec<f64>,
    classic: bool,
    trees: Cell,
}

/// Makes a [`TreeRegressor`] of a `TreeEnsembleRegressor`.
pub fn make_regressor(node: &Node) -> Result<Box<dyn Operator>> {
    let targets = target_count(node)?;
    let aggregate = match node.attributes.string("aggregate_function")?.unwrap_or("SUM") {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(invalid("attribute aggregate_function names no function").actual(other)),
    };
    let (base, _) = numbers(&node.attributes, "base_values")?;
    if !base.is_empty() {
        check_length("base_values", base.len(), targets)?;
    }
    Ok(Box::new(TreeRegressor {
        targets,
        aggregate,
        transform: Transform::of(node)?,
        base,
        classic: true,
        trees: Cell::default(),
    }))
}

/// Makes a [`TreeRegressor`] of a `TreeEnsemble`.
pub fn make_ensemble(node: &Node) -> Result<Box<dyn Operator>> {
    let aggregate = match node.attributes.int("aggregate_function")?.unwrap_or(1) {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return Err(invalid("attribute aggregate_function is not 0 to 3").actual(other.to_string())),
    };
    Ok(Box::new(TreeRegressor {
        targets: target_count(node)?,
        aggregate,
        transform: Transform::numbered(node.attributes.int("post_transform")?.unwrap_or(0))?,
        base: Vec::new(),
        classic: false,
        trees: Cell::default(),
    }))
}

impl Operator for TreeRegressor {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = if self.classic { DType::F32 } else { ctx.dtype(0)? };
        infer_regressor(ctx, dtype, self.targets)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (dtype, targets) = (ctx.input(0)?.dtype, self.targets);
        let attributes = &ctx.node.attributes;
        let trees = self.trees.get(ctx, || {
            let parts = if self.classic {
                classic_parts(attributes, "target")?
            } else {
                ensemble_parts(attributes)?
            };
            parts.lay_out(dtype, targets)
        })?;
        let made = if self.classic { DType::F32 } else { dtype };
        let (aggregate, transform, base) = (self.aggregate, self.transform, self.base.clone());
        Ok(CpuKernel::dynamic("tree_ensemble", move |inputs| {
            let x = first(inputs)?;
            let shape = [rows_of(x.shape())?.0, targets];
            let mut values = reserve::<f64>(&shape)?;
            trees.score(x, aggregate, |score| {
                let start = values.len();
                values.extend_from_slice(&score.values);
                let row = &mut values[start..];
                for (index, (value, base)) in row.iter_mut().zip(&base).enumerate() {
                    if targets == 1 || score.voted[index] {
                        *value += base;
                    }
                }
                transform.apply(row);
            })?;
            values.resize(shape[0] * targets, 0.0);
            Ok(vec![Tensor::from_f64s(made, &shape, &values)?])
        }))
    }
}

/// ONNX-ML `TreeEnsembleClassifier`: for each row of `X` `[n, features]`, the label of the class with most votes, `[n]`, and the
/// classes' scores, f32 `[n, classes]`.
///
/// A model of two classes whose leaves vote for but one of them has one score, that of the second class: a probability
/// that decides at 0.5 when no weight is negative, else a margin that decides at 0.
/// Where leaves vote for both, the class with more votes is chosen, as the document says. (ONNX Runtime then compares the
/// larger score with 0.5 or 0, and answers 1 or 0 whatever the labels are.)
#[derive(Debug)]
struct TreeClassifier {
    labels: Arc<Labels>,
    decision: Decision,
    trees: Cell,
}

/// How scores become a class.
#[derive(Clone, Debug)]
struct Decision {
    transform: Transform,
    base: Vec<f64>,
    /// The class that all votes are for, when there are two classes and one score.
    only: Option<usize>,
    /// Whether no weight is negative.
    probabilities: bool,
}

/// Makes [`TreeClassifier`].
pub fn make_classifier(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let labels = Labels::of(attributes, "classlabels_int64s", "classlabels_strings")?;
    let (base, _) = numbers(attributes, "base_values")?;
    let one_for_both = base.len() == 1 && labels.len() == 2;
    if !base.is_empty() && !one_for_both {
        check_length("base_values", base.len(), labels.len())?;
    }
    let (weights, _) = numbers(attributes, "class_weights")?;
    let classes: HashSet<i64> = attributes
        .ints("class_ids")?
        .unwrap_or_default()
        .iter()
        .copied()
        .collect();
    let only = match classes.iter().next() {
        Some(&class) if classes.len() == 1 && labels.len() == 2 => Some(position("class_ids", class)?),
        _ => None,
    };
    Ok(Box::new(TreeClassifier {
        labels: Arc::new(labels),
        decision: Decision {
            transform: Transform::of(node)?,
            base,
            only,
            probabilities: weights.iter().all(|&weight| weight >= 0.0),
        },
        trees: Cell::default(),
    }))
}

impl Decision {
    /// Decides on one row: gives its class, and appends its scores.
    fn decide(&self, score: &Score, double: bool, scores: &mut Vec<f64>) -> usize {
        // Votes that tie as numbers of the model's precision are a tie.
        let round = |value: f64| if double { value } else { (value as f32).into() };
        let start = scores.len();
        if let Some(only) = self.only.filter(|&only| only < score.values.len()) {
            let value = round(score.values[only] + self.base.last().copied().unwrap_or(0.0));
            if only == 0 {
                scores.extend(self.transform.of_two(value, self.probabilities));
            } else {
                scores.extend([0.0, value]);
                self.transform.apply(&mut scores[start..]);
            }
            return usize::from(value > if self.probabilities { 0.5 } else { 0.0 });
        }
        scores.extend_from_slice(&score.values);
        let row = &mut scores[start..];
        row.iter_mut().zip(&self.base).for_each(|(value, base)| *value += base);
        row.iter_mut().for_each(|value| *value = round(*value));
        let class = largest(row, |class| score.voted[class] || !self.base.is_empty());
        self.transform.apply(row);
        class
    }
}

impl Operator for TreeClassifier {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_classifier(ctx, &self.labels, self.labels.len())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (dtype, attributes) = (ctx.input(0)?.dtype, &ctx.node.attributes);
        let trees = self.trees.get(ctx, || {
            classic_parts(attributes, "class")?.lay_out(dtype, self.labels.len())
        })?;
        let (labels, decision) = (self.labels.clone(), self.decision.clone());
        Ok(CpuKernel::dynamic("tree_ensemble", move |inputs| {
            let x = first(inputs)?;
            let shape = [rows_of(x.shape())?.0, labels.len()];
            let (mut scores, mut classes) = (reserve::<f64>(&shape)?, reserve(&shape[..1])?);
            let double = trees.is_f64();
            trees.score(x, Aggregate::Sum, |score| {
                classes.push(decision.decide(score, double, &mut scores))
            })?;
            classes.resize(shape[0], 0);
            scores.resize(shape[0] * shape[1], 0.0);
            Ok(vec![
                labels.pick(&classes)?,
                Tensor::from_f64s(DType::F32, &shape, &scores)?,
            ])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::OperatorId,
        ops::testing::{TestNode, f32s, i64s, tensor},
    };

    /// One tree: `x[0] <= 0.5` leads to the first leaf, else to the second.
    fn stump(name: &str) -> TestNode {
        TestNode::of(OperatorId::new("ai.onnx.ml", name, 3))
            .attr("nodes_treeids", [0i64, 0, 0])
            .attr("nodes_nodeids", [0i64, 1, 2])
            .attr("nodes_featureids", [0i64, 0, 0])
            .attr("nodes_modes", ["BRANCH_LEQ", "LEAF", "LEAF"])
            .attr("nodes_values", [0.5f32, 0.0, 0.0])
            .attr("nodes_truenodeids", [1i64, 0, 0])
            .attr("nodes_falsenodeids", [2i64, 0, 0])
    }

    fn votes(node: TestNode, kind: &str, ids: [i64; 2], weights: [f32; 2]) -> TestNode {
        node.attr(&format!("{kind}_treeids"), [0i64, 0])
            .attr(&format!("{kind}_nodeids"), [1i64, 2])
            .attr(&format!("{kind}_ids"), ids)
            .attr(&format!("{kind}_weights"), weights)
    }

    #[test]
    fn one_score_decides_between_two_classes() {
        let node = |ids: [i64; 2], weights: [f32; 2]| {
            let node = votes(stump("TreeEnsembleClassifier"), "class", ids, weights);
            let x = f32s(&[2, 1], &[0.0, 1.0]);
            node.attr("classlabels_int64s", [7i64, 9])
                .outputs(2)
                .input(x)
                .run()
                .unwrap()
        };
        let probabilities = node([0, 0], [0.25, 0.75]);
        assert_eq!(
            probabilities,
            [i64s(&[2], &[7, 9]), f32s(&[2, 2], &[0.75, 0.25, 0.25, 0.75])]
        );
        let margins = node([0, 0], [-0.25, 0.25]);
        assert_eq!(
            margins,
            [i64s(&[2], &[7, 9]), f32s(&[2, 2], &[0.25, -0.25, -0.25, 0.25])]
        );
        let both = node([1, 0], [0.25, 0.25]);
        assert_eq!(both, [i64s(&[2], &[9, 7]), f32s(&[2, 2], &[0.0, 0.25, 0.25, 0.0])]);
    }

    #[test]
    fn regressors_transform_one_score_too_and_take_any_numbers() {
        let node = |x: Tensor| {
            let node = votes(stump("TreeEnsembleRegressor"), "target", [0, 0], [0.0, 20.0]);
            node.attr("n_targets", 1)
                .attr("post_transform", "LOGISTIC")
                .input(x)
                .run1()
        };
        assert_eq!(node(i64s(&[2, 1], &[0, 1])).unwrap(), f32s(&[2, 1], &[0.5, 1.0]));
        assert_eq!(node(tensor(&[1], &[0.0f64])).unwrap(), f32s(&[1, 1], &[0.5]));
        assert_eq!(node(f32s(&[0, 1], &[])).unwrap(), f32s(&[0, 1], &[]));
        assert!(node(f32s(&[1, 0], &[])).is_err());
        assert!(node(f32s(&[1, 1, 1], &[0.0])).is_err());
    }

    #[test]
    fn base_values_are_added_where_there_are_votes() {
        let node = |targets: i64, ids: [i64; 2], base: &[f32]| {
            let node = votes(stump("TreeEnsembleRegressor"), "target", ids, [1.0, 2.0]);
            node.attr("n_targets", targets)
                .attr("base_values", base.to_vec())
                .input(f32s(&[2, 1], &[0.0, 1.0]))
                .run1()
                .unwrap()
        };
        assert_eq!(node(1, [0, 0], &[0.5]), f32s(&[2, 1], &[1.5, 2.5]));
        assert_eq!(node(2, [0, 1], &[10.0, 20.0]), f32s(&[2, 2], &[11.0, 0.0, 0.0, 22.0]));
    }

    #[test]
    fn broken_trees_are_errors() {
        let node = || votes(stump("TreeEnsembleRegressor"), "target", [0, 0], [1.0, 2.0]).input(f32s(&[1, 1], &[0.0]));
        assert!(node().run().is_ok());
        assert!(node().attr("nodes_truenodeids", [0i64, 0, 0]).run().is_err());
        assert!(node().attr("nodes_truenodeids", [3i64, 0, 0]).run().is_err());
        assert!(node().attr("nodes_featureids", [-1i64, 0, 0]).run().is_err());
        assert!(node().attr("nodes_featureids", [1i64, 0, 0]).run().is_err());
        assert!(node().attr("nodes_values", [0.5f32]).run().is_err());
        assert!(
            node()
                .attr("nodes_modes", ["BRANCH_ODD", "LEAF", "LEAF"])
                .run()
                .is_err()
        );
        assert!(node().attr("target_ids", [0i64, 1]).run().is_err());
        assert!(node().attr("n_targets", i64::MAX).run().is_err());
    }
}
