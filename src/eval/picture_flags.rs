//! The flags that say how pictures are decoded, shared by all programs.

use crate::data::image::{Alpha, Decoding, MAX_PIXELS, Speed};
use clap::Args;
use serde::{Deserialize, Serialize};

/// How pictures are decoded.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PictureFlags {
    /// What becomes of transparency.
    ///
    /// `drop` shows the colours under transparent pixels, as open_clip does; `white` lays the picture on white.
    #[arg(long, value_enum, default_value_t, help_heading = "Data")]
    pub alpha: Alpha,
    /// Pictures of more pixels are skipped; a picture's memory is in proportion to its pixels.
    #[arg(long, default_value_t = MAX_PIXELS, value_name = "N", help_heading = "Data",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub max_image_pixels: u64,
}

impl Default for PictureFlags {
    fn default() -> Self {
        Self {
            alpha: Alpha::default(),
            max_image_pixels: MAX_PIXELS,
        }
    }
}

impl PictureFlags {
    /// What the data room makes of them. Training takes [`Speed::Fast`], all else [`Speed::Exact`].
    pub fn decoding(&self, speed: Speed) -> Decoding {
        Decoding {
            speed,
            alpha: self.alpha,
            max_pixels: self.max_image_pixels,
        }
    }
}
