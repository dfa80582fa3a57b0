//! Average pooling.

use super::{Info, Slot};
use crate::backend::{Op, Result, lacking};
use crate::tensor::Tensor;

/// Means of square tiles.
pub trait AvgPool: Info {
    /// Means over `size` × `size` tiles of x `[batch, h, w, channels]`, whose sides `size` divides.
    fn avg_pool(&self, x: &Tensor, size: usize) -> Result<Tensor> {
        let _ = size;
        lacking(self, Op::AvgPool, x)
    }

    /// dx += dy / size² for each input of a tile; `shape` is x's.
    fn avg_pool_backward(&self, dy: &Tensor, shape: &[usize], size: usize, dx: Slot) -> Result<()> {
        let _ = (shape, size, dx);
        lacking(self, Op::AvgPool, dy)
    }
}
