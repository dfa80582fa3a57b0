//! What flags and configuration files say, and what it means. Nothing is opened, read or computed here.
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
