//! Attention as fusion makes it: `softmax(epilogue(Q · K)) · V` over operands that stay where they are, whatever the order
//! of their axes. A block of queries of one head at a time, so that the scores of one block are all that is ever held.

use super::{
    epilogue::Epilogue,
    gemm::{GemmShape, Lhs, MatrixRef, Rhs, gemm, gemm_scratch_len},
    simd::copy_short,
    softmax::{exp_and_sum, largest},
    threads::{Disjoint, PerThread, Threads},
};

/// Scores of one block, as long as there are not too few rows: they stay in L2 beside keys and values.
const SCORES: usize = 64 * 1024;
/// Rows that a block has at least, for the sake of packing keys and values once for all of them.
const MIN_ROWS: usize = 16;

/// A tensor whose axes are seen in another order: axis `i` is axis `permutation[i]` of the tensor in memory.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The sizes in memory.
    pub shape: &'a [usize],
    /// For each axis that is seen, the one in memory.
    pub permutation: &'a [usize],
    /// How often each head is seen in a row: the last axis but two is as many times as long.
    pub repeats: usize,
}

impl View<'_> {
    /// The sizes as seen.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.permutation.iter().map(|&axis| self.shape[axis]).collect();
        if let [.., heads, _, _] = &mut sizes[..] {
            *heads *= self.repeats;
        }
        sizes
    }

    /// The steps as seen.
    fn steps(&self) -> Vec<usize> {
        let mut steps = vec![1; self.shape.len()];
        for axis in (1..self.shape.len()).rev() {
            steps[axis - 1] = steps[axis] * self.shape[axis];
        }
        self.permutation.iter().map(|&axis| steps[axis]).collect()
    }
}

/// What becomes of weights that are no number: those of a query all of whose scores are -∞, or one of them NaN or ∞.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNan {
    /// They make the result NaN, as the softmax does.
    Keep,
    /// They are 0.
    Zero,
}

/// Where the matrices of one operand stand.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// The step from row to row.
    pub row: usize,
    /// The step from column to column.
    pub column: usize,
}

/// An attention planned for concrete shapes.
#[derive(Clone, Debug)]
pub struct DotAttention {
    queries: usize,
    head_size: usize,
    keys: usize,
    value_size: usize,
    /// Of Q, K, V and the output.
    matrices: [Matrix; 4],
    /// The leading axes, outermost first, with the step of each of the four.
    axes: Vec<(usize, [usize; 4])>,
    /// Where the four of each head begin.
    heads: Box<[[usize; 4]]>,
    /// Sizes in memory of the output.
    output: Vec<usize>,
    /// Sizes of the scores.
    scores: Vec<usize>,
    on_nan: OnNan,
}

/// The inputs of one run.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// Queries, seen as `[.., queries, head_size]`.
    pub q: &'a [f32],
    /// Keys, seen as `[.., head_size, keys]`.
    pub k: &'a [f32],
    /// Values, seen as `[.., keys, value_size]`.
    pub v: &'a [f32],
}

impl DotAttention {
    /// Plans an attention of these operands, whose leading axes broadcast; the output is seen as
    /// `[.., queries, value_size]` with its axes in memory by `out`, the axis seen for each in memory. `None` when the
    /// shapes do not fit.
    pub fn new(q: View<'_>, k: View<'_>, v: View<'_>, out: &[usize], on_nan: OnNan) -> Option<DotAttention> {
        let (q_sizes, k_sizes, v_sizes) = (q.sizes(), k.sizes(), v.sizes());
        let ([q_lead @ .., queries, head_size], [k_lead @ .., k_head_size, keys], [v_lead @ .., v_keys, value_size]) =
            (&q_sizes[..], &k_sizes[..], &v_sizes[..])
        else {
            return None;
        };
        if head_size != k_head_size || keys != v_keys {
            return None;
        }
        let lead = crate::tensor::broadcast_shapes(&[q_lead, k_lead, v_lead]).ok()?;
        // The scores must have as many heads as the output, for they are counted alike.
        if crate::tensor::broadcast_shapes(&[q_lead, k_lead]).ok()? != lead || out.len() != lead.len() + 2 {
            return None;
        }
        let seen: Vec<usize> = lead.iter().copied().chain([*queries, *value_size]).collect();
        let output: Vec<usize> = out.iter().map(|&axis| seen[axis]).collect();
        let mut back = vec![0; out.len()];
        for (place, &axis) in out.iter().enumerate() {
            back[axis] = place;
        }
        let view = View {
            shape: &output,
            permutation: &back,
            repeats: 1,
        };
        let operands = [&q, &k, &v, &view];
        let steps = operands.map(View::steps);
        let sizes = operands.map(View::sizes);
        let matrix = |of: usize| {
            let rank = steps[of].len();
            Matrix {
                row: steps[of][rank - 2],
                column: steps[of][rank - 1],
            }
        };
        // Heads that are repeated are two axes, along one of which there are no steps.
        let repeats = operands.iter().map(|view| view.repeats).max().unwrap_or(1);
        if operands.iter().any(|view| ![1, repeats].contains(&view.repeats)) {
            return None;
        }
        let mut axes: Vec<(usize, [usize; 4])> = Vec::with_capacity(lead.len() + 1);
        if lead.last().is_some_and(|heads| heads % repeats != 0) {
            return None;
        }
        for (axis, &size) in lead.iter().enumerate() {
            let step = |of: usize| match (axis + steps[of].len() - 2).checked_sub(lead.len()) {
                Some(axis) if sizes[of][axis] > 1 => steps[of][axis],
                _ => 0,
            };
            let own = std::array::from_fn(step);
            if axis + 1 < lead.len() || repeats == 1 {
                axes.push((size, own));
                continue;
            }
            let is_repeated = |of: usize| operands[of].repeats == repeats;
            let outer = |of: usize| if is_repeated(of) { own[of] } else { own[of] * repeats };
            let inner = |of: usize| if is_repeated(of) { 0 } else { own[of] };
            axes.push((size / repeats, std::array::from_fn(outer)));
            axes.push((repeats, std::array::from_fn(inner)));
        }
        let count: usize = seen.iter().product();
        let count = if count == 0 { 0 } else { lead.iter().product() };
        let heads = (0..count)
            .map(|index| {
                let (mut rest, mut starts) = (index, [0; 4]);
                for (size, steps) in axes.iter().rev() {
                    for (start, step) in starts.iter_mut().zip(steps) {
                        *start += rest % size * step;
                    }
                    rest /= size;
                }
                starts
            })
            .collect();
        Some(DotAttention {
            queries: *queries,
            head_size: *head_size,
            keys: *keys,
            value_size: *value_size,
            matrices: std::array::from_fn(matrix),
            axes,
            heads,
            output,
            scores: lead.into_iter().chain([*queries, *keys]).collect(),
            on_nan,
        })
    }

    /// The output's sizes in memory.
    pub fn output(&self) -> &[usize] {
        &self.output
    }

    /// The sizes of the scores, `[.., queries, keys]`.
    pub fn scores(&self) -> Vec<usize> {
        self.scores.clone()
    }

    /// The numbers of queries and keys, and the sizes of a query and a value.
    pub fn sizes(&self) -> [usize; 4] {
        [self.queries, self.keys, self.head_size, self.value_size]
    }

    /// The leading axes, outermost first: sizes and the steps of Q, K, V and the output.
    pub fn axes(&self) -> &[(usize, [usize; 4])] {
        &self.axes
    }

    /// The steps within the matrices of Q, K (seen as `[head_size, keys]`), V and the output.
    pub fn matrices(&self) -> [Matrix; 4] {
        self.matrices
    }

    /// How many blocks of queries there are; they may run in any order and at the same time.
    pub fn blocks(&self) -> usize {
        self.heads.len() * self.queries.div_ceil(self.rows())
    }

    /// How much scratch memory [`DotAttention::run`] needs on so many threads, in f32.
    pub fn scratch_len(&self, threads: usize) -> usize {
        threads * self.block_scratch_len()
    }

    fn block_scratch_len(&self) -> usize {
        let rows = self.rows();
        let product = |k: usize, n: usize| gemm_scratch_len(GemmShape { m: rows, k, n }, false, false);
        let products = product(self.head_size, self.keys).max(product(self.keys, self.value_size));
        rows * (self.keys + self.value_size + 1) + products
    }

    fn rows(&self) -> usize {
        let most = (SCORES / self.keys.max(1)).max(MIN_ROWS);
        // Blocks of about the same size, rather than a small one at the end.
        let blocks = self.queries.div_ceil(most).max(1);
        self.queries.div_ceil(blocks).max(1)
    }

    /// Computes every block. `epilogue` is that of the scores, a tensor `[.., queries, keys]` whose rows it counts.
    ///
    /// # Panics
    /// When a slice is too short for the planned shapes.
    pub fn run(
        &self,
        operands: Operands<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
        epilogue: &Epilogue<'_>,
        threads: &Threads,
    ) {
        assert!(out.len() >= self.output.iter().product(), "the output is too short");
        let products = self.rows() * self.keys * (self.head_size + self.value_size);
        let split = threads.split(self.blocks(), products / 8 + self.rows() * self.keys);
        if split.parts == 0 {
            return;
        }
        let out = Disjoint::new(out);
        let scratch = PerThread::new(scratch, self.block_scratch_len());
        threads.run(split.parts, &|part| {
            // SAFETY: each thread has a piece of its own.
            let scratch = unsafe { scratch.of(part) };
            for block in split.range(part.index) {
                self.run_block(block, operands, &out, scratch, epilogue);
            }
        });
    }

    fn run_block(
        &self,
        block: usize,
        operands: Operands<'_>,
        out: &Disjoint<'_, f32>,
        scratch: &mut [f32],
        epilogue: &Epilogue<'_>,
    ) {
        let per_head = self.queries.div_ceil(self.rows());
        let (head, first) = (block / per_head, block % per_head * self.rows());
        let rows = self.rows().min(self.queries - first);
        let (keys, value_size) = (self.keys, self.value_size);
        let [q, k, v, place] = self.heads[head];
        let [q_matrix, k_matrix, v_matrix, out_matrix] = self.matrices;
        let matrix = |data, Matrix { row, column }| MatrixRef {
            data,
            row_stride: row,
            col_stride: column,
        };
        let (scores, scratch) = scratch.split_at_mut(rows * keys);
        let (results, scratch) = scratch.split_at_mut(rows * value_size);
        let (factors, scratch) = scratch.split_at_mut(rows);
        let shape = GemmShape {
            m: rows,
            k: self.head_size,
            n: keys,
        };
        let lhs = Lhs::Matrix(matrix(from(operands.q, q + first * q_matrix.row), q_matrix));
        let rhs = Rhs::Matrix(matrix(from(operands.k, k), k_matrix));
        let steps = epilogue.from_row(head * self.queries + first, keys);
        gemm(shape, lhs, rhs, scores, scratch, &steps, &Threads::SINGLE);
        let shape = GemmShape {
            m: rows,
            k: keys,
            n: value_size,
        };
        // The sums divide the results, which are fewer than the weights.
        for (row, factor) in scores.chunks_exact_mut(keys.max(1)).zip(&mut *factors) {
            *factor = 1.0 / exp_and_sum(row, largest(row));
            // The weights of a row are numbers all together or not at all.
            if factor.is_nan() && self.on_nan == OnNan::Zero {
                row.fill(0.0);
                *factor = 1.0;
            }
        }
        let lhs = Lhs::Matrix(MatrixRef::row_major(scores, keys));
        let rhs = Rhs::Matrix(matrix(from(operands.v, v), v_matrix));
        gemm(shape, lhs, rhs, results, scratch, &Epilogue::none(), &Threads::SINGLE);
        if keys == 0 {
            factors.fill(1.0);
        }
        for (row, (result, factor)) in results.chunks_exact_mut(value_size).zip(factors).enumerate() {
            result.iter_mut().for_each(|value| *value *= *factor);
            let start = place + (first + row) * out_matrix.row;
            // SAFETY: `run` checked that `out` holds all of the output, and no other block has this row.
            unsafe {
                if out_matrix.column == 1 {
                    copy_short(result, out.slice(start..start + value_size));
                } else {
                    let first = out.as_mut_ptr().add(start);
                    for (column, value) in result.iter().enumerate() {
                        *first.add(column * out_matrix.column) = *value;
                    }
                }
            }
        }
    }
}

fn from(data: &[f32], start: usize) -> &[f32] {
    data.get(start..).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{
        epilogue::RowProgram,
        testing::{Rng, assert_close},
    };

    /// Adds a bias that has its own value for each row and column.
    struct AddPosition;
    impl RowProgram for AddPosition {
        fn apply(&self, row: usize, col: usize, values: &mut [f32]) {
            for (index, value) in values.iter_mut().enumerate() {
                *value += bias(row, col + index);
            }
        }
    }

    fn bias(row: usize, column: usize) -> f32 {
        ((row * 31 + column * 17) % 23) as f32 * 0.1
    }

    fn element(view: View<'_>, data: &[f32], place: &[usize]) -> f64 {
        let (steps, sizes) = (view.steps(), view.sizes());
        let skipped = place.len() - sizes.len();
        let heads = sizes.len() - 3;
        let at = (0..sizes.len()).map(|axis| {
            let place = place[axis + skipped] % sizes[axis];
            steps[axis] * if axis == heads { place / view.repeats } else { place }
        });
        f64::from(data[at.sum::<usize>()])
    }

    fn permuted(rng: &mut Rng, seen: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let mut permutation: Vec<usize> = (0..seen.len()).collect();
        for axis in (1..seen.len()).rev() {
            permutation.swap(axis, rng.size(0, axis));
        }
        let mut shape = vec![0; seen.len()];
        for (axis, &place) in permutation.iter().enumerate() {
            shape[place] = seen[axis];
        }
        (shape, permutation)
    }

    #[test]
    fn random_orders_of_axes_match_the_definition() {
        let mut rng = Rng::new(31);
        for round in 0..40 {
            let repeats = [1, 1, 2, 3][rng.size(0, 3)];
            let (batch, heads) = (rng.size(1, 3), rng.size(1, 3) * repeats);
            let (queries, keys) = (rng.size(0, 30), rng.size(0, 30));
            let (head_size, value_size) = (rng.size(0, 12), rng.size(1, 12));
            let many = |size: usize, rng: &mut Rng| if rng.size(0, 4) == 0 { 1 } else { size };
            let seen = [
                vec![batch, heads, queries, head_size],
                vec![many(batch, &mut rng), many(heads / repeats, &mut rng), head_size, keys],
                vec![many(batch, &mut rng), many(heads / repeats, &mut rng), keys, value_size],
            ];
            let orders = seen.each_ref().map(|seen| permuted(&mut rng, seen));
            let data = seen.each_ref().map(|seen| rng.vec(seen.iter().product()));
            let view = |of: usize| View {
                shape: &orders[of].0,
                permutation: &orders[of].1,
                repeats: if of > 0 && seen[of][1] == heads / repeats {
                    repeats
                } else {
                    1
                },
            };
            let views = [view(0), view(1), view(2)];
            let out_order = permuted(&mut rng, &[1; 4]).1;
            let plan = DotAttention::new(views[0], views[1], views[2], &out_order, OnNan::Keep).unwrap();
            let mut out = vec![f32::NAN; plan.output().iter().product()];
            let mut scratch = vec![f32::NAN; plan.scratch_len(3)];
            let scale = 0.5;
            let epilogue = Epilogue {
                alpha: scale,
                program: (round % 2 == 0).then_some(&AddPosition as &dyn RowProgram),
                ..Epilogue::none()
            };
            let operands = Operands {
                q: &data[0],
                k: &data[1],
                v: &data[2],
            };
            plan.run(operands, &mut out, &mut scratch, &epilogue, &Threads::eager(3));
            let mut expected = vec![0.0; out.len()];
            let seen_out = [batch, heads, queries, value_size];
            for index in 0..out.len() {
                let mut rest = index;
                let mut place = [0; 4];
                for axis in (0..4).rev() {
                    place[axis] = rest % seen_out[axis];
                    rest /= seen_out[axis];
                }
                let [b, h, query, column] = place;
                let score = |key: usize| {
                    let dot: f64 = (0..head_size)
                        .map(|i| {
                            element(views[0], &data[0], &[b, h, query, i])
                                * element(views[1], &data[1], &[b, h, i, key])
                        })
                        .sum();
                    let added = if round % 2 == 0 {
                        bias((b * heads + h) * queries + query, key)
                    } else {
                        0.0
                    };
                    (dot * f64::from(scale) + f64::from(added)).exp()
                };
                let sum: f64 = (0..keys).map(score).sum();
                let value: f64 = (0..keys)
                    .map(|key| score(key) * element(views[2], &data[2], &[b, h, key, column]))
                    .sum();
                // Its place in memory.
                let mut at = 0;
                for &axis in &out_order {
                    at = at * seen_out[axis] + place[axis];
                }
                expected[at] = if keys == 0 { 0.0 } else { (value / sum) as f32 };
            }
            assert_close(&out, &expected, 1e-5, &format!("round {round}: {seen:?} {out_order:?}"));
        }
    }

    #[test]
    fn many_queries_and_keys_go_block_by_block() {
        let mut rng = Rng::new(32);
        let (queries, keys) = (150, 900);
        let (q, k, v) = (rng.vec(queries * 8), rng.vec(keys * 8), rng.vec(keys * 4));
        let views = [[queries, 8], [8, keys], [keys, 4]];
        let [a, b, c] = views.each_ref().map(|shape| View {
            shape,
            permutation: &[0, 1],
            repeats: 1,
        });
        let plan = DotAttention::new(a, b, c, &[0, 1], OnNan::Keep).unwrap();
        assert!(plan.blocks() > 1);
        let mut out = vec![f32::NAN; queries * 4];
        let mut scratch = vec![f32::NAN; plan.scratch_len(3)];
        let operands = Operands { q: &q, k: &k, v: &v };
        plan.run(operands, &mut out, &mut scratch, &Epilogue::none(), &Threads::eager(3));
        let mut expected = Vec::new();
        for query in 0..queries {
            let weights: Vec<f64> = (0..keys)
                .map(|key| {
                    let dot = (0..8).map(|i| f64::from(q[query * 8 + i]) * f64::from(k[i * keys + key]));
                    dot.sum::<f64>().exp()
                })
                .collect();
            let sum: f64 = weights.iter().sum();
            for column in 0..4 {
                let terms = weights.iter().enumerate();
                let value: f64 = terms.map(|(key, weight)| weight * f64::from(v[key * 4 + column])).sum();
                expected.push((value / sum) as f32);
            }
        }
        assert_close(&out, &expected, 1e-5, "blocks");
    }

    #[test]
    fn a_row_that_is_masked_as_a_whole_gives_nan_as_the_softmax_does() {
        struct Mask;
        impl RowProgram for Mask {
            fn apply(&self, row: usize, _: usize, values: &mut [f32]) {
                if row == 1 {
                    values.fill(f32::NEG_INFINITY);
                }
            }
        }
        let view = |shape| View {
            shape,
            permutation: &[0, 1],
            repeats: 1,
        };
        let plan = DotAttention::new(view(&[2, 1]), view(&[1, 3]), view(&[3, 1]), &[0, 1], OnNan::Keep).unwrap();
        let (mut out, mut scratch) = ([0.0; 2], vec![0.0; plan.scratch_len(1)]);
        let epilogue = Epilogue {
            program: Some(&Mask),
            ..Epilogue::none()
        };
        let operands = Operands {
            q: &[0.0, 0.0],
            k: &[1.0, 2.0, 3.0],
            v: &[1.0, 2.0, 6.0],
        };
        plan.run(operands, &mut out, &mut scratch, &epilogue, &Threads::SINGLE);
        assert!((out[0] - 3.0).abs() < 1e-6 && out[1].is_nan(), "{out:?}");
        let plan = DotAttention {
            on_nan: OnNan::Zero,
            ..plan
        };
        plan.run(operands, &mut out, &mut scratch, &epilogue, &Threads::SINGLE);
        assert!((out[0] - 3.0).abs() < 1e-6 && out[1] == 0.0, "{out:?}");
    }
}
