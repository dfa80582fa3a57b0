//! Pixels to normalised images.

use super::Info;
use crate::backend::{Op, Result, unsupported};
use crate::tensor::{DType, Normalisation, Tensor};

/// Normalises 8-bit pixels on the device: a quarter of the bytes travel.
pub trait Images: Info {
    /// 8-bit pixels `[…, 3]` from host memory → (pixel / 255 − mean) / deviation of each channel, of the same shape.
    fn images(&self, shape: &[usize], pixels: &[u8], by: &Normalisation) -> Result<Tensor> {
        let _ = (pixels, by);
        let op = Op::Images.name();
        Err(unsupported(self.name(), op, DType::F32, shape, ""))
    }
}
