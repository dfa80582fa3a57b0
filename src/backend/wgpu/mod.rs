//! WGSL: any GPU that speaks Vulkan, Metal or DirectX 12.
//!
//! The operations' launches are in `gpu/`, shared with CUDA; here is what runs below: an adapter's device, buffers,
//! shaders and their pipelines, matrix products, and what comes back to the host.

mod adapter;
mod arguments;
mod device;
mod faults;
mod memory;
mod moves;
mod pipeline_cache;
mod pipelines;
mod product;
mod readback;
mod source;
#[cfg(test)]
mod tests;

pub use adapter::{Choice, devices, gpu};

use super::gpu::Gpu;
use super::gpu::arguments::Layout;
use crate::backend::Result;
use crate::tensor::DType;
use std::sync::Arc;

/// What errors and logs name.
const NAME: &str = "wgpu";

/// The structs that the kernels of this room alone take.
const LAYOUTS: &[&[Layout]] = &[product::LAYOUTS, moves::LAYOUTS];

/// How a backend is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// On which adapter.
    pub adapter: Choice,
    /// In mixed precision: activations and products in f16, sums in f32.
    pub f16: bool,
    /// Whether kernels use subgroup operations, where the adapter has them.
    pub subgroups: bool,
    /// Whether numbers go to kernels as immediates, where the adapter has them, or all as uniforms.
    pub immediates: bool,
}

impl Default for Options {
    /// The best adapter, f32, and all that it has.
    fn default() -> Self {
        Self {
            adapter: Choice::Best,
            f16: false,
            subgroups: true,
            immediates: true,
        }
    }
}

/// The backend on an adapter.
///
/// # Errors
/// If there is no such adapter, or it lacks something that the kernels need; with what to do about it.
pub fn open(options: &Options) -> Result<Gpu> {
    let device = device::Wgpu::open(options)?;
    let low = options.f16.then_some(DType::F16);
    Ok(Gpu::on(Arc::new(device), NAME, low))
}
