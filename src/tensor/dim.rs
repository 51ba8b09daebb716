//! Symbolic dimensions: integer polynomials over named symbols and over the divisions, maxima and minima that do not
//! simplify. Symbols stand for positive sizes. Equal polynomials compare equal, which is what lets shape arithmetic
//! cancel before any size is known.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// A dimension: a known size or an expression over symbols.
///
/// ```
/// use modelet::tensor::Dim;
/// let batch = Dim::symbol("batch");
/// let total = batch.clone() * Dim::from(12) * Dim::from(32);
/// assert_eq!(total.floor_div(&(batch * Dim::from(12))), Dim::from(32));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dim(Repr);

/// Values of symbols, by name.
pub type Symbols = BTreeMap<Arc<str>, i64>;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Known(i64),
    /// Never constant: a constant polynomial is `Known`.
    Sum(Arc<Vec<Term>>),
}

/// `coefficient * product(factors)`, factors sorted; terms of a sum are sorted by factors and never repeat them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Term {
    factors: Vec<Atom>,
    coefficient: i64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Atom {
    Symbol(Arc<str>),
    FloorDiv(Dim, Dim),
    Max(Dim, Dim),
    Min(Dim, Dim),
    Mod(Dim, Dim),
}

/// Longer expressions than this stop being useful; they become one opaque symbol named by their text.
const MAX_TERMS: usize = 32;
const MAX_DEPTH: usize = 8;

impl Dim {
    /// The dimension with this name.
    pub fn symbol(name: impl Into<Arc<str>>) -> Dim {
        Dim::atom(Atom::Symbol(name.into()))
    }

    /// The size, when it is known.
    pub fn known(&self) -> Option<i64> {
        match self.0 {
            Repr::Known(value) => Some(value),
            Repr::Sum(_) => None,
        }
    }

    /// The size as an index, when it is known and not negative.
    pub fn size(&self) -> Option<usize> {
        self.known().and_then(|value| usize::try_from(value).ok())
    }

    /// The name, when this is one plain symbol.
    pub fn as_symbol(&self) -> Option<&Arc<str>> {
        match self.as_atom()? {
            Atom::Symbol(name) => Some(name),
            _ => None,
        }
    }

    /// The quotient rounded towards negative infinity. Division by zero stays symbolic.
    pub fn floor_div(&self, divisor: &Dim) -> Dim {
        match (self.known(), divisor.known()) {
            (_, Some(1)) => return self.clone(),
            (Some(a), Some(b)) if b != 0 && !(a == i64::MIN && b == -1) => {
                return Dim::from(a.div_euclid(b) - if b < 0 && a.rem_euclid(b) != 0 { 1 } else { 0 });
            }
            _ => {}
        }
        if let Some(exact) = self.exact_div(divisor) {
            return exact;
        }
        Dim::atom(Atom::FloorDiv(self.clone(), divisor.clone()))
    }

    /// The quotient rounded towards positive infinity.
    pub fn ceil_div(&self, divisor: &Dim) -> Dim {
        -((-self.clone()).floor_div(divisor))
    }

    /// The remainder with the divisor's sign.
    pub fn modulo(&self, divisor: &Dim) -> Dim {
        match (self.known(), divisor.known()) {
            (Some(a), Some(b)) if b != 0 && b != -1 => Dim::from(((a % b) + b) % b),
            _ if self.exact_div(divisor).is_some() => Dim::from(0),
            _ => Dim::atom(Atom::Mod(self.clone(), divisor.clone())),
        }
    }

    /// The larger of two dimensions.
    pub fn maximum(&self, other: &Dim) -> Dim {
        if self.is_at_least(other) {
            return self.clone();
        }
        if other.is_at_least(self) {
            return other.clone();
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        Dim::atom(Atom::Max(a.clone(), b.clone()))
    }

    /// The smaller of two dimensions.
    pub fn minimum(&self, other: &Dim) -> Dim {
        if self.is_at_least(other) {
            return other.clone();
        }
        if other.is_at_least(self) {
            return self.clone();
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        Dim::atom(Atom::Min(a.clone(), b.clone()))
    }

    /// Whether this is surely not smaller than `other`, whatever the symbols' (positive) values are.
    pub fn is_at_least(&self, other: &Dim) -> bool {
        self.dominates(other, MAX_DEPTH / 2)
    }

    /// [`Dim::is_at_least`], looking into so many levels of maxima and minima.
    fn dominates(&self, other: &Dim, levels: usize) -> bool {
        let difference = self.clone() - other.clone();
        if difference.lower_bound().is_some_and(|bound| bound >= 0) {
            return true;
        }
        let Some(levels) = levels.checked_sub(1) else {
            return false;
        };
        let any = |test: &dyn Fn(&Dim) -> bool, [a, b]: [&Dim; 2]| test(a) || test(b);
        match (self.as_atom(), other.as_atom()) {
            (Some(Atom::Max(a, b)), _) if any(&|part| part.dominates(other, levels), [a, b]) => true,
            (_, Some(Atom::Min(a, b))) if any(&|part| self.dominates(part, levels), [a, b]) => true,
            (Some(Atom::Min(a, b)), _) => a.dominates(other, levels) && b.dominates(other, levels),
            (_, Some(Atom::Max(a, b))) => self.dominates(a, levels) && self.dominates(b, levels),
            _ => false,
        }
    }

    /// The one atom that this is.
    fn as_atom(&self) -> Option<&Atom> {
        let Repr::Sum(terms) = &self.0 else { return None };
        match terms.as_slice() {
            [
                Term {
                    factors,
                    coefficient: 1,
                },
            ] => match factors.as_slice() {
                [atom] => Some(atom),
                _ => None,
            },
            _ => None,
        }
    }

    /// A number that this surely does not fall below, given that symbols are at least 1.
    pub fn lower_bound(&self) -> Option<i64> {
        let terms = match &self.0 {
            Repr::Known(value) => return Some(*value),
            Repr::Sum(terms) => terms,
        };
        terms.iter().try_fold(0i64, |sum, term| {
            let lowest = if term.factors.is_empty() {
                term.coefficient
            } else if term.coefficient > 0 {
                let product = term.factors.iter().try_fold(1i64, |product, atom| {
                    let bound = atom.lower_bound().filter(|&bound| bound >= 0)?;
                    product.checked_mul(bound)
                })?;
                term.coefficient.checked_mul(product)?
            } else {
                return None;
            };
            sum.checked_add(lowest)
        })
    }

    /// The product of dimensions.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter()
            .fold(Dim::from(1), |product, dim| product * dim.clone())
    }

    /// The size under the given values of the symbols; `None` when a symbol has no value or a step overflows.
    pub fn evaluate(&self, symbols: &Symbols) -> Option<i64> {
        let terms = match &self.0 {
            Repr::Known(value) => return Some(*value),
            Repr::Sum(terms) => terms,
        };
        terms.iter().try_fold(0i64, |sum, term| {
            let product = term.factors.iter().try_fold(term.coefficient, |product, atom| {
                product.checked_mul(match atom {
                    Atom::Symbol(name) => *symbols.get(name)?,
                    Atom::FloorDiv(a, b) => Dim::from(a.evaluate(symbols)?)
                        .floor_div(&Dim::from(b.evaluate(symbols)?))
                        .known()?,
                    Atom::Mod(a, b) => Dim::from(a.evaluate(symbols)?)
                        .modulo(&Dim::from(b.evaluate(symbols)?))
                        .known()?,
                    Atom::Max(a, b) => a.evaluate(symbols)?.max(b.evaluate(symbols)?),
                    Atom::Min(a, b) => a.evaluate(symbols)?.min(b.evaluate(symbols)?),
                })
            })?;
            sum.checked_add(product)
        })
    }

    fn atom(atom: Atom) -> Dim {
        let dim = Dim(Repr::Sum(Arc::new(vec![Term {
            factors: vec![atom],
            coefficient: 1,
        }])));
        if dim.depth() > MAX_DEPTH { dim.opaque() } else { dim }
    }

    /// One symbol that stands for this expression: equal expressions get equal symbols.
    fn opaque(&self) -> Dim {
        let text = self.to_string();
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in text.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        let name: Arc<str> = format!("?expr_{hash:016x}").into();
        Dim(Repr::Sum(Arc::new(vec![Term {
            factors: vec![Atom::Symbol(name)],
            coefficient: 1,
        }])))
    }

    fn depth(&self) -> usize {
        let Repr::Sum(terms) = &self.0 else { return 0 };
        let atoms = terms.iter().flat_map(|term| &term.factors);
        1 + atoms
            .map(|atom| match atom {
                Atom::Symbol(_) => 0,
                Atom::FloorDiv(a, b) | Atom::Max(a, b) | Atom::Min(a, b) | Atom::Mod(a, b) => a.depth().max(b.depth()),
            })
            .max()
            .unwrap_or(0)
    }

    fn terms(&self) -> Vec<Term> {
        match &self.0 {
            Repr::Known(0) => Vec::new(),
            Repr::Known(value) => vec![Term {
                factors: Vec::new(),
                coefficient: *value,
            }],
            Repr::Sum(terms) => terms.to_vec(),
        }
    }

    /// What `compute` makes of two sizes that are known, unless it overflows.
    fn of_known(a: &Dim, b: &Dim, compute: fn(i64, i64) -> Option<i64>) -> Option<Dim> {
        compute(a.known()?, b.known()?).map(Dim::from)
    }

    fn from_terms(terms: impl IntoIterator<Item = Term>) -> Option<Dim> {
        let mut sum: BTreeMap<Vec<Atom>, i64> = BTreeMap::new();
        for term in terms {
            let coefficient = sum.entry(term.factors).or_insert(0);
            *coefficient = coefficient.checked_add(term.coefficient)?;
        }
        sum.retain(|_, coefficient| *coefficient != 0);
        let dim = match sum.len() {
            0 => Dim::from(0),
            1 if sum.contains_key(&Vec::new()) => Dim::from(*sum.values().next()?),
            count => {
                let terms = sum
                    .into_iter()
                    .map(|(factors, coefficient)| Term { factors, coefficient })
                    .collect();
                let dim = Dim(Repr::Sum(Arc::new(terms)));
                if count > MAX_TERMS { dim.opaque() } else { dim }
            }
        };
        Some(dim)
    }

    /// The quotient when the divisor is one term that divides every term of this sum.
    fn exact_div(&self, divisor: &Dim) -> Option<Dim> {
        if self == divisor && divisor.known() != Some(0) {
            return Some(Dim::from(1));
        }
        let terms = divisor.terms();
        let [by] = terms.as_slice() else {
            // A sum divides what is a multiple of it by one term, which the sums' first terms tell.
            let mut first = self.terms().into_iter().next()?;
            first.divide(terms.first()?)?;
            let quotient = Dim::from_terms([first])?;
            return (quotient.clone() * divisor.clone() == *self).then_some(quotient);
        };
        let quotients = self.terms().into_iter().map(|mut term| {
            term.divide(by)?;
            Some(term)
        });
        Dim::from_terms(quotients.collect::<Option<Vec<_>>>()?)
    }

    /// A dimension that overflowed: unknown, and equal only to the same overflow.
    fn overflow(a: &Dim, operator: &str, b: &Dim) -> Dim {
        Dim::symbol(format!("?overflow({a} {operator} {b})")).opaque()
    }
}

impl Term {
    /// Divides by another term, if it does so without a rest.
    fn divide(&mut self, by: &Term) -> Option<()> {
        if self.coefficient.checked_rem(by.coefficient)? != 0 {
            return None;
        }
        self.coefficient = self.coefficient.checked_div(by.coefficient)?;
        for factor in &by.factors {
            let position = self.factors.iter().position(|own| own == factor)?;
            self.factors.remove(position);
        }
        Some(())
    }
}

impl Atom {
    fn lower_bound(&self) -> Option<i64> {
        match self {
            // Symbols made for unknown values, such as overflows, are no sizes.
            Atom::Symbol(name) => (!name.starts_with("?expr_")).then_some(1),
            Atom::FloorDiv(a, b) => {
                let both = a.lower_bound()? >= 0 && b.lower_bound()? > 0;
                both.then_some(0)
            }
            Atom::Mod(_, b) => (b.lower_bound()? > 0).then_some(0),
            Atom::Max(a, b) => a.lower_bound().max(b.lower_bound()),
            Atom::Min(a, b) => Some(a.lower_bound()?.min(b.lower_bound()?)),
        }
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Dim {
        Dim(Repr::Known(value))
    }
}

impl From<i32> for Dim {
    fn from(value: i32) -> Dim {
        Dim(Repr::Known(value.into()))
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Dim {
        Dim(Repr::Known(i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Add for Dim {
    type Output = Dim;

    fn add(self, other: Dim) -> Dim {
        // Nearly all sizes are known.
        if let Some(sum) = Dim::of_known(&self, &other, i64::checked_add) {
            return sum;
        }
        Dim::from_terms(self.terms().into_iter().chain(other.terms()))
            .unwrap_or_else(|| Dim::overflow(&self, "+", &other))
    }
}

impl std::ops::Neg for Dim {
    type Output = Dim;

    fn neg(self) -> Dim {
        self * Dim::from(-1)
    }
}

impl std::ops::Sub for Dim {
    type Output = Dim;

    fn sub(self, other: Dim) -> Dim {
        self + -other
    }
}

impl std::ops::Mul for Dim {
    type Output = Dim;

    fn mul(self, other: Dim) -> Dim {
        if let Some(product) = Dim::of_known(&self, &other, i64::checked_mul) {
            return product;
        }
        let (a, b) = (self.terms(), other.terms());
        if a.len() * b.len() > MAX_TERMS * 4 {
            return Dim::overflow(&self, "*", &other);
        }
        let products = a.iter().flat_map(|x| {
            b.iter().map(move |y| {
                let mut factors: Vec<Atom> = x.factors.iter().chain(&y.factors).cloned().collect();
                factors.sort_unstable();
                Some(Term {
                    factors,
                    coefficient: x.coefficient.checked_mul(y.coefficient)?,
                })
            })
        });
        products
            .collect::<Option<Vec<_>>>()
            .and_then(Dim::from_terms)
            .unwrap_or_else(|| Dim::overflow(&self, "*", &other))
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = match &self.0 {
            Repr::Known(value) => return write!(f, "{value}"),
            Repr::Sum(terms) => terms,
        };
        for (index, term) in terms.iter().rev().enumerate() {
            let sign = match (index, term.coefficient < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            };
            f.write_str(sign)?;
            let magnitude = term.coefficient.unsigned_abs();
            if magnitude != 1 || term.factors.is_empty() {
                write!(f, "{magnitude}{}", if term.factors.is_empty() { "" } else { "*" })?;
            }
            for (index, atom) in term.factors.iter().enumerate() {
                if index > 0 {
                    f.write_str("*")?;
                }
                match atom {
                    Atom::Symbol(name) => f.write_str(name)?,
                    Atom::FloorDiv(a, b) => write!(f, "floor(({a})/({b}))")?,
                    Atom::Max(a, b) => write!(f, "max({a}, {b})")?,
                    Atom::Min(a, b) => write!(f, "min({a}, {b})")?,
                    Atom::Mod(a, b) => write!(f, "mod({a}, {b})")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(value: i64) -> Dim {
        Dim::from(value)
    }

    #[test]
    fn equal_expressions_compare_equal_however_they_were_built() {
        let (a, b) = (Dim::symbol("a"), Dim::symbol("b"));
        assert_eq!((a.clone() + b.clone()) * n(2), b.clone() + a.clone() * n(2) + b.clone());
        assert_eq!(a.clone() - a.clone(), n(0));
        assert_eq!(a.maximum(&(a.clone() + n(1))), a.clone() + n(1));
        assert_eq!(a.maximum(&b), b.maximum(&a));
        assert_eq!((a.clone() * n(2) + n(4)).floor_div(&n(2)), a.clone() + n(2));
        assert_eq!((a.clone() * b.clone() * n(6)).modulo(&(a.clone() * n(3))), n(0));
        let sum = a.clone() * b.clone() + a.clone() * n(3);
        assert_eq!((sum.clone() * n(8)).floor_div(&(sum.clone() * n(2))), n(4));
        assert_eq!((sum.clone() * b.clone()).floor_div(&sum), b);
        assert_eq!((sum.clone() + n(1)).floor_div(&sum).known(), None);
    }

    #[test]
    fn evaluation_agrees_with_integer_arithmetic() {
        let mut seed = 7u64;
        let mut random = |bound: i64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 33) as i64) % bound
        };
        for _ in 0..2000 {
            let (x, y) = (1 + random(9), 1 + random(9));
            let symbols = Symbols::from([("x".into(), x), ("y".into(), y)]);
            let mut exprs = vec![(Dim::symbol("x"), x), (Dim::symbol("y"), y), (n(3), 3), (n(-2), -2)];
            for _ in 0..6 {
                let (a, av) = exprs[random(exprs.len() as i64) as usize].clone();
                let (b, bv) = exprs[random(exprs.len() as i64) as usize].clone();
                exprs.push(match random(6) {
                    0 => (a + b, av + bv),
                    1 => (a - b, av - bv),
                    2 if av.abs() < 1000 && bv.abs() < 1000 => (a * b, av * bv),
                    3 if bv > 0 => (a.floor_div(&b), av.div_euclid(bv)),
                    4 => (a.maximum(&b), av.max(bv)),
                    5 if bv > 0 => (a.ceil_div(&b), -((-av).div_euclid(bv))),
                    _ => (a.minimum(&b), av.min(bv)),
                });
            }
            for (expr, value) in exprs {
                assert_eq!(expr.evaluate(&symbols), Some(value), "{expr} with x={x} y={y}");
            }
        }
    }

    #[test]
    fn bounds_follow_from_symbols_being_positive() {
        let (a, b) = (Dim::symbol("a"), Dim::symbol("b"));
        assert_eq!((a.clone() * b.clone() + n(2)).lower_bound(), Some(3));
        assert_eq!((a.clone() - b.clone()).lower_bound(), None);
        assert_eq!(a.floor_div(&n(2)).lower_bound(), Some(0));
        assert_eq!((a.clone() - n(1)).maximum(&n(0)), a.clone() - n(1));
        assert_eq!(a.minimum(&(a.clone() + b.clone())), a);
        assert!(!(a.clone() - n(2)).is_at_least(&n(0)));
        // A slice of at most 512, broadcast with what it was cut from.
        let part = a.minimum(&n(512));
        assert_eq!(a.maximum(&part), a);
        assert_eq!(a.maximum(&b).maximum(&part), a.maximum(&b));
        assert_eq!(a.minimum(&b).minimum(&b.maximum(&n(7))), a.minimum(&b));
        assert!(!part.is_at_least(&a));
    }

    #[test]
    fn floor_division_of_known_values_rounds_down() {
        for (a, b, quotient) in [(7, 2, 3), (-7, 2, -4), (7, -2, -4), (-7, -2, 3), (6, -2, -3)] {
            assert_eq!(n(a).floor_div(&n(b)), n(quotient), "{a}/{b}");
        }
        assert_eq!(n(1).floor_div(&n(0)).known(), None);
    }

    #[test]
    fn overflow_is_unknown_not_wrong() {
        assert_eq!((n(i64::MAX) * n(2)).known(), None);
        assert_eq!(
            (Dim::symbol("a") * n(i64::MAX) * n(2)).evaluate(&Symbols::from([("a".into(), 1)])),
            None
        );
    }
}
