//! How a run optimises.

use super::{AdamWConfig, Schedule};

/// Learning rate, clipping and AdamW's constants.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// AdamW's constants.
    pub adamw: AdamWConfig,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// Clips the gradient to this norm.
    pub max_norm: Option<f64>,
    /// Parts of a batch that go through the towers one after another.
    pub accum_freq: usize,
}

impl Recipe {
    /// The same for a run of `total` steps.
    pub fn over(self, total: u64) -> Self {
        let schedule = Schedule {
            total,
            ..self.schedule
        };
        Self { schedule, ..self }
    }
}
