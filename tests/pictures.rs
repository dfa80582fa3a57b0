//! Pictures of every kind against Pillow 13: see `fixtures/pictures/README.md`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use clip_distill::data::image::{Alpha, DecodeError, Decoding, RgbImage, Speed};
use clip_distill::data::resize::resize;
use clip_distill::data::{Augment, Transform};
use clip_distill::tensor::rng::{Philox, Purpose};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures")
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let tar = std::fs::File::open(folder().join("pictures.tar.gz")).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(tar));
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    };
    archive.entries().unwrap().map(read).collect()
}

fn expected() -> Value {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Width, height and checksum, as `expected.json` has them.
fn answer(image: &RgbImage) -> Vec<u32> {
    vec![image.width, image.height, crc32fast::hash(&image.pixels)]
}

fn numbers(value: &Value) -> Vec<u32> {
    let number = |v: &Value| v.as_u64().unwrap() as u32;
    value.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn every_kind_has_pillows_pixels_and_damage_is_treated_as_pillow_treats_it() {
    let expected = expected();
    let pictures = expected["pictures"].as_object().unwrap();
    let files = files();
    assert_eq!(files.len(), pictures.len());
    let mut wrong = Vec::new();
    for (name, bytes) in &files {
        let ours = Decoding::default().decode(bytes);
        let agree = match (&ours, &pictures[name]) {
            (Err(_), Value::Null) => true,
            (Ok(image), value @ Value::Array(_)) => answer(image) == numbers(value),
            _ => false,
        };
        if !agree {
            wrong.push(format!("{name}: {ours:?}, not {}", pictures[name]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} pictures, {}", files.len(), expected["versions"]);
}

/// Training's decoder differs from the exact one by roundings, for the common kinds, and by nothing for others.
#[test]
fn the_fast_decoder_reads_every_kind_and_differs_by_roundings() {
    let fast = Decoding {
        speed: Speed::Fast,
        ..Decoding::default()
    };
    let mut differing = 0;
    for (name, bytes) in files() {
        let (exact, quick) = (Decoding::default().decode(&bytes), fast.decode(&bytes));
        let (Ok(exact), Ok(quick)) = (&exact, &quick) else {
            assert_eq!(exact.is_ok(), quick.is_ok(), "{name}: {exact:?} {quick:?}");
            continue;
        };
        let deltas = exact
            .pixels
            .iter()
            .zip(&quick.pixels)
            .map(|(a, b)| a.abs_diff(*b));
        let largest = deltas.max().unwrap_or(0);
        differing += u32::from(largest > 0);
        if !name.contains("_damaged_") {
            assert!(largest <= 4, "{name}: differs by {largest}");
        }
    }
    assert!(differing > 0, "the fast decoder was never taken");
}

/// Row i of `width * height * 3` values that Python can draw as well.
fn pattern(width: u32, height: u32) -> RgbImage {
    let mut image = RgbImage::filled(width, height, [0; 3]);
    for (i, value) in (0u64..).zip(&mut image.pixels) {
        *value = ((i * 2_654_435_761 + (i >> 3) * 40_503) as u32 >> 24) as u8;
    }
    image
}

#[test]
fn resizing_is_pillows_whichever_pass_comes_first() {
    for case in expected()["resized"].as_array().unwrap() {
        let &[width, height, to_width, to_height, crc] = &numbers(case)[..] else {
            panic!("{case}");
        };
        let resized = resize(&pattern(width, height), to_width, to_height);
        assert_eq!(crc32fast::hash(&resized.pixels), crc, "{case}");
    }
}

#[test]
fn evaluation_is_torchvisions_however_long_the_picture() {
    for case in expected()["evaluated"].as_array().unwrap() {
        let &[width, height, size, crc] = &numbers(case)[..] else {
            panic!("{case}");
        };
        let transform = Transform::new(size, Augment::None).unwrap();
        let mut rng = Philox::new(0, Purpose::Test, 0, 0);
        let image = transform.pixels(&pattern(width, height), &mut rng);
        assert_eq!(crc32fast::hash(&image.pixels), crc, "{case}");
    }
}

#[test]
fn alpha_is_dropped_or_laid_on_white() {
    let files = files();
    let white = Decoding {
        alpha: Alpha::White,
        ..Decoding::default()
    };
    let differ = |name: &str| {
        let [dropped, laid] = [Decoding::default(), white].map(|d| d.decode(&files[name]).unwrap());
        let lighter = dropped.pixels.iter().zip(&laid.pixels).all(|(d, l)| d <= l);
        assert!(lighter, "{name}");
        dropped != laid
    };
    for name in [
        "4_8_0.png",
        "4_16_1.png",
        "6_8_0.png",
        "6_16_1.png",
        "3_8_0_trns.png",
        "0_2_0_trns.png",
        "transparent.gif",
        "rgba.webp",
        "rgba_lossless.webp",
        "rgba_None.tif",
    ] {
        assert!(differ(name), "{name}");
    }
    for name in [
        "2_8_0.png",
        "3_8_0.png",
        "0_16_0.png",
        "rgb.webp",
        "palette_13.gif",
        "420_1.jpg",
    ] {
        assert!(!differ(name), "{name}");
    }
}

#[test]
fn what_is_not_read_is_named() {
    for (bytes, name) in [
        (&b"\0\0\0\x1cftypavif\0\0\0\0"[..], "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\xff\x0a", "JPEG XL"),
    ] {
        let error = Decoding::default().decode(bytes).unwrap_err();
        assert!(
            matches!(error, DecodeError::Unsupported(n) if n == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn pixels_are_limited_before_they_are_allocated() {
    let files = files();
    for name in [
        "2x2_1x1_1x1.jpg",
        "6_8_0.png",
        "rgb.bmp",
        "palette_13.gif",
        "rgb.webp",
        "rgb_None.tif",
    ] {
        let pixels = Decoding::default().decode(&files[name]).unwrap();
        let pixels = u64::from(pixels.width) * u64::from(pixels.height);
        for (limit, allowed) in [(pixels, true), (pixels - 1, false)] {
            let decoding = Decoding {
                max_pixels: limit,
                ..Decoding::default()
            };
            let result = decoding.decode(&files[name]);
            let refused = matches!(result, Err(DecodeError::TooLarge { .. }));
            assert_eq!(!refused, allowed, "{name}: {result:?}");
        }
    }
}
