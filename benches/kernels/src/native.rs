//! The same benchmarks as a native program.

use std::time::Instant;

use modelet_kernel_bench::{Bench, conv_bench, gemm_bench, roof, tile};

fn gflops(mut bench: Bench) -> f64 {
    (bench.run)();
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        (bench.run)();
        best = best.min(start.elapsed().as_secs_f64());
    }
    bench.flops / best / 1e9
}

fn main() {
    let top = gflops(roof());
    println!("roof {top:.1} GFLOP/s");
    let mut index = 0;
    while let Some((name, bench)) = tile(index) {
        println!("{name:28} {:.2} of the roof", gflops(bench) / top);
        index += 1;
    }
    println!("gemm 1024 cubed              {:.2}", gflops(gemm_bench(1024, 1024, 1024, false)) / top);
    println!("conv 64x56x56 3x3            {:.2}", gflops(conv_bench(64, 64, 1, 0, 56, 3, 1)) / top);
}
