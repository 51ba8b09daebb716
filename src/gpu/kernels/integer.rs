//! Products and convolutions of 8-bit integers, which take a word each on the GPU, with exact sums; and the quantisation
//! of a tensor by its own range.

use super::super::epilogue::Epilogue;
use super::super::kernel::{Access, Binding, GpuCaps, GpuKernel, GpuType};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::conv::Window;
use super::volume::{self, VOLUME};
use super::{elements, finish_flat, flat, flat_kernel};

const MATMUL: &str = shader_text!("../../../shaders/integer_matmul.wgsl");
const STORE: &str = shader_text!("../../../shaders/integer_store.wgsl");
const DIVIDE: &str = shader_text!("../../../shaders/divide.wgsl");
const DYNAMIC: &str = shader_text!("../../../shaders/dynamic_quantize.wgsl");

/// One number, or one for each channel, of an input.
#[derive(Debug, Clone)]
pub struct Per {
    pub binding: Binding,
    pub count: usize,
}

/// The factors and what is done with their sums. Sums are stored as i32 without a scale, as f32 with one, and as integers
/// of 8 bits with a scale of the result.
#[derive(Debug, Clone)]
pub struct Sums<'a> {
    /// Types of x, w and the output.
    pub types: [GpuType; 3],
    pub x_zeros: Option<Per>,
    pub w_zeros: Option<Per>,
    /// Added to the sums.
    pub bias: Option<Per>,
    pub scale: Option<Per>,
    /// Added to the scaled sums, one for each channel.
    pub added: Option<Binding>,
    pub epilogue: Option<&'a Epilogue>,
    /// Scale and zero point of the result.
    pub result: Option<(Binding, Option<Binding>)>,
}

impl Sums<'_> {
    /// The dispatch of `template`, whose factors are bound as named.
    pub(super) fn bind(
        &self,
        label: &'static str,
        template: &str,
        factors: [(&'static str, &'static str, Binding); 2],
    ) -> DispatchBuilder {
        let [x_type, w_type, y_type] = self.types;
        let (low, high) = match y_type {
            GpuType::I8 => ("-128.0", "127.0"),
            _ => ("0.0", "255.0"),
        };
        let mut dispatch = flat(label, STORE)
            .functions(template)
            .define("Y", y_type.wgsl())
            .define("LOW", low)
            .define("HIGH", high)
            .flag("INTEGER", true)
            .storage("output", y_type.wgsl(), Binding::Output(0));
        for (name, ty, binding) in factors {
            dispatch = dispatch.storage(name, ty, binding);
        }
        if let Some(zeros) = &self.x_zeros {
            dispatch = dispatch
                .flag("XZERO", true)
                .storage("x_zeros", x_type.wgsl(), zeros.binding.clone())
                .param("x_zero_count", zeros.count as u32);
        }
        if let Some(zeros) = &self.w_zeros {
            dispatch = dispatch
                .flag("WZERO", true)
                .storage("w_zeros", w_type.wgsl(), zeros.binding.clone())
                .param("w_zero_count", zeros.count as u32);
        }
        if let Some(bias) = &self.bias {
            dispatch = dispatch
                .flag("SUMBIAS", true)
                .storage("sum_bias", "i32", bias.binding.clone())
                .param("sum_biases", bias.count as u32);
        }
        if let Some(scale) = &self.scale {
            dispatch = dispatch
                .flag("SCALED", true)
                .storage("scales", "f32", scale.binding.clone())
                .param("scales", scale.count as u32);
        }
        if let Some(added) = &self.added {
            dispatch = dispatch.flag("ADDED", true).storage("added", "f32", added.clone());
        }
        if let Some((scale, zero)) = &self.result {
            dispatch = with_division(dispatch)
                .flag("QUANTIZED", true)
                .storage("y_scale", "f32", scale.clone());
            if let Some(zero) = zero {
                dispatch = dispatch
                    .flag("YZERO", true)
                    .storage("y_zero", y_type.wgsl(), zero.clone());
            }
        }
        dispatch.epilogue(self.epilogue)
    }

    /// The factors as they lie in the node's inputs, a word for each integer.
    fn plain(&self, x: &'static str) -> [(&'static str, &'static str, Binding); 2] {
        let [x_type, w_type, _] = self.types.map(GpuType::wgsl);
        [(x, x_type, Binding::Input(0)), ("weights", w_type, Binding::Input(1))]
    }
}

/// The product of `batches` times `rows` rows by `depth` with matrices `[depth, columns]`, one for all or one for each batch.
pub fn matmul(
    sums: &Sums,
    [batches, rows, depth, columns]: [usize; 4],
    one_matrix: bool,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    elements(&[batches, rows, depth], caps)?;
    elements(&[if one_matrix { 1 } else { batches }, depth, columns], caps)?;
    let count = elements(&[batches, rows, columns], caps)?;
    let dispatch = sums
        .bind("integer_matmul", MATMUL, sums.plain("x"))
        .param("rows", rows.max(1) as u32)
        .param("depth", depth as u32)
        .param("columns", columns as u32)
        .param("w_step", if one_matrix { 0 } else { depth * columns } as u32);
    flat_kernel(dispatch, count, caps)
}

/// The convolution of `[images, channels, spatial…]`.
pub fn conv(
    sums: &Sums,
    [x, w, y]: [&[usize]; 3],
    groups: usize,
    window: &Window,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    elements(x, caps)?;
    elements(w, caps)?;
    let count = elements(y, caps)?;
    let ([_, channels_in, input @ ..], [_, channels, output @ ..]) = (x, y) else {
        return None;
    };
    let groups = groups.max(1);
    let (group_in, group_out) = (channels_in / groups, channels / groups);
    if w.get(..2)? != [*channels, group_in] || group_out == 0 {
        return None;
    }
    let dispatch = sums
        .bind("integer_conv", VOLUME, sums.plain("input"))
        .flag("CONV", true)
        .param("channels", *channels as u32)
        .param("channels_in", *channels_in as u32)
        .param("group_in", group_in as u32)
        .param("group_out", group_out as u32);
    flat_kernel(volume::bind(dispatch, window, input, output)?, count, caps)
}

/// The same with `divided(x, by)`, which is right to the last bit.
pub fn with_division(dispatch: DispatchBuilder) -> DispatchBuilder {
    dispatch.functions(DIVIDE)
}

/// Parts of which the range is looked for apart.
const PARTS: usize = 256;

/// DynamicQuantizeLinear (opset 11) of f32 input 0; `wanted` are the bytes, the scale and the zero point.
pub fn dynamic_quantize(count: usize, wanted: [bool; 3], caps: &GpuCaps) -> Option<GpuKernel> {
    elements(&[count], caps)?;
    if count == 0 {
        return None;
    }
    let input = |dispatch: DispatchBuilder| dispatch.storage("input", "f32", Binding::Input(0));
    let size = |dispatch: DispatchBuilder| dispatch.param("size", count as u32);
    let parts = size(input(flat("dynamic_quantize", DYNAMIC).flag("PARTS", true)))
        .define("COUNT", PARTS)
        .storage("ranges", "vec2<f32>", Binding::Scratch(0, Access::ReadWrite));
    let mut whole = with_division(flat("dynamic_quantize", DYNAMIC))
        .flag("WHOLE", true)
        .define("COUNT", PARTS)
        .storage("ranges", "vec2<f32>", Binding::Scratch(0, Access::Read))
        .storage("found", "f32", Binding::Scratch(1, Access::ReadWrite));
    if wanted[1] {
        whole = whole.flag("SCALE", true).storage("scale", "f32", Binding::Output(1));
    }
    if wanted[2] {
        whole = whole
            .flag("ZERO", true)
            .storage("zero_point", "u32", Binding::Output(2));
    }
    let mut dispatches = vec![finish_flat(parts, PARTS, caps)?, finish_flat(whole, 1, caps)?];
    if wanted[0] {
        let bytes = input(with_division(flat("dynamic_quantize", DYNAMIC)).flag("BYTES", true))
            .storage("found", "f32", Binding::Scratch(1, Access::Read))
            .storage("output", "u32", Binding::Output(0));
        dispatches.push(finish_flat(bytes, count, caps)?);
    }
    Some(GpuKernel {
        dispatches,
        scratch: vec![2 * PARTS as u64 * GpuType::SIZE, 2 * GpuType::SIZE],
        ..GpuKernel::default()
    })
}
