//! A CLIP model: two towers into one embedding.

use super::{
    BatchNorm, Bound, ClipConfig, ConvLayer, Parameters, Result, Spec, convolutions, init, text,
    vision,
};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Backend};
use crate::tensor::Tensor;
use crate::tensor::rng::{Philox, Purpose};
use std::collections::HashMap;

/// A CLIP model without its parameters, which live in [`Parameters`].
#[derive(Clone, Debug)]
pub struct Clip {
    config: ClipConfig,
    grad_checkpointing: bool,
}

impl Clip {
    /// The model that `config` describes.
    pub fn new(config: ClipConfig) -> Self {
        Self {
            config,
            grad_checkpointing: false,
        }
    }

    /// The same with activation checkpointing, open_clip's `set_grad_checkpointing`: each
    /// transformer block or bottleneck keeps only its input and runs again in backward. No bit changes.
    pub fn with_grad_checkpointing(mut self, on: bool) -> Self {
        self.grad_checkpointing = on;
        self
    }

    /// The same with another configuration: that of its masked towers, in automatic weight inheritance.
    pub(crate) fn with_config(&self, config: ClipConfig) -> Self {
        Self {
            config,
            ..self.clone()
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Names and shapes of all parameters, in order. Shapes are the engine's: a convolution's weight,
    /// `[out, in, side, side]` in open_clip, is `[out, side·side·in]` here, its scalar `logit_scale`
    /// `[1]`.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        init::plan(&self.config)
            .into_iter()
            .map(|(name, shape, _)| (name, shape))
            .collect()
    }

    /// Sides of the square filters of all convolutions, by the name of their weight.
    pub fn filter_sides(&self) -> HashMap<String, usize> {
        let v = &self.config.vision_cfg;
        if v.is_resnet() {
            let side = |c: ConvLayer| (format!("{}.weight", c.name), c.kernel);
            convolutions(v).into_iter().map(side).collect()
        } else {
            HashMap::from([("visual.conv1.weight".into(), v.cell())])
        }
    }

    /// Names and channels of all BatchNorms, whose running statistics belong to the model's state.
    pub fn norms(&self) -> Vec<(String, usize)> {
        let norm = |c: ConvLayer| (c.norm, c.channels.1);
        convolutions(&self.config.vision_cfg)
            .into_iter()
            .map(norm)
            .collect()
    }

    /// Fresh parameters, initialised as open_clip does. Each parameter's draws depend on the seed
    /// and its name alone.
    ///
    /// # Errors
    /// If the device has no memory for them.
    pub fn init(&self, backend: &dyn Backend, seed: u64) -> Result<Parameters> {
        let mut parameters = Parameters::default();
        for (name, shape, spec) in init::plan(&self.config) {
            let values = draw(seed, &name, shape.iter().product(), spec);
            parameters.push(name, backend.upload(&shape, &values)?);
        }
        for (name, channels) in self.norms() {
            parameters.set_norm(name, BatchNorm::new(backend, channels)?);
        }
        Ok(parameters)
    }

    /// The blocks' activation, and whether they are computed again.
    fn blocks(&self) -> (Activation, bool) {
        let act = if self.config.quick_gelu {
            Activation::QuickGelu
        } else {
            Activation::Gelu
        };
        (act, self.grad_checkpointing)
    }

    /// Image features `[batch, embed_dim]`, not normalised, of images `[batch, size, size, 3]`.
    ///
    /// # Errors
    /// If the images do not fit the model.
    pub fn encode_image(&self, tape: &Tape, bound: &Bound, images: &Tensor) -> Result<Var> {
        vision::encode(&self.config, self.blocks(), tape, bound, images, None)
    }

    /// As [`Clip::encode_image`] of a ViT that sees the class token and, of image i, the patches `kept[i]`
    /// alone, row-major over the grid. Patches keep their positions; those left out cost nothing after
    /// the embedding of patches.
    ///
    /// # Errors
    /// As [`Clip::encode_image`], and if the model is not a ViT, `kept` are not as many as the images or name
    /// a patch that is not there.
    pub fn encode_image_masked(
        &self,
        tape: &Tape,
        bound: &Bound,
        images: &Tensor,
        kept: &[Vec<usize>],
    ) -> Result<Var> {
        vision::encode(&self.config, self.blocks(), tape, bound, images, Some(kept))
    }

    /// Text features `[texts, embed_dim]`, not normalised. Each text is its tokens up to and
    /// including the end token, unpadded.
    ///
    /// # Errors
    /// If a text is empty, longer than the context, or holds an unknown id.
    pub fn encode_text(&self, tape: &Tape, bound: &Bound, texts: &[Vec<i32>]) -> Result<Var> {
        let ends: Vec<usize> = texts.iter().map(|t| t.len().saturating_sub(1)).collect();
        self.encode_text_at(tape, bound, texts, &ends)
    }

    /// As [`Clip::encode_text`], with the features of text i read at its token `ends[i]`: what open_clip
    /// does with padded texts.
    ///
    /// # Errors
    /// As [`Clip::encode_text`], and if `ends` are not as many as the texts or are outside of them.
    pub fn encode_text_at(
        &self,
        tape: &Tape,
        bound: &Bound,
        texts: &[Vec<i32>],
        ends: &[usize],
    ) -> Result<Var> {
        text::encode(&self.config, self.blocks(), tape, bound, texts, ends)
    }
}

/// Values of a parameter's initialisation. The name enters the stream's index by FNV-1a.
pub fn draw(seed: u64, name: &str, n: usize, spec: Spec) -> Vec<f32> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut rng = Philox::new(seed, Purpose::Init, 0, hash);
    let value = || match spec {
        Spec::Constant(c) => c,
        Spec::Normal(std) => std * rng.normal(),
        Spec::Uniform(bound) => rng.uniform_in(-bound, bound),
    };
    std::iter::repeat_with(value).take(n).collect()
}
