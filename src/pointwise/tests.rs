//! Tests of the IR alone: simplification, composition, printing, collapsing.

use super::reference::{self, Scalar};
use super::*;

fn text(f: impl FnOnce(&mut Builder, Reg) -> Reg) -> String {
    Expr::of_one(f).unwrap().to_string()
}

#[test]
fn simplifies_only_what_keeps_the_bits() {
    assert_eq!(text(|b, x| b.affine(x, 1.0, -0.0)), "x0");
    assert_eq!(text(|b, x| b.affine(x, 1.0, 0.0)), "x0 + 0.0");
    assert_eq!(text(|b, x| b.affine(x, -1.0, -3.0)), "-3.0 - x0");
    let divide = |b: &mut Builder, x, c| {
        let c = b.constant(c);
        b.div(x, c)
    };
    assert_eq!(text(|b, x| divide(b, x, 8.0)), "x0 * 0.125");
    assert_eq!(text(|b, x| divide(b, x, 3.0)), "x0 / 3.0");
    assert_eq!(
        text(|b, x| divide(b, x, f32::MIN_POSITIVE / 4.0)),
        format!("x0 / {:?}", f32::MIN_POSITIVE / 4.0)
    );
    let power = |b: &mut Builder, x, c| {
        let c = b.constant(c);
        b.pow(x, c)
    };
    assert_eq!(text(|b, x| power(b, x, 2.0)), "x0 * x0");
    assert_eq!(text(|b, x| power(b, x, 3.0)), "x0 * (x0 * x0)");
    assert_eq!(text(|b, x| power(b, x, -1.0)), "reciprocal(x0)");
    assert_eq!(text(|b, x| power(b, x, 2.5)), "pow(x0, 2.5)");
}

#[test]
fn pow_by_a_half_keeps_the_edges_of_pow() {
    let expr = Expr::of_one(|b, x| {
        let half = b.constant(0.5);
        b.pow(x, half)
    })
    .unwrap();
    for x in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 2.0, 9.0, -4.0, f32::NAN] {
        let got = reference::eval(&expr, &[Scalar::F32(x)])[0].f32();
        let want = x.powf(0.5);
        assert!(
            got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
            "{x}: {got} for {want}"
        );
    }
}

#[test]
fn folds_constants_and_shares_equal_nodes() {
    let expr = Expr::of_two(|b, x, y| {
        let (two, three) = (b.constant(2.0), b.constant(3.0));
        let six = b.mul(two, three);
        let (left, right) = (b.mul(x, y), b.mul(y, x));
        let sum = b.add(left, right);
        b.mul(six, sum)
    })
    .unwrap();
    assert_eq!(expr.to_string(), "t0 = x0 * x1; (t0 + t0) * 6.0");
    assert_eq!(expr.operation_count(), 3);
}

#[test]
fn prints_with_the_parentheses_that_are_needed() {
    let expr = Expr::of_two(|b, x, y| {
        let difference = b.sub(x, y);
        let (left, right) = (b.sub(x, difference), b.div(y, difference));
        let product = b.mul(left, right);
        let (less, one) = (b.less(x, y), b.constant(1.0));
        b.select(less, product, one)
    })
    .unwrap();
    assert_eq!(expr.to_string(), "t0 = x0 - x1; x0 < x1 ? (x0 - t0) * (x1 / t0) : 1.0");
}

#[test]
fn mistakes_are_reported_by_finish() {
    let mut b = Builder::new();
    let mask = b.input(Storage::Bool);
    let sum = b.add(mask, mask);
    b.output(sum, Storage::F32);
    assert_eq!(
        b.finish().unwrap_err().to_string(),
        "an arithmetic operation takes f32, not bool"
    );
    let mut b = Builder::new();
    b.input(Storage::F32);
    b.relu(Reg(7));
    assert_eq!(b.finish(), Err(ExprError::UnknownRegister { register: 7 }));
    let mut b = Builder::new();
    b.input(Storage::F32);
    assert_eq!(b.finish(), Err(ExprError::NoOutput));
    let mut b = Builder::new();
    b.inline_outputs(&Expr::unary(UnaryOp::Exp), &[]);
    assert_eq!(b.finish(), Err(ExprError::Arguments { expected: 1, found: 0 }));
}

#[test]
fn compose_substitutes_and_merge_joins_inputs() {
    let product = Expr::binary(BinaryOp::Mul);
    let sum = Expr::binary(BinaryOp::Add);
    let fused = sum.compose(1, &product, 0).unwrap();
    assert_eq!(fused.to_string(), "x0 + x1 * x2");
    assert_eq!(fused.merge_inputs(&[0, 1, 0]).unwrap().to_string(), "x0 + x0 * x1");
    assert!(fused.merge_inputs(&[0, 2, 0]).is_err());
    assert!(sum.compose(2, &product, 0).is_err());
    assert!(sum.compose(0, &product, 1).is_err());
    let less = Expr::compare(CompareOp::Less);
    assert_eq!(
        sum.compose(0, &less, 0),
        Err(ExprError::Storage {
            expected: Storage::F32,
            found: Storage::Bool
        })
    );
}

#[test]
fn unused_inputs_can_be_dropped() {
    let mut b = Builder::new();
    let (_, mask, y) = (b.input(Storage::F32), b.input(Storage::Bool), b.input(Storage::F32));
    let zero = b.constant(0.0);
    let z = b.select(mask, y, zero);
    b.output(z, Storage::F32);
    let (expr, kept) = b.finish().unwrap().without_unused_inputs();
    assert_eq!(expr.inputs(), [Storage::Bool, Storage::F32]);
    assert_eq!((expr.to_string().as_str(), kept), ("x0 ? x1 : 0.0", vec![1, 2]));
}

#[test]
fn equal_expressions_built_differently_are_equal() {
    let one = Expr::of_two(|b, x, y| {
        let sum = b.add(x, y);
        b.relu(sum)
    });
    let other = Expr::of_two(|b, x, y| {
        let sum = b.add(y, x);
        let zero = b.constant(0.0);
        b.max(zero, sum)
    });
    assert_eq!(one, other);
}

#[test]
fn erf_meets_known_values() {
    for (x, want) in [
        (0.0, 0.0),
        (0.5, 0.520_499_9),
        (1.0, 0.842_700_8),
        (-2.0, -0.995_322_3),
        (3.5, 0.999_999_3),
    ] {
        let got = reference::erf(x);
        assert!((got - want).abs() <= f32::EPSILON, "erf({x}) = {got}, not {want}");
    }
    assert!(reference::erf(f32::NAN).is_nan());
    assert_eq!(reference::erf(f32::NEG_INFINITY), -1.0);
}

#[test]
fn collapse_joins_what_is_walked_alike() {
    let c = collapse(&[2, 3, 4, 5], &[&[2, 3, 4, 5][..], &[], &[1, 1], &[4, 5]]).unwrap();
    assert_eq!(c.dims, [6, 20]);
    assert_eq!(
        c.inputs,
        [
            Access::Contiguous,
            Access::Scalar,
            Access::Scalar,
            Access::Strided(vec![0, 1])
        ]
    );
    let c = collapse(&[2, 3, 4, 5], &[&[3, 1, 1][..], &[2, 3, 4, 5]]).unwrap();
    assert_eq!(c.dims, [2, 3, 20]);
    assert_eq!(c.inputs, [Access::Strided(vec![0, 1, 0]), Access::Contiguous]);
    let c = collapse(&[1, 7, 1], &[&[7, 1][..]]).unwrap();
    assert_eq!((c.dims, c.inputs), (vec![7], vec![Access::Contiguous]));
    let c = collapse(&[], &[&[][..]]).unwrap();
    assert_eq!((c.dims, c.inputs, c.count), (vec![1], vec![Access::Contiguous], 1));
    let c = collapse(&[3, 0, 2], &[&[2][..]]).unwrap();
    assert_eq!((c.dims, c.count), (vec![0], 0));
}

#[test]
fn collapse_refuses_what_does_not_broadcast() {
    assert!(collapse(&[2, 3], &[&[2][..]]).is_err());
    assert!(collapse(&[3], &[&[1, 3][..]]).is_err());
    assert!(collapse(&[0], &[&[3][..]]).is_err());
    assert!(collapse(&[usize::MAX, 2], &[&[1][..]]).is_err());
}
