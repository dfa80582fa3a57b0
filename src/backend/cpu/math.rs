//! Elementwise functions written so that the compiler vectorises loops over them: no branch, no
//! call into libm. Accuracy is asserted below against f64.

/// Number of independent partial sums in a reduction: one AVX-512 register of f32.
const LANES: usize = 16;

/// eˣ to 2 ulp for x in [-87.3, 88.7]; 0 below, saturated above. Argument reduction x = n ln 2 + r
/// with ln 2 split in two, and the degree-6 Taylor-like minimax of eʳ on |r| ≤ ln 2 / 2 (the
/// coefficients of Cephes' `expf`).
#[inline(always)]
#[allow(clippy::excessive_precision)] // Cephes' coefficients as published
pub(super) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.336, 88.72);
    // Added to a small number, 1.5·2²³ leaves its nearest integer in the low bits. A cast to i32
    // would saturate, which the compiler does element by element.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = clamped * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = n.mul_add(-0.693_359_375, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_15e-4_f32;
    p = p.mul_add(r, 1.398_199_95e-3);
    p = p.mul_add(r, 8.333_451_9e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_55e-1);
    p = p.mul_add(r, 5.000_000_1e-1);
    let e = p.mul_add(r * r, r) + 1.0;
    // 2ⁿ in two factors, because n = 128 alone is no finite f32.
    let n = shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i32;
    let half = n >> 1;
    let two = |k: i32| f32::from_bits((k.wrapping_add(127) as u32) << 23);
    let y = e * two(half) * two(n - half);
    if x < -87.336 { 0.0 } else { y }
}

/// Complementary error function to 1.2e-7 relative (the Chebyshev fit of Press et al., *Numerical
/// Recipes*, 2nd ed., §6.2, as `erfcc`), without the branch on the sign.
#[inline(always)]
pub(super) fn erfc(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / z.mul_add(0.5, 1.0);
    let mut p = 0.170_872_77_f32;
    p = p.mul_add(t, -0.822_152_23);
    p = p.mul_add(t, 1.488_515_9);
    p = p.mul_add(t, -1.135_204);
    p = p.mul_add(t, 0.278_868_07);
    p = p.mul_add(t, -0.186_288_06);
    p = p.mul_add(t, 0.096_784_18);
    p = p.mul_add(t, 0.374_091_96);
    p = p.mul_add(t, 1.000_023_7);
    p = p.mul_add(t, -1.265_512_2);
    let y = t * exp((-z).mul_add(z, p));
    if x < 0.0 { 2.0 - y } else { y }
}

/// x Φ(x).
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * erfc(-x * std::f32::consts::FRAC_1_SQRT_2)
}

/// Φ(x) + x φ(x).
#[inline(always)]
pub(super) fn gelu_derivative(x: f32) -> f32 {
    const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;
    let cdf = 0.5 * erfc(-x * std::f32::consts::FRAC_1_SQRT_2);
    x.mul_add(FRAC_1_SQRT_TAU * exp(-0.5 * x * x), cdf)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x σ(1.702 x).
#[inline(always)]
pub(super) fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(1.702 * x)
}

/// σ(1.702 x) (1 + 1.702 x (1 − σ(1.702 x))).
#[inline(always)]
pub(super) fn quick_gelu_derivative(x: f32) -> f32 {
    let s = sigmoid(1.702 * x);
    s * (1.702 * x).mul_add(1.0 - s, 1.0)
}

/// Σ f(a_i, b_i) with [`LANES`] partial sums.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_main, a_tail) = a.as_chunks::<LANES>();
    let (b_main, b_tail) = b.as_chunks::<LANES>();
    for (x, y) in a_main.iter().zip(b_main) {
        for l in 0..LANES {
            lanes[l] += f(x[l], y[l]);
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(&x, &y)| f(x, y)).sum();
    lanes.iter().sum::<f32>() + tail
}

/// Σ f(a_i) with [`LANES`] partial sums.
#[inline(always)]
pub(super) fn sum(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum2(a, a, |x, _| f(x))
}

/// Σ a_i b_i.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_main, a_tail) = a.as_chunks::<LANES>();
    let (b_main, b_tail) = b.as_chunks::<LANES>();
    for (x, y) in a_main.iter().zip(b_main) {
        for l in 0..LANES {
            lanes[l] = x[l].mul_add(y[l], lanes[l]);
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(&x, &y)| x * y).sum();
    lanes.iter().sum::<f32>() + tail
}

/// The largest element; −∞ of none.
#[inline(always)]
pub(super) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (main, tail) = a.as_chunks::<LANES>();
    for x in main {
        for l in 0..LANES {
            lanes[l] = if x[l] > lanes[l] { x[l] } else { lanes[l] };
        }
    }
    lanes
        .iter()
        .chain(tail)
        .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_to_two_ulp() {
        for i in -870_000..887_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.5e-7, "exp({x}) off by {error:e}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(1e9).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_agrees_with_libm_erf() {
        // Φ by Simpson's rule in f64: independent of the fit above.
        let phi = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        let cdf = |x: f64| {
            let n = 2000;
            let h = x / f64::from(n);
            let sum: f64 = (0..=n)
                .map(|i| {
                    let c = if i == 0 || i == n {
                        1.0
                    } else {
                        f64::from(2 + 2 * (i % 2))
                    };
                    c * phi(h * f64::from(i))
                })
                .sum();
            0.5 + sum * h / 3.0
        };
        for i in -80..=80 {
            let x = f64::from(i) * 0.1;
            assert!((f64::from(gelu(x as f32)) - x * cdf(x)).abs() < 1e-6 * (1.0 + x.abs()));
            let d = cdf(x) + x * phi(x);
            assert!((f64::from(gelu_derivative(x as f32)) - d).abs() < 1e-6);
        }
    }

    #[test]
    fn reductions_cover_their_tails() {
        for n in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 3) as f32).collect();
            let want: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
            assert_eq!(dot(&a, &b), want);
            assert_eq!(sum(&a, |x| x), a.iter().sum::<f32>());
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
