// Attention of one query an image: p = softmax(s K q), o = Σ_t p_t v_t; backward: dv_t = p_t do,
// dl = p ∘ (V do − Σ_t p_t (do·v_t)), dk_t = s dl_t q, dq = s Σ_t dl_t k_t, with s = 1/√dim. A workgroup takes a head of
// an image. Forward its logits lie where the probabilities go; backward tokens go by a chunk at a time.
#include math

// Tokens of a chunk.
const CHUNK = 2048u;
var<workgroup> scores: array<f32, CHUNK>;
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
  let row = block.x * tokens;
  var most = LOWEST;
  for (var token = thread; token < tokens; token += 128u) {
    var dot = 0.0;
    for (var i = 0u; i < dim; i++) { dot += f32(q[own + i]) * f32(k[first + token * width + i]); }
    probabilities[row + token] = dot * a.scale;
    most = max(most, dot * a.scale);
  }
  most = pool_max(thread, most);
  var sum = 0.0;
  for (var token = thread; token < tokens; token += 128u) {
    let p = exponential(probabilities[row + token] - most);
    probabilities[row + token] = p;
    sum += p;
  }
  let inverse = 1.0 / pool_sum(thread, sum);
  for (var token = thread; token < tokens; token += 128u) { probabilities[row + token] *= inverse; }
  // What other invocations wrote is read next.
  storageBarrier();
  for (var i = thread; i < dim; i += 128u) {
    var o = 0.0;
    for (var token = 0u; token < tokens; token++) { o += probabilities[row + token] * f32(v[first + token * width + i]); }
    out[own + i] = $T(o);
  }
#end

#if kernel attention_pool_backward_$T
// do·v of a token.
fn product_of(own: u32, token: u32, dim: u32) -> f32 {
  var dot = 0.0;
  for (var i = 0u; i < dim; i++) { dot += f32(dout[own + i]) * f32(v[token + i]); }
  return dot;
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
    along += probabilities[of_image + token] * product_of(own, first + token * width, dim);
  }
  let mean = pool_sum(thread, along);
  for (var start = 0u; start < tokens; start += CHUNK) {
    let count = min(CHUNK, tokens - start);
    workgroupBarrier();
    for (var t = thread; t < count; t += 128u) {
      let dot = product_of(own, first + (start + t) * width, dim);
      scores[t] = a.scale * probabilities[of_image + start + t] * (dot - mean);
    }
    workgroupBarrier();
    for (var e = thread; e < count * dim; e += 128u) {
      let t = e / dim;
      let i = e % dim;
      let at = first + (start + t) * width + i;
      if (a.dv != NONE) {
        let d = probabilities[of_image + start + t] * f32(dout[own + i]);
        dv[at] = $T(select(d, f32(dv[at]) + d, a.add_dv != 0));
      }
      if (a.dk != NONE) {
        let d = scores[t] * f32(q[own + i]);
        dk[at] = $T(select(d, f32(dk[at]) + d, a.add_dk != 0));
      }
    }
    if (a.dq != NONE) {
      for (var i = thread; i < dim; i += 128u) {
        var d = 0.0;
        for (var t = 0u; t < count; t++) { d += scores[t] * f32(k[first + (start + t) * width + i]); }
        dq[own + i] = $T(select(d, f32(dq[own + i]) + d, a.add_dq != 0 || start > 0u));
      }
    }
  }
#end
