//! The first frame of a GIF.

use ::gif::{ColorOutput, DecodeOptions, DecodingError, Frame};

use super::{Alpha, DecodeError, Decoding, Format, RgbImage};

/// The frame on its screen as Pillow has it: around a frame smaller than the screen is the transparent
/// colour, or else the first of the palette; a frame that leaves the screen widens it.
pub(super) fn decode(bytes: &[u8], decoding: &Decoding) -> Result<RgbImage, DecodeError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(::gif::MemoryLimit::Bytes(
        decoding
            .max_pixels
            .try_into()
            .unwrap_or(std::num::NonZeroU64::MAX),
    ));
    let mut decoder = options.read_info(bytes).map_err(failed)?;
    let global: Vec<u8> = decoder.global_palette().unwrap_or_default().to_vec();
    let screen = (u32::from(decoder.width()), u32::from(decoder.height()));
    let frame = decoder
        .next_frame_info()
        .map_err(failed)?
        .ok_or(DecodeError::Empty)?
        .clone();
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (columns, rows) = (u32::from(frame.width), u32::from(frame.height));
    let width = screen.0.max(left + columns);
    let height = screen.1.max(top + rows);
    decoding.check_size(width.into(), height.into())?;
    let mut indices = vec![0; columns as usize * rows as usize];
    decoder.read_into_buffer(&mut indices).map_err(failed)?;
    let palette = palette(&frame, &global, decoding.alpha);
    let around = palette[usize::from(frame.transparent.unwrap_or(0))];
    let mut image = RgbImage::filled(width, height, around);
    for (y, line) in indices.chunks_exact(columns.max(1) as usize).enumerate() {
        let start = ((top as usize + y) * width as usize + left as usize) * 3;
        let places = image.pixels[start..].as_chunks_mut::<3>().0;
        for (place, &index) in places.iter_mut().zip(line) {
            *place = palette[usize::from(index)];
        }
    }
    Ok(image)
}

/// The colour of each index: greys where there is no palette, black beyond its end.
fn palette(frame: &Frame<'_>, global: &[u8], alpha: Alpha) -> [[u8; 3]; 256] {
    let bytes = frame.palette.as_deref().unwrap_or(global);
    let mut colours = match bytes.is_empty() {
        true => std::array::from_fn(|i| [i as u8; 3]),
        false => [[0; 3]; 256],
    };
    for (colour, bytes) in colours.iter_mut().zip(bytes.as_chunks::<3>().0) {
        *colour = *bytes;
    }
    if alpha == Alpha::White
        && let Some(index) = frame.transparent
    {
        colours[usize::from(index)] = [255; 3];
    }
    colours
}

fn failed(error: DecodingError) -> DecodeError {
    let end = |e: &std::io::Error| e.kind() == std::io::ErrorKind::UnexpectedEof;
    match &error {
        DecodingError::Io(e) if end(e) => DecodeError::Truncated(Format::Gif.name()),
        _ => DecodeError::corrupt(Format::Gif, error),
    }
}
