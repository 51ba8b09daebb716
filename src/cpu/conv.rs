//! f32 convolution (ONNX Conv) over one to three spatial axes, NCHW: groups, strides, dilations, asymmetric pads.
//! A 1×1 convolution is a matrix product on the image as it is; others are matrix products whose right operand, the
//! im2col matrix, exists only block by block in the packing step; some of stride 1 are products of transformed tiles; depthwise ones and others of few outputs have a direct kernel.
//! Weights are packed at plan time. The transposed convolution is in [`transpose`].

mod axis;
mod depthwise;
mod im2col;
pub mod transpose;
mod winograd;

use std::ops::Range;

use crate::cpu::epilogue::{Bias, Epilogue};
use crate::cpu::gemm::{
    GemmShape, LEAST_LINE, Lhs, Lines, MatrixRef, PackedA, Rhs, flush_subnormals, gemm, gemm_lines, gemm_scratch_len,
};
use crate::cpu::threads::Threads;
use axis::AxisWinograd;
use depthwise::Depthwise;
use im2col::Im2colPlan;
use winograd::Winograd;

/// Spatial axes as (depth, height, width); missing leading axes are 1 (sizes, strides, dilations) or 0 (pads).
pub type Spatial = [usize; 3];

/// Widens one to three values to a [`Spatial`], with `fill` in front. `None` for other lengths.
pub fn spatial(values: &[usize], fill: usize) -> Option<Spatial> {
    let mut out = [fill; 3];
    out.get_mut(3usize.checked_sub(values.len())?..)?
        .copy_from_slice(values);
    (!values.is_empty()).then_some(out)
}

/// The concrete sizes of a convolution. Groups divide both channel counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvParams {
    pub batch: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub groups: usize,
    pub input: Spatial,
    pub kernel: Spatial,
    pub strides: Spatial,
    pub dilations: Spatial,
    pub pads_begin: Spatial,
    pub pads_end: Spatial,
}

impl ConvParams {
    /// The output's spatial sizes; 0 along an axis where the kernel does not fit once.
    pub fn output(&self) -> Spatial {
        std::array::from_fn(|axis| {
            let pads = self.pads_begin[axis].saturating_add(self.pads_end[axis]);
            let padded = self.input[axis].saturating_add(pads);
            let extent = self.dilations[axis]
                .saturating_mul(self.kernel[axis].max(1) - 1)
                .saturating_add(1);
            if padded < extent {
                0
            } else {
                (padded - extent) / self.strides[axis].max(1) + 1
            }
        })
    }

    /// The number of values of the input, `[batch, in_channels, ..input]`.
    pub fn input_len(&self) -> usize {
        self.batch * self.in_channels * volume(self.input)
    }

    /// The number of values of the output, `[batch, out_channels, ..output]`.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_channels * volume(self.output())
    }

    /// Whether every size that a kernel computes fits into memory's address range.
    pub(in crate::cpu) fn fits(&self) -> bool {
        let padded = (0..3).map(|axis| {
            let padded = self.input[axis] as u128 + self.pads_begin[axis] as u128 + self.pads_end[axis] as u128;
            padded.max(self.kernel[axis] as u128 * self.dilations[axis] as u128) + self.strides[axis] as u128
        });
        let channels = self.batch.max(1) as u128 * self.in_channels.max(self.out_channels).max(1) as u128;
        let weights = [self.in_channels as u128, self.out_channels as u128];
        fits(padded.chain([channels]))
            && fits(self.output().map(|size| size as u128).into_iter().chain([channels]))
            && fits(self.kernel.map(|size| size as u128).into_iter().chain(weights))
    }

    /// Whether a product that reads the image where it lies is faster than one that packs it: where few rows share the
    /// packing, and the lines that a tile reads stay in L1 together. In shares of the multiply-add roof (Chromium 156),
    /// packed and direct:
    ///
    /// | convolution | packed | direct |
    /// |---|---|---|
    /// | 1×1, 64 to 64 channels, 174×174 | 0.68 | 0.77 |
    /// | 1×1, 256 to 64, 56×56 | 0.88 | 0.73 |
    /// | 1×1, 24 to 48, 128×128 (planes on the same sets of the cache) | 0.72 | 0.66 |
    /// | 11×11, 8 to 8, 172×172 | 0.60 | 0.87 |
    /// | 5×5, 32 to 1, 172×172 | 0.14 | 0.45 |
    /// | 3×3 of stride 2, 3 to 16, 700×700 | 0.45 | 0.49 |
    /// | 3×3 of stride 2, 48 to 24, 80×80 | 0.68 | 0.60 |
    fn is_direct(&self) -> bool {
        const MOST_LINES: usize = 192;
        let rows = self.out_channels / self.groups;
        let lines = self.in_channels / self.groups * self.kernel[0] * self.kernel[1];
        let same_sets = self.kernel[2] == 1 && volume(self.input).is_multiple_of(1024);
        let most = match self.strides[2] {
            1 if lines <= MOST_LINES && !same_sets => 64,
            1 => 8,
            _ => 16,
        };
        rows <= most
    }

    /// The number of values of the weights, `[out_channels, in_channels / groups, ..kernel]`.
    pub fn weights_len(&self) -> usize {
        self.out_channels * (self.in_channels / self.groups.max(1)) * volume(self.kernel)
    }
}

/// The number of positions.
pub(in crate::cpu) fn volume(sizes: Spatial) -> usize {
    sizes.iter().product()
}

/// The positions `o` of an output axis for which `o * stride + offset - pad` lies within `0..size`.
pub(in crate::cpu) fn inside(size: usize, stride: usize, offset: usize, pad: usize, positions: usize) -> Range<usize> {
    let first = pad.saturating_sub(offset).div_ceil(stride);
    let end = if size + pad > offset {
        (size + pad - offset).div_ceil(stride)
    } else {
        0
    };
    let end = end.min(positions);
    first.min(end)..end
}

/// Whether so many f32, and some more for rounding up, can be addressed.
fn fits(sizes: impl IntoIterator<Item = u128>) -> bool {
    // Four bytes each, and as much again for rounding up.
    let len = sizes.into_iter().try_fold(8u128, u128::checked_mul);
    len.is_some_and(|len| len <= isize::MAX as u128)
}

/// How a convolution is computed.
#[derive(Clone, Debug)]
enum Method {
    /// 1×1, stride 1, no pads: the image is the right operand. Its rows' places, if they are read there.
    Pointwise(Option<Box<[usize]>>),
    /// Any other: the right operand is gathered while it is packed.
    Im2col(Im2colPlan),
    /// Few outputs per group (one input channel, or one output or two), two-dimensional at most.
    Depthwise(Depthwise),
    /// 3×3, stride 1, constant weights: products of transformed tiles.
    Winograd(Winograd),
    /// Along one axis, stride 1, constant weights: products of transformed tiles.
    AxisWinograd(AxisWinograd),
}

/// When the weights of a convolution are known. Transforming them pays only at plan time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Now: [`ConvPlan::pack`] will be asked to pack them.
    Constant,
    /// In a run: [`Filter::Raw`].
    AtRunTime,
}

/// A convolution planned for concrete sizes. It owns no weights: see [`ConvPlan::pack`].
#[derive(Clone, Debug)]
pub struct ConvPlan {
    params: ConvParams,
    output: Spatial,
    method: Method,
}

/// Constant weights in the layout that a plan asked for. Plans that differ only in batch and image size, and have equal
/// [`ConvPlan::layout`]s, share them.
#[derive(Clone, Debug)]
pub struct PackedFilter(Packed);

#[derive(Clone, Debug)]
enum Packed {
    /// One left operand per group.
    Groups(Box<[PackedA]>),
    /// As in the model.
    Plain(Box<[f32]>),
    /// Transformed filters.
    Winograd(Box<[f32]>),
}

/// The weights of one run.
#[derive(Clone, Copy)]
pub enum Filter<'a> {
    /// Packed at plan time.
    Packed(&'a PackedFilter),
    /// As in the model, `[out_channels, in_channels / groups, ..kernel]`: weights known only at run time.
    Raw(&'a [f32]),
}

impl ConvPlan {
    /// Chooses the method. Strides, dilations and groups are at least 1, and groups divide both channel counts.
    /// `None` when the sizes are beyond what can be addressed.
    pub fn new(params: ConvParams, weights: Weights) -> Option<Self> {
        if !params.fits() {
            return None;
        }
        let plain = params.kernel == [1; 3]
            && params.strides == [1; 3]
            && params.pads_begin == [0; 3]
            && params.pads_end == [0; 3];
        let method = if Depthwise::pays(&params) {
            Method::Depthwise(Depthwise::new(&params))
        } else if plain {
            let rows = (0..params.in_channels / params.groups).map(|row| row * volume(params.input));
            let direct = params.is_direct() && volume(params.input) >= LEAST_LINE;
            Method::Pointwise(direct.then(|| rows.collect()))
        } else if let Some(winograd) = (weights == Weights::Constant).then(|| Winograd::new(&params)).flatten() {
            Method::Winograd(winograd)
        } else if let Some(axis) = (weights == Weights::Constant)
            .then(|| AxisWinograd::new(&params))
            .flatten()
        {
            Method::AxisWinograd(axis)
        } else {
            Method::Im2col(Im2colPlan::new(&params))
        };
        Some(Self {
            output: params.output(),
            params,
            method,
        })
    }

    /// The sizes that this plan was made for.
    pub fn params(&self) -> &ConvParams {
        &self.params
    }

    /// The product that each group of each image is.
    fn shape(&self) -> GemmShape {
        let groups = self.params.groups;
        GemmShape {
            m: self.params.out_channels / groups,
            k: self.params.in_channels / groups * volume(self.params.kernel),
            n: volume(self.output),
        }
    }

    /// Packs constant weights `[out_channels, in_channels / groups, ..kernel]`.
    ///
    /// # Panics
    /// When `weights` is too short.
    pub fn pack(&self, weights: &[f32]) -> PackedFilter {
        let weights = &weights[..self.params.weights_len()];
        PackedFilter(match self.method {
            Method::Depthwise(_) => {
                let mut plain: Box<[f32]> = weights.into();
                flush_subnormals(&mut plain);
                Packed::Plain(plain)
            }
            Method::Winograd(ref winograd) => Packed::Winograd(winograd.pack(weights, self.params.groups)),
            Method::AxisWinograd(ref axis) => Packed::Winograd(axis.pack(weights, self.params.groups)),
            Method::Pointwise(_) | Method::Im2col(_) => {
                let GemmShape { m, k, .. } = self.shape();
                let group = |g: usize| PackedA::new(MatrixRef::row_major(&weights[g * m * k..], k), m, k);
                Packed::Groups((0..self.params.groups).map(group).collect())
            }
        })
    }

    /// What the kernel is called in reports and profiles.
    pub fn name(&self) -> &'static str {
        match self.method {
            Method::Depthwise(_) if self.params.in_channels > self.params.groups => "conv_direct_f32",
            Method::Depthwise(_) => "conv_depthwise_f32",
            Method::Winograd(_) => "conv_winograd_f32",
            Method::AxisWinograd(_) => "conv_winograd_1d_f32",
            Method::Pointwise(_) => "conv_1x1_f32",
            Method::Im2col(_) => "conv_im2col_f32",
        }
    }

    /// The layout that [`ConvPlan::pack`] gives weights: plans with equal layouts and groups share packed weights.
    pub fn layout(&self) -> &'static str {
        match self.method {
            Method::Depthwise(_) => "plain",
            Method::Winograd(_) => "winograd",
            Method::AxisWinograd(_) => "winograd along an axis",
            Method::Pointwise(_) | Method::Im2col(_) => "panels",
        }
    }

    /// How much scratch memory [`ConvPlan::run`] needs on so many threads, in f32, with packed or raw weights.
    pub fn scratch_len(&self, threads: usize) -> usize {
        let product = threads * gemm_scratch_len(self.shape(), false, false);
        match &self.method {
            Method::Depthwise(depthwise) => threads * depthwise.scratch_len(),
            Method::Winograd(winograd) => threads * winograd.scratch_len(),
            Method::AxisWinograd(axis) => threads * axis.scratch_len(),
            Method::Pointwise(_) => product,
            Method::Im2col(plan) => plan.image_len() + product,
        }
    }

    /// Convolves `input` `[batch, in_channels, ..]` into `output` `[batch, out_channels, ..]`.
    ///
    /// The epilogue's rows are images × channels, but a [`Bias::PerRow`] is indexed by the channel alone.
    ///
    /// # Panics
    /// When a slice is too short or `filter` was packed for another kind of plan.
    pub fn run(
        &self,
        input: &[f32],
        filter: Filter,
        output: &mut [f32],
        scratch: &mut [f32],
        epilogue: &Epilogue,
        threads: &Threads,
    ) {
        let params = &self.params;
        let (positions, volume_in) = (volume(self.output), volume(params.input));
        let shape = self.shape();
        let channels = params.in_channels / params.groups;
        let output = &mut output[..params.output_len()];
        let input = &input[..params.input_len()];
        if output.is_empty() {
            return;
        }
        if let Method::Depthwise(depthwise) = &self.method {
            let weights = match filter {
                Filter::Packed(PackedFilter(Packed::Plain(weights))) => weights,
                Filter::Raw(weights) => weights,
                Filter::Packed(_) => panic!("the weights were packed for another kind of convolution"),
            };
            return depthwise.run(params, input, weights, output, scratch, epilogue, threads);
        }
        if let Method::Winograd(_) | Method::AxisWinograd(_) = &self.method {
            let Filter::Packed(PackedFilter(Packed::Winograd(filters))) = filter else {
                panic!("the weights were packed for another kind of convolution")
            };
            match &self.method {
                Method::Winograd(plan) => plan.run(params, input, filters, output, scratch, epilogue, threads),
                Method::AxisWinograd(plan) => plan.run(params, input, filters, output, scratch, epilogue, threads),
                _ => {}
            }
            return;
        }
        for image in 0..params.batch {
            for group in 0..params.groups {
                let first_in = (image * params.in_channels + group * channels) * volume_in;
                let input = &input[first_in..first_in + channels * volume_in];
                let first_row = image * params.out_channels + group * shape.m;
                let epilogue = positioned(epilogue, first_row, group * shape.m, positions);
                let output = &mut output[first_row * positions..(first_row + shape.m) * positions];
                let lhs = match filter {
                    Filter::Packed(PackedFilter(Packed::Groups(groups))) => Lhs::Packed(&groups[group]),
                    Filter::Raw(weights) => {
                        Lhs::Matrix(MatrixRef::row_major(&weights[group * shape.m * shape.k..], shape.k))
                    }
                    Filter::Packed(_) => panic!("the weights were packed for another kind of convolution"),
                };
                match &self.method {
                    Method::Im2col(plan) => {
                        let (image, rest) = scratch.split_at_mut(plan.image_len());
                        let matrix = plan.matrix(input, image, threads);
                        if let (Lhs::Packed(lhs), true, Some(lines)) = (lhs, params.is_direct(), matrix.lines()) {
                            gemm_lines(lhs, &lines, output, &epilogue, threads);
                            continue;
                        }
                        gemm(shape, lhs, Rhs::Virtual(&matrix), output, rest, &epilogue, threads);
                    }
                    method => {
                        if let (Lhs::Packed(lhs), Method::Pointwise(Some(rows))) = (lhs, method) {
                            let lines = Lines {
                                image: input,
                                rows,
                                lines: [1, 1],
                                line_steps: [0, 0],
                                line_len: positions,
                                stride: 1,
                            };
                            gemm_lines(lhs, &lines, output, &epilogue, threads);
                            continue;
                        }
                        let rhs = Rhs::Matrix(MatrixRef::row_major(input, positions));
                        gemm(shape, lhs, rhs, output, scratch, &epilogue, threads);
                    }
                }
            }
        }
    }
}

/// The epilogue of the rows from `first_row` on, which begin at channel `channel`.
fn positioned<'a>(epilogue: &Epilogue<'a>, first_row: usize, channel: usize, row_len: usize) -> Epilogue<'a> {
    let bias = match epilogue.bias {
        Bias::PerRow(bias) => Bias::PerRow(&bias[channel..]),
        other => other,
    };
    Epilogue {
        bias,
        ..epilogue.from_row(first_row, row_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::epilogue::{Clamp, RowProgram};
    use crate::cpu::testing::{Rng, assert_close, assert_same_bits};

    struct AddPosition;
    impl RowProgram for AddPosition {
        fn apply(&self, row: usize, col: usize, values: &mut [f32]) {
            for (index, value) in values.iter_mut().enumerate() {
                *value += (row * 3 + col + index) as f32 * 0.01;
            }
        }
    }

    /// Convolution as its definition reads, without an epilogue.
    pub(super) fn reference(params: &ConvParams, input: &[f32], weights: &[f32]) -> Vec<f32> {
        let [od, oh, ow] = params.output();
        let [id, ih, iw] = params.input.map(|size| size as isize);
        let [kd, kh, kw] = params.kernel;
        let per_group = params.in_channels / params.groups;
        let out_per_group = params.out_channels / params.groups;
        let mut out = Vec::new();
        for n in 0..params.batch {
            for m in 0..params.out_channels {
                for z in 0..od {
                    for y in 0..oh {
                        for x in 0..ow {
                            let mut sum = 0.0f64;
                            for c in 0..per_group {
                                let channel = n * params.in_channels + m / out_per_group * per_group + c;
                                for a in 0..kd {
                                    for b in 0..kh {
                                        for d in 0..kw {
                                            let place = |axis: usize, o: usize, k: usize| {
                                                (o * params.strides[axis] + k * params.dilations[axis]) as isize
                                                    - params.pads_begin[axis] as isize
                                            };
                                            let (pz, py, px) = (place(0, z, a), place(1, y, b), place(2, x, d));
                                            let inside =
                                                (0..id).contains(&pz) && (0..ih).contains(&py) && (0..iw).contains(&px);
                                            if inside {
                                                let at = ((channel as isize * id + pz) * ih + py) * iw + px;
                                                let w = (((m * per_group + c) * kd + a) * kh + b) * kw + d;
                                                sum += f64::from(input[at as usize]) * f64::from(weights[w]);
                                            }
                                        }
                                    }
                                }
                            }
                            out.push(sum as f32);
                        }
                    }
                }
            }
        }
        out
    }

    fn check(rng: &mut Rng, params: ConvParams) {
        let (input, weights) = (rng.vec(params.input_len()), rng.vec(params.weights_len()));
        let (bias, residual) = (rng.vec(params.out_channels), rng.vec(params.output_len()));
        let epilogue = Epilogue {
            bias: if rng.bool() { Bias::PerRow(&bias) } else { Bias::None },
            residual: rng.bool().then_some(&residual[..]),
            clamp: rng.bool().then_some(Clamp::RELU),
            program: if rng.bool() { Some(&AddPosition) } else { None },
            ..Epilogue::none()
        };
        let mut expected = reference(&params, &input, &weights);
        let positions = volume(params.output());
        for (row, values) in expected.chunks_exact_mut(positions.max(1)).enumerate() {
            let channel = row % params.out_channels;
            positioned(&epilogue, row, channel, positions).apply(0, 0, positions, values);
        }
        let plan = ConvPlan::new(params.clone(), Weights::Constant).unwrap();
        let packed = plan.pack(&weights);
        let raw = ConvPlan::new(params.clone(), Weights::AtRunTime).unwrap();
        for (plan, filter) in [(plan, Filter::Packed(&packed)), (raw, Filter::Raw(&weights))] {
            let run = |threads: &Threads| {
                let mut scratch = vec![f32::NAN; plan.scratch_len(threads.count())];
                let mut output = vec![f32::NAN; params.output_len()];
                plan.run(&input, filter, &mut output, &mut scratch, &epilogue, threads);
                output
            };
            let output = run(&Threads::SINGLE);
            assert_close(&output, &expected, 1e-4, &format!("{params:?} by {:?}", plan.method));
            assert_same_bits(&run(&Threads::eager(3)), &output, &format!("{params:?}"));
        }
    }

    #[test]
    fn ordinary_sizes_are_addressable_with_32_bits_and_huge_ones_are_not() {
        let layer = [3u128, 3, 1, 2048, 512];
        assert!(layer.iter().product::<u128>() * 8 <= i32::MAX as u128);
        assert!(fits(layer));
        assert!(!fits([1 << 40, 1 << 40]));
    }

    #[test]
    fn random_convolutions_match_the_definition() {
        let mut rng = Rng::new(3);
        for round in 0..300 {
            let axes = round % 3;
            let groups = rng.size(1, 3);
            let mut pick = |low, high, missing| {
                std::array::from_fn(|axis| if axis < 2 - axes { missing } else { rng.size(low, high) })
            };
            let (input, kernel) = (pick(1, 9, 1), pick(1, 4, 1));
            let (strides, dilations) = (pick(1, 3, 1), pick(1, 2, 1));
            let (pads_begin, pads_end) = (pick(0, 2, 0), pick(0, 2, 0));
            let params = ConvParams {
                batch: rng.size(1, 2),
                in_channels: groups * rng.size(1, 3),
                out_channels: groups * rng.size(1, 5),
                groups,
                input,
                kernel,
                strides,
                dilations,
                pads_begin,
                pads_end,
            };
            check(&mut rng, params);
        }
    }

    #[test]
    fn random_depthwise_convolutions_match_the_definition() {
        let mut rng = Rng::new(17);
        for round in 0..400 {
            let groups = rng.size(1, 4);
            let (height, stride) = (rng.size(1, 12), rng.size(1, 3));
            let kernel = if round % 2 == 0 {
                [1, 3, 3]
            } else {
                [1, rng.size(1, 7), rng.size(1, 5)]
            };
            let pads = if round % 2 == 0 { 1 } else { 4 };
            let params = ConvParams {
                batch: rng.size(1, 2),
                in_channels: groups,
                out_channels: groups * rng.size(1, 2),
                groups,
                input: [1, height, rng.size(1, 40)],
                kernel,
                strides: [1, stride, if round % 8 < 6 { stride } else { rng.size(1, 3) }],
                dilations: [
                    1,
                    rng.size(1, 5).saturating_sub(3).max(1),
                    rng.size(1, 5).saturating_sub(3).max(1),
                ],
                pads_begin: [0, rng.size(0, pads), rng.size(0, pads)],
                pads_end: [0, rng.size(0, pads), rng.size(0, pads)],
            };
            check(&mut rng, params);
        }
    }

    fn image(
        channels: (usize, usize),
        groups: usize,
        size: usize,
        kernel: usize,
        stride: usize,
        pad: usize,
    ) -> ConvParams {
        ConvParams {
            batch: 1,
            in_channels: channels.0,
            out_channels: channels.1,
            groups,
            input: [1, size, size],
            kernel: [1, kernel, kernel],
            strides: [1, stride, stride],
            dilations: [1; 3],
            pads_begin: [0, pad, pad],
            pads_end: [0, pad, pad],
        }
    }

    /// One-dimensional.
    fn line(
        channels: (usize, usize),
        groups: usize,
        len: usize,
        kernel: usize,
        stride: usize,
        pad: usize,
    ) -> ConvParams {
        ConvParams {
            input: [1, 1, len],
            kernel: [1, 1, kernel],
            strides: [1, 1, stride],
            pads_begin: [0, 0, pad],
            pads_end: [0, 0, pad],
            ..image(channels, groups, len, kernel, stride, pad)
        }
    }

    #[test]
    fn network_layers_match_the_definition() {
        let mut rng = Rng::new(4);
        for params in [
            image((3, 9), 1, 45, 7, 2, 3),
            image((20, 17), 1, 28, 1, 1, 0),
            image((12, 13), 1, 14, 1, 2, 0),
            image((40, 12), 1, 14, 3, 1, 1),
            image((6, 6), 6, 31, 3, 1, 1),
            image((5, 5), 5, 30, 3, 2, 1),
            image((5, 10), 5, 17, 5, 2, 2),
            image((8, 8), 8, 7, 5, 1, 2),
            image((60, 60), 60, 7, 3, 1, 1),
            // Few outputs per group.
            image((33, 1), 1, 40, 3, 1, 1),
            image((8, 4), 2, 30, 5, 2, 2),
            image((12, 6), 6, 9, 3, 1, 0),
            // Planes of several bands of rows.
            image((2, 2), 2, 130, 3, 1, 1),
            image((2, 4), 2, 151, 5, 2, 2),
            line((1, 2), 1, 2000, 60, 3, 7),
            line((5, 5), 5, 40, 7, 1, 3),
            line((1, 20), 1, 500, 31, 8, 0),
            // Planes of two rows.
            ConvParams {
                input: [1, 2, 23],
                ..image((9, 9), 9, 2, 5, 1, 2)
            },
            image((16, 16), 4, 20, 3, 1, 1),
        ] {
            check(&mut rng, params);
        }
    }

    #[test]
    fn sizes_beyond_memory_are_refused() {
        let huge = usize::MAX / 16;
        let pads = ConvParams {
            pads_begin: [0, huge, huge],
            strides: [1, huge, huge],
            ..image((3, 4), 1, 8, 3, 1, 1)
        };
        let channels = ConvParams {
            in_channels: huge,
            ..image((3, 4), 1, 8, 1, 1, 0)
        };
        assert!(
            ConvPlan::new(pads, Weights::Constant).is_none() && ConvPlan::new(channels, Weights::Constant).is_none()
        );
    }

    #[test]
    fn zero_sized_batches_and_images_give_empty_outputs() {
        let mut rng = Rng::new(5);
        check(
            &mut rng,
            ConvParams {
                batch: 0,
                ..image((3, 4), 1, 8, 3, 1, 1)
            },
        );
        check(&mut rng, image((3, 4), 1, 2, 5, 1, 0));
        check(
            &mut rng,
            ConvParams {
                out_channels: 0,
                ..image((3, 4), 1, 8, 3, 1, 1)
            },
        );
    }
}
