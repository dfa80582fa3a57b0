//! CLIP's attention pooling: the tokens, and the attention of one query an image.

use super::{Array, dot, softmax};

/// `x` [B, H, W, w], `positions` [1+HW, w] → [B·(1+HW), w]: each image's mean, then its pixels, plus
/// positions.
pub fn prepend_mean(x: &Array, positions: &Array) -> Array {
    let (batch, width, pixels) = (x.shape[0], x.width(), positions.rows() - 1);
    let mut out = Array::zeros(&[batch * (1 + pixels), width]);
    for b in 0..batch {
        for e in 0..width {
            let pixel = |p: usize| x.row(b * pixels + p)[e];
            let first = b * (1 + pixels);
            out.row_mut(first)[e] =
                (0..pixels).map(pixel).sum::<f64>() / pixels as f64 + positions.row(0)[e];
            for p in 0..pixels {
                out.row_mut(first + 1 + p)[e] = pixel(p) + positions.row(1 + p)[e];
            }
        }
    }
    out
}

/// `q` [B, w], `k` and `v` [B·T, w] → [B, w]: softmax(q kᵀ / √head_dim) v, image by image and head by
/// head.
pub fn attention_pool(q: &Array, k: &Array, v: &Array, heads: usize) -> Array {
    let (batch, size) = (q.rows(), q.width() / heads);
    let tokens = k.rows() / batch;
    let mut out = Array::zeros(&q.shape);
    for b in 0..batch {
        for head in 0..heads {
            let part = head * size..(head + 1) * size;
            let logits: Vec<f64> = (0..tokens)
                .map(|t| {
                    let key = &k.row(b * tokens + t)[part.clone()];
                    dot(&q.row(b)[part.clone()], key) / (size as f64).sqrt()
                })
                .collect();
            for (t, p) in softmax(&logits).into_iter().enumerate() {
                for e in part.clone() {
                    out.row_mut(b)[e] += p * v.row(b * tokens + t)[e];
                }
            }
        }
    }
    out
}
