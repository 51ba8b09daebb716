//! Bad input to models and sessions: every kind ends in an error with its code, a sentence and its place, and the
//! session goes on working afterwards. Damaged and hostile files in detail are the importer's own tests.

use modelet::graph::{Attribute, Graph, GraphBuilder, OperatorId, Subgraph};
use modelet::import::onnx::{NoExternalData, import};
use modelet::tensor::Dim;
use modelet::{DType, Device, Error, ErrorCode, Model, Session, SessionOptions, Tensor};

const MLP: &[u8] = include_bytes!("fixtures/keras/headline_mlp_784_64_10/model.onnx");

/// Products of `a` and `b`, both `[batch, 3]`, with one matrix.
fn products() -> Graph {
    let mut builder = GraphBuilder::new(17);
    let shape = || vec![Dim::symbol("batch"), Dim::from(3)];
    let a = builder.input("a", DType::F32, shape());
    let b = builder.input("b", DType::F32, shape());
    let w = builder.constant("w", Tensor::new(&[3, 1], vec![1.0f32, 2.0, 3.0]).unwrap());
    let of_a = builder.node("MatMul", &[a, w]);
    let of_b = builder.node("MatMul", &[b, w]);
    builder.output("of_a", of_a);
    builder.output("of_b", of_b).finish().unwrap()
}

fn session(model: Model) -> Session {
    let options = SessionOptions {
        device: Device::Cpu,
        ..SessionOptions::default()
    };
    pollster::block_on(Session::new(model, options)).unwrap()
}

fn products_session() -> Session {
    session(Model::from_graph(products()).unwrap())
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::new(shape, vec![1.0f32; shape.iter().product()]).unwrap()
}

/// Runs with feeds that must be refused, then with good ones.
fn refused(feeds: Vec<(&str, Tensor)>) -> Error {
    let mut session = products_session();
    let error = pollster::block_on(session.run(feeds)).map(|_| ()).unwrap_err();
    let outputs = pollster::block_on(session.run([("a", ones(&[2, 3])), ("b", ones(&[2, 3]))])).unwrap();
    assert_eq!(&*outputs.get("of_b").unwrap().view::<f32>().unwrap(), &[6.0, 6.0]);
    error
}

fn check(error: &Error, code: ErrorCode, input: &str, expected: &str, actual: &str) {
    let place = error.place();
    let found = [&place.input, &place.expected, &place.actual].map(|text| text.as_deref().unwrap_or(""));
    assert_eq!((error.code(), found), (code, [input, expected, actual]), "{error}");
    assert!(!error.message().is_empty());
}

#[test]
fn a_missing_input() {
    let error = refused(vec![("a", ones(&[2, 3]))]);
    check(&error, ErrorCode::MissingInput, "b", "b", "");
    let error = refused(vec![]);
    check(&error, ErrorCode::MissingInput, "a", "a, b", "");
}

#[test]
fn an_extra_or_misnamed_input() {
    let error = refused(vec![("a", ones(&[2, 3])), ("b", ones(&[2, 3])), ("c", ones(&[1]))]);
    check(&error, ErrorCode::UnknownName, "c", "a, b", "");
    let error = refused(vec![("a", ones(&[2, 3])), ("B", ones(&[2, 3]))]);
    check(&error, ErrorCode::UnknownName, "B", "a, b", "");
}

#[test]
fn an_input_fed_twice() {
    let error = refused(vec![("a", ones(&[2, 3])), ("b", ones(&[2, 3])), ("a", ones(&[2, 3]))]);
    check(&error, ErrorCode::InvalidArgument, "a", "", "");
}

#[test]
fn a_wrong_element_type() {
    let wrong = Tensor::new(&[2, 3], vec![1i64; 6]).unwrap();
    let error = refused(vec![("a", ones(&[2, 3])), ("b", wrong)]);
    check(&error, ErrorCode::WrongType, "b", "float32[batch, 3]", "int64[2, 3]");
    let texts = Tensor::from_strings(&[1, 3], vec![String::new(); 3]).unwrap();
    let error = refused(vec![("a", texts), ("b", ones(&[1, 3]))]);
    check(&error, ErrorCode::WrongType, "a", "float32[batch, 3]", "string[1, 3]");
}

#[test]
fn a_wrong_rank() {
    for shape in [&[3][..], &[1, 2, 3], &[]] {
        let error = refused(vec![("a", ones(shape)), ("b", ones(&[2, 3]))]);
        let actual = format!("float32{shape:?}");
        check(&error, ErrorCode::WrongRank, "a", "float32[batch, 3]", &actual);
    }
}

#[test]
fn a_wrong_fixed_dimension() {
    for size in [0, 2, 4] {
        let error = refused(vec![("a", ones(&[2, 3])), ("b", ones(&[2, size]))]);
        let actual = format!("float32[2, {size}]");
        check(&error, ErrorCode::WrongDimension, "b", "float32[batch, 3]", &actual);
        assert!(error.message().contains("dimension 1"), "{error}");
    }
}

#[test]
fn symbolic_dimensions_that_disagree() {
    let error = refused(vec![("a", ones(&[2, 3])), ("b", ones(&[5, 3]))]);
    check(
        &error,
        ErrorCode::InconsistentDimension,
        "b",
        "float32[batch, 3]",
        "float32[5, 3]",
    );
    assert!(
        error.message().contains("\"batch\" is 2 in input \"a\" but 5"),
        "{error}"
    );
}

#[test]
fn a_shape_whose_bytes_pass_the_address_space() {
    let mut builder = GraphBuilder::new(17);
    let shape = builder.input("shape", DType::I64, vec![Dim::from(3)]);
    let x = builder.constant("x", Tensor::new(&[], vec![3i64]).unwrap());
    let expanded = builder.node("Expand", &[x, shape]);
    let graph = builder.output("expanded", expanded).finish().unwrap();
    let mut session = session(Model::from_graph(graph).unwrap());
    let mut run = |dims: [i64; 3]| {
        let outputs = pollster::block_on(session.run([("shape", Tensor::new(&[3], dims.to_vec()).unwrap())]))?;
        Ok(outputs.get("expanded").unwrap().shape().to_vec())
    };
    for log in [40, 56, 58, 59, 60, 61, 62] {
        let error: Error = run([1 << 20, 1 << 20, 1 << (log - 40)]).unwrap_err();
        assert!(
            matches!(error.code(), ErrorCode::LimitExceeded | ErrorCode::OutOfMemory),
            "{log}: {error}"
        );
    }
    assert_eq!(run([2, 1, 3]).unwrap(), [2, 1, 3]);
}

#[test]
fn a_bias_that_turns_out_not_to_fit() {
    let mut builder = GraphBuilder::new(17);
    let x = builder.input("x", DType::F32, vec![Dim::from(2), Dim::from(3)]);
    let bias = builder.input("bias", DType::F32, vec![Dim::symbol("n")]);
    let w = builder.constant("w", Tensor::new(&[3, 4], vec![1.0f32; 12]).unwrap());
    let product = builder.node("MatMul", &[x, w]);
    let sum = builder.node("Add", &[product, bias]);
    let bent = builder.node("Tanh", &[sum]);
    let graph = builder.output("bent", bent).finish().unwrap();
    let mut session = session(Model::from_graph(graph).unwrap());
    let mut run = |len| pollster::block_on(session.run([("x", ones(&[2, 3])), ("bias", ones(&[len]))])).map(|_| ());
    for len in [3, 5] {
        assert_eq!(run(len).unwrap_err().code(), ErrorCode::ShapeMismatch, "{len}");
    }
    run(4).unwrap();
    run(1).unwrap();
}

#[test]
fn an_unknown_output() {
    let mut session = products_session();
    let feeds = || [("a", ones(&[1, 3])), ("b", ones(&[1, 3]))];
    let wrong = ["of_a".to_string(), "of_c".to_string()];
    let error = pollster::block_on(session.run_fetching(feeds(), Some(&wrong)))
        .map(|_| ())
        .unwrap_err();
    check(&error, ErrorCode::UnknownName, "of_c", "of_a, of_b", "");
    let right = ["of_b".to_string()];
    let outputs = pollster::block_on(session.run_fetching(feeds(), Some(&right))).unwrap();
    assert_eq!((outputs.len(), outputs[0].shape()), (1, &[1, 1][..]));
}

#[test]
fn use_after_release() {
    let mut session = products_session();
    session.release();
    session.release();
    let error = pollster::block_on(session.run([("a", ones(&[1, 3])), ("b", ones(&[1, 3]))]))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::Released);
    assert_eq!(session.program_text().unwrap_err().code(), ErrorCode::Released);
}

#[test]
fn every_unsupported_operator_is_listed_at_once() {
    let odd = OperatorId::new("elsewhere", "Odd", 3);
    let mut inner = GraphBuilder::new(17);
    let x = inner.constant("x", Tensor::scalar(1.0f32));
    let y = inner.node_of(odd, &[Some(x)], &[], 1)[0];
    let inner = inner.output("y", y).finish().unwrap();
    let mut builder = GraphBuilder::new(17);
    let x = builder.input("x", DType::F32, vec![]);
    let a = builder.node("NoSuchOperator", &[x]);
    let b = builder.node("NoSuchOperator", &[a]);
    let body = Attribute::Graph(Box::new(Subgraph {
        graph: inner,
        captures: Vec::new(),
    }));
    let c = builder.node_with("NorThis", &[b], &[("body", body)]);
    let error = Model::from_graph(builder.output("c", c).finish().unwrap())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnsupportedOperator);
    assert!(error.message().contains("3 operator(s)"), "{error}");
    let details = error.place().details.join("\n");
    for part in [
        "NoSuchOperator (opset 17), 2 node(s)",
        "NorThis (opset 17)",
        "elsewhere.Odd (opset 3)",
    ] {
        assert!(details.contains(part), "{details} should list {part}");
    }
}

#[test]
fn files_that_are_no_models() {
    let refused = |bytes: &[u8]| Model::load(bytes).map(|_| ()).unwrap_err();
    for (bytes, expected) in [
        (&b""[..], "empty"),
        (b"<!doctype html><title>404</title>", "HTML"),
        (b"PK\x03\x04 and more", "zip"),
        (&[0; 1000], "damaged"),
        (&[0xff; 1000], "damaged"),
    ] {
        let error = refused(bytes);
        assert_eq!(error.code(), ErrorCode::InvalidModel);
        assert!(error.message().contains(expected), "{error} should say: {expected}");
    }
}

#[test]
fn a_real_model_cut_short_or_changed_anywhere_is_an_error_or_a_model() {
    let whole = import(MLP, &NoExternalData).unwrap();
    for cut in (0..MLP.len()).step_by(997).chain(MLP.len() - 300..MLP.len()) {
        match import(&MLP[..cut], &NoExternalData) {
            // Between two fields behind the graph, nothing tells a file that was cut from one that was written so.
            Ok(graph) => assert_eq!(graph.to_string(), whole.to_string(), "cut at {cut}"),
            Err(error) => assert!(
                matches!(error.code(), ErrorCode::InvalidModel | ErrorCode::InvalidGraph),
                "cut at {cut}: {error:?}"
            ),
        }
    }
    // Damage in the structure at the front and back; in between there are weights.
    let ends = (0..400).chain(MLP.len() - 1200..MLP.len());
    for at in ends {
        let mut changed = MLP.to_vec();
        changed[at] ^= 0x15;
        // What still loads must also infer and print.
        if let Ok(model) = Model::load(changed) {
            let _ = model.outputs();
            assert!(!model.graph().to_string().is_empty());
        }
    }
}

#[test]
fn an_ort_model_changed_anywhere_is_an_error_or_a_model() {
    for case in ["mlp", "cnn", "transformer"] {
        let path = format!("{}/tests/data/ort/{case}/model.ort", env!("CARGO_MANIFEST_DIR"));
        let whole = std::fs::read(path).unwrap();
        let mut changed = whole.clone();
        for at in (0..whole.len()).step_by(3) {
            changed[at] ^= 0x15;
            // What still loads must also infer and print.
            if let Ok(model) = Model::load(changed.as_slice()) {
                let _ = model.outputs();
                assert!(!model.graph().to_string().is_empty());
            }
            changed[at] = whole[at];
        }
    }
}
