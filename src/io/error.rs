//! What can go wrong with a file of tensors.

use std::path::{Path, PathBuf};

/// Result of reading or writing tensors.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a tensor file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// Not a well-formed safetensors file.
    #[error("{path}: not a valid safetensors file: {detail}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Tensors that do not fit the model, all of them.
    #[error("{path} does not fit the model: {}", problems.join("; "))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// One entry a tensor: missing, unexpected, or both shapes.
        problems: Vec<String>,
    },
    /// The device refused the tensors.
    #[error(transparent)]
    Backend(#[from] crate::backend::Error),
}

impl Error {
    /// An I/O error of `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}
