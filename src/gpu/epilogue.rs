//! What a heavy kernel still does to each result before it stores it: bias, activation and residual, as WGSL.

use super::kernel::Binding;
use super::wgsl::DispatchBuilder;

/// WGSL that finishes each element of a kernel's output, with the buffers and parameters it reads.
///
/// `functions` defines `fn epilogue(value: f32, index: u32) -> f32`, where `index` is the element's position in the
/// row-major output. It may read the storage bindings and parameters declared here, whose names must not be those of a
/// kernel; a common prefix keeps them apart.
#[derive(Debug, Clone, Default)]
pub struct Epilogue {
    pub functions: String,
    /// Name, WGSL element type and buffer.
    pub storages: Vec<(String, String, Binding)>,
    /// Name, WGSL type (`u32`, `i32` or `f32`) and bits.
    pub params: Vec<(String, &'static str, u32)>,
}

/// The same for four consecutive elements, of which kernels may compute one that is not stored.
const VECTOR: &str = "
//: if FOUR
fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32> {
    return vec4<f32>(
        epilogue(value.x, index),
        epilogue(value.y, index + 1u),
        epilogue(value.z, index + 2u),
        epilogue(value.w, index + 3u),
    );
}
//: end";

impl DispatchBuilder {
    /// Adds an epilogue, for vectors too where the flag `FOUR` is set, and sets the flag `EPILOGUE`; nothing without one.
    pub fn epilogue(mut self, epilogue: Option<&Epilogue>) -> DispatchBuilder {
        let Some(epilogue) = epilogue else { return self };
        for (name, element, binding) in &epilogue.storages {
            self = self.storage(name.clone(), element.clone(), binding.clone());
        }
        for (name, ty, bits) in &epilogue.params {
            self = self.param_bits(name.clone(), ty, *bits);
        }
        self.flag("EPILOGUE", true)
            .functions(&epilogue.functions)
            .functions(VECTOR)
    }
}
