//! Where each packed sequence begins and ends.

use super::{Backend, Result};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Sequences packed one after another without padding: offsets on the host, for launch sizes, and
/// on the device, for kernels. Cloning shares both.
#[derive(Clone, Debug)]
pub struct Segments {
    offsets: Arc<[usize]>,
    device: Tensor,
}

impl Segments {
    /// Packs sequences of the given lengths.
    pub fn new(backend: &dyn Backend, lengths: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut offsets = vec![0];
        for length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let host: Vec<i32> = offsets.iter().map(|&o| o as i32).collect();
        Ok(Self {
            device: backend.upload_i32(&[host.len()], &host)?,
            offsets: offsets.into(),
        })
    }

    /// Start of each sequence, and the total length last: `count + 1` entries.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// [`Segments::offsets`] as an i32 tensor.
    pub fn device(&self) -> &Tensor {
        &self.device
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Total number of tokens.
    pub fn total(&self) -> usize {
        self.offsets[self.count()]
    }
}
