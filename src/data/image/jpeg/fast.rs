//! The common kinds of JPEG by zune-jpeg, which vectorises without an assembler.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::super::{RgbImage, convert};
use super::header::{self, Header};

/// The pixels of a whole JPEG of a common kind; `None` for any other, and for one with damage that
/// the decoder notices.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Option<RgbImage> {
    if !common(header) {
        return None;
    }
    let end = header::end(bytes, header.data)?;
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(u16::MAX.into())
        .set_max_height(u16::MAX.into());
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&bytes[..end]), options);
    let pixels = decoder.decode().ok()?;
    let (width, height) = decoder.dimensions()?;
    let pixels = match decoder.output_colorspace()? {
        ColorSpace::Luma => convert::grey(&pixels),
        _ => pixels,
    };
    let whole = pixels.len() == width * height * 3;
    let expected = (usize::from(header.width), usize::from(header.height));
    (whole && (width, height) == expected).then_some(RgbImage {
        width: width as u32,
        height: height as u32,
        pixels,
    })
}

/// Huffman-coded baseline or progressive; grey, or YCbCr in one first scan at 4:4:4, 4:2:2 or 4:2:0.
/// zune-jpeg reads other kinds wrongly, some without an error.
fn common(header: &Header) -> bool {
    let sampling = |c: &(u8, u8, u8)| (c.1, c.2);
    let components = &header.components;
    let layout = match &components[..] {
        [grey] => sampling(grey) == (1, 1),
        [luma, chroma @ ..] if chroma.len() == 2 => {
            [(1, 1), (2, 1), (2, 2)].contains(&sampling(luma))
                && chroma.iter().all(|c| sampling(c) == (1, 1))
                && header.is_ycbcr()
                // zune-jpeg lets an Adobe marker win over JFIF.
                && matches!(header.adobe, None | Some(1))
        }
        _ => false,
    };
    let interleaved = usize::from(header.scanned) == components.len();
    matches!(header.frame, 0xC0..=0xC2) && layout && interleaved
}
