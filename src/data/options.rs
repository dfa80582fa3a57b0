//! How the samples of a dataset are read.

use super::image::Decoding;

/// How samples are read.
#[derive(Clone, Debug)]
pub struct DatasetOptions {
    /// Key of the caption in a sample's JSON. A list under `captions` goes before it.
    pub caption_key: String,
    /// Skip samples without a caption; false for images with class names only.
    pub require_caption: bool,
    /// Every line of a `.txt` is a caption of its own, as retrieval sets are written.
    pub caption_lines: bool,
    /// Keep all samples and their decoded pixels in memory from the first epoch on: for data
    /// that are small.
    pub cache: bool,
    /// How images are decoded.
    pub decoding: Decoding,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            caption_key: "caption".into(),
            require_caption: true,
            caption_lines: false,
            cache: false,
            decoding: Decoding::default(),
        }
    }
}
