//! Micro-benchmarks of the CPU kernels, compiled straight from the crate's sources without wasm-bindgen, so that the
//! module can be instantiated anywhere. The exports make a benchmark, run it some times, and say how many
//! floating-point operations one run is.
#![allow(dead_code, missing_docs, unused_imports)]

#[path = "../../../src/cpu/mod.rs"]
pub mod cpu;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/pointwise/mod.rs"]
pub mod pointwise;
#[path = "../../../src/tensor/mod.rs"]
pub mod tensor;

mod elementary;
mod int8;
mod tiles;

// The crate's seeds come from JavaScript; here nothing is random.
extern crate self as js_sys;
pub struct Math;
impl Math {
    pub fn random() -> f64 {
        0.5
    }
}

use cpu::conv::{ConvParams, ConvPlan, Filter, Weights};
use cpu::epilogue::{Bias, Clamp, Epilogue};
use cpu::norm::{LocalResponse, local_response_norm};
use cpu::pool::{AverageCount, AveragePool, PoolParams, Rounding, max_pool, pool_scratch_len, pooled_len};
use cpu::threads::Threads;
use cpu::gemm::{GemmShape, Lhs, MatrixRef, PackedB, Rhs, gemm, gemm_scratch_len};

/// One benchmark: what a run does and how many multiplications and additions that is.
pub struct Bench {
    pub flops: f64,
    pub run: Box<dyn FnMut()>,
}

fn values(len: usize) -> Vec<f32> {
    let mut state = 12345u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The multiply-add roof: independent accumulators in registers, no memory.
pub fn roof() -> Bench {
    Bench { flops: tiles::ROOF_FLOPS, run: Box::new(tiles::roof) }
}

/// A tile shape on packed panels in L1.
pub fn tile(index: usize) -> Option<(&'static str, Bench)> {
    tiles::tile(index)
}

/// A matrix product; `constant`: B is packed beforehand.
pub fn gemm_bench(m: usize, k: usize, n: usize, constant: bool) -> Bench {
    let (a, b) = (values(m * k), values(k * n));
    let shape = GemmShape { m, k, n };
    let mut out = vec![0.0; m * n];
    let mut scratch = vec![0.0; gemm_scratch_len(shape, false, false)];
    let packed = constant.then(|| PackedB::new(MatrixRef::row_major(&b, n), k, n));
    let run = move || {
        let rhs = packed.as_ref().map_or(Rhs::Matrix(MatrixRef::row_major(&b, n)), Rhs::Packed);
        let (lhs, none) = (Lhs::Matrix(MatrixRef::row_major(&a, k)), Epilogue::none());
        gemm(shape, lhs, rhs, &mut out, &mut scratch, &none, &Threads::SINGLE);
    };
    Bench { flops: 2.0 * (m * k * n) as f64, run: Box::new(run) }
}

/// A matrix product whose packed B is another one at each run, so that it comes from beyond the second-level cache.
pub fn cold_gemm_bench(m: usize, k: usize, n: usize) -> Bench {
    let shape = GemmShape { m, k, n };
    let (a, b) = (values(m * k), values(k * n));
    let mut out = vec![0.0; m * n];
    let mut scratch = vec![0.0; gemm_scratch_len(shape, false, false)];
    let count = (1 << 23) / (k * n) + 2;
    let packed: Vec<PackedB> = (0..count).map(|_| PackedB::new(MatrixRef::row_major(&b, n), k, n)).collect();
    let mut turn = 0;
    let run = move || {
        turn = (turn + 1) % count;
        let (lhs, rhs) = (Lhs::Matrix(MatrixRef::row_major(&a, k)), Rhs::Packed(&packed[turn]));
        gemm(shape, lhs, rhs, &mut out, &mut scratch, &Epilogue::none(), &Threads::SINGLE);
    };
    Bench { flops: 2.0 * (m * k * n) as f64, run: Box::new(run) }
}

/// The sizes of a square two-dimensional convolution.
fn conv_params(
    in_channels: usize,
    out_channels: usize,
    groups: usize,
    size: usize,
    kernel: usize,
    stride: usize,
) -> ConvParams {
    let pad = kernel / 2;
    ConvParams {
        batch: 1,
        in_channels,
        out_channels,
        groups,
        input: [1, size, size],
        kernel: [1, kernel, kernel],
        strides: [1, stride, stride],
        dilations: [1; 3],
        pads_begin: [0, pad, pad],
        pads_end: [0, pad, pad],
    }
}

/// A two-dimensional convolution of so many lines, or as many as columns for 0, with bias and ReLU.
pub fn conv_bench(
    in_channels: usize,
    out_channels: usize,
    groups: usize,
    lines: usize,
    size: usize,
    kernel: usize,
    stride: usize,
) -> Bench {
    let mut params = conv_params(in_channels, out_channels, groups, size, kernel, stride);
    params.input[1] = if lines > 0 { lines } else { size };
    constant_conv_bench(params)
}

/// A convolution with constant weights, bias and ReLU.
fn constant_conv_bench(params: ConvParams) -> Bench {
    let input = values(params.input_len());
    let bias = values(params.out_channels);
    let mut output = vec![0.0; params.output_len()];
    let taps = params.weights_len() / params.out_channels;
    let flops = 2.0 * (params.output_len() * taps) as f64;
    let plan = ConvPlan::new(params.clone(), Weights::Constant).expect("sizes of a real layer");
    let filter = plan.pack(&values(params.weights_len()));
    let mut scratch = vec![0.0; plan.scratch_len(1)];
    let run = move || {
        let epilogue = Epilogue { bias: Bias::PerRow(&bias), clamp: Some(Clamp::RELU), ..Epilogue::none() };
        plan.run(&input, Filter::Packed(&filter), &mut output, &mut scratch, &epilogue, &Threads::SINGLE);
    };
    Bench { flops, run: Box::new(run) }
}

/// A convolution of stride 1 along a line of `size`, padded by half the kernel, with bias and ReLU.
pub fn line_conv_bench(in_channels: usize, out_channels: usize, size: usize, kernel: usize, dilation: usize) -> Bench {
    let mut params = conv_params(in_channels, out_channels, 1, size, kernel, 1);
    (params.input[1], params.kernel[1]) = (1, 1);
    (params.pads_begin[1], params.pads_end[1]) = (0, 0);
    params.dilations[2] = dilation;
    (params.pads_begin[2], params.pads_end[2]) = (kernel / 2 * dilation, kernel / 2 * dilation);
    constant_conv_bench(params)
}

/// A square pooling of `[1, channels, size, size]`: maximum, or average (of what lies inside). Each tap counts as one
/// operation.
pub fn pool_bench(channels: usize, size: usize, kernel: usize, stride: usize, pad: usize, average: bool) -> Bench {
    let len = pooled_len(size, kernel, stride, 1, (pad, pad), Rounding::Floor);
    let params = PoolParams {
        planes: channels,
        input: [1, size, size],
        output: [1, len, len],
        kernel: [1, kernel, kernel],
        strides: [1, stride, stride],
        dilations: [1; 3],
        pads_begin: [0, pad, pad],
        pads_end: [0, pad, pad],
    };
    let input = values(channels * size * size);
    let mut out = vec![0.0; channels * len * len];
    let mut scratch = vec![0.0; pool_scratch_len(&params)];
    let flops = (out.len() * kernel * kernel) as f64;
    let plan = AveragePool::new(params.clone(), AverageCount::Inside);
    let run = move || match average {
        true => plan.run(&input, &mut out, &Threads::SINGLE),
        false => max_pool(&params, &input, &mut out, &mut scratch, &Threads::SINGLE),
    };
    Bench { flops, run: Box::new(run) }
}

/// LRN over five channels of `[1, channels, size, size]`: a multiplication and an addition per neighbour.
pub fn lrn_bench(channels: usize, size: usize) -> Bench {
    let input = values(channels * size * size);
    let mut out = vec![0.0; input.len()];
    let parameters = LocalResponse { size: 5, alpha: 1e-4, beta: 0.75, bias: 1.0 };
    let flops = (input.len() * 10) as f64;
    let run = move || {
        local_response_norm(&input, &mut out, [1, channels, size * size], parameters, &Threads::SINGLE);
    };
    Bench { flops, run: Box::new(run) }
}

#[cfg(target_arch = "wasm32")]
mod exports {
    use super::*;

    fn leak(bench: Bench) -> *mut Bench {
        Box::into_raw(Box::new(bench))
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_roof() -> *mut Bench {
        leak(roof())
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_tile(index: usize) -> *mut Bench {
        tile(index).map_or(std::ptr::null_mut(), |(_, bench)| leak(bench))
    }

    /// The length of the tile's name, whose address is written to `at`.
    ///
    /// # Safety
    /// `at` is writable.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn tile_name(index: usize, at: *mut *const u8) -> usize {
        let name = tiles::name(index);
        // SAFETY: the caller's promise.
        unsafe { *at = name.as_ptr() };
        name.len()
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_gemm(m: usize, k: usize, n: usize, constant: usize) -> *mut Bench {
        leak(gemm_bench(m, k, n, constant != 0))
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_cold_gemm(m: usize, k: usize, n: usize) -> *mut Bench {
        leak(cold_gemm_bench(m, k, n))
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_conv(
        in_channels: usize,
        out_channels: usize,
        groups: usize,
        lines: usize,
        size: usize,
        kernel: usize,
        stride: usize,
    ) -> *mut Bench {
        leak(conv_bench(in_channels, out_channels, groups, lines, size, kernel, stride))
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_line_conv(
        in_channels: usize,
        out_channels: usize,
        size: usize,
        kernel: usize,
        dilation: usize,
    ) -> *mut Bench {
        leak(line_conv_bench(in_channels, out_channels, size, kernel, dilation))
    }

    /// # Safety
    /// `at` is writable; see [`tile_name`].
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn elementary_name(index: usize, at: *mut *const u8) -> usize {
        let name = elementary::name(index);
        // SAFETY: the caller's promise.
        unsafe { *at = name.as_ptr() };
        name.len()
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_elementary(index: usize) -> *mut Bench {
        leak(elementary::bench(index))
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_pool(
        channels: usize,
        size: usize,
        kernel: usize,
        stride: usize,
        pad: usize,
        average: usize,
    ) -> *mut Bench {
        leak(pool_bench(channels, size, kernel, stride, pad, average != 0))
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_lrn(channels: usize, size: usize) -> *mut Bench {
        leak(lrn_bench(channels, size))
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_int8_roof() -> *mut Bench {
        leak(int8::roof())
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_int8_gemm(m: usize, k: usize, n: usize) -> *mut Bench {
        leak(int8::gemm(m, k, n))
    }

    #[unsafe(no_mangle)]
    pub extern "C" fn bench_int8_conv(
        in_channels: usize,
        out_channels: usize,
        groups: usize,
        size: usize,
        kernel: usize,
        stride: usize,
    ) -> *mut Bench {
        leak(int8::conv(conv_params(in_channels, out_channels, groups, size, kernel, stride)))
    }

    /// # Safety
    /// `bench` comes from one of the makers and was not freed.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn bench_flops(bench: *const Bench) -> f64 {
        // SAFETY: the caller's promise.
        unsafe { (*bench).flops }
    }

    /// # Safety
    /// `bench` comes from one of the makers and was not freed.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn bench_run(bench: *mut Bench, times: usize) {
        // SAFETY: the caller's promise.
        let bench = unsafe { &mut *bench };
        for _ in 0..times {
            (bench.run)();
        }
    }

    /// # Safety
    /// `bench` comes from one of the makers and is not used again.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn bench_free(bench: *mut Bench) {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(bench) });
    }
}
