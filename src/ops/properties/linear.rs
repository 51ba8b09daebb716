//! Matrix products, convolutions and pooling in the types that have no fast kernel, and products of integers.

use super::*;

/// Elements of the batched product, and its shape.
fn product(a: (&[f64], &[usize]), b: (&[f64], &[usize])) -> (Vec<f64>, Vec<usize>) {
    let (m, k, n) = (a.1[a.1.len() - 2], a.1[a.1.len() - 1], b.1[b.1.len() - 1]);
    let batches = [&a.1[..a.1.len() - 2], &b.1[..b.1.len() - 2]];
    let batch = crate::tensor::broadcast_shapes(&batches).unwrap();
    let mut values = Vec::new();
    for index in indices(&batch) {
        let [a_at, b_at] = batches.map(|shape| flat(shape, &index));
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let terms = (0..k).map(|at| a.0[(a_at * m + row) * k + at] * b.0[(b_at * k + at) * n + column]);
            values.push(terms.sum());
        }
    }
    (values, [&batch[..], &[m, n]].concat())
}

fn assert_near(result: &Tensor, expected: &[f64], dtype: DType) {
    let tolerance = match dtype {
        DType::BF16 => 1e-2,
        DType::F16 => 2e-3,
        DType::F32 => 1e-5,
        DType::F64 => 1e-12,
        _ => 0.0,
    };
    let actual = result.to_f64s().unwrap();
    assert_eq!(actual.len(), expected.len());
    for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
        let near = (a - e).abs() <= tolerance * e.abs().max(1.0);
        assert!(near, "{dtype}: element {index} is {a}, expected {e}");
    }
}

/// Sizes of a product with broadcast batches.
fn sides(rng: &mut Rng) -> [Vec<usize>; 2] {
    let batch = shape(rng, 0, 2);
    let [m, k, n] = [0; 3].map(|_| if rng.size(0, 9) == 0 { 0 } else { rng.size(1, 9) });
    [
        [&broadcastable(rng, &batch)[..], &[m, k]].concat(),
        [&broadcastable(rng, &batch)[..], &[k, n]].concat(),
    ]
}

#[test]
fn products_of_every_type() {
    const TYPES: [DType; 8] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::I64,
        DType::U32,
        DType::U64,
    ];
    cases(|rng| {
        let dtype = pick(rng, &TYPES);
        let [a, b] = sides(rng).map(|side| numbers(rng, dtype, &side));
        let (x, y) = (a.to_f64s().unwrap(), b.to_f64s().unwrap());
        let (expected, to) = product((&x, a.shape()), (&y, b.shape()));
        let node = any_input(rng, TestNode::new("MatMul", 13).input(a), b);
        let result = node.run1().unwrap();
        assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]));
        assert_near(&result, &expected, dtype);
    });
}

#[test]
fn gemm_of_every_type() {
    const TYPES: [DType; 8] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::I64,
        DType::U32,
        DType::U64,
    ];
    cases(|rng| {
        let dtype = pick(rng, &TYPES);
        let [m, k, n] = [0; 3].map(|_| rng.size(0, 9));
        let transposed = [rng.bool(), rng.bool()];
        let (a, b) = (numbers(rng, dtype, &[m, k]), numbers(rng, dtype, &[k, n]));
        let c = {
            let dims = broadcastable(rng, &[m, n]);
            numbers(rng, dtype, &dims)
        };
        let (x, y, z) = (a.to_f64s().unwrap(), b.to_f64s().unwrap(), c.to_f64s().unwrap());
        let (sums, to) = product((&x, &[m, k]), (&y, &[k, n]));
        // Whole factors, which integers have too.
        let (alpha, beta) = (rng.size(0, 2) as f32, rng.size(0, 2) as f32);
        let sums = indices(&to).zip(sums);
        let expected: Vec<f64> = sums
            .map(|(index, sum)| f64::from(alpha) * sum + f64::from(beta) * z[flat(c.shape(), &index)])
            .collect();
        let turned = |x: Tensor, turn: bool| match turn {
            true => TestNode::new("Transpose", 13)
                .attr("perm", [1i64, 0])
                .input(x)
                .run1()
                .unwrap(),
            false => x,
        };
        let node = TestNode::new("Gemm", 13)
            .attr("alpha", alpha)
            .attr("beta", beta)
            .attr("transA", i64::from(transposed[0]))
            .attr("transB", i64::from(transposed[1]))
            .input(turned(a, transposed[0]));
        let node = any_input(rng, node, turned(b, transposed[1]));
        let node = any_input(rng, node, c);
        assert_near(&node.run1().unwrap(), &expected, dtype);
    });
}

#[test]
fn integer_products_with_zero_points() {
    cases(|rng| {
        let types = [(); 2].map(|()| pick(rng, &[DType::U8, DType::I8]));
        let [a, b] = sides(rng);
        let bytes = |rng: &mut Rng, dtype: DType, shape: &[usize]| {
            let low = if dtype == DType::I8 { -128 } else { 0 };
            let count: usize = shape.iter().product();
            let values: Vec<i64> = (0..count).map(|_| rng.size(0, 255) as i64 + low).collect();
            Tensor::from_i64s(dtype, shape, &values).unwrap()
        };
        let (x, y) = (bytes(rng, types[0], &a), bytes(rng, types[1], &b));
        let zero = bytes(rng, types[0], &[]);
        let columns = if rng.bool() { vec![] } else { vec![b[b.len() - 1]] };
        let zeros = bytes(rng, types[1], &columns);
        let given = [rng.bool(), rng.bool()];
        let shifted = |tensor: &Tensor, zero: &Tensor, given: bool| -> Vec<f64> {
            let zeros = zero.to_f64s().unwrap();
            let values = indices(tensor.shape()).zip(tensor.to_f64s().unwrap());
            values
                .map(|(index, value)| {
                    if given {
                        value - zeros[flat(zero.shape(), &index)]
                    } else {
                        value
                    }
                })
                .collect()
        };
        let (wide_a, wide_b) = (shifted(&x, &zero, given[0]), shifted(&y, &zeros, given[1]));
        let (expected, to) = product((&wide_a, &a), (&wide_b, &b));
        let node = any_input(rng, TestNode::new("MatMulInteger", 10).input(x), y);
        let node = if given[0] { node.input(zero) } else { node.no_input() };
        let node = if given[1] { any_input(rng, node, zeros) } else { node };
        let result = node.run1().unwrap();
        assert_eq!((result.dtype(), result.shape()), (DType::I32, &to[..]));
        assert_near(&result, &expected, DType::I32);
    });
}

/// The positions along one axis that a window of `kernel` at `step` covers, and `None` in the padding.
fn window(step: usize, kernel: usize, stride: usize, dilation: usize, pad: usize, size: usize) -> Vec<Option<usize>> {
    (0..kernel)
        .map(|at| (step * stride + at * dilation).checked_sub(pad).filter(|&at| at < size))
        .collect()
}

#[test]
fn convolutions_in_other_types() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::F64, DType::F16, DType::BF16]);
        let (groups, per_group, out_per_group) = (rng.size(1, 2), rng.size(1, 3), rng.size(1, 3));
        let channels = groups * out_per_group;
        let axes: Vec<[usize; 5]> = (0..rng.size(1, 2))
            .map(|_| {
                let (kernel, dilation) = (rng.size(1, 3), rng.size(1, 2));
                [kernel, dilation, rng.size(1, 2), rng.size(0, 1), rng.size(5, 7)]
            })
            .collect();
        let images = rng.size(0, 2);
        let part = |index: usize| axes.iter().map(move |axis| axis[index]).collect::<Vec<usize>>();
        let (kernels, sizes) = (part(0), part(4));
        let x = numbers(rng, dtype, &[&[images, groups * per_group], &sizes[..]].concat());
        let w = numbers(rng, dtype, &[&[channels, per_group], &kernels[..]].concat());
        let bias = numbers(rng, dtype, &[channels]);
        let steps: Vec<usize> = axes
            .iter()
            .map(|[kernel, dilation, stride, pad, size]| (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1)
            .collect();
        let to = [&[images, channels], &steps[..]].concat();
        let (xs, ws, bs) = (x.to_f64s().unwrap(), w.to_f64s().unwrap(), bias.to_f64s().unwrap());
        let expected: Vec<f64> = indices(&to)
            .map(|index| {
                let group = index[1] / out_per_group;
                let windows: Vec<_> = axes
                    .iter()
                    .zip(&index[2..])
                    .map(|(&[kernel, dilation, stride, pad, size], &step)| {
                        window(step, kernel, stride, dilation, pad, size)
                    })
                    .collect();
                let mut sum = bs[index[1]];
                for at in indices(w.shape()).filter(|at| at[0] == index[1]) {
                    let places: Option<Vec<usize>> = at[2..].iter().zip(&windows).map(|(&at, list)| list[at]).collect();
                    if let Some(places) = places {
                        let from = [&[index[0], group * per_group + at[1]], &places[..]].concat();
                        let strides = |shape: &[usize], at: &[usize]| -> usize {
                            at.iter().zip(strides_of(shape)).map(|(at, stride)| at * stride).sum()
                        };
                        sum += xs[strides(x.shape(), &from)] * ws[strides(w.shape(), &at)];
                    }
                }
                sum
            })
            .collect();
        let ints = |list: Vec<usize>| list.into_iter().map(|value| value as i64).collect::<Vec<i64>>();
        let pads = ints([part(3), part(3)].concat());
        let node = TestNode::new("Conv", 11)
            .attr("group", groups as i64)
            .attr("dilations", &ints(part(1))[..])
            .attr("strides", &ints(part(2))[..])
            .attr("pads", &pads[..])
            .input(x);
        let node = any_input(rng, node, w).input(bias);
        let result = node.run1().unwrap();
        assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]));
        assert_near(&result, &expected, dtype);
    });
}

#[test]
fn maxima_of_windows_in_every_type() {
    cases(|rng| {
        let dtype = pick(
            rng,
            &[DType::F32, DType::F64, DType::F16, DType::BF16, DType::I8, DType::U8],
        );
        let axes: Vec<[usize; 5]> = (0..rng.size(1, 3))
            .map(|_| {
                let (kernel, dilation) = (rng.size(1, 3), rng.size(1, 2));
                [
                    kernel,
                    dilation,
                    rng.size(1, 3),
                    rng.size(0, kernel - 1),
                    rng.size(5, 7),
                ]
            })
            .collect();
        let part = |index: usize| axes.iter().map(move |axis| axis[index]).collect::<Vec<usize>>();
        let x = {
            let dims = [&[rng.size(0, 2), rng.size(1, 3)], &part(4)[..]].concat();
            numbers(rng, dtype, &dims)
        };
        let steps: Vec<usize> = axes
            .iter()
            .map(|[kernel, dilation, stride, pad, size]| (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1)
            .collect();
        let to = [&x.shape()[..2], &steps[..]].concat();
        let xs = x.to_f64s().unwrap();
        let expected: Vec<f64> = indices(&to)
            .map(|index| {
                let mut largest = f64::NEG_INFINITY;
                for at in indices(&part(0)) {
                    let places: Option<Vec<usize>> = (0..axes.len())
                        .map(|axis| {
                            let [kernel, dilation, stride, pad, size] = axes[axis];
                            window(index[axis + 2], kernel, stride, dilation, pad, size)[at[axis]]
                        })
                        .collect();
                    if let Some(places) = places {
                        let from = [&index[..2], &places[..]].concat();
                        let from: usize = from
                            .iter()
                            .zip(strides_of(x.shape()))
                            .map(|(at, stride)| at * stride)
                            .sum();
                        largest = largest.max(xs[from]);
                    }
                }
                largest
            })
            .collect();
        // A window that lies in the padding alone has no maximum.
        if expected.contains(&f64::NEG_INFINITY) {
            return;
        }
        let ints = |list: Vec<usize>| list.into_iter().map(|value| value as i64).collect::<Vec<i64>>();
        let node = TestNode::new("MaxPool", 12)
            .attr("kernel_shape", &ints(part(0))[..])
            .attr("dilations", &ints(part(1))[..])
            .attr("strides", &ints(part(2))[..])
            .attr("pads", &ints([part(3), part(3)].concat())[..])
            .input(x);
        let result = node.run1().unwrap();
        assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]));
        assert_eq!(result.to_f64s().unwrap(), expected, "{dtype}");
    });
}
