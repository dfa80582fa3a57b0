//! The words that flags and configuration files take as values.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `--method`: a preset of loss weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The contrastive loss alone: no distillation.
    Clip,
    /// CLIP-KD: clip + crd + fd + icl.
    ClipKd,
    /// TinyCLIP: affinity mimicking alone.
    #[value(name = "tinyclip", alias = "tiny-clip")]
    #[serde(rename = "tinyclip")]
    TinyClip,
    /// CLIP-KD and the intra-modal divergence-weighted loss.
    #[default]
    IntraKd,
}

/// `--backend`: the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// The best device there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU through Vulkan, Metal or DirectX.
    Wgpu,
}

/// `--precision` of matrix products and stored activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    Fp32,
    /// bfloat16 products.
    #[value(name = "amp_bf16", alias = "amp-bf16")]
    AmpBf16,
    /// Half-precision products with loss scaling.
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

/// `--lr-scheduler` after the linear warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrScheduler {
    /// Half a cosine down to zero.
    #[default]
    Cosine,
    /// Constant.
    Const,
}

/// `--intra-weights`: how anchors of the intra-modal loss are weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntraWeights {
    /// By their divergence, differentiated through.
    #[default]
    Divergence,
    /// By their divergence over a constant sum.
    Stable,
    /// By their divergence, as constants.
    Detached,
    /// All the same.
    Uniform,
    /// By their contrastive cross-entropy.
    Clip,
}

/// `--intra-modality`: which intra-modal terms take part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntraModality {
    /// Image to image and text to text.
    #[default]
    Both,
    /// Image to image.
    Image,
    /// Text to text.
    Text,
}

/// `--intra-scale`: α of the student's intra-modal logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum IntraScale {
    /// The student's contrastive scale, trained by this loss as well.
    #[default]
    Shared,
    /// The same without gradient.
    Detached,
    /// A constant.
    Fixed(f64),
}

impl FromStr for IntraScale {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "shared" => Ok(Self::Shared),
            "detached" => Ok(Self::Detached),
            _ => match s.parse::<f64>() {
                Ok(x) if x.is_finite() && x > 0.0 => Ok(Self::Fixed(x)),
                _ => Err(format!(
                    "`{s}` is none of shared, detached, a positive number"
                )),
            },
        }
    }
}

impl TryFrom<String> for IntraScale {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<IntraScale> for String {
    fn from(s: IntraScale) -> Self {
        s.to_string()
    }
}

impl fmt::Display for IntraScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("shared"),
            Self::Detached => f.write_str("detached"),
            Self::Fixed(x) => write!(f, "{x}"),
        }
    }
}
