//! AdamW over named parameters.

use crate::autodiff::Grads;
use crate::backend::{
    AdamWStep, AdamWTensor, Backend, Clipping, FIRST_COUNTS, LossScaleState, LossScaling, Result,
    ScaledStep,
};
use crate::model::{Bound, Parameters};
use crate::tensor::Tensor;

/// Largest value of a learned log-scale: ln 100 (Radford et al., arXiv 2103.00020, §2.5).
pub const LOGIT_SCALE_MAX: f32 = 4.605_170_2;

/// AdamW's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to √v̂.
    pub eps: f32,
    /// Decoupled weight decay of parameters that decay.
    pub weight_decay: f32,
}

/// AdamW's state: two moments per parameter, in the parameters' order.
#[derive(Debug)]
pub struct AdamW {
    /// The constants.
    pub config: AdamWConfig,
    /// Steps taken.
    pub steps: u64,
    /// First moments.
    pub m: Vec<Tensor>,
    /// Second moments.
    pub v: Vec<Tensor>,
    /// Where dynamic loss scaling stands, on a backend that needs it: then the gradients of a step are those of the
    /// loss times the scale.
    pub loss_scale: Option<LossScaleState>,
}

impl AdamW {
    /// Zero moments for `parameters`.
    ///
    /// # Errors
    /// If the device has no memory for them.
    pub fn new(
        config: AdamWConfig,
        backend: &dyn Backend,
        parameters: &Parameters,
    ) -> Result<Self> {
        let zeros = || -> Result<Vec<Tensor>> {
            parameters
                .iter()
                .map(|p| backend.zeros(p.tensor.shape()))
                .collect()
        };
        let scaling = || -> Result<LossScaleState> {
            Ok(LossScaleState {
                scale: backend.upload(&[1], &[LossScaling::default().start])?,
                counts: backend.upload(&[FIRST_COUNTS.len()], &FIRST_COUNTS)?,
            })
        };
        Ok(Self {
            config,
            steps: 0,
            m: zeros()?,
            v: zeros()?,
            loss_scale: backend.scales_losses().then(scaling).transpose()?,
        })
    }

    /// What the loss of the next step is multiplied by, `[1]`, if losses are scaled.
    ///
    /// # Errors
    /// If the device fails.
    pub fn scale_of_loss(&self, backend: &dyn Backend) -> Result<Option<Tensor>> {
        let state = self.loss_scale.as_ref();
        let copy = |state: &LossScaleState| backend.scale_by(&state.scale, 1.0, None, 1);
        state.map(copy).transpose()
    }

    /// One step at learning rate `lr`, after clipping the gradients' global norm to `max_norm` if
    /// given; then every parameter named `…logit_scale` is clamped to [0, ln 100]. A parameter
    /// without gradient took no part and stays. Returns the norm before clipping, `[1]`, of the unscaled loss's gradients.
    /// Where losses are scaled, a step with an infinite or NaN gradient is skipped.
    ///
    /// `bound` and its tape must be gone or unused: a parameter still shared cannot be written.
    ///
    /// # Errors
    /// If a parameter is shared, or a kernel fails.
    pub fn step(
        &mut self,
        backend: &dyn Backend,
        parameters: &mut Parameters,
        grads: &[Option<Tensor>],
        lr: f64,
        max_norm: Option<f64>,
    ) -> Result<Tensor> {
        let present: Vec<&Tensor> = grads.iter().flatten().collect();
        let mut norm = backend.grad_norm(&present)?;
        self.steps += 1;
        let mut scaled = None;
        if let Some(state) = &mut self.loss_scale {
            let of = ScaledStep {
                norm: &norm,
                lr: lr as f32,
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                max_norm: max_norm.map(|max| max as f32),
                scaling: LossScaling::default(),
            };
            let (numbers, unscaled) = backend.loss_scale(state, of)?;
            (scaled, norm) = (Some(numbers), unscaled);
        }
        let decay = self.config.weight_decay;
        let mut tensors: Vec<AdamWTensor> = parameters
            .iter_mut()
            .zip(grads)
            .zip(self.m.iter_mut().zip(&mut self.v))
            .filter_map(|((p, grad), (m, v))| {
                let usual = if p.decay { decay } else { 0.0 };
                let weight_decay = p.own_decay.unwrap_or(usual);
                let grad = grad.as_ref()?;
                Some(AdamWTensor {
                    param: &mut p.tensor,
                    grad,
                    m,
                    v,
                    weight_decay,
                })
            })
            .collect();
        let AdamWConfig {
            beta1, beta2, eps, ..
        } = self.config;
        let step = AdamWStep {
            lr: lr as f32,
            beta1,
            beta2,
            eps,
            step: self.steps,
            clip: max_norm.map(|max| Clipping {
                norm: &norm,
                max: max as f32,
            }),
            scaled: scaled.as_ref(),
        };
        backend.adamw(&mut tensors, step)?;
        for p in parameters
            .iter_mut()
            .filter(|p| p.name.ends_with("logit_scale"))
        {
            backend.clamp(&mut p.tensor, 0.0, LOGIT_SCALE_MAX)?;
        }
        Ok(norm)
    }
}

/// The gradients of `parameters` in their order, moved out of `grads`.
pub fn collect(parameters: &Parameters, bound: &Bound, grads: &mut Grads) -> Vec<Option<Tensor>> {
    parameters
        .iter()
        .map(|p| bound.var(&p.name).ok().and_then(|var| grads.remove(var)))
        .collect()
}
