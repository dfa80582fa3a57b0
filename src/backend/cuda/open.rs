//! Which device a run gets.

use super::device::Device;
use super::driver::Driver;
use super::emulated::emulated;
use crate::backend::{Result, device_error};
use std::sync::Arc;

/// Environment variable that chooses the emulated device.
const CHOICE: &str = "CLIP_DISTILL_CUDA_DEVICE";

/// GPU `ordinal`, which must do bf16 if that is asked for; or the emulated device, if
/// `CLIP_DISTILL_CUDA_DEVICE=emulated`.
///
/// # Errors
/// If it cannot be had, with what to do about it.
pub(super) fn device(ordinal: usize, bf16: bool) -> Result<Arc<dyn Device>> {
    match std::env::var(CHOICE).unwrap_or_default().as_str() {
        "" => Ok(Arc::new(Driver::open(ordinal, bf16)?)),
        "emulated" => emulated(),
        other => device_error(
            super::NAME,
            format!("{CHOICE}={other}: the only such device is `emulated`"),
        ),
    }
}
