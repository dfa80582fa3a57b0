//! Images against Pillow and torchvision: see `fixtures/images/generate.py`.

use std::path::{Path, PathBuf};

use clip_distill::data::image::{RgbImage, decode};
use clip_distill::data::resize::resize;
use clip_distill::data::transform::{Augment, Transform};
use clip_distill::tensor::rng::{Philox, Purpose};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

fn load(name: &str) -> RgbImage {
    let bytes = std::fs::read(folder().join(name)).unwrap();
    decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"))
}

struct Case {
    name: String,
    region: [u32; 4],
}

fn cases() -> (u32, Vec<Case>) {
    let text = std::fs::read_to_string(folder().join("cases.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |v: &serde_json::Value| v.as_u64().unwrap() as u32;
    let case = |v: &serde_json::Value| Case {
        name: v["name"].as_str().unwrap().to_owned(),
        region: std::array::from_fn(|i| number(&v["region"][i])),
    };
    let cases = json["cases"].as_array().unwrap().iter().map(case).collect();
    (number(&json["size"]), cases)
}

/// Asserts that two images are the same; if not, says how many of their values differ and by how much.
fn assert_same(what: &str, ours: &RgbImage, theirs: &RgbImage) {
    assert_eq!(
        (ours.width, ours.height),
        (theirs.width, theirs.height),
        "{what}"
    );
    let deltas = std::iter::zip(&ours.pixels, &theirs.pixels).map(|(a, b)| a.abs_diff(*b));
    let differing = deltas.clone().filter(|d| *d > 0).count();
    let largest = deltas.max().unwrap_or(0);
    let n = ours.pixels.len();
    assert!(
        differing == 0,
        "{what}: {differing} of {n} values differ, by {largest} at most"
    );
}

fn evaluated(image: &RgbImage, size: u32) -> RgbImage {
    let mut rng = Philox::new(0, Purpose::Test, 0, 0);
    Transform::new(size, Augment::None)
        .unwrap()
        .pixels(image, &mut rng)
}

#[test]
fn transforms_of_the_same_pixels_agree_with_torchvision() {
    let (size, cases) = cases();
    for Case { name, region } in cases {
        let source = load(&format!("{name}.png"));
        let [left, top, width, height] = region;
        let region = source.crop(left, top, width, height);
        for (kind, ours) in [
            ("eval", evaluated(&source, size)),
            ("crop", resize(&region, size, size)),
        ] {
            let file = format!("{name}_{kind}.png");
            assert_same(&file, &ours, &load(&file));
        }
    }
}

#[test]
fn jpegs_agree_with_libjpeg_turbo_and_their_transforms_too() {
    let (size, cases) = cases();
    for Case { name, .. } in cases {
        let decoded = load(&format!("{name}.jpg"));
        assert_same(
            &format!("{name}.jpg"),
            &decoded,
            &load(&format!("{name}.png")),
        );
        let file = format!("{name}_eval.png");
        assert_same(&file, &evaluated(&decoded, size), &load(&file));
    }
}

#[test]
fn odd_formats_agree_with_pillow() {
    for file in [
        "odd_palette.png",
        "odd_lossless.webp",
        "odd_lossy.webp",
        "odd_cmyk.jpg",
    ] {
        let stem = file.split('.').next().unwrap();
        assert_same(file, &load(file), &load(&format!("{stem}_rgb.png")));
    }
}

#[test]
fn floats_are_normalised_as_openai_does() {
    let (size, cases) = cases();
    let source = load(&format!("{}.png", cases[0].name));
    let transform = Transform::new(size, Augment::None).unwrap();
    // The numbers of open_clip's constants.py.
    let mean = [0.48145466, 0.4578275, 0.40821073];
    let std = [0.26862954, 0.26130258, 0.27577711];
    for (i, p) in evaluated(&source, size).pixels.into_iter().enumerate() {
        let value = transform.normalisation().value(i % 3, p);
        let expected = (f64::from(p) / 255.0 - mean[i % 3]) / std[i % 3];
        assert!((f64::from(value) - expected).abs() < 1e-6);
    }
}

/// Whatever is cut off or changed in a file, decoding answers.
#[test]
fn damaged_files_are_errors_or_images_but_never_panics() {
    let mut rng = Philox::new(5, Purpose::Test, 0, 0);
    let file = |n: &str| std::fs::read(folder().join(n)).unwrap();
    for name in [
        "odd_cmyk.jpg",
        "odd_palette.png",
        "odd_lossy.webp",
        "odd_lossless.webp",
    ] {
        let whole = file(name);
        for _ in 0..200 {
            let mut bytes = whole.clone();
            bytes.truncate(rng.below(whole.len() as u32 + 1) as usize);
            let _ = decode(&bytes);
            let mut bytes = whole.clone();
            for _ in 0..4 {
                let place = rng.below(whole.len() as u32) as usize;
                bytes[place] = rng.next_u32() as u8;
            }
            let _ = decode(&bytes);
        }
    }
    let jpeg = file(&format!("{}.jpg", cases().1[0].name));
    assert!(decode(&jpeg[..jpeg.len() / 2]).is_err());
}
