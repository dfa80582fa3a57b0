//! What flags and configuration files say, and what it means. No data, model or device is opened here.
//!
//! [`config::Config`] is what flags and files say; [`meaning::Settings`] is what it means, resolved once, and what a
//! run is given.

pub mod config;
pub mod device;
pub mod error;
pub(crate) mod files;
pub mod inherit;
pub mod keys;
pub mod meaning;
mod rules;
pub(crate) mod sizes;
pub mod values;
