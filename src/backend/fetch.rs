//! Asynchronous downloads.

use super::Result;

/// Values that [`Storage::fetch`](super::Storage::fetch) was asked for.
pub enum Fetch {
    /// They have arrived.
    Ready(Vec<f32>),
    /// They arrive as soon as the device has done what was asked before.
    Pending(Box<dyn PendingFetch>),
}

/// A download under way.
pub trait PendingFetch: Send {
    /// Waits for the values.
    ///
    /// # Errors
    /// What failed on the device meanwhile.
    fn wait(self: Box<Self>) -> Result<Vec<f32>>;
}

impl Fetch {
    /// Whether [`Fetch::wait`] returns at once.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// The values of all tensors, one after another.
    ///
    /// # Errors
    /// What failed on the device meanwhile.
    pub fn wait(self) -> Result<Vec<f32>> {
        match self {
            Self::Ready(values) => Ok(values),
            Self::Pending(values) => values.wait(),
        }
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready(values) => f.debug_tuple("Ready").field(values).finish(),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}
