// D = act(A B + bias) + C, A m × k and B k × n as stored (n) or transposed (t), accumulated in f32. What goes into the
// activation may be kept as well.
//
// A workgroup of 16 × 16 invocations makes a tile of $M × $M of D, each invocation 8 × 8 elements of it (4 × 4 of a tile
// of 64): in quarters, so that neighbours read neighbouring vectors. The tile's rows of A and columns of B go by DEPTH at
// a time through workgroup memory: two buffers, so that one barrier a step is enough, and what comes next is on its way
// in registers meanwhile. Of 128 × 128 × 8: 1024 multiply-adds an invocation for 32 reads of 16 bytes.
//
// On a processor ($M is `lanes`) a load costs dozens of multiply-adds, all memory lies in caches, and the eight lanes of a
// subgroup read one another's registers cheaply. There a subgroup makes 16 rows of 64 columns, an invocation 8 columns of
// them. For four steps of the sum it loads 10 vectors, 8 of B and 2 of A, which with those of the other lanes are 16 × 4
// elements; it makes 512 multiply-adds of them.
//
// Where D has few tiles and the sums are long, several workgroups share them: the one at block.z takes `each` steps, and
// writes them to the part of that number, m × n, which `product_sum` adds up.
#include activation
#values A n t
#values B n t
#values V wide narrow
#values M 64 128 lanes

#if kernel product_$A$B_$V_$M_$S_$T
#if V == wide
#if S == f32
const LEFT_BYTES = 16u;
#else
const LEFT_BYTES = 8u;
#end
#if T == f32
const OUT_BYTES = 16u;
#else
const OUT_BYTES = 8u;
#end
#else
#if S == f32
const LEFT_BYTES = 4u;
#else
const LEFT_BYTES = 2u;
#end
#if T == f32
const OUT_BYTES = 4u;
#else
const OUT_BYTES = 2u;
#end
#end

// Four elements of A or B that are next to each other in memory, with zeros beyond `inner` elements of `outer` lines.
fn fetch_left(line: u32, at: u32, outer: u32, inner: u32) -> vec4<f32> {
  var v = vec4<f32>();
  let base = a.left / LEFT_BYTES;
#if V == wide
  if (line < outer && at < inner) { v = vec4<f32>(left[base + (line * a.left_stride + at) / 4u]); }
#else
  if (line < outer) {
    let first = base + line * a.left_stride + at;
    if (at < inner) { v.x = f32(left[first]); }
    if (at + 1u < inner) { v.y = f32(left[first + 1u]); }
    if (at + 2u < inner) { v.z = f32(left[first + 2u]); }
    if (at + 3u < inner) { v.w = f32(left[first + 3u]); }
  }
#end
  return v;
}

fn fetch_right(line: u32, at: u32, outer: u32, inner: u32) -> vec4<f32> {
  var v = vec4<f32>();
  let base = a.right / LEFT_BYTES;
#if V == wide
  if (line < outer && at < inner) { v = vec4<f32>(right[base + (line * a.right_stride + at) / 4u]); }
#else
  if (line < outer) {
    let first = base + line * a.right_stride + at;
    if (at < inner) { v.x = f32(right[first]); }
    if (at + 1u < inner) { v.y = f32(right[first + 1u]); }
    if (at + 2u < inner) { v.z = f32(right[first + 2u]); }
    if (at + 3u < inner) { v.w = f32(right[first + 3u]); }
  }
#end
  return v;
}

// Four neighbours of D, in the part of the sums that begins `part` elements into it.
fn finish(part: u32, row: u32, column: u32, sum: vec4<f32>) {
  if (row >= a.m || column >= a.n) { return; }
  var v = sum;
#if V == wide
  let at = (part + row * a.out_stride + column) / 4u;
  let to = a.out / OUT_BYTES + at;
  if (a.bias != NONE) { v += vec4<f32>(bias[a.bias / OUT_BYTES + column / 4u]); }
  if (a.activation != 0u) {
    // Of what is kept, so that it can be made again from it.
    let kept = vec4<$T>(v);
    if (a.pre != NONE) { pre[a.pre / OUT_BYTES + at] = kept; }
    let x = vec4<f32>(kept);
    for (var i = 0u; i < 4u; i++) { v[i] = activation(a.activation, x[i]); }
  }
  if (a.addend != NONE) { v += vec4<f32>(addend[a.addend / OUT_BYTES + (row * a.addend_stride + column) / 4u]); }
  if (a.add != 0) { v += vec4<f32>(out[to]); }
  out[to] = vec4<$T>(v);
#else
  for (var i = 0u; i < 4u && column + i < a.n; i++) {
    let at = part + row * a.out_stride + column + i;
    let to = a.out / OUT_BYTES + at;
    var x = v[i];
    if (a.bias != NONE) { x += f32(bias[a.bias / OUT_BYTES + column + i]); }
    if (a.activation != 0u) {
      let kept = $T(x);
      if (a.pre != NONE) { pre[a.pre / OUT_BYTES + at] = kept; }
      x = activation(a.activation, f32(kept));
    }
    if (a.addend != NONE) { x += f32(addend[a.addend / OUT_BYTES + row * a.addend_stride + column + i]); }
    if (a.add != 0) { x += f32(out[to]); }
    out[to] = $T(x);
  }
#end
}

#if M == lanes
const THREADS = 64u;
#else
const THREADS = 256u;
#if M == 128
const DEPTH = 8u;
#else
const DEPTH = 16u;
#end

// Lines of M elements, DEPTH of them a buffer.
var<workgroup> left_tile: array<vec4<f32>, 512>;
var<workgroup> right_tile: array<vec4<f32>, 512>;
const LINE = $Mu / 4u;

// An invocation's four elements of the tile whose first row (column) is `first`, at step `depth` of the sum.
fn next_left(thread: u32, first: u32, depth: u32) -> vec4<f32> {
#if A == n
  return fetch_left(first + thread / (DEPTH / 4u), depth + thread % (DEPTH / 4u) * 4u, a.m, a.k);
#else
  return fetch_left(depth + thread / LINE, first + thread % LINE * 4u, a.k, a.m);
#end
}

fn next_right(thread: u32, first: u32, depth: u32) -> vec4<f32> {
#if B == t
  return fetch_right(first + thread / (DEPTH / 4u), depth + thread % (DEPTH / 4u) * 4u, a.n, a.k);
#else
  return fetch_right(depth + thread / LINE, first + thread % LINE * 4u, a.k, a.n);
#end
}

fn stage_left(thread: u32, buffer: u32, v: vec4<f32>) {
#if A == n
  let row = thread / (DEPTH / 4u);
  let at = buffer + thread % (DEPTH / 4u) * 4u * LINE + row / 4u;
  left_tile[at][row % 4u] = v.x;
  left_tile[at + LINE][row % 4u] = v.y;
  left_tile[at + 2u * LINE][row % 4u] = v.z;
  left_tile[at + 3u * LINE][row % 4u] = v.w;
#else
  left_tile[buffer + thread] = v;
#end
}

fn stage_right(thread: u32, buffer: u32, v: vec4<f32>) {
#if B == t
  let column = thread / (DEPTH / 4u);
  let at = buffer + thread % (DEPTH / 4u) * 4u * LINE + column / 4u;
  right_tile[at][column % 4u] = v.x;
  right_tile[at + LINE][column % 4u] = v.y;
  right_tile[at + 2u * LINE][column % 4u] = v.z;
  right_tile[at + 3u * LINE][column % 4u] = v.w;
#else
  right_tile[buffer + thread] = v;
#end
}
#end
#end

#kernel product_$A$B_$V_$M_$S_$T ProductArguments THREADS
#if V == wide
#buffer left array<vec4<$S>>
#buffer right array<vec4<$S>>
#buffer addend array<vec4<$T>>
#buffer out array<vec4<$T>>
#buffer bias array<vec4<$T>>
#buffer pre array<vec4<$T>>
#else
#buffer left array<$S>
#buffer right array<$S>
#buffer addend array<$T>
#buffer out array<$T>
#buffer bias array<$T>
#buffer pre array<$T>
#end
  let start = block.z * a.each;
  let end = min(start + a.each, a.k);
  let part = block.z * a.m * a.n;
#if M == lanes
  let lane = thread % 8u;
  let row = block.y * 128u + thread / 8u * 16u;
  let column = block.x * 64u + lane * 8u;
#each R 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
  var c$R = vec4<f32>();
  var d$R = vec4<f32>();
#end
  for (var depth = start; depth < end; depth += 4u) {
    // Rows 0 to 7, rows 8 to 15: of one row four steps, or of one step four rows.
#if A == n
    let l0 = fetch_left(row + lane, depth, a.m, a.k);
    let l1 = fetch_left(row + 8u + lane, depth, a.m, a.k);
#else
    let l0 = fetch_left(depth + lane % 4u, row + lane / 4u * 4u, a.k, a.m);
    let l1 = fetch_left(depth + lane % 4u, row + 8u + lane / 4u * 4u, a.k, a.m);
#end
#if B == n
#each K 0 1 2 3
    let p$K = fetch_right(depth + $Ku, column, a.k, a.n);
    let q$K = fetch_right(depth + $Ku, column + 4u, a.k, a.n);
#end
#else
#each J 0 1 2 3 4 5 6 7
    let t$J = fetch_right(column + $Ju, depth, a.n, a.k);
#end
#each K 0 1 2 3
    let p$K = vec4<f32>(t0[$K], t1[$K], t2[$K], t3[$K]);
    let q$K = vec4<f32>(t4[$K], t5[$K], t6[$K], t7[$K]);
#end
#end
#each K 0 1 2 3
#each R 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
#if A == n
    let a$K_$R = subgroupBroadcast(select(l0, l1, $R > 7)[$K], $Ru % 8u);
#else
    let a$K_$R = subgroupBroadcast(select(l0, l1, $R > 7)[$Ru % 4u], $Ru % 8u / 4u * 4u + $Ku);
#end
    c$R = fma(vec4<f32>(a$K_$R), p$K, c$R);
    d$R = fma(vec4<f32>(a$K_$R), q$K, d$R);
#end
#end
  }
#each R 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
  finish(part, row + $Ru, column, c$R);
  finish(part, row + $Ru, column + 4u, d$R);
#end
#else
  let first_row = block.y * $Mu;
  let first_column = block.x * $Mu;
  let x = thread % 16u;
  let y = thread / 16u;
  var c0 = vec4<f32>();
  var c1 = vec4<f32>();
  var c2 = vec4<f32>();
  var c3 = vec4<f32>();
#if M == 128
  var d0 = vec4<f32>();
  var d1 = vec4<f32>();
  var d2 = vec4<f32>();
  var d3 = vec4<f32>();
  var e0 = vec4<f32>();
  var e1 = vec4<f32>();
  var e2 = vec4<f32>();
  var e3 = vec4<f32>();
  var f0 = vec4<f32>();
  var f1 = vec4<f32>();
  var f2 = vec4<f32>();
  var f3 = vec4<f32>();
#end
  var buffer = 0u;
  stage_left(thread, buffer, next_left(thread, first_row, start));
  stage_right(thread, buffer, next_right(thread, first_column, start));
  for (var depth = start; depth < end; depth += DEPTH) {
    // What this step reads is there, and nobody reads what the next one replaces.
    workgroupBarrier();
    let more = depth + DEPTH;
    let l = next_left(thread, first_row, more);
    let r = next_right(thread, first_column, more);
    for (var step = 0u; step < DEPTH; step++) {
      let line = buffer + step * LINE;
      let p = left_tile[line + y];
      let q = right_tile[line + x];
      c0 = fma(vec4<f32>(p.x), q, c0);
      c1 = fma(vec4<f32>(p.y), q, c1);
      c2 = fma(vec4<f32>(p.z), q, c2);
      c3 = fma(vec4<f32>(p.w), q, c3);
#if M == 128
      let s = left_tile[line + 16u + y];
      let t = right_tile[line + 16u + x];
      d0 = fma(vec4<f32>(p.x), t, d0);
      d1 = fma(vec4<f32>(p.y), t, d1);
      d2 = fma(vec4<f32>(p.z), t, d2);
      d3 = fma(vec4<f32>(p.w), t, d3);
      e0 = fma(vec4<f32>(s.x), q, e0);
      e1 = fma(vec4<f32>(s.y), q, e1);
      e2 = fma(vec4<f32>(s.z), q, e2);
      e3 = fma(vec4<f32>(s.w), q, e3);
      f0 = fma(vec4<f32>(s.x), t, f0);
      f1 = fma(vec4<f32>(s.y), t, f1);
      f2 = fma(vec4<f32>(s.z), t, f2);
      f3 = fma(vec4<f32>(s.w), t, f3);
#end
    }
    buffer = 256u - buffer;
    if (more < end) {
      stage_left(thread, buffer, l);
      stage_right(thread, buffer, r);
    }
  }
  let row = first_row + 4u * y;
  let column = first_column + 4u * x;
  finish(part, row, column, c0);
  finish(part, row + 1u, column, c1);
  finish(part, row + 2u, column, c2);
  finish(part, row + 3u, column, c3);
#if M == 128
  finish(part, row, column + 64u, d0);
  finish(part, row + 1u, column + 64u, d1);
  finish(part, row + 2u, column + 64u, d2);
  finish(part, row + 3u, column + 64u, d3);
  finish(part, row + 64u, column, e0);
  finish(part, row + 65u, column, e1);
  finish(part, row + 66u, column, e2);
  finish(part, row + 67u, column, e3);
  finish(part, row + 64u, column + 64u, f0);
  finish(part, row + 65u, column + 64u, f1);
  finish(part, row + 66u, column + 64u, f2);
  finish(part, row + 67u, column + 64u, f3);
#end
#end
#end

// D += the parts, in their order, or D = their sum.
#kernel product_sum_f32 ProductSumArguments 256
#buffer parts array<f32>
#buffer out array<f32>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    var sum = 0.0;
    for (var part = 0u; part < a.count; part++) { sum += parts[part * a.n + i]; }
    let to = a.out / 4u + i;
    if (a.add != 0) { sum += out[to]; }
    out[to] = sum;
  }
#end
