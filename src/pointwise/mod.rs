//! The expression IR that all element-wise work is written in.
//!
//! An [`Expr`] says how one element of each output follows from one element of each input; shapes and broadcasting
//! live beside it, in [`access`]. Element-wise operators are small expressions, fusion substitutes one into another
//! ([`Builder::inline`], [`Expr::compose`]), and the heavy kernels (Gemm, Conv, reductions) take one as their epilogue.
//! The back ends are `cpu::pointwise` (tiles) and `gpu::pointwise` (WGSL); [`mod@reference`] defines the meaning.

pub mod access;
mod activations;
mod builder;
mod display;
mod op;
pub mod reference;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use access::{Access, Collapsed, ShapeError, collapse};
pub use builder::{Builder, ExprError};
pub use op::{BinaryOp, CompareOp, LogicOp, TestOp, UnaryOp};

/// The type a register has while an expression is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    F32,
    /// A truth value; `cpu` holds it as an all-ones or all-zeros lane, `gpu` as WGSL `bool`.
    Bool,
}

/// How an element lies in memory outside the expression.
///
/// Each storage type is read as, and written from, one register type ([`Storage::register`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    F32,
    /// On the CPU one byte per element, where every byte but zero reads as true and true is written as one;
    /// on the GPU one `u32` per element, by the same rule.
    Bool,
}

impl Storage {
    /// The register type that a load of this storage yields and a store to it takes.
    pub fn register(self) -> Type {
        match self {
            Storage::F32 => Type::F32,
            Storage::Bool => Type::Bool,
        }
    }
}

/// A register: the result of one node, by its index in [`Expr::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub(crate) u32);

impl Reg {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One instruction. Operands are always registers of earlier nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// The element of an input at the current position; at most one node per input.
    Input(u32),
    /// An f32 constant, by its bits so that expressions compare and hash.
    Const(u32),
    ConstBool(bool),
    /// F32 → F32.
    Unary(UnaryOp, Reg),
    /// F32 → Bool.
    Test(TestOp, Reg),
    /// Bool → Bool (ONNX `Not`).
    Not(Reg),
    /// F32, F32 → F32.
    Binary(BinaryOp, Reg, Reg),
    /// F32, F32 → Bool.
    Compare(CompareOp, Reg, Reg),
    /// Bool, Bool → Bool.
    Logic(LogicOp, Reg, Reg),
    /// Condition (Bool), value if true, value if false; the values share one type (ONNX `Where`).
    Select(Reg, Reg, Reg),
    /// F32 → Bool: false for ±0, true for everything else, NaN included (ONNX `Cast`).
    ToBool(Reg),
    /// Bool → F32: 1.0 or 0.0 (ONNX `Cast`).
    ToF32(Reg),
}

impl Node {
    /// An f32 constant.
    pub fn constant(value: f32) -> Node {
        Node::Const(value.to_bits())
    }

    /// The registers that this node reads, in order.
    pub fn operands(&self) -> Operands {
        let (regs, len) = match *self {
            Node::Input(_) | Node::Const(_) | Node::ConstBool(_) => ([Reg(0); 3], 0),
            Node::Unary(_, a) | Node::Test(_, a) | Node::Not(a) | Node::ToBool(a) | Node::ToF32(a) => {
                ([a, Reg(0), Reg(0)], 1)
            }
            Node::Binary(_, a, b) | Node::Compare(_, a, b) | Node::Logic(_, a, b) => ([a, b, Reg(0)], 2),
            Node::Select(c, a, b) => ([c, a, b], 3),
        };
        Operands { regs, next: 0, len }
    }

    /// The same node with each operand replaced.
    fn map_operands(&self, mut map: impl FnMut(Reg) -> Reg) -> Node {
        match *self {
            Node::Input(_) | Node::Const(_) | Node::ConstBool(_) => *self,
            Node::Unary(op, a) => Node::Unary(op, map(a)),
            Node::Test(op, a) => Node::Test(op, map(a)),
            Node::Not(a) => Node::Not(map(a)),
            Node::ToBool(a) => Node::ToBool(map(a)),
            Node::ToF32(a) => Node::ToF32(map(a)),
            Node::Binary(op, a, b) => Node::Binary(op, map(a), map(b)),
            Node::Compare(op, a, b) => Node::Compare(op, map(a), map(b)),
            Node::Logic(op, a, b) => Node::Logic(op, map(a), map(b)),
            Node::Select(c, a, b) => Node::Select(map(c), map(a), map(b)),
        }
    }
}

/// Iterator over the operands of a [`Node`].
#[derive(Clone, Debug)]
pub struct Operands {
    regs: [Reg; 3],
    next: usize,
    len: usize,
}

impl Iterator for Operands {
    type Item = Reg;

    fn next(&mut self) -> Option<Reg> {
        let reg = (self.next < self.len).then(|| self.regs[self.next]);
        self.next += 1;
        reg
    }
}

/// One output of an expression: the register stored, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Output {
    pub reg: Reg,
    pub storage: Storage,
}

/// An element-wise function of some inputs, in SSA form.
///
/// Well typed and free of dead nodes: only a [`Builder`] makes one. Equality and hash are structural, which is what
/// pipeline caches key on. Inputs keep their number and order even when no node reads them
/// ([`Expr::without_unused_inputs`] drops those).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expr {
    inputs: Vec<Storage>,
    nodes: Vec<Node>,
    outputs: Vec<Output>,
}

impl Expr {
    pub fn inputs(&self) -> &[Storage] {
        &self.inputs
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes with their registers.
    pub fn registers(&self) -> impl Iterator<Item = (Reg, &Node)> {
        (0..).map(Reg).zip(&self.nodes)
    }

    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The register type that a node yields.
    pub fn type_of(&self, reg: Reg) -> Type {
        type_of(&self.inputs, &self.nodes, reg)
    }

    /// How many operations it performs per element: loads and constants do not count.
    pub fn operation_count(&self) -> usize {
        self.nodes
            .iter()
            .filter(|n| !matches!(n, Node::Input(_) | Node::Const(_) | Node::ConstBool(_)))
            .count()
    }

    /// Whether any node reads this input.
    pub fn reads_input(&self, input: usize) -> bool {
        self.nodes
            .iter()
            .any(|n| matches!(n, Node::Input(i) if *i as usize == input))
    }

    /// For an expression with one F32 input and output that is the input itself.
    pub fn is_identity(&self) -> bool {
        self.inputs.len() == 1
            && matches!(self.outputs[..], [Output { reg, storage }]
                if self.nodes[reg.index()] == Node::Input(0) && storage == self.inputs[0])
    }

    /// `x0`, stored as it came.
    pub fn identity(storage: Storage) -> Expr {
        Expr {
            inputs: vec![storage],
            nodes: vec![Node::Input(0)],
            outputs: vec![Output { reg: Reg(0), storage }],
        }
    }

    /// `op(x0)` on f32.
    pub fn unary(op: UnaryOp) -> Expr {
        Expr::from_parts(&[Storage::F32], Node::Unary(op, Reg(0)), Storage::F32)
    }

    /// `op(x0, x1)` on f32.
    pub fn binary(op: BinaryOp) -> Expr {
        Expr::from_parts(&[Storage::F32; 2], Node::Binary(op, Reg(0), Reg(1)), Storage::F32)
    }

    /// `op(x0, x1)` on f32, with a Bool result.
    pub fn compare(op: CompareOp) -> Expr {
        Expr::from_parts(&[Storage::F32; 2], Node::Compare(op, Reg(0), Reg(1)), Storage::Bool)
    }

    /// `op(x0, x1)` on Bool.
    pub fn logic(op: LogicOp) -> Expr {
        Expr::from_parts(&[Storage::Bool; 2], Node::Logic(op, Reg(0), Reg(1)), Storage::Bool)
    }

    /// An expression of the inputs and one node over them; the callers above keep it well typed.
    fn from_parts(inputs: &[Storage], node: Node, output: Storage) -> Expr {
        let mut nodes: Vec<Node> = (0..inputs.len() as u32).map(Node::Input).collect();
        nodes.push(node);
        let reg = Reg(nodes.len() as u32 - 1);
        Expr {
            inputs: inputs.to_vec(),
            nodes,
            outputs: vec![Output { reg, storage: output }],
        }
    }

    /// Substitutes an output of `producer` for input `input` of `self`.
    ///
    /// The result's inputs are those of `self` without `input`, then those of `producer`. Its outputs are those of
    /// `self`. Where both read one tensor, follow with [`Expr::merge_inputs`].
    pub fn compose(&self, input: usize, producer: &Expr, output: usize) -> Result<Expr, ExprError> {
        if input >= self.inputs.len() {
            return Err(ExprError::UnknownInput {
                input,
                inputs: self.inputs.len(),
            });
        }
        let Some(produced) = producer.outputs.get(output) else {
            return Err(ExprError::UnknownOutput {
                output,
                outputs: producer.outputs.len(),
            });
        };
        if produced.storage != self.inputs[input] {
            return Err(ExprError::Storage {
                expected: self.inputs[input],
                found: produced.storage,
            });
        }
        let mut b = Builder::new();
        let mut args = Vec::with_capacity(self.inputs.len());
        for (i, &storage) in self.inputs.iter().enumerate() {
            args.push(if i == input { None } else { Some(b.input(storage)) });
        }
        let producer_args: Vec<Reg> = producer.inputs.iter().map(|&s| b.input(s)).collect();
        let produced = b.inline(producer, &producer_args);
        // An inline that failed has poisoned the builder, so that `finish` reports it; the register is never used.
        let value = produced.get(output).copied().unwrap_or(Reg(0));
        let args: Vec<Reg> = args.into_iter().map(|reg| reg.unwrap_or(value)).collect();
        b.inline_outputs(self, &args);
        b.finish()
    }

    /// What is left of the expression once register `reg` has been computed elsewhere: input `input`, which must be of
    /// `reg`'s type, is then the value of `reg`.
    pub fn continued_from(&self, reg: Reg, input: usize) -> Result<Expr, ExprError> {
        let mut b = Builder::new();
        let args: Vec<Reg> = self.inputs.iter().map(|&storage| b.input(storage)).collect();
        let Some(&value) = args.get(input) else {
            let inputs = args.len();
            return Err(ExprError::UnknownInput { input, inputs });
        };
        let regs = b.inline_from(self, &args, Some((reg, value)));
        for (reg, output) in regs.into_iter().zip(&self.outputs) {
            b.output(reg, output.storage);
        }
        b.finish()
    }

    /// Renumbers inputs: old input `i` becomes `map[i]`, and inputs given the same number become one.
    ///
    /// Every number from 0 to the largest in `map` must be used, and inputs that become one must agree in storage.
    pub fn merge_inputs(&self, map: &[usize]) -> Result<Expr, ExprError> {
        if map.len() != self.inputs.len() {
            return Err(ExprError::Arguments {
                expected: self.inputs.len(),
                found: map.len(),
            });
        }
        let count = map.iter().max().map_or(0, |&m| m + 1);
        if count > map.len() {
            return Err(ExprError::UnknownInput {
                input: count - 1,
                inputs: map.len(),
            });
        }
        let mut storages: Vec<Option<Storage>> = vec![None; count];
        for (&to, &storage) in map.iter().zip(&self.inputs) {
            match storages[to] {
                Some(other) if other != storage => {
                    return Err(ExprError::Storage {
                        expected: other,
                        found: storage,
                    });
                }
                _ => storages[to] = Some(storage),
            }
        }
        let mut b = Builder::new();
        for (input, storage) in storages.into_iter().enumerate() {
            let Some(storage) = storage else {
                return Err(ExprError::UnknownInput { input, inputs: count });
            };
            b.input(storage);
        }
        let args: Vec<Reg> = map.iter().map(|&to| Reg(to as u32)).collect();
        b.inline_outputs(self, &args);
        b.finish()
    }

    /// Drops the inputs that no node reads; also returns the old number of each input that stays.
    pub fn without_unused_inputs(&self) -> (Expr, Vec<usize>) {
        let kept: Vec<usize> = (0..self.inputs.len()).filter(|&i| self.reads_input(i)).collect();
        let nodes = self
            .nodes
            .iter()
            .map(|node| match node {
                // Every input that a node reads is in `kept`, in order: the search cannot miss.
                Node::Input(i) => Node::Input(kept.partition_point(|&k| k < *i as usize) as u32),
                other => *other,
            })
            .collect();
        let inputs = kept.iter().map(|&i| self.inputs[i]).collect();
        (
            Expr {
                inputs,
                nodes,
                outputs: self.outputs.clone(),
            },
            kept,
        )
    }
}

fn type_of(inputs: &[Storage], nodes: &[Node], mut reg: Reg) -> Type {
    loop {
        return match nodes[reg.index()] {
            Node::Input(i) => inputs[i as usize].register(),
            Node::Const(_) | Node::Unary(..) | Node::Binary(..) | Node::ToF32(_) => Type::F32,
            Node::ConstBool(_)
            | Node::Test(..)
            | Node::Not(_)
            | Node::Compare(..)
            | Node::Logic(..)
            | Node::ToBool(_) => Type::Bool,
            // As either of the values, however many choices they come from.
            Node::Select(_, a, _) => {
                reg = a;
                continue;
            }
        };
    }
}
