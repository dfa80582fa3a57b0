// Functions whose accuracy WGSL does not promise.
#include common

// 2ⁿ for −126 ≤ n ≤ 127.
fn power_of_two(n: i32) -> f32 {
  return bitcast<f32>(u32(n + 127) << 23u);
}

fn is_nan(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// eʳ − 1 for |r| ≤ 0.35: its Taylor series to r⁷, whose next term is 1e-8 of it.
fn exponential_near_0(r: f32) -> f32 {
  var p = 1.98412698e-4;
  p = fma(p, r, 1.38888889e-3);
  p = fma(p, r, 8.33333333e-3);
  p = fma(p, r, 4.16666667e-2);
  p = fma(p, r, 1.66666667e-1);
  p = fma(p, r, 0.5);
  return fma(p, r * r, r);
}

// eˣ to 2 units in the last place for all x, where WGSL's own may be off by 3 + 2|x| of them: at a logit of −100 that
// would be 1e-5 of it. With n = round(x / ln 2) and r = x − n ln 2, |r| ≤ 0.35, it is 2ⁿ eʳ; n times the first part of
// ln 2, which has 9 bits, is exact.
fn exponential(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  let bounded = clamp(x, -104.0, 89.0);
  let n = round(bounded * 1.44269504);
  let r = (bounded - n * 0.693359375) + n * 2.12194440e-4;
  // In two factors: 2ⁿ alone may be beyond f32 where the product is not.
  let half = i32(n) / 2;
  return (exponential_near_0(r) + 1.0) * power_of_two(half) * power_of_two(i32(n) - half);
}

// eˣ − 1.
fn exponential_minus_1(x: f32) -> f32 {
  if (abs(x) < 0.35) { return exponential_near_0(x); }
  return exponential(x) - 1.0;
}

// ln x for a normal x > 0, to 2 units in the last place, where WGSL's own may be off by 2⁻²¹ near 1: as `pair_log`, in f32.
fn logarithm(x: f32) -> f32 {
  let exponent = i32(bitcast<u32>(x) - 0x3f3504f3u) >> 23u;
  let f = x * power_of_two(-exponent) - 1.0;
  let t = f / (2.0 + f);
  let u = t * t;
  let series = fma(fma(fma(fma(0.0909090909, u, 0.111111111), u, 0.142857143), u, 0.2), u, 0.333333333);
  let e = f32(exponent);
  return fma(e, 0.693359375, 2.0 * fma(t * u, series, t) - e * 2.12194440e-4);
}

// 1 − erf(x) to 1.2e-7 of it (Press et al., Numerical Recipes, 2nd ed., §6.2, as `erfcc`), as on the CPU.
fn error_complement(x: f32) -> f32 {
  let z = abs(x);
  let t = 1.0 / fma(z, 0.5, 1.0);
  var p = 0.17087277;
  p = fma(p, t, -0.82215223);
  p = fma(p, t, 1.4885159);
  p = fma(p, t, -1.135204);
  p = fma(p, t, 0.27886807);
  p = fma(p, t, -0.18628806);
  p = fma(p, t, 0.09678418);
  p = fma(p, t, 0.37409196);
  p = fma(p, t, 1.0000237);
  p = fma(p, t, -1.2655122);
  let tail = t * exponential(fma(-z, z, p));
  return select(tail, 2.0 - tail, x < 0.0);
}
