// Attention of one query an image: p = softmax(s K q), o = Σ_t p_t v_t; backward: dv_t = p_t do,
// dl = p ∘ (V do − Σ_t p_t (do·v_t)), dk_t = s dl_t q, dq = s Σ_t dl_t k_t, with s = 1/√dim. A workgroup takes a head of
// an image. Its logits go by in `scores`, of at most MOST tokens at a time.
#include math

// Tokens of an image that the kernels take.
const MOST = 2048u;
var<workgroup> scores: array<f32, MOST>;
var<workgroup> pool_scratch: array<f32, 128>;

fn pool_sum(thread: u32, v: f32) -> f32 {
  pool_scratch[thread] = v;
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < 128u; i++) { total += pool_scratch[i]; }
  workgroupBarrier();
  return total;
}

fn pool_max(thread: u32, v: f32) -> f32 {
  pool_scratch[thread] = v;
  workgroupBarrier();
  var most = pool_scratch[0];
  for (var i = 1u; i < 128u; i++) { most = max(most, pool_scratch[i]); }
  workgroupBarrier();
  return most;
}

#kernel attention_pool_$T AttentionPoolArguments 128
#buffer q array<$T>
#buffer k array<$T>
#buffer v array<$T>
#buffer out array<$T>
#buffer probabilities array<f32>
  let heads = u32(a.heads);
  let dim = u32(a.dim);
  let tokens = u32(a.tokens);
  let width = heads * dim;
  let own = block.x / heads * width + block.x % heads * dim;
  let first = block.x / heads * tokens * width + block.x % heads * dim;
  var most = LOWEST;
  for (var token = thread; token < tokens; token += 128u) {
    var dot = 0.0;
    for (var i = 0u; i < dim; i++) { dot += f32(q[own + i]) * f32(k[first + token * width + i]); }
    scores[token] = dot * a.scale;
    most = max(most, dot * a.scale);
  }
  most = pool_max(thread, most);
  var sum = 0.0;
  for (var token = thread; token < tokens; token += 128u) {
    let p = exponential(scores[token] - most);
    scores[token] = p;
    sum += p;
  }
  let inverse = 1.0 / pool_sum(thread, sum);
  for (var token = thread; token < tokens; token += 128u) {
    let p = scores[token] * inverse;
    scores[token] = p;
    probabilities[block.x * tokens + token] = p;
  }
  workgroupBarrier();
  for (var i = thread; i < dim; i += 128u) {
    var o = 0.0;
    for (var token = 0u; token < tokens; token++) { o += scores[token] * f32(v[first + token * width + i]); }
    out[own + i] = $T(o);
  }
#end

#kernel attention_pool_backward_$T AttentionPoolBackwardArguments 128
#buffer dout array<$T>
#buffer q array<$T>
#buffer k array<$T>
#buffer v array<$T>
#buffer probabilities array<f32>
#buffer dq array<$T>
#buffer dk array<$T>
#buffer dv array<$T>
  let heads = u32(a.heads);
  let dim = u32(a.dim);
  let tokens = u32(a.tokens);
  let width = heads * dim;
  let own = block.x / heads * width + block.x % heads * dim;
  let first = block.x / heads * tokens * width + block.x % heads * dim;
  let of_image = block.x * tokens;
  var along = 0.0;
  for (var token = thread; token < tokens; token += 128u) {
    var dot = 0.0;
    for (var i = 0u; i < dim; i++) { dot += f32(dout[own + i]) * f32(v[first + token * width + i]); }
    scores[token] = dot;
    along += probabilities[of_image + token] * dot;
  }
  let mean = pool_sum(thread, along);
  for (var token = thread; token < tokens; token += 128u) {
    scores[token] = a.scale * probabilities[of_image + token] * (scores[token] - mean);
  }
  workgroupBarrier();
  for (var e = thread; e < tokens * dim; e += 128u) {
    let token = e / dim;
    let i = e % dim;
    let at = first + token * width + i;
    if (a.dv != NONE) {
      let d = probabilities[of_image + token] * f32(dout[own + i]);
      dv[at] = $T(select(d, f32(dv[at]) + d, a.add_dv != 0));
    }
    if (a.dk != NONE) {
      let d = scores[token] * f32(q[own + i]);
      dk[at] = $T(select(d, f32(dk[at]) + d, a.add_dk != 0));
    }
  }
  if (a.dq != NONE) {
    for (var i = thread; i < dim; i += 128u) {
      var d = 0.0;
      for (var token = 0u; token < tokens; token++) { d += scores[token] * f32(k[first + token * width + i]); }
      dq[own + i] = $T(select(d, f32(dq[own + i]) + d, a.add_dq != 0));
    }
  }
#end
