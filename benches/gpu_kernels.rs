//! Matrix products and convolutions on this machine's adapter: a naive text, the variant for software and the one for hardware
//! in one run, in GFLOP/s and relative to the naive one.
//!
//! `cargo bench --bench gpu_kernels`; `VK_DRIVER_FILES` picks the Vulkan driver.

use std::rc::Rc;
use std::time::Instant;

use modelet::Tensor;
use modelet::error::Result;
use modelet::gpu::device::GpuDevice;
use modelet::gpu::executor::{GpuConstants, GpuExecutor};
use modelet::gpu::kernel::{AdapterKind, Binding, GpuCaps, GpuKernel, GpuType};
use modelet::gpu::kernels::conv::{Window, conv};
use modelet::gpu::kernels::matmul::matmul;
use modelet::gpu::kernels::{Constant, Operand};
use modelet::gpu::program::{GpuProgram, GpuStep, GpuValue, GpuValueId, ValueStorage};
use modelet::gpu::wgsl::DispatchBuilder;

const NAIVE: &str = "
@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.n || id.y >= params.m) {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.k; k += 1u) {
        sum += a[id.y * params.k + k] * b[k * params.n + id.x];
    }
    output[id.y * params.n + id.x] = sum;
}";

fn naive(m: usize, n: usize, k: usize) -> GpuKernel {
    let dispatch = DispatchBuilder::new("naive", NAIVE)
        .storage("a", "f32", Binding::Input(0))
        .storage("b", "f32", Binding::Input(1))
        .storage("output", "f32", Binding::Output(0))
        .param("m", m as u32)
        .param("n", n as u32)
        .param("k", k as u32);
    GpuKernel::of(vec![dispatch.finish([n.div_ceil(8) as u32, m.div_ceil(8) as u32, 1])])
}

/// Milliseconds of the fastest of several runs, and of preparing the kernel.
async fn time(device: &Rc<GpuDevice>, kernel: GpuKernel, sizes: &[usize]) -> Result<(f64, f64)> {
    let values = sizes.iter().map(|&elements| GpuValue {
        ty: GpuType::F32,
        elements,
        storage: ValueStorage::Planned { first: 0, last: 1 },
    });
    let last = sizes.len() - 1;
    let step = GpuStep {
        label: "bench".into(),
        node: 0,
        position: 0,
        kernel,
        inputs: (0..last).map(|i| Some(GpuValueId(i))).collect(),
        outputs: vec![Some(GpuValueId(last))],
    };
    let program = GpuProgram {
        values: values.collect(),
        steps: vec![step],
    };
    let start = Instant::now();
    let mut executor = GpuExecutor::new(Rc::clone(device), &program, &mut GpuConstants::default()).await?;
    executor.encode(0..1)?;
    executor.finish().await?;
    let first = start.elapsed().as_secs_f64() * 1e3;
    let mut best = f64::INFINITY;
    let all = Instant::now();
    for _ in 0..20 {
        let start = Instant::now();
        executor.encode(0..1)?;
        executor.finish().await?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
        if all.elapsed().as_secs() > 8 {
            break;
        }
    }
    Ok((best, first))
}

fn variants(device: &GpuDevice) -> [(&'static str, GpuCaps); 2] {
    [("software", AdapterKind::Software), ("hardware", AdapterKind::Hardware)].map(|(name, kind)| {
        let mut caps = device.caps().clone();
        caps.kind = kind;
        (name, caps)
    })
}

async fn run() -> Result<()> {
    let device = GpuDevice::shared().await?;
    println!(
        "{} ({:?}, {})",
        device.adapter().name,
        device.adapter().kind,
        device.adapter().backend
    );
    println!(
        "{:34} {:>8} {:>9} {:>9} {:>7}",
        "kernel", "ms", "GFLOP/s", "first ms", "ratio"
    );
    let report = |name: &str, flops: f64, (ms, first): (f64, f64), base: f64| {
        let rate = flops / ms / 1e6;
        println!("{name:34} {ms:8.2} {rate:9.2} {first:9.0} {:6.1}x", base / ms);
    };
    for [m, n, k] in [[512, 512, 512], [128, 384, 384], [1, 1024, 1024]] {
        let sizes = [m * k, k * n, m * n];
        let flops = 2.0 * (m * n * k) as f64;
        let base = time(&device, naive(m, n, k), &sizes).await?;
        report(&format!("matmul {m}x{n}x{k} naive"), flops, base, base.0);
        for (name, caps) in variants(&device) {
            let (a, b) = ([m, k], [k, n]);
            if let Some(kernel) = matmul(&Operand::input(&a, 0), &Operand::input(&b, 1), None, &caps) {
                let found = time(&device, kernel, &sizes).await?;
                report(&format!("matmul {m}x{n}x{k} {name}"), flops, found, base.0);
            }
        }
    }
    for [channels, size, kernel] in [[64, 56, 3], [256, 14, 3], [128, 28, 1]] {
        let (x, w) = ([1, channels, size, size], [channels, channels, kernel, kernel]);
        let positions = size * size;
        let depth = channels * kernel * kernel;
        let flops = 2.0 * (channels * positions * depth) as f64;
        // The naive text stands for the product alone, on a column matrix that someone else has made.
        let base = time(
            &device,
            naive(channels, positions, depth),
            &[channels * depth, depth * positions, channels * positions],
        )
        .await?;
        report(
            &format!("conv {channels}@{size} {kernel}x{kernel} naive product"),
            flops,
            base,
            base.0,
        );
        let weights = Tensor::zeros(modelet::DType::F32, &w)?;
        let pads = [kernel / 2; 4];
        let window = Window {
            kernel: &[kernel; 2],
            strides: &[1; 2],
            dilations: &[1; 2],
            pads: &pads,
        };
        for (name, caps) in variants(&device) {
            let weights = Operand::constant(
                &w,
                1,
                Constant {
                    source: 0,
                    tensor: &weights,
                },
            );
            if let Some(kernel_) = conv(&Operand::input(&x, 0), &weights, None, 1, &window, &x, None, &caps) {
                let sizes = [channels * positions, channels * depth, channels * positions];
                let found = time(&device, kernel_, &sizes).await?;
                report(
                    &format!("conv {channels}@{size} {kernel}x{kernel} {name}"),
                    flops,
                    found,
                    base.0,
                );
            }
        }
    }
    Ok(())
}

fn main() {
    if let Err(error) = pollster::block_on(run()) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
