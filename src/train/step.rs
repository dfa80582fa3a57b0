//! One step: batch, teacher, student, losses, backward, optimiser.

use super::batch::StepBatch;
use super::gates::{GateReport, Gates};
use super::gradients::{Gradients, Student};
use super::heads::LossHeads;
use super::masking::Masking;
use super::pending_step::{LossScale, PendingStep, StepTensors};
use super::teacher::Teacher;
use crate::backend::Backend;
use crate::eval::Model;
use crate::io::{Data, Entry, Pending};
use crate::loss::Objective;
use crate::model::{Clip, Parameters};
use crate::optim::{AdamW, Recipe};
use crate::settings::error::{Result, failed, usage};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names of dynamic loss scaling's state in a checkpoint.
const LOSS_SCALE: &str = "loss_scale";
const LOSS_SCALE_COUNTS: &str = "loss_scale.counts";

/// A student in training: everything that a step changes, and what it needs to do so.
#[derive(Debug)]
pub struct Trainer {
    backend: Arc<dyn Backend>,
    clip: Clip,
    /// The model's parameters, then those of the loss heads.
    parameters: Parameters,
    optimiser: AdamW,
    objective: Objective,
    teacher: Option<Teacher>,
    recipe: Recipe,
    heads: LossHeads,
    masking: Option<Masking>,
    seed: u64,
    gates: Option<Gates>,
    /// ln α of the student where it is held.
    held_scale: Option<f32>,
}

impl Trainer {
    /// A trainer of `clip` from `parameters`. Loss heads that the objective needs are added,
    /// initialised from `seed`.
    ///
    /// # Errors
    /// If the objective needs a teacher and there is none, teacher and student differ in image size, or
    /// images of the student cannot be masked.
    pub fn new(
        backend: Arc<dyn Backend>,
        clip: Clip,
        mut parameters: Parameters,
        objective: Objective,
        teacher: Option<Teacher>,
        recipe: Recipe,
        seed: u64,
    ) -> Result<Self> {
        let student = clip.config();
        let mut teacher_width = student.embed_dim;
        if objective.weights.need_teacher() {
            let Some(teacher) = &teacher else {
                return usage("the losses need a teacher");
            };
            let other = teacher.clip().config();
            let (ours, theirs) = (student.vision_cfg.image_size, other.vision_cfg.image_size);
            if ours != theirs {
                return usage(format!(
                    "the teacher takes images of {theirs} px, the student of {ours} px: they must agree"
                ));
            }
            teacher_width = other.embed_dim;
        }
        let masking = Masking::of(&objective, student)?;
        let heads = LossHeads::new(&objective, student.embed_dim, teacher_width);
        heads.add(backend.as_ref(), &mut parameters, seed)?;
        let optimiser = AdamW::new(recipe.adamw, backend.as_ref(), &parameters).map_err(failed)?;
        Ok(Self {
            backend,
            clip,
            parameters,
            optimiser,
            objective,
            teacher,
            recipe,
            heads,
            masking,
            seed,
            gates: None,
            held_scale: None,
        })
    }

    /// The same with the student's α and its teacher's held at `scale` (TinyCLIP's `--logit-scale`).
    ///
    /// # Errors
    /// If the device fails.
    pub fn with_held_scale(mut self, scale: Option<f64>) -> Result<Self> {
        self.held_scale = scale.map(|s| s.ln() as f32);
        if let (Some(teacher), Some(scale)) = (&mut self.teacher, scale) {
            teacher.hold_scale(scale as f32, self.backend.as_ref())?;
        }
        self.hold_scale()?;
        Ok(self)
    }

    fn hold_scale(&mut self) -> Result<()> {
        let parameter = self.parameters.get_mut("logit_scale");
        match (self.held_scale, parameter) {
            (Some(log), Some(p)) => self.backend.clamp(&mut p.tensor, log, log).map_err(failed),
            _ => Ok(()),
        }
    }

    /// The same with gates that learn which part of the student to keep.
    ///
    /// # Errors
    /// On a backend that scales losses: gates learn on the host from gradients that are not scaled.
    pub fn with_gates(self, gates: Option<Gates>) -> Result<Self> {
        if gates.is_some() && self.optimiser.loss_scale.is_some() {
            return usage("automatic inheritance does not run in --precision amp_fp16: take fp32");
        }
        Ok(Self { gates, ..self })
    }

    /// The really smaller student that the gates have arrived at; `None` without gates.
    ///
    /// # Errors
    /// If the device fails.
    pub fn export(&self) -> Result<Option<(Clip, Parameters)>> {
        let export = |g: &Gates| g.export(&self.clip, &self.parameters, self.backend.as_ref());
        self.gates.as_ref().map(export).transpose()
    }

    /// The student.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// The student's parameters, and after them those of the loss heads.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The teacher, if the losses need one.
    pub fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_ref()
    }

    /// The student as it is evaluated.
    pub fn model(&self) -> Model<'_> {
        Model {
            backend: &self.backend,
            clip: &self.clip,
            parameters: &self.parameters,
        }
    }

    /// The device.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.optimiser.steps
    }

    /// Asks the device for one step. With gates, it waits for what they learn from.
    ///
    /// # Errors
    /// If the batch does not fit the models, or the device fails. A NaN or infinite loss or gradient
    /// shows in [`PendingStep::wait`]: then the parameters are not fit to be kept.
    pub fn step(&mut self, batch: StepBatch) -> Result<PendingStep> {
        self.backend.begin_step().map_err(failed)?;
        let pending = self.ask(batch);
        let ended = self.backend.end_step().map_err(failed);
        pending.and_then(|pending| ended.map(|()| pending))
    }

    fn ask(&mut self, batch: StepBatch) -> Result<PendingStep> {
        let number = self.optimiser.steps + 1;
        let backend = self.backend.clone();
        let drawn = match &self.gates {
            Some(gates) => Some(gates.draw(&self.clip, backend.as_ref())?),
            None => None,
        };
        let beside = match &drawn {
            Some(drawn) => Some(drawn.beside(&self.parameters, backend.as_ref())?),
            None => None,
        };
        let loss_scale = self
            .optimiser
            .scale_of_loss(backend.as_ref())
            .map_err(failed)?;
        let student = Student {
            backend: &self.backend,
            clip: &self.clip,
            parameters: beside.as_ref().unwrap_or(&self.parameters),
            teacher: self.teacher.as_ref(),
            objective: &self.objective,
            heads: self.heads,
            masking: self.masking,
            seed: self.seed,
            gated: drawn.as_ref().map(|d| &d.gated),
            loss_scale: loss_scale.as_ref(),
        };
        let Gradients {
            terms,
            total,
            scale,
            anchors,
            mut grads,
            seen,
        } = student.gradients(batch, self.recipe.accum_freq)?;
        // The parameters are shared no more, so that they can be written.
        drop(beside);
        for seen in &seen {
            self.parameters
                .update_running(self.backend.as_ref(), seen)
                .map_err(failed)?;
        }
        let gates = match (&mut self.gates, &drawn) {
            (Some(gates), Some(drawn)) => {
                let by_factor = grads.split_off(self.parameters.len());
                gates.update(drawn, &by_factor, backend.as_ref())?
            }
            _ => GateReport::new(),
        };
        let lr = self.recipe.schedule.at(self.optimiser.steps);
        let grad_norm = self
            .optimiser
            .step(
                self.backend.as_ref(),
                &mut self.parameters,
                &grads,
                lr,
                self.recipe.max_norm,
            )
            .map_err(failed)?;
        self.hold_scale()?;
        let left = StepTensors {
            terms: &terms,
            total: &total,
            scale: &scale,
            grad_norm: &grad_norm,
            loss_scale: self.optimiser.loss_scale.as_ref(),
            loss_scales: self.loss_scales(),
            anchors: &anchors,
        };
        PendingStep::begin(self.backend.as_ref(), number, lr, gates, &left)
    }

    /// The learned scales of the losses' own.
    fn loss_scales(&self) -> Vec<LossScale<'_>> {
        let scales = self.parameters.iter().filter_map(|p| {
            let name = p.name.strip_prefix("heads.")?;
            // A log-scale, or (with `--clip-kd-compat`) the scale itself.
            let (loss, log) = match name.strip_suffix("_logit_scale") {
                Some(loss) => (loss, true),
                None => (name.strip_suffix("_scale")?, false),
            };
            Some(LossScale {
                loss,
                log,
                parameter: &p.tensor,
            })
        });
        scales.collect()
    }

    /// What a resumed run needs beside the model's weights: moments, loss heads and gates. Each tensor comes
    /// to the host when it is written.
    pub fn state<'a>(&'a self) -> Vec<Pending<'a>> {
        let mut tensors = Vec::new();
        let mut add = |name: String, t: &'a Tensor| {
            let data = move || Ok(self.backend.download(t)?);
            tensors.push(Pending::f32(name, t.shape(), data));
        };
        let moments = self.optimiser.m.iter().zip(&self.optimiser.v);
        for (p, (m, v)) in self.parameters.iter().zip(moments) {
            add(format!("m.{}", p.name), m);
            add(format!("v.{}", p.name), v);
            if p.name.starts_with("heads.") {
                add(p.name.clone(), &p.tensor);
            }
        }
        if let Some(state) = &self.optimiser.loss_scale {
            add(LOSS_SCALE.into(), &state.scale);
            add(LOSS_SCALE_COUNTS.into(), &state.counts);
        }
        let gates = self.gates.iter().flat_map(Gates::state);
        tensors.extend(gates.map(Pending::from));
        tensors
    }

    /// Takes over what [`Trainer::state`] gave after `steps` steps.
    ///
    /// # Errors
    /// If a tensor is missing, unexpected or misshapen: all are listed.
    pub fn restore(&mut self, steps: u64, mut tensors: BTreeMap<String, Entry>) -> Result<()> {
        let mut problems = Vec::new();
        let backend = self.backend.clone();
        let mut take = |name: String, into: &mut Tensor| -> Result<()> {
            match tensors.remove(&name) {
                Some(Entry {
                    shape,
                    data: Data::F32(data),
                    ..
                }) if shape == into.shape() => {
                    *into = backend.upload(&shape, &data).map_err(failed)?;
                }
                Some(t) => problems.push(format!(
                    "{name} is {:?} in the checkpoint, {:?} in this run",
                    t.shape,
                    into.shape()
                )),
                None => problems.push(format!("{name} is missing")),
            }
            Ok(())
        };
        let moments = self.optimiser.m.iter_mut().zip(&mut self.optimiser.v);
        for (p, (m, v)) in self.parameters.iter_mut().zip(moments) {
            take(format!("m.{}", p.name), m)?;
            take(format!("v.{}", p.name), v)?;
            if p.name.starts_with("heads.") {
                take(p.name.clone(), &mut p.tensor)?;
            }
        }
        match &mut self.optimiser.loss_scale {
            Some(state) => {
                take(LOSS_SCALE.into(), &mut state.scale)?;
                take(LOSS_SCALE_COUNTS.into(), &mut state.counts)?;
            }
            // A run may go on in another precision, which needs no scale.
            None => {
                tensors.remove(LOSS_SCALE);
                tensors.remove(LOSS_SCALE_COUNTS);
            }
        }
        if let Some(gates) = &mut self.gates {
            gates.restore(steps, &mut tensors, &mut problems);
        }
        problems.extend(tensors.keys().map(|name| format!("{name} is unexpected")));
        if !problems.is_empty() {
            return usage(format!(
                "the checkpoint does not fit this run's model and losses: {}",
                problems.join("; ")
            ));
        }
        self.optimiser.steps = steps;
        Ok(())
    }
}
