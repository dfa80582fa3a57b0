//! y = act(x Wᵀ + b) + r, with x `[rows, in]`, W `[out, in]` as PyTorch stores it, b `[out]` and the
//! residual r `[rows, out]`: the residual branch of a transformer block costs no pass of its own.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::backend::{Activation, LinearBackward};

/// act(x Wᵀ + b) + residual. See the module's documentation for the shapes.
///
/// # Errors
/// If the shapes do not fit, naming them.
pub fn linear(
    tape: &Tape,
    x: &Var,
    w: &Var,
    b: Option<&Var>,
    residual: Option<&Var>,
    act: Activation,
) -> Result<Var> {
    let rows = x.value().rows();
    let &[out, inner] = w.shape() else {
        return shape_error("linear", format!("weight {:?} is not [out, in]", w.shape()));
    };
    if x.value().width() != inner {
        return shape_error(
            "linear",
            format!("x {:?} against weight {:?}", x.shape(), w.shape()),
        );
    }
    if let Some(b) = b.filter(|b| b.shape() != [out]) {
        return shape_error(
            "linear",
            format!("bias {:?}, weight {:?}", b.shape(), w.shape()),
        );
    }
    if let Some(r) = residual.filter(|r| r.shape() != [rows, out]) {
        let detail = format!("residual {:?} for output {:?}", r.shape(), [rows, out]);
        return shape_error("linear", detail);
    }
    let mut inputs = vec![x, w];
    inputs.extend(b);
    inputs.extend(residual);
    let result = tape.backend().linear(
        x.value(),
        w.value(),
        b.map(Var::value),
        residual.map(Var::value),
        act,
        tape.tracks(&inputs),
    )?;
    // With z = x Wᵀ + b and dz = dy ∘ act′(z):  dx = dz W,  dW = dzᵀ x,  db = Σ_rows dz,  dr = dy.
    // dr comes last, because dy itself becomes the residual's gradient without being copied.
    let (xc, wc, bc, rc) = (x.keep(), w.clone(), b.cloned(), residual.cloned());
    let pre = result.pre.clone();
    let y = tape.record(result.y, &inputs, move |tape, grads, dy| {
        let (mut dx, mut dw) = (grads.take(&xc), grads.take(&wc));
        let mut db = bc.as_ref().and_then(|b| grads.take(b));
        tape.backend().linear_backward(
            LinearBackward {
                dy: &dy,
                x: &xc.value(tape.backend())?,
                w: wc.value(),
                pre: pre.as_ref(),
                act,
            },
            slot(&mut dx),
            slot(&mut dw),
            slot(&mut db),
        )?;
        grads.put(&xc, dx);
        grads.put(&wc, dw);
        if let Some(b) = &bc {
            grads.put(b, db);
        }
        match &rc {
            Some(r) => grads.add(tape.backend(), r, dy),
            None => Ok(()),
        }
    });
    // Of an MLP's hidden values, half of what a block would keep, the backward pass needs z alone.
    Ok(match (result.pre, residual) {
        (Some(pre), None) => y.made_by(move |backend| Ok(backend.activate(&pre, act)?)),
        _ => y,
    })
}
