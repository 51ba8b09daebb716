//! Prints pointwise expressions as WGSL: as a kernel of their own, and as the epilogue of another kernel.
//!
//! Shapes are parameters, not text, so one expression over inputs that are broadcast alike is one pipeline whatever
//! their sizes are. NaN and infinity cannot be written in WGSL and are parameters as well. Names begin with `pw_`.

use crate::tensor::map::{HashMap, HashSet};
use std::fmt::Write;

use super::epilogue::Epilogue;
use super::kernel::{Binding, GpuCaps, GpuKernel};
use super::kernels::elements;
use super::wgsl::{DispatchBuilder, LINEAR_THREADS, expand_flags, linear_workgroups, shader_text};
use crate::pointwise::{Access, BinaryOp, CompareOp, Expr, LogicOp, Node, Reg, Storage, TestOp, UnaryOp, collapse};

const KERNEL: &str = shader_text!("../../shaders/pointwise.wgsl");
const MATH: &str = shader_text!("../../shaders/pointwise_math.wgsl");

/// A tensor that an expression reads or writes, dense and row-major.
#[derive(Debug, Clone)]
pub struct Operand<'a> {
    pub binding: Binding,
    pub shape: &'a [usize],
}

/// The kernel that evaluates `expr` at every position of `output_shape`. Inputs broadcast to it; f32 is bound as f32
/// and Bool as one u32 per element.
///
/// `None` when an input does not broadcast, a tensor is too large, or more buffers are needed than a shader may bind.
pub fn kernel(
    expr: &Expr,
    output_shape: &[usize],
    inputs: &[Operand],
    outputs: &[Binding],
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    if inputs.len() != expr.inputs().len() || outputs.len() != expr.outputs().len() {
        return None;
    }
    let count = elements(output_shape, caps)?;
    if count == 0 {
        return Some(GpuKernel::default());
    }
    let paths = paths(expr, output_shape, inputs)?;
    let width = if count.is_multiple_of(4) && paths.iter().all(Path::is_vector) {
        Width::Four
    } else {
        Width::One
    };
    let mut printer = Printer::new(expr, width);
    for (input, (path, operand)) in paths.into_iter().zip(inputs).enumerate() {
        printer.input(input, path, operand.binding.clone());
    }
    for (index, (output, binding)) in expr.outputs().iter().zip(outputs).enumerate() {
        printer
            .storages
            .push((format!("pw_y{index}"), printer.element(output.storage), binding.clone()));
    }
    printer.nodes();
    for (index, output) in expr.outputs().iter().enumerate() {
        let value = match output.storage {
            Storage::F32 => name(output.reg),
            Storage::Bool => format!("select(PwU(0u), PwU(1u), {})", name(output.reg)),
        };
        printer.line(&format!("pw_y{index}[index] = {value};"));
    }
    if printer.storages.len() > caps.max_storage_buffers as usize {
        return None;
    }
    let threads = count / width.lanes();
    let mut dispatch = DispatchBuilder::new("pointwise", KERNEL)
        .define("THREADS", LINEAR_THREADS)
        .define("BODY", printer.body.trim_end())
        .functions(&printer.library())
        .param("count", threads as u32);
    for (name, element, binding) in printer.storages {
        dispatch = dispatch.storage(name, element, binding);
    }
    for (name, ty, bits) in printer.params {
        dispatch = dispatch.param_bits(name, ty, bits);
    }
    Some(GpuKernel::of(vec![
        dispatch.finish(linear_workgroups(threads as u64, caps)),
    ]))
}

/// `expr` as the epilogue of a kernel whose row-major output has `output_shape`: its input 0 is the value just computed,
/// of the output's shape, and `inputs` are the further ones. It has one output, f32 like input 0.
///
/// `None` when it has not, or an input does not broadcast. The caller checks how many buffers it binds in all.
pub fn epilogue(expr: &Expr, output_shape: &[usize], inputs: &[Operand]) -> Option<Epilogue> {
    let [output] = expr.outputs() else { return None };
    if output.storage != Storage::F32
        || expr.inputs().first() != Some(&Storage::F32)
        || inputs.len() + 1 != expr.inputs().len()
    {
        return None;
    }
    // The value stands in for a tensor that every position has its own element of.
    let value = Operand {
        binding: Binding::Output(0),
        shape: output_shape,
    };
    let all: Vec<Operand> = std::iter::once(value).chain(inputs.iter().cloned()).collect();
    let mut paths = paths(expr, output_shape, &all)?;
    if let Some(first) = paths.first_mut() {
        *first = Path::Value;
    }
    let mut printer = Printer::new(expr, Width::One);
    for (input, (path, operand)) in paths.into_iter().zip(all).enumerate() {
        printer.input(input, path, operand.binding);
    }
    printer.nodes();
    printer.line(&format!("return {};", name(output.reg)));
    let mut functions = printer.library();
    let _ = writeln!(
        functions,
        "fn epilogue(value: f32, index: u32) -> f32 {{\n{}}}",
        printer.body
    );
    Some(Epilogue {
        functions,
        storages: printer.storages,
        params: printer.params,
    })
}

/// How the elements of an input are found from the position in the output.
#[derive(Debug, Clone, PartialEq)]
enum Path {
    /// No node reads it.
    Unused,
    /// The epilogue's argument.
    Value,
    Contiguous,
    Scalar,
    /// Dimensions that the input steps through, with its own broadcast alone collapsed; strides in elements.
    Strided {
        dims: Vec<usize>,
        strides: Vec<usize>,
    },
}

impl Path {
    /// Whether four consecutive positions, the first a multiple of four, read four consecutive elements or one.
    fn is_vector(&self) -> bool {
        match self {
            Path::Strided { dims, strides } => match (dims.last(), strides.split_last()) {
                (Some(inner), Some((1, outer))) => inner % 4 == 0 && outer.iter().all(|s| s % 4 == 0),
                (Some(inner), Some((0, _))) => inner % 4 == 0,
                _ => false,
            },
            _ => true,
        }
    }
}

fn paths(expr: &Expr, output_shape: &[usize], inputs: &[Operand]) -> Option<Vec<Path>> {
    let path = |(index, input): (usize, &Operand)| {
        if !expr.reads_input(index) {
            return Some(Path::Unused);
        }
        let mut space = collapse(output_shape, &[input.shape]).ok()?;
        Some(match space.inputs.pop()? {
            Access::Contiguous => Path::Contiguous,
            Access::Scalar => Path::Scalar,
            Access::Strided(strides) => Path::Strided {
                dims: space.dims,
                strides,
            },
        })
    };
    inputs.iter().enumerate().map(path).collect()
}

/// How many positions a thread computes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    One,
    Four,
}

impl Width {
    fn lanes(self) -> usize {
        match self {
            Width::One => 1,
            Width::Four => 4,
        }
    }
}

/// One summand of an offset: `index / divisor % dim * stride`; without `dim` for the outermost dimension.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Term {
    divisor: usize,
    dim: Option<usize>,
    stride: usize,
}

struct Printer<'a> {
    expr: &'a Expr,
    width: Width,
    /// How each input is read, as WGSL of the register's type.
    loads: Vec<String>,
    storages: Vec<(String, String, Binding)>,
    params: Vec<(String, &'static str, u32)>,
    offsets: HashMap<Vec<Term>, String>,
    /// Parts of [`MATH`] that the expression needs.
    needs: HashSet<&'static str>,
    body: String,
}

impl<'a> Printer<'a> {
    fn new(expr: &'a Expr, width: Width) -> Printer<'a> {
        Printer {
            expr,
            width,
            loads: Vec::new(),
            storages: Vec::new(),
            params: Vec::new(),
            offsets: HashMap::new(),
            needs: HashSet::new(),
            body: String::new(),
        }
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.body, "    {text}");
    }

    /// The WGSL type of a buffer's elements, as wide as a thread works.
    fn element(&self, storage: Storage) -> String {
        let scalar = scalar(storage);
        match self.width {
            Width::One => scalar.to_owned(),
            Width::Four => format!("vec4<{scalar}>"),
        }
    }

    /// Declares an input and prints where its element is.
    fn input(&mut self, input: usize, path: Path, binding: Binding) {
        let storage = self.expr.inputs()[input];
        let buffer = format!("pw_x{input}");
        let wide = self.element(storage);
        let (load, element) = match path {
            Path::Unused => (String::new(), None),
            Path::Value => ("value".to_owned(), None),
            Path::Contiguous => (format!("{buffer}[index]"), Some(wide)),
            Path::Scalar => (
                self.splat(storage, &format!("{buffer}[0]")),
                Some(scalar(storage).to_owned()),
            ),
            Path::Strided { dims, strides } => {
                let whole = self.width == Width::Four && strides.last() == Some(&1);
                let offset = self.offset(&dims, &strides, whole);
                let load = format!("{buffer}[{offset}]");
                if whole {
                    (load, Some(wide))
                } else {
                    (self.splat(storage, &load), Some(scalar(storage).to_owned()))
                }
            }
        };
        let load = match storage {
            Storage::Bool if element.is_some() => format!("{load} != PwU(0u)"),
            _ => load,
        };
        self.loads.push(load);
        if let Some(element) = element {
            self.storages.push((buffer, element, binding));
        }
    }

    fn splat(&self, storage: Storage, load: &str) -> String {
        match (self.width, storage) {
            (Width::One, _) => load.to_owned(),
            (Width::Four, Storage::F32) => format!("PwF({load})"),
            (Width::Four, Storage::Bool) => format!("PwU({load})"),
        }
    }

    /// The name of the offset for these strides; inputs with equal ones share it. `whole`: counted in vectors.
    fn offset(&mut self, dims: &[usize], strides: &[usize], whole: bool) -> String {
        let mut terms = Vec::new();
        // The index counts vectors, so the innermost dimension is that much shorter.
        let mut divisor = 1;
        for (axis, (&dim, &stride)) in dims.iter().zip(strides).enumerate().rev() {
            let inner = axis + 1 == dims.len();
            let dim = if inner { dim / self.width.lanes() } else { dim };
            let stride = if whole && !inner { stride / 4 } else { stride };
            if stride != 0 {
                terms.push(Term {
                    divisor,
                    dim: (axis > 0).then_some(dim),
                    stride,
                });
            }
            divisor *= dim;
        }
        if let Some(name) = self.offsets.get(&terms) {
            return name.clone();
        }
        let number = self.offsets.len();
        let name = format!("pw_at{number}");
        let mut summands = Vec::new();
        for (k, term) in terms.iter().enumerate() {
            let mut text = "index".to_owned();
            if term.divisor != 1 {
                text = format!(
                    "{text} / {}",
                    self.param(format!("pw_divisor{number}_{k}"), term.divisor)
                );
            }
            if let Some(dim) = term.dim {
                text = format!("{text} % {}", self.param(format!("pw_dim{number}_{k}"), dim));
            }
            if term.stride != 1 {
                text = format!("{text} * {}", self.param(format!("pw_stride{number}_{k}"), term.stride));
            }
            summands.push(text);
        }
        self.line(&format!("let {name} = {};", summands.join(" + ")));
        self.offsets.insert(terms, name.clone());
        name
    }

    fn param(&mut self, name: String, value: usize) -> String {
        // Below 2^31, as `elements` checks for the output, and no dimension or stride of a broadcast is larger.
        self.params.push((name.clone(), "u32", value as u32));
        format!("params.{name}")
    }

    /// An f32 that WGSL has no literal for.
    fn special(&mut self, value: f32) -> String {
        let name = match value {
            _ if value.is_nan() => "pw_nan".to_owned(),
            f32::INFINITY => "pw_inf".to_owned(),
            f32::NEG_INFINITY => "pw_negative_inf".to_owned(),
            _ => format!("pw_bits_{:08x}", value.to_bits()),
        };
        if !self.params.iter().any(|(n, ..)| *n == name) {
            self.params.push((name.clone(), "f32", value.to_bits()));
        }
        format!("params.{name}")
    }

    fn nodes(&mut self) {
        for (index, node) in self.expr.nodes().iter().enumerate() {
            let value = self.node(node);
            self.line(&format!("let pw_r{index} = {value};"));
        }
    }

    fn node(&mut self, node: &Node) -> String {
        match *node {
            Node::Input(i) => self.loads[i as usize].clone(),
            Node::Const(bits) => {
                let value = f32::from_bits(bits);
                // Subnormal literals may be flushed by a compiler, parameters only by the hardware. The shortest decimal
                // of the largest number lies above it, which some compilers refuse.
                let literal = if (value.is_normal() && value.abs() != f32::MAX) || value == 0.0 {
                    format!("{value:?}f")
                } else {
                    self.special(value)
                };
                format!("PwF({literal})")
            }
            Node::ConstBool(b) => format!("PwB({b})"),
            Node::Unary(op, a) => self.unary(op, &name(a)),
            Node::Test(TestOp::IsNan, a) => {
                self.needs.insert("IS_NAN");
                format!("pw_is_nan({})", name(a))
            }
            Node::Test(TestOp::IsInf { positive, negative }, a) => {
                self.needs.insert("IS_INF");
                let a = name(a);
                match (positive, negative) {
                    (true, false) => format!("pw_is_positive_inf({a})"),
                    (false, true) => format!("pw_is_negative_inf({a})"),
                    _ => format!("pw_is_positive_inf({a}) | pw_is_negative_inf({a})"),
                }
            }
            Node::Not(a) => format!("!{}", name(a)),
            Node::Binary(op, a, b) => self.binary(op, a, b),
            Node::Compare(op, a, b) => {
                let sign = match op {
                    CompareOp::Equal => "==",
                    CompareOp::NotEqual => "!=",
                    CompareOp::Less => "<",
                    CompareOp::LessOrEqual => "<=",
                    CompareOp::Greater => ">",
                    CompareOp::GreaterOrEqual => ">=",
                };
                format!("{} {sign} {}", name(a), name(b))
            }
            Node::Logic(op, a, b) => {
                let sign = match op {
                    LogicOp::And => "&",
                    LogicOp::Or => "|",
                    LogicOp::Xor => "!=",
                };
                format!("{} {sign} {}", name(a), name(b))
            }
            Node::Select(c, a, b) => format!("select({}, {}, {})", name(b), name(a), name(c)),
            Node::ToBool(a) => format!("{} != PwF(0.0f)", name(a)),
            Node::ToF32(a) => format!("select(PwF(0.0f), PwF(1.0f), {})", name(a)),
        }
    }

    fn unary(&mut self, op: UnaryOp, a: &str) -> String {
        let mut call = |function: &str, needs: &[&'static str]| {
            self.needs.extend(needs);
            format!("{function}({a})")
        };
        match op {
            UnaryOp::Neg => format!("-{a}"),
            UnaryOp::Reciprocal => format!("PwF(1.0f) / {a}"),
            // NaN is neither above nor below zero and stays.
            UnaryOp::Sign => format!("select(select({a}, PwF(1.0f), {a} > PwF(0.0f)), PwF(-1.0f), {a} < PwF(0.0f))"),
            UnaryOp::Relu => format!("select({a}, PwF(0.0f), {a} < PwF(0.0f))"),
            UnaryOp::Abs => call("abs", &[]),
            UnaryOp::Sqrt => call("sqrt", &[]),
            UnaryOp::Exp => call("exp", &[]),
            UnaryOp::Log => call("pw_log", &["LOG"]),
            UnaryOp::Floor => call("floor", &[]),
            UnaryOp::Ceil => call("ceil", &[]),
            // WGSL's round takes halves to the even neighbour.
            UnaryOp::Round => call("round", &[]),
            UnaryOp::Sin => call("pw_sin", &["SINE"]),
            UnaryOp::Cos => call("pw_cos", &["SINE"]),
            UnaryOp::Tan => call("pw_tan", &["SINE"]),
            UnaryOp::Asin => call("pw_asin", &["ARC", "COPYSIGN"]),
            UnaryOp::Acos => call("pw_acos", &["ARC", "COPYSIGN"]),
            UnaryOp::Atan => call("pw_atan", &["ARC", "COPYSIGN"]),
            UnaryOp::Sinh => call("pw_sinh", &["HYPERBOLIC", "COPYSIGN"]),
            UnaryOp::Cosh => call("pw_cosh", &["HYPERBOLIC", "COPYSIGN"]),
            UnaryOp::Tanh => call("pw_tanh", &["TANH", "COPYSIGN"]),
            UnaryOp::Asinh => call("pw_asinh", &["AREA", "COPYSIGN", "LOG", "LOG1P"]),
            UnaryOp::Acosh => call("pw_acosh", &["AREA", "COPYSIGN", "LOG", "LOG1P"]),
            UnaryOp::Atanh => call("pw_atanh", &["AREA", "COPYSIGN", "LOG", "LOG1P"]),
            UnaryOp::Erf => call("pw_erf", &["ERF", "COPYSIGN"]),
            UnaryOp::Sigmoid => call("pw_sigmoid", &["SIGMOID"]),
            UnaryOp::Softplus => call("pw_softplus", &["SOFTPLUS", "LOG", "LOG1P"]),
        }
    }

    fn binary(&mut self, op: BinaryOp, a: Reg, b: Reg) -> String {
        let is_number = |reg: Reg| match self.expr.nodes()[reg.index()] {
            Node::Const(bits) => !f32::from_bits(bits).is_nan(),
            _ => false,
        };
        let bound = is_number(b);
        let (a, b) = (name(a), name(b));
        match op {
            BinaryOp::Add => format!("{a} + {b}"),
            BinaryOp::Sub => format!("{a} - {b}"),
            BinaryOp::Mul => format!("{a} * {b}"),
            BinaryOp::Div => format!("{a} / {b}"),
            // Against a number, a NaN on the left compares false and stays.
            BinaryOp::Min if bound => format!("select({a}, {b}, {b} < {a})"),
            BinaryOp::Max if bound => format!("select({a}, {b}, {b} > {a})"),
            BinaryOp::Min => {
                self.needs.extend(["MIN_MAX", "IS_NAN"]);
                format!("pw_min({a}, {b})")
            }
            BinaryOp::Max => {
                self.needs.extend(["MIN_MAX", "IS_NAN"]);
                format!("pw_max({a}, {b})")
            }
            BinaryOp::Fmod => {
                self.needs.extend(["FMOD", "COPYSIGN"]);
                format!("pw_fmod({a}, {b})")
            }
            BinaryOp::Pow => {
                self.needs.extend(["POW", "IS_NAN", "COPYSIGN"]);
                let (nan, inf) = (self.special(f32::NAN), self.special(f32::INFINITY));
                format!("pw_pow({a}, {b}, {nan}, {inf})")
            }
        }
    }

    /// The types that [`MATH`] is written in, and what is needed of it.
    fn library(&self) -> String {
        let mut text = String::new();
        for (alias, scalar) in [("PwF", "f32"), ("PwU", "u32"), ("PwI", "i32"), ("PwB", "bool")] {
            let _ = match self.width {
                Width::One => writeln!(text, "alias {alias} = {scalar};"),
                Width::Four => writeln!(text, "alias {alias} = vec4<{scalar}>;"),
            };
        }
        text.push_str(expand_flags(MATH, &self.needs).trim_start());
        // What is not needed leaves blank lines behind.
        while text.contains("\n\n\n") {
            text = text.replace("\n\n\n", "\n\n");
        }
        text
    }
}

fn name(reg: Reg) -> String {
    format!("pw_r{}", reg.index())
}

/// The WGSL type of one element in a buffer.
fn scalar(storage: Storage) -> &'static str {
    match storage {
        Storage::F32 => "f32",
        Storage::Bool => "u32",
    }
}

#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod tests;
