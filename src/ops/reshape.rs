//! The same elements under another shape. dx is dy under x's shape; nothing is copied.

use super::{Result, shape_error};
use crate::autodiff::{Tape, Var};

/// x under `shape`.
///
/// # Errors
/// If the number of elements differs.
pub fn reshape(tape: &Tape, x: &Var, shape: &[usize]) -> Result<Var> {
    let Some(y) = x.value().clone().reshaped(shape) else {
        return shape_error("reshape", format!("{:?} to {shape:?}", x.shape()));
    };
    let xc = x.clone();
    Ok(tape.record(y, &[x], move |tape, grads, dy| {
        let shape = format!("{:?} to {:?}", dy.shape(), xc.shape());
        match dy.reshaped(xc.shape()) {
            Some(dx) => grads.add(tape.backend(), &xc, dx),
            None => shape_error("reshape", shape),
        }
    }))
}
