//! Sessions inside a browser: the same model on the CPU and on WebGPU, against a plain reference, and bad input.
//! `wasm-pack test --headless --chrome` runs this; the unit tests run there too.

#![cfg(target_arch = "wasm32")]

use modelet::graph::Graph;
use modelet::{Device, ErrorCode, Model, Session, SessionOptions, Tensor};
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_browser);

const MODEL: &[u8] = include_bytes!("fixtures/mxnet/headline_mlp_784_64_10_symbol/model.onnx");

/// The batch that the model is fixed to.
const BATCH: usize = 4;

fn images() -> Vec<f32> {
    (0..BATCH * 784)
        .map(|index| (index * index % 97) as f32 / 97.0)
        .collect()
}

/// What the network computes, from its own weights, in f64: softmax(W₂ · relu(W₁ · x + b₁) + b₂).
fn reference(graph: &Graph, images: &[f32]) -> Vec<f64> {
    let weights = |name: &str| {
        let value = graph.values.iter().find(|value| value.name == name);
        let constant = value
            .and_then(|value| value.constant.as_ref())
            .expect("the model has these weights");
        constant.to_f32s().expect("the weights are f32").into_owned()
    };
    let (w1, b1) = (weights("fc1_weight"), weights("fc1_bias"));
    let (w2, b2) = (weights("fc2_weight"), weights("fc2_bias"));
    let dense = |x: &[f64], w: &[f32], b: &[f32]| -> Vec<f64> {
        let row = |(row, bias): (&[f32], &f32)| {
            f64::from(*bias) + row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>()
        };
        w.chunks_exact(x.len()).zip(b).map(row).collect()
    };
    let classify = |image: &[f32]| {
        let image: Vec<f64> = image.iter().map(|&pixel| f64::from(pixel)).collect();
        let hidden: Vec<f64> = dense(&image, &w1, &b1).into_iter().map(|x| x.max(0.0)).collect();
        let powers: Vec<f64> = dense(&hidden, &w2, &b2).into_iter().map(f64::exp).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(move |power| power / sum).collect::<Vec<_>>()
    };
    images.chunks_exact(784).flat_map(classify).collect()
}

async fn classify(device: Device) -> Session {
    let model = Model::load(MODEL).expect("the fixture is a valid model");
    let expected = reference(model.graph(), &images());
    let options = SessionOptions {
        device,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model, options).await.expect("the device can be had");
    // Twice: the second run replays what the first one planned.
    for _ in 0..2 {
        let feed = Tensor::new(&[BATCH, 784], images()).expect("the shape holds the pixels");
        let outputs = session.run([("data", feed)]).await.expect("the model runs");
        let actual = outputs[0].to_f32s().expect("the probabilities are f32");
        assert_eq!(outputs[0].shape(), [BATCH, 10]);
        for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            assert!(
                (f64::from(*actual) - expected).abs() < 1e-5,
                "at {index}: {actual}, not {expected}"
            );
        }
    }
    session
}

#[wasm_bindgen_test]
async fn the_cpu_meets_the_reference() {
    classify(Device::Cpu).await;
}

#[cfg(feature = "gpu")]
#[wasm_bindgen_test]
async fn webgpu_meets_the_reference() {
    let session = classify(Device::WebGpu).await;
    assert!(session.report().adapter.is_some(), "no adapter is reported");
}

#[wasm_bindgen_test]
async fn cut_models_are_errors() {
    for length in (0..MODEL.len()).step_by(997) {
        if let Ok(model) = Model::load(&MODEL[..length]) {
            let session = Session::new(
                model,
                SessionOptions {
                    device: Device::Cpu,
                    ..Default::default()
                },
            )
            .await;
            assert!(session.is_err(), "a model cut to {length} bytes was accepted");
        }
    }
}

#[wasm_bindgen_test]
async fn a_wrong_shape_is_an_error() {
    let mut session = classify(Device::Cpu).await;
    let feed = Tensor::new(&[BATCH, 783], vec![0f32; BATCH * 783]).expect("the shape holds the zeros");
    let error = session.run([("data", feed)]).await.expect_err("783 pixels are too few");
    assert_eq!(error.code(), ErrorCode::WrongDimension);
}
