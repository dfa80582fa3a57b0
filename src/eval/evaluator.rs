//! Running a model over test sets.

use super::classes::{ClassSet, Classes};
use super::error::{Error, Result};
use super::features::{Embedded, Loading, Model};
use super::retrieval::{Captions, Retrieval, retrieval};
use super::sets::{EvalSet, Protocols};
use super::zero_shot::{Accuracy, class_embeddings, zero_shot};
use crate::data::{Seen, Skips};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Classes whose prompts go through the text tower together: bounds the memory of 80 000 prompts.
const CLASSES: usize = 16;
/// Between two lines about a long evaluation.
const PAUSE: Duration = Duration::from_secs(10);

/// A model's results on one test set.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The set's name.
    pub name: String,
    /// Before the names of its metrics.
    pub prefix: String,
    /// Images evaluated.
    pub images: usize,
    /// Their captions that took part in retrieval.
    pub captions: usize,
    /// Candidates of the classification, if it was asked for.
    pub classes: usize,
    /// Zero-shot accuracy.
    pub accuracy: Option<Accuracy>,
    /// Retrieval with each image's first caption.
    pub first_caption: Option<Retrieval>,
    /// Retrieval with all captions.
    pub all_captions: Option<Retrieval>,
    /// What could not be used.
    pub skips: Skips,
}

/// A model with the class embeddings that it has made so far.
pub struct Evaluator<'a> {
    model: Model<'a>,
    loading: Loading,
    embeddings: Vec<(Arc<ClassSet>, Arc<Vec<f32>>)>,
    say: Box<dyn FnMut(&str) + 'a>,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of `model`.
    pub fn new(model: Model<'a>, loading: Loading) -> Self {
        Self {
            model,
            loading,
            embeddings: Vec::new(),
            say: Box::new(|_| {}),
        }
    }

    /// The same, giving `say` a line now and then about how far it is.
    #[must_use]
    pub fn saying(mut self, say: impl FnMut(&str) + 'a) -> Self {
        self.say = Box::new(say);
        self
    }

    /// Evaluates one set.
    ///
    /// # Errors
    /// If a sample's class is not a candidate, no image at all can be used, a shard cannot be
    /// opened, or the device fails.
    pub fn run(&mut self, set: &EvalSet) -> Result<Outcome> {
        let embedded = self.embed(set)?.non_empty(&set.name)?;
        let images = embedded.keys.len();
        let seen = Seen {
            pairs: images as u64 + embedded.skips.pairs(),
            shards: embedded.shards,
        };
        let bad = embedded.skips.check(seen, set.max_bad_fraction);
        bad.map_err(|e| Error::Input(format!("{}: {e}", set.name)))?;
        let accuracy = match &set.classes {
            Some(classes) => Some(self.classify(set, classes, &embedded)?),
            None => None,
        };
        let mut outcome = Outcome {
            name: set.name.clone(),
            prefix: set.prefix.clone(),
            images,
            classes: set.classes.as_ref().map_or(0, Classes::len),
            accuracy,
            ..Outcome::default()
        };
        if set.retrieval != Protocols::None {
            self.retrieve(set, &embedded, &mut outcome)?;
        }
        outcome.skips = embedded.skips;
        Ok(outcome)
    }

    fn embed(&mut self, set: &EvalSet) -> Result<Embedded> {
        let (started, mut told) = (Instant::now(), Instant::now());
        let say = &mut self.say;
        let mut line = |n: usize| {
            let rate = n as f64 / started.elapsed().as_secs_f64().max(1e-9);
            say(&format!("{}: {n} images, {rate:.1}/s", set.name));
        };
        let embedded = self
            .model
            .embed_dataset(&set.dataset, &self.loading, &mut |n| {
                if told.elapsed() >= PAUSE {
                    told = Instant::now();
                    line(n);
                }
            })?;
        line(embedded.keys.len());
        Ok(embedded)
    }

    fn classify(
        &mut self,
        set: &EvalSet,
        classes: &Classes,
        embedded: &Embedded,
    ) -> Result<Accuracy> {
        let labels = embedded
            .classes
            .iter()
            .zip(&embedded.keys)
            .map(|(class, key)| {
                classes
                    .label(class.as_deref())
                    .map_err(|e| Error::Input(format!("{}: sample {key} {e}", set.name)))
            })
            .collect::<Result<Vec<usize>>>()?;
        let width = self.model.width();
        let all = self.class_embeddings(&classes.set)?;
        let subset: Option<Vec<f32>> = classes.subset.as_ref().map(|rows| {
            rows.iter()
                .flat_map(|&i| &all[i * width..(i + 1) * width])
                .copied()
                .collect()
        });
        let candidates = subset.as_deref().unwrap_or(&all);
        Ok(zero_shot(&embedded.images, candidates, &labels, width))
    }

    /// Class embeddings `[classes, embed_dim]`, made at the first call.
    fn class_embeddings(&mut self, set: &Arc<ClassSet>) -> Result<Arc<Vec<f32>>> {
        if let Some((_, known)) = self.embeddings.iter().find(|(s, _)| Arc::ptr_eq(s, set)) {
            return Ok(known.clone());
        }
        let (width, n) = (self.model.width(), set.names().len());
        let templates = set.templates().len();
        (self.say)(&format!("prompts: {n} classes in {templates} templates"));
        let (mut out, mut told) = (Vec::with_capacity(n * width), Instant::now());
        for first in (0..n).step_by(CLASSES) {
            let chunk = first..(first + CLASSES).min(n);
            let prompts: Vec<String> = chunk.flat_map(|i| set.prompts(i)).collect();
            let features = self.model.embed_texts(&prompts)?;
            out.extend(class_embeddings(&features, templates, width));
            if told.elapsed() >= PAUSE {
                told = Instant::now();
                (self.say)(&format!("prompts: {} classes", out.len() / width.max(1)));
            }
        }
        let out = Arc::new(out);
        self.embeddings.push((set.clone(), out.clone()));
        Ok(out)
    }

    fn retrieve(
        &mut self,
        set: &EvalSet,
        embedded: &Embedded,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let width = self.model.width();
        let each = match set.retrieval {
            Protocols::Both => usize::MAX,
            Protocols::First | Protocols::None => 1,
        };
        let (mut texts, mut image_of) = (Vec::new(), Vec::new());
        for (image, own) in embedded.captions.iter().enumerate() {
            for caption in own.iter().take(each) {
                texts.push(caption);
                image_of.push(image);
            }
        }
        outcome.captions = texts.len();
        (self.say)(&format!("{}: {} captions", set.name, texts.len()));
        let captions = self.model.embed_texts(&texts)?;
        let under = |protocol| retrieval(&embedded.images, &captions, &image_of, width, protocol);
        outcome.first_caption = Some(under(Captions::First));
        if set.retrieval == Protocols::Both {
            outcome.all_captions = Some(under(Captions::All));
        }
        Ok(())
    }
}
