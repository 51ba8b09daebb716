//! QuantizeLinear, DequantizeLinear (per tensor, axis and block, every type) and DynamicQuantizeLinear.

use super::*;

const NARROW: [(DType, f64, f64); 6] = [
    (DType::U8, 0.0, 255.0),
    (DType::I8, -128.0, 127.0),
    (DType::U16, 0.0, 65535.0),
    (DType::I16, -32768.0, 32767.0),
    (DType::U4, 0.0, 15.0),
    (DType::I4, -8.0, 7.0),
];

#[test]
fn quantised_and_back() {
    cases(|rng| {
        let (dtype, low, high) = pick(rng, &NARROW);
        let from = full_shape(rng, 1, 4);
        let axis = rng.size(0, from.len() - 1);
        let (scale_shape, block) = match rng.size(0, 2) {
            0 => (vec![], 0),
            1 => (vec![from[axis]], 0),
            _ => {
                let block = rng.size(1, from[axis]);
                let mut shape = from.clone();
                shape[axis] = from[axis].div_ceil(block);
                (shape, block)
            }
        };
        let count: usize = scale_shape.iter().product();
        // Powers of two divide exactly, so that ties are ties.
        let scales: Vec<f64> = (0..count).map(|_| f64::powi(2.0, rng.size(0, 3) as i32 - 3)).collect();
        let zeros: Vec<i64> = (0..count)
            .map(|_| (low as i64).max(rng.size(0, 8) as i64 - 4))
            .collect();
        let scale = Tensor::from_f64s(DType::F32, &scale_shape, &scales).unwrap();
        let zero = Tensor::from_i64s(dtype, &scale_shape, &zeros).unwrap();
        let given = rng.bool() || dtype != DType::U8;
        let which = |index: &[usize]| match (scale_shape.len(), block) {
            (0, _) => 0,
            (_, 0) => index[axis],
            _ => {
                let mut index = index.to_vec();
                index[axis] /= block;
                index
                    .iter()
                    .zip(strides_of(&scale_shape))
                    .map(|(at, stride)| at * stride)
                    .sum()
            }
        };
        let x = numbers(rng, DType::F32, &from);
        let pairs = indices(&from).zip(x.to_f64s().unwrap());
        let expected: Vec<f64> = pairs
            .map(|(index, x)| {
                let at = which(&index);
                let zero = if given { zeros[at] as f64 } else { 0.0 };
                ((x / scales[at]).round_ties_even() + zero).clamp(low, high)
            })
            .collect();
        let node = |name: &str, x: Tensor| {
            let node = TestNode::new(name, 21)
                .attr("axis", axis as i64)
                .attr("block_size", block as i64)
                .input(x)
                .input(scale.clone());
            if given { node.input(zero.clone()) } else { node }
        };
        let quantised = node("QuantizeLinear", x).run1().unwrap();
        assert_eq!((quantised.dtype(), quantised.shape()), (dtype, &from[..]));
        assert_eq!(quantised.to_f64s().unwrap(), expected, "{dtype}, block {block}");
        let back: Vec<f64> = indices(&from)
            .zip(&expected)
            .map(|(index, value)| {
                let at = which(&index);
                (value - if given { zeros[at] as f64 } else { 0.0 }) * scales[at]
            })
            .collect();
        let result = node("DequantizeLinear", quantised).run1().unwrap();
        assert_eq!(result.to_f64s().unwrap(), back, "{dtype}, block {block}");
    });
}

#[test]
fn ranges_are_found() {
    cases(|rng| {
        let from = full_shape(rng, 0, 4);
        let count: usize = from.iter().product();
        let shift = rng.size(0, 4) as f32 - 2.0;
        let values: Vec<f32> = (0..count).map(|_| rng.f32() * 3.0 + shift).collect();
        let (low, high) = values
            .iter()
            .fold((0f32, 0f32), |(low, high), &value| (low.min(value), high.max(value)));
        let scale = (high - low) / 255.0;
        let zero = (0.0 - low / scale).round_ties_even().clamp(0.0, 255.0);
        let expected: Vec<f64> = values
            .iter()
            .map(|value| f64::from(((value / scale).round_ties_even() + zero).clamp(0.0, 255.0)))
            .collect();
        let x = crate::ops::testing::f32s(&from, &values);
        let outputs = TestNode::new("DynamicQuantizeLinear", 11)
            .outputs(3)
            .input(x)
            .run()
            .unwrap();
        assert_eq!(outputs[1].to_f64s().unwrap(), [f64::from(scale)]);
        assert_eq!(outputs[2].to_f64s().unwrap(), [f64::from(zero)]);
        assert_eq!(outputs[0].to_f64s().unwrap(), expected);
    });
}

/// Random bytes of a type.
fn bytes(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    let low = if dtype == DType::I8 { -128 } else { 0 };
    let values: Vec<i64> = (0..shape.iter().product::<usize>())
        .map(|_| rng.size(0, 255) as i64 + low)
        .collect();
    Tensor::from_i64s(dtype, shape, &values).unwrap()
}

/// A zero point: none, that of the middle of the type, or any.
fn zero_point(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Option<Tensor> {
    let middle = if dtype == DType::I8 { 0 } else { 128 };
    match rng.size(0, 2) {
        0 => None,
        1 => {
            let count = shape.iter().product();
            Some(Tensor::from_i64s(dtype, shape, &vec![middle; count]).unwrap())
        }
        _ => Some(bytes(rng, dtype, shape)),
    }
}

fn integers(tensor: Option<&Tensor>) -> Vec<i64> {
    tensor.map_or(vec![0], |tensor| tensor.to_i64s().unwrap())
}

/// Adds zero points, where they are given; those of weights as constants.
fn with_zeros(node: TestNode, x_zero: Option<Tensor>, w_zero: Option<Tensor>) -> TestNode {
    let node = match x_zero {
        Some(zero) => node.input(zero),
        None => node.no_input(),
    };
    match w_zero {
        Some(zero) => node.constant(zero),
        None => node,
    }
}

/// Weights that are constant are packed for dot products of four bytes, on the CPU and on the GPU.
#[test]
fn integer_products_with_constant_weights() {
    cases(|rng| {
        let types = [(); 2].map(|()| pick(rng, &[DType::U8, DType::I8]));
        let (batch, rows) = (rng.size(1, 2), rng.size(0, 9));
        let (depth, columns) = (rng.size(0, 70), rng.size(0, 21));
        let x = bytes(rng, types[0], &[batch, rows, depth]);
        let w = bytes(rng, types[1], &[depth, columns]);
        let x_zero = zero_point(rng, types[0], &[]);
        let per_column = if rng.bool() { vec![] } else { vec![columns] };
        let w_zero = zero_point(rng, types[1], &per_column);
        let (xs, ws) = (x.to_i64s().unwrap(), w.to_i64s().unwrap());
        let (x0, w0) = (integers(x_zero.as_ref()), integers(w_zero.as_ref()));
        let expected: Vec<i64> = (0..batch * rows * columns)
            .map(|at| {
                let (row, column) = (at / columns, at % columns);
                let products = (0..depth).map(|k| {
                    let w = ws[k * columns + column] - w0[column % w0.len()];
                    (xs[row * depth + k] - x0[0]) * w
                });
                products.sum()
            })
            .collect();
        let node = with_zeros(TestNode::new("MatMulInteger", 10).input(x).constant(w), x_zero, w_zero);
        let result = node.run1().unwrap();
        assert_eq!(result.to_i64s().unwrap(), expected, "{rows} by {depth} by {columns}");
    });
}

#[test]
fn integer_convolutions_with_constant_weights() {
    cases(|rng| {
        let types = [(); 2].map(|()| pick(rng, &[DType::U8, DType::I8]));
        let (groups, group_in, group_out) = (rng.size(1, 2), rng.size(1, 6), rng.size(1, 6));
        let (channels_in, channels) = (groups * group_in, groups * group_out);
        let (images, [kernel, stride, dilation]) = (rng.size(1, 2), [rng.size(1, 3), rng.size(1, 2), rng.size(1, 2)]);
        let (pad, reach) = (rng.size(0, 2), (kernel - 1) * dilation + 1);
        let size = [(); 2].map(|()| rng.size(reach, 9));
        let out = size.map(|size| (size + 2 * pad - reach) / stride + 1);
        let x = bytes(rng, types[0], &[images, channels_in, size[0], size[1]]);
        let w = bytes(rng, types[1], &[channels, group_in, kernel, kernel]);
        let x_zero = zero_point(rng, types[0], &[]);
        let per_channel = if rng.bool() { vec![] } else { vec![channels] };
        let w_zero = zero_point(rng, types[1], &per_channel);
        let (xs, ws) = (x.to_i64s().unwrap(), w.to_i64s().unwrap());
        let (x0, w0) = (integers(x_zero.as_ref()), integers(w_zero.as_ref()));
        let mut expected = Vec::new();
        for at in 0..images * channels * out[0] * out[1] {
            let (column, row) = (at % out[1], at / out[1] % out[0]);
            let channel = at / (out[0] * out[1]) % channels;
            let image = at / (out[0] * out[1] * channels);
            let mut sum = 0;
            for tap in 0..group_in * kernel * kernel {
                let (across, down, c) = (tap % kernel, tap / kernel % kernel, tap / (kernel * kernel));
                let place = |step: usize, tap: usize| (step * stride + tap * dilation).checked_sub(pad);
                let (y, z) = (place(row, down), place(column, across));
                let (Some(y), Some(z)) = (y.filter(|&y| y < size[0]), z.filter(|&z| z < size[1])) else {
                    continue;
                };
                let c = channel / group_out * group_in + c;
                let value = xs[((image * channels_in + c) * size[0] + y) * size[1] + z] - x0[0];
                sum += value * (ws[channel * group_in * kernel * kernel + tap] - w0[channel % w0.len()]);
            }
            expected.push(sum);
        }
        let node = TestNode::new("ConvInteger", 10)
            .attr("group", groups as i64)
            .attr("strides", &[stride as i64; 2][..])
            .attr("dilations", &[dilation as i64; 2][..])
            .attr("pads", &[pad as i64; 4][..])
            .input(x)
            .constant(w);
        let result = with_zeros(node, x_zero, w_zero).run1().unwrap();
        assert_eq!(
            result.to_i64s().unwrap(),
            expected,
            "{channels_in} to {channels} in {groups}, {kernel}, {size:?}"
        );
    });
}
