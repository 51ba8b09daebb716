//! Transforms and samples between pixels against sums over everything that could contribute: DFT and STFT by their
//! definition; GridSample, DeformConv and RoiAlign as images extended without end times a kernel function; Col2Im by
//! asking each pixel which blocks cover it; MaxUnpool as the inverse of MaxPool.

use super::*;
use std::f64::consts::TAU;

/// Numbers between -1 and 1.
fn random(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| f64::from(rng.f32())).collect();
    Tensor::from_f64s(dtype, shape, &values).unwrap()
}

fn assert_near(result: &Tensor, dtype: DType, shape: &[usize], expected: &[f64], what: &str) {
    assert_eq!((result.dtype(), result.shape()), (dtype, shape), "{what}");
    let tolerance = match dtype {
        DType::F64 => 1e-9,
        DType::F32 => 1e-4,
        _ => 1e-2,
    };
    for (index, (a, e)) in result.to_f64s().unwrap().iter().zip(expected).enumerate() {
        let bound = tolerance * e.abs().max(1.0);
        assert!((a - e).abs() <= bound, "{what}: element {index} is {a}, expected {e}");
    }
}

/// The first `made` bins of the transform of complex numbers.
fn transform(line: &[[f64; 2]], made: usize, sign: f64) -> Vec<[f64; 2]> {
    let bin = |k: usize| {
        line.iter().enumerate().fold([0.0; 2], |[re, im], (n, [a, b])| {
            let (sin, cos) = (sign * TAU * (k * n % line.len()) as f64 / line.len() as f64).sin_cos();
            [re + a * cos - b * sin, im + a * sin + b * cos]
        })
    };
    (0..made).map(bin).collect()
}

#[test]
fn transforms_along_an_axis() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::F32, DType::F64, DType::F16, DType::BF16]);
        let mut from = full_shape(rng, 1, 3);
        let axis = rng.size(0, from.len() - 1);
        from[axis] = rng.size(1, 13);
        if rng.size(0, 7) == 0 && from.len() > 1 {
            let other = (axis + 1) % from.len();
            from[other] = 0;
        }
        let (inverse, half) = (rng.bool(), rng.bool());
        from.push(if inverse { 2 } else { rng.size(1, 2) });
        // Of an inverse, the first half of a transform is given, and real numbers are made.
        let real = inverse && half;
        let length = match rng.bool() {
            true => Some(rng.size(1, 15)),
            false if real && from[axis] == 1 => Some(1),
            false => None,
        };
        let size = length.unwrap_or(if real { 2 * (from[axis] - 1) } else { from[axis] });
        let made = if half && !inverse { size / 2 + 1 } else { size };
        let x = random(rng, dtype, &from);
        let values = x.to_f64s().unwrap();
        let parts = from[from.len() - 1];
        let mut to = from.clone();
        to[axis] = made;
        *to.last_mut().unwrap() = if real { 1 } else { 2 };
        let expected: Vec<f64> = indices(&to)
            .map(|index| {
                let at = |place: usize| -> [f64; 2] {
                    let mut from_index = index.clone();
                    from_index[axis] = place;
                    *from_index.last_mut().unwrap() = 0;
                    let start = flat(&from, &from_index);
                    match place < from[axis] {
                        true => [values[start], if parts == 2 { values[start + 1] } else { 0.0 }],
                        false => [0.0; 2],
                    }
                };
                let mut line: Vec<[f64; 2]> = (0..size).map(at).collect();
                if real {
                    for place in 0..size {
                        let mirror = (size - place) % size;
                        if mirror == place {
                            line[place][1] = 0.0;
                        } else if mirror < place {
                            line[place] = [line[mirror][0], -line[mirror][1]];
                        }
                    }
                }
                let sign = if inverse { 1.0 } else { -1.0 };
                let bin = transform(&line, index[axis] + 1, sign)[index[axis]];
                bin[*index.last().unwrap()] / if inverse { size as f64 } else { 1.0 }
            })
            .collect();
        let node = TestNode::new("DFT", 20)
            .attr("inverse", i64::from(inverse))
            .attr("onesided", i64::from(half))
            .input(x);
        let node = match length {
            Some(length) => any_input(rng, node, i64s(&[], &[length as i64])),
            None => node.no_input(),
        };
        let place = i64s(&[], &[any_axis(rng, axis, from.len())]);
        let node = any_input(rng, node, place);
        let what = format!("{from:?} along {axis}, length {length:?}, inverse {inverse}, half {half}");
        assert_near(&node.run1().unwrap(), dtype, &to, &expected, &what);
    });
}

#[test]
fn transforms_of_frames() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::F32, DType::F64, DType::F16]);
        let (batch, length, step) = (rng.size(0, 3), rng.size(1, 30), rng.size(1, 5));
        let frame = rng.size(1, length);
        let half = rng.bool();
        let parts = if half { 1 } else { rng.size(1, 2) };
        let x = random(rng, dtype, &[batch, length, parts]);
        let window = rng.bool().then(|| random(rng, dtype, &[frame]));
        let (frames, bins) = ((length - frame) / step + 1, if half { frame / 2 + 1 } else { frame });
        let values = x.to_f64s().unwrap();
        let weights = window.as_ref().map(|window| window.to_f64s().unwrap());
        let mut expected = Vec::new();
        for (item, number) in (0..batch).flat_map(|item| (0..frames).map(move |number| (item, number))) {
            let at = |place: usize| {
                let start = (item * length + number * step + place) * parts;
                let weight = weights.as_ref().map_or(1.0, |weights| weights[place]);
                [
                    values[start] * weight,
                    if parts == 2 { values[start + 1] * weight } else { 0.0 },
                ]
            };
            let line: Vec<[f64; 2]> = (0..frame).map(at).collect();
            expected.extend(transform(&line, bins, -1.0).into_iter().flatten());
        }
        let node = TestNode::new("STFT", 17)
            .attr("onesided", i64::from(half))
            .input(x)
            .constant(i64s(&[], &[step as i64]));
        let node = match window {
            Some(window) => node.input(window),
            None => node.no_input(),
        };
        let result = node.constant(i64s(&[], &[frame as i64])).run1().unwrap();
        let what = format!("{batch} of {length}, frames of {frame} each {step}");
        assert_near(&result, dtype, &[batch, frames, bins, 2], &expected, &what);
    });
}

/// What stands at `place` of a line of `size` pixels that goes on without end.
fn extended(padding: &str, align: bool, place: i64, size: usize) -> Option<usize> {
    let last = size as i64 - 1;
    let inside = match padding {
        "zeros" => return usize::try_from(place).ok().filter(|&place| place < size),
        "border" => place.clamp(0, last),
        // Mirrored at the middle of the outermost pixels, or at their edges.
        _ if align && last == 0 => 0,
        _ if align => last - (last - place.rem_euclid(2 * last)).abs(),
        _ => {
            let within = place.rem_euclid(2 * size as i64);
            within.min(2 * size as i64 - 1 - within)
        }
    };
    Some(inside as usize)
}

/// How much a pixel `distance` away counts.
fn weight(mode: &str, distance: f64) -> f64 {
    const A: f64 = -0.75;
    let x = distance.abs();
    match mode {
        "nearest" => f64::from(u8::from(x < 0.5)),
        "linear" => (1.0 - x).max(0.0),
        _ if x <= 1.0 => (A + 2.0) * x.powi(3) - (A + 3.0) * x.powi(2) + 1.0,
        _ if x < 2.0 => A * x.powi(3) - 5.0 * A * x.powi(2) + 8.0 * A * x - 4.0 * A,
        _ => 0.0,
    }
}

/// The pixels around a position along an axis, and their weights.
fn around(mode: &str, padding: &str, align: bool, at: f64, size: usize) -> Vec<(usize, f64)> {
    let near = at.floor() as i64 - 3..=at.floor() as i64 + 4;
    near.filter_map(|place| Some((extended(padding, align, place, size)?, weight(mode, at - place as f64))))
        .collect()
}

#[test]
fn images_sampled_on_a_grid() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::F32, DType::F64]);
        let axes = rng.size(1, 3);
        let (batch, channels) = (rng.size(0, 2), rng.size(0, 3));
        let dims: Vec<usize> = (0..axes).map(|_| rng.size(1, 5)).collect();
        let spots: Vec<usize> = (0..axes).map(|_| rng.size(0, 3)).collect();
        let mode = pick(rng, &["nearest", "linear", "cubic"]);
        let padding = pick(rng, &["zeros", "border", "reflection"]);
        let align = rng.bool();
        let join = |first: &[usize], rest: &[usize]| [first, rest].concat();
        let image = random(rng, dtype, &join(&[batch, channels], &dims));
        let count: usize = batch * spots.iter().product::<usize>() * axes;
        let places: Vec<f64> = (0..count).map(|_| f64::from(rng.f32()) * 1.7).collect();
        let grid = Tensor::from_f64s(DType::F64, &join(&join(&[batch], &spots), &[axes]), &places).unwrap();
        let to = join(&[batch, channels], &spots);
        let (pixels, shape) = (image.to_f64s().unwrap(), image.shape().to_vec());
        let expected: Vec<f64> = indices(&to)
            .map(|index| {
                let mut spot = vec![index[0]];
                spot.extend(&index[2..]);
                let start = spot.iter().zip(join(&[batch], &spots)).fold(0, |at, (i, n)| at * n + i) * axes;
                let mut terms = vec![(index[..2].to_vec(), 1.0)];
                for axis in 0..axes {
                    let (n, size) = (places[start + axes - 1 - axis], dims[axis] as f64);
                    let at = match align {
                        true => (n + 1.0) / 2.0 * (size - 1.0),
                        false => ((n + 1.0) * size - 1.0) / 2.0,
                    };
                    let taps = around(mode, padding, align, at, dims[axis]);
                    terms = terms
                        .into_iter()
                        .flat_map(|(place, part)| taps.iter().map(move |&(at, w)| (join(&place, &[at]), part * w)))
                        .collect();
                }
                terms
                    .iter()
                    .map(|(place, part)| part * pixels[flat(&shape, place)])
                    .sum()
            })
            .collect();
        let node = TestNode::new("GridSample", 20)
            .attr("mode", mode)
            .attr("padding_mode", padding)
            .attr("align_corners", i64::from(align))
            .input(image)
            .input(grid);
        let what = format!("{mode}, {padding}, corners {align}, {shape:?} to {to:?}");
        assert_near(&node.run1().unwrap(), dtype, &to, &expected, &what);
    });
}

/// A window in two dimensions: kernel, strides, dilations, pads, and what it makes of an image.
struct Plane {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    pads: [usize; 4],
    output: [usize; 2],
}

impl Plane {
    fn over(rng: &mut Rng, image: [usize; 2]) -> Plane {
        let mut two = |high| [rng.size(1, high), rng.size(1, high)];
        let (kernel, strides, dilations) = (two(3), two(3), two(2));
        let mut pads = [0; 4];
        let mut output = [0; 2];
        for axis in 0..2 {
            let reach = (kernel[axis] - 1) * dilations[axis] + 1;
            pads[axis] = rng.size(0, 2);
            pads[axis + 2] = rng.size(0, 2) + reach.saturating_sub(image[axis] + pads[axis]);
            output[axis] = (image[axis] + pads[axis] + pads[axis + 2] - reach) / strides[axis] + 1;
        }
        Plane {
            kernel,
            strides,
            dilations,
            pads,
            output,
        }
    }

    /// Where step `step` of the window at `spot` reads, along an axis.
    fn place(&self, axis: usize, spot: usize, step: usize) -> i64 {
        (spot * self.strides[axis] + step * self.dilations[axis]) as i64 - self.pads[axis] as i64
    }

    fn attributes(&self, node: TestNode) -> TestNode {
        let ints = |list: &[usize]| Attribute::Ints(list.iter().map(|&size| size as i64).collect());
        node.attr("strides", ints(&self.strides))
            .attr("dilations", ints(&self.dilations))
            .attr("pads", ints(&self.pads))
    }
}

#[test]
fn blocks_added_into_an_image() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::F32, DType::F64, DType::F16, DType::I32, DType::U8]);
        let (batch, channels, image) = (rng.size(0, 2), rng.size(0, 3), [rng.size(1, 6), rng.size(1, 6)]);
        let plane = Plane::over(rng, image);
        let (steps, count) = (plane.kernel[0] * plane.kernel[1], plane.output[0] * plane.output[1]);
        let from = [batch, channels * steps, count];
        let blocks = numbers(rng, dtype, &from);
        let values = blocks.to_f64s().unwrap();
        let to = [batch, channels, image[0], image[1]];
        let expected: Vec<f64> = indices(&to)
            .map(|index| {
                let sources = indices(&plane.kernel)
                    .flat_map(|step| indices(&plane.output).map(move |spot| (step.clone(), spot)));
                let covers = |(step, spot): &(Vec<usize>, Vec<usize>)| {
                    (0..2).all(|axis| plane.place(axis, spot[axis], step[axis]) == index[axis + 2] as i64)
                };
                let at = |(step, spot): (Vec<usize>, Vec<usize>)| {
                    let row = index[1] * steps + flat(&plane.kernel, &step);
                    values[(index[0] * from[1] + row) * count + flat(&plane.output, &spot)]
                };
                sources.filter(covers).map(at).sum()
            })
            .collect();
        let node = plane.attributes(TestNode::new("Col2Im", 18)).input(blocks);
        let node = any_input(rng, node, list(&image));
        let node = any_input(rng, node, list(&plane.kernel));
        assert_near(
            &node.run1().unwrap(),
            dtype,
            &to,
            &expected,
            &format!("{from:?} to {to:?}"),
        );
    });
}

#[test]
fn windows_moved_by_offsets() {
    cases(|rng| {
        let (batch, group, image) = (rng.size(0, 2), rng.size(1, 2), [rng.size(1, 6), rng.size(1, 6)]);
        let (depth, filters, offset_groups) = (rng.size(1, 2), group * rng.size(1, 2), rng.size(1, 2));
        let (depth, channels) = (depth * offset_groups, depth * offset_groups * group);
        let plane = Plane::over(rng, image);
        let [rows, columns] = plane.output;
        let steps = plane.kernel[0] * plane.kernel[1];
        let x = random(rng, DType::F32, &[batch, channels, image[0], image[1]]);
        let w = random(rng, DType::F32, &[filters, depth, plane.kernel[0], plane.kernel[1]]);
        let offsets = random(rng, DType::F32, &[batch, offset_groups * steps * 2, rows, columns]);
        let bias = rng.bool().then(|| random(rng, DType::F32, &[filters]));
        let mask = rng
            .bool()
            .then(|| random(rng, DType::F32, &[batch, offset_groups * steps, rows, columns]));
        let read = |tensor: &Tensor| (tensor.to_f64s().unwrap(), tensor.shape().to_vec());
        let at = |(values, shape): &(Vec<f64>, Vec<usize>), index: [usize; 4]| values[flat(shape, &index)];
        let (xs, ws, os) = (read(&x), read(&w), read(&offsets));
        let (bs, ms) = (bias.as_ref().map(read), mask.as_ref().map(read));
        let to = [batch, filters, rows, columns];
        let expected: Vec<f64> = indices(&to)
            .map(|index| {
                let &[n, m, r, c] = index.as_slice() else {
                    unreachable!()
                };
                let mut sum = bs.as_ref().map_or(0.0, |bias| bias.0[m]);
                for (part, step) in (0..depth).flat_map(|part| indices(&plane.kernel).map(move |step| (part, step))) {
                    let channel = m / (filters / group) * depth + part;
                    let set = channel / (channels / offset_groups);
                    let number = set * steps + flat(&plane.kernel, &step);
                    let y = plane.place(0, r, step[0]) as f64 + at(&os, [n, 2 * number, r, c]);
                    let x = plane.place(1, c, step[1]) as f64 + at(&os, [n, 2 * number + 1, r, c]);
                    let rows = around("linear", "zeros", true, y, image[0]);
                    let columns = around("linear", "zeros", true, x, image[1]);
                    let pixel: f64 = rows
                        .iter()
                        .flat_map(|row| columns.iter().map(move |column| (row, column)))
                        .map(|(row, column)| row.1 * column.1 * at(&xs, [n, channel, row.0, column.0]))
                        .sum();
                    let weight = ms.as_ref().map_or(1.0, |mask| at(mask, [n, number, r, c]));
                    sum += pixel * weight * at(&ws, [m, part, step[0], step[1]]);
                }
                sum
            })
            .collect();
        let node = plane
            .attributes(TestNode::new("DeformConv", 19))
            .attr("group", group as i64)
            .attr("offset_group", offset_groups as i64)
            .input(x)
            .input(w)
            .input(offsets);
        let node = match bias {
            Some(bias) => node.input(bias),
            None => node.no_input(),
        };
        let node = match mask {
            Some(mask) => node.input(mask),
            None => node,
        };
        let what = format!(
            "{image:?}, kernel {:?}, {group} groups, {offset_groups} sets",
            plane.kernel
        );
        assert_near(&node.run1().unwrap(), DType::F32, &to, &expected, &what);
    });
}

#[test]
fn regions_averaged_cell_by_cell() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::F32, DType::F64]);
        let (batch, channels, regions) = (rng.size(1, 2), rng.size(0, 2), rng.size(0, 3));
        let (image, cells, ratio) = (
            [rng.size(1, 6), rng.size(1, 6)],
            [rng.size(1, 3), rng.size(1, 3)],
            rng.size(1, 3),
        );
        let (scale, half) = (0.5 + rng.size(0, 2) as f64 * 0.25, rng.bool());
        let x = random(rng, dtype, &[batch, channels, image[0], image[1]]);
        let corners: Vec<f64> = (0..regions)
            .flat_map(|_| {
                let (left, top) = (rng.size(0, 40) as f64 / 8.0 - 2.0, rng.size(0, 40) as f64 / 8.0 - 2.0);
                [
                    left,
                    top,
                    left + rng.size(0, 48) as f64 / 8.0,
                    top + rng.size(0, 48) as f64 / 8.0,
                ]
            })
            .collect();
        let items: Vec<i64> = (0..regions).map(|_| rng.size(0, batch - 1) as i64).collect();
        let (values, shape) = (x.to_f64s().unwrap(), x.shape().to_vec());
        let to = [regions, channels, cells[0], cells[1]];
        let expected: Vec<f64> = indices(&to)
            .map(|index| {
                let region = &corners[index[0] * 4..][..4];
                let shift = if half { 0.5 } else { 0.0 };
                // Samples along the rows, then the columns; y comes second in a region.
                let line = |axis: usize| -> Vec<Vec<(usize, f64)>> {
                    let start = region[1 - axis] * scale - shift;
                    let extent = region[3 - axis] * scale - shift - start;
                    let cell = if half { extent } else { extent.max(1.0) } / cells[axis] as f64;
                    let at =
                        |sample: usize| start + (index[axis + 2] as f64 + (sample as f64 + 0.5) / ratio as f64) * cell;
                    let size = image[axis] as f64;
                    let taps = |at: f64| match (-1.0..=size).contains(&at) {
                        true => around("linear", "zeros", true, at.clamp(0.0, size - 1.0), image[axis]),
                        false => Vec::new(),
                    };
                    (0..ratio).map(|sample| taps(at(sample))).collect()
                };
                let (rows, columns) = (line(0), line(1));
                let pairs = rows
                    .iter()
                    .flatten()
                    .flat_map(|row| columns.iter().flatten().map(move |column| (row, column)));
                let item = items[index[0]] as usize;
                let sum: f64 = pairs
                    .map(|(row, column)| row.1 * column.1 * values[flat(&shape, &[item, index[1], row.0, column.0])])
                    .sum();
                sum / (ratio * ratio) as f64
            })
            .collect();
        let node = TestNode::new("RoiAlign", 16)
            .attr("output_height", cells[0] as i64)
            .attr("output_width", cells[1] as i64)
            .attr("sampling_ratio", ratio as i64)
            .attr("spatial_scale", scale as f32)
            .attr(
                "coordinate_transformation_mode",
                if half { "half_pixel" } else { "output_half_pixel" },
            )
            .input(x)
            .input(Tensor::from_f64s(dtype, &[regions, 4], &corners).unwrap())
            .input(i64s(&[regions], &items));
        assert_near(
            &node.run1().unwrap(),
            dtype,
            &to,
            &expected,
            &format!("{corners:?} of {image:?} in {cells:?}"),
        );
    });
}

#[test]
fn maxima_go_back_to_where_they_were() {
    cases(|rng| {
        let dtype = pick(rng, &[DType::F32, DType::F64, DType::F16]);
        let (batch, channels) = (rng.size(0, 2), rng.size(0, 3));
        let (kernel, cells) = ([rng.size(1, 3), rng.size(1, 3)], [rng.size(1, 4), rng.size(1, 4)]);
        let shape = [batch, channels, kernel[0] * cells[0], kernel[1] * cells[1]];
        // Every number once, so that there is one maximum.
        let count: usize = shape.iter().product();
        let mut order: Vec<usize> = (0..count).collect();
        (1..count).for_each(|i| order.swap(i, rng.size(0, i)));
        let values: Vec<f64> = order.iter().map(|&value| 1.0 + value as f64).collect();
        let x = Tensor::from_f64s(dtype, &shape, &values).unwrap();
        let ints = |list: &[usize]| Attribute::Ints(list.iter().map(|&size| size as i64).collect());
        let pool = TestNode::new("MaxPool", 12)
            .attr("kernel_shape", ints(&kernel))
            .attr("strides", ints(&kernel))
            .outputs(2)
            .input(x)
            .run()
            .unwrap();
        let back = TestNode::new("MaxUnpool", 11)
            .attr("kernel_shape", ints(&kernel))
            .attr("strides", ints(&kernel))
            .input(pool[0].clone())
            .input(pool[1].clone());
        let back = back.run1().unwrap();
        let at = |index: &[usize]| values[flat(&shape, index)];
        let expected: Vec<f64> = indices(&shape)
            .map(|index| {
                let corner = [index[2] / kernel[0] * kernel[0], index[3] / kernel[1] * kernel[1]];
                let window =
                    indices(&kernel).map(|step| at(&[index[0], index[1], corner[0] + step[0], corner[1] + step[1]]));
                let is_largest = window.into_iter().all(|other| other <= at(&index));
                if is_largest { at(&index) } else { 0.0 }
            })
            .collect();
        assert_near(&back, dtype, &shape, &expected, &format!("{shape:?} by {kernel:?}"));
    });
}
