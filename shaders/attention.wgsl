// O = softmax(s Q Kᵀ) V, s = 1/√dim, within each segment and head, causal or not; kept for backward: one log-sum-exp a
// row. With P = exp(s Q Kᵀ − lse) and D_i = Σ dO_i ∘ O_i:
//   dV = Pᵀ dO,   dS = P ∘ (dO Vᵀ − D),   dQ = s dS K,   dK = s dSᵀ Q.
//
// A workgroup owns rows, one an invocation, whose vectors stay in registers; the others go by in tiles of STREAM rows,
// once (Dao, arXiv 2307.08691), and nothing of L × L is stored. All invocations read the same row of a tile at a time.
// Backward has two kernels: one owns queries (D and dQ), one owns keys (dK and dV), so that nothing is summed by several
// workgroups.
//
// Heads of other widths are padded with zeros to 32, 64 or 128.
#include math
#values D 32 64 128

#if D == 128
const ROWS = 32u;
const STREAM = 16u;
#else
const ROWS = 64u;
const STREAM = 32u;
#end
// Vectors of four of a head.
const VECTORS = $Du / 4u;

var<workgroup> one_tile: array<vec4<f32>, STREAM * VECTORS>;
var<workgroup> other_tile: array<vec4<f32>, STREAM * VECTORS>;

// Vector d of row j of a tile, after `turn_to` this row. All invocations read the same. On a processor each would load it
// for itself: there the 8 of a subgroup load a vector each, and see one another's.
#if P == yes
var<private> one_row: array<vec4<f32>, VECTORS>;
var<private> other_row: array<vec4<f32>, VECTORS>;

fn turn_to(thread: u32, j: u32) {
  let at = j * VECTORS + thread % 8u;
#each E 0 1 2 3
  if ($Eu * 8u < VECTORS) {
    let one = one_tile[at + $Eu * 8u];
    let other = other_tile[at + $Eu * 8u];
#each I 0 1 2 3 4 5 6 7
    one_row[min($Eu * 8u + $Iu, VECTORS - 1u)] = subgroupBroadcast(one, $Iu);
    other_row[min($Eu * 8u + $Iu, VECTORS - 1u)] = subgroupBroadcast(other, $Iu);
#end
  }
#end
}

fn one_at(j: u32, d: u32) -> vec4<f32> { return one_row[d]; }
fn other_at(j: u32, d: u32) -> vec4<f32> { return other_row[d]; }
#else
fn turn_to(thread: u32, j: u32) {}
fn one_at(j: u32, d: u32) -> vec4<f32> { return one_tile[j * VECTORS + d]; }
fn other_at(j: u32, d: u32) -> vec4<f32> { return other_tile[j * VECTORS + d]; }
#end

// The rows of one segment and head that a workgroup owns.
struct Place {
  head: u32,
  // First token of the segment, and its number of tokens.
  start: u32,
  length: u32,
  // First row, counted within the segment.
  row: u32,
}

// Workgroup b·heads + h takes head h of tile b. Segment s owns the tiles from ⌊offset_s / ROWS⌋ + s on: at least
// ⌈length / ROWS⌉, at most one more, which has nothing to do.
fn find_place(block: u32) -> Place {
  let tile = block / u32(a.heads);
  var low = 0u;
  var high = u32(a.segments) - 1u;
  while (low < high) {
    let middle = (low + high + 1u) / 2u;
    if (u32(offsets[middle]) / ROWS + middle <= tile) { low = middle; } else { high = middle - 1u; }
  }
  let start = u32(offsets[low]);
  return Place(block % u32(a.heads), start, u32(offsets[low + 1u]) - start, (tile - start / ROWS - low) * ROWS);
}

// Four elements of a token's query (0), key (1) or value (2), zeros beyond the head.
fn of_qkv(place: Place, row: u32, part: u32, vector: u32) -> vec4<f32> {
  let dim = u32(a.dim);
  let at = (place.start + row) * 3u * u32(a.heads) * dim + (part * u32(a.heads) + place.head) * dim + 4u * vector;
  var v = vec4<f32>();
  if (row < place.length) {
    for (var i = 0u; i < 4u; i++) {
      if (4u * vector + i < dim) { v[i] = f32(qkv[at + i]); }
    }
  }
  return v;
}

// Keys and values from row `first` on into the tiles, of which nobody reads any more.
fn stage_keys(thread: u32, place: Place, first: u32) {
  workgroupBarrier();
  for (var i = thread; i < STREAM * VECTORS; i += ROWS) {
    one_tile[i] = of_qkv(place, first + i / VECTORS, 1u, i % VECTORS);
    other_tile[i] = of_qkv(place, first + i / VECTORS, 2u, i % VECTORS);
  }
  workgroupBarrier();
}

// The first element of a token's head in out and dout.
fn of_out(place: Place, row: u32) -> u32 {
  return ((place.start + row) * u32(a.heads) + place.head) * u32(a.dim);
}

#if kernel attention_$D_$T
#else
fn of_dout(place: Place, row: u32, vector: u32) -> vec4<f32> {
  let at = of_out(place, row) + 4u * vector;
  var v = vec4<f32>();
  if (row < place.length) {
    for (var i = 0u; i < 4u; i++) {
      if (4u * vector + i < u32(a.dim)) { v[i] = f32(dout[at + i]); }
    }
  }
  return v;
}

// Queries and their outputs' gradients, in the same way.
fn stage_queries(thread: u32, place: Place, first: u32) {
  workgroupBarrier();
  for (var i = thread; i < STREAM * VECTORS; i += ROWS) {
    one_tile[i] = of_qkv(place, first + i / VECTORS, 0u, i % VECTORS);
    other_tile[i] = of_dout(place, first + i / VECTORS, i % VECTORS);
  }
  workgroupBarrier();
}

fn contribute(place: Place, row: u32, part: u32, vector: u32, v: vec4<f32>) {
  let dim = u32(a.dim);
  let at = (place.start + row) * 3u * u32(a.heads) * dim + (part * u32(a.heads) + place.head) * dim + 4u * vector;
  for (var i = 0u; i < 4u && 4u * vector + i < dim; i++) {
    dqkv[at + i] = $T(select(v[i], f32(dqkv[at + i]) + v[i], a.add != 0));
  }
}
#end

#kernel attention_$D_$T AttentionArguments ROWS
#buffer qkv array<$T>
#buffer offsets array<i32>
#buffer out array<$T>
#buffer lse array<f32>
  let place = find_place(block.x);
  if (place.row >= place.length) { return; }
  let row = place.row + thread;
  var q: array<vec4<f32>, VECTORS>;
  var o: array<vec4<f32>, VECTORS>;
  for (var d = 0u; d < VECTORS; d++) { q[d] = of_qkv(place, row, 0u, d) * a.scale; }
  var most = LOWEST;
  var sum = 0.0;
  let end = select(place.length, min(place.length, place.row + ROWS), a.causal != 0);
  let visible = select(place.length, row + 1u, a.causal != 0);
  for (var first = 0u; first < end; first += STREAM) {
    stage_keys(thread, place, first);
    let count = min(STREAM, place.length - first);
    for (var j = 0u; j < count; j++) {
      turn_to(thread, j);
      var dot = vec4<f32>();
      for (var d = 0u; d < VECTORS; d++) { dot = fma(q[d], one_at(j, d), dot); }
      let s = (dot.x + dot.y) + (dot.z + dot.w);
      if (first + j < visible) {
        if (s > most) {
          let shrink = exponential(most - s);
          sum *= shrink;
          for (var d = 0u; d < VECTORS; d++) { o[d] *= shrink; }
          most = s;
        }
        // NaN stays.
        let p = exponential(s - most);
        sum += p;
        for (var d = 0u; d < VECTORS; d++) { o[d] = fma(vec4<f32>(p), other_at(j, d), o[d]); }
      }
    }
  }
  if (row < place.length) {
    let at = of_out(place, row);
    for (var d = 0u; d < VECTORS; d++) {
      for (var i = 0u; i < 4u && 4u * d + i < u32(a.dim); i++) { out[at + 4u * d + i] = $T(o[d][i] / sum); }
    }
    lse[place.head * u32(a.total) + place.start + row] = most + logarithm(sum);
  }
#end

#kernel attention_backward_queries_$D_$T AttentionBackwardArguments ROWS
#buffer dout array<$T>
#buffer qkv array<$T>
#buffer offsets array<i32>
#buffer out array<$T>
#buffer lse array<f32>
#buffer delta array<f32>
#buffer dqkv array<$T>
  let place = find_place(block.x);
  if (place.row >= place.length) { return; }
  let row = place.row + thread;
  let at = place.head * u32(a.total) + place.start + min(row, place.length - 1u);
  var q: array<vec4<f32>, VECTORS>;
  var g: array<vec4<f32>, VECTORS>;
  var dq: array<vec4<f32>, VECTORS>;
  var along = 0.0;
  for (var d = 0u; d < VECTORS; d++) {
    q[d] = of_qkv(place, row, 0u, d) * a.scale;
    g[d] = of_dout(place, row, d);
    if (row < place.length) {
      let first = of_out(place, row) + 4u * d;
      for (var i = 0u; i < 4u && 4u * d + i < u32(a.dim); i++) { along += g[d][i] * f32(out[first + i]); }
    }
  }
  if (row < place.length) { delta[at] = along; }
  let own = lse[at];
  let end = select(place.length, min(place.length, place.row + ROWS), a.causal != 0);
  let visible = select(place.length, row + 1u, a.causal != 0);
  for (var first = 0u; first < end; first += STREAM) {
    stage_keys(thread, place, first);
    let count = min(STREAM, place.length - first);
    for (var j = 0u; j < count; j++) {
      turn_to(thread, j);
      if (first + j < visible) {
        var dot = vec4<f32>();
        var upstream = vec4<f32>();
        for (var d = 0u; d < VECTORS; d++) {
          dot = fma(q[d], one_at(j, d), dot);
          upstream = fma(g[d], other_at(j, d), upstream);
        }
        let p = exponential((dot.x + dot.y) + (dot.z + dot.w) - own);
        let ds = p * ((upstream.x + upstream.y) + (upstream.z + upstream.w) - along) * a.scale;
        for (var d = 0u; d < VECTORS; d++) { dq[d] = fma(vec4<f32>(ds), one_at(j, d), dq[d]); }
      }
    }
  }
  if (row < place.length) {
    for (var d = 0u; d < VECTORS; d++) { contribute(place, row, 0u, d, dq[d]); }
  }
#end

#kernel attention_backward_keys_$D_$T AttentionBackwardArguments ROWS
#buffer dout array<$T>
#buffer qkv array<$T>
#buffer offsets array<i32>
#buffer lse array<f32>
#buffer delta array<f32>
#buffer dqkv array<$T>
  let place = find_place(block.x);
  if (place.row >= place.length) { return; }
  let row = place.row + thread;
  let base = place.head * u32(a.total) + place.start;
  // Queries from the first that sees the first of these keys.
  let begin = select(0u, place.row / STREAM * STREAM, a.causal != 0);
  let seen = select(0u, row, a.causal != 0);
  // Once for dV and once for dK: what both need at a time would be more than an invocation's registers.
  var k: array<vec4<f32>, VECTORS>;
  var sum: array<vec4<f32>, VECTORS>;
  for (var d = 0u; d < VECTORS; d++) { k[d] = of_qkv(place, row, 1u, d) * a.scale; }
  for (var first = begin; first < place.length; first += STREAM) {
    stage_queries(thread, place, first);
    let count = min(STREAM, place.length - first);
    for (var j = 0u; j < count; j++) {
      turn_to(thread, j);
      if (first + j >= seen) {
        var dot = vec4<f32>();
        for (var d = 0u; d < VECTORS; d++) { dot = fma(k[d], one_at(j, d), dot); }
        let p = exponential((dot.x + dot.y) + (dot.z + dot.w) - lse[base + first + j]);
        for (var d = 0u; d < VECTORS; d++) { sum[d] = fma(vec4<f32>(p), other_at(j, d), sum[d]); }
      }
    }
  }
  if (row < place.length) {
    for (var d = 0u; d < VECTORS; d++) { contribute(place, row, 2u, d, sum[d]); }
  }
  var v: array<vec4<f32>, VECTORS>;
  for (var d = 0u; d < VECTORS; d++) {
    v[d] = of_qkv(place, row, 2u, d);
    sum[d] = vec4<f32>();
  }
  for (var first = begin; first < place.length; first += STREAM) {
    stage_queries(thread, place, first);
    let count = min(STREAM, place.length - first);
    for (var j = 0u; j < count; j++) {
      turn_to(thread, j);
      if (first + j >= seen) {
        var dot = vec4<f32>();
        var upstream = vec4<f32>();
        for (var d = 0u; d < VECTORS; d++) {
          dot = fma(k[d], one_at(j, d), dot);
          upstream = fma(v[d], other_at(j, d), upstream);
        }
        let p = exponential((dot.x + dot.y) + (dot.z + dot.w) - lse[base + first + j]);
        let ds = p * ((upstream.x + upstream.y) + (upstream.z + upstream.w) - delta[base + first + j]) * a.scale;
        for (var d = 0u; d < VECTORS; d++) { sum[d] = fma(vec4<f32>(ds), one_at(j, d), sum[d]); }
      }
    }
  }
  if (row < place.length) {
    for (var d = 0u; d < VECTORS; d++) { contribute(place, row, 1u, d, sum[d]); }
  }
#end
