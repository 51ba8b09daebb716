//! Runs cases on all cores. A case that panics fails alone; one that does not end is named and left behind.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use modelet::{
    Device, ErrorCode, Model, Session, SessionOptions,
    graph::Graph,
    import::onnx::{import, read_value},
    plan::{NodePlacement, Placement},
    session::{Offload, ValueInfo},
    tensor::Value,
};

use super::cases::Case;
use super::compare::difference;
use super::report::Outcome;

/// How long one case may take; the slowest are networks of a few seconds in a build that is not optimized.
const LIMIT: Duration = Duration::from_secs(120);

/// As much as a main thread has.
const STACK: usize = 8 << 20;

/// Cases are done when their outcome arrives, begun when their name does.
enum Message {
    Begun { worker: usize, case: String },
    Done { worker: usize, outcome: Outcome },
}

/// The device that the environment names.
pub fn device() -> Device {
    match std::env::var("MODELET_CONFORMANCE_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("webgpu") => Device::WebGpu,
        Ok(other) => panic!("MODELET_CONFORMANCE_DEVICE is {other}; it may be cpu or webgpu"),
    }
}

/// Runs the cases; outcomes are in their order.
pub fn run_all(cases: Vec<Case>, device: Device) -> Vec<Outcome> {
    quiet_panics();
    let order: Vec<String> = cases.iter().map(|case| case.id.clone()).collect();
    let queue = Arc::new(Mutex::new(cases.into_iter()));
    let (sender, receiver) = channel();
    // The GPU has one queue, and software GPUs use all cores by themselves.
    let workers = match device {
        Device::WebGpu => 1,
        _ => thread::available_parallelism().map_or(2, |cores| cores.get()),
    };
    let spawn = |worker: usize, sender: Sender<Message>| {
        let queue = queue.clone();
        let work = move || {
            let mut kept = None;
            while let Some(case) = next(&queue) {
                let case_id = case.id.clone();
                let _ = sender.send(Message::Begun { worker, case: case_id });
                let outcome = outcome(&case, device, &mut kept);
                if sender.send(Message::Done { worker, outcome }).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().stack_size(STACK).spawn(work);
        thread.expect("a thread can be started");
    };
    let mut next_worker = workers;
    (0..workers).for_each(|worker| spawn(worker, sender.clone()));

    let mut outcomes = Vec::new();
    let mut running: Vec<(usize, String, Instant)> = Vec::new();
    while outcomes.len() < order.len() {
        match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok(Message::Begun { worker, case }) => running.push((worker, case, Instant::now())),
            Ok(Message::Done { worker, outcome }) => {
                // What was given up on counts as failed, even when it ends after all.
                if let Some(at) = running.iter().position(|(own, ..)| *own == worker) {
                    running.swap_remove(at);
                    outcomes.push(outcome);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the threads that run cases ended early"),
        }
        while let Some(at) = running.iter().position(|(.., began)| began.elapsed() > LIMIT) {
            let (_, case, _) = running.swap_remove(at);
            println!("{case} has not ended after {LIMIT:?}");
            outcomes.push(failed(case, format!("it has not ended after {LIMIT:?}")));
            spawn(next_worker, sender.clone());
            next_worker += 1;
        }
    }
    outcomes.sort_by_cached_key(|outcome| order.iter().position(|id| *id == outcome.case));
    outcomes
}

fn next(queue: &Mutex<std::vec::IntoIter<Case>>) -> Option<Case> {
    queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next()
}

fn failed(case: String, message: String) -> Outcome {
    Outcome {
        case,
        failures: vec![message],
        operators: Vec::new(),
        on_gpu: Vec::new(),
        on_cpu: Vec::new(),
        seconds: LIMIT.as_secs_f64(),
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the text of a panic for the outcome, instead of printing it.
fn quiet_panics() {
    let usual = std::panic::take_hook();
    let main = thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        if thread::current().id() == main {
            return usual(info);
        }
        PANIC.with_borrow_mut(|text| *text = format!("panic: {info}"));
    }));
}

fn outcome(case: &Case, device: Device, kept: &mut Option<Session>) -> Outcome {
    let began = Instant::now();
    let mut outcome = Outcome {
        case: case.id.clone(),
        failures: Vec::new(),
        operators: Vec::new(),
        on_gpu: Vec::new(),
        on_cpu: Vec::new(),
        seconds: 0.0,
    };
    let caught = catch_unwind(AssertUnwindSafe(|| run(case, device, kept, &mut outcome)));
    match caught {
        Ok(Ok(())) => {}
        Ok(Err(message)) => outcome.failures.push(message),
        Err(_) => outcome.failures.push(PANIC.take()),
    }
    outcome.seconds = began.elapsed().as_secs_f64();
    outcome
}

/// Runs the case in a session, which is kept while the next is made: sessions share a device as long as one of them
/// lives, and software drivers do not take a new one for each of thousands of cases.
fn run(case: &Case, device: Device, kept: &mut Option<Session>, outcome: &mut Outcome) -> Result<(), String> {
    let text = |error: modelet::Error| error.to_string();
    let bytes = fs::read(case.folder.join("model.onnx")).map_err(|error| error.to_string())?;
    let external = |name: &str| match fs::read(case.folder.join(name)) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(modelet::Error::new(ErrorCode::ExternalData, error.to_string())),
    };
    let graph = import(bytes, &external).map_err(text)?;
    outcome.operators = operators(&graph);
    let model = Model::from_graph(graph).map_err(text)?;
    let options = SessionOptions {
        device,
        offload: Offload::Everything,
        ..SessionOptions::default()
    };
    let session = kept.insert(pollster::block_on(Session::new(model, options)).map_err(text)?);
    let sets = case.sets();
    if sets.is_empty() {
        return Err("the case has no test data".into());
    }
    for set in sets {
        let feeds = values(Case::files(&set, "input"), session.inputs()).map_err(text)?;
        let expected = values(Case::files(&set, "output"), session.outputs()).map_err(text)?;
        let outputs = pollster::block_on(session.run(feeds)).map_err(text)?;
        if expected.is_empty() {
            return Err("the case has no expected outputs".into());
        }
        for (name, expected) in &expected {
            let Some(actual) = outputs.value(name) else {
                return Err(format!("the model has no output {name}"));
            };
            if let Some(difference) = difference(actual, expected, case.tolerance) {
                outcome.failures.push(format!("{name}: {difference}"));
            }
        }
    }
    let report = session.report();
    let on_gpu = report.nodes.iter().filter(|node| node.place == Placement::Gpu);
    let on_gpu: BTreeSet<&str> = on_gpu.map(|node| node.operator.as_str()).collect();
    outcome.on_gpu = on_gpu.into_iter().map(String::from).collect();
    let on_cpu = report.nodes.iter().filter(|node| node.place == Placement::Cpu);
    let reason = |node: &NodePlacement| {
        let reason = node.reason.clone().unwrap_or_default();
        (node.operator.clone(), reason)
    };
    outcome.on_cpu = on_cpu.map(reason).collect();
    Ok(())
}

/// Values under the names of a model's inputs or outputs: by the name in the file where the model has it, else by
/// position.
fn values(files: Vec<Vec<u8>>, infos: &[ValueInfo]) -> modelet::Result<Vec<(String, Value)>> {
    let required = || infos.iter().filter(|info| !info.optional);
    // Some files hold a value for every input, those with a default too.
    let infos: Vec<&ValueInfo> = match files.len() > required().count() {
        true => infos.iter().collect(),
        false => required().collect(),
    };
    let read = |(position, file): (usize, Vec<u8>)| {
        let unknown = ValueInfo {
            name: format!("#{position}"),
            ty: Default::default(),
            optional: false,
        };
        let info = infos.get(position).copied().unwrap_or(&unknown);
        let (own, value) = read_value(file, &info.ty)?;
        let known = infos.iter().any(|info| info.name == own);
        Ok((if known { own } else { info.name.clone() }, value))
    };
    files.into_iter().enumerate().map(read).collect()
}

fn operators(graph: &Graph) -> Vec<String> {
    fn collect(graph: &Graph, names: &mut BTreeSet<String>) {
        for node in &graph.nodes {
            names.insert(node.operator.to_string());
            for (_, subgraph) in node.attributes.subgraphs() {
                collect(&subgraph.graph, names);
            }
        }
    }
    let mut names = BTreeSet::new();
    collect(graph, &mut names);
    names.into_iter().collect()
}
