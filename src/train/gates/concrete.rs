//! The hard concrete distribution (Louizos et al., arXiv 1712.01312): a gate in [0, 1] that is exactly 0 or
//! exactly 1 with positive probability and still has a gradient. Its only parameter is the logit ln α:
//!
//! ```text
//! s = σ((ln u − ln(1 − u) + ln α) / β)   u uniform      z = min(1, max(0, s (ζ − γ) + γ))
//! P(z > 0) = σ(ln α − β ln(−γ/ζ))
//! ```
//!
//! Constants are TinyCLIP's (`L0Module`): β = 2/3, γ = −0.1, ζ = 1.1, all probabilities kept ε = 1e-6 from 0
//! and 1, and |ln α| at most ln 100.

const BETA: f64 = 2.0 / 3.0;
const GAMMA: f64 = -0.1;
const ZETA: f64 = 1.1;
const EPSILON: f64 = 1e-6;
/// How much a gate's own value is stretched when it is no longer drawn (TinyCLIP's `magical_number`).
const STRETCH: f64 = 0.8;

/// Largest |ln α|: ln 100. Gates begin here, open but for one in twenty draws.
pub(super) const LIMIT: f32 = 4.605_170_2;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A gate drawn by u in [0, 1), and its derivative by ln α: (ζ − γ) s (1 − s) / β, 0 where it is cut off.
pub(super) fn draw(logit: f64, u: f64) -> (f64, f64) {
    let u = EPSILON + (1.0 - 2.0 * EPSILON) * u;
    let s = sigmoid((u.ln() - (1.0 - u).ln() + logit) / BETA);
    let z = s * (ZETA - GAMMA) + GAMMA;
    match z {
        z if z <= 0.0 => (0.0, 0.0),
        z if z >= 1.0 => (1.0, 0.0),
        z => (z, (ZETA - GAMMA) * s * (1.0 - s) / BETA),
    }
}

/// P(z > 0), and its derivative by ln α.
pub(super) fn open(logit: f64) -> (f64, f64) {
    let p = sigmoid(logit - BETA * (-GAMMA / ZETA).ln());
    let inside = (EPSILON..=1.0 - EPSILON).contains(&p);
    let slope = if inside { p * (1.0 - p) } else { 0.0 };
    (p.clamp(EPSILON, 1.0 - EPSILON), slope)
}

/// The value of a gate that is kept for good: σ(0.8 ln α / β).
pub(super) fn kept(logit: f64) -> f64 {
    sigmoid(STRETCH * logit / BETA)
}
