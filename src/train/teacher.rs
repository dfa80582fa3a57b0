//! The frozen teacher.

use super::feature_cache::Share;
use super::rows::{Rows, row_index};
use crate::autodiff::{Tape, Var};
use crate::backend::Backend;
use crate::loss::TeacherFeatures;
use crate::model::{Clip, ClipConfig, Parameters};
use crate::settings::error::{Result, failed, input, usage};
use crate::tensor::Tensor;
use crate::{io, ops};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A model that is imitated and never changes.
#[derive(Debug)]
pub struct Teacher {
    clip: Clip,
    parameters: Parameters,
    scale: Tensor,
    inverse_scale: Tensor,
    cache: Option<Share>,
}

impl Teacher {
    /// A teacher from its parts.
    pub fn new(clip: Clip, parameters: Parameters, backend: &dyn Backend) -> Result<Self> {
        let Some(log) = parameters.get("logit_scale") else {
            return usage("the teacher has no logit_scale");
        };
        let scale = backend.exp(&log.tensor).map_err(failed)?;
        let negative = backend.weighted_sum(&[(&log.tensor, -1.0)]);
        let inverse_scale = backend.exp(&negative.map_err(failed)?).map_err(failed)?;
        Ok(Self {
            clip,
            parameters,
            scale,
            inverse_scale,
            cache: None,
        })
    }

    /// The same, asked only for what `cache` does not hold.
    pub fn with_cache(self, cache: Option<Share>) -> Self {
        Self { cache, ..self }
    }

    /// Reads a teacher: a model name or configuration file, and its weights.
    pub fn load(model: &str, checkpoint: &Path, backend: &dyn Backend) -> Result<Self> {
        let clip = Clip::new(ClipConfig::load(model).map_err(input)?);
        let parameters = io::load_clip(checkpoint, &clip, backend).map_err(input)?;
        Self::new(clip, parameters, backend)
    }

    /// Replaces its α by `scale`.
    pub(super) fn hold_scale(&mut self, scale: f32, backend: &dyn Backend) -> Result<()> {
        let upload = |x: f32| backend.upload(&[1], &[x]).map_err(failed);
        (self.scale, self.inverse_scale) = (upload(scale)?, upload(scale.recip())?);
        Ok(())
    }

    /// The model.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// Its weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// 1/α_T, `[1]`.
    pub(super) fn inverse_scale(&self) -> &Tensor {
        &self.inverse_scale
    }

    /// Unit features of a batch, whose images are `pixels` on the host and `images` on the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn features(
        &self,
        backend: &Arc<dyn Backend>,
        pixels: &[u8],
        images: &Tensor,
        texts: &[Vec<i32>],
    ) -> Result<TeacherFeatures> {
        let compute = || self.compute(backend, images, texts);
        let [image, text] = match &self.cache {
            Some(cache) => {
                let width = self.clip.config().embed_dim;
                cache.features(backend.as_ref(), (pixels, texts), width, compute)?
            }
            None => compute()?,
        };
        Ok(TeacherFeatures {
            image,
            text,
            scale: self.scale.clone(),
        })
    }

    /// Unit features of images and texts, on a tape that records nothing. Images go through the tower by
    /// [`Backend::frozen_batch`], which changes no bit of them: every image is for itself.
    pub(super) fn compute(
        &self,
        backend: &Arc<dyn Backend>,
        images: &Tensor,
        texts: &[Vec<i32>],
    ) -> Result<[Tensor; 2]> {
        let tape = Tape::frozen(backend.clone());
        let bound = self.parameters.bind(&tape);
        let unit = |features: crate::model::Result<Var>| -> Result<Tensor> {
            let unit = ops::l2_normalize(&tape, &features.map_err(failed)?).map_err(failed)?;
            Ok(unit.value().clone())
        };
        let n = texts.len();
        let image = match backend.frozen_batch() {
            size if size < n => {
                let mut all = Rows::new(n);
                for from in (0..n).step_by(size) {
                    let part = from..n.min(from + size);
                    let images = part_of(backend.as_ref(), images, &part)?;
                    let features = unit(self.clip.encode_image(&tape, &bound, &images))?;
                    all.put(backend.as_ref(), &part, &features)?;
                }
                all.all()?
            }
            _ => unit(self.clip.encode_image(&tape, &bound, images))?,
        };
        let text = unit(self.clip.encode_text(&tape, &bound, texts))?;
        Ok([image, text])
    }
}

/// The images `part` of `[batch, h, w, 3]`.
fn part_of(backend: &dyn Backend, images: &Tensor, part: &Range<usize>) -> Result<Tensor> {
    let mut shape = images.shape().to_vec();
    let flat = [shape[0], images.len() / shape[0].max(1)];
    let misshapen = || failed(format!("images {:?}", images.shape()));
    let flat = images.clone().reshaped(&flat).ok_or_else(misshapen)?;
    let chosen = backend.select_rows(&flat, &row_index(backend, part)?);
    shape[0] = part.len();
    chosen
        .map_err(failed)?
        .reshaped(&shape)
        .ok_or_else(misshapen)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::tensor::rng::{Philox, Purpose};

    /// A model of 8-pixel images and 20 tokens, 8 wide at its end.
    pub(in crate::train) fn tiny() -> Clip {
        let json = r#"{"embed_dim": 8,
            "vision_cfg": {"image_size": 8, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4},
            "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 8, "heads": 2, "layers": 1}}"#;
        Clip::new(ClipConfig::from_json(json).unwrap())
    }

    #[test]
    fn images_in_parts_have_the_same_bits() {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let clip = tiny();
        let parameters = clip.init(backend.as_ref(), 1).unwrap();
        let teacher = Teacher::new(clip, parameters, backend.as_ref()).unwrap();
        let n = 2 * backend.frozen_batch() + 3;
        let mut rng = Philox::new(0, Purpose::Test, 0, 0);
        let pixels: Vec<f32> = (0..n * 8 * 8 * 3).map(|_| rng.normal()).collect();
        let images = backend.upload(&[n, 8, 8, 3], &pixels).unwrap();
        let [found, _] = teacher
            .compute(&backend, &images, &vec![vec![18, 1, 19]; n])
            .unwrap();
        let tape = Tape::frozen(backend.clone());
        let bound = teacher.parameters.bind(&tape);
        let whole = teacher.clip.encode_image(&tape, &bound, &images).unwrap();
        let whole = ops::l2_normalize(&tape, &whole).unwrap();
        let values = |t: &Tensor| backend.download(t).unwrap();
        assert_eq!(values(&found), values(whole.value()));
    }
}
