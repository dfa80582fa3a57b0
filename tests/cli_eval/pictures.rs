//! How the flags say that pictures are decoded.

use crate::place::Place;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// One colour, with less and less alpha from left to right.
fn glass() -> RgbaImage {
    RgbaImage::from_fn(40, 40, |x, y| {
        Rgba([200, (y * 6) as u8, 30, 255 - (x * 6) as u8])
    })
}

#[test]
fn alpha_is_dropped_unless_white_is_asked_for() {
    let place = Place::new();
    let laid = |p: &Rgba<u8>| {
        let alpha = u32::from(p[3]);
        Rgb([0, 1, 2].map(|c| ((u32::from(p[c]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    };
    let dropped = |p: &Rgba<u8>| Rgb([p[0], p[1], p[2]]);
    let of = |colour: &dyn Fn(&Rgba<u8>) -> Rgb<u8>| {
        let glass = glass();
        png(RgbImage::from_fn(40, 40, |x, y| {
            colour(glass.get_pixel(x, y))
        }))
    };
    place.write("glass/a.png", png(glass()));
    place.write("opaque/a.png", of(&dropped));
    place.write("opaque/b.png", of(&laid));
    let rows = |args: &str| place.rows(&format!("model --images {args}"), "image_features");
    let opaque = rows("opaque");
    assert_ne!(opaque[0], opaque[1]);
    assert_eq!(rows("glass"), opaque[..1]);
    assert_eq!(rows("glass --alpha white"), opaque[1..]);
    assert_eq!(rows("opaque --alpha white"), opaque);
}

#[test]
fn pictures_that_are_too_large_or_of_no_known_kind_are_skipped_and_named() {
    let place = Place::new();
    place.write("mixed/a.png", png(glass()));
    place.write("mixed/b.png", png(RgbImage::new(50, 50)));
    let args = "model --images mixed --out f.safetensors";
    let printed = place.run("embed", &format!("{args} --max-image-pixels 1600"));
    assert!(printed.contains("1 undecodable image"), "{printed}");
    assert!(printed.contains("50 x 50 pixels"), "{printed}");
    assert!(printed.contains("--max-image-pixels"), "{printed}");
    assert_eq!(place.json("f.json")["images"].as_array().unwrap().len(), 1);
    place.write("mixed/b.png", "\0\0\0\x1cftypavif\0\0\0\0avifmif1");
    place.write("mixed/c.heic", "\0\0\0\x1cftypheic\0\0\0\0heicmif1");
    let printed = place.run("embed", args);
    assert!(printed.contains("2 undecodable image"), "{printed}");
    assert!(printed.contains("AVIF"), "{printed}");
    place.refuses(
        "embed",
        &format!("{args} --max-image-pixels 0"),
        &["--max-image-pixels"],
    );
    place.refuses("eval", "model --val-data demo --alpha black", &["--alpha"]);
}
