//! Pixels of other kinds to RGB, as Pillow's `convert("RGB")` makes them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// `--alpha`: what becomes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alpha {
    /// Left out, so that the colours under transparent pixels show: open_clip's way.
    #[default]
    Drop,
    /// Laid on white.
    White,
}

/// Each value three times.
pub(super) fn grey(values: &[u8]) -> Vec<u8> {
    values.iter().flat_map(|&v| [v; 3]).collect()
}

/// CMYK, 255 for full ink, to RGB: 255 − k − c (255 − k) / 255, rounded.
pub(super) fn cmyk(values: &[u8]) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(values.len() / 4 * 3);
    for p in values.chunks_exact(4) {
        let light = 255 - u32::from(p[3]);
        for &ink in &p[..3] {
            pixels.push((light - divided_by_255(u32::from(ink) * light)) as u8);
        }
    }
    pixels
}

/// `x / 255` to the nearest, for products of two bytes.
fn divided_by_255(x: u32) -> u32 {
    let x = x + 128;
    ((x >> 8) + x) >> 8
}

/// RGBA to RGB.
pub(super) fn rgba(values: &[u8], alpha: Alpha) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(values.len() / 4 * 3);
    for p in values.chunks_exact(4) {
        let colour = [p[0], p[1], p[2]];
        pixels.extend_from_slice(&match alpha {
            Alpha::Drop => colour,
            Alpha::White => on_white(colour, p[3]),
        });
    }
    pixels
}

/// A colour laid on white, rounded to the nearest.
pub(super) fn on_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    colour.map(|c| ((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}
