//! y[b, i, j, c] = mean of x[b, i·k + u, j·k + v, c] over 0 ≤ u, v < k: x `[batch, h, w, channels]`, y
//! `[batch, h/k, w/k, channels]`. CLIP's ResNet strides by this, so that no pixel goes unseen.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};

/// Means over tiles of `size` × `size` pixels.
///
/// # Errors
/// Unless x is a batch of images whose sides `size` divides.
pub fn avg_pool(tape: &Tape, x: &Var, size: usize) -> Result<Var> {
    match *x.shape() {
        [_, h, w, _] if size > 0 && h.is_multiple_of(size) && w.is_multiple_of(size) => {}
        _ => {
            let detail = format!("x {:?} into tiles of {size}×{size}", x.shape());
            return shape_error("avg_pool", detail);
        }
    }
    let y = tape.backend().avg_pool(x.value(), size)?;
    // Each pixel of a tile has an equal share of its mean: dx = dy / k².
    let xc = x.clone();
    Ok(tape.record(y, &[x], move |tape, grads, dy| {
        let mut dx = grads.take(&xc);
        tape.backend()
            .avg_pool_backward(&dy, xc.shape(), size, slot(&mut dx))?;
        grads.put(&xc, dx);
        Ok(())
    }))
}
