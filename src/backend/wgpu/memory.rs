//! Buffers, and addresses within them.
//!
//! Tensors are blocks of a few large buffers ([`Pool`]). An address names a buffer in its upper bits and a byte of it in
//! the lower ones, so that what the launches share with CUDA can count on with it.

use super::NAME;
use super::faults::LESS_MEMORY;
use crate::backend::gpu::device::Address;
use crate::backend::gpu::pool::{ALIGNMENT, Pool};
use crate::backend::{Result, device_error};
use std::collections::BTreeMap;

/// Bits of an address that count bytes within a buffer.
const OFFSET_BITS: u32 = 40;

/// Set in the address of a buffer that is bound as a whole.
const WHOLE: Address = 1 << 63;

/// Bytes of a buffer, if it need not be larger: what a binding can hold on every adapter, and few enough buffers that
/// the parameters of a model lie in one or two.
const BUFFER: usize = 64 << 20;

/// The buffers of a device.
#[derive(Debug, Default)]
pub(super) struct Memory {
    buffers: BTreeMap<u64, ::wgpu::Buffer>,
    made: u64,
    /// What kernels write.
    work: Pool,
    /// What the host writes first: a block goes back into use only after the commands that read it were submitted.
    inputs: Pool,
    retired: Vec<(Address, usize)>,
    /// Blocks in use: bytes by address.
    blocks: BTreeMap<Address, usize>,
    /// How often buffers were given back.
    trims: u64,
    /// The most bytes that all buffers ever had.
    held: usize,
}

/// Part of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Range {
    pub buffer: u64,
    pub offset: u64,
    pub size: u64,
}

fn rounded(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

/// The buffer of an address, and the byte in it.
fn split(at: Address) -> (u64, u64) {
    (at >> OFFSET_BITS, at & ((1 << OFFSET_BITS) - 1))
}

impl Memory {
    /// A block of at least `bytes` bytes, of any content.
    pub fn allocate(
        &mut self,
        device: &::wgpu::Device,
        bytes: usize,
        input: bool,
    ) -> Result<Address> {
        let bytes = rounded(bytes);
        let at = match self.pool(input).take(bytes) {
            Some(at) => at,
            None => {
                let (start, size) = self.grow(device, bytes)?;
                let pool = self.pool(input);
                pool.add(start, size);
                pool.take(bytes).unwrap_or(start)
            }
        };
        self.blocks.insert(at, bytes);
        Ok(at)
    }

    fn pool(&mut self, input: bool) -> &mut Pool {
        match input {
            true => &mut self.inputs,
            false => &mut self.work,
        }
    }

    /// A new buffer with room for `bytes` bytes: an ample one if it can be had.
    fn grow(&mut self, device: &::wgpu::Device, bytes: usize) -> Result<(Address, usize)> {
        let limits = device.limits();
        if bytes as u64 > limits.max_buffer_size {
            let most = limits.max_buffer_size;
            return device_error(
                NAME,
                format!(
                    "a tensor of {bytes} bytes, where this adapter's buffers have at most {most}; {LESS_MEMORY}"
                ),
            );
        }
        let ample = (bytes.max(BUFFER) as u64).min(limits.max_buffer_size) as usize;
        let mut failure = None;
        for size in [ample, bytes] {
            let scope = device.push_error_scope(::wgpu::ErrorFilter::OutOfMemory);
            let buffer = device.create_buffer(&::wgpu::BufferDescriptor {
                label: None,
                size: size as u64,
                usage: ::wgpu::BufferUsages::STORAGE
                    | ::wgpu::BufferUsages::COPY_SRC
                    | ::wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            failure = pollster::block_on(scope.pop());
            if failure.is_none() {
                self.made += 1;
                self.buffers.insert(self.made, buffer);
                let now: u64 = self.buffers.values().map(::wgpu::Buffer::size).sum();
                self.held = self.held.max(now as usize);
                return Ok((self.made << OFFSET_BITS, size));
            }
            // What is free as a whole may be enough.
            self.trim();
        }
        let why = failure.map_or(String::new(), |e| {
            format!(" ({})", super::faults::describe(&e))
        });
        let held: usize = self.blocks.values().sum();
        device_error(
            NAME,
            format!(
                "out of memory: {bytes} bytes were asked for, {held} are in use{why}; {LESS_MEMORY}"
            ),
        )
    }

    /// Gives buffers back that hold nothing.
    fn trim(&mut self) {
        self.trims += 1;
        for (at, _) in [self.work.trim(), self.inputs.trim()].concat() {
            self.buffers.remove(&split(at).0);
        }
    }

    /// How often buffers were given back: what names one is to be forgotten when this grows.
    pub fn trims(&self) -> u64 {
        self.trims
    }

    /// The most bytes that all buffers ever had.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Gives a block back.
    pub fn free(&mut self, at: Address) {
        let Some(bytes) = self.blocks.remove(&at) else {
            return;
        };
        match self.inputs.owns(at) {
            true => self.retired.push((at, bytes)),
            false => self.work.give(at, bytes),
        }
    }

    /// All commands so far have been submitted.
    pub fn submitted(&mut self) {
        for (at, bytes) in self.retired.drain(..) {
            self.inputs.give(at, bytes);
        }
    }

    pub fn buffer(&self, number: u64) -> Result<&::wgpu::Buffer> {
        match self.buffers.get(&number) {
            Some(buffer) => Ok(buffer),
            None => device_error(NAME, format!("there is no buffer {number}")),
        }
    }

    /// The address under which the buffer that holds `at` is bound as a whole, and the bytes before `at` in it.
    pub fn whole(at: Address) -> (Address, u64) {
        let (buffer, offset) = split(at);
        (WHOLE | buffer << OFFSET_BITS, offset)
    }

    /// The block that `at` is in, and the bytes before `at` in it.
    pub fn range(&self, at: Address) -> Result<(Range, u64)> {
        if at & WHOLE != 0 {
            let (buffer, offset) = split(at & !WHOLE);
            let size = self.buffer(buffer)?.size();
            return Ok((
                Range {
                    buffer,
                    offset,
                    size,
                },
                0,
            ));
        }
        let Some((&start, &bytes)) = self.blocks.range(..=at).next_back() else {
            return device_error(NAME, format!("nothing is allocated at {at:#x}"));
        };
        let end = start + bytes as u64;
        if at >= end {
            return device_error(NAME, format!("nothing is allocated at {at:#x}"));
        }
        let (buffer, offset) = split(start);
        let size = bytes as u64;
        Ok((
            Range {
                buffer,
                offset,
                size,
            },
            at - start,
        ))
    }
}
