//! y = eˣ elementwise: what turns a learned log-scale into a scale.

use super::{Result, slot};
use crate::autodiff::{Tape, Var};

/// The exponential of each element.
pub fn exp(tape: &Tape, x: &Var) -> Result<Var> {
    let y = tape.backend().exp(x.value())?;
    // dx = dy ∘ eˣ = dy ∘ y.
    let (xc, yc) = (x.clone(), y.clone());
    Ok(tape.record(y, &[x], move |tape, grads, dy| {
        let mut dx = grads.take(&xc);
        tape.backend().exp_backward(&dy, &yc, slot(&mut dx))?;
        grads.put(&xc, dx);
        Ok(())
    }))
}
