//! Moves of tokens: patches out of images, the class token in, single rows out.

use super::embedding::check_indices;
use super::memory::Memory;
use super::parallel::{column_sums, over_rows};
use super::storage::{accumulator, f32s, i32s, tensor};
use crate::backend::{Result, Slot};
use crate::tensor::Tensor;

pub(super) fn patchify(images: &Tensor, patch: usize) -> Result<Tensor> {
    let &[batch, height, width, channels] = images.shape() else {
        return crate::backend::shape_error("patchify", format!("images {:?}", images.shape()));
    };
    let (grid_h, grid_w) = (height / patch, width / patch);
    let out = patch * patch * channels;
    let pixels = f32s("patchify", images)?;
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
                    let at = ((image * height + gy * patch + py) * width + gx * patch) * channels;
                    line.copy_from_slice(&pixels[at..][..patch * channels]);
                }
            }
        },
    );
    Ok(tensor(&[batch * grid_h * grid_w, out], y))
}

pub(super) fn prepend_class(
    patches: &Tensor,
    class: &Tensor,
    positions: &Tensor,
) -> Result<Tensor> {
    const OP: &str = "prepend_class";
    let (width, tokens) = (patches.width(), positions.rows());
    let batch = patches.rows() / (tokens - 1);
    let (patches, class, positions) = (f32s(OP, patches)?, f32s(OP, class)?, f32s(OP, positions)?);
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

pub(super) fn prepend_class_backward(
    dy: &Tensor,
    len: usize,
    dpatches: Slot,
    dclass: Slot,
    dpositions: Slot,
) -> Result<()> {
    const OP: &str = "prepend_class";
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

pub(super) fn select_rows(x: &Tensor, index: &Tensor) -> Result<Tensor> {
    const OP: &str = "select_rows";
    let (width, rows) = (x.width(), x.rows());
    let (x, index) = (f32s(OP, x)?, i32s(OP, index)?);
    check_indices(OP, index, rows)?;
    let y = index
        .iter()
        .flat_map(|&i| &x[i as usize * width..][..width])
        .copied()
        .collect::<Vec<f32>>();
    Ok(tensor(&[index.len(), width], y))
}
