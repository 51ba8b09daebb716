//! The same model for other sets of inputs and outputs: inputs that have defaults are constants until somebody feeds
//! them, and outputs that nobody fetches are not computed.

use std::rc::Rc;

use super::runner::Runner;
use crate::{
    error::Result,
    graph::Graph,
    ops::infer::BoundGraph,
    optimize::{Kernels, Level, optimize_for},
};

/// More variants than this are not kept beside the main one.
const MAX_VARIANTS: usize = 4;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct VariantKey {
    /// Whether inputs with defaults are inputs.
    pub defaults_are_fed: bool,
    /// Positions of the outputs, in the model's order.
    pub outputs: Vec<usize>,
}

/// The runners of a model. The first one, with defaults as constants and all outputs, stays.
pub(super) struct Variants {
    runners: Vec<(VariantKey, Rc<Runner>)>,
    last: Rc<Runner>,
    kernels: Kernels,
}

impl Variants {
    /// Makes the main variant.
    pub fn new(imported: &Graph, level: Level, kernels: Kernels, program_cache: usize) -> Result<Variants> {
        let key = VariantKey {
            defaults_are_fed: false,
            outputs: (0..imported.outputs.len()).collect(),
        };
        let runner = Rc::new(make(imported, &key, (level, kernels), program_cache)?);
        Ok(Variants {
            runners: vec![(key, Rc::clone(&runner))],
            last: runner,
            kernels,
        })
    }

    /// Nothing, for a released session.
    pub fn none() -> Variants {
        let bound = BoundGraph {
            graph: Graph::default(),
            operators: Vec::new(),
        };
        Variants {
            runners: Vec::new(),
            last: Rc::new(Runner::new(Rc::new(bound), 1)),
            kernels: Kernels::Cpu,
        }
    }

    /// The runner for a key, made when there is none.
    pub fn get(&mut self, imported: &Graph, key: VariantKey, level: Level, program_cache: usize) -> Result<Rc<Runner>> {
        let found = self
            .runners
            .iter()
            .find(|(own, _)| *own == key)
            .map(|(_, runner)| Rc::clone(runner));
        let runner = match found {
            Some(runner) => runner,
            None => {
                let runner = Rc::new(make(imported, &key, (level, self.kernels), program_cache)?);
                if self.runners.len() > MAX_VARIANTS {
                    self.runners.remove(1);
                }
                self.runners.push((key, Rc::clone(&runner)));
                runner
            }
        };
        self.last = Rc::clone(&runner);
        Ok(runner)
    }

    /// The runner that was asked for last; the main one at first.
    pub fn last(&self) -> &Runner {
        &self.last
    }

    /// Drops every program.
    pub fn forget_programs(&self) {
        self.runners.iter().for_each(|(_, runner)| runner.forget_programs());
    }
}

fn make(imported: &Graph, key: &VariantKey, settings: (Level, Kernels), program_cache: usize) -> Result<Runner> {
    let mut graph = imported.clone();
    graph.outputs = key.outputs.iter().map(|&position| imported.outputs[position]).collect();
    if !key.defaults_are_fed {
        graph.inputs.retain(|&id| imported.value(id).constant.is_none());
    }
    let bound = BoundGraph::new(optimize_for(graph, settings.0, settings.1)?)?;
    Ok(Runner::new(Rc::new(bound), program_cache))
}
