//! Products and convolutions of 8-bit integers: ONNX `MatMulInteger` and `ConvInteger`, and the internal `IntegerMatMul` and
//! `IntegerConv`, which passes make, and which go on to scale their sums and to quantise the result.

use std::sync::Arc;

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, TensorDesc,
    context::{broadcast_dims, equal_dims, rank_error},
    epilogue::{CpuEpilogue, Fit, GpuEpilogue, OwnSteps, OwnValues, Rows, gpu_epilogue},
    lower::{mismatch, unsupported},
    registry,
    window::{Window, conv_groups, conv_params},
};
use crate::{
    cpu::{
        elementwise::Wide,
        epilogue::{Bias, Epilogue},
        int8::{
            ByteMatrix, Weights, Zeros,
            conv::{IntegerConv, PackedWeights},
            matmul, matmul_scratch_len,
            quantize::Quantization,
            store::{Per, Store, Target},
        },
        kernel::{CpuKernel, KernelInputs, KernelIo, scratch_as_i32},
        matmul::MatMulPlan,
        threads::Threads,
    },
    error::{Error, Result},
    gpu::{
        kernel::{Binding, GpuKernel, GpuType},
        kernels::{
            conv,
            integer::{self, Per as GpuPer, Sums},
            integer_dot,
        },
    },
    graph::{Node, OperatorId},
    tensor::{DType, Dim, display_shape, element_count},
};

const X: usize = 0;
const W: usize = 1;
const X_ZERO: usize = 2;
const W_ZERO: usize = 3;
const BIAS: usize = 4;
const SCALE: usize = 5;
const Y_SCALE: usize = 6;
const Y_ZERO: usize = 7;

/// `Σ (x - x_zero) (w - w_zero)` of 8-bit integers as int32 (ONNX opset 10); with the further inputs of the internal
/// operators `(Σ + bias) * scale` as float32, or `quantize((Σ + bias) * scale)`.
///
/// Inputs: x and w, their zero points (of a product one or one for each row of x and each column of w, of a convolution one
/// and one or one for each output channel), a bias for each column or output channel (int32, or float32, which is added
/// after scaling), the scale (one, or one for each row, column or output channel), and scale and zero point of the result
/// (one). The epilogue stands between scaling and quantising.
#[derive(Debug)]
struct Integer {
    kind: Kind,
    is_scaled: bool,
    is_quantized: bool,
}

#[derive(Debug)]
enum Kind {
    MatMul,
    Conv {
        window: Window,
        groups: usize,
        /// The convolution of floats, which has the same shapes.
        floats: Box<dyn Operator>,
    },
}

/// Makes the operator of any of the four names.
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let has = |index: usize| node.operator_inputs().get(index).is_some_and(Option::is_some);
    let kind = if node.operator.name.contains("MatMul") {
        Kind::MatMul
    } else {
        let mut floats = node.clone();
        floats.operator = OperatorId::new("", "Conv", 11);
        floats.inputs.truncate(2);
        floats.epilogue = None;
        Kind::Conv {
            window: Window::of_conv(node)?,
            groups: conv_groups(node)?,
            floats: registry::operator(&floats)?,
        }
    };
    Ok(Box::new(Integer {
        kind,
        is_scaled: has(SCALE),
        is_quantized: has(Y_SCALE),
    }))
}

/// What a kernel does, for concrete sizes.
// There is one for each kernel, and it is not moved.
#[allow(clippy::large_enum_variant)]
enum Work {
    MatMul {
        plan: MatMulPlan,
        /// Rows of each of x's matrices.
        rows: usize,
        /// w's matrices, when they are constant.
        packed: Option<Arc<Vec<Weights>>>,
    },
    Conv {
        conv: IntegerConv,
        packed: Option<Arc<PackedWeights>>,
    },
}

impl Integer {
    fn output_dtype(&self, zero: Option<DType>) -> DType {
        match (self.is_scaled, self.is_quantized) {
            (_, true) => zero.unwrap_or(DType::U8),
            (true, false) => DType::F32,
            (false, false) => DType::I32,
        }
    }
}

impl Operator for Integer {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let zero = if ctx.has_input(Y_ZERO) {
            Some(ctx.dtype(Y_ZERO)?)
        } else {
            None
        };
        let dtype = self.output_dtype(zero);
        let shape = match &self.kind {
            Kind::Conv { floats, .. } => {
                floats.infer(ctx)?;
                ctx.outputs.first().and_then(|output| output.shape.clone())
            }
            Kind::MatMul => match (ctx.shape(X), ctx.shape(W)) {
                (Some(x), Some(w)) => product_shape(x, w)?,
                _ => None,
            },
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn operations(&self, inputs: &[Vec<usize>], outputs: u64) -> u64 {
        let depth: usize = match self.kind {
            Kind::MatMul => inputs[X].last().copied().unwrap_or(1),
            Kind::Conv { .. } => inputs[W].iter().skip(1).product(),
        };
        2 * outputs * depth as u64
    }

    fn takes_epilogue(&self) -> bool {
        self.is_scaled && !self.is_quantized
    }

    fn takes_narrowed(&self) -> bool {
        true
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        self.on_gpu(ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let own = |index: usize| ctx.optional_input(index).filter(|_| index < ctx.input_count());
        for index in [X, W] {
            if !matches!(ctx.input(index)?.dtype, DType::I8 | DType::U8) {
                return Err(ctx.unsupported_type(index));
            }
        }
        for (index, like) in [(X_ZERO, X), (W_ZERO, W)] {
            if own(index).is_some_and(|zero| ctx.input(like).is_ok_and(|of| of.dtype != zero.dtype)) {
                return Err(ctx.unsupported_type(index));
            }
        }
        let shape = &ctx.output(0)?.shape;
        let (work, rows) = match &self.kind {
            Kind::MatMul => plan_matmul(ctx, own(W_ZERO), shape)?,
            Kind::Conv { window, groups, .. } => plan_conv(ctx, window, *groups, own(W_ZERO), shape)?,
        };
        let row_len: usize = shape[rows.split..].iter().product();
        let steps = Steps::new(
            &work,
            [X_ZERO, W_ZERO, BIAS, SCALE, Y_SCALE, Y_ZERO].map(own),
            ctx,
            &rows,
        )?;
        let epilogue = match self.is_scaled {
            true => Some(CpuEpilogue::new(ctx, &rows, steps.own())?),
            false => None,
        };
        let scratch_len = match &work {
            Work::MatMul { plan, .. } => {
                let (sizes, _) = plan.products();
                ctx.threads * matmul_scratch_len(sizes) + sizes.m
            }
            Work::Conv { conv, .. } => conv.scratch_len(ctx.threads),
        };
        let epilogue_len = epilogue
            .as_ref()
            .map_or(0, CpuEpilogue::scratch_len)
            .next_multiple_of(4);
        let (name, is_packed) = match &work {
            Work::MatMul { packed, .. } => ("matmul_int8", packed.is_some()),
            Work::Conv { packed, .. } => ("conv_int8", packed.is_some()),
        };
        let kernel = CpuKernel::compute_with_scratch(name, (scratch_len + epilogue_len) * 4, move |io| {
            let y = steps.quantization(&io.inputs)?;
            let bias = steps.sum_bias(&io.inputs)?;
            let scale = steps.scale(&io.inputs)?;
            let KernelIo {
                inputs,
                outputs,
                scratch,
                threads,
            } = io;
            let target = match (&epilogue, y) {
                (None, _) => Target::Sums(outputs.take(0)?),
                (_, None) => Target::Floats(outputs.take(0)?),
                (_, Some(y)) => Target::Bytes(outputs.take_bytes(0)?, y),
            };
            let (epilogue_scratch, scratch) = scratch.split_at_mut(epilogue_len * 4);
            let scratch = scratch_as_i32(scratch);
            let run = |epilogue: &Epilogue<'_>| {
                work.run(
                    inputs,
                    &steps,
                    scratch,
                    threads,
                    &Store::new(target, row_len, bias, scale, epilogue),
                )
            };
            match &epilogue {
                None => run(&Epilogue::none()),
                Some(epilogue) => {
                    let own = steps.own_values(inputs)?;
                    let epilogue_scratch = crate::cpu::kernel::scratch_as_f32(epilogue_scratch);
                    let (mut run, mut result) = (Some(run), Ok(()));
                    epilogue.with(inputs, own, epilogue_scratch, &mut |epilogue| {
                        if let Some(run) = run.take() {
                            result = run(epilogue);
                        }
                    })?;
                    result
                }
            }
        });
        Ok(if is_packed {
            kernel.with_prepared_input(W)
        } else {
            kernel
        })
    }
}

impl Integer {
    /// The GPU kernel; `None` for shapes that only the CPU takes.
    fn on_gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let own = |index: usize| ctx.optional_input(index).filter(|_| index < ctx.input_count());
        let (x, w, y) = (ctx.input(X)?, ctx.input(W)?, ctx.output(0)?);
        let types = [x, w, y].map(|desc| GpuType::held(desc.dtype));
        let [Some(x_type), Some(w_type), Some(y_type)] = types else {
            return Ok(None);
        };
        let is_byte = |ty: GpuType| matches!(ty, GpuType::I8 | GpuType::U8);
        let like = |index: usize, of: &TensorDesc| own(index).is_none_or(|zero| zero.dtype == of.dtype);
        if !is_byte(x_type) || !is_byte(w_type) || !like(X_ZERO, x) || !like(W_ZERO, w) || !like(Y_ZERO, y) {
            return Ok(None);
        }
        let count = |desc: &TensorDesc| desc.shape.iter().product::<usize>();
        let (channels, behind) = match self.kind {
            Kind::MatMul => (w.shape.last().copied().unwrap_or(1), 0),
            Kind::Conv { .. } => (w.shape[0], y.shape.len().saturating_sub(2)),
        };
        // One number, or one for each channel.
        let per = |index: usize| -> Option<Option<GpuPer>> {
            let Some(desc) = own(index) else { return Some(None) };
            let along = desc.shape.len() == 1 || desc.shape.iter().rev().nth(behind) == Some(&channels);
            let count = count(desc);
            let binding = Binding::Input(index);
            (count == 1 || (count == channels && along)).then_some(Some(GpuPer { binding, count }))
        };
        let zeros = |index: usize, allowed: &[usize]| -> Option<Option<GpuPer>> {
            let Some(desc) = own(index) else { return Some(None) };
            let count = count(desc);
            let binding = Binding::Input(index);
            allowed.contains(&count).then_some(Some(GpuPer { binding, count }))
        };
        let (Some(bias), Some(scale)) = (per(BIAS), per(SCALE)) else {
            return Ok(None);
        };
        let is_added = own(BIAS).is_some_and(|bias| bias.dtype == DType::F32);
        let added = bias.clone().filter(|_| is_added);
        if added.as_ref().is_some_and(|added| added.count != channels) {
            return Ok(None);
        }
        let one = |index: usize| own(index).is_none_or(|desc| count(desc) == 1);
        if self.is_quantized && !(one(Y_SCALE) && one(Y_ZERO)) {
            return Ok(None);
        }
        let GpuEpilogue::Takes(epilogue) = gpu_epilogue(ctx)? else {
            return Ok(None);
        };
        let mut sums = Sums {
            types: [x_type, w_type, y_type],
            x_zeros: None,
            w_zeros: None,
            bias: bias.filter(|_| !is_added),
            scale,
            added: added.map(|added| added.binding),
            epilogue: epilogue.as_ref(),
            result: own(Y_SCALE).map(|_| {
                let zero = own(Y_ZERO).map(|_| Binding::Input(Y_ZERO));
                (Binding::Input(Y_SCALE), zero)
            }),
        };
        let shift = integer_dot::shift(w_type);
        let is_centred = match own(W_ZERO) {
            Some(_) => ctx
                .ints(W_ZERO)
                .is_some_and(|zeros| zeros.iter().all(|&zero| zero == i64::from(shift))),
            None => shift == 0,
        };
        let weights = ctx
            .known_constant(W)
            .map(|constant| integer_dot::Weights { constant, is_centred });
        match &self.kind {
            Kind::MatMul => {
                let ([x_lead @ .., rows, depth], [w_lead @ .., _, columns]) = (&x.shape[..], &w.shape[..]) else {
                    return Ok(None);
                };
                let batches: usize = x_lead.iter().product();
                let one_matrix = w_lead.iter().product::<usize>() == 1 && w_lead.len() <= x_lead.len();
                if !one_matrix && w_lead != x_lead {
                    return Ok(None);
                }
                let matrices = if one_matrix { 1 } else { batches };
                let (Some(x_zeros), Some(w_zeros)) = (
                    zeros(X_ZERO, &[1, *rows, batches * rows]),
                    zeros(W_ZERO, &[1, *columns, matrices * columns]),
                ) else {
                    return Ok(None);
                };
                (sums.x_zeros, sums.w_zeros) = (x_zeros, w_zeros);
                let dot = weights.filter(|_| one_matrix).and_then(|weights| {
                    integer_dot::matmul(&sums, [batches * rows, *depth, *columns], weights, ctx.caps)
                });
                let sizes = [batches, *rows, *depth, *columns];
                Ok(dot.or_else(|| integer::matmul(&sums, sizes, one_matrix, ctx.caps)))
            }
            Kind::Conv { window, groups, .. } => {
                let (Some(x_zeros), Some(w_zeros)) = (zeros(X_ZERO, &[1]), zeros(W_ZERO, &[1, channels])) else {
                    return Ok(None);
                };
                (sums.x_zeros, sums.w_zeros) = (x_zeros, w_zeros);
                let (Some(input), Some(kernel)) = (x.shape.get(2..), w.shape.get(2..)) else {
                    return Ok(None);
                };
                if input.len() != kernel.len() {
                    return Ok(None);
                }
                let geometry = window.geometry(input, kernel)?;
                let window = conv::Window {
                    kernel,
                    strides: &geometry.strides,
                    dilations: &geometry.dilations,
                    pads: &[&geometry.pads_begin[..], &geometry.pads_end].concat(),
                };
                let shapes = [&x.shape[..], &w.shape, &y.shape];
                let dot =
                    weights.and_then(|weights| integer_dot::conv(&sums, shapes, *groups, &window, weights, ctx.caps));
                Ok(dot.or_else(|| integer::conv(&sums, shapes, *groups, &window, ctx.caps)))
            }
        }
    }
}

fn product_shape(x: &[Dim], w: &[Dim]) -> Result<Option<Vec<Dim>>> {
    let (Some((x_depth, x_lead)), Some(_)) = (x.split_last(), w.last()) else {
        return Err(mismatch("a factor of a matrix product is a scalar"));
    };
    let (w_lead, w_depth, columns) = match w {
        [lead @ .., depth, columns] => (lead, depth, Some(columns)),
        _ => (&[][..], &w[0], None),
    };
    equal_dims(x_depth, w_depth, "inner dimension of the matrices")?;
    let (x_lead, rows) = match x_lead.split_last() {
        Some((rows, lead)) => (lead, Some(rows)),
        None => (x_lead, None),
    };
    let lead = broadcast_dims(x_lead, w_lead)?;
    Ok(lead.map(|lead| lead.into_iter().chain(rows.cloned()).chain(columns.cloned()).collect()))
}

/// The zero points of constant weights; `None` when they are not constant themselves.
fn constant_zeros(zero: Option<&TensorDesc>) -> Result<Option<(u64, Vec<i32>)>> {
    let Some(zero) = zero else {
        return Ok(Some((0, vec![0])));
    };
    let Some(constant) = &zero.constant else {
        return Ok(None);
    };
    let values = constant.to_i64s()?.into_iter().map(|zero| zero as i32);
    Ok(Some((zero.constant_id, values.collect())))
}

fn plan_matmul<'a>(ctx: &CpuLowering<'_>, w_zero: Option<&TensorDesc>, shape: &'a [usize]) -> Result<(Work, Rows<'a>)> {
    let (x, w) = (ctx.input(X)?, ctx.input(W)?);
    let plan = MatMulPlan::new(&x.shape, &w.shape).ok_or_else(|| {
        let shapes = format!("{} and {}", display_shape(&x.shape), display_shape(&w.shape));
        mismatch("the matrices cannot be multiplied").actual(shapes)
    })?;
    let (sizes, _) = plan.products();
    let packed = match (&w.constant, constant_zeros(w_zero)?) {
        (Some(constant), Some((zero_id, zeros))) => {
            check_zeros(zeros.len(), sizes.n, sums(&w.shape, 2))?;
            let make = || {
                let constant = constant.aligned()?;
                Ok(pack_matrices(constant.bytes(), w.dtype, &zeros, sizes.k, sizes.n))
            };
            let layout = format!("matmul_int8 {zero_id} {} {}", sizes.k, sizes.n);
            Some(ctx.prepared.get(w.constant_id, &layout, make)?)
        }
        _ => None,
    };
    let rows = Rows {
        shape,
        split: shape.len() - usize::from(w.shape.len() > 1),
        bias_by_channel: false,
    };
    let rows_of_x = if x.shape.len() > 1 {
        x.shape[x.shape.len() - 2]
    } else {
        1
    };
    let work = Work::MatMul {
        plan,
        rows: rows_of_x,
        packed,
    };
    Ok((work, rows))
}

/// Whether there is one zero point, one for each of `each`, or one for each of `all`.
fn check_zeros(count: usize, each: usize, all: usize) -> Result<()> {
    if count == 1 || count == each || count == all {
        return Ok(());
    }
    Err(
        mismatch("the zero points are neither one nor one for each row, column or channel")
            .expected(each.to_string())
            .actual(count.to_string()),
    )
}

/// How many rows (or columns) a factor has in all its matrices, whose axis of summation is the last (1) or the last but
/// one (2): what is left of its elements without that axis, which may be empty.
fn sums(shape: &[usize], from_end: usize) -> usize {
    let axis = shape.len().saturating_sub(from_end);
    let kept = shape.iter().enumerate().filter(|&(i, _)| i != axis);
    kept.map(|(_, dim)| dim).product()
}

/// Every matrix `[k, n]` of a factor, packed.
fn pack_matrices(data: &[u8], dtype: DType, zeros: &[i32], k: usize, n: usize) -> Vec<Weights> {
    let pack = |(index, data): (usize, &[u8])| {
        let zeros = match zeros {
            [zero] => Zeros::One(*zero),
            // Sums of nothing are 0 whatever the zero points, of which there may be none either.
            _ if k * n == 0 => Zeros::One(0),
            zeros if zeros.len() == n => Zeros::Each(zeros),
            zeros => Zeros::Each(&zeros[index * n..(index + 1) * n]),
        };
        let matrix = ByteMatrix {
            data,
            is_signed: dtype == DType::I8,
            zeros,
        };
        Weights::right(matrix, k, n)
    };
    if k * n == 0 {
        return vec![pack((0, &[]))];
    }
    data.chunks_exact(k * n).enumerate().map(pack).collect()
}

fn plan_conv<'a>(
    ctx: &CpuLowering<'_>,
    window: &Window,
    groups: usize,
    w_zero: Option<&TensorDesc>,
    shape: &'a [usize],
) -> Result<(Work, Rows<'a>)> {
    let (x, w) = (ctx.input(X)?, ctx.input(W)?);
    let params = conv_params(window, groups, x, w, None)?;
    let channels = params.out_channels;
    let layout = format!("{params:?}");
    let conv = IntegerConv::new(params).ok_or_else(|| {
        Error::new(
            crate::error::ErrorCode::LimitExceeded,
            "the convolution's sizes exceed the address range",
        )
    })?;
    let packed = match (&w.constant, constant_zeros(w_zero)?) {
        (Some(constant), Some((zero_id, zeros))) => {
            check_zeros(zeros.len(), channels, channels)?;
            let make = || {
                let constant = constant.aligned()?;
                Ok(conv.pack(conv_weights(constant.bytes(), w.dtype, &zeros)))
            };
            let shared = ctx
                .prepared
                .get(w.constant_id, &format!("conv_int8 {zero_id} {groups}"), make)?;
            match conv.accepts(&shared) {
                true => Some(shared),
                false => Some(
                    ctx.prepared
                        .get(w.constant_id, &format!("conv_int8 {zero_id} {layout}"), make)?,
                ),
            }
        }
        _ => None,
    };
    let rows = Rows {
        shape,
        split: 2,
        bias_by_channel: true,
    };
    Ok((Work::Conv { conv, packed }, rows))
}

fn conv_weights<'a>(data: &'a [u8], dtype: DType, zeros: &'a [i32]) -> ByteMatrix<'a> {
    ByteMatrix {
        data,
        is_signed: dtype == DType::I8,
        zeros: match zeros {
            [zero] => Zeros::One(*zero),
            zeros => Zeros::Each(zeros),
        },
    }
}

/// What happens before and after the sums, as far as it depends on the inputs that are given.
struct Steps {
    dtypes: [DType; 2],
    has_zeros: [bool; 2],
    bias: Option<(DType, Fit)>,
    scale: Option<Fit>,
    y: Option<(DType, bool)>,
}

impl Steps {
    fn new(work: &Work, inputs: [Option<&TensorDesc>; 6], ctx: &CpuLowering<'_>, rows: &Rows<'_>) -> Result<Steps> {
        let [x_zero, w_zero, bias, scale, y_scale, y_zero] = inputs;
        let count = |desc: Option<&TensorDesc>| desc.map_or(Ok(1), |desc| element_count(&desc.shape));
        let (channels, by_channel) = match work {
            Work::MatMul { plan, rows, .. } => {
                let (sizes, _) = plan.products();
                check_zeros(count(x_zero)?, *rows, sums(&ctx.input(X)?.shape, 1))?;
                check_zeros(count(w_zero)?, sizes.n, sums(&ctx.input(W)?.shape, 2))?;
                (sizes.n, Fit::PerColumn)
            }
            Work::Conv { .. } => {
                let channels = ctx.input(W)?.shape[0];
                check_zeros(count(x_zero)?, 1, 1)?;
                check_zeros(count(w_zero)?, channels, channels)?;
                (channels, Fit::PerRow)
            }
        };
        // One number, one for each channel (a list, or along the channels' axis), or what broadcasts to rows or columns.
        let behind = if by_channel == Fit::PerColumn {
            0
        } else {
            rows.shape.len() - 2
        };
        let fit = |desc: &TensorDesc| -> Result<Fit> {
            let along_channels = desc.shape.len() == 1 || desc.shape.iter().rev().nth(behind) == Some(&channels);
            match element_count(&desc.shape)? {
                1 => Ok(Fit::Whole),
                found if found == channels && along_channels => Ok(by_channel),
                _ => match rows.fit(&desc.shape) {
                    fit @ (Fit::PerRow | Fit::PerColumn) => Ok(fit),
                    _ => Err(unsupported("a scale or bias of this shape is not supported")
                        .actual(display_shape(&desc.shape))),
                },
            }
        };
        let bias = match bias {
            Some(bias) if matches!(bias.dtype, DType::I32 | DType::F32) => Some((bias.dtype, fit(bias)?)),
            Some(_) => return Err(ctx.unsupported_type(BIAS)),
            None => None,
        };
        if matches!(bias, Some((DType::F32, Fit::Whole))) && channels != 1 {
            return Err(unsupported("a bias of one number is not supported"));
        }
        let y = match y_scale {
            Some(scale) if element_count(&scale.shape)? == 1 && count(y_zero)? == 1 => {
                Some((ctx.output(0)?.dtype, y_zero.is_some()))
            }
            Some(_) => return Err(rank_error(Y_SCALE, 0, 1)),
            None => None,
        };
        Ok(Steps {
            dtypes: [ctx.input(X)?.dtype, ctx.input(W)?.dtype],
            has_zeros: [x_zero.is_some(), w_zero.is_some()],
            bias,
            scale: scale.map(fit).transpose()?,
            y,
        })
    }

    fn own(&self) -> OwnSteps {
        OwnSteps {
            bias: matches!(self.bias, Some((DType::F32, _))),
            ..OwnSteps::NONE
        }
    }

    fn own_values<'a>(&self, inputs: &KernelInputs<'a>) -> Result<OwnValues<'a>> {
        let bias = match self.bias {
            Some((DType::F32, Fit::PerRow)) => Bias::PerRow(inputs.get(BIAS)?),
            Some((DType::F32, _)) => Bias::PerColumn(inputs.get(BIAS)?),
            _ => Bias::None,
        };
        Ok(OwnValues { bias, residual: None })
    }

    fn sum_bias<'a>(&self, inputs: &KernelInputs<'a>) -> Result<Per<'a, i32>> {
        match self.bias {
            Some((DType::I32, fit)) => per(fit, inputs.get(BIAS)?),
            _ => Ok(Per::One(0)),
        }
    }

    fn scale<'a>(&self, inputs: &KernelInputs<'a>) -> Result<Per<'a, f32>> {
        self.scale.map_or(Ok(Per::One(1.0)), |fit| per(fit, inputs.get(SCALE)?))
    }

    fn quantization(&self, inputs: &KernelInputs<'_>) -> Result<Option<Quantization>> {
        let Some((dtype, has_zero)) = self.y else {
            return Ok(None);
        };
        let zero = if has_zero {
            inputs.bytes(Y_ZERO)?.first().copied().unwrap_or(0)
        } else {
            0
        };
        let is_signed = dtype == DType::I8;
        Ok(Some(Quantization {
            scale: inputs.get::<f32>(Y_SCALE)?.first().copied().unwrap_or(1.0),
            zero: if is_signed {
                f32::from(zero as i8)
            } else {
                f32::from(zero)
            },
            is_signed,
        }))
    }

    /// The zero points of x (0) or w (1).
    fn zeros(&self, side: usize, inputs: &KernelInputs<'_>) -> Result<Vec<i32>> {
        if !self.has_zeros[side] {
            return Ok(vec![0]);
        }
        let bytes = inputs.bytes(X_ZERO + side)?;
        let mut wide = vec![0i64; bytes.len()];
        i64::load(self.dtypes[side], bytes, 0, 1, &mut wide)?;
        Ok(wide.into_iter().map(|zero| zero as i32).collect())
    }
}

fn per<T: Copy + Default>(fit: Fit, values: &[T]) -> Result<Per<'_, T>> {
    Ok(match fit {
        Fit::PerRow => Per::Row(values),
        Fit::PerColumn => Per::Column(values),
        _ => Per::One(values.first().copied().unwrap_or_default()),
    })
}

impl Work {
    fn run(
        &self,
        inputs: &KernelInputs<'_>,
        steps: &Steps,
        scratch: &mut [i32],
        threads: &Threads,
        store: &Store<'_>,
    ) -> Result<()> {
        let x = inputs.bytes(X)?;
        let [x_signed, _] = steps.dtypes.map(|dtype| dtype == DType::I8);
        let x_zeros = steps.zeros(0, inputs)?;
        match self {
            Work::MatMul { plan, rows, packed } => {
                let (sizes, _) = plan.products();
                let made;
                let weights = match packed {
                    Some(packed) => packed,
                    None => {
                        let zeros = steps.zeros(1, inputs)?;
                        made = pack_matrices(inputs.bytes(W)?, steps.dtypes[1], &zeros, sizes.k, sizes.n);
                        &made
                    }
                };
                let (row_zeros, scratch) = scratch.split_at_mut(sizes.m);
                for (index, &(x_start, w_start)) in plan.batches().iter().enumerate() {
                    let first = x_start / sizes.k.max(1);
                    let zeros = match &x_zeros[..] {
                        [zero] => Zeros::One(*zero),
                        zeros => {
                            for (row, place) in row_zeros.iter_mut().enumerate() {
                                let row = first + row;
                                *place = zeros[if zeros.len() == *rows { row % rows } else { row }];
                            }
                            Zeros::Each(row_zeros)
                        }
                    };
                    let x = ByteMatrix {
                        data: x.get(x_start..).unwrap_or(&[]),
                        is_signed: x_signed,
                        zeros,
                    };
                    let weights = weights.get(w_start / (sizes.k * sizes.n).max(1));
                    let weights = weights.ok_or_else(|| Error::internal("a matrix of weights is missing"))?;
                    let store = store.part(index * sizes.m, index * sizes.m);
                    matmul(sizes, x, weights, scratch, &store, threads);
                }
            }
            Work::Conv { conv, packed } => {
                let made;
                let weights = match packed {
                    Some(packed) => &**packed,
                    None => {
                        let zeros = steps.zeros(1, inputs)?;
                        made = conv.pack(conv_weights(inputs.bytes(W)?, steps.dtypes[1], &zeros));
                        &made
                    }
                };
                let zero = x_zeros.first().copied().unwrap_or(0);
                conv.run(x, (x_signed, zero), weights, scratch, store, threads);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use super::*;
    use crate::cpu::testing::Rng;

    #[test]
    fn zero_points_of_a_product_are_as_many_as_it_has_rows_or_columns() {
        let node = |zeros: usize| {
            TestNode::new("MatMulInteger", 10)
                .input(tensor(&[2, 2, 1], &[1u8, 2, 3, 4]))
                .input(tensor(&[1, 1], &[1u8]))
                .input(tensor(&[zeros], &vec![1u8; zeros]))
        };
        for zeros in [1, 2, 4] {
            assert_eq!(node(zeros).run1().unwrap(), tensor(&[2, 2, 1], &[0, 1, 2, 3]));
        }
        for zeros in [0, 3, 6] {
            assert!(node(zeros).run().is_err(), "{zeros} zero points");
        }
    }

    #[test]
    fn sums_of_nothing_are_zero_whatever_the_zero_points() {
        for batch in [0, 1, 2] {
            for columns in [0, 1, 3] {
                let x = tensor(&[batch, 2, 0], &[0u8; 0]);
                let w = tensor(&[batch, 0, columns], &[0u8; 0]);
                let zeros = |shape: &[usize]| tensor(shape, &vec![1u8; shape.iter().product()]);
                let shapes: [[&[usize]; 2]; 3] =
                    [[&[], &[]], [&[2], &[columns]], [&[batch, 2, 1], &[batch, 1, columns]]];
                for [x_shape, w_shape] in shapes {
                    let node = TestNode::new("MatMulInteger", 10).input(x.clone());
                    for node in [node.clone().input(w.clone()), node.constant(w.clone())] {
                        let node = node.input(zeros(x_shape)).constant(zeros(w_shape));
                        let expected = tensor(&[batch, 2, columns], &vec![0i32; batch * 2 * columns]);
                        assert_eq!(node.run1().unwrap(), expected, "{batch} by {columns}");
                    }
                }
            }
        }
    }

    #[test]
    fn batches_meet_their_own_matrices_and_zero_points() {
        let mut rng = Rng::new(44);
        let mut bytes = |len: usize| -> Vec<u8> { (0..len).map(|_| rng.next_u64() as u8).collect() };
        let (x, w) = (bytes(2 * 3 * 5), bytes(2 * 5 * 4));
        let (xz, wz) = (bytes(6), bytes(8));
        let mut expected = Vec::new();
        for at in 0..24 {
            let (batch, i, j) = (at / 12, at / 4 % 3, at % 4);
            let sum = (0..5).map(|d| {
                let x = i32::from(x[(batch * 3 + i) * 5 + d]) - i32::from(xz[batch * 3 + i]);
                x * (i32::from(w[(batch * 5 + d) * 4 + j]) - i32::from(wz[batch * 4 + j]))
            });
            expected.push(sum.sum::<i32>());
        }
        let node = TestNode::new("MatMulInteger", 10).input(tensor(&[2, 3, 5], &x));
        let fed = node.clone().input(tensor(&[2, 5, 4], &w));
        let constant = node.constant(tensor(&[2, 5, 4], &w));
        for node in [fed, constant] {
            let node = node.input(tensor(&[2, 3, 1], &xz)).constant(tensor(&[2, 1, 4], &wz));
            assert_eq!(node.run1().unwrap(), tensor(&[2, 3, 4], &expected));
        }
    }

    #[test]
    fn sums_become_floats_and_bytes() {
        let node = |name: &str| {
            TestNode::of(OperatorId::internal(name))
                .input(tensor(&[1, 1, 2], &[10u8, 12]))
                .constant(tensor(&[2, 1, 1], &[1i8, -1]))
                .input(tensor(&[], &[10u8]))
                .no_input()
                .constant(tensor(&[2], &[3i32, 0]))
                .constant(f32s(&[2], &[0.5, 1000.0]))
        };
        let floats = node("IntegerConv").run1().unwrap();
        assert_tensor_close(&floats, &f32s(&[1, 2, 2], &[1.5, 2.5, 0.0, -2000.0]), 0.0);
        let bytes = node("IntegerConv")
            .input(f32s(&[], &[0.25]))
            .input(tensor(&[], &[100u8]));
        assert_eq!(bytes.run1().unwrap(), tensor(&[1, 2, 2], &[106u8, 110, 100, 0]));
        let product = TestNode::of(OperatorId::internal("IntegerMatMul"))
            .input(tensor(&[1, 2], &[3i8, -4]))
            .input(tensor(&[2, 2], &[1i8, 2, 3, 4]))
            .no_input()
            .no_input()
            .input(f32s(&[2], &[0.25, 0.5]))
            .input(f32s(&[1, 2], &[0.5, 2.0]));
        assert_eq!(product.run1().unwrap(), f32s(&[1, 2], &[-4.25, -19.5]));
    }
}
