//! Feeds in the memory of the GPU that a run takes from the caller: caches that are changed in place.

use std::rc::Rc;

use super::{Device, Offload, Session, SessionOptions};
use crate::{
    error::ErrorCode,
    gpu::testing::{self, Random},
    graph::{Attribute, Graph, GraphBuilder, OperatorId, ValueId},
    ops::ALL_OPERATORS,
    session::Model,
    tensor::{DType, Dim, Tensor},
};

fn session_on(graph: &Graph, device: Device) -> Session {
    let options = SessionOptions {
        device,
        offload: Offload::Everything,
        ..SessionOptions::default()
    };
    pollster::block_on(Session::new(Model::from_graph(graph.clone()).unwrap(), options)).unwrap()
}

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&size| Dim::from(size)).collect()
}

fn floats(random: &mut Random, shape: &[usize]) -> Tensor {
    Tensor::new(shape, random.floats(shape.iter().product())).unwrap()
}

fn ints(shape: &[usize], values: &[usize]) -> Tensor {
    Tensor::new(shape, values.iter().map(|&value| value as i64).collect()).unwrap()
}

/// The feeds of one step beside the caches.
type Feeds = Vec<(&'static str, Tensor)>;

/// A model with caches, each fed as a name, made as another, and what else a step is fed with.
struct Decoder {
    graph: Graph,
    caches: Vec<(&'static str, &'static str)>,
    shape: Vec<usize>,
    steps: Vec<Feeds>,
    /// How many rows of each sequence's cache are in use after each step; all when empty.
    used: Vec<[usize; 2]>,
}

/// One cache, written by an operator of three inputs.
fn writer(operator: &str, attributes: &[(&str, Attribute)], shape: &[usize], steps: Vec<[Tensor; 2]>) -> Decoder {
    let mut b = GraphBuilder::new(24);
    let past = b.input("past", DType::F32, dims(shape));
    let [first, second] = &steps[0];
    let first = b.input("first", first.dtype(), dims(first.shape()));
    let second = b.input("second", second.dtype(), dims(second.shape()));
    let present = b.node_with(operator, &[past, first, second], attributes);
    let seen = b.node("Neg", &[present]);
    b.output("present", present);
    Decoder {
        graph: b.output("seen", seen).finish().unwrap(),
        caches: vec![("past", "present")],
        shape: shape.to_vec(),
        steps: steps
            .into_iter()
            .map(|[first, second]| vec![("first", first), ("second", second)])
            .collect(),
        used: Vec::new(),
    }
}

fn text(value: &str) -> Attribute {
    Attribute::String(value.as_bytes().to_vec())
}

/// ScatterND, ScatterElements and TensorScatter, whose indices stand before or behind the updates.
fn writers(random: &mut Random) -> Vec<Decoder> {
    let mut decoders = Vec::new();
    for reduction in ["none", "add", "max"] {
        let shape = [random.between(3, 40), random.between(1, 9), random.between(1, 90)];
        let rows = random.between(1, 5);
        let steps = |random: &mut Random| -> Vec<[Tensor; 2]> {
            let mut step = || {
                let places: Vec<usize> = (0..rows).map(|_| random.below(shape[0])).collect();
                [ints(&[rows, 1], &places), floats(random, &[rows, shape[1], shape[2]])]
            };
            (0..4).map(|_| step()).collect()
        };
        let attributes = [("reduction", text(reduction))];
        decoders.push(writer("ScatterND", &attributes, &shape, steps(random)));
        let sizes = [rows.min(shape[0]), shape[1], random.between(1, shape[2])];
        let steps = (0..4).map(|_| {
            let places: Vec<usize> = (0..sizes.iter().product()).map(|_| random.below(shape[0])).collect();
            [ints(&sizes, &places), floats(random, &sizes)]
        });
        let steps = steps.collect();
        decoders.push(writer("ScatterElements", &attributes, &shape, steps));
    }
    for (mode, rank) in [("linear", 4), ("circular", 4), ("circular", 3), ("linear", 3)] {
        let mut shape: Vec<usize> = (0..rank).map(|_| random.between(1, 9)).collect();
        shape[rank - 2] = random.between(8, 300);
        let (room, rows) = (shape[rank - 2], random.between(1, 3));
        let mut sizes = shape.clone();
        sizes[rank - 2] = rows;
        let steps = (0..4).map(|_| {
            let limit = if mode == "linear" { room - rows + 1 } else { 3 * room };
            let starts: Vec<usize> = (0..shape[0]).map(|_| random.below(limit)).collect();
            [floats(random, &sizes), ints(&[shape[0]], &starts)]
        });
        let steps = steps.collect();
        decoders.push(writer("TensorScatter", &[("mode", text(mode))], &shape, steps));
    }
    decoders
}

const HEADS: usize = 3;
const WIDTH: usize = 8;

/// Keys and values that go to caches by TensorScatter, and an Attention over them; a prompt, and then token by token.
fn standard(random: &mut Random, room: usize) -> Vec<Decoder> {
    let shape = [2, HEADS, room, WIDTH];
    [5, 1]
        .map(|rows| {
            let new = [2, HEADS, rows, WIDTH];
            let mut b = GraphBuilder::new(24);
            let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, DType::F32, dims(&new)));
            let [keys, values] = ["past_keys", "past_values"].map(|name| b.input(name, DType::F32, dims(&shape)));
            let places = b.input("places", DType::I64, dims(&[2]));
            let lengths = b.input("lengths", DType::I64, dims(&[2]));
            let keys = b.node("TensorScatter", &[keys, k, places]);
            let values = b.node("TensorScatter", &[values, v, places]);
            let inputs = [Some(q), Some(keys), Some(values), None, None, None, Some(lengths)];
            let causal = [("is_causal", Attribute::Int(1))];
            let y = b.node_of(OperatorId::new("", "Attention", 24), &inputs, &causal, 1)[0];
            b.output("keys", keys).output("values", values);
            let steps = (0..4).map(|step| {
                let past = [step * rows, step * rows + 2];
                let mut feeds: Feeds = ["q", "k", "v"].map(|name| (name, floats(random, &new))).into();
                feeds.push(("places", ints(&[2], &past)));
                feeds.push(("lengths", ints(&[2], &past.map(|past| past + rows))));
                feeds
            });
            Decoder {
                steps: steps.collect(),
                graph: b.output("y", y).finish().unwrap(),
                caches: vec![("past_keys", "keys"), ("past_values", "values")],
                shape: shape.to_vec(),
                used: Vec::new(),
            }
        })
        .into()
}

/// GroupQueryAttention on caches with room, with rotated keys: a prompt, and then token by token.
fn grouped(random: &mut Random, room: usize) -> Decoder {
    let shape = [2, HEADS, room, WIDTH];
    let mut b = GraphBuilder::new(17);
    let open = |hidden: usize| vec![Dim::from(2), Dim::symbol("rows"), Dim::from(hidden)];
    let sizes = [("q", 2 * HEADS * WIDTH), ("k", HEADS * WIDTH), ("v", HEADS * WIDTH)];
    let [q, k, v] = sizes.map(|(name, hidden)| b.input(name, DType::F32, open(hidden)));
    let [keys, values] = ["past_keys", "past_values"].map(|name| b.input(name, DType::F32, dims(&shape)));
    let lengths = b.input("lengths", DType::I32, dims(&[2]));
    let total = b.input("total", DType::I32, Vec::new());
    let [cos, sin] = ["cos", "sin"].map(|name| b.constant(name, floats(random, &[room, WIDTH / 2])));
    let inputs = [q, k, v, keys, values, lengths, total, cos, sin].map(Some);
    let attributes = [
        ("num_heads", Attribute::Int(2 * HEADS as i64)),
        ("kv_num_heads", Attribute::Int(HEADS as i64)),
        ("do_rotary", Attribute::Int(1)),
    ];
    let operator = OperatorId::new("com.microsoft", "GroupQueryAttention", 1);
    let outputs: Vec<ValueId> = b.node_of(operator, &inputs, &attributes, 3);
    b.output("y", outputs[0]).output("keys", outputs[1]);
    let graph = b.output("values", outputs[2]).finish().unwrap();
    let (mut ends, mut used) = ([0, 0], Vec::new());
    let steps = [5, 1, 2, 1].map(|rows| {
        let is_prompt = ends == [0, 0];
        // Of the prompts, the first is shorter than the second and padded.
        ends = if is_prompt {
            [rows - 2, rows]
        } else {
            ends.map(|end| end + rows)
        };
        used.push(ends);
        let mut feeds: Feeds = sizes
            .map(|(name, hidden)| (name, floats(random, &[2, rows, hidden])))
            .into();
        let i32s = |values: &[usize]| values.iter().map(|&value| value as i32).collect();
        feeds.push(("lengths", Tensor::new(&[2], i32s(&ends.map(|end| end - 1))).unwrap()));
        feeds.push(("total", Tensor::new(&[], i32s(&[ends[1]])).unwrap()));
        feeds
    });
    Decoder {
        graph,
        caches: vec![("past_keys", "keys"), ("past_values", "values")],
        shape: shape.to_vec(),
        steps: steps.into(),
        used,
    }
}

/// Runs all steps and returns every output of each. What is consumed must be where it was.
fn decode(decoder: &Decoder, device: Device, consumes: bool) -> Vec<Vec<f32>> {
    let mut session = session_on(&decoder.graph, device);
    let gpu = session.gpu_device().cloned();
    let (pasts, presents): (Vec<&str>, Vec<&str>) = decoder.caches.iter().copied().unzip();
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let consumed = if consumes { names(&pasts) } else { Vec::new() };
    let zeros = Tensor::zeros(DType::F32, &decoder.shape).unwrap();
    let mut caches: Vec<Tensor> = pasts.iter().map(|_| zeros.clone()).collect();
    let (mut seen, mut first) = (Vec::new(), None);
    for (step, feeds) in decoder.steps.iter().enumerate() {
        let own = pasts.iter().copied().zip(caches.iter().cloned());
        let feeds: Vec<(&str, Tensor)> = own.chain(feeds.iter().cloned()).collect();
        let buffer = |cache: &Tensor| gpu.as_ref().and_then(|gpu| gpu.buffer(cache).ok());
        let before: Vec<_> = caches.iter().map(buffer).collect();
        let outputs = pollster::block_on(session.run_consuming(feeds, None, &names(&presents), &consumed)).unwrap();
        let next: Vec<Tensor> = presents.iter().map(|name| outputs.get(name).unwrap().clone()).collect();
        // The first step is fed from the CPU.
        for ((past, present), before) in caches
            .iter()
            .zip(&next)
            .zip(before)
            .filter(|_| step > 0 && gpu.is_some())
        {
            assert_eq!(buffer(past).is_none(), consumes, "{}", decoder.graph);
            assert_eq!(buffer(present) == before, consumes, "{}", decoder.graph);
        }
        caches = next;
        // One program does for all steps, however the caches come.
        let chain = session.variants.last().last_chain();
        if let (Some(first), true) = (&first, decoder.used.is_empty() && (consumes || device == Device::Cpu)) {
            assert!(Rc::ptr_eq(first, &chain[0]), "{}", decoder.graph);
        }
        first = Some(Rc::clone(&chain[0]));
        for (_, value) in outputs.iter() {
            let tensor = value.as_tensor().unwrap();
            let tensor = match &gpu {
                Some(gpu) if tensor.remote_id().is_some() => pollster::block_on(gpu.fetch(tensor)).unwrap(),
                _ => tensor.clone(),
            };
            let mut values = tensor.to_f32s().unwrap().into_owned();
            if let (Some(used), true) = (decoder.used.get(step), tensor.shape() == decoder.shape) {
                let row = |index: usize| index / WIDTH % decoder.shape[2];
                let unused = |index: usize| row(index) >= used[index / (values.len() / 2)];
                let unused: Vec<usize> = (0..values.len()).filter(|&index| unused(index)).collect();
                unused.into_iter().for_each(|index| values[index] = 0.0);
            }
            seen.push(values);
        }
    }
    seen
}

#[test]
fn caches_that_are_consumed_are_changed_in_place_with_the_results_of_copies() {
    if testing::device().is_none() || !ALL_OPERATORS {
        return;
    }
    let mut random = Random(11);
    for round in 0..4 {
        let mut decoders = writers(&mut random);
        // Short caches, and such as are bound anyway.
        let room = if round % 2 == 0 { 25 } else { 400 };
        decoders.extend(standard(&mut random, room));
        decoders.push(grouped(&mut random, room));
        for decoder in &decoders {
            let [cpu, copied, changed] = [(Device::Cpu, false), (Device::WebGpu, false), (Device::WebGpu, true)]
                .map(|(device, consumes)| decode(decoder, device, consumes));
            for ((cpu, copied), changed) in cpu.iter().zip(&copied).zip(&changed) {
                assert!(copied == changed, "{}", decoder.graph);
                testing::assert_close(changed, cpu, 1e-4, &decoder.graph.to_string());
            }
        }
    }
}

/// A cache that takes two rows more, with `other` outputs that also see what was before.
fn small(other: fn(&mut GraphBuilder, ValueId)) -> Session {
    let mut b = GraphBuilder::new(18);
    let past = b.input("past", DType::F32, dims(&[4, 2]));
    let other_input = b.input("other", DType::F32, dims(&[4, 2]));
    let places = b.constant("places", ints(&[1, 1], &[1]));
    let new = b.constant("new", Tensor::new(&[1, 2], vec![7.0f32, 8.0]).unwrap());
    let present = b.node("ScatterND", &[past, places, new]);
    let sum = b.node("Add", &[present, other_input]);
    b.output("present", present).output("sum", sum);
    other(&mut b, past);
    session_on(&b.finish().unwrap(), Device::WebGpu)
}

const BEFORE: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
const AFTER: [f32; 8] = [0.0, 1.0, 7.0, 8.0, 4.0, 5.0, 6.0, 7.0];

#[test]
fn what_else_is_read_is_not_changed_and_errors_leave_feeds_to_the_caller() {
    let Some(device) = testing::device() else { return };
    if !ALL_OPERATORS {
        return;
    }
    let before = || Tensor::new(&[4, 2], BEFORE.to_vec()).unwrap();
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let fetch = |tensor: &Tensor| {
        let tensor = match tensor.remote_id() {
            Some(_) => pollster::block_on(device.fetch(tensor)).unwrap(),
            None => tensor.clone(),
        };
        tensor.to_f32s().unwrap().into_owned()
    };
    let run = |session: &mut Session, past: &Tensor, other: &Tensor, kept: &[&str], consumed: &[&str]| {
        let feeds = [("past", past.clone()), ("other", other.clone())];
        pollster::block_on(session.run_consuming(feeds, None, &names(kept), &names(consumed)))
    };
    let mut plain = small(|_, _| ());
    // To the CPU and to the GPU; a second run takes other memory than the first.
    for kept in [&[][..], &["present"], &["present", "sum"], &["sum"]] {
        let past = device.store(&before()).unwrap();
        let outputs = run(&mut plain, &past, &before(), kept, &["past"]).unwrap();
        assert_eq!(fetch(outputs.get("present").unwrap()), AFTER, "{kept:?}");
        let sums: Vec<f32> = AFTER.iter().zip(BEFORE).map(|(a, b)| a + b).collect();
        assert_eq!(fetch(outputs.get("sum").unwrap()), sums, "{kept:?}");
        assert!(device.buffer(&past).is_err());
        let again = run(&mut plain, &past, &before(), kept, &["past"]).unwrap_err();
        assert_eq!(again.code(), ErrorCode::InvalidArgument);
    }
    // One tensor fed twice.
    let past = device.store(&before()).unwrap();
    let outputs = run(&mut plain, &past, &past, &["present"], &["past"]).unwrap();
    assert_eq!(fetch(outputs.get("present").unwrap()), AFTER);
    assert_eq!(fetch(outputs.get("sum").unwrap())[2..4], [9.0, 11.0]);
    assert!(device.buffer(&past).is_err());
    // What is consumed of no use, and what lies in the CPU's memory.
    let (past, other) = (device.store(&before()).unwrap(), device.store(&before()).unwrap());
    let outputs = run(&mut plain, &past, &other, &[], &["other"]).unwrap();
    assert_eq!(fetch(outputs.get("present").unwrap()), AFTER);
    assert_eq!((fetch(&past), device.buffer(&other).is_err()), (BEFORE.to_vec(), true));
    let from_cpu = before();
    let outputs = run(&mut plain, &from_cpu, &before(), &["present"], &["past", "other"]).unwrap();
    assert_eq!(
        (fetch(outputs.get("present").unwrap()), fetch(&from_cpu)),
        (AFTER.to_vec(), BEFORE.to_vec())
    );
    // Another reader, on the GPU or the CPU, and an output that is the input.
    let others: [fn(&mut GraphBuilder, ValueId); 3] = [
        |b, past| {
            let negative = b.node("Neg", &[past]);
            b.output("more", negative);
        },
        |b, past| {
            let found = b.node("NonZero", &[past]);
            b.output("more", found);
        },
        |b, past| {
            let same = b.node("Identity", &[past]);
            b.output("more", same);
        },
    ];
    for (index, other) in others.into_iter().enumerate() {
        let mut session = small(other);
        let past = device.store(&before()).unwrap();
        let outputs = run(&mut session, &past, &before(), &["present"], &["past"]).unwrap();
        assert_eq!(fetch(outputs.get("present").unwrap()), AFTER, "{index}");
        let more = outputs.get("more").unwrap();
        match index {
            0 => assert_eq!(fetch(more), BEFORE.map(|value| -value)),
            1 => assert_eq!(more.shape(), [2, 7]),
            _ => assert_eq!(fetch(more), BEFORE),
        }
    }
    // Errors.
    let past = device.store(&before()).unwrap();
    let code = |result: crate::Result<super::Outputs>| result.unwrap_err().code();
    assert_eq!(
        code(run(&mut plain, &past, &before(), &[], &["pasts"])),
        ErrorCode::UnknownName
    );
    let wrong = Tensor::new(&[3, 2], vec![0.0f32; 6]).unwrap();
    assert_eq!(
        code(run(&mut plain, &past, &wrong, &[], &["past"])),
        ErrorCode::WrongDimension
    );
    assert_eq!(fetch(&past), BEFORE);
    let outputs = run(&mut plain, &past, &before(), &["present"], &["past"]).unwrap();
    let present = outputs.get("present").unwrap().clone();
    device.destroy();
    assert_eq!(
        code(run(&mut plain, &present, &before(), &["present"], &["past"])),
        ErrorCode::DeviceLost
    );
    assert_eq!(
        code(run(&mut plain, &present, &before(), &["present"], &["past"])),
        ErrorCode::InvalidArgument
    );
    let outputs = run(&mut plain, &before(), &before(), &[], &["past"]).unwrap();
    assert_eq!(fetch(outputs.get("present").unwrap()), AFTER);
    // A loss in mid-run: the run is made again with what the CPU holds.
    plain.take_events();
    plain.runtime.loses_device_after.set(Some(0));
    let outputs = run(&mut plain, &from_cpu, &before(), &[], &["past"]).unwrap();
    assert_eq!(
        (fetch(outputs.get("present").unwrap()), plain.take_events().len()),
        (AFTER.to_vec(), 1)
    );
}
