//! Patches out of images.

use super::Cpu;
use super::memory::Memory;
use super::parallel::over_rows;
use super::storage::{f32s, tensor};
use crate::backend::{Patchify, Result, shape_error};
use crate::tensor::Tensor;

const OP: &str = "patchify";

impl Patchify for Cpu {
    fn patchify(&self, images: &Tensor, patch: usize) -> Result<Tensor> {
        let &[batch, height, width, channels] = images.shape() else {
            return shape_error(OP, format!("images {:?}", images.shape()));
        };
        let (grid_h, grid_w) = (height / patch, width / patch);
        let out = patch * patch * channels;
        let pixels = f32s(OP, images)?;
        let mut y = Memory::stale(batch * grid_h * grid_w * out);
        over_rows(
            &mut y,
            out,
            #[inline(always)]
            |first, y| {
                for (r, y) in y.chunks_exact_mut(out).enumerate() {
                    let (row, gx) = ((first + r) / grid_w, (first + r) % grid_w);
                    let (image, gy) = (row / grid_h, row % grid_h);
                    for (py, line) in y.chunks_exact_mut(patch * channels).enumerate() {
                        let at =
                            ((image * height + gy * patch + py) * width + gx * patch) * channels;
                        line.copy_from_slice(&pixels[at..][..patch * channels]);
                    }
                }
            },
        );
        Ok(tensor(&[batch * grid_h * grid_w, out], y))
    }
}
