//! Learning rate by step, as open_clip's `scheduler.py` defines it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What follows the warm-up; open_clip's `--lr-scheduler`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Half a cosine down to zero.
    #[default]
    Cosine,
    /// Constant.
    Const,
}

/// Linear warm-up, then cosine to 0 or constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub kind: ScheduleKind,
    /// The rate at the end of the warm-up.
    pub base: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Steps of the whole run.
    pub total: u64,
}

impl Schedule {
    /// The rate of the 0-based `step`.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.base * (step + 1) as f64 / self.warmup as f64;
        }
        match self.kind {
            ScheduleKind::Const => self.base,
            ScheduleKind::Cosine => {
                let span = self.total.saturating_sub(self.warmup).max(1) as f64;
                let progress = ((step - self.warmup) as f64 / span).min(1.0);
                0.5 * (1.0 + (std::f64::consts::PI * progress).cos()) * self.base
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_then_falls_to_zero() {
        let s = Schedule {
            kind: ScheduleKind::Cosine,
            base: 1.0,
            warmup: 4,
            total: 12,
        };
        assert_eq!([s.at(0), s.at(3), s.at(4)], [0.25, 1.0, 1.0]);
        assert!((s.at(8) - 0.5).abs() < 1e-12);
        assert!(s.at(12).abs() < 1e-12 && s.at(99).abs() < 1e-12);
        assert_eq!(
            Schedule {
                kind: ScheduleKind::Const,
                ..s
            }
            .at(11),
            1.0
        );
        assert_eq!(Schedule { warmup: 0, ..s }.at(0), 1.0);
    }
}
