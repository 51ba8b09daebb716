//! Matrix products: ONNX `MatMul`, and the internal `FusedMatMul`, which takes transposed operands and a factor, and
//! `DequantizedMatMul`, whose weights stay 8-bit integers.

use super::{
    CpuLowering, GpuLowering, InferContext, Operator,
    context::{broadcast_dims, equal_dims, rank_error},
    epilogue::{CpuEpilogue, GpuEpilogue, OwnSteps, OwnValues, Rows, gpu_epilogue, gpu_operand},
    widen::widened,
};
use crate::{
    cpu::{
        codes::{self, Bytes},
        gemm::{PackedB, generic},
        kernel::{CpuKernel, scratch_as_f32},
        matmul::{MatMulPlan, Order},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::GpuKernel,
        kernels::matmul::{GemmAttributes, fused_matmul},
    },
    graph::Node,
    tensor::{DType, Dim, Element, display_shape},
};

/// Up to this many rows a packed B gains nothing: the product streams it as it is.
const THIN_ROWS: usize = 4;

/// `alpha * A · B` with numpy's rules for vectors and batches, `[.., m, k]` by `[.., k, n]`.
///
/// `MatMul` (since opset 1) takes the floats and 32- and 64-bit integers, `FusedMatMul` the floats. The epilogue needs
/// f32.
#[derive(Debug)]
pub struct MatMul {
    alpha: f32,
    a_order: Order,
    b_order: Order,
    integers: bool,
}

impl MatMul {
    /// ONNX `MatMul`.
    pub fn plain(_: &Node) -> Result<Box<dyn Operator>> {
        Ok(Box::new(MatMul {
            alpha: 1.0,
            a_order: Order::Plain,
            b_order: Order::Plain,
            integers: true,
        }))
    }

    /// The internal `FusedMatMul`: attributes `alpha`, `transA`, `transB`.
    pub fn fused(node: &Node) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        let order = |name| -> Result<Order> {
            Ok(match attributes.flag(name, false)? {
                true => Order::Transposed,
                false => Order::Plain,
            })
        };
        Ok(Box::new(MatMul {
            alpha: attributes.float("alpha")?.unwrap_or(1.0),
            a_order: order("transA")?,
            b_order: order("transB")?,
            integers: false,
        }))
    }

    fn plan(&self, a: &[usize], b: &[usize]) -> Result<MatMulPlan> {
        MatMulPlan::ordered(a, self.a_order, b, self.b_order).ok_or_else(|| {
            Error::new(ErrorCode::ShapeMismatch, "the matrices cannot be multiplied").actual(format!(
                "{} and {}",
                display_shape(a),
                display_shape(b)
            ))
        })
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (a, b) = (ctx.input(0)?, ctx.input(1)?);
        let mut plan = self.plan(&a.shape, &b.shape)?;
        let (sizes, products) = plan.products();
        let mut packed = false;
        if let Some(constant) = &b.constant
            && sizes.m * products > THIN_ROWS
        {
            let layout = format!("matmul_b {:?}", self.b_order);
            let shared = ctx.prepared.get(b.constant_id, &layout, || {
                Ok(PackedShared(plan.pack_b(&constant.to_f32s()?)))
            })?;
            if let Some(shared) = &shared.0 {
                plan = plan.with_packed_b(shared.clone());
                packed = plan.has_packed_b();
            }
        }
        let shape = plan.output().to_vec();
        // A vector on the right leaves no axis for the columns.
        let split = shape.len() - usize::from(b.shape.len() > 1);
        let rows = Rows {
            shape: &shape,
            split,
            bias_by_channel: false,
        };
        let own = OwnSteps {
            alpha: self.alpha,
            ..OwnSteps::NONE
        };
        let epilogue = CpuEpilogue::new(ctx, &rows, own)?;
        let epilogue_len = epilogue.scratch_len().next_multiple_of(4);
        let scratch_bytes = (epilogue_len + plan.scratch_len(ctx.threads)) * 4;
        let kernel = CpuKernel::compute_with_scratch("matmul_f32", scratch_bytes, move |io| {
            let a = io.inputs.get::<f32>(0)?;
            let b = if packed { &[] } else { io.inputs.get::<f32>(1)? };
            let out = io.outputs.take::<f32>(0)?;
            let (own, scratch) = scratch_as_f32(io.scratch).split_at_mut(epilogue_len);
            epilogue.with(&io.inputs, OwnValues::default(), own, &mut |epilogue| {
                plan.run(a, b, out, scratch, epilogue, io.threads);
            })
        });
        Ok(if packed { kernel.with_prepared_input(1) } else { kernel })
    }

    fn cpu_generic<T: Element + generic::Element + Scale>(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if ctx.epilogue().is_some() {
            return Err(Error::internal("an epilogue on a matrix product that is not f32"));
        }
        let (a, b) = (&ctx.input(0)?.shape, &ctx.input(1)?.shape);
        let plan = self.plan(a, b)?;
        let alpha = self.alpha;
        let (sizes, _) = plan.products();
        let (a_strides, b_strides) = plan.strides();
        Ok(CpuKernel::compute("matmul_generic", move |io| {
            let (a, b) = (io.inputs.get::<T>(0)?, io.inputs.get::<T>(1)?);
            let out = io.outputs.take::<T>(0)?;
            for (&(a_start, b_start), out) in plan
                .batches()
                .iter()
                .zip(out.chunks_exact_mut((sizes.m * sizes.n).max(1)))
            {
                let matrix = |data, (row_stride, col_stride)| generic::Matrix {
                    data,
                    row_stride,
                    col_stride,
                };
                let (a, b) = (matrix(&a[a_start..], a_strides), matrix(&b[b_start..], b_strides));
                generic::gemm(sizes.m, sizes.k, sizes.n, a, b, out);
            }
            if alpha != 1.0 {
                for value in out {
                    *value = value.scaled(alpha);
                }
            }
            Ok(())
        }))
    }
}

/// B packed for every plan with the same constant; `None` for a constant with batches of its own.
struct PackedShared(Option<std::sync::Arc<PackedB>>);

/// Multiplication by `alpha`, which only the floats are ever asked for.
trait Scale {
    fn scaled(self, alpha: f32) -> Self;
}

impl Scale for f64 {
    fn scaled(self, alpha: f32) -> f64 {
        self * f64::from(alpha)
    }
}

macro_rules! unscaled {
    ($($type:ty),*) => {
        $(impl Scale for $type {
            fn scaled(self, _: f32) -> $type {
                self
            }
        })*
    };
}

unscaled!(i32, i64, u32, u64);

impl Operator for MatMul {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let (Some(a), Some(b)) = (ctx.shape(0), ctx.shape(1)) else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        let (a_batch, m, a_k) = match (a, self.a_order) {
            ([], _) => return Err(rank_error(0, "at least 1", 0)),
            ([k], _) => (&[][..], None, k),
            ([batch @ .., m, k], Order::Plain) | ([batch @ .., k, m], Order::Transposed) => (batch, Some(m), k),
        };
        let (b_batch, b_k, n) = match (b, self.b_order) {
            ([], _) => return Err(rank_error(1, "at least 1", 0)),
            ([k], _) => (&[][..], k, None),
            ([batch @ .., k, n], Order::Plain) | ([batch @ .., n, k], Order::Transposed) => (batch, k, Some(n)),
        };
        equal_dims(a_k, b_k, "inner dimension of the matrices")?;
        let shape = broadcast_dims(a_batch, b_batch)?.map(|mut shape: Vec<Dim>| {
            shape.extend(m.cloned());
            shape.extend(n.cloned());
            shape
        });
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        if ctx.input(1)?.dtype != dtype {
            return Err(ctx.unsupported_type(1));
        }
        match dtype {
            DType::F32 => self.cpu_f32(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            DType::F64 => self.cpu_generic::<f64>(ctx),
            DType::I32 if self.integers => self.cpu_generic::<i32>(ctx),
            DType::I64 if self.integers => self.cpu_generic::<i64>(ctx),
            DType::U32 if self.integers => self.cpu_generic::<u32>(ctx),
            DType::U64 if self.integers => self.cpu_generic::<u64>(ctx),
            _ => Err(ctx.unsupported_type(0)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (a, b) = (ctx.input(0)?, ctx.input(1)?);
        if a.dtype != DType::F32 || b.dtype != DType::F32 {
            return Ok(None);
        }
        let GpuEpilogue::Takes(epilogue) = gpu_epilogue(ctx)? else {
            return Ok(None);
        };
        let attributes = GemmAttributes {
            alpha: self.alpha,
            beta: 0.0,
            transpose_a: self.a_order == Order::Transposed,
            transpose_b: self.b_order == Order::Transposed,
        };
        let (a, b) = (gpu_operand(a, 0), gpu_operand(b, 1));
        Ok(fused_matmul(&a, &b, &attributes, epilogue.as_ref(), ctx.caps))
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn operations(&self, inputs: &[Vec<usize>], outputs: u64) -> u64 {
        let depth = match self.a_order {
            Order::Transposed => inputs[0].iter().rev().nth(1),
            _ => inputs[0].last(),
        };
        2 * outputs * depth.map_or(1, |&depth| depth as u64)
    }
}

/// The internal `DequantizedMatMul`: `MatMul(A, DequantizeLinear(W, scale, zero))` of f32 `A` `[.., k]` and constant 8-bit `W`
/// `[k, n]`, or `[n, k]` with attribute `transB`; one scale and zero point, or one for each of the n columns.
#[derive(Debug)]
pub struct DequantizedMatMul {
    product: MatMul,
}

impl DequantizedMatMul {
    /// Reads the attribute.
    pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
        let transposed = node.attributes.flag("transB", false)?;
        let product = MatMul {
            alpha: 1.0,
            a_order: Order::Plain,
            b_order: if transposed { Order::Transposed } else { Order::Plain },
            integers: false,
        };
        Ok(Box::new(DequantizedMatMul { product }))
    }
}

impl Operator for DequantizedMatMul {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        self.product.infer(ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        const SCALE: usize = 2;
        const ZERO: usize = 3;
        let (a, w) = (ctx.input(0)?, ctx.input(1)?);
        let plan = self.product.plan(&a.shape, &w.shape)?;
        let (sizes, products) = plan.products();
        let zero = ctx.optional_input(ZERO);
        let (Some(codes), Some(scales)) = (ctx.constant(1), ctx.constant(SCALE)) else {
            return Err(Error::internal("weights or scales that are no constants"));
        };
        let id = |index: usize| ctx.optional_input(index).map_or(0, |desc| desc.constant_id);
        let layout = format!("codes {:?} {} {}", self.product.b_order, id(SCALE), id(ZERO));
        let made = ctx.prepared.get(w.constant_id, &layout, || {
            // Signed codes are raised to unsigned ones.
            let raise = if codes.dtype() == DType::I8 { 0x80 } else { 0 };
            let zeros = match zero {
                Some(_) => ctx.constant(ZERO).map(|zeros| zeros.bytes().to_vec()),
                None => Some(vec![0]),
            };
            let mut zeros = zeros.ok_or_else(|| Error::internal("zero points that are no constants"))?;
            zeros.iter_mut().for_each(|zero| *zero ^= raise);
            let (_, (row, column)) = plan.strides();
            let bytes = codes.bytes();
            let code = |at: usize| bytes[at] ^ raise;
            Ok(Bytes::new(
                code,
                [row, column],
                (sizes.k, sizes.n),
                &zeros,
                &scales.to_f32s()?,
            ))
        })?;
        let shape = plan.output().to_vec();
        let rows = Rows {
            shape: &shape,
            split: shape.len() - 1,
            bias_by_channel: false,
        };
        let epilogue = CpuEpilogue::new(ctx, &rows, OwnSteps::NONE)?;
        let epilogue_len = epilogue.scratch_len().next_multiple_of(4);
        let m = sizes.m * products;
        let scratch_bytes = (epilogue_len + codes::scratch_len(&*made, m, ctx.threads)) * 4;
        let kernel = CpuKernel::compute_with_scratch("matmul_8bits", scratch_bytes, move |io| {
            let (a, out) = (io.inputs.get::<f32>(0)?, io.outputs.take::<f32>(0)?);
            let (own, scratch) = scratch_as_f32(io.scratch).split_at_mut(epilogue_len);
            epilogue.with(&io.inputs, OwnValues::default(), own, &mut |epilogue| {
                codes::multiply(&*made, m, a, out, scratch, epilogue, io.threads);
            })
        });
        let inputs = if zero.is_some() { 1..ZERO + 1 } else { 1..ZERO };
        Ok(inputs.fold(kernel, CpuKernel::with_prepared_input))
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn operations(&self, inputs: &[Vec<usize>], outputs: u64) -> u64 {
        self.product.operations(inputs, outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};
    use super::*;
    use crate::{
        cpu::testing::Rng,
        graph::OperatorId,
        pointwise::{Builder, Expr, Storage},
        tensor::Tensor,
    };

    fn random(rng: &mut Rng, shape: &[usize]) -> Tensor {
        f32s(shape, &rng.vec(shape.iter().product()))
    }

    #[test]
    fn products_with_codes_equal_those_with_dequantised_weights() {
        let mut rng = Rng::new(71);
        for round in 0..40 {
            let (k, n) = (rng.size(1, 40), rng.size(1, 30));
            let shape = [vec![], vec![1], vec![3], vec![2, 9]][round % 4].clone();
            let a = random(&mut rng, &[shape, vec![k]].concat());
            let each = if round % 3 == 0 { n } else { 1 };
            let scale = random(&mut rng, &[each]);
            let codes: Vec<u8> = (0..k * n).map(|_| rng.next_u64() as u8).collect();
            let zeros: Vec<u8> = (0..each).map(|_| rng.next_u64() as u8).collect();
            let (signed, transposed) = (round % 2 == 0, round % 5 < 2);
            let stored = |shape: &[usize], values: &[u8]| match signed {
                true => tensor(shape, &values.iter().map(|&value| value as i8).collect::<Vec<_>>()),
                false => tensor(shape, values),
            };
            let number = |value: u8| {
                if signed {
                    f32::from(value as i8)
                } else {
                    f32::from(value)
                }
            };
            let dequantized = (0..k * n).map(|at| {
                let (depth, column) = (at / n, at % n);
                let code = codes[if transposed { column * k + depth } else { at }];
                let own = column.min(each - 1);
                (number(code) - number(zeros[own])) * scale.to_f32s().unwrap()[own]
            });
            let w = f32s(&[k, n], &dequantized.collect::<Vec<_>>());
            let expected = TestNode::new("MatMul", 13).input(a.clone()).input(w).run1().unwrap();
            let product = TestNode::of(OperatorId::internal("DequantizedMatMul"))
                .attr("transB", i64::from(transposed))
                .input(a)
                .constant(stored(&if transposed { [n, k] } else { [k, n] }, &codes))
                .constant(scale)
                .constant(stored(&[each], &zeros))
                .run1();
            assert_tensor_close(&product.unwrap(), &expected, 2e-4);
        }
    }

    #[test]
    fn ranks_types_and_constants_of_the_specification() {
        let a = i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let b = i64s(&[3, 2], &[7, 8, 9, 10, 11, 12]);
        let product = TestNode::new("MatMul", 13).input(a.clone()).input(b.clone()).run1();
        assert_eq!(product.unwrap(), i64s(&[2, 2], &[58, 64, 139, 154]));
        let dot = TestNode::new("MatMul", 9)
            .input(f32s(&[3], &[1.0, 2.0, 3.0]))
            .constant(f32s(&[3], &[4.0, 5.0, 6.0]))
            .run1();
        assert_eq!(dot.unwrap(), f32s(&[], &[32.0]));
        let half = |values: &[f32]| values.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>();
        let product = TestNode::new("MatMul", 13)
            .input(tensor(&[1, 2], &half(&[1.5, 2.0])))
            .constant(tensor(&[2, 2], &half(&[1.0, -1.0, 0.5, 4.0])))
            .run1();
        assert_eq!(product.unwrap(), tensor(&[1, 2], &half(&[2.5, 6.5])));
        let product = TestNode::new("MatMul", 13)
            .input(tensor(&[2, 1, 2], &[1.0f64, 2.0, 3.0, 4.0]))
            .input(tensor(&[2, 1], &[0.5f64, 0.25]))
            .run1();
        assert_eq!(product.unwrap(), tensor(&[2, 1, 1], &[1.0f64, 2.5]));
    }

    #[test]
    fn a_constant_b_gives_the_same_result_as_a_fed_one() {
        let mut rng = Rng::new(11);
        for (a, b) in [
            (&[2, 7, 9][..], &[9, 11][..]),
            (&[3, 9], &[9, 5]),
            (&[2, 5, 9], &[2, 9, 3]),
            (&[5, 4], &[4]),
        ] {
            let (a, b) = (random(&mut rng, a), random(&mut rng, b));
            let fed = TestNode::new("MatMul", 13).input(a.clone()).input(b.clone());
            let constant = TestNode::new("MatMul", 13).input(a).constant(b);
            assert_tensor_close(&constant.run1().unwrap(), &fed.run1().unwrap(), 1e-5);
            fed.assert_gpu_agrees(1e-5);
            constant.assert_gpu_agrees(1e-5);
        }
    }

    #[test]
    fn transposes_and_alpha_of_fused_products() {
        let a = f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        for operator in [
            OperatorId::internal("FusedMatMul"),
            OperatorId::new("com.microsoft", "FusedMatMul", 1),
        ] {
            let node = TestNode::of(operator)
                .attr("alpha", 0.5f32)
                .attr("transA", 1i64)
                .attr("transB", 1i64)
                .input(a.clone());
            // [3, 2] · [2, 2]: rows (1, 4), (2, 5), (3, 6) by columns (1, 2), (3, 4).
            let expected = f32s(&[3, 2], &[4.5, 9.5, 6.0, 13.0, 7.5, 16.5]);
            for node in [node.clone().input(b.clone()), node.constant(b.clone())] {
                assert_eq!(node.run1().unwrap(), expected);
                node.assert_gpu_agrees(1e-6);
            }
            let wide = |t: &Tensor| {
                let values: Vec<f64> = t.to_f32s().unwrap().iter().map(|&v| v.into()).collect();
                tensor(t.shape(), &values)
            };
            let doubles = TestNode::of(OperatorId::internal("FusedMatMul"))
                .attr("alpha", 0.5f32)
                .attr("transA", 1i64)
                .attr("transB", 1i64)
                .input(wide(&a))
                .input(wide(&b));
            assert_eq!(doubles.run1().unwrap(), wide(&expected));
        }
    }

    /// An epilogue as fusion makes it: `f(result, further inputs…)`.
    fn expression(
        inputs: usize,
        f: impl FnOnce(&mut Builder, &[crate::pointwise::Reg]) -> crate::pointwise::Reg,
    ) -> Expr {
        let mut builder = Builder::new();
        let registers: Vec<_> = (0..=inputs).map(|_| builder.input(Storage::F32)).collect();
        let result = f(&mut builder, &registers);
        builder.output(result, Storage::F32);
        builder.finish().unwrap()
    }

    #[test]
    fn epilogues_equal_the_expression_applied_to_the_product() {
        let mut rng = Rng::new(12);
        let (a, b) = (random(&mut rng, &[2, 6, 5]), random(&mut rng, &[5, 9]));
        let product = TestNode::new("MatMul", 13)
            .input(a.clone())
            .input(b.clone())
            .run1()
            .unwrap();
        let shapes: [&[usize]; 8] = [
            &[9],
            &[2, 6, 9],
            &[2, 6, 1],
            &[6, 1],
            &[2, 1, 9],
            &[],
            &[1, 1, 9],
            &[2, 1, 1],
        ];
        for (row, first) in shapes.into_iter().enumerate() {
            for (column, second) in shapes.into_iter().enumerate() {
                let exprs = [
                    expression(2, |e, x| {
                        let sum = e.add(x[0], x[1]);
                        let sum = e.add(sum, x[2]);
                        e.relu(sum)
                    }),
                    expression(2, |e, x| {
                        let half = e.constant(0.5);
                        let scaled = e.mul(x[0], half);
                        let sum = e.add(scaled, x[1]);
                        let (low, high) = (e.constant(-0.25), e.constant(0.75));
                        let clamped = e.max(sum, low);
                        let clamped = e.min(clamped, high);
                        e.mul(clamped, x[2])
                    }),
                    // The result is used twice, and so is an input.
                    expression(2, |e, x| {
                        let square = e.mul(x[0], x[0]);
                        let sum = e.add(square, x[1]);
                        let sum = e.sub(x[2], sum);
                        e.add(sum, x[1])
                    }),
                ];
                for expr in exprs {
                    let further = [random(&mut rng, first), random(&mut rng, second)];
                    let elements = |t: &Tensor| {
                        let values = t.to_f32s().unwrap().into_owned();
                        (t.shape().to_vec(), crate::pointwise::reference::Elements::F32(values))
                    };
                    let inputs: Vec<_> = [&product, &further[0], &further[1]].map(elements).into();
                    let expected = crate::pointwise::reference::eval_tensors(&expr, product.shape(), &inputs);
                    let crate::pointwise::reference::Elements::F32(expected) = &expected[0] else {
                        panic!("the expression gives f32");
                    };
                    let node = TestNode::new("MatMul", 13).input(a.clone());
                    for node in [node.clone().input(b.clone()), node.constant(b.clone())] {
                        let node = node.epilogue(expr.clone(), &further);
                        assert_tensor_close(&node.run1().unwrap(), &f32s(product.shape(), expected), 1e-5);
                        if column == (row + 3) % 8 {
                            node.assert_gpu_agrees(1e-5);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_name_both_and_types_outside_the_schema_are_refused() {
        let node = |a, b| TestNode::new("MatMul", 13).input(a).input(b);
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(dtype, shape).unwrap();
        let error = node(zeros(DType::F32, &[2, 3]), zeros(DType::F32, &[4, 2]))
            .run()
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::ShapeMismatch);
        assert_eq!(
            (error.place().expected.as_deref(), error.place().actual.as_deref()),
            (Some("3"), Some("4"))
        );
        let error = node(zeros(DType::I8, &[2, 3]), zeros(DType::I8, &[3, 2]))
            .run()
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::UnsupportedOperator);
        let error = node(zeros(DType::F32, &[]), zeros(DType::F32, &[3, 2]))
            .run()
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::ShapeMismatch);
    }

    #[test]
    fn zero_sized_dimensions_give_zeros_or_nothing() {
        let zeros = |shape: &[usize]| Tensor::zeros(DType::F32, shape).unwrap();
        for (a, b, output) in [
            (&[2, 0][..], &[0, 3][..], &[2, 3][..]),
            (&[0, 4], &[4, 3], &[0, 3]),
            (&[0, 2, 4], &[4, 3], &[0, 2, 3]),
        ] {
            for constant in [false, true] {
                let node = TestNode::new("MatMul", 13).input(zeros(a));
                let node = if constant {
                    node.constant(zeros(b))
                } else {
                    node.input(zeros(b))
                };
                assert_eq!(node.run1().unwrap(), zeros(output));
            }
        }
    }
}
