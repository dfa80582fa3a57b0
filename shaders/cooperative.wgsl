// The product of `product.wgsl` by cooperative matrices (tensor cores), for f16: m, n and k are multiples of 16.
//
// A workgroup of four subgroups makes a tile of 64 × 64 of D, each subgroup 32 × 32 of it in four matrices of 16 × 16, which
// it multiplies straight from memory: neighbours read the same lines at the same time, which a cache holds. The sums go
// through workgroup memory, so that invocations can finish them one by one.
#include activation
#values A n t
#values B n t

var<workgroup> tile: array<f32, 4096>;

#if T == f32
const OUT_BYTES = 4u;
#else
const OUT_BYTES = 2u;
#end

#kernel cooperative_$A$B_$T ProductArguments 4*$L
#buffer left array<f16>
#buffer right array<f16>
#buffer addend array<$T>
#buffer out array<$T>
#buffer bias array<$T>
#buffer pre array<$T>
  let quarter = thread / $Lu;
  let first_row = block.y * 64u;
  let first_column = block.x * 64u;
  // Beyond the end the last rows and columns are made again, and not stored.
  let row_0 = min(first_row + quarter / 2u * 32u, a.m - 16u);
  let row_1 = min(row_0 + 16u, a.m - 16u);
  let column_0 = min(first_column + quarter % 2u * 32u, a.n - 16u);
  let column_1 = min(column_0 + 16u, a.n - 16u);
  let left_base = a.left / 2u;
  let right_base = a.right / 2u;
#each I 0 1
#if A == n
  var left_at_$I = left_base + row_$I * a.left_stride;
#else
  var left_at_$I = left_base + row_$I;
#end
#if B == n
  var right_at_$I = right_base + column_$I;
#else
  var right_at_$I = right_base + column_$I * a.right_stride;
#end
#end
  var c_00 = coop_mat16x16<f32, C>();
  var c_01 = coop_mat16x16<f32, C>();
  var c_10 = coop_mat16x16<f32, C>();
  var c_11 = coop_mat16x16<f32, C>();
  for (var depth = 0u; depth < a.k; depth += 16u) {
#each I 0 1
    // As stored, rows follow each other (load T), or columns do.
#if A == n
    let l_$I = coopLoadT<coop_mat16x16<f16, A>>(&left[left_at_$I], a.left_stride);
    left_at_$I += 16u;
#else
    let l_$I = coopLoad<coop_mat16x16<f16, A>>(&left[left_at_$I], a.left_stride);
    left_at_$I += 16u * a.left_stride;
#end
#if B == n
    let r_$I = coopLoadT<coop_mat16x16<f16, B>>(&right[right_at_$I], a.right_stride);
    right_at_$I += 16u * a.right_stride;
#else
    let r_$I = coopLoad<coop_mat16x16<f16, B>>(&right[right_at_$I], a.right_stride);
    right_at_$I += 16u;
#end
#end
    c_00 = coopMultiplyAdd(l_0, r_0, c_00);
    c_01 = coopMultiplyAdd(l_0, r_1, c_01);
    c_10 = coopMultiplyAdd(l_1, r_0, c_10);
    c_11 = coopMultiplyAdd(l_1, r_1, c_11);
  }
  let corner = quarter / 2u * 2048u + quarter % 2u * 32u;
  coopStoreT(c_00, &tile[corner], 64u);
  coopStoreT(c_01, &tile[corner + 16u], 64u);
  coopStoreT(c_10, &tile[corner + 1024u], 64u);
  coopStoreT(c_11, &tile[corner + 1040u], 64u);
  workgroupBarrier();
  for (var i = thread; i < 4096u; i += INVOCATIONS) {
    let row = first_row + i / 64u;
    let column = first_column + i % 64u;
    if (row >= a.m || column >= a.n) { continue; }
    let at = row * a.out_stride + column;
    let to = a.out / OUT_BYTES + at;
    var x = tile[i];
    if (a.bias != NONE) { x += f32(bias[a.bias / OUT_BYTES + column]); }
    if (a.activation != 0u) {
      let kept = $T(x);
      if (a.pre != NONE) { pre[a.pre / OUT_BYTES + at] = kept; }
      x = activation(a.activation, f32(kept));
    }
    if (a.addend != NONE) { x += f32(addend[a.addend / OUT_BYTES + row * a.addend_stride + column]); }
    if (a.add != 0) { x += f32(out[to]); }
    out[to] = $T(x);
  }
#end
