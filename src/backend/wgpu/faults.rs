//! What goes wrong on a device without a call that could return it: kept, and reported by the next call that can.

use super::NAME;
use crate::backend::{Result, device_error};
use std::sync::{Arc, Mutex, PoisonError};

/// The first thing that went wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<Mutex<Option<String>>>);

/// What helps when memory runs out.
pub(super) const LESS_MEMORY: &str = "a smaller --batch-size (with --accum-freq), --grad-checkpointing or a lower --precision takes less memory";

impl Faults {
    fn note(&self, detail: String) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(detail);
    }

    /// Listens to `device`.
    pub fn listen(&self, device: &::wgpu::Device) {
        let faults = self.clone();
        device.on_uncaptured_error(Arc::new(move |error: ::wgpu::Error| {
            faults.note(describe(&error));
        }));
        let faults = self.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != ::wgpu::DeviceLostReason::Destroyed {
                faults.note(format!("the device was lost ({message}); the run can be resumed from its last checkpoint"));
            }
        });
    }

    /// # Errors
    /// What went wrong, now and at every later call.
    pub fn check(&self) -> Result<()> {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            None => Ok(()),
            Some(detail) => device_error(NAME, detail.clone()),
        }
    }
}

/// One line about an error of wgpu.
pub(super) fn describe(error: &::wgpu::Error) -> String {
    match error {
        ::wgpu::Error::OutOfMemory { .. } => format!("out of memory; {LESS_MEMORY}"),
        other => {
            let text = other.to_string();
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().join("; ")
        }
    }
}
