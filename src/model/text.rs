//! The text tower (open_clip's `TextTransformer` with end-token pooling), on packed texts.

use super::transformer::{Stack, layer_norm};
use super::vision::project;
use super::{Bound, ClipConfig, Error, Result};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Segments};
use crate::ops;

/// Features `[texts, embed_dim]`, not normalised, read at token `ends[i]` of text i. Texts need no
/// padding: attention is causal, so nothing after the end token can reach it. Where the backend asks for it
/// ([`Backend::text_bucket`](crate::backend::Backend::text_bucket)), texts whose features nobody reads follow: their
/// gradients are zero.
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
    let mut ids: Vec<i32> = texts.concat();
    let mut lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    lengths.extend(filler(
        ids.len(),
        backend.text_bucket(ids.len()),
        t.context_length,
    ));
    ids.resize(lengths.iter().sum(), 0);
    let pos: Vec<i32> = lengths
        .iter()
        .flat_map(|&length| 0..length as i32)
        .collect();
    let n = [ids.len()];
    let (ids, pos) = (backend.upload_i32(&n, &ids)?, backend.upload_i32(&n, &pos)?);
    let table = bound.var("token_embedding.weight")?;
    let positions = bound.var("positional_embedding")?;
    let x = ops::embedding(tape, table, positions, &ids, &pos)?;
    let segments = Segments::new(backend, lengths)?;
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

/// Lengths, 1 to `context`, of the texts that bring `tokens` to a multiple of `bucket`. There are as many of them for every
/// number of tokens: kernels' launches depend on the number of texts as well.
fn filler(tokens: usize, bucket: usize, context: usize) -> Vec<usize> {
    if tokens == 0 || bucket <= 1 || context < 2 {
        return Vec::new();
    }
    // They hold between `count` and count + bucket − 1 ≤ count · context tokens.
    let count = bucket.div_ceil(context - 1);
    let rest = (tokens + count).next_multiple_of(bucket) - tokens;
    (0..count)
        .map(|i| rest / count + usize::from(i < rest % count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::filler;

    #[test]
    fn texts_are_filled_up_to_a_multiple() {
        for (bucket, context) in [(8, 6), (8, 77), (64, 2), (77, 77), (512, 77)] {
            let count = filler(1, bucket, context).len();
            for tokens in 1..2 * bucket {
                let lengths = filler(tokens, bucket, context);
                let total = tokens + lengths.iter().sum::<usize>();
                assert_eq!((lengths.len(), total % bucket), (count, 0));
                assert!(total < tokens + count + bucket);
                assert!(lengths.iter().all(|length| (1..=context).contains(length)));
            }
        }
        for none in [(0, 8, 77), (5, 1, 77), (5, 8, 1)] {
            assert!(filler(none.0, none.1, none.2).is_empty());
        }
    }
}
