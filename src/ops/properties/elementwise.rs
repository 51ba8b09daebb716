//! Element-wise operators over every type and any broadcast, and conversions between every two types.

use super::*;
use half::{bf16, f16};

/// What is left of a sum, product or the like in a type: integers wrap, floats round.
fn kept(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F64 => value,
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        _ => {
            let bits = dtype.bits().unwrap_or(64) as u32;
            let whole = value as i128;
            let wrapped = whole & ((1i128 << bits) - 1);
            match !dtype.is_unsigned() && wrapped >> (bits - 1) == 1 {
                true => (wrapped - (1i128 << bits)) as f64,
                false => wrapped as f64,
            }
        }
    }
}

fn close(dtype: DType, actual: &[f64], expected: &[f64], what: &str) {
    let tolerance = match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-6,
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 0.0,
    };
    assert_eq!(actual.len(), expected.len(), "{what} {dtype}");
    for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
        let equal = a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= tolerance * e.abs().max(1.0);
        assert!(equal, "{what} of {dtype}: element {index} is {a}, expected {e}");
    }
}

/// Values of 64 bits without a sign, which `to_i64s` gives by their bits, are small here.
fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_f64s().unwrap()
}

#[test]
fn arithmetic_of_two_broadcast_tensors() {
    type Function = fn(f64, f64) -> f64;
    const FUNCTIONS: [(&str, Function); 6] = [
        ("Add", |a, b| a + b),
        ("Sub", |a, b| a - b),
        ("Mul", |a, b| a * b),
        ("Div", |a, b| a / b),
        ("Min", f64::min),
        ("Max", f64::max),
    ];
    cases(|rng| {
        for (name, function) in FUNCTIONS {
            let dtype = pick(rng, &NUMBERS);
            let to = shape(rng, 0, 4);
            let sides = [broadcastable(rng, &to), broadcastable(rng, &to)];
            let [a, b] = sides.map(|side| numbers(rng, dtype, &side));
            let b = match name {
                // No division by zero, which integers do not have.
                "Div" => {
                    let one = |value: f64| if value == 0.0 { 1.0 } else { value };
                    let list: Vec<f64> = values(&b).into_iter().map(one).collect();
                    from(dtype, b.shape(), &list)
                }
                _ => b,
            };
            let to = crate::tensor::broadcast_shapes(&[a.shape(), b.shape()]).unwrap();
            let (x, y) = (values(&a), values(&b));
            let expected: Vec<f64> = indices(&to)
                .map(|index| function(x[flat(a.shape(), &index)], y[flat(b.shape(), &index)]))
                .map(|value| {
                    if dtype.is_float() {
                        kept(dtype, value)
                    } else {
                        kept(dtype, value.trunc())
                    }
                })
                .collect();
            let result = TestNode::new(name, 14).input(a).input(b).run1().unwrap();
            assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]), "{name}");
            close(dtype, &values(&result), &expected, name);
        }
    });
}

fn from(dtype: DType, shape: &[usize], list: &[f64]) -> Tensor {
    if dtype.is_float() {
        return Tensor::from_f64s(dtype, shape, list).unwrap();
    }
    let whole: Vec<i64> = list.iter().map(|&value| value as i64).collect();
    Tensor::from_i64s(dtype, shape, &whole).unwrap()
}

#[test]
fn remainders_powers_and_shifts() {
    cases(|rng| {
        let to = shape(rng, 0, 3);
        let sides = [broadcastable(rng, &to), broadcastable(rng, &to)];
        let to = crate::tensor::broadcast_shapes(&sides).unwrap();
        let dtype = pick(rng, &NUMBERS);
        let fmod = dtype.is_float() || rng.bool();
        let a = numbers(rng, dtype, &sides[0]);
        let nonzero: Vec<f64> = values(&numbers(rng, dtype, &sides[1]))
            .into_iter()
            .map(|value| if value == 0.0 { 2.0 } else { value })
            .collect();
        let b = from(dtype, &sides[1], &nonzero);
        let (x, y) = (values(&a), values(&b));
        let remainder = |x: f64, y: f64| {
            let rest = x % y;
            if fmod || rest == 0.0 || (rest < 0.0) == (y < 0.0) {
                rest
            } else {
                rest + y
            }
        };
        let expected: Vec<f64> = indices(&to)
            .map(|index| remainder(x[flat(&sides[0], &index)], y[flat(&sides[1], &index)]))
            .collect();
        let node = TestNode::new("Mod", 13).attr("fmod", i64::from(fmod));
        close(
            dtype,
            &values(&node.input(a).input(b).run1().unwrap()),
            &expected,
            "Mod",
        );

        let dtype = pick(rng, &[DType::F32, DType::F64, DType::I32, DType::I64]);
        let a = numbers(rng, dtype, &sides[0]);
        let exponents: Vec<f64> = (0..sides[1].iter().product::<usize>())
            .map(|_| rng.size(0, 4) as f64)
            .collect();
        let other = pick(rng, &[DType::F32, DType::I64, DType::I32, dtype]);
        let b = from(other, &sides[1], &exponents);
        let x = values(&a);
        let expected: Vec<f64> = indices(&to)
            .map(|index| {
                kept(
                    dtype,
                    x[flat(&sides[0], &index)].powf(exponents[flat(&sides[1], &index)]),
                )
            })
            .collect();
        let node = any_input(rng, TestNode::new("Pow", 15).input(a), b);
        close(dtype, &values(&node.run1().unwrap()), &expected, "Pow");

        let dtype = pick(rng, &[DType::U8, DType::U16, DType::U32, DType::U64]);
        let (a, b) = (numbers(rng, dtype, &sides[0]), numbers(rng, dtype, &sides[1]));
        let (x, y) = (a.to_i64s().unwrap(), b.to_i64s().unwrap());
        let left = rng.bool();
        let bits = dtype.bits().unwrap() as u32;
        let shifted = |x: i64, y: i64| match (left, y as u32 >= bits) {
            (_, true) => 0.0,
            (true, _) => kept(dtype, (x << y) as f64),
            _ => (x >> y) as f64,
        };
        let expected: Vec<f64> = indices(&to)
            .map(|index| shifted(x[flat(&sides[0], &index)], y[flat(&sides[1], &index)]))
            .collect();
        let node = TestNode::new("BitShift", 11).attr("direction", if left { "LEFT" } else { "RIGHT" });
        close(
            dtype,
            &values(&node.input(a).input(b).run1().unwrap()),
            &expected,
            "BitShift",
        );
    });
}

#[test]
fn comparisons_and_logic() {
    cases(|rng| {
        let to = shape(rng, 0, 3);
        let sides = [broadcastable(rng, &to), broadcastable(rng, &to)];
        let to = crate::tensor::broadcast_shapes(&sides).unwrap();
        type Function = fn(f64, f64) -> bool;
        const COMPARISONS: [(&str, Function); 5] = [
            ("Equal", |a, b| a == b),
            ("Less", |a, b| a < b),
            ("Greater", |a, b| a > b),
            ("LessOrEqual", |a, b| a <= b),
            ("GreaterOrEqual", |a, b| a >= b),
        ];
        let mut check = |name: &str, dtype: DType, result: DType, function: &dyn Fn(f64, f64) -> f64| {
            let (a, b) = (numbers(rng, dtype, &sides[0]), numbers(rng, dtype, &sides[1]));
            let (x, y) = (values(&a), values(&b));
            let expected: Vec<f64> = indices(&to)
                .map(|index| function(x[flat(&sides[0], &index)], y[flat(&sides[1], &index)]))
                .collect();
            let actual = TestNode::new(name, 19).input(a).input(b).run1().unwrap();
            assert_eq!((actual.dtype(), actual.shape()), (result, &to[..]), "{name}");
            close(dtype, &values(&actual), &expected, name);
        };
        for dtype in NUMBERS {
            for (name, function) in COMPARISONS {
                check(name, dtype, DType::Bool, &|a, b| f64::from(u8::from(function(a, b))));
            }
        }
        check("And", DType::Bool, DType::Bool, &|a, b| a * b);
        check("Or", DType::Bool, DType::Bool, &f64::max);
        check("Xor", DType::Bool, DType::Bool, &|a, b| (a - b).abs());
        check("Equal", DType::Bool, DType::Bool, &|a, b| f64::from(u8::from(a == b)));
        for dtype in NUMBERS.into_iter().filter(|dtype| dtype.is_integer()) {
            check("BitwiseAnd", dtype, dtype, &|a, b| (a as i64 & b as i64) as f64);
            check("BitwiseOr", dtype, dtype, &|a, b| (a as i64 | b as i64) as f64);
            check("BitwiseXor", dtype, dtype, &|a, b| (a as i64 ^ b as i64) as f64);
        }
    });
}

#[test]
fn functions_of_one_tensor_in_every_float_type() {
    type Function = fn(f64) -> f64;
    const FUNCTIONS: [(&str, i64, Function); 20] = [
        ("Abs", 13, f64::abs),
        ("Neg", 13, |x| -x),
        ("Floor", 13, f64::floor),
        ("Ceil", 13, f64::ceil),
        ("Round", 11, f64::round_ties_even),
        ("Sqrt", 13, f64::sqrt),
        ("Exp", 13, f64::exp),
        ("Log", 13, f64::ln),
        ("Sin", 22, f64::sin),
        ("Cos", 22, f64::cos),
        ("Tan", 22, f64::tan),
        ("Atan", 22, f64::atan),
        ("Sinh", 22, f64::sinh),
        ("Cosh", 22, f64::cosh),
        ("Tanh", 13, f64::tanh),
        ("Sigmoid", 13, |x| 1.0 / (1.0 + (-x).exp())),
        ("Relu", 14, |x| x.max(0.0)),
        ("Softplus", 22, |x| x.exp().ln_1p()),
        ("Softsign", 22, |x| x / (1.0 + x.abs())),
        ("Reciprocal", 13, |x| 1.0 / x),
    ];
    cases(|rng| {
        for (name, version, function) in FUNCTIONS {
            let dtype = pick(rng, &NUMBERS[..4]);
            let x = {
                let dims = shape(rng, 0, 3);
                numbers(rng, dtype, &dims)
            };
            let expected: Vec<f64> = values(&x).into_iter().map(|x| kept(dtype, function(x))).collect();
            let result = TestNode::new(name, version).input(x.clone()).run1().unwrap();
            assert_eq!((result.dtype(), result.shape()), (dtype, x.shape()), "{name}");
            let lenient = if dtype == DType::F32 { DType::F16 } else { dtype };
            let (actual, result_type) = (values(&result), if name == "Tan" { lenient } else { dtype });
            close(result_type, &actual, &expected, name);
        }
        let dtype = pick(rng, &NUMBERS);
        let x = {
            let dims = shape(rng, 0, 3);
            numbers(rng, dtype, &dims)
        };
        let sign: Vec<f64> = values(&x)
            .iter()
            .map(|&x| if x == 0.0 { 0.0 } else { x.signum() })
            .collect();
        let node = TestNode::new("Sign", 13).input(x.clone());
        close(dtype, &values(&node.run1().unwrap()), &sign, "Sign");

        let bounds = [numbers(rng, dtype, &[]), numbers(rng, dtype, &[])];
        let [low, high] = bounds.clone().map(|bound| values(&bound)[0]);
        let given = [rng.bool(), rng.bool()];
        let clip = |x: f64| {
            let x = if given[0] { x.max(low) } else { x };
            if given[1] { x.min(high) } else { x }
        };
        let expected: Vec<f64> = values(&x).into_iter().map(clip).collect();
        let mut node = TestNode::new("Clip", 13).input(x);
        for (bound, given) in bounds.into_iter().zip(given) {
            node = if given {
                any_input(rng, node, bound)
            } else {
                node.no_input()
            };
        }
        close(dtype, &values(&node.run1().unwrap()), &expected, "Clip");
    });
}

#[test]
fn casts_between_every_two_types() {
    cases(|rng| {
        for from in NUMBERS.into_iter().chain([DType::Bool]) {
            let to = pick(rng, &NUMBERS);
            let x = {
                let dims = shape(rng, 0, 3);
                numbers(rng, from, &dims)
            };
            let cast = |x: f64| {
                let signless = to.is_unsigned() && from.is_float() && x < 0.0;
                if to.is_float() || signless {
                    x
                } else {
                    kept(to, x.trunc())
                }
            };
            // What a negative float becomes without a sign is not defined.
            let expected: Vec<f64> = values(&x).into_iter().map(cast).collect();
            let result = TestNode::new("Cast", 19)
                .attr("to", to.to_onnx())
                .input(x.clone())
                .run1()
                .unwrap();
            assert_eq!((result.dtype(), result.shape()), (to, x.shape()));
            let pairs = values(&result).into_iter().zip(expected);
            let (actual, expected): (Vec<f64>, Vec<f64>) =
                pairs.filter(|(_, e)| !(to.is_unsigned() && *e < 0.0)).unzip();
            close(to, &actual, &expected, from.name());
        }
    });
}
