//! The flags that choose a device.

use super::values::{Device, Precision};
use clap::Args;
use serde::{Deserialize, Serialize};

/// Where a program computes, and how precisely.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceFlags {
    /// Device.
    #[arg(long, value_enum, default_value_t, help_heading = "Device")]
    pub backend: Device,
    /// Which of several GPUs, counted from 0.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Device")]
    pub device: usize,
    /// Precision of matrix products.
    #[arg(long, value_enum, default_value_t, help_heading = "Device")]
    pub precision: Precision,
    /// Threads of the CPU backend (default: one per core).
    #[arg(long, value_name = "N", help_heading = "Device")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}
