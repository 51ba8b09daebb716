//! What the operators' CPU kernels share: SIMD, matrix products, convolution, pooling, reductions, recurrent layers, Fourier
//! transforms, forests. Kernels are free functions over slices plus small plan-time structs that are `Send` and `Sync`; they allocate
//! nothing (scratch memory comes in as a slice) and know neither graph nor operators.

// Without the rare operators, what only they use lies idle.
#![cfg_attr(not(feature = "all-operators"), allow(dead_code))]

pub mod attention;
pub mod codes;
pub mod conv;
pub mod dot_attention;
pub mod elementwise;
pub mod epilogue;
pub mod executor;
pub mod expression;
pub mod fft;
pub mod forest;
pub mod gemm;
pub mod int8;
pub mod kernel;
pub mod math;
pub mod matmul;
pub mod movement;
pub mod nibbles;
pub mod norm;
pub mod pointwise;
pub mod pool;
pub mod random;
pub mod reduce;
pub mod resample;
pub mod rnn;
pub mod simd;
pub mod softmax;
#[cfg(test)]
pub mod testing;
pub mod threads;
pub mod transpose;
