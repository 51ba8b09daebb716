//! Builds expressions, simplifying as it goes.
//!
//! Only rewrites that give the same bits for every input are made (NaN payloads aside): constants fold, equal nodes
//! become one, `x * 1` is `x`. `x + 0` stays, because it turns -0 into 0.

use crate::tensor::map::HashMap;
use std::fmt;

use super::{
    BinaryOp, CompareOp, Expr, LogicOp, Node, Output, Reg, Storage, TestOp, Type, UnaryOp,
    reference::{self, Scalar},
    type_of,
};

/// Why an expression could not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExprError {
    /// An operation was given a register of another type than it takes.
    Type {
        operation: &'static str,
        expected: Type,
        found: Type,
    },
    /// Two storages that must agree do not.
    Storage { expected: Storage, found: Storage },
    /// A register that belongs to another builder.
    UnknownRegister { register: u32 },
    /// An input number beyond the expression's inputs.
    UnknownInput { input: usize, inputs: usize },
    /// An output number beyond the expression's outputs.
    UnknownOutput { output: usize, outputs: usize },
    /// Inlined with another number of arguments than it has inputs.
    Arguments { expected: usize, found: usize },
    /// Finished without an output.
    NoOutput,
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExprError::Type {
                operation,
                expected,
                found,
            } => {
                write!(f, "{operation} takes {expected}, not {found}")
            }
            ExprError::Storage { expected, found } => {
                write!(f, "an input stored as {expected} cannot take a value stored as {found}")
            }
            ExprError::UnknownRegister { register } => write!(f, "register {register} is not of this expression"),
            ExprError::UnknownInput { input, inputs } => {
                write!(f, "input {input} of an expression that has {inputs}")
            }
            ExprError::UnknownOutput { output, outputs } => {
                write!(f, "output {output} of an expression that has {outputs}")
            }
            ExprError::Arguments { expected, found } => {
                write!(f, "{found} arguments for an expression of {expected} inputs")
            }
            ExprError::NoOutput => write!(f, "an expression without an output"),
        }
    }
}

impl std::error::Error for ExprError {}

/// Makes an [`Expr`].
///
/// Methods return registers, not results, so that an operator reads like its formula: the first mistake is kept and
/// [`Builder::finish`] reports it.
///
/// ```
/// use modelet::pointwise::{Builder, Storage};
/// let mut b = Builder::new();
/// let (x, bias) = (b.input(Storage::F32), b.input(Storage::F32));
/// let sum = b.add(x, bias);
/// let y = b.relu(sum);
/// b.output(y, Storage::F32);
/// assert_eq!(b.finish().unwrap().to_string(), "relu(x0 + x1)");
/// ```
#[derive(Debug, Default)]
pub struct Builder {
    inputs: Vec<Storage>,
    nodes: Vec<Node>,
    outputs: Vec<Output>,
    seen: HashMap<Node, Reg>,
    error: Option<ExprError>,
}

impl Builder {
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Declares the next input and loads it.
    pub fn input(&mut self, storage: Storage) -> Reg {
        self.inputs.push(storage);
        self.push(Node::Input(self.inputs.len() as u32 - 1))
    }

    pub fn constant(&mut self, value: f32) -> Reg {
        self.push(Node::constant(value))
    }

    pub fn constant_bool(&mut self, value: bool) -> Reg {
        self.push(Node::ConstBool(value))
    }

    /// Declares the next output.
    pub fn output(&mut self, value: Reg, storage: Storage) {
        let value = self.expect("an output", storage.register(), value);
        self.outputs.push(Output { reg: value, storage });
    }

    pub fn unary(&mut self, op: UnaryOp, a: Reg) -> Reg {
        let a = self.expect(op.name(), Type::F32, a);
        let inner = match self.nodes[a.index()] {
            Node::Unary(inner, b) => Some((inner, b)),
            _ => None,
        };
        match (op, inner) {
            (UnaryOp::Neg, Some((UnaryOp::Neg, b))) => b,
            (UnaryOp::Abs, Some((UnaryOp::Neg, b))) => self.unary(UnaryOp::Abs, b),
            (
                UnaryOp::Abs,
                Some((UnaryOp::Abs | UnaryOp::Exp | UnaryOp::Sigmoid | UnaryOp::Softplus | UnaryOp::Cosh, _)),
            ) => a,
            (
                UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round,
                Some((UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Sign, _)),
            ) => a,
            (UnaryOp::Relu, Some((UnaryOp::Relu | UnaryOp::Exp | UnaryOp::Sigmoid | UnaryOp::Softplus, _))) => a,
            (UnaryOp::Sign, Some((UnaryOp::Sign, _))) => a,
            _ => self.push(Node::Unary(op, a)),
        }
    }

    pub fn test(&mut self, op: TestOp, a: Reg) -> Reg {
        let a = self.expect("a test", Type::F32, a);
        match op {
            TestOp::IsInf {
                positive: false,
                negative: false,
            } => self.constant_bool(false),
            _ => self.push(Node::Test(op, a)),
        }
    }

    pub fn not(&mut self, a: Reg) -> Reg {
        let a = self.expect("not", Type::Bool, a);
        match self.nodes[a.index()] {
            Node::Not(b) => b,
            Node::Compare(CompareOp::Equal, x, y) => self.compare(CompareOp::NotEqual, x, y),
            Node::Compare(CompareOp::NotEqual, x, y) => self.compare(CompareOp::Equal, x, y),
            _ => self.push(Node::Not(a)),
        }
    }

    pub fn binary(&mut self, op: BinaryOp, a: Reg, b: Reg) -> Reg {
        let mut a = self.expect("an arithmetic operation", Type::F32, a);
        let mut b = self.expect("an arithmetic operation", Type::F32, b);
        // One order for both spellings, the constant last.
        if op.is_commutative() && (self.const_of(a).is_some(), a) > (self.const_of(b).is_some(), b) {
            (a, b) = (b, a);
        }
        if self.const_of(a).is_none()
            && let Some(c) = self.const_of(b)
            && let Some(simpler) = self.with_constant(op, a, c)
        {
            return simpler;
        }
        if a == b && matches!(op, BinaryOp::Min | BinaryOp::Max) {
            return a;
        }
        match (op, self.nodes[a.index()], self.nodes[b.index()]) {
            (BinaryOp::Add, _, Node::Unary(UnaryOp::Neg, y)) => self.push(Node::Binary(BinaryOp::Sub, a, y)),
            (BinaryOp::Add, Node::Unary(UnaryOp::Neg, x), _) => self.push(Node::Binary(BinaryOp::Sub, b, x)),
            (BinaryOp::Sub, _, Node::Unary(UnaryOp::Neg, y)) => self.add(a, y),
            _ => self.push(Node::Binary(op, a, b)),
        }
    }

    /// `op(a, c)` for a constant `c`, where something cheaper gives the same bits.
    fn with_constant(&mut self, op: BinaryOp, a: Reg, c: f32) -> Option<Reg> {
        let is_negative_zero = c == 0.0 && c.is_sign_negative();
        match op {
            BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow if c == 1.0 => Some(a),
            BinaryOp::Mul | BinaryOp::Div if c == -1.0 => Some(self.neg(a)),
            BinaryOp::Add if is_negative_zero => Some(a),
            BinaryOp::Sub if c == 0.0 && !is_negative_zero => Some(a),
            BinaryOp::Sub => {
                let c = self.constant(-c);
                Some(self.add(a, c))
            }
            // The reciprocal of a power of two is exact, unless it or the constant is subnormal.
            BinaryOp::Div if c.to_bits() & 0x7f_ffff == 0 && c.is_normal() && (1.0 / c).is_normal() => {
                let c = self.constant(1.0 / c);
                Some(self.mul(a, c))
            }
            BinaryOp::Max if c == 0.0 => Some(self.relu(a)),
            BinaryOp::Pow if c == 0.0 => Some(self.constant(1.0)),
            BinaryOp::Pow if c == 2.0 => Some(self.mul(a, a)),
            BinaryOp::Pow if c == 3.0 => {
                let square = self.mul(a, a);
                Some(self.mul(square, a))
            }
            BinaryOp::Pow if c == -1.0 => Some(self.unary(UnaryOp::Reciprocal, a)),
            BinaryOp::Pow if c == 0.5 => {
                // Unlike sqrt, pow(-0, 0.5) is 0 and pow(-inf, 0.5) is inf.
                let (zero, low, high) = (
                    self.constant(0.0),
                    self.constant(f32::NEG_INFINITY),
                    self.constant(f32::INFINITY),
                );
                let positive = self.add(a, zero);
                let root = self.unary(UnaryOp::Sqrt, positive);
                let is_low = self.compare(CompareOp::Equal, a, low);
                Some(self.select(is_low, high, root))
            }
            _ => None,
        }
    }

    /// A comparison of numbers; `Equal` and `NotEqual` also take two Bools.
    pub fn compare(&mut self, op: CompareOp, a: Reg, b: Reg) -> Reg {
        let both_bool = self.is_bool(a) && self.is_bool(b);
        match op {
            CompareOp::NotEqual if both_bool => return self.logic(LogicOp::Xor, a, b),
            CompareOp::Equal if both_bool => {
                let differ = self.logic(LogicOp::Xor, a, b);
                return self.not(differ);
            }
            _ => {}
        }
        let mut a = self.expect("a comparison", Type::F32, a);
        let mut b = self.expect("a comparison", Type::F32, b);
        if matches!(op, CompareOp::Equal | CompareOp::NotEqual) && a > b {
            (a, b) = (b, a);
        }
        self.push(Node::Compare(op, a, b))
    }

    pub fn logic(&mut self, op: LogicOp, a: Reg, b: Reg) -> Reg {
        let a = self.expect("a logical operation", Type::Bool, a);
        let b = self.expect("a logical operation", Type::Bool, b);
        let (a, b) = (a.min(b), a.max(b));
        let constant = match (self.nodes[a.index()], self.nodes[b.index()]) {
            (Node::ConstBool(c), _) => Some((c, b)),
            (_, Node::ConstBool(c)) => Some((c, a)),
            _ => None,
        };
        match (op, constant) {
            (LogicOp::And, Some((true, x))) | (LogicOp::Or | LogicOp::Xor, Some((false, x))) => x,
            (LogicOp::And, Some((false, _))) => self.constant_bool(false),
            (LogicOp::Or, Some((true, _))) => self.constant_bool(true),
            (LogicOp::Xor, Some((true, x))) => self.not(x),
            (LogicOp::And | LogicOp::Or, None) if a == b => a,
            (LogicOp::Xor, None) if a == b => self.constant_bool(false),
            _ => self.push(Node::Logic(op, a, b)),
        }
    }

    /// `if_true` where `condition` holds, else `if_false`: ONNX `Where`.
    pub fn select(&mut self, condition: Reg, if_true: Reg, if_false: Reg) -> Reg {
        let condition = self.expect("select's condition", Type::Bool, condition);
        let if_true = self.known(if_true);
        let ty = type_of(&self.inputs, &self.nodes, if_true);
        let if_false = self.expect("select", ty, if_false);
        match self.nodes[condition.index()] {
            _ if if_true == if_false => if_true,
            Node::ConstBool(true) => if_true,
            Node::ConstBool(false) => if_false,
            Node::Not(inverse) => self.push(Node::Select(inverse, if_false, if_true)),
            _ => self.push(Node::Select(condition, if_true, if_false)),
        }
    }

    /// Converts to a register type: ONNX `Cast` between float and bool.
    pub fn cast(&mut self, a: Reg, to: Type) -> Reg {
        let a = self.known(a);
        let from = type_of(&self.inputs, &self.nodes, a);
        match (from, to, self.nodes[a.index()]) {
            (Type::F32, Type::F32, _) | (Type::Bool, Type::Bool, _) => a,
            (Type::F32, Type::Bool, Node::ToF32(b)) => b,
            (Type::F32, Type::Bool, _) => self.push(Node::ToBool(a)),
            (Type::Bool, Type::F32, _) => self.push(Node::ToF32(a)),
        }
    }

    /// Inlines `expr` with its inputs bound to `args`; returns the registers of its outputs.
    ///
    /// This is what fusion does: inline the producer, then the consumer with the registers just returned. On an
    /// error (kept for [`Builder::finish`]) the result is empty.
    pub fn inline(&mut self, expr: &Expr, args: &[Reg]) -> Vec<Reg> {
        self.inline_from(expr, args, None)
    }

    /// The same with one of the expression's registers given: it is not computed but taken from this builder.
    pub(super) fn inline_from(&mut self, expr: &Expr, args: &[Reg], given: Option<(Reg, Reg)>) -> Vec<Reg> {
        if args.len() != expr.inputs.len() {
            self.fail(ExprError::Arguments {
                expected: expr.inputs.len(),
                found: args.len(),
            });
            return Vec::new();
        }
        let args: Vec<Reg> = args
            .iter()
            .zip(&expr.inputs)
            .map(|(&arg, storage)| self.expect("an input", storage.register(), arg))
            .collect();
        let mut regs: Vec<Reg> = Vec::with_capacity(expr.nodes.len());
        for (index, node) in expr.nodes.iter().enumerate() {
            if let Some((register, value)) = given
                && register.index() == index
            {
                regs.push(value);
                continue;
            }
            let reg = match node.map_operands(|reg| regs[reg.index()]) {
                Node::Input(i) => args[i as usize],
                Node::Unary(op, a) => self.unary(op, a),
                Node::Test(op, a) => self.test(op, a),
                Node::Not(a) => self.not(a),
                Node::Binary(op, a, b) => self.binary(op, a, b),
                Node::Compare(op, a, b) => self.compare(op, a, b),
                Node::Logic(op, a, b) => self.logic(op, a, b),
                Node::Select(c, a, b) => self.select(c, a, b),
                Node::ToBool(a) => self.cast(a, Type::Bool),
                Node::ToF32(a) => self.cast(a, Type::F32),
                constant @ (Node::Const(_) | Node::ConstBool(_)) => self.push(constant),
            };
            regs.push(reg);
        }
        expr.outputs.iter().map(|o| regs[o.reg.index()]).collect()
    }

    /// [`Builder::inline`], and declares the outputs as this expression's own.
    pub fn inline_outputs(&mut self, expr: &Expr, args: &[Reg]) {
        let regs = self.inline(expr, args);
        for (reg, output) in regs.into_iter().zip(&expr.outputs) {
            self.output(reg, output.storage);
        }
    }

    /// The finished expression, without dead nodes; or the first mistake made.
    pub fn finish(self) -> Result<Expr, ExprError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.outputs.is_empty() {
            return Err(ExprError::NoOutput);
        }
        let mut live = vec![false; self.nodes.len()];
        for output in &self.outputs {
            live[output.reg.index()] = true;
        }
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if live[i] {
                node.operands().for_each(|reg| live[reg.index()] = true);
            }
        }
        let mut renamed = vec![Reg(0); self.nodes.len()];
        let mut nodes = Vec::new();
        for (i, node) in self.nodes.iter().enumerate() {
            if live[i] {
                renamed[i] = Reg(nodes.len() as u32);
                nodes.push(node.map_operands(|reg| renamed[reg.index()]));
            }
        }
        let outputs = self
            .outputs
            .iter()
            .map(|o| Output {
                reg: renamed[o.reg.index()],
                storage: o.storage,
            })
            .collect();
        Ok(Expr {
            inputs: self.inputs,
            nodes,
            outputs,
        })
    }

    /// Adds a node unless an equal one exists; folds it when all its operands are constant.
    fn push(&mut self, node: Node) -> Reg {
        let node = self.fold(node);
        if let Some(&reg) = self.seen.get(&node) {
            return reg;
        }
        let reg = Reg(self.nodes.len() as u32);
        self.nodes.push(node);
        self.seen.insert(node, reg);
        reg
    }

    fn fold(&self, node: Node) -> Node {
        let mut operands = node.operands().peekable();
        let constant = |reg: Reg| match self.nodes[reg.index()] {
            Node::Const(bits) => Some(Scalar::F32(f32::from_bits(bits))),
            Node::ConstBool(b) => Some(Scalar::Bool(b)),
            _ => None,
        };
        if operands.peek().is_none() || !operands.all(|reg| constant(reg).is_some()) {
            return node;
        }
        match reference::eval_node(&node, |reg| constant(reg).unwrap_or(Scalar::F32(0.0))) {
            Scalar::F32(value) => Node::constant(value),
            Scalar::Bool(value) => Node::ConstBool(value),
        }
    }

    fn const_of(&self, reg: Reg) -> Option<f32> {
        match self.nodes[reg.index()] {
            Node::Const(bits) => Some(f32::from_bits(bits)),
            _ => None,
        }
    }

    fn is_bool(&self, reg: Reg) -> bool {
        reg.index() < self.nodes.len() && type_of(&self.inputs, &self.nodes, reg) == Type::Bool
    }

    /// `reg` if it exists, else a constant that stands in for it in the failed expression.
    fn known(&mut self, reg: Reg) -> Reg {
        if reg.index() < self.nodes.len() {
            return reg;
        }
        self.fail(ExprError::UnknownRegister { register: reg.0 });
        self.constant(0.0)
    }

    /// `reg` if it has this type, else a constant of the type that stands in for it in the failed expression.
    fn expect(&mut self, operation: &'static str, expected: Type, reg: Reg) -> Reg {
        let reg = self.known(reg);
        let found = type_of(&self.inputs, &self.nodes, reg);
        if found == expected {
            return reg;
        }
        self.fail(ExprError::Type {
            operation,
            expected,
            found,
        });
        match expected {
            Type::F32 => self.constant(0.0),
            Type::Bool => self.constant_bool(false),
        }
    }

    fn fail(&mut self, error: ExprError) {
        self.error.get_or_insert(error);
    }
}

/// Short forms of the common operations.
impl Builder {
    pub fn add(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinaryOp::Add, a, b)
    }

    pub fn sub(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinaryOp::Sub, a, b)
    }

    pub fn mul(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinaryOp::Mul, a, b)
    }

    pub fn div(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinaryOp::Div, a, b)
    }

    pub fn min(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinaryOp::Min, a, b)
    }

    pub fn max(&mut self, a: Reg, b: Reg) -> Reg {
        self.binary(BinaryOp::Max, a, b)
    }

    pub fn neg(&mut self, a: Reg) -> Reg {
        self.unary(UnaryOp::Neg, a)
    }

    pub fn exp(&mut self, a: Reg) -> Reg {
        self.unary(UnaryOp::Exp, a)
    }

    pub fn tanh(&mut self, a: Reg) -> Reg {
        self.unary(UnaryOp::Tanh, a)
    }

    pub fn sigmoid(&mut self, a: Reg) -> Reg {
        self.unary(UnaryOp::Sigmoid, a)
    }

    pub fn relu(&mut self, a: Reg) -> Reg {
        self.unary(UnaryOp::Relu, a)
    }

    pub fn less(&mut self, a: Reg, b: Reg) -> Reg {
        self.compare(CompareOp::Less, a, b)
    }
}
