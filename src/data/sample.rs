//! One image with its texts, and the account of those that had to be skipped.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::image::{DecodeError, Decoding, RgbImage};

/// Examples kept for each kind of skip.
const EXAMPLES: usize = 3;

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
            class,
            decoded: OnceLock::new(),
        }
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
                Err(e) => Err((SkipKind::MissingImage, format!("{}: {e}", path.display()))),
            },
        }
    }
}

/// Why a sample, or what is left of a shard, was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SkipKind {
    /// No image in the group, or no such file.
    MissingImage,
    /// No caption in the group.
    MissingCaption,
    /// A caption of blanks.
    EmptyCaption,
    /// A caption that is not UTF-8.
    NonUtf8Caption,
    /// The JSON that should hold the caption is malformed.
    MalformedJson,
    /// An image that cannot be decoded.
    UndecodableImage,
    /// A file within a shard too large to be an image or a text.
    OversizedEntry,
    /// The rest of a truncated or damaged shard.
    DamagedShard,
}

impl fmt::Display for SkipKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingImage => "missing image",
            Self::MissingCaption => "missing caption",
            Self::EmptyCaption => "empty caption",
            Self::NonUtf8Caption => "caption not UTF-8",
            Self::MalformedJson => "malformed JSON",
            Self::UndecodableImage => "undecodable image",
            Self::OversizedEntry => "oversized entry",
            Self::DamagedShard => "truncated or damaged shard",
        })
    }
}

/// What was skipped: a count for each kind, and a few examples with their reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skips(BTreeMap<SkipKind, (u64, Vec<String>)>);

impl Skips {
    /// Counts one skip; `example` says where and why.
    pub fn add(&mut self, kind: SkipKind, example: String) {
        let (count, examples) = self.0.entry(kind).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            // A decoder may quote bytes of a damaged file: no line end or terminal code among them.
            let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
            examples.push(example.chars().map(shown).collect());
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (&kind, (n, more)) in &other.0 {
            let (count, examples) = self.0.entry(kind).or_default();
            *count += n;
            let room = EXAMPLES - examples.len();
            examples.extend(more.iter().take(room).cloned());
        }
    }

    /// How many of one kind.
    pub fn count(&self, kind: SkipKind) -> u64 {
        self.0.get(&kind).map_or(0, |(n, _)| *n)
    }

    /// How many of all kinds.
    pub fn total(&self) -> u64 {
        self.0.values().map(|(n, _)| n).sum()
    }

    /// Kind, count and examples, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (SkipKind, u64, &[String])> {
        self.0.iter().map(|(k, (n, e))| (*k, *n, e.as_slice()))
    }
}

/// One line: `2 empty caption (a.tar: 0001), 1 undecodable image (…)`; `none` if nothing was skipped.
impl fmt::Display for Skips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, (kind, count, examples)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {kind}")?;
            if let Some(example) = examples.first() {
                write!(f, " ({example})")?;
            }
        }
        Ok(())
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
    /// Seconds that the consumer waited for batches.
    pub waited: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_stay_on_one_line() {
        let mut skips = Skips::default();
        skips.add(
            SkipKind::DamagedShard,
            "a.tar: not a number: \x1b[2J\r\n".into(),
        );
        let text = skips.to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(
            text.starts_with("1 truncated or damaged shard (a.tar: not"),
            "{text}"
        );
    }
}
