//! Why bytes are no picture.

use super::Format;

/// Why bytes could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first bytes are those of no format that is known here.
    #[error("not a JPEG, PNG, WebP, GIF, BMP or TIFF image (it starts with {0:02x?})")]
    Unrecognised(Vec<u8>),
    /// A format that is known and not read.
    #[error("{0} images are not supported: convert them to JPEG or PNG")]
    Unsupported(&'static str),
    /// No bytes, or no pixels.
    #[error("the image is empty")]
    Empty,
    /// More pixels than [`super::Decoding::max_pixels`].
    #[error("{width} x {height} pixels are more than the limit of {limit} (--max-image-pixels)")]
    TooLarge {
        /// Columns by the header.
        width: u64,
        /// Rows by the header.
        height: u64,
        /// Pixels allowed.
        limit: u64,
    },
    /// The file ends before the image does.
    #[error("the {0} is truncated")]
    Truncated(&'static str),
    /// The decoder's complaint.
    #[error("{format}: {reason}")]
    Corrupt {
        /// "JPEG", "PNG", …
        format: &'static str,
        /// In the decoder's words.
        reason: String,
    },
}

impl DecodeError {
    pub(super) fn corrupt(format: Format, reason: impl ToString) -> Self {
        Self::Corrupt {
            format: format.name(),
            reason: reason.to_string(),
        }
    }
}
