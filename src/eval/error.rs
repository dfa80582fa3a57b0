//! What ends an evaluation.

use std::path::Path;

/// Result of the evaluation room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an evaluation. Its message is one line: what is wrong, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag or an input that cannot be used.
    #[error("{0}")]
    Input(String),
    /// An evaluation that had begun and cannot go on.
    #[error("{0}")]
    Failed(String),
}

/// An [`Error::Input`].
pub fn input<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Input(message.into()))
}

/// As [`input`], for a file or folder that cannot be read.
pub fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Input(format!("cannot read {}: {error}", path.display()))
}

impl From<crate::data::Error> for Error {
    fn from(e: crate::data::Error) -> Self {
        match e {
            crate::data::Error::Worker(_) => Self::Failed(e.to_string()),
            e => Self::Input(e.to_string()),
        }
    }
}

impl From<crate::model::Error> for Error {
    fn from(e: crate::model::Error) -> Self {
        Self::Failed(e.to_string())
    }
}

impl From<crate::backend::Error> for Error {
    fn from(e: crate::backend::Error) -> Self {
        Self::Failed(e.to_string())
    }
}
