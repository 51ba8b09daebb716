//! Elementary functions and activations over values in L1, as the pointwise kernel runs them.

use super::{Bench, values};
use crate::cpu::pointwise::{InputSlice, OutputSlice, PointwisePlan};
use crate::cpu::threads::Threads;
use crate::pointwise::{Builder, Expr, Reg, UnaryOp};

/// A run counts as this many operations per element, about what a function of moderate length needs.
const OPERATIONS: usize = 32;
const COUNT: usize = 4096;

type Function = fn(&mut Builder, Reg) -> Reg;

const FUNCTIONS: &[(&str, Function)] = &[
    ("relu", |b, x| b.unary(UnaryOp::Relu, x)),
    ("exp", |b, x| b.exp(x)),
    ("log", |b, x| b.unary(UnaryOp::Log, x)),
    ("tanh", |b, x| b.tanh(x)),
    ("sigmoid", |b, x| b.sigmoid(x)),
    ("erf", |b, x| b.unary(UnaryOp::Erf, x)),
    ("gelu", |b, x| b.gelu(x)),
    ("gelu, tanh", |b, x| b.gelu_tanh(x)),
    ("swish", |b, x| b.swish(x, 1.0)),
    ("hard swish", |b, x| b.hard_swish(x)),
];

/// The function's name, empty past the last.
pub fn name(index: usize) -> &'static str {
    FUNCTIONS.get(index).map_or("", |(name, _)| name)
}

/// One function over 4,096 values between -4 and 4.
pub fn bench(index: usize) -> Bench {
    let expr = Expr::of_one(FUNCTIONS[index].1).expect("a valid expression");
    let plan = PointwisePlan::new(&expr, &[COUNT], &[[COUNT]]).expect("one shape");
    let input: Vec<f32> = values(COUNT).iter().map(|x| x * 4.0).collect();
    let (mut output, mut scratch) = (vec![0.0; COUNT], vec![0.0; plan.scratch_len()]);
    let run = move || {
        let outputs = &mut [OutputSlice::f32(&mut output)];
        plan.run(&[InputSlice::F32(&input)], outputs, &mut scratch, &Threads::SINGLE);
    };
    Bench { flops: (COUNT * OPERATIONS) as f64, run: Box::new(run) }
}
