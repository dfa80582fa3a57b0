//! Device memory as tensor storage.

use super::Gpu;
use super::device::{Address, Device};
use crate::backend::Result;
use crate::tensor::{DType, Storage, Tensor};
use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Bytes of all allocations of a backend.
#[derive(Debug, Default)]
pub(super) struct Usage {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Usage {
    fn take(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Relaxed) + bytes;
        self.most.fetch_max(now, Relaxed);
    }

    /// The most that there were at a time.
    pub(super) fn most(&self) -> usize {
        self.most.load(Relaxed)
    }
}

/// An allocation, given back when dropped. The device reuses it only for later work of the same stream, so it
/// may be dropped right after the launch that reads it.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) device: Arc<dyn Device>,
    pub(super) at: Address,
    bytes: usize,
    usage: Arc<Usage>,
}

impl Memory {
    pub(super) fn at(&self) -> Address {
        self.at
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.free(self.at, self.bytes);
        self.usage.now.fetch_sub(self.bytes, Relaxed);
    }
}

/// The elements of a tensor.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) memory: Memory,
    /// f32 elements rounded to the low type, made at first use; a write to the elements renews or drops it.
    pub(super) low: OnceLock<Memory>,
    /// What the host knows of i32 elements.
    pub(super) index: Option<Index>,
}

impl Storage for Buffer {
    fn size(&self) -> usize {
        self.memory.bytes
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Row numbers, which come from the host and are kept there: they are checked against their table without
/// waiting for the device.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) values: Box<[i32]>,
    pub(super) scatter: OnceLock<Scatter>,
}

/// The places of an index by the row that they name: row `rows[k]` is named at
/// `order[starts[k]..starts[k + 1]]`, ascending.
#[derive(Debug)]
pub(super) struct Scatter {
    /// Places in the index.
    places: usize,
    /// The number of different rows, then room for as many `rows` and (one more) `starts` as there are places, then
    /// `order`; i32.
    memory: Memory,
}

impl Scatter {
    pub(super) fn new(gpu: &Gpu, index: &[i32]) -> Result<Self> {
        let mut order: Vec<i32> = (0..index.len() as i32).collect();
        order.sort_by_key(|&place| index[place as usize]);
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for (at, &place) in order.iter().enumerate() {
            let row = index[place as usize];
            if rows.last() != Some(&row) {
                rows.push(row);
                starts.push(at as i32);
            }
        }
        starts.push(index.len() as i32);
        let (places, distinct) = (index.len(), rows.len() as i32);
        rows.resize(places, 0);
        starts.resize(places + 1, 0);
        let all = [vec![distinct], rows, starts, order].concat();
        let memory = gpu.input(bytemuck::cast_slice(&all))?;
        Ok(Self { places, memory })
    }

    pub(super) fn distinct(&self) -> Address {
        self.memory.at
    }

    pub(super) fn rows(&self) -> Address {
        self.distinct() + 4
    }

    pub(super) fn starts(&self) -> Address {
        self.rows() + 4 * self.places as u64
    }

    pub(super) fn order(&self) -> Address {
        self.starts() + 4 * (self.places as u64 + 1)
    }
}

/// A tensor over `memory`.
pub(super) fn tensor(
    shape: &[usize],
    dtype: DType,
    memory: Memory,
    index: Option<Index>,
) -> Tensor {
    let low = OnceLock::new();
    Tensor::new(shape, dtype, Arc::new(Buffer { memory, low, index }))
}

impl Gpu {
    /// Memory for `bytes` bytes, of any content.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Memory> {
        let at = self.device.allocate(bytes)?;
        Ok(self.allocated(at, bytes))
    }

    fn allocated(&self, at: Address, bytes: usize) -> Memory {
        self.usage.take(bytes);
        Memory {
            device: self.device.clone(),
            at,
            bytes,
            usage: self.usage.clone(),
        }
    }

    /// Memory that holds `bytes`.
    pub(super) fn input(&self, bytes: &[u8]) -> Result<Memory> {
        let at = self.device.allocate_input(bytes.len())?;
        let memory = self.allocated(at, bytes.len());
        self.device.upload(memory.at, bytes)?;
        Ok(memory)
    }

    /// A tensor of any content, and the address of its elements.
    pub(super) fn empty(&self, shape: &[usize], dtype: DType) -> Result<(Tensor, Address)> {
        let memory = self.allocate(shape.iter().product::<usize>() * dtype.size())?;
        let at = memory.at;
        Ok((tensor(shape, dtype, memory, None), at))
    }

    pub(super) fn zero_tensor(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let (tensor, at) = self.empty(shape, dtype)?;
        self.device.clear(at, tensor.len() * dtype.size())?;
        Ok(tensor)
    }
}
