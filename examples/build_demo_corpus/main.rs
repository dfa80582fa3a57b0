//! Builds the demo corpus from emoji artwork; src/data/demo/README.md says where that is from.
//!
//! ```text
//! cargo run --release --example build_demo_corpus -- EMOJI_FOLDER src/data/demo
//! ```
//!
//! The folder holds `metadata.jsonl` and one folder of PNGs a style. The same input gives the same
//! bytes.

mod palette;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::Path;

use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use flate2::{Compression, GzBuilder};
use serde_json::json;

/// Side of the images: the demo models' input resolution.
const SIDE: u32 = 32;
/// Colours kept of each image. At 32 pixels the difference is hard to see, and it saves half.
const COLOURS: usize = 64;
/// One concept in this many is in no training shard.
const HELD_OUT: u32 = 8;
/// Every style a concept must exist in.
const STYLES: [&str; 4] = ["noto-72", "emojitwo-48", "twemoji-112", "emojitwo-bw"];

#[derive(serde::Deserialize)]
struct Concept {
    id: String,
    name: String,
    group: String,
    subgroup: String,
    keywords: Vec<String>,
    styles: Vec<String>,
}

impl Concept {
    /// Held out by a hash of the id, so that a newer list of emoji moves no concept across.
    fn held_out(&self) -> bool {
        crc32fast::hash(self.id.as_bytes()).is_multiple_of(HELD_OUT)
    }

    /// What someone might write under the drawing; the first is the name, and what surrounds it
    /// in the others is what the zero-shot templates say too.
    fn captions(&self) -> Vec<String> {
        let name = &self.name;
        let others: Vec<&str> = self
            .keywords
            .iter()
            .map(String::as_str)
            .filter(|k| !k.eq_ignore_ascii_case(name) && k.is_ascii())
            .collect();
        let mut captions = vec![
            name.clone(),
            format!("an emoji of {name}"),
            format!("a picture of {name}."),
            format!("a drawing of {name}, {}", self.subgroup.replace('-', " ")),
            format!("{name}, {}", self.group.to_lowercase().replace('&', "and")),
        ];
        if !others.is_empty() {
            captions.push(format!("{name}, {}", others.join(", ")));
        }
        for pair in others.chunks(2).take(3) {
            captions.push(format!("a drawing of {name}: {}", pair.join(" and ")));
        }
        captions
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [source, target] = &arguments[..] else {
        return Err("usage: build_demo_corpus EMOJI_FOLDER OUTPUT_FOLDER".into());
    };
    let (source, target) = (Path::new(source), Path::new(target));
    let mut concepts = Vec::new();
    for line in fs::read_to_string(source.join("metadata.jsonl"))?.lines() {
        let concept: Concept = serde_json::from_str(line)?;
        if STYLES.iter().all(|s| concept.styles.iter().any(|c| c == s)) {
            concepts.push(concept);
        }
    }
    let (unseen, seen): (Vec<_>, Vec<_>) = concepts.into_iter().partition(Concept::held_out);

    for (file, concepts) in [("classes.txt", &seen), ("unseen_classes.txt", &unseen)] {
        let names: String = concepts.iter().map(|c| format!("{}\n", c.name)).collect();
        fs::write(target.join(file), names)?;
    }
    for (shard, styles, concepts) in [
        ("train", &["noto-72", "emojitwo-48"][..], &seen),
        ("twemoji", &["twemoji-112"], &seen),
        ("sketch", &["emojitwo-bw"], &seen),
        ("unseen", &["noto-72", "twemoji-112"], &unseen),
    ] {
        let mut samples: Vec<(&str, &Concept)> = styles
            .iter()
            .flat_map(|s| concepts.iter().map(|c| (*s, c)))
            .collect();
        // Readers with a small shuffle buffer, or none, still see the styles and groups mixed.
        samples.sort_by_key(|(s, c)| {
            (
                crc32fast::hash(format!("{s}/{}", c.id).as_bytes()),
                c.id.clone(),
            )
        });
        let path = target.join(format!("{shard}.tar.gz"));
        let bytes = pack(source, &samples)?;
        println!(
            "{}: {} samples, {} bytes",
            path.display(),
            samples.len(),
            bytes.len()
        );
        fs::write(path, bytes)?;
    }
    Ok(())
}

fn pack(source: &Path, samples: &[(&str, &Concept)]) -> Result<Vec<u8>, Box<dyn Error>> {
    // No time and no file name in the header: the bytes depend on the input alone.
    let gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for (style, concept) in samples {
        let path = source.join(style).join(format!("{}.png", concept.id));
        let image = shrink(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let json = json!({
            "caption": concept.name,
            "captions": concept.captions(),
            "class": concept.name,
            "group": concept.group,
            "subgroup": concept.subgroup,
        });
        let short = style
            .rsplit_once('-')
            .map_or(*style, |(s, end)| if end == "bw" { "sketch" } else { s });
        add(&mut tar, &format!("{short}-{}.png", concept.id), &image)?;
        add(
            &mut tar,
            &format!("{short}-{}.json", concept.id),
            json.to_string().as_bytes(),
        )?;
    }
    Ok(tar.into_inner()?.finish()?)
}

fn add(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)
}

/// The drawing on white, made square, at the corpus' size, as a PNG of few colours.
fn shrink(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let drawing = image::ImageReader::open(path)?
        .with_guessed_format()?
        .decode()?
        .to_rgba8();
    let side = drawing.width().max(drawing.height());
    let (left, top) = ((side - drawing.width()) / 2, (side - drawing.height()) / 2);
    let mut square = image::RgbImage::from_pixel(side, side, image::Rgb([255; 3]));
    for (x, y, pixel) in drawing.enumerate_pixels() {
        let [r, g, b, alpha] = pixel.0.map(u32::from);
        let on_white = |v: u32| ((v * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        square.put_pixel(left + x, top + y, image::Rgb([r, g, b].map(on_white)));
    }
    let big = Image::from_vec_u8(side, side, square.into_raw(), PixelType::U8x3)?;
    let mut small = Image::new(SIDE, SIDE, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    Resizer::new().resize(&big, &mut small, &options)?;
    let (pixels, _) = small.buffer().as_chunks::<3>();
    let (colours, indices) = palette::quantise(pixels, COLOURS);
    Ok(palette::encode(SIDE as usize, &colours, &indices)?)
}
