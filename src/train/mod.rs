//! Training: configuration, one step, the loop, checkpoints, logs.
//!
//! [`command_line::parse`] reads a command line, [`run::train`] does what it says, [`demo::run`] is what
//! happens without one. A run is a folder: its configuration, its logs, its checkpoints, its report.

pub mod ablation;
pub mod anchors;
pub mod checkpoint;
pub mod command_line;
pub mod config;
pub mod cost;
pub mod demo;
pub mod device;
pub mod dry_run;
pub mod error;
mod evaluation;
pub mod feature_cache;
mod files;
pub mod flags;
pub mod flight;
pub mod gates;
mod gradients;
mod heads;
pub mod inheritance;
pub mod interrupt;
pub mod log;
mod log_line;
mod masking;
pub mod report;
mod rows;
pub mod run;
pub mod setup;
pub mod source;
pub mod stages;
pub mod step;
pub mod teacher;
pub mod tensorboard;
