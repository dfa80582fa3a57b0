//! Pixels to normalised values.

use super::device::{Address, Launch};
use super::{Gpu, arguments, instance};
use crate::backend::{Images, Result, shape_error};
use crate::tensor::{Normalisation, Tensor};

arguments! {
    struct ImagesArguments in "images" {
        pixels: Address,
        y: Address,
        n: i64,
        mean: [f32; 3],
        std: [f32; 3],
    }
}

impl Images for Gpu {
    /// See [`crate::backend::Images::images`]: bytes are uploaded, a quarter of what the values would be.
    fn images(&self, shape: &[usize], pixels: &[u8], by: &Normalisation) -> Result<Tensor> {
        if shape.last() != Some(&3) {
            return shape_error(
                "images",
                format!("{shape:?}, where three channels come last"),
            );
        }
        let dtype = self.activations();
        let bytes = self.input(pixels)?;
        let (y, y_at) = self.empty(shape, dtype)?;
        let arguments = ImagesArguments {
            pixels: bytes.at(),
            y: y_at,
            n: pixels.len() as i64,
            mean: by.mean,
            std: by.std,
        };
        let launch = Launch::spread(pixels.len(), 256 * 16);
        self.launch(instance!("images", "images", dtype), launch, &arguments)?;
        Ok(y)
    }
}
