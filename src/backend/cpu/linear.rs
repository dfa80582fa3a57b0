//! y = act(x Wᵀ + b) + residual.

use super::Cpu;
use super::gemm::{View, gemm, gemm_then};
use super::math;
use super::memory::Memory;
use super::parallel::{Disjoint, column_sums, over_rows};
use super::storage::{accumulator, f32s, overwritten, tensor};
use crate::backend::{Activation, Linear, LinearBackward, LinearOutput, Result, Slot};
use crate::tensor::Tensor;

const OP: &str = "linear";

/// x = f(x). A plain loop with `f` inlined: an iterator's `for_each` may stay a call of its own,
/// compiled without the vector instructions of its caller.
#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

/// x += y from `first` on, if there is a y.
#[inline(always)]
fn plus(x: &mut [f32], y: Option<&[f32]>, first: usize) {
    if let Some(y) = y {
        for (x, y) in x.iter_mut().zip(&y[first..]) {
            *x += y;
        }
    }
}

/// d = dy · f(pre), as [`map`].
#[inline(always)]
fn map_product(pre: &[f32], dy: &[f32], d: &mut [f32], f: impl Fn(f32) -> f32) {
    for ((d, &x), dy) in d.iter_mut().zip(pre).zip(dy) {
        *d = dy * f(x);
    }
}

/// x = act(x).
#[inline(always)]
fn activate_in_place(act: Activation, x: &mut [f32]) {
    match act {
        Activation::None => {}
        Activation::Gelu => map(x, math::gelu),
        Activation::QuickGelu => map(x, math::quick_gelu),
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

impl Linear for Cpu {
    fn linear(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        residual: Option<&Tensor>,
        act: Activation,
        keep_pre: bool,
    ) -> Result<LinearOutput> {
        let (rows, inner, out) = (x.rows(), x.width(), w.rows());
        let bias = b.map(|b| f32s(OP, b)).transpose()?;
        let residual = residual.map(|r| f32s(OP, r)).transpose()?;
        let (xs, ws) = (
            View::new(f32s(OP, x)?, rows, inner),
            View::new(f32s(OP, w)?, out, inner).t(),
        );
        let mut y = Memory::stale(rows * out);
        if act == Activation::None || !keep_pre {
            gemm_then(
                self.products,
                &mut y,
                false,
                xs,
                ws,
                #[inline(always)]
                |row, col, part| {
                    plus(part, bias, col);
                    activate_in_place(act, part);
                    plus(part, residual, row * out + col);
                },
            );
            return Ok(LinearOutput {
                y: tensor(&[rows, out], y),
                pre: None,
            });
        }
        let mut pre = Memory::stale(rows * out);
        let at = Disjoint(y.as_mut_ptr());
        gemm_then(
            self.products,
            &mut pre,
            false,
            xs,
            ws,
            #[inline(always)]
            |row, col, part| {
                plus(part, bias, col);
                // SAFETY: `y` has the shape of `pre`, whose parts are disjoint.
                let y =
                    unsafe { std::slice::from_raw_parts_mut(at.at(row * out + col), part.len()) };
                y.copy_from_slice(part);
                activate_in_place(act, y);
                plus(y, residual, row * out + col);
            },
        );
        Ok(LinearOutput {
            y: tensor(&[rows, out], y),
            pre: Some(tensor(&[rows, out], pre)),
        })
    }

    fn linear_backward(&self, of: LinearBackward, dx: Slot, dw: Slot, db: Slot) -> Result<()> {
        let LinearBackward { dy, x, w, pre, act } = of;
        let (rows, inner, out) = (x.rows(), x.width(), w.rows());
        let dy = f32s(OP, dy)?;
        let dpre_storage;
        let dpre = match pre {
            None => dy,
            Some(pre) => {
                let pre = f32s(OP, pre)?;
                let mut dpre = Memory::stale(rows * out);
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
            let (dx, add) = overwritten(OP, dx, x.shape())?;
            gemm(
                self.products,
                dx,
                add,
                d,
                View::new(f32s(OP, w)?, out, inner),
            );
        }
        if let Some(dw) = dw {
            let (dw, add) = overwritten(OP, dw, w.shape())?;
            gemm(
                self.products,
                dw,
                add,
                d.t(),
                View::new(f32s(OP, x)?, rows, inner),
            );
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

    fn activate(&self, pre: &Tensor, act: Activation) -> Result<Tensor> {
        let x = f32s(OP, pre)?;
        let mut y = Memory::stale(x.len());
        over_rows(
            &mut y,
            pre.width(),
            #[inline(always)]
            |first, y| {
                y.copy_from_slice(&x[first * pre.width()..][..y.len()]);
                activate_in_place(act, y);
            },
        );
        Ok(tensor(pre.shape(), y))
    }
}
