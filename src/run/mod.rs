//! A run and its folder: the loop over epochs, checkpoints, logs, evaluation, and what a run would cost.
//!
//! [`stages::train`] does what a configuration says. A run is a folder: its configuration, its logs, its
//! checkpoints, its report.

pub mod checkpoint;
pub mod cost;
mod data_account;
pub mod device;
pub mod dry_run;
pub mod embedded;
pub mod epochs;
pub(crate) mod evaluation;
pub(crate) mod folder;
pub mod inheritance;
pub mod interrupt;
pub mod log;
mod log_line;
pub mod models;
pub mod source;
pub mod stages;
pub mod tensorboard;
pub mod training;
