//! The chunks of a PNG.
//!
//! As in Pillow, checksums count up to the first IDAT and no further, and only a chunk that the
//! file's end cuts is an error after it.

use super::super::DecodeError;
use super::kind::Kind;
use super::{corrupt, truncated};

/// Lengths below which Pillow refuses a chunk. What is in these chunks is not used.
const SHORTEST: [(&[u8; 4], usize); 6] = [
    (b"gAMA", 4),
    (b"cHRM", 32),
    (b"sRGB", 1),
    (b"pHYs", 9),
    (b"acTL", 8),
    (b"fcTL", 26),
];

/// What a PNG holds, its pixels still deflated.
pub(super) struct Chunks<'a> {
    pub width: u32,
    pub height: u32,
    pub kind: Kind,
    pub interlaced: bool,
    /// RGB of each index; further indices are black.
    pub palette: &'a [u8],
    /// The body of tRNS, empty if there is none.
    pub transparency: &'a [u8],
    /// The deflated pixels: the bodies of consecutive IDAT chunks, of which the last may be cut.
    pub data: Vec<&'a [u8]>,
    /// Where the first chunk after them begins.
    rest: usize,
}

/// A chunk's name, the part of its body that the file holds, and whether that is all of it.
struct Chunk<'a> {
    name: &'a [u8; 4],
    body: &'a [u8],
    whole: bool,
    next: usize,
}

/// The chunk at `at`; `None` where the file ends or no name is.
fn chunk(bytes: &[u8], at: usize) -> Option<Chunk<'_>> {
    let (&length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_first_chunk::<4>()?;
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    if !name.iter().all(word) {
        return None;
    }
    let length = u32::from_be_bytes(length) as usize;
    Some(Chunk {
        name,
        body: &rest[..length.min(rest.len())],
        whole: length <= rest.len(),
        // Its checksum may be missing.
        next: (at + 8).saturating_add(length).saturating_add(4),
    })
}

impl<'a> Chunks<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut header: Option<(u32, u32, Kind, bool)> = None;
        let (mut palette, mut transparency): (&[u8], &[u8]) = (&[], &[]);
        let mut at = 8;
        loop {
            let chunk = chunk(bytes, at)
                .ok_or_else(|| corrupt("neither a chunk nor image data where one should be"))?;
            match chunk.name {
                b"IDAT" => break,
                b"IEND" => return Err(corrupt("no image data")),
                _ => {}
            }
            check(bytes, at, &chunk)?;
            match chunk.name {
                b"IHDR" => header = Some(read_header(chunk.body)?),
                b"PLTE" => palette = chunk.body,
                b"tRNS" => transparency = chunk.body,
                _ => {}
            }
            at = chunk.next;
        }
        let (width, height, kind, interlaced) =
            header.ok_or_else(|| corrupt("image data before a header"))?;
        if kind.is_indexed() && palette.len() > 256 * 3 {
            return Err(corrupt("a palette of more than 256 colours"));
        }
        if transparency.len() < kind.key_length() && !transparency.is_empty() {
            return Err(corrupt("the tRNS chunk is too short"));
        }
        let mut data = Vec::new();
        while let Some(next) = chunk(bytes, at).filter(|c| c.name == b"IDAT") {
            data.push(next.body);
            at = next.next;
        }
        Ok(Self {
            width,
            height,
            kind,
            interlaced,
            palette,
            transparency,
            data,
            rest: at,
        })
    }

    /// Nothing after the pixels is cut short: Pillow reads it through, up to IEND.
    pub(super) fn check_rest(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut at = self.rest;
        while let Some(next) = chunk(bytes, at).filter(|c| c.name != b"IEND") {
            if !next.whole {
                return Err(truncated());
            }
            at = next.next;
        }
        Ok(())
    }
}

fn check(bytes: &[u8], at: usize, chunk: &Chunk<'_>) -> Result<(), DecodeError> {
    if !chunk.whole {
        return Err(truncated());
    }
    let name = String::from_utf8_lossy(chunk.name);
    let shortest = SHORTEST.iter().find(|(name, _)| *name == chunk.name);
    if shortest.is_some_and(|(_, length)| chunk.body.len() < *length) {
        return Err(corrupt(format!("the {name} chunk is too short")));
    }
    let end = at + 8 + chunk.body.len();
    let sum = bytes.get(end..end + 4).ok_or_else(truncated)?;
    if crc32fast::hash(&bytes[at + 4..end]).to_be_bytes() != sum {
        return Err(corrupt(format!("wrong checksum of the {name} chunk")));
    }
    Ok(())
}

fn read_header(body: &[u8]) -> Result<(u32, u32, Kind, bool), DecodeError> {
    let &[
        w3,
        w2,
        w1,
        w0,
        h3,
        h2,
        h1,
        h0,
        depth,
        colour,
        _,
        filter,
        interlace,
        ..,
    ] = body
    else {
        return Err(corrupt("the header is too short"));
    };
    if filter != 0 {
        return Err(corrupt(format!("unknown filter method {filter}")));
    }
    let kind = Kind::of(depth, colour).ok_or_else(|| {
        corrupt(format!(
            "colour type {colour} at {depth} bits is not defined"
        ))
    })?;
    let width = u32::from_be_bytes([w3, w2, w1, w0]);
    let height = u32::from_be_bytes([h3, h2, h1, h0]);
    Ok((width, height, kind, interlace != 0))
}
