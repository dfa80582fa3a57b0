//! An unfinished step, and its numbers when it is finished.
//!
//! The host asks for a step's numbers and goes on to the next step; they are read when they have come. So the
//! device has no need to wait for the host in a step (but for the gates of automatic inheritance, which learn on
//! the host), and a NaN loss is noticed a step late: no checkpoint is written before all numbers are
//! there.

use super::anchors::AnchorValues;
use super::gates::GateReport;
use crate::backend::{Backend, FIRST_COUNTS, Fetch, LossScaleState};
use crate::loss::Anchors;
use crate::notices::warning;
use crate::settings::error::{Error, Result, failed};
use crate::tensor::Tensor;

/// A loss scale below which skipped steps are a failure.
const LEAST_LOSS_SCALE: f32 = 1.0 / 16384.0;

/// What a step tells.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Each loss without its weight, by name.
    pub terms: Vec<(&'static str, f32)>,
    /// The weighted sum.
    pub total: f32,
    /// The learning rate of this step.
    pub lr: f64,
    /// α of the student before this step.
    pub scale: f32,
    /// The learned scales of the losses' own after this step, by the loss's name: c of `icl`, say.
    pub loss_scales: Vec<(String, f32)>,
    /// The gradient's norm before clipping.
    pub grad_norm: f32,
    /// Where losses are scaled.
    pub loss_scale: Option<LossScaleReport>,
    /// Of automatic weight inheritance: sparsities and multipliers by name.
    pub gates: GateReport,
    /// The anchors of the intra-modal loss by modality.
    pub anchors: Vec<AnchorValues>,
}

/// Dynamic loss scaling after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaleReport {
    /// What the next loss is multiplied by.
    pub scale: f32,
    /// Steps skipped so far, since a gradient was infinite or NaN.
    pub skipped_steps: u64,
    /// Whether this step was one of them.
    pub skipped: bool,
}

/// A scale that a loss has learned, on the device.
pub(super) struct LossScale<'a> {
    pub(super) loss: &'a str,
    /// Whether the parameter is its logarithm.
    pub(super) log: bool,
    pub(super) parameter: &'a Tensor,
}

/// What a step leaves on the device.
pub(super) struct StepTensors<'a> {
    /// Each loss without its weight, `[1]`, by name.
    pub(super) terms: &'a [(&'static str, Tensor)],
    pub(super) total: &'a Tensor,
    pub(super) scale: &'a Tensor,
    pub(super) grad_norm: &'a Tensor,
    pub(super) loss_scale: Option<&'a LossScaleState>,
    pub(super) loss_scales: Vec<LossScale<'a>>,
    pub(super) anchors: &'a [Anchors],
}

/// An unfinished step: its numbers are being copied to the host.
#[derive(Debug)]
pub struct PendingStep {
    /// The step's 1-based number.
    number: u64,
    lr: f64,
    gates: GateReport,
    terms: Vec<&'static str>,
    /// Whether the state of loss scaling comes.
    scales_loss: bool,
    /// By loss, and whether its logarithm comes.
    loss_scales: Vec<(String, bool)>,
    /// Modality, how many there are, and whether they have weights.
    anchors: Vec<(&'static str, usize, bool)>,
    values: Fetch,
}

impl PendingStep {
    /// Sends what step `number` left to the host.
    pub(super) fn begin(
        backend: &dyn Backend,
        number: u64,
        lr: f64,
        gates: GateReport,
        left: &StepTensors,
    ) -> Result<Self> {
        let mut tensors: Vec<&Tensor> = left.terms.iter().map(|(_, t)| t).collect();
        tensors.extend([left.total, left.scale, left.grad_norm]);
        if let Some(state) = left.loss_scale {
            tensors.extend([&state.scale, &state.counts]);
        }
        tensors.extend(left.loss_scales.iter().map(|s| s.parameter));
        for a in left.anchors {
            tensors.extend([&a.divergence, &a.slope].into_iter().chain(&a.weight));
        }
        let scale = |s: &LossScale| (s.loss.to_string(), s.log);
        let anchor = |a: &Anchors| (a.modality, a.divergence.len(), a.weight.is_some());
        Ok(Self {
            number,
            lr,
            gates,
            terms: left.terms.iter().map(|(name, _)| *name).collect(),
            scales_loss: left.loss_scale.is_some(),
            loss_scales: left.loss_scales.iter().map(scale).collect(),
            anchors: left.anchors.iter().map(anchor).collect(),
            values: backend.fetch(&tensors).map_err(failed)?,
        })
    }

    /// Whether [`PendingStep::wait`] returns at once.
    pub fn is_over(&self) -> bool {
        self.values.is_ready()
    }

    /// Waits for the step's end.
    ///
    /// # Errors
    /// If the loss or its gradient is NaN or infinite, or something failed on the device.
    pub fn wait(self) -> Result<StepReport> {
        let values = self.values.wait().map_err(failed)?;
        let mut rest = values.as_slice();
        let mut take = |n: usize| -> Result<Vec<f32>> {
            let (taken, left) = rest
                .split_at_checked(n)
                .ok_or_else(|| failed("a step's numbers have not all come"))?;
            rest = left;
            Ok(taken.to_vec())
        };
        let terms: Vec<_> = self
            .terms
            .iter()
            .copied()
            .zip(take(self.terms.len())?)
            .collect();
        let [total, scale, grad_norm] = [take(1)?[0], take(1)?[0], take(1)?[0]];
        let loss_scale = match self.scales_loss {
            true => {
                let (scale, counts) = (take(1)?[0], take(FIRST_COUNTS.len())?);
                Some(LossScaleReport {
                    scale,
                    skipped_steps: counts[2] as u64,
                    skipped: !grad_norm.is_finite(),
                })
            }
            false => None,
        };
        if let Some(LossScaleReport {
            scale,
            skipped: true,
            ..
        }) = loss_scale
        {
            let norm = grad_norm;
            warning(format_args!(
                "step {}: the gradient's norm is {norm}: the step is skipped, and the loss scale is now {scale:e}",
                self.number
            ));
        }
        // Below, half precision holds no gradient either: it is not the scale's fault.
        let may_skip = loss_scale.is_some_and(|l| l.scale >= LEAST_LOSS_SCALE);
        let numbers = [("the loss", total), ("the gradient's norm", grad_norm)];
        for (what, value) in &numbers[..if may_skip { 1 } else { 2 }] {
            if !value.is_finite() {
                return Err(diverged(self.number, what, *value, &terms));
            }
        }
        let mut loss_scales = Vec::new();
        for (loss, log) in self.loss_scales {
            let x = take(1)?[0];
            loss_scales.push((loss, if log { x.exp() } else { x }));
        }
        let mut anchors = Vec::new();
        for (modality, n, weighs) in self.anchors {
            anchors.push(AnchorValues {
                modality,
                divergence: take(n)?,
                slope: take(n)?,
                weight: if weighs { Some(take(n)?) } else { None },
            });
        }
        Ok(StepReport {
            terms,
            total,
            lr: self.lr,
            scale,
            loss_scales,
            grad_norm,
            loss_scale,
            gates: self.gates,
            anchors,
        })
    }
}

fn diverged(step: u64, what: &str, value: f32, terms: &[(&'static str, f32)]) -> Error {
    let terms: Vec<String> = terms
        .iter()
        .map(|(name, x)| format!("{name} {x}"))
        .collect();
    Error::Failed(format!(
        "step {step}: {what} is {value} ({}); the last checkpoint is from before: lower --lr, \
         lengthen --warmup or clip with --grad-clip-norm, and continue with --resume latest",
        terms.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use crate::backend::Backend;
    use crate::backend::Steps;
    use crate::backend::cuda;
    use crate::backend::gpu::Gpu;
    use crate::io;
    use crate::loss::{Method, Objective};
    use crate::model::{Clip, ClipConfig};
    use crate::settings::config::Config;
    use crate::settings::meaning;
    use crate::tensor::Normalisation;
    use crate::tensor::rng::{Philox, Purpose};
    use crate::train::batch::StepBatch;
    use crate::train::pending_step::StepReport;
    use crate::train::step::Trainer;
    use crate::train::teacher::Teacher;
    use std::collections::HashMap;
    use std::sync::Arc;

    const VIT: &str =
        r#""image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16"#;
    const RN: &str = r#""image_size": 32, "width": 8, "layers": [1, 1, 1, 1], "head_width": 16"#;

    fn model(embed: usize, vision: &str) -> Clip {
        let json = format!(
            r#"{{"embed_dim": {embed}, "vision_cfg": {{{vision}}},
            "text_cfg": {{"context_length": 40, "vocab_size": 90, "width": 32, "heads": 2, "layers": 1}}}}"#
        );
        Clip::new(ClipConfig::from_json(&json).unwrap())
    }

    fn trainer(backend: &Arc<dyn Backend>, vision: &str, lr: f64, accum_freq: usize) -> Trainer {
        let (student, other) = (model(12, vision), model(20, VIT));
        let init = |clip: &Clip, seed| clip.init(backend.as_ref(), seed).unwrap();
        let teacher = Teacher::new(other.clone(), init(&other, 1), backend.as_ref()).unwrap();
        let config = Config {
            lr,
            warmup: 1,
            grad_clip_norm: Some(0.5),
            accum_freq,
            ..Config::new()
        };
        let parameters = init(&student, 2);
        Trainer::new(
            backend.clone(),
            student,
            parameters,
            Objective::from(Method::IntraKd),
            Some(teacher),
            meaning::recipe(&config).over(10),
            3,
        )
        .unwrap()
    }

    /// Of the texts of a few batches: numbers of tokens that are filled up to the same, of two kinds.
    const LENGTHS: [[usize; 4]; 8] = [
        [2, 3, 4, 5],
        [5, 2, 3, 5],
        [2, 2, 4, 5],
        [38, 35, 33, 39],
        [39, 36, 33, 38],
        [3, 3, 3, 5],
        [37, 34, 35, 39],
        [2, 3, 4, 5],
    ];
    /// The steps that are at least the third of their kind: those are replayed, whatever the others were.
    const REPLAYS: u64 = 3;

    /// What a few steps tell: read after each of them, or after them all.
    fn reports(
        trainer: &mut Trainer,
        at_once: bool,
    ) -> Vec<crate::settings::error::Result<StepReport>> {
        let mut under_way = Vec::new();
        let mut done = Vec::new();
        for (first, lengths) in (0..).zip(LENGTHS) {
            let mut rng = Philox::new(4, Purpose::Test, 0, first);
            let images: Vec<u8> = (0..4 * 32 * 32 * 3).map(|_| rng.below(256) as u8).collect();
            let texts = lengths.map(|n| (0..n).map(|_| rng.below(90) as i32).collect::<Vec<_>>());
            let batch = StepBatch {
                images: &images,
                normalisation: Normalisation::OPENAI,
                texts: &texts,
                teacher_texts: &texts,
                epoch: 0,
                first,
            };
            let pending = trainer.step(batch).unwrap();
            match at_once {
                true => done.push(pending.wait()),
                false => under_way.push(pending),
            }
        }
        done.extend(under_way.into_iter().map(|pending| pending.wait()));
        done
    }

    #[test]
    fn a_step_waits_for_nothing() {
        for (vision, bf16, parts) in [(VIT, false, 1), (VIT, true, 2), (RN, false, 1)] {
            for [cuda, other] in cuda::both_ways(bf16, "replayed steps") {
                waits_for_nothing(Arc::new(cuda), Arc::new(other), vision, parts);
            }
        }
    }

    /// All that a step changes, as it is written: parameters, running statistics, moments.
    fn state(trainer: &Trainer) -> [Vec<u8>; 2] {
        let folder = tempfile::tempdir().unwrap();
        let [model, rest] = ["model", "rest"].map(|name| folder.path().join(name));
        let (clip, parameters) = (trainer.clip(), trainer.parameters());
        io::save_clip(&model, clip, parameters, trainer.backend().as_ref(), false).unwrap();
        io::write(&rest, trainer.state(), &HashMap::new()).unwrap();
        [model, rest].map(|path| std::fs::read(path).unwrap())
    }

    /// On one device, which replays steps, the host reads everything at the end; on the other one, which does not, after
    /// every step.
    fn waits_for_nothing(cuda: Arc<Gpu>, other: Arc<dyn Backend>, vision: &str, parts: usize) {
        let backend: Arc<dyn Backend> = cuda.clone();
        let mut ahead = trainer(&backend, vision, 1e-3, parts);
        let before = cuda.waits();
        let late = reports(&mut ahead, false);
        assert_eq!(cuda.waits(), before);
        assert!(cuda.replays() >= REPLAYS, "{} replays", cuda.replays());
        backend
            .download(&ahead.parameters().iter().next().unwrap().tensor)
            .unwrap();
        assert_eq!(cuda.waits(), before + 1, "waits are counted");
        let mut beside = trainer(&other, vision, 1e-3, parts);
        let at_once = reports(&mut beside, true);
        assert!(state(&ahead) == state(&beside));
        assert_eq!(late.len(), LENGTHS.len());
        for (late, at_once) in late.into_iter().zip(at_once) {
            let (late, at_once) = (late.unwrap(), at_once.unwrap());
            assert_eq!(format!("{late:?}"), format!("{at_once:?}"));
            assert_eq!(late.terms.len(), 5);
            assert!(late.grad_norm > 0.5, "clipped");
            let [image, text] = late.anchors.as_slice() else {
                panic!("anchors of both modalities");
            };
            assert_eq!((image.divergence.len(), text.slope.len()), (4, 4));
            assert_eq!(late.loss_scales[0].0, "icl");
        }
    }

    #[test]
    fn a_nan_loss_is_named_with_its_step() {
        let backend: Arc<dyn Backend> = Arc::new(crate::backend::cpu::Cpu::new());
        let reports = reports(&mut trainer(&backend, VIT, 1e30, 1), false);
        assert!(reports[0].is_ok());
        let error = reports[1].as_ref().unwrap_err().to_string();
        for word in ["step 2: ", "clip ", "--resume latest"] {
            assert!(error.contains(word), "{error}");
        }
    }
}
