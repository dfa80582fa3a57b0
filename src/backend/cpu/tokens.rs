//! Moves of tokens: patches out of images, the class token or the mean in, single rows out.

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

pub(super) fn prepend_mean(x: &Tensor, positions: &Tensor) -> Result<Tensor> {
    const OP: &str = "prepend_mean";
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

pub(super) fn prepend_mean_backward(
    dy: &Tensor,
    shape: &[usize],
    dx: Slot,
    dpositions: Slot,
) -> Result<()> {
    const OP: &str = "prepend_mean";
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
                    let (mean, own) = (&dy[i * image..], &dy[i * image + (pixel + 1) * width..]);
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
