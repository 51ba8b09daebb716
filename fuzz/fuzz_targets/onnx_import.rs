//! Arbitrary bytes as an ONNX model and as stored values: each ends in a value or a typed error. What imports is taken
//! through shape inference and every pass, constant folding among them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use modelet::Model;
use modelet::import::onnx::{import, read_map, read_optional, read_sequence, read_tensor, write_tensor};
use modelet::optimize::{Level, optimize};
use modelet::tensor::Bytes;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::from(data);
    let external = |_: &str| Ok(Bytes::from(vec![1u8; 64]));
    if let Ok(graph) = import(bytes.clone(), &external) {
        graph.verify().expect("what is imported is a valid graph");
        let _ = graph.to_string();
        if let Ok(model) = Model::from_graph(graph) {
            let _ = model.outputs();
            if let Ok(optimized) = optimize(model.graph().clone(), Level::All) {
                optimized.verify().expect("a pass makes a valid graph of a valid graph");
            }
        }
    }
    if let Ok((name, tensor)) = read_tensor(bytes.clone()) {
        let (again, copy) = read_tensor(write_tensor(&name, &tensor)).expect("what is written can be read");
        assert!(again == name && copy == tensor, "{tensor:?} was written as {copy:?}");
    }
    let _ = read_sequence(bytes.clone());
    let _ = read_optional(bytes.clone());
    let _ = read_map(bytes);
});
