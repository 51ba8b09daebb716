//! Validates printed kernels, holds some against snapshots, and runs them against the reference.

use super::super::kernel::{AdapterKind, GpuType};
use super::super::testing::{self, Data, Random};
use super::*;
use crate::pointwise::Builder;
use crate::pointwise::reference::{self, Elements};
use crate::pointwise::testing::{Palette, random_expr};

fn caps() -> GpuCaps {
    GpuCaps::webgpu_default(AdapterKind::Hardware)
}

/// The kernel of `expr` over inputs of these shapes, bound by position.
fn kernel_of(expr: &Expr, output: &[usize], shapes: &[Vec<usize>]) -> GpuKernel {
    let inputs: Vec<Operand> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| Operand {
            binding: Binding::Input(i),
            shape,
        })
        .collect();
    let outputs: Vec<Binding> = (0..expr.outputs().len()).map(Binding::Output).collect();
    kernel(expr, output, &inputs, &outputs, &caps()).unwrap()
}

fn gpu_type(storage: Storage) -> GpuType {
    match storage {
        Storage::F32 => GpuType::F32,
        Storage::Bool => GpuType::Bool,
    }
}

fn data(elements: &Elements) -> Data {
    match elements {
        Elements::F32(values) => Data::F32(values.clone()),
        Elements::Bool(values) => Data::Bool(values.iter().map(|&byte| byte != 0).collect()),
    }
}

fn chain() -> Expr {
    let mut b = Builder::new();
    let [x, scale, bias, mask] = [Storage::F32, Storage::F32, Storage::F32, Storage::Bool].map(|s| b.input(s));
    let scaled = b.mul(x, scale);
    let shifted = b.add(scaled, bias);
    let gelu = b.gelu(shifted);
    let low = b.constant(f32::NEG_INFINITY);
    let masked = b.select(mask, gelu, low);
    let finite = b.test(
        TestOp::IsInf {
            positive: false,
            negative: true,
        },
        masked,
    );
    b.output(masked, Storage::F32);
    b.output(finite, Storage::Bool);
    b.finish().unwrap()
}

#[test]
fn texts_are_as_reviewed() {
    let shapes = [vec![2, 8, 6, 10], vec![8, 1, 1], vec![1], vec![6, 10]];
    testing::assert_snapshot("pointwise_four", &kernel_of(&chain(), &[2, 8, 6, 10], &shapes));
    let shapes = [vec![2, 3, 5], vec![3, 1], vec![2, 1, 1], vec![5]];
    testing::assert_snapshot("pointwise_one", &kernel_of(&chain(), &[2, 3, 5], &shapes));
}

#[test]
fn equal_broadcasts_share_a_text_whatever_their_sizes() {
    let text = |n, m| {
        let shapes = [vec![n, 8, m], vec![8, 1], vec![1], vec![m]];
        let kernel = kernel_of(&chain(), &[n, 8, m], &shapes);
        (
            kernel.dispatches[0].shader.wgsl.clone(),
            kernel.dispatches[0].params.clone(),
        )
    };
    let (one, other) = (text(2, 60), text(7, 512));
    assert_eq!(one.0, other.0);
    assert_ne!(one.1, other.1);
    assert_ne!(one.0, text(2, 61).0);
}

#[test]
fn every_operation_is_valid_wgsl_in_both_widths() {
    let mut exprs: Vec<Expr> = UnaryOp::ALL.map(Expr::unary).to_vec();
    exprs.extend(BinaryOp::ALL.map(Expr::binary));
    exprs.extend(CompareOp::ALL.map(Expr::compare));
    exprs.extend(LogicOp::ALL.map(Expr::logic));
    exprs.push(
        Expr::of_one(|b, x| {
            let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-42, -0.0, f32::MAX, 1e-20];
            values.into_iter().fold(x, |x, value| {
                let value = b.constant(value);
                b.max(x, value)
            })
        })
        .unwrap(),
    );
    for expr in exprs {
        for count in [64, 63] {
            let shapes = vec![vec![count]; expr.inputs().len()];
            kernel_of(&expr, &[count], &shapes)
                .dispatches
                .iter()
                .for_each(testing::validate);
        }
    }
}

#[test]
fn epilogues_are_valid_beside_a_kernel() {
    let mut b = Builder::new();
    let [value, bias, residual] = [0; 3].map(|_| b.input(Storage::F32));
    let sum = b.add(value, bias);
    let gate = b.swish(sum, 1.0);
    let y = b.add(gate, residual);
    b.output(y, Storage::F32);
    let expr = b.finish().unwrap();
    let inputs = [
        Operand {
            binding: Binding::Input(2),
            shape: &[24],
        },
        Operand {
            binding: Binding::Input(3),
            shape: &[5, 16, 24],
        },
    ];
    let epilogue = epilogue(&expr, &[5, 16, 24], &inputs).unwrap();
    let template = "@compute @workgroup_size(1)\nfn main(@builtin(global_invocation_id) id: vec3<u32>) {\n\
        let at = id.x * 4u;\nlet v = epilogue4(vec4<f32>(output[at]), at);\noutput[at] = epilogue(v.x, at);\n}\n";
    let dispatch = DispatchBuilder::new("test", template)
        .flag("FOUR", true)
        .storage("output", "f32", Binding::Output(0))
        .epilogue(Some(&epilogue))
        .finish([1, 1, 1]);
    testing::assert_snapshot("pointwise_epilogue", &GpuKernel::of(vec![dispatch]));
}

#[test]
fn refuses_what_cannot_be_bound() {
    let sum = Expr::of_one(|b, x| {
        let more: Vec<Reg> = (0..8).map(|_| b.input(Storage::F32)).collect();
        more.into_iter().fold(x, |sum, y| b.add(sum, y))
    })
    .unwrap();
    let inputs: Vec<Operand> = (0..9)
        .map(|i| Operand {
            binding: Binding::Input(i),
            shape: &[4],
        })
        .collect();
    assert!(kernel(&sum, &[4], &inputs, &[Binding::Output(0)], &caps()).is_none());
    let wrong = [Operand {
        binding: Binding::Input(0),
        shape: &[3],
    }];
    assert!(kernel(&Expr::unary(UnaryOp::Exp), &[4], &wrong, &[Binding::Output(0)], &caps()).is_none());
    assert!(epilogue(&Expr::compare(CompareOp::Less), &[3], &wrong).is_none());
}

fn random_shapes(random: &mut Random, expr: &Expr) -> (Vec<usize>, Vec<Vec<usize>>) {
    let rank = random.below(5);
    let output: Vec<usize> = (0..rank).map(|_| [1, 2, 3, 4, 7, 8, 12][random.below(7)]).collect();
    let shapes = expr
        .inputs()
        .iter()
        .map(|_| match random.below(3) {
            0 => output.clone(),
            _ => {
                let skip = random.below(rank + 1);
                output[skip..]
                    .iter()
                    .map(|&dim| if random.below(3) == 0 { 1 } else { dim })
                    .collect()
            }
        })
        .collect();
    (output, shapes)
}

#[test]
fn random_expressions_are_valid_wgsl() {
    let mut random = Random(5);
    let constants = [0.0, 1.0, -2.5, f32::INFINITY, f32::NAN];
    let palette = Palette {
        unary: &UnaryOp::ALL,
        binary: &BinaryOp::ALL,
        constants: &constants,
        nodes: 20,
    };
    for _ in 0..300 {
        let expr = random_expr(&palette, &mut |bound| random.below(bound));
        let (output, shapes) = random_shapes(&mut random, &expr);
        kernel_of(&expr, &output, &shapes)
            .dispatches
            .iter()
            .for_each(testing::validate);
    }
}

#[test]
fn random_expressions_match_the_reference_on_the_device() {
    let Some(device) = testing::device() else { return };
    let mut random = Random(6);
    // On small whole numbers these are exact, so that no comparison can fall on the other side.
    let palette = Palette {
        unary: &[
            UnaryOp::Neg,
            UnaryOp::Abs,
            UnaryOp::Sign,
            UnaryOp::Relu,
            UnaryOp::Floor,
            UnaryOp::Ceil,
            UnaryOp::Round,
        ],
        binary: &[
            BinaryOp::Add,
            BinaryOp::Sub,
            BinaryOp::Mul,
            BinaryOp::Min,
            BinaryOp::Max,
        ],
        constants: &[0.0, 1.0, -1.0, 0.5, 3.0],
        nodes: 9,
    };
    for _ in 0..60 {
        let expr = random_expr(&palette, &mut |bound| random.below(bound));
        let (output, shapes) = random_shapes(&mut random, &expr);
        let inputs: Vec<(Vec<usize>, Elements)> = shapes
            .iter()
            .zip(expr.inputs())
            .map(|(shape, storage)| {
                let count = shape.iter().product();
                let elements = match storage {
                    Storage::F32 => Elements::F32((0..count).map(|_| random.below(9) as f32 - 4.0).collect()),
                    Storage::Bool => Elements::Bool((0..count).map(|_| random.below(2) as u8).collect()),
                };
                (shape.clone(), elements)
            })
            .collect();
        let expected = reference::eval_tensors(&expr, &output, &inputs);
        let data_in: Vec<Data> = inputs.iter().map(|(_, elements)| data(elements)).collect();
        let count: usize = output.iter().product();
        let outputs: Vec<(GpuType, usize)> = expr.outputs().iter().map(|o| (gpu_type(o.storage), count)).collect();
        let found = testing::run(&device, kernel_of(&expr, &output, &shapes), &data_in, &outputs).unwrap();
        let what = format!("{expr} over {output:?} from {shapes:?}");
        for (found, expected) in found.iter().zip(&expected) {
            match expected {
                Elements::F32(expected) => testing::assert_close(found.f32s(), expected, 0.0, &what),
                Elements::Bool(_) => assert_eq!(*found, data(expected), "{what}"),
            }
        }
    }
}

#[test]
fn functions_match_the_reference_on_the_device() {
    let Some(device) = testing::device() else { return };
    let mut random = Random(7);
    let mut x: Vec<f32> = (0..4000)
        .map(|i| random.floats(1)[0] * [1e-3, 1.0, 10.0, 80.0][i % 4])
        .collect();
    x.extend([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 100.0]);
    let n = x.len();
    for op in UnaryOp::ALL {
        let kernel = kernel_of(&Expr::unary(op), &[n], &[vec![n]]);
        let found = testing::run(&device, kernel, &[Data::F32(x.clone())], &[(GpuType::F32, n)]).unwrap();
        for (x, &found) in x.iter().zip(found[0].f32s()) {
            let expected = reference::unary(op, *x);
            let close = (found - expected).abs() <= 4e-6 * expected.abs() + 1e-6;
            let same = found == expected || (found.is_nan() && expected.is_nan());
            assert!(
                close || same,
                "{}({x:?}) is {found:?}, expected {expected:?}",
                op.name()
            );
        }
    }
}

#[test]
fn logarithms_at_the_ends_of_the_numbers_match_the_reference_on_the_device() {
    let Some(device) = testing::device() else { return };
    let x = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -1.0, f32::MAX];
    let kernel = kernel_of(&Expr::unary(UnaryOp::Log), &[x.len()], &[vec![x.len()]]);
    let found = testing::run(&device, kernel, &[Data::F32(x.clone())], &[(GpuType::F32, x.len())]).unwrap();
    for (x, &found) in x.iter().zip(found[0].f32s()) {
        let expected = x.ln();
        let same = found == expected || (found.is_nan() && expected.is_nan()) || (found - expected).abs() < 1e-4;
        assert!(same, "log({x}) is {found}, expected {expected}");
    }
}

#[test]
fn powers_and_remainders_match_the_reference_on_the_device() {
    let Some(device) = testing::device() else { return };
    let values = [0.0, 0.5, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 2.5, -2.5, 0.25, 7.0, -7.5];
    let pairs: Vec<(f32, f32)> = values.iter().flat_map(|&a| values.map(|b| (a, b))).collect();
    let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
    let n = pairs.len();
    for op in [BinaryOp::Pow, BinaryOp::Fmod] {
        let kernel = kernel_of(&Expr::binary(op), &[n], &[vec![n], vec![n]]);
        let inputs = [Data::F32(a.clone()), Data::F32(b.clone())];
        let found = testing::run(&device, kernel, &inputs, &[(GpuType::F32, n)]).unwrap();
        for (&(a, b), &found) in pairs.iter().zip(found[0].f32s()) {
            let expected = reference::binary(op, a, b);
            let same = found == expected
                || (found.is_nan() && expected.is_nan())
                || (found - expected).abs() <= 1e-5 * expected.abs();
            assert!(same, "{op:?}({a}, {b}) is {found}, expected {expected}");
        }
    }
}
