//! Waiting for a buffer to be mapped: by polling natively, by the event loop in a browser.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use super::device::GpuDevice;
use super::kernel::GpuType;
use crate::error::{Error, ErrorCode, Result};

#[derive(Default)]
struct Mapping {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

/// Maps the first `bytes` bytes of `buffer` for reading once all submitted work is done.
pub(super) async fn map(device: &GpuDevice, buffer: &wgpu::Buffer, bytes: u64) -> Result<()> {
    // wgpu wants a `Send` callback natively; nothing here leaves the thread.
    let mapping = Arc::new(Mutex::new(Mapping::default()));
    let on_mapped = Arc::clone(&mapping);
    buffer.slice(0..bytes).map_async(wgpu::MapMode::Read, move |result| {
        let mut mapping = on_mapped.lock().unwrap_or_else(PoisonError::into_inner);
        mapping.result = Some(result);
        if let Some(waker) = mapping.waker.take() {
            waker.wake();
        }
    });
    wait_for_device(device)?;
    let result = poll_fn(|context| {
        let mut mapping = mapping.lock().unwrap_or_else(PoisonError::into_inner);
        match mapping.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                mapping.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    })
    .await;
    // Nothing but a loss keeps a valid buffer from being mapped, and the loss itself may be told later than this.
    result.map_err(|_| {
        let lost = || {
            Error::new(
                ErrorCode::DeviceLost,
                "the GPU device was lost: a buffer could not be mapped",
            )
        };
        device.check().err().unwrap_or_else(lost)
    })
}

/// The elements of a value that lies at `offset` of a mapped buffer, as a CPU tensor holds them.
pub(super) fn read(staging: &wgpu::Buffer, offset: u64, ty: GpuType, elements: usize) -> Result<Vec<u8>> {
    if elements == 0 {
        return Ok(Vec::new());
    }
    let view = staging
        .get_mapped_range(offset..offset + elements as u64 * GpuType::SIZE)
        .map_err(|error| Error::new(ErrorCode::Device, format!("a GPU buffer could not be read: {error}")))?;
    Ok(ty.to_elements(&view))
}

#[cfg(target_arch = "wasm32")]
fn wait_for_device(_: &GpuDevice) -> Result<()> {
    Ok(())
}

#[cfg(not(target_arch = "wasm32"))]
fn wait_for_device(device: &GpuDevice) -> Result<()> {
    match device.device.poll(wgpu::PollType::wait_indefinitely()) {
        Ok(_) => Ok(()),
        Err(error) => {
            device.check()?;
            Err(Error::new(
                ErrorCode::Device,
                format!("waiting for the GPU failed: {error}"),
            ))
        }
    }
}
