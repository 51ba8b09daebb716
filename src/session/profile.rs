//! Where the time of a run goes: every step timed by itself, summed over nodes and kernels.

use crate::{
    error::Result,
    graph::{NodeId, ValueId},
    plan::{Placement, PlanState},
    tensor::{display_shape, element_count, map::HashMap},
};

/// What several runs of one model took, each step timed by itself.
#[derive(Clone, Debug)]
pub struct Profile {
    /// How many runs were timed, after one that was not.
    pub runs: usize,
    /// Milliseconds of the fastest run as a whole.
    pub run_ms: f64,
    /// One row for each node that ran, the slowest first.
    pub nodes: Vec<ProfileRow>,
}

/// What a node, or all nodes with the same kernel, took in one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileRow {
    /// The node's name; empty for a kernel.
    pub node: String,
    /// The node's operator; empty for a kernel.
    pub operator: String,
    /// Whether it ran on the GPU. Where the device has no timestamps, its steps are waited for one by one, and the wait
    /// counts.
    pub on_gpu: bool,
    /// The kernel.
    pub kernel: String,
    /// The shapes of the node's inputs and outputs, those of its last run; empty for a kernel.
    pub shapes: String,
    /// How often it ran: more than once in a loop, or when several nodes have the kernel.
    pub calls: u64,
    /// Milliseconds in the run in which they were fewest.
    pub ms: f64,
    /// Milliseconds on the average of all runs.
    pub mean_ms: f64,
    /// Multiplications and additions; 0 where memory counts rather than those.
    pub operations: u64,
    /// Bytes read and written, each operand once.
    pub bytes: u64,
}

impl ProfileRow {
    /// Billions of operations in a second.
    pub fn gflops(&self) -> f64 {
        self.operations as f64 / self.ms.max(1e-9) / 1e6
    }

    /// Billions of bytes in a second.
    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.ms.max(1e-9) / 1e6
    }
}

impl Profile {
    /// The rows of nodes with the same kernel in one, the slowest first.
    pub fn kernels(&self) -> Vec<ProfileRow> {
        let mut rows: Vec<ProfileRow> = Vec::new();
        for node in &self.nodes {
            let same = |row: &&mut ProfileRow| row.kernel == node.kernel && row.on_gpu == node.on_gpu;
            match rows.iter_mut().find(same) {
                Some(row) => {
                    row.calls += node.calls;
                    row.ms += node.ms;
                    row.mean_ms += node.mean_ms;
                    row.operations += node.operations;
                    row.bytes += node.bytes;
                }
                None => rows.push(ProfileRow {
                    node: String::new(),
                    operator: String::new(),
                    shapes: String::new(),
                    ..node.clone()
                }),
            }
        }
        sort(&mut rows);
        rows
    }
}

fn sort(rows: &mut [ProfileRow]) {
    rows.sort_by(|a, b| b.ms.total_cmp(&a.ms));
}

/// Collects times while a session is profiled.
#[derive(Default)]
pub(super) struct Profiler {
    clock: Option<fn() -> f64>,
    rows: Vec<Timed>,
    positions: HashMap<(String, String), usize>,
    /// Milliseconds that steps inside the one under way took.
    inner: f64,
    runs: usize,
    run_ms: f64,
}

struct Timed {
    row: ProfileRow,
    this_run: f64,
    total: f64,
}

/// The moment at which a step began.
pub(super) struct Began {
    at: f64,
    inner: f64,
}

/// A step for its row.
pub(super) struct StepLabel<'a> {
    pub node: NodeId,
    pub kernel: &'a str,
    pub place: Placement,
    pub bytes: Option<u64>,
}

impl Profiler {
    pub fn new(clock: fn() -> f64) -> Profiler {
        Profiler {
            clock: Some(clock),
            ..Profiler::default()
        }
    }

    fn now(&self) -> f64 {
        self.clock.map_or(0.0, |clock| clock())
    }

    pub fn begin(&self) -> Began {
        Began {
            at: self.now(),
            inner: self.inner,
        }
    }

    /// Books what passed since `began`, without what steps inside took, on a step's row.
    pub fn end(&mut self, began: Began, state: &PlanState, step: StepLabel<'_>) {
        let elapsed = self.now() - began.at;
        let own = elapsed - (self.inner - began.inner);
        self.inner = began.inner + elapsed;
        self.book(own, state, step);
    }

    /// Books milliseconds on a step's row.
    pub fn book(&mut self, own: f64, state: &PlanState, step: StepLabel<'_>) {
        let graph = &state.bound.graph;
        let key = (graph.node_label(step.node), step.kernel.to_string());
        let at = match self.positions.get(&key) {
            Some(&at) => at,
            None => {
                self.rows.push(Timed {
                    row: ProfileRow {
                        node: key.0.clone(),
                        operator: graph.nodes[step.node.index()].operator.to_string(),
                        on_gpu: step.place == Placement::Gpu,
                        kernel: key.1.clone(),
                        ms: f64::INFINITY,
                        ..ProfileRow::default()
                    },
                    this_run: 0.0,
                    total: 0.0,
                });
                self.positions.insert(key, self.rows.len() - 1);
                self.rows.len() - 1
            }
        };
        let timed = &mut self.rows[at];
        timed.this_run += own;
        timed.row.calls += 1;
        let (operations, shapes) = work(state, step.node).unwrap_or_default();
        timed.row.operations += operations;
        timed.row.shapes = shapes;
        timed.row.bytes += step.bytes.unwrap_or(0);
    }

    pub fn end_run(&mut self, ms: f64) {
        self.run_ms = if self.runs == 0 { ms } else { self.run_ms.min(ms) };
        self.runs += 1;
        for timed in &mut self.rows {
            timed.total += timed.this_run;
            timed.row.ms = timed.row.ms.min(timed.this_run);
            timed.this_run = 0.0;
        }
    }

    pub fn finish(self) -> Profile {
        let runs = self.runs.max(1) as u64;
        let finished = self.rows.into_iter().map(|timed| ProfileRow {
            calls: timed.row.calls / runs,
            mean_ms: timed.total / runs as f64,
            operations: timed.row.operations / runs,
            bytes: timed.row.bytes / runs,
            ..timed.row
        });
        let mut nodes: Vec<ProfileRow> = finished.collect();
        sort(&mut nodes);
        Profile {
            runs: self.runs,
            run_ms: self.run_ms,
            nodes,
        }
    }
}

/// What the node's operator says of its work, and the node's shapes as text.
fn work(state: &PlanState, id: NodeId) -> Result<(u64, String)> {
    let node = &state.bound.graph.nodes[id.index()];
    let shape = |id: &Option<ValueId>| {
        let facts = id.and_then(|id| state.facts.get(id.index()));
        facts.and_then(|facts| facts.concrete_shape()).unwrap_or_default()
    };
    let inputs: Vec<_> = node.inputs.iter().map(shape).collect();
    let outputs: Vec<_> = node.outputs.iter().map(shape).collect();
    let text = |shapes: &[Vec<usize>]| {
        let shapes = shapes.iter().map(|shape| display_shape(shape));
        shapes.collect::<Vec<_>>().join(" ")
    };
    let count = outputs.first().map_or(Ok(0), |first| element_count(first))?;
    let operations = state.bound.operators[id.index()].operations(&inputs, count as u64);
    Ok((operations, format!("{} → {}", text(&inputs), text(&outputs))))
}
