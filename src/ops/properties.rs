//! Property tests of operators whose kernels have none of their own: random shapes (sizes of zero included), axes,
//! broadcasts and element types, against definitions written out element by element.

mod attention;
mod elementwise;
mod linear;
#[cfg(feature = "all-operators")]
mod models;
mod movement;
mod quantized;
mod resample;
mod rows;
#[cfg(feature = "all-operators")]
mod sampling;
mod selection;
#[cfg(feature = "all-operators")]
mod trees;

use super::testing::{TestNode, i64s};
use crate::{
    cpu::testing::Rng,
    graph::Attribute,
    tensor::{DType, Tensor, strides_of},
};

/// Cases of each kind.
const CASES: u64 = 60;

/// Element types that kernels move and compare.
const NUMBERS: [DType; 12] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
];

/// Runs `test` with generators of several seeds; the seed is told when it fails.
fn cases(test: impl Fn(&mut Rng)) {
    for seed in 1..=CASES {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&mut Rng::new(seed))));
        if let Err(reason) = outcome {
            eprintln!("the case of seed {seed} fails");
            std::panic::resume_unwind(reason);
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.size(0, list.len() - 1)]
}

/// A shape of `low..=high` axes, of which every eighth is empty.
fn shape(rng: &mut Rng, low: usize, high: usize) -> Vec<usize> {
    let rank = rng.size(low, high);
    let size = |_| match rng.size(0, 7) {
        0 => rng.size(0, 1),
        _ => rng.size(1, 5),
    };
    (0..rank).map(size).collect()
}

/// A shape whose axes are not empty.
fn full_shape(rng: &mut Rng, low: usize, high: usize) -> Vec<usize> {
    let rank = rng.size(low, high);
    (0..rank).map(|_| rng.size(1, 5)).collect()
}

/// Small numbers that every type holds exactly: whole ones of integers, quarters of floats.
fn numbers(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    if dtype.is_float() {
        let values: Vec<f64> = (0..count).map(|_| rng.size(0, 64) as f64 / 4.0 - 8.0).collect();
        return Tensor::from_f64s(dtype, shape, &values).unwrap();
    }
    let (low, high) = match dtype {
        DType::Bool => (0, 1),
        dtype if dtype.is_unsigned() => (0, 9),
        _ => (5, 9),
    };
    let values: Vec<i64> = (0..count)
        .map(|_| rng.size(0, low + high) as i64 - low as i64)
        .collect();
    let values: Vec<i64> = match dtype {
        DType::Bool => values.iter().map(|value| value & 1).collect(),
        _ => values,
    };
    if dtype == DType::String {
        return Tensor::from_strings(shape, values.iter().map(i64::to_string).collect()).unwrap();
    }
    Tensor::from_i64s(dtype, shape, &values).unwrap()
}

/// The tensor's elements at `sources`, and `fill` where there is none.
fn gathered(from: &Tensor, shape: &[usize], sources: &[Option<usize>], fill: f64) -> Tensor {
    let dtype = from.dtype();
    if dtype == DType::String {
        let all = from.strings().unwrap();
        let texts = sources.iter().map(|at| at.map_or(String::new(), |at| all[at].clone()));
        return Tensor::from_strings(shape, texts.collect()).unwrap();
    }
    if dtype.is_float() {
        let all = from.to_f64s().unwrap();
        let values: Vec<f64> = sources.iter().map(|at| at.map_or(fill, |at| all[at])).collect();
        return Tensor::from_f64s(dtype, shape, &values).unwrap();
    }
    let all = from.to_i64s().unwrap();
    let values: Vec<i64> = sources.iter().map(|at| at.map_or(fill as i64, |at| all[at])).collect();
    Tensor::from_i64s(dtype, shape, &values).unwrap()
}

/// Every index into a tensor of this shape, in row-major order.
fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    let strides = strides_of(shape);
    let count: usize = shape.iter().product();
    (0..count).map(move |flat| {
        let axes = strides.iter().zip(shape);
        axes.map(|(&stride, &size)| flat / stride.max(1) % size.max(1))
            .collect()
    })
}

/// The position of an index; axes of size 1 and missing leading ones are broadcast.
fn flat(shape: &[usize], index: &[usize]) -> usize {
    let index = &index[index.len() - shape.len()..];
    let axes = strides_of(shape).into_iter().zip(shape).zip(index);
    axes.map(|((stride, &size), &at)| if size == 1 { 0 } else { at * stride })
        .sum()
}

/// A shape that broadcasts to `shape`.
fn broadcastable(rng: &mut Rng, shape: &[usize]) -> Vec<usize> {
    let skipped = rng.size(0, shape.len());
    let size = |&size: &usize| if rng.size(0, 2) == 0 { 1 } else { size };
    shape[skipped..].iter().map(size).collect()
}

fn list(values: &[usize]) -> Tensor {
    i64s(
        &[values.len()],
        &values.iter().map(|&value| value as i64).collect::<Vec<_>>(),
    )
}

/// An input that is constant or not, by chance.
fn any_input(rng: &mut Rng, node: TestNode, tensor: Tensor) -> TestNode {
    if rng.bool() {
        node.constant(tensor)
    } else {
        node.input(tensor)
    }
}

/// An axis counted from the front or from the back, by chance.
fn any_axis(rng: &mut Rng, axis: usize, rank: usize) -> i64 {
    if rng.bool() {
        axis as i64
    } else {
        axis as i64 - rank as i64
    }
}
