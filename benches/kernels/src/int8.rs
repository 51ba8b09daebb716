//! Products and convolutions of 8-bit integers, and their roof: the dot products of 16-bit pairs and of bytes, on
//! accumulators in registers.

use crate::cpu;
use crate::cpu::conv::{ConvParams, ConvPlan};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::gemm::GemmShape;
use crate::cpu::int8::conv::IntegerConv;
use crate::cpu::int8::store::{Per, Store, Target};
use crate::cpu::int8::{ByteMatrix, Weights, Zeros, matmul, matmul_scratch_len};
use crate::cpu::simd::I32x4;
use crate::cpu::simd::bytes::byte_dot;
use crate::cpu::threads::Threads;
use crate::Bench;

const STEPS: usize = 20_000;
const ACCUMULATORS: usize = 13;

#[inline(never)]
fn pairs_loop(left: I32x4, right: I32x4) -> i32 {
    let mut sums = [I32x4::splat(0); ACCUMULATORS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            // The factor depends on the sum, or the product would be computed once.
            *sum = *sum + (left ^ *sum).dot_pairs(right);
        }
    }
    sums.into_iter().fold(I32x4::splat(0), |a, b| a + b).to_array()[0]
}

#[inline(never)]
fn bytes_loop(left: I32x4, right: I32x4) -> i32 {
    let mut sums = [I32x4::splat(0); ACCUMULATORS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = left.dot_bytes(right, *sum);
        }
    }
    sums.into_iter().fold(I32x4::splat(0), |a, b| a + b).to_array()[0]
}

/// The roof of multiplications and additions on bytes, by the instruction that the kernels use.
pub fn roof() -> Bench {
    let (work, per_lane): (fn(I32x4, I32x4) -> i32, usize) =
        if byte_dot().is_some() { (bytes_loop, 4) } else { (pairs_loop, 2) };
    let ones = I32x4::splat_byte(1);
    let run = move || {
        std::hint::black_box(work(std::hint::black_box(ones), std::hint::black_box(ones)));
    };
    Bench { flops: (STEPS * ACCUMULATORS * 4 * per_lane * 2) as f64, run: Box::new(run) }
}

fn bytes(len: usize) -> Vec<u8> {
    crate::values(len).into_iter().map(|value| (value * 127.0) as i8 as u8).collect()
}

/// A product with constant weights, both sides with zero points.
pub fn gemm(m: usize, k: usize, n: usize) -> Bench {
    let (a, b) = (bytes(m * k), bytes(k * n));
    let matrix = |data, is_signed| ByteMatrix { data, is_signed, zeros: Zeros::One(3) };
    let weights = Weights::right(matrix(&b, true), k, n);
    let shape = GemmShape { m, k, n };
    let mut out = vec![0.0; m * n];
    let mut scratch = vec![0; matmul_scratch_len(shape)];
    let run = move || {
        let epilogue = Epilogue::none();
        let store = Store::new(Target::Floats(&mut out), n, Per::One(0), Per::One(0.5), &epilogue);
        let a = ByteMatrix { data: &a, is_signed: false, zeros: Zeros::One(3) };
        matmul(shape, a, &weights, &mut scratch, &store, &Threads::SINGLE);
    };
    Bench { flops: 2.0 * (m * k * n) as f64, run: Box::new(run) }
}

/// A convolution to f32.
pub fn conv(params: ConvParams) -> Bench {
    assert!(ConvPlan::new(params.clone(), cpu::conv::Weights::AtRunTime).is_some(), "sizes of a real layer");
    // The product of both lengths does not fit 32 bits.
    let flops = 2.0 * params.output_len() as f64 * (params.weights_len() / params.out_channels) as f64;
    let (input, weights) = (bytes(params.input_len()), bytes(params.weights_len()));
    let mut out = vec![0.0; params.output_len()];
    let row_len = params.output().into_iter().product();
    let plan = IntegerConv::new(params).expect("sizes of a real layer");
    let weights = plan.pack(ByteMatrix { data: &weights, is_signed: true, zeros: Zeros::One(0) });
    let mut scratch = vec![0; plan.scratch_len(1)];
    let run = move || {
        let epilogue = Epilogue::none();
        let store = Store::new(Target::Floats(&mut out), row_len, Per::One(0), Per::One(0.5), &epilogue);
        plan.run(&input, (false, 3), &weights, &mut scratch, &store, &Threads::SINGLE);
    };
    Bench { flops, run: Box::new(run) }
}
