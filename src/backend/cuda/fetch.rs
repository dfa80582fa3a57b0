//! Values that come to the host while it goes on.

use super::Cuda;
use super::device::Device;
use super::storage::Operand;
use crate::backend::{Coming, Fetch, Result};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Values on their way to the host. Dropped before they are there, it waits for them: their memory is used again.
struct Arrival {
    device: Arc<dyn Device>,
    ticket: u64,
    collected: bool,
}

impl Coming for Arrival {
    fn wait(mut self: Box<Self>) -> Result<Vec<f32>> {
        self.collected = true;
        Ok(bytemuck::pod_collect_to_vec(
            &self.device.collect(self.ticket)?,
        ))
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.collected {
            // A failure here is an earlier kernel's, which the next call that can fail reports.
            let _ = self.device.collect(self.ticket);
        }
    }
}

/// See [`crate::backend::Backend::fetch`].
pub(super) fn fetch(cuda: &Cuda, tensors: &[&Tensor]) -> Result<Fetch> {
    let operands = tensors.iter().map(|t| cuda.read("fetch", t, DType::F32));
    let operands = operands.collect::<Result<Vec<_>>>()?;
    let sizes = tensors.iter().map(|t| 4 * t.len());
    let parts: Vec<_> = operands.iter().map(Operand::at).zip(sizes).collect();
    Ok(Fetch::Coming(Box::new(Arrival {
        ticket: cuda.device.fetch(&parts)?,
        collected: false,
        device: cuda.device.clone(),
    })))
}
