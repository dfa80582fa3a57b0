//! How much each loss weighs, and the presets.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Named choices of weights; `--method`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
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

/// The factor of each loss in the sum; a loss of weight 0 is not computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weights {
    /// Of [`clip`](super::clip()).
    pub clip: f32,
    /// Of [`crd`](super::crd()).
    pub crd: f32,
    /// Of [`fd`](super::fd()).
    pub fd: f32,
    /// Of [`icl`](super::icl()).
    pub icl: f32,
    /// Of [`cross_kd`](super::cross_kd()).
    pub cross_kd: f32,
    /// Of [`fd`](super::fd()) of masked images.
    pub mfd: f32,
    /// Of [`gd`](super::gd()).
    pub gd: f32,
    /// Of [`afd`](super::afd()).
    pub afd: f32,
    /// Of [`affinity`](super::affinity()).
    pub affinity: f32,
    /// Of [`intra`](super::intra()).
    pub intra: f32,
}

impl From<Method> for Weights {
    fn from(method: Method) -> Self {
        let clip = Self {
            clip: 1.0,
            ..Self::default()
        };
        let clip_kd = Self {
            crd: 1.0,
            fd: 2000.0,
            icl: 1.0,
            ..clip
        };
        match method {
            Method::Clip => clip,
            Method::ClipKd => clip_kd,
            Method::TinyClip => Self {
                affinity: 1.0,
                ..Self::default()
            },
            Method::IntraKd => Self {
                intra: 1.0,
                ..clip_kd
            },
        }
    }
}

impl Weights {
    /// Whether there is nothing to minimise.
    pub fn are_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Whether any loss reads the teacher.
    pub fn need_teacher(&self) -> bool {
        let alone = Self {
            clip: self.clip,
            ..Self::default()
        };
        *self != alone
    }

    /// Whether any loss compares features with the teacher's, which then must have its width.
    pub fn need_projection(&self) -> bool {
        self.need_interactive_scale() || [self.fd, self.mfd, self.gd].iter().any(|&w| w != 0.0)
    }

    /// Whether any loss relates the student's features to the teacher's, under a scale of its own.
    pub fn need_interactive_scale(&self) -> bool {
        self.icl != 0.0 || self.cross_kd != 0.0
    }
}
