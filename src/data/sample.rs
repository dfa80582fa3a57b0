//! One image with its texts.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::image::{DecodeError, Decoding, RgbImage};
use super::skips::{SkipKind, Skips};

/// Where the encoded image is.
#[derive(Debug)]
pub enum ImageBytes {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file that is read when the sample is needed.
    File(PathBuf),
}

/// An image, still encoded, with its texts.
#[derive(Debug)]
pub struct Sample {
    /// Name within its shard, or the path of the image.
    pub key: String,
    /// The encoded image.
    pub image: ImageBytes,
    /// All captions, none empty. May be no caption where none is required.
    pub captions: Vec<String>,
    /// How often each caption is drawn, in proportion; empty for equally often.
    pub weights: Vec<f32>,
    /// Class name or number, as written.
    pub class: Option<String>,
    decoded: OnceLock<Result<RgbImage, (SkipKind, String)>>,
}

impl Sample {
    /// A sample not decoded yet.
    pub fn new(
        key: String,
        image: ImageBytes,
        captions: Vec<String>,
        class: Option<String>,
    ) -> Self {
        Self {
            key,
            image,
            captions,
            weights: Vec::new(),
            class,
            decoded: OnceLock::new(),
        }
    }

    /// The same with these weights of its captions.
    pub fn weighted(mut self, weights: Vec<f32>) -> Self {
        self.weights = weights;
        self
    }

    /// The number of the caption that `draw`, uniform in [0, 1), falls on; 0 where there is none.
    pub fn caption_at(&self, draw: f32) -> usize {
        let last = self.captions.len().saturating_sub(1);
        let sum: f32 = self.weights.iter().sum();
        let mut rest = draw * sum;
        for (i, weight) in self.weights.iter().enumerate() {
            rest -= weight;
            if rest < 0.0 {
                return i.min(last);
            }
        }
        last
    }

    /// The pixels; with `keep` they stay in memory for the next call, which gives them again whatever
    /// its `decoding`.
    ///
    /// # Errors
    /// The kind of skip and the reason.
    pub fn pixels(
        &self,
        decoding: &Decoding,
        keep: bool,
    ) -> Result<Cow<'_, RgbImage>, (SkipKind, String)> {
        if !keep {
            return self.decode(decoding).map(Cow::Owned);
        }
        match self.decoded.get_or_init(|| self.decode(decoding)) {
            Ok(image) => Ok(Cow::Borrowed(image)),
            Err(skip) => Err(skip.clone()),
        }
    }

    fn decode(&self, decoding: &Decoding) -> Result<RgbImage, (SkipKind, String)> {
        let decode = |bytes: &[u8]| {
            decoding.decode(bytes).map_err(|e: DecodeError| {
                let reason = format!("{}: {e}", self.key);
                (SkipKind::UndecodableImage, reason)
            })
        };
        match &self.image {
            ImageBytes::Bytes(bytes) => decode(bytes),
            ImageBytes::File(path) => match std::fs::read(path) {
                Ok(bytes) => decode(&bytes),
                Err(e) => Err((SkipKind::MissingFile, format!("{}: {e}", path.display()))),
            },
        }
    }
}

/// The account of a [`crate::data::Loader`] so far.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Samples delivered in batches.
    pub samples: u64,
    /// Samples and shards skipped. Those of a shard are counted when the reader, which is ahead
    /// of the consumer, leaves it.
    pub skips: Skips,
    /// Samples that the reader has given out, decodable or not.
    pub read: u64,
    /// Those among them that turned out unusable.
    pub failed: u64,
    /// Shards that the reader has begun; 0 for tables.
    pub shards: u64,
    /// Seconds that the consumer waited for batches.
    pub waited: f64,
}

impl Stats {
    /// Pairs that were seen, unusable ones included.
    pub fn seen(&self) -> u64 {
        self.read + self.skips.pairs().saturating_sub(self.failed)
    }
}
