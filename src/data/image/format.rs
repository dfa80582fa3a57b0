//! Formats, recognised by the first bytes.

/// A format that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// The format of `bytes`; of one that is known and not read, its name.
    pub(super) fn of(bytes: &[u8]) -> Option<Result<Self, &'static str>> {
        let box_type = || (bytes.get(4..8)? == b"ftyp").then(|| bytes.get(8..12))?;
        Some(Ok(match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Self::Jpeg,
            b if b.starts_with(b"\x89PNG\r\n\x1a\n") => Self::Png,
            b if b.starts_with(b"RIFF") && b.get(8..12) == Some(b"WEBP") => Self::WebP,
            b if b.starts_with(b"GIF87a") || b.starts_with(b"GIF89a") => Self::Gif,
            b if b.starts_with(b"BM") => Self::Bmp,
            b if b.starts_with(b"II*\0") || b.starts_with(b"MM\0*") => Self::Tiff,
            b if b.starts_with(b"II+\0") || b.starts_with(b"MM\0+") => Self::Tiff,
            [0xFF, 0x0A, ..] => return Some(Err("JPEG XL")),
            b if b.get(4..12) == Some(b"JXL \r\n\x87\n") => return Some(Err("JPEG XL")),
            b if b.get(4..12) == Some(b"jP  \r\n\x87\n") => return Some(Err("JPEG 2000")),
            _ => match box_type()? {
                b"avif" | b"avis" => return Some(Err("AVIF")),
                b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
                    return Some(Err(if avif_compatible(bytes) {
                        "AVIF"
                    } else {
                        "HEIC"
                    }));
                }
                _ => return None,
            },
        }))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }
}

/// Whether a file of the common brand `mif1` lists `avif` among its compatible brands.
fn avif_compatible(bytes: &[u8]) -> bool {
    let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    let brands = bytes.get(16..length.min(bytes.len())).unwrap_or_default();
    brands.chunks_exact(4).any(|brand| brand == b"avif")
}
