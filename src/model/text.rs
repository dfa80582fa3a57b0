//! The text tower (open_clip's `TextTransformer` with end-token pooling), on packed texts.

use super::transformer::{Stack, layer_norm};
use super::vision::project;
use super::{Bound, ClipConfig, Error, Result};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Segments};
use crate::ops;
use crate::tensor::Tensor;

/// Output of the last block `[total, width]`, and where each text lies. Each text is its tokens up
/// to and including its end token, without padding: attention is causal, so nothing after the end
/// token could reach it.
pub(super) fn tokens(
    config: &ClipConfig,
    (act, recompute): (Activation, bool),
    tape: &Tape,
    bound: &Bound,
    texts: &[Vec<i32>],
) -> Result<(Var, Segments)> {
    let t = &config.text_cfg;
    for (index, text) in texts.iter().enumerate() {
        if text.is_empty() || text.len() > t.context_length {
            let detail = format!("{} tokens, where 1 to {} fit", text.len(), t.context_length);
            return Err(Error::Text { index, detail });
        }
    }
    let backend = tape.backend();
    let ids: Vec<i32> = texts.concat();
    let pos: Vec<i32> = texts.iter().flat_map(|text| 0..text.len() as i32).collect();
    let n = [ids.len()];
    let (ids, pos) = (backend.upload_i32(&n, &ids)?, backend.upload_i32(&n, &pos)?);
    let table = bound.var("token_embedding.weight")?;
    let positions = bound.var("positional_embedding")?;
    let x = ops::embedding(tape, table, positions, &ids, &pos)?;
    let segments = Segments::new(backend, texts.iter().map(Vec::len))?;
    let stack = Stack {
        prefix: "transformer.resblocks.",
        layers: t.layers,
        heads: t.heads,
        causal: true,
        act,
        recompute,
    };
    Ok((stack.forward(tape, bound, x, &segments)?, segments))
}

/// Features `[n, embed_dim]`, not normalised, of the tokens in rows `index` of x.
pub(super) fn pool(tape: &Tape, bound: &Bound, x: &Var, index: &Tensor) -> Result<Var> {
    // LayerNorm works row by row, so only the rows that are used need it.
    let x = ops::select_rows(tape, x, index)?;
    let x = layer_norm(tape, bound, "ln_final", &x)?;
    project(tape, &x, bound.var("text_projection")?)
}

/// The row of each text's end token.
pub(super) fn ends(tape: &Tape, segments: &Segments) -> Result<Tensor> {
    let ends: Vec<i32> = segments.offsets()[1..]
        .iter()
        .map(|&end| end as i32 - 1)
        .collect();
    Ok(tape.backend().upload_i32(&[ends.len()], &ends)?)
}
