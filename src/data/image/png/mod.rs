//! PNG as Pillow reads it, damage included.
//!
//! The `png` crate refuses files that Pillow reads: without an end, or with data that stop early.
//! So the chunks ([`chunks`]) and the rows ([`rows`]) are read here, which also leaves every
//! ancillary chunk as it is: colour profiles and texts are never inflated. Of an animation the
//! first picture is taken.

mod chunks;
mod kind;
mod rows;

use super::{DecodeError, Decoding, Format, RgbImage};
use chunks::Chunks;

pub(super) fn decode(bytes: &[u8], decoding: &Decoding) -> Result<RgbImage, DecodeError> {
    let chunks = Chunks::read(bytes)?;
    decoding.check_size(chunks.width.into(), chunks.height.into())?;
    let pixels = rows::read(&chunks, decoding.alpha)?;
    chunks.check_rest(bytes)?;
    Ok(RgbImage {
        width: chunks.width,
        height: chunks.height,
        pixels,
    })
}

fn corrupt(reason: impl ToString) -> DecodeError {
    DecodeError::corrupt(Format::Png, reason)
}

fn truncated() -> DecodeError {
    DecodeError::Truncated(Format::Png.name())
}
