//! WebP, of an animation the first frame.
//!
//! The decoder lays an animation's first frame over its canvas, which loses the colours under transparent
//! pixels. Pillow shows them, so the frame is taken out of the file and decoded as a still picture.

use super::{Alpha, DecodeError, Decoding, Format, RgbImage, other};

/// Bits of the feature byte of VP8X.
const ANIMATION: u8 = 1 << 1;
const ALPHA: u8 = 1 << 4;

pub(super) fn decode(bytes: &[u8], decoding: &Decoding) -> Result<RgbImage, DecodeError> {
    let truncated = || DecodeError::Truncated(Format::WebP.name());
    let length = bytes.get(4..8).and_then(|b| b.first_chunk::<4>());
    let length = u32::from_le_bytes(*length.ok_or_else(truncated)?) as usize;
    let bytes = bytes
        .get(..length.saturating_add(8))
        .ok_or_else(truncated)?;
    let Some(canvas) = Canvas::of(bytes) else {
        return other::decode(bytes, Format::WebP, decoding);
    };
    decoding.check_size(canvas.width.into(), canvas.height.into())?;
    let frame = Frame::first(bytes)
        .ok_or_else(|| DecodeError::corrupt(Format::WebP, "an animation without a frame"))?;
    let picture = other::decode(&frame.still, Format::WebP, decoding)?;
    let (right, bottom) = (
        u64::from(frame.left) + u64::from(picture.width),
        u64::from(frame.top) + u64::from(picture.height),
    );
    if right > canvas.width.into() || bottom > canvas.height.into() {
        let reason = "the first frame leaves the canvas";
        return Err(DecodeError::corrupt(Format::WebP, reason));
    }
    let around = match decoding.alpha {
        Alpha::Drop => [0; 3],
        Alpha::White => [255; 3],
    };
    let mut image = RgbImage::filled(canvas.width, canvas.height, around);
    let row = picture.width as usize * 3;
    for (y, line) in picture.pixels.chunks_exact(row).enumerate() {
        let place = (frame.top as usize + y) * canvas.width as usize + frame.left as usize;
        image.pixels[place * 3..place * 3 + row].copy_from_slice(line);
    }
    Ok(image)
}

/// The canvas of an animation.
struct Canvas {
    width: u32,
    height: u32,
}

impl Canvas {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (_, body, _) = chunk(bytes, 12).filter(|c| c.0 == b"VP8X")?;
        (body.first()? & ANIMATION != 0).then_some(())?;
        Some(Self {
            width: number(body, 4)? + 1,
            height: number(body, 7)? + 1,
        })
    }
}

/// A frame as a file of its own.
struct Frame {
    left: u32,
    top: u32,
    still: Vec<u8>,
}

impl Frame {
    fn first(bytes: &[u8]) -> Option<Self> {
        let mut at = 12;
        let body = loop {
            let (name, body, next) = chunk(bytes, at)?;
            if name == b"ANMF" {
                break body;
            }
            at = next;
        };
        let (header, data) = body.split_at_checked(16)?;
        let mut features = vec![0; 10];
        if data.starts_with(b"ALPH") {
            features[0] = ALPHA;
        }
        features[4..].copy_from_slice(&header[6..12]);
        let mut still = b"RIFF\0\0\0\0WEBP".to_vec();
        if features[0] != 0 {
            still.extend_from_slice(b"VP8X\x0a\0\0\0");
            still.extend_from_slice(&features);
        }
        still.extend_from_slice(data);
        let length = u32::try_from(still.len() - 8).ok()?;
        still[4..8].copy_from_slice(&length.to_le_bytes());
        Some(Self {
            left: number(header, 0)? * 2,
            top: number(header, 3)? * 2,
            still,
        })
    }
}

/// Name and body of the chunk at `at`, and where the next is.
fn chunk(bytes: &[u8], at: usize) -> Option<(&[u8; 4], &[u8], usize)> {
    let (name, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let next = at
        .checked_add(8)?
        .checked_add(length)?
        .checked_add(length & 1)?;
    Some((name, rest.get(..length)?, next))
}

/// Three bytes, the lowest first.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..)?.first_chunk::<3>()?;
    Some(u32::from_le_bytes([b[0], b[1], b[2], 0]))
}
