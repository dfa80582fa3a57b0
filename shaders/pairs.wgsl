// Numbers of 48 bits as pairs of f32, the second below half a unit of the first: where CUDA's kernels take f64, which
// WGSL does not have.
//
// What is exact here is so only as it is written, and WGSL lets a compiler reorder sums. `opaque` ends that: it flips no
// bit of a number, which no compiler can know: `a.fold`, which comes with the launch, is below 2¹⁶.
#include math

fn opaque(x: f32) -> f32 {
  return bitcast<f32>(bitcast<u32>(x) ^ (a.fold >> 31u));
}

// x + y exactly (Knuth, The Art of Computer Programming, volume 2, 4.2.2).
fn two_sum(x: f32, y: f32) -> vec2<f32> {
  let s = opaque(x + y);
  let t = opaque(s - x);
  return vec2<f32>(s, (x - opaque(s - t)) + (y - t));
}

// x · y exactly, by halves of 12 bits (Dekker, Numerische Mathematik 18, 1971).
fn two_product(x: f32, y: f32) -> vec2<f32> {
  let p = opaque(x * y);
  let x_split = opaque(4097.0 * x);
  let x_high = opaque(x_split - opaque(x_split - x));
  let x_low = x - x_high;
  let y_split = opaque(4097.0 * y);
  let y_high = opaque(y_split - opaque(y_split - y));
  let y_low = y - y_high;
  let error = opaque(opaque(x_high * y_high) - p) + opaque(x_high * y_low) + opaque(x_low * y_high);
  return vec2<f32>(p, error + x_low * y_low);
}

// The pair of a sum whose second term is small beside the first.
fn pair(high: f32, low: f32) -> vec2<f32> {
  let s = opaque(high + low);
  return vec2<f32>(s, low - opaque(s - high));
}

fn pair_add(p: vec2<f32>, q: vec2<f32>) -> vec2<f32> {
  let s = two_sum(p.x, q.x);
  return pair(s.x, s.y + (p.y + q.y));
}

fn pair_sub(p: vec2<f32>, q: vec2<f32>) -> vec2<f32> {
  return pair_add(p, -q);
}

fn pair_mul(p: vec2<f32>, q: vec2<f32>) -> vec2<f32> {
  let s = two_product(p.x, q.x);
  return pair(s.x, s.y + (p.x * q.y + p.y * q.x));
}

fn pair_scale(p: vec2<f32>, x: f32) -> vec2<f32> {
  return pair_mul(p, vec2<f32>(x, 0.0));
}

fn pair_div(p: vec2<f32>, q: vec2<f32>) -> vec2<f32> {
  let first = p.x / q.x;
  let rest = pair_sub(p, pair_scale(q, first));
  return pair(first, rest.x / q.x);
}

fn pair_sqrt(p: vec2<f32>) -> vec2<f32> {
  if (!(p.x > 0.0)) { return vec2<f32>(sqrt(p.x), 0.0); }
  let first = sqrt(p.x);
  let rest = pair_sub(p, two_product(first, first));
  return pair(first, 0.5 * rest.x / first);
}

// ln p for p > 0. With p = 2ᵉ m, m next to 1, and t = (m − 1) / (m + 1): 2 (t + t³/3 + t⁵/5 + …), |t| ≤ 0.172, of which
// only the first term is worth a pair.
fn pair_log(p: vec2<f32>) -> vec2<f32> {
  let bits = bitcast<u32>(p.x);
  // So that m is between √½ and √2.
  let exponent = (i32(bits - 0x3f3504f3u) >> 23u);
  let m = p * power_of_two(-exponent);
  let f = pair_add(m, vec2<f32>(-1.0, 0.0));
  let t = pair_div(f, pair_add(f, vec2<f32>(2.0, 0.0)));
  let u = t.x * t.x;
  let series = fma(fma(fma(fma(0.0909090909, u, 0.111111111), u, 0.142857143), u, 0.2), u, 0.333333333);
  let near = pair_add(2.0 * t, vec2<f32>(2.0 * t.x * u * series, 0.0));
  let e = f32(exponent);
  // ln 2, its first part of 9 bits.
  let whole = pair_add(vec2<f32>(e * 0.693359375, 0.0), pair_scale(vec2<f32>(-2.12194440e-4, 0.0), e));
  return pair_add(whole, near);
}

var<workgroup> pair_scratch: array<vec2<f32>, 256>;

// Σ over a workgroup of 256, for each invocation.
fn pair_sum_of_256(thread: u32, p: vec2<f32>) -> vec2<f32> {
  pair_scratch[thread] = p;
  workgroupBarrier();
  var part = vec2<f32>();
  if (thread < 16u) {
    for (var i = 0u; i < 16u; i++) { part = pair_add(part, pair_scratch[thread * 16u + i]); }
  }
  workgroupBarrier();
  if (thread < 16u) { pair_scratch[thread] = part; }
  workgroupBarrier();
  var total = vec2<f32>();
  for (var i = 0u; i < 16u; i++) { total = pair_add(total, pair_scratch[i]); }
  workgroupBarrier();
  return total;
}
