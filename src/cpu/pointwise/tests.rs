//! Compares the tiles with the reference on random expressions and shapes.

use super::*;
use crate::cpu::epilogue::RowProgram;
use crate::cpu::testing::Rng;
use crate::pointwise::reference::{self, Elements, Scalar};
use crate::pointwise::testing::{Palette, random_expr};
use crate::pointwise::{BinaryOp, Builder, Reg, UnaryOp};

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.size(0, from.len() - 1)]
}

/// A random expression of the operations that tiles and reference compute alike, to the bit.
fn expression(rng: &mut Rng) -> Expr {
    let approximate = [
        UnaryOp::Exp,
        UnaryOp::Log,
        UnaryOp::Sin,
        UnaryOp::Cos,
        UnaryOp::Tanh,
        UnaryOp::Erf,
        UnaryOp::Sigmoid,
        UnaryOp::Softplus,
    ];
    let unary: Vec<UnaryOp> = UnaryOp::ALL
        .into_iter()
        .filter(|op| !approximate.contains(op))
        .collect();
    let constants = [0.0, 1.0, -1.0, 0.5, 2.0, 3.5, f32::INFINITY, f32::NAN];
    let palette = Palette {
        unary: &unary,
        binary: &BinaryOp::ALL,
        constants: &constants,
        nodes: 24,
    };
    random_expr(&palette, &mut |bound| rng.size(0, bound - 1))
}

fn shape(rng: &mut Rng) -> Vec<usize> {
    loop {
        let rank = rng.size(0, 5);
        let dims: Vec<usize> = (0..rank)
            .map(|_| pick(rng, &[0, 1, 1, 2, 3, 4, 7, 17, 63, 64, 65, 130, 700]))
            .collect();
        // Zero-sized now and then, not half of the time.
        if dims.iter().map(|&dim| dim as u64).product::<u64>() <= 9000 && (!dims.contains(&0) || rng.size(0, 9) == 0) {
            return dims;
        }
    }
}

fn broadcast_to(rng: &mut Rng, output: &[usize]) -> Vec<usize> {
    match rng.size(0, 5) {
        0..=1 => output.to_vec(),
        2 => vec![1; rng.size(0, output.len())],
        _ => {
            let skip = rng.size(0, output.len());
            output[skip..]
                .iter()
                .map(|&d| if rng.size(0, 2) == 0 { 1 } else { d })
                .collect()
        }
    }
}

fn elements(rng: &mut Rng, storage: Storage, len: usize) -> Elements {
    match storage {
        Storage::F32 => Elements::F32(
            (0..len)
                .map(|_| match rng.size(0, 30) {
                    0 => pick(
                        rng,
                        &[0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, f32::MAX],
                    ),
                    1..=5 => rng.size(0, 6) as f32 - 3.0,
                    _ => rng.f32() * 8.0,
                })
                .collect(),
        ),
        Storage::Bool => Elements::Bool((0..len).map(|_| pick(rng, &[0, 0, 1, 2, 255])).collect()),
    }
}

fn slice(elements: &Elements) -> InputSlice<'_> {
    match elements {
        Elements::F32(v) => InputSlice::F32(v),
        Elements::Bool(v) => InputSlice::Bool(v),
    }
}

fn output_slices(outputs: &mut [Elements]) -> Vec<OutputSlice<'_>> {
    outputs
        .iter_mut()
        .map(|o| match o {
            Elements::F32(v) => OutputSlice::f32(v),
            Elements::Bool(v) => OutputSlice::bool(v),
        })
        .collect()
}

fn blank(expr: &Expr, len: usize) -> Vec<Elements> {
    let blank = |storage| match storage {
        Storage::F32 => Elements::F32(vec![-77.0; len]),
        Storage::Bool => Elements::Bool(vec![77; len]),
    };
    expr.outputs().iter().map(|o| blank(o.storage)).collect()
}

#[track_caller]
fn assert_same(actual: &[Elements], expected: &[Elements], what: &str) {
    for (output, pair) in actual.iter().zip(expected).enumerate() {
        match pair {
            (Elements::F32(a), Elements::F32(e)) => {
                assert_eq!(a.len(), e.len());
                for (i, (a, e)) in a.iter().zip(e).enumerate() {
                    let same = a == e || (a.is_nan() && e.is_nan());
                    assert!(same, "{what}: output {output} differs first at {i}: {a} instead of {e}");
                }
            }
            (Elements::Bool(a), Elements::Bool(e)) => {
                let first = a.iter().zip(e).position(|(a, e)| a != e);
                assert!(
                    first.is_none() && a.len() == e.len(),
                    "{what}: output {output} differs first at {first:?}"
                );
            }
            _ => panic!("{what}: output {output} is of another storage"),
        }
    }
}

struct Case {
    expr: Expr,
    output: Vec<usize>,
    inputs: Vec<(Vec<usize>, Elements)>,
    plan: PointwisePlan,
    expected: Vec<Elements>,
    what: String,
}

fn case(rng: &mut Rng) -> Case {
    let expr = expression(rng);
    let output = shape(rng);
    let inputs: Vec<(Vec<usize>, Elements)> = expr
        .inputs()
        .iter()
        .map(|&storage| {
            let shape = broadcast_to(rng, &output);
            let len = shape.iter().product();
            (shape, elements(rng, storage, len))
        })
        .collect();
    let shapes: Vec<&Vec<usize>> = inputs.iter().map(|(shape, _)| shape).collect();
    let what = format!("{expr} over {output:?} from {shapes:?}");
    let plan = PointwisePlan::new(&expr, &output, &shapes).unwrap();
    let expected = reference::eval_tensors(&expr, &output, &inputs);
    Case {
        expr,
        output,
        inputs,
        plan,
        expected,
        what,
    }
}

#[test]
fn random_expressions_match_the_reference() {
    let mut rng = Rng::new(11);
    let threads = Threads::eager(3);
    for _ in 0..1500 {
        let case = case(&mut rng);
        let inputs: Vec<InputSlice> = case.inputs.iter().map(|(_, e)| slice(e)).collect();
        let mut actual = blank(&case.expr, case.plan.count());
        let mut scratch = vec![f32::NAN; case.plan.scratch_len()];
        case.plan
            .run(&inputs, &mut output_slices(&mut actual), &mut scratch, &threads);
        assert_same(&actual, &case.expected, &case.what);
    }
}

#[test]
fn ranges_add_up_to_the_whole() {
    let mut rng = Rng::new(12);
    for _ in 0..600 {
        let case = case(&mut rng);
        let inputs: Vec<InputSlice> = case.inputs.iter().map(|(_, e)| slice(e)).collect();
        let mut scratch = vec![f32::NAN; case.plan.scratch_len()];
        let bound = case.plan.bind(&inputs, &mut scratch);
        let mut actual = blank(&case.expr, case.plan.count());
        let mut start = 0;
        while start < case.plan.count() {
            let end = (start + rng.size(1, case.plan.count())).min(case.plan.count());
            let mut parts: Vec<OutputSlice> = actual
                .iter_mut()
                .map(|o| match o {
                    Elements::F32(v) => OutputSlice::f32(&mut v[start..end]),
                    Elements::Bool(v) => OutputSlice::bool(&mut v[start..end]),
                })
                .collect();
            bound.run_range(start, &mut parts);
            start = end;
        }
        assert_same(&actual, &case.expected, &case.what);
    }
}

#[test]
fn an_output_may_lie_in_an_input() {
    let mut rng = Rng::new(13);
    let mut tried = 0;
    while tried < 500 {
        let case = case(&mut rng);
        // An input of the output's own shape and storage, for one of the outputs.
        let pair = case.inputs.iter().enumerate().find_map(|(i, (shape, _))| {
            let output = case
                .expr
                .outputs()
                .iter()
                .position(|o| o.storage == case.expr.inputs()[i])?;
            (*shape == case.output).then_some((i, output))
        });
        let Some((input, output)) = pair else { continue };
        tried += 1;
        let mut inputs: Vec<InputSlice> = case.inputs.iter().map(|(_, e)| slice(e)).collect();
        inputs[input] = InputSlice::Output(output);
        let mut actual = blank(&case.expr, case.plan.count());
        actual[output] = case.inputs[input].1.clone();
        let mut scratch = vec![f32::NAN; case.plan.scratch_len()];
        case.plan
            .run(&inputs, &mut output_slices(&mut actual), &mut scratch, &Threads::SINGLE);
        assert_same(&actual, &case.expected, &case.what);
    }
}

#[test]
fn functions_stay_close_to_the_reference_everywhere() {
    let mut rng = Rng::new(14);
    let mut x: Vec<f32> = (0..4001)
        .map(|_| rng.f32() * pick(&mut rng, &[1e-3, 1.0, 10.0, 100.0]))
        .collect();
    x.extend([
        0.0,
        -0.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e-40,
        f32::MAX,
        f32::MIN_POSITIVE,
        88.9,
        -104.5,
    ]);
    for op in UnaryOp::ALL {
        let expr = Expr::unary(op);
        let plan = PointwisePlan::new(&expr, &[x.len()], &[&[x.len()][..]]).unwrap();
        let mut y = vec![0.0; x.len()];
        plan.run(
            &[InputSlice::F32(&x)],
            &mut [OutputSlice::f32(&mut y)],
            &mut vec![0.0; plan.scratch_len()],
            &Threads::SINGLE,
        );
        for (x, y) in x.iter().zip(&y) {
            let want = reference::unary(op, *x);
            let close = (y - want).abs() <= 1e-6 * want.abs() + 2e-7;
            assert!(
                close || *y == want || (y.is_nan() && want.is_nan()),
                "{}({x}) = {y}, not {want}",
                op.name()
            );
        }
    }
}

#[test]
fn more_registers_than_the_stack_holds_still_compute() {
    // Every product stays alive until the sums at the end.
    let expr = Expr::of_two(|b, x, y| {
        let terms: Vec<Reg> = (0..120)
            .map(|i| {
                let scaled = b.scale(x, 0.5 + i as f32);
                b.max(scaled, y)
            })
            .collect();
        let sum = terms[1..].iter().fold(terms[0], |sum, &t| b.sub(t, sum));
        terms.iter().fold(sum, |sum, &t| b.sub(sum, t))
    })
    .unwrap();
    let (x, y): (Vec<f32>, Vec<f32>) = (0..1000).map(|i| (i as f32 * 0.25, 100.0 - i as f32)).unzip();
    let plan = PointwisePlan::new(&expr, &[1000], &[&[1000][..], &[1000]]).unwrap();
    assert!(plan.compiled.slots * plan.compiled.tile > STACK_SCRATCH);
    let mut z = vec![0.0; 1000];
    let inputs = [InputSlice::F32(&x), InputSlice::F32(&y)];
    plan.run(
        &inputs,
        &mut [OutputSlice::f32(&mut z)],
        &mut vec![0.0; plan.scratch_len()],
        &Threads::SINGLE,
    );
    for i in 0..1000 {
        let want = reference::eval(&expr, &[Scalar::F32(x[i]), Scalar::F32(y[i])])[0].f32();
        assert_eq!(z[i], want, "at {i}");
    }
}

#[test]
fn rows_see_their_place_in_the_output() {
    // relu(value + bias[channel]) + residual, as a convolution's epilogue over [2, 3, 5, 7].
    let mut b = Builder::new();
    let [value, bias, residual] = [0; 3].map(|_| b.input(Storage::F32));
    let sum = b.add(value, bias);
    let relu = b.relu(sum);
    let y = b.add(relu, residual);
    b.output(y, Storage::F32);
    let expr = b.finish().unwrap();
    let mut rng = Rng::new(15);
    let (bias, residual, mut values) = (rng.vec(3), rng.vec(210), rng.vec(210));
    let plan = PointwisePlan::new(&expr, &[2, 3, 5, 7], &[&[2, 3, 5, 7][..], &[3, 1, 1], &[2, 3, 5, 7]]).unwrap();
    let inputs = [
        InputSlice::Output(0),
        InputSlice::F32(&bias),
        InputSlice::F32(&residual),
    ];
    let mut scratch = vec![0.0; plan.scratch_len()];
    let rows = plan.bind(&inputs, &mut scratch).rows(35);
    let before = values.clone();
    for row in 0..6 {
        let row_values = &mut values[row * 35..][..35];
        rows.apply(row, 0, &mut row_values[..20]);
        rows.apply(row, 20, &mut row_values[20..]);
    }
    for i in 0..210 {
        let want = (before[i] + bias[i / 35 % 3]).max(0.0) + residual[i];
        assert_eq!(values[i], want, "at {i}");
    }
}

#[test]
fn common_chains_take_few_steps() {
    let steps = |expr: &Expr, shapes: &[&[usize]]| {
        let plan = PointwisePlan::new(expr, &[4, 100], shapes).unwrap();
        (plan.compiled.tile_steps.len(), plan.compiled.slots)
    };
    let bias_relu = Expr::of_two(|b, x, bias| {
        let sum = b.add(x, bias);
        b.relu(sum)
    });
    assert_eq!(steps(&bias_relu.unwrap(), &[&[4, 100], &[100]]), (1, 0));
    let hard_swish = Expr::of_one(|b, x| b.hard_swish(x)).unwrap();
    assert_eq!(steps(&hard_swish, &[&[4, 100]]), (1, 0));
    // The reciprocal root of each row's variance is taken once per row.
    let mut b = Builder::new();
    let [x, mean, variance] = [0; 3].map(|_| b.input(Storage::F32));
    let centred = b.sub(x, mean);
    let shifted = b.affine(variance, 1.0, 1e-5);
    let root = b.unary(UnaryOp::Sqrt, shifted);
    let y = b.div(centred, root);
    b.output(y, Storage::F32);
    assert_eq!(steps(&b.finish().unwrap(), &[&[4, 100], &[4, 1], &[4, 1]]), (1, 0));
}

/// Gates in the forms that exporters write: how many steps they take, and that they compute what the form says.
#[test]
fn gates_take_few_steps() {
    type Form = fn(&mut Builder, Reg) -> Reg;
    type Exact = fn(f64) -> f64;
    fn relu6(b: &mut Builder, x: Reg) -> Reg {
        let (three, six) = (b.constant(3.0), b.constant(6.0));
        let sum = b.add(x, three);
        let relu = b.relu(sum);
        b.min(relu, six)
    }
    let hard_swish: Exact = |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0;
    let forms: [(usize, Form, Exact); 6] = [
        (1, |b, x| b.swish(x, 1.0), |x| x / (1.0 + (-x).exp())),
        (1, relu6, |x| (x + 3.0).clamp(0.0, 6.0)),
        (
            1,
            |b, x| {
                let (gate, six) = (relu6(b, x), b.constant(6.0));
                let product = b.mul(x, gate);
                b.div(product, six)
            },
            hard_swish,
        ),
        (
            1,
            |b, x| {
                let gate = relu6(b, x);
                let product = b.mul(gate, x);
                b.scale(product, 1.0 / 6.0)
            },
            hard_swish,
        ),
        (
            2,
            |b, x| {
                let gate = relu6(b, x);
                let product = b.mul(gate, x);
                b.mul(product, product)
            },
            |x| (x * (x + 3.0).clamp(0.0, 6.0)).powi(2),
        ),
        (
            5,
            |b, x| b.gelu_tanh(x),
            |x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        ),
    ];
    let inputs: Vec<f32> = (0..203).map(|i| i as f32 * 0.1 - 10.0).collect();
    for (form, (steps, make, exact)) in forms.into_iter().enumerate() {
        let expr = Expr::of_one(make).unwrap();
        let plan = PointwisePlan::new(&expr, &[203], &[[203]]).unwrap();
        assert!(
            plan.compiled.tile_steps.len() <= steps,
            "{expr}: {:?}",
            plan.compiled.tile_steps
        );
        let mut output = vec![0.0; 203];
        let mut scratch = vec![0.0; plan.scratch_len()];
        let outputs = &mut [OutputSlice::f32(&mut output)];
        plan.run(&[InputSlice::F32(&inputs)], outputs, &mut scratch, &Threads::SINGLE);
        for (&x, &y) in inputs.iter().zip(&output) {
            let expected = exact(f64::from(x));
            let error = (f64::from(y) - expected).abs();
            assert!(
                error <= 5e-7 * (1.0 + expected.abs()),
                "form {form}: {y} for {x}, not {expected}"
            );
        }
    }
}

/// GELU as exporters write it, in every order of its factors and operands, becomes one step that agrees with the chain.
#[test]
fn gelu_chains_become_one_step() {
    type Product = fn(&mut Builder, [Reg; 3]) -> Reg;
    let products: [Product; 3] = [
        |b, [x, y, z]| {
            let first = b.mul(x, y);
            b.mul(first, z)
        },
        |b, [x, y, z]| {
            let last = b.mul(y, z);
            b.mul(x, last)
        },
        |b, [x, y, z]| {
            let first = b.mul(z, x);
            b.mul(y, first)
        },
    ];
    let inputs: Vec<f32> = (0..201).map(|i| i as f32 * 0.1 - 10.0).collect();
    for (case, product) in (0..24).map(|case| (case, products[case % 3])) {
        let expr = Expr::of_one(|b, x| {
            let scaled = if case / 3 % 2 == 0 {
                let root = b.constant(std::f32::consts::SQRT_2);
                b.div(x, root)
            } else {
                b.scale(x, std::f32::consts::FRAC_1_SQRT_2)
            };
            let erf = b.unary(UnaryOp::Erf, scaled);
            let (one, half) = (b.constant(1.0), b.constant(0.5));
            let gate = if case / 6 % 2 == 0 {
                b.add(erf, one)
            } else {
                b.add(one, erf)
            };
            product(
                b,
                if case / 12 == 0 {
                    [x, gate, half]
                } else {
                    [half, gate, x]
                },
            )
        });
        let expr = expr.unwrap();
        let plan = PointwisePlan::new(&expr, &[201], &[[201]]).unwrap();
        assert_eq!(plan.compiled.tile_steps.len(), 1, "case {case}: {expr}");
        let mut output = vec![0.0; 201];
        let mut scratch = vec![0.0; plan.scratch_len()];
        plan.run(
            &[InputSlice::F32(&inputs)],
            &mut [OutputSlice::f32(&mut output)],
            &mut scratch,
            &Threads::SINGLE,
        );
        for (&x, &y) in inputs.iter().zip(&output) {
            let erf = reference::unary(UnaryOp::Erf, x / std::f32::consts::SQRT_2);
            let expected = x * (erf + 1.0) * 0.5;
            assert!(
                (y - expected).abs() <= 1e-6 * (1.0 + x.abs()),
                "case {case}: {y} for {x}, not {expected}"
            );
        }
    }
}

/// What only looks like GELU stays as it is.
#[test]
fn other_chains_are_not_gelu() {
    use std::f32::consts::SQRT_2;
    for (half, root, shared) in [(0.25, SQRT_2, false), (0.5, 1.5, false), (0.5, SQRT_2, true)] {
        let mut b = Builder::new();
        let x = b.input(Storage::F32);
        let root = b.constant(root);
        let scaled = b.div(x, root);
        let erf = b.unary(UnaryOp::Erf, scaled);
        let (one, half) = (b.constant(1.0), b.constant(half));
        let gate = b.add(erf, one);
        let product = b.mul(x, gate);
        let y = b.mul(product, half);
        b.output(y, Storage::F32);
        if shared {
            b.output(erf, Storage::F32);
        }
        let expr = b.finish().unwrap();
        let plan = PointwisePlan::new(&expr, &[7], &[[7]]).unwrap();
        assert!(
            plan.compiled.tile_steps.iter().all(|step| step.op != Op::Gelu),
            "{expr}"
        );
    }
}
