//! Random changes of colour: open_clip's `color_jitter` and `gray_scale_prob` of its `AugmentationCfg`,
//! which are torchvision's `ColorJitter` and `Grayscale`.

use super::error::{Error, Result};
use super::image::RgbImage;
use crate::tensor::rng::Philox;

/// How much colours change in training, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ColorJitter {
    /// A factor on all channels is drawn from 1 ± this.
    pub brightness: f32,
    /// A factor on the distance to the image's mean grey is drawn from 1 ± this.
    pub contrast: f32,
    /// A factor on the distance to the pixel's own grey is drawn from 1 ± this.
    pub saturation: f32,
    /// A turn of the hue is drawn from ± this, in turns: at most 0.5.
    pub hue: f32,
    /// Share of images that are changed by the four above, in a random order.
    pub probability: f32,
    /// Share of images that then become grey.
    pub gray_scale_probability: f32,
}

impl ColorJitter {
    /// # Errors
    /// [`Error::Config`] for a strength below 0, a hue above 0.5, or a probability outside 0 to 1.
    pub(super) fn check(&self) -> Result<()> {
        let strengths = [self.brightness, self.contrast, self.saturation];
        if strengths.iter().any(|s| !(s.is_finite() && *s >= 0.0)) {
            let detail = "color jitter: brightness, contrast and saturation are at least 0";
            return Err(Error::Config(format!("{detail}, not {strengths:?}")));
        }
        if !(0.0..=0.5).contains(&self.hue) {
            let detail = "color jitter: the hue turns by 0 to 0.5";
            return Err(Error::Config(format!("{detail}, not {}", self.hue)));
        }
        for p in [self.probability, self.gray_scale_probability] {
            if !(0.0..=1.0).contains(&p) {
                return Err(Error::Config(format!(
                    "{p} is no probability: color jitter takes 0 to 1"
                )));
            }
        }
        Ok(())
    }

    /// Changes `image` in place. Draws nothing where a probability is 0.
    pub(super) fn apply(&self, image: &mut RgbImage, rng: &mut Philox) {
        if self.probability > 0.0 && rng.uniform() < self.probability {
            self.change(image, rng);
        }
        if self.gray_scale_probability > 0.0 && rng.uniform() < self.gray_scale_probability {
            for p in image.pixels.chunks_exact_mut(3) {
                let [r, g, b] = [p[0], p[1], p[2]].map(f32::from);
                p.fill(grey([r, g, b]).round() as u8);
            }
        }
    }

    fn change(&self, image: &mut RgbImage, rng: &mut Philox) {
        let mut order = [0, 1, 2, 3];
        rng.shuffle(&mut order);
        let mut factor = |strength: f32| rng.uniform_in((1.0 - strength).max(0.0), 1.0 + strength);
        let factors = [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let turn = rng.uniform_in(-self.hue, self.hue);
        let (pixels, _) = image.pixels.as_chunks::<3>();
        let mut pixels: Vec<[f32; 3]> = pixels.iter().map(|p| p.map(f32::from)).collect();
        for change in order {
            match change {
                0 => blend(&mut pixels, factors[0], |_| 0.0),
                1 => {
                    let sum: f64 = pixels.iter().map(|p| f64::from(grey(*p))).sum();
                    let mean = (sum / pixels.len().max(1) as f64) as f32;
                    blend(&mut pixels, factors[1], |_| mean);
                }
                2 => blend(&mut pixels, factors[2], grey),
                _ if turn == 0.0 => {}
                _ => pixels.iter_mut().for_each(|p| *p = turn_hue(*p, turn)),
            }
        }
        for (out, p) in image.pixels.chunks_exact_mut(3).zip(pixels) {
            out.copy_from_slice(&p.map(|x| x.round() as u8));
        }
    }
}

/// ITU-R 601 luma, as Pillow's mode `L`.
fn grey([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// p = other + factor (p − other), within 0 to 255.
fn blend(pixels: &mut [[f32; 3]], factor: f32, other: impl Fn([f32; 3]) -> f32) {
    for p in pixels {
        let other = other(*p);
        *p = p.map(|x| (other + factor * (x - other)).clamp(0.0, 255.0));
    }
}

/// The colour with its HSV hue moved by `turn` of a full turn.
fn turn_hue(p: [f32; 3], turn: f32) -> [f32; 3] {
    let [r, g, b] = p;
    let (value, low) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = value - low;
    if chroma == 0.0 {
        return p;
    }
    // In sixths of a turn.
    let hue = if value == r {
        (g - b) / chroma
    } else if value == g {
        (b - r) / chroma + 2.0
    } else {
        (r - g) / chroma + 4.0
    };
    let hue = (hue + 6.0 * turn).rem_euclid(6.0);
    // Each channel is the value less the chroma, ramped by the distance from its own hue.
    let channel = |n: f32| {
        let k = (n + hue).rem_euclid(6.0);
        value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::rng::Purpose;

    fn rng(index: u64) -> Philox {
        Philox::new(9, Purpose::Test, 0, index)
    }

    fn image() -> RgbImage {
        let mut image = RgbImage::filled(8, 8, [0; 3]);
        for (i, p) in image.pixels.iter_mut().enumerate() {
            *p = (i * 37 % 256) as u8;
        }
        image
    }

    #[test]
    fn nothing_asked_changes_and_draws_nothing() {
        let mut changed = image();
        let (mut a, mut b) = (rng(0), rng(0));
        ColorJitter::default().apply(&mut changed, &mut a);
        assert_eq!(changed, image());
        assert_eq!(a.next_u64(), b.next_u64());
    }

    #[test]
    fn a_hue_turned_by_a_third_moves_the_channels() {
        let close = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
        for p in [[255.0, 0.0, 0.0], [10.0, 200.0, 90.0], [7.0, 7.0, 9.0]] {
            let [r, g, b] = p;
            assert!(close(turn_hue(p, 0.0), p));
            assert!(close(turn_hue(p, 1.0 / 3.0), [b, r, g]));
            assert!(close(turn_hue(turn_hue(p, 0.2), -0.2), p));
        }
        assert_eq!(turn_hue([5.0; 3], 0.3), [5.0; 3]);
    }

    #[test]
    fn each_part_does_what_torchvision_says() {
        let only = |jitter: ColorJitter| {
            let mut out = image();
            let jitter = ColorJitter {
                probability: 1.0,
                ..jitter
            };
            jitter.apply(&mut out, &mut rng(2));
            out
        };
        let zero = ColorJitter::default();
        // Brightness scales every channel by one factor.
        let out = only(ColorJitter {
            brightness: 0.4,
            ..zero
        });
        let factor = f32::from(out.pixels[1]) / f32::from(image().pixels[1]);
        for (y, x) in out.pixels.iter().zip(image().pixels) {
            assert!((f32::from(*y) - (factor * f32::from(x)).min(255.0)).abs() < 6.0);
        }
        // Saturation and hue keep a grey image as it is.
        let mut grey = RgbImage::filled(4, 4, [90; 3]);
        let both = ColorJitter {
            saturation: 0.9,
            hue: 0.5,
            probability: 1.0,
            ..zero
        };
        both.apply(&mut grey, &mut rng(3));
        assert_eq!(grey, RgbImage::filled(4, 4, [90; 3]));
        // Contrast keeps a flat image as it is.
        let flat = ColorJitter {
            contrast: 0.9,
            probability: 1.0,
            ..zero
        };
        flat.apply(&mut grey, &mut rng(4));
        assert_eq!(grey, RgbImage::filled(4, 4, [90; 3]));
        let out = only(ColorJitter {
            gray_scale_probability: 1.0,
            ..zero
        });
        assert!(
            out.pixels
                .chunks_exact(3)
                .all(|p| p[0] == p[1] && p[1] == p[2])
        );
    }

    #[test]
    fn probabilities_are_shares_of_the_images() {
        let jitter = ColorJitter {
            gray_scale_probability: 0.25,
            ..ColorJitter::default()
        };
        let grey = (0..2000)
            .filter(|&i| {
                let mut out = image();
                jitter.apply(&mut out, &mut rng(i));
                out != image()
            })
            .count();
        assert!((400..600).contains(&grey), "{grey} of 2000");
    }

    #[test]
    fn impossible_settings_are_refused() {
        for jitter in [
            ColorJitter {
                brightness: -0.1,
                ..ColorJitter::default()
            },
            ColorJitter {
                hue: 0.6,
                ..ColorJitter::default()
            },
            ColorJitter {
                probability: 1.5,
                ..ColorJitter::default()
            },
            ColorJitter {
                gray_scale_probability: f32::NAN,
                ..ColorJitter::default()
            },
        ] {
            assert!(jitter.check().is_err(), "{jitter:?}");
        }
    }
}
