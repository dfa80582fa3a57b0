//! The most multiply-adds that an adapter does: what benchmarks compare kernels with.

use crate::backend::Result;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::arguments::arguments;
use crate::backend::gpu::device::{Address, Kernel, Launch};

arguments! {
    struct CeilingArguments in "ceiling" {
        out: Address,
        rounds: u32,
        factor: f32,
        addend: f32,
        padding: i32,
    }
}

/// Workgroups: enough to fill a large GPU.
const WORKGROUPS: usize = 2048;
/// Multiply-adds of an invocation in a round: 16 chains of four.
const EACH: usize = 64;

/// Makes `rounds` of independent multiply-adds in the registers of all invocations, in f16 or f32. Returns their number of
/// floating-point operations.
///
/// # Errors
/// What the device reports.
pub fn multiply_adds(gpu: &Gpu, f16: bool, rounds: u32) -> Result<f64> {
    let (device, bytes) = (gpu.device(), 4 * 256 * WORKGROUPS);
    let out = device.allocate(bytes)?;
    let entry = match f16 {
        true => "multiply_adds_f16",
        false => "multiply_adds_f32",
    };
    let operations = 2 * EACH * 256 * WORKGROUPS * rounds as usize;
    // x ← x / 2 + 1/2 stays finite: every x goes to 1.
    let arguments = CeilingArguments {
        out,
        rounds,
        factor: 0.5,
        addend: 0.5,
        padding: 0,
    };
    let launch = Launch::blocks([WORKGROUPS, 1, 1], 256).of_work(operations);
    let kernel = Kernel::new("ceiling", entry);
    let launched = device.launch(kernel, launch, bytemuck::bytes_of(&arguments));
    device.free(out, bytes);
    launched.map(|()| operations as f64)
}
