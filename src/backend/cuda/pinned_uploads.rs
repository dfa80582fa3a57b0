//! Uploads through pinned memory: the GPU fetches it by itself while the host goes on.
//!
//! Copies are packed one after the other into blocks. A full block waits for the event after its last copy,
//! and is then used again; the stream keeps events in order, so that the oldest block is always the first to be free.

use super::answer::check;
use super::api;
use super::device::Address;
use crate::backend::Result;
use cudarc::driver::sys;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr;

/// Bytes of a block.
const BLOCK: usize = 8 << 20;
/// Blocks in all: from then on the host waits for the oldest.
const BLOCKS: usize = 64;
/// Copies start at multiples of this many bytes.
const ALIGNMENT: usize = 64;

/// Pinned memory that uploads are read from.
#[derive(Default)]
pub(super) struct PinnedUploads {
    filling: Option<Block>,
    /// Bytes taken of `filling`.
    used: usize,
    /// Full blocks, the oldest first.
    waiting: VecDeque<Block>,
}

struct Block {
    memory: *mut c_void,
    copied: sys::CUevent,
}

// SAFETY: handles of the driver and pinned memory, which belong to no thread.
unsafe impl Send for PinnedUploads {}

impl PinnedUploads {
    /// Puts copies of `from` on the stream, whose context is current.
    pub fn upload(&mut self, to: Address, from: &[u8], stream: sys::CUstream) -> Result<()> {
        let mut done = 0;
        while done < from.len() {
            let block = match self.filling.take() {
                Some(block) if self.used < BLOCK => self.filling.insert(block),
                full => {
                    if let Some(block) = full {
                        // SAFETY: event and stream are alive.
                        let recorded = unsafe { api::event_record(block.copied, stream) };
                        self.waiting.push_back(block);
                        check("upload", recorded)?;
                    }
                    self.used = 0;
                    let block = self.next()?;
                    self.filling.insert(block)
                }
            };
            let length = (BLOCK - self.used).min(from.len() - done);
            let part = &from[done..done + length];
            // SAFETY: `used + length` ≤ BLOCK bytes of memory that no copy reads: after
            // the copies so far, in a block whose event has passed. It stays until `close`.
            let copied = unsafe {
                let room = block.memory.cast::<u8>().add(self.used);
                room.copy_from_nonoverlapping(part.as_ptr(), length);
                api::upload(to + done as Address, room.cast(), length, stream)
            };
            check("upload", copied)?;
            self.used = (self.used + length).next_multiple_of(ALIGNMENT);
            done += length;
        }
        Ok(())
    }

    /// A block that no copy reads: the oldest one if its copies are done, else a new one, or the
    /// oldest one after a wait if there are [`BLOCKS`].
    fn next(&mut self) -> Result<Block> {
        if let Some(oldest) = self.waiting.front() {
            // SAFETY: recorded when the block was full. A failure shows again at the wait or the next call.
            let done = unsafe { api::event_query(oldest.copied) }.is_ok();
            if done || self.waiting.len() >= BLOCKS {
                // SAFETY: as above.
                check("upload", unsafe { api::event_synchronize(oldest.copied) })?;
                if let Some(block) = self.waiting.pop_front() {
                    return Ok(block);
                }
            }
        }
        let copied = api::event(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        // SAFETY: freed by `close`.
        let memory = api::written(ptr::null_mut(), |at| unsafe {
            api::pinned_allocate(at, BLOCK, 0)
        });
        let memory = check("pinned memory for uploads", memory).inspect_err(|_| {
            // SAFETY: created above and used by nobody.
            let _ = unsafe { api::event_destroy(copied) };
        })?;
        Ok(Block { memory, copied })
    }

    /// Frees everything; no copy may be running any more.
    pub fn close(&mut self) {
        for block in self.waiting.drain(..).chain(self.filling.take()) {
            // SAFETY: made by `next`; the stream has been waited for.
            unsafe {
                let _ = api::event_destroy(block.copied);
                let _ = api::pinned_free(block.memory);
            }
        }
        self.used = 0;
    }
}
