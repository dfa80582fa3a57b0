//! What can go wrong while recording or during backward.

use crate::backend;

/// Result of a recorded operation.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the tape or of an operation on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel refused.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A tracked variable went into a computation that has no backward.
    #[error("{op} has no backward pass, but its input is tracked: detach it if that is meant")]
    NoBackward {
        /// The operation.
        op: &'static str,
    },
    /// A checkpointed part failed when it ran again.
    #[error(transparent)]
    Recompute(Box<dyn std::error::Error + Send + Sync>),
    /// Backward from more than one element.
    #[error("backward starts from a scalar, not from shape {shape:?}")]
    NotScalar {
        /// The shape it was given.
        shape: Vec<usize>,
    },
    /// Backward from a variable that this tape did not record.
    #[error("backward from a variable that no recorded operation made")]
    NotRecorded,
}
