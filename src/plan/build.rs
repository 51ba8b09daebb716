//! Puts a segment together: orders its nodes so that the CPU and the GPU alternate as rarely as they can, inserts the
//! crossings, and gives every value memory.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    NodePlacement, Placement, PlanState, Planner, Segment, SegmentOutput, SlotSource, Step, TailStep, Target,
    memory::{Lifetime, lay_out},
    parts::{Parts, Values},
    place::{Lowered, Placed, place},
    select::Selection,
};
use crate::{
    cpu::{
        executor::{CpuStep, Operand, Place},
        kernel::{ComputeKernel, CpuKernel},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{Check, ConstantData, GpuKernel, GpuType},
        program::{GpuProgram, GpuStep, GpuValue, GpuValueId, ValueStorage},
    },
    graph::{NodeId, ValueId},
    ops::{ALL_OPERATORS, CpuLowering, TensorDesc},
    tensor::{DType, Tensor, element_count, map::HashMap, sorted_positions},
};

/// Builds the segment of the selected nodes.
pub(super) fn build(planner: &Planner, state: &PlanState, selection: Selection) -> Result<Segment> {
    let placed = place(planner, state, &selection.body)?;
    let mut builder = Builder::new(planner, state, &selection, &placed)?;
    let nodes = selection
        .folded
        .into_iter()
        .chain(builder.placements(&placed)?)
        .collect();
    let order = schedule(state, &placed);
    let mut placed: Vec<Option<Placed>> = placed.into_iter().map(Some).collect();
    let mut batch = Vec::new();
    for run in order.chunk_by(|a, b| a.device == b.device) {
        batch.clear();
        batch.extend(run.iter().filter_map(|entry| placed[entry.index].take()));
        match run[0].device {
            Device::Cpu => builder.cpu_batch(&mut batch)?,
            Device::Gpu => builder.gpu_batch(&mut batch)?,
        }
    }
    let tail = selection
        .tail
        .iter()
        .map(|&id| builder.tail_step(id))
        .collect::<Result<_>>()?;
    builder.finish(&selection.live_out, tail, nodes)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Device {
    Cpu,
    Gpu,
}

struct Scheduled {
    index: usize,
    device: Device,
}

/// An order for the nodes in which each device runs everything it can before the other has its turn. Views stand with
/// whatever runs when they become ready.
fn schedule(state: &PlanState, placed: &[Placed]) -> Vec<Scheduled> {
    let graph = &state.bound.graph;
    let mut producer: HashMap<ValueId, usize> = HashMap::new();
    for (index, entry) in placed.iter().enumerate() {
        for &value in graph.nodes[entry.node.index()].outputs.iter().flatten() {
            producer.insert(value, index);
        }
    }
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); placed.len()];
    let mut waiting = vec![0usize; placed.len()];
    for (index, entry) in placed.iter().enumerate() {
        for value in graph.nodes[entry.node.index()].dependencies() {
            if let Some(&source) = producer.get(&value) {
                users[source].push(index);
                waiting[index] += 1;
            }
        }
    }
    // Index 0: CPU, 1: GPU, 2: views.
    let queue_of = |index: usize| match placed[index].lowered {
        Lowered::Cpu(_) => 0,
        Lowered::Gpu(_) => 1,
        Lowered::View { .. } => 2,
    };
    let mut ready: [BTreeSet<usize>; 3] = Default::default();
    for index in (0..placed.len()).filter(|&index| waiting[index] == 0) {
        ready[queue_of(index)].insert(index);
    }
    let mut order = Vec::with_capacity(placed.len());
    let mut current = 0;
    loop {
        let index = match ready[2].pop_first() {
            Some(view) => view,
            None => match ready[current].pop_first() {
                Some(index) => index,
                None if ready[1 - current].is_empty() => break,
                None => {
                    current = 1 - current;
                    continue;
                }
            },
        };
        let device = if current == 0 { Device::Cpu } else { Device::Gpu };
        order.push(Scheduled { index, device });
        for &user in &users[index] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready[queue_of(user)].insert(user);
            }
        }
    }
    order
}

/// A value's memory on the host.
struct HostValue {
    dtype: DType,
    len: usize,
    home: Home,
    first: usize,
    last: usize,
}

#[derive(Clone, Copy)]
enum Home {
    Arena,
    Slot(usize),
    /// Within another value.
    Part,
}

/// Steps before memory is laid out.
enum Draft {
    Cpu {
        node: NodeId,
        kernel: ComputeKernel,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
    },
    Upload(ValueId),
    Gpu(usize),
    Download(Vec<ValueId>),
}

struct Builder<'a> {
    planner: &'a Planner,
    state: &'a PlanState,
    /// Values whose memory must outlive the segment, by root.
    owned: BTreeSet<ValueId>,
    /// For a view, the value whose memory it shows.
    root: HashMap<ValueId, ValueId>,
    /// Roots that this segment makes.
    made: BTreeSet<ValueId>,
    parts: Parts,
    host: HashMap<ValueId, HostValue>,
    device: HashMap<ValueId, GpuValueId>,
    /// What GPU kernels require of what is uploaded.
    checks: HashMap<ValueId, Vec<Check>>,
    slots: Vec<SlotSource>,
    drafts: Vec<Draft>,
    gpu: GpuProgram,
}

impl<'a> Builder<'a> {
    fn new(
        planner: &'a Planner,
        state: &'a PlanState,
        selection: &Selection,
        placed: &[Placed],
    ) -> Result<Builder<'a>> {
        let graph = &state.bound.graph;
        let mut root: HashMap<ValueId, ValueId> = HashMap::new();
        let mut made = BTreeSet::new();
        for entry in placed {
            let node = &graph.nodes[entry.node.index()];
            match (&entry.lowered, node.output(0)) {
                (Lowered::View { input }, Some(output)) => {
                    if let Some(source) = node.inputs.get(*input).copied().flatten() {
                        let source = root.get(&source).copied().unwrap_or(source);
                        root.insert(output, source);
                    }
                }
                _ => made.extend(node.outputs.iter().flatten().copied()),
            }
        }
        let owned = selection.live_out.iter().map(|id| root.get(id).copied().unwrap_or(*id));
        let owned = owned.filter(|id| made.contains(id)).collect();
        let values = Values {
            graph,
            root: &root,
            owned: &owned,
            len: &|id| {
                let (dtype, shape) = state.concrete(id)?;
                byte_len(dtype, &shape)
            },
        };
        let parts = Parts::find(&values, placed)?;
        let mut checks: HashMap<ValueId, Vec<Check>> = HashMap::new();
        for entry in placed {
            let Lowered::Gpu(kernel) = &entry.lowered else { continue };
            for (index, check) in &kernel.checks {
                if let Some(id) = graph.nodes[entry.node.index()].inputs.get(*index).copied().flatten() {
                    let of_value = checks.entry(root.get(&id).copied().unwrap_or(id)).or_default();
                    if !of_value.contains(check) {
                        of_value.push(check.clone());
                    }
                }
            }
        }
        Ok(Builder {
            planner,
            state,
            owned,
            root,
            made,
            parts,
            host: HashMap::new(),
            device: HashMap::new(),
            checks,
            slots: Vec::new(),
            drafts: Vec::new(),
            gpu: GpuProgram::default(),
        })
    }

    fn root(&self, id: ValueId) -> ValueId {
        self.root.get(&id).copied().unwrap_or(id)
    }

    fn add_slot(&mut self, source: SlotSource) -> usize {
        self.slots.push(source);
        self.slots.len() - 1
    }

    /// Makes room on the host for a root that is written at the next step.
    fn define_on_host(&mut self, id: ValueId) -> Result<()> {
        let (dtype, shape) = self.state.concrete(id)?;
        let len = byte_len(dtype, &shape)?;
        let home = if self.owned.contains(&id) {
            Home::Slot(self.add_slot(SlotSource::Buffer(len)))
        } else if self.parts.part.contains_key(&id) {
            Home::Part
        } else {
            Home::Arena
        };
        let now = self.drafts.len();
        self.host.insert(
            id,
            HostValue {
                dtype,
                len,
                home,
                first: now,
                last: now,
            },
        );
        Ok(())
    }

    /// Notes that the next step reads a root on the host, where it must be.
    fn use_on_host(&mut self, id: ValueId) -> Result<()> {
        let now = self.drafts.len();
        if let Some(value) = self.host.get_mut(&id) {
            value.last = now;
            return Ok(());
        }
        if self.made.contains(&id) {
            return Err(Error::internal("a value is read on the host before it is there"));
        }
        let (dtype, shape) = self.state.concrete(id)?;
        let source = match self.planner.prepared.tensor(&self.state.facts[id.index()])? {
            Some(constant) => SlotSource::Constant(self.planner.prepared.aligned(&constant)?),
            None => SlotSource::Value(id),
        };
        let home = Home::Slot(self.add_slot(source));
        self.host.insert(
            id,
            HostValue {
                dtype,
                len: byte_len(dtype, &shape)?,
                home,
                first: now,
                last: now,
            },
        );
        Ok(())
    }

    fn define_on_gpu(&mut self, id: ValueId) -> Result<GpuValueId> {
        let (dtype, shape) = self.state.concrete(id)?;
        let ty = GpuType::held(dtype).ok_or_else(|| Error::internal(format!("the GPU does not hold {dtype}")))?;
        let elements = element_count(&shape)?;
        let now = self.drafts.len();
        let facts = &self.state.facts[id.index()];
        let storage = match &facts.constant {
            Some(constant) => {
                let id = self.planner.prepared.constant_id(constant);
                let data = facts.tensor()?.and_then(|wide| ConstantData::from_tensor(id, wide));
                ValueStorage::Constant(Arc::new(
                    data.ok_or_else(|| Error::internal("a constant has no GPU form"))?,
                ))
            }
            None => ValueStorage::Planned { first: now, last: now },
        };
        let gpu_id = GpuValueId(self.gpu.values.len());
        self.gpu.values.push(GpuValue { ty, elements, storage });
        self.device.insert(id, gpu_id);
        Ok(gpu_id)
    }

    fn use_on_gpu(&mut self, id: ValueId) -> Result<GpuValueId> {
        let now = self.drafts.len();
        let Some(&gpu_id) = self.device.get(&id) else {
            return Err(Error::internal("a value is read on the GPU before it is there"));
        };
        if let ValueStorage::Planned { last, .. } = &mut self.gpu.values[gpu_id.0].storage {
            *last = now;
        }
        Ok(gpu_id)
    }

    fn is_constant(&self, id: ValueId) -> bool {
        self.state.facts[id.index()].constant.is_some()
    }

    /// One step that brings the given roots from the GPU to the host.
    fn download(&mut self, roots: BTreeSet<ValueId>) -> Result<()> {
        if roots.is_empty() {
            return Ok(());
        }
        for &id in &roots {
            self.define_on_host(id)?;
            self.use_on_gpu(id)?;
        }
        self.drafts.push(Draft::Download(roots.into_iter().collect()));
        Ok(())
    }

    fn cpu_batch(&mut self, batch: &mut Vec<Placed>) -> Result<()> {
        let graph = &self.state.bound.graph;
        let only_on_gpu: BTreeSet<ValueId> = batch
            .iter()
            .filter(|entry| matches!(entry.lowered, Lowered::Cpu(_)))
            .flat_map(|entry| graph.nodes[entry.node.index()].inputs.iter().flatten())
            .map(|&id| self.root(id))
            .filter(|id| self.made.contains(id) && !self.host.contains_key(id) && self.device.contains_key(id))
            .collect();
        self.download(only_on_gpu)?;
        for entry in batch.drain(..) {
            let Lowered::Cpu(kernel) = entry.lowered else { continue };
            let node = &graph.nodes[entry.node.index()];
            if self.parts.idle.contains(&entry.node) {
                for &output in node.outputs.iter().flatten() {
                    self.define_on_host(output)?;
                }
                continue;
            }
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (index, input) in node.inputs.iter().enumerate() {
                let input = input.filter(|_| !kernel.prepared_inputs.contains(&index));
                let input = input.map(|id| self.root(id));
                if let Some(id) = input {
                    self.use_on_host(id)?;
                }
                inputs.push(input);
            }
            for &output in node.outputs.iter().flatten() {
                self.define_on_host(output)?;
            }
            self.drafts.push(Draft::Cpu {
                node: entry.node,
                kernel,
                inputs,
                outputs: node.outputs.clone(),
            });
        }
        Ok(())
    }

    fn gpu_batch(&mut self, batch: &mut Vec<Placed>) -> Result<()> {
        let graph = &self.state.bound.graph;
        for entry in batch.iter() {
            let Lowered::Gpu(kernel) = &entry.lowered else { continue };
            for index in bound_inputs(kernel) {
                let input = graph.nodes[entry.node.index()].inputs.get(index).copied().flatten();
                let id = self.root(input.ok_or_else(|| Error::internal("a GPU kernel binds an absent input"))?);
                let missing = !self.device.contains_key(&id);
                if missing && self.is_constant(id) {
                    self.define_on_gpu(id)?;
                } else if missing && (self.host.contains_key(&id) || !self.made.contains(&id)) {
                    self.use_on_host(id)?;
                    self.define_on_gpu(id)?;
                    self.drafts.push(Draft::Upload(id));
                }
            }
        }
        let first_step = self.gpu.steps.len();
        for entry in batch.drain(..) {
            let Lowered::Gpu(kernel) = entry.lowered else { continue };
            let node = &graph.nodes[entry.node.index()];
            let bound: BTreeSet<usize> = bound_inputs(&kernel).collect();
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (index, input) in node.inputs.iter().enumerate() {
                inputs.push(match input.filter(|_| bound.contains(&index)) {
                    Some(id) => Some(self.use_on_gpu(self.root(id))?),
                    None => None,
                });
            }
            let mut outputs = Vec::with_capacity(node.outputs.len());
            for (index, output) in node.outputs.iter().enumerate() {
                let Some(id) = *output else {
                    outputs.push(None);
                    continue;
                };
                let mut in_place = kernel.in_place.iter().filter(|_| ALL_OPERATORS);
                let taken = in_place.find(|(_, output)| *output == index);
                outputs.push(Some(match taken.and_then(|(input, _)| inputs[*input]) {
                    Some(taken) => {
                        self.gpu.values[taken.0].storage = ValueStorage::Given;
                        self.device.insert(id, taken);
                        taken
                    }
                    None => self.define_on_gpu(id)?,
                }));
            }
            let (label, position) = (graph.node_label(entry.node), self.drafts.len());
            self.drafts.push(Draft::Gpu(self.gpu.steps.len()));
            self.gpu.steps.push(GpuStep {
                label,
                node: entry.node.index(),
                position,
                kernel,
                inputs,
                outputs,
            });
        }
        debug_assert!(self.gpu.steps.len() >= first_step);
        Ok(())
    }

    fn tail_step(&self, id: NodeId) -> Result<TailStep> {
        let graph = &self.state.bound.graph;
        let (node, operator) = (&graph.nodes[id.index()], &self.state.bound.operators[id.index()]);
        if let Some(control) = operator.control() {
            return Ok(TailStep::Control { node: id, control });
        }
        if self.state.works_on_values(id) {
            return Ok(TailStep::Values { node: id });
        }
        let describe = |value: &Option<ValueId>| {
            let Some(value) = *value else { return Ok(None) };
            let facts = &self.state.facts[value.index()];
            let dtype = facts.dtype.ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidGraph,
                    "the element type of one of the node's values does not follow from its inputs",
                )
            })?;
            let shape = facts.concrete_shape().unwrap_or_default();
            Ok(Some(TensorDesc {
                dtype,
                shape,
                constant: facts.tensor()?,
                constant_id: 0,
            }))
        };
        let at_node = |error: Error| {
            error
                .at_node(graph.node_label(id))
                .at_operator(node.operator.to_string())
        };
        let inputs: Vec<_> = node
            .inputs
            .iter()
            .map(describe)
            .collect::<Result<_>>()
            .map_err(at_node)?;
        let outputs: Vec<_> = node
            .outputs
            .iter()
            .map(describe)
            .collect::<Result<_>>()
            .map_err(at_node)?;
        let outputs_known = node.outputs.iter().flatten();
        let outputs_known = outputs_known
            .clone()
            .all(|id| self.state.facts[id.index()].concrete_shape().is_some());
        let lowering = CpuLowering {
            node,
            inputs: &inputs,
            outputs: &outputs,
            outputs_known,
            prepared: &self.planner.prepared,
            threads: 1,
        };
        match operator.cpu(&lowering).map_err(at_node)? {
            CpuKernel::Dynamic(kernel) => Ok(TailStep::Dynamic {
                node: id,
                kernel,
                inputs: node.inputs.clone(),
                outputs: node.outputs.clone(),
            }),
            kernel if outputs_known => {
                let wanted: Vec<Option<(DType, Vec<usize>)>> = outputs
                    .into_iter()
                    .map(|desc| desc.map(|desc| (desc.dtype, desc.shape)))
                    .collect();
                let run = move |inputs: &[Option<Tensor>]| {
                    let results = crate::cpu::executor::run_alone(&kernel, inputs, &wanted)?;
                    let or_empty = |tensor: Option<Tensor>| tensor.map_or_else(|| Tensor::zeros(DType::U8, &[0]), Ok);
                    results.into_iter().map(or_empty).collect()
                };
                let CpuKernel::Dynamic(kernel) = CpuKernel::dynamic("tail", run) else {
                    return Err(Error::internal("a kernel changed its kind"));
                };
                Ok(TailStep::Dynamic {
                    node: id,
                    kernel,
                    inputs: node.inputs.clone(),
                    outputs: node.outputs.clone(),
                })
            }
            _ => Err(at_node(Error::new(
                ErrorCode::ShapeMismatch,
                "the inputs do not fit the operator: its outputs' shapes do not follow from them",
            ))),
        }
    }

    fn placements(&self, placed: &[Placed]) -> Result<Vec<NodePlacement>> {
        let graph = &self.state.bound.graph;
        let has_gpu = matches!(self.planner.target, Target::Gpu(_));
        Ok(placed
            .iter()
            .map(|entry| {
                let node = &graph.nodes[entry.node.index()];
                let (place, kernel) = match &entry.lowered {
                    Lowered::View { .. } => (Placement::Folded, "view".to_string()),
                    _ if self.parts.idle.contains(&entry.node) => (Placement::Folded, "view".to_string()),
                    Lowered::Cpu(kernel) => (Placement::Cpu, kernel.name.to_string()),
                    Lowered::Gpu(kernel) => {
                        let label = kernel
                            .dispatches
                            .first()
                            .map_or("empty", |dispatch| dispatch.shader.label);
                        (Placement::Gpu, label.to_string())
                    }
                };
                NodePlacement {
                    node: graph.node_label(entry.node),
                    operator: node.operator.to_string(),
                    place,
                    kernel,
                    reason: entry.reason.clone().filter(|_| has_gpu),
                    fused: node.fused.clone(),
                    heavy: self.state.bound.operators[entry.node.index()].is_heavy(),
                }
            })
            .collect())
    }

    fn finish(
        mut self,
        live_out: &BTreeSet<ValueId>,
        tail: Vec<TailStep>,
        nodes: Vec<NodePlacement>,
    ) -> Result<Segment> {
        let only_on_gpu: BTreeSet<ValueId> = self
            .owned
            .iter()
            .copied()
            .filter(|id| !self.host.contains_key(id))
            .collect();
        self.download(only_on_gpu)?;
        let mut outputs = Vec::new();
        for &value in live_out {
            let root = self.root(value);
            // What this segment did not make is there already.
            if !self.made.contains(&value) && !self.root.contains_key(&value) {
                continue;
            }
            self.use_on_host(root)?;
            let Some(HostValue {
                home: Home::Slot(slot), ..
            }) = self.host.get(&root)
            else {
                return Err(Error::internal("a value that outlives its segment has no slot"));
            };
            let (dtype, shape) = self.state.concrete(value)?;
            outputs.push(SegmentOutput {
                value,
                slot: *slot,
                dtype,
                shape,
            });
        }
        let (operands, arena_bytes, scratch) = self.lay_out_arena();
        let graph = &self.state.bound.graph;
        let operand = |id: ValueId| {
            let operand = operands.get(&id).copied();
            operand.ok_or_else(|| Error::internal("a step's operand has no memory"))
        };
        let mut steps: Vec<Step> = Vec::with_capacity(self.drafts.len());
        for (position, draft) in std::mem::take(&mut self.drafts).into_iter().enumerate() {
            match draft {
                Draft::Cpu {
                    node,
                    kernel,
                    inputs,
                    outputs,
                } => {
                    let resolve = |ids: &[Option<ValueId>]| {
                        ids.iter()
                            .map(|id| id.map(&operand).transpose())
                            .collect::<Result<Vec<_>>>()
                    };
                    let all = &graph.nodes[node.index()].inputs;
                    let prepared = kernel
                        .prepared_inputs
                        .iter()
                        .filter_map(|&index| all.get(index).copied()?);
                    let prepared = prepared.filter_map(|id| self.state.facts[id.index()].constant.as_ref());
                    let prepared_bytes = prepared.map(|tensor| tensor.byte_len() as u64).sum();
                    let mut step = CpuStep::new(
                        graph.node_label(node),
                        graph.nodes[node.index()].operator.to_string(),
                        kernel,
                        resolve(&inputs)?,
                        resolve(&outputs)?,
                        scratch[position],
                    )?;
                    (step.node, step.prepared_bytes) = (node.index(), prepared_bytes);
                    steps.push(Step::Cpu(step));
                }
                Draft::Upload(id) => steps.push(Step::Upload {
                    from: operand(id)?,
                    to: self.device[&id],
                    checks: self.checks.remove(&id).unwrap_or_default(),
                }),
                Draft::Gpu(step) => match steps.last_mut() {
                    Some(Step::Gpu(range)) => range.end = step + 1,
                    _ => steps.push(Step::Gpu(step..step + 1)),
                },
                Draft::Download(ids) => {
                    let pairs = ids.iter().map(|&id| Ok((self.device[&id], operand(id)?)));
                    steps.push(Step::Download(pairs.collect::<Result<_>>()?));
                }
            }
        }
        Ok(Segment {
            slots: self.slots,
            arena_bytes,
            steps,
            gpu: self.gpu,
            outputs,
            tail,
            nodes,
        })
    }

    /// Operands of all host values, the arena's size, and each step's scratch offset.
    fn lay_out_arena(&self) -> (HashMap<ValueId, Operand>, usize, Vec<usize>) {
        // What lies within another value lives as long as that does.
        let mut lives: HashMap<ValueId, (usize, usize)> = HashMap::new();
        for (&id, value) in self.host.iter() {
            let whole = self.parts.resolve(id).whole;
            let life = lives.entry(whole).or_insert((value.first, value.last));
            *life = (life.0.min(value.first), life.1.max(value.last));
        }
        let in_arena: Vec<(ValueId, Lifetime)> = self
            .host
            .iter()
            .filter(|(_, value)| matches!(value.home, Home::Arena))
            .map(|(&id, value)| {
                let (first, last) = lives.get(&id).copied().unwrap_or((value.first, value.last));
                let len = value.len;
                (id, Lifetime { len, first, last })
            })
            .collect();
        let order = sorted_positions(in_arena.len(), &|a, b| in_arena[a].0.cmp(&in_arena[b].0));
        let in_arena: Vec<_> = order.into_iter().map(|position| in_arena[position]).collect();
        let mut lifetimes: Vec<Lifetime> = in_arena.iter().map(|(_, lifetime)| *lifetime).collect();
        let mut scratch_index = vec![None; self.drafts.len()];
        for (position, draft) in self.drafts.iter().enumerate() {
            if let Draft::Cpu { kernel, .. } = draft
                && kernel.scratch_bytes > 0
            {
                scratch_index[position] = Some(lifetimes.len());
                lifetimes.push(Lifetime {
                    len: kernel.scratch_bytes,
                    first: position,
                    last: position,
                });
            }
        }
        let (offsets, total) = lay_out(&lifetimes);
        let arena_place: HashMap<ValueId, usize> = in_arena
            .iter()
            .zip(&offsets)
            .map(|((id, _), &offset)| (*id, offset))
            .collect();
        let operands = self
            .host
            .iter()
            .map(|(&id, value)| {
                let place = match value.home {
                    Home::Slot(slot) => Place::Slot(slot),
                    Home::Arena | Home::Part => {
                        let part = self.parts.resolve(id);
                        Place::Arena(arena_place.get(&part.whole).copied().unwrap_or(0) + part.offset)
                    }
                };
                (
                    id,
                    Operand {
                        dtype: value.dtype,
                        len: value.len,
                        place,
                    },
                )
            })
            .collect();
        let scratch = scratch_index
            .iter()
            .map(|index| index.map_or(0, |index| offsets[index]))
            .collect();
        (operands, total, scratch)
    }
}

fn bound_inputs(kernel: &GpuKernel) -> impl Iterator<Item = usize> + '_ {
    use crate::gpu::kernel::Binding;
    let bindings = kernel.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
    let bound = bindings.filter_map(|binding| {
        if let Binding::Input(index) = binding {
            Some(*index)
        } else {
            None
        }
    });
    bound.chain(kernel.in_place.iter().map(|(input, _)| *input))
}

fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize> {
    let len = dtype.byte_len(element_count(shape)?);
    len.ok_or_else(|| Error::internal(format!("{dtype} values have no planned memory")))
}
