//! Resizing of training images: Pillow's antialiased bicubic with 16-bit weights, vectorised.
//!
//! [`super::resize`] equals Pillow to the bit and takes as long as decoding. Here sums keep fewer bits, so that a
//! value may differ from Pillow's by 1 of 255; the windows and the kernel are the same.

use std::cell::RefCell;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use super::image::RgbImage;
use super::resize::vertical_first;

thread_local! {
    /// With the buffers of its passes, which every image of a worker uses again.
    static RESIZER: RefCell<Resizer> = RefCell::default();
    /// What lies between the two passes.
    static BETWEEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The region `[left, top, width, height]` of `image`, which must be in it, resized to `size` x `size`. Nothing outside
/// the region takes part, as if it had been cut out first. `None` if it would be enlarged along an axis: there single
/// weights are so large that roundings between the passes show, and small images cost little anyway.
pub(super) fn region(image: &RgbImage, region: [u32; 4], size: u32) -> Option<RgbImage> {
    let [left, top, width, height] = region;
    if width.min(height) < size {
        return None;
    }
    let source: TypedImageRef<'_, U8x3> =
        TypedImageRef::from_buffer(image.width, image.height, &image.pixels).ok()?;
    let source = TypedCroppedImage::new(source, left, top, width, height).ok()?;
    // One axis after the other in Pillow's order, which shows where the values between are cut to 8 bits.
    let (w, h) = match vertical_first((width, height), (size.into(), size.into())) {
        true => (width, size),
        false => (size, height),
    };
    let mut pixels = vec![0; size as usize * size as usize * 3];
    RESIZER.with_borrow_mut(|resizer| {
        BETWEEN.with_borrow_mut(|between| {
            between.resize(w as usize * h as usize * 3, 0);
            let mut once = TypedImage::from_buffer(w, h, between).ok()?;
            resizer.resize_typed(&source, &mut once, &options()).ok()?;
            let mut twice = TypedImage::from_buffer(size, size, &mut pixels).ok()?;
            resizer.resize_typed(&once, &mut twice, &options()).ok()
        })
    })?;
    Some(RgbImage {
        width: size,
        height: size,
        pixels,
    })
}

fn options() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
}

#[cfg(test)]
mod tests {
    use super::super::resize::resize;
    use super::*;
    use crate::tensor::rng::{Philox, Purpose};

    /// Pillow's values, by the exact resize: a photograph within 1; noise and edges of full contrast, which no photograph
    /// has everywhere, within 2, and that in less than one value of a thousand.
    #[test]
    fn values_are_pillows_within_one() {
        let mut rng = Philox::new(1, Purpose::Test, 0, 0);
        let mut noise = RgbImage::filled(330, 270, [0; 3]);
        noise
            .pixels
            .iter_mut()
            .for_each(|p| *p = rng.below(256) as u8);
        let mut edges = noise.clone();
        edges
            .pixels
            .iter_mut()
            .for_each(|p| *p = if *p < 128 { 0 } else { 255 });
        let photograph = include_bytes!("../../tests/fixtures/images/000000121647.jpg");
        let photograph = super::super::image::decode(photograph).unwrap();
        for (name, image, most) in [
            ("photograph", &photograph, 1),
            ("noise", &noise, 2),
            ("edges", &edges, 2),
        ] {
            let (w, h) = (image.width, image.height);
            let mut off = [0u64; 3];
            for cut in [
                [0, 0, w, h],
                [7, 3, w - 20, h - 31],
                [5, 9, 40, 60],
                [50, 60, 64, 64],
                [1, 2, w - 2, 70],
            ] {
                for size in [16, 32, 48, 64, 160, 224] {
                    let Some(fast) = region(image, cut, size) else {
                        assert!(cut[2].min(cut[3]) < size);
                        continue;
                    };
                    let [left, top, width, height] = cut;
                    let exact = resize(&image.crop(left, top, width, height), size, size);
                    for (a, b) in fast.pixels.iter().zip(&exact.pixels) {
                        let difference = a.abs_diff(*b);
                        assert!(difference <= most, "{name}: {a} {b} at {cut:?} to {size}");
                        off[usize::from(difference)] += 1;
                    }
                }
            }
            println!("{name}: {off:?} values differ by 0, 1, 2");
            assert!(off[2] * 1000 < off[0], "{name}: {off:?}");
        }
        assert!(region(&noise, [200, 0, 140, 10], 8).is_none());
    }
}
