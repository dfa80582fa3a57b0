//! Encoded bytes to 8-bit RGB pixels: Pillow's `Image.open(…).convert("RGB")`.
//!
//! The format is recognised by content, never by file name. JPEG, PNG, GIF (the first frame), BMP, TIFF
//! and WebP are read; others are named when they are refused. What is damaged is treated as Pillow
//! 13 treats it.
//!
//! EXIF orientation is *not* applied: neither Pillow's `Image.open` nor open_clip's transforms
//! do, and models were trained on images as stored. Colour profiles are not applied either.

mod convert;
mod error;
mod format;
mod gif;
mod jpeg;
mod other;
mod png;
mod webp;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::convert::Alpha;
pub use self::error::DecodeError;
use self::format::Format;

/// Pixels that an image may have unless a flag says otherwise.
pub const MAX_PIXELS: u64 = 100_000_000;

/// Which decoder a JPEG takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Speed {
    /// libjpeg: every value is Pillow's.
    #[default]
    Exact,
    /// For training: common kinds by a faster decoder, whose values differ by a rounding.
    Fast,
}

/// How images are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoding {
    /// Exact or fast.
    pub speed: Speed,
    /// What becomes of alpha.
    pub alpha: Alpha,
    /// Images of more pixels are refused before anything is allocated for them. The memory that an
    /// image takes is in proportion to its pixels, at most about 20 bytes each.
    pub max_pixels: u64,
}

impl Default for Decoding {
    fn default() -> Self {
        Self {
            speed: Speed::Exact,
            alpha: Alpha::Drop,
            max_pixels: MAX_PIXELS,
        }
    }
}

impl Decoding {
    /// Decodes `bytes` to RGB.
    ///
    /// # Errors
    /// [`DecodeError`] says why not; a file cannot make this panic, and an image over
    /// [`Decoding::max_pixels`] is refused by its header alone.
    pub fn decode(&self, bytes: &[u8]) -> Result<RgbImage, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty);
        }
        let format = Format::of(bytes)
            .ok_or_else(|| DecodeError::Unrecognised(bytes[..bytes.len().min(8)].to_vec()))?
            .map_err(DecodeError::Unsupported)?;
        // Should a file find a panic in a decoder, it costs that sample only.
        let decoded = catch_unwind(AssertUnwindSafe(|| match format {
            Format::Jpeg => jpeg::decode(bytes, self),
            Format::Png => png::decode(bytes, self),
            Format::Gif => gif::decode(bytes, self),
            Format::WebP => webp::decode(bytes, self),
            Format::Bmp | Format::Tiff => other::decode(bytes, format, self),
        }));
        let corrupt = |reason: &str| Err(DecodeError::corrupt(format, reason));
        let image = decoded.unwrap_or_else(|_| corrupt("the decoder panicked"))?;
        if image.pixels.len() as u64 != u64::from(image.width) * u64::from(image.height) * 3 {
            return corrupt("the decoder returned a wrong size");
        }
        Ok(image)
    }

    fn check_size(&self, width: u64, height: u64) -> Result<(), DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::Empty);
        }
        if width.saturating_mul(height) > self.max_pixels {
            return Err(DecodeError::TooLarge {
                width,
                height,
                limit: self.max_pixels,
            });
        }
        Ok(())
    }
}

/// Decodes `bytes` to RGB by the default [`Decoding`]: exactly, without alpha.
///
/// # Errors
/// As [`Decoding::decode`].
pub fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    Decoding::default().decode(bytes)
}

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

#[cfg(test)]
mod tests {
    use ::image::{DynamicImage, ImageFormat};
    use std::io::Cursor;

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
        let glass_again = DynamicImage::from(glass.clone());
        let image = decode(&encode(glass.into(), ImageFormat::WebP)).unwrap();
        assert_eq!(image.pixels, [10, 20, 30, 0, 100, 200]);
        let white = Decoding {
            alpha: Alpha::White,
            ..Decoding::default()
        };
        let image = white
            .decode(&encode(glass_again, ImageFormat::WebP))
            .unwrap();
        assert_eq!(image.pixels, [255, 255, 255, 127, 177, 227]);
    }

    #[test]
    fn refuses_what_is_no_image() {
        assert_eq!(decode(b""), Err(DecodeError::Empty));
        let text = decode(b"<svg/>").unwrap_err();
        assert!(matches!(text, DecodeError::Unrecognised(_)), "{text}");
        assert!(decode(b"GIF89a\x01\x00").is_err());
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
