//! The flags that choose a device.

use super::values::{Device, Precision};
use crate::backend::DeviceChoice;
use clap::Args;
use serde::{Deserialize, Serialize};

/// Where a program computes, and how precisely.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceFlags {
    /// Device.
    #[arg(long, value_enum, default_value_t, help_heading = "Device")]
    pub backend: Device,
    /// Which of several GPUs: its number in --list-devices, or with wgpu a part of its name.
    #[arg(long, default_value_t, value_name = "N|NAME", help_heading = "Device")]
    pub device: DeviceChoice,
    /// Precision of matrix products.
    #[arg(long, value_enum, default_value_t, help_heading = "Device")]
    pub precision: Precision,
    /// Threads of the CPU backend (default: one per core).
    #[arg(long, value_name = "N", help_heading = "Device")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}
