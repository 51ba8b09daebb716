//! Runs one graph: looks up or plans its program for the fed shapes, and goes through it segment by segment.

use std::{cell::RefCell, rc::Rc};

#[cfg(feature = "gpu")]
use super::verify;
use super::{
    control,
    limits::bytes_of,
    profile::StepLabel,
    runtime::{Recorded, Runtime},
};
#[cfg(feature = "gpu")]
use crate::{
    cpu::executor::Operand,
    gpu::{
        kernel::{Binding, GpuType},
        program::GpuValueId,
    },
};
use crate::{
    cpu::executor::{Frame, Place, Slot},
    error::{Error, ErrorCode, Result},
    gpu::progress::Stage,
    graph::{NodeId, ValueId, ValueType},
    ops::infer::BoundGraph,
    plan::{InputType, Placement, PlanState, Planned, Segment, SlotSource, Step, TailStep},
    tensor::{AlignedBytes, DType, Tensor, Value, element_count, map::HashMap},
};

/// A graph with its cached programs.
pub(super) struct Runner {
    bound: Rc<BoundGraph>,
    programs: RefCell<Lru<InputKey, Rc<Link>>>,
    last: RefCell<Vec<Rc<Link>>>,
    capacity: usize,
}

/// The types of a graph's inputs and captures, and the positions of those that are given up.
type InputKey = (Vec<InputType>, Vec<usize>);

/// What a segment's plan depends on beside what was known before.
#[derive(Clone, PartialEq)]
enum Fact {
    Shape(ValueId, DType, Vec<usize>),
    Content(ValueId, Tensor),
    Container(ValueId, ValueType),
}

/// One segment of a program, with the segments that may follow it.
pub(super) struct Link {
    planned: Planned,
    recorded: RefCell<Option<Recorded>>,
    is_recorded: std::cell::Cell<bool>,
    /// The slots of the last run: its constants stay in them.
    slots: RefCell<Vec<Slot>>,
    next: RefCell<Lru<Vec<Fact>, Rc<Link>>>,
    bodies: RefCell<HashMap<NodeId, Rc<Runner>>>,
}

impl Runner {
    pub fn new(bound: Rc<BoundGraph>, capacity: usize) -> Runner {
        Runner {
            bound,
            programs: RefCell::new(Lru::new(capacity)),
            last: RefCell::default(),
            capacity,
        }
    }

    pub fn bound(&self) -> &BoundGraph {
        &self.bound
    }

    pub fn forget_programs(&self) {
        *self.programs.borrow_mut() = Lru::new(self.capacity);
        self.last.borrow_mut().clear();
    }

    /// The segments of the last run.
    pub fn last_chain(&self) -> Vec<Rc<Link>> {
        self.last.borrow().clone()
    }

    /// Plans the first segment for inputs of these types.
    pub fn plan_first(&self, runtime: &Runtime, inputs: Vec<InputType>, given_up: &[usize]) -> Result<Rc<Link>> {
        let key = (inputs, given_up.to_vec());
        if let Some(link) = self.programs.borrow_mut().get(&key) {
            return Ok(link);
        }
        let link = self.plan(runtime, PlanState::start(Rc::clone(&self.bound), &key.0, given_up)?)?;
        self.programs.borrow_mut().insert(key, Rc::clone(&link));
        *self.last.borrow_mut() = vec![Rc::clone(&link)];
        Ok(link)
    }

    fn plan(&self, runtime: &Runtime, state: PlanState) -> Result<Rc<Link>> {
        let started = (runtime.clock)();
        runtime.progress.tell(Stage::Plan, 0, 1);
        let planned = runtime.planner.plan(state)?;
        runtime.progress.tell(Stage::Plan, 1, 1);
        runtime.plan_ms.set(runtime.plan_ms.get() + (runtime.clock)() - started);
        if runtime.uses_gpu() && runtime.gpu_must_run_heavy_nodes {
            let on_cpu = planned
                .segment
                .nodes
                .iter()
                .find(|node| node.heavy && node.place == Placement::Cpu);
            if let Some(node) = on_cpu {
                let reason = node.reason.as_deref().unwrap_or("no reason known");
                let message = format!("the GPU does not run {} ({}): {reason}", node.node, node.operator);
                return Err(Error::new(ErrorCode::Device, message));
            }
        }
        Ok(Rc::new(Link {
            planned,
            recorded: RefCell::default(),
            is_recorded: Default::default(),
            slots: RefCell::default(),
            next: RefCell::new(Lru::new(self.capacity)),
            bodies: RefCell::default(),
        }))
    }

    /// Runs the graph on values for its inputs and captures, in that order. Outputs at the positions `kept` stay on the
    /// GPU where one is in use; the memory of tensors there that are fed at the positions `given_up` may become an output's.
    pub async fn run(
        &self,
        runtime: &Runtime,
        feeds: Vec<Value>,
        kept: &[usize],
        given_up: &[usize],
    ) -> Result<Vec<Value>> {
        let types = feeds.iter().map(InputType::of).collect();
        let graph = &self.bound.graph;
        let mut table: Vec<Option<Value>> = vec![None; graph.values.len()];
        for (&id, value) in graph.inputs.iter().chain(&graph.captures).zip(feeds) {
            table[id.index()] = Some(aligned(value)?);
        }
        let kept_ids: Vec<ValueId> = kept.iter().map(|&position| graph.outputs[position]).collect();
        let mut link = self.plan_first(runtime, types, given_up)?;
        let mut chain = vec![Rc::clone(&link)];
        loop {
            runtime.meter.check_time()?;
            let held = table.iter().flatten().map(bytes_of).sum();
            let before = runtime.meter.hold(held, "the values of a run take")?;
            link.run(runtime, &mut table, self.capacity, &kept_ids).await?;
            runtime.meter.release_to(before);
            if link.planned.state.is_finished() {
                break;
            }
            link = self.next_link(runtime, &link, &table)?;
            chain.push(Rc::clone(&link));
        }
        let state = &link.planned.state;
        let outputs = graph.outputs.iter().map(|&id| {
            value_of(state, &table, id).ok_or_else(|| {
                Error::new(ErrorCode::InvalidGraph, "an output was not made").at_input(graph.value(id).name.clone())
            })
        });
        let mut outputs: Vec<Value> = outputs.collect::<Result<_>>()?;
        for (position, output) in outputs.iter_mut().enumerate() {
            if let Value::Tensor(tensor) = output {
                match (tensor.remote_id().is_some(), kept.contains(&position)) {
                    (true, false) => *tensor = runtime.fetch(tensor).await?,
                    (false, true) => {
                        let name = || graph.value(graph.outputs[position]).name.clone();
                        *tensor = runtime.store(tensor.clone()).map_err(|error| error.at_input(name()))?;
                    }
                    _ => {}
                }
            }
        }
        *self.last.borrow_mut() = chain;
        Ok(outputs)
    }

    fn next_link(&self, runtime: &Runtime, link: &Link, table: &[Option<Value>]) -> Result<Rc<Link>> {
        let state = &link.planned.state;
        let missing = || Error::internal("a value that the plan waits for was not made");
        let mut facts = Vec::new();
        for &id in &state.awaited {
            facts.push(match value_of(state, table, id).ok_or_else(missing)? {
                Value::Tensor(tensor) => Fact::Shape(id, tensor.dtype(), tensor.shape().to_vec()),
                other => Fact::Container(id, ValueType::of(&other)),
            });
        }
        for &id in &state.needed {
            let value = value_of(state, table, id).ok_or_else(missing)?;
            facts.push(Fact::Content(id, value.tensor()?.clone()));
        }
        if let Some(next) = link.next.borrow_mut().get(&facts) {
            return Ok(next);
        }
        let next = self.plan(runtime, state.advance(table)?)?;
        link.next.borrow_mut().insert(facts, Rc::clone(&next));
        Ok(next)
    }

    /// Every segment of the last run as text.
    pub fn program_text(&self) -> String {
        let chain = self.last.borrow();
        chain
            .iter()
            .map(|link| link.planned.segment.to_string())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Link {
    pub fn segment(&self) -> &Segment {
        &self.planned.segment
    }

    /// Bytes of GPU memory that this segment's values take.
    pub fn gpu_bytes(&self) -> u64 {
        self.recorded.borrow().as_ref().map_or(0, Runtime::recorded_bytes)
    }

    /// Runners of this segment's loop bodies.
    pub fn bodies(&self) -> Vec<Rc<Runner>> {
        self.bodies.borrow().values().cloned().collect()
    }

    async fn run(
        &self,
        runtime: &Runtime,
        table: &mut Vec<Option<Value>>,
        capacity: usize,
        kept: &[ValueId],
    ) -> Result<()> {
        let (segment, state) = (&self.planned.segment, &self.planned.state);
        table.resize(table.len().max(state.bound.graph.values.len()), None);
        if table.iter().flatten().any(is_remote) {
            for id in self.read_on_host() {
                if let Some(Value::Tensor(tensor)) = &table[id.index()]
                    && tensor.remote_id().is_some()
                {
                    table[id.index()] = Some(Value::Tensor(runtime.fetch(tensor).await?));
                }
            }
        }
        let kept = self.slots_to_keep(runtime, kept);
        if !self.is_recorded.get() {
            let recorded = runtime.record(&segment.gpu).await?;
            *self.recorded.borrow_mut() = recorded;
            self.is_recorded.set(true);
        }
        let buffers = segment.slots.iter().map(|source| match source {
            SlotSource::Buffer(len) => *len as u64,
            _ => 0,
        });
        let planned = buffers.sum::<u64>() + segment.arena_bytes as u64;
        runtime.meter.check_memory(planned, "the values of a run take")?;
        let mut slots = std::mem::take(&mut *self.slots.borrow_mut());
        slots.resize_with(segment.slots.len(), Slot::default);
        for (index, (slot, source)) in slots.iter_mut().zip(&segment.slots).enumerate() {
            *slot = match source {
                // The GPU's own memory takes its place.
                _ if kept.contains(&index) => Slot::Empty,
                SlotSource::Value(id) => {
                    let tensor = value_of(state, table, *id);
                    let tensor = tensor.ok_or_else(|| Error::internal("a segment's input was not made"))?;
                    Slot::Tensor(tensor.tensor()?.aligned()?)
                }
                SlotSource::Constant(_) if matches!(slot, Slot::Tensor(_)) => continue,
                SlotSource::Constant(tensor) => Slot::Tensor(tensor.clone()),
                SlotSource::Buffer(len) => Slot::Buffer(AlignedBytes::zeroed(*len)?),
            };
        }
        // The arena is taken for the time of the steps, so that nothing is borrowed while the GPU is waited for.
        let mut arena = std::mem::take(&mut *runtime.arena.borrow_mut());
        if arena.as_ref().len() < segment.arena_bytes {
            drop(std::mem::take(&mut arena));
            arena = AlignedBytes::zeroed(segment.arena_bytes)?;
        }
        let mut recorded = self.recorded.borrow_mut().take();
        let mut frame = Frame {
            arena: &mut arena,
            slots: &mut slots,
            threads: &runtime.threads,
        };
        #[cfg(feature = "gpu")]
        let started = recorded.as_ref().map(|_| (runtime.clock)());
        let result = self.run_steps(runtime, &mut frame, recorded.as_mut(), &kept).await;
        #[cfg(feature = "gpu")]
        if let (Some(recorded), Some(started), Ok(())) = (&mut recorded, started, &result) {
            recorded.executor.pace((runtime.clock)() - started);
        }
        *self.recorded.borrow_mut() = recorded;
        *runtime.arena.borrow_mut() = arena;
        result?;
        self.keep_outputs(&mut slots, table)?;
        for (slot, source) in slots.iter_mut().zip(&segment.slots) {
            if !matches!(source, SlotSource::Constant(_)) {
                *slot = Slot::Empty;
            }
        }
        *self.slots.borrow_mut() = slots;
        for step in &segment.tail {
            runtime.meter.check_time()?;
            let began = runtime.begin_step();
            self.run_tail(runtime, step, table, capacity).await?;
            if let Some(began) = began {
                let (node, kernel) = match step {
                    TailStep::Dynamic { node, kernel, .. } => (node, kernel.name),
                    TailStep::Values { node } => (node, "values"),
                    TailStep::Control { node, .. } => (node, "control"),
                };
                let label = StepLabel {
                    node: *node,
                    kernel,
                    place: Placement::Cpu,
                    bytes: None,
                };
                runtime.end_step(began, state, label);
            }
        }
        Ok(())
    }

    async fn run_steps(
        &self,
        runtime: &Runtime,
        frame: &mut Frame<'_>,
        mut recorded: Option<&mut Recorded>,
        kept: &[usize],
    ) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let Some(recorded) = recorded.as_deref_mut() {
            recorded.executor.lend(&self.downloads_to_keep(kept));
        }
        for step in &self.planned.segment.steps {
            runtime.meter.check_time()?;
            let began = runtime.begin_step();
            match step {
                Step::Cpu(step) => {
                    step.run(frame)?;
                    if let Some(began) = began {
                        let label = StepLabel {
                            node: NodeId(step.node as u32),
                            kernel: step.kernel_name(),
                            place: Placement::Cpu,
                            bytes: Some(step.bytes()),
                        };
                        runtime.end_step(began, &self.planned.state, label);
                    }
                }
                other => {
                    let recorded = recorded.as_deref_mut();
                    let recorded = recorded.ok_or_else(|| Error::internal("a segment's GPU steps are not recorded"))?;
                    #[cfg(all(test, feature = "gpu"))]
                    if let Step::Download(_) = other {
                        runtime.may_lose_device();
                    }
                    match other {
                        #[cfg(feature = "gpu")]
                        Step::Gpu(range) if began.is_some() => {
                            self.profile_gpu(runtime, range.clone(), frame, recorded).await?;
                        }
                        #[cfg(feature = "gpu")]
                        Step::Gpu(range) if runtime.verifying.get() => {
                            for index in range.clone() {
                                let step = (index, &self.planned.segment.gpu.steps[index]);
                                verify::run_step(runtime, &self.planned.state, step, &mut recorded.executor).await?;
                            }
                        }
                        #[cfg(feature = "gpu")]
                        Step::Download(pairs) if !kept.is_empty() => {
                            let fetched = self.keep_on_gpu(pairs, kept, frame, recorded)?;
                            if !fetched.is_empty() {
                                run_gpu_step(&Step::Download(fetched), frame, recorded).await?;
                            }
                        }
                        _ => run_gpu_step(other, frame, recorded).await?,
                    }
                }
            }
        }
        #[cfg(feature = "gpu")]
        if let (Some(recorded), false) = (recorded, kept.is_empty()) {
            recorded.executor.flush().await?;
        }
        Ok(())
    }

    /// The values whose downloads go to the slots `kept`.
    #[cfg(feature = "gpu")]
    fn downloads_to_keep(&self, kept: &[usize]) -> Vec<GpuValueId> {
        let mut ids = Vec::new();
        for step in &self.planned.segment.steps {
            let Step::Download(pairs) = step else { continue };
            for (id, operand) in pairs {
                if let Place::Slot(slot) = operand.place
                    && kept.contains(&slot)
                {
                    ids.push(*id);
                }
            }
        }
        ids
    }

    /// Which slots steps of the CPU use.
    fn slots_of_the_cpu(&self) -> Vec<bool> {
        let mut used = vec![false; self.planned.segment.slots.len()];
        for step in &self.planned.segment.steps {
            let Step::Cpu(step) = step else { continue };
            let (inputs, outputs, _) = step.operands();
            for operand in inputs.iter().chain(outputs).flatten() {
                if let Place::Slot(slot) = operand.place {
                    used[slot] = true;
                }
            }
        }
        used
    }

    /// Values that the host reads, of those from outside and those left behind.
    fn read_on_host(&self) -> Vec<ValueId> {
        let (segment, state) = (&self.planned.segment, &self.planned.state);
        let mut read = state.needed.clone();
        for (source, used) in segment.slots.iter().zip(self.slots_of_the_cpu()) {
            if let (SlotSource::Value(id), true) = (source, used) {
                read.push(*id);
            }
        }
        for step in &segment.tail {
            let (TailStep::Dynamic { node, .. } | TailStep::Values { node } | TailStep::Control { node, .. }) = step;
            read.extend(state.bound.graph.nodes[node.index()].dependencies());
        }
        read
    }

    /// Slots that are not needed on the host when the outputs `kept` stay on the GPU.
    fn slots_to_keep(&self, runtime: &Runtime, kept: &[ValueId]) -> Vec<usize> {
        if kept.is_empty() || !runtime.uses_gpu() {
            return Vec::new();
        }
        let (segment, read) = (&self.planned.segment, self.read_on_host());
        let mut stays = self.slots_of_the_cpu();
        for (slot, stays) in stays.iter_mut().enumerate() {
            let mut outputs = segment.outputs.iter().filter(|output| output.slot == slot).peekable();
            *stays = !*stays
                && matches!(segment.slots[slot], SlotSource::Buffer(_))
                && outputs.peek().is_some()
                && outputs.all(|output| kept.contains(&output.value) && !read.contains(&output.value));
        }
        (0..stays.len()).filter(|&slot| stays[slot]).collect()
    }

    /// Leaves downloads to slots that are kept on the GPU, and returns the others.
    #[cfg(feature = "gpu")]
    fn keep_on_gpu(
        &self,
        pairs: &[(GpuValueId, Operand)],
        kept: &[usize],
        frame: &mut Frame<'_>,
        recorded: &mut Recorded,
    ) -> Result<Vec<(GpuValueId, Operand)>> {
        let mut fetched = Vec::new();
        for &(id, operand) in pairs {
            let outputs = &self.planned.segment.outputs;
            let output = match operand.place {
                Place::Slot(slot) if kept.contains(&slot) => outputs.iter().find(|output| output.slot == slot),
                _ => None,
            };
            match output {
                Some(output) => {
                    let tensor = recorded.executor.keep(id, output.dtype, &output.shape)?;
                    frame.slots[output.slot] = Slot::Tensor(tensor);
                }
                None => fetched.push((id, operand)),
            }
        }
        Ok(fetched)
    }

    /// Runs steps of the GPU and books what each took: on the device, where it measures, and else one by one with the wait.
    #[cfg(feature = "gpu")]
    async fn profile_gpu(
        &self,
        runtime: &Runtime,
        range: std::ops::Range<usize>,
        frame: &mut Frame<'_>,
        recorded: &mut Recorded,
    ) -> Result<()> {
        let measured = recorded.executor.time(range.clone()).await?;
        for index in range.clone() {
            let began = runtime.begin_step();
            let millis = measured.as_ref().map(|millis| millis[index - range.start]);
            if millis.is_none() {
                run_gpu_step(&Step::Gpu(index..index + 1), frame, recorded).await?;
                recorded.finish().await?;
            }
            if let (Some(began), Some(profiler)) = (began, &mut *runtime.profiler.borrow_mut()) {
                let (state, step) = (&self.planned.state, &self.planned.segment.gpu.steps[index]);
                let node = NodeId(step.node as u32);
                let values = step.inputs.iter().chain(&step.outputs).flatten();
                let sizes = values.map(|id| self.planned.segment.gpu.values[id.0].elements as u64 * GpuType::SIZE);
                let dispatches = step.kernel.dispatches.iter();
                let made = dispatches
                    .flat_map(|dispatch| &dispatch.bindings)
                    .map(|binding| match binding {
                        Binding::Constant(data) => data.size,
                        _ => 0,
                    });
                let kernel = step.kernel.dispatches.first();
                let label = StepLabel {
                    node,
                    kernel: kernel.map_or("empty", |first| first.shader.label),
                    place: Placement::Gpu,
                    bytes: Some(sizes.chain(made).sum()),
                };
                match millis {
                    Some(millis) => profiler.book(millis, state, label),
                    None => profiler.end(began, state, label),
                }
            }
        }
        Ok(())
    }

    /// Moves what outlives the segment from its slots into the table.
    fn keep_outputs(&self, slots: &mut [Slot], table: &mut [Option<Value>]) -> Result<()> {
        for output in &self.planned.segment.outputs {
            let slot = &mut slots[output.slot];
            if let Slot::Buffer(buffer) = slot {
                *slot = Slot::Tensor(Tensor::from_bytes(output.dtype, &output.shape, std::mem::take(buffer))?);
            }
            let Slot::Tensor(tensor) = slot else {
                return Err(Error::internal("a segment's output slot is empty"));
            };
            table[output.value.index()] = Some(tensor.reshaped(&output.shape)?.into());
        }
        Ok(())
    }

    async fn run_tail(
        &self,
        runtime: &Runtime,
        step: &TailStep,
        table: &mut [Option<Value>],
        capacity: usize,
    ) -> Result<()> {
        let state = &self.planned.state;
        let graph = &state.bound.graph;
        let label = |node: &NodeId, error: Error| {
            error
                .at_node(graph.node_label(*node))
                .at_operator(graph.nodes[node.index()].operator.to_string())
        };
        let fetch = |id: &Option<ValueId>, table: &[Option<Value>]| match id {
            None => Ok(None),
            Some(id) => {
                let value = value_of(state, table, *id);
                let value = value.ok_or_else(|| Error::internal("an input of a dynamic node was not made"))?;
                aligned(value).map(Some)
            }
        };
        let tensor_of = |value: Option<Value>| value.map(|value| value.tensor().cloned()).transpose();
        let (node, results) = match step {
            TailStep::Dynamic {
                node,
                kernel,
                inputs,
                outputs,
            } => {
                let inputs = inputs.iter().map(|id| tensor_of(fetch(id, table)?));
                let inputs = inputs.collect::<Result<Vec<_>>>()?;
                let known = outputs.iter().flatten().filter_map(|id| {
                    let facts = &state.facts[id.index()];
                    let count = element_count(&facts.concrete_shape()?).ok()?;
                    // Texts are counted as empty ones.
                    let texts =
                        || (facts.dtype == Some(DType::String)).then(|| count.saturating_mul(size_of::<String>()));
                    facts.dtype?.byte_len(count).or_else(texts)
                });
                let known = known.fold(0, |sum, bytes| bytes.saturating_add(sum)) as u64;
                let check = |bytes| runtime.meter.check_memory(bytes, "the node's outputs take");
                check(known).map_err(|error| label(node, error))?;
                let results = (kernel.run)(&inputs).map_err(|error| label(node, error))?;
                (node, results.into_iter().map(Value::Tensor).collect())
            }
            TailStep::Values { node } => {
                let (inputs, operator) = (&graph.nodes[node.index()].inputs, &state.bound.operators[node.index()]);
                let inputs = inputs.iter().map(|id| fetch(id, table)).collect::<Result<Vec<_>>>()?;
                (node, operator.on_values(&inputs).map_err(|error| label(node, error))?)
            }
            TailStep::Control { node, control } => {
                let inputs = &graph.nodes[node.index()].inputs;
                let inputs = inputs.iter().map(|id| fetch(id, table)).collect::<Result<Vec<_>>>()?;
                let body = self.body(*node, capacity).map_err(|error| label(node, error))?;
                let subgraph = control::body_of(&graph.nodes[node.index()])?;
                let captures = subgraph.captures.iter().map(|&id| fetch(&Some(id), table));
                let captures: Vec<Value> = captures.filter_map(Result::transpose).collect::<Result<_>>()?;
                let call = control::Call {
                    runtime,
                    body: &body,
                    node: &graph.nodes[node.index()],
                    inputs,
                    captures,
                };
                (node, call.run(*control).await.map_err(|error| label(node, error))?)
            }
        };
        for (id, value) in graph.nodes[node.index()].outputs.iter().zip(results) {
            runtime.meter.hold(bytes_of(&value), "the values of a run take")?;
            if let Some(id) = id {
                table[id.index()] = Some(value);
            }
        }
        Ok(())
    }

    /// The runner of a loop node's body.
    fn body(&self, node: NodeId, capacity: usize) -> Result<Rc<Runner>> {
        if let Some(runner) = self.bodies.borrow().get(&node) {
            return Ok(Rc::clone(runner));
        }
        let subgraph = control::body_of(&self.planned.state.bound.graph.nodes[node.index()])?;
        let bound = Rc::new(BoundGraph::new(subgraph.graph.clone())?);
        let runner = Rc::new(Runner::new(bound, capacity));
        self.bodies.borrow_mut().insert(node, Rc::clone(&runner));
        Ok(runner)
    }
}

#[cfg(feature = "gpu")]
async fn run_gpu_step(step: &Step, frame: &mut Frame<'_>, recorded: &mut Recorded) -> Result<()> {
    let executor = &mut recorded.executor;
    match step {
        Step::Cpu(_) => Ok(()),
        Step::Upload { from, to, checks } => {
            if let Place::Slot(slot) = from.place
                && let Some(Slot::Tensor(tensor)) = frame.slots.get(slot)
                && tensor.remote_id().is_some()
            {
                return executor.take(*to, tensor);
            }
            let bytes = frame.read(from)?;
            checks.iter().try_for_each(|check| check.run(from.dtype, bytes))?;
            executor.upload(*to, bytes)
        }
        Step::Gpu(range) => executor.encode(range.clone()),
        Step::Download(pairs) => {
            let ids: Vec<_> = pairs.iter().map(|(id, _)| *id).collect();
            let contents = executor.download(&ids).await?;
            let mut pairs = pairs.iter().zip(contents);
            pairs.try_for_each(|((_, operand), bytes)| frame.write(operand, &bytes))
        }
    }
}

#[cfg(not(feature = "gpu"))]
async fn run_gpu_step(_: &Step, _: &mut Frame<'_>, _: &mut Recorded) -> Result<()> {
    Err(Error::internal("this build has no GPU"))
}

/// A value that was made, or is constant in the plan.
fn value_of(state: &PlanState, table: &[Option<Value>], id: ValueId) -> Option<Value> {
    let made = table.get(id.index()).and_then(Option::clone);
    made.or_else(|| Some(Value::Tensor(state.facts.get(id.index())?.tensor().ok()??)))
}

pub(super) fn is_remote(value: &Value) -> bool {
    matches!(value, Value::Tensor(tensor) if tensor.remote_id().is_some())
}

/// The value with a tensor's data aligned. What containers hold is aligned when it is taken out.
fn aligned(value: Value) -> Result<Value> {
    match value {
        Value::Tensor(tensor) => Ok(Value::Tensor(tensor.aligned()?)),
        other => Ok(other),
    }
}

/// A small map that forgets what was used longest ago.
struct Lru<K, V> {
    entries: Vec<(K, V)>,
    capacity: usize,
}

impl<K: PartialEq, V: Clone> Lru<K, V> {
    fn new(capacity: usize) -> Lru<K, V> {
        Lru {
            entries: Vec::new(),
            capacity: capacity.max(1),
        }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        let position = self.entries.iter().position(|(own, _)| own == key)?;
        let entry = self.entries.remove(position);
        let value = entry.1.clone();
        self.entries.push(entry);
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.len() == self.capacity {
            self.entries.remove(0);
        }
        self.entries.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_forgets_what_was_used_longest_ago() {
        let mut cache = Lru::new(2);
        cache.insert(1, "a");
        cache.insert(2, "b");
        assert_eq!(cache.get(&1), Some("a"));
        cache.insert(3, "c");
        assert_eq!(
            (cache.get(&1), cache.get(&2), cache.get(&3)),
            (Some("a"), None, Some("c"))
        );
    }
}
