//! Runs every case below `tests/data`: folders with a `model.onnx` or `model.ort` and numbered folders `test_data_set_0`, … of feeds
//! `input_0.pb`, … and expected results `output_0.pb`, … The `make_*.py` scripts beside the cases wrote them, with ONNX
//! Runtime's results.

// Reads files.
#![cfg(not(target_family = "wasm"))]

use std::{
    fs,
    path::{Path, PathBuf},
};

use modelet::{
    DType, Device, Model, Session, SessionOptions, Tensor, Value, graph::ValueType, import::onnx::read_value,
};

/// What the file of a model may be called.
const MODELS: [&str; 2] = ["model.onnx", "model.ort"];

#[test]
fn every_case_gives_its_expected_results() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut cases = Vec::new();
    collect(&folder, &mut cases);
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let reason = run_case(case).err()?;
            Some(format!(
                "{}: {reason}",
                case.strip_prefix(&folder).unwrap_or(case).display()
            ))
        })
        .collect();
    println!("{} of {} cases pass", cases.len() - failures.len(), cases.len());
    assert!(
        failures.is_empty(),
        "{} cases fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Every folder below `folder` that holds a model, in the order of their names.
fn collect(folder: &Path, cases: &mut Vec<PathBuf>) {
    let mut folders: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry can be read").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    if MODELS.iter().any(|name| folder.join(name).is_file()) {
        return cases.push(folder.to_path_buf());
    }
    folders.iter().for_each(|folder| collect(folder, cases));
}

fn run_case(case: &Path) -> Result<(), String> {
    let text = |error: modelet::Error| error.to_string();
    let model = MODELS.iter().map(|name| case.join(name)).find(|path| path.is_file());
    let model = Model::load_file(model.ok_or("there is no model")?).map_err(text)?;
    let options = SessionOptions {
        device: Device::Cpu,
        ..SessionOptions::default()
    };
    let mut session = pollster::block_on(Session::new(model, options)).map_err(text)?;
    let types = |infos: &[modelet::ValueInfo]| infos.iter().map(|info| info.ty.clone()).collect::<Vec<_>>();
    let names: Vec<String> = session.inputs().iter().map(|input| input.name.clone()).collect();
    let (input_types, output_types) = (types(session.inputs()), types(session.outputs()));
    for set in 0.. {
        let folder = case.join(format!("test_data_set_{set}"));
        if !folder.is_dir() {
            return if set == 0 {
                Err("there is no data".into())
            } else {
                Ok(())
            };
        }
        let mut feeds = Vec::new();
        for (index, (name, ty)) in names.iter().zip(&input_types).enumerate() {
            // An input without a file is optional.
            if let Some(value) = read(&folder.join(format!("input_{index}.pb")), ty)? {
                feeds.push((name.as_str(), value));
            }
        }
        let outputs = pollster::block_on(session.run(feeds)).map_err(text)?;
        for (index, ((name, actual), ty)) in outputs.iter().zip(&output_types).enumerate() {
            let expected = read(&folder.join(format!("output_{index}.pb")), ty)?;
            let expected = expected.ok_or_else(|| format!("output {index} has no file"))?;
            compare(actual, &expected).map_err(|reason| format!("set {set}, output {name}: {reason}"))?;
        }
    }
    Ok(())
}

/// The value in a file, which the type of an input or output tells how to read; `None` when there is no file.
fn read(path: &Path, ty: &ValueType) -> Result<Option<Value>, String> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let read = read_value(bytes, ty).map(|(_, value)| Some(value));
    read.map_err(|error| format!("{}: {error}", path.display()))
}

/// Says where two values differ first.
fn compare(actual: &Value, expected: &Value) -> Result<(), String> {
    match (actual, expected) {
        (Value::Tensor(actual), Value::Tensor(expected)) => compare_tensors(actual, expected),
        (Value::Sequence(actual), Value::Sequence(expected)) if actual.len() == expected.len() => {
            let mut pairs = actual.iter().zip(expected).enumerate();
            pairs.try_for_each(|(at, (a, b))| compare(a, b).map_err(|reason| format!("element {at}: {reason}")))
        }
        (Value::Map(actual), Value::Map(expected)) => {
            compare_tensors(actual.keys(), expected.keys())?;
            compare_tensors(actual.values(), expected.values())
        }
        (Value::Absent, Value::Absent) => Ok(()),
        _ => Err(format!("{expected:?} is expected, {actual:?} came out")),
    }
}

/// Says where two tensors differ first.
fn compare_tensors(actual: &Tensor, expected: &Tensor) -> Result<(), String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Err(format!("{expected:?} is expected, {actual:?} came out"));
    }
    let tolerance = match expected.dtype() {
        DType::F32 | DType::F64 => 1e-4,
        DType::F16 => 4e-3,
        DType::BF16 => 2e-2,
        _ if actual == expected => return Ok(()),
        _ => return Err(format!("{expected:?} is expected, {actual:?} came out")),
    };
    let close = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * b.abs().max(1.0);
    let values = |tensor: &Tensor| tensor.to_f64s().map_err(|error| error.to_string());
    let (actual, expected) = (values(actual)?, values(expected)?);
    let pairs = actual.iter().zip(&expected);
    match pairs.enumerate().find(|(_, (a, b))| !close(**a, **b)) {
        Some((index, (a, b))) => Err(format!("element {index} is {a}, expected is {b}")),
        None => Ok(()),
    }
}
