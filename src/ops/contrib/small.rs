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
