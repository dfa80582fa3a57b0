//! What a step costs: floating-point operations and memory, from the configurations alone.
//!
//! Memory is counted as the operations keep it. A block of width w and MLP width m keeps for each token
//! q, k, v, attention's output, the sum before the second LayerNorm and the block's output (6 w), and the
//! MLP's hidden values before their activation (m); those after it and the LayerNorms' outputs are
//! recomputed during backward.

use crate::loss::Weights;
use crate::model::{ClipConfig, ConvLayer, VisionConfig, convolutions};

/// Tokens of a packed caption, on average: web captions have 10 to 25.
pub(super) const CAPTION_TOKENS: usize = 20;

/// What one pair costs in a tower.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tower {
    /// Floating-point operations of the forward pass; the backward pass takes twice as many.
    pub(super) flops: f64,
    /// f32 values that backward reads.
    pub(super) kept: f64,
    /// f32 values kept with activation checkpointing: the blocks' inputs.
    pub(super) inputs: f64,
    /// Most f32 values of one block: what is at hand while it is computed again.
    pub(super) block: f64,
    /// f32 values alive at once in a forward pass that keeps nothing.
    pub(super) passing: f64,
    /// f32 values of gradients and packed operands alive at once during backward.
    pub(super) returning: f64,
}

impl Tower {
    /// f32 values of a pair during backward.
    pub(super) fn training(&self, grad_checkpointing: bool) -> f64 {
        let kept = match grad_checkpointing {
            true => self.inputs + self.block,
            false => self.kept,
        };
        kept + self.returning
    }
}

/// `tokens` of `width` through `layers`, with an MLP of `mlp`.
fn transformer(tokens: usize, width: usize, layers: usize, mlp: usize) -> Tower {
    let (t, w, l, m) = (tokens as f64, width as f64, layers as f64, mlp as f64);
    let block = t * (6.0 * w + m);
    let attention = t * (2.0 * 3.0 * w * w + 4.0 * t * w);
    let rest = 2.0 * (w * w + 2.0 * w * m);
    Tower {
        // in_proj 3w² and the two products of attention; then out_proj w² and two MLP products wm each,
        // in the last block for one token alone, which then keeps nothing after its attention.
        flops: l * attention + ((l - 1.0) * t + 1.0) * rest,
        kept: (l - 1.0) * block + t * 4.0 * w,
        inputs: l * t * w,
        block,
        // The sum and its normalised copy beside q, k, v and attention's output, or the hidden values.
        passing: t * (2.0 * w + (4.0 * w).max(m)),
        // The MLP: gradients of its output and hidden values, those values or the gradient of their
        // pre-activation, and one packed operand.
        returning: t * (2.0 * w + 3.0 * m),
    }
}

/// A convolution with its BatchNorm: backward reads the input of each and, where a ReLU follows, its
/// output, which is the next one's input.
fn convolution(layer: &ConvLayer) -> (f64, f64) {
    let outputs = (layer.side * layer.side * layer.channels.1) as f64;
    (2.0 * outputs * layer.filter() as f64, 2.0 * outputs)
}

/// The image tower. Pixels are counted where the loss of them is: see [`pixels`].
pub(super) fn vision(v: &VisionConfig, embed_dim: usize) -> Tower {
    let tokens = 1 + v.grid() * v.grid();
    if v.is_resnet() {
        let costs: Vec<(f64, f64)> = convolutions(v).iter().map(convolution).collect();
        let (flops, kept) = costs
            .iter()
            .fold((0.0, 0.0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
        let largest = costs.iter().fold(0.0f64, |m, c| m.max(c.1));
        let (t, w) = (tokens as f64, v.token_width() as f64);
        return Tower {
            // k and v of all tokens, q and the output of one, and that one's attention.
            flops: flops + 2.0 * w * (2.0 * t * w + w + embed_dim as f64 + 2.0 * t),
            kept: kept + 3.0 * t * w,
            inputs: kept / 4.0,
            block: 3.0 * largest,
            passing: 1.5 * largest,
            returning: 1.5 * largest,
        };
    }
    masked_vision(v, tokens - 1)
}

/// A ViT that sees `kept` of an image's patches; all are embedded.
pub(super) fn masked_vision(v: &VisionConfig, kept: usize) -> Tower {
    let patches = (v.cell() * v.cell() * 3 * v.grid() * v.grid()) as f64;
    let tokens = 1 + kept;
    let tower = transformer(tokens, v.width, v.layers.blocks(), v.mlp_width());
    // The patches, and the tokens before and after the first LayerNorm.
    let first = patches + 2.0 * (tokens * v.width) as f64;
    Tower {
        flops: tower.flops + 2.0 * patches * v.width as f64,
        kept: tower.kept + first,
        inputs: tower.inputs + first,
        ..tower
    }
}

/// The text tower, for captions of that many tokens.
pub(super) fn text(config: &ClipConfig, caption: usize) -> Tower {
    let t = &config.text_cfg;
    let tokens = caption.min(t.context_length);
    transformer(tokens, t.width, t.layers, t.mlp_width())
}

/// Floating-point operations of a step by part: the teacher forward once, the student in `passes` times its forward pass
/// (3 where nothing is computed again), and the losses. Captions have `caption` tokens.
pub fn step(
    student: &ClipConfig,
    teacher: Option<&ClipConfig>,
    weights: &Weights,
    pairs: f64,
    passes: f64,
    caption: usize,
) -> Vec<(&'static str, f64)> {
    let towers = |c: &ClipConfig| {
        let image = vision(&c.vision_cfg, c.embed_dim).flops;
        [image, text(c, caption).flops]
    };
    let width = |c: &ClipConfig| c.embed_dim as f64;
    let mut parts = Vec::new();
    if let Some(teacher) = teacher {
        let [image, text] = towers(teacher);
        parts.extend([
            ("teacher image", pairs * image),
            ("teacher text", pairs * text),
        ]);
    }
    let [image, text] = towers(student);
    let losses = losses(weights, pairs, width(student), teacher.map_or(0.0, width));
    parts.extend([
        ("student image", pairs * image * passes),
        ("student text", pairs * text * passes),
        ("losses", losses),
    ]);
    parts
}

/// f32 values of an image.
pub(super) fn pixels(config: &ClipConfig) -> f64 {
    let side = config.vision_cfg.image_size as f64;
    3.0 * side * side
}

/// Floating-point operations of the losses over `n` pairs: each of `clip`, `crd`, `affinity`, `icl`,
/// `cross-kd`, `afd` and `intra` makes the n×n similarities in both directions or modalities, makes them
/// again during backward and multiplies them into the gradient; where a teacher's similarities are read,
/// they are made twice as well, and by `affinity` once more for their entropy.
///
/// `gd` makes in each direction, of student and teacher, the similarities, and two gradients in two products
/// each; its way back makes similarities and two tiles of features with tangents three times over, and
/// multiplies them into four gradients.
pub fn losses(weights: &Weights, n: f64, width: f64, teacher: f64) -> f64 {
    let own = |weight: f32, products: f64| if weight == 0.0 { 0.0 } else { 2.0 * products };
    let w = weights;
    let student = [w.clip, w.crd, w.affinity, w.afd, w.intra].map(|w| own(w, 3.0));
    let projected = [
        own(w.icl, 3.0),
        own(w.cross_kd, 5.0),
        own(w.gd, 5.0 + 5.0 + 13.0),
    ];
    let teachers = [own(w.crd, 2.0), own(w.intra, 2.0), own(w.affinity, 3.0)];
    let sum = |parts: &[f64]| parts.iter().sum::<f64>();
    let of_teacher = sum(&projected) + sum(&teachers);
    2.0 * n * n * (sum(&student) * width + of_teacher * teacher)
}
