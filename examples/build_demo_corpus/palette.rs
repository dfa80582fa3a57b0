//! Small PNGs of small drawings: few colours, chosen for each image.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// An 8-bit RGB colour.
pub type Rgb = [u8; 3];

/// A palette of at most `max` colours for `pixels`, and each pixel's place in it.
///
/// Median cut, then a few rounds of k-means. An image with no more colours than that keeps them
/// exactly. The result depends on the pixels alone.
pub fn quantise(pixels: &[Rgb], max: usize) -> (Vec<Rgb>, Vec<u8>) {
    let mut counts = std::collections::BTreeMap::<Rgb, u32>::new();
    for p in pixels {
        *counts.entry(*p).or_default() += 1;
    }
    let colours: Vec<(Rgb, u32)> = counts.into_iter().collect();
    let mut palette: Vec<Rgb> = if colours.len() <= max {
        colours.iter().map(|c| c.0).collect()
    } else {
        let mut means = median_cut(&colours, max);
        for _ in 0..8 {
            means = refine(&colours, &means);
        }
        means.iter().map(|m| m.map(|v| v.round() as u8)).collect()
    };
    palette.sort_unstable_by_key(|c| (luma(*c), *c));
    palette.dedup();
    let index = |p: &Rgb| {
        let distance = |c: &Rgb| {
            (0..3)
                .map(|k| (i32::from(c[k]) - i32::from(p[k])).pow(2))
                .sum::<i32>()
        };
        palette
            .iter()
            .enumerate()
            .min_by_key(|(_, c)| distance(c))
            .map_or(0, |(i, _)| i as u8)
    };
    let indices = pixels.iter().map(index).collect();
    (palette, indices)
}

/// Neighbouring brightnesses get neighbouring indices, which compresses better.
fn luma(c: Rgb) -> u32 {
    299 * u32::from(c[0]) + 587 * u32::from(c[1]) + 114 * u32::from(c[2])
}

/// Splits the colours into `max` boxes, each time the one with the largest squared error, and
/// returns the boxes' means.
fn median_cut(colours: &[(Rgb, u32)], max: usize) -> Vec<[f64; 3]> {
    let mut boxes = vec![colours.to_vec()];
    while boxes.len() < max {
        let Some((at, axis)) = widest(&boxes) else {
            break;
        };
        let mut low = boxes.swap_remove(at);
        low.sort_unstable_by_key(|(c, _)| c[axis]);
        let mean = mean(&low)[axis];
        let middle = low.partition_point(|(c, _)| f64::from(c[axis]) <= mean);
        let high = low.split_off(middle.clamp(1, low.len() - 1));
        boxes.extend([low, high]);
    }
    boxes.iter().map(|b| mean(b)).collect()
}

/// The box and the axis with the largest squared error, if any box has one.
fn widest(boxes: &[Vec<(Rgb, u32)>]) -> Option<(usize, usize)> {
    let mut best = (0.0, None);
    for (i, b) in boxes.iter().enumerate() {
        let mean = mean(b);
        for axis in 0..3 {
            let error: f64 = b
                .iter()
                .map(|(c, n)| f64::from(*n) * (f64::from(c[axis]) - mean[axis]).powi(2))
                .sum();
            if b.len() > 1 && error > best.0 {
                best = (error, Some((i, axis)));
            }
        }
    }
    best.1
}

fn mean(colours: &[(Rgb, u32)]) -> [f64; 3] {
    let total: f64 = colours.iter().map(|(_, n)| f64::from(*n)).sum();
    let sum = |k: usize| {
        colours
            .iter()
            .map(|(c, n)| f64::from(c[k]) * f64::from(*n))
            .sum::<f64>()
    };
    [sum(0), sum(1), sum(2)].map(|s| s / total.max(1.0))
}

fn refine(colours: &[(Rgb, u32)], means: &[[f64; 3]]) -> Vec<[f64; 3]> {
    let mut members: Vec<Vec<(Rgb, u32)>> = vec![Vec::new(); means.len()];
    for colour in colours {
        let distance = |m: &[f64; 3]| {
            (0..3)
                .map(|k| (m[k] - f64::from(colour.0[k])).powi(2))
                .sum::<f64>()
        };
        let nearest =
            (0..means.len()).min_by(|&a, &b| distance(&means[a]).total_cmp(&distance(&means[b])));
        members[nearest.unwrap_or(0)].push(*colour);
    }
    members
        .iter()
        .zip(means)
        .map(|(m, old)| if m.is_empty() { *old } else { mean(m) })
        .collect()
}

/// A PNG of palette indices, at the smallest bit depth that holds them.
pub fn encode(width: usize, palette: &[Rgb], indices: &[u8]) -> std::io::Result<Vec<u8>> {
    let depth: u8 = match palette.len() {
        0..=2 => 1,
        3..=4 => 2,
        5..=16 => 4,
        _ => 8,
    };
    let height = indices.len() / width;
    let mut header = Vec::new();
    header.extend((width as u32).to_be_bytes());
    header.extend((height as u32).to_be_bytes());
    header.extend([depth, 3, 0, 0, 0]);
    let mut best: Option<Vec<u8>> = None;
    // Filters help some drawings (smooth gradients) and hurt most; try the three that may.
    for filter in if depth == 8 {
        &[0u8, 1, 2][..]
    } else {
        &[0u8][..]
    } {
        let mut raw = Vec::new();
        for y in 0..height {
            let row = &indices[y * width..(y + 1) * width];
            raw.push(*filter);
            match filter {
                1 => raw.extend(
                    (0..width).map(|x| row[x].wrapping_sub(if x > 0 { row[x - 1] } else { 0 })),
                ),
                2 if y > 0 => raw
                    .extend((0..width).map(|x| row[x].wrapping_sub(indices[(y - 1) * width + x]))),
                _ => raw.extend(pack(row, depth)),
            }
        }
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
        zlib.write_all(&raw)?;
        let data = zlib.finish()?;
        if best.as_ref().is_none_or(|b| data.len() < b.len()) {
            best = Some(data);
        }
    }
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut png, b"IHDR", &header);
    chunk(&mut png, b"PLTE", palette.as_flattened());
    chunk(&mut png, b"IDAT", &best.unwrap_or_default());
    chunk(&mut png, b"IEND", &[]);
    Ok(png)
}

/// Several indices a byte, the first in the highest bits.
fn pack(row: &[u8], depth: u8) -> Vec<u8> {
    row.chunks(8 / usize::from(depth))
        .map(|part| {
            let bits = part.iter().fold(0u8, |byte, i| (byte << (depth % 8)) | i);
            bits << ((8 / usize::from(depth) - part.len()) * usize::from(depth))
        })
        .collect()
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let body = [&kind[..], data].concat();
    png.extend((data.len() as u32).to_be_bytes());
    png.extend(&body);
    png.extend(crc32fast::hash(&body).to_be_bytes());
}
