//! Which device a run gets.

use super::device::{Device, Replay};
use super::driver::Driver;
use super::emulated::emulated;
use crate::backend::gpu::recorder::Recorder;
use crate::backend::{Result, device_error};
use std::sync::Arc;

/// Environment variable that chooses the emulated device.
const CHOICE: &str = "CLIP_DISTILL_CUDA_DEVICE";

/// Environment variable that says whether steps are replayed as CUDA graphs.
const GRAPHS: &str = "CLIP_DISTILL_CUDA_GRAPHS";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// GPU `ordinal`, which must do bf16 if that is asked for; or the emulated device, if
/// `CLIP_DISTILL_CUDA_DEVICE=emulated`. Steps that recur are replayed, unless `CLIP_DISTILL_CUDA_GRAPHS=0`.
///
/// # Errors
/// If it cannot be opened, with what to do about it.
pub(super) fn device(ordinal: usize, bf16: bool) -> Result<Arc<dyn Device>> {
    let device = bare(ordinal, bf16)?;
    match variable(GRAPHS).as_str() {
        "" | "1" => Ok(Arc::new(Recorder::new(device))),
        "0" => Ok(device),
        other => device_error(super::NAME, format!("{GRAPHS}={other} is not 0 or 1")),
    }
}

/// The same device without a recorder in front of it.
pub(super) fn bare(ordinal: usize, bf16: bool) -> Result<Arc<dyn Replay>> {
    match chosen_emulated()? {
        true => emulated(),
        false => Ok(Arc::new(Driver::open(ordinal, bf16)?)),
    }
}

/// Whether the environment chooses the emulated device.
///
/// # Errors
/// If it names another device.
pub(super) fn chosen_emulated() -> Result<bool> {
    match variable(CHOICE).as_str() {
        "" => Ok(false),
        "emulated" => Ok(true),
        other => device_error(
            super::NAME,
            format!("{CHOICE}={other}: the only such device is `emulated`"),
        ),
    }
}
