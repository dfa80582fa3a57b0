//! Downloads into pinned memory: the GPU writes there by itself while the host goes on.

use super::answer::check;
use super::api;
use super::device::Address;
use crate::backend::{Result, device_error};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

/// Bytes of the smallest block.
const LEAST: usize = 4096;

/// Pinned memory that downloads are written to.
#[derive(Default)]
pub(super) struct PinnedDownloads {
    coming: HashMap<u64, Block>,
    free: Vec<Block>,
    next: u64,
}

struct Block {
    memory: *mut c_void,
    size: usize,
    /// Bytes that the copies fill.
    used: usize,
    copied: sys::CUevent,
}

// SAFETY: handles of the driver and pinned memory, which belong to no thread.
unsafe impl Send for PinnedDownloads {}

impl PinnedDownloads {
    /// Puts copies of `parts`, one after the other, on the stream, whose context is current. Returns what
    /// [`PinnedDownloads::collect`] knows them by.
    pub fn fetch(&mut self, parts: &[(Address, usize)], stream: sys::CUstream) -> Result<u64> {
        let bytes = parts.iter().map(|(_, bytes)| bytes).sum();
        let mut block = self.block(bytes)?;
        block.used = 0;
        let mut copied = Ok(());
        for &(from, bytes) in parts.iter().filter(|(_, bytes)| *bytes > 0) {
            // SAFETY: the block has room for all parts, and nobody reads it before its event.
            copied = copied.and_then(|()| unsafe {
                let room = block.memory.cast::<u8>().add(block.used);
                api::download(room.cast(), from, bytes, stream)
            });
            block.used += bytes;
        }
        // SAFETY: event and stream are alive.
        let recorded = copied.and_then(|()| unsafe { api::event_record(block.copied, stream) });
        // Also after a failure: an earlier copy may still be running, and `close` waits for all.
        let ticket = self.next;
        self.next += 1;
        self.coming.insert(ticket, block);
        check("fetch", recorded)?;
        Ok(ticket)
    }

    /// Waits for the copies of `ticket` and hands out their bytes, once.
    pub fn collect(&mut self, ticket: u64) -> Result<Vec<u8>> {
        let Some(block) = self.coming.get(&ticket) else {
            return device_error(super::NAME, format!("nothing was fetched as {ticket}"));
        };
        // SAFETY: recorded after the copies.
        check("fetch", unsafe { api::event_synchronize(block.copied) })?;
        // SAFETY: pinned memory of at least `used` bytes, which the copies have written.
        let bytes = unsafe { std::slice::from_raw_parts(block.memory.cast(), block.used) }.to_vec();
        self.free.extend(self.coming.remove(&ticket));
        Ok(bytes)
    }

    /// A block of at least `bytes` bytes that no copy writes to.
    fn block(&mut self, bytes: usize) -> Result<Block> {
        if let Some(at) = self.free.iter().position(|b| b.size >= bytes) {
            return Ok(self.free.swap_remove(at));
        }
        let copied = api::event(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        let size = bytes.max(LEAST).next_power_of_two();
        // SAFETY: freed by `close`.
        let memory = api::written(ptr::null_mut(), |at| unsafe {
            api::pinned_allocate(at, size, 0)
        });
        let memory = check("pinned memory for downloads", memory).inspect_err(|_| {
            // SAFETY: created above and used by nobody.
            let _ = unsafe { api::event_destroy(copied) };
        })?;
        Ok(Block {
            memory,
            size,
            used: 0,
            copied,
        })
    }

    /// Frees everything; no copy may be running any more.
    pub fn close(&mut self) {
        let coming = self.coming.drain().map(|(_, block)| block);
        for block in coming.chain(self.free.drain(..)) {
            // SAFETY: made by `block`; the stream has been waited for.
            unsafe {
                let _ = api::event_destroy(block.copied);
                let _ = api::pinned_free(block.memory);
            }
        }
    }
}
