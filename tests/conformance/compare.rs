//! Whether a value is the expected one: kinds, element types and shapes exactly, numbers of floating-point types within
//! the case's tolerances, everything else exactly.

use modelet::{
    DType, Tensor,
    tensor::{Map, Value},
};

/// How far numbers may be apart: `absolute + relative · |expected|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

impl Tolerance {
    /// Of numbers that are random.
    pub const ANY: Tolerance = Tolerance {
        relative: f64::INFINITY,
        absolute: f64::INFINITY,
    };

    /// At least two units in the last place of a narrow type, as the package's own runner has it.
    fn of(self, dtype: DType) -> Tolerance {
        let least = if dtype == DType::BF16 { 2f64.powi(-6) } else { 0.0 };
        Tolerance {
            relative: self.relative.max(least),
            ..self
        }
    }

    fn accepts(self, actual: f64, expected: f64) -> bool {
        actual == expected
            || (actual.is_nan() && expected.is_nan())
            || (actual - expected).abs() <= self.absolute + self.relative * expected.abs() && expected.is_finite()
    }
}

/// The first difference, in words.
pub fn difference(actual: &Value, expected: &Value, tolerance: Tolerance) -> Option<String> {
    match (actual, expected) {
        (Value::Tensor(actual), Value::Tensor(expected)) => tensors(actual, expected, tolerance),
        (Value::Sequence(actual), Value::Sequence(expected)) => {
            if actual.len() != expected.len() {
                return Some(format!(
                    "a sequence of {}, expected one of {}",
                    actual.len(),
                    expected.len()
                ));
            }
            (actual.iter().zip(expected).enumerate())
                .find_map(|(index, (a, e))| Some(format!("at {index}: {}", difference(a, e, tolerance)?)))
        }
        (Value::Map(actual), Value::Map(expected)) => maps(actual, expected, tolerance),
        (Value::Absent, Value::Absent) => None,
        _ => Some(format!("{}, expected {}", actual.kind(), expected.kind())),
    }
}

fn maps(actual: &Map, expected: &Map, tolerance: Tolerance) -> Option<String> {
    let exact = Tolerance {
        relative: 0.0,
        absolute: 0.0,
    };
    tensors(actual.keys(), expected.keys(), exact)
        .map(|text| format!("keys: {text}"))
        .or_else(|| tensors(actual.values(), expected.values(), tolerance).map(|text| format!("values: {text}")))
}

fn tensors(actual: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Option<String> {
    let dtype = expected.dtype();
    if actual.dtype() != dtype || actual.shape() != expected.shape() {
        return Some(format!("{actual:?}, expected {expected:?}"));
    }
    if tolerance == Tolerance::ANY {
        return None;
    }
    let different = |index: usize, a: &dyn std::fmt::Display, e: &dyn std::fmt::Display, count: usize| {
        Some(format!(
            "element {index} is {a}, expected {e} ({count} of {} differ)",
            expected.len()
        ))
    };
    if let (Ok(a), Ok(e)) = (actual.strings(), expected.strings()) {
        let wrong: Vec<usize> = (0..e.len()).filter(|&i| a[i] != e[i]).collect();
        let &first = wrong.first()?;
        return different(
            first,
            &format!("{:?}", a[first]),
            &format!("{:?}", e[first]),
            wrong.len(),
        );
    }
    if dtype.is_float() {
        let tolerance = tolerance.of(dtype);
        let (a, e) = (actual.to_f64s().ok()?, expected.to_f64s().ok()?);
        let wrong: Vec<usize> = (0..e.len()).filter(|&i| !tolerance.accepts(a[i], e[i])).collect();
        let &first = wrong.first()?;
        return different(first, &a[first], &e[first], wrong.len());
    }
    if actual == expected {
        return None;
    }
    let (Ok(a), Ok(e)) = (actual.to_f64s(), expected.to_f64s()) else {
        return Some(format!("{actual:?}, expected {expected:?}"));
    };
    let wrong: Vec<usize> = (0..e.len()).filter(|&i| a[i] != e[i]).collect();
    match wrong.first() {
        Some(&first) => different(first, &a[first], &e[first], wrong.len()),
        // Numbers beyond 2^53 that round to the same; a bool that is neither 0 nor 1.
        None if dtype == DType::Bool || dtype.bits() < Some(8) => None,
        None => Some(format!("{actual:?}, expected {expected:?}")),
    }
}
