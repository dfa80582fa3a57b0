//! Multi-head attention over packed sequences: softmax(q kᵀ / √head_dim) v, sequence by sequence
//! and head by head.

use super::{Array, dot, softmax};

/// `qkv` is [total, 3·width], each row q | k | v, a head a contiguous chunk of width/heads of each.
/// `offsets` are 0, n₁, n₁ + n₂, …, total. With `causal`, a token sees itself and those before it
/// in its sequence. The result is [total, width].
pub fn attention(qkv: &Array, offsets: &[usize], heads: usize, causal: bool) -> Array {
    let (total, width) = (qkv.rows(), qkv.width() / 3);
    assert_eq!(qkv.width(), 3 * width);
    assert_eq!(width % heads, 0);
    assert_eq!(offsets.first(), Some(&0));
    assert_eq!(offsets.last(), Some(&total));
    let size = width / heads;
    // part 0, 1, 2 is q, k, v.
    let chunk = |token: usize, part: usize, head: usize| {
        let start = part * width + head * size;
        &qkv.row(token)[start..start + size]
    };
    let mut out = Array::zeros(&[total, width]);
    for sequence in offsets.windows(2) {
        let (start, end) = (sequence[0], sequence[1]);
        for query in start..end {
            let seen = if causal { query + 1 } else { end };
            for head in 0..heads {
                let logits: Vec<f64> = (start..seen)
                    .map(|key| {
                        dot(chunk(query, 0, head), chunk(key, 1, head)) / (size as f64).sqrt()
                    })
                    .collect();
                for (key, p) in (start..seen).zip(softmax(&logits)) {
                    for (e, v) in chunk(key, 2, head).iter().enumerate() {
                        out.row_mut(query)[head * size + e] += p * v;
                    }
                }
            }
        }
    }
    out
}
