//! What a picture may cost: memory in proportion to its pixels, whatever else is in its file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use clip_distill::data::image::Decoding;
use image::{DynamicImage, ImageFormat, Rgba};

/// The system's allocator, counting.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn taken(bytes: usize) {
    let used = USED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(used, Ordering::Relaxed);
}

// SAFETY: every call goes on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that decoding takes at its peak, on top of what was there.
fn peak(bytes: &[u8]) -> usize {
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    drop(Decoding::default().decode(bytes).unwrap());
    PEAK.load(Ordering::Relaxed) - before
}

/// Zeros deflated a thousandfold.
fn bomb(inflated: usize) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let block = vec![0; 1 << 20];
    for _ in 0..inflated >> 20 {
        encoder.write_all(&block).unwrap();
    }
    encoder.finish().unwrap()
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let named = [name, body].concat();
    let length = (body.len() as u32).to_be_bytes();
    let sum = crc32fast::hash(&named).to_be_bytes();
    [&length[..], &named, &sum].concat()
}

/// One test, because the count is of the whole process.
#[test]
fn memory_is_in_proportion_to_pixels() {
    let side = 400u32;
    let picture = image::RgbaImage::from_fn(side, side, |x, y| {
        Rgba([x as u8, y as u8, (x * y) as u8, (x + y) as u8])
    });
    let picture = DynamicImage::from(picture);
    let encode = |image: &DynamicImage, format: ImageFormat| {
        let mut file = std::io::Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    let pixels = (side * side) as usize;
    // Buffers of the decoders that do not depend on the picture.
    let fixed = 1 << 20;
    for format in [
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::Jpeg,
    ] {
        let image = match format {
            ImageFormat::Jpeg => picture.to_rgb8().into(),
            _ => picture.clone(),
        };
        let bytes = peak(&encode(&image, format));
        println!(
            "{format:?}: {:.1} bytes a pixel",
            bytes as f64 / pixels as f64
        );
        assert!(bytes <= pixels * 20 + fixed, "{format:?}: {bytes}");
    }
    let png = encode(&picture, ImageFormat::Png);
    let without = peak(&png);
    let bomb = bomb(1 << 30);
    let texts = [
        chunk(b"iCCP", &[b"profile\0\0", &bomb[..]].concat()),
        chunk(b"zTXt", &[b"Title\0\0", &bomb[..]].concat()),
        chunk(b"iTXt", &[b"Title\0\x01\0\0\0", &bomb[..]].concat()),
        chunk(b"eXIf", &bomb),
    ];
    // After the header, which ends at byte 33, and before the end.
    let end = png.len() - 12;
    let before = [&png[..33], &texts.concat(), &png[33..]].concat();
    let after = [&png[..end], &texts.concat(), &png[end..]].concat();
    for file in [before, after] {
        let with = peak(&file);
        println!(
            "{} bytes with bombs of 4 GiB: {with}, without {without}",
            file.len()
        );
        assert!(with <= without + fixed);
    }
}
