//! What becomes of runs when the GPU fails: a lost device, a wrong kernel.

use super::{Device, Event, Session, SessionOptions};
use crate::{
    gpu::testing::{self, TAMPER},
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
