//! y = act(x Wᵀ + b) + r, with x [.., in], W [out, in], b [out] and r like y.

use super::{Array, dot};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    None,
    /// x Φ(x), exact.
    Gelu,
    /// x σ(1.702 x).
    QuickGelu,
}

impl Activation {
    pub const ALL: [Self; 3] = [Self::None, Self::Gelu, Self::QuickGelu];

    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::None => x,
            Self::Gelu => gelu(x),
            Self::QuickGelu => quick_gelu(x),
        }
    }
}

pub fn linear(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    activation: Activation,
    residual: Option<&Array>,
) -> Array {
    let outputs = weight.rows();
    let mut shape = x.shape.clone();
    *shape.last_mut().unwrap() = outputs;
    let mut y = Array::zeros(&shape);
    for i in 0..x.rows() {
        for o in 0..outputs {
            let product = dot(x.row(i), weight.row(o)) + bias.map_or(0.0, |b| b.data[o]);
            let added = residual.map_or(0.0, |r| r.data[i * outputs + o]);
            y.data[i * outputs + o] = activation.apply(product) + added;
        }
    }
    y
}

pub fn gelu(x: f64) -> f64 {
    x * 0.5 * erfc(-x * FRAC_1_SQRT_2)
}

pub fn quick_gelu(x: f64) -> f64 {
    x / (1.0 + (-1.702 * x).exp())
}

/// The error function, to the last digits of f64.
pub fn erf(x: f64) -> f64 {
    if x.abs() < 2.0 {
        erf_series(x)
    } else {
        x.signum() * (1.0 - erfc_fraction(x.abs()))
    }
}

/// 1 − erf(x), with all its digits where erf(x) is nearly one.
pub fn erfc(x: f64) -> f64 {
    if x < 1.0 {
        1.0 - erf(x)
    } else {
        erfc_fraction(x)
    }
}

/// 2/√π e^(−x²) Σ_n 2ⁿ x^(2n+1) / (1·3·…·(2n+1)): all terms of one sign, so nothing cancels.
fn erf_series(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    let mut n = 0.0;
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// e^(−x²)/√π · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/(x + …)))), from the tail up, for x ≥ 1.
fn erfc_fraction(x: f64) -> f64 {
    let mut tail = x;
    for n in (1..=400).rev() {
        tail = x + 0.5 * f64::from(n) / tail;
    }
    (-x * x).exp() / (PI.sqrt() * tail)
}
