//! Ensembles of decision trees, laid flat: every branch is one small record that names its children, leaves are apart.
//! Everything that a walk indexes with is checked when the forest is made, so that walks end and cannot fail.

use crate::error::{Error, ErrorCode, Result};

/// What a branch asks of its feature `x`.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// `x <= value`
    AtMost(f64),
    /// `x < value`
    Below(f64),
    /// `x >= value`
    AtLeast(f64),
    /// `x > value`
    Above(f64),
    /// `x == value`
    Equal(f64),
    /// `x != value`
    NotEqual(f64),
    /// Whether `x` is one of these.
    Member(Vec<f64>),
}

/// Where a branch leads, or where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// A branch, by its position.
    Branch(usize),
    /// A leaf, by its position.
    Leaf(usize),
}

/// An inner node of a tree.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The column that is tested.
    pub feature: usize,
    /// The test.
    pub test: Test,
    /// Whether a feature that is NaN passes, besides where the test itself says so.
    pub nan_passes: bool,
    /// Where a feature goes that passes.
    pub yes: Child,
    /// Where a feature goes that does not.
    pub no: Child,
}

/// What a leaf adds to one target.
#[derive(Clone, Copy, Debug)]
pub struct Vote {
    /// The target.
    pub target: usize,
    /// The weight.
    pub weight: f64,
}

/// How the votes for one target become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// Their sum, divided by the number of trees.
    Average,
    /// Their sum.
    Sum,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

/// Numbers that features and thresholds are compared as.
pub trait Threshold: Copy + PartialOrd + Send + Sync + std::fmt::Debug {
    /// The nearest number of this type.
    fn from_f64(value: f64) -> Self;
    /// The number as f64.
    fn to_f64(self) -> f64;
    /// The largest number below; NaN below negative infinity.
    fn below(self) -> Self;
    /// Whether this is no number.
    fn is_nan(self) -> bool;
}

macro_rules! threshold {
    ($T:ty) => {
        impl Threshold for $T {
            fn from_f64(value: f64) -> $T {
                value as $T
            }

            fn to_f64(self) -> f64 {
                self.into()
            }

            fn below(self) -> $T {
                if self == <$T>::NEG_INFINITY {
                    <$T>::NAN
                } else {
                    self.next_down()
                }
            }

            fn is_nan(self) -> bool {
                <$T>::is_nan(self)
            }
        }
    };
}

threshold!(f32);
threshold!(f64);

/// A branch as it is walked: passes when `x <= value`, or `x == value`, or when `x` is NaN and NaN passes.
#[derive(Clone, Copy, Debug)]
struct Node<T> {
    value: T,
    /// The feature, with [`EQUAL`] and [`NAN_PASSES`].
    feature: u32,
    /// Where a feature goes that does not pass, and where one goes that does; [`LEAF`] marks leaves.
    children: [u32; 2],
}

const NAN_PASSES: u32 = 1 << 31;
const EQUAL: u32 = 1 << 30;
const FEATURE: u32 = EQUAL - 1;
const LEAF: u32 = 1 << 31;

/// Rows that go through one tree before the next tree is taken, so that a tree's nodes stay in the cache.
const BLOCK: usize = 64;

/// Walks that go on at once: of several rows through one tree, or of one row through several.
const GROUP: usize = 8;

/// Scores that a block has at most, when it has more than one row.
const BLOCK_SCORES: usize = 1 << 14;

/// An ensemble of decision trees over features of type `T`.
#[derive(Debug)]
pub struct Forest<T> {
    nodes: Vec<Node<T>>,
    /// Where each tree begins, as in [`Node::children`].
    roots: Vec<u32>,
    /// `votes[starts[leaf]..starts[leaf + 1]]` are a leaf's.
    starts: Vec<u32>,
    votes: Vec<(u32, T)>,
    /// The number of features that a row must have.
    features: usize,
    targets: usize,
    /// Whether all tests are `x <= value`, and NaN passes nowhere.
    plain: bool,
    /// Whether there is one target, and every leaf has one vote for it.
    single: bool,
}

/// What a forest says of one row.
#[derive(Clone, Debug)]
pub struct Score {
    /// One number for each target; 0 where no leaf voted.
    pub values: Vec<f64>,
    /// Whether a leaf voted for the target.
    pub voted: Vec<bool>,
}

impl<T: Threshold> Forest<T> {
    /// Lays out the trees that begin at `roots`. An error for a position outside its list, for a branch that leads back to
    /// itself, for a target outside `targets`, and for more nodes than can be numbered.
    pub fn new(branches: &[Branch], leaves: &[Vec<Vote>], roots: &[Child], targets: usize) -> Result<Forest<T>> {
        let order = depth_first(branches, leaves.len(), roots)?;
        let mut forest = Forest {
            nodes: Vec::with_capacity(branches.len()),
            roots: Vec::with_capacity(roots.len()),
            starts: vec![0],
            votes: Vec::new(),
            features: 0,
            targets,
            plain: true,
            single: targets == 1 && leaves.iter().all(|votes| votes.len() == 1),
        };
        for vote in leaves.iter().flatten() {
            if vote.target >= targets {
                return Err(invalid("a leaf votes for a target that there is not")
                    .expected(format!("below {targets}"))
                    .actual(vote.target.to_string()));
            }
        }
        for votes in leaves {
            let votes = votes.iter().map(|vote| (vote.target as u32, T::from_f64(vote.weight)));
            forest.votes.extend(votes);
            forest.starts.push(number(forest.votes.len())?);
        }
        number(leaves.len())?;
        // Membership takes more than one node, so positions are known only when all nodes before are laid out.
        let mut positions = vec![0u32; branches.len()];
        let mut next = 0usize;
        for &index in &order {
            positions[index] = number(next)?;
            next = next.saturating_add(room(&branches[index].test));
        }
        let place = |child: Child| match child {
            Child::Branch(index) => positions[index],
            Child::Leaf(index) => index as u32 | LEAF,
        };
        forest.roots = roots.iter().map(|&root| place(root)).collect();
        for &index in &order {
            let branch = &branches[index];
            number(branch.feature)
                .ok()
                .filter(|&feature| feature <= FEATURE)
                .ok_or_else(|| {
                    invalid("a branch tests a feature of too high a number").actual(branch.feature.to_string())
                })?;
            forest.features = forest.features.max(branch.feature + 1);
            forest.place(branch, [place(branch.no), place(branch.yes)]);
            // Nodes that are not needed are never reached.
            let unused = forest.node(0, 0, T::from_f64(0.0), [LEAF, LEAF]);
            forest
                .nodes
                .resize(positions[index] as usize + room(&branch.test), unused);
        }
        forest.plain = forest.nodes.iter().all(|node| node.feature <= FEATURE);
        Ok(forest)
    }

    /// The number of features that a row must have.
    pub fn features(&self) -> usize {
        self.features
    }

    fn node(&self, feature: usize, flags: u32, value: T, children: [u32; 2]) -> Node<T> {
        Node {
            value,
            feature: feature as u32 | flags,
            children,
        }
    }

    /// Adds the nodes of one branch; `children` are where it goes when the test fails and when it passes.
    fn place(&mut self, branch: &Branch, [no, yes]: [u32; 2]) {
        let nan = |passes: bool| if passes { NAN_PASSES } else { 0 };
        let (feature, passes) = (branch.feature, branch.nan_passes);
        let round = |value: &f64| T::from_f64(*value);
        let node = match &branch.test {
            Test::AtMost(value) => self.node(feature, nan(passes), round(value), [no, yes]),
            Test::Below(value) => self.node(feature, nan(passes), round(value).below(), [no, yes]),
            // The opposite tests, with the children changed about.
            Test::AtLeast(value) => self.node(feature, nan(!passes), round(value).below(), [yes, no]),
            Test::Above(value) => self.node(feature, nan(!passes), round(value), [yes, no]),
            Test::Equal(value) => self.node(feature, EQUAL | nan(passes), round(value), [no, yes]),
            Test::NotEqual(value) => self.node(feature, EQUAL, round(value), [yes, no]),
            Test::Member(values) => {
                let mut values: Vec<T> = values.iter().map(round).filter(|value| !value.is_nan()).collect();
                values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
                values.dedup();
                return self.place_search(feature, nan(passes), &values, [no, yes]);
            }
        };
        self.nodes.push(node);
    }

    /// Adds a binary search for a feature among sorted values. NaN, which is not at most anything, ends at the last.
    fn place_search(&mut self, feature: usize, nan: u32, values: &[T], children: [u32; 2]) {
        let at = self.nodes.len();
        match values {
            [] => {
                let never = T::from_f64(f64::NAN);
                self.nodes.push(self.node(feature, EQUAL | nan, never, children));
            }
            [value] => self.nodes.push(self.node(feature, EQUAL | nan, *value, children)),
            _ => {
                let (low, high) = values.split_at(values.len() / 2);
                self.nodes
                    .push(self.node(feature, 0, low[low.len() - 1], [0, at as u32 + 1]));
                self.place_search(feature, nan, low, children);
                self.nodes[at].children[0] = self.nodes.len() as u32;
                self.place_search(feature, nan, high, children);
            }
        }
    }

    /// The leaves that rows end at, each in its tree. Several walks go on at once, so that their memory is waited for at once.
    fn leaves<const WALKS: usize>(&self, roots: [u32; WALKS], rows: [&[T]; WALKS]) -> [u32; WALKS] {
        if self.plain {
            self.walk(roots, rows, |node, x| x <= node.value)
        } else {
            self.walk(roots, rows, |node, x| {
                let equal = (node.feature & EQUAL == 0) | (x >= node.value);
                ((x <= node.value) & equal) | (x.is_nan() & (node.feature & NAN_PASSES != 0))
            })
        }
    }

    fn walk<const WALKS: usize>(
        &self,
        mut at: [u32; WALKS],
        rows: [&[T]; WALKS],
        passes: impl Fn(&Node<T>, T) -> bool,
    ) -> [u32; WALKS] {
        // A number of a branch is below that of a leaf, so the smallest says whether a walk still goes on.
        while at.iter().fold(LEAF, |least, &at| least.min(at)) < LEAF {
            for (at, row) in at.iter_mut().zip(&rows) {
                if *at < LEAF {
                    let node = &self.nodes[*at as usize];
                    let x = row[(node.feature & FEATURE) as usize];
                    *at = node.children[usize::from(passes(node, x))];
                }
            }
        }
        at.map(|at| at & !LEAF)
    }

    fn vote(&self, leaf: u32, score: &mut Score, how: Aggregate) {
        let leaf = leaf as usize;
        if self.single && how == Aggregate::Sum {
            score.values[0] += self.votes[leaf].1.to_f64();
            return;
        }
        let range = self.starts[leaf] as usize..self.starts[leaf + 1] as usize;
        for &(target, weight) in &self.votes[range] {
            score.add(target as usize, weight.to_f64(), how);
        }
    }

    /// Scores the `rows` of `columns` features each, and gives each row's number and score to `each`.
    ///
    /// An error when rows have fewer features than are tested.
    pub fn score(&self, rows: &[T], columns: usize, how: Aggregate, mut each: impl FnMut(usize, &Score)) -> Result<()> {
        if columns < self.features {
            return Err(Error::new(
                ErrorCode::ShapeMismatch,
                "the rows have fewer features than the trees test",
            )
            .expected(format!("at least {}", self.features))
            .actual(columns.to_string()));
        }
        let mut scores: Vec<Score> = Vec::new();
        if columns == 0 {
            return Ok(());
        }
        let block_rows = (BLOCK_SCORES / self.targets.max(1)).clamp(1, BLOCK);
        for (block, rows) in rows.chunks(block_rows.saturating_mul(columns)).enumerate() {
            let rows: Vec<&[T]> = rows.chunks_exact(columns).collect();
            scores.resize_with(rows.len().max(scores.len()), || Score {
                values: vec![0.0; self.targets],
                voted: vec![false; self.targets],
            });
            let scores = &mut scores[..rows.len()];
            for score in &mut *scores {
                score.values.fill(0.0);
                score.voted.fill(false);
            }
            let grouped = rows.len() / GROUP * GROUP;
            for &root in &self.roots {
                let groups = rows[..grouped].chunks_exact(GROUP).zip(scores.chunks_exact_mut(GROUP));
                for (group, scores) in groups {
                    let leaves = self.leaves::<GROUP>([root; GROUP], std::array::from_fn(|index| group[index]));
                    for (leaf, score) in leaves.into_iter().zip(scores) {
                        self.vote(leaf, score, how);
                    }
                }
            }
            for (row, score) in rows.iter().zip(&mut *scores).skip(grouped) {
                let (groups, rest) = self.roots.as_chunks::<GROUP>();
                for &roots in groups {
                    let leaves = self.leaves(roots, [*row; GROUP]);
                    leaves.into_iter().for_each(|leaf| self.vote(leaf, score, how));
                }
                for &root in rest {
                    let [leaf] = self.leaves([root], [*row]);
                    self.vote(leaf, score, how);
                }
            }
            for (index, score) in scores.iter_mut().enumerate() {
                if self.single && !self.roots.is_empty() {
                    score.voted[0] = true;
                }
                if how == Aggregate::Average {
                    let count = self.roots.len() as f64;
                    score.values.iter_mut().for_each(|value| *value /= count.max(1.0));
                }
                each(block * block_rows + index, score);
            }
        }
        Ok(())
    }
}

impl Score {
    fn add(&mut self, target: usize, weight: f64, how: Aggregate) {
        let value = &mut self.values[target];
        *value = match how {
            Aggregate::Average | Aggregate::Sum => *value + weight,
            Aggregate::Min if self.voted[target] => value.min(weight),
            Aggregate::Max if self.voted[target] => value.max(weight),
            Aggregate::Min | Aggregate::Max => weight,
        };
        self.voted[target] = true;
    }
}

/// The branches below `roots`, each once and before those below it, a failed test's before a passed one's.
fn depth_first(branches: &[Branch], leaves: usize, roots: &[Child]) -> Result<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        Above,
        Done,
    }
    enum Step {
        Enter(usize),
        Leave(usize),
    }
    let check = |child: Child| match child {
        Child::Branch(index) if index < branches.len() => Ok(Some(index)),
        Child::Leaf(index) if index < leaves => Ok(None),
        other => Err(invalid("a tree leads to a node that there is not").actual(format!("{other:?}"))),
    };
    let mut seen = vec![Seen::No; branches.len()];
    let mut order = Vec::with_capacity(branches.len());
    for &root in roots {
        let mut stack: Vec<Step> = check(root)?.map(Step::Enter).into_iter().collect();
        while let Some(step) = stack.pop() {
            let index = match step {
                Step::Leave(index) => {
                    seen[index] = Seen::Done;
                    continue;
                }
                Step::Enter(index) => index,
            };
            match seen[index] {
                Seen::Done => continue,
                Seen::Above => {
                    return Err(invalid("a branch of a tree leads back to itself").actual(format!("branch {index}")));
                }
                Seen::No => {}
            }
            seen[index] = Seen::Above;
            order.push(index);
            stack.push(Step::Leave(index));
            for child in [branches[index].yes, branches[index].no] {
                stack.extend(check(child)?.map(Step::Enter));
            }
        }
    }
    Ok(order)
}

/// Nodes that a test takes at most: a binary search among n values takes 2n - 1.
fn room(test: &Test) -> usize {
    match test {
        Test::Member(values) => values.len().saturating_mul(2).max(1),
        _ => 1,
    }
}

/// A position as nodes hold it.
fn number(position: usize) -> Result<u32> {
    u32::try_from(position)
        .ok()
        .filter(|&position| position < LEAF)
        .ok_or_else(|| Error::new(ErrorCode::LimitExceeded, "an ensemble has more than 2^31 nodes"))
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorCode::InvalidGraph, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(feature: usize, test: Test, nan_passes: bool, yes: Child, no: Child) -> Branch {
        Branch {
            feature,
            test,
            nan_passes,
            yes,
            no,
        }
    }

    fn votes(weights: &[f64]) -> Vec<Vec<Vote>> {
        weights.iter().map(|&weight| vec![Vote { target: 0, weight }]).collect()
    }

    fn sums(forest: &Forest<f32>, rows: &[f32], columns: usize) -> Vec<f64> {
        let mut sums = Vec::new();
        let each = |_: usize, score: &Score| sums.push(score.values[0]);
        forest.score(rows, columns, Aggregate::Sum, each).unwrap();
        sums
    }

    #[test]
    fn every_test_sends_numbers_and_nan_where_it_says() {
        let nan = f32::NAN;
        let rows = [1.0, 2.0, 3.0, nan];
        let cases = [
            (Test::AtMost(2.0), [1.0, 1.0, 0.0], 0.0),
            (Test::Below(2.0), [1.0, 0.0, 0.0], 0.0),
            (Test::AtLeast(2.0), [0.0, 1.0, 1.0], 0.0),
            (Test::Above(2.0), [0.0, 0.0, 1.0], 0.0),
            (Test::Equal(2.0), [0.0, 1.0, 0.0], 0.0),
            (Test::NotEqual(2.0), [1.0, 0.0, 1.0], 1.0),
            (Test::Member(vec![3.0, 1.0, 7.0, 3.0]), [1.0, 0.0, 1.0], 0.0),
            (Test::Member(vec![]), [0.0, 0.0, 0.0], 0.0),
        ];
        for (test, numbers, of_nan) in cases {
            for nan_passes in [false, true] {
                let root = branch(0, test.clone(), nan_passes, Child::Leaf(1), Child::Leaf(0));
                let forest = Forest::new(&[root], &votes(&[0.0, 1.0]), &[Child::Branch(0)], 1).unwrap();
                let [a, b, c] = numbers;
                let expected = [a, b, c, if nan_passes { 1.0 } else { of_nan }];
                assert_eq!(sums(&forest, &rows, 1), expected, "{test:?} {nan_passes}");
            }
        }
    }

    #[test]
    fn blocks_of_rows_and_trees_that_are_leaves_add_up() {
        let branches = [
            branch(1, Test::AtMost(100.0), false, Child::Branch(1), Child::Leaf(0)),
            branch(0, Test::Above(0.5), false, Child::Leaf(1), Child::Leaf(2)),
        ];
        let roots = [Child::Branch(0), Child::Leaf(3)];
        let forest = Forest::new(&branches, &votes(&[1.0, 2.0, 4.0, 8.0]), &roots, 1).unwrap();
        let rows: Vec<f32> = (0..150).flat_map(|row| [(row % 2) as f32, row as f32]).collect();
        for (row, sum) in sums(&forest, &rows, 2).into_iter().enumerate() {
            let expected = match row {
                101.. => 9.0,
                _ if row % 2 == 1 => 10.0,
                _ => 12.0,
            };
            assert_eq!(sum, expected, "row {row}");
        }
        assert!(forest.score(&[0.0], 1, Aggregate::Sum, |_, _| ()).is_err());
    }

    #[test]
    fn targets_are_aggregated_apart() {
        let leaf = |votes: &[(usize, f64)]| {
            let vote = |&(target, weight): &(usize, f64)| Vote { target, weight };
            votes.iter().map(vote).collect::<Vec<_>>()
        };
        let leaves = [leaf(&[(0, 3.0), (1, -1.0)]), leaf(&[(0, 5.0)])];
        let forest = Forest::<f64>::new(&[], &leaves, &[Child::Leaf(0), Child::Leaf(1)], 3).unwrap();
        let of = |how| {
            let mut found = None;
            let each = |_: usize, score: &Score| found = Some(score.clone());
            forest.score(&[0.0], 1, how, each).unwrap();
            found.unwrap()
        };
        assert_eq!(of(Aggregate::Sum).values, [8.0, -1.0, 0.0]);
        assert_eq!(of(Aggregate::Average).values, [4.0, -0.5, 0.0]);
        assert_eq!(of(Aggregate::Min).values, [3.0, -1.0, 0.0]);
        assert_eq!(of(Aggregate::Max).values, [5.0, -1.0, 0.0]);
        assert_eq!(of(Aggregate::Sum).voted, [true, true, false]);
    }

    #[test]
    fn cycles_and_wrong_positions_are_errors() {
        let to = |yes, no| branch(0, Test::AtMost(0.0), false, yes, no);
        let new = |branches: &[Branch], root| Forest::<f32>::new(branches, &votes(&[1.0]), &[root], 1);
        let (leaf, first, second) = (Child::Leaf(0), Child::Branch(0), Child::Branch(1));
        assert!(new(&[to(leaf, leaf)], first).is_ok());
        assert!(new(&[to(second, second), to(leaf, leaf)], first).is_ok());
        assert!(new(&[to(leaf, first)], first).is_err());
        assert!(new(&[to(second, leaf), to(leaf, first)], first).is_err());
        assert!(new(&[to(leaf, second)], first).is_err());
        assert!(new(&[to(leaf, Child::Leaf(1))], first).is_err());
        assert!(new(&[], first).is_err());
        assert!(Forest::<f32>::new(&[], &votes(&[1.0]), &[leaf], 0).is_err());
        assert!(new(&[branch(1 << 30, Test::AtMost(0.0), false, leaf, leaf)], first).is_err());
    }
}
