//! Values that come to the host while it goes on.

use super::Gpu;
use super::device::Device;
use super::operand::Operand;
use crate::backend::{Fetch, PendingFetch, Result};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Values being copied to the host. Dropped early, it waits for them: their memory is reused.
struct Ticket {
    device: Arc<dyn Device>,
    ticket: u64,
    collected: bool,
}

impl PendingFetch for Ticket {
    fn wait(mut self: Box<Self>) -> Result<Vec<f32>> {
        self.collected = true;
        Ok(bytemuck::pod_collect_to_vec(
            &self.device.collect(self.ticket)?,
        ))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.collected {
            // A failure here is an earlier kernel's, which the next call that can fail reports.
            let _ = self.device.collect(self.ticket);
        }
    }
}

/// See [`crate::backend::Backend::fetch`].
pub(super) fn fetch(gpu: &Gpu, tensors: &[&Tensor]) -> Result<Fetch> {
    let operands = tensors.iter().map(|t| gpu.read("fetch", t, DType::F32));
    let operands = operands.collect::<Result<Vec<_>>>()?;
    let sizes = tensors.iter().map(|t| 4 * t.len());
    let parts: Vec<_> = operands.iter().map(Operand::at).zip(sizes).collect();
    Ok(Fetch::Pending(Box::new(Ticket {
        ticket: gpu.device.fetch(&parts)?,
        collected: false,
        device: gpu.device.clone(),
    })))
}

#[cfg(test)]
mod tests {
    use crate::backend::{AdamW, Storage};

    /// In any order, some never read, as they were when they were asked for.
    #[test]
    fn values_are_those_of_when_they_were_asked_for() {
        let devices = crate::backend::cuda::both_ways(false, "asynchronous downloads");
        for gpu in devices.into_iter().flatten() {
            let mut coming = Vec::new();
            for n in 1..40usize {
                let first: Vec<f32> = (0..n * n).map(|i| (i * n) as f32).collect();
                let mut x = gpu.upload(&[n * n], &first).unwrap();
                let y = gpu.upload(&[1], &[n as f32]).unwrap();
                coming.push((first, gpu.fetch(&[&x]).unwrap()));
                gpu.clamp(&mut x, -1.0, -1.0).unwrap();
                let both = [vec![-1.0; n * n], vec![n as f32]].concat();
                coming.push((both, gpu.fetch(&[&x, &y]).unwrap()));
                if n % 5 == 0 {
                    drop(coming.swap_remove(n));
                }
            }
            let before = gpu.waits();
            for (want, values) in coming.into_iter().rev() {
                assert!(!values.is_ready());
                assert_eq!(values.wait().unwrap(), want);
            }
            assert_eq!(gpu.waits(), before);
        }
    }
}
