//! Runs ONNX-style case folders (`model.onnx`, `test_data_set_<k>/{input,output}_<i>.pb`) natively, at every
//! optimization level, on the CPU and (with the `gpu` feature and an adapter) on the GPU. The folders come from
//! `MODELET_CASES`, which may name several, separated by `:`; without it the fixtures of the repository are run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use modelet::{
    Device, Model, Session, SessionOptions, Tensor, import::onnx::read_tensor, optimize::Level, plan::Placement,
};

const RELATIVE: f32 = 1e-3;
const ABSOLUTE: f32 = 1e-4;

struct Case {
    id: String,
    model: PathBuf,
    sets: Vec<PathBuf>,
}

fn cases() -> Vec<Case> {
    let Ok(folders) = std::env::var("MODELET_CASES") else {
        println!("skipped: MODELET_CASES names no case folders (npm test fetches and makes them)");
        return Vec::new();
    };
    let mut cases = Vec::new();
    for root in folders.split(':').filter(|folder| !folder.is_empty()) {
        collect(Path::new(root), &mut cases);
    }
    cases.sort_by(|a, b| a.id.cmp(&b.id));
    let only = std::env::var("MODELET_ONLY").unwrap_or_default();
    cases.retain(|case| only.is_empty() || only.split(',').any(|id| case.id == id));
    cases
}

fn collect(folder: &Path, cases: &mut Vec<Case>) {
    let model = folder.join("model.onnx");
    let entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    if model.exists() {
        let is_set = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("test_data_set_")
        };
        let mut sets: Vec<PathBuf> = entries.iter().filter(is_set).cloned().collect();
        sets.sort();
        let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        cases.push(Case { id, model, sets });
        return;
    }
    entries
        .iter()
        .filter(|path| path.is_dir())
        .for_each(|path| collect(path, cases));
}

fn tensors(set: &Path, prefix: &str) -> Vec<(String, Tensor)> {
    let mut result = Vec::new();
    for index in 0.. {
        let Ok(bytes) = fs::read(set.join(format!("{prefix}_{index}.pb"))) else {
            break;
        };
        result.push(read_tensor(bytes).expect("a readable test tensor"));
    }
    result
}

/// The first difference beyond the tolerance.
fn difference(actual: &Tensor, expected: &Tensor) -> Option<String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Some(format!("{actual:?} where {expected:?} is expected"));
    }
    let (Ok(a), Ok(b)) = (actual.to_f32s(), expected.to_f32s()) else {
        return (actual != expected).then(|| format!("{actual:?} where {expected:?} is expected"));
    };
    let differs = |(_, (a, b)): &(usize, (&f32, &f32))| {
        !(a == b || (a.is_nan() && b.is_nan()) || (*a - *b).abs() <= ABSOLUTE + RELATIVE * b.abs())
    };
    let (index, (a, b)) = a.iter().zip(b.iter()).enumerate().find(differs)?;
    Some(format!("element {index} is {a}, expected {b}"))
}

fn run(case: &Case, device: Device, optimization: Level) -> Vec<String> {
    let mut failures = Vec::new();
    let bytes = fs::read(&case.model).expect("a readable model");
    let options = SessionOptions {
        device,
        optimization,
        ..SessionOptions::default()
    };
    let loaded = Model::load(bytes).and_then(|model| pollster::block_on(Session::new(model, options)));
    let mut session = match loaded {
        Ok(session) => session,
        Err(error) => return vec![format!("{error:?}")],
    };
    for set in &case.sets {
        let names: Vec<String> = session.inputs().iter().map(|input| input.name.clone()).collect();
        let inputs = tensors(set, "input");
        let by_name = inputs.iter().all(|(name, _)| names.contains(name));
        let feeds = inputs.into_iter().zip(&names);
        let feeds = feeds.map(|((own, tensor), position)| (if by_name { own } else { position.clone() }, tensor));
        let outputs = match pollster::block_on(session.run(feeds)) {
            Ok(outputs) => outputs,
            Err(error) => {
                failures.push(format!("{}: {error:?}", set.display()));
                continue;
            }
        };
        for (index, (name, expected)) in tensors(set, "output").iter().enumerate() {
            if let Some(difference) = difference(&outputs[index], expected) {
                failures.push(format!("{}: output {name}: {difference}", set.display()));
            }
        }
    }
    let report = session.report();
    if device == Device::WebGpu {
        let on_cpu = report
            .nodes
            .iter()
            .filter(|node| node.heavy && node.place == Placement::Cpu);
        failures
            .extend(on_cpu.map(|node| format!("{} ({}) is on the CPU: {:?}", node.node, node.operator, node.reason)));
    }
    if std::env::var("MODELET_VERBOSE").is_ok() {
        println!("{}", session.program_text().unwrap_or_default());
        println!("{:?} {:?} {} fused", report.timings, report.memory, report.fused_groups);
    }
    failures
}

fn check(device: Device, level: Level) {
    let cases = cases();
    let mut failed = 0;
    for case in &cases {
        let failures = run(case, device, level);
        println!(
            "{} {:?} {level:?}: {} sets, {} failures",
            case.id,
            device,
            case.sets.len(),
            failures.len()
        );
        failures.iter().for_each(|failure| println!("    {failure}"));
        failed += usize::from(!failures.is_empty());
    }
    assert_eq!(failed, 0, "of {} cases", cases.len());
}

#[test]
fn models_give_the_reference_outputs_on_the_cpu() {
    check(Device::Cpu, Level::All);
}

#[test]
fn models_give_the_reference_outputs_with_basic_passes() {
    check(Device::Cpu, Level::Basic);
}

#[test]
fn models_give_the_reference_outputs_without_passes() {
    check(Device::Cpu, Level::None);
}

#[cfg(feature = "gpu")]
#[test]
fn models_give_the_reference_outputs_on_the_gpu() {
    if let Err(error) = pollster::block_on(modelet::gpu::device::GpuDevice::shared()) {
        assert_eq!(error.code(), modelet::ErrorCode::Device);
        println!("skipped: {error}");
        return;
    }
    check(Device::WebGpu, Level::All);
}
