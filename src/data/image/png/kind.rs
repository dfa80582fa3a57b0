//! What the samples of a PNG's row mean.

use super::super::convert::{Alpha, on_white};
use super::chunks::Chunks;

/// Colour types, as IHDR counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Grey,
    Rgb,
    Indexed,
    GreyAlpha,
    Rgba,
}

/// Colour type and bits of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    colour: Colour,
    /// 1, 2, 4, 8 or 16.
    depth: u8,
}

impl Kind {
    /// The kinds that the format defines.
    pub(super) fn of(depth: u8, colour: u8) -> Option<Self> {
        let (colour, depths): (Colour, &[u8]) = match colour {
            0 => (Colour::Grey, &[1, 2, 4, 8, 16]),
            2 => (Colour::Rgb, &[8, 16]),
            3 => (Colour::Indexed, &[1, 2, 4, 8]),
            4 => (Colour::GreyAlpha, &[8, 16]),
            6 => (Colour::Rgba, &[8, 16]),
            _ => return None,
        };
        depths.contains(&depth).then_some(Self { colour, depth })
    }

    pub(super) fn is_indexed(self) -> bool {
        self.colour == Colour::Indexed
    }

    /// Bytes that tRNS needs to name the transparent colour.
    pub(super) fn key_length(self) -> usize {
        match self.colour {
            Colour::Grey => 2,
            Colour::Rgb => 6,
            _ => 0,
        }
    }

    /// Bits of a pixel.
    pub(super) fn bits(self) -> usize {
        let samples = match self.colour {
            Colour::Grey | Colour::Indexed => 1,
            Colour::GreyAlpha => 2,
            Colour::Rgb => 3,
            Colour::Rgba => 4,
        };
        samples * usize::from(self.depth)
    }
}

/// Turns unfiltered rows to RGB.
pub(super) struct Painter {
    kind: Kind,
    /// RGB of every index.
    palette: [[u8; 3]; 256],
    /// The colour that tRNS makes transparent, as samples; asked for only on white.
    key: Option<[u16; 3]>,
    alpha: Alpha,
}

impl Painter {
    pub(super) fn new(chunks: &Chunks<'_>, alpha: Alpha) -> Self {
        let mut palette = [[0; 3]; 256];
        for (colour, bytes) in palette.iter_mut().zip(chunks.palette.as_chunks::<3>().0) {
            *colour = *bytes;
        }
        let transparency = chunks.transparency;
        if alpha == Alpha::White && chunks.kind.is_indexed() {
            for (colour, &a) in palette.iter_mut().zip(transparency) {
                *colour = on_white(*colour, a);
            }
        }
        let samples = transparency.as_chunks::<2>().0;
        let sample = |i: usize| samples.get(i).map(|b| u16::from_be_bytes(*b));
        let key = match chunks.kind.colour {
            Colour::Grey => sample(0).map(|grey| [grey; 3]),
            Colour::Rgb => (|| Some([sample(0)?, sample(1)?, sample(2)?]))(),
            _ => None,
        };
        Self {
            kind: chunks.kind,
            palette,
            key: key.filter(|_| alpha == Alpha::White),
            alpha,
        }
    }

    /// Gives `pixel` the colour of each pixel of an unfiltered row, in order.
    ///
    /// 16 bits become 8 as in Pillow: colours and alpha by their high bytes; grey, which it keeps in a
    /// 16-bit mode and clips when converting, by the smaller of itself and 255.
    #[inline(always)]
    pub(super) fn paint(&self, row: &[u8], count: usize, mut pixel: impl FnMut([u8; 3])) {
        let (kind, high) = (self.kind, usize::from(self.kind.depth == 16));
        let step = kind.bits() / 8;
        // Each sample of 8 bits, or the high byte of one of 16.
        let at = |p: &[u8], sample: usize| p[sample << high];
        match (kind.colour, kind.depth) {
            (Colour::Rgb, 8) if self.key.is_none() => {
                row.as_chunks::<3>().0.iter().for_each(|p| pixel(*p));
            }
            (Colour::Rgb, _) => row.chunks_exact(step).for_each(|p| {
                let sample = |i: usize| wide(&p[i << high..(i + 1) << high]);
                let hidden = self.key == Some([sample(0), sample(1), sample(2)]);
                pixel(if hidden {
                    [255; 3]
                } else {
                    [at(p, 0), at(p, 1), at(p, 2)]
                });
            }),
            (Colour::Rgba, _) => row.chunks_exact(step).for_each(|p| {
                pixel(self.laid([at(p, 0), at(p, 1), at(p, 2)], at(p, 3)));
            }),
            (Colour::GreyAlpha, _) => row.chunks_exact(step).for_each(|p| {
                pixel(self.laid([at(p, 0); 3], at(p, 1)));
            }),
            (Colour::Grey, 16) => row.as_chunks::<2>().0.iter().for_each(|p| {
                let grey = u16::from_be_bytes(*p);
                pixel(self.grey(grey, grey.min(255) as u8));
            }),
            (Colour::Grey, depth) => {
                let unit = 255 / ((1u16 << depth) - 1);
                unpacked(row, depth, count, |v| {
                    pixel(self.grey(v.into(), (u16::from(v) * unit) as u8));
                });
            }
            (Colour::Indexed, depth) => {
                unpacked(row, depth, count, |v| pixel(self.palette[usize::from(v)]));
            }
        }
    }

    fn grey(&self, sample: u16, value: u8) -> [u8; 3] {
        let hidden = self.key.is_some_and(|key| key[0] == sample);
        [if hidden { 255 } else { value }; 3]
    }

    fn laid(&self, colour: [u8; 3], alpha: u8) -> [u8; 3] {
        match self.alpha {
            Alpha::Drop => colour,
            Alpha::White => on_white(colour, alpha),
        }
    }
}

/// A sample of one or two bytes.
fn wide(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |value, &b| value << 8 | u16::from(b))
}

/// The first `count` samples of 1, 2, 4 or 8 bits in a row.
#[inline(always)]
fn unpacked(row: &[u8], depth: u8, count: usize, mut each: impl FnMut(u8)) {
    if depth == 8 {
        return row.iter().for_each(|&v| each(v));
    }
    let mask = (1 << depth) - 1;
    let of_byte = 8 / usize::from(depth);
    for i in 0..count {
        let shift = 8 - depth as usize * (i % of_byte + 1);
        each(row[i / of_byte] >> shift & mask);
    }
}
