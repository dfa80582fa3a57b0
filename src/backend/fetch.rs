//! Values on their way from the device to the host.

use super::Result;

/// Values that [`Backend::fetch`](super::Backend::fetch) was asked for.
pub enum Fetch {
    /// They are here.
    Here(Vec<f32>),
    /// They come as soon as the device has done what was asked of it before.
    Coming(Box<dyn Coming>),
}

/// The other end of a [`Fetch`] that takes time.
pub trait Coming: Send {
    /// Waits for the values.
    ///
    /// # Errors
    /// What failed on the device meanwhile.
    fn wait(self: Box<Self>) -> Result<Vec<f32>>;
}

impl Fetch {
    /// Whether [`Fetch::wait`] returns at once.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// The values of all tensors, one behind the other.
    ///
    /// # Errors
    /// What failed on the device meanwhile.
    pub fn wait(self) -> Result<Vec<f32>> {
        match self {
            Self::Here(values) => Ok(values),
            Self::Coming(values) => values.wait(),
        }
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(values) => f.debug_tuple("Here").field(values).finish(),
            Self::Coming(_) => f.write_str("Coming"),
        }
    }
}
