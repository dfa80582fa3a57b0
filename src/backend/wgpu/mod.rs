//! WGSL: any GPU that speaks Vulkan, Metal or DirectX 12.
//!
//! The operations' launches are in `gpu/`, shared with CUDA; here is what runs below: an adapter's device, buffers,
//! shaders and their pipelines, matrix products, and what comes back to the host.

mod adapter;
mod arguments;
mod ceiling;
mod clock;
mod device;
mod faults;
mod memory;
mod moves;
mod pipeline_cache;
mod pipelines;
mod product;
mod readback;
mod shader;
mod source;
#[cfg(test)]
mod tests;
mod windows;

pub use adapter::devices;
pub use ceiling::multiply_adds;

use super::gpu::Gpu;
use super::gpu::arguments::Layout;
use crate::backend::{DeviceChoice, Result};
use crate::tensor::DType;
use std::sync::Arc;

/// What errors and logs name.
const NAME: &str = "wgpu";

/// The structs that the kernels of this room alone take.
const LAYOUTS: &[&[Layout]] = &[product::LAYOUTS, moves::LAYOUTS, ceiling::LAYOUTS];

/// How a backend is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// On which adapter, of those that [`devices`] lists.
    pub adapter: DeviceChoice,
    /// Whether a software adapter will do.
    pub software: bool,
    /// In mixed precision: activations and products in f16, sums in f32.
    pub f16: bool,
    /// Whether kernels use subgroup operations, where the adapter has them.
    pub subgroups: bool,
    /// Whether products in f16 use cooperative matrices (16 × 16 × 16, sums in f32), where the adapter has them and
    /// subgroups are used.
    pub cooperative: bool,
    /// Whether numbers go to kernels as immediates, where the adapter has them, or all as uniforms.
    pub immediates: bool,
    /// Whether kernels are timed by the adapter's clock, where it has one ([`Gpu::kernel_times`]): each is then a pass of
    /// its own, which takes time itself.
    pub timed: bool,
    /// Whether tensors are split over two bindings even where one would hold them, as those are that are larger than a
    /// binding of the adapter: for tests.
    pub halves: bool,
}

impl Default for Options {
    /// The first adapter, GPUs before software, in f32 and with all that it has.
    fn default() -> Self {
        Self {
            adapter: DeviceChoice::default(),
            software: true,
            f16: false,
            subgroups: true,
            cooperative: true,
            immediates: true,
            timed: false,
            halves: false,
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
