//! The class token before an image's patches.

use super::Cpu;
use super::memory::Memory;
use super::parallel::{column_sums, over_rows};
use super::storage::{accumulator, f32s, tensor};
use crate::backend::{PrependClass, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "prepend_class";

impl PrependClass for Cpu {
    fn prepend_class(
        &self,
        patches: &Tensor,
        class: &Tensor,
        positions: &Tensor,
    ) -> Result<Tensor> {
        let (width, tokens) = (patches.width(), positions.rows());
        let batch = patches.rows() / (tokens - 1);
        let (patches, class, positions) =
            (f32s(OP, patches)?, f32s(OP, class)?, f32s(OP, positions)?);
        let mut y = Memory::stale(batch * tokens * width);
        over_rows(
            &mut y,
            width,
            #[inline(always)]
            |first, y| {
                for (r, y) in y.chunks_exact_mut(width).enumerate() {
                    let (image, token) = ((first + r) / tokens, (first + r) % tokens);
                    let from = match token {
                        0 => class,
                        _ => &patches[(image * (tokens - 1) + token - 1) * width..][..width],
                    };
                    let position = &positions[token * width..][..width];
                    for ((y, f), p) in y.iter_mut().zip(from).zip(position) {
                        *y = f + p;
                    }
                }
            },
        );
        Ok(tensor(&[batch * tokens, width], y))
    }

    fn prepend_class_backward(
        &self,
        dy: &Tensor,
        len: usize,
        dpatches: Slot,
        dclass: Slot,
        dpositions: Slot,
    ) -> Result<()> {
        let (width, tokens) = (dy.width(), len + 1);
        let batch = dy.rows() / tokens;
        let dy = f32s(OP, dy)?;
        let image = tokens * width;
        if let Some(dpatches) = dpatches {
            over_rows(
                accumulator(OP, dpatches, &[batch * len, width])?,
                width,
                #[inline(always)]
                |first, d| {
                    for (r, d) in d.chunks_exact_mut(width).enumerate() {
                        let (i, token) = ((first + r) / len, (first + r) % len + 1);
                        for (d, dy) in d.iter_mut().zip(&dy[i * image + token * width..]) {
                            *d += dy;
                        }
                    }
                },
            );
        }
        let sum_images = |out: &mut [f32]| {
            column_sums(
                batch,
                out,
                #[inline(always)]
                |i, sum| {
                    for (s, dy) in sum.iter_mut().zip(&dy[i * image..]) {
                        *s += dy;
                    }
                },
            );
        };
        if let Some(dclass) = dclass {
            sum_images(accumulator(OP, dclass, &[width])?);
        }
        if let Some(dpositions) = dpositions {
            sum_images(accumulator(OP, dpositions, &[tokens, width])?);
        }
        Ok(())
    }
}
