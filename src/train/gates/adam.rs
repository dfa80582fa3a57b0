//! Adam (Kingma and Ba, arXiv 1412.6980) with PyTorch's constants, for a few thousand numbers on the host.

/// Moments of some numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Adam {
    pub(super) m: Vec<f32>,
    pub(super) v: Vec<f32>,
}

impl Adam {
    const BETA1: f64 = 0.9;
    const BETA2: f64 = 0.999;
    const EPS: f64 = 1e-8;

    pub(super) fn new(n: usize) -> Self {
        Self {
            m: vec![0.0; n],
            v: vec![0.0; n],
        }
    }

    /// Moves `values` against the gradient, or along it if `rate` is negative; `step` counts from 1.
    pub(super) fn step(&mut self, values: &mut [f32], gradient: &[f64], rate: f64, step: u64) {
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let (first, second) = (correction(Self::BETA1), correction(Self::BETA2));
        let moments = self.m.iter_mut().zip(&mut self.v);
        for ((value, (m, v)), g) in values.iter_mut().zip(moments).zip(gradient) {
            let mean = Self::BETA1 * f64::from(*m) + (1.0 - Self::BETA1) * g;
            let square = Self::BETA2 * f64::from(*v) + (1.0 - Self::BETA2) * g * g;
            let length = mean / first / ((square / second).sqrt() + Self::EPS);
            (*m, *v) = (mean as f32, square as f32);
            *value = (f64::from(*value) - rate * length) as f32;
        }
    }
}
