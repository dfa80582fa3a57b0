//! Sums, scalings and the exponential.

use super::math;
use super::memory::Memory;
use super::parallel::over_rows;
use super::storage::{accumulator, f32s, f32s_mut, tensor};
use crate::backend::{Grad, Result, Slot, shape_error};
use crate::tensor::Tensor;

pub(super) fn accumulate(slot: &mut Grad, value: Tensor) -> Result<()> {
    let Some(sum) = slot else {
        *slot = Some(value);
        return Ok(());
    };
    if sum.shape() != value.shape() {
        return shape_error(
            "accumulate",
            format!("{:?} += {:?}", sum.shape(), value.shape()),
        );
    }
    let shape = value.shape().to_vec();
    let (sum, value) = (
        accumulator("accumulate", slot, &shape)?,
        f32s("accumulate", &value)?,
    );
    add_scaled(sum, value, 1.0);
    Ok(())
}

/// sum += factor · x.
fn add_scaled(sum: &mut [f32], x: &[f32], factor: f32) {
    over_rows(
        sum,
        1,
        #[inline(always)]
        |first, sum| {
            for (s, x) in sum.iter_mut().zip(&x[first..]) {
                *s += factor * x;
            }
        },
    );
}

pub(super) fn exp(x: &Tensor) -> Result<Tensor> {
    let values = f32s("exp", x)?;
    let mut y = vec![0.0; values.len()];
    over_rows(
        &mut y,
        1,
        #[inline(always)]
        |first, y| {
            for (y, &x) in y.iter_mut().zip(&values[first..]) {
                *y = math::exp(x);
            }
        },
    );
    Ok(tensor(x.shape(), y))
}

pub(super) fn exp_backward(dy: &Tensor, y: &Tensor, dx: Slot) -> Result<()> {
    let Some(dx) = dx else { return Ok(()) };
    let (dy, values) = (f32s("exp", dy)?, f32s("exp", y)?);
    for ((dx, dy), y) in accumulator("exp", dx, y.shape())?
        .iter_mut()
        .zip(dy)
        .zip(values)
    {
        *dx += dy * y;
    }
    Ok(())
}

pub(super) fn weighted_sum(terms: &[(&Tensor, f32)]) -> Result<Tensor> {
    let Some((first, _)) = terms.first() else {
        return shape_error("weighted_sum", "no terms");
    };
    let mut out = tensor(first.shape(), Memory::zeros(first.len()));
    let sum = f32s_mut("weighted_sum", &mut out)?;
    for (term, weight) in terms {
        add_scaled(sum, f32s("weighted_sum", term)?, *weight);
    }
    Ok(out)
}

pub(super) fn scale_backward(dy: &Tensor, factor: f32, dx: Slot) -> Result<()> {
    let Some(dx) = dx else { return Ok(()) };
    add_scaled(
        accumulator("scale", dx, dy.shape())?,
        f32s("scale", dy)?,
        factor,
    );
    Ok(())
}

pub(super) fn sum(x: &Tensor, factor: f32) -> Result<Tensor> {
    let total: f64 = f32s("sum", x)?.iter().map(|&v| f64::from(v)).sum();
    Ok(tensor(&[1], vec![(total * f64::from(factor)) as f32]))
}

pub(super) fn scale_by(
    scalar: &Tensor,
    factor: f32,
    x: Option<&Tensor>,
    n: usize,
) -> Result<Tensor> {
    let &[s] = f32s("scale_by", scalar)? else {
        return shape_error("scale_by", format!("scalar of shape {:?}", scalar.shape()));
    };
    let factor = s * factor;
    let y = match x {
        Some(x) => f32s("scale_by", x)?.iter().map(|v| v * factor).collect(),
        None => vec![factor; n],
    };
    Ok(tensor(&[n], y))
}
