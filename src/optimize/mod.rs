//! Passes over graphs. This file is the ordered list of passes per level; each pass stands in a file of its own and
//! turns a valid graph into a valid graph that computes the same.

mod affine;
mod attention;
mod branches;
mod broadcast;
mod captures;
mod common;
mod dead;
mod dequantized;
mod epilogue;
mod expand;
mod fold;
mod identity;
mod integer;
mod lanes;
mod norm;
mod one_hot;
mod pad;
mod parts;
mod pattern;
mod pointwise;
mod reshape;
mod rewrite;
mod transpose;
mod views;
mod widen;

use crate::{
    error::{Error, Result},
    graph::{Graph, ValueType},
    ops::{ALL_OPERATORS, Control, ValueFacts, infer::annotate},
    tensor::DType,
};
use rewrite::Known;

/// How much a model is rewritten before it is planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// The graph as imported.
    None,
    /// Passes that keep every node's own kernel: folding of constants and shapes, dead and common code, identities. What is
    /// half precision is computed in f32.
    Basic,
    /// Everything, fusions included.
    #[default]
    All,
}

impl Level {
    /// The level called `none`, `basic` or `all`.
    pub fn from_name(name: &str) -> Option<Level> {
        match name {
            "none" => Some(Level::None),
            "basic" => Some(Level::Basic),
            "all" => Some(Level::All),
            _ => None,
        }
    }
}

/// A pass: rewrites the graph (not its subgraphs), given what is known of it. Returns whether it
/// changed anything.
struct Pass {
    name: &'static str,
    run: fn(&mut Graph, &Known<'_>) -> Result<bool>,
}

/// Runs first: what nodes stand for is what the other passes work on.
const EXPANSION: &[Pass] = &[Pass {
    name: "expand",
    run: expand::run,
}];

/// Runs once, before constants are folded.
const QUANTIZED: &[Pass] = &[Pass {
    name: "dequantized",
    run: dequantized::run,
}];

/// Runs after those, for what the CPU alone has kernels for.
const CPU_QUANTIZED: &[Pass] = &[Pass {
    name: "dequantized weights",
    run: dequantized::weights,
}];

/// Runs until nothing changes.
const BASIC: &[Pass] = &[
    Pass {
        name: "captures",
        run: captures::run,
    },
    Pass {
        name: "fold",
        run: fold::run,
    },
    Pass {
        name: "branches",
        run: branches::run,
    },
    Pass {
        name: "identity",
        run: identity::run,
    },
    Pass {
        name: "reshape",
        run: reshape::run,
    },
    Pass {
        name: "common",
        run: common::run,
    },
    Pass {
        name: "dead",
        run: dead::run,
    },
];

/// Runs once, when constants are folded and branches chosen.
const PRECISION: &[Pass] = &[Pass {
    name: "widen",
    run: widen::run,
}];

/// The same for the GPU.
const GPU_PRECISION: &[Pass] = &[Pass {
    name: "widen",
    run: widen::run_for_gpu,
}];

/// Runs once for the CPU, when constants are folded.
const CPU_LOOKUPS: &[Pass] = &[Pass {
    name: "one hot",
    run: one_hot::run,
}];

/// Runs until nothing changes, the basic passes in between.
const ALGEBRA: &[Pass] = &[
    Pass {
        name: "norm",
        run: norm::run,
    },
    Pass {
        name: "pad",
        run: pad::run,
    },
    Pass {
        name: "broadcast",
        run: broadcast::run,
    },
    Pass {
        name: "transpose",
        run: transpose::run,
    },
    Pass {
        name: "affine",
        run: affine::run,
    },
];

/// Runs last.
const STORAGE: &[Pass] = &[
    Pass {
        name: "store weights",
        run: widen::store_weights,
    },
    Pass {
        name: "dead",
        run: dead::run,
    },
];

/// Runs once at the end: fused nodes are opaque to the passes above.
const FUSION: &[Pass] = &[
    Pass {
        name: "integer scale",
        run: integer::scale,
    },
    Pass {
        name: "pointwise",
        run: pointwise::run,
    },
    Pass {
        name: "views",
        run: views::run,
    },
    Pass {
        name: "pointwise",
        run: pointwise::run,
    },
    Pass {
        name: "epilogue",
        run: epilogue::run,
    },
    Pass {
        name: "integer quantize",
        run: integer::quantize,
    },
    Pass {
        name: "dead",
        run: dead::run,
    },
];

/// A fusion that the CPU alone has a kernel for; it follows those above.
const CPU_FUSION: &[Pass] = &[Pass {
    name: "lanes",
    run: lanes::run,
}];

/// Runs after those.
const LATE_FUSION: &[Pass] = &[
    Pass {
        name: "attention",
        run: attention::run,
    },
    Pass {
        name: "dead",
        run: dead::run,
    },
];

/// Passes feed each other; this many rounds have always been enough, and end what would not end by itself.
const MAX_ROUNDS: usize = 12;

/// Which kernels a graph is rewritten for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// Those of the CPU.
    #[default]
    Cpu,
    /// Those of the GPU, with the CPU for what it has none for.
    Gpu,
}

/// Rewrites a graph and its subgraphs for the CPU.
pub fn optimize(graph: Graph, level: Level) -> Result<Graph> {
    optimize_for(graph, level, Kernels::Cpu)
}

/// Rewrites a graph and its subgraphs.
pub fn optimize_for(mut graph: Graph, level: Level, kernels: Kernels) -> Result<Graph> {
    parts::run(&mut graph)?;
    optimize_with(&mut graph, (level, kernels), &[])?;
    Ok(graph)
}

fn optimize_with(graph: &mut Graph, settings: (Level, Kernels), captures: &[ValueFacts]) -> Result<()> {
    let (level, kernels) = settings;
    graph.verify()?;
    if level == Level::None {
        return Ok(());
    }
    let known = &Known::new(captures);
    let mut history = History::default();
    run_until_stable(EXPANSION, graph, known, &mut history)?;
    if level == Level::All {
        // Before weights are dequantised for good.
        run_all(QUANTIZED, graph, known, &mut history)?;
        // The kernel is in the larger build.
        if kernels == Kernels::Cpu && ALL_OPERATORS {
            run_all(CPU_QUANTIZED, graph, known, &mut history)?;
        }
    }
    run_until_stable(BASIC, graph, known, &mut history)?;
    let precision = match kernels {
        Kernels::Cpu => PRECISION,
        Kernels::Gpu => GPU_PRECISION,
    };
    if run_all(precision, graph, known, &mut history)? {
        run_until_stable(BASIC, graph, known, &mut history)?;
    }
    if level == Level::All {
        if kernels == Kernels::Cpu {
            run_all(CPU_LOOKUPS, graph, known, &mut history)?;
        }
        for _ in 0..MAX_ROUNDS {
            if !run_all(ALGEBRA, graph, known, &mut history)? {
                break;
            }
            run_until_stable(BASIC, graph, known, &mut history)?;
        }
    }
    optimize_subgraphs(graph, settings, known)?;
    if level == Level::All {
        let mut history = History::default();
        run_all(FUSION, graph, known, &mut history)?;
        if kernels == Kernels::Cpu {
            run_all(CPU_FUSION, graph, known, &mut history)?;
        }
        // The GPU's kernel is in the larger build.
        if kernels == Kernels::Cpu || ALL_OPERATORS {
            run_all(LATE_FUSION, graph, known, &mut history)?;
        }
    }
    run_all(STORAGE, graph, known, &mut History::default())?;
    let analysis = known.analysis(graph)?;
    annotate(graph, &analysis.facts);
    Ok(())
}

fn optimize_subgraphs(graph: &mut Graph, settings: (Level, Kernels), known: &Known<'_>) -> Result<()> {
    if graph
        .nodes
        .iter()
        .all(|node| node.attributes.subgraphs().next().is_none())
    {
        return Ok(());
    }
    let analysis = known.analysis(graph)?;
    known.forget();
    let facts = &analysis.facts;
    for (node, operator) in graph.nodes.iter_mut().zip(analysis.operators.iter()) {
        let given: Vec<Option<DType>> = node.inputs.iter().map(|id| facts[(*id)?.index()].dtype).collect();
        for subgraph in node.attributes.subgraphs_mut() {
            declare_inputs(&mut subgraph.graph, operator.control(), &given);
            let captured: Vec<ValueFacts> = subgraph.captures.iter().map(|id| facts[id.index()].clone()).collect();
            optimize_with(&mut subgraph.graph, settings, &captured)?;
            // What the passes inside made superfluous is no longer taken from outside.
            captures::drop_unused(subgraph);
        }
    }
    Ok(())
}

/// Gives the inputs of a loop's body their element types where it leaves them open: they are those of the node's inputs.
fn declare_inputs(body: &mut Graph, control: Option<Control>, given: &[Option<DType>]) {
    let iteration = [Some(DType::I64), Some(DType::Bool)];
    let dtypes = match control {
        Some(Control::Loop) => iteration.iter().chain(given.get(2..).unwrap_or(&[])),
        // In opset 8 the sequence lengths, which the body does not get, come first.
        Some(Control::Scan) => [].iter().chain(&given[given.len().saturating_sub(body.inputs.len())..]),
        _ => return,
    };
    for (id, dtype) in body.inputs.clone().into_iter().zip(dtypes) {
        if let ValueType::Tensor(ty) = &mut body.values[id.index()].ty {
            ty.dtype = ty.dtype.or(*dtype);
        }
    }
}

/// Which passes have nothing to do before the graph changes again.
#[derive(Default)]
struct History {
    /// How often the graph has changed.
    changes: usize,
    /// Passes that changed nothing, with `changes` as it was then.
    idle: Vec<(&'static str, usize)>,
}

fn run_until_stable(passes: &[Pass], graph: &mut Graph, known: &Known<'_>, history: &mut History) -> Result<()> {
    for _ in 0..MAX_ROUNDS {
        if !run_all(passes, graph, known, history)? {
            break;
        }
    }
    Ok(())
}

fn run_all(passes: &[Pass], graph: &mut Graph, known: &Known<'_>, history: &mut History) -> Result<bool> {
    let mut changed = false;
    for pass in passes {
        if history.idle.contains(&(pass.name, history.changes)) {
            continue;
        }
        if (pass.run)(graph, known)? {
            changed = true;
            known.forget();
            history.changes += 1;
            if cfg!(debug_assertions) {
                graph
                    .verify()
                    .map_err(|error| Error::internal(format!("pass {} left an invalid graph: {error}", pass.name)))?;
            }
        } else {
            history.idle.push((pass.name, history.changes));
        }
    }
    Ok(changed)
}
