//! The error type of the data room.

use std::path::PathBuf;

use super::skips::{SkipKind, Skips};

/// What can stop the reading of data. A single bad sample is not among them: it is skipped and
/// counted, see [`crate::data::Stats`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shard that was named does not exist.
    #[error("shard not found: {}", path.display())]
    MissingShard {
        /// The path as expanded.
        path: PathBuf,
    },
    /// A shard pattern cannot be understood or matches nothing.
    #[error("shard pattern '{pattern}': {reason}")]
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A table of image paths and captions is malformed.
    #[error("{}, line {line}: {reason}", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// Line of the file, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The data hold fewer usable samples than a batch.
    #[error(
        "a batch of {batch} does not fit the data: only {samples} usable samples{}; \
         take a smaller batch size or more data",
        beside(skips)
    )]
    BatchTooLarge {
        /// Samples per batch asked for.
        batch: usize,
        /// Usable samples in the data.
        samples: u64,
        /// What was skipped.
        skips: Skips,
    },
    /// The data hold no usable sample.
    #[error("no usable pair of image and caption; found: {skips}{}", hint(skips))]
    NoPairs {
        /// What was skipped.
        skips: Skips,
    },
    /// More of the data is unusable than may be.
    #[error(
        "{lost} of {seen} {what} are unusable, more than --max-bad-fraction {most} allows: {skips}"
    )]
    TooManyBad {
        /// How many are lost.
        lost: u64,
        /// Of how many.
        seen: u64,
        /// Of what: pairs or shards.
        what: &'static str,
        /// The share that may be.
        most: f64,
        /// What was skipped.
        skips: Skips,
    },
    /// A setting has a value that cannot work.
    #[error("{0}")]
    Config(String),
    /// A worker thread failed for a reason other than the data.
    #[error("data worker failed: {0}")]
    Worker(String),
}

/// Result of the data room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `, skipped: …`, if anything was.
fn beside(skips: &Skips) -> String {
    match skips.total() {
        0 => String::new(),
        _ => format!(", skipped: {skips}"),
    }
}

/// What to try, as far as the counts tell.
fn hint(skips: &Skips) -> &'static str {
    let images = skips.count(SkipKind::MissingImage);
    let captions = skips.count(SkipKind::MissingCaption);
    let keys = "; --image-key, --text-key and --json-text-key name the members that are read";
    if skips.count(SkipKind::MissingFile) > 0 {
        return "; --data-root is the folder that relative paths of a table start from";
    }
    match (images, captions) {
        // Every image and every text alone.
        (1.., 1..) if images == captions => {
            "; the members of a sample must follow one another in the tar (tar --sort=name)"
        }
        (1.., _) | (_, 1..) => keys,
        _ => "",
    }
}
