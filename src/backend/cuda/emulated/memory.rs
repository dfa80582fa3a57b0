//! Buffers between zones of a known pattern.

use super::error;
use crate::backend::Result;
use crate::backend::gpu::device::Address;
use std::alloc::Layout;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of pattern before and after each buffer.
const ZONE: usize = 4096;
/// How much of the zones of buffers that a launch did not name is looked at after it.
const NEAR: usize = 64;
/// Bytes of freed buffers that are kept to see whether somebody writes into them.
const KEPT: usize = 16 << 20;
/// NaN as f32 and as each of two bf16, absurd as an integer: `POISON` of `block.h`.
const POISON: u64 = 0x7fbf_7fbf_7fbf_7fbf;

/// One allocation of the host: zone, buffer, zone.
#[derive(Debug)]
struct Buffer {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the pointer owns its allocation.
unsafe impl Send for Buffer {}

/// The pattern's byte at an address.
fn pattern(address: usize) -> u8 {
    POISON.to_le_bytes()[address % 2]
}

/// Address of the first byte that is not the pattern's.
fn first_change(zone: &[u8]) -> Option<usize> {
    // SAFETY: any eight bytes are a u64.
    let (head, middle, tail) = unsafe { zone.align_to::<u64>() };
    if middle.iter().all(|&word| word == u64::from_le(POISON)) && intact(head) && intact(tail) {
        return None;
    }
    let start = zone.as_ptr() as usize;
    (0..zone.len())
        .map(|i| start + i)
        .zip(zone)
        .find(|&(address, &byte)| byte != pattern(address))
        .map(|(address, _)| address)
}

/// Whether all bytes are the pattern's.
fn intact(bytes: &[u8]) -> bool {
    let start = bytes.as_ptr() as usize;
    bytes
        .iter()
        .enumerate()
        .all(|(i, &byte)| byte == pattern(start + i))
}

impl Buffer {
    fn new(bytes: usize) -> Result<Self> {
        let layout = bytes
            .checked_add(2 * ZONE)
            .and_then(|size| Layout::from_size_align(size, ZONE).ok());
        // SAFETY: the size is not zero.
        let base = layout.map(|layout| unsafe { std::alloc::alloc(layout) });
        match base {
            Some(base) if !base.is_null() => {
                let buffer = Self { base, bytes };
                buffer.poison(0, bytes + 2 * ZONE);
                Ok(buffer)
            }
            _ => error(format!("no memory for {bytes} bytes")),
        }
    }

    fn start(&self) -> usize {
        self.base as usize + ZONE
    }

    /// `bytes` bytes from `from` on, counted from the first zone's begin.
    fn whole(&self, from: usize, bytes: usize) -> &[u8] {
        assert!(from + bytes <= self.bytes + 2 * ZONE);
        // SAFETY: within the allocation, all of which has been written; nobody writes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.base.add(from), bytes) }
    }

    fn poison(&self, from: usize, bytes: usize) {
        assert!(from + bytes <= self.bytes + 2 * ZONE);
        let begin = self.base as usize + from;
        // SAFETY: within the allocation, whose only borrows are shorter than a method call.
        unsafe {
            let mut at = 0;
            while at < bytes && !(begin + at).is_multiple_of(8) {
                *self.base.add(from + at) = pattern(begin + at);
                at += 1;
            }
            let words = (bytes - at) / 8;
            let middle = self.base.add(from + at).cast::<u64>();
            std::slice::from_raw_parts_mut(middle, words).fill(u64::from_le(POISON));
            for at in at + 8 * words..bytes {
                *self.base.add(from + at) = pattern(begin + at);
            }
        }
    }

    /// The zones' `reach` bytes next to the buffer.
    fn zones(&self, reach: usize) -> [&[u8]; 2] {
        [
            self.whole(ZONE - reach, reach),
            self.whole(ZONE + self.bytes, reach),
        ]
    }

    /// What was written into the zones; they are whole again afterwards.
    fn damage(&self, reach: usize) -> Option<String> {
        let address = self.zones(reach).into_iter().find_map(first_change)?;
        self.poison(0, ZONE);
        self.poison(ZONE + self.bytes, ZONE);
        let offset = address as i64 - self.start() as i64;
        Some(format!(
            "out-of-bounds write at byte {offset} of a buffer of {} bytes",
            self.bytes
        ))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.bytes + 2 * ZONE, ZONE) {
            // SAFETY: allocated with this layout.
            unsafe { std::alloc::dealloc(self.base, layout) };
        }
    }
}

/// All buffers of a device.
#[derive(Debug, Default)]
pub(super) struct Memory {
    live: BTreeMap<usize, Buffer>,
    freed: VecDeque<Buffer>,
    freed_bytes: usize,
    /// Found where nothing could be returned.
    pending: Option<String>,
}

impl Memory {
    pub fn allocate(&mut self, bytes: usize) -> Result<Address> {
        let buffer = Buffer::new(bytes.max(1))?;
        let at = buffer.start();
        self.live.insert(at, buffer);
        Ok(at as Address)
    }

    pub fn free(&mut self, at: Address, bytes: usize) {
        let Some(buffer) = self.live.remove(&(at as usize)) else {
            self.pending = Some(format!(
                "free of {bytes} bytes at {at:#x}, where no buffer begins"
            ));
            return;
        };
        let size = buffer.bytes;
        let fault = buffer.damage(ZONE).or_else(|| {
            (size != bytes.max(1)).then(|| format!("free of {bytes} bytes of a buffer of {size}"))
        });
        self.pending = self.pending.take().or(fault);
        buffer.poison(ZONE, size);
        self.freed.push_back(buffer);
        self.freed_bytes += size;
        while self.freed_bytes > KEPT {
            let Some(old) = self.freed.pop_front() else {
                break;
            };
            self.freed_bytes -= old.bytes;
            self.pending = self.pending.take().or_else(|| written_after_free(&old));
        }
    }

    /// The buffer whose memory or zones hold the address.
    fn around(&self, at: Address) -> Option<&Buffer> {
        let at = at as usize;
        let (_, buffer) = self.live.range(..=at.saturating_add(ZONE)).next_back()?;
        let near = |b: &&Buffer| at + ZONE >= b.start() && at < b.start() + b.bytes + ZONE;
        // The zone before the next buffer may begin where the one after this ends.
        let before = || self.live.range(..=at).next_back().map(|(_, b)| b);
        Some(buffer).filter(near).or_else(|| before().filter(near))
    }

    fn offset(&self, at: Address, bytes: usize) -> Result<(&Buffer, usize)> {
        let found = self.live.range(..=at as usize).next_back();
        match found {
            Some((start, b)) if at as usize - start + bytes <= b.bytes => {
                Ok((b, at as usize - start))
            }
            Some((start, b)) => error(format!(
                "{bytes} bytes at byte {} of a buffer of {} bytes",
                at as usize - start,
                b.bytes
            )),
            None => error(format!(
                "{bytes} bytes at {at:#x}, where there is no buffer"
            )),
        }
    }

    pub fn bytes(&self, at: Address, bytes: usize) -> Result<&[u8]> {
        let (buffer, offset) = self.offset(at, bytes)?;
        Ok(buffer.whole(ZONE + offset, bytes))
    }

    pub fn bytes_mut(&mut self, at: Address, bytes: usize) -> Result<&mut [u8]> {
        let (buffer, offset) = self.offset(at, bytes)?;
        // SAFETY: within the buffer; `self` is borrowed for as long as the slice lives.
        Ok(unsafe { std::slice::from_raw_parts_mut(buffer.base.add(ZONE + offset), bytes) })
    }

    pub fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()> {
        let from = self.bytes(from, bytes)?.as_ptr();
        let to = self.bytes_mut(to, bytes)?.as_mut_ptr();
        // SAFETY: both ranges were checked; `copy` lets them overlap.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(())
    }

    /// The buffers whose addresses stand in a kernel's arguments.
    pub fn named_in(&self, arguments: &[u8]) -> Vec<Address> {
        let words = arguments
            .chunks_exact(8)
            .map(|w| w.try_into().map_or(0, u64::from_ne_bytes));
        let mut named: Vec<_> = words
            .filter_map(|word| self.around(word))
            .map(|b| b.start() as Address)
            .collect();
        named.sort_unstable();
        named.dedup();
        named
    }

    /// The zones of these buffers.
    pub fn zones(&self, buffers: &[Address]) -> Vec<(usize, usize)> {
        let found = buffers
            .iter()
            .filter_map(|&at| self.live.get(&(at as usize)));
        found
            .flat_map(|b| b.zones(ZONE))
            .map(|zone| {
                // The emulator compares from even addresses on.
                let odd = zone.as_ptr() as usize % 2;
                (zone.as_ptr() as usize + odd, zone.len() - odd)
            })
            .collect()
    }

    /// What a launch did that named these buffers: their zones are looked at in full, those of all others near by.
    pub fn damage_after(&mut self, buffers: &[Address]) -> Option<String> {
        let named = buffers
            .iter()
            .filter_map(|&at| self.live.get(&(at as usize)));
        let mut found = named.filter_map(|b| b.damage(ZONE)).next();
        for buffer in self.live.values() {
            found = found.or_else(|| buffer.damage(NEAR));
        }
        found.or_else(|| self.pending.take())
    }

    /// What the zones of all buffers and the freed ones show.
    pub fn damage(&mut self) -> Option<String> {
        let mut found = self.pending.take();
        for buffer in self.live.values() {
            found = found.or_else(|| buffer.damage(ZONE));
        }
        found.or_else(|| self.freed.iter().find_map(written_after_free))
    }
}

fn written_after_free(buffer: &Buffer) -> Option<String> {
    let address = first_change(buffer.whole(ZONE, buffer.bytes))?;
    let offset = address - buffer.start();
    buffer.poison(ZONE, buffer.bytes);
    Some(format!(
        "write at byte {offset} of a buffer of {} bytes that had been freed",
        buffer.bytes
    ))
}
