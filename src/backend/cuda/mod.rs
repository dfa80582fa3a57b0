//! CUDA: NVIDIA GPUs, and a software CUDA device that runs the same kernels anywhere.
//!
//! The operations' launches are in `gpu/`; here is what runs below: the driver, NVRTC and cuBLASLt for a GPU, an
//! emulator for the processor.

mod answer;
mod api;
mod compile;
mod cubin;
mod cublaslt;
mod devices;
mod driver;
mod emulated;
mod graphs;
mod kernels;
mod library;
mod modules;
mod nvrtc;
mod open;
mod pinned_downloads;
mod pinned_uploads;
mod product;
mod properties;
mod report;

pub use devices::devices;
pub use emulated::emulated_libraries;
pub use report::{KernelReport, compile_report};

use super::cache;
use super::gpu::{Gpu, device};
use crate::backend::Result;
use crate::tensor::DType;

/// What errors and logs name.
const NAME: &str = "cuda";

/// The type beside f32 of mixed precision.
fn low(bf16: bool) -> Option<DType> {
    bf16.then_some(DType::BF16)
}

/// The backend on NVIDIA GPU `ordinal` (or on the emulated device, if `CLIP_DISTILL_CUDA_DEVICE=emulated`), in f32 or,
/// with `bf16`, in mixed precision: activations and products in bf16, sums in f32.
///
/// # Errors
/// If driver, GPU or a library is missing, with what to do about it.
pub fn open(ordinal: usize, bf16: bool) -> Result<Gpu> {
    Ok(Gpu::on(open::device(ordinal, bf16)?, NAME, low(bf16)))
}

/// The backend on the device that runs the kernels on the processor: slow, strict, and anywhere where there is a C++
/// compiler. Unlike what [`open()`] gives, it replays no steps, and reports memory used after it was freed.
///
/// # Errors
/// Without a C++ compiler, or if it fails.
pub fn emulated(bf16: bool) -> Result<Gpu> {
    Ok(Gpu::on(emulated::emulated()?, "emulated", low(bf16)))
}

/// The devices at hand, emulated and real, each twice: with steps that are replayed, and without. `checked` is what the
/// test checks on them.
#[cfg(test)]
pub(crate) fn both_ways(bf16: bool, checked: &str) -> Vec<[Gpu; 2]> {
    use super::gpu::recorder::Recorder;
    use crate::require::{Part, require};
    use std::sync::Arc;

    let twice = |part, name, open: &dyn Fn() -> Result<Arc<dyn device::Replay>>| {
        let devices = open().and_then(|one| Ok((one, open()?)));
        let (one, other) = require(part, checked, devices)?;
        let one = Arc::new(Recorder::new(one));
        Some([
            Gpu::on(one, name, low(bf16)),
            Gpu::on(other, name, low(bf16)),
        ])
    };
    let real = if bf16 { Part::CudaBf16 } else { Part::Cuda };
    let emulated = twice(Part::Emulated, "emulated", &emulated::emulated);
    let real = twice(real, NAME, &|| open::bare(0, bf16));
    emulated.into_iter().chain(real).collect()
}
