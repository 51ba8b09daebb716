//! Prints expressions the way a reader would write them: `relu(x0 * x1 + 0.5)`.
//!
//! A value used more than once gets a name first: `t0 = sigmoid(x0); x0 * t0`. Several outputs stand in parentheses.

use std::fmt;

use super::{BinaryOp, CompareOp, Expr, LogicOp, Node, Reg, Storage, TestOp, Type};

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::F32 => "f32",
            Type::Bool => "bool",
        })
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.register().fmt(f)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printer = Printer::new(self);
        for (i, node) in self.nodes().iter().enumerate() {
            let (text, binding) = printer.node(node);
            if printer.uses[i] > 1 && node.operands().next().is_some() {
                write!(f, "t{} = {text}; ", printer.names)?;
                printer.text.push((format!("t{}", printer.names), Binding::Atom));
                printer.names += 1;
            } else {
                printer.text.push((text, binding));
            }
        }
        let outputs: Vec<&str> = self
            .outputs()
            .iter()
            .map(|o| printer.text[o.reg.index()].0.as_str())
            .collect();
        match outputs[..] {
            [one] => f.write_str(one),
            _ => write!(f, "({})", outputs.join(", ")),
        }
    }
}

/// How tightly a text's outermost operator binds.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Binding {
    Select,
    Or,
    And,
    Compare,
    Sum,
    Product,
    Prefix,
    Atom,
}

struct Printer {
    uses: Vec<usize>,
    text: Vec<(String, Binding)>,
    names: usize,
}

impl Printer {
    fn new(expr: &Expr) -> Printer {
        let mut uses = vec![0; expr.nodes().len()];
        let operands = expr.nodes().iter().flat_map(|n| n.operands());
        for reg in operands.chain(expr.outputs().iter().map(|o| o.reg)) {
            uses[reg.index()] += 1;
        }
        Printer {
            uses,
            text: Vec::new(),
            names: 0,
        }
    }

    fn node(&self, node: &Node) -> (String, Binding) {
        match *node {
            Node::Input(i) => (format!("x{i}"), Binding::Atom),
            Node::Const(bits) => {
                let value = f32::from_bits(bits);
                let binding = if value.is_sign_negative() {
                    Binding::Prefix
                } else {
                    Binding::Atom
                };
                (format!("{value:?}"), binding)
            }
            Node::ConstBool(b) => (b.to_string(), Binding::Atom),
            Node::Unary(super::UnaryOp::Neg, a) => (format!("-{}", self.at(a, Binding::Atom)), Binding::Prefix),
            Node::Unary(op, a) => self.call(op.name(), &[a]),
            Node::Test(TestOp::IsNan, a) => self.call("is_nan", &[a]),
            Node::Test(TestOp::IsInf { positive, negative }, a) => match (positive, negative) {
                (true, false) => self.call("is_positive_inf", &[a]),
                (false, true) => self.call("is_negative_inf", &[a]),
                _ => self.call("is_inf", &[a]),
            },
            Node::Not(a) => (format!("!{}", self.at(a, Binding::Atom)), Binding::Prefix),
            Node::Binary(op, a, b) => match op {
                BinaryOp::Add => self.infix(a, "+", b, Binding::Sum),
                BinaryOp::Sub => self.infix(a, "-", b, Binding::Sum),
                BinaryOp::Mul => self.infix(a, "*", b, Binding::Product),
                BinaryOp::Div => self.infix(a, "/", b, Binding::Product),
                BinaryOp::Pow => self.call("pow", &[a, b]),
                BinaryOp::Min => self.call("min", &[a, b]),
                BinaryOp::Max => self.call("max", &[a, b]),
                BinaryOp::Fmod => self.call("fmod", &[a, b]),
            },
            Node::Compare(op, a, b) => {
                let sign = match op {
                    CompareOp::Equal => "==",
                    CompareOp::NotEqual => "!=",
                    CompareOp::Less => "<",
                    CompareOp::LessOrEqual => "<=",
                    CompareOp::Greater => ">",
                    CompareOp::GreaterOrEqual => ">=",
                };
                let text = format!("{} {sign} {}", self.at(a, Binding::Sum), self.at(b, Binding::Sum));
                (text, Binding::Compare)
            }
            Node::Logic(LogicOp::And, a, b) => self.infix(a, "&", b, Binding::And),
            Node::Logic(LogicOp::Or, a, b) => self.infix(a, "|", b, Binding::Or),
            Node::Logic(LogicOp::Xor, a, b) => self.call("xor", &[a, b]),
            Node::Select(c, a, b) => {
                let [c, a, b] = [c, a, b].map(|reg| self.at(reg, Binding::Or));
                (format!("{c} ? {a} : {b}"), Binding::Select)
            }
            Node::ToBool(a) => self.call("bool", &[a]),
            Node::ToF32(a) => self.call("f32", &[a]),
        }
    }

    fn call(&self, name: &str, args: &[Reg]) -> (String, Binding) {
        let args: Vec<String> = args.iter().map(|&reg| self.at(reg, Binding::Select)).collect();
        (format!("{name}({})", args.join(", ")), Binding::Atom)
    }

    /// Left associative: the right operand must bind tighter.
    fn infix(&self, a: Reg, sign: &str, b: Reg, binding: Binding) -> (String, Binding) {
        let right = match binding {
            Binding::Sum => Binding::Product,
            Binding::Product => Binding::Prefix,
            Binding::And => Binding::Compare,
            _ => Binding::And,
        };
        (format!("{} {sign} {}", self.at(a, binding), self.at(b, right)), binding)
    }

    /// The text of a register where at least this binding is needed.
    fn at(&self, reg: Reg, needed: Binding) -> String {
        let (text, binding) = &self.text[reg.index()];
        if *binding < needed {
            format!("({text})")
        } else {
            text.clone()
        }
    }
}
