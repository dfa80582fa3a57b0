//! AdamW, learning-rate schedules, and the names of what they step over.

mod adamw;
mod recipe;
mod schedule;

pub use adamw::{AdamW, AdamWConfig, LOGIT_SCALE_MAX, collect};
pub use recipe::Recipe;
pub use schedule::{Schedule, ScheduleKind};
