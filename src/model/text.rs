//! The text tower (open_clip's `TextTransformer` with end-token pooling), on packed texts.

use super::transformer::{Stack, layer_norm};
use super::vision::project;
use super::{Bound, ClipConfig, Error, Result};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Segments};
use crate::ops;

/// Features `[texts, embed_dim]`, not normalised, read at token `ends[i]` of text i. Texts need no
/// padding: attention is causal, so nothing behind the end token could reach it.
pub(super) fn encode(
    config: &ClipConfig,
    (act, recompute): (Activation, bool),
    tape: &Tape,
    bound: &Bound,
    texts: &[Vec<i32>],
    ends: &[usize],
) -> Result<Var> {
    let t = &config.text_cfg;
    if ends.len() > texts.len() {
        let (index, detail) = (texts.len(), format!("{} ends", ends.len()));
        return Err(Error::Text { index, detail });
    }
    for (index, text) in texts.iter().enumerate() {
        if text.is_empty() || text.len() > t.context_length {
            let detail = format!("{} tokens, where 1 to {} fit", text.len(), t.context_length);
            return Err(Error::Text { index, detail });
        }
        if ends.get(index).is_none_or(|&end| end >= text.len()) {
            let detail = format!("no end among its {} tokens", text.len());
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
        head_width: t.width / t.heads,
        causal: true,
        act,
        recompute,
    };
    let rows: Vec<i32> = segments
        .offsets()
        .iter()
        .zip(ends)
        .map(|(&start, &end)| (start + end) as i32)
        .collect();
    let rows = backend.upload_i32(&[rows.len()], &rows)?;
    let x = stack.forward(tape, bound, x, &segments, &rows)?;
    let x = layer_norm(tape, bound, "ln_final", &x)?;
    project(tape, &x, bound.var("text_projection")?)
}
