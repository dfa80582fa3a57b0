//! Encoded bytes to 8-bit RGB pixels.
//!
//! The format is recognised by content, never by file name: JPEG (baseline, progressive, grey,
//! CMYK), PNG (palettes, grey, 16 bits) and WebP (animations: the first frame). Samples of 16
//! bits become 8; alpha is composited on white, because transparent pixels often carry arbitrary
//! colours (Pillow's `convert("RGB")`, which open_clip uses, would show them).
//!
//! EXIF orientation is *not* applied: neither Pillow's `Image.open` nor open_clip's transforms
//! do, and models were trained on images as stored.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Images of more pixels than this are refused before anything is allocated for them.
pub const MAX_PIXELS: u64 = 100_000_000;

/// An image of 8-bit RGB pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
    /// `[height, width, 3]`, row-major.
    pub pixels: Vec<u8>,
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} x {})", self.width, self.height)
    }
}

impl RgbImage {
    /// An image of one colour.
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        let pixels = colour.repeat(width as usize * height as usize);
        Self {
            width,
            height,
            pixels,
        }
    }

    /// A copy of the `width` x `height` region whose upper left corner is (`left`, `top`), cut
    /// to the image.
    pub fn crop(&self, left: u32, top: u32, width: u32, height: u32) -> Self {
        let left = left.min(self.width - 1);
        let top = top.min(self.height - 1);
        let width = width.clamp(1, self.width - left);
        let height = height.clamp(1, self.height - top);
        let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
        for y in top..top + height {
            let start = (y as usize * self.width as usize + left as usize) * 3;
            pixels.extend_from_slice(&self.pixels[start..start + width as usize * 3]);
        }
        Self {
            width,
            height,
            pixels,
        }
    }
}

/// Why bytes could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first bytes are those of no supported format.
    #[error("not a JPEG, PNG or WebP image (it starts with {0:02x?})")]
    Unrecognised(Vec<u8>),
    /// No bytes, or no pixels.
    #[error("the image is empty")]
    Empty,
    /// More pixels than [`MAX_PIXELS`].
    #[error("{width} x {height} pixels are more than the limit of {MAX_PIXELS}")]
    TooLarge {
        /// Columns by the header.
        width: u64,
        /// Rows by the header.
        height: u64,
    },
    /// The file ends before the image does.
    #[error("the JPEG is truncated: no end-of-image marker after its last scan")]
    Truncated,
    /// The decoder's complaint.
    #[error("{format}: {reason}")]
    Corrupt {
        /// "JPEG", "PNG" or "WebP".
        format: &'static str,
        /// In the decoder's words.
        reason: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(Self::Png),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
        }
    }
}

/// Decodes `bytes` to RGB.
///
/// # Errors
/// [`DecodeError`] says why not; a file cannot make this panic, and an image over
/// [`MAX_PIXELS`] is refused by its header alone.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = Format::of(bytes)
        .ok_or_else(|| DecodeError::Unrecognised(bytes[..bytes.len().min(8)].to_vec()))?;
    // The decoders are not ours: should a file find a panic in one, it costs that sample only.
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Jpeg => decode_jpeg(bytes),
        Format::Png => decode_other(bytes, ImageFormat::Png, format),
        Format::WebP => decode_other(bytes, ImageFormat::WebP, format),
    }));
    let image = decoded.unwrap_or_else(|_| Err(corrupt(format, "the decoder panicked")))?;
    if image.pixels.len() as u64 != u64::from(image.width) * u64::from(image.height) * 3 {
        return Err(corrupt(format, "the decoder returned a wrong size"));
    }
    Ok(image)
}

fn corrupt(format: Format, reason: impl ToString) -> DecodeError {
    DecodeError::Corrupt {
        format: format.name(),
        reason: reason.to_string(),
    }
}

fn check_size(width: u64, height: u64) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError::Empty);
    }
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(DecodeError::TooLarge { width, height });
    }
    Ok(())
}

fn decode_jpeg(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    // A JPEG cut short decodes to a picture with a grey rest; Pillow refuses it, so do we. Inside
    // a scan 0xFF is always stuffed, so these two markers cannot be image data.
    let scan = find_last(bytes, [0xFF, 0xDA]);
    let end = find_last(bytes, [0xFF, 0xD9]);
    if let Some(scan) = scan
        && end.is_none_or(|end| end < scan)
    {
        return Err(DecodeError::Truncated);
    }
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(u16::MAX.into())
        .set_max_height(u16::MAX.into());
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let failed = |e: zune_jpeg::errors::DecodeErrors| corrupt(Format::Jpeg, e);
    decoder.decode_headers().map_err(failed)?;
    let (width, height) = decoder
        .dimensions()
        .ok_or_else(|| corrupt(Format::Jpeg, "no dimensions"))?;
    check_size(width as u64, height as u64)?;
    let pixels = decoder.decode().map_err(failed)?;
    let pixels = match decoder.output_colorspace() {
        Some(ColorSpace::Luma) => pixels.iter().flat_map(|&y| [y; 3]).collect(),
        _ => pixels,
    };
    Ok(RgbImage {
        width: width as u32,
        height: height as u32,
        pixels,
    })
}

fn find_last(bytes: &[u8], marker: [u8; 2]) -> Option<usize> {
    bytes.windows(2).rposition(|w| w == marker)
}

fn decode_other(bytes: &[u8], kind: ImageFormat, format: Format) -> Result<RgbImage, DecodeError> {
    let failed = |e: ::image::ImageError| corrupt(format, e);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), kind);
    // At most 8 bytes a pixel (16-bit RGBA) and the decoder's own buffers.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_PIXELS * 10);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    let decoded = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let pixels = if decoded.color().has_alpha() {
        on_white(decoded.into_rgba8().as_raw())
    } else {
        decoded.into_rgb8().into_raw()
    };
    Ok(RgbImage {
        width,
        height,
        pixels,
    })
}

/// Composites RGBA on white, rounding to nearest.
fn on_white(rgba: &[u8]) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(rgba.len() / 4 * 3);
    for p in rgba.chunks_exact(4) {
        let alpha = u32::from(p[3]);
        for &c in &p[..3] {
            pixels.push(((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn png_of_16_bits_and_alpha() {
        let deep = ::image::ImageBuffer::from_pixel(2, 1, ::image::Rgb([0xFFFFu16, 0x8080, 0]));
        let image = decode(&encode(DynamicImage::ImageRgb16(deep), ImageFormat::Png)).unwrap();
        assert_eq!(image.pixels, [255, 128, 0, 255, 128, 0]);
        let mut glass = ::image::RgbaImage::from_pixel(2, 1, ::image::Rgba([10, 20, 30, 0]));
        glass.put_pixel(1, 0, ::image::Rgba([0, 100, 200, 128]));
        let image = decode(&encode(glass.into(), ImageFormat::WebP)).unwrap();
        assert_eq!(image.pixels, [255, 255, 255, 127, 177, 227]);
    }

    #[test]
    fn refuses_what_is_no_image() {
        assert_eq!(decode(b""), Err(DecodeError::Empty));
        let gif = decode(b"GIF89a\x01\x00").unwrap_err();
        assert!(matches!(gif, DecodeError::Unrecognised(_)), "{gif}");
        assert!(decode(&[0xFF, 0xD8, 0xFF]).is_err());
    }

    #[test]
    fn refuses_a_bomb_by_its_header() {
        let mut png = encode(::image::GrayImage::new(1, 1).into(), ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0xF0, 0, 0, 0, 0xF0, 0]);
        let crc = crc32fast::hash(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        let error = decode(&png).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { .. }), "{error}");
    }
}
