//! Images and other grids resampled to another size: Resize and its forerunner Upsample.

use super::{
    CpuLowering, GpuLowering, InferContext, Operator, TensorDesc,
    lower::{invalid, mismatch},
    widen::converted,
};
use crate::{
    cpu::{
        elementwise::Wide,
        kernel::{CpuKernel, scratch_as_f32},
        movement::{self, TableCopy},
        resample::{self, Taps},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::GpuKernel,
        kernels::resize::{self as gpu, ResizedAxis, Tap},
    },
    graph::Node,
    tensor::{DType, Dim, Tensor, element_count, resolve_axis, strides_of},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nearest(Nearest),
    Linear,
    Cubic,
}

/// Which of two neighbours is nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// How a position of the output lies in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfCropAndResize,
    TfHalfPixelForNearest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AspectRatio {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// ONNX `Resize` (opset 10 and up, the early form with scales alone) and `Upsample` (opset 1, 7 and 9).
///
/// Every mode, coordinate transformation and policy. `nearest` takes any element type; `linear` and `cubic` floats and
/// integers (which are cut off and saturated). Coordinates are computed in f32.
#[derive(Debug)]
struct Resize {
    mode: Mode,
    coordinates: Coordinates,
    cubic_a: f32,
    exclude_outside: bool,
    extrapolation: f32,
    antialias: bool,
    axes: Option<Vec<i64>>,
    policy: AspectRatio,
    /// The attributes `scales` of Upsample before opset 9, `height_scale` and `width_scale` before 7.
    fixed_scales: Option<Vec<f32>>,
    /// Positions of the inputs `roi`, `scales` and `sizes`.
    roi: Option<usize>,
    scales: usize,
    sizes: Option<usize>,
}

/// Makes [`Resize`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let (attributes, version) = (&node.attributes, node.operator.version);
    let is_upsample = &*node.operator.name == "Upsample";
    let is_early = is_upsample || version < 11;
    let nearest = match attributes.string("nearest_mode")?.unwrap_or("round_prefer_floor") {
        _ if is_early => Nearest::Floor,
        "round_prefer_floor" => Nearest::RoundPreferFloor,
        "round_prefer_ceil" => Nearest::RoundPreferCeil,
        "floor" => Nearest::Floor,
        "ceil" => Nearest::Ceil,
        other => return Err(invalid("attribute nearest_mode is unknown").actual(other)),
    };
    let mode = match attributes.string("mode")?.unwrap_or("nearest") {
        "nearest" => Mode::Nearest(nearest),
        // Upsample once called it so.
        "linear" | "bilinear" => Mode::Linear,
        "cubic" if !is_early => Mode::Cubic,
        other => return Err(invalid("attribute mode is not a mode of this opset").actual(other)),
    };
    let coordinates = match attributes
        .string("coordinate_transformation_mode")?
        .unwrap_or("half_pixel")
    {
        _ if is_early => Coordinates::Asymmetric,
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::TfCropAndResize,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNearest,
        other => return Err(invalid("attribute coordinate_transformation_mode is unknown").actual(other)),
    };
    let policy = match attributes.string("keep_aspect_ratio_policy")?.unwrap_or("stretch") {
        "stretch" => AspectRatio::Stretch,
        "not_larger" => AspectRatio::NotLarger,
        "not_smaller" => AspectRatio::NotSmaller,
        other => return Err(invalid("attribute keep_aspect_ratio_policy is unknown").actual(other)),
    };
    let fixed_scales = match (is_upsample, version) {
        (true, ..7) => {
            let scale = |name: &str| -> Result<f32> {
                let scale = attributes.float(name)?;
                scale.ok_or_else(|| invalid(format!("attribute {name} is missing")))
            };
            Some(vec![1.0, 1.0, scale("height_scale")?, scale("width_scale")?])
        }
        (true, ..9) => {
            let scales = attributes
                .floats("scales")?
                .ok_or_else(|| invalid("attribute scales is missing"))?;
            Some(scales.to_vec())
        }
        _ => None,
    };
    let antialias = attributes.flag("antialias", false)?;
    if antialias && matches!(mode, Mode::Nearest(_)) {
        return Err(invalid("attribute antialias does not go with mode nearest"));
    }
    Ok(Box::new(Resize {
        mode,
        coordinates,
        cubic_a: attributes.float("cubic_coeff_a")?.unwrap_or(-0.75),
        exclude_outside: attributes.flag("exclude_outside", false)?,
        extrapolation: attributes.float("extrapolation_value")?.unwrap_or(0.0),
        antialias,
        axes: attributes.ints("axes")?.map(<[i64]>::to_vec),
        policy,
        fixed_scales,
        roi: (!is_early && coordinates == Coordinates::TfCropAndResize).then_some(1),
        scales: if is_early { 1 } else { 2 },
        sizes: (!is_early).then_some(3),
    }))
}

/// How one dimension is resampled.
#[derive(Clone, Copy, Debug)]
struct Axis {
    len: usize,
    resized: usize,
    scale: f32,
    roi: (f32, f32),
}

fn floats(tensor: &Tensor) -> Option<Vec<f32>> {
    tensor.to_f32s().ok().map(|values| values.into_owned())
}

impl Resize {
    fn axes(&self, rank: usize) -> Result<Vec<usize>> {
        match &self.axes {
            None => Ok((0..rank).collect()),
            Some(axes) => {
                let resolved = axes
                    .iter()
                    .map(|&axis| resolve_axis(axis, rank))
                    .collect::<Result<Vec<_>>>()?;
                if (1..resolved.len()).any(|index| resolved[..index].contains(&resolved[index])) {
                    return Err(invalid("attribute axes names a dimension twice"));
                }
                Ok(resolved)
            }
        }
    }

    /// One number per dimension from one per resized axis.
    fn spread<T: Clone>(&self, rank: usize, values: &[T], rest: T, what: &str) -> Result<Vec<T>> {
        let axes = self.axes(rank)?;
        if values.len() != axes.len() {
            return Err(mismatch(format!("the {what} are not one for each resized dimension"))
                .expected(axes.len().to_string())
                .actual(values.len().to_string()));
        }
        let mut result = vec![rest; rank];
        axes.iter()
            .zip(values)
            .for_each(|(&axis, value)| result[axis] = value.clone());
        Ok(result)
    }

    fn rois(&self, rank: usize, roi: &[f32]) -> Result<Vec<(f32, f32)>> {
        let half = roi.len() / 2;
        let starts = self.spread(rank, &roi[..half], 0.0, "starts of the region")?;
        let ends = self.spread(rank, &roi[half..], 1.0, "ends of the region")?;
        Ok(starts.into_iter().zip(ends).collect())
    }

    /// Sizes under the policy about the aspect ratio, and the scales that they come from.
    fn sizes(&self, shape: &[usize], sizes: &[i64]) -> Result<(Vec<usize>, Vec<f32>)> {
        let own: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        let mut wanted = own.clone();
        let axes = self.axes(shape.len())?;
        if sizes.len() != axes.len() {
            return Err(mismatch("the sizes are not one for each resized dimension")
                .expected(axes.len().to_string())
                .actual(sizes.len().to_string()));
        }
        axes.iter().zip(sizes).for_each(|(&axis, &size)| wanted[axis] = size);
        if let Some(size) = wanted.iter().find(|&&size| size < 0) {
            return Err(mismatch("a size is negative").actual(size.to_string()));
        }
        let ratio = |axis: usize| {
            if own[axis] == 0 {
                1.0
            } else {
                wanted[axis] as f32 / own[axis] as f32
            }
        };
        let mut scales: Vec<f32> = (0..shape.len()).map(ratio).collect();
        if self.policy != AspectRatio::Stretch {
            let chosen = axes.iter().map(|&axis| scales[axis]);
            let scale = match self.policy {
                AspectRatio::NotSmaller => chosen.fold(0.0, f32::max),
                _ => chosen.fold(f32::INFINITY, f32::min),
            };
            for &axis in &axes {
                scales[axis] = scale;
                wanted[axis] = (scale * own[axis] as f32 + 0.5).floor() as i64;
            }
        }
        Ok((wanted.into_iter().map(|size| size as usize).collect(), scales))
    }

    fn check_scales(scales: &[f32]) -> Result<()> {
        match scales.iter().find(|scale| !(**scale > 0.0 && scale.is_finite())) {
            Some(scale) => Err(mismatch("a scale is not a positive number").actual(scale.to_string())),
            None => Ok(()),
        }
    }

    /// Whether the `sizes` input decides, rather than the scales.
    fn uses_sizes(&self, given: impl Fn(usize) -> bool) -> Option<usize> {
        self.sizes.filter(|&index| given(index))
    }

    /// How each dimension is resampled, for concrete shapes.
    fn plan(&self, inputs: &[Option<TensorDesc>], output: &[usize]) -> Result<Vec<Axis>> {
        let input = |index: usize| inputs.get(index).and_then(Option::as_ref);
        let constant = |index: usize| input(index).and_then(|desc| desc.constant.as_ref());
        let shape = &input(0).ok_or_else(|| invalid("required input 0 is missing"))?.shape;
        let rank = shape.len();
        let is_given = |index: usize| input(index).is_some_and(|desc| !desc.shape.contains(&0));
        let rois = match self.roi {
            Some(index) => {
                let roi = constant(index).and_then(floats);
                self.rois(rank, &roi.ok_or_else(|| Error::internal("the region is not known"))?)?
            }
            None => vec![(0.0, 1.0); rank],
        };
        let scales = match (&self.fixed_scales, self.uses_sizes(is_given)) {
            (Some(scales), _) => self.spread(rank, scales, 1.0, "scales")?,
            (None, Some(index)) => match (constant(index).and_then(|tensor| tensor.to_i64s().ok()), self.policy) {
                (Some(sizes), _) => self.sizes(shape, &sizes)?.1,
                (None, AspectRatio::Stretch) => {
                    let ratio =
                        |(&dim, &resized): (&usize, &usize)| if dim == 0 { 1.0 } else { resized as f32 / dim as f32 };
                    shape.iter().zip(output).map(ratio).collect()
                }
                (None, _) => return Err(Error::internal("the sizes are not known")),
            },
            (None, None) => {
                let scales = constant(self.scales).and_then(floats);
                let scales = scales.ok_or_else(|| mismatch("the inputs do not tell the scales"))?;
                self.spread(rank, &scales, 1.0, "scales")?
            }
        };
        Resize::check_scales(&scales)?;
        let axis = |index: usize| Axis {
            len: shape[index],
            resized: output[index],
            scale: scales[index],
            roi: rois[index],
        };
        Ok((0..rank).map(axis).collect())
    }

    fn original(&self, axis: &Axis, index: usize) -> f32 {
        let (x, scale) = (index as f32, axis.scale);
        let last = axis.len as f32 - 1.0;
        match self.coordinates {
            Coordinates::HalfPixel => (x + 0.5) / scale - 0.5,
            Coordinates::PytorchHalfPixel if axis.resized > 1 => (x + 0.5) / scale - 0.5,
            Coordinates::PytorchHalfPixel => 0.0,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = axis.resized as f32 / (scale * axis.len as f32);
                let offset = axis.len as f32 / 2.0 * (1.0 - adjustment);
                offset + (x + 0.5) / scale - 0.5
            }
            Coordinates::AlignCorners => {
                // The fractional length that the scale asks for, where it is not the output's own.
                let exact = scale * axis.len as f32;
                let length = axis.resized as f32;
                let length = if (exact - length).abs() < 1e-3 { length } else { exact };
                if length == 1.0 { 0.0 } else { x * last / (length - 1.0) }
            }
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfHalfPixelForNearest => (x + 0.5) / scale,
            Coordinates::TfCropAndResize => {
                let (start, end) = axis.roi;
                if axis.resized > 1 {
                    start * last + x * (end - start) * last / (axis.resized as f32 - 1.0)
                } else {
                    0.5 * (start + end) * last
                }
            }
        }
    }

    fn is_outside(&self, axis: &Axis, index: usize) -> bool {
        let x = self.original(axis, index);
        self.coordinates == Coordinates::TfCropAndResize && !(0.0..=axis.len as f32 - 1.0).contains(&x)
    }

    fn is_identity(&self, axis: &Axis) -> bool {
        axis.len == axis.resized && axis.scale == 1.0 && (self.roi.is_none() || axis.roi == (0.0, 1.0))
    }

    fn nearest_index(&self, nearest: Nearest, axis: &Axis, index: usize) -> usize {
        if self.is_identity(axis) {
            return index;
        }
        let x = self.original(axis, index);
        let rounded = match nearest {
            Nearest::RoundPreferFloor => (x - 0.5).ceil(),
            Nearest::RoundPreferCeil => (x + 0.5).floor(),
            Nearest::Floor => x.floor(),
            Nearest::Ceil => x.ceil(),
        };
        (rounded.max(0.0) as usize).min(axis.len.saturating_sub(1))
    }

    /// The elements and weights that each position along an axis is the sum of.
    fn taps(&self, axis: &Axis) -> Result<Taps> {
        let lowest = 1.0 / axis.len.max(1) as f32;
        let scale = if self.antialias {
            axis.scale.clamp(lowest, 1.0)
        } else {
            1.0
        };
        let reach = if self.mode == Mode::Cubic { 2.0 } else { 1.0 };
        // Offsets of the elements within reach of a position between 0 and 1.
        let first = (-reach / scale).floor() as i64 + 1;
        let count = (2 - 2 * first) as usize;
        // A region that grows what the scale shrinks could ask for any number.
        if count.saturating_mul(axis.resized) > 64 * (axis.len + axis.resized + 16) {
            return Err(Error::new(
                ErrorCode::LimitExceeded,
                "a resized position is the sum of too many elements",
            ));
        }
        let mut taps = Taps::new(count);
        for index in 0..axis.resized {
            let x = self.original(axis, index);
            let base = x.floor();
            let ratio = x - base;
            let mut weights: Vec<f32> = (0..count as i64)
                .map(|tap| self.weight(scale * ((first + tap) as f32 - ratio)))
                .collect();
            let places: Vec<i64> = (0..count as i64)
                .map(|tap| (base as i64).saturating_add(first + tap))
                .collect();
            if self.exclude_outside {
                let inside = |place: &i64| (0..axis.len as i64).contains(place);
                weights
                    .iter_mut()
                    .zip(&places)
                    .filter(|(_, place)| !inside(place))
                    .for_each(|(weight, _)| *weight = 0.0);
            }
            if self.exclude_outside || self.antialias {
                let sum: f32 = weights.iter().sum();
                if sum != 0.0 {
                    weights.iter_mut().for_each(|weight| *weight /= sum);
                }
            }
            let clamped = places.iter().map(|&place| place.clamp(0, axis.len as i64 - 1) as usize);
            taps.push(clamped.zip(weights), self.is_outside(axis, index));
        }
        Ok(taps)
    }

    /// The weight of an element at a distance.
    fn weight(&self, distance: f32) -> f32 {
        let (x, a) = (distance.abs(), self.cubic_a);
        match self.mode {
            Mode::Cubic if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Mode::Cubic if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Mode::Cubic => 0.0,
            _ => (1.0 - x).max(0.0),
        }
    }

    fn nearest(&self, nearest: Nearest, axes: &[Axis], ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let steps = strides_of(&ctx.input(0)?.shape);
        let table = |(axis, &step): (&Axis, &usize)| {
            (0..axis.resized)
                .map(|index| self.nearest_index(nearest, axis, index) * step)
                .collect()
        };
        let copy = TableCopy::new(axes.iter().zip(&steps).map(table).collect());
        let outside: Vec<Vec<bool>> = axes
            .iter()
            .map(|axis| (0..axis.resized).map(|index| self.is_outside(axis, index)).collect())
            .collect();
        let has_outside = outside.iter().flatten().any(|&is_outside| is_outside);
        let dtype = ctx.input(0)?.dtype;
        let mut element = [0u64; 1];
        if has_outside {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut element);
            match dtype {
                _ if dtype.is_float() => f64::store(dtype, &[self.extrapolation.into()], bytes, 0)?,
                DType::String => return Err(ctx.unsupported_type(0)),
                _ => i64::store(dtype, &[self.extrapolation as i64], bytes, 0)?,
            }
        }
        let outputs = vec![Some(ctx.output(0)?.shape.clone())];
        movement::kernel(
            "resize_nearest",
            dtype,
            vec![0],
            outputs,
            Box::new(move |moved| {
                let (size, source) = (moved.size, moved.data[0]);
                let target = moved.output()?;
                copy.run(size, source, target)?;
                if !has_outside {
                    return Ok(());
                }
                let value: &[u8] = bytemuck::cast_slice(&element);
                for (flat, target) in target.chunks_exact_mut(size).enumerate() {
                    let mut rest = flat;
                    let mut is_outside = false;
                    for flags in outside.iter().rev() {
                        is_outside |= flags[rest % flags.len()];
                        rest /= flags.len();
                    }
                    if is_outside {
                        target.copy_from_slice(&value[..size]);
                    }
                }
                Ok(())
            }),
        )
    }
}

/// A resized dimension of a symbolic one, when it follows.
fn scaled_dim(dim: &Dim, scale: f32) -> Option<Dim> {
    let is_whole = |value: f32| value.fract() == 0.0 && (1.0..1e6).contains(&value);
    match dim.known() {
        Some(size) => Some(Dim::from((size as f32 * scale).floor() as i64)),
        None if is_whole(scale) => Some(dim.clone() * Dim::from(scale as i64)),
        None if is_whole(1.0 / scale) && scale * (1.0 / scale) == 1.0 => {
            Some(dim.floor_div(&Dim::from((1.0 / scale) as i64)))
        }
        None => None,
    }
}

impl Operator for Resize {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let is_given = |index: usize| {
            let facts = ctx.input(index);
            facts.is_some_and(|facts| facts.concrete_shape().is_none_or(|shape| !shape.contains(&0)))
        };
        let sizes_input = self.uses_sizes(is_given);
        let roi = match self.roi {
            Some(index) => ctx.constant(index).and_then(floats),
            None => None,
        };
        let Some(shape) = ctx.shape(0) else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        let rank = shape.len();
        let fresh = |ctx: &mut InferContext<'_>| -> Result<Vec<Dim>> {
            let axes = self.axes(rank)?;
            let dims = shape.iter().enumerate();
            Ok(dims
                .map(|(axis, dim)| {
                    if axes.contains(&axis) {
                        ctx.fresh_dim()
                    } else {
                        dim.clone()
                    }
                })
                .collect())
        };
        let result = if let (Some(index), None) = (sizes_input, &self.fixed_scales) {
            let concrete: Option<Vec<usize>> = shape.iter().map(Dim::size).collect();
            match (ctx.elements(index), concrete) {
                (Some(sizes), _) if self.policy == AspectRatio::Stretch => {
                    let mut result = shape.to_vec();
                    let axes = self.axes(rank)?;
                    if sizes.len() != axes.len() {
                        return Err(mismatch("the sizes are not one for each resized dimension")
                            .expected(axes.len().to_string())
                            .actual(sizes.len().to_string()));
                    }
                    axes.into_iter().zip(sizes).for_each(|(axis, size)| result[axis] = size);
                    result
                }
                (Some(sizes), Some(shape)) if sizes.iter().all(|size| size.known().is_some()) => {
                    let sizes: Vec<i64> = sizes.iter().filter_map(Dim::known).collect();
                    self.sizes(&shape, &sizes)?.0.into_iter().map(Dim::from).collect()
                }
                _ => fresh(ctx)?,
            }
        } else {
            let scales = match &self.fixed_scales {
                Some(scales) => Some(scales.clone()),
                None if !ctx.has_input(self.scales) => return Err(invalid("neither scales nor sizes are given")),
                None => ctx.constant(self.scales).and_then(floats),
            };
            match (scales, &roi) {
                (Some(_), None) if self.roi.is_some() => fresh(ctx)?,
                (Some(scales), roi) => {
                    let mut scales = self.spread(rank, &scales, 1.0, "scales")?;
                    Resize::check_scales(&scales)?;
                    if let Some(roi) = roi {
                        let rois = self.rois(rank, roi)?;
                        scales
                            .iter_mut()
                            .zip(rois)
                            .for_each(|(scale, (start, end))| *scale *= end - start);
                    }
                    let mut result = Vec::with_capacity(rank);
                    for (dim, scale) in shape.iter().zip(scales) {
                        result.push(scaled_dim(dim, scale).unwrap_or_else(|| ctx.fresh_dim()));
                    }
                    result
                }
                (None, _) => fresh(ctx)?,
            }
        };
        ctx.set_output(0, dtype, Some(result));
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !ctx.outputs_known {
            return Err(mismatch("the inputs do not tell the resized shape"));
        }
        let (input, output) = (ctx.input(0)?, ctx.output(0)?);
        let axes = self.plan(ctx.inputs, &output.shape)?;
        if axes.iter().all(|axis| self.is_identity(axis)) {
            return Ok(CpuKernel::View { input: 0 });
        }
        if element_count(&input.shape)? == 0 && element_count(&output.shape)? > 0 {
            return Err(mismatch("an empty input cannot be resized to one with elements"));
        }
        // Tables are made that are as long as each axis.
        if let Some(axis) = axes.iter().find(|axis| axis.resized > 1 << 26) {
            return Err(Error::new(ErrorCode::LimitExceeded, "a resized tensor is too large")
                .expected("at most 2^26 elements along an axis")
                .actual(axis.resized.to_string()));
        }
        if let Mode::Nearest(nearest) = self.mode {
            return self.nearest(nearest, &axes, ctx);
        }
        let dtype = input.dtype;
        match dtype {
            DType::String => return Err(ctx.unsupported_type(0)),
            DType::Bool | DType::I4 | DType::U4 => {
                let to = |other| if other == dtype { DType::F32 } else { other };
                return converted(ctx, to, |ctx| self.cpu(ctx));
            }
            _ => {}
        }
        let mut order: Vec<usize> = (0..axes.len())
            .filter(|&number| !self.is_identity(&axes[number]) && axes[number].resized > 0)
            .collect();
        // What shrinks goes first; of what grows the inner axes, whose steps are the dearer ones.
        order.sort_by_key(|&number| {
            let grows = axes[number].resized > input.shape[number];
            (grows, std::cmp::Reverse(number))
        });
        let passes: Vec<(usize, Taps)> = order
            .into_iter()
            .map(|number| Ok((number, self.taps(&axes[number])?)))
            .collect::<Result<_>>()?;
        let plan = resample::Plan::new(&input.shape, passes, self.extrapolation)
            .ok_or_else(|| Error::new(ErrorCode::LimitExceeded, "a resized tensor is too large"))?;
        if dtype == DType::F32 {
            let scratch_bytes = plan.scratch_len() * size_of::<f32>();
            return Ok(CpuKernel::compute_with_scratch(
                "resize_f32",
                scratch_bytes,
                move |io| {
                    let (source, target) = (io.inputs.get(0)?, io.outputs.take(0)?);
                    plan.run_f32(source, target, scratch_as_f32(io.scratch), io.threads);
                    Ok(())
                },
            ));
        }
        Ok(CpuKernel::compute("resize", move |io| {
            let source = io.inputs.bytes(0)?;
            let target = io.outputs.take_bytes(0)?;
            match dtype {
                DType::F32 | DType::F16 | DType::BF16 => plan.run::<f32>(dtype, source, target),
                _ => plan.run::<f64>(dtype, source, target),
            }
        }))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (input, output) = (ctx.input(0)?, ctx.output(0)?);
        if input.dtype != DType::F32 || self.coordinates == Coordinates::TfCropAndResize {
            return Ok(None);
        }
        let axes = self.plan(ctx.inputs, &output.shape)?;
        let mut resized = Vec::new();
        for (number, axis) in axes.iter().enumerate().filter(|(_, axis)| !self.is_identity(axis)) {
            let taps: Vec<Tap> = match self.mode {
                Mode::Nearest(nearest) => (0..axis.resized)
                    .map(|index| Tap {
                        index: self.nearest_index(nearest, axis, index) as u32,
                        weight: 1.0,
                    })
                    .collect(),
                _ => {
                    let taps = self.taps(axis)?;
                    let taps = taps.iter().map(|(index, weight)| Tap {
                        index: index as u32,
                        weight,
                    });
                    taps.collect()
                }
            };
            resized.push((number, taps.len() / axis.resized.max(1), taps));
        }
        let resized: Vec<ResizedAxis<'_>> = resized
            .iter()
            .map(|(axis, taps_per_position, taps)| ResizedAxis {
                axis: *axis,
                taps_per_position: *taps_per_position,
                taps,
            })
            .collect();
        // Everything that the taps depend on.
        let key = format!(
            "{:?} {:?} {} {} {} {axes:?}",
            self.mode, self.coordinates, self.cubic_a, self.exclude_outside, self.antialias
        );
        Ok(gpu::resize(&input.shape, &resized, &key, ctx.caps))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};
    use super::*;

    fn image() -> Tensor {
        f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0])
    }

    fn scaled(node: TestNode, scales: &[f32]) -> Result<Tensor> {
        node.no_input().constant(f32s(&[scales.len()], scales)).run1()
    }

    #[test]
    fn nearest_repeats_elements_of_any_type() {
        let node = || TestNode::new("Resize", 13).attr("mode", "nearest");
        let result = scaled(node().input(tensor(&[1, 2], &[1u8, 2])), &[2.0, 2.0]).unwrap();
        assert_eq!(result, tensor(&[2, 4], &[1u8, 1, 2, 2, 1, 1, 2, 2]));
        let strings = Tensor::from_strings(&[2], vec!["a".into(), "b".into()]).unwrap();
        let result = scaled(node().input(strings), &[1.5]).unwrap();
        assert_eq!(result.strings().unwrap(), ["a", "a", "b"]);
        let old = TestNode::new("Upsample", 7)
            .attr("scales", [1.0, 2.0])
            .input(f32s(&[1, 2], &[1.0, 2.0]));
        assert_eq!(old.run1().unwrap(), f32s(&[1, 4], &[1.0, 1.0, 2.0, 2.0]));
        let first = TestNode::new("Upsample", 1)
            .attr("height_scale", 1.0f32)
            .attr("width_scale", 2.0f32)
            .input(f32s(&[1, 1, 1, 2], &[1.0, 2.0]));
        assert_eq!(first.run1().unwrap(), f32s(&[1, 1, 1, 4], &[1.0, 1.0, 2.0, 2.0]));
    }

    #[test]
    fn rounding_modes_differ_at_halves() {
        // Positions 0.5 and 2.5 of four elements.
        for (mode, expected) in [
            ("round_prefer_floor", [0.0, 2.0]),
            ("round_prefer_ceil", [1.0, 3.0]),
            ("floor", [0.0, 2.0]),
            ("ceil", [1.0, 3.0]),
        ] {
            let node = TestNode::new("Resize", 13)
                .attr("nearest_mode", mode)
                .input(f32s(&[4], &[0.0, 1.0, 2.0, 3.0]));
            assert_eq!(scaled(node, &[0.5]).unwrap(), f32s(&[2], &expected), "{mode}");
        }
    }

    #[test]
    fn linear_follows_the_coordinates() {
        let node = |mode: &str| {
            let node = TestNode::new("Resize", 13).attr("mode", "linear");
            node.attr("coordinate_transformation_mode", mode)
                .input(f32s(&[2], &[0.0, 3.0]))
        };
        for (mode, expected) in [
            ("half_pixel", [0.0, 0.75, 2.25, 3.0]),
            ("align_corners", [0.0, 1.0, 2.0, 3.0]),
            ("asymmetric", [0.0, 1.5, 3.0, 3.0]),
        ] {
            assert_tensor_close(&scaled(node(mode), &[2.0]).unwrap(), &f32s(&[4], &expected), 1e-6);
        }
        let sizes = TestNode::new("Resize", 13)
            .attr("mode", "linear")
            .input(image())
            .no_input()
            .no_input();
        let result = sizes.constant(i64s(&[4], &[1, 1, 1, 4])).run1().unwrap();
        assert_tensor_close(&result, &f32s(&[1, 1, 1, 4], &[2.0, 2.25, 2.75, 3.0]), 1e-6);
        let bytes = TestNode::new("Resize", 13)
            .attr("mode", "linear")
            .input(tensor(&[2], &[0u8, 255]));
        assert_eq!(scaled(bytes, &[2.0]).unwrap(), tensor(&[4], &[0u8, 63, 191, 255]));
    }

    #[test]
    fn cubic_keeps_constants_and_antialias_averages() {
        let flat = || f32s(&[1, 6], &[2.0; 6]);
        let cubic = TestNode::new("Resize", 18).attr("mode", "cubic").input(flat());
        assert_tensor_close(&scaled(cubic, &[1.0, 1.7]).unwrap(), &f32s(&[1, 10], &[2.0; 10]), 1e-5);
        let ramp = f32s(&[8], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let small = TestNode::new("Resize", 18)
            .attr("mode", "linear")
            .attr("antialias", 1)
            .input(ramp);
        let result = scaled(small, &[0.25]).unwrap();
        let values = result.to_f32s().unwrap();
        assert!((values[0] + values[1] - 7.0).abs() < 1e-4, "{values:?} is symmetric");
    }

    #[test]
    fn axes_policies_and_regions_are_kept() {
        let node = |policy: &str| {
            let node = TestNode::new("Resize", 18)
                .attr("keep_aspect_ratio_policy", policy)
                .attr("axes", [2, 3]);
            let node = node.input(image()).no_input().no_input().constant(i64s(&[2], &[5, 8]));
            node.run1().unwrap().shape().to_vec()
        };
        assert_eq!(node("stretch"), [1, 1, 5, 8]);
        assert_eq!(node("not_larger"), [1, 1, 5, 5]);
        assert_eq!(node("not_smaller"), [1, 1, 8, 8]);
        let region = TestNode::new("Resize", 13)
            .attr("mode", "linear")
            .attr("coordinate_transformation_mode", "tf_crop_and_resize")
            .attr("extrapolation_value", 9.0f32)
            .input(f32s(&[3], &[0.0, 1.0, 2.0]))
            .constant(f32s(&[2], &[0.5, 1.5]))
            .no_input()
            .constant(i64s(&[1], &[3]));
        assert_tensor_close(&region.run1().unwrap(), &f32s(&[3], &[1.0, 2.0, 9.0]), 1e-6);
    }

    #[test]
    fn symbolic_sizes_follow_whole_scales() {
        let node = TestNode::new("Resize", 13)
            .input(image())
            .no_input()
            .constant(f32s(&[4], &[1.0, 1.0, 2.0, 0.5]));
        let (facts, _) = node.infer_symbolic().unwrap();
        let shape = facts[0].shape.as_ref().unwrap();
        assert_eq!(shape[2], Dim::symbol("d0_2") * Dim::from(2));
        assert_eq!(shape[3], Dim::symbol("d0_3").floor_div(&Dim::from(2)));
        for scales in [[1.0f32, 1.0, 0.0, 1.0], [1.0, 1.0, f32::NAN, 1.0]] {
            assert!(scaled(TestNode::new("Resize", 13).input(image()), &scales).is_err());
        }
    }
}
