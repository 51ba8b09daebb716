//! Sampling images at fractional positions: GridSample and AffineGrid.

use super::{Call, Numbers, Whole, dims_of_input, sizes, whole, zeros};
use crate::{
    error::Result,
    gpu::{kernel::GpuKernel, kernels::sample},
    graph::Node,
    ops::{
        GpuLowering, InferContext, Operator,
        context::{equal_dims, rank_error},
        lower::{invalid, mismatch, unsupported},
    },
    tensor::{DType, Dim, Tensor, display_shape, strides_of},
};

/// How a value between pixels is made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// What is read outside the image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// ONNX `GridSample` (opsets 16, 20, 22): the image `[N, C, D1, .., Dr]` at the normalised positions of a grid
/// `[N, O1, .., Or, r]`, giving `[N, C, O1, .., Or]`. Any numeric type; up to five spatial dimensions.
#[derive(Debug)]
struct GridSample {
    mode: Mode,
    padding: Padding,
    align_corners: bool,
}

/// More spatial dimensions than these are refused: a cubic sample reads 4 to their power pixels.
const MAX_AXES: usize = 5;

/// Makes [`GridSample`].
pub fn make_grid_sample(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let mode = match attributes.string("mode")?.unwrap_or("linear") {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        "cubic" | "bicubic" => Mode::Cubic,
        other => return Err(invalid("attribute mode is neither linear, nearest nor cubic").actual(other)),
    };
    let padding = match attributes.string("padding_mode")?.unwrap_or("zeros") {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return Err(invalid("attribute padding_mode is neither zeros, border nor reflection").actual(other)),
    };
    whole(GridSample {
        mode,
        padding,
        align_corners: attributes.flag("align_corners", false)?,
    })
}

/// A pixel along one axis, when it is inside the image, and its weight.
type Tap = (Option<usize>, f64);

impl GridSample {
    /// The taps of normalised position `n` along an axis of `size` pixels. `round` rounds each step to the precision of
    /// the grid, so that positions halfway between pixels stay there.
    fn taps(&self, n: f64, size: usize, round: &dyn Fn(f64) -> f64, taps: &mut Vec<Tap>) {
        let len = size as f64;
        let x = if self.align_corners {
            round(round(round(n + 1.0) / 2.0) * (len - 1.0))
        } else {
            round(round(round(round(n + 1.0) * len) - 1.0) / 2.0)
        };
        let (low, high) = if self.align_corners {
            (0.0, len - 1.0)
        } else {
            (-0.5, len - 0.5)
        };
        let mut x = if self.mode == Mode::Nearest {
            x.round_ties_even()
        } else {
            x
        };
        if x < low || x > high {
            match self.padding {
                Padding::Zeros => {}
                // PyTorch, and ONNX Runtime after it, pads cubic samples pixel by pixel alone.
                Padding::Border if self.mode == Mode::Cubic => {}
                Padding::Border => x = x.clamp(0.0, (len - 1.0).max(0.0)),
                Padding::Reflection => x = reflect(x, low, high),
            }
        }
        let floor = x.floor();
        let (first, part) = (floor as i64, x - floor);
        let pixel = |index: i64| match self.padding {
            _ if size == 0 => None,
            Padding::Zeros => usize::try_from(index).ok().filter(|&index| index < size),
            Padding::Border => Some(index.clamp(0, size as i64 - 1) as usize),
            Padding::Reflection => Some((reflect(index as f64, low, high) as i64).clamp(0, size as i64 - 1) as usize),
        };
        taps.clear();
        match self.mode {
            Mode::Nearest => taps.push((pixel(x as i64), 1.0)),
            Mode::Linear => taps.extend([(pixel(first), 1.0 - part), (pixel(first.saturating_add(1)), part)]),
            Mode::Cubic => {
                let weights = cubic_weights(part);
                taps.extend((0..4).map(|tap| (pixel(first.saturating_add(tap - 1)), weights[tap as usize])));
            }
        }
    }
}

/// A position mirrored at the borders until it is between them.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let (from, distance, sign) = if x < low {
        (low, low - x, 1.0)
    } else if x > high {
        (high, x - high, -1.0)
    } else {
        return x;
    };
    let times = (distance / range).floor();
    let rest = distance - times * range;
    if times % 2.0 == 0.0 {
        from + sign * rest
    } else {
        from + sign * (range - rest)
    }
}

/// Weights of the four pixels around a position that is `part` behind the second of them (Keys' kernel, a = -0.75).
fn cubic_weights(part: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let outer = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let inner = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    [outer(part + 1.0), inner(part), inner(1.0 - part), outer(2.0 - part)]
}

impl Whole for GridSample {
    fn kernel_name(&self) -> &'static str {
        "grid_sample"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match (ctx.shape(0), ctx.shape(1)) {
            (Some(image), Some(grid)) => {
                if image.len() < 3 {
                    return Err(rank_error(0, "at least 3", image.len()));
                }
                if grid.len() != image.len() {
                    return Err(rank_error(1, image.len(), grid.len()));
                }
                let axes = Dim::from(image.len() - 2);
                equal_dims(&axes, &grid[grid.len() - 1], "number of spatial axes")?;
                let batch = equal_dims(&image[0], &grid[0], "batch size")?;
                let mut shape = vec![batch, image[1].clone()];
                shape.extend_from_slice(&grid[1..grid.len() - 1]);
                Some(shape)
            }
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (image, grid) = (ctx.input(0)?, ctx.input(1)?);
        if image.dtype != DType::F32 || grid.dtype != DType::F32 {
            return Ok(None);
        }
        let mode = match self.mode {
            Mode::Nearest => "NEAREST",
            Mode::Linear => "LINEAR",
            Mode::Cubic => "CUBIC",
        };
        let padding = match self.padding {
            Padding::Zeros => "ZEROS",
            Padding::Border => "BORDER",
            Padding::Reflection => "REFLECTION",
        };
        let shapes = [&image.shape[..], &grid.shape, &ctx.output(0)?.shape];
        Ok(sample::grid_sample(mode, padding, self.align_corners, shapes, ctx.caps))
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (image, grid) = (call.input(0)?, call.input(1)?);
        let (&[batch, channels, ref dims @ ..], &[grid_batch, ref spots @ .., axes]) = (image.shape(), grid.shape())
        else {
            return Err(mismatch("the image or the grid has too few dimensions"));
        };
        if batch != grid_batch || axes != dims.len() || spots.len() != axes {
            return Err(mismatch("the grid does not fit the image")
                .expected(format!(
                    "[{batch}, .., {}] with {} dimensions",
                    dims.len(),
                    dims.len() + 2
                ))
                .actual(display_shape(grid.shape())));
        }
        if axes == 0 || axes > MAX_AXES {
            return Err(
                unsupported("GridSample works on images of one to five spatial dimensions")
                    .actual(display_shape(image.shape())),
            );
        }
        let shape: Vec<usize> = [batch, channels].iter().chain(spots).copied().collect();
        let mut result: Vec<f64> = zeros(&shape)?;
        let is_wide = grid.dtype() == DType::F64;
        let round = move |value: f64| if is_wide { value } else { f64::from(value as f32) };
        let (pixels, positions) = (Numbers::of(image)?, Numbers::of(grid)?);
        let (area, count) = (dims.iter().product::<usize>(), spots.iter().product::<usize>());
        let steps = strides_of(dims);
        let mut axis_taps: Vec<Vec<Tap>> = vec![Vec::with_capacity(4); axes];
        let (mut taps, mut next): (Vec<(usize, f64)>, Vec<(usize, f64)>) = (Vec::new(), Vec::new());
        for number in 0..batch * count {
            let (item, spot) = (number / count, number % count);
            // The products of the axes' taps that are inside the image.
            taps.clear();
            taps.push((0, 1.0));
            for (axis, list) in axis_taps.iter_mut().enumerate() {
                // Positions name the innermost axis first.
                self.taps(positions.at(number * axes + axes - 1 - axis), dims[axis], &round, list);
                next.clear();
                for &(place, weight) in &taps {
                    next.extend(
                        list.iter()
                            .filter_map(|&(pixel, part)| Some((place + pixel? * steps[axis], weight * part))),
                    );
                }
                std::mem::swap(&mut taps, &mut next);
            }
            for channel in 0..channels {
                let start = (item * channels + channel) * area;
                let sum: f64 = taps
                    .iter()
                    .map(|&(place, weight)| weight * pixels.at(start + place))
                    .sum();
                result[(item * channels + channel) * count + spot] = sum;
            }
        }
        Ok(vec![Tensor::from_f64s(image.dtype(), &shape, &result)?])
    }
}

/// ONNX `AffineGrid` (opset 20): positions for [`GridSample`], evenly spaced over an image of the given `size`
/// (`[N, C, H, W]` or `[N, C, D, H, W]`) and transformed by matrices `[N, 2, 3]` or `[N, 3, 4]`.
#[derive(Debug)]
struct AffineGrid {
    align_corners: bool,
}

/// Makes [`AffineGrid`].
pub fn make_affine_grid(node: &Node) -> Result<Box<dyn Operator>> {
    whole(AffineGrid {
        align_corners: node.attributes.flag("align_corners", false)?,
    })
}

impl Whole for AffineGrid {
    fn kernel_name(&self) -> &'static str {
        "affine_grid"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = dims_of_input(ctx, 1).and_then(|size| match size.as_slice() {
            [batch, _, spatial @ ..] if matches!(spatial.len(), 2 | 3) => {
                let mut shape = vec![batch.clone()];
                shape.extend_from_slice(spatial);
                shape.push(Dim::from(spatial.len()));
                Some(shape)
            }
            _ => None,
        });
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (theta, size) = (call.input(0)?, sizes(call.input(1)?)?);
        let &[batch, _, ref dims @ ..] = size.as_slice() else {
            return Err(mismatch("the size is not that of an image").actual(display_shape(&size)));
        };
        let axes = dims.len();
        if !matches!(axes, 2 | 3) || theta.shape() != [batch, axes, axes + 1] {
            return Err(mismatch("the matrices do not fit the size")
                .expected("[N, 2, 3] for an image of two dimensions, [N, 3, 4] for three")
                .actual(format!("{} and {}", display_shape(theta.shape()), display_shape(&size))));
        }
        let shape: Vec<usize> = [batch].iter().chain(dims).chain(&[axes]).copied().collect();
        let mut result: Vec<f64> = zeros(&shape)?;
        let matrices = Numbers::of(theta)?;
        let steps = strides_of(dims);
        let count: usize = dims.iter().product();
        for (number, spot) in result.chunks_exact_mut(axes).enumerate() {
            let (item, place) = (number / count, number % count);
            for (row, value) in spot.iter_mut().enumerate() {
                let start = (item * axes + row) * (axes + 1);
                *value = matrices.at(start + axes);
                for column in 0..axes {
                    // Columns are x, y, z: the innermost axis first.
                    let axis = axes - 1 - column;
                    let (index, len) = ((place / steps[axis] % dims[axis]) as f64, dims[axis] as f64);
                    let at = match self.align_corners {
                        true if dims[axis] == 1 => -1.0,
                        true => index * 2.0 / (len - 1.0) - 1.0,
                        false => (index * 2.0 + 1.0) / len - 1.0,
                    };
                    *value += matrices.at(start + column) * at;
                }
            }
        }
        Ok(vec![Tensor::from_f64s(theta.dtype(), &shape, &result)?])
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ops::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor},
        tensor::{DType, Tensor},
    };

    fn sample(mode: &str, padding: &str, align: i64, grid: &[f32]) -> Vec<f32> {
        let node = TestNode::new("GridSample", 20)
            .attr("mode", mode)
            .attr("padding_mode", padding)
            .attr("align_corners", align)
            .input(f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]))
            .input(f32s(&[1, 1, grid.len() / 2, 2], grid));
        node.run1().unwrap().to_f32s().unwrap().into_owned()
    }

    #[test]
    fn positions_inside_are_interpolated_and_outside_padded() {
        assert_eq!(sample("linear", "zeros", 1, &[0.0, 0.0, -1.0, 0.0]), [2.5, 2.0]);
        assert_eq!(sample("linear", "zeros", 0, &[-1.0, -1.0, 9.0, 0.0]), [0.25, 0.0]);
        assert_eq!(sample("linear", "border", 0, &[-1.0, -1.0, 9.0, 9.0]), [1.0, 4.0]);
        assert_eq!(sample("nearest", "reflection", 0, &[1.9, -1.9]), [2.0]);
        // Halfway between two pixels goes to the even one.
        assert_eq!(sample("nearest", "zeros", 1, &[0.0, 0.0]), [1.0]);
        assert_eq!(sample("cubic", "border", 1, &[0.0, 0.0]), [2.5]);
        assert!(sample("linear", "reflection", 1, &[f32::INFINITY, f32::NAN])[0].is_nan());
    }

    #[test]
    fn integers_are_truncated_and_sizes_checked() {
        let node = |grid: &[usize]| {
            TestNode::new("GridSample", 22)
                .attr("align_corners", 1)
                .input(tensor::<u8>(&[1, 1, 1, 2, 2], &[10, 20, 30, 45]))
                .input(Tensor::zeros(DType::F64, grid).unwrap())
        };
        assert_eq!(
            node(&[1, 1, 1, 1, 3]).run1().unwrap(),
            tensor::<u8>(&[1, 1, 1, 1, 1], &[26])
        );
        assert!(node(&[1, 1, 1, 1, 2]).run().is_err());
        assert!(node(&[2, 1, 1, 1, 3]).run().is_err());
        assert_eq!(node(&[1, 0, 1, 1, 3]).run1().unwrap().shape(), [1, 1, 0, 1, 1]);
    }

    #[test]
    fn grids_are_transformed() {
        let node = |align: i64| {
            TestNode::new("AffineGrid", 20)
                .attr("align_corners", align)
                .input(f32s(&[1, 2, 3], &[1.0, 0.0, 0.5, 0.0, 2.0, 0.0]))
                .constant(i64s(&[4], &[1, 3, 2, 2]))
                .run1()
                .unwrap()
        };
        let corners = f32s(&[1, 2, 2, 2], &[-0.5, -2.0, 1.5, -2.0, -0.5, 2.0, 1.5, 2.0]);
        assert_tensor_close(&node(1), &corners, 1e-6);
        let centers = f32s(&[1, 2, 2, 2], &[0.0, -1.0, 1.0, -1.0, 0.0, 1.0, 1.0, 1.0]);
        assert_tensor_close(&node(0), &centers, 1e-6);
    }
}
