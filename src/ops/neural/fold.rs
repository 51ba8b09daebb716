//! Blocks put back into images: Col2Im, MaxUnpool, CenterCropPad.

use super::{Call, Numbers, Whole, advance, dims_of_input, from_sums, sizes, whole, zeros};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::Node,
    ops::{
        InferContext, Operator,
        context::rank_error,
        elements::pick,
        lower::{invalid, mismatch},
        window::{AutoPad, Window},
    },
    tensor::{Dim, Tensor, display_shape, element_count, resolve_axis, strides_of},
};

/// ONNX `Col2Im` (opset 18): blocks `[N, C * |block|, L]` added into an image `[N, C, ..image]` at the places that a
/// sliding window of the block's shape takes them from. Any numeric type.
#[derive(Debug)]
struct Col2Im {
    window: Window,
}

/// Makes [`Col2Im`].
pub fn make_col2im(node: &Node) -> Result<Box<dyn Operator>> {
    whole(Col2Im {
        window: Window::of_conv(node)?,
    })
}

impl Whole for Col2Im {
    fn kernel_name(&self) -> &'static str {
        "col2im"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        if let Some(rank) = ctx.rank(0).filter(|&rank| rank != 3) {
            return Err(rank_error(0, 3, rank));
        }
        let block = ctx.elements(2).map(|block| Dim::product(&block));
        let shape = dims_of_input(ctx, 1).map(|image| {
            let [batch, channels] = match (ctx.shape(0), block) {
                (Some(input), Some(block)) => [input[0].clone(), input[1].floor_div(&block)],
                (Some(input), None) => [input[0].clone(), ctx.fresh_dim()],
                (None, _) => [ctx.fresh_dim(), ctx.fresh_dim()],
            };
            [batch, channels].into_iter().chain(image).collect()
        });
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (tensor, image, block) = (call.input(0)?, sizes(call.input(1)?)?, sizes(call.input(2)?)?);
        if image.len() != block.len() || image.is_empty() {
            return Err(mismatch("the block has another rank than the image")
                .expected(display_shape(&image))
                .actual(display_shape(&block)));
        }
        let window = &self.window;
        window.check_axes(image.len())?;
        let geometry = window.geometry(&image, &block)?;
        let (steps, count) = (element_count(&block)?, element_count(&geometry.output)?);
        let &[batch, columns, blocks] = tensor.shape() else {
            return Err(rank_error(0, 3, tensor.shape().len()));
        };
        if steps == 0 || columns % steps != 0 || blocks != count {
            return Err(mismatch("the blocks do not fit the image")
                .expected(format!("[N, C * {steps}, {count}]"))
                .actual(display_shape(tensor.shape())));
        }
        let channels = columns / steps;
        let shape: Vec<usize> = [batch, channels].iter().chain(&image).copied().collect();
        let mut result: Vec<f64> = zeros(&shape)?;
        let values = Numbers::of(tensor)?;
        let (area, strides) = (element_count(&image)?, strides_of(&image));
        let mut step = vec![0; block.len()];
        for number in 0..steps {
            let mut spot = vec![0; block.len()];
            for index in 0..count {
                // The place in the image, unless it is in the padding.
                let place = (0..image.len()).try_fold(0, |place, axis| {
                    let at = spot[axis] * geometry.strides[axis] + step[axis] * geometry.dilations[axis];
                    let at = at.checked_sub(geometry.pads_begin[axis])?;
                    (at < image[axis]).then_some(place + at * strides[axis])
                });
                if let Some(place) = place {
                    for plane in 0..batch * channels {
                        result[plane * area + place] += values.at((plane * steps + number) * count + index);
                    }
                }
                advance(&mut spot, &geometry.output);
            }
            advance(&mut step, &block);
        }
        Ok(vec![from_sums(tensor.dtype(), &shape, &result)?])
    }
}

/// ONNX `MaxUnpool` (opsets 9, 11, 22): each element put back to the flat index that MaxPool took it from, zeros
/// elsewhere. The result has the size that the pooling attributes give, then cut or filled up to `output_shape`.
#[derive(Debug)]
struct MaxUnpool {
    window: Window,
    kernel: Vec<usize>,
}

/// Makes [`MaxUnpool`].
pub fn make_max_unpool(node: &Node) -> Result<Box<dyn Operator>> {
    let window = Window::of_conv(node)?;
    if window.auto_pad != AutoPad::Explicit {
        return Err(invalid("MaxUnpool has no auto_pad"));
    }
    let kernel = window.kernel.clone();
    let kernel = kernel.ok_or_else(|| invalid("attribute kernel_shape is missing"))?;
    whole(MaxUnpool { window, kernel })
}

impl MaxUnpool {
    /// The unpooled size of one axis.
    fn unpooled(&self, axis: usize, size: &Dim) -> Dim {
        let (front, back) = self.window.explicit_pads(axis);
        let spread = (size.clone() - Dim::from(1)) * Dim::from(self.window.stride(axis));
        spread - Dim::from(front) - Dim::from(back) + Dim::from(self.kernel[axis])
    }

    fn check(&self, rank: usize) -> Result<()> {
        let axes = self.kernel.len();
        if rank != axes + 2 {
            return Err(rank_error(0, axes + 2, rank));
        }
        self.window.check_axes(axes)
    }
}

impl Whole for MaxUnpool {
    fn kernel_name(&self) -> &'static str {
        "max_unpool"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        if let Some(rank) = ctx.rank(0) {
            self.check(rank)?;
        }
        let shape = if ctx.has_input(2) {
            dims_of_input(ctx, 2)
        } else {
            ctx.shape(0).map(|input| {
                let spatial = input[2..]
                    .iter()
                    .enumerate()
                    .map(|(axis, size)| self.unpooled(axis, size));
                input[..2].iter().cloned().chain(spatial).collect()
            })
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (tensor, indices) = (call.input(0)?, call.input(1)?);
        self.check(tensor.shape().len())?;
        if tensor.shape() != indices.shape() {
            return Err(mismatch("the indices are not one for each element")
                .expected(display_shape(tensor.shape()))
                .actual(display_shape(indices.shape())));
        }
        let mut own = tensor.shape()[..2].to_vec();
        for (axis, &size) in tensor.shape()[2..].iter().enumerate() {
            let size = self.unpooled(axis, &Dim::from(size)).size();
            own.push(size.ok_or_else(|| mismatch("the pads are larger than the unpooled image"))?);
        }
        let shape = match call.optional(2) {
            Some(shape) => sizes(shape)?,
            None => own.clone(),
        };
        if shape.len() != own.len() {
            return Err(mismatch("the output's shape has another rank than the input").actual(display_shape(&shape)));
        }
        let (count, own_strides, strides) = (element_count(&own)?, strides_of(&own), strides_of(&shape));
        let mut places: Vec<Option<usize>> = zeros(&shape)?;
        for (number, index) in indices.to_i64s()?.into_iter().enumerate() {
            let index = usize::try_from(index)
                .ok()
                .filter(|&index| index < count)
                .ok_or_else(|| {
                    Error::new(ErrorCode::RunFailed, "an index is outside the unpooled image")
                        .expected(format!("0 to {count}"))
                        .actual(index.to_string())
                })?;
            let place = (0..shape.len()).try_fold(0, |place, axis| {
                let at = index / own_strides[axis] % own[axis];
                (at < shape[axis]).then_some(place + at * strides[axis])
            });
            if let Some(place) = place {
                places[place] = Some(number);
            }
        }
        Ok(vec![pick(tensor, &shape, &mut places.into_iter())?])
    }
}

/// ONNX `CenterCropPad` (opset 18): each axis in `axes` (by default all) cut or filled up with zeros around its middle
/// to the size that input 1 gives. Any element type.
#[derive(Debug)]
struct CenterCropPad {
    axes: Option<Vec<i64>>,
}

/// Makes [`CenterCropPad`].
pub fn make_center_crop_pad(node: &Node) -> Result<Box<dyn Operator>> {
    whole(CenterCropPad {
        axes: node.attributes.ints("axes")?.map(<[i64]>::to_vec),
    })
}

impl CenterCropPad {
    fn axes(&self, rank: usize) -> Result<Vec<usize>> {
        match &self.axes {
            Some(axes) => axes.iter().map(|&axis| resolve_axis(axis, rank)).collect(),
            None => Ok((0..rank).collect()),
        }
    }
}

fn not_one_size_each(axes: usize, sizes: usize) -> Error {
    mismatch("the shape is not one size for each axis")
        .expected(axes.to_string())
        .actual(sizes.to_string())
}

impl Whole for CenterCropPad {
    fn kernel_name(&self) -> &'static str {
        "center_crop_pad"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let target = ctx.elements(1);
        let shape = match ctx.shape(0) {
            Some(input) => {
                let axes = self.axes(input.len())?;
                let mut shape = input.to_vec();
                if let Some(target) = target.as_ref().filter(|target| target.len() != axes.len()) {
                    return Err(not_one_size_each(axes.len(), target.len()));
                }
                for (number, axis) in axes.into_iter().enumerate() {
                    shape[axis] = match &target {
                        Some(target) => target[number].clone(),
                        None => ctx.fresh_dim(),
                    };
                }
                Some(shape)
            }
            None => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (tensor, target) = (call.input(0)?, sizes(call.input(1)?)?);
        let input = tensor.shape();
        let axes = self.axes(input.len())?;
        if axes.len() != target.len() {
            return Err(not_one_size_each(axes.len(), target.len()));
        }
        let mut shape = input.to_vec();
        for (axis, size) in axes.into_iter().zip(target) {
            shape[axis] = size;
        }
        let (count, strides) = (element_count(&shape)?, strides_of(input));
        let mut index = vec![0; shape.len()];
        let mut places = (0..count).map(|_| {
            let place = (0..shape.len()).try_fold(0, |place, axis| {
                let at = if shape[axis] <= input[axis] {
                    Some(index[axis] + (input[axis] - shape[axis]) / 2)
                } else {
                    index[axis].checked_sub((shape[axis] - input[axis]) / 2)
                };
                at.filter(|&at| at < input[axis]).map(|at| place + at * strides[axis])
            });
            advance(&mut index, &shape);
            place
        });
        Ok(vec![pick(tensor, &shape, &mut places)?])
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ops::testing::{TestNode, f32s, i64s, tensor},
        tensor::Tensor,
    };

    #[test]
    fn blocks_are_added_into_the_image() {
        let node = |blocks: Tensor| {
            TestNode::new("Col2Im", 18)
                .attr("pads", [1, 0, 0, 0])
                .input(blocks)
                .constant(i64s(&[2], &[2, 3]))
                .constant(i64s(&[2], &[2, 2]))
        };
        // Windows begin at rows -1 and 0, columns 0 and 1.
        let ones = f32s(&[1, 4, 4], &[1.0; 16]);
        assert_eq!(
            node(ones).run1().unwrap(),
            f32s(&[1, 1, 2, 3], &[2.0, 4.0, 2.0, 1.0, 2.0, 1.0])
        );
        assert!(node(f32s(&[1, 4, 3], &[1.0; 12])).run().is_err());
        assert!(node(f32s(&[1, 3, 4], &[1.0; 12])).run().is_err());
    }

    #[test]
    fn pooled_elements_go_back_to_their_places() {
        let node = |indices: &[i64], shape: Option<&[i64]>| {
            let node = TestNode::new("MaxUnpool", 22)
                .attr("kernel_shape", [2])
                .attr("strides", [2])
                .input(f32s(&[1, 1, 2], &[5.0, 6.0]))
                .input(i64s(&[1, 1, 2], indices));
            match shape {
                Some(shape) => node.input(i64s(&[3], shape)),
                None => node,
            }
        };
        assert_eq!(
            node(&[1, 2], None).run1().unwrap(),
            f32s(&[1, 1, 4], &[0.0, 5.0, 6.0, 0.0])
        );
        assert_eq!(
            node(&[1, 2], Some(&[1, 1, 5])).run1().unwrap(),
            f32s(&[1, 1, 5], &[0.0, 5.0, 6.0, 0.0, 0.0])
        );
        assert!(node(&[1, 4], None).run().is_err());
        assert!(node(&[1, -1], None).run().is_err());
    }

    #[test]
    fn images_are_cut_and_filled_up_around_their_middle() {
        let node = |x: Tensor, axes: &[i64], shape: &[i64]| {
            TestNode::new("CenterCropPad", 18)
                .attr("axes", axes)
                .input(x)
                .input(i64s(&[shape.len()], shape))
                .run1()
        };
        let x = || tensor::<i16>(&[1, 5], &[1, 2, 3, 4, 5]);
        assert_eq!(node(x(), &[-1], &[2]).unwrap(), tensor::<i16>(&[1, 2], &[2, 3]));
        assert_eq!(
            node(x(), &[0, 1], &[2, 6]).unwrap(),
            tensor::<i16>(&[2, 6], &[1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0])
        );
        let text = Tensor::from_strings(&[1], vec!["a".into()]).unwrap();
        let padded = node(text, &[0], &[2]).unwrap();
        assert_eq!(padded.strings().unwrap(), ["a", ""]);
        assert!(node(x(), &[0], &[-1]).is_err());
        assert_eq!(node(x(), &[1], &[0]).unwrap().shape(), [1, 0]);
    }
}
