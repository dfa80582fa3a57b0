//! `--backend`, `--device`, `--precision`, `--threads`: which device a run gets, and why.

use crate::backend::cpu::Cpu;
use crate::backend::cuda;
use crate::backend::wgpu;
use crate::backend::{Backend, DeviceChoice};
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
    let (which, precision) = (&flags.device, flags.precision);
    let (backend, why) = match flags.backend {
        Device::Cpu if *which != DeviceChoice::default() => {
            return usage(format!(
                "--device {which} chooses a GPU, and --backend is cpu"
            ));
        }
        Device::Cpu => (cpu(precision)?, String::new()),
        Device::Cuda => {
            let found = cuda(which, precision);
            let found = found.map_err(|e| input(format!("--backend cuda: {e}")))?;
            (found, String::new())
        }
        Device::Wgpu => {
            let found = wgpu(which, precision, true);
            let found = found.map_err(|e| input(format!("--backend wgpu: {e}")))?;
            (found, String::new())
        }
        Device::Auto => auto(which, precision)?,
    };
    let line = format!("{}{why}", backend.describe());
    Ok((backend, line))
}

/// CUDA, else a GPU through wgpu (never a software adapter), else the CPU; and why.
fn auto(which: &DeviceChoice, precision: Precision) -> Result<(Arc<dyn Backend>, String)> {
    // What to do about it is for those who asked for that backend.
    let short = |e: String| e.split([':', ';']).next().unwrap_or_default().to_owned();
    let no_cuda = match cuda(which, precision) {
        Ok(found) => return Ok((found, " (auto: CUDA works)".to_owned())),
        Err(e) => short(e),
    };
    let no_wgpu = match wgpu(which, precision, false) {
        Ok(found) => return Ok((found, format!(" (auto: no CUDA: {no_cuda})"))),
        Err(e) => short(e),
    };
    if *which != DeviceChoice::default() {
        return usage(format!(
            "--device {which}: there is no such GPU (CUDA: {no_cuda}; wgpu: {no_wgpu})"
        ));
    }
    let why = format!("auto: no CUDA: {no_cuda}; no GPU through wgpu: {no_wgpu}");
    match cpu(precision) {
        Ok(found) => Ok((found, format!(" ({why})"))),
        Err(e) => usage(format!("{e} ({why})")),
    }
}

/// An error's text without the backend's name, which the flag gives.
fn without(name: &str, text: String) -> String {
    match text.strip_prefix(name) {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

fn wgpu(
    which: &DeviceChoice,
    precision: Precision,
    software: bool,
) -> Result<Arc<dyn Backend>, String> {
    let f16 = match precision {
        Precision::Fp32 => false,
        Precision::AmpFp16 => true,
        Precision::AmpBf16 => {
            return Err("there is no --precision amp_bf16; take amp_fp16 or fp32".into());
        }
    };
    let options = wgpu::Options {
        adapter: which.clone(),
        software,
        f16,
        ..Default::default()
    };
    match wgpu::open(&options) {
        Ok(found) => Ok(Arc::new(found)),
        Err(e) => Err(without("wgpu: ", e.to_string())),
    }
}

fn cuda(which: &DeviceChoice, precision: Precision) -> Result<Arc<dyn Backend>, String> {
    let DeviceChoice::Number(number) = *which else {
        return Err(format!("--device {which} is not a GPU's number"));
    };
    let bf16 = match precision {
        Precision::Fp32 => false,
        Precision::AmpBf16 => true,
        Precision::AmpFp16 => {
            return Err("there is no --precision amp_fp16; take amp_bf16 or fp32".into());
        }
    };
    match cuda::open(number, bf16) {
        Ok(cuda) => Ok(Arc::new(cuda)),
        Err(e) => Err(without("cuda: ", e.to_string())),
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
