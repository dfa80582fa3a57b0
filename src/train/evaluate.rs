//! Features of a trained model over a data set, and what they score.

use super::error::{Result, failed};
use super::source::{data_error, tokenizer};
use crate::autodiff::Tape;
use crate::backend::Backend;
use crate::data::{self, Dataset, Loader, LoaderConfig, Mode, Transform};
use crate::eval;
use crate::model::{Clip, Parameters};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Images or texts in one pass.
const BATCH: usize = 256;

/// A model that is evaluated.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// The device.
    pub backend: &'a Arc<dyn Backend>,
    /// The model.
    pub clip: &'a Clip,
    /// Its weights.
    pub parameters: &'a Parameters,
}

/// What a set of images with one class name each scores.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// Images evaluated.
    pub images: usize,
    /// Different class names, all of them candidates.
    pub classes: usize,
    /// Naming each image.
    pub accuracy: eval::Accuracy,
    /// Images and their first captions.
    pub retrieval: eval::Retrieval,
}

impl Model<'_> {
    /// Unit text features, one row a text.
    pub fn embed_texts(&self, texts: &[String]) -> Result<Vec<f32>> {
        let tokens = tokenizer(self.clip.config())?;
        let mut out = Vec::new();
        for chunk in texts.chunks(BATCH) {
            let tape = Tape::frozen(self.backend.clone());
            let bound = self.parameters.bind(&tape);
            let ids: Vec<Vec<i32>> = chunk.iter().map(|t| tokens(t)).collect();
            let y = self.clip.encode_text(&tape, &bound, &ids).map_err(failed)?;
            out.extend(self.backend.download(y.value()).map_err(failed)?);
        }
        eval::normalise(&mut out, self.clip.config().embed_dim);
        Ok(out)
    }

    /// Unit image features of normalised `[batch, S, S, 3]` pixels.
    pub fn embed_images(&self, pixels: &[f32]) -> Result<Vec<f32>> {
        let size = self.clip.config().vision_cfg.image_size;
        let batch = pixels.len() / (size * size * 3);
        let images = self
            .backend
            .upload(&[batch, size, size, 3], pixels)
            .map_err(failed)?;
        let tape = Tape::frozen(self.backend.clone());
        let bound = self.parameters.bind(&tape);
        let y = self
            .clip
            .encode_image(&tape, &bound, &images)
            .map_err(failed)?;
        let mut out = self.backend.download(y.value()).map_err(failed)?;
        eval::normalise(&mut out, self.clip.config().embed_dim);
        Ok(out)
    }

    /// Scores the images of `dataset`, whose first captions are their class names; `prompts` makes
    /// the texts of a class.
    pub fn score(
        &self,
        dataset: &Arc<Dataset>,
        prompts: impl Fn(&str) -> Vec<String>,
    ) -> Result<Scores> {
        let size = self.clip.config().vision_cfg.image_size;
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let loader = Loader::new(
            LoaderConfig {
                dataset: dataset.clone(),
                batch_size: BATCH,
                seed: 0,
                shuffle_buffer: 0,
                mode: Mode::Evaluate,
                workers: 2,
                prefetch: 1,
                transform: Transform::new(size, data::Augment::None).map_err(data_error)?,
                tokenizer: Arc::new(|_| Vec::new()),
            },
            0,
            0,
        )
        .map_err(data_error)?;
        let (mut features, mut names) = (Vec::new(), Vec::new());
        for batch in loader {
            let batch = batch.map_err(data_error)?;
            features.extend(self.embed_images(&batch.images)?);
            names.extend(batch.captions);
        }
        let classes: Vec<String> = names
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let width = self.clip.config().embed_dim;
        let texts: Vec<Vec<String>> = classes.iter().map(|c| prompts(c)).collect();
        let templates = texts.first().map_or(1, Vec::len);
        let prompt_features = self.embed_texts(&texts.concat())?;
        let embeddings = eval::class_embeddings(&prompt_features, templates, width);
        let labels: Vec<usize> = names
            .iter()
            .map(|n| classes.binary_search(n).unwrap_or(usize::MAX))
            .collect();
        let captions = self.embed_texts(&names)?;
        let own: Vec<usize> = (0..names.len()).collect();
        Ok(Scores {
            images: names.len(),
            classes: classes.len(),
            accuracy: eval::zero_shot(&features, &embeddings, &labels, width),
            retrieval: eval::retrieval(&features, &captions, &own, width, eval::Captions::First),
        })
    }
}
