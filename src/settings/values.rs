//! The words that flags and configuration files take as values.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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
