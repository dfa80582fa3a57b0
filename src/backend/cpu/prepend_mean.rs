//! The mean token of an image.

use super::Cpu;
use super::memory::Memory;
use super::parallel::{column_sums, over_rows};
use super::storage::{accumulator, f32s, tensor};
use crate::backend::{PrependMean, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "prepend_mean";

impl PrependMean for Cpu {
    fn prepend_mean(&self, x: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let (width, tokens) = (x.width(), positions.rows());
        let pixels = tokens - 1;
        let batch = x.rows() / pixels;
        let (x, positions) = (f32s(OP, x)?, f32s(OP, positions)?);
        let mut y = Memory::stale(batch * tokens * width);
        let image = tokens * width;
        over_rows(
            &mut y,
            image,
            #[inline(always)]
            |first, y| {
                for (i, y) in y.chunks_exact_mut(image).enumerate() {
                    let (mean, rest) = y.split_at_mut(width);
                    let x = &x[(first + i) * pixels * width..][..pixels * width];
                    mean.fill(0.0);
                    for x in x.chunks_exact(width) {
                        for (m, x) in mean.iter_mut().zip(x) {
                            *m += x;
                        }
                    }
                    for (m, p) in mean.iter_mut().zip(positions) {
                        *m = *m / pixels as f32 + p;
                    }
                    for ((y, x), p) in rest.iter_mut().zip(x).zip(&positions[width..]) {
                        *y = x + p;
                    }
                }
            },
        );
        Ok(tensor(&[batch * tokens, width], y))
    }

    fn prepend_mean_backward(
        &self,
        dy: &Tensor,
        shape: &[usize],
        dx: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        let width = dy.width();
        let pixels: usize = shape[1..shape.len() - 1].iter().product();
        let (batch, image) = (shape[0], (pixels + 1) * width);
        let dy = f32s(OP, dy)?;
        if let Some(dx) = dx {
            over_rows(
                accumulator(OP, dx, shape)?,
                width,
                #[inline(always)]
                |first, dx| {
                    for (r, dx) in dx.chunks_exact_mut(width).enumerate() {
                        let (i, pixel) = ((first + r) / pixels, (first + r) % pixels);
                        let (mean, own) =
                            (&dy[i * image..], &dy[i * image + (pixel + 1) * width..]);
                        for ((dx, own), mean) in dx.iter_mut().zip(own).zip(mean) {
                            *dx += own + mean / pixels as f32;
                        }
                    }
                },
            );
        }
        if let Some(dpositions) = dpositions {
            column_sums(
                batch,
                accumulator(OP, dpositions, &[pixels + 1, width])?,
                #[inline(always)]
                |i, sum| {
                    for (s, dy) in sum.iter_mut().zip(&dy[i * image..]) {
                        *s += dy;
                    }
                },
            );
        }
        Ok(())
    }
}
