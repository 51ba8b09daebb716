//! ONNX `Gemm`: one matrix product with scale, transposes and a bias that broadcasts.

use super::{
    CpuLowering, GpuLowering, InferContext, Operator,
    context::{equal_dims, rank_error},
    epilogue::{CpuEpilogue, Fit, GpuEpilogue, OwnSteps, OwnValues, Rows, gpu_epilogue, gpu_operand},
    widen::{converted, widened},
};
use crate::{
    cpu::{
        epilogue::Bias,
        gemm::{GemmShape, Lhs, MatrixRef, PackedA, PackedB, Rhs, gemm, gemm_scratch_len, generic},
        kernel::{CpuKernel, KernelInputs, scratch_as_f32},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::GpuKernel,
        kernels::matmul::{self, GemmAttributes},
    },
    graph::Node,
    pointwise::access::broadcast_strides,
    tensor::{DType, Dim, Element, display_shape},
};

/// Up to this many rows a packed B gains nothing: the product streams it as it is.
const THIN_ROWS: usize = 4;

/// `alpha * A' · B' + beta * C`, with A' `[m, k]` and B' `[k, n]` transposed as the attributes say and C broadcast to
/// `[m, n]`.
///
/// Opsets 1 to 6 take C of the full shape unless attribute `broadcast` is set; from 7 on it always broadcasts, from 11
/// on it may be left out. Floats, and 32- and 64-bit integers (in f64 where `alpha` or `beta` is no whole
/// number).
#[derive(Debug)]
pub struct Gemm {
    alpha: f32,
    beta: f32,
    trans_a: bool,
    trans_b: bool,
    broadcast: bool,
}

impl Gemm {
    /// Reads the attributes.
    pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        Ok(Box::new(Gemm {
            alpha: attributes.float("alpha")?.unwrap_or(1.0),
            beta: attributes.float("beta")?.unwrap_or(1.0),
            trans_a: attributes.flag("transA", false)?,
            trans_b: attributes.flag("transB", false)?,
            broadcast: node.operator.version >= 7 || attributes.flag("broadcast", false)?,
        }))
    }

    fn shape(&self, ctx: &CpuLowering<'_>) -> Result<GemmShape> {
        let matrix = |index: usize| match ctx.input(index)?.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            ref other => Err(rank_error(index, 2, other.len())),
        };
        let flip = |(a, b): (usize, usize), flipped: bool| if flipped { (b, a) } else { (a, b) };
        let (m, k) = flip(matrix(0)?, self.trans_a);
        let (b_k, n) = flip(matrix(1)?, self.trans_b);
        equal_dims(&Dim::from(k), &Dim::from(b_k), "inner dimension of the matrices")?;
        Ok(GemmShape { m, k, n })
    }

    /// The steps from one element of C to the next along the output's axes; an error when C does not broadcast.
    fn bias_strides(&self, shape: GemmShape, c: &[usize]) -> Result<(usize, usize)> {
        let output = [shape.m, shape.n];
        let strides = if self.broadcast || c == output {
            broadcast_strides(&output, c)
        } else {
            None
        };
        let strides = strides.ok_or_else(|| {
            Error::new(ErrorCode::ShapeMismatch, "input 2 does not broadcast to the product")
                .expected(display_shape(&output))
                .actual(display_shape(c))
        })?;
        Ok((strides[0], strides[1]))
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let shape = self.shape(ctx)?;
        let GemmShape { m, k, n } = shape;
        let output = [m, n];
        let rows = Rows {
            shape: &output,
            split: 1,
            bias_by_channel: false,
        };
        let bias = match ctx
            .optional_input(2)
            .filter(|_| self.beta != 0.0 && ctx.input_count() > 2)
        {
            Some(c) => OwnBias::new(rows.fit(&c.shape), self.bias_strides(shape, &c.shape)?, self.beta, m, n),
            None => OwnBias::None,
        };
        let own = OwnSteps {
            alpha: self.alpha,
            bias: matches!(bias, OwnBias::Bias(..) | OwnBias::ScaledBias { .. }),
            residual: matches!(bias, OwnBias::Residual | OwnBias::ScaledResidual { .. }),
        };
        let epilogue = CpuEpilogue::new(ctx, &rows, own)?;
        let (a, b) = (ctx.input(0)?, ctx.input(1)?);
        let (trans_a, trans_b) = (self.trans_a, self.trans_b);
        // Rows of a plain A are read as they are; only a transposed one gains from being packed.
        let packed_a = match &a.constant {
            Some(constant) if trans_a => Some(ctx.prepared.get(a.constant_id, "gemm_a transposed", || {
                Ok(PackedA::new(matrix(&constant.to_f32s()?, true, k, m), m, k))
            })?),
            _ => None,
        };
        let packed_b = match &b.constant {
            Some(constant) if m > THIN_ROWS => {
                let layout = if trans_b { "gemm_b transposed" } else { "gemm_b" };
                Some(ctx.prepared.get(b.constant_id, layout, || {
                    Ok(PackedB::new(matrix(&constant.to_f32s()?, trans_b, n, k), k, n))
                })?)
            }
            _ => None,
        };
        let (has_a, has_b) = (packed_a.is_some(), packed_b.is_some());
        let bias_len = bias.scratch_len(m, n).next_multiple_of(4);
        let epilogue_len = epilogue.scratch_len().next_multiple_of(4);
        let scratch_bytes = (bias_len + epilogue_len + ctx.threads * gemm_scratch_len(shape, has_a, has_b)) * 4;
        let mut kernel = CpuKernel::compute_with_scratch("gemm_f32", scratch_bytes, move |io| {
            let lhs = match &packed_a {
                Some(packed) => Lhs::Packed(packed),
                None => Lhs::Matrix(matrix(io.inputs.get(0)?, trans_a, k, m)),
            };
            let rhs = match &packed_b {
                Some(packed) => Rhs::Packed(packed),
                None => Rhs::Matrix(matrix(io.inputs.get(1)?, trans_b, n, k)),
            };
            let out = io.outputs.take::<f32>(0)?;
            let (bias_scratch, scratch) = scratch_as_f32(io.scratch).split_at_mut(bias_len);
            let (epilogue_scratch, scratch) = scratch.split_at_mut(epilogue_len);
            let own = bias.values(&io.inputs, bias_scratch)?;
            epilogue.with(&io.inputs, own, epilogue_scratch, &mut |epilogue| {
                gemm(shape, lhs, rhs, out, scratch, epilogue, io.threads);
            })
        });
        for (input, packed) in [(0, has_a), (1, has_b)] {
            if packed {
                kernel = kernel.with_prepared_input(input);
            }
        }
        Ok(kernel)
    }

    fn cpu_generic<T: Element + generic::Element + FromFactor>(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if ctx.epilogue().is_some() {
            return Err(Error::internal("an epilogue on a matrix product that is not f32"));
        }
        let factor = |value: f32, name: &str| {
            T::from_factor(value).ok_or_else(|| {
                Error::new(
                    ErrorCode::UnsupportedOperator,
                    format!("Gemm of integers takes a whole number for {name}"),
                )
                .actual(value.to_string())
            })
        };
        let (alpha, beta) = (factor(self.alpha, "alpha")?, factor(self.beta, "beta")?);
        let shape = self.shape(ctx)?;
        let GemmShape { m, k, n } = shape;
        let bias = match ctx
            .optional_input(2)
            .filter(|_| self.beta != 0.0 && ctx.input_count() > 2)
        {
            Some(c) => Some(self.bias_strides(shape, &c.shape)?),
            None => None,
        };
        let (trans_a, trans_b) = (self.trans_a, self.trans_b);
        Ok(CpuKernel::compute("gemm_generic", move |io| {
            let a = generic_matrix(io.inputs.get::<T>(0)?, trans_a, k, m);
            let b = generic_matrix(io.inputs.get::<T>(1)?, trans_b, n, k);
            let out = io.outputs.take::<T>(0)?;
            generic::gemm(m, k, n, a, b, out);
            let bias = match bias {
                Some(strides) => Some((io.inputs.get::<T>(2)?, strides)),
                None => None,
            };
            for (row, values) in out.chunks_exact_mut(n.max(1)).enumerate() {
                for (column, value) in values.iter_mut().enumerate() {
                    *value = value.times(alpha);
                    if let Some((c, (row_stride, column_stride))) = bias {
                        *value = value.plus(c[row * row_stride + column * column_stride].times(beta));
                    }
                }
            }
            Ok(())
        }))
    }
}

/// A matrix with so many columns when it is stored as it is multiplied, and so many when it is stored flipped.
fn matrix(data: &[f32], flipped: bool, plain_columns: usize, flipped_columns: usize) -> MatrixRef<'_> {
    match flipped {
        false => MatrixRef::row_major(data, plain_columns),
        true => MatrixRef::transposed(data, flipped_columns),
    }
}

/// The same for the other element types.
fn generic_matrix<T>(
    data: &[T],
    flipped: bool,
    plain_columns: usize,
    flipped_columns: usize,
) -> generic::Matrix<'_, T> {
    generic::Matrix {
        data,
        row_stride: if flipped { 1 } else { plain_columns },
        col_stride: if flipped { flipped_columns } else { 1 },
    }
}

/// What is added to the product: C itself where that has a form which kernels take, else a copy of it.
#[derive(Clone, Copy, Debug)]
enum OwnBias {
    None,
    /// C as it is, per row or per column.
    Bias(Fit),
    /// C as it is, for each element.
    Residual,
    /// `beta * C`, per row or per column; `stride` is 0 for one value for all.
    ScaledBias {
        fit: Fit,
        stride: usize,
        beta: f32,
    },
    /// `beta * C`, for each element.
    ScaledResidual {
        beta: f32,
    },
}

impl OwnBias {
    fn new(fit: Fit, strides: (usize, usize), beta: f32, m: usize, n: usize) -> OwnBias {
        match fit {
            Fit::Whole if m * n == 0 => OwnBias::None,
            Fit::Whole if beta == 1.0 => OwnBias::Residual,
            Fit::Whole => OwnBias::ScaledResidual { beta },
            Fit::PerRow | Fit::PerColumn if beta == 1.0 => OwnBias::Bias(fit),
            Fit::PerRow => OwnBias::ScaledBias {
                fit,
                stride: strides.0,
                beta,
            },
            // What broadcasts to two axes and is neither whole nor per row is per column, or one value.
            Fit::PerColumn | Fit::Other => OwnBias::ScaledBias {
                fit: Fit::PerColumn,
                stride: strides.1,
                beta,
            },
        }
    }

    fn scratch_len(self, m: usize, n: usize) -> usize {
        match self {
            OwnBias::None | OwnBias::Bias(_) | OwnBias::Residual => 0,
            OwnBias::ScaledBias { fit: Fit::PerRow, .. } => m,
            OwnBias::ScaledBias { .. } => n,
            OwnBias::ScaledResidual { .. } => m * n,
        }
    }

    fn values<'a>(self, inputs: &KernelInputs<'a>, scratch: &'a mut [f32]) -> Result<OwnValues<'a>> {
        let bias = |fit, values| match fit {
            Fit::PerRow => Bias::PerRow(values),
            _ => Bias::PerColumn(values),
        };
        Ok(match self {
            OwnBias::None => OwnValues::default(),
            OwnBias::Bias(fit) => OwnValues {
                bias: bias(fit, inputs.get(2)?),
                residual: None,
            },
            OwnBias::Residual => OwnValues {
                bias: Bias::None,
                residual: Some(inputs.get(2)?),
            },
            OwnBias::ScaledBias { fit, stride, beta } => {
                let c = inputs.get::<f32>(2)?;
                for (index, value) in scratch.iter_mut().enumerate() {
                    *value = beta * c.get(index * stride).copied().unwrap_or(0.0);
                }
                OwnValues {
                    bias: bias(fit, scratch),
                    residual: None,
                }
            }
            OwnBias::ScaledResidual { beta } => {
                for (value, c) in scratch.iter_mut().zip(inputs.get::<f32>(2)?) {
                    *value = beta * c;
                }
                OwnValues {
                    bias: Bias::None,
                    residual: Some(scratch),
                }
            }
        })
    }
}

/// `alpha` and `beta` in the element type; `None` when that cannot hold them.
trait FromFactor: Sized {
    fn from_factor(factor: f32) -> Option<Self>;
}

impl FromFactor for f64 {
    fn from_factor(factor: f32) -> Option<f64> {
        Some(factor.into())
    }
}

macro_rules! whole_factors {
    ($($type:ty),*) => {
        $(impl FromFactor for $type {
            fn from_factor(factor: f32) -> Option<$type> {
                let whole = factor.fract() == 0.0 && (-1e9..1e9).contains(&factor);
                if whole { <$type>::try_from(factor as i64).ok() } else { None }
            }
        })*
    };
}

whole_factors!(i32, i64, u32, u64);

impl Operator for Gemm {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let mut matrix = |index: usize, flipped: bool| -> Result<(Dim, Dim)> {
            match ctx.shape(index) {
                Some([rows, columns]) if flipped => Ok((columns.clone(), rows.clone())),
                Some([rows, columns]) => Ok((rows.clone(), columns.clone())),
                Some(other) => Err(rank_error(index, 2, other.len())),
                None => Ok((ctx.fresh_dim(), ctx.fresh_dim())),
            }
        };
        let (m, k) = matrix(0, self.trans_a)?;
        let (b_k, n) = matrix(1, self.trans_b)?;
        equal_dims(&k, &b_k, "inner dimension of the matrices")?;
        ctx.set_output(0, dtype, Some(vec![m, n]));
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        for index in 1..ctx.input_count().min(3) {
            if ctx.optional_input(index).is_some_and(|input| input.dtype != dtype) {
                return Err(ctx.unsupported_type(index));
            }
        }
        let is_whole = self.alpha.fract() == 0.0 && self.beta.fract() == 0.0;
        match dtype {
            DType::I32 | DType::I64 | DType::U32 | DType::U64 if !is_whole => {
                converted(ctx, |_| DType::F64, |ctx| self.cpu(ctx))
            }
            DType::F32 => self.cpu_f32(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            DType::F64 => self.cpu_generic::<f64>(ctx),
            DType::I32 => self.cpu_generic::<i32>(ctx),
            DType::I64 => self.cpu_generic::<i64>(ctx),
            DType::U32 => self.cpu_generic::<u32>(ctx),
            DType::U64 => self.cpu_generic::<u64>(ctx),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (a, b) = (ctx.input(0)?, ctx.input(1)?);
        let c = ctx.optional_input(2).filter(|_| ctx.input_count() > 2);
        if [Some(a), Some(b), c]
            .into_iter()
            .flatten()
            .any(|desc| desc.dtype != DType::F32)
        {
            return Ok(None);
        }
        let GpuEpilogue::Takes(epilogue) = gpu_epilogue(ctx)? else {
            return Ok(None);
        };
        let attributes = GemmAttributes {
            alpha: self.alpha,
            beta: self.beta,
            transpose_a: self.trans_a,
            transpose_b: self.trans_b,
        };
        let (a, b, c) = (gpu_operand(a, 0), gpu_operand(b, 1), c.map(|c| gpu_operand(c, 2)));
        Ok(matmul::gemm(
            &a,
            &b,
            c.as_ref(),
            &attributes,
            epilogue.as_ref(),
            ctx.caps,
        ))
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn operations(&self, inputs: &[Vec<usize>], outputs: u64) -> u64 {
        let depth = inputs[0].get(usize::from(!self.trans_a));
        2 * outputs * depth.map_or(1, |&depth| depth as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};
    use super::*;
    use crate::{
        cpu::testing::Rng,
        pointwise::{Builder, Storage},
        tensor::Tensor,
    };

    /// The operator as its definition reads.
    fn reference(a: &Tensor, b: &Tensor, c: Option<&Tensor>, gemm: &Gemm) -> Tensor {
        let at = |t: &Tensor, i: usize, j: usize, flipped: bool| {
            let (i, j) = if flipped { (j, i) } else { (i, j) };
            f64::from(t.to_f32s().unwrap()[i * t.shape()[1] + j])
        };
        let size = |t: &Tensor, axis: usize, flipped: bool| t.shape()[if flipped { 1 - axis } else { axis }];
        let (m, k, n) = (
            size(a, 0, gemm.trans_a),
            size(a, 1, gemm.trans_a),
            size(b, 1, gemm.trans_b),
        );
        let mut values = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let product: f64 = (0..k)
                    .map(|d| at(a, i, d, gemm.trans_a) * at(b, d, j, gemm.trans_b))
                    .sum();
                let bias = c.map_or(0.0, |c| {
                    let strides = broadcast_strides(&[m, n], c.shape()).unwrap();
                    f64::from(c.to_f32s().unwrap()[i * strides[0] + j * strides[1]])
                });
                values.push((f64::from(gemm.alpha) * product + f64::from(gemm.beta) * bias) as f32);
            }
        }
        f32s(&[m, n], &values)
    }

    #[test]
    fn every_bias_transpose_and_factor_matches_the_definition() {
        let mut rng = Rng::new(21);
        for (m, k, n) in [(1, 7, 5), (6, 9, 11), (5, 1, 1), (1, 3, 1)] {
            let biases: [Option<&[usize]>; 7] = [
                None,
                Some(&[]),
                Some(&[1]),
                Some(&[n]),
                Some(&[m, 1]),
                Some(&[1, n]),
                Some(&[m, n]),
            ];
            for bias in biases {
                for round in 0..16 {
                    let gemm = Gemm {
                        alpha: [1.0, 0.25][round & 1],
                        beta: [1.0, 0.5, 1.0, 0.0][round >> 2],
                        trans_a: round & 1 == 1,
                        trans_b: round & 2 == 2,
                        broadcast: true,
                    };
                    let mut random = |shape: &[usize]| f32s(shape, &rng.vec(shape.iter().product()));
                    let a = random(&if gemm.trans_a { [k, m] } else { [m, k] });
                    let b = random(&if gemm.trans_b { [n, k] } else { [k, n] });
                    let c = bias.map(&mut random);
                    let node = TestNode::new("Gemm", 13)
                        .attr("alpha", gemm.alpha)
                        .attr("beta", gemm.beta)
                        .attr("transA", i64::from(gemm.trans_a))
                        .attr("transB", i64::from(gemm.trans_b));
                    let expected = reference(&a, &b, c.as_ref(), &gemm);
                    let nodes = [
                        node.clone().input(a.clone()).input(b.clone()),
                        node.clone().input(a.clone()).constant(b.clone()),
                        node.constant(a.clone()).input(b.clone()),
                    ];
                    for node in nodes {
                        let node = match &c {
                            Some(c) => node.input(c.clone()),
                            None => node,
                        };
                        assert_tensor_close(&node.run1().unwrap(), &expected, 1e-5);
                        let mut builder = Builder::new();
                        let (x, y) = (builder.input(Storage::F32), builder.input(Storage::F32));
                        let sum = builder.add(x, y);
                        let relu = builder.relu(sum);
                        builder.output(relu, Storage::F32);
                        let shift = f32s(&[n], &vec![0.125; n]);
                        let finished: Vec<f32> = expected
                            .to_f32s()
                            .unwrap()
                            .iter()
                            .map(|x| (x + 0.125).max(0.0))
                            .collect();
                        let node = node.epilogue(builder.finish().unwrap(), &[shift]);
                        if (m, n) == (6, 11) && round % 5 == 1 {
                            node.assert_gpu_agrees(1e-5);
                        }
                        assert_tensor_close(&node.run1().unwrap(), &f32s(&[m, n], &finished), 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn integers_and_doubles_stay_what_they_are() {
        let big = i64::MAX / 2;
        let node = TestNode::new("Gemm", 13)
            .attr("alpha", 2.0f32)
            .attr("beta", 3.0f32)
            .input(i64s(&[1, 2], &[big, 1]))
            .input(i64s(&[2, 1], &[1, 1]))
            .input(i64s(&[1], &[-1]));
        assert_eq!(node.run1().unwrap(), i64s(&[1, 1], &[i64::MAX - 2]));
        let fraction = TestNode::new("Gemm", 13)
            .attr("alpha", 0.5f32)
            .input(i64s(&[1, 1], &[7]))
            .input(i64s(&[1, 1], &[1]));
        assert_eq!(fraction.run1().unwrap(), i64s(&[1, 1], &[3]));
        let node = TestNode::new("Gemm", 13)
            .input(tensor(&[1, 1], &[1.0f64 + 1e-12]))
            .input(tensor(&[1, 1], &[1.0f64]));
        assert_eq!(node.run1().unwrap(), tensor(&[1, 1], &[1.0f64 + 1e-12]));
    }

    #[test]
    fn old_opsets_broadcast_only_when_told_to() {
        let node = TestNode::new("Gemm", 6)
            .input(f32s(&[2, 1], &[1.0, 2.0]))
            .input(f32s(&[1, 2], &[3.0, 4.0]))
            .input(f32s(&[2], &[0.5, 1.5]));
        assert_eq!(node.clone().run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
        let result = node.attr("broadcast", 1i64).run1().unwrap();
        assert_eq!(result, f32s(&[2, 2], &[3.5, 5.5, 6.5, 9.5]));
    }

    #[test]
    fn ranks_and_inner_sizes_are_checked() {
        let zeros = |shape: &[usize]| Tensor::zeros(DType::F32, shape).unwrap();
        let node = |a, b, c| {
            TestNode::new("Gemm", 13)
                .input(zeros(a))
                .input(zeros(b))
                .input(zeros(c))
        };
        for node in [
            node(&[2], &[2, 2], &[2]),
            node(&[2, 3], &[2, 2], &[2]),
            node(&[2, 2], &[2, 2], &[3]),
            node(&[2, 2], &[2, 2], &[1, 2, 2]),
        ] {
            assert_eq!(node.run1().unwrap_err().code(), ErrorCode::ShapeMismatch);
        }
        let empty = TestNode::new("Gemm", 13)
            .input(zeros(&[0, 2]))
            .input(zeros(&[2, 3]))
            .input(zeros(&[3]));
        assert_eq!(empty.run1().unwrap(), zeros(&[0, 3]));
    }
}
