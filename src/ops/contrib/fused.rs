//! What ONNX Runtime's optimiser fuses into one node: products and convolutions with their activation, activations with
//! their bias, skip connections with the normalisation behind them, and the embedding of a transformer.

use super::{
    super::{
        Operator,
        lower::{invalid, unsupported},
    },
    composite::{Body, twin},
};
use crate::{
    error::Result,
    graph::{Attribute, Node, OperatorId, ValueId},
};

/// The attributes of a fused activation.
struct Activation<'a> {
    name: Option<&'a str>,
    parameters: Vec<f32>,
    axis: Option<i64>,
}

impl<'a> Activation<'a> {
    /// Attributes `activation` and `activation_params`.
    fn listed(node: &'a Node) -> Result<Activation<'a>> {
        Ok(Activation {
            name: node.attributes.string("activation")?,
            parameters: node.attributes.floats("activation_params")?.unwrap_or(&[]).to_vec(),
            axis: None,
        })
    }

    /// Attributes `activation`, `activation_alpha`, `activation_beta`, `activation_gamma` and `activation_axis`.
    fn named(node: &'a Node) -> Result<Activation<'a>> {
        let attributes = &node.attributes;
        let mut parameters = Vec::new();
        for name in ["activation_alpha", "activation_beta", "activation_gamma"] {
            parameters.extend(attributes.float(name)?);
        }
        Ok(Activation {
            name: attributes.string("activation")?,
            parameters,
            axis: attributes.int("activation_axis")?,
        })
    }

    fn apply(&self, body: &mut Body<'_>, x: ValueId) -> Result<ValueId> {
        let Some(name) = self.name.filter(|name| !name.is_empty()) else {
            return Ok(x);
        };
        let names: &[&str] = match name {
            "Relu" | "Tanh" | "Sigmoid" | "Erf" | "Gelu" | "HardSwish" | "Mish" | "Softplus" | "Softsign" | "Exp"
            | "Abs" | "Neg" | "Sqrt" | "Log" => &[],
            "LeakyRelu" | "Elu" | "Celu" | "ThresholdedRelu" | "Swish" => &["alpha"],
            "HardSigmoid" => &["alpha", "beta"],
            "Selu" => &["alpha", "gamma"],
            "Softmax" | "LogSoftmax" => &[],
            "Clip" => {
                let &[low, high] = &self.parameters[..] else {
                    return Err(invalid("the activation Clip lacks its bounds"));
                };
                let (low, high) = (body.scalar(low), body.scalar(high));
                let (low, high) = (body.cast_like(low, x), body.cast_like(high, x));
                return Ok(body.op("Clip", &[x, low, high]));
            }
            other => return Err(unsupported("this fused activation is not supported").actual(other)),
        };
        let values = self.parameters.iter().map(|&value| Attribute::Float(value));
        let mut attributes: Vec<(&str, Attribute)> = names.iter().copied().zip(values).collect();
        if matches!(name, "Softmax" | "LogSoftmax") {
            attributes.extend(self.axis.map(|axis| ("axis", Attribute::Int(axis))));
        }
        Ok(body.op_with(name, &[x], &attributes))
    }
}

/// `com.microsoft.FusedConv`: `activation(Conv(X, W, B) + Z)`, with the attributes of `Conv`.
pub fn make_conv(node: &Node) -> Result<Box<dyn Operator>> {
    let activation = Activation::listed(node)?;
    let mut body = Body::new(node);
    let inputs = vec![Some(body.input(0)?), Some(body.input(1)?), body.optional(2)];
    let mut y = body.op_keeping("Conv", inputs, |name| !name.starts_with("activation"), 1)[0];
    if let Some(z) = body.optional(3) {
        y = body.op("Add", &[y, z]);
    }
    let y = activation.apply(&mut body, y)?;
    body.finish(&[Some(y)])
}

/// `com.microsoft.NhwcConv` and `NhwcFusedConv`: `activation(Conv(X, W, B) + Z)` of images `[n, h, w, c]`; W is as ONNX
/// has it.
pub fn make_nhwc_conv(node: &Node) -> Result<Box<dyn Operator>> {
    let activation = Activation::listed(node)?;
    let mut body = Body::new(node);
    let x = body.input(0)?;
    let x = body.transpose(x, &[0, 3, 1, 2]);
    let inputs = vec![Some(x), Some(body.input(1)?), body.optional(2)];
    let y = body.op_keeping("Conv", inputs, |name| !name.starts_with("activation"), 1)[0];
    let mut y = body.transpose(y, &[0, 2, 3, 1]);
    if let Some(z) = body.optional(3) {
        y = body.op("Add", &[y, z]);
    }
    let y = activation.apply(&mut body, y)?;
    body.finish(&[Some(y)])
}

/// `com.microsoft.NhwcMaxPool`: `MaxPool` of images `[n, h, w, c]`.
pub fn make_nhwc_max_pool(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let x = body.input(0)?;
    let x = body.transpose(x, &[0, 3, 1, 2]);
    let y = body.op_keeping("MaxPool", vec![Some(x)], |_| true, 1)[0];
    let y = body.transpose(y, &[0, 2, 3, 1]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.FusedGemm`: `activation(Gemm(A, B, C))`.
pub fn make_gemm(node: &Node) -> Result<Box<dyn Operator>> {
    let activation = Activation::named(node)?;
    let mut body = Body::new(node);
    let inputs = vec![Some(body.input(0)?), Some(body.input(1)?), body.optional(2)];
    let y = body.op_keeping("Gemm", inputs, |name| !name.starts_with("activation"), 1)[0];
    let y = activation.apply(&mut body, y)?;
    body.finish(&[Some(y)])
}

/// `com.microsoft.FusedMatMulActivation`: `activation(FusedMatMul(A, B))`.
pub fn make_matmul(node: &Node) -> Result<Box<dyn Operator>> {
    let activation = Activation::named(node)?;
    let mut body = Body::new(node);
    let inputs = vec![Some(body.input(0)?), Some(body.input(1)?)];
    let attributes: Vec<(String, Attribute)> = node
        .attributes
        .iter()
        .filter(|(name, _)| !name.starts_with("activation"))
        .map(|(name, attribute)| (name.to_string(), attribute.clone()))
        .collect();
    let y = body.node(
        OperatorId::new("com.microsoft", "FusedMatMul", 1),
        inputs,
        attributes,
        1,
    )[0];
    let y = activation.apply(&mut body, y)?;
    body.finish(&[Some(y)])
}

/// `com.microsoft.GemmFastGelu`: `FastGelu(X · W + bias)`.
pub fn make_gemm_fast_gelu(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (x, w) = (body.input(0)?, body.input(1)?);
    let mut y = body.op("MatMul", &[x, w]);
    if let Some(bias) = body.optional(2) {
        y = body.op("Add", &[y, bias]);
    }
    let y = fast_gelu(&mut body, y);
    body.finish(&[Some(y)])
}

fn fast_gelu(body: &mut Body<'_>, x: ValueId) -> ValueId {
    let tanh = Attribute::String(b"tanh".to_vec());
    body.op_with("Gelu", &[x], &[("approximate", tanh)])
}

fn silu(body: &mut Body<'_>, x: ValueId) -> ValueId {
    body.op("Swish", &[x])
}

/// `com.microsoft.BiasGelu`, `FastGelu` (with an optional bias) and `QuickGelu` (`x * sigmoid(alpha * x)`).
pub fn make_gelu(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let mut x = body.input(0)?;
    if let Some(bias) = body.optional(1) {
        x = body.op("Add", &[x, bias]);
    }
    let y = match &*node.operator.name {
        "FastGelu" => fast_gelu(&mut body, x),
        "QuickGelu" => {
            let alpha = node.attributes.float("alpha")?.unwrap_or(1.702);
            body.op_with("Swish", &[x], &[("alpha", Attribute::Float(alpha))])
        }
        _ => body.op("Gelu", &[x]),
    };
    body.finish(&[Some(y)])
}

/// `com.microsoft.BiasAdd`: `X + bias + skip`.
pub fn make_bias_add(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (x, bias, skip) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let sum = body.op("Add", &[x, bias]);
    let y = body.op("Add", &[sum, skip]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.BiasSplitGelu`: of the halves (a, b) of the last axis of `X + bias`, `a * Gelu(b)`.
pub fn make_bias_split_gelu(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (x, bias) = (body.input(0)?, body.input(1)?);
    let sum = body.op("Add", &[x, bias]);
    let attributes = [
        ("axis".to_string(), Attribute::Int(-1)),
        ("num_outputs".to_string(), Attribute::Int(2)),
    ];
    let halves = body.node(OperatorId::new("", "Split", 18), vec![Some(sum)], attributes, 2);
    let gate = body.op("Gelu", &[halves[1]]);
    let y = body.op("Mul", &[halves[0], gate]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.BiasSoftmax`: `Softmax(data + bias)` over the axes from `axis` on; the bias broadcasts.
pub fn make_bias_softmax(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (data, bias) = (body.input(0)?, body.input(1)?);
    let sum = body.op("Add", &[data, bias]);
    let axis = Attribute::Int(node.attributes.int("axis")?.unwrap_or(1));
    // Up to opset 12, the axes behind `axis` are one.
    let operator = OperatorId::new("", "Softmax", 11);
    let y = body.node(operator, vec![Some(sum)], [("axis".to_string(), axis)], 1)[0];
    body.finish(&[Some(y)])
}

/// `com.microsoft.SkipLayerNormalization` and `SkipSimplifiedLayerNormalization`: the sum of input, skip and bias,
/// normalised along the last axis. Outputs: the result, mean and inverse deviation (of the first), and the sum.
pub fn make_skip_norm(node: &Node) -> Result<Box<dyn Operator>> {
    let is_simple = &*node.operator.name == "SkipSimplifiedLayerNormalization";
    let mut body = Body::new(node);
    let (x, skip, gamma) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let (beta, bias) = match is_simple {
        true => (None, body.optional(3)),
        false => (body.optional(3), body.optional(4)),
    };
    let mut sum = body.op("Add", &[x, skip]);
    if let Some(bias) = bias {
        sum = body.op("Add", &[sum, bias]);
    }
    let epsilon = node.attributes.float("epsilon")?.unwrap_or(1e-12);
    let attributes = [
        ("axis".to_string(), Attribute::Int(-1)),
        ("epsilon".to_string(), Attribute::Float(epsilon)),
    ];
    if is_simple {
        let y = body.op_with(
            "RMSNormalization",
            &[sum, gamma],
            &[("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))],
        );
        return body.finish(&[Some(y), None, None, Some(sum)]);
    }
    let statistics = if node.output(1).is_some() || node.output(2).is_some() {
        3
    } else {
        1
    };
    let operator = OperatorId::new("", "LayerNormalization", 17);
    let results = body.node(operator, vec![Some(sum), Some(gamma), beta], attributes, statistics);
    body.finish(&[
        Some(results[0]),
        results.get(1).copied(),
        results.get(2).copied(),
        Some(sum),
    ])
}

/// `SimplifiedLayerNormalization`, which ONNX Runtime writes into ONNX's own domain: RMS normalisation from `axis` on.
/// The second output, the inverse deviation, is made in float32.
pub fn make_simplified_norm(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (x, scale) = (body.input(0)?, body.input(1)?);
    let axis = node.attributes.int("axis")?.unwrap_or(-1);
    let epsilon = node.attributes.float("epsilon")?.unwrap_or(1e-5);
    let y = body.op_with(
        "RMSNormalization",
        &[x, scale],
        &[("axis", Attribute::Int(axis)), ("epsilon", Attribute::Float(epsilon))],
    );
    let mut inverse = None;
    if node.output(1).is_some() {
        if axis != -1 {
            return Err(unsupported("the second output is only supported for one axis")
                .expected("axis -1")
                .actual(axis.to_string()));
        }
        let wide = body.as_f32(x);
        let square = body.op("Mul", &[wide, wide]);
        let axes = body.ints(&[-1])?;
        let mean = body.op("ReduceMean", &[square, axes]);
        let epsilon = body.scalar(epsilon);
        let sum = body.op("Add", &[mean, epsilon]);
        let root = body.op("Sqrt", &[sum]);
        inverse = Some(body.op("Reciprocal", &[root]));
    }
    body.finish(&[Some(y), inverse])
}

/// `com.microsoft.EmbedLayerNormalization`: word, position and segment embeddings added and normalised. Outputs: the
/// result, the number of ones in each row of the mask, and the sum. `QEmbedLayerNormalization` has its tables, scale and
/// bias in 8 bits, the inputs behind the mask being their scales and zero points; it has no positions of its own.
pub fn make_embed_norm(node: &Node) -> Result<Box<dyn Operator>> {
    let is_quantized = &*node.operator.name == "QEmbedLayerNormalization";
    let mut body = Body::new(node);
    // Of the five tensors of weights, number `number` in floats.
    let widen = |body: &mut Body<'_>, value: ValueId, number: usize| -> Result<ValueId> {
        if !is_quantized {
            return Ok(value);
        }
        let (scale, zero_point) = (body.input(8 + number)?, body.input(13 + number)?);
        Ok(body.dequantize(value, scale, Some(zero_point), 1))
    };
    let ids = body.input(0)?;
    let rows = |body: &mut Body<'_>, table: usize, indices: ValueId| -> Result<ValueId> {
        let table_value = body.input(table)?;
        let picked = body.op("Gather", &[table_value, indices]);
        widen(body, picked, table - 2)
    };
    let word = rows(&mut body, 2, ids)?;
    let places = body.optional(8).filter(|_| !is_quantized);
    let position = match places {
        Some(places) => rows(&mut body, 3, places)?,
        None => {
            // The first rows, one for each word of a sequence.
            let ends = [("start", Attribute::Int(1)), ("end", Attribute::Int(2))];
            let length = body.op_with("Shape", &[ids], &ends);
            let (zero, table) = (body.ints(&[0])?, body.input(3)?);
            let first = body.op("Slice", &[table, zero, length, zero]);
            widen(&mut body, first, 1)?
        }
    };
    let mut sum = body.op("Add", &[word, position]);
    if let (Some(segments), Some(_)) = (body.optional(1), body.optional(4)) {
        let segment = rows(&mut body, 4, segments)?;
        sum = body.op("Add", &[sum, segment]);
    }
    let (gamma, beta) = (body.input(5)?, body.input(6)?);
    let (gamma, beta) = (widen(&mut body, gamma, 3)?, widen(&mut body, beta, 4)?);
    let epsilon = node.attributes.float("epsilon")?.unwrap_or(1e-12);
    let y = body.op_with(
        "LayerNormalization",
        &[sum, gamma, beta],
        &[("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))],
    );
    let mask_index = match node.output(1) {
        None => None,
        Some(_) => {
            let mask = body.optional(7).unwrap_or_else(|| body.op("Sub", &[ids, ids]));
            let axes = body.ints(&[1])?;
            Some(body.op_with("ReduceSum", &[mask, axes], &[("keepdims", Attribute::Int(0))]))
        }
    };
    body.finish(&[Some(y), mask_index, Some(sum)])
}

/// `com.microsoft.GroupNorm` and `SkipGroupNorm`: group normalisation of images `[n, h, w, c]` (`channels_last`) or
/// `[n, c, h, w]`, of the sum with skip and bias for the second, then SiLU where `activation` is 1.
pub fn make_group_norm(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let channels_last = attributes.flag("channels_last", true)?;
    let groups = attributes.int("groups")?.unwrap_or(0);
    let epsilon = attributes.float("epsilon")?.unwrap_or(1e-5);
    let mut body = Body::new(node);
    let (mut x, gamma, beta) = (body.input(0)?, body.input(1)?, body.input(2)?);
    if &*node.operator.name == "SkipGroupNorm" {
        let (skip, shape) = (body.input(3)?, body.op("Shape", &[x]));
        // All as `[n, pixels, channels]`: a skip of one pixel broadcasts.
        let places = if channels_last { [0, 3] } else { [0, 1] };
        if !channels_last {
            return Err(unsupported("SkipGroupNorm is only supported for channels_last 1"));
        }
        let places = body.ints(&places)?;
        let ends = body.op("Gather", &[shape, places]);
        let (first, last) = (body.ints(&[0])?, body.ints(&[1])?);
        let (n, c) = (body.op("Gather", &[ends, first]), body.op("Gather", &[ends, last]));
        let any = body.ints(&[-1])?;
        let rows = body.op_with("Concat", &[n, any, c], &[("axis", Attribute::Int(0))]);
        let (flat, skip) = (body.op("Reshape", &[x, rows]), body.op("Reshape", &[skip, rows]));
        let mut sum = body.op("Add", &[flat, skip]);
        if let Some(bias) = body.optional(4) {
            sum = body.op("Add", &[sum, bias]);
        }
        x = body.op("Reshape", &[sum, shape]);
    }
    let sum = x;
    if channels_last {
        x = body.transpose(x, &[0, 3, 1, 2]);
    }
    let (gamma, beta) = (body.cast_like(gamma, x), body.cast_like(beta, x));
    let mut y = body.op_with(
        "GroupNormalization",
        &[x, gamma, beta],
        &[
            ("num_groups", Attribute::Int(groups)),
            ("epsilon", Attribute::Float(epsilon)),
        ],
    );
    if channels_last {
        y = body.transpose(y, &[0, 2, 3, 1]);
    }
    match attributes.int("activation")?.unwrap_or(0) {
        0 => {}
        1 => y = silu(&mut body, y),
        other => {
            return Err(invalid("attribute activation has an unknown value")
                .expected("0 or 1")
                .actual(other.to_string()));
        }
    }
    body.finish(&[Some(y), Some(sum)])
}

/// `com.microsoft.GatedRMSNorm`: the RMS normalisation of each run of C elements, C being the length of the scale, times
/// the activation of a gate of X's shape.
pub fn make_gated_norm(node: &Node) -> Result<Box<dyn Operator>> {
    let epsilon = node.attributes.float("epsilon")?.unwrap_or(1e-5);
    let mut body = Body::new(node);
    let (x, scale, gate) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let shape = body.op("Shape", &[x]);
    let (any, len) = (body.ints(&[-1])?, body.op("Shape", &[scale]));
    let rows = body.op_with("Concat", &[any, len], &[("axis", Attribute::Int(0))]);
    let rows = body.op("Reshape", &[x, rows]);
    let normal = body.op_with(
        "RMSNormalization",
        &[rows, scale],
        &[("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))],
    );
    let normal = body.op("Reshape", &[normal, shape]);
    let gate = match node.attributes.string("activation")?.unwrap_or("silu") {
        "silu" | "swish" => silu(&mut body, gate),
        "sigmoid" => body.op("Sigmoid", &[gate]),
        other => return Err(unsupported("this gate activation is not supported").actual(other)),
    };
    let y = body.op("Mul", &[normal, gate]);
    body.finish(&[Some(y)])
}

/// ONNX's operators under another domain, in the version whose inputs and attributes they have.
pub fn make_twin(node: &Node) -> Result<Box<dyn Operator>> {
    match &*node.operator.name {
        "Gelu" => twin(node, "Gelu", 20),
        "LayerNormalization" => twin(node, "LayerNormalization", 17),
        "Trilu" => twin(node, "Trilu", 14),
        "GatherND" => twin(node, "GatherND", 13),
        "GridSample" => twin(node, "GridSample", 16),
        "TransposeMatMul" => twin_of(node, "FusedMatMul"),
        name => Err(invalid("the operator has no twin in ONNX").actual(name)),
    }
}

fn twin_of(node: &Node, name: &str) -> Result<Box<dyn Operator>> {
    let mut twin = node.clone();
    twin.operator = OperatorId::new("com.microsoft", name, 1);
    super::super::registry::operator(&twin)
}
