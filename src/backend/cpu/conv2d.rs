//! Convolutions as matrix products: each output pixel's receptive field is a row (im2col), made block
//! by block where it is used, so that no more than a few hundred rows exist at any time.

use super::Cpu;
use super::gemm::{Products, View, gemm, gemm_from};
use super::memory::Memory;
use super::parallel::over_rows;
use super::storage::{f32s, overwritten, tensor};
use crate::backend::{Conv2d, Convolution, Result, Slot, Storage, shape_error};
use crate::tensor::Tensor;
use std::ops::Range;

const OP: &str = "conv2d";

/// Elements of one block of rows in the weight's gradient: 4 MiB.
const BLOCK: usize = 1 << 20;

/// Steps of which the weight's gradient takes whole multiples in a block.
const STEPS: usize = 256;

/// Receptive fields: for pixel (y, x) of a `target` image, the `kernel`² pixels of the source image at
/// (y·stride − padding + i, x·stride − padding + j). With `spread` s the source has s − 1 zeros
/// between neighbours, which is how a strided convolution's gradient looks back.
struct Fields<'a> {
    source: &'a [f32],
    /// Height, width, channels.
    sides: [usize; 3],
    /// Height, width.
    target: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
    spread: usize,
}

impl Fields<'_> {
    /// Elements of one field.
    fn len(&self) -> usize {
        self.kernel * self.kernel * self.sides[2]
    }

    /// Writes the fields of target pixels `rows`, counted over all images.
    fn fill(&self, rows: Range<usize>, out: &mut [f32]) {
        let [height, width, channels] = self.sides;
        let image_size = height * width * channels;
        for (row, field) in rows.zip(out.chunks_exact_mut(self.len())) {
            let (line, x) = (row / self.target[1], row % self.target[1]);
            let (image, y) = (line / self.target[0], line % self.target[0]);
            let image = &self.source[image * image_size..][..image_size];
            for (i, part) in field.chunks_exact_mut(self.kernel * channels).enumerate() {
                let Some(v) = self.place(y, i, height) else {
                    part.fill(0.0);
                    continue;
                };
                let line = &image[v * width * channels..][..width * channels];
                if self.spread == 1 {
                    self.neighbours(line, x, part);
                } else {
                    for (j, pixel) in part.chunks_exact_mut(channels).enumerate() {
                        match self.place(x, j, width) {
                            Some(u) => pixel.copy_from_slice(&line[u * channels..][..channels]),
                            None => pixel.fill(0.0),
                        }
                    }
                }
            }
        }
    }

    /// Where in a source side of `len` the `step`-th of a field's pixels is.
    fn place(&self, at: usize, step: usize, len: usize) -> Option<usize> {
        let spread = (at * self.stride + step).checked_sub(self.padding)?;
        let place = spread / self.spread;
        (spread.is_multiple_of(self.spread) && place < len).then_some(place)
    }

    /// One line of a field without spread: the pixels are contiguous, so they move together.
    fn neighbours(&self, line: &[f32], x: usize, part: &mut [f32]) {
        let channels = self.sides[2];
        let first =
            (x * self.stride * channels).cast_signed() - (self.padding * channels).cast_signed();
        let before = (-first).max(0).cast_unsigned().min(part.len());
        let from = first.max(0).cast_unsigned();
        let moved = line.len().saturating_sub(from).min(part.len() - before);
        part[..before].fill(0.0);
        part[before..before + moved].copy_from_slice(&line[from.min(line.len())..][..moved]);
        part[before + moved..].fill(0.0);
    }
}

fn sides(t: &Tensor) -> Result<[usize; 4]> {
    match *t.shape() {
        [batch, height, width, channels] => Ok([batch, height, width, channels]),
        _ => shape_error(
            OP,
            format!("{:?} is not [batch, h, w, channels]", t.shape()),
        ),
    }
}

fn fields<'a>(x: &'a Tensor, shape: Convolution) -> Result<(Fields<'a>, [usize; 3])> {
    let [batch, height, width, channels] = sides(x)?;
    let target = [shape.output(height), shape.output(width)];
    let fields = Fields {
        source: f32s(OP, x)?,
        sides: [height, width, channels],
        target,
        kernel: shape.kernel,
        stride: shape.stride,
        padding: shape.padding,
        spread: 1,
    };
    Ok((fields, [batch, target[0], target[1]]))
}

impl Conv2d for Cpu {
    fn conv2d(&self, x: &Tensor, w: &Tensor, shape: Convolution) -> Result<Tensor> {
        let (fields, [batch, height, width]) = fields(x, shape)?;
        let out = w.rows();
        let rows = batch * height * width;
        let filters = View::new(f32s(OP, w)?, out, fields.len()).t();
        let mut y = Memory::stale(rows * out);
        gemm_from(self.products, &mut y, rows, filters, |rows, made| {
            fields.fill(rows, made)
        });
        Ok(tensor(&[batch, height, width, out], y))
    }

    fn conv2d_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
        shape: Convolution,
        dx: Slot,
        dw: Slot,
    ) -> Result<()> {
        if let Some(dx) = dx {
            input_gradient(self.products, dy, x, w, shape, dx)?;
        }
        if let Some(dw) = dw {
            let (fields, [batch, height, width]) = fields(x, shape)?;
            let (out, len, rows) = (w.rows(), fields.len(), batch * height * width);
            let dy = f32s(OP, dy)?;
            let (dw, add) = overwritten(OP, dw, w.shape())?;
            if rows == 0 && !add {
                dw.fill(0.0);
            }
            let block = (BLOCK / len.max(1)).next_multiple_of(STEPS);
            let mut made = Memory::stale(block.min(rows) * len);
            for first in (0..rows).step_by(block) {
                let count = block.min(rows - first);
                let made = &mut made[..count * len];
                over_rows(made, len, |row, part| {
                    let row = first + row;
                    fields.fill(row..row + part.len() / len, part);
                });
                let d = View::new(&dy[first * out..][..count * out], count, out).t();
                gemm(
                    self.products,
                    dw,
                    add || first > 0,
                    d,
                    View::new(made, count, len),
                );
            }
        }
        Ok(())
    }
}

/// dx is the correlation of dy, spread by the stride, with the filters turned by half a circle and
/// their inputs and outputs exchanged.
fn input_gradient(
    products: Products,
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    shape: Convolution,
    dx: &mut crate::backend::Grad,
) -> Result<()> {
    let [batch, height, width, channels] = sides(x)?;
    let [_, from_height, from_width, out] = sides(dy)?;
    let taps = shape.kernel * shape.kernel;
    let filters = f32s(OP, w)?;
    let mut turned = Memory::stale(taps * out * channels);
    for (tap, part) in turned.chunks_exact_mut(out * channels).enumerate() {
        for (o, part) in part.chunks_exact_mut(channels).enumerate() {
            let from = (o * taps + taps - 1 - tap) * channels;
            part.copy_from_slice(&filters[from..][..channels]);
        }
    }
    let fields = Fields {
        source: f32s(OP, dy)?,
        sides: [from_height, from_width, out],
        target: [height, width],
        kernel: shape.kernel,
        stride: 1,
        padding: shape.kernel - 1 - shape.padding,
        spread: shape.stride,
    };
    let rows = batch * height * width;
    let filters = View::new(&turned, taps * out, channels);
    let fill = |rows: Range<usize>, made: &mut [f32]| fields.fill(rows, made);
    if dx.is_some() {
        let mut made = Memory::stale(rows * channels);
        gemm_from(products, &mut made, rows, filters, fill);
        Cpu { products }.accumulate(dx, tensor(x.shape(), made))
    } else {
        let (dx, _) = overwritten(OP, dx, x.shape())?;
        gemm_from(products, dx, rows, filters, fill);
        Ok(())
    }
}
