//! Images to model input: open_clip's evaluation and training transforms.
//!
//! Resizing is Pillow's antialiased bicubic, to the bit ([`super::resize`]) or, for the crops of training, within 1 of
//! 255. Sizes and crops follow torchvision's rounding, so a model sees what it would see under open_clip.

use super::color_jitter::ColorJitter;
use super::error::{Error, Result};
use super::fast_resize;
use super::image::{RgbImage, Speed};
use super::resize::{Axis, resize, resize_region};
use crate::tensor::Normalisation;
use crate::tensor::rng::Philox;

/// Largest rotation of [`Augment::Affine`], in degrees.
const AFFINE_DEGREES: f32 = 15.0;
/// Largest shift of [`Augment::Affine`], as a share of the side.
const AFFINE_SHIFT: f32 = 0.1;

/// What training does to an image on top of resizing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Augment {
    /// The evaluation transform: shortest side to size, centre crop.
    None,
    /// torchvision's `RandomResizedCrop`: a region of `scale` (low, high) of the area and of
    /// aspect ratio 3/4 to 4/3, resized.
    Crop {
        /// Share of the area, low and high, within (0, 1].
        scale: (f32, f32),
    },
    /// For drawings on white: turned by up to 15°, sized by a factor from `scale`, shifted by
    /// up to a tenth of the side; bilinear, on white, then the evaluation transform.
    Affine {
        /// Factor on the drawing's side, low and high, positive.
        scale: (f32, f32),
    },
}

/// A transform to `[size, size, 3]`, whose pixels a device normalises.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    size: u32,
    augment: Augment,
    colour: ColorJitter,
    normalisation: Normalisation,
    speed: Speed,
}

impl Transform {
    /// A transform to `size` x `size` with OpenAI's normalisation.
    ///
    /// # Errors
    /// [`Error::Config`] for a size of 0 or over 4096, or a scale range that is empty, not
    /// positive or (for a crop) above 1.
    pub fn new(size: u32, augment: Augment) -> Result<Self> {
        if size == 0 || size > 4096 {
            return Err(Error::Config(format!(
                "image size {size} is not within 1 to 4096"
            )));
        }
        let (scale, limit) = match augment {
            Augment::None => ((1.0, 1.0), 1.0),
            Augment::Crop { scale } => (scale, 1.0),
            Augment::Affine { scale } => (scale, 4.0),
        };
        if !(scale.0 > 0.0 && scale.0 <= scale.1 && scale.1 <= limit) {
            return Err(Error::Config(format!(
                "augmentation scale {} to {} is not a range within (0, {limit}]",
                scale.0, scale.1
            )));
        }
        Ok(Self {
            size,
            augment,
            colour: ColorJitter::default(),
            normalisation: Normalisation::OPENAI,
            speed: Speed::Exact,
        })
    }

    /// The same with another normalisation.
    ///
    /// # Errors
    /// [`Error::Config`] for a deviation that is not positive or a number that is not finite.
    pub fn normalised_by(mut self, by: Normalisation) -> Result<Self> {
        let Normalisation { mean, std } = by;
        let finite = mean.iter().chain(&std).all(|x| x.is_finite());
        if !finite || std.iter().any(|&s| s <= 0.0) {
            return Err(Error::Config(format!(
                "normalisation by mean {mean:?} and deviation {std:?} is impossible"
            )));
        }
        self.normalisation = by;
        Ok(self)
    }

    /// The same with random changes of colour after those of shape.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible strengths or probabilities.
    pub fn with_colour(mut self, colour: ColorJitter) -> Result<Self> {
        colour.check()?;
        self.colour = colour;
        Ok(self)
    }

    /// The same with crops resized exactly or fast, within 1 of 255.
    pub fn at_speed(mut self, speed: Speed) -> Self {
        self.speed = speed;
        self
    }

    /// Side of the output in pixels.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Values of an image: `size * size * 3`.
    pub fn len(&self) -> usize {
        self.size as usize * self.size as usize * 3
    }

    /// Never: a transform has at least one pixel.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What the pixels are normalised by.
    pub fn normalisation(&self) -> Normalisation {
        self.normalisation
    }

    /// `size` x `size` pixels of `image`. `rng` is drawn from only by augmentations.
    pub fn pixels(&self, image: &RgbImage, rng: &mut Philox) -> RgbImage {
        let mut pixels = self.shaped(image, rng);
        self.colour.apply(&mut pixels, rng);
        pixels
    }

    fn shaped(&self, image: &RgbImage, rng: &mut Philox) -> RgbImage {
        match self.augment {
            Augment::None => self.evaluation(image),
            Augment::Crop { scale } => {
                let region = random_resized_crop(image.width, image.height, scale, rng);
                let fast = match self.speed {
                    Speed::Fast => fast_resize::region(image, region, self.size),
                    Speed::Exact => None,
                };
                if let Some(fast) = fast {
                    return fast;
                }
                let [left, top, width, height] = region;
                resize(&image.crop(left, top, width, height), self.size, self.size)
            }
            Augment::Affine { scale } => self.evaluation(&affine(image, scale, rng)),
        }
    }

    /// The shortest side to `size`, then the centre. Only what the centre needs is computed.
    fn evaluation(&self, image: &RgbImage) -> RgbImage {
        let short = image.width.min(image.height);
        let axis = |side: u32| {
            // torchvision truncates the long side.
            let to = match side == short {
                true => u64::from(self.size),
                false => (f64::from(self.size) * f64::from(side) / f64::from(short)) as u64,
            };
            // Python's `round` goes to the even neighbour.
            let start = ((to - u64::from(self.size)) as f64 / 2.0).round_ties_even() as u64;
            Axis {
                to,
                start,
                count: self.size,
            }
        };
        resize_region(image, axis(image.width), axis(image.height))
    }
}

/// torchvision's `RandomResizedCrop.get_params` with ratio 3/4 to 4/3: `[left, top, width, height]`.
fn random_resized_crop(width: u32, height: u32, scale: (f32, f32), rng: &mut Philox) -> [u32; 4] {
    let (low, high) = (3.0_f64 / 4.0, 4.0_f64 / 3.0);
    let area = f64::from(width) * f64::from(height);
    for _ in 0..10 {
        let target = area * f64::from(rng.uniform_in(scale.0, scale.1));
        let ratio = f64::from(rng.uniform_in(low.ln() as f32, high.ln() as f32)).exp();
        let w = (target * ratio).sqrt().round_ties_even() as u32;
        let h = (target / ratio).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = rng.below(height - h + 1);
            let left = rng.below(width - w + 1);
            return [left, top, w, h];
        }
    }
    let ratio = f64::from(width) / f64::from(height);
    let (w, h) = if ratio < low {
        (width, (f64::from(width) / low).round_ties_even() as u32)
    } else if ratio > high {
        ((f64::from(height) * high).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    [(width - w) / 2, (height - h) / 2, w, h]
}

/// `image` turned, sized and shifted about its centre, bilinear, on white, at its own size.
fn affine(image: &RgbImage, scale: (f32, f32), rng: &mut Philox) -> RgbImage {
    let angle = rng.uniform_in(-AFFINE_DEGREES, AFFINE_DEGREES).to_radians();
    let factor = rng.uniform_in(scale.0, scale.1);
    let side = image.width.max(image.height) as f32;
    let shift_x = rng.uniform_in(-AFFINE_SHIFT, AFFINE_SHIFT) * side;
    let shift_y = rng.uniform_in(-AFFINE_SHIFT, AFFINE_SHIFT) * side;
    // From output to source: undo the shift, turn back, undo the factor.
    let (sin, cos) = angle.sin_cos();
    let (sin, cos) = (sin / factor, cos / factor);
    let (centre_x, centre_y) = (image.width as f32 / 2.0, image.height as f32 / 2.0);
    let mut out = RgbImage::filled(image.width, image.height, [255; 3]);
    let row = image.width as usize * 3;
    for (y, line) in out.pixels.chunks_exact_mut(row).enumerate() {
        for (x, pixel) in line.chunks_exact_mut(3).enumerate() {
            let dx = x as f32 + 0.5 - centre_x - shift_x;
            let dy = y as f32 + 0.5 - centre_y - shift_y;
            let source_x = cos * dx + sin * dy + centre_x - 0.5;
            let source_y = cos * dy - sin * dx + centre_y - 0.5;
            pixel.copy_from_slice(&bilinear(image, source_x, source_y));
        }
    }
    out
}

/// The colour of `image` at (`x`, `y`) in pixel centres, white outside.
fn bilinear(image: &RgbImage, x: f32, y: f32) -> [u8; 3] {
    let (x0, y0) = (x.floor(), y.floor());
    let (fx, fy) = (x - x0, y - y0);
    let at = |dx: f32, dy: f32| -> [f32; 3] {
        let (px, py) = (x0 + dx, y0 + dy);
        if px < 0.0 || py < 0.0 || px >= image.width as f32 || py >= image.height as f32 {
            return [255.0; 3];
        }
        let start = (py as usize * image.width as usize + px as usize) * 3;
        std::array::from_fn(|c| f32::from(image.pixels[start + c]))
    };
    let [a, b, c, d] = [at(0.0, 0.0), at(1.0, 0.0), at(0.0, 1.0), at(1.0, 1.0)];
    std::array::from_fn(|i| {
        let upper = a[i] + (b[i] - a[i]) * fx;
        let lower = c[i] + (d[i] - c[i]) * fx;
        (upper + (lower - upper) * fy + 0.5) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::rng::Purpose;

    fn rng(index: u64) -> Philox {
        Philox::new(7, Purpose::Test, 0, index)
    }

    fn gradient(width: u32, height: u32) -> RgbImage {
        let mut image = RgbImage::filled(width, height, [0; 3]);
        for (i, p) in image.pixels.iter_mut().enumerate() {
            *p = (i * 7 % 251) as u8;
        }
        image
    }

    #[test]
    fn every_shape_becomes_the_size() {
        for augment in [
            Augment::None,
            Augment::Crop { scale: (0.1, 1.0) },
            Augment::Affine { scale: (0.6, 1.1) },
        ] {
            let transform = Transform::new(32, augment).unwrap();
            for (w, h) in [(1, 1), (32, 32), (33, 32), (31, 57), (1, 5000), (300, 2)] {
                let out = transform.pixels(&gradient(w, h), &mut rng(1));
                assert_eq!(out.pixels.len(), transform.len(), "{augment:?} {w}x{h}");
            }
        }
    }

    #[test]
    fn crops_stay_inside_and_within_the_ranges() {
        for i in 0..2000 {
            let [left, top, w, h] = random_resized_crop(120, 90, (0.3, 0.9), &mut rng(i));
            assert!(left + w <= 120 && top + h <= 90);
            let share = f64::from(w * h) / (120.0 * 90.0);
            assert!((0.27..0.93).contains(&share), "{share}");
            let ratio = f64::from(w) / f64::from(h);
            assert!((0.72..1.37).contains(&ratio), "{ratio}");
        }
        // Too thin for any allowed region of that area: the central fallback.
        let fallback = random_resized_crop(1000, 30, (0.9, 1.0), &mut rng(0));
        assert_eq!(fallback, [480, 0, 40, 30]);
    }

    #[test]
    fn affine_keeps_white_white_and_moves_the_rest() {
        let white = RgbImage::filled(24, 24, [255; 3]);
        assert_eq!(affine(&white, (0.5, 1.5), &mut rng(3)), white);
        let image = gradient(24, 24);
        let one = affine(&image, (0.7, 1.0), &mut rng(3));
        assert_eq!(one, affine(&image, (0.7, 1.0), &mut rng(3)));
        assert_ne!(one, affine(&image, (0.7, 1.0), &mut rng(4)));
    }

    #[test]
    fn impossible_settings_are_refused() {
        for (size, augment) in [
            (0, Augment::None),
            (32, Augment::Crop { scale: (0.9, 0.5) }),
            (32, Augment::Crop { scale: (0.5, 1.5) }),
            (
                32,
                Augment::Affine {
                    scale: (f32::NAN, 1.0),
                },
            ),
        ] {
            assert!(Transform::new(size, augment).is_err());
        }
        let transform = Transform::new(8, Augment::None).unwrap();
        assert!(
            transform
                .normalised_by(Normalisation {
                    mean: [0.5; 3],
                    std: [0.0; 3]
                })
                .is_err()
        );
    }
}
