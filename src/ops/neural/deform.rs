//! ONNX `DeformConv`.

use super::{Call, Whole, advance, singles, whole, zeros};
use crate::{
    cpu::{
        epilogue::Epilogue,
        gemm::{GemmShape, Lhs, MatrixRef, Rhs, gemm, gemm_scratch_len},
        threads::Threads,
    },
    error::Result,
    graph::Node,
    ops::{
        InferContext, Operator,
        context::rank_error,
        lower::{invalid, mismatch, unsupported},
        window::Window,
    },
    tensor::{Tensor, display_shape, element_count, strides_of},
};

/// ONNX `DeformConv` (opsets 19, 22): a convolution of `[N, C, ..]` by `[M, C / group, ..k]` whose window reads, for each
/// output position, at places moved by offsets `[N, offset groups * |k| * axes, ..out]` and weighted by a mask
/// `[N, offset groups * |k|, ..out]`, with linear interpolation and zeros outside. Any number of axes up to five;
/// computed in f32.
#[derive(Debug)]
struct DeformConv {
    window: Window,
    group: usize,
    offset_group: usize,
}

/// More spatial axes than these are refused: a sample reads 2 to their power pixels.
const MAX_AXES: usize = 5;

/// Makes [`DeformConv`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let count = |name: &str| -> Result<usize> {
        let value = node.attributes.int(name)?.unwrap_or(1);
        match usize::try_from(value) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(invalid(format!("attribute {name} is not a count")).actual(value.to_string())),
        }
    };
    whole(DeformConv {
        window: Window::of_conv(node)?,
        group: count("group")?,
        offset_group: count("offset_group")?,
    })
}

/// Pixels and their weights for every step of the window at every position of the output, `corners` of each.
struct Samples {
    corners: usize,
    list: Vec<(usize, f32)>,
}

impl Whole for DeformConv {
    fn kernel_name(&self) -> &'static str {
        "deform_conv"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match (ctx.shape(0), ctx.shape(1)) {
            (Some(image), Some(weights)) => {
                if image.len() < 3 {
                    return Err(rank_error(0, "at least 3", image.len()));
                }
                if weights.len() != image.len() {
                    return Err(rank_error(1, image.len(), weights.len()));
                }
                let mut shape = vec![image[0].clone(), weights[0].clone()];
                shape.extend(self.window.output_dims(&image[2..], &weights[2..])?);
                Some(shape)
            }
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (image, weights, offset) = (call.input(0)?, call.input(1)?, call.input(2)?);
        let (&[batch, channels, ref dims @ ..], &[filters, depth, ref kernel @ ..]) = (image.shape(), weights.shape())
        else {
            return Err(mismatch("the image or the weights have too few dimensions"));
        };
        let (axes, group) = (dims.len(), self.group);
        if axes == 0 || axes > MAX_AXES {
            return Err(
                unsupported("DeformConv works on images of one to five spatial dimensions")
                    .actual(display_shape(image.shape())),
            );
        }
        if kernel.len() != axes || depth.checked_mul(group) != Some(channels) || filters % group != 0 {
            return Err(mismatch("the weights do not fit the image and the groups")
                .expected(format!(
                    "[M * {group}, {channels} / {group}, ..] of {axes} spatial axes"
                ))
                .actual(display_shape(weights.shape())));
        }
        if channels % self.offset_group != 0 {
            return Err(mismatch("attribute offset_group does not divide the channels"));
        }
        let geometry = self.window.geometry(dims, kernel)?;
        let (steps, count) = (element_count(kernel)?, element_count(&geometry.output)?);
        let moved = |values: usize| -> Vec<usize> {
            let values = self.offset_group.saturating_mul(steps).saturating_mul(values);
            [batch, values].iter().chain(&geometry.output).copied().collect()
        };
        let (bias, mask) = (call.optional(3), call.optional(4));
        for (what, tensor, expected) in [
            ("offsets", Some(offset), moved(axes)),
            ("bias", bias, vec![filters]),
            ("mask", mask, moved(1)),
        ] {
            if let Some(tensor) = tensor.filter(|tensor| tensor.shape() != expected) {
                return Err(mismatch(format!("the {what} do not fit the convolution"))
                    .expected(display_shape(&expected))
                    .actual(display_shape(tensor.shape())));
            }
        }
        let shape: Vec<usize> = [batch, filters].iter().chain(&geometry.output).copied().collect();
        let mut result: Vec<f32> = zeros(&shape)?;
        let (pixels, weights, offsets) = (image.to_f32s()?, weights.to_f32s()?, offset.to_f32s()?);
        let (bias, mask) = (
            bias.map(Tensor::to_f32s).transpose()?,
            mask.map(Tensor::to_f32s).transpose()?,
        );
        let area = element_count(dims)?;
        let strides = strides_of(dims);
        let corners = 1usize << axes;
        let mut samples = Samples {
            corners,
            list: zeros(&[steps, count, corners])?,
        };
        let mut columns: Vec<f32> = zeros(&[channels, steps, count])?;
        let product = GemmShape {
            m: filters / group,
            k: depth * steps,
            n: count,
        };
        let mut scratch: Vec<f32> = zeros(&[gemm_scratch_len(product, false, false)])?;
        for item in 0..batch {
            for moving in 0..self.offset_group {
                let mut step = vec![0; axes];
                for number in 0..steps {
                    let row = (item * self.offset_group + moving) * steps + number;
                    let mut spot = vec![0; axes];
                    for index in 0..count {
                        let factor = mask.as_ref().map_or(1.0, |mask| mask[row * count + index]);
                        let start = (number * count + index) * corners;
                        let list = &mut samples.list[start..start + corners];
                        list.fill((0, factor));
                        for axis in 0..axes {
                            let fixed = spot[axis] * geometry.strides[axis] + step[axis] * geometry.dilations[axis];
                            let at = fixed as f32 - geometry.pads_begin[axis] as f32
                                + offsets[(row * axes + axis) * count + index];
                            let floor = at.floor();
                            for (corner, (place, weight)) in list.iter_mut().enumerate() {
                                let second = corner >> axis & 1;
                                let part = if second == 1 { at - floor } else { 1.0 - (at - floor) };
                                let pixel = (floor as i64).saturating_add(second as i64);
                                match usize::try_from(pixel).ok().filter(|&pixel| pixel < dims[axis]) {
                                    Some(pixel) => (*place, *weight) = (*place + pixel * strides[axis], *weight * part),
                                    None => *weight = 0.0,
                                }
                            }
                        }
                        advance(&mut spot, &geometry.output);
                    }
                    advance(&mut step, kernel);
                }
                let share = channels / self.offset_group;
                for channel in moving * share..(moving + 1) * share {
                    let plane = &pixels[(item * channels + channel) * area..][..area];
                    samples.read(plane, &mut columns[channel * steps * count..][..steps * count]);
                }
            }
            for group in 0..group {
                let rows = &weights[group * product.m * product.k..][..product.m * product.k];
                let columns = &columns[group * product.k * count..][..product.k * count];
                let first = item * filters + group * product.m;
                gemm(
                    product,
                    Lhs::Matrix(MatrixRef::row_major(rows, product.k)),
                    Rhs::Matrix(MatrixRef::row_major(columns, count)),
                    &mut result[first * count..][..product.m * count],
                    &mut scratch,
                    &Epilogue::none(),
                    &Threads::SINGLE,
                );
            }
        }
        if let Some(bias) = bias {
            for (row, values) in result.chunks_exact_mut(count.max(1)).enumerate() {
                values.iter_mut().for_each(|value| *value += bias[row % filters]);
            }
        }
        Ok(vec![singles(image.dtype(), &shape, result)?])
    }
}

impl Samples {
    fn read(&self, plane: &[f32], out: &mut [f32]) {
        for (to, corners) in out.iter_mut().zip(self.list.chunks_exact(self.corners)) {
            // A place that is partly outside keeps its inner part, which is inside, and weighs nothing.
            let inside = corners.iter().filter(|(_, weight)| *weight != 0.0);
            *to = inside.map(|&(place, weight)| plane[place] * weight).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ops::testing::{TestNode, assert_tensor_close, f32s},
        tensor::Tensor,
    };

    fn node(offsets: &[f32]) -> TestNode {
        TestNode::new("DeformConv", 22)
            .input(f32s(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]))
            .input(f32s(&[1, 1, 1, 2], &[1.0, 10.0]))
            .input(f32s(&[1, 4, 1, 3], offsets))
    }

    #[test]
    fn windows_read_where_they_are_moved_to() {
        let still = node(&[0.0; 12]).run1().unwrap();
        assert_eq!(still, f32s(&[1, 1, 1, 3], &[21.0, 32.0, 43.0]));
        let mut offsets = [0.0; 12];
        // The first step half a pixel to the right, then one down: outside.
        (offsets[3], offsets[1]) = (0.5, 1.0);
        let moved = node(&offsets).input(f32s(&[1], &[0.5])).run1().unwrap();
        assert_tensor_close(&moved, &f32s(&[1, 1, 1, 3], &[22.0, 30.5, 43.5]), 1e-6);
        let mask = f32s(&[1, 2, 1, 3], &[1.0, 1.0, 1.0, 0.0, 0.0, 2.0]);
        let masked = node(&[0.0; 12]).no_input().input(mask).run1().unwrap();
        assert_eq!(masked, f32s(&[1, 1, 1, 3], &[1.0, 2.0, 83.0]));
        assert!(node(&[f32::NAN; 12]).run().is_ok());
        assert_eq!(
            node(&[f32::INFINITY; 12]).run1().unwrap(),
            f32s(&[1, 1, 1, 3], &[0.0; 3])
        );
    }

    #[test]
    fn groups_that_do_not_fit_are_errors() {
        assert!(node(&[0.0; 12]).attr("group", 2).run().is_err());
        assert!(node(&[0.0; 12]).attr("offset_group", 3).run().is_err());
        assert!(node(&[0.0; 12]).attr("pads", [0, 1, 0, 0]).run().is_err());
        let empty = TestNode::new("DeformConv", 22)
            .input(Tensor::zeros(crate::tensor::DType::F16, &[0, 2, 3]).unwrap())
            .input(Tensor::zeros(crate::tensor::DType::F16, &[2, 2, 2]).unwrap())
            .input(Tensor::zeros(crate::tensor::DType::F16, &[0, 2, 2]).unwrap());
        assert_eq!(empty.run1().unwrap().shape(), [0, 2, 2]);
    }
}
