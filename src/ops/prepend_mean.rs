//! The tokens of CLIP's attention pooling: row 0 of each image is the mean of its pixels +
//! positions[0], row 1 + i is pixel i + positions[1 + i]. x `[batch, h, w, width]`, positions
//! `[1 + h·w, width]`, out `[batch·(1 + h·w), width]`.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};

/// Prepends each image's mean and adds the positions.
///
/// # Errors
/// If the shapes do not fit, naming them.
pub fn prepend_mean(tape: &Tape, x: &Var, positions: &Var) -> Result<Var> {
    match (x.shape(), positions.shape()) {
        (&[_, h, w, width], &[tokens, same])
            if same == width && h * w > 0 && tokens == h * w + 1 => {}
        _ => {
            let detail = format!("x {:?}, positions {:?}", x.shape(), positions.shape());
            return shape_error("prepend_mean", detail);
        }
    }
    let y = tape.backend().prepend_mean(x.value(), positions.value())?;
    // A pixel moves into a row of its own and, by 1/(h·w), into the mean's; each position gets the
    // sum over the batch.
    let (xc, p) = (x.clone(), positions.clone());
    Ok(tape.record(y, &[x, positions], move |tape, grads, dy| {
        let (mut dx, mut dp) = (grads.take(&xc), grads.take(&p));
        tape.backend()
            .prepend_mean_backward(&dy, xc.shape(), slot(&mut dx), slot(&mut dp))?;
        grads.put(&xc, dx);
        grads.put(&p, dp);
        Ok(())
    }))
}
