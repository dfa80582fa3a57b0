//! Which patches of its images a student sees in masked feature distillation.

use crate::loss::Objective;
use crate::model::ClipConfig;
use crate::settings::error::{Result, usage};
use crate::tensor::rng::{Philox, Purpose};

/// How images are masked: a random share of their patches is left out, as by MAE (He et al., arXiv
/// 2111.06377), from which CLIP-KD's code has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Masking {
    /// Patches of an image.
    patches: usize,
    /// Patches that are kept, at least 1.
    kept: usize,
}

impl Masking {
    /// How `objective` wants the images of `model` masked, if it does.
    ///
    /// # Errors
    /// As [`Masking::new`].
    pub(crate) fn of(objective: &Objective, model: &ClipConfig) -> Result<Option<Self>> {
        match objective.weights.mfd {
            0.0 => Ok(None),
            _ => Self::new(model, objective.mask_ratio).map(Some),
        }
    }

    /// Leaves `ratio` of the patches of `model` out: ⌊patches · (1 − ratio)⌋ stay.
    ///
    /// # Errors
    /// If the model has no patches, or none would be left.
    pub(crate) fn new(model: &ClipConfig, ratio: f64) -> Result<Self> {
        let vision = &model.vision_cfg;
        if vision.is_resnet() {
            return usage(
                "--alpha-mfd leaves patches of images out, which a ResNet cannot: take a ViT as \
                 --model, or --alpha-mfd 0",
            );
        }
        let patches = vision.grid() * vision.grid();
        let kept = (patches as f64 * (1.0 - ratio)) as usize;
        if kept == 0 {
            return usage(format!(
                "--mask-ratio {ratio} leaves none of an image's {patches} patches: take a smaller one"
            ));
        }
        Ok(Self { patches, kept })
    }

    /// Patches that stay.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// The patches of sample `sample` of `epoch` that stay, ascending. They depend on nothing else, so
    /// every pass over a sample, in whatever part of a batch and after a resume, sees the same ones.
    pub(crate) fn draw(&self, seed: u64, epoch: u32, sample: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.patches).collect();
        Philox::new(seed, Purpose::Mask, epoch, sample).shuffle(&mut order);
        order.truncate(self.kept);
        order.sort_unstable();
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(vision: &str) -> ClipConfig {
        let json = format!(
            r#"{{"embed_dim": 8, "vision_cfg": {vision},
            "text_cfg": {{"context_length": 6, "vocab_size": 20, "width": 8, "heads": 2, "layers": 1}}}}"#
        );
        ClipConfig::from_json(&json).unwrap()
    }

    const VIT: &str =
        r#"{"image_size": 56, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}"#;

    #[test]
    fn a_quarter_stays_and_every_patch_as_often() {
        let masking = Masking::new(&model(VIT), 0.75).unwrap();
        assert_eq!(masking.kept(), 12); // of 49
        let mut counts = [0u32; 49];
        for sample in 0..4000 {
            let kept = masking.draw(5, 1, sample);
            assert_eq!(kept.len(), 12);
            assert!(kept.windows(2).all(|w| w[0] < w[1]));
            kept.iter().for_each(|&p| counts[p] += 1);
        }
        // 4000 · 12/49 = 980 expected, a standard deviation of 27.
        assert!(
            counts.iter().all(|&c| (820..1140).contains(&c)),
            "{counts:?}"
        );
        assert_eq!(masking.draw(5, 1, 7), masking.draw(5, 1, 7));
        for other in [
            masking.draw(6, 1, 7),
            masking.draw(5, 2, 7),
            masking.draw(5, 1, 8),
        ] {
            assert_ne!(masking.draw(5, 1, 7), other);
        }
    }

    #[test]
    fn what_cannot_be_masked_is_said() {
        let error = |vision: &str, ratio| {
            let e = Masking::new(&model(vision), ratio).unwrap_err();
            assert_eq!(e.exit_code(), 2);
            e.to_string()
        };
        assert!(error(VIT, 0.99).contains("--mask-ratio 0.99"));
        let resnet = r#"{"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": null}"#;
        assert!(error(resnet, 0.5).contains("ResNet"));
    }
}
