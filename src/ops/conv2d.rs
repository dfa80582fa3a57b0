//! Convolution (cross-correlation, as PyTorch's) without bias over NHWC images:
//! y[b, i, j, o] = Σ_{u, v, c} x[b, i·s + u − p, j·s + v − p, c] w[o, (u, v, c)], zero outside the image.
//! x `[batch, h, w, in]`, w `[out, kernel·kernel·in]` with each filter in (y, x, channel) order, y
//! `[batch, h′, w′, out]` with h′ = ⌊(h + 2p − kernel) / s⌋ + 1.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, Convolution, LinearBackward};

/// The convolution of x with the filters w. One of a single pixel is a linear layer over pixels and
/// runs as one.
///
/// # Errors
/// If the shapes do not fit, or no filter fits into the image.
pub fn conv2d(tape: &Tape, x: &Var, w: &Var, shape: Convolution) -> Result<Var> {
    let (&[batch, h, width, inputs], &[out, filter]) = (x.shape(), w.shape()) else {
        let detail = format!("x {:?} against filters {:?}", x.shape(), w.shape());
        return shape_error("conv2d", detail);
    };
    let Convolution {
        kernel,
        stride,
        padding,
    } = shape;
    if stride == 0 || padding >= kernel || kernel * kernel * inputs != filter {
        let detail = format!(
            "x {:?} against filters {:?} of {kernel}×{kernel}, stride {stride}, padding {padding}",
            x.shape(),
            w.shape()
        );
        return shape_error("conv2d", detail);
    }
    let sides = [shape.output(h), shape.output(width)];
    if sides.contains(&0) {
        let detail = format!(
            "x {:?} is smaller than a {kernel}×{kernel} filter",
            x.shape()
        );
        return shape_error("conv2d", detail);
    }
    let backend = tape.backend();
    let pointwise = (kernel, stride) == (1, 1);
    let y = if pointwise {
        let none = Activation::None;
        let y = backend.linear(x.value(), w.value(), None, None, none, false)?;
        let y = y.y.reshaped(&[batch, h, width, out]);
        match y {
            Some(y) => y,
            None => return shape_error("conv2d", "linear gave another size".into()),
        }
    } else {
        backend.conv2d(x.value(), w.value(), shape)?
    };
    // An input meets output (i, j) through tap (u, v) where it is at (i·s + u − p, j·s + v − p), so
    //   dx[b, k, l, c] = Σ_{u, v, o} dy[b, (k − u + p)/s, (l − v + p)/s, o] w[o, (u, v, c)]
    // over the taps for which the indices are whole: a convolution of dy, spread by s, with the
    // filters turned round. And dw[o, (u, v, c)] = Σ_{b, i, j} dy[b, i, j, o] x[b, i·s+u−p, j·s+v−p, c].
    let (xc, wc) = (x.clone(), w.clone());
    Ok(tape.record(y, &[x, w], move |tape, grads, dy| {
        let (mut dx, mut dw) = (grads.take(&xc), grads.take(&wc));
        let (dx_slot, dw_slot) = (slot(&mut dx), slot(&mut dw));
        let (x, w, backend) = (xc.value(), wc.value(), tape.backend());
        if pointwise {
            let none = Activation::None;
            backend.linear_backward(
                LinearBackward {
                    dy: &dy,
                    x,
                    w,
                    pre: None,
                    act: none,
                },
                dx_slot,
                dw_slot,
                None,
            )?;
        } else {
            backend.conv2d_backward(&dy, x, w, shape, dx_slot, dw_slot)?;
        }
        grads.put(&xc, dx);
        grads.put(&wc, dw);
        Ok(())
    }))
}
