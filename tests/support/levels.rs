//! Runs a graph at every level of optimization on random data, and compares.

// Each test program uses some of it.
#![allow(dead_code, unused_imports)]

use modelet::{
    DType, Device, Model, Session, SessionOptions, Tensor,
    graph::Graph,
    optimize::{Level, optimize},
    tensor::Dim,
};

/// Random numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32 / (1 << 24) as f32) * 2.0 - 1.0
    }

    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        Tensor::new(shape, (0..count).map(|_| self.next()).collect()).unwrap()
    }
}

pub fn run(graph: &Graph, optimization: Level, feeds: &[(String, Tensor)]) -> Vec<Tensor> {
    let options = SessionOptions {
        device: Device::Cpu,
        optimization,
        ..SessionOptions::default()
    };
    let model = Model::from_graph(graph.clone()).unwrap();
    let mut session = pollster::block_on(Session::new(model, options)).unwrap();
    let outputs = pollster::block_on(session.run(feeds.iter().cloned()));
    outputs
        .unwrap_or_else(|error| panic!("{optimization:?}: {error}"))
        .into_iter()
        .map(|(_, value)| value.tensor().expect("an output is a tensor").clone())
        .collect()
}

/// Runs the graph at every level on inputs in which each symbol has each of `sizes`; returns the optimized graph.
pub fn check(graph: &Graph, sizes: &[usize]) -> Graph {
    let mut random = Random(1);
    for &size in sizes {
        let feeds: Vec<(String, Tensor)> = graph
            .inputs
            .iter()
            .map(|&id| {
                let value = graph.value(id);
                let shape: Vec<usize> = value
                    .ty
                    .shape()
                    .unwrap()
                    .iter()
                    .map(|dim| dim.size().unwrap_or(size))
                    .collect();
                (value.name.clone(), random.tensor(&shape))
            })
            .collect();
        let expected = run(graph, Level::None, &feeds);
        for level in [Level::Basic, Level::All] {
            for (actual, expected) in run(graph, level, &feeds).iter().zip(&expected) {
                assert_eq!(
                    (actual.dtype(), actual.shape()),
                    (expected.dtype(), expected.shape()),
                    "{level:?}"
                );
                if actual.dtype() != DType::F32 {
                    assert_eq!(actual, expected, "{level:?}");
                    continue;
                }
                let (actual, expected) = (actual.to_f32s().unwrap(), expected.to_f32s().unwrap());
                for (index, (a, b)) in actual.iter().zip(expected.iter()).enumerate() {
                    assert!(
                        (a - b).abs() <= 1e-4 + 1e-4 * b.abs() || (a.is_nan() && b.is_nan()),
                        "{level:?}, element {index}: {a}, expected {b}"
                    );
                }
            }
        }
    }
    optimize(graph.clone(), Level::All).unwrap()
}

pub fn operators(graph: &Graph) -> Vec<String> {
    graph.nodes.iter().map(|node| node.operator.name.to_string()).collect()
}

pub fn ints(values: &[i64]) -> Tensor {
    Tensor::new(&[values.len()], values.to_vec()).unwrap()
}

pub fn batch_by(dims: &[i64]) -> Vec<Dim> {
    [Dim::symbol("batch")]
        .into_iter()
        .chain(dims.iter().map(|&dim| Dim::from(dim)))
        .collect()
}
