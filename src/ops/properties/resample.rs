//! Resize in every mode and coordinate system, of every type of float.

use super::*;
use crate::ops::testing::f32s;

/// The place in the input of a place in the output.
fn place(mode: &str, at: usize, from: usize, to: usize, scale: f32) -> f32 {
    let x = at as f32;
    match mode {
        "half_pixel" => (x + 0.5) / scale - 0.5,
        "pytorch_half_pixel" if to == 1 => 0.0,
        "pytorch_half_pixel" => (x + 0.5) / scale - 0.5,
        "align_corners" if to == 1 => 0.0,
        "align_corners" => x * (from as f32 - 1.0) / (to as f32 - 1.0),
        _ => x / scale,
    }
}

/// The elements that one along the axis is made of, with their weights.
fn weights(mode: &str, nearest: &str, x: f32, from: usize) -> Vec<(usize, f64)> {
    let last = from as i64 - 1;
    let whole = x.floor();
    let rest = f64::from(x - whole);
    let at = |offset: i64| (whole as i64 + offset).clamp(0, last) as usize;
    match mode {
        "nearest" => {
            let chosen = match nearest {
                "floor" => x.floor(),
                "ceil" => x.ceil(),
                "round_prefer_ceil" => (x + 0.5).floor(),
                _ => (x - 0.5).ceil(),
            };
            vec![((chosen as i64).clamp(0, last) as usize, 1.0)]
        }
        "linear" => vec![(at(0), 1.0 - rest), (at(1), rest)],
        _ => {
            const A: f64 = -0.75;
            let weight = |distance: f64| {
                let d = distance.abs();
                match d {
                    d if d <= 1.0 => (A + 2.0) * d.powi(3) - (A + 3.0) * d * d + 1.0,
                    d if d < 2.0 => A * d.powi(3) - 5.0 * A * d * d + 8.0 * A * d - 4.0 * A,
                    _ => 0.0,
                }
            };
            (-1..3)
                .map(|offset| (at(offset), weight(rest - offset as f64)))
                .collect()
        }
    }
}

#[test]
fn resize_matches_its_definition_axis_by_axis() {
    cases(|rng| {
        let mode = pick(rng, &["nearest", "linear", "cubic"]);
        let nearest = pick(rng, &["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]);
        let coordinates = pick(
            rng,
            &["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"],
        );
        let dtype = pick(rng, &[DType::F32, DType::F64, DType::F16]);
        let from = [rng.size(1, 2), rng.size(1, 3), rng.size(1, 6), rng.size(1, 6)];
        let to = [from[0], from[1], rng.size(1, 12), rng.size(1, 12)];
        let x = numbers(rng, dtype, &from);
        let mut expected = x.to_f64s().unwrap();
        let mut own = from;
        for axis in 2..4 {
            let before = own;
            own[axis] = to[axis];
            let values: Vec<f64> = indices(&own)
                .map(|index| {
                    let scale = to[axis] as f32 / from[axis] as f32;
                    let x = place(coordinates, index[axis], from[axis], to[axis], scale);
                    let terms = weights(mode, nearest, x, from[axis]).into_iter();
                    terms
                        .map(|(at, weight)| {
                            let mut from = index.clone();
                            from[axis] = at;
                            let strides = strides_of(&before);
                            let at: usize = from.iter().zip(strides).map(|(at, stride)| at * stride).sum();
                            expected[at] * weight
                        })
                        .sum()
                })
                .collect();
            expected = values;
        }
        let node = TestNode::new("Resize", 19)
            .attr("mode", mode)
            .attr("nearest_mode", nearest)
            .attr("coordinate_transformation_mode", coordinates)
            .input(x)
            .no_input();
        // The same in either form; sizes give the exact scale.
        let node = if to.iter().zip(&from).all(|(to, from)| to % from == 0) && rng.bool() {
            let scales: Vec<f32> = to.iter().zip(&from).map(|(to, from)| (to / from) as f32).collect();
            node.constant(f32s(&[4], &scales))
        } else {
            let node = node.no_input();
            node.constant(list(&to))
        };
        let result = node.run1().unwrap();
        assert_eq!((result.dtype(), result.shape()), (dtype, &to[..]));
        let tolerance = if dtype == DType::F16 { 1e-2 } else { 1e-4 };
        for (index, (a, e)) in result.to_f64s().unwrap().iter().zip(&expected).enumerate() {
            assert!(
                (a - e).abs() <= tolerance * e.abs().max(1.0),
                "{mode} {nearest} {coordinates} {from:?} to {to:?}: element {index} is {a}, expected {e}"
            );
        }
    });
}
