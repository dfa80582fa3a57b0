//! Tables of tensors that one kernel takes together: an entry a tensor, and blocks that take a chunk each.
//!
//! Kernels of CUDA follow the addresses in an entry. Those in WGSL cannot: they bind whole buffers, of which many tensors
//! are parts, and an entry names the buffer and the place in it. So a table is cut into packs of few buffers.

use super::Gpu;
use super::arguments::Arguments;
use super::device::{Address, Launch};
use super::memory::Memory;
use crate::backend::Result;

/// Elements of a block, as `cuda/table.cuh` and `shaders/table.wgsl` have it.
const CHUNK: usize = 4096;

/// Buffers that a kernel binds for a table.
pub(super) const BUFFERS: usize = 5;

/// A tensor, or a few that belong together, of a table.
pub(super) trait Entry: Arguments {
    /// Elements of each tensor.
    fn elements(&self) -> usize;

    /// Where the tensors are; 0 for one that is not there.
    fn addresses(&mut self) -> Vec<&mut Address>;

    /// Takes the number of its first chunk.
    fn begin(&mut self, chunk: i64);
}

/// Tensors that a launch takes.
pub(super) struct Pack<E> {
    entries: Vec<E>,
    /// What their addresses are parts of; 0 where kernels follow addresses.
    pub buffers: [Address; BUFFERS],
    chunks: usize,
}

/// The packs of a table, in the table's order.
pub(super) fn packs<E: Entry>(gpu: &Gpu, entries: Vec<E>) -> Vec<Pack<E>> {
    let mut packs: Vec<Pack<E>> = Vec::new();
    for mut entry in entries {
        let mut named: Vec<Option<(Address, u64)>> = Vec::new();
        for at in entry.addresses() {
            named.push(if *at == 0 {
                None
            } else {
                gpu.device.buffer_of(*at)
            });
        }
        let open = packs.last().map(|pack| with(&pack.buffers, &named));
        let buffers = match open.flatten() {
            Some(buffers) => buffers,
            None => {
                packs.push(Pack {
                    entries: Vec::new(),
                    buffers: [0; BUFFERS],
                    chunks: 0,
                });
                with(&[0; BUFFERS], &named).unwrap_or_default()
            }
        };
        for (at, place) in entry.addresses().into_iter().zip(&named) {
            if let Some((buffer, offset)) = place {
                // The buffer's number, counted from 1, and words.
                let number = buffers.iter().position(|b| b == buffer).unwrap_or_default() as u64;
                *at = (offset / 4) << 32 | (number + 1);
            }
        }
        if let Some(pack) = packs.last_mut() {
            pack.buffers = buffers;
            entry.begin(pack.chunks as i64);
            pack.chunks += entry.elements().div_ceil(CHUNK);
            pack.entries.push(entry);
        }
    }
    packs
}

/// `buffers` with those that are named; `None` if there is no room.
fn with(
    buffers: &[Address; BUFFERS],
    named: &[Option<(Address, u64)>],
) -> Option<[Address; BUFFERS]> {
    let mut all = *buffers;
    for (buffer, _) in named.iter().flatten() {
        if !all.contains(buffer) {
            *all.iter_mut().find(|b| **b == 0)? = *buffer;
        }
    }
    Some(all)
}

impl<E: Entry> Pack<E> {
    /// The entries in the device's memory.
    pub fn upload(&self, gpu: &Gpu) -> Result<Memory> {
        gpu.input(bytemuck::cast_slice(&self.entries))
    }

    pub fn count(&self) -> i32 {
        self.entries.len() as i32
    }

    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// A block a chunk.
    pub fn launch(&self) -> Launch {
        Launch::blocks([self.chunks, 1, 1], 256)
    }
}
