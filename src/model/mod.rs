//! CLIP as open_clip defines it: configuration, both towers, parameters by open_clip's names.

mod clip;
mod config;
mod error;
pub mod inherit;
mod init;
mod parameters;
mod resnet;
mod text;
mod transformer;
mod vision;

pub use clip::{Clip, draw};
pub use config::{ClipConfig, Layers, TextConfig, VisionConfig};
pub use error::{Error, Result};
pub use parameters::{BatchNorm, Bound, Observations, Observed, Parameter, Parameters, Spec};
pub use resnet::{ConvLayer, convolutions};
