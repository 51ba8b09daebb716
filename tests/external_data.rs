//! Models that keep their weights in other files, read from a folder: several files, shared and adjoining ranges,
//! offsets that 32 bits do not hold.

// Reads files.
#![cfg(not(target_family = "wasm"))]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use modelet::import::onnx::{
    FileRanges, Segments, external_ranges,
    skim::{LOCATION, Skim},
    wire::Writer,
};
use modelet::tensor::{Bytes, Source};
use modelet::{Device, ErrorCode, Model, Session, SessionOptions, Tensor};

/// A folder that is deleted when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("modelet-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("parts")).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A vector of three floats in another file.
struct Weight<'t> {
    name: &'t str,
    entries: &'t [(&'t str, &'t str)],
}

/// `y` is the sum of the weights, each a vector of three floats.
fn model(weights: &[Weight<'_>]) -> Vec<u8> {
    let mut model = Writer::default();
    model.varint_field(1, 8);
    model.message_field(8, |opset| opset.varint_field(2, 17));
    model.message_field(7, |graph| {
        graph.message_field(1, |node| {
            node.bytes_field(1, b"x");
            weights
                .iter()
                .for_each(|weight| node.bytes_field(1, weight.name.as_bytes()));
            node.bytes_field(2, b"y");
            node.bytes_field(4, b"Sum");
        });
        for weight in weights {
            graph.message_field(5, |tensor| {
                tensor.varint_field(1, 3);
                tensor.varint_field(2, 1);
                tensor.bytes_field(8, weight.name.as_bytes());
                for (key, value) in weight.entries {
                    tensor.message_field(13, |entry| {
                        entry.bytes_field(1, key.as_bytes());
                        entry.bytes_field(2, value.as_bytes());
                    });
                }
                tensor.varint_field(14, 1);
            });
        }
        for (field, name) in [(11, "x"), (12, "y")] {
            graph.message_field(field, |info| {
                info.bytes_field(1, name.as_bytes());
                info.message_field(2, |ty| ty.message_field(1, |tensor| tensor.varint_field(1, 1)));
            });
        }
    });
    model.into_bytes()
}

fn floats(values: [f32; 3]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn run(path: &Path) -> Vec<f32> {
    let options = SessionOptions {
        device: Device::Cpu,
        ..SessionOptions::default()
    };
    let model = Model::load_file(path).unwrap();
    let mut session = pollster::block_on(Session::new(model, options)).unwrap();
    let zeros = Tensor::new(&[3], vec![0.0f32; 3]).unwrap();
    let outputs = pollster::block_on(session.run([("x", zeros)])).unwrap();
    outputs.get("y").unwrap().to_f32s().unwrap().to_vec()
}

#[test]
fn weights_in_several_files_and_beyond_4_gib_are_read_by_range() {
    let folder = Folder::new("ranges");
    const FAR: u64 = (1 << 32) + 4096;
    let mut sparse = File::create(folder.0.join("parts/sparse.bin")).unwrap();
    sparse.set_len(5_000_000_000).unwrap();
    sparse.write_all(&floats([1.0, 2.0, 3.0])).unwrap();
    sparse.seek(SeekFrom::Start(FAR)).unwrap();
    sparse.write_all(&floats([10.0, 20.0, 30.0])).unwrap();
    sparse.seek(SeekFrom::Start(5_000_000_000 - 12)).unwrap();
    sparse.write_all(&floats([100.0, 200.0, 300.0])).unwrap();
    fs::write(folder.0.join("small.bin"), floats([0.5, 0.25, 0.125])).unwrap();
    let far = FAR.to_string();
    let weight = |name, entries| Weight { name, entries };
    let sparse = ("location", "parts/sparse.bin");
    let checksum = ("checksum", "1a0d3ca1f1a8c52b6a3fe9b1b1f3ed7c1b2aaf1b");
    let bytes = model(&[
        weight("first", &[sparse]),
        weight("again", &[sparse, ("length", "12")]),
        weight("far", &[("location", "parts\\sparse.bin"), ("offset", &far)]),
        weight("last", &[sparse, ("offset", "4999999988"), ("length", "12")]),
        weight("small", &[("location", "small.bin"), ("length", "12")]),
    ]);
    fs::write(folder.0.join("model.onnx"), &bytes).unwrap();
    assert_eq!(run(&folder.0.join("model.onnx")), [112.5, 224.25, 336.125]);

    let far = FAR..FAR + 12;
    let files = |location: &str, ranges: &[std::ops::Range<u64>]| FileRanges {
        location: location.into(),
        ranges: ranges.to_vec(),
    };
    assert_eq!(
        external_ranges(&bytes),
        [
            files("parts/sparse.bin", &[0..12, 4_999_999_988..5_000_000_000]),
            files("parts\\sparse.bin", std::slice::from_ref(&far)),
            files("small.bin", std::slice::from_ref(&(0..12))),
        ]
    );

    let code = |entries: &[(&str, &str)]| {
        fs::write(folder.0.join("bad.onnx"), model(&[Weight { name: "w", entries }])).unwrap();
        Model::load_file(folder.0.join("bad.onnx"))
            .map(|_| ())
            .unwrap_err()
            .code()
    };
    let small = ("location", "small.bin");
    assert_eq!(code(&[small, checksum]), ErrorCode::ExternalData);
    assert_eq!(code(&[small, ("offset", "1")]), ErrorCode::ExternalData);
    assert_eq!(code(&[sparse, ("offset", "4999999989")]), ErrorCode::ExternalData);
    assert_eq!(
        code(&[sparse, ("offset", "18446744073709551615")]),
        ErrorCode::ExternalData
    );
    assert_eq!(
        code(&[sparse, ("offset", "18446744073709551616")]),
        ErrorCode::ExternalData
    );
    assert_eq!(code(&[("location", "parts")]), ErrorCode::ExternalData);
    assert_eq!(code(&[("location", "missing.bin")]), ErrorCode::ExternalData);
    assert_eq!(code(&[("location", "../small.bin")]), ErrorCode::ExternalData);
}

#[test]
fn many_overlapping_ranges_of_one_file_are_stopped() {
    let folder = Folder::new("overlap");
    File::create(folder.0.join("w.bin")).unwrap().set_len(1 << 26).unwrap();
    let offsets: Vec<String> = (0..20).map(|at: u64| at.to_string()).collect();
    let mut bytes = Writer::default();
    bytes.varint_field(1, 8);
    bytes.message_field(7, |graph| {
        for offset in &offsets {
            graph.message_field(5, |tensor| {
                tensor.varint_field(1, 1 << 25);
                tensor.varint_field(2, 2);
                tensor.bytes_field(8, format!("w{offset}").as_bytes());
                for (key, value) in [("location", "w.bin"), ("offset", offset)] {
                    tensor.message_field(13, |entry| {
                        entry.bytes_field(1, key.as_bytes());
                        entry.bytes_field(2, value.as_bytes());
                    });
                }
                tensor.varint_field(14, 1);
            });
        }
    });
    fs::write(folder.0.join("model.onnx"), bytes.into_bytes()).unwrap();
    let error = Model::load_file(folder.0.join("model.onnx")).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::LimitExceeded, "{error}");
}

/// Counts how often each part of a file is read.
struct Counted {
    file: Vec<u8>,
    reads: Arc<AtomicUsize>,
}

impl Source for Counted {
    fn read(&self, start: usize, target: &mut [u8]) -> modelet::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        target.copy_from_slice(&self.file[start..start + target.len()]);
        Ok(())
    }
}

/// A model as it arrives when its large tensors stay elsewhere.
fn skimmed(file: &[u8], reads: &Arc<AtomicUsize>) -> Model {
    let reads = Arc::clone(reads);
    let source: Arc<dyn Source> = Arc::new(Counted {
        file: file.to_vec(),
        reads,
    });
    let (mut skim, mut out, mut at) = (Skim::default(), Segments::new(file.len() as u64), 0);
    while at < file.len() {
        at += match skim.cut() {
            Some((cut, left)) => {
                let bytes = Bytes::deferred(Arc::clone(&source), cut.offset as usize, cut.length as usize);
                out.insert(cut.offset, bytes);
                skim.skip(left);
                left as usize
            }
            None => skim.feed(&file[at..file.len().min(at + skim.wanted())]),
        };
    }
    let files: std::collections::HashMap<_, _> = [(LOCATION.to_string(), out)].into_iter().collect();
    Model::load_with(skim.finish().unwrap(), &files).unwrap()
}

/// A convolution that a BatchNormalization scales, a product and a bias: weights that kernels pack, that passes compute
/// anew, and that are read as they are.
fn network() -> Vec<u8> {
    let mut model = Writer::default();
    let wave = |count: usize| -> Vec<u8> {
        let values = (0..count).map(|index| (index as f32 * 0.7).sin() * 0.1);
        values.flat_map(f32::to_le_bytes).collect()
    };
    let weights: [(&str, &[u64]); 8] = [
        ("conv", &[64, 32, 3, 3]),
        ("scale", &[64]),
        ("shift", &[64]),
        ("mean", &[64]),
        ("variance", &[64]),
        ("table", &[1, 64, 24, 24]),
        ("product", &[24, 1000]),
        ("bias", &[1000]),
    ];
    let nodes: [(&str, &[&str], &str); 4] = [
        ("Conv", &["x", "conv"], "c"),
        ("BatchNormalization", &["c", "scale", "shift", "mean", "variance"], "n"),
        ("Add", &["n", "table"], "a"),
        ("MatMul", &["a", "product"], "m"),
    ];
    model.varint_field(1, 8);
    model.message_field(8, |opset| opset.varint_field(2, 17));
    model.message_field(7, |graph| {
        for (operator, inputs, output) in nodes.iter().chain(&[("Add", &["m", "bias"][..], "y")]) {
            graph.message_field(1, |node| {
                inputs.iter().for_each(|input| node.bytes_field(1, input.as_bytes()));
                node.bytes_field(2, output.as_bytes());
                node.bytes_field(4, operator.as_bytes());
            });
        }
        for (name, shape) in weights {
            let mut raw = wave(shape.iter().product::<u64>() as usize);
            if name == "variance" {
                raw = [0.5f32; 64].iter().flat_map(|value| value.to_le_bytes()).collect();
            }
            graph.message_field(5, |tensor| {
                shape.iter().for_each(|&size| tensor.varint_field(1, size));
                tensor.varint_field(2, 1);
                tensor.bytes_field(8, name.as_bytes());
                tensor.bytes_field(9, &raw);
            });
        }
        for (field, name, shape) in [(11, "x", &[1, 32, 26, 26][..]), (12, "y", &[])] {
            graph.message_field(field, |value| {
                value.bytes_field(1, name.as_bytes());
                value.message_field(2, |ty| {
                    ty.message_field(1, |tensor| {
                        tensor.varint_field(1, 1);
                        if !shape.is_empty() {
                            tensor.message_field(2, |dims| {
                                shape
                                    .iter()
                                    .for_each(|&size| dims.message_field(1, |dim| dim.varint_field(1, size)));
                            });
                        }
                    });
                });
            });
        }
    });
    model.into_bytes()
}

#[test]
fn weights_that_stay_elsewhere_give_the_same_and_come_to_memory_only_where_the_cpu_reads_them() {
    let file = network();
    let x = || {
        let values = (0..32 * 26 * 26).map(|index| (index as f32 * 0.3).cos()).collect();
        [("x", Tensor::new(&[1, 32, 26, 26], values).unwrap())]
    };
    let run = |model: Model, device| {
        let options = SessionOptions {
            device,
            ..SessionOptions::default()
        };
        let mut session = pollster::block_on(Session::new(model, options)).ok()?;
        let weights = session.report().memory.weights_bytes;
        let outputs = pollster::block_on(session.run(x())).unwrap();
        // Another program on the same device takes no weight anew.
        pollster::block_on(session.run(x())).unwrap();
        let deferred = session.optimized_graph().values.iter();
        let deferred = deferred
            .filter(|value| value.constant.as_ref().is_some_and(Tensor::is_deferred))
            .count();
        Some((outputs[0].to_f32s().unwrap().into_owned(), weights, deferred))
    };
    let reads = Arc::new(AtomicUsize::new(0));
    let (expected, weights, _) = run(Model::load(file.clone()).unwrap(), Device::Cpu).unwrap();
    let (found, same, deferred) = run(skimmed(&file, &reads), Device::Cpu).unwrap();
    assert_eq!((&found, weights, deferred), (&expected, same, 0));
    reads.store(0, Ordering::Relaxed);
    let Some((found, same, deferred)) = run(skimmed(&file, &reads), Device::WebGpu) else {
        println!("skipped: there is no GPU adapter");
        return;
    };
    assert_eq!((weights, deferred), (same, 3));
    assert_eq!(
        reads.load(Ordering::Relaxed),
        3,
        "each weight is read once, to be uploaded"
    );
    for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (a - b).abs() <= 1e-3 * b.abs().max(1.0),
            "element {index} is {a}, expected {b}"
        );
    }
}
