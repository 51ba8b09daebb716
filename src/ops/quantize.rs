//! Quantisation: QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, TensorDesc,
    lower::{invalid, mismatch, unsupported},
};
use crate::{
    cpu::{
        elementwise::{self, TILE, Wide},
        int8::quantize::{Quantization, dequantize, quantize, range},
        kernel::{CpuKernel, KernelInputs},
    },
    error::Result,
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::{
            elementwise::{self as gpu_elementwise, Input},
            integer,
        },
        wgsl::DispatchBuilder,
    },
    graph::Node,
    tensor::{DType, Dim, Rounding, SmallFloat, display_shape, element_count, resolve_axis},
};

/// ONNX `QuantizeLinear` (`saturate(round(x / scale) + zero_point)`, halves to even) and `DequantizeLinear`
/// (`(x - zero_point) * scale`): per tensor, per axis (opset 13) and by blocks (opset 21). Integers of 2 to 16 bits, floats
/// of 8 and 4 bits, and int32 to dequantise.
#[derive(Debug)]
struct Linear {
    is_quantize: bool,
    axis: i64,
    block_size: usize,
    output_dtype: Option<DType>,
    /// Whether what lies beyond a small float's range becomes its largest number.
    saturate: bool,
    /// In which type x is divided by the scale; the scale's when not given.
    precision: Option<DType>,
}

/// Makes [`Linear`].
pub fn make_linear(node: &Node) -> Result<Box<dyn Operator>> {
    let dtype = |name: &str| match node.attributes.int(name)? {
        None | Some(0) => Ok(None),
        Some(number) => {
            let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
            let dtype =
                dtype.ok_or_else(|| unsupported(format!("attribute {name} names a type that is not supported")));
            dtype.map(Some).map_err(|error| error.actual(number.to_string()))
        }
    };
    let block_size = node.attributes.int("block_size")?.unwrap_or(0);
    Ok(Box::new(Linear {
        is_quantize: &*node.operator.name == "QuantizeLinear",
        axis: node.attributes.int("axis")?.unwrap_or(1),
        block_size: usize::try_from(block_size).map_err(|_| invalid("attribute block_size is negative"))?,
        output_dtype: dtype("output_dtype")?,
        saturate: node.attributes.flag("saturate", true)?,
        precision: dtype("precision")?,
    }))
}

/// How scales belong to elements.
enum Granularity {
    /// The scale's shape, with trailing ones, broadcasts to the input's.
    Broadcast(Vec<usize>),
    /// `outer` times `len` rows of `inner` elements; rows of `size` next to each other share a row of scales.
    Blocks { len: usize, inner: usize, size: usize },
}

/// One element: x, scale and zero point to the result.
type Apply = dyn Fn(f64, f64, f64) -> f64 + Send + Sync;

impl Linear {
    fn output_type(&self, scale: DType, zero_point: Option<DType>) -> DType {
        match (self.output_dtype, self.is_quantize) {
            (Some(dtype), _) => dtype,
            (None, true) => zero_point.unwrap_or(DType::U8),
            (None, false) => scale,
        }
    }

    fn granularity(&self, shape: &[usize], scale: &[usize]) -> Result<Granularity> {
        let error = || {
            mismatch("the shape of the scales does not fit the input's")
                .expected(display_shape(shape))
                .actual(display_shape(scale))
        };
        if self.block_size == 0 {
            if scale.iter().product::<usize>() == 1 {
                return Ok(Granularity::Broadcast(Vec::new()));
            }
            let axis = resolve_axis(self.axis, shape.len())?;
            if scale != [shape[axis]] {
                return Err(error());
            }
            let mut aligned = vec![1; shape.len() - axis];
            aligned[0] = shape[axis];
            return Ok(Granularity::Broadcast(aligned));
        }
        let axis = resolve_axis(self.axis, shape.len())?;
        let mut expected = shape.to_vec();
        expected[axis] = shape[axis].div_ceil(self.block_size);
        if scale != expected {
            return Err(error());
        }
        Ok(Granularity::Blocks {
            len: shape[axis],
            inner: shape[axis + 1..].iter().product(),
            size: self.block_size,
        })
    }

    /// The kernel between f32 and 8 bits with one scale, which most quantised models spend their element-wise time in. Gives
    /// what the general one gives.
    fn per_tensor(&self, ctx: &CpuLowering<'_>, name: &'static str) -> Result<Option<CpuKernel>> {
        let (input, scale, output) = (ctx.input(0)?.dtype, ctx.input(1)?.dtype, ctx.output(0)?.dtype);
        let zero_point = ctx.optional_input(2).map(|zero_point| zero_point.dtype);
        let (narrow, wide) = if self.is_quantize {
            (output, input)
        } else {
            (input, output)
        };
        let is_precise = self.precision.is_none_or(|precision| precision == DType::F32);
        if [scale, wide] != [DType::F32; 2]
            || !matches!(narrow, DType::U8 | DType::I8)
            || zero_point.is_some_and(|dtype| dtype != narrow)
            || !is_precise
        {
            return Ok(None);
        }
        let is_signed = narrow == DType::I8;
        let number = move |byte: u8| {
            if is_signed {
                f32::from(byte as i8)
            } else {
                f32::from(byte)
            }
        };
        let is_quantize = self.is_quantize;
        Ok(Some(CpuKernel::compute(name, move |io| {
            let scale = io.inputs.get::<f32>(1)?.first().copied().unwrap_or(1.0);
            let zero_point = match zero_point {
                Some(_) => io.inputs.bytes(2)?.first().map_or(0.0, |&byte| number(byte)),
                None => 0.0,
            };
            let between = Quantization {
                scale,
                zero: zero_point,
                is_signed,
            };
            if is_quantize {
                quantize(io.inputs.get::<f32>(0)?, between, io.outputs.take_bytes(0)?);
            } else {
                dequantize(io.inputs.bytes(0)?, between, io.outputs.take::<f32>(0)?);
            }
            Ok(())
        })))
    }

    fn apply(&self, scale: DType, output: DType) -> Result<Box<Apply>> {
        if !self.is_quantize {
            // Exact in f64, and rounded once when it is stored.
            return Ok(Box::new(|x, scale, zero_point| (x - zero_point) * scale));
        }
        let round: fn(f64) -> f64 = match self.precision.unwrap_or(scale) {
            DType::F64 => |x| x,
            DType::F16 => |x| half::f16::from_f64(x).to_f64(),
            DType::BF16 => |x| half::bf16::from_f64(x).to_f64(),
            _ => |x| f64::from(x as f32),
        };
        if let Some(format) = SmallFloat::of(output) {
            let saturate = self.saturate;
            return Ok(Box::new(move |x, scale, zero_point| {
                format.decode(format.encode(round(x / scale) + zero_point, saturate, Rounding::Nearest))
            }));
        }
        let (low, high) = int_range(output)
            .ok_or_else(|| unsupported("the quantised type is not supported").actual(output.name()))?;
        Ok(Box::new(move |x, scale, zero_point| {
            (round(x / scale).round_ties_even() + zero_point).clamp(low, high)
        }))
    }
}

/// The smallest and largest value of an integer type of up to 16 bits.
fn int_range(dtype: DType) -> Option<(f64, f64)> {
    let bits = dtype.bits().filter(|&bits| bits <= 16 && dtype.is_integer())? as i32;
    Some(match dtype.is_unsigned() {
        true => (0.0, 2f64.powi(bits) - 1.0),
        false => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0),
    })
}

impl Operator for Linear {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let scale = ctx.dtype(1)?;
        let zero_point = if ctx.has_input(2) { Some(ctx.dtype(2)?) } else { None };
        if !self.is_quantize && zero_point.is_some_and(|dtype| Some(dtype) != ctx.dtype(0).ok()) {
            return Err(invalid("the zero point has another element type than the input"));
        }
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, self.output_type(scale, zero_point), shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (input, scale, output) = (ctx.input(0)?, ctx.input(1)?, ctx.result(0)?);
        if matches!(input.dtype, DType::String | DType::Bool) || !(scale.dtype.is_float() || scale.dtype == DType::I32)
        {
            return Err(ctx.unsupported_type(if scale.dtype.is_float() { 0 } else { 1 }));
        }
        let zero_point = ctx.optional_input(2);
        // One number may be a scalar here and a list there.
        let is_one = |shape: &[usize]| shape.iter().product::<usize>() == 1;
        let fits = |zero_point: &TensorDesc| {
            zero_point.shape == scale.shape || (is_one(&zero_point.shape) && is_one(&scale.shape))
        };
        if !zero_point.is_none_or(fits) {
            return Err(mismatch("zero point and scale have different shapes"));
        }
        let apply = self.apply(scale.dtype, output.dtype)?;
        let name = if self.is_quantize { "quantize" } else { "dequantize" };
        match self.granularity(&input.shape, &scale.shape)? {
            Granularity::Broadcast(aligned) => {
                if aligned.is_empty()
                    && let Some(kernel) = self.per_tensor(ctx, name)?
                {
                    return Ok(kernel);
                }
                let mut operands = ctx.operands();
                operands[1..]
                    .iter_mut()
                    .for_each(|operand| operand.shape = aligned.clone());
                if !output.dtype.is_integer() {
                    return elementwise::kernel(
                        name,
                        operands,
                        output,
                        move |tiles: &[&[f64]], results: &mut [f64]| {
                            for (index, to) in results.iter_mut().enumerate() {
                                *to = apply(
                                    tiles[0][index],
                                    tiles[1][index],
                                    tiles.get(2).map_or(0.0, |tile| tile[index]),
                                );
                            }
                            Ok(())
                        },
                    );
                }
                elementwise::kernel(name, operands, output, move |tiles: &[&[f64]], results: &mut [i64]| {
                    for (index, to) in results.iter_mut().enumerate() {
                        let zero_point = tiles.get(2).map_or(0.0, |tile| tile[index]);
                        *to = apply(tiles[0][index], tiles[1][index], zero_point) as i64;
                    }
                    Ok(())
                })
            }
            Granularity::Blocks { len, inner, size } => {
                let blocks = Blocks {
                    dtypes: [
                        input.dtype,
                        scale.dtype,
                        zero_point.map_or(DType::U8, |zero_point| zero_point.dtype),
                    ],
                    has_zero_point: zero_point.is_some(),
                    count: element_count(&input.shape)?,
                    output: output.dtype,
                    len,
                    inner,
                    size,
                    apply,
                };
                Ok(CpuKernel::compute(name, move |io| {
                    let target = io.outputs.take_bytes(0)?;
                    blocks.run(&io.inputs, target)
                }))
            }
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        Ok(self.on_gpu(ctx))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

impl Linear {
    /// The GPU kernel between f32 and integers of 8 bits (or from int32), with one scale or one for each place of an axis.
    fn on_gpu(&self, ctx: &GpuLowering<'_>) -> Option<GpuKernel> {
        let (input, scale, output) = (ctx.optional_input(0)?, ctx.optional_input(1)?, ctx.optional_output(0)?);
        let zero_point = ctx.optional_input(2);
        let (narrow, wide) = match self.is_quantize {
            true => (output.dtype, input.dtype),
            false => (input.dtype, output.dtype),
        };
        let range = match narrow {
            DType::U8 => "0.0, 255.0",
            DType::I8 => "-128.0, 127.0",
            DType::I32 if !self.is_quantize => "",
            _ => return None,
        };
        let is_precise = self.precision.is_none_or(|precision| precision == DType::F32);
        let zero_fits = zero_point.is_none_or(|zero_point| {
            let one = |shape: &[usize]| shape.iter().product::<usize>() == 1;
            let same = zero_point.shape == scale.shape || (one(&zero_point.shape) && one(&scale.shape));
            same && zero_point.dtype == narrow
        });
        if [scale.dtype, wide] != [DType::F32; 2] || !is_precise || !zero_fits {
            return None;
        }
        let Ok(Granularity::Broadcast(aligned)) = self.granularity(&input.shape, &scale.shape) else {
            return None;
        };
        let word = GpuType::held(narrow)?.wgsl();
        let (from, to) = match self.is_quantize {
            true => ("f32", word),
            false => (word, "f32"),
        };
        let mut inputs = vec![
            Input {
                index: 0,
                ty: from,
                shape: &input.shape,
            },
            Input {
                index: 1,
                ty: "f32",
                shape: &aligned,
            },
        ];
        let zero = match zero_point {
            Some(_) => {
                inputs.push(Input {
                    index: 2,
                    ty: word,
                    shape: &aligned,
                });
                "f32(x2)"
            }
            None => "0.0",
        };
        let value = match (self.is_quantize, zero_point) {
            (true, _) => format!("{word}(select(clamp(round(divided(x0, x1)) + {zero}, {range}), 0.0, is_nan(x0)))"),
            // The difference of integers of 32 bits does not fit a float.
            (false, Some(_)) => "f32(i32(x0) - i32(x2)) * x1".to_string(),
            (false, None) => "f32(x0) * x1".to_string(),
        };
        let prepare = |dispatch: DispatchBuilder| match self.is_quantize {
            true => integer::with_division(dispatch).flag("TRUNCATE", true),
            false => dispatch,
        };
        gpu_elementwise::kernel(&value, &inputs, to, &output.shape, prepare, ctx.caps)
    }
}

/// Quantisation by blocks.
struct Blocks {
    dtypes: [DType; 3],
    has_zero_point: bool,
    count: usize,
    output: DType,
    len: usize,
    inner: usize,
    size: usize,
    apply: Box<Apply>,
}

impl Blocks {
    fn run(&self, inputs: &KernelInputs<'_>, target: &mut [u8]) -> Result<()> {
        let blocks = self.len.div_ceil(self.size);
        let mut results = [0f64; TILE];
        let (mut x, mut scale, mut zero_point) = ([0f64; TILE], [0f64; 1], [0f64; 1]);
        for start in (0..self.count).step_by(TILE) {
            let len = TILE.min(self.count - start);
            f64::load(self.dtypes[0], inputs.bytes(0)?, start, 1, &mut x[..len])?;
            let mut last = usize::MAX;
            for index in 0..len {
                let flat = start + index;
                let (row, column) = (flat / self.inner, flat % self.inner);
                let block = (row / self.len * blocks + row % self.len / self.size) * self.inner + column;
                if block != last {
                    f64::load(self.dtypes[1], inputs.bytes(1)?, block, 1, &mut scale)?;
                    if self.has_zero_point {
                        f64::load(self.dtypes[2], inputs.bytes(2)?, block, 1, &mut zero_point)?;
                    }
                    last = block;
                }
                results[index] = (self.apply)(x[index], scale[0], zero_point[0]);
            }
            if !self.output.is_integer() {
                f64::store(self.output, &results[..len], target, start)?;
            } else {
                let whole = results.map(|value| value as i64);
                i64::store(self.output, &whole[..len], target, start)?;
            }
        }
        Ok(())
    }
}

/// ONNX `DynamicQuantizeLinear` (opset 11): f32 to uint8 with scale and zero point from the smallest and largest element
/// (and zero). The scale of all zeros is 1.
#[derive(Debug)]
struct DynamicQuantize;

/// Makes [`DynamicQuantize`].
pub fn make_dynamic(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(DynamicQuantize))
}

impl Operator for DynamicQuantize {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if ctx.dtype(0)? != DType::F32 {
            return Err(invalid("the input is not float32"));
        }
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, DType::U8, shape);
        ctx.set_output(1, DType::F32, Some(Vec::new()));
        ctx.set_output(2, DType::U8, Some(Vec::new()));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Ok(CpuKernel::compute("dynamic_quantize", |io| {
            let x = io.inputs.get::<f32>(0)?;
            let (low, high) = range(x);
            let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
            let zero_point = (0.0 - low / scale).clamp(0.0, 255.0).round_ties_even();
            if io.outputs.has(0) {
                let to = Quantization {
                    scale,
                    zero: zero_point,
                    is_signed: false,
                };
                quantize(x, to, io.outputs.take::<u8>(0)?);
            }
            if io.outputs.has(1) {
                io.outputs.take::<f32>(1)?.fill(scale);
            }
            if io.outputs.has(2) {
                io.outputs.take::<u8>(2)?.fill(zero_point as u8);
            }
            Ok(())
        }))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let count = ctx.input(0)?.shape.iter().product();
        let wanted = [0, 1, 2].map(|index| ctx.optional_output(index).is_some());
        Ok(integer::dynamic_quantize(count, wanted, ctx.caps))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use crate::tensor::Tensor;

    #[test]
    fn quantising_rounds_halves_to_even_and_saturates() {
        let node = TestNode::new("QuantizeLinear", 13)
            .input(f32s(&[6], &[-1000.0, -1.0, 1.0, 3.0, 5.0, 1000.0]))
            .input(f32s(&[], &[2.0]))
            .input(tensor(&[], &[10i8]));
        assert_eq!(node.run1().unwrap(), tensor(&[6], &[-128i8, 10, 10, 12, 12, 127]));
    }

    #[test]
    fn one_scale_gives_what_equal_scales_along_an_axis_give() {
        let mut floats: Vec<f32> = (-700..700).map(|i| i as f32 * 0.41).collect();
        floats.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.15, -0.15, 1e30]);
        let bytes: Vec<u8> = (0..=255).collect();
        let run = |name: &str, x: &Tensor, zero: &dyn Fn(usize) -> Tensor, count: usize| {
            let shape: &[usize] = if count == 1 { &[] } else { &[2] };
            TestNode::new(name, 13)
                .attr("axis", 0)
                .input(x.clone())
                .input(f32s(shape, &vec![0.3; count]))
                .input(zero(count).reshaped(shape).unwrap())
                .run1()
                .unwrap()
        };
        let (half, quarter) = (floats.len() / 2, bytes.len() / 2);
        let signed: Vec<i8> = bytes.iter().map(|&byte| byte as i8).collect();
        let zero_u8 = |count| tensor(&[count], &vec![7u8; count]);
        let zero_i8 = |count| tensor(&[count], &vec![-7i8; count]);
        let cases: [(&str, Tensor, &dyn Fn(usize) -> Tensor); 4] = [
            ("QuantizeLinear", f32s(&[2, half], &floats), &zero_u8),
            ("QuantizeLinear", f32s(&[2, half], &floats), &zero_i8),
            ("DequantizeLinear", tensor(&[2, quarter], &bytes), &zero_u8),
            ("DequantizeLinear", tensor(&[2, quarter], &signed), &zero_i8),
        ];
        for (name, x, zero) in cases {
            assert_eq!(run(name, &x, zero, 1), run(name, &x, zero, 2));
        }
    }

    /// Where a quotient lies next to a tie, its last bit decides.
    #[test]
    fn ties_round_on_the_gpu_as_on_the_cpu() {
        let mut rng = crate::cpu::testing::Rng::new(7);
        for _ in 0..8 {
            let scale = rng.f32().abs() * 0.1 + 1e-3;
            let near = |k: i32| (k as f32 - 99.5) * scale;
            let values: Vec<f32> = (0..200).map(near).collect();
            let node = TestNode::new("QuantizeLinear", 13)
                .input(tensor(&[200], &values))
                .input(tensor(&[], &[scale]))
                .input(tensor(&[], &[100u8]));
            node.assert_gpu_agrees(0.0);
            TestNode::new("DynamicQuantizeLinear", 11)
                .input(tensor(&[200], &values))
                .assert_gpu_agrees(0.0);
        }
    }

    #[test]
    fn scales_belong_to_an_axis() {
        let node = TestNode::new("DequantizeLinear", 13)
            .attr("axis", -2)
            .input(tensor(&[1, 2, 2], &[10u8, 20, 30, 40]))
            .input(f32s(&[2], &[0.5, 2.0]))
            .input(tensor(&[2], &[10u8, 20]));
        assert_eq!(node.run1().unwrap(), f32s(&[1, 2, 2], &[0.0, 5.0, 20.0, 40.0]));
    }

    #[test]
    fn blocks_share_scales_and_the_last_may_be_short() {
        let node = TestNode::new("DequantizeLinear", 21)
            .attr("axis", 1)
            .attr("block_size", 2)
            .input(tensor(&[2, 3], &[1i8, 2, 3, 4, 5, 6]))
            .input(f32s(&[2, 2], &[1.0, 10.0, 100.0, 1000.0]));
        assert_eq!(
            node.run1().unwrap(),
            f32s(&[2, 3], &[1.0, 2.0, 30.0, 400.0, 500.0, 6000.0])
        );
    }

    #[test]
    fn dynamic_quantisation_finds_scale_and_zero_point() {
        let node = TestNode::new("DynamicQuantizeLinear", 11)
            .outputs(3)
            .input(f32s(&[3], &[-1.0, 0.0, 1.55]));
        let results = node.run().unwrap();
        assert_tensor_close(&results[1], &f32s(&[], &[0.01]), 1e-6);
        assert_eq!(results[2], tensor(&[], &[100u8]));
        assert_eq!(results[0], tensor(&[3], &[0u8, 100, 255]));
        let zeros = TestNode::new("DynamicQuantizeLinear", 11)
            .outputs(3)
            .input(f32s(&[2], &[0.0, 0.0]));
        assert_eq!(zeros.run().unwrap()[0], tensor(&[2], &[0u8, 0]));
    }

    #[test]
    fn integer_products_equal_the_naive_sum() {
        let a: Vec<u8> = (0..24).map(|i| (i * 37 % 256) as u8).collect();
        let b: Vec<i8> = (0..20).map(|i| (i * 91 % 256) as u8 as i8).collect();
        let zeros = [3i8, -4, 5, 0, 9];
        let mut expected = vec![0i32; 2 * 3 * 5];
        for (index, sum) in expected.iter_mut().enumerate() {
            let (row, column) = (index / 5, index % 5);
            *sum = (0..4)
                .map(|k| (i32::from(a[row * 4 + k]) - 7) * (i32::from(b[k * 5 + column]) - i32::from(zeros[column])))
                .sum();
        }
        let node = |b: fn(TestNode, Tensor) -> TestNode, list: &[i8]| {
            let node = TestNode::new("MatMulInteger", 10).input(tensor(&[2, 3, 4], &a));
            let node = b(node, tensor(&[4, 5], list)).input(tensor(&[], &[7u8]));
            b(node, tensor(&[5], &zeros)).run1().unwrap()
        };
        let expected = tensor(&[2, 3, 5], &expected);
        assert_eq!(node(TestNode::input, &b), expected);
        assert_eq!(node(TestNode::constant, &b), expected);
    }
}
