//! Scaled dot-product attention of f32: `softmax(scale * Q · Kᵀ + …) · V`, head by head over a block of queries at a
//! time, so that the scores of one block are all that is ever held. Products run on the matrix kernels.

use std::ops::Range;

use super::{
    epilogue::Epilogue,
    gemm::{GemmShape, Lhs, MatrixRef, Rhs, gemm, gemm_scratch_len},
    simd::copy_short,
    softmax::{exp_and_sum, largest},
    threads::Threads,
};

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Independent sequences.
    pub batch: usize,
    /// Heads of the queries and of the output.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`. Query head h attends to head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Queries of each sequence.
    pub queries: usize,
    /// Keys of each sequence, those that no query sees included.
    pub keys: usize,
    /// Elements of a query and a key.
    pub head_size: usize,
    /// Elements of a value.
    pub value_size: usize,
}

/// Queries, keys or values: the element `i` of row `r` of head `h` of sequence `b` stands at
/// `b * batch + h * head + r * row + i` of `data`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// The step to the next sequence.
    pub batch: usize,
    /// The step to the next head.
    pub head: usize,
    /// The step to the next row.
    pub row: usize,
}

impl<'a> Heads<'a> {
    /// A tensor `[batch, rows, heads * size]`.
    pub fn row_by_row(data: &'a [f32], rows: usize, heads: usize, size: usize) -> Self {
        let row = heads * size;
        Heads {
            data,
            batch: rows * row,
            head: size,
            row,
        }
    }

    /// A tensor `[batch, heads, rows, size]`.
    pub fn head_by_head(data: &'a [f32], heads: usize, rows: usize, size: usize) -> Self {
        Heads {
            data,
            batch: heads * rows * size,
            head: rows * size,
            row: size,
        }
    }

    /// The last element that is read plus one.
    fn end(&self, batch: usize, heads: usize, rows: usize, size: usize) -> usize {
        if batch * heads * rows * size == 0 {
            return 0;
        }
        (batch - 1) * self.batch + (heads - 1) * self.head + (rows - 1) * self.row + size
    }

    fn from(&self, batch: usize, head: usize, row: usize) -> &'a [f32] {
        let start = batch * self.batch + head * self.head + row * self.row;
        self.data.get(start..).unwrap_or(&[])
    }
}

/// Where the scores of one query, over neighbouring keys, belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreRow {
    /// The sequence.
    pub batch: usize,
    /// The query's head.
    pub head: usize,
    /// The query.
    pub query: usize,
    /// The key of the first score.
    pub first_key: usize,
}

/// What a caller does to, or reads of, the scores of one query.
pub type OnScores<'a> = dyn FnMut(ScoreRow, &mut [f32]) + 'a;

/// An attention over tensors in memory.
pub struct Attention<'a> {
    /// The sizes.
    pub shape: AttentionShape,
    /// Queries: `heads` heads of `queries` rows of `head_size`.
    pub q: Heads<'a>,
    /// Keys: `kv_heads` heads of `keys` rows of `head_size`.
    pub k: Heads<'a>,
    /// Values: `kv_heads` heads of `keys` rows of `value_size`.
    pub v: Heads<'a>,
    /// The factor on the scores.
    pub scale: f32,
    /// The keys that a query of a sequence sees, given sequence and query. All others are as if masked by -∞.
    pub visible: &'a dyn Fn(usize, usize) -> Range<usize>,
    /// One more score for each head that takes part in the softmax and has no value (an attention sink).
    pub sink: Option<&'a [f32]>,
    /// Changes the scaled scores of a query's visible keys before the softmax: biases, masks, [`soft_cap`].
    pub on_scores: Option<&'a mut OnScores<'a>>,
    /// Sees the weights that the softmax gave the visible keys.
    pub on_weights: Option<&'a mut OnScores<'a>>,
}

/// Rows of one block at most.
const ROWS: usize = 64;
/// Scores of one block, as long as there are not too few rows: they stay in L2.
const SCORES: usize = 64 * 1024;

impl AttentionShape {
    /// How much scratch memory [`Attention::run`] needs, in f32.
    pub fn scratch_len(&self) -> usize {
        let rows = self.block_rows();
        // Fewer keys that are seen need no more.
        let product = |k: usize, n: usize| gemm_scratch_len(GemmShape { m: rows, k, n }, false, false);
        let products = product(self.head_size, self.keys).max(product(self.keys, self.value_size));
        rows * (self.keys + self.value_size) + products
    }

    fn block_rows(&self) -> usize {
        let rows = (SCORES / self.keys.max(1)).clamp(8, ROWS);
        rows.min(self.queries.max(self.group()))
    }

    /// Query heads for each head of keys and values.
    fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }
}

/// Rows that are worked on together: queries of one head, or, for one query, the heads that share keys.
#[derive(Clone, Copy)]
struct Block {
    batch: usize,
    head: usize,
    query: usize,
    rows: usize,
    is_heads: bool,
}

impl Block {
    fn row(&self, row: usize) -> (usize, usize) {
        match self.is_heads {
            true => (self.head + row, self.query),
            false => (self.head, self.query + row),
        }
    }
}

impl Attention<'_> {
    /// Writes the attention of each query to `out`, element `i` of query `r` of head `h` of sequence `b` at
    /// `b * batch + h * head + r * row + i` by the strides in `place`. A query that sees no key, or only keys whose score
    /// is -∞, gives zeros.
    ///
    /// # Panics
    /// When a slice is too short for the sizes, or `kv_heads` does not divide `heads`.
    pub fn run(mut self, out: &mut [f32], place: Strides, scratch: &mut [f32]) {
        let AttentionShape {
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            head_size,
            value_size,
        } = self.shape;
        if batch * heads * queries * value_size == 0 {
            return;
        }
        assert!(
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "{kv_heads} heads of keys for {heads}"
        );
        let fits = |of: &Heads, heads, rows, size| of.end(batch, heads, rows, size) <= of.data.len();
        assert!(fits(&self.q, heads, queries, head_size), "queries are too few");
        assert!(fits(&self.k, kv_heads, keys, head_size), "keys are too few");
        assert!(fits(&self.v, kv_heads, keys, value_size), "values are too few");
        assert!(
            self.sink.is_none_or(|sink| sink.len() >= heads),
            "sinks are fewer than heads"
        );
        let (group, block_rows) = (self.shape.group(), self.shape.block_rows());
        for batch in 0..batch {
            if queries == 1 {
                for head in (0..heads).step_by(group) {
                    for first in (head..head + group).step_by(block_rows) {
                        let block = Block {
                            batch,
                            head: first,
                            query: 0,
                            rows: block_rows.min(head + group - first),
                            is_heads: true,
                        };
                        self.run_block(block, out, place, scratch);
                    }
                }
                continue;
            }
            for head in 0..heads {
                for query in (0..queries).step_by(block_rows) {
                    let block = Block {
                        batch,
                        head,
                        query,
                        rows: block_rows.min(queries - query),
                        is_heads: false,
                    };
                    self.run_block(block, out, place, scratch);
                }
            }
        }
    }

    fn run_block(&mut self, block: Block, out: &mut [f32], place: Strides, scratch: &mut [f32]) {
        let AttentionShape {
            keys,
            head_size,
            value_size,
            ..
        } = self.shape;
        let kv_head = block.head / self.shape.group();
        let seen = |row: usize| {
            let range = (self.visible)(block.batch, block.row(row).1);
            let end = range.end.min(keys);
            range.start.min(end)..end
        };
        // The keys that any of the queries sees.
        let union = (0..block.rows)
            .map(seen)
            .filter(|range| !range.is_empty())
            .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
            .unwrap_or(0..0);
        let columns = union.len();
        let (scores, scratch) = scratch.split_at_mut(block.rows * columns);
        let (results, scratch) = scratch.split_at_mut(block.rows * value_size);
        let q = MatrixRef {
            data: self.q.from(block.batch, block.head, block.query),
            row_stride: if block.is_heads { self.q.head } else { self.q.row },
            col_stride: 1,
        };
        let k = MatrixRef {
            data: self.k.from(block.batch, kv_head, union.start),
            row_stride: 1,
            col_stride: self.k.row,
        };
        let shape = GemmShape {
            m: block.rows,
            k: head_size,
            n: columns,
        };
        let scaled = Epilogue {
            alpha: self.scale,
            ..Epilogue::none()
        };
        gemm(
            shape,
            Lhs::Matrix(q),
            Rhs::Matrix(k),
            scores,
            scratch,
            &scaled,
            &Threads::SINGLE,
        );
        for (row, scores) in scores.chunks_exact_mut(columns.max(1)).enumerate() {
            let seen = seen(row);
            let (head, query) = block.row(row);
            let place = ScoreRow {
                batch: block.batch,
                head,
                query,
                first_key: seen.start,
            };
            let first = seen.start.saturating_sub(union.start).min(columns);
            let (before, rest) = scores.split_at_mut(first);
            let (scores, after) = rest.split_at_mut(seen.len());
            before.fill(0.0);
            after.fill(0.0);
            if let Some(on_scores) = &mut self.on_scores {
                on_scores(place, scores);
            }
            normalize(scores, self.sink.map(|sink| sink[head]));
            if let Some(on_weights) = &mut self.on_weights {
                on_weights(place, scores);
            }
        }
        let v = MatrixRef {
            data: self.v.from(block.batch, kv_head, union.start),
            row_stride: self.v.row,
            col_stride: 1,
        };
        let shape = GemmShape {
            m: block.rows,
            k: columns,
            n: value_size,
        };
        let weights = Lhs::Matrix(MatrixRef::row_major(scores, columns));
        gemm(
            shape,
            weights,
            Rhs::Matrix(v),
            results,
            scratch,
            &Epilogue::none(),
            &Threads::SINGLE,
        );
        for (row, result) in results.chunks_exact(value_size).enumerate() {
            let (head, query) = block.row(row);
            let start = block.batch * place.batch + head * place.head + query * place.row;
            copy_short(result, &mut out[start..start + value_size]);
        }
    }
}

/// Where the rows of the output stand: see [`Heads`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// The step to the next sequence.
    pub batch: usize,
    /// The step to the next head.
    pub head: usize,
    /// The step to the next row.
    pub row: usize,
}

impl Strides {
    /// The strides of `[batch, rows, heads * size]`.
    pub fn row_by_row(rows: usize, heads: usize, size: usize) -> Self {
        let Heads { batch, head, row, .. } = Heads::row_by_row(&[], rows, heads, size);
        Strides { batch, head, row }
    }

    /// The strides of `[batch, heads, rows, size]`.
    pub fn head_by_head(heads: usize, rows: usize, size: usize) -> Self {
        let Heads { batch, head, row, .. } = Heads::head_by_head(&[], heads, rows, size);
        Strides { batch, head, row }
    }
}

/// `cap * tanh(score / cap)` of each score; nothing when `cap` is 0.
pub fn soft_cap(scores: &mut [f32], cap: f32) {
    if cap != 0.0 {
        super::math::map_in_place(scores, |x| {
            let cap = super::simd::F32x4::splat(cap);
            super::math::tanh(x / cap) * cap
        });
    }
}

/// The softmax of a row, with one more score that has no place in it.
fn normalize(row: &mut [f32], sink: Option<f32>) {
    let max = largest(row).max(sink.unwrap_or(f32::NEG_INFINITY));
    if max == f32::NEG_INFINITY {
        row.fill(0.0);
        return;
    }
    let sum = exp_and_sum(row, max) + sink.map_or(0.0, |sink| (sink - max).exp());
    let factor = 1.0 / sum;
    row.iter_mut().for_each(|value| *value *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close};

    /// The attention by its definition.
    fn reference(attention: &Attention, bias: &dyn Fn(ScoreRow) -> f32, cap: f32) -> Vec<f32> {
        let shape = attention.shape;
        let mut out = Vec::new();
        for batch in 0..shape.batch {
            for head in 0..shape.heads {
                let kv_head = head / (shape.heads / shape.kv_heads);
                for query in 0..shape.queries {
                    let at = |of: Heads, head: usize, row: usize, i: usize| {
                        f64::from(of.data[batch * of.batch + head * of.head + row * of.row + i])
                    };
                    let visible = (attention.visible)(batch, query);
                    let score = |key: usize| {
                        let dot: f64 = (0..shape.head_size)
                            .map(|i| at(attention.q, head, query, i) * at(attention.k, kv_head, key, i))
                            .sum();
                        let mut score = dot * f64::from(attention.scale);
                        if cap != 0.0 {
                            score = (score / f64::from(cap)).tanh() * f64::from(cap);
                        }
                        let place = ScoreRow {
                            batch,
                            head,
                            query,
                            first_key: key,
                        };
                        score + f64::from(bias(place))
                    };
                    let weights: Vec<(usize, f64)> = (0..shape.keys)
                        .filter(|key| visible.contains(key))
                        .map(|key| (key, score(key).exp()))
                        .collect();
                    let sink = attention.sink.map_or(0.0, |sink| f64::from(sink[head]).exp());
                    let sum = weights.iter().map(|(_, weight)| weight).sum::<f64>() + sink;
                    for i in 0..shape.value_size {
                        let value: f64 = weights
                            .iter()
                            .map(|&(key, weight)| weight * at(attention.v, kv_head, key, i))
                            .sum();
                        out.push(if sum == 0.0 { 0.0 } else { (value / sum) as f32 });
                    }
                }
            }
        }
        out
    }

    #[test]
    fn random_attentions_match_the_definition() {
        let mut rng = Rng::new(21);
        for round in 0..120 {
            let kv_heads = rng.size(1, 3);
            let shape = AttentionShape {
                batch: rng.size(1, 2),
                heads: kv_heads * rng.size(1, 6),
                kv_heads,
                queries: if rng.bool() { 1 } else { rng.size(1, 70) },
                keys: rng.size(0, if round % 10 == 0 { 1300 } else { 40 }),
                head_size: rng.size(1, 20),
                value_size: rng.size(1, 20),
            };
            let AttentionShape {
                batch,
                heads,
                queries,
                keys,
                head_size,
                value_size,
                ..
            } = shape;
            let (q, k, v) = (
                rng.vec(batch * heads * queries * head_size),
                rng.vec(batch * kv_heads * keys * head_size),
                rng.vec(batch * kv_heads * keys * value_size),
            );
            let by_row = rng.bool();
            let view = |data, heads, rows, size| match by_row {
                true => Heads::row_by_row(data, rows, heads, size),
                false => Heads::head_by_head(data, heads, rows, size),
            };
            let (causal, window) = (rng.bool(), if rng.bool() { rng.size(1, 9) } else { keys + 1 });
            let visible = |batch: usize, query: usize| {
                let total = keys - batch.min(keys);
                let end = if causal {
                    (query + 1 + total).saturating_sub(queries).min(total)
                } else {
                    total
                };
                end.saturating_sub(window)..end
            };
            let sinks = rng.vec(heads);
            let cap = if rng.bool() { 0.7 } else { 0.0 };
            let bias = |place: ScoreRow| {
                if (place.query + place.first_key + place.head) % 7 == 3 {
                    f32::NEG_INFINITY
                } else {
                    (place.query * 3 + place.first_key + place.batch) as f32 % 5.0 * 0.1
                }
            };
            let mut on_scores = |place: ScoreRow, scores: &mut [f32]| {
                soft_cap(scores, cap);
                for (index, score) in scores.iter_mut().enumerate() {
                    *score += bias(ScoreRow {
                        first_key: place.first_key + index,
                        ..place
                    });
                }
            };
            let mut sums = Vec::new();
            let mut on_weights = |_: ScoreRow, weights: &mut [f32]| sums.push(weights.iter().sum::<f32>());
            let attention = Attention {
                shape,
                q: view(&q, heads, queries, head_size),
                k: view(&k, kv_heads, keys, head_size),
                v: view(&v, kv_heads, keys, value_size),
                scale: 0.6,
                visible: &visible,
                sink: rng.bool().then_some(&sinks[..]),
                on_scores: Some(&mut on_scores),
                on_weights: Some(&mut on_weights),
            };
            let expected = reference(&attention, &bias, cap);
            let mut out = vec![f32::NAN; expected.len()];
            let mut scratch = vec![f32::NAN; shape.scratch_len()];
            attention.run(
                &mut out,
                Strides::head_by_head(heads, queries, value_size),
                &mut scratch,
            );
            assert_close(
                &out,
                &expected,
                2e-5,
                &format!("{shape:?} causal {causal} window {window}"),
            );
            assert!(
                sums.iter().all(|&sum| sum <= 1.0001),
                "weights of {shape:?} sum to {sums:?}"
            );
        }
    }

    #[test]
    fn an_output_by_rows_holds_the_heads_side_by_side() {
        let shape = AttentionShape {
            batch: 1,
            heads: 2,
            kv_heads: 2,
            queries: 2,
            keys: 1,
            head_size: 1,
            value_size: 2,
        };
        let attention = Attention {
            shape,
            q: Heads::row_by_row(&[1.0; 4], 2, 2, 1),
            k: Heads::row_by_row(&[1.0; 2], 1, 2, 1),
            v: Heads::row_by_row(&[1.0, 2.0, 3.0, 4.0], 1, 2, 2),
            scale: 1.0,
            visible: &|_, query| 0..query,
            sink: None,
            on_scores: None,
            on_weights: None,
        };
        let (mut out, mut scratch) = ([f32::NAN; 8], vec![f32::NAN; shape.scratch_len()]);
        attention.run(&mut out, Strides::row_by_row(2, 2, 2), &mut scratch);
        assert_eq!(out, [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
