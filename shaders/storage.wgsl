// y = x in another element type, and sum += x.

#kernel cast_$S_$T MoveArguments 256
#buffer source array<$S>
#buffer to array<$T>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) { to[i] = $T(source[i]); }
#end

#kernel accumulate_$S_$T MoveArguments 256
#buffer source array<$S>
#buffer to array<$T>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) { to[i] = $T(f32(to[i]) + f32(source[i])); }
#end
