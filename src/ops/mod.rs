//! The closed set of differentiable operations, at the granularity of the models: one file each,
//! always in the order formula, backward derivation, forward, backward, shape errors.

mod attention;
mod attention_pool;
mod avg_pool;
mod batch_norm;
mod conv2d;
mod embedding;
mod exp;
mod l2_normalize;
mod layer_norm;
mod linear;
mod matmul;
mod patchify;
mod prepend_class;
mod prepend_mean;
mod select_rows;
mod submatrix;
mod weighted_sum;

pub use crate::autodiff::{Error, Result};
pub use attention::attention;
pub use attention_pool::attention_pool;
pub use avg_pool::avg_pool;
pub use batch_norm::{Statistics, Tail, batch_norm};
pub use conv2d::conv2d;
pub use embedding::embedding;
pub use exp::exp;
pub use l2_normalize::l2_normalize;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use matmul::matmul;
pub use patchify::patchify;
pub use prepend_class::prepend_class;
pub use prepend_mean::prepend_mean;
pub use select_rows::select_rows;
pub use submatrix::{Cut, submatrix};
pub use weighted_sum::{add, weighted_sum};

use crate::backend::{self, Grad, Slot};

/// A shape error naming the operation.
fn shape_error<T>(op: &'static str, detail: String) -> Result<T> {
    Err(backend::Error::Shape { op, detail }.into())
}

/// A taken gradient as the slot that a kernel writes.
fn slot(grad: &mut Option<Grad>) -> Slot<'_> {
    grad.as_mut()
}
