//! Tensors in a device's memory. Every backend has these.

use super::{Grad, Info};
use crate::backend::{Fetch, Result};
use crate::tensor::Tensor;

/// Ways in, out and within.
pub trait Storage: Info {
    /// A tensor of f32 values from host memory.
    fn upload(&self, shape: &[usize], data: &[f32]) -> Result<Tensor>;

    /// A tensor of i32 values from host memory.
    fn upload_i32(&self, shape: &[usize], data: &[i32]) -> Result<Tensor>;

    /// The values of an f32 tensor, waiting for all work before it.
    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>>;

    /// Sends the values of f32 tensors, one after another, to the host, which goes on meanwhile.
    fn fetch(&self, tensors: &[&Tensor]) -> Result<Fetch> {
        let values: Result<Vec<_>> = tensors.iter().map(|t| self.download(t)).collect();
        Ok(Fetch::Ready(values?.concat()))
    }

    /// A tensor of zeros (f32).
    fn zeros(&self, shape: &[usize]) -> Result<Tensor>;

    /// A tensor with storage of its own and the same values.
    fn copy(&self, tensor: &Tensor) -> Result<Tensor>;

    /// `slot += value`: moves the value in when the slot is empty, without touching memory.
    fn accumulate(&self, slot: &mut Grad, value: Tensor) -> Result<()>;
}
