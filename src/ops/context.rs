//! What operators see of their node while types are inferred and kernels are made.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    sync::Arc,
};

use crate::{
    error::{Error, ErrorCode, Result},
    gpu::kernel::GpuCaps,
    graph::{self, Epilogue, Node, ValueType},
    tensor::{AlignedBytes, Bool8, Bytes, BytesIdentity, DType, Dim, Tensor, map::HashMap},
};

/// Integer tensors up to this many elements are tracked by value during inference.
pub const MAX_TRACKED_ELEMENTS: usize = 1024;

/// What is known of a value.
#[derive(Clone, Debug, Default)]
pub struct ValueFacts {
    /// The element type; `None` for values that are not tensors.
    pub dtype: Option<DType>,
    /// The shape; `None` when not even the rank is known.
    pub shape: Option<Vec<Dim>>,
    /// The elements of a small integer tensor, in row-major order.
    pub elements: Option<Arc<[Dim]>>,
    /// The tensor, when the value is constant. Weights of type f32 may be stored in half precision: see
    /// [`ValueFacts::tensor`].
    pub constant: Option<Tensor>,
    /// The type of a value that is not a tensor.
    pub container: Option<ValueType>,
}

impl ValueFacts {
    /// The facts about a constant.
    pub fn of_constant(tensor: &Tensor) -> ValueFacts {
        let tracked =
            tensor.len() <= MAX_TRACKED_ELEMENTS && (tensor.dtype().is_integer() || tensor.dtype() == DType::Bool);
        let elements = if tracked { tensor.to_i64s().ok() } else { None };
        ValueFacts {
            dtype: Some(tensor.dtype()),
            shape: Some(tensor.shape().iter().map(|&dim| Dim::from(dim)).collect()),
            elements: elements.map(|values| values.into_iter().map(Dim::from).collect()),
            constant: Some(tensor.clone()),
            container: None,
        }
    }

    /// What is known of a graph's value before any node is looked at, when it is not fed.
    pub fn of_value(value: &graph::Value) -> ValueFacts {
        let Some(constant) = &value.constant else {
            return ValueFacts::default();
        };
        let mut facts = ValueFacts::of_constant(constant);
        if constant.dtype().is_half() && value.ty.dtype() == Some(DType::F32) {
            facts.dtype = Some(DType::F32);
        }
        facts
    }

    /// The constant in the value's element type.
    pub fn tensor(&self) -> Result<Option<Tensor>> {
        match &self.constant {
            Some(stored) if self.is_stored_narrow() => {
                let widened = |stored: &Tensor| Ok(stored.to_f32s()?.into_owned());
                Tensor::computed(stored.shape(), stored, Box::new(widened)).map(Some)
            }
            stored => Ok(stored.clone()),
        }
    }

    /// Whether the value is a constant of type f32 that is stored in half precision.
    pub fn is_stored_narrow(&self) -> bool {
        let stored = self.constant.as_ref().map(Tensor::dtype);
        self.dtype == Some(DType::F32) && stored.is_some_and(DType::is_half)
    }

    /// The facts that a declared type holds.
    pub fn of_type(ty: &ValueType) -> ValueFacts {
        match ty.as_tensor() {
            Some(tensor) => ValueFacts {
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                ..ValueFacts::default()
            },
            None => ValueFacts {
                container: Some(ty.clone()),
                ..ValueFacts::default()
            },
        }
    }

    /// The tensor that a value surely is: it is constant, or all its elements are known.
    pub fn known_tensor(&self) -> Option<Tensor> {
        if let Some(constant) = &self.constant {
            return Some(constant.clone());
        }
        let shape = self.concrete_shape()?;
        let elements: Vec<i64> = self.elements.as_ref()?.iter().map(Dim::known).collect::<Option<_>>()?;
        match self.dtype? {
            DType::I64 => Tensor::new(&shape, elements).ok(),
            DType::I32 => Tensor::new(
                &shape,
                elements
                    .iter()
                    .map(|&v| i32::try_from(v))
                    .collect::<Result<_, _>>()
                    .ok()?,
            )
            .ok(),
            DType::Bool => Tensor::new(&shape, elements.iter().map(|&v| Bool8::from(v != 0)).collect()).ok(),
            _ => None,
        }
    }

    /// The shape, when every dimension is known.
    pub fn concrete_shape(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(Dim::size).collect()
    }
}

/// The inputs' facts, and where an operator puts what it infers of its outputs.
pub struct InferContext<'a> {
    /// The node.
    pub node: &'a Node,
    inputs: Vec<Option<&'a ValueFacts>>,
    /// The facts about each output.
    pub outputs: Vec<ValueFacts>,
    /// Inputs whose elements would have told more, had they been known.
    pub wanted: Vec<usize>,
    /// The facts of the values that the node's subgraphs capture, subgraph after subgraph in the order of
    /// [`crate::graph::Attributes::subgraphs`].
    pub captured: &'a [ValueFacts],
    /// Numbers made-up symbols.
    pub fresh: &'a mut u32,
}

impl<'a> InferContext<'a> {
    /// A context for one node. `inputs` are the facts of the operator's own inputs, `captured` those of the values that
    /// its subgraphs capture, `fresh` numbers made-up symbols.
    pub fn new(
        node: &'a Node,
        inputs: Vec<Option<&'a ValueFacts>>,
        captured: &'a [ValueFacts],
        fresh: &'a mut u32,
    ) -> InferContext<'a> {
        let outputs = vec![ValueFacts::default(); node.outputs.len()];
        InferContext {
            node,
            inputs,
            outputs,
            wanted: Vec::new(),
            captured,
            fresh,
        }
    }

    /// The opset version of the node's domain.
    pub fn version(&self) -> i64 {
        self.node.operator.version
    }

    /// Number of inputs, left-out ones in the middle included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Whether input `index` is given.
    pub fn has_input(&self, index: usize) -> bool {
        self.input(index).is_some()
    }

    /// The facts of input `index`, when it is given.
    pub fn input(&self, index: usize) -> Option<&'a ValueFacts> {
        self.inputs.get(index).copied().flatten()
    }

    /// Element type of input `index`, which must be given and be a tensor.
    pub fn dtype(&self, index: usize) -> Result<DType> {
        let facts = self.input(index).ok_or_else(|| missing_input(index))?;
        facts.dtype.ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidGraph,
                format!("input {index} is not a tensor of known element type"),
            )
        })
    }

    /// Shape of input `index`, when its rank is known.
    pub fn shape(&self, index: usize) -> Option<&'a [Dim]> {
        self.input(index)?.shape.as_deref()
    }

    /// Rank of input `index`, when known.
    pub fn rank(&self, index: usize) -> Option<usize> {
        Some(self.shape(index)?.len())
    }

    /// The constant behind input `index`, when it is one. Notes that the input's value matters when it is not.
    pub fn constant(&mut self, index: usize) -> Option<&'a Tensor> {
        let constant = self.input(index)?.constant.as_ref();
        if constant.is_none() {
            self.wanted.push(index);
        }
        constant
    }

    /// The elements of a small integer input, possibly symbolic, or of a constant of whole numbers. Notes that they matter
    /// when they are not known.
    pub fn elements(&mut self, index: usize) -> Option<Vec<Dim>> {
        let facts = self.input(index)?;
        let elements = facts.elements.as_ref().map(|elements| elements.to_vec());
        // Large constants are not tracked but known all the same.
        let elements = elements.or_else(|| {
            let constant = facts.constant.as_ref()?;
            let integers = constant.to_i64s().ok().or_else(|| whole_numbers(constant))?;
            Some(integers.into_iter().map(Dim::from).collect())
        });
        let all_known = elements
            .as_ref()
            .is_some_and(|list| list.iter().all(|dim| dim.known().is_some()));
        if !all_known {
            self.wanted.push(index);
        }
        elements
    }

    /// The elements of an integer input, when every one is a known number.
    pub fn ints(&mut self, index: usize) -> Option<Vec<i64>> {
        self.elements(index)?.iter().map(Dim::known).collect()
    }

    /// A symbol that equals no other dimension.
    pub fn fresh_dim(&mut self) -> Dim {
        *self.fresh += 1;
        Dim::symbol(format!("?{}", *self.fresh))
    }

    /// A shape of `rank` fresh symbols.
    pub fn fresh_shape(&mut self, rank: usize) -> Vec<Dim> {
        (0..rank).map(|_| self.fresh_dim()).collect()
    }

    /// Sets type and shape of output `index`, when the node has it.
    pub fn set_output(&mut self, index: usize, dtype: DType, shape: Option<Vec<Dim>>) {
        if let Some(facts) = self.outputs.get_mut(index) {
            facts.dtype = Some(dtype);
            facts.shape = shape;
        }
    }

    /// Sets the elements of output `index`, when it is small enough to be tracked.
    pub fn set_elements(&mut self, index: usize, elements: Vec<Dim>) {
        if elements.len() <= MAX_TRACKED_ELEMENTS
            && let Some(facts) = self.outputs.get_mut(index)
        {
            facts.elements = Some(elements.into());
        }
    }

    /// Sets the type of an output that is not a tensor, when the node has it.
    pub fn set_container(&mut self, index: usize, ty: ValueType) {
        if let Some(facts) = self.outputs.get_mut(index) {
            facts.container = Some(ty);
        }
    }

    /// The type of input `index`, when it is given and not a tensor.
    pub fn container(&self, index: usize) -> Option<&'a ValueType> {
        self.input(index)?.container.as_ref()
    }

    /// The output gets the type and shape of an input.
    pub fn copy_type(&mut self, from_input: usize, to_output: usize) -> Result<()> {
        let dtype = self.dtype(from_input)?;
        let shape = self.shape(from_input).map(<[Dim]>::to_vec);
        self.set_output(to_output, dtype, shape);
        Ok(())
    }

    /// The symbolic broadcast of the inputs' shapes, by numpy's rule; `None` when a rank is unknown. A dimension that
    /// is known and not 1 wins over a symbol, which must then be equal to it or 1.
    pub fn broadcast(&self, inputs: &[usize]) -> Result<Option<Vec<Dim>>> {
        let mut result: Vec<Dim> = Vec::new();
        for &input in inputs {
            let Some(shape) = self.shape(input) else {
                return Ok(None);
            };
            result = match broadcast_dims(&result, shape)? {
                Some(shape) => shape,
                None => return Ok(None),
            };
        }
        Ok(Some(result))
    }
}

/// The dimension that two equal dimensions are, as far as known; an error when they cannot be equal. `what` names it
/// in the message.
pub(super) fn equal_dims(a: &Dim, b: &Dim, what: &str) -> Result<Dim> {
    match (a.known(), b.known()) {
        (Some(x), Some(y)) if x != y => Err(Error::new(
            ErrorCode::ShapeMismatch,
            format!("the inputs disagree about the {what}"),
        )
        .expected(a.to_string())
        .actual(b.to_string())),
        (None, Some(_)) => Ok(b.clone()),
        _ => Ok(a.clone()),
    }
}

/// The elements of a tensor of floats that are whole numbers: what counts and axes once were.
fn whole_numbers(tensor: &Tensor) -> Option<Vec<i64>> {
    let values = tensor.to_f64s().ok()?.into_iter();
    let whole = values.map(|value| (value.fract() == 0.0 && value.abs() < 1e15).then_some(value as i64));
    whole.collect()
}

/// The error of an input that has another rank than the operator takes.
pub(super) fn rank_error(index: usize, expected: impl std::fmt::Display, actual: usize) -> Error {
    Error::new(ErrorCode::ShapeMismatch, format!("input {index} has the wrong rank"))
        .expected(expected.to_string())
        .actual(actual.to_string())
}

/// The broadcast of two symbolic shapes. Where two different symbols meet, the result is their maximum (one of them
/// must be 1, or they are equal).
pub fn broadcast_dims(a: &[Dim], b: &[Dim]) -> Result<Option<Vec<Dim>>> {
    let rank = a.len().max(b.len());
    let one = Dim::from(1);
    let dim_of = |shape: &[Dim], axis: usize| {
        (axis + shape.len())
            .checked_sub(rank)
            .map_or_else(|| one.clone(), |axis| shape[axis].clone())
    };
    let mut result = Vec::with_capacity(rank);
    for axis in 0..rank {
        let (x, y) = (dim_of(a, axis), dim_of(b, axis));
        result.push(if x == y || y == one {
            x
        } else if x == one {
            y
        } else {
            match (x.known(), y.known()) {
                (Some(_), Some(_)) => {
                    return Err(
                        Error::new(ErrorCode::ShapeMismatch, "the inputs' shapes do not broadcast together")
                            .expected(format!("equal sizes or 1 in dimension {axis} of {rank}"))
                            .actual(format!("{x} and {y}")),
                    );
                }
                (Some(_), None) => x,
                (None, Some(_)) => y,
                (None, None) => x.maximum(&y),
            }
        });
    }
    Ok(Some(result))
}

/// A tensor as kernels are made for it: concrete, and with its data when that is constant.
#[derive(Clone, Debug)]
pub struct TensorDesc {
    /// The element type.
    pub dtype: DType,
    /// The shape.
    pub shape: Vec<usize>,
    /// The data, when constant. It may be half precision where `dtype` is f32: take the elements by
    /// [`Tensor::to_f32s`].
    pub constant: Option<Tensor>,
    /// Tells this constant from every other of the session; equal numbers are equal constants.
    pub constant_id: u64,
}

/// Constants in another layout (packed weights), made once per session and shared by its programs.
#[derive(Default)]
pub struct Prepared {
    ids: RefCell<HashMap<BytesIdentity, u64>>,
    made: RefCell<HashMap<(u64, String), Arc<dyn Any + Send + Sync>>>,
    clock: Option<fn() -> f64>,
    millis: Cell<f64>,
}

impl Prepared {
    /// Nothing prepared yet; a clock tells how long preparing takes.
    pub fn timed(clock: fn() -> f64) -> Prepared {
        Prepared {
            clock: Some(clock),
            ..Prepared::default()
        }
    }

    /// Milliseconds that preparing took so far.
    pub fn millis(&self) -> f64 {
        self.millis.get()
    }

    /// The number of a constant: equal numbers are the same bytes. 0 for strings, which are not numbered.
    pub fn constant_id(&self, tensor: &Tensor) -> u64 {
        let Some(bytes) = tensor.shared_bytes() else { return 0 };
        let mut ids = self.ids.borrow_mut();
        let next = ids.len() as u64 + 1;
        *ids.entry(bytes.identity()).or_insert(next)
    }

    /// A constant in its value's element type; what is stored in half precision is widened once per session.
    pub fn tensor(&self, facts: &ValueFacts) -> Result<Option<Tensor>> {
        match &facts.constant {
            Some(stored) if facts.is_stored_narrow() => {
                let wide = self.get(self.constant_id(stored), "wide", || facts.tensor())?;
                Ok((*wide).clone())
            }
            stored => Ok(stored.clone()),
        }
    }

    /// A constant whose bytes are aligned for its element type: itself, or a copy that all programs share.
    pub fn aligned(&self, tensor: &Tensor) -> Result<Tensor> {
        if tensor.is_aligned() {
            return Ok(tensor.clone());
        }
        let copy = || AlignedBytes::copy_of(tensor.bytes()).map(Bytes::from);
        let bytes = self.get(self.constant_id(tensor), "aligned", copy)?;
        Tensor::from_bytes(tensor.dtype(), tensor.shape(), (*bytes).clone())
    }

    /// The prepared form `layout` of constant `id`, made by `make` the first time.
    pub fn get<P: Send + Sync + 'static>(
        &self,
        id: u64,
        layout: &str,
        make: impl FnOnce() -> Result<P>,
    ) -> Result<Arc<P>> {
        let key = (id, layout.to_string());
        if let Some(found) = self.made.borrow().get(&key)
            && let Ok(found) = found.clone().downcast::<P>()
        {
            return Ok(found);
        }
        let started = self.clock.map(|clock| clock());
        let made = Arc::new(make()?);
        if let (Some(clock), Some(started)) = (self.clock, started) {
            self.millis.set(self.millis.get() + clock() - started);
        }
        self.made.borrow_mut().insert(key, made.clone());
        Ok(made)
    }
}

/// A node with concrete inputs and outputs, for which a CPU kernel is made.
pub struct CpuLowering<'a> {
    /// The node.
    pub node: &'a Node,
    /// Inputs, the epilogue's included.
    pub inputs: &'a [Option<TensorDesc>],
    /// Outputs; `None` for one that nobody asked for. Shapes of dynamic outputs are empty.
    pub outputs: &'a [Option<TensorDesc>],
    /// Whether every output's shape is known; when not, only a dynamic kernel will do.
    pub outputs_known: bool,
    /// Constants in kernels' own layouts.
    pub prepared: &'a Prepared,
    /// On how many threads the kernel will run at most: scratch memory is one piece for each.
    pub threads: usize,
}

/// A node with concrete inputs and outputs, for which a GPU kernel is made.
pub struct GpuLowering<'a> {
    /// The node.
    pub node: &'a Node,
    /// Inputs, the epilogue's included.
    pub inputs: &'a [Option<TensorDesc>],
    /// Outputs; `None` for one that nobody asked for.
    pub outputs: &'a [Option<TensorDesc>],
    /// What the device can do.
    pub caps: &'a GpuCaps,
    /// Inputs that nobody needs once this node has run.
    pub given_up: &'a [usize],
}

macro_rules! lowering_accessors {
    ($lowering:ident) => {
        impl<'a> $lowering<'a> {
            /// Input `index`, which must be given.
            pub fn input(&self, index: usize) -> Result<&'a TensorDesc> {
                self.optional_input(index).ok_or_else(|| missing_input(index))
            }

            /// Input `index`, when it is given.
            pub fn optional_input(&self, index: usize) -> Option<&'a TensorDesc> {
                self.inputs.get(index)?.as_ref()
            }

            /// Number of the operator's own inputs, left-out ones in the middle included.
            pub fn input_count(&self) -> usize {
                self.node.operator_inputs().len()
            }

            /// Output `index`, which must be wanted.
            pub fn output(&self, index: usize) -> Result<&'a TensorDesc> {
                let output = self.optional_output(index);
                output.ok_or_else(|| Error::internal(format!("output {index} is not wanted")))
            }

            /// Output `index`, when it is wanted.
            pub fn optional_output(&self, index: usize) -> Option<&'a TensorDesc> {
                self.outputs.get(index)?.as_ref()
            }

            /// The constant behind input `index`, when it is one.
            pub fn constant(&self, index: usize) -> Option<&'a Tensor> {
                self.optional_input(index)?.constant.as_ref()
            }

            /// The expression to apply to the first output, when there is one.
            pub fn epilogue(&self) -> Option<&'a Epilogue> {
                self.node.epilogue.as_ref()
            }

            /// The error for an element type that the operator does not support.
            pub fn unsupported_type(&self, index: usize) -> Error {
                let dtype = self
                    .optional_input(index)
                    .map_or("nothing", |input| input.dtype.name());
                Error::new(
                    ErrorCode::UnsupportedOperator,
                    format!(
                        "{} does not support this element type of input {index}",
                        self.node.operator
                    ),
                )
                .actual(dtype)
            }
        }
    };
}

lowering_accessors!(CpuLowering);
lowering_accessors!(GpuLowering);

fn missing_input(index: usize) -> Error {
    Error::new(ErrorCode::InvalidGraph, format!("required input {index} is missing"))
}
