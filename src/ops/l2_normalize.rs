//! y = x / max(‖x‖, 1e-12) for each row of x `[rows, width]` (`torch.nn.functional.normalize`).

use super::{Result, slot};
use crate::autodiff::{Tape, Var};

/// Rows scaled to unit Euclidean length.
pub fn l2_normalize(tape: &Tape, x: &Var) -> Result<Var> {
    let (y, inverse) = tape.backend().l2_normalize(x.value())?;
    // The length of y cannot change, so the part of dy along y is lost: dx = (dy − (dy·y) y) / ‖x‖.
    let (xc, yc) = (x.clone(), y.clone());
    Ok(tape.record(y, &[x], move |tape, grads, dy| {
        let mut dx = grads.take(&xc);
        tape.backend()
            .l2_normalize_backward(&dy, &yc, &inverse, slot(&mut dx))?;
        grads.put(&xc, dx);
        Ok(())
    }))
}
