//! The processor, as a device among others.

use super::gemm;
use crate::backend::device_info::{DeviceInfo, PrecisionSupport};

/// The processor: its threads and vector instructions, the machine's memory.
pub fn device() -> DeviceInfo {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let field = |file, name: &str| {
        let text: String = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    // Both in KiB.
    let bytes = |name| {
        let kib = field("/proc/meminfo", name)?;
        let kib: u64 = kib.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    };
    let bf16 = match gemm::bf16_available() {
        true => Ok(()),
        false => Err("the processor has no AVX512-BF16".into()),
    };
    DeviceInfo {
        index: 0,
        name: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "processor".into()),
        capability: format!("{threads} threads, {} vectors", vectors()),
        memory: bytes("MemTotal"),
        free: bytes("MemAvailable").ok_or_else(|| "the system has no /proc/meminfo".into()),
        precisions: vec![
            PrecisionSupport {
                precision: "fp32",
                support: Ok(()),
            },
            PrecisionSupport {
                precision: "amp_bf16",
                support: bf16,
            },
        ],
    }
}

/// The vector instructions used, by the name of their level.
pub(super) fn vectors() -> String {
    // pulp's Debug goes on to list every instruction set.
    let arch = format!("{:?}", pulp::Arch::new());
    arch.split([' ', '(']).next().unwrap_or_default().to_owned()
}
