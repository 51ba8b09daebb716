//! What stands in for a device in builds without the feature `gpu`: there is none, so nothing is done with it.

#[cfg(target_arch = "wasm32")]
use crate::{
    error::Result,
    tensor::{DType, Tensor},
};

/// No device.
#[derive(Debug)]
pub enum GpuDevice {}

#[cfg(target_arch = "wasm32")]
impl GpuDevice {
    /// Forgets a tensor.
    pub fn free(&self, _: &Tensor) -> Option<()> {
        match *self {}
    }

    pub(crate) fn to_js(&self) -> wasm_bindgen::JsValue {
        match *self {}
    }

    pub(crate) fn import(&self, _: wasm_bindgen::JsValue, _: DType, _: &[usize]) -> Result<Tensor> {
        match *self {}
    }

    pub(crate) fn export(&self, _: &Tensor) -> Option<wasm_bindgen::JsValue> {
        match *self {}
    }
}
