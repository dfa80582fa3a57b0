//! The gradient of one batch: teacher, student, losses, backward.
//!
//! With `accum_freq` k the batch goes through the towers in k parts, and still every loss sees all of
//! it (as GradCache, Gao et al., arXiv 2101.06983): first the features of every part, with nothing
//! kept; then the losses of the whole batch and their gradient with respect to the features; then each
//! part once more, kept this time, and back from its rows of that gradient. Rows of a product do not
//! depend on one another, so both passes give the same features to the bit, and the sum over parts is the
//! gradient of the undivided batch up to the order of its summation. BatchNorms see a part at a time, as
//! in open_clip.

use super::batch::StepBatch;
use super::gates::Gated;
use super::heads::LossHeads;
use super::masking::Masking;
use super::rows::{Rows, row_index};

use super::teacher::Teacher;
use crate::autodiff::{Grads, Tape, Var};
use crate::backend::Backend;
use crate::loss::{Anchors, Features, Objective, TeacherFeatures};
use crate::model::{Bound, Clip, Observations, Parameters};
use crate::optim::collect;
use crate::settings::error::{Result, failed};
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// What the gradient of a batch is computed from.
pub(super) struct Student<'a> {
    pub(super) backend: &'a Arc<dyn Backend>,
    pub(super) clip: &'a Clip,
    pub(super) parameters: &'a Parameters,
    pub(super) teacher: Option<&'a Teacher>,
    pub(super) objective: &'a Objective,
    pub(super) heads: LossHeads,
    /// If the losses read features of masked images as well.
    pub(super) masking: Option<Masking>,
    pub(super) seed: u64,
    /// The part of the student that its gates leave, if it has any.
    pub(super) gated: Option<&'a Gated>,
    /// What the loss is multiplied by on its way to the gradients, `[1]`.
    pub(super) loss_scale: Option<&'a Tensor>,
}

/// The student's features of some pairs, not normalised.
struct Seen {
    features: Features,
    /// Of the same images masked, if the losses read them.
    masked: Option<Var>,
}

/// The losses of a batch, and the gradient of their sum: all on the device, which may still be at it.
#[derive(Debug)]
pub(super) struct Gradients {
    /// Each loss without its weight, `[1]`, by name.
    pub(super) terms: Vec<(&'static str, Tensor)>,
    /// The weighted sum, `[1]`.
    pub(super) total: Tensor,
    /// The student's α, `[1]`.
    pub(super) scale: Tensor,
    /// The anchors of the intra-modal loss.
    pub(super) anchors: Vec<Anchors>,
    /// By parameter; `None` for one that took no part.
    pub(super) grads: Vec<Option<Tensor>>,
    /// What BatchNorms saw, part by part.
    pub(super) seen: Vec<Observations>,
}

impl Student<'_> {
    /// Losses and gradient of `batch`, whose size `accum_freq` divides. The tapes are gone
    /// afterwards, so that parameters can be written.
    pub(super) fn gradients(&self, batch: StepBatch, accum_freq: usize) -> Result<Gradients> {
        if accum_freq > 1 {
            return self.in_parts(batch, batch.texts.len() / accum_freq);
        }
        let all = 0..batch.texts.len();
        let images = self.images(batch, &all)?;
        let teacher = match self.teacher {
            Some(t) => {
                let pixels = self.pixels(batch, &all);
                Some(t.features(self.backend, pixels, &images, batch.teacher_texts)?)
            }
            None => None,
        };
        let tape = Tape::new(self.backend.clone());
        let bound = self.parameters.bind_training(&tape);
        let seen = self.features(&tape, &bound, &images, batch, &all)?;
        let (mut losses, mut grads) = self.losses(&tape, &bound, &seen, teacher.as_ref())?;
        losses.grads = collect(self.parameters, &bound, &mut grads);
        losses.seen.push(bound.observations());
        Ok(losses)
    }

    fn in_parts(&self, batch: StepBatch, size: usize) -> Result<Gradients> {
        let n = batch.texts.len();
        let parts: Vec<Range<usize>> = (0..n).step_by(size).map(|i| i..n.min(i + size)).collect();
        let (mut image, mut text, mut masked) = (Rows::new(n), Rows::new(n), Rows::new(n));
        let (mut teacher_image, mut teacher_text) = (Rows::new(n), Rows::new(n));
        let mut teacher_scale = None;
        for part in &parts {
            let images = self.images(batch, part)?;
            if let Some(teacher) = self.teacher {
                let texts = &batch.teacher_texts[part.clone()];
                let pixels = self.pixels(batch, part);
                let features = teacher.features(self.backend, pixels, &images, texts)?;
                teacher_image.put(self.backend.as_ref(), part, &features.image)?;
                teacher_text.put(self.backend.as_ref(), part, &features.text)?;
                teacher_scale = Some(features.scale);
            }
            let tape = Tape::frozen(self.backend.clone());
            let bound = self.parameters.bind_training(&tape);
            let seen = self.features(&tape, &bound, &images, batch, part)?;
            image.put(self.backend.as_ref(), part, seen.features.image.value())?;
            text.put(self.backend.as_ref(), part, seen.features.text.value())?;
            if let Some(of_part) = &seen.masked {
                masked.put(self.backend.as_ref(), part, of_part.value())?;
            }
            self.next_part()?;
        }
        let teacher = match teacher_scale {
            Some(scale) => Some(TeacherFeatures {
                image: teacher_image.all()?,
                text: teacher_text.all()?,
                scale,
            }),
            None => None,
        };
        let (mut losses, d_image, d_text, d_masked);
        {
            let tape = Tape::new(self.backend.clone());
            let bound = self.parameters.bind(&tape);
            let seen = Seen {
                features: Features {
                    image: tape.leaf(image.all()?),
                    text: tape.leaf(text.all()?),
                },
                masked: match self.masking {
                    Some(_) => Some(tape.leaf(masked.all()?)),
                    None => None,
                },
            };
            let mut grads;
            (losses, grads) = self.losses(&tape, &bound, &seen, teacher.as_ref())?;
            d_image = grads.remove(&seen.features.image);
            d_text = grads.remove(&seen.features.text);
            d_masked = seen.masked.as_ref().and_then(|v| grads.remove(v));
            losses.grads = collect(self.parameters, &bound, &mut grads);
        }
        self.next_part()?;
        for part in &parts {
            let images = self.images(batch, part)?;
            let tape = Tape::new(self.backend.clone());
            let bound = self.parameters.bind_training(&tape);
            let seen = self.features(&tape, &bound, &images, batch, part)?;
            // The slots hold the sums of earlier parts already: the kernels add to them.
            let mut grads = Grads::default();
            for (p, grad) in self.parameters.iter().zip(&mut losses.grads) {
                grads.put(bound.var(&p.name).map_err(failed)?, Some(grad.take()));
            }
            let index = row_index(self.backend.as_ref(), part)?;
            let seed = |d: &Option<Tensor>| {
                d.as_ref()
                    .map(|d| self.backend.select_rows(d, &index))
                    .transpose()
                    .map_err(failed)
            };
            let mut seeds = Vec::new();
            for (var, d) in [
                (Some(&seen.features.image), &d_image),
                (Some(&seen.features.text), &d_text),
                (seen.masked.as_ref(), &d_masked),
            ] {
                seeds.extend(var.zip(seed(d)?));
            }
            let mut grads = tape.backward_onto(grads, &seeds).map_err(failed)?;
            losses.grads = collect(self.parameters, &bound, &mut grads);
            losses.seen.push(bound.observations());
            drop(seen);
            self.next_part()?;
        }
        Ok(losses)
    }

    /// Parts recur each for itself, and what was uploaded for one is not kept for the next.
    fn next_part(&self) -> Result<()> {
        let ended = self.backend.end_step();
        ended
            .and_then(|()| self.backend.begin_step())
            .map_err(failed)
    }

    /// The images of `part`.
    fn pixels<'a>(&self, batch: StepBatch<'a>, part: &Range<usize>) -> &'a [u8] {
        let size = self.clip.config().vision_cfg.image_size;
        let one = size * size * 3;
        &batch.images[part.start * one..part.end * one]
    }

    /// The images of `part`, on the device.
    fn images(&self, batch: StepBatch, part: &Range<usize>) -> Result<Tensor> {
        let size = self.clip.config().vision_cfg.image_size;
        let shape = [part.len(), size, size, 3];
        let pixels = self.pixels(batch, part);
        self.backend
            .images(&shape, pixels, &batch.normalisation)
            .map_err(failed)
    }

    /// The student's features of `part`, whose images are `images`.
    fn features(
        &self,
        tape: &Tape,
        bound: &Bound,
        images: &Tensor,
        batch: StepBatch,
        part: &Range<usize>,
    ) -> Result<Seen> {
        let smaller;
        let (clip, bound) = match self.gated {
            Some(gated) => {
                smaller = gated.bind(tape, bound).map_err(failed)?;
                (gated.clip(), &smaller)
            }
            None => (self.clip, bound),
        };
        let image = clip.encode_image(tape, bound, images);
        let text = clip.encode_text(tape, bound, &batch.texts[part.clone()]);
        let masked = match self.masking {
            Some(masking) => {
                let draw = |i| masking.draw(self.seed, batch.epoch, batch.first + i as u64);
                let kept: Vec<Vec<usize>> = part.clone().map(draw).collect();
                let masked = clip.encode_image_masked(tape, bound, images, &kept);
                Some(masked.map_err(failed)?)
            }
            None => None,
        };
        Ok(Seen {
            features: Features {
                image: image.map_err(failed)?,
                text: text.map_err(failed)?,
            },
            masked,
        })
    }

    /// The losses, without the parameters' gradients yet, and the gradients of every leaf of `tape`.
    fn losses(
        &self,
        tape: &Tape,
        bound: &Bound,
        seen: &Seen,
        teacher: Option<&TeacherFeatures>,
    ) -> Result<(Gradients, Grads)> {
        let heads = self.heads.bind(tape, bound)?;
        let teacher = teacher.zip(self.teacher.map(Teacher::inverse_scale));
        let inputs = heads.inputs(&seen.features, seen.masked.as_ref(), teacher);
        let value = self.objective.evaluate(tape, &inputs).map_err(failed)?;
        let tensor_of = |v: &Var| v.value().clone();
        let terms = value.terms.iter().map(|(name, v)| (*name, tensor_of(v)));
        let losses = Gradients {
            terms: terms.collect(),
            total: tensor_of(&value.total),
            scale: tensor_of(&heads.scale),
            anchors: value.anchors,
            grads: Vec::new(),
            seen: Vec::new(),
        };
        let grads = match self.loss_scale {
            Some(scale) => tape.backward_from(&[(&value.total, scale.clone())]),
            None => tape.backward(&value.total),
        };
        Ok((losses, grads.map_err(failed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::loss::{Method, Weights};
    use crate::model::ClipConfig;
    use crate::settings::config::Config;
    use crate::settings::meaning;
    use crate::tensor::Normalisation;
    use crate::tensor::rng::{Philox, Purpose};

    /// Every loss, each with a gradient of about the same size.
    fn every_loss(clip_kd_compat: bool) -> Objective {
        Objective {
            weights: Weights {
                clip: 1.0,
                crd: 1.0,
                fd: 20.0,
                icl: 1.0,
                cross_kd: 1.0,
                mfd: 20.0,
                gd: 1.0,
                afd: 1.0,
                affinity: 1.0,
                intra: 1.0,
            },
            mask_ratio: 0.5,
            clip_kd_compat,
            ..Objective::from(Method::IntraKd)
        }
    }

    /// The gradient of every parameter, with features that only the losses join.
    #[test]
    fn parts_give_the_gradient_of_the_whole() {
        for compat in [false, true] {
            parts_give_the_whole(every_loss(compat));
        }
    }

    fn parts_give_the_whole(objective: Objective) {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let config = |embed: usize| {
            let json = format!(
                r#"{{"embed_dim": {embed},
                "vision_cfg": {{"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}},
                "text_cfg": {{"context_length": 9, "vocab_size": 90, "width": 32, "heads": 2, "layers": 2}}}}"#
            );
            ClipConfig::from_json(&json).unwrap()
        };
        let clip = Clip::new(config(12));
        let other = Clip::new(config(20));
        let weights = other.init(backend.as_ref(), 3).unwrap();
        let teacher = Teacher::new(other, weights, backend.as_ref()).unwrap();
        let recipe = meaning::recipe(&Config::new()).over(10);
        let trainer = crate::train::step::Trainer::new(
            backend.clone(),
            clip.clone(),
            clip.init(backend.as_ref(), 4).unwrap(),
            objective,
            Some(teacher),
            recipe,
            5,
        )
        .unwrap();
        let mut rng = Philox::new(6, Purpose::Test, 0, 0);
        let images: Vec<u8> = (0..7 * 16 * 16 * 3).map(|_| rng.below(256) as u8).collect();
        let texts: Vec<Vec<i32>> = (0..7)
            .map(|i| (0..2 + i).map(|_| rng.below(90) as i32).collect())
            .collect();
        let batch = StepBatch {
            images: &images,
            normalisation: Normalisation::OPENAI,
            texts: &texts,
            teacher_texts: &texts,
            epoch: 2,
            first: 14,
        };
        let student = Student {
            backend: &backend,
            clip: &clip,
            parameters: trainer.parameters(),
            teacher: trainer.teacher(),
            objective: &objective,
            heads: LossHeads::new(&objective, 12, 20),
            masking: Some(Masking::new(clip.config(), objective.mask_ratio).unwrap()),
            seed: 5,
            gated: None,
            loss_scale: None,
        };
        let whole = student.gradients(batch, 1).unwrap();
        assert_eq!(whole.terms.len(), 10, "every loss takes part");
        let numbers = |g: &Gradients| {
            let terms = g.terms.iter().map(|(_, t)| t);
            let all = terms.chain([&g.total, &g.scale]);
            all.flat_map(|t| backend.download(t).unwrap())
                .collect::<Vec<_>>()
        };
        // Parts of 3, 3 and 1; of 1 each.
        for parts in [2, 7] {
            let got = student.gradients(batch, parts).unwrap();
            assert_eq!(numbers(&got), numbers(&whole));
            let names = |g: &Gradients| g.terms.iter().map(|t| t.0).collect::<Vec<_>>();
            assert_eq!(names(&got), names(&whole));
            let pairs = got.grads.iter().zip(&whole.grads);
            for ((got, want), p) in pairs.zip(trainer.parameters().iter()) {
                let read = |t: &Option<Tensor>| backend.download(t.as_ref().unwrap()).unwrap();
                let (got, want) = (read(got), read(want));
                let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for (got, want) in got.iter().zip(&want) {
                    let error = (got - want).abs();
                    assert!(
                        error <= 1e-5 * largest + 1e-7,
                        "{}: {got}, not {want}",
                        p.name
                    );
                }
            }
        }
    }
}
