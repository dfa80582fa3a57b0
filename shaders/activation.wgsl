// Activations and their derivatives.
#include math

// Of `Activation`, by number. GELU is the exact one: x Φ(x), Φ(x) = (1 + erf(x/√2)) / 2, Φ′(x) = exp(−x²/2) / √2π.
// QuickGELU is x σ(1.702 x), σ′ = σ (1 − σ).
const GELU = 1u;
const QUICK = 1.702;

fn normal_cdf(x: f32) -> f32 { return 0.5 * error_complement(-0.70710678 * x); }
fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exponential(-x)); }

fn activation(kind: u32, x: f32) -> f32 {
  if (kind == GELU) { return x * normal_cdf(x); }
  return x * sigmoid(QUICK * x);
}

fn derivative(kind: u32, x: f32) -> f32 {
  if (kind == GELU) { return normal_cdf(x) + x * 0.39894228 * exponential(-0.5 * x * x); }
  let s = sigmoid(QUICK * x);
  return s + QUICK * x * s * (1.0 - s);
}
