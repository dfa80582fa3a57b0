//! The words that flags and configuration files take as values.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// `--backend`: the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// CUDA if it works, else a GPU through wgpu, else the CPU; the log says which and why.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU through Vulkan, Metal or DirectX 12.
    Wgpu,
}

/// `--device`: which of a backend's devices.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DeviceChoice {
    /// By its number in the list of devices.
    Number(usize),
    /// By a part of its name, in any case.
    Name(String),
}

impl Default for DeviceChoice {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl FromStr for DeviceChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let number = text.parse().map(Self::Number);
        Ok(number.unwrap_or_else(|_| Self::Name(text.to_owned())))
    }
}

impl Display for DeviceChoice {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// `--precision` of matrix products and stored activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    Fp32,
    /// Matrix products in bfloat16, sums in single precision.
    #[value(name = "amp_bf16", alias = "amp-bf16")]
    AmpBf16,
    /// Matrix products in half precision, sums in single precision, with dynamic loss scaling: wgpu.
    #[value(name = "amp_fp16", alias = "amp-fp16", alias = "amp")]
    AmpFp16,
}

/// `--augment`: what happens to a training image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// As in evaluation: resize and centre crop.
    None,
    /// Random resized crop, scale `--aug-scale`.
    #[default]
    Crop,
    /// Random rotation, scale and shift: for small drawn images.
    Affine,
}
