//! `--backend`, `--device`, `--precision`, `--threads`: which device a run gets, and why.

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda;
use crate::settings::device::DeviceFlags;
use crate::settings::error::{Result, input, usage};
use crate::settings::values::{Device, Precision};
use std::sync::Arc;

/// The device that the flags ask for, with one line that says which it is and why.
///
/// # Errors
/// If this machine or this build does not have it, or not in that precision.
pub fn open(flags: &DeviceFlags) -> Result<(Arc<dyn Backend>, String)> {
    if let Some(threads) = flags.threads {
        // Fails where a pool is there already; then that one stays, with the same results.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global();
    }
    let (number, precision) = (flags.device, flags.precision);
    let (backend, why) = match flags.backend {
        Device::Cpu => (cpu(precision)?, String::new()),
        Device::Cuda => {
            let found = cuda(number, precision);
            let found = found.map_err(|e| input(format!("--backend cuda: {e}")))?;
            (found, String::new())
        }
        Device::Wgpu => return usage("--backend wgpu is not in this build yet: use cuda or cpu"),
        Device::Auto => match auto(number, precision) {
            Ok(found) => (found, " (auto: CUDA works)".to_owned()),
            Err(why) => (cpu(precision)?, format!(" (auto: {why})")),
        },
    };
    let line = format!("{}{why}", backend.describe());
    Ok((backend, line))
}

/// Whether a GPU has passed the checks of `tests/`. Until then CUDA is for those who ask for it.
const CUDA_CHECKED_ON_A_GPU: bool = false;

/// CUDA for a run that did not ask for it. Otherwise why not, in short.
fn auto(number: usize, precision: Precision) -> Result<Arc<dyn Backend>, String> {
    let found = cuda(number, precision).map_err(|e| {
        // What to do about it is for those who asked for CUDA.
        e.split(';').next().unwrap_or_default().to_owned()
    })?;
    match CUDA_CHECKED_ON_A_GPU {
        true => Ok(found),
        false => Err("there is a GPU, which --backend cuda takes; unchecked so far".to_owned()),
    }
}

fn cuda(number: usize, precision: Precision) -> Result<Arc<dyn Backend>, String> {
    let bf16 = match precision {
        Precision::Fp32 => false,
        Precision::AmpBf16 => true,
        Precision::AmpFp16 => {
            return Err("there is no --precision amp_fp16; take amp_bf16 or fp32".into());
        }
    };
    match cuda::open(number, bf16) {
        Ok(cuda) => Ok(Arc::new(cuda)),
        // The flag names the backend.
        Err(e) => {
            let text = e.to_string();
            Err(text.strip_prefix("cuda: ").unwrap_or(&text).to_owned())
        }
    }
}

fn cpu(precision: Precision) -> Result<Arc<dyn Backend>> {
    let cpu = match precision {
        Precision::Fp32 => Some(Cpu::new()),
        Precision::AmpBf16 => Cpu::bf16(),
        Precision::AmpFp16 => {
            return usage("--precision amp_fp16: the CPU has amp_bf16 and fp32");
        }
    };
    match cpu {
        Some(cpu) => Ok(Arc::new(cpu)),
        None => usage(
            "--precision amp_bf16: this processor has no bf16 products (AVX512-BF16): take fp32",
        ),
    }
}
