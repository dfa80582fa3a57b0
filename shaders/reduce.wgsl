// Sums over invocations in a fixed order. Every invocation of the workgroup takes part.
#include common

var<workgroup> reduce_scratch: array<f32, 256>;

// Σ v over 32 neighbours, for each of them.
fn sum_of_32(thread: u32, v: f32) -> f32 {
#if L == 64
  var total = v;
  total += subgroupShuffleXor(total, 16u);
  total += subgroupShuffleXor(total, 8u);
  total += subgroupShuffleXor(total, 4u);
  total += subgroupShuffleXor(total, 2u);
  total += subgroupShuffleXor(total, 1u);
  return total;
#end
#if L == 32
  return subgroupAdd(v);
#end
#each S 8 16
#if L == $S
  let part = subgroupAdd(v);
  if (thread % $Su == 0u) { reduce_scratch[thread / $Su] = part; }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < 32u / $Su; i++) { total += reduce_scratch[thread / 32u * (32u / $Su) + i]; }
  workgroupBarrier();
  return total;
#end
#end
#if L == 0
  reduce_scratch[thread] = v;
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < 32u; i++) { total += reduce_scratch[thread / 32u * 32u + i]; }
  workgroupBarrier();
  return total;
#end
}

// Σ v over a workgroup of 256, for each invocation.
fn sum_of_256(thread: u32, v: f32) -> f32 {
  let part = sum_of_32(thread, v);
  if (thread % 32u == 0u) { reduce_scratch[thread / 32u] = part; }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < 8u; i++) { total += reduce_scratch[i]; }
  workgroupBarrier();
  return total;
}
