//! BMP, TIFF and still WebP, by the `image` crate.

use std::io::Cursor;

use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{DecodeError, Decoding, Format, RgbImage, convert};

/// Bytes that headers and tables of any size of picture may take.
const HEADERS: u64 = 16 << 20;
/// Bytes a pixel: 8 of 16-bit RGBA, and the decoder's own buffers.
const BYTES: u64 = 12;

pub(super) fn decode(
    bytes: &[u8],
    format: Format,
    decoding: &Decoding,
) -> Result<RgbImage, DecodeError> {
    let kind = match format {
        Format::Bmp => ImageFormat::Bmp,
        Format::Tiff => ImageFormat::Tiff,
        _ => ImageFormat::WebP,
    };
    let failed = |e: ::image::ImageError| DecodeError::corrupt(format, e);
    let limits = |bytes: u64| {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(bytes);
        limits
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), kind);
    reader.limits(limits(HEADERS));
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    decoding.check_size(width.into(), height.into())?;
    let pixels = u64::from(width) * u64::from(height);
    let enough = limits(HEADERS.saturating_add(pixels.saturating_mul(BYTES)));
    decoder.set_limits(enough).map_err(failed)?;
    let decoded = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let high = |values: &[u16]| -> Vec<u8> { values.iter().map(|v| (v >> 8) as u8).collect() };
    let rgba = |values: &[u8]| convert::rgba(values, decoding.alpha);
    let pixels = match &decoded {
        // Pillow keeps 16-bit grey as it is and clips it when converting; of other samples of 16
        // bits it takes the high bytes.
        DynamicImage::ImageLuma16(grey) => {
            let clipped: Vec<u8> = grey.as_raw().iter().map(|&v| v.min(255) as u8).collect();
            convert::grey(&clipped)
        }
        DynamicImage::ImageRgb16(rgb) => high(rgb.as_raw()),
        DynamicImage::ImageRgba16(image) => rgba(&high(image.as_raw())),
        other if other.color().has_alpha() => rgba(decoded.to_rgba8().as_raw()),
        _ => decoded.into_rgb8().into_raw(),
    };
    let pixels = match format {
        Format::Bmp => bmp_of_16_bits(bytes, pixels),
        _ => pixels,
    };
    Ok(RgbImage {
        width,
        height,
        pixels,
    })
}

/// A BMP of 16 bits a pixel has 5 bits a channel, or 6 of green. Pillow spreads v over 255 / 31 or 255 / 63
/// and cuts off; `image` rounds.
fn bmp_of_16_bits(bytes: &[u8], mut pixels: Vec<u8>) -> Vec<u8> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
    let depth = bytes.get(28..30) == Some(&[16, 0]) && word(14) != Some(&[12, 0, 0, 0]);
    if !depth {
        return pixels;
    }
    let by_masks = word(30) == Some(&[3, 0, 0, 0]);
    let green = match by_masks && word(58) == Some(&0x7E0u32.to_le_bytes()) {
        true => 6,
        false => 5,
    };
    for pixel in pixels.as_chunks_mut::<3>().0 {
        for (value, bits) in pixel.iter_mut().zip([5, green, 5]) {
            *value = (u16::from(*value >> (8 - bits)) * 255 / ((1 << bits) - 1)) as u8;
        }
    }
    pixels
}
