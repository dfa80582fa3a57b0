// Pixels to values: y = (pixel/255 − mean) / std by channel, of which there are three.
#include pairs

// x / y rounded to nearest, so that values are those of every other backend: WGSL's own quotient may be 2.5 units off.
fn quotient(x: f32, y: f32) -> f32 {
  let q = opaque(x / y);
  let p = two_product(q, y);
  return q + (opaque(x - p.x) - p.y) / y;
}

#kernel images_$T ImagesArguments 256
#buffer pixels array<u32>
#buffer y array<$T>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    let pixel = f32((pixels[i / 4u] >> (i % 4u * 8u)) & 255u);
    let channel = i % 3u;
    let mean = select(select(a.mean_2, a.mean_1, channel == 1u), a.mean_0, channel == 0u);
    let deviation = select(select(a.std_2, a.std_1, channel == 1u), a.std_0, channel == 0u);
    y[i] = $T(quotient(quotient(pixel, 255.0) - mean, deviation));
  }
#end
