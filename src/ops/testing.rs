//! Runs one operator in isolation, for the operators' tests: infers, lowers to the CPU, executes over aligned memory,
//! and holds what was inferred, from concrete and from symbolic shapes, against what came out.

use std::sync::Arc;

use super::{CpuLowering, GpuLowering, InferContext, Operator, Prepared, TensorDesc, ValueFacts, registry};
use crate::{
    cpu::{
        kernel::{CpuKernel, InputBytes, KernelInputs, KernelIo, KernelOutputs, OutputBytes},
        threads::Threads,
    },
    error::Result,
    gpu::kernel::{AdapterKind, GpuCaps, GpuKernel, GpuType},
    graph::{Attribute, Epilogue, Node, OperatorId, ValueId},
    pointwise::Expr,
    tensor::{AlignedBytes, DType, Dim, Element, Symbols, Tensor},
};

/// A tensor of f32s; a mistake in the test's own shape fails the test.
pub fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    tensor(shape, values)
}

/// A tensor of i64s.
pub fn i64s(shape: &[usize], values: &[i64]) -> Tensor {
    tensor(shape, values)
}

/// A tensor of any elements.
pub fn tensor<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::new(shape, values.to_vec()).unwrap()
}

/// Fails at the first element that differs by more than `tolerance * max(1, |expected|)`; compares shapes first.
#[track_caller]
pub fn assert_tensor_close(actual: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(actual.shape(), expected.shape(), "shapes differ");
    assert_eq!(actual.dtype(), expected.dtype(), "types differ");
    if !expected.dtype().is_float() {
        return assert_eq!(actual, expected);
    }
    let (actual, expected) = (actual.to_f32s().unwrap(), expected.to_f32s().unwrap());
    crate::cpu::testing::assert_close(&actual, &expected, tolerance, "output");
}

/// What can be an attribute in [`TestNode::attr`].
pub trait IntoAttribute {
    fn into_attribute(self) -> Attribute;
}

macro_rules! into_attribute {
    ($($type:ty, $value:ident => $result:expr;)*) => {
        $(impl IntoAttribute for $type {
            fn into_attribute(self) -> Attribute {
                let $value = self;
                $result
            }
        })*
    };
}

into_attribute! {
    Attribute, value => value;
    i64, value => Attribute::Int(value);
    i32, value => Attribute::Int(value.into());
    f32, value => Attribute::Float(value);
    &str, value => Attribute::String(value.as_bytes().to_vec());
    Tensor, value => Attribute::Tensor(value);
    Arc<Expr>, value => Attribute::Expr(value);
    &[i64], value => Attribute::Ints(value.to_vec());
    &[f32], value => Attribute::Floats(value.to_vec());
    &[&str], value => Attribute::Strings(value.iter().map(|text| text.as_bytes().to_vec()).collect());
}

impl<const N: usize> IntoAttribute for [i64; N] {
    fn into_attribute(self) -> Attribute {
        Attribute::Ints(self.to_vec())
    }
}

impl IntoAttribute for Vec<f32> {
    fn into_attribute(self) -> Attribute {
        Attribute::Floats(self)
    }
}

impl<const N: usize> IntoAttribute for [f32; N] {
    fn into_attribute(self) -> Attribute {
        Attribute::Floats(self.to_vec())
    }
}

impl<const N: usize> IntoAttribute for [&str; N] {
    fn into_attribute(self) -> Attribute {
        self.as_slice().into_attribute()
    }
}

#[derive(Clone)]
struct Input {
    tensor: Option<Tensor>,
    constant: bool,
}

/// One node and what is fed to it.
#[derive(Clone)]
pub struct TestNode {
    node: Node,
    inputs: Vec<Input>,
    /// Inputs that follow the operator's own, for its epilogue.
    epilogue: Option<(Arc<Expr>, Vec<Tensor>)>,
    outputs: Vec<bool>,
}

impl TestNode {
    /// A node of ONNX's own domain with one output.
    pub fn new(operator: &str, version: i64) -> TestNode {
        TestNode::of(OperatorId::new("", operator, version))
    }

    /// A node of any domain with one output.
    pub fn of(operator: OperatorId) -> TestNode {
        TestNode {
            node: Node::new(operator, Vec::new(), Vec::new()),
            inputs: Vec::new(),
            epilogue: None,
            outputs: vec![true],
        }
    }

    /// Sets an attribute.
    pub fn attr(mut self, name: &str, value: impl IntoAttribute) -> TestNode {
        self.node.attributes.set(name, value.into_attribute());
        self
    }

    /// Adds an input that is known only in a run.
    pub fn input(mut self, tensor: Tensor) -> TestNode {
        self.inputs.push(Input {
            tensor: Some(tensor),
            constant: false,
        });
        self
    }

    /// Adds a constant input.
    pub fn constant(mut self, tensor: Tensor) -> TestNode {
        self.inputs.push(Input {
            tensor: Some(tensor),
            constant: true,
        });
        self
    }

    /// Leaves an input out.
    pub fn no_input(mut self) -> TestNode {
        self.inputs.push(Input {
            tensor: None,
            constant: false,
        });
        self
    }

    /// Gives the node an epilogue over its result and further inputs.
    pub fn epilogue(mut self, expr: Expr, inputs: &[Tensor]) -> TestNode {
        self.epilogue = Some((Arc::new(expr), inputs.to_vec()));
        self
    }

    /// Says how many outputs are wanted.
    pub fn outputs(mut self, count: usize) -> TestNode {
        self.outputs = vec![true; count];
        self
    }

    /// Says which outputs are wanted.
    pub fn wanted(mut self, outputs: &[bool]) -> TestNode {
        self.outputs = outputs.to_vec();
        self
    }

    /// The node with its values numbered.
    fn node(&self) -> Node {
        let mut node = self.node.clone();
        let mut next = 0;
        let mut id = || {
            next += 1;
            Some(ValueId(next - 1))
        };
        node.inputs = self
            .inputs
            .iter()
            .map(|input| input.tensor.as_ref().and_then(|_| id()))
            .collect();
        if let Some((expr, tensors)) = &self.epilogue {
            node.epilogue = Some(Epilogue {
                expr: expr.clone(),
                first_input: node.inputs.len(),
            });
            node.inputs.extend(tensors.iter().map(|_| id()));
        }
        node.outputs = self.outputs.iter().map(|&wanted| id().filter(|_| wanted)).collect();
        node
    }

    fn facts(&self, symbols: Option<&mut Symbols>) -> Vec<Option<ValueFacts>> {
        let mut symbols = symbols;
        let facts = self.inputs.iter().enumerate().map(|(index, input)| {
            let tensor = input.tensor.as_ref()?;
            if input.constant {
                return Some(ValueFacts::of_constant(tensor));
            }
            let shape = tensor
                .shape()
                .iter()
                .enumerate()
                .map(|(axis, &size)| match &mut symbols {
                    // Symbols stand for positive sizes.
                    Some(symbols) if size > 0 => {
                        let name: Arc<str> = format!("d{index}_{axis}").into();
                        symbols.insert(name.clone(), size as i64);
                        Dim::symbol(name)
                    }
                    _ => Dim::from(size),
                });
            Some(ValueFacts {
                dtype: Some(tensor.dtype()),
                shape: Some(shape.collect()),
                ..ValueFacts::default()
            })
        });
        facts.collect()
    }

    /// What inference says of the outputs when all shapes are concrete.
    pub fn infer(&self) -> Result<Vec<ValueFacts>> {
        let node = self.node();
        let operator = registry::operator(&node)?;
        infer_with(&*operator, &node, &self.facts(None))
    }

    /// What inference says of the outputs when the sizes of inputs that are not constant are symbols, and what the
    /// symbols stand for.
    pub fn infer_symbolic(&self) -> Result<(Vec<ValueFacts>, Symbols)> {
        let node = self.node();
        let operator = registry::operator(&node)?;
        let mut symbols = Symbols::new();
        let facts = self.facts(Some(&mut symbols));
        Ok((infer_with(&*operator, &node, &facts)?, symbols))
    }

    /// What inference says when nothing but types is known of inputs that are not constant.
    fn infer_unranked(&self) -> Result<Vec<ValueFacts>> {
        let node = self.node();
        let operator = registry::operator(&node)?;
        let mut facts = self.facts(None);
        for (fact, input) in facts.iter_mut().zip(&self.inputs) {
            if let Some(fact) = fact.as_mut().filter(|_| !input.constant) {
                fact.shape = None;
            }
        }
        infer_with(&*operator, &node, &facts)
    }

    /// The inputs as lowering sees them, the epilogue's included.
    fn descriptions(&self) -> Vec<Option<TensorDesc>> {
        let own = self.inputs.iter().enumerate().map(|(index, input)| {
            let tensor = input.tensor.as_ref()?;
            Some(TensorDesc {
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
                constant: input.constant.then(|| tensor.clone()),
                constant_id: index as u64 + 1,
            })
        });
        let further = self.epilogue.iter().flat_map(|(_, tensors)| tensors).map(|tensor| {
            Some(TensorDesc {
                dtype: tensor.dtype(),
                shape: tensor.shape().to_vec(),
                constant: None,
                constant_id: 0,
            })
        });
        own.chain(further).collect()
    }

    /// The wanted outputs as lowering sees them, and whether their shapes are known.
    fn output_descriptions(&self) -> Result<(Vec<Option<TensorDesc>>, bool)> {
        let inferred = self.infer()?;
        let wanted = || self.outputs.iter().zip(&inferred).filter(|(wanted, _)| **wanted);
        let known = wanted().all(|(_, facts)| facts.concrete_shape().is_some());
        let describe = |(&wanted, facts): (&bool, &ValueFacts)| {
            wanted.then(|| TensorDesc {
                dtype: facts.dtype.expect("the operator infers its outputs' types"),
                shape: facts.concrete_shape().unwrap_or_default(),
                constant: None,
                constant_id: 0,
            })
        };
        Ok((self.outputs.iter().zip(&inferred).map(describe).collect(), known))
    }

    /// The GPU kernel, when the operator makes one for a device of these capabilities.
    pub fn gpu(&self, caps: &GpuCaps) -> Result<Option<GpuKernel>> {
        self.gpu_taking(&[], caps)
    }

    /// The same where the inputs `given_up` are.
    pub fn gpu_taking(&self, given_up: &[usize], caps: &GpuCaps) -> Result<Option<GpuKernel>> {
        let node = self.node();
        let (inputs, (outputs, _)) = (self.descriptions(), self.output_descriptions()?);
        registry::operator(&node)?.gpu(&GpuLowering {
            node: &node,
            inputs: &inputs,
            outputs: &outputs,
            caps,
            given_up,
        })
    }

    /// Runs the node on the GPU in every variant, and fails the test where the result differs from the CPU's or where
    /// there is no GPU kernel. Without the `gpu` feature or an adapter only the kernel's making is tested.
    #[track_caller]
    pub fn assert_gpu_agrees(&self, tolerance: f32) {
        let expected = self.run().unwrap();
        for kind in [AdapterKind::Hardware, AdapterKind::Software] {
            let caps = GpuCaps::webgpu_default(kind);
            let kernel = self.gpu(&caps).unwrap().expect("the operator has a GPU kernel");
            let Some(results) = self.run_on_gpu(kernel, &expected) else {
                return;
            };
            for (result, expected) in results.iter().zip(&expected) {
                assert_tensor_close(result, expected, tolerance);
            }
        }
    }

    #[cfg(not(all(feature = "gpu", not(target_arch = "wasm32"))))]
    fn run_on_gpu(&self, _: GpuKernel, _: &[Tensor]) -> Option<Vec<Tensor>> {
        None
    }

    #[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
    fn run_on_gpu(&self, kernel: GpuKernel, expected: &[Tensor]) -> Option<Vec<Tensor>> {
        use crate::gpu::testing::{Data, device, run, validate};
        kernel.dispatches.iter().for_each(validate);
        let device = device()?;
        let data = |tensor: &Tensor| match tensor.dtype() {
            DType::F32 => Data::F32(tensor.to_f32s().unwrap().into_owned()),
            DType::Bool => Data::Bool(tensor.to_i64s().unwrap().iter().map(|&value| value != 0).collect()),
            DType::I32 => Data::I32(tensor.to_i64s().unwrap().iter().map(|&value| value as i32).collect()),
            dtype => match GpuType::held(dtype) {
                Some(ty) => Data::Bytes(ty, tensor.bytes().to_vec()),
                // Never bound.
                None => Data::F32(vec![0.0]),
            },
        };
        let further = self.epilogue.iter().flat_map(|(_, tensors)| tensors.iter().map(Some));
        let fed = self.inputs.iter().map(|input| input.tensor.as_ref()).chain(further);
        let inputs: Vec<Data> = fed.map(|tensor| tensor.map_or(Data::F32(vec![0.0]), data)).collect();
        let outputs: Vec<(GpuType, usize)> = expected
            .iter()
            .map(|tensor| (GpuType::held(tensor.dtype()).unwrap(), tensor.len()))
            .collect();
        let results = run(&device, kernel, &inputs, &outputs).unwrap();
        let tensors = results.into_iter().zip(expected).map(|(data, expected)| match data {
            Data::F32(values) => tensor(expected.shape(), &values),
            Data::Bytes(ty, bytes) => {
                let bytes = AlignedBytes::copy_of(&bytes).unwrap();
                Tensor::from_bytes(ty.dtype(), expected.shape(), bytes).unwrap()
            }
            Data::I32(values) => tensor(expected.shape(), &values),
            Data::Bool(values) => {
                let values: Vec<crate::tensor::Bool8> = values.into_iter().map(Into::into).collect();
                tensor(expected.shape(), &values)
            }
        });
        Some(tensors.collect())
    }

    /// Infers, lowers to the CPU and runs; gives the wanted outputs in order. Fails the test where what was inferred
    /// contradicts what came out.
    pub fn run(&self) -> Result<Vec<Tensor>> {
        self.run_sharing(&Prepared::default())
    }

    /// The same with a store of prepared constants that other nodes may share.
    pub fn run_sharing(&self, prepared: &Prepared) -> Result<Vec<Tensor>> {
        let node = self.node();
        let operator = registry::operator(&node)?;
        let inputs = self.descriptions();
        let (outputs, outputs_known) = self.output_descriptions()?;
        let kernel = operator.cpu(&CpuLowering {
            node: &node,
            inputs: &inputs,
            outputs: &outputs,
            outputs_known,
            prepared,
            threads: 3,
        })?;
        let further = self.epilogue.iter().flat_map(|(_, tensors)| tensors.iter().map(Some));
        let fed: Vec<Option<&Tensor>> = self
            .inputs
            .iter()
            .map(|input| input.tensor.as_ref())
            .chain(further)
            .collect();
        let results = execute(&kernel, &fed, &outputs, &Threads::SINGLE)?;
        let parallel = THREADS.with(|threads| execute(&kernel, &fed, &outputs, threads))?;
        if let Some(byte) = first_difference(&results, &parallel) {
            // What draws random numbers differs from itself too, sooner or later.
            let is_random = (0..100).any(|_| {
                let again = execute(&kernel, &fed, &outputs, &Threads::SINGLE).unwrap();
                first_difference(&results, &again).is_some()
            });
            assert!(is_random, "byte {byte} of an output differs on several threads");
        }
        self.check_inference(&results);
        self.check_on_gpu(&results);
        Ok(results)
    }

    /// Holds the GPU's results against the CPU's, for kernels that have no tests beside their builders: the first few runs
    /// of a test, and then some. Elements of large or huge values are compared relative to them.
    #[track_caller]
    fn check_on_gpu(&self, expected: &[Tensor]) {
        let count = GPU_CHECKS.with(|count| {
            count.set(count.get() + 1);
            count.get()
        });
        let node = self.node();
        let narrows = registry::operator(&node).is_ok_and(|operator| operator.takes_narrowed());
        let holds = |tensor: &Tensor| match narrows {
            true => GpuType::held(tensor.dtype()).is_some(),
            false => GpuType::from_dtype(tensor.dtype()).is_some(),
        };
        let mut inputs = self.inputs.iter().filter(|input| !input.constant);
        if (count > 24 && !count.is_multiple_of(8))
            || self.epilogue.is_some()
            || self.outputs.contains(&false)
            || !inputs.all(|input| input.tensor.as_ref().is_none_or(holds))
            || !expected.iter().all(holds)
        {
            return;
        }
        for packed_dot in [false, true] {
            let plain = GpuCaps::webgpu_default(AdapterKind::Software);
            self.check_kernel(&GpuCaps { packed_dot, ..plain }, expected);
        }
        self.check_kernel(&GpuCaps::webgpu_default(AdapterKind::Hardware), expected);
    }

    #[track_caller]
    fn check_kernel(&self, caps: &GpuCaps, expected: &[Tensor]) {
        const TESTED_BESIDE_THEM: [&str; 8] = [
            "pointwise",
            "copy",
            "gather",
            "softmax",
            "reduce",
            "resize",
            "pool",
            "matmul",
        ];
        let Ok(Some(kernel)) = self.gpu(caps) else { return };
        let label = kernel.dispatches.last().map_or("copy", |last| last.shader.label);
        let is_tested = |prefix: &&str| label.starts_with(*prefix) && !label.ends_with("volume");
        // Most kernels for hardware are tested beside them, too.
        let for_hardware = caps.kind == AdapterKind::Hardware;
        if for_hardware && label != "attention_tiled"
            || TESTED_BESIDE_THEM.iter().any(is_tested)
            || caps.packed_dot && label != "integer_dot"
            || label.starts_with("conv_d")
            || label.starts_with("conv_t")
        {
            return;
        }
        if let Some(results) = self.run_on_gpu(kernel, expected) {
            for (result, expected) in results.iter().zip(expected) {
                assert_tensor_close(result, expected, 1e-4);
            }
        }
    }

    /// Runs and gives the only output.
    pub fn run1(&self) -> Result<Tensor> {
        Ok(self.run()?.swap_remove(0))
    }

    #[track_caller]
    fn check_inference(&self, results: &[Tensor]) {
        let (symbolic, symbols) = self
            .infer_symbolic()
            .expect("what runs with sizes is inferred with symbols");
        let unranked = self
            .infer_unranked()
            .expect("what runs with sizes is inferred without ranks");
        for (what, facts, symbols) in [
            ("concrete", self.infer().unwrap(), &Symbols::new()),
            ("symbolic", symbolic, &symbols),
            ("unranked", unranked, &Symbols::new()),
        ] {
            let wanted = self.outputs.iter().zip(&facts).filter(|(wanted, _)| **wanted);
            for (output, ((_, facts), result)) in wanted.zip(results).enumerate() {
                assert_eq!(facts.dtype, Some(result.dtype()), "{what} type of output {output}");
                if let Some(shape) = &facts.shape {
                    assert_eq!(
                        shape.len(),
                        result.shape().len(),
                        "{what} rank of output {output}: {shape:?}"
                    );
                    for (dim, &size) in shape.iter().zip(result.shape()) {
                        if let Some(inferred) = dim.evaluate(symbols) {
                            assert_eq!(
                                inferred,
                                size as i64,
                                "{what} shape {shape:?} of output {output} is {:?}",
                                result.shape()
                            );
                        }
                    }
                }
                if let (Some(elements), Ok(values)) = (&facts.elements, result.to_i64s()) {
                    assert_eq!(elements.len(), values.len(), "{what} elements of output {output}");
                    for (dim, value) in elements.iter().zip(values) {
                        if let Some(inferred) = dim.evaluate(symbols) {
                            assert_eq!(inferred, value, "{what} elements {elements:?} of output {output}");
                        }
                    }
                }
            }
        }
    }
}

fn infer_with(operator: &dyn Operator, node: &Node, facts: &[Option<ValueFacts>]) -> Result<Vec<ValueFacts>> {
    let mut fresh = 0;
    let mut ctx = InferContext::new(node, facts.iter().map(Option::as_ref).collect(), &[], &mut fresh);
    operator.infer(&mut ctx)?;
    Ok(ctx.outputs)
}

thread_local! {
    /// Runs of this thread, which is one test's.
    static GPU_CHECKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    /// Every node that a test runs also runs on these, with all work cut that can be.
    static THREADS: Threads = Threads::eager(3);
}

/// The first byte in which outputs differ.
fn first_difference(some: &[Tensor], others: &[Tensor]) -> Option<usize> {
    some.iter().zip(others).find_map(|(one, other)| {
        let (one, other) = (one.shared_bytes()?, other.shared_bytes()?);
        one.iter().zip(other.iter()).position(|(a, b)| a != b)
    })
}

/// Runs a kernel over aligned copies; outputs and scratch start as bytes of ones, which are NaN as floats.
fn execute(
    kernel: &CpuKernel,
    fed: &[Option<&Tensor>],
    outputs: &[Option<TensorDesc>],
    threads: &Threads,
) -> Result<Vec<Tensor>> {
    let described = outputs.iter().flatten();
    match kernel {
        CpuKernel::View { input } => {
            let tensor = fed[*input].expect("a view is of an input that is given");
            described.map(|output| tensor.reshaped(&output.shape)).collect()
        }
        CpuKernel::Dynamic(kernel) => {
            let fed: Vec<Option<Tensor>> = fed.iter().map(|tensor| tensor.cloned()).collect();
            let results = (kernel.run)(&fed)?;
            assert!(results.len() >= outputs.len(), "a dynamic kernel makes every output");
            let kept = results.into_iter().zip(outputs);
            Ok(kept
                .filter(|(_, output)| output.is_some())
                .map(|(result, _)| result)
                .collect())
        }
        CpuKernel::Compute(kernel) => {
            let aligned: Vec<Option<AlignedBytes>> = fed
                .iter()
                .enumerate()
                .map(|(index, tensor)| {
                    // What was prepared at plan time must not be read again.
                    let tensor = tensor.filter(|_| !kernel.prepared_inputs.contains(&index))?;
                    Some(AlignedBytes::copy_of(tensor.bytes()).unwrap())
                })
                .collect();
            let garbage = |len: usize| {
                let mut bytes = AlignedBytes::zeroed(len).unwrap();
                bytes.as_mut().fill(0xff);
                bytes
            };
            let mut memory: Vec<Option<AlignedBytes>> = outputs
                .iter()
                .map(|output| {
                    let output = output.as_ref()?;
                    let count = output.shape.iter().product();
                    Some(garbage(output.dtype.byte_len(count).unwrap()))
                })
                .collect();
            let mut scratch = garbage(kernel.scratch_bytes);
            let dtypes = fed.iter().map(|tensor| tensor.map_or(DType::F32, Tensor::dtype));
            let mut io = KernelIo {
                inputs: KernelInputs(
                    aligned
                        .iter()
                        .zip(dtypes)
                        .map(|(bytes, dtype)| {
                            Some(InputBytes {
                                dtype,
                                bytes: bytes.as_ref()?.as_ref(),
                            })
                        })
                        .collect(),
                ),
                outputs: KernelOutputs(
                    memory
                        .iter_mut()
                        .zip(outputs)
                        .map(|(bytes, output)| {
                            Some(OutputBytes {
                                dtype: output.as_ref()?.dtype,
                                bytes: bytes.as_mut()?.as_mut(),
                            })
                        })
                        .collect(),
                ),
                scratch: scratch.as_mut(),
                threads,
            };
            (kernel.run)(&mut io)?;
            drop(io);
            memory
                .into_iter()
                .flatten()
                .zip(described)
                .map(|(bytes, output)| Tensor::from_bytes(output.dtype, &output.shape, bytes))
                .collect()
        }
    }
}
