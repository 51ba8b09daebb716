//! The discrete Fourier transform, by its definition: lengths that this costs too much for stay on the CPU.

use std::sync::Arc;

use super::super::kernel::{Binding, ConstantData, ConstantKey, GpuCaps, GpuKernel, GpuType};
use super::super::wgsl::shader_text;
use super::{elements, flat, flat_kernel};
use crate::tensor::Bytes;

const FOURIER: &str = shader_text!("../../../shaders/fourier.wgsl");

/// Products per output beyond which the fast transform of the CPU is the better one; their indices also stay small.
const MAX_LENGTH: usize = 4096;

/// A transform of lines along the middle of `[outer, size, inner, parts]`.
#[derive(Debug, Clone, Copy)]
pub struct Transform {
    pub outer: usize,
    pub size: usize,
    pub inner: usize,
    /// 1 for real numbers, 2 for complex ones.
    pub parts: usize,
    /// Elements that are transformed; a shorter line is filled with zeros.
    pub length: usize,
    /// Elements that are made.
    pub made: usize,
    pub inverse: bool,
    /// Whether the input is the first half of a transform of real numbers, and real numbers are made.
    pub half: bool,
}

/// The kernel for f32 input 0.
pub fn dft(t: Transform, caps: &GpuCaps) -> Option<GpuKernel> {
    elements(&[t.outer, t.size, t.inner, t.parts], caps)?;
    let count = elements(&[t.outer, t.made, t.inner], caps)?;
    elements(&[count, 2], caps)?;
    if !(1..=2).contains(&t.parts) || t.length == 0 || t.length > MAX_LENGTH {
        return None;
    }
    let length = t.length;
    let key = ConstantKey {
        source: 0,
        layout: format!("turns:{length}"),
    };
    let turns = move || {
        let angles = (0..length).map(|k| std::f64::consts::TAU * k as f64 / length as f64);
        let turns = angles.flat_map(|angle| [angle.cos() as f32, angle.sin() as f32]);
        Ok(Bytes::from_f32s(turns.collect()))
    };
    let turns = ConstantData::new(key, 2 * length as u64 * GpuType::SIZE, Box::new(turns));
    let given = if t.half { length / 2 + 1 } else { length };
    let dispatch = flat("fourier", FOURIER)
        .define("P", t.parts)
        .flag("COMPLEX", t.parts == 2)
        .flag("INVERSE", t.inverse)
        .flag("HALF", t.half)
        .storage("input", "f32", Binding::Input(0))
        .storage("turns", "f32", Binding::Constant(Arc::new(turns)))
        .storage("output", "f32", Binding::Output(0))
        .param("inner", t.inner as u32)
        .param("size", t.size as u32)
        .param("given", given.min(t.size) as u32)
        .param("made", t.made as u32)
        .param("length", length as u32);
    flat_kernel(dispatch, count, caps)
}
