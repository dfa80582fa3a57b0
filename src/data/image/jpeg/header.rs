//! What stands in a JPEG before its first scan, read as Pillow's JpegImagePlugin reads it.

use super::super::{DecodeError, Format};

/// The markers up to the first scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub width: u16,
    pub height: u16,
    /// The low byte of the frame's marker: 0xC0 baseline, 0xC2 progressive, …
    pub frame: u8,
    /// Id and sampling factors of each component, horizontal and vertical.
    pub components: Vec<(u8, u8, u8)>,
    pub jfif: bool,
    /// The transform of an Adobe marker.
    pub adobe: Option<u8>,
    /// Components of the first scan.
    pub scanned: u8,
    /// Where the first scan's data begin.
    pub data: usize,
}

impl Header {
    /// Reads `bytes`, which begin as a JPEG does.
    ///
    /// Pillow reads the header before libjpeg does. What it refuses is refused here: samples that
    /// are not of 8 bits, two or more than four components, segments that the file's end cuts.
    ///
    /// # Errors
    /// [`DecodeError::Corrupt`], or [`DecodeError::Truncated`] for a file without a scan.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut header = Self::default();
        // The third byte is the 0xFF of the second marker.
        let mut at = 2;
        let truncated = || DecodeError::Truncated(Format::Jpeg.name());
        loop {
            // Junk before a marker is passed over.
            if *bytes.get(at).ok_or_else(truncated)? != 0xFF {
                at += 1;
                continue;
            }
            let marker = *bytes.get(at + 1).ok_or_else(truncated)?;
            match marker {
                0xFF => at += 1,
                0x00 | 0xC8 | 0xD0..=0xD9 | 0xF0..=0xFD => at += 2,
                0x01..=0xBF => return Err(corrupt("no marker found")),
                _ => {
                    let body = segment(bytes, at + 2).ok_or_else(truncated)?;
                    header.take(marker, body)?;
                    at += 4 + body.len();
                    if marker == 0xDA {
                        header.data = at;
                        return header.checked();
                    }
                }
            }
        }
    }

    fn take(&mut self, marker: u8, body: &[u8]) -> Result<(), DecodeError> {
        match marker {
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xDE => {
                let &[bits, h1, h0, w1, w0, count, ref components @ ..] = body else {
                    return Err(corrupt("the frame's header is too short"));
                };
                if bits != 8 {
                    return Err(corrupt(format!("samples of {bits} bits")));
                }
                if ![1, 3, 4].contains(&count) {
                    return Err(corrupt(format!("{count} components")));
                }
                self.height = u16::from_be_bytes([h1, h0]);
                self.width = u16::from_be_bytes([w1, w0]);
                self.frame = marker;
                let component = |c: &[u8]| (c[0], c[1] >> 4, c[1] & 15);
                self.components = components.chunks_exact(3).map(component).collect();
                if self.components.len() != usize::from(count) {
                    return Err(corrupt("the frame's header has a wrong length"));
                }
            }
            0xE0 if body.starts_with(b"JFIF\0") && body.len() >= 14 => self.jfif = true,
            0xEE if body.starts_with(b"Adobe") && body.len() >= 12 => self.adobe = Some(body[11]),
            0xDA => self.scanned = body.first().copied().unwrap_or(0),
            _ => {}
        }
        Ok(())
    }

    fn checked(self) -> Result<Self, DecodeError> {
        if self.components.is_empty() {
            return Err(corrupt("a scan before the frame's header"));
        }
        Ok(self)
    }

    /// Whether libjpeg takes three components for YCbCr: JFIF wins over Adobe's transform.
    pub(super) fn is_ycbcr(&self) -> bool {
        let ids = || self.components.iter().map(|c| c.0).eq([1, 2, 3]);
        match (self.jfif, self.adobe) {
            (true, _) => true,
            (false, Some(transform)) => transform == 1,
            (false, None) => ids(),
        }
    }
}

/// What a segment holds whose length stands at `at`; one shorter than its length field is empty.
fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    bytes.get(at + 2..at + length.max(2))
}

/// Where the image that is scanned from `at` on ends: after its end-of-image marker.
pub(super) fn end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr(0xFF, bytes.get(at..)?)?;
        match *bytes.get(at + 1)? {
            // A stuffed byte, a restart, or fill.
            0x00 | 0x01 | 0xD0..=0xD7 => at += 2,
            0xFF => at += 1,
            0xD9 => return Some(at + 2),
            0xD8 => return None,
            _ => at += 4 + segment(bytes, at + 2)?.len(),
        }
    }
}

fn corrupt(reason: impl ToString) -> DecodeError {
    DecodeError::corrupt(Format::Jpeg, reason)
}
