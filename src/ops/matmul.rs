//! y = x P with x `[rows, in]` and P `[in, out]`: CLIP's output projections, which open_clip stores
//! untransposed.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};

/// x P.
///
/// # Errors
/// If the inner dimensions differ.
pub fn matmul(tape: &Tape, x: &Var, p: &Var) -> Result<Var> {
    if p.shape().len() != 2 || x.value().width() != p.value().rows() {
        return shape_error("matmul", format!("{:?} by {:?}", x.shape(), p.shape()));
    }
    let y = tape.backend().matmul(x.value(), p.value())?;
    // dx = dy Pᵀ,   dP = xᵀ dy.
    let (xc, pc) = (x.clone(), p.clone());
    Ok(tape.record(y, &[x, p], move |tape, grads, dy| {
        let (mut dx, mut dp) = (grads.take(&xc), grads.take(&pc));
        tape.backend().matmul_backward(
            &dy,
            xc.value(),
            pc.value(),
            slot(&mut dx),
            slot(&mut dp),
        )?;
        grads.put(&xc, dx);
        grads.put(&pc, dp);
        Ok(())
    }))
}
