//! Puts the class token before each image's patches and adds the positions.

use super::Array;

/// `patches` [B·L, w], `class` [w], `positions` [1+L, w] → [B·(1+L), w]: row 0 of each image is
/// class + positions[0], row 1+i is patch i + positions[1+i].
pub fn class_token(patches: &Array, class: &Array, positions: &Array) -> Array {
    let length = positions.rows() - 1;
    assert!(length > 0 && patches.rows().is_multiple_of(length));
    let batch = patches.rows() / length;
    let mut out = Array::zeros(&[batch * (1 + length), patches.width()]);
    for b in 0..batch {
        for t in 0..=length {
            let token = match t {
                0 => &class.data[..],
                _ => patches.row(b * length + t - 1),
            };
            let target = out.row_mut(b * (1 + length) + t);
            for (e, value) in target.iter_mut().enumerate() {
                *value = token[e] + positions.row(t)[e];
            }
        }
    }
    out
}
