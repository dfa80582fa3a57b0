//! The error type of the data room.

use std::path::PathBuf;

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
    /// An epoch does not hold enough usable samples for one batch.
    #[error(
        "a batch of {batch} does not fit the data: only {samples} usable samples; \
         take a smaller batch size or more data"
    )]
    BatchTooLarge {
        /// Samples per batch asked for.
        batch: usize,
        /// Usable samples in the epoch.
        samples: u64,
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
