//! Conversion of element types: Cast and CastLike.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, PointwiseForm, PointwiseInput,
    lower::{invalid, unsupported},
    of_larger_build, on_gpu,
    widen::narrow_ints,
};
use crate::{
    cpu::{
        elementwise::{self, Operand},
        expression,
        kernel::CpuKernel,
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::elementwise::{self as gpu_elementwise, Input},
    },
    graph::Node,
    pointwise::{Builder, Expr, Storage, Type},
    tensor::{Bool8, DType, Dim, Rounding, Tensor},
};

/// ONNX `Cast` (target in attribute `to`, a name before opset 6) and `CastLike` (the second input's type).
///
/// Any pair of types. Floats become integers by cutting off (NaN becomes 0, what does not fit i64 its nearest end, and
/// narrower integers wrap around); everything but zero becomes true. Strings hold numbers as they are written, with
/// `INF` and `NaN` in any case. `saturate` (opset 19) and `round_mode` (opset 24) concern 8-bit floats alone.
#[derive(Debug)]
struct Cast {
    to: Option<DType>,
    saturate: bool,
    /// How a number becomes a power of two (float8e8m0).
    rounding: Rounding,
}

/// Makes [`Cast`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let saturate = node.attributes.flag("saturate", true)?;
    let rounding = match node.attributes.string("round_mode")?.unwrap_or("up") {
        "up" => Rounding::Up,
        "down" => Rounding::Down,
        "nearest" => Rounding::Nearest,
        other => return Err(invalid("attribute round_mode is not up, down or nearest").actual(other)),
    };
    let cast_to = |to| {
        let cast: Box<dyn Operator> = Box::new(Cast { to, saturate, rounding });
        Ok(cast)
    };
    if &*node.operator.name == "CastLike" {
        return cast_to(None);
    }
    let missing = || invalid("attribute to is missing");
    let to = if node.operator.version < 6 {
        let name = node.attributes.string("to")?.ok_or_else(missing)?;
        let name = match name.to_ascii_lowercase().as_str() {
            "float" => "float32".to_string(),
            "double" => "float64".to_string(),
            other => other.to_string(),
        };
        DType::from_name(&name)
            .ok_or_else(|| unsupported("casts to this element type are not supported").actual(name))?
    } else {
        let number = node.attributes.int("to")?.ok_or_else(missing)?;
        let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
        dtype.ok_or_else(|| {
            unsupported("casts to this element type are not supported").actual(format!("TensorProto.DataType {number}"))
        })?
    };
    cast_to(Some(to))
}

fn storage_of(dtype: DType) -> Option<Storage> {
    match dtype {
        DType::F32 => Some(Storage::F32),
        DType::Bool => Some(Storage::Bool),
        _ => None,
    }
}

fn cast_expr(from: Storage, to: Storage) -> Result<Expr> {
    let mut b = Builder::new();
    let x = b.input(from);
    let y = b.cast(x, if to == Storage::Bool { Type::Bool } else { Type::F32 });
    b.output(y, to);
    b.finish().map_err(|error| Error::internal(error.to_string()))
}

impl Cast {
    fn target(&self, like: Option<DType>) -> Result<DType> {
        self.to
            .or(like)
            .ok_or_else(|| invalid("the type to cast to is not known"))
    }
}

impl Operator for Cast {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let from = ctx.dtype(0)?;
        let to = self.target(if self.to.is_none() { Some(ctx.dtype(1)?) } else { None })?;
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, to, shape);
        let Some(elements) = ctx.input(0).and_then(|facts| facts.elements.as_ref()) else {
            return Ok(());
        };
        let bits = to.bits().unwrap_or(0) as u32;
        let cast = |element: &Dim| match (to, element.known()) {
            (DType::Bool, Some(value)) => Some(Dim::from(i64::from(value != 0))),
            (DType::Bool, None) => (element.lower_bound() > Some(0)).then(|| Dim::from(1)),
            (DType::I64, _) | (_, None) => Some(element.clone()),
            (_, Some(value)) if to.is_unsigned() => {
                (value >= 0 && (bits == 64 || value >> bits == 0)).then(|| element.clone())
            }
            (_, Some(value)) => (value >= -1 << (bits - 1) && value < 1 << (bits - 1)).then(|| element.clone()),
        };
        if (to.is_integer() || to == DType::Bool)
            && from != DType::String
            && let Some(elements) = elements.iter().map(cast).collect::<Option<Vec<_>>>()
        {
            ctx.set_elements(0, elements);
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let input = ctx.input(0)?;
        let output = ctx.result(0)?;
        let (from, to) = (input.dtype, output.dtype);
        if from == to {
            return Ok(CpuKernel::View { input: 0 });
        }
        if let (Some(from), Some(to)) = (storage_of(from), storage_of(to)) {
            return expression::kernel(
                "pointwise",
                &cast_expr(from, to)?,
                vec![ctx.operands().swap_remove(0)],
                vec![output],
            );
        }
        let inputs = vec![ctx.operands().swap_remove(0)];
        match (from, to) {
            // The table of powers of ten that reading numbers takes is 10 kB: models with texts get the larger build.
            (DType::String, _) if !ALL_OPERATORS => Err(of_larger_build("texts to numbers")),
            (DType::String, _) if !to.is_small_float() => Ok(parse(to)),
            (_, DType::String) => Ok(print()),
            _ if from.is_small_float() || to.is_small_float() => Ok(self.small(to)),
            _ if from.is_float() => from_floats(from, inputs, output),
            _ => from_ints(from, inputs, output),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let kernel = on_gpu::pointwise_kernel(self, ctx);
        if kernel.is_some() || !ALL_OPERATORS {
            return Ok(kernel);
        }
        let (input, output) = (ctx.input(0)?, ctx.output(0)?);
        let (Some(from), Some(to)) = (GpuType::held(input.dtype), GpuType::held(output.dtype)) else {
            return Ok(kernel);
        };
        if from == GpuType::I64 || to == GpuType::I64 {
            return Ok(kernel);
        }
        // From here on, x0 is a number in the word of its type.
        let bits = match from {
            GpuType::F32 => "float_bits(x0)",
            _ => "bitcast<u32>(x0)",
        };
        let value = match to {
            GpuType::F32 => "f32(x0)".to_string(),
            GpuType::Bool => format!("select(0u, 1u, x0 != {}(0))", from.wgsl()),
            GpuType::I32 if from == GpuType::F32 => "float_int(x0)".to_string(),
            GpuType::I32 => format!("bitcast<i32>({bits})"),
            GpuType::I8 => format!("bitcast<i32>({bits} << 24u) >> 24u"),
            GpuType::U8 => format!("{bits} & 255u"),
            GpuType::U32 | GpuType::I64 => bits.to_string(),
        };
        let (ty, shape) = (from.wgsl(), &input.shape);
        let inputs = [Input { index: 0, ty, shape }];
        let prepare = |dispatch: crate::gpu::wgsl::DispatchBuilder| dispatch.flag("TRUNCATE", from == GpuType::F32);
        Ok(gpu_elementwise::kernel(
            &value,
            &inputs,
            to.wgsl(),
            shape,
            prepare,
            ctx.caps,
        ))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }

    fn pointwise(&self, inputs: &[PointwiseInput<'_>]) -> Option<PointwiseForm> {
        let to = self.target(inputs.get(1).map(|like| like.dtype)).ok()?;
        let expr = cast_expr(storage_of(inputs.first()?.dtype)?, storage_of(to)?).ok()?;
        Some(PointwiseForm { expr, inputs: vec![0] })
    }
}

impl Cast {
    /// From or to a float of 8 or 4 bits.
    fn small(&self, to: DType) -> CpuKernel {
        let (saturate, rounding) = (self.saturate, self.rounding);
        CpuKernel::dynamic("cast", move |inputs| {
            let tensor = input_tensor(inputs)?;
            let values = match tensor.dtype() {
                DType::String if ALL_OPERATORS => parse_all(tensor.strings()?, parse_float)?,
                _ => tensor.to_f64s()?,
            };
            let result = match to.is_small_float() {
                true => {
                    let rounding = if to == DType::F8E8M0 {
                        rounding
                    } else {
                        Rounding::Nearest
                    };
                    Tensor::from_f64s_as(to, tensor.shape(), &values, saturate, rounding)?
                }
                // Integers wrap around as they do from other floats.
                false if to.is_integer() && to != DType::U64 => {
                    let whole: Vec<i64> = values.iter().map(|&value| value as i64).collect();
                    narrow_ints(to, tensor.shape(), &whole)?
                }
                false => Tensor::from_f64s(to, tensor.shape(), &values)?,
            };
            Ok(vec![result])
        })
    }
}

fn from_floats(from: DType, inputs: Vec<Operand>, output: Operand) -> Result<CpuKernel> {
    let to = output.dtype;
    if to.is_float() && (from == DType::F64 || to == DType::F64) {
        return elementwise::kernel("cast", inputs, output, |tiles: &[&[f64]], results: &mut [f64]| {
            results.copy_from_slice(tiles[0]);
            Ok(())
        });
    }
    if to.is_float() {
        return elementwise::kernel("cast", inputs, output, |tiles: &[&[f32]], results: &mut [f32]| {
            results.copy_from_slice(tiles[0]);
            Ok(())
        });
    }
    elementwise::kernel("cast", inputs, output, move |tiles: &[&[f64]], results: &mut [i64]| {
        for (to_value, &x) in results.iter_mut().zip(tiles[0]) {
            *to_value = float_to_int(x, to);
        }
        Ok(())
    })
}

/// The integer that a float becomes, as `i64` (bits of u64 for that type).
fn float_to_int(x: f64, to: DType) -> i64 {
    match to {
        DType::Bool => i64::from(x != 0.0),
        DType::U64 if x >= 0.0 => x as u64 as i64,
        DType::I32 => (x as i32).into(),
        _ => x as i64,
    }
}

fn from_ints(from: DType, inputs: Vec<Operand>, output: Operand) -> Result<CpuKernel> {
    match output.dtype {
        DType::F32 => {
            // From 64 bits to f32 in one rounding.
            let is_u64 = from == DType::U64;
            ints_to_f32(is_u64, inputs, output)
        }
        to if to.is_float() => elementwise::kernel("cast", inputs, output, |tiles: &[&[f64]], results: &mut [f64]| {
            results.copy_from_slice(tiles[0]);
            Ok(())
        }),
        _ => elementwise::kernel("cast", inputs, output, |tiles: &[&[i64]], results: &mut [i64]| {
            results.copy_from_slice(tiles[0]);
            Ok(())
        }),
    }
}

fn ints_to_f32(is_u64: bool, inputs: Vec<Operand>, output: Operand) -> Result<CpuKernel> {
    elementwise::kernel("cast", inputs, output, move |tiles: &[&[i64]], results: &mut [f32]| {
        for (to, &x) in results.iter_mut().zip(tiles[0]) {
            *to = if is_u64 { x as u64 as f32 } else { x as f32 };
        }
        Ok(())
    })
}

/// Numbers as text.
fn print() -> CpuKernel {
    CpuKernel::dynamic("cast_to_string", |inputs| {
        let tensor = input_tensor(inputs)?;
        let texts: Vec<String> = match tensor.dtype() {
            DType::F64 => tensor
                .view::<f64>()?
                .iter()
                .map(|&v| float_text(v, format!("{v:?}")))
                .collect(),
            dtype if dtype.is_float() => tensor
                .to_f32s()?
                .iter()
                .map(|&v| float_text(v.into(), format!("{v:?}")))
                .collect(),
            DType::U64 => tensor.view::<u64>()?.iter().map(u64::to_string).collect(),
            DType::Bool => {
                let text = |&v: &Bool8| if bool::from(v) { "True" } else { "False" };
                tensor.view::<Bool8>()?.iter().map(|v| text(v).to_string()).collect()
            }
            _ => tensor.to_i64s()?.iter().map(i64::to_string).collect(),
        };
        Ok(vec![Tensor::from_strings(tensor.shape(), texts)?])
    })
}

fn input_tensor(inputs: &[Option<Tensor>]) -> Result<&Tensor> {
    let tensor = inputs.first().and_then(Option::as_ref);
    tensor.ok_or_else(|| Error::internal("the input is missing"))
}

/// A float as text: `shortest`, the fewest digits that read back as the same number, in the spelling that numpy has.
fn float_text(value: f64, shortest: String) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "INF" } else { "-INF" }.into();
    }
    match shortest.split_once('e') {
        // Exponents have a sign and two digits.
        Some((mantissa, exponent)) => {
            let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
            let (sign, digits) = exponent
                .strip_prefix('-')
                .map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => shortest,
    }
}

/// Text as numbers.
fn parse(to: DType) -> CpuKernel {
    CpuKernel::dynamic("cast_from_string", move |inputs| {
        let tensor = input_tensor(inputs)?;
        let strings = tensor.strings()?;
        let shape = tensor.shape();
        let result = match to {
            DType::U64 => Tensor::new(shape, parse_all(strings, |text| text.parse::<u64>().ok())?)?,
            _ if to.is_float() => {
                let values = parse_all(strings, parse_float)?;
                match to {
                    DType::F64 => Tensor::new(shape, values)?,
                    DType::F16 => Tensor::new(shape, values.into_iter().map(half::f16::from_f64).collect())?,
                    DType::BF16 => Tensor::new(shape, values.into_iter().map(half::bf16::from_f64).collect())?,
                    // Parsed anew, so that decimal digits are rounded once.
                    _ => Tensor::new(shape, parse_all(strings, parse_float32)?)?,
                }
            }
            _ => {
                let values = parse_all(strings, |text| match (to, text) {
                    (DType::Bool, "True" | "true") => Some(1),
                    (DType::Bool, "False" | "false") => Some(0),
                    _ => text
                        .parse::<i64>()
                        .ok()
                        .or_else(|| text.parse::<f64>().ok().map(|value| float_to_int(value, to))),
                })?;
                narrow_ints(to, shape, &values)?
            }
        };
        Ok(vec![result])
    })
}

fn parse_all<T>(strings: &[String], parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let one = |text: &String| {
        parse(text.trim()).ok_or_else(|| {
            Error::new(ErrorCode::RunFailed, "a string is not a number of the wanted type").actual(format!("{text:?}"))
        })
    };
    strings.iter().map(one).collect()
}

fn parse_float(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn parse_float32(text: &str) -> Option<f32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s, tensor};
    use super::*;
    use half::{bf16, f16};

    fn cast(from: Tensor, to: DType) -> Tensor {
        TestNode::new("Cast", 21)
            .attr("to", to.to_onnx())
            .input(from)
            .run1()
            .unwrap()
    }

    fn strings(list: &[&str]) -> Tensor {
        Tensor::from_strings(&[list.len()], list.iter().map(|text| text.to_string()).collect()).unwrap()
    }

    #[test]
    fn every_pair_of_numeric_types_keeps_small_integers() {
        // Powers of two have no zero.
        let numeric = DType::ALL
            .into_iter()
            .filter(|dtype| !matches!(dtype, DType::String | DType::F8E8M0));
        for from in numeric.clone() {
            let start = cast(i64s(&[5], &[0, 1, 1, 0, 1]), from);
            assert_eq!(start.dtype(), from);
            for to in numeric.clone() {
                let back = cast(cast(start.clone(), to), DType::I64);
                assert_eq!(back, i64s(&[5], &[0, 1, 1, 0, 1]), "{from} to {to}");
            }
        }
    }

    #[test]
    fn floats_are_cut_off_and_everything_but_zero_is_true() {
        let values = f32s(&[6], &[-1.9, -0.5, 0.0, 0.5, 1.9, f32::NAN]);
        assert_eq!(cast(values.clone(), DType::I32), tensor(&[6], &[-1i32, 0, 0, 0, 1, 0]));
        assert_eq!(
            cast(values, DType::Bool),
            tensor(&[6], &[1u8, 1, 0, 1, 1, 1].map(Bool8))
        );
        assert_eq!(cast(f32s(&[2], &[300.0, -1.0]), DType::U8), tensor(&[2], &[44u8, 255]));
        assert_eq!(
            cast(tensor(&[1], &[1e19f64]), DType::U64),
            tensor(&[1], &[10_000_000_000_000_000_000u64])
        );
        assert_eq!(cast(i64s(&[2], &[257, -1]), DType::U8), tensor(&[2], &[1u8, 255]));
    }

    #[test]
    fn wide_values_are_rounded_once() {
        // Between two neighbours of f32, a little above the middle: by way of f64 it would be a tie.
        let value = (1i64 << 61) + (1i64 << 37) + 1;
        assert_eq!(cast(i64s(&[1], &[value]), DType::F32), f32s(&[1], &[value as f32]));
        assert_eq!(
            cast(tensor(&[1], &[u64::MAX]), DType::F32),
            f32s(&[1], &[u64::MAX as f32])
        );
        let tie = 1.0 + f64::powi(2.0, -11) + f64::powi(2.0, -40);
        assert_eq!(
            cast(tensor(&[1], &[tie]), DType::F16),
            tensor(&[1], &[f16::from_f64(tie)])
        );
        assert_eq!(
            cast(f32s(&[1], &[1.003_906_25]), DType::BF16),
            tensor(&[1], &[bf16::from_f32(1.0)])
        );
    }

    #[test]
    fn numbers_are_written_and_read() {
        let texts = cast(
            f32s(&[5], &[0.5, 1e-7, 3e20, f32::NEG_INFINITY, f32::NAN]),
            DType::String,
        );
        assert_eq!(texts.strings().unwrap(), ["0.5", "1e-07", "3e+20", "-INF", "NaN"]);
        let values = cast(strings(&["0.5", "1e-3", "INF", "-inf", " 7 "]), DType::F32);
        assert_eq!(values, f32s(&[5], &[0.5, 1e-3, f32::INFINITY, f32::NEG_INFINITY, 7.0]));
        assert_eq!(cast(strings(&["-3", "4.7"]), DType::I8), tensor(&[2], &[-3i8, 4]));
        let error = TestNode::new("Cast", 13)
            .attr("to", 1)
            .input(strings(&["seven"]))
            .run()
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::RunFailed);
    }

    #[test]
    fn small_floats_saturate_or_not() {
        let wide = f32s(&[4], &[1e6, -1e6, 3.3, 0.0]);
        let to = |dtype: DType, saturate: i64| {
            let node = TestNode::new("Cast", 19)
                .attr("to", dtype.to_onnx())
                .attr("saturate", saturate);
            cast(node.input(wide.clone()).run1().unwrap(), DType::F32)
        };
        assert_eq!(to(DType::F8E4M3FN, 1), f32s(&[4], &[448.0, -448.0, 3.25, 0.0]));
        assert_eq!(
            to(DType::F8E5M2, 0),
            f32s(&[4], &[f32::INFINITY, f32::NEG_INFINITY, 3.5, 0.0])
        );
        let loose = to(DType::F8E4M3FNUZ, 0).to_f64s().unwrap();
        assert!(loose[0].is_nan() && loose[1].is_nan() && loose[2] == 3.25);
    }

    #[test]
    fn early_opsets_name_the_type_and_unknown_types_are_refused() {
        let named = TestNode::new("Cast", 5).attr("to", "INT32").input(f32s(&[1], &[2.5]));
        assert_eq!(named.run1().unwrap(), tensor(&[1], &[2i32]));
        let complex = TestNode::new("Cast", 19).attr("to", 14).input(f32s(&[1], &[2.5]));
        assert_eq!(complex.run().unwrap_err().code(), ErrorCode::UnsupportedOperator);
        let like = TestNode::new("CastLike", 15)
            .input(f32s(&[1], &[2.5]))
            .input(i64s(&[0], &[]));
        assert_eq!(like.run1().unwrap(), i64s(&[1], &[2]));
    }
}
