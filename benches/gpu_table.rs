//! What this machine's GPU does with our kernels: matrix products, attention, convolutions and whole models, in GFLOP/s and
//! as a share of what a kernel of nothing but multiply-adds reaches in the same run.
//!
//!   npm run bench:gpu -- [--quick] [--json] [--only TEXT] [CASE_FOLDER...]
//!
//! A case folder has model.onnx and test_data_set_0, whose outputs the model's are compared with. --quick takes smaller
//! sizes, for adapters that a program imitates; those get it by themselves. `VK_DRIVER_FILES` picks the Vulkan driver.
//!
//! `--serve MODEL.onnx INPUT.f32 INPUT_NAME` instead runs a model each time a line comes in on stdin, as
//! `benches/peers/src/gpu.rs` does for its engine.

use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use modelet::error::Result;
use modelet::gpu::device::GpuDevice;
use modelet::gpu::executor::{GpuConstants, GpuExecutor};
use modelet::gpu::kernel::{AdapterKind, Binding, GpuKernel, GpuType};
use modelet::gpu::program::{GpuProgram, GpuStep, GpuValue, GpuValueId, ValueStorage};
use modelet::gpu::wgsl::DispatchBuilder;
use modelet::graph::{Attribute, Graph, GraphBuilder};
use modelet::import::onnx::read_tensor;
use modelet::plan::{Offload, Placement};
use modelet::tensor::Dim;
use modelet::{DType, Device, Model, Session, SessionOptions, Tensor};

/// Sixteen independent sums of four per thread, so that neither latency nor memory holds it up.
const PEAK: &str = "
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let scale = vec4<f32>(params.scale);
    var sums: array<vec4<f32>, 16>;
    for (var i = 0u; i < 16u; i += 1u) {
        sums[i] = vec4<f32>(f32(id.x + i) * 1e-9);
    }
    for (var round = 0u; round < params.rounds; round += 1u) {
        ROUND
    }
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < 16u; i += 1u) {
        sum += sums[i];
    }
    output[id.x] = sum.x + sum.y + sum.z + sum.w;
}";

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Floats per second that multiply-adds alone reach, in GFLOP/s.
async fn peak(device: &Rc<GpuDevice>, quick: bool) -> Result<f64> {
    let (threads, rounds) = if quick { (4096usize, 256u32) } else { (1 << 18, 4096) };
    let round: String = (0..16)
        .map(|i| format!("sums[{i}] = fma(sums[{i}], scale, scale);\n"))
        .collect();
    // One text for the process, as those of kernels are.
    let text: &'static str = Box::leak(PEAK.replace("ROUND", &round).into_boxed_str());
    let dispatch = DispatchBuilder::new("peak", text)
        .storage("output", "f32", Binding::Output(0))
        .param("rounds", rounds)
        .param_f32("scale", 0.999)
        .finish([threads as u32 / 64, 1, 1]);
    let program = GpuProgram {
        values: vec![GpuValue {
            ty: GpuType::F32,
            elements: threads,
            storage: ValueStorage::Planned { first: 0, last: 1 },
        }],
        steps: vec![GpuStep {
            label: "peak".into(),
            node: 0,
            position: 0,
            kernel: GpuKernel::of(vec![dispatch]),
            inputs: Vec::new(),
            outputs: vec![Some(GpuValueId(0))],
        }],
    };
    let mut executor = GpuExecutor::new(Rc::clone(device), &program, &mut GpuConstants::default()).await?;
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let measured = executor.time(0..1).await?;
        let start = Instant::now();
        if measured.is_none() {
            executor.encode(0..1)?;
            executor.finish().await?;
        }
        best = best.min(measured.map_or_else(|| ms(start), |millis| millis[0]));
    }
    Ok(threads as f64 * f64::from(rounds) * 16.0 * 4.0 * 2.0 / best / 1e6)
}

/// Numbers between -1 and 1 that are the same everywhere.
fn made_up(shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product();
    Tensor::new(
        shape,
        (0..count).map(|index: usize| (index as f32 * 0.37).sin()).collect(),
    )
}

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&size| Dim::from(size)).collect()
}

/// A graph of one operator: what is fed has the shapes of `fed`, and weights those of `constants`.
struct Work {
    name: String,
    operator: &'static str,
    fed: Vec<Vec<usize>>,
    constants: Vec<Vec<usize>>,
    attributes: Vec<(&'static str, Attribute)>,
    flops: f64,
}

impl Work {
    fn graph(&self) -> Result<Graph> {
        let mut builder = GraphBuilder::new(23);
        let mut inputs = Vec::new();
        for (index, shape) in self.fed.iter().enumerate() {
            inputs.push(builder.input(&format!("x{index}"), DType::F32, dims(shape)));
        }
        for (index, shape) in self.constants.iter().enumerate() {
            inputs.push(builder.constant(&format!("w{index}"), made_up(shape)?));
        }
        let made = builder.node_with(self.operator, &inputs, &self.attributes);
        builder.output("y", made).finish()
    }

    fn product(m: usize, k: usize, n: usize) -> Work {
        Work {
            name: format!("matmul {m}x{k}x{n}"),
            operator: "MatMul",
            fed: vec![vec![m, k]],
            constants: vec![vec![k, n]],
            attributes: Vec::new(),
            flops: 2.0 * (m * k * n) as f64,
        }
    }

    fn attention(heads: usize, queries: usize, keys: usize, size: usize) -> Work {
        let (q, k) = (vec![1, heads, queries, size], vec![1, heads, keys, size]);
        Work {
            name: format!("attention {heads} heads, {queries} queries, {keys} keys of {size}"),
            operator: "Attention",
            fed: vec![q, k.clone(), k],
            constants: Vec::new(),
            attributes: Vec::new(),
            flops: 4.0 * (heads * queries * keys * size) as f64,
        }
    }

    fn conv(from: usize, to: usize, size: usize, kernel: usize, stride: usize, groups: usize) -> Work {
        let pad = (kernel / 2) as i64;
        let out = (size + 2 * (kernel / 2) - kernel) / stride + 1;
        let attributes = vec![
            ("pads", Attribute::Ints(vec![pad; 4])),
            ("strides", Attribute::Ints(vec![stride as i64; 2])),
            ("group", Attribute::Int(groups as i64)),
        ];
        let depthwise = if groups > 1 { ", depthwise" } else { "" };
        Work {
            name: format!("conv {kernel}x{kernel}/{stride} {from}→{to} @{size}{depthwise}"),
            operator: "Conv",
            fed: vec![vec![1, from, size, size]],
            constants: vec![vec![to, from / groups, kernel, kernel]],
            attributes,
            flops: 2.0 * (to * out * out * from / groups * kernel * kernel) as f64,
        }
    }
}

fn works(quick: bool) -> Vec<Work> {
    let mut works = Vec::new();
    let sizes: &[usize] = if quick {
        &[128, 256, 512]
    } else {
        &[512, 1024, 2048, 4096]
    };
    works.extend(sizes.iter().map(|&size| Work::product(size, size, size)));
    works.extend([Work::product(
        1,
        4096 >> (2 * usize::from(quick)),
        4096 >> (2 * usize::from(quick)),
    )]);
    if quick {
        works.extend([Work::attention(4, 64, 64, 32), Work::attention(4, 1, 256, 32)]);
        works.extend([Work::conv(32, 32, 28, 3, 1, 1), Work::conv(64, 64, 28, 1, 1, 1)]);
        works.push(Work::conv(64, 64, 28, 3, 1, 64));
        return works;
    }
    works.extend([
        Work::attention(12, 512, 512, 64),
        Work::attention(32, 2048, 2048, 128),
        Work::attention(32, 1, 4096, 128),
    ]);
    works.extend([
        Work::conv(3, 64, 224, 7, 2, 1),
        Work::conv(64, 64, 56, 3, 1, 1),
        Work::conv(256, 256, 14, 3, 1, 1),
    ]);
    works.extend([
        Work::conv(256, 512, 28, 1, 1, 1),
        Work::conv(128, 128, 56, 3, 2, 1),
        Work::conv(256, 256, 56, 3, 1, 256),
    ]);
    works
}

fn options() -> SessionOptions {
    SessionOptions {
        device: Device::WebGpu,
        ..SessionOptions::default()
    }
}

struct Row {
    name: String,
    /// Milliseconds on the GPU, and of a whole run.
    gpu_ms: f64,
    run_ms: f64,
    flops: f64,
    remark: String,
}

/// Runs a graph of one operator. Small outputs could be computed twice; that kernels are right is what tests are for.
async fn measure(work: &Work, quick: bool) -> Result<Row> {
    // However small, as it is the GPU that is measured.
    let offload = Offload::Everything;
    let options = SessionOptions { offload, ..options() };
    let mut session = Session::new(Model::from_graph(work.graph()?)?, options).await?;
    let feeds = work.fed.iter().enumerate();
    let feeds = feeds.map(|(index, shape)| Ok((format!("x{index}"), made_up(shape)?.into())));
    let profile = session
        .profile(feeds.collect::<Result<_>>()?, if quick { 3 } else { 20 })
        .await?;
    let on_cpu = session.report().nodes.iter().any(|node| node.place == Placement::Cpu);
    Ok(Row {
        name: work.name.clone(),
        gpu_ms: profile.nodes.iter().map(|row| row.ms).sum(),
        run_ms: profile.run_ms,
        flops: work.flops,
        remark: if on_cpu { "on the CPU" } else { "" }.into(),
    })
}

fn tensors(set: &Path, prefix: &str) -> Result<Vec<(String, Tensor)>> {
    let files = (0..).map(|index| fs::read(set.join(format!("{prefix}_{index}.pb"))));
    files.map_while(std::result::Result::ok).map(read_tensor).collect()
}

/// Elements that lie further apart than 1e-3 relative and 1e-4 absolute.
fn wrong(found: &Tensor, expected: &Tensor) -> usize {
    match (found.to_f32s(), expected.to_f32s()) {
        (Ok(a), Ok(b)) if a.len() == b.len() => {
            let apart = |(a, b): &(&f32, &f32)| {
                !(a == b || (a.is_nan() && b.is_nan()) || (*a - *b).abs() <= 1e-4 + 1e-3 * b.abs())
            };
            a.iter().zip(b.iter()).filter(apart).count()
        }
        _ => usize::from(found != expected) * expected.len().max(1),
    }
}

async fn measure_model(folder: &Path, quick: bool) -> Result<Row> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut session = Session::new(Model::load_file(folder.join("model.onnx"))?, options()).await?;
    let set = folder.join("test_data_set_0");
    let names: Vec<String> = session.inputs().iter().map(|input| input.name.clone()).collect();
    let fed = tensors(&set, "input")?;
    let by_name = fed.iter().all(|(name, _)| names.contains(name));
    let feeds = fed.into_iter().zip(names);
    let feeds: Vec<_> = feeds
        .map(|((own, tensor), position)| (if by_name { own } else { position }, tensor.into()))
        .collect();
    let outputs = session.run(feeds.clone()).await?;
    let expected = tensors(&set, "output")?;
    let pairs = expected.iter().enumerate();
    let bad: usize = pairs
        .map(|(index, (_, expected))| wrong(&outputs[index], expected))
        .sum();
    let count: usize = expected.iter().map(|(_, tensor)| tensor.len()).sum();
    let (runs, limit) = if quick { (3, 4e3) } else { (50, 10e3) };
    let mut best = f64::INFINITY;
    let begun = Instant::now();
    for _ in 0..runs {
        let start = Instant::now();
        session.run(feeds.clone()).await?;
        best = best.min(ms(start));
        if ms(begun) > limit {
            break;
        }
    }
    let profile = session.profile(feeds, if quick { 1 } else { 10 }).await?;
    let report = session.report();
    let on_cpu = report.nodes.iter().filter(|node| node.place == Placement::Cpu).count();
    let correct = if bad == 0 {
        "correct".into()
    } else {
        format!("{bad} of {count} elements wrong")
    };
    let dispatches = report.dispatches;
    Ok(Row {
        name,
        gpu_ms: profile.nodes.iter().filter(|row| row.on_gpu).map(|row| row.ms).sum(),
        run_ms: best,
        flops: profile.nodes.iter().map(|row| row.operations as f64).sum(),
        remark: format!("{correct}, {dispatches} dispatches, {on_cpu} nodes on the CPU"),
    })
}

struct Options {
    quick: bool,
    json: bool,
    only: String,
    cases: Vec<PathBuf>,
}

async fn table(options: &Options) -> Result<()> {
    let device = GpuDevice::shared().await?;
    let adapter = device.adapter();
    let quick = options.quick || adapter.kind == AdapterKind::Software;
    let peak = peak(&device, quick).await?;
    if options.json {
        println!(
            r#"{{"adapter":{:?},"backend":{:?},"peak_gflops":{peak:.1}}}"#,
            adapter.name, adapter.backend
        );
    } else {
        println!(
            "{} ({:?}, {}): multiply-adds alone {peak:.0} GFLOP/s\n",
            adapter.name, adapter.kind, adapter.backend
        );
        println!("| work | GPU ms | run ms | GFLOP/s | of peak | |\n|---|---|---|---|---|---|");
    }
    let show = |name: &str, row: Result<Row>| match row {
        Ok(row) => {
            let rate = row.flops / row.gpu_ms.max(1e-9) / 1e6;
            let (share, remark) = (rate / peak, &row.remark);
            match options.json {
                true => println!(
                    r#"{{"work":{:?},"gpu_ms":{:.4},"run_ms":{:.4},"gflops":{rate:.2},"of_peak":{share:.4},"remark":{remark:?}}}"#,
                    row.name, row.gpu_ms, row.run_ms
                ),
                false => println!(
                    "| {} | {:.3} | {:.3} | {rate:.1} | {:.0} % | {remark} |",
                    row.name,
                    row.gpu_ms,
                    row.run_ms,
                    share * 100.0
                ),
            }
        }
        Err(error) if options.json => println!(r#"{{"work":{name:?},"error":{:?}}}"#, error.to_string()),
        Err(error) => println!("| {name} | | | | | {error} |"),
    };
    for work in works(quick).iter().filter(|work| work.name.contains(&options.only)) {
        show(&work.name, measure(work, quick).await);
    }
    for folder in &options.cases {
        show(&folder.to_string_lossy(), measure_model(folder, quick).await);
    }
    Ok(())
}

/// Folders with a model, and those inside others.
fn cases_in(folder: &Path, cases: &mut Vec<PathBuf>) {
    if folder.join("model.onnx").exists() {
        cases.push(folder.into());
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut inner: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    inner.sort();
    inner.iter().for_each(|path| cases_in(path, cases));
}

async fn serve(model: &str, input: &str, name: &str) -> Result<()> {
    let values = fs::read(input).unwrap_or_default();
    let values: Vec<f32> = values
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect();
    let start = Instant::now();
    let mut session = Session::new(Model::load_file(model)?, options()).await?;
    let load = ms(start);
    let shape = session.inputs().iter().find(|input| input.name == name);
    let shape = shape
        .and_then(|input| input.ty.as_tensor()?.shape.clone())
        .unwrap_or_default();
    let shape: Vec<usize> = shape.iter().map(|dim| dim.known().unwrap_or(1) as usize).collect();
    let feed = Tensor::new(&shape, values)?;
    let start = Instant::now();
    let outputs = session.run([(name, feed.clone())]).await?;
    let first = ms(start);
    let output = outputs[0].to_f32s()?;
    let adapter = session.report().adapter.unwrap_or_default();
    println!(r#"{{"load_ms":{load},"first_ms":{first},"adapter":{adapter:?},"output":{output:?}}}"#);
    for _ in std::io::stdin().lock().lines() {
        let start = Instant::now();
        session.run([(name, feed.clone())]).await?;
        println!("{}", ms(start));
    }
    Ok(())
}

fn main() {
    // Cargo itself passes --bench.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--serve", model, input, name] => pollster::block_on(serve(model, input, name)),
        args => {
            let mut options = Options {
                quick: false,
                json: false,
                only: String::new(),
                cases: Vec::new(),
            };
            let mut args = args.iter();
            while let Some(&arg) = args.next() {
                match arg {
                    "--quick" => options.quick = true,
                    "--json" => options.json = true,
                    "--only" => options.only = args.next().map(|&text| text.into()).unwrap_or_default(),
                    folder => cases_in(Path::new(folder), &mut options.cases),
                }
            }
            pollster::block_on(table(&options))
        }
    };
    if let Err(error) = result {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
