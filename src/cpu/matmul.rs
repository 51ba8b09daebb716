//! ONNX MatMul of any ranks on the f32 matrix product: which batches meet is worked out at plan time, one B shared by
//! all batches folds them into one tall product, and a constant B is packed once.

use std::sync::Arc;

use crate::cpu::epilogue::Epilogue;
use crate::cpu::gemm::{GemmShape, Lhs, MatrixRef, PackedB, Rhs, gemm, gemm_scratch_len};
use crate::cpu::threads::{Disjoint, PerThread, Threads};

/// How the last two axes of an operand are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they are multiplied: `[m, k]` and `[k, n]`.
    Plain,
    /// The other way round: `[k, m]` and `[n, k]`. A vector is stored the same either way.
    Transposed,
}

/// A batched product `[.., m, k] · [.., k, n]` planned for concrete shapes.
#[derive(Clone, Debug)]
pub struct MatMulPlan {
    shape: GemmShape,
    orders: (Order, Order),
    /// Per product where A and B begin; the outputs follow one another.
    batches: Box<[(usize, usize)]>,
    output: Box<[usize]>,
    packed: Option<Arc<PackedB>>,
}

impl MatMulPlan {
    /// Plans the product of operands of these shapes, ONNX MatMul's (numpy's) rules: a vector on the left is a row, on
    /// the right a column, and its axis is missing from the output; leading axes broadcast.
    /// `None` when the shapes do not fit or the sizes overflow.
    pub fn new(a: &[usize], b: &[usize]) -> Option<Self> {
        MatMulPlan::ordered(a, Order::Plain, b, Order::Plain)
    }

    /// The same for operands that may be stored transposed; the shapes are those in which they are stored.
    pub fn ordered(a: &[usize], a_order: Order, b: &[usize], b_order: Order) -> Option<Self> {
        let (a_batch, m, k) = match (a, a_order) {
            ([], _) => return None,
            ([k], _) => (&[][..], 1, *k),
            ([batch @ .., m, k], Order::Plain) | ([batch @ .., k, m], Order::Transposed) => (batch, *m, *k),
        };
        let (b_batch, b_k, n) = match (b, b_order) {
            ([], _) => return None,
            ([k], _) => (&[][..], *k, 1),
            ([batch @ .., k, n], Order::Plain) | ([batch @ .., n, k], Order::Transposed) => (batch, *k, *n),
        };
        if k != b_k {
            return None;
        }
        let rank = a_batch.len().max(b_batch.len());
        let size = |batch: &[usize], axis: usize| (axis + batch.len()).checked_sub(rank).map_or(1, |i| batch[i]);
        let mut output = Vec::with_capacity(rank + 2);
        for axis in 0..rank {
            output.push(match (size(a_batch, axis), size(b_batch, axis)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            });
        }
        let count = product(&output)?;
        for sizes in [[count, m, n], [count, m, k], [count, k, n]] {
            product(&sizes)?;
        }
        let rows_follow = a_order == Order::Plain || count == 1;
        let folds = a.len() > 1 && product(b_batch)? == 1 && rows_follow;
        let (shape, batches) = if folds {
            (GemmShape { m: count * m, k, n }, vec![(0, 0)])
        } else {
            let start = |batch: &[usize], mut index: usize, step: usize| {
                let (mut offset, mut stride) = (0, step);
                for axis in (0..rank).rev() {
                    let len = size(batch, axis);
                    if len > 1 {
                        offset += index % output[axis] * stride;
                    }
                    stride *= len;
                    index /= output[axis];
                }
                offset
            };
            // An empty output has no products: their count alone would justify no allocation.
            let count = if m * n == 0 { 0 } else { count };
            let starts = (0..count)
                .map(|i| (start(a_batch, i, m * k), start(b_batch, i, k * n)))
                .collect();
            (GemmShape { m, k, n }, starts)
        };
        if a.len() > 1 {
            output.push(m);
        }
        if b.len() > 1 {
            output.push(n);
        }
        // A vector's only order is the plain one.
        let order = |shape: &[usize], order| if shape.len() == 1 { Order::Plain } else { order };
        Some(Self {
            shape,
            orders: (order(a, a_order), order(b, b_order)),
            batches: batches.into(),
            output: output.into(),
            packed: None,
        })
    }

    /// The output's shape.
    pub fn output(&self) -> &[usize] {
        &self.output
    }

    /// The sizes of each product, and how many there are.
    pub fn products(&self) -> (GemmShape, usize) {
        (self.shape, self.batches.len())
    }

    /// Where the A and B of each product begin, in elements.
    pub fn batches(&self) -> &[(usize, usize)] {
        &self.batches
    }

    /// Packs a constant B, if this plan has one B for all batches; plans with the same B may share it.
    pub fn pack_b(&self, b: &[f32]) -> Option<Arc<PackedB>> {
        let GemmShape { k, n, .. } = self.shape;
        let shared = self.batches.iter().all(|&(_, start)| start == 0);
        (shared && b.len() >= k * n).then(|| Arc::new(PackedB::new(self.rhs(b), k, n)))
    }

    fn lhs<'a>(&self, data: &'a [f32]) -> MatrixRef<'a> {
        match self.orders.0 {
            Order::Plain => MatrixRef::row_major(data, self.shape.k),
            Order::Transposed => MatrixRef::transposed(data, self.shape.m),
        }
    }

    fn rhs<'a>(&self, data: &'a [f32]) -> MatrixRef<'a> {
        match self.orders.1 {
            Order::Plain => MatrixRef::row_major(data, self.shape.n),
            Order::Transposed => MatrixRef::transposed(data, self.shape.k),
        }
    }

    /// Uses a B that [`MatMulPlan::pack_b`] packed; `b` is then ignored in [`MatMulPlan::run`].
    pub fn with_packed_b(self, packed: Arc<PackedB>) -> Self {
        let fits = (packed.k(), packed.columns()) == (self.shape.k, self.shape.n);
        Self {
            packed: fits.then_some(packed),
            ..self
        }
    }

    /// Whether this plan uses a packed B.
    pub fn has_packed_b(&self) -> bool {
        self.packed.is_some()
    }

    /// The steps to the next row and the next column of A's and of B's matrices, as they are multiplied.
    pub fn strides(&self) -> ((usize, usize), (usize, usize)) {
        let (a, b) = (self.lhs(&[]), self.rhs(&[]));
        ((a.row_stride, a.col_stride), (b.row_stride, b.col_stride))
    }

    /// How much scratch memory [`MatMulPlan::run`] needs on so many threads, in f32.
    pub fn scratch_len(&self, threads: usize) -> usize {
        threads * gemm_scratch_len(self.shape, false, self.packed.is_some())
    }

    /// Multiplies. The epilogue's rows are those of all batches, and a per-row bias is indexed by them; a vector on the
    /// right gives rows of length 1.
    ///
    /// # Panics
    /// When a slice is too short for the planned shapes.
    pub fn run(
        &self,
        a: &[f32],
        b: &[f32],
        out: &mut [f32],
        scratch: &mut [f32],
        epilogue: &Epilogue,
        threads: &Threads,
    ) {
        let GemmShape { m, k, n } = self.shape;
        let product = |index: usize, out: &mut [f32], scratch: &mut [f32], threads: &Threads| {
            let (a_start, b_start) = self.batches[index];
            let lhs = Lhs::Matrix(self.lhs(a.get(a_start..).unwrap_or(&[])));
            let rhs = match &self.packed {
                Some(packed) => Rhs::Packed(packed),
                None => Rhs::Matrix(self.rhs(b.get(b_start..).unwrap_or(&[]))),
            };
            gemm(
                self.shape,
                lhs,
                rhs,
                out,
                scratch,
                &epilogue.from_row(index * m, n),
                threads,
            );
        };
        let out = &mut out[..self.batches.len() * m * n];
        let split = threads.split(self.batches.len(), m.saturating_mul(n).saturating_mul(k) / 8);
        if split.parts < threads.count() {
            // Too few products: each is shared.
            for (index, out) in out.chunks_exact_mut((m * n).max(1)).enumerate() {
                product(index, out, scratch, threads);
            }
            return;
        }
        let scratch = PerThread::new(scratch, self.scratch_len(1));
        let out = Disjoint::new(out);
        threads.run(split.parts, &|part| {
            for index in split.range(part.index) {
                // SAFETY: each product is in one part, and the scratch is this thread's own.
                let (out, scratch) = unsafe { (out.slice(index * m * n..(index + 1) * m * n), scratch.of(part)) };
                product(index, out, scratch, &Threads::SINGLE);
            }
        });
    }
}

fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |total, &size| total.checked_mul(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close, assert_same_bits};

    /// The product by the definition, with broadcasting done index by index.
    fn reference(a_shape: &[usize], a: &[f32], b_shape: &[usize], b: &[f32]) -> Vec<f32> {
        let wide = |shape: &[usize], vector: [usize; 2]| match shape {
            [_] => vector.to_vec(),
            _ => shape.to_vec(),
        };
        let a_shape = wide(a_shape, [1, a_shape[0]]);
        let b_shape = wide(b_shape, [b_shape[0], 1]);
        let rank = a_shape.len().max(b_shape.len());
        let pad = |shape: Vec<usize>| [vec![1; rank - shape.len()], shape].concat();
        let (a_shape, b_shape) = (pad(a_shape), pad(b_shape));
        let (m, k, n) = (a_shape[rank - 2], a_shape[rank - 1], b_shape[rank - 1]);
        let batch: Vec<usize> = (0..rank - 2)
            .map(|i| if a_shape[i] == 1 { b_shape[i] } else { a_shape[i] })
            .collect();
        let mut out = Vec::new();
        for index in 0..batch.iter().product() {
            let mut coordinates = vec![0; rank - 2];
            let mut rest: usize = index;
            for axis in (0..rank - 2).rev() {
                coordinates[axis] = rest % batch[axis];
                rest /= batch[axis];
            }
            let at = |shape: &[usize]| {
                (0..rank - 2).fold(0, |sum, i| {
                    sum * shape[i] + if shape[i] == 1 { 0 } else { coordinates[i] }
                })
            };
            let (a, b) = (&a[at(&a_shape) * m * k..], &b[at(&b_shape) * k * n..]);
            for i in 0..m {
                for j in 0..n {
                    out.push((0..k).map(|d| a[i * k + d] * b[d * n + j]).sum());
                }
            }
        }
        out
    }

    #[test]
    fn ranks_and_broadcasts_match_the_definition() {
        let mut rng = Rng::new(7);
        let cases: [(&[usize], &[usize], &[usize]); 11] = [
            (&[3, 4], &[4, 5], &[3, 5]),
            (&[2, 3, 4], &[4, 5], &[2, 3, 5]),
            (&[4], &[4], &[]),
            (&[4], &[2, 4, 5], &[2, 5]),
            (&[2, 3, 4], &[4], &[2, 3]),
            (&[2, 1, 3, 4], &[5, 4, 6], &[2, 5, 3, 6]),
            (&[3, 9, 7], &[2, 3, 7, 17], &[2, 3, 9, 17]),
            (&[4, 6, 3], &[1, 3, 2], &[4, 6, 2]),
            (&[0, 6, 3], &[1, 3, 2], &[0, 6, 2]),
            (&[2, 6, 0], &[2, 0, 2], &[2, 6, 2]),
            (&[5, 0], &[0, 3], &[5, 3]),
        ];
        let threads = Threads::eager(3);
        for (a_shape, b_shape, expected_shape) in cases {
            let plan = MatMulPlan::new(a_shape, b_shape).unwrap();
            assert_eq!(plan.output(), expected_shape, "{a_shape:?} x {b_shape:?}");
            let a = rng.vec(a_shape.iter().product());
            let b = rng.vec(b_shape.iter().product());
            let expected = reference(a_shape, &a, b_shape, &b);
            let packed = plan.pack_b(&b).map(|packed| plan.clone().with_packed_b(packed));
            for plan in [Some(plan), packed].into_iter().flatten() {
                let mut out = vec![f32::NAN; expected.len()];
                let mut scratch = vec![f32::NAN; plan.scratch_len(1)];
                plan.run(&a, &b, &mut out, &mut scratch, &Epilogue::none(), &Threads::SINGLE);
                let mut scratch = vec![f32::NAN; plan.scratch_len(3)];
                let mut cut = vec![f32::NAN; out.len()];
                plan.run(&a, &b, &mut cut, &mut scratch, &Epilogue::none(), &threads);
                assert_same_bits(&cut, &out, &format!("{a_shape:?} x {b_shape:?}"));
                assert_close(&out, &expected, 1e-5, &format!("{a_shape:?} x {b_shape:?}"));
            }
        }
    }

    /// Swaps the last two axes.
    fn transposed(shape: &[usize], values: &[f32]) -> (Vec<usize>, Vec<f32>) {
        let [batch @ .., rows, columns] = shape else {
            return (shape.to_vec(), values.to_vec());
        };
        let stored = (0..values.len()).map(|index| {
            let (matrix, place) = (index / (rows * columns), index % (rows * columns));
            values[matrix * rows * columns + place % rows * columns + place / rows]
        });
        ([batch, &[*columns, *rows]].concat(), stored.collect())
    }

    #[test]
    fn transposed_operands_give_the_product_of_the_plain_ones() {
        let mut rng = Rng::new(8);
        let cases: [(&[usize], &[usize]); 6] = [
            (&[3, 4], &[4, 5]),
            (&[2, 3, 4], &[4, 5]),
            (&[2, 9, 7], &[2, 7, 17]),
            (&[2, 1, 3, 4], &[5, 4, 6]),
            (&[4], &[2, 4, 5]),
            (&[1, 1, 6], &[6, 3]),
        ];
        for (a_shape, b_shape) in cases {
            let a = rng.vec(a_shape.iter().product());
            let b = rng.vec(b_shape.iter().product());
            let expected = reference(a_shape, &a, b_shape, &b);
            for orders in [
                (Order::Transposed, Order::Plain),
                (Order::Plain, Order::Transposed),
                (Order::Transposed, Order::Transposed),
            ] {
                let store = |order, shape: &[usize], values: &[f32]| match order {
                    Order::Plain => (shape.to_vec(), values.to_vec()),
                    Order::Transposed => transposed(shape, values),
                };
                let (a_stored, b_stored) = (store(orders.0, a_shape, &a), store(orders.1, b_shape, &b));
                let plan = MatMulPlan::ordered(&a_stored.0, orders.0, &b_stored.0, orders.1).unwrap();
                assert_eq!(plan.output(), MatMulPlan::new(a_shape, b_shape).unwrap().output());
                let packed = plan
                    .pack_b(&b_stored.1)
                    .map(|packed| plan.clone().with_packed_b(packed));
                for plan in [Some(plan), packed].into_iter().flatten() {
                    let mut out = vec![f32::NAN; expected.len()];
                    let mut scratch = vec![f32::NAN; plan.scratch_len(1)];
                    let none = Epilogue::none();
                    plan.run(
                        &a_stored.1,
                        &b_stored.1,
                        &mut out,
                        &mut scratch,
                        &none,
                        &Threads::SINGLE,
                    );
                    assert_close(&out, &expected, 1e-5, &format!("{a_shape:?} x {b_shape:?} {orders:?}"));
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        for (a, b) in [
            (&[2, 3][..], &[4, 2][..]),
            (&[], &[2]),
            (&[2, 2, 3], &[3, 3, 2]),
            (&[3], &[2]),
        ] {
            assert!(MatMulPlan::new(a, b).is_none(), "{a:?} x {b:?}");
        }
        let huge = usize::MAX / 2;
        assert!(MatMulPlan::new(&[huge, 1], &[1, huge]).is_none());
    }
}
