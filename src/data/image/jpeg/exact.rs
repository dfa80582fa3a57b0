//! JPEG by libjpeg (MozJPEG's fork of libjpeg-turbo), driven as Pillow's JpegDecode.c drives it.
//!
//! The source suspends at the file's end, so that a truncated file is known from a damaged one:
//! the first is an error, the second, as with Pillow, a picture with damage in it. Errors of
//! libjpeg leave its C code by unwinding; warnings are counted by it and otherwise ignored.

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg_sys::{
    J_COLOR_SPACE, JPEG_LIB_VERSION, c_int, jpeg_CreateDecompress, jpeg_common_struct,
    jpeg_decompress_struct, jpeg_destroy_decompress, jpeg_error_mgr, jpeg_finish_decompress,
    jpeg_read_header, jpeg_read_scanlines, jpeg_resync_to_restart, jpeg_source_mgr,
    jpeg_start_decompress, jpeg_std_error,
};

use super::super::{DecodeError, Format, RgbImage, convert};
use super::header::Header;

/// jpeglib.h's answers of `jpeg_read_header`, which the binding leaves out.
const JPEG_SUSPENDED: c_int = 0;
const JPEG_HEADER_TABLES_ONLY: c_int = 2;

/// What an error of libjpeg unwinds with: its message.
struct Failure(String);

pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<RgbImage, DecodeError> {
    let result = catch_unwind(AssertUnwindSafe(|| Decoder::new(bytes).decode(header)));
    result.unwrap_or_else(|panic| match panic.downcast::<Failure>() {
        Ok(failure) => Err(corrupt(failure.0)),
        Err(other) => resume_unwind(other),
    })
}

fn corrupt(reason: impl ToString) -> DecodeError {
    DecodeError::corrupt(Format::Jpeg, reason)
}

/// libjpeg's state, which holds pointers into itself and must stay where it is.
struct Decoder<'a> {
    state: Box<jpeg_decompress_struct>,
    _error: Box<jpeg_error_mgr>,
    _source: Box<jpeg_source_mgr>,
    _bytes: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        // SAFETY: all three are C structs of numbers, pointers and optional functions, for which
        // zeros are valid; libjpeg fills them. The boxes live as long as the decoder, which keeps
        // `bytes` borrowed.
        unsafe {
            let mut error: Box<jpeg_error_mgr> = Box::new(MaybeUninit::zeroed().assume_init());
            jpeg_std_error(&mut error);
            error.error_exit = Some(error_exit);
            error.output_message = Some(output_message);
            let mut source = Box::new(jpeg_source_mgr {
                next_input_byte: bytes.as_ptr(),
                bytes_in_buffer: bytes.len(),
                init_source: Some(nothing),
                fill_input_buffer: Some(suspend),
                skip_input_data: Some(skip),
                resync_to_restart: Some(jpeg_resync_to_restart),
                term_source: Some(nothing),
            });
            let mut state: Box<jpeg_decompress_struct> =
                Box::new(MaybeUninit::zeroed().assume_init());
            state.common.err = &mut *error;
            jpeg_CreateDecompress(
                &mut *state,
                JPEG_LIB_VERSION,
                size_of::<jpeg_decompress_struct>(),
            );
            state.src = &mut *source;
            Self {
                state,
                _error: error,
                _source: source,
                _bytes: bytes,
            }
        }
    }

    fn decode(mut self, header: &Header) -> Result<RgbImage, DecodeError> {
        let truncated = || Err(DecodeError::Truncated(Format::Jpeg.name()));
        let state = &mut *self.state;
        // SAFETY: `state` was made by `jpeg_CreateDecompress`, and the calls come in libjpeg's order.
        unsafe {
            loop {
                match jpeg_read_header(state, 0) {
                    JPEG_SUSPENDED => return truncated(),
                    JPEG_HEADER_TABLES_ONLY => {}
                    _ => break,
                }
            }
            let size = (u32::from(header.width), u32::from(header.height));
            if (state.image_width, state.image_height) != size {
                return Err(corrupt("two frames of different sizes"));
            }
            let channels = header.components.len();
            state.out_color_space = match channels {
                1 => J_COLOR_SPACE::JCS_GRAYSCALE,
                3 => J_COLOR_SPACE::JCS_RGB,
                _ => J_COLOR_SPACE::JCS_CMYK,
            };
            if jpeg_start_decompress(state) == 0 {
                return truncated();
            }
            let row = size.0 as usize * channels;
            if state.output_width as usize * state.output_components as usize != row {
                return Err(corrupt("the decoder returned a wrong size"));
            }
            let mut values = vec![0; row * size.1 as usize];
            for line in values.chunks_exact_mut(row) {
                if jpeg_read_scanlines(state, &mut line.as_mut_ptr(), 1) != 1 {
                    return truncated();
                }
            }
            // What is wrong after the last row spoils no pixel; Pillow lets it pass unless it is
            // an error.
            jpeg_finish_decompress(state);
            Ok(RgbImage {
                width: size.0,
                height: size.1,
                pixels: match channels {
                    1 => convert::grey(&values),
                    3 => values,
                    _ => {
                        // Adobe's CMYK is inverted, and Pillow takes any CMYK for Adobe's.
                        values.iter_mut().for_each(|v| *v = 255 - *v);
                        convert::cmyk(&values)
                    }
                },
            })
        }
    }
}

impl Drop for Decoder<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `jpeg_CreateDecompress`, and destroyed once.
        unsafe { jpeg_destroy_decompress(&mut self.state) }
    }
}

/// libjpeg's longest message (JMSG_LENGTH_MAX).
const MESSAGE: usize = 200;

unsafe extern "C-unwind" fn error_exit(state: &mut jpeg_common_struct) {
    let mut message = [0u8; MESSAGE];
    // SAFETY: `err` is the decoder's. The function is C's `void (j_common_ptr, char *)`, to which the
    // binding gives an argument that is not to be written; it writes at most MESSAGE bytes.
    unsafe {
        if let Some(format) = (*state.err).format_message {
            type Formatter = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut u8);
            let format: Formatter = std::mem::transmute(format);
            format(state, message.as_mut_ptr());
        }
    }
    let end = message.iter().position(|&b| b == 0).unwrap_or(MESSAGE);
    let text = String::from_utf8_lossy(&message[..end]).into_owned();
    resume_unwind(Box::new(Failure(text)));
}

unsafe extern "C-unwind" fn output_message(_: &mut jpeg_common_struct) {}

unsafe extern "C-unwind" fn nothing(_: &mut jpeg_decompress_struct) {}

/// There is no more: libjpeg stops, and its caller learns of it.
unsafe extern "C-unwind" fn suspend(_: &mut jpeg_decompress_struct) -> mozjpeg_sys::boolean {
    0
}

unsafe extern "C-unwind" fn skip(state: &mut jpeg_decompress_struct, bytes: mozjpeg_sys::c_long) {
    // SAFETY: `src` is the decoder's, its pointer has `bytes_in_buffer` bytes ahead.
    unsafe {
        let source = &mut *state.src;
        let skipped = usize::try_from(bytes)
            .unwrap_or(0)
            .min(source.bytes_in_buffer);
        source.next_input_byte = source.next_input_byte.add(skipped);
        source.bytes_in_buffer -= skipped;
    }
}
