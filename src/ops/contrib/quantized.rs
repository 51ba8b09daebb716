//! Operators on quantised tensors, by their definition: dequantise, compute, quantise. Convolutions and products are those of
//! integers, whose sums are scaled.

use super::{
    super::{
        Operator,
        lower::{invalid, unsupported},
    },
    composite::Body,
};
use crate::{
    error::Result,
    graph::{Attribute, Node, OperatorId, ValueId},
};

impl Body<'_> {
    /// `(x - zero_point) * scale`, per tensor or along `axis`.
    pub fn dequantize(&mut self, x: ValueId, scale: ValueId, zero_point: Option<ValueId>, axis: i64) -> ValueId {
        let inputs = vec![Some(x), Some(scale), zero_point];
        let attributes = [("axis".to_string(), Attribute::Int(axis))];
        self.node(OperatorId::new("", "DequantizeLinear", 21), inputs, attributes, 1)[0]
    }

    /// `y / scale + zero_point`, rounded.
    fn quantize(&mut self, y: ValueId, scale: ValueId, zero_point: Option<ValueId>) -> ValueId {
        let inputs = vec![Some(y), Some(scale), zero_point];
        self.node(OperatorId::new("", "QuantizeLinear", 21), inputs, [], 1)[0]
    }

    /// The same, of the type of `like` where the zero point that would tell it is left out.
    fn quantize_like(&mut self, y: ValueId, scale: ValueId, zero_point: Option<ValueId>, like: ValueId) -> ValueId {
        let zero_point = zero_point.unwrap_or_else(|| {
            let zero = self.scalar(0i64);
            self.cast_like(zero, like)
        });
        self.quantize(y, scale, Some(zero_point))
    }
}

/// `QLinearConv` (ONNX opset 10, and of com.microsoft with `channels_last`): a convolution of 8-bit images and weights, the
/// latter with one scale or one for each output channel.
pub fn make_conv(node: &Node) -> Result<Box<dyn Operator>> {
    let channels_last = node.attributes.flag("channels_last", false)?;
    let mut body = Body::new(node);
    let (x, x_scale, x_zero) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let (w, w_scale, w_zero) = (body.input(3)?, body.input(4)?, body.input(5)?);
    let (y_scale, y_zero) = (body.input(6)?, body.input(7)?);
    let one = body.scalar(1.0f32);
    let x = if channels_last {
        body.transpose(x, &[0, 3, 1, 2])
    } else {
        x
    };
    // The scales come together, so that nothing is left to do behind the convolution but to round.
    let factor = body.op("Mul", &[w_scale, x_scale]);
    let factor = body.op("Div", &[factor, y_scale]);
    let bias = body.optional(8);
    let inputs = [
        Some(x),
        Some(w),
        Some(x_zero),
        Some(w_zero),
        bias,
        Some(factor),
        Some(one),
        Some(y_zero),
    ];
    let attributes = node.attributes.iter().filter(|(name, _)| *name != "channels_last");
    let attributes: Vec<_> = attributes
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect();
    let y = body.node(OperatorId::internal("IntegerConv"), inputs.to_vec(), attributes, 1)[0];
    let y = if channels_last {
        body.transpose(y, &[0, 2, 3, 1])
    } else {
        y
    };
    body.finish(&[Some(y)])
}

/// ONNX `QLinearMatMul` (opset 10): a product of 8-bit matrices; the first has one scale or one for each row, the second
/// one or one for each column.
pub fn make_matmul(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (a, a_scale, a_zero) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let (b, b_scale, b_zero) = (body.input(3)?, body.input(4)?, body.input(5)?);
    let (y_scale, y_zero) = (body.input(6)?, body.input(7)?);
    let a = body.dequantize(a, a_scale, Some(a_zero), -2);
    let b = body.dequantize(b, b_scale, Some(b_zero), -1);
    let (a, b) = (body.as_f32(a), body.as_f32(b));
    let y = body.op("MatMul", &[a, b]);
    let y_scale = body.as_f32(y_scale);
    let y = body.quantize(y, y_scale, Some(y_zero));
    body.finish(&[Some(y)])
}

/// The product of 8-bit matrices as float32, times `scale`, plus a bias.
fn scaled_product(
    body: &mut Body<'_>,
    factors: [ValueId; 2],
    zeros: [Option<ValueId>; 2],
    scale: ValueId,
    bias: Option<ValueId>,
) -> ValueId {
    let inputs = vec![Some(factors[0]), Some(factors[1]), zeros[0], zeros[1]];
    let sums = body.node(OperatorId::new("", "MatMulInteger", 10), inputs, [], 1)[0];
    let sums = body.cast_like(sums, scale);
    let y = body.op("Mul", &[sums, scale]);
    match bias {
        Some(bias) => body.op("Add", &[y, bias]),
        None => y,
    }
}

/// `com.microsoft.DynamicQuantizeMatMul`: A is quantised by its range to uint8 and multiplied with the 8-bit B; the scale
/// of B is one or one for each column.
pub fn make_dynamic_matmul(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (a, b, b_scale) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let operator = OperatorId::new("", "DynamicQuantizeLinear", 11);
    let quantized = body.node(operator, vec![Some(a)], [], 3);
    let &[a, a_scale, a_zero] = &quantized[..] else {
        return Err(invalid("DynamicQuantizeLinear has three outputs"));
    };
    let scale = body.op("Mul", &[a_scale, b_scale]);
    let (b_zero, bias) = (body.optional(3), body.optional(4));
    let y = scaled_product(&mut body, [a, b], [Some(a_zero), b_zero], scale, bias);
    body.finish(&[Some(y)])
}

/// `com.microsoft.MatMulIntegerToFloat`: the product of 8-bit matrices, scaled.
pub fn make_matmul_to_float(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (a, b, a_scale, b_scale) = (body.input(0)?, body.input(1)?, body.input(2)?, body.input(3)?);
    let scale = body.op("Mul", &[a_scale, b_scale]);
    let (zeros, bias) = ([body.optional(4), body.optional(5)], body.optional(6));
    let y = scaled_product(&mut body, [a, b], zeros, scale, bias);
    body.finish(&[Some(y)])
}

/// `com.microsoft.QGemm`: `alpha * A · B + C` of 8-bit matrices, C being int32 in the product's own scale; float32, or
/// quantised where a scale of the result is given.
pub fn make_gemm(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let mut body = Body::new(node);
    let (mut a, a_scale, a_zero) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let (mut b, b_scale, b_zero) = (body.input(3)?, body.input(4)?, body.input(5)?);
    if attributes.flag("transA", false)? {
        a = body.transpose(a, &[1, 0]);
    }
    if attributes.flag("transB", false)? {
        b = body.transpose(b, &[1, 0]);
    }
    let inputs = vec![Some(a), Some(b), Some(a_zero), Some(b_zero)];
    let mut sums = body.node(OperatorId::new("", "MatMulInteger", 10), inputs, [], 1)[0];
    if let Some(c) = body.optional(6) {
        sums = body.op("Add", &[sums, c]);
    }
    let alpha = body.scalar(attributes.float("alpha")?.unwrap_or(1.0));
    let scale = body.op("Mul", &[a_scale, b_scale]);
    let scale = body.op("Mul", &[scale, alpha]);
    let sums = body.as_f32(sums);
    let mut y = body.op("Mul", &[sums, scale]);
    if let Some(y_scale) = body.optional(7) {
        y = body.quantize_like(y, y_scale, body.optional(8), a);
    }
    body.finish(&[Some(y)])
}

/// `com.microsoft.DynamicQuantizeLSTM`: an LSTM whose weights, `[direction, input, 4 * hidden]` and
/// `[direction, hidden, 4 * hidden]`, are 8-bit. Inputs are not quantised here but used as they are, which is nearer to
/// the unquantised model.
pub fn make_lstm(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let weights = |body: &mut Body<'_>, weights: usize, scale: usize| -> Result<ValueId> {
        let (w, scale) = (body.input(weights)?, body.input(scale)?);
        let zero = body.optional(scale_zero(weights));
        // Scales of `[direction]` or `[direction, 4 * hidden]`, to stand beside `[direction, 4 * hidden, input]`.
        let shape = body.ints(&[0, -1, 1])?;
        let wide = body.as_f32(w);
        let wide = body.transpose(wide, &[0, 2, 1]);
        let scale = body.op("Reshape", &[scale, shape]);
        let centred = match zero {
            Some(zero) => {
                let zero = body.as_f32(zero);
                let zero = body.op("Reshape", &[zero, shape]);
                body.op("Sub", &[wide, zero])
            }
            None => wide,
        };
        Ok(body.op("Mul", &[centred, scale]))
    };
    let (w, r) = (weights(&mut body, 1, 8)?, weights(&mut body, 2, 10)?);
    let mut inputs = vec![Some(body.input(0)?), Some(w), Some(r)];
    inputs.extend((3..8).map(|index| body.optional(index)));
    let results = body.op_keeping("LSTM", inputs, |_| true, 3);
    body.finish(&results.into_iter().map(Some).collect::<Vec<_>>())
}

/// Where the zero point of an LSTM's weights is, by where these are.
fn scale_zero(weights: usize) -> usize {
    if weights == 1 { 9 } else { 11 }
}

/// `com.microsoft.QLinear…` of one 8-bit tensor: `QLinearSigmoid`, `QLinearLeakyRelu`, `QLinearSoftmax`,
/// `QLinearAveragePool`, `QLinearGlobalAveragePool` and `QLinearReduceMean`. Inputs: the tensor with scale and zero point,
/// and scale and zero point of the result.
pub fn make_unary(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let mut body = Body::new(node);
    let (input, scale, y_scale) = (body.input(0)?, body.input(1)?, body.input(3)?);
    let mut x = body.dequantize(input, scale, body.optional(2), 1);
    let channels_last = attributes.flag("channels_last", false)?;
    if channels_last {
        let axes = attributes.ints("kernel_shape")?.map_or(2, <[i64]>::len) as i64;
        let order: Vec<i64> = [0, axes + 1].into_iter().chain(1..=axes).collect();
        x = body.transpose(x, &order);
    }
    let mut y = match &*node.operator.name {
        "QLinearSigmoid" => body.op("Sigmoid", &[x]),
        "QLinearLeakyRelu" => body.op_keeping("LeakyRelu", vec![Some(x)], |_| true, 1)[0],
        "QLinearSoftmax" => {
            let version = attributes.int("opset")?.unwrap_or(13);
            let axis = attributes.int("axis")?.unwrap_or(-1);
            let axis = [("axis".to_string(), Attribute::Int(axis))];
            body.node(OperatorId::new("", "Softmax", version), vec![Some(x)], axis, 1)[0]
        }
        "QLinearAveragePool" => body.op_keeping("AveragePool", vec![Some(x)], |name| name != "channels_last", 1)[0],
        "QLinearGlobalAveragePool" => body.op("GlobalAveragePool", &[x]),
        "QLinearReduceMean" => {
            let axes = match attributes.ints("axes")? {
                Some(axes) => Some(body.ints(axes)?),
                None => None,
            };
            body.op_keeping("ReduceMean", vec![Some(x), axes], |name| name == "keepdims", 1)[0]
        }
        other => return Err(unsupported("this quantised operator is not supported").actual(other)),
    };
    if channels_last {
        let axes = attributes.ints("kernel_shape")?.map_or(2, <[i64]>::len) as i64;
        let order: Vec<i64> = [0].into_iter().chain(2..=axes + 1).chain([1]).collect();
        y = body.transpose(y, &order);
    }
    let y = body.quantize_like(y, y_scale, body.optional(4), input);
    body.finish(&[Some(y)])
}

/// `com.microsoft.QLinearAdd` and `QLinearMul`, which broadcast.
pub fn make_binary(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (a, a_scale, b, b_scale) = (body.input(0)?, body.input(1)?, body.input(3)?, body.input(4)?);
    let y_scale = body.input(6)?;
    let x = body.dequantize(a, a_scale, body.optional(2), 1);
    let y = body.dequantize(b, b_scale, body.optional(5), 1);
    let operator = if &*node.operator.name == "QLinearAdd" {
        "Add"
    } else {
        "Mul"
    };
    let z = body.op(operator, &[x, y]);
    let z = body.quantize_like(z, y_scale, body.optional(7), a);
    body.finish(&[Some(z)])
}

/// `com.microsoft.QLinearConcat`: after scale and zero point of the result, each tensor with its scale and zero point.
pub fn make_concat(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (y_scale, y_zero) = (body.input(0)?, body.input(1)?);
    let mut parts = Vec::new();
    for index in (2..node.operator_inputs().len()).step_by(3) {
        let (x, scale) = (body.input(index)?, body.input(index + 1)?);
        let zero = body.optional(index + 2);
        parts.push(Some(body.dequantize(x, scale, zero, 1)));
    }
    let y = body.op_keeping("Concat", parts, |name| name == "axis", 1)[0];
    let y = body.quantize(y, y_scale, Some(y_zero));
    body.finish(&[Some(y)])
}

/// `com.microsoft.QLinearWhere`.
pub fn make_where(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let condition = body.input(0)?;
    let (x, x_scale, x_zero) = (body.input(1)?, body.input(2)?, body.input(3)?);
    let (y, y_scale, y_zero) = (body.input(4)?, body.input(5)?, body.input(6)?);
    let (z_scale, z_zero) = (body.input(7)?, body.input(8)?);
    let x = body.dequantize(x, x_scale, Some(x_zero), 1);
    let y = body.dequantize(y, y_scale, Some(y_zero), 1);
    let z = body.op("Where", &[condition, x, y]);
    let z = body.quantize(z, z_scale, Some(z_zero));
    body.finish(&[Some(z)])
}

/// `QuantizeLinear` and `DequantizeLinear` of com.microsoft: as ONNX's, but per tensor when `axis` is left out.
pub fn make_linear(node: &Node) -> Result<Box<dyn Operator>> {
    super::composite::twin(node, &node.operator.name, 21)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, f32s, tensor};
    use crate::{error::ErrorCode, graph::OperatorId, tensor::Tensor};

    fn one<T: crate::tensor::Element>(value: T) -> Tensor {
        tensor(&[], &[value])
    }

    #[test]
    fn a_quantised_convolution_saturates_and_takes_a_scale_for_each_channel() {
        let node = TestNode::new("QLinearConv", 10)
            .input(tensor(&[1, 1, 2], &[10u8, 12]))
            .input(one(0.5f32))
            .input(one(10u8))
            .constant(tensor(&[2, 1, 1], &[1i8, -1]))
            .constant(f32s(&[2], &[1.0, 1000.0]))
            .constant(tensor(&[2], &[0i8, 0]))
            .input(one(0.25f32))
            .input(one(100u8))
            .constant(tensor(&[2], &[3i32, 0]));
        // 3 and 2 + 3, times 0.5 / 0.25; 0 and -1000 / 0.25.
        assert_eq!(node.run1().unwrap(), tensor(&[1, 2, 2], &[106u8, 110, 100, 0]));
    }

    #[test]
    fn integer_convolutions_are_exact_beyond_what_f32_counts() {
        let (x, w) = (vec![255u8; 400], vec![255u8; 400]);
        let sum = TestNode::new("ConvInteger", 10)
            .input(tensor(&[1, 400, 1], &x))
            .constant(tensor(&[1, 400, 1], &w))
            .run1()
            .unwrap();
        assert_eq!(sum, tensor(&[1, 1, 1], &[400 * 255 * 255]));
        let odd = TestNode::new("ConvInteger", 10)
            .input(tensor(&[1, 400, 1], &x))
            .constant(tensor(&[1, 400, 1], &w))
            .input(one(2u8))
            .input(one(1u8));
        assert_eq!(odd.run1().unwrap(), tensor(&[1, 1, 1], &[400 * 253 * 254]));
    }

    #[test]
    fn results_without_a_zero_point_have_the_input_s_type() {
        let node = TestNode::of(OperatorId::new("com.microsoft", "QLinearAdd", 1))
            .input(tensor(&[2], &[-3i8, 4]))
            .input(one(1.0f32))
            .no_input()
            .input(tensor(&[1], &[100i8]))
            .input(one(1.0f32))
            .no_input()
            .input(one(1.0f32));
        assert_eq!(node.run1().unwrap(), tensor(&[2], &[97i8, 104]));
        let missing = TestNode::of(OperatorId::new("com.microsoft", "QLinearAdd", 1)).input(tensor(&[1], &[1i8]));
        assert_eq!(missing.run().unwrap_err().code(), ErrorCode::InvalidGraph);
    }
}
