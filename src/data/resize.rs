//! Pillow's antialiased bicubic resize of 8-bit images, to the bit.
//!
//! Along each axis an output value is the weighted sum of the inputs under a Catmull-Rom kernel
//! (a = -0.5) around its centre; the kernel is widened by the scale when reducing. Weights are
//! rounded to 22 fractional bits, sums are exact, and the horizontal pass is rounded to 8 bits
//! before the vertical one: libraries that keep fewer bits are off by one in a fifth of the
//! values. Both passes are laid out so that the inner loop runs over neighbouring bytes under one
//! weight, which compilers vectorise.

use std::borrow::Cow;

use super::image::RgbImage;

/// Fractional bits of a weight: 32, less 8 of the pixel and 2 of head room and sign.
const BITS: u32 = 22;
/// Rows that the horizontal pass takes at once.
const ROWS: usize = 16;
/// Bytes of one column of those rows.
const COLUMN: usize = ROWS * 3;
/// Bytes of a row that the vertical pass takes at once.
const CHUNK: usize = 32;

/// The inputs of one output value: the first, and the weights from it on.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// What becomes of an axis: its new length, and the part of it that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Pixels along it after resizing, at least 1.
    pub to: u64,
    /// The first of them that is wanted.
    pub start: u64,
    /// How many are wanted, at least 1; `start + count` is at most `to`.
    pub count: u32,
}

impl Axis {
    /// All of an axis of `to` pixels, at least 1.
    pub fn whole(to: u32) -> Self {
        let count = to.max(1);
        Self {
            to: count.into(),
            start: 0,
            count,
        }
    }
}

/// `image` as Pillow 13's `resize((width, height), BICUBIC)` gives it. A side of 0 counts as 1.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize_region(image, Axis::whole(width), Axis::whole(height))
}

/// A region of the resized image: what a crop after [`resize`] gives, without the rest, which in a very
/// long image would be large.
///
/// The passes come in Pillow's order. The values between are rounded to 8 bits, so that the order shows.
pub fn resize_region(image: &RgbImage, columns: Axis, rows: Axis) -> RgbImage {
    let mut across = windows(image.width, columns);
    let mut down = windows(image.height, rows);
    let mut image = Cow::Borrowed(image);
    let from = (image.width, image.height);
    let vertical_first = vertical_first(from, (columns.to, rows.to));
    let (left, width) = shift(&mut across);
    let (top, height) = shift(&mut down);
    if (width, height) != (image.width, image.height) {
        image = Cow::Owned(image.crop(left, top, width, height));
    }
    let simd = pulp::Arch::new();
    for vertical in [vertical_first, !vertical_first] {
        let (windows, changed) = match vertical {
            true => (&down, u64::from(from.1) != rows.to),
            false => (&across, u64::from(from.0) != columns.to),
        };
        if !changed {
            continue;
        }
        let (width, height, pixels) = (image.width, image.height, &image.pixels);
        let new = windows.len() as u32;
        image = Cow::Owned(match vertical {
            true => RgbImage {
                width,
                height: new,
                pixels: simd.dispatch(|| self::vertical(pixels, width as usize * 3, windows)),
            },
            false => RgbImage {
                width: new,
                height,
                pixels: simd.dispatch(|| horizontal(pixels, width as usize, windows)),
            },
        });
    }
    image.into_owned()
}

/// Whether the vertical pass comes first: if the height loses more than twice the pixels that the width loses, which is
/// Pillow 13's rule. Sizes are (width, height).
pub(super) fn vertical_first(from: (u32, u32), to: (u64, u64)) -> bool {
    let lost = |from: u32, to: u64| i128::from(from) - i128::from(to);
    let (width_lost, height_lost) = (lost(from.0, to.0), lost(from.1, to.1));
    height_lost > 0 && height_lost > 2 * width_lost
}

/// Makes windows begin at the first input that any of them has; gives it and how many there are.
fn shift(windows: &mut [Window]) -> (u32, u32) {
    let end = |w: &Window| w.first + w.weights.len();
    let first = windows.iter().map(|w| w.first).min().unwrap_or(0);
    let end = windows.iter().map(end).max().unwrap_or(1);
    windows.iter_mut().for_each(|w| w.first -= first);
    (first as u32, (end - first) as u32)
}

/// The kernel: 1 at 0, 0 from 2 on.
fn catmull_rom(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The windows of the outputs that are wanted along an axis of `from` inputs. An axis that keeps its
/// length has windows of one input.
fn windows(from: u32, axis: Axis) -> Vec<Window> {
    let range = axis.start..axis.start + u64::from(axis.count);
    if axis.to == u64::from(from) {
        let window = |i: u64| Window {
            first: i as usize,
            weights: vec![1 << BITS],
        };
        return range.map(window).collect();
    }
    let scale = f64::from(from) / axis.to as f64;
    let widening = scale.max(1.0);
    let support = 2.0 * widening;
    let window = |i: u64| {
        let centre = (i as f64 + 0.5) * scale;
        // Casts of negative numbers give 0.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from as usize);
        // The reciprocal first, as Pillow multiplies: a quotient would round differently.
        let shrink = 1.0 / widening;
        let raw: Vec<f64> = (first..end)
            .map(|x| catmull_rom((x as f64 - centre + 0.5) * shrink))
            .collect();
        let sum: f64 = raw.iter().sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        let fixed = |w: f64| (w / sum * f64::from(1 << BITS)).round() as i32;
        Window {
            first,
            weights: raw.into_iter().map(fixed).collect(),
        }
    };
    range.map(window).collect()
}

/// The weighted sum of `N` bytes of each source, which begin at `start` and every `stride` bytes
/// after it; `N` is small enough for the sums to stay in registers.
///
/// Sums stay within 2³¹: |weights| sum to less than 1.4, and pixels are below 2⁸. Wrapping, because
/// an overflow check would keep the loop from being vectorised.
#[inline(always)]
fn weighted<const N: usize>(weights: &[i32], bytes: &[u8], start: usize, stride: usize) -> [u8; N] {
    let mut sums = [1i32 << (BITS - 1); N];
    let mut at = start;
    for &weight in weights {
        let Some(source) = bytes.get(at..).and_then(|b| b.first_chunk::<N>()) else {
            break;
        };
        let mut i = 0;
        while i < N {
            sums[i] = sums[i].wrapping_add(weight.wrapping_mul(source[i] as i32));
            i += 1;
        }
        at += stride;
    }
    let mut rounded = [0; N];
    let mut i = 0;
    while i < N {
        rounded[i] = (sums[i] >> BITS).clamp(0, 255) as u8;
        i += 1;
    }
    rounded
}

#[inline(always)]
fn horizontal(pixels: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let height = pixels.len() / (width * 3);
    let out_row = windows.len() * 3;
    let mut out = vec![0; height * out_row];
    // A block of rows with its columns side by side.
    let mut columns = vec![0u8; width * COLUMN];
    let blocks = pixels.chunks(width * 3 * ROWS);
    for (block, out) in blocks.zip(out.chunks_mut(out_row * ROWS)) {
        for (r, row) in block.chunks_exact(width * 3).enumerate() {
            for (column, pixel) in columns.chunks_exact_mut(COLUMN).zip(row.chunks_exact(3)) {
                column[r * 3..r * 3 + 3].copy_from_slice(pixel);
            }
        }
        for (x, window) in windows.iter().enumerate() {
            let start = window.first * COLUMN;
            let values: [u8; COLUMN] = weighted(&window.weights, &columns, start, COLUMN);
            for (row, value) in out.chunks_exact_mut(out_row).zip(values.chunks_exact(3)) {
                row[x * 3..x * 3 + 3].copy_from_slice(value);
            }
        }
    }
    out
}

#[inline(always)]
fn vertical(pixels: &[u8], row: usize, windows: &[Window]) -> Vec<u8> {
    let mut out = vec![0; windows.len() * row];
    for (window, out) in windows.iter().zip(out.chunks_exact_mut(row)) {
        let start = window.first * row;
        let (chunks, rest) = out.as_chunks_mut::<CHUNK>();
        let whole = start + chunks.len() * CHUNK;
        for (i, chunk) in chunks.iter_mut().enumerate() {
            *chunk = weighted(&window.weights, pixels, start + i * CHUNK, row);
        }
        for (i, value) in rest.iter_mut().enumerate() {
            [*value] = weighted(&window.weights, pixels, whole + i, row);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_stay_and_weights_sum_to_one() {
        for (from, to) in [(1, 7), (7, 1), (100, 33), (33, 100), (640, 298)] {
            for window in windows(from, Axis::whole(to)) {
                let sum: i32 = window.weights.iter().sum();
                assert!((sum - (1 << BITS)).abs() <= window.weights.len() as i32);
            }
            let image = RgbImage::filled(from, to, [0, 128, 255]);
            let resized = resize(&image, to, from);
            assert_eq!(resized, RgbImage::filled(to, from, [0, 128, 255]));
        }
    }

    #[test]
    fn a_region_is_a_crop_of_the_whole() {
        let mut image = RgbImage::filled(61, 203, [0; 3]);
        let mut value = 1u32;
        for p in &mut image.pixels {
            value = value.wrapping_mul(1664525).wrapping_add(1013904223);
            *p = (value >> 24) as u8;
        }
        for (width, height) in [(24, 80), (130, 40), (61, 90), (40, 203), (90, 400)] {
            let axis = |to: u32, start: u32| Axis {
                to: to.into(),
                start: start.into(),
                count: 20,
            };
            let region = resize_region(&image, axis(width, 3), axis(height, 17));
            assert_eq!(region, resize(&image, width, height).crop(3, 17, 20, 20));
        }
    }

    /// Development aid: `cargo test --release --lib speed_of_resize -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn speed_of_resize() {
        let image = RgbImage::filled(640, 480, [7, 99, 201]);
        let start = std::time::Instant::now();
        for _ in 0..200 {
            std::hint::black_box(resize(std::hint::black_box(&image), 299, 224));
        }
        println!("640x480 to 299x224: {:?}", start.elapsed() / 200);
    }
}
