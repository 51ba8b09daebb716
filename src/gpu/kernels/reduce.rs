//! Kernels that reduce: the Reduce family, Softmax and LogSoftmax, and the normalisations over rows. On hardware a
//! workgroup shares a long reduction; on software adapters, where barriers are slow, one thread does it.

use super::super::epilogue::Epilogue;
use super::super::kernel::{AdapterKind, Binding, GpuCaps, GpuKernel, GpuType};
use super::super::wgsl::{DispatchBuilder, LINEAR_THREADS, fold_workgroups, linear_workgroups, shader_text};
use super::{MAX_RANK, dense_strides, elements, single};

const REDUCE: &str = shader_text!("../../../shaders/reduce.wgsl");
const SOFTMAX: &str = shader_text!("../../../shaders/softmax.wgsl");
const NORMALIZE: &str = shader_text!("../../../shaders/normalize.wgsl");

/// Elements per reduction from which a workgroup shares it.
const SHARED_LENGTH: usize = 128;

/// ONNX's reductions. For integers only those that stay exact: Sum, Max, Min and Prod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// Whether workgroups share the reduction of `length` elements.
fn is_shared(length: usize, caps: &GpuCaps) -> bool {
    caps.kind == AdapterKind::Hardware && length >= SHARED_LENGTH
}

/// Workgroup counts for `count` reductions.
fn workgroups(count: usize, shared: bool, caps: &GpuCaps) -> [u32; 3] {
    if shared {
        fold_workgroups(count as u64, caps)
    } else {
        linear_workgroups(count as u64, caps)
    }
}

/// Reduces input 0 over `axes` (each below the rank, in any order). The output has the kept dimensions in order,
/// whether or not the reduced ones stay as ones. f32 takes every operation, i32 and u32 take Sum, Max, Min and Prod.
/// `None` for other types, and for empty reductions.
pub fn reduce(op: ReduceOp, ty: GpuType, shape: &[usize], axes: &[usize], caps: &GpuCaps) -> Option<GpuKernel> {
    use ReduceOp::*;
    let exact = matches!(op, Sum | Max | Min | Prod);
    if axes.iter().any(|&axis| axis >= shape.len()) || ty == GpuType::Bool || (ty != GpuType::F32 && !exact) {
        return None;
    }
    let all = elements(shape, caps)?;
    let strides = dense_strides(shape);
    let side = |reduced: bool| {
        // Innermost first; neighbours that are dense in each other are one dimension.
        let mut dims: Vec<(usize, usize)> = Vec::new();
        for axis in (0..shape.len())
            .rev()
            .filter(|axis| axes.contains(axis) == reduced && shape[*axis] != 1)
        {
            match dims.last_mut() {
                Some((dim, stride)) if *stride * *dim == strides[axis] => *dim *= shape[axis],
                _ => dims.push((shape[axis], strides[axis])),
            }
        }
        dims
    };
    let (kept, reduced) = (side(false), side(true));
    let count: usize = kept.iter().map(|(dim, _)| dim).product();
    let length: usize = reduced.iter().map(|(dim, _)| dim).product();
    if count == 0 {
        return Some(GpuKernel::default());
    }
    if all == 0 || kept.len() > MAX_RANK || reduced.len() > MAX_RANK {
        return None;
    }
    let shared = is_shared(length, caps);
    let dispatch = DispatchBuilder::new("reduce", REDUCE)
        .define("THREADS", LINEAR_THREADS)
        .define("KEPT", kept.len())
        .define("REDUCED", reduced.len())
        .define("T", ty.wgsl())
        .flag("SHARED", shared)
        .flag("FLOAT", ty == GpuType::F32)
        .flag("MAX", op == Max)
        .flag("MIN", op == Min)
        .flag("EXTREME", matches!(op, Max | Min))
        .flag("PRODUCT", op == Prod)
        .flag("ADD", !matches!(op, Max | Min | Prod))
        .flag("ABSOLUTE", op == L1)
        .flag("SQUARE", matches!(op, L2 | SumSquare))
        .flag("EXPONENTIAL", op == LogSumExp)
        .flag("PLAIN", matches!(op, Sum | Mean | Max | Min | Prod | LogSum))
        .flag("MEAN", op == Mean)
        .flag("ROOT", op == L2)
        .flag("LOGARITHM", matches!(op, LogSum | LogSumExp))
        .flag("ASIS", matches!(op, Sum | Max | Min | Prod | L1 | SumSquare))
        .storage("input", ty.wgsl(), Binding::Input(0))
        .storage("output", ty.wgsl(), Binding::Output(0))
        .param("count", count as u32)
        .param("length", length as u32)
        .param_list("kept_dim", kept.iter().map(|&(dim, _)| dim as u32))
        .param_list("kept_stride", kept.iter().map(|&(_, stride)| stride as u32))
        .param_list("reduced_dim", reduced.iter().map(|&(dim, _)| dim as u32))
        .param_list("reduced_stride", reduced.iter().map(|&(_, stride)| stride as u32));
    Some(GpuKernel::of(vec![dispatch.finish(workgroups(count, shared, caps))]))
}

/// Softmax or LogSoftmax, or a softmax whose rows are zeros where they would be no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SoftmaxKind {
    Softmax,
    LogSoftmax,
    ZeroNan,
}

/// Softmax of f32 input 0 over the `length` elements of each of `outer * inner` rows; element `i` of a row stands
/// `i * inner` elements behind its first. For opset 13 and later `length` is one axis, before it is all from `axis` on
/// and `inner` is one.
pub fn softmax(kind: SoftmaxKind, outer: usize, length: usize, inner: usize, caps: &GpuCaps) -> Option<GpuKernel> {
    if elements(&[outer, length, inner], caps)? == 0 {
        return Some(GpuKernel::default());
    }
    let rows = outer * inner;
    let shared = is_shared(length, caps);
    let dispatch = DispatchBuilder::new("softmax", SOFTMAX)
        .define("THREADS", LINEAR_THREADS)
        .flag("SHARED", shared)
        .flag("LOG", kind == SoftmaxKind::LogSoftmax)
        .flag("ZERONAN", kind == SoftmaxKind::ZeroNan)
        .storage("input", "f32", Binding::Input(0))
        .storage("output", "f32", Binding::Output(0))
        .param("rows", rows as u32)
        .param("length", length as u32)
        .param("inner", inner as u32);
    Some(GpuKernel::of(vec![dispatch.finish(workgroups(rows, shared, caps))]))
}

/// How [`normalize`] centres rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Centre {
    /// Subtract the mean (LayerNormalization, InstanceNormalization, GroupNormalization).
    Mean,
    /// Divide by the root mean square only (RMSNormalization, SimplifiedLayerNormalization).
    Zero,
}

/// Which element of scale and bias belongs to an element of a row: `(row % row_period) * row_step + column /
/// column_run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScaleLayout {
    pub row_period: usize,
    pub row_step: usize,
    pub column_run: usize,
}

impl ScaleLayout {
    /// One scale per column (LayerNormalization, RMSNormalization).
    pub fn per_column() -> ScaleLayout {
        ScaleLayout {
            row_period: 1,
            row_step: 0,
            column_run: 1,
        }
    }

    /// One scale per channel, for rows of `length` elements of which there are `channels` per image
    /// (InstanceNormalization).
    pub fn per_channel(channels: usize, length: usize) -> ScaleLayout {
        ScaleLayout {
            row_period: channels,
            row_step: 1,
            column_run: length,
        }
    }

    /// One scale per channel, for rows of `channels / groups` channels of `spatial` elements (GroupNormalization).
    pub fn per_group(channels: usize, groups: usize, spatial: usize) -> ScaleLayout {
        ScaleLayout {
            row_period: groups,
            row_step: channels / groups.max(1),
            column_run: spatial,
        }
    }
}

/// Normalises `rows` rows of `length` f32 elements of input 0 with their own mean and variance. `scale` and `bias` are
/// bound where the operator has them; `statistics` says whether outputs 1 and 2 hold each row's mean and the inverse of its
/// deviation.
#[allow(clippy::too_many_arguments)]
pub fn normalize(
    centre: Centre,
    rows: usize,
    length: usize,
    epsilon: f32,
    layout: ScaleLayout,
    scale: Option<Binding>,
    bias: Option<Binding>,
    statistics: [bool; 2],
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    if elements(&[rows, length], caps)? == 0 {
        // Statistics of nothing are no numbers.
        return (statistics == [false; 2]).then(GpuKernel::default);
    }
    let shared = is_shared(length, caps);
    let mut dispatch = DispatchBuilder::new("normalize", NORMALIZE)
        .flag("MEANS", statistics[0])
        .flag("INVERSES", statistics[1])
        .define("THREADS", LINEAR_THREADS)
        .flag("SHARED", shared)
        .flag("RMS", centre == Centre::Zero)
        .flag("SCALE", scale.is_some())
        .flag("BIAS", bias.is_some())
        .storage("input", "f32", Binding::Input(0))
        .storage("output", "f32", Binding::Output(0))
        .param("rows", rows as u32)
        .param("length", length as u32)
        .param_f32("epsilon", epsilon)
        .param("row_period", layout.row_period.max(1) as u32)
        .param("row_step", layout.row_step as u32)
        .param("column_run", layout.column_run.max(1) as u32);
    if let Some(scale) = scale {
        dispatch = dispatch.storage("scale", "f32", scale);
    }
    if let Some(bias) = bias {
        dispatch = dispatch.storage("bias", "f32", bias);
    }
    for (index, name) in ["means", "inverses"].into_iter().enumerate() {
        if statistics[index] {
            dispatch = dispatch.storage(name, "f32", Binding::Output(index + 1));
        }
    }
    let dispatch = dispatch.epilogue(epilogue);
    single(dispatch, workgroups(rows, shared, caps), caps)
}

#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod tests {
    use super::super::super::testing::{self, Data, Random};
    use super::*;

    const OPS: [ReduceOp; 10] = [
        ReduceOp::Sum,
        ReduceOp::Mean,
        ReduceOp::Max,
        ReduceOp::Min,
        ReduceOp::Prod,
        ReduceOp::L1,
        ReduceOp::L2,
        ReduceOp::SumSquare,
        ReduceOp::LogSum,
        ReduceOp::LogSumExp,
    ];

    fn reference(op: ReduceOp, values: &[f64]) -> f64 {
        let sum = |map: fn(f64) -> f64| values.iter().map(|&v| map(v)).sum::<f64>();
        match op {
            ReduceOp::Sum => sum(|v| v),
            ReduceOp::Mean => sum(|v| v) / values.len() as f64,
            ReduceOp::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ReduceOp::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
            ReduceOp::Prod => values.iter().product(),
            ReduceOp::L1 => sum(f64::abs),
            ReduceOp::L2 => sum(|v| v * v).sqrt(),
            ReduceOp::SumSquare => sum(|v| v * v),
            ReduceOp::LogSum => sum(|v| v).ln(),
            ReduceOp::LogSumExp => sum(f64::exp).ln(),
        }
    }

    #[test]
    fn every_reduction_matches_its_reference_over_any_axes() {
        let Some(device) = testing::device() else { return };
        let cases: [(&[usize], &[usize]); 6] = [
            (&[3, 5, 7], &[1]),
            (&[2, 3, 4, 5], &[0, 2]),
            (&[2, 3, 4, 5], &[3, 1]),
            (&[4, 1, 300], &[2]),
            (&[6], &[0]),
            (&[3, 4], &[]),
        ];
        let mut random = Random(3);
        for (shape, axes) in cases {
            let count: usize = shape.iter().product();
            let strides = dense_strides(shape);
            let kept: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
            for op in OPS {
                let mut values = random.floats(count);
                if op == ReduceOp::LogSum {
                    values.iter_mut().for_each(|value| *value = value.abs() + 0.1);
                }
                let outputs: usize = kept.iter().map(|&axis| shape[axis]).product();
                let mut groups: Vec<Vec<f64>> = vec![Vec::new(); outputs];
                for (index, &value) in values.iter().enumerate() {
                    let at = kept
                        .iter()
                        .fold(0, |at, &axis| at * shape[axis] + index / strides[axis] % shape[axis]);
                    groups[at].push(value.into());
                }
                let expected: Vec<f32> = groups.iter().map(|group| reference(op, group) as f32).collect();
                for caps in testing::both_kinds() {
                    let kernel = reduce(op, GpuType::F32, shape, axes, &caps).unwrap();
                    kernel.dispatches.iter().for_each(testing::validate);
                    let found = testing::run(
                        &device,
                        kernel,
                        &[Data::F32(values.clone())],
                        &[(GpuType::F32, outputs)],
                    )
                    .unwrap();
                    let what = format!("{op:?} of {shape:?} over {axes:?} on {:?}", caps.kind);
                    testing::assert_close(found[0].f32s(), &expected, 1e-5, &what);
                }
            }
        }
    }

    #[test]
    fn infinities_and_nan_reduce_as_on_the_cpu() {
        let Some(device) = testing::device() else { return };
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        // Rows of one value each, and a NaN or infinity among others.
        let rows = [
            [-inf; 3],
            [inf; 3],
            [nan, 1.0, 2.0],
            [1.0, 2.0, nan],
            [1.0, -inf, 2.0],
            [1.0, inf, 2.0],
        ];
        for (op, expected) in [
            (ReduceOp::Max, [-inf, inf, nan, nan, 2.0, inf]),
            (ReduceOp::Min, [-inf, inf, nan, nan, -inf, 1.0]),
            (ReduceOp::LogSum, [nan, inf, nan, nan, nan, inf]),
            (ReduceOp::LogSumExp, [-inf, inf, nan, nan, 2.3132617, inf]),
        ] {
            // Rows of 3 and, for workgroups that share them, of 300.
            for (repeat, caps) in [1, 100]
                .into_iter()
                .flat_map(|n| testing::both_kinds().map(|caps| (n, caps)))
            {
                let values: Vec<f32> = rows.iter().flat_map(|row| row.repeat(repeat)).collect();
                let shape = [rows.len(), 3 * repeat];
                let kernel = reduce(op, GpuType::F32, &shape, &[1], &caps).unwrap();
                kernel.dispatches.iter().for_each(testing::validate);
                let sizes = [(GpuType::F32, rows.len())];
                let found = testing::run(&device, kernel, &[Data::F32(values)], &sizes).unwrap();
                for (row, (&found, &expected)) in found[0].f32s().iter().zip(&expected).enumerate() {
                    let expected = match op {
                        ReduceOp::LogSumExp => expected + (repeat as f32).ln(),
                        _ => expected,
                    };
                    let same =
                        found == expected || found.is_nan() && expected.is_nan() || (found - expected).abs() < 1e-4;
                    assert!(
                        same,
                        "{op:?} of row {row}, {:?}: {found}, expected {expected}",
                        caps.kind
                    );
                }
            }
        }
    }

    #[test]
    fn logarithms_of_sums_of_nothing_and_less_are_as_on_the_cpu() {
        let Some(device) = testing::device() else { return };
        for caps in testing::both_kinds() {
            let values = Data::F32(vec![0.0, 0.0, 1.0, -1.0, -2.0, 1.0, 1.0, 0.0]);
            let kernel = reduce(ReduceOp::LogSum, GpuType::F32, &[4, 2], &[1], &caps).unwrap();
            let found = testing::run(&device, kernel, &[values], &[(GpuType::F32, 4)]).unwrap();
            let found = found[0].f32s();
            assert_eq!(found[..2], [f32::NEG_INFINITY; 2]);
            assert!(found[2].is_nan() && found[3] == 0.0, "{found:?}");
        }
    }

    #[test]
    fn integers_reduce_exactly_and_other_combinations_are_refused() {
        let caps = &testing::both_kinds()[0];
        assert!(reduce(ReduceOp::Mean, GpuType::I32, &[4], &[0], caps).is_none());
        assert!(reduce(ReduceOp::Sum, GpuType::Bool, &[4], &[0], caps).is_none());
        assert!(reduce(ReduceOp::Sum, GpuType::F32, &[0], &[0], caps).is_none());
        assert!(
            reduce(ReduceOp::Sum, GpuType::F32, &[0, 3], &[1], caps)
                .unwrap()
                .dispatches
                .is_empty()
        );
        let Some(device) = testing::device() else { return };
        let values: Vec<i32> = vec![5, -7, 100, i32::MIN + 1];
        for (op, expected) in [
            (ReduceOp::Max, 100),
            (ReduceOp::Min, i32::MIN + 1),
            (ReduceOp::Sum, i32::MIN + 99),
            (ReduceOp::Prod, -3500),
        ] {
            let kernel = reduce(op, GpuType::I32, &[4], &[0], caps).unwrap();
            kernel.dispatches.iter().for_each(testing::validate);
            let found = testing::run(&device, kernel, &[Data::I32(values.clone())], &[(GpuType::I32, 1)]).unwrap();
            assert_eq!(found[0], Data::I32(vec![expected]), "{op:?}");
        }
    }

    #[test]
    fn softmax_matches_its_reference_over_inner_and_outer_axes() {
        let Some(device) = testing::device() else { return };
        let mut random = Random(4);
        for (outer, length, inner) in [(3, 7, 1), (2, 5, 6), (2, 200, 3), (1, 1, 1)] {
            let values: Vec<f32> = random.floats(outer * length * inner).iter().map(|v| v * 30.0).collect();
            for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax, SoftmaxKind::ZeroNan] {
                let mut expected = vec![0.0f32; values.len()];
                for row in 0..outer * inner {
                    let at = |i: usize| (row / inner * length + i) * inner + row % inner;
                    let largest = (0..length).map(|i| values[at(i)]).fold(f32::NEG_INFINITY, f32::max);
                    let sum: f64 = (0..length).map(|i| f64::from(values[at(i)] - largest).exp()).sum();
                    for i in 0..length {
                        let shifted = f64::from(values[at(i)] - largest);
                        expected[at(i)] = match kind {
                            SoftmaxKind::Softmax | SoftmaxKind::ZeroNan => (shifted.exp() / sum) as f32,
                            SoftmaxKind::LogSoftmax => (shifted - sum.ln()) as f32,
                        };
                    }
                }
                for caps in testing::both_kinds() {
                    let kernel = softmax(kind, outer, length, inner, &caps).unwrap();
                    kernel.dispatches.iter().for_each(testing::validate);
                    let sizes = [(GpuType::F32, values.len())];
                    let found = testing::run(&device, kernel, &[Data::F32(values.clone())], &sizes).unwrap();
                    testing::assert_close(found[0].f32s(), &expected, 1e-5, &format!("{kind:?} {:?}", caps.kind));
                }
            }
        }
    }

    #[test]
    fn normalisations_match_their_reference_in_every_layout() {
        let Some(device) = testing::device() else { return };
        let mut random = Random(5);
        let layouts = [
            (6, 35, ScaleLayout::per_column(), 35),
            (6, 300, ScaleLayout::per_channel(3, 300), 3),
            (4, 3 * 50, ScaleLayout::per_group(6, 2, 50), 6),
        ];
        for (rows, length, layout, scales) in layouts {
            for centre in [Centre::Mean, Centre::Zero] {
                let values = random.floats(rows * length);
                let (scale, bias) = (random.floats(scales), random.floats(scales));
                let mut expected = Vec::new();
                for (row, values) in values.chunks(length).enumerate() {
                    let n = length as f64;
                    let mean = match centre {
                        Centre::Mean => values.iter().map(|&v| f64::from(v)).sum::<f64>() / n,
                        Centre::Zero => 0.0,
                    };
                    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
                    for (column, &value) in values.iter().enumerate() {
                        let at = row % layout.row_period * layout.row_step + column / layout.column_run;
                        let normal = (f64::from(value) - mean) / (variance + 1e-5).sqrt();
                        expected.push((normal * f64::from(scale[at]) + f64::from(bias[at])) as f32);
                    }
                }
                for caps in testing::both_kinds() {
                    let (scale_at, bias_at) = (Some(Binding::Input(1)), Some(Binding::Input(2)));
                    let kernel = normalize(
                        centre, rows, length, 1e-5, layout, scale_at, bias_at, [false; 2], None, &caps,
                    )
                    .unwrap();
                    kernel.dispatches.iter().for_each(testing::validate);
                    let inputs = [
                        Data::F32(values.clone()),
                        Data::F32(scale.clone()),
                        Data::F32(bias.clone()),
                    ];
                    let found = testing::run(&device, kernel, &inputs, &[(GpuType::F32, rows * length)]).unwrap();
                    testing::assert_close(found[0].f32s(), &expected, 2e-5, &format!("{layout:?} {:?}", caps.kind));
                }
            }
        }
    }

    #[test]
    fn texts_match_their_snapshots() {
        for caps in testing::both_kinds() {
            let name = |base: &str| {
                format!(
                    "{base}_{}",
                    if caps.kind == AdapterKind::Hardware {
                        "shared"
                    } else {
                        "serial"
                    }
                )
            };
            let kernel = reduce(ReduceOp::LogSumExp, GpuType::F32, &[4, 300, 5, 2], &[1, 3], &caps).unwrap();
            testing::assert_snapshot(&name("reduce_log_sum_exp"), &kernel);
            testing::assert_snapshot(
                &name("softmax"),
                &softmax(SoftmaxKind::Softmax, 3, 300, 1, &caps).unwrap(),
            );
            let (scale, bias) = (Some(Binding::Input(1)), Some(Binding::Input(2)));
            let layout = ScaleLayout::per_column();
            let kernel = normalize(Centre::Mean, 3, 300, 1e-5, layout, scale, bias, [false; 2], None, &caps).unwrap();
            testing::assert_snapshot(&name("layer_norm"), &kernel);
        }
    }
}
