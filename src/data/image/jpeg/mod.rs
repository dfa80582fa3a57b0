//! JPEG: exactly as Pillow decodes it, or fast.
//!
//! The exact decoder is libjpeg ([`exact`]): every value is Pillow's. The fast one ([`fast`]) reads
//! the kinds that nearly all photographs are of; its values differ from libjpeg's by a rounding
//! here and there. What it does not read, and what is damaged, goes to the exact one.

mod exact;
mod fast;
mod header;

use super::{DecodeError, Decoding, RgbImage, Speed};
use header::Header;

pub(super) fn decode(bytes: &[u8], decoding: &Decoding) -> Result<RgbImage, DecodeError> {
    let header = Header::read(bytes)?;
    decoding.check_size(header.width.into(), header.height.into())?;
    if decoding.speed == Speed::Fast
        && let Some(image) = fast::decode(bytes, &header)
    {
        return Ok(image);
    }
    exact::decode(bytes, &header)
}
