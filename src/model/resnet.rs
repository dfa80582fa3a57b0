//! CLIP's ResNet (open_clip's `ModifiedResNet`; Radford et al., arXiv 2103.00020, §2.4): a stem of three
//! convolutions, bottlenecks that stride by average pooling, and attention pooling at the end. NHWC.

use super::{BatchNorm, Bound, ClipConfig, Result, VisionConfig};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Convolution};
use crate::ops::{self, Tail};
use crate::tensor::Tensor;

/// A bottleneck's output is this many times as wide as its inner convolutions.
const EXPANSION: usize = 4;

/// A convolution and the BatchNorm after it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvLayer {
    /// open_clip's name of the convolution, less `.weight`.
    pub name: String,
    /// open_clip's name of the BatchNorm, less `.weight` and the like.
    pub norm: String,
    /// Channels in and out.
    pub channels: (usize, usize),
    /// Side of a filter.
    pub kernel: usize,
    /// Inputs between two outputs.
    pub stride: usize,
    /// Side of the square output in pixels.
    pub side: usize,
    /// Whether its BatchNorm begins at γ = 0, so that its block begins as the identity.
    pub zero: bool,
}

impl ConvLayer {
    /// Elements of one filter.
    pub fn filter(&self) -> usize {
        self.kernel * self.kernel * self.channels.0
    }
}

/// A bottleneck: 1×1, 3×3, average pool by `stride`, 1×1, plus its input (through `downsample`).
#[derive(Clone)]
struct Block {
    convs: [ConvLayer; 3],
    stride: usize,
    downsample: Option<ConvLayer>,
}

/// All convolutions of a tower.
struct Layers {
    stem: [ConvLayer; 3],
    blocks: Vec<Block>,
}

fn layers(config: &VisionConfig) -> Layers {
    let half = config.image_size / 2;
    let stem = |i: usize, channels, stride| ConvLayer {
        name: format!("visual.conv{i}"),
        norm: format!("visual.bn{i}"),
        channels,
        kernel: 3,
        stride,
        side: half,
        zero: false,
    };
    let (w, narrow) = (config.width, config.width / 2);
    let stem = [
        stem(1, (3, narrow), 2),
        stem(2, (narrow, narrow), 1),
        stem(3, (narrow, w), 1),
    ];
    let mut blocks = Vec::new();
    let (mut inputs, mut side) = (w, half / 2);
    for (stage, &count) in config.layers.stages().iter().enumerate() {
        let planes = w << stage;
        for number in 0..count {
            let stride = if number == 0 && stage > 0 { 2 } else { 1 };
            let prefix = format!("visual.layer{}.{number}", stage + 1);
            let conv = |i: usize, channels, kernel, side| ConvLayer {
                name: format!("{prefix}.conv{i}"),
                norm: format!("{prefix}.bn{i}"),
                channels,
                kernel,
                stride: 1,
                side,
                zero: i == 3,
            };
            let (small, outputs) = (side / stride, planes * EXPANSION);
            blocks.push(Block {
                convs: [
                    conv(1, (inputs, planes), 1, side),
                    conv(2, (planes, planes), 3, side),
                    conv(3, (planes, outputs), 1, small),
                ],
                stride,
                downsample: (stride > 1 || inputs != outputs).then(|| ConvLayer {
                    name: format!("{prefix}.downsample.0"),
                    norm: format!("{prefix}.downsample.1"),
                    channels: (inputs, outputs),
                    kernel: 1,
                    stride: 1,
                    side: small,
                    zero: false,
                }),
            });
            (inputs, side) = (outputs, small);
        }
    }
    Layers { stem, blocks }
}

/// All convolutions of a ResNet in open_clip's order, each with its BatchNorm; none of a ViT.
pub fn convolutions(config: &VisionConfig) -> Vec<ConvLayer> {
    if !config.is_resnet() {
        return Vec::new();
    }
    let Layers { stem, blocks } = layers(config);
    let inner = blocks
        .into_iter()
        .flat_map(|b| b.convs.into_iter().chain(b.downsample));
    stem.into_iter().chain(inner).collect()
}

/// Features `[batch, embed_dim]`, not normalised, of images `[batch, size, size, 3]`. With `recompute`
/// each bottleneck keeps its input alone and runs again in backward.
pub(super) fn encode(
    config: &ClipConfig,
    recompute: bool,
    tape: &Tape,
    bound: &Bound,
    images: &Tensor,
) -> Result<Var> {
    let Layers { stem, blocks } = layers(&config.vision_cfg);
    let mut x = Var::constant(images.clone());
    for conv in &stem {
        x = conv_norm(tape, bound, conv, &x, RELU)?;
    }
    x = ops::avg_pool(tape, &x, 2)?;
    for block in &blocks {
        x = if recompute {
            let (block, bound, input) = (block.clone(), bound.clone(), x.clone());
            tape.checkpoint(&[&x], move |tape| block.forward(tape, &bound, &input))?
        } else {
            block.forward(tape, bound, &x)?
        };
    }
    attention_pool(config.vision_cfg.heads(), tape, bound, &x)
}

const RELU: Tail = Tail {
    residual: None,
    relu: true,
};

/// The convolution, its BatchNorm, and what follows.
fn conv_norm(tape: &Tape, bound: &Bound, layer: &ConvLayer, x: &Var, tail: Tail) -> Result<Var> {
    let shape = Convolution {
        kernel: layer.kernel,
        stride: layer.stride,
        padding: layer.kernel / 2,
    };
    let x = ops::conv2d(tape, x, bound.at(&layer.name, ".weight")?, shape)?;
    let norm = &layer.norm;
    let (gamma, beta) = (bound.at(norm, ".weight")?, bound.at(norm, ".bias")?);
    let statistics = bound.statistics(norm)?;
    let (y, moments) = ops::batch_norm(tape, &x, gamma, beta, &statistics, tail, BatchNorm::EPS)?;
    bound.observe(norm, moments, x.value().rows());
    Ok(y)
}

fn pool(tape: &Tape, x: &Var, stride: usize) -> Result<Var> {
    match stride {
        1 => Ok(x.clone()),
        _ => Ok(ops::avg_pool(tape, x, stride)?),
    }
}

impl Block {
    fn forward(&self, tape: &Tape, bound: &Bound, x: &Var) -> Result<Var> {
        let [reduce, spatial, expand] = &self.convs;
        let h = conv_norm(tape, bound, reduce, x, RELU)?;
        let h = conv_norm(tape, bound, spatial, &h, RELU)?;
        let h = pool(tape, &h, self.stride)?;
        let identity = match &self.downsample {
            Some(conv) => {
                let x = pool(tape, x, self.stride)?;
                conv_norm(tape, bound, conv, &x, Tail::default())?
            }
            None => x.clone(),
        };
        let tail = Tail {
            residual: Some(&identity),
            relu: true,
        };
        conv_norm(tape, bound, expand, &h, tail)
    }
}

/// open_clip's `AttentionPool2d`, of which only the mean token's output is used: so only that token asks.
fn attention_pool(heads: usize, tape: &Tape, bound: &Bound, x: &Var) -> Result<Var> {
    let linear = |name: &str, x: &Var| -> Result<Var> {
        let prefix = format!("visual.attnpool.{name}");
        let (w, b) = (bound.at(&prefix, ".weight")?, bound.at(&prefix, ".bias")?);
        Ok(ops::linear(tape, x, w, Some(b), None, Activation::None)?)
    };
    let positions = bound.var("visual.attnpool.positional_embedding")?;
    let tokens = ops::prepend_mean(tape, x, positions)?;
    let (batch, each) = (x.shape()[0], positions.value().rows());
    let means: Vec<i32> = (0..batch).map(|i| (i * each) as i32).collect();
    let means = tape.backend().upload_i32(&[batch], &means)?;
    let q = linear("q_proj", &ops::select_rows(tape, &tokens, &means)?)?;
    let (k, v) = (linear("k_proj", &tokens)?, linear("v_proj", &tokens)?);
    let y = ops::attention_pool(tape, &q, &k, &v, heads)?;
    linear("c_proj", &y)
}
