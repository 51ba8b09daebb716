//! Imports every ONNX model of the folder that `MODELET_MODELS` names; skipped when it names none.

use std::path::Path;
use std::time::Instant;

use modelet::import::onnx::{NoExternalData, import};
use modelet::tensor::Bytes;

#[test]
fn real_models_import_without_copying_their_weights() {
    let Ok(folder) = std::env::var("MODELET_MODELS") else {
        println!("skipped: MODELET_MODELS names no folder of models");
        return;
    };
    let entries = std::fs::read_dir(Path::new(&folder)).expect("the folder of models can be read");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry can be read").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    paths.sort();
    assert!(!paths.is_empty(), "{folder} holds no .onnx files");
    for path in paths {
        let bytes = Bytes::from(std::fs::read(&path).expect("a model can be read"));
        let start = Instant::now();
        let graph =
            import(bytes.clone(), &NoExternalData).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let elapsed = start.elapsed();
        let constants = || graph.values.iter().filter_map(|value| value.constant.as_ref());
        let own: usize = constants()
            .filter(|tensor| bytes.slice_of(tensor.bytes()).is_none())
            .map(|tensor| tensor.bytes().len())
            .sum();
        let all: usize = constants().map(|tensor| tensor.bytes().len()).sum();
        println!(
            "{}: {} nodes, {} constants of {all} bytes ({own} not borrowed), {elapsed:?}",
            path.display(),
            graph.nodes.len(),
            constants().count(),
        );
        // What is stored as packed integers has to be decoded; that is index lists, not weights.
        assert!(
            own * 20 <= all + 65536,
            "{} of {all} bytes of {} were copied",
            own,
            path.display()
        );
    }
}
