//! Convolutions over one or two spatial dimensions: as matrix products without a stored column matrix, with direct
//! kernels for depthwise and transposed ones.

use super::super::epilogue::Epilogue;
use super::super::kernel::{AdapterKind, Binding, GpuCaps, GpuKernel};
use super::super::wgsl::{DispatchBuilder, LINEAR_THREADS, linear_workgroups, shader_text};
use super::matmul::{Addend, Matrix, Product, STORE_ONE, Store, Stored, bind_store};
use super::{Constant, Grid, HALVES, Operand, Precision, elements, laid_out, single};

const TILED: &str = shader_text!("../../../shaders/matmul_tiled.wgsl");
const STORE: &str = shader_text!("../../../shaders/matmul_store.wgsl");
const DIRECT: &str = shader_text!("../../../shaders/conv_direct.wgsl");
const DEPTHWISE: &str = shader_text!("../../../shaders/conv_depthwise.wgsl");
const TRANSPOSE: &str = shader_text!("../../../shaders/conv_transpose.wgsl");

/// Attributes of a convolution or pooling, one number per spatial dimension.
#[derive(Debug, Clone)]
pub struct Window<'a> {
    pub kernel: &'a [usize],
    pub strides: &'a [usize],
    pub dilations: &'a [usize],
    /// Padding before each dimension, then after each.
    pub pads: &'a [usize],
}

/// The same over exactly two dimensions (height, width); a single dimension is a width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window2d {
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) dilations: [usize; 2],
    pub(super) before: [usize; 2],
    pub(super) after: [usize; 2],
}

/// A list of one or two numbers as two.
fn pair(values: &[usize], missing: usize) -> Option<[usize; 2]> {
    match *values {
        [x] => Some([missing, x]),
        [y, x] => Some([y, x]),
        _ => None,
    }
}

impl Window2d {
    /// `None` for other than one or two dimensions and for numbers that shaders cannot hold.
    pub(super) fn new(window: &Window, input: &[usize], output: &[usize]) -> Option<Window2d> {
        let rank = input.len();
        let lists = [window.kernel, window.strides, window.dilations, output];
        if lists.iter().any(|list| list.len() != rank) || window.pads.len() != 2 * rank {
            return None;
        }
        let result = Window2d {
            input: pair(input, 1)?,
            output: pair(output, 1)?,
            kernel: pair(window.kernel, 1)?,
            strides: pair(window.strides, 1)?,
            dilations: pair(window.dilations, 1)?,
            before: pair(&window.pads[..rank], 0)?,
            after: pair(&window.pads[rank..], 0)?,
        };
        // Positions are signed 32-bit numbers; half of the range leaves room for padding and reach.
        const LARGEST: usize = (i32::MAX / 2) as usize;
        for axis in 0..2 {
            let reach = result.kernel[axis].checked_mul(result.dilations[axis])?;
            let last = result.output[axis].checked_mul(result.strides[axis])?;
            let padded = result.before[axis]
                .checked_add(result.input[axis])?
                .checked_add(result.after[axis])?;
            if [reach, last, padded].iter().any(|&value| value > LARGEST) || result.strides[axis] == 0 {
                return None;
            }
        }
        Some(result)
    }

    /// Declares the parameters that every windowed shader reads.
    pub(super) fn bind(&self, dispatch: DispatchBuilder) -> DispatchBuilder {
        dispatch
            .param("out_height", self.output[0] as u32)
            .param("out_width", self.output[1] as u32)
            .param_i32("in_height", self.input[0] as i32)
            .param_i32("in_width", self.input[1] as i32)
            .param("plane", (self.input[0] * self.input[1]) as u32)
            .param("kernel_height", self.kernel[0] as u32)
            .param("kernel_width", self.kernel[1] as u32)
            .param("stride_y", self.strides[0] as u32)
            .param("stride_x", self.strides[1] as u32)
            .param("dilation_y", self.dilations[0] as u32)
            .param("dilation_x", self.dilations[1] as u32)
            .param_i32("pad_top", self.before[0] as i32)
            .param_i32("pad_left", self.before[1] as i32)
            .param_i32("pad_bottom", self.after[0] as i32)
            .param_i32("pad_right", self.after[1] as i32)
    }

    /// Whether every output position reads just the input position of its own index.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.strides == [1, 1]
            && self.before == [0, 0]
            && self.after == [0, 0]
            && self.input == self.output
    }
}

/// Sizes of a convolution, per group where they say so.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    images: usize,
    groups: usize,
    /// Input channels per group.
    inputs: usize,
    /// Output channels per group.
    outputs: usize,
    window: Window2d,
}

impl Sizes {
    fn positions(&self) -> usize {
        self.window.output.iter().product()
    }

    /// Elements that one output sums over.
    fn depth(&self) -> usize {
        self.inputs * self.window.kernel[0] * self.window.kernel[1]
    }

    fn addend(&self, bias: Option<&Operand>) -> Option<Addend> {
        bias.map(|bias| Addend {
            binding: bias.binding.clone(),
            beta: 1.0,
            row: 1,
            column: None,
            batches: self.groups,
            batch: self.outputs,
        })
    }
}

/// Conv (opset 1 and later) of `x` (images, channels, spatial…) with `w` (output channels, channels per group, kernel…)
/// and a bias per output channel, into an output of `output_shape`. One or two spatial dimensions; `None` for others.
#[allow(clippy::too_many_arguments)]
pub fn conv(
    x: &Operand,
    w: &Operand,
    bias: Option<&Operand>,
    groups: usize,
    window: &Window,
    output_shape: &[usize],
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let ([images, channels, input @ ..], [outputs, inputs, kernel @ ..]) = (x.shape, w.shape) else {
        return None;
    };
    let [out_images, out_channels, output @ ..] = output_shape else {
        return None;
    };
    let groups_fit = groups > 0
        && Some(*channels) == inputs.checked_mul(groups)
        && outputs.is_multiple_of(groups)
        && out_images == images
        && out_channels == outputs
        && kernel == window.kernel;
    if !groups_fit || bias.is_some_and(|bias| bias.shape != [*outputs]) {
        return None;
    }
    elements(x.shape, caps)?;
    elements(w.shape, caps)?;
    if elements(output_shape, caps)? == 0 {
        return Some(GpuKernel::default());
    }
    if w.shape.contains(&0) {
        // Nothing but the bias; not worth a kernel of its own.
        return None;
    }
    let window = Window2d::new(window, input, output)?;
    let sizes = Sizes {
        images: *images,
        groups,
        inputs: *inputs,
        outputs: outputs / groups,
        window,
    };
    if window.is_pointwise() {
        return pointwise(&sizes, x, w, bias, epilogue, caps);
    }
    if sizes.inputs == 1 && groups > 1 {
        return depthwise(&sizes, x, w, bias, epilogue, caps);
    }
    // Tiles of 64 channels are wasted on few. Software adapters take minutes to compile some of the tiled texts.
    if caps.kind == AdapterKind::Software || sizes.outputs < 16 {
        direct(&sizes, x, w, bias, epilogue, caps)
    } else {
        tiled(&sizes, x, w, bias, epilogue, caps)
    }
}

/// A 1x1 convolution is a matrix product of the weights with each image.
fn pointwise(
    sizes: &Sizes,
    x: &Operand,
    w: &Operand,
    bias: Option<&Operand>,
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let (m, n, k) = (sizes.outputs, sizes.positions(), sizes.inputs);
    let half = w
        .constant
        .filter(|constant| k.is_multiple_of(4) && constant.precision(caps) == Precision::Half);
    let (weights, precision) = match half {
        Some(constant) => {
            let as_they_are = Box::new(|from: &[f32], to: &mut [f32]| to.copy_from_slice(from));
            let count = sizes.groups * m * k;
            let weights = laid_out(constant, "conv_rows".into(), count, Precision::Half, as_they_are);
            (weights, Precision::Half)
        }
        None => (w.binding.clone(), Precision::Single),
    };
    let product = Product {
        m,
        n,
        k,
        batch_dims: vec![sizes.images, sizes.groups],
        a: Matrix {
            binding: weights,
            precision,
            row: k,
            column: 1,
            batch: vec![0, m * k],
        },
        b: Matrix {
            binding: x.binding.clone(),
            precision: Precision::Single,
            row: n,
            column: 1,
            batch: vec![sizes.groups * k * n, k * n],
        },
        alpha: 1.0,
        addend: sizes.addend(bias),
        epilogue,
        to: None,
    };
    product.kernel(caps)
}

fn depthwise(
    sizes: &Sizes,
    x: &Operand,
    w: &Operand,
    bias: Option<&Operand>,
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let channels = sizes.groups * sizes.outputs;
    let planes = sizes.images * channels;
    let per_thread = Grid::positions(caps);
    let grid = Grid::new(sizes.positions().div_ceil(per_thread), planes, caps);
    let dispatch = DispatchBuilder::new("conv_depthwise", DEPTHWISE)
        .define("POSITIONS", per_thread)
        .storage("input", "f32", x.binding.clone())
        .storage("weights", "f32", w.binding.clone())
        .storage("output", "f32", Binding::Output(0))
        .param("planes", planes as u32)
        .param("channels", channels as u32)
        .param("in_channels", sizes.groups as u32)
        .param("multiplier", sizes.outputs as u32);
    let dispatch = bind_bias(sizes.window.bind(grid.bind(dispatch)), bias).epilogue(epilogue);
    single(dispatch, grid.workgroups_at_most(caps)?, caps)
}

fn bind_bias(dispatch: DispatchBuilder, bias: Option<&Operand>) -> DispatchBuilder {
    match bias {
        Some(bias) => dispatch
            .flag("ADDEND", true)
            .storage("addend", "f32", bias.binding.clone()),
        None => dispatch,
    }
}

/// On tiles in workgroup memory.
fn tiled(
    sizes: &Sizes,
    x: &Operand,
    w: &Operand,
    bias: Option<&Operand>,
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let (m, n, k) = (sizes.outputs, sizes.positions(), sizes.depth());
    let row = k.next_multiple_of(4);
    let channels = sizes.groups * m;
    let precision = w
        .constant
        .map_or(Precision::Single, |constant| constant.precision(caps));
    let (weights, row) = match w.constant {
        Some(constant) if row != k || precision == Precision::Half => {
            let layout = format!("conv_rows:{channels}x{k}");
            let binding = laid_out(
                constant,
                layout,
                channels.checked_mul(row)?,
                precision,
                Box::new(move |from, to| {
                    for (from, to) in from.chunks_exact(k).zip(to.chunks_exact_mut(row)) {
                        to[..k].copy_from_slice(from);
                    }
                }),
            );
            (binding, row)
        }
        _ => (w.binding.clone(), k),
    };
    let vector = row.is_multiple_of(4);
    let batches = sizes.images * sizes.groups;
    let in_plane = sizes.inputs * sizes.window.input[0] * sizes.window.input[1];
    // Batches are images times groups, groups innermost; with one of either there is one batch dimension.
    let mut dispatch = DispatchBuilder::new("conv_tiled", TILED).functions(STORE);
    if precision == Precision::Half {
        dispatch = dispatch.functions(HALVES).flag("AHALF", true);
    }
    let dispatch = dispatch
        .flag("CONVOLUTION", true)
        .flag("AVECTOR", vector)
        .define("BATCHRANK", 2)
        .storage("a", if vector { precision.wgsl4() } else { "f32" }, weights)
        .storage("b", "f32", x.binding.clone())
        .param("k", k as u32)
        .param("a_row", row as u32)
        .param("a_column", 1)
        .param_list("batch_dim", [sizes.groups as u32, sizes.images as u32])
        .param_list("a_batch", [(m * row) as u32, 0])
        .param_list("b_batch", [in_plane as u32, (in_plane * sizes.groups) as u32]);
    let addend = sizes.addend(bias);
    let store = Store {
        m,
        n,
        batches,
        alpha: 1.0,
        addend: addend.as_ref(),
        epilogue,
        stored: if n.is_multiple_of(4) {
            Stored::Vectors
        } else {
            Stored::Elements
        },
    };
    let dispatch = bind_store(sizes.window.bind(dispatch), &store);
    let workgroups = [
        u32::try_from(n.div_ceil(64)).ok()?,
        u32::try_from(m.div_ceil(64)).ok()?,
        batches.min(caps.max_workgroups as usize) as u32,
    ];
    single(dispatch, workgroups, caps)
}

/// Straight from storage; constant weights are laid out for it, others are read as they stand.
fn direct(
    sizes: &Sizes,
    x: &Operand,
    w: &Operand,
    bias: Option<&Operand>,
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let (m, n) = (sizes.outputs, sizes.positions());
    let blocks = m.div_ceil(4);
    let Sizes { groups, inputs, .. } = *sizes;
    let weights = match w.constant {
        Some(constant) => in_blocks(sizes, constant, caps)?,
        None => w.binding.clone(),
    };
    // Sixteen channels share each load of the input where there are as many.
    let vectors = if blocks >= 3 { 4 } else { blocks };
    let grid = Grid::new(n.div_ceil(4), blocks.div_ceil(vectors), caps);
    let batches = sizes.images * groups;
    let dispatch = DispatchBuilder::new("conv_direct", DIRECT)
        .functions(STORE_ONE)
        .define("CHANNELS", vectors)
        .define("ROWS", vectors * 4)
        .flag("BLOCKS", w.constant.is_some())
        .storage("input", "f32", x.binding.clone())
        .storage(
            "weights",
            if w.constant.is_some() { "vec4<f32>" } else { "f32" },
            weights,
        )
        .param("k", inputs as u32)
        .param("groups", groups as u32)
        .param("blocks", blocks as u32);
    let addend = sizes.addend(bias);
    let store = Store {
        m,
        n,
        batches,
        alpha: 1.0,
        addend: addend.as_ref(),
        epilogue,
        stored: Stored::One,
    };
    let dispatch = bind_store(sizes.window.bind(grid.bind(dispatch)), &store);
    single(dispatch, grid.workgroups(batches, caps)?, caps)
}

/// Constant weights as `conv_direct.wgsl` reads them with BLOCKS.
fn in_blocks(sizes: &Sizes, weights: Constant, caps: &GpuCaps) -> Option<Binding> {
    let (m, blocks) = (sizes.outputs, sizes.outputs.div_ceil(4));
    let Sizes { groups, inputs, .. } = *sizes;
    let taps = sizes.window.kernel[0] * sizes.window.kernel[1];
    let count = groups.checked_mul(taps)?.checked_mul(inputs)?.checked_mul(blocks * 4)?;
    elements(&[count], caps)?;
    let layout = format!("conv_blocks:{groups}x{m}x{inputs}x{taps}");
    Some(laid_out(
        weights,
        layout,
        count,
        Precision::Single,
        Box::new(move |from, to| {
            for (from, to) in from
                .chunks_exact(m * inputs * taps)
                .zip(to.chunks_exact_mut(taps * inputs * blocks * 4))
            {
                for (output, from) in from.chunks_exact(inputs * taps).enumerate() {
                    for (input, from) in from.chunks_exact(taps).enumerate() {
                        for (tap, &value) in from.iter().enumerate() {
                            to[(tap * inputs + input) * blocks * 4 + output] = value;
                        }
                    }
                }
            }
        }),
    ))
}

/// ConvTranspose (opset 1 and later) of `x` (images, channels, spatial…) with `w` (channels, output channels per group,
/// kernel…) and a bias per output channel, into an output of `output_shape`, which the caller computed from output
/// padding. `window.pads` are the operator's pads. One or two spatial dimensions; `None` for others.
#[allow(clippy::too_many_arguments)]
pub fn conv_transpose(
    x: &Operand,
    w: &Operand,
    bias: Option<&Operand>,
    groups: usize,
    window: &Window,
    output_shape: &[usize],
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let ([images, channels, input @ ..], [inputs, outputs, kernel @ ..]) = (x.shape, w.shape) else {
        return None;
    };
    let [out_images, out_channels, output @ ..] = output_shape else {
        return None;
    };
    let groups_fit = groups > 0
        && channels == inputs
        && channels.is_multiple_of(groups)
        && Some(*out_channels) == outputs.checked_mul(groups)
        && out_images == images
        && kernel == window.kernel;
    if !groups_fit || bias.is_some_and(|bias| bias.shape != [*out_channels]) {
        return None;
    }
    elements(x.shape, caps)?;
    elements(w.shape, caps)?;
    let count = elements(output_shape, caps)?;
    if count == 0 {
        return Some(GpuKernel::default());
    }
    let window = Window2d::new(window, input, output)?;
    let dispatch = DispatchBuilder::new("conv_transpose", TRANSPOSE)
        .define("THREADS", LINEAR_THREADS)
        .storage("input", "f32", x.binding.clone())
        .storage("weights", "f32", w.binding.clone())
        .storage("output", "f32", Binding::Output(0))
        .param("count", count as u32)
        .param("channels", *out_channels as u32)
        .param("in_channels", *channels as u32)
        .param("groups", groups as u32);
    let dispatch = bind_bias(window.bind(dispatch), bias).epilogue(epilogue);
    single(dispatch, linear_workgroups(count as u64, caps), caps)
}

#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod tests {
    use super::super::super::kernel::GpuType;
    use super::super::super::testing::{self, Data, Random};
    use super::*;
    use crate::tensor::Tensor;

    #[derive(Debug, Clone)]
    struct Case {
        images: usize,
        groups: usize,
        inputs: usize,
        outputs: usize,
        input: Vec<usize>,
        kernel: Vec<usize>,
        strides: Vec<usize>,
        dilations: Vec<usize>,
        pads: Vec<usize>,
    }

    impl Case {
        fn square(images: usize, groups: usize, inputs: usize, outputs: usize, size: usize, kernel: usize) -> Case {
            Case {
                images,
                groups,
                inputs,
                outputs,
                input: vec![size, size + 1],
                kernel: vec![kernel; 2],
                strides: vec![1; 2],
                dilations: vec![1; 2],
                pads: vec![kernel / 2; 4],
            }
        }

        fn window(&self) -> Window<'_> {
            let Case {
                kernel,
                strides,
                dilations,
                pads,
                ..
            } = self;
            Window {
                kernel,
                strides,
                dilations,
                pads,
            }
        }

        fn output(&self) -> Vec<usize> {
            let rank = self.input.len();
            let size = |axis: usize| {
                let padded = self.input[axis] + self.pads[axis] + self.pads[axis + rank];
                (padded - self.dilations[axis] * (self.kernel[axis] - 1) - 1) / self.strides[axis] + 1
            };
            (0..rank).map(size).collect()
        }

        fn transposed_output(&self) -> Vec<usize> {
            let rank = self.input.len();
            let size = |axis: usize| {
                (self.input[axis] - 1) * self.strides[axis] + self.dilations[axis] * (self.kernel[axis] - 1) + 1
                    - self.pads[axis]
                    - self.pads[axis + rank]
            };
            (0..rank).map(size).collect()
        }

        /// Calls `visit(input position, output position, kernel position)`, each flat, for every pair that a
        /// convolution from `from` to `to` joins.
        fn taps(&self, from: &[usize], to: &[usize], mut visit: impl FnMut(usize, usize, usize)) {
            let two = |list: &[usize], missing| pair(list, missing).unwrap();
            let (from, to, kernel) = (two(from, 1), two(to, 1), two(&self.kernel, 1));
            let (strides, dilations) = (two(&self.strides, 1), two(&self.dilations, 1));
            let before = two(&self.pads[..self.input.len()], 0);
            for at in 0..to[0] * to[1] {
                for tap in 0..kernel[0] * kernel[1] {
                    let (out, k) = ([at / to[1], at % to[1]], [tap / kernel[1], tap % kernel[1]]);
                    let place = |axis: usize| {
                        (out[axis] * strides[axis] + k[axis] * dilations[axis])
                            .checked_sub(before[axis])
                            .filter(|&place| place < from[axis])
                    };
                    if let (Some(y), Some(x)) = (place(0), place(1)) {
                        visit(y * from[1] + x, at, tap);
                    }
                }
            }
        }
    }

    fn count(shape: &[usize]) -> usize {
        shape.iter().product()
    }

    fn cases() -> Vec<Case> {
        let base = Case::square(2, 1, 3, 8, 9, 3);
        vec![
            base.clone(),
            Case {
                strides: vec![2, 3],
                dilations: vec![2, 1],
                pads: vec![1, 0, 2, 3],
                ..base.clone()
            },
            Case {
                groups: 2,
                inputs: 4,
                outputs: 6,
                kernel: vec![1, 3],
                pads: vec![0, 1, 0, 1],
                ..base.clone()
            },
            Case {
                input: vec![17],
                kernel: vec![5],
                strides: vec![2],
                dilations: vec![1],
                pads: vec![2, 1],
                ..base
            },
            Case::square(1, 1, 20, 70, 10, 3),
            Case::square(2, 1, 8, 12, 8, 1),
            Case::square(2, 3, 5, 7, 3, 1),
            Case {
                strides: vec![2, 2],
                ..Case::square(1, 1, 16, 32, 8, 1)
            },
            Case::square(2, 6, 1, 1, 7, 3),
            Case {
                strides: vec![2, 1],
                ..Case::square(1, 4, 1, 2, 7, 5)
            },
        ]
    }

    /// `value * 2 + index`.
    fn epilogue() -> Epilogue {
        let functions = "fn epilogue(value: f32, index: u32) -> f32 { return value * 2.0 + f32(index); }".into();
        Epilogue {
            functions,
            ..Epilogue::default()
        }
    }

    #[test]
    fn conv_matches_its_reference_in_every_variant() {
        let Some(device) = testing::device() else { return };
        let mut random = Random(20);
        for case in cases() {
            let (input, output) = (count(&case.input), count(&case.output()));
            let taps = count(&case.kernel);
            let Case {
                images,
                groups,
                inputs,
                outputs,
                ..
            } = case;
            let x = random.floats(images * groups * inputs * input);
            let w = testing::halves(random.floats(groups * outputs * inputs * taps));
            let bias = random.floats(groups * outputs);
            let mut expected = vec![0.0f64; images * groups * outputs * output];
            for (at, value) in expected.iter_mut().enumerate() {
                *value = f64::from(bias[at / output % (groups * outputs)]);
            }
            for image in 0..images * groups {
                for (o, i) in (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))) {
                    let (from, to) = ((image * inputs + i) * input, (image * outputs + o) * output);
                    let weights = ((image % groups * outputs + o) * inputs + i) * taps;
                    case.taps(&case.input, &case.output(), |place, at, tap| {
                        expected[to + at] += f64::from(x[from + place]) * f64::from(w[weights + tap]);
                    });
                }
            }
            let expected: Vec<f32> = expected
                .iter()
                .enumerate()
                .map(|(at, value)| (value * 2.0 + at as f64) as f32)
                .collect();
            let x_shape = [vec![images, groups * inputs], case.input.clone()].concat();
            let w_shape = [vec![groups * outputs, inputs], case.kernel.clone()].concat();
            let output_shape = [vec![images, groups * outputs], case.output()].concat();
            let bias_shape = [groups * outputs];
            let [single, half] = testing::in_both_precisions(&w_shape, &w);
            for (caps, constant) in testing::both_kinds()
                .into_iter()
                .flat_map(|caps| [None, Some(&single), Some(&half)].map(|constant| (caps.clone(), constant)))
            {
                let weights = match constant {
                    Some(tensor) => Operand::constant(&w_shape, 1, Constant { source: 3, tensor }),
                    None => Operand::input(&w_shape, 1),
                };
                let (x_operand, bias_operand) = (Operand::input(&x_shape, 0), Operand::input(&bias_shape, 2));
                let kernel = conv(
                    &x_operand,
                    &weights,
                    Some(&bias_operand),
                    groups,
                    &case.window(),
                    &output_shape,
                    Some(&epilogue()),
                    &caps,
                )
                .unwrap();
                kernel.dispatches.iter().for_each(testing::validate);
                let inputs = [Data::F32(x.clone()), Data::F32(w.clone()), Data::F32(bias.clone())];
                let found = testing::run(&device, kernel, &inputs, &[(GpuType::F32, expected.len())]).unwrap();
                let what = format!("{case:?}, constant {constant:?}, {:?}", caps.kind);
                testing::assert_close(found[0].f32s(), &expected, 1e-5, &what);
            }
        }
    }

    #[test]
    fn convolutions_avoid_workgroup_memory_on_software_and_with_few_channels() {
        for (caps, outputs) in testing::both_kinds()
            .into_iter()
            .flat_map(|caps| [1, 16].map(|outputs| (caps.clone(), outputs)))
        {
            let (x_shape, w_shape) = ([1, 1, 5, 5], [outputs, 1, 3, 3]);
            let window = Window {
                kernel: &[3, 3],
                strides: &[1, 1],
                dilations: &[1, 1],
                pads: &[1; 4],
            };
            let (x, w) = (Operand::input(&x_shape, 0), Operand::input(&w_shape, 1));
            let kernel = conv(&x, &w, None, 1, &window, &[1, outputs, 5, 5], None, &caps).unwrap();
            let shares = kernel.dispatches[0].shader.wgsl.contains("var<workgroup>");
            assert_eq!(shares, caps.kind == AdapterKind::Hardware && outputs == 16);
        }
    }

    #[test]
    fn transposed_conv_matches_its_reference() {
        let Some(device) = testing::device() else { return };
        let mut random = Random(21);
        for mut case in cases() {
            case.pads.iter_mut().for_each(|pad| *pad = (*pad).min(1));
            let (input, output) = (count(&case.input), count(&case.transposed_output()));
            let taps = count(&case.kernel);
            let Case {
                images,
                groups,
                inputs,
                outputs,
                ..
            } = case;
            let x = random.floats(images * groups * inputs * input);
            let w = random.floats(groups * inputs * outputs * taps);
            let mut expected = vec![0.0f32; images * groups * outputs * output];
            for image in 0..images * groups {
                for (o, i) in (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))) {
                    let (from, to) = ((image * inputs + i) * input, (image * outputs + o) * output);
                    let weights = ((image % groups * inputs + i) * outputs + o) * taps;
                    // The gradient's view: what the output would read from the input in a convolution, it receives.
                    case.taps(&case.transposed_output(), &case.input, |place, at, tap| {
                        expected[to + place] += x[from + at] * w[weights + tap];
                    });
                }
            }
            let x_shape = [vec![images, groups * inputs], case.input.clone()].concat();
            let w_shape = [vec![groups * inputs, outputs], case.kernel.clone()].concat();
            let output_shape = [vec![images, groups * outputs], case.transposed_output()].concat();
            let caps = &testing::both_kinds()[0];
            let (x_operand, w_operand) = (Operand::input(&x_shape, 0), Operand::input(&w_shape, 1));
            let kernel = conv_transpose(
                &x_operand,
                &w_operand,
                None,
                groups,
                &case.window(),
                &output_shape,
                None,
                caps,
            )
            .unwrap();
            kernel.dispatches.iter().for_each(testing::validate);
            let inputs = [Data::F32(x), Data::F32(w)];
            let found = testing::run(&device, kernel, &inputs, &[(GpuType::F32, expected.len())]).unwrap();
            testing::assert_close(found[0].f32s(), &expected, 1e-4, &format!("{case:?}"));
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let caps = &testing::both_kinds()[0];
        let case = Case::square(1, 1, 4, 4, 8, 3);
        let window = case.window();
        let x = Operand::input(&[1, 4, 8, 9], 0);
        let conv_with = |w: &[usize], groups| {
            conv(
                &x,
                &Operand::input(w, 1),
                None,
                groups,
                &window,
                &[1, 4, 8, 9],
                None,
                caps,
            )
            .is_some()
        };
        assert!(conv_with(&[4, 4, 3, 3], 1));
        assert!(!conv_with(&[4, 3, 3, 3], 1));
        assert!(!conv_with(&[4, 4, 3, 3], 0));
        assert!(!conv_with(&[4, 4, 5, 3], 1));
        let strides = [usize::MAX, 1];
        let window = Window {
            strides: &strides,
            ..case.window()
        };
        assert!(Window2d::new(&window, &[8, 9], &[8, 9]).is_none());
        assert!(Window2d::new(&case.window(), &[8, 9, 9], &[8, 9, 9]).is_none());
    }

    #[test]
    fn texts_match_their_snapshots() {
        for caps in testing::both_kinds() {
            let kind = if caps.kind == AdapterKind::Hardware {
                "hardware"
            } else {
                "software"
            };
            for (name, case) in [
                ("conv_3x3", Case::square(1, 1, 20, 70, 10, 3)),
                ("conv_depthwise", Case::square(2, 6, 1, 1, 7, 3)),
            ] {
                let Case {
                    images,
                    groups,
                    inputs,
                    outputs,
                    ..
                } = case;
                let x_shape = [vec![images, groups * inputs], case.input.clone()].concat();
                let w_shape = [vec![groups * outputs, inputs], case.kernel.clone()].concat();
                let output_shape = [vec![images, groups * outputs], case.output()].concat();
                let tensor = Tensor::zeros(crate::tensor::DType::F32, &w_shape).unwrap();
                let weights = Operand::constant(
                    &w_shape,
                    1,
                    Constant {
                        source: 3,
                        tensor: &tensor,
                    },
                );
                let x = Operand::input(&x_shape, 0);
                let kernel = conv(&x, &weights, None, groups, &case.window(), &output_shape, None, &caps).unwrap();
                testing::assert_snapshot(&format!("{name}_{kind}"), &kernel);
            }
        }
    }
}
