//! wonnx as a process that runs a model each time it is told to: `peer-gpu MODEL.onnx INPUT.f32 INPUT_NAME`. Each line on
//! stdin is a run. Each line on stdout is JSON: `{ "load_ms", "first_ms", "output" }` at first, then the milliseconds of
//! each run. modelet's own such process is `benches/gpu_table.rs`.
//!
//! `WGPU_ADAPTER_NAME` names the adapter.

use std::collections::HashMap;
use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

use wonnx::utils::{InputTensor, OutputTensor};

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

async fn serve(model: &str, input: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let bytes = std::fs::read(model)?;
    let values = std::fs::read(input)?;
    let values: Vec<f32> = values
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect();

    let start = Instant::now();
    let session = wonnx::Session::from_bytes(&bytes).await?;
    let load = ms(start);
    let feeds = HashMap::from([(name.to_owned(), InputTensor::from(values.as_slice()))]);
    let start = Instant::now();
    let outputs = session.run(&feeds).await?;
    let first = ms(start);
    let Some(OutputTensor::F32(output)) = outputs.into_values().next() else {
        return Err("the first output is not float32".into());
    };
    println!(r#"{{"load_ms":{load},"first_ms":{first},"output":{output:?}}}"#);
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        session.run(&feeds).await?;
        println!("{}", ms(start));
    }
    Ok(())
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, name] = args.as_slice() else {
        eprintln!("usage: peer-gpu MODEL.onnx INPUT.f32 INPUT_NAME");
        std::process::exit(2);
    };
    if let Err(error) = pollster::block_on(serve(model, input, name)) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
