// Multiply-adds in registers, and nothing else: the most of them that an adapter does.

// 16 independent chains of vectors of four an invocation, `rounds` long.
#kernel multiply_adds_$T CeilingArguments 256
#buffer out array<f32>
  let x = vec4<$T>($T(a.factor));
  let y = vec4<$T>($T(a.addend));
#each K 0 1 2 3 4 5 6 7 8 9 a b c d e f
  var v$K = vec4<$T>($T(thread));
#end
  for (var round = 0u; round < a.rounds; round++) {
#each K 0 1 2 3 4 5 6 7 8 9 a b c d e f
    v$K = fma(v$K, x, y);
#end
  }
  // So that nothing can be left out.
  var sum = vec4<$T>();
#each K 0 1 2 3 4 5 6 7 8 9 a b c d e f
  sum += v$K;
#end
  out[block.x * 256u + thread] = f32(sum.x + sum.y + sum.z + sum.w);
#end
