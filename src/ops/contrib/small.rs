//! Small operators of `com.microsoft` that are put together from ONNX's: shapes, sequences of numbers, complex numbers,
//! distances.

use super::{
    super::{Operator, lower::unsupported},
    composite::Body,
};
use crate::{
    error::Result,
    graph::{Attribute, Node, OperatorId, ValueId},
};

/// `com.microsoft.ExpandDims`: an axis of size 1 before `axis`, which counts from behind when negative.
pub fn make_expand_dims(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (x, axis) = (body.input(0)?, body.input(1)?);
    let axis = body.op_with("Cast", &[axis], &[("to", Attribute::Int(7))]);
    let list = body.ints(&[1])?;
    let axis = body.op("Reshape", &[axis, list]);
    let y = body.op("Unsqueeze", &[x, axis]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.Pad`: as ONNX's, with pads of shape `[2 * rank]` or `[1, 2 * rank]`.
pub fn make_pad(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (x, pads) = (body.input(0)?, body.input(1)?);
    let flat = body.ints(&[-1])?;
    let pads = body.op("Reshape", &[pads, flat]);
    let value = match body.optional(2) {
        Some(value) => {
            let scalar = body.ints(&[])?;
            Some(body.op("Reshape", &[value, scalar]))
        }
        None => None,
    };
    let y = body.op_keeping("Pad", vec![Some(x), Some(pads), value], |name| name == "mode", 1)[0];
    body.finish(&[Some(y)])
}

/// `com.microsoft.Range`: as ONNX's, with bounds of shape `[]` or `[1]` and a step that is 1 when left out.
pub fn make_range(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let scalar = body.ints(&[])?;
    let (start, limit) = (body.input(0)?, body.input(1)?);
    let (start, limit) = (
        body.op("Reshape", &[start, scalar]),
        body.op("Reshape", &[limit, scalar]),
    );
    let delta = match body.optional(2) {
        Some(delta) => body.op("Reshape", &[delta, scalar]),
        None => {
            let one = body.scalar(1i64);
            body.cast_like(one, start)
        }
    };
    let y = body.op("Range", &[start, limit, delta]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.Unique`: the different elements in the order of their first appearance, the index of each element
/// among them, and how often each appears.
pub fn make_unique(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let x = body.input(0)?;
    let unsorted = [("sorted".to_string(), Attribute::Int(0))];
    let results = body.node(OperatorId::new("", "Unique", 11), vec![Some(x)], unsorted, 4);
    body.finish(&[Some(results[0]), Some(results[2]), Some(results[3])])
}

/// `com.microsoft.CDist`: distances (`metric` `sqeuclidean` or `euclidean`) of the rows of A `[m, n]` and B `[k, n]`.
pub fn make_cdist(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (a, b) = (body.input(0)?, body.input(1)?);
    let last = body.ints(&[1])?;
    let (a_squares, b_squares) = (
        body.op("ReduceSumSquare", &[a, last]),
        body.op("ReduceSumSquare", &[b, last]),
    );
    let transposed = body.transpose(b, &[1, 0]);
    let products = body.op("MatMul", &[a, transposed]);
    let twice = body.op("Add", &[products, products]);
    let b_row = body.transpose(b_squares, &[1, 0]);
    let sum = body.op("Add", &[a_squares, b_row]);
    let y = body.op("Sub", &[sum, twice]);
    let y = body.op("Relu", &[y]);
    let y = match node.attributes.string("metric")?.unwrap_or("sqeuclidean") {
        "sqeuclidean" => y,
        "euclidean" => body.op("Sqrt", &[y]),
        other => {
            return Err(unsupported("this distance is not supported")
                .expected("sqeuclidean or euclidean")
                .actual(other));
        }
    };
    body.finish(&[Some(y)])
}

/// `com.microsoft.ComplexMul` and `ComplexMulConj`: products of complex numbers whose parts stand in the last axis; the
/// second takes B's conjugates.
pub fn make_complex_mul(node: &Node) -> Result<Box<dyn Operator>> {
    let is_conjugate = &*node.operator.name == "ComplexMulConj";
    let mut body = Body::new(node);
    let parts = |body: &mut Body<'_>, index: usize| -> Result<[ValueId; 2]> {
        let x = body.input(index)?;
        let attributes = [
            ("axis".to_string(), Attribute::Int(-1)),
            ("num_outputs".to_string(), Attribute::Int(2)),
        ];
        let halves = body.node(OperatorId::new("", "Split", 18), vec![Some(x)], attributes, 2);
        Ok([halves[0], halves[1]])
    };
    let ([a, b], [c, mut d]) = (parts(&mut body, 0)?, parts(&mut body, 1)?);
    if is_conjugate {
        d = body.op("Neg", &[d]);
    }
    let (ac, bd, ad, bc) = (
        body.op("Mul", &[a, c]),
        body.op("Mul", &[b, d]),
        body.op("Mul", &[a, d]),
        body.op("Mul", &[b, c]),
    );
    let (real, imaginary) = (body.op("Sub", &[ac, bd]), body.op("Add", &[ad, bc]));
    let y = body.op_with("Concat", &[real, imaginary], &[("axis", Attribute::Int(-1))]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.Rfft`: the one-sided discrete Fourier transform of the last axis; real and imaginary parts stand in a
/// new one.
pub fn make_rfft(node: &Node) -> Result<Box<dyn Operator>> {
    if node.attributes.int("signal_ndim")?.unwrap_or(1) != 1
        || node.attributes.flag("normalized", false)?
        || !node.attributes.flag("onesided", true)?
    {
        return Err(unsupported("this form of the Fourier transform is not supported")
            .expected("signal_ndim 1, onesided 1, normalized 0"));
    }
    let mut body = Body::new(node);
    let x = body.input(0)?;
    let last = body.ints(&[-1])?;
    let x = body.op("Unsqueeze", &[x, last]);
    let axis = body.scalar(-2i64);
    let attributes = [("onesided".to_string(), Attribute::Int(1))];
    let inputs = vec![Some(x), None, Some(axis)];
    let y = body.node(OperatorId::new("", "DFT", 20), inputs, attributes, 1)[0];
    body.finish(&[Some(y)])
}

/// `com.microsoft.IsAllFinite`: whether no element of any input is infinite or NaN (`isinf_only`, `isnan_only`: just one of
/// the two).
pub fn make_is_all_finite(node: &Node) -> Result<Box<dyn Operator>> {
    let (inf_only, nan_only) = (
        node.attributes.flag("isinf_only", false)?,
        node.attributes.flag("isnan_only", false)?,
    );
    let mut body = Body::new(node);
    let mut counts = body.scalar(0i64);
    let none = counts;
    for index in 0..node.operator_inputs().len() {
        let x = body.input(index)?;
        let mut tests = Vec::new();
        if !nan_only {
            tests.push("IsInf");
        }
        if !inf_only {
            tests.push("IsNaN");
        }
        for test in tests {
            let found = body.op(test, &[x]);
            let found = body.op_with("Cast", &[found], &[("to", Attribute::Int(7))]);
            let count = body.op_with("ReduceSum", &[found], &[("keepdims", Attribute::Int(0))]);
            counts = body.op("Add", &[counts, count]);
        }
    }
    let y = body.op("Equal", &[counts, none]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.MulInteger`: the product of 8-bit tensors less their zero points, as int32.
pub fn make_mul_integer(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let mut factors = Vec::new();
    for index in [0, 2] {
        let x = body.input(index)?;
        let mut wide = to_i32(&mut body, x);
        if let Some(zero) = body.optional(index + 1) {
            let zero = to_i32(&mut body, zero);
            wide = body.op("Sub", &[wide, zero]);
        }
        factors.push(wide);
    }
    let y = body.op("Mul", &factors);
    body.finish(&[Some(y)])
}

/// `com.microsoft.MatMulInteger16`: the product of 16-bit matrices as int32, or uint32 where both are unsigned.
pub fn make_matmul_integer16(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (a, b) = (body.input(0)?, body.input(1)?);
    let (a, b) = (to_i32(&mut body, a), to_i32(&mut body, b));
    let y = body.op("MatMul", &[a, b]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.ReduceSumInteger`: the sum of an 8-bit tensor over `axes`, as int32.
pub fn make_reduce_sum_integer(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let x = body.input(0)?;
    let x = to_i32(&mut body, x);
    let axes = match node.attributes.ints("axes")? {
        Some(axes) => Some(body.ints(axes)?),
        None => None,
    };
    let y = body.op_keeping("ReduceSum", vec![Some(x), axes], |name| name == "keepdims", 1)[0];
    body.finish(&[Some(y)])
}

fn to_i32(body: &mut Body<'_>, x: ValueId) -> ValueId {
    body.op_with("Cast", &[x], &[("to", Attribute::Int(6))])
}

/// `com.microsoft.GatedAdd`: `X + Y * gate`.
pub fn make_gated_add(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (x, y, gate) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let scaled = body.op("Mul", &[y, gate]);
    let sum = body.op("Add", &[x, scaled]);
    body.finish(&[Some(sum)])
}

/// `com.microsoft.LinearAttentionGate`: the decay `decay_scale * Softplus(a + dt_bias)`, made in float32, and `Sigmoid(b)`.
pub fn make_linear_attention_gate(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (a, bias, scale) = (body.input(0)?, body.input(1)?, body.input(2)?);
    let wide = body.as_f32(a);
    let sum = body.op("Add", &[wide, bias]);
    let soft = body.op("Softplus", &[sum]);
    let decay = body.op("Mul", &[soft, scale]);
    let decay = body.cast_like(decay, a);
    let beta = body.optional(3).map(|b| body.op("Sigmoid", &[b]));
    body.finish(&[Some(decay), beta])
}

/// `com.microsoft.BiasDropout` outside of training: `data + bias + residual`.
pub fn make_bias_dropout(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    if body.optional(4).is_some() {
        return Err(unsupported("BiasDropout with the input training_mode is not supported"));
    }
    let (data, bias) = (body.input(0)?, body.input(1)?);
    let mut sum = body.op("Add", &[data, bias]);
    if let Some(residual) = body.optional(2) {
        sum = body.op("Add", &[sum, residual]);
    }
    body.finish(&[Some(sum)])
}

/// `com.microsoft.TorchEmbedding`: the rows of a table that indices pick.
pub fn make_torch_embedding(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (table, indices) = (body.input(0)?, body.input(1)?);
    let y = body.op("Gather", &[table, indices]);
    body.finish(&[Some(y)])
}

/// `com.microsoft.MatMulNBitsMlp` and `MatMulNBitsQkv`: two or three products of one tensor with weights that are quantised by
/// blocks, behind an optional RMS normalisation of it or of its sum with a skip connection. The first multiplies the
/// activation of one with the other.
pub fn make_nbits_group(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let is_mlp = &*node.operator.name == "MatMulNBitsMlp";
    let mut body = Body::new(node);
    let mut x = body.input(0)?;
    let mut sum = None;
    if let Some(skip) = body.optional(1) {
        x = body.op("Add", &[x, skip]);
        sum = Some(x);
    }
    if let Some(scale) = body.optional(2) {
        let epsilon = attributes.float("epsilon")?.unwrap_or(if is_mlp { 1e-5 } else { 1e-6 });
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))];
        x = body.op_with("RMSNormalization", &[x, scale], &attributes);
    }
    let widths: &[&str] = if is_mlp { &["N", "N"] } else { &["Nq", "Nkv", "Nkv"] };
    let mut products = Vec::new();
    for (index, width) in widths.iter().enumerate() {
        let first = 3 + 3 * index;
        let inputs = vec![
            Some(x),
            Some(body.input(first)?),
            Some(body.input(first + 1)?),
            None,
            None,
            body.optional(first + 2),
        ];
        let kept = attributes
            .iter()
            .filter(|(name, _)| matches!(*name, "K" | "bits" | "block_size"));
        let mut kept: Vec<(String, Attribute)> = kept
            .map(|(name, attribute)| (name.to_string(), attribute.clone()))
            .collect();
        if let Some(width) = attributes.int(width)? {
            kept.push(("N".to_string(), Attribute::Int(width)));
        }
        let operator = OperatorId::new("com.microsoft", "MatMulNBits", 1);
        products.push(Some(body.node(operator, inputs, kept, 1)[0]));
    }
    if let (true, &[Some(gate), Some(up)]) = (is_mlp, &products[..]) {
        let gate = match attributes.string("activation")?.unwrap_or("silu") {
            "silu" | "swish" => body.op("Swish", &[gate]),
            "gelu" => body.op("Gelu", &[gate]),
            "relu" => body.op("Relu", &[gate]),
            other => return Err(unsupported("this gate activation is not supported").actual(other)),
        };
        products = vec![Some(body.op("Mul", &[gate, up]))];
    }
    products.push(sum);
    body.finish(&products)
}
