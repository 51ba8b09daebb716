//! Arbitrary bytes as an ONNX model and as stored values: each ends in a value or a typed error. What imports is taken
//! through shape inference and every pass, constant folding among them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use modelet::graph::ValueType;
use modelet::import::onnx::{import, read_tensor, read_value, write_tensor, write_value};
use modelet::optimize::{Level, optimize};
use modelet::tensor::Bytes;
use modelet::{DType, Model};

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
    let tensor = || Box::new(ValueType::default());
    let types = [
        ValueType::Sequence(tensor()),
        ValueType::Optional(tensor()),
        ValueType::Map(DType::I64, tensor()),
    ];
    for ty in types {
        // Values of other kinds than `ty` says are read, and not written.
        if let Ok((name, value)) = read_value(bytes.clone(), &ty)
            && let Ok(file) = write_value(&name, &value, &ty)
        {
            let copy = read_value(file, &ty).expect("what is written can be read");
            assert!(copy == (name, value), "{ty} was written as {copy:?}");
        }
    }
});
