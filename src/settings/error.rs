//! What ends a run early, and with which exit code.

use std::path::{Path, PathBuf};

/// Result of training.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a run. Its message is one line: what is wrong, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag, a configuration or an input that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A run that had begun and cannot go on.
    #[error("{0}")]
    Failed(String),
    /// The run was asked to stop, and has saved itself.
    #[error("{0}")]
    Interrupted(String),
}

impl Error {
    /// 2 for bad usage or input, 1 for a failed run, 130 after Ctrl-C, as shells count it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Failed(_) => 1,
            Error::Interrupted(_) => 130,
        }
    }
}

impl From<crate::eval::Error> for Error {
    fn from(e: crate::eval::Error) -> Self {
        match e {
            crate::eval::Error::Input(_) => input(e),
            crate::eval::Error::Failed(_) => failed(e),
        }
    }
}

/// What is wrong with an input ends with 2, a worker's failure with 1.
impl From<crate::data::Error> for Error {
    fn from(e: crate::data::Error) -> Self {
        match e {
            crate::data::Error::Worker(_) => failed(e),
            e => input(e),
        }
    }
}

/// A [`Error::Usage`].
pub fn usage<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Usage(message.into()))
}

/// Wraps an input's error, which names its place itself.
pub fn input(error: impl std::fmt::Display) -> Error {
    Error::Usage(one_line(&error.to_string()))
}

/// Wraps an error met while running.
pub fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(one_line(&error.to_string()))
}

/// A failed file operation: `what` ("write", "create"), where, and why; says so when the disk is
/// full.
pub fn file(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Failed(format!(
        "cannot {what} {}: {}",
        path.display(),
        io_reason(error)
    ))
}

/// A file of tensors that cannot be written.
pub fn unwritten(error: crate::io::Error) -> Error {
    match error {
        crate::io::Error::Io { path, source } => file("write", &path, &source),
        error => failed(error),
    }
}

/// As [`file()`], for an input that cannot be read.
pub fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Usage(format!(
        "cannot read {}: {error}",
        PathBuf::from(path).display()
    ))
}

fn io_reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull => {
            "the disk is full; free some space and run again with --resume latest".into()
        }
        QuotaExceeded => "the disk quota is used up; run again with --resume latest".into(),
        FileTooLarge => "the file would exceed the size limit (ulimit -f)".into(),
        _ => error.to_string(),
    }
}

fn one_line(message: &str) -> String {
    message
        .split('\n')
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}
