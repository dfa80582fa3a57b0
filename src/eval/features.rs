//! Unit features of a trained model: of texts, of images, of a whole data set.

use super::error::{Error, Result, input};
use super::normalise;
use crate::autodiff::Tape;
use crate::backend::Backend;
use crate::data::{
    self, Augment, Dataset, Loader, LoaderConfig, Mode, Skips, Start, Transform, tokenizer,
};
use crate::model::{Clip, Parameters};
use crate::tensor::Normalisation;
use std::sync::Arc;

/// Texts in one pass. They are short and packed, so this many cost little memory in any model.
const TEXTS: usize = 256;

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

/// How images are loaded. None of it changes what an image's feature is, save the normalisation.
#[derive(Clone, Debug)]
pub struct Loading {
    /// Images in one pass.
    pub batch_size: usize,
    /// Threads that read and decode.
    pub workers: usize,
    /// What the model was trained with.
    pub normalisation: Normalisation,
}

impl Default for Loading {
    fn default() -> Self {
        Self {
            batch_size: 256,
            workers: 2,
            normalisation: Normalisation::OPENAI,
        }
    }
}

/// The images of a data set as features, with their texts. All lists have one item an image, in the
/// order of the data; images that cannot be read are in none of them.
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    /// Unit rows `[images, embed_dim]`.
    pub images: Vec<f32>,
    /// Names of the samples.
    pub keys: Vec<String>,
    /// All captions of each image.
    pub captions: Vec<Vec<String>>,
    /// Class of each image, as written.
    pub classes: Vec<Option<String>>,
    /// What could not be used.
    pub skips: Skips,
    /// Shards that were read; 0 for tables and folders.
    pub shards: u64,
}

impl Embedded {
    /// These features, or an error if there are none.
    ///
    /// # Errors
    /// If no image of the data `name` could be used.
    pub fn non_empty(self, name: &str) -> Result<Self> {
        if !self.keys.is_empty() {
            return Ok(self);
        }
        if self.skips.total() == 0 {
            return input(format!("{name}: no usable image: it holds none"));
        }
        input(format!("{name}: no usable image; skipped: {}", self.skips))
    }
}

impl Model<'_> {
    /// Width of a feature.
    pub fn width(&self) -> usize {
        self.clip.config().embed_dim
    }

    /// Unit text features `[texts, embed_dim]`. Texts longer than the context are cut, as open_clip
    /// cuts them.
    ///
    /// # Errors
    /// If the tokenizer has no vocabulary of the model's size, or the device fails.
    pub fn embed_texts<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<f32>> {
        let text = &self.clip.config().text_cfg;
        let tokens = tokenizer::for_captions(text.vocab_size, text.context_length)
            .map_err(|e| Error::Input(e.to_string()))?;
        let mut out = Vec::with_capacity(texts.len() * self.width());
        for chunk in texts.chunks(TEXTS) {
            let tape = Tape::frozen(self.backend.clone());
            let bound = self.parameters.bind(&tape);
            let ids: Vec<Vec<i32>> = chunk.iter().map(|t| tokens(t.as_ref())).collect();
            let y = self.clip.encode_text(&tape, &bound, &ids)?;
            out.extend(self.backend.download(y.value())?);
        }
        normalise(&mut out, self.width());
        Ok(out)
    }

    /// Unit image features `[batch, embed_dim]` of pixels `[batch, S, S, 3]`, which are normalised by `by`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn embed_images(&self, pixels: &[u8], by: &Normalisation) -> Result<Vec<f32>> {
        let size = self.clip.config().vision_cfg.image_size;
        let batch = pixels.len() / (size * size * 3);
        let images = self.backend.images(&[batch, size, size, 3], pixels, by)?;
        let tape = Tape::frozen(self.backend.clone());
        let bound = self.parameters.bind(&tape);
        let y = self.clip.encode_image(&tape, &bound, &images)?;
        let mut out = self.backend.download(y.value())?;
        normalise(&mut out, self.width());
        Ok(out)
    }

    /// Features of every image of `dataset`; `seen` gets their number after each pass.
    ///
    /// # Errors
    /// If a shard cannot be opened or the device fails. A bad image is counted, not an error.
    pub fn embed_dataset(
        &self,
        dataset: &Arc<Dataset>,
        loading: &Loading,
        seen: &mut dyn FnMut(usize),
    ) -> Result<Embedded> {
        let size = self.clip.config().vision_cfg.image_size;
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let transform =
            Transform::new(size, Augment::None)?.normalised_by(loading.normalisation)?;
        let no_tokens: data::Tokenizer = Arc::new(|_| Vec::new());
        let config = LoaderConfig {
            dataset: dataset.clone(),
            batch_size: loading.batch_size,
            seed: 0,
            length: None,
            shuffle_buffer: 0,
            mode: Mode::Evaluate,
            workers: loading.workers,
            prefetch: 1,
            transform,
            tokenizer: no_tokens,
        };
        let mut loader = Loader::new(config, Start::default(), 0)?;
        let mut out = Embedded::default();
        for batch in loader.by_ref() {
            let batch = batch?;
            let features = self.embed_images(&batch.images, &batch.normalisation)?;
            out.images.extend(features);
            out.keys.extend(batch.keys);
            out.captions.extend(batch.all_captions);
            out.classes.extend(batch.classes);
            seen(out.keys.len());
        }
        let stats = loader.stats();
        (out.skips, out.shards) = (stats.skips, stats.shards);
        Ok(out)
    }
}
