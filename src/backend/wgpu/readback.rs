//! What comes back to the host: copied into mapped buffers while the device goes on.

use super::NAME;
use crate::backend::{Result, device_error};
use ::wgpu::{Buffer, MapMode, PollType, SubmissionIndex};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a finished mapping may take to call back: far longer than it ever does.
const CALLS_BACK: Duration = Duration::from_secs(10);

/// A buffer that the device copies into, and how its mapping ended.
#[derive(Debug)]
pub(super) struct Readback {
    buffer: Buffer,
    /// Bytes of each part, and where it begins.
    parts: Vec<(u64, usize)>,
    submission: SubmissionIndex,
    mapped: Mutex<Receiver<std::result::Result<(), ::wgpu::BufferAsyncError>>>,
}

/// A buffer for parts of these sizes, and where each begins in it.
pub(super) fn room(
    device: &::wgpu::Device,
    sizes: impl Iterator<Item = usize>,
) -> (Buffer, Vec<(u64, usize)>) {
    let (mut parts, mut end) = (Vec::new(), 0u64);
    for size in sizes {
        parts.push((end, size));
        end += (size as u64).next_multiple_of(4);
    }
    let buffer = device.create_buffer(&::wgpu::BufferDescriptor {
        label: None,
        size: end.max(4),
        usage: ::wgpu::BufferUsages::MAP_READ | ::wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    (buffer, parts)
}

impl Readback {
    /// Of a buffer into which the commands of `submission` copy.
    pub fn new(buffer: Buffer, parts: Vec<(u64, usize)>, submission: SubmissionIndex) -> Self {
        let (ended, mapped) = channel();
        buffer.slice(..).map_async(MapMode::Read, move |end| {
            // Nobody may be waiting any more.
            let _ = ended.send(end);
        });
        let mapped = Mutex::new(mapped);
        Self {
            buffer,
            parts,
            submission,
            mapped,
        }
    }

    /// The bytes of all parts, one after another, when they have arrived.
    pub fn wait(self, device: &::wgpu::Device) -> Result<Vec<u8>> {
        let wait = PollType::Wait {
            submission_index: Some(self.submission),
            timeout: None,
        };
        if let Err(error) = device.poll(wait) {
            return device_error(NAME, format!("waiting for the device: {error}"));
        }
        // Another thread that waits may be the one that calls back, and not have done so yet.
        let mapped = self
            .mapped
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match mapped.recv_timeout(CALLS_BACK) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return device_error(NAME, format!("reading from the device: {error}"));
            }
            Err(_) => return device_error(NAME, "the device did not finish its work"),
        }
        let view = match self.buffer.slice(..).get_mapped_range() {
            Ok(view) => view,
            Err(error) => return device_error(NAME, format!("reading from the device: {error}")),
        };
        let mut bytes = Vec::with_capacity(view.len());
        for &(at, size) in &self.parts {
            bytes.extend_from_slice(&view[at as usize..at as usize + size]);
        }
        Ok(bytes)
    }
}
