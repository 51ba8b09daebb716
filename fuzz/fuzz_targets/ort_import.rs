//! Arbitrary bytes as a model of ONNX Runtime's format: each ends in a graph or a typed error. What imports is taken
//! through shape inference and every pass, constant folding among them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use modelet::Model;
use modelet::import::ort::import;
use modelet::optimize::{Level, optimize};

fuzz_target!(|data: &[u8]| {
    let Ok(graph) = import(data) else { return };
    graph.verify().expect("what is imported is a valid graph");
    let _ = graph.to_string();
    if let Ok(model) = Model::from_graph(graph) {
        let _ = model.outputs();
        if let Ok(optimized) = optimize(model.graph().clone(), Level::All) {
            optimized.verify().expect("a pass makes a valid graph of a valid graph");
        }
    }
});
