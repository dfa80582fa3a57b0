//! The frozen teacher.

use super::error::{Result, failed, input, usage};
use crate::autodiff::Tape;
use crate::backend::Backend;
use crate::loss::TeacherFeatures;
use crate::model::{Clip, ClipConfig, Parameters};
use crate::tensor::Tensor;
use crate::{io, ops};
use std::path::Path;
use std::sync::Arc;

/// A model that is imitated and never changes.
#[derive(Debug)]
pub struct Teacher {
    clip: Clip,
    parameters: Parameters,
    scale: Tensor,
}

impl Teacher {
    /// A teacher from its parts.
    pub fn new(clip: Clip, parameters: Parameters, backend: &dyn Backend) -> Result<Self> {
        let Some(log) = parameters.get("logit_scale") else {
            return usage("the teacher has no logit_scale");
        };
        let scale = backend.exp(&log.tensor).map_err(failed)?;
        Ok(Self {
            clip,
            parameters,
            scale,
        })
    }

    /// Reads a teacher: a model name or configuration file, and its weights.
    pub fn load(model: &str, checkpoint: &Path, backend: &dyn Backend) -> Result<Self> {
        let clip = Clip::new(ClipConfig::load(model).map_err(input)?);
        let parameters = io::load_clip(checkpoint, &clip, backend).map_err(input)?;
        Self::new(clip, parameters, backend)
    }

    /// The model.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// Its weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Unit features of a batch, on a tape that records nothing.
    pub fn features(
        &self,
        backend: &Arc<dyn Backend>,
        images: &Tensor,
        texts: &[Vec<i32>],
    ) -> Result<TeacherFeatures> {
        let tape = Tape::frozen(backend.clone());
        let bound = self.parameters.bind(&tape);
        let image = self
            .clip
            .encode_image(&tape, &bound, images)
            .map_err(failed)?;
        let text = self
            .clip
            .encode_text(&tape, &bound, texts)
            .map_err(failed)?;
        Ok(TeacherFeatures {
            image: ops::l2_normalize(&tape, &image)
                .map_err(failed)?
                .value()
                .clone(),
            text: ops::l2_normalize(&tape, &text)
                .map_err(failed)?
                .value()
                .clone(),
            scale: self.scale.clone(),
        })
    }
}
