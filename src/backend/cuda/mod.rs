//! CUDA: NVIDIA GPUs, and a software CUDA device that runs the same kernels anywhere.
//!
//! The operations' launches are in `gpu/`; here is what runs below: the driver, NVRTC and cuBLASLt for a GPU, an
//! emulator for the processor.

mod cache;
mod compile;
mod cubin;
mod cublaslt;
mod driver;
mod emulated;
mod graphs;
mod landing;
mod library;
mod modules;
mod nvrtc;
mod open;
mod product;
mod report;
mod staging;

pub use emulated::emulated_libraries;
pub use report::{KernelReport, compile_report};

use super::gpu::{Gpu, device};
use crate::backend::Result;

/// What errors and logs name.
const NAME: &str = "cuda";

/// The backend on NVIDIA GPU `ordinal` (or on the emulated device, if `CLIP_DISTILL_CUDA_DEVICE=emulated`), in f32 or,
/// with `bf16`, in mixed precision: activations and products in bf16, sums in f32.
///
/// # Errors
/// If driver, GPU or a library is missing, with what to do about it.
pub fn open(ordinal: usize, bf16: bool) -> Result<Gpu> {
    Ok(Gpu::on(open::device(ordinal, bf16)?, NAME, bf16))
}

/// The backend on the device that runs the kernels on the processor: slow, strict, and anywhere where there is a C++
/// compiler. Unlike what [`open()`] gives, it replays no steps, and reports memory used after it was freed.
///
/// # Errors
/// Without a C++ compiler, or if it fails.
pub fn emulated(bf16: bool) -> Result<Gpu> {
    Ok(Gpu::on(emulated::emulated()?, "emulated", bf16))
}

/// The devices at hand, emulated and real, each twice: with steps that are replayed, and without.
#[cfg(test)]
pub(crate) fn both_ways(bf16: bool) -> Vec<[Gpu; 2]> {
    use super::gpu::recorder::Recorder;
    use std::sync::Arc;

    let twice = |name, open: &dyn Fn() -> Result<Arc<dyn device::Replay>>| {
        let devices = open().and_then(|one| Ok((one, open()?)));
        let devices = devices.inspect_err(|e| println!("not checked: {e}")).ok()?;
        let one = Arc::new(Recorder::new(devices.0));
        Some([Gpu::on(one, name, bf16), Gpu::on(devices.1, name, bf16)])
    };
    let required = std::env::var("CLIP_DISTILL_REQUIRE").unwrap_or_default();
    let emulated = twice("emulated", &emulated::emulated);
    assert!(
        emulated.is_some() || !required.contains("emulated"),
        "the emulated device is required"
    );
    emulated
        .into_iter()
        .chain(twice(NAME, &|| open::bare(0, bf16)))
        .collect()
}
