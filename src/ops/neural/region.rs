//! Pooling over regions of interest: RoiAlign and MaxRoiPool.

use super::{Call, Numbers, Whole, outside, whole, zeros};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::Node,
    ops::{
        InferContext, Operator,
        context::{equal_dims, rank_error},
        lower::{invalid, mismatch},
    },
    tensor::{Dim, Tensor, display_shape},
};

/// Larger results than this along an axis are refused.
const MAX_SIZE: i64 = 1 << 16;

fn size_of(value: i64, name: &str) -> Result<usize> {
    match usize::try_from(value) {
        Ok(size) if (1..=MAX_SIZE).contains(&value) => Ok(size),
        _ => Err(invalid(format!("attribute {name} is not a size")).actual(value.to_string())),
    }
}

/// The output `[regions, C, height, width]`, given the regions' number of columns.
fn infer_regions(ctx: &mut InferContext<'_>, columns: usize, [height, width]: [usize; 2]) -> Result<()> {
    let dtype = ctx.dtype(0)?;
    if let Some(rank) = ctx.rank(0).filter(|&rank| rank != 4) {
        return Err(rank_error(0, 4, rank));
    }
    let count = match ctx.shape(1) {
        Some([count, width]) => {
            equal_dims(&Dim::from(columns), width, "number of a region's values")?;
            count.clone()
        }
        Some(shape) => return Err(rank_error(1, 2, shape.len())),
        None => ctx.fresh_dim(),
    };
    let channels = match ctx.shape(0) {
        Some(image) => image[1].clone(),
        None => ctx.fresh_dim(),
    };
    ctx.set_output(
        0,
        dtype,
        Some(vec![count, channels, Dim::from(height), Dim::from(width)]),
    );
    Ok(())
}

/// The number of an image that a region is in.
fn image_of(number: i64, batch: usize) -> Result<usize> {
    let index = usize::try_from(number).ok().filter(|&index| index < batch);
    index.ok_or_else(|| outside(number, batch))
}

/// ONNX `RoiAlign` (opsets 10, 16, 22): for each region `[x1, y1, x2, y2]` of the image that its batch index names, a
/// grid of cells, each the mean or the maximum of samples between pixels. Any floating-point type.
#[derive(Debug)]
struct RoiAlign {
    size: [usize; 2],
    /// 0: as many samples as a cell has pixels.
    samples: usize,
    scale: f64,
    /// What regions are moved by: half a pixel, or nothing, in which case they are at least one pixel large.
    shift: f64,
    max: bool,
}

/// Makes [`RoiAlign`].
pub fn make_roi_align(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let default = if node.operator.version < 16 {
        "output_half_pixel"
    } else {
        "half_pixel"
    };
    let shift = match attributes.string("coordinate_transformation_mode")?.unwrap_or(default) {
        "half_pixel" => 0.5,
        "output_half_pixel" => 0.0,
        other => return Err(invalid("attribute coordinate_transformation_mode is none of RoiAlign's").actual(other)),
    };
    let max = match attributes.string("mode")?.unwrap_or("avg") {
        "avg" => false,
        "max" => true,
        other => return Err(invalid("attribute mode is neither avg nor max").actual(other)),
    };
    let samples = attributes.int("sampling_ratio")?.unwrap_or(0);
    whole(RoiAlign {
        size: [
            size_of(attributes.int("output_height")?.unwrap_or(1), "output_height")?,
            size_of(attributes.int("output_width")?.unwrap_or(1), "output_width")?,
        ],
        samples: if samples <= 0 {
            0
        } else {
            size_of(samples, "sampling_ratio")?
        },
        scale: attributes.float("spatial_scale")?.unwrap_or(1.0).into(),
        shift,
        max,
    })
}

/// Two neighbouring pixels along an axis and the weight of the second.
type Pair = (usize, usize, f64);

/// The pixels around a position, unless it is more than a pixel outside.
fn neighbours(at: f64, size: usize) -> Option<Pair> {
    if !(-1.0..=size as f64).contains(&at) || size == 0 {
        return None;
    }
    let at = at.max(0.0);
    let low = at as usize;
    if low >= size - 1 {
        Some((size - 1, size - 1, 0.0))
    } else {
        Some((low, low + 1, at - low as f64))
    }
}

impl RoiAlign {
    /// The samples of each cell along one axis, from `start` on over `extent`.
    fn line(&self, start: f64, extent: f64, cells: usize, size: usize) -> Result<Vec<Vec<Option<Pair>>>> {
        let cell = extent / cells as f64;
        let count = match self.samples {
            0 => cell.ceil().max(0.0),
            samples => samples as f64,
        };
        if count > MAX_SIZE as f64 {
            return Err(Error::new(ErrorCode::LimitExceeded, "a region is too large")
                .expected(format!("at most {MAX_SIZE} samples in a cell"))
                .actual(count.to_string()));
        }
        let sample = |index: usize, number: usize| {
            neighbours(start + index as f64 * cell + (number as f64 + 0.5) * cell / count, size)
        };
        let samples = |index: usize| (0..count as usize).map(|number| sample(index, number)).collect();
        Ok((0..cells).map(samples).collect())
    }
}

impl Whole for RoiAlign {
    fn kernel_name(&self) -> &'static str {
        "roi_align"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_regions(ctx, 4, self.size)
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (image, regions, indices) = (call.input(0)?, call.input(1)?, call.input(2)?.to_i64s()?);
        let &[batch, channels, height, width] = image.shape() else {
            return Err(rank_error(0, 4, image.shape().len()));
        };
        if regions.shape() != [indices.len(), 4] {
            return Err(mismatch("the regions are not one for each batch index")
                .expected(display_shape(&[indices.len(), 4]))
                .actual(display_shape(regions.shape())));
        }
        let [rows, columns] = self.size;
        let shape = [indices.len(), channels, rows, columns];
        let mut result: Vec<f64> = zeros(&shape)?;
        let (pixels, regions) = (Numbers::of(image)?, Numbers::of(regions)?);
        for (region, &index) in indices.iter().enumerate() {
            let item = image_of(index, batch)?;
            let corner = |column: usize| regions.at(region * 4 + column) * self.scale - self.shift;
            let (x, y) = (corner(0), corner(1));
            let (mut w, mut h) = (corner(2) - x, corner(3) - y);
            if self.shift == 0.0 {
                (w, h) = (w.max(1.0), h.max(1.0));
            }
            let lines = (self.line(y, h, rows, height)?, self.line(x, w, columns, width)?);
            for channel in 0..channels {
                let plane = (item * channels + channel) * height * width;
                let pixel = |y: usize, x: usize| pixels.at(plane + y * width + x);
                for row in 0..rows {
                    for column in 0..columns {
                        let (ys, xs) = (&lines.0[row], &lines.1[column]);
                        let (mut sum, mut max) = (0.0, None::<f64>);
                        for (y, x) in ys.iter().flat_map(|y| xs.iter().map(move |x| (y, x))) {
                            let parts = match (y, x) {
                                (Some((y0, y1, v)), Some((x0, x1, u))) => [
                                    pixel(*y0, *x0) * (1.0 - v) * (1.0 - u),
                                    pixel(*y0, *x1) * (1.0 - v) * u,
                                    pixel(*y1, *x0) * v * (1.0 - u),
                                    pixel(*y1, *x1) * v * u,
                                ],
                                _ => [0.0; 4],
                            };
                            if self.max {
                                // The largest of the weighted pixels, as the reference has it, not of their sums.
                                let largest = parts.into_iter().fold(f64::NEG_INFINITY, f64::max);
                                max = Some(max.map_or(largest, |max| max.max(largest)));
                            } else {
                                sum += parts.iter().sum::<f64>();
                            }
                        }
                        let value = match self.max {
                            true => max.unwrap_or(0.0),
                            false => sum / (ys.len() * xs.len()).max(1) as f64,
                        };
                        result[((region * channels + channel) * rows + row) * columns + column] = value;
                    }
                }
            }
        }
        Ok(vec![Tensor::from_f64s(image.dtype(), &shape, &result)?])
    }
}

/// ONNX `MaxRoiPool` (opsets 1, 22): for each region `[batch index, x1, y1, x2, y2]`, corners included, a grid of cells,
/// each the maximum of its pixels; 0 where it has none. Any floating-point type.
#[derive(Debug)]
struct MaxRoiPool {
    size: [usize; 2],
    scale: f64,
}

/// Makes [`MaxRoiPool`].
pub fn make_max_roi_pool(node: &Node) -> Result<Box<dyn Operator>> {
    let &[height, width] = node.attributes.ints("pooled_shape")?.unwrap_or(&[]) else {
        return Err(invalid("attribute pooled_shape is not a height and a width"));
    };
    whole(MaxRoiPool {
        size: [size_of(height, "pooled_shape")?, size_of(width, "pooled_shape")?],
        scale: node.attributes.float("spatial_scale")?.unwrap_or(1.0).into(),
    })
}

/// The pixels of cell `index` of `cells` between two corners.
fn cell(index: usize, cells: usize, first: f64, last: f64, size: usize) -> std::ops::Range<usize> {
    let extent = (last - first + 1.0).max(1.0) / cells as f64;
    let clamp = |at: f64| (at + first).clamp(0.0, size as f64) as usize;
    clamp((index as f64 * extent).floor())..clamp(((index + 1) as f64 * extent).ceil())
}

impl Whole for MaxRoiPool {
    fn kernel_name(&self) -> &'static str {
        "max_roi_pool"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        infer_regions(ctx, 5, self.size)
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (image, regions) = (call.input(0)?, call.input(1)?);
        let (&[batch, channels, height, width], &[count, 5]) = (image.shape(), regions.shape()) else {
            return Err(mismatch("the inputs are not images and regions")
                .expected("[N, C, H, W] and [regions, 5]")
                .actual(format!(
                    "{} and {}",
                    display_shape(image.shape()),
                    display_shape(regions.shape())
                )));
        };
        let [rows, columns] = self.size;
        let shape = [count, channels, rows, columns];
        let mut result: Vec<f64> = zeros(&shape)?;
        let (pixels, regions) = (Numbers::of(image)?, Numbers::of(regions)?);
        for (number, value) in result.iter_mut().enumerate() {
            let (column, row) = (number % columns, number / columns % rows);
            let (channel, region) = (
                number / (columns * rows) % channels,
                number / (columns * rows * channels),
            );
            let item = image_of(regions.at(region * 5) as i64, batch)?;
            let corner = |index: usize| (regions.at(region * 5 + index) * self.scale).round();
            let (ys, xs) = (
                cell(row, rows, corner(2), corner(4), height),
                cell(column, columns, corner(1), corner(3), width),
            );
            let plane = (item * channels + channel) * height * width;
            let inside = ys.flat_map(|y| xs.clone().map(move |x| plane + y * width + x));
            *value = inside.map(|place| pixels.at(place)).reduce(f64::max).unwrap_or(0.0);
        }
        Ok(vec![Tensor::from_f64s(image.dtype(), &shape, &result)?])
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ops::testing::{TestNode, assert_tensor_close, f32s, i64s},
        tensor::Tensor,
    };

    fn image() -> Tensor {
        f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0])
    }

    #[test]
    fn aligned_regions_are_sampled_between_pixels() {
        let node = |mode: &str, shift: &str, region: [f32; 4], index: i64| {
            TestNode::new("RoiAlign", 16)
                .attr("mode", mode)
                .attr("coordinate_transformation_mode", shift)
                .attr("sampling_ratio", 2)
                .input(image())
                .input(f32s(&[1, 4], &region))
                .input(i64s(&[1], &[index]))
                .run1()
        };
        let all = [0.0, 0.0, 2.0, 2.0];
        assert_tensor_close(
            &node("avg", "half_pixel", all, 0).unwrap(),
            &f32s(&[1, 1, 1, 1], &[2.5]),
            1e-6,
        );
        assert_tensor_close(
            &node("max", "half_pixel", all, 0).unwrap(),
            &f32s(&[1, 1, 1, 1], &[4.0]),
            1e-6,
        );
        let far = node("avg", "output_half_pixel", [9.0, 9.0, 9.0, 9.0], 0).unwrap();
        assert_eq!(far, f32s(&[1, 1, 1, 1], &[0.0]));
        assert!(node("avg", "half_pixel", all, 1).is_err());
        assert!(node("avg", "half_pixel", all, -1).is_err());
    }

    #[test]
    fn regions_beyond_all_bounds_are_an_error() {
        let node = TestNode::new("RoiAlign", 10)
            .input(image())
            .input(f32s(&[1, 4], &[0.0, 0.0, 1e30, f32::INFINITY]))
            .input(i64s(&[1], &[0]));
        assert!(node.run().is_err());
    }

    #[test]
    fn pooled_regions_hold_the_largest_pixels() {
        let node = |regions: &[f32]| {
            TestNode::new("MaxRoiPool", 1)
                .attr("pooled_shape", [1, 2])
                .input(image())
                .input(f32s(&[regions.len() / 5, 5], regions))
                .run1()
        };
        assert_eq!(
            node(&[0.0, 0.0, 0.0, 1.0, 1.0]).unwrap(),
            f32s(&[1, 1, 1, 2], &[3.0, 4.0])
        );
        assert_eq!(
            node(&[0.0, 5.0, 5.0, 9.0, 9.0]).unwrap(),
            f32s(&[1, 1, 1, 2], &[0.0, 0.0])
        );
        assert_eq!(node(&[]).unwrap().shape(), [0, 1, 1, 2]);
        assert!(node(&[1.0, 0.0, 0.0, 1.0, 1.0]).is_err());
    }
}
