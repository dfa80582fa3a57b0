//! The image tower: open_clip's `VisionTransformer` with class-token pooling, or its ResNet.

use super::transformer::{Stack, layer_norm};
use super::{Bound, ClipConfig, Error, Result, resnet};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Segments};
use crate::ops;
use crate::tensor::Tensor;

/// Features `[batch, embed_dim]`, not normalised, of images `[batch, size, size, 3]`, or of the patches
/// `kept` of each, which only a ViT can leave out.
pub(super) fn encode(
    config: &ClipConfig,
    (act, recompute): (Activation, bool),
    tape: &Tape,
    bound: &Bound,
    images: &Tensor,
    kept: Option<&[Vec<usize>]>,
) -> Result<Var> {
    let v = &config.vision_cfg;
    if v.is_resnet() {
        if kept.is_some() {
            return Err(Error::Mask("a ResNet sees whole images".into()));
        }
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
    let (x, lengths) = match kept {
        Some(kept) => {
            let rows = kept_rows(kept, batch, tokens)?;
            let rows = tape.backend().upload_i32(&[rows.len()], &rows)?;
            let lengths = kept.iter().map(|kept| 1 + kept.len()).collect();
            (ops::select_rows(tape, &x, &rows)?, lengths)
        }
        None => (x, vec![tokens; batch]),
    };
    let x = layer_norm(tape, bound, "visual.ln_pre", &x)?;
    let segments = Segments::new(tape.backend(), lengths)?;
    let stack = Stack {
        prefix: "visual.transformer.resblocks.",
        layers: v.layers.blocks(),
        head_width: v.head_width,
        causal: false,
        act,
        recompute,
    };
    let starts = segments.offsets()[..batch].iter();
    let classes: Vec<i32> = starts.map(|&start| start as i32).collect();
    let classes = tape.backend().upload_i32(&[batch], &classes)?;
    let x = stack.forward(tape, bound, x, &segments, &classes)?;
    let x = layer_norm(tape, bound, "visual.ln_post", &x)?;
    project(tape, &x, bound.var("visual.proj")?)
}

/// The rows of class tokens and kept patches among `tokens` rows an image.
fn kept_rows(kept: &[Vec<usize>], batch: usize, tokens: usize) -> Result<Vec<i32>> {
    if kept.len() != batch {
        let detail = format!("patches of {} images for {batch} images", kept.len());
        return Err(Error::Mask(detail));
    }
    let mut rows = Vec::new();
    for (i, kept) in kept.iter().enumerate() {
        rows.push((i * tokens) as i32);
        for &patch in kept {
            if patch + 1 >= tokens {
                let detail = format!("image {i} has no patch {patch}, only {}", tokens - 1);
                return Err(Error::Mask(detail));
            }
            rows.push((i * tokens + 1 + patch) as i32);
        }
    }
    Ok(rows)
}

/// x P with P `[width, embed_dim]`, which open_clip stores untransposed.
pub(super) fn project(tape: &Tape, x: &Var, projection: &Var) -> Result<Var> {
    Ok(ops::matmul(tape, x, projection)?)
}
