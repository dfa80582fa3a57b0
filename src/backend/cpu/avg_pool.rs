//! Means over square tiles of NHWC images.

use super::Cpu;
use super::memory::Memory;
use super::parallel::over_rows;
use super::storage::{accumulator, f32s, tensor};
use crate::backend::{AvgPool, Result, Slot, shape_error};
use crate::tensor::Tensor;

const OP: &str = "avg_pool";

fn sides(shape: &[usize]) -> Result<[usize; 4]> {
    match *shape {
        [batch, height, width, channels] => Ok([batch, height, width, channels]),
        _ => shape_error(OP, format!("{shape:?} is not [batch, h, w, channels]")),
    }
}

impl AvgPool for Cpu {
    fn avg_pool(&self, x: &Tensor, size: usize) -> Result<Tensor> {
        let [batch, height, width, channels] = sides(x.shape())?;
        let (out_height, out_width) = (height / size, width / size);
        let xs = f32s(OP, x)?;
        let share = 1.0 / (size * size) as f32;
        let mut y = Memory::stale(batch * out_height * out_width * channels);
        over_rows(
            &mut y,
            channels,
            #[inline(always)]
            |first, y| {
                for (r, y) in y.chunks_exact_mut(channels).enumerate() {
                    let (line, tile) = ((first + r) / out_width, (first + r) % out_width);
                    let (image, line) = (line / out_height, line % out_height);
                    y.fill(0.0);
                    for i in 0..size {
                        let at = (image * height + line * size + i) * width + tile * size;
                        for x in xs[at * channels..][..size * channels].chunks_exact(channels) {
                            for (y, x) in y.iter_mut().zip(x) {
                                *y += x;
                            }
                        }
                    }
                    for y in y {
                        *y *= share;
                    }
                }
            },
        );
        Ok(tensor(&[batch, out_height, out_width, channels], y))
    }

    fn avg_pool_backward(&self, dy: &Tensor, shape: &[usize], size: usize, dx: Slot) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        let [_, height, width, channels] = sides(shape)?;
        let (out_height, out_width) = (height / size, width / size);
        let dy = f32s(OP, dy)?;
        let share = 1.0 / (size * size) as f32;
        over_rows(
            accumulator(OP, dx, shape)?,
            channels,
            #[inline(always)]
            |first, dx| {
                for (r, dx) in dx.chunks_exact_mut(channels).enumerate() {
                    let (line, column) = ((first + r) / width, (first + r) % width);
                    let (image, line) = (line / height, line % height);
                    let from = (image * out_height + line / size) * out_width + column / size;
                    for (dx, dy) in dx.iter_mut().zip(&dy[from * channels..]) {
                        *dx += dy * share;
                    }
                }
            },
        );
        Ok(())
    }
}
