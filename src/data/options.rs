//! How the samples of a dataset are read.

use super::image::Decoding;

/// Members that hold the image, by extension, unless others are named: open_clip's default.
pub const IMAGE_KEYS: &str = "jpg;png;jpeg;webp";
/// Members that hold the caption, by extension, unless others are named: open_clip's default.
pub const TEXT_KEYS: &str = "txt";

/// Where captions of a shard's samples are.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum CaptionSource {
    /// The list `captions` of the JSON, else the `.txt`, else `caption` of the JSON.
    #[default]
    Usual,
    /// The first of these members that has a text: `--text-key`.
    Members(Vec<String>),
    /// These keys of the JSON: `--json-text-key`.
    Json {
        /// The keys, the preferred one first.
        keys: Vec<String>,
        /// A weight for each of the first of them, `--json-text-key-probs`; empty to take the first key with
        /// a text.
        weights: Vec<f32>,
    },
}

/// How samples are read.
#[derive(Clone, Debug)]
pub struct DatasetOptions {
    /// Extensions of a shard's members that hold the image, the preferred one first.
    pub image_keys: Vec<String>,
    /// Where its captions are.
    pub captions: CaptionSource,
    /// Every line of a text is a caption of its own, as CLIP_benchmark writes retrieval sets.
    pub caption_lines: bool,
    /// Skip samples without a caption; false for images with class names only.
    pub require_caption: bool,
    /// Keep all samples and their decoded pixels in memory from the first epoch on: for data
    /// that are small.
    pub cache: bool,
    /// How images are decoded.
    pub decoding: Decoding,
}

impl Default for DatasetOptions {
    fn default() -> Self {
        Self {
            image_keys: keys(IMAGE_KEYS),
            captions: CaptionSource::default(),
            caption_lines: false,
            require_caption: true,
            cache: false,
            decoding: Decoding::default(),
        }
    }
}

impl DatasetOptions {
    /// Extensions of the members that may hold the caption, the preferred one first.
    pub(super) fn text_keys(&self) -> Vec<String> {
        match &self.captions {
            CaptionSource::Usual => keys(TEXT_KEYS),
            CaptionSource::Members(keys) => keys.clone(),
            CaptionSource::Json { .. } => Vec::new(),
        }
    }
}

/// open_clip's list of keys, `jpg;png;jpeg;webp`, in lower case as extensions are compared.
pub fn keys(text: &str) -> Vec<String> {
    let each = text.split(';').map(str::trim).filter(|k| !k.is_empty());
    each.map(str::to_ascii_lowercase).collect()
}
