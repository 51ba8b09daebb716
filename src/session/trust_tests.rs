//! What becomes of runs when the GPU fails (a lost device, a wrong kernel), and of tensors that stay in its memory.

use super::{Device, Event, Session, SessionOptions};
use crate::{
    error::ErrorCode,
    gpu::{
        kernel::AdapterKind,
        testing::{self, TAMPER},
    },
    graph::{Graph, GraphBuilder},
    plan::Placement,
    session::Model,
    tensor::{DType, Dim, Tensor},
};

const SIZE: usize = 24;

/// `softmax(x · w) + relu(x · w)`, with the batch open or fixed.
fn graph(batch: Dim) -> Graph {
    let weights = (0..SIZE * SIZE).map(|index| ((index * 7 % 23) as f32 - 11.0) / 30.0);
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, vec![batch, Dim::from(SIZE)]);
    let w = b.constant("w", Tensor::new(&[SIZE, SIZE], weights.collect()).unwrap());
    let product = b.node("MatMul", &[x, w]);
    let soft = b.node("Softmax", &[product]);
    let relu = b.node("Relu", &[product]);
    let sum = b.node("Add", &[soft, relu]);
    b.output("y", sum).finish().unwrap()
}

fn session(batch: Dim, device: Device, verify_on_load: bool) -> Session {
    let options = SessionOptions {
        device,
        verify_on_load,
        ..SessionOptions::default()
    };
    pollster::block_on(Session::new(Model::from_graph(graph(batch)).unwrap(), options)).unwrap()
}

fn run(session: &mut Session, batch: usize) -> Vec<f32> {
    let x = (0..batch * SIZE).map(|index| ((index * 13 % 31) as f32 - 15.0) / 8.0);
    let x = Tensor::new(&[batch, SIZE], x.collect()).unwrap();
    let outputs = pollster::block_on(session.run([("x", x)])).unwrap();
    outputs[0].to_f32s().unwrap().into_owned()
}

fn expected(batch: usize) -> Vec<f32> {
    run(&mut session(Dim::symbol("n"), Device::Cpu, false), batch)
}

#[test]
fn auto_takes_no_software_adapter() {
    let Some(device) = testing::device() else { return };
    let session = session(Dim::symbol("n"), Device::Auto, false);
    let report = session.report();
    if device.caps().kind == AdapterKind::Software {
        assert_eq!((report.device, report.adapter), ("cpu", None));
        assert!(
            report.warnings[0].contains("is a software adapter"),
            "{:?}",
            report.warnings
        );
    } else {
        assert_eq!(report.device, "webgpu");
    }
}

#[test]
fn a_device_lost_in_mid_run_is_replaced_and_the_run_is_right() {
    if testing::device().is_none() {
        return;
    }
    let mut session = session(Dim::symbol("n"), Device::WebGpu, false);
    testing::assert_close(&run(&mut session, 4), &expected(4), 1e-5, "before");
    assert!(session.take_events().is_empty());
    session.runtime.loses_device_after.set(Some(0));
    testing::assert_close(&run(&mut session, 4), &expected(4), 1e-5, "while it is lost");
    let events = session.take_events();
    let on_new_device = |event: &Event| {
        matches!(
            event,
            Event::DeviceLost {
                on_new_device: true,
                ..
            }
        )
    };
    assert!(events.len() == 1 && on_new_device(&events[0]), "{events:?}");
    assert_eq!(session.report().device, "webgpu");
    assert!(session.report().warnings.is_empty(), "{:?}", session.report().warnings);
    testing::assert_close(&run(&mut session, 5), &expected(5), 1e-5, "after");
    assert!(session.take_events().is_empty());
}

#[test]
fn a_device_lost_between_runs_and_again_in_the_retry_leaves_the_cpu() {
    let Some(device) = testing::device() else { return };
    let mut session = session(Dim::symbol("n"), Device::WebGpu, false);
    run(&mut session, 4);
    device.destroy();
    session.runtime.loses_device_after.set(Some(0));
    testing::assert_close(&run(&mut session, 4), &expected(4), 1e-5, "on the CPU");
    let kinds: Vec<bool> = session
        .take_events()
        .iter()
        .map(|event| {
            matches!(
                event,
                Event::DeviceLost {
                    on_new_device: true,
                    ..
                }
            )
        })
        .collect();
    assert_eq!(kinds, [true, false]);
    let report = session.report();
    assert_eq!(report.device, "cpu");
    assert!(report.warnings[0].contains("destroyed"), "{:?}", report.warnings);
    testing::assert_close(&run(&mut session, 3), &expected(3), 1e-5, "after");
}

/// The softmax kernel computes something else when this is done to it.
const BROKEN: Option<(&str, &str)> = Some(("exp(", "1.0 + abs("));

#[test]
fn a_broken_kernel_is_demoted_on_load_or_with_the_first_feeds() {
    if testing::device().is_none() {
        return;
    }
    for batch in [Dim::from(4), Dim::symbol("n")] {
        let is_open = batch.known().is_none();
        TAMPER.set(BROKEN);
        let mut session = session(batch, Device::WebGpu, true);
        assert_eq!(session.take_events().is_empty(), is_open);
        testing::assert_close(&run(&mut session, 4), &expected(4), 1e-5, "demoted");
        let (events, report) = (session.take_events(), session.report());
        TAMPER.set(None);
        if is_open {
            assert!(
                matches!(&events[..], [Event::NodeDemoted { operator, .. }] if operator == "Softmax"),
                "{events:?}"
            );
        }
        let place = |operator: &str| report.nodes.iter().find(|node| node.operator == operator).unwrap();
        assert_eq!(place("MatMul").place, Placement::Gpu);
        assert_eq!(place("Softmax").place, Placement::Cpu);
        let reason = place("Softmax").reason.as_deref().unwrap();
        assert!(reason.contains("elements differ"), "{reason}");
    }
}

#[test]
fn nan_that_only_the_gpu_makes_is_found() {
    if testing::device().is_none() {
        return;
    }
    TAMPER.set(Some(("exp(", "sqrt(-9.0 + 0.0 * ")));
    let unverified = run(&mut session(Dim::from(4), Device::WebGpu, false), 4);
    assert!(unverified.iter().any(|value| value.is_nan()));
    let mut verified = session(Dim::from(4), Device::WebGpu, true);
    let events = verified.take_events();
    testing::assert_close(&run(&mut verified, 4), &expected(4), 1e-5, "demoted");
    TAMPER.set(None);
    assert!(
        matches!(&events[..], [Event::NodeDemoted { message, .. }] if message.contains("NaN on the GPU")),
        "{events:?}"
    );
}

#[test]
fn sound_kernels_pass() {
    if testing::device().is_none() {
        return;
    }
    let mut session = session(Dim::from(4), Device::WebGpu, true);
    run(&mut session, 4);
    assert!(session.take_events().is_empty());
    let on_gpu = |node: &crate::plan::NodePlacement| node.place == Placement::Gpu;
    assert!(
        session.report().nodes.iter().all(on_gpu),
        "{:?}",
        session.report().nodes
    );
}

/// `state + x` as `next`, and its sum as `total`, which the caller wants on the CPU.
fn accumulator() -> Session {
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n"), Dim::from(SIZE)]);
    let state = b.input("state", DType::F32, vec![Dim::symbol("n"), Dim::from(SIZE)]);
    let weights = (0..SIZE * SIZE).map(|index| f32::from(u8::from(index % (SIZE + 1) == 0)));
    let w = b.constant("w", Tensor::new(&[SIZE, SIZE], weights.collect()).unwrap());
    let product = b.node("MatMul", &[x, w]);
    let next = b.node("Add", &[product, state]);
    let total = b.node("ReduceSum", &[next]);
    let graph = b.output("next", next).output("total", total).finish().unwrap();
    let options = SessionOptions {
        device: Device::WebGpu,
        ..SessionOptions::default()
    };
    pollster::block_on(Session::new(Model::from_graph(graph).unwrap(), options)).unwrap()
}

#[test]
fn outputs_stay_on_the_gpu_and_feed_the_next_run() {
    if testing::device().is_none() {
        return;
    }
    let mut session = accumulator();
    let kept = ["next".to_string()];
    let x = Tensor::new(&[3, SIZE], vec![1.5f32; 3 * SIZE]).unwrap();
    let mut state = Tensor::new(&[3, SIZE], vec![0.25f32; 3 * SIZE]).unwrap();
    for round in 1..=4 {
        let feeds = [("x", x.clone()), ("state", state.clone())];
        let outputs = pollster::block_on(session.run_keeping(feeds, None, &kept)).unwrap();
        let (next, total) = (outputs.get("next").unwrap().clone(), outputs.get("total").unwrap());
        assert!(next.remote_id().is_some() && next.bytes().is_empty() && next.to_f32s().is_err());
        assert_eq!(next.shape(), [3, SIZE]);
        let expected = (0.25 + 1.5 * round as f32) * (3 * SIZE) as f32;
        testing::assert_close(&total.to_f32s().unwrap(), &[expected], 1e-4, "total");
        let device = session.gpu_device().unwrap().clone();
        device.free(&state);
        state = next;
        let fetched = pollster::block_on(device.fetch(&state)).unwrap();
        assert_eq!(fetched.to_f32s().unwrap()[0], 0.25 + 1.5 * round as f32);
    }
    // Freed, or with a device that is lost, it is refused and not taken for zeros.
    let device = session.gpu_device().unwrap().clone();
    let feeds = |state: &Tensor| [("x", x.clone()), ("state", state.clone())];
    let error =
        |session: &mut Session, state: &Tensor| pollster::block_on(session.run(feeds(state))).unwrap_err().code();
    let gone = device.store(&Tensor::zeros(DType::F32, &[3, SIZE]).unwrap()).unwrap();
    device.free(&gone);
    assert_eq!(error(&mut session, &gone), ErrorCode::InvalidArgument);
    device.destroy();
    assert_eq!(error(&mut session, &state), ErrorCode::DeviceLost);
    assert_eq!(session.take_events().len(), 1);
    assert_eq!(error(&mut session, &state), ErrorCode::InvalidArgument);
    let zeros = Tensor::zeros(DType::F32, &[3, SIZE]).unwrap();
    let outputs = pollster::block_on(session.run(feeds(&zeros))).unwrap();
    assert_eq!(outputs.get("next").unwrap().to_f32s().unwrap()[0], 1.5);
}

#[test]
fn feeds_on_the_gpu_reach_the_cpu_where_it_wants_them_and_outputs_of_the_cpu_reach_the_gpu() {
    if testing::device().is_none() {
        return;
    }
    // Little work stays on the CPU, and the shape of `where` follows from what is fed.
    let mut b = GraphBuilder::new(17);
    let x = b.input("x", DType::F32, vec![Dim::symbol("n")]);
    let doubled = b.node("Add", &[x, x]);
    let found = b.node("NonZero", &[x]);
    let same = b.node("Identity", &[x]);
    let graph = b.output("doubled", doubled).output("where", found).output("same", same);
    let options = SessionOptions {
        device: Device::WebGpu,
        ..SessionOptions::default()
    };
    let model = Model::from_graph(graph.finish().unwrap()).unwrap();
    let mut session = pollster::block_on(Session::new(model, options)).unwrap();
    let device = testing::device().unwrap();
    let x = Tensor::new(&[3], vec![1.0f32, 0.0, 2.0]).unwrap();
    let on_gpu = device.store(&x).unwrap();
    for kept in [vec![], vec!["doubled".to_string(), "same".to_string()]] {
        let run = session.run_keeping([("x", on_gpu.clone())], None, &kept);
        let outputs = pollster::block_on(run).unwrap();
        assert_eq!(outputs.get("where").unwrap().to_i64s().unwrap(), [0, 2]);
        for (name, expected) in [("doubled", [2.0, 0.0, 4.0]), ("same", [1.0, 0.0, 2.0])] {
            let output = outputs.get(name).unwrap();
            assert_eq!(output.remote_id().is_some(), !kept.is_empty(), "{name}");
            let output = match output.remote_id() {
                Some(_) => pollster::block_on(device.fetch(output)).unwrap(),
                None => output.clone(),
            };
            assert_eq!(&*output.to_f32s().unwrap(), expected, "{name}");
        }
    }
    let kept = ["where".to_string()];
    let error = pollster::block_on(session.run_keeping([("x", x)], None, &kept)).unwrap_err();
    assert_eq!(
        (error.code(), error.place().input.as_deref()),
        (ErrorCode::WrongType, Some("where"))
    );
}

#[test]
fn other_shapes_compile_no_further_pipelines() {
    let Some(device) = testing::device() else { return };
    let mut session = session(Dim::symbol("n"), Device::WebGpu, false);
    // Sizes that are alike for the choice of kernels.
    run(&mut session, 33);
    let count = device.pipeline_count();
    for batch in [34, 37, 45] {
        run(&mut session, batch);
    }
    assert!(count > 0);
    assert_eq!(device.pipeline_count(), count);
}

#[test]
fn a_profile_tells_time_operations_and_bytes_of_gpu_steps() {
    if testing::device().is_none() {
        return;
    }
    let mut session = session(Dim::symbol("n"), Device::WebGpu, false);
    let x = Tensor::new(&[64, SIZE], vec![0.5f32; 64 * SIZE]).unwrap();
    let profile = pollster::block_on(session.profile(vec![("x".into(), x.into())], 3)).unwrap();
    assert_eq!(profile.nodes.len(), 3, "{:?}", profile.nodes);
    for row in &profile.nodes {
        assert!(
            row.on_gpu && row.calls == 1 && row.ms >= 0.0 && row.mean_ms >= row.ms,
            "{row:?}"
        );
    }
    let product = profile.nodes.iter().find(|row| row.operator == "MatMul").unwrap();
    assert_eq!(product.operations, 2 * 64 * (SIZE * SIZE) as u64);
    assert_eq!(product.bytes, 4 * (2 * 64 * SIZE + SIZE * SIZE) as u64);
}

#[test]
fn the_first_run_of_each_shape_tells_how_far_preparing_has_come() {
    use super::{Progress, Stage};
    use std::{cell::RefCell, rc::Rc};
    if testing::device().is_none() {
        return;
    }
    let seen = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&seen);
    let options = SessionOptions {
        device: Device::WebGpu,
        progress: Progress::to(move |stage, done, total| told.borrow_mut().push((stage, done, total))),
        ..SessionOptions::default()
    };
    let model = Model::from_graph(graph(Dim::symbol("n"))).unwrap();
    let mut session = pollster::block_on(Session::new(model, options)).unwrap();
    assert!(seen.borrow().is_empty());
    run(&mut session, 4);
    for stage in [Stage::Plan, Stage::Upload, Stage::Compile] {
        let of_stage: Vec<_> = seen.borrow().iter().filter(|told| told.0 == stage).copied().collect();
        let (first, last) = (of_stage[0], of_stage[of_stage.len() - 1]);
        assert!(first.1 == 0 && last.1 == last.2, "{of_stage:?}");
        assert!(of_stage.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{of_stage:?}");
        assert!(stage != Stage::Upload || last.2 >= SIZE * SIZE * 4, "{of_stage:?}");
    }
    seen.borrow_mut().clear();
    run(&mut session, 4);
    assert!(seen.borrow().is_empty());
    run(&mut session, 7);
    let stages: Vec<Stage> = seen.borrow().iter().map(|told| told.0).collect();
    assert!(stages.contains(&Stage::Plan), "{stages:?}");
    let last = seen.borrow().iter().rfind(|told| told.0 == Stage::Upload).copied();
    assert_eq!(last, Some((Stage::Upload, 0, 0)), "constants are there already");
}

#[test]
fn large_tensors_that_stay_on_the_gpu_grow_from_run_to_run_and_none_changes_under_its_owner() {
    if testing::device().is_none() {
        return;
    }
    let mut b = GraphBuilder::new(17);
    let past = b.input("past", DType::F32, vec![Dim::symbol("n"), Dim::from(SIZE)]);
    let new = b.input("new", DType::F32, vec![Dim::from(1), Dim::from(SIZE)]);
    let present = b.node_with("Concat", &[past, new], &[("axis", crate::graph::Attribute::Int(0))]);
    let negative = b.node("Neg", &[present]);
    b.output("present", present);
    let graph = b.output("negative", negative).finish().unwrap();
    let options = SessionOptions {
        device: Device::WebGpu,
        offload: super::Offload::Everything,
        ..SessionOptions::default()
    };
    let mut session = pollster::block_on(Session::new(Model::from_graph(graph).unwrap(), options)).unwrap();
    let device = session.gpu_device().unwrap().clone();
    let rows = |values: std::ops::Range<usize>| -> Tensor {
        let values = values.flat_map(|row| (0..SIZE).map(move |column| (row * 100 + column) as f32));
        let values: Vec<f32> = values.collect();
        Tensor::new(&[values.len() / SIZE, SIZE], values).unwrap()
    };
    let fetch = |tensor: &Tensor| pollster::block_on(device.fetch(tensor)).unwrap();
    let kept = ["present".to_string()];
    let mut step = |past: &Tensor, row: usize, kept: &[String]| {
        let feeds = [("past", past.clone()), ("new", rows(row..row + 1))];
        let outputs = pollster::block_on(session.run_keeping(feeds, None, kept)).unwrap();
        let (present, negative) = (
            outputs.get("present").unwrap().clone(),
            outputs.get("negative").unwrap(),
        );
        let negated: Vec<f32> = negative.to_f32s().unwrap().iter().map(|value| -value).collect();
        let known = if present.remote_id().is_some() {
            fetch(&present)
        } else {
            present.clone()
        };
        assert_eq!(*known.to_f32s().unwrap(), negated);
        present
    };
    const FIRST: usize = 700;
    let mut states = vec![rows(0..FIRST)];
    for row in FIRST..FIRST + 4 {
        let next = step(&states[states.len() - 1], row, &kept);
        states.push(next);
    }
    // Programs that ran before run again, with what the CPU feeds, another tensor, and nothing that is kept.
    let other = rows(5..FIRST + 6);
    let from_cpu = step(&other, 3, &[]);
    let again = step(&states[1], 9, &kept);
    let twice = step(&states[1], 8, &kept);
    let mixed = step(&other, 4, &kept);
    for (grown, state) in states.iter().enumerate().skip(1) {
        assert_eq!(fetch(state), rows(0..FIRST + grown), "{grown}");
    }
    let ends = |tensor: &Tensor| tensor.to_f32s().unwrap()[(FIRST + 1) * SIZE];
    assert_eq!(ends(&from_cpu), 300.0);
    assert_eq!(
        [&again, &twice, &mixed].map(|tensor| ends(&fetch(tensor))),
        [900.0, 800.0, 400.0]
    );
    assert_eq!(fetch(&mixed).to_f32s().unwrap()[..2], [500.0, 501.0]);
}
