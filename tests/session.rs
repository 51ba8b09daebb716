//! What a session does with inputs that have defaults, with fetches, and with changing shapes.

use modelet::{
    DType, Device, ErrorCode, Limits, Model, Session, SessionOptions, Tensor, Value,
    graph::{Attribute, Graph, GraphBuilder, OperatorId, Subgraph, TensorType, ValueType},
    tensor::{Bool8, Dim},
};

fn session(graph: Graph) -> Session {
    let options = SessionOptions {
        device: Device::Cpu,
        program_cache: 2,
        ..SessionOptions::default()
    };
    pollster::block_on(Session::new(Model::from_graph(graph).unwrap(), options)).unwrap()
}

fn row(values: &[f32]) -> Tensor {
    Tensor::new(&[values.len()], values.to_vec()).unwrap()
}

fn run(session: &mut Session, feeds: &[(&str, Tensor)], fetches: Option<&[&str]>) -> Vec<(String, Vec<f32>)> {
    let fetches: Option<Vec<String>> = fetches.map(|names| names.iter().map(|name| name.to_string()).collect());
    let outputs = pollster::block_on(session.run_fetching(feeds.iter().cloned(), fetches.as_deref())).unwrap();
    let values = |(name, value): (String, Value)| (name, value.tensor().unwrap().to_f32s().unwrap().into_owned());
    outputs.into_iter().map(values).collect()
}

#[test]
fn an_input_with_a_default_is_a_constant_until_it_is_fed() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n")]);
    let w = b.input("w", DType::F32, vec![Dim::from(1)]);
    let product = b.node("Mul", &[x, w]);
    let mut graph = b.output("y", product).finish().unwrap();
    graph.value_mut(w).constant = Some(row(&[3.0]));
    let mut session = session(graph);
    assert!(session.inputs()[1].optional);
    let x = ("x", row(&[1.0, 2.0]));
    assert_eq!(run(&mut session, std::slice::from_ref(&x), None)[0].1, [3.0, 6.0]);
    assert_eq!(
        run(&mut session, &[x.clone(), ("w", row(&[10.0]))], None)[0].1,
        [10.0, 20.0]
    );
    assert_eq!(run(&mut session, &[x], None)[0].1, [3.0, 6.0]);
}

#[test]
fn fetches_come_in_the_asked_order_and_nothing_else_is_computed() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n")]);
    let doubled = b.node("Add", &[x, x]);
    let soft = b.node_with("Softmax", &[x], &[("axis", Attribute::Int(0))]);
    b.output("doubled", doubled);
    let graph = b.output("soft", soft).finish().unwrap();
    let mut session = session(graph);
    let feeds = [("x", row(&[1.0, 1.0]))];
    let both = run(&mut session, &feeds, Some(&["soft", "doubled", "soft"]));
    assert_eq!(
        both.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["soft", "doubled", "soft"]
    );
    assert_eq!(both[0].1, [0.5, 0.5]);
    assert_eq!(both[1].1, [2.0, 2.0]);
    let one = run(&mut session, &feeds, Some(&["doubled"]));
    assert_eq!(one, [("doubled".to_string(), vec![2.0, 2.0])]);
    assert_eq!(session.report().nodes.len(), 1, "{:?}", session.report().nodes);
}

#[test]
fn shapes_may_change_from_run_to_run_beyond_what_the_cache_holds() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n")]);
    let sum = b.node("ReduceSum", &[x]);
    let share = b.node("Div", &[x, sum]);
    let graph = b.output("share", share).finish().unwrap();
    let mut session = session(graph);
    for size in [1usize, 4, 2, 5, 4, 1, 0, 3] {
        let outputs = run(&mut session, &[("x", row(&vec![2.0; size]))], None);
        assert_eq!(outputs[0].1, vec![1.0 / size as f32; size]);
    }
}

/// A graph that puts `x` behind the sequence `list`, and takes `relu` of the element at `at`.
fn sequence_session() -> Session {
    let mut b = GraphBuilder::new(17);
    let list = b.input("list", DType::F32, vec![]);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n")]);
    let at = b.input("at", DType::I64, vec![]);
    let longer = b.node("SequenceInsert", &[list, x]);
    let element = b.node("SequenceAt", &[longer, at]);
    let relu = b.node("Relu", &[element]);
    let mut graph = b.output("longer", longer).output("relu", relu).finish().unwrap();
    let element = ValueType::Tensor(TensorType {
        dtype: Some(DType::F32),
        shape: None,
    });
    graph.value_mut(list).ty = ValueType::Sequence(Box::new(element));
    session(graph)
}

#[test]
fn sequences_are_fed_and_come_out() {
    let mut session = sequence_session();
    let list = Value::Sequence(vec![row(&[1.0]).into(), row(&[-2.0, 2.0]).into()]);
    for (at, expected) in [(1i64, vec![0.0, 2.0]), (-1, vec![3.0, 0.0, 0.0]), (0, vec![1.0])] {
        let x: Value = row(&[3.0, -3.0, -4.0]).into();
        let feeds = [
            ("list", list.clone()),
            ("x", x.clone()),
            ("at", Tensor::scalar(at).into()),
        ];
        let outputs = pollster::block_on(session.run(feeds)).unwrap();
        assert_eq!(outputs.get("relu").unwrap(), &row(&expected));
        assert_eq!(outputs.value("longer").unwrap().sequence().unwrap()[2], x);
        assert!(outputs.get("longer").is_none());
    }
    let bytes = Value::Sequence(vec![Tensor::scalar(1u8).into()]);
    let feeds = [
        ("list", bytes),
        ("x", row(&[1.0]).into()),
        ("at", Tensor::scalar(0i64).into()),
    ];
    let error = pollster::block_on(session.run(feeds)).unwrap_err();
    assert_eq!(
        (error.code(), error.place().input.as_deref()),
        (ErrorCode::WrongType, Some("list"))
    );
}

/// `iterations` rounds of doubling `x`, with each round's value kept.
fn doubling_session(limits: Limits) -> Session {
    let mut body = GraphBuilder::new(17);
    body.input("i", DType::I64, vec![]);
    let going = body.input("going", DType::Bool, vec![]);
    let value = body.input("value", DType::F32, vec![Dim::symbol("n")]);
    let doubled = body.node("Add", &[value, value]);
    let (going, kept) = (body.node("Identity", &[going]), body.node("Identity", &[doubled]));
    body.output("going_out", going)
        .output("doubled", doubled)
        .output("kept", kept);
    let body = body.finish().unwrap();
    let mut b = GraphBuilder::new(17);
    let count = b.input("iterations", DType::I64, vec![]);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n")]);
    let going = b.constant("going", Tensor::scalar(Bool8::from(true)));
    let subgraph = Subgraph {
        graph: body,
        captures: Vec::new(),
    };
    let attributes = [("body", Attribute::Graph(Box::new(subgraph)))];
    let outputs = b.node_of(
        OperatorId::new("", "Loop", 17),
        &[Some(count), Some(going), Some(x)],
        &attributes,
        2,
    );
    let graph = b.output("last", outputs[0]).output("all", outputs[1]).finish().unwrap();
    let options = SessionOptions {
        device: Device::Cpu,
        limits,
        ..SessionOptions::default()
    };
    pollster::block_on(Session::new(Model::from_graph(graph).unwrap(), options)).unwrap()
}

#[test]
fn limits_end_a_run_and_the_session_stays_usable() {
    let cases = [
        (
            Limits {
                loop_iterations: Some(10),
                ..Limits::default()
            },
            100,
        ),
        (
            Limits {
                memory_bytes: Some(20_000),
                ..Limits::default()
            },
            1000,
        ),
        (
            Limits {
                run_millis: Some(1.0),
                ..Limits::default()
            },
            1_000_000,
        ),
    ];
    for (limits, too_many) in cases {
        let mut session = doubling_session(limits);
        let mut rounds = |count: i64| {
            let feeds = [("iterations", Tensor::scalar(count)), ("x", row(&[1.0; 8]))];
            pollster::block_on(session.run(feeds)).map(|outputs| outputs[1].shape().to_vec())
        };
        let error = rounds(too_many).unwrap_err();
        assert_eq!(error.code(), ErrorCode::LimitExceeded, "{limits:?}: {error}");
        assert_eq!(rounds(2).unwrap(), [2, 8], "{limits:?}");
    }
}

#[test]
fn memory_is_refused_before_it_is_taken() {
    let mut b = GraphBuilder::new(17);
    let shape = b.input("shape", DType::I64, vec![Dim::from(2)]);
    let filled = b.node("ConstantOfShape", &[shape]);
    let sum = b.node("ReduceSum", &[filled]);
    let graph = b.output("sum", sum).finish().unwrap();
    let options = SessionOptions {
        device: Device::Cpu,
        limits: Limits {
            memory_bytes: Some(1 << 20),
            ..Limits::default()
        },
        ..SessionOptions::default()
    };
    let mut session = pollster::block_on(Session::new(Model::from_graph(graph).unwrap(), options)).unwrap();
    let mut run = |sizes: [i64; 2]| {
        let feeds = [("shape", Tensor::new(&[2], sizes.to_vec()).unwrap())];
        pollster::block_on(session.run(feeds)).map(|outputs| outputs[0].to_f32s().unwrap()[0])
    };
    assert_eq!(run([1 << 19, 1 << 19]).unwrap_err().code(), ErrorCode::LimitExceeded);
    assert_eq!(run([3, 4]).unwrap(), 0.0);
}

#[test]
fn memory_for_texts_is_refused_before_it_is_taken() {
    let mut b = GraphBuilder::new(17);
    let shape = b.input("shape", DType::I64, vec![Dim::from(2)]);
    let value = Attribute::Tensor(Tensor::from_strings(&[1], vec!["text".into()]).unwrap());
    let filled = b.node_with("ConstantOfShape", &[shape], &[("value", value)]);
    let graph = b.output("filled", filled).finish().unwrap();
    for (memory_bytes, code) in [
        (Some(1 << 20), ErrorCode::LimitExceeded),
        (None, ErrorCode::OutOfMemory),
    ] {
        let limits = Limits {
            memory_bytes,
            ..Limits::default()
        };
        let options = SessionOptions {
            device: Device::Cpu,
            limits,
            ..SessionOptions::default()
        };
        let model = Model::from_graph(graph.clone()).unwrap();
        let mut session = pollster::block_on(Session::new(model, options)).unwrap();
        let mut run = |sizes: [i64; 2]| {
            let feeds = [("shape", Tensor::new(&[2], sizes.to_vec()).unwrap())];
            pollster::block_on(session.run(feeds)).map(|outputs| outputs[0].strings().unwrap().to_vec())
        };
        assert_eq!(run([1 << 25, 1 << 25]).unwrap_err().code(), code);
        assert_eq!(run([1, 2]).unwrap(), ["text", "text"]);
    }
}

#[test]
fn a_profile_has_a_row_for_each_node_and_one_for_each_kernel() {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n"), Dim::from(6)]);
    let weights = b.constant("w", Tensor::new(&[6, 5], vec![0.5f32; 30]).unwrap());
    let product = b.node("MatMul", &[x, weights]);
    let soft = b.node_with("Softmax", &[product], &[("axis", Attribute::Int(1))]);
    let graph = b.output("y", soft).finish().unwrap();
    let mut session = session(graph);
    let feed = Tensor::new(&[4, 6], vec![1.0f32; 24]).unwrap();
    let profile = pollster::block_on(session.profile(vec![("x".to_string(), feed.into())], 3)).unwrap();
    assert_eq!(profile.runs, 3);
    let mut rows = profile.nodes.clone();
    rows.sort_by(|a, b| a.operator.cmp(&b.operator));
    let work: Vec<_> = rows
        .iter()
        .map(|row| (&*row.operator, row.calls, row.operations))
        .collect();
    assert_eq!(work, [("MatMul", 1, 2 * 4 * 6 * 5), ("Softmax", 1, 0)]);
    // X, the weights and Y of the product; the input and the output of the other.
    assert_eq!([rows[0].bytes, rows[1].bytes], [4 * (24 + 30 + 20), 4 * (20 + 20)]);
    assert!(
        rows.iter().all(|row| row.ms >= 0.0 && row.mean_ms >= row.ms),
        "{rows:?}"
    );
    assert_eq!(profile.kernels().len(), 2);
    assert!(profile.run_ms >= rows.iter().map(|row| row.ms).sum::<f64>());
}

#[test]
fn a_file_whose_weights_were_folded_is_given_back_and_every_output_can_still_be_fetched() {
    // A file of which only one small tensor is used as it is: the weights are scaled by a constant at load.
    let file = modelet::tensor::Bytes::from(bytemuck::cast_slice::<f32, u8>(&vec![0.25f32; 600_000]).to_vec());
    let part = |start: usize, shape: &[usize]| {
        let bytes = file
            .slice(4 * start, 4 * (start + shape.iter().product::<usize>()))
            .unwrap();
        Tensor::from_bytes(DType::F32, shape, bytes).unwrap()
    };
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n"), Dim::from(500)]);
    let (weights, bias) = (
        b.constant("w", part(0, &[500, 1000])),
        b.constant("bias", part(500_000, &[1000])),
    );
    let quarter = b.constant("quarter", part(599_999, &[1]));
    let scaled = b.node("Mul", &[weights, quarter]);
    let product = b.node("MatMul", &[x, scaled]);
    let sum = b.node("Add", &[product, bias]);
    b.output("product", product);
    let graph = b.output("sum", sum).finish().unwrap();
    assert!(!file.is_unique());
    let mut session = session(graph);
    assert!(file.is_unique(), "the session holds on to the file");
    let feeds = [("x", Tensor::new(&[1, 500], vec![1.0f32; 500]).unwrap())];
    for (name, expected) in [("sum", 31.5), ("product", 31.25)] {
        let outputs = run(&mut session, &feeds, Some(&[name]));
        assert_eq!(outputs.len(), 1);
        assert_eq!((&*outputs[0].0, outputs[0].1[7]), (name, expected));
    }
    assert!(session.imported_graph().to_string().contains("MatMul"));
}

#[test]
fn with_little_memory_weights_are_not_packed_and_results_are_the_same() {
    let graph = || {
        let mut b = GraphBuilder::new(17);
        let x = b.input("x", DType::F32, [2, 8, 9, 9].map(Dim::from).to_vec());
        let filled = |count: usize| (0..count).map(|i| (i % 17) as f32 - 8.0).collect::<Vec<f32>>();
        let kernel = b.constant("k", Tensor::new(&[256, 8, 3, 3], filled(256 * 72)).unwrap());
        let conv = b.node("Conv", &[x, kernel]);
        let pooled = b.node("GlobalAveragePool", &[conv]);
        let flat = b.node_with("Flatten", &[pooled], &[("axis", Attribute::Int(1))]);
        let weights = b.constant("w", Tensor::new(&[256, 300], filled(256 * 300)).unwrap());
        let product = b.node("MatMul", &[flat, weights]);
        b.output("y", product).finish().unwrap()
    };
    let feed = Tensor::new(&[2, 8, 9, 9], (0..1296).map(|i| (i % 5) as f32).collect::<Vec<_>>()).unwrap();
    let results = [modelet::MemoryUse::Fast, modelet::MemoryUse::Low].map(|memory| {
        let options = SessionOptions {
            device: Device::Cpu,
            memory,
            ..SessionOptions::default()
        };
        let mut session = pollster::block_on(Session::new(Model::from_graph(graph()).unwrap(), options)).unwrap();
        let outputs = run(&mut session, &[("x", feed.clone())], None);
        (outputs, session.report().timings.prepack_ms)
    });
    let [(fast, _), (low, prepacking)] = results;
    assert_eq!(prepacking, 0.0);
    for (fast, low) in fast[0].1.iter().zip(&low[0].1) {
        assert!((fast - low).abs() <= 1e-3 * fast.abs().max(1.0), "{fast} and {low}");
    }
}
