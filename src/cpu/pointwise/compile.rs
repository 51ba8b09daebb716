//! From an expression and its access patterns to a list of steps over tiles.
//!
//! Each node is evaluated as rarely as it may be: once per run when it depends on constants and scalars alone, once
//! per row when it depends on inputs that do not change along the innermost dimension, else once per tile. Tile
//! registers are shared by liveness, and a few pairs of operations that always come together run as one step.

use crate::pointwise::{
    Access, BinaryOp, Collapsed, CompareOp, Expr, LogicOp, Node, Output, Reg, Storage, TestOp, UnaryOp,
};
use crate::tensor::map::HashMap;

/// The elements of a full tile: some slots of this size stay in L1 beside the streams that pass through.
pub(super) const TILE: usize = 512;
/// From this row length on, a tile keeps to one row, so that broadcast inputs need no copy. Also the shortest tile.
const MIN_ROW: usize = 64;
/// The f32 that fit the stack; more registers than fit at [`TILE`] make smaller tiles.
pub(super) const STACK_SCRATCH: usize = 4096;

/// How positions are cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Tiles of one length, as nothing depends on where a row ends.
    Flat,
    /// Tiles end where rows of this length do.
    Rows(usize),
    /// Tiles of whole short rows of this length; inputs that are broadcast or strided are copied together.
    Gather(usize),
}

/// Where a step finds an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// A tile register.
    Slot(usize),
    /// The input's own memory, where elements follow each other as positions do.
    Direct(usize),
    /// A copy, made once per run, of an input that repeats with every row: at this place of the run's scratch memory.
    Repeated(usize),
    /// One value per run, at this place of the run's scratch memory.
    RunScalar(usize),
    /// One value per row.
    RowScalar(usize),
}

/// Where a step puts its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dest {
    Slot(usize),
    /// An f32 output's own memory.
    Output(usize),
    RunScalar(usize),
    RowScalar(usize),
}

/// What a step does. Truth values are all-ones or all-zeros lanes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op {
    /// Copies elements of an input.
    Load(usize),
    /// Copies to an output of this storage; the step's destination is not used.
    Store(usize, Storage),
    Unary(UnaryOp),
    Test(TestOp),
    Not,
    Binary(BinaryOp),
    Compare(CompareOp),
    Logic(LogicOp),
    Select,
    ToBool,
    ToF32,
    /// The first operand varies within the tile.
    Two(Two),
    /// `relu(a + b)`.
    AddRelu,
    /// `min(max(a, low), high)` with bounds that are numbers.
    Clamp {
        low: f32,
        high: f32,
    },
    /// `min(max(a * scale + shift, low), high)`: ONNX `HardSigmoid`. Where there is a factor, that times `a` and it: ONNX
    /// `HardSwish`.
    AffineClamp {
        scale: f32,
        shift: f32,
        low: f32,
        high: f32,
        factor: Option<f32>,
    },
    /// `x * (erf(x / √2) + 1) * 0.5`: ONNX `Gelu`.
    Gelu,
    /// `x * (tanh(y) + 1) * 0.5`: ONNX `Gelu` with `approximate = "tanh"`, and others.
    TanhGate,
    /// `x * sigmoid(x)`: ONNX `Swish`, SiLU.
    Swish,
}

/// Two operations on three operands, each rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Two {
    /// `a * b + c`.
    MulAdd,
    /// `(a + b) * c`.
    AddMul,
    /// `(a - b) * c`.
    SubMul,
    /// `(a - b) / c`.
    SubDiv,
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub op: Op,
    pub args: [Operand; 3],
    pub arg_count: usize,
    pub dest: Dest,
}

impl Step {
    fn args_mut(&mut self) -> &mut [Operand] {
        &mut self.args[..self.arg_count]
    }

    pub fn args(&self) -> &[Operand] {
        &self.args[..self.arg_count]
    }
}

/// The steps, and how much memory they work in.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub walk: Walk,
    pub tile: usize,
    pub run_steps: Vec<Step>,
    pub row_steps: Vec<Step>,
    pub tile_steps: Vec<Step>,
    /// Constants and their places among the run's scalars.
    pub constants: Vec<(usize, u32)>,
    pub run_scalars: usize,
    pub row_scalars: usize,
    /// Inputs to repeat, and where in the run's scratch memory.
    pub repeated: Vec<(usize, usize)>,
    pub run_scratch: usize,
    pub slots: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Run,
    Row,
    Tile,
}

pub(super) fn compile(expr: &Expr, space: &Collapsed) -> Compiled {
    let strided =
        (0..expr.inputs().len()).any(|i| expr.reads_input(i) && matches!(space.inputs[i], Access::Strided(_)));
    let inner = space.inner();
    let walk = match (strided, inner >= MIN_ROW) {
        (false, _) => Walk::Flat,
        (true, true) => Walk::Rows(inner),
        (true, false) => Walk::Gather(inner.max(1)),
    };
    let levels = levels(expr, space, walk);
    let fused = fused(expr, &levels);
    let compiler = Compiler {
        expr,
        space,
        walk,
        levels,
        fused,
        places: Vec::new(),
        constants: HashMap::new(),
        out: Compiled {
            walk,
            tile: TILE,
            run_steps: Vec::new(),
            row_steps: Vec::new(),
            tile_steps: Vec::new(),
            constants: Vec::new(),
            run_scalars: 0,
            row_scalars: 0,
            repeated: Vec::new(),
            run_scratch: 0,
            slots: 0,
        },
    };
    compiler.run()
}

/// How often each node must be evaluated.
fn levels(expr: &Expr, space: &Collapsed, walk: Walk) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::with_capacity(expr.nodes().len());
    for node in expr.nodes() {
        let level = match *node {
            Node::Input(i) => match (&space.inputs[i as usize], walk) {
                (Access::Scalar, _) => Level::Run,
                (Access::Strided(_), Walk::Rows(_)) if space.inner_stride(i as usize) == 0 => Level::Row,
                _ => Level::Tile,
            },
            _ => node.operands().map(|r| levels[r.index()]).max().unwrap_or(Level::Run),
        };
        levels.push(level);
    }
    levels
}

/// Several nodes run as one step, in the place of the last of them.
#[derive(Clone)]
struct Fused {
    op: Op,
    args: Vec<Reg>,
    /// The other nodes, which nobody else reads.
    takes: Vec<Reg>,
}

fn fused(expr: &Expr, levels: &[Level]) -> Vec<Option<Fused>> {
    let nodes = expr.nodes();
    let uses = count_uses(expr);
    let mut fused: Vec<Option<Fused>> = vec![None; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        if levels[index] == Level::Tile {
            let found = Finder {
                nodes,
                levels,
                uses: &uses,
                fused: &fused,
            }
            .find(node);
            fused[index] = found;
        }
    }
    fused
}

struct Finder<'a> {
    nodes: &'a [Node],
    levels: &'a [Level],
    uses: &'a [usize],
    fused: &'a [Option<Fused>],
}

impl Finder<'_> {
    fn find(&self, node: &Node) -> Option<Fused> {
        match *node {
            Node::Binary(BinaryOp::Add, a, b) => self.two(a, b, BinaryOp::Add),
            Node::Binary(BinaryOp::Mul, a, b) => self
                .gated(a, b)
                .or_else(|| self.gated(b, a))
                .or_else(|| self.half_gate(a, b))
                .or_else(|| self.scaled(a, Some(1.0), self.number(b)?))
                .or_else(|| self.scaled(b, Some(1.0), self.number(a)?))
                .or_else(|| self.two(a, b, BinaryOp::Mul)),
            Node::Binary(BinaryOp::Div, a, b) => self
                .number(b)
                .and_then(|number| self.scaled(a, Some(1.0), number.recip()))
                .or_else(|| self.two(a, b, BinaryOp::Div)),
            Node::Binary(BinaryOp::Min, a, high) if self.is_free(a) => {
                // relu(x + shift) may be one step already.
                if let Some(Fused {
                    op: Op::AddRelu,
                    args,
                    takes,
                }) = &self.fused[a.index()]
                {
                    let op = Op::AffineClamp {
                        scale: 1.0,
                        shift: self.number(args[1])?,
                        low: 0.0,
                        high: self.number(high)?,
                        factor: None,
                    };
                    let takes = takes.iter().copied().chain([a]).collect();
                    return Some(Fused {
                        op,
                        args: vec![args[0]],
                        takes,
                    });
                }
                let (value, low) = match self.nodes[a.index()] {
                    Node::Binary(BinaryOp::Max, value, low) => (value, self.number(low)?),
                    Node::Unary(UnaryOp::Relu, value) => (value, 0.0),
                    _ => return None,
                };
                if self.fused[a.index()].is_some() {
                    return None;
                }
                Some(self.clamp(a, value, low, self.number(high)?))
            }
            Node::Unary(UnaryOp::Relu, a) if self.is_plain(a) => match self.nodes[a.index()] {
                Node::Binary(BinaryOp::Add, x, y) => Some(Fused {
                    op: Op::AddRelu,
                    args: vec![x, y],
                    takes: vec![a],
                }),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the node only serves the one that reads it.
    fn is_free(&self, reg: Reg) -> bool {
        self.uses[reg.index()] == 1 && self.levels[reg.index()] == Level::Tile
    }

    /// The same, for a node that took no other.
    fn is_plain(&self, reg: Reg) -> bool {
        self.is_free(reg) && self.fused[reg.index()].is_none()
    }

    fn number(&self, reg: Reg) -> Option<f32> {
        match self.nodes[reg.index()] {
            Node::Const(bits) => Some(f32::from_bits(bits)).filter(|c| !c.is_nan()),
            _ => None,
        }
    }

    /// `inner second other`, where one operand is an operation that fits.
    fn two(&self, a: Reg, b: Reg, second: BinaryOp) -> Option<Fused> {
        [(b, a), (a, b)]
            .into_iter()
            .filter(|&(inner, _)| self.is_plain(inner))
            .find_map(|(inner, other)| {
                let Node::Binary(first, x, y) = self.nodes[inner.index()] else {
                    return None;
                };
                let two = match (first, second) {
                    (BinaryOp::Mul, BinaryOp::Add) => Two::MulAdd,
                    (BinaryOp::Add, BinaryOp::Mul) => Two::AddMul,
                    (BinaryOp::Sub, BinaryOp::Mul) => Two::SubMul,
                    (BinaryOp::Sub, BinaryOp::Div) if inner == a => Two::SubDiv,
                    _ => return None,
                };
                let varies = |reg: Reg| self.levels[reg.index()] == Level::Tile;
                // The loop streams the first operand; what commutes can be turned round for that.
                let (x, y) = match two {
                    _ if varies(x) => (x, y),
                    Two::SubMul | Two::SubDiv => return None,
                    Two::MulAdd | Two::AddMul => (y, x),
                };
                Some(Fused {
                    op: Op::Two(two),
                    args: vec![x, y, other],
                    takes: vec![inner],
                })
            })
    }

    /// `min(max(value, low), high)`, `inner` being the max.
    fn clamp(&self, inner: Reg, value: Reg, low: f32, high: f32) -> Fused {
        if self.is_free(value)
            && let Some(Fused {
                op: Op::Two(Two::MulAdd),
                args,
                takes,
            }) = &self.fused[value.index()]
            && let [x, scale, shift] = args[..]
            && let (Some(scale), Some(shift)) = (self.number(scale), self.number(shift))
        {
            let op = Op::AffineClamp {
                scale,
                shift,
                low,
                high,
                factor: None,
            };
            let takes = takes.iter().copied().chain([inner, value]).collect();
            return Fused {
                op,
                args: vec![x],
                takes,
            };
        }
        Fused {
            op: Op::Clamp { low, high },
            args: vec![value],
            takes: vec![inner],
        }
    }

    /// `x * gate`, where the gate is an affine clamp or the sigmoid of `x`.
    fn gated(&self, x: Reg, gate: Reg) -> Option<Fused> {
        if self.is_plain(gate) && self.nodes[gate.index()] == Node::Unary(UnaryOp::Sigmoid, x) {
            return Some(Fused {
                op: Op::Swish,
                args: vec![x],
                takes: vec![gate],
            });
        }
        self.scaled(gate, None, 1.0).filter(|found| found.args == [x])
    }

    /// The affine clamp at `inner`, which has the factor `before`, with `factor` instead.
    fn scaled(&self, inner: Reg, before: Option<f32>, factor: f32) -> Option<Fused> {
        let found = self.fused[inner.index()].as_ref().filter(|_| self.is_free(inner))?;
        let mut found = found.clone();
        match &mut found.op {
            Op::AffineClamp { factor: place, .. } if *place == before => *place = Some(factor),
            _ => return None,
        }
        found.takes.push(inner);
        Some(found)
    }
}

impl Finder<'_> {
    /// The product `a * b` where its factors are x, 0.5 and `tanh(y) + 1` or `erf(x / √2) + 1`, in any order.
    fn half_gate(&self, a: Reg, b: Reg) -> Option<Fused> {
        let (mut factors, mut takes) = (Vec::new(), Vec::new());
        self.factors(a, &mut factors, &mut takes);
        self.factors(b, &mut factors, &mut takes);
        let [x, y, z] = factors[..] else { return None };
        let orders = [[x, y, z], [x, z, y], [y, x, z], [y, z, x], [z, x, y], [z, y, x]];
        orders.into_iter().find_map(|[x, half, gate]| {
            let (op, args, inner) = (self.number(half) == Some(0.5)).then(|| self.gate(gate, x))??;
            takes.extend(inner);
            let takes = std::mem::take(&mut takes);
            Some(Fused { op, args, takes })
        })
    }

    /// The factors of a product whose inner products nobody else reads.
    fn factors(&self, reg: Reg, factors: &mut Vec<Reg>, takes: &mut Vec<Reg>) {
        match self.nodes[reg.index()] {
            Node::Binary(BinaryOp::Mul, a, b) if self.is_free(reg) && factors.len() < 3 => {
                takes.push(reg);
                self.factors(a, factors, takes);
                self.factors(b, factors, takes);
            }
            _ => factors.push(reg),
        }
    }

    /// What `gate` makes of `x` where it is `tanh(y) + 1` or `erf(x / √2) + 1`: the step, its operands, the nodes taken.
    fn gate(&self, gate: Reg, x: Reg) -> Option<(Op, Vec<Reg>, Vec<Reg>)> {
        let free = |reg: Reg| self.is_free(reg).then(|| self.nodes[reg.index()]);
        let is = |reg: Reg, value: f32| self.number(reg).is_some_and(|n| (n / value - 1.0).abs() < 1e-6);
        let Node::Binary(BinaryOp::Add, a, b) = free(gate)? else {
            return None;
        };
        let inner = [(a, b), (b, a)]
            .into_iter()
            .find_map(|(one, inner)| is(one, 1.0).then_some(inner))?;
        match free(inner)? {
            Node::Unary(UnaryOp::Tanh, y) => Some((Op::TanhGate, vec![x, y], vec![gate, inner])),
            Node::Unary(UnaryOp::Erf, scaled) => {
                let fits = match free(scaled)? {
                    Node::Binary(BinaryOp::Div, value, root) => value == x && is(root, std::f32::consts::SQRT_2),
                    Node::Binary(BinaryOp::Mul, a, b) => [(a, b), (b, a)]
                        .into_iter()
                        .any(|(value, root)| value == x && is(root, std::f32::consts::FRAC_1_SQRT_2)),
                    _ => false,
                };
                fits.then(|| (Op::Gelu, vec![x], vec![gate, inner, scaled]))
            }
            _ => None,
        }
    }
}

fn count_uses(expr: &Expr) -> Vec<usize> {
    let mut uses = vec![0; expr.nodes().len()];
    let operands = expr.nodes().iter().flat_map(|n| n.operands());
    for reg in operands.chain(expr.outputs().iter().map(|o| o.reg)) {
        uses[reg.index()] += 1;
    }
    uses
}

struct Compiler<'a> {
    expr: &'a Expr,
    space: &'a Collapsed,
    walk: Walk,
    levels: Vec<Level>,
    fused: Vec<Option<Fused>>,
    /// Where each node's value is. Until [`Compiler::allocate`], a slot is the number of the step that fills it.
    places: Vec<Operand>,
    /// The places of constants by their bits.
    constants: HashMap<u32, usize>,
    out: Compiled,
}

impl Compiler<'_> {
    fn run(mut self) -> Compiled {
        let mut taken = vec![false; self.fused.len()];
        self.fused
            .iter()
            .flatten()
            .flat_map(|f| &f.takes)
            .for_each(|reg| taken[reg.index()] = true);
        for (index, node) in self.expr.nodes().iter().enumerate() {
            let place = match (taken[index], self.fused[index].take()) {
                // Its only reader does the work, and looks at its operands instead of here.
                (true, _) => Operand::Slot(usize::MAX),
                (false, Some(Fused { op, args, .. })) => {
                    let args: Vec<Operand> = args.iter().map(|r| self.places[r.index()]).collect();
                    self.emit(op, &args, Level::Tile)
                }
                (false, None) => self.node(node, self.levels[index]),
            };
            self.places.push(place);
        }
        self.store_outputs();
        self.allocate();
        self.size();
        self.out
    }

    /// Emits the step of one node, if it needs one; returns where its value is.
    fn node(&mut self, node: &Node, level: Level) -> Operand {
        let op = match *node {
            Node::Input(i) => return self.input(i as usize, level),
            Node::Const(bits) => return Operand::RunScalar(self.constant(bits)),
            Node::ConstBool(b) => return Operand::RunScalar(self.constant(if b { u32::MAX } else { 0 })),
            Node::Unary(op, _) => Op::Unary(op),
            Node::Test(op, _) => Op::Test(op),
            Node::Not(_) => Op::Not,
            Node::Binary(op, ..) => Op::Binary(op),
            Node::Compare(op, ..) => Op::Compare(op),
            Node::Logic(op, ..) => Op::Logic(op),
            Node::Select(..) => Op::Select,
            Node::ToBool(_) => Op::ToBool,
            Node::ToF32(_) => Op::ToF32,
        };
        let args: Vec<Operand> = node.operands().map(|r| self.places[r.index()]).collect();
        self.emit(op, &args, level)
    }

    fn constant(&mut self, bits: u32) -> usize {
        if let Some(&place) = self.constants.get(&bits) {
            return place;
        }
        let place = self.out.run_scalars;
        self.out.run_scalars += 1;
        self.out.constants.push((place, bits));
        self.constants.insert(bits, place);
        place
    }

    fn input(&mut self, input: usize, level: Level) -> Operand {
        if level != Level::Tile {
            return self.emit(Op::Load(input), &[], level);
        }
        let is_f32 = self.expr.inputs()[input] == Storage::F32;
        match (&self.space.inputs[input], self.walk) {
            (Access::Contiguous, _) if is_f32 => Operand::Direct(input),
            (Access::Strided(_), Walk::Rows(_)) if is_f32 && self.space.inner_stride(input) == 1 => {
                Operand::Direct(input)
            }
            (Access::Strided(strides), Walk::Gather(_)) if is_repeated(strides) => {
                // The place is settled once the number of scalars is known.
                self.out.repeated.push((input, 0));
                Operand::Repeated(self.out.repeated.len() - 1)
            }
            _ => self.emit(Op::Load(input), &[], Level::Tile),
        }
    }

    fn emit(&mut self, op: Op, args: &[Operand], level: Level) -> Operand {
        let mut step = Step {
            op,
            args: [Operand::Slot(0); 3],
            arg_count: args.len(),
            dest: Dest::Slot(0),
        };
        step.args_mut().copy_from_slice(args);
        match level {
            Level::Run => {
                let place = self.out.run_scalars;
                self.out.run_scalars += 1;
                step.dest = Dest::RunScalar(place);
                self.out.run_steps.push(step);
                Operand::RunScalar(place)
            }
            Level::Row => {
                let place = self.out.row_scalars;
                self.out.row_scalars += 1;
                step.dest = Dest::RowScalar(place);
                self.out.row_steps.push(step);
                Operand::RowScalar(place)
            }
            Level::Tile => {
                let slot = self.out.tile_steps.len();
                step.dest = Dest::Slot(slot);
                self.out.tile_steps.push(step);
                Operand::Slot(slot)
            }
        }
    }

    /// Ends the tile with the stores, or lets the last step write an output itself.
    ///
    /// An output may lie in an input's memory, so no input is read once an output has been written.
    fn store_outputs(&mut self) {
        let outputs: Vec<Output> = self.expr.outputs().to_vec();
        let mut values: Vec<Operand> = outputs.iter().map(|o| self.places[o.reg.index()]).collect();
        if outputs.len() > 1 {
            for (value, output) in values.iter_mut().zip(&outputs) {
                if let (Operand::Direct(input), Level::Tile) = (*value, self.levels[output.reg.index()]) {
                    *value = self.emit(Op::Load(input), &[], Level::Tile);
                }
            }
        }
        let last = self.out.tile_steps.len().wrapping_sub(1);
        for (index, output) in outputs.iter().enumerate() {
            let alone = values.iter().filter(|&&v| v == values[index]).count() == 1;
            if output.storage == Storage::F32 && alone && values[index] == Operand::Slot(last) {
                self.out.tile_steps[last].dest = Dest::Output(index);
            } else {
                let slot = self.out.tile_steps.len();
                let mut step = Step {
                    op: Op::Store(index, output.storage),
                    args: [Operand::Slot(0); 3],
                    arg_count: 1,
                    dest: Dest::Slot(slot),
                };
                step.args[0] = values[index];
                self.out.tile_steps.push(step);
            }
        }
    }

    /// Gives the tile steps real slots: a slot is free again after the last step that reads it, and may take that
    /// very step's result.
    fn allocate(&mut self) {
        let steps = &mut self.out.tile_steps;
        let mut last_read = vec![0; steps.len()];
        for (index, step) in steps.iter().enumerate() {
            for arg in step.args() {
                if let Operand::Slot(slot) = arg {
                    last_read[*slot] = index;
                }
            }
        }
        let mut real = vec![0; steps.len()];
        let mut free: Vec<usize> = Vec::new();
        for index in 0..steps.len() {
            let mut ended: Vec<usize> = Vec::new();
            for arg in steps[index].args_mut() {
                if let Operand::Slot(slot) = arg {
                    if last_read[*slot] == index && !ended.contains(&real[*slot]) {
                        ended.push(real[*slot]);
                    }
                    *slot = real[*slot];
                }
            }
            free.extend(ended);
            if let (Dest::Slot(_), false) = (steps[index].dest, matches!(steps[index].op, Op::Store(..))) {
                real[index] = free.pop().unwrap_or_else(|| {
                    self.out.slots += 1;
                    self.out.slots - 1
                });
                steps[index].dest = Dest::Slot(real[index]);
            }
        }
    }

    /// Settles the tile length and the run's scratch memory.
    fn size(&mut self) {
        let out = &mut self.out;
        let room = STACK_SCRATCH.saturating_sub(out.row_scalars) / out.slots.max(1);
        let most = (room / 16 * 16).clamp(MIN_ROW, TILE);
        out.tile = match out.walk {
            Walk::Flat => most,
            Walk::Rows(len) => {
                // Tiles of like lengths rather than full ones and a short rest.
                let tiles = len.div_ceil(most);
                len.div_ceil(tiles).next_multiple_of(16).min(most)
            }
            Walk::Gather(len) => most / len * len,
        };
        let mut place = out.run_scalars.next_multiple_of(4);
        for (_, at) in &mut out.repeated {
            *at = place;
            place += out.tile;
        }
        out.run_scratch = place;
        let repeated = &out.repeated;
        for step in &mut out.tile_steps {
            for arg in step.args_mut() {
                if let Operand::Repeated(index) = arg {
                    *index = repeated[*index].1;
                }
            }
        }
    }
}

/// Whether an input with these strides reads the same elements in every row.
fn is_repeated(strides: &[usize]) -> bool {
    strides.iter().rev().skip(1).all(|&s| s == 0)
}
