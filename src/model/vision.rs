//! The image tower: open_clip's `VisionTransformer` with class-token pooling, or its ResNet.

use super::transformer::{Stack, layer_norm};
use super::{Bound, ClipConfig, Result, resnet};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Segments};
use crate::ops;
use crate::tensor::Tensor;

/// Features `[batch, embed_dim]`, not normalised, of images `[batch, size, size, 3]`.
pub(super) fn encode(
    config: &ClipConfig,
    (act, recompute): (Activation, bool),
    tape: &Tape,
    bound: &Bound,
    images: &Tensor,
) -> Result<Var> {
    let v = &config.vision_cfg;
    if v.is_resnet() {
        return resnet::encode(config, recompute, tape, bound, images);
    }
    let batch = images.shape().first().copied().unwrap_or(0);
    let tokens = 1 + v.grid() * v.grid();
    let patches = Var::constant(ops::patchify(tape, images, v.cell())?);
    let conv1 = bound.var("visual.conv1.weight")?;
    let patches = ops::linear(tape, &patches, conv1, None, None, Activation::None)?;
    let class = bound.var("visual.class_embedding")?;
    let positions = bound.var("visual.positional_embedding")?;
    let x = ops::prepend_class(tape, &patches, class, positions)?;
    let x = layer_norm(tape, bound, "visual.ln_pre", &x)?;
    let segments = Segments::new(tape.backend(), std::iter::repeat_n(tokens, batch))?;
    let stack = Stack {
        prefix: "visual.transformer.resblocks.",
        layers: v.layers.blocks(),
        heads: v.heads(),
        causal: false,
        act,
        recompute,
    };
    let classes: Vec<i32> = (0..batch).map(|i| (i * tokens) as i32).collect();
    let classes = tape.backend().upload_i32(&[batch], &classes)?;
    let x = stack.forward(tape, bound, x, &segments, &classes)?;
    let x = layer_norm(tape, bound, "visual.ln_post", &x)?;
    project(tape, &x, bound.var("visual.proj")?)
}

/// x P with P `[width, embed_dim]`, which open_clip stores untransposed.
pub(super) fn project(tape: &Tape, x: &Var, projection: &Var) -> Result<Var> {
    Ok(ops::matmul(tape, x, projection)?)
}
