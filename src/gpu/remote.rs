//! Tensors in GPU memory: what a run leaves there and takes from there. A [`Tensor`] names one by a number, which no other
//! device knows; the memory is held until [`GpuDevice::free`].

use std::sync::atomic::{AtomicU64, Ordering};

use super::buffers::value_bytes;
use super::device::{GpuDevice, PendingErrors};
use super::executor::{GpuExecutor, copy, is_same, staging_buffer, storage_buffer};
use super::kernel::GpuType;
use super::program::GpuValueId;
use super::readback;
use crate::error::{Error, ErrorCode, Result};
use crate::tensor::{DType, Tensor};

/// Counts tensors over all devices of all threads, so that a lost device's are not taken for another's.
static NEXT: AtomicU64 = AtomicU64::new(1);

fn type_of(tensor: &Tensor) -> Result<GpuType> {
    let ty = GpuType::from_dtype(tensor.dtype());
    ty.ok_or_else(|| {
        Error::new(
            ErrorCode::WrongType,
            format!("the GPU does not hold {} tensors", tensor.dtype()),
        )
    })
}

impl GpuDevice {
    /// A tensor over a buffer of this device, four bytes per element. It is shared, not copied.
    pub(crate) fn adopt(&self, buffer: wgpu::Buffer, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let tensor = Tensor::remote(dtype, shape, NEXT.fetch_add(1, Ordering::Relaxed));
        type_of(&tensor)?;
        self.remote
            .borrow_mut()
            .insert(tensor.remote_id().unwrap_or_default(), buffer);
        Ok(tensor)
    }

    /// The buffer of a tensor of this device.
    ///
    /// Fails with `invalid-argument` when the tensor was freed, or is another device's.
    pub(crate) fn buffer(&self, tensor: &Tensor) -> Result<wgpu::Buffer> {
        let buffer = tensor.remote_id().and_then(|id| self.remote.borrow().get(&id).cloned());
        buffer.ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidArgument,
                "the tensor is not in the memory of the session's GPU device: it was released, or lost with another device",
            )
        })
    }

    /// Whether two tensors of this device have the same memory.
    pub(crate) fn overlap(&self, a: &Tensor, b: &Tensor) -> bool {
        let remote = self.remote.borrow();
        let buffer = |tensor: &Tensor| remote.get(&tensor.remote_id()?);
        matches!((buffer(a), buffer(b)), (Some(a), Some(b)) if is_same(a, b))
    }

    /// Forgets a tensor. Its memory goes when no work needs it any more.
    pub fn free(&self, tensor: &Tensor) -> Option<wgpu::Buffer> {
        self.remote.borrow_mut().remove(&tensor.remote_id()?)
    }

    /// A copy of a tensor in GPU memory.
    ///
    /// Fails with `wrong-type` for element types that the GPU does not hold.
    pub fn store(&self, tensor: &Tensor) -> Result<Tensor> {
        let ty = type_of(tensor)?;
        let buffer = storage_buffer(self, value_bytes(tensor.len()), "tensor");
        if !tensor.is_empty() {
            self.queue.write_buffer(&buffer, 0, &ty.to_words(tensor.bytes()));
        }
        self.adopt(buffer, tensor.dtype(), tensor.shape())
    }

    /// A tensor of this device with its elements on the CPU.
    pub async fn fetch(&self, tensor: &Tensor) -> Result<Tensor> {
        let (ty, buffer) = (type_of(tensor)?, self.buffer(tensor)?);
        self.check()?;
        let mut pending = PendingErrors::new();
        let bytes = value_bytes(tensor.len());
        let staging = self.scoped(&mut pending, || {
            let staging = staging_buffer(self, bytes);
            let mut encoder = self.device.create_command_encoder(&Default::default());
            copy(&mut encoder, &buffer, (&staging, 0), tensor.len());
            self.queue.submit([encoder.finish()]);
            staging
        });
        let mapped = readback::map(self, &staging, bytes).await;
        self.settle(&mut pending, "reading a tensor").await?;
        mapped?;
        let bytes = readback::read(&staging, 0, ty, tensor.len())?;
        Tensor::from_bytes(tensor.dtype(), tensor.shape(), bytes)
    }
}

impl GpuExecutor {
    /// Fills a value from a tensor of the device, after everything encoded before.
    pub fn take(&mut self, value: GpuValueId, tensor: &Tensor) -> Result<()> {
        let buffer = self.device().buffer(tensor)?;
        self.copy_in(value, &buffer);
        Ok(())
    }

    /// A value as a tensor of the device, after everything encoded before.
    pub fn keep(&mut self, value: GpuValueId, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let buffer = self.copy_out(value)?;
        self.device().adopt(buffer, dtype, shape)
    }
}

/// The way between wgpu's objects and the browser's own.
#[cfg(target_arch = "wasm32")]
impl GpuDevice {
    /// The browser's device.
    pub(crate) fn to_js(&self) -> wasm_bindgen::JsValue {
        self.device.as_webgpu().map(Into::into).unwrap_or_default()
    }

    /// A tensor over one of the browser's buffers, shared and not copied.
    ///
    /// wgpu takes in textures of others but no buffers. So the browser's device is made to answer wgpu's next wish for a
    /// buffer with this one; a `Device::create_buffer_from_webgpu_handle` would do away with this.
    pub(crate) fn import(&self, buffer: wasm_bindgen::JsValue, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let elements = crate::tensor::element_count(shape)?;
        let device: js_sys::Object = self.to_js().into();
        let name = "createBuffer".into();
        let answer = wasm_bindgen::prelude::Closure::once_into_js(move || buffer);
        // Both can only fail on what is no object.
        let _ = js_sys::Reflect::set(&device, &name, &answer);
        let buffer = storage_buffer(self, value_bytes(elements), "tensor");
        let _ = js_sys::Reflect::delete_property(&device, &name);
        self.adopt(buffer, dtype, shape)
    }

    /// The browser's buffer of a tensor, which the device then forgets.
    pub(crate) fn export(&self, tensor: &Tensor) -> Option<wasm_bindgen::JsValue> {
        self.free(tensor)?.as_webgpu().map(Into::into)
    }
}
