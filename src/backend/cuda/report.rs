//! What every kernel needs of a GPU, found without one: the kernels are compiled and nothing is run.

use super::NAME;
use super::compile::compile;
use super::cubin;
use super::modules::MODULES;
use super::nvrtc::Nvrtc;
use crate::backend::{Result, device_error};

/// A kernel compiled for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelReport {
    /// `cuda/<module>.cu`.
    pub module: &'static str,
    /// The kernel's name.
    pub entry: String,
    /// Size of its arguments in bytes.
    pub arguments: usize,
    /// Registers of a thread, at most 255.
    pub registers: usize,
    /// Shared memory of a block in bytes, beside what a launch adds.
    pub shared: usize,
    /// Local memory of a thread in bytes: arrays that are not in registers.
    pub stack: usize,
    /// Bytes that a thread writes to local memory for want of registers.
    pub spill_stores: usize,
    /// Bytes that it reads from there.
    pub spill_loads: usize,
    /// Tensor-core instructions in its code.
    pub tensor: usize,
}

/// Compiles every module for an architecture (`sm_80`, `sm_90a`) and reports what its kernels need.
///
/// # Errors
/// If NVRTC is missing, does not know the architecture, or rejects a module.
pub fn compile_report(architecture: &str) -> Result<Vec<KernelReport>> {
    let nvrtc = Nvrtc::open(None)?;
    let number = architecture
        .trim_start_matches("sm_")
        .trim_end_matches(char::is_alphabetic)
        .parse::<u32>();
    if !number.is_ok_and(|n| nvrtc.architectures().contains(&n)) {
        let (major, minor) = nvrtc.version();
        return device_error(
            NAME,
            format!(
                "NVRTC {major}.{minor} compiles for {:?}, not for {architecture}",
                nvrtc.architectures()
            ),
        );
    }
    let mut reports = Vec::new();
    for module in MODULES {
        let compiled = compile(&nvrtc, module, architecture)?;
        let Some(entries) = cubin::entries(&compiled.cubin) else {
            return device_error(NAME, format!("{}: NVRTC's output is no cubin", module.name));
        };
        for entry in entries {
            let Some(numbers) = assembler(&compiled.log, &entry.name) else {
                return device_error(
                    NAME,
                    format!("{}: the log does not mention {}", module.name, entry.name),
                );
            };
            reports.push(KernelReport {
                module: module.name,
                entry: entry.name,
                arguments: entry.arguments,
                tensor: entry.tensor,
                ..numbers
            });
        }
    }
    reports.sort_by(|a, b| (a.module, &a.entry).cmp(&(b.module, &b.entry)));
    Ok(reports)
}

/// The assembler's log of a kernel:
/// ```text
/// ptxas info    : Compiling entry function 'k' for 'sm_80'
/// ptxas info    : Function properties for k
/// ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
/// ptxas info    : Used 8 registers, used 1 barriers, 1024 bytes smem, 376 bytes cmem[0]
/// ```
fn assembler(log: &str, entry: &str) -> Option<KernelReport> {
    let head = format!("Compiling entry function '{entry}' for");
    let text = log.split_once(&head)?.1;
    let text = text.split("Compiling entry function").next()?;
    let before = |unit: &str| {
        let number = text.split_once(unit)?.0.trim_end().rsplit(' ').next()?;
        number.parse().ok()
    };
    Some(KernelReport {
        module: "",
        entry: String::new(),
        arguments: 0,
        tensor: 0,
        registers: before(" registers")?,
        // The log does not mention shared memory where there is none.
        shared: before(" bytes smem").unwrap_or(0),
        stack: before(" bytes stack frame")?,
        spill_stores: before(" bytes spill stores")?,
        spill_loads: before(" bytes spill loads")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_kernel_by_kernel() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a_f32' for 'sm_90a'\n\
            ptxas info    : Function properties for a_f32\n\
            ptxas         .     16 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads\n\
            ptxas info    : Used 254 registers, used 0 barriers, 16 bytes cumulative stack size\n\
            ptxas info    : Compile time = 119.867 ms\n\
            ptxas info    : Compiling entry function 'a' for 'sm_90a'\n\
            ptxas info    : Function properties for a\n\
            ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 8 registers, used 1 barriers, 1024 bytes smem\n";
        let numbers = |entry| {
            let r = assembler(log, entry).unwrap();
            [
                r.registers,
                r.shared,
                r.stack,
                r.spill_stores,
                r.spill_loads,
            ]
        };
        assert_eq!(numbers("a_f32"), [254, 0, 16, 24, 32]);
        assert_eq!(numbers("a"), [8, 1024, 0, 0, 0]);
        assert_eq!(assembler(log, "b"), None);
    }
}
