//! Random expressions for the tests of both back ends.

use super::{BinaryOp, Builder, CompareOp, Expr, LogicOp, Reg, Storage, TestOp, Type, UnaryOp};

/// What a random expression may consist of, besides comparisons, logic, choices and casts.
pub(crate) struct Palette<'a> {
    pub unary: &'a [UnaryOp],
    pub binary: &'a [BinaryOp],
    pub constants: &'a [f32],
    /// The most operations.
    pub nodes: usize,
}

/// An expression of 1 to 4 inputs and 1 to 3 outputs. `below` is the source of chance: a number below its argument.
///
/// The sign of a zero that min and max give is not defined, so nothing that depends on it is computed from them.
pub(crate) fn random_expr(palette: &Palette, below: &mut dyn FnMut(usize) -> usize) -> Expr {
    let mut g = Generator {
        palette,
        below,
        builder: Builder::new(),
        numbers: Vec::new(),
        masks: Vec::new(),
    };
    for _ in 0..1 + g.below(4) {
        if g.below(4) == 0 {
            let reg = g.builder.input(Storage::Bool);
            g.masks.push(reg);
        } else {
            let reg = g.builder.input(Storage::F32);
            g.numbers.push((reg, false));
        }
    }
    for _ in 0..g.below(palette.nodes + 1) {
        g.node();
    }
    for _ in 0..1 + g.below(3) {
        if g.masks.is_empty() || g.below(3) > 0 {
            let last = g.numbers.last().copied().filter(|_| g.below(2) == 0);
            let (value, _) = last.unwrap_or_else(|| g.number());
            g.builder.output(value, Storage::F32);
        } else {
            let value = g.mask();
            g.builder.output(value, Storage::Bool);
        }
    }
    g.builder.finish().unwrap()
}

struct Generator<'a> {
    palette: &'a Palette<'a>,
    below: &'a mut dyn FnMut(usize) -> usize,
    builder: Builder,
    /// Numbers, and whether the sign of a zero among them is undefined.
    numbers: Vec<(Reg, bool)>,
    masks: Vec<Reg>,
}

impl Generator<'_> {
    fn below(&mut self, bound: usize) -> usize {
        (self.below)(bound)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn number(&mut self) -> (Reg, bool) {
        if self.numbers.is_empty() || self.below(10) == 0 {
            let value = self.pick(self.palette.constants);
            return (self.builder.constant(value), false);
        }
        let at = self.below(self.numbers.len());
        self.numbers[at]
    }

    fn mask(&mut self) -> Reg {
        if self.masks.is_empty() {
            let value = self.below(2) == 0;
            return self.builder.constant_bool(value);
        }
        let at = self.below(self.masks.len());
        self.masks[at]
    }

    fn node(&mut self) {
        let (a, vague_a) = self.number();
        let (b, vague_b) = self.number();
        match self.below(10) {
            0..=2 => {
                let op = self.pick(self.palette.unary);
                if !(vague_a && op == UnaryOp::Reciprocal) {
                    let reg = self.builder.unary(op, a);
                    self.numbers.push((reg, vague_a || op == UnaryOp::Relu));
                }
            }
            3..=5 => {
                let op = self.pick(self.palette.binary);
                let divides = matches!(op, BinaryOp::Div | BinaryOp::Pow | BinaryOp::Fmod);
                if !(divides && (vague_a || vague_b)) {
                    let vague = vague_a || vague_b || matches!(op, BinaryOp::Min | BinaryOp::Max);
                    let reg = self.builder.binary(op, a, b);
                    self.numbers.push((reg, vague));
                }
            }
            6 => {
                let op = self.pick(&CompareOp::ALL);
                let reg = self.builder.compare(op, a, b);
                self.masks.push(reg);
            }
            7 => {
                let is_inf = |positive, negative| TestOp::IsInf { positive, negative };
                let test = self.pick(&[
                    TestOp::IsNan,
                    is_inf(true, true),
                    is_inf(true, false),
                    is_inf(false, true),
                ]);
                let reg = match self.below(2) {
                    0 => self.builder.test(test, a),
                    _ => self.builder.cast(a, Type::Bool),
                };
                self.masks.push(reg);
            }
            8 => {
                let (p, q) = (self.mask(), self.mask());
                let op = self.pick(&LogicOp::ALL);
                let reg = match self.below(3) {
                    0 => self.builder.not(p),
                    1 => self.builder.select(p, q, p),
                    _ => self.builder.logic(op, p, q),
                };
                self.masks.push(reg);
            }
            _ => {
                let mask = self.mask();
                let number = match self.below(3) {
                    0 => (self.builder.cast(mask, Type::F32), false),
                    _ => (self.builder.select(mask, a, b), vague_a || vague_b),
                };
                self.numbers.push(number);
            }
        }
    }
}
