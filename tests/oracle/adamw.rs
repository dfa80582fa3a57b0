//! AdamW as PyTorch does it: decoupled weight decay first, then the bias-corrected step.

use super::Array;

#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

/// A parameter's running moments.
#[derive(Clone, Debug)]
pub struct Moments {
    pub first: Array,
    pub second: Array,
}

impl Moments {
    pub fn zeros(shape: &[usize]) -> Self {
        Self {
            first: Array::zeros(shape),
            second: Array::zeros(shape),
        }
    }
}

/// One step; `t` is its number, 1 for the first.
///
/// p ← p (1 − lr·wd);  m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²;
/// p ← p − lr · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
pub fn step(
    parameter: &mut Array,
    moments: &mut Moments,
    gradient: &Array,
    t: i32,
    options: &AdamW,
) {
    assert_eq!(parameter.shape, gradient.shape);
    let AdamW {
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
    } = *options;
    for (e, &g) in gradient.data.iter().enumerate() {
        let p = &mut parameter.data[e];
        let m = &mut moments.first.data[e];
        let v = &mut moments.second.data[e];
        *p *= 1.0 - lr * weight_decay;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        let corrected_m = *m / (1.0 - beta1.powi(t));
        let corrected_v = *v / (1.0 - beta2.powi(t));
        *p -= lr * corrected_m / (corrected_v.sqrt() + eps);
    }
}

/// The parameter after each of a sequence of steps from zero moments.
pub fn sequence(start: &Array, gradients: &[Array], options: &AdamW) -> Vec<Array> {
    let mut parameter = start.clone();
    let mut moments = Moments::zeros(&start.shape);
    (1..)
        .zip(gradients)
        .map(|(t, gradient)| {
            step(&mut parameter, &mut moments, gradient, t, options);
            parameter.clone()
        })
        .collect()
}
