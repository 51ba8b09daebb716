//! Records a [`GpuProgram`] once (pipelines, buffers, bind groups, parameters) and replays any part of it: upload,
//! encode, download. It belongs to its device's thread.

use crate::tensor::map::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::buffers::{BufferPlan, value_bytes};
use super::device::{GpuDevice, PendingErrors};
use super::kernel::{AdapterKind, Binding, ConstantData, ConstantKey, GpuType};
use super::pipeline::{Compiling, Pipeline};
use super::program::{GpuProgram, GpuValueId, ValueStorage};
use super::progress::{Progress, Stage};
use super::readback;
use crate::error::{Error, ErrorCode, Result};

/// Milliseconds that one submission should take at most: browsers end a device that is busy with one for many seconds. A
/// run that takes less is one submission.
const SUBMISSION_MS: f64 = 250.0;

/// Dispatches per submission until a run was timed.
fn first_submission(kind: AdapterKind) -> usize {
    match kind {
        AdapterKind::Hardware => 64,
        AdapterKind::Software => 8,
    }
}

/// Constant buffers of one session, shared by all its programs.
#[derive(Default)]
pub struct GpuConstants {
    buffers: HashMap<ConstantKey, wgpu::Buffer>,
    bytes: u64,
}

impl GpuConstants {
    /// Bytes of GPU memory that the constants take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A recorded program.
pub struct GpuExecutor {
    device: Rc<GpuDevice>,
    values: Vec<ValueSlot>,
    /// Which of the values kernels write.
    made: Vec<bool>,
    steps: Vec<Vec<RecordedDispatch>>,
    params: wgpu::Buffer,
    /// Downloads land here; it grows to the largest one.
    staging: Option<wgpu::Buffer>,
    encoder: Option<wgpu::CommandEncoder>,
    encoded: usize,
    per_submit: usize,
    pending: PendingErrors,
    planned_bytes: u64,
}

struct ValueSlot {
    /// The plan's buffer, or for a time another.
    buffer: wgpu::Buffer,
    /// The plan's buffer while another takes its place.
    planned: Option<wgpu::Buffer>,
    ty: GpuType,
    elements: usize,
    /// What is known of the buffer that takes the plan's place.
    other: Other,
    /// Whether the plan has no buffer, and steps write the one that is fed.
    given: bool,
}

impl ValueSlot {
    /// Whether a buffer has been fed where the plan has none.
    fn is_there(&self) -> bool {
        !self.given || self.other == Other::Fed
    }
}

/// Whose buffer a value has.
#[derive(Clone, Copy, PartialEq)]
enum Other {
    /// The plan's.
    None,
    /// A tensor's that was fed.
    Fed,
    /// One of its own, which nobody else has yet.
    Own,
    /// One of its own, which a tensor has by now.
    Given,
}

/// Shorter values are copied, which takes less time than making bindings anew.
const BOUND_BYTES: u64 = 64 << 10;

struct RecordedDispatch {
    pipeline: Rc<Pipeline>,
    /// `None` until every value is there.
    bind_group: Option<wgpu::BindGroup>,
    /// What is bound, to bind anew.
    bound: Vec<Bound>,
    uniform_bytes: u64,
    /// Where the dispatch's parameters start in the program's uniform buffer; `None` without parameters.
    params: Option<u32>,
    workgroups: [u32; 3],
}

/// What a dispatch binds.
enum Bound {
    Value(usize),
    Other(wgpu::Buffer, u64),
}

impl Bound {
    fn buffer(&self, values: &[ValueSlot]) -> (wgpu::Buffer, u64) {
        match self {
            Bound::Value(index) => (values[*index].buffer.clone(), value_bytes(values[*index].elements)),
            Bound::Other(buffer, bytes) => (buffer.clone(), *bytes),
        }
    }
}

impl RecordedDispatch {
    fn bind(&mut self, device: &GpuDevice, values: &[ValueSlot], params: &wgpu::Buffer, pending: &mut PendingErrors) {
        let is_missing = |bound: &Bound| matches!(bound, Bound::Value(index) if !values[*index].is_there());
        if self.bound.iter().any(is_missing) {
            return;
        }
        let bound: Vec<_> = self.bound.iter().map(|bound| bound.buffer(values)).collect();
        let uniform = self.params.map(|_| (params, self.uniform_bytes));
        self.bind_group = Some(device.scoped(pending, || bind_group(device, &self.pipeline, uniform, &bound)));
    }

    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, self.params.as_slice());
        pass.dispatch_workgroups(x, y, z);
    }
}

impl GpuExecutor {
    /// Compiles what is not compiled yet, makes the buffers and uploads the constants that `constants` lacks.
    ///
    /// Fails with `device` when a shader or binding is refused, `out-of-memory` when buffers cannot be had, and
    /// `device-lost`.
    pub async fn new(device: Rc<GpuDevice>, program: &GpuProgram, constants: &mut GpuConstants) -> Result<GpuExecutor> {
        GpuExecutor::prepare(device, program, constants, &Progress::default()).await
    }

    /// Like [`GpuExecutor::new`], and tells how far it has come.
    pub async fn prepare(
        device: Rc<GpuDevice>,
        program: &GpuProgram,
        constants: &mut GpuConstants,
        progress: &Progress,
    ) -> Result<GpuExecutor> {
        device.check()?;
        let mut pending = PendingErrors::new();
        let dispatches = program.steps.iter().flat_map(|step| &step.kernel.dispatches);
        // Browsers compile on other threads, while constants are laid out and uploaded here.
        let compiling = Compiling::begin(&device, dispatches, &mut pending, progress);
        let mut uploaded = HashMap::new();
        let new = new_constants(program, constants);
        let (mut done, total) = (0, new.iter().map(|data| data.size as usize).sum());
        progress.tell(Stage::Upload, done, total);
        for data in new {
            let buffer = device.scoped(&mut pending, || upload_constant(&device, data))?;
            uploaded.insert(data.key.clone(), buffer);
            done += data.size as usize;
            progress.tell(Stage::Upload, done, total);
        }
        let constant = |data: &ConstantData| {
            let buffer = constants.buffers.get(&data.key).or_else(|| uploaded.get(&data.key));
            buffer
                .cloned()
                .ok_or_else(|| Error::internal("a constant was not uploaded"))
        };
        let plan = BufferPlan::new(program);

        let buffers = device.scoped(&mut pending, || {
            plan.buffers
                .iter()
                .map(|&bytes| storage_buffer(&device, bytes, "value"))
                .collect::<Vec<_>>()
        });
        let alignment = device.caps().min_uniform_offset_alignment as usize;
        let (words, offsets) = lay_out_params(program, alignment);
        let params = device.scoped(&mut pending, || params_buffer(&device, &words));
        let mut values = Vec::with_capacity(program.values.len());
        for (value, planned) in program.values.iter().zip(&plan.values) {
            let buffer = match (&value.storage, planned) {
                (ValueStorage::Constant(data), _) => constant(data)?,
                (ValueStorage::Planned { .. }, Some(index)) => buffers[*index].clone(),
                // Stands there until a tensor comes.
                (ValueStorage::Given, _) => params.clone(),
                (ValueStorage::Planned { .. }, None) => return Err(Error::internal("a GPU value has no buffer")),
            };
            values.push(ValueSlot {
                buffer,
                planned: None,
                ty: value.ty,
                elements: value.elements,
                other: Other::None,
                given: matches!(value.storage, ValueStorage::Given),
            });
        }

        let mut all_bound = Vec::new();
        for (step, scratch) in program.steps.iter().zip(&plan.scratch) {
            for dispatch in &step.kernel.dispatches {
                let mut bound = Vec::with_capacity(dispatch.bindings.len());
                for binding in &dispatch.bindings {
                    bound.push(match binding {
                        Binding::Input(i) => bound_value(&values, step.inputs.get(*i), &step.label)?,
                        Binding::Output(i) => bound_value(&values, step.outputs.get(*i), &step.label)?,
                        Binding::Constant(data) => Bound::Other(
                            constant(data)?,
                            value_bytes(data.size as usize / GpuType::SIZE as usize),
                        ),
                        Binding::Scratch(i, _) => match scratch.get(*i) {
                            Some(&index) => Bound::Other(buffers[index].clone(), plan.buffers[index]),
                            None => return Err(Error::internal("a kernel names scratch memory it did not ask for")),
                        },
                    });
                }
                all_bound.push(bound);
            }
        }
        let pipelines = compiling.finish(&device, &mut pending, progress).await?;
        let mut recordings = offsets.into_iter().zip(all_bound);
        let mut steps = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            let mut recorded = Vec::with_capacity(step.kernel.dispatches.len());
            for (dispatch, (offset, bound)) in step.kernel.dispatches.iter().zip(&mut recordings) {
                let pipeline = pipelines.get(&device, dispatch)?;
                let mut dispatch = RecordedDispatch {
                    pipeline,
                    bind_group: None,
                    bound,
                    uniform_bytes: padded_params(dispatch.params.len()) as u64 * 4,
                    params: offset,
                    workgroups: dispatch.workgroups,
                };
                dispatch.bind(&device, &values, &params, &mut pending);
                recorded.push(dispatch);
            }
            steps.push(recorded);
        }

        device.settle(&mut pending, "preparing the model").await?;
        pipelines.commit(&device);
        for (key, buffer) in uploaded {
            constants.bytes += buffer.size();
            constants.buffers.insert(key, buffer);
        }
        let mut made = vec![false; values.len()];
        for id in program.steps.iter().flat_map(|step| &step.outputs).flatten() {
            made[id.0] = !values[id.0].given;
        }
        let planned_bytes = plan.total_bytes();
        let per_submit = first_submission(device.caps().kind);
        Ok(GpuExecutor {
            device,
            values,
            made,
            steps,
            params,
            staging: None,
            encoder: None,
            encoded: 0,
            per_submit,
            pending,
            planned_bytes,
        })
    }

    /// The device the program was recorded on.
    pub fn device(&self) -> &Rc<GpuDevice> {
        &self.device
    }

    /// Bytes of GPU memory that planned values and scratch memory take; constants are counted by [`GpuConstants`].
    pub fn planned_bytes(&self) -> u64 {
        self.planned_bytes
    }

    /// Writes a value from the CPU. `bytes` holds the tensor as the CPU does: one byte per bool, four per other element.
    pub fn upload(&mut self, value: GpuValueId, bytes: &[u8]) -> Result<()> {
        self.device.check()?;
        let slot = self
            .values
            .get(value.0)
            .ok_or_else(|| Error::internal("an upload names no GPU value"))?;
        let expected = slot.elements * slot.ty.cpu_size();
        if bytes.len() != expected || slot.given {
            return Err(Error::internal("an upload has the wrong size")
                .expected(format!("{expected} bytes"))
                .actual(format!("{} bytes", bytes.len())));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        // Writes take effect before everything that is submitted after them, so what was encoded goes first.
        self.submit();
        if self.values[value.0].other == Other::Fed {
            self.bind(value.0, None);
        }
        let slot = &self.values[value.0];
        let queue = &self.device.queue;
        self.device.scoped(&mut self.pending, || {
            queue.write_buffer(&slot.buffer, 0, &slot.ty.to_words(bytes));
        });
        Ok(())
    }

    /// Encodes the steps of `range`, in order, after everything encoded or uploaded before.
    pub fn encode(&mut self, range: Range<usize>) -> Result<()> {
        self.device.check()?;
        let steps = self
            .steps
            .get(range)
            .ok_or_else(|| Error::internal("a range of GPU steps is out of bounds"))?;
        if steps.iter().flatten().any(|dispatch| dispatch.bind_group.is_none()) {
            return Err(Error::internal("a tensor that a GPU step writes was not given"));
        }
        let per_submit = self.per_submit;
        let mut work = steps.iter().flatten();
        loop {
            let helping: Vec<&RecordedDispatch> = work
                .by_ref()
                .take(per_submit - self.encoded.min(per_submit - 1))
                .collect();
            if helping.is_empty() {
                return Ok(());
            }
            let encoder = encoder_of(&self.device, &mut self.encoder);
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for dispatch in &helping {
                dispatch.encode(&mut pass);
            }
            drop(pass);
            self.encoded += helping.len();
            if self.encoded >= per_submit {
                submit(&self.device, &mut self.encoder, &mut self.encoded, &mut self.pending);
            }
        }
    }

    /// Learns from a run that took `ms` milliseconds how many dispatches may go into one submission.
    pub fn pace(&mut self, ms: f64) {
        let dispatches: usize = self.steps.iter().map(Vec::len).sum();
        let share = SUBMISSION_MS / ms.max(1e-3);
        self.per_submit = if share < 1.0 {
            ((dispatches as f64 * share) as usize).max(1)
        } else {
            usize::MAX
        };
    }

    /// Runs the steps of `range`, each in a pass of its own, and returns the milliseconds that each took on the device;
    /// `None`, with nothing run, where the device does not measure.
    pub async fn time(&mut self, range: Range<usize>) -> Result<Option<Vec<f64>>> {
        let device = Rc::clone(&self.device);
        if !device.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(None);
        }
        let mut millis = Vec::with_capacity(range.len());
        // A query set holds 4096 timestamps.
        for start in range.clone().step_by(2048) {
            let steps = start..range.end.min(start + 2048);
            let count = 2 * steps.len() as u32;
            let bytes = u64::from(count) * 8;
            let (queries, resolved, staging) = device.scoped(&mut self.pending, || {
                let queries = device.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: None,
                    ty: wgpu::QueryType::Timestamp,
                    count,
                });
                let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
                let resolved = buffer(&device, bytes, usage, "timestamps");
                (queries, resolved, staging_buffer(&device, bytes))
            });
            let encoder = encoder_of(&device, &mut self.encoder);
            for (index, step) in self.steps[steps].iter().enumerate() {
                let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * index as u32),
                    end_of_pass_write_index: Some(2 * index as u32 + 1),
                });
                let label = None;
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label,
                    timestamp_writes,
                });
                step.iter().for_each(|dispatch| dispatch.encode(&mut pass));
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
            self.submit();
            let mapped = readback::map(&device, &staging, bytes).await;
            device.settle(&mut self.pending, "profiling").await?;
            mapped?;
            let words = readback::read(&staging, 0, GpuType::U32, 2 * count as usize)?;
            let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&words);
            let period = f64::from(device.queue.get_timestamp_period()) / 1e6;
            millis.extend(
                stamps
                    .chunks_exact(2)
                    .map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period),
            );
        }
        Ok(Some(millis))
    }

    /// Hands everything encoded so far to the device.
    pub fn submit(&mut self) {
        submit(&self.device, &mut self.encoder, &mut self.encoded, &mut self.pending);
    }

    /// Reads values back, in the form that [`GpuExecutor::upload`] takes, after everything encoded before.
    ///
    /// Errors of the work itself come to light here: `device`, `out-of-memory`, `device-lost`.
    pub async fn download(&mut self, wanted: &[GpuValueId]) -> Result<Vec<Vec<u8>>> {
        self.device.check()?;
        let mut ranges = Vec::with_capacity(wanted.len());
        let mut total = 0u64;
        for id in wanted {
            let slot = self
                .values
                .get(id.0)
                .ok_or_else(|| Error::internal("a download names no GPU value"))?;
            ranges.push((total, slot));
            total += value_bytes(slot.elements);
        }
        if total > self.device.caps().max_buffer_size {
            return Err(Error::new(
                ErrorCode::LimitExceeded,
                "the values to read back exceed the largest GPU buffer",
            ));
        }
        let staging = match self.staging.take().filter(|staging| staging.size() >= total) {
            Some(staging) => staging,
            None => self
                .device
                .scoped(&mut self.pending, || staging_buffer(&self.device, total.max(16))),
        };
        let encoder = encoder_of(&self.device, &mut self.encoder);
        for (offset, slot) in &ranges {
            copy(encoder, &slot.buffer, (&staging, *offset), slot.elements);
        }
        submit(&self.device, &mut self.encoder, &mut self.encoded, &mut self.pending);
        let mapped = readback::map(&self.device, &staging, total.max(16)).await;
        // An error of the work explains a failed mapping, so it is told first.
        self.device.settle(&mut self.pending, "running the model").await?;
        mapped?;
        let read = |(offset, slot): &(u64, &ValueSlot)| readback::read(&staging, *offset, slot.ty, slot.elements);
        let results = ranges.iter().map(read).collect::<Result<_>>();
        staging.unmap();
        self.staging = Some(staging);
        results
    }

    /// Gives a value the elements of a buffer of the device, after everything encoded before: large ones without a copy.
    pub(super) fn copy_in(&mut self, value: GpuValueId, from: &wgpu::Buffer) {
        let Some(slot) = self.values.get(value.0) else { return };
        let bytes = value_bytes(slot.elements);
        if slot.given || (bytes >= BOUND_BYTES && from.size() >= bytes) {
            if !is_same(&slot.buffer, from) {
                self.bind(value.0, Some((from.clone(), Other::Fed)));
            }
            return;
        }
        if slot.other == Other::Fed {
            self.bind(value.0, None);
        }
        let slot = &self.values[value.0];
        copy(
            encoder_of(&self.device, &mut self.encoder),
            from,
            (&slot.buffer, 0),
            slot.elements,
        );
    }

    /// A value in a buffer of its own, after everything encoded before: the one that [`GpuExecutor::lend`] gave it, or that
    /// was given up for it, or a copy.
    pub(super) fn copy_out(&mut self, value: GpuValueId) -> Result<wgpu::Buffer> {
        let slot = self.values.get_mut(value.0);
        let slot = slot.ok_or_else(|| Error::internal("a value to keep is not there"))?;
        if slot.other == Other::Own {
            slot.other = Other::Given;
            return Ok(slot.buffer.clone());
        }
        if slot.given {
            return Ok(slot.buffer.clone());
        }
        let bytes = value_bytes(slot.elements);
        let device = &self.device;
        let buffer = device.scoped(&mut self.pending, || storage_buffer(device, bytes, "tensor"));
        copy(
            encoder_of(device, &mut self.encoder),
            &slot.buffer,
            (&buffer, 0),
            slot.elements,
        );
        Ok(buffer)
    }

    /// Has those of the values `kept` that kernels make written to new buffers in the run that begins, which
    /// [`GpuExecutor::keep`] hands out without a copy. What earlier runs gave away is the plan's again.
    pub fn lend(&mut self, kept: &[GpuValueId]) {
        for index in 0..self.values.len() {
            let slot = &self.values[index];
            let bytes = value_bytes(slot.elements);
            if bytes >= BOUND_BYTES && kept.contains(&GpuValueId(index)) && self.made[index] {
                if slot.other != Other::Own {
                    let device = &self.device;
                    let buffer = device.scoped(&mut self.pending, || storage_buffer(device, bytes, "tensor"));
                    self.bind(index, Some((buffer, Other::Own)));
                }
            } else if matches!(slot.other, Other::Own | Other::Given) {
                self.bind(index, None);
            }
        }
    }

    /// Gives a value another buffer, or the plan's again, in all that is encoded from here on.
    fn bind(&mut self, index: usize, other: Option<(wgpu::Buffer, Other)>) {
        let slot = &mut self.values[index];
        match other {
            Some((buffer, other)) => {
                let before = std::mem::replace(&mut slot.buffer, buffer);
                if slot.other == Other::None {
                    slot.planned = Some(before);
                }
                slot.other = other;
            }
            None => {
                if let Some(planned) = slot.planned.take() {
                    slot.buffer = planned;
                }
                slot.other = Other::None;
            }
        }
        for dispatch in self.steps.iter_mut().flatten() {
            let binds = |bound: &Bound| matches!(bound, Bound::Value(value) if *value == index);
            if dispatch.bound.iter().any(binds) {
                dispatch.bind(&self.device, &self.values, &self.params, &mut self.pending);
            }
        }
    }

    /// Hands over what is encoded and reports the errors that are known by now, without waiting for the work.
    pub async fn flush(&mut self) -> Result<()> {
        self.submit();
        self.device.settle(&mut self.pending, "running the model").await
    }

    /// Waits until the device has finished all submitted work, and reports its errors.
    pub async fn finish(&mut self) -> Result<()> {
        self.download(&[]).await.map(drop)
    }
}

/// The encoder under way, or a new one.
fn encoder_of<'a>(device: &GpuDevice, encoder: &'a mut Option<wgpu::CommandEncoder>) -> &'a mut wgpu::CommandEncoder {
    encoder.get_or_insert_with(|| device.device.create_command_encoder(&Default::default()))
}

/// Whether two buffers are one. In a browser each feed wraps its buffer anew.
pub(super) fn is_same(a: &wgpu::Buffer, b: &wgpu::Buffer) -> bool {
    #[cfg(target_arch = "wasm32")]
    return a.as_webgpu().map(wasm_bindgen::JsValue::from) == b.as_webgpu().map(Into::into);
    #[cfg(not(target_arch = "wasm32"))]
    return a == b;
}

/// Encodes a copy of `elements` elements to a place in another buffer.
pub(super) fn copy(
    encoder: &mut wgpu::CommandEncoder,
    from: &wgpu::Buffer,
    (to, offset): (&wgpu::Buffer, u64),
    elements: usize,
) {
    if elements > 0 {
        encoder.copy_buffer_to_buffer(from, 0, to, offset, elements as u64 * GpuType::SIZE);
    }
}

fn submit(
    device: &GpuDevice,
    encoder: &mut Option<wgpu::CommandEncoder>,
    encoded: &mut usize,
    pending: &mut PendingErrors,
) {
    *encoded = 0;
    if let Some(encoder) = encoder.take() {
        device.scoped(pending, || device.queue.submit([encoder.finish()]));
    }
}

fn buffer(device: &GpuDevice, size: u64, usage: wgpu::BufferUsages, label: &'static str) -> wgpu::Buffer {
    device.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size,
        usage,
        mapped_at_creation: false,
    })
}

pub(super) fn storage_buffer(device: &GpuDevice, size: u64, label: &'static str) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    buffer(device, size, usage, label)
}

pub(super) fn staging_buffer(device: &GpuDevice, size: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    buffer(device, size, usage, "readback")
}

/// The constants of a program, each once, without those that an earlier program brought.
#[inline(never)]
fn new_constants<'a>(program: &'a GpuProgram, constants: &GpuConstants) -> Vec<&'a ConstantData> {
    let mut new: Vec<&ConstantData> = Vec::new();
    let mut add = |data: &'a ConstantData| {
        if constants.buffers.get(&data.key).is_none() && new.iter().all(|other| other.key != data.key) {
            new.push(data);
        }
    };
    for value in &program.values {
        if let ValueStorage::Constant(data) = &value.storage {
            add(data);
        }
    }
    for step in &program.steps {
        for dispatch in &step.kernel.dispatches {
            for binding in &dispatch.bindings {
                if let Binding::Constant(data) = binding {
                    add(data);
                }
            }
        }
    }
    new
}

/// Uploads a constant.
#[inline(never)]
fn upload_constant(device: &GpuDevice, data: &ConstantData) -> Result<wgpu::Buffer> {
    let bytes = data.bytes()?;
    let buffer = storage_buffer(device, value_bytes(bytes.len() / GpuType::SIZE as usize), "constant");
    #[cfg(target_arch = "wasm32")]
    if device.write_from_outside(&buffer, &bytes)? {
        return Ok(buffer);
    }
    let bytes = bytes.at_hand()?;
    if !bytes.is_empty() {
        device.queue.write_buffer(&buffer, 0, &bytes);
    }
    Ok(buffer)
}

fn bound_value(values: &[ValueSlot], id: Option<&Option<GpuValueId>>, label: &str) -> Result<Bound> {
    id.copied()
        .flatten()
        .filter(|id| id.0 < values.len())
        .map(|id| Bound::Value(id.0))
        .ok_or_else(|| Error::internal("a kernel binds a value that its step does not have").at_node(label))
}

/// Words of a parameter block, padded to whole vectors.
fn padded_params(words: usize) -> usize {
    words.div_ceil(4) * 4
}

/// All parameter blocks in one run of words, and where each dispatch's block starts, in bytes.
fn lay_out_params(program: &GpuProgram, alignment: usize) -> (Vec<u32>, Vec<Option<u32>>) {
    let mut words = Vec::new();
    let mut offsets = Vec::new();
    for dispatch in program.steps.iter().flat_map(|step| &step.kernel.dispatches) {
        if dispatch.params.is_empty() {
            offsets.push(None);
            continue;
        }
        words.resize(words.len().next_multiple_of(alignment.div_ceil(4)), 0);
        offsets.push(Some((words.len() * 4) as u32));
        words.extend_from_slice(&dispatch.params);
        words.resize(words.len().next_multiple_of(4), 0);
    }
    (words, offsets)
}

fn params_buffer(device: &GpuDevice, words: &[u32]) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let size = (words.len() as u64 * 4).max(16);
    let descriptor = wgpu::BufferDescriptor {
        label: Some("parameters"),
        size,
        usage,
        mapped_at_creation: false,
    };
    let buffer = device.device.create_buffer(&descriptor);
    if !words.is_empty() {
        device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
    }
    buffer
}

fn bind_group(
    device: &GpuDevice,
    pipeline: &Pipeline,
    uniform: Option<(&wgpu::Buffer, u64)>,
    bound: &[(wgpu::Buffer, u64)],
) -> wgpu::BindGroup {
    let resource = |buffer, size| {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer,
            offset: 0,
            size: wgpu::BufferSize::new(size),
        })
    };
    let entries: Vec<wgpu::BindGroupEntry> = uniform
        .map(|(buffer, size)| wgpu::BindGroupEntry {
            binding: 0,
            resource: resource(buffer, size),
        })
        .into_iter()
        .chain((1..).zip(bound).map(|(binding, (buffer, size))| wgpu::BindGroupEntry {
            binding,
            resource: resource(buffer, *size),
        }))
        .collect();
    let descriptor = wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.layout,
        entries: &entries,
    };
    device.device.create_bind_group(&descriptor)
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use std::sync::Arc;

    use super::super::kernel::{Access, Dispatch, GpuKernel};
    use super::super::program::{GpuStep, GpuValue};
    use super::super::testing::{self, Data};
    use super::super::wgsl::DispatchBuilder;
    use super::*;
    use crate::tensor::Tensor;

    /// Adds `params.amount` to each element of `from`.
    fn add(from: Binding, to: Binding, amount: f32, count: u32) -> Dispatch {
        let text = "
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.count) {
        output[id.x] = input[id.x] + params.amount;
    }
}";
        DispatchBuilder::new("add", text)
            .storage("input", "f32", from)
            .storage("output", "f32", to)
            .param_f32("amount", amount)
            .param("count", count)
            .finish([count.div_ceil(64), 1, 1])
    }

    fn kernel(dispatch: Dispatch) -> GpuKernel {
        GpuKernel {
            dispatches: vec![dispatch],
            ..GpuKernel::default()
        }
    }

    fn step(position: usize, kernel: GpuKernel, input: usize, output: usize) -> GpuStep {
        let label = format!("step {position}");
        GpuStep {
            label,
            node: 0,
            position,
            kernel,
            inputs: vec![Some(GpuValueId(input))],
            outputs: vec![Some(GpuValueId(output))],
        }
    }

    fn planned(ty: GpuType, elements: usize, first: usize, last: usize) -> GpuValue {
        GpuValue {
            ty,
            elements,
            storage: ValueStorage::Planned { first, last },
        }
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(bytes)
    }

    #[test]
    fn a_program_replays_in_parts_with_reused_buffers_and_new_inputs() {
        let Some(device) = testing::device() else { return };
        let chain = |count: usize| {
            let values = (0..=20).map(|i| planned(GpuType::F32, count, i, i + 1)).collect();
            let steps = (0..20)
                .map(|i| {
                    let dispatch = add(Binding::Input(0), Binding::Output(0), i as f32, count as u32);
                    step(i + 1, kernel(dispatch), i, i + 1)
                })
                .collect();
            GpuProgram { values, steps }
        };
        pollster::block_on(async {
            let mut constants = GpuConstants::default();
            let mut executor = GpuExecutor::new(device.clone(), &chain(100), &mut constants)
                .await
                .unwrap();
            assert_eq!(executor.planned_bytes(), 2 * 400_u64.next_multiple_of(16));
            for start in [0.0, 5.0] {
                let input = vec![start; 100];
                executor.upload(GpuValueId(0), bytemuck::cast_slice(&input)).unwrap();
                executor.encode(0..7).unwrap();
                let middle = executor.download(&[GpuValueId(7)]).await.unwrap();
                assert_eq!(floats(&middle[0]), vec![start + 21.0; 100]);
                // What the CPU writes between two parts is what the second part reads.
                executor
                    .upload(GpuValueId(7), bytemuck::cast_slice(&vec![start; 100]))
                    .unwrap();
                executor.encode(7..20).unwrap();
                let end = executor.download(&[GpuValueId(20)]).await.unwrap();
                assert_eq!(floats(&end[0]), vec![start + (7..20).sum::<i32>() as f32; 100]);
            }
        });
    }

    #[test]
    fn constants_upload_once_and_scratch_memory_joins_dispatches() {
        let Some(device) = testing::device() else { return };
        let tensor = Tensor::new(&[3], vec![1.0f32, 2.0, 3.0]).unwrap();
        let constant = Arc::new(ConstantData::from_tensor(9, tensor).unwrap());
        let kernel = GpuKernel {
            dispatches: vec![
                add(Binding::Input(0), Binding::Scratch(0, Access::ReadWrite), 1.0, 3),
                add(Binding::Scratch(0, Access::Read), Binding::Output(0), 1.0, 3),
            ],
            scratch: vec![12],
            ..GpuKernel::default()
        };
        let constant = GpuValue {
            ty: GpuType::F32,
            elements: 3,
            storage: ValueStorage::Constant(constant),
        };
        let program = GpuProgram {
            values: vec![constant, planned(GpuType::F32, 3, 0, 1)],
            steps: vec![step(0, kernel, 0, 1)],
        };
        pollster::block_on(async {
            let mut constants = GpuConstants::default();
            for _ in 0..2 {
                let mut executor = GpuExecutor::new(device.clone(), &program, &mut constants)
                    .await
                    .unwrap();
                executor.encode(0..1).unwrap();
                let bytes = executor.download(&[GpuValueId(1)]).await.unwrap();
                assert_eq!(floats(&bytes[0]), [3.0, 4.0, 5.0]);
                assert_eq!(constants.bytes(), 16);
            }
        });
    }

    #[test]
    fn bools_cross_as_bytes_and_empty_values_cross_as_nothing() {
        let Some(device) = testing::device() else { return };
        let program = GpuProgram {
            values: vec![planned(GpuType::Bool, 5, 0, 9), planned(GpuType::F32, 0, 0, 9)],
            steps: Vec::new(),
        };
        pollster::block_on(async {
            let mut executor = GpuExecutor::new(device, &program, &mut GpuConstants::default())
                .await
                .unwrap();
            executor.upload(GpuValueId(0), &[0, 1, 1, 0, 1]).unwrap();
            executor.upload(GpuValueId(1), &[]).unwrap();
            let bytes = executor.download(&[GpuValueId(1), GpuValueId(0)]).await.unwrap();
            assert_eq!(bytes, [vec![], vec![0, 1, 1, 0, 1]]);
            assert!(executor.upload(GpuValueId(0), &[0]).is_err());
        });
    }

    #[test]
    fn a_refused_shader_is_a_typed_error_each_time_and_leaves_the_device_usable() {
        let Some(device) = testing::device() else { return };
        let bad = || {
            let dispatch = DispatchBuilder::new("bad", "fn main() { nonsense }")
                .storage("input", "f32", Binding::Input(0))
                .storage("output", "f32", Binding::Output(0))
                .finish([1, 1, 1]);
            testing::run(&device, kernel(dispatch), &[Data::F32(vec![1.0])], &[(GpuType::F32, 1)])
        };
        for _ in 0..2 {
            assert_eq!(bad().unwrap_err().code(), ErrorCode::Device);
        }
        let good = kernel(add(Binding::Input(0), Binding::Output(0), 1.0, 1));
        let result = testing::run(&device, good, &[Data::F32(vec![1.0])], &[(GpuType::F32, 1)]).unwrap();
        assert_eq!(result[0].f32s(), [2.0]);
    }

    #[test]
    fn a_lost_device_is_a_typed_error_and_the_next_one_is_new() {
        let Some(device) = testing::device() else { return };
        let program = GpuProgram {
            values: vec![planned(GpuType::F32, 4, 0, 1)],
            steps: Vec::new(),
        };
        pollster::block_on(async {
            let mut executor = GpuExecutor::new(device.clone(), &program, &mut GpuConstants::default())
                .await
                .unwrap();
            device.destroy();
            assert_eq!(
                executor.upload(GpuValueId(0), &[0; 16]).unwrap_err().code(),
                ErrorCode::DeviceLost
            );
            assert_eq!(executor.encode(0..0).unwrap_err().code(), ErrorCode::DeviceLost);
            assert_eq!(
                executor.download(&[GpuValueId(0)]).await.unwrap_err().code(),
                ErrorCode::DeviceLost
            );
            let next = GpuDevice::shared().await.unwrap();
            assert!(next.check().is_ok() && !Rc::ptr_eq(&next, &device));
        });
    }
}
