//! Training: configuration, one step, the loop, checkpoints, logs.

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod flags;
pub mod interrupt;
pub mod log;
pub mod step;
pub mod teacher;
