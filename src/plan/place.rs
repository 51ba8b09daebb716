//! Decides for each node of a segment whether it runs on the GPU, and lowers it to a kernel there or on the CPU.

use super::{Memory, Offload, PlanState, Planner, Target};
use crate::{
    cpu::{
        executor::run_alone,
        kernel::{ComputeKernel, CpuKernel, KernelIo},
    },
    error::{Error, Result},
    gpu::kernel::{Binding, GpuCaps, GpuKernel, GpuType},
    graph::{Node, NodeId, ValueId},
    ops::{ALL_OPERATORS, CpuLowering, GpuLowering, TensorDesc},
    tensor::{Bytes, DType, Tensor, element_count, map::HashMap},
};

/// A group of light nodes with fewer elements than this in all is not worth moving to the GPU.
const SMALL_GROUP_ELEMENTS: usize = 4096;

/// Constants up to this many bytes are prepared whatever memory may be used.
const SMALL_CONSTANT: usize = 1 << 16;

/// What a node became.
pub(super) enum Lowered {
    View { input: usize },
    Cpu(ComputeKernel),
    Gpu(GpuKernel),
}

/// A node with its kernel.
pub(super) struct Placed {
    pub node: NodeId,
    pub lowered: Lowered,
    /// Why it is not on the GPU, where there is one.
    pub reason: Option<String>,
}

/// Places and lowers the nodes of a segment.
pub(super) fn place(planner: &Planner, state: &PlanState, body: &[NodeId]) -> Result<Vec<Placed>> {
    let nodes = body
        .iter()
        .map(|&id| Described::new(planner, state, id))
        .collect::<Result<Vec<_>>>()?;
    let mut gpu: Vec<Option<GpuKernel>> = Vec::with_capacity(nodes.len());
    let mut reasons: Vec<Option<String>> = vec![None; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        gpu.push(match &planner.target {
            Target::Cpu => None,
            Target::Gpu(caps) => match node.gpu_kernel(planner, caps)? {
                Ok(kernel) => Some(kernel),
                Err(reason) => {
                    reasons[index] = Some(reason);
                    None
                }
            },
        });
    }
    let mut cpu: Vec<Option<CpuKernel>> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        cpu.push(if gpu[index].is_none() {
            Some(node.cpu_kernel(planner)?)
        } else {
            None
        });
    }
    let small = match planner.offload {
        Offload::Worthwhile => small_groups(&nodes, &gpu, &cpu),
        Offload::Everything => Vec::new(),
    };
    for index in small {
        gpu[index] = None;
        reasons[index] = Some("too little work to move its data to the GPU".into());
        cpu[index] = Some(nodes[index].cpu_kernel(planner)?);
    }
    let mut placed = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let lowered = match (gpu[index].take(), cpu[index].take()) {
            (Some(kernel), _) => Lowered::Gpu(kernel),
            (None, Some(CpuKernel::View { input })) => Lowered::View { input },
            (None, Some(CpuKernel::Compute(kernel))) => Lowered::Cpu(kernel),
            (None, Some(kernel @ CpuKernel::Dynamic(_))) => Lowered::Cpu(node.fixed_size(kernel)?),
            (None, None) => return Err(Error::internal("a node was not lowered")),
        };
        let reason = if matches!(lowered, Lowered::Cpu(_)) {
            reasons[index].take()
        } else {
            None
        };
        placed.push(Placed {
            node: node.id,
            lowered,
            reason,
        });
    }
    Ok(placed)
}

/// Light GPU nodes that hang together with no heavy node and hold little data.
fn small_groups(nodes: &[Described<'_>], gpu: &[Option<GpuKernel>], cpu: &[Option<CpuKernel>]) -> Vec<usize> {
    let mut group: Vec<usize> = (0..nodes.len()).collect();
    fn find(group: &mut [usize], mut index: usize) -> usize {
        while group[index] != index {
            group[index] = group[group[index]];
            index = group[index];
        }
        index
    }
    // Nodes that touch one non-constant value belong together; views pass the value on.
    let mut touched: HashMap<ValueId, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let is_view = matches!(cpu[index], Some(CpuKernel::View { .. }));
        if gpu[index].is_none() && !is_view {
            continue;
        }
        let values = node.node.inputs.iter().zip(&node.inputs).filter_map(|(id, desc)| {
            let id = (*id)?;
            desc.as_ref().is_some_and(|desc| desc.constant.is_none()).then_some(id)
        });
        for value in values.chain(node.node.outputs.iter().flatten().copied()) {
            let other = *touched.entry(value).or_insert(index);
            let (a, b) = (find(&mut group, index), find(&mut group, other));
            group[a] = b;
        }
    }
    let mut weight = vec![0usize; nodes.len()];
    let mut heavy = vec![false; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        if gpu[index].is_some() {
            let root = find(&mut group, index);
            heavy[root] |= node.is_heavy;
            let elements = node
                .outputs
                .iter()
                .flatten()
                .map(|desc| desc.shape.iter().product::<usize>());
            weight[root] = elements.fold(weight[root], usize::saturating_add);
        }
    }
    let light = |index: &usize| {
        let root = find(&mut group.clone(), *index);
        gpu[*index].is_some() && !heavy[root] && weight[root] < SMALL_GROUP_ELEMENTS
    };
    (0..nodes.len()).filter(light).collect()
}

/// A node with the types, shapes and constants around it.
struct Described<'a> {
    id: NodeId,
    node: &'a Node,
    state: &'a PlanState,
    inputs: Vec<Option<TensorDesc>>,
    outputs: Vec<Option<TensorDesc>>,
    is_heavy: bool,
}

impl<'a> Described<'a> {
    fn new(planner: &Planner, state: &'a PlanState, id: NodeId) -> Result<Described<'a>> {
        let node = &state.bound.graph.nodes[id.index()];
        let is_heavy = state.bound.operators[id.index()].is_heavy();
        let unprepared = planner.memory == Memory::Low && is_heavy && matches!(planner.target, Target::Cpu);
        let describe = |value: &Option<ValueId>| {
            let Some(value) = *value else { return Ok(None) };
            let (dtype, shape) = state.concrete(value)?;
            let mut constant = state.facts[value.index()].constant.clone();
            if constant
                .as_ref()
                .is_some_and(|tensor| unprepared && tensor.byte_len() > SMALL_CONSTANT)
            {
                // Kernels take what is not constant as it is.
                constant = None;
            }
            let constant_id = constant
                .as_ref()
                .map_or(0, |tensor| planner.prepared.constant_id(tensor));
            Ok(Some(TensorDesc {
                dtype,
                shape,
                constant,
                constant_id,
            }))
        };
        let inputs = node.inputs.iter().map(describe).collect::<Result<_>>()?;
        let outputs = node.outputs.iter().map(describe).collect::<Result<_>>()?;
        Ok(Described {
            id,
            node,
            state,
            inputs,
            outputs,
            is_heavy,
        })
    }

    fn at_node(&self, error: Error) -> Error {
        error
            .at_node(self.state.bound.graph.node_label(self.id))
            .at_operator(self.node.operator.to_string())
    }

    /// Inputs of the graph that the caller gives up and that nothing but this node reads.
    fn given_up(&self) -> Vec<usize> {
        if !ALL_OPERATORS || self.state.given_up.is_empty() {
            return Vec::new();
        }
        let graph = &self.state.bound.graph;
        let is_last = |id: ValueId| {
            let read = graph.nodes.iter().flat_map(Node::dependencies);
            read.chain(graph.outputs.iter().copied())
                .filter(|&other| other == id)
                .count()
                == 1
        };
        let inputs = self.node.inputs.iter().enumerate();
        let given_up = inputs.filter(|(_, id)| id.is_some_and(|id| self.state.given_up.contains(&id) && is_last(id)));
        given_up.map(|(index, _)| index).collect()
    }

    /// The node's GPU kernel, or why it has none.
    fn gpu_kernel(&self, planner: &Planner, caps: &GpuCaps) -> Result<Result<GpuKernel, String>> {
        let demoted = planner.demoted.borrow();
        if !demoted.is_empty()
            && let Some(reason) = demoted.get(&self.state.bound.graph.node_label(self.id))
        {
            return Ok(Err(reason.clone()));
        }
        let operator = &self.state.bound.operators[self.id.index()];
        for desc in self.inputs.iter().chain(&self.outputs).flatten() {
            if desc.constant.is_some() {
                continue;
            }
            let ty = match operator.takes_narrowed() {
                true => GpuType::held(desc.dtype),
                false => GpuType::from_dtype(desc.dtype),
            };
            if ty.is_none() {
                return Ok(Err(format!("{} tensors stay on the CPU", desc.dtype)));
            }
            if !caps.fits(element_count(&desc.shape)?) {
                return Ok(Err("a tensor is larger than the device's buffers".into()));
            }
        }
        let lowering = GpuLowering {
            node: self.node,
            inputs: &self.inputs,
            outputs: &self.outputs,
            caps,
            given_up: &self.given_up(),
        };
        let Some(kernel) = operator.gpu(&lowering).map_err(|error| self.at_node(error))? else {
            let dtypes = self.inputs.iter().chain(&self.outputs).flatten().map(|desc| desc.dtype);
            return Ok(Err(
                match { dtypes }.find(|&dtype| GpuType::from_dtype(dtype).is_none()) {
                    Some(dtype) => format!("{dtype} tensors stay on the CPU"),
                    None => "no GPU kernel for this operator with these types and shapes".into(),
                },
            ));
        };
        for dispatch in &kernel.dispatches {
            for binding in &dispatch.bindings {
                let desc = match binding {
                    Binding::Input(index) => self.inputs.get(*index).and_then(Option::as_ref),
                    Binding::Output(index) => self.outputs.get(*index).and_then(Option::as_ref),
                    Binding::Constant(_) | Binding::Scratch(..) => continue,
                };
                let bound = desc.filter(|desc| GpuType::held(desc.dtype).is_some() && !desc.shape.contains(&0));
                if bound.is_none() {
                    return Ok(Err("the GPU kernel binds a tensor that the GPU cannot hold".into()));
                }
            }
        }
        Ok(Ok(kernel))
    }

    fn cpu_kernel(&self, planner: &Planner) -> Result<CpuKernel> {
        // Threads of a kernel could not bring to memory what lies outside it.
        let constants = self.inputs.iter().flatten().filter_map(|desc| desc.constant.as_ref());
        constants.filter_map(Tensor::shared_bytes).try_for_each(Bytes::load)?;
        let lowering = CpuLowering {
            node: self.node,
            inputs: &self.inputs,
            outputs: &self.outputs,
            outputs_known: true,
            prepared: &planner.prepared,
            threads: planner.threads,
        };
        self.state.bound.operators[self.id.index()]
            .cpu(&lowering)
            .map_err(|error| self.at_node(error))
    }

    /// A kernel that makes its own outputs, as one that writes planned memory: its shapes are known here.
    fn fixed_size(&self, kernel: CpuKernel) -> Result<ComputeKernel> {
        let shapes: Vec<Option<(DType, Vec<usize>)>> = self
            .inputs
            .iter()
            .map(|desc| desc.as_ref().map(|desc| (desc.dtype, desc.shape.clone())))
            .collect();
        let wanted: Vec<Option<(DType, Vec<usize>)>> = self
            .outputs
            .iter()
            .map(|desc| desc.as_ref().map(|desc| (desc.dtype, desc.shape.clone())))
            .collect();
        let run = move |io: &mut KernelIo<'_>| {
            let tensor = |(index, shape): (usize, &Option<(DType, Vec<usize>)>)| match shape {
                Some((dtype, shape)) => Tensor::from_bytes(*dtype, shape, io.inputs.bytes(index)?).map(Some),
                None => Ok(None),
            };
            let inputs = shapes.iter().enumerate().map(tensor).collect::<Result<Vec<_>>>()?;
            let results = run_alone(&kernel, &inputs, &wanted)?;
            for (index, (result, wanted)) in results.into_iter().zip(&wanted).enumerate() {
                let (Some(result), Some((dtype, shape))) = (result, wanted) else {
                    continue;
                };
                if result.dtype() != *dtype || result.shape() != shape {
                    return Err(Error::internal(
                        "a kernel made an output of another type or shape than inferred",
                    ));
                }
                io.outputs.take_bytes(index)?.copy_from_slice(result.bytes());
            }
            Ok(())
        };
        match CpuKernel::compute("dynamic", run) {
            CpuKernel::Compute(kernel) => Ok(kernel),
            _ => Err(Error::internal("a kernel changed its kind")),
        }
    }
}
