//! y = act(x Wᵀ + b) + residual.

use super::gemm::{View, gemm};
use super::math;
use super::parallel::{column_sums, over_rows};
use super::storage::{accumulator, f32s, target, tensor};
use crate::backend::{Activation, Linear, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "linear";

/// y = f(pre). A plain loop with `f` inlined: an iterator's `for_each` may stay a call of its own,
/// compiled without the vector instructions of its caller.
#[inline(always)]
fn map(pre: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    for (y, &x) in y.iter_mut().zip(pre) {
        *y = f(x);
    }
}

/// d = dy · f(pre), as [`map`].
#[inline(always)]
fn map_product(pre: &[f32], dy: &[f32], d: &mut [f32], f: impl Fn(f32) -> f32) {
    for ((d, &x), dy) in d.iter_mut().zip(pre).zip(dy) {
        *d = dy * f(x);
    }
}

/// y = act(pre).
#[inline(always)]
fn activate(act: Activation, pre: &[f32], y: &mut [f32]) {
    match act {
        Activation::None => y.copy_from_slice(pre),
        Activation::Gelu => map(pre, y, math::gelu),
        Activation::QuickGelu => map(pre, y, math::quick_gelu),
    }
}

/// dpre = dy · act′(pre).
#[inline(always)]
fn activate_backward(act: Activation, pre: &[f32], dy: &[f32], dpre: &mut [f32]) {
    match act {
        Activation::None => dpre.copy_from_slice(dy),
        Activation::Gelu => map_product(pre, dy, dpre, math::gelu_derivative),
        Activation::QuickGelu => map_product(pre, dy, dpre, math::quick_gelu_derivative),
    }
}

pub(super) fn forward(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    residual: Option<&Tensor>,
    act: Activation,
    keep_pre: bool,
) -> Result<Linear> {
    let (rows, inner, out) = (x.rows(), x.width(), w.rows());
    let bias = b.map(|b| f32s(OP, b)).transpose()?;
    let residual = residual.map(|r| f32s(OP, r)).transpose()?;
    // Without activation, bias and residual are the product's initial value: no pass of their own.
    let fused_residual = residual.filter(|_| act == Activation::None);
    let mut pre = fused_residual.map_or_else(|| vec![0.0; rows * out], <[f32]>::to_vec);
    if let Some(bias) = bias {
        over_rows(
            &mut pre,
            out,
            #[inline(always)]
            |_, pre| {
                for row in pre.chunks_exact_mut(out) {
                    for (p, b) in row.iter_mut().zip(bias) {
                        *p += b;
                    }
                }
            },
        );
    }
    let add = bias.is_some() || fused_residual.is_some();
    let (xs, ws) = (
        View::new(f32s(OP, x)?, rows, inner),
        View::new(f32s(OP, w)?, out, inner),
    );
    gemm(&mut pre, add, 1.0, xs, ws.t());
    let shape = [rows, out];
    if act == Activation::None {
        return Ok(Linear {
            y: tensor(&shape, pre),
            pre: None,
        });
    }
    let mut y = vec![0.0; rows * out];
    over_rows(
        &mut y,
        out,
        #[inline(always)]
        |first, y| {
            let at = first * out..first * out + y.len();
            activate(act, &pre[at.clone()], y);
            if let Some(residual) = residual {
                for (y, r) in y.iter_mut().zip(&residual[at]) {
                    *y += r;
                }
            }
        },
    );
    Ok(Linear {
        y: tensor(&shape, y),
        pre: keep_pre.then(|| tensor(&shape, pre)),
    })
}

pub(super) fn backward(
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    pre: Option<&Tensor>,
    act: Activation,
    dx: Slot,
    dw: Slot,
    db: Slot,
) -> Result<()> {
    let (rows, inner, out) = (x.rows(), x.width(), w.rows());
    let dy = f32s(OP, dy)?;
    let dpre_storage;
    let dpre = match pre {
        None => dy,
        Some(pre) => {
            let pre = f32s(OP, pre)?;
            let mut dpre = vec![0.0; rows * out];
            over_rows(
                &mut dpre,
                out,
                #[inline(always)]
                |first, dpre| {
                    let at = first * out..first * out + dpre.len();
                    activate_backward(act, &pre[at.clone()], &dy[at], dpre);
                },
            );
            dpre_storage = dpre;
            &dpre_storage
        }
    };
    let d = View::new(dpre, rows, out);
    if let Some(dx) = dx {
        let (dx, add) = target(OP, dx, x.shape())?;
        gemm(dx, add, 1.0, d, View::new(f32s(OP, w)?, out, inner));
    }
    if let Some(dw) = dw {
        let (dw, add) = target(OP, dw, w.shape())?;
        gemm(dw, add, 1.0, d.t(), View::new(f32s(OP, x)?, rows, inner));
    }
    if let Some(db) = db {
        column_sums(
            rows,
            accumulator(OP, db, &[out])?,
            #[inline(always)]
            |r, sum| {
                for (s, d) in sum.iter_mut().zip(&dpre[r * out..]) {
                    *s += d;
                }
            },
        );
    }
    Ok(())
}

pub(super) fn matmul(x: &Tensor, p: &Tensor) -> Result<Tensor> {
    let (rows, inner, out) = (x.rows(), x.width(), p.width());
    let mut y = vec![0.0; rows * out];
    let (x, p) = (
        View::new(f32s(OP, x)?, rows, inner),
        View::new(f32s(OP, p)?, inner, out),
    );
    gemm(&mut y, false, 1.0, x, p);
    Ok(tensor(&[rows, out], y))
}

pub(super) fn matmul_backward(
    dy: &Tensor,
    x: &Tensor,
    p: &Tensor,
    dx: Slot,
    dp: Slot,
) -> Result<()> {
    let (rows, inner, out) = (x.rows(), x.width(), p.width());
    let dy = View::new(f32s(OP, dy)?, rows, out);
    if let Some(dx) = dx {
        let (dx, add) = target(OP, dx, x.shape())?;
        gemm(dx, add, 1.0, dy, View::new(f32s(OP, p)?, inner, out).t());
    }
    if let Some(dp) = dp {
        let (dp, add) = target(OP, dp, p.shape())?;
        gemm(dp, add, 1.0, View::new(f32s(OP, x)?, rows, inner).t(), dy);
    }
    Ok(())
}
