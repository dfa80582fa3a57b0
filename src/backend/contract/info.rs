//! What a backend says about itself.

use crate::backend::Op;
use crate::tensor::DType;

/// Name, device, and what runs on it.
pub trait Info: Send + Sync + std::fmt::Debug {
    /// Short name: `cpu`, `cuda`, `wgpu`.
    fn name(&self) -> &'static str;

    /// One line about the device, for the log.
    fn describe(&self) -> String;

    /// Whether `op` runs, forward and backward, on a first operand of this element type and shape (for attention and
    /// attention pooling: see [`Op`]). What is promised here runs; what is denied answers
    /// [`Error::Unsupported`](crate::backend::Error::Unsupported).
    fn supports(&self, op: Op, dtype: DType, shape: &[usize]) -> bool;

    /// Images that a frozen tower should see at once. By default all.
    fn frozen_batch(&self) -> usize {
        usize::MAX
    }

    /// Packed texts of `tokens` tokens should be padded to a multiple of this, where a device is faster at shapes that
    /// it has met before. By default nothing is padded.
    fn text_bucket(&self, tokens: usize) -> usize {
        let _ = tokens;
        1
    }

    /// Whether gradients need a scaled loss ([`LossScale`](super::LossScale)): in half precision small ones would be zero.
    fn scales_losses(&self) -> bool {
        false
    }
}
