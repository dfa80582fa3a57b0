//! What flags and configuration files say, and what it means.

pub mod config;
pub mod error;
pub(crate) mod files;
pub mod values;
