//! Features of a trained model over a data set, and what they score.

use super::error::{Result, failed};
use super::source::{data_error, tokenizer};
use crate::autodiff::Tape;
use crate::backend::Backend;
use crate::data::{self, Dataset, Loader, LoaderConfig, Mode, Transform};
use crate::eval;
use crate::model::{Clip, Parameters};
use std::collections::HashMap;
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

    /// Scores the images of `dataset`. `classes` are the candidates' names, by which the samples'
    /// classes are known; in `templates` `{c}` stands for the name. Images of other classes count
    /// as named wrongly.
    pub fn score(
        &self,
        dataset: &Arc<Dataset>,
        classes: &[String],
        templates: &[&str],
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
        let (mut features, mut captions, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let index: HashMap<&str, usize> = classes
            .iter()
            .enumerate()
            .map(|(i, c)| (c.as_str(), i))
            .collect();
        for batch in loader {
            let batch = batch.map_err(data_error)?;
            features.extend(self.embed_images(&batch.images)?);
            captions.extend(batch.captions);
            let label =
                |c: &Option<String>| c.as_ref().and_then(|c| index.get(c.as_str()).copied());
            labels.extend(batch.classes.iter().map(|c| label(c).unwrap_or(usize::MAX)));
        }
        let width = self.clip.config().embed_dim;
        let prompts: Vec<String> = classes
            .iter()
            .flat_map(|class| templates.iter().map(move |t| t.replace("{c}", class)))
            .collect();
        let prompts = self.embed_texts(&prompts)?;
        let embeddings = eval::class_embeddings(&prompts, templates.len(), width);
        let captions = self.embed_texts(&captions)?;
        let own: Vec<usize> = (0..labels.len()).collect();
        Ok(Scores {
            images: labels.len(),
            classes: classes.len(),
            accuracy: eval::zero_shot(&features, &embeddings, &labels, width),
            retrieval: eval::retrieval(&features, &captions, &own, width, eval::Captions::First),
        })
    }
}
