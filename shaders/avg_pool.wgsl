// Means over tiles of pixels, and each pixel's share of their gradients.

// An element of y, and the same channel of the first pixel of its tile in x.
struct Tile { y: u32, x: u32 }

fn tile(i: u32) -> Tile {
  let channels = u32(a.channels);
  let pixel = i / channels;
  let corner = (pixel / u32(a.width) * u32(a.size) * u32(a.width) + pixel % u32(a.width)) * u32(a.size);
  return Tile(i, corner * channels + i % channels);
}

// From a tile's first pixel to the one in row u, column v.
fn step_to(u: u32, v: u32) -> u32 { return (u * u32(a.width) * u32(a.size) + v) * u32(a.channels); }

#kernel avg_pool_$T AvgPoolArguments 256
#buffer source array<$T>
#buffer to array<$T>
  let n = u32(a.rows) * u32(a.width) * u32(a.channels);
  let size = u32(a.size);
  for (var i = block.x * 256u + thread; i < n; i += grid.x * 256u) {
    let at = tile(i);
    var sum = 0.0;
    for (var u = 0u; u < size; u++) {
      for (var v = 0u; v < size; v++) { sum += f32(source[at.x + step_to(u, v)]); }
    }
    to[at.y] = $T(sum * (1.0 / f32(size * size)));
  }
#end

#kernel avg_pool_backward_$T AvgPoolArguments 256
#buffer source array<$T>
#buffer to array<$T>
  let n = u32(a.rows) * u32(a.width) * u32(a.channels);
  let size = u32(a.size);
  for (var i = block.x * 256u + thread; i < n; i += grid.x * 256u) {
    let at = tile(i);
    let share = f32(source[at.y]) * (1.0 / f32(size * size));
    for (var u = 0u; u < size; u++) {
      for (var v = 0u; v < size; v++) {
        let x = at.x + step_to(u, v);
        to[x] = $T(select(share, f32(to[x]) + share, a.add != 0));
      }
    }
  }
#end
