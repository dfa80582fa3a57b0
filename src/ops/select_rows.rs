//! out_r = x[index_r]: x `[rows, width]`, index `[n]` (i32), out `[n, width]`. Picks the class token
//! of each image and the end token of each text.

use super::{Result, slot};
use crate::autodiff::{Tape, Var};
use crate::tensor::Tensor;

/// The rows of x named by `index`.
///
/// # Errors
/// If an index is outside x.
pub fn select_rows(tape: &Tape, x: &Var, index: &Tensor) -> Result<Var> {
    let y = tape.backend().select_rows(x.value(), index)?;
    // A row gathers the gradients of all places where it was picked; the others get none.
    let (xc, index) = (x.clone(), index.clone());
    let rows = x.value().rows();
    Ok(tape.record(y, &[x], move |tape, grads, dy| {
        let mut dx = grads.take(&xc);
        tape.backend()
            .select_rows_backward(&dy, &index, rows, slot(&mut dx))?;
        grads.put(&xc, dx);
        Ok(())
    }))
}
