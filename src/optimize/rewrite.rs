//! What passes share: facts about a graph, and ways to change it.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use crate::{
    error::Result,
    graph::{Graph, Node, NodeId, ValueId},
    ops::{
        Operator, PointwiseForm, PointwiseInput, ValueFacts,
        infer::{bind, infer_bound},
    },
    tensor::{DType, map::HashMap},
};

/// A graph's operators and what is known of its values, for as long as the graph does not change.
pub(super) struct Analysis {
    pub operators: Operators,
    pub facts: Vec<ValueFacts>,
}

/// One for each node.
pub(super) type Operators = Rc<[Arc<dyn Operator>]>;

/// What passes know of a graph: its captured values, and its analysis, which is made once for all the passes that leave the
/// graph as it is. Whoever changes the graph and asks again has to [`Known::forget`] in between.
pub(super) struct Known<'a> {
    pub captures: &'a [ValueFacts],
    operators: RefCell<Option<Operators>>,
    analysis: RefCell<Option<Rc<Analysis>>>,
}

impl<'a> Known<'a> {
    pub fn new(captures: &'a [ValueFacts]) -> Known<'a> {
        Known {
            captures,
            operators: RefCell::default(),
            analysis: RefCell::default(),
        }
    }

    pub fn operators(&self, graph: &Graph) -> Result<Operators> {
        let mut operators = self.operators.borrow_mut();
        Ok(match &*operators {
            Some(operators) => operators.clone(),
            None => operators.insert(bind(graph)?.into()).clone(),
        })
    }

    pub fn analysis(&self, graph: &Graph) -> Result<Rc<Analysis>> {
        let mut analysis = self.analysis.borrow_mut();
        if let Some(analysis) = &*analysis {
            debug_assert!(
                analysis.is_of(graph, self.captures),
                "the graph has changed since its analysis"
            );
            return Ok(analysis.clone());
        }
        let operators = self.operators(graph)?;
        let facts = infer_bound(graph, &operators, self.captures, &mut 0)?;
        Ok(analysis.insert(Rc::new(Analysis { operators, facts })).clone())
    }

    /// What was known is no longer so: the graph has changed.
    pub fn forget(&self) {
        self.operators.take();
        self.analysis.take();
    }
}

impl Analysis {
    /// Whether a new one would say the same of everything that is used.
    fn is_of(&self, graph: &Graph, captures: &[ValueFacts]) -> bool {
        let Ok(operators) = bind(graph) else { return false };
        let Ok(facts) = infer_bound(graph, &operators, captures, &mut 0) else {
            return false;
        };
        let used = graph
            .nodes
            .iter()
            .flat_map(|node| node.dependencies().chain(node.outputs.iter().copied().flatten()));
        let same = |id: ValueId| {
            let (old, new) = (self.facts.get(id.index()), &facts[id.index()]);
            old.is_some_and(|old| {
                let constants = old.constant.is_some() == new.constant.is_some();
                constants && old.dtype == new.dtype && old.shape == new.shape && old.elements == new.elements
            })
        };
        operators.len() == self.operators.len() && used.into_iter().all(same)
    }

    /// The element-wise meaning of a node, when it has one over f32 and bool.
    pub fn pointwise(&self, graph: &Graph, id: NodeId) -> Option<PointwiseForm> {
        let node = &graph.nodes[id.index()];
        if node.epilogue.is_some() {
            return None;
        }
        let computable = |value: &ValueId| {
            let facts = &self.facts[value.index()];
            matches!(facts.dtype, Some(DType::F32 | DType::Bool)) && facts.shape.is_some()
        };
        if !node.outputs.iter().flatten().all(computable) || node.outputs.iter().any(Option::is_none) {
            return None;
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(match input {
                Some(id) => PointwiseInput {
                    dtype: self.facts[id.index()].dtype?,
                    constant: self.facts[id.index()].constant.as_ref(),
                    given: true,
                },
                None => PointwiseInput {
                    dtype: DType::F32,
                    constant: None,
                    given: false,
                },
            });
        }
        let form = self.operators[id.index()].pointwise(&inputs)?;
        let reads = |index: &usize| {
            node.inputs
                .get(*index)
                .copied()
                .flatten()
                .is_some_and(|id| computable(&id))
        };
        form.inputs.iter().all(reads).then_some(form)
    }
}

/// Makes every use of a value in `map` use what it maps to.
pub(super) fn replace_uses(graph: &mut Graph, map: &HashMap<ValueId, ValueId>) {
    if map.is_empty() {
        return;
    }
    let resolve = |mut id: ValueId| {
        // Chains are followed to their end; a pass never makes a cycle, and the bound ends one all the same.
        for _ in 0..=map.len() {
            match map.get(&id) {
                Some(&next) => id = next,
                None => break,
            }
        }
        id
    };
    for node in &mut graph.nodes {
        for input in node.inputs.iter_mut().flatten() {
            *input = resolve(*input);
        }
        for subgraph in node.attributes.subgraphs_mut() {
            subgraph.captures.iter_mut().for_each(|id| *id = resolve(*id));
        }
    }
    graph.outputs.iter_mut().for_each(|id| *id = resolve(*id));
}

/// Keeps the nodes whose index `keep` accepts.
pub(super) fn retain_nodes(graph: &mut Graph, mut keep: impl FnMut(usize) -> bool) {
    let mut index = 0;
    graph.nodes.retain(|_| {
        index += 1;
        keep(index - 1)
    });
}

/// For every value, the nodes that use it (a node that uses it twice stands there twice), and whether it is a graph
/// output.
pub(super) struct Uses {
    pub nodes: Vec<Vec<NodeId>>,
    pub is_output: Vec<bool>,
}

impl Uses {
    pub fn of(graph: &Graph) -> Uses {
        let mut nodes = vec![Vec::new(); graph.values.len()];
        let mut is_output = vec![false; graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            for value in node.dependencies() {
                nodes[value.index()].push(NodeId(index as u32));
            }
        }
        for value in &graph.outputs {
            is_output[value.index()] = true;
        }
        Uses { nodes, is_output }
    }

    /// Whether `node` alone uses the value, however often, and it is no graph output.
    pub fn only_by(&self, value: ValueId, node: NodeId) -> bool {
        let users = &self.nodes[value.index()];
        !self.is_output[value.index()] && !users.is_empty() && users.iter().all(|user| *user == node)
    }
}

/// The permutation of a Transpose; `None` when its attribute does not fit the rank.
pub(super) fn permutation(node: &Node, rank: usize) -> Option<Vec<usize>> {
    let Some(perm) = node.attributes.ints("perm").ok()? else {
        return Some((0..rank).rev().collect());
    };
    let perm: Vec<usize> = perm
        .iter()
        .map(|&axis| usize::try_from(axis).ok())
        .collect::<Option<_>>()?;
    let mut seen = vec![false; rank];
    let fits = perm.len() == rank
        && perm
            .iter()
            .all(|&axis| axis < rank && !std::mem::replace(&mut seen[axis], true));
    fits.then_some(perm)
}
