//! The GPUs at hand, for a list of devices.

use super::compile::architecture;
use super::cublaslt::CublasLt;
use super::emulated::emulated;
use super::nvrtc::Nvrtc;
use super::open::chosen_emulated;
use super::properties::{Properties, count, initialise};
use crate::backend::Result;
use crate::backend::cpu;
use crate::backend::device_info::{DeviceInfo, PrecisionSupport};
use crate::backend::{Error, device_error};

/// The GPUs of NVIDIA's driver, or the software CUDA device if `CLIP_DISTILL_CUDA_DEVICE=emulated`.
///
/// # Errors
/// If there is none: which library was looked for, under which names and where, and what to install.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    if chosen_emulated()? {
        emulated()?;
        let host = cpu::device();
        return Ok(vec![DeviceInfo {
            name: "software CUDA device".into(),
            capability: "runs the kernels on the processor, compiled by a C++ compiler".into(),
            precisions: precisions(Ok(()), Ok(())),
            ..host
        }]);
    }
    let version = initialise()?;
    let gpus = count()?;
    if gpus == 0 {
        return device_error(
            super::NAME,
            "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it",
        );
    }
    let nvrtc = Nvrtc::open(Some(version)).map_err(|e| e.detail());
    let products = CublasLt::open(version).map_err(|e| e.detail());
    let device = |index| {
        let gpu = Properties::of(index)?;
        let (major, minor) = gpu.capability;
        let reason = |e: Error| e.detail();
        let compiler = || nvrtc.as_ref().map_err(String::clone);
        let fp32 = (gpu.fp32().map_err(reason))
            .and_then(|()| architecture(compiler()?, gpu.capability).map_err(reason))
            .and_then(|_| products.as_ref().map(drop).map_err(String::clone));
        let bf16 = fp32.clone().and_then(|()| gpu.bf16().map_err(reason));
        Ok(DeviceInfo {
            index,
            capability: format!("compute capability {major}.{minor}"),
            memory: Some(gpu.memory as u64),
            free: gpu.free().map(|bytes| bytes as u64).map_err(reason),
            precisions: precisions(fp32, bf16),
            name: gpu.name,
        })
    };
    (0..gpus).map(device).collect()
}

fn precisions(
    fp32: std::result::Result<(), String>,
    bf16: std::result::Result<(), String>,
) -> Vec<PrecisionSupport> {
    let precision = |precision, support| PrecisionSupport { precision, support };
    vec![precision("fp32", fp32), precision("amp_bf16", bf16)]
}
