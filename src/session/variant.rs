//! The same model for other sets of inputs and outputs: inputs that have defaults are constants until somebody feeds
//! them, and outputs that nobody fetches are not computed.

use std::rc::Rc;

use super::runner::Runner;
use crate::{
    error::Result,
    graph::{Graph, ValueId},
    ops::{infer::BoundGraph, registry},
    optimize::{Kernels, Level, optimize_for},
    tensor::{
        AlignedBytes, Bytes, Tensor,
        map::{HashMap, HashSet},
    },
};

/// Files below this length are not worth giving back.
const LARGE_FILE: usize = 1 << 20;

/// Constants below this length are kept where only the look of a graph counts.
const SMALL_CONSTANT: usize = 1 << 10;

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
    /// Whether the main variant does without the memory of a model file.
    pub detached: bool,
}

impl Variants {
    /// Makes the main variant.
    pub fn new(imported: &Graph, level: Level, kernels: Kernels, program_cache: usize) -> Result<Variants> {
        let key = VariantKey {
            defaults_are_fed: false,
            outputs: (0..imported.outputs.len()).collect(),
        };
        let (runner, detached) = make(imported, &key, (level, kernels), program_cache)?;
        let runner = Rc::new(runner);
        Ok(Variants {
            detached,
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
            detached: false,
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
                let runner = Rc::new(make(imported, &key, (level, self.kernels), program_cache)?.0);
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

fn make(
    imported: &Graph,
    key: &VariantKey,
    settings: (Level, Kernels),
    program_cache: usize,
) -> Result<(Runner, bool)> {
    let mut graph = imported.clone();
    graph.outputs = key.outputs.iter().map(|&position| imported.outputs[position]).collect();
    if !key.defaults_are_fed {
        graph.inputs.retain(|&id| imported.value(id).constant.is_none());
    }
    let mut graph = optimize_for(graph, settings.0, settings.1)?;
    registry::check_types(&graph)?;
    let detached = detach(imported, &mut graph)?;
    let runner = Runner::new(Rc::new(BoundGraph::new(graph)?), program_cache);
    Ok((runner, detached))
}

/// Copies what a graph still needs of files of which it needs little (its weights were folded into new ones, or widened),
/// so that the files' memory can be given back; whether there is such a file.
fn detach(imported: &Graph, graph: &mut Graph) -> Result<bool> {
    fn constants(graph: &Graph) -> impl Iterator<Item = &Bytes> {
        let constants = graph.values.iter().filter_map(|value| value.constant.as_ref());
        constants.filter_map(Tensor::shared_bytes)
    }
    let files = constants(imported)
        .map(Bytes::owner)
        .filter(|file| file.1 >= LARGE_FILE);
    let mut files: HashMap<u64, usize> = files.collect();
    for bytes in constants(graph) {
        if let Some(unneeded) = files.get_mut(&bytes.owner().0) {
            *unneeded = unneeded.saturating_sub(2 * bytes.len());
        }
    }
    for constant in graph.values.iter_mut().filter_map(|value| value.constant.as_mut()) {
        let Some(bytes) = constant.shared_bytes() else { continue };
        if files.get(&bytes.owner().0).is_some_and(|&unneeded| unneeded > 0) {
            let copy = AlignedBytes::copy_of(bytes)?;
            *constant = Tensor::from_bytes(constant.dtype(), constant.shape(), copy)?;
        }
    }
    Ok(files.iter().any(|(_, &unneeded)| unneeded > 0))
}

/// Takes the large weights out of an imported graph whose optimized form does without them, and copies small ones, so that
/// nothing holds the file. Defaults of inputs stay. What is left runs no more, but can be shown.
pub(super) fn strip(imported: &mut Graph) -> Result<()> {
    let inputs: HashSet<ValueId> = imported.inputs.iter().copied().collect();
    for (index, value) in imported.values.iter_mut().enumerate() {
        let Some(bytes) = value.constant.as_ref().and_then(Tensor::shared_bytes) else {
            continue;
        };
        if inputs.contains(&ValueId(index as u32)) {
            continue;
        }
        value.constant = match &value.constant {
            Some(tensor) if bytes.len() < SMALL_CONSTANT => {
                let copy = AlignedBytes::copy_of(bytes)?;
                Some(Tensor::from_bytes(tensor.dtype(), tensor.shape(), copy)?)
            }
            _ => None,
        };
    }
    Ok(())
}
