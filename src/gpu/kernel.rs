//! What a GPU kernel is, before any device exists: shader texts, bindings, parameters and workgroup counts.
//! Kernel builders are pure functions from shapes and [`GpuCaps`] to a [`GpuKernel`], so that their output can be
//! validated, printed and compared without an adapter.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::tensor::{Bytes, DType, Tensor};

/// The element types that a GPU buffer can hold. Each element takes four bytes.
///
/// `Bool` is one `u32` per element, 0 or 1; 8-bit integers are one 32-bit integer each. They are converted when a tensor
/// crosses between the CPU and the GPU. So is `I64`, whose elements are `i32` there, the nearest where one does not fit:
/// only indices, counts and the like may be held so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuType {
    F32,
    I32,
    U32,
    Bool,
    I8,
    U8,
    I64,
}

impl GpuType {
    /// The type that tensors of `dtype` have in buffers of operators that say what they do with it
    /// ([`crate::ops::Operator::takes_narrowed`]); `None` for those that stay on the CPU whatever the operator.
    pub fn held(dtype: DType) -> Option<GpuType> {
        match dtype {
            DType::I8 => Some(GpuType::I8),
            DType::U8 => Some(GpuType::U8),
            DType::I64 => Some(GpuType::I64),
            other => GpuType::from_dtype(other),
        }
    }

    /// The type that tensors of `dtype` have on the GPU for every operator; `None` for those that stay on the CPU.
    pub fn from_dtype(dtype: DType) -> Option<GpuType> {
        match dtype {
            DType::F32 => Some(GpuType::F32),
            DType::I32 => Some(GpuType::I32),
            DType::U32 => Some(GpuType::U32),
            DType::Bool => Some(GpuType::Bool),
            _ => None,
        }
    }

    /// The type of the same tensor on the CPU.
    pub fn dtype(self) -> DType {
        match self {
            GpuType::F32 => DType::F32,
            GpuType::I32 => DType::I32,
            GpuType::U32 => DType::U32,
            GpuType::Bool => DType::Bool,
            GpuType::I8 => DType::I8,
            GpuType::U8 => DType::U8,
            GpuType::I64 => DType::I64,
        }
    }

    /// The WGSL type of one element.
    pub fn wgsl(self) -> &'static str {
        match self {
            GpuType::F32 => "f32",
            GpuType::I32 | GpuType::I8 | GpuType::I64 => "i32",
            GpuType::U32 | GpuType::Bool | GpuType::U8 => "u32",
        }
    }

    /// The WGSL type of four consecutive elements.
    pub fn wgsl4(self) -> &'static str {
        match self {
            GpuType::F32 => "vec4<f32>",
            GpuType::I32 | GpuType::I8 | GpuType::I64 => "vec4<i32>",
            GpuType::U32 | GpuType::Bool | GpuType::U8 => "vec4<u32>",
        }
    }

    /// Bytes that one element takes in a GPU buffer.
    pub const SIZE: u64 = 4;

    /// Bytes that one element takes in a CPU tensor.
    pub fn cpu_size(self) -> usize {
        match self {
            GpuType::F32 | GpuType::I32 | GpuType::U32 => 4,
            GpuType::Bool | GpuType::I8 | GpuType::U8 => 1,
            GpuType::I64 => 8,
        }
    }

    /// The bytes of a CPU tensor as a GPU buffer holds them.
    pub fn to_words(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        let each = |word: fn(u8) -> u32| Cow::Owned(bytes.iter().flat_map(|&byte| word(byte).to_le_bytes()).collect());
        match self {
            GpuType::F32 | GpuType::I32 | GpuType::U32 => Cow::Borrowed(bytes),
            GpuType::Bool => each(|byte| u32::from(byte != 0)),
            GpuType::I8 => each(|byte| i32::from(byte as i8) as u32),
            GpuType::U8 => each(u32::from),
            GpuType::I64 => {
                let chunks = bytes.as_chunks::<8>().0.iter();
                let nearest = |value: i64| value.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
                Cow::Owned(
                    chunks
                        .flat_map(|&bytes| nearest(i64::from_le_bytes(bytes)).to_le_bytes())
                        .collect(),
                )
            }
        }
    }

    /// The words of a GPU buffer as a CPU tensor holds them.
    #[cfg(feature = "gpu")]
    pub fn to_elements(self, words: &[u8]) -> Vec<u8> {
        let words32 = words.as_chunks::<4>().0.iter();
        match self {
            GpuType::F32 | GpuType::I32 | GpuType::U32 => words.to_vec(),
            GpuType::Bool => words32.map(|&word| u8::from(word != [0; 4])).collect(),
            GpuType::I8 | GpuType::U8 => words32.map(|word| word[0]).collect(),
            GpuType::I64 => words32
                .flat_map(|&word| i64::from(i32::from_le_bytes(word)).to_le_bytes())
                .collect(),
        }
    }
}

/// Whether an adapter is a real GPU or a program that imitates one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterKind {
    Hardware,
    Software,
}

/// What kernel builders may rely on: the device's limits and the traits by which they choose a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuCaps {
    pub kind: AdapterKind,
    /// Largest workgroup per dimension.
    pub max_workgroup_size: [u32; 3],
    /// Largest product of the three workgroup dimensions.
    pub max_invocations: u32,
    /// Bytes of `var<workgroup>` memory per workgroup.
    pub max_shared_bytes: u32,
    /// Largest workgroup count per dimension of one dispatch.
    pub max_workgroups: u32,
    /// Largest storage buffer binding, in bytes.
    pub max_storage_buffer_binding_size: u64,
    /// Largest buffer, in bytes.
    pub max_buffer_size: u64,
    /// Storage buffers that one shader may bind.
    pub max_storage_buffers: u32,
    /// Alignment of dynamic uniform offsets, in bytes.
    pub min_uniform_offset_alignment: u32,
    /// Whether shaders may use subgroup operations.
    pub subgroups: bool,
    /// Whether shaders may use `f16`.
    pub f16: bool,
    /// Whether shaders may use packed dot products of 8-bit integers.
    pub packed_dot: bool,
}

impl GpuCaps {
    /// The limits every WebGPU implementation guarantees, for tests and for planning before a device is known.
    pub fn webgpu_default(kind: AdapterKind) -> GpuCaps {
        GpuCaps {
            kind,
            max_workgroup_size: [256, 256, 64],
            max_invocations: 256,
            max_shared_bytes: 16384,
            max_workgroups: 65535,
            max_storage_buffer_binding_size: 128 << 20,
            max_buffer_size: 256 << 20,
            max_storage_buffers: 8,
            min_uniform_offset_alignment: 256,
            subgroups: false,
            f16: false,
            packed_dot: false,
        }
    }

    /// Whether a value of `elements` elements fits in one storage binding.
    pub fn fits(&self, elements: usize) -> bool {
        let bytes = (elements as u64).saturating_mul(GpuType::SIZE).saturating_add(15);
        bytes <= self.max_storage_buffer_binding_size && bytes <= self.max_buffer_size
    }
}

/// The work of one node (or fused group) on the GPU: dispatches that run in order.
#[derive(Debug, Clone, Default)]
pub struct GpuKernel {
    /// Empty when the outputs have no elements.
    pub dispatches: Vec<Dispatch>,
    /// Sizes in bytes of temporary buffers that live only while this kernel runs.
    pub scratch: Vec<u64>,
    /// What is required of the elements of inputs, by position. It is checked where an input comes from the CPU; shaders
    /// make something of other elements, but no error.
    pub checks: Vec<(usize, Check)>,
    /// Inputs whose memory becomes that of an output, `(input, output)`, since they are given up
    /// (`GpuLowering::takes_over`). Dispatches bind the output, which begins as the input, and not the input.
    pub in_place: Vec<(usize, usize)>,
}

/// What is required of the integers of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Indices into dimensions of these sizes in turn, from -size to size - 1.
    Index(Vec<usize>),
    /// Counts from one to another, both included.
    Between(i64, i64),
    /// Divisors.
    NotZero,
}

impl Check {
    /// Whether the elements of a CPU tensor are as required; the error of a run when they are not.
    pub fn run(&self, dtype: DType, bytes: &[u8]) -> Result<()> {
        let values: Box<dyn Iterator<Item = i64>> = match dtype {
            DType::I64 => Box::new(bytes.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes))),
            DType::I32 => Box::new(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&bytes| i32::from_le_bytes(bytes).into()),
            ),
            DType::U32 => Box::new(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&bytes| u32::from_le_bytes(bytes).into()),
            ),
            _ => return Ok(()),
        };
        let size = |place: usize| match self {
            Check::Index(sizes) => sizes.get(place % sizes.len().max(1)).copied().unwrap_or(0),
            Check::Between(..) | Check::NotZero => 0,
        };
        let fails = |&(place, value): &(usize, i64)| match self {
            Check::Index(_) => value < -(size(place) as i64) || value >= size(place) as i64,
            Check::Between(low, high) => value < *low || value > *high,
            Check::NotZero => value == 0,
        };
        let Some((place, value)) = values.enumerate().find(fails) else {
            return Ok(());
        };
        if *self == Check::NotZero {
            return Err(Error::new(ErrorCode::RunFailed, "an integer is divided by zero"));
        }
        let message = match self {
            Check::Between(low, high) => format!("{value} is not between {low} and {high}"),
            _ => format!("index {value} is outside a dimension of {}", size(place)),
        };
        Err(Error::new(ErrorCode::RunFailed, message).actual(value.to_string()))
    }
}

/// One compute dispatch.
#[derive(Debug, Clone)]
pub struct Dispatch {
    pub shader: Shader,
    /// Storage buffers in the order of `@binding(1)`, `@binding(2)`, …
    pub bindings: Vec<Binding>,
    /// The uniform block at `@binding(0)`, as 32-bit words; empty when the shader declares none.
    pub params: Vec<u32>,
    pub workgroups: [u32; 3],
}

/// A WGSL text and where it starts. Equal texts share one pipeline.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shader {
    /// Names the kernel family in profiles and error messages.
    pub label: &'static str,
    pub wgsl: Arc<str>,
    pub entry_point: &'static str,
}

impl fmt::Debug for Shader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shader({}, {} bytes)", self.label, self.wgsl.len())
    }
}

/// A storage buffer of a dispatch. Inputs and constants are `var<storage, read>`, outputs are
/// `var<storage, read_write>`.
#[derive(Debug, Clone)]
pub enum Binding {
    /// The node's input by position: a planned value or a constant as the model holds it.
    Input(usize),
    /// The node's output by position.
    Output(usize),
    /// A constant made for this kernel (weights laid out anew), uploaded once per session.
    Constant(Arc<ConstantData>),
    /// A temporary buffer of [`GpuKernel::scratch`], by position.
    Scratch(usize, Access),
}

impl Binding {
    /// How the shader declares this buffer.
    pub fn access(&self) -> Access {
        match self {
            Binding::Input(_) | Binding::Constant(_) => Access::Read,
            Binding::Output(_) => Access::ReadWrite,
            Binding::Scratch(_, access) => *access,
        }
    }
}

/// The access mode of a storage binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    ReadWrite,
}

impl Access {
    /// The access mode in `var<storage, …>`.
    pub fn wgsl(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::ReadWrite => "read_write",
        }
    }
}

/// Names a constant buffer for the whole session: which constant of the model, in which layout. Equal keys must mean
/// equal bytes; the executor uploads each key once and every program shares the buffer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConstantKey {
    /// The constant's identity within the session, as the planner numbers it.
    pub source: u64,
    /// Layout and its parameters, such as `matmul_b:transposed`; empty for the constant as it stands in the model.
    pub layout: String,
}

/// A constant buffer. Its bytes are made on the first upload only, so that planning again for another input shape lays
/// out nothing twice.
pub struct ConstantData {
    pub key: ConstantKey,
    /// Size in bytes, a multiple of four.
    pub size: u64,
    source: ConstantSource,
}

/// Makes the bytes of a constant.
pub type MakeBytes = dyn Fn() -> Result<Bytes> + Send + Sync;

enum ConstantSource {
    Tensor(Tensor),
    Made(Box<MakeBytes>),
}

impl ConstantData {
    /// The constant `source` as it stands in the model; `None` when its element type has no GPU form.
    pub fn from_tensor(source: u64, tensor: Tensor) -> Option<ConstantData> {
        GpuType::held(tensor.dtype())?;
        let size = tensor.len() as u64 * GpuType::SIZE;
        let key = ConstantKey {
            source,
            layout: String::new(),
        };
        Some(ConstantData {
            key,
            size,
            source: ConstantSource::Tensor(tensor),
        })
    }

    /// A constant in another layout. `make` must return exactly `size` bytes, as a GPU buffer holds them (four bytes per
    /// element).
    pub fn new(key: ConstantKey, size: u64, make: Box<MakeBytes>) -> ConstantData {
        let source = ConstantSource::Made(make);
        ConstantData { key, size, source }
    }

    /// The bytes to upload; deferred where they are so in the model. May cost a pass over the constant; the executor asks
    /// once.
    pub fn bytes(&self) -> Result<Bytes> {
        let bytes = match &self.source {
            ConstantSource::Tensor(tensor) => {
                let own = tensor.shared_bytes().cloned();
                let own = own.ok_or_else(|| Error::internal("a GPU constant has no bytes"))?;
                match GpuType::held(tensor.dtype()).filter(|ty| ty.cpu_size() as u64 != GpuType::SIZE) {
                    Some(ty) => ty.to_words(&own.at_hand()?).into_owned().into(),
                    None => own,
                }
            }
            ConstantSource::Made(make) => make()?,
        };
        if bytes.len() as u64 != self.size || bytes.len() % 4 != 0 {
            return Err(Error::new(
                ErrorCode::Internal,
                "a GPU constant has another size than it was planned with",
            )
            .expected(format!("{} bytes", self.size))
            .actual(format!("{} bytes", bytes.len())));
        }
        Ok(bytes)
    }
}

impl fmt::Debug for ConstantData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ConstantData({}:{:?}, {} bytes)",
            self.key.source, self.key.layout, self.size
        )
    }
}
