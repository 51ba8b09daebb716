//! Element-wise work that is no [`crate::pointwise::Expr`]: integers, and elements that are only moved. The value is a
//! WGSL expression over `x0`, `x1`, …, the elements of the inputs.

use std::fmt::Write;

use super::super::kernel::{Binding, GpuCaps, GpuKernel, GpuType};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::{elements, flat, flat_kernel};
use crate::pointwise::{Access, collapse};

const ELEMENTWISE: &str = shader_text!("../../../shaders/elementwise.wgsl");

/// An input that broadcasts to the output, and the WGSL type of its elements.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    pub index: usize,
    pub ty: &'a str,
    pub shape: &'a [usize],
}

/// The kernel for output 0 of type `output`. `prepare` sets the flags and definitions of helper functions.
pub fn kernel(
    value: &str,
    inputs: &[Input<'_>],
    output: &str,
    shape: &[usize],
    prepare: impl FnOnce(DispatchBuilder) -> DispatchBuilder,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let count = elements(shape, caps)?;
    if count == 0 {
        return Some(GpuKernel::default());
    }
    let mut dispatch = prepare(flat("elementwise", ELEMENTWISE));
    let mut loads = String::new();
    for (number, input) in inputs.iter().enumerate() {
        elements(input.shape, caps)?;
        let mut space = collapse(shape, &[input.shape]).ok()?;
        let offset = match space.inputs.pop()? {
            Access::Contiguous => "index".to_owned(),
            Access::Scalar => "0u".to_owned(),
            Access::Strided(strides) => {
                let (mut text, mut divisor) = (String::new(), 1);
                for (axis, (&dim, &stride)) in space.dims.iter().zip(&strides).enumerate().rev() {
                    let name = |what: &str| format!("{what}{number}_{axis}");
                    let plus = if text.is_empty() { "" } else { " + " };
                    let [d, n, s] = ["divisor", "dim", "stride"].map(name);
                    let _ = write!(text, "{plus}index / params.{d} % params.{n} * params.{s}");
                    dispatch = dispatch
                        .param(d, divisor as u32)
                        .param(n, dim as u32)
                        .param(s, stride as u32);
                    divisor *= dim;
                }
                text
            }
        };
        let _ = writeln!(loads, "    let x{number} = in{number}[{offset}];");
        dispatch = dispatch.storage(format!("in{number}"), input.ty, Binding::Input(input.index));
    }
    let dispatch = dispatch
        .define("LOADS", loads.trim_end())
        .define("VALUE", value)
        .storage("output", output, Binding::Output(0));
    flat_kernel(dispatch, count, caps)
}

/// The 32-bit integer type that stands for `ty` in arithmetic; `None` for other types.
pub fn integer(ty: Option<GpuType>) -> Option<&'static str> {
    match ty? {
        ty @ (GpuType::I32 | GpuType::U32) => Some(ty.wgsl()),
        _ => None,
    }
}
