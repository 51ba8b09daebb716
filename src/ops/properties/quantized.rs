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
