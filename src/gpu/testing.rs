//! What GPU tests share: an adapter or a printed reason, running one kernel on given data, naga validation, snapshots
//! and a small seeded generator.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use half::f16;

use super::device::GpuDevice;
use super::executor::{GpuConstants, GpuExecutor};
use super::kernel::{AdapterKind, Binding, Dispatch, GpuCaps, GpuKernel, GpuType};
use super::program::{GpuProgram, GpuStep, GpuValue, GpuValueId, ValueStorage};
use crate::error::Result;
use crate::tensor::Tensor;

thread_local! {
    /// A text that is replaced by another in every shader that this thread compiles: what breaks kernels on purpose.
    pub(crate) static TAMPER: Cell<Option<(&'static str, &'static str)>> = const { Cell::new(None) };
}

/// A shader's text with what [`TAMPER`] does to it.
pub(crate) fn tampered(text: &str) -> String {
    match TAMPER.get() {
        Some((from, to)) => text.replace(from, to),
        None => text.to_owned(),
    }
}

/// The device of this machine, or `None` after printing why a test is skipped.
pub(crate) fn device() -> Option<Rc<GpuDevice>> {
    match pollster::block_on(GpuDevice::shared()) {
        Ok(device) => Some(device),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Capabilities that lead to every variant of a kernel.
pub(crate) fn both_kinds() -> [GpuCaps; 2] {
    [AdapterKind::Hardware, AdapterKind::Software].map(GpuCaps::webgpu_default)
}

/// Values rounded to half precision.
pub(crate) fn halves(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|value| f16::from_f32(value).to_f32()).collect()
}

/// A tensor of such values in single and in half precision.
pub(crate) fn in_both_precisions(shape: &[usize], values: &[f32]) -> [Tensor; 2] {
    let halves = values.iter().map(|&value| f16::from_f32(value)).collect();
    [Tensor::new(shape, values.to_vec()), Tensor::new(shape, halves)].map(Result::unwrap)
}

/// How many bytes of constants in layouts of its own a kernel binds.
pub(crate) fn constant_bytes(kernel: &GpuKernel) -> usize {
    let bindings = kernel.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
    let sizes = bindings.filter_map(|binding| match binding {
        Binding::Constant(data) => Some(data.size as usize),
        _ => None,
    });
    sizes.sum()
}

/// Data of one input or output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    F32(Vec<f32>),
    I32(Vec<i32>),
    Bool(Vec<bool>),
    /// The bytes of a CPU tensor.
    Bytes(GpuType, Vec<u8>),
}

impl Data {
    fn ty(&self) -> GpuType {
        match self {
            Data::F32(_) => GpuType::F32,
            Data::I32(_) => GpuType::I32,
            Data::Bool(_) => GpuType::Bool,
            Data::Bytes(ty, _) => *ty,
        }
    }

    fn elements(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::I32(values) => values.len(),
            Data::Bool(values) => values.len(),
            Data::Bytes(ty, bytes) => bytes.len() / ty.cpu_size(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Data::F32(values) => bytemuck::cast_slice(values).to_vec(),
            Data::I32(values) => bytemuck::cast_slice(values).to_vec(),
            Data::Bool(values) => values.iter().map(|&value| u8::from(value)).collect(),
            Data::Bytes(_, bytes) => bytes.clone(),
        }
    }

    fn from_bytes(ty: GpuType, bytes: &[u8]) -> Data {
        match ty {
            GpuType::F32 => Data::F32(bytemuck::pod_collect_to_vec(bytes)),
            GpuType::I32 => Data::I32(bytemuck::pod_collect_to_vec(bytes)),
            GpuType::U32 | GpuType::I8 | GpuType::U8 | GpuType::I64 => Data::Bytes(ty, bytes.to_vec()),
            GpuType::Bool => Data::Bool(bytes.iter().map(|&byte| byte != 0).collect()),
        }
    }

    pub(crate) fn f32s(&self) -> &[f32] {
        match self {
            Data::F32(values) => values,
            other => panic!("expected f32 data, found {other:?}"),
        }
    }
}

/// Runs `kernel` once on `inputs` and returns outputs of the given types and sizes.
pub(crate) fn run(
    device: &Rc<GpuDevice>,
    kernel: GpuKernel,
    inputs: &[Data],
    outputs: &[(GpuType, usize)],
) -> Result<Vec<Data>> {
    let mut program = GpuProgram::default();
    for input in inputs {
        let storage = ValueStorage::Planned { first: 0, last: 1 };
        program.values.push(GpuValue {
            ty: input.ty(),
            elements: input.elements(),
            storage,
        });
    }
    for &(ty, elements) in outputs {
        let storage = ValueStorage::Planned { first: 1, last: 2 };
        program.values.push(GpuValue { ty, elements, storage });
    }
    let id = |index| Some(GpuValueId(index));
    program.steps.push(GpuStep {
        label: "test".into(),
        node: 0,
        position: 1,
        kernel,
        inputs: (0..inputs.len()).map(id).collect(),
        outputs: (inputs.len()..inputs.len() + outputs.len()).map(id).collect(),
    });
    let wanted: Vec<GpuValueId> = (inputs.len()..program.values.len()).map(GpuValueId).collect();
    pollster::block_on(async {
        let mut executor = GpuExecutor::new(Rc::clone(device), &program, &mut GpuConstants::default()).await?;
        for (index, input) in inputs.iter().enumerate() {
            executor.upload(GpuValueId(index), &input.bytes())?;
        }
        executor.encode(0..1)?;
        let bytes = executor.download(&wanted).await?;
        Ok(outputs
            .iter()
            .zip(bytes)
            .map(|(&(ty, _), bytes)| Data::from_bytes(ty, &bytes))
            .collect())
    })
}

/// Panics with the first element that differs by more than `tolerance` relative to the larger of it and one.
pub(crate) fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths differ");
    for (index, (&a, &b)) in found.iter().zip(expected).enumerate() {
        let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * b.abs().max(1.0);
        assert!(same, "{what}: element {index} is {a}, expected {b}");
    }
}

/// Panics when a dispatch's text is not valid WGSL.
pub(crate) fn validate(dispatch: &Dispatch) {
    use wgpu::naga;
    let text = &dispatch.shader.wgsl;
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|error| panic!("{}: {}\n{text}", dispatch.shader.label, error.emit_to_string(text)));
    let flags = naga::valid::ValidationFlags::all();
    // Browsers have it, and so do native adapters but a few old ones.
    let capabilities = naga::valid::Capabilities::default() | naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    naga::valid::Validator::new(flags, capabilities)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}\n{text}", dispatch.shader.label, error.emit_to_string(text)));
    assert!(
        !text.contains('$'),
        "{}: a name of the template is undefined\n{text}",
        dispatch.shader.label
    );
}

/// Validates a kernel's texts and compares them with the snapshot `name`. With `UPDATE_SNAPSHOTS` set in the
/// environment the snapshot is written instead.
pub(crate) fn assert_snapshot(name: &str, kernel: &GpuKernel) {
    let mut text = String::new();
    for dispatch in &kernel.dispatches {
        validate(dispatch);
        text.push_str(&format!(
            "// {} {:?} {:?}\n",
            dispatch.shader.label, dispatch.workgroups, dispatch.params
        ));
        text.push_str(&dispatch.shader.wgsl);
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/gpu/snapshots")
        .join(format!("{name}.wgsl"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(path.parent().expect("the path has a folder")).expect("the folder can be made");
        fs::write(&path, &text).expect("the snapshot can be written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if let Some((line, (a, b))) = text
        .lines()
        .zip(expected.lines())
        .enumerate()
        .find(|(_, (found, expected))| found != expected)
    {
        panic!(
            "{name}: line {} is\n{a}\nbut its snapshot has\n{b}\n(UPDATE_SNAPSHOTS=1 accepts it)",
            line + 1
        );
    }
    assert_eq!(
        text.lines().count(),
        expected.lines().count(),
        "{name}: the snapshot has another length"
    );
}

/// A small linear congruential generator, seeded per test.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) % bound.max(1) as u64) as usize
    }

    /// A number of `from..=to`.
    pub(crate) fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    /// Numbers between -1 and 1.
    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0)
            .collect()
    }
}
