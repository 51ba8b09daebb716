//! Bytes of a model that stay in JavaScript: from there they go to the GPU, and to wasm memory only when something here
//! reads them.

use std::{
    any::Any,
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use js_sys::Uint8Array;

use super::device::GpuDevice;
use crate::{
    error::{Error, Result},
    tensor::{Bytes, Source},
};

thread_local! {
    /// The arrays by number: JavaScript's objects belong to their thread, tensors to any.
    static ARRAYS: RefCell<Vec<(u32, Uint8Array)>> = RefCell::default();
}

/// An array of JavaScript, by its number.
struct Outside(u32);

impl Outside {
    fn array(&self) -> Result<Uint8Array> {
        let array = ARRAYS.with(|arrays| {
            let arrays = arrays.borrow();
            arrays
                .iter()
                .find(|(id, _)| *id == self.0)
                .map(|(_, array)| array.clone())
        });
        array.ok_or_else(|| Error::internal("bytes in JavaScript belong to another thread"))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Nothing is left to clean when the thread itself ends.
        let _ = ARRAYS.try_with(|arrays| arrays.borrow_mut().retain(|(id, _)| *id != self.0));
    }
}

impl Source for Outside {
    fn read(&self, start: usize, target: &mut [u8]) -> Result<()> {
        let part = self.array()?.subarray(start as u32, (start + target.len()) as u32);
        if part.length() as usize != target.len() {
            return Err(Error::internal("bytes in JavaScript are fewer than they were"));
        }
        part.copy_to(target);
        Ok(())
    }
}

/// The bytes of an array, which stay there. Nobody may write to it any more.
pub(crate) fn outside(array: Uint8Array) -> Bytes {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (id, length) = (NEXT.fetch_add(1, Ordering::Relaxed), array.length() as usize);
    ARRAYS.with(|arrays| arrays.borrow_mut().push((id, array)));
    Bytes::deferred(Arc::new(Outside(id)), 0, length)
}

impl GpuDevice {
    /// Writes bytes that are in JavaScript to a buffer; whether they are.
    pub(super) fn write_from_outside(&self, buffer: &wgpu::Buffer, bytes: &Bytes) -> Result<bool> {
        let Some((source, start)) = bytes.source() else {
            return Ok(false);
        };
        let Some(outside) = (source as &dyn Any).downcast_ref::<Outside>() else {
            return Ok(false);
        };
        let part = outside.array()?.subarray(start as u32, (start + bytes.len()) as u32);
        // The browser's own queue is asked, as wgpu writes only from wasm memory.
        let (Some(queue), Some(buffer)) = (self.queue.as_webgpu(), buffer.as_webgpu()) else {
            return Ok(false);
        };
        let write = js_sys::Reflect::get(queue, &"writeBuffer".into()).unwrap_or_default();
        let write: js_sys::Function = write.into();
        let written = write.call3(queue, buffer, &0.into(), &part);
        written
            .map(|_| true)
            .map_err(|_| Error::internal("a GPU buffer could not be written"))
    }
}
